// @ts-check
/** Working orders; unknown ones on top and amber. Cancel of one order is one click. */

import { control, guarded } from "../controls.js";
import { dataTable, el, setAttr } from "../dom.js";
import { cents, clockTime, contracts, duration, known, sideTone, words } from "../format.js";

const ORDER_OF_STATUS = ["unknown", "intent", "sent", "resting", "rejected", "never_accepted", "executed", "canceled"];
const LIVE = new Set(["unknown", "intent", "sent", "resting"]);
const TONES = { unknown: "attention", rejected: "loss", never_accepted: "loss", executed: "gain", canceled: "muted" };

const rank = (row) => ORDER_OF_STATUS.indexOf(row.status) * 1e14 - (row.sent_at_ms ?? 0);
const age = (row, view) => (known(row.sent_at_ms) && view.nowMs() !== null ? view.nowMs() - row.sent_at_ms : null);
const expiry = (row, view) => (LIVE.has(row.status) && known(row.expires_at_ms) && view.nowMs() !== null ? row.expires_at_ms - view.nowMs() : null);

function cancelCell(cell, row) {
  if (!cell.firstChild) cell.append(el("button", { type: "button", class: "act small", text: "Cancel" }));
  const button = cell.firstChild;
  button.hidden = !LIVE.has(row.status) || row.foreign;
  setAttr(button, "aria-label", `Cancel ${row.side} ${contracts(row.remaining_h)} in ${row.ticker}`);
  button.onclick = () => guarded(() => control("cancel-all", { client_order_id: row.client_order_id }));
}

/** "No orders. Last reason: edge below cost (edge −4 cc, needs ≥ 0 cc)." */
export function lastReason(view) {
  const last = view.rows("funnel").filter((f) => f.reason !== "acted" && f.reason !== "kept").reduce((a, b) => (!a || b.last_at_ms > a.last_at_ms ? b : a), null);
  if (!last) return "The first evaluation of a strategy will say why.";
  return `Last reason: ${words(last.reason)}${last.nearest?.value ? ` (${last.nearest.value}, needs ${last.nearest.limit})` : ""}.`;
}

/** @type {import("../dom.js").TableSpec} */
const SPEC = {
  id: "orders", caption: "Orders, working and ended within a minute", sort: ["status", "asc"],
  key: (row) => row.client_order_id,
  rowTone: (row) => (row.status === "unknown" ? "row-attention" : LIVE.has(row.status) ? "" : "ended"),
  onOpen: (row, view) => view.explain(row.decision_id ?? row.client_order_id),
  empty: (view) => (view.store.topics.orders.rev === null ? "Orders are not known yet: the first reconcile reads them." : `No orders. ${lastReason(view)}`),
  columns: [
    { id: "status", label: "Status", sort: rank, text: (r) => `${r.status === "unknown" ? "! " : ""}${words(r.status)}`, tone: (r) => TONES[r.status] ?? "", hint: (r) => r.status_why ?? "" },
    { id: "ticker", label: "Market", sort: (r) => r.ticker, text: (r) => r.ticker },
    { id: "side", label: "Side", sort: (r) => r.side, text: (r) => String(r.side ?? "—").toUpperCase(), tone: (r) => sideTone(r.side) },
    { id: "price", label: "Price", unit: "¢", num: true, sort: (r) => r.price_cc, text: (r) => cents(r.price_cc) },
    { id: "remaining", label: "Remaining", num: true, flash: true, sort: (r) => r.remaining_h, text: (r) => `${contracts(r.remaining_h)} / ${contracts(r.count_h)}` },
    { id: "filled", label: "Filled", num: true, sort: (r) => r.filled_h, text: (r) => (r.filled_h === 0 ? "·" : contracts(r.filled_h)) },
    { id: "ahead", label: "Ahead", num: true, sort: (r) => r.ahead_h, text: (r) => (r.status === "resting" ? `${contracts(r.ahead_h)}${r.ahead_from === "estimate" && known(r.ahead_h) ? "~" : ""}` : "·"), hint: (r) => (r.ahead_from === "estimate" ? "estimate of the queue model" : "asked from the exchange") },
    { id: "aged", label: "Age", num: true, sort: (r) => -(r.sent_at_ms ?? 0), text: (r, v) => duration(age(r, v)) },
    { id: "expiry", label: "Expires in", num: true, sort: (r) => r.expires_at_ms, text: (r, v) => (expiry(r, v) === null ? "·" : duration(expiry(r, v))), tone: (r, v) => (expiry(r, v) !== null && expiry(r, v) < 5000 ? "attention" : "") },
    { id: "ack", label: "Ack", num: true, text: (r) => (known(r.acked_at_ms) && known(r.sent_at_ms) ? `${r.acked_at_ms - r.sent_at_ms} ms` : "—"), hint: (r) => `sent ${clockTime(r.sent_at_ms)}` },
    { id: "strategy", label: "Strategy", sort: (r) => r.strategy, text: (r) => (r.foreign ? "foreign" : `${r.strategy ?? "—"}${r.slot ? ` ${r.slot}` : ""}`), tone: (r) => (r.foreign ? "attention" : "muted") },
    { id: "why", label: "Note", text: (r) => r.status_why ?? "", tone: () => "muted", hint: (r) => r.status_why ?? "" },
    { id: "id", label: "Client id", text: (r) => r.client_order_id, tone: () => "muted", hint: (r) => `exchange id ${r.order_id ?? "unknown"}` },
    { id: "do", label: "", text: () => "", paint: cancelCell },
  ],
};

/** @param {HTMLElement} root @param {any} view */
export function renderOrders(root, view) {
  dataTable(root, SPEC).update(view.rows("orders"), view);
}
