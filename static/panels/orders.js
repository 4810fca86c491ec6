// @ts-check
/** Working orders; unknown ones on top and amber. Cancel of one order is one click. */

import { control, guarded } from "../controls.js";
import { CENT, NUM, button, col, dataTable, setAttr, sides, tickers } from "../dom.js";
import { cents, clockTime, contracts, duration, known, micros, words } from "../format.js";

const ORDER_OF_STATUS = ["unknown", "intent", "sent", "resting", "rejected", "never_accepted",
  "executed", "canceled"];
const LIVE = new Set(["unknown", "intent", "sent", "resting"]);
const TONES = { unknown: "attention", rejected: "loss", never_accepted: "loss", executed: "gain",
  canceled: "muted" };

const rank = (row) => ORDER_OF_STATUS.indexOf(row.status) * 1e14 - (row.sent_at_ms ?? 0);
const age = (row, view) => (known(row.sent_at_ms) ? -view.leftMs(row.sent_at_ms) : null);
const expiry = (row, view) => (LIVE.has(row.status) ? view.leftMs(row.expires_at_ms) : null);

const estimated = (row) => row.ahead_from === "estimate";
const ahead = (row) =>
  (row.status === "resting" ? contracts(row.ahead_h)
    + (estimated(row) && known(row.ahead_h) ? "~" : "") : "·");
const aheadFrom = (row) => (estimated(row) ? "estimate of the queue model"
  : "asked from the exchange");
function ackTime(row) {
  const both = known(row.acked_at_ms) && known(row.sent_at_ms);
  return both ? micros((row.acked_at_ms - row.sent_at_ms) * 1000) : "—";
}

function cancelCell(cell, row) {
  if (!cell.firstChild) cell.append(button("Cancel", null, { class: "act small" }));
  const cancel = cell.firstChild;
  cancel.hidden = !LIVE.has(row.status) || row.foreign;
  setAttr(cancel, "aria-label",
    `Cancel ${row.side} ${contracts(row.remaining_h)} in ${row.ticker}`);
  cancel.onclick = () => guarded(() => control("cancel-all",
    { client_order_id: row.client_order_id }));
}

/** "No orders. Last reason: edge below cost (edge −4 cc, needs ≥ 0 cc)." */
export function lastReason(view) {
  const refusals = view.rows("funnel").filter((f) => f.reason !== "acted" && f.reason !== "kept");
  const last = refusals.reduce((a, b) => (a?.last_at_ms >= b.last_at_ms ? a : b), null);
  if (!last) return "No strategy was asked yet.";
  const near = last.nearest?.value ? ` (${last.nearest.value}, needs ${last.nearest.limit})` : "";
  return `Last reason: ${words(last.reason)}${near}.`;
}

const SPEC = {
  id: "orders", caption: "Orders, working and ended within a minute", sort: ["status", "asc"],
  key: (row) => row.client_order_id,
  rowTone: (row) => (row.status === "unknown" ? "row-attention" : LIVE.has(row.status) ? ""
    : "ended"),
  onOpen: (row, view) => view.explain(row.decision_id ?? row.client_order_id),
  empty: (view) => (view.store.topics.orders.rev === null
    ? "Orders are not known yet: the first reconcile reads them."
    : `No orders. ${lastReason(view)}`),
  columns: [
    col("status", "Status", "status", words, {
      ch: 11, sort: rank, text: (r) => (r.status === "unknown" ? "! " : "") + words(r.status),
      tone: (r) => TONES[r.status] ?? "", hint: (r) => r.status_why,
    }),
    tickers({ ch: 28 }),
    sides(),
    col("price", "Price", "price_cc", cents, { ...CENT, ch: 9 }),
    col("remaining", "Remaining", "remaining_h", contracts, {
      ...NUM, ch: 12, flash: true, text: (r) =>
        `${contracts(r.remaining_h)} / ${contracts(r.count_h)}`,
    }),
    col("filled", "Filled", "filled_h", (h) => (h === 0 ? "·" : contracts(h)), { ...NUM, ch: 9 }),
    col("ahead", "Ahead", "ahead_h", contracts, { ...NUM, ch: 11, text: ahead, hint: aheadFrom }),
    col("aged", "Age", "sent_at_ms", String, {
      ...NUM, ch: 11, sort: (r) => -(r.sent_at_ms ?? 0), text: (r, v) => duration(age(r, v)),
    }),
    col("expiry", "Expires in", "expires_at_ms", String, {
      ...NUM, ch: 11, text: (r, v) => (expiry(r, v) === null ? "·" : duration(expiry(r, v))),
      tone: (r, v) => (expiry(r, v) !== null && expiry(r, v) < 5000 ? "attention" : ""),
    }),
    { id: "ack", label: "Ack", ...NUM, ch: 9, text: ackTime, hint: (r) =>
      `sent ${clockTime(r.sent_at_ms)}` },
    col("strategy", "Strategy", "strategy", words, {
      ch: 19, text: (r) => (r.foreign ? "foreign" : `${r.strategy ?? "—"} ${r.slot ?? ""}`),
      tone: (r) => (r.foreign ? "attention" : "muted"),
    }),
    { id: "why", label: "Note", text: (r) => r.status_why ?? "", tone: "muted", hint: (r) =>
      r.status_why },
    {
      id: "id", label: "Client id", tail: true, text: (r) => r.client_order_id, tone: "muted",
      hint: (r) => `exchange id ${r.order_id ?? "unknown"}`,
    },
    { id: "do", label: "", ch: 11, text: () => "", paint: cancelCell },
  ],
};

export function renderOrders(root, view) {
  dataTable(root, SPEC).update(view.rows("orders"), view);
}
