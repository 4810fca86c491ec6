// @ts-check
/** The machine: components, latency percentiles per endpoint, stream counters, memory and disk. */

import { $, button, el, fillRows, plainTable, setText } from "../dom.js";
import {
  bytes, clockTime, count, duration, known, micros, plain, words,
} from "../format.js";
import { getJson } from "../store.js";

const NOT_HERE = "They are changed in the settings, not here.";
const BAD_WHEN_POSITIVE = new Set(["gaps", "resyncs", "rest_differences", "http_429",
  "parse_failures", "reconnects"]);
const FIRST = ["frames_per_s", "gaps", "resyncs", "rest_checks", "rest_differences", "reconnects",
  "http_429", "parse_failures", "rss_bytes", "tasks", "disk_free_bytes"];

function figure(name, value) {
  if (name.endsWith("_bytes")) return bytes(value);
  if (name.endsWith("_us")) return micros(value);
  if (typeof value !== "number") return plain(value);
  return Number.isInteger(value) ? count(value) : value.toFixed(2);
}

const right = (...texts) => texts.map((text) => [text, "num"]);
const part = (name, title, ...rest) =>
  el("div", { class: `s-${name}` }, el("h3", title), ...rest);

function make(root) {
  root.append(el("div.columns",
    part("health", "Components",
      plainTable("Health by component", ["Component", "Health", ...right("Checked")])),
    part("latency", "Latency", el("p.empty"),
      plainTable("Latency per endpoint", ["Endpoint", ...right("p50", "p90", "p99")])),
    part("counters", "Counters", plainTable("Counters", ["What", ...right("Value")])),
    part("settings", "Settings in effect", el("p.muted", NOT_HERE),
      button("Read settings", () => readSettings(root)),
      plainTable("Settings", ["Setting", ...right("Value"), "Source"]))));
  $(root, ".s-settings table").hidden = true;
}

async function readSettings(root) {
  const note = $(root, ".s-settings p");
  try {
    const list = (await getJson("/v3/config")).settings;
    const row = (s) => [s.name, [plain(s.value), "num"], [plain(s.source), "muted"]];
    fillRows($(root, ".s-settings tbody"), list.map(row));
    $(root, ".s-settings table").hidden = false;
    setText(note, `${list.length} settings, secrets masked. ${NOT_HERE}`);
  } catch (error) {
    setText(note, `The settings could not be read: ${error}. Try again.`);
  }
}

function healthRow(h, view) {
  const bad = `${h.critical ? "✕ critical" : "! degraded"}${h.why ? `: ${h.why}` : ""}`;
  const word = !known(h.healthy) ? ["— unknown", "muted"] : h.healthy ? ["✓ healthy", "gain"]
    : [`${bad} since ${clockTime(h.since_at_ms)}`, h.critical ? "loss" : "attention"];
  return [words(h.component), word, [duration(view.ageMs(h.checked_at_ms)), "num muted"]];
}

function counterRow(name, value) {
  const bad = BAD_WHEN_POSITIVE.has(name) && value > 0 ? " attention" : "";
  return [words(name.replace(/_bytes$/, "")), [figure(name, value), `num${bad}`]];
}

export function renderSystem(root, view) {
  if (!$(root, ".columns")) make(root);
  const ill = [...view.rows("health")].sort((a, b) => Number(a.healthy) - Number(b.healthy)
    || (a.component < b.component ? -1 : 1));
  fillRows($(root, ".s-health tbody"), ill.map((h) => healthRow(h, view)));
  const row = view.one("latency") ?? {};
  const triples = Object.entries(row.latency_us ?? {});
  fillRows($(root, ".s-latency tbody"),
    triples.map(([name, three]) => [words(name), ...right(...three.map(micros))]));
  setText($(root, ".s-latency .empty"), triples.length ? "" : "No request was measured yet.");
  const extra = Object.keys(row).filter((k) => !FIRST.includes(k) && typeof row[k] !== "object");
  const status = view.store.status?.metrics;
  fillRows($(root, ".s-counters tbody"), [
    ...[...FIRST, ...extra].map((name) => counterRow(name, row[name])),
    counterRow("pages connected", status?.ws_clients),
    counterRow("messages sent to pages", status?.ws_messages_sent),
    counterRow("gaps this page repaired", view.store.gaps),
  ]);
}
