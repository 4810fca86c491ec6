"""The exchange on the other side of the wire: Kalshi's Trade API v2, simulated to the letter.

Purpose
    Give a trader something true to talk to: the same paths, frames, errors and money as the
    real exchange, with markets that are played by seeded agents or by recorded tapes.

Key Responsibilities
    1. Match orders by price and time on one YES book; keep cash, positions and fees exact.
    2. Serve REST and WebSocket with signatures, rate limits, the four error bodies and `seq`.
    3. Bring the other traders: synthetic markets, or tapes with a queue model.
    4. Break on purpose: every uncertain rule is a named switch, every fault a control.
    5. Run in virtual time, so that an hour takes seconds and a process can be killed anywhere.

Architecture Position
    Started by its command line, by tests, and by the roof of trader.py for `sim` and `replay`.
    Shares no code with the trader, so that one mistake cannot hide on both sides.
      §E01 UNITS             §E02 SETTINGS          §E03 FEES              §E04 ACCOUNTS
      §E05 BOOK              §E06 MARKETS           §E07a ENGINE MEMORY    §E07b MATCHING
      §E07c CREATING         §E07d CHANGING         §E07e LIFECYCLE        §E08a ENCODING
      §E08b DECODING         §E09 GATE              §E10a REQUESTS         §E10b PUBLIC READS
      §E10c ACCOUNT READS    §E10d ORDER WRITES     §E10e ACCOUNT CALLS    §E10f REST
      §E11a SESSIONS         §E11b FAN-OUT          §E12 SYNTHETIC         §E13a TAPE FILES
      §E13b TAPE             §E14a CONTROL          §E14b TRUTH AND WEATHER  §E15a ASSEMBLY
      §E15b SHELLS           §E15c EXCHANGE         §E16 VIRTUAL TIME      §E17 COMMAND LINE
    A room uses only rooms above it.

Design Principles
    - Integers only: no float holds money, and conservation is checked, not hoped for.
    - Rules are sync functions of state and time; only §E15 to §E17 wait.
    - What the documents leave open is a switch with a default, listed by `--list-switches`.

Run it
    python sim_exchange.py --port 9000 --markets 5 --seed 7
    python sim_exchange.py --tape DIRECTORY --speed 30 --control
    python sim_exchange.py --list-switches
"""
from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextvars
import difflib
import gzip
import hashlib
import heapq
import logging
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time as _clock
import uuid
import weakref
import zlib
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache
from heapq import heappop, heappush
from itertools import count, islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, assert_never
from urllib.parse import parse_qsl, unquote

import aiohttp
import orjson
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

log_faults = logging.getLogger("sim_exchange.faults")
log_stream = logging.getLogger("sim_exchange.stream")

T = TypeVar("T")
U = TypeVar("U")


# ======================================================================================
# §E01 UNITS
# Purpose:   Numbers of the exchange as ints, their wire text, times, and refusals.
# Position:  Uses nothing. Used by every room below.
# Principle: price in centi-cents (_cc), count in hundredths (_h), money in micro-dollars
#            (_ud), time in microseconds (_us). price x count is money, exactly.
# ======================================================================================
Json = dict[str, object]

DOLLAR_CC = 10_000
DOLLAR_UD = 1_000_000
CONTRACT_H = 100
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
COUNT_MAX_H = 10_000_000_000            # one hundred million contracts in one order
PRICE_TEXT = tuple(f"{cc // DOLLAR_CC}.{cc % DOLLAR_CC:04d}" for cc in range(DOLLAR_CC + 1))

_PRICE_FORM = re.compile(r"[0-9]{1,6}(?:\.([0-9]{0,4}))?")
_COUNT_FORM = re.compile(r"[0-9]{1,12}(?:\.([0-9]{0,2}))?")


class Refusal(Exception):
    """The exchange says no: HTTP status, code and details of the answer (PROTOCOL 4.2, 4.3).

    `shape` is one of the four error bodies: nested, flat, msg, string.
    """

    def __init__(self, status: int, code: str, details: str = "", *, shape: str = "nested") -> None:
        super().__init__(f"{status} {code} {details}".rstrip())
        self.status, self.code, self.details, self.shape = status, code, details, shape

    @property
    def message(self) -> str:
        """The code in words, as the exchange writes it."""
        plain = self.code if self.code in _CODE_IS_MESSAGE else self.code.replace("_", " ")
        return _SPECIAL_MESSAGES.get(self.code, plain)

    def entry(self) -> Json:
        """The flat error object used inside batches and inside the nested body."""
        body: Json = {"code": self.code, "message": self.message}
        if self.details:
            body["details"] = self.details
        return body

    def body(self) -> Json:
        """The whole JSON body in this refusal's shape."""
        if self.shape == "string":
            return {"error": self.code}
        if self.shape == "msg":
            return {"msg": self.details}
        return self.entry() if self.shape == "flat" else {"error": self.entry()}


_CODE_IS_MESSAGE = frozenset({"authentication_error"})
_SPECIAL_MESSAGES = {"deprecated_v1_order_endpoint": "Please switch to the V2 endpoints"}


def ceil_div(value: int, by: int) -> int:
    """Quotient rounded up (toward plus infinity)."""
    return -(-value // by)


@lru_cache(maxsize=65_536)
def count_text(count_h: int) -> str:
    """A count with exactly two decimals: 1250 -> "12.50", -30 -> "-0.30"."""
    if count_h >= 0:
        return f"{count_h // CONTRACT_H}.{count_h % CONTRACT_H:02d}"
    return f"-{-count_h // CONTRACT_H}.{-count_h % CONTRACT_H:02d}"


def money_text(money_ud: int) -> str:
    """Dollars with six decimals."""
    sign, money_ud = ("-", -money_ud) if money_ud < 0 else ("", money_ud)
    return f"{sign}{money_ud // DOLLAR_UD}.{money_ud % DOLLAR_UD:06d}"


def money4_text(money_ud: int) -> str:
    """Dollars with four decimals, cut toward minus infinity (balances)."""
    hundreds = money_ud // 100
    sign, hundreds = ("-", -hundreds) if hundreds < 0 else ("", hundreds)
    return f"{sign}{hundreds // 10_000}.{hundreds % 10_000:04d}"


def _fixed(text: str, form: re.Pattern[str], decimals: int) -> int | None:
    match = form.fullmatch(text)
    if match is None:
        return None
    whole, _, fraction = text.partition(".")
    scale: int = 10**decimals
    return int(whole) * scale + int((fraction or "0").ljust(decimals, "0"))


def parse_price_cc(text: str) -> int | None:
    """Centi-cents of a dollar string with 0 to 4 decimals; None when it is not one."""
    return _fixed(text, _PRICE_FORM, 4)


def parse_count_h(text: str) -> int | None:
    """Hundredths of a contract count with 0 to 2 decimals; None when it is not one."""
    return _fixed(text, _COUNT_FORM, 2)


def parse_money_ud(text: str) -> int:
    """Micro-dollars of an operator's dollar amount; ValueError when it is not one."""
    match = re.fullmatch(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an amount of dollars such as 1000 or 12.50")
    return int(match[1]) * DOLLAR_UD + int((match[2] or "0").ljust(6, "0"))


@lru_cache(maxsize=4096)
def _second_text(second: int) -> str:
    return _clock.strftime("%Y-%m-%dT%H:%M:%S", _clock.gmtime(second))


def time_text(at_us: int) -> str:
    """RFC 3339 in UTC; trailing zeros of the fraction are dropped as the exchange does."""
    second, rest = divmod(at_us, SECOND_US)
    if not rest:
        return f"{_second_text(second)}Z"
    return f"{_second_text(second)}.{rest:06d}".rstrip("0") + "Z"


def parse_time_us(text: str) -> int:
    """Microseconds of an RFC 3339 time; ValueError when it is not one."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * SECOND_US + moment.microsecond


class ExchangeTime(Protocol):
    """The clock an exchange lives on: anything with these two."""

    def wall_s(self) -> float:
        """Exchange time now, Unix seconds (virtual when a tape plays or in simulation)."""

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of this clock."""


class RealTime:
    """The machine's clock; with an epoch and a rate, the accelerated clock of a tape."""

    def __init__(self, *, epoch_s: float | None = None, rate: float = 1.0) -> None:
        """`epoch_s`: exchange time at this instant (None: the true time); `rate` per second."""
        self._start_s = _clock.monotonic()
        self._epoch_s = _clock.time() if epoch_s is None else epoch_s
        self._is_true_time = epoch_s is None and rate == 1.0
        self._rate = rate

    def wall_s(self) -> float:
        """Exchange time now, Unix seconds."""
        if self._is_true_time:
            return _clock.time()
        return self._epoch_s + (_clock.monotonic() - self._start_s) * self._rate

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of exchange time."""
        await asyncio.sleep(max(0.0, seconds) / self._rate)


class Versions(Generic[T]):
    """The last values of one thing with their times, so that a read can lag behind a write."""

    __slots__ = ("_full", "_rows")

    def __init__(self) -> None:
        self._rows: list[tuple[int, T]] = []
        self._full = VERSIONS_KEPT_MIN

    def put(self, at_us: int, value: T) -> None:
        """Add the newest value; values older than any allowed lag are forgotten now and then."""
        rows = self._rows
        if rows and rows[-1][0] == at_us:
            rows.pop()
        elif len(rows) >= self._full:
            horizon_us = at_us - READ_LAG_MAX_US
            del rows[:max((n for n, row in enumerate(rows) if row[0] <= horizon_us), default=0)]
            self._full = max(VERSIONS_KEPT_MIN, 2 * len(rows))
        rows.append((at_us, value))

    def at(self, at_us: int) -> T | None:
        """The value that was true at `at_us`; None when there was none yet."""
        for time_us, value in reversed(self._rows):
            if time_us <= at_us:
                return value
        return None


READ_LAG_MAX_US = 10 * SECOND_US
VERSIONS_KEPT_MIN = 16


# ======================================================================================
# §E02 SETTINGS
# Purpose:   Everything a run can be told, and the named switches for what nobody knows.
# Position:  Uses §E01. Used by every room below.
# Principle: An uncertain rule of the real exchange is a switch with a default, never a guess.
# ======================================================================================
@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Token buckets of one usage tier (PROTOCOL 9): tokens per second and burst capacity."""

    read_rate: int
    read_capacity: int
    write_rate: int
    write_capacity: int
    balance_rate: int


def _tier(read: int, write: int, *, read_s: int = 1, write_s: int = 1, balance: int = 5) -> Tier:
    return Tier(read_rate=read, read_capacity=read * read_s, write_rate=write,
                write_capacity=write * write_s, balance_rate=balance)


TIERS: dict[str, Tier | None] = {
    "basic": _tier(200, 100, read_s=3, balance=1),
    "advanced": _tier(300, 300, read_s=3, write_s=3, balance=1),
    "expert": _tier(600, 600, write_s=3),
    "premier": _tier(1_200, 1_200, write_s=3),
    "paragon": _tier(2_400, 2_400, write_s=3),
    "prime": _tier(4_800, 4_800, write_s=3),
    "prestige": _tier(12_000, 9_600, write_s=3),
    "off": None,
}

QUEUE_MODELS = ("pessimistic", "realistic", "optimistic")
FAULT_LEVELS = ("off", "mild", "wild")
KEY_TYPES = ("rsa", "ed25519")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """What one exchange is told at its start.

    `balance_dollars` is a decimal string; `latency_ms` is one way and applies on tapes only;
    `pace`: with 4, synthetic agents act four times as seldom; fair values walk as ever.
    `switches` overrides defaults of `SWITCHES`; `control` opens `/sim/...` on the HTTP server.
    """

    markets: int = 5
    seed: int = 1
    tapes: tuple[str, ...] = ()
    balance_dollars: str = "1000"
    tier: str = "basic"
    key_type: str = "ed25519"
    queue: str = "realistic"
    latency_ms: int = 150
    switches: Mapping[str, str] = field(default_factory=dict)
    faults: str = "off"
    key_dir: str | None = None
    control: bool = False
    fee_type: str = "quadratic"
    fee_multiplier: str = "1"
    settle_after_s: float = 1.0
    rollover: bool = True
    pace: float = 1.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("tier", self.tier, tuple(TIERS)), ("key_type", self.key_type, KEY_TYPES),
            ("queue", self.queue, QUEUE_MODELS), ("faults", self.faults, FAULT_LEVELS),
            ("fee_type", self.fee_type, FEE_TYPES),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}")
        if not 0 <= self.markets <= 10_000:
            raise ValueError(f"markets: {self.markets} is not within 0 to 10000")
        if not 0 <= self.latency_ms <= 60_000:
            raise ValueError(f"latency_ms: {self.latency_ms} is not within 0 to 60000")
        if not 0.1 <= self.pace <= 1_000:
            raise ValueError(f"pace: {self.pace} is not within 0.1 to 1000")
        parse_money_ud(self.balance_dollars)
        Switches(self.switches)


@dataclass(frozen=True, slots=True)
class Switch:
    """One uncertain rule: default, allowed values (empty: a number or a range), meaning."""

    default: str
    values: tuple[str, ...]
    meaning: str


FEE_TYPES = ("quadratic", "quadratic_with_maker_fees", "quadratic_with_combo_maker_fees", "flat")

SWITCHES: dict[str, Switch] = {
    "dedupe": Switch("lifetime_409", ("lifetime_409", "open_orders_only", "returns_existing"),
                     "what a used client_order_id answers"),
    "dedupe_scope": Switch("account", ("account", "subaccount", "shard"),
                           "where a client_order_id must be unique"),
    "post_only_cross_is_listed": Switch("on", ("on", "off"),
                                        "a crossing post-only order is recorded as canceled"),
    "skew_window_s": Switch("15", (), "accepted clock difference of a signature, seconds"),
    "read_lag_ms": Switch("0-500", (), "how far account reads lag: a number or a seeded range"),
    "reserve_at_placement": Switch("off", ("off", "on"), "resting orders reduce the balance"),
    "balance_check_counts": Switch("order", ("order", "orders", "fees", "orders_and_fees"),
                                   "what the check at placement counts besides this order"),
    "group_trigger_events": Switch("orders_and_triggered",
                                   ("orders_and_triggered", "triggered_only"),
                                   "messages when an order group triggers"),
    "match_message_order": Switch("standard", ("standard", "seeded", "fill_first"),
                                  "order of the messages of one match; fill_first: before 201"),
    "closed_market_code": Switch("market_inactive/400",
                                 ("market_inactive/400", "market_closed/400", "not_found/404",
                                  "market_inactive/409"), "order operation after the close"),
    "plain_cancel_reason": Switch("Decrease", ("Decrease", "none"),
                                  "last_update_reason of a user's cancel"),
    "reduce_to_zero": Switch("cancels", ("cancels", "refused"), "decrease with reduce_to 0"),
    "batch_over_bucket": Switch("refused", ("refused", "part_accepted"),
                                "a batch that costs more than the bucket holds"),
    "batch_error_has_client_id": Switch("off", ("off", "on"), "failed batch entries name the id"),
    "resubscribe_reply": Switch("ok", ("ok", "subscribed"), "second subscribe on a channel"),
    "unknown_ticker_on_ws": Switch("error_11", ("error_11", "silent"), "unknown market ticker"),
    "fee_rounding": Switch("current", ("current", "june"), "text of the fee rounding rule"),
    "fee_precision": Switch("direct", ("direct", "app"), "balance step: $0.0001 or $0.01"),
    "ask_fill_legacy_fields": Switch("side_no", ("side_no", "side_yes", "absent"),
                                     "deprecated side of fills of asks (PROTOCOL 4.7)"),
    "position_cost": Switch("average", ("average", "fifo"), "cost basis of a position"),
    "total_traded": Switch("all_fills", ("all_fills", "opening"), "what total_traded counts"),
    "server_pings": Switch("10", (), "seconds between server pings; 75 is the silent case"),
    "portfolio_mark": Switch("last", ("last", "bid", "cost"), "how portfolio_value marks"),
    "unknown_market_code": Switch("market_not_found/404",
                                  ("market_not_found/404", "not_found/404"), "unknown ticker"),
    "missing_field_code": Switch("invalid_parameters", ("invalid_parameters", "bad_request"),
                                 "a required body field is missing (bad_request: flat body)"),
    "extra_fields": Switch("ignored", ("ignored", "refused"), "unknown body fields"),
    "forbidden_code": Switch("forbidden", ("forbidden", "permission_denied"), "403 bodies"),
    "snapshot_empty_side": Switch("list", ("list", "absent"), "empty side of a WS snapshot"),
    "add_markets_snapshot": Switch("on", ("on", "off"), "add_markets pushes snapshots"),
    "get_snapshot_ok": Switch("off", ("off", "on"), "an ok comes after get_snapshot too"),
    "unsubscribed_seq": Switch("0", ("0", "1"), "seq of unsubscribed on unnumbered channels"),
    "omitted_client_order_id": Switch("empty", ("empty", "generated"), "id when none was given"),
    "liquidity_dollars": Switch("sent", ("sent", "absent"), "the removed field of a market"),
    "sending_ts_ms": Switch("on", ("on", "off"), "envelope time on every frame"),
    "cancel_all_tail_s": Switch("0", (), "cancel-all also hits orders placed so much later"),
    "fok_self_cross": Switch("ioc", ("ioc", "refused"), "fill-or-kill that meets an own order"),
    "market_pause_cancel": Switch("works", ("works", "refused"), "cancel in an inactive market"),
    "batch_status": Switch("201", ("201", "400"), "HTTP status when every entry failed"),
}


class Switches:
    """The values in force. `rule["name"]` is the value; numbers through `number`."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.rule = {name: switch.default for name, switch in SWITCHES.items()}
        for name, value in given.items():
            self.set(name, value)

    def set(self, name: str, value: str) -> None:
        """Change one switch; ValueError when the name or the value is unknown."""
        if name not in SWITCHES:
            near = difflib.get_close_matches(name, SWITCHES, 1)
            raise ValueError(f"no switch {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
        allowed = SWITCHES[name].values
        if allowed and value not in allowed:
            raise ValueError(f"switch {name}: {value!r} is not one of {', '.join(allowed)}")
        if not allowed and not re.fullmatch(
                r"[0-9]+(\.[0-9]+)?(-[0-9]+(\.[0-9]+)?)?", value):
            raise ValueError(f"switch {name}: {value!r} is not a number or a range")
        self.rule[name] = value

    def number(self, name: str) -> float:
        """A numeric switch (the upper end of a range)."""
        return float(self.rule[name].rpartition("-")[2])

    def is_on(self, name: str) -> bool:
        """True for `on`."""
        return self.rule[name] == "on"

    def code(self, name: str) -> Refusal:
        """The refusal a `code/status` switch stands for."""
        code, _, status = self.rule[name].partition("/")
        return Refusal(int(status), code)


# ======================================================================================
# §E03 FEES
# Purpose:   What one fill costs, exactly (PROTOCOL 8).
# Position:  Uses §E01, §E02. Used by §E07.
# Principle: The exchange rounds in its own favour at every step; an accumulator per order
#            gives back whole steps of what rounding took.
# ======================================================================================
MAKER_RATE_E4 = {"quadratic": 0, "quadratic_with_maker_fees": 175,
                 "quadratic_with_combo_maker_fees": 350, "flat": 0}
TAKER_RATE_E4 = 700
_FEE_SCALE = 10**12                     # h x cc x cc x rate_e4 x multiplier_e4 -> micro-dollars


@dataclass(frozen=True, slots=True)
class FeePlan:
    """Fee type and multiplier (ten-thousandths) in force for one market."""

    fee_type: str
    multiplier_e4: int

    def model(self, count_h: int, price_cc: int, is_taker: bool) -> tuple[int, int]:
        """The unrounded fee as (numerator, denominator) in micro-dollars."""
        rate = TAKER_RATE_E4 if is_taker else MAKER_RATE_E4[self.fee_type]
        if self.fee_type == "flat":
            rate = 0
        return count_h * price_cc * (DOLLAR_CC - price_cc) * rate * self.multiplier_e4, _FEE_SCALE


@dataclass(frozen=True, slots=True)
class FeeRounding:
    """How fees and balances are rounded: balance step in micro-dollars, and which text."""

    step_ud: int = 100
    is_june_text: bool = False

    @staticmethod
    def of(switches: Switches) -> FeeRounding:
        """The rounding the switches ask for."""
        return FeeRounding(100 if switches.rule["fee_precision"] == "direct" else 10_000,
                           switches.rule["fee_rounding"] == "june")


def fill_fee(plan: FeePlan, rounding: FeeRounding, *, count_h: int, price_cc: int, is_taker: bool,
             revenue_ud: int, accumulated_ud: int) -> tuple[int, int]:
    """Fee of one fill and the order's new accumulator, both in micro-dollars.

    `revenue_ud` is the fill's signed cash before fees. Cash moves by revenue minus fee.
    """
    top, bottom = plan.model(count_h, price_cc, is_taker)
    unit_ud = 100 if rounding.is_june_text else 1
    trade_ud = ceil_div(top, bottom * unit_ud) * unit_ud
    change_ud = revenue_ud - trade_ud
    round_ud = change_ud % rounding.step_ud
    gathered_ud = accumulated_ud + round_ud
    back_step_ud = 10_000 if rounding.is_june_text else rounding.step_ud
    rebate_ud = min(gathered_ud // back_step_ud, (trade_ud + round_ud) // back_step_ud)
    rebate_ud = max(0, rebate_ud) * back_step_ud
    return trade_ud + round_ud - rebate_ud, gathered_ud - rebate_ud


# ======================================================================================
# §E04 ACCOUNTS
# Purpose:   Cash and positions of the member and of the crowd, with YES/NO netting.
# Position:  Uses §E01. Mutated by §E07 only; read by §E08 and §E10.
# Principle: cash of all + fees + one dollar per short contract never changes, at no event.
# ======================================================================================
class Fill(NamedTuple):
    """One match of one member order. `count_h` > 0; direction is `is_bid` (bought YES)."""

    number: int
    trade_id: str
    order_id: str
    client_order_id: str
    ticker: str
    is_bid: bool
    count_h: int
    price_cc: int
    is_taker: bool
    fee_ud: int
    at_us: int
    post_position_h: int
    subaccount: int


class Settlement(NamedTuple):
    """One settled position. `value_cc` is the payout of one YES contract."""

    number: int
    ticker: str
    event_ticker: str
    result: str
    position_h: int
    cost_ud: int
    revenue_ud: int
    value_cc: int
    fees_ud: int
    at_us: int
    subaccount: int


class PositionState(NamedTuple):
    """One moment of a position; signed count, money without fees unless named so."""

    position_h: int = 0
    cost_ud: int = 0
    realized_ud: int = 0
    fees_ud: int = 0
    open_fees_ud: int = 0
    traded_ud: int = 0
    volume_h: int = 0
    updated_us: int = 0
    is_settled: bool = False


def short_change_h(position_h: int, signed_h: int) -> int:
    """By how much the short (NO) contracts grow when `signed_h` YES are bought."""
    return max(0, -(position_h + signed_h)) - max(0, -position_h)


def revenue_of(position_h: int, signed_h: int, price_cc: int) -> int:
    """Signed cash before fees of buying `signed_h` YES at a price on top of a position.

    Opening NO locks a dollar per contract, closing it gives the dollar back.
    """
    return -signed_h * price_cc - DOLLAR_CC * short_change_h(position_h, signed_h)


def split_fill(position_h: int, signed_h: int) -> tuple[int, int]:
    """(closing, opening) contracts of a fill, both >= 0."""
    closes = min(abs(position_h), abs(signed_h)) if position_h * signed_h < 0 else 0
    return closes, abs(signed_h) - closes


class Position:
    """One market of one account. Owned by its `Account`."""

    __slots__ = ("_lots", "state", "versions")

    def __init__(self) -> None:
        self.state = PositionState()
        self.versions: Versions[PositionState] = Versions()
        self._lots: deque[list[int]] = deque()          # [count_h, cost per contract cc], FIFO

    def apply(self, signed_h: int, price_cc: int, fee_ud: int, at_us: int,
              switches: Switches) -> None:
        """Book one fill."""
        old = self.state
        closes_h, opens_h = split_fill(old.position_h, signed_h)
        leg_cc = price_cc if signed_h > 0 else DOLLAR_CC - price_cc     # leg that is bought
        sold_cc = DOLLAR_CC - leg_cc                                    # leg that is closed
        released_ud = self._release(closes_h, switches)
        kept_fees_ud, fee_open_ud = old.open_fees_ud, fee_ud
        if closes_h:
            kept_fees_ud -= old.open_fees_ud * closes_h // abs(old.position_h)
            fee_open_ud = fee_ud * opens_h // (closes_h + opens_h)
        if opens_h:
            self._lots.append([opens_h, leg_cc])
        counts_closing = switches.rule["total_traded"] == "all_fills"
        self._set(PositionState(
            position_h=old.position_h + signed_h,
            cost_ud=old.cost_ud - released_ud + opens_h * leg_cc,
            realized_ud=old.realized_ud + closes_h * sold_cc - released_ud,
            fees_ud=old.fees_ud + fee_ud,
            open_fees_ud=kept_fees_ud + fee_open_ud,
            traded_ud=old.traded_ud + opens_h * leg_cc
            + (closes_h * sold_cc if counts_closing else 0),
            volume_h=old.volume_h + abs(signed_h),
            updated_us=at_us,
        ))

    def _release(self, closes_h: int, switches: Switches) -> int:
        """Cost basis that leaves with `closes_h` contracts, micro-dollars."""
        fifo_ud, left_h = 0, closes_h
        while left_h:
            lot = self._lots[0]
            taken_h = min(left_h, lot[0])
            fifo_ud += taken_h * lot[1]
            lot[0] -= taken_h
            left_h -= taken_h
            if not lot[0]:
                self._lots.popleft()
        if switches.rule["position_cost"] == "fifo" or not closes_h:
            return fifo_ud
        return self.state.cost_ud * closes_h // abs(self.state.position_h)

    def settle(self, value_cc: int, at_us: int) -> None:
        """Close the position at its payout; it leaves the default list."""
        old = self.state
        pays_cc = value_cc if old.position_h > 0 else DOLLAR_CC - value_cc
        gain_ud = abs(old.position_h) * pays_cc - old.cost_ud
        self._lots.clear()
        self._set(old._replace(position_h=0, cost_ud=0, open_fees_ud=0, is_settled=True,
                               realized_ud=old.realized_ud + gain_ud, updated_us=at_us))

    def _set(self, state: PositionState) -> None:
        self.state = state
        self.versions.put(state.updated_us, state)


class Account:
    """Cash and positions of one subaccount of the member."""

    is_member = True

    def __init__(self, subaccount: int, cash_ud: int, at_us: int, switches: Switches) -> None:
        self.subaccount = subaccount
        self.cash_ud = cash_ud
        self.cash_versions: Versions[int] = Versions()
        self.cash_versions.put(at_us, cash_ud)
        self.positions: dict[str, Position] = {}
        self.updated_us = at_us
        self._switches = switches

    def position_h(self, ticker: str) -> int:
        """Signed contracts in a market, 0 when there are none."""
        position = self.positions.get(ticker)
        return position.state.position_h if position else 0

    def state(self, ticker: str) -> PositionState:
        """The position in a market, all zero when there is none."""
        position = self.positions.get(ticker)
        return position.state if position else PositionState()

    def move_cash(self, change_ud: int, at_us: int) -> None:
        """Add signed cash."""
        self.cash_ud += change_ud
        self.updated_us = at_us
        self.cash_versions.put(at_us, self.cash_ud)

    def book(self, ticker: str, signed_h: int, price_cc: int, fee_ud: int, at_us: int) -> None:
        """Apply one fill to cash and position."""
        position = self.positions.setdefault(ticker, Position())
        revenue_ud = revenue_of(position.state.position_h, signed_h, price_cc)
        position.apply(signed_h, price_cc, fee_ud, at_us, self._switches)
        self.move_cash(revenue_ud - fee_ud, at_us)

    def settle(self, ticker: str, value_cc: int, at_us: int) -> tuple[int, int]:
        """Pay a position out: (cash paid in whole cents, rest kept by the exchange)."""
        position = self.positions[ticker]
        held_h = position.state.position_h
        exact_ud = abs(held_h) * (value_cc if held_h > 0 else DOLLAR_CC - value_cc)
        paid_ud = exact_ud // 10_000 * 10_000
        position.settle(value_cc, at_us)
        self.move_cash(paid_ud, at_us)
        return paid_ud, exact_ud - paid_ud


class Crowd:
    """Everybody else: one ledger with bottomless cash, no fees and no history."""

    is_member = False

    def __init__(self) -> None:
        self.cash_ud = 0
        self.held: dict[str, int] = {}

    def book(self, ticker: str, signed_h: int, price_cc: int) -> None:
        """Apply one side of a trade."""
        held_h = self.held.get(ticker, 0)
        self.cash_ud += revenue_of(held_h, signed_h, price_cc)
        self.held[ticker] = held_h + signed_h

    def settle(self, ticker: str, value_cc: int) -> None:
        """Pay the crowd's net position out, exactly."""
        held_h = self.held.pop(ticker, 0)
        self.cash_ud += abs(held_h) * (value_cc if held_h > 0 else DOLLAR_CC - value_cc)


# ======================================================================================
# §E05 BOOK
# Purpose:   Orders and one market's book on the YES scale: levels first in, first out.
# Position:  Uses §E01, §E04. Mutated by §E07; §E13 keeps recorded size in it.
# Principle: A side keeps its prices sorted from worst to best, so the best is the last.
# ======================================================================================
class Order:
    """An order of the crowd, and what every order has. `ahead_h`: queue before it on tapes."""

    __slots__ = ("account", "is_bid", "market", "number", "price_cc", "remaining_h")

    def __init__(self, number: int, account: Account | Crowd, market: Market, is_bid: bool,
                 price_cc: int, remaining_h: int) -> None:
        self.number, self.account, self.market = number, account, market
        self.is_bid, self.price_cc, self.remaining_h = is_bid, price_cc, remaining_h


class OrderState(NamedTuple):
    """One moment of a member's order."""

    status: str
    price_cc: int
    initial_h: int
    filled_h: int
    remaining_h: int
    taker_cost_ud: int
    maker_cost_ud: int
    taker_fees_ud: int
    maker_fees_ud: int
    client_order_id: str
    expiry_us: int | None
    updated_us: int
    reason: str


class MemberOrder(Order):
    """An order of the member. Status is `resting`, `executed` or `canceled`."""

    __slots__ = (
        "ahead_h",
        "client_order_id",
        "created_us",
        "expiry_us",
        "fee_acc_ud",
        "filled_h",
        "group",
        "initial_h",
        "maker_cost_ud",
        "maker_fees_ud",
        "on_pause",
        "order_id",
        "post_only",
        "reason",
        "reduce_only",
        "serial",
        "shadow_h",
        "status",
        "stp",
        "taker_cost_ud",
        "taker_fees_ud",
        "time_in_force",
        "updated_us",
        "versions",
    )
    account: Account

    def __init__(self, number: int, account: Account, market: Market, request: OrderRequest,
                 order_id: str, at_us: int) -> None:
        super().__init__(number, account, market, request.is_bid, request.price_cc, request.count_h)
        self.order_id, self.client_order_id = order_id, request.client_order_id
        self.status, self.initial_h, self.filled_h = "resting", request.count_h, 0
        self.time_in_force, self.stp = request.time_in_force, request.stp
        self.post_only, self.reduce_only = request.post_only, request.reduce_only
        self.on_pause, self.expiry_us = request.cancel_on_pause, request.expiry_us
        self.group: Group | None = None
        self.created_us = self.updated_us = at_us
        self.taker_cost_ud = self.maker_cost_ud = self.taker_fees_ud = self.maker_fees_ud = 0
        self.fee_acc_ud = 0
        self.reason = ""
        self.versions: Versions[OrderState] = Versions()
        self.ahead_h = 0
        self.shadow_h: list[list[int]] = []             # per queue model: [ahead, filled]
        self.serial = number                            # place in lists; an amend keeps it

    def touch(self, at_us: int, reason: str) -> OrderState:
        """Record what the order is now, with the reason of the change."""
        self.updated_us, self.reason = at_us, reason
        state = OrderState(
            self.status, self.price_cc, self.initial_h, self.filled_h,
            self.remaining_h if self.status == "resting" else 0, self.taker_cost_ud,
            self.maker_cost_ud, self.taker_fees_ud, self.maker_fees_ud, self.client_order_id,
            self.expiry_us, at_us, reason)
        self.versions.put(at_us, state)
        return state

    @property
    def fees_ud(self) -> int:
        """All fees so far."""
        return self.taker_fees_ud + self.maker_fees_ud

    @property
    def cost_on_yes_ud(self) -> int:
        """Sum of price x count of all fills on the YES scale."""
        spent_ud = self.taker_cost_ud + self.maker_cost_ud
        return spent_ud if self.is_bid else self.filled_h * DOLLAR_CC - spent_ud


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """A decoded create. Prices on the YES scale; `expiry_us` None: until cancelled."""

    ticker: str
    is_bid: bool
    count_h: int
    price_cc: int
    time_in_force: str = "good_till_canceled"
    stp: str = "taker_at_cross"
    client_order_id: str = ""
    expiry_us: int | None = None
    post_only: bool = False
    reduce_only: bool = False
    cancel_on_pause: bool = False
    group_id: str = ""
    subaccount: int = 0


class Level:
    """All resting orders of one side at one price, oldest first."""

    __slots__ = ("orders", "total_h")

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.total_h = 0


class BookSide:
    """Bids or asks of one market."""

    __slots__ = ("_sorted", "is_bid", "levels")

    def __init__(self, is_bid: bool) -> None:
        self.is_bid = is_bid
        self.levels: dict[int, Level] = {}
        self._sorted: list[int] = []                    # keys: worst to best

    @property
    def best_key(self) -> int:
        """The best price in the side's own order; 0 when the side is empty."""
        return self._sorted[-1] if self._sorted else 0

    @property
    def best_cc(self) -> int | None:
        """Best price on the YES scale; None when the side is empty."""
        if not self._sorted:
            return None
        return self._sorted[-1] if self.is_bid else -self._sorted[-1]

    def prices(self) -> list[int]:
        """All prices, worst first."""
        return self._sorted[:] if self.is_bid else [-key for key in self._sorted]

    def add(self, order: Order) -> None:
        """Put an order at the end of its level."""
        level = self.levels.get(order.price_cc)
        if level is None:
            level = self.levels[order.price_cc] = Level()
            insort(self._sorted, order.price_cc if self.is_bid else -order.price_cc)
        level.orders[order.number] = order
        level.total_h += order.remaining_h

    def shrink(self, order: Order, by_h: int) -> None:
        """Take `by_h` from a resting order; at zero it leaves the book."""
        level = self.levels[order.price_cc]
        order.remaining_h -= by_h
        level.total_h -= by_h
        assert min(order.remaining_h, level.total_h) >= 0, "a level went negative"
        if order.remaining_h == 0:
            self.drop(order)

    def drop(self, order: Order) -> int:
        """Take an order out with whatever it still holds; answers how much that was."""
        level = self.levels[order.price_cc]
        del level.orders[order.number]
        level.total_h -= order.remaining_h
        if not level.orders:
            assert level.total_h == 0, "an empty level holds size"
            del self.levels[order.price_cc]
            key = order.price_cc if self.is_bid else -order.price_cc
            del self._sorted[bisect_left(self._sorted, key)]
        return order.remaining_h

    def crosses(self, price_cc: int) -> bool:
        """True when an order of the other side at this price would trade."""
        best_cc = self.best_cc
        if best_cc is None:
            return False
        return price_cc <= best_cc if self.is_bid else price_cc >= best_cc


class Book:
    """Both sides of one market on the YES scale. Never crossed between two commands."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids, self.asks = BookSide(True), BookSide(False)

    def side(self, is_bid: bool) -> BookSide:
        """Bids for True."""
        return self.bids if is_bid else self.asks

    def orders(self) -> list[Order]:
        """Every resting order."""
        return [order for side in (self.bids, self.asks) for level in side.levels.values()
                for order in level.orders.values()]


@dataclass(slots=True, kw_only=True)
class Group:
    """Rolling 15-second fill limiter. `fills` holds (time, count) of the window."""

    group_id: str
    limit_h: int
    subaccount: int
    is_triggered: bool = False
    fills: deque[tuple[int, int]] = field(default_factory=deque)
    order_ids: dict[str, None] = field(default_factory=dict)

    def total_h(self, now_us: int) -> int:
        """Contracts filled within the last 15 seconds."""
        while self.fills and self.fills[0][0] <= now_us - GROUP_WINDOW_US:
            self.fills.popleft()
        return sum(count_h for _, count_h in self.fills)


GROUP_WINDOW_US = 15 * SECOND_US


# ======================================================================================
# §E06 MARKETS
# Purpose:   Series, events and markets: what they are, and what has traded in them.
# Position:  Uses §E01, §E03, §E05. Held by §E07; filled by the drivers (§E12, §E13).
# Principle: The grid is the list of ranges; the label of a grid decides nothing.
# ======================================================================================
TRADES_KEPT_MAX = 1_000                 # prints kept per market
MINUTES_KEPT_MAX = 1_500                # minute candles kept per market: a day and an hour


def _ranges(*rows: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
    return rows


def _edges(edge_cc: int, middle_cc: int, width_cc: int = 1_000) -> tuple[tuple[int, int, int], ...]:
    upper_cc = DOLLAR_CC - width_cc
    return ((0, width_cc, edge_cc), (width_cc, upper_cc, middle_cc), (upper_cc, DOLLAR_CC, edge_cc))


GRIDS: dict[str, tuple[tuple[int, int, int], ...]] = {     # (start, end, step) in centi-cents
    "linear_cent": _ranges((0, DOLLAR_CC, 100)),
    "deci_cent": _ranges((0, DOLLAR_CC, 10)),
    "tapered_deci_cent": _edges(10, 100),
    "center_whole_edge_half_cent": _edges(50, 100),
    "center_whole_edge_quint_cent": _edges(20, 100),
    "center_half_edge_half_cent": _ranges((0, DOLLAR_CC, 50)),
    "center_half_edge_quint_cent": _edges(20, 50),
    "center_half_edge_deci_cent": _edges(10, 50),
    "center_quint_edge_quint_cent": _ranges((0, DOLLAR_CC, 20)),
    "center_quint_edge_deci_cent": _edges(10, 20),
    "center_centi_edge_centi_cent": _ranges((0, DOLLAR_CC, 1)),
    "center_deci_edge_centi_cent": _edges(1, 10, 100),
}


@dataclass(frozen=True, slots=True)
class Grid:
    """Valid prices of a market: ranges of (start, end, step) in centi-cents, and a label."""

    label: str
    ranges: tuple[tuple[int, int, int], ...]

    @staticmethod
    def named(label: str) -> Grid:
        """One of the exchange's known structures."""
        return Grid(label, GRIDS[label])

    def is_valid(self, price_cc: int) -> bool:
        """True strictly between 0 and 1 dollar and on a step."""
        if not 0 < price_cc < DOLLAR_CC:
            return False
        return any(start <= price_cc <= end and (price_cc - start) % step == 0
                   for start, end, step in self.ranges)

    def step_cc(self, price_cc: int) -> int:
        """The step that holds at a price."""
        for start, end, step in self.ranges:
            if start <= price_cc < end:
                return step
        return self.ranges[-1][2]

    def round_cc(self, price_cc: int) -> int:
        """The nearest valid price at or below, kept inside the book."""
        price_cc = min(max(price_cc, 1), DOLLAR_CC - 1)
        for start, end, step in self.ranges:
            if start <= price_cc < end:
                price_cc = start + (price_cc - start) // step * step
                break
        return min(max(price_cc, self.ranges[0][2]), DOLLAR_CC - self.ranges[-1][2])

    def body(self) -> list[Json]:
        """The `price_ranges` of the wire."""
        return [{"start": PRICE_TEXT[start], "end": PRICE_TEXT[end], "step": PRICE_TEXT[step]}
                for start, end, step in self.ranges]


@dataclass(slots=True, kw_only=True)
class Series:
    """A family of events with one fee plan."""

    ticker: str
    title: str
    category: str
    fee_type: str = "quadratic"
    multiplier_e4: int = 10_000
    frequency: str = "daily"
    updated_us: int = 0


@dataclass(slots=True, kw_only=True)
class Event:
    """One question; its markets are the answers. Overrides win over the series when not None."""

    ticker: str
    series: Series
    title: str
    sub_title: str
    category: str
    strike_us: int | None = None
    is_exclusive: bool = False
    collateral_return: str = ""
    fee_type_override: str | None = None
    multiplier_e4_override: int | None = None
    updated_us: int = 0
    markets: list[Market] = field(default_factory=list)

    def fee_plan(self) -> FeePlan:
        """Fees in force: the event's overrides, else the series'."""
        multiplier = self.multiplier_e4_override
        return FeePlan(self.fee_type_override or self.series.fee_type,
                       self.series.multiplier_e4 if multiplier is None else multiplier)


class Trade(NamedTuple):
    """One public print."""

    number: int
    trade_id: str
    ticker: str
    price_cc: int
    count_h: int
    taker_is_bid: bool
    at_us: int


class Candle:
    """One period of quotes and prints; each four is open, low, high, close; None: no value."""

    __slots__ = ("ask", "bid", "end_s", "interest_h", "previous_cc", "price", "sum_ud", "volume_h")

    def __init__(self, end_s: int, bid_cc: int, ask_cc: int, previous_cc: int | None,
                 interest_h: int) -> None:
        self.end_s = end_s
        self.bid = [bid_cc] * 4
        self.ask = [ask_cc] * 4
        self.price: list[int] | None = None
        self.sum_ud = self.volume_h = 0
        self.interest_h = interest_h
        self.previous_cc = previous_cc

    @staticmethod
    def _stretch(four: list[int], value: int) -> None:
        four[1] = min(four[1], value)
        four[2] = max(four[2], value)
        four[3] = value

    def quote(self, bid_cc: int, ask_cc: int) -> None:
        """The best prices became these."""
        self._stretch(self.bid, bid_cc)
        self._stretch(self.ask, ask_cc)

    def trade(self, price_cc: int, count_h: int) -> None:
        """A print."""
        if self.price is None:
            self.price = [price_cc] * 4
        self._stretch(self.price, price_cc)
        self.sum_ud += price_cc * count_h
        self.volume_h += count_h

    def absorb(self, later: Candle) -> None:
        """Extend this longer period by a later minute."""
        for mine, its in ((self.bid, later.bid), (self.ask, later.ask)):
            mine[1], mine[2], mine[3] = min(mine[1], its[1]), max(mine[2], its[2]), its[3]
        if later.price is not None:
            if self.price is None:
                self.price = list(later.price)
            else:
                self.price[1] = min(self.price[1], later.price[1])
                self.price[2] = max(self.price[2], later.price[2])
                self.price[3] = later.price[3]
        self.sum_ud += later.sum_ud
        self.volume_h += later.volume_h
        self.interest_h = later.interest_h


class Market:
    """One contract: its definition, its book, and what has traded. Mutated by §E07 only."""

    def __init__(self, *, ticker: str, market_id: str, event: Event, title: str, yes_title: str,
                 no_title: str, grid: Grid, created_us: int, open_us: int, close_us: int,
                 timer_s: float = 1.0, extra: Json | None = None) -> None:
        self.ticker, self.market_id, self.event = ticker, market_id, event
        self.title, self.yes_title, self.no_title = title, yes_title, no_title
        self.grid = grid
        self.created_us, self.open_us, self.close_us = created_us, open_us, close_us
        self.expected_us, self.latest_us = close_us + 300 * SECOND_US, close_us + 7 * DAY_US
        self.updated_us = created_us
        self.timer_s = timer_s
        self.extra: Json = extra or {}
        self.book = Book()
        self.status = "initialized"
        self.result, self.expiration_value = "", ""
        self.value_cc: int | None = None
        self.settled_us: int | None = None
        self.waiver_us: int | None = None
        self.floor_cc: int | None = None
        self.last_cc = self.volume_h = self.volume_day_h = self.interest_h = 0
        self.last_size_h = self.spent_ud = 0
        self.previous = (0, DOLLAR_CC, 0)               # a day ago: bid, ask, last
        self.clock = self.verdict = 0
        self.is_tape = False
        self.taken: dict[tuple[bool, int], int] | None = None    # of recorded size, by us
        self.pending_expiration = ""
        self.pending_result: tuple[str, int] | None = None
        self._noted: tuple[int, int] | None = None
        self._minute_ends_us = 0
        self.trades: deque[Trade] = deque(maxlen=TRADES_KEPT_MAX)
        self.minutes: deque[Candle] = deque(maxlen=MINUTES_KEPT_MAX)
        self.orders: dict[str, MemberOrder] = {}        # of members, oldest first
        event.markets.append(self)

    @property
    def is_open(self) -> bool:
        """True while orders trade."""
        return self.status == "active"

    def quotes(self) -> tuple[int, int, int, int]:
        """Best YES bid and ask with their sizes; 0 and 10,000 (size 0) for an empty side."""
        book = self.book
        bid_cc, ask_cc = book.bids.best_cc, book.asks.best_cc
        return (bid_cc or 0, DOLLAR_CC if ask_cc is None else ask_cc,
                book.bids.levels[bid_cc].total_h if bid_cc is not None else 0,
                book.asks.levels[ask_cc].total_h if ask_cc is not None else 0)

    def minute(self, at_us: int) -> Candle:
        """The candle of the minute that holds `at_us`."""
        end_s = (at_us // (60 * SECOND_US) + 1) * 60
        if not self.minutes or self.minutes[-1].end_s < end_s:
            bid_cc, ask_cc, _, _ = self.quotes()
            self.minutes.append(Candle(end_s, bid_cc, ask_cc, self.last_cc or None,
                                       self.interest_h))
        return self.minutes[-1]

    def note_quotes(self, at_us: int) -> None:
        """Record the best prices in the candle of this minute, if they are new to it."""
        best = (self.book.bids.best_key, self.book.asks.best_key)
        if best == self._noted and at_us < self._minute_ends_us:
            return
        self._noted = best
        bid_cc, ask_cc, _, _ = self.quotes()
        candle = self.minute(at_us)
        candle.quote(bid_cc, ask_cc)
        self._minute_ends_us = candle.end_s * SECOND_US

    def note_trade(self, trade: Trade) -> None:
        """Record a print: last price, volume, candle."""
        self.trades.append(trade)
        self.last_cc, self.last_size_h = trade.price_cc, trade.count_h
        self.volume_h += trade.count_h
        self.volume_day_h += trade.count_h
        self.spent_ud += trade.count_h * trade.price_cc
        candle = self.minute(trade.at_us)
        candle.trade(trade.price_cc, trade.count_h)
        candle.interest_h = self.interest_h

    def candles(self, period_s: int, start_s: int, end_s: int) -> list[Candle]:
        """Candles whose end lies within [start, end], built from the minutes."""
        built: list[Candle] = []
        for minute in self.minutes:
            edge_s = ceil_div(minute.end_s, period_s) * period_s
            if not start_s <= edge_s <= end_s:
                continue
            if built and built[-1].end_s == edge_s:
                built[-1].absorb(minute)
                continue
            fresh = Candle(edge_s, minute.bid[0], minute.ask[0], minute.previous_cc,
                           minute.interest_h)
            fresh.absorb(minute)
            built.append(fresh)
        return built


# ======================================================================================
# §E07a ENGINE MEMORY
# Purpose:   What the exchange knows, its timers, and the notes that tell what happened.
# Position:  Uses §E01 to §E06. Tells a `Sink` (§E11) one list of notes per command.
# Principle: Sync and clockless: `advance` brings the time, then one command runs to its end.
# ======================================================================================
class BookNote(NamedTuple):
    """The total of one level changed. `client_order_id` None: not caused by the member."""

    market: Market
    is_bid: bool
    price_cc: int
    delta_h: int
    client_order_id: str | None
    clock: int
    at_us: int
    subaccount: int


class TradeNote(NamedTuple):
    """A public print."""

    market: Market
    trade: Trade


class FillNote(NamedTuple):
    """A private fill."""

    fill: Fill


class OrderNote(NamedTuple):
    """A member's order changed; `rank` sorts it within its command."""

    order: MemberOrder
    state: OrderState
    rank: int


class PositionNote(NamedTuple):
    """A member's position changed."""

    ticker: str
    state: PositionState
    subaccount: int


class LifecycleNote(NamedTuple):
    """A market's, an event's or a fee's life went on: message type and payload."""

    kind: str
    payload: Json


class GroupNote(NamedTuple):
    """An order group changed."""

    group: Group
    event_type: str
    at_us: int


Note = BookNote | TradeNote | FillNote | OrderNote | PositionNote | LifecycleNote | GroupNote

RANK_TAKER_ORDER, RANK_TAKER_FILL, RANK_MAKER_FILL, RANK_MAKER_ORDER = 0, 1, 2, 3
RANK_BOOK, RANK_TRADE, RANK_POSITION, RANK_OTHER = 4, 5, 7, 8


def note_rank(note: Note) -> int:
    """Place of a note among those of its command (PROTOCOL 13, item 7)."""
    match note:
        case BookNote():
            return RANK_BOOK
        case TradeNote():
            return RANK_TRADE
        case FillNote(fill):
            return RANK_TAKER_FILL if fill.is_taker else RANK_MAKER_FILL
        case OrderNote():
            return note.rank
        case PositionNote():
            return RANK_POSITION
        case LifecycleNote() | GroupNote():
            return RANK_OTHER
        case _:
            assert_never(note)


class Sink(Protocol):
    """Who hears what happened."""

    def publish(self, notes: list[Note]) -> None:
        """All notes of one command, in the order of PROTOCOL 13."""


class Core:
    """The exchange's memory: markets, accounts, orders, timers, and the notes of a command."""

    def __init__(self, *, switches: Switches, rng: random.Random, sink: Sink, cash_ud: int,
                 now_us: int) -> None:
        self.switches, self.rng, self.sink = switches, rng, sink
        self.now_us = now_us
        self.series: dict[str, Series] = {}
        self.events: dict[str, Event] = {}
        self.markets: dict[str, Market] = {}
        self.accounts: dict[int, Account] = {0: Account(0, cash_ud, now_us, switches)}
        self.crowd = Crowd()
        self.fees_ud = 0
        self.deposits_ud = cash_ud
        self.orders: dict[str, MemberOrder] = {}
        self.open: dict[str, MemberOrder] = {}
        self.client_ids: dict[str, MemberOrder | None] = {}
        self.fills: list[Fill] = []
        self.settlements: list[Settlement] = []
        self.groups: dict[str, Group] = {}
        self.is_trading_paused = self.is_exchange_paused = False
        self.resume_us: int | None = None
        self.events_count = 0
        self._numbers = 0
        self._notes: list[Note] = []
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._tripped: list[Group] = []
        self._ids = random.Random(rng.getrandbits(64))
        self.user_id = self.new_id()

    @property
    def account(self) -> Account:
        """The primary account."""
        return self.accounts[0]

    def new_id(self) -> str:
        """A fresh UUID from the seed."""
        text = f"{self._ids.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def next_number(self) -> int:
        """The next number of the exchange: arrival order of orders, fills and prints."""
        self._numbers += 1
        return self._numbers

    def at(self, when_us: int, action: Callable[[], None]) -> None:
        """Run `action` when the time has come (in `advance`)."""
        heappush(self._timers, (when_us, self.next_number(), action))

    def next_due_us(self) -> int | None:
        """When the next timer is due; None when there is none."""
        return self._timers[0][0] if self._timers else None

    def advance(self, now_us: int) -> None:
        """Let time pass: due expiries, openings, closes and payouts happen at their instant."""
        while self._timers and self._timers[0][0] <= now_us:
            due_us, _, action = heappop(self._timers)
            self.now_us = max(self.now_us, due_us)
            action()
            self.commit()
        self.now_us = max(self.now_us, now_us)

    def commit(self) -> None:
        """End of a command: groups that tripped act, then everyone hears."""
        while self._tripped:
            self._pull_group(self._tripped.pop())
        notes = self._notes
        if not notes:
            return
        self._notes = []
        self.events_count += 1
        market: Market | None = None
        for note in notes:
            if type(note) is BookNote and note.market is not market:
                market = note.market
                market.note_quotes(self.now_us)
        if len(notes) > 1:
            notes.sort(key=note_rank)
        self.sink.publish(notes)

    def _pull_group(self, group: Group) -> None:
        raise NotImplementedError  # what is derived from this does it: Commands

    def account_of(self, subaccount: int) -> Account:
        """The subaccount; a Refusal when it does not exist."""
        account = self.accounts.get(subaccount)
        if account is None:
            raise Refusal(400, "invalid_parameters", f"unknown subaccount {subaccount}")
        return account

    def market_of(self, ticker: str) -> Market:
        """The market; a Refusal when it does not exist."""
        market = self.markets.get(ticker)
        if market is None:
            raise self.switches.code("unknown_market_code")
        return market

    def reserved_ud(self, account: Account) -> int:
        """Collateral of the account's resting orders, each taken alone."""
        return sum(collateral_ud(account.position_h(order.market.ticker), order.is_bid,
                                 order.remaining_h, order.price_cc)
                   for order in self.open.values() if order.account is account)

    def imbalance_ud(self) -> int:
        """0 while money is conserved: cash + fees + a dollar per short contract - deposits."""
        holders = [account.position_h(ticker) for account in self.accounts.values()
                   for ticker in account.positions]
        short_h = sum(-held for held in [*holders, *self.crowd.held.values()] if held < 0)
        cash_ud = sum(account.cash_ud for account in self.accounts.values()) + self.crowd.cash_ud
        return cash_ud + self.fees_ud + short_h * DOLLAR_CC - self.deposits_ud


def collateral_ud(position_h: int, is_bid: bool, count_h: int, price_cc: int) -> int:
    """Cash an order locks: its price times the part that opens exposure."""
    _, opens_h = split_fill(position_h, count_h if is_bid else -count_h)
    return opens_h * (price_cc if is_bid else DOLLAR_CC - price_cc)


# ======================================================================================
# §E07b MATCHING
# Purpose:   Price-time matching, and the money of each match (PROTOCOL 7, 8).
# Position:  Uses §E01 to §E07a. Called by §E07c; by §E12 and §E13 for the crowd.
# Principle: A trade happens only when both sides can pay for it.
# ======================================================================================
class Matching(Core):
    """Price-time matching on one book; the money of each match."""

    def _rest(self, order: Order) -> None:
        side = order.market.book.side(order.is_bid)
        if order.market.is_tape and isinstance(order, MemberOrder):
            level = side.levels.get(order.price_cc)
            order.ahead_h = sum(other.remaining_h for other in level.orders.values()
                                if not other.account.is_member) if level is not None else 0
            order.shadow_h = [[order.ahead_h, order.filled_h] for _ in QUEUE_MODELS]
        side.add(order)
        self._level_changed(order.market, order.is_bid, order.price_cc, order.remaining_h, order)

    def _level_changed(self, market: Market, is_bid: bool, price_cc: int, delta_h: int,
                       cause: Order | None, at_us: int | None = None) -> None:
        market.clock += 1
        mine, subaccount = None, 0
        if cause is not None and isinstance(cause, MemberOrder):
            mine, subaccount = cause.client_order_id, cause.account.subaccount
        self._notes.append(BookNote(market, is_bid, price_cc, delta_h, mine, market.clock,
                                    self.now_us if at_us is None else at_us, subaccount))

    def _remove(self, order: Order, reason: str) -> int:
        """Take a resting order out of the book; answers the count removed."""
        gone_h = order.market.book.side(order.is_bid).drop(order)
        if gone_h:
            self._level_changed(order.market, order.is_bid, order.price_cc, -gone_h, order)
        if isinstance(order, MemberOrder):
            self._end(order, "canceled", reason)
        return gone_h

    def _end(self, order: MemberOrder, status: str, reason: str,
             rank: int = RANK_MAKER_ORDER) -> None:
        order.status = status
        self.open.pop(order.order_id, None)
        if order.group is not None:
            order.group.order_ids.pop(order.order_id, None)
        if self.switches.rule["dedupe"] == "open_orders_only":
            self.client_ids.pop(self.id_key(order.client_order_id, order.account.subaccount), None)
        self._tell_order(order, reason, rank)

    def _tell_order(self, order: MemberOrder, reason: str, rank: int) -> None:
        self._notes.append(OrderNote(order, order.touch(self.now_us, reason), rank))

    def id_key(self, client_order_id: str, subaccount: int) -> str:
        """The key under which a client id is burnt."""
        if self.switches.rule["dedupe_scope"] == "subaccount":
            return f"{subaccount}/{client_order_id}"
        return client_order_id

    def _match(self, taker: Order) -> str:
        """Trade an arriving order as far as it goes; "" or why it must not go on."""
        side = taker.market.book.side(not taker.is_bid)
        while taker.remaining_h > 0 and side.crosses(taker.price_cc):
            price_cc = side.best_cc
            assert price_cc is not None, "a crossing side has a best price"
            stop = self._match_level(taker, side, price_cc)
            if stop:
                return stop
        return ""

    def _match_level(self, taker: Order, side: BookSide, price_cc: int) -> str:
        level = side.levels[price_cc]
        traded_h, stop = 0, ""
        while level.orders and taker.remaining_h > 0 and not stop:
            maker = next(iter(level.orders.values()))
            if maker.account.is_member and taker.account.is_member:
                stop = self._self_trade(taker, maker)
                continue
            count_h = min(taker.remaining_h, maker.remaining_h)
            stop = self._trade(taker, maker, count_h, price_cc)
            if stop == "maker":
                self._remove(maker, "MarginCancel")
                stop = ""
            elif not stop:
                traded_h += count_h
                side.shrink(maker, count_h)
                if taker.market.taken is not None:
                    key = (side.is_bid, price_cc)
                    taker.market.taken[key] = taker.market.taken.get(key, 0) + count_h
        if traded_h:
            self._level_changed(taker.market, side.is_bid, price_cc, -traded_h, taker)
        return stop

    def _self_trade(self, taker: Order, maker: Order) -> str:
        assert isinstance(taker, MemberOrder), "only the member meets its own orders"
        if taker.stp == "maker":
            self._remove(maker, "SelfTradeCancel")
            return ""
        return "SelfTradeCancel"

    def _trade(self, taker: Order, maker: Order, count_h: int, price_cc: int) -> str:
        """One match. "" when done; "maker" or a reason for the taker when one cannot pay."""
        taker_fee = self._terms(taker, count_h, price_cc, True)
        if taker_fee is None:
            return "MarginCancel"
        maker_fee = self._terms(maker, count_h, price_cc, False)
        if maker_fee is None:
            return "maker"
        trade_id = self.new_id()
        market = taker.market
        self._note_interest(taker, maker, count_h)
        taker.remaining_h -= count_h
        self._book_fill(taker, count_h, price_cc, taker_fee, trade_id, True)
        self._book_fill(maker, count_h, price_cc, maker_fee, trade_id, False)
        self.print_trade(market, price_cc, count_h, taker.is_bid, trade_id)
        return ""

    def print_trade(self, market: Market, price_cc: int, count_h: int, taker_is_bid: bool,
                    trade_id: str) -> None:
        """Put a print on the public record (its note leaves with the next `commit`)."""
        trade = Trade(self.next_number(), trade_id, market.ticker, price_cc, count_h, taker_is_bid,
                      self.now_us)
        market.note_trade(trade)
        self._notes.append(TradeNote(market, trade))

    def _note_interest(self, taker: Order, maker: Order, count_h: int) -> None:
        """Open interest: pairs made less pairs destroyed (the crowd's own trades alternate)."""
        market = taker.market
        if taker.account is maker.account:
            sign = 1 if market.clock % 2 else -1
            market.interest_h = max(count_h, market.interest_h + sign * count_h)
            return
        change_h = 0
        for order in (taker, maker):
            held_h = self._held_h(order.account, market.ticker)
            change_h += short_change_h(held_h, count_h if order.is_bid else -count_h)
        market.interest_h = max(0, market.interest_h + change_h)

    @staticmethod
    def _held_h(account: Account | Crowd, ticker: str) -> int:
        return (account.position_h(ticker) if isinstance(account, Account)
                else account.held.get(ticker, 0))

    def _terms(self, order: Order, count_h: int, price_cc: int,
               is_taker: bool) -> tuple[int, int] | None:
        """(fee, new accumulator) of a fill; None when its owner cannot pay for it."""
        if not isinstance(order, MemberOrder):
            return 0, 0
        account, market = order.account, order.market
        signed_h = count_h if order.is_bid else -count_h
        revenue_ud = revenue_of(account.position_h(market.ticker), signed_h, price_cc)
        fee_ud, accumulated_ud = fill_fee(
            self.fee_plan(market), FeeRounding.of(self.switches), count_h=count_h,
            price_cc=price_cc, is_taker=is_taker, revenue_ud=revenue_ud,
            accumulated_ud=order.fee_acc_ud)
        if revenue_ud - fee_ud < 0 and account.cash_ud + revenue_ud - fee_ud < 0:
            return None
        return fee_ud, accumulated_ud

    def fee_plan(self, market: Market) -> FeePlan:
        """Fees in force now; a waiver makes them zero until it ends."""
        if market.waiver_us is not None and self.now_us < market.waiver_us:
            return FeePlan("quadratic", 0)
        return market.event.fee_plan()

    def _book_fill(self, order: Order, count_h: int, price_cc: int, terms: tuple[int, int],
                   trade_id: str, is_taker: bool) -> None:
        signed_h = count_h if order.is_bid else -count_h
        if not isinstance(order, MemberOrder):
            self.crowd.book(order.market.ticker, signed_h, price_cc)
            return
        fee_ud, order.fee_acc_ud = terms
        ticker, account = order.market.ticker, order.account
        account.book(ticker, signed_h, price_cc, fee_ud, self.now_us)
        self.fees_ud += fee_ud
        cost_ud = count_h * (price_cc if order.is_bid else DOLLAR_CC - price_cc)
        order.filled_h += count_h
        if is_taker:
            order.taker_cost_ud += cost_ud
            order.taker_fees_ud += fee_ud
        else:
            order.maker_cost_ud += cost_ud
            order.maker_fees_ud += fee_ud
        state = account.state(ticker)
        fill = Fill(self.next_number(), trade_id, order.order_id, order.client_order_id, ticker,
                    order.is_bid, count_h, price_cc, is_taker, fee_ud, self.now_us,
                    state.position_h, account.subaccount)
        self.fills.append(fill)
        self._notes += [FillNote(fill), PositionNote(ticker, state, account.subaccount)]
        self._count_group(order, count_h)
        if not is_taker:
            self._after_maker_fill(order, count_h)

    def _after_maker_fill(self, order: MemberOrder, count_h: int) -> None:
        if order.remaining_h == count_h:                # the book takes it out right after this
            self._end(order, "executed", "Trade")
        else:
            order.remaining_h -= count_h
            self._tell_order(order, "Trade", RANK_MAKER_ORDER)
            order.remaining_h += count_h

    def _count_group(self, order: MemberOrder, count_h: int) -> None:
        group = order.group
        if group is None:
            return
        group.fills.append((self.now_us, count_h))
        if group.total_h(self.now_us) > group.limit_h and not group.is_triggered:
            group.is_triggered = True
            self._tripped.append(group)

    def crowd_order(self, market: Market, is_bid: bool, price_cc: int, count_h: int,
                    rests: bool = True) -> Order | None:
        """An order of the crowd: trades, then rests if it may; the resting order or None."""
        order = Order(self.next_number(), self.crowd, market, is_bid, price_cc, count_h)
        self._match(order)
        if order.remaining_h and rests:
            self._rest(order)
        self.commit()
        return order if order.remaining_h and rests else None

    def crowd_cancel(self, order: Order) -> None:
        """Take a resting order of the crowd out."""
        self._remove(order, "")
        self.commit()

    def crowd_level(self, market: Market, key: tuple[bool, int], count_h: int,
                    at_us: int) -> Order:
        """Put recorded size on a level (no matching; its note leaves with `commit`)."""
        is_bid, price_cc = key
        order = Order(self.next_number(), self.crowd, market, is_bid, price_cc, count_h)
        market.book.side(is_bid).add(order)
        self._level_changed(market, is_bid, price_cc, count_h, None, at_us)
        return order

    def crowd_resize(self, order: Order, count_h: int, at_us: int) -> None:
        """Make recorded size what the tape says it is."""
        change_h = count_h - order.remaining_h
        if not change_h:
            return
        side = order.market.book.side(order.is_bid)
        if change_h < 0:
            side.shrink(order, -change_h)
        else:
            order.remaining_h += change_h
            side.levels[order.price_cc].total_h += change_h
        self._level_changed(order.market, order.is_bid, order.price_cc, change_h, None, at_us)

    def fill_resting(self, order: MemberOrder, count_h: int) -> int:
        """Somebody trades with a resting order of ours at its price; answers how much."""
        if count_h <= 0:
            return 0
        market = order.market
        taker = Order(0, self.crowd, market, not order.is_bid, order.price_cc, count_h)
        if self._trade(taker, order, count_h, order.price_cc) == "maker":
            self._remove(order, "MarginCancel")
            return 0
        market.book.side(order.is_bid).shrink(order, count_h)
        self._level_changed(market, order.is_bid, order.price_cc, -count_h, None)
        return count_h


# ======================================================================================
# §E07c CREATING
# Purpose:   Placing orders: every check of PROTOCOL 4.8 and 7, then the match.
# Position:  Uses §E01 to §E07b. Called by §E10 (REST) and §E14 (control).
# Principle: Every method ends with `commit`, or raises a `Refusal` and has changed nothing.
# ======================================================================================
class Creating(Matching):
    """Placing orders: every check of PROTOCOL 4.8 and 7, then the match."""

    def create(self, request: OrderRequest) -> MemberOrder:
        """Place an order (PROTOCOL 4.8, 7)."""
        account = self.account_of(request.subaccount)
        market = self.market_of(request.ticker)
        self._check_form(request, market)
        known = self._known(request)
        if known is not None:
            return known
        self._check_open(market)
        if len(self.open) >= OPEN_ORDERS_MAX:
            raise Refusal(400, "invalid_order", "too many open orders")
        group = self._group_for(request.group_id)
        request = self._cap(request, account)
        if request.count_h:
            self._check_funds(account, market, request)
        self._check_post_only(request, market, account)
        self._check_fill_or_kill(request, market, account)
        return self._place(self._register(request, market, account, group))

    def _check_form(self, request: OrderRequest, market: Market) -> None:
        if not 0 < request.count_h <= COUNT_MAX_H:
            raise Refusal(400, "invalid_order_size")
        self._check_price(market, request.price_cc)
        if request.expiry_us is not None:
            if request.time_in_force == "immediate_or_cancel":
                raise Refusal(400, "invalid_parameters",
                              "Cannot specify both immediate_or_cancel and expiration_ts")
            if request.time_in_force != "good_till_canceled":
                raise Refusal(400, "invalid_parameters", "expiration_time needs good_till_canceled")
            self._check_expiry(request.expiry_us)
        if request.reduce_only and request.time_in_force != "immediate_or_cancel":
            raise Refusal(400, "invalid_order", "reduce only needs immediate_or_cancel")

    def _check_price(self, market: Market, price_cc: int) -> None:
        if not market.grid.is_valid(price_cc):
            raise Refusal(400, "invalid_price")
        if market.floor_cc is not None and price_cc <= market.floor_cc:
            raise Refusal(400, "invalid_price")

    def _check_expiry(self, expiry_us: int) -> None:
        if expiry_us <= self.now_us:
            raise Refusal(400, "invalid_parameters", "Expiration timestamp must be in the future")

    def _known(self, request: OrderRequest) -> MemberOrder | None:
        key = self.id_key(request.client_order_id, request.subaccount)
        if not request.client_order_id or key not in self.client_ids:
            return None
        order = self.client_ids[key]
        if self.switches.rule["dedupe"] == "returns_existing" and order is not None:
            return order
        raise Refusal(409, "order_already_exists")

    def _check_open(self, market: Market) -> None:
        if self.is_exchange_paused:
            raise Refusal(409, "exchange_is_paused")
        if self.is_trading_paused or market.status == "inactive":
            raise Refusal(409, "trading_is_paused")
        if not market.is_open:
            raise self.switches.code("closed_market_code")

    def _group_for(self, group_id: str) -> Group | None:
        if not group_id:
            return None
        group = self.groups.get(group_id)
        if group is None:
            raise Refusal(404, "order_group_not_found")
        if group.is_triggered:
            raise Refusal(400, "exceeded_order_group_risk_limit")
        return group

    def _cap(self, request: OrderRequest, account: Account) -> OrderRequest:
        if not request.reduce_only:
            return request
        held_h = account.position_h(request.ticker)
        closable_h = max(0, -held_h if request.is_bid else held_h)
        return replace(request, count_h=min(request.count_h, closable_h))

    def _check_funds(self, account: Account, market: Market, request: OrderRequest) -> None:
        need_ud = collateral_ud(account.position_h(market.ticker), request.is_bid, request.count_h,
                                request.price_cc)
        counts = self.switches.rule["balance_check_counts"]
        if "fees" in counts:
            top, bottom = self.fee_plan(market).model(request.count_h, request.price_cc, True)
            need_ud += ceil_div(top, bottom)
        have_ud = account.cash_ud
        if "orders" in counts or self.switches.is_on("reserve_at_placement"):
            have_ud -= self.reserved_ud(account)
        if need_ud > have_ud:
            raise Refusal(400, "insufficient_balance")

    def _check_post_only(self, request: OrderRequest, market: Market, account: Account) -> None:
        if not request.post_only or not market.book.side(not request.is_bid).crosses(
                request.price_cc):
            return
        if self.switches.is_on("post_only_cross_is_listed"):
            order = self._register(request, market, account, None)
            order.remaining_h = 0
            self._end(order, "canceled", "PostOnlyCrossCancel", RANK_TAKER_ORDER)
            self.commit()
        raise Refusal(400, "invalid_order", "post only cross")

    def _check_fill_or_kill(self, request: OrderRequest, market: Market, account: Account) -> None:
        if request.time_in_force != "fill_or_kill":
            return
        side = market.book.side(not request.is_bid)
        found_h = 0
        for price_cc in reversed(side.prices()):
            if not (price_cc <= request.price_cc if request.is_bid else
                    price_cc >= request.price_cc):
                break
            for order in side.levels[price_cc].orders.values():
                if order.account.is_member and self.switches.rule["fok_self_cross"] == "ioc":
                    return
                found_h += 0 if order.account.is_member else order.remaining_h
                if found_h >= request.count_h:
                    return
        order = self._register(request, market, account, None)
        order.remaining_h = 0
        self._end(order, "canceled", "", RANK_TAKER_ORDER)
        self.commit()
        raise Refusal(409, "fill_or_kill_insufficient_resting_volume")

    def _register(self, request: OrderRequest, market: Market, account: Account,
                  group: Group | None) -> MemberOrder:
        if not request.client_order_id and self.switches.rule["omitted_client_order_id"] != "empty":
            request = replace(request, client_order_id=self.new_id())
        order = MemberOrder(self.next_number(), account, market, request, self.new_id(),
                            self.now_us)
        if request.client_order_id:
            self.client_ids[self.id_key(request.client_order_id, request.subaccount)] = order
        self.orders[order.order_id] = market.orders[order.order_id] = order
        if group is not None:
            order.group = group
            group.order_ids[order.order_id] = None
        if len(self.orders) > ORDERS_KEPT_MAX:
            self._forget_oldest()
        return order

    def _forget_oldest(self) -> None:
        """Keep the record of orders within its bound; burnt client ids stay burnt."""
        for order_id in list(islice(self.orders, ORDERS_KEPT_MAX // 10)):
            if order_id in self.open:
                continue
            gone = self.orders.pop(order_id)
            del gone.market.orders[order_id]
            key = self.id_key(gone.client_order_id, gone.account.subaccount)
            if key in self.client_ids:
                self.client_ids[key] = None
        if len(self.fills) > ORDERS_KEPT_MAX:
            del self.fills[:ORDERS_KEPT_MAX // 10]

    def _place(self, order: MemberOrder) -> MemberOrder:
        """Match an order that passed every check, then rest or end it."""
        stop = self._match(order)
        if stop or order.remaining_h == 0 or order.time_in_force != "good_till_canceled":
            self._finish_taker(order, stop)
        else:
            self._rest(order)
            self.open[order.order_id] = order
            self._tell_order(order, "Trade" if order.filled_h else "", RANK_TAKER_ORDER)
            if order.expiry_us is not None:
                self._watch_expiry(order, order.expiry_us)
        self.commit()
        return order

    def _finish_taker(self, order: MemberOrder, stop: str) -> None:
        is_full = order.remaining_h == 0 and order.filled_h > 0 and not stop
        reason = stop or ("Trade" if is_full else "")
        if order.reduce_only and not is_full:
            reason = stop or "ReduceOnlyCancel"
        order.remaining_h = 0
        self._end(order, "executed" if is_full else "canceled", reason, RANK_TAKER_ORDER)

    def _watch_expiry(self, order: MemberOrder, expiry_us: int) -> None:
        def expire() -> None:
            if order.status == "resting" and order.expiry_us == expiry_us:
                self._remove(order, "ExpiryCancel")
        self.at(expiry_us, expire)

# ======================================================================================
# §E07d CHANGING
# Purpose:   Cancel, decrease and amend resting orders; order groups that limit their fills.
# Position:  Uses §E01 to §E07c. Called by §E10 (REST) and §E14 (control).
# Principle: Smaller keeps the place in the queue; dearer, cheaper or bigger loses it.
# ======================================================================================
class Changing(Creating):
    """Cancel, decrease and amend resting orders."""

    def open_order(self, order_id: str, subaccount: int | None = None) -> MemberOrder:
        """The resting order; 404 when it is not resting, whatever the cause."""
        order = self.open.get(order_id)
        if order is None or (subaccount is not None and order.account.subaccount != subaccount):
            raise Refusal(404, "not_found")
        return order

    def _check_cancellable(self, market: Market) -> None:
        if self.is_exchange_paused:
            raise Refusal(409, "exchange_is_paused")
        if market.status == "inactive" and self.switches.rule["market_pause_cancel"] == "refused":
            raise Refusal(409, "trading_is_paused")
        if market.status not in ("active", "inactive"):
            raise self.switches.code("closed_market_code")

    def cancel(self, order_id: str, subaccount: int | None = None) -> tuple[MemberOrder, int]:
        """Cancel a resting order: the order and the count removed."""
        order = self.open_order(order_id, subaccount)
        self._check_cancellable(order.market)
        gone_h = self._remove(order, self._cancel_reason())
        self.commit()
        return order, gone_h

    def _cancel_reason(self) -> str:
        reason = self.switches.rule["plain_cancel_reason"]
        return "" if reason == "none" else reason

    def cancel_all(self, subaccount: int | None = None) -> int:
        """Cancel every resting order that may be cancelled; answers how many."""
        if self.is_exchange_paused:
            raise Refusal(409, "exchange_is_paused")
        doomed = [order for order in self.open.values()
                  if (subaccount is None or order.account.subaccount == subaccount)
                  and order.market.status in ("active", "inactive")]
        for order in doomed:
            self._remove(order, self._cancel_reason())
        self.commit()
        return len(doomed)

    def decrease(self, order_id: str, *, by_h: int | None, to_h: int | None,
                 subaccount: int | None = None) -> MemberOrder:
        """Make a resting order smaller; it keeps its place. At nothing left it is cancelled."""
        order = self.open_order(order_id, subaccount)
        self._check_cancellable(order.market)
        left_h = to_h if to_h is not None else max(0, order.remaining_h - (by_h or 0))
        if left_h > order.remaining_h or by_h == 0:
            raise Refusal(400, "invalid_order_size")
        if to_h == 0 and self.switches.rule["reduce_to_zero"] == "refused":
            raise Refusal(400, "invalid_order_size")
        self._shrink_to(order, left_h, "Decrease")
        self.commit()
        return order

    def _shrink_to(self, order: MemberOrder, left_h: int, reason: str) -> None:
        if left_h == 0:
            self._remove(order, reason)
            return
        by_h = order.remaining_h - left_h
        if by_h:
            order.market.book.side(order.is_bid).shrink(order, by_h)
            self._level_changed(order.market, order.is_bid, order.price_cc, -by_h, order)
        self._tell_order(order, reason, RANK_TAKER_ORDER)

    def amend(self, order_id: str, change: Amendment) -> tuple[MemberOrder, bool]:
        """Change price, size, expiry or client id: the order, and whether size or fills moved."""
        order = self.open_order(order_id, change.subaccount)
        market = order.market
        self._check_amend(order, change)
        self._check_open(market)
        left_h = change.count_h - order.filled_h
        if left_h < 0:
            raise Refusal(400, "invalid_order_size", "count is below the filled quantity")
        is_moved = change.price_cc != order.price_cc
        if is_moved or left_h > order.remaining_h:
            self._check_amend_funds(order, change, left_h)
        before = (order.remaining_h, order.filled_h)
        self._rename(order, change.new_client_order_id)
        if change.sets_expiry:
            order.expiry_us = change.expiry_us
            if change.expiry_us is not None:
                self._watch_expiry(order, change.expiry_us)
        order.initial_h = change.count_h
        if left_h and (is_moved or left_h > order.remaining_h):
            self._replace(order, change.price_cc, left_h)
        else:
            self._shrink_to(order, left_h, "Amend")
        self.commit()
        left_h = order.remaining_h if order.status == "resting" else 0
        return order, (left_h, order.filled_h) != before

    def _check_amend(self, order: MemberOrder, change: Amendment) -> None:
        if change.ticker != order.market.ticker:
            raise Refusal(400, "order_ticker_mismatch")
        if change.is_bid != order.is_bid:
            raise Refusal(400, "order_side_mismatch")
        if change.client_order_id not in ("", order.client_order_id):
            raise Refusal(400, "order_id_and_client_order_id_mismatch")
        self._check_price(order.market, change.price_cc)
        if change.count_h > COUNT_MAX_H:
            raise Refusal(400, "invalid_order_size")
        if change.sets_expiry and change.expiry_us is not None:
            self._check_expiry(change.expiry_us)
        fresh = change.new_client_order_id
        is_new = fresh not in ("", order.client_order_id)
        if is_new and self.id_key(fresh, order.account.subaccount) in self.client_ids:
            raise Refusal(409, "order_already_exists")

    def _check_amend_funds(self, order: MemberOrder, change: Amendment, left_h: int) -> None:
        wanted = OrderRequest(ticker=change.ticker, is_bid=change.is_bid, count_h=left_h,
                              price_cc=change.price_cc)
        self.open.pop(order.order_id)                   # its own reservation does not count
        try:
            if left_h:
                self._check_funds(order.account, order.market, wanted)
        finally:
            self.open[order.order_id] = order

    def _rename(self, order: MemberOrder, client_order_id: str) -> None:
        if client_order_id:
            order.client_order_id = client_order_id
            self.client_ids[self.id_key(client_order_id, order.account.subaccount)] = order

    def _replace(self, order: MemberOrder, price_cc: int, left_h: int) -> None:
        """Leave the queue and come back at its end; a crossing price trades."""
        market = order.market
        gone_h = market.book.side(order.is_bid).drop(order)
        self._level_changed(market, order.is_bid, order.price_cc, -gone_h, order)
        order.price_cc, order.remaining_h = price_cc, left_h
        if order.post_only and market.book.side(not order.is_bid).crosses(price_cc):
            order.remaining_h = 0
            self._end(order, "canceled", "PostOnlyCrossCancel", RANK_TAKER_ORDER)
            return
        order.number = self.next_number()
        stop = self._match(order)
        if stop or order.remaining_h == 0:
            self._finish_taker(order, stop)
            return
        self._rest(order)
        self._tell_order(order, "Amend", RANK_TAKER_ORDER)

    def queue_ahead_h(self, order: MemberOrder) -> int:
        """Contracts that trade before this resting order at its own price."""
        level = order.market.book.side(order.is_bid).levels[order.price_cc]
        ahead_h = order.ahead_h if order.market.is_tape else 0
        for other in level.orders.values():
            if other is order:
                break
            if not order.market.is_tape or other.account.is_member:
                ahead_h += other.remaining_h
        return ahead_h


class Commands(Changing):
    """Everything of a member: orders, and the groups that limit their fills."""

    def group_of(self, group_id: str) -> Group:
        """The order group; 404 when there is none."""
        group = self.groups.get(group_id)
        if group is None:
            raise Refusal(404, "not_found")
        return group

    def create_group(self, limit_h: int, subaccount: int) -> Group:
        """A new order group."""
        self.account_of(subaccount)
        if len(self.groups) >= GROUPS_MAX:
            raise Refusal(400, "invalid_parameters", "too many order groups")
        group = Group(group_id=self.new_id(), limit_h=limit_h, subaccount=subaccount)
        self.groups[group.group_id] = group
        self._tell_group(group, "created")
        return group

    def _tell_group(self, group: Group, event_type: str) -> None:
        self._notes.append(GroupNote(group, event_type, self.now_us))
        self.commit()

    def _pull_group(self, group: Group) -> None:
        """Cancel the group's resting orders and say so."""
        is_quiet = self.switches.rule["group_trigger_events"] == "triggered_only"
        for order_id in list(group.order_ids):
            order = self.open.get(order_id)
            if order is None:
                continue
            self._remove(order, "Decrease")
            if is_quiet:
                self._notes = [note for note in self._notes if not (
                    isinstance(note, OrderNote) and note.order is order
                    and note.state.status == "canceled")]
        self._notes.append(GroupNote(group, "triggered", self.now_us))

    def trigger_group(self, group_id: str) -> None:
        """Cancel the group's orders and refuse new ones until `reset_group`."""
        group = self.group_of(group_id)
        group.is_triggered = True
        self._pull_group(group)
        self.commit()

    def reset_group(self, group_id: str) -> None:
        """Clear the counter and accept orders again."""
        group = self.group_of(group_id)
        group.is_triggered = False
        group.fills.clear()
        self._tell_group(group, "reset")

    def limit_group(self, group_id: str, limit_h: int) -> None:
        """A new limit; below what was filled in the window it triggers."""
        group = self.group_of(group_id)
        group.limit_h = limit_h
        self._notes.append(GroupNote(group, "limit_updated", self.now_us))
        if group.total_h(self.now_us) > limit_h and not group.is_triggered:
            group.is_triggered = True
            self._tripped.append(group)
        self.commit()

    def delete_group(self, group_id: str) -> None:
        """Cancel its orders and forget it."""
        group = self.group_of(group_id)
        for order_id in list(group.order_ids):
            order = self.open.get(order_id)
            if order is not None:
                self._remove(order, self._cancel_reason())
        del self.groups[group_id]
        self._tell_group(group, "deleted")


ORDERS_KEPT_MAX = 100_000
OPEN_ORDERS_MAX = 200_000
GROUPS_MAX = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """A decoded amend. `count_h` is filled plus wanted resting quantity."""

    ticker: str
    is_bid: bool
    price_cc: int
    count_h: int
    client_order_id: str = ""
    new_client_order_id: str = ""
    sets_expiry: bool = False
    expiry_us: int | None = None
    subaccount: int | None = None


# ======================================================================================
# §E07e LIFECYCLE
# Purpose:   The life of markets and of the exchange: open, pause, close, settle (PROTOCOL 6).
# Position:  Uses §E01 to §E07d. Called by §E12 to §E14; its timers run in `advance`.
# Principle: A result is paid once, and only when nobody disputes it.
# ======================================================================================
class Engine(Commands):
    """The whole exchange but for its wires: trading plus the life of markets (PROTOCOL 6)."""

    settle_after_us = SECOND_US             # from close to determination, when the result is known

    def add_market(self, market: Market) -> None:
        """List a market; it opens and closes by itself at its times."""
        event = market.event
        self.series.setdefault(event.series.ticker, event.series)
        is_new_event = event.ticker not in self.events
        self.events[event.ticker] = event
        self.markets[market.ticker] = market
        if is_new_event:
            self._tell("event_lifecycle", event_payload(event))
        self._tell("market_lifecycle_v2", created_payload(market))
        if market.open_us <= self.now_us:
            market.status = "active"
        else:
            self.at(market.open_us, lambda: self._open(market))
        self._watch_close(market)
        self.commit()

    def _tell(self, kind: str, payload: Json) -> None:
        self._notes.append(LifecycleNote(kind, payload))

    def _tell_market(self, market: Market, event_type: str, **more: object) -> None:
        market.updated_us = self.now_us
        self._tell("market_lifecycle_v2",
                   {"market_ticker": market.ticker, "event_type": event_type, **more})

    def _open(self, market: Market) -> None:
        if market.status == "initialized":
            market.status = "active"
            market.updated_us = self.now_us

    def _watch_close(self, market: Market) -> None:
        due_us = market.close_us

        def close() -> None:
            if market.close_us == due_us:
                self._close(market)
        self.at(due_us, close)

    def _close(self, market: Market) -> None:
        if market.status not in ("active", "inactive", "initialized"):
            return
        market.status = "closed"
        market.updated_us = self.now_us
        self.at(self.now_us + SECOND_US // 4, lambda: self._sweep(market))
        if market.pending_result is not None:
            result, value_cc = market.pending_result
            self.at(self.now_us + self.settle_after_us,
                    lambda: self._determine_closed(market, result, value_cc))

    def _determine_closed(self, market: Market, result: str, value_cc: int) -> None:
        """The known result arrives, unless the market was reopened or determined by hand."""
        if market.status == "closed":
            self._determine(market, result, value_cc)

    def _sweep(self, market: Market) -> None:
        """After the close: every resting order of the market goes."""
        if market.status not in ("active", "inactive"):
            self._clear_book(market, "CloseCancel")

    def _clear_book(self, market: Market, reason: str) -> None:
        for order in market.book.orders():
            self._remove(order, reason)

    def deactivate(self, ticker: str) -> None:
        """Pause one market."""
        market = self.market_of(ticker)
        if market.status != "active":
            raise Refusal(400, "invalid_parameters", f"market is {market.status}")
        market.status = "inactive"
        self._tell_market(market, "deactivated", is_deactivated=True)
        self.commit()

    def activate(self, ticker: str) -> None:
        """End a market's pause; every resting order of it is cancelled."""
        market = self.market_of(ticker)
        if market.status != "inactive":
            raise Refusal(400, "invalid_parameters", f"market is {market.status}")
        for order in market.book.orders():
            if order.account.is_member:
                self._remove(order, "HaltCancel")
        market.status = "active"
        self._tell_market(market, "activated", is_deactivated=False)
        self.commit()

    def set_close_time(self, ticker: str, close_us: int) -> None:
        """Move the close; a closed market with a later close opens again."""
        market = self.market_of(ticker)
        if market.status in ("determined", "disputed", "amended", "finalized"):
            raise Refusal(400, "invalid_parameters", f"market is {market.status}")
        market.close_us = close_us
        self._tell_market(market, "close_date_updated", close_ts=close_us // SECOND_US)
        if market.status == "closed" and close_us > self.now_us:
            self._clear_book(market, "CloseCancel")
            market.status = "active"
            self._tell_market(market, "activated", is_deactivated=False)
        self._watch_close(market)
        self.commit()
        self.advance(self.now_us)

    def set_grid(self, ticker: str, grid: Grid) -> None:
        """Change the valid prices; resting orders are kept."""
        market = self.market_of(ticker)
        market.grid = grid
        self._tell_market(market, "price_level_structure_updated", price_level_structure=grid.label,
                          price_ranges=grid.body())
        self.commit()

    def set_floor(self, ticker: str, floor_cc: int) -> None:
        """Guarantee a minimum payout; resting orders at or below it are cancelled."""
        market = self.market_of(ticker)
        market.floor_cc = floor_cc
        for order in market.book.orders():
            if order.price_cc <= floor_cc:
                self._remove(order, "SettlementBoundsCancel")
        self._tell_market(market, "metadata_updated")
        self.commit()

    def set_event_fees(self, event_ticker: str, fee_type: str | None,
                       multiplier_e4: int | None) -> None:
        """Override the series' fees for one event (None: clear)."""
        event = self.events[event_ticker]
        event.fee_type_override, event.multiplier_e4_override = fee_type, multiplier_e4
        event.updated_us = self.now_us
        self._tell("event_fee_update", {
            "event_ticker": event_ticker, "fee_type_override": fee_type,
            "fee_multiplier_override": None if multiplier_e4 is None else multiplier_e4 / 10_000})
        self.commit()

    def determine(self, ticker: str, result: str, value_cc: int | None = None) -> None:
        """Name the result: yes, no, or scalar with the YES payout in centi-cents."""
        market = self.market_of(ticker)
        if market.status == "finalized":
            raise Refusal(400, "invalid_parameters", "market is finalized")
        if result not in ("yes", "no", "scalar") or (result == "scalar" and value_cc is None):
            raise Refusal(400, "invalid_parameters", f"result {result!r}")
        if market.status in ("active", "inactive", "initialized"):
            market.close_us = self.now_us
            self._close(market)
        self._clear_book(market, "CloseCancel")
        plain_cc = DOLLAR_CC if result == "yes" else 0
        self._determine(market, result, plain_cc if value_cc is None else value_cc)
        self.commit()

    def _determine(self, market: Market, result: str, value_cc: int) -> None:
        if market.status == "finalized":
            return
        market.status = "amended" if market.value_cc is not None else "determined"
        market.result, market.value_cc = result, value_cc
        market.expiration_value = market.pending_expiration or PRICE_TEXT[value_cc]
        self._tell_market(market, "determined", determination_ts=self.now_us // SECOND_US,
                          result=result, settlement_value=PRICE_TEXT[value_cc])
        market.verdict += 1
        verdict = market.verdict

        def pay() -> None:
            if market.verdict == verdict and market.status != "disputed":
                self._finalize(market)
        self.at(self.now_us + int(market.timer_s * SECOND_US), pay)

    def dispute(self, ticker: str) -> None:
        """Challenge a determined result; nothing is paid until it is determined again."""
        market = self.market_of(ticker)
        if market.status not in ("determined", "amended"):
            raise Refusal(400, "invalid_parameters", f"market is {market.status}")
        market.status = "disputed"
        market.updated_us = self.now_us

    def settle(self, ticker: str, result: str, value_cc: int | None = None) -> None:
        """Determine and pay at once."""
        self.determine(ticker, result, value_cc)
        market = self.markets[ticker]
        self._finalize(market)
        self.commit()

    def _finalize(self, market: Market) -> None:
        if market.status == "finalized" or market.value_cc is None:
            return
        self._sweep(market)
        market.status = "finalized"
        market.settled_us = self.now_us
        market.interest_h = 0
        for account in self.accounts.values():
            if market.ticker in account.positions:
                self._pay(account, market, market.value_cc)
        self.crowd.settle(market.ticker, market.value_cc)
        self._tell_market(market, "settled", settled_ts=self.now_us // SECOND_US)

    def _pay(self, account: Account, market: Market, value_cc: int) -> None:
        before = account.state(market.ticker)
        paid_ud, kept_ud = account.settle(market.ticker, value_cc, self.now_us)
        self.fees_ud += kept_ud
        if before.position_h:
            self.settlements.append(Settlement(
                self.next_number(), market.ticker, market.event.ticker, market.result,
                before.position_h, before.cost_ud, paid_ud, value_cc, before.fees_ud, self.now_us,
                account.subaccount))

    def pause(self, kind: str, resume_us: int | None = None) -> None:
        """Start a `trading` or an `exchange` pause; flagged orders are cancelled."""
        if kind == "exchange":
            self.is_exchange_paused = True
        else:
            self.is_trading_paused = True
        self.resume_us = resume_us
        for order in list(self.open.values()):
            if order.on_pause:
                self._remove(order, "HaltCancel")
        self.commit()

    def resume(self) -> None:
        """End every pause of the whole exchange."""
        self.is_exchange_paused = self.is_trading_paused = False
        self.resume_us = None


def created_payload(market: Market) -> Json:
    """The `created` message of a market."""
    event = market.event
    return {
        "market_ticker": market.ticker, "event_type": "created", "exchange_index": 0,
        "open_ts": market.open_us // SECOND_US, "close_ts": market.close_us // SECOND_US,
        "price_level_structure": market.grid.label, "price_ranges": market.grid.body(),
        "additional_metadata": {
            "name": market.yes_title, "title": market.title, "yes_sub_title": market.yes_title,
            "no_sub_title": market.no_title, "rules_primary": str(market.extra.get("rules", "")),
            "rules_secondary": "", "can_close_early": True, "event_ticker": event.ticker,
            "expected_expiration_ts": market.expected_us // SECOND_US},
    }


def event_payload(event: Event) -> Json:
    """The `event_lifecycle` message of a new event."""
    return {"event_ticker": event.ticker, "exchange_index": 0, "title": event.title,
            "subtitle": event.sub_title, "collateral_return_type": event.collateral_return,
            "series_ticker": event.series.ticker}


# ======================================================================================
# §E08a ENCODING
# Purpose:   The exchange's JSON: what it says of its objects.
# Position:  Uses §E01 to §E07. Used by §E10 and §E11.
# Principle: Prices four decimals, money six, counts two; deprecated twins are still sent.
# ======================================================================================
def price_text(price_cc: int) -> str:
    """Dollar string of a price."""
    return PRICE_TEXT[price_cc]


def market_body(market: Market, switches: Switches) -> Json:
    """The Market object of REST (PROTOCOL 4.5)."""
    bid_cc, ask_cc, bid_h, ask_h = market.quotes()
    if market.status == "initialized":
        ask_cc = 0
    elif market.status in ("closed", "determined", "disputed", "amended", "finalized"):
        bid_cc, ask_cc, bid_h, ask_h = 0, DOLLAR_CC, 0, 0
    previous_bid_cc, previous_ask_cc, previous_cc = market.previous
    body: Json = {
        "ticker": market.ticker, "event_ticker": market.event.ticker, "market_type": "binary",
        "title": market.title, "subtitle": "", "yes_sub_title": market.yes_title,
        "no_sub_title": market.no_title, "created_time": time_text(market.created_us),
        "updated_time": time_text(market.updated_us), "open_time": time_text(market.open_us),
        "close_time": time_text(market.close_us),
        "expected_expiration_time": time_text(market.expected_us),
        "expiration_time": time_text(market.latest_us),
        "latest_expiration_time": time_text(market.latest_us),
        "occurrence_datetime": time_text(market.expected_us),
        "settlement_timer_seconds": int(market.timer_s), "status": market.status,
        "result": market.result, "can_close_early": True,
        "early_close_condition": "This market closes early when the outcome is known.",
        "expiration_value": market.expiration_value, "yes_bid_dollars": price_text(bid_cc),
        "yes_bid_size_fp": count_text(bid_h), "yes_ask_dollars": price_text(ask_cc),
        "yes_ask_size_fp": count_text(ask_h), "no_bid_dollars": price_text(DOLLAR_CC - ask_cc),
        "no_ask_dollars": price_text(DOLLAR_CC - bid_cc),
        "last_price_dollars": price_text(market.last_cc),
        "previous_yes_bid_dollars": price_text(previous_bid_cc),
        "previous_yes_ask_dollars": price_text(previous_ask_cc),
        "previous_price_dollars": price_text(previous_cc),
        "volume_fp": count_text(market.volume_h), "volume_24h_fp": count_text(market.volume_day_h),
        "open_interest_fp": count_text(market.interest_h), "notional_value_dollars": "1.0000",
        "strike_type": "custom", "custom_strike": {},
        "rules_primary": f"Resolves YES if: {market.title}", "rules_secondary": "",
        "price_level_structure": market.grid.label, "price_ranges": market.grid.body(),
        "settlement_bounds_type": "default", "exchange_index": 0,
    }
    body.update(_market_options(market, switches))
    return body


def _market_options(market: Market, switches: Switches) -> Json:
    """The fields a market only sometimes has; a tape's own definition wins."""
    more: Json = {name: value for name, value in market.extra.items() if value is not None}
    if switches.rule["liquidity_dollars"] == "sent":
        more["liquidity_dollars"] = "0.0000"
    if market.value_cc is not None:
        more["settlement_value_dollars"] = price_text(market.value_cc)
    if market.settled_us is not None:
        more["settlement_ts"] = time_text(market.settled_us)
    if market.waiver_us is not None:
        more["fee_waiver_expiration_time"] = time_text(market.waiver_us)
    if market.floor_cc is not None:
        more["settlement_bounds_type"] = "floor"
        more["settlement_floor_dollars"] = price_text(market.floor_cc)
    return more


def levels_body(side: BookSide, depth: int, flips: bool) -> list[list[str]]:
    """Levels of one side ascending in their own price scale, the best `depth` (0: all).

    `flips` prices the asks on the NO leg, where the best NO bid is the highest.
    """
    prices = side.prices()[-depth:] if depth else side.prices()
    if not side.is_bid and not flips:
        prices.reverse()
    rows = [(DOLLAR_CC - cc if flips else cc, side.levels[cc].total_h) for cc in prices]
    return [[PRICE_TEXT[cc], count_text(count_h)] for cc, count_h in rows]


def orderbook_body(market: Market, depth: int) -> Json:
    """Both legs' bids; NO prices on the NO leg."""
    return {"yes_dollars": levels_body(market.book.bids, depth, False),
            "no_dollars": levels_body(market.book.asks, depth, True)}


def trade_body(trade: Trade) -> Json:
    """The public trade of REST."""
    side = "yes" if trade.taker_is_bid else "no"
    return {"trade_id": trade.trade_id, "ticker": trade.ticker,
            "count_fp": count_text(trade.count_h), "yes_price_dollars": price_text(trade.price_cc),
            "no_price_dollars": price_text(DOLLAR_CC - trade.price_cc), "taker_side": side,
            "taker_outcome_side": side, "taker_book_side": "bid" if trade.taker_is_bid else "ask",
            "created_time": time_text(trade.at_us), "is_block_trade": False}


def _four(four: list[int] | None, suffix: str) -> Json:
    names = ("open", "low", "high", "close")
    if four is None:
        return {}
    return {name + suffix: price_text(cc) for name, cc in zip(names, four, strict=True)}


def candle_body(candle: Candle, suffix: str = "_dollars", count_suffix: str = "_fp") -> Json:
    """One candlestick; without suffixes it is the historical variant."""
    price = _four(candle.price, suffix)
    if candle.price is not None and candle.volume_h:
        price["mean" + suffix] = price_text(candle.sum_ud // candle.volume_h)
    if candle.previous_cc is not None:
        price["previous" + suffix] = price_text(candle.previous_cc)
    return {"end_period_ts": candle.end_s, "yes_bid": _four(candle.bid, suffix),
            "yes_ask": _four(candle.ask, suffix), "price": price,
            "volume" + count_suffix: count_text(candle.volume_h),
            "open_interest" + count_suffix: count_text(candle.interest_h)}


def event_body(event: Event) -> Json:
    """The Event object without its markets."""
    multiplier = event.multiplier_e4_override
    body: Json = {
        "event_ticker": event.ticker, "series_ticker": event.series.ticker, "title": event.title,
        "sub_title": event.sub_title, "collateral_return_type": event.collateral_return,
        "mutually_exclusive": event.is_exclusive, "category": event.category,
        "settlement_sources": [{"name": "Simulated source", "url": "https://example.com"}],
        "last_updated_ts": time_text(event.updated_us),
        "fee_type_override": event.fee_type_override,
        "fee_multiplier_override": None if multiplier is None else multiplier / 10_000,
        "exchange_index": 0,
    }
    if event.strike_us is not None:
        body["strike_date"] = time_text(event.strike_us)
    return body


def series_body(series: Series, volume_h: int | None = None) -> Json:
    """The Series object; the multiplier is a JSON number."""
    multiplier, rest = divmod(series.multiplier_e4, 10_000)
    body: Json = {
        "ticker": series.ticker, "frequency": series.frequency, "title": series.title,
        "category": series.category, "categories": [series.category], "tags": [],
        "settlement_sources": [], "contract_url": "", "contract_terms_url": "",
        "fee_type": series.fee_type, "additional_prohibitions": [], "exchange_index": 0,
        "fee_multiplier": multiplier if not rest else series.multiplier_e4 / 10_000,
        "last_updated_ts": time_text(series.updated_us),
    }
    if volume_h is not None:
        body["volume_fp"] = count_text(volume_h)
    return body


def _order_common(order: MemberOrder, state: OrderState) -> Json:
    return {
        "order_id": order.order_id, "client_order_id": state.client_order_id,
        "ticker": order.market.ticker, "side": "yes",
        "outcome_side": "yes" if order.is_bid else "no",
        "book_side": "bid" if order.is_bid else "ask", "status": state.status,
        "yes_price_dollars": price_text(state.price_cc),
        "initial_count_fp": count_text(state.initial_h),
        "fill_count_fp": count_text(state.filled_h),
        "remaining_count_fp": count_text(state.remaining_h),
        "taker_fill_cost_dollars": money_text(state.taker_cost_ud),
        "maker_fill_cost_dollars": money_text(state.maker_cost_ud),
        "taker_fees_dollars": money_text(state.taker_fees_ud),
        "maker_fees_dollars": money_text(state.maker_fees_ud),
        "self_trade_prevention_type": order.stp, "exchange_index": 0,
        "subaccount_number": order.account.subaccount,
        "created_time": time_text(order.created_us),
        "last_update_time": time_text(state.updated_us),
    }


def order_body(order: MemberOrder, state: OrderState, user_id: str) -> Json:
    """The Order object of REST at one moment."""
    body = _order_common(order, state)
    body |= {"user_id": user_id, "action": "buy" if order.is_bid else "sell", "type": "limit",
             "no_price_dollars": price_text(DOLLAR_CC - state.price_cc),
             "cancel_order_on_pause": order.on_pause}
    if state.expiry_us is not None:
        body["expiration_time"] = time_text(state.expiry_us)
    if order.group is not None:
        body["order_group_id"] = order.group.group_id
    return body


def user_order_body(order: MemberOrder, state: OrderState, user_id: str) -> Json:
    """The `user_order` message of the stream."""
    body = _order_common(order, state)
    body |= {"user_id": user_id, "is_yes": True, "created_ts_ms": order.created_us // 1000,
             "last_updated_ts_ms": state.updated_us // 1000}
    if state.reason:
        body["last_update_reason"] = state.reason
    if state.expiry_us is not None:
        body["expiration_time"] = time_text(state.expiry_us)
        body["expiration_ts_ms"] = state.expiry_us // 1000
    if order.group is not None:
        body["order_group_id"] = order.group.group_id
    return body


def _legacy_sides(fill: Fill, switches: Switches) -> tuple[str, str] | None:
    """(`side`, `action`) of a fill; None: absent."""
    if fill.is_bid:
        return "yes", "buy"
    rule = switches.rule["ask_fill_legacy_fields"]
    return None if rule == "absent" else ("no" if rule == "side_no" else "yes", "sell")


def _fill_common(fill: Fill, switches: Switches) -> Json:
    body: Json = {
        "trade_id": fill.trade_id, "order_id": fill.order_id, "market_ticker": fill.ticker,
        "exchange_index": 0, "is_taker": fill.is_taker,
        "outcome_side": "yes" if fill.is_bid else "no",
        "book_side": "bid" if fill.is_bid else "ask", "count_fp": count_text(fill.count_h),
        "yes_price_dollars": price_text(fill.price_cc), "fee_cost": money_text(fill.fee_ud),
        "ts": fill.at_us // SECOND_US,
    }
    legacy = _legacy_sides(fill, switches)
    if legacy is not None:
        body["side"], body["action"] = legacy
    return body


def fill_body(fill: Fill, switches: Switches) -> Json:
    """The Fill object of REST; it has no client id."""
    return _fill_common(fill, switches) | {
        "fill_id": fill.trade_id, "ticker": fill.ticker, "created_time": time_text(fill.at_us),
        "no_price_dollars": price_text(DOLLAR_CC - fill.price_cc),
        "subaccount_number": fill.subaccount}


def fill_message(fill: Fill, switches: Switches) -> Json:
    """The `fill` message of the stream."""
    body = _fill_common(fill, switches) | {
        "ts_ms": fill.at_us // 1000, "post_position_fp": count_text(fill.post_position_h),
        "subaccount": fill.subaccount}
    if "side" in body:
        body["purchased_side"] = "yes" if fill.is_bid else "no"
    if fill.client_order_id:
        body["client_order_id"] = fill.client_order_id
    return body


def position_body(ticker: str, state: PositionState) -> Json:
    """The MarketPosition object of REST."""
    return {"ticker": ticker, "exchange_index": 0, "position_fp": count_text(state.position_h),
            "market_exposure_dollars": money_text(state.cost_ud),
            "total_traded_dollars": money_text(state.traded_ud),
            "realized_pnl_dollars": money_text(state.realized_ud),
            "fees_paid_dollars": money_text(state.fees_ud),
            "last_updated_ts": time_text(state.updated_us)}


def event_position_body(ticker: str, states: list[PositionState]) -> Json:
    """The EventPosition object: the sums of its markets."""
    return {"event_ticker": ticker,
            "event_exposure_dollars": money_text(sum(s.cost_ud for s in states)),
            "fees_paid_dollars": money_text(sum(s.fees_ud for s in states)),
            "realized_pnl_dollars": money_text(sum(s.realized_ud for s in states)),
            "total_cost_dollars": money_text(sum(s.cost_ud for s in states)),
            "total_cost_shares_fp": count_text(sum(abs(s.position_h) for s in states))}


def position_message(note: PositionNote, user_id: str) -> Json:
    """The `market_position` message of the stream."""
    state = note.state
    return {"user_id": user_id, "market_ticker": note.ticker,
            "position_fp": count_text(state.position_h),
            "position_cost_dollars": money_text(state.cost_ud),
            "realized_pnl_dollars": money_text(state.realized_ud),
            "fees_paid_dollars": money_text(state.fees_ud),
            "position_fee_cost_dollars": money_text(state.open_fees_ud),
            "volume_fp": count_text(state.volume_h), "subaccount": note.subaccount}


def settlement_body(row: Settlement) -> Json:
    """The Settlement object; revenue and value are integer cents."""
    is_yes = row.position_h > 0
    held, none = count_text(abs(row.position_h)), "0.00"
    cost, zero = money_text(row.cost_ud), money_text(0)
    return {"ticker": row.ticker, "exchange_index": 0, "event_ticker": row.event_ticker,
            "market_result": row.result, "yes_count_fp": held if is_yes else none,
            "yes_total_cost_dollars": cost if is_yes else zero,
            "no_count_fp": none if is_yes else held,
            "no_total_cost_dollars": zero if is_yes else cost,
            "revenue": row.revenue_ud // 10_000, "value": row.value_cc // 100,
            "fee_cost": money_text(row.fees_ud), "settled_time": time_text(row.at_us)}


def average_texts(order: MemberOrder, *, count_h: int, cost_ud: int, fees_ud: int) -> Json:
    """`average_fill_price` (YES leg) and `average_fee_paid` of some of an order's fills."""
    return {"average_fill_price": price_text((cost_ud + count_h // 2) // count_h),
            "average_fee_paid": price_text(max(0, (fees_ud + count_h // 2) // count_h))}


# ======================================================================================
# §E08b DECODING
# Purpose:   What the exchange reads in bodies: kinds, choices, numbers.
# Position:  Uses §E01 to §E07. Used by §E10.
# Principle: What does not decode is a flat 400, what decodes to nonsense a nested one.
# ======================================================================================
@dataclass(frozen=True, slots=True)
class BodyForm:
    """The Go struct a body is read into: its name and (JSON kind, is required) per field."""

    struct: str
    fields: dict[str, tuple[str, bool]]


CREATE_FORM = BodyForm("CreateOrderV2Request", {
    "ticker": ("string", True), "side": ("string", True), "count": ("string", True),
    "price": ("string", True), "time_in_force": ("string", True),
    "self_trade_prevention_type": ("string", True), "client_order_id": ("string", False),
    "expiration_time": ("int64", False), "post_only": ("bool", False),
    "reduce_only": ("bool", False), "cancel_order_on_pause": ("bool", False),
    "order_group_id": ("string", False), "subaccount": ("int64", False),
    "exchange_index": ("int64", False)})
AMEND_FORM = BodyForm("AmendOrderV2Request", {
    "ticker": ("string", True), "side": ("string", True), "price": ("string", True),
    "count": ("string", True), "client_order_id": ("string", False),
    "updated_client_order_id": ("string", False), "expiration_time": ("int64", False),
    "exchange_index": ("int64", False)})
DECREASE_FORM = BodyForm("DecreaseOrderV2Request", {
    "reduce_by": ("string", False), "reduce_to": ("string", False),
    "market_ticker": ("string", False), "exchange_index": ("int64", False)})
BATCH_FORM = BodyForm("BatchOrdersV2Request", {"orders": ("slice", True)})
BATCH_CANCEL_ITEM = BodyForm("BatchCancelOrdersV2RequestOrder", {
    "order_id": ("string", True), "market_ticker": ("string", False),
    "subaccount": ("int64", False), "exchange_index": ("int64", False)})
GROUP_FORM = BodyForm("CreateOrderGroupRequest", {
    "contracts_limit": ("int64", False), "contracts_limit_fp": ("string", False),
    "subaccount": ("int64", False), "exchange_index": ("int64", False)})

_GO_NAME = {str: "string", bool: "bool", int: "number", float: "number", list: "array",
            dict: "object"}
_KINDS: dict[str, type] = {"string": str, "bool": bool, "int64": int, "slice": list}


def bad_request(details: str) -> Refusal:
    """The flat 400 of a body that does not decode."""
    return Refusal(400, "bad_request", details, shape="flat")


def load_object(body: bytes, struct: str) -> Json:
    """The JSON object of a body; a flat 400 when it is not one."""
    if not body.strip():
        raise bad_request("EOF")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"invalid JSON: {error.msg}") from error
    if not isinstance(value, dict):
        name = _GO_NAME.get(type(value), "null")
        raise bad_request(f"json: cannot unmarshal {name} into Go value of type {struct}")
    return value


def read_form(value: object, form: BodyForm, switches: Switches) -> Json:
    """The known fields of an object with their right kinds; null counts as absent."""
    if not isinstance(value, dict):
        raise bad_request(f"json: cannot unmarshal {_GO_NAME.get(type(value), 'null')} "
                          f"into Go value of type {form.struct}")
    found: Json = {}
    for name, (kind, is_required) in form.fields.items():
        item = value.get(name)
        if item is None:
            if is_required:
                _refuse_missing(form, name, switches)
            continue
        if type(item) is not _KINDS[kind]:
            raise bad_request(f"json: cannot unmarshal {_GO_NAME[type(item)]} into Go struct "
                              f"field {form.struct}.{name} of type {kind}")
        found[name] = item
    if switches.rule["extra_fields"] == "refused" and value.keys() - form.fields.keys():
        raise bad_request("json: unknown field")
    return found


def _refuse_missing(form: BodyForm, name: str, switches: Switches) -> None:
    shape = "flat" if switches.rule["missing_field_code"] == "bad_request" else "nested"
    raise Refusal(400, switches.rule["missing_field_code"], f"{form.struct}.{name} is required",
                  shape=shape)


def text_of(fields: Json, name: str) -> str:
    """A string field; "" when absent."""
    return str(fields.get(name, ""))


def check_shard(fields: Json) -> None:
    """There is one shard: 0, or -1 for "route it"."""
    if fields.get("exchange_index", 0) not in (0, -1):
        raise Refusal(400, "invalid_parameters", "exchange_index")


def _choice(fields: Json, name: str, allowed: tuple[str, ...]) -> str:
    value = text_of(fields, name)
    if value not in allowed:
        raise Refusal(400, "invalid_parameters", f"{name} must be one of {', '.join(allowed)}")
    return value


def _price_of(fields: Json) -> int:
    price_cc = parse_price_cc(text_of(fields, "price"))
    if price_cc is None:
        raise Refusal(400, "invalid_price")
    return price_cc


def count_of(fields: Json, name: str) -> int:
    """A count field in hundredths; 400 when it is no count."""
    count_h = parse_count_h(text_of(fields, name))
    if count_h is None:
        raise Refusal(400, "invalid_order_size", f"{name} is not a count")
    return count_h


def _client_id_of(fields: Json, name: str) -> str:
    value = text_of(fields, name)
    if len(value) > 64 or "." in value or not value.isascii():
        raise Refusal(400, "invalid_parameters", name)
    return value


def _expiry_of(fields: Json) -> int | None:
    value = fields.get("expiration_time")
    if value is None:
        return None
    assert isinstance(value, int), "the form has checked the kind"
    if not -10**11 < value < 10**11:
        raise Refusal(400, "invalid_parameters", "expiration_time is in seconds")
    return value * SECOND_US


def int_of(fields: Json, name: str) -> int:
    """An integer field; 0 when absent."""
    value = fields.get(name, 0)
    assert isinstance(value, int), "the form has checked the kind"
    return value


def decode_create(value: object, switches: Switches) -> OrderRequest:
    """An OrderRequest from one create body or batch entry."""
    fields = read_form(value, CREATE_FORM, switches)
    check_shard(fields)
    return OrderRequest(
        ticker=text_of(fields, "ticker"), is_bid=_choice(fields, "side", ("bid", "ask")) == "bid",
        count_h=count_of(fields, "count"), price_cc=_price_of(fields),
        time_in_force=_choice(fields, "time_in_force",
                              ("good_till_canceled", "immediate_or_cancel", "fill_or_kill")),
        stp=_choice(fields, "self_trade_prevention_type", ("taker_at_cross", "maker")),
        client_order_id=_client_id_of(fields, "client_order_id"), expiry_us=_expiry_of(fields),
        post_only=bool(fields.get("post_only")), reduce_only=bool(fields.get("reduce_only")),
        cancel_on_pause=bool(fields.get("cancel_order_on_pause")),
        group_id=text_of(fields, "order_group_id"), subaccount=int_of(fields, "subaccount"))


def decode_amend(value: object, subaccount: int | None, switches: Switches) -> Amendment:
    """An Amendment from its body."""
    fields = read_form(value, AMEND_FORM, switches)
    check_shard(fields)
    expiry_us = _expiry_of(fields)
    return Amendment(
        ticker=text_of(fields, "ticker"), is_bid=_choice(fields, "side", ("bid", "ask")) == "bid",
        price_cc=_price_of(fields), count_h=count_of(fields, "count"),
        client_order_id=_client_id_of(fields, "client_order_id"),
        new_client_order_id=_client_id_of(fields, "updated_client_order_id"),
        sets_expiry=expiry_us is not None, expiry_us=expiry_us or None, subaccount=subaccount)


# ======================================================================================
# §E09 GATE
# Purpose:   Who may speak: signatures, clock skew, token buckets.
# Position:  Uses §E01, §E02. Used by §E10, §E11 and §E15.
# Principle: A request is signed over time, method and path; the key decides the algorithm.
# ======================================================================================
REST_ROOT, WS_ROOT = "/trade-api/v2", "/trade-api/ws/v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The member's key pair and its id."""

    key_id: str
    private_pem: str
    public_key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey


def make_credentials(key_type: str, rng: random.Random) -> Credentials:
    """A new key. Ed25519 keys come from the seed, so that a simulation repeats itself."""
    if key_type == "rsa":
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = rsa_key.private_bytes(serialization.Encoding.PEM,
                                    serialization.PrivateFormat.TraditionalOpenSSL,
                                    serialization.NoEncryption())
        return Credentials(key_id=_key_id(pem), private_pem=pem.decode(),
                           public_key=rsa_key.public_key())
    ed_key = ed25519.Ed25519PrivateKey.from_private_bytes(rng.randbytes(32))
    pem = ed_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                               serialization.NoEncryption())
    return Credentials(key_id=_key_id(pem), private_pem=pem.decode(),
                       public_key=ed_key.public_key())


def load_credentials(pem: str) -> Credentials:
    """The key of an earlier run (PKCS#1 or PKCS#8); ValueError when it is neither kind."""
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise ValueError("the key file holds neither an RSA nor an Ed25519 key")
    return Credentials(key_id=_key_id(pem.encode()), private_pem=pem, public_key=key.public_key())


def _key_id(pem: bytes) -> str:
    """The key's id, derived from the key so that it stays the same with the file."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(pem).hexdigest()))


class Gate:
    """Checks the three headers of a request."""

    def __init__(self, credentials: Credentials, switches: Switches) -> None:
        self.keys = {credentials.key_id: credentials}
        self._switches = switches
        self.refuse_until_us = 0
        self.clock_shift_us = 0
        self.scopes = ["read", "write"]

    def check(self, method: str, raw_path: str, headers: Mapping[str, str], now_us: int) -> None:
        """Return when the signature is good; else raise the 401 of PROTOCOL 2.4."""
        now_us += self.clock_shift_us
        signature, key = headers.get("KALSHI-ACCESS-SIGNATURE"), headers.get("KALSHI-ACCESS-KEY")
        if not signature:
            raise Refusal(401, "signature_is_missing_from_headers")
        if not key:
            raise Refusal(401, "key_is_missing_from_headers")
        if key not in self.keys:
            raise Refusal(401, "authentication_error", "NOT_FOUND")
        stamp = headers.get("KALSHI-ACCESS-TIMESTAMP", "")
        if not stamp:
            raise Refusal(401, "timestamp_is_missing_from_headers")
        self._check_time(stamp, now_us)
        path = raw_path.partition("?")[0]
        plain = re.sub("%[0-9a-f]{2}", lambda m: m[0].upper(), path).rstrip("/")
        if now_us - self.clock_shift_us < self.refuse_until_us or not any(
                self._verifies(self.keys[key], stamp + method + form, signature)
                for form in {path, plain}):
            raise Refusal(401, "authentication_error", "INCORRECT_API_KEY_SIGNATURE")

    def _check_time(self, stamp: str, now_us: int) -> None:
        window_us = self._switches.number("skew_window_s") * SECOND_US
        if not re.fullmatch(r"[0-9]{10,16}", stamp) or abs(int(stamp) * 1000 - now_us) > window_us:
            raise Refusal(401, "header_timestamp_expired")

    @staticmethod
    def _verifies(credentials: Credentials, text: str, signature: str) -> bool:
        key = credentials.public_key
        try:
            raw = base64.b64decode(signature, validate=True)
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(raw, text.encode())
            else:
                key.verify(raw, text.encode(), _PSS, hashes.SHA256())
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)


class Bucket:
    """Tokens that refill with time (exchange clock)."""

    def __init__(self, rate: int, capacity: int, now_us: int) -> None:
        self.rate, self.capacity = rate, capacity
        self.tokens = float(capacity)
        self._at_us = now_us

    def take(self, cost: float, now_us: int) -> bool:
        """True and billed when the tokens suffice; False costs nothing."""
        gained = (now_us - self._at_us) * self.rate / SECOND_US
        self.tokens = min(self.capacity, self.tokens + max(0.0, gained))
        self._at_us = max(now_us, self._at_us)
        if self.tokens + 1e-6 < cost:
            return False
        self.tokens -= cost
        return True


class RateLimits:
    """The account's buckets: read, write, and the balance call's own. None tier: no limits."""

    def __init__(self, tier: Tier | None, now_us: int) -> None:
        self.tier = tier
        self.is_on = tier is not None
        self.storm_until_us = 0
        if tier is not None:
            self.read = Bucket(tier.read_rate, tier.read_capacity, now_us)
            self.write = Bucket(tier.write_rate, tier.write_capacity, now_us)
            self.balance = Bucket(tier.balance_rate, tier.balance_rate, now_us)

    def charge(self, kind: str, cost: float, now_us: int) -> None:
        """Bill one request to `read`, `write` or `balance`; 429 when it does not fit."""
        if now_us < self.storm_until_us:
            raise Refusal(429, "too many requests", shape="string")
        if not self.is_on:
            return
        bucket: Bucket = getattr(self, kind)
        if not bucket.take(cost, now_us):
            raise Refusal(429, "too many requests", shape="string")


# ======================================================================================
# §E10a REQUESTS
# Purpose:   A request, its parameters, its pages, and the table row of an endpoint.
# Position:  Uses §E01 to §E09. Used by §E10b to §E10f.
# Principle: A damaged cursor is the first page, a limit above the maximum is a 400.
# ======================================================================================
class Answer(NamedTuple):
    """An HTTP answer; `payload` None: no body."""

    status: int
    payload: object


class Route(NamedTuple):
    """One endpoint: who may call it, which bucket pays, and what it costs."""

    method: str
    template: str
    name: str
    run: Callable[[RestCall], Answer]
    is_signed: bool = True
    bucket: str = "read"
    cost: int = 10
    is_batch: bool = False
    is_order_write: bool = False


class RestCall:
    """One request. `params` holds the path's variables once it is routed."""

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        self.method, self.target, self.headers, self.body = method, target, headers, body
        self.raw_path, _, raw_query = target.partition("?")
        self.path = unquote(self.raw_path)
        self.query: dict[str, list[str]] = {}
        for name, value in parse_qsl(raw_query, keep_blank_values=True, max_num_fields=2_000):
            self.query.setdefault(name, []).append(value)
        self.params: dict[str, str] = {}
        self.operation = ""
        self.allowed: int | None = None                 # items of a batch that were paid for

    def text(self, name: str) -> str:
        """The first value of a query parameter; "" when absent."""
        return self.query.get(name, [""])[0]

    def texts(self, name: str) -> list[str]:
        """A comma list or a repeated parameter; empty when absent."""
        joined = ",".join(self.query.get(name, []))
        return [item for item in joined.split(",") if item]

    def flag(self, name: str) -> bool:
        """A boolean parameter."""
        value = self.text(name)
        if value not in ("", "true", "false", "1", "0"):
            self._refuse(name, "boolean")
        return value in ("true", "1")

    def integer(self, name: str) -> int | None:
        """An integer parameter; None when absent; 400 otherwise."""
        value = self.text(name)
        if not value:
            return None
        if not re.fullmatch(r"-?[0-9]{1,18}", value):
            raise Refusal(400, "", f"Invalid format for parameter {name}: error binding string "
                          f"parameter: strconv.ParseInt: parsing: invalid syntax", shape="msg")
        return int(value)

    def limit(self, default: int, high: int, low: int = 1) -> int:
        """The page size; above the maximum is a 400, not a clamp."""
        value = self.integer("limit")
        if value is None:
            return default
        if value > high:
            self._refuse("limit", "lte")
        if value < low:
            self._refuse("limit", "gte")
        return value or default

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """A parameter out of a closed set; "" when absent."""
        value = self.text(name)
        if value and value not in allowed:
            self._refuse(name, "oneof")
        return value

    def _refuse(self, name: str, tag: str) -> None:
        operation = self.operation
        key = "".join(part.capitalize() for part in name.split("_"))
        raise Refusal(400, "", f"Parameter validation failed for {operation}: Key: "
                      f"'{operation}Params.{key}' Error:Field validation for '{key}' failed on "
                      f"the '{tag}' tag", shape="msg")

    def cursor(self) -> int | None:
        """The number a cursor stands for; None for none and for garbage (first page)."""
        try:
            text = base64.urlsafe_b64decode(self.text("cursor").encode()).decode()
        except (ValueError, binascii.Error):
            return None
        return int(text[1:]) if re.fullmatch(r"n[0-9]{1,15}", text) else None

    def shard(self) -> None:
        """There is only shard 0."""
        if self.integer("exchange_index") not in (None, 0, -1):
            raise Refusal(400, "invalid_parameters", "exchange_index")


def cursor_text(number: int) -> str:
    """An opaque cursor."""
    return base64.urlsafe_b64encode(f"n{number}".encode()).decode()


def take_page(rows: Iterable[U], limit: int, number_of: Callable[[U], int]) -> tuple[list[U], str]:
    """The first `limit` rows and the cursor of what follows ("" at the end)."""
    page = list(islice(rows, limit + 1))
    more = cursor_text(number_of(page[limit - 1])) if len(page) > limit else ""
    return page[:limit], more


def _ok(payload: object) -> Answer:
    return Answer(200, payload)


# ======================================================================================
# §E10b PUBLIC READS
# Purpose:   Exchange, markets, events, series.
# Position:  Uses §E01 to §E10a. Called through §E10f.
# Principle: Every answer is a function of the request and of the engine's state.
# ======================================================================================
_FAMILIES = {"created": ("", "unopened", "open"), "close": ("", "closed"),
             "settled": ("", "settled"), "updated": ("",)}
_STATUS_WORDS = {"unopened": ("initialized",), "open": ("active",), "paused": ("inactive",),
                 "closed": ("closed", "determined", "disputed", "amended"),
                 "settled": ("finalized",)}


class ExchangeReads:
    """The public side: exchange, markets, events, series."""

    def __init__(self, engine: Engine, switches: Switches, lag: Lag) -> None:
        self._engine, self._switches, self._lag = engine, switches, lag

    def routes(self) -> list[Route]:
        """The endpoints of this part; none needs a signature."""
        rows = [
            ("/exchange/status", self.status), ("/exchange/schedule", self.schedule),
            ("/exchange/user_data_timestamp", self.user_data_timestamp),
            ("/historical/cutoff", self.cutoff), ("/markets", self.markets),
            ("/markets/trades", self.trades), ("/markets/orderbooks", self.orderbooks),
            ("/markets/candlesticks", self.batch_candles), ("/markets/{ticker}", self.market),
            ("/markets/{ticker}/orderbook", self.orderbook),
            ("/series/{series}/markets/{ticker}/candlesticks", self.candles),
            ("/series/{series}/events/{ticker}/candlesticks", self.event_candles),
            ("/events", self.events), ("/events/multivariate", self.no_events),
            ("/events/fee_changes", self.event_fee_changes), ("/events/{ticker}", self.event),
            ("/events/{ticker}/metadata", self.metadata), ("/series", self.series_list),
            ("/series/fee_changes", self.fee_changes), ("/series/{ticker}", self.series),
            ("/historical/markets", self.no_markets), ("/historical/trades", self.no_trades),
            ("/historical/markets/{ticker}", self.not_found),
            ("/historical/markets/{ticker}/candlesticks", self.not_found),
        ]
        return [Route("GET", path, run.__name__, run, is_signed=False) for path, run in rows]

    def status(self, call: RestCall) -> Answer:
        """GET /exchange/status."""
        engine = self._engine
        flags: Json = {"exchange_active": not engine.is_exchange_paused,
                       "trading_active": not (engine.is_trading_paused
                                              or engine.is_exchange_paused),
                       "intra_exchange_transfers_active": True}
        resume = engine.resume_us
        return _ok({**flags,
                    "exchange_estimated_resume_time": None if resume is None else time_text(resume),
                    "exchange_index_statuses": [{"exchange_index": 0, "description": "Default",
                                                 **flags}]})

    def schedule(self, call: RestCall) -> Answer:
        """GET /exchange/schedule: always open but for the Thursday pause."""
        day = [{"open_time": "00:00", "close_time": "00:00"}]
        thursday = [{"open_time": "00:00", "close_time": "03:00"},
                    {"open_time": "05:00", "close_time": "00:00"}]
        others = ("monday", "tuesday", "wednesday", "friday", "saturday", "sunday")
        hours: Json = dict.fromkeys(others, day)
        year = int(_second_text(self._engine.now_us // SECOND_US)[:4])
        return _ok({"schedule": {
            "standard_hours": [{**hours, "thursday": thursday,
                                "start_time": f"{year}-01-01T00:00:00Z",
                                "end_time": f"{year + 1}-01-01T00:00:00Z"}],
            "maintenance_windows": []}})

    def user_data_timestamp(self, call: RestCall) -> Answer:
        """GET /exchange/user_data_timestamp: how fresh the account reads are."""
        return _ok({"as_of_time": time_text(self._lag.as_of_us(self._engine.now_us))})

    def cutoff(self, call: RestCall) -> Answer:
        """GET /historical/cutoff: everything of this run is still live."""
        old = time_text(self._engine.now_us // DAY_US * DAY_US - 90 * DAY_US)
        return _ok({"market_settled_ts": old, "trades_created_ts": old, "orders_updated_ts": old,
                    "market_positions_last_updated_ts": old})

    def _market_filter(self, call: RestCall) -> Callable[[Market], bool]:
        status = call.choice("status", tuple(_STATUS_WORDS))
        used = [family for family in _FAMILIES
                if call.text(f"min_{family}_ts") or call.text(f"max_{family}_ts")]
        mve = call.choice("mve_filter", ("only", "exclude"))
        if len(used) > 1 or (used and status not in _FAMILIES[used[0]]):
            raise Refusal(400, "invalid_parameters", "timestamp filters exclude each other")
        if used == ["updated"] and mve != "exclude":
            raise Refusal(400, "invalid_parameters", "min_updated_ts needs mve_filter=exclude")
        low = call.integer(f"min_{used[0]}_ts") if used else None
        high = call.integer(f"max_{used[0]}_ts") if used else None
        tickers, event, series = (set(call.texts("tickers")), call.text("event_ticker"),
                                  call.text("series_ticker"))
        words = _STATUS_WORDS.get(status)

        def keeps(market: Market) -> bool:
            if mve == "only" or (words is not None and market.status not in words):
                return False
            if (tickers and market.ticker not in tickers) or (
                    event and market.event.ticker != event):
                return False
            if series and market.event.series.ticker != series:
                return False
            return not used or _within(market, used[0], low, high)
        return keeps

    def markets(self, call: RestCall) -> Answer:
        """GET /markets."""
        keeps = self._market_filter(call)
        limit = call.limit(100, 1000, 0)
        start = call.cursor() or 0
        rows = ((n, market) for n, market in enumerate(list(self._engine.markets.values()), 1)
                if n > start and keeps(market))
        page, cursor = take_page(rows, limit, lambda row: row[0])
        return _ok({"markets": [market_body(market, self._switches) for _, market in page],
                    "cursor": cursor})

    def market(self, call: RestCall) -> Answer:
        """GET /markets/{ticker}."""
        return _ok({"market": market_body(self._found(call.params["ticker"]), self._switches)})

    def _found(self, ticker: str) -> Market:
        market = self._engine.markets.get(ticker)
        if market is None:
            raise Refusal(404, "not_found")
        return market

    def orderbook(self, call: RestCall) -> Answer:
        """GET /markets/{ticker}/orderbook."""
        market = self._found(call.params["ticker"])
        depth = call.integer("depth") or 0
        if not 0 <= depth <= 100:
            raise Refusal(400, "invalid_parameters", "depth")
        return _ok({"orderbook_fp": orderbook_body(market, depth)})

    def orderbooks(self, call: RestCall) -> Answer:
        """GET /markets/orderbooks: 1 to 100 tickers."""
        tickers = call.texts("tickers")
        if not 1 <= len(tickers) <= 100:
            raise Refusal(400, "invalid_parameters", "tickers: 1 to 100")
        found = [self._engine.markets[ticker] for ticker in tickers
                 if ticker in self._engine.markets]
        return _ok({"orderbooks": [{"ticker": market.ticker,
                                    "orderbook_fp": orderbook_body(market, 0)}
                                   for market in found]})

    def trades(self, call: RestCall) -> Answer:
        """GET /markets/trades, newest first."""
        limit = call.limit(100, 1000, 0)
        ticker, cursor = call.text("ticker"), call.cursor()
        low, high = call.integer("min_ts"), call.integer("max_ts")
        markets = self._engine.markets
        chosen = [markets[ticker]] if ticker in markets else (
            [] if ticker else list(markets.values()))
        merged = heapq.merge(*(reversed(market.trades) for market in chosen),
                             key=lambda trade: trade.number, reverse=True)
        rows = (trade for trade in merged if (cursor is None or trade.number < cursor)
                and in_window(trade.at_us, low, high) and not call.flag("is_block_trade"))
        page, more = take_page(rows, limit, lambda trade: trade.number)
        return _ok({"trades": [trade_body(trade) for trade in page], "cursor": more})

    def _period(self, call: RestCall) -> tuple[int, int, int]:
        start_s, end_s = call.integer("start_ts"), call.integer("end_ts")
        period = call.integer("period_interval")
        if start_s is None or end_s is None or period not in (1, 60, 1440):
            raise Refusal(400, "invalid_parameters", "start_ts, end_ts, period_interval")
        if (end_s - start_s) // (period * 60) > 10_000:
            raise Refusal(400, "invalid_parameters", "more than 10000 candlesticks")
        return period * 60, start_s, end_s

    def _candles_of(self, market: Market, call: RestCall) -> list[Json]:
        period_s, start_s, end_s = self._period(call)
        rows = market.candles(period_s, start_s, end_s)
        if call.flag("include_latest_before_start"):
            rows = market.candles(period_s, 0, start_s - 1)[-1:] + rows
        return [candle_body(candle) for candle in rows]

    def candles(self, call: RestCall) -> Answer:
        """GET /series/{series}/markets/{ticker}/candlesticks."""
        market = self._found(call.params["ticker"])
        if market.event.series.ticker != call.params["series"]:
            raise Refusal(404, "not_found")
        return _ok({"ticker": market.ticker, "candlesticks": self._candles_of(market, call)})

    def batch_candles(self, call: RestCall) -> Answer:
        """GET /markets/candlesticks: up to 100 tickers."""
        tickers = call.texts("market_tickers")
        if not 1 <= len(tickers) <= 100:
            raise Refusal(400, "invalid_parameters", "market_tickers: 1 to 100")
        found = [self._engine.markets[ticker] for ticker in tickers
                 if ticker in self._engine.markets]
        return _ok({"markets": [{"market_ticker": market.ticker,
                                 "candlesticks": self._candles_of(market, call)}
                                for market in found]})

    def event_candles(self, call: RestCall) -> Answer:
        """GET /series/{series}/events/{ticker}/candlesticks."""
        event = self._found_event(call.params["ticker"])
        _, _, end_s = self._period(call)
        return _ok({"market_tickers": [market.ticker for market in event.markets],
                    "market_candlesticks": [self._candles_of(market, call)
                                            for market in event.markets],
                    "adjusted_end_ts": end_s})

    def _found_event(self, ticker: str) -> Event:
        event = self._engine.events.get(ticker)
        if event is None:
            raise Refusal(404, "not_found")
        return event

    def _with_markets(self, event: Event) -> list[Json]:
        return [market_body(market, self._switches) for market in event.markets]

    def events(self, call: RestCall) -> Answer:
        """GET /events; an event matches a status when any of its markets does."""
        limit = call.limit(200, 200)
        words = _STATUS_WORDS.get(call.choice("status", ("unopened", "open", "closed", "settled")))
        series, tickers = call.text("series_ticker"), set(call.texts("tickers"))
        close_s, updated_s = call.integer("min_close_ts"), call.integer("min_updated_ts")
        start = call.cursor() or 0

        def keeps(event: Event) -> bool:
            return ((not series or event.series.ticker == series)
                    and (not tickers or event.ticker in tickers)
                    and (words is None or any(m.status in words for m in event.markets))
                    and (close_s is None or any(m.close_us >= close_s * SECOND_US
                                                for m in event.markets))
                    and (updated_s is None or event.updated_us >= updated_s * SECOND_US))
        rows = ((n, event) for n, event in enumerate(list(self._engine.events.values()), 1)
                if n > start and keeps(event))
        page, cursor = take_page(rows, limit, lambda row: row[0])
        nested = call.flag("with_nested_markets")
        return _ok({"events": [event_body(event) | ({"markets": self._with_markets(event)}
                                                    if nested else {}) for _, event in page],
                    "milestones": [], "cursor": cursor})

    def event(self, call: RestCall) -> Answer:
        """GET /events/{event_ticker}."""
        event = self._found_event(call.params["ticker"])
        nested, excludes = call.flag("with_nested_markets"), call.flag("exclude_markets")
        if nested and excludes:
            raise Refusal(400, "invalid_parameters", "with_nested_markets and exclude_markets")
        body = event_body(event)
        if nested:
            body["markets"] = self._with_markets(event)
        return _ok({"event": body,
                    "markets": [] if nested or excludes else self._with_markets(event)})

    def no_events(self, call: RestCall) -> Answer:
        """GET /events/multivariate: there are no combos here."""
        return _ok({"events": [], "cursor": ""})

    def metadata(self, call: RestCall) -> Answer:
        """GET /events/{event_ticker}/metadata."""
        event = self._found_event(call.params["ticker"])
        return _ok({"image_url": "", "settlement_sources": [],
                    "market_details": [{"market_ticker": market.ticker, "image_url": "",
                                        "color_code": ""} for market in event.markets]})

    def series_list(self, call: RestCall) -> Answer:
        """GET /series."""
        category, changed_s = call.text("category"), call.integer("min_updated_ts") or 0
        rows = [one for one in self._engine.series.values()
                if (not category or one.category == category)
                and one.updated_us >= changed_s * SECOND_US and not call.texts("tags")]
        with_volume = call.flag("include_volume")
        return _ok({"series": [self._series_body(one, with_volume) for one in rows]})

    def _series_body(self, series: Series, with_volume: bool) -> Json:
        if not with_volume:
            return series_body(series)
        return series_body(series, sum(market.volume_h for market in self._engine.markets.values()
                                       if market.event.series is series))

    def series(self, call: RestCall) -> Answer:
        """GET /series/{series_ticker}."""
        series = self._engine.series.get(call.params["ticker"])
        if series is None:
            raise Refusal(404, "not_found")
        return _ok({"series": self._series_body(series, call.flag("include_volume"))})

    def fee_changes(self, call: RestCall) -> Answer:
        """GET /series/fee_changes: none is scheduled."""
        return _ok({"series_fee_change_arr": []})

    def event_fee_changes(self, call: RestCall) -> Answer:
        """GET /events/fee_changes: none is scheduled."""
        return _ok({"event_fee_changes": [], "cursor": ""})

    def no_markets(self, call: RestCall) -> Answer:
        """GET /historical/markets: everything of this run is still live."""
        call.limit(100, 1000)
        return _ok({"markets": [], "cursor": ""})

    def no_trades(self, call: RestCall) -> Answer:
        """GET /historical/trades."""
        call.limit(100, 1000)
        return _ok({"trades": [], "cursor": ""})

    def not_found(self, call: RestCall) -> Answer:
        """What this exchange does not have."""
        raise Refusal(404, "not_found")


def _within(market: Market, family: str, low_s: int | None, high_s: int | None) -> bool:
    moment_us = {"created": market.created_us, "close": market.close_us,
                 "settled": market.settled_us, "updated": market.updated_us}[family]
    return moment_us is not None and in_window(moment_us, low_s, high_s)


def in_window(at_us: int, low_s: int | None, high_s: int | None) -> bool:
    """True within [low, high] seconds; None: open end."""
    return ((low_s is None or at_us >= low_s * SECOND_US)
            and (high_s is None or at_us <= high_s * SECOND_US + SECOND_US - 1))


# ======================================================================================
# §E10c ACCOUNT READS
# Purpose:   Balance, positions, orders, fills and settlements as of a moment ago.
# Position:  Uses §E01 to §E10a. Called through §E10f.
# Principle: Reads lag behind writes, say how far, and never go back.
# ======================================================================================
class Lag:
    """How far account reads lag behind writes: the as-of time, which never goes back."""

    def __init__(self, switches: Switches, rng: random.Random) -> None:
        self._switches, self._rng = switches, rng
        self._as_of_us = 0

    def as_of_us(self, now_us: int) -> int:
        """The moment the next account read shows."""
        low, _, high = self._switches.rule["read_lag_ms"].rpartition("-")
        lag_us = 1000.0 * (self._rng.uniform(float(low), float(high)) if low else float(high))
        self._as_of_us = max(self._as_of_us, now_us - int(min(lag_us, READ_LAG_MAX_US)))
        return self._as_of_us


class PortfolioReads:
    """The account as of a moment a little ago."""

    def __init__(self, engine: Engine, switches: Switches, lag: Lag) -> None:
        self._engine, self._switches, self._lag = engine, switches, lag

    def routes(self) -> list[Route]:
        """The endpoints of this part; all need a signature."""
        rows = [
            ("/portfolio/positions", self.positions), ("/portfolio/orders", self.orders),
            ("/portfolio/orders/queue_positions", self.queue_positions),
            ("/portfolio/orders/{order_id}/queue_position", self.queue_position),
            ("/portfolio/fills", self.fills), ("/portfolio/settlements", self.settlements),
            ("/portfolio/summary/total_resting_order_value", self.resting_value),
            ("/portfolio/deposits", self.deposits), ("/portfolio/withdrawals", self.withdrawals),
            ("/historical/fills", self.no_fills), ("/historical/orders", self.no_orders),
            ("/historical/positions", self.no_positions),
        ]
        table = [Route("GET", path, run.__name__, run) for path, run in rows]
        return [*table,
                Route("GET", "/portfolio/balance", "balance", self.balance, bucket="balance",
                      cost=1),
                Route("GET", "/portfolio/orders/{order_id}", "order", self.order, cost=2)]

    def _as_of_us(self) -> int:
        return self._lag.as_of_us(self._engine.now_us)

    def _account(self, call: RestCall) -> Account:
        call.shard()
        return self._engine.account_of(call.integer("subaccount") or 0)

    def balance(self, call: RestCall) -> Answer:
        """GET /portfolio/balance: cash, and the positions marked."""
        account, as_of_us = self._account(call), self._as_of_us()
        cash_ud = account.cash_versions.at(as_of_us)
        cash_ud = account.cash_ud if cash_ud is None else cash_ud
        if self._switches.is_on("reserve_at_placement"):
            cash_ud -= self._reserved_ud(account, as_of_us)
        worth_ud = sum(self._worth_ud(ticker, position.versions.at(as_of_us))
                       for ticker, position in account.positions.items())
        return _ok({"balance": cash_ud // 10_000, "balance_dollars": money4_text(cash_ud),
                    "portfolio_value": worth_ud // 10_000,
                    "updated_ts": account.updated_us // SECOND_US,
                    "balance_breakdown": [{"exchange_index": 0, "balance": money4_text(cash_ud)}]})

    def _reserved_ud(self, account: Account, as_of_us: int) -> int:
        """What resting orders locked at that moment: this read lags like every other."""
        total_ud = 0
        for order in self._engine.orders.values():
            state = order.versions.at(as_of_us) if order.account is account else None
            if state is None or state.status != "resting":
                continue
            held = account.positions.get(order.market.ticker)
            position = None if held is None else held.versions.at(as_of_us)
            total_ud += collateral_ud(0 if position is None else position.position_h, order.is_bid,
                                      state.remaining_h, state.price_cc)
        return total_ud

    def _worth_ud(self, ticker: str, state: PositionState | None) -> int:
        if state is None or not state.position_h:
            return 0
        market = self._engine.markets[ticker]
        rule = self._switches.rule["portfolio_mark"]
        if rule == "cost":
            return state.cost_ud
        bid_cc, ask_cc, _, _ = market.quotes()
        is_long = state.position_h > 0
        mark_cc = (bid_cc if is_long else ask_cc) if rule == "bid" else market.last_cc
        if market.value_cc is not None:
            mark_cc = market.value_cc
        return abs(state.position_h) * (mark_cc if is_long else DOLLAR_CC - mark_cc)

    def positions(self, call: RestCall) -> Answer:
        """GET /portfolio/positions: default unsettled, also flat ones that traded."""
        account, as_of_us = self._account(call), self._as_of_us()
        limit, start = call.limit(100, 1000), call.cursor() or 0
        wanted = call.choice("settlement_status", ("unsettled", "settled", "all")) or "unsettled"
        filters = call.texts("count_filter")
        rows = []
        for n, (ticker, position) in enumerate(account.positions.items(), 1):
            state = position.versions.at(as_of_us)
            if n > start and state is not None and self._keeps_position(call, ticker, state,
                                                                        wanted, filters):
                rows.append((n, ticker, state))
        page, cursor = take_page(rows, limit, lambda row: row[0])
        by_event: dict[str, list[PositionState]] = {}
        for _, ticker, state in page:
            by_event.setdefault(self._engine.markets[ticker].event.ticker, []).append(state)
        return _ok({"cursor": cursor,
                    "market_positions": [position_body(ticker, state) for _, ticker, state in page],
                    "event_positions": [event_position_body(ticker, states)
                                        for ticker, states in by_event.items()]})

    def _keeps_position(self, call: RestCall, ticker: str, state: PositionState, wanted: str,
                        filters: list[str]) -> bool:
        event = call.text("event_ticker")
        if call.text("ticker") not in ("", ticker):
            return False
        if event and self._engine.markets[ticker].event.ticker != event:
            return False
        if wanted != "all" and state.is_settled != (wanted == "settled"):
            return False
        values = {"position": state.position_h, "total_traded": state.traded_ud}
        return all(values.get(name, 1) for name in filters)

    def _order_rows(self, call: RestCall) -> Iterator[tuple[MemberOrder, OrderState]]:
        """Orders that match the query, newest first, as they were a moment ago."""
        as_of_us, cursor = self._as_of_us(), call.cursor()
        status = call.choice("status", ("resting", "canceled", "executed"))
        tickers, events = call.texts("ticker"), call.texts("event_ticker")
        low, high = call.integer("min_ts"), call.integer("max_ts")
        subaccount = call.integer("subaccount")
        call.shard()
        only = self._engine.markets.get(tickers[0]) if len(tickers) == 1 else None
        listed = self._engine.orders if only is None else only.orders
        for order in reversed(listed.values()):
            if cursor is not None and order.serial >= cursor:
                continue
            if subaccount is not None and order.account.subaccount != subaccount:
                continue
            state = order.versions.at(as_of_us)
            if state is None or (status and state.status != status):
                continue
            if (tickers and order.market.ticker not in tickers) or (
                    events and order.market.event.ticker not in events):
                continue
            if in_window(order.created_us, low, high):
                yield order, state

    def orders(self, call: RestCall) -> Answer:
        """GET /portfolio/orders, newest first."""
        page, cursor = take_page(self._order_rows(call), call.limit(100, 1000),
                                 lambda row: row[0].serial)
        user_id = self._engine.user_id
        return _ok({"orders": [order_body(order, state, user_id) for order, state in page],
                    "cursor": cursor})

    def order(self, call: RestCall) -> Answer:
        """GET /portfolio/orders/{order_id}."""
        order = self._engine.orders.get(call.params["order_id"])
        state = order.versions.at(self._as_of_us()) if order is not None else None
        if order is None or state is None:
            raise Refusal(404, "not_found")
        return _ok({"order": order_body(order, state, self._engine.user_id)})

    def queue_positions(self, call: RestCall) -> Answer:
        """GET /portfolio/orders/queue_positions."""
        tickers, event = call.texts("market_tickers"), call.text("event_ticker")
        if not tickers and not event:
            raise Refusal(400, "invalid_parameters", "market_tickers or event_ticker")
        account = self._account(call)
        rows = [order for order in self._engine.open.values() if order.account is account
                and (order.market.ticker in tickers or order.market.event.ticker == event)]
        return _ok({"queue_positions": [
            {"order_id": order.order_id, "market_ticker": order.market.ticker,
             "queue_position_fp": count_text(self._engine.queue_ahead_h(order))}
            for order in rows]})

    def queue_position(self, call: RestCall) -> Answer:
        """GET /portfolio/orders/{order_id}/queue_position."""
        order = self._engine.open_order(call.params["order_id"])
        return _ok({"queue_position_fp": count_text(self._engine.queue_ahead_h(order))})

    def fills(self, call: RestCall) -> Answer:
        """GET /portfolio/fills, newest first."""
        as_of_us, cursor = self._as_of_us(), call.cursor()
        tickers, order_id = call.texts("ticker"), call.text("order_id")
        low, high = call.integer("min_ts"), call.integer("max_ts")
        subaccount = call.integer("subaccount")
        rows = (fill for fill in reversed(self._engine.fills)
                if fill.at_us <= as_of_us and (cursor is None or fill.number < cursor)
                and (not tickers or fill.ticker in tickers)
                and (not order_id or fill.order_id == order_id)
                and (subaccount is None or fill.subaccount == subaccount)
                and in_window(fill.at_us, low, high))
        page, more = take_page(rows, call.limit(100, 1000), lambda fill: fill.number)
        return _ok({"fills": [fill_body(fill, self._switches) for fill in page], "cursor": more})

    def settlements(self, call: RestCall) -> Answer:
        """GET /portfolio/settlements, newest first."""
        cursor, ticker, event = call.cursor(), call.text("ticker"), call.text("event_ticker")
        low, high = call.integer("min_ts"), call.integer("max_ts")
        as_of_us, subaccount = self._as_of_us(), call.integer("subaccount")
        rows = (row for row in reversed(self._engine.settlements)
                if row.at_us <= as_of_us and (cursor is None or row.number < cursor)
                and (not ticker or row.ticker == ticker)
                and (not event or row.event_ticker == event)
                and (subaccount is None or row.subaccount == subaccount)
                and in_window(row.at_us, low, high))
        page, more = take_page(rows, call.limit(100, 1000), lambda row: row.number)
        return _ok({"settlements": [settlement_body(row) for row in page], "cursor": more})

    def resting_value(self, call: RestCall) -> Answer:
        """GET /portfolio/summary/total_resting_order_value."""
        value_ud = sum(self._engine.reserved_ud(account)
                       for account in self._engine.accounts.values())
        return _ok({"total_resting_order_value": value_ud // 10_000,
                    "resting_order_value_breakdown": [{"exchange_index": 0,
                                                       "balance": money4_text(value_ud)}]})

    def deposits(self, call: RestCall) -> Answer:
        """GET /portfolio/deposits."""
        call.limit(100, 500)
        return _ok({"deposits": [], "cursor": ""})

    def withdrawals(self, call: RestCall) -> Answer:
        """GET /portfolio/withdrawals."""
        call.limit(100, 500)
        return _ok({"withdrawals": [], "cursor": ""})

    def no_fills(self, call: RestCall) -> Answer:
        """GET /historical/fills: everything of this run is still live."""
        return _ok({"fills": [], "cursor": ""})

    def no_orders(self, call: RestCall) -> Answer:
        """GET /historical/orders."""
        return _ok({"orders": [], "cursor": ""})

    def no_positions(self, call: RestCall) -> Answer:
        """GET /historical/positions."""
        return _ok({"market_positions": [], "event_positions": [], "cursor": ""})


# ======================================================================================
# §E10d ORDER WRITES
# Purpose:   The V2 order calls, single and in batches, and the grave of V1.
# Position:  Uses §E01 to §E10a. Called through §E10f.
# Principle: A write answers what it did, without lag.
# ======================================================================================
class OrderWrites:
    """Orders and order groups: the V2 writes, and the grave of V1."""

    def __init__(self, engine: Engine, switches: Switches) -> None:
        self._engine, self._switches = engine, switches

    def routes(self) -> list[Route]:
        """The endpoints of this part; all need a signature and draw on the write bucket."""
        root, one = "/portfolio/events/orders", "/portfolio/events/orders/{order_id}"

        def write(method: str, path: str, run: Callable[[RestCall], Answer], cost: int = 10,
                  is_batch: bool = False) -> Route:
            return Route(method, path, run.__name__, run, bucket="write", cost=cost,
                         is_batch=is_batch, is_order_write=True)
        old = "/portfolio/orders"
        dead = [("POST", old), ("POST", f"{old}/batched"), ("DELETE", f"{old}/batched"),
                ("DELETE", f"{old}/{{order_id}}"), ("POST", f"{old}/{{order_id}}/amend"),
                ("POST", f"{old}/{{order_id}}/decrease")]
        return [
            write("POST", root, self.create), write("DELETE", root, self.cancel_all, 2),
            write("POST", f"{root}/batched", self.batch_create, is_batch=True),
            write("DELETE", f"{root}/batched", self.batch_cancel, 2, is_batch=True),
            write("DELETE", one, self.cancel, 2), write("POST", f"{one}/amend", self.amend),
            write("POST", f"{one}/decrease", self.decrease),
            *(Route(method, path, "deprecated", self.deprecated, bucket="write")
              for method, path in dead),
        ]

    def deprecated(self, call: RestCall) -> Answer:
        """V1 order writes are dead."""
        raise Refusal(410, "deprecated_v1_order_endpoint")

    def create(self, call: RestCall) -> Answer:
        """POST /portfolio/events/orders."""
        order = self._engine.create(decode_create(load_object(call.body, CREATE_FORM.struct),
                                                  self._switches))
        return Answer(201, self._created(order))

    @staticmethod
    def _created(order: MemberOrder) -> Json:
        body: Json = {"order_id": order.order_id, "fill_count": count_text(order.filled_h),
                      "remaining_count": count_text(
                          order.remaining_h if order.status == "resting" else 0),
                      "ts_ms": order.updated_us // 1000}
        if order.client_order_id:
            body["client_order_id"] = order.client_order_id
        if order.filled_h:
            body |= average_texts(order, count_h=order.filled_h, cost_ud=order.cost_on_yes_ud,
                                  fees_ud=order.fees_ud)
        return body

    def cancel(self, call: RestCall) -> Answer:
        """DELETE /portfolio/events/orders/{order_id}."""
        self._check_address(call)
        order, gone_h = self._engine.cancel(call.params["order_id"],
                                            call.integer("subaccount") or 0)
        return _ok(self._cancelled(order, gone_h))

    def _check_address(self, call: RestCall) -> None:
        call.shard()
        ticker, order = call.text("market_ticker"), self._engine.open.get(call.params["order_id"])
        if ticker and order is not None and order.market.ticker != ticker:
            raise Refusal(404, "not_found")

    @staticmethod
    def _cancelled(order: MemberOrder, gone_h: int) -> Json:
        body: Json = {"order_id": order.order_id, "reduced_by": count_text(gone_h),
                      "ts_ms": order.updated_us // 1000}
        if order.client_order_id:
            body["client_order_id"] = order.client_order_id
        return body

    def cancel_all(self, call: RestCall) -> Answer:
        """DELETE /portfolio/events/orders."""
        subaccount = call.integer("subaccount")
        engine = self._engine
        engine.cancel_all(subaccount)
        tail_us = int(self._switches.number("cancel_all_tail_s") * SECOND_US)
        if tail_us:
            engine.at(engine.now_us + tail_us, lambda: self._sweep_again(subaccount))
        return Answer(204, None)

    def _sweep_again(self, subaccount: int | None) -> None:
        if not self._engine.is_exchange_paused:
            self._engine.cancel_all(subaccount)

    def amend(self, call: RestCall) -> Answer:
        """POST /portfolio/events/orders/{order_id}/amend."""
        change = decode_amend(load_object(call.body, AMEND_FORM.struct),
                              call.integer("subaccount"), self._switches)
        order = self._engine.open_order(call.params["order_id"], change.subaccount)
        before = (order.filled_h, order.cost_on_yes_ud, order.fees_ud)
        order, has_moved = self._engine.amend(order.order_id, change)
        filled_h = order.filled_h - before[0]
        body: Json = {"order_id": order.order_id, "remaining_count": None, "fill_count": None,
                      "average_fill_price": None, "average_fee_paid": None,
                      "ts_ms": order.updated_us // 1000}
        if order.client_order_id:
            body["client_order_id"] = order.client_order_id
        if has_moved:
            left_h = order.remaining_h if order.status == "resting" else 0
            body |= {"remaining_count": count_text(left_h), "fill_count": count_text(filled_h)}
        if filled_h:
            body |= average_texts(order, count_h=filled_h, cost_ud=order.cost_on_yes_ud - before[1],
                                  fees_ud=order.fees_ud - before[2])
        return _ok(body)

    def decrease(self, call: RestCall) -> Answer:
        """POST /portfolio/events/orders/{order_id}/decrease."""
        fields = read_form(load_object(call.body, DECREASE_FORM.struct), DECREASE_FORM,
                           self._switches)
        check_shard(fields)
        if ("reduce_by" in fields) == ("reduce_to" in fields):
            raise Refusal(400, "invalid_parameters", "exactly one of reduce_by and reduce_to")
        ticker = text_of(fields, "market_ticker")
        order = self._engine.open_order(call.params["order_id"], call.integer("subaccount"))
        if ticker and order.market.ticker != ticker:
            raise Refusal(404, "not_found")
        by_h = count_of(fields, "reduce_by") if "reduce_by" in fields else None
        to_h = count_of(fields, "reduce_to") if "reduce_to" in fields else None
        order = self._engine.decrease(order.order_id, by_h=by_h, to_h=to_h)
        left_h = order.remaining_h if order.status == "resting" else 0
        body: Json = {"order_id": order.order_id, "remaining_count": count_text(left_h),
                      "ts_ms": order.updated_us // 1000}
        if order.client_order_id:
            body["client_order_id"] = order.client_order_id
        return _ok(body)

    def _items(self, call: RestCall) -> list[object]:
        fields = read_form(load_object(call.body, BATCH_FORM.struct), BATCH_FORM, self._switches)
        items = fields["orders"]
        assert isinstance(items, list), "the form has checked the kind"
        if not items:
            raise Refusal(400, "invalid_parameters", "orders is empty")
        return items

    def batch_create(self, call: RestCall) -> Answer:
        """POST /portfolio/events/orders/batched: not atomic, in order."""
        requests = [read_form(item, CREATE_FORM, self._switches) for item in self._items(call)]
        paid = len(requests) if call.allowed is None else call.allowed
        entries = [self._create_entry(fields, n < paid) for n, fields in enumerate(requests)]
        has_failed = all(entry["error"] is not None for entry in entries)
        return Answer(int(self._switches.rule["batch_status"]) if has_failed else 201,
                      {"orders": entries})

    def _create_entry(self, fields: Json, is_paid: bool) -> Json:
        empty: Json = {"fill_count": None, "remaining_count": None, "average_fill_price": None,
                       "average_fee_paid": None, "ts_ms": None, "error": None}
        try:
            if not is_paid:
                raise Refusal(429, "too_many_requests")
            return empty | self._created(self._engine.create(decode_create(fields,
                                                                           self._switches)))
        except Refusal as refusal:
            entry = empty | {"error": refusal.entry()}
            if self._switches.is_on("batch_error_has_client_id"):
                entry["client_order_id"] = text_of(fields, "client_order_id")
            return entry

    def batch_cancel(self, call: RestCall) -> Answer:
        """DELETE /portfolio/events/orders/batched."""
        items = [read_form(item, BATCH_CANCEL_ITEM, self._switches) for item in self._items(call)]
        paid = len(items) if call.allowed is None else call.allowed
        return _ok({"orders": [self._cancel_entry(fields, n < paid)
                               for n, fields in enumerate(items)]})

    def _cancel_entry(self, fields: Json, is_paid: bool) -> Json:
        order_id = text_of(fields, "order_id")
        subaccount = int_of(fields, "subaccount")
        try:
            if not is_paid:
                raise Refusal(429, "too_many_requests")
            check_shard(fields)
            return self._cancelled(*self._engine.cancel(order_id, subaccount))
        except Refusal as refusal:
            return {"order_id": order_id, "reduced_by": "0.00", "ts_ms": None,
                    "error": refusal.entry()}


# ======================================================================================
# §E10e ACCOUNT CALLS
# Purpose:   Order groups, subaccounts, limits, keys.
# Position:  Uses §E01 to §E10a. Called through §E10f.
# Principle: What one shard and one key cannot do is refused, not pretended.
# ======================================================================================
class AccountCalls:
    """Order groups, subaccounts, limits, keys."""

    def __init__(self, engine: Engine, switches: Switches, gate: Gate, tier: str) -> None:
        self._engine, self._switches, self._gate, self._tier = engine, switches, gate, tier
        self._transfers: list[Json] = []
        self._netting: dict[int, bool] = {0: False}

    def routes(self) -> list[Route]:
        """The endpoints of this part; all but the cost table need a signature."""
        groups, group = "/portfolio/order_groups", "/portfolio/order_groups/{group_id}"
        subs = "/portfolio/subaccounts"

        def read(path: str, run: Callable[[RestCall], Answer]) -> Route:
            return Route("GET", path, run.__name__, run)

        def write(method: str, path: str, run: Callable[[RestCall], Answer]) -> Route:
            return Route(method, path, run.__name__, run, bucket="write")
        return [
            read("/account/limits", self.account_limits), read("/api_keys", self.api_keys),
            Route("GET", "/account/endpoint_costs", "endpoint_costs", self.endpoint_costs,
                  is_signed=False),
            read("/account/api_usage_level/volume_progress", self.volume_progress),
            write("POST", f"{groups}/create", self.create_group), read(groups, self.groups),
            read(group, self.group), write("DELETE", group, self.delete_group),
            write("PUT", f"{group}/limit", self.limit_group),
            write("PUT", f"{group}/reset", self.reset_group),
            write("PUT", f"{group}/trigger", self.trigger_group),
            write("POST", subs, self.create_subaccount),
            write("POST", f"{subs}/transfer", self.transfer),
            read(f"{subs}/balances", self.balances), read(f"{subs}/transfers", self.transfers),
            read(f"{subs}/netting", self.netting), write("PUT", f"{subs}/netting",
                                                         self.set_netting),
            read("/portfolio/intra_exchange_instance_transfers", self.no_transfers),
            read("/portfolio/target_balance_allocation", self.allocation),
        ]

    def account_limits(self, call: RestCall) -> Answer:
        """GET /account/limits: the real refill rates and capacities."""
        tier = TIERS[self._tier] or _tier(1_000_000, 1_000_000)
        return _ok({"usage_tier": self._tier if self._tier != "off" else "prestige",
                    "read": {"refill_rate": tier.read_rate, "bucket_capacity": tier.read_capacity},
                    "write": {"refill_rate": tier.write_rate,
                              "bucket_capacity": tier.write_capacity}, "grants": []})

    def endpoint_costs(self, call: RestCall) -> Answer:
        """GET /account/endpoint_costs: those that do not cost the default."""
        root = f"{REST_ROOT}/portfolio"
        rows = [("DELETE", f"{root}/events/orders", 2),
                ("DELETE", f"{root}/events/orders/batched", 2),
                ("DELETE", f"{root}/events/orders/{{order_id}}", 2),
                ("GET", f"{root}/orders/{{order_id}}", 2)]
        return _ok({"default_cost": 10, "endpoint_costs": [
            {"method": method, "path": path, "cost": cost} for method, path, cost in rows]})

    def api_keys(self, call: RestCall) -> Answer:
        """GET /api_keys."""
        return _ok({"api_keys": [{"api_key_id": key_id, "name": "simulated",
                                  "scopes": self._gate.scopes} for key_id in self._gate.keys]})

    def volume_progress(self, call: RestCall) -> Answer:
        """GET /account/api_usage_level/volume_progress."""
        traded_h = sum(fill.count_h for fill in self._engine.fills)
        return _ok({"volume_progress": [{
            "computed_ts": self._engine.now_us // SECOND_US,
            "trailing_30d_volume_fp": count_text(traded_h),
            "goals": [{"level": "expert", "earn_volume_goal_fp": "100000.00",
                       "keep_volume_goal_fp": "50000.00"}]}]})

    def _limit_of(self, call: RestCall) -> tuple[int, Json]:
        fields = read_form(load_object(call.body, GROUP_FORM.struct), GROUP_FORM, self._switches)
        check_shard(fields)
        whole = fields.get("contracts_limit")
        exact_h = count_of(fields, "contracts_limit_fp") if "contracts_limit_fp" in fields else None
        whole_h = whole * CONTRACT_H if isinstance(whole, int) else None
        limit_h = exact_h if whole_h is None else whole_h
        if limit_h is None or (whole_h is not None and exact_h not in (None, whole_h)):
            raise Refusal(400, "invalid_parameters", "contracts_limit")
        if not CONTRACT_H <= limit_h <= 1_000_000 * CONTRACT_H:
            raise Refusal(400, "invalid_parameters", "contracts_limit")
        return limit_h, fields

    def create_group(self, call: RestCall) -> Answer:
        """POST /portfolio/order_groups/create."""
        limit_h, fields = self._limit_of(call)
        subaccount = int_of(fields, "subaccount")
        group = self._engine.create_group(limit_h, subaccount)
        return Answer(201, {"order_group_id": group.group_id, "subaccount": subaccount,
                            "exchange_index": 0})

    def groups(self, call: RestCall) -> Answer:
        """GET /portfolio/order_groups."""
        subaccount = call.integer("subaccount")
        return _ok({"order_groups": [
            {"id": group.group_id, "contracts_limit_fp": count_text(group.limit_h),
             "is_auto_cancel_enabled": not group.is_triggered, "exchange_index": 0}
            for group in self._engine.groups.values()
            if subaccount is None or group.subaccount == subaccount]})

    def group(self, call: RestCall) -> Answer:
        """GET /portfolio/order_groups/{id}."""
        group = self._engine.group_of(call.params["group_id"])
        return _ok({"is_auto_cancel_enabled": not group.is_triggered,
                    "orders": list(group.order_ids), "exchange_index": 0,
                    "contracts_limit_fp": count_text(group.limit_h)})

    def delete_group(self, call: RestCall) -> Answer:
        """DELETE /portfolio/order_groups/{id}: cancels its orders."""
        self._engine.delete_group(call.params["group_id"])
        return _ok({})

    def limit_group(self, call: RestCall) -> Answer:
        """PUT /portfolio/order_groups/{id}/limit."""
        self._engine.limit_group(call.params["group_id"], self._limit_of(call)[0])
        return _ok({})

    def reset_group(self, call: RestCall) -> Answer:
        """PUT /portfolio/order_groups/{id}/reset."""
        self._engine.reset_group(call.params["group_id"])
        return _ok({})

    def trigger_group(self, call: RestCall) -> Answer:
        """PUT /portfolio/order_groups/{id}/trigger."""
        self._engine.trigger_group(call.params["group_id"])
        return _ok({})

    def create_subaccount(self, call: RestCall) -> Answer:
        """POST /portfolio/subaccounts: Advanced tier and above, up to 63."""
        if self._tier == "basic":
            raise Refusal(403, "subaccount_creation_requires_advanced_api_usage_level")
        engine = self._engine
        number = max(engine.accounts) + 1
        if number > SUBACCOUNTS_MAX:
            raise Refusal(400, "invalid_parameters", "too many subaccounts")
        engine.accounts[number] = Account(number, 0, engine.now_us, self._switches)
        self._netting[number] = False
        return Answer(201, {"subaccount_number": number})

    def transfer(self, call: RestCall) -> Answer:
        """POST /portfolio/subaccounts/transfer."""
        form = BodyForm("ApplySubaccountTransferRequest", {
            "client_transfer_id": ("string", True), "from_subaccount": ("int64", True),
            "to_subaccount": ("int64", True), "amount_cents": ("int64", True),
            "exchange_index": ("int64", False)})
        fields = read_form(load_object(call.body, form.struct), form, self._switches)
        source, target, cents = (int_of(fields, name) for name in
                                 ("from_subaccount", "to_subaccount", "amount_cents"))
        engine = self._engine
        giver, taker = engine.account_of(source), engine.account_of(target)
        if cents <= 0 or giver is taker or cents * 10_000 > giver.cash_ud:
            raise Refusal(400, "insufficient_balance" if cents > 0 else "invalid_parameters")
        giver.move_cash(-cents * 10_000, engine.now_us)
        taker.move_cash(cents * 10_000, engine.now_us)
        self._transfers.insert(0, {
            "transfer_id": text_of(fields, "client_transfer_id"), "from_subaccount": source,
            "to_subaccount": target, "amount_cents": cents, "exchange_index": 0,
            "created_ts": engine.now_us // SECOND_US})
        del self._transfers[TRANSFERS_KEPT_MAX:]
        return _ok({})

    def balances(self, call: RestCall) -> Answer:
        """GET /portfolio/subaccounts/balances."""
        return _ok({"subaccount_balances": [
            {"subaccount_number": number, "exchange_index": 0,
             "balance": money4_text(account.cash_ud),
             "updated_ts": account.updated_us // SECOND_US}
            for number, account in self._engine.accounts.items()]})

    def transfers(self, call: RestCall) -> Answer:
        """GET /portfolio/subaccounts/transfers."""
        return _ok({"transfers": self._transfers[:call.limit(100, 1000)], "cursor": ""})

    def netting(self, call: RestCall) -> Answer:
        """GET /portfolio/subaccounts/netting."""
        return _ok({"netting_configs": [
            {"subaccount_number": number, "enabled": enabled, "exchange_index": 0}
            for number, enabled in self._netting.items()]})

    def set_netting(self, call: RestCall) -> Answer:
        """PUT /portfolio/subaccounts/netting: remembered, without effect here."""
        form = BodyForm("UpdateSubaccountNettingRequest", {
            "subaccount_number": ("int64", True), "enabled": ("bool", True),
            "exchange_index": ("int64", False)})
        fields = read_form(load_object(call.body, form.struct), form, self._switches)
        number = int_of(fields, "subaccount_number")
        self._engine.account_of(number)
        self._netting[number] = bool(fields["enabled"])
        return _ok({})

    def no_transfers(self, call: RestCall) -> Answer:
        """GET /portfolio/intra_exchange_instance_transfers: there is one shard."""
        return _ok({"transfers": [], "cursor": ""})

    def allocation(self, call: RestCall) -> Answer:
        """GET /portfolio/target_balance_allocation."""
        return _ok({"allocations": [{"exchange_index": 0, "percent": 100}],
                    "resting_margin_reservation": "none"})


SUBACCOUNTS_MAX = 63
TRANSFERS_KEPT_MAX = 1_000


# ======================================================================================
# §E10f REST
# Purpose:   Finds the endpoint, lets the request in, runs it, words the refusals.
# Position:  Uses §E01 to §E10e. Called by §E15, which owns the HTTP server.
# Principle: Route, signature and rate first; a Refusal becomes one of four bodies.
# ======================================================================================
class RestApi:
    """Finds the endpoint, lets the request in, runs it, and words the refusals."""

    def __init__(self, engine: Engine, gate: Gate, limits: RateLimits, switches: Switches,
                 routes: list[Route]) -> None:
        self._engine, self._gate, self._limits = engine, gate, limits
        self._switches = switches
        self._static: dict[tuple[str, str], Route] = {}
        self._shapes: dict[tuple[str, int], list[tuple[list[str], Route]]] = {}
        for route in routes:
            if "{" not in route.template:
                self._static[route.method, route.template] = route
            else:
                parts = route.template.split("/")
                self._shapes.setdefault((route.method, len(parts)), []).append((parts, route))

    def find(self, call: RestCall) -> Route:
        """The endpoint of a request; a 404 when there is none."""
        if not call.path.startswith(REST_ROOT + "/"):
            raise Refusal(404, "not_found")
        path = call.path[len(REST_ROOT):].rstrip("/")
        route = self._static.get((call.method, path))
        if route is not None:
            return route
        parts = path.split("/")
        for shape, candidate in self._shapes.get((call.method, len(parts)), []):
            if all(want.startswith("{") or want == got
                   for want, got in zip(shape, parts, strict=True)):
                call.params = {want[1:-1]: got for want, got in zip(shape, parts, strict=True)
                               if want.startswith("{")}
                return candidate
        raise Refusal(404, "not_found")

    def admit(self, call: RestCall) -> Route:
        """Route, signature and rate; a Refusal when any says no."""
        now_us = self._engine.now_us
        route = self.find(call)
        call.operation = "Get" + "".join(part.capitalize() for part in route.name.split("_"))
        if route.is_signed:
            self._gate.check(call.method, call.raw_path, call.headers, now_us)
            if ("write" if route.bucket == "write" else "read") not in self._gate.scopes:
                raise Refusal(403, self._switches.rule["forbidden_code"])
        if route.is_signed or call.headers.get("KALSHI-ACCESS-KEY"):
            self._charge(route, call, now_us)
        if call.body and call.headers.get("Content-Type", "application/json").partition(
                ";")[0].strip() != "application/json":
            raise Refusal(400, "invalid_content_type", shape="flat")
        return route

    def _charge(self, route: Route, call: RestCall, now_us: int) -> None:
        """Bill a request; a batch as a whole, or item by item as far as the tokens go."""
        items = _batch_size(call.body) if route.is_batch else 1
        if items == 1 or self._switches.rule["batch_over_bucket"] == "refused":
            self._limits.charge(route.bucket, route.cost * items, now_us)
            return
        self._limits.charge(route.bucket, route.cost, now_us)
        call.allowed = 1
        with suppress(Refusal):
            while call.allowed < items:
                self._limits.charge(route.bucket, route.cost, now_us)
                call.allowed += 1

    def run(self, route: Route, call: RestCall) -> Answer:
        """The answer of an admitted request."""
        try:
            return route.run(call)
        except Refusal as refusal:
            return Answer(refusal.status, refusal.body())

    def answer(self, call: RestCall) -> Answer:
        """Admit and run at once."""
        try:
            return self.run(self.admit(call), call)
        except Refusal as refusal:
            return Answer(refusal.status, refusal.body())


def _batch_size(body: bytes) -> int:
    """How many items a batch body holds; 1 when it is no batch."""
    try:
        return max(1, len(orjson.loads(body)["orders"]))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 1


# ======================================================================================
# §E11a SESSIONS
# Purpose:   WebSocket connections: commands, subscriptions, sequence numbers.
# Position:  Uses §E01 to §E08. Made by §E11b; §E15 owns the sockets.
# Principle: Every command is answered, and every frame of a numbered sid counts.
# ======================================================================================
SEQUENCED = frozenset({"orderbook_delta", "trade", "market_lifecycle_v2", "communications",
                       "multivariate_market_lifecycle", "order_group_updates", "pyth_value",
                       "cfbenchmarks_value", "cfbenchmarks_value_5hz"})
UNNUMBERED = frozenset({"ticker", "fill", "user_orders", "market_positions"})
BY_MARKET = frozenset({"orderbook_delta", "ticker", "trade", "fill", "user_orders",
                       "market_positions"})
CHANNELS = SEQUENCED | UNNUMBERED
COMMANDS_PER_SECOND_MAX = 10_000
MARKETS_PER_SESSION_MAX = 500_000

WS_ERRORS = {
    1: "Unable to process message", 2: "Params required", 3: "Channels required",
    4: "Subscription IDs required", 5: "Unknown command", 7: "Unknown subscription ID",
    8: "Unknown channel name", 9: "Authentication required", 10: "Channel error",
    11: "Invalid parameter", 12: "Exactly one subscription ID is required",
    13: "Unsupported action", 14: "Market Ticker required", 15: "Action required",
    18: "Command timeout", 19: "shard_factor must be > 0",
    20: "shard_factor is required when shard_key is set",
    21: "shard_key must be >= 0 and < shard_factor", 22: "shard_factor must be <= 100",
    25: "Subscription buffer overflow", 26: "Subscription market limit exceeded",
    27: "Too many requests",
}


class StreamError(Exception):
    """A command is answered with an error code; `more` goes into its msg."""

    def __init__(self, code: int, **more: object) -> None:
        super().__init__(f"{code} {WS_ERRORS[code]}")
        self.code, self.more = code, more


class Subscription:
    """One sid of one session. `tickers` None: all markets."""

    __slots__ = (
        "channel",
        "has_seq",
        "seq",
        "session",
        "sid",
        "skips_ack",
        "tickers",
        "uses_yes_price",
    )

    def __init__(self, session: Session, sid: int, channel: str,
                 tickers: dict[str, None] | None) -> None:
        self.session, self.sid, self.channel, self.tickers = session, sid, channel, tickers
        self.seq = 0
        self.has_seq = channel in SEQUENCED
        self.uses_yes_price = self.skips_ack = False

    def send(self, kind: str, body: str, command_id: int = 0) -> None:
        """Put one data message on the wire, numbered where the channel is."""
        numbered = ""
        if self.has_seq:
            self.seq += 1
            numbered = f',"seq":{self.seq}'
        echoed = f',"id":{command_id}' if command_id else ""
        self.session.push(f'{{"type":"{kind}"{echoed},"sid":{self.sid}{numbered}'
                          f'{self.session.hub.stamp},"msg":{body}}}\n')


def frame_bytes(payload: bytes) -> bytes:
    """One unmasked WebSocket text frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


_FRAME_HEADS = tuple(b"\x81\x7e" + size.to_bytes(2, "big") for size in range(65_536))


class Session:
    """One WebSocket connection: reads commands, buffers frames until `flush`."""

    def __init__(self, hub: Hub, write: Callable[[bytes], None]) -> None:
        self.hub, self._write = hub, write
        self.subscriptions: dict[int, Subscription] = {}
        self.by_channel: dict[str, Subscription] = {}
        self.tamper: Tamper | None = None
        self._sids = 0
        self._out: list[bytes] = []
        self._second, self._commands = 0, 0

    def push(self, text: str) -> None:
        """Queue one frame; a tampering control may change, hold or lose it."""
        if self.tamper is not None:
            for changed in self.tamper.pass_on(text):
                self._out.append(frame_bytes(changed.encode()))
            return
        payload = text.encode()
        size = len(payload)
        if 126 <= size < 65_536:                        # nearly every frame, without a call
            self._out += (_FRAME_HEADS[size], payload)
        else:
            self._out.append(frame_bytes(payload))

    def flush(self) -> None:
        """Write everything queued in one piece."""
        if self._out:
            joined = b"".join(self._out)
            self._out.clear()
            self._write(joined)

    def receive(self, text: str | bytes) -> None:
        """Act on one command frame."""
        self.hub.flush()
        command_id = 0
        try:
            command = self._parse(text)
            given = command.get("id", 0)
            if type(given) is not int:
                raise StreamError(1)
            command_id = given
            self._count_command()
            self._run(command, command_id)
        except StreamError as error:
            self._error(error, command_id)
        self.flush()

    def _parse(self, text: str | bytes) -> Json:
        try:
            command = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise StreamError(1) from error
        if not isinstance(command, dict):
            raise StreamError(1)
        return command

    def _count_command(self) -> None:
        second = self.hub.engine.now_us // SECOND_US
        if second != self._second:
            self._second, self._commands = second, 0
        self._commands += 1
        if self._commands > COMMANDS_PER_SECOND_MAX:
            raise StreamError(27)

    def _run(self, command: Json, command_id: int) -> None:
        name = command.get("cmd")
        if name == "list_subscriptions":
            rows = [{"channel": sub.channel, "sid": sub.sid}
                    for sub in self.subscriptions.values()]
            self._reply("ok", command_id, {"msg": rows})
            return
        run = {"subscribe": self._subscribe, "unsubscribe": self._unsubscribe,
               "update_subscription": self._update}.get(str(name))
        if run is None:
            raise StreamError(5)
        params = command.get("params")
        if not isinstance(params, dict):
            raise StreamError(2)
        run(params, command_id)

    def _reply(self, kind: str, command_id: int, more: Json) -> None:
        body: Json = {"type": kind}
        if command_id:
            body["id"] = command_id
        if self.hub.stamp:
            body["sending_ts_ms"] = (self.hub.engine.now_us + self.hub.shift_us) // 1000
        self.push(orjson.dumps(body | more).decode() + "\n")

    def _error(self, error: StreamError, command_id: int) -> None:
        self._reply("error", command_id,
                    {"msg": {"code": error.code, "msg": WS_ERRORS[error.code], **error.more}})

    def _tickers(self, params: Json) -> dict[str, None] | None:
        """The markets a command names; None when it names none."""
        single, many = params.get("market_ticker"), params.get("market_tickers")
        if single is not None and many is not None:
            raise StreamError(11)
        if single is not None:
            many = [single]
        if many is None:
            return self._tickers_by_id(params)
        if not isinstance(many, list) or not all(isinstance(item, str) for item in many):
            raise StreamError(1)
        return self._known_tickers(many)

    def _known_tickers(self, tickers: list[str]) -> dict[str, None]:
        markets = self.hub.engine.markets
        unknown = [ticker for ticker in tickers if ticker not in markets]
        if unknown and self.hub.switches.rule["unknown_ticker_on_ws"] == "error_11":
            raise StreamError(11, market_ticker=unknown[0])
        return {ticker: None for ticker in tickers if ticker in markets}

    def _tickers_by_id(self, params: Json) -> dict[str, None] | None:
        ids = params.get("market_ids", [params["market_id"]] if "market_id" in params else None)
        if ids is None:
            return None
        if not isinstance(ids, list):
            raise StreamError(1)
        known = {market.market_id: market.ticker for market in self.hub.engine.markets.values()}
        return self._known_tickers([known.get(str(item), str(item)) for item in ids])

    def _subscribe(self, params: Json, command_id: int) -> None:
        channels = params.get("channels")
        if not isinstance(channels, list) or not channels:
            raise StreamError(3)
        if not all(isinstance(name, str) and name in CHANNELS for name in channels):
            raise StreamError(8)
        tickers = self._tickers(params)
        if "orderbook_delta" in channels and tickers is None:
            raise StreamError(14)
        if "communications" in channels:
            _check_shards(params)
        held = sum(len(sub.tickers or ()) for sub in self.subscriptions.values())
        if held + len(tickers or ()) > MARKETS_PER_SESSION_MAX:
            raise StreamError(26)
        joined = [self._join(channel, tickers if channel in BY_MARKET else None, params,
                             command_id) for channel in dict.fromkeys(channels)]
        for sub, added in joined:                       # all acknowledgements before any data
            self._first_data(sub, added, params)

    def _join(self, channel: str, tickers: dict[str, None] | None, params: Json,
              command_id: int) -> tuple[Subscription, dict[str, None] | None]:
        held = self.by_channel.get(channel)
        if held is not None:
            added = self._merge(held, tickers)
            if self.hub.switches.rule["resubscribe_reply"] == "ok":
                self._ok(held, command_id)
            else:
                self._reply("subscribed", command_id,
                            {"msg": {"channel": channel, "sid": held.sid}})
            return held, added
        self._sids += 1
        sub = Subscription(self, self._sids, channel, None if tickers is None else dict(tickers))
        sub.uses_yes_price = params.get("use_yes_price") is True
        sub.skips_ack = params.get("skip_ticker_ack") is True
        self.subscriptions[sub.sid] = self.by_channel[channel] = sub
        self.hub.index(sub, sub.tickers)
        self._reply("subscribed", command_id, {"msg": {"channel": channel, "sid": sub.sid}})
        return sub, sub.tickers

    def _merge(self, sub: Subscription, tickers: dict[str, None] | None) -> dict[str, None]:
        """Add markets to a subscription; answers those that were not there."""
        if sub.tickers is None:
            return {}
        if tickers is None:
            self.hub.unindex(sub)
            sub.tickers = None
            self.hub.index(sub, None)
            return {}
        added = {ticker: None for ticker in tickers if ticker not in sub.tickers}
        sub.tickers.update(added)
        self.hub.index(sub, added)
        return added

    def _first_data(self, sub: Subscription, tickers: dict[str, None] | None,
                    params: Json) -> None:
        if sub.channel == "orderbook_delta":
            for ticker in tickers or ():
                self._snapshot(sub, ticker)
        if sub.channel == "ticker" and params.get("send_initial_snapshot") is True:
            for ticker in self.hub.engine.markets if tickers is None else tickers:
                sub.send("ticker", self.hub.ticker_text(self.hub.engine.markets[ticker]))

    def _snapshot(self, sub: Subscription, ticker: str, command_id: int = 0) -> None:
        sub.send("orderbook_snapshot", self.hub.snapshot_text(
            self.hub.engine.markets[ticker], sub.uses_yes_price), command_id)

    def _ok(self, sub: Subscription, command_id: int) -> None:
        more: Json = {"sid": sub.sid}
        if sub.has_seq:
            sub.seq += 1
            more["seq"] = sub.seq
        more["msg"] = {} if sub.skips_ack else {"market_tickers": list(sub.tickers or ())}
        self._reply("ok", command_id, more)

    def _unsubscribe(self, params: Json, command_id: int) -> None:
        sids = params.get("sids", [params["sid"]] if "sid" in params else None)
        if not isinstance(sids, list) or not sids:
            raise StreamError(4)
        for sid in sids:
            sub = self.subscriptions.get(sid) if type(sid) is int else None
            if sub is None:
                raise StreamError(7)
            self.drop(sub)
            sub.seq += 1
            seq = sub.seq if sub.has_seq else int(self.hub.switches.number("unsubscribed_seq"))
            self._reply("unsubscribed", command_id, {"sid": sub.sid, "seq": seq})

    def drop(self, sub: Subscription) -> None:
        """Forget a subscription."""
        self.hub.unindex(sub)
        del self.subscriptions[sub.sid]
        del self.by_channel[sub.channel]

    def _update(self, params: Json, command_id: int) -> None:
        sids = params.get("sids", [params["sid"]] if "sid" in params else [])
        if not isinstance(sids, list) or len(sids) != 1:
            raise StreamError(12)
        sub = self.subscriptions.get(sids[0]) if type(sids[0]) is int else None
        if sub is None:
            raise StreamError(7)
        action = params.get("action")
        if not action:
            raise StreamError(15)
        tickers = self._tickers(params)
        if action == "get_snapshot" and sub.channel == "orderbook_delta":
            self._resend(sub, tickers, command_id)
        elif action in ("add_markets", "delete_markets") and sub.channel in BY_MARKET:
            if not tickers:
                raise StreamError(14)
            self._change(sub, str(action), tickers, params, command_id)
        else:
            raise StreamError(13)

    def _resend(self, sub: Subscription, tickers: dict[str, None] | None,
                command_id: int) -> None:
        if not tickers:
            raise StreamError(14)
        for ticker in tickers:
            self._snapshot(sub, ticker, command_id)
        if self.hub.switches.is_on("get_snapshot_ok"):
            self._ok(sub, command_id)

    def _change(self, sub: Subscription, action: str, tickers: dict[str, None], params: Json,
                command_id: int) -> None:
        if action == "add_markets":
            added = self._merge(sub, tickers)
            self._ok(sub, command_id)
            if self.hub.switches.is_on("add_markets_snapshot") or sub.channel != "orderbook_delta":
                self._first_data(sub, added, params)
            return
        if sub.tickers is None:
            raise StreamError(11)
        self.hub.unindex(sub)
        for ticker in tickers:
            sub.tickers.pop(ticker, None)
        self.hub.index(sub, sub.tickers)
        self._ok(sub, command_id)

    def kill(self, sub: Subscription, code: int) -> None:
        """A terminal error: the subscription is dead."""
        self.drop(sub)
        more: Json = {"sid": sub.sid}
        if sub.has_seq:
            sub.seq += 1
            more["seq"] = sub.seq
        self._reply("error", 0, more | {"msg": {"code": code, "msg": WS_ERRORS[code]}})


def _check_shards(params: Json) -> None:
    factor, key = params.get("shard_factor"), params.get("shard_key")
    if key is not None and factor is None:
        raise StreamError(20)
    if factor is None:
        return
    if type(factor) is not int or factor <= 0:
        raise StreamError(19)
    if factor > 100:
        raise StreamError(22)
    if key is not None and (type(key) is not int or not 0 <= key < factor):
        raise StreamError(21)


# ======================================================================================
# §E11b FAN-OUT
# Purpose:   Turns the engine's notes into frames for everyone who asked.
# Position:  Uses §E01 to §E11a. Fed by §E07 as its Sink.
# Principle: A message body is written once and shared; only the envelope is per sid.
# ======================================================================================
class Hub:
    """Turns the engine's notes into frames for every session that asked for them."""

    def __init__(self, engine: Engine, switches: Switches, rng: random.Random,
                 schedule: Callable[[Callable[[], None]], None]) -> None:
        """`schedule` runs a callback soon, after the code that is running now."""
        self.engine, self.switches = engine, switches
        self.sessions: dict[int, Session] = {}
        self.stamp = ""
        self._rng, self._schedule = rng, schedule
        self._pending: list[list[Note]] = []
        self._is_scheduled = False
        self._by_market: dict[tuple[str, str], list[Subscription]] = {}
        self._for_all: dict[str, list[Subscription]] = {}
        self._heads: dict[str, str] = {}
        self._ticks: dict[str, tuple[int, ...]] = {}
        self.shift_us = 0                               # what a control adds to shown time
        self._ticker_count = 0                          # subscriptions to the ticker channel
        self._time = (0, "")
        self._tables: dict[type, Callable[[Note], None]] = {
            BookNote: self._send_book, TradeNote: self._send_trade, FillNote: self._send_fill,
            OrderNote: self._send_order, PositionNote: self._send_position,
            LifecycleNote: self._send_lifecycle, GroupNote: self._send_group}

    def open(self, write: Callable[[bytes], None]) -> Session:
        """A new connection."""
        session = Session(self, write)
        self.sessions[id(session)] = session
        return session

    def close(self, session: Session) -> None:
        """A connection ended."""
        for sub in list(session.subscriptions.values()):
            session.drop(sub)
        self.sessions.pop(id(session), None)

    def index(self, sub: Subscription, tickers: dict[str, None] | None) -> None:
        """Remember who hears what."""
        self._ticker_count += sub.channel == "ticker"
        if tickers is None:
            self._for_all.setdefault(sub.channel, []).append(sub)
            return
        for ticker in tickers:
            self._by_market.setdefault((sub.channel, ticker), []).append(sub)

    def unindex(self, sub: Subscription) -> None:
        """Forget it again."""
        if sub.channel == "ticker":
            self._ticker_count = max(0, self._ticker_count - 1)
        if sub.tickers is None:
            self._for_all[sub.channel].remove(sub)
            return
        for ticker in sub.tickers:
            self._by_market[sub.channel, ticker].remove(sub)

    def _hearers(self, channel: str, ticker: str) -> list[Subscription]:
        some, everyone = self._by_market.get((channel, ticker)), self._for_all.get(channel)
        if not everyone:
            return some or []
        return everyone + some if some else everyone

    def publish(self, notes: list[Note]) -> None:
        """Sink: keep the notes of a command until the code that caused them has answered."""
        if not self.sessions:
            return
        if self.switches.rule["match_message_order"] == "seeded":
            self._rng.shuffle(notes)
        self._pending.append(notes)
        if self.switches.rule["match_message_order"] == "fill_first":
            self.flush()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._schedule(self.flush)

    def flush(self) -> None:
        """Encode what is waiting and write it to every session."""
        self._is_scheduled = False
        pending, self._pending = self._pending, []
        self.stamp = (f',"sending_ts_ms":{(self.engine.now_us + self.shift_us) // 1000}'
                      if self.switches.is_on("sending_ts_ms") else "")
        for notes in pending:
            self._dispatch(notes)
        for session in list(self.sessions.values()):
            session.flush()

    def _dispatch(self, notes: list[Note]) -> None:
        if len(notes) == 1 and type(notes[0]) is BookNote and not self._ticker_count:
            self._send_book(notes[0])
            return
        touched: dict[str, Market] = {}
        late: list[Note] = []
        for note in notes:
            if type(note) is PositionNote:
                late.append(note)
                continue
            if isinstance(note, BookNote | TradeNote):
                touched[note.market.ticker] = note.market
            self._tables[type(note)](note)
        for ticker, market in touched.items():
            self._send_tick(ticker, market)
        for note in late:
            self._tables[type(note)](note)

    def _time_texts(self, at_us: int) -> str:
        """The ts and ts_ms members of a delta; many share one instant."""
        if self._time[0] != at_us:
            second, rest = divmod(at_us, SECOND_US)
            fraction = f".{rest:06d}".rstrip("0") if rest else ""
            stamp = f'"ts":"{_second_text(second)}{fraction}Z","ts_ms":{at_us // 1000}'
            self._time = (at_us, stamp)
        return self._time[1]

    def _head(self, market: Market) -> str:
        head = self._heads.get(market.ticker)
        if head is None:
            ticker = orjson.dumps(market.ticker).decode()
            head = f'{{"market_ticker":{ticker},"market_id":"{market.market_id}"'
            self._heads[market.ticker] = head
        return head

    def _send_book(self, note: Note) -> None:
        assert isinstance(note, BookNote), "dispatched by type"
        hearers = self._hearers("orderbook_delta", note.market.ticker)
        if not hearers:
            return
        mine = ""
        if note.client_order_id is not None:
            given = orjson.dumps(note.client_order_id).decode()
            mine = f',"client_order_id":{given},"subaccount":{note.subaccount}'
        side = "yes" if note.is_bid else "no"
        tail = (f'","delta_fp":"{count_text(note.delta_h)}","side":"{side}",'
                f'{self._time_texts(note.at_us)}{mine}}}')
        head = f'{self._head(note.market)},"clock":{note.clock},"price_dollars":"'
        own_cc = note.price_cc if note.is_bid else DOLLAR_CC - note.price_cc
        plain = f"{head}{PRICE_TEXT[own_cc]}{tail}"
        for sub in hearers:
            body = f"{head}{PRICE_TEXT[note.price_cc]}{tail}" if sub.uses_yes_price else plain
            sub.send("orderbook_delta", body)

    def snapshot_text(self, market: Market, uses_yes_price: bool) -> str:
        """The body of a snapshot."""
        sides = {"yes_dollars_fp": levels_body(market.book.bids, 0, False),
                 "no_dollars_fp": levels_body(market.book.asks, 0, not uses_yes_price)}
        if self.switches.rule["snapshot_empty_side"] == "absent":
            sides = {name: rows for name, rows in sides.items() if rows}
        levels = orjson.dumps(sides).decode()[1:-1]
        return f'{self._head(market)},"clock":{market.clock}{"," + levels if levels else ""}}}'

    def _send_trade(self, note: Note) -> None:
        assert isinstance(note, TradeNote), "dispatched by type"
        hearers = self._hearers("trade", note.market.ticker)
        if not hearers:
            return
        trade = note.trade
        side = "yes" if trade.taker_is_bid else "no"
        body = orjson.dumps({
            "trade_id": trade.trade_id, "market_ticker": trade.ticker,
            "yes_price_dollars": price_text(trade.price_cc),
            "no_price_dollars": price_text(DOLLAR_CC - trade.price_cc),
            "count_fp": count_text(trade.count_h), "taker_side": side, "taker_outcome_side": side,
            "taker_book_side": "bid" if trade.taker_is_bid else "ask", "is_block_trade": False,
            "ts": trade.at_us // SECOND_US, "ts_ms": trade.at_us // 1000}).decode()
        for sub in hearers:
            sub.send("trade", body)

    def ticker_text(self, market: Market) -> str:
        """The body of a ticker message."""
        bid_cc, ask_cc, bid_h, ask_h = market.quotes()
        now_us = self.engine.now_us
        return orjson.dumps({
            "market_ticker": market.ticker, "market_id": market.market_id,
            "price_dollars": price_text(market.last_cc), "yes_bid_dollars": price_text(bid_cc),
            "yes_ask_dollars": price_text(ask_cc), "yes_bid_size_fp": count_text(bid_h),
            "yes_ask_size_fp": count_text(ask_h),
            "last_trade_size_fp": count_text(market.last_size_h),
            "volume_fp": count_text(market.volume_h),
            "open_interest_fp": count_text(market.interest_h),
            "dollar_volume": market.spent_ud // DOLLAR_UD,
            "dollar_open_interest": market.interest_h * market.last_cc // DOLLAR_UD,
            "ts": now_us // SECOND_US, "ts_ms": now_us // 1000,
            "time": time_text(now_us)}).decode()

    def _send_tick(self, ticker: str, market: Market) -> None:
        hearers = self._hearers("ticker", ticker)
        if not hearers:
            return
        state = (*market.quotes(), market.last_cc, market.volume_h, market.interest_h)
        if self._ticks.get(ticker) == state:
            return
        self._ticks[ticker] = state
        body = self.ticker_text(market)
        for sub in hearers:
            sub.send("ticker", body)

    def _send_fill(self, note: Note) -> None:
        assert isinstance(note, FillNote), "dispatched by type"
        self._send_all("fill", "fill", note.fill.ticker,
                       lambda: fill_message(note.fill, self.switches))

    def _send_order(self, note: Note) -> None:
        assert isinstance(note, OrderNote), "dispatched by type"
        self._send_all("user_orders", "user_order", note.order.market.ticker,
                       lambda: user_order_body(note.order, note.state, self.engine.user_id))

    def _send_position(self, note: Note) -> None:
        assert isinstance(note, PositionNote), "dispatched by type"
        self._send_all("market_positions", "market_position", note.ticker,
                       lambda: position_message(note, self.engine.user_id))

    def _send_lifecycle(self, note: Note) -> None:
        assert isinstance(note, LifecycleNote), "dispatched by type"
        self._send_all("market_lifecycle_v2", note.kind, "", lambda: note.payload)

    def _send_group(self, note: Note) -> None:
        assert isinstance(note, GroupNote), "dispatched by type"
        body: Json = {"event_type": note.event_type, "order_group_id": note.group.group_id,
                      "ts_ms": note.at_us // 1000}
        if note.event_type in ("created", "limit_updated"):
            body["contracts_limit_fp"] = count_text(note.group.limit_h)
        self._send_all("order_group_updates", "order_group_updates", "", lambda: body)

    def _send_all(self, channel: str, kind: str, ticker: str, body: Callable[[], Json]) -> None:
        hearers = self._hearers(channel, ticker)
        if hearers:
            text = orjson.dumps(body()).decode()
            for sub in hearers:
                sub.send(kind, text)


# ======================================================================================
# §E12 SYNTHETIC
# Purpose:   Markets that look like markets: makers, noise and informed takers round a fair
#            value that ends at 0 or 1.
# Position:  Uses §E01 to §E07. Built and stepped by §E15.
# Principle: One seed, one history: every draw comes from the driver's own generator.
# ======================================================================================
class Driver(Protocol):
    """Someone who brings the other traders."""

    def step(self, now_us: int) -> None:
        """Do everything that is due at or before `now_us`."""

    def next_due_us(self) -> int | None:
        """When `step` should be called next; None: never again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Liquidity:
    """How busy one synthetic market is. Sizes in contracts, rates per second."""

    half_spread_steps: float
    levels: int
    best_size: tuple[int, int]
    deep_size: tuple[int, int]
    taker_rate: float
    taker_size: float
    maker_every_s: float
    volume_day: tuple[int, int]
    volatility: float = 0.006           # of the logit of the fair value, per square-root second


LIQUIDITY = {
    "thick": Liquidity(half_spread_steps=1.0, levels=8, best_size=(20, 60), deep_size=(80, 400),
                       taker_rate=0.9, taker_size=12.0, maker_every_s=0.8,
                       volume_day=(5_000, 50_000)),
    "normal": Liquidity(half_spread_steps=1.6, levels=6, best_size=(15, 40), deep_size=(30, 150),
                        taker_rate=0.5, taker_size=8.0, maker_every_s=1.2,
                        volume_day=(600, 5_000)),
    "thin": Liquidity(half_spread_steps=3.0, levels=4, best_size=(11, 25), deep_size=(15, 50),
                      taker_rate=0.12, taker_size=5.0, maker_every_s=3.0, volume_day=(120, 500)),
    "sleepy": Liquidity(half_spread_steps=9.0, levels=2, best_size=(1, 6), deep_size=(1, 9),
                        taker_rate=0.004, taker_size=2.0, maker_every_s=15.0, volume_day=(0, 60),
                        volatility=0.002),
}
MIXTURE = ("thick", "normal", "normal", "thick", "thin", "normal", "thick", "normal", "thin",
           "sleepy")
CLOSES_AFTER_MIN = (360, 1_440, 50, 4_320, 720, 90, 10_080, 180, 2_880, 240)
BURST_GAIN, BURST_DECAY_S = 0.6, 4.0    # each taker makes the next ones likelier for a while
INFORMED_SHARE = 0.35                   # of takers, when the book is away from the fair value
FRACTION_SHARE = 0.25                   # of takers whose size is not whole
DRIFT = 0.5                             # pull of the fair value to its end, per log of time left
LOGIT_MAX = 4.2
MARKETS_AT_FULL_PACE = 250              # with more, every agent slows down in proportion

SERIES_PLANS = (                        # ticker, title, category, fee type, multiplier, grid
    ("KXSIMTEMP", "Simulated temperature", "Climate and Weather", "quadratic", 10_000,
     "linear_cent"),
    ("KXSIMRATE", "Simulated interest rate", "Economics", "quadratic_with_maker_fees", 10_000,
     "linear_cent"),
    ("KXSIMGOLD", "Simulated gold price", "Commodities", "quadratic", 10_000,
     "tapered_deci_cent"),
    ("KXSIMGAME", "Simulated ball game", "Sports", "quadratic", 10_000, "linear_cent"),
    ("KXSIMINDEX", "Simulated stock index", "Financials", "quadratic", 5_000, "linear_cent"),
)


class SyntheticMarket:
    """The hidden side of one market: its fair value, its agents and their orders."""

    def __init__(self, market: Market, plan: Liquidity, fair: float, result: str) -> None:
        self.market, self.plan = market, plan
        self.logit = math.log(fair / (1 - fair))
        self.result = result
        self.moved_us = market.created_us
        self.heat = 0.0
        self.quotes: dict[int, Order] = {}

    @property
    def fair_cc(self) -> float:
        """The fair value in centi-cents."""
        return DOLLAR_CC / (1 + math.exp(-self.logit))

    def move(self, now_us: int, rng: random.Random) -> None:
        """Let the fair value walk, drifting to its end as the close comes near."""
        passed_s = (now_us - self.moved_us) / SECOND_US
        if passed_s <= 0:
            return
        self.moved_us = now_us
        left_s = max(60.0, (self.market.close_us - now_us) / SECOND_US)
        pull = DRIFT * passed_s / left_s * (1 if self.result == "yes" else -1)
        walk = rng.gauss(0.0, self.plan.volatility * math.sqrt(min(passed_s, 3_600.0)))
        self.logit = min(LOGIT_MAX, max(-LOGIT_MAX, self.logit + pull + walk))
        self.heat *= math.exp(-passed_s / BURST_DECAY_S)


class SyntheticDriver:
    """Makes the markets and plays everybody else in them."""

    def __init__(self, engine: Engine, rng: random.Random, settings: SimSettings) -> None:
        self._engine, self._rng = engine, rng
        self._rollover = settings.rollover
        self._pace = max(1.0, settings.markets / MARKETS_AT_FULL_PACE) * settings.pace
        self._due: list[tuple[int, int, Callable[[int], float | None]]] = []
        self._made = 0
        self._events: dict[int, Event] = {}
        self.markets: dict[str, SyntheticMarket] = {}
        for _ in range(settings.markets):
            self._list_market()

    def _list_market(self) -> None:
        engine, rng, number = self._engine, self._rng, self._made
        self._made += 1
        plan = LIQUIDITY[MIXTURE[number % len(MIXTURE)]]
        event = self._event_for(number)
        series_plan = next(row for row in SERIES_PLANS if row[0] == event.series.ticker)
        minutes = CLOSES_AFTER_MIN[number % len(CLOSES_AFTER_MIN)]
        open_us = engine.now_us - rng.randrange(3_600, 86_400) * SECOND_US
        close_us = engine.now_us + minutes * 60 * SECOND_US + rng.randrange(600) * SECOND_US
        strike = f"{40 + number % 50}{'.5' if number % 3 == 2 else ''}"
        market = Market(
            ticker=f"{event.ticker}-T{strike}", market_id=engine.new_id(), event=event,
            title=f"Will the {event.series.title.lower()} be above {strike}?",
            yes_title=f"Above {strike}", no_title=f"{strike} or below",
            grid=Grid.named(series_plan[5]), created_us=open_us - 3_600 * SECOND_US,
            open_us=open_us, close_us=close_us // SECOND_US * SECOND_US, timer_s=5.0,
            extra={"strike_type": "greater", "floor_strike": float(strike)})
        fair = rng.uniform(0.18, 0.82)
        result = "yes" if rng.random() < fair else "no"
        market.pending_result = (result, DOLLAR_CC if result == "yes" else 0)
        hidden = SyntheticMarket(market, plan, fair, result)
        hidden.moved_us = engine.now_us
        self._give_past(hidden)
        self.markets[market.ticker] = hidden
        engine.add_market(market)
        self._make_quotes(hidden)
        self._start_agents(hidden)

    def _event_for(self, number: int) -> Event:
        """Two markets share an event; the series take turns."""
        pair = number // 2
        if pair not in self._events:
            ticker, title, category, fee_type, multiplier, _ = SERIES_PLANS[
                pair % len(SERIES_PLANS)]
            now_us = self._engine.now_us
            series = self._engine.series.get(ticker) or Series(
                ticker=ticker, title=title, category=category, fee_type=fee_type,
                multiplier_e4=multiplier, updated_us=now_us)
            self._engine.series[ticker] = series
            day = _clock.strftime("%y%b%d", _clock.gmtime(now_us // SECOND_US)).upper()
            self._events[pair] = Event(
                ticker=f"{ticker}-{day}N{pair + 1:02d}", series=series, category=category,
                title=f"{title}, case {pair + 1}", sub_title=f"Case {pair + 1}",
                updated_us=now_us)
        return self._events[pair]

    def _give_past(self, hidden: SyntheticMarket) -> None:
        """Volume, open interest and prices of yesterday, so that the market has a history."""
        market, rng = hidden.market, self._rng
        step_cc = market.grid.step_cc(int(hidden.fair_cc))
        last_cc = market.grid.round_cc(int(hidden.fair_cc))
        market.volume_day_h = rng.randint(*hidden.plan.volume_day) * CONTRACT_H
        market.volume_h = market.volume_day_h * rng.randint(1, 4)
        market.interest_h = market.volume_h // 3
        if market.volume_h:
            market.last_cc, market.last_size_h = last_cc, 5 * CONTRACT_H
            market.spent_ud = market.volume_h * last_cc
        before_cc = market.grid.round_cc(last_cc + rng.randint(-5, 5) * step_cc)
        market.previous = (max(step_cc, before_cc - step_cc),
                           min(DOLLAR_CC - step_cc, before_cc + step_cc), before_cc)

    def _start_agents(self, hidden: SyntheticMarket) -> None:
        now_us = self._engine.now_us
        for agent in (self._maker, self._taker):
            def act(at_us: int, agent: Agent = agent) -> float | None:
                return agent(hidden, at_us)
            first_us = int(self._rng.uniform(0.05, 1.0) * hidden.plan.maker_every_s * SECOND_US)
            heappush(self._due, (now_us + first_us, len(self._due) + self._made * 4, act))

    def next_due_us(self) -> int | None:
        """When the next agent acts."""
        return self._due[0][0] if self._due else None

    def step(self, now_us: int) -> None:
        """Every agent that is due acts, at its own instant."""
        due = self._due
        while due and due[0][0] <= now_us:
            at_us, number, act = heappop(due)
            self._engine.advance(at_us)
            wait_s = act(at_us)
            if wait_s is not None:
                heappush(due, (at_us + max(1_000, int(wait_s * self._pace * SECOND_US)), number,
                               act))

    def postpone(self, now_us: int) -> None:
        """Whatever is overdue is due now: a pause is not caught up with."""
        self._due = [(max(at_us, now_us), number, act) for at_us, number, act in self._due]
        heapq.heapify(self._due)

    def _maker(self, hidden: SyntheticMarket, now_us: int) -> float | None:
        market = hidden.market
        if market.status in ("closed", "determined", "finalized"):
            self._retire(hidden)
            return None
        hidden.move(now_us, self._rng)
        if market.is_open and not self._is_paused():
            self._make_quotes(hidden)
        return self._rng.expovariate(1.0) * hidden.plan.maker_every_s + 0.05

    def _is_paused(self) -> bool:
        return self._engine.is_trading_paused or self._engine.is_exchange_paused

    def _retire(self, hidden: SyntheticMarket) -> None:
        """A closed market: a new one takes its place."""
        if self.markets.pop(hidden.market.ticker, None) is not None and self._rollover:
            self._list_market()

    def _touch(self, hidden: SyntheticMarket) -> tuple[int, int]:
        """The best bid and ask the makers want now."""
        grid, fair_cc = hidden.market.grid, hidden.fair_cc
        step_cc = grid.step_cc(int(fair_cc))
        half_cc = hidden.plan.half_spread_steps * max(step_cc, 50)
        bid_cc = grid.round_cc(int(fair_cc - half_cc))
        ask_cc = grid.round_cc(int(fair_cc + half_cc) + step_cc - 1)
        return bid_cc, max(ask_cc, grid.round_cc(bid_cc + step_cc))

    def _make_quotes(self, hidden: SyntheticMarket) -> None:
        """Pull what is too good or too old, then fill the ladder up again."""
        bid_cc, ask_cc = self._touch(hidden)
        for number, order in list(hidden.quotes.items()):
            if order.remaining_h == 0 or number not in self._level_orders(order):
                del hidden.quotes[number]
                continue
            is_wrong = order.price_cc > bid_cc if order.is_bid else order.price_cc < ask_cc
            if is_wrong or self._rng.random() < 0.03:
                del hidden.quotes[number]
                self._engine.crowd_cancel(order)
        for is_bid, best_cc in ((True, bid_cc), (False, ask_cc)):
            self._fill_ladder(hidden, is_bid, best_cc)

    @staticmethod
    def _level_orders(order: Order) -> dict[int, Order]:
        level = order.market.book.side(order.is_bid).levels.get(order.price_cc)
        return level.orders if level is not None else {}

    def _fill_ladder(self, hidden: SyntheticMarket, is_bid: bool, best_cc: int) -> None:
        market, plan = hidden.market, hidden.plan
        side = market.book.side(is_bid)
        for depth in range(plan.levels):
            step_cc = max(market.grid.step_cc(best_cc), 50 if depth else 1)
            price_cc = market.grid.round_cc(best_cc + (-depth if is_bid else depth) * step_cc)
            low, high = plan.best_size if depth == 0 else plan.deep_size
            level = side.levels.get(price_cc)
            if level is not None and level.total_h >= low * CONTRACT_H:
                continue
            if depth and self._rng.random() < 0.25:
                continue
            count_h = self._rng.randint(low, high) * CONTRACT_H
            if self._rng.random() < FRACTION_SHARE:
                count_h += self._rng.randrange(CONTRACT_H)
            order = self._engine.crowd_order(market, is_bid, price_cc, count_h)
            if order is not None:
                hidden.quotes[order.number] = order

    def _taker(self, hidden: SyntheticMarket, now_us: int) -> float | None:
        market, rng, plan = hidden.market, self._rng, hidden.plan
        if market.ticker not in self.markets:
            return None
        if market.is_open and not self._is_paused():
            hidden.move(now_us, rng)
            self._take(hidden)
            hidden.heat = min(5.0, hidden.heat + BURST_GAIN)
        return rng.expovariate(plan.taker_rate * (1.0 + hidden.heat))

    def _take(self, hidden: SyntheticMarket) -> None:
        market, rng = hidden.market, self._rng
        bid_cc, ask_cc, bid_h, ask_h = market.quotes()
        if not bid_h or not ask_h:
            return
        gap_cc = hidden.fair_cc - (bid_cc + ask_cc) / 2
        is_informed = abs(gap_cc) > 30 and rng.random() < INFORMED_SHARE
        is_bid = gap_cc > 0 if is_informed else rng.random() < 0.5
        size = rng.lognormvariate(0.0, 0.9) * hidden.plan.taker_size * (2 if is_informed else 1)
        count_h = max(1, round(size)) * CONTRACT_H
        if rng.random() < FRACTION_SHARE:
            count_h += rng.randrange(CONTRACT_H)
        slack_cc = rng.choice((0, 0, 1, 2)) * market.grid.step_cc(ask_cc if is_bid else bid_cc)
        price_cc = market.grid.round_cc(ask_cc + slack_cc if is_bid else bid_cc - slack_cc)
        self._engine.crowd_order(market, is_bid, price_cc, count_h, rests=False)


Agent = Callable[[SyntheticMarket, int], float | None]


# ======================================================================================
# §E13a TAPE FILES
# Purpose:   Read recorded frames and tell what was traded from what was cancelled.
# Position:  Uses §E01 to §E07. Used by §E13b.
# Principle: A damaged line is counted and skipped; a cut file is played to its cut.
# ======================================================================================
PAIR_WINDOW_MS = 2_000                  # a print and its delta are at most this far apart
END_GRACE_US = 2 * SECOND_US            # a tape that stops this long before the close was cut


class TapeError(ValueError):
    """A tape directory cannot be played: what was found, and what is needed."""


class TapeFrame:
    """One recorded frame on the YES scale. Kinds: snapshot, delta, trade."""

    __slots__ = (
        "at_ms",
        "count_h",
        "is_bid",
        "is_own",
        "kind",
        "levels",
        "open_h",
        "price_cc",
        "prints",
        "recv_ms",
        "trade_id",
        "traded_h",
    )

    def __init__(self, recv_ms: int, kind: str) -> None:
        self.recv_ms, self.kind = recv_ms, kind
        self.is_bid = False
        self.price_cc = self.count_h = self.traded_h = self.open_h = 0
        self.at_ms = recv_ms
        self.levels: dict[tuple[bool, int], int] = {}
        self.prints: list[TapeFrame] = []
        self.is_own = False
        self.trade_id = ""


def _signed_count_h(text: str) -> int:
    count_h = parse_count_h(text.removeprefix("-"))
    if count_h is None:
        raise ValueError(f"{text!r} is not a count")
    return -count_h if text.startswith("-") else count_h


def _price_on_yes(text: str, is_bid: bool) -> int:
    price_cc = parse_price_cc(text)
    if price_cc is None or price_cc > DOLLAR_CC:
        raise ValueError(f"{text!r} is not a price")
    return price_cc if is_bid else DOLLAR_CC - price_cc


def decode_frame(line: bytes) -> TapeFrame | None:
    """One line of a tape; None for a kind that is not played. ValueError when damaged."""
    row = orjson.loads(line)
    event, recv_ms = row["event"], int(row["recv_ms"])
    kind, msg = event["type"], event.get("msg", {})
    if kind == "orderbook_delta":
        frame = TapeFrame(recv_ms, "delta")
        frame.is_bid = msg["side"] == "yes"
        frame.price_cc = _price_on_yes(msg["price_dollars"], frame.is_bid)
        frame.count_h = _signed_count_h(msg["delta_fp"])
        frame.is_own = "client_order_id" in msg
    elif kind == "trade":
        frame = TapeFrame(recv_ms, "trade")
        frame.is_bid = msg.get("taker_book_side", "") != "bid" and msg.get("taker_side") != "yes"
        frame.price_cc = _price_on_yes(msg["yes_price_dollars"], True)
        frame.count_h = frame.open_h = _signed_count_h(msg["count_fp"])
        frame.trade_id = str(msg["trade_id"])
    elif kind == "orderbook_snapshot":
        frame = TapeFrame(recv_ms, "snapshot")
        for name, is_bid in (("yes_dollars_fp", True), ("no_dollars_fp", False)):
            for price, count in msg.get(name) or []:
                frame.levels[is_bid, _price_on_yes(price, is_bid)] = _signed_count_h(count)
    else:
        return None
    frame.at_ms = int(msg.get("ts_ms", recv_ms))
    return frame


class TapeFile:
    """All files of one tape directory as one stream of frames, with what was wrong counted."""

    def __init__(self, path: Path) -> None:
        self._files = sorted([*path.glob("*.ndjson.gz"), *path.glob("*.ndjson")])
        if not self._files:
            raise TapeError(f"{path}: no *.ndjson.gz here; give a directory of one recorded market")
        self.skipped = self.damaged = self.unpaired = 0
        self.is_cut = False

    def lines(self) -> Iterator[bytes]:
        """Raw lines of all files, in order; a cut file ends early and says so."""
        for path in self._files:
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rb") as stream:
                try:
                    yield from stream
                except (EOFError, zlib.error, gzip.BadGzipFile):
                    self.is_cut = True

    def frames(self) -> Iterator[TapeFrame]:
        """Frames in file order; damaged and unknown lines are counted and skipped."""
        last_ms = 0
        for line in self.lines():
            if not line.strip():
                continue
            try:
                frame = decode_frame(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                self.damaged += 1
                continue
            if frame is None:
                self.skipped += 1
                continue
            last_ms = frame.recv_ms = max(last_ms, frame.recv_ms)
            yield frame

    def paired(self) -> Iterator[TapeFrame]:
        """Frames with each delta told how much of it was traded.

        Pairs by side, price and exchange time, looking up to two seconds ahead.
        """
        waiting: deque[TapeFrame] = deque()
        deltas: dict[tuple[bool, int, int], list[TapeFrame]] = {}
        prints: dict[tuple[bool, int, int], list[TapeFrame]] = {}
        for frame in self.frames():
            key = (frame.is_bid, frame.price_cc, frame.at_ms)
            if frame.kind == "trade":
                _pair(deltas.get(key, []), [frame])
                prints.setdefault(key, []).append(frame)
            elif frame.kind == "delta" and frame.count_h < 0:
                _pair([frame], prints.get(key, []))
                deltas.setdefault(key, []).append(frame)
            waiting.append(frame)
            while waiting[0].recv_ms < frame.recv_ms - PAIR_WINDOW_MS:
                yield self._release(waiting.popleft(), deltas, prints)
        while waiting:
            yield self._release(waiting.popleft(), deltas, prints)

    def _release(self, frame: TapeFrame, deltas: dict[tuple[bool, int, int], list[TapeFrame]],
                 prints: dict[tuple[bool, int, int], list[TapeFrame]]) -> TapeFrame:
        key = (frame.is_bid, frame.price_cc, frame.at_ms)
        table = {"trade": prints, "delta": deltas}.get(frame.kind, {})
        rows = table.get(key, [])
        if frame in rows:
            rows.remove(frame)
            if not rows:
                del table[key]
        if frame.kind == "trade" and frame.open_h:
            self.unpaired += 1
        return frame


def _pair(deltas: list[TapeFrame], prints: list[TapeFrame]) -> None:
    """Share the size of prints out over deltas of the same side, price and time."""
    for one in prints:
        for delta in deltas:
            part_h = min(one.open_h, -delta.count_h - delta.traded_h)
            if part_h > 0:
                one.open_h -= part_h
                delta.traded_h += part_h
                delta.prints.append(one)


def _read_event(path: Path) -> Json:
    source = path / "event.json"
    try:
        body = orjson.loads(source.read_bytes())
        response = body.get("response", body)
        response["event"]["event_ticker"], response["markets"][0]["ticker"]
    except FileNotFoundError as error:
        raise TapeError(f"{source}: no such file; a tape needs its event.json") from error
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise TapeError(f"{source}: not an answer of GET /events/{{event_ticker}}") from error
    assert isinstance(response, dict), "indexing has shown it"
    return response


def _first_ms(path: Path) -> int:
    for frame in TapeFile(path).frames():
        return frame.recv_ms
    raise TapeError(f"{path}: the tape holds no frame that can be played")


def tape_start_s(paths: Iterable[str]) -> float:
    """Exchange time (Unix seconds) at which the common start of these tapes lies."""
    starts = [_first_ms(Path(path)) for path in paths]
    if not starts:
        raise TapeError("no tape was named")
    return min(starts) / 1000


def tape_event(path: Path) -> str:
    """Ticker of the event that the market of a tape belongs to."""
    head = _read_event(path)["event"]
    assert isinstance(head, dict), "checked when it was read"
    return str(head["event_ticker"])


_KEPT_FIELDS = ("strike_type", "floor_strike", "cap_strike", "functional_strike", "custom_strike",
                "rules_primary", "rules_secondary", "early_close_condition")


def _tape_grid(row: Json) -> Grid:
    label = str(row.get("price_level_structure", "linear_cent"))
    ranges = row.get("price_ranges")
    if not isinstance(ranges, list) or not ranges:
        return Grid.named(label if label in GRIDS else "linear_cent")
    rows = []
    for one in ranges:
        start, end, step = (parse_price_cc(str(one[name])) or 0
                            for name in ("start", "end", "step"))
        if step <= 0:
            raise TapeError(f"price_ranges: {one!r} is not a range of prices")
        rows.append((start, end, step))
    return Grid(label, tuple(sorted(rows)))


# ======================================================================================
# §E13b TAPE
# Purpose:   Replay recorded frames; match our orders against the recorded book and prints.
# Position:  Uses §E01 to §E13a. Built and stepped by §E15.
# Principle: Our orders do not move the tape; who was ahead of us is a model with a name.
# ======================================================================================
class TapePlayer:
    """One tape: its market, the recorded book, and what we took out of it."""

    def __init__(self, engine: Engine, path: Path, start_us: int, settings: SimSettings) -> None:
        """`start_us`: exchange time at which the first frame of this tape is played."""
        self._engine = engine
        self._model = QUEUE_MODELS.index(settings.queue)
        self.file = TapeFile(path)
        self._frames = self.file.paired()
        self._shift_us = start_us - _first_ms(path) * 1000
        self.recorded: dict[tuple[bool, int], int] = {}
        self._own: dict[tuple[bool, int], int] = {}
        self._crowd: dict[tuple[bool, int], Order] = {}
        try:
            self.market = self._list_market(path, settings)
        except TapeError:
            raise
        except (KeyError, IndexError, TypeError, ValueError) as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise TapeError(f"{path}/event.json: {what}; record or fetch it again") from error
        self._next = next(self._frames, None)
        self.first_us = self.last_us = start_us
        self.total = sum(1 for line in self.file.lines() if line.strip())
        self.played = 0
        self.rebased = self.negative = 0

    def _list_market(self, path: Path, settings: SimSettings) -> Market:
        response = _read_event(path)
        head, rows = response["event"], response["markets"]
        assert isinstance(head, dict), "checked when it was read"
        assert isinstance(rows, list), "checked when it was read"
        row = next((one for one in rows if one["ticker"] == path.name), rows[0])
        series = Series(ticker=str(head["series_ticker"]), title=str(head["series_ticker"]),
                        category=str(head.get("category", "")), fee_type=settings.fee_type,
                        multiplier_e4=_multiplier_e4(settings.fee_multiplier))
        series = self._engine.series.setdefault(series.ticker, series)
        event = self._engine.events.get(str(head["event_ticker"])) or Event(
            ticker=str(head["event_ticker"]), series=series, title=str(head.get("title", "")),
            sub_title=str(head.get("sub_title", "")), category=series.category,
            is_exclusive=bool(head.get("mutually_exclusive")),
            collateral_return=str(head.get("collateral_return_type", "")))

        def moved(name: str) -> int:
            return parse_time_us(str(row[name])) + self._shift_us
        market = Market(
            ticker=str(row["ticker"]), market_id=self._engine.new_id(), event=event,
            title=str(row.get("title", "")), yes_title=str(row.get("yes_sub_title", "")),
            no_title=str(row.get("no_sub_title", "")), grid=_tape_grid(row),
            created_us=moved("created_time" if "created_time" in row else "open_time"),
            open_us=moved("open_time"), close_us=moved("close_time"),
            timer_s=float(row.get("settlement_timer_seconds", 1)),
            extra={name: row[name] for name in _KEPT_FIELDS if row.get(name) is not None})
        market.is_tape, market.taken = True, {}
        market.open_us = min(market.open_us, self._engine.now_us)
        self._set_result(market, row)
        self._engine.add_market(market)
        return market

    @staticmethod
    def _set_result(market: Market, row: Json) -> None:
        result = str(row.get("result") or "")
        if result not in ("yes", "no", "scalar"):
            return
        value_cc = parse_price_cc(str(row.get("settlement_value_dollars") or ""))
        if value_cc is None:
            value_cc = DOLLAR_CC if result == "yes" else 0
        market.pending_result = (result, value_cc)
        market.pending_expiration = str(row.get("expiration_value") or "")

    @property
    def due_us(self) -> int | None:
        """When the next frame is due; None at the end of the tape."""
        return None if self._next is None else self._next.recv_ms * 1000 + self._shift_us

    @property
    def result(self) -> tuple[str, int] | None:
        """Recorded result and what one YES pays; None when the tape has none."""
        return self.market.pending_result

    def stop(self) -> None:
        """Play no further frame."""
        self._next = None

    def play_next(self) -> None:
        """Apply one frame; time stands at its arrival."""
        frame = self._next
        assert frame is not None, "there is no frame left"
        self.last_us = frame.recv_ms * 1000 + self._shift_us
        self._next = next(self._frames, None)
        self.played += 1
        if self.market.status not in ("active", "inactive"):
            return
        if frame.kind == "delta":
            self._delta(frame)
        elif frame.kind == "trade":
            self._print(frame)
        else:
            self._snapshot(frame)
        self._engine.commit()

    def _print(self, frame: TapeFrame) -> None:
        if frame.count_h > 0:
            self._engine.print_trade(self.market, frame.price_cc, frame.count_h,
                                     not frame.is_bid, frame.trade_id)

    def _snapshot(self, frame: TapeFrame) -> None:
        if self.recorded and {key: h for key, h in self.recorded.items() if h} != frame.levels:
            self.rebased += 1
        for key in [*self.recorded, *frame.levels]:
            self._set_recorded(key, frame.levels.get(key, 0), frame.at_ms)
        for order in self._resting():
            key = (order.is_bid, order.price_cc)
            self._clamp(order, self._shown_h(key))

    def _delta(self, frame: TapeFrame) -> None:
        key = (frame.is_bid, frame.price_cc)
        before_h = self.recorded.get(key, 0)
        if frame.is_own:
            self._own[key] = max(0, self._own.get(key, 0) + frame.count_h)
        if frame.count_h < 0:
            self._through(frame)
            self._at_level(frame, key, before_h)
        self._set_recorded(key, before_h + frame.count_h, frame.at_ms)
        for order in self._resting():
            if (order.is_bid, order.price_cc) == key:
                self._clamp(order, self._shown_h(key))

    def _resting(self) -> list[MemberOrder]:
        """Our orders in this market, best price and oldest first."""
        mine = [order for order in self._engine.open.values() if order.market is self.market]
        mine.sort(key=lambda order: (-order.price_cc if order.is_bid else order.price_cc,
                                     order.number))
        return mine

    def _through(self, frame: TapeFrame) -> None:
        """Prints at a worse price than ours would have met us first."""
        left_h = frame.traded_h
        for order in self._resting():
            if order.is_bid != frame.is_bid or left_h <= 0:
                continue
            if order.price_cc > frame.price_cc if order.is_bid else order.price_cc < frame.price_cc:
                left_h -= self._fill(order, left_h, frame)
                for shadow in order.shadow_h:
                    shadow[1] += min(left_h, order.initial_h - shadow[1])

    def _at_level(self, frame: TapeFrame, key: tuple[bool, int], shown_h: int) -> None:
        """Size left our price: the traded part takes the queue, then us."""
        cancelled_h = -frame.count_h - frame.traded_h
        spent_h = 0
        for order in self._resting():
            if (order.is_bid, order.price_cc) != key:
                continue
            reach_h = frame.traded_h - order.ahead_h - spent_h
            order.ahead_h = _queue_after(self._model, order.ahead_h, frame.traded_h, cancelled_h,
                                         shown_h)
            for model, shadow in enumerate(order.shadow_h):
                shadow[1] += max(0, min(frame.traded_h - shadow[0] - spent_h,
                                        order.initial_h - shadow[1]))
                shadow[0] = _queue_after(model, shadow[0], frame.traded_h, cancelled_h, shown_h)
            if reach_h > 0:
                spent_h += self._fill(order, reach_h, frame)

    def _fill(self, order: MemberOrder, at_most_h: int, frame: TapeFrame) -> int:
        """Fill a resting order of ours; the recorded prints give up that size."""
        filled_h = self._engine.fill_resting(order, min(order.remaining_h, at_most_h))
        left_h = filled_h
        for one in frame.prints:
            part_h = min(left_h, one.count_h)
            one.count_h -= part_h
            left_h -= part_h
        return filled_h

    def _shown_h(self, key: tuple[bool, int]) -> int:
        order = self._crowd.get(key)
        return order.remaining_h if order is not None else 0

    @staticmethod
    def _clamp(order: MemberOrder, shown_h: int) -> None:
        order.ahead_h = min(order.ahead_h, shown_h)
        for shadow in order.shadow_h:
            shadow[0] = min(shadow[0], shown_h)

    def _set_recorded(self, key: tuple[bool, int], recorded_h: int, at_ms: int) -> None:
        """The tape's level is now this; show it less our own and what we took."""
        if recorded_h < 0:
            self.negative += 1
            recorded_h = 0
        taken = self.market.taken
        assert taken is not None, "a tape's market remembers what was taken"
        self.recorded[key] = recorded_h
        kept_h = min(taken.get(key, 0), recorded_h)
        taken[key] = kept_h
        shown_h = max(0, recorded_h - kept_h - min(self._own.get(key, 0), recorded_h))
        grown_h = shown_h - self._shown_h(key)
        if grown_h > 0:
            met_h = self._meet(key, grown_h)
            taken[key] += met_h
            shown_h -= met_h
        self._show(key, shown_h, at_ms * 1000 + self._shift_us)

    def _meet(self, key: tuple[bool, int], count_h: int) -> int:
        """New size that arrives across our resting orders trades with them first."""
        is_bid, price_cc = key
        met_h = 0
        for order in self._resting():
            crosses = order.price_cc <= price_cc if is_bid else order.price_cc >= price_cc
            if order.is_bid != is_bid and crosses and met_h < count_h:
                met_h += self._engine.fill_resting(order, min(order.remaining_h, count_h - met_h))
        return met_h

    def _show(self, key: tuple[bool, int], shown_h: int, at_us: int) -> None:
        order = self._crowd.get(key)
        if order is None or order.remaining_h == 0:
            if shown_h:
                self._crowd[key] = self._engine.crowd_level(self.market, key, shown_h, at_us)
            return
        self._engine.crowd_resize(order, shown_h, at_us)
        if shown_h == 0:
            del self._crowd[key]


def _queue_after(model: int, ahead_h: int, traded_h: int, cancelled_h: int, shown_h: int) -> int:
    """Queue ahead of us after some size traded and some was cancelled at our price."""
    ahead_h = max(0, ahead_h - traded_h)
    rest_h = shown_h - traded_h
    match QUEUE_MODELS[model]:
        case "realistic":
            return ahead_h - (ceil_div(cancelled_h * ahead_h, rest_h) if rest_h > 0 else ahead_h)
        case "optimistic":
            return max(0, ahead_h - cancelled_h)
        case _:
            return ahead_h


def _multiplier_e4(text: str) -> int:
    value_cc = parse_price_cc(text)
    if value_cc is None:
        raise ValueError(f"fee_multiplier: {text!r} is not a number such as 1 or 0.5")
    return value_cc


class TapeDriver:
    """Several tapes on one clock, shifted to a common start."""

    def __init__(self, engine: Engine, settings: SimSettings, start_us: int) -> None:
        self._engine = engine
        self.players = [TapePlayer(engine, Path(path), start_us, settings)
                        for path in settings.tapes]
        self._ended: set[str] = set()

    def next_due_us(self) -> int | None:
        """When the next frame of any tape is due."""
        due = [player.due_us for player in self.players if player.due_us is not None]
        ends = [player.last_us + END_GRACE_US for player in self.players
                if player.due_us is None and player.market.ticker not in self._ended]
        return min([*due, *ends], default=None)

    def step(self, now_us: int) -> None:
        """Play every frame that is due, in order of arrival over all tapes."""
        while True:
            due = [(player.due_us, n) for n, player in enumerate(self.players)
                   if player.due_us is not None]
            if not due or min(due)[0] > now_us:
                break
            at_us, n = min(due)
            self._engine.advance(at_us)
            self.players[n].play_next()
        for player in self.players:
            self._end(player, now_us)

    def _end(self, player: TapePlayer, now_us: int) -> None:
        """A tape that is over closes its market, even if it was cut short."""
        market = player.market
        if player.due_us is not None or market.ticker in self._ended:
            return
        if now_us < player.last_us + END_GRACE_US:
            return
        self._ended.add(market.ticker)
        self._engine.advance(player.last_us + END_GRACE_US)
        if market.status in ("active", "inactive") and (
                market.close_us > self._engine.now_us + END_GRACE_US):
            self._engine.set_close_time(market.ticker, self._engine.now_us)

    def status(self, now_us: int) -> Json:
        """Where the tapes stand: name, virtual time, first and last moment, frames played."""
        first_us = min(player.first_us for player in self.players)
        last_us = max(player.market.close_us for player in self.players)
        return {"tape": ", ".join(player.market.ticker for player in self.players),
                "virtual_at_ms": now_us // 1000, "from_at_ms": first_us // 1000,
                "to_at_ms": last_us // 1000,
                "events_done": sum(player.played for player in self.players),
                "events_total": sum(player.total for player in self.players)}

    def settle_now(self, now_us: int) -> None:
        """End every tape here and pay its market with the recorded result."""
        for player in self.players:
            player.stop()
            self._ended.add(player.market.ticker)
            if player.market.status != "finalized" and player.result:
                self._engine.settle(player.market.ticker, *player.result)
        self._engine.advance(now_us)

    def report(self) -> Json:
        """What the tapes were like: damaged, unknown, unpaired and negative counts."""
        return {player.market.ticker: {
            "damaged": player.file.damaged, "skipped": player.file.skipped,
            "unpaired": player.file.unpaired, "is_cut": player.file.is_cut,
            "rebased": player.rebased, "negative": player.negative} for player in self.players}


# ======================================================================================
# §E14a CONTROL
# Purpose:   Everything that can go wrong on purpose, and the hand that moves the markets.
# Position:  Uses §E01 to §E11. Owned by §E15; tests hold it as `control`.
# Principle: A fault is observed misbehaviour of the real thing, switched on for a while.
# ======================================================================================
REQUESTS_KEPT_MAX = 50_000
HANG_S = 120.0                          # how long a black hole keeps a connection
GARBLES = ("truncated", "html", "empty", "no_order_id", "error_object", "wrong_type",
           "other_order", "reordered")


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One REST request as the exchange saw it. `status` 0: never answered."""

    at_us: int
    method: str
    path: str
    operation: str
    status: int
    client_order_id: str
    body: bytes


@dataclass(slots=True, kw_only=True)
class HttpFault:
    """One fault for the next `left` matching requests.

    Kinds: reject, fail (accepted, then this status), lose (accepted, then reset), hang
    (accepted, never answered), black_hole (never processed), reset (never processed), delay
    (`seconds` before), slow (after), garble.
    """

    kind: str
    left: int
    match: str = "*"
    status: int = 503
    body: bytes = b""
    seconds: float = 0.0
    garble: str = "truncated"

    def hits(self, operation: str, is_write: bool) -> bool:
        """True when the fault applies to this operation (`*`, `write`, or its name)."""
        return self.left > 0 and (self.match in ("*", operation)
                                  or (self.match == "write" and is_write))


class Tamper:
    """What happens to outgoing frames. Counts go down with each frame they touch."""

    def __init__(self) -> None:
        self.drop = self.duplicate = self.reorder = self.corrupt = 0
        self.is_muted = False
        self.kind = ""
        self._held: list[str] = []

    def pass_on(self, text: str) -> list[str]:
        """The frames that leave instead of this one."""
        if self.is_muted or (self.kind and f'"type":"{self.kind}"' not in text):
            return [] if self.is_muted else [text]
        if self.drop:
            self.drop -= 1
            return []
        if self.corrupt:
            self.corrupt -= 1
            return [text[:max(1, len(text) // 2)]]
        if self.reorder:
            self._held.append(text)
            if len(self._held) < 2:
                return []
            self.reorder -= 1
            second, first = self._held
            self._held = []
            return [first, second]
        if self.duplicate:
            self.duplicate -= 1
            return [text, text]
        return [text]


class Control:
    """The hand of a test or of a person. Each method acts at once."""

    def __init__(self, exchange: SimExchange) -> None:
        self._exchange = exchange
        self.faults: list[HttpFault] = []
        self.refuse_ws_until_us = 0
        self.latency_s = 0.0

    # The market's hand.

    def settle(self, ticker: str, result: str, value: str | None = None) -> None:
        """Determine and pay a market now. `value`: dollar string of one YES (scalar)."""
        self._engine().settle(ticker, result, None if value is None else parse_price_cc(value))

    def determine(self, ticker: str, result: str, value: str | None = None) -> None:
        """Name a result; the settlement timer runs. Again after a dispute: amended."""
        self._engine().determine(ticker, result, None if value is None else parse_price_cc(value))

    def dispute(self, ticker: str) -> None:
        """Challenge a result: nothing is paid until the next `determine`."""
        self._engine().dispute(ticker)

    def deactivate(self, ticker: str) -> None:
        """Pause one market."""
        self._engine().deactivate(ticker)

    def activate(self, ticker: str) -> None:
        """End a market's pause (its resting orders are cancelled)."""
        self._engine().activate(ticker)

    def set_close_time(self, ticker: str, close_s: float) -> None:
        """Move a market's close (Unix seconds of exchange time)."""
        self._engine().set_close_time(ticker, int(close_s * SECOND_US))

    def set_grid(self, ticker: str, label: str) -> None:
        """Change the price grid of a market."""
        self._engine().set_grid(ticker, Grid.named(label))

    def set_floor(self, ticker: str, floor: str) -> None:
        """Guarantee a minimum payout (dollar string)."""
        floor_cc = parse_price_cc(floor)
        if floor_cc is None:
            raise ValueError(f"floor: {floor!r} is not a price")
        self._engine().set_floor(ticker, floor_cc)

    def set_event_fees(self, event_ticker: str, fee_type: str | None = None,
                       multiplier: str | None = None) -> None:
        """Override the fees of an event (None: clear)."""
        self._engine().set_event_fees(event_ticker, fee_type,
                                      None if multiplier is None else _multiplier_e4(multiplier))

    def pause_trading(self, resume_s: float | None = None) -> None:
        """Place and amend are refused, cancel works."""
        self._engine().pause("trading", None if resume_s is None else int(resume_s * SECOND_US))

    def pause_exchange(self, resume_s: float | None = None) -> None:
        """Cancels are refused too."""
        self._engine().pause("exchange", None if resume_s is None else int(resume_s * SECOND_US))

    def resume(self) -> None:
        """End every pause."""
        self._engine().resume()

    def place(self, ticker: str, side: str, price: str, count: str, client_order_id: str = "",
              time_in_force: str = "good_till_canceled") -> str:
        """An order on the trader's account that the trader did not send; answers its id."""
        engine = self._engine()
        price_cc, count_h = parse_price_cc(price), parse_count_h(count)
        if price_cc is None or count_h is None or side not in ("bid", "ask"):
            raise ValueError(f"place: {side!r} {count!r} at {price!r} is no order")
        return engine.create(OrderRequest(
            ticker=ticker, is_bid=side == "bid", price_cc=price_cc, count_h=count_h,
            client_order_id=client_order_id, time_in_force=time_in_force)).order_id

    def cancel(self, order_id: str) -> None:
        """Cancel an order of the trader's account from outside."""
        self._engine().cancel(order_id)

    def crowd(self, ticker: str, side: str, price: str, count: str, rests: bool = True) -> None:
        """An order of somebody else: trades, then rests if `rests`."""
        engine = self._engine()
        price_cc, count_h = parse_price_cc(price), parse_count_h(count)
        if price_cc is None or not count_h or side not in ("bid", "ask"):
            raise ValueError(f"crowd: {side!r} {count!r} at {price!r} is no order")
        engine.crowd_order(engine.market_of(ticker), side == "bid", price_cc, count_h, rests)

    def freeze_crowd(self, is_frozen: bool = True) -> None:
        """Stop or restart the synthetic agents; what they missed meanwhile does not happen."""
        exchange = self._exchange
        if not is_frozen and isinstance(exchange.driver, SyntheticDriver):
            exchange.driver.postpone(exchange.now_us())
        exchange.is_crowd_frozen = is_frozen

    def set_switch(self, name: str, value: str) -> None:
        """Change a named switch while running."""
        self._exchange.switches.set(name, value)

    # The network's hand: REST.

    def reject_next(self, n: int = 1, status: int = 503, body: str = "", match: str = "write"
                    ) -> None:
        """Answer the next requests with this instead of acting."""
        self._add(HttpFault(kind="reject", left=n, match=match, status=status,
                            body=body.encode()))

    def fail_next(self, n: int = 1, status: int = 503, body: str = "", match: str = "create"
                  ) -> None:
        """Act on the next requests, and answer with this all the same."""
        self._add(HttpFault(kind="fail", left=n, match=match, status=status,
                            body=body.encode()))

    def lose_answers(self, n: int = 1, how: str = "reset", match: str = "create") -> None:
        """Act on the next requests, then `reset` the connection, or `hang` for ever."""
        if how not in ("reset", "hang"):
            raise ValueError(f"lose_answers: {how!r} is neither reset nor hang")
        self._add(HttpFault(kind="lose" if how == "reset" else "hang", left=n, match=match))

    def black_hole(self, n: int = 1, match: str = "create") -> None:
        """Never act on the next requests, and never answer."""
        self._add(HttpFault(kind="black_hole", left=n, match=match))

    def reset_next(self, n: int = 1, match: str = "*") -> None:
        """Cut the connection of the next requests without acting."""
        self._add(HttpFault(kind="reset", left=n, match=match))

    def delay(self, seconds: float, n: int = 1, match: str = "create",
              before: bool = True) -> None:
        """Act on the next requests later (`before`), or answer later."""
        self._add(HttpFault(kind="delay" if before else "slow", left=n, match=match,
                            seconds=seconds))

    def garble_next(self, kind: str, n: int = 1, match: str = "create") -> None:
        """Act, then spoil the answer: see GARBLES."""
        if kind not in GARBLES:
            raise ValueError(f"garble_next: {kind!r} is not one of {', '.join(GARBLES)}")
        self._add(HttpFault(kind="garble", left=n, match=match, garble=kind))

    def _add(self, fault: HttpFault) -> None:
        self.faults.append(fault)

    def unauthorised(self, seconds: float) -> None:
        """Every signed call answers 401 for so long."""
        exchange = self._exchange
        exchange.gate.refuse_until_us = exchange.now_us() + int(seconds * SECOND_US)

    def too_many_requests(self, seconds: float) -> None:
        """Every billed call answers 429 for so long."""
        exchange = self._exchange
        exchange.limits.storm_until_us = exchange.now_us() + int(seconds * SECOND_US)

    def set_scopes(self, scopes: list[str]) -> None:
        """What the key may do: `read`, `write`. A missing one answers 403."""
        self._exchange.gate.scopes = [name for name in ("read", "write") if name in scopes]

    def rate_limit(self, is_on: bool) -> None:
        """Switch the token buckets on or off."""
        self._exchange.limits.is_on = is_on and self._exchange.limits.tier is not None

    def shift_clock(self, seconds: float) -> None:
        """The clock the exchange shows and judges by jumps (0: true again).

        Signatures, the `Date` header and `sending_ts_ms` move; the engine's own time does not.
        """
        self._exchange.gate.clock_shift_us = int(seconds * SECOND_US)
        self._exchange.hub.shift_us = int(seconds * SECOND_US)

    def add_key(self, key_id: str, pem: str) -> None:
        """One more key of the same account."""
        self._exchange.gate.keys[key_id] = replace(load_credentials(pem), key_id=key_id)

    def drop_key(self, key_id: str) -> None:
        """Delete a key: requests signed with it are refused."""
        del self._exchange.gate.keys[key_id]

    def set_latency(self, seconds: float) -> None:
        """Every order write takes so long to arrive (exchange time)."""
        self.latency_s = seconds

    def heal(self) -> None:
        """End every fault of the network at once."""
        self.faults.clear()
        self.refuse_ws_until_us = 0
        exchange = self._exchange
        exchange.gate.refuse_until_us = exchange.gate.clock_shift_us = exchange.hub.shift_us = 0
        exchange.limits.storm_until_us = 0
        self.latency_s = exchange.frame_delay_s = 0.0
        for session in exchange.hub.sessions.values():
            session.tamper = None

    # The network's hand: WebSocket.

    def drop_websockets(self) -> None:
        """Cut every socket without a close frame."""
        self._exchange.cut_sockets()

    def refuse_websockets(self, seconds: float) -> None:
        """Answer 502 to new connections for so long."""
        self.refuse_ws_until_us = self._exchange.now_us() + int(seconds * SECOND_US)

    def _tampers(self, kind: str = "") -> list[Tamper]:
        exchange = self._exchange
        rows = []
        for session in exchange.hub.sessions.values():
            session.tamper = session.tamper or Tamper()
            session.tamper.kind = kind
            rows.append(session.tamper)
        return rows

    def drop_frames(self, n: int = 1, kind: str = "") -> None:
        """Lose the next frames of every session (of one type, if named)."""
        for tamper in self._tampers(kind):
            tamper.drop += n

    def duplicate_frames(self, n: int = 1, kind: str = "") -> None:
        """Send the next frames twice."""
        for tamper in self._tampers(kind):
            tamper.duplicate += n

    def reorder_frames(self, n: int = 1, kind: str = "") -> None:
        """Swap the next pairs of frames."""
        for tamper in self._tampers(kind):
            tamper.reorder += n

    def corrupt_frames(self, n: int = 1, kind: str = "") -> None:
        """Cut the next frames in half."""
        for tamper in self._tampers(kind):
            tamper.corrupt += n

    def mute_websockets(self, is_muted: bool = True) -> None:
        """Sockets stay up and answer pings, but no frame comes."""
        for tamper in self._tampers():
            tamper.is_muted = is_muted

    def delay_frames(self, seconds: float) -> None:
        """Every frame leaves so much later (0: no more)."""
        self._exchange.frame_delay_s = seconds

    def send_frame(self, text: str) -> None:
        """Put any text on every socket as it is."""
        for session in self._exchange.hub.sessions.values():
            session.push(text)
            session.flush()

    def terminal_error(self, code: int = 10, channel: str = "orderbook_delta") -> None:
        """End the subscription of a channel with error 10 or 25."""
        if code not in (10, 25):
            raise ValueError(f"terminal_error: {code} is neither 10 nor 25")
        for session in self._exchange.hub.sessions.values():
            sub = session.by_channel.get(channel)
            if sub is not None:
                session.kill(sub, code)
                session.flush()

    def _engine(self) -> Engine:
        self._exchange.tick()
        return self._exchange.engine

    def call(self, action: str, arguments: Mapping[str, object]) -> object:
        """Run a control by its name; ValueError when there is none or it does not fit."""
        method = getattr(self, action, None)
        if action.startswith("_") or action == "call" or not callable(method):
            raise ValueError(f"no control {action!r}")
        try:
            return method(**arguments)
        except TypeError as error:
            raise ValueError(str(error)) from error
        except Refusal as refusal:
            raise ValueError(str(refusal)) from refusal


# ======================================================================================
# §E14b TRUTH AND WEATHER
# Purpose:   What the exchange itself knows of the member; random faults.
# Position:  Uses §E01 to §E14a. Owned by §E15; tests hold the view as `account`.
# Principle: The truth has no lag and cannot be written.
# ======================================================================================
class AccountView:
    """What the exchange itself knows of the member; read-only, without lag."""

    def __init__(self, exchange: SimExchange) -> None:
        self._exchange = exchange

    @property
    def cash_ud(self) -> int:
        """Cash of the primary account in micro-dollars."""
        return self._exchange.engine.account.cash_ud

    @property
    def positions(self) -> dict[str, int]:
        """Signed count (hundredths) per ticker, without the flat ones."""
        account = self._exchange.engine.account
        return {ticker: position.state.position_h for ticker, position in account.positions.items()
                if position.state.position_h}

    @property
    def position_states(self) -> dict[str, PositionState]:
        """The whole position per ticker, also flat and settled ones."""
        return {ticker: position.state
                for ticker, position in self._exchange.engine.account.positions.items()}

    @property
    def realised_ud(self) -> int:
        """Profit locked in over all markets, before fees."""
        return sum(state.realized_ud for state in self.position_states.values())

    @property
    def fees_ud(self) -> int:
        """Fees of all fills."""
        return sum(state.fees_ud for state in self.position_states.values())

    @property
    def fills(self) -> list[Fill]:
        """All fills, oldest first."""
        return list(self._exchange.engine.fills)

    @property
    def orders(self) -> list[MemberOrder]:
        """All orders, oldest first."""
        return list(self._exchange.engine.orders.values())

    @property
    def open_orders(self) -> list[MemberOrder]:
        """Resting orders."""
        return list(self._exchange.engine.open.values())

    @property
    def settlements(self) -> list[Settlement]:
        """All settlements, oldest first."""
        return list(self._exchange.engine.settlements)

    @property
    def requests(self) -> list[RequestRecord]:
        """The last requests, oldest first."""
        return list(self._exchange.request_log)

    @property
    def imbalance_ud(self) -> int:
        """0 while money is conserved."""
        return self._exchange.engine.imbalance_ud()

    def body(self) -> Json:
        """The view as JSON, for `GET /sim/account`."""
        user_id = self._exchange.engine.user_id
        return {
            "now_us": self._exchange.now_us(), "cash_ud": self.cash_ud,
            "positions": self.positions, "realised_ud": self.realised_ud, "fees_ud": self.fees_ud,
            "imbalance_ud": self.imbalance_ud,
            "position_states": {ticker: state._asdict()
                                for ticker, state in self.position_states.items()},
            "fills": [fill._asdict() for fill in self.fills],
            "settlements": [row._asdict() for row in self.settlements],
            "orders": [order_body(order, _state_now(order), user_id) for order in self.orders],
        }


def _state_now(order: MemberOrder) -> OrderState:
    state = order.versions.at(order.updated_us)
    assert state is not None, "every listed order has been touched"
    return state


MILD_FAULTS_EVERY_S, WILD_FAULTS_EVERY_S = 45.0, 8.0


class FaultWeather:
    """Random faults for `--faults mild` and `wild`: each is one call of a control."""

    def __init__(self, control: Control, rng: random.Random, level: str) -> None:
        self._control, self._rng, self._level = control, rng, level

    def wait_s(self) -> float:
        """Time to the next fault."""
        mean_s = MILD_FAULTS_EVERY_S if self._level == "mild" else WILD_FAULTS_EVERY_S
        return self._rng.expovariate(1 / mean_s) + 1.0

    def strike(self) -> str:
        """Let one fault happen; answers its name."""
        control, rng = self._control, self._rng
        mild: list[tuple[str, Callable[[], None]]] = [
            ("delay", lambda: control.delay(rng.uniform(0.2, 2.0), match="write")),
            ("lose_answers", lambda: control.lose_answers(1)),
            ("reject_next", lambda: control.reject_next(1, rng.choice((500, 502, 503, 504)))),
            ("fail_next", lambda: control.fail_next(1, rng.choice((500, 502, 503, 504)))),
            ("drop_frames", lambda: control.drop_frames(1, "orderbook_delta")),
            ("drop_websockets", control.drop_websockets),
        ]
        wild: list[tuple[str, Callable[[], None]]] = [
            ("black_hole", lambda: control.black_hole(1)),
            ("hang", lambda: control.lose_answers(1, "hang")),
            ("too_many_requests", lambda: control.too_many_requests(rng.uniform(0.5, 3.0))),
            ("refuse_websockets", lambda: self._refuse(rng.uniform(1.0, 10.0))),
            ("duplicate_frames", lambda: control.duplicate_frames(2)),
            ("reorder_frames", lambda: control.reorder_frames(1, "orderbook_delta")),
            ("corrupt_frames", lambda: control.corrupt_frames(1, "orderbook_delta")),
            ("terminal_error", lambda: control.terminal_error(rng.choice((10, 25)))),
            ("garble_next", lambda: control.garble_next(rng.choice(GARBLES[:6]))),
        ]
        name, act = rng.choice(mild if self._level == "mild" else mild + wild)
        act()
        return name

    def _refuse(self, seconds: float) -> None:
        self._control.refuse_websockets(seconds)
        self._control.drop_websockets()


# ======================================================================================
# §E15a ASSEMBLY
# Purpose:   Build all parts of one exchange and keep them up to date.
# Position:  Uses §E01 to §E14. Extended by §E15b and §E15c.
# Principle: Whoever asks brings the exchange up to now first.
# ======================================================================================
HEARTBEAT_S = 0.005                     # exchange time between two looks at what is due
SEND_BUFFER_MAX = 64 * 1024 * 1024      # unread bytes after which a reader is given up
BODY_MAX = 4 * 1024 * 1024


KEY_FILE = "sim_exchange_key.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the exchange listens, and the key to it."""

    rest: str
    ws: str
    key_id: str
    private_key_path: str
    private_key_pem: str = field(repr=False)


class Assembly:
    """The parts of an exchange, wired; nothing runs yet."""

    def __init__(self, settings: SimSettings, time: ExchangeTime | None = None) -> None:
        self.settings = settings
        self.switches = Switches(settings.switches)
        start_s = tape_start_s(settings.tapes) if settings.tapes else None
        self._time = time or RealTime(epoch_s=start_s)
        rng = random.Random(settings.seed)
        self.credentials = _credentials_for(settings, rng)
        now_us = int(self._time.wall_s() * SECOND_US)
        self.engine = Engine(switches=self.switches, rng=rng, sink=_NoSink(), now_us=now_us,
                             cash_ud=parse_money_ud(settings.balance_dollars))
        self.engine.settle_after_us = int(settings.settle_after_s * SECOND_US)
        self.hub = Hub(self.engine, self.switches, random.Random(rng.getrandbits(64)),
                       self._call_soon)
        self.engine.sink = self.hub
        self.driver: Driver = (
            TapeDriver(self.engine, settings, int((start_s or 0.0) * SECOND_US))
            if settings.tapes else
            SyntheticDriver(self.engine, random.Random(rng.getrandbits(64)), settings))
        self.gate = Gate(self.credentials, self.switches)
        self.limits = RateLimits(TIERS[settings.tier], now_us)
        self.api = self._build_api(random.Random(rng.getrandbits(64)))
        self.control: Control
        self.account: AccountView
        self._weather_rng = random.Random(rng.getrandbits(64))
        self.request_log: deque[RequestRecord] = deque(maxlen=REQUESTS_KEPT_MAX)
        self.is_crowd_frozen = False
        self.frame_delay_s = 0.0
        self._late: deque[tuple[asyncio.Transport, bytes]] = deque()
        self.key_path = ""
        self._sockets: dict[int, tuple[Session, web.WebSocketResponse, asyncio.Transport]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._date = (0, "")

    def _build_api(self, rng: random.Random) -> RestApi:
        engine, switches = self.engine, self.switches
        lag = Lag(switches, rng)
        routes = [*ExchangeReads(engine, switches, lag).routes(),
                  *PortfolioReads(engine, switches, lag).routes(),
                  *OrderWrites(engine, switches).routes(),
                  *AccountCalls(engine, switches, self.gate, self.settings.tier).routes()]
        return RestApi(engine, self.gate, self.limits, switches, routes)

    def now_us(self) -> int:
        """Exchange time now, microseconds."""
        return int(self._time.wall_s() * SECOND_US)

    def tick(self) -> None:
        """Bring the exchange up to now: frames, agents and timers that are due."""
        now_us = self.now_us()
        if not self.is_crowd_frozen or self.settings.tapes:
            self.driver.step(now_us)
        self.engine.advance(now_us)

    @staticmethod
    def _call_soon(action: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(action)


def _credentials_for(settings: SimSettings, rng: random.Random) -> Credentials:
    """The kept key of `key_dir` if there is one, else a new one."""
    if settings.key_dir is not None:
        path = Path(settings.key_dir) / KEY_FILE
        if path.exists():
            return load_credentials(path.read_text())
    return make_credentials(settings.key_type, rng)


def _garbled(answer: Answer, kind: str) -> Answer:
    """A spoiled answer to a request that was acted on."""
    good = orjson.dumps(answer.payload)
    payload = answer.payload if isinstance(answer.payload, dict) else {}
    match kind:
        case "truncated":
            return Answer(answer.status, good[:len(good) // 2])
        case "html":
            return Answer(answer.status, b"<html><body>ok</body></html>")
        case "empty":
            return Answer(answer.status, b"")
        case "no_order_id":
            return Answer(answer.status, {name: value for name, value in payload.items()
                                          if name != "order_id"})
        case "error_object":
            return Answer(answer.status, {"error": {"code": "internal", "message": "internal"}})
        case "reordered":
            rows = payload.get("orders")
            return Answer(answer.status, payload | {"orders": rows[::-1]}
                          if isinstance(rows, list) else payload)
        case "other_order":
            other = "00000000-0000-4000-8000-000000000000"
            return Answer(answer.status, payload | {"order_id": other})
        case _:
            return Answer(answer.status, b"ok")


class _NoSink:
    """Hears nothing: while the first markets are listed there is nobody to tell."""

    def publish(self, notes: list[Note]) -> None:
        """Nobody listens."""


# ======================================================================================
# §E15b SHELLS
# Purpose:   HTTP and WebSocket handlers: waiting, faults, broken connections.
# Position:  Uses §E01 to §E15a. Extended by §E15c.
# Principle: The shell waits and breaks; the rooms above decide.
# ======================================================================================
class Shells(Assembly):
    """The handlers of aiohttp."""

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read() if request.can_read_body else b""
        except web.HTTPRequestEntityTooLarge:
            refusal = bad_request("http: request body too large")
            return self._response(Answer(413, refusal.body()))
        call = RestCall(request.method, request.raw_path, request.headers, body)
        self.tick()
        try:
            route = self.api.admit(call)
        except Refusal as refusal:
            return self._record(call, "refused", Answer(refusal.status, refusal.body()))
        return await self._serve(request, route, call)

    async def _serve(self, request: web.Request, route: Route,
                     call: RestCall) -> web.StreamResponse:
        """Run an admitted request through the faults that are on."""
        fault = self._fault_for(route)
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind in ("black_hole", "reset"):
            return await self._vanish(request, call, route, hangs=kind == "black_hole")
        if fault is not None and kind == "reject":
            return self._record(call, route.name, Answer(fault.status, fault.body))
        await self._travel(route, fault)
        answer = self.api.run(route, call)
        if fault is None:
            return self._record(call, route.name, answer)
        if kind in ("lose", "hang"):
            return await self._vanish(request, call, route, hangs=kind == "hang")
        if kind == "fail":
            answer = Answer(fault.status, fault.body)
        if kind == "slow":
            await self._time.sleep(fault.seconds)
        if kind == "garble":
            answer = _garbled(answer, fault.garble)
        return self._record(call, route.name, answer)

    async def _travel(self, route: Route, fault: HttpFault | None) -> None:
        """The way of a request to the engine: latency of tapes, and delays."""
        wait_s = self.control.latency_s
        if route.is_order_write and self.settings.tapes:
            wait_s += self.settings.latency_ms / 1000
        if fault is not None and fault.kind == "delay":
            wait_s += fault.seconds
        if wait_s > 0:
            await self._time.sleep(wait_s)
        self.tick()

    def _fault_for(self, route: Route) -> HttpFault | None:
        faults = self.control.faults
        for fault in faults:
            if fault.hits(route.name, route.is_order_write):
                fault.left -= 1
                if not fault.left:
                    faults.remove(fault)
                return fault
        return None

    async def _vanish(self, request: web.Request, call: RestCall, route: Route, *,
                      hangs: bool) -> web.StreamResponse:
        """No answer: the connection is cut, at once or after a long silence."""
        self._record(call, route.name, Answer(0, None))
        if hangs:
            await asyncio.sleep(HANG_S)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("simulated loss of an answer")

    def _record(self, call: RestCall, operation: str, answer: Answer) -> web.Response:
        client_id = ""
        if call.method == "POST" and b'"client_order_id"' in call.body:
            found = re.search(rb'"client_order_id"\s*:\s*"([^"]{0,64})"', call.body)
            client_id = found[1].decode(errors="replace") if found else ""
        self.request_log.append(RequestRecord(self.engine.now_us, call.method, call.target,
                                              operation, answer.status, client_id, call.body))
        return self._response(answer)

    def _response(self, answer: Answer) -> web.Response:
        payload = answer.payload
        raw = payload if isinstance(payload, bytes) else (
            b"" if payload is None else orjson.dumps(payload))
        is_json = raw[:1] in (b"{", b"[") or payload is None
        second = (self.engine.now_us + self.gate.clock_shift_us) // SECOND_US
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        headers = {"Date": self._date[1]}
        if raw:
            headers["Content-Type"] = "application/json" if is_json else "text/html"
        return web.Response(status=answer.status or 503, body=raw or None, headers=headers)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        self.tick()
        if self.now_us() < self.control.refuse_ws_until_us:
            return self._response(Answer(502, b"<html>502 Bad Gateway</html>"))
        try:
            self.gate.check("GET", request.raw_path, request.headers, self.engine.now_us)
        except Refusal as refusal:
            return self._response(Answer(refusal.status, refusal.body()))
        socket = web.WebSocketResponse(compress=False, autoping=True, max_msg_size=BODY_MAX)
        await socket.prepare(request)
        transport = request.transport
        assert transport is not None, "a connected request has a transport"  # uvloop's is its own
        session = self.hub.open(lambda data: self._write(transport, data))
        self._sockets[id(session)] = (session, socket, transport)
        try:
            async for message in socket:
                self.tick()
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    session.receive(message.data)
        finally:
            self._sockets.pop(id(session), None)
            self.hub.close(session)
        return socket

    def _write(self, transport: asyncio.Transport, data: bytes) -> None:
        if self.frame_delay_s <= 0 and not self._late:
            self._write_now(transport, data)
            return
        # Timers with equal deadlines may swap, so each one delivers the oldest bytes.
        self._late.append((transport, data))
        asyncio.get_running_loop().call_later(
            self.frame_delay_s, lambda: self._write_now(*self._late.popleft()))

    @staticmethod
    def _write_now(transport: asyncio.Transport, data: bytes) -> None:
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > SEND_BUFFER_MAX:
            log_stream.warning("reader given up unread_bytes=%d", SEND_BUFFER_MAX)
            transport.abort()
            return
        transport.write(data)

    def cut_sockets(self) -> None:
        """Cut every WebSocket without a close frame."""
        for _, _, transport in list(self._sockets.values()):
            transport.abort()

    async def _sim_control(self, request: web.Request) -> web.StreamResponse:
        if request.remote not in ("127.0.0.1", "::1"):
            return self._response(Answer(403, {"error": "loopback only"}))
        try:
            arguments = orjson.loads(await request.read())
            action = arguments.pop("action")
            result = self.control.call(str(action), arguments)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._response(Answer(400, {"error": str(error)}))
        return self._response(Answer(200, {"ok": True, "result": result}))

    async def _sim_account(self, request: web.Request) -> web.StreamResponse:
        self.tick()
        return self._response(Answer(200, self.account.body()))

    async def _sim_requests(self, request: web.Request) -> web.StreamResponse:
        rows = [{"at_us": row.at_us, "method": row.method, "path": row.path,
                 "operation": row.operation, "status": row.status,
                 "client_order_id": row.client_order_id,
                 "body": row.body.decode(errors="replace")} for row in self.request_log]
        return self._response(Answer(200, {"requests": rows}))


# ======================================================================================
# §E15c EXCHANGE
# Purpose:   Start and stop: the socket, the key file, the drivers, the pings.
# Position:  Uses §E01 to §E15b. Started by §E17, by trader.py's roof, and by tests.
# Principle: What it started it also ends.
# ======================================================================================
class SimExchange(Shells):
    """The whole exchange. Embedded: `start`, or `build_app` and `run_drivers`; then `stop`."""

    def __init__(self, settings: SimSettings, time: ExchangeTime | None = None) -> None:
        """Lists all markets and seeds their books; nothing runs yet.

        Raises ValueError (also TapeError) when the settings cannot be met.
        """
        super().__init__(settings, time)
        self.control, self.account = Control(self), AccountView(self)
        self.weather = FaultWeather(self.control, self._weather_rng, settings.faults)

    def build_app(self) -> web.Application:
        """REST, WebSocket and (with `control`) the control surface, for an AppRunner."""
        app = web.Application(client_max_size=BODY_MAX)
        app.router.add_get(WS_ROOT, self._websocket)
        if self.settings.control:
            app.router.add_post("/sim/control", self._sim_control)
            app.router.add_get("/sim/account", self._sim_account)
            app.router.add_get("/sim/requests", self._sim_requests)
        app.router.add_route("*", "/{tail:.*}", self._rest)
        return app

    def make_runner(self) -> web.AppRunner:
        """The server without a socket; its `server` makes protocols for memory links."""
        return web.AppRunner(self.build_app(), access_log=None, shutdown_timeout=1.0)

    def replay_status(self) -> Json:
        """Where the tapes stand; {} without a tape."""
        driver = self.driver
        return driver.status(self.now_us()) if isinstance(driver, TapeDriver) else {}

    def settle_tapes(self) -> None:
        """End the tapes here and pay their markets with the recorded results."""
        if isinstance(self.driver, TapeDriver):
            self.driver.settle_now(self.now_us())
            self.tick()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Address:
        """Listen on a real socket and start the drivers. OSError when the port is taken."""
        self._runner = self.make_runner()
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        bound = self._runner.addresses[0][1]
        self._write_key()
        self.start_drivers()
        return self.address(f"{host}:{bound}")

    def address(self, authority: str = "sim.invalid") -> Address:
        """Where it answers under this host and port."""
        return Address(rest=f"http://{authority}{REST_ROOT}", ws=f"ws://{authority}{WS_ROOT}",
                       key_id=self.credentials.key_id, private_key_path=self.key_path,
                       private_key_pem=self.credentials.private_pem)

    def _write_key(self) -> None:
        folder = Path(self.settings.key_dir or tempfile.mkdtemp(prefix="sim-exchange-"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / KEY_FILE
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as stream:
                stream.write(self.credentials.private_pem)
        self.key_path = str(path)

    def start_drivers(self) -> None:
        """Start the background tasks; they belong to this exchange until `stop`."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.run_drivers(), name="sim-drivers"),
                       loop.create_task(self._ping_forever(), name="sim-pings")]
        if self.settings.faults != "off":
            self._tasks.append(loop.create_task(self._run_weather(), name="sim-faults"))

    async def run_drivers(self) -> None:
        """Keep the exchange up to date until cancelled."""
        while True:
            self.tick()
            due = [at_us for at_us in (self._driver_due_us(), self.engine.next_due_us())
                   if at_us is not None]
            wait_s = (min(due) - self.now_us()) / SECOND_US if due else 1.0
            await self._time.sleep(min(1.0, max(HEARTBEAT_S, wait_s)))

    def _driver_due_us(self) -> int | None:
        if self.is_crowd_frozen and not self.settings.tapes:
            return None
        return self.driver.next_due_us()

    async def _ping_forever(self) -> None:
        while True:
            await self._time.sleep(self.switches.number("server_pings"))
            for _, socket, _ in list(self._sockets.values()):
                with suppress(ConnectionError, RuntimeError):
                    await socket.ping(b"heartbeat")

    async def _run_weather(self) -> None:
        while True:
            await self._time.sleep(self.weather.wait_s())
            log_faults.info("fault injected kind=%s", self.weather.strike())

    async def stop(self) -> None:
        """End the tasks, close the sockets, remove a temporary key."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for _, socket, _ in list(self._sockets.values()):
            with suppress(ConnectionError, RuntimeError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await socket.close(code=1001)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self.key_path and self.settings.key_dir is None:
            shutil.rmtree(Path(self.key_path).parent, ignore_errors=True)


# ======================================================================================
# §E16 VIRTUAL TIME
# Purpose:   A loop whose idle waits jump to the next timer, links in memory, kill -9.
# Position:  Uses aiohttp and asyncio only. Used by tests and by the trader's backtest.
# Principle: The same seed gives the same history; a process can die between two callbacks.
# ======================================================================================
PROCESS: contextvars.ContextVar[str] = contextvars.ContextVar("simulated_process", default="world")
_GRAVES: list[asyncio.Task[Any]] = []   # never emptied: a freed frame would run its `finally`


class Deadlock(RuntimeError):
    """Every task waits and no timer is set: in real time the program would hang for ever."""


class _Soon(asyncio.Handle):
    """A callback that waits its turn, without the debugging of asyncio's own."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...],
                 loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self._callback, self._args, self._loop, self._context = callback, args, loop, context
        self._cancelled, self._repr, self._source_traceback = False, None, None

    def cancel(self) -> None:
        """It will not run; what it held is let go."""
        if not self._cancelled:
            handle: Any = self          # asyncio types neither as optional
            handle._cancelled, handle._callback, handle._args = True, None, None


class _Timer(_Soon, asyncio.TimerHandle):
    """A callback that waits for its moment."""

    __slots__ = ()

    def __init__(self, when_s: float, callback: Callable[..., object], args: tuple[Any, ...],
                 loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        # As _Soon's, written out: tens of these are made for each simulated second.
        self._callback, self._args, self._loop, self._context = callback, args, loop, context
        self._cancelled, self._repr, self._source_traceback = False, None, None
        self._when, self._scheduled = when_s, False


class SimLoop(asyncio.SelectorEventLoop):
    """Virtual time from 0, and processes that can be killed between two callbacks.

    Idle waits jump to the next timer; timers with equal deadlines run in the order they were set.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._dead: set[str] = set()
        self._owner: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = (
            weakref.WeakKeyDictionary())
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = count()
        super().__init__()
        self._turn: deque[asyncio.Handle] = deque()
        internals: Any = self               # these live below asyncio's typed surface
        internals._ready = self._turn       # asyncio's own methods append to it as well
        internals._run_once = self._run_turn
        internals.set_task_factory(SimLoop._new_task)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now_s

    def call_soon(self, callback: Callable[..., object], *args: Any,  # type: ignore[override]
                  context: contextvars.Context | None = None) -> asyncio.Handle:
        """As asyncio's; a dead process schedules nothing."""
        where = contextvars.copy_context() if context is None else context
        handle = _Soon(callback, args, self, where)
        if self._dead and where.get(PROCESS, "world") in self._dead:
            handle.cancel()
        else:
            self._turn.append(handle)
        return handle

    def call_later(self, delay: float,  # type: ignore[override]
                   callback: Callable[..., object], *args: Any,
                   context: contextvars.Context | None = None) -> asyncio.TimerHandle:
        """As asyncio's; a dead process schedules nothing."""
        return self._set_timer(self.now_s + delay, callback, args, context)

    def call_at(self, when: float,  # type: ignore[override]
                callback: Callable[..., object], *args: Any,
                context: contextvars.Context | None = None) -> asyncio.TimerHandle:
        """As asyncio's; a dead process schedules nothing."""
        return self._set_timer(when, callback, args, context)

    def _set_timer(self, when: float, callback: Callable[..., object], args: tuple[Any, ...],
                   context: contextvars.Context | None) -> asyncio.TimerHandle:
        where = contextvars.copy_context() if context is None else context
        timer = _Timer(when, callback, args, self, where)
        if self._dead and where.get(PROCESS, "world") in self._dead:
            timer.cancel()
        else:
            heappush(self._timers, (when, next(self._order), timer))
        return timer

    def _run_turn(self) -> None:
        """One round: jump to the next timer when nothing is ready, then run what is."""
        turn, timers = self._turn, self._timers
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if not turn and not getattr(self, "_stopping", False):
            if not timers:
                raise Deadlock("nothing is scheduled")
            self.now_s = max(self.now_s, timers[0][0])
        while timers and timers[0][0] <= self.now_s:
            turn.append(heappop(timers)[2])
        for _ in range(len(turn)):
            handle: Any = turn.popleft()
            if not handle._cancelled:
                handle._run()

    def run_for(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        self.call_later(seconds, self.stop)
        self.run_forever()

    def kill(self, process: str) -> None:
        """SIGKILL: nothing of `process` runs again. A restart needs a new process name."""
        self._dead.add(process)
        _GRAVES.extend(task for task, owner in self._owner.items() if owner == process)
        waiting: list[Any] = [*self._turn, *(timer for _, _, timer in self._timers)]
        for handle in waiting:
            if handle._context.get(PROCESS, "world") == process:
                handle.cancel()

    def is_dead(self, process: str) -> bool:
        """True once `process` has been killed."""
        return process in self._dead

    def close(self) -> None:
        """As asyncio's; what is scheduled is forgotten."""
        self._timers.clear()
        super().close()

    def _new_task(self, coro: Coroutine[Any, Any, Any],
                  context: contextvars.Context | None = None, **kwargs: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, context=context, **kwargs)
        self._owner[task] = context.get(PROCESS, "world") if context else PROCESS.get()
        return task


class LoopTime:
    """An ExchangeTime on a virtual loop: epoch plus loop time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch_s: float) -> None:
        self._loop, self._epoch_s = loop, epoch_s

    def wall_s(self) -> float:
        """Exchange time now, Unix seconds."""
        return self._epoch_s + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait virtual seconds."""
        await asyncio.sleep(max(0.0, seconds))


def context_of(process: str) -> contextvars.Context:
    """A context for `call_soon` and `create_task`: what starts in it belongs to `process`."""
    context = contextvars.copy_context()
    context.run(PROCESS.set, process)
    return context


class MemoryTransport(asyncio.Transport):
    """One end of an in-memory TCP connection: ordered, delayed, breakable."""

    def __init__(self, net: Net, process: str) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._net, self.process = net, process
        self.context = context_of(process)              # what this end hears, its owner runs
        self.protocol: Any = None
        self.peer: MemoryTransport = self
        self._is_closing = self._is_paused = self._is_dark = False
        self._wire: deque[bytes | None] = deque()       # on the way
        self._held: deque[bytes | None] = deque()       # arrived while paused
        self._last_s = 0.0

    def get_protocol(self) -> Any:
        """The protocol of this end."""
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change the protocol of this end (aiohttp's upgrade)."""
        self.protocol = protocol

    def is_closing(self) -> bool:
        """True once closed or cut."""
        return self._is_closing

    def is_reading(self) -> bool:
        """True unless reading is paused."""
        return not self._is_paused

    def pause_reading(self) -> None:
        """Hold what arrives."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Deliver what was held."""
        self._is_paused = False
        while self._held and not self._is_paused:
            self._receive(self._held.popleft())

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer to limit."""

    def get_write_buffer_size(self) -> int:
        """Always empty: what is written is on the way."""
        return 0

    def can_write_eof(self) -> bool:
        """No half-closed connections."""
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes to the other end, through the faults of the net."""
        if not data or self._is_closing or self._is_dark:
            return
        match self._net.fault(self, bytes(data)):
            case "reset":
                self.abort()
            case "black_hole":                          # TCP never loses a piece in the middle
                self._is_dark = True
            case "split":
                middle = max(1, len(data) // 2)
                self._send(bytes(data[:middle]))
                self._send(bytes(data[middle:]))
            case _:
                self._send(bytes(data))

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(parts))

    def close(self) -> None:
        """End this side; the other reads to the end."""
        if not self._is_closing:
            self._is_closing = True
            self._lost(None)
            self._send(None)                            # None is the end of the stream

    def abort(self) -> None:
        """Cut both sides at once."""
        for end in (self, self.peer):
            if not end._is_closing:
                end._is_closing = True
                end._lost(ConnectionResetError("simulated reset"))

    def _send(self, data: bytes | None) -> None:
        # asyncio timers with equal deadlines are not first in, first out (the heap compares
        # times only). So the bytes wait in a deque, and every timer delivers its head.
        if self._is_dark:
            return
        self._wire.append(data)
        self._last_s = max(self._last_s, self._net.loop.time() + self._net.latency_s())
        self._net.loop.call_at(self._last_s, self._deliver, context=self.peer.context)

    def _deliver(self) -> None:
        self.peer._receive(self._wire.popleft())

    def _receive(self, data: bytes | None) -> None:
        if self._is_closing:
            return
        if self._is_paused:
            self._held.append(data)
        elif data is None:
            self.protocol.eof_received()
            self.close()
        else:
            self.protocol.data_received(data)

    def _lost(self, error: Exception | None) -> None:
        self._net.loop.call_soon(self.protocol.connection_lost, error, context=self.context)


def _no_fault(end: MemoryTransport, data: bytes) -> str | None:
    return None


class Net:
    """All simulated connections of one run; latencies and faults come from one seed.

    `fault(end, data)` answers None, "reset", "black_hole" or "split" for each write.
    """

    def __init__(self, loop: SimLoop, rng: random.Random,
                 fault: Callable[[MemoryTransport, bytes], str | None] = _no_fault,
                 latency: tuple[float, float] = (0.005, 0.05)) -> None:
        self.loop, self.rng, self.fault = loop, rng, fault
        self.is_down = False
        self._latency = latency
        self._ends: list[MemoryTransport] = []

    def latency_s(self) -> float:
        """One way, drawn anew for each write."""
        return self.rng.uniform(*self._latency)

    def connect(self, client: Any, client_process: str, server: Any, server_process: str) -> None:
        """Link two protocols; ConnectionRefusedError while the net is down."""
        if self.is_down or self.loop.is_dead(server_process):
            raise ConnectionRefusedError("simulated: network down")
        near, far = MemoryTransport(self, client_process), MemoryTransport(self, server_process)
        near.peer, far.peer = far, near
        near.protocol, far.protocol = client, server
        self._ends = [end for end in self._ends if not end.is_closing()] + [near, far]
        far.context.run(server.connection_made, far)
        near.context.run(client.connection_made, near)

    def cut(self) -> None:
        """Reset every connection."""
        for end in self._ends:
            end.abort()

    def kill(self, process: str) -> None:
        """kill -9: bytes already written still arrive, then the other side sees the end.

        For the loss of the whole host, call `loop.kill` alone: the other side sees silence.
        """
        self.loop.kill(process)
        for end in self._ends:
            if end.process == process:
                end.close()


class MemoryConnector(aiohttp.BaseConnector):
    """The only network seam of the trader: production passes the usual connector instead.

    `server` makes a server protocol: `AppRunner.server`.
    """

    def __init__(self, net: Net, server: Callable[[], Any], server_process: str,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._net, self._server, self._server_process = net, server, server_process

    async def _create_connection(self, req: aiohttp.ClientRequest, traces: Any,
                                 timeout: aiohttp.ClientTimeout) -> Any:
        await asyncio.sleep(self._net.latency_s())
        client = self._factory()
        server = context_of(self._server_process).run(self._server)
        try:
            self._net.connect(client, PROCESS.get(), server, self._server_process)
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        return client


# ======================================================================================
# §E17 COMMAND LINE
# Purpose:   Run the exchange alone: one JSON line when it listens, then serve until SIGTERM.
# Position:  Uses §E02 and §E15.
# Principle: An operator's mistake is one clear sentence and exit code 2, never a traceback.
# ======================================================================================
def build_parser() -> argparse.ArgumentParser:
    """All flags with their defaults."""
    parser = argparse.ArgumentParser(
        prog="sim_exchange.py", description="A simulated Kalshi exchange on a real socket.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--markets", type=int, default=5, help="synthetic markets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tape", action="append", default=[], metavar="DIR",
                        help="play a recorded market instead (repeatable)")
    parser.add_argument("--speed", type=float, default=1.0, help="pace of exchange time")
    parser.add_argument("--pace", type=float, default=1.0,
                        help="4: synthetic agents act four times as seldom")
    parser.add_argument("--queue", choices=QUEUE_MODELS, default="realistic")
    parser.add_argument("--latency-ms", type=int, default=150, help="one way, on tapes")
    parser.add_argument("--balance-dollars", default="1000")
    parser.add_argument("--tier", choices=tuple(TIERS), default="basic", help="rate limits")
    parser.add_argument("--key-type", choices=KEY_TYPES, default="rsa")
    parser.add_argument("--key-dir", help="keep the private key here across runs")
    parser.add_argument("--fee-type", choices=FEE_TYPES, default="quadratic", help="on tapes")
    parser.add_argument("--fee-multiplier", default="1", help="on tapes")
    parser.add_argument("--faults", choices=FAULT_LEVELS, default="off")
    parser.add_argument("--control", action="store_true", help="open /sim/... on loopback")
    parser.add_argument("--switch", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--list-switches", action="store_true")
    return parser


def list_switches() -> str:
    """Every switch with default, values and meaning."""
    width = max(map(len, SWITCHES))
    return "\n".join(f"{name:<{width}}  {switch.default:<20}  {switch.meaning}"
                     + (f" ({' | '.join(switch.values)})" if switch.values else "")
                     for name, switch in SWITCHES.items())


def settings_from(flags: argparse.Namespace) -> SimSettings:
    """Settings of the command line; ValueError when they do not fit."""
    switches = {}
    for item in flags.switch:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--switch {item!r}: write name=value")
        switches[name] = value
    return SimSettings(
        markets=flags.markets, seed=flags.seed, tapes=tuple(flags.tape),
        balance_dollars=flags.balance_dollars, tier=flags.tier, key_type=flags.key_type,
        queue=flags.queue, latency_ms=flags.latency_ms, switches=switches, faults=flags.faults,
        key_dir=flags.key_dir, control=flags.control, fee_type=flags.fee_type,
        fee_multiplier=flags.fee_multiplier, pace=flags.pace)


async def serve(flags: argparse.Namespace) -> None:
    """Listen, say where, and serve until SIGTERM or SIGINT."""
    settings = settings_from(flags)
    if not 0 <= flags.port <= 65_535:
        raise ValueError(f"--port: {flags.port} is not within 0 to 65535")
    if not 0.01 <= flags.speed <= 1_000:
        raise ValueError(f"--speed: {flags.speed} is not within 0.01 to 1000")
    epoch_s = tape_start_s(settings.tapes) if settings.tapes else None
    exchange = SimExchange(settings, RealTime(epoch_s=epoch_s, rate=flags.speed))
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):      # before anybody can know our address
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    address = await exchange.start(flags.host, flags.port)
    print(orjson.dumps({"rest": address.rest, "ws": address.ws, "key_id": address.key_id,
                        "private_key_path": address.private_key_path}).decode(), flush=True)
    await ended.wait()
    await exchange.stop()


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 served and stopped, 2 the operator's mistake."""
    flags = build_parser().parse_args(arguments)
    if flags.list_switches:
        print(list_switches())
        return 0
    logging.basicConfig(level=logging.INFO, stream=sys.stderr,
                        format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(serve(flags))
    except (ValueError, OSError) as error:
        print(f"sim_exchange: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
