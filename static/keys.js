// @ts-check
/** The keyboard map. Ignored in a field; while a dialog is open only KILL and Escape work. */

import { control, gateDialog, flattenDialog, guarded, unlockDialog } from "./controls.js";
import { $, byId, dialogOpen, fillPairs } from "./dom.js";

const HELP = [
  ["?", "this help"], ["/", "search the markets"], ["j k ↓ ↑", "rows of the list"],
  ["Enter", "open: select a market, explain a row"], ["e", "explain the row"],
  ["1 … 9, 0", "the ten tabs"], ["p", "pause, or resume and re-arm"],
  ["c", "cancel this market's orders"], ["f", "flatten (preview first)"],
  ["Shift+K held 1 s", "KILL"], ["u", "unlock the controls"], ["t", "dark or light"],
  ["z", "freeze the view; data goes on"], ["Esc", "close"],
];

const typing = (target) => target instanceof HTMLElement
  && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

/** The record behind the focused row; for a market, that of its newest decision. */
function explainFocused(view) {
  const row = view.activeTable()?.focusedRow();
  if (!row) return;
  const newest = () => view.rows("decisions").findLast((d) => d.ticker === row.ticker)?.decision_id;
  const id = row.decision_id ?? row.fill_id ?? row.client_order_id ?? newest();
  if (id) view.explain(id);
}

function cancelMarket(view) {
  const ticker = view.activeTable()?.focusedRow()?.ticker ?? view.selected;
  if (ticker) guarded(() => control("cancel-all", { ticker }));
}

export function startKeys(view, kill, tabs) {
  const help = byId("help");
  fillPairs($(help, "dl"), HELP);
  const map = {
    "?": () => help.showModal(), "/": () => byId("market-search").focus(),
    j: () => view.activeTable()?.move(1), k: () => view.activeTable()?.move(-1),
    ArrowDown: () => view.activeTable()?.move(1), ArrowUp: () => view.activeTable()?.move(-1),
    e: () => explainFocused(view), p: () => guarded(gateDialog), c: () => cancelMarket(view),
    f: () => guarded(flattenDialog), u: unlockDialog, t: view.toggleTheme, z: view.freeze,
  };
  tabs.forEach((id, i) => (map[String((i + 1) % 10)] = () => view.showTab(id, true)));
  addEventListener("keydown", (event) => onKey(event, map, view, kill));
  addEventListener("keyup", (event) => (event.key === "K" || event.key === "k"
    || event.key === "Shift") && kill.stop());
  addEventListener("blur", kill.stop);
}

function onKey(event, map, view, kill) {
  if (event.key === "Escape" && typing(event.target) && !dialogOpen()) event.target.blur();
  if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "K" && event.shiftKey) {
    event.preventDefault();
    if (!event.repeat) kill.start();
    return;
  }
  if (dialogOpen()) return;
  if (event.key === "Enter" && event.target.closest?.("tr[data-key]")
    && !event.target.closest("button")) return view.activeTable()?.openFocused();
  const act = map[event.key];
  if (!act || (event.key.startsWith("Arrow")
    && !event.target.closest?.("table, body > *:not(#strip)"))) return;
  if (event.repeat && !/^(j|k|Arrow)/.test(event.key)) return;
  event.preventDefault();
  act();
}
