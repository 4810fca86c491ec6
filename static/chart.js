// @ts-check
/**
 * Charts on canvas: lines, steps, bands, marks and a crosshair; small sparklines; histograms.
 * Lines are reduced per pixel by minimum and maximum, so peaks survive. Colours are the custom
 * properties of the style sheet, read through a probe element because they depend on the theme.
 */

import { clockTime } from "./format.js";

const FONT = '12px ui-monospace, Menlo, Consolas, monospace';
const AXIS_PX = 18;
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800,
  86400];

const cache = new Map();
let probe = null;

/** Resolved colour of a custom property. @param {string} name such as "--gain" */
export function colour(name) {
  if (!cache.has(name)) {
    if (!probe) {
      probe = document.createElement("i");
      probe.hidden = true;
      document.body.append(probe);
    }
    probe.style.color = `var(${name})`;
    cache.set(name, getComputedStyle(probe).color);
  }
  return cache.get(name);
}

/** Forget resolved colours; call when the theme changes. */
export const forgetColours = () => cache.clear();

/** Fit a canvas to its box and the screen's density; answers the context in CSS pixels, or null. */
function fitted(canvas, width, height) {
  if (width < 8 || height < 8) return null;
  const dense = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(height * dense);
  }
  const g = canvas.getContext("2d");
  g.setTransform(dense, 0, 0, dense, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = FONT;
  return g;
}

/** A pale area inside these points. */
function shade(g, name, alpha, points) {
  g.globalAlpha = alpha;
  g.fillStyle = colour(name);
  g.beginPath();
  for (const { x, y } of points) g.lineTo(x, y);
  g.fill();
  g.globalAlpha = 1;
}

/** Up to `most` round values between low and high. */
function niceTicks(low, high, most) {
  const raw = (high - low) / Math.max(1, most);
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * unit).find((s) => s >= raw) ?? raw;
  const ticks = [];
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) ticks.push(v);
  return ticks;
}

/**
 * Rows have `at_ms`; `y`, `low` and `high` read a row; `minSpan` is the least height of the axis.
 * @typedef {{rows: any[], y: Function, colour: string, step?: boolean, fill?: boolean,
 *   width?: number, dash?: number[]}} Line
 * @typedef {{from: number, to: number, lines: Line[], format: Function, minSpan: number,
 *   limit?: number, marks?: any[], bands?: any[]}} Picture
 */

/** One chart in `box`; `read(at)` is told the moment under the crosshair, or null. */
export class Chart {
  constructor(box, read) {
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    box.append(this.canvas);
    this.read = read;
    this.cross = null;
    this.picture = null;
    this.size = [0, 0];
    new ResizeObserver(([entry]) => {
      this.size = [entry.contentRect.width, entry.contentRect.height];
      this.#paint();
    }).observe(box);
    this.canvas.addEventListener("pointermove", (e) => this.#hover(e.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.#hover(null));
  }

  /** @param {Picture} picture @param {string} summary text for those who cannot see it */
  draw(picture, summary) {
    this.picture = picture;
    if (this.summary !== summary) this.canvas.setAttribute("aria-label", (this.summary = summary));
    this.#paint();
  }

  #hover(x) {
    this.cross = x;
    const p = this.picture;
    this.#paint();
    if (p) this.read(x === null || x > this.plot ? null : p.from
      + (x / this.plot) * (p.to - p.from));
  }

  #paint() {
    const p = this.picture;
    const g = p && fitted(this.canvas, this.size[0], this.size[1]);
    if (!g) return;
    const [low, high] = this.#range(p);
    const ticks = niceTicks(low, high, Math.max(2, Math.floor((this.size[1] - AXIS_PX) / 28)));
    const labels = ticks.map(p.format);
    const axis = Math.max(...labels.map((t) => g.measureText(t).width), 30) + 8;
    this.plot = this.size[0] - axis;
    this.floor = this.size[1] - AXIS_PX;
    this.x = (at) => ((at - p.from) / (p.to - p.from)) * this.plot;
    this.y = (v) => 6 + (1 - (v - low) / (high - low)) * (this.floor - 12);
    this.#axes(g, p, ticks, labels);
    g.save();
    g.beginPath();
    g.rect(0, 0, this.plot, this.floor);
    g.clip();
    for (const band of p.bands ?? []) this.#band(g, band);
    const limit = this.y(p.limit);
    if (p.limit !== undefined) this.#rule(g, "--loss", [4, 4], 0, limit, this.plot, limit);
    for (const line of p.lines) this.#line(g, line);
    for (const mark of p.marks ?? []) this.#mark(g, mark);
    g.restore();
    if (this.cross !== null && this.cross <= this.plot) this.#crosshair(g, p);
  }

  #range(p) {
    let low = Infinity;
    let high = -Infinity;
    const see = (v) => {
      if (v === null || v === undefined) return;
      low = Math.min(low, v);
      high = Math.max(high, v);
    };
    const inside = (row) => row.at_ms >= p.from && row.at_ms <= p.to;
    for (const line of p.lines) for (const row of line.rows) if (inside(row)) see(line.y(row));
    for (const mark of p.marks ?? []) if (inside(mark)) see(mark.y);
    for (const band of p.bands
      ?? []) for (const row of band.rows) if (inside(row)) { see(band.low(row));
      see(band.high(row)); }
    if (low === Infinity) [low, high] = [0, 0];
    if (p.limit !== undefined && p.limit < high + (high - low || p.minSpan)) see(p.limit);
    const lack = Math.max(0, p.minSpan - (high - low)) / 2 + (high - low) * 0.06;
    return [low - lack, high + lack];
  }

  #axes(g, p, ticks, labels) {
    g.strokeStyle = colour("--line");
    g.fillStyle = colour("--muted");
    g.lineWidth = 1;
    g.textBaseline = "middle";
    g.textAlign = "right";
    g.beginPath();
    ticks.forEach((v, i) => {
      const y = Math.round(this.y(v)) + 0.5;
      g.moveTo(0, y);
      g.lineTo(this.plot, y);
      g.fillText(labels[i], this.size[0] - 4, y);
    });
    g.stroke();
    const span = (p.to - p.from) / 1000;
    const step = (STEPS_S.find((s) => (span / s) * 64 < this.plot) ?? 86400) * 1000;
    g.textBaseline = "alphabetic";
    g.textAlign = "center";
    for (let at = Math.ceil(p.from / step) * step; at < p.to; at += step) {
      const x = this.x(at);
      const text = clockTime(at).slice(0, step < 60000 ? 8 : 5);
      const half = g.measureText(text).width / 2;
      if (x > half && x < this.plot - half / 2) g.fillText(text, x, this.size[1] - 4);
    }
  }

  #band(g, band) {
    const rows = band.rows.filter((r) => band.low(r) !== null && band.high(r) !== null
      && band.low(r) !== undefined);
    if (rows.length < 2) return;
    const edge = (way) => rows.map((r) => ({ x: this.x(r.at_ms), y: this.y(way(r)) }));
    shade(g, band.colour, 0.16, [...edge(band.high), ...edge(band.low).reverse()]);
  }

  /** A dashed straight line on whole pixels. */
  #rule(g, name, dash, ...ends) {
    const [x0, y0, x1, y1] = ends.map((v) => Math.round(v) + 0.5);
    g.strokeStyle = colour(name);
    g.lineWidth = 1;
    g.setLineDash(dash);
    g.beginPath();
    g.moveTo(x0, y0);
    g.lineTo(x1, y1);
    g.stroke();
    g.setLineDash([]);
  }

  /** Points of a line, at most two per pixel column: its lowest and highest. */
  #reduced(line) {
    const out = [];
    let column = null;
    for (const row of line.rows) {
      const v = line.y(row);
      const x = this.x(row.at_ms);
      if (v === null || v === undefined) {
        column = null;
        out.push(null);
        continue;
      }
      if (x < -this.plot || x > this.plot * 1.01) continue;
      const y = this.y(v);
      if (column && Math.floor(x) === column.x0) {
        column.min.y = Math.min(column.min.y, y);
        column.max.y = Math.max(column.max.y, y);
        column.last.y = y;
        continue;
      }
      column = { x0: Math.floor(x), min: { x, y }, max: { x, y }, last: { x, y } };
      out.push(column.min, column.max, column.last);
    }
    return out;
  }

  #line(g, line) {
    const points = this.#reduced(line);
    g.strokeStyle = colour(line.colour);
    g.lineWidth = line.width ?? 1.5;
    g.setLineDash(line.dash ?? []);
    g.lineJoin = "round";
    let before = null;
    g.beginPath();
    for (const point of points) {
      if (!point) before = null;
      else if (!before) g.moveTo((before = point).x, point.y);
      else {
        if (line.step) g.lineTo(point.x, before.y);
        g.lineTo((before = point).x, point.y);
      }
    }
    g.stroke();
    g.setLineDash([]);
    if (!line.fill || points.length < 2) return;
    const solid = points.filter(Boolean);
    const foot = (point) => ({ x: point.x, y: this.floor });
    shade(g, line.colour, 0.1, [foot(solid[0]), ...solid, foot(solid.at(-1))]);
  }

  #mark(g, mark) {
    const x = this.x(mark.at_ms);
    const y = this.y(mark.y);
    const way = mark.up ? -1 : 1;
    g.fillStyle = colour(mark.colour);
    g.strokeStyle = colour("--panel");
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(x, y + way * 6);
    g.lineTo(x - 5, y - way * 4);
    g.lineTo(x + 5, y - way * 4);
    g.closePath();
    g.fill();
    g.stroke();
  }

  #crosshair(g, p) {
    const x = this.cross;
    this.#rule(g, "--muted", [2, 3], x, 0, x, this.floor);
    const text = clockTime(p.from + (this.cross / this.plot) * (p.to - p.from));
    const half = g.measureText(text).width / 2 + 4;
    const at = Math.max(half, Math.min(this.plot - half, x));
    g.fillStyle = colour("--panel");
    g.fillRect(at - half, this.floor + 1, half * 2, AXIS_PX);
    g.fillStyle = colour("--text");
    g.textAlign = "center";
    g.fillText(text, at, this.size[1] - 4);
  }
}

/** A sparkline of values; nulls are left out. */
export function spark(canvas, values, name) {
  const g = fitted(canvas, canvas.clientWidth, canvas.clientHeight);
  const seen = values.filter((v) => v !== null && v !== undefined);
  if (!g || seen.length < 2) return;
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  const points = seen.map((v, i) => ({
    x: (i / (seen.length - 1)) * (w - 3),
    y: high === low ? h / 2 : 2 + (1 - (v - low) / (high - low)) * (h - 4),
  }));
  shade(g, name, 0.12, [{ x: 0, y: h }, ...points, { x: w - 3, y: h }]);
  g.beginPath();
  for (const { x, y } of points) g.lineTo(x, y);
  g.strokeStyle = colour(name);
  g.lineWidth = 1.5;
  g.lineJoin = "round";
  g.stroke();
  g.beginPath();
  g.arc(w - 3, points.at(-1).y, 2, 0, 7);
  g.fill();
}

/** Bars of counts, losses left and gains right; `edges` are the values between the bars. */
export function histogram(canvas, counts, edges, format) {
  const [w, h] = [canvas.clientWidth, canvas.clientHeight];
  const g = fitted(canvas, w, h);
  if (!g) return;
  const top = Math.max(1, ...counts);
  const step = w / counts.length;
  counts.forEach((n, i) => {
    const middle = (edges[i] + edges[i + 1]) / 2;
    g.fillStyle = colour(middle < 0 ? "--loss" : middle > 0 ? "--gain" : "--muted");
    const tall = (n / top) * (h - 34);
    g.fillRect(i * step + 1, h - 18 - Math.max(1, tall), step - 2, Math.max(1, tall));
    g.fillStyle = colour("--muted");
    g.textAlign = "center";
    if (n) g.fillText(String(n), i * step + step / 2, h - 22 - tall);
  });
  g.fillStyle = colour("--muted");
  for (let i = 0; i < edges.length; i += Math.ceil(edges.length / 5)) {
    g.textAlign = i === 0 ? "left" : i === edges.length - 1 ? "right" : "center";
    g.fillText(format(edges[i]), i * step, h - 4);
  }
}
