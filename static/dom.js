// @ts-check
/**
 * The few helpers that touch the document. Data enters as text only.
 * `dataTable` is the one table of the desk: keyed rows that keep identity, focus and selection,
 * sorting, rows that wait while the pointer rests on the list, and only the visible rows in the
 * document above VIRTUAL_ABOVE.
 */

import { clockTime, dateTime, plain, upper } from "./format.js";

const VIRTUAL_ABOVE = 100;
const OVERSCAN = 20;
const PHONE_ROWS = 15;
/** Last letters of a `tail` column that are never cut off: they tell one row from another. */
const TAIL = 8;
const FLASHES_PER_FRAME = 24;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
export const phone = matchMedia("(max-width: 560px)");

/** Ages in ms at which a value is dimmed and hatched. */
const DIM_MS = 2000;
export const HATCH_MS = 10000;

/** @returns {any} */
export const byId = (id) => document.getElementById(id);

/** The first match inside `root`. @returns {any} */
export const $ = (root, css) => root.querySelector(css);

/**
 * Make an element. The first of `rest` may be attributes: `text`, `on` (event handlers) or any
 * other; the rest are children, a string being text.
 * @param {string} tag name and classes, as "td.num" @param {...any} rest @returns {any}
 */
export function el(tag, ...rest) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(" ");
  const given = rest[0]?.constructor === Object ? rest.shift() : {};
  for (const [key, value] of Object.entries(given)) {
    if (key === "text") node.textContent = value;
    else if (key === "on") for (const kind in value) node.addEventListener(kind, value[kind]);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...rest);
  return node;
}

export const button = (text, act, more = {}) =>
  el("button", { type: "button", class: "act", text, on: { click: act }, ...more });

export const dialogOpen = () => $(document, "dialog[open]") !== null;

/** Write text only if it changed; answers whether it did. */
export function setText(node, text) {
  if (node.textContent === text) return false;
  node.textContent = text;
  return true;
}

export function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

export function setAttr(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

let flashesLeft = FLASHES_PER_FRAME;
/** Called at the start of each paint. */
export const refillFlashes = () => {
  flashesLeft = FLASHES_PER_FRAME;
};

/** One short flash of a changed value; none with reduced motion. @param {Element} node */
export function flash(node) {
  if (calm.matches || flashesLeft <= 0) return;
  flashesLeft -= 1;
  node.animate([{ backgroundColor: "rgb(128 150 175 / 20%)" }, { backgroundColor: "transparent" }],
    280);
}

/** Class of an age: fresh, dim over 2 s, hatch over 10 s or unknown. */
export function ageClass(ageMs) {
  if (ageMs === null || ageMs > HATCH_MS) return "hatch";
  return ageMs > DIM_MS ? "dim" : "";
}

/** A bar of a ratio 0…1 and its tone; unknown is an empty track. */
export function setBar(bar, ratio, tone = "") {
  setClass(bar, `bar ${tone}`.trim());
  const width = `${Math.round(Math.max(0, Math.min(1, ratio ?? 0)) * 1000) / 10}%`;
  const fill = bar.firstElementChild;
  if (fill.style.width !== width) fill.style.width = width;
}

export const makeBar = () => el("span.bar", { "aria-hidden": "true" }, el("i"));

/** Put `nodes` in this order under `parent`, moving only what is out of place. */
export function arrange(parent, nodes) {
  let cursor = parent.firstChild;
  for (const node of nodes) {
    if (node === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(node, cursor);
  }
  while (cursor) {
    const next = cursor.nextSibling;
    cursor.remove();
    cursor = next;
  }
}

/** A group of buttons of which one is pressed; `options` are pairs of value and words. */
export function choice(label, options, current, pick) {
  const group = el("span.choice", { role: "group", "aria-label": label });
  const press = (value) => {
    for (const one of group.children) setAttr(one, "aria-pressed",
      String(one.dataset.value === value));
  };
  for (const [value, text] of options) group.append(button(text,
    () => (press(value), pick(value)), { "data-value": value, class: null }));
  press(current);
  return group;
}

/** Fill small tables: a cell is a text or [text, class]; rows are kept. */
export function fillRows(body, rows) {
  arrange(body, rows.map((cells, i) => {
    const kept = body.children[i];
    const row = kept?.children.length === cells.length ? kept
      : el("tr", ...cells.map(() => el("td")));
    cells.forEach((cell, j) => {
      const [text, name = ""] = [cell].flat();
      setText(row.children[j], text ?? "—");
      setClass(row.children[j], name);
    });
    return row;
  }));
}

/** Fill a list of names and values; its `dt` and `dd` are kept. */
export function fillPairs(list, rows) {
  arrange(list, rows.flat().map((text, i) => {
    const node = list.children[i] ?? el(i % 2 ? "dd" : "dt");
    setText(node, text);
    return node;
  }));
}

/** One child per row, kept by key. @param {(key: string) => any} make */
export function fillCards(list, rows, key, make, paint) {
  const kept = new Map([...list.children].map((node) => [node.dataset.key, node]));
  arrange(list, rows.map((row) => {
    const card = kept.get(row[key]) ?? make(row[key]);
    card.dataset.key = row[key];
    paint(card, row);
    return card;
  }));
}

/** Options of a filter: its first one stays, then these; what was chosen stays chosen. */
export function fillSelect(select, names, label = String) {
  const wanted = [...new Set(names)].sort();
  if (select.options.length === wanted.length + 1
    && wanted.every((name, i) => select.options[i + 1].value === name)) return;
  const kept = select.value;
  select.replaceChildren(select.options[0],
    ...wanted.map((name) => el("option", { value: name, text: label(name) })));
  select.value = wanted.includes(kept) ? kept : "";
}

/** A small table. @param {string} caption @param {any[]} heads texts or [text, class] */
export function plainTable(caption, heads, rows = []) {
  const head = (h) => el("th", { scope: "col", class: h[1] ?? "", text: h[0] });
  const body = el("tbody");
  fillRows(body, rows);
  return el("table.data.plain", el("caption.sr", caption),
    el("thead", el("tr", ...heads.map((h) => head([h].flat())))), body);
}

/** Where storage is switched off the page works without it. */
function stored(act) {
  try {
    return act();
  } catch {
    return null;
  }
}

/** Values kept between visits: theme, tab and sort order, nothing else. */
export const memory = {
  get: (name) => stored(() => localStorage.getItem(`desk.${name}`)),
  set: (name, value) => stored(() => localStorage.setItem(`desk.${name}`, value)),
};

export const times = (ch, label = "Time") => col("time", label, "at_ms", clockTime,
  { unit: "UTC", ch, hint: (row) => dateTime(row.at_ms) });

export const sides = () => col("side", "Side", "side", upper, { ch: 6, tone: (row) => row.side });

/** A column that shows one field. @returns {Column} */
export const col = (id, label, field, format, more = {}) => ({
  id, label, sort: (row) => row[field], text: (row) => format(row[field]), ...more,
});
export const NUM = { num: true };
export const tickers = (more) => col("ticker", "Market", "ticker", plain, { tail: true, ...more });
export const CENT = { unit: "¢", num: true };
export const DOLLAR = { unit: "$", num: true };

const tables = new WeakMap();

/** The table of a panel, made on the first call. @param {any} host @param {TableSpec} spec */
export function dataTable(host, spec) {
  let table = tables.get(host);
  if (!table) tables.set(host, (table = new DataTable(host, spec)));
  return table;
}

/** The table inside or around an element, or null. */
export const tableOf = (host) => tables.get(host) ?? null;

/**
 * @typedef {(row: any, view: any) => any} Ask
 *
 * `id` is also the CSS class of the cells, `ch` a fixed width in digits (others share the rest),
 * `sort` the value to sort by (null goes last), `paint` makes content of its own.
 * @typedef {{id: string, label: string, unit?: string, num?: boolean, ch?: number, text: Ask,
 *   tail?: boolean, tone?: string|Ask, hint?: string|Ask, sort?: Ask, flash?: boolean,
 *   paint?: (cell: any, row: any, view: any) => void}} Column
 *
 * `empty` says what is missing and what would fill it, `age` is that of a row's truth in ms, `sort`
 * the first column and "asc" or "desc"; a `stream` is newest first and waits under the pointer.
 * @typedef {{id: string, caption: string, columns: Column[], key: (row: any) => any,
 *   empty: (view: any) => string, onOpen?: Ask, age?: Ask, rowTone?: Ask, sort?: string[],
 *   stream?: boolean}} TableSpec
 */
export class DataTable {
  constructor(host, spec) {
    this.host = host;
    this.spec = spec;
    this.records = new Map();
    this.order = [];
    this.hovered = false;
    this.waiting = 0;
    this.focusKey = null;
    this.rowPx = 24;
    const kept = spec.sort ? (memory.get(`sort.${spec.id}`) ?? spec.sort.join(" ")).split(" ")
      : null;
    this.sortBy = kept && spec.columns.some((c) => c.id === kept[0] && c.sort) ? kept : spec.sort;
    this.#build();
  }

  #build() {
    this.heads = this.spec.columns.map((column) => this.#head(column));
    this.body = el("tbody");
    this.topPad = el("tr.pad", { "aria-hidden": "true" }, el("td"));
    this.endPad = el("tr.pad", { "aria-hidden": "true" }, el("td"));
    this.table = el("table", { class: `data t-${this.spec.id}` },
      el("caption.sr", { text: this.spec.caption }),
      el("thead", el("tr", ...this.heads)), this.body);
    this.empty = el("p.empty", { hidden: true });
    this.more = button("", () => this.#release(), { class: "more", hidden: true });
    this.scroll = el("div.scroll", { on: { scroll: () => this.#scrolled() } }, this.table,
      this.empty);
    this.host.classList.add("host");
    this.host.append(this.more, this.scroll);
    this.body.addEventListener("pointerenter", (e) => (this.hovered = e.pointerType === "mouse"));
    this.body.addEventListener("pointerleave", (e) => this.#left(e.relatedTarget === this.more));
    this.more.addEventListener("pointerleave", () => this.#left(false));
    this.body.addEventListener("click", (e) => !e.target.closest("button") && this.#focused(e)
      && this.openFocused());
    this.body.addEventListener("focusin", (e) => this.#focused(e));
    this.body.addEventListener("focusout", () => setTimeout(() => this.#left(false)));
  }

  #head(column) {
    const label = column.unit ? [`${column.label} `, el("small", { text: column.unit })]
      : [column.label];
    const sort = () => this.#sort(column.id);
    const content = column.sort && this.spec.sort
      ? [el("button", { type: "button", on: { click: sort } }, ...label)] : label;
    const head = el("th", { scope: "col", class: this.#class(column) }, ...content);
    if (column.ch) head.style.width = `${column.ch}ch`;
    return head;
  }

  #class(column, tone = "") {
    const names = [column.id, column.num && "num", column.tail && "tail", tone];
    return names.filter(Boolean).join(" ");
  }

  #sort(id) {
    const flip = this.sortBy[0] === id && this.sortBy[1] === "asc" ? "desc" : "asc";
    this.sortBy = [id, flip];
    memory.set(`sort.${this.spec.id}`, this.sortBy.join(" "));
    this.order = [];
    if (this.view) this.update(this.rows, this.view);
  }

  /** Show these rows. @param {any[]} rows @param {any} view */
  update(rows, view) {
    this.rows = rows;
    this.view = view;
    const before = this.byKey;
    this.byKey = new Map(rows.map((row) => [this.spec.key(row), row]));
    this.#setOrder(before);
    setHidden(this.empty, this.order.length > 0);
    setHidden(this.table, this.order.length === 0);
    setAttr(this.scroll, "tabindex", this.order.length ? null : "0");
    if (!this.order.length) setText(this.empty, this.spec.empty(view));
    this.heads.forEach((head, i) => this.#markSort(head, this.spec.columns[i]));
    this.#paint();
  }

  #markSort(head, column) {
    if (!column.sort || !this.spec.sort) return;
    const [id, way] = this.sortBy;
    setAttr(head, "aria-sort", id === column.id ? `${way}ending` : null);
  }

  /** Somebody points at a row, stands on it with the keyboard, reads below or in a dialog. */
  #isHeld() {
    return this.hovered || (this.spec.stream && (this.scroll.scrollTop > 4 || dialogOpen()
      || this.body.contains(document.activeElement)));
  }

  /** New order of the rows; of a stream that is held none goes, though it ended meanwhile. */
  #setOrder(before) {
    const wanted = this.spec.stream ? [...this.byKey.keys()].reverse() : this.#sorted();
    if (!this.order.length || !this.#isHeld()) {
      this.order = wanted;
      this.#wait(0);
      return;
    }
    const shown = new Set(this.order);
    const fresh = wanted.filter((key) => !shown.has(key));
    if (this.spec.stream) {
      for (const key of this.order) this.byKey.set(key, this.byKey.get(key) ?? before.get(key));
      this.#wait(fresh.length);
      return;
    }
    this.order = this.order.filter((key) => this.byKey.has(key));
    this.order.push(...fresh);
  }

  #wait(n) {
    this.waiting = n;
    setHidden(this.more, n === 0);
    if (n) setText(this.more, `${n} new`);
  }

  #sorted() {
    const rows = [...this.rows];
    const column = this.sortBy && this.spec.columns.find((c) => c.id === this.sortBy[0]);
    if (!column) return rows.map(this.spec.key);
    const way = this.sortBy[1] === "asc" ? 1 : -1;
    const keyed = rows.map((row) => [column.sort(row, this.view), this.spec.key(row)]);
    keyed.sort(([a, ka], [b, kb]) => {
      if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
      if (b === null || b === undefined) return -1;
      return a < b ? -way : a > b ? way : ka < kb ? -1 : 1;
    });
    return keyed.map(([, key]) => key);
  }

  /** First and last index in the document: all up to 100 rows, else the visible and 20 beside. */
  #window() {
    const total = this.order.length;
    if (phone.matches) return [0, Math.min(total, PHONE_ROWS)];
    if (total <= VIRTUAL_ABOVE) return [0, total];
    const first = Math.floor(this.scroll.scrollTop / this.rowPx) - OVERSCAN;
    const visible = Math.ceil((this.scroll.clientHeight || 400) / this.rowPx);
    const from = Math.max(0, Math.min(first, total - 1));
    return [from, Math.min(total, Math.max(0, first) + visible + 2 * OVERSCAN)];
  }

  #paint() {
    const [from, to] = this.#window();
    this.shown = [from, to];
    /** @type {any} */
    const active = document.activeElement;
    const held = this.body.contains(active) ? active : null;
    const nodes = [];
    const live = new Set();
    for (const key of this.order.slice(from, to)) {
      live.add(key);
      nodes.push(this.#row(key).node);
    }
    for (const [key] of this.records) if (!live.has(key)) this.records.delete(key);
    if (from > 0) nodes.unshift(this.topPad);
    if (to < this.order.length && !phone.matches) nodes.push(this.endPad);
    arrange(this.body, nodes);
    this.#pads(from, to);
    if (held && held !== document.activeElement
      && held.isConnected) held.focus({ preventScroll: true });
    this.#rove();
  }

  #pads(from, to) {
    const total = this.order.length;
    const virtual = from > 0 || to < total;
    setAttr(this.table, "aria-rowcount", virtual ? String(total + 1) : null);
    this.topPad.firstChild.style.height = `${from * this.rowPx}px`;
    this.endPad.firstChild.style.height = `${(total - to) * this.rowPx}px`;
    if (virtual) this.order.slice(from, to).forEach((key, i) =>
      setAttr(this.records.get(key).node, "aria-rowindex", String(from + i + 2)));
    const measured = this.body.querySelector("tr:not(.pad)")?.offsetHeight;
    if (virtual && measured) this.rowPx = measured;
  }

  #row(key) {
    let record = this.records.get(key);
    if (!record) this.records.set(key, (record = this.#make(key)));
    const row = this.byKey.get(key);
    this.spec.columns.forEach((column, i) => this.#cell(record, i, column, row));
    const age = this.spec.age?.(row, this.view);
    const stale = age === undefined ? "" : ageClass(age);
    const tone = `${this.spec.rowTone?.(row) ?? ""} ${stale}`.trim();
    if (record.tone !== tone) setClass(record.node, (record.tone = tone));
    if (this.spec.age) setAttr(record.node, "data-age", stale === "hatch" ? this.view.ageWords(age)
      : null);
    setAttr(record.node, "aria-current", this.view.selected === key && this.spec.id === "markets"
      ? "true" : null);
    return record;
  }

  #make(key) {
    const cells = this.spec.columns.map((column) =>
      el("td", { class: this.#class(column), "data-label": column.label }));
    const node = el("tr", { tabindex: "-1" }, ...cells);
    node.dataset.key = String(key);
    return { node, cells, texts: [], tones: [], hints: [], key };
  }

  #cell(record, i, column, row) {
    const cell = record.cells[i];
    if (column.paint) column.paint(cell, row, this.view);
    else this.#cellText(record, i, column, column.text(row, this.view));
    const tone = this.#ask(column.tone, row) ?? "";
    if (record.tones[i] !== tone) setClass(cell, this.#class(column, (record.tones[i] = tone)));
    const hint = this.#ask(column.hint, row) || null;
    if (record.hints[i] !== hint) setAttr(cell, "title", (record.hints[i] = hint));
  }

  /** A property that is a plain text or a function of the row. */
  #ask(property, row) {
    return typeof property === "function" ? property(row, this.view) : property;
  }

  #cellText(record, i, column, text) {
    if (record.texts[i] === text) return;
    if (column.flash && record.texts[i] !== undefined) flash(record.cells[i]);
    record.texts[i] = text;
    const cut = column.tail ? Math.max(0, text.length - TAIL) : 0;
    const parts = cut ? [text.slice(0, cut), text.slice(cut)] : [];
    record.cells[i].textContent = cut ? "" : text;
    record.cells[i].append(...parts.map((part) => el("span", part)));
  }

  #scrolled() {
    if (!this.view) return;
    if (this.spec.stream && this.scroll.scrollTop <= 4 && this.waiting) this.#release();
    else if (this.order.length > VIRTUAL_ABOVE) this.#paint();
  }

  #release() {
    this.hovered = false;
    this.scroll.scrollTop = 0;
    this.order = [];
    this.update(this.rows, this.view);
  }

  #left(isStaying) {
    this.hovered = isStaying;
    if (this.view && !this.#isHeld()) this.update(this.rows, this.view);
  }

  #keyOf(target) {
    const node = target.closest?.("tr[data-key]");
    return this.order.find((key) => this.records.get(key)?.node === node);
  }

  /** The row of an event becomes the one in the Tab order; false beside the rows. */
  #focused(event) {
    const key = this.#keyOf(event.target);
    if (key === undefined) return false;
    this.focusKey = key;
    this.#rove();
    return true;
  }

  /** Exactly one row is in the Tab order. */
  #rove() {
    if (!this.records.has(this.focusKey)) this.focusKey = this.order[this.shown?.[0] ?? 0];
    for (const [key, record] of this.records) setAttr(record.node, "tabindex",
      key === this.focusKey ? "0" : "-1");
  }

  /** Move the focus by rows; answers whether there was a row. @param {number} step */
  move(step) {
    if (!this.order.length) return false;
    const inside = this.body.contains(document.activeElement);
    const at = this.order.indexOf(this.focusKey);
    const next = Math.max(0, Math.min(this.order.length - 1, inside ? at + step : Math.max(0, at)));
    this.focusKey = this.order[next];
    if (!this.records.has(this.focusKey)) {
      this.scroll.scrollTop = next * this.rowPx - this.scroll.clientHeight / 2;
      this.#paint();
    }
    this.records.get(this.focusKey)?.node.focus();
    return true;
  }

  openFocused() {
    const row = this.byKey?.get(this.focusKey);
    if (row) this.spec.onOpen?.(row, this.view);
  }

  /** The row that has the focus, or null. */
  focusedRow() {
    return this.body.contains(document.activeElement) ? this.byKey?.get(this.focusKey) ?? null
      : null;
  }
}
