// @ts-check
/** Positions: what is held, what it cost, what leaving costs, the worst that can happen. */

import { flattenDialog, guarded } from "../controls.js";
import { $, CENT, DOLLAR, NUM, button, col, dataTable, el, setText, tickers } from "../dom.js";
import {
  arrow, cents, contracts, duration, gainTone, heldTone, known, money, moneyColumn, plain,
  positionWords, untilClose,
} from "../format.js";
import { lastReason } from "./orders.js";

const RECONCILE_FRESH_MS = 60000;

/** A position is true when verified, or while a clean and recent reconcile carries it. */
function verifiedAge(row, view) {
  const o = view.one("overview");
  const clean = o && o.reconcile_difference_ud === 0 && known(o.reconcile_age_ms)
    && o.reconcile_age_ms < RECONCILE_FRESH_MS;
  const carried = clean ? view.store.topics.overview.changedAtMs : null;
  return view.ageMs(Math.max(carried ?? -Infinity, row.verified_at_ms ?? -Infinity));
}

const cost = (ud) => moneyColumn(known(ud) ? -ud : null);
const result = (id, label, field, format, ch) =>
  col(id, label, field, format, { ...DOLLAR, ch, tone: (r) => gainTone(r[field]) || "muted" });

const SPEC = {
  id: "positions", caption: "Open positions", sort: ["ticker", "asc"],
  key: (row) => row.ticker, age: verifiedAge,
  onOpen: (row, view) => view.select(row.ticker),
  empty: (view) => (view.store.topics.positions.rev === null
    ? "Positions are not known yet: the first reconcile reads them."
    : `No position. The first fill opens one. ${lastReason(view)}`),
  columns: [
    tickers({
      ch: 28, hint: (r, v) => v.get("markets", r.ticker)?.title ?? r.ticker,
    }),
    col("position", "Position", "position_h", positionWords, {
      ...NUM, ch: 10, flash: true, tone: (r) => heldTone(r.position_h),
    }),
    col("average", "Average", "average_cc", (cc) => cents(cc, 2), { ...CENT, ch: 11 }),
    col("mark", "Mark", "mark_cc", (cc) => cents(cc, 2), {
      ...CENT, ch: 9, flash: true, hint: "the bid that could be hit now",
    }),
    result("unrealised", "Unrealised", "unrealised_ud", (ud) =>
      `${arrow(ud)} ${moneyColumn(ud)}`.trim(), 13),
    result("realised", "Realised", "realised_ud", moneyColumn, 11),
    col("fees", "Fees", "fees_ud", cost, { ...DOLLAR, ch: 9,
      tone: (r) => (r.fees_ud ? "" : "muted") }),
    col("worst", "Worst case", "worst_case_ud", moneyColumn, { ...DOLLAR, ch: 13 }),
    col("event", "Event", "event_ticker", plain, { ch: 21, tone: "muted" }),
    col("eventworst", "Event worst", "event_worst_ud", moneyColumn, { ...DOLLAR, ch: 13 }),
    col("close", "Closes", "close_at_ms", String, {
      ...NUM, ch: 10, text: (r, v) => untilClose(v.leftMs(r.close_at_ms), duration),
    }),
    col("exit", "Cost to exit", "exit_cost_ud", cost, {
      ...DOLLAR, ch: 13.4, hint: "fee and spread at the present book",
    }),
    col("foreign", "Foreign", "foreign_h", (h) => (h === 0 ? "·" : contracts(h)), {
      ...NUM, ch: 9, tone: (r) => (r.foreign_h ? "attention" : "muted"),
      hint: "contracts that this trader did not trade",
    }),
    col("verified", "Verified", "verified_at_ms", String, {
      ...NUM, ch: 9, tone: "muted", text: (r, v) => duration(v.ageMs(r.verified_at_ms)),
    }),
  ],
};

export function renderPositions(root, view) {
  if (!$(root, ".bar-top")) {
    root.append(el("div.bar-top", el("h3", "Positions"), el("output"),
      button("Flatten …", () => guarded(flattenDialog), { "aria-keyshortcuts": "f" })),
    el("div.grid-host"));
  }
  const held = view.rows("positions").filter((p) => p.position_h || p.realised_ud || p.foreign_h);
  const open = held.filter((p) => p.position_h);
  const worst = open.every((p) => known(p.worst_case_ud))
    ? open.reduce((sum, p) => sum + p.worst_case_ud, 0) : null;
  setText($(root, "output"),
    `${open.length} open${open.length ? `, worst case together ${money(worst, true)}` : ""}`);
  dataTable($(root, ".grid-host"), SPEC).update(held, view);
}
