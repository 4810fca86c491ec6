// @ts-check
/** Alerts, and the activity log in the words of the log file: filter, copy a line, copy all. */

import { $, NUM, button, choice, col, dataTable, el, fillSelect, setText, times } from "../dom.js";
import { count, dateTime, plain, words } from "../format.js";

const MARKS = { error: "✕", warning: "!", success: "✓", info: "·" };
const TONES = { error: "loss", warning: "attention", success: "gain", info: "" };
const state = { severity: "", kind: "", search: "" };

const severity = (row) => row.severity ?? row.metadata?.severity ?? "info";
const lineOf = (row) => [dateTime(row.at_ms), severity(row), row.activity_type ?? row.kind,
  `[${plain(row.state)}]`, row.message ?? row.text].join(" ");

async function copy(text, note) {
  try {
    await navigator.clipboard.writeText(text);
    setText(note, "copied");
  } catch {
    setText(note, "the browser did not allow copying");    // no permission, or not a secure origin
  }
}

const tone = (row) => TONES[severity(row)] ?? "";
const mark = { id: "mark", label: "", ch: 4, text: (r) => MARKS[severity(r)] ?? "·", tone,
  hint: severity };
const message = (label, text) => ({ id: "message", label, text, hint: text,
  tone: (row) => (severity(row) === "success" ? "" : tone(row)) });

const LOG = {
  id: "activity", caption: "Activity, newest first", stream: true,
  key: (row) => row.key,
  onOpen: (row) => copy(lineOf(row), $(document, "#activity .copied")),
  empty: (view) => (view.store.activity.length ? "No line fits the filter."
    : "No activity yet. The first transition of the trader is the first line."),
  columns: [
    times(12), mark, col("kind", "Kind", "activity_type", words, { ch: 18, tone: "muted" }),
    col("state", "State", "state", words, { ch: 20, tone: "muted", text: (r) =>
      words(r.state ?? r.to_state) }),
    message("What happened", (r) => r.message ?? ""),
  ],
};

const ALERTS = {
  id: "alerts", caption: "Alerts, newest first", stream: true,
  key: (row) => row.alert_id,
  empty: () => "No alert in this run. Degradations, fee differences and limits would show here.",
  columns: [
    times(12, "Alerts"), mark, message("What needs eyes", (r) => r.text ?? words(r.kind)),
    col("repeats", "×", "repeats", (n) => (n > 1 ? count(n) : ""),
      { ...NUM, ch: 5, tone: "muted" }),
  ],
};

function make(root, view) {
  const set = (name) => (value) => {
    state[name] = value;
    view.repaint();
  };
  const kind = el("select", { "aria-label": "Kind of activity",
    on: { input: (e) => set("kind")(e.target.value) } },
    el("option", { value: "", text: "all kinds" }));
  const search = el("input", { type: "search", placeholder: "Filter",
    "aria-label": "Filter the log", autocomplete: "off", spellcheck: "false",
    on: { input: (e) => set("search")(e.target.value.toLowerCase()) } });
  const all = button("Copy all",
    () => copy(chosen(view).map(lineOf).join("\n"), $(root, ".copied")));
  const levels = [["", "all"], ["warning", "warnings"], ["error", "errors"]];
  root.append(
    el("div.bar-top", el("h3", "Activity"),
      choice("Severity", levels, "", set("severity")), kind, search,
      el("output.copied.muted"), all),
    el("div.split.wide-right", el("div.grid-host.alerts-host"),
      el("div.grid-host.log-host")));
}

/** Log lines that pass the filter, oldest first. */
function chosen(view) {
  const levels = { warning: ["warning", "error"], error: ["error"] }[state.severity];
  return view.store.activity.filter((r) => (!levels || levels.includes(severity(r)))
    && (!state.kind || r.activity_type === state.kind)
    && String(r.message).toLowerCase().includes(state.search));
}

export function renderActivity(root, view) {
  if (!$(root, ".bar-top")) make(root, view);
  fillSelect($(root, "select"), view.store.activity.map((r) => r.activity_type), words);
  dataTable($(root, ".log-host"), LOG).update(chosen(view), view);
  dataTable($(root, ".alerts-host"), ALERTS).update(view.rows("alerts"), view);
}
