// @ts-check
/** Seven numbers with sparkline and age; hover or focus gives formula and ledger lines. */

import { spark } from "../chart.js";
import { $, HATCH_MS, ageClass, el, flash, makeBar, setAttr, setBar, setClass,
  setText } from "../dom.js";
import {
  arrow, dollars, duration, exactDollars, gainTone, known, money, percent, shortDollars,
} from "../format.js";

const SPARK_POINTS = 180;
const LINES_MAX = 6;

const signed = (ud) => `${arrow(ud)} ${money(ud, true)}`.trim();
const total = (name) => (view) => view.one("overview")?.[name];
const held = (name) => (view) =>
  view.rows("positions").filter((p) => p[name]).map((p) => [p.ticker, p[name]]);

/** Equity points with the drawdown from the highest point so far. */
export function drawdowns(rows) {
  let peak = -Infinity;
  return rows.map((row) => {
    if (known(row.equity_ud)) peak = Math.max(peak, row.equity_ud);
    return { at_ms: row.at_ms, drawdown_ud: known(row.equity_ud) ? peak - row.equity_ud : null };
  });
}

/** The seven, by field of the overview; `lines` are the ledger lines behind the number. */
const CELLS = [
  {
    id: "equity", label: "Equity", field: "equity_ud", big: true, colour: "--yes", show: dollars,
    means: "cash + positions at the bid they could hit now",
    lines: (view) => [["cash", view.store.account?.balance_ud ?? total("cash_ud")(view)],
      ["positions", view.store.account?.positions_value_ud ?? total("positions_value_ud")(view)]],
  },
  {
    id: "day", label: "Day P&L after fees", field: "day_pnl_ud", big: true, show: signed,
    series: (rows) => rows.map((r) => ([r.realised_ud, r.unrealised_ud, r.fees_ud].every(known)
      ? r.realised_ud + r.unrealised_ud - r.fees_ud : null)),
    means: "realised + unrealised − fees since 00:00 New York",
    lines: (view) => ["realised", "unrealised", "fees"].map((n) => [n, total(`${n}_ud`)(view)]),
  },
  {
    id: "realised", label: "Realised", field: "realised_ud", show: signed,
    means: "closed and settled parts of positions, before fees", lines: held("realised_ud"),
  },
  {
    id: "unrealised", label: "Unrealised", field: "unrealised_ud", show: signed,
    means: "open positions at the bid they could hit − what they cost",
    lines: held("unrealised_ud"),
  },
  {
    id: "fees", label: "Fees", field: "fees_ud", show: money,
    means: "charged by the exchange, as booked", lines: held("fees_ud"),
  },
  {
    id: "exposure", label: "Exposure", field: "exposure_ud", max: "exposure_max_ud", show: money,
    colour: "--yes", means: "most that can be lost with every live and unknown order filled",
    lines: held("worst_case_ud"),
  },
  {
    id: "drawdown", label: "Drawdown", field: "drawdown_ud", max: "drawdown_max_ud", big: true,
    show: money, means: "highest equity so far − equity now",
    series: (rows) => drawdowns(rows).map((r) => r.drawdown_ud),
    lines: (view) => [["limit", total("drawdown_max_ud")(view)]],
  },
];

function make(root) {
  const row = el("div.cells");
  for (const cell of CELLS) {
    const tip = el("span.tip", { role: "tooltip", id: `tip-${cell.id}` });
    row.append(el("button", { type: "button", class: `cell${cell.big ? " big" : ""}`,
      id: `n-${cell.id}`, "aria-describedby": tip.id },
      el("span.label", { text: cell.label }), el("output"),
      el("canvas", { "aria-hidden": "true" }),
      el("span.note"), ...(cell.max ? [makeBar()] : []), tip));
  }
  root.append(row);
}

function tipText(cell, view, o) {
  const found = cell.lines(view).slice(0, LINES_MAX);
  const wide = Math.max(...found.map(([name]) => name.length));
  const lines = found.map(([name, ud]) => `${name.padEnd(wide)}  ${exactDollars(ud).padStart(14)}`);
  return [`= ${cell.means}`, `exactly ${exactDollars(o?.[cell.field])}`, ...lines].join("\n");
}

function paintCell(node, cell, view, o, rows, age) {
  const value = o?.[cell.field];
  const output = $(node, "output");
  if (setText(output, known(value) ? cell.show(value) : "—")) flash(output);
  const tone = cell.show === signed ? gainTone(value) : "";
  setClass(output, `${tone} ${o ? ageClass(age) : ""}`.trim());
  const limit = o?.[cell.max];
  const ratio = limit > 0 && known(value) ? value / limit : null;
  const note = $(node, ".note");
  const isShare = cell.max && age < HATCH_MS;
  setText(note, isShare ? percent(ratio) : duration(age));
  setAttr(note, "data-more", isShare ? ` of ${shortDollars(limit)}` : "");
  const bar = $(node, ".bar");
  if (bar) setBar(bar, ratio, ratio > 0.9 ? "loss" : ratio > 0.7 ? "attention" : "");
  const series = cell.series ? cell.series(rows) : [...rows.map((r) => r[cell.field]), value];
  spark($(node, "canvas"), series, tone ? `--${tone}`
    : cell.colour ?? (cell.id === "drawdown" && value > 0 ? "--loss" : "--muted"));
  setText($(node, ".tip"), tipText(cell, view, o));
}

export function renderHeadline(root, view) {
  if (!$(root, ".cells")) make(root);
  const o = view.one("overview");
  const rows = view.rows("equity").slice(-SPARK_POINTS);
  const age = view.store.overviewAgeMs();
  for (const cell of CELLS) paintCell($(root, `#n-${cell.id}`), cell, view, o, rows, age);
}
