// @ts-check
/** Strategies: results, experimental mark, pause and resume of one, parameters and source. */

import { guarded, pauseDialog, resumeDialog } from "../controls.js";
import { $, arrange, button, el, fillCards, setAttr, setClass, setText } from "../dom.js";
import { arrow, count, gainTone, known, micros, money, percent, plain, words } from "../format.js";

/** @type {any[][]} */
const FIGURES = [
  ["Evaluations", (s) => count(s.evaluations)], ["Orders", (s) => count(s.orders)],
    ["Fills", (s) => count(s.fills)],
  ["Fill ratio", (s) => (s.orders ? percent(s.fills / s.orders, 1) : "—")],
  ["Slowest decision", (s) => micros(s.slowest_us)],
    ["P&L", (s) => `${arrow(s.pnl_ud)} ${money(s.pnl_ud, true)}`.trim()],
];

const isPaused = (s) => s.paused ?? s.enabled === false;

function make(name) {
  const act = button("", () => guarded(() =>
    (card.paused ? resumeDialog(name) : pauseDialog(name))));
  const card = el("article.card",
    el("header", el("h3", name), el("output"),
    el("span.badge-word", { hidden: true, text: "EXPERIMENTAL" }), act),
    el("dl.figures", ...FIGURES.map(([label]) =>
      el("div", el("dt", label), el("dd")))),
    el("dl.params", { "aria-label": `Parameters of ${name}` }));
  return card;
}

export function renderStrategies(root, view) {
  if (!$(root, ".cards")) root.append(el("p.empty"), el("div.cards"));
  const all = view.rows("strategies");
  setText($(root, ".empty"),
    all.length ? "" : "No strategy runs. Start with --strategy NAME to see one here.");
  fillCards($(root, ".cards"), all, "name", make, (card, s) => {
    card.paused = isPaused(s);
    const state = $(card, "output");
    setText(state, card.paused ? "‖ paused" : "✓ active");
    setClass(state, card.paused ? "attention" : "gain");
    $(card, ".badge-word").hidden = !s.experimental;
    setText($(card, ".act"), card.paused ? "Resume …" : "Pause …");
    setAttr($(card, ".act"), "aria-label", `${card.paused ? "Resume" : "Pause"} ${s.name}`);
    card.querySelectorAll(".figures dd").forEach((dd, i) => {
      setText(dd, FIGURES[i][1](s));
      setClass(dd, FIGURES[i][0] === "P&L" && known(s.pnl_ud) ? gainTone(s.pnl_ud) : "");
    });
    const params = $(card, ".params");
    arrange(params, (s.params ?? []).map((p, i) => {
      const item = params.children[i] ?? el("div", el("dt"), el("dd"));
      setText(item.firstChild, words(p.name));
      setText(item.lastChild, plain(p.value));
      setClass(item.lastChild, p.from === "default" ? "" : "attention");
      setAttr(item, "title", `from ${p.from}`);
      return item;
    }));
  });
}
