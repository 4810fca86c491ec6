// @ts-check
/** Fill quality: where the P&L came from, how often and how fast orders fill, markouts. */

import { histogram } from "../chart.js";
import { $, choice, el, fillPairs, makeBar, setBar, setClass, setText } from "../dom.js";
import {
  centsDiff, contracts, count, dollars, duration, gainTone, known, money, percent,
} from "../format.js";

const SPLIT = [["spread_ud", "Spread captured"], ["adverse_ud", "Adverse move"],
  ["fees_ud", "Fees"], ["rounding_ud", "Rounding"], ["exits_ud", "Exits"],
  ["settlement_ud", "Settlement"]];
const EDGES = [-500, -300, -200, -100, -50, 0, 50, 100, 200, 300, 500];
const HORIZONS = [["markout_1s_cc", "1 s"], ["markout_30s_cc", "30 s"],
  ["markout_300s_cc", "5 min"]];
const SMALL_SAMPLE = 30;
const state = { horizon: "markout_30s_cc" };

/** Median of numbers, or null. */
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
}

function bins(values) {
  const counts = EDGES.slice(1).map(() => 0);
  for (const v of values) {
    const i = EDGES.findIndex((edge, at) => at < EDGES.length - 1 && v < EDGES[at + 1]);
    counts[i === -1 ? counts.length - 1 : Math.max(0, i)] += 1;
  }
  return counts;
}

function make(root, view) {
  const split = el("div.quality-split", el("h3", "Where the P&L came from"),
    el("output.muted"),
    el("ul", ...SPLIT.map(([, label]) => el("li", el("span", label), makeBar(),
      el("b.num")))));
  const pick = (value) => {
    state.horizon = value;
    view.repaint();
  };
  const markouts = el("div.quality-markouts",
    el("h3", "Markout of own fills (¢ in our favour)"),
    choice("Markout after", HORIZONS, state.horizon, pick), el("output.muted"),
    el("div.plot", el("canvas", { role: "img" })));
  const facts = el("div.quality-facts", el("h3", "Filling"),
    el("dl.pairs"));
  root.append(el("div.columns", split, markouts, facts));
}

function splitBlock(root, view) {
  const split = view.one("overview")?.pnl_split;
  const fees = view.one("overview")?.fees_ud;
  const values = SPLIT.map(([field]) => split?.[field]
    ?? (field === "fees_ud" && known(fees) ? -fees : null));
  const largest = Math.max(1, ...values.map((v) => Math.abs(v ?? 0)));
  root.querySelectorAll(".quality-split li").forEach((item, i) => {
    setBar(item.children[1], Math.abs(values[i] ?? 0) / largest, gainTone(values[i]));
    setText(item.children[2], money(values[i], true));
    setClass(item.children[2], `num ${gainTone(values[i])}`.trim());
  });
  setText($(root, ".quality-split output"), split ? "this run, signed as it changed equity"
    : "The trader gives the split with its first fills; until then only the fees are known.");
}

function facts(root, view, fills) {
  const timed = fills.filter((f) => known(f.sent_at_ms));
  const waits = timed.map((f) => f.at_ms - f.sent_at_ms);
  const orders = view.rows("strategies").reduce((sum, s) => sum + (s.orders ?? 0), 0);
  const filled = view.rows("strategies").reduce((sum, s) => sum + (s.fills ?? 0), 0);
  const makers = fills.filter((f) => f.is_taker === false).length;
  const off = fills.filter((f) => known(f.fee_expected_ud)
    && f.fee_ud !== f.fee_expected_ud).length;
  const n = fills.length;
  const sum = (field) => fills.reduce((all, f) => all + (f[field] ?? 0), 0);
  const share = `${percent(filled / orders, 1)} (${count(filled)} of ${count(orders)})`;
  fillPairs($(root, ".quality-facts dl"), [
    ["Fills per order", orders ? share : "— (no order yet)"],
    ["Time to fill, median", waits.length ? `${duration(median(waits))} (n = ${waits.length})`
      : "— (no fill of a timed order)"],
    ["As maker", n ? `${percent(makers / n)} (n = ${n})` : "—"],
    ["Contracts filled", n ? contracts(sum("count_h")) : "—"],
    ["Fees charged", n ? dollars(sum("fee_ud"), { digits: 4 }) : "—"],
    ["Fee differences", !n ? "—" : off ? `! ${off} fills not charged as expected` : "none"],
  ]);
}

export function renderQuality(root, view) {
  if (!$(root, ".columns")) make(root, view);
  const fills = view.rows("fills");
  splitBlock(root, view);
  facts(root, view, fills);
  const known_ = fills.filter((f) => known(f[state.horizon]));
  const total = known_.reduce((n, f) => n + f.count_h, 0);
  const mean = total ? known_.reduce((sum, f) => sum + f[state.horizon] * f.count_h, 0) / total
    : null;
  const few = known_.length < SMALL_SAMPLE ? ": too few to believe" : "";
  const text = known_.length ? `mean ${centsDiff(Math.round(mean))} ¢, n = ${known_.length}${few}`
    : "No fill is old enough for this markout yet.";
  const out = $(root, ".quality-markouts output");
  setText(out, text);
  const canvas = $(root, ".quality-markouts canvas");
  canvas.setAttribute("aria-label", `Markout distribution: ${text}`);
  histogram(canvas, bins(known_.map((f) => f[state.horizon])), EDGES, (v) => centsDiff(v));
}
