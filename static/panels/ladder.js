// @ts-check
/**
 * The selected book as a ladder on the YES (or NO) price axis: asks above, bids below, own orders
 * with the contracts ahead, fair value, last prints. A click explains the level; it never trades.
 */

import { $, ageClass, arrange, el, phone, setAttr, setClass, setText } from "../dom.js";
import {
  DASH, cents, clockTime, contracts, count, dollars, duration, known, positionWords, upper,
} from "../format.js";
import { openText } from "./decisions.js";

const FULL_CC = 10000;
const ROW_PX = 19;
const FIXED_PX = 44;
const PHONE_LEVELS = 5;
const LEVELS_MAX = 15;
const PRINTS = 3;
const nodes = new Map();

/** A price of the YES leg on the axis shown; null stays null. */
const onAxis = (axis, cc) => (!known(cc) ? null : axis === "yes" ? cc : FULL_CC - cc);

/** A size that fits its column: whole contracts from a hundred on. */
const sizeOf = (h) => (h < 10_000 ? contracts(h) : count(h / 100));

/** One side of a book, best first, with own orders also where nothing is displayed. */
function sideOf(book, axis, kind) {
  const leg = (kind === "bid") === (axis === "yes") ? "yes" : "no";
  const place = (price) => (kind === "bid" ? price : FULL_CC - price);
  const levels = new Map((book[leg] ?? []).map(([price, count_h]) =>
    [price, { price_cc: place(price), count_h, kind, mine: [] }]));
  for (const order of (book.own ?? []).filter((o) => o.side === leg)) {
    const at = order.price_cc;
    if (!levels.has(at)) levels.set(at, { price_cc: place(at), count_h: 0, kind, mine: [] });
    levels.get(at).mine.push(order);
  }
  return [...levels.entries()].sort(([a], [b]) => b - a).map(([, level]) => level);
}

const ahead = (o, format) =>
  (o.ahead_from === "estimate" && known(o.ahead_h) ? "~" : "") + format(o.ahead_h);
const whole = (h) => count(known(h) ? h / 100 : h);
const ownShort = (list) =>
  list.map((o) => `${contracts(o.count_h)}·${ahead(o, whole)}`).join(" + ");
const ownWords = (list) =>
  list.map((o) => `${contracts(o.count_h)} with ${ahead(o, contracts)} ahead`).join(" and ");

function levelNode(key, view) {
  let node = nodes.get(key);
  if (node) return node;
  const cells = ["own-left", "size-bid", "at", "size-ask", "own-right"];
  node = el("tr", { tabindex: "0" }, ...cells.map((name) => el("td", { class: name })));
  const tell = () => explainLevel(node.level, view);
  node.addEventListener("click", tell);
  node.addEventListener("keydown", (e) => e.key === "Enter" && (e.stopPropagation(), tell()));
  nodes.set(key, node);
  return node;
}

function paintLevel(level, shape, view) {
  const { price_cc, count_h, kind, mine } = level;
  const node = levelNode(`${kind}${price_cc}`, view);
  node.level = level;
  const [own, size] = kind === "bid" ? [0, 1] : [4, 3];
  setText(node.children[size], sizeOf(count_h));
  setText(node.children[2], cents(price_cc));
  setText(node.children[own], ownShort(mine));
  const part = `${Math.round(Math.sqrt(count_h / shape.largest) * 100)}%`;
  node.children[size].style.setProperty("--part", part);
  const isGood = known(shape.fair) && (kind === "ask" ? price_cc < shape.fair
    : price_cc > shape.fair);
  const marks = (mine.length ? " mine" : "") + (price_cc === shape.last ? " last" : "")
    + (isGood ? " past-fair" : "");
  setClass(node, `level ${kind}${marks}`);
  setAttr(node, "title", mine.length ? `own ${ownWords(mine)}` : null);
  return node;
}

/** Empty rows above the asks keep the middle where it is while levels come and go. */
function padNode(i) {
  const key = `pad${i}`;
  if (!nodes.has(key)) nodes.set(key, el("tr.void", el("td", { colspan: "5" })));
  return nodes.get(key);
}

function middleNode(bid, ask, fair) {
  if (!nodes.has("middle")) {
    nodes.set("middle", el("tr.middle", el("td", { colspan: "5" })));
  }
  const both = known(bid) && known(ask);
  const first = both ? `spread ${cents(ask - bid)} · mid ${cents(Math.round((bid + ask) / 2))}`
    : "one-sided";
  setText(nodes.get("middle").firstChild, `${first} · fair ${cents(fair)}`);
  return nodes.get("middle");
}

/** What can be said about one level without trading: cost, depth before it, edge before fees. */
function explainLevel({ price_cc, count_h, kind, mine }, view) {
  const book = view.get("books", view.selected);
  if (!book) return;
  const isBid = kind === "bid";
  const isBetter = (l) => (isBid ? l.price_cc > price_cc : l.price_cc < price_cc);
  const before = sideOf(book, view.axis, kind).filter(isBetter).reduce((n, l) => n + l.count_h, 0);
  const fair = onAxis(view.axis, book.fair_cc);
  const edge = fair === null ? null : isBid ? price_cc - fair : fair - price_cc;
  const [axis, other] = view.axis === "yes" ? ["YES", "NO"] : ["NO", "YES"];
  openText(`Level ${cents(price_cc)} ¢ ${axis}`, [
    ["Market", view.selected],
    ["Side", isBid ? `bids for ${axis}` : `offers of ${axis}`],
    ["Displayed", `${contracts(count_h)} contracts`],
    ["Better levels hold", `${contracts(before)} contracts`],
    ["Cost of one contract here", dollars(price_cc * 100, { digits: 4 })],
    ["The same from the other side", `${cents(FULL_CC - price_cc)} ¢ ${other}`],
    ["Fair value", fair === null ? "— (no strategy states one)" : `${cents(fair)} ¢`],
    [`Edge of ${isBid ? "selling" : "buying"} here, before fees`, `${cents(edge)} ¢`],
    ["Own orders here", mine.length ? ownWords(mine) : "none"],
    ["Contracts ahead", mine.length ? `as ${mine[0].ahead_from ?? "unknown"}` : DASH],
  ]);
}

function make(root) {
  const own = "own size · contracts ahead of it (~ is an estimate)";
  const head = ["Own", "Bids", "¢", "Asks", "Own"].map((text) =>
    el("th", { scope: "col", text, title: text === "Own" ? own : null }));
  root.append(el("p.subject", el("b"), el("span")), el("p.empty"),
    el("div.book", el("table.ladder",
      el("caption.sr", "Order book of the selected market"),
      el("thead", el("tr", ...head)), el("tbody"))),
    el("ul.prints", { "aria-label": "Last prints, with the taker's side" }));
}

function paintPrints(list, prints, axis) {
  arrange(list, prints.slice(0, PRINTS).map((p, i) => {
    const item = list.children[i] ?? el("li");
    setText(item, [clockTime(p.at_ms), cents(onAxis(axis, p.price_cc)), `×${contracts(p.count_h)}`,
      upper(p.taker_side)].join("  "));
    setClass(item, p.taker_side ?? "");
    return item;
  }));
}

function subject(root, view, book) {
  const market = view.get("markets", view.selected);
  setText($(root, ".subject b"), view.selected ?? "no market selected");
  const held = market?.position_h ? ` · ${positionWords(market.position_h)}` : "";
  setText($(root, ".subject span"), (market?.title ?? "") + held);
  setAttr($(root, ".subject"), "title", market?.title ?? null);
  const proof = $(root, "#ladder-proof");
  const good = book?.proof === "proven";
  setText(proof, book ? `${good ? "✓" : "!"} ${book.proof}` : "");
  setClass(proof, good ? "gain" : "attention");
  setAttr(proof, "title", book && `sequence ${book.seq}; ${book.rest_checks} checks by REST, `
    + `${book.rest_differences} differences`);
  for (const side of ["yes", "no"]) {
    setAttr($(root, `#axis-${side}`), "aria-pressed", String(view.axis === side));
  }
}

function paintBook(root, view, book) {
  const room = Math.floor(($(root, ".book").clientHeight - FIXED_PX) / ROW_PX / 2);
  const rows = phone.matches ? PHONE_LEVELS : Math.max(3, Math.min(LEVELS_MAX, room));
  const [asks, bids] = ["ask", "bid"].map((kind) => sideOf(book, view.axis, kind).slice(0, rows));
  const best = (levels) => levels.find((l) => l.count_h)?.price_cc ?? null;
  const prints = [...(book.prints ?? [])].sort((a, b) => b.at_ms - a.at_ms);
  const shape = {
    largest: Math.max(1, ...[...asks, ...bids].map((l) => l.count_h)),
    last: onAxis(view.axis, prints[0]?.price_cc), fair: onAxis(view.axis, book.fair_cc),
  };
  const focused = /** @type {any} */ (document.activeElement);
  const pads = phone.matches ? 0 : Math.max(0, rows - asks.length);
  arrange($(root, "tbody"), [
    ...Array.from({ length: pads }, (_, i) => padNode(i)),
    ...asks.reverse().map((level) => paintLevel(level, shape, view)),
    middleNode(best(bids), best([...asks].reverse()), onAxis(view.axis, book.fair_cc)),
    ...bids.map((level) => paintLevel(level, shape, view)),
  ]);
  if (focused?.closest(".ladder") && focused.isConnected) focused.focus({ preventScroll: true });
  for (const [key, node] of nodes) if (key !== "middle" && !node.isConnected) nodes.delete(key);
  paintPrints($(root, ".prints"), prints, view.axis);
}

export function renderLadder(root, view) {
  if (!$(root, ".ladder")) make(root);
  const book = view.get("books", view.selected);
  subject(root, view, book);
  const age = book ? view.ageMs(view.store.bookVerifiedMs(book)) : null;
  setText($(root, ".age"), duration(age));
  setClass($(root, ".book"), `book ${book ? ageClass(age) : ""}`.trim());
  $(root, ".book").hidden = !book;
  setText($(root, ".empty"), book ? "" : view.selected
    ? `No book of ${view.selected} yet: it comes with the first snapshot.`
    : "Select a market to see its book.");
  if (book) paintBook(root, view, book);
  else paintPrints($(root, ".prints"), [], view.axis);
}
