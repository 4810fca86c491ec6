// @ts-check
/** The strip and the sentence under it: alive, trading or not and why, last control, last alert. */

import { controlWords, isUnlocked } from "../controls.js";
import { $, ageClass, byId, setAttr, setClass, setHidden, setText } from "../dom.js";
import { DASH, arrow, clockTime, count, dollars, duration, known, money, percent, plural,
  words } from "../format.js";

const ENVIRONMENTS = {
  sim: ["SIM", "embedded exchange, no account"], paper: ["PAPER", "MOCK MONEY"],
    production: ["PRODUCTION", "REAL MONEY"],
};
const STATE_WORDS = {
  startup: "The trader starts.",
    initializing: "Settings, lock, journal and halt latch are being read.",
  orderbook_connect: "Connecting the feed and waiting for the first books.",
  trading_client_connect: "Connecting the account: key, clock and limits.",
  kalshi_data_sync: "Reconciling orders, fills and positions with the exchange.",
  error: "Something failed; orders are cancelled and the trader recovers by itself.",
  shutdown: "The trader is shutting down.",
};
const ALERT_FRESH_MS = 5 * 60 * 1000;

/** Reasons as objects, whichever of the two forms came. @returns {any[]} */
export const degradedOf = (overview) =>
  (overview?.degraded ?? []).map((item) => (typeof item === "string" ? { reason: item } : item));

const degradedWords = (item) => {
  const where = item.markets?.length ? ` (${plural(item.markets.length, "market")})` : "";
  return `${words(item.reason)}${where}${item.clears_when ? `, clears when ${item.clears_when}`
    : ""}`;
};

/** [mark, tone, sentence]: the first thing that keeps it from trading, or how it trades. */
export function whySentence(view) {
  const o = view.one("overview");
  if (view.frozen !== null) return ["❄ VIEW FROZEN", "attention",
    `since ${clockTime(view.frozen)} UTC. Data goes on behind it; press z to go on.`];
  if (!o) return ["", "", "Waiting for the first overview from the trader."];
  const since = known(o.gate_since_at_ms) ? ` since ${clockTime(o.gate_since_at_ms)} UTC` : "";
  const by = o.gate_by || since ? ` (${`${o.gate_by ? `by ${o.gate_by}` : ""}${since}`.trim()})`
    : "";
  if (o.gate === "halted") return ["✕ HALTED", "loss",
    `${o.gate_why ?? "no reason given"}${by}. No order is created or changed until it is re-armed.`];
  if (STATE_WORDS[o.state]) return [`… ${words(o.state).toUpperCase()}`, o.state === "error"
    ? "loss" : "attention", STATE_WORDS[o.state]];
  if (o.unknown_orders) return ["! UNKNOWN", "attention",
    `${plural(o.unknown_orders,
    "order")} with unknown outcome: being asked about, never sent again.`];
  if (o.gate === "paused") return ["‖ PAUSED", "attention",
    `${o.gate_why ?? "no reason given"}${by}. Strategies are not asked; positions stay.`];
  if (o.gate === "reduce-only") return ["↓ REDUCE ONLY", "attention",
    `${o.gate_why ?? "no reason given"}${by}. Orders may only shrink a position.`];
  const degraded = degradedOf(o);
  if (degraded.length) return ["! DEGRADED", "attention",
    `${degraded.map(degradedWords).join("; ")}.`];
  return trading(view, o);
}

function trading(view, o) {
  const names = (o.strategy ?? []).join(", ") || "no strategy";
  if (o.orders_allowed === false) return ["‖ NO ORDERS", "attention",
    `${names} is asked, but no order may be sent${o.gate_why ? `: ${o.gate_why}` : "."}`];
  const working = view.rows("orders").filter((row) => row.status === "resting").length;
  const held = view.rows("positions").filter((row) => row.position_h).length;
  const top = view.rows("funnel").reduce((best, row) =>
    (!best || row.last_at_ms > best.last_at_ms ? row : best), null);
  const last = top ? `; last reason: ${words(top.reason)}${top.nearest && top.reason !== "acted"
    ? ` (${top.nearest.value}, needs ${top.nearest.limit})` : ""}` : "";
  return ["✓ TRADING", "gain",
    `${names}: ${plural(working, "order")} resting, ${plural(held, "position")}${last}.`];
}

function fact(root, id, text, { small = "", tone = "", hint = null } = {}) {
  const box = $(root, id);
  setText($(box, "output"), text);
  const note = $(box, "small");
  if (note) setText(note, small);
  setClass(box, tone);
  setAttr(box, "title", hint);
}

function environment(root, o, tape) {
  if (!o) return;
  const [word, note] = ENVIRONMENTS[o.environment] ?? [String(o.environment).toUpperCase(), ""];
  setText($(root, "#env-word"), tape ? "SIM REPLAY" : word);
  setText($(root, "#env-words"),
    `${tape ? "recorded tape" : note}${o.account ? ` · ${o.account}` : ""}`);
  setAttr(document.documentElement, "data-env", tape ? "replay" : o.environment);
}

const tone = (bad, worse = false) => (worse ? "loss" : bad ? "attention" : "");

function facts(root, view, o) {
  const now = view.nowMs();
  const since = o && now !== null && known(o.state_since_at_ms)
    ? duration(now - o.state_since_at_ms) : "";
  const waited = view.store.overviewAgeMs() ?? 0;
  const older = (ms) => (known(ms) ? ms + waited : null);
  fact(root, "#f-state", o ? words(o.state).toUpperCase() : DASH,
    { small: since, tone: tone(o && !/^(ready|acting)$/.test(o.state), o?.state === "error"),
    hint: o && `since ${clockTime(o.state_since_at_ms)} UTC` });
  fact(root, "#f-gate", o ? String(o.gate ?? DASH).toUpperCase() : DASH, {
    small: o?.gate === "open" ? "orders allowed" : known(o?.gate_since_at_ms) && now !== null
      ? duration(now - o.gate_since_at_ms) : "",
    tone: tone(o && o.gate !== "open", o?.gate === "halted"), hint: o?.gate_why ?? null,
  });
  const feed = older(o?.feed_age_ms);
  fact(root, "#f-feed", duration(feed), { tone: tone(!known(feed) || feed > 2000, feed > 10000) });
  fact(root, "#f-books", o && known(o.books_total) ? `${o.books_proven ?? DASH} / ${o.books_total}`
    : DASH, { tone: tone(o && o.books_proven < o.books_total) });
  const reconciled = older(o?.reconcile_age_ms);
  const off = o?.reconcile_difference_ud;
  fact(root, "#f-reconcile", duration(reconciled),
    { small: known(off) ? (off === 0 ? "difference 0" : `difference ${money(off, true)}`) : "",
    tone: tone(!known(reconciled) || reconciled > 60000, known(off) && off !== 0) });
  fact(root, "#f-unknown", count(o?.unknown_orders), { tone: tone(false, o?.unknown_orders > 0) });
  const used = o && Math.max(o.rate_read_ratio ?? 0, o.rate_write_ratio ?? 0);
  fact(root, "#f-budget", o && known(o.rate_write_ratio) ? percent(1 - used) : DASH,
    { tone: tone(used > 0.8),
    hint: o && `read ${percent(o.rate_read_ratio)} used, write ${percent(o.rate_write_ratio)} used` });
  fact(root, "#f-loop", known(o?.loop_lag_ms) ? `${count(o.loop_lag_ms)} ms` : DASH,
    { tone: tone(o?.loop_lag_ms > 100, o?.loop_lag_ms > 1000) });
  const pause = o?.next_pause_at_ms;
  fact(root, "#f-pause", known(pause) && now !== null ? duration(pause - now) : DASH,
    { tone: tone(known(pause) && pause - now < 600000), hint: known(pause)
    ? `exchange pause at ${clockTime(pause)} UTC` : "no pause announced" });
}

function buttons(root, view, o) {
  const open = isUnlocked();
  setText($(root, "#b-lock"), open ? "Unlocked" : "Unlock");
  setClass($(root, "#b-lock"), open ? "on" : "");
  setClass($(root, "#controls"), open ? "controls" : "controls locked");
  setText($(root, "#b-pause"), o?.gate === "halted" ? "Re-arm" : o && o.gate !== "open" ? "Resume"
    : "Pause");
  const note = open ? "hold 1 s" : "view-only: unlock first";
  for (const id of ["#b-cancel", "#b-kill"]) setAttr($(root, id), "title", note);
}

function sentence(view) {
  const [mark, toneName, text] = whySentence(view);
  const box = byId("why");
  setClass(box, toneName);
  setText($(box, "#why-mark"), mark);
  setText($(box, "#why-text"), text);
  setAttr($(box, "#why-text"), "title", text);
  const told = controlWords();
  setText($(box, "#why-control"), told?.text ?? "");
  setClass($(box, "#why-control"), told?.tone ?? "");
  const alert = view.rows("alerts").at(-1);
  const fresh = alert && (view.ageMs(alert.at_ms) ?? Infinity) < ALERT_FRESH_MS;
  const button = $(box, "#why-alert");
  setHidden(button, !fresh);
  if (fresh) setText(button,
    `${alert.severity === "error" ? "✕"
    : "!"} ${clockTime(alert.at_ms)} ${alert.text}${alert.repeats > 1 ? ` ×${alert.repeats}`
    : ""}`);
  setClass(button, alert?.severity === "error" ? "loss" : alert?.severity === "warning"
    ? "attention" : "muted");
}

/** Title and favicon follow the state. */
function browserTab(view, o) {
  const lost = !view.store.link.live;
  const pnl = o?.day_pnl_ud;
  const words_ = known(pnl) ? `${arrow(pnl)} ${dollars(pnl, { plus: true })}`.trim() : DASH;
  const state = lost ? "DISCONNECTED" : o?.gate === "halted" ? "HALTED" : o
    ? words(o.state).toUpperCase() : "";
  const title = o ? `${words_} · ${o.environment} · ${state}` : "connecting · trader";
  if (document.title !== title) document.title = title;
  const trouble = lost || o?.gate === "halted" || o?.state === "error";
  const known_ = ENVIRONMENTS[o?.environment] ? o.environment : "sim";
  const icon = `/static/favicon-${trouble && o ? "trouble" : known_}.svg`;
  const link = byId("favicon");
  if (link.getAttribute("href") !== icon) link.setAttribute("href", icon);
}

/** @param {HTMLElement} root @param {any} view */
export function renderStrip(root, view) {
  const o = view.one("overview");
  environment(root, o, view.one("replay"));
  facts(root, view, o);
  setClass($(root, ".facts"), `facts ${o ? ageClass(view.store.overviewAgeMs()) : ""}`.trim());
  buttons(root, view, o);
  sentence(view);
  browserTab(view, o);
}

const told = { state: "", shout: "", fills: null };

/** State, gate and fills politely; halted, disconnected and unknown orders at once. Never prices. */
export function announce(view) {
  const o = view.one("overview");
  const shout = !view.store.link.live && o ? "Disconnected from the trader" : o?.gate === "halted"
    ? `Halted: ${o.gate_why ?? ""}`
    : o?.unknown_orders ? `${plural(o.unknown_orders, "order")} unknown` : "";
  if (shout !== told.shout) setText(byId("shout"), (told.shout = shout));
  const steady = o?.state === "acting" ? "ready" : o?.state;
  const state = o ? `State ${words(steady)}, gate ${o.gate}` : "";
  const fill = view.rows("fills").at(-1);
  const newFill = fill && told.fills !== null && fill.fill_id !== told.fills;
  if (state !== told.state || newFill) {
    const filled = newFill ? `Filled ${fill.side} in ${fill.ticker}` : "";
    setText(byId("say"), state !== told.state ? state : filled);
  }
  told.state = state;
  told.fills = fill?.fill_id ?? "";
}
