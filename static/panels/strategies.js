// @ts-check
/** Strategies: results, experimental mark, pause and resume of one, parameters with their source. */

import { guarded, pauseDialog, resumeDialog } from "../controls.js";
import { $, arrange, el, setAttr, setClass, setText } from "../dom.js";
import { arrow, count, gainTone, known, micros, money, percent, words } from "../format.js";

const FIGURES = [
  ["Evaluations", (s) => count(s.evaluations)], ["Orders", (s) => count(s.orders)],
    ["Fills", (s) => count(s.fills)],
  ["Fill ratio", (s) => (s.orders ? percent(s.fills / s.orders, 1) : "—")],
  ["Slowest decision", (s) => micros(s.slowest_us)],
    ["P&L", (s) => `${arrow(s.pnl_ud)} ${money(s.pnl_ud, true)}`.trim()],
];

const isPaused = (s) => s.paused ?? s.enabled === false;

function make(name) {
  const act = el("button", { type: "button", class: "act" });
  const card = el("article", { class: "card", "data-key": name },
    el("header", {}, el("h3", { text: name }), el("output"),
    el("span", { class: "badge-word", hidden: true, text: "EXPERIMENTAL" }), act),
    el("dl", { class: "figures" }, ...FIGURES.map(([label]) =>
      el("div", {}, el("dt", { text: label }), el("dd")))),
    el("table", { class: "data plain" }, el("caption",
      { class: "sr", text: `Parameters of ${name}` }),
      el("thead", {}, el("tr", {}, ...["Parameter", "Value", "From"].map((t, i) =>
        el("th", { scope: "col", class: i === 1 ? "num" : "", text: t })))), el("tbody")));
  act.addEventListener("click", () => guarded(() =>
    (card.paused ? resumeDialog(name) : pauseDialog(name))));
  return card;
}

function parameters(body, params) {
  const rows = params.map((p, i) => {
    const row = body.children[i] ?? el("tr", {}, el("td"), el("td", { class: "num" }),
      el("td", { class: "muted" }));
    [words(p.name), String(p.value), p.from ?? "—"].forEach((text, j) =>
      setText(row.children[j], text));
    return row;
  });
  arrange(body, rows);
}

/** @param {HTMLElement} root @param {any} view */
export function renderStrategies(root, view) {
  if (!$(root, ".cards")) root.append(el("p", { class: "empty" }), el("div", { class: "cards" }));
  const list = $(root, ".cards");
  const rows = view.rows("strategies");
  setText($(root, ".empty"),
    rows.length ? "" : "No strategy runs. Start with --strategy NAME to see one here.");
  const cards = rows.map((s) => {
    const card = [...list.children].find((node) => node.dataset.key === s.name) ?? make(s.name);
    card.paused = isPaused(s);
    const state = $(card, "output");
    setText(state, card.paused ? "‖ paused" : "✓ asked");
    setClass(state, card.paused ? "attention" : "gain");
    $(card, ".badge-word").hidden = !s.experimental;
    setText($(card, ".act"), card.paused ? "Resume …" : "Pause …");
    setAttr($(card, ".act"), "aria-label", `${card.paused ? "Resume" : "Pause"} ${s.name}`);
    card.querySelectorAll(".figures dd").forEach((dd, i) => {
      setText(dd, FIGURES[i][1](s));
      setClass(dd, FIGURES[i][0] === "P&L" && known(s.pnl_ud) ? gainTone(s.pnl_ud) : "");
    });
    parameters($(card, "tbody"), s.params ?? []);
    return card;
  });
  arrange(list, cards);
}
