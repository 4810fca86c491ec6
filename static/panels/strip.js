// @ts-check
/** The strip and the sentence under it: alive, trading or not and why, last control, last alert. */

import { controlWords, isUnlocked } from "../controls.js";
import { $, ageClass, byId, el, setAttr, setClass, setHidden, setText } from "../dom.js";
import {
  DASH, arrow, clockTime, count, dollars, duration, known, money, percent, plain, plural, words,
} from "../format.js";

const ENVIRONMENTS = {
  sim: ["SIM", "embedded exchange"], paper: ["PAPER", "MOCK MONEY"],
  production: ["PRODUCTION", "REAL MONEY"],
};
const STATE_WORDS = {
  startup: "The trader starts.",
  initializing: "Settings, lock, journal and halt latch are being read.",
  orderbook_connect: "Connecting the feed and waiting for the first books.",
  trading_client_connect: "Connecting the account: key, clock and limits.",
  kalshi_data_sync: "Reconciling orders, fills and positions with the exchange.",
  shutdown: "The trader is shutting down.",
};
/** Facts by id: the word shown, the rest for who cannot see it. */
const FACTS = {
  state: "State", gate: "Gate", feed: "Feed| age", books: "Books| proven",
  reconcile: "Reconciled", unknown: "Unknown| orders",
  budget: "Budget| left of the read and write rate limits", loop: "Loop lag", pause: "Next pause",
};
const ALERT_FRESH_MS = 5 * 60 * 1000;

const big = (text) => words(text).toUpperCase();

function degradedWords(item) {
  const row = typeof item === "string" ? { reason: item } : item;
  const where = row.markets?.length ? ` (${plural(row.markets.length, "market")})` : "";
  return words(row.reason) + where + (row.clears_when ? `, clears when ${row.clears_when}` : "");
}

/** Who set the gate, why and when: "daily loss … (by risk since 10:31:07 UTC)". */
function gateWords(o) {
  const who = [o.gate_by && `by ${o.gate_by}`, o.gate_since_at_ms
    && `since ${clockTime(o.gate_since_at_ms)} UTC`];
  const told = who.filter(Boolean).join(" ");
  return `${o.gate_why ?? "no reason given"}${told && ` (${told})`}.`;
}

/** [mark, tone, sentence]: the first thing that keeps it from trading, or how it trades. */
function whySentence(view) {
  const o = view.one("overview");
  if (view.frozen !== null) {
    return ["❄ VIEW FROZEN", "attention",
      `since ${clockTime(view.frozen)} UTC; data goes on behind it. Press z.`];
  }
  if (!o) return ["", "", "Waiting for the first overview from the trader."];
  if (o.gate === "halted") {
    return ["✕ HALTED", "loss",
      `${gateWords(o)} No order is created or changed until it is re-armed.`];
  }
  if (o.state === "error") {
    return ["✕ ERROR", "loss",
      `${o.state_why ?? "something failed"}: orders are cancelled, the trader recovers by itself.`];
  }
  if (STATE_WORDS[o.state]) return [`… ${big(o.state)}`, "attention", STATE_WORDS[o.state]];
  if (o.unknown_orders) {
    const many = plural(o.unknown_orders, "order");
    return ["! UNKNOWN", "attention", `${many} of unknown outcome: asked about, never sent again.`];
  }
  if (o.gate === "paused") return ["‖ PAUSED", "attention", `${gateWords(o)} Positions stay.`];
  if (o.gate === "reduce-only") {
    return ["↓ REDUCE ONLY", "attention", `${gateWords(o)} Orders may only shrink a position.`];
  }
  if (o.degraded?.length) {
    return ["! DEGRADED", "attention", `${o.degraded.map(degradedWords).join("; ")}.`];
  }
  return trading(view, o);
}

function trading(view, o) {
  const names = (o.strategy ?? []).join(", ") || "no strategy";
  if (o.orders_allowed === false) {
    return ["‖ NO ORDERS", "attention",
      `${names} is asked, but no order may be sent. ${o.gate_why ?? ""}`];
  }
  const working = view.rows("orders").filter((row) => row.status === "resting").length;
  const held = view.rows("positions").filter((row) => row.position_h).length;
  const top = view.rows("funnel").reduce((a, b) => (a?.last_at_ms >= b.last_at_ms ? a : b), null);
  const near = top?.nearest && !/^(acted|kept)$/.test(top.reason)
    ? ` (${top.nearest.value}, needs ${top.nearest.limit})` : "";
  const last = top ? `; last reason: ${words(top.reason)}${near}` : "";
  if (!working && !held && !view.rows("funnel").some((row) => row.reason === "acted")) {
    return ["… WATCHING", "", `${names} has sent no order yet${last}.`];
  }
  return ["✓ TRADING", "gain",
    `${names}: ${plural(working, "order")} resting, ${plural(held, "position")}${last}.`];
}

function environment(root, o, tape) {
  if (!o) return;
  const [word, note] = ENVIRONMENTS[o.environment] ?? [big(o.environment), ""];
  setText($(root, "#env-word"), tape ? "SIM REPLAY" : word);
  setText($(root, "#env-words"), [tape ? "recorded tape" : note, o.account].filter(Boolean)
    .join(" · "));
  setAttr(document.documentElement, "data-env", tape ? "replay" : o.environment);
}

function makeFacts(list) {
  for (const [id, label] of Object.entries(FACTS)) {
    const [word, rest = ""] = label.split("|");
    list.append(el("div", { id: `f-${id}` }, el("dt", word, el("span.sr", rest)),
      el("dd", el("output", DASH), el("small"))));
  }
}

function facts(root, view, o) {
  const now = view.nowMs();
  const waited = view.store.overviewAgeMs() ?? 0;
  const older = (ms) => (known(ms) ? ms + waited : null);
  const since = (at) => (known(at) && now !== null ? duration(now - at) : "");
  const fact = (id, text, bad, worse, small = "", hint = null) => {
    const box = $(root, id);
    setText($(box, "output"), text);
    setText($(box, "small"), small);
    setClass(box, worse ? "loss" : bad ? "attention" : "");
    setAttr(box, "title", hint);
  };
  const { state, gate, feed_age_ms, books_proven, books_total, reconcile_difference_ud: off,
    loop_lag_ms: lag, next_pause_at_ms: pause } = o;
  fact("#f-state", big(state), !/^(ready|acting)$/.test(state), state === "error",
    since(o.state_since_at_ms));
  fact("#f-gate", plain(gate).toUpperCase(), gate !== "open", gate === "halted",
    gate === "open" ? "" : since(o.gate_since_at_ms), o.gate_why ?? null);
  const feed = older(feed_age_ms);
  fact("#f-feed", duration(feed), feed === null || feed > 2000, feed > 10000);
  const books = known(books_total) ? `${plain(books_proven)} / ${books_total}` : DASH;
  fact("#f-books", books, books_proven < books_total);
  const clean = older(o.reconcile_age_ms);
  fact("#f-reconcile", duration(clean), clean === null || clean > 60000, off,
    known(off) ? `diff ${off === 0 ? 0 : money(off, true)}` : "");
  fact("#f-unknown", count(o.unknown_orders), false, o.unknown_orders > 0);
  const used = known(o.rate_write_ratio) ? Math.max(o.rate_read_ratio ?? 0, o.rate_write_ratio)
    : null;
  fact("#f-budget", percent(used === null ? null : 1 - used), used > 0.8, false, "",
    `used: read ${percent(o.rate_read_ratio)}, write ${percent(o.rate_write_ratio)}`);
  fact("#f-loop", known(lag) ? `${count(lag)} ms` : DASH, lag > 100, lag > 1000);
  fact("#f-pause", known(pause) && now !== null ? duration(pause - now) : DASH,
    known(pause) && pause - now < 600000, false, "",
    known(pause) ? `exchange pause at ${clockTime(pause)} UTC` : "no pause announced");
}

function buttons(root, o) {
  const open = isUnlocked();
  const lock = $(root, "#b-lock");
  setText(lock, open ? "Unlocked" : "Unlock");
  setClass(lock, open ? "on" : "");
  setClass($(root, "#controls"), open ? "controls" : "controls locked");
  const way = { halted: "Re-arm", paused: "Resume", "reduce-only": "Resume" }[o?.gate];
  setText($(root, "#b-pause"), way ?? "Pause");
  const note = open ? "hold 1 s" : "view-only: unlock first";
  for (const id of ["#b-cancel", "#b-kill"]) setAttr($(root, id), "title", note);
}

function sentence(view) {
  const [mark, tone, text] = whySentence(view);
  setClass(byId("why"), tone);
  setText(byId("why-mark"), mark);
  setText(byId("why-text"), text);
  setAttr(byId("why-text"), "title", text);
  const told = controlWords();
  setText(byId("why-control"), told?.text ?? "");
  setClass(byId("why-control"), told?.tone ?? "");
  const alert = view.rows("alerts").at(-1);
  const age = alert && alert.severity !== "info" ? view.ageMs(alert.at_ms) : null;
  const fresh = age !== null && age < ALERT_FRESH_MS;
  const button = byId("why-alert");
  setHidden(button, !fresh);
  if (!fresh) return;
  const [sign, hue] = alert.severity === "error" ? ["✕", "loss"] : ["!", "attention"];
  const repeats = alert.repeats > 1 ? ` ×${alert.repeats}` : "";
  setText(button, `${sign} ${clockTime(alert.at_ms)} ${alert.text}${repeats}`);
  setClass(button, hue);
}

/** Title and favicon follow the state. */
function browserTab(view, o) {
  if (!o) return;
  const lost = !view.store.link.live;
  const halted = o.gate === "halted";
  const pnl = o.day_pnl_ud;
  const figure = `${arrow(pnl)} ${dollars(pnl, { plus: true })}`.trim();
  const state = lost ? "DISCONNECTED" : halted ? "HALTED" : big(o.state);
  const title = `${figure} · ${o.environment} · ${state}`;
  if (document.title !== title) document.title = title;
  const name = lost || halted || o.state === "error" ? "trouble" : ENVIRONMENTS[o.environment]
    ? o.environment : "sim";
  setAttr(byId("favicon"), "href", `/static/favicon-${name}.svg`);
}

export function renderStrip(root, view) {
  const o = view.one("overview");
  if (!$(root, "#f-state")) makeFacts($(root, ".facts"));
  environment(root, o, view.one("replay"));
  if (o) facts(root, view, o);
  setClass($(root, ".facts"), `facts ${o ? ageClass(view.store.overviewAgeMs()) : ""}`.trim());
  buttons(root, o);
  sentence(view);
  browserTab(view, o);
}

const told = { state: "", shout: "", fills: null };

/** State, gate and fills politely; halted, disconnected and unknown at once. Never prices. */
export function announce(view) {
  const o = view.one("overview");
  if (!o) return;
  const shout = !view.store.link.live ? "Disconnected from the trader"
    : o.gate === "halted" ? `Halted: ${o.gate_why ?? ""}`
      : o.unknown_orders ? `${plural(o.unknown_orders, "order")} unknown` : "";
  if (shout !== told.shout) setText(byId("shout"), (told.shout = shout));
  const state = `State ${words(o.state === "acting" ? "ready" : o.state)}, gate ${o.gate}`;
  const fill = view.rows("fills").at(-1);
  const isNew = fill && told.fills !== null && fill.fill_id !== told.fills;
  if (state !== told.state) setText(byId("say"), state);
  else if (isNew) setText(byId("say"), `Filled ${fill.side} in ${fill.ticker}`);
  told.state = state;
  told.fills = fill?.fill_id ?? "";
}
