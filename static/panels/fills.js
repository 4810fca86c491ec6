// @ts-check
/** Fills, newest first: fee charged beside fee expected, markouts, the decision behind each. */

import { dataTable, el, setAttr, setText } from "../dom.js";
import { cents, centsDiff, clockTime, contracts, dateTime, dollars, gainTone, sideTone } from "../format.js";
import { lastReason } from "./orders.js";

const feeOff = (row) => row.fee_ud !== row.fee_expected_ud && row.fee_expected_ud !== null && row.fee_expected_ud !== undefined;
const markout = (id, label, field) => ({ id, label, unit: "¢", num: true, text: (r) => centsDiff(r[field]), tone: (r) => gainTone(r[field]) });

function explainCell(cell, row, view) {
  if (!cell.firstChild) cell.append(el("button", { type: "button", class: "act small" }));
  setText(cell.firstChild, row.decision_id ?? "explain");
  setAttr(cell.firstChild, "aria-label", `Explain fill in ${row.ticker}, decision ${row.decision_id ?? "unknown"}`);
  cell.firstChild.onclick = () => view.explain(row.decision_id ?? row.fill_id);
}

/** @type {import("../dom.js").TableSpec} */
const SPEC = {
  id: "fills", caption: "Fills, newest first", stream: true,
  key: (row) => row.fill_id,
  onOpen: (row, view) => view.explain(row.fill_id),
  empty: (view) => `No fills in this run yet. ${view.rows("orders").some((o) => o.status === "resting") ? "Orders rest and wait for a taker." : lastReason(view)}`,
  columns: [
    { id: "time", label: "Time", unit: "UTC", text: (r) => clockTime(r.at_ms), hint: (r) => dateTime(r.at_ms) },
    { id: "ticker", label: "Market", text: (r) => r.ticker },
    { id: "side", label: "Side", text: (r) => String(r.side ?? "—").toUpperCase(), tone: (r) => sideTone(r.side) },
    { id: "count", label: "Contracts", num: true, text: (r) => contracts(r.count_h) },
    { id: "price", label: "Price", unit: "¢", num: true, text: (r) => cents(r.price_cc) },
    { id: "role", label: "Role", text: (r) => (r.is_taker === null || r.is_taker === undefined ? "—" : r.is_taker ? "taker" : "maker"), tone: () => "muted" },
    { id: "fee", label: "Fee", unit: "$", num: true, text: (r) => dollars(r.fee_ud, { digits: 4, unit: "" }), tone: (r) => (feeOff(r) ? "attention" : "") },
    { id: "expected", label: "Expected", unit: "$", num: true, text: (r) => `${feeOff(r) ? "! " : ""}${dollars(r.fee_expected_ud, { digits: 4, unit: "" })}`, tone: (r) => (feeOff(r) ? "attention" : "muted") },
    markout("m1", "1 s", "markout_1s_cc"), markout("m30", "30 s", "markout_30s_cc"), markout("m300", "5 min", "markout_300s_cc"),
    { id: "strategy", label: "Strategy", text: (r) => r.strategy ?? "—", tone: () => "muted" },
    { id: "do", label: "Decision", text: () => "", paint: explainCell },
  ],
};

/** @param {HTMLElement} root @param {any} view */
export function renderFills(root, view) {
  dataTable(root, SPEC).update(view.rows("fills"), view);
}
