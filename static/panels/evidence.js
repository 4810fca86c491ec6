// @ts-check
/** Evidence: is any of it good? Criteria, progress, intervals, verdict per strategy. */

import { $, arrange, el, fillCards, makeBar, setAttr, setBar, setClass, setText } from "../dom.js";
import { count, gainTone, known, money, plain, words } from "../format.js";

const VERDICT_TONE = { GO: "gain", "NO-GO": "loss" };

function progress(label) {
  return el("div.progress", el("span", label), makeBar(), el("b.num"));
}

function make(name) {
  return el("article.card",
    el("header", el("h3", name), el("output")),
    progress("Settled events"), progress("Hours"),
    el("div.interval", el("span", "Net, with its interval"),
      el("span.range", { "aria-hidden": "true" }, el("i.zero"),
      el("i.span"), el("i.dot")), el("b.num")),
    el("ul.criteria"), el("p.muted"));
}

function setProgress(node, have, need) {
  setBar(node.children[1], known(have) && need ? have / need : null, have >= need ? "gain" : "");
  const shown = known(have) && have % 1 ? have.toFixed(1) : plain(have);
  setText(node.children[2], `${shown} of ${plain(need)}`);
}

/** The interval on an axis that holds zero. */
function paintInterval(node, row) {
  const all = [row.low_ud, row.high_ud, row.net_ud].filter(known);
  const [low_, high_, net] = [row.low_ud, row.high_ud, row.net_ud].map((ud) => money(ud, true));
  const band = all.length === 3 ? `${low_} … ${high_}` : "no interval yet";
  setText(node.children[2], `${net}  (${band})`);
  setClass(node.children[2], `num ${gainTone(row.net_ud)}`.trim());
  const range = node.children[1];
  range.hidden = all.length < 3;
  if (range.hidden) return;
  const [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
  const at = (v) => `${(5 + (90 * (v - low)) / Math.max(1, high - low)).toFixed(1)}%`;
  const [zero, span, dot] = range.children;
  zero.style.left = at(0);
  span.style.left = at(row.low_ud);
  span.style.right = `${100 - parseFloat(at(row.high_ud))}%`;
  dot.style.left = at(row.net_ud);
}

function criteria(list, rows) {
  arrange(list, rows.map((c, i) => {
    const item = list.children[i] ?? el("li");
    const mark = c.met ? "✓" : "…";
    setText(item, `${mark} ${words(c.name)}: ${plain(c.value)}, needs ${plain(c.needed)}`);
    setClass(item, c.met ? "gain" : "muted");
    return item;
  }));
}

export function renderEvidence(root, view) {
  if (!$(root, ".cards")) root.append(el("p.empty"), el("div.cards"));
  const rows = view.rows("evidence");
  setText($(root, ".empty"),
    rows.length ? "" : "No evidence yet: it is made once a minute from the fills of a strategy.");
  fillCards($(root, ".cards"), rows, "strategy", make, (card, row) => {
    const [, events, hours, interval, reasons, note] = card.children;
    const out = $(card, "output");
    setText(out, row.verdict ?? "—");
    setClass(out, `verdict ${VERDICT_TONE[row.verdict] ?? "muted"}`);
    setProgress(events, row.settled_events, row.settled_events_needed);
    setProgress(hours, row.hours, row.hours_needed);
    paintInterval(interval, row);
    criteria(reasons, row.criteria ?? []);
    const missing = known(row.settled_events_needed)
      ? Math.max(0, row.settled_events_needed - (row.settled_events ?? 0)) : null;
    setText(note, row.verdict === "NOT ENOUGH DATA" && missing
      ? `${count(missing)} more independent settled events are needed before a verdict.` : "");
    setAttr(card, "aria-label", `Evidence of ${row.strategy}: ${row.verdict}`);
  });
}
