// @ts-check
/** The tape player: virtual time, progress with marks of own fills, play, pause, speed, settle. */

import { guarded, replayControl } from "../controls.js";
import { $, arrange, button, el, setAttr, setBar, setText } from "../dom.js";
import { clockTime, count } from "../format.js";

const SPEEDS = [1, 5, 10, 30, 100];
const MARKS_MAX = 60;

const press = (text, act, title = null) =>
  button(text, () => guarded(act), { class: "act small", title });

function make(root, view) {
  const play = () => replayControl(view.one("replay")?.playing ? "pause" : "play");
  const change = (e) => guarded(() => replayControl("speed", { ratio: Number(e.target.value) }));
  root.append(el("b.tape"), press("", play),
    el("select", { "aria-label": "Tape speed", on: { change } },
      ...SPEEDS.map((s) => el("option", { value: String(s), text: `×${s}` }))),
    el("span.bar.tape-bar", { "aria-hidden": "true" }, el("i"),
      el("span.marks")),
    el("output"),
    press("Settle", () => replayControl("settle"), "play to the end and settle"));
}

function marks(box, fills, tape) {
  const span = tape.to_at_ms - tape.from_at_ms;
  const inside = fills.filter((f) => f.at_ms >= tape.from_at_ms
    && f.at_ms <= tape.to_at_ms).slice(-MARKS_MAX);
  arrange(box, inside.map((fill, i) => {
    const mark = box.children[i] ?? el("i");
    mark.className = fill.side;
    mark.style.left = `${(((fill.at_ms - tape.from_at_ms) / span) * 100).toFixed(2)}%`;
    return mark;
  }));
}

export function renderReplay(root, view) {
  const tape = view.one("replay");
  root.hidden = !tape;
  if (!tape) return;
  if (!root.firstChild) make(root, view);
  const [name, play, speed, bar, out] = root.children;
  setText(name, `REPLAY ${tape.tape}`);
  setText(play, tape.playing ? "Pause tape" : "Play tape");
  if (document.activeElement !== speed) {
    if (![...speed.options].some((o) =>
      Number(o.value) === tape.speed_ratio)) speed.append(el("option",
      { value: String(tape.speed_ratio), text: `×${tape.speed_ratio}` }));
    speed.value = String(tape.speed_ratio);
  }
  const done = (tape.virtual_at_ms - tape.from_at_ms) / (tape.to_at_ms - tape.from_at_ms);
  setBar(bar, done, "tape-bar");
  marks($(bar, ".marks"), view.rows("fills"), tape);
  const [at, end] = [tape.virtual_at_ms, tape.to_at_ms].map(clockTime);
  const events = `${count(tape.events_done)} / ${count(tape.events_total)} events`;
  setText(out, `${at} of ${end} · ${events}`);
  setAttr(out, "aria-label", "Tape position");
}
