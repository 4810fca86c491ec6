// @ts-check
/**
 * Unlocking, and the acts that need it. The token lives in this module's closure only: a reload is
 * view-only again, and 30 minutes without a control lock the page. What the exchange confirmed is
 * told by topic `control`; the wish is never shown as the result.
 */

import { $, arrange, byId, el, plainTable, setText } from "./dom.js";
import {
  cents, clockTime, contracts, dollars, duration, plain, plural, upper, words,
} from "./format.js";
import { store } from "./store.js";

const LOCK_AFTER_MS = 30 * 60 * 1000;
const HOLD_MS = 1000;
const REQUEST_TIMEOUT_MS = 10000;

let token = null;
let usedAt = 0;
let notice = null;

const ask = () => byId("ask");

export const isUnlocked = () => token !== null;

function say(text, tone = "") {
  notice = { text, tone, atMs: performance.now() };
  store.mark("notice");
}

function lock(why) {
  token = null;
  say(why);
  store.mark("lock");
}

/** A key for one act; `randomUUID` exists on secure origins only. */
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))]
  .map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** POST with the control headers. Answers {ok, status, body}; status 0 is a lost connection. */
async function post(path, body, { bearer = token, headers = {} } = {}) {
  try {
    const answer = await fetch(path, {
      method: "POST", body: JSON.stringify(body), signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
      headers: {
        "Content-Type": "application/json", "X-Trader-Control": "1",
        ...(bearer ? { Authorization: `Bearer ${bearer}` } : {}), ...headers,
      },
    });
    const text = await answer.text();
    const told = text.startsWith("{") ? JSON.parse(text) : {};
    return { ok: answer.ok, status: answer.status, body: told };
  } catch (error) {
    return { ok: false, status: 0, body: { error: { message: `no answer: ${error}` } } };
  }
}

const problemOf = (answer) => answer.body.error?.message ?? `HTTP ${answer.status}`;

/** Send one control; answers the response. Phases then come by topic `control`. */
export async function control(action, body = {}, headers = {}, path = `/v3/control/${action}`) {
  usedAt = performance.now();
  say(`${action}: asking …`);
  const answer = await post(path, { key: newKey(), ...body }, { headers });
  if (answer.status === 401) lock(`${action}: the trader refused the token; the page is locked`);
  else if (answer.status === 0) {
    say(`${action}: ${problemOf(answer)}; outcome unknown, use: trader.py ${action}`, "loss");
  }
  else if (answer.status >= 400) say(`${action} refused: ${problemOf(answer)}`, "attention");
  else say(`${action}: requested`);
  return answer;
}

export const replayControl = (action, body) =>
  control(`tape ${action}`, body, {}, `/v3/replay/${action}`);

/** Do it when unlocked, otherwise open the unlock dialog. */
export function guarded(act) {
  if (isUnlocked()) act();
  else unlockDialog();
}

async function tradeCode(code) {
  const answer = await post("/v3/unlock", { code }, { bearer: null });
  if (answer.status === 200 && typeof answer.body.token === "string") unlocked(answer.body.token);
  else say(`not unlocked: ${problemOf(answer)}`, "attention");
}

function unlocked(value) {
  token = value;
  usedAt = performance.now();
  say("unlocked until a reload, or 30 min without a control");
  store.mark("lock");
}

/** Take a one-time code out of the address at once and trade it. */
function takeCode() {
  const code = /^#unlock=([\w.~-]{8,256})$/.exec(location.hash)?.[1];
  if (!location.hash.startsWith("#unlock")) return;
  history.replaceState(null, "", location.pathname + location.search);
  if (code) tradeCode(code);
}

export function startControls() {
  takeCode();
  addEventListener("hashchange", takeCode);
  setInterval(() => {
    const idle = performance.now() - usedAt > LOCK_AFTER_MS;
    if (token && idle) lock("locked after 30 min without a control");
  }, 5000);
}

// ---- dialogs ----

/** Open the one dialog. `accept` answers null when done, or a sentence about what is wrong. */
function openAsk({ title, go, tone = "", content, ready = () => true, accept }) {
  const dialog = ask();
  const form = $(dialog, "form");
  const button = $(dialog, ".go");
  const problem = $(dialog, ".problem");
  setText($(dialog, "h2"), title);
  setText(button, go);
  setText(problem, "");
  button.className = `go ${tone}`;
  arrange($(dialog, ".content"), content.map((c) =>
    (typeof c === "string" ? el("p", c) : c)));
  const check = () => (button.disabled = !ready());
  form.oninput = check;
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (!ready()) return;
    button.disabled = true;
    const wrong = await accept();
    if (wrong === null) dialog.close();
    setText(problem, wrong ?? "");
    check();
  };
  check();
  if (!dialog.open) dialog.showModal();
  $(dialog, "input, select, textarea")?.focus();
}

const field = (label, input, note = "") =>
  el("label.field", el("span", label), input,
    ...(note ? [el("small", note)] : []));
const textInput = (name, more = {}) => el("input",
  { name, type: "text", autocomplete: "off", spellcheck: "false", ...more });

/** Ask a control out of a dialog: null when accepted, else what is wrong. */
const accepted = async (action, body, headers) => {
  const answer = await control(action, body, headers);
  return answer.ok ? null : problemOf(answer);
};

export function unlockDialog() {
  const pasted = textInput("token", { type: "password", minlength: "8" });
  const environment = store.one("overview")?.environment ?? "<environment>";
  openAsk({
    title: "Unlock the controls", go: "Unlock",
    content: [
      "The page is view-only. In a terminal on the trader's machine:",
      el("pre", `python trader.py --env ${environment} status --link`),
      `prints a link that unlocks once. Or paste the run token from data/${environment}/run_token:`,
      field("Run token", pasted, "kept in memory only, checked by the trader, never stored"),
    ],
    ready: () => pasted.value.trim().length >= 8,
    accept: async () => {
      const answer = await post("/v3/unlock/link", {}, { bearer: pasted.value.trim() });
      if (answer.status === 401) return "The trader does not know this token.";
      if (!answer.ok) return problemOf(answer);
      unlocked(pasted.value.trim());
      pasted.value = "";
      return null;
    },
  });
}

/** "4 resting orders will be cancelled; 2 positions stay." */
function consequence(strategy = null) {
  const mine = (row) => !row.foreign && (strategy === null || row.strategy === strategy);
  const orders = store.rows("orders").filter((o) => mine(o)
    && ["resting", "sent", "intent", "unknown"].includes(o.status));
  const held = store.rows("positions").filter((p) => p.position_h);
  const stay = `${plural(held.length, "position")} stay${held.length === 1 ? "s" : ""}`;
  return `${plural(orders.length, "resting order")} will be cancelled; ${stay}.`;
}

/** An act that only makes safer: its words, and a reason for who wants to give one. */
function saferDialog(title, go, lines, act, body = () => ({})) {
  const reason = textInput("reason");
  openAsk({
    title, go, tone: "attention", content: [...lines, field("Reason (optional)", reason)],
    accept: () => accepted(act, { ...body(), reason: reason.value || undefined }),
  });
}

/** @param {string|null} strategy null is all */
export function pauseDialog(strategy = null) {
  const keep = el("input", { type: "checkbox", name: "keep" });
  saferDialog(`Pause ${strategy ?? "trading"}`, "Pause", [
    consequence(strategy), "No new risk is taken until you resume. Nothing is sold.",
    el("label.tick", keep, "keep the resting orders"),
  ], "pause", () => ({ strategy: strategy ?? undefined, keep_orders: keep.checked || undefined }));
}

export const reduceOnlyDialog = () => saferDialog("Reduce only", "Reduce only", [consequence(),
  "From then on an order must shrink a position; the way back is Resume."], "reduce-only");

/** Fields that risky acts share: typed environment and a reason. */
function typed() {
  const environment = store.one("overview")?.environment ?? "";
  const name = textInput("environment");
  const reason = textInput("reason");
  return {
    fields: [field(`Type the environment: ${environment}`, name), field("Reason", reason)],
    ready: () => name.value.trim() === environment && environment !== ""
      && reason.value.trim().length > 2,
    body: () => ({ environment: name.value.trim(), reason: reason.value.trim() }),
    match: () => ({ "If-Match": String(store.one("overview")?.state_version ?? "") }),
  };
}

/** @param {string|null} strategy */
export function resumeDialog(strategy = null) {
  const sure = typed();
  openAsk({
    title: `Resume ${strategy ?? "trading"}`, go: "Resume",
    content: ["Strategies may take new risk again. Refused while a reconcile is due or an order "
      + "is unknown.", ...sure.fields],
    ready: sure.ready,
    accept: () => accepted("resume", { strategy: strategy ?? undefined, ...sure.body() },
      sure.match()),
  });
}

export function rearmDialog() {
  const o = store.one("overview") ?? {};
  const sure = typed();
  const to = el("select", { name: "to" },
    ...["reduce-only", "open"].map((text) => el("option", { text })));
  openAsk({
    title: "Re-arm after the halt", go: "Re-arm", tone: "danger",
    content: [
      el("p.loss", `Halted by ${plain(o.gate_by)} at ${clockTime(o.gate_since_at_ms)} UTC: `
        + plain(o.gate_why)),
      "The cause must be gone. After a loss limit this works from the next trading day on.",
      field("Into", to), ...sure.fields,
    ],
    ready: sure.ready,
    accept: () => accepted("rearm", { to: to.value, ...sure.body() }, sure.match()),
  });
}

/** Open what leads out of the present gate: pause, resume or re-arm. */
export function gateDialog() {
  const gate = store.one("overview")?.gate;
  if (gate === "halted") rearmDialog();
  else if (gate === "open") pauseDialog();
  else resumeDialog();
}

// ---- flatten ----

const previewRow = (row) => [row.ticker, upper(row.side),
  ...[contracts(row.count_h), cents(row.worst_price_cc), cents(row.collar_cc),
    dollars(row.cost_ud, { digits: 4 })].map((text) => [text, "num"])];
const PREVIEW_HEADS = ["Market", "Side",
  ...["Contracts", "Worst ¢", "Collar ¢", "Cost $"].map((text) => [text, "num"])];

/** Preview first; the execution needs the preview's nonce and the typed word. */
export async function flattenDialog() {
  const held = store.rows("positions").some((p) => p.position_h);
  if (!held) return say("nothing to flatten: no open position");
  const answer = await control("flatten");
  if (!answer.ok) return;
  const { nonce, preview = [], expires_at_ms: expires = null } = answer.body;
  const word = textInput("word");
  const left = el("output.muted");
  const rest = () => (expires ?? Infinity) - (store.nowMs() ?? 0);
  const tick = setInterval(() => setText(left,
    rest() > 0 ? `valid ${duration(rest())}` : "expired: close and ask again"), 500);
  ask().addEventListener("close", () => clearInterval(tick), { once: true });
  openAsk({
    title: "Flatten all positions", go: "Flatten", tone: "danger",
    content: [
      preview.length ? plainTable("What flattening would send", PREVIEW_HEADS,
        preview.map(previewRow))
        : "The trader found nothing of its own to close.",
      "Sent in at most three rounds within the collar; what remains is reported.", left,
      field("Type: flatten", word),
    ],
    ready: () => word.value.trim() === "flatten" && preview.length > 0 && rest() > 0,
    accept: () => accepted("flatten", { nonce }),
  });
}

// ---- hold ----

/** A button that acts after being held for a second, by pointer or by Enter or Space. */
export function holdButton(button, act) {
  let timer = 0;
  const stop = () => {
    clearTimeout(timer);
    timer = 0;
    button.classList.remove("holding");
  };
  const start = () => {
    if (timer) return;
    if (!isUnlocked()) return unlockDialog();
    button.classList.add("holding");
    timer = setTimeout(() => {
      stop();
      act();
    }, HOLD_MS);
  };
  button.addEventListener("pointerdown", (e) => e.button === 0 && start());
  const ends = ["pointerup", "pointerleave", "pointercancel", "blur", "keyup"];
  for (const kind of ends) button.addEventListener(kind, stop);
  button.addEventListener("contextmenu", (e) => e.preventDefault());
  button.addEventListener("keydown", (e) => (e.key === "Enter" || e.key === " ")
    && (e.preventDefault(), start()));
  return { start, stop };
}

/** Words for the strip: the newest control of the last 20 s, with its phase. */
export function controlWords() {
  const row = store.rows("control").at(-1);
  const fresh = row && (store.ageMs(row.asked_at_ms) ?? Infinity) < 20000;
  const own = notice && performance.now() - notice.atMs < 12000 ? notice : null;
  if (fresh && (!own || own.text.endsWith("requested") || own.text.endsWith("…"))) {
    const tone = { confirmed: "gain", failed: "loss", refused: "attention" }[row.phase] ?? "";
    return { text: `${row.action}: ${words(row.phase)} – ${row.text ?? ""}`, tone };
  }
  return own;
}

/** Wire the close buttons of all dialogs; a click beside a dialog closes it too. */
export function wireDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    for (const button of dialog.querySelectorAll(".close")) button.addEventListener("click", () =>
      dialog.close());
    dialog.addEventListener("click", (e) => e.target === dialog && dialog.close());
  }
}
