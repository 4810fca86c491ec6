// @ts-check
/** Equity (with hold and random), drawdown or exposure over time. */

import { Chart } from "../chart.js";
import { $, choice, el, setHidden, setText } from "../dom.js";
import { dollars, known, money } from "../format.js";
import { getJson } from "../store.js";
import { drawdowns } from "./headline.js";
import { RANGES, windowOf } from "./price.js";

const KINDS = [["equity", "Equity"], ["drawdown", "Drawdown"], ["exposure", "Exposure"]];
/** Hold and random are told as our lead over them. */
const BESIDE = { plus: true, unit: "" };
const FETCH_AGAIN_MS = 30000;
const state = { range: "3600000", kind: "equity", chart: null, cross: null, all: [],
  askedAt: -Infinity };

/** The whole run, reduced so that peaks survive; read again at most twice a minute. */
async function fetchAll(view) {
  if (performance.now() - state.askedAt < FETCH_AGAIN_MS) return;
  state.askedAt = performance.now();
  try {
    state.all = (await getJson("/v3/equity?from_ms=0&points=600")).rows;
    view.repaint();
  } catch (error) {
    console.info(`equity series not read (${error}); the last 8 h stay`);
  }
}

function make(root, view) {
  const pick = (name) => (value) => {
    state[name] = value;
    view.repaint();
  };
  $(root, "header").append(choice("What to draw", KINDS, state.kind, pick("kind")),
    choice("Equity range", RANGES, state.range, pick("range")));
  const box = el("div.plot");
  root.append(box, el("p.empty.over"));
  state.chart = new Chart(box, (at) => {
    state.cross = at;
    readout(root, rowsOf(view));
  });
}

/** Points of the chosen range, each with its drawdown, ended by the newest overview. */
function rowsOf(view) {
  const recent = view.rows("equity");
  const first = recent[0]?.at_ms ?? Infinity;
  const rows = state.range === "0" && state.all.length
    ? [...state.all.filter((r) => r.at_ms < first), ...recent] : [...recent];
  const o = view.one("overview");
  const now = view.nowMs();
  if (o && known(o.equity_ud) && now !== null && rows.length) rows.push({ ...rows.at(-1),
    at_ms: now, equity_ud: o.equity_ud, exposure_ud: o.exposure_ud });
  const falls = drawdowns(rows);
  return rows.map((row, i) => ({ ...row, drawdown_ud: falls[i].drawdown_ud }));
}

function readout(root, rows) {
  const at = state.cross;
  const row = at === null ? rows.at(-1) : rows.findLast((r) => r.at_ms <= at);
  const value = row?.[`${state.kind}_ud`];
  const texts = [money(value)];
  if (state.kind === "equity") {
    for (const [line, name] of [["╌", "hold"], ["┄", "random"]]) {
      const other = row?.[`${name}_ud`];
      if (known(other)) texts.push(`${line} ${name} ${dollars(value - other, BESIDE)}`);
    }
  }
  setText($(root, ".readout"), texts.join(" "));
}

function pictureOf(rows, from, to, o) {
  const field = `${state.kind}_ud`;
  const tone = { equity: "--yes", drawdown: "--loss", exposure: "--sim" }[state.kind];
  /** @type {any[]} */
  const lines = [{ colour: tone, rows, y: (r) => r[field], fill: true }];
  if (state.kind === "equity") {
    lines.unshift({ colour: "--muted", rows, y: (r) => r.hold_ud, width: 1,
      dash: [5, 4] },
      { colour: "--attention", rows, y: (r) => r.random_ud, width: 1,
        dash: [2, 3] });
  }
  const limit = { drawdown: o?.drawdown_max_ud, exposure: o?.exposure_max_ud }[state.kind];
  return {
    from, to, lines, minSpan: 20000, ...(known(limit) ? { limit } : {}),
    format: (v) => dollars(v, { digits: state.digits }),
  };
}

export function renderEquity(root, view) {
  if (!state.chart) make(root, view);
  if (state.range === "0") fetchAll(view);
  const rows = rowsOf(view);
  const isYoung = rows.length < 2;
  setText($(root, ".empty"), isYoung ? "A point every 10 s, once the account is read." : "");
  setHidden($(root, ".plot"), isYoung);
  setHidden($(root, ".readout"), isYoung);
  readout(root, rows);
  const now = view.nowMs();
  if (now === null || isYoung) return;
  const [from, to] = windowOf(state.range, rows[0]?.at_ms ?? now, now);
  const seen = rows.filter((r) => r.at_ms >= from).map((r) => r[`${state.kind}_ud`]).filter(known);
  const span = seen.length ? Math.max(...seen) - Math.min(...seen) : 0;
  state.digits = span > 20e6 ? 0 : span > 60000 ? 2 : 3;
  const worst = rows.length ? Math.max(0, ...rows.map((r) => r.drawdown_ud ?? 0)) : null;
  const o = view.one("overview");
  const today = money(o?.day_pnl_ud, true);
  state.chart.draw(pictureOf(rows, from, to, o), `equity ${dollars(o?.equity_ud)}, ${today} today, `
    + `worst drawdown ${money(worst)}, exposure ${money(o?.exposure_ud)}`);
}
