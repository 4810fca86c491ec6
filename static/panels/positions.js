// @ts-check
/** Positions: what is held, what it cost, what it would cost to leave, the worst that can happen. */

import { flattenDialog, guarded } from "../controls.js";
import { dataTable, el, setText } from "../dom.js";
import { arrow, cents, contracts, duration, gainTone, known, money, moneyColumn, positionWords } from "../format.js";

const RECONCILE_FRESH_MS = 60000;

/** A position is true when verified, or while a clean and recent reconcile and the stream carry it. */
function verifiedAge(row, view) {
  const o = view.one("overview");
  const clean = o && o.reconcile_difference_ud === 0 && known(o.reconcile_age_ms) && o.reconcile_age_ms < RECONCILE_FRESH_MS;
  const carried = clean ? view.store.topics.overview.changedAtMs : null;
  return view.ageMs(Math.max(carried ?? -Infinity, row.verified_at_ms ?? -Infinity));
}

const left = (row, view) => (known(row.close_at_ms) && view.nowMs() !== null ? row.close_at_ms - view.nowMs() : null);

/** @type {import("../dom.js").TableSpec} */
const SPEC = {
  id: "positions", caption: "Open positions", sort: ["ticker", "asc"],
  key: (row) => row.ticker, age: verifiedAge,
  onOpen: (row, view) => view.select(row.ticker),
  empty: (view) => (view.store.topics.positions.rev === null ? "Positions are not known yet: the first reconcile reads them." : "No position. The first fill opens one."),
  columns: [
    { id: "ticker", label: "Market", sort: (r) => r.ticker, text: (r) => r.ticker, hint: (r, v) => v.get("markets", r.ticker)?.title ?? r.ticker },
    { id: "position", label: "Position", num: true, flash: true, sort: (r) => r.position_h, text: (r) => positionWords(r.position_h), tone: (r) => (r.position_h > 0 ? "yes" : r.position_h < 0 ? "no" : "muted") },
    { id: "average", label: "Average", unit: "¢", num: true, sort: (r) => r.average_cc, text: (r) => cents(r.average_cc, 2) },
    { id: "mark", label: "Mark", unit: "¢", num: true, flash: true, sort: (r) => r.mark_cc, text: (r) => cents(r.mark_cc, 2), hint: () => "the bid that could be hit now" },
    { id: "unrealised", label: "Unrealised", unit: "$", num: true, sort: (r) => r.unrealised_ud, text: (r) => `${arrow(r.unrealised_ud)} ${moneyColumn(r.unrealised_ud)}`.trim(), tone: (r) => gainTone(r.unrealised_ud) },
    { id: "realised", label: "Realised", unit: "$", num: true, sort: (r) => r.realised_ud, text: (r) => moneyColumn(r.realised_ud), tone: (r) => gainTone(r.realised_ud) },
    { id: "fees", label: "Fees", unit: "$", num: true, sort: (r) => r.fees_ud, text: (r) => moneyColumn(known(r.fees_ud) ? -r.fees_ud : null) },
    { id: "worst", label: "Worst case", unit: "$", num: true, sort: (r) => r.worst_case_ud, text: (r) => moneyColumn(r.worst_case_ud), tone: (r) => gainTone(r.worst_case_ud) },
    { id: "event", label: "Event", sort: (r) => r.event_ticker, text: (r) => r.event_ticker ?? "—" },
    { id: "eventworst", label: "Event worst", unit: "$", num: true, sort: (r) => r.event_worst_ud, text: (r) => moneyColumn(r.event_worst_ud), tone: (r) => gainTone(r.event_worst_ud) },
    { id: "close", label: "Closes", num: true, sort: (r) => r.close_at_ms, text: (r, v) => (left(r, v) === null ? "—" : left(r, v) <= 0 ? "closed" : duration(left(r, v))) },
    { id: "exit", label: "Cost to exit", unit: "$", num: true, sort: (r) => r.exit_cost_ud, text: (r) => moneyColumn(known(r.exit_cost_ud) ? -r.exit_cost_ud : null), hint: () => "fee and spread at the present book" },
    { id: "foreign", label: "Foreign", num: true, sort: (r) => r.foreign_h, text: (r) => (r.foreign_h === 0 ? "·" : contracts(r.foreign_h)), tone: (r) => (r.foreign_h ? "attention" : "muted"), hint: () => "contracts that this trader did not trade" },
    { id: "verified", label: "Verified", num: true, text: (r, v) => duration(v.ageMs(r.verified_at_ms)), tone: () => "muted" },
  ],
};

/** @param {HTMLElement} root @param {any} view */
export function renderPositions(root, view) {
  if (!root.querySelector(".bar-top")) {
    root.append(el("div", { class: "bar-top" }, el("h3", { text: "Positions" }), el("output"),
      el("button", { type: "button", class: "act", text: "Flatten …", "aria-keyshortcuts": "f", on: { click: () => guarded(flattenDialog) } })), el("div", { class: "grid-host" }));
  }
  const held = view.rows("positions").filter((p) => p.position_h || p.realised_ud || p.foreign_h);
  const open = held.filter((p) => p.position_h);
  const worst = open.every((p) => known(p.worst_case_ud)) ? open.reduce((sum, p) => sum + p.worst_case_ud, 0) : null;
  setText(root.querySelector("output"), `${open.length} open${open.length ? `, worst case together ${money(worst, true)}` : ""}`);
  dataTable(root.querySelector(".grid-host"), SPEC).update(held, view);
}
