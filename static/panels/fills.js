// @ts-check
/** Fills, newest first: fee charged beside fee expected, markouts, the decision behind each. */

import {
  CENT, DOLLAR, NUM, button, col, dataTable, setAttr, setText, sides, tickers, times,
} from "../dom.js";
import { cents, centsDiff, contracts, dollars, gainTone, known, plain } from "../format.js";
import { lastReason } from "./orders.js";

const feeOff = (row) => known(row.fee_expected_ud) && row.fee_ud !== row.fee_expected_ud;
const fee = (ud) => (ud === 0 ? "0" : dollars(ud, { digits: 4, unit: "" }));
const markout = (id, label, field) =>
  col(id, label, field, centsDiff, { ...CENT, tone: (r) => gainTone(r[field]) });

function explainCell(cell, row, view) {
  if (!cell.firstChild) cell.append(button("", null, { class: "act small" }));
  setText(cell.firstChild, row.decision_id ? `… ${row.decision_id.slice(-6)}` : "explain");
  setAttr(cell.firstChild, "aria-label",
    `Explain fill in ${row.ticker}, decision ${row.decision_id ?? "unknown"}`);
  cell.firstChild.onclick = () => view.explain(row.decision_id ?? row.fill_id);
}

const SPEC = {
  id: "fills", caption: "Fills, newest first", stream: true,
  key: (row) => row.fill_id,
  onOpen: (row, view) => view.explain(row.fill_id),
  empty: (view) => {
    const rests = view.rows("orders").some((o) => o.status === "resting");
    const why = rests ? "Orders rest and wait for a taker." : lastReason(view);
    return `No fills in this run yet. ${why}`;
  },
  columns: [
    times(12),
    tickers({ ch: 28 }),
    sides(),
    col("count", "Contracts", "count_h", contracts, NUM),
    col("price", "Price", "price_cc", cents, CENT),
    col("role", "Role", "is_taker", (is) => (known(is) ? (is ? "taker" : "maker") : "—"), {
      ch: 8, tone: "muted",
    }),
    col("fee", "Fee", "fee_ud", fee, { ...DOLLAR, tone: (r) =>
      (feeOff(r) ? "attention" : r.fee_ud ? "" : "muted") }),
    col("expected", "Expected", "fee_expected_ud", fee, {
      ...DOLLAR, text: (r) => (feeOff(r) ? "! " : "") + fee(r.fee_expected_ud),
      tone: (r) => (feeOff(r) ? "attention" : "muted"),
    }),
    markout("m1", "1 s", "markout_1s_cc"), markout("m30", "30 s", "markout_30s_cc"),
    markout("m300", "5 min", "markout_300s_cc"),
    col("strategy", "Strategy", "strategy", plain, { tone: "muted" }),
    { id: "do", label: "Decision", ch: 15, text: () => "", paint: explainCell },
  ],
};

export function renderFills(root, view) {
  dataTable(root, SPEC).update(view.rows("fills"), view);
}
