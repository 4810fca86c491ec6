// @ts-check
/**
 * Numbers, times and words as people read them.
 * Pure functions. `null` or `undefined` is unknown and prints as DASH, never as 0.
 * Units come in by suffix: `_ud` micro-dollars, `_cc` centi-cents, `_h` hundredths of a contract.
 */

export const DASH = "—";
const MINUS = "−";

export const known = (value) => value !== null && value !== undefined;

const grouped = (whole) => String(whole).replace(/\B(?=(\d{3})+$)/g, ",");

/** An integer of so many places as a decimal text, rounded half away from zero. */
function decimal(value, places, digits) {
  const step = 10 ** (places - digits);
  const units = Math.round(Math.abs(value) / step);
  const base = 10 ** digits;
  const fraction = digits ? `.${String(units % base).padStart(digits, "0")}` : "";
  return grouped(Math.floor(units / base)) + fraction;
}

const sign = (value, plus) => (value < 0 ? MINUS : plus && value > 0 ? "+" : "");

/** Micro-dollars as dollars: "$999.99", with `plus` "+$0.02". */
export function dollars(ud, { digits = 2, plus = false, unit = "$" } = {}) {
  return known(ud) ? sign(ud, plus) + unit + decimal(ud, 6, digits) : DASH;
}

/** Money with four places below one dollar, so that one-lot results are seen. */
export function money(ud, plus = false) {
  if (!known(ud)) return DASH;
  const fine = Math.abs(ud) < 1_000_000 && ud % 10_000 !== 0;
  return dollars(ud, { digits: fine ? 4 : 2, plus });
}

/** Money for table columns: four places below $100, no unit, signed; nothing is a plain 0. */
export const moneyColumn = (ud) => (ud === 0 ? "0" : dollars(ud,
  { digits: Math.abs(ud) < 1e8 ? 4 : 2, plus: true, unit: "" }));

/** A limit in few letters: "$100", "$12.5k". */
export const shortDollars = (ud) => (ud < 1e10 ? dollars(ud, { digits: ud % 1e6 ? 2 : 0 })
  : `${dollars(ud / 1000, { digits: ud % 1e9 ? 1 : 0 })}k`);

/** All six places, for tooltips. */
export const exactDollars = (ud) => dollars(ud, { digits: 6 });

/** A price in cents: "47.0", or "47.25" where the grid is that fine or `digits` asks for it. */
export function cents(cc, digits = cc % 10 ? 2 : 1) {
  return known(cc) ? sign(cc, false) + decimal(cc, 2, digits) : DASH;
}

/** A difference of prices in cents: "+0.10", "−0.31". */
export const centsDiff = (cc) => (known(cc) ? sign(cc, true) + decimal(cc, 2, 2) : DASH);

/** Contracts: "1", "7.77", "1,204". */
export function contracts(h) {
  return known(h) ? sign(h, false) + decimal(h, 2, h % 100 ? 2 : 0) : DASH;
}

/** A signed position in words: "YES 1", "NO 2", "flat". */
export function positionWords(h) {
  if (!known(h)) return DASH;
  return h === 0 ? "flat" : `${h > 0 ? "YES" : "NO"} ${contracts(Math.abs(h))}`;
}

/** A whole number with thousands: "5,121". */
export const count = (n) => (known(n) ? sign(n, false) + grouped(Math.abs(Math.round(n))) : DASH);

/** A ratio as per cent: "61 %". */
export function percent(ratio, digits = 0) {
  return known(ratio) ? `${sign(ratio, false)}${Math.abs(ratio * 100).toFixed(digits)} %` : DASH;
}

const two = (n) => String(n).padStart(2, "0");

/** A duration in milliseconds in the largest fitting unit: "0.3 s", "4 min", "2 d 4 h". */
export function duration(ms) {
  if (!known(ms)) return DASH;
  const s = Math.max(0, ms) / 1000;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  const hours = Math.floor(s / 3600);
  if (hours < 48) return `${hours} h ${two(Math.floor(s / 60) % 60)}`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A duration in at most six letters, for narrow columns: "3d23h", "8h34", "23m", "41s". */
export function brief(ms) {
  if (!known(ms)) return DASH;
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 100) return `${s}s`;
  if (s < 6000) return `${Math.floor(s / 60)}m`;
  const hours = Math.floor(s / 3600);
  return hours < 48 ? `${hours}h${two(Math.floor(s / 60) % 60)}`
    : `${Math.floor(hours / 24)}d${hours < 240 ? `${hours % 24}h` : ""}`;
}

/** Small technical times given in microseconds: "410 µs", "81 ms". */
export function micros(us) {
  if (!known(us)) return DASH;
  return us < 1000 ? `${Math.round(us)} µs` : us < 1e6
    ? `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms`
    : `${(us / 1e6).toFixed(2)} s`;
}

/** Bytes: "91 MB", "8.2 GB". */
export function bytes(n) {
  if (!known(n)) return DASH;
  return n >= 1e9 ? `${(n / 1e9).toFixed(1)} GB` : n >= 1e6 ? `${Math.round(n / 1e6)} MB`
    : `${Math.round(n / 1e3)} KB`;
}

const iso = (ms) => new Date(ms).toISOString();

/** A moment as UTC clock time "10:31:07". */
export const clockTime = (ms) => (known(ms) ? iso(ms).slice(11, 19) : DASH);

/** A moment as UTC date and time "2026-11-25 10:31:07". */
export const dateTime = (ms) => (known(ms) ? iso(ms).slice(0, 19).replace("T", " ") : DASH);

/** ISO text for `time datetime`. */
export const isoTime = (ms) => (known(ms) ? iso(ms) : "");

/** A key of the wire as words: "edge_below_cost" → "edge below cost". */
export const words = (key) => (known(key) && key !== "" ? String(key).replaceAll("_", " ") : DASH);

/** Sign as a shape, so that colour is never alone: ▲ ▼ or nothing. */
export const arrow = (n) => (!known(n) || n === 0 ? "" : n > 0 ? "▲" : "▼");

export const gainTone = (n) => (!known(n) || n === 0 ? "" : n > 0 ? "gain" : "loss");

export const heldTone = (h) => (h > 0 ? "yes" : h < 0 ? "no" : "muted");

/** Any text as it is; unknown is a dash. */
export const plain = (value) => (known(value) && value !== "" ? String(value) : DASH);

export const upper = (side) => plain(side).toUpperCase();

/** Time left to a close, in the given format. */
export const untilClose = (ms, format) => (known(ms) && ms <= 0 ? "closed" : format(ms));

export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
