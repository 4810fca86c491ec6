// @ts-check
/**
 * Price of the selected market: mid, fair, own quote band, fills as shapes. The page keeps the
 * history itself, from the moment it opened: coarse for every market, fine for the selected one.
 */

import { Chart } from "../chart.js";
import { $, choice, el, setHidden, setText } from "../dom.js";
import { cents, centsDiff, known, plain } from "../format.js";

const COARSE_KEEP = 200;
const FINE_KEEP = 2400;
const FINE_MS = 250;
export const RANGES = [["3600000", "1 h"], ["28800000", "8 h"], ["0", "all"]];
const FULL_CC = 10000;

/** ticker → {spacing, points}; when full, every second point goes and the spacing doubles. */
const histories = new Map();
const state = { range: "3600000", chart: null, cross: null };

/** Best own resting quote per side on the YES axis: [bid, ask], null where there is none. */
function quotes(view, ticker) {
  let [bid, ask] = [null, null];
  for (const order of view.rows("orders")) {
    if (order.ticker !== ticker || order.status !== "resting" || order.foreign) continue;
    if (order.side === "yes") bid = Math.max(bid ?? 0, order.price_cc);
    else ask = Math.min(ask ?? FULL_CC, FULL_CC - order.price_cc);
  }
  return [bid, ask];
}

/** Remember the prices of an applied message of topic markets. */
export function collectPrices(view, rows, atMs) {
  for (const row of rows) {
    const fine = row.ticker === view.selected;
    let history = histories.get(row.ticker);
    if (!history) histories.set(row.ticker, (history = { spacing: 1000, points: [] }));
    const last = history.points.at(-1);
    if (last && atMs - last.at_ms < (fine ? FINE_MS : history.spacing)) continue;
    const [own_bid_cc, own_ask_cc] = fine ? quotes(view, row.ticker) : [null, null];
    history.points.push({ at_ms: atMs, mid_cc: row.mid_cc, fair_cc: row.fair_cc, own_bid_cc,
      own_ask_cc });
    if (history.points.length <= (fine ? FINE_KEEP : COARSE_KEEP)) continue;
    history.points = history.points.filter((_, i) => i % 2 === 0);
    history.spacing *= 2;
  }
}

/** Start and end of the window; a young history fills the chart instead of a desert. */
export function windowOf(range, first, now) {
  const span = Number(range);
  const from = span ? Math.max(now - span, first) : first;
  return [Math.min(from, now - 60000), now];
}

function make(root, view) {
  const box = el("div.plot");
  $(root, "header").append(choice("Price range", RANGES, state.range, (value) => {
    state.range = value;
    view.repaint();
  }));
  root.append(box);
  state.chart = new Chart(box, (at) => {
    state.cross = at;
    readout(root, view);
  });
}

function readout(root, view) {
  const points = histories.get(view.selected)?.points ?? [];
  const at = state.cross;
  const point = at === null ? points.at(-1) : points.findLast((p) => p.at_ms <= at);
  setText($(root, ".readout"),
    point ? `${cents(point.mid_cc)} ╌ fair ${cents(point.fair_cc)}` : "");
}

export function renderPrice(root, view) {
  if (!state.chart) make(root, view);
  const now = view.nowMs();
  const points = histories.get(view.selected)?.points ?? [];
  readout(root, view);
  setHidden($(root, ".plot"), !points.length);
  if (now === null || !points.length) return;
  const [from, to] = windowOf(state.range, points[0].at_ms, now);
  const fills = view.rows("fills").filter((f) => f.ticker === view.selected && f.at_ms >= from);
  const last = points.at(-1);
  const tail = [...points, { ...last, at_ms: now }];
  const marks = fills.map((f) => ({ at_ms: f.at_ms, y: f.side === "yes" ? f.price_cc
    : FULL_CC - f.price_cc, up: f.side === "yes", colour: f.side === "yes" ? "--yes" : "--no" }));
  const change = known(last.mid_cc) && known(points[0].mid_cc)
    ? last.mid_cc - points[0].mid_cc : null;
  state.chart.draw({
    from, to, marks, minSpan: 200, format: (v) => cents(Math.round(v)),
    bands: [{ rows: tail, low: (p) => p.own_bid_cc, high: (p) => p.own_ask_cc, colour: "--sim" }],
    lines: [
      { colour: "--attention", rows: tail, y: (p) => p.fair_cc, step: true, width: 1,
        dash: [3, 3] },
      { colour: "--text", rows: tail, y: (p) => p.mid_cc, step: true },
    ],
  }, `${plain(view.selected)}: mid ${cents(last.mid_cc)} cents, change ${centsDiff(change)}, `
    + `fair ${cents(last.fair_cc)}, ${fills.length} own fills since the page opened`);
}
