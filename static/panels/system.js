// @ts-check
/** The machine: components, latency percentiles per endpoint, stream counters, memory and disk. */

import { $, arrange, el, setClass, setText } from "../dom.js";
import { bytes, clockTime, count, duration, known, micros, words } from "../format.js";

const BAD_WHEN_POSITIVE = new Set(["gaps", "resyncs", "rest_differences", "http_429",
  "parse_failures", "reconnects"]);
const FIRST = ["frames_per_s", "gaps", "resyncs", "rest_checks", "rest_differences", "reconnects",
  "http_429", "parse_failures", "rss_bytes", "tasks", "disk_free_bytes"];

const figure = (name, value) => (name.endsWith("_bytes") ? bytes(value) : name.endsWith("_us")
  ? micros(value) : name.endsWith("_ms") ? `${count(value)} ms`
  : typeof value === "number" ? (Number.isInteger(value) ? count(value) : value.toFixed(2))
    : String(value ?? "—"));

function plainTable(caption, heads) {
  return el("table", { class: "data plain" }, el("caption", { class: "sr", text: caption }),
    el("thead", {}, el("tr", {}, ...heads.map(([t, num]) =>
    el("th", { scope: "col", class: num ? "num" : "", text: t })))), el("tbody"));
}

/** Fill a small table with rows of [text, class] cells. */
function fill(body, rows) {
  arrange(body, rows.map((cells, i) => {
    const row = body.children[i]?.children.length === cells.length ? body.children[i]
      : el("tr", {}, ...cells.map(() => el("td")));
    cells.forEach(([text, name], j) => {
      setText(row.children[j], text);
      setClass(row.children[j], name ?? "");
    });
    return row;
  }));
}

function make(root) {
  root.append(el("div", { class: "columns" },
    el("div", { class: "s-health" }, el("h3", { text: "Components" }),
      plainTable("Health by component", [["Component"], ["Health"], ["Checked", 1]])),
    el("div", { class: "s-latency" }, el("h3", { text: "Latency" }),
      plainTable("Latency per endpoint", [["Endpoint"], ["p50", 1], ["p90", 1], ["p99", 1]]),
      el("p", { class: "empty" })),
    el("div", { class: "s-counters" }, el("h3", { text: "Counters" }),
      plainTable("Counters", [["What"], ["Value", 1]])),
    el("div", { class: "s-settings" }, el("h3", { text: "Settings in effect" }),
      el("p", { class: "muted", text: "They are changed in the settings, not here." }),
      el("button", { type: "button", class: "act", text: "Read settings",
        on: { click: () => readSettings(root) } }),
        plainTable("Settings", [["Setting"], ["Value", 1], ["Source"]]))));
  $(root, ".s-settings table").hidden = true;
}

async function readSettings(root) {
  const note = $(root, ".s-settings p");
  try {
    const answer = await fetch("/v3/config");
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const body = await answer.json();
    const map = body.settings ?? body;
    const list = Array.isArray(map) ? map : Object.entries(map).map(([name, v]) =>
      ({ name, ...(typeof v === "object" && v ? v : { value: v }) }));
    fill($(root, ".s-settings tbody"), list.map((s) =>
      [[s.name], [String(s.value ?? "—"), "num"], [s.source ?? s.from ?? "—", "muted"]]));
    $(root, ".s-settings table").hidden = false;
    setText(note, `${list.length} settings, secrets masked. They are changed in the settings, not here.`);
  } catch (error) {
    setText(note, `The settings could not be read: ${error}. Try again.`);
  }
}

function health(root, view) {
  const rows = [...view.rows("health")].sort((a, b) => Number(a.healthy) - Number(b.healthy)
    || (a.component < b.component ? -1 : 1));
  const word = (h) => (h.healthy === null || h.healthy === undefined ? ["— unknown", "muted"]
    : h.healthy ? ["✓ healthy", "gain"]
    : [`${h.critical ? "✕ critical" : "! degraded"}${h.why ? `: ${h.why}`
    : ""} since ${clockTime(h.since_at_ms)}`, h.critical ? "loss" : "attention"]);
  fill($(root, ".s-health tbody"), rows.map((h) =>
    [[words(h.component)], word(h), [duration(view.ageMs(h.checked_at_ms)), "num muted"]]));
}

/** @param {HTMLElement} root @param {any} view */
export function renderSystem(root, view) {
  if (!$(root, ".columns")) make(root);
  health(root, view);
  const row = view.one("latency");
  const triples = Object.entries(row?.latency_us ?? {});
  fill($(root, ".s-latency tbody"), triples.map(([name, three]) =>
    [[words(name)], ...[0, 1, 2].map((i) => [micros(three?.[i]), "num"])]));
  setText($(root, ".s-latency .empty"), triples.length ? "" : "No request was measured yet.");
  const extra = Object.keys(row ?? {}).filter((k) => k !== "latency_us" && !FIRST.includes(k)
    && typeof row[k] !== "object");
  const names = row ? [...FIRST.filter((k) => k in row), ...extra] : FIRST;
  const counters = names.map((k) => [[words(k.replace(/_bytes$/, ""))],
    [figure(k, row?.[k]), `num ${BAD_WHEN_POSITIVE.has(k) && row?.[k] > 0 ? "attention" : ""}`]]);
  const status = view.store.status?.metrics;
  if (known(status?.ws_clients)) counters.push([["pages connected"],
    [count(status.ws_clients), "num"]], [["messages sent to pages"],
    [count(status.ws_messages_sent), "num"]]);
  counters.push([["gaps this page repaired"], [count(view.store.gaps), "num"]]);
  fill($(root, ".s-counters tbody"), counters);
}
