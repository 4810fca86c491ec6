// @ts-check
/** Every limit as used / limit with its headroom in dollars; the gate and the ways back. */

import { gateDialog, guarded, rearmDialog, reduceOnlyDialog, resumeDialog } from "../controls.js";
import { dataTable, el, makeBar, setBar, setClass, setText } from "../dom.js";
import { clockTime, duration, known, money, percent, words } from "../format.js";

const danger = (row) => (row.tripped || row.used_ratio >= 1 ? "loss" : row.used_ratio >= 0.8 ? "attention" : "");

function barCell(cell, row) {
  if (!cell.firstChild) cell.append(makeBar("wide"));
  setBar(cell.firstChild, row.used_ratio);
  setClass(cell.firstChild, `bar wide ${danger(row)}`.trim());
}

/** A figure of the limit in its own unit: money where the key ends in _ud, else the number given. */
function figure(row, what) {
  if (known(row[`${what}_ud`])) return money(row[`${what}_ud`]);
  if (known(row[`${what}_h`])) return String(row[`${what}_h`] / 100);
  return known(row[what]) ? String(row[what]) : "—";
}

const headroom = (row) => (known(row.max_ud) && known(row.used_ud) ? money(row.max_ud - row.used_ud) : "—");

/** @type {import("../dom.js").TableSpec} */
const SPEC = {
  id: "risk", caption: "Risk limits", sort: ["used", "desc"],
  key: (row) => `${row.limit}|${row.scope}`,
  rowTone: (row) => (row.tripped ? "row-loss" : ""),
  empty: () => "No limits are known yet: they come with the settings, within a second of the start.",
  columns: [
    { id: "limit", label: "Limit", sort: (r) => r.limit, text: (r) => (r.tripped ? "✕ " : r.used_ratio >= 0.8 ? "! " : "") + words(r.limit), tone: danger },
    { id: "scope", label: "Scope", sort: (r) => r.scope, text: (r) => r.scope ?? "—", tone: () => "muted" },
    { id: "bar", label: "Used", text: () => "", paint: barCell },
    { id: "used", label: "Share", num: true, sort: (r) => r.used_ratio, text: (r) => percent(r.used_ratio, r.used_ratio > 0 && r.used_ratio < 0.1 ? 1 : 0), tone: danger },
    { id: "amount", label: "Used now", num: true, text: (r) => figure(r, "used") },
    { id: "max", label: "Limit", num: true, text: (r) => figure(r, "max") },
    { id: "headroom", label: "Headroom", num: true, sort: (r) => (known(r.max_ud) ? r.max_ud - r.used_ud : null), text: headroom },
    { id: "since", label: "Latched", num: true, text: (r, v) => (known(r.latched_at_ms) ? `${clockTime(r.latched_at_ms)} (${duration(v.nowMs() - r.latched_at_ms)})` : r.tripped ? "tripped" : "·"), tone: (r) => (r.tripped ? "loss" : "muted") },
    { id: "means", label: "Definition", text: (r) => r.means ?? "", tone: () => "muted", hint: (r) => r.means ?? "" },
  ],
};

function make(root) {
  const button = (text, act) => el("button", { type: "button", class: "act", text, on: { click: () => guarded(act) } });
  root.append(el("div", { class: "bar-top" }, el("h3", { text: "Limits" }), el("output"),
    button("Pause / resume …", gateDialog), button("Reduce only …", reduceOnlyDialog), button("Resume …", () => resumeDialog()), button("Re-arm …", rearmDialog)), el("div", { class: "grid-host" }));
}

/** @param {HTMLElement} root @param {any} view */
export function renderRisk(root, view) {
  if (!root.querySelector(".bar-top")) make(root);
  const o = view.one("overview");
  const [pause, reduce, resume, rearm] = root.querySelectorAll(".act");
  pause.hidden = o?.gate !== "open";
  setText(pause, "Pause …");
  reduce.hidden = o?.gate !== "open" && o?.gate !== "paused";
  resume.hidden = o?.gate !== "paused" && o?.gate !== "reduce-only";
  rearm.hidden = o?.gate !== "halted";
  const since = o?.gate_since_at_ms ? ` since ${clockTime(o.gate_since_at_ms)} UTC` : "";
  const out = root.querySelector("output");
  setText(out, o ? `gate ${o.gate}${since}${o.gate_why ? `: ${o.gate_why}` : ""}` : "gate —");
  setClass(out, o?.gate === "halted" ? "loss" : o && o.gate !== "open" ? "attention" : "muted");
  dataTable(root.querySelector(".grid-host"), SPEC).update(view.rows("risk"), view);
}
