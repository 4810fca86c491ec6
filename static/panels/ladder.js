// @ts-check
/**
 * The selected book as a ladder on the YES (or NO) price axis: asks above, bids below, own orders
 * with the contracts ahead, fair value, last prints. A click explains the level; it never trades.
 */

import { $, ageClass, arrange, el, phone, setAttr, setClass, setText } from "../dom.js";
import { cents, clockTime, contracts, dollars, duration, known, positionWords } from "../format.js";
import { openText } from "./decisions.js";

const FULL_CC = 10000;
const ROW_PX = 19;
const FIXED_PX = 44;
const MOST = 15;
const nodes = new Map();

/** Levels of one book seen from an axis: bids and asks as [{price_cc, count_h}], best first. */
function sides(book, axis) {
  const own = axis === "yes" ? book.yes : book.no;
  const other = axis === "yes" ? book.no : book.yes;
  const level = (flip) => ([price, count]) => ({ price_cc: flip ? FULL_CC - price : price,
    count_h: count });
  return { bids: (own ?? []).map(level(false)), asks: (other ?? []).map(level(true)) };
}

/** Own orders by price on this axis. */
function ownAt(book, axis) {
  const byPrice = new Map();
  for (const order of book.own ?? []) {
    const price = order.side === axis ? order.price_cc : FULL_CC - order.price_cc;
    byPrice.set(price, [...(byPrice.get(price) ?? []), order]);
  }
  return byPrice;
}

/** Add own orders that rest where nothing is displayed, so that none is hidden. */
function withOwn(levels, own, axis, mine) {
  const seen = new Set(levels.map((l) => l.price_cc));
  const missing = [...own].filter(([price, list]) => !seen.has(price)
    && list.some((o) => (o.side === axis) === mine));
  const all = [...levels, ...missing.map(([price_cc]) => ({ price_cc, count_h: 0 }))];
  return all.sort((a, b) => (mine ? b.price_cc - a.price_cc : a.price_cc - b.price_cc));
}

const ahead = (o) => (known(o.ahead_h) ? (o.ahead_from === "estimate" ? "~" : "")
  + contracts(o.ahead_h) : "—");
const ownShort = (list) => list.map((o) => `${contracts(o.count_h)}·${ahead(o)}`).join(" + ");
const ownWords = (list) =>
  list.map((o) => `${contracts(o.count_h)} with ${ahead(o)} ahead`).join(" and ");

function levelNode(key, view) {
  let node = nodes.get(key);
  if (node) return node;
  const cell = (name) => el("td", { class: name });
  node = el("tr", { class: "level", tabindex: "0" }, cell("own-left"), cell("size-bid num"),
    cell("at num"), cell("size-ask num"), cell("own-right"));
  const tell = () => explainLevel(node, view);
  node.addEventListener("click", tell);
  node.addEventListener("keydown", (e) => e.key === "Enter" && (e.stopPropagation(), tell()));
  nodes.set(key, node);
  return node;
}

function paintLevel(level, kind, shape, view) {
  const node = levelNode(`${kind}${level.price_cc}`, view);
  const [ownLeft, bid, at, ask, ownRight] = node.children;
  const mine = shape.own.get(level.price_cc) ?? [];
  setText(kind === "bid" ? bid : ask, contracts(level.count_h));
  setText(at, cents(level.price_cc));
  setText(kind === "bid" ? ownLeft : ownRight, mine.length ? ownShort(mine) : "");
  const part = `${Math.round(Math.sqrt(level.count_h / shape.largest) * 100)}%`;
  const cell = kind === "bid" ? bid : ask;
  if (cell.style.getPropertyValue("--part") !== part) cell.style.setProperty("--part", part);
  setClass(node, `level ${kind} ${mine.length ? "mine" : ""} ${level.price_cc === shape.last
    ? "last" : ""}`.trim());
  setAttr(node, "title", mine.length ? `own ${ownWords(mine)} contracts` : null);
  node.level = { ...level, kind, mine };
  return node;
}

function middleNode(shape) {
  let node = nodes.get("middle");
  if (!node) nodes.set("middle", (node = el("tr", { class: "middle" },
    el("td", { colspan: "5" }))));
  const text = [shape.spread === null ? "one-sided" : `spread ${cents(shape.spread)}`,
    `mid ${cents(shape.mid)}`, `fair ${cents(shape.fair)}`].join(" · ");
  setText(node.firstChild, text);
  return node;
}

/** What can be said about one level without trading: cost, depth before it, edge before fees. */
function explainLevel(node, view) {
  const { price_cc, count_h, kind, mine } = node.level;
  const book = view.get("books", view.selected);
  if (!book) return;
  const { bids, asks } = sides(book, view.axis);
  const before = (kind === "bid" ? bids : asks).filter((l) =>
    (kind === "bid" ? l.price_cc > price_cc : l.price_cc < price_cc)).reduce((n, l) => n
    + l.count_h, 0);
  const fair = known(book.fair_cc) ? (view.axis === "yes" ? book.fair_cc : FULL_CC - book.fair_cc)
    : null;
  const edge = fair === null ? null : kind === "ask" ? fair - price_cc : price_cc - fair;
  const axis = view.axis.toUpperCase();
  openText(`Level ${cents(price_cc)} ¢ ${axis}`, [
    ["Market", view.selected], ["Side", kind === "bid" ? `bids for ${axis}` : `offers of ${axis}`],
    ["Displayed", `${contracts(count_h)} contracts`],
      ["Better levels hold", `${contracts(before)} contracts`],
    ["Cost of one contract here", dollars(price_cc * 100, { digits: 4 })],
    ["The same from the other side",
      `${cents(FULL_CC - price_cc)} ¢ ${view.axis === "yes" ? "NO" : "YES"}`],
    ["Fair value", fair === null ? "— (no strategy states one)" : `${cents(fair)} ¢`],
    [kind === "ask" ? "Edge of buying here, before fees" : "Edge of selling here, before fees",
      edge === null ? "—" : `${cents(edge)} ¢`],
    ["Own orders here", mine.length ? ownWords(mine) : "none"],
    ["Queue figure", mine.length ? (mine[0].ahead_from === "exchange" ? "asked from the exchange"
      : "estimate of the queue model") : "—"],
  ]);
}

function make(root) {
  const head = ["Own", "Bids", "¢", "Asks", "Own"].map((text, i) =>
    el("th", { scope: "col", class: i < 3 ? "num" : "", text, title: i % 4 ? null
      : "own size · contracts ahead of it (~ is an estimate)" }));
  root.append(el("p", { class: "subject" }, el("b"), el("span")), el("p", { class: "empty" }),
    el("div", { class: "book" }, el("table", { class: "ladder" },
      el("caption", { class: "sr", text: "Order book of the selected market" }),
      el("thead", {}, el("tr", {}, ...head)), el("tbody"))),
    el("ul", { class: "prints", "aria-label": "Last prints" }));
}

function prints(list, rows, axis) {
  const items = (rows ?? []).slice().sort((a, b) => b.at_ms - a.at_ms).slice(0, 3).map((p, i) => {
    const item = list.children[i] ?? el("li");
    const price = axis === "yes" ? p.price_cc : FULL_CC - p.price_cc;
    setText(item, `${clockTime(p.at_ms)}  ${cents(price)}  ×${contracts(p.count_h)}  ${p.taker_side
      ? `${p.taker_side.toUpperCase()} taker` : ""}`);
    setClass(item, p.taker_side === "yes" ? "yes" : "no");
    return item;
  });
  arrange(list, items);
}

function subject(root, view, book, market) {
  setText($(root, ".subject b"), view.selected ?? "no market selected");
  const position = market?.position_h ? ` · ${positionWords(market.position_h)}` : "";
  setText($(root, ".subject span"), market ? `${market.title ?? ""}${position}` : "");
  setAttr($(root, ".subject"), "title", market?.title ?? null);
  const proof = $(root, "#ladder-proof");
  setText(proof, book ? `${book.proof === "proven" ? "✓" : "!"} ${book.proof}` : "");
  setAttr(proof, "title",
    book ? `sequence ${book.seq}; ${book.rest_checks} checks by REST, ${book.rest_differences} differences` : null);
  setClass(proof, book?.proof === "proven" ? "gain" : "attention");
  for (const side of ["yes", "no"]) setAttr($(root, `#axis-${side}`), "aria-pressed",
    String(view.axis === side));
}

/** @param {HTMLElement} root @param {any} view */
export function renderLadder(root, view) {
  if (!$(root, ".ladder")) make(root);
  const book = view.selected ? view.get("books", view.selected) : null;
  const market = view.selected ? view.get("markets", view.selected) : null;
  subject(root, view, book, market);
  const age = book ? view.ageMs(view.store.bookVerifiedMs(book)) : null;
  setText($(root, ".age"), duration(age));
  const box = $(root, ".book");
  setClass(box, `book ${book ? ageClass(age) : ""}`.trim());
  setText($(root, ".empty"), book ? "" : view.selected
    ? `No book of ${view.selected} yet: it comes with the first snapshot.`
    : "Select a market to see its book.");
  box.hidden = !book;
  if (!book) return prints($(root, ".prints"), [], view.axis);
  const own = ownAt(book, view.axis);
  const { bids, asks } = sides(book, view.axis);
  const rows = phone.matches ? 5 : Math.max(3,
    Math.min(MOST, Math.floor((box.clientHeight - FIXED_PX) / ROW_PX / 2)));
  const high = withOwn(asks, own, view.axis, false).slice(0, rows);
  const low = withOwn(bids, own, view.axis, true).slice(0, rows);
  const [bid, ask] = [bids[0]?.price_cc ?? null, asks[0]?.price_cc ?? null];
  const newest = (book.prints ?? []).reduce((a, b) => (!a || b.at_ms >= a.at_ms ? b : a), null);
  const shape = {
    own, largest: Math.max(1, ...high.map((l) => l.count_h), ...low.map((l) => l.count_h)),
    spread: bid === null || ask === null ? null : ask - bid, mid: bid === null || ask === null
      ? null : Math.round((bid + ask) / 2),
    fair: known(book.fair_cc) ? (view.axis === "yes" ? book.fair_cc : FULL_CC - book.fair_cc)
      : null,
    last: newest ? (view.axis === "yes" ? newest.price_cc : FULL_CC - newest.price_cc) : null,
  };
  const shown = [...high.reverse().map((l) => paintLevel(l, "ask", shape, view)), middleNode(shape),
    ...low.map((l) => paintLevel(l, "bid", shape, view))];
  const keep = document.activeElement;
  arrange($(root, "tbody"), shown);
  if (keep?.classList.contains("level") && keep.isConnected
    && keep !== document.activeElement) keep.focus({ preventScroll: true });
  for (const [key, node] of nodes) if (key !== "middle" && !node.isConnected) nodes.delete(key);
  prints($(root, ".prints"), book.prints, view.axis);
}
