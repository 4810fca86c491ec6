// @ts-check
/** Markets followed: prices, fair value, edge, position, and why nothing is done. */

import {
  $, CENT, DOLLAR, col, dataTable, el, fillPairs, fillSelect, setAttr, setHidden, setText, tickers,
} from "../dom.js";
import {
  brief, cents, centsDiff, contracts, dateTime, duration, gainTone, heldTone, known, moneyColumn,
  plain, positionWords, untilClose, words,
} from "../format.js";

const DETAIL_PX = 186;
const ROW_PX = 24;
const SOON_MS = 300_000;
const PROOF_MARK = { proven: "", resyncing: "↻ ", stale: "! ", never: "… " };
const spreadOf = (row) => (known(row.bid_cc) && known(row.ask_cc) ? row.ask_cc - row.bid_cc : null);

/** A bar from the middle: NO weight left, YES weight right. */
function imbalance(cell, row) {
  if (!cell.firstChild) cell.append(el("span.lean", { "aria-hidden": "true" }, el("i")),
    el("span.sr"));
  const ratio = row.imbalance_ratio;
  const fill = $(cell, "i");
  const part = Math.min(1, Math.abs(ratio ?? 0)) * 50;
  fill.style.width = `${part}%`;
  fill.style.left = `${(ratio ?? 0) < 0 ? 50 - part : 50}%`;
  setAttr(fill, "class", (ratio ?? 0) < 0 ? "no" : "yes");
  setText(cell.lastChild, known(ratio) ? ratio.toFixed(2) : "unknown");
}

const SPEC = {
  id: "markets", caption: "Markets followed", sort: ["ticker", "asc"],
  key: (row) => row.ticker,
  age: (row, view) => view.ageMs(view.store.bookVerifiedMs(row)),
  onOpen: (row, view) => view.select(row.ticker),
  empty: (view) => {
    const n = view.rows("markets").length;
    if (n) return `None of ${n} markets fits the search and the filters. Clear them to see all.`;
    return "No market is followed yet: discovery or --tickers fills this list.";
  },
  columns: [
    tickers({
      text: (r) => (PROOF_MARK[r.proof] ?? "") + r.ticker,
      tone: (r) => (r.proof === "proven" ? "" : "attention"),
      hint: (r) => `${r.ticker}\n${r.title ?? ""}\nbook ${r.proof}, market ${r.status}`,
    }),
    col("title", "Title", "title", plain, { hint: (r) => r.title }),
    col("close", "Closes", "close_at_ms", String, {
      num: true, ch: 7, text: (r, v) => untilClose(v.leftMs(r.close_at_ms), brief),
      tone: (r, v) => ((v.leftMs(r.close_at_ms) ?? SOON_MS) < SOON_MS ? "attention" : ""),
    }),
    col("bid", "Bid", "bid_cc", cents, { ...CENT, ch: 6.3, flash: true, tone: "yes" }),
    col("ask", "Ask", "ask_cc", cents, { ...CENT, ch: 6.3, flash: true, tone: "no" }),
    { id: "spread", label: "Spr", ...CENT, ch: 6, sort: spreadOf, text: (r) =>
      cents(spreadOf(r)) },
    col("imb", "Imb", "imbalance_ratio", () => "", {
      ch: 5.4, paint: imbalance,
      hint: (r) => `imbalance ${r.imbalance_ratio?.toFixed(2) ?? "unknown"} (−1 NO … +1 YES)`,
    }),
    col("fair", "Fair", "fair_cc", (cc) => cents(cc, 2), { ...CENT, ch: 6.8 }),
    col("edge", "Edge", "edge_cc", centsDiff, {
      ...CENT, ch: 7.4, tone: (r) => gainTone(r.edge_cc), hint: "after fee and margin",
    }),
    col("position", "Position", "position_h", (h) => (h === 0 ? "·" : positionWords(h)), {
      num: true, ch: 9.9, flash: true, tone: (r) => heldTone(r.position_h),
    }),
    col("pnl", "P&L", "pnl_ud", (ud) => (ud === 0 ? "·" : moneyColumn(ud)), {
      ...DOLLAR, ch: 9.9, flash: true, tone: (r) => gainTone(r.pnl_ud) || "muted",
    }),
    col("markout", "Mk5s", "markout_5s_cc", centsDiff, {
      ...CENT, ch: 7.4, tone: (r) => gainTone(r.markout_5s_cc),
      hint: "mean move of the mid in our favour 5 s after our fills",
    }),
    col("reason", "Reason", "reason", words, {
      tone: (r) => (r.reason === "acted" || r.reason === "kept" ? "gain" : "muted"),
      hint: (r) => `${r.strategy ?? "no strategy"}: ${words(r.reason)}`,
    }),
  ],
};

function wire(root, view) {
  root.dataset.wired = "1";
  for (const control of root.querySelectorAll("input, select")) control.addEventListener("input",
    () => view.repaint());
}

/** Room below a short list tells more about the selected market. */
function detail(root, view, few) {
  let box = $(root, ".detail");
  if (!box) root.append((box = el("dl.pairs.detail")));
  const m = few && view.selected ? view.get("markets", view.selected) : null;
  setHidden(box, !m);
  if (!m) return;
  const last = view.rows("decisions").findLast((d) => d.ticker === m.ticker);
  fillPairs(box, [
    ["Market", plain(m.title)], ["Status", `${plain(m.status)}, book ${m.proof}`],
    ["Closes", `${dateTime(m.close_at_ms)} UTC`],
    ["Event", `${plain(m.event_ticker)} of ${plain(m.series)}`],
    ["Best bid", `${cents(m.bid_cc)} ¢ × ${contracts(m.bid_h)}`],
    ["Best ask", `${cents(m.ask_cc)} ¢ × ${contracts(m.ask_h)}`],
    ["Last price", `${cents(m.last_cc)} ¢`],
    ["Book moved", `${duration(view.ageMs(m.changed_at_ms))} ago`],
    ["Last decision", last ? `${words(last.reason)}${last.value ? `: ${last.value}` : ""}` : "—"],
    ["It needs", last?.limit || "—"],
  ]);
}

export function renderMarkets(root, view) {
  if (!root.dataset.wired) wire(root, view);
  const all = view.rows("markets");
  fillSelect($(root, "#filter-strategy"), all.map((r) => r.strategy).filter(Boolean));
  const [search, proof, held, strategy] = ["#market-search", "#filter-proof", "#filter-position",
    "#filter-strategy"].map((id) => $(root, id).value.trim().toLowerCase());
  const fits = (r) => (!search || `${r.ticker} ${r.title ?? ""}`.toLowerCase().includes(search))
    && (!proof || r.proof === proof)
    && (!held || (held === "held") === Boolean(r.position_h))
      && (!strategy || r.strategy === strategy);
  const rows = all.filter(fits);
  setText($(root, "#markets-count"), rows.length === all.length ? String(all.length)
    : `${rows.length} of ${all.length}`);
  setText($(root, ".age"), duration(view.ageMs(view.store.feedAtMs())));
  dataTable(root, SPEC).update(rows, view);
  detail(root, view, rows.length * ROW_PX + DETAIL_PX < root.clientHeight);
}
