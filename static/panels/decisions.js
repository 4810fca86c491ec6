// @ts-check
/** Decisions: the funnel by reason with the nearest miss, the live list, and the Explain drawer. */

import { $, NUM, arrange, byId, col, dataTable, el, makeBar, setAttr, setBar, setClass,
  setText } from "../dom.js";
import {
  cents, centsDiff, clockTime, contracts, count, dateTime, percent, plain, upper, words,
} from "../format.js";

const FUNNEL_ROWS = 14;
const state = { filter: "", request: 0 };

// ---- the drawer ----------------------------------------------------------------------

const drawer = () => byId("explain");

function open(title, nodes) {
  const dialog = drawer();
  setText($(dialog, "h2"), title);
  arrange($(dialog, ".content"), nodes);
  if (!dialog.open) dialog.showModal();
}

const pairs = (rows) => el("dl", { class: "pairs" },
  ...rows.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]));
const block = (title, ...children) => el("section", { class: "block" }, el("h3", { text: title }),
  ...children);

/** Open the drawer with name and value lines. @param {string} title @param {[string, string][]} rows */
export const openText = (title, rows) => open(title, [pairs(rows)]);

function table(caption, heads, rows) {
  const cell = (item) => (item instanceof Node ? el("td", {}, item)
    : el("td", { class: item?.tone ?? "", text: item?.text ?? String(item ?? "—") }));
  return el("table", { class: "data plain" }, el("caption", { class: "sr", text: caption }),
    el("thead", {}, el("tr", {}, ...heads.map((h) => el("th", { scope: "col", text: h })))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map(cell)))));
}

/** The book at that moment: bids of both legs side by side. */
function bookBlock(book) {
  const rows = Array.from({ length: Math.max(book.yes?.length ?? 0, book.no?.length ?? 0) },
    (_, i) => {
    const [yes, no] = [book.yes?.[i], book.no?.[i]];
    return [yes ? contracts(yes[1]) : "", { text: yes ? cents(yes[0]) : "", tone: "yes" },
      { text: no ? cents(no[0]) : "", tone: "no" }, no ? contracts(no[1]) : ""];
  });
  return block(`Book at that moment (seq ${count(book.seq)})`,
    table("Book at the decision", ["YES size", "YES bid ¢", "NO bid ¢", "NO size"],
    rows.slice(0, 8)));
}

/** fair − price − fee − margin = edge, as a waterfall. */
function edgeBlock(edge) {
  const steps = [[`fair ${String(edge.side ?? "").toUpperCase()}`, edge.fair_cc, ""],
    ["− price", -edge.price_cc, "no"], ["− fee", -edge.fee_cc, "attention"],
    ["− margin", -edge.margin_cc, "attention"],
      ["= edge", edge.edge_cc, edge.edge_cc < 0 ? "loss" : "gain"]];
  const largest = Math.max(1, ...steps.map(([, v]) => Math.abs(v ?? 0)));
  let level = 0;
  return block("Edge", el("div", { class: "waterfall" },
    ...steps.flatMap(([name, value, tone], i) => {
    const start = i === 4 ? 0 : value < 0 ? level + value : level;
    if (i < 4) level += value ?? 0;
    const fill = el("i", { class: tone });
    fill.style.left = `${(Math.max(0, Math.min(start, start
      + (i === 4 ? Math.min(0, value) : 0))) / largest) * 100}%`;
    fill.style.width = `${Math.max(0.5, (Math.abs(value ?? 0) / largest) * 100)}%`;
    return [el("span", { text: name }), el("span", { class: "track", "aria-hidden": "true" }, fill),
      el("b", { class: tone, text: i ? centsDiff(value) : cents(value) })];
  })));
}

const gateRow = (g) => [words(g.gate), g.value ?? "—", g.limit ?? "—",
  { text: g.ok ? "✓ passed" : "✕ refused", tone: g.ok ? "gain" : "loss" }];
const featureText = (value) => (typeof value === "number" && !Number.isInteger(value)
  ? value.toFixed(4) : String(value));
const wantRow = (w) => [w.slot ?? "—", { text: upper(w.side), tone: w.side }, cents(w.price_cc),
  contracts(w.count_h)];

function recordNodes(record) {
  const head = pairs([["When", `${dateTime(record.at_ms)} UTC`], ["Market", record.ticker ?? "—"],
    ["Strategy", `${record.strategy ?? "—"} (parameters ${record.params_hash ?? "—"})`],
    ["Outcome", `${words(record.reason)}${record.value ? `: ${record.value}` : ""}${record.limit
      ? `, needs ${record.limit}` : ""}`]]);
  const nodes = [head];
  if (record.edge) nodes.push(edgeBlock(record.edge));
  if (record.gates?.length) nodes.push(block("Gates",
    table("Gates passed and refused", ["Gate", "Value", "Limit", ""], record.gates.map(gateRow))));
  if (record.wants?.length) nodes.push(block("Wanted",
    table("Orders wanted", ["Slot", "Side", "Price ¢", "Contracts"], record.wants.map(wantRow))));
  if (record.commands?.length) nodes.push(block("Sent",
    table("Commands sent", ["Command", "Client order id"],
    record.commands.map((c) => [words(c.kind), c.client_order_id ?? "—"]))));
  if (record.book) nodes.push(bookBlock(record.book));
  if (record.features && Object.keys(record.features).length) {
    nodes.push(block("Looked at", pairs(Object.entries(record.features).map(([name, value]) =>
      [words(name), featureText(value)]))));
  }
  return nodes;
}

/** Ask the trader for a decision record and show it. @param {string} id decision, order or fill id */
export async function openExplain(id, view) {
  const request = ++state.request;
  open(`Explain ${id}`, [el("p", { class: "empty", text: "Asking the trader …" })]);
  let nodes;
  try {
    const answer = await fetch(`/v3/explain/${encodeURIComponent(id)}`);
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error?.message ?? `HTTP ${answer.status}`);
    nodes = recordNodes(body);
  } catch (error) {
    nodes = [el("p", { class: "empty",
      text: `No record of ${id}: ${error instanceof Error ? error.message
      : error}. Records are kept for every decision that acted,
      and the newest of each other reason.` })];
  }
  if (request === state.request && drawer().open) open(`Explain ${id}`, nodes);
}

// ---- the tab -------------------------------------------------------------------------

/** @type {import("../dom.js").TableSpec} */
const SPEC = {
  id: "decisions", caption: "Decisions, newest first", stream: true,
  key: (row) => row.decision_id,
  onOpen: (row, view) => view.explain(row.decision_id),
  empty: (view) => (state.filter && view.rows("decisions").length
    ? `No decision with reason "${words(state.filter)}" is kept; pick another bar.`
    : "No decision yet. The first book of a market brings the first one."),
  columns: [
    col("time", "Time", "at_ms", clockTime, { unit: "UTC", ch: 11, hint: (r) =>
      dateTime(r.at_ms) }),
    col("ticker", "Market", "ticker", plain, { ch: 21 }),
    col("strategy", "Strategy", "strategy", plain, { ch: 15, tone: "muted" }),
    col("reason", "Reason", "reason", words, {
      ch: 21, tone: (r) => (r.reason === "acted" ? "gain" : ""),
    }),
    col("value", "Measured", "value", plain, { hint: (r) => r.value }),
    col("limit", "Needs", "limit", plain, { tone: "muted", hint: (r) => r.limit }),
    col("wants", "Wants", "wants", count, { ...NUM, ch: 8 }),
    {
      id: "did", label: "Orders", ...NUM, ch: 8, text: (r) =>
        (r.order_ids?.length ? count(r.order_ids.length) : "·"),
      hint: (r) => (r.order_ids ?? []).join("\n"),
    },
  ],
};

function bar(list, key, i, view) {
  let item = list.children[i];
  if (item?.dataset.key === key) return item;
  item = el("li", { "data-key": key });
  const pick = () => {
    state.filter = state.filter === item.row.reason ? "" : item.row.reason;
    view.repaint();
  };
  item.append(el("button", { type: "button", on: { click: pick } }, el("span", { class: "name" }),
    makeBar(), el("span", { class: "share num" }), el("span", { class: "num n" }),
    el("span", { class: "near" })));
  return item;
}

function funnel(root, view) {
  const rows = [...view.rows("funnel")].sort((a, b) => b.count - a.count).slice(0, FUNNEL_ROWS);
  const list = $(root, ".funnel ul");
  const several = new Set(rows.map((r) => r.strategy)).size > 1;
  arrange(list, rows.map((row, i) => {
    const item = bar(list, `${row.strategy}|${row.reason}`, i, view);
    item.row = row;
    const [name, track, share, n, near] = item.firstChild.children;
    setText(name, several ? `${row.strategy}: ${words(row.reason)}` : words(row.reason));
    setBar(track, row.ratio);
    setClass(track, `bar ${row.reason === "acted" ? "gain" : ""}`.trim());
    setText(share, percent(row.ratio));
    setText(n, count(row.count));
    setText(near, row.nearest?.value ? `nearest ${row.nearest.value}, needs ${row.nearest.limit}`
      : row.stage ? words(row.stage) : "");
    setAttr(near, "title", row.nearest?.ticker ?? null);
    setAttr(item.firstChild, "aria-pressed", String(state.filter === row.reason));
    return item;
  }));
  const total = view.rows("funnel").reduce((sum, r) => sum + r.count, 0);
  setText($(root, ".funnel output"), rows.length
    ? `${count(total)} evaluations, each ended in one reason`
    : "No evaluation counted yet. It starts with the first proven book.");
}

/** @param {HTMLElement} root @param {any} view */
export function renderDecisions(root, view) {
  if (!$(root, ".funnel")) {
    root.append(el("div", { class: "split" }, el("div", { class: "funnel" },
      el("h3", { text: "Why it trades or not" }), el("output"), el("ul")),
      el("div", { class: "grid-host" })));
  }
  funnel(root, view);
  const rows = view.rows("decisions");
  dataTable($(root, ".grid-host"), SPEC).update(state.filter
    ? rows.filter((r) => r.reason === state.filter) : rows, view);
}
