// @ts-check
/**
 * The desk: wires the store to the panels, one paint per animation frame.
 * A panel is painted when one of its topics changed and it is on screen, and twice a second so that
 * ages go on; a hidden tab paints nothing, a frozen view paints the strip only.
 */

import { forgetColours } from "./chart.js";
import {
  control, gateDialog, holdButton, isUnlocked, startControls, unlockDialog, wireDialogs,
} from "./controls.js";
import {
  $, ageClass, byId, el, memory, phone, refillFlashes, setAttr, setClass, setHidden, setText,
  tableOf,
} from "./dom.js";
import { clockTime, dateTime, duration, isoTime, known, plain } from "./format.js";
import { startKeys } from "./keys.js";
import { renderActivity } from "./panels/activity.js";
import { openExplain, renderDecisions } from "./panels/decisions.js";
import { renderEquity } from "./panels/equity.js";
import { renderEvidence } from "./panels/evidence.js";
import { renderFills } from "./panels/fills.js";
import { renderHeadline } from "./panels/headline.js";
import { renderLadder } from "./panels/ladder.js";
import { renderMarkets } from "./panels/markets.js";
import { renderOrders } from "./panels/orders.js";
import { renderPositions } from "./panels/positions.js";
import { collectPrices, renderPrice } from "./panels/price.js";
import { renderQuality } from "./panels/quality.js";
import { renderReplay } from "./panels/replay.js";
import { renderRisk } from "./panels/risk.js";
import { renderStrategies } from "./panels/strategies.js";
import { announce, renderStrip } from "./panels/strip.js";
import { renderSystem } from "./panels/system.js";
import { store } from "./store.js";

/** Panels on the first screen, each with the topics that repaint it. @type {any[][]} */
const FIXED = [
  ["strip", renderStrip, ["overview", "health", "control", "alerts", "funnel", "orders",
    "positions", "notice", "lock", "link", "replay"]],
  ["headline", renderHeadline, ["overview", "equity", "positions", "trading_state"]],
  ["markets", renderMarkets, ["markets", "overview", "positions", "view"]],
  ["ladder", renderLadder, ["books", "markets", "view"]],
  ["price", renderPrice, ["markets", "fills", "view"]],
  ["equity", renderEquity, ["equity", "overview", "view"]],
  ["replay", renderReplay, ["replay", "fills"]],
];
/** The ten tabs in order. @type {any[][]} */
const TABS = [
  ["positions", renderPositions, ["positions", "markets", "books", "overview"]],
  ["orders", renderOrders, ["orders", "funnel"]],
  ["fills", renderFills, ["fills"]],
  ["decisions", renderDecisions, ["decisions", "funnel"]],
  ["risk", renderRisk, ["risk", "overview"]],
  ["strategies", renderStrategies, ["strategies", "control", "orders"]],
  ["quality", renderQuality, ["fills", "orders", "strategies", "overview"]],
  ["system", renderSystem, ["latency", "health", "trader_status"]],
  ["activity", renderActivity, ["system_activity", "history_replay", "alerts"]],
  ["evidence", renderEvidence, ["evidence"]],
];
const ON_PHONE = ["positions", "orders", "activity"];
/** People read a number four times a second, the book ten times; the rest is shown at once. */
const PACE_MS = { headline: 250, markets: 250, ladder: 100, price: 250, equity: 1000 };

/** What panels read besides the store; `selected` is a ticker or null. */
const view = {
  store, selected: null, axis: "yes", tab: "positions", frozen: null,
  rows: (topic) => store.rows(topic),
  one: (topic) => store.one(topic),
  get: (topic, key) => store.get(topic, key),
  nowMs: () => store.nowMs(),
  ageMs: (atMs) => store.ageMs(atMs),
  leftMs: (atMs) => (known(atMs) && store.nowMs() !== null ? atMs - store.nowMs() : null),
  ageWords: duration,
  select: (ticker) => {
    view.selected = ticker;
    store.followBook(ticker);
    store.mark("view");
  },
  setAxis: (axis) => {
    view.axis = axis;
    store.mark("view");
  },
  explain: (id) => openExplain(id, view),
  showTab, freeze, toggleTheme, repaint: () => store.mark("view"),
  activeTable: () => {
    const near = document.activeElement?.closest("#markets, [role=tabpanel], #tablist")
      ?? byId("markets");
    const panel = near.id === "tablist" ? byId(view.tab) : near;
    const host = panel.matches(".host") ? panel : $(panel, ".host");
    return host ? tableOf(host) : null;
  },
};

let everything = true;
function paint(dirty) {
  if (store.runId === null) return paintCover();      // nothing is known, and the cover says so
  refillFlashes();
  const now = everything || dirty.has("view") || dirty.has("link");
  const all = everything || dirty.has("clock") || dirty.has("link");
  everything = false;
  const due = (id, topics) => (all || topics.some((topic) => dirty.has(topic)) || dirty.has(id))
    && (inPace(id) || now);
  chooseMarket();
  for (const [id, render, topics] of FIXED) {
    const on = id === "strip" || (view.frozen === null && shown(byId(id)));
    if (on && due(id, topics)) render(byId(id), view);
  }
  for (const [id, render, topics] of TABS) {
    const on = id === view.tab || (phone.matches && ON_PHONE.includes(id));
    if (on && view.frozen === null && due(id, topics)) render(byId(id), view);
  }
  const age = store.overviewAgeMs();
  setText(byId("tabs-age"), duration(age));
  setClass(byId("desk"), ageClass(age));
  paintCover();
  paintFoot();
  announce(view);
}

const paintedAt = {};
const owed = new Set();

/** Whether a panel may be painted again; if not, it is marked for the moment when it may. */
function inPace(id) {
  const wait = (paintedAt[id] ?? -Infinity) + (PACE_MS[id] ?? 0) - performance.now();
  if (wait <= 0) paintedAt[id] = performance.now();
  else if (!owed.has(id)) {
    owed.add(id);
    setTimeout(() => {
      owed.delete(id);
      store.mark(id);
    }, wait);
  }
  return wait <= 0;
}

const shown = (node) => node.id === "replay" || node.offsetParent !== null || node.clientHeight > 0;

/** The first market with a position, else the first one, until somebody selects. */
function chooseMarket() {
  if (view.selected !== null && store.get("markets", view.selected)) return;
  const markets = store.rows("markets");
  if (!markets.length) return;
  const best = markets.find((m) => m.position_h) ?? markets[0];
  if (view.selected === null || store.link.live) view.select(best.ticker);
}

function paintCover() {
  const { live, sinceMs, retryAt } = store.link;
  const cover = byId("cover");
  setHidden(cover, live);
  document.body.classList.toggle("lost", !live);
  if (live) return;
  scrollTo(0, 0);
  const met = store.runId !== null;
  const wait = retryAt === null ? null : Math.max(0, retryAt - performance.now());
  const next = wait === null ? "trying now" : `trying again in ${Math.ceil(wait / 1000)} s`;
  const since = sinceMs === null ? "" : ` since ${clockTime(sinceMs)} UTC`;
  setText(byId("cover-word"), met ? "DISCONNECTED" : "CONNECTING");
  setText(byId("cover-text"), met ? `DISCONNECTED${since}, ${next}`
    : `No answer from the trader yet${since}, ${next}`);
  setHidden(byId("cover-note"), !met);
}

function paintFoot() {
  const o = store.one("overview");
  const verified = known(o?.reconcile_age_ms) ? o.reconcile_age_ms : null;
  const at = verified === null ? null : store.topics.overview.changedAtMs - verified;
  const parts = o ? [`run ${o.run_id}`, `v${o.version}`, `file ${plain(o.file_sha256).slice(0, 8)}`,
    `journal ${plain(o.journal_file)}`, `last verified ${clockTime(at)}`,
    `gaps repaired ${store.gaps}`] : ["no run known yet"];
  setText(byId("foot-run"), parts.join(" · "));
  const now = store.nowMs();
  setAttr(byId("foot-clock"), "datetime", isoTime(now));
  setText(byId("foot-clock"), now === null ? "—" : `${dateTime(now)} UTC`);
}

// ---- tabs, theme, freeze ----

/** @param {string} id @param {boolean} [focus] */
function showTab(id, focus = false) {
  view.tab = id;
  memory.set("tab", id);
  for (const [name] of TABS) {
    setHidden(byId(name), name !== id && !(phone.matches && ON_PHONE.includes(name)));
    const tab = byId(`tab-${name}`);
    setAttr(tab, "aria-selected", String(name === id));
    setAttr(tab, "tabindex", name === id ? "0" : "-1");
    if (focus && name === id) tab.focus();
  }
  if (view.frozen === null) TABS.find(([name]) => name === id)[1](byId(id), view);
  everything = true;
  store.mark("view");
}

function makeTabs() {
  TABS.forEach(([id], i) => {
    const key = String((i + 1) % 10);
    const tab = el("button", {
      type: "button", role: "tab", id: `tab-${id}`, "aria-controls": id, "aria-keyshortcuts": key,
      on: { click: () => showTab(id) },
    }, el("kbd", { text: key, "aria-hidden": "true" }), id[0].toUpperCase() + id.slice(1));
    byId("tablist").append(tab);
    byId("tabs").append(el("section",
      { role: "tabpanel", id, tabindex: "0", "aria-labelledby": tab.id }));
  });
  byId("tablist").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = TABS.findIndex(([id]) => id === view.tab);
    showTab(TABS[(at + step + TABS.length) % TABS.length][0], true);
  });
  const kept = memory.get("tab");
  showTab(TABS.some(([id]) => id === kept) ? kept : "positions");
  phone.addEventListener("change", () => showTab(view.tab));
}

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  forgetColours();
  everything = true;
  store.mark("view");
}

function toggleTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme
      && matchMedia("(prefers-color-scheme: dark)").matches);
  memory.set("theme", dark ? "light" : "dark");
  applyTheme(dark ? "light" : "dark");
}

function freeze() {
  view.frozen = view.frozen === null ? store.nowMs() ?? 0 : null;
  document.body.classList.toggle("frozen", view.frozen !== null);
  everything = true;
  store.mark("view");
}

function wireControls() {
  byId("b-lock").addEventListener("click", unlockDialog);
  byId("b-pause").addEventListener("click", () => (isUnlocked() ? gateDialog() : unlockDialog()));
  holdButton(byId("b-cancel"), () => control("cancel-all"));
  const kill = holdButton(byId("b-kill"), () => control("kill"));
  byId("axis-yes").addEventListener("click", () => view.setAxis("yes"));
  byId("axis-no").addEventListener("click", () => view.setAxis("no"));
  byId("b-theme").addEventListener("click", toggleTheme);
  byId("b-help").addEventListener("click", () => byId("help").showModal());
  byId("why-alert").addEventListener("click", () => showTab("activity", true));
  wireDialogs();
  startKeys(view, kill, TABS.map(([id]) => id));
}

startControls();
applyTheme(memory.get("theme"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => applyTheme(null));
makeTabs();
wireControls();
store.applied = (topic, rows, atMs) => topic === "markets" && collectPrices(view, rows, atMs);
store.applied("markets", store.rows("markets"), store.topics.markets.changedAtMs);
store.paint = paint;
store.mark("view");
