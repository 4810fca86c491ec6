// @ts-check
/** Every limit as used / limit with its headroom in dollars; the gate and the ways back. */

import { guarded, rearmDialog, reduceOnlyDialog, resumeDialog } from "../controls.js";
import { $, NUM, button, col, dataTable, el, makeBar, setBar, setClass, setText } from "../dom.js";
import { clockTime, known, money, percent, plain, words } from "../format.js";

const danger = (row) => (row.tripped || row.used_ratio >= 1 ? "loss" : row.used_ratio >= 0.8
  ? "attention" : "");

function barCell(cell, row) {
  if (!cell.firstChild) cell.append(makeBar());
  setBar(cell.firstChild, row.used_ratio, danger(row));
}

/** Used or limit in its own unit: money, contracts, else the number given. */
function figure(row, what) {
  if (known(row[`${what}_ud`])) return money(row[`${what}_ud`]);
  if (known(row[`${what}_h`])) return String(row[`${what}_h`] / 100);
  return known(row[what]) ? String(row[what]) : "—";
}

/** Dollars left; a limit called min_… is a floor. */
function headroom(row) {
  if (!known(row.max_ud) || !known(row.used_ud)) return "—";
  const left = row.max_ud - row.used_ud;
  return money(String(row.limit).startsWith("min_") ? -left : left);
}

const SPEC = {
  id: "risk", caption: "Risk limits", sort: ["used", "desc"],
  key: (row) => `${row.limit}|${row.scope}`,
  rowTone: (row) => (row.tripped ? "row-loss" : ""),
  empty: () => "No limits are known yet: they come within a second of the start.",
  columns: [
    col("limit", "Limit", "limit", words, {
      ch: 17, tone: danger,
      text: (r) => (r.tripped ? "✕ " : r.used_ratio >= 0.8 ? "! " : "") + words(r.limit),
    }),
    col("scope", "Scope", "scope", plain, { ch: 27, tone: "muted" }),
    { id: "meter", label: "Used", ch: 14, text: () => "", paint: barCell },
    col("used", "Share", "used_ratio", String, {
      ...NUM, ch: 8, tone: danger,
      text: (r) => percent(r.used_ratio, r.used_ratio > 0 && r.used_ratio < 0.1 ? 1 : 0),
    }),
    { id: "amount", label: "Used now", ...NUM, ch: 10, text: (r) => figure(r, "used") },
    { id: "max", label: "Limit", ...NUM, ch: 10, text: (r) => figure(r, "max") },
    { id: "room", label: "Headroom", ...NUM, ch: 10, text: headroom },
    {
      id: "since", label: "Latched", ...NUM, ch: 10, tone: (r) => (r.tripped ? "loss" : "muted"),
      text: (r) => (known(r.latched_at_ms) ? clockTime(r.latched_at_ms) : r.tripped ? "tripped"
        : "·"),
    },
    col("means", "Definition", "means", plain, { tone: "muted", hint: (r) => r.means }),
  ],
};

function make(root) {
  const press = (text, act) => button(text, () => guarded(act));
  root.append(el("div.bar-top", el("h3", "Limits"), el("output"),
    press("Reduce only …", reduceOnlyDialog), press("Resume …", () => resumeDialog()),
    press("Re-arm …", rearmDialog)), el("div.grid-host"));
}

export function renderRisk(root, view) {
  if (!$(root, ".bar-top")) make(root);
  const o = view.one("overview");
  const [reduce, resume, rearm] = root.querySelectorAll(".act");
  reduce.hidden = o?.gate !== "open" && o?.gate !== "paused";
  resume.hidden = o?.gate !== "paused" && o?.gate !== "reduce-only";
  rearm.hidden = o?.gate !== "halted";
  const since = o?.gate_since_at_ms ? ` since ${clockTime(o.gate_since_at_ms)} UTC` : "";
  const out = $(root, "output");
  setText(out, o ? `gate ${o.gate}${since}${o.gate_why ? `: ${o.gate_why}` : ""}` : "gate —");
  setClass(out, o?.gate === "halted" ? "loss" : o && o.gate !== "open" ? "attention" : "muted");
  dataTable($(root, ".grid-host"), SPEC).update(view.rows("risk"), view);
}
