// @ts-check
/** Seven numbers with sparkline and age; hover or focus gives formula and ledger lines. */

import { spark } from "../chart.js";
import {
  $, HATCH_MS, ageClass, el, flash, makeBar, setBar, setClass, setText,
} from "../dom.js";
import { arrow, dollars, duration, exactDollars, gainTone, known, money,
  percent } from "../format.js";

const signed = (ud) => (known(ud) ? `${arrow(ud)} ${money(ud, true)}`.trim() : "—");
const positionsBy = (name) => (view) => view.rows("positions").filter((p) => p[name]).map((p) =>
  [p.ticker, p[name]]);

/** Equity points with the drawdown from the highest point so far. */
export function drawdowns(rows) {
  let peak = -Infinity;
  return rows.map((row) => {
    if (known(row.equity_ud)) peak = Math.max(peak, row.equity_ud);
    return { at_ms: row.at_ms, drawdown_ud: known(row.equity_ud) ? peak - row.equity_ud : null };
  });
}

/** label, field, words, colour, series, lines behind the number */
const CELLS = [
  {
    id: "equity", label: "Equity", big: true, field: "equity_ud", colour: "--yes", show: (o) =>
      dollars(o.equity_ud),
    means: "cash + positions at the bid they could hit now",
    lines: (view) => [["cash", view.store.account?.balance_ud ?? view.one("overview")?.cash_ud],
      ["positions", view.store.account?.positions_value_ud
      ?? view.one("overview")?.positions_value_ud]],
  },
  {
    id: "day", label: "Day P&L after fees", big: true, field: "day_pnl_ud", signed: true,
      show: (o) => signed(o.day_pnl_ud), colour: "--muted",
    series: (rows) => rows.map((r) => (known(r.realised_ud) && known(r.unrealised_ud)
      && known(r.fees_ud) ? r.realised_ud + r.unrealised_ud - r.fees_ud : null)),
    means: "realised + unrealised − fees since 00:00 New York",
    lines: (view) => ["realised_ud", "unrealised_ud", "fees_ud"].map((f) =>
      [f === "fees_ud" ? "− fees" : f.slice(0, -3), view.one("overview")?.[f]]),
  },
  { id: "realised", label: "Realised", field: "realised_ud", signed: true, show: (o) =>
    signed(o.realised_ud), colour: "--muted",
    means: "closed and settled parts of positions, before fees",
    lines: positionsBy("realised_ud") },
  { id: "unrealised", label: "Unrealised", field: "unrealised_ud", signed: true, show: (o) =>
    signed(o.unrealised_ud), colour: "--muted",
    means: "open positions at the bid they could hit − what they cost",
    lines: positionsBy("unrealised_ud") },
  { id: "fees", label: "Fees", field: "fees_ud", show: (o) => money(o.fees_ud), colour: "--muted",
    means: "charged by the exchange, as booked", lines: positionsBy("fees_ud") },
  {
    id: "exposure", label: "Exposure", field: "exposure_ud", max: "exposure_max_ud", show: (o) =>
      money(o.exposure_ud), colour: "--yes",
    means: "most that can be lost with every live and unknown order filled",
    lines: (view) => view.rows("positions").filter((p) => p.worst_case_ud).map((p) =>
      [p.ticker, p.worst_case_ud]),
  },
  {
    id: "drawdown", label: "Drawdown", big: true, field: "drawdown_ud", max: "drawdown_max_ud",
      show: (o) => money(o.drawdown_ud), colour: "--loss",
    series: (rows) => drawdowns(rows).map((r) => r.drawdown_ud),
      means: "highest equity so far − equity now",
    lines: (view) => [["limit", view.one("overview")?.drawdown_max_ud]],
  },
];

function make(root) {
  const row = el("div", { class: "cells" });
  for (const cell of CELLS) {
    const tip = el("span", { class: "tip", role: "tooltip", id: `tip-${cell.id}` });
    row.append(el("button", { type: "button", class: `cell${cell.big ? " big" : ""}`,
      id: `n-${cell.id}`, "aria-describedby": tip.id },
      el("span", { class: "label", text: cell.label }), el("output"),
        el("canvas", { "aria-hidden": "true" }),
      el("span", { class: "note" }), ...(cell.max ? [makeBar("limit")] : []), tip));
  }
  root.append(row);
}

function tipText(cell, view, o) {
  const lines = cell.lines(view).slice(0, 6).map(([name, ud]) => `${name}  ${exactDollars(ud)}`);
  return [`= ${cell.means}`, `exactly ${exactDollars(o?.[cell.field])}`, ...lines].join("\n");
}

function paintCell(node, cell, view, o, rows, age) {
  const value = o?.[cell.field];
  const output = $(node, "output");
  if (setText(output, o ? cell.show(o) : "—")) flash(output);
  const tone = cell.signed ? gainTone(value) : "";
  setClass(output, `${tone} ${o ? ageClass(age) : ""}`.trim());
  const limit = o?.[cell.max];
  const ratio = limit > 0 && known(value) ? value / limit : null;
  const share = `${percent(ratio)} of ${dollars(limit, { digits: limit % 1e6 ? 2 : 0 })}`;
  setText($(node, ".note"), cell.max && age < HATCH_MS ? share : duration(age));
  const bar = $(node, ".bar");
  if (bar) setBar(bar, ratio);
  if (bar) setClass(bar, `bar ${ratio > 0.9 ? "loss" : ratio > 0.7 ? "attention" : ""}`.trim());
  const series = cell.series ? cell.series(rows) : [...rows.map((r) => r[cell.field]), value];
  spark($(node, "canvas"), series, tone ? `--${tone}` : cell.colour);
  setText($(node, ".tip"), tipText(cell, view, o));
}

export function renderHeadline(root, view) {
  if (!$(root, ".cells")) make(root);
  const o = view.one("overview");
  const rows = view.rows("equity").slice(-180);
  const age = view.store.overviewAgeMs();
  for (const cell of CELLS) paintCell($(root, `#n-${cell.id}`), cell, view, o, rows, age);
}
