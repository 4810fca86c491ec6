// @ts-check
/** Decisions: the funnel by reason with the nearest miss, the live list, and the Explain drawer. */

import {
  $, NUM, arrange, button, byId, col, dataTable, el, fillPairs, makeBar, plainTable, setAttr,
  setBar, setText, tickers, times,
} from "../dom.js";
import {
  cents, centsDiff, contracts, count, dateTime, percent, plain, upper, words,
} from "../format.js";
import { getJson } from "../store.js";

const FUNNEL_ROWS = 14;
const state = { filter: "", request: 0 };

// ---- the drawer ----

const drawer = () => byId("explain");

function open(title, nodes) {
  const dialog = drawer();
  setText($(dialog, "h2"), title);
  arrange($(dialog, ".content"), nodes);
  if (!dialog.open) dialog.showModal();
}

function pairs(rows) {
  const list = el("dl.pairs");
  fillPairs(list, rows);
  return list;
}

const block = (title, ...children) => el("section.block", el("h3", title),
  ...children);

/** Open the drawer with lines of name and value. */
export const openText = (title, rows) => open(title, [pairs(rows)]);

/** The book at that moment: bids of both legs side by side. */
function bookBlock({ seq, yes = [], no = [] }) {
  const level = ([price, size] = [null, null]) => [cents(price), contracts(size)];
  const rows = Array.from({ length: Math.min(8, Math.max(yes.length, no.length)) }, (_, i) => {
    const [[yesAt, yesSize], [noAt, noSize]] = [level(yes[i]), level(no[i])];
    return [yesSize, [yesAt, "yes"], [noAt, "no"], noSize];
  });
  return block(`Book at that moment (seq ${count(seq)})`,
    plainTable("Book at the decision", ["YES size", "YES bid ¢", "NO bid ¢", "NO size"], rows));
}

/** fair − price − fee − margin = edge, as a waterfall. */
function edgeBlock(edge) {
  const tone = edge.edge_cc < 0 ? "loss" : "gain";
  const steps = [
    [`fair ${upper(edge.side)}`, edge.fair_cc, ""], ["− price", -edge.price_cc, "no"],
    ["− fee", -edge.fee_cc, "attention"], ["− margin", -edge.margin_cc, "attention"],
  ];
  const largest = Math.max(1, ...steps.map(([, cc]) => Math.abs(cc)));
  const bar = (name, cc, from, hue) => {
    const fill = el("i", { class: hue });
    fill.style.left = `${(Math.max(0, Math.min(from, from + cc)) / largest) * 100}%`;
    fill.style.width = `${Math.max(0.5, (Math.abs(cc) / largest) * 100)}%`;
    const track = el("span.track", { "aria-hidden": "true" }, fill);
    return [el("span", name), track, el("b", { class: hue, text: centsDiff(cc) })];
  };
  let level = 0;
  const bars = steps.flatMap(([name, cc, hue]) => bar(name, cc, (level += cc) - cc, hue));
  const sum = bar("= edge", edge.edge_cc, 0, tone);
  return block(`Edge of the ${upper(edge.side)} order`, el("div.waterfall", ...bars, ...sum));
}

const gateRow = (g) => [words(g.gate), plain(g.value), plain(g.limit),
  g.ok ? ["✓ passed", "gain"] : ["✕ refused", "loss"]];
const wantRow = (w) =>
  [plain(w.slot), [upper(w.side), w.side], cents(w.price_cc), contracts(w.count_h)];
const commandRow = (c) => [words(c.kind), plain(c.client_order_id)];
const feature = ([name, value]) =>
  [words(name), typeof value === "number" && value % 1 ? value.toFixed(4) : plain(value)];

/** title, field of the record, heads, row @type {any[][]} */
const PARTS = [
  ["Gates", "gates", ["Gate", "Value", "Limit", ""], gateRow],
  ["Wanted", "wants", ["Slot", "Side", "Price ¢", "Contracts"], wantRow],
  ["Sent", "commands", ["Command", "Client order id"], commandRow],
];

function recordNodes(record) {
  const needs = record.limit ? `, needs ${record.limit}` : "";
  const nodes = [pairs([
    ["When", `${dateTime(record.at_ms)} UTC`], ["Market", plain(record.ticker)],
    ["Strategy", `${plain(record.strategy)} (parameters ${plain(record.params_hash)})`],
    ["Outcome", words(record.reason) + (record.value ? `: ${record.value}` : "") + needs],
  ])];
  const edges = record.edges ?? [record.edge].filter(Boolean);
  nodes.push(...edges.map(edgeBlock));
  for (const [title, name, heads, row] of PARTS) {
    const rows = record[name] ?? [];
    if (rows.length) nodes.push(block(title, plainTable(title, heads, rows.map(row))));
  }
  if (record.book) nodes.push(bookBlock(record.book));
  const seen = Object.entries(record.features ?? {});
  if (seen.length) nodes.push(block("Looked at", pairs(seen.map(feature))));
  return nodes;
}

/** Ask the trader for a record and show it. @param {string} id decision, order or fill id */
export async function openExplain(id, view) {
  const request = ++state.request;
  open(`Explain ${id}`, [el("p.empty", "Asking the trader …")]);
  let nodes;
  try {
    nodes = recordNodes(await getJson(`/v3/explain/${encodeURIComponent(id)}`));
  } catch (error) {
    const why = error instanceof Error ? error.message : error;
    nodes = [el("p.empty", { text: `No record of ${id}: ${why}. Kept are the records of `
      + "decisions that acted, and the newest of each other reason." })];
  }
  if (request === state.request && drawer().open) open(`Explain ${id}`, nodes);
}

// ---- the tab ----

const SPEC = {
  id: "decisions", caption: "Decisions, newest first", stream: true,
  key: (row) => row.decision_id,
  onOpen: (row, view) => view.explain(row.decision_id),
  empty: (view) => (state.filter && view.rows("decisions").length
    ? `No decision with reason "${words(state.filter)}" is kept; pick another bar.`
    : "No decision yet. The first book of a market brings the first one."),
  columns: [
    times(10),
    tickers({ ch: 23 }),
    col("reason", "Reason", "reason", words, {
      ch: 17, tone: (r) => (r.reason === "acted" ? "gain" : ""),
    }),
    col("value", "Measured", "value", plain, { hint: (r) => r.value }),
    col("limit", "Needs", "limit", plain, { tone: "muted", ch: 15, hint: (r) => r.limit }),
    col("strategy", "Strategy", "strategy", plain, { ch: 13, tone: "muted" }),
    col("wants", "Wants", "wants", count, { ...NUM, ch: 7 }),
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
  item.append(button("", pick, { class: null }));
  item.firstChild.append(el("span.name"),
    makeBar(), el("span.share.num"), el("span.num.n"),
    el("span.near"));
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
    setBar(track, row.ratio, row.reason === "acted" ? "gain" : "");
    setText(share, percent(row.ratio));
    setText(n, count(row.count));
    setText(near, row.nearest?.value ? `${row.nearest.value}, needs ${row.nearest.limit}`
      : row.stage ? words(row.stage) : "");
    setAttr(near, "title", `${row.nearest?.ticker ?? ""}\n${near.textContent}`.trim());
    setAttr(item.firstChild, "aria-pressed", String(state.filter === row.reason));
    return item;
  }));
  const total = view.rows("funnel").reduce((sum, r) => sum + r.count, 0);
  setText($(root, ".funnel output"), rows.length
    ? `${count(total)} evaluations by reason, each with its nearest miss`
    : "No evaluation counted yet. It starts with the first proven book.");
}

export function renderDecisions(root, view) {
  if (!$(root, ".funnel")) {
    root.append(el("div.split", el("div.funnel",
      el("h3", "Why it trades or not"), el("output"), el("ul")),
      el("div.grid-host")));
  }
  funnel(root, view);
  const rows = view.rows("decisions");
  dataTable($(root, ".grid-host"), SPEC).update(state.filter
    ? rows.filter((r) => r.reason === state.filter) : rows, view);
}
