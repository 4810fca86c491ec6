// @ts-check
/**
 * The socket and the last picture of now.
 *
 * One socket carries all topics, a second short-lived one the selected book. A topic message is
 * applied when it is full or follows the last one; otherwise there is a gap, and the whole topic is
 * read again over HTTP. However many messages come, `paint` is called once per animation frame,
 * and not at all while the tab is hidden. Ages are judged on the server's clock. This module is
 * loaded first: the socket brings its rows while the browser still reads the panels.
 */

const SILENCE_MS = 5000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 10000;
const HELD_MAX = 200;
const ACTIVITY_KEEP = 500;

/** Fields of each topic's key; none for a topic of one row. */
const KEYS = {
  overview: "", latency: "", replay: "", health: "component", markets: "ticker", books: "ticker",
  orders: "client_order_id", positions: "ticker", funnel: "strategy reason", risk: "limit scope",
  strategies: "name", evidence: "strategy", control: "control_id", fills: "fill_id",
  decisions: "decision_id", equity: "at_ms", alerts: "alert_id",
};
/** How many rows of an append topic are kept. */
const KEPT = { control: 50, fills: 500, decisions: 500, equity: 2880, alerts: 200 };

/** Rows of one topic with its revision; `rows()` is cached until the next change. */
class Topic {
  constructor(name) {
    this.name = name;
    this.fields = KEYS[name].split(" ");
    this.map = new Map();
    this.rev = null;
    this.gap = false;
    this.held = [];
    this.cache = null;
    this.changedAtMs = null;
  }

  /** Forget the revision (a new connection), keep the rows until the full message comes. */
  restart() {
    this.rev = null;
    this.gap = false;
    this.held = [];
  }

  clear() {
    this.map.clear();
    this.cache = null;
  }

  /** True when the message may be applied now. */
  follows(data) {
    return data.full || (this.rev !== null && data.rev === this.rev + 1);
  }

  #keyOf(row) {
    const parts = this.fields.map((name) => row[name]);
    return parts.length > 1 ? parts.join("|") : this.fields[0] ? parts[0] : "one";
  }

  apply(data, atMs) {
    if (data.full) this.map.clear();
    for (const row of data.rows) this.map.set(this.#keyOf(row), row);
    for (const key of data.gone ?? []) this.map.delete(key);
    for (const key of this.map.keys()) {
      if (this.map.size <= (KEPT[this.name] ?? Infinity)) break;
      this.map.delete(key);
    }
    this.rev = data.rev;
    this.cache = null;
    this.changedAtMs = atMs;
  }

  rows() {
    this.cache ??= [...this.map.values()];
    return this.cache;
  }
}

/** The server's clock: the least delayed message timestamp of the last half minute. */
class ServerClock {
  constructor() {
    this.reset();
  }

  reset() {
    this.best = null;
    this.previous = null;
    this.bucketAt = 0;
    this.last = null;
  }

  hear(stampMs, localMs) {
    this.last = { stampMs, localMs };
    if (localMs - this.bucketAt > 15000) {
      this.previous = this.best;
      this.best = null;
      this.bucketAt = localMs;
    }
    const offset = stampMs - localMs;
    if (this.best === null || offset > this.best) this.best = offset;
  }

  /** Server time in ms, or null before the first message. `rate` is the speed of a tape, else 1. */
  now(localMs, rate) {
    if (this.last === null) return null;
    if (rate !== 1) return this.last.stampMs + (localMs - this.last.localMs) * rate;
    const offset = Math.max(this.best ?? -Infinity, this.previous ?? -Infinity);
    return localMs + offset;
  }
}

const socketUrl = (query) =>
  `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v3/ws${query}`;

/** Read from the trader; throws when it does not answer, in its words where it gives some. */
export async function getJson(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error?.message ?? `HTTP ${answer.status}`);
  return body;
}

class Store {
  constructor() {
    /** @type {(dirty: Set<string>) => void} called once per animation frame, with what changed */
    this.paint = () => {};
    /** @type {(topic: string, rows: any[], atMs: number) => void} told of every applied message */
    this.applied = () => {};
    this.topics = Object.fromEntries(Object.keys(KEYS).map((name) => [name, new Topic(name)]));
    this.clock = new ServerClock();
    this.link = { live: false, sinceMs: null, retryAt: null, attempts: 0, heardAt: 0 };
    this.activity = [];
    this.activityKeys = new Set();
    this.account = null;
    this.status = null;
    this.gaps = 0;
    this.dirty = new Set();
    this.framed = false;
    this.socket = null;
    this.bookSocket = null;
    this.bookTicker = null;
    this.runId = null;
  }

  start() {
    this.#connect();
    setInterval(() => this.#watch(), 500);
    document.addEventListener("visibilitychange", () => this.#shown());
    addEventListener("online", () => this.retryNow());
  }

  /** @returns {any[]} */
  rows(name) {
    return this.topics[name].rows();
  }

  /** The row of a one-row topic, or null. @returns {any} */
  one(name) {
    return this.topics[name].map.get("one") ?? null;
  }

  /** @returns {any} */
  get(name, key) {
    return this.topics[name].map.get(key) ?? null;
  }

  /** Speed of the tape that runs; 1 without a tape. A paused tape stands still. */
  rate() {
    const tape = this.one("replay");
    return tape ? (tape.playing ? tape.speed_ratio || 1 : 0) : 1;
  }

  /** Server time now in ms, or null before the first message. */
  nowMs() {
    return this.clock.now(performance.now(), this.rate());
  }

  /** Age in real milliseconds of something verified at a server moment; null when unknown. */
  ageMs(atMs) {
    const now = this.nowMs();
    if (now === null || atMs === null || atMs === undefined) return null;
    return Math.max(0, now - atMs) / Math.max(1, this.rate());
  }

  /** Age of the newest overview, which the trader sends at least once a second. */
  overviewAgeMs() {
    return this.ageMs(this.topics.overview.changedAtMs);
  }

  /** When the whole feed was last known alive, by the newest overview. */
  feedAtMs() {
    const overview = this.one("overview");
    const at = this.topics.overview.changedAtMs;
    if (!overview || at === null || overview.feed_age_ms === null) return null;
    return at - overview.feed_age_ms;
  }

  /** When a market or book row was last known true: a proven quiet book lives with the feed. */
  bookVerifiedMs(row) {
    const feed = row.proof === "proven" ? this.feedAtMs() : null;
    return Math.max(feed ?? -Infinity, row.verified_at_ms ?? -Infinity);
  }

  mark(...names) {
    for (const name of names) this.dirty.add(name);
    if (this.framed || document.hidden) return;
    this.framed = true;
    requestAnimationFrame(() => this.#frame());
  }

  /** Follow the book of one market by a socket of its own; null follows none. */
  followBook(ticker) {
    if (ticker === this.bookTicker) return;
    this.bookTicker = ticker;
    this.#dropBook();
    this.topics.books.restart();
    this.topics.books.clear();
    this.mark("books");
    if (ticker !== null && this.link.live) this.#connectBook(ticker);
  }

  retryNow() {
    if (this.link.live || this.socket !== null) return;
    clearTimeout(this.timer);
    this.#connect();
  }

  #frame() {
    this.framed = false;
    const dirty = this.dirty;
    this.dirty = new Set();
    this.paint(dirty);
  }

  #shown() {
    if (document.hidden) return;
    this.mark("clock");
    if (!this.link.live) this.retryNow();
  }

  #connect() {
    this.link.retryAt = null;
    const socket = new WebSocket(socketUrl(""));
    this.socket = socket;
    this.link.heardAt = performance.now();
    socket.onmessage = (event) => this.#heard(socket, event.data);
    socket.onclose = () => this.#lost(socket);
    this.mark("link");
  }

  /** The socket closed or fell silent: say so and try again with full jitter, for ever. */
  #lost(socket) {
    if (socket !== this.socket) return;
    this.socket = null;
    socket.onclose = null;
    socket.close();
    if (this.link.live || this.link.sinceMs === null) this.link.sinceMs = this.nowMs()
      ?? Date.now();
    this.link.live = false;
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** this.link.attempts);
    this.link.attempts = Math.min(this.link.attempts + 1, 10);
    const wait = 100 + Math.random() * ceiling;
    this.link.retryAt = performance.now() + wait;
    this.timer = setTimeout(() => this.#connect(), wait);
    this.#dropBook();
    this.mark("link");
  }

  #watch() {
    if (this.socket && performance.now() - this.link.heardAt > SILENCE_MS) this.#lost(this.socket);
    this.mark("clock");
  }

  #heard(socket, text) {
    if (socket !== this.socket) return;
    const message = JSON.parse(text);
    const local = performance.now();
    this.link.heardAt = local;
    const stampMs = message.timestamp * 1000;
    if (message.type === "connection") this.#opened();
    this.clock.hear(stampMs, local);
    this.#take(message.type, message.data, stampMs);
  }

  #opened() {
    this.clock.reset();
    for (const [name, topic] of Object.entries(this.topics)) if (name !== "books") topic.restart();
  }

  #take(type, data, stampMs) {
    if (type in this.topics && type !== "books") this.#topic(this.topics[type], data, stampMs);
    else if (type === "history_replay") this.#history(data);
    else if (type === "system_activity") this.#log(data);
    else if (type === "trading_state") this.account = data;
    else if (type === "trader_status") this.status = data;
    else if (type === "ping") this.socket?.send('{"type":"pong"}');
    this.mark(type);
  }

  #topic(topic, data, stampMs) {
    if (topic.gap && !data.full) {
      if (topic.held.length < HELD_MAX) topic.held.push([data, stampMs]);
      return;
    }
    if (!topic.follows(data)) {
      topic.held = [[data, stampMs]];
      this.#repair(topic);
      return;
    }
    topic.gap = false;
    topic.apply(data, stampMs);
    this.applied(topic.name, data.rows, stampMs);
    if (topic.name === "overview") this.#met(topic.map.get("one"));
  }

  /** The first overview of a connection: the numbers are true again. */
  #met(overview) {
    if (!overview) return;
    if (this.runId !== null && overview.run_id !== this.runId) this.#otherRun();
    this.runId = overview.run_id;
    if (this.link.live) return;
    this.link = { ...this.link, live: true, sinceMs: null, retryAt: null, attempts: 0 };
    if (this.bookTicker !== null) this.#connectBook(this.bookTicker);
    this.mark("link");
  }

  /** The trader restarted: rows that its new full messages have not replaced are gone. */
  #otherRun() {
    for (const topic of Object.values(this.topics)) if (topic.rev === null) topic.clear();
    this.mark(...Object.keys(this.topics));
  }

  /** Read a whole topic after a gap, then go on with the messages that came meanwhile. */
  async #repair(topic, attempt = 0) {
    topic.gap = true;
    this.gaps += 1;
    const query = topic.name === "books" ? `?ticker=${encodeURIComponent(this.bookTicker ?? "")}`
      : "";
    try {
      const body = await getJson(`/v3/topic/${topic.name}${query}`);
      if (!topic.gap || this.#repaired(topic, body)) return;
    } catch (error) {
      console.info(`topic ${topic.name} not read (${error}); trying again`);
    }
    setTimeout(() => topic.gap && this.#repair(topic, attempt + 1),
      Math.min(8000, 250 * 2 ** attempt));
  }

  /** Take what was read and what came since; false when a message between them is missing. */
  #repaired(topic, body) {
    const held = topic.held.filter(([data]) => data.rev > body.rev);
    if (held.length && held[0][0].rev !== body.rev + 1) return false;
    topic.restart();
    topic.apply({ rev: body.rev, full: true, rows: body.rows }, body.at_ms ?? this.nowMs());
    if (topic.name === "overview") this.#met(topic.map.get("one"));
    for (const [data, stampMs] of held) this.#topic(topic, data, stampMs);
    this.mark(topic.name);
    return true;
  }

  #connectBook(ticker) {
    const socket = new WebSocket(socketUrl(`?topics=none&books=${encodeURIComponent(ticker)}`));
    this.bookSocket = socket;
    this.topics.books.restart();
    socket.onmessage = (event) => {
      if (socket !== this.bookSocket) return;
      const message = JSON.parse(event.data);
      if (message.type === "ping") socket.send('{"type":"pong"}');
      if (message.type !== "books") return;
      this.#topic(this.topics.books, message.data, message.timestamp * 1000);
      this.mark("books");
    };
    socket.onclose = () => this.#bookLost(socket, ticker);
  }

  /** Close the book's socket; one that is still connecting closes once it is open, quietly. */
  #dropBook() {
    const socket = this.bookSocket;
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket?.close();
  }

  #bookLost(socket, ticker) {
    if (socket !== this.bookSocket) return;
    this.bookSocket = null;
    if (ticker !== this.bookTicker || !this.link.live) return;
    setTimeout(() => {
      const wanted = ticker === this.bookTicker && this.link.live && !this.bookSocket;
      if (wanted) this.#connectBook(ticker);
    }, BACKOFF_FIRST_MS * (1 + 3 * Math.random()));
  }

  #history(data) {
    this.activity = [];
    this.activityKeys.clear();
    const activities = (data.activities ?? []).filter((row) => typeof row === "object");
    const told = new Set(activities.map((row) => row.at_ms));
    const extra = (data.transitions ?? []).filter((row) => !told.has(row.at_ms));
    for (const row of [...activities, ...extra].sort((a, b) => a.at_ms - b.at_ms)) this.#log(row);
    this.mark("system_activity");
  }

  #log(row) {
    const key = row.activity_id ?? `${row.at_ms}|${row.message}`;
    if (this.activityKeys.has(key)) return;
    this.activityKeys.add(key);
    this.activity.push({ ...row, key });
    if (this.activity.length <= ACTIVITY_KEEP) return;
    this.activityKeys.delete(this.activity.shift().key);
  }
}

export const store = new Store();
store.start();
