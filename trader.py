#!/usr/bin/env python3
"""Kalshi trader: the whole bot in one module.

Purpose
    Trades event contracts on Kalshi for people who trade their own money by program, and shows
    what it does: never an order twice, never one forgotten, never a number that is not so.

Key Responsibilities
    1. Follow markets: choose them, keep their order books proven, refuse stale data.
    2. Decide: ask declarative strategies what they want resting, and record why.
    3. Execute: gate, journal, send once, hear the answer, book each fill exactly once.
    4. Reconcile: the exchange's truth wins; every difference is told.
    5. Stop: pause, kill and halt are instant, durable and survive restarts.
    6. Show: HTTP API, WebSocket and a page on localhost, from the first second on.

Architecture Position
    Started by run.sh, cron or systemd. Speaks REST and WebSocket to one exchange (Kalshi, its
    demo, or sim_exchange.py) and HTTP to the page in static/. Rooms are ordered bottom up; a room
    uses rooms above it in this file, never below (`grep -n '^# §' trader.py` prints the map):

    Ground    §01 UNITS AND ERRORS   §02 CONFIG   §03 DOMAIN   §04 EVENTS
    Core      §05 WIRE   §06 ORDER BOOK   §07 LEDGER   §08 RISK   §09 STRATEGIES   §10 STATE MACHINE
    Spine     §11 ASYNC KIT   §12 EVENT BUS   §13 STATE CONTAINER
    Edges     §14 JOURNAL   §15 REST CLIENT   §16 WS CLIENT
    Services  §17 MARKET DATA   §18 EXECUTION   §19 DECISION   §20 HEALTH   §21 STATUS
    Roof      §22 API   §23 COORDINATOR   §24 CLI

    A frame becomes an order in one go on the loop: §16 → §05 → §06 → §19 → §09 → §08 → §14 → §15.
    What people look at hangs off the bus (§12) at its own pace.

Design Principles
    Safe with money, true, clear, fast, short: in that order. Whole numbers hold money (§01). The
    core (§05 to §10) is pure: no await, clock, socket, log or chance. Only §23 knows everyone.
    Time, chance and the network enter through two seams: the Clock (§11) and the connector (§23).

Run it
    ./run.sh
    python trader.py --env paper --markets 10
    python trader.py --env sim --strategy hold
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import bisect
import contextlib
import csv
import ctypes
import dataclasses
import difflib
import errno
import fcntl
import fnmatch
import gc
import hashlib
import hmac
import importlib
import importlib.metadata
import importlib.util
import io
import json
import logging
import logging.handlers
import math
import os
import random
import re
import resource
import secrets
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import statistics
import sys
import tempfile
import threading
import time
import traceback
import zlib
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum
from functools import lru_cache, partial
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    NamedTuple,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    assert_never,
    cast,
)
from urllib.parse import quote, unquote, urlsplit
from zoneinfo import ZoneInfo

import aiohttp
import orjson
from aiohttp import web
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from dotenv.parser import parse_stream

T = TypeVar("T")
E = TypeVar("E", bound="Event")
JsonScalar = str | int | float | bool

# ======================================================================================
# §01 UNITS AND ERRORS
# Purpose:   Whole-number prices, counts and money; one parser, one formatter, one error family.
# Position:  Uses nothing. Used by every room.
# Principle: Price in centi-cents × count in hundredths = money in micro-dollars, exactly.
# ======================================================================================

CC_PER_DOLLAR: Final = 10_000  # a price of one dollar, in centi-cents
H_PER_CONTRACT: Final = 100  # one contract, in hundredths
UD_PER_DOLLAR: Final = 1_000_000  # one dollar of money, in micro-dollars
PRICE_PLACES: Final = 4
COUNT_PLACES: Final = 2
MONEY_PLACES: Final = 6

_DECIMAL = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,18}))?", re.ASCII)


class TraderError(Exception):
    """Root of every error this program raises on purpose."""


class ConfigError(TraderError):
    """The operator's settings, files or keys are wrong. One clear sentence; exit code 2."""


class WireError(TraderError):
    """The peer sent something that is not what the protocol says."""


class JournalError(TraderError):
    """The journal cannot be written or read; no order may be sent."""


class LockHeldError(TraderError):
    """Another process holds the data directory; exit code 75."""


class ExchangeError(TraderError):
    """An answer with an error status, or no answer at all.

    `status` is the HTTP status, 0 when none came. `code` is the exchange's own word, "" if none.
    `was_sent` is False only when no byte of the request can have left this machine.
    `retryable` tells whether the same *read* may be asked again later.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        was_sent: bool = True,
    ) -> None:
        super().__init__(f"{status} {code}: {message}" if code else f"{status}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retryable = retryable
        self.was_sent = was_sent


def floor_div(value: int, by: int) -> int:
    """Quotient rounded toward minus infinity: what we may receive."""
    return value // by


def ceil_div(value: int, by: int) -> int:
    """Quotient rounded toward plus infinity: what we may have to pay."""
    return -(-value // by)


def exact_div(value: int, by: int) -> int:
    """Quotient that must leave no remainder."""
    quotient, rest = divmod(value, by)
    assert rest == 0, f"{value} is not a multiple of {by}"
    return quotient


def parse_fixed(text: str, places: int) -> int:
    """Read a decimal string exactly, as an int in units of 10**-places.

    Raises WireError for anything that is not a plain decimal of at most 15 whole digits, and for
    digits finer than `places` that are not zero. Never rounds.
    """
    match = _DECIMAL.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise WireError(f"not a decimal number: {text!r:.60}")
    sign, whole, fraction = str(match[1]), str(match[2]), str(match[3] or "")
    if fraction[places:].strip("0"):
        raise WireError(f"finer than {places} decimals: {text!r:.60}")
    scale: int = 10**places
    value = int(whole) * scale + int(fraction[:places].ljust(places, "0") or "0")
    return -value if sign else value


def parse_price(text: str) -> int:
    """Dollars as text → price in centi-cents."""
    return parse_fixed(text, PRICE_PLACES)


def parse_count(text: str) -> int:
    """Contracts as text → count in hundredths."""
    return parse_fixed(text, COUNT_PLACES)


def parse_dollars(text: str) -> int:
    """Dollars as text → money in micro-dollars."""
    return parse_fixed(text, MONEY_PLACES)


def format_fixed(value: int, places: int, *, shown: int | None = None) -> str:
    """Write an int of 10**-places as a decimal string; `shown` < places must lose nothing."""
    if shown is not None and shown < places:
        value, places = exact_div(value, 10 ** (places - shown)), shown
    sign, value = ("-", -value) if value < 0 else ("", value)
    whole, fraction = divmod(value, 10**places)
    return f"{sign}{whole}.{fraction:0{places}d}" if places else f"{sign}{whole}"


def format_price(price_cc: int) -> str:
    """Centi-cents → dollars with four decimals, the wire's form of a price."""
    return format_fixed(price_cc, PRICE_PLACES)


def format_count(count_h: int) -> str:
    """Hundredths → contracts with two decimals, the wire's form of a count."""
    return format_fixed(count_h, COUNT_PLACES)


def format_dollars(money_ud: int) -> str:
    """Micro-dollars → dollars with six decimals."""
    return format_fixed(money_ud, MONEY_PLACES)


def show_dollars(money_ud: int) -> str:
    """Micro-dollars → dollars for people: two decimals, or as many as the amount needs."""
    text = format_fixed(money_ud, MONEY_PLACES).rstrip("0")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.ljust(2, '0')}"


# ======================================================================================
# §02 CONFIG
# §02a BOUNDS
# Purpose:   Whatever could grow, repeat or wait, and where it ends; by the room that reads it.
# Position:  Uses nothing. Read by the room named above each group, and by those below it.
# Principle: A loop, queue, cache, retry or history without a name here is a mistake (STYLE §7).
# ======================================================================================

# Bounds of §05: wire.
JSON_BYTES_MAX: Final = 16 * 1024 * 1024  # one message of the exchange
MEMO_MAX: Final = 32_768  # decimal texts kept with their value, per table
PATH_PART_MAX: Final = 200  # characters of a ticker or id in a URL
ERROR_TEXT_MAX: Final = 300  # characters kept of an exchange's error

# Bounds of §09: strategies.
PRINTS_MAX: Final = 200  # public trades a market remembers
WHALES_MAX: Final = 8  # large public trades a market remembers
VIEW_LEVELS_MAX: Final = 20  # book levels a side shown to a strategy
WANTS_MAX: Final = 6  # orders one strategy may want in one market
FEATURES_MAX: Final = 24  # numbers one decision may name
MEMORY_MAX_BYTES: Final = 4096  # what a strategy may remember per market, as JSON
TEXT_MAX: Final = 200  # characters of a decision's value or limit
STUDIES_MAX: Final = 8  # whale studies open at once per market
STUDY_ROWS_MAX: Final = 20  # finished whale studies kept in memory per market
POLICY_MAX_BYTES: Final = 65_536  # size of an rl policy file

# Bounds of §10: states.
TRANSITIONS_MAX: Final = 50  # state transitions kept for people

# Bounds of §11: async kit.
THROTTLE_KEYS_MAX: Final = 512  # distinct repeated messages remembered

# Bounds of §12: bus.
BUS_QUEUE_MAX: Final = 4096  # events waiting for one queued subscriber

# Bounds of §13: container.
SNAPSHOTS_MAX: Final = 64  # pictures kept by the state container

# Bounds of §14: journal and recorder.
SMALL_FILE_MAX: Final = 65_536  # bytes of a lock, token, kill or state file
WAL_FOLD_ROWS: Final = 1000  # rows after which the WAL is folded into the database
EXPLAIN_BATCH_MAX: Final = 10_000  # rows waiting; more are dropped and counted
EXPLAIN_SLICE: Final = 250  # rows written or pruned without giving the loop back
JOURNAL_PAGE: Final = 1000  # rows read at once
APPEND_SAMPLES_MAX: Final = 1024  # timed appends kept
RECORDER_QUEUE_MAX: Final = 20_000  # frames waiting for the worker
TAPE_PARTS_MAX: Final = 100  # files of one market and day

# Bounds of §15: REST.
KEY_FILE_MAX: Final = 65_536  # bytes
SIGNATURES_AHEAD: Final = 4  # kept ready for the create path
BREAKER_FAILURES: Final = 5  # within BREAKER_WINDOW_S, then the host counts as unreachable
CLOCK_SAMPLES: Final = 9  # of which the offset is the median
CLOCK_BOUNDS: Final = 64  # older samples that still bound the offset
LATENCIES_MAX: Final = 512  # samples kept per endpoint
READ_TRIES: Final = 3  # of one read that may be repeated
PAGES_MAX: Final = 200  # of one list
PAGE_LIMIT: Final = 1000  # rows asked for per page
ORDER_BODY_MAX: Final = 1024 * 1024  # bytes of an answer to a command

# Bounds of §16: stream.
WS_COMMANDS_MAX: Final = 256  # commands waiting to be written
WS_KINDS_MAX: Final = 64  # unknown frame types counted by name
WS_BURST_MAX: Final = 256  # frames read before the other tasks get their turn

# Bounds of §17: markets.
SCAN_PAGES_MAX: Final = 30  # of one scan for markets
SCAN_PAGE_ROWS: Final = 1000  # markets asked for per page
BOOKS_PER_READ: Final = 100  # books asked for at once
GATES_PER_TURN: Final = 1000  # markets judged without giving the loop back
EVENTS_KEPT_MAX: Final = 2000  # events whose series and title are remembered
REREADS_MAX: Final = 10  # markets read again per round
SPOT_MARKETS_MAX: Final = 10  # books compared with REST per round

# Bounds of §18: execution.
ENDED_ORDERS_MAX: Final = 2000  # ended orders kept in memory; older ones live in the journal
FILLS_MAX: Final = 5000  # trade ids kept in memory to book no fill twice; older ones: journal
RECONCILE_ROUNDS_MAX: Final = 3  # re-reads of one pass while local state keeps moving
UNKNOWN_SCAN_S: Final = 1.0  # pause between two scans for an unknown order
SIGNATURE_LIFE_S: Final = 30.0  # a request signed longer ago than this is refused by the exchange
ABSENCE_MARGIN_S: Final = 2.0  # an absence counts only with an as-of time this far after the send
ABSENCES_NEEDED: Final = 2  # proven absences before an order is given up
DUPLICATE_WINDOW_MS: Final = 1000  # same market, side and price within this is a duplicate
UNREADABLE_MAX: Final = 2  # answers without an order id in a row that latch halted
REJECT_WINDOW: Final = 20  # newest creates whose refusals are counted
FACTS_WAITING_MAX: Final = 10_000  # facts that wait for a full disk
BATCH_CANCEL_MAX: Final = 20  # orders in one batch cancel
PEAK_ROWS_READ: Final = 20_000  # rows of the equity curve looked through for the peak
PEAK_DAYS_READ: Final = 1_000  # daily rows looked through for the peak

# Bounds of §19: decision.
CYCLES_MAX: Final = 50  # recent trading cycles kept for people
NEAREST_MAX: Final = 4096  # (ticker, strategy, reason) rows with a nearest miss
STRATEGY_FAULTS_MAX: Final = 3  # in a row, then the strategy is switched off

# Bounds of §20: health.
LAG_WINDOW: Final = 100  # samples looked back over: ten seconds

# Bounds of §21: status.
ACTIVITIES_MAX: Final = 100  # activity lines replayed to a new page
MARKOUTS_PENDING_MAX: Final = 4000  # fills × horizons still to be judged
QUEUES_MAX: Final = 2000  # orders whose place in the queue is estimated
BOOK_ROWS_MAX: Final = 15  # levels a side shown
PRINTS_SHOWN_MAX: Final = 20  # public trades shown of one market
EQUITY_KEPT: Final = 2880  # points of 10 s: 8 h
ALERTS_PER_HOUR_MAX: Final = 20  # to the webhook; then one line with the count
ALERT_TRIES: Final = 3  # of one alert at the webhook
ALERT_QUEUE_MAX: Final = 100  # alerts waiting for the webhook; the oldest go
ALERTS_KEPT: Final = 200  # alerts whose repeats are counted
FILLS_SHOWN: Final = 500  # fills kept for the page
DECISIONS_SHOWN: Final = 500  # decisions kept for the page
MARKOUT_VALUES_MAX: Final = 10_000  # per strategy and horizon
ORDER_LINES_PER_S_MAX: Final = 10  # order lines in the activity log

# Bounds of §22: API.
SOCKETS_MAX: Final = 64  # browser sockets at once
BACKLOG_SKIP_BYTES: Final = 256 * 1024  # a client this far behind gets full messages later
BACKLOG_CLOSE_BYTES: Final = 1024 * 1024  # … and this far behind is closed
INBOUND_PER_S_MAX: Final = 20  # messages of one client; more closes it
BOOKS_PER_CLIENT_MAX: Final = 8  # books one page may watch
BOOK_STREAMS_MAX: Final = 128  # books watched by all pages together
CONTROLS_PER_MINUTE_MAX: Final = 5  # per action, kill exempt
REPLAYS_PER_MINUTE_MAX: Final = 120  # per command of the tape player
CONTROL_KEYS_MAX: Final = 256  # idempotency keys remembered
BAD_TOKENS_MAX: Final = 10  # in a minute; then the door is locked
UNLOCK_CODES_MAX: Final = 8  # one-time codes good at once
CONNECTIONS_MAX: Final = 64  # other connections at once, counted apart
INBOUND_FRAME_MAX_BYTES: Final = 16 * 1024  # one message of a page
BODY_MAX_BYTES: Final = 64 * 1024  # of a request
HEAD_MAX_BYTES: Final = 8 * 1024  # of a request
UNREAD_MAX_BYTES: Final = 320 * 1024  # of one connection before its request is understood
EQUITY_POINTS_MAX: Final = 4000  # of one answer
TOPIC_LIMIT_MAX: Final = 10_000  # rows of one answer
STATIC_FILE_MAX_BYTES: Final = 1024 * 1024  # one file of the page

# Bounds of §23: coordinator.
KILL_FILE_POLL_S: Final = 0.5  # pause between two looks for the KILL file
STOP_LIMIT_S: Final = 10.0  # SIGTERM to exit
FLATTEN_ROUNDS: Final = 3  # in a row without anything getting smaller, then the rest is reported


# ======================================================================================
# §02b SETTINGS
# Purpose:   Every knob of the operator: one registry of names, kinds, defaults and ranges.
# Position:  Uses §01. §24 hands in the texts and their sources; §02c turns them into the Config.
# Principle: A setting that is wrong, unknown or impossible ends the start in one clear sentence.
# ======================================================================================

VERSION: Final = "0.1.0"
NEW_YORK: Final = ZoneInfo("America/New_York")


class Environment(StrEnum):
    """Which exchange: the embedded one, Kalshi's demo, or the real one."""

    SIM = "sim"
    PAPER = "paper"
    PRODUCTION = "production"


ENVIRONMENT_WORDS: Final = {
    Environment.SIM: "SIMULATION (no account)",
    Environment.PAPER: "DEMO (Paper Trading)",
    Environment.PRODUCTION: "PRODUCTION",
}
ENVIRONMENT_ALIASES: Final = {"local": "sim", "demo": "paper"}
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})
ALLOWED_HOSTS: Final[Mapping[Environment, frozenset[str]]] = {
    Environment.SIM: LOOPBACK_HOSTS,
    Environment.PAPER: frozenset(
        {
            "external-api.demo.kalshi.co",
            "external-api-ws.demo.kalshi.co",
            "demo-api.kalshi.co",
        }
    ),
    Environment.PRODUCTION: frozenset(
        {"external-api.kalshi.com", "external-api-ws.kalshi.com", "api.elections.kalshi.com"}
    ),
}
DEFAULT_URLS: Final[Mapping[Environment, tuple[str, str]]] = {
    Environment.PAPER: (
        "https://external-api.demo.kalshi.co/trade-api/v2",
        "wss://external-api-ws.demo.kalshi.co/trade-api/ws/v2",
    ),
    Environment.PRODUCTION: (
        "https://external-api.kalshi.com/trade-api/v2",
        "wss://external-api-ws.kalshi.com/trade-api/ws/v2",
    ),
}


class Secret:
    """A text that never shows itself: not in repr, not in a format string, not in a traceback."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; call it only where it is used up."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


class Kind(Enum):
    """How a setting's text becomes a value."""

    TEXT = "text"
    CHOICE = "one of"
    INT = "whole number"
    FLOAT = "number"
    BOOL = "true or false"
    DOLLARS = "dollars"
    CONTRACTS = "contracts"
    CENTS = "cents"
    LIST = "comma list"
    JSON = "JSON object"
    PATH = "path"
    SECRET = "secret"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the registry. `attr` is the name in Config where units differ."""

    name: str
    env: str
    kind: Kind
    default: str | None
    meaning: str
    _: KW_ONLY
    unit: str = ""
    low: str = ""
    high: str = ""
    choices: tuple[str, ...] = ()
    flag: str | None = ""  # "": the name with dashes; None: no flag
    attr: str = ""
    is_live: bool = False  # taken over by SIGHUP
    repeats: bool = False  # the flag may be given several times
    group: str = "General"

    @property
    def field(self) -> str:
        """Attribute of Config that holds the value."""
        return self.attr or self.name

    @property
    def option(self) -> str | None:
        """Command-line flag, None when there is none."""
        return None if self.flag is None else self.flag or "--" + self.name.replace("_", "-")


def _rows(group: str, *settings: Setting) -> Iterator[Setting]:
    return (replace(setting, group=group) for setting in settings)


_S, _K = Setting, Kind
# fmt: off
SETTINGS: Final[tuple[Setting, ...]] = (
    *_rows(
        "General",
        _S("environment", "ENVIRONMENT", _K.CHOICE, "sim",
           "which exchange (local = sim, demo = paper)", choices=("sim", "paper", "production"),
           flag="--env"),
        _S("mode", "RL_MODE", _K.CHOICE, "discovery", "how markets are chosen",
           choices=("discovery", "config")),
        _S("markets", "RL_ORDERBOOK_MARKET_LIMIT", _K.INT, "10", "how many to follow",
           low="1", high="500", unit="markets"),
        _S("tickers", "RL_MARKET_TICKERS", _K.LIST, "",
           "markets of mode config; given as a flag it implies config"),
        _S("host", "V3_HOST", _K.TEXT, "127.0.0.1",
           "where the page listens; not loopback needs allow_remote"),
        _S("port", "V3_PORT", _K.INT, "8005", "port of the page", low="1024", high="65535"),
        _S("allow_remote", "V3_ALLOW_REMOTE", _K.BOOL, "false",
           "the network is trusted (container, TLS proxy)"),
        _S("allowed_hosts", "V3_ALLOWED_HOSTS", _K.LIST, "",
           "more names accepted in the Host header", flag="--allow-host", repeats=True),
        _S("data_dir", "V3_DATA_DIR", _K.PATH, None,
           "folder of journal, token and logs; default: data beside trader.py"),
        _S("trading", "V3_ENABLE_TRADING_CLIENT", _K.BOOL, "true",
           "false (flag --watch): books only, no account reads, no orders", flag="--watch"),
        _S("strategy", "V3_TRADING_STRATEGY", _K.LIST, None,
           "name or file.py:Class; default market_maker, in production hold", repeats=True),
        _S("strategy_params", "V3_STRATEGY_PARAMS", _K.JSON, "{}",
           "parameters of the strategy; the flag takes name=value", flag="--param", is_live=True,
           repeats=True),
        _S("policy", "V3_POLICY", _K.PATH, None, "weights for the strategy rl"),
        _S("allow_experimental", "V3_ALLOW_EXPERIMENTAL", _K.BOOL, "false",
           "lets rl trade in production"),
        _S("arm", "V3_ARM", _K.TEXT, None,
           "second sign for production: the last 4 or more characters of the key id"),
        _S("order_prefix", "V3_ORDER_PREFIX", _K.TEXT, "kt",
           "marks our orders, 2-8 letters or digits; one per bot on an account"),
        _S("key_id", "KALSHI_API_KEY_ID", _K.TEXT, None, "id of the API key (UUID)", flag=None),
        _S("key_file", "KALSHI_KEY_FILE", _K.PATH, None,
           "private key, RSA or Ed25519 PEM; mode 0600, outside the repository", is_live=True),
        _S("key_content", "KALSHI_PRIVATE_KEY_CONTENT", _K.SECRET, None,
           "the PEM itself instead of a file (\\n accepted for line ends)", flag=None),
        _S("api_url", "KALSHI_API_URL", _K.TEXT, None,
           "REST address on the environment's host list; in sim a running exchange", flag=None),
        _S("ws_url", "KALSHI_WS_URL", _K.TEXT, None,
           "WebSocket address on the environment's host list", flag=None),
        _S("journal_sync", "V3_JOURNAL_SYNC", _K.CHOICE, "soon",
           "each: the journal is synced before every send", choices=("soon", "each")),
        _S("duration_s", "V3_DURATION_S", _K.FLOAT, None, "end cleanly after so long",
           low="0", high="31536000", unit="s"),
        _S("fee_precision", "V3_FEE_PRECISION", _K.CHOICE, "direct",
           "rounding of fees: 0.0001 dollar for API members, 0.01 through an app",
           attr="fee_precision_ud", choices=("direct", "app")),
    ),
    *_rows(
        "Limits",
        _S("max_order_contracts", "V3_MAX_ORDER_CONTRACTS", _K.CONTRACTS, "10",
           "largest single order", attr="max_order_h", low="0.01", high="1000", unit="contracts",
           is_live=True),
        _S("max_order_dollars", "V3_MAX_ORDER_DOLLARS", _K.DOLLARS, "10",
           "worst case of a single order", attr="max_order_ud", low="0.01", high="1000",
           unit="dollars", is_live=True),
        _S("max_position", "V3_TRADING_MAX_POSITION_SIZE", _K.CONTRACTS, "100",
           "per market, with all live and unknown orders taken as filled", attr="max_position_h",
           low="1", high="10000", unit="contracts", is_live=True),
        _S("max_orders", "V3_TRADING_MAX_ORDERS", _K.INT, "40", "resting at once",
           low="1", high="1000", unit="orders", is_live=True),
        _S("max_market_loss_dollars", "V3_MAX_MARKET_LOSS_DOLLARS", _K.DOLLARS, "10",
           "worst case per market", attr="max_market_loss_ud", low="0.01", high="10000",
           unit="dollars", is_live=True),
        _S("max_event_loss_dollars", "V3_MAX_EVENT_LOSS_DOLLARS", _K.DOLLARS, "20",
           "worst outcome of an event's markets together", attr="max_event_loss_ud",
           low="0.01", high="100000", unit="dollars", is_live=True),
        _S("max_exposure_dollars", "V3_MAX_EXPOSURE_DOLLARS", _K.DOLLARS, "100",
           "sum of worst cases", attr="max_exposure_ud", low="0.01", high="100000", unit="dollars",
           is_live=True),
        _S("daily_loss_dollars", "V3_DAILY_LOSS_DOLLARS", _K.DOLLARS, "20",
           "cash and marks now against 00:00 New York, after fees: halts", attr="daily_loss_ud",
           low="0.01", high="100000", unit="dollars"),
        _S("max_drawdown_dollars", "V3_MAX_DRAWDOWN_DOLLARS", _K.DOLLARS, "40",
           "below the highest equity in the journal: halts", attr="max_drawdown_ud",
           low="0.01", high="100000", unit="dollars"),
        _S("min_cash_dollars", "V3_MIN_CASH_DOLLARS", _K.DOLLARS, "10", "no opening order below it",
           attr="min_cash_ud", low="0", high="100000", unit="dollars", is_live=True),
        _S("price_collar_cents", "V3_PRICE_COLLAR_CENTS", _K.CENTS, "10",
           "a buy further than this above the mid or the last print is refused",
           attr="price_collar_cc", low="1", high="50", unit="cents", is_live=True),
        _S("max_orders_per_minute", "V3_MAX_ORDERS_PER_MINUTE", _K.INT, "120",
           "creates and amends together, without those that only refresh an expiry",
           low="1", high="1000", unit="per minute", is_live=True),
        _S("max_notional_per_minute_dollars", "V3_MAX_NOTIONAL_PER_MINUTE_DOLLARS", _K.DOLLARS,
           "100", "worst case of all creates of a minute", attr="max_notional_per_minute_ud",
           low="0.01", high="100000", unit="dollars", is_live=True),
        _S("max_unknown", "V3_MAX_UNKNOWN", _K.INT, "3",
           "more orders of unknown outcome at once: halts", low="1", high="20", unit="orders"),
        _S("order_ttl_s", "V3_ORDER_TTL_SECONDS", _K.INT, "60",
           "expiry of every resting order: the dead-man bound", low="10", high="900", unit="s"),
        _S("on_stop", "V3_ON_STOP", _K.CHOICE, "cancel",
           "at the end: cancel own orders, or leave them to their expiry",
           choices=("cancel", "expire")),
        _S("group_contracts", "V3_GROUP_CONTRACTS", _K.CONTRACTS, "50",
           "exchange-side fill limiter; beyond it the exchange cancels all our orders",
           attr="group_h", low="1", high="1000000", unit="contracts per rolling 15 s"),
        _S("max_reject_ratio", "V3_MAX_REJECT_RATIO", _K.FLOAT, "0.5", "above: halts",
           low="0.05", high="1", unit="of the last 20 creates"),
        _S("close_guard_s", "V3_CLOSE_GUARD_S", _K.FLOAT, "30",
           "no order this close to the close, for any strategy", low="0", high="86400", unit="s"),
    ),
    *_rows(
        "Data and timing",
        _S("sync_interval_s", "V3_SYNC_INTERVAL_S", _K.FLOAT, "30",
           "full reconcile; also after every reconnect, unknown outcome and pause",
           low="5", high="30", unit="s"),
        _S("health_interval_s", "V3_HEALTH_CHECK_INTERVAL", _K.FLOAT, "5.0",
           "pause between two health checks", low="1", high="60", unit="s"),
        _S("evaluate_min_ms", "V3_EVALUATE_MIN_MS", _K.INT, "100",
           "shortest time between two looks at a market", low="0", high="10000", unit="ms",
           is_live=True),
        _S("book_stale_s", "V3_BOOK_STALE_S", _K.FLOAT, "2",
           "without proof that the feed lives: no new orders", low="0.5", high="30", unit="s"),
        _S("rest_check_s", "V3_REST_CHECK_S", _K.FLOAT, "30", "one random book compared with REST",
           low="1", high="3600", unit="s"),
        _S("rate_share", "V3_RATE_SHARE", _K.FLOAT, "0.8",
           "part of the account's budget the bot may use", low="0.1", high="1"),
        _S("request_timeout_s", "V3_REQUEST_TIMEOUT_S", _K.FLOAT, "5", "one exchange call",
           low="0.1", high="60", unit="s"),
        _S("clock_skew_max_s", "V3_CLOCK_SKEW_MAX_S", _K.FLOAT, "5",
           "more: no new orders; a warning from 1 s on", low="1", high="15", unit="s"),
    ),
    *_rows(
        "Discovery",
        _S("min_close_s", "V3_MIN_CLOSE_S", _K.INT, "1800", "shortest time to close",
           low="0", high="31536000", unit="s"),
        _S("max_close_s", "V3_MAX_CLOSE_S", _K.INT, "2592000", "longest time to close",
           low="1", high="315360000", unit="s"),
        _S("min_volume_24h", "V3_MIN_VOLUME_24H", _K.CONTRACTS, "100",
           "traded in the last 24 hours", attr="min_volume_24h_h", low="0", high="1000000000",
           unit="contracts"),
        _S("max_spread_cents", "V3_MAX_SPREAD_CENTS", _K.CENTS, "10", "widest spread",
           attr="max_spread_cc", low="0.01", high="99", unit="cents"),
        _S("min_size", "V3_MIN_SIZE", _K.CONTRACTS, "10", "least best size on both sides",
           attr="min_size_h", low="0", high="1000000", unit="contracts"),
        _S("mid_min_cents", "V3_MID_MIN_CENTS", _K.CENTS, "5", "lowest mid", attr="mid_min_cc",
           low="0", high="100", unit="cents"),
        _S("mid_max_cents", "V3_MID_MAX_CENTS", _K.CENTS, "95", "highest mid", attr="mid_max_cc",
           low="0", high="100", unit="cents"),
        _S("per_event", "V3_PER_EVENT", _K.INT, "2", "most markets of one event",
           low="1", high="500", unit="markets"),
        _S("categories", "V3_CATEGORIES", _K.LIST, "",
           "only these categories; empty = all, * allowed", is_live=True),
        _S("exclude", "V3_EXCLUDE", _K.LIST, "KXMVE*", "tickers left out, * allowed", is_live=True),
        _S("discovery_refresh_s", "V3_DISCOVERY_REFRESH_S", _K.FLOAT, "300",
           "pause between two scans", low="60", high="3600", unit="s"),
    ),
    *_rows(
        "Sim and replay",
        _S("sim_seed", "V3_SIM_SEED", _K.INT, "1", "seed of the embedded exchange",
           low="0", high="9223372036854775807", flag="--seed"),
        _S("sim_speed", "V3_SIM_SPEED", _K.FLOAT, "1", "pace of a tape", low="0.1", high="1000",
           unit="ratio", flag="--speed"),
        _S("sim_tape", "V3_SIM_TAPE", _K.LIST, "",
           "plays recorded tapes instead of synthetic markets", flag="--tape", repeats=True),
        _S("sim_balance_dollars", "V3_SIM_BALANCE_DOLLARS", _K.DOLLARS, "1000",
           "cash of the embedded account", attr="sim_balance_ud", low="0", high="1000000000",
           unit="dollars"),
        _S("sim_faults", "V3_SIM_FAULTS", _K.CHOICE, "off", "drops, delays, lost answers, pauses",
           choices=("off", "mild", "wild"), flag="--faults"),
        _S("queue_model", "V3_QUEUE_MODEL", _K.CHOICE, "realistic",
           "our place in the queue on tapes", choices=("pessimistic", "realistic", "optimistic"),
           flag="--queue"),
        _S("latency_ms", "V3_LATENCY_MS", _K.INT, "150", "delay of our orders on tapes",
           low="0", high="60000", unit="ms one way"),
    ),
    *_rows(
        "Files and people",
        _S("record", "V3_RECORD", _K.TEXT, None,
           "folder for tapes, or off; default: tapes in the data folder, in sim off"),
        _S("record_max_mb", "V3_RECORD_MAX_MB", _K.INT, "2048",
           "oldest tapes go first; stops below 1 GB of free disk", low="1", high="1048576",
           unit="MB"),
        _S("log_level", "V3_LOG_LEVEL", _K.TEXT, "INFO",
           "DEBUG, INFO, WARNING, ERROR, or a list of room=LEVEL", is_live=True),
        _S("log_max_mb", "V3_LOG_MAX_MB", _K.INT, "20", "size of one log file",
           low="1", high="1024", unit="MB"),
        _S("log_files", "V3_LOG_FILES", _K.INT, "10", "log files kept", low="1", high="100",
           unit="files"),
        _S("alert_url", "V3_ALERT_URL", _K.SECRET, None, "https address that receives alerts",
           flag=None, is_live=True),
        _S("alert_format", "V3_ALERT_FORMAT", _K.CHOICE, "json", "form of an alert",
           choices=("json", "slack", "discord"), is_live=True),
        _S("alert_level", "V3_ALERT_LEVEL", _K.CHOICE, "warning", "least severity sent",
           choices=("info", "warning", "error"), is_live=True),
        _S("exit_on_halt", "V3_EXIT_ON_HALT", _K.BOOL, "false",
           "end with 4 or 5 instead of staying up halted"),
    ),
)
# fmt: on
SETTINGS_BY_NAME: Final = {setting.name: setting for setting in SETTINGS}
OLD_VARIABLES: Final = frozenset(
    "V3_TRADING_MODE V3_ORDERBOOK_DEPTH V3_SNAPSHOT_INTERVAL V3_SYNC_DURATION "
    "V3_CALIBRATION_DURATION V3_ERROR_RECOVERY_DELAY V3_WS_RECONNECT_INTERVAL "
    "V3_WS_MAX_RECONNECT_ATTEMPTS V3_WS_PING_INTERVAL DATABASE_URL".split()
)


# ======================================================================================
# §02c CONFIG
# Purpose:   The one frozen object every room reads, and how it is built from texts.
# Position:  Uses §01, §02b. Built by §24, read by every room below.
# Principle: A value out of range names the setting, the value and the range.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, checked, in the units of §01. Built by `build_config` and nowhere else."""

    environment: Environment
    mode: str
    markets: int
    tickers: tuple[str, ...]
    host: str
    port: int
    allow_remote: bool
    allowed_hosts: tuple[str, ...]
    data_dir: Path
    trading: bool
    strategy: tuple[str, ...]
    strategy_params: Mapping[str, JsonScalar]
    policy: Path | None
    allow_experimental: bool
    arm: str | None
    order_prefix: str
    key_id: str | None
    key_file: Path | None
    key_content: Secret | None
    api_url: str | None
    ws_url: str | None
    journal_sync: str
    duration_s: float | None
    fee_precision_ud: int
    max_order_h: int
    max_order_ud: int
    max_position_h: int
    max_orders: int
    max_market_loss_ud: int
    max_event_loss_ud: int
    max_exposure_ud: int
    daily_loss_ud: int
    max_drawdown_ud: int
    min_cash_ud: int
    price_collar_cc: int
    max_orders_per_minute: int
    max_notional_per_minute_ud: int
    max_unknown: int
    order_ttl_s: int
    on_stop: str
    group_h: int
    max_reject_ratio: float
    close_guard_s: float
    sync_interval_s: float
    health_interval_s: float
    evaluate_min_ms: int
    book_stale_s: float
    rest_check_s: float
    rate_share: float
    request_timeout_s: float
    clock_skew_max_s: float
    min_close_s: int
    max_close_s: int
    min_volume_24h_h: int
    max_spread_cc: int
    min_size_h: int
    mid_min_cc: int
    mid_max_cc: int
    per_event: int
    categories: tuple[str, ...]
    exclude: tuple[str, ...]
    discovery_refresh_s: float
    sim_seed: int
    sim_speed: float
    sim_tape: tuple[str, ...]
    sim_balance_ud: int
    sim_faults: str
    queue_model: str
    latency_ms: int
    record: str | None
    record_max_mb: int
    log_level: str
    log_max_mb: int
    log_files: int
    alert_url: Secret | None
    alert_format: str
    alert_level: str
    exit_on_halt: bool

    @property
    def home(self) -> Path:
        """The environment's own folder: journal, lock, token, latch, logs."""
        return self.data_dir / self.environment.value

    @property
    def is_armed(self) -> bool:
        """Whether orders may be created at all: in production only with both signs."""
        if self.environment is not Environment.PRODUCTION:
            return True
        return bool(self.arm and self.key_id and self.key_id.endswith(self.arm))

    @property
    def is_embedded(self) -> bool:
        """Whether the exchange lives in this process."""
        return self.environment is Environment.SIM and self.api_url is None

    @property
    def record_dir(self) -> Path | None:
        """Where tapes go; None when recording is off."""
        if self.record is None:
            return None if self.environment is Environment.SIM else self.home / "tapes"
        return None if self.record == "off" else Path(self.record)


assert {setting.field for setting in SETTINGS} == {f.name for f in dataclasses.fields(Config)}, (
    "the registry and Config name different settings"
)


def _bounded(setting: Setting, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        value = parse(text)
        is_in = (not setting.low or value >= parse(setting.low)) and (
            not setting.high or value <= parse(setting.high)
        )
    except (ValueError, WireError):
        is_in = False
    if not is_in:
        span = f" from {setting.low} to {setting.high}" if setting.low else ""
        unit = f" ({setting.unit})" if setting.unit else ""
        raise ConfigError(
            f"{setting.name}: {text!r} is not a {setting.kind.value}{span}{unit}; correct it"
        )
    return value


def _finite(text: str) -> float:
    if not re.fullmatch(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE]-?[0-9]{1,2})?", text, re.ASCII):
        raise ValueError(text)
    return float(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,20}", text, re.ASCII):
        raise ValueError(text)
    return int(text)


def _boolean(setting: Setting, text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ConfigError(f"{setting.name}: {text!r} is neither true nor false; correct it")
    return words[text.lower()]


def _choice(setting: Setting, text: str) -> str:
    word = ENVIRONMENT_ALIASES.get(text, text) if setting.name == "environment" else text
    if word not in setting.choices:
        raise ConfigError(f"{setting.name}: {text!r} is not one of {', '.join(setting.choices)}")
    return word


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _json_object(setting: Setting, text: str) -> Mapping[str, JsonScalar]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(map(_is_scalar, value.values())):
        raise ConfigError(
            f'{setting.name}: {text!r:.80} is not a JSON object like {{"gamma": 0.05}}'
        )
    return MappingProxyType(value)


def parse_setting(setting: Setting, text: str | None) -> Any:
    """Turn one text into the value Config holds; ConfigError names setting, value and range."""
    if text is None or (text == "" and setting.kind is not Kind.LIST and setting.default is None):
        return () if setting.kind is Kind.LIST else None
    match setting.kind:
        case Kind.TEXT:
            return text
        case Kind.CHOICE:
            return _choice(setting, text)
        case Kind.INT:
            return _bounded(setting, text, _whole)
        case Kind.FLOAT:
            return _bounded(setting, text, _finite)
        case Kind.BOOL:
            return _boolean(setting, text)
        case Kind.DOLLARS:
            return _bounded(setting, text, lambda t: parse_fixed(t, 4) * 100)
        case Kind.CONTRACTS:
            return _bounded(setting, text, parse_count)
        case Kind.CENTS:
            return _bounded(setting, text, parse_count)
        case Kind.LIST:
            return tuple(part.strip() for part in text.split(",") if part.strip())
        case Kind.JSON:
            return _json_object(setting, text)
        case Kind.PATH:
            return Path(text).expanduser()
        case Kind.SECRET:
            return Secret(text)
        case _:
            assert_never(setting.kind)


def _check_url(name: str, url: str, environment: Environment, schemes: tuple[str, ...]) -> None:
    parts = urlsplit(url)
    allowed = ALLOWED_HOSTS[environment]
    if parts.hostname not in allowed or parts.username or parts.query:
        raise ConfigError(
            f"{name}: {url!r:.120} is not on the host list of {environment.value} "
            f"({', '.join(sorted(allowed))}); correct it or choose another environment"
        )
    if parts.scheme not in schemes:
        raise ConfigError(f"{name}: {url!r:.120} must begin with {schemes[0]}://")


def check_urls(environment: Environment, api_url: str, ws_url: str) -> None:
    """Refuse any host outside the environment's own list (promise S17)."""
    is_sim = environment is Environment.SIM
    _check_url("KALSHI_API_URL", api_url, environment, ("http", "https") if is_sim else ("https",))
    _check_url("KALSHI_WS_URL", ws_url, environment, ("ws", "wss") if is_sim else ("wss",))


def _check_together(config: Config) -> None:
    env = config.environment
    if (config.api_url is None) != (config.ws_url is None):
        raise ConfigError("KALSHI_API_URL and KALSHI_WS_URL belong together; set both or neither")
    if config.api_url is not None and config.ws_url is not None:
        check_urls(env, config.api_url, config.ws_url)
    if config.mode == "config" and not config.tickers:
        raise ConfigError("mode config needs tickers; give --tickers A,B or use --mode discovery")
    if config.host not in LOOPBACK_HOSTS and not config.allow_remote:
        raise ConfigError(
            f"host: {config.host!r} is not loopback and would show the controls to the network; "
            "use 127.0.0.1 with an SSH tunnel, or say --allow-remote"
        )
    if not re.fullmatch(r"[A-Za-z0-9]{2,8}", config.order_prefix, re.ASCII):
        raise ConfigError(f"order_prefix: {config.order_prefix!r} is not 2-8 letters or digits")
    if config.min_close_s >= config.max_close_s or config.mid_min_cc >= config.mid_max_cc:
        raise ConfigError("discovery: a lower bound is not below its upper bound; correct it")
    if config.sim_tape and not config.is_embedded:
        raise ConfigError(
            "sim_tape: a tape needs the embedded exchange (--env sim, no KALSHI_API_URL)"
        )
    _check_arm(config)


def _check_arm(config: Config) -> None:
    if config.arm is None or config.environment is not Environment.PRODUCTION:
        return
    if len(config.arm) < 4 or not config.is_armed:
        raise ConfigError(
            "arm: not the last 4 or more characters of KALSHI_API_KEY_ID; production stays "
            "read-only without --arm, and is refused with a wrong one"
        )


def build_config(texts: Mapping[str, str | None]) -> Config:
    """Parse and cross-check all settings; names missing in `texts` take their default."""
    unknown = set(texts) - set(SETTINGS_BY_NAME)
    assert not unknown, f"unknown settings reached build_config: {sorted(unknown)}"
    values = {
        setting.field: parse_setting(setting, texts.get(setting.name, setting.default))
        for setting in SETTINGS
    }
    values["environment"] = Environment(values["environment"])
    is_real = values["environment"] is Environment.PRODUCTION
    values["strategy"] = values["strategy"] or (("hold",) if is_real else ("market_maker",))
    values["fee_precision_ud"] = 100 if values["fee_precision_ud"] == "direct" else 10_000
    values["data_dir"] = values["data_dir"] or Path(__file__).resolve().parent / "data"
    config = Config(**values)
    _check_together(config)
    return config


# ======================================================================================
# §03 DOMAIN
# Purpose:   The nouns of the market: sides, grids, markets, orders, fills, positions, wishes.
# Position:  Uses §01. Used by every later room.
# Principle: What crosses a room is frozen; closed sets are enums; a price names its leg.
# ======================================================================================

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]
Memory = Mapping[str, JsonValue]
EMPTY: Final[Memory] = MappingProxyType({})
Level = tuple[int, int]  # (price_cc, count_h) of one side of a book


class Side(StrEnum):
    """The leg that is bought. A NO contract at q is the other end of a YES contract at 1 - q."""

    YES = "yes"
    NO = "no"

    @property
    def other(self) -> Side:
        """The opposite leg."""
        return Side.NO if self is Side.YES else Side.YES

    def to_yes_cc(self, price_cc: int) -> int:
        """Price of this leg, seen on the YES scale; its own inverse."""
        return price_cc if self is Side.YES else CC_PER_DOLLAR - price_cc

    def signed(self, count_h: int) -> int:
        """Count as a position change: plus for YES, minus for NO."""
        return count_h if self is Side.YES else -count_h


@lru_cache(maxsize=64)
def _grid_prices(
    ranges: tuple[tuple[int, int, int], ...],
) -> tuple[tuple[int, ...], frozenset[int]]:
    valid = {
        price
        for start_cc, end_cc, step_cc in ranges
        for price in range(start_cc, end_cc + 1, step_cc)
        if 0 < price < CC_PER_DOLLAR
    }
    return tuple(sorted(valid)), frozenset(valid)


@dataclass(frozen=True, slots=True)
class PriceGrid:
    """Valid YES prices of a market, from its `price_ranges`; never from its label.

    `ranges` holds (start_cc, end_cc, step_cc), both ends included. 0 and 1 dollar are never valid.
    """

    ranges: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not self.ranges or any(step <= 0 or end < start for start, end, step in self.ranges):
            raise WireError(f"impossible price ranges: {self.ranges!r:.120}")

    @property
    def prices(self) -> tuple[int, ...]:
        """All valid YES prices in centi-cents, ascending."""
        return _grid_prices(self.ranges)[0]

    def is_valid(self, side: Side, price_cc: int) -> bool:
        """Whether an order for `side` may carry this price (of that side)."""
        return side.to_yes_cc(price_cc) in _grid_prices(self.ranges)[1]

    def floor(self, yes_cc: int) -> int | None:
        """Highest valid YES price <= yes_cc; None when there is none."""
        prices = self.prices
        at = bisect_right(prices, yes_cc)
        return prices[at - 1] if at else None

    def ceil(self, yes_cc: int) -> int | None:
        """Lowest valid YES price >= yes_cc; None when there is none."""
        prices = self.prices
        at = bisect_left(prices, yes_cc)
        return prices[at] if at < len(prices) else None

    def up(self, yes_cc: int) -> int | None:
        """Next valid YES price above; None at the top."""
        return self.ceil(yes_cc + 1)

    def down(self, yes_cc: int) -> int | None:
        """Next valid YES price below; None at the bottom."""
        return self.floor(yes_cc - 1)


CENT_GRID: Final = PriceGrid(((0, CC_PER_DOLLAR, 100),))


def twice_mid_cc(bid_cc: int | None, ask_cc: int | None) -> int | None:
    """Bid + ask, which is exact where the mid is not; None when a side is empty or unknown."""
    return None if bid_cc is None or ask_cc is None else bid_cc + ask_cc


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """One market as the exchange last described it; prices are of the YES leg.

    `bid_cc` and `ask_cc` are None for an empty side, `last_cc` is None when it never traded,
    `result` is "" until determined, `settlement_cc` is what one YES contract pays, None before.
    """

    ticker: str
    event_ticker: str
    series: str
    title: str
    status: str  # initialized inactive active closed determined disputed amended finalized
    open_at_ms: int
    close_at_ms: int
    grid: PriceGrid
    result: str = ""
    settlement_cc: int | None = None
    bid_cc: int | None = None
    bid_h: int = 0
    ask_cc: int | None = None
    ask_h: int = 0
    last_cc: int | None = None
    volume_24h_h: int = 0
    category: str = ""
    is_combo: bool = False
    exchange_index: int = 0


class OrderStatus(StrEnum):
    """Where one order of ours stands. The exchange's word where it has one."""

    INTENT = "intent"  # journaled, no byte has left
    SENT = "sent"  # bytes left, no answer yet
    UNKNOWN = "unknown"  # no proof either way; reserved in risk until resolved
    RESTING = "resting"
    EXECUTED = "executed"
    CANCELED = "canceled"
    REJECTED = "rejected"
    NEVER_ACCEPTED = "never_accepted"

    @property
    def is_live(self) -> bool:
        """Whether the order may still be, or become, a fill."""
        return self in LIVE_STATUSES


LIVE_STATUSES: Final = frozenset(
    {OrderStatus.INTENT, OrderStatus.SENT, OrderStatus.UNKNOWN, OrderStatus.RESTING}
)

# Legal moves of an order. Terminal rows are final; a late accept is an alarm of its own (§18).
ORDER_MOVES: Final[dict[OrderStatus, frozenset[OrderStatus]]] = {
    OrderStatus.INTENT: frozenset(
        {OrderStatus.SENT, OrderStatus.REJECTED, OrderStatus.NEVER_ACCEPTED}
    ),
    OrderStatus.SENT: frozenset(set(OrderStatus) - {OrderStatus.INTENT, OrderStatus.SENT}),
    OrderStatus.UNKNOWN: frozenset(
        {
            OrderStatus.RESTING,
            OrderStatus.EXECUTED,
            OrderStatus.CANCELED,
            OrderStatus.REJECTED,
            OrderStatus.NEVER_ACCEPTED,
        }
    ),
    OrderStatus.RESTING: frozenset({OrderStatus.EXECUTED, OrderStatus.CANCELED}),
    OrderStatus.EXECUTED: frozenset(),
    OrderStatus.CANCELED: frozenset(),
    OrderStatus.REJECTED: frozenset(),
    OrderStatus.NEVER_ACCEPTED: frozenset(),
}
assert set(ORDER_MOVES) == set(OrderStatus), "every order status needs its row of moves"


class CommandKind(StrEnum):
    """What may be sent about an order."""

    CREATE = "create"
    AMEND = "amend"
    DECREASE = "decrease"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order, ours or foreign, as far as we know it.

    `price_cc` is of the leg in `side`. `count_h` counts what was asked for in all, filled part
    included. `worst_h` and `worst_cc` are the remaining size and the price risk must assume while
    a command is in flight or unproven; they equal the plain values at rest.
    """

    client_order_id: str
    ticker: str
    event_ticker: str
    side: Side
    price_cc: int
    count_h: int
    status: OrderStatus
    order_id: str | None = None
    filled_h: int = 0  # as the exchange counts
    booked_h: int = 0  # of these, fills that are in the ledger
    why: str | None = None
    strategy: str = ""
    slot: str = ""
    decision_id: str = ""
    is_take: bool = False
    is_foreign: bool = False
    sent_at_ms: int = 0
    acked_at_ms: int | None = None
    moved_at_ms: int = 0
    updated_at_ms: int = 0  # newest exchange report applied
    expires_at_ms: int | None = None
    pending: CommandKind | None = None  # a command whose outcome is not proven
    pending_since_ms: int = 0
    worst_h: int = 0
    worst_cc: int = 0

    @property
    def remaining_h(self) -> int:
        """Contracts that may still fill; 0 once the order has ended."""
        return max(0, self.count_h - self.filled_h) if self.status.is_live else 0

    @property
    def at_risk_h(self) -> int:
        """Contracts the risk gate takes as filled: open at its worst, and filled but not booked."""
        open_h = max(self.remaining_h, self.worst_h) if self.status.is_live else 0
        return open_h + max(0, self.filled_h - self.booked_h)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One execution. `side` is the leg acquired, `price_cc` is of that leg, `fee_ud` as charged."""

    trade_id: str
    order_id: str
    client_order_id: str | None
    ticker: str
    side: Side
    price_cc: int
    count_h: int
    is_taker: bool
    fee_ud: int
    at_ms: int
    strategy: str = ""
    is_foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Net holding of one market: plus YES, minus NO. `cost_ud`: cost of the open part, no fees."""

    ticker: str
    position_h: int = 0
    cost_ud: int = 0
    realised_ud: int = 0
    fees_ud: int = 0

    @property
    def side(self) -> Side:
        """The leg held (YES when flat)."""
        return Side.NO if self.position_h < 0 else Side.YES


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Cash that the exchange says is there, and when it said so."""

    cash_ud: int
    portfolio_value_ud: int
    updated_at_ms: int


class Reason(StrEnum):
    """Why an evaluation ended as it did; closed list of STRATEGIES §3, in gate order."""

    NOT_READY = "not_ready"
    PAUSED = "paused"
    HALTED = "halted"
    EXCHANGE_PAUSED = "exchange_paused"
    CLOCK_SKEW = "clock_skew"
    STREAM_LOST = "stream_lost"
    LOOP_LAG = "loop_lag"
    JOURNAL_UNWRITABLE = "journal_unwritable"
    MARKET_NOT_ACTIVE = "market_not_active"
    NEAR_CLOSE = "near_close"
    FEE_UNKNOWN = "fee_unknown"
    BOOK_NEVER_SEEN = "book_never_seen"
    BOOK_RESYNCING = "book_resyncing"
    BOOK_STALE = "book_stale"
    BOOK_CROSSED = "book_crossed"
    BOOK_ONE_SIDED = "book_one_sided"
    BOOK_ONLY_OWN = "book_only_own"
    RECONCILE_DUE = "reconcile_due"
    ORDER_UNKNOWN = "order_unknown"
    BALANCE_STALE = "balance_stale"
    NO_CASH = "no_cash"
    HOLD = "hold"
    WARMING_UP = "warming_up"
    PRICE_OUT_OF_RANGE = "price_out_of_range"
    SPREAD_TOO_WIDE = "spread_too_wide"
    DEPTH_TOO_THIN = "depth_too_thin"
    NO_SIGNAL = "no_signal"
    EDGE_BELOW_COST = "edge_below_cost"
    COOLDOWN = "cooldown"
    ALREADY_IN = "already_in"
    INVENTORY_FULL = "inventory_full"
    JUMP_PULL = "jump_pull"
    TOXIC_FLOW = "toxic_flow"
    OUT_OF_DISTRIBUTION = "out_of_distribution"
    POLICY_MISSING = "policy_missing"
    STRATEGY_ERROR = "strategy_error"
    LIMIT_ORDER_SIZE = "limit_order_size"
    LIMIT_POSITION = "limit_position"
    LIMIT_MARKET = "limit_market"
    LIMIT_EVENT = "limit_event"
    LIMIT_EXPOSURE = "limit_exposure"
    LIMIT_OPEN_ORDERS = "limit_open_orders"
    LIMIT_ORDER_RATE = "limit_order_rate"
    LIMIT_DAILY_LOSS = "limit_daily_loss"
    LIMIT_DRAWDOWN = "limit_drawdown"
    LIMIT_CASH = "limit_cash"
    LIMIT_NOTIONAL_RATE = "limit_notional_rate"
    PRICE_COLLAR = "price_collar"
    DUPLICATE_ORDER = "duplicate_order"
    WOULD_CROSS_OWN = "would_cross_own"
    OFF_GRID = "off_grid"
    REDUCE_ONLY = "reduce_only"
    RATE_BUDGET = "rate_budget"
    KEPT = "kept"
    ACTED = "acted"


_STAGE_STARTS: Final = (
    ("trader", Reason.NOT_READY),
    ("market", Reason.MARKET_NOT_ACTIVE),
    ("data", Reason.BOOK_NEVER_SEEN),
    ("account", Reason.RECONCILE_DUE),
    ("strategy", Reason.HOLD),
    ("risk", Reason.LIMIT_ORDER_SIZE),
    ("budget", Reason.RATE_BUDGET),
    ("done", Reason.KEPT),
)


def _stages() -> dict[str, str]:
    starts, stage, stages = {first: name for name, first in _STAGE_STARTS}, "", {}
    for reason in Reason:
        stage = starts.get(reason, stage)
        stages[str(reason)] = stage
    return stages


_STAGES: Final = _stages()


def stage_of(reason: str) -> str:
    """Stage of the funnel a reason belongs to; a strategy's own `x_…` reasons are its stage."""
    return _STAGES.get(reason, "strategy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One order a strategy wants. Buying only: to leave 10 YES at 60 ¢ is to buy 10 NO at 40 ¢.

    `price_cc` is of `side`, on the market's grid; `count_h` > 0 is what should remain open.
    `take` sends immediate-or-cancel with the price as limit, else post-only. `urgent` skips the
    minimum rest when the move is away from the market.
    """

    slot: str
    side: Side
    price_cc: int
    count_h: int
    take: bool = False
    urgent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a strategy wants in one market, and one reason (`Reason`, or its own `x_name`)."""

    wants: tuple[Want, ...]
    reason: Reason | str
    value: str = ""  # what was measured: "edge -4 cc"
    limit: str = ""  # what it was held against: ">= 0 cc"
    fair_cc: int | None = None
    features: tuple[tuple[str, float], ...] = ()
    memory: Memory = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One create or amend that §18 made of a want: checked, journaled, then one POST.

    `count_h` is the size that shall be open afterwards (filled part not included), `filled_h` what
    an amended order has filled already, `unbooked_h` how much of that is not in the position yet.
    `is_refresh` marks an amend that only renews the expiry.
    """

    kind: CommandKind
    client_order_id: str
    ticker: str
    event_ticker: str
    side: Side
    price_cc: int
    count_h: int
    strategy: str
    slot: str
    decision_id: str
    at_ms: int
    expires_at_ms: int | None
    order_id: str | None = None
    filled_h: int = 0
    unbooked_h: int = 0
    is_take: bool = False
    is_reduce_only: bool = False
    is_refresh: bool = False

    @property
    def at_risk_h(self) -> int:
        """Contracts by which the position may still grow: open afterwards, or filled unbooked."""
        return self.count_h + self.unbooked_h

    @property
    def notional_ud(self) -> int:
        """Worst case of this order alone, in micro-dollars: all of it filled and lost."""
        return self.price_cc * self.count_h


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Answer of a gate: allowed, or the reason with the number that broke the limit."""

    is_ok: bool
    reason: Reason | str = Reason.ACTED
    value: str = ""
    limit: str = ""


ALLOWED: Final = Verdict(is_ok=True)


def refusal(reason: Reason | str, value: str = "", limit: str = "") -> Verdict:
    """A no: its reason, what was measured, and what it was held against."""
    return Verdict(is_ok=False, reason=reason, value=value, limit=limit)


class Proof(StrEnum):
    """How far a book may be believed."""

    NEVER = "never"  # no snapshot yet
    PROVEN = "proven"
    RESYNCING = "resyncing"  # a gap was seen, a snapshot is on its way
    STALE = "stale"  # nothing proves that the feed lives


class Gate(StrEnum):
    """What the operator or a limit allows; kept on disk."""

    OPEN = "open"
    REDUCE_ONLY = "reduce-only"
    PAUSED = "paused"
    HALTED = "halted"


class Degraded(StrEnum):
    """Named reasons for trading less than usual; each begins and clears by itself."""

    ORDERBOOK = "orderbook"
    UNKNOWN_ORDER = "unknown_order"
    RECONCILE = "reconcile"
    CLOCK = "clock"
    LOOP = "loop"
    TRADING = "trading"
    JOURNAL = "journal"
    TASK = "task"
    PAUSE = "pause"
    STRATEGY = "strategy"
    RECORDER = "recorder"
    ALERTS = "alerts"


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradedReason:
    """One active degraded reason: markets covered (empty = all), since when, what clears it."""

    reason: Degraded
    markets: tuple[str, ...]
    since_at_ms: int
    clears_when: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """The durable latch: why trading was stopped, by whom, since when (Unix ms)."""

    why: str
    by: str
    since_at_ms: int


@dataclass(frozen=True, slots=True)
class Print:
    """One public trade. `price_cc` is of the YES leg, `taker_side` the leg the taker bought."""

    at_ms: int
    price_cc: int
    count_h: int
    taker_side: Side


# ======================================================================================
# §04 EVENTS
# Purpose:   Facts that cross the bus, in the past tense.
# Position:  Uses §03. Published by services, heard by services, status and the coordinator.
# Principle: A fact is frozen and stamped by its publisher; a command is never an event.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all facts. `at_ms` is corrected exchange time, Unix milliseconds."""

    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BookChanged(Event):
    """Best price or size of one market moved. Published by §17 on the order path."""

    ticker: str
    bid_cc: int | None  # best YES bid; None: that side is empty or the book is not proven
    ask_cc: int | None  # best YES offer (1 - best NO bid)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookProofChanged(Event):
    """A book became believable or stopped being so."""

    ticker: str
    proof: Proof
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TradePrinted(Event):
    """The public tape of a followed market moved."""

    ticker: str
    print: Print


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRestored(Event):
    """The socket is up and every subscription is acknowledged."""

    connects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLost(Event):
    """The socket ended or fell silent; nothing is replayed after it."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketsChanged(Event):
    """The set of followed markets changed."""

    tickers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketChanged(Event):
    """Facts of one market changed: status, close time, grid, result."""

    market: Market
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderChanged(Event):
    """One order reached a new status, size or price."""

    order: Order
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FillBooked(Event):
    """A fill was applied to the ledger, exactly once."""

    fill: Fill
    expected_fee_ud: int | None  # None: the fee schedule is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketSettled(Event):
    """A position was paid out. `cash_ud` is what the account received."""

    ticker: str
    result: str
    position_h: int
    cash_ud: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled(Event):
    """One full comparison with the exchange ended. `differences` is empty when clean."""

    generation: int
    orders: int
    positions: int
    is_clean: bool
    differences: tuple[str, ...]
    cash_difference_ud: int
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandsInFlight(Event):
    """Number of order commands waiting for an answer went from or to zero."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMade(Event):
    """One evaluation ended. `record` is the stored decision, None when only the count matters."""

    ticker: str
    strategy: str
    reason: str
    value: str
    limit: str
    decision_id: str
    wants: int
    order_ids: tuple[str, ...]
    fair_cc: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """The trader moved to another state."""

    from_state: str
    to_state: str
    why: str
    metadata: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class DegradedChanged(Event):
    """A degraded reason began (`is_active`) or cleared."""

    reason: DegradedReason
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GateChanged(Event):
    """The trading gate or the halt latch changed."""

    gate: Gate
    why: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlMoved(Event):
    """A control a person asked for moved on: requested, sent, confirmed, failed, refused."""

    control_id: str
    action: str
    phase: str
    by: str
    asked_at_ms: int
    sent: int = 0
    confirmed: int = 0
    failed: int = 0
    remaining: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReported(Event):
    """What the health monitor found, component by component."""

    components: tuple[tuple[str, bool, bool, str | None], ...]  # name, healthy, critical, why


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRaised(Event):
    """Something a person should know. `severity`: info, warning, error."""

    severity: str
    kind: str
    text: str
    ticker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityNoted(Event):
    """One line for the activity log of the page and the journal."""

    activity_type: str
    message: str
    severity: str
    state: str
    metadata: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerTripped(Event):
    """A limit that stops trading was broken; §23 latches halted. `kind` names the limit."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownOrdersChanged(Event):
    """The set of (ticker, side) whose orders have no proven outcome changed."""

    count: int
    markets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertionBroke(Event):
    """Something impossible was seen; §23 stops new orders, cancels, and goes to ERROR."""

    where: str
    what: str


# ======================================================================================
# §05a WIRE: JSON
# Purpose:   Bytes into JSON objects, and their members into whole numbers, times and texts.
# Position:  Uses §01, §03. Used by §05b to §05d, §15, §16, §17.
# Principle: Tolerant of what is new, strict about what is needed; nothing unparsed gets past here.
# ======================================================================================

UD_PER_CENT: Final = UD_PER_DOLLAR // 100
CC_PER_CENT: Final = CC_PER_DOLLAR // 100
PPM: Final = 1_000_000

Json = dict[str, Any]
BookSides = tuple[dict[int, int], dict[int, int]]  # YES bids, NO bids: price_cc → count_h

_PATH_PART = re.compile(
    rf"[A-Za-z0-9_$+=:@~!-][A-Za-z0-9._$+=:@~!-]{{0,{PATH_PART_MAX - 1}}}", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class _Memo(dict[str, int]):
    """Decimal text → int by look-up; emptied when full, so that no peer can make it grow."""

    __slots__ = ("_parse",)

    def __init__(self, parse: Callable[[str], int]) -> None:
        super().__init__()
        self._parse = parse

    def __missing__(self, text: str) -> int:
        value = self._parse(text)
        if len(self) >= MEMO_MAX:
            self.clear()
        self[text] = value
        return value


def _parse_level_price(text: str) -> int:
    price_cc = parse_price(text)
    if not 0 < price_cc < CC_PER_DOLLAR:
        raise WireError(f"no price of a level: {text!r:.60}")
    return price_cc


# The hot path's tables: price of a book level (0 and 1 dollar refused), any price, any count.
LEVEL_PRICES: Final = _Memo(_parse_level_price)
PRICES: Final = _Memo(parse_price)
COUNTS: Final = _Memo(parse_count)


def load_json(data: bytes | str) -> Json:
    """Parse one JSON object. WireError with a short reason for HTML, other types, size or depth."""
    if len(data) > JSON_BYTES_MAX:
        raise WireError(f"too large: {len(data)} bytes")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        head = data[:40] if isinstance(data, str) else data[:40].decode("utf-8", "replace")
        kind = "HTML" if head.lstrip().startswith("<") else "no JSON"
        raise WireError(f"{kind} ({error}): {head!r}") from error
    if not isinstance(value, dict):
        raise WireError(f"not a JSON object but {type(value).__name__}")
    return value


def check_path_part(text: str) -> str:
    """A ticker or id that may enter a URL path unquoted; WireError for anything else."""
    if not isinstance(text, str) or _PATH_PART.fullmatch(text) is None:
        raise WireError(f"not a ticker or id: {text!r:.60}")
    return text


def _read_text(obj: Json, key: str, default: str | None = None) -> str:
    value = obj.get(key)
    if isinstance(value, str) and (value or default is not None):
        return value
    if default is not None and value is None:
        return default
    raise WireError(f"{key}: no text but {value!r:.60}")


def _read_int(obj: Json, key: str) -> int:
    value = obj.get(key)
    if type(value) is not int:
        raise WireError(f"{key}: no whole number but {value!r:.60}")
    return value


def _read_optional_int(obj: Json, key: str) -> int | None:
    return None if obj.get(key) is None else _read_int(obj, key)


def _read_object(obj: Json, key: str) -> Json:
    value = obj.get(key)
    if not isinstance(value, dict):
        raise WireError(f"{key}: no object but {type(value).__name__}")
    return value


def _read_list(obj: Json, key: str) -> list[Any]:
    """A list; null and an absent key are the empty one (the exchange has sent null)."""
    value = obj.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise WireError(f"{key}: no list but {type(value).__name__}")
    return value


def _read_count(obj: Json, key: str) -> int:
    return COUNTS[_read_text(obj, key)]


def _read_optional_count(obj: Json, key: str) -> int | None:
    return None if obj.get(key) in (None, "") else _read_count(obj, key)


def _read_price(obj: Json, key: str) -> int:
    price_cc = PRICES[_read_text(obj, key)]
    if not 0 <= price_cc <= CC_PER_DOLLAR:
        raise WireError(f"{key}: no price between 0 and 1 dollar: {price_cc} cc")
    return price_cc


def _read_quote(obj: Json, key: str) -> int | None:
    """A best price of a market list; the exchange writes an empty side as 0 or 1 dollar."""
    if obj.get(key) in (None, ""):
        return None
    price_cc = _read_price(obj, key)
    return price_cc if 0 < price_cc < CC_PER_DOLLAR else None


def _read_money(obj: Json, key: str) -> int:
    """Dollars; null or absent is 0, as the exchange itself does for accounts without trades."""
    return 0 if obj.get(key) is None else parse_dollars(_read_text(obj, key))


def decode_rfc3339_ms(text: object) -> int:
    """RFC 3339 time with zone and a fraction of any length → Unix milliseconds, cut off."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        if moment is None or moment.tzinfo is None:
            raise ValueError("no time with a zone")
        return (moment - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError) as error:
        raise WireError(f"not a time: {text!r:.60}") from error


def _read_time_ms(obj: Json, *keys: str) -> int | None:
    """First of `keys` there is: `…_ms` in milliseconds, other ints in seconds, text RFC 3339."""
    for key in keys:
        value = obj.get(key)
        if type(value) is int:
            return value if key.endswith("_ms") else value * 1000
        if value is not None and value != "":
            return decode_rfc3339_ms(value)
    return None


# ======================================================================================
# §05b WIRE: MARKETS
# Purpose:   JSON of the public side (markets, books, trades, events, lifecycle) into values.
# Position:  Uses §01, §03, §05a. Used by §15, §16, §17, which hand in parsed objects.
# Principle: A price ladder comes from its ranges, an empty side is None, a word stays a word.
# ======================================================================================


def decode_grid(ranges: object) -> PriceGrid:
    """`price_ranges` of a market; the label beside it is never read."""
    if not isinstance(ranges, list) or not all(isinstance(row, dict) for row in ranges):
        raise WireError("price_ranges: no list of objects")
    return PriceGrid(
        tuple(
            (_read_price(row, "start"), _read_price(row, "end"), _read_price(row, "step"))
            for row in ranges
        )
    )


def _read_title(obj: Json) -> str:
    title, part = _read_text(obj, "title", ""), _read_text(obj, "yes_sub_title", "")
    return f"{title} · {part}" if title and part else title or part


def decode_market(obj: Json) -> Market:
    """One market of REST. The series is not on it (empty): it comes with the event.

    Needs ticker, event, status, close time and price ranges; raises WireError without them.
    """
    value = obj.get("settlement_value_dollars")
    return Market(
        ticker=check_path_part(_read_text(obj, "ticker")),
        event_ticker=check_path_part(_read_text(obj, "event_ticker")),
        series=_read_text(obj, "series_ticker", ""),
        title=_read_title(obj),
        status=_read_text(obj, "status"),
        open_at_ms=_read_time_ms(obj, "open_time") or 0,
        close_at_ms=decode_rfc3339_ms(obj.get("close_time")),
        grid=decode_grid(obj.get("price_ranges")),
        result=_read_text(obj, "result", ""),
        settlement_cc=None if value in (None, "") else _read_price(obj, "settlement_value_dollars"),
        bid_cc=_read_quote(obj, "yes_bid_dollars"),
        bid_h=_read_optional_count(obj, "yes_bid_size_fp") or 0,
        ask_cc=_read_quote(obj, "yes_ask_dollars"),
        ask_h=_read_optional_count(obj, "yes_ask_size_fp") or 0,
        last_cc=_read_quote(obj, "last_price_dollars"),
        volume_24h_h=_read_optional_count(obj, "volume_24h_fp") or 0,
        category=_read_text(obj, "category", ""),
        is_combo=bool(obj.get("mve_collection_ticker")),
        exchange_index=_read_optional_int(obj, "exchange_index") or 0,
    )


def decode_page(
    obj: Json, key: str, decode: Callable[[Json], T], *, strict: bool
) -> tuple[list[T], str, int]:
    """One page of a list: rows, the next cursor ("" at the end), rows refused.

    `strict` raises WireError at the first bad row: of orders and fills none may be lost in silence.
    """
    rows: list[T] = []
    refused = 0
    for item in _read_list(obj, key):
        try:
            rows.append(decode(item if isinstance(item, dict) else {}))
        except WireError:
            if strict:
                raise
            refused += 1
    return rows, _read_text(obj, "cursor", ""), refused


def decode_levels(pairs: object) -> dict[int, int]:
    """Levels `[price, count]` of one side → {price_cc: count_h}; None (side absent) is empty."""
    if pairs is None:
        return {}
    try:
        levels = {LEVEL_PRICES[price]: COUNTS[count] for price, count in cast(list[Any], pairs)}
    except (TypeError, ValueError) as error:
        raise WireError(f"no list of levels: {pairs!r:.60}") from error
    if any(count_h < 0 for count_h in levels.values()):
        raise WireError("a level below zero")
    return {price_cc: count_h for price_cc, count_h in levels.items() if count_h}


def decode_orderbook(obj: Json) -> BookSides:
    """REST book: bids of both legs, each on its own scale; an absent side is empty."""
    book = _read_object(obj, "orderbook_fp")
    return decode_levels(book.get("yes_dollars")), decode_levels(book.get("no_dollars"))


def decode_orderbooks(obj: Json) -> dict[str, BookSides]:
    """Several REST books by ticker."""
    rows = [row for row in _read_list(obj, "orderbooks") if isinstance(row, dict)]
    return {_read_text(row, "ticker"): decode_orderbook(row) for row in rows}


def decode_book_frame(msg: Json) -> tuple[str, BookSides]:
    """Body of an `orderbook_snapshot`: ticker and both sides (own legs' scales)."""
    sides = decode_levels(msg.get("yes_dollars_fp")), decode_levels(msg.get("no_dollars_fp"))
    return _read_text(msg, "market_ticker"), sides


def decode_trade(msg: Json) -> tuple[str, Print, str]:
    """Public trade of stream or REST: ticker, print, trade id."""
    leg = msg.get("taker_outcome_side") or msg.get("taker_side")
    if leg not in ("yes", "no"):
        raise WireError(f"taker side: {leg!r:.60}")
    at_ms = _read_time_ms(msg, "ts_ms", "ts", "created_time")
    if at_ms is None:
        raise WireError("trade without a time")
    one = Print(
        at_ms=at_ms,
        price_cc=_read_price(msg, "yes_price_dollars"),
        count_h=_read_count(msg, "count_fp"),
        taker_side=Side(leg),
    )
    return (
        _read_text(msg, "ticker" if "ticker" in msg else "market_ticker"),
        one,
        _read_text(msg, "trade_id"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleReport:
    """What a lifecycle frame says; None: not said. `event_type` is the exchange's word."""

    ticker: str
    event_type: str
    open_at_ms: int | None
    close_at_ms: int | None
    grid: PriceGrid | None
    result: str | None
    settlement_cc: int | None


def decode_lifecycle(msg: Json) -> LifecycleReport:
    """Body of a `market_lifecycle_v2` frame."""
    has_value = msg.get("settlement_value") not in (None, "")
    return LifecycleReport(
        ticker=_read_text(msg, "market_ticker"),
        event_type=_read_text(msg, "event_type"),
        open_at_ms=_read_time_ms(msg, "open_ts"),
        close_at_ms=_read_time_ms(msg, "close_ts"),
        grid=decode_grid(msg["price_ranges"]) if msg.get("price_ranges") else None,
        result=_read_text(msg, "result", "") or None,
        settlement_cc=_read_price(msg, "settlement_value") if has_value else None,
    )


def _multiplier_ppm(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        raise WireError(f"fee multiplier: {value!r:.60}")
    return round(value * PPM)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReport:
    """One event: where its markets belong. `fee_type`, `multiplier_ppm` None: no override."""

    event_ticker: str
    series: str
    title: str
    category: str
    fee_type: str | None
    multiplier_ppm: int | None


def decode_event(obj: Json) -> EventReport:
    """Answer of GET /events/{event_ticker}."""
    event = _read_object(obj, "event")
    return EventReport(
        event_ticker=_read_text(event, "event_ticker"),
        series=check_path_part(_read_text(event, "series_ticker")),
        title=_read_text(event, "title", ""),
        category=_read_text(event, "category", ""),
        fee_type=_read_text(event, "fee_type_override", "") or None,
        multiplier_ppm=_multiplier_ppm(event.get("fee_multiplier_override")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesReport:
    """One series: title, category and the fee model of its markets (multiplier in millionths)."""

    ticker: str
    title: str
    category: str
    fee_type: str
    multiplier_ppm: int


def decode_series_row(series: Json) -> SeriesReport:
    """One series object."""
    multiplier_ppm = _multiplier_ppm(series.get("fee_multiplier"))
    if multiplier_ppm is None:
        raise WireError("series without a fee multiplier")
    return SeriesReport(
        ticker=_read_text(series, "ticker"),
        title=_read_text(series, "title", ""),
        category=_read_text(series, "category", ""),
        fee_type=_read_text(series, "fee_type"),
        multiplier_ppm=multiplier_ppm,
    )


def decode_series(obj: Json) -> SeriesReport:
    """Answer of GET /series/{series_ticker}."""
    return decode_series_row(_read_object(obj, "series"))


# ======================================================================================
# §05c WIRE: ACCOUNT
# Purpose:   JSON of orders, fills, positions, cash and payouts into reports.
# Position:  Uses §01, §03, §05a. Used by §15, §16, §18.
# Principle: An order is the leg it buys and the price of that leg; the deprecated twins mislead.
# ======================================================================================

_LEGS: Final = {"bid": Side.YES, "ask": Side.NO, "yes": Side.YES, "no": Side.NO}
_OLD_LEGS: Final = {
    ("yes", "buy"): Side.YES,
    ("no", "sell"): Side.YES,
    ("no", "buy"): Side.NO,
    ("yes", "sell"): Side.NO,
}
_ORDER_WORDS: Final = {
    "resting": OrderStatus.RESTING,
    "executed": OrderStatus.EXECUTED,
    "canceled": OrderStatus.CANCELED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReport:
    """One order as the exchange tells it, by REST or stream. `price_cc` is of the leg in `side`.

    `status` is UNKNOWN for a word we do not know. Times are Unix ms, None where not said.
    """

    order_id: str
    client_order_id: str
    ticker: str
    side: Side
    price_cc: int
    count_h: int
    filled_h: int
    remaining_h: int
    status: OrderStatus
    why: str | None
    expires_at_ms: int | None
    created_at_ms: int | None
    updated_at_ms: int | None
    group_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FillReport:
    """One execution of ours. `side` is the leg acquired; `post_position_h` only on the stream."""

    trade_id: str
    order_id: str
    client_order_id: str | None
    ticker: str
    side: Side
    price_cc: int
    count_h: int
    is_taker: bool
    fee_ud: int
    at_ms: int
    post_position_h: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionReport:
    """Net holding of one market (plus YES, minus NO), cost without fees."""

    ticker: str
    position_h: int
    cost_ud: int
    realised_ud: int
    fees_ud: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One payout. `value_cc` is what one YES contract paid, None when the exchange does not say."""

    ticker: str
    result: str
    yes_h: int
    no_h: int
    revenue_ud: int
    fee_ud: int
    value_cc: int | None
    at_ms: int


def _leg(obj: Json) -> Side:
    """The leg that is bought, from the two fields that mean the same on orders and fills."""
    words = [obj[key] for key in ("book_side", "outcome_side") if obj.get(key) is not None]
    legs = {_LEGS.get(word) if isinstance(word, str) else None for word in words}
    if len(legs) == 1 and None not in legs:
        return cast(Side, legs.pop())
    raise WireError(f"no clear side: {words!r:.60}")


def _order_leg(obj: Json) -> Side:
    if obj.get("book_side") is not None or obj.get("outcome_side") is not None:
        return _leg(obj)
    leg = _OLD_LEGS.get((str(obj.get("side")), str(obj.get("action"))))
    if leg is None:
        raise WireError("order without a side")
    return leg


def decode_order(obj: Json) -> OrderReport:
    """One order of GET /portfolio/orders or of a `user_order` frame."""
    side = _order_leg(obj)
    return OrderReport(
        order_id=check_path_part(_read_text(obj, "order_id")),
        client_order_id=_read_text(obj, "client_order_id", ""),
        ticker=check_path_part(_read_text(obj, "ticker")),
        side=side,
        price_cc=side.to_yes_cc(_read_price(obj, "yes_price_dollars")),
        count_h=_read_count(obj, "initial_count_fp"),
        filled_h=_read_count(obj, "fill_count_fp"),
        remaining_h=_read_count(obj, "remaining_count_fp"),
        status=_ORDER_WORDS.get(_read_text(obj, "status"), OrderStatus.UNKNOWN),
        why=_read_text(obj, "last_update_reason", "") or None,
        expires_at_ms=_read_time_ms(obj, "expiration_ts_ms", "expiration_time"),
        created_at_ms=_read_time_ms(obj, "created_ts_ms", "created_time"),
        updated_at_ms=_read_time_ms(obj, "last_updated_ts_ms", "last_update_time"),
        group_id=_read_text(obj, "order_group_id", "") or None,
    )


def decode_queue(obj: Json) -> tuple[str, int]:
    """(order id, contracts ahead in hundredths) of GET /portfolio/orders/queue_positions."""
    return check_path_part(_read_text(obj, "order_id")), _read_count(obj, "queue_position_fp")


def decode_fill(obj: Json) -> FillReport:
    """One fill of GET /portfolio/fills or of a `fill` frame; the deprecated pair is never read."""
    side = _leg(obj)
    at_ms = _read_time_ms(obj, "ts_ms", "created_time", "ts")
    is_taker = obj.get("is_taker")
    if at_ms is None or not isinstance(is_taker, bool):
        raise WireError("fill without time or taker flag")
    count_h = _read_count(obj, "count_fp")
    if count_h <= 0:
        raise WireError(f"fill of {count_h} h")
    return FillReport(
        trade_id=_read_text(obj, "trade_id"),
        order_id=_read_text(obj, "order_id"),
        client_order_id=_read_text(obj, "client_order_id", "") or None,
        ticker=check_path_part(_read_text(obj, "ticker" if "ticker" in obj else "market_ticker")),
        side=side,
        price_cc=side.to_yes_cc(_read_price(obj, "yes_price_dollars")),
        count_h=count_h,
        is_taker=is_taker,
        fee_ud=parse_dollars(_read_text(obj, "fee_cost")),
        at_ms=at_ms,
        post_position_h=_read_optional_count(obj, "post_position_fp"),
    )


def decode_position(obj: Json) -> PositionReport:
    """One row of `market_positions` (REST) or a `market_position` frame."""
    is_frame = "market_ticker" in obj
    return PositionReport(
        ticker=check_path_part(_read_text(obj, "market_ticker" if is_frame else "ticker")),
        position_h=_read_count(obj, "position_fp"),
        cost_ud=_read_money(
            obj, "position_cost_dollars" if is_frame else "market_exposure_dollars"
        ),
        realised_ud=_read_money(obj, "realized_pnl_dollars"),
        fees_ud=_read_money(obj, "fees_paid_dollars"),
    )


def decode_balance(obj: Json) -> Balance:
    """Cash exact to the micro-dollar (the cent field is cut off and only a second choice)."""
    exact = obj.get("balance_dollars")
    cash_ud = _read_int(obj, "balance") * UD_PER_CENT if exact is None else parse_dollars(exact)
    return Balance(
        cash_ud=cash_ud,
        portfolio_value_ud=(_read_optional_int(obj, "portfolio_value") or 0) * UD_PER_CENT,
        updated_at_ms=_read_time_ms(obj, "updated_ts") or 0,
    )


def decode_settlement(obj: Json) -> Settlement:
    """One row of GET /portfolio/settlements."""
    at_ms, value_cents = _read_time_ms(obj, "settled_time"), _read_optional_int(obj, "value")
    if at_ms is None:
        raise WireError("settlement without a time")
    return Settlement(
        ticker=check_path_part(_read_text(obj, "ticker")),
        result=_read_text(obj, "market_result"),
        yes_h=_read_count(obj, "yes_count_fp"),
        no_h=_read_count(obj, "no_count_fp"),
        revenue_ud=_read_int(obj, "revenue") * UD_PER_CENT,
        fee_ud=_read_money(obj, "fee_cost"),
        value_cc=None if value_cents is None else value_cents * CC_PER_CENT,
        at_ms=at_ms,
    )


# ======================================================================================
# §05d WIRE: ANSWERS AND COMMANDS
# Purpose:   Answers, errors and limits into values; orders and stream commands into bytes.
# Position:  Uses §01, §03, §05a, §05c. Used by §15, §16.
# Principle: A success without what we need is no success; what we send is spelt out here only.
# ======================================================================================

_BOOK_SIDES: Final = {Side.YES: "bid", Side.NO: "ask"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateAck:
    """201 of a create. `average_price_cc` is of the YES leg, None without a fill."""

    order_id: str
    client_order_id: str | None
    filled_h: int
    remaining_h: int
    average_price_cc: int | None
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AmendAck:
    """200 of an amend or decrease; None where the exchange says nothing."""

    order_id: str
    client_order_id: str | None
    filled_h: int | None
    remaining_h: int | None
    average_price_cc: int | None
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAck:
    """200 of a cancel, or one entry of a batch: what was taken off, or the error's code."""

    order_id: str
    client_order_id: str | None
    reduced_h: int
    at_ms: int | None
    code: str = ""
    message: str = ""


def _read_average_cc(obj: Json) -> int | None:
    """Informational, so that a form we do not know must not turn an accepted order into a doubt."""
    try:
        return PRICES[_read_text(obj, "average_fill_price")]
    except WireError:
        return None


def _refuse_error(obj: Json) -> None:
    if obj.get("error"):
        raise WireError(f"a success with an error in it: {obj['error']!r:.120}")


def decode_create_ack(obj: Json) -> CreateAck:
    """Body of a 201. WireError when anything needed is missing: then the outcome is UNKNOWN."""
    _refuse_error(obj)
    return CreateAck(
        order_id=check_path_part(_read_text(obj, "order_id")),
        client_order_id=_read_text(obj, "client_order_id", "") or None,
        filled_h=_read_count(obj, "fill_count"),
        remaining_h=_read_count(obj, "remaining_count"),
        average_price_cc=_read_average_cc(obj),
        at_ms=_read_int(obj, "ts_ms"),
    )


def decode_amend_ack(obj: Json) -> AmendAck:
    """Body of a 200 to an amend."""
    _refuse_error(obj)
    return AmendAck(
        order_id=check_path_part(_read_text(obj, "order_id")),
        client_order_id=_read_text(obj, "client_order_id", "") or None,
        filled_h=_read_optional_count(obj, "fill_count"),
        remaining_h=_read_optional_count(obj, "remaining_count"),
        average_price_cc=_read_average_cc(obj),
        at_ms=_read_int(obj, "ts_ms"),
    )


def decode_decrease_ack(obj: Json) -> AmendAck:
    """Body of a 200 to a decrease: here the remaining count is a must."""
    ack = decode_amend_ack(obj)
    if ack.remaining_h is None:
        raise WireError("decrease answered without a remaining count")
    return ack


def decode_cancel_ack(obj: Json) -> CancelAck:
    """Body of a 200 to a cancel, or one entry of a batch answer (there `error` may be set)."""
    error = obj.get("error")
    code, message = _error_words(error) if error else ("", "")
    return CancelAck(
        order_id=check_path_part(_read_text(obj, "order_id")),
        client_order_id=_read_text(obj, "client_order_id", "") or None,
        reduced_h=_read_count(obj, "reduced_by"),
        at_ms=_read_optional_int(obj, "ts_ms"),
        code=code,
        message=message,
    )


def decode_batch_cancel(obj: Json) -> list[CancelAck]:
    """Entries of a batch cancel that can be read; match them by order id, never by index."""
    return decode_page(obj, "orders", decode_cancel_ack, strict=False)[0]


def _error_words(error: object) -> tuple[str, str]:
    if isinstance(error, str):
        return ("too_many_requests" if error == "too many requests" else "", error)
    if not isinstance(error, dict):
        return "", repr(error)
    code, details = str(error.get("code") or ""), error.get("details")
    message = str(error.get("message") or error.get("msg") or code)
    return code, f"{message}: {details}" if details and details != message else message


def decode_error(status: int, content_type: str, body: bytes | str) -> tuple[str, str]:
    """Code ("" if none) and message of any error answer: four JSON shapes, HTML, or nothing."""
    try:
        obj = load_json(body)
    except WireError as error:
        return "", f"HTTP {status} {content_type or 'without content type'}: {error}"[
            :ERROR_TEXT_MAX
        ]
    code, message = _error_words(obj.get("error") or obj)
    return code[:64], (message or f"HTTP {status}")[:ERROR_TEXT_MAX]


def decode_exchange_status(obj: Json) -> tuple[bool, bool]:
    """(exchange_active, trading_active) of the default shard."""
    flags = obj.get("exchange_active"), obj.get("trading_active")
    if not (isinstance(flags[0], bool) and isinstance(flags[1], bool)):
        raise WireError("exchange status without its two flags")
    return flags[0], flags[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountLimits:
    """Token buckets of the account: refill per second and capacity."""

    tier: str
    read_per_s: int
    read_burst: int
    write_per_s: int
    write_burst: int


def decode_limits(obj: Json) -> AccountLimits:
    """Answer of GET /account/limits."""
    read, write = _read_object(obj, "read"), _read_object(obj, "write")
    return AccountLimits(
        tier=_read_text(obj, "usage_tier", ""),
        read_per_s=_read_int(read, "refill_rate"),
        read_burst=_read_int(read, "bucket_capacity"),
        write_per_s=_read_int(write, "refill_rate"),
        write_burst=_read_int(write, "bucket_capacity"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCosts:
    """Tokens of a request: rows of (method, path template, cost) and the cost of all others."""

    default: int
    rows: tuple[tuple[str, str, int], ...]


def decode_endpoint_costs(obj: Json) -> EndpointCosts:
    """Answer of GET /account/endpoint_costs; templates keep their `{id}` or `:id` parts."""
    rows = [row for row in _read_list(obj, "endpoint_costs") if isinstance(row, dict)]
    return EndpointCosts(
        default=_read_int(obj, "default_cost"),
        rows=tuple(
            (_read_text(row, "method"), _read_text(row, "path"), _read_int(row, "cost"))
            for row in rows
        ),
    )


def decode_api_keys(obj: Json) -> tuple[tuple[str, frozenset[str]], ...]:
    """(key id, scopes) of each key of the account."""
    rows = [row for row in _read_list(obj, "api_keys") if isinstance(row, dict)]
    return tuple(
        (
            _read_text(row, "api_key_id"),
            frozenset(str(scope) for scope in _read_list(row, "scopes")),
        )
        for row in rows
    )


def text_to_sign(ts_ms: int, method: str, path: str) -> bytes:
    """Bytes under the signature: timestamp, METHOD, path from the root without its query."""
    return f"{ts_ms}{method.upper()}{path.partition('?')[0]}".encode()


def encode_create(intent: Intent, *, group_id: str | None) -> bytes:
    """Body of a create: a take is immediate-or-cancel, else it rests, post-only, with an expiry."""
    body: Json = {
        "ticker": intent.ticker,
        "client_order_id": intent.client_order_id,
        "side": _BOOK_SIDES[intent.side],
        "count": format_count(intent.count_h),
        "price": format_price(intent.side.to_yes_cc(intent.price_cc)),
        "time_in_force": "immediate_or_cancel" if intent.is_take else "good_till_canceled",
        "self_trade_prevention_type": "taker_at_cross",
        "cancel_order_on_pause": True,
    }
    if intent.is_take:
        body["reduce_only"] = intent.is_reduce_only
    else:
        assert intent.expires_at_ms is not None, "a resting order without an expiry"
        body["post_only"] = True
        # Cut off, never rounded up: the order must not outlive the dead-man bound.
        body["expiration_time"] = intent.expires_at_ms // 1000
    if group_id is not None:
        body["order_group_id"] = group_id
    return orjson.dumps(body)


def encode_amend(intent: Intent) -> bytes:
    """Body of an amend; the wire's count is the filled part plus what shall rest."""
    body: Json = {
        "ticker": intent.ticker,
        "side": _BOOK_SIDES[intent.side],
        "price": format_price(intent.side.to_yes_cc(intent.price_cc)),
        "count": format_count(intent.filled_h + intent.count_h),
    }
    if intent.expires_at_ms is not None:
        body["expiration_time"] = intent.expires_at_ms // 1000
    return orjson.dumps(body)


def encode_decrease(remaining_h: int, ticker: str) -> bytes:
    """Body of a decrease to `remaining_h` > 0; the ticker routes it to the right shard."""
    return orjson.dumps({"reduce_to": format_count(remaining_h), "market_ticker": ticker})


def encode_batch_cancel(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Body of a batch cancel from (order_id, ticker) pairs."""
    rows = [{"order_id": order_id, "market_ticker": ticker} for order_id, ticker in pairs]
    return orjson.dumps({"orders": rows})


def encode_subscribe(command_id: int, channel: str, tickers: Sequence[str] | None) -> bytes:
    """Stream command: one channel, for these markets (None: all, or the account's own)."""
    params: Json = {"channels": [channel]}
    if tickers is not None:
        params["market_tickers"] = list(tickers)
    if channel == "orderbook_delta":
        params["use_yes_price"] = False  # the default will flip one day; NO levels stay on NO here
    return orjson.dumps({"id": command_id, "cmd": "subscribe", "params": params})


def encode_unsubscribe(command_id: int, sid: int) -> bytes:
    """Stream command: end one subscription."""
    return orjson.dumps({"id": command_id, "cmd": "unsubscribe", "params": {"sids": [sid]}})


def encode_update(command_id: int, sid: int, action: str, tickers: Sequence[str]) -> bytes:
    """Stream command on one subscription: add_markets, delete_markets or get_snapshot."""
    params = {"sid": sid, "action": action, "market_tickers": list(tickers)}
    return orjson.dumps({"id": command_id, "cmd": "update_subscription", "params": params})


# ======================================================================================
# §06 ORDER BOOK
# Purpose:   Rebuild one market's book from a snapshot and changes; keep both best prices at hand.
# Position:  Uses §01, §03. Owned and fed by §17; read by §19, §21.
# Principle: A book with a gap is no book: it answers None until a snapshot, never old data.
# ======================================================================================


class OrderBook:
    """Bids of both legs of one market, by price. One owner: OrderbookIntegration (§17).

    A YES bid at p and a NO bid at 1 - p face each other; offers are the other leg's bids.
    `has_base` tells that a snapshot came and every change since; `proof` adds whether the feed is
    known to live. Readers get prices and levels only while PROVEN; the owner may look underneath.

        bid_cc        best YES bid; None when there is none or the book is not PROVEN
        ask_cc        lowest YES offer (1 dollar - best NO bid); None likewise
        prices[leg]   ascending list of prices, the best is the last
        counts[leg]   price_cc → count_h, always > 0
        changed_at_s  real second (Clock.real_s) of the last change, -inf before the first
    """

    __slots__ = (
        "ask_cc",
        "bid_cc",
        "changed_at_s",
        "counts",
        "has_base",
        "prices",
        "proof",
        "rest_checks",
        "rest_differences",
        "seq",
        "snapshots",
        "ticker",
        "verified_at_ms",
    )

    def __init__(self, ticker: str) -> None:
        self.ticker = ticker
        self.counts: dict[str, dict[int, int]] = {"yes": {}, "no": {}}
        self.prices: dict[str, list[int]] = {"yes": [], "no": []}
        self.proof = Proof.NEVER
        self.has_base = False
        self.bid_cc: int | None = None
        self.ask_cc: int | None = None
        self.changed_at_s = -math.inf
        self.seq = self.snapshots = self.verified_at_ms = 0
        self.rest_checks = self.rest_differences = 0

    def replace(self, yes: dict[int, int], no: dict[int, int]) -> None:
        """Take over a snapshot: the book has a base again. Counts must be above zero."""
        assert all(count_h > 0 for side in (yes, no) for count_h in side.values()), "empty level"
        self.counts = {"yes": yes, "no": no}
        self.prices = {"yes": sorted(yes), "no": sorted(no)}
        self.snapshots += 1
        self.has_base = True
        self._refresh_bests()

    def apply(self, leg: str, price_cc: int, change_h: int) -> bool:
        """Change one level's total; True when best price or best size of that leg moved.

        Raises WireError for a level that would fall below zero: the book has then lost its base.
        `leg` is the wire's word; KeyError for any other.
        """
        counts = self.counts[leg]
        before_h = counts.get(price_cc, 0)
        after_h = before_h + change_h
        if before_h and after_h > 0:
            counts[price_cc] = after_h
            return price_cc == self.prices[leg][-1]
        if after_h < 0:
            self.lose(Proof.RESYNCING)
            raise WireError(f"level {leg} {price_cc} cc of {self.ticker} fell to {after_h} h")
        return self._reshape(leg, price_cc, after_h)

    def _reshape(self, leg: str, price_cc: int, after_h: int) -> bool:
        """A level came (`after_h` > 0) or went; True when it is, or was, the best."""
        counts, prices = self.counts[leg], self.prices[leg]
        if after_h:
            counts[price_cc] = after_h
            is_best = not prices or price_cc > prices[-1]
            bisect.insort(prices, price_cc)
        elif counts.pop(price_cc, None) is None:
            return False
        else:
            is_best = price_cc == prices[-1]
            del prices[bisect_left(prices, price_cc)]
        if is_best:
            self._refresh_bests()
        return is_best

    def _refresh_bests(self) -> None:
        yes, no = self.prices["yes"], self.prices["no"]
        is_proven = self.proof is Proof.PROVEN
        self.bid_cc = yes[-1] if is_proven and yes else None
        self.ask_cc = CC_PER_DOLLAR - no[-1] if is_proven and no else None

    def judge(self, proof: Proof) -> None:
        """Set how far this book may be believed; PROVEN needs a base."""
        assert self.has_base or proof is not Proof.PROVEN, "a book without a base is never proven"
        self.proof = proof
        self._refresh_bests()

    def lose(self, proof: Proof) -> None:
        """The sequence is broken: without a new snapshot nothing here may be believed."""
        self.has_base = False
        self.judge(proof if self.snapshots else Proof.NEVER)

    def best_bid_cc(self, side: Side) -> int | None:
        """Highest bid of `side`, on that side's scale; None when empty or not PROVEN."""
        prices = self.prices[side.value]
        return prices[-1] if prices and self.proof is Proof.PROVEN else None

    def best_ask_cc(self, side: Side) -> int | None:
        """Lowest price to buy `side` now: 1 dollar - the other leg's best bid; None as above."""
        bid_cc = self.best_bid_cc(side.other)
        return None if bid_cc is None else CC_PER_DOLLAR - bid_cc

    def best_size_h(self, side: Side) -> int:
        """Contracts at the best bid of `side`; 0 when empty or not PROVEN."""
        price_cc = self.best_bid_cc(side)
        return 0 if price_cc is None else self.counts[side.value][price_cc]

    def levels(self, side: Side, limit: int) -> tuple[Level, ...]:
        """Up to `limit` best bids of `side`, best first, own orders too; empty when not PROVEN."""
        if self.proof is not Proof.PROVEN:
            return ()
        best = self.prices[side.value][: -limit - 1 : -1]
        return tuple(zip(best, map(self.counts[side.value].__getitem__, best), strict=True))

    def differences(self, yes: Mapping[int, int], no: Mapping[int, int]) -> set[tuple[str, int]]:
        """Levels (leg, price_cc) whose totals differ from another account of the same book."""
        found: set[tuple[str, int]] = set()
        for leg, other in (("yes", yes), ("no", no)):
            mine = self.counts[leg]
            found |= {(leg, price) for price, _ in mine.items() ^ other.items()}
        return found


# ======================================================================================
# §07 LEDGER
# Purpose:   Positions, cash, fees and profit, rebuilt from fills and settlements alone.
# Position:  Uses §01, §03. Owned by §18; read by §08 and §21.
# Principle: Whole micro-dollars, each fill once; what is not explained by fills is never invented.
# ======================================================================================

TAKER_RATE_PPM: Final = 70_000
MAKER_RATE_PPM: Final = {
    "quadratic": 0,
    "quadratic_with_maker_fees": 17_500,
    "quadratic_with_combo_maker_fees": 35_000,
}
_FEE_SCALE: Final = 10**16  # ppm · ppm · hundredths · centi-cents² per micro-dollar


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeSchedule:
    """Fees of one series or event (PROTOCOL §8). `multiplier_ppm` is millionths, 1,000,000 = 1.

    `precision_ud` is what the account's cash is rounded to; `is_assumed` says that the series
    could not be read and the dearer schedule is used.
    """

    fee_type: str = "quadratic"
    multiplier_ppm: int = 1_000_000
    precision_ud: int = 100
    is_assumed: bool = False

    @property
    def is_known(self) -> bool:
        """Whether the fee formula of this type is known to this program."""
        return self.fee_type in MAKER_RATE_PPM

    @property
    def assumed(self) -> bool:
        """The name strategies know `is_assumed` by (STRATEGIES §1)."""
        return self.is_assumed

    def model_ud(self, price_cc: int, count_h: int, *, is_taker: bool) -> int:
        """Fee before rounding to the account's precision, in micro-dollars, rounded up."""
        rate_ppm = TAKER_RATE_PPM if is_taker else MAKER_RATE_PPM[self.fee_type]
        weight = count_h * price_cc * (CC_PER_DOLLAR - price_cc)
        return ceil_div(self.multiplier_ppm * rate_ppm * weight, _FEE_SCALE)

    def charge(
        self, cash_ud: int, price_cc: int, count_h: int, *, is_taker: bool, saved_ud: int
    ) -> tuple[int, int]:
        """Fee of one fill and the order's new rounding account, both in micro-dollars.

        `cash_ud` is the signed cash of the fill before fees, `saved_ud` the rounding collected by
        the same order so far. The fee is never negative.
        """
        trade_ud = self.model_ud(price_cc, count_h, is_taker=is_taker)
        change_ud = cash_ud - trade_ud
        rounding_ud = change_ud - floor_div(change_ud, self.precision_ud) * self.precision_ud
        saved_ud += rounding_ud
        # Whole units only, both ways, or the cash would no longer be a multiple of one.
        units = min(saved_ud, trade_ud + rounding_ud)
        rebate_ud = floor_div(units, self.precision_ud) * self.precision_ud
        return trade_ud + rounding_ud - rebate_ud, saved_ud - rebate_ud

    def taker_ud(self, price_cc: int, count_h: int) -> int:
        """Fee of taking `count_h` at `price_cc` in one fill of a fresh order."""
        cash_ud = -price_cc * count_h
        return self.charge(cash_ud, price_cc, count_h, is_taker=True, saved_ud=0)[0]

    def maker_ud(self, price_cc: int, count_h: int) -> int:
        """Fee of resting and being filled once, of a fresh order."""
        cash_ud = -price_cc * count_h
        return self.charge(cash_ud, price_cc, count_h, is_taker=False, saved_ud=0)[0]


def assumed_fees(precision_ud: int) -> FeeSchedule:
    """What is charged in thought for a series that cannot be read."""
    return FeeSchedule(
        fee_type="quadratic_with_maker_fees", precision_ud=precision_ud, is_assumed=True
    )


def apply_to_position(
    position: Position, side: Side, price_cc: int, count_h: int
) -> tuple[Position, int]:
    """Buy `count_h` of `side` at `price_cc`: the new position and the cash moved (no fee).

    The opposite leg is closed first: a YES/NO pair is one dollar back. Cost leaves at its average.
    """
    held_h = abs(position.position_h) if position.side is not side else 0
    closing_h = min(count_h, held_h)
    opening_h = count_h - closing_h
    released_ud = position.cost_ud * closing_h // held_h if closing_h else 0
    received_ud = (CC_PER_DOLLAR - price_cc) * closing_h
    paid_ud = price_cc * opening_h
    updated = replace(
        position,
        position_h=position.position_h + side.signed(count_h),
        cost_ud=position.cost_ud - released_ud + paid_ud,
        realised_ud=position.realised_ud + received_ud - released_ud,
    )
    return updated, received_ud - paid_ud


def payout_ud(position_h: int, settlement_cc: int) -> int:
    """What a net position is paid when one YES contract is worth `settlement_cc`."""
    per_contract_cc = settlement_cc if position_h >= 0 else CC_PER_DOLLAR - settlement_cc
    return abs(position_h) * per_contract_cc


def settlement_ud(position_h: int, settlement_cc: int) -> int:
    """What the exchange pays for a net position: whole cents, the rest is kept (PROTOCOL §6)."""
    return floor_div(payout_ud(position_h, settlement_cc), UD_PER_CENT) * UD_PER_CENT


class Ledger:
    """Mutable book of one account. One owner: ExecutionService (§18).

    `cash_ud` is None until the exchange has told it once; from then on fills and settlements move
    it, and reconcile compares. Positions are kept twice: of the account, and of each strategy.
    """

    def __init__(self) -> None:
        self.cash_ud: int | None = None
        self.positions: dict[str, Position] = {}
        self.by_strategy: dict[tuple[str, str], Position] = {}
        self.fees_ud = 0
        self.realised_ud = 0
        self.settled_ud = 0
        self.filled: Counter[str] = Counter()  # order_id → contracts in hundredths
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._accounts: OrderedDict[str, int] = OrderedDict()  # order_id → rounding saved, ud

    def has_fill(self, trade_id: str, order_id: str) -> bool:
        """Whether this fill was applied already (within the memory of FILLS_MAX)."""
        return (trade_id, order_id) in self._seen

    def apply_fill(self, fill: Fill) -> bool:
        """Book one fill; False when it was booked before. Nothing is half done."""
        key = (fill.trade_id, fill.order_id)
        if key in self._seen:
            return False
        assert fill.count_h > 0, f"fill {fill.trade_id} has count {fill.count_h}"
        assert 0 <= fill.price_cc <= CC_PER_DOLLAR, f"fill {fill.trade_id} at {fill.price_cc} cc"
        before = self.positions.get(fill.ticker, Position(ticker=fill.ticker))
        after, moved_ud = apply_to_position(before, fill.side, fill.price_cc, fill.count_h)
        own_key = (fill.strategy, fill.ticker)
        own = self.by_strategy.get(own_key, Position(ticker=fill.ticker))
        own_after, _ = apply_to_position(own, fill.side, fill.price_cc, fill.count_h)
        self.positions[fill.ticker] = replace(after, fees_ud=after.fees_ud + fill.fee_ud)
        self.by_strategy[own_key] = replace(own_after, fees_ud=own_after.fees_ud + fill.fee_ud)
        self.realised_ud += after.realised_ud - before.realised_ud
        self.fees_ud += fill.fee_ud
        if self.cash_ud is not None:
            self.cash_ud += moved_ud - fill.fee_ud
        self.filled[fill.order_id] += fill.count_h
        while len(self.filled) > FILLS_MAX:
            del self.filled[next(iter(self.filled))]
        self._remember(key)
        return True

    def mark_seen(self, trade_id: str, order_id: str) -> None:
        """Never book this fill: it is part of figures that were taken over whole."""
        self._remember((trade_id, order_id))

    def _remember(self, key: tuple[str, str]) -> None:
        self._seen[key] = None
        while len(self._seen) > FILLS_MAX:
            self._seen.popitem(last=False)

    def expected_fee_ud(self, fill: Fill, fees: FeeSchedule) -> int:
        """Fee our model charges for this fill; keeps the order's rounding account going."""
        saved_ud = self._accounts.get(fill.order_id, 0)
        before = self.positions.get(fill.ticker, Position(ticker=fill.ticker))
        _, cash_ud = apply_to_position(before, fill.side, fill.price_cc, fill.count_h)
        fee_ud, self._accounts[fill.order_id] = fees.charge(
            cash_ud, fill.price_cc, fill.count_h, is_taker=fill.is_taker, saved_ud=saved_ud
        )
        while len(self._accounts) > ENDED_ORDERS_MAX:
            self._accounts.popitem(last=False)
        return fee_ud

    def settle(self, ticker: str, settlement_cc: int) -> int:
        """Pay out a market: position to zero, cash credited; returns the cash, in micro-dollars.

        Cash is in whole cents; of realised profit, what the exchange keeps is taken off.
        """
        position = self.positions.get(ticker)
        if position is None or position.position_h == 0:
            return 0
        paid_ud = settlement_ud(position.position_h, settlement_cc)
        kept_ud = payout_ud(position.position_h, settlement_cc) - paid_ud
        closed = self._closed(position, settlement_cc)
        self.positions[ticker] = replace(closed, realised_ud=closed.realised_ud - kept_ud)
        for key in [key for key in self.by_strategy if key[1] == ticker]:
            self.by_strategy[key] = self._closed(self.by_strategy[key], settlement_cc)
        self.realised_ud += paid_ud - position.cost_ud
        self.settled_ud += paid_ud
        if self.cash_ud is not None:
            self.cash_ud += paid_ud
        return paid_ud

    def amend_settlement(
        self, ticker: str, moved_ud: int, *, from_cc: int, to_cc: int, held: Mapping[str, int]
    ) -> None:
        """Correct a payout by `moved_ud` of cash; `held` are the strategies' shares of it."""
        known = self.positions.get(ticker, Position(ticker=ticker))
        self.positions[ticker] = replace(known, realised_ud=known.realised_ud + moved_ud)
        for name, held_h in held.items():
            own = self.by_strategy.get((name, ticker), Position(ticker=ticker))
            gain_ud = payout_ud(held_h, to_cc) - payout_ud(held_h, from_cc)
            self.by_strategy[name, ticker] = replace(own, realised_ud=own.realised_ud + gain_ud)
        self.realised_ud += moved_ud
        self.settled_ud += moved_ud
        if self.cash_ud is not None:
            self.cash_ud += moved_ud

    @staticmethod
    def _closed(position: Position, settlement_cc: int) -> Position:
        gain_ud = payout_ud(position.position_h, settlement_cc) - position.cost_ud
        realised_ud = position.realised_ud + gain_ud
        return replace(position, position_h=0, cost_ud=0, realised_ud=realised_ud)

    def adopt_position(self, report: Position) -> None:
        """Take over the exchange's figure after an unexplained difference (journaled ADJUST)."""
        self.positions[report.ticker] = report

    def position_h(self, ticker: str, strategy: str | None = None) -> int:
        """Signed net holding of the account, or of one strategy."""
        held = (
            self.positions.get(ticker)
            if strategy is None
            else self.by_strategy.get((strategy, ticker))
        )
        return held.position_h if held is not None else 0

    def digest(self) -> str:
        """Hash of everything the ledger believes; equal after a replay of the journal (I15)."""
        held = [
            (p.ticker, p.position_h, p.cost_ud, p.realised_ud, p.fees_ud)
            for p in self.positions.values()
        ]
        text = repr((sorted(held), self.fees_ud, self.realised_ud, self.settled_ud))
        return hashlib.sha256(text.encode()).hexdigest()


def mark_cc(position_h: int, bid_cc: int | None, ask_cc: int | None) -> int | None:
    """Price one held contract could be sold at now: the bid of its leg; None when nobody bids."""
    if position_h >= 0:
        return bid_cc
    return None if ask_cc is None else CC_PER_DOLLAR - ask_cc


# ======================================================================================
# §08 RISK
# Purpose:   May this intent become an order? The last gate before the wire.
# Position:  Uses §02, §03, §07. Asked by §18 for every create and amend; nothing goes round it.
# Principle: Every live, unknown and in-flight order counts as filled, in its worst way.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskLimits:
    """The limits of the settings, in the units of §01."""

    max_order_h: int
    max_order_ud: int
    max_position_h: int
    max_orders: int
    max_market_loss_ud: int
    max_event_loss_ud: int
    max_exposure_ud: int
    daily_loss_ud: int
    max_drawdown_ud: int
    min_cash_ud: int
    price_collar_cc: int
    max_orders_per_minute: int
    max_notional_per_minute_ud: int

    @classmethod
    def of(cls, config: Config) -> RiskLimits:
        """Pick the limits out of the settings."""
        return cls(**{f.name: getattr(config, f.name) for f in dataclasses.fields(cls)})


def worst_loss_ud(position: Position | None, orders: Iterable[tuple[Side, int, int]]) -> int:
    """Largest loss of one market, in micro-dollars, never negative.

    `orders` are (side, price_cc, count_h) still open; any part of them may fill, in any order, and
    no fill can make the answer worse. A gain from closing is cash by then: it makes no room.
    """
    held_h, cost_ud = (position.position_h, position.cost_ud) if position else (0, 0)
    held = Side.NO if held_h < 0 else Side.YES
    rows = list(orders)
    grown_ud = cost_ud + sum(price_cc * count_h for side, price_cc, count_h in rows if side is held)
    crossing = [(price_cc, count_h) for side, price_cc, count_h in rows if side is not held]
    return max(grown_ud, _turned_ud(crossing, held_h=abs(held_h), cost_ud=cost_ud))


def _turned_ud(orders: list[tuple[int, int]], *, held_h: int, cost_ud: int) -> int:
    """Loss when all these buys of the other leg fill: the dearest open, the cheapest close.

    A closing buy loses what it costs above one dollar together with what it closes.
    """
    opening_h = sum(count_h for _, count_h in orders) - held_h
    lost_ud = 0
    for price_cc, count_h in sorted(orders, reverse=True):
        opened_h = max(0, min(count_h, opening_h))
        opening_h -= opened_h
        closed_h = count_h - opened_h
        lost_ud += price_cc * opened_h
        if closed_h:
            released_ud = ceil_div(cost_ud * closed_h, held_h)
            lost_ud += max(0, price_cc * closed_h + released_ud - CC_PER_DOLLAR * closed_h)
    return lost_ud


def _spend_ud(orders: Iterable[tuple[Side, int, int]]) -> int:
    """Most cash the orders of one market can take: one leg's, since a pair pays a dollar back."""
    spent_ud = {Side.YES: 0, Side.NO: 0}
    for side, price_cc, count_h in orders:
        spent_ud[side] += price_cc * count_h
    return max(spent_ud.values())


class ExposureBook:
    """Worst cases by market, kept up to date market by market. One owner: ExecutionService.

    An event's worst case is the sum of its markets': an upper bound whatever they exclude.
    """

    def __init__(self) -> None:
        self._orders: dict[str, dict[str, tuple[Side, int, int]]] = {}
        self._positions: dict[str, Position] = {}
        self._worst_ud: dict[str, int] = {}
        self._event_ud: Counter[str] = Counter()
        self._event_of: dict[str, str] = {}
        self._live: set[str] = set()
        self._spend_ud: dict[str, int] = {}
        self.total_ud = 0
        self.spend_ud = 0  # cash that all open orders may take

    def put_order(self, order: Order) -> None:
        """Note an order's open part at its worst; an ended order is taken out."""
        key = order.client_order_id or order.order_id or ""
        market = self._orders.setdefault(order.ticker, {})
        (self._live.add if order.status.is_live else self._live.discard)(key)
        if order.at_risk_h > 0:
            worst_cc = max(order.price_cc, order.worst_cc)
            market[key] = (order.side, worst_cc, order.at_risk_h)
        else:
            market.pop(key, None)
        self._recount(order.ticker, order.event_ticker)

    @property
    def open_orders(self) -> int:
        """Orders that are, or may be, live; foreign ones included."""
        return len(self._live)

    def put_position(self, position: Position, event_ticker: str) -> None:
        """Note the account's holding of one market."""
        self._positions[position.ticker] = position
        self._recount(position.ticker, event_ticker)

    def event_of(self, ticker: str) -> str | None:
        """The event this market is counted under; None when nothing of it was ever noted."""
        return self._event_of.get(ticker)

    def attribute(self, ticker: str, event_ticker: str) -> None:
        """Count this market under `event_ticker` from now on, with all it has at stake."""
        known = self._event_of.get(ticker, event_ticker)
        self._event_of[ticker] = event_ticker
        if known != event_ticker:
            self._event_ud[known] -= self._worst_ud.get(ticker, 0)
            self._event_ud[event_ticker] += self._worst_ud.get(ticker, 0)

    def _recount(self, ticker: str, event_ticker: str) -> None:
        self.attribute(ticker, event_ticker)
        rows = self.orders_of(ticker).values()
        worst_ud, spend_ud = worst_loss_ud(self._positions.get(ticker), rows), _spend_ud(rows)
        self.spend_ud += spend_ud - self._spend_ud.get(ticker, 0)
        self._spend_ud[ticker] = spend_ud
        change_ud = worst_ud - self._worst_ud.get(ticker, 0)
        self._worst_ud[ticker] = worst_ud
        self._event_ud[event_ticker] += change_ud
        self.total_ud += change_ud

    def orders_of(self, ticker: str) -> Mapping[str, tuple[Side, int, int]]:
        """Open orders of one market by client id, as (side, worst price, worst count)."""
        return self._orders.get(ticker, {})

    def market_ud(
        self, ticker: str, *, without: str = "", extra: tuple[Side, int, int] | None = None
    ) -> int:
        """Worst loss of one market; optionally with one order left out and one put in."""
        if extra is None and without not in self.orders_of(ticker):
            return self._worst_ud.get(ticker, 0)
        orders = [row for key, row in self.orders_of(ticker).items() if key != without]
        if extra is not None:
            orders.append(extra)
        return worst_loss_ud(self._positions.get(ticker), orders)

    def spend_with_ud(self, ticker: str, *, without: str, extra: tuple[Side, int, int]) -> int:
        """Cash that all open orders may take, with one left out and one put in."""
        rows = [row for key, row in self.orders_of(ticker).items() if key != without]
        return self.spend_ud - self._spend_ud.get(ticker, 0) + _spend_ud([*rows, extra])

    def event_ud(self, event_ticker: str) -> int:
        """Worst loss of all markets of an event together."""
        return self._event_ud[event_ticker]

    def reach_h(self, ticker: str, side: Side, *, without: str = "") -> int:
        """Position in `side` direction if every open order of that side filled and no other."""
        held = self._positions.get(ticker)
        open_h = sum(
            row[2]
            for key, row in self.orders_of(ticker).items()
            if row[0] is side and key != without
        )
        return side.signed(held.position_h if held else 0) + open_h

    def held_h(self, ticker: str) -> int:
        """Signed position as the gate sees it."""
        held = self._positions.get(ticker)
        return held.position_h if held else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskView:
    """What the gate is shown beside the exposures; None means unknown, and unknown refuses."""

    gate: Gate
    grid: PriceGrid
    mid_cc: int | None  # of the YES leg
    last_cc: int | None  # last recent print, YES leg; None: no recent print
    cash_ud: int | None
    fee_ud: int  # worst taker fee of the intent
    day_pnl_ud: int | None
    drawdown_ud: int | None
    orders_last_minute: int
    notional_last_minute_ud: int
    is_duplicate: bool


def _over_ud(reason: Reason, value_ud: int, limit_ud: int) -> Verdict | None:
    if value_ud <= limit_ud:
        return None
    return refusal(reason, f"{show_dollars(value_ud)} dollars", f"{show_dollars(limit_ud)} dollars")


def _over_h(reason: Reason, value_h: int, limit_h: int) -> Verdict | None:
    if value_h <= limit_h:
        return None
    return refusal(
        reason, f"{format_count(value_h)} contracts", f"{format_count(limit_h)} contracts"
    )


def _check_size(intent: Intent, limits: RiskLimits) -> Verdict | None:
    if intent.count_h <= 0:
        return refusal(Reason.LIMIT_ORDER_SIZE, f"{intent.count_h} h", "> 0 h")
    return _over_h(Reason.LIMIT_ORDER_SIZE, intent.count_h, limits.max_order_h) or _over_ud(
        Reason.LIMIT_ORDER_SIZE, intent.notional_ud, limits.max_order_ud
    )


def _check_exposure(intent: Intent, book: ExposureBook, limits: RiskLimits) -> Verdict | None:
    """Position, market, event and account; an order that worsens no loss passes those limits.

    Until an amend is answered either form of the order may fill: its worst of both is judged.
    """
    replaced = intent.client_order_id
    _, old_cc, old_h = book.orders_of(intent.ticker).get(replaced, (intent.side, 0, 0))
    extra = (intent.side, max(intent.price_cc, old_cc), max(intent.at_risk_h, old_h))
    reach_h = book.reach_h(intent.ticker, intent.side, without=replaced) + extra[2]
    now_ud = book.market_ud(intent.ticker)
    then_ud = book.market_ud(intent.ticker, without=replaced, extra=extra)
    added_ud = then_ud - now_ud
    over = _over_h(Reason.LIMIT_POSITION, reach_h, limits.max_position_h)
    if over is not None or added_ud <= 0:
        return over
    event_ud = book.event_ud(intent.event_ticker) + added_ud
    return (
        _over_ud(Reason.LIMIT_MARKET, then_ud, limits.max_market_loss_ud)
        or _over_ud(Reason.LIMIT_EVENT, event_ud, limits.max_event_loss_ud)
        or _over_ud(Reason.LIMIT_EXPOSURE, book.total_ud + added_ud, limits.max_exposure_ud)
    )


def _check_rates(
    intent: Intent, view: RiskView, book: ExposureBook, limits: RiskLimits
) -> Verdict | None:
    is_create = intent.kind is CommandKind.CREATE
    if is_create and book.open_orders >= limits.max_orders:
        return refusal(
            Reason.LIMIT_OPEN_ORDERS,
            f"{book.open_orders + 1} orders",
            f"{limits.max_orders} orders",
        )
    if view.orders_last_minute >= limits.max_orders_per_minute:
        return refusal(
            Reason.LIMIT_ORDER_RATE,
            f"{view.orders_last_minute + 1} per minute",
            f"{limits.max_orders_per_minute} per minute",
        )
    return None


def _check_losses(view: RiskView, limits: RiskLimits) -> Verdict | None:
    if view.day_pnl_ud is None or view.drawdown_ud is None:
        return refusal(Reason.BALANCE_STALE, "profit of the day unknown", "known")
    return _over_ud(Reason.LIMIT_DAILY_LOSS, -view.day_pnl_ud, limits.daily_loss_ud) or _over_ud(
        Reason.LIMIT_DRAWDOWN, view.drawdown_ud, limits.max_drawdown_ud
    )


def _check_cash(
    intent: Intent, view: RiskView, book: ExposureBook, limits: RiskLimits
) -> Verdict | None:
    if view.cash_ud is None:
        return refusal(Reason.BALANCE_STALE, "cash unknown", "known")
    extra = (intent.side, intent.price_cc, intent.count_h)
    spend_ud = book.spend_with_ud(intent.ticker, without=intent.client_order_id, extra=extra)
    left_ud = view.cash_ud - spend_ud - view.fee_ud
    if left_ud < limits.min_cash_ud:
        return refusal(
            Reason.LIMIT_CASH,
            f"{show_dollars(left_ud)} dollars left",
            f">= {show_dollars(limits.min_cash_ud)} dollars",
        )
    return None


def _check_notional(
    intent: Intent, view: RiskView, book: ExposureBook, limits: RiskLimits
) -> Verdict | None:
    """Every create but one that only closes a position adds to the minute's notional."""
    closable_h = intent.side.other.signed(book.held_h(intent.ticker))
    if intent.kind is not CommandKind.CREATE or intent.count_h <= closable_h:
        return None
    notional_ud = view.notional_last_minute_ud + intent.notional_ud
    return _over_ud(Reason.LIMIT_NOTIONAL_RATE, notional_ud, limits.max_notional_per_minute_ud)


def _check_price(
    intent: Intent, view: RiskView, book: ExposureBook, limits: RiskLimits
) -> Verdict | None:
    if view.mid_cc is None:
        return refusal(Reason.PRICE_COLLAR, "mid unknown", "known")
    for word, yes_cc in (("mid", view.mid_cc), ("last print", view.last_cc)):
        if yes_cc is None:
            continue
        above_cc = intent.price_cc - intent.side.to_yes_cc(yes_cc)
        if above_cc > limits.price_collar_cc:
            return refusal(
                Reason.PRICE_COLLAR,
                f"{above_cc} cc above the {word}",
                f"{limits.price_collar_cc} cc",
            )
    if view.is_duplicate:
        return refusal(
            Reason.DUPLICATE_ORDER, "same market, side and price", f"{DUPLICATE_WINDOW_MS} ms"
        )
    return _check_own_cross(intent, book)


def _check_own_cross(intent: Intent, book: ExposureBook) -> Verdict | None:
    for key, (side, price_cc, _) in book.orders_of(intent.ticker).items():
        is_opposite = side is not intent.side and key != intent.client_order_id
        if is_opposite and price_cc + intent.price_cc >= CC_PER_DOLLAR:
            return refusal(
                Reason.WOULD_CROSS_OWN,
                f"{intent.side} {intent.price_cc} cc against own {side} {price_cc} cc",
                f"< {CC_PER_DOLLAR} cc together",
            )
    return None


def _check_reduce_only(intent: Intent, book: ExposureBook) -> Verdict | None:
    """With every order of that side filled the position must still not have changed sides."""
    opposite_h = intent.side.other.signed(book.held_h(intent.ticker))
    without = intent.client_order_id
    reach_h = book.reach_h(intent.ticker, intent.side, without=without)
    used_h = reach_h + opposite_h + intent.at_risk_h
    if used_h <= opposite_h:
        return None
    return refusal(
        Reason.REDUCE_ONLY, f"{format_count(used_h)} contracts", f"{format_count(opposite_h)}"
    )


def is_opening(intent: Intent, book: ExposureBook) -> bool:
    """Whether the intent can leave the account with a larger worst case than it has now."""
    extra = (intent.side, intent.price_cc, intent.at_risk_h)
    then_ud = book.market_ud(intent.ticker, without=intent.client_order_id, extra=extra)
    return then_ud > book.market_ud(intent.ticker, without=intent.client_order_id)


def check_intent(intent: Intent, view: RiskView, book: ExposureBook, limits: RiskLimits) -> Verdict:
    """Every limit, in the order of STRATEGIES §3; the first that is broken is the answer.

    A pure refresh of an expiry is held against gate, grid and own orders, not against rates.
    """
    if view.gate is Gate.HALTED:
        return refusal(Reason.HALTED, "halted", "re-arm first")
    if view.gate is Gate.PAUSED:
        return refusal(Reason.PAUSED, "paused", "resume first")
    opening = is_opening(intent, book)
    refused = _check_size(intent, limits) or _check_exposure(intent, book, limits)
    if refused is None and not intent.is_refresh:
        refused = _check_rates(intent, view, book, limits)
    if refused is None and opening:
        refused = _check_losses(view, limits) or _check_cash(intent, view, book, limits)
    if refused is None:
        refused = _check_notional(intent, view, book, limits) or _check_price(
            intent, view, book, limits
        )
    if refused is None and not view.grid.is_valid(intent.side, intent.price_cc):
        refused = refusal(Reason.OFF_GRID, f"{intent.price_cc} cc", "the market's price ranges")
    if refused is None and (view.gate is Gate.REDUCE_ONLY or intent.is_reduce_only):
        refused = _check_reduce_only(intent, book)
    return refused or ALLOWED


# ======================================================================================
# §09a MEASUREMENTS
# Purpose:   What a market did lately: prints, volume, sigma, jump, sweeps, whales.
# Position:  Uses §01, §03. §17 and §19 feed one MarketTape per market; §09b reads it.
# Principle: One definition of each measure, kept as facts come in, cheap to read at any moment.
# ======================================================================================

SIGMA_HALF_LIFE_S: Final = 60.0
SIGMA_SAMPLES_MIN: Final = 20  # sigma is unknown before so many seconds
JUMP_WINDOW_MS: Final = 2_000
RANGE_WINDOW_MS: Final = 600_000
SWEEP_WINDOW_MS: Final = 1_000
MOMENTUM_S: Final = 10
SIDES_WINDOW_MS: Final = 10_000
WHALE_TIMES: Final = 5  # a whale is so many times the median print …
WHALE_COST_UD: Final = 100 * UD_PER_DOLLAR  # … and cost at least this
WHALE_TOXIC_MS: Final = 30_000
ONE_SIDED_PRINTS_MIN: Final = 5
TAPE_MIDS_MAX: Final = 64  # mids that may wait to be measured
_SIGMA_DECAY: Final = 0.5 ** (1.0 / SIGMA_HALF_LIFE_S)


class WindowMax:
    """Highest value of a step function over the last `window_ms`; a value holds until the next.

    Values are kept strictly falling, so there are never more than there are different values.
    """

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._values: deque[list[int]] = deque()  # [value, last moment it held]

    def push(self, at_ms: int, value: int) -> None:
        """From `at_ms` on the function has this value."""
        self.end(at_ms)
        while self._values and self._values[-1][0] <= value:
            self._values.pop()
        self._values.append([value, sys.maxsize])

    def end(self, at_ms: int) -> None:
        """From `at_ms` on the function is unknown."""
        if self._values and self._values[-1][1] == sys.maxsize:
            self._values[-1][1] = at_ms

    def best(self, now_ms: int) -> int | None:
        """The highest value that held at any moment of the window; None if none is known."""
        while self._values and self._values[0][1] < now_ms - self._window_ms:
            self._values.popleft()
        return self._values[0][0] if self._values else None


class WindowSum:
    """Sums of YES-taker and NO-taker amounts over the last `window_ms`, in steps of `step_ms`.

    What falls into one step is kept together and leaves together, up to one step early; so there
    are never more than window / step + 1 steps.
    """

    def __init__(self, window_ms: int, step_ms: int) -> None:
        self._window_ms, self._step_ms = window_ms, step_ms
        self._steps: deque[list[int]] = deque()  # [start of the step, yes, no]
        self.yes = self.no = 0

    def add(self, at_ms: int, side: Side, amount: int) -> None:
        """Count `amount` for the side that took."""
        start_ms = at_ms - at_ms % self._step_ms
        if not self._steps or self._steps[-1][0] < start_ms:
            self._steps.append([start_ms, 0, 0])
            self.expire(at_ms)
        if side is Side.YES:
            self._steps[-1][1] += amount
            self.yes += amount
        else:
            self._steps[-1][2] += amount
            self.no += amount

    def expire(self, now_ms: int) -> None:
        """Forget what is older than the window; call it before reading `yes` and `no`."""
        while self._steps and self._steps[0][0] <= now_ms - self._window_ms:
            _, yes, no = self._steps.popleft()
            self.yes -= yes
            self.no -= no


class SigmaMeter:
    """Volatility of the mid in ¢ per root second, from one sample each second.

    The weighted mean has a half-life of SIGMA_HALF_LIFE_S; None before SIGMA_SAMPLES_MIN samples.
    A pause without a mid is skipped: the change across it is not the change of one second.
    """

    def __init__(self) -> None:
        self._second = 0
        self._mid2_cc: int | None = None
        self._sum = self._weight = 0.0
        self._samples = 0
        self._history: deque[int | None] = deque(maxlen=MOMENTUM_S + 1)

    def sample(self, now_ms: int, mid2_cc: int | None) -> None:
        """Take the samples that fell due since the last call; `mid2_cc` held all that time."""
        due = now_ms // 1000 - self._second
        if due <= 0:
            return
        self._second += due
        self._history.extend([mid2_cc] * min(due, MOMENTUM_S + 1))
        before, self._mid2_cc = self._mid2_cc, mid2_cc
        if before is None or mid2_cc is None:
            return
        change_c = (mid2_cc - before) / 200
        self._sum = self._sum * _SIGMA_DECAY + change_c * change_c
        self._weight = self._weight * _SIGMA_DECAY + 1.0
        self._samples += due
        if due > 1:  # the further seconds brought no change
            fade = _SIGMA_DECAY ** (due - 1)
            self._sum *= fade
            self._weight = self._weight * fade + (1.0 - fade) / (1.0 - _SIGMA_DECAY)

    @property
    def sigma(self) -> float | None:
        """¢ per root second; None while there are too few samples."""
        if self._samples < SIGMA_SAMPLES_MIN:
            return None
        return math.sqrt(self._sum / self._weight)

    @property
    def mid2_10s_cc(self) -> int | None:
        """Bid plus ask MOMENTUM_S seconds ago; None when it was not known then."""
        return self._history[0] if len(self._history) > MOMENTUM_S else None


class TapeReading(NamedTuple):
    """What a tape says at one moment; the fields of the same name in MarketView."""

    prints: tuple[Print, ...]
    sigma: float | None
    jump_cc_2s: int
    swept_levels_1s: int
    buy_ratio_10s: float | None
    high_cc_10min: int | None
    low_cc_10min: int | None
    mid2_10s_cc: int | None
    volume_1min_h: int
    volume_10min_h: int
    followed_s: float
    prints_seen: int
    yes_prints_seen: int
    first_print_cc: int | None
    whales: tuple[Print, ...]
    flow_toxicity: int  # 0-2: the part of toxicity that needs no book


class MarketTape:
    """The recent past of one market. One owner: the decision service (§19), on the loop.

    All moments are the trader's own corrected time of receipt in Unix ms; one that lies before
    the newest seen counts as the newest, so time never runs backwards here.
    """

    def __init__(self, now_ms: int) -> None:
        self._now_ms = self._since_ms = now_ms
        self._mid2_cc: int | None = None
        self._mids: list[tuple[int, int | None]] = []  # heard and not measured yet
        self._meter = SigmaMeter()
        self._meter.sample(now_ms, None)
        self._high_2s, self._low_2s = WindowMax(JUMP_WINDOW_MS), WindowMax(JUMP_WINDOW_MS)
        self._high_10min, self._low_10min = WindowMax(RANGE_WINDOW_MS), WindowMax(RANGE_WINDOW_MS)
        self._sides_10s = WindowSum(SIDES_WINDOW_MS, 100)
        self._volume_1min = WindowSum(60_000, 1_000)
        self._volume_10min = WindowSum(600_000, 1_000)
        self._swept = WindowSum(SWEEP_WINDOW_MS, 10)
        self._frontier: dict[Side, tuple[int, int]] = {}  # side -> (moment, furthest price)
        self._prints: deque[Print] = deque(maxlen=PRINTS_MAX)
        self._sizes_h: list[int] = []  # sizes of _prints, sorted
        self._shown: tuple[Print, ...] | None = ()  # _prints as a tuple; None when outdated
        self._whales: deque[Print] = deque(maxlen=WHALES_MAX)
        self._whale_at_ms = now_ms - WHALE_TOXIC_MS - 1
        self._prints_seen = self._yes_prints_seen = 0
        self._first_print_cc: int | None = None

    def on_mid(self, at_ms: int, mid2_cc: int | None) -> None:
        """Bid plus ask is `mid2_cc` from now on; None: a side is empty or the book is unproven.

        Only noted here, on the order path; measured when somebody reads.
        """
        self._mids.append((at_ms, mid2_cc))
        if len(self._mids) >= TAPE_MIDS_MAX:
            self._measure_mids()

    def _measure_mids(self) -> None:
        for at_ms, mid2_cc in self._mids:
            self._now_ms = max(self._now_ms, at_ms)
            self._meter.sample(self._now_ms, self._mid2_cc)
            if mid2_cc == self._mid2_cc:
                continue
            self._mid2_cc = mid2_cc
            for window, sign in self._ranges():
                if mid2_cc is None:
                    window.end(self._now_ms)
                else:
                    window.push(self._now_ms, sign * mid2_cc)
        self._mids.clear()

    def on_print(self, at_ms: int, trade: Print) -> None:
        """A public trade was heard of at `at_ms` (its own `at_ms` is the exchange's)."""
        self._advance(at_ms)
        self._note_sweep(trade)
        self._remember(trade)
        if self._is_whale(trade):
            self._whales.append(trade)
            self._whale_at_ms = self._now_ms
        self._sides_10s.add(self._now_ms, trade.taker_side, 1)
        self._volume_1min.add(self._now_ms, trade.taker_side, trade.count_h)
        self._volume_10min.add(self._now_ms, trade.taker_side, trade.count_h)
        self._prints_seen += 1
        self._yes_prints_seen += trade.taker_side is Side.YES
        if self._first_print_cc is None:
            self._first_print_cc = trade.price_cc

    def on_level_swept(self, at_ms: int, side: Side, levels: int = 1) -> None:
        """A taker of `side` traded through so many levels. Prints already tell it by themselves."""
        self._advance(at_ms)
        self._swept.add(self._now_ms, side, levels)

    @property
    def newest_print(self) -> Print | None:
        """The last public trade heard of; None when there was none since following began."""
        return self._prints[-1] if self._prints else None

    def read(self, now_ms: int) -> TapeReading:
        """Everything measured, as of `now_ms`."""
        self._advance(now_ms)
        now_ms = self._now_ms
        for window in (self._sides_10s, self._volume_1min, self._volume_10min, self._swept):
            window.expire(now_ms)
        if self._shown is None:
            self._shown = tuple(self._prints)
        high2_cc, low2_cc = self._high_10min.best(now_ms), self._low_10min.best(now_ms)
        sides = self._sides_10s
        return TapeReading(
            prints=self._shown,
            sigma=self._meter.sigma,
            jump_cc_2s=self._jump_cc(),
            swept_levels_1s=max(self._swept.yes, self._swept.no),
            buy_ratio_10s=sides.yes / (sides.yes + sides.no) if sides.yes + sides.no else None,
            high_cc_10min=None if high2_cc is None else floor_div(high2_cc, 2),
            low_cc_10min=None if low2_cc is None else ceil_div(-low2_cc, 2),
            mid2_10s_cc=self._meter.mid2_10s_cc,
            volume_1min_h=self._volume_1min.yes + self._volume_1min.no,
            volume_10min_h=self._volume_10min.yes + self._volume_10min.no,
            followed_s=(now_ms - self._since_ms) / 1000,
            prints_seen=self._prints_seen,
            yes_prints_seen=self._yes_prints_seen,
            first_print_cc=self._first_print_cc,
            whales=tuple(self._whales),
            flow_toxicity=self._flow_toxicity(),
        )

    def _advance(self, now_ms: int) -> None:
        if self._mids:
            self._measure_mids()
        self._now_ms = max(self._now_ms, now_ms)
        self._meter.sample(self._now_ms, self._mid2_cc)

    def _ranges(self) -> tuple[tuple[WindowMax, int], ...]:
        return (
            (self._high_2s, 1),
            (self._low_2s, -1),  # the lowest value is the highest of the negated ones
            (self._high_10min, 1),
            (self._low_10min, -1),
        )

    def _jump_cc(self) -> int:
        high2_cc, low2_cc = self._high_2s.best(self._now_ms), self._low_2s.best(self._now_ms)
        return 0 if high2_cc is None or low2_cc is None else ceil_div(high2_cc + low2_cc, 2)

    def _remember(self, trade: Print) -> None:
        if len(self._prints) == PRINTS_MAX:
            del self._sizes_h[bisect_left(self._sizes_h, self._prints[0].count_h)]
        self._prints.append(trade)
        bisect.insort(self._sizes_h, trade.count_h)
        self._shown = None

    def _is_whale(self, trade: Print) -> bool:
        """At least WHALE_TIMES the median of the remembered prints (itself included), and dear."""
        low_h = self._sizes_h[(len(self._sizes_h) - 1) // 2]
        high_h = self._sizes_h[len(self._sizes_h) // 2]
        cost_ud = trade.taker_side.to_yes_cc(trade.price_cc) * trade.count_h
        return 2 * trade.count_h >= WHALE_TIMES * (low_h + high_h) and cost_ud >= WHALE_COST_UD

    def _note_sweep(self, trade: Print) -> None:
        """A taker who pays worse than a moment ago has traded through the better level."""
        side, paid_cc = trade.taker_side, trade.taker_side.to_yes_cc(trade.price_cc)
        at_ms, furthest_cc = self._frontier.get(side, (0, 0))
        if self._now_ms - at_ms > SWEEP_WINDOW_MS:
            self._frontier[side] = (self._now_ms, paid_cc)
        elif paid_cc > furthest_cc:
            self._frontier[side] = (self._now_ms, paid_cc)
            self._swept.add(self._now_ms, side, 1)

    def _flow_toxicity(self) -> int:
        yes, no = self._sides_10s.yes, self._sides_10s.no
        is_one_sided = yes + no >= ONE_SIDED_PRINTS_MIN and (yes == 0 or no == 0)
        return (self._now_ms - self._whale_at_ms <= WHALE_TOXIC_MS) + is_one_sided


# ======================================================================================
# §09b VIEW AND COST
# Purpose:   The frozen picture one decision is made from, and the one edge function.
# Position:  Uses §01, §03, §09a. §19 builds views; strategies and `explain` read them.
# Principle: The same view gives the same answer, live, in replay and from the journal.
# ======================================================================================

DEPTH_WEIGHTS: Final = (4, 2, 1)  # of the best three levels: 1, 1/2, 1/4, in quarters
TOXIC_IMBALANCE: Final = 0.8
STOP_OPENING_S: Final = 300.0
STOP_LIFE_SHARE: Final = 0.2
STOP_REDUCE_S: Final = 45.0  # so long before the stop time only reducing
EVEN_CC: Final = CC_PER_DOLLAR // 2


class FeeView(Protocol):
    """What a fill would cost; `FeeSchedule` of §07 is one."""

    def taker_ud(self, price_cc: int, count_h: int) -> int:
        """Fee in micro-dollars for taking `count_h` at `price_cc`, rounding included."""

    def maker_ud(self, price_cc: int, count_h: int) -> int:
        """Fee in micro-dollars for resting and being filled once, rounding included."""

    @property
    def assumed(self) -> bool:
        """Whether the series could not be read and the dearer schedule is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnOrder:
    """One own live order of the asking strategy. `count_h` is what may still fill."""

    slot: str
    side: Side
    price_cc: int
    count_h: int
    is_take: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What the asking strategy owns and may spend, from its own fills.

    `average_cc` is what a contract of the held leg cost, None when flat; `opened_at_ms` is when
    the position last left zero. `event_risk_ud` and `day_risk_ud` are the worst case of what the
    strategy holds and rests in this event, and in markets that settle on this New York day.
    """

    position_h: int = 0
    average_cc: int | None = None
    opened_at_ms: int | None = None
    orders: tuple[OwnOrder, ...] = ()
    cash_ud: int = 0
    headroom_ud: int = 0
    equity_ud: int = 0
    event_risk_ud: int = 0
    day_risk_ud: int = 0


class ViewParts(NamedTuple):
    """What a view is made of. What costs something is a call, made when a field asks for it."""

    market: Market
    levels: Callable[[], tuple[tuple[Level, ...], tuple[Level, ...]]]  # own orders subtracted
    tape: Callable[[], TapeReading]
    holding: Callable[[], Holding]
    draw: Callable[[], float]


class _Measured:
    """Base of MarketView: fields not bound yet are measured, a group at a time, on first use."""

    __slots__ = ("_parts",)

    if not TYPE_CHECKING:  # a type checker shall go on knowing every field by name

        def __getattr__(self, name: str) -> Any:
            measure = _GROUP_OF.get(name)
            if measure is None:
                raise AttributeError(f"a view has no {name}")
            parts = self._parts
            assert parts is not None, f"{name} of a view whose decision is over"
            for key, value in measure(self, parts).items():
                _bind_field(self, key, value)
            return object.__getattribute__(self, name)


_bind_field: Final = object.__setattr__  # a view is frozen for everybody else


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketView(_Measured):
    """One market as it is now; all a strategy sees. Prices are of YES unless a side is named.

    `yes` and `no` are the bids of both legs (own orders subtracted, best first, never empty), so
    an offer of YES is a bid for NO at 1 dollar minus its price. `mid2_cc` is bid + ask. `draw` is
    uniform in [0, 1) and the only randomness. Measures of the tape are None until known:
    `sigma` in ¢ per root second, `buy_ratio_10s` the share of YES takers among prints.
    """

    ticker: str
    event_ticker: str
    series: str
    category: str
    status: str
    open_at_ms: int
    close_at_ms: int
    grid: PriceGrid
    lifetime_s: float
    volume_24h_h: int
    now_ms: int
    left_s: float
    evaluation: int
    draw: float
    yes: tuple[Level, ...]
    no: tuple[Level, ...]
    bid_cc: int
    ask_cc: int
    mid2_cc: int
    spread_cc: int
    age_ms: int
    prints: tuple[Print, ...]
    sigma: float | None
    jump_cc_2s: int
    swept_levels_1s: int
    buy_ratio_10s: float | None
    high_cc_10min: int | None
    low_cc_10min: int | None
    toxicity: int
    mid2_10s_cc: int | None
    volume_1min_h: int
    volume_10min_h: int
    followed_s: float
    prints_seen: int  # since following began
    yes_prints_seen: int  # those whose taker bought YES
    first_print_cc: int | None
    whales: tuple[Print, ...]
    position_h: int
    average_cc: int | None
    opened_at_ms: int | None
    orders: tuple[OwnOrder, ...]
    cash_ud: int
    headroom_ud: int
    equity_ud: int
    event_risk_ud: int
    day_risk_ud: int
    fees: FeeView
    memory: Memory

    def best_bid_cc(self, side: Side) -> int:
        """Highest bid for `side`, in prices of that side."""
        return self.yes[0][0] if side is Side.YES else self.no[0][0]

    def best_ask_cc(self, side: Side) -> int:
        """Lowest price at which `side` can be bought now, in prices of that side."""
        return CC_PER_DOLLAR - self.best_bid_cc(side.other)

    def held_h(self, side: Side) -> int:
        """Position seen from `side`: plus when it is held, minus when the other leg is."""
        return side.signed(self.position_h)


def draw_of(run_seed: int, ticker: str, evaluation: int) -> float:
    """The uniform draw in [0, 1) of one evaluation; the same on every machine."""
    text = f"{run_seed}/{ticker}/{evaluation}".encode()
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 11) / (1 << 53)


def subtract_own(levels: Sequence[Level], own: Mapping[int, int]) -> tuple[Level, ...]:
    """The best VIEW_LEVELS_MAX of `levels` (best first) without `own` (price_cc → count_h)."""
    if not own:
        return tuple(levels[:VIEW_LEVELS_MAX])
    left = ((price_cc, count_h - own.get(price_cc, 0)) for price_cc, count_h in levels)
    return tuple(level for level in left if level[1] > 0)[:VIEW_LEVELS_MAX]


def book_fault(
    bid_cc: int | None,
    ask_cc: int | None,
    shown: tuple[tuple[Level, ...], tuple[Level, ...]] | None = None,
) -> Reason | None:
    """Why a proven book cannot be shown to a strategy; None when it can.

    The bests are public, `shown` both sides after `subtract_own`, None when nothing of ours rests.
    """
    if bid_cc is None or ask_cc is None:
        return Reason.BOOK_ONE_SIDED
    if bid_cc >= ask_cc:
        return Reason.BOOK_CROSSED
    return None if shown is None or (shown[0] and shown[1]) else Reason.BOOK_ONLY_OWN


def open_view(
    parts: ViewParts,
    *,
    bid_cc: int,
    ask_cc: int,
    fees: FeeView,
    memory: Memory,
    now_ms: int,
    age_ms: int,
    evaluation: int,
) -> MarketView:
    """A view whose costlier fields are measured when first read, until `close_view`.

    Nothing that `parts` reads may change in between; bests are those of its levels.
    """
    assert bid_cc < ask_cc, f"a view of a crossed book: {bid_cc} >= {ask_cc}"
    view = object.__new__(MarketView)
    for name, value in (
        ("_parts", parts),
        ("ticker", parts.market.ticker),
        ("grid", parts.market.grid),
        ("bid_cc", bid_cc),
        ("ask_cc", ask_cc),
        ("mid2_cc", bid_cc + ask_cc),
        ("spread_cc", ask_cc - bid_cc),
        ("fees", fees),
        ("memory", memory),
        ("now_ms", now_ms),
        ("age_ms", age_ms),
        ("evaluation", evaluation),
    ):
        _bind_field(view, name, value)
    return view


def close_view(view: MarketView) -> None:
    """The decision is over: what was not read of it is not measured any more."""
    _bind_field(view, "_parts", None)


def build_view(
    market: Market,
    *,
    yes: tuple[Level, ...],
    no: tuple[Level, ...],
    tape: TapeReading,
    holding: Holding,
    fees: FeeView,
    memory: Memory,
    now_ms: int,
    age_ms: int,
    evaluation: int,
    draw: float,
) -> MarketView:
    """A view of known parts. `yes` and `no` come from `subtract_own`; neither may be empty."""
    parts = ViewParts(market, lambda: (yes, no), lambda: tape, lambda: holding, lambda: draw)
    return open_view(
        parts,
        bid_cc=yes[0][0],
        ask_cc=CC_PER_DOLLAR - no[0][0],
        fees=fees,
        memory=memory,
        now_ms=now_ms,
        age_ms=age_ms,
        evaluation=evaluation,
    )


def _measure_levels(view: Any, parts: ViewParts) -> Mapping[str, Any]:
    yes, no = parts.levels()
    return {"yes": yes, "no": no}


def _measure_market(view: Any, parts: ViewParts) -> Mapping[str, Any]:
    market = parts.market
    return {
        "event_ticker": market.event_ticker,
        "series": market.series,
        "category": market.category,
        "status": market.status,
        "open_at_ms": market.open_at_ms,
        "close_at_ms": market.close_at_ms,
        "lifetime_s": (market.close_at_ms - market.open_at_ms) / 1000,
        "left_s": (market.close_at_ms - view.now_ms) / 1000,
        "volume_24h_h": market.volume_24h_h,
    }


def _measure_tape(view: Any, parts: ViewParts) -> Mapping[str, Any]:
    found = parts.tape()._asdict()
    is_lopsided = abs(imbalance_of(view.yes, view.no)) >= TOXIC_IMBALANCE
    return {"toxicity": found.pop("flow_toxicity") + is_lopsided, **found}


def _measure_holding(view: Any, parts: ViewParts) -> Mapping[str, Any]:
    holding = parts.holding()
    return {name: getattr(holding, name) for name in _HOLDING_FIELDS}


def _measure_draw(view: Any, parts: ViewParts) -> Mapping[str, Any]:
    return {"draw": parts.draw()}


_HOLDING_FIELDS: Final = tuple(f.name for f in dataclasses.fields(Holding))
_GROUP_OF: Final[Mapping[str, Callable[[Any, ViewParts], Mapping[str, Any]]]] = {
    **dict.fromkeys(("yes", "no"), _measure_levels),
    **dict.fromkeys(
        ("event_ticker", "series", "category", "status", "open_at_ms", "close_at_ms"),
        _measure_market,
    ),
    **dict.fromkeys(("lifetime_s", "left_s", "volume_24h_h"), _measure_market),
    **dict.fromkeys(set(TapeReading._fields) - {"flow_toxicity"}, _measure_tape),
    "toxicity": _measure_tape,
    **dict.fromkeys(_HOLDING_FIELDS, _measure_holding),
    "draw": _measure_draw,
}


def depth(levels: Sequence[Level]) -> int:
    """Weighted size of the best three levels, in quarters of a hundredth of a contract."""
    first, second, third = DEPTH_WEIGHTS
    match levels[:3]:
        case [(_, a_h), (_, b_h), (_, c_h)]:
            return first * a_h + second * b_h + third * c_h
        case [(_, a_h), (_, b_h)]:
            return first * a_h + second * b_h
        case [(_, a_h)]:
            return first * a_h
    return 0


def imbalance_of(yes: Sequence[Level], no: Sequence[Level]) -> float:
    """(B - A) / (B + A) of the weighted sizes, -1 … 1; plus when YES bids are heavier."""
    bid, ask = depth(yes), depth(no)
    return (bid - ask) / (bid + ask)


def microprice_cc(view: MarketView) -> float:
    """(bid × A + ask × B) / (A + B) in centi-cents: the mid, drawn toward the lighter side."""
    bid, ask = depth(view.yes), depth(view.no)
    return (view.bid_cc * ask + view.ask_cc * bid) / (bid + ask)


def micro_fair_cc(view: MarketView) -> int:
    """The microprice in whole centi-cents; a half goes toward 50 ¢, so both legs agree."""
    bid, ask = depth(view.yes), depth(view.no)
    cc, rest = divmod(view.bid_cc * ask + view.ask_cc * bid, bid + ask)
    goes_up = 2 * rest > bid + ask or (2 * rest == bid + ask and cc < EVEN_CC)
    return cc + goes_up


def tick_cc(grid: PriceGrid, yes_cc: int) -> int:
    """Step of the grid around a YES price; the wider one where two steps meet."""
    low_cc, high_cc = grid.down(yes_cc) or 0, grid.up(yes_cc) or CC_PER_DOLLAR
    if not grid.is_valid(Side.YES, yes_cc):
        return high_cc - low_cc
    return max(high_cc - yes_cc, yes_cc - low_cc)


def price_at_most(grid: PriceGrid, side: Side, price_cc: int) -> int | None:
    """Highest valid price of `side` that is not above `price_cc`; None when there is none."""
    if side is Side.YES:
        return grid.floor(price_cc)
    yes_cc = grid.ceil(CC_PER_DOLLAR - price_cc)
    return None if yes_cc is None else CC_PER_DOLLAR - yes_cc


def price_at_least(grid: PriceGrid, side: Side, price_cc: int) -> int | None:
    """Lowest valid price of `side` that is not below `price_cc`; None when there is none."""
    if side is Side.YES:
        return grid.ceil(price_cc)
    yes_cc = grid.floor(CC_PER_DOLLAR - price_cc)
    return None if yes_cc is None else CC_PER_DOLLAR - yes_cc


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What a fill is expected to earn per contract, as a sum; all in centi-cents of `side`."""

    side: Side
    fair_cc: int
    price_cc: int
    fee_cc: int
    margin_cc: int

    @property
    def edge_cc(self) -> int:
        """fair - price - fee - margin."""
        return self.fair_cc - self.price_cc - self.fee_cc - self.margin_cc


def fee_cc(fees: FeeView, price_cc: int, count_h: int, *, take: bool) -> int:
    """Fee per contract in centi-cents, rounded up."""
    fee_ud = fees.taker_ud(price_cc, count_h) if take else fees.maker_ud(price_cc, count_h)
    return ceil_div(fee_ud, count_h)  # micro-dollars per hundredth are centi-cents per contract


def edge_of(view: MarketView, want: Want, *, fair_cc: int, margin_cc: int = 0) -> Edge:
    """The one edge function. `fair_cc` is the estimate of YES; `margin_cc` what else is asked."""
    cost_cc = fee_cc(view.fees, want.price_cc, want.count_h, take=want.take)
    return Edge(
        side=want.side,
        fair_cc=want.side.to_yes_cc(fair_cc),
        price_cc=want.price_cc,
        fee_cc=cost_cc,
        margin_cc=margin_cc,
    )


def edge_cc(view: MarketView, want: Want, *, fair_cc: int, margin_cc: int = 0) -> int:
    """`edge_of(…).edge_cc`: fair of that side - price - fee per contract (up) - margin."""
    return edge_of(view, want, fair_cc=fair_cc, margin_cc=margin_cc).edge_cc


def stop_s(view: MarketView) -> float:
    """The stop time, in seconds before the close: by then a strategy wants to be out."""
    return min(STOP_OPENING_S, STOP_LIFE_SHARE * view.lifetime_s)


def stop_opening_s(view: MarketView) -> float:
    """Seconds before the close from which on only reducing is wanted."""
    return stop_s(view) + STOP_REDUCE_S


def may_open(view: MarketView) -> bool:
    """Whether a strategy may still add to a position in this market."""
    return view.left_s > stop_opening_s(view)


# ======================================================================================
# §09c STRATEGY CONTRACT
# Purpose:   The protocol, parameters with ranges, the check of an answer, views as JSON.
# Position:  Uses §01, §03, §09a-b. §19 checks every answer here; §24 builds parameters here.
# Principle: A strategy's answer is an outsider's: checked as a whole, never repaired.
# ======================================================================================

COUNT_MAX_H: Final = 10**9
_SLOT = re.compile(r"[a-z][a-z0-9_]{0,15}", re.ASCII)
_STRATEGY_NAME = re.compile(r"[a-z][a-z_]{0,31}", re.ASCII)
_OWN_REASON = re.compile(r"x_[a-z0-9_]{1,38}", re.ASCII)


class Strategy(Protocol):
    """A pure function from one market's view to the orders it wants there.

    `name` goes into every order and row. `Params` is a frozen dataclass of numbers, each with its
    unit in the name, a default and, where it has one, a range in its metadata. Optional further
    words: `slots` (the slot names it uses; others are faults), `expectation` (one honest sentence
    shown beside its results), `is_experimental`.
    """

    name: ClassVar[str]
    Params: ClassVar[type[Any]]

    def __init__(self, params: Any) -> None: ...

    def decide(self, view: MarketView) -> Decision:
        """The wish for this market, now; no await, clock, socket, log or chance of its own."""


def param(
    default: int | float, low: int | float, high: int | float, unit: str, what: str = ""
) -> Any:
    """A field of a Params class with its default, inclusive range, unit and meaning."""
    metadata = {"min": low, "max": high, "unit": unit, "what": what}
    return field(default=default, metadata=metadata)


def make_params(cls: type[Any], overrides: Mapping[str, JsonValue], *, owner: str) -> Any:
    """Build the parameters of strategy `owner` from its class and what the operator set.

    Numbers may come as text. Raises ConfigError, one sentence, for a name that does not exist
    (with the nearest that does), a value that is no number, NaN, infinite, or out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values: dict[str, Any] = {}
    for name, given in overrides.items():
        if name not in fields:
            raise ConfigError(
                f"--param {name}: {owner} has no such parameter; {_near(name, fields)}"
            )
        values[name] = _param_value(f"--param {name}", fields[name], given)
    missing = [name for name, f in fields.items() if name not in values and not _has_default(f)]
    if missing:
        raise ConfigError(f"{owner} needs a value for --param {missing[0]}=…")
    try:
        return cls(**values)
    except (ValueError, TypeError, ArithmeticError) as exc:
        raise ConfigError(f"{owner} refuses its parameters: {exc}") from exc


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"the nearest is {near[0]}"
    return f"it has {', '.join(names)}" if names else "it has none"


def _has_default(one: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return one.default is not missing or one.default_factory is not missing


def _param_value(where: str, one: dataclasses.Field[Any], given: JsonValue) -> Any:
    """`given` as the type of the field, inside its range; ConfigError otherwise."""
    default = one.default
    if isinstance(default, tuple):
        return _table_value(where, given)
    if isinstance(default, bool) or one.type in ("bool", bool):
        return _bool_value(where, given)
    is_whole = isinstance(default, int) or one.type in ("int", int)
    number = _number(where, given, is_whole=is_whole)
    low, high = one.metadata.get("min"), one.metadata.get("max")
    if (low is not None and number < low) or (high is not None and number > high):
        unit = one.metadata.get("unit", "")
        raise ConfigError(f"{where}: {number} is outside {low} … {high} {unit}".rstrip())
    return number


def _number(where: str, given: JsonValue, *, is_whole: bool) -> int | float:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ConfigError(f"{where}: {given!r:.60} is not a number")
    try:
        number = float(given)
    except (ValueError, OverflowError):
        raise ConfigError(f"{where}: {given!r:.60} is not a number") from None
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {given!r:.60} is not a finite number")
    if not is_whole:
        return number
    if not number.is_integer():
        raise ConfigError(f"{where}: {given!r:.60} must be a whole number")
    return int(number)


def _bool_value(where: str, given: JsonValue) -> bool:
    words = {"true": True, "false": False, "1": True, "0": False}
    value = words.get(str(given).lower())
    if value is None:
        raise ConfigError(f"{where}: {given!r:.60} must be true or false")
    return value


def _table_value(where: str, given: JsonValue) -> tuple[tuple[int, float], ...]:
    """A table of price_cc to ratio, given as `500:0.0418,1000:0.09`."""
    rows: list[tuple[int, float]] = []
    for part in str(given).split(","):
        price, colon, ratio = part.partition(":")
        if not colon:
            raise ConfigError(f"{where}: {part!r:.60} is not price_cc:ratio, as in 500:0.0418")
        price_cc = int(_number(where, price, is_whole=True))
        share = float(_number(where, ratio, is_whole=False))
        if not 0 < price_cc < CC_PER_DOLLAR or not 0.0 <= share <= 1.0:
            raise ConfigError(f"{where}: {part!r:.60}: price 1 … 9999 cc and ratio 0 … 1 expected")
        rows.append((price_cc, share))
    return tuple(sorted(rows))


def validate_decision(
    decision: object, view: MarketView, *, slots: frozenset[str] | None = None
) -> str | None:
    """What is wrong with a strategy's answer, in one clause; None when nothing is.

    `slots` are the slot names the strategy has declared; None: any well-formed name.
    """
    if not isinstance(decision, Decision):
        return f"answered {type(decision).__name__} instead of a Decision"
    return (
        _reason_fault(decision)
        or _wants_fault(decision.wants, view.grid, slots)
        or _numbers_fault(decision)
        or _memory_fault(decision.memory, view.memory)
    )


# The helpers below take Any on purpose: a user's file is bound by no type checker.


def _reason_fault(decision: Any) -> str | None:
    reason, is_done = decision.reason, decision.reason in (Reason.ACTED, Reason.KEPT)
    if not isinstance(reason, Reason) and not (
        isinstance(reason, str) and _OWN_REASON.fullmatch(reason)
    ):
        return f"reason {reason!r:.60} is neither a Reason nor x_<name>"
    if not isinstance(decision.wants, tuple):
        return "wants is not a tuple"
    if bool(decision.wants) != is_done:
        return f"{len(decision.wants)} wants with reason {reason}; acted goes with wants"
    return None


def _wants_fault(wants: Any, grid: PriceGrid, slots: frozenset[str] | None) -> str | None:
    if len(wants) > WANTS_MAX:
        return f"{len(wants)} wants, at most {WANTS_MAX} allowed"
    for want in wants:
        fault = _want_fault(want, grid, slots)
        if fault is not None:
            return fault
    if len({want.slot for want in wants}) != len(wants):
        return "two wants of one slot"
    return None


def _want_fault(found: object, grid: PriceGrid, slots: frozenset[str] | None) -> str | None:
    if not isinstance(found, Want):
        return f"{type(found).__name__} instead of a Want"
    want: Any = found
    if not isinstance(want.slot, str) or not _SLOT.fullmatch(want.slot):
        return f"slot {want.slot!r:.60} is not a name of [a-z0-9_], at most 16 long"
    if slots is not None and want.slot not in slots:
        return f"unknown slot {want.slot}"
    if not isinstance(want.side, Side):
        return f"side {want.side!r:.60} is not a Side"
    if type(want.price_cc) is not int or not grid.is_valid(want.side, want.price_cc):
        return f"price_cc {want.price_cc!r:.60} is not on the grid"
    if type(want.count_h) is not int or not 0 < want.count_h <= COUNT_MAX_H:
        return f"count_h {want.count_h!r:.60} is not a count above 0"
    if type(want.take) is not bool or type(want.urgent) is not bool:
        return "take and urgent must be True or False"
    return None


def _numbers_fault(decision: Any) -> str | None:
    fair_cc = decision.fair_cc
    if fair_cc is not None and (type(fair_cc) is not int or not 0 <= fair_cc <= CC_PER_DOLLAR):
        return f"fair_cc {fair_cc!r:.60} is not a price"
    if not isinstance(decision.value, str) or not isinstance(decision.limit, str):
        return "value and limit must be text"
    if len(decision.value) > TEXT_MAX or len(decision.limit) > TEXT_MAX:
        return f"value or limit is longer than {TEXT_MAX} characters"
    if not isinstance(decision.features, tuple) or len(decision.features) > FEATURES_MAX:
        return f"features must be a tuple of at most {FEATURES_MAX} pairs"
    for pair in decision.features:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            return f"feature {pair!r:.60} is not a (name, number) pair"
        if type(pair[1]) not in (int, float) or not -1e15 < pair[1] < 1e15:
            return f"feature {pair[0]:.40} is {pair[1]!r:.40}, not a finite number"
    return None


def _memory_fault(memory: Any, before: Memory) -> str | None:
    if memory is before or not memory:
        return None if isinstance(memory, Mapping) else "memory is not a mapping"
    try:
        plain = dict(memory)
        text = json.dumps(plain, allow_nan=False, ensure_ascii=False)
        survives = json.loads(text) == plain
    except (TypeError, ValueError, RecursionError) as exc:
        return f"memory is not plain JSON: {exc!s:.80}"
    if not survives:
        return "memory does not survive JSON: use text keys, and lists for tuples"
    size = len(text.encode("utf-8", "replace"))
    return (
        f"memory of {size} bytes, at most {MEMORY_MAX_BYTES}" if size > MEMORY_MAX_BYTES else None
    )


def dump_view(view: MarketView) -> dict[str, JsonValue]:
    """The view as plain JSON, everything but `fees`, for the journal; off the order path."""
    data: dict[str, Any] = {
        f.name: getattr(view, f.name) for f in dataclasses.fields(view) if f.name != "fees"
    }
    data["grid"] = [list(one) for one in view.grid.ranges]
    data["memory"] = dict(view.memory)
    for name in ("yes", "no"):
        data[name] = [list(level) for level in data[name]]
    for name in ("prints", "whales"):
        data[name] = [[p.at_ms, p.price_cc, p.count_h, str(p.taker_side)] for p in data[name]]
    data["orders"] = [[o.slot, str(o.side), o.price_cc, o.count_h, o.is_take] for o in view.orders]
    return data


def load_view(data: Mapping[str, Any], fees: FeeView) -> MarketView:
    """The view `dump_view` wrote, with the fees that held then. Raises WireError when damaged."""
    try:
        given = dict(data)
        given["grid"] = PriceGrid(tuple(tuple(one) for one in data["grid"]))
        for name in ("yes", "no"):
            given[name] = tuple(tuple(level) for level in data[name])
        for name in ("prints", "whales"):
            given[name] = tuple(Print(at, cc, h, Side(side)) for at, cc, h, side in data[name])
        given["orders"] = tuple(
            OwnOrder(slot=slot, side=Side(side), price_cc=cc, count_h=h, is_take=take)
            for slot, side, cc, h, take in data["orders"]
        )
        return MarketView(**given, fees=fees)
    except (KeyError, TypeError, ValueError) as exc:
        raise WireError(f"not a stored view: {exc!r:.120}") from exc


# ======================================================================================
# §09d HOLD, RANDOM, IMBALANCE
# Purpose:   The null hypothesis, the control, a lean on the book; words all strategies share.
# Position:  Uses §01, §03, §09a-c. Chosen by §24 through STRATEGIES of §09g.
# Principle: Wish small, post only, open nothing near the close, and always say why not.
# ======================================================================================

SIZE_MAX_H: Final = 100_000


def size_param() -> Any:
    """`size_h`, the one lot of every strategy: one contract until evidence says more."""
    return param(H_PER_CONTRACT, 1, SIZE_MAX_H, "hundredths of a contract", "size of one order")


def show_cc(value_cc: int, what: str = "") -> str:
    """A number of centi-cents for the value or limit of a decision."""
    return f"{what} {value_cc} cc".strip()


def no_wants(
    reason: Reason,
    value: str = "",
    limit: str = "",
    *,
    fair_cc: int | None = None,
    features: tuple[tuple[str, float], ...] = (),
    memory: Memory = EMPTY,
) -> Decision:
    """A decision that wants nothing, with what was measured and what it was held against."""
    return Decision(
        wants=(),
        reason=reason,
        value=value,
        limit=limit,
        fair_cc=fair_cc,
        features=features,
        memory=memory,
    )


def near_close(view: MarketView, memory: Memory = EMPTY) -> Decision:
    """Nothing may be opened any more and there is nothing to reduce."""
    value, limit = f"{view.left_s:.0f} s left", f"> {stop_opening_s(view):.0f} s"
    return no_wants(Reason.NEAR_CLOSE, value, limit, memory=memory)


def live_order(view: MarketView, slot: str, side: Side) -> OwnOrder | None:
    """The own resting order of this slot and side; None when there is none."""
    found = (o for o in view.orders if o.slot == slot and o.side is side and not o.is_take)
    return next(found, None)


def steady_count_h(live: OwnOrder | None, price_cc: int, count_h: int) -> int:
    """`count_h`, or what is left of a live order there: topping it up would lose its place."""
    if live is None or live.price_cc != price_cc or 2 * live.count_h < count_h:
        return count_h
    return min(live.count_h, count_h)


def leave_by_taking(view: MarketView, *, collar_cc: int, memory: Memory) -> Decision | None:
    """Buy the other leg at once, as far as the collar over its mid; None when it is too dear.

    A resting exit is cancelled first, so that the two can never both fill.
    """
    side = Side.NO if view.position_h > 0 else Side.YES
    price_cc = view.best_ask_cc(side)
    if price_cc - view.best_bid_cc(side) > 2 * collar_cc:
        return None
    if any(not order.is_take for order in view.orders):
        return no_wants(Reason.COOLDOWN, "resting order", "gone before taking", memory=memory)
    count_h = abs(view.position_h)
    want = Want(slot="exit", side=side, price_cc=price_cc, count_h=count_h, take=True)
    return Decision(wants=(want,), reason=Reason.ACTED, value="take to leave", memory=memory)


class Hold:
    """Never trades."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Params:
        """None."""

    name = "hold"
    slots = frozenset[str]()
    expectation = "Zero. The null hypothesis and the safest default."

    def __init__(self, params: Params) -> None:
        self.p = params

    def decide(self, view: MarketView) -> Decision:
        """Want nothing."""
        return no_wants(Reason.HOLD)


class RandomControl:
    """Every `every_s` a side by draw: joins its best bid once, until the fill or the next draw."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Params:
        """Pace and bounds."""

        size_h: int = size_param()
        every_s: int = param(30, 1, 86_400, "s", "between two draws; also the life of an order")
        max_lots: int = param(2, 1, 100, "lots", "largest position, either way")

    name = "random"
    slots = frozenset({"yes", "no"})
    expectation = "Minus adverse selection, minus fees. Whatever does not beat it has no signal."

    def __init__(self, params: Params) -> None:
        self.p = params

    def decide(self, view: MarketView) -> Decision:
        """Go on with the order of the last draw, or draw again when its time is over."""
        until_ms = view.memory.get("until_ms")
        if isinstance(until_ms, int) and view.now_ms < until_ms:
            return self._go_on(view, until_ms)
        return self._draw(view)

    def _room_h(self, view: MarketView, side: Side) -> int:
        held_h = view.held_h(side)
        if not may_open(view):
            return max(0, min(self.p.size_h, -held_h))
        return min(self.p.size_h, self.p.max_lots * self.p.size_h - held_h)

    def _draw(self, view: MarketView) -> Decision:
        side = Side.YES if view.draw < 0.5 else Side.NO
        memory: dict[str, JsonValue] = {"until_ms": view.now_ms + self.p.every_s * 1000}
        if self._room_h(view, side) <= 0:
            if not may_open(view):
                return near_close(view, memory)
            value, limit = f"position {view.position_h}", f"± {self.p.max_lots * self.p.size_h}"
            return no_wants(Reason.INVENTORY_FULL, value, limit, memory=memory)
        price_cc = view.best_bid_cc(side)
        memory |= {"side": str(side), "price_cc": price_cc, "from_h": view.position_h}
        return self._want(view, side, price_cc, self._room_h(view, side), memory)

    def _go_on(self, view: MarketView, until_ms: int) -> Decision:
        text, price_cc = view.memory.get("side"), view.memory.get("price_cc")
        from_h = view.memory.get("from_h")
        wait = no_wants(
            Reason.COOLDOWN,
            f"{(until_ms - view.now_ms) / 1000:.0f} s to the next draw",
            "0 s",
            memory=view.memory,
        )
        if text not in ("yes", "no") or type(price_cc) is not int or type(from_h) is not int:
            return wait
        side = Side(text)
        left_h = self.p.size_h - side.signed(view.position_h - from_h)
        left_h = min(left_h, self._room_h(view, side))
        can_rest = view.grid.is_valid(side, price_cc) and price_cc < view.best_ask_cc(side)
        if left_h <= 0 or not can_rest:
            return wait
        return self._want(view, side, price_cc, left_h, view.memory)

    def _want(
        self, view: MarketView, side: Side, price_cc: int, count_h: int, memory: Memory
    ) -> Decision:
        want = Want(slot=str(side), side=side, price_cc=price_cc, count_h=count_h)
        return Decision(wants=(want,), reason=Reason.ACTED, value=f"draw {side}", memory=memory)


class Imbalance:
    """Leans with the heavier side of the book and never crosses to get in (STRATEGIES §6.4)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Params:
        """Signal, size and exit."""

        size_h: int = size_param()
        lean: float = param(0.6, 0.0, 1.0, "ratio", "least |imbalance| to join")
        depth_h: int = param(
            5_000, 0, 10**8, "hundredths of a contract", "least weighted depth of both sides"
        )
        margin_cc: int = param(0, 0, 5_000, "cc", "edge asked beyond the fee")
        max_hold_s: float = param(300.0, 1.0, 86_400.0, "s", "after this it takes to leave")
        collar_cc: int = param(500, 1, 5_000, "cc", "furthest above the mid it takes")

    name = "imbalance"
    slots = frozenset({"yes", "no", "exit"})
    expectation = "About zero minus: visible pressure is mostly priced already."

    def __init__(self, params: Params) -> None:
        self.p = params

    def decide(self, view: MarketView) -> Decision:
        """Leave a position there is; else join the heavier side, if it is heavy enough."""
        return self._leave(view) if view.position_h else self._enter(view)

    def _leave(self, view: MarketView) -> Decision:
        held_s = (view.now_ms - (view.opened_at_ms or view.now_ms)) / 1000
        if held_s >= self.p.max_hold_s:
            taking = leave_by_taking(view, collar_cc=self.p.collar_cc, memory=EMPTY)
            if taking is not None:
                return taking
        side, count_h = Side.NO if view.position_h > 0 else Side.YES, abs(view.position_h)
        price_cc = view.best_bid_cc(side)
        count_h = steady_count_h(live_order(view, "exit", side), price_cc, count_h)
        want = Want(slot="exit", side=side, price_cc=price_cc, count_h=count_h)
        value = f"held {held_s:.0f} s"
        return Decision(
            wants=(want,), reason=Reason.ACTED, value=value, fair_cc=micro_fair_cc(view)
        )

    def _enter(self, view: MarketView) -> Decision:
        p, lean, fair_cc = self.p, imbalance_of(view.yes, view.no), micro_fair_cc(view)
        depth_h = (depth(view.yes) + depth(view.no)) / DEPTH_WEIGHTS[0]
        features = (("imbalance", lean), ("depth_h", depth_h), ("fair_cc", fair_cc))
        if not may_open(view):
            return near_close(view)
        refuse = partial(no_wants, fair_cc=fair_cc, features=features)
        if depth_h < p.depth_h:
            return refuse(Reason.DEPTH_TOO_THIN, f"depth {depth_h:.0f} h", f">= {p.depth_h} h")
        if abs(lean) < p.lean:
            return refuse(Reason.NO_SIGNAL, f"imbalance {lean:+.2f}", f"|I| >= {p.lean:g}")
        side = Side.YES if lean > 0 else Side.NO
        price_cc = view.best_bid_cc(side)
        count_h = steady_count_h(live_order(view, str(side), side), price_cc, p.size_h)
        want = Want(slot=str(side), side=side, price_cc=price_cc, count_h=count_h)
        gained_cc = edge_cc(view, want, fair_cc=fair_cc, margin_cc=p.margin_cc)
        value = show_cc(gained_cc, "edge")
        if gained_cc < 0:
            return refuse(Reason.EDGE_BELOW_COST, value, ">= 0 cc")
        return Decision(
            wants=(want,),
            reason=Reason.ACTED,
            value=value,
            limit=">= 0 cc",
            fair_cc=fair_cc,
            features=(*features, ("margin_cc", p.margin_cc)),
        )


# ======================================================================================
# §09e MARKET MAKER
# Purpose:   Two bounded quotes around a reservation price, in whole centi-cents.
# Position:  Uses §01, §03, §09a-d. The rl policy of §09g borrows its quotes.
# Principle: A worse quote at once, a better one with patience, never past the fair price.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class MakerParams:
    """Parameters of the market maker; statistics are in cents, prices in centi-cents."""

    size_h: int = size_param()
    gamma: float = param(0.05, 0.0001, 10.0, "per ¢ and lot", "risk aversion")
    k: float = param(0.5, 0.001, 100.0, "per ¢", "decay of arrivals with distance")
    floor_cc: int = param(100, 1, 5_000, "cc", "least half-spread")
    horizon_s: float = param(60.0, 1.0, 86_400.0, "s", "time a lot is expected to be held")
    max_lots: int = param(2, 1, 100, "lots", "largest position, either way")
    jump_cc: int = param(300, 1, 10_000, "cc", "move of the mid in 2 s that pulls the quotes")
    max_swept: int = param(3, 1, 100, "levels", "levels swept in 1 s that pull the quotes")
    pull_s: float = param(10.0, 0.0, 3_600.0, "s", "time without quotes after a jump")
    min_fair_cc: int = param(500, 1, 5_000, "cc", "no quotes below this and above 1 - this")
    max_toxicity: int = param(3, 0, 3, "points", "no quotes above this; 3: only widen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotes:
    """Two quotes around a reservation price, in prices of their own side; None: no valid price.

    `variance_c2` is in ¢². `half_cc` holds fee and toxicity; `reservation_cc` is of YES.
    """

    fair_cc: int
    variance_c2: float
    fee_cc: int
    half_cc: int
    reservation_cc: int
    yes_cc: int | None
    no_cc: int | None

    def price_cc(self, side: Side) -> int | None:
        """Bid for `side`."""
        return self.yes_cc if side is Side.YES else self.no_cc


def make_quotes(
    view: MarketView,
    p: MakerParams,
    *,
    fair_cc: int,
    sigma: float,
    least_half_cc: int = 0,
    widen: int = 1,
) -> Quotes:
    """The quotes of STRATEGIES §6.3, `widen` times as far from the reservation price."""
    chance = fair_cc / CC_PER_DOLLAR
    seconds = max(0.0, min(p.horizon_s, view.left_s))
    variance_c2 = min(sigma * sigma * seconds, 10_000 * chance * (1.0 - chance))
    spread_c = 0.5 * p.gamma * variance_c2 + math.log1p(p.gamma / p.k) / p.gamma
    maker_cc = max(fee_cc(view.fees, view.best_bid_cc(side), p.size_h, take=False) for side in Side)
    base_cc = max(p.floor_cc, least_half_cc, round(spread_c * 100))
    toxic_cc = tick_cc(view.grid, fair_cc) * view.toxicity if view.toxicity else 0
    half_cc = widen * (base_cc + maker_cc + toxic_cc)
    lots = view.position_h / p.size_h
    skew_cc = max(-half_cc, min(half_cc, round(lots * p.gamma * variance_c2 * 100)))
    reservation_cc = fair_cc - skew_cc
    return Quotes(
        fair_cc=fair_cc,
        variance_c2=variance_c2,
        fee_cc=maker_cc,
        half_cc=half_cc,
        reservation_cc=reservation_cc,
        yes_cc=quote_price_cc(view, Side.YES, fair_cc, reservation_cc - half_cc),
        no_cc=quote_price_cc(view, Side.NO, fair_cc, CC_PER_DOLLAR - reservation_cc - half_cc),
    )


def quote_price_cc(view: MarketView, side: Side, fair_cc: int, target_cc: int) -> int | None:
    """Bid for `side` at or below `target_cc`, a tick below its ask, never past the fair price."""
    limit_cc = min(target_cc, view.best_ask_cc(side) - 1, side.to_yes_cc(fair_cc))
    return price_at_most(view.grid, side, limit_cc)


class MarketMaker:
    """Bounded inventory quoting around the microprice (STRATEGIES §6.3)."""

    Params = MakerParams
    name = "market_maker"
    slots = frozenset({"yes", "no"})
    expectation = "Earns the spread, pays drift; the exit decides. Loses in fast short markets."

    def __init__(self, params: MakerParams) -> None:
        self.p = params

    def decide(self, view: MarketView) -> Decision:
        """Two quotes, one when the inventory or the close asks for it, none when it is unsafe."""
        p, memory = self.p, self._remember_jump(view)
        fair_cc = micro_fair_cc(view)
        if view.sigma is None:
            return no_wants(
                Reason.WARMING_UP, "sigma unknown", f">= {SIGMA_SAMPLES_MIN} s", memory=memory
            )
        low_cc, high_cc = p.min_fair_cc, CC_PER_DOLLAR - p.min_fair_cc
        if not low_cc <= fair_cc <= high_cc:
            limit = f"{low_cc} … {high_cc} cc"
            value = show_cc(fair_cc, "fair")
            return no_wants(Reason.PRICE_OUT_OF_RANGE, value, limit, fair_cc=fair_cc, memory=memory)
        quotes = make_quotes(view, p, fair_cc=fair_cc, sigma=view.sigma)
        decision = quote_decision(view, quotes, p, memory)
        # Only what would have been quoted is pulled: the reasons keep the order of the gates.
        return (self._pulled(view, fair_cc, memory) if decision.wants else None) or decision

    def _remember_jump(self, view: MarketView) -> dict[str, JsonValue]:
        p, memory = self.p, dict(view.memory)
        until_ms = memory.pop("pull_until_ms", 0)
        if view.jump_cc_2s >= p.jump_cc or view.swept_levels_1s >= p.max_swept:
            until_ms = view.now_ms + round(p.pull_s * 1000)
        if isinstance(until_ms, int) and until_ms > view.now_ms:
            memory["pull_until_ms"] = until_ms
        return memory

    def _pulled(self, view: MarketView, fair_cc: int, memory: Memory) -> Decision | None:
        p = self.p
        if "pull_until_ms" in memory:
            value = f"jump {view.jump_cc_2s} cc, {view.swept_levels_1s} swept"
            limit = f"< {p.jump_cc} cc, < {p.max_swept} swept for {p.pull_s:g} s"
            kept = {"pull_until_ms": memory["pull_until_ms"]}
            return no_wants(Reason.JUMP_PULL, value, limit, fair_cc=fair_cc, memory=kept)
        if view.toxicity > p.max_toxicity:
            value, limit = f"toxicity {view.toxicity}", f"<= {p.max_toxicity}"
            return no_wants(Reason.TOXIC_FLOW, value, limit, fair_cc=fair_cc)
        return None


_GATE_ORDER: Final = {reason: place for place, reason in enumerate(Reason)}


def quote_decision(view: MarketView, quotes: Quotes, p: MakerParams, memory: Memory) -> Decision:
    """Turn prices into wants: room, edge, stop time, and patience with better prices.

    `memory` may hold "better", the better price seen last time by slot.
    """
    before = memory.get("better")
    seen = before if isinstance(before, dict) else {}
    better: dict[str, JsonValue] = {}
    wants: list[Want] = []
    misses: list[tuple[Reason, str, str]] = []
    for side in Side:
        found = _quote(view, quotes, p, side)
        if isinstance(found, Want):
            wants.append(_patient(view, found, seen.get(found.slot), better))
        else:
            misses.append(found)
    features = _quote_features(view, quotes, p)
    kept = {name: value for name, value in memory.items() if name != "better"}
    if better:
        kept["better"] = better
    if wants:
        best_cc = max(edge_cc(view, want, fair_cc=quotes.fair_cc) for want in wants)
        return Decision(
            wants=tuple(wants),
            reason=Reason.ACTED,
            value=show_cc(best_cc, "edge"),
            limit=">= 0 cc",
            fair_cc=quotes.fair_cc,
            features=features,
            memory=kept,
        )
    reason, value, limit = min(misses, key=lambda miss: _GATE_ORDER[miss[0]])
    return no_wants(reason, value, limit, fair_cc=quotes.fair_cc, features=features, memory=kept)


def _quote(
    view: MarketView, quotes: Quotes, p: MakerParams, side: Side
) -> Want | tuple[Reason, str, str]:
    """The want of one side, or why there is none."""
    held_h, price_cc = view.held_h(side), quotes.price_cc(side)
    is_reducing = held_h < 0
    if not is_reducing and not may_open(view):
        return Reason.NEAR_CLOSE, f"{view.left_s:.0f} s left", f"> {stop_opening_s(view):.0f} s"
    room_h = p.max_lots * p.size_h - held_h if may_open(view) else -held_h
    count_h = min(p.size_h, room_h)
    if count_h <= 0:
        return Reason.INVENTORY_FULL, f"position {view.position_h}", f"{p.max_lots} lots"
    if price_cc is None:
        return Reason.PRICE_OUT_OF_RANGE, f"half-spread {quotes.half_cc} cc", "a price on the grid"
    count_h = steady_count_h(live_order(view, str(side), side), price_cc, count_h)
    want = Want(slot=str(side), side=side, price_cc=price_cc, count_h=count_h)
    margin_cc = 0 if is_reducing else p.floor_cc
    gained_cc = edge_cc(view, want, fair_cc=quotes.fair_cc, margin_cc=margin_cc)
    if not is_reducing and gained_cc < 0:
        return Reason.EDGE_BELOW_COST, show_cc(gained_cc, "edge"), ">= 0 cc"
    return want


def _patient(view: MarketView, want: Want, seen: JsonValue, better: dict[str, JsonValue]) -> Want:
    """A worse price at once and urgent; a better one only when it was better last time too."""
    live = live_order(view, want.slot, want.side)
    if live is None or want.price_cc == live.price_cc:
        return want
    if not view.grid.is_valid(live.side, live.price_cc):  # the grid changed under it
        return want
    if want.price_cc < live.price_cc:
        return replace(want, urgent=True)
    better[want.slot] = want.price_cc
    if type(seen) is int and seen > live.price_cc and view.grid.is_valid(want.side, seen):
        return replace(want, price_cc=min(want.price_cc, seen))
    return replace(
        want,
        price_cc=live.price_cc,
        count_h=steady_count_h(live, live.price_cc, want.count_h),
    )


def _quote_features(
    view: MarketView, quotes: Quotes, p: MakerParams
) -> tuple[tuple[str, float], ...]:
    return (
        ("fair_cc", quotes.fair_cc),
        ("sigma", view.sigma or 0.0),
        ("variance", quotes.variance_c2),
        ("half_cc", quotes.half_cc),
        ("reservation_cc", quotes.reservation_cc),
        ("fee_cc", quotes.fee_cc),
        ("margin_cc", p.floor_cc),
        ("toxicity", view.toxicity),
    )


# ======================================================================================
# §09f MEAN REVERSION, REVERSE LINE MOVEMENT
# Purpose:   Two ideas people ask for, as their rules say, with what to expect of them.
# Position:  Uses §01, §03, §09a-d. Shipped off; chosen by name.
# Principle: A rule told for YES holds for NO in a mirror; one entry, counted, then hands off.
# ======================================================================================

TAKE_BEFORE_STOP_S: Final = 30.0


def acted(want: Want, value: str, limit: str, fair_cc: int, memory: Memory) -> Decision:
    """A decision with one want."""
    return Decision(
        wants=(want,),
        reason=Reason.ACTED,
        value=value,
        limit=limit,
        fair_cc=fair_cc,
        memory=memory,
    )


class MeanReversion:
    """Buys the leg that fell without volume, once per fall, and leaves as maker (§6.5)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Params:
        """Signal and exit."""

        size_h: int = size_param()
        drop_cc: int = param(1_000, 1, 9_900, "cc", "least fall below the 10-minute high")
        target_cc: int = param(500, 1, 9_900, "cc", "gain at which it offers to leave")
        timeout_s: float = param(900.0, 1.0, 86_400.0, "s", "then it offers at the ask")
        warm_up_s: float = param(60.0, 0.0, 3_600.0, "s", "least time followed")
        volume_ratio: float = param(2.0, 0.0, 100.0, "ratio", "most last-minute volume to mean")
        min_mid_cc: int = param(1_500, 1, 5_000, "cc", "no entry below this and above 1 - this")
        max_spread_cc: int = param(400, 1, 10_000, "cc", "widest spread")
        collar_cc: int = param(500, 1, 5_000, "cc", "furthest above the mid it takes to leave")

    name = "mean_reversion"
    slots = frozenset({"yes", "no", "exit"})
    expectation = "Live events trend, they do not revert; one 40 ¢ loss cancels eight wins."

    def __init__(self, params: Params) -> None:
        self.p = params

    def decide(self, view: MarketView) -> Decision:
        """Leave what is held; else wait for a fall, enter once, and wait for a new high."""
        if view.position_h:
            return self._leave(view)
        side = self._fallen(view)
        over = view.memory.get("entered")
        memory = view.memory
        if over in ("yes", "no") and self._fall_cc(view, Side(over)) <= 0:
            memory = EMPTY
        return self._gates(view, side, memory) or self._enter(view, side, memory)

    def _fall_cc(self, view: MarketView, side: Side) -> int:
        """How far `side` is below its highest mid of ten minutes; 0 when that is unknown."""
        high_cc, low_cc = view.high_cc_10min, view.low_cc_10min
        if high_cc is None or low_cc is None:
            return 0
        rise2_cc = 2 * high_cc - view.mid2_cc if side is Side.YES else view.mid2_cc - 2 * low_cc
        return floor_div(rise2_cc, 2)

    def _fallen(self, view: MarketView) -> Side | None:
        falls = {side: self._fall_cc(view, side) for side in Side}
        if falls[Side.YES] == falls[Side.NO]:
            return None
        return max(falls, key=lambda side: falls[side])

    def _gates(self, view: MarketView, side: Side | None, memory: Memory) -> Decision | None:
        p, mid_cc = self.p, view.mid2_cc // 2
        refuse = partial(no_wants, memory=memory)
        if not may_open(view):
            return near_close(view, memory)
        if view.high_cc_10min is None or view.followed_s < p.warm_up_s:
            value, limit = f"followed {view.followed_s:.0f} s", f">= {p.warm_up_s:g} s"
            return refuse(Reason.WARMING_UP, value, limit)
        if not 2 * p.min_mid_cc <= view.mid2_cc <= 2 * (CC_PER_DOLLAR - p.min_mid_cc):
            limit = f"{p.min_mid_cc} … {CC_PER_DOLLAR - p.min_mid_cc} cc"
            return refuse(Reason.PRICE_OUT_OF_RANGE, show_cc(mid_cc, "mid"), limit)
        if view.spread_cc > p.max_spread_cc:
            value, limit = show_cc(view.spread_cc, "spread"), f"<= {p.max_spread_cc} cc"
            return refuse(Reason.SPREAD_TOO_WIDE, value, limit)
        fall_cc = self._fall_cc(view, side) if side else 0
        if fall_cc < p.drop_cc:
            return refuse(Reason.NO_SIGNAL, show_cc(fall_cc, "fall"), f">= {p.drop_cc} cc")
        mean_h = view.volume_10min_h / min(10.0, max(1.0, view.followed_s / 60))
        if view.volume_1min_h > p.volume_ratio * mean_h:
            value, limit = f"volume {view.volume_1min_h} h", f"<= {p.volume_ratio * mean_h:.0f} h"
            return refuse(Reason.NO_SIGNAL, value, limit)
        return None

    def _enter(self, view: MarketView, side: Side | None, memory: Memory) -> Decision:
        assert side is not None, "a fall was seen but on no side"
        p, price_cc = self.p, view.best_bid_cc(side)
        count_h = steady_count_h(live_order(view, str(side), side), price_cc, p.size_h)
        want = Want(slot=str(side), side=side, price_cc=price_cc, count_h=count_h)
        mid2_cc = view.mid2_cc if side is Side.YES else 2 * CC_PER_DOLLAR - view.mid2_cc
        target_cc = min(CC_PER_DOLLAR - 1, mid2_cc // 2 + p.target_cc)
        exit_cc = price_at_most(view.grid, side, target_cc) or price_cc
        fair_cc = side.to_yes_cc(target_cc)
        margin_cc = fee_cc(view.fees, exit_cc, count_h, take=False)
        value = show_cc(edge_cc(view, want, fair_cc=fair_cc, margin_cc=margin_cc), "edge")
        if edge_cc(view, want, fair_cc=fair_cc, margin_cc=margin_cc) < 0:
            return no_wants(
                Reason.EDGE_BELOW_COST, value, ">= 0 cc", fair_cc=fair_cc, memory=memory
            )
        if "entered" in memory:
            return no_wants(
                Reason.COOLDOWN,
                "entered in this fall",
                "a new high",
                fair_cc=fair_cc,
                memory=memory,
            )
        return acted(want, value, ">= 0 cc", fair_cc, memory)

    def _leave(self, view: MarketView) -> Decision:
        p, held = self.p, Side.YES if view.position_h > 0 else Side.NO
        memory: Memory = {"entered": str(held)}
        if view.left_s <= stop_s(view) + TAKE_BEFORE_STOP_S:
            taking = leave_by_taking(view, collar_cc=p.collar_cc, memory=memory)
            if taking is not None:
                return taking
        held_s = (view.now_ms - (view.opened_at_ms or view.now_ms)) / 1000
        offer_cc = view.best_ask_cc(held)
        if view.average_cc is not None and held_s < p.timeout_s:
            offer_cc = max(offer_cc, view.average_cc + p.target_cc)
        valid_cc = price_at_least(view.grid, held, offer_cc)
        if valid_cc is None:
            valid_cc = price_at_most(view.grid, held, CC_PER_DOLLAR - 1)
        assert valid_cc is not None, "a grid without any price"
        price_cc, count_h = CC_PER_DOLLAR - valid_cc, abs(view.position_h)
        want = Want(slot="exit", side=held.other, price_cc=price_cc, count_h=count_h)
        return acted(want, f"held {held_s:.0f} s", "", micro_fair_cc(view), memory)


class ReverseLineMovement:
    """Bets against a crowd whose price falls all the same (STRATEGIES §6.6)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Params:
        """The published rule."""

        size_h: int = size_param()
        min_prints: int = param(25, 1, 100_000, "prints", "since following began")
        crowd: float = param(0.7, 0.5, 1.0, "ratio", "least share of prints on one side")
        fall_cc: int = param(500, 1, 9_900, "cc", "least fall of the crowd's price")
        min_ask_cc: int = param(3_500, 1, 9_900, "cc", "least ask of the leg it buys")
        max_spread_cc: int = param(300, 1, 10_000, "cc", "widest spread")
        min_left_s: float = param(1_800.0, 0.0, 1e8, "s", "least time to the close")
        max_left_s: float = param(2_592_000.0, 0.0, 1e9, "s", "most time to the close")
        claim_cc: int = param(250, 0, 5_000, "cc", "edge the study claims: 5 % of 50 ¢")

    name = "reverse_line_movement"
    slots = frozenset({"yes", "no"})
    expectation = (
        "A published study of this rule claimed +17 % in sample, +5 % once look-ahead was "
        "removed, and its live use lost money; larger signals did worse."
    )

    def __init__(self, params: Params) -> None:
        self.p = params

    def decide(self, view: MarketView) -> Decision:
        """One bid a tick over the best, once per market; then hold to settlement."""
        memory = {"entered": True} if view.position_h or "entered" in view.memory else EMPTY
        if view.left_s < self.p.min_left_s or not may_open(view):
            return near_close(view, memory)
        crowd = self._crowd(view)
        refusal = self._gates(view, crowd, memory)
        if refusal is not None or crowd is None:
            return refusal or self._no_crowd(view, memory)
        return self._enter(view, crowd.other, memory)

    def _crowd(self, view: MarketView) -> Side | None:
        no_prints, least = view.prints_seen - view.yes_prints_seen, self.p.crowd * view.prints_seen
        if view.yes_prints_seen >= least and view.yes_prints_seen > no_prints:
            return Side.YES
        return Side.NO if no_prints >= least and no_prints > view.yes_prints_seen else None

    def _no_crowd(self, view: MarketView, memory: Memory) -> Decision:
        value = f"YES takers {view.yes_prints_seen} of {view.prints_seen}"
        return no_wants(Reason.NO_SIGNAL, value, f">= {self.p.crowd:g} one way", memory=memory)

    def _gates(self, view: MarketView, crowd: Side | None, memory: Memory) -> Decision | None:
        p = self.p
        refuse = partial(no_wants, memory=memory)
        if view.prints_seen < p.min_prints or not view.prints or view.first_print_cc is None:
            return refuse(Reason.WARMING_UP, f"{view.prints_seen} prints", f">= {p.min_prints}")
        if crowd is None:
            return self._no_crowd(view, memory)
        ask_cc = view.best_ask_cc(crowd.other)
        if ask_cc < p.min_ask_cc:
            value = show_cc(ask_cc, "ask")
            return refuse(Reason.PRICE_OUT_OF_RANGE, value, f">= {p.min_ask_cc} cc")
        if view.spread_cc > p.max_spread_cc:
            value, limit = show_cc(view.spread_cc, "spread"), f"<= {p.max_spread_cc} cc"
            return refuse(Reason.SPREAD_TOO_WIDE, value, limit)
        change_cc = view.prints[-1].price_cc - view.first_print_cc
        fall_cc = -change_cc if crowd is Side.YES else change_cc
        if fall_cc < p.fall_cc or view.left_s > p.max_left_s:
            value = f"fall {fall_cc} cc, {view.left_s:.0f} s left"
            return refuse(Reason.NO_SIGNAL, value, f">= {p.fall_cc} cc, <= {p.max_left_s:.0f} s")
        return None

    def _enter(self, view: MarketView, side: Side, memory: Memory) -> Decision:
        p, best_cc = self.p, view.best_bid_cc(side)
        price_cc = price_at_least(view.grid, side, best_cc + 1) or best_cc
        if price_cc >= view.best_ask_cc(side):
            price_cc = best_cc
        left_h = p.size_h - abs(view.position_h)
        mid2_cc = view.mid2_cc if side is Side.YES else 2 * CC_PER_DOLLAR - view.mid2_cc
        fair_cc = side.to_yes_cc(min(CC_PER_DOLLAR, mid2_cc // 2 + p.claim_cc))
        probe = Want(slot=str(side), side=side, price_cc=price_cc, count_h=p.size_h)
        gained_cc = edge_cc(view, probe, fair_cc=fair_cc)
        value = show_cc(gained_cc, "edge")
        if gained_cc < 0:
            return no_wants(
                Reason.EDGE_BELOW_COST, value, ">= 0 cc", fair_cc=fair_cc, memory=memory
            )
        is_foreign_leg = view.held_h(side) < 0
        if left_h <= 0 or is_foreign_leg or ("entered" in memory and not view.position_h):
            return no_wants(
                Reason.ALREADY_IN, f"position {view.position_h}", "once per market", memory=memory
            )
        return acted(replace(probe, count_h=left_h), value, ">= 0 cc", fair_cc, memory)


# ======================================================================================
# §09g WHALE, LONGSHOT
# Purpose:   A study of large prints that trades nothing, and the sale of small hopes.
# Position:  Uses §01, §03, §09a-d. Shipped off; chosen by name.
# Principle: Believe a table or a study only where it has an entry, and say so where it has none.
# ======================================================================================

STUDY_DELAY_MS: Final = 2_000
STUDY_MARKS_MS: Final = (30_000, 300_000)


class Whale:
    """Studies what following or fading a whale would have paid; trades nothing (§6.7).

    `memory["open"]` holds studies under way, `memory["rows"]` the newest finished ones. A study:
    at_ms, side, cc and h of the print; follow_cc and fade_cc, what each side cost at `delay_ms`;
    mid2_30s_cc and mid2_300s_cc, bid + ask at the marks. Settlement is added by the report.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Params:
        """None: the definition of a whale is that of the measurements."""

    name = "whale"
    slots = frozenset[str]()
    expectation = "Following is late by construction; the study exists so nobody has to believe it."

    def __init__(self, params: Params) -> None:
        self.p = params

    def decide(self, view: MarketView) -> Decision:
        """Carry the studies on; want nothing."""
        last_ms, before = view.memory.get("last_ms"), view.memory.get("rows")
        newest_ms = last_ms if isinstance(last_ms, int) else 0
        going = _open_studies(view.memory.get("open"))
        for whale in view.whales:
            if whale.at_ms > newest_ms:
                newest_ms = whale.at_ms
                going.append(_new_study(whale))
        for study in going:
            _carry_on(study, view)
        done = [one for one in going if "mid2_300s_cc" in one]
        going = [one for one in going if "mid2_300s_cc" not in one][-STUDIES_MAX:]
        rows = [*(before if isinstance(before, list) else []), *done][-STUDY_ROWS_MAX:]
        memory: dict[str, JsonValue] = {"last_ms": newest_ms, "open": [*going], "rows": rows}
        return no_wants(
            Reason.NO_SIGNAL,
            f"{len(going)} studies open, {len(rows)} finished",
            "a study never trades",
            features=_study_features(done),
            memory=memory,
        )


def _open_studies(stored: JsonValue) -> list[dict[str, JsonValue]]:
    """Copies of the studies under way; the view's memory itself is never changed."""
    if not isinstance(stored, list):
        return []
    return [dict(study) for study in stored if isinstance(study, dict)]


def _new_study(whale: Print) -> dict[str, JsonValue]:
    side, cost_cc = str(whale.taker_side), whale.taker_side.to_yes_cc(whale.price_cc)
    return {"at_ms": whale.at_ms, "side": side, "cc": cost_cc, "h": whale.count_h}


def _carry_on(study: dict[str, JsonValue], view: MarketView) -> None:
    """Fill in what has come due; each mark is taken at the first look after its moment."""
    at_ms = study.get("at_ms")
    age_ms = view.now_ms - at_ms if isinstance(at_ms, int) else sys.maxsize
    side = Side.YES if study.get("side") == "yes" else Side.NO
    if age_ms >= STUDY_DELAY_MS and "follow_cc" not in study:
        study["follow_cc"] = view.best_ask_cc(side)
        study["fade_cc"] = view.best_ask_cc(side.other)
        study["delay_ms"] = age_ms
    for mark_ms in STUDY_MARKS_MS:
        name = f"mid2_{mark_ms // 1000}s_cc"
        if age_ms >= mark_ms and name not in study:
            study[name] = view.mid2_cc


def _study_features(done: list[dict[str, JsonValue]]) -> tuple[tuple[str, float], ...]:
    """What following and fading the newest finished whale would show at each mark, in cc."""
    features: list[tuple[str, float]] = []
    for study in done[-1:]:
        follow_cc, fade_cc = study.get("follow_cc"), study.get("fade_cc")
        for mark_ms in STUDY_MARKS_MS:
            mid2_cc = study.get(f"mid2_{mark_ms // 1000}s_cc")
            if isinstance(mid2_cc, int) and isinstance(follow_cc, int) and isinstance(fade_cc, int):
                own2_cc = mid2_cc if study["side"] == "yes" else 2 * CC_PER_DOLLAR - mid2_cc
                seconds = mark_ms // 1000
                features.append((f"follow_{seconds}s_cc", own2_cc / 2 - follow_cc))
                features.append((f"fade_{seconds}s_cc", CC_PER_DOLLAR - own2_cc / 2 - fade_cc))
    return tuple(features)


class Longshot:
    """Sells small hopes: rests for the leg opposite a cheap one, and holds to settlement (§6.8)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Params:
        """The table of how often a price wins, and how much may hang on it."""

        size_h: int = size_param()
        max_cc: int = param(1_500, 1, 5_000, "cc", "dearest hope it sells")
        min_edge_cc: int = param(200, 0, 5_000, "cc", "least edge after fee")
        event_ppm: int = param(10_000, 0, 1_000_000, "ppm of equity", "most at risk in one event")
        day_ppm: int = param(
            50_000, 0, 1_000_000, "ppm of equity", "most at risk on one settlement day"
        )
        win_ratio: tuple[tuple[int, float], ...] = field(
            default=((500, 0.0418),),
            metadata={"unit": "price_cc:ratio,…", "what": "how often a contract of a price wins"},
        )

    name = "longshot"
    slots = frozenset({"yes", "no"})
    expectation = "Small steady gains and rare full losses: one loss at 95 ¢ cancels 19 wins."
    excluded: ClassVar[tuple[str, ...]] = ("financ", "crypto")

    def __init__(self, params: Params) -> None:
        self.p = params
        self.win_ratio = dict(params.win_ratio)

    def decide(self, view: MarketView) -> Decision:
        """Join the best bid opposite a longshot if the table says that it pays."""
        if not may_open(view):
            return near_close(view)
        hope = Side.YES if view.ask_cc <= CC_PER_DOLLAR - view.bid_cc else Side.NO
        hope_cc = view.best_ask_cc(hope)
        if hope_cc > self.p.max_cc:
            value = show_cc(hope_cc, "cheapest ask")
            return no_wants(Reason.PRICE_OUT_OF_RANGE, value, f"<= {self.p.max_cc} cc")
        ratio = self.win_ratio.get(hope_cc)
        refusal = self._no_signal(view, hope_cc, ratio)
        if refusal is not None or ratio is None:
            return refusal or no_wants(Reason.NO_SIGNAL)
        return self._enter(view, hope, ratio)

    def _no_signal(self, view: MarketView, hope_cc: int, ratio: float | None) -> Decision | None:
        category = view.category.lower()
        if not category or any(word in category for word in self.excluded):
            value = f"category {view.category or 'unknown'}"
            return no_wants(Reason.NO_SIGNAL, value, "neither finance nor crypto")
        if view.volume_24h_h <= 0 and not view.prints_seen:
            return no_wants(Reason.NO_SIGNAL, "not traded for a day", "traded within a day")
        if ratio is None:
            return no_wants(Reason.NO_SIGNAL, show_cc(hope_cc, "ask"), "an entry in win_ratio")
        return None

    def _enter(self, view: MarketView, hope: Side, ratio: float) -> Decision:
        p, side = self.p, hope.other
        price_cc, held_h = view.best_bid_cc(side), view.held_h(side)
        fair_cc = hope.to_yes_cc(math.ceil(ratio * CC_PER_DOLLAR - 1e-9))
        probe = Want(slot=str(side), side=side, price_cc=price_cc, count_h=p.size_h)
        gained_cc = edge_cc(view, probe, fair_cc=fair_cc)
        refuse = partial(no_wants, fair_cc=fair_cc)
        if gained_cc < p.min_edge_cc:
            value, limit = show_cc(gained_cc, "edge"), f">= {p.min_edge_cc} cc"
            return refuse(Reason.EDGE_BELOW_COST, value, limit)
        count_h = p.size_h - held_h
        if count_h <= 0:
            return refuse(Reason.ALREADY_IN, f"position {view.position_h}", f"{p.size_h} h")
        resting_ud = sum(order.price_cc * order.count_h for order in view.orders)
        added_ud = price_cc * count_h - resting_ud  # what rests is in the risk already
        for reason, risk_ud, ppm in (
            (Reason.LIMIT_EVENT, view.event_risk_ud, p.event_ppm),
            (Reason.LIMIT_EXPOSURE, view.day_risk_ud, p.day_ppm),
        ):
            limit_ud = view.equity_ud * ppm // 1_000_000
            if risk_ud + added_ud > limit_ud:
                value = f"{show_dollars(risk_ud + added_ud)} dollars"
                return refuse(reason, value, f"<= {show_dollars(limit_ud)} dollars")
        want = replace(probe, count_h=min(count_h, p.size_h))
        return acted(want, show_cc(gained_cc, "edge"), f">= {p.min_edge_cc} cc", fair_cc, EMPTY)


# ======================================================================================
# §09h RL POLICY AND LOADING
# Purpose:   Run a small trained policy; know every strategy by name; take in a user's class.
# Position:  Uses §01, §03, §09a-g. §24 reads files and calls `make_strategy`.
# Principle: A policy is data, read with suspicion; a strategy is made, or refused in a sentence.
# ======================================================================================

POLICY_FORMAT: Final = 1
POLICY_FEATURES: Final = (
    "constant",
    "price",
    "spread",
    "imbalance",
    "micro_drift",
    "momentum",
    "volatility",
    "inventory",
    "time",
)
POLICY_ACTIONS: Final = ("hold", "quote", "quote_wide", "bid_yes", "bid_no")
POLICY_RANGE_SLACK: Final = 0.2  # share of the trained range a feature may lie outside it
POLICY_TIME_S: Final = 900.0
NUMBER_MAX: Final = 1e6
_POLICY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A linear score per action over the features of STRATEGIES §7.

    `exchange_sha256` names the exchange it was trained against, `sha256` the file itself, and
    `held_out` holds the figures of its test on unseen episodes.
    """

    name: str
    weights: tuple[tuple[float, ...], ...]
    feature_min: tuple[float, ...]
    feature_max: tuple[float, ...]
    exchange_sha256: str
    held_out: tuple[tuple[str, float], ...]
    sha256: str


def parse_policy(data: bytes) -> Policy:
    """Read a policy file. Raises ConfigError, one sentence, for anything else."""
    if len(data) > POLICY_MAX_BYTES:
        raise ConfigError(f"policy: more than {POLICY_MAX_BYTES} bytes; a policy is far smaller")
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"policy: not JSON: {exc!s:.80}") from exc
    if not isinstance(found, dict):
        raise ConfigError("policy: not a JSON object")
    _policy_expect(
        found.get("format") is not True and found.get("format") == POLICY_FORMAT,
        f"format {found.get('format')!r:.40}, expected {POLICY_FORMAT}",
    )
    for key, names in (("features", POLICY_FEATURES), ("actions", POLICY_ACTIONS)):
        _policy_expect(found.get(key) == list(names), f"{key} must be exactly {', '.join(names)}")
    name, weights = found.get("name"), found.get("weights")
    _policy_expect(isinstance(name, str) and _POLICY_NAME.fullmatch(name), "name is missing or odd")
    _policy_expect(
        isinstance(weights, list) and len(weights) == len(POLICY_ACTIONS),
        f"weights must be {len(POLICY_ACTIONS)} rows of {len(POLICY_FEATURES)} numbers",
    )
    low, high = (_policy_row(key, found.get(key)) for key in ("feature_min", "feature_max"))
    _policy_expect(
        all(a <= b for a, b in zip(low, high, strict=True)),
        "a feature_min is above its feature_max",
    )
    return Policy(
        name=str(name),
        weights=tuple(_policy_row(f"weights[{at}]", row) for at, row in enumerate(weights or ())),
        feature_min=low,
        feature_max=high,
        exchange_sha256=_policy_training(found.get("trained")),
        held_out=_policy_held_out(found.get("held_out")),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _policy_expect(is_right: object, fault: str) -> None:
    if not is_right:
        raise ConfigError(f"policy: {fault}")


def _policy_number(where: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # The comparison is false for NaN and true for no infinity, so it is the whole check.
    _policy_expect(
        is_number and -NUMBER_MAX <= cast(float, value) <= NUMBER_MAX,
        f"{where} holds {value!r:.40}, not a number within ± {NUMBER_MAX:.0f}",
    )
    return float(cast(float, value))


def _policy_row(where: str, row: object) -> tuple[float, ...]:
    _policy_expect(
        isinstance(row, list) and len(row) == len(POLICY_FEATURES),
        f"{where} must hold {len(POLICY_FEATURES)} numbers",
    )
    return tuple(_policy_number(where, value) for value in cast(list[object], row))


def _policy_training(trained: object) -> str:
    _policy_expect(isinstance(trained, dict), "trained is missing")
    facts = cast(dict[str, object], trained)
    for key in ("seed", "generations", "episodes"):
        _policy_expect(type(facts.get(key)) is int, f"trained.{key} must be a whole number")
    digest = facts.get("exchange_sha256")
    _policy_expect(
        isinstance(digest, str) and _SHA256.fullmatch(digest),
        "trained.exchange_sha256 must be 64 hex digits",
    )
    return str(digest)


def _policy_held_out(held_out: object) -> tuple[tuple[str, float], ...]:
    _policy_expect(isinstance(held_out, dict), "held_out is missing")
    facts = cast(dict[str, object], held_out)
    _policy_expect("episodes" in facts and len(facts) <= FEATURES_MAX, "held_out has no episodes")
    return tuple((key, _policy_number(f"held_out.{key}", facts[key])) for key in sorted(facts))


def observe(view: MarketView, *, size_h: int, max_lots: int) -> tuple[float, ...] | None:
    """The nine features, each within -1 … 1; None while sigma or the older mid is unknown."""
    if view.sigma is None or view.mid2_10s_cc is None:
        return None
    mid_cc = view.mid2_cc / 2
    span_s = min(view.lifetime_s, POLICY_TIME_S)
    raw = (
        1.0,
        (mid_cc - EVEN_CC) / EVEN_CC,
        view.spread_cc / 1_000,
        imbalance_of(view.yes, view.no),
        (microprice_cc(view) - mid_cc) / 200,
        (view.mid2_cc - view.mid2_10s_cc) / 2 / 500,
        view.sigma / 2,
        view.position_h / (max_lots * size_h),
        max(0.0, 1.0 - view.left_s / span_s) if span_s > 0 else 1.0,
    )
    return tuple(max(-1.0, min(1.0, value)) for value in raw)


class RlPolicy:
    """Chooses one of five actions by a linear score of nine features (STRATEGIES §7)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Params:
        """Size and bound; everything else is in the policy file."""

        size_h: int = size_param()
        max_lots: int = param(2, 1, 2, "lots", "largest position, either way")

    name = "rl"
    slots = frozenset({"yes", "no"})
    is_experimental = True
    expectation = "Experimental: it trades the world it was trained in, and that is not Kalshi."

    def __init__(self, params: Params, policy: Policy | None = None) -> None:
        self.p, self.policy = params, policy
        self.maker = MakerParams(size_h=params.size_h, max_lots=params.max_lots)

    def decide(self, view: MarketView) -> Decision:
        """Score the actions and do the best; ties go to the lower index."""
        policy = self.policy
        if policy is None:
            return no_wants(Reason.POLICY_MISSING, "no policy", "--policy FILE")
        features = observe(view, size_h=self.p.size_h, max_lots=self.p.max_lots)
        if features is None:
            value, limit = f"followed {view.followed_s:.0f} s", f">= {SIGMA_SAMPLES_MIN} s"
            return no_wants(Reason.WARMING_UP, value, limit)
        named = tuple(zip(POLICY_FEATURES, features, strict=True))
        strange = _out_of_range(policy, features)
        if strange is not None:
            return no_wants(Reason.OUT_OF_DISTRIBUTION, *strange, features=named)
        scores = [sum(map(float.__mul__, row, features)) for row in policy.weights]
        return self._act(view, scores.index(max(scores)), named)

    def _act(
        self, view: MarketView, action: int, features: tuple[tuple[str, float], ...]
    ) -> Decision:
        word = POLICY_ACTIONS[action]
        value = f"action {word}"
        if word == "hold":
            return no_wants(Reason.HOLD, value, features=features)
        if word in ("quote", "quote_wide"):
            widen = 2 if word == "quote_wide" else 1
            return self._quote(view, widen, value, features)
        return self._bid(view, Side.YES if word == "bid_yes" else Side.NO, value, features)

    def _quote(
        self, view: MarketView, widen: int, value: str, features: tuple[tuple[str, float], ...]
    ) -> Decision:
        assert view.sigma is not None, "features were made without sigma"
        fair_cc = micro_fair_cc(view)
        quotes = make_quotes(
            view,
            self.maker,
            fair_cc=fair_cc,
            sigma=view.sigma,
            least_half_cc=tick_cc(view.grid, fair_cc),
            widen=widen,
        )
        decision = quote_decision(view, quotes, self.maker, view.memory)
        if decision.wants:
            value = f"{value}, {decision.value}"
            return replace(decision, value=value, features=features)
        return replace(decision, features=features)

    def _bid(
        self, view: MarketView, side: Side, value: str, features: tuple[tuple[str, float], ...]
    ) -> Decision:
        p, held_h, price_cc = self.p, view.held_h(side), view.best_bid_cc(side)
        fair_cc = micro_fair_cc(view)
        refuse = partial(no_wants, fair_cc=fair_cc, features=features)
        if held_h >= 0 and not may_open(view):
            return replace(near_close(view), features=features)
        room_h = p.max_lots * p.size_h - held_h if may_open(view) else -held_h
        count_h = min(p.size_h, room_h)
        if count_h <= 0:
            limit = f"{p.max_lots} lots"
            return refuse(Reason.INVENTORY_FULL, f"position {view.position_h}", limit)
        count_h = steady_count_h(live_order(view, str(side), side), price_cc, count_h)
        want = Want(slot=str(side), side=side, price_cc=price_cc, count_h=count_h)
        gained_cc = edge_cc(view, want, fair_cc=fair_cc)
        if held_h >= 0 and gained_cc < 0:
            return refuse(Reason.EDGE_BELOW_COST, show_cc(gained_cc, "edge"), ">= 0 cc")
        return replace(acted(want, value, "", fair_cc, EMPTY), features=features)


def _out_of_range(policy: Policy, features: tuple[float, ...]) -> tuple[str, str] | None:
    """The first feature more than POLICY_RANGE_SLACK outside its trained range, and that range."""
    for name, value, low, high in zip(
        POLICY_FEATURES, features, policy.feature_min, policy.feature_max, strict=True
    ):
        slack = POLICY_RANGE_SLACK * (high - low)
        if not low - slack <= value <= high + slack:
            return f"{name} {value:.3g}", f"{low - slack:.3g} … {high + slack:.3g}"
    return None


STRATEGIES: Final[dict[str, type[Strategy]]] = {
    strategy.name: strategy
    for strategy in cast(
        tuple[type[Strategy], ...],
        (
            Hold,
            RandomControl,
            Imbalance,
            MarketMaker,
            MeanReversion,
            ReverseLineMovement,
            Whale,
            Longshot,
            RlPolicy,
        ),
    )
}


def make_strategy(
    cls: type[Strategy], overrides: Mapping[str, JsonValue], policy: Policy | None = None
) -> Strategy:
    """Build one strategy with its parameters. Raises ConfigError for any fault of theirs."""
    params = make_params(cls.Params, overrides, owner=cls.name)
    if cls is cast(type[Strategy], RlPolicy):
        return cast(Strategy, RlPolicy(params, policy))
    try:
        made = cls(params)
    except Exception as exc:  # a user's own code may raise anything
        raise ConfigError(f"strategy {cls.name} cannot be made: {exc!r:.120}") from exc
    return made


def check_strategy_class(cls: object, *, where: str) -> type[Strategy]:
    """A user's class, if it satisfies the protocol; ConfigError in one sentence if not."""
    if not isinstance(cls, type):
        raise ConfigError(f"{where} is not a class")
    name, params = getattr(cls, "name", None), getattr(cls, "Params", None)
    if not isinstance(name, str) or not _STRATEGY_NAME.fullmatch(name):
        raise ConfigError(f"{where}: name must be a text of [a-z_], at most 32 long")
    if name in STRATEGIES:
        raise ConfigError(f"{where}: the name {name} belongs to a shipped strategy; choose another")
    if not isinstance(params, type) or not dataclasses.is_dataclass(params):
        raise ConfigError(f"{where}: Params must be a frozen dataclass of numbers")
    if not params.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"{where}: Params must be frozen: @dataclass(frozen=True)")
    if not callable(getattr(cls, "decide", None)):
        raise ConfigError(f"{where}: it has no decide(self, view)")
    return cast(type[Strategy], cls)


def slots_of(strategy: Strategy) -> frozenset[str] | None:
    """The slot names a strategy has declared; None: any well-formed name."""
    declared = getattr(strategy, "slots", None)
    return None if declared is None else frozenset(declared)


# ======================================================================================
# §10 STATE MACHINE
# Purpose:   The table of legal states, and the one object that walks it.
# Position:  Uses §01. Fired by §23 alone; told to everyone as StateChanged.
# Principle: What is not in the table is refused and counted; every state but two has a time limit.
# ======================================================================================


class TraderState(StrEnum):
    """States of DESIGN §4."""

    STARTUP = "startup"
    INITIALIZING = "initializing"
    ORDERBOOK_CONNECT = "orderbook_connect"
    TRADING_CLIENT_CONNECT = "trading_client_connect"
    KALSHI_DATA_SYNC = "kalshi_data_sync"
    READY = "ready"
    ACTING = "acting"
    ERROR = "error"
    SHUTDOWN = "shutdown"


class Signal(StrEnum):
    """What moves the machine."""

    BEGIN = "begin"
    INITIALIZED = "initialized"
    BOOKS_READY = "books_ready"
    WATCH_ONLY = "watch_only"
    CLIENT_READY = "client_ready"
    CLIENT_LATE = "client_late"
    SYNCED = "synced"
    ORDERS_SENT = "orders_sent"
    ORDERS_DONE = "orders_done"
    FAILED = "failed"
    RECOVER = "recover"
    RESTART = "restart"
    STOP = "stop"


_FROM_ANY: Final = {Signal.FAILED: TraderState.ERROR, Signal.STOP: TraderState.SHUTDOWN}
TRANSITIONS: Final[dict[TraderState, dict[Signal, TraderState]]] = {
    TraderState.STARTUP: {Signal.BEGIN: TraderState.INITIALIZING, **_FROM_ANY},
    TraderState.INITIALIZING: {Signal.INITIALIZED: TraderState.ORDERBOOK_CONNECT, **_FROM_ANY},
    TraderState.ORDERBOOK_CONNECT: {
        Signal.BOOKS_READY: TraderState.TRADING_CLIENT_CONNECT,
        Signal.WATCH_ONLY: TraderState.READY,
        **_FROM_ANY,
    },
    TraderState.TRADING_CLIENT_CONNECT: {
        Signal.CLIENT_READY: TraderState.KALSHI_DATA_SYNC,
        Signal.CLIENT_LATE: TraderState.READY,
        **_FROM_ANY,
    },
    TraderState.KALSHI_DATA_SYNC: {
        Signal.SYNCED: TraderState.READY,
        Signal.CLIENT_LATE: TraderState.READY,
        **_FROM_ANY,
    },
    TraderState.READY: {Signal.ORDERS_SENT: TraderState.ACTING, **_FROM_ANY},
    TraderState.ACTING: {Signal.ORDERS_DONE: TraderState.READY, **_FROM_ANY},
    TraderState.ERROR: {
        Signal.RECOVER: TraderState.ORDERBOOK_CONNECT,
        Signal.RESTART: TraderState.INITIALIZING,
        Signal.STOP: TraderState.SHUTDOWN,
    },
    TraderState.SHUTDOWN: {},  # terminal
}
assert set(TRANSITIONS) == set(TraderState), "every state needs its row"

STATE_LIMITS_S: Final[dict[TraderState, float | None]] = {
    TraderState.STARTUP: 30.0,
    TraderState.INITIALIZING: 60.0,
    TraderState.ORDERBOOK_CONNECT: 120.0,
    TraderState.TRADING_CLIENT_CONNECT: 60.0,
    TraderState.KALSHI_DATA_SYNC: 60.0,
    TraderState.READY: None,
    TraderState.ACTING: 60.0,  # of the oldest command in flight
    TraderState.ERROR: None,
    TraderState.SHUTDOWN: 30.0,
}
assert set(STATE_LIMITS_S) == set(TraderState), "every state needs its limit"
TRADING_STATES: Final = frozenset({TraderState.READY, TraderState.ACTING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step taken, with its reason; `at_ms` is Unix milliseconds."""

    from_state: TraderState
    to_state: TraderState
    signal: Signal
    why: str
    at_ms: int
    metadata: Mapping[str, JsonValue]


class StateMachine:
    """Walks the table. One owner: Coordinator (§23). Pure: time is handed in."""

    def __init__(self, *, now_s: float) -> None:
        self.state = TraderState.STARTUP
        self.since_s = now_s
        self.history: deque[Transition] = deque(maxlen=TRANSITIONS_MAX)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.refused = 0
        self.errors = 0
        self.last_error: str | None = None
        self.has_been_ready = False

    def fire(
        self,
        signal: Signal,
        *,
        why: str,
        now_s: float,
        at_ms: int,
        metadata: Mapping[str, JsonValue] = MappingProxyType({}),
    ) -> Transition | None:
        """Take the step for `signal`; None (counted) when the table has no such step."""
        target = TRANSITIONS[self.state].get(signal)
        if target is None:
            self.refused += 1
            return None
        step = Transition(
            from_state=self.state,
            to_state=target,
            signal=signal,
            why=why,
            at_ms=at_ms,
            metadata=metadata,
        )
        self.state, self.since_s = target, now_s
        self.counts[step.from_state.value, step.to_state.value] += 1
        self.has_been_ready = self.has_been_ready or target is TraderState.READY
        if target is TraderState.ERROR:
            self.errors += 1
            self.last_error = why
        if {step.from_state, target} != TRADING_STATES:
            self.history.append(step)
        return step


# ======================================================================================
# §11 ASYNC KIT
# Purpose:   Time, owned tasks, backoff, rate buckets and quiet logs.
# Position:  Uses §01, §02. Used by every room below; §23 makes the one Clock and Supervisor.
# Principle: Time, chance and new ids enter here and nowhere else; tasks are born here only.
# ======================================================================================

log_kit = logging.getLogger("trader.kit")

CPU_PATIENCE: Final = 2  # a strategy that waits instead of working is interrupted this much later


class Clock:
    """The only source of time, chance and ids; one per process, made by §23.

    `rate` > 1 makes a virtual second shorter than a real one (tapes); `epoch_s` sets the wall time
    at which it starts, `is_adjustable` lets a person change the pace. `offset_s` corrects our wall
    clock toward the exchange's.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        epoch_s: float | None = None,
        rate: float = 1.0,
        is_adjustable: bool = False,
        rng: random.Random | None = None,
        token_hex: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self._real_monotonic = monotonic
        # Unscaled seconds, for what people and sockets wait for; read for every frame, hence bare.
        self.real_s: Callable[[], float] = monotonic
        self._start_s, self._base_s = monotonic(), 0.0
        self._epoch_s = epoch_s
        self._is_adjustable = is_adjustable
        self.rate = rate
        self.offset_s = 0.0
        self.rng = rng or random.Random(secrets.randbits(64))
        self.token_hex = token_hex

    def monotonic(self) -> float:
        """Seconds for intervals; steps of the wall clock do not touch it."""
        return self._base_s + (self._real_monotonic() - self._start_s) * self.rate

    def set_rate(self, rate: float) -> None:
        """Go on at another pace from here; 0 stands still. Only for the clock of a tape."""
        assert self._is_adjustable, "only the clock of a tape changes its pace"
        self._base_s, self._start_s = self.monotonic(), self._real_monotonic()
        self.rate = rate

    def wall_s(self) -> float:
        """Unix seconds as this machine (or the tape) has them, uncorrected."""
        return time.time() if self._epoch_s is None else self._epoch_s + self.monotonic()

    def now_ms(self) -> int:
        """Unix milliseconds, corrected toward the exchange: for expiry, signatures and records."""
        return int((self.wall_s() + self.offset_s) * 1000)

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` of this clock."""
        if not self._is_adjustable:
            await asyncio.sleep(max(seconds, 0.0) / self.rate)
            return
        until_s = self.monotonic() + seconds
        await asyncio.sleep(0)
        while (left_s := until_s - self.monotonic()) > 0:
            await asyncio.sleep(min(left_s / self.rate, 0.25) if self.rate else 0.05)


def clock_text(at_ms: int) -> str:
    """A moment (Unix ms) as HH:MM:SS in UTC, for people."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S")


class Supervisor:
    """Owner of every task: keeps the reference, names it, reports its death (rules A1, A2)."""

    def __init__(self, on_death: Callable[[str, BaseException], None]) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_death = on_death
        self.spawned = 0

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `coro` as a named task; an error that ends it goes to `on_death`."""
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        self.spawned += 1
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log_kit.error("task died name=%s", task.get_name(), exc_info=error)
            self._on_death(task.get_name(), error)

    @property
    def names(self) -> list[str]:
        """Names of the tasks alive now, sorted."""
        return sorted(task.get_name() for task in self._tasks)

    async def stop(self, *, timeout_s: float) -> None:
        """Cancel all tasks but the caller's and wait at most `timeout_s` real seconds."""
        mine = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        if mine:
            await asyncio.wait(mine, timeout=timeout_s)


class Backoff:
    """Full jitter up to a cap; starts over only after a long healthy time."""

    def __init__(
        self, clock: Clock, *, first_s: float = 0.5, cap_s: float = 30.0, healthy_s: float = 60.0
    ) -> None:
        self._clock = clock
        self._first_s, self._cap_s, self._healthy_s = first_s, cap_s, healthy_s
        self._attempt = 0
        self._up_since_s: float | None = None

    def next_s(self) -> float:
        """Seconds to wait before the next attempt; draws chance from the clock."""
        up_since_s, self._up_since_s = self._up_since_s, None
        if up_since_s is not None and self._clock.monotonic() - up_since_s >= self._healthy_s:
            self._attempt = 0
        ceiling_s = min(self._cap_s, self._first_s * 2.0 ** min(self._attempt, 16))
        self._attempt += 1
        return self._clock.rng.uniform(0.0, ceiling_s)

    def worked(self) -> None:
        """The attempt came through; health is counted from now."""
        self._up_since_s = self._clock.monotonic()


class TokenBucket:
    """A rate budget like the exchange's own: `capacity` tokens, refilled evenly per second."""

    def __init__(self, clock: Clock, *, capacity: float, refill_per_s: float) -> None:
        self._clock = clock
        self.capacity, self.refill_per_s = capacity, refill_per_s
        self._tokens, self._at_s = capacity, clock.monotonic()

    def resize(self, *, capacity: float, refill_per_s: float) -> None:
        """Take over new limits; what was spent stays spent."""
        spent = self.capacity - self.left()
        self.capacity, self.refill_per_s = capacity, refill_per_s
        self._tokens = min(capacity, capacity - spent)

    def left(self) -> float:
        """Tokens there now; negative when callers have reserved ahead."""
        now_s = self._clock.monotonic()
        self._tokens = min(self.capacity, self._tokens + (now_s - self._at_s) * self.refill_per_s)
        self._at_s = now_s
        return self._tokens

    def try_take(self, cost: float, *, keep: float = 0.0) -> bool:
        """Take `cost` now if at least `keep` tokens remain afterwards."""
        if self.left() - cost < keep:
            return False
        self._tokens -= cost
        return True

    def reserve(self, cost: float) -> float:
        """Take `cost` in advance; returns the seconds to wait until it is covered."""
        self._tokens = self.left() - cost
        return max(0.0, -self._tokens / self.refill_per_s)

    def drain(self) -> None:
        """Believe the exchange when it says the bucket is empty (429)."""
        self._tokens = min(self.left(), 0.0)

    async def wait(self, cost: float) -> None:
        """Sleep until `cost` tokens are ours."""
        await self._clock.sleep(self.reserve(cost))


class Throttle:
    """Lets a repeated message through once per interval, with the count of those held back."""

    def __init__(self, clock: Clock, *, interval_s: float = 30.0) -> None:
        self._clock, self._interval_s = clock, interval_s
        self._seen: dict[str, tuple[float, int]] = {}

    def admit(self, key: str) -> int | None:
        """Number of repeats held back since the last one let through; None: hold this one back."""
        now_s = self._clock.monotonic()
        at_s, held = self._seen.get(key, (-math.inf, 0))
        if now_s - at_s < self._interval_s:
            self._seen[key] = (at_s, held + 1)
            return None
        if len(self._seen) >= THROTTLE_KEYS_MAX and key not in self._seen:
            self._seen.clear()
        self._seen[key] = (now_s, 0)
        return held


def settle_memory() -> None:
    """The start is over: drop its garbage, spare what stays from every later collection.

    A full collection then looks at what came since and takes less than a millisecond; on glibc
    the freed part of the heap goes back to the system. Called once, when READY is first reached.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class TooSlowError(Exception):
    """The body of `CpuLimit` used up its time and was interrupted."""


class CpuLimit:
    """Interrupt the body after `seconds` of work, at the latest after CPU_PATIENCE times as long.

    A timer signal looks at the work really done, so that a busy machine does not blame the body.
    Main thread only; raises TooSlowError inside the body. May be kept and entered again: a timer
    that is running is left alone, and one that rings after the body ended does nothing, so most
    uses cost no system call but the reading of the thread's time.
    """

    _listening: ClassVar[CpuLimit | None] = None  # whose handler the signal has now
    _rings_at_s: ClassVar[float] = -math.inf  # when the one timer of the process rings

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun_s = self._begun_cpu_s = 0.0
        self._is_working = False

    def __enter__(self) -> None:
        if CpuLimit._listening is not self:
            signal.signal(signal.SIGALRM, self._look)
            CpuLimit._listening = self
            CpuLimit._rings_at_s = -math.inf
        self._begun_cpu_s = time.thread_time()
        now_s = self._begun_s = time.monotonic()
        self._is_working = True  # before the timer is judged: one that rings now is set anew
        if not now_s < CpuLimit._rings_at_s <= now_s + self._seconds:
            self._arm(self._seconds)

    def __exit__(self, *_: object) -> None:
        self._is_working = False

    def _arm(self, seconds: float) -> None:
        CpuLimit._rings_at_s = time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _look(self, signum: int, frame: object) -> None:
        CpuLimit._rings_at_s = -math.inf
        if not self._is_working:
            return
        spent_s = time.thread_time() - self._begun_cpu_s
        late_s = time.monotonic() - self._begun_s - self._seconds * CPU_PATIENCE
        if spent_s >= self._seconds or late_s >= 0:
            raise TooSlowError(f"no answer within {self._seconds * 1000:.0f} ms")
        self._arm(max(min(self._seconds - spent_s, -late_s), self._seconds / 50))


# ======================================================================================
# §12 EVENT BUS
# Purpose:   Tell facts to whoever asked for their kind, isolated from each other.
# Position:  Uses §04, §11. Services publish; services, status, API and §23 subscribe.
# Principle: The order path is a plain call; people get a bounded queue; neighbours are isolated.
# ======================================================================================

log_bus = logging.getLogger("trader.bus")


class QueuePolicy(Enum):
    """What a full queue does."""

    DROP_NEWEST = "drop_newest"
    REFUSE = "refuse"  # never drop: a full queue is a failure, reported as AssertionBroke


@dataclass(slots=True)
class _Queued:
    name: str
    queue: asyncio.Queue[Event]
    policy: QueuePolicy
    dropped: int = 0


class EventBus:
    """Publish and subscribe by event type; direct handlers run in the publisher's call."""

    def __init__(self, clock: Clock, supervisor: Supervisor) -> None:
        self._clock, self._supervisor = clock, supervisor
        self._direct: dict[type[Event], list[Callable[[Any], None]]] = {}
        self._queues: dict[type[Event], list[_Queued]] = {}
        self._all_queues: list[_Queued] = []
        self.emitted = self.processed = self.callback_errors = 0
        self.last_error: str | None = None

    def subscribe(self, kind: type[E], handler: Callable[[E], None]) -> None:
        """Call `handler` directly for each event of exactly this kind: no queue, no task."""
        self._direct.setdefault(kind, []).append(handler)

    def subscribe_queued(
        self,
        kinds: Iterable[type[Event]],
        handler: Callable[[Event], Awaitable[None]],
        *,
        name: str,
        queue_max: int = BUS_QUEUE_MAX,
        policy: QueuePolicy = QueuePolicy.DROP_NEWEST,
    ) -> None:
        """Hand events of these kinds to `handler` in a task of its own, through a bounded queue."""
        queued = _Queued(name, asyncio.Queue(maxsize=queue_max), policy)
        self._all_queues.append(queued)
        for kind in kinds:
            self._queues.setdefault(kind, []).append(queued)
        self._supervisor.spawn(self._drain(queued, handler), name=f"bus:{name}")

    def publish(self, event: Event) -> None:
        """Tell everyone; an error in one handler is logged and the rest still hear."""
        self.emitted += 1
        kind = type(event)
        handlers = self._direct.get(kind)
        if handlers is not None:
            waiting = iter(handlers)
            while True:
                try:
                    for handler in waiting:
                        handler(event)
                    break
                except Exception as error:  # noqa: BLE001 - one must not silence its neighbours
                    self._broke(kind.__name__, error)
            self.processed += len(handlers)
        queues = self._queues.get(kind)
        if queues is not None:
            for queued in queues:
                self._enqueue(queued, event)

    def _enqueue(self, queued: _Queued, event: Event) -> None:
        if not queued.queue.full():
            queued.queue.put_nowait(event)
            return
        queued.dropped += 1
        if queued.policy is QueuePolicy.REFUSE and queued.dropped == 1:
            self._assertion("bus", f"queue {queued.name} is full; {type(event).__name__} lost")

    async def _drain(self, queued: _Queued, handler: Callable[[Event], Awaitable[None]]) -> None:
        while True:
            event = await queued.queue.get()
            try:
                await handler(event)
            except Exception as error:  # noqa: BLE001 - isolate, report, go on
                self._broke(f"{queued.name} {type(event).__name__}", error)
            self.processed += 1

    def _broke(self, where: str, error: Exception) -> None:
        self.callback_errors += 1
        self.last_error = f"{where}: {error!r}"
        log_bus.error("subscriber failed event=%s", where, exc_info=error)
        if isinstance(error, AssertionError):
            self._assertion(where, str(error))

    def _assertion(self, where: str, what: str) -> None:
        for handler in self._direct.get(AssertionBroke, ()):
            try:
                handler(AssertionBroke(at_ms=self._clock.now_ms(), where=where, what=what))
            except Exception:  # the last line of defence must not fall over another error
                log_bus.exception("assertion handler failed where=%s", where)

    @property
    def queue_size(self) -> int:
        """Events waiting in all queues."""
        return sum(queued.queue.qsize() for queued in self._all_queues)

    @property
    def dropped(self) -> dict[str, int]:
        """Events dropped so far, by queue."""
        return {queued.name: queued.dropped for queued in self._all_queues}

    @property
    def subscriber_count(self) -> int:
        """Handlers of all kinds."""
        return sum(map(len, self._direct.values())) + len(self._all_queues)


# ======================================================================================
# §13 STATE CONTAINER
# Purpose:   The one picture of now, immutable and versioned, with the last few kept.
# Position:  Uses §03, §04, §10, §11. Written by the services named below, read by §19 to §22.
# Principle: Each field has one writer; each change is a new picture and one more version.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that is true of the trader at one version. None means not known yet."""

    version: int = 0
    at_ms: int = 0
    state: TraderState = TraderState.STARTUP  # §23
    state_since_ms: int = 0  # §23
    state_why: str = ""  # §23
    gate: Gate = Gate.OPEN  # §23
    gate_why: str | None = None  # §23
    gate_by: str | None = None  # §23
    gate_since_ms: int = 0  # §23
    halt: Halt | None = None  # §23
    degraded: tuple[DegradedReason, ...] = ()  # §23
    guard_version: int = 0  # counts changes of gate, latch and degraded reasons (§23)
    markets: tuple[str, ...] = ()  # §17
    cash_ud: int | None = None  # §18
    positions_value_ud: int | None = None  # §18; at the bid that could be hit
    equity_ud: int | None = None  # §18
    day_start_ud: int | None = None  # §18; equity at 00:00 New York
    peak_ud: int | None = None  # §18; highest equity in the journal
    positions: int = 0  # §18
    open_orders: int = 0  # §18
    unknown_orders: int = 0  # §18
    reconciled_at_ms: int | None = None  # §18
    reconcile_difference_ud: int | None = None  # §18
    is_reconciled: bool = False  # §18

    @property
    def day_pnl_ud(self) -> int | None:
        """Cash and marks now against 00:00 New York, after fees."""
        if self.equity_ud is None or self.day_start_ud is None:
            return None
        return self.equity_ud - self.day_start_ud

    @property
    def drawdown_ud(self) -> int | None:
        """How far equity is below its highest; never negative."""
        if self.equity_ud is None or self.peak_ud is None:
            return None
        return max(0, self.peak_ud - self.equity_ud)


_GUARD_FIELDS: Final = frozenset({"gate", "halt", "degraded"})


class StateContainer:
    """Holds the newest Snapshot and the last SNAPSHOTS_MAX of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: deque[Snapshot] = deque([Snapshot(at_ms=clock.now_ms())], maxlen=SNAPSHOTS_MAX)

    @property
    def now(self) -> Snapshot:
        """The newest picture."""
        return self._kept[-1]

    def update(self, **changes: Any) -> Snapshot:
        """Bind a new picture if any field really changed; returns the newest."""
        old = self.now
        moved = {key: value for key, value in changes.items() if getattr(old, key) != value}
        if not moved:
            return old
        guard = old.guard_version + bool(_GUARD_FIELDS & moved.keys())
        new = replace(
            old, **moved, version=old.version + 1, guard_version=guard, at_ms=self._clock.now_ms()
        )
        self._kept.append(new)
        return new

    def at(self, version: int) -> Snapshot | None:
        """The picture of an older version; None when it is no longer kept (or not yet made)."""
        index = version - self._kept[0].version
        return self._kept[index] if 0 <= index < len(self._kept) else None


# ======================================================================================
# §14a DATA DIRECTORY
# Purpose:   The environment's folder: lock, run token, kill file, small state, reserve, paths.
# Position:  Uses §01, §03, §11. Made by §23 and §24 before anything else; §22 compares the token.
# Principle: One 0700 folder of ours, no link followed; what must survive a power cut is synced.
# ======================================================================================

log_data = logging.getLogger("trader.data")

DIR_MODE: Final = 0o700
FILE_MODE: Final = 0o600
RUN_TOKEN_BYTES: Final = 32  # 256 bits
RESERVE_BYTES: Final = 64 * 1024 * 1024
DISK_FREE_MIN: Final = 1024**3  # bytes that must stay free for recorder and reserve
DATA_FOLDERS: Final = ("logs", "tapes", "policies", "reports", "exports", "backups")


def sync_data(fd: int) -> None:
    """Put what was written on the disk. macOS has no fdatasync; its fsync does more, never less."""
    getattr(os, "fdatasync", os.fsync)(fd)


def _sync_dir(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    """Write every byte; a short write on a full disk becomes the OSError of the next one."""
    while data:
        data = data[os.write(fd, data) :]


def _write_synced(path: Path, data: bytes) -> None:
    """Replace a small file: after a power cut it is the old one or the new one, never half."""
    part = path.with_name(path.name + ".part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(part, flags, FILE_MODE)
    try:
        _write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(part, path)
    _sync_dir(path.parent)


def _read_small(path: Path) -> bytes | None:
    """Content of a small regular file, None when there is none; OSError for a link or else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path.name} is not a regular file")
        return os.read(fd, SMALL_FILE_MAX)
    finally:
        os.close(fd)


def _small_json(data: bytes) -> dict[str, JsonValue]:
    """A JSON object, or {} for anything else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


class DataDir:
    """Folder of one environment. `path` is that folder itself: data/<environment>."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fds: list[int] = []

    @property
    def journal_path(self) -> Path:
        """The SQLite file of the journal."""
        return self.path / "journal.sqlite3"

    @property
    def kill_path(self) -> Path:
        """Present = halted, whoever made it."""
        return self.path / "KILL"

    @property
    def token_path(self) -> Path:
        """File of the run token."""
        return self.path / "run_token"

    def folder(self, name: str) -> Path:
        """One of DATA_FOLDERS, made when it is missing."""
        assert name in DATA_FOLDERS, f"not a folder of the data directory: {name}"
        path = self.path / name
        path.mkdir(mode=DIR_MODE, exist_ok=True)
        return path

    def make(self) -> None:
        """Create what is missing and refuse a folder that others could tamper with.

        Sets the process umask to 077. Raises ConfigError with the fix in the sentence.
        """
        os.umask(0o077)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=DIR_MODE, exist_ok=True)
            self._check_folder()
            for name in DATA_FOLDERS:
                self.folder(name)
        except OSError as error:
            raise ConfigError(
                f"data directory {self.path} cannot be made ({error.strerror or error});"
                " choose another with --data-dir"
            ) from error

    def _check_folder(self) -> None:
        found, parent = os.lstat(self.path), self.path.parent.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"{self.path} is a link or a file; it must be a folder")
        if found.st_mode & 0o022:
            raise ConfigError(f"{self.path} is writable by others; run: chmod go-w {self.path}")
        if parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX:
            folder = self.path.parent
            raise ConfigError(f"{folder} is writable by others; run: chmod go-w {folder}")
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{self.path} belongs to another user; use another --data-dir")
        os.chmod(self.path, DIR_MODE)

    def take_lock(self, facts: Mapping[str, JsonValue]) -> None:
        """Hold the folder for the life of this process; LockHeldError at once if another does.

        Both the folder and the file `lock` are locked, so removing the file frees nothing. `facts`
        (pid, host, port, run_id, started_at_ms, file_sha256) are written into the file for people;
        what a dead process left there is replaced. The kernel frees both at the end of the process.
        """
        assert not self._lock_fds, "the lock is held already"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._hold(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            self._hold(os.open(self.path / "lock", flags, FILE_MODE))
        except BlockingIOError as error:
            self.release_lock()
            raise LockHeldError(f"another process holds {self.path}") from error
        except OSError as error:
            self.release_lock()
            raise ConfigError(f"cannot lock {self.path}: {error.strerror or error}") from error
        self.note_lock(facts)

    def _hold(self, fd: int) -> None:
        self._lock_fds.append(fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def note_lock(self, facts: Mapping[str, JsonValue]) -> None:
        """Write who holds the lock, again once the port is known; a full disk is only logged."""
        assert self._lock_fds, "only the holder may write the lock file"
        try:
            os.ftruncate(self._lock_fds[1], 0)
            os.pwrite(self._lock_fds[1], orjson.dumps(dict(facts)), 0)
        except OSError as error:
            log_data.warning("lock file not written error=%s", error)

    def release_lock(self) -> None:
        """Let go of the folder; harmless when it is not held."""
        while self._lock_fds:
            os.close(self._lock_fds.pop())

    def holder(self) -> dict[str, JsonValue] | None:
        """What the running bot wrote into its lock; None when none runs.

        {} when one runs that has not written yet.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _small_json(_read_small(self.path / "lock") or b"")
        finally:
            os.close(fd)
        return None

    def run_token(self, clock: Clock) -> str:
        """The token that controls need; made on first use. 64 hex digits."""
        found = _read_small(self.token_path)
        token = (found or b"").decode("ascii", "replace").strip()
        if len(token) == 2 * RUN_TOKEN_BYTES:
            return token
        return self.new_run_token(clock)

    def new_run_token(self, clock: Clock) -> str:
        """Replace the run token; the old one is worth nothing afterwards."""
        token = clock.token_hex(RUN_TOKEN_BYTES)
        _write_synced(self.token_path, token.encode() + b"\n")
        return token

    def read_kill(self) -> Halt | None:
        """The latch on disk. Anything under that name halts, readable or not; None: not halted."""
        try:
            found = os.lstat(self.kill_path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Halt(why=f"kill file cannot be read: {error.strerror}", by="disk", since_at_ms=0)
        try:
            facts = _small_json(_read_small(self.kill_path) or b"")
        except OSError:
            facts = {}
        since = facts.get("since_at_ms")
        return Halt(
            why=str(facts.get("why") or "kill file"),
            by=str(facts.get("by") or "file"),
            since_at_ms=since if isinstance(since, int) else int(found.st_mtime * 1000),
        )

    def write_kill(self, halt: Halt) -> None:
        """Set the latch on disk, synced. On a full disk the reserve goes, and an empty file does.

        Raises JournalError when even that is impossible: then the latch holds in memory only.
        """
        facts = {"why": halt.why, "by": halt.by, "since_at_ms": halt.since_at_ms}
        try:
            try:
                _write_synced(self.kill_path, orjson.dumps(facts))
            except OSError:
                self.free_reserve()
                self._touch_kill()
        except OSError as error:
            why = error.strerror or error
            raise JournalError(f"the kill latch is not durable: {why}") from error

    def _touch_kill(self) -> None:
        os.close(os.open(self.kill_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        _sync_dir(self.path)

    def kill_stamp(self) -> tuple[int, int, int] | None:
        """What changes whenever somebody writes or touches the kill file; None: there is none."""
        try:
            found = os.lstat(self.kill_path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def remove_kill(self) -> None:
        """Clear the latch on disk, synced; JournalError when it stays."""
        try:
            self.kill_path.unlink(missing_ok=True)
            _sync_dir(self.path)
        except OSError as error:
            raise JournalError(f"kill file stays: {error.strerror or error}") from error

    def read_state(self) -> dict[str, JsonValue]:
        """The small state (gate and its like); {} before the first write.

        Raises JournalError when it is there and cannot be understood.
        """
        try:
            data = _read_small(self.path / "state.json")
        except OSError as error:
            raise JournalError(f"state.json cannot be read: {error.strerror or error}") from error
        state = {} if data is None else _small_json(data)
        if data is not None and not state:
            raise JournalError("state.json is damaged; pause or resume writes it anew")
        return state

    def write_state(self, state: Mapping[str, JsonValue]) -> None:
        """Replace the small state, synced; JournalError when the disk refuses."""
        try:
            _write_synced(self.path / "state.json", orjson.dumps({"format": 1, **state}))
        except OSError as error:
            raise JournalError(f"state.json is not written: {error.strerror or error}") from error

    def make_reserve(self, *, size: int = RESERVE_BYTES) -> bool:
        """Set `size` bytes aside for a full disk; False when the disk has no room to spare."""
        path = self.path / "reserve"
        try:
            if path.exists():
                return True
            is_short = shutil.disk_usage(self.path).free < DISK_FREE_MIN + size
            if is_short or not hasattr(os, "posix_fallocate"):
                return False
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
        except OSError as error:
            log_data.warning("no disk reserve error=%s", error)
            return False
        return True

    def free_reserve(self) -> None:
        """Give the reserve back to the disk; harmless when there is none."""
        with contextlib.suppress(OSError):
            (self.path / "reserve").unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Bytes left on this disk for us; 0 when it cannot be asked."""
        try:
            return shutil.disk_usage(self.path).free
        except OSError:
            return 0


# ======================================================================================
# §14b JOURNAL SCHEMA
# Purpose:   Tables, views and the hash chain of the journal; its files on the disk.
# Position:  Uses §01, §14a. Used by §14c and §14d; §24 moves a journal aside through it.
# Principle: Facts and rows that explain live apart; every kind is named here and nowhere else.
# ======================================================================================

JOURNAL_SCHEMA: Final = 1
JOURNAL_APP_ID: Final = 0x4B54524A  # in the SQLite header: this is a journal of this program
FACT_KINDS: Final = (
    "run",
    "intent",
    "order",
    "fill",
    "settlement",
    "adjust",
    "transition",
    "control",
    "halt",
    "gate",
    "reconcile",
    "late_accept",
    "day",
)
EXPLAIN_KEPT: Final[Mapping[str, int]] = MappingProxyType(  # rows that stay, by kind
    {
        "decision": 200_000,
        "equity": 100_000,
        "activity": 20_000,
        "latency": 50_000,
        "memory": 20_000,
    }
)

_TABLES: Final = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    """CREATE TABLE facts(seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL,
    key TEXT NOT NULL, body TEXT NOT NULL, chain BLOB NOT NULL) STRICT""",
    "CREATE UNIQUE INDEX fills_once ON facts(key) WHERE kind = 'fill'",
    *(
        f"CREATE INDEX facts_of_{kind} ON facts(key) WHERE kind = '{kind}'"
        for kind in ("settlement", "adjust", "run", "control", "day")
    ),
    *(
        f"CREATE TABLE explain_{kind}(seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL,"
        " key TEXT NOT NULL, body TEXT NOT NULL) STRICT"
        for kind in EXPLAIN_KEPT
    ),
    *(f"CREATE INDEX explain_{kind}_at ON explain_{kind}(at_ms)" for kind in EXPLAIN_KEPT),
    "CREATE INDEX explain_decision_key ON explain_decision(key)",
    "CREATE INDEX explain_memory_key ON explain_memory(key)",
)
_ORDER_FIELDS: Final = """kind order_id ticker side price_cc count_h filled_h status why strategy
    slot decision_id is_take is_foreign expires_at_ms"""
_VIEWS: Final[Mapping[str, tuple[str, str]]] = {  # for people: kind -> name of its key, fields
    "run": ("run_id", "version environment file_sha256 config_sha256"),
    "intent": ("client_order_id", _ORDER_FIELDS),
    "order": ("client_order_id", _ORDER_FIELDS),
    "fill": (
        "fill",
        """trade_id order_id client_order_id ticker side price_cc count_h is_taker fee_ud strategy
        is_foreign""",
    ),
    "settlement": ("ticker", "result settlement_cc position_h"),
    "adjust": ("why", "cash_ud positions"),
    "transition": ("to_state", "from_state why"),
    "control": ("control_id", "action by where reason before ticker strategy"),
    "halt": ("halt", "why by since_at_ms"),
    "gate": ("gate", "why by"),
    "reconcile": ("pass", "is_clean differences"),
    "late_accept": ("client_order_id", "order_id ticker"),
    "day": ("day", "equity_ud cash_ud"),
}


class JournalDamaged(JournalError):
    """The journal's content is not what was written. `copy` is where it was set aside."""

    def __init__(self, what: str, copy: Path | None) -> None:
        super().__init__(f"the journal is damaged ({what}); a copy is in {copy}")
        self.copy = copy


def _chain_link(chain: bytes, seq: int, at_ms: int, kind: str, key: str, body: str) -> bytes:
    """Hash of one row on top of the hash of all rows before it."""
    return hashlib.sha256(chain + orjson.dumps((seq, at_ms, kind, key, body))).digest()


def _view_sql(kind: str, key_name: str, fields: str) -> str:
    columns = "".join(f", json_extract(body, '$.{name}') AS \"{name}\"" for name in fields.split())
    return (
        f"CREATE VIEW {kind}s AS SELECT seq, datetime(at_ms / 1000, 'unixepoch') AS at, at_ms,"
        f" key AS {key_name}{columns} FROM facts WHERE kind = '{kind}'"
    )


def journal_files(path: Path) -> list[Path]:
    """The files of a journal that exist: database, WAL, shared memory."""
    files = (path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm"))
    return [each for each in files if each.exists()]


def move_journal_aside(path: Path, folder: Path, label: str) -> Path | None:
    """Move a journal nobody holds open into `folder`; its new place, None if there is none."""
    if not path.exists():
        return None
    target = folder / f"journal-{label}.sqlite3"
    for each in journal_files(path):
        os.replace(each, folder / (target.name + each.name[len(path.name) :]))
    _sync_dir(folder)
    _sync_dir(path.parent)
    return target


# ======================================================================================
# §14c JOURNAL FILE
# Purpose:   One open journal: made, verified, set aside when damaged, synced, healed.
# Position:  Uses §01, §11, §14a, §14b. The base of §14d.
# Principle: Nothing on the disk is trusted before it was checked; nothing waits for the disk.
# ======================================================================================

log_journal = logging.getLogger("trader.journal")

JOURNAL_SYNC_S: Final = 0.05  # the worker's pace: a write is synced within 100 ms
JOURNAL_BUSY_S: Final = 0.02  # longest wait for a foreign lock on the file
PROBE_BYTES: Final = 65_536  # room that must be there before a full disk counts as healed


class _WalSync(threading.Thread):
    """Worker of one open journal: syncs its WAL soon after a write, and folds it into the database.

    It writes no row and never takes the write lock, so the loop never waits for it. It looks at a
    counter at a steady pace: waking it would slow the order whose row was just written.
    """

    def __init__(self, path: Path, on_error: Callable[[Exception], None]) -> None:
        super().__init__(name="journal-sync", daemon=True)
        self._path, self._on_error = path, on_error
        self._is_stopping = threading.Event()
        self.written = 0  # rows so far, counted by the loop
        self._synced = self._folded = 0  # how many of them, counted by this thread
        self.syncs = 0

    @property
    def is_fold_due(self) -> bool:
        """Whether the WAL has grown enough to be folded."""
        return self.written - self._folded >= WAL_FOLD_ROWS

    def stop(self) -> None:
        """End; the owner syncs what is left."""
        self._is_stopping.set()
        self.join(timeout=5.0)

    def run(self) -> None:
        """Thread body: look for new rows at a steady pace, sync, sometimes fold."""
        wal_fd = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        try:
            while not self._is_stopping.wait(JOURNAL_SYNC_S):
                if self._synced != self.written:
                    self._sync(wal_fd)
        finally:
            os.close(wal_fd)

    def _sync(self, wal_fd: int) -> None:
        self._synced = self.written
        try:
            sync_data(wal_fd)
            self.syncs += 1
            if self.is_fold_due:
                self._fold()
        except (OSError, sqlite3.Error) as error:
            self._on_error(error)

    def _fold(self) -> None:
        """Checkpoint on a connection of our own; when it got everything, the WAL starts over."""
        written = self.written
        with contextlib.closing(sqlite3.connect(self._path, timeout=0.0)) as second:
            _, in_wal, folded = second.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if in_wal == folded:
            self._folded = written


class JournalFile:
    """One open journal file with its worker. The loop is its only writer."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        environment: str,
        account_tag: str,
        *,
        backups: Path | None,
        worker: bool,
    ) -> None:
        self.path = path
        self._clock = clock
        self._environment, self._account_tag = str(environment), account_tag
        self._backups = backups or path.parent / "backups"
        self._has_worker = worker
        self._db: sqlite3.Connection | None = None
        self._held: sqlite3.Cursor | None = None
        self._worker: _WalSync | None = None
        self._wal_fd = -1
        self._seq, self._chain = 0, b""
        self.is_writable = False
        self.last_error: str | None = None
        self.failures = self.syncs = 0

    def open(self) -> None:
        """Create the journal, or verify the one that is there, every row of it.

        Raises ConfigError when it belongs to another account, environment or a newer program,
        JournalDamaged when its content cannot be trusted (a copy is set aside, the file stays),
        JournalError when the disk refuses. A torn tail (power cut) is no damage: it is cut off.
        """
        assert self._db is None, "the journal is open already"
        if sqlite3.sqlite_version_info < (3, 37):
            raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old; 3.37 is needed")
        try:
            self._create_file()
            self._db = self._connect()
            self._prepare(self._db)
            self._wal_fd = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            self._probe()
        except sqlite3.DatabaseError as error:
            self._give_up(error)
        except OSError as error:
            self.close()
            why = error.strerror or error
            raise JournalError(f"{self.path} cannot be opened: {why}") from error
        except TraderError:
            self.close()
            raise
        if self._has_worker:
            self._worker = _WalSync(self.path, self._sync_failed)
            self._worker.start()

    def open_to_read(self) -> None:
        """Look at it beside a running trader: nothing is written, locked or verified.

        Raises ConfigError when it is no journal of this program, JournalError when unreadable.
        """
        assert self._db is None, "the journal is open already"
        try:
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None)
            self._check_header(self._db)
        except sqlite3.Error as error:
            self.close()
            raise JournalError(f"{self.path} cannot be read: {error}") from error
        except TraderError:
            self.close()
            raise

    def _create_file(self) -> None:
        self.path.parent.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(self.path, flags, FILE_MODE))

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=JOURNAL_BUSY_S, isolation_level=None, cached_statements=64
        )

    def _prepare(self, db: sqlite3.Connection) -> None:
        for pragma in ("trusted_schema=OFF", "synchronous=NORMAL", "cell_size_check=ON"):
            db.execute(f"PRAGMA {pragma}")
        mode = db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(f"{self.path}: this disk cannot hold a WAL journal (mode {mode})")
        db.execute("PRAGMA wal_autocheckpoint=0")
        if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            self._create_schema(db)
        self._check_identity(db)
        self._check_content(db)

    def _create_schema(self, db: sqlite3.Connection) -> None:
        views = (_view_sql(kind, *columns) for kind, columns in _VIEWS.items())
        db.execute("BEGIN IMMEDIATE")
        for statement in (*_TABLES, *views):
            db.execute(statement)
        facts = (
            ("environment", self._environment),
            ("account", self._account_tag),
            ("journal_id", self._clock.token_hex(16)),
            ("made_at_ms", str(self._clock.now_ms())),
        )
        db.executemany("INSERT INTO meta VALUES (?, ?)", facts)
        db.execute(f"PRAGMA application_id={JOURNAL_APP_ID}")
        db.execute(f"PRAGMA user_version={JOURNAL_SCHEMA}")
        db.execute("COMMIT")

    def _check_header(self, db: sqlite3.Connection) -> None:
        if db.execute("PRAGMA application_id").fetchone()[0] != JOURNAL_APP_ID:
            raise ConfigError(f"{self.path} is not a journal of this program; move it away")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != JOURNAL_SCHEMA:
            raise ConfigError(
                f"{self.path} has schema {version}, this program knows {JOURNAL_SCHEMA};"
                " use the program that wrote it"
            )

    def _check_identity(self, db: sqlite3.Connection) -> None:
        self._check_header(db)
        meta = dict(db.execute("SELECT name, value FROM meta"))
        for name, ours in (("environment", self._environment), ("account", self._account_tag)):
            if meta.get(name) != ours:
                raise ConfigError(
                    f"{self.path} belongs to {name} {meta.get(name)!r}, not {ours!r};"
                    " use another --data-dir"
                )
        self._chain = hashlib.sha256(orjson.dumps(sorted(meta.items()))).digest()

    def _check_content(self, db: sqlite3.Connection) -> None:
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        self._seq, self._chain, broken = self._walk(db)
        if broken:
            raise sqlite3.DatabaseError(f"hash chain broken at fact {broken}")

    def _walk(self, db: sqlite3.Connection) -> tuple[int, bytes, int]:
        """Follow the hash chain: last number, its hash, and the first wrong number (0: none)."""
        meta = sorted(db.execute("SELECT name, value FROM meta"))
        seq, chain = 0, hashlib.sha256(orjson.dumps(meta)).digest()
        rows = db.execute("SELECT seq, at_ms, kind, key, body, chain FROM facts ORDER BY seq")
        for row_seq, at_ms, kind, key, body, found in rows:
            seq += 1
            chain = _chain_link(chain, seq, at_ms, kind, key, body)
            if row_seq != seq or found != chain:
                return seq, chain, seq
        return seq, chain, 0

    def _give_up(self, error: sqlite3.DatabaseError) -> None:
        """Tell damage from a disk that refuses; never returns."""
        is_refusal = isinstance(error, (sqlite3.OperationalError, sqlite3.IntegrityError))
        copy = None if is_refusal else self._quarantine()
        self.close()
        if is_refusal:
            raise JournalError(f"{self.path} cannot be opened: {error}") from error
        raise JournalDamaged(str(error), copy) from error

    def _quarantine(self) -> Path | None:
        """Copy the damaged files, once per content, and leave the originals where they are."""
        try:
            mark = hashlib.sha256(b"".join(each.read_bytes() for each in journal_files(self.path)))
            copy = self._backups / f"journal-damaged-{mark.hexdigest()[:12]}.sqlite3"
            self._backups.mkdir(mode=DIR_MODE, exist_ok=True)
            for each in journal_files(self.path):
                target = copy.with_name(copy.name + each.name[len(self.path.name) :])
                if not target.exists():
                    shutil.copyfile(each, target)
        except OSError as error:
            log_journal.error("damaged journal not copied error=%s", error)
            return None
        return copy

    # ---- writing and healing ---------------------------------------------------------

    def _wrote(self, rows: int) -> None:
        """Tell the worker, and keep the read lock of the file between two writes.

        An unfinished SELECT on our own connection spares each append four of SQLite's six lock
        calls, a quarter of its time. It is let go while the WAL waits to be folded, since a held
        lock keeps the WAL from starting over.
        """
        worker = self._worker
        if worker is None or self._db is None:
            return
        worker.written += rows
        if worker.is_fold_due:
            self._let_go()
        elif self._held is None:
            self._held = self._db.execute("SELECT name FROM meta")

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _sync_now(self) -> None:
        sync_data(self._wal_fd)
        self.syncs += 1

    def _refused(self, error: Exception) -> JournalError:
        self.failures += 1
        self.last_error = str(error) or repr(error)
        if self.is_writable:
            log_journal.error("journal not writable error=%s", self.last_error)
        self.is_writable = False
        return JournalError(f"the journal cannot be written: {self.last_error}")

    def _sync_failed(self, error: Exception) -> None:
        """The worker could not sync: what was written is not proven to be on the disk."""
        self._refused(error)

    def _probe(self) -> None:
        """Write and sync harmless rows; OSError or sqlite3.Error when that fails."""
        if self._db is None:
            raise OSError("the journal is closed")
        self._let_go()
        query = "INSERT OR REPLACE INTO explain_latency VALUES (0, ?, 'probe', ?)"
        if not self.is_writable:
            # Where only a small row fits, the next fact would fail again: ask for room.
            self._db.execute(query, (self._clock.now_ms(), '"' + " " * PROBE_BYTES + '"'))
        self._db.execute(query, (self._clock.now_ms(), "{}"))
        if self._wal_fd >= 0:
            self._sync_now()
        self.is_writable, self.last_error = True, None

    def probe(self) -> bool:
        """Try to write; True and healed when it works. run() does so until it does."""
        was_writable = self.is_writable
        try:
            self._probe()
        except (sqlite3.Error, OSError) as error:
            self._refused(error)
        if self.is_writable and not was_writable:
            log_journal.info("journal writable again")
        return self.is_writable

    def _read(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        if self._db is None:
            raise JournalError("the journal is closed")
        try:
            return self._db.execute(query, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    def verify_chain(self) -> bool:
        """Whether every fact is as it was written, in its place, with none missing between."""
        if self._db is None:
            raise JournalError("the journal is closed")
        try:
            return self._walk(self._db)[2] == 0
        except sqlite3.Error as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    def about(self, name: str) -> str | None:
        """What the journal says of itself: environment, account, journal_id, made_at_ms."""
        found = self._read("SELECT value FROM meta WHERE name = ?", (name,))
        return str(found[0][0]) if found else None

    def is_sound(self) -> bool:
        """Whether the file is whole and every fact is as it was written; reads all of it."""
        return self._read("PRAGMA quick_check(1)", ()) == [("ok",)] and self.verify_chain()

    @property
    def bytes(self) -> int:
        """Size of the journal's files on disk."""
        return sum(each.stat().st_size for each in journal_files(self.path))

    def sync(self) -> None:
        """Bring everything written so far to the disk now; JournalError when that fails."""
        try:
            self._sync_now()
        except OSError as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Sync and let go of the files; harmless when closed."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        if self._wal_fd >= 0:
            with contextlib.suppress(OSError):
                sync_data(self._wal_fd)
            os.close(self._wal_fd)
            self._wal_fd = -1
        self._let_go()
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        self.is_writable = False


# ======================================================================================
# §14d JOURNAL
# Purpose:   Write down what happened before it counts: hash-chained facts, and rows that explain.
# Position:  Uses §01, §03, §11, §14c. Written by §18 and §23, read at start and by people.
# Principle: An append is in the kernel's hands before the next line runs; a worker syncs it soon.
#
#   fact() ── INSERT ──► WAL (kernel) ── fdatasync by the worker, <= 100 ms ──► disk
#   explain() ─► batch ── run(), <= 250 ms ──► same file, other tables, pruned
# ======================================================================================

JOURNAL_FLUSH_S: Final = 0.25
JOURNAL_PRUNE_S: Final = 60.0
APPEND_SAMPLE_EVERY: Final = 16  # every so many facts one is timed
_APPEND: Final = "INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Fact:
    """One row. `seq` orders facts without gaps; rows that explain have a numbering of their own."""

    seq: int
    at_ms: int
    kind: str
    key: str
    body: dict[str, JsonValue]


def _journal_plain(value: object) -> object:
    """What orjson does not know: read-only mappings, sets and paths."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


class Journal(JournalFile):
    """Append-only memory of one environment and account.

    `account_tag` names the account, so that the journal of one is never used for another.
    `sync` is "soon" or "each" (every intent is on the disk before fact() returns). With
    `worker=False` nothing is synced in the background (virtual time knows no threads).
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        environment: str,
        account_tag: str,
        sync: str = "soon",
        *,
        backups: Path | None = None,
        worker: bool = True,
    ) -> None:
        super().__init__(path, clock, environment, account_tag, backups=backups, worker=worker)
        self._syncs_each = sync == "each"
        self._batch: list[tuple[str, int, str, str]] = []
        self._pruned_at_s = -math.inf
        self._folded = 0
        self.rows = self.explain_rows = self.explain_dropped = 0
        self.append_s: deque[float] = deque(maxlen=APPEND_SAMPLES_MAX)

    def fact(
        self, kind: str, key: str, body: Mapping[str, JsonValue], *, durable: bool = False
    ) -> int:
        """Append one fact; returns its number, 0 when this fill is in the journal already.

        When it returns, the row survives the death of the process; with `durable` the power cut
        too. Raises JournalError when it cannot be written: then nothing of it counts.
        """
        seq, at_ms = self._seq + 1, self._clock.now_ms()
        started_s = 0.0 if seq % APPEND_SAMPLE_EVERY else self._clock.real_s()
        text = orjson.dumps(body, default=_journal_plain).decode()
        chain = _chain_link(self._chain, seq, at_ms, kind, key, text)
        try:
            if self._db is None:
                raise OSError("the journal is closed")
            self._db.execute(_APPEND, (seq, at_ms, kind, key, text, chain))
            self._seq, self._chain = seq, chain
            if durable or (self._syncs_each and kind == "intent"):
                self._sync_now()
            self._wrote(1)
        except sqlite3.IntegrityError as error:
            if kind == "fill" and self.has("fill", key):
                return 0
            raise self._refused(error) from error
        except (sqlite3.Error, OSError) as error:
            raise self._refused(error) from error
        self.rows += 1
        if started_s:
            self.append_s.append(self._clock.real_s() - started_s)
        return seq

    # ---- rows that only explain ------------------------------------------------------

    def explain(self, kind: str, at_ms: int, key: str, body: Mapping[str, JsonValue]) -> None:
        """Keep a row that only explains; run() writes it within 250 ms. No disk makes it raise."""
        assert kind in EXPLAIN_KEPT, f"no explaining table for {kind}"
        if len(self._batch) >= EXPLAIN_BATCH_MAX:
            self.explain_dropped += 1
            return
        self._batch.append((kind, at_ms, key, orjson.dumps(body, default=_journal_plain).decode()))

    async def run(self) -> None:
        """Write batches, heal, prune: at people's pace, until cancelled. Supervised by §23."""
        try:
            while True:
                await asyncio.sleep(JOURNAL_FLUSH_S)
                while self._batch and self.flush(limit=EXPLAIN_SLICE):
                    await asyncio.sleep(0)
                self._tend()
        finally:
            self.flush()

    def flush(self, *, limit: int = EXPLAIN_BATCH_MAX) -> bool:
        """Write up to `limit` waiting rows in one transaction; False when the disk refuses."""
        batch, kept = self._batch[:limit], self._batch[limit:]
        if not batch or self._db is None:
            return self._db is not None
        try:
            self._db.execute("BEGIN")
            for kind in EXPLAIN_KEPT:
                rows = [row[1:] for row in batch if row[0] == kind]
                insert = f"INSERT INTO explain_{kind}(at_ms, key, body) VALUES (?, ?, ?)"
                self._db.executemany(insert, rows)
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._roll_back()
            self._refused(error)
            return False
        self._batch = kept
        self.explain_rows += len(batch)
        self._wrote(len(batch))
        return True

    def _roll_back(self) -> None:
        if self._db is not None and self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def _tend(self) -> None:
        now_s = self._clock.real_s()
        if not self.is_writable:
            self.probe()
        elif now_s - self._pruned_at_s >= JOURNAL_PRUNE_S:
            self._pruned_at_s = now_s
            self.prune()
        if self._worker is None and self.rows + self.explain_rows - self._folded >= WAL_FOLD_ROWS:
            self._folded = self.rows + self.explain_rows
            with contextlib.suppress(JournalError):
                self._read("PRAGMA wal_checkpoint(PASSIVE)", ())

    def prune(self) -> int:
        """Remove one slice of the oldest explaining rows beyond EXPLAIN_KEPT; returns how many."""
        removed = 0
        try:
            for kind, kept in EXPLAIN_KEPT.items():
                assert self._db is not None, "prune needs an open journal"
                table = f"explain_{kind}"
                removed += self._db.execute(
                    f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} WHERE seq > 0 AND"
                    f" seq <= (SELECT max(seq) FROM {table}) - ? ORDER BY seq LIMIT ?)",
                    (kept, EXPLAIN_SLICE),
                ).rowcount
        except (sqlite3.Error, OSError) as error:
            self._refused(error)
        return removed

    # ---- reading ---------------------------------------------------------------------

    def facts(self, kind: str | None = None, since_seq: int = 0) -> Iterator[Fact]:
        """Facts after `since_seq` in order, of one kind or all; JournalError when unreadable."""
        where = "" if kind is None else " AND kind = ?"
        values = () if kind is None else (kind,)
        query = (
            f"SELECT seq, at_ms, kind, key, body FROM facts WHERE seq > ?{where}"
            f" ORDER BY seq LIMIT {JOURNAL_PAGE}"
        )
        while rows := self._read(query, (since_seq, *values)):
            for seq, at_ms, row_kind, key, body in rows:
                yield Fact(seq, at_ms, row_kind, key, orjson.loads(body))
            since_seq = rows[-1][0]

    def has(self, kind: str, key: str) -> bool:
        """Whether a fact of this kind and key is written."""
        return self.newest(kind, key) is not None

    def newest(self, kind: str, key: str) -> Fact | None:
        """The last fact of this kind and key; None when there is none.

        Quick for fills, settlements, adjustments, runs, controls and days; a scan for others.
        """
        assert kind in FACT_KINDS, f"no such fact: {kind}"
        query = (
            "SELECT seq, at_ms, kind, key, body FROM facts"
            f" WHERE kind = '{kind}' AND key = ? ORDER BY seq DESC LIMIT 1"
        )
        for seq, at_ms, row_kind, row_key, body in self._read(query, (key,)):
            return Fact(seq, at_ms, row_kind, row_key, orjson.loads(body))
        return None

    def rows_of(
        self, kind: str, *, since_ms: int = 0, until_ms: int | None = None, limit: int = 100
    ) -> list[Fact]:
        """Explaining rows or facts of one kind, newest first, at most `limit`."""
        is_fact = kind in FACT_KINDS
        assert is_fact or kind in EXPLAIN_KEPT, f"no rows of kind {kind}"
        table = f"facts WHERE kind = '{kind}' AND" if is_fact else f"explain_{kind} WHERE"
        order = "seq DESC" if is_fact else "at_ms DESC, seq DESC"
        query = (
            f"SELECT seq, at_ms, key, body FROM {table} at_ms >= ? AND at_ms < ? AND seq > 0"
            f" ORDER BY {order} LIMIT ?"
        )
        last_ms = 2**62 if until_ms is None else until_ms
        found = self._read(query, (since_ms, last_ms, limit))
        return [Fact(seq, at_ms, kind, key, orjson.loads(body)) for seq, at_ms, key, body in found]

    def explained(self, kind: str, key: str) -> Fact | None:
        """The newest explaining row with this key (a decision's id); None if pruned or unknown."""
        assert kind in EXPLAIN_KEPT, f"no explaining table for {kind}"
        query = (
            f"SELECT seq, at_ms, key, body FROM explain_{kind} WHERE key = ?"
            " ORDER BY seq DESC LIMIT 1"
        )
        for seq, at_ms, row_key, body in self._read(query, (key,)):
            return Fact(seq, at_ms, kind, row_key, orjson.loads(body))
        return None

    @property
    def last_seq(self) -> int:
        """Number of the last fact; 0 in a new journal."""
        return self._seq

    def close(self) -> None:
        """Write what waits, sync, and let go of the files; harmless when closed."""
        if self._db is not None and self.is_writable:
            self.flush()
        super().close()


# ======================================================================================
# §14e RECORDER
# Purpose:   Keep the public frames of followed markets as tapes that can be played again.
# Position:  Uses §03, §11, §14a. Fed by §16 frame by frame; writes in a worker thread.
# Principle: A slow disk costs frames of the tape, counted, and never a moment of the bot.
#
#   record() ─► bounded list ─ run(), each 0.25 s ─► worker: parse, sort by market, deflate, write
# ======================================================================================

RECORDED_TYPES: Final = frozenset(
    {"orderbook_snapshot", "orderbook_delta", "trade", "ticker", "market_lifecycle_v2"}
)
RECORDER_PACE_S: Final = 0.25
RECORDER_FLUSH_S: Final = 5.0
RECORDER_ASK_S: Final = 10.0  # pause between two requests for the same snapshot
RECORDER_LIMIT_S: Final = 60.0  # pause between two looks at the size of all tapes
_TAPE_TICKER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_TAPE_WINDOW_BITS: Final = 16 + 12  # gzip with a 4 KB window: about 48 KB of memory per open tape
_TAPE_MEMORY_LEVEL: Final = 6


class _Tape:
    """One open file of one market and UTC day."""

    def __init__(self, path: Path, day: str) -> None:
        self.path, self.day = path, day
        self.last_ms = 0
        self._file = path.open("xb", buffering=0)
        self._deflate = zlib.compressobj(6, zlib.DEFLATED, _TAPE_WINDOW_BITS, _TAPE_MEMORY_LEVEL)

    def add(self, recv_ms: int, frame: bytes) -> int:
        """Append one line; returns bytes written so far by this call."""
        self.last_ms = max(self.last_ms, recv_ms)
        line = b'{"recv_ms": %d, "event": %b}\n' % (self.last_ms, frame)
        return self._put(self._deflate.compress(line))

    def sync_flush(self) -> int:
        """Make everything up to here readable, even if the process ends now."""
        return self._put(self._deflate.flush(zlib.Z_SYNC_FLUSH))

    def close(self) -> None:
        """End the gzip member and the file."""
        try:
            self._put(self._deflate.flush(zlib.Z_FINISH))
        finally:
            self._file.close()

    def _put(self, data: bytes) -> int:
        size = len(data)
        while data:
            data = data[self._file.write(data) or 0 :]
        return size


class _TapeShelf:
    """All open tapes. Lives in the worker: no loop, no clock, only what each call brings."""

    def __init__(self, folder: Path, *, max_bytes: int, min_free: int) -> None:
        self._folder, self._max_bytes, self._min_free = folder, max_bytes, min_free
        self._tapes: dict[str, _Tape] = {}
        self._wanted: set[str] = set()  # markets that need a snapshot: a gap, or a new day
        self._flushed_at_s = self._limited_at_s = -math.inf
        self.is_stopped = False  # the disk is nearly full
        self.events = self.skipped = self.errors = self.bytes = self.removed = 0
        self.last_error: str | None = None

    def write(
        self, frames: Sequence[tuple[int, bytes]], now_s: float, *, has_dropped: bool
    ) -> set[str]:
        """Put frames on their tapes; returns the markets that need a snapshot now."""
        if now_s - self._limited_at_s >= RECORDER_LIMIT_S:
            self._limited_at_s = now_s
            self._keep_limits()
        if has_dropped:  # nobody knows whose frames are missing: every tape starts anew
            self._end_all()
        for recv_ms, frame in frames:
            self._one(recv_ms, frame)
        if now_s - self._flushed_at_s >= RECORDER_FLUSH_S:
            self._flushed_at_s = now_s
            for ticker in list(self._tapes):
                self._guard(ticker, lambda tape: tape.sync_flush())
        return set() if self.is_stopped else set(self._wanted)

    def _one(self, recv_ms: int, frame: bytes) -> None:
        kind, ticker = self._label(frame)
        if self.is_stopped or kind not in RECORDED_TYPES or not _TAPE_TICKER.fullmatch(ticker):
            self.skipped += 1
            return
        day = datetime.fromtimestamp(recv_ms / 1000, UTC).date().isoformat()
        tape = self._tapes.get(ticker)
        if kind == "orderbook_snapshot" and (tape is None or tape.day != day):
            self._start(ticker, day)
        elif tape is None or tape.day != day:
            self._wanted.add(ticker)  # yesterday's file goes on until its snapshot is here
        if ticker not in self._tapes:
            self.skipped += 1
            return
        line = frame if b"\n" not in frame else orjson.dumps(orjson.loads(frame))
        self._guard(ticker, lambda tape: tape.add(recv_ms, line))
        self.events += 1

    def _label(self, frame: bytes) -> tuple[str, str]:
        """Type and market of a frame; empty texts when it has none."""
        try:
            event = orjson.loads(frame)
            return str(event["type"]), str(event["msg"]["market_ticker"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return "", ""

    def _start(self, ticker: str, day: str) -> None:
        """Open a new file; an old one is never continued, since its end may be cut."""
        self._end(ticker)
        folder = self._folder / ticker
        try:
            folder.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
            for part in range(TAPE_PARTS_MAX):
                name = f"{day}.ndjson.gz" if part == 0 else f"{day}.part{part:02d}.ndjson.gz"
                with contextlib.suppress(FileExistsError):
                    self._tapes[ticker] = _Tape(folder / name, day)
                    self._wanted.discard(ticker)
                    return
            raise OSError(f"{folder} has {TAPE_PARTS_MAX} files of {day}")
        except OSError as error:
            self._failed(ticker, error)

    def _guard(self, ticker: str, act: Callable[[_Tape], int]) -> None:
        try:
            self.bytes += act(self._tapes[ticker])
            self.last_error = None
        except OSError as error:
            self._failed(ticker, error)

    def _failed(self, ticker: str, error: OSError) -> None:
        self.errors += 1
        self.last_error = f"{ticker}: {error.strerror or error}"
        self._wanted.add(ticker)
        self._end(ticker)

    def _end(self, ticker: str) -> None:
        tape = self._tapes.pop(ticker, None)
        if tape is not None:
            with contextlib.suppress(OSError):  # what is flushed stays readable without the end
                tape.close()

    def _end_all(self) -> None:
        for ticker in list(self._tapes):
            self._wanted.add(ticker)
            self._end(ticker)

    def _keep_limits(self) -> None:
        """Remove the oldest tapes beyond the size limit; stop while the disk is nearly full."""
        try:
            self._remove_oldest()
            is_low = shutil.disk_usage(self._folder).free < self._min_free
        except OSError as error:
            self.errors, self.last_error = self.errors + 1, str(error.strerror or error)
            return
        if is_low and not self.is_stopped:
            self._end_all()
        self.is_stopped = is_low

    def _remove_oldest(self) -> None:
        open_now = {tape.path for tape in self._tapes.values()}
        found = sorted(
            (each.stat().st_mtime, each.stat().st_size, each)
            for each in self._folder.glob("*/*.ndjson.gz")
        )
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self._max_bytes:
                return
            if path not in open_now:
                path.unlink()
                self.removed += 1
                total -= size

    def write_event(self, ticker: str, data: bytes) -> None:
        """Replace event.json of one market."""
        try:
            folder = self._folder / ticker
            folder.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
            part = folder / "event.json.part"
            part.write_bytes(data)
            os.replace(part, folder / "event.json")
        except OSError as error:
            self.errors, self.last_error = self.errors + 1, str(error.strerror or error)

    def close(self) -> None:
        """End every tape properly."""
        for ticker in list(self._tapes):
            self._end(ticker)


class Recorder:
    """Writes tapes of public frames (OPERATIONS §11). Owned by §23, fed by §16.

    `ask_snapshot(ticker)` is called on the loop when a market's tape must begin anew. With
    `threads=False` the caller's loop writes (virtual time).
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        max_bytes: int,
        ask_snapshot: Callable[[str], None],
        min_free: int = DISK_FREE_MIN,
        threads: bool = True,
    ) -> None:
        self._clock, self._ask_snapshot = clock, ask_snapshot
        self._shelf = _TapeShelf(folder, max_bytes=max_bytes, min_free=min_free)
        self._threads = ThreadPoolExecutor(1, "recorder") if threads else None
        self._frames: list[tuple[int, bytes]] = []
        self._has_dropped = False
        self._asked_at_s: dict[str, float] = {}
        self.dropped = 0
        folder.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)

    def record(self, frame: bytes | str) -> None:
        """Note one frame as received now. Costs an append; never blocks, never raises."""
        if len(self._frames) >= RECORDER_QUEUE_MAX:
            self.dropped += 1
            self._has_dropped = True
            return
        data = frame.encode() if isinstance(frame, str) else frame
        self._frames.append((self._clock.now_ms(), data))

    def note_event(self, ticker: str, *, status: int, url: str, response: JsonValue) -> None:
        """Keep the answer of GET /events/{event_ticker} beside the tape; again after settlement."""
        if _TAPE_TICKER.fullmatch(ticker) is None:
            return
        facts = {"fetched_at_ms": self._clock.now_ms(), "status": status, "url": url}
        data = orjson.dumps({**facts, "response": response})
        if self._threads is None:
            self._shelf.write_event(ticker, data)
        else:
            self._threads.submit(self._shelf.write_event, ticker, data)

    async def run(self) -> None:
        """Hand frames to the worker four times a second until cancelled. Supervised by §23."""
        while True:
            await asyncio.sleep(RECORDER_PACE_S)
            frames, self._frames = self._frames, []
            has_dropped, self._has_dropped = self._has_dropped, False
            write = partial(
                self._shelf.write, frames, self._clock.real_s(), has_dropped=has_dropped
            )
            if self._threads is None:
                wanted = write()
            else:
                loop = asyncio.get_running_loop()
                wanted = await loop.run_in_executor(self._threads, write)
            self._ask(wanted)

    def _ask(self, wanted: set[str]) -> None:
        now_s = self._clock.real_s()
        asked = {ticker: at_s for ticker, at_s in self._asked_at_s.items() if ticker in wanted}
        self._asked_at_s = asked
        for ticker in sorted(wanted):
            if now_s - asked.get(ticker, -math.inf) >= RECORDER_ASK_S:
                asked[ticker] = now_s
                self._ask_snapshot(ticker)

    def close(self) -> None:
        """Write what waits and end every tape; called once run() has ended."""
        finish = partial(
            self._shelf.write, self._frames, self._clock.real_s(), has_dropped=self._has_dropped
        )
        self._frames = []
        if self._threads is None:
            finish()
            self._shelf.close()
            return
        self._threads.submit(finish)
        self._threads.submit(self._shelf.close)
        self._threads.shutdown(wait=True)

    @property
    def is_healthy(self) -> bool:
        """Whether tapes are being written: no disk error, disk not nearly full."""
        return self._shelf.last_error is None and not self._shelf.is_stopped

    @property
    def counters(self) -> dict[str, JsonValue]:
        """Figures for status and metrics."""
        shelf = self._shelf
        return {
            "events": shelf.events,
            "bytes": shelf.bytes,
            "dropped": self.dropped,
            "skipped": shelf.skipped,
            "errors": shelf.errors,
            "removed": shelf.removed,
            "is_stopped": shelf.is_stopped,
            "last_error": shelf.last_error,
        }


# ======================================================================================
# §15a SIGNER
# Purpose:   Read the private key, say plainly what is wrong with it, sign requests, some ahead.
# Position:  Uses §01, §05, §11. Used by §15b and §16; §24 reads the key file through it.
# Principle: A key never shows itself; a signature is used once and is at most a second old.
# ======================================================================================

RSA_BITS_MIN: Final = 2048
PSS_SALT_BYTES: Final = 32
SIGNATURE_AGE_MS: Final = 1000  # oldest a signature made ahead may be when it leaves
SIGNATURE_REFILL_S: Final = 0.05  # the worker's pace; waking it would slow the order it just served
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_WRONG_KEYS: Final = (  # what the text contains, what to say
    (b"-----BEGIN PUBLIC KEY", "this is a public key; the private key is needed"),
    (b"-----BEGIN RSA PUBLIC KEY", "this is a public key; the private key is needed"),
    (b"-----BEGIN CERTIFICATE-----", "this is a certificate; the private key is needed"),
    (b"ssh-rsa ", "this is an SSH public key; the private key is needed in PEM"),
    (b"ssh-ed25519 ", "this is an SSH public key; the private key is needed in PEM"),
    (
        b"-----BEGIN OPENSSH PRIVATE KEY",
        "this key is in OpenSSH format; PEM is needed (ssh-keygen -p -m PEM converts RSA keys)",
    ),
    (
        b"ENCRYPTED",
        "this key is encrypted with a passphrase; a key without one is needed",
    ),
    (b"-----BEGIN EC PRIVATE KEY", "this is an elliptic-curve key; RSA or Ed25519 is needed"),
    (b"-----BEGIN DSA PRIVATE KEY", "this is a DSA key; RSA or Ed25519 is needed"),
)


def read_key_file(path: Path, *, is_sim: bool, repository: Path) -> bytes:
    """Content of the private key file; ConfigError with the fix when it is not safe to use.

    Except in sim, a file in `repository` is refused: it would be committed or copied one day.
    """
    name = f"KALSHI_KEY_FILE: {str(path)!r}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise ConfigError(f"{name}: no such file; set it or run with --env sim") from error
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror})") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{name}: not a regular file")
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{name}: belongs to another user; make a copy of your own")
        if found.st_mode & 0o077:
            raise ConfigError(f"{name}: others can read it; run: chmod 600 {path}")
        if not is_sim and path.resolve().is_relative_to(repository.resolve()):
            raise ConfigError(f"{name}: lies inside {repository}; keep keys outside the repository")
        _check_key_folder(name, path.resolve().parent)
        return os.read(fd, KEY_FILE_MAX)
    finally:
        os.close(fd)


def _check_key_folder(name: str, folder: Path) -> None:
    found = folder.stat()
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise ConfigError(f"{name}: others can write its folder; run: chmod go-w {folder}")


def load_signer(key_pem: bytes, key_id: str) -> KalshiSigner:
    """Make the signer from PEM text (PKCS#1 or PKCS#8, RSA or Ed25519).

    ConfigError in one sentence that never quotes the material. A text with `\\n` for line ends,
    as it comes from an environment variable, is accepted.
    """
    if _KEY_ID.fullmatch(key_id) is None:
        raise ConfigError("KALSHI_API_KEY_ID: not a key id; copy the UUID shown beside the key")
    pem = key_pem.replace(b"\\n", b"\n").strip() + b"\n"
    for mark, sentence in _WRONG_KEYS:
        if mark in pem:
            raise ConfigError(f"private key: {sentence}")
    if b"-----BEGIN" not in pem:
        raise ConfigError("private key: not PEM text; it begins with -----BEGIN … PRIVATE KEY-----")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("private key: damaged or cut off; download it again") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < RSA_BITS_MIN:
            raise ConfigError(f"private key: RSA of {key.key_size} bits; {RSA_BITS_MIN} are needed")
    elif not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError("private key: neither RSA nor Ed25519")
    return KalshiSigner(key, key_id)


class KalshiSigner:
    """Signs requests with one key. The key type decides the algorithm."""

    __slots__ = ("_key", "_padding", "key_id")

    def __init__(self, key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, key_id: str) -> None:
        self._key = key
        self._padding = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=PSS_SALT_BYTES)
        self.key_id = key_id

    def __repr__(self) -> str:
        return f"KalshiSigner({self.key_type}, ***)"

    @property
    def key_type(self) -> str:
        """`rsa` or `ed25519`."""
        return "rsa" if isinstance(self._key, rsa.RSAPrivateKey) else "ed25519"

    def sign(self, message: bytes) -> bytes:
        """Signature of a message: RSA-PSS with SHA-256 (about 0.3 ms), or Ed25519 (about 30 µs)."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(message, self._padding, hashes.SHA256())
        return self._key.sign(message)

    def headers(self, method: str, path: str, ts_ms: int) -> dict[str, str]:
        """The three access headers. `path` is from the root; a query is not signed."""
        signature = self.sign(text_to_sign(ts_ms, method, path))
        return {
            "KALSHI-ACCESS-KEY": self.key_id,
            "KALSHI-ACCESS-TIMESTAMP": str(ts_ms),
            "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode("ascii"),
        }


class SignatureStock:
    """Headers for one method and path, signed ahead by a worker thread, each handed out once.

    With `threads=False`, an Ed25519 key or a clock that does not run at ×1 everything is signed
    inline. The stock only holds signatures of the clock's last second.
    """

    def __init__(
        self, signer: KalshiSigner, clock: Clock, method: str, path: str, *, threads: bool
    ) -> None:
        self._signer, self._clock, self._method, self._path = signer, clock, method, path
        self._ready: deque[tuple[int, dict[str, str]]] = deque()
        self._is_closed = threading.Event()
        self.taken = self.inline = 0
        self._thread: threading.Thread | None = None
        if threads and signer.key_type == "rsa" and clock.rate == 1.0:
            self._thread = threading.Thread(target=self._refill, name="signatures", daemon=True)
            self._thread.start()

    def take(self) -> dict[str, str]:
        """Headers that nobody used before, at most SIGNATURE_AGE_MS old."""
        now_ms = self._clock.now_ms()
        while self._ready:
            ts_ms, headers = self._ready.pop()  # newest first; the worker clears out the rest
            if 0 <= now_ms - ts_ms <= SIGNATURE_AGE_MS:
                self.taken += 1
                return headers
        self.inline += 1
        return self._signer.headers(self._method, self._path, now_ms)

    def _refill(self) -> None:
        """Thread body: drop what grows old, sign anew, at a steady pace."""
        while not self._is_closed.wait(SIGNATURE_REFILL_S):
            now_ms = self._clock.now_ms()
            with contextlib.suppress(IndexError):  # the loop may take the last one meanwhile
                while not 0 <= now_ms - self._ready[0][0] <= SIGNATURE_AGE_MS // 2:
                    self._ready.popleft()
            while len(self._ready) < SIGNATURES_AHEAD and not self._is_closed.is_set():
                ts_ms = self._clock.now_ms()
                headers = self._signer.headers(self._method, self._path, ts_ms)
                self._ready.append((ts_ms, headers))

    def close(self) -> None:
        """End the worker and forget what it signed."""
        self._is_closed.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        self._ready.clear()


# ======================================================================================
# §15b ANSWERS
# Purpose:   What an answer to an order command means: the table of RELIABILITY §1.1, row by row.
# Position:  Uses §01, §03, §05. Used by §15f.
# Principle: Only a proven success or a proven refusal is named so; everything else is UNKNOWN.
# ======================================================================================


class OutcomeKind(Enum):
    """What became of one order command (RELIABILITY §1.1)."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    DUPLICATE = "duplicate"  # 409 order_already_exists: find it and compare
    RATE_LIMITED = "rate_limited"
    UNKNOWN = "unknown"  # it may have arrived
    NEVER_SENT = "never_sent"  # no byte left this machine
    GONE = "gone"  # 404 on cancel, amend, decrease: ended somehow, or never there


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderOutcome:
    """Result of one command. Counts are what the answer says, 0 where it says nothing.

    `status` is the HTTP status, 0 without an answer. `average_price_cc` is of the YES leg. For a
    cancel `remaining_h` is 0 and `reduced_h` what was taken off.
    """

    kind: OutcomeKind
    status: int = 0
    code: str = ""
    message: str = ""
    order_id: str | None = None
    client_order_id: str | None = None
    filled_h: int = 0
    remaining_h: int = 0
    reduced_h: int = 0
    average_price_cc: int | None = None
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, whole. `content_type` is lower case without parameters."""

    status: int
    content_type: str
    body: bytes


def _refusal(answer: Answer) -> tuple[str, str] | None:
    """Code and message of an error body that can be read; None for HTML, garbage or silence."""
    if answer.content_type == "text/html":
        return None
    try:
        obj = load_json(answer.body)
    except WireError:
        return None
    words = ("error", "code", "msg", "message")
    if not any(isinstance(obj.get(word), (str, dict)) for word in words):
        return None
    return decode_error(answer.status, answer.content_type, answer.body)


def _judge_error(answer: Answer, *, is_create: bool) -> OrderOutcome:
    """Outcome of an answer that is no success."""
    code, message = decode_error(answer.status, answer.content_type, answer.body)
    kind = OutcomeKind.UNKNOWN
    if answer.status == 429:
        kind = OutcomeKind.RATE_LIMITED
    # 408 is a 4xx, but a server that timed out proves nothing about what it did before.
    elif 400 <= answer.status < 500 and answer.status != 408 and _refusal(answer) is not None:
        kind = OutcomeKind.REFUSED
        if is_create and answer.status == 409 and code == "order_already_exists":
            kind = OutcomeKind.DUPLICATE
        elif not is_create and answer.status == 404:
            kind = OutcomeKind.GONE
    return OrderOutcome(kind=kind, status=answer.status, code=code, message=message)


def _doubt(answer: Answer, why: str) -> OrderOutcome:
    return OrderOutcome(
        kind=OutcomeKind.UNKNOWN, status=answer.status, code="unreadable_answer", message=why
    )


def _success_object(answer: Answer) -> Json:
    """Body of a success; WireError when it is not the JSON it must be."""
    if answer.content_type != "application/json":
        raise WireError(f"content type {answer.content_type!r:.60}")
    return load_json(answer.body)


def _created(intent: Intent, ack: CreateAck, status: int) -> OrderOutcome:
    """Outcome of a create whose answer can be read; WireError when it is about something else."""
    if ack.client_order_id != intent.client_order_id:
        raise WireError(f"answer for client id {ack.client_order_id!r:.80}")
    if not 0 <= ack.filled_h <= ack.filled_h + ack.remaining_h <= intent.count_h:
        raise WireError(f"filled {ack.filled_h}, remaining {ack.remaining_h} of {intent.count_h}")
    return OrderOutcome(
        kind=OutcomeKind.ACCEPTED,
        status=status,
        order_id=ack.order_id,
        client_order_id=ack.client_order_id,
        filled_h=ack.filled_h,
        remaining_h=ack.remaining_h,
        average_price_cc=ack.average_price_cc,
        at_ms=ack.at_ms,
    )


def judge_create(intent: Intent, answer: Answer) -> OrderOutcome:
    """Outcome of a create. Only a 201 with our client id and an order id is a success."""
    if not 200 <= answer.status < 300:
        return _judge_error(answer, is_create=True)
    try:
        if answer.status != 201:
            raise WireError(f"status {answer.status} for a create")
        return _created(intent, decode_create_ack(_success_object(answer)), answer.status)
    except WireError as error:
        return _doubt(answer, str(error))


def judge_create_batch(intents: Sequence[Intent], answer: Answer) -> list[OrderOutcome]:
    """Outcomes of a batch create, one per intent, matched by client id and never by place."""
    if not 200 <= answer.status < 300:
        return [_judge_error(answer, is_create=True)] * len(intents)
    try:
        if answer.status != 201:
            raise WireError(f"status {answer.status} for a batch create")
        rows = _success_object(answer).get("orders")
        entries = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    except WireError as error:
        return [_doubt(answer, str(error))] * len(intents)
    return [_judge_entry(intent, entries, answer) for intent in intents]


def _judge_entry(intent: Intent, entries: Sequence[Json], answer: Answer) -> OrderOutcome:
    mine = [row for row in entries if row.get("client_order_id") == intent.client_order_id]
    if len(mine) != 1:
        return _doubt(answer, f"{len(mine)} entries for {intent.client_order_id}")
    error = mine[0].get("error")
    if isinstance(error, dict) and mine[0].get("order_id") is None:
        code, message = str(error.get("code") or ""), str(error.get("message") or "")
        kind = OutcomeKind.DUPLICATE if code == "order_already_exists" else OutcomeKind.REFUSED
        if not code:
            return _doubt(answer, "an entry with an error without a code")
        return OrderOutcome(kind=kind, status=answer.status, code=code[:64], message=message[:300])
    try:
        return _created(intent, decode_create_ack(mine[0]), answer.status)
    except WireError as wire_error:
        return _doubt(answer, str(wire_error))


def judge_change(order_id: str, is_decrease: bool, answer: Answer) -> OrderOutcome:
    """Outcome of an amend or a decrease; an answer about another order is UNKNOWN."""
    if not 200 <= answer.status < 300:
        return _judge_error(answer, is_create=False)
    try:
        obj = _success_object(answer)
        ack = decode_decrease_ack(obj) if is_decrease else decode_amend_ack(obj)
        if answer.status != 200 or ack.order_id != order_id:
            raise WireError(f"status {answer.status} for order {ack.order_id!r:.80}")
    except WireError as error:
        return _doubt(answer, str(error))
    return OrderOutcome(
        kind=OutcomeKind.ACCEPTED,
        status=answer.status,
        order_id=ack.order_id,
        client_order_id=ack.client_order_id,
        filled_h=ack.filled_h or 0,
        remaining_h=ack.remaining_h or 0,
        average_price_cc=ack.average_price_cc,
        at_ms=ack.at_ms,
    )


def _cancelled(ack: CancelAck, status: int) -> OrderOutcome:
    """Outcome of a cancel entry that is about the order that was asked for."""
    kind = OutcomeKind.ACCEPTED
    if ack.code or ack.message:
        kind = OutcomeKind.GONE if ack.code == "not_found" else OutcomeKind.REFUSED
    return OrderOutcome(
        kind=kind,
        status=status,
        code=ack.code,
        message=ack.message,
        order_id=ack.order_id,
        client_order_id=ack.client_order_id,
        reduced_h=ack.reduced_h,
        at_ms=ack.at_ms or 0,
    )


def judge_cancel(order_id: str, answer: Answer) -> OrderOutcome:
    """Outcome of a cancel; 404 is GONE, which does not tell cancelled from filled."""
    if not 200 <= answer.status < 300:
        return _judge_error(answer, is_create=False)
    try:
        ack = decode_cancel_ack(_success_object(answer))
        if answer.status != 200 or ack.order_id != order_id or ack.code:
            raise WireError(f"status {answer.status} for order {ack.order_id!r:.80} {ack.code}")
    except WireError as error:
        return _doubt(answer, str(error))
    return _cancelled(ack, answer.status)


def judge_cancel_batch(order_ids: Sequence[str], answer: Answer) -> list[OrderOutcome]:
    """Outcomes of a batch cancel, one per order asked for, matched by order id."""
    if not 200 <= answer.status < 300:
        return [_judge_error(answer, is_create=False)] * len(order_ids)
    try:
        if answer.status != 200:
            raise WireError(f"status {answer.status} for a batch cancel")
        acks = decode_batch_cancel(_success_object(answer))
    except WireError as error:
        return [_doubt(answer, str(error))] * len(order_ids)
    outcomes = []
    for order_id in order_ids:
        mine = [ack for ack in acks if ack.order_id == order_id]
        is_clear = len(mine) == 1
        outcomes.append(
            _cancelled(mine[0], answer.status)
            if is_clear
            else _doubt(answer, f"{len(mine)} entries for {order_id}")
        )
    return outcomes


# ======================================================================================
# §15c LINKS
# Purpose:   What a request needs on its way: endpoints, breaker, clock, session, order line.
# Position:  Uses §01, §02, §11, §15b. Used by §15d; §23 and §24 make the session through it.
# Principle: A request leaves once; TLS is verified; no proxy, cookie or redirect takes part.
# ======================================================================================

log_rest = logging.getLogger("trader.rest")

DEFAULT_COST: Final = 10.0  # tokens of a request that the exchange does not list
BREAKER_WINDOW_S: Final = 30.0
BREAKER_OPEN_S: Final = 10.0
CLOCK_DRIFT: Final = 0.001  # seconds by which a bound loosens per second of its age
USER_AGENT: Final = f"kalshi-trader/{VERSION}"
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)  # every request has its own asyncio.timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One kind of request. `signs`: `no`, `may` (when a key is there and accepted) or `must`."""

    name: str
    method: str
    template: str  # path below the base path, {…} for its parts
    signs: str = "must"
    cost: float = DEFAULT_COST


ENDPOINTS: Final[Mapping[str, Endpoint]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Endpoint(name="status", method="GET", template="/exchange/status", signs="no"),
            Endpoint(
                name="as_of", method="GET", template="/exchange/user_data_timestamp", signs="no"
            ),
            Endpoint(name="schedule", method="GET", template="/exchange/schedule", signs="no"),
            Endpoint(name="markets", method="GET", template="/markets", signs="no"),
            Endpoint(name="market", method="GET", template="/markets/{ticker}", signs="no"),
            Endpoint(
                name="orderbook", method="GET", template="/markets/{ticker}/orderbook", signs="may"
            ),
            Endpoint(name="orderbooks", method="GET", template="/markets/orderbooks", signs="may"),
            Endpoint(name="event", method="GET", template="/events/{event_ticker}", signs="no"),
            Endpoint(name="series", method="GET", template="/series/{series_ticker}", signs="no"),
            Endpoint(name="series_list", method="GET", template="/series", signs="no"),
            Endpoint(name="balance", method="GET", template="/portfolio/balance", cost=0.0),
            Endpoint(name="positions", method="GET", template="/portfolio/positions"),
            Endpoint(name="orders", method="GET", template="/portfolio/orders"),
            Endpoint(name="historical_orders", method="GET", template="/historical/orders"),
            Endpoint(name="queue", method="GET", template="/portfolio/orders/queue_positions"),
            Endpoint(name="fills", method="GET", template="/portfolio/fills"),
            Endpoint(name="settlements", method="GET", template="/portfolio/settlements"),
            Endpoint(name="limits", method="GET", template="/account/limits"),
            Endpoint(name="costs", method="GET", template="/account/endpoint_costs", signs="no"),
            Endpoint(name="api_keys", method="GET", template="/api_keys"),
            Endpoint(name="create", method="POST", template="/portfolio/events/orders"),
            Endpoint(
                name="create_batch", method="POST", template="/portfolio/events/orders/batched"
            ),
            Endpoint(
                name="cancel",
                method="DELETE",
                template="/portfolio/events/orders/{order_id}",
                cost=2.0,
            ),
            Endpoint(
                name="cancel_batch",
                method="DELETE",
                template="/portfolio/events/orders/batched",
                cost=2.0,
            ),
            Endpoint(
                name="amend", method="POST", template="/portfolio/events/orders/{order_id}/amend"
            ),
            Endpoint(
                name="decrease",
                method="POST",
                template="/portfolio/events/orders/{order_id}/decrease",
            ),
            Endpoint(name="group_create", method="POST", template="/portfolio/order_groups/create"),
            Endpoint(
                name="group_trigger",
                method="PUT",
                template="/portfolio/order_groups/{order_group_id}/trigger",
            ),
            Endpoint(
                name="group_delete",
                method="DELETE",
                template="/portfolio/order_groups/{order_group_id}",
            ),
        )
    }
)


class CircuitBreaker:
    """Opens after BREAKER_FAILURES in BREAKER_WINDOW_S; one probe passes each BREAKER_OPEN_S."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=BREAKER_FAILURES)
        self._opened_at_s: float | None = None
        self.opened = 0

    @property
    def is_open(self) -> bool:
        """Whether the host is taken for unreachable."""
        return self._opened_at_s is not None

    def may_pass(self) -> bool:
        """Whether a request may go now. While open, True once per BREAKER_OPEN_S: the probe."""
        if self._opened_at_s is None:
            return True
        now_s = self._clock.real_s()
        if now_s - self._opened_at_s < BREAKER_OPEN_S:
            return False
        self._opened_at_s = now_s
        return True

    def succeeded(self) -> None:
        """The host answered."""
        if self._opened_at_s is not None:
            log_rest.info("breaker closed")
        self._opened_at_s = None
        self._failures.clear()

    def failed(self) -> None:
        """The host did not answer, or with a server error."""
        now_s = self._clock.real_s()
        self._failures.append(now_s)
        is_full = len(self._failures) == BREAKER_FAILURES
        if self._opened_at_s is not None:
            self._opened_at_s = now_s
        elif is_full and now_s - self._failures[0] <= BREAKER_WINDOW_S:
            self._opened_at_s = now_s
            self.opened += 1
            log_rest.warning("breaker opened failures=%d", BREAKER_FAILURES)


class ClockSamples:
    """How far our wall clock is from the exchange's, from `Date` headers and stream time stamps.

    Samples are kept against the monotonic clock, so a step of our wall clock is seen at once and
    spoils none. `Date` has whole seconds: it says the server's time lay in [Date, Date + 1) while
    the request was under way. A stream time stamp may be old when it is heard: it only says that
    the server's time is not before it. The offset is the median of the middles of the last nine
    Date samples, held inside what all samples allow as long as they agree: nine polls at the same
    part of a second would otherwise be wrong by half of one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._dates: deque[tuple[float, float, float]] = deque(maxlen=CLOCK_BOUNDS)
        self._floors: deque[float] = deque(maxlen=CLOCK_SAMPLES)

    def add_date(self, date: str, sent_s: float, heard_s: float) -> None:
        """Note a `Date` header; times are `Clock.monotonic` before sending and after the head."""
        try:
            server_s = parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError):
            return
        self._dates.append((heard_s, server_s - heard_s, server_s + 1.0 - sent_s))

    def add_ms(self, ts_ms: int, heard_s: float) -> None:
        """Note a time stamp of the stream, heard at `heard_s` of `Clock.monotonic`."""
        self._floors.append(ts_ms / 1000 - heard_s)

    @property
    def count(self) -> int:
        """Date samples of the median, at most CLOCK_SAMPLES."""
        return min(len(self._dates), CLOCK_SAMPLES)

    def offset_s(self) -> float | None:
        """Exchange time minus our uncorrected wall time now, in seconds; None without samples."""
        if not self._dates:
            return None
        now_s = self._clock.monotonic()
        recent = list(self._dates)[-CLOCK_SAMPLES:]
        middle_s = statistics.median((low_s + high_s) / 2 for _, low_s, high_s in recent)
        low_s = max(low - (now_s - heard_s) * CLOCK_DRIFT for heard_s, low, _ in self._dates)
        high_s = min(high + (now_s - heard_s) * CLOCK_DRIFT for heard_s, _, high in self._dates)
        low_s = max([low_s, *(floor for floor in self._floors if floor <= high_s)])
        if low_s <= high_s:
            middle_s = min(max(middle_s, low_s), high_s)
        return middle_s + now_s - self._clock.wall_s()


def secure_tls(*urls: str) -> ssl.SSLContext | bool:
    """TLS settings of every connection to an exchange: verified, at least 1.2.

    True (aiohttp's own, verified too) where none of `urls` asks for TLS, as the simulator's do:
    reading the certificates takes a tenth of the start.
    """
    if urls and not any(urlsplit(url).scheme in ("https", "wss") for url in urls):
        return True
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def make_session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """The one HTTP session: no proxies from the environment, no cookies, no default timeout."""
    return aiohttp.ClientSession(
        connector=connector,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_NO_TIMEOUT,
        headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
    )


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware that keeps aiohttp from repeating a request when a kept connection was dead."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ExchangeError(0, "connection_lost", type(error).__name__, retryable=True) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One request, ready to leave."""

    endpoint: Endpoint
    path: str  # from the root, query included
    headers: dict[str, str] = field(repr=False)  # holds a signature
    body: bytes | None
    body_max: int


class _OrderLine:
    """Writes a create on a kept connection of the session's own pool, in the caller's turn.

    `session.post` spends about a hundred microseconds and, on Python 3.11, a task switch before
    its bytes leave. Here the request is one prepared head, one body, one write. A connection is
    taken only when one is waiting in the pool; else there is none, and `session.post` opens it.
    Rests on aiohttp's connector, `Connection` and `ResponseHandler` (version pinned, shape tested).
    """

    def __init__(self, session: aiohttp.ClientSession, origin: str, path: str) -> None:
        self._session, self._url = session, origin + path
        self._key: aiohttp.client_reqrep.ConnectionKey | None = None
        self._head = (
            f" HTTP/1.1\r\nHost: {urlsplit(origin).netloc}\r\n"
            f"User-Agent: {USER_AGENT}\r\nAccept: application/json\r\n"
        )
        self._create_head = f"POST {path}{self._head}Content-Type: application/json\r\n"
        self.used = 0

    def take(self) -> aiohttp.connector.Connection | None:
        """A warm connection of the pool, or None; never waits and opens none."""
        connector = self._session.connector
        if connector is None or connector.closed:
            return None
        if self._key is None:
            self._key = self._blank().connection_key
        try:
            connector._get(self._key, []).send(None)  # without traces it never suspends
        except StopIteration as done:
            connection: aiohttp.connector.Connection | None = done.value
            return connection
        raise AssertionError("taking a pooled connection must not wait")

    def _blank(self) -> aiohttp.ClientRequest:
        """A request for nothing: aiohttp's connector takes its address from one."""
        url = aiohttp.ClientRequest.url.__class__(self._url)  # aiohttp's own URL type
        return aiohttp.ClientRequest("POST", url, loop=asyncio.get_running_loop())

    async def open(self) -> aiohttp.connector.Connection:
        """A connection, warm or new. Raises aiohttp.ClientError or OSError; has no time limit."""
        connector = self._session.connector
        if connector is None or connector.closed:
            raise aiohttp.ClientConnectionError("the session is closed")
        return await connector.connect(self._blank(), [], _NO_TIMEOUT)

    def write(
        self,
        connection: aiohttp.connector.Connection,
        headers: Mapping[str, str],
        body: bytes,
        path: str | None = None,
    ) -> bool:
        """Hand a whole POST (by default a create) to the transport; False: nothing was written."""
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing():
            connection.close()
            return False
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        first = self._create_head if path is None else f"POST {path}{self._head}"
        head = f"{first}{lines}Content-Length: {len(body)}\r\n\r\n"
        transport.write(head.encode("ascii") + body)
        # No byte of the answer can be heard before this call has ended.
        protocol.set_response_params(read_until_eof=True, auto_decompress=True)
        self.used += path is None
        return True

    async def read(self, connection: aiohttp.connector.Connection, body_max: int) -> Answer:
        """The answer to what was written; the connection goes back to the pool if it is whole."""
        payload: aiohttp.StreamReader | None = None
        try:
            protocol = connection.protocol
            if protocol is None:
                raise ExchangeError(0, "connection_lost", "closed before the answer")
            message, payload = await protocol.read()
            while message.code < 200:
                message, payload = await protocol.read()
            chunks, size = [], 0
            while not payload.at_eof():
                chunks.append(await payload.readany())
                size += len(chunks[-1])
                if size > body_max:
                    raise ExchangeError(message.code, "too_large", f"more than {body_max} bytes")
        except (aiohttp.http.HttpProcessingError, aiohttp.EofStream) as error:
            raise ExchangeError(0, "broken_answer", str(error)) from error
        finally:
            # Only an answer read to its end leaves a connection that may be used again.
            is_whole = payload is not None and payload.at_eof()
            (connection.release if is_whole else connection.close)()
        content_type = message.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return Answer(message.code, content_type, b"".join(chunks))


# ======================================================================================
# §15d TRANSPORT
# Purpose:   Send one signed request and hear the whole answer; note what every answer teaches.
# Position:  Uses §01, §05, §11, §15a to §15c. Used by §15e and §15f.
# Principle: No retry lives here; no answer is an error with `was_sent`, never a guess.
#
#   _prepare ─ sign ─► _transport ─► session or order line ─► Answer ─► _note: breaker, key, budget
# ======================================================================================

BASIC_READ: Final = (200.0, 600.0)  # refill per second and capacity until the account's are read
BASIC_WRITE: Final = (100.0, 100.0)
BALANCE_PER_S: Final = 0.8  # the exchange grants one a second and counts arrivals, not sends
AUTH_PAUSE_S: Final = 30.0


class RestTransport:
    """One host, one key: signs, sends, times out, counts. The base of the REST client."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        signer: KalshiSigner | None,
        clock: Clock,
        *,
        request_timeout_s: float,
        rate_share: float = 0.8,
        may_open: Callable[[], bool] = lambda: True,
        permits: Callable[[str], bool] = lambda ticker: True,
        threads: bool = True,
    ) -> None:
        parts = urlsplit(base_url.rstrip("/"))
        self._origin, self._base_path = f"{parts.scheme}://{parts.netloc}", parts.path
        self._session, self._signer, self._clock = session, signer, clock
        self._timeout_s, self._rate_share = request_timeout_s, rate_share
        self.may_open, self.permits = may_open, permits
        self._threads = threads
        self._stock = self._new_stock()
        self._line = _OrderLine(
            session, self._origin, self._base_path + ENDPOINTS["create"].template
        )
        self.reads = self._bucket(*BASIC_READ)
        self.writes = self._bucket(*BASIC_WRITE)
        self._balances = TokenBucket(clock, capacity=1.0, refill_per_s=BALANCE_PER_S)
        self._costs: dict[str, float] = {each.name: each.cost for each in ENDPOINTS.values()}
        self._read_backoff = Backoff(clock)
        self.breaker = CircuitBreaker(clock)
        self.clock_samples = ClockSamples(clock)
        self.needs_clock_sync = False
        self._refused_at_s: float | None = None
        self.auth_error: str | None = None
        self.requests: Counter[tuple[str, int]] = Counter()
        self.latency_s: dict[str, deque[float]] = {}
        self.count_429 = self.errors = self.errors_in_row = 0
        self.last_error: str | None = None

    def _bucket(self, refill_per_s: float, capacity: float) -> TokenBucket:
        share = self._rate_share
        return TokenBucket(
            self._clock, capacity=capacity * share, refill_per_s=refill_per_s * share
        )

    def _new_stock(self) -> SignatureStock | None:
        if self._signer is None:
            return None
        path = self._base_path + ENDPOINTS["create"].template
        return SignatureStock(self._signer, self._clock, "POST", path, threads=self._threads)

    def replace_signer(self, signer: KalshiSigner) -> None:
        """Use another key from now on (SIGHUP); open orders keep their identity."""
        self.close()
        self._signer = signer
        self._refused_at_s, self.auth_error = None, None
        self._stock = self._new_stock()

    def close(self) -> None:
        """End the worker. The session belongs to §23."""
        if self._stock is not None:
            self._stock.close()

    # ---- readiness -------------------------------------------------------------------

    @property
    def is_key_refused(self) -> bool:
        """Whether the exchange refused our key (401, 403) and has not accepted it since."""
        return self._refused_at_s is not None

    @property
    def is_healthy(self) -> bool:
        """Whether commands can be expected to be answered."""
        return not (self.is_key_refused or self.breaker.is_open)

    def _clock_was_set(self) -> None:
        """A signature refused for its time is worth another attempt at once."""
        if self.needs_clock_sync:
            self.needs_clock_sync, self._refused_at_s = False, None

    def _must_wait_for_key(self) -> bool:
        """While the key is refused, let one signed request pass per AUTH_PAUSE_S."""
        if self._refused_at_s is None:
            return False
        now_s = self._clock.real_s()
        if now_s - self._refused_at_s < AUTH_PAUSE_S:
            return True
        self._refused_at_s = now_s
        return False

    # ---- one request -----------------------------------------------------------------

    def _prepare(
        self,
        name: str,
        *parts: str,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        body_max: int = JSON_BYTES_MAX,
    ) -> _Request:
        """Address, sign and pack one request. WireError for a part that may not enter a URL."""
        endpoint = ENDPOINTS[name]
        path = self._base_path + endpoint.template
        for part in parts:
            head, _, tail = path.partition("{")
            path = head + check_path_part(part) + tail.partition("}")[2]
        headers = {} if body is None else {"Content-Type": "application/json"}
        if endpoint.signs == "must" or (endpoint.signs == "may" and self._can_sign):
            headers.update(self._sign(endpoint, path))
        if query:
            path += "?" + "&".join(f"{key}={quote(value, safe='')}" for key, value in query)
        return _Request(endpoint=endpoint, path=path, headers=headers, body=body, body_max=body_max)

    @property
    def _can_sign(self) -> bool:
        return self._signer is not None and not self.is_key_refused

    def _sign(self, endpoint: Endpoint, path: str) -> dict[str, str]:
        if self._signer is None or self._stock is None:
            raise ExchangeError(0, "no_key", f"{endpoint.name} needs an API key", was_sent=False)
        if endpoint.name == "create":
            return self._stock.take()
        return self._signer.headers(endpoint.method, path, self._clock.now_ms())

    async def _transport(
        self, request: _Request, written: aiohttp.connector.Connection | None = None
    ) -> Answer:
        """Send once and read the whole answer, whatever its status.

        `written` is the connection on which the request has left already. Raises ExchangeError with
        status 0 when there is no answer; `was_sent` is False only when no connection was opened.
        """
        name, sent_s = request.endpoint.name, self._clock.monotonic()
        real_s = self._clock.real_s()
        try:
            async with asyncio.timeout(self._timeout_s):
                if written is not None:
                    answer = await self._line.read(written, request.body_max)
                else:
                    answer = await self._talk(request, sent_s)
        except TimeoutError as error:
            raise self._no_answer(name, "timeout", error, was_sent=True) from error
        except aiohttp.ClientConnectorError as error:
            raise self._no_answer(name, "not_connected", error, was_sent=False) from error
        except ExchangeError as error:
            raise self._no_answer(name, error.code, error, was_sent=True) from error
        except aiohttp.ClientResponseError as error:  # its repr holds our headers: not chained
            raise self._no_answer(name, "broken_answer", error, was_sent=True) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._no_answer(name, "broken_answer", error, was_sent=True) from error
        self.latency_s.setdefault(name, deque(maxlen=LATENCIES_MAX)).append(
            self._clock.real_s() - real_s
        )
        self._note(request.endpoint, answer)
        return answer

    async def _talk(self, request: _Request, sent_s: float) -> Answer:
        async with self._session.request(
            request.endpoint.method,
            self._origin + request.path,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            middlewares=(_send_once,),
        ) as response:
            date = response.headers.get("Date")
            if date is not None and request.endpoint.method == "GET":
                self.clock_samples.add_date(date, sent_s, self._clock.monotonic())
            body = await self._whole_body(response, request.body_max)
            return Answer(response.status, response.content_type.lower(), body)

    async def _whole_body(self, response: aiohttp.ClientResponse, body_max: int) -> bytes:
        """All bytes, decompressed; ExchangeError beyond `body_max` (the connection is dropped)."""
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > body_max:
                response.close()
                raise ExchangeError(response.status, "too_large", f"more than {body_max} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    def _no_answer(
        self, name: str, code: str, error: Exception, *, was_sent: bool
    ) -> ExchangeError:
        self.requests[name, 0] += 1
        self._count_error(f"{name}: {code}")
        self.breaker.failed()
        why = f"{type(error).__name__}: {error}"[:ERROR_TEXT_MAX]
        return ExchangeError(0, code, why, retryable=True, was_sent=was_sent)

    def _note(self, endpoint: Endpoint, answer: Answer) -> None:
        """Draw the conclusions that every answer allows: breaker, key, budget, counters."""
        self.requests[endpoint.name, answer.status] += 1
        if answer.status >= 500 and not self._tells_status(endpoint, answer):
            self._count_error(f"{endpoint.name}: {answer.status}")
            self.breaker.failed()
            return
        self.breaker.succeeded()
        if answer.status in (401, 403):
            self._key_refused(answer)
        elif answer.status == 429:
            self.count_429 += 1
            (self.reads if endpoint.method == "GET" else self.writes).drain()
        elif endpoint.signs == "must":
            self._refused_at_s, self.auth_error = None, None
        if answer.status < 400:
            self.errors_in_row = 0

    @staticmethod
    def _tells_status(endpoint: Endpoint, answer: Answer) -> bool:
        """Whether a 503 or 504 is the exchange's own word that it is closed, and no failure."""
        is_closed = endpoint.name == "status" and answer.status in (503, 504)
        return is_closed and b'"exchange_active"' in answer.body

    def _key_refused(self, answer: Answer) -> None:
        code, message = decode_error(answer.status, answer.content_type, answer.body)
        self._refused_at_s = self._clock.real_s()
        self.auth_error = message
        self.needs_clock_sync = self.needs_clock_sync or code == "header_timestamp_expired"
        self._count_error(f"{answer.status}: {message}")
        log_rest.warning("key refused status=%d why=%s", answer.status, message)

    def _count_error(self, what: str) -> None:
        self.errors += 1
        self.errors_in_row += 1
        self.last_error = what


# ======================================================================================
# §15e READS
# Purpose:   Everything that can be asked of the exchange, typed, paged and within the read budget.
# Position:  Uses §05, §11, §15d. Used by §17, §18, §20 through §15f.
# Principle: A read is repeated only for reasons that pass; a list is whole or an error.
# ======================================================================================

READ_WAIT_MAX_S: Final = 10.0  # longest wait for read budget before giving up
CLOCK_STEP_MIN_S: Final = 0.3
CLOCK_SAMPLE_PAUSE_S: Final = 0.11  # spreads nine samples over the second that Date resolves


class RestReads(RestTransport):
    """Typed reads. ExchangeError for an error status or no answer, WireError for nonsense."""

    async def _get(
        self,
        name: str,
        *parts: str,
        query: Iterable[tuple[str, object]] = (),
        tries: int = READ_TRIES,
    ) -> Json:
        """One read, repeated only for reasons that pass. ExchangeError or WireError otherwise."""
        pairs = [(key, str(value)) for key, value in query if value is not None and value != ""]
        for attempt in range(1, tries + 1):
            try:
                return await self._get_once(name, parts, pairs)
            except ExchangeError as error:
                if not error.retryable or attempt == tries or self.breaker.is_open:
                    raise
                await self._clock.sleep(self._read_backoff.next_s())
        raise AssertionError("the loop above returns or raises")

    async def _get_once(
        self, name: str, parts: Sequence[str], query: Sequence[tuple[str, str]]
    ) -> Json:
        endpoint = ENDPOINTS[name]
        if endpoint.signs == "must" and self._must_wait_for_key():
            raise ExchangeError(0, "key_refused", self.auth_error or "", was_sent=False)
        if not self.breaker.may_pass():
            raise ExchangeError(0, "breaker_open", self.last_error or "", was_sent=False)
        await self._wait_budget(name)
        answer = await self._transport(self._prepare(name, *parts, query=query))
        if answer.status == 200 or self._tells_status(endpoint, answer):
            self._read_backoff.worked()
            return _success_object(answer)
        code, message = decode_error(answer.status, answer.content_type, answer.body)
        is_passing = answer.status in (408, 425, 429) or answer.status >= 500
        raise ExchangeError(answer.status, code, message, retryable=is_passing)

    async def _wait_budget(self, name: str) -> None:
        bucket, cost = (self.reads, self._costs[name])
        if name == "balance":
            bucket, cost = self._balances, 1.0
        if bucket.left() - cost < -READ_WAIT_MAX_S * bucket.refill_per_s:
            raise ExchangeError(0, "rate_budget", "read budget used up", was_sent=False)
        await bucket.wait(cost)

    async def _list(
        self,
        name: str,
        key: str,
        decode: Callable[[Json], T],
        query: Sequence[tuple[str, object]] = (),
    ) -> list[T]:
        """All pages of a list, every row understood. WireError for a cursor that comes twice."""
        rows: list[T] = []
        seen: set[str] = set()
        cursor = ""
        for _ in range(PAGES_MAX):
            page = await self._get(name, query=(*query, ("limit", PAGE_LIMIT), ("cursor", cursor)))
            found, cursor, _refused = decode_page(page, key, decode, strict=True)
            rows += found
            if not cursor:
                return rows
            if cursor in seen:
                raise WireError(f"{name}: the cursor {cursor!r:.40} came twice")
            seen.add(cursor)
        raise WireError(f"{name}: more than {PAGES_MAX} pages")

    async def exchange_status(self) -> tuple[bool, bool]:
        """(exchange_active, trading_active)."""
        return decode_exchange_status(await self._get("status"))

    async def schedule(self) -> Json:
        """The exchange's own calendar, as sent."""
        return await self._get("schedule")

    async def user_data_timestamp_ms(self) -> int:
        """As-of time of balance, orders, fills and positions, Unix ms."""
        return decode_rfc3339_ms((await self._get("as_of")).get("as_of_time"))

    async def markets_page(
        self, cursor: str = "", **filters: str | int
    ) -> tuple[list[Market], str, int]:
        """One page of markets: those understood, the next cursor ("" at the end), rows refused."""
        query = (*({"limit": PAGE_LIMIT} | filters).items(), ("cursor", cursor))
        page = await self._get("markets", query=query)
        return decode_page(page, "markets", decode_market, strict=False)

    async def market(self, ticker: str) -> Market:
        """One market; ExchangeError 404 when unknown."""
        obj = (await self._get("market", ticker)).get("market")
        if not isinstance(obj, dict):
            raise WireError("answer without a market")
        return decode_market(obj)

    async def orderbook(self, ticker: str) -> BookSides:
        """All levels of one market: YES bids and NO bids, each on its own scale."""
        return decode_orderbook(await self._get("orderbook", ticker, query=[("depth", 0)]))

    async def orderbooks(self, tickers: Sequence[str]) -> dict[str, BookSides]:
        """Books of up to 100 markets by ticker."""
        assert 1 <= len(tickers) <= 100, f"{len(tickers)} books asked for at once"
        query = [("tickers", check_path_part(ticker)) for ticker in tickers]
        return decode_orderbooks(await self._get("orderbooks", query=query))

    async def event(self, event_ticker: str) -> EventReport:
        """One event, without its markets."""
        return decode_event(await self._get("event", event_ticker))

    async def event_raw(self, event_ticker: str) -> tuple[str, Json]:
        """Address and whole answer of an event with its markets, for a tape's event.json."""
        obj = await self._get("event", event_ticker)
        return f"{self._origin}{self._base_path}/events/{event_ticker}", obj

    async def series(self, series_ticker: str) -> SeriesReport:
        """One series with its fee model."""
        return decode_series(await self._get("series", series_ticker))

    async def series_of_category(self, category: str) -> set[str]:
        """Tickers of all series of a category, as the exchange spells it."""
        page = await self._get("series_list", query=[("category", category)])
        rows, _, _ = decode_page(page, "series", decode_series_row, strict=False)
        return {row.ticker for row in rows}

    async def balance(self) -> Balance:
        """Cash of the account; at most one call a second."""
        return decode_balance(await self._get("balance"))

    async def positions(self) -> list[PositionReport]:
        """Every market of the account with a position or trades, unsettled."""
        return await self._list("positions", "market_positions", decode_position)

    async def orders(
        self, ticker: str | None = None, status: str | None = None
    ) -> list[OrderReport]:
        """Orders of the account, newest first, all pages; None means any."""
        query = (("ticker", ticker), ("status", status))
        return await self._list("orders", "orders", decode_order, query)

    async def historical_orders(self, ticker: str | None = None) -> list[OrderReport]:
        """Orders that the exchange moved out of the live list."""
        query = (("ticker", ticker),)
        return await self._list("historical_orders", "orders", decode_order, query)

    async def queue_positions(self, tickers: Iterable[str]) -> dict[str, int]:
        """Contracts ahead of each own resting order of these markets, by exchange order id."""
        query = [("market_tickers", ",".join(map(check_path_part, tickers)))]
        page = await self._get("queue", query=query, tries=1)
        return dict(decode_page(page, "queue_positions", decode_queue, strict=True)[0])

    async def fills(
        self, min_ts_s: int | None = None, ticker: str | None = None, order_id: str | None = None
    ) -> list[FillReport]:
        """Fills of the account since `min_ts_s` (Unix seconds), newest first, all pages."""
        query = (("min_ts", min_ts_s), ("ticker", ticker), ("order_id", order_id))
        return await self._list("fills", "fills", decode_fill, query)

    async def settlements(
        self, min_ts_s: int | None = None, ticker: str | None = None
    ) -> list[Settlement]:
        """Payouts since `min_ts_s` (Unix seconds), of one market or all."""
        query = (("min_ts", min_ts_s), ("ticker", ticker))
        return await self._list("settlements", "settlements", decode_settlement, query)

    async def account_limits(self) -> AccountLimits:
        """Read the account's token buckets and keep to `rate_share` of them from now on."""
        limits = decode_limits(await self._get("limits"))
        for bucket, per_s, burst in (
            (self.reads, limits.read_per_s, limits.read_burst),
            (self.writes, limits.write_per_s, limits.write_burst),
        ):
            if per_s <= 0 or burst <= 0:
                raise WireError(f"account limits of {per_s} per s, burst {burst}")
            share = self._rate_share
            bucket.resize(capacity=burst * share, refill_per_s=per_s * share)
        return limits

    async def endpoint_costs(self) -> EndpointCosts:
        """Read what each request costs and bill ourselves the same."""
        costs = decode_endpoint_costs(await self._get("costs"))
        listed = {(method, _shape(path)): float(cost) for method, path, cost in costs.rows}
        for endpoint in ENDPOINTS.values():
            if endpoint.name != "balance":
                key = endpoint.method, _shape(self._base_path + endpoint.template)
                self._costs[endpoint.name] = listed.get(key, self._cost_else(endpoint, costs))
        return costs

    @staticmethod
    def _cost_else(endpoint: Endpoint, costs: EndpointCosts) -> float:
        """Cost of a request that is not listed; a batch is billed per item like its single form."""
        return endpoint.cost if endpoint.cost != DEFAULT_COST else float(costs.default)

    async def api_keys(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """(key id, scopes) of the account's keys, where ours may read them."""
        return decode_api_keys(await self._get("api_keys"))

    async def learn_limits(self) -> AccountLimits:
        """Take over the account's buckets and the cost of each request."""
        limits = await self.account_limits()
        await self.endpoint_costs()
        return limits

    async def sync_clock(self) -> float:
        """Take CLOCK_SAMPLES fresh samples, correct the clock; its offset in seconds."""
        for _ in range(CLOCK_SAMPLES):
            await self.exchange_status()
            await self._clock.sleep(CLOCK_SAMPLE_PAUSE_S)
        offset_s = self.apply_clock()
        if offset_s is None:
            raise WireError("the exchange sends no Date header")
        return offset_s

    def apply_clock(self) -> float | None:
        """Correct the clock by the samples at hand; its offset in seconds, None without samples.

        Every read adds a sample, so calling this now and then is enough to follow a drift. A
        correction finer than whole seconds can prove is left out: our time should not jitter.
        """
        offset_s = self.clock_samples.offset_s()
        if offset_s is not None:
            if abs(offset_s - self._clock.offset_s) > CLOCK_STEP_MIN_S:
                self._clock.offset_s = offset_s
            self._clock_was_set()
        return offset_s


def _shape(path: str) -> str:
    """A path template with its variable parts made equal: `{id}`, `:id`, `{order_id}` are one."""
    return re.sub(r"\{[^/]*\}|:[^/]+", "{}", path)


# ======================================================================================
# §15f REST CLIENT
# Purpose:   Order commands: budget, last look at the latch, one send, a named outcome.
# Position:  Uses §01, §03, §05, §11, §15b to §15e. Used by §17 and §18; made by §23.
# Principle: A command is sent once and its outcome is named; doubt is an outcome, never an error.
#
#   create() ─ encode, sign, latch ─► warm line: bytes leave in the call ─► task hears ─► judge
#                                └─► no warm line: session.post in the task
# ======================================================================================

CANCEL_RESERVE: Final = 0.2  # part of the write budget that only cancels and kill may use
_COMMAND_ENDPOINTS: Final = {
    CommandKind.CREATE: "create",
    CommandKind.AMEND: "amend",
    CommandKind.DECREASE: "decrease",
    CommandKind.CANCEL: "cancel",
}


class KalshiRest(RestReads):
    """Typed access to the exchange. Owned by §23; used by §17, §18, §20 and the commands of §24.

    `may_open` (the kill latch) and `permits(ticker)` (the gates of a market) are asked as the last
    thing before a create or an amend leaves.
    With `threads=False` no worker signs ahead (virtual time).
    """

    def try_budget(self, kind: CommandKind, items: int = 1) -> bool:
        """Take the tokens of `items` commands now; False takes nothing.

        A fifth of the write budget is kept for cancels.
        """
        cost = self._costs[_COMMAND_ENDPOINTS[kind]] * items
        keep = 0.0 if kind is CommandKind.CANCEL else self.writes.capacity * CANCEL_RESERVE
        return self.writes.try_take(cost, keep=keep)

    def create(self, intent: Intent, group_id: str | None) -> Coroutine[Any, Any, OrderOutcome]:
        """Send one new order, once; await what becomes of it.

        On a warm connection the bytes leave in this call, without a task switch; else the returned
        coroutine opens one. The budget must have been taken with try_budget, the intent journaled.
        """
        assert intent.kind is CommandKind.CREATE, f"a create of kind {intent.kind}"
        body, judge = encode_create(intent, group_id=group_id), partial(judge_create, intent)
        is_ready = self._stock is not None and self.is_healthy
        connection = self._line.take() if is_ready else None
        if connection is not None and self._stock is not None:
            headers = self._stock.take()
            # Nothing may come between this last look at the latch and the write.
            if self._stopped(opens=True) is not None:
                connection.release()
            elif self._line.write(connection, headers, body):
                return self._outcome(connection, judge)
        prepare = partial(self._prepare, "create", body=body, body_max=ORDER_BODY_MAX)
        return self._command(prepare, judge, opens=(intent.ticker,))

    async def _outcome(
        self, connection: aiohttp.connector.Connection, judge: Callable[[Answer], OrderOutcome]
    ) -> OrderOutcome:
        """Outcome of a create that has left on the order line."""
        left = _Request(
            endpoint=ENDPOINTS["create"], path="", headers={}, body=None, body_max=ORDER_BODY_MAX
        )
        try:
            return judge(await self._transport(left, connection))
        except ExchangeError as error:
            return OrderOutcome(kind=OutcomeKind.UNKNOWN, code=error.code, message=error.message)

    def amend(self, intent: Intent) -> Coroutine[Any, Any, OrderOutcome]:
        """Change price, size or expiry of a resting order, once."""
        assert intent.order_id is not None, "an amend needs the exchange's order id"
        prepare = partial(
            self._prepare,
            "amend",
            intent.order_id,
            body=encode_amend(intent),
            body_max=ORDER_BODY_MAX,
        )
        judge = partial(judge_change, intent.order_id, False)
        return self._command(prepare, judge, opens=(intent.ticker,))

    def decrease(self, order: Order, remaining_h: int) -> Coroutine[Any, Any, OrderOutcome]:
        """Shrink a resting order to `remaining_h`, once; it keeps its queue place."""
        assert order.order_id is not None, "a decrease needs the exchange's order id"
        prepare = partial(
            self._prepare,
            "decrease",
            order.order_id,
            body=encode_decrease(remaining_h, order.ticker),
            body_max=ORDER_BODY_MAX,
        )
        return self._command(prepare, partial(judge_change, order.order_id, True))

    def cancel(self, order: Order) -> Coroutine[Any, Any, OrderOutcome]:
        """Cancel one order, once; the ticker goes along, or the exchange asks shard 0."""
        assert order.order_id is not None, "a cancel needs the exchange's order id"
        prepare = partial(
            self._prepare,
            "cancel",
            order.order_id,
            query=(("market_ticker", order.ticker),),
            body_max=ORDER_BODY_MAX,
        )
        return self._command(prepare, partial(judge_cancel, order.order_id))

    async def cancel_batch(self, orders: Sequence[Order]) -> list[OrderOutcome]:
        """Cancel several orders in one request; outcomes in the order given.

        Takes its tokens itself, ahead of everybody else, and does not wait for them.
        """
        ids = [order.order_id for order in orders if order.order_id is not None]
        assert ids, "a batch cancel of nothing"
        assert len(ids) == len(orders), "a batch cancel needs order ids"
        self.writes.reserve(self._costs["cancel_batch"] * len(ids))
        body = encode_batch_cancel((str(each.order_id), each.ticker) for each in orders)
        prepare = partial(self._prepare, "cancel_batch", body=body)
        return await self._batch(prepare, partial(judge_cancel_batch, ids), len(ids))

    async def create_batch(
        self, intents: Sequence[Intent], group_id: str | None
    ) -> list[OrderOutcome]:
        """Send several new orders in one request, once; outcomes in the order given."""
        bodies = [encode_create(intent, group_id=group_id) for intent in intents]
        body = b'{"orders":[' + b",".join(bodies) + b"]}"
        prepare = partial(self._prepare, "create_batch", body=body)
        judge = partial(judge_create_batch, intents)
        opens = tuple(intent.ticker for intent in intents)
        return await self._batch(prepare, judge, len(intents), opens=opens)

    def _stopped(self, *, opens: bool) -> str | None:
        """Why a command must not leave now; None when it may. Cancels pass an open breaker."""
        if self._session.closed:
            return "closed"
        if opens and not self.may_open():
            return "halted"
        if opens and not self.breaker.may_pass():
            return "breaker_open"
        return "key_refused" if self._must_wait_for_key() else None

    async def _command(
        self,
        prepare: Callable[[], _Request],
        judge: Callable[[Answer], OrderOutcome],
        *,
        opens: tuple[str, ...] = (),
    ) -> OrderOutcome:
        return (await self._batch(prepare, lambda answer: [judge(answer)], 1, opens=opens))[0]

    async def _batch(
        self,
        prepare: Callable[[], _Request],
        judge: Callable[[Answer], list[OrderOutcome]],
        size: int,
        *,
        opens: tuple[str, ...] = (),
    ) -> list[OrderOutcome]:
        """Send a command once and name its outcome; raises nothing but cancellation.

        `opens` names the markets in which it takes risk; empty: it only closes.
        """
        code = self._stopped(opens=bool(opens))
        if code is not None:
            return [OrderOutcome(kind=OutcomeKind.NEVER_SENT, code=code)] * size
        try:
            request, written = prepare(), None
            if opens:
                written = await self._write_if_allowed(request, opens)
            return judge(await self._transport(request, written))
        except WireError as error:  # only _prepare raises it: a part that may not enter a URL
            outcome = OrderOutcome(kind=OutcomeKind.NEVER_SENT, code="bad_id", message=str(error))
        except ExchangeError as error:
            kind = OutcomeKind.UNKNOWN if error.was_sent else OutcomeKind.NEVER_SENT
            outcome = OrderOutcome(kind=kind, code=error.code, message=error.message)
        return [outcome] * size

    async def _write_if_allowed(
        self, request: _Request, opens: tuple[str, ...]
    ) -> aiohttp.connector.Connection:
        """Open a connection, ask latch and gates again, write at once (rule A11).

        ExchangeError with `was_sent` False when nothing was written.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._line.open()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._no_answer(
                request.endpoint.name, "not_connected", error, was_sent=False
            ) from error
        is_allowed = self.may_open() and all(self.permits(ticker) for ticker in opens)
        if not is_allowed:
            connection.release()
            raise ExchangeError(0, "no_longer_allowed", "a gate closed meanwhile", was_sent=False)
        if not self._line.write(connection, request.headers, request.body or b"", request.path):
            raise ExchangeError(0, "connection_lost", "closed before the write", was_sent=False)
        return connection

    # ---- order groups ----------------------------------------------------------------

    async def create_group(self, limit_h: int) -> str:
        """Make the order group of this run: at most `limit_h` may fill in 15 s. Its id."""
        body = orjson.dumps({"contracts_limit_fp": format_count(limit_h)})
        obj = await self._write("group_create", body=body, expected=201)
        group_id = obj.get("order_group_id")
        if not isinstance(group_id, str):
            raise WireError("order group without an id")
        return check_path_part(group_id)

    async def trigger_group(self, group_id: str) -> None:
        """Cancel all orders of the group at the exchange and refuse new ones."""
        await self._write("group_trigger", group_id, body=b"{}", expected=200)

    async def delete_group(self, group_id: str) -> None:
        """Remove the group; what is left in it is cancelled."""
        await self._write("group_delete", group_id, body=None, expected=200)

    async def _write(self, name: str, *parts: str, body: bytes | None, expected: int) -> Json:
        """One write that is no order; sent once. ExchangeError or WireError unless it succeeded."""
        code = self._stopped(opens=False)
        if code is not None:
            raise ExchangeError(0, code, self.auth_error or "", was_sent=False)
        self.writes.reserve(self._costs[name])
        answer = await self._transport(self._prepare(name, *parts, body=body))
        if answer.status != expected:
            code, message = decode_error(answer.status, answer.content_type, answer.body)
            raise ExchangeError(answer.status, code, message)
        return _success_object(answer)


# ======================================================================================
# §16a SUBSCRIPTIONS
# Purpose:   What is wanted of the stream against what the exchange has acknowledged.
# Position:  Uses §01, §03, §05, §11. Owned by KalshiStream (§16c), which carries the bytes.
# Principle: One command in flight per channel; every command is answered, or something is done.
# ======================================================================================

log_stream = logging.getLogger("trader.stream")

# Seconds of a socket are real ones, also when a tape's clock runs faster.
WS_ACK_S: Final = 5.0  # an unanswered command ends the connection
WS_SNAPSHOT_S: Final = 3.0  # an unanswered get_snapshot leads to a new subscription

BOOK_CHANNEL: Final = "orderbook_delta"
PRIVATE_CHANNELS: Final = ("user_orders", "fill", "market_positions", "order_group_updates")
_REPLY_KINDS: Final = frozenset({"subscribed", "ok", "unsubscribed", "error"})
_TERMINAL_CODES: Final = frozenset({10, 25})
_UNKNOWN_SID: Final = 7


@dataclass(slots=True)
class Channel:
    """One channel as wanted and as acknowledged; `sid` None: not subscribed now.

    `seq` is the last number seen: it counts every message of the sid, all markets together.
    """

    name: str
    tickers: set[str] | None  # wanted; None: no filter
    backoff: Backoff
    sid: int | None = None
    seq: int = 0
    asked: set[str] = field(default_factory=set)  # markets the exchange was asked for
    busy_id: int | None = None  # command in flight that changes the subscription
    snapshot_id: int | None = None  # get_snapshot in flight
    retry_at_s: float = 0.0

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to subscribe to."""
        return self.tickers is None or bool(self.tickers)


@dataclass(slots=True)
class _Command:
    verb: str
    channel: Channel
    tickers: frozenset[str]
    sent_at_s: float
    missing: set[str] = field(default_factory=set)  # snapshots still to come


class Subscriptions:
    """Bookkeeping of channels and commands of the one connection; no waiting anywhere.

    The owner sets the callbacks: `send` writes a command, `reconnect` gives the connection up,
    `on_gap(channel, why)` says that the channel's sequence is broken, `on_refused(ticker, why)`
    that the exchange does not know a market, `on_complete()` that everything wanted is there.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_id = 0
        self._pending: dict[int, _Command] = {}
        self.channels: dict[str, Channel] = {}
        self.by_sid: dict[int, Channel] = {}
        self.is_open = False
        self.send: Callable[[bytes], None] = hear_nothing
        self.reconnect: Callable[[str], None] = hear_nothing
        self.on_gap: Callable[[str, str], None] = hear_nothing
        self.on_refused: Callable[[str, str], None] = hear_nothing
        self.on_complete: Callable[[], None] = hear_nothing
        self.gaps = self.ignored = self.error_replies = self.acks_missed = 0
        self.resubscribes = 0
        self.error_codes: Counter[int] = Counter()
        self.last_reply_error: str | None = None

    # -- wishes -------------------------------------------------------------------------

    def want(self, name: str, tickers: Iterable[str] | None) -> None:
        """Subscribe channel `name` for exactly these markets (None: no filter), now and ever."""
        wanted = None if tickers is None else set(tickers)
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel(name, wanted, Backoff(self._clock))
        channel.tickers = wanted
        self._sync(channel)

    def get_snapshot(self, tickers: Iterable[str]) -> bool:
        """Ask for fresh books; False when not subscribed or another command is in flight."""
        channel = self.channels.get(BOOK_CHANNEL)
        if channel is None or channel.sid is None or channel.busy_id is not None:
            return False
        asked = sorted(channel.asked.intersection(tickers))
        if not asked or channel.snapshot_id is not None:
            return False
        command_id = channel.snapshot_id = self._new_command("get_snapshot", channel, asked)
        self._pending[command_id].missing = set(asked)
        self.send(encode_update(command_id, channel.sid, "get_snapshot", asked))
        return True

    def snapshot_came(self, ticker: str) -> None:
        """A snapshot arrived: the get_snapshot in flight may be answered now."""
        channel = self.channels.get(BOOK_CHANNEL)
        if channel is None or channel.snapshot_id is None:
            return
        command = self._pending[channel.snapshot_id]
        command.missing.discard(ticker)
        if not command.missing:
            del self._pending[channel.snapshot_id]
            channel.snapshot_id = None

    def resubscribe(self, name: str, why: str) -> None:
        """End this subscription and begin it anew; spaced out by the channel's own backoff."""
        channel = self.channels[name]
        if channel.sid is None or channel.busy_id is not None:
            return
        log_stream.warning("resubscribe channel=%s why=%s", name, why)
        self.resubscribes += 1
        self._delay(channel)
        command_id = channel.busy_id = self._new_command("unsubscribe", channel, ())
        self.send(encode_unsubscribe(command_id, channel.sid))

    # -- connection -----------------------------------------------------------------------

    def opened(self) -> None:
        """A new connection: ask for everything."""
        self.is_open = True
        for channel in self.channels.values():
            channel.retry_at_s = 0.0
            self._sync(channel)

    def closed(self) -> None:
        """The connection is gone, and every subscription with it; nothing is replayed."""
        self.is_open = False
        self._pending.clear()
        self.by_sid.clear()
        for channel in self.channels.values():
            channel.sid = channel.busy_id = channel.snapshot_id = None
            channel.seq = 0
            channel.asked.clear()

    def tend(self) -> None:
        """Look at the deadlines; try again what had to wait."""
        now_s = self._clock.real_s()
        for command_id, command in list(self._pending.items()):
            waited_s = now_s - command.sent_at_s
            if command.verb == "get_snapshot" and waited_s >= WS_SNAPSHOT_S:
                del self._pending[command_id]
                command.channel.snapshot_id = None
                self.acks_missed += 1
                self.resubscribe(command.channel.name, f"{len(command.missing)} snapshots missing")
            elif waited_s >= WS_ACK_S:
                self.acks_missed += 1
                self.reconnect(f"no answer to {command.verb} on {command.channel.name}")
                return
        for channel in self.channels.values():
            self._sync(channel)

    def may_use(self, channel: Channel | None, seq: object, kind: object) -> bool:
        """Whether a frame with an unexpected number may be used; tells of a gap.

        Data of a subscription that has ended, and data with an old number, are not used. A reply is
        found by its id, so it counts whatever its number.
        """
        if type(seq) is not int:
            raise WireError(f"seq: no whole number but {seq!r:.60}")
        if channel is None or seq <= channel.seq:
            is_reply = kind in _REPLY_KINDS
            self.ignored += not is_reply
            return is_reply
        self.gaps += 1
        why = f"sequence gap on sid {channel.sid}: {channel.seq}, then {seq}"
        log_stream.debug("gap channel=%s why=%s", channel.name, why)
        channel.seq = seq
        self.on_gap(channel.name, why)
        return True

    # -- replies ----------------------------------------------------------------------------

    def on_subscribed(self, frame: Json) -> None:
        """Frame `subscribed`: a channel has its sid."""
        body = frame["msg"]
        channel, sid = self.channels.get(body["channel"]), body["sid"]
        command = self._pending.pop(frame.get("id", 0), None)
        if channel is None or type(sid) is not int:
            raise WireError(f"subscribed to what? {body!r:.120}")
        self._began(channel, sid, 0, command)

    def on_ok(self, frame: Json) -> None:
        """Frame `ok`: a change was made, or a subscribe was merged into one that still lived."""
        command = self._pending.get(frame.get("id", 0))
        if command is None or command.verb == "get_snapshot":
            return  # of a get_snapshot the snapshots themselves are the answer
        del self._pending[frame["id"]]
        if command.verb == "subscribe":
            sid, seq = frame.get("sid"), frame.get("seq", 0)
            if type(sid) is not int or type(seq) is not int:
                raise WireError(f"ok without a sid: {frame!r:.120}")
            self._began(command.channel, sid, seq, command)
            return
        command.channel.busy_id = None
        self._sync(command.channel)

    def on_unsubscribed(self, frame: Json) -> None:
        """Frame `unsubscribed`: the sid is gone."""
        command = self._pending.pop(frame.get("id", 0), None)
        channel = self.by_sid.get(frame["sid"]) or (command.channel if command else None)
        if channel is not None:
            self._ended(channel, "unsubscribed")

    def on_error(self, frame: Json) -> None:
        """Frame `error`: terminal for a channel, or the refusal of one command."""
        body = frame["msg"]
        code, text = _read_int(body, "code"), str(body.get("msg"))[:120]
        self.error_replies += 1
        self.error_codes[code if 0 <= code <= 99 else -1] += 1
        self.last_reply_error = f"{code}: {text}"
        command = self._pending.pop(frame.get("id", 0), None)
        channel = self.by_sid.get(frame.get("sid", -1)) or (command.channel if command else None)
        if channel is None:
            return
        if code in _TERMINAL_CODES or code == _UNKNOWN_SID:
            self._delay(channel)
            self._ended(channel, f"error {code}: {text}")
        elif command is not None:
            self._refused(command, body, text)

    def _began(self, channel: Channel, sid: int, seq: int, command: _Command | None) -> None:
        channel.sid, channel.seq, channel.busy_id = sid, seq, None
        channel.asked = set(command.tickers) if command else set(channel.tickers or ())
        channel.backoff.worked()
        self.by_sid[sid] = channel
        self._sync(channel)
        if all(one.sid is not None for one in self.channels.values() if one.is_wanted):
            self.on_complete()

    def _ended(self, channel: Channel, why: str) -> None:
        """The subscription is gone: whatever was built on it has lost its base."""
        for command_id in (channel.snapshot_id, channel.busy_id):
            self._pending.pop(command_id or 0, None)
        self.by_sid.pop(-1 if channel.sid is None else channel.sid, None)
        channel.sid = channel.busy_id = channel.snapshot_id = None
        channel.seq = 0
        channel.asked.clear()
        self.on_gap(channel.name, why)
        self._sync(channel)

    def _refused(self, command: _Command, body: Json, text: str) -> None:
        channel = command.channel
        self._delay(channel)
        named = [body.get("market_ticker"), *_read_list(body, "market_tickers")]
        for ticker in [one for one in named if isinstance(one, str)]:
            if channel.tickers is not None and ticker in channel.tickers:
                channel.tickers.discard(ticker)
                channel.asked.discard(ticker)
                self.on_refused(ticker, text)
        if command.verb == "get_snapshot":
            channel.snapshot_id = None
            self.resubscribe(channel.name, f"get_snapshot refused: {text}")
            return
        channel.busy_id = None
        if command.verb == "add_markets":
            channel.asked -= command.tickers
        elif command.verb == "unsubscribe":
            self._ended(channel, text)

    # -- commands -----------------------------------------------------------------------------

    def _delay(self, channel: Channel) -> None:
        channel.retry_at_s = self._clock.real_s() + channel.backoff.next_s()

    def _new_command(self, verb: str, channel: Channel, tickers: Iterable[str]) -> int:
        self._next_id += 1
        command = _Command(verb, channel, frozenset(tickers), self._clock.real_s())
        self._pending[self._next_id] = command
        return self._next_id

    def _sync(self, channel: Channel) -> None:
        """Bring one subscription a step nearer to what is wanted."""
        if not self.is_open or channel.busy_id is not None:
            return
        is_due = self._clock.real_s() >= channel.retry_at_s
        if channel.sid is None:
            if channel.is_wanted and is_due:
                self._subscribe(channel)
        elif channel.tickers is not None:
            self._adjust(channel, channel.sid, channel.tickers, is_due)

    def _subscribe(self, channel: Channel) -> None:
        tickers = None if channel.tickers is None else sorted(channel.tickers)
        command_id = channel.busy_id = self._new_command("subscribe", channel, tickers or ())
        self.send(encode_subscribe(command_id, channel.name, tickers))

    def _adjust(self, channel: Channel, sid: int, wanted: set[str], is_due: bool) -> None:
        added, dropped = sorted(wanted - channel.asked), sorted(channel.asked - wanted)
        if not wanted:
            command_id = channel.busy_id = self._new_command("unsubscribe", channel, ())
            self.send(encode_unsubscribe(command_id, sid))
        elif added and is_due:
            command_id = channel.busy_id = self._new_command("add_markets", channel, added)
            channel.asked.update(added)
            self.send(encode_update(command_id, sid, "add_markets", added))
        elif dropped:
            command_id = channel.busy_id = self._new_command("delete_markets", channel, dropped)
            channel.asked.difference_update(dropped)
            self.send(encode_update(command_id, sid, "delete_markets", dropped))


def hear_nothing(*_: object) -> None:
    """Stands where nobody listens yet."""


# ======================================================================================
# §16b SOCKET
# Purpose:   Open, close and wait: the few awaits of the stream, each with its limit.
# Position:  Uses §05, §11. Used by §16c.
# Principle: Nothing here decides anything; a peer that does not answer costs a known time.
# ======================================================================================

WS_CONNECT_S: Final = 10.0
WS_SILENCE_S: Final = 10.0  # no frame and no pong for so long: the socket is dead
WS_SEND_S: Final = 5.0
WS_CLOSE_S: Final = 2.0
WS_REARM_S: Final = 0.5
WS_PING_MIN_S: Final = 0.02
WS_PING_MAX_S: Final = 5.0
WS_KEY_REFUSED_S: Final = 30.0
STALE_FLOOR_S: Final = 0.5  # real seconds; below it the noise of the loop proves nothing

PRIVATE_KINDS: Final = frozenset({"user_order", "fill", "market_position", "order_group_updates"})
_SOCKET_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError)
_FRAME_ERRORS: Final = (WireError, KeyError, TypeError, ValueError, AttributeError, OverflowError)

_OPCODES: Final = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_WHOLE_TEXT: Final = 0x81  # final, text, no extension
DIRECT_MAX: Final = 1024  # frames heard in one call of the socket; the rest takes its turn
_loads: Final = orjson.loads

Link = aiohttp.ClientWebSocketResponse[bool]
FrameHandler = Callable[[Json], None]


class HandshakeSigner(Protocol):
    """What the stream needs of a key: the three headers of a signed request."""

    def headers(self, method: str, path: str, ts_ms: int) -> dict[str, str]:
        """Key id, timestamp and signature."""


async def _open_link(
    session: aiohttp.ClientSession, url: str, signer: HandshakeSigner, now_ms: int
) -> Link:
    """Signed handshake; the caller holds the timeout."""
    return await session.ws_connect(
        url,
        headers=signer.headers("GET", urlsplit(url).path, now_ms),
        autoping=False,  # pings and pongs are proof of life, so the reader must see them
        max_msg_size=JSON_BYTES_MAX,
        decode_text=False,
        timeout=aiohttp.ClientWSTimeout(ws_close=WS_CLOSE_S),
    )


class DirectFrames:
    """Hands whole text frames on in the very call that heard them; all else is aiohttp's matter.

    It stands where `ResponseHandler` has its WebSocket parser (aiohttp pinned, shape tested) and
    saves each frame a queue and a task switch. From the first that is no text, over 64 KB, or
    behind one that still waits, the rest of what the socket gave goes to the parser, so the order
    is kept. So does everything after a byte that begins no frame: that is for the parser to judge.

        socket ─► feed_data ─┬─► whole text frame, queue empty ─► hear() at once
                             └─► anything else ─► parser ─► queue ─► receive()
    """

    def __init__(self, parser: Any, queue: Sequence[object], hear: Callable[[bytes], bool]) -> None:
        self._parser, self._queue, self._hear = parser, queue, hear
        self._left = 0  # bytes to come of a frame whose beginning the parser has
        self._cut = b""  # a header, or a text frame, that is not whole yet
        self.is_open = True  # False: from here on the parser has every byte

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Take what the socket gave; (True, …) when the parser found the protocol broken."""
        if self._cut or type(data) is not bytes:
            data, self._cut = self._cut + bytes(data), b""
        at, end = 0, len(data)
        for _ in range(DIRECT_MAX):
            stop = self._direct_end(data, at, end)
            if not stop:
                break
            at = stop
        while at < end:
            stop = self._end_of(data, at, end)
            is_cut = stop > end and data[at] == _WHOLE_TEXT and stop - at < 65536
            if not stop or (is_cut and not self._left):
                self._cut = data[at:]  # soon whole, and then heard directly
                break
            is_broken, rest = self._parser.feed_data(data[at:stop])
            if is_broken:
                return True, rest
            self._left, at = max(0, stop - end), stop
        return False, b""

    def _direct_end(self, data: bytes, at: int, end: int) -> int:
        """Hear the frame at `at`; where it ends, or 0 when it is a matter for the parser."""
        if end - at < 4 or data[at] != _WHOLE_TEXT or self._left or self._queue or not self.is_open:
            return 0
        size, begin = data[at + 1], at + 2
        if size > 125:
            if size > 126:
                return 0
            size, begin = data[at + 2] << 8 | data[at + 3], at + 4
        stop = begin + size
        return stop if stop <= end and self._hear(data[begin:stop]) else 0

    def _end_of(self, data: bytes, at: int, end: int) -> int:
        """End of the frame at `at`, perhaps behind `end`; 0 when its header is cut."""
        if not self.is_open:
            return end
        if self._left:
            return at + self._left
        if at + 2 > end:
            return 0
        size, begin = data[at + 1], at + 2
        if data[at] & 0x70 or data[at] & 0x0F not in _OPCODES or size > 127:
            self.is_open = False
            return end
        if size > 125:
            begin += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : begin])
        return begin + size if begin <= end else 0

    def feed_eof(self) -> None:
        """The connection ended."""
        self._parser.feed_eof()


def hear_directly(link: Link, hear: Callable[[bytes], bool]) -> DirectFrames:
    """From now on `hear` gets each whole text frame of a link that was opened in this turn."""
    queue: Any = link._reader
    connection = link._response.connection
    protocol: Any = None if connection is None else connection.protocol
    if protocol is None:  # lost in the meantime: there is nothing to hear
        return DirectFrames(None, (), hear)
    protocol._payload_parser = DirectFrames(protocol._payload_parser, queue._buffer, hear)
    return cast(DirectFrames, protocol._payload_parser)


async def _close_link(link: Link) -> None:
    try:
        async with asyncio.timeout(WS_CLOSE_S):
            await link.close()
    except _SOCKET_ERRORS as error:
        log_stream.debug("close failed error=%r", error)


def _count_kind(kinds: Counter[str], kind: object) -> None:
    """Count a frame type nobody handles; beyond the bound as `other`."""
    name = kind[:40] if isinstance(kind, str) else type(kind).__name__
    kinds[name if name in kinds or len(kinds) < WS_KINDS_MAX else "other"] += 1


async def _wait_for(event: asyncio.Event, limit_s: float) -> None:
    """Until the event or the limit, in seconds of the loop; the event is cleared."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
    event.clear()


# ======================================================================================
# §16c WS CLIENT
# Purpose:   Keep one signed socket alive and in sequence; hand each frame on in the same call.
# Position:  Uses §01–§05, §11, §12, §14e, §16a, §16b. §17 and §18 register handlers; §23 runs it.
# Principle: One reader, no waiting in the receive call, silence is a fault; it never gives up.
# ======================================================================================


class KalshiStream:
    """The one socket to the exchange. `run()` is its task; everything else is a plain call.

    Counters are public ints. `alive_at_s` is the real second of the last frame, ping or pong.
    Hooks: `on_unreadable(kind, frame)` when the content of a frame was lost,
    `on_private_lost(kind)` when it was about our own orders (reconcile then), `on_public(data)`
    for the recorder.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        ws_url: str,
        signer: HandshakeSigner,
        clock: Clock,
        supervisor: Supervisor,
        bus: EventBus,
        config: Config,
    ) -> None:
        self._session, self._url, self._signer = session, ws_url, signer
        self._clock, self._supervisor, self._bus = clock, supervisor, bus
        self._real_s = clock.real_s
        self._stale_s = config.book_stale_s
        self._backoff, self._throttle = Backoff(clock), Throttle(clock, interval_s=60.0)
        self._outbox: deque[bytes] = deque()
        self._work, self._retry = asyncio.Event(), asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        self._why = ""
        self._broke: Exception | None = None  # what a frame raised in the socket's call
        self._ping_sent_at_s = self._armed_at_s = -math.inf
        self.subscriptions = Subscriptions(clock)
        self._by_sid = self.subscriptions.by_sid
        self._wire_subscriptions()
        self.on_unreadable: Callable[[str, Json], None] = hear_nothing
        self.on_private_lost: Callable[[str], None] = hear_nothing
        self.on_public: Callable[[bytes | str], None] | None = None
        self.is_connected = self.is_ready = self.key_refused = False
        self.alive_at_s = self.connected_at_s = self.ponged_at_s = -math.inf
        self.last_error: str | None = None
        self.frames = self.connects = self.losses = self.attempts = 0
        self.parse_failures = 0
        self.unknown_types: Counter[str] = Counter()

    def _wire_subscriptions(self) -> None:
        subs = self.subscriptions
        subs.send, subs.reconnect, subs.on_complete = self._send, self.reconnect, self._complete
        self._handlers: dict[str, FrameHandler] = {
            "subscribed": subs.on_subscribed,
            "ok": subs.on_ok,
            "unsubscribed": subs.on_unsubscribed,
            "error": self._on_error,
        }

    # -- what others ask for ----------------------------------------------------------

    def handle(self, kind: str, handler: FrameHandler) -> None:
        """Give every frame of this type to `handler`, within the receive call."""
        assert kind not in self._handlers, f"two handlers for {kind}"
        self._handlers[kind] = handler

    def handle_decoded(
        self, kind: str, decode: Callable[[Json], T], tell: Callable[[T], object]
    ) -> None:
        """Decode the body of each `kind` frame and tell it; an error of the listener stays his."""

        def handler(frame: Json) -> None:
            report = decode(frame["msg"])
            try:
                tell(report)
            except Exception as error:
                log_stream.exception("listener failed kind=%s", kind)
                self._listener_broke(kind, error)

        self.handle(kind, handler)

    def want(self, channel: str, tickers: Iterable[str] | None) -> None:
        """Subscribe `channel` for exactly these markets (None: no filter), now and ever after."""
        self.subscriptions.want(channel, tickers)

    def replace_signer(self, signer: HandshakeSigner) -> None:
        """A new key (SIGHUP): sign in again with it at once."""
        self._signer = signer
        self.reconnect("the key was replaced")
        self._retry.set()

    def reconnect(self, why: str) -> None:
        """Give this connection up; `run` makes the next one."""
        if self._limit is None:
            return
        self._why = self._why or why
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    @property
    def alive_age_s(self) -> float:
        """Seconds of the trader's clock since the feed was last known alive; inf without a feed."""
        if not self.is_connected:
            return math.inf
        return (self._clock.real_s() - self.alive_at_s) * self._clock.rate

    # -- one connection after the other -----------------------------------------------

    async def run(self) -> None:
        """Keep the stream alive until cancelled: connect, read, back off, repeat."""
        while True:
            self.attempts += 1
            self.last_error = await self._one_connection()
            delay_s = WS_KEY_REFUSED_S if self.key_refused else self._backoff.next_s()
            log_stream.warning("stream down why=%s retry_s=%.1f", self.last_error, delay_s)
            await _wait_for(self._retry, delay_s / self._clock.rate)

    async def _one_connection(self) -> str:
        try:
            async with asyncio.timeout(WS_CONNECT_S):
                link = await _open_link(
                    self._session, self._url, self._signer, self._clock.now_ms()
                )
        except aiohttp.WSServerHandshakeError as error:
            return self._handshake_failed(error.status)
        except _SOCKET_ERRORS as error:
            return f"no connection: {error!r:.160}"
        self._opened()
        direct = hear_directly(link, self._hear)
        tender = self._supervisor.spawn(self._tend(link), name="stream:tender")
        try:
            return await self._read(link)
        finally:
            direct.is_open = False
            tender.cancel()
            self._closed(self._why or "stopped")
            await _close_link(link)

    def _handshake_failed(self, status: int) -> str:
        self.key_refused = status in (401, 403)
        why = f"handshake answered {status}"
        if self.key_refused:
            why += ": the exchange refuses the key; check key id, key file and the clock"
            self._alert("error", "key_refused", why)
        return why

    def _opened(self) -> None:
        self.is_connected, self.key_refused, self._why = True, False, ""
        self._armed_at_s = -math.inf
        self.connects += 1
        self.alive_at_s = self.connected_at_s = self._clock.real_s()
        self._backoff.worked()
        log_stream.info("stream up connects=%d", self.connects)
        self.subscriptions.opened()

    def _complete(self) -> None:
        if not self.is_ready:
            self.is_ready = True
            log_stream.info("stream subscribed channels=%d", len(self._by_sid))
            self._bus.publish(StreamRestored(at_ms=self._clock.now_ms(), connects=self.connects))

    def _closed(self, why: str) -> None:
        self.is_connected = self.is_ready = False
        self.losses += 1
        self._limit = None
        self._outbox.clear()
        self.subscriptions.closed()
        self._bus.publish(StreamLost(at_ms=self._clock.now_ms(), why=why))

    async def _read(self, link: Link) -> str:
        """The one reader. Ends with the reason, which is also in `_why`."""
        try:
            async with asyncio.timeout(WS_SILENCE_S) as self._limit:
                while not self._why:
                    await self._read_burst(link, self._limit)
                    await asyncio.sleep(0)
        except TimeoutError:
            self._why = self._why or f"silent for {WS_SILENCE_S:.0f} s"
        except _SOCKET_ERRORS as error:
            self._why = self._why or f"socket failed: {error!r:.160}"
        if self._broke is not None:
            broke, self._broke = self._broke, None
            raise broke
        return self._why

    def _hear(self, data: bytes) -> bool:
        """One frame in the very call of the socket; False when this connection is given up."""
        if self._why or self._limit is None:
            return False
        try:
            self.take(data)
        except Exception as error:  # noqa: BLE001 - the reader ends with it, as with its own
            self._broke = error
            self.reconnect(f"frame broke: {error!r:.120}")
        if self.alive_at_s - self._armed_at_s > WS_REARM_S:
            self._keep_awake(self._limit)
        return True

    def _keep_awake(self, limit: asyncio.Timeout) -> None:
        """Move the silence timer: not for each frame, twice a second is enough."""
        if self.alive_at_s - self._armed_at_s > WS_REARM_S and not limit.expired():
            self._armed_at_s = self.alive_at_s
            limit.reschedule(asyncio.get_running_loop().time() + WS_SILENCE_S)

    async def _read_burst(self, link: Link, limit: asyncio.Timeout) -> None:
        for _ in range(WS_BURST_MAX):
            message = await link.receive()
            if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
                self.take(message.data)
            elif not await self._heartbeat(link, message.type, message.data):
                self._why = self._why or f"closed by the exchange, code {link.close_code}"
            if self._why:
                return
            self._keep_awake(limit)

    async def _heartbeat(self, link: Link, kind: aiohttp.WSMsgType, data: bytes) -> bool:
        """Answer a ping, note a pong; False for anything that ends the connection."""
        if kind is aiohttp.WSMsgType.PING:
            await link.pong(data)
        elif kind is not aiohttp.WSMsgType.PONG:
            return False
        self.alive_at_s = self._clock.real_s()
        if kind is aiohttp.WSMsgType.PONG:
            self.ponged_at_s = self.alive_at_s
        return True

    # -- the order path: one frame, one call --------------------------------------------

    def take(self, data: bytes | str) -> None:
        """One frame, from bytes to the last listener, in this call; never raises for the peer."""
        self.frames += 1
        self.alive_at_s = self._real_s()
        frame = None
        try:
            frame = _loads(data)
            kind, seq = frame["type"], frame.get("seq")
            if seq is not None:
                channel = self._by_sid.get(frame["sid"])
                if channel is not None and seq == channel.seq + 1:
                    channel.seq = seq
                elif not self.subscriptions.may_use(channel, seq, kind):
                    return
            if self.on_public is not None and kind in RECORDED_TYPES:
                self.on_public(data)
            handler = self._handlers.get(kind)
            if handler is not None:
                handler(frame)
            else:
                _count_kind(self.unknown_types, kind)
        except _FRAME_ERRORS as error:
            self._unreadable(data, frame, error)

    def _unreadable(self, data: bytes | str, frame: object, error: Exception) -> None:
        self.parse_failures += 1
        kind = frame.get("type") if isinstance(frame, dict) else None
        name = kind[:40] if isinstance(kind, str) else "frame"
        self._alert("warning", "schema", f"{name} not understood: {error!r:.120}")
        log_stream.debug("unreadable frame=%r", data[:400])
        if isinstance(frame, dict):
            self.on_unreadable(name, frame)
        if name in PRIVATE_KINDS:
            self.on_private_lost(name)

    def _on_error(self, frame: Json) -> None:
        self.subscriptions.on_error(frame)
        text = self.subscriptions.last_reply_error
        self._alert("warning", "stream_error", f"the exchange answered {text}")

    # -- the tender: writes, pings, deadlines -------------------------------------------

    def _send(self, command: bytes) -> None:
        if len(self._outbox) >= WS_COMMANDS_MAX:
            self.reconnect("too many commands waiting")
            return
        self._outbox.append(command)
        self._work.set()

    @property
    def _ping_every_s(self) -> float:
        wanted_s = max(self._stale_s / self._clock.rate, STALE_FLOOR_S) / 4
        return min(max(wanted_s, WS_PING_MIN_S), WS_PING_MAX_S)

    async def _tend(self, link: Link) -> None:
        """Write commands, prove life by pings while nothing else does, watch the deadlines."""
        try:
            while True:
                await _wait_for(self._work, self._ping_every_s)
                while self._outbox:
                    async with asyncio.timeout(WS_SEND_S):
                        await link.send_frame(self._outbox.popleft(), aiohttp.WSMsgType.TEXT)
                await self._ping_if_quiet(link)
                self.subscriptions.tend()
        except _SOCKET_ERRORS as error:
            self.reconnect(f"write failed: {error!r:.160}")

    async def _ping_if_quiet(self, link: Link) -> None:
        now_s = self._clock.real_s()
        is_quiet = now_s - self.alive_at_s >= self._ping_every_s / 2
        if not is_quiet and now_s - self._ping_sent_at_s < WS_PING_MAX_S:
            return
        self._ping_sent_at_s = now_s
        async with asyncio.timeout(WS_SEND_S):
            await link.ping()

    # -- trouble ------------------------------------------------------------------------

    def _listener_broke(self, kind: str, error: Exception) -> None:
        """The reader outlives any listener; an assertion that broke is the coordinator's matter."""
        if isinstance(error, AssertionError):
            where = f"stream {kind}"
            broke = AssertionBroke(at_ms=self._clock.now_ms(), where=where, what=str(error))
            self._bus.publish(broke)

    def _alert(self, severity: str, kind: str, text: str) -> None:
        held = self._throttle.admit(kind)
        if held is None:
            return
        log_stream.warning("%s text=%s repeats=%d", kind, text, held)
        alert = AlertRaised(at_ms=self._clock.now_ms(), severity=severity, kind=kind, text=text)
        self._bus.publish(alert)


# ======================================================================================
# §17a SELECTION GATES
# Purpose:   The gates a market must pass to be followed, each with its distance, and the score.
# Position:  Uses §01–§03, §05. Used by §17b.
# Principle: A gate is a function of one market and the settings; the table is their order.
# ======================================================================================

log_market = logging.getLogger("trader.market")

SCAN_LIMIT_S: Final = 10.0
SCAN_MARGIN_S: Final = 86_400  # markets that close later than allowed are seen, to be counted
_ENDED_STATUSES: Final = frozenset({"closed", "determined", "disputed", "amended", "finalized"})

MarketsPage = tuple[list[Market], str, int]


class MarketReader(Protocol):
    """What this room reads from the exchange; §15 does the asking."""

    async def markets_page(self, cursor: str, **filters: str | int) -> MarketsPage:
        """Markets, next cursor ("" at the end), rows refused."""

    async def market(self, ticker: str) -> Market:
        """One market; ExchangeError with status 404 when unknown."""

    async def orderbooks(self, tickers: Sequence[str]) -> dict[str, BookSides]:
        """Up to 100 books at once."""

    async def event(self, event_ticker: str) -> EventReport:
        """The event of a market."""

    async def series(self, ticker: str) -> SeriesReport:
        """The series of an event."""

    async def series_of_category(self, category: str) -> set[str]:
        """Tickers of all series of one category."""


class Miss(NamedTuple):
    """How a market failed a gate: distance in units of the limit (0: just missed), and in words."""

    distance: float
    text: str


class _Rules(NamedTuple):
    config: Config
    now_ms: int
    series_allowed: frozenset[str] | None  # None: every category


_HOPELESS: Final = math.inf


def _gate_not_active(market: Market, _: _Rules) -> Miss | None:
    return None if market.status == "active" else Miss(_HOPELESS, f"status {market.status}")


def _gate_combo(market: Market, _: _Rules) -> Miss | None:
    return Miss(_HOPELESS, "combo") if market.is_combo else None


def _gate_excluded(market: Market, rules: _Rules) -> Miss | None:
    for pattern in rules.config.exclude:
        if fnmatch.fnmatchcase(market.ticker, pattern):
            return Miss(_HOPELESS, f"matches {pattern}")
    return None


def _gate_category(market: Market, rules: _Rules) -> Miss | None:
    series = market.series or market.event_ticker.partition("-")[0]
    if rules.series_allowed is None or series in rules.series_allowed:
        return None
    return Miss(_HOPELESS, f"series {series}")


def _miss_below(what: str, found: float, least: float, unit: str) -> Miss | None:
    if found >= least:
        return None
    return Miss((least - found) / (least or 1), f"{what} {found:g} < {least:g} {unit}")


def _miss_above(what: str, found: float, most: float, unit: str) -> Miss | None:
    if found <= most:
        return None
    return Miss((found - most) / (most or 1), f"{what} {found:g} > {most:g} {unit}")


def _gate_closes_too_soon(market: Market, rules: _Rules) -> Miss | None:
    left_s = (market.close_at_ms - rules.now_ms) // 1000
    return _miss_below("closes in", left_s, rules.config.min_close_s, "s")


def _gate_closes_too_late(market: Market, rules: _Rules) -> Miss | None:
    left_s = (market.close_at_ms - rules.now_ms) // 1000
    return _miss_above("closes in", left_s, rules.config.max_close_s, "s")


def _gate_never_traded(market: Market, _: _Rules) -> Miss | None:
    return Miss(_HOPELESS, "no last price") if market.last_cc is None else None


def _gate_volume_low(market: Market, rules: _Rules) -> Miss | None:
    least_h = rules.config.min_volume_24h_h
    return _miss_below("24 h volume", market.volume_24h_h / 100, least_h / 100, "contracts")


def _gate_one_sided(market: Market, _: _Rules) -> Miss | None:
    for side, price_cc in ((Side.YES, market.bid_cc), (Side.NO, market.ask_cc)):
        if price_cc is None:
            return Miss(_HOPELESS, f"no {'bid' if side is Side.YES else 'ask'}")
        if not market.grid.is_valid(Side.YES, price_cc):
            return Miss(_HOPELESS, f"{price_cc} cc is off the grid")
    return None


def _both_bests(market: Market) -> tuple[int, int]:
    assert market.bid_cc is not None, "gate one_sided comes first"
    assert market.ask_cc is not None, "gate one_sided comes first"
    return market.bid_cc, market.ask_cc


def _gate_price_extreme(market: Market, rules: _Rules) -> Miss | None:
    bid_cc, ask_cc = _both_bests(market)
    mid_c = (bid_cc + ask_cc) / 2 / CC_PER_CENT
    low_c, high_c = rules.config.mid_min_cc / CC_PER_CENT, rules.config.mid_max_cc / CC_PER_CENT
    return _miss_below("mid", mid_c, low_c, "¢") or _miss_above("mid", mid_c, high_c, "¢")


def _gate_spread_too_wide(market: Market, rules: _Rules) -> Miss | None:
    bid_cc, ask_cc = _both_bests(market)
    most_c = rules.config.max_spread_cc / CC_PER_CENT
    return _miss_above("spread", (ask_cc - bid_cc) / CC_PER_CENT, most_c, "¢")


def _gate_size_thin(market: Market, rules: _Rules) -> Miss | None:
    size, least = min(market.bid_h, market.ask_h) / 100, rules.config.min_size_h / 100
    return _miss_below("best size", size, least, "contracts")


# In the order of the funnel. The last two gates, event_full and rank_cut, need the other markets.
GATES: Final[dict[str, Callable[[Market, _Rules], Miss | None]]] = {
    "not_active": _gate_not_active,
    "combo": _gate_combo,
    "excluded": _gate_excluded,
    "category": _gate_category,
    "closes_too_soon": _gate_closes_too_soon,
    "closes_too_late": _gate_closes_too_late,
    "never_traded": _gate_never_traded,
    "volume_low": _gate_volume_low,
    "one_sided": _gate_one_sided,
    "price_extreme": _gate_price_extreme,
    "spread_too_wide": _gate_spread_too_wide,
    "size_thin": _gate_size_thin,
}
FUNNEL: Final = ("unreadable", *GATES, "event_full", "rank_cut")


def score_market(market: Market) -> float:
    """Rank of a market that passed the gates; higher is better. Needs both best prices."""
    bid_cc, ask_cc = _both_bests(market)
    prices = market.grid.prices
    ticks = bisect_left(prices, ask_cc) - bisect_left(prices, bid_cc)
    size = min(market.bid_h, market.ask_h) / H_PER_CONTRACT
    volume = market.volume_24h_h / H_PER_CONTRACT
    return math.log1p(volume) + 0.5 * math.log1p(size) - 0.2 * abs(ticks - 2)


# ======================================================================================
# §17b MARKET SELECTION
# Purpose:   Choose which markets to follow, and count why each other one was passed over.
# Position:  Uses §01–§03, §05, §15, §17a. Called by §23 at start and at every refresh.
# Principle: Gates decide, the score only ranks; the counts add up to what was seen.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """One scan's answer. `seen` = sum of `lost` + `followed`.

    `lost` counts markets by gate in funnel order, `nearest` names the one that just missed, with
    its number. `unknown` are tickers of mode config that the exchange does not have. `is_partial`:
    the page or time bound ended the walk.
    """

    at_ms: int
    followed: tuple[Market, ...]
    seen: int
    lost: Mapping[str, int]
    nearest: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    is_partial: bool = False

    @property
    def funnel(self) -> str:
        """`seen 8,412 → not_active -292 = 8,120 → … → followed 10`, one step per gate."""
        left, steps = self.seen, [f"seen {self.seen:,}"]
        for gate, lost in self.lost.items():
            left -= lost
            steps.append(f"{gate} -{lost:,} = {left:,}")
        return " → ".join([*steps, f"followed {len(self.followed):,}"])


class _Funnel:
    """Counts the lost of one scan, and keeps the nearest miss of each gate."""

    def __init__(self, rules: _Rules) -> None:
        self.rules = rules
        self.lost: Counter[str] = Counter()
        self._nearest: dict[str, tuple[float, str]] = {}

    def lose(self, gate: str, market: Market, miss: Miss) -> None:
        self.lost[gate] += 1
        if miss.distance < self._nearest.get(gate, (math.inf, ""))[0]:
            self._nearest[gate] = (miss.distance, f"{market.ticker}: {miss.text}")

    def passes(self, market: Market) -> bool:
        for gate, check in GATES.items():
            miss = check(market, self.rules)
            if miss is not None:
                self.lose(gate, market, miss)
                return False
        return True

    @property
    def nearest(self) -> dict[str, str]:
        return {gate: self._nearest[gate][1] for gate in FUNNEL if gate in self._nearest}

    @property
    def counts(self) -> dict[str, int]:
        return {gate: self.lost[gate] for gate in FUNNEL if self.lost[gate]}


class MarketSelection:
    """Chooses the markets; remembers what it chose, so that the list changes slowly."""

    def __init__(self) -> None:
        self._chosen: set[str] = set()
        self._events: dict[str, tuple[str, str, str]] = {}  # event → series, title, category
        self.scans = self.failures = 0
        self.last: Selection | None = None

    async def select(
        self, rest: MarketReader, config: Config, now_ms: int, keep: set[str]
    ) -> Selection:
        """One scan. `keep` are markets with a position or an order: never dropped.

        Raises ExchangeError, WireError or TimeoutError when it fails; the present list then stays.
        """
        self.failures += 1
        if config.mode == "config":
            selection = await self._named(rest, config, now_ms, keep)
        else:
            selection = await self._discover(rest, config, now_ms, keep)
        followed = [await self._with_event(rest, market) for market in selection.followed]
        selection = replace(selection, followed=tuple(followed))
        self.failures -= 1
        self.scans += 1
        self._chosen = {market.ticker for market in selection.followed}
        self.last = selection
        log_market.info("markets selected %s", selection.funnel)
        return selection

    async def _named(
        self, rest: MarketReader, config: Config, now_ms: int, keep: set[str]
    ) -> Selection:
        found: list[Market] = []
        unknown: list[str] = []
        for ticker in dict.fromkeys((*config.tickers, *sorted(keep))):
            market = await _market_or_none(rest, ticker)
            if market is not None:
                found.append(market)
            elif ticker in config.tickers:
                unknown.append(ticker)
        return Selection(
            at_ms=now_ms,
            followed=tuple(found),
            seen=len(found),
            lost={},
            nearest={},
            unknown=tuple(unknown),
        )

    async def _discover(
        self, rest: MarketReader, config: Config, now_ms: int, keep: set[str]
    ) -> Selection:
        async with asyncio.timeout(SCAN_LIMIT_S):
            allowed = await self._allowed_series(rest, config)
        seen, refused, is_partial = await self._walk(rest, config, now_ms)
        for ticker in sorted(keep - seen.keys()):
            market = await _market_or_none(rest, ticker)
            if market is not None:
                seen[ticker] = market
        funnel = _Funnel(_Rules(config, now_ms, allowed))
        funnel.lost["unreadable"] += refused
        if config.sim_tape:
            ranked = self._without_gates(seen, keep, funnel)
        else:
            ranked = await self._gated(rest, seen, keep, funnel)
        followed = self._choose(ranked, seen, keep, funnel)
        return Selection(
            at_ms=now_ms,
            followed=tuple(followed),
            seen=len(seen) + refused,
            lost=funnel.counts,
            nearest=funnel.nearest,
            is_partial=is_partial,
        )

    async def _allowed_series(self, rest: MarketReader, config: Config) -> frozenset[str] | None:
        if not config.categories or "all" in config.categories or "*" in config.categories:
            return None
        allowed: set[str] = set()
        for category in config.categories:
            allowed |= await rest.series_of_category(category)
        return frozenset(allowed)

    async def _walk(
        self, rest: MarketReader, config: Config, now_ms: int
    ) -> tuple[dict[str, Market], int, bool]:
        """All pages: markets by ticker, rows refused, whether a bound cut the walk short."""
        filters: dict[str, str | int] = {"limit": SCAN_PAGE_ROWS, "mve_filter": "exclude"}
        if not config.sim_tape:
            now_s = now_ms // 1000
            filters["min_close_ts"] = now_s
            filters["max_close_ts"] = now_s + config.max_close_s + SCAN_MARGIN_S
        seen: dict[str, Market] = {}
        cursor, cursors, refused = "", {""}, 0
        try:
            async with asyncio.timeout(SCAN_LIMIT_S):
                for _ in range(SCAN_PAGES_MAX):
                    page, cursor, bad = await rest.markets_page(cursor, **filters)
                    seen.update((market.ticker, market) for market in page)
                    refused += bad
                    if cursor in cursors:  # "" is the end; any other repeat would never end
                        return seen, refused, cursor != ""
                    cursors.add(cursor)
        except TimeoutError:
            if not seen:
                raise
        return seen, refused, True

    @staticmethod
    def _without_gates(seen: dict[str, Market], keep: set[str], funnel: _Funnel) -> list[Market]:
        """A tape's markets: everything that has not ended, in order of ticker."""
        ranked: list[Market] = []
        for _, market in sorted(seen.items()):
            if market.status not in _ENDED_STATUSES:
                ranked.append(market)
            elif market.ticker not in keep:
                funnel.lose("not_active", market, Miss(_HOPELESS, f"status {market.status}"))
        return ranked

    async def _gated(
        self, rest: MarketReader, seen: dict[str, Market], keep: set[str], funnel: _Funnel
    ) -> list[Market]:
        """Survivors of the gates, judged again on real books for the best 3 x limit, best first."""
        alive: list[Market] = []
        for number, market in enumerate(seen.values()):
            if number % GATES_PER_TURN == 0:
                await asyncio.sleep(0)  # tens of thousands of markets must not hold up the loop
            if market.ticker not in keep and funnel.passes(market):
                alive.append(market)
        alive.sort(key=lambda market: (-score_market(market), market.ticker))
        config = funnel.rules.config
        candidates: list[Market] = []
        per_event: Counter[str] = Counter()
        for market in alive:
            if per_event[market.event_ticker] >= 3 * config.per_event:
                funnel.lose("event_full", market, Miss(_HOPELESS, market.event_ticker))
            elif len(candidates) >= 3 * config.markets and market.ticker not in self._chosen:
                funnel.lose("rank_cut", market, Miss(len(candidates), "rank"))
            else:
                candidates.append(market)
                per_event[market.event_ticker] += 1
        real = await self._with_books(rest, candidates)
        survivors = [market for market in real if funnel.passes(market)]
        survivors.sort(key=lambda market: (-score_market(market), market.ticker))
        return survivors

    @staticmethod
    async def _with_books(rest: MarketReader, markets: list[Market]) -> list[Market]:
        real: list[Market] = []
        for start in range(0, len(markets), BOOKS_PER_READ):
            chunk = markets[start : start + BOOKS_PER_READ]
            books = await rest.orderbooks([market.ticker for market in chunk])
            real.extend(_with_book(market, books.get(market.ticker)) for market in chunk)
        return real

    def _choose(
        self, ranked: list[Market], seen: dict[str, Market], keep: set[str], funnel: _Funnel
    ) -> list[Market]:
        """The first N: kept ones, then those followed already, then the best; at most one swap."""
        config = funnel.rules.config
        followed = [seen[ticker] for ticker in sorted(keep) if ticker in seen]
        per_event = Counter(market.event_ticker for market in followed)
        place = {market.ticker: rank for rank, market in enumerate(ranked)}
        pending = [market for market in ranked if market.ticker not in keep]
        for market in self._stable(pending, config.markets - len(followed)):
            if not config.sim_tape and per_event[market.event_ticker] >= config.per_event:
                funnel.lose("event_full", market, Miss(_HOPELESS, market.event_ticker))
            elif len(followed) >= config.markets:
                rank = place[market.ticker] + 1
                miss = Miss(rank, f"rank {rank}, limit {config.markets}")
                funnel.lose("rank_cut", market, miss)
            else:
                followed.append(market)
                per_event[market.event_ticker] += 1
        return followed

    def _stable(self, ranked: list[Market], room: int) -> list[Market]:
        """Order of admission: those followed stay ahead of newcomers, except for one swap.

        A market that closed or failed a gate is not in `ranked`; its place is free for anyone.
        """
        old = [market for market in ranked if market.ticker in self._chosen]
        new = [market for market in ranked if market.ticker not in self._chosen]
        if old and new and len(old) >= room > 0:
            worst, best = old[min(room, len(old)) - 1], new[0]
            if ranked.index(best) < ranked.index(worst):
                old.insert(old.index(worst), new.pop(0))
        return old + new

    async def _with_event(self, rest: MarketReader, market: Market) -> Market:
        """Series, title and category; a market whose event cannot be read keeps an empty series."""
        known = self._events.get(market.event_ticker)
        if known is None:
            try:
                event = await rest.event(market.event_ticker)
                series = await rest.series(event.series)
            except (ExchangeError, WireError) as error:
                log_market.warning("no event ticker=%s error=%s", market.event_ticker, error)
                return market
            if len(self._events) >= EVENTS_KEPT_MAX:
                self._events.clear()
            title = event.title or series.title
            known = (series.ticker, title, event.category or series.category)
            self._events[market.event_ticker] = known
        series_ticker, title, category = known
        return replace(market, series=series_ticker, title=market.title or title, category=category)


async def _market_or_none(rest: MarketReader, ticker: str) -> Market | None:
    """One market by name; None when the exchange does not have it."""
    try:
        check_path_part(ticker)
    except WireError as error:
        log_market.warning("no market error=%s", error)
        return None
    try:
        return await rest.market(ticker)
    except ExchangeError as error:
        if error.status != 404:
            raise
        return None


def _with_book(market: Market, book: BookSides | None) -> Market:
    """The market with the best prices of its real book; without a book it is one-sided."""
    yes, no = book or ({}, {})
    bid_cc, no_bid_cc = max(yes, default=None), max(no, default=None)
    return replace(
        market,
        bid_cc=bid_cc,
        bid_h=0 if bid_cc is None else yes[bid_cc],
        ask_cc=None if no_bid_cc is None else CC_PER_DOLLAR - no_bid_cc,
        ask_h=0 if no_bid_cc is None else no[no_bid_cc],
    )


# ======================================================================================
# §17c MARKET FACTS
# Purpose:   Status, close, grid and result of followed markets: by the clock, by events, by REST.
# Position:  Uses §01–§05, §11, §12, §17b. Owned by OrderbookIntegration (§17e).
# Principle: Opening and closing have no event, so the clock rules; news never goes backwards.
# ======================================================================================

RESULT_POLL_S: Final = 30.0
_STATUS_RANK: Final = {
    "initialized": 0,
    "inactive": 1,
    "active": 1,
    "closed": 2,
    "determined": 3,
    "disputed": 3,
    "amended": 3,
    "finalized": 4,
}
_LIFECYCLE_STATUS: Final = {
    "activated": "active",
    "deactivated": "inactive",
    "determined": "determined",
    "settled": "finalized",
}
_REREAD_EVENTS: Final = frozenset(
    {"activated", "close_date_updated", "determined", "metadata_updated", "settled"}
)
_FACTS: Final = ("status", "close_at_ms", "grid", "result", "settlement_cc")


class MarketFacts:
    """What is known of each followed market; publishes MarketChanged with the name of the change.

    `what` is `opened`, `closed` (the clock), an exchange event's word (`activated`, `determined`,
    …), `fees` (an event's fee override moved), or the names of the facts a REST reading changed.
    """

    def __init__(self, *, rest: MarketReader, clock: Clock, bus: EventBus) -> None:
        self._rest, self._clock, self._bus = rest, clock, bus
        self.markets: dict[str, Market] = {}
        self._to_read: set[str] = set()
        self._read_at_s: dict[str, float] = {}
        self.frames = self.reads = 0

    def adopt(self, market: Market) -> None:
        """Begin with a market, or take over a newer REST reading of it."""
        if market.ticker in self.markets:
            self._merge(market)
        else:
            self.markets[market.ticker] = market

    def forget(self, ticker: str) -> None:
        """Follow it no longer."""
        self.markets.pop(ticker, None)
        self._read_at_s.pop(ticker, None)
        self._to_read.discard(ticker)

    def doubt_all(self) -> None:
        """Events may have been missed: read every market again."""
        self._to_read |= self.markets.keys()

    def tick(self) -> None:
        """Open and close by the clock."""
        now_ms = self._clock.now_ms()
        for market in list(self.markets.values()):
            if now_ms >= market.close_at_ms:
                if market.status in ("active", "initialized"):
                    self._change(replace(market, status="closed"), "closed")
            elif market.status == "initialized" and 0 < market.open_at_ms <= now_ms:
                self._change(replace(market, status="active"), "opened")
                self._to_read.add(market.ticker)

    def on_lifecycle(self, frame: Json) -> None:
        """Frame `market_lifecycle_v2`; it comes for all markets of the exchange."""
        self.frames += 1
        msg = frame["msg"]
        market = self.markets.get(msg["market_ticker"])
        if market is None:
            return
        report = decode_lifecycle(msg)
        is_final = market.status == "finalized"
        value_cc = report.settlement_cc
        changed = replace(
            market,
            status=market.status
            if is_final
            else _LIFECYCLE_STATUS.get(report.event_type, market.status),
            open_at_ms=report.open_at_ms or market.open_at_ms,
            close_at_ms=report.close_at_ms or market.close_at_ms,
            grid=report.grid or market.grid,
            result=report.result or market.result,
            settlement_cc=market.settlement_cc if value_cc is None else value_cc,
        )
        if report.event_type in _REREAD_EVENTS:
            self._to_read.add(market.ticker)
        if changed != market or report.event_type in ("activated", "deactivated"):
            self._change(changed, report.event_type)

    def on_fee_update(self, frame: Json) -> None:
        """Frame `event_fee_update`: the fees of an event's markets are to be read again."""
        event_ticker = frame["msg"]["event_ticker"]
        for market in list(self.markets.values()):
            if market.event_ticker == event_ticker:
                self._change(market, "fees")

    async def read_again(self) -> None:
        """Read what may have moved, and the markets that are over but not paid; bounded."""
        now_s, now_ms = self._clock.monotonic(), self._clock.now_ms()
        for ticker, market in self.markets.items():
            is_over = now_ms >= market.close_at_ms and market.status != "finalized"
            if is_over and now_s - self._read_at_s.get(ticker, -math.inf) >= RESULT_POLL_S:
                self._to_read.add(ticker)
        for ticker in sorted(self._to_read)[:REREADS_MAX]:
            self._to_read.discard(ticker)
            self._read_at_s[ticker] = now_s
            await self._read(ticker)

    async def _read(self, ticker: str) -> None:
        try:
            market = await self._rest.market(ticker)
        except (ExchangeError, TimeoutError):
            self._to_read.add(ticker)
            raise
        self.reads += 1
        if ticker in self.markets:
            self._merge(market)

    def _merge(self, new: Market) -> None:
        """Take over a REST reading, which may lag behind what stream and clock said."""
        old = self.markets[new.ticker]
        if _is_older_news(new, old, self._clock.now_ms()):
            return
        merged = replace(
            new,
            series=new.series or old.series,
            title=old.title or new.title,
            category=new.category or old.category,
        )
        changed = [name for name in _FACTS if getattr(merged, name) != getattr(old, name)]
        self.markets[new.ticker] = merged
        if changed:
            self._change(merged, ", ".join(changed))

    def _change(self, market: Market, what: str) -> None:
        self.markets[market.ticker] = market
        log_market.info("market changed ticker=%s what=%s", market.ticker, what)
        self._bus.publish(MarketChanged(at_ms=self._clock.now_ms(), market=market, what=what))


def _is_older_news(new: Market, old: Market, now_ms: int) -> bool:
    """Whether a REST reading lags behind what we hold: time must explain a step back."""
    new_rank, old_rank = _STATUS_RANK.get(new.status, 1), _STATUS_RANK.get(old.status, 1)
    if new_rank >= old_rank:
        return False
    is_unopened = new.status == "initialized" and new.open_at_ms <= now_ms
    return old_rank > 2 or new.close_at_ms <= now_ms or is_unopened


# ======================================================================================
# §17d BOOK PROOF
# Purpose:   How far each book may be believed: lag of messages, life of the feed, word of REST.
# Position:  Uses §01–§06, §11, §12, §16. The base of §17e.
# Principle: A book is believed only while its sequence is whole and the feed is known to live.
# ======================================================================================

CLOCK_STEP_S: Final = 0.5  # a correction of our clock that ends a lag it had caused
TIME_STEP_S: Final = 0.02  # how long the order path may work with one reading of the wall clock
LATE_GROWTH_S: Final = 5.0  # a lag grown by so much on one connection calls for another
LATE_FLOOR_S: Final = 1.0  # but never less than this in real seconds, however fast a tape runs
SNAPSHOT_WAIT_S: Final = 2.0  # real seconds a followed market may wait before it is asked for
RESYNC_PAUSE_S: Final = 0.25
SPOT_REPEAT_S: Final = 2.0
SPOT_SETTLE_S: Final = 0.5
CHECK_EVERY_S: Final = 1.0
FAR_FUTURE_MS: Final = 1 << 62
LONG_AGO_S: Final = 1e9  # stands for "never" where a finite number is needed

Suspects = dict[str, set[tuple[str, int]]]  # ticker → levels (leg, price_cc) that differ


class MessageLag:
    """How late messages arrive on one connection; `why` is set while they are too late to believe.

    Bursts up to 3 s late have been recorded on healthy connections and pass by themselves; an age
    that keeps growing (4 to 21 s was seen) calls for another connection.
    """

    __slots__ = ("_least_ms", "age_ms", "offset_s", "why")

    def __init__(self) -> None:
        self.age_ms: int | None = None
        self.why = ""
        self.offset_s = 0.0  # of our clock when the lag began: a later correction may end it
        self._least_ms = math.inf

    def note(self, age_ms: int, *, limit_ms: float, offset_s: float) -> None:
        """Take in the age of one message."""
        self.age_ms = age_ms
        self._least_ms = min(self._least_ms, age_ms)
        if age_ms <= limit_ms:
            self.why = ""
        elif not self.why:
            self.why, self.offset_s = f"messages arrive {age_ms / 1000:.1f} s old", offset_s

    def has_grown(self, rate: float) -> bool:
        """Whether this connection became slower than it was, beyond any burst."""
        limit_s = max(LATE_GROWTH_S, LATE_FLOOR_S * rate)
        return self.age_ms is not None and self.age_ms - self._least_ms > limit_s * 1000


class SpotCheck:
    """Compares proven books with REST, level by level; owned by OrderbookIntegration.

    A level counts as different only if nothing was heard of it from before the reading until after
    it, and only if a second reading says the same: REST and stream are never at the same moment.
    `heard` is filled by the owner while it has keys; `changed()` tells him when that changes.
    """

    def __init__(
        self,
        *,
        rest: MarketReader,
        clock: Clock,
        books: dict[str, OrderBook],
        changed: Callable[[], None],
    ) -> None:
        self._rest, self._clock, self._books, self._changed = rest, clock, books, changed
        self.heard: Suspects = {}
        self.checks = self.suspicions = self.mismatches = 0

    async def check(self, proven: list[str]) -> list[str]:
        """Look at some of these markets; answers those that REST contradicted twice."""
        chosen = self._clock.rng.sample(sorted(proven), min(len(proven), SPOT_MARKETS_MAX))
        first = await self._compare(chosen)
        if not first:
            return []
        await self._clock.sleep(SPOT_REPEAT_S)
        second = await self._compare(sorted(first))
        wrong = sorted(one for one, levels in first.items() if levels & second.get(one, set()))
        self.mismatches += len(wrong)
        for ticker in wrong:
            self._books[ticker].rest_differences += 1
        return wrong

    async def _compare(self, tickers: list[str]) -> Suspects:
        """One reading: levels that differ although nothing was heard of them around it."""
        found: Suspects = {}
        self.heard = {ticker: set() for ticker in tickers if ticker in self._books}
        bases = {ticker: self._books[ticker].snapshots for ticker in self.heard}
        self._changed()
        try:
            theirs = await self._rest.orderbooks(sorted(bases)) if bases else {}
            await self._clock.sleep(max(SPOT_SETTLE_S, STALE_FLOOR_S * self._clock.rate))
            for ticker in bases.keys() & theirs.keys() & self._books.keys():
                book = self._books[ticker]
                if book.has_base and book.snapshots == bases[ticker]:
                    self.checks += 1
                    book.rest_checks += 1
                    found[ticker] = book.differences(*theirs[ticker]) - self.heard[ticker]
        finally:
            self.heard = {}
            self._changed()
        suspects = {ticker: levels for ticker, levels in found.items() if levels}
        self.suspicions += len(suspects)
        return suspects


class BookShelf:
    """The books, and how far each may be believed. Owned, as its base, by OrderbookIntegration."""

    def __init__(
        self, *, stream: KalshiStream, clock: Clock, bus: EventBus, config: Config
    ) -> None:
        self.stream, self._clock, self._bus, self._config = stream, clock, bus, config
        self.books: dict[str, OrderBook] = {}
        self._told: dict[str, Proof] = {}  # what listeners last heard of each book
        self._lag = MessageLag()
        self.stale_episodes = 0

    def proof(self, ticker: str) -> Proof:
        """How far this book may be believed at this very moment."""
        book = self.books.get(ticker)
        if book is None:
            return Proof.NEVER
        if book.proof is Proof.PROVEN and self.stream.alive_age_s > self.stale_limit_s:
            return Proof.STALE
        return book.proof

    def verified_at_ms(self, ticker: str) -> int:
        """When this book was last known true (Unix ms); 0 when never."""
        book = self.books.get(ticker)
        if book is None:
            return 0
        return self._alive_at_ms() if book.proof is Proof.PROVEN else book.verified_at_ms

    def changed_at_ms(self, ticker: str) -> int:
        """When this book last changed (Unix ms); 0 before its first snapshot."""
        book = self.books.get(ticker)
        if book is None or book.changed_at_s == -math.inf:
            return 0
        return self._clock.now_ms() - int(self.passed_s(book.changed_at_s) * 1000)

    def age_ms(self, ticker: str) -> int:
        """Milliseconds since this book was last known true; huge when it never was."""
        return self._clock.now_ms() - self.verified_at_ms(ticker)

    def passed_s(self, real_s: float) -> float:
        """Seconds of the trader's clock since a real second; kept finite."""
        return min((self._clock.real_s() - real_s) * self._clock.rate, LONG_AGO_S)

    def _alive_at_ms(self) -> int:
        return self._clock.now_ms() - int(self.passed_s(self.stream.alive_at_s) * 1000)

    @property
    def stale_limit_s(self) -> float:
        """The setting, in seconds of the trader's clock; never under a floor of real time."""
        return max(self._config.book_stale_s, STALE_FLOOR_S * self._clock.rate)

    @property
    def proven(self) -> int:
        """How many books are proven now."""
        return sum(book.proof is Proof.PROVEN for book in self.books.values())

    def _publish_bests(self, book: OrderBook) -> None:
        self._bus.publish(
            BookChanged(
                at_ms=self._clock.now_ms(),
                ticker=book.ticker,
                bid_cc=book.bid_cc,
                ask_cc=book.ask_cc,
            )
        )

    def _set_proof(self, book: OrderBook, proof: Proof, why: str) -> None:
        before = self._told.get(book.ticker, Proof.NEVER)  # the book may have lost itself already
        book.judge(proof)
        if before is proof:
            return
        self._told[book.ticker] = proof
        if before is Proof.PROVEN:
            book.verified_at_ms = self._alive_at_ms()
            self._publish_bests(book)
        now_ms = self._clock.now_ms()
        self._bus.publish(BookProofChanged(at_ms=now_ms, ticker=book.ticker, proof=proof, why=why))

    def _break(self, book: OrderBook, proof: Proof, why: str) -> None:
        """The sequence of this book is broken; it waits for a snapshot."""
        book.has_base = False
        self._set_proof(book, proof if book.snapshots else Proof.NEVER, why)

    def _all_stale(self, why: str) -> None:
        self.stale_episodes += 1
        for book in list(self.books.values()):
            if book.proof is Proof.PROVEN:
                self._set_proof(book, Proof.STALE, why)

    def _judge_liveness(self) -> None:
        """Stale after silence, proven again once the feed speaks and no sequence was broken."""
        age_s = self.stream.alive_age_s
        if age_s > self.stale_limit_s:
            if self.proven:
                self._all_stale(f"nothing heard for {age_s:.1f} s")
            return
        if self._lag.why:
            return
        for book in list(self.books.values()):
            if book.proof is Proof.STALE and book.has_base:
                self._set_proof(book, Proof.PROVEN, "the feed lives again")
                self._publish_bests(book)


# ======================================================================================
# §17e MARKET DATA
# Purpose:   Stream frames → books → BookChanged, in the receive call; gaps → snapshots.
# Position:  Uses §01–§06, §11, §12, §16, §17c, §17d. §19, §21 listen; §23 hands in markets.
# Principle: One frame, one pass; what was lost is asked for again, never guessed.
# ======================================================================================


class OrderbookIntegration(BookShelf):
    """Feeds the books from the stream; keeps them, and the facts of their markets, true.

    `run` watches time (staleness, overdue snapshots, open, close); `run_checks` reads REST.
    """

    def __init__(
        self,
        *,
        stream: KalshiStream,
        rest: MarketReader,
        clock: Clock,
        bus: EventBus,
        config: Config,
    ) -> None:
        super().__init__(stream=stream, clock=clock, bus=bus, config=config)
        self._throttle = Throttle(clock, interval_s=60.0)
        self.facts = MarketFacts(rest=rest, clock=clock, bus=bus)
        self.markets = self.facts.markets
        self.spot = SpotCheck(rest=rest, clock=clock, books=self.books, changed=self._set_time)
        self._followed_at_s: dict[str, float] = {}
        self._asked_at_s = self._spot_at_s = self._time_until_s = -math.inf
        self._oldest_ms = 0
        self.on_time: Callable[[int], None] = hear_nothing  # exchange time (ms) of a fresh frame
        self.snapshot_at_s = -math.inf
        self.snapshots = self.deltas = self.prints = 0
        self.errors = self.resyncs = self.rest_errors = 0
        self._listen()

    def _listen(self) -> None:
        stream = self.stream
        stream.handle("orderbook_delta", self._on_delta)
        stream.handle("orderbook_snapshot", self._on_snapshot)
        stream.handle("trade", self._on_trade)
        stream.handle("market_lifecycle_v2", self.facts.on_lifecycle)
        stream.handle("event_fee_update", self.facts.on_fee_update)
        stream.handle("event_lifecycle", hear_nothing)
        stream.on_unreadable = self._on_unreadable
        stream.subscriptions.on_gap = self._on_gap
        stream.subscriptions.on_refused = self._on_refused
        self._bus.subscribe(StreamLost, self._on_lost)
        self._bus.subscribe(StreamRestored, self._on_restored)
        stream.want("market_lifecycle_v2", None)

    # -- what others ask for -----------------------------------------------------------------------

    def follow(self, markets: Iterable[Market]) -> None:
        """Follow exactly these markets; books of those that stay are not touched."""
        wanted = {market.ticker: market for market in markets}
        for ticker in self.books.keys() - wanted.keys():
            for table in (self.books, self._told, self._followed_at_s):
                cast(dict[str, Any], table).pop(ticker, None)
            self.facts.forget(ticker)
        for ticker, market in wanted.items():
            self.facts.adopt(market)
            if ticker not in self.books:
                self.books[ticker] = OrderBook(ticker)
                self._followed_at_s[ticker] = self._clock.real_s()
        self.stream.want(BOOK_CHANNEL, self.books)
        self.stream.want("trade", self.books)
        tickers = tuple(sorted(self.books))
        self._bus.publish(MarketsChanged(at_ms=self._clock.now_ms(), tickers=tickers))

    @property
    def is_alive(self) -> bool:
        """Whether the feed is connected, subscribed and known to live."""
        return self.stream.is_ready and self.stream.alive_age_s <= self.stale_limit_s

    @property
    def message_age_ms(self) -> int | None:
        """Age of the last message whose time was looked at, by exchange time; None before."""
        return self._lag.age_ms

    def counters(self) -> dict[str, JsonValue]:
        """The component's row of /v3/status."""
        return feed_counters(self)

    # -- frames (order path) -----------------------------------------------------------------------

    def _set_time(self) -> None:
        """Renew the oldest exchange time that passes without a closer look."""
        self._time_until_s = self._clock.real_s() + TIME_STEP_S
        if self._lag.why or self.spot.heard:
            self._oldest_ms = FAR_FUTURE_MS
        else:
            self._oldest_ms = self._clock.now_ms() - int(self.stale_limit_s * 1000)

    def _on_delta(self, frame: Json) -> None:
        msg = frame["msg"]
        book = self.books.get(msg["market_ticker"])
        if book is None:
            return
        self.deltas += 1
        if not book.has_base:
            return  # its snapshot will contain it
        at_s = book.changed_at_s = self.stream.alive_at_s
        if at_s > self._time_until_s:
            self._set_time()
        has_moved = book.apply(
            msg["side"], LEVEL_PRICES[msg["price_dollars"]], COUNTS[msg["delta_fp"]]
        )
        book.seq = frame["seq"]
        ts_ms = msg.get("ts_ms")
        if ts_ms is None or ts_ms < self._oldest_ms:
            self._look_closer(msg)
        if has_moved:
            self._publish_bests(book)

    def _on_snapshot(self, frame: Json) -> None:
        ticker, sides = decode_book_frame(frame["msg"])
        self.stream.subscriptions.snapshot_came(ticker)
        book = self.books.get(ticker)
        if book is None:
            return
        self.snapshots += 1
        book.replace(*sides)
        book.seq = frame["seq"]
        book.changed_at_s = self.snapshot_at_s = self.stream.alive_at_s
        if self._lag.why:
            self._set_proof(book, Proof.STALE, self._lag.why)
        else:
            self._set_proof(book, Proof.PROVEN, "snapshot")
            self._publish_bests(book)

    def _on_trade(self, frame: Json) -> None:
        ticker, one, _ = decode_trade(frame["msg"])
        if ticker not in self.books:
            return
        self.prints += 1
        sent_at_ms = frame.get("sending_ts_ms")
        if type(sent_at_ms) is int:
            self.on_time(sent_at_ms)
        self._judge_age(one.at_ms)
        self._bus.publish(TradePrinted(at_ms=self._clock.now_ms(), ticker=ticker, print=one))

    # -- trouble -----------------------------------------------------------------------------------

    def _look_closer(self, msg: Json) -> None:
        """A change that is old, or any change while we are in doubt or compare with REST."""
        heard = self.spot.heard.get(msg["market_ticker"])
        if heard is not None:
            heard.add((msg["side"], LEVEL_PRICES[msg["price_dollars"]]))
        ts_ms = _read_optional_int(msg, "ts_ms")
        if ts_ms is not None:
            self._judge_age(ts_ms)

    def _judge_age(self, ts_ms: int) -> None:
        """Look at the age of a message by exchange time: late ones end the proof of every book."""
        lag, was_late = self._lag, self._lag.why
        lag.note(
            self._clock.now_ms() - ts_ms,
            limit_ms=self.stale_limit_s * 1000,
            offset_s=self._clock.offset_s,
        )
        if lag.why and not was_late:
            self._set_time()
            self._all_stale(lag.why)
        elif was_late and not lag.why:
            self._set_time()
            self._judge_liveness()
        if lag.has_grown(self._clock.rate):
            self.stream.reconnect(f"messages arrive {(lag.age_ms or 0) / 1000:.1f} s old")

    def _on_lost(self, event: StreamLost) -> None:
        self._lag = MessageLag()
        for book in list(self.books.values()):
            self._break(book, Proof.STALE, f"stream lost: {event.why}")

    def _on_restored(self, _: StreamRestored) -> None:
        self.facts.doubt_all()  # lifecycle events are not replayed

    def _on_gap(self, channel: str, why: str) -> None:
        if channel == BOOK_CHANNEL:
            for book in list(self.books.values()):
                self._break(book, Proof.RESYNCING, why)
            self._ask_snapshots()
        elif channel == "market_lifecycle_v2":
            self.facts.doubt_all()

    def _on_unreadable(self, kind: str, frame: Json) -> None:
        """A book frame whose content was lost breaks its book; without a ticker, all of them."""
        self.errors += 1
        if kind not in ("orderbook_delta", "orderbook_snapshot"):
            return
        msg = frame.get("msg")
        ticker = msg.get("market_ticker") if isinstance(msg, dict) else None
        broken = list(self.books.values())
        if isinstance(ticker, str):
            broken = [book for book in broken if book.ticker == ticker]
        for book in broken:
            self._break(book, Proof.RESYNCING, f"{kind} not understood")
        self._ask_snapshots()

    def _on_refused(self, ticker: str, why: str) -> None:
        if self._throttle.admit(f"refused {ticker}") is not None:
            text = f"{ticker}: the stream refuses this market: {why}"
            self._alert("ticker_refused", text, ticker)

    def _ask_snapshots(self) -> None:
        """Ask for every book without a base, once the exchange has had its time to send one."""
        now_s = self._clock.real_s()
        if now_s - self._asked_at_s < RESYNC_PAUSE_S:
            return
        missing = [ticker for ticker, book in self.books.items() if self._is_overdue(book, now_s)]
        if missing and self.stream.subscriptions.get_snapshot(missing):
            self._asked_at_s = now_s
            self.resyncs += 1

    def _is_overdue(self, book: OrderBook, now_s: float) -> bool:
        since_s = max(self._followed_at_s[book.ticker], self.stream.connected_at_s)
        is_due = book.proof is Proof.RESYNCING or now_s - since_s >= SNAPSHOT_WAIT_S
        return is_due and not book.has_base

    # -- time and REST -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch the clock until cancelled."""
        while True:
            self.tick()
            await self._clock.sleep(self.stale_limit_s / 8)

    def tick(self) -> None:
        """One look at the clock: proof of life, overdue snapshots, opening and closing."""
        if self._lag.why and abs(self._clock.offset_s - self._lag.offset_s) > CLOCK_STEP_S:
            self._lag = MessageLag()  # it was our own clock that was wrong
        self._judge_liveness()
        self._ask_snapshots()
        self.facts.tick()

    async def run_checks(self) -> None:
        """Read again what the stream may have missed, and compare books with REST."""
        while True:
            await self._clock.sleep(CHECK_EVERY_S)
            try:
                await self.facts.read_again()
                now_s = self._clock.monotonic()
                if now_s - self._spot_at_s >= self._config.rest_check_s:
                    self._spot_at_s = now_s
                    proven = [one for one in self.books if self.proof(one) is Proof.PROVEN]
                    self._contradicted(await self.spot.check(proven))
            except (ExchangeError, WireError, TimeoutError) as error:
                self.rest_errors += 1
                if self._throttle.admit("rest") is not None:
                    log_market.warning("check failed error=%s", error)

    def _contradicted(self, tickers: list[str]) -> None:
        """Twice REST said otherwise: the feed fell silent about something. Begin anew, say so."""
        if not tickers:
            return
        why = f"REST contradicts the book of {', '.join(tickers[:3])}"
        for book in [self.books[one] for one in tickers if one in self.books]:
            self._break(book, Proof.RESYNCING, why)
        self._alert("book_contradicted", why, tickers[0])
        self.stream.subscriptions.resubscribe(BOOK_CHANNEL, why)

    def _alert(self, kind: str, text: str, ticker: str) -> None:
        log_market.warning("%s text=%s", kind, text)
        now_ms = self._clock.now_ms()
        self._bus.publish(
            AlertRaised(at_ms=now_ms, severity="error", kind=kind, text=text, ticker=ticker)
        )


def feed_counters(data: OrderbookIntegration) -> dict[str, JsonValue]:
    """Row `orderbook_integration` of /v3/status: how the feed lives, in counters and ages."""
    stream, subs = data.stream, data.stream.subscriptions
    newest_s = max((book.changed_at_s for book in data.books.values()), default=-math.inf)

    def since_s(real_s: float) -> float | None:
        return None if real_s == -math.inf else round(data.passed_s(real_s), 3)

    return {
        "healthy": data.is_alive and data.proven == len(data.books),
        "markets_connected": data.proven,
        "snapshots_received": data.snapshots,
        "deltas_received": data.deltas,
        "trades_received": data.prints,
        "errors": data.errors,
        "time_since_snapshot": since_s(data.snapshot_at_s),
        "time_since_delta": since_s(newest_s),
        "ping_health": "healthy" if data.is_alive else "lost",
        "last_ping_age_seconds": since_s(stream.ponged_at_s),
        "connection_established": stream.is_connected,
        "first_snapshot_received": data.snapshots > 0,
        "connects": stream.connects,
        "attempts": stream.attempts,
        "losses": stream.losses,
        "last_error": stream.last_error,
        "key_refused": stream.key_refused,
        "gaps": subs.gaps,
        "ignored_frames": subs.ignored,
        "parse_failures": stream.parse_failures,
        "unknown_types": dict(stream.unknown_types),
        "error_replies": {str(code): count for code, count in subs.error_codes.items()},
        "acks_missed": subs.acks_missed,
        "resyncs": data.resyncs,
        "resubscribes": subs.resubscribes,
        "stale_episodes": data.stale_episodes,
        "rest_checks": data.spot.checks,
        "rest_differences": data.spot.mismatches,
        "rest_errors": data.rest_errors,
        "message_age_ms": data.message_age_ms,
        "feed_age_s": since_s(stream.alive_at_s) if stream.is_connected else None,
    }


# ======================================================================================
# §18 EXECUTION
# §18a CONVERGENCE
# Purpose:   From what a strategy wants and what is there to the fewest commands.
# Position:  Uses §02, §03. Pure; §18h sends what it says.
# Principle: One command at most per slot; a slot whose outcome is not proven is left alone.
# ======================================================================================

MIN_REST_MS: Final = 3000  # an order is not moved again sooner, unless it flees
REFRESH_SHARE: Final = 3  # an expiry is renewed when less than 1/3 of its life is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One thing to send: `want` for creates and amends, `order` for everything but creates."""

    kind: CommandKind
    order: Order | None = None
    want: Want | None = None
    is_refresh: bool = False


def is_settled(order: Order) -> bool:
    """Whether the last word about this order is known, so that the next may be said."""
    return order.status is OrderStatus.RESTING and order.pending is None


def is_change_open(order: Order) -> bool:
    """Whether an amend or a decrease of a resting order has no proven outcome."""
    is_change = order.pending in (CommandKind.AMEND, CommandKind.DECREASE)
    return is_change and order.status is OrderStatus.RESTING


def plan_slot(
    live: Order | None, want: Want | None, *, now_ms: int, ttl_ms: int, is_forced: bool = False
) -> Command | None:
    """The command that turns `live` into `want`; None when nothing may or need be sent.

    `is_forced` lifts the minimum rest: the gate changed, or the book lost its proof.
    """
    if live is None:
        return Command(kind=CommandKind.CREATE, want=want) if want is not None else None
    is_other = want is None or want.side is not live.side or want.take
    if is_change_open(live):
        # Nothing may build on a change that can still arrive, but the order can be ended.
        may_rest_cc = max(live.price_cc, live.worst_cc)
        is_escape = is_other or (want is not None and want.price_cc < may_rest_cc)
        return Command(kind=CommandKind.CANCEL, order=live) if is_escape else None
    if not is_settled(live):
        return None
    if want is None or is_other:
        return Command(kind=CommandKind.CANCEL, order=live)
    if want.price_cc != live.price_cc or want.count_h > live.remaining_h:
        is_flight = want.urgent and want.price_cc < live.price_cc
        if not (is_forced or is_flight) and now_ms - live.moved_at_ms < MIN_REST_MS:
            return _refresh(live, want, now_ms, ttl_ms)
        return Command(kind=CommandKind.AMEND, order=live, want=want)
    if want.count_h < live.remaining_h:
        return Command(kind=CommandKind.DECREASE, order=live, want=want)
    return _refresh(live, want, now_ms, ttl_ms)


def _refresh(live: Order, want: Want, now_ms: int, ttl_ms: int) -> Command | None:
    if live.expires_at_ms is None or (live.expires_at_ms - now_ms) * REFRESH_SHARE >= ttl_ms:
        return None
    same = replace(want, price_cc=live.price_cc, count_h=live.remaining_h)
    return Command(kind=CommandKind.AMEND, order=live, want=same, is_refresh=True)


_SEND_ORDER: Final = (
    CommandKind.CANCEL,
    CommandKind.DECREASE,
    CommandKind.AMEND,
    CommandKind.CREATE,
)


def plan(
    live: Mapping[str, Order],
    wants: Sequence[Want],
    *,
    now_ms: int,
    ttl_ms: int,
    is_forced: bool = False,
) -> list[Command]:
    """Commands for all slots of one strategy in one market, in the order they must be sent."""
    if not live and len(wants) == 1:
        return [Command(kind=CommandKind.CREATE, want=wants[0])]
    wanted = {want.slot: want for want in wants}
    steps = (
        plan_slot(
            live.get(slot), wanted.get(slot), now_ms=now_ms, ttl_ms=ttl_ms, is_forced=is_forced
        )
        for slot in sorted(live.keys() | wanted.keys())
    )
    commands = [step for step in steps if step is not None]
    return sorted(commands, key=lambda command: _SEND_ORDER.index(command.kind))


# ======================================================================================
# §18b ORDERS
# Purpose:   Ids, rows and the memory of orders; the forms an order takes while a command is out.
# Position:  Uses §02 to §07, §14, §18a. Used by §18c to §18l.
# Principle: An order is forgotten only when it has ended and is among the oldest.
# ======================================================================================


log_execution = logging.getLogger("trader.execution")


class ClientIds:
    """Makes ids `<prefix>-<environment>-<account>-<run>-<number>`; `run` is new at every start."""

    def __init__(self, *, prefix: str, environment: str, account: str, run: str) -> None:
        self.root = f"{prefix}-{environment}-{account}-"
        self.run = run
        self._next = 0

    def next(self) -> str:
        """A fresh id, never used before and never again; at most 64 characters."""
        self._next += 1
        return f"{self.root}{self.run}-{self._next}"

    def is_ours(self, client_order_id: str | None) -> bool:
        """Whether an order with this id was made by this bot, in this or an earlier run."""
        return client_order_id is not None and client_order_id.startswith(self.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What the gate must know of a market's prices, YES leg; None means unknown or not proven."""

    market: Market | None
    bid_cc: int | None
    ask_cc: int | None
    last_cc: int | None
    fees: FeeSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """What came of one decision: the reason it is counted under, and the orders it touched."""

    reason: Reason
    value: str = ""
    limit: str = ""
    order_ids: tuple[str, ...] = ()
    commands: tuple[Mapping[str, JsonValue], ...] = ()


_ORDER_KEYS: Final = tuple(f.name for f in dataclasses.fields(Order))
_KEYS_OF: Final = {
    kind: tuple(f.name for f in dataclasses.fields(kind)) for kind in (Order, Fill, Intent)
}
_VALUES_OF: Final = {kind: attrgetter(*names) for kind, names in _KEYS_OF.items()}


def row_of(value: Order | Fill | Intent) -> dict[str, JsonValue]:
    """An order, a fill or an intent as the journal keeps it."""
    kind = type(value)
    return dict(zip(_KEYS_OF[kind], _VALUES_OF[kind](value), strict=True))


def order_of_row(row: Mapping[str, Any]) -> Order:
    """The order a journal row describes."""
    values = {name: row[name] for name in _ORDER_KEYS if name in row}
    values["side"], values["status"] = Side(values["side"]), OrderStatus(values["status"])
    values["pending"] = CommandKind(values["pending"]) if values.get("pending") else None
    return Order(**values)


class OrderStore:
    """All orders in memory: live ones, and the last ENDED_ORDERS_MAX that ended."""

    def __init__(self) -> None:
        self.orders: OrderedDict[str, Order] = OrderedDict()
        self.by_order_id: dict[str, str] = {}
        self._slots: dict[tuple[str, str], dict[str, str]] = {}
        self._live: dict[str, dict[str, Order]] = {}
        self._ended: deque[str] = deque()

    def put(self, order: Order) -> None:
        """Keep this picture of an order in place of the older one."""
        key = order.client_order_id
        is_first_end = not order.status.is_live and (
            key not in self.orders or self.orders[key].status.is_live
        )
        self.orders[key] = order
        if order.order_id is not None:
            self.by_order_id[order.order_id] = key
        slots = self._slots.setdefault((order.strategy, order.ticker), {})
        live = self._live.setdefault(order.ticker, {})
        if order.status.is_live and not order.is_foreign:
            live[key] = order
            # A late accept must not push a living order out of its slot, or there would be two.
            if slots.get(order.slot) not in live:
                slots[order.slot] = key
        else:
            live.pop(key, None)
            if slots.get(order.slot) == key:
                del slots[order.slot]
        if is_first_end:
            self._ended.append(key)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._ended) > ENDED_ORDERS_MAX:
            order = self.orders.get(self._ended.popleft())
            if order is None or order.status.is_live:
                continue  # forgotten before, or alive again after a late accept
            del self.orders[order.client_order_id]
            if order.order_id is not None:
                self.by_order_id.pop(order.order_id, None)

    def slots(self, strategy: str, ticker: str) -> dict[str, Order]:
        """Live own orders of one strategy in one market, by slot."""
        found = self._slots.get((strategy, ticker), {})
        return {slot: self.orders[key] for slot, key in found.items()}

    def find(self, *, client_order_id: str | None, order_id: str | None) -> Order | None:
        """The order with this client id, else with this exchange id; None if neither is known."""
        if client_order_id and client_order_id in self.orders:
            return self.orders[client_order_id]
        key = self.by_order_id.get(order_id or "")
        return self.orders.get(key) if key is not None else None

    def live(self, *, ticker: str | None = None) -> list[Order]:
        """Own orders that are, or may be, live."""
        if ticker is not None:
            return list(self._live.get(ticker, {}).values())
        return [order for market in self._live.values() for order in market.values()]


def _at_rest(order: Order) -> Order:
    return replace(order, pending=None, worst_h=0, worst_cc=0)


def _amending(order: Order, price_cc: int, count_h: int, at_ms: int) -> Order:
    """With an amend under way: both forms may fill, so the worst of both counts."""
    return replace(
        order,
        pending=CommandKind.AMEND,
        pending_since_ms=at_ms,
        worst_h=max(order.remaining_h, count_h),
        worst_cc=max(order.price_cc, price_cc),
    )


def _cancelling(order: Order, now_ms: int) -> Order:
    """With a cancel under way; a change without an answer stays, for it may still arrive."""
    if is_change_open(order):
        return order
    return replace(
        order,
        pending=CommandKind.CANCEL,
        pending_since_ms=now_ms,
        worst_h=max(order.worst_h, order.remaining_h),
        worst_cc=max(order.worst_cc, order.price_cc),
    )


class FactWriter:
    """Journals what has happened; what a failing disk refuses waits here, in order."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: deque[tuple[str, str, Mapping[str, JsonValue]]] = deque()
        self.dropped = 0

    def write(self, kind: str, key: str, body: Mapping[str, JsonValue]) -> None:
        """Write now, or as soon as the disk takes it; beyond FACTS_WAITING_MAX the oldest go."""
        self._waiting.append((kind, key, body))
        if not self.flush():
            log_execution.error("fact waits for the journal kind=%s key=%s", kind, key)
        while len(self._waiting) > FACTS_WAITING_MAX:
            self._waiting.popleft()
            self.dropped += 1

    def flush(self) -> bool:
        """Write what waits; True when nothing waits any more."""
        while self._waiting:
            try:
                self._journal.fact(*self._waiting[0])
            except JournalError:
                return False
            self._waiting.popleft()
        return True


# ======================================================================================
# §18c KEEPER
# Purpose:   Bind each new picture of an order: checked, journaled, counted in risk, told.
# Position:  Uses §02 to §08, §12 to §14, §18b. The base of §18d to §18h.
# Principle: No picture is bound that the table of moves forbids; what is unproven stays at risk.
# ======================================================================================


class ExecutionSeams(TypedDict):
    """What the execution service is built from (§23)."""

    clock: Clock
    supervisor: Supervisor
    bus: EventBus
    journal: Journal
    rest: KalshiRest | None
    config: Config
    ids: ClientIds
    quote: Callable[[str], Quote]
    permit: Callable[[str], Verdict]
    container: StateContainer


class OrderKeeper:
    """The one writer of orders, ledger and exposures."""

    def __init__(self, **seams: Unpack[ExecutionSeams]) -> None:
        self._clock, self._supervisor = seams["clock"], seams["supervisor"]
        self._bus, self._journal = seams["bus"], seams["journal"]
        self._rest, self._quote = seams["rest"], seams["quote"]
        self._permit, self._container = seams["permit"], seams["container"]
        self._facts = FactWriter(self._journal)
        self.config = seams["config"]
        self.limits = RiskLimits.of(self.config)
        self.ids = seams["ids"]
        self.store = OrderStore()
        self.ledger = Ledger()
        self.exposure = ExposureBook()
        self.changes = 0  # fills and settlements booked; a comparison that one overtook is dropped
        self.changed_at_ms = 0
        self.on_unknown: Callable[[Order], None] = lambda order: None
        self.on_gap_in_fills: Callable[[Order], None] = lambda order: None

    def _keep(self, order: Order, why: str) -> Order:
        """Bind a new picture of an order: checked, journaled, counted, told."""
        before = self.store.orders.get(order.client_order_id)
        bound = self._bind(order, before, why)
        self._tell_order(bound, before, why)
        return bound

    def _bind(self, order: Order, before: Order | None, why: str) -> Order:
        """Check the move and count the order at its worst from now on."""
        if before is not None and before.status is not order.status:
            assert order.status in ORDER_MOVES[before.status], (
                f"{order.client_order_id}: {before.status} -> {order.status} ({why})"
            )
        if not order.status.is_live:
            order = replace(order, pending=None, worst_h=0, worst_cc=0)
        # Fills heard before the exchange's id was known are in the ledger already.
        booked_h = max(order.booked_h, self.ledger.filled[order.order_id or ""])
        if booked_h > order.booked_h:
            order = replace(order, booked_h=booked_h, filled_h=max(order.filled_h, booked_h))
        self.store.put(order)
        self.exposure.put_order(order)
        return order

    def _tell_order(self, order: Order, before: Order | None, why: str) -> None:
        """Journal a bound picture and tell whoever asked for it."""
        self.write_fact("order", order.client_order_id, row_of(order))
        self._bus.publish(OrderChanged(at_ms=self._clock.now_ms(), order=order, why=why))
        if before is not None and self.is_unproven(before) and not self.is_unproven(order):
            self.tell_unknown()
        if order.filled_h > order.booked_h and not order.is_foreign:
            self.on_gap_in_fills(order)

    def make_unknown(self, order: Order, why: str) -> None:
        """No proof either way: reserve it, block its side, start the resolver."""
        unknown = self._keep(replace(order, status=OrderStatus.UNKNOWN, why=why), "unknown")
        log_execution.warning("order unknown id=%s why=%s", order.client_order_id, why)
        self.tell_unknown()
        self.on_unknown(unknown)

    def give_up(self, order: Order, why: str) -> None:
        """An absence is proven: the create never arrived, or the order is gone."""
        fresh = self.store.orders[order.client_order_id]
        never = fresh.status in (OrderStatus.UNKNOWN, OrderStatus.SENT)
        ended = OrderStatus.NEVER_ACCEPTED if never else OrderStatus.CANCELED
        if fresh.status.is_live:
            self._keep(replace(fresh, status=ended, why=why), why)

    def is_unproven(self, order: Order) -> bool:
        """Whether nobody knows what became of the create: unknown, or sent by a run that died."""
        is_past = not order.client_order_id.startswith(f"{self.ids.root}{self.ids.run}-")
        return order.status is OrderStatus.UNKNOWN or (order.status is OrderStatus.SENT and is_past)

    def unproven(self) -> list[Order]:
        """Own orders of unknown outcome."""
        return [order for order in self.store.live() if self.is_unproven(order)]

    def tell_unknown(self) -> None:
        """Publish which markets have orders of unknown outcome, halt when they are too many."""
        unknown = self.unproven()
        tickers = tuple(sorted({order.ticker for order in unknown}))
        self._bus.publish(
            UnknownOrdersChanged(at_ms=self._clock.now_ms(), count=len(unknown), markets=tickers)
        )
        if len(unknown) > self.config.max_unknown:
            self._trip("max_unknown", "too many orders of unknown outcome at once")

    def _touch(self) -> None:
        self.changes += 1
        self.changed_at_ms = self._clock.now_ms()

    def write_fact(self, kind: str, key: str, body: Mapping[str, JsonValue]) -> None:
        """Journal something that has happened already; a disk that fails cannot undo it."""
        self._facts.write(kind, key, body)

    def flush_facts(self) -> bool:
        """Journal what a failing disk refused earlier; True when nothing waits any more."""
        return self._facts.flush()

    def _alert(self, severity: str, kind: str, text: str, ticker: str) -> None:
        self._bus.publish(
            AlertRaised(
                at_ms=self._clock.now_ms(), severity=severity, kind=kind, text=text, ticker=ticker
            )
        )

    def _trip(self, kind: str, text: str) -> None:
        self._bus.publish(BreakerTripped(at_ms=self._clock.now_ms(), kind=kind, text=text))

    def _event_of(self, ticker: str) -> str:
        market = self._quote(ticker).market
        if market is not None:
            return market.event_ticker
        return self.exposure.event_of(ticker) or ticker.rpartition("-")[0] or ticker

    def headroom_ud(self, ticker: str) -> int:
        """Smallest distance to a limit of loss, exposure or cash, in micro-dollars; >= 0."""
        limits, book = self.limits, self.exposure
        event_ud = book.event_ud(book.event_of(ticker) or self._event_of(ticker))
        return max(
            0,
            min(
                limits.max_market_loss_ud - book.market_ud(ticker),
                limits.max_event_loss_ud - event_ud,
                limits.max_exposure_ud - book.total_ud,
                (self.ledger.cash_ud or 0) - limits.min_cash_ud,
            ),
        )

    def digest(self) -> str:
        """Hash of ledger and live orders: the state a replay must reach again (I15)."""
        live = sorted(
            (o.client_order_id, o.status.value, o.order_id or "", o.price_cc, o.count_h, o.filled_h)
            for o in self.store.live()
        )
        return hashlib.sha256(f"{self.ledger.digest()}{live!r}".encode()).hexdigest()


# ======================================================================================
# §18d BOOKER
# Purpose:   Book fills, fees and settlements exactly once; rebuild all of it from the journal.
# Position:  Uses §03, §07, §12, §14, §18b, §18c. Fed by §16; read by §18k.
# Principle: A fill is a fact: written down first, applied once, and never invented.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class Payout:
    """All that was paid for one market: for `position_h` in all, `paid_ud` of cash in all."""

    result: str
    settlement_cc: int
    position_h: int
    paid_ud: int
    held: Mapping[str, int]  # strategy → its part of the position
    pairs_ud: int = 0  # of `paid_ud`: pairs of YES and NO that met only after a payout

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Payout:
        """The payout a journal row describes; older rows name no sum and no shares."""
        position_h, cc = int(row["position_h"]), int(row["settlement_cc"])
        return cls(
            result=str(row["result"]),
            settlement_cc=cc,
            position_h=position_h,
            paid_ud=int(row.get("paid_ud", settlement_ud(position_h, cc))),
            held=row.get("held", {}),
            pairs_ud=int(row.get("pairs_ud", 0)),
        )

    def after(self, before: Payout | None) -> Payout:
        """This payout on top of an earlier one of the same market, all of it at today's value."""
        if before is None:
            return self
        names = {*before.held, *self.held}
        held = {name: before.held.get(name, 0) + self.held.get(name, 0) for name in sorted(names)}
        again_ud = before.paid_ud
        if before.settlement_cc != self.settlement_cc:
            again_ud = settlement_ud(before.position_h, self.settlement_cc) + before.pairs_ud
        is_crossing = before.position_h * self.position_h < 0
        pairs_h = min(abs(before.position_h), abs(self.position_h)) if is_crossing else 0
        return replace(
            self,
            position_h=before.position_h + self.position_h,
            paid_ud=again_ud + self.paid_ud,
            held=held,
            pairs_ud=before.pairs_ud + pairs_h * CC_PER_DOLLAR,
        )


class Booker(OrderKeeper):
    """Money: every execution and payout, once, live and in a replay."""

    def __init__(self, **seams: Unpack[ExecutionSeams]) -> None:
        super().__init__(**seams)
        self.fills_booked = 0
        self.fills_known_to_ms: int | None = None
        self.fee_mismatches: Counter[str] = Counter()
        self._fee_streak: Counter[str] = Counter()
        self._payouts: dict[str, Payout] = {}  # ticker → paid so far; the newest FILLS_MAX
        self.is_replayed = False

    def on_fill(self, report: FillReport) -> bool:
        """Book one execution exactly once; False when it was booked before."""
        if self.ledger.has_fill(report.trade_id, report.order_id):
            return False
        order = self.store.find(client_order_id=report.client_order_id, order_id=report.order_id)
        order = order or self._recall(report.client_order_id)
        is_ours = order is not None and not order.is_foreign
        fill = Fill(
            trade_id=report.trade_id,
            order_id=report.order_id,
            ticker=report.ticker,
            client_order_id=order.client_order_id if order is not None and is_ours else None,
            side=report.side,
            price_cc=report.price_cc,
            count_h=report.count_h,
            is_taker=report.is_taker,
            fee_ud=report.fee_ud,
            at_ms=report.at_ms,
            strategy=order.strategy if order is not None and is_ours else "",
            is_foreign=not is_ours,
        )
        if self._journal.has("fill", f"{fill.trade_id}|{fill.order_id}"):
            return False  # older than the memory, or booked in an earlier run
        self.write_fact("fill", f"{fill.trade_id}|{fill.order_id}", row_of(fill))
        self._book(fill, order)
        return True

    def _recall(self, client_order_id: str | None) -> Order | None:
        """An own order that memory has let go; the journal never does."""
        if client_order_id is None or not self.ids.is_ours(client_order_id):
            return None
        fact = self._journal.newest("order", client_order_id)
        return order_of_row(fact.body) if fact is not None else None

    def is_known(self, report: FillReport) -> bool:
        """Whether this fill is booked, or belongs to an order we know."""
        order = self.store.find(client_order_id=report.client_order_id, order_id=report.order_id)
        return order is not None or self.ledger.has_fill(report.trade_id, report.order_id)

    def _book(self, fill: Fill, order: Order | None) -> None:
        fees = self._quote(fill.ticker).fees
        expected_ud = self.ledger.expected_fee_ud(fill, fees) if fees.is_known else None
        is_fresh = self.ledger.apply_fill(fill)
        assert is_fresh, f"fill {fill.trade_id} was applied twice"
        self.fills_booked += 1
        self.fills_known_to_ms = max(self.fills_known_to_ms or 0, fill.at_ms)
        self.exposure.put_position(self.ledger.positions[fill.ticker], self._event_of(fill.ticker))
        self._touch()
        if order is not None:
            self._book_on_order(order, fill)
        self._compare_fee(fill, expected_ud)
        self._bus.publish(
            FillBooked(at_ms=self._clock.now_ms(), fill=fill, expected_fee_ud=expected_ud)
        )

    def _book_on_order(self, order: Order, fill: Fill) -> None:
        booked_h = order.booked_h + fill.count_h
        filled_h = max(order.filled_h, booked_h)
        if filled_h > max(order.count_h, order.filled_h + order.worst_h):
            self._overfilled(order, filled_h)
        status = order.status
        if filled_h >= order.count_h and order.status.is_live and order.pending is None:
            status = OrderStatus.EXECUTED
        elif status in (OrderStatus.SENT, OrderStatus.UNKNOWN):
            status = OrderStatus.RESTING
        self._keep(
            replace(
                order,
                booked_h=booked_h,
                filled_h=filled_h,
                status=status,
                order_id=order.order_id or fill.order_id,
            ),
            "filled",
        )

    def _overfilled(self, order: Order, filled_h: int) -> None:
        """More filled than was asked for: a fill is a fact all the same, and somebody must look."""
        sizes = f"{format_count(filled_h)} of {format_count(order.count_h)}"
        text = f"{order.client_order_id} filled {sizes}"
        self._alert("error", "invariant_failed", text, order.ticker)

    def _compare_fee(self, fill: Fill, expected_ud: int | None) -> None:
        if expected_ud is None or expected_ud == fill.fee_ud or fill.is_foreign:
            self._fee_streak[fill.ticker] = 0
            return
        self.fee_mismatches[fill.ticker] += 1
        self._fee_streak[fill.ticker] += 1
        fees = f"charged {show_dollars(fill.fee_ud)}, expected {show_dollars(expected_ud)} dollars"
        self._alert("warning", "fee_mismatch", f"{fill.ticker}: {fees}", fill.ticker)

    def fees_of(self, ticker: str) -> FeeSchedule:
        """Fee schedule in force for a market (assumed where it could not be read)."""
        return self._quote(ticker).fees

    def is_fee_trusted(self, ticker: str) -> bool:
        """False after three fees in a row that our model did not expect."""
        return self._fee_streak[ticker] < 3

    def on_settled(
        self, ticker: str, result: str, settlement_cc: int, *, told: tuple[int, int] | None = None
    ) -> None:
        """Pay out a market at this value, once; another value or sum later corrects the first.

        `told` is the exchange's own record: (net count, cash paid); None when it has not told.
        """
        position, before = self.ledger.positions.get(ticker), self._paid(ticker)
        open_h = position.position_h if position is not None else 0
        if before is None and open_h == 0:
            return
        now = Payout(
            result=result,
            settlement_cc=settlement_cc,
            position_h=open_h,
            paid_ud=settlement_ud(open_h, settlement_cc),
            held=self._held_by_strategy(ticker),
        ).after(before)
        if told is not None and told[0] == now.position_h:
            now = replace(now, paid_ud=told[1] + now.pairs_ud)
        if before is not None and open_h == 0 and now.paid_ud == before.paid_ud:
            return
        self.write_fact("settlement", ticker, {"ticker": ticker, **dataclasses.asdict(now)})
        moved_ud = self._pay(ticker, before, now)
        self.exposure.put_position(self.ledger.positions[ticker], self._event_of(ticker))
        self._touch()
        if before is not None:
            text = f"{ticker}: payout corrected by {show_dollars(moved_ud)} dollars"
            self._alert("warning", "settled", text, ticker)
        self._bus.publish(
            MarketSettled(
                at_ms=self._clock.now_ms(),
                ticker=ticker,
                result=result,
                position_h=open_h,
                cash_ud=moved_ud,
            )
        )

    def is_paid(self, ticker: str) -> bool:
        """Whether a payout of this market was booked."""
        return self._paid(ticker) is not None

    def _held_by_strategy(self, ticker: str) -> dict[str, int]:
        rows = self.ledger.by_strategy.items()
        return {name: own.position_h for (name, t), own in rows if t == ticker and own.position_h}

    def _paid(self, ticker: str) -> Payout | None:
        """What was paid for this market so far; the journal knows what memory let go."""
        if ticker in self._payouts:
            return self._payouts[ticker]
        fact = self._journal.newest("settlement", ticker)
        return Payout.of_row(fact.body) if fact is not None else None

    def _pay(self, ticker: str, before: Payout | None, now: Payout) -> int:
        """Move the ledger from one payout to the next; returns the cash, in micro-dollars."""
        was_ud, was_cc = (before.paid_ud, before.settlement_cc) if before else (0, 0)
        opened_ud = self.ledger.settle(ticker, now.settlement_cc)
        moved_ud = now.paid_ud - was_ud
        if moved_ud != opened_ud or (before is not None and was_cc != now.settlement_cc):
            self.ledger.amend_settlement(
                ticker,
                moved_ud - opened_ud,
                from_cc=was_cc,
                to_cc=now.settlement_cc,
                held=before.held if before is not None else {},
            )
        self._payouts[ticker] = now
        while len(self._payouts) > FILLS_MAX:
            del self._payouts[next(iter(self._payouts))]
        return moved_ud

    def replay(self) -> None:
        """Rebuild orders, ledger and exposures from the journal; nothing is sent or published."""
        self.store, self.ledger, self.exposure = OrderStore(), Ledger(), ExposureBook()
        self._payouts.clear()
        self.is_replayed = True
        booked: Counter[str] = Counter()
        for fact in self._journal.facts():
            match fact.kind:
                case "order":
                    self._replay_order(order_of_row(fact.body))
                case "intent":
                    self._replay_intent(fact.body)
                case "fill":
                    self._replay_fill(fact.body)
                    booked[str(fact.body["client_order_id"])] += int(str(fact.body["count_h"]))
                case "settlement":
                    ticker = str(fact.body["ticker"])
                    self._pay(ticker, self._payouts.get(ticker), Payout.of_row(fact.body))
                case "adjust":
                    self.adopt_figures(fact.body)
                    self.fills_known_to_ms = max(self.fills_known_to_ms or 0, fact.at_ms)
                case _:
                    pass  # other facts explain; they hold no money
        # What the exchange showed before is older than this: its lists lag behind our own facts.
        self.changed_at_ms = self._clock.now_ms()
        for position in self.ledger.positions.values():
            self.exposure.put_position(position, self._event_of(position.ticker))
        for order in list(self.store.orders.values()):
            # A crash between a fill's row and its order's row leaves the order behind the ledger.
            booked_h = max(order.booked_h, booked[order.client_order_id])
            if booked_h > order.booked_h:
                filled_h = max(order.filled_h, booked_h)
                self._replay_order(replace(order, booked_h=booked_h, filled_h=filled_h))

    def _replay_order(self, order: Order) -> None:
        self.store.put(order)
        self.exposure.put_order(order)

    def _replay_intent(self, row: Mapping[str, Any]) -> None:
        """An intent without a later order row died between the journal and the wire: unknown."""
        known = self.store.orders.get(row["client_order_id"])
        if row["kind"] == CommandKind.AMEND and known is not None:
            self._replay_order(_amending(known, row["price_cc"], row["count_h"], row["at_ms"]))
        if row["kind"] != CommandKind.CREATE or known is not None:
            return
        self._replay_order(
            Order(
                client_order_id=row["client_order_id"],
                ticker=row["ticker"],
                event_ticker=row["event_ticker"],
                side=Side(row["side"]),
                price_cc=row["price_cc"],
                count_h=row["count_h"],
                status=OrderStatus.SENT,
                strategy=row["strategy"],
                slot=row["slot"],
                decision_id=row["decision_id"],
                is_take=row["is_take"],
                sent_at_ms=row["at_ms"],
                moved_at_ms=row["at_ms"],
                expires_at_ms=row["expires_at_ms"],
            )
        )

    def _replay_fill(self, row: Mapping[str, Any]) -> None:
        fill = Fill(**{**row, "side": Side(row["side"])})
        self.ledger.apply_fill(fill)
        self.fills_known_to_ms = max(self.fills_known_to_ms or 0, fill.at_ms)

    def adjustments(self) -> Iterator[Fact]:
        """Journaled take-overs of the exchange's figures; the first is the baseline."""
        return self._journal.facts("adjust")

    def refresh_exposure(self, ticker: str) -> None:
        """Bring the risk gate's picture of one holding up to date."""
        self.exposure.put_position(self.ledger.positions[ticker], self._event_of(ticker))

    def adopt_figures(self, body: Mapping[str, Any]) -> None:
        """Take over positions and cash from a journaled ADJUST (baseline or difference)."""
        for row in body.get("positions", ()):
            self.ledger.adopt_position(Position(**row))
        if body.get("cash_ud") is not None:
            self.ledger.cash_ud = int(body["cash_ud"])
        for trade_id, order_id in body.get("seen", ()):
            self.ledger.mark_seen(trade_id, order_id)


# ======================================================================================
# §18e ANSWERS
# Purpose:   What an answer to a command makes of its order.
# Position:  Uses §03, §04, §15b, §18b to §18d. Called by §18f and §18j.
# Principle: Only a proof ends an order or frees its risk; doubt goes to the resolver.
# ======================================================================================


class Answers(Booker):
    """Outcomes of creates, amends, decreases and cancels; the breakers over them."""

    def __init__(self, **seams: Unpack[ExecutionSeams]) -> None:
        super().__init__(**seams)
        self.group_id: str | None = None
        self.is_group_open = True  # False once the exchange's fill limiter has triggered
        self._answers: deque[bool] = deque(maxlen=REJECT_WINDOW)
        self._unreadable = 0
        self.on_group_closed: Callable[[], None] = lambda: None

    def open_group(self, group_id: str) -> None:
        """From now on every order names this group."""
        self.group_id, self.is_group_open = group_id, True

    def close_group(self) -> None:
        """The exchange has closed our group: nothing may be placed until there is a new one."""
        if self.is_group_open:
            self.is_group_open = False
            self.on_group_closed()

    def _after_create(self, order: Order, outcome: OrderOutcome) -> None:
        self._watch_answers(outcome)
        self._watch_path(outcome)
        if outcome.kind is OutcomeKind.REFUSED and "order_group" in outcome.code:
            self.close_group()  # the frame that says so may be lost
        match outcome.kind:
            case OutcomeKind.ACCEPTED:
                self._accepted(order, outcome)
            case OutcomeKind.REFUSED | OutcomeKind.RATE_LIMITED | OutcomeKind.GONE:
                self._end_if(order, OrderStatus.SENT, OrderStatus.REJECTED, _why(outcome))
            case OutcomeKind.NEVER_SENT:
                self._end_if(order, OrderStatus.SENT, OrderStatus.NEVER_ACCEPTED, _why(outcome))
            case OutcomeKind.UNKNOWN | OutcomeKind.DUPLICATE:
                if order.status is OrderStatus.SENT:
                    self.make_unknown(order, _why(outcome))
            case _:
                assert_never(outcome.kind)

    def _end_if(self, order: Order, only: OrderStatus, status: OrderStatus, why: str) -> None:
        """End an order that is still in `only`; the stream may have told the truth before."""
        if order.status is only:
            self._keep(replace(order, status=status, why=why), why)

    def _accepted(self, order: Order, outcome: OrderOutcome) -> None:
        if not order.status.is_live:
            return  # the stream told the end of it before the answer came
        filled_h = max(order.filled_h, outcome.filled_h)
        status = OrderStatus.CANCELED
        if outcome.remaining_h > 0:
            status = OrderStatus.RESTING
        if filled_h >= order.count_h:
            status = OrderStatus.EXECUTED
        acked = replace(
            order,
            status=status,
            order_id=outcome.order_id,
            filled_h=filled_h,
            acked_at_ms=self._clock.now_ms(),
            updated_at_ms=max(order.updated_at_ms, outcome.at_ms),
            why=None if status is not OrderStatus.CANCELED else "nothing left to rest",
        )
        self._keep(acked, "acked")

    def _after_change(
        self,
        kind: CommandKind,
        order: Order,
        outcome: OrderOutcome,
        intent: Intent | None,
        want: Want | None,
    ) -> None:
        self._watch_path(outcome)
        is_other = order.pending is not kind and kind is not CommandKind.CANCEL
        if not order.status.is_live or is_other:
            return  # the stream settled it already
        if order.pending is None:
            order = _cancelling(order, self._clock.now_ms())
            self.store.put(order)
        match outcome.kind:
            case OutcomeKind.ACCEPTED:
                self._changed(kind, order, outcome, intent, want)
            case OutcomeKind.REFUSED | OutcomeKind.RATE_LIMITED | OutcomeKind.NEVER_SENT:
                if order.pending is kind:
                    self._keep(_at_rest(order), f"{kind} refused: {_why(outcome)}")
                else:  # it proves nothing about a change without an answer: ask on
                    self.on_unknown(order)
            case OutcomeKind.GONE | OutcomeKind.UNKNOWN | OutcomeKind.DUPLICATE:
                # 404 does not tell cancelled from filled: the order list decides, at full risk.
                self.on_unknown(order)
            case _:
                assert_never(outcome.kind)

    def _changed(
        self,
        kind: CommandKind,
        order: Order,
        outcome: OrderOutcome,
        intent: Intent | None,
        want: Want | None,
    ) -> None:
        now_ms = self._clock.now_ms()
        filled_h = max(order.filled_h, outcome.filled_h)
        base = replace(
            _at_rest(order),
            filled_h=filled_h,
            updated_at_ms=max(order.updated_at_ms, outcome.at_ms),
        )
        if kind is CommandKind.CANCEL and outcome.reduced_h < order.remaining_h:
            self.on_unknown(order)  # fills we have not heard of: at full risk until proven
        elif kind is CommandKind.CANCEL:
            ended = OrderStatus.EXECUTED if filled_h >= order.count_h else OrderStatus.CANCELED
            self._keep(replace(base, status=ended, why="cancelled by us"), "cancelled")
        elif want is not None:
            self._keep(replace(base, count_h=filled_h + want.count_h), "decreased")
        else:
            assert intent is not None, "an amend without its intent"
            moved_ms = order.moved_at_ms if intent.is_refresh else now_ms
            count_h = max(intent.filled_h + intent.count_h, filled_h)
            ended = OrderStatus.EXECUTED if filled_h >= count_h else order.status
            self._keep(
                replace(
                    base,
                    price_cc=intent.price_cc,
                    count_h=count_h,
                    moved_at_ms=moved_ms,
                    expires_at_ms=intent.expires_at_ms,
                    status=ended,
                ),
                "expiry renewed" if intent.is_refresh else "amended",
            )

    def after_batch_cancel(self, order: Order, outcome: OrderOutcome) -> None:
        """One entry of a batch cancel, judged like a cancel of its own."""
        fresh = self.store.orders.get(order.client_order_id)
        is_open = outcome.kind in (OutcomeKind.ACCEPTED, OutcomeKind.GONE, OutcomeKind.UNKNOWN)
        # A refused cancel proves nothing about another command that has no answer yet.
        if fresh is not None and (is_open or fresh.pending is None):
            self._after_change(CommandKind.CANCEL, fresh, outcome, None, None)

    def _watch_path(self, outcome: OrderOutcome) -> None:
        if outcome.status == 410:
            text = "the exchange answers 410: this order path is switched off"
            self._trip("order_path_gone", text)

    def _watch_answers(self, outcome: OrderOutcome) -> None:
        """Breakers over the last creates: refusals, and answers that cannot be read."""
        is_refused = outcome.kind is OutcomeKind.REFUSED
        self._answers.append(is_refused)
        is_unreadable = outcome.kind is OutcomeKind.UNKNOWN and 200 <= outcome.status < 300
        self._unreadable = self._unreadable + 1 if is_unreadable else 0
        share = sum(self._answers) / REJECT_WINDOW
        if self._unreadable >= UNREADABLE_MAX:
            self._trip("unreadable_answers", "two answers in a row named no order")
        elif is_refused and share > self.config.max_reject_ratio:
            self._trip("reject_ratio", f"{share:.0%} of the last {REJECT_WINDOW} creates refused")


def _why(outcome: OrderOutcome) -> str:
    return outcome.code or outcome.message or f"status {outcome.status}"


# ======================================================================================
# §18f SENDER
# Purpose:   Gate, limits, budget, journal, bytes: in one go, and one command per order at a time.
# Position:  Uses §02 to §08, §11, §14, §15f, §18b to §18e.
# Principle: Written down before it is sent, sent once; no wait between check and bytes.
# ======================================================================================


class Sender(Answers):
    """Puts commands on the wire. Synchronous up to the bytes; a task hears the answer."""

    def __init__(self, **seams: Unpack[ExecutionSeams]) -> None:
        super().__init__(**seams)
        self.in_flight: dict[str, float] = {}  # client id → monotonic s of the command
        self.outcomes: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self._minute: deque[tuple[float, int]] = deque()  # orders: monotonic s, notional
        self._minute_ud = 0  # sum of these notionals
        self._recent: dict[tuple[str, Side, int], int] = {}
        self._doomed: set[str] = set()  # live orders to be cancelled once their id is known

    def _submit(self, intent: Intent, order: Order | None, quote: Quote) -> Verdict:
        """Gate, limits, budget, journal, bytes: in one go, no await between them."""
        verdict = self._refuse_early(intent)
        if verdict is None:
            self.exposure.attribute(intent.ticker, intent.event_ticker)
            view = self._risk_view(intent, quote)
            verdict = check_intent(intent, view, self.exposure, self.limits)
        if not verdict.is_ok:
            return verdict
        assert self._rest is not None, "an intent passed the gates without a trading client"
        if not self._rest.try_budget(intent.kind):
            return refusal(Reason.RATE_BUDGET, "write budget", "tokens")
        try:
            if not self.flush_facts():
                raise JournalError("facts of the past wait for room")
            self._journal.fact("intent", intent.client_order_id, row_of(intent))
        except JournalError as error:
            log_execution.error("intent not journaled, not sent error=%s", error)
            return refusal(Reason.JOURNAL_UNWRITABLE, str(error), "writable")
        try:
            request = (
                self._rest.create(intent, self.group_id)
                if order is None
                else self._rest.amend(intent)
            )
        finally:  # the order counts from here on, even if that call broke with its bytes gone
            self._count_rates(intent)
            reserved = self._reserve(intent, order)
        # The bytes have left; the intent in the journal stands for the order until this row does.
        self._tell_order(reserved, order, "sent" if order is None else "amend sent")
        self._send(intent.kind, reserved, request, intent)
        return ALLOWED

    def _refuse_early(self, intent: Intent) -> Verdict | None:
        if self._rest is None:
            return refusal(Reason.NOT_READY, "watch only", "trading")
        permit = self._permit(intent.ticker)
        if not permit.is_ok:
            return permit
        if not self.is_group_open:
            value, limit = "order group triggered", "a new order group"
            return refusal(Reason.RATE_BUDGET, value, limit)
        for other in self.store.live(ticker=intent.ticker):
            if other.side is intent.side and self.is_unproven(other):
                limit = "no unknown order on this side"
                return refusal(Reason.ORDER_UNKNOWN, other.client_order_id, limit)
        return None

    def _risk_view(self, intent: Intent, quote: Quote) -> RiskView:
        now = self._container.now
        mid2_cc = twice_mid_cc(quote.bid_cc, quote.ask_cc)
        self._trim_minute()
        key = (intent.ticker, intent.side, intent.price_cc)
        age_ms = intent.at_ms - self._recent.get(key, -DUPLICATE_WINDOW_MS)
        return RiskView(
            gate=now.gate,
            grid=quote.market.grid if quote.market else CENT_GRID,
            mid_cc=None if mid2_cc is None else mid2_cc // 2,
            last_cc=quote.last_cc,
            cash_ud=self.ledger.cash_ud,
            fee_ud=quote.fees.taker_ud(intent.price_cc, intent.count_h)
            if quote.fees.is_known
            else 0,
            day_pnl_ud=now.day_pnl_ud,
            drawdown_ud=now.drawdown_ud,
            orders_last_minute=len(self._minute),
            notional_last_minute_ud=self._minute_ud,
            is_duplicate=intent.kind is CommandKind.CREATE and age_ms < DUPLICATE_WINDOW_MS,
        )

    def _trim_minute(self) -> None:
        oldest_s = self._clock.monotonic() - 60.0
        while self._minute and self._minute[0][0] <= oldest_s:
            self._minute_ud -= self._minute.popleft()[1]

    def _count_rates(self, intent: Intent) -> None:
        if intent.is_refresh:
            return
        is_create = intent.kind is CommandKind.CREATE
        notional_ud = intent.notional_ud if is_create else 0
        self._minute.append((self._clock.monotonic(), notional_ud))
        self._minute_ud += notional_ud
        if is_create:
            self._recent[intent.ticker, intent.side, intent.price_cc] = intent.at_ms
            if len(self._recent) > ENDED_ORDERS_MAX:
                self._recent.clear()

    def _reserve(self, intent: Intent, order: Order | None) -> Order:
        """The order as it must count from now on: new and sent, or the worse of both sizes."""
        if order is None:
            fresh = Order(
                client_order_id=intent.client_order_id,
                ticker=intent.ticker,
                event_ticker=intent.event_ticker,
                side=intent.side,
                price_cc=intent.price_cc,
                count_h=intent.count_h,
                status=OrderStatus.SENT,
                strategy=intent.strategy,
                slot=intent.slot,
                decision_id=intent.decision_id,
                is_take=intent.is_take,
                sent_at_ms=intent.at_ms,
                moved_at_ms=intent.at_ms,
                expires_at_ms=intent.expires_at_ms,
            )
            return self._bind(fresh, None, "sent")
        changed = _amending(order, intent.price_cc, intent.count_h, intent.at_ms)
        return self._bind(changed, order, "amend sent")

    def cancel(self, order: Order) -> Verdict:
        """Ask for the end of one order; always allowed, in every state and under every halt.

        Before the exchange's id is known nothing can be asked: then it is as soon as it is.
        """
        if self._rest is None or order.order_id is None:
            if order.status.is_live:
                self._doomed.add(order.client_order_id)
            return refusal(Reason.ORDER_UNKNOWN, "no order id yet", "known id")
        self._rest.try_budget(CommandKind.CANCEL)
        pending = self._keep(_cancelling(order, self._clock.now_ms()), "cancel sent")
        self._send(CommandKind.CANCEL, pending, self._rest.cancel(order))
        return ALLOWED

    def _tell_order(self, order: Order, before: Order | None, why: str) -> None:
        super()._tell_order(order, before, why)
        if order.client_order_id in self._doomed and order.order_id is not None:
            self._doomed.discard(order.client_order_id)
            if is_settled(order):
                self.cancel(order)

    def _decrease(self, order: Order, want: Want) -> Verdict:
        assert self._rest is not None, "a resting order without a trading client"
        if not self._rest.try_budget(CommandKind.DECREASE):
            return refusal(Reason.RATE_BUDGET, "write budget", "tokens")
        pending = replace(
            order,
            pending=CommandKind.DECREASE,
            pending_since_ms=self._clock.now_ms(),
            worst_h=order.remaining_h,
            worst_cc=order.price_cc,
        )
        request = self._rest.decrease(order, want.count_h)
        self._send(CommandKind.DECREASE, self._keep(pending, "decrease sent"), request, want=want)
        return ALLOWED

    def _send(
        self,
        kind: CommandKind,
        order: Order,
        request: Awaitable[OrderOutcome],
        intent: Intent | None = None,
        *,
        want: Want | None = None,
    ) -> None:
        key = order.client_order_id
        self.sent[str(kind)] += 1
        self._enter_flight(key)
        self._supervisor.spawn(
            self._hear(kind, key, request, intent, want), name=f"order:{kind}:{key}"
        )

    async def _hear(
        self,
        kind: CommandKind,
        key: str,
        request: Awaitable[OrderOutcome],
        intent: Intent | None,
        want: Want | None,
    ) -> None:
        try:
            outcome = await request
        except Exception as error:
            log_execution.exception("request broke kind=%s id=%s", kind, key)
            outcome = OrderOutcome(
                kind=OutcomeKind.UNKNOWN, message=repr(error), client_order_id=key
            )
        finally:
            self._leave_flight(key)
        self.outcomes[f"{kind}:{outcome.kind.value}"] += 1
        order = self.store.orders.get(key)
        if order is None:
            return
        if kind is CommandKind.CREATE:
            self._after_create(order, outcome)
        else:
            self._after_change(kind, order, outcome, intent, want)

    def _enter_flight(self, key: str) -> None:
        self.in_flight[key] = self._clock.monotonic()
        if len(self.in_flight) == 1:
            self._bus.publish(CommandsInFlight(at_ms=self._clock.now_ms(), count=1))

    def _leave_flight(self, key: str) -> None:
        self.in_flight.pop(key, None)
        if not self.in_flight:
            self._bus.publish(CommandsInFlight(at_ms=self._clock.now_ms(), count=0))


# ======================================================================================
# §18g NEWS
# Purpose:   Merge what the exchange tells of orders: ours, adopted, foreign, late.
# Position:  Uses §03, §05, §18b to §18f. Fed by §16 and by the reads of §18i to §18k.
# Principle: News only adds: an end stays an end, and a new life after one is an alarm.
# ======================================================================================


class OrderNews(Sender):
    """Reports of orders, from the stream and from lists."""

    def on_report(self, report: OrderReport) -> Order | None:
        """Merge the exchange's picture of an order: ours, adopted or foreign."""
        order = self.store.find(client_order_id=report.client_order_id, order_id=report.order_id)
        if order is None:
            return self._adopt(report)
        is_old = (report.updated_at_ms or 0) < order.updated_at_ms
        if order.is_foreign:
            return order if is_old else self._foreign_moved(order, report)
        if not order.status.is_live:
            return self._late(order, report)
        if is_old and report.status is OrderStatus.RESTING:
            return order  # reads lag writes; an older picture proves nothing about a live order
        if not _is_same_order(order, report):
            self._collision(order)
            return order
        return self._merge(order, report)

    def _foreign_moved(self, order: Order, report: OrderReport) -> Order:
        if report.status is OrderStatus.UNKNOWN or not order.status.is_live:
            return order  # a word we do not know, or an end we have heard of
        return self._keep(_foreign(report, order.event_ticker), "foreign order moved")

    def _merge(self, order: Order, report: OrderReport) -> Order:
        filled_h = max(order.filled_h, report.filled_h)
        # A word for the status that we do not know proves nothing new.
        status = order.status if report.status is OrderStatus.UNKNOWN else report.status
        # Fills are facts, the picture may be older: what it tells of size holds as a whole.
        is_resting = status is OrderStatus.RESTING and order.pending is None
        count_h = report.filled_h + report.remaining_h if is_resting else order.count_h
        if status in (OrderStatus.CANCELED, OrderStatus.RESTING) and filled_h >= count_h:
            status = OrderStatus.EXECUTED if order.pending is None else status
        merged = replace(
            order,
            order_id=report.order_id,
            status=status,
            filled_h=filled_h,
            acked_at_ms=order.acked_at_ms or self._clock.now_ms(),
            updated_at_ms=max(order.updated_at_ms, report.updated_at_ms or 0),
            why=report.why if status is OrderStatus.CANCELED else order.why,
        )
        if is_resting:
            merged = replace(
                merged,
                price_cc=report.price_cc,
                count_h=max(count_h, filled_h),
                expires_at_ms=report.expires_at_ms or order.expires_at_ms,
            )
        return order if merged == order else self._keep(merged, report.why or "reported")

    def settle_pending(self, order: Order, report: OrderReport) -> Order:
        """A re-read proves what became of an amend, decrease or cancel without an answer."""
        fresh = self.store.orders[order.client_order_id]
        if fresh.pending is None or not fresh.status.is_live:
            return fresh
        merged = replace(_at_rest(fresh), updated_at_ms=0)
        self.store.put(merged)
        self.exposure.put_order(merged)
        return self._merge(merged, report)

    def _adopt(self, report: OrderReport) -> Order | None:
        """An order we do not know: ours from a lost journal, or somebody else's on this account."""
        event_ticker = self._event_of(report.ticker)
        if not self.ids.is_ours(report.client_order_id):
            if report.status is not OrderStatus.RESTING:
                return None
            text = f"an order of somebody else rests in {report.ticker}"
            self._alert("warning", "foreign_activity", text, report.ticker)
            return self._keep(_foreign(report, event_ticker), "foreign order found")
        adopted = replace(_foreign(report, event_ticker), is_foreign=False, why="adopted")
        log_execution.warning("order adopted id=%s", report.client_order_id)
        return self._keep(adopted, "adopted")

    def _late(self, order: Order, report: OrderReport) -> Order:
        """News of an order that has ended here: more fills are facts, a new life is an alarm."""
        is_alive = report.status is OrderStatus.RESTING
        is_more = report.filled_h > order.filled_h
        is_given_up = order.status in (OrderStatus.NEVER_ACCEPTED, OrderStatus.REJECTED)
        if is_given_up and (is_alive or is_more):
            what = "rests" if is_alive else "was filled"
            self._alarm_late(order, f"{what} although it was given up")
        if is_given_up and is_alive:
            return self._revive(order, report, "late accept")
        if is_more:
            return self._keep(
                replace(order, filled_h=report.filled_h, order_id=report.order_id), "late fill"
            )
        return order

    def rests_after_all(self, order: Order, report: OrderReport) -> None:
        """Proven: an order that has ended here still rests there. Alarm, count it, cancel it."""
        self._alarm_late(order, f"rests although it is {order.status} here", "invariant_failed")
        self._revive(order, report, "rests after all")

    def _revive(self, order: Order, report: OrderReport, why: str) -> Order:
        """Count an order that had ended as live again, and ask for its end at once."""
        filled_h = max(order.filled_h, report.filled_h)
        revived = replace(
            order,
            status=OrderStatus.RESTING,
            order_id=report.order_id,
            why=why,
            price_cc=report.price_cc,
            count_h=filled_h + report.remaining_h,
            filled_h=filled_h,
            updated_at_ms=report.updated_at_ms or 0,
        )
        self.store.put(revived)
        self.exposure.put_order(revived)
        self.cancel(revived)
        return self.store.orders[order.client_order_id]

    def _alarm_late(self, order: Order, what: str, kind: str = "late_accept") -> None:
        self._alert("error", kind, f"{order.client_order_id} {what}", order.ticker)
        self.write_fact("late_accept", order.client_order_id, row_of(order))

    def _collision(self, order: Order) -> None:
        text = f"{order.client_order_id} names another order at the exchange"
        self._alert("error", "invariant_failed", text, order.ticker)
        if order.status in (OrderStatus.SENT, OrderStatus.UNKNOWN):
            self._keep(replace(order, status=OrderStatus.REJECTED, why="id collision"), "collision")


def _is_same_order(order: Order, report: OrderReport) -> bool:
    if report.ticker != order.ticker or report.side is not order.side:
        return False
    # Until the first answer nothing of ours can have moved it, so price and size must match too.
    is_fresh = order.order_id is None
    return not is_fresh or (report.price_cc == order.price_cc and report.count_h == order.count_h)


def _foreign(report: OrderReport, event_ticker: str) -> Order:
    return Order(
        client_order_id=report.client_order_id or report.order_id,
        order_id=report.order_id,
        ticker=report.ticker,
        event_ticker=event_ticker,
        side=report.side,
        price_cc=report.price_cc,
        count_h=report.filled_h + report.remaining_h
        if report.status is OrderStatus.RESTING
        else report.count_h,
        status=report.status,
        filled_h=report.filled_h,
        booked_h=report.filled_h,
        updated_at_ms=report.updated_at_ms or 0,
        expires_at_ms=report.expires_at_ms,
        is_foreign=True,
    )


# ======================================================================================
# §18h EXECUTION SERVICE
# Purpose:   Send what is missing between what strategies want and what is there.
# Position:  Uses §18a to §18g. Built by §23; asked by §19.
# Principle: A strategy says what it wants; nothing it says can skip a gate or double an order.
# ======================================================================================


class ExecutionService(OrderNews):
    """One writer of orders, ledger and exposures. Synchronous up to the bytes of a command."""

    def __init__(self, **seams: Unpack[ExecutionSeams]) -> None:
        super().__init__(**seams)
        self.refusals: Counter[str] = Counter()

    def converge(
        self,
        *,
        ticker: str,
        strategy: str,
        wants: Sequence[Want],
        decision_id: str,
        is_forced: bool = False,
        is_exit: bool = False,
    ) -> Convergence:
        """Send what is missing between `wants` and the live orders; counted under one reason.

        `is_exit` (flatten) looks at the slots wanted only and marks creates reduce-only.
        """
        live = self.store.slots(strategy, ticker)
        refused: Verdict | None = None
        if self._container.now.gate is Gate.REDUCE_ONLY:
            wants, refused = self._cut_to_reduce(ticker, wants)
        if is_exit:
            live = {want.slot: live[want.slot] for want in wants if want.slot in live}
        commands = plan(
            live,
            wants,
            now_ms=self._clock.now_ms(),
            ttl_ms=self.config.order_ttl_s * 1000,
            is_forced=is_forced,
        )
        touched: list[str] = []
        rows: list[Mapping[str, JsonValue]] = []
        for command in commands:
            if command.order is not None and command.order.client_order_id in self.in_flight:
                continue  # the stream was faster than the answer; one command at a time
            verdict, key = self._carry_out(command, ticker, strategy, decision_id, is_exit=is_exit)
            if verdict.is_ok:
                touched.append(key)
                rows.append({"kind": command.kind, "client_order_id": key})
            else:
                refused = refused or verdict
        if touched:
            return Convergence(reason=Reason.ACTED, order_ids=tuple(touched), commands=tuple(rows))
        if refused is not None:
            self.refusals[str(refused.reason)] += 1
            return Convergence(
                reason=Reason(refused.reason), value=refused.value, limit=refused.limit
            )
        is_unknown = any(order.status is OrderStatus.UNKNOWN for order in live.values())
        return Convergence(reason=Reason.ORDER_UNKNOWN if is_unknown else Reason.KEPT)

    def _cut_to_reduce(
        self, ticker: str, wants: Sequence[Want]
    ) -> tuple[list[Want], Verdict | None]:
        """While the gate is reduce-only: only what shrinks the position, and only as a taker."""
        cut = []
        for want in wants:
            held_h = want.side.other.signed(self.exposure.held_h(ticker))
            if held_h > 0:
                cut.append(replace(want, count_h=min(want.count_h, held_h), take=True))
        if len(cut) == len(wants):
            return cut, None
        value, limit = f"{len(wants) - len(cut)} wants would open", "only what shrinks the position"
        return cut, refusal(Reason.REDUCE_ONLY, value, limit)

    def _carry_out(
        self, command: Command, ticker: str, strategy: str, decision_id: str, *, is_exit: bool
    ) -> tuple[Verdict, str]:
        if command.kind is CommandKind.CANCEL and command.order is not None:
            return self.cancel(command.order), command.order.client_order_id
        if command.kind is CommandKind.DECREASE and command.order is not None:
            assert command.want is not None, "a decrease needs its wanted size"
            return self._decrease(command.order, command.want), command.order.client_order_id
        quote = self._quote(ticker)
        event_ticker = quote.market.event_ticker if quote.market else self._event_of(ticker)
        intent = self._intent_of(
            command, ticker, event_ticker, strategy, decision_id, is_exit=is_exit
        )
        return self._submit(intent, command.order, quote), intent.client_order_id

    def _intent_of(
        self,
        command: Command,
        ticker: str,
        event_ticker: str,
        strategy: str,
        decision_id: str,
        *,
        is_exit: bool,
    ) -> Intent:
        want, order, now_ms = command.want, command.order, self._clock.now_ms()
        assert want is not None, f"{command.kind} without a want"
        is_reducing = is_exit or self._container.now.gate is Gate.REDUCE_ONLY
        is_take = want.take or is_reducing
        return Intent(
            kind=command.kind,
            client_order_id=order.client_order_id if order else self.ids.next(),
            ticker=ticker,
            event_ticker=event_ticker,
            side=want.side,
            price_cc=want.price_cc,
            count_h=want.count_h,
            strategy=strategy,
            slot=want.slot,
            decision_id=decision_id,
            at_ms=now_ms,
            expires_at_ms=None
            if is_take and order is None
            else now_ms + self.config.order_ttl_s * 1000,
            order_id=order.order_id if order else None,
            filled_h=order.filled_h if order else 0,
            unbooked_h=max(0, order.filled_h - order.booked_h) if order else 0,
            is_take=is_take,
            is_reduce_only=is_reducing and order is None,
            is_refresh=command.is_refresh,
        )


# ======================================================================================
# §18i RESOLVER
# Purpose:   Find out what became of an order or a command without an answer.
# Position:  Uses §11, §15e, §18b to §18h. The base of §18j to §18l.
# Principle: Absent is what a list newer than the request's last moment lacks; an error is neither.
# ======================================================================================


log_sync = logging.getLogger("trader.sync")

CHANGE_LIFE_MS: Final = int((SIGNATURE_LIFE_S + ABSENCE_MARGIN_S) * 1000)  # of an amend, a decrease
CHANGE_SCAN_S: Final = 3.0  # between two scans for a change that has not shown at once


def _is_moved(order: Order, report: OrderReport) -> bool:
    """Whether a report shows price, size or expiry changed: only a command of ours does that."""
    ours_s, theirs_s = ((each.expires_at_ms or 0) // 1000 for each in (order, report))
    is_renewed = report.expires_at_ms is not None and ours_s != theirs_s
    theirs_h = report.filled_h + report.remaining_h
    return is_renewed or (order.price_cc, order.count_h) != (report.price_cc, theirs_h)


class SyncSeams(TypedDict):
    """What the trading client is built from (§23)."""

    clock: Clock
    supervisor: Supervisor
    bus: EventBus
    rest: KalshiRest
    execution: ExecutionService
    container: StateContainer
    config: Config


class Resolver:
    """One task per open question; each is asked until it is proven (rule A13)."""

    def __init__(self, **seams: Unpack[SyncSeams]) -> None:
        self._clock, self._supervisor = seams["clock"], seams["supervisor"]
        self._bus, self._rest = seams["bus"], seams["rest"]
        self._execution, self._container = seams["execution"], seams["container"]
        self._config = seams["config"]
        self.resolved: Counter[str] = Counter()
        self.scan_errors = 0
        self._resolving: set[str] = set()
        self._chasing: set[str] = set()
        self._missing: set[str] = set()  # resting here, not in the exchange's list
        self._undead: dict[str, int] = {}  # ended here, listed as resting: since when seen so, ms
        self._execution.on_unknown = self.resolve
        self._execution.on_gap_in_fills = self._chase

    def resolve(self, order: Order) -> None:
        """Ask about this order until its fate is proven; one task per order."""
        key = order.client_order_id
        if key in self._resolving:
            return
        self._resolving.add(key)
        self._supervisor.spawn(self._resolve(key), name=f"resolve:{key}")

    async def _resolve(self, key: str) -> None:
        absences = 0
        try:
            while (order := self._open_question(key)) is not None:
                try:
                    absences = await self._scan(order, absences)
                except (ExchangeError, WireError) as error:
                    self.scan_errors += 1  # an error is never an absence
                    log_sync.info("scan failed id=%s error=%s", key, error)
                if (order := self._open_question(key)) is not None:
                    await self._clock.sleep(self._scan_pause_s(order))
        finally:
            self._resolving.discard(key)
            self._missing.discard(key)
            self._undead.pop(key, None)

    def _scan_pause_s(self, order: Order) -> float:
        """A change that the first scans do not show is waited for with patience."""
        age_ms = self._clock.now_ms() - order.pending_since_ms
        is_slow = is_change_open(order) and age_ms > CHANGE_SCAN_S * 2000
        return CHANGE_SCAN_S if is_slow else UNKNOWN_SCAN_S

    def _open_question(self, key: str) -> Order | None:
        order = self._execution.store.orders.get(key)
        if order is None or not order.status.is_live:
            return order if key in self._undead else None
        if key in self._execution.in_flight:
            return None  # its answer is still awaited, and asks again if it proves nothing
        is_unproven = order.status in (OrderStatus.UNKNOWN, OrderStatus.SENT)
        return order if is_unproven or order.pending or key in self._missing else None

    async def _scan(self, order: Order, absences: int) -> int:
        """Look once in all lists; returns the absences proven so far (0 when found)."""
        as_of_ms = await self._rest.user_data_timestamp_ms()
        found = await self._find(order)
        seen_ms = self._undead.get(order.client_order_id, 0)
        since_ms = max(order.sent_at_ms, order.pending_since_ms, seen_ms)
        is_fresh = as_of_ms > since_ms + ABSENCE_MARGIN_S * 1000
        if seen_ms and not order.status.is_live:
            self._judge_undead(order, found, is_fresh=is_fresh)
            return 0
        if found is not None:
            is_past = as_of_ms > order.pending_since_ms + CHANGE_LIFE_MS
            self._found(order, found, is_fresh=is_fresh, is_past=is_past)
            return 0
        if not is_fresh:
            return absences
        absences += 1
        if absences >= ABSENCES_NEEDED and as_of_ms > self._door_ms(order):
            never = order.status in (OrderStatus.UNKNOWN, OrderStatus.SENT)
            self.resolved["never_accepted" if never else "gone"] += 1
            self._missing.discard(order.client_order_id)
            self._execution.give_up(order, "proven absent")
        return absences

    def _judge_undead(self, order: Order, found: OrderReport | None, *, is_fresh: bool) -> None:
        """Ended here, listed as resting: an old list is no news, a fresh one an alarm."""
        is_resting = found is not None and found.status is OrderStatus.RESTING
        if is_resting and not is_fresh:
            return
        del self._undead[order.client_order_id]
        if is_resting and found is not None:
            self._execution.rests_after_all(order, found)

    def _door_ms(self, order: Order) -> float:
        """Moment after which the create can neither arrive nor be alive any more."""
        if order.order_id is not None:
            return 0.0
        signed_ms = order.sent_at_ms + SIGNATURE_LIFE_S * 1000
        if order.expires_at_ms is None:
            return signed_ms
        return min(signed_ms, order.expires_at_ms + ABSENCE_MARGIN_S * 1000)

    async def _find(self, order: Order) -> OrderReport | None:
        for read in (self._rest.orders, self._rest.historical_orders):
            for report in await read(ticker=order.ticker):
                is_it = report.client_order_id == order.client_order_id
                if is_it or (order.order_id is not None and report.order_id == order.order_id):
                    return report
        return None

    def _found(self, order: Order, report: OrderReport, *, is_fresh: bool, is_past: bool) -> None:
        """Settle what the list proves. A change without an answer is proven by its effect, or by a
        list that is newer (`is_past`) than its request can arrive.
        """
        self._missing.discard(order.client_order_id)
        if order.pending is None:
            self._execution.on_report(report)
            self.resolved["found"] += 1
            return
        if report.status is not OrderStatus.RESTING:
            self._execution.settle_pending(order, report)
        elif is_fresh and (not is_change_open(order) or is_past or _is_moved(order, report)):
            after = self._execution.settle_pending(order, report)
            if order.pending is CommandKind.CANCEL and after.status is OrderStatus.RESTING:
                self._execution.cancel(after)  # cannot do harm twice
                return
        if self._execution.store.orders[order.client_order_id].pending is None:
            self.resolved["settled"] += 1

    def _chase(self, order: Order) -> None:
        """The exchange counts more filled than we booked: read that order's fills, never invent."""
        key = order.client_order_id
        if key in self._chasing or order.order_id is None:
            return
        self._chasing.add(key)
        self._supervisor.spawn(self._chase_fills(key, order.order_id), name=f"fills:{key}")

    async def _chase_fills(self, key: str, order_id: str) -> None:
        try:
            while True:
                await self._clock.sleep(UNKNOWN_SCAN_S)
                order = self._execution.store.orders.get(key)
                if order is None or order.booked_h >= order.filled_h:
                    return
                try:
                    for report in await self._rest.fills(order_id=order_id):
                        self._execution.on_fill(report)
                except (ExchangeError, WireError) as error:
                    self.scan_errors += 1
                    log_sync.info("fill scan failed id=%s error=%s", key, error)
        finally:
            self._chasing.discard(key)


# ======================================================================================
# §18j CANCELLER
# Purpose:   Cancel own orders and prove them gone.
# Position:  Uses §11, §15f, §18h, §18i. The base of §18k.
# Principle: Gone is what the exchange's list no longer shows, never what was only asked for.
# ======================================================================================


_CANCEL_PAUSE_MAX_S: Final = 1.0  # between two rounds of cancels: a refusal is not hammered


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReport:
    """Outcome of a cancel-all: how many were asked for, proven gone, and the ids that remain.

    `is_proven` is False when the exchange's list could not be read: then more may rest.
    """

    sent: int
    confirmed: int
    remaining: tuple[str, ...]
    is_proven: bool = True

    @property
    def is_done(self) -> bool:
        """Whether nothing of ours rests, by the exchange's own list."""
        return self.is_proven and not self.remaining


class Canceller(Resolver):
    """Batch cancels in rounds, each followed by a look at the list."""

    def own_live(
        self, ticker: str | None = None, key: str | None = None, strategy: str | None = None
    ) -> list[Order]:
        """Own orders that are, or may be, live, of one market, one id or one strategy if given."""
        return [
            order
            for order in self._execution.store.live(ticker=ticker)
            if key in (None, order.client_order_id) and strategy in (None, order.strategy)
        ]

    async def cancel_all(
        self,
        *,
        ticker: str | None = None,
        key: str | None = None,
        strategy: str | None = None,
        limit_s: float = STOP_LIMIT_S,
    ) -> CancelReport:
        """Cancel own orders and prove them gone by the exchange's list, within `limit_s` real s."""
        targets = {order.client_order_id for order in self.own_live(ticker, key, strategy)}
        asked = len(targets)
        deadline_s, pause_s = self._clock.real_s() + limit_s, 0.2
        while True:
            is_proven = False
            try:
                async with asyncio.timeout(max(0.05, deadline_s - self._clock.real_s())):
                    await self._cancel_round(ticker, key, strategy)
                is_proven = True
            except (ExchangeError, WireError, TimeoutError) as error:
                log_sync.warning("cancel round failed error=%r", error)
            left = tuple(o.client_order_id for o in self.own_live(ticker, key, strategy))
            gone = len(targets - set(left))
            report = CancelReport(sent=asked, confirmed=gone, remaining=left, is_proven=is_proven)
            if report.is_done or self._clock.real_s() >= deadline_s:
                return report
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _CANCEL_PAUSE_MAX_S)

    async def _cancel_round(
        self, ticker: str | None, key: str | None, strategy: str | None
    ) -> None:
        living = self.own_live(ticker, key, strategy)
        ready = [order for order in living if order.order_id is not None]
        for order in living:
            if order.order_id is None:
                self._execution.cancel(order)  # as soon as its id is known, even after this call
        for start in range(0, len(ready), BATCH_CANCEL_MAX):
            part = ready[start : start + BATCH_CANCEL_MAX]
            for order, outcome in zip(part, await self._rest.cancel_batch(part), strict=True):
                self._execution.after_batch_cancel(order, outcome)
        for report in await self._rest.orders(status="resting"):
            if self._execution.ids.is_ours(report.client_order_id):
                self._execution.on_report(report)

    async def trigger_group(self) -> None:
        """One call that cancels every order of this run and refuses new ones."""
        if self._execution.group_id is not None:
            await self._rest.trigger_group(self._execution.group_id)


# ======================================================================================
# §18k RECONCILER
# Purpose:   Compare orders, fills, positions and cash with the exchange, and adopt its truth.
# Position:  Uses §11 to §15, §18h to §18j. The base of §18l.
# Principle: The exchange's truth wins; a difference is believed when seen twice, and told.
# ======================================================================================


_FILL_MARGIN_S: Final = 600  # fills are read again from this far before the newest one known
_PAYOUTS_AGAIN_S: Final = 86_400  # payouts of so long are read again when cash differs
_QUIET_MS: Final = 10_000  # a baseline is read twice when the account traded this recently
_ADJUST_WINDOW_MS: Final = 3_600_000


def locked_ud(resting: Iterable[OrderReport], held_h: Mapping[str, int]) -> int:
    """What an exchange that reserves at placement locks: each order's cost where it opens."""
    total_ud = 0
    for report in resting:
        sign = 1 if report.side is Side.YES else -1
        closes_h = max(0, -sign * held_h.get(report.ticker, 0))
        total_ud += max(0, report.remaining_h - closes_h) * report.price_cc
    return total_ud


class Reconciler(Canceller):
    """One pass at a time, each with its number; overtaken results are dropped (rule A13)."""

    def __init__(self, **seams: Unpack[SyncSeams]) -> None:
        super().__init__(**seams)
        self.generation = 0
        self.passes = Counter[str]()
        self.failures_in_row = 0  # passes of run() that could not be finished
        self.last: Reconciled | None = None
        self._suspects: tuple[str, ...] = ()
        self._adjusted_ms: deque[int] = deque(maxlen=2)
        self._is_passing = False
        self._wake = asyncio.Event()
        self._has_baseline = False

    def ask(self) -> None:
        """Reconcile as soon as possible instead of at the next interval."""
        self._wake.set()

    async def reconcile(self) -> Reconciled | None:
        """One full pass; None when another is under way. Raises what a read raises."""
        if self._is_passing:
            return None
        self._is_passing = True
        try:
            return await self._pass()
        finally:
            self._is_passing = False

    async def _pass(self) -> Reconciled:
        self.generation += 1
        begun_s = self._clock.real_s()
        differences: tuple[str, ...] = ()
        cash_difference_ud = orders = positions = 0
        for attempt in range(RECONCILE_ROUNDS_MAX):
            if attempt:
                await self._clock.sleep(UNKNOWN_SCAN_S)
            as_of_ms = await self._rest.user_data_timestamp_ms()
            resting = await self._rest.orders(status="resting")
            if not self._has_baseline:
                await self._baseline(as_of_ms)
            await self._read_fills()
            held = await self._rest.positions()
            balance = await self._rest.balance()
            changes = self._execution.changes
            self._merge_orders(resting, as_of_ms)
            await self._read_settlements(held)
            differences, cash_difference_ud = self._compare(held, balance, resting)
            orders, positions = len(resting), sum(1 for row in held if row.position_h)
            if not differences and not cash_difference_ud:
                self._suspects = ()
                break
            if cash_difference_ud:
                await self._read_payouts_again()
            suspects = (*differences, f"cash {cash_difference_ud}", str(changes))
            if changes == self._execution.changes and self._is_proven(as_of_ms, suspects):
                self._adjust(held, balance, differences, cash_difference_ud)
                break
        is_clean = not differences and not cash_difference_ud
        result = Reconciled(
            at_ms=self._clock.now_ms(),
            generation=self.generation,
            orders=orders,
            positions=positions,
            is_clean=is_clean,
            differences=differences,
            cash_difference_ud=cash_difference_ud,
            duration_ms=int((self._clock.real_s() - begun_s) * 1000),
        )
        self._finish(result)
        return result

    def _finish(self, result: Reconciled) -> None:
        self.last, self.failures_in_row = result, 0
        self.passes["clean" if result.is_clean else "different"] += 1
        self._container.update(
            reconciled_at_ms=result.at_ms,
            is_reconciled=result.is_clean,
            reconcile_difference_ud=result.cash_difference_ud,
        )
        self._resume_open_questions()
        self._cancel_strangers()
        self._bus.publish(result)
        if not result.is_clean:
            self.ask()

    def _is_proven(self, as_of_ms: int, suspects: tuple[str, ...]) -> bool:
        """A difference is believed when seen twice, by reads newer than our last own movement."""
        if as_of_ms <= self._execution.changed_at_ms + ABSENCE_MARGIN_S * 1000:
            return False
        is_same, self._suspects = self._suspects == suspects, suspects
        return is_same

    async def _baseline(self, as_of_ms: int) -> None:
        """First pass ever for this journal: the account as it stands is where counting begins."""
        for fact in self._execution.adjustments():
            self._has_baseline = True
            if fact.body.get("differences"):
                self._adjusted_ms.append(fact.at_ms)  # of an earlier run: it counts all the same
        if self._has_baseline:
            return
        # Twice the margin of later reads: no fill of before may be found by them and booked again.
        since_s = as_of_ms // 1000 - 2 * _FILL_MARGIN_S
        for _ in range(RECONCILE_ROUNDS_MAX):
            seen = await self._rest.fills(min_ts_s=since_s)
            if seen and max(fill.at_ms for fill in seen) > as_of_ms - _QUIET_MS:
                await self._clock.sleep(ABSENCE_MARGIN_S)
            held, balance = await self._rest.positions(), await self._rest.balance()
            again = await self._rest.fills(min_ts_s=since_s)
            if len(again) == len(seen):
                self._write_adjust("baseline", held, balance, again)
                self._has_baseline = True
                return
        raise WireError("the account trades too fast for a baseline; it is tried again")

    def _write_adjust(
        self,
        why: str,
        held: Sequence[PositionReport],
        balance: Balance,
        seen: Sequence[FillReport] = (),
        differences: Sequence[str] = (),
    ) -> None:
        fields = ("ticker", "position_h", "cost_ud", "realised_ud", "fees_ud")
        body: dict[str, Any] = {
            "why": why,
            "cash_ud": balance.cash_ud,
            "positions": [{name: getattr(row, name) for name in fields} for row in held],
            "seen": [[fill.trade_id, fill.order_id] for fill in seen],
            "differences": list(differences),
        }
        self._execution.write_fact("adjust", why, body)
        self._execution.adopt_figures(body)
        for row in held:
            self._execution.refresh_exposure(row.ticker)

    async def _read_fills(self) -> None:
        since_ms = self._execution.fills_known_to_ms or self._clock.now_ms()
        fills = await self._rest.fills(min_ts_s=since_ms // 1000 - _FILL_MARGIN_S)
        # A fill tells no client id here: whose it is must be known before it is booked.
        strange = {fill.ticker for fill in fills if not self._execution.is_known(fill)}
        for ticker in sorted(strange):
            for order in await self._rest.orders(ticker=ticker):
                self._execution.on_report(order)
        for report in sorted(fills, key=lambda fill: fill.at_ms):
            self._execution.on_fill(report)

    def _merge_orders(self, resting: Sequence[OrderReport], as_of_ms: int) -> None:
        """The list of resting orders is merged; own orders missing from it are asked about."""
        listed = {report.order_id for report in resting}
        for report in resting:
            known = self._execution.on_report(report)
            if known is not None and not (known.status.is_live or known.is_foreign):
                self._undead.setdefault(known.client_order_id, self._clock.now_ms())
                self.resolve(known)
        newest_ms = as_of_ms - ABSENCE_MARGIN_S * 1000
        for order in list(self._execution.store.orders.values()):
            is_old = max(order.acked_at_ms or 0, order.updated_at_ms, order.moved_at_ms) < newest_ms
            if order.status is OrderStatus.RESTING and is_old and order.order_id not in listed:
                if order.is_foreign:
                    self._execution.give_up(order, "no longer listed")
                elif order.pending is None:
                    self._missing.add(order.client_order_id)
                    self.resolve(order)

    async def _read_settlements(self, held: Sequence[PositionReport]) -> None:
        listed = {row.ticker for row in held if row.position_h}
        gone = [
            ticker
            for ticker, position in self._execution.ledger.positions.items()
            if position.position_h and ticker not in listed
        ]
        for ticker in gone:
            for settlement in await self._rest.settlements(ticker=ticker):
                if settlement.ticker == ticker:
                    self._book_settlement(settlement)

    async def _read_payouts_again(self) -> None:
        """Cash differs: what the exchange paid of late may not be what was booked."""
        since_s = self._clock.now_ms() // 1000 - _PAYOUTS_AGAIN_S
        for settlement in await self._rest.settlements(min_ts_s=since_s):
            if self._execution.is_paid(settlement.ticker):
                self._book_settlement(settlement)

    def _book_settlement(self, row: Settlement) -> None:
        if row.value_cc is not None:
            told = (row.yes_h - row.no_h, row.revenue_ud)
            self._execution.on_settled(row.ticker, row.result, row.value_cc, told=told)

    def _compare(
        self,
        held: Sequence[PositionReport],
        balance: Balance,
        resting: Sequence[OrderReport],
    ) -> tuple[tuple[str, ...], int]:
        ledger = self._execution.ledger
        theirs = {row.ticker: row.position_h for row in held}
        rows = []
        for ticker in sorted(theirs.keys() | ledger.positions.keys()):
            ours_h, theirs_h = ledger.position_h(ticker), theirs.get(ticker, 0)
            if ours_h != theirs_h:
                rows.append(
                    f"{ticker}: ours {format_count(ours_h)}, exchange {format_count(theirs_h)}"
                )
        cash_difference_ud = balance.cash_ud - (ledger.cash_ud or 0)
        # Not settled by the exchange's texts: a balance may come less what resting orders lock.
        is_locked = cash_difference_ud == -locked_ud(resting, theirs)
        return tuple(rows), 0 if is_locked else cash_difference_ud

    def _adjust(
        self,
        held: Sequence[PositionReport],
        balance: Balance,
        differences: tuple[str, ...],
        cash_difference_ud: int,
    ) -> None:
        """Adopt the exchange's figures, say so loudly; positions twice within an hour halt."""
        text = "; ".join((*differences, f"cash {show_dollars(cash_difference_ud)} dollars"))
        log_sync.error("difference nothing explains, adopting the exchange's figures: %s", text)
        ours = {row.ticker for row in held}
        closed = [
            PositionReport(
                ticker=t, position_h=0, cost_ud=0, realised_ud=p.realised_ud, fees_ud=p.fees_ud
            )
            for t, p in self._execution.ledger.positions.items()
            if t not in ours
        ]
        why = f"difference {self.generation}"
        self._write_adjust(why, [*held, *closed], balance, differences=differences)
        now_ms = self._clock.now_ms()
        self._bus.publish(
            AlertRaised(at_ms=now_ms, severity="error", kind="reconcile_difference", text=text)
        )
        if differences:
            self._adjusted_ms.append(now_ms)
            is_second = len(self._adjusted_ms) == 2
            if is_second and now_ms - self._adjusted_ms[0] <= _ADJUST_WINDOW_MS:
                self._bus.publish(
                    BreakerTripped(at_ms=now_ms, kind="position_difference", text=text)
                )

    def _resume_open_questions(self) -> None:
        for order in list(self._execution.store.orders.values()):
            is_open = order.status in (OrderStatus.UNKNOWN, OrderStatus.SENT)
            is_open = is_open or (order.status.is_live and order.pending is not None)
            if is_open and order.client_order_id not in self._execution.in_flight:
                self.resolve(order)
            if order.filled_h > order.booked_h and not order.is_foreign:
                self._chase(order)

    def _cancel_strangers(self) -> None:
        """Own orders of earlier runs, and adopted ones, belong to no strategy here: cancel them."""
        for order in self._execution.store.live():
            is_of_this_run = order.client_order_id.startswith(
                f"{self._execution.ids.root}{self._execution.ids.run}-"
            )
            is_strange = not is_of_this_run or not order.strategy
            if is_strange and (is_settled(order) or is_change_open(order)):
                self._execution.cancel(order)


# ======================================================================================
# §18l TRADING CLIENT
# Purpose:   Connect the account, keep reconciling, leave it proven; read the fees of markets.
# Position:  Uses §11, §15, §18i to §18k. Started by §23; the only caller of account reads.
# Principle: Always on: it goes on after every failure, and says honestly what it does not know.
# ======================================================================================


RECONCILE_RETRY_MAX_S: Final = 10.0  # longest jittered wait after a pass that could not be read
LOOK_LIMIT_S: Final = 3.0  # at the end, for a look at the list when nothing of ours is known


class TradingClientIntegration(Reconciler):
    """Account reads, reconcile and resolver; each is single-flight (rule A13)."""

    def __init__(self, **seams: Unpack[SyncSeams]) -> None:
        super().__init__(**seams)
        self.is_connected = False

    async def connect(self) -> None:
        """A signed read works, clock and limits are known, this run's order group exists."""
        await self._rest.sync_clock()
        await self._rest.learn_limits()
        if self._execution.group_id is None and self._config.is_armed:
            await self.renew_group()
        self.is_connected = True

    async def renew_group(self) -> None:
        """Make a new group and use it; the old one stays in use until then, or closed."""
        self._execution.open_group(await self._rest.create_group(self._config.group_h))

    async def run(self) -> None:
        """Reconcile for ever: every sync_interval_s, at once when asked, soon after a failure."""
        backoff = Backoff(self._clock, first_s=UNKNOWN_SCAN_S, cap_s=RECONCILE_RETRY_MAX_S)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.sync_interval_s / self._clock.rate):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.reconcile()
                backoff.worked()
            except (ExchangeError, WireError) as error:
                self.passes["failed"] += 1
                self.failures_in_row += 1
                log_sync.warning("reconcile failed error=%s", error)
                await self._clock.sleep(UNKNOWN_SCAN_S + backoff.next_s())
                self.ask()

    async def leave(self, *, limit_s: float) -> CancelReport:
        """The end: own orders go (or stay, by setting); what may remain is told honestly.

        Before the first finished pass nobody knows what rests, so the exchange is asked; but not
        for a journal that was read and never saw an order.
        """
        remaining = tuple(order.client_order_id for order in self.own_live())
        is_new = self._execution.is_replayed and not self._execution.store.orders
        is_proven = self.last is not None or is_new
        if self._config.on_stop != "cancel" or (is_proven and not remaining):
            return CancelReport(sent=0, confirmed=0, remaining=remaining, is_proven=is_proven)
        return await self.cancel_all(limit_s=limit_s if remaining else min(limit_s, LOOK_LIMIT_S))


class FeeReader:
    """Fee schedules of followed markets: event override over series; assumed until read."""

    def __init__(self, *, rest: KalshiRest, config: Config) -> None:
        self._rest = rest
        self._assumed = assumed_fees(config.fee_precision_ud)
        self._precision_ud = config.fee_precision_ud
        self._known: dict[str, FeeSchedule] = {}
        self._wanted: dict[str, Market] = {}
        self._wake = asyncio.Event()
        self.errors = 0

    def of(self, ticker: str) -> FeeSchedule:
        """Schedule in force for a market; the dearer assumption while it is not known."""
        return self._known.get(ticker, self._assumed)

    def want(self, markets: Iterable[Market]) -> None:
        """These are the markets whose fees matter now."""
        self._wanted = {market.ticker: market for market in markets}
        self._known = {t: fees for t, fees in self._known.items() if t in self._wanted}
        self._wake.set()

    def forget(self, ticker: str) -> None:
        """The fees of this market's event changed: read them again."""
        self._known.pop(ticker, None)
        self._wake.set()

    async def learn(self) -> None:
        """Read what is not known yet; what cannot be read stays assumed."""
        for ticker, market in list(self._wanted.items()):
            if ticker in self._known:
                continue
            try:
                self._known[ticker] = await self._read(market)
            except (ExchangeError, WireError) as error:
                self.errors += 1
                log_sync.warning("fees assumed ticker=%s error=%s", ticker, error)

    async def _read(self, market: Market) -> FeeSchedule:
        event = await self._rest.event(market.event_ticker)
        fee_type, multiplier_ppm = event.fee_type, event.multiplier_ppm
        if fee_type is None or multiplier_ppm is None:
            series = await self._rest.series(event.series)
            fee_type = fee_type or series.fee_type
            multiplier_ppm = series.multiplier_ppm if multiplier_ppm is None else multiplier_ppm
        return FeeSchedule(
            fee_type=fee_type, multiplier_ppm=multiplier_ppm, precision_ud=self._precision_ud
        )

    async def run(self) -> None:
        """Learn whenever the list changes, and what failed again each minute."""
        while True:
            self._wake.clear()
            await self.learn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60.0):
                    await self._wake.wait()


# ======================================================================================
# §18m EQUITY
# Purpose:   What the account is worth at prices it could hit, today and at its best.
# Position:  Uses §06, §13, §14, §17, §18h. Driven by §23 once a second.
# Principle: A mark that is not known is unknown, never zero; a closed market keeps its last one.
# ======================================================================================

EQUITY_ROW_S: Final = 10.0


def new_york_day(at_ms: int) -> str:
    """Date of the trading day (New York) that this moment belongs to, as YYYY-MM-DD."""
    return datetime.fromtimestamp(at_ms / 1000, NEW_YORK).date().isoformat()


class EquityKeeper:
    """Writes cash, equity, day start and peak into the picture; trips the loss breakers."""

    def __init__(
        self,
        *,
        clock: Clock,
        bus: EventBus,
        journal: Journal,
        execution: ExecutionService,
        market_data: OrderbookIntegration,
        container: StateContainer,
        config: Config,
    ) -> None:
        self._clock, self._bus, self._journal = clock, bus, journal
        self._execution, self._market_data = execution, market_data
        self._container, self._config = container, config
        self._marks: dict[str, int] = {}
        self._day = ""
        self._row_at_s = -math.inf

    def load(self) -> None:
        """Take over day start and peak from the journal."""
        day = new_york_day(self._clock.now_ms())
        known = self._journal.newest("day", day)
        if known is not None:
            self._day = day
            self._container.update(day_start_ud=int(str(known.body["equity_ud"])))
        days = self._journal.rows_of("day", limit=PEAK_DAYS_READ)
        rebased_ms = max((row.at_ms for row in days if row.body.get("rebased")), default=0)
        rows = self._journal.rows_of("equity", since_ms=rebased_ms, limit=PEAK_ROWS_READ)
        rows += [row for row in days if row.at_ms >= rebased_ms]
        peaks = [
            int(str(row.body["equity_ud"])) for row in rows if row.body["equity_ud"] is not None
        ]
        if peaks:
            self._container.update(peak_ud=max(peaks))
        self._load_marks()

    def _load_marks(self) -> None:
        """Marks of what is held, as they were last seen: a market closed since has no other."""
        for row in self._journal.rows_of("equity", limit=1):
            marks = row.body.get("marks_cc")
            if isinstance(marks, dict):
                self._marks = {ticker: int(str(cc)) for ticker, cc in marks.items()}

    def mark_cc(self, ticker: str) -> int | None:
        """Value of one held contract: settlement, the bid that can be hit, or the last such bid.

        0 when a proven book has no bid; None when no mark was ever known.
        """
        held_h = self._execution.ledger.position_h(ticker)
        market = self._market_data.markets.get(ticker)
        if market is not None and market.settlement_cc is not None:
            return payout_ud(1 if held_h >= 0 else -1, market.settlement_cc)
        is_open = market is not None and market.status == "active"
        if is_open and self._market_data.proof(ticker) is Proof.PROVEN:
            book = self._market_data.books[ticker]
            self._marks[ticker] = mark_cc(held_h, book.bid_cc, book.ask_cc) or 0
        return self._marks.get(ticker)

    def positions_value_ud(self) -> int | None:
        """All holdings at their marks; None while one of them has no mark."""
        total_ud = 0
        for ticker, position in self._execution.ledger.positions.items():
            if position.position_h:
                price_cc = self.mark_cc(ticker)
                if price_cc is None:
                    return None
                total_ud += abs(position.position_h) * price_cc
        return total_ud

    def tick(self) -> None:
        """Look at the money once: picture, breakers, and a row of the equity curve now and then."""
        cash_ud, value_ud = self._execution.ledger.cash_ud, self.positions_value_ud()
        equity_ud = None if cash_ud is None or value_ud is None else cash_ud + value_ud
        live = self._execution.store.live()
        held = [p for p in self._execution.ledger.positions.values() if p.position_h]
        self._container.update(
            cash_ud=cash_ud,
            positions_value_ud=value_ud,
            equity_ud=equity_ud,
            positions=len(held),
            open_orders=len(live),
            unknown_orders=len(self._execution.unproven()),
        )
        if equity_ud is not None:
            self._judge(equity_ud)

    def _judge(self, equity_ud: int) -> None:
        now, now_ms = self._container.now, self._clock.now_ms()
        day = new_york_day(now_ms)
        if day != self._day:
            self._day = day
            self._execution.write_fact("day", day, {"equity_ud": equity_ud})
            self._container.update(day_start_ud=equity_ud)
        self._container.update(peak_ud=max(now.peak_ud or equity_ud, equity_ud))
        now = self._container.now
        if now.day_pnl_ud is not None and -now.day_pnl_ud > self._config.daily_loss_ud:
            self._trip("daily_loss", -now.day_pnl_ud, self._config.daily_loss_ud)
        elif now.drawdown_ud is not None and now.drawdown_ud > self._config.max_drawdown_ud:
            self._trip("drawdown", now.drawdown_ud, self._config.max_drawdown_ud)
        if self._clock.monotonic() - self._row_at_s >= EQUITY_ROW_S:
            self._row_at_s = self._clock.monotonic()
            row = {**self.equity_row(), "marks_cc": self._held_marks()}
            self._journal.explain("equity", now_ms, str(now_ms), row)

    def _trip(self, kind: str, value_ud: int, limit_ud: int) -> None:
        text = f"{show_dollars(value_ud)} dollars, limit {show_dollars(limit_ud)} dollars"
        self._bus.publish(BreakerTripped(at_ms=self._clock.now_ms(), kind=kind, text=text))

    def _held_marks(self) -> dict[str, JsonValue]:
        held = self._execution.ledger.positions
        return {t: cc for t, cc in self._marks.items() if t in held and held[t].position_h}

    def equity_row(self) -> dict[str, JsonValue]:
        """One point of the equity curve, as the topic `equity` shows it."""
        now, ledger = self._container.now, self._execution.ledger
        unrealised_ud = self.unrealised_ud()
        return {
            "at_ms": self._clock.now_ms(),
            "equity_ud": now.equity_ud,
            "realised_ud": ledger.realised_ud,
            "unrealised_ud": unrealised_ud,
            "fees_ud": ledger.fees_ud,
            "exposure_ud": self._execution.exposure.total_ud,
        }

    def unrealised_ud(self) -> int | None:
        """Marks minus cost of everything held, before fees."""
        value_ud = self.positions_value_ud()
        cost_ud = sum(p.cost_ud for p in self._execution.ledger.positions.values())
        return None if value_ud is None else value_ud - cost_ud


# ======================================================================================
# §19 DECISION
# Purpose:   The trading cycle: when to look at a market, what each strategy wants, and why.
# Position:  Uses §03, §04, §09, §11 to §14, §17, §18. Built by §23.
# Principle: Every evaluation ends in exactly one counted reason; a bad strategy hurts only itself.
# ======================================================================================

log_decision = logging.getLogger("trader.decision")

IDLE_EVALUATE_S: Final = 5.0  # a market is looked at this often even when nothing moves
DECISION_LIMIT_S: Final = 0.05
SLOW_DECISION_US: Final = 5_000  # a decision that takes longer is counted
BOOK_DEPTH_READ: Final = VIEW_LEVELS_MAX + 6  # own orders may hide as many levels
NEWEST_PRINT_S: Final = 300.0  # a print older than this is no reference for the price collar

# When one of these closes a market to orders, what rests there is pulled at once.
PULL_REASONS: Final = frozenset(
    {
        Reason.HALTED,
        Reason.CLOCK_SKEW,
        Reason.STREAM_LOST,
        Reason.LOOP_LAG,
        Reason.NEAR_CLOSE,
        Reason.MARKET_NOT_ACTIVE,
        Reason.FEE_UNKNOWN,
        Reason.BOOK_NEVER_SEEN,
        Reason.BOOK_RESYNCING,
        Reason.BOOK_STALE,
        Reason.BOOK_CROSSED,
        Reason.BOOK_ONE_SIDED,
        Reason.STRATEGY_ERROR,
    }
)
PROOF_REASONS: Final = {
    Proof.NEVER: Reason.BOOK_NEVER_SEEN,
    Proof.RESYNCING: Reason.BOOK_RESYNCING,
    Proof.STALE: Reason.BOOK_STALE,
}


@dataclass(slots=True)
class Seat:
    """One strategy on one market: what it remembers and how its evaluations ended."""

    strategy: Strategy
    ticker: str
    evaluations: int = 0
    memory: Memory = field(default_factory=lambda: EMPTY)
    kept_memory: Memory = field(default_factory=lambda: EMPTY)  # as the journal has it
    told_s: float = -math.inf
    told_reason: str = ""
    fair_cc: int | None = None
    reason: str = ""


@dataclass(slots=True)
class Bench:
    """One strategy over all its markets: counters, faults, whether it still plays."""

    strategy: Strategy
    slots: frozenset[str] | None = None
    is_on: bool = True
    is_paused: bool = False
    why_off: str | None = None
    faults_in_a_row: int = 0
    faults: int = 0
    slow: int = 0
    slowest_us: int = 0
    evaluations: int = 0
    orders: int = 0
    fills: int = 0


class TradingDecisionService:
    """Shows each strategy one market at a time and hands its wishes to §18."""

    def __init__(
        self,
        *,
        clock: Clock,
        bus: EventBus,
        journal: Journal,
        market_data: OrderbookIntegration,
        execution: ExecutionService,
        container: StateContainer,
        strategies: Sequence[Strategy],
        permit: Callable[[str], Verdict],
        run_seed: int,
        has_time_limit: bool,
    ) -> None:
        self._clock, self._bus, self._journal = clock, bus, journal
        self._market_data, self._execution = market_data, execution
        self._container, self._permit = container, permit
        self._run_seed, self._has_time_limit = run_seed, has_time_limit
        self._limit = CpuLimit(DECISION_LIMIT_S)
        self.benches = {each.name: Bench(each, slots=slots_of(each)) for each in strategies}
        self.seats: dict[tuple[str, str], Seat] = {}
        self.tapes: dict[str, MarketTape] = {}
        self._opened_ms: dict[tuple[str, str], int] = {}  # when a position last left zero
        self.funnel: Counter[tuple[str, str]] = Counter()
        self.nearest: OrderedDict[tuple[str, str, str], tuple[int, str, str]] = OrderedDict()
        self.latency_us: deque[int] = deque(maxlen=1000)
        self.decision_count = 0
        self.trade_count = 0
        self.last_decision: str | None = None
        bus.subscribe(TradePrinted, self._on_print)
        bus.subscribe(FillBooked, self._on_fill)

    def exchange(self, strategies: Sequence[Strategy]) -> None:
        """Go on with strategies of the same names and other parameters."""
        for each in strategies:
            bench = self.benches.get(each.name)
            if bench is not None:
                bench.strategy, bench.slots = each, slots_of(each)
        for seat in self.seats.values():
            seat.strategy = self.benches[seat.strategy.name].strategy

    # -- what the tape says -------------------------------------------------------------

    def note_mid(self, event: BookChanged) -> None:
        """Feed the measurements of a market with its new mid."""
        mid2_cc = twice_mid_cc(event.bid_cc, event.ask_cc)
        self._tape(event.ticker).on_mid(self._clock.now_ms(), mid2_cc)

    def _tape(self, ticker: str) -> MarketTape:
        tape = self.tapes.get(ticker)
        if tape is None:
            tape = self.tapes[ticker] = MarketTape(self._clock.now_ms())
        return tape

    def _on_print(self, event: TradePrinted) -> None:
        self._tape(event.ticker).on_print(self._clock.now_ms(), event.print)

    def last_print_cc(self, ticker: str) -> int | None:
        """Newest public print of the YES leg, None when it is older than NEWEST_PRINT_S."""
        tape = self.tapes.get(ticker)
        newest = tape.newest_print if tape is not None else None
        if newest is None or self._clock.now_ms() - newest.at_ms > NEWEST_PRINT_S * 1000:
            return None
        return newest.price_cc

    def _on_fill(self, event: FillBooked) -> None:
        fill = event.fill
        bench = self.benches.get(fill.strategy)
        if bench is None:
            return
        bench.fills += 1
        key = (fill.strategy, fill.ticker)
        if self._execution.ledger.position_h(fill.ticker, fill.strategy) == 0:
            self._opened_ms.pop(key, None)
        else:
            self._opened_ms.setdefault(key, fill.at_ms)

    def load(self) -> None:
        """Take over from the journal: number of decisions, memories, ages of positions."""
        for row in self._journal.rows_of("decision", limit=1):
            self.decision_count = int(row.key.rpartition("-")[2])
        held: Counter[tuple[str, str]] = Counter()
        for fact in self._journal.facts("fill"):
            key = (str(fact.body["strategy"]), str(fact.body["ticker"]))
            held[key] += Side(str(fact.body["side"])).signed(int(str(fact.body["count_h"])))
            if held[key] == 0:
                self._opened_ms.pop(key, None)
            else:
                self._opened_ms.setdefault(key, int(str(fact.body["at_ms"])))
        for name, ticker in list(self._opened_ms):
            if self._execution.ledger.position_h(ticker, name) == 0:  # settled since
                del self._opened_ms[name, ticker]

    def _seat(self, name: str, ticker: str) -> Seat:
        """Seat of one strategy on one market, with what it remembered when it was last left."""
        seat = self.seats.get((name, ticker))
        if seat is not None:
            return seat
        seat = self.seats[name, ticker] = Seat(self.benches[name].strategy, ticker)
        try:
            row = self._journal.explained("memory", f"{name}|{ticker}")
        except JournalError as error:
            log_decision.warning("memory not read strategy=%s ticker=%s %s", name, ticker, error)
            return seat
        if row is not None:
            seat.memory = seat.kept_memory = row.body
        return seat

    def forget(self, ticker: str) -> None:
        """The market is no longer followed."""
        self.tapes.pop(ticker, None)
        for name in self.benches:
            self.seats.pop((name, ticker), None)
            if self._execution.ledger.position_h(ticker, name) == 0:
                self._opened_ms.pop((name, ticker), None)

    # -- one evaluation -----------------------------------------------------------------

    def evaluate(self, ticker: str, *, is_forced: bool = False) -> None:
        """Ask every strategy about one market; each answer is counted under one reason."""
        for name, bench in self.benches.items():
            seat = self._seat(name, ticker)
            seat.evaluations += 1
            came, decision, view = self._evaluate(bench, seat, is_forced=is_forced)
            self._count(seat, came, decision, view)
            if view is not None:
                close_view(view)

    def _evaluate(
        self, bench: Bench, seat: Seat, *, is_forced: bool
    ) -> tuple[Convergence, Decision | None, MarketView | None]:
        begun_s = self._clock.real_s()
        closed = self._closed(bench, seat.ticker)
        if closed is not None:
            return self._pull(seat, closed), None, None
        view = self._view(seat)
        if not isinstance(view, MarketView):
            return self._pull(seat, refusal(view)), None, None
        decision = self._decide(bench, seat, view)
        if decision is None:
            verdict = refusal(Reason.STRATEGY_ERROR, bench.why_off or "")
            return self._pull(seat, verdict), None, view
        seat.memory, seat.fair_cc = decision.memory, decision.fair_cc
        came = self._converge(seat, decision, is_forced=is_forced)
        if came.order_ids:
            self.latency_us.append(int((self._clock.real_s() - begun_s) * 1_000_000))
        return came, decision, view

    def _closed(self, bench: Bench, ticker: str) -> Verdict | None:
        """The gates before the strategy: trader, market, account, and its own switch."""
        verdict = self._permit(ticker)
        if not verdict.is_ok:
            return verdict
        if bench.is_paused:
            return refusal(Reason.PAUSED, bench.strategy.name)
        if not bench.is_on:
            return refusal(Reason.STRATEGY_ERROR, bench.why_off or "")
        return None

    def _pull(self, seat: Seat, verdict: Verdict) -> Convergence:
        """No new wish counts; where the reason says so, what rests is taken back."""
        touched: tuple[str, ...] = ()
        name = seat.strategy.name
        if verdict.reason in PULL_REASONS and self._execution.store.slots(name, seat.ticker):
            touched = self._execution.converge(
                ticker=seat.ticker, strategy=name, wants=(), decision_id="", is_forced=True
            ).order_ids
        return Convergence(
            reason=Reason(verdict.reason),
            value=verdict.value,
            limit=verdict.limit,
            order_ids=touched,
        )

    def _view(self, seat: Seat) -> MarketView | Reason:
        ticker = seat.ticker
        book = self._market_data.books.get(ticker)
        if book is None or book.proof is not Proof.PROVEN:
            return PROOF_REASONS[book.proof if book is not None else Proof.NEVER]
        own = self._own_sizes(ticker)
        shown = None if own is None else _levels_of(book, own)
        bid_cc, ask_cc = book.bid_cc, book.ask_cc
        fault = book_fault(bid_cc, ask_cc, shown)
        if fault is not None:
            return fault
        if shown is not None:
            bid_cc, ask_cc = shown[0][0][0], CC_PER_DOLLAR - shown[1][0][0]
        assert bid_cc is not None, "a book without a fault has a bid"
        assert ask_cc is not None, "a book without a fault has an offer"
        now_ms = self._clock.now_ms()
        market = self._market_data.markets[ticker]
        parts = ViewParts(
            market,
            lambda: shown or _levels_of(book),
            partial(self._tape(ticker).read, now_ms),
            self._holding(seat, market),
            partial(draw_of, self._run_seed, ticker, seat.evaluations),
        )
        return open_view(
            parts,
            bid_cc=bid_cc,
            ask_cc=ask_cc,
            fees=self._execution.fees_of(ticker),
            memory=seat.memory,
            now_ms=now_ms,
            age_ms=self._market_data.age_ms(ticker),
            evaluation=seat.evaluations,
        )

    def _own_sizes(self, ticker: str) -> dict[Side, dict[int, int]] | None:
        """What of each level is ours, by side and price; None when nothing of ours rests."""
        resting = [
            order
            for order in self._execution.store.live(ticker=ticker)
            if order.status is OrderStatus.RESTING
        ]
        if not resting:
            return None
        own: dict[Side, dict[int, int]] = {Side.YES: {}, Side.NO: {}}
        for order in resting:
            level = own[order.side]
            level[order.price_cc] = level.get(order.price_cc, 0) + order.remaining_h
        return own

    def _holding(self, seat: Seat, market: Market) -> Callable[[], Holding]:
        """What the strategy holds and may spend at this moment, worked out when it is read.

        Every value is read now: the orders of this very decision must not show in it.
        """
        execution, key = self._execution, (seat.strategy.name, seat.ticker)
        return partial(
            _holding_of,
            position=execution.ledger.by_strategy.get(key),
            opened_at_ms=self._opened_ms.get(key),
            orders=execution.store.slots(*key),
            cash_ud=execution.ledger.cash_ud or 0,
            headroom_ud=execution.headroom_ud(seat.ticker),
            equity_ud=self._container.now.equity_ud or 0,
            event_risk_ud=execution.exposure.event_ud(market.event_ticker),
            day_risk_ud=execution.exposure.total_ud,  # an upper bound, whatever day each settles
        )

    def _decide(self, bench: Bench, seat: Seat, view: MarketView) -> Decision | None:
        """The strategy's answer, or None when it raised, hung, or answered nonsense."""
        begun_s = self._clock.real_s()
        try:
            if self._has_time_limit:
                with self._limit:
                    decision = seat.strategy.decide(view)
            else:
                decision = seat.strategy.decide(view)
            fault = validate_decision(decision, view, slots=bench.slots)
        except Exception as error:  # noqa: BLE001 - a user's code may raise anything (P39)
            decision, fault = None, f"raised {error!r:.200}"
        took_us = int((self._clock.real_s() - begun_s) * 1_000_000)
        bench.slowest_us = max(bench.slowest_us, took_us)
        bench.slow += took_us > SLOW_DECISION_US
        if fault is None:
            bench.faults_in_a_row = 0
            return decision
        self._fault(bench, seat.ticker, fault)
        return None

    def _fault(self, bench: Bench, ticker: str, fault: str) -> None:
        bench.faults += 1
        bench.faults_in_a_row += 1
        bench.why_off = fault
        log_decision.warning(
            "strategy fault name=%s ticker=%s %s", bench.strategy.name, ticker, fault
        )
        if bench.faults_in_a_row < STRATEGY_FAULTS_MAX or not bench.is_on:
            return
        bench.is_on = False
        self._bus.publish(
            AlertRaised(
                at_ms=self._clock.now_ms(),
                severity="error",
                kind="strategy_error",
                ticker=ticker,
                text=f"{bench.strategy.name} is switched off after {STRATEGY_FAULTS_MAX} faults "
                f"in a row, the last: {fault}",
            )
        )

    def _converge(self, seat: Seat, decision: Decision, *, is_forced: bool) -> Convergence:
        came = self._execution.converge(
            ticker=seat.ticker,
            strategy=seat.strategy.name,
            wants=decision.wants,
            decision_id=self._decision_id(self.decision_count + 1),
            is_forced=is_forced,
        )
        return came if decision.wants else replace(came, value=decision.value, limit=decision.limit)

    # -- counting and records -----------------------------------------------------------

    def _count(
        self, seat: Seat, came: Convergence, decision: Decision | None, view: MarketView | None
    ) -> None:
        reason: str = came.reason
        if decision is not None and not decision.wants:
            reason = str(decision.reason)
        name = seat.strategy.name
        self.benches[name].evaluations += 1
        self.funnel[name, reason] += 1
        seat.reason = reason
        value = came.value or (decision.value if decision else "")
        limit = came.limit or (decision.limit if decision else "")
        self._note_nearest((seat.ticker, name, reason), value, limit)
        now_s = self._clock.monotonic()
        is_news = reason != seat.told_reason or now_s - seat.told_s >= 1.0
        if came.order_ids or is_news:
            seat.told_s, seat.told_reason = now_s, reason
            self._record(seat, reason, value, limit, came, decision, view)

    def _decision_id(self, number: int) -> str:
        return f"d-{self._execution.ids.run}-{number:06d}"

    def _note_nearest(self, key: tuple[str, str, str], value: str, limit: str) -> None:
        self.nearest[key] = (self._clock.now_ms(), value, limit)
        self.nearest.move_to_end(key)
        if len(self.nearest) > NEAREST_MAX:
            self.nearest.popitem(last=False)

    def _record(
        self,
        seat: Seat,
        reason: str,
        value: str,
        limit: str,
        came: Convergence,
        decision: Decision | None,
        view: MarketView | None,
    ) -> None:
        """Keep the decision for `explain`: whole when it acted, else the newest of its kind."""
        self.decision_count += 1
        self.trade_count += bool(came.order_ids)
        decision_id = self._decision_id(self.decision_count)
        self.last_decision = f"{seat.ticker}: {reason}"
        now_ms = self._clock.now_ms()
        self.benches[seat.strategy.name].orders += len(came.order_ids)
        if seat.memory != seat.kept_memory:
            seat.kept_memory = seat.memory
            key = f"{seat.strategy.name}|{seat.ticker}"
            self._journal.explain("memory", now_ms, key, dict(seat.memory))
        if came.order_ids:
            body = self._decision_body(
                decision_id, seat, reason, value, limit, came, decision, view
            )
            self._journal.explain("decision", now_ms, decision_id, body)
        self._bus.publish(
            DecisionMade(
                at_ms=now_ms,
                ticker=seat.ticker,
                strategy=seat.strategy.name,
                reason=reason,
                value=value,
                limit=limit,
                decision_id=decision_id,
                wants=len(decision.wants) if decision else 0,
                order_ids=came.order_ids,
                fair_cc=decision.fair_cc if decision else None,
            )
        )

    def _decision_body(
        self,
        decision_id: str,
        seat: Seat,
        reason: str,
        value: str,
        limit: str,
        came: Convergence,
        decision: Decision | None,
        view: MarketView | None,
    ) -> dict[str, JsonValue]:
        """The record of STRATEGIES §3, with the whole view so that it can be run again."""
        body: dict[str, Any] = {
            "decision_id": decision_id,
            "at_ms": self._clock.now_ms(),
            "ticker": seat.ticker,
            "strategy": seat.strategy.name,
            "reason": reason,
            "value": value,
            "limit": limit,
            "commands": [dict(row) for row in came.commands],
            "params_hash": _params_hash(seat.strategy),
            "gates": self._gates(seat.ticker),
        }
        if decision is not None:
            body["features"] = dict(decision.features)
            body["wants"] = [
                {"slot": w.slot, "side": w.side, "price_cc": w.price_cc, "count_h": w.count_h}
                for w in decision.wants
            ]
            body["edges"] = self._edges(decision, view)
        if view is not None:
            book = self._market_data.books.get(seat.ticker)
            seq = book.seq if book is not None else None
            body["book"] = {"seq": seq, "yes": view.yes[:5], "no": view.no[:5]}
            body["view"] = dump_view(view)
            body["fees"] = dataclasses.asdict(self._execution.fees_of(seat.ticker))
        return body

    def _gates(self, ticker: str) -> list[dict[str, JsonValue]]:
        """The limits that §08 held the orders against, with these orders counted as filled."""
        exposure, limits = self._execution.exposure, self._execution.limits
        market = self._market_data.markets.get(ticker)
        event_ud = exposure.event_ud(market.event_ticker) if market is not None else 0
        money = (
            (Reason.LIMIT_MARKET, exposure.market_ud(ticker), limits.max_market_loss_ud),
            (Reason.LIMIT_EVENT, event_ud, limits.max_event_loss_ud),
            (Reason.LIMIT_EXPOSURE, exposure.total_ud, limits.max_exposure_ud),
        )
        rows: list[dict[str, JsonValue]] = [
            {
                "gate": str(reason),
                "value": f"{show_dollars(used_ud)} dollars",
                "limit": f"{show_dollars(most_ud)} dollars",
                "ok": used_ud <= most_ud,
            }
            for reason, used_ud, most_ud in money
        ]
        count, most = exposure.open_orders, limits.max_orders
        return [
            *rows,
            {
                "gate": str(Reason.LIMIT_OPEN_ORDERS),
                "value": f"{count} orders",
                "limit": f"{most} orders",
                "ok": count <= most,
            },
        ]

    @staticmethod
    def _edges(decision: Decision, view: MarketView | None) -> list[dict[str, JsonValue]]:
        if decision.fair_cc is None or view is None:
            return []
        margin_cc = int(dict(decision.features).get("margin_cc", 0))
        edges = (
            edge_of(view, want, fair_cc=decision.fair_cc, margin_cc=margin_cc)
            for want in decision.wants
        )
        return [{**dataclasses.asdict(edge), "edge_cc": edge.edge_cc} for edge in edges]


def _levels_of(
    book: OrderBook, own: Mapping[Side, Mapping[int, int]] | None = None
) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """Both sides of a proven book as a strategy sees them: own orders subtracted."""
    yes, no = book.levels(Side.YES, BOOK_DEPTH_READ), book.levels(Side.NO, BOOK_DEPTH_READ)
    mine = own or {}
    return subtract_own(yes, mine.get(Side.YES, {})), subtract_own(no, mine.get(Side.NO, {}))


def _holding_of(*, position: Position | None, orders: Mapping[str, Order], **rest: Any) -> Holding:
    held_h = position.position_h if position is not None else 0
    own = (
        OwnOrder(
            slot=slot, side=o.side, price_cc=o.price_cc, count_h=o.remaining_h, is_take=o.is_take
        )
        for slot, o in orders.items()
    )
    return Holding(
        position_h=held_h,
        average_cc=position.cost_ud // abs(held_h) if position is not None and held_h else None,
        orders=tuple(own),
        **rest,
    )


def _params_hash(strategy: Strategy) -> str:
    """Eight letters that differ when a parameter of the strategy does."""
    return hashlib.sha256(repr(getattr(strategy, "p", None)).encode()).hexdigest()[:8]


class TradingFlowOrchestrator:
    """When a market is looked at: at a change, at most each evaluate_min_ms, else each 5 s."""

    def __init__(
        self,
        *,
        clock: Clock,
        bus: EventBus,
        decisions: TradingDecisionService,
        market_data: OrderbookIntegration,
        config: Config,
    ) -> None:
        self._clock, self._bus = clock, bus
        self._decisions, self._market_data, self.config = decisions, market_data, config
        self._looked_s: dict[str, float] = {}
        self._dirty: dict[str, bool] = {}  # ticker → whether the minimum rest is lifted
        self._is_looking = False
        self.total_cycles = self.successful_cycles = self.failed_cycles = 0
        self.recent: deque[tuple[int, str, int]] = deque(maxlen=CYCLES_MAX)
        self.beat_s = clock.real_s()
        bus.subscribe(BookChanged, self.on_book)
        bus.subscribe(OrderChanged, lambda event: self.touch(event.order.ticker))
        bus.subscribe(FillBooked, lambda event: self.touch(event.fill.ticker))
        bus.subscribe(MarketChanged, lambda event: self.touch(event.market.ticker))
        bus.subscribe(BookProofChanged, self._on_proof)
        bus.subscribe(GateChanged, lambda event: self.touch_all(is_forced=True))

    def on_book(self, event: BookChanged) -> None:
        """The order path: look at once, in the same call, unless looked at a moment ago."""
        self._decisions.note_mid(event)
        if not self._is_looking and self._is_due(event.ticker):
            self._look(event.ticker)
        else:
            self.touch(event.ticker)

    def _on_proof(self, event: BookProofChanged) -> None:
        self.touch(event.ticker, is_forced=event.proof is not Proof.PROVEN)

    def touch(self, ticker: str, *, is_forced: bool = False) -> None:
        """Look at this market, if it is followed, as soon as its minimum pause allows."""
        if ticker in self._market_data.markets:
            self._dirty[ticker] = self._dirty.get(ticker, False) or is_forced

    def touch_all(self, *, is_forced: bool = False) -> None:
        """Look at every followed market soon."""
        for ticker in self._market_data.markets:
            self.touch(ticker, is_forced=is_forced)

    def _is_due(self, ticker: str) -> bool:
        since_s = self._clock.monotonic() - self._looked_s.get(ticker, -math.inf)
        return since_s * 1000 >= self.config.evaluate_min_ms

    def _look(self, ticker: str) -> None:
        if ticker not in self._market_data.markets:
            self._dirty.pop(ticker, None)
            return
        is_forced = self._dirty.pop(ticker, False)
        self._looked_s[ticker] = self._clock.monotonic()
        self._is_looking = True
        self.total_cycles += 1
        try:
            self._decisions.evaluate(ticker, is_forced=is_forced)
            self.successful_cycles += 1
        except Exception:
            self.failed_cycles += 1
            raise
        finally:
            self._is_looking = False

    async def run(self) -> None:
        """Catch up with what came in between, and look at quiet markets every IDLE_EVALUATE_S."""
        while True:
            await self._clock.sleep(max(self.config.evaluate_min_ms / 4000, 0.01))
            self.beat_s = self._clock.real_s()
            now_s = self._clock.monotonic()
            for ticker in list(self._market_data.markets):
                is_idle = now_s - self._looked_s.get(ticker, -math.inf) >= IDLE_EVALUATE_S
                if is_idle or (ticker in self._dirty and self._is_due(ticker)):
                    self._look_safely(ticker)

    def _look_safely(self, ticker: str) -> None:
        try:
            self._look(ticker)
        except AssertionError as error:  # §8.5 of STYLE: an impossible state, told to §23
            log_decision.exception("evaluation broke ticker=%s", ticker)
            self._bus.publish(
                AssertionBroke(
                    at_ms=self._clock.now_ms(), where=f"evaluate {ticker}", what=str(error)
                )
            )


# ======================================================================================
# §20 HEALTH
# Purpose:   Ask every component how it is, measure the loop, and say so. Nothing else.
# Position:  Uses §04, §11, §12. Built by §23, which alone acts on what is reported.
# Principle: Health reports, it does not control; there is one definition of healthy.
# ======================================================================================

log_health = logging.getLogger("trader.health")

LAG_SAMPLE_S: Final = 0.1
LAG_CRITICAL_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How one component is asked: `ask` answers None when healthy, else why not."""

    name: str
    ask: Callable[[], str | None]
    is_critical: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one component, and since when it has been so (Unix ms)."""

    name: str
    is_healthy: bool
    is_critical: bool
    why: str | None
    since_at_ms: int
    checked_at_ms: int


class HealthMonitor:
    """Runs all probes every health_interval_s, and a lag meter all the time."""

    def __init__(self, *, clock: Clock, bus: EventBus, config: Config) -> None:
        self._clock, self._bus = clock, bus
        self.interval_s = config.health_interval_s
        self._probes: list[Probe] = []
        self.findings: dict[str, Finding] = {}
        self.checks = 0
        self.lag_s = 0.0
        self._lags: deque[float] = deque(maxlen=LAG_WINDOW)

    def add(self, probe: Probe) -> None:
        """Include a component from the next check on."""
        self._probes.append(probe)

    @property
    def worst_lag_s(self) -> float:
        """Largest lag of the loop within the last ten seconds."""
        return max(self._lags, default=0.0)

    @property
    def sick(self) -> list[Finding]:
        """Components that were unhealthy at the last check."""
        return [finding for finding in self.findings.values() if not finding.is_healthy]

    @property
    def is_critical(self) -> bool:
        """Whether something without which there is no trader is unhealthy."""
        return any(finding.is_critical for finding in self.sick)

    def check(self) -> None:
        """Ask everyone once and publish what was found."""
        self.checks += 1
        now_ms = self._clock.now_ms()
        for probe in self._probes:
            why = self._ask(probe)
            before = self.findings.get(probe.name)
            is_same = before is not None and before.is_healthy == (why is None)
            self.findings[probe.name] = Finding(
                name=probe.name,
                is_healthy=why is None,
                is_critical=probe.is_critical,
                why=why,
                since_at_ms=before.since_at_ms if before is not None and is_same else now_ms,
                checked_at_ms=now_ms,
            )
        rows = tuple((f.name, f.is_healthy, f.is_critical, f.why) for f in self.findings.values())
        self._bus.publish(HealthReported(at_ms=now_ms, components=rows))

    def _ask(self, probe: Probe) -> str | None:
        try:
            return probe.ask()
        except Exception as error:
            log_health.exception("probe failed component=%s", probe.name)
            return f"its probe failed: {error!r:.120}"

    async def run(self) -> None:
        """Check for ever."""
        while True:
            self.check()
            await asyncio.sleep(self.interval_s)

    async def watch_loop(self) -> None:
        """Measure how late the loop wakes; intervals are real, whatever the clock's rate."""
        while True:
            asleep_s = self._clock.real_s()
            await asyncio.sleep(LAG_SAMPLE_S)
            self.lag_s = max(0.0, self._clock.real_s() - asleep_s - LAG_SAMPLE_S)
            self._lags.append(self.lag_s)


# ======================================================================================
# §21 STATUS
# §21a MEASURES
# Purpose:   What must be reckoned before it can be shown: markouts, queues, the split of profit.
# Position:  Uses §01, §03, §04. Owned by §21d; fed by §21h and §21i. Pure.
# Principle: A value at a moment is what held at that moment, however late it is worked out.
# ======================================================================================

MARKOUT_HORIZONS_S: Final = (1, 5, 30, 300)

StatusRow = dict[str, object]


def percentiles(values: Iterable[float]) -> tuple[float, float, float] | None:
    """p50, p90 and p99 of what was measured; None when nothing was."""
    ordered = sorted(values)
    if not ordered:
        return None
    last = len(ordered) - 1
    return ordered[last // 2], ordered[last * 9 // 10], ordered[last * 99 // 100]


def ratio_of(used: float | None, most: float) -> float | None:
    """Share of a limit that is used; None when unknown."""
    return None if used is None or most <= 0 else round(used / most, 6)


class Markouts:
    """How the mid moved in our favour after each own fill, exactly at each horizon.

    A mid holds until the next one is heard, so the value at a moment is known as soon as a later
    mid, or the clock, has passed it. None where the book was not proven at that moment.
    """

    def __init__(self) -> None:
        self._mid2_cc: dict[str, int | None] = {}
        self._last2_cc: dict[str, int] = {}
        self._pending: dict[str, deque[tuple[int, int, str, Side, int, int]]] = {}
        self._count = 0
        self._sums: dict[tuple[str, int], list[int]] = {}  # (ticker, horizon) -> [Σ cc·h, Σ h]

    def on_mid(
        self, ticker: str, at_ms: int, mid2_cc: int | None
    ) -> list[tuple[str, int, int | None]]:
        """From `at_ms` on bid + ask is `mid2_cc`; what fell due comes back as (fill id, s, cc)."""
        due = self.settle(ticker, at_ms) if ticker in self._pending else []
        self._mid2_cc[ticker] = mid2_cc
        if mid2_cc is not None:
            self._last2_cc[ticker] = mid2_cc
        return due

    def add(self, fill: Fill) -> None:
        """Watch a fill; beyond MARKOUTS_PENDING_MAX it is not watched."""
        if self._count >= MARKOUTS_PENDING_MAX:
            return
        waiting = self._pending.setdefault(fill.ticker, deque())
        for horizon_s in MARKOUT_HORIZONS_S:
            due_ms = fill.at_ms + horizon_s * 1000
            row = (due_ms, horizon_s, fill.trade_id, fill.side, fill.price_cc, fill.count_h)
            waiting.append(row)
            self._count += 1
        self._pending[fill.ticker] = deque(sorted(waiting))

    def settle(self, ticker: str, now_ms: int) -> list[tuple[str, int, int | None]]:
        """Horizons of this market that have passed, judged by the mid that held until now."""
        waiting, found = self._pending.get(ticker), []
        mid2_cc = self._mid2_cc.get(ticker)
        while waiting and waiting[0][0] <= now_ms:
            _, horizon_s, fill_id, side, price_cc, count_h = waiting.popleft()
            self._count -= 1
            value = None if mid2_cc is None else side.to_yes_cc(mid2_cc // 2) - price_cc
            if value is not None:
                sums = self._sums.setdefault((ticker, horizon_s), [0, 0])
                sums[0] += value * count_h
                sums[1] += count_h
            found.append((fill_id, horizon_s, value))
        if waiting is not None and not waiting:
            del self._pending[ticker]
        return found

    def settle_all(self, now_ms: int) -> list[tuple[str, int, int | None]]:
        """The same for every market."""
        return [row for ticker in list(self._pending) for row in self.settle(ticker, now_ms)]

    def mid2_cc(self, ticker: str) -> int | None:
        """Bid + ask of a market as last heard; None while unknown."""
        return self._mid2_cc.get(ticker)

    def last2_cc(self, ticker: str) -> int | None:
        """The last known bid + ask, however old: what a closed market was thought to be worth."""
        return self._last2_cc.get(ticker)

    def mean_cc(self, ticker: str, horizon_s: int) -> int | None:
        """Mean over this run's fills, weighted by contracts; None without any."""
        total, count_h = self._sums.get((ticker, horizon_s), (0, 0))
        return total // count_h if count_h else None


class PnlSplit:
    """Where this run's profit came from. Spread and exits are measured against the mid at the
    fill, settlement against the last mid, rounding against the fee formula before the account's
    precision; what is left over is how the market moved against us."""

    def __init__(self) -> None:
        self._spread_ud = self._exits_ud = self._settlement_ud = self._rounding_ud = 0
        self._base: tuple[int, int] | None = None  # (realised + unrealised, fees) at the start

    def add_fill(self, fill: Fill, mid2_cc: int | None, fees: FeeSchedule | None = None) -> None:
        """A fill earned (maker) or paid (taker) its distance to the mid."""
        if fees is not None and fees.is_known and not fees.is_assumed:
            model_ud = fees.model_ud(fill.price_cc, fill.count_h, is_taker=fill.is_taker)
            self._rounding_ud -= fill.fee_ud - model_ud
        if mid2_cc is None or fill.is_foreign:
            return
        leg2_cc = mid2_cc if fill.side is Side.YES else 2 * CC_PER_DOLLAR - mid2_cc
        gained_ud = (leg2_cc - 2 * fill.price_cc) * fill.count_h // 2
        if fill.is_taker:
            self._exits_ud += gained_ud
        else:
            self._spread_ud += gained_ud

    def add_settlement(self, event: MarketSettled, mid2_cc: int | None) -> None:
        """The payout differs from what the holding was worth at the last mid."""
        if mid2_cc is None:
            return
        is_yes = event.position_h >= 0
        leg2_cc = mid2_cc if is_yes else 2 * CC_PER_DOLLAR - mid2_cc
        self._settlement_ud += event.cash_ud - abs(event.position_h) * leg2_cc // 2

    def row(self, money: Mapping[str, Any]) -> StatusRow | None:
        """The split, signed as it changed equity; None before the account is known."""
        figures = (money["realised_ud"], money["unrealised_ud"], money["fees_ud"])
        if None in figures:
            return None
        gross_ud, fees_ud = figures[0] + figures[1], figures[2]
        if self._base is None:
            self._base = (gross_ud, fees_ud)
        measured_ud = self._spread_ud + self._exits_ud + self._settlement_ud
        return {
            "spread_ud": self._spread_ud,
            "adverse_ud": gross_ud - self._base[0] - measured_ud,
            "fees_ud": self._base[1] - fees_ud - self._rounding_ud,
            "rounding_ud": self._rounding_ud,
            "exits_ud": self._exits_ud,
            "settlement_ud": self._settlement_ud,
        }


class QueueEstimate:
    """How many contracts stand before each own resting order, as the public feed lets us guess.

    Begins with the whole level (we came last), shrinks with prints at our price and with the
    level itself: an estimate, since cancels before us cannot be told from cancels behind us. What
    the exchange answered is no estimate until the queue moves.
    """

    def __init__(self) -> None:
        self._ahead_h: OrderedDict[str, int] = OrderedDict()
        self._asked: set[str] = set()
        self._by_level: dict[tuple[str, Side, int], set[str]] = {}
        self._level: dict[str, tuple[str, Side, int]] = {}

    def on_order(self, order: Order, level_h: int | None) -> None:
        """An order moved. `level_h` is the size of its level without our own orders."""
        key, level = order.client_order_id, (order.ticker, order.side, order.price_cc)
        if order.status is not OrderStatus.RESTING:
            self._forget(key)
        elif self._level.get(key) != level and level_h is not None:
            self._forget(key)
            self._ahead_h[key], self._level[key] = level_h, level
            self._by_level.setdefault(level, set()).add(key)
            while len(self._ahead_h) > QUEUES_MAX:
                self._forget(next(iter(self._ahead_h)))

    def on_print(self, ticker: str, trade: Print) -> None:
        """A public trade took from the level it was made at."""
        side = trade.taker_side.other  # the maker's leg
        level = (ticker, side, side.to_yes_cc(trade.price_cc))
        for key in self._by_level.get(level, ()):
            self._put(key, max(0, self._ahead_h[key] - trade.count_h))

    def on_asked(self, key: str, ahead_h: int) -> None:
        """The exchange told the place of an order."""
        if key in self._ahead_h:
            self._ahead_h[key] = ahead_h
            self._asked.add(key)

    def source(self, key: str) -> str:
        """Where the number of `ahead_h` is from."""
        return "exchange" if key in self._asked else "estimate"

    def _put(self, key: str, ahead_h: int) -> None:
        if self._ahead_h[key] != ahead_h:
            self._ahead_h[key] = ahead_h
            self._asked.discard(key)

    def ahead_h(self, key: str, level_h: int | None) -> int | None:
        """Contracts before this order, at most what the level shows now; None when unknown."""
        ahead_h = self._ahead_h.get(key)
        if ahead_h is None or level_h is None:
            return ahead_h
        self._put(key, min(ahead_h, level_h))
        return self._ahead_h[key]

    def _forget(self, key: str) -> None:
        level = self._level.pop(key, None)
        self._ahead_h.pop(key, None)
        self._asked.discard(key)
        if level is not None:
            self._by_level[level].discard(key)
            if not self._by_level[level]:
                del self._by_level[level]


def reduce_extremes(rows: Sequence[Mapping[str, Any]], points: int) -> list[Mapping[str, Any]]:
    """At most about `points` rows that keep first, last, every bucket's lowest and highest equity,
    and the two ends of the worst drawdown. Rows without equity keep their place in a bucket."""
    if len(rows) <= points or points < 4:
        return list(rows) if len(rows) <= points else [*rows[: max(0, points - 1)], rows[-1]]
    keep = {0, len(rows) - 1, *_worst_drawdown(rows)}
    buckets = max(1, (points - len(keep)) // 2)
    for number in range(buckets):
        start, end = number * len(rows) // buckets, (number + 1) * len(rows) // buckets
        known = [i for i in range(start, end) if rows[i]["equity_ud"] is not None]
        if known:
            keep.add(min(known, key=lambda i: rows[i]["equity_ud"]))
            keep.add(max(known, key=lambda i: rows[i]["equity_ud"]))
        elif start < end:
            keep.add(start)
    return [rows[i] for i in sorted(keep)]


def _worst_drawdown(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Places of the peak and the trough of the worst fall; (0, 0) when it never fell."""
    worst, fall_ud, peak = (0, 0), 0, 0
    peak_ud: int | None = None
    for place, row in enumerate(rows):
        value_ud = row["equity_ud"]
        if value_ud is None:
            continue
        if peak_ud is None or value_ud > peak_ud:
            peak_ud, peak = value_ud, place
        elif peak_ud - value_ud > fall_ud:
            fall_ud, worst = peak_ud - value_ud, (peak, place)
    return worst


# ======================================================================================
# §21b EVIDENCE
# Purpose:   Is any of it good? What doing nothing, or a coin, would have made; what settled.
# Position:  Uses §01, §03, §07, §21a. Owned by the rows and the chronicle. Pure but for a seed.
# Principle: A verdict that the facts at hand cannot give is not given.
# ======================================================================================


class Pretender:
    """Equity of somebody who only pretends to trade: cash and holdings at the bids of their legs.

    A market that shows no bid keeps its last one; unknown while one was never seen.
    """

    def __init__(self, cash_ud: int, held: Mapping[str, int]) -> None:
        self.cash_ud = cash_ud
        self._held = {
            ticker: Position(ticker=ticker, position_h=held_h) for ticker, held_h in held.items()
        }
        self._legs_cc: dict[tuple[str, bool], int] = {}

    def buy(self, ticker: str, side: Side, price_cc: int, count_h: int) -> None:
        """Buy at a price; the opposite leg is closed first."""
        before = self._held.get(ticker, Position(ticker=ticker))
        self._held[ticker], cash_ud = apply_to_position(before, side, price_cc, count_h)
        self.cash_ud += cash_ud

    def equity_ud(self, leg_cc: Callable[[str, int], int | None]) -> int | None:
        """Cash and everything held; `leg_cc` answers the worth of one contract of a leg."""
        total_ud = self.cash_ud
        for ticker, position in self._held.items():
            if not position.position_h:
                continue
            key = ticker, position.position_h > 0
            now_cc = leg_cc(ticker, position.position_h)
            if now_cc is not None:
                self._legs_cc[key] = now_cc
            if key not in self._legs_cc:
                return None
            total_ud += abs(position.position_h) * self._legs_cc[key]
        return total_ud


class Curves:
    """What the account would be worth without a trade since the start (`hold`), and with the same
    fills on tossed sides, each as far from the mid and as dear in fees as ours (`random`)."""

    def __init__(self) -> None:
        self._pretenders: tuple[Pretender, Pretender] | None = None
        self._coin = random.Random(1)  # a control, not a secret: the same run tosses the same

    def begin(self, cash_ud: int, held: Mapping[str, int]) -> None:
        """Both start from the account as first known; later calls change nothing."""
        if self._pretenders is None:
            self._pretenders = Pretender(cash_ud, held), Pretender(cash_ud, held)

    def add_cash(self, change_ud: int) -> None:
        """Money came or went that no trade explains."""
        for one in self._pretenders or ():
            one.cash_ud += change_ud

    def add_fill(self, fill: Fill, mid2_cc: int | None) -> None:
        """The control takes our fill, or its mirror at the mid."""
        if self._pretenders is None or fill.is_foreign:
            return
        side, price_cc = fill.side, fill.price_cc
        if mid2_cc is not None and self._coin.random() < 0.5:
            leg2_cc = mid2_cc if side is Side.YES else 2 * CC_PER_DOLLAR - mid2_cc
            side, price_cc = side.other, CC_PER_DOLLAR - leg2_cc + price_cc
        control = self._pretenders[1]
        control.buy(fill.ticker, side, price_cc, fill.count_h)
        control.cash_ud -= fill.fee_ud

    def row(self, leg_cc: Callable[[str, int], int | None]) -> StatusRow:
        """Both curves now; None while unknown."""
        now = [one.equity_ud(leg_cc) for one in self._pretenders or ()] or [None, None]
        return {"hold_ud": now[0], "random_ud": now[1]}


EVIDENCE_EVENTS: Final = 30
EVIDENCE_HOURS: Final = 30.0
EVIDENCE_DAYS: Final = 14.0
EVIDENCE_MARKOUT_CC: Final = -50
RESAMPLES: Final = 2000
RESAMPLE_DRAWS: Final = 3000  # at one step, which takes about a millisecond


class Evidence:
    """Net result per strategy and settled event of this run, its interval and verdict.

    The interval is a bootstrap over events (80 %, seeded), worked out in small steps. GO needs a
    comparison with the random control, which this run alone cannot give: it is never said here.
    """

    def __init__(self) -> None:
        self._net_ud: dict[str, dict[str, dict[str, int]]] = {}  # strategy, event, market
        self._bounds_ud: dict[str, tuple[int, int]] = {}
        self._work: tuple[str, list[int], list[int], random.Random] | None = None
        self._due: dict[str, None] = {}

    def settled(self, strategy: str, event: str, ticker: str, net_ud: int) -> None:
        """A market of an event was paid out, with this net result after fees."""
        self._net_ud.setdefault(strategy, {}).setdefault(event, {})[ticker] = net_ud
        self._due[strategy] = None

    def events_ud(self, strategy: str) -> list[int]:
        """Net result of each settled event."""
        return [sum(markets.values()) for markets in self._net_ud.get(strategy, {}).values()]

    def step(self) -> None:
        """Resample a little; nothing to do when no event settled since."""
        if self._work is None:
            if not self._due:
                return
            name = next(iter(self._due))
            del self._due[name]
            self._work = name, self.events_ud(name), [], random.Random(1)
        name, values, sums, rng = self._work
        for _ in range(max(1, RESAMPLE_DRAWS // len(values))):
            sums.append(sum(rng.choices(values, k=len(values))))
        if len(sums) >= RESAMPLES:
            sums.sort()
            self._bounds_ud[name] = sums[len(sums) // 10], sums[len(sums) * 9 // 10]
            self._work = None

    def row(
        self, strategy: str, *, hours: float, net_ud: int | None, markout_cc: float | None
    ) -> StatusRow:
        """Row of topic `evidence`. Before the first settlement `net_ud` is the net so far."""
        events_ud = self.events_ud(strategy)
        low_ud, high_ud = self._bounds_ud.get(strategy, (None, None))
        days = round(hours / 24, 2)
        is_enough = len(events_ud) >= EVIDENCE_EVENTS and days >= EVIDENCE_DAYS
        is_losing = is_enough and high_ud is not None and high_ud < 0
        markout_is_good = markout_cc is not None and markout_cc >= EVIDENCE_MARKOUT_CC
        facts: tuple[tuple[str, object, object, bool], ...] = (
            ("days of this run", days, EVIDENCE_DAYS, days >= EVIDENCE_DAYS),
            ("lower 80 % bound of net, micro-dollars", low_ud, "> 0", (low_ud or 0) > 0),
            (
                "mean markout after 300 s, cc",
                _tenths(markout_cc),
                f">= {EVIDENCE_MARKOUT_CC}",
                markout_is_good,
            ),
            ("p against random (not measured in one run)", None, "< 0.10", False),
        )
        return {
            "strategy": strategy,
            "verdict": "NO-GO" if is_losing else "NOT ENOUGH DATA",
            "settled_events": len(events_ud),
            "settled_events_needed": EVIDENCE_EVENTS,
            "hours": hours,
            "hours_needed": EVIDENCE_HOURS,
            "net_ud": sum(events_ud) if events_ud else net_ud,
            "low_ud": low_ud,
            "high_ud": high_ud,
            "criteria": [
                dict(zip(("name", "value", "needed", "met"), fact, strict=True)) for fact in facts
            ],
        }


def _tenths(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


# ======================================================================================
# §21c SERVICES
# Purpose:   What is shown and where: the services, the board, the settings in words.
# Position:  Uses §02 to §20. Filled in by §23; read by the rest of §21.
# Principle: The rooms of §21 read; they never reach into a service to change it.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Who runs. `account` is a tail that names no one; `origins` says where a setting is from."""

    run_id: str
    file_sha256: str = ""
    account: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)


class TapePlayer(Protocol):
    """A tape that is being played."""

    def replay_status(self) -> Mapping[str, Any]:
        """The row of topic `replay`."""


class Board(Protocol):
    """Where rows are shown; `WebSocketManager` of §22 is one."""

    @property
    def wanted_books(self) -> set[str]:
        """Tickers whose book somebody looks at."""

    @property
    def active_connections(self) -> int:
        """Pages open now."""

    def pull(self, topic: str, build: Callable[[str | int], Mapping[str, object] | None]) -> None:
        """Build touched rows of a topic at the moment they are sent."""

    def put(self, topic: str, row: Mapping[str, object]) -> None:
        """Show the newest content of a row."""

    def touch(self, topic: str, key: str | int) -> None:
        """Ask for a row to be built."""

    def touch_book(self, ticker: str) -> None:
        """A book moved."""

    def remove(self, topic: str, key: str | int) -> None:
        """A row is gone."""

    def replace(self, topic: str, rows: Iterable[Mapping[str, object]]) -> None:
        """All rows of a topic."""

    def broadcast(self, kind: str, data: Mapping[str, object]) -> None:
        """Send a message of the earlier system's types."""

    def status(self) -> dict[str, object]:
        """Counters of the sockets."""


@dataclass(slots=True, kw_only=True)
class Services:
    """The services that are shown; §23 fills in what it has built. None: not there (yet)."""

    clock: Clock
    bus: EventBus
    config: Config
    container: StateContainer
    supervisor: Supervisor
    health: HealthMonitor
    machine: StateMachine
    run: RunFacts
    journal: Journal | None = None
    rest: KalshiRest | None = None
    stream: KalshiStream | None = None
    market_data: OrderbookIntegration | None = None
    selection: MarketSelection | None = None
    execution: ExecutionService | None = None
    trading: TradingClientIntegration | None = None
    equity: EquityKeeper | None = None
    decisions: TradingDecisionService | None = None
    orchestrator: TradingFlowOrchestrator | None = None
    recorder: Recorder | None = None
    data_dir: DataDir | None = None
    replay: TapePlayer | None = None


def setting_rows(config: Config, origins: Mapping[str, str]) -> list[StatusRow]:
    """Rows of `/v3/config`: every setting, its value as people write it, its source."""
    return [
        {
            "name": setting.name,
            "value": shown_setting(config, setting),
            "source": origins.get(setting.name, "default"),
            "unit": setting.unit or None,
            "meaning": setting.meaning,
        }
        for setting in SETTINGS
    ]


def shown_setting(config: Config, setting: Setting) -> object:
    """A setting's value as people write it; secrets and the key id masked, None when unset."""
    value = getattr(config, setting.field)
    if value is None:
        return None
    if setting.kind is Kind.SECRET or isinstance(value, Secret):
        return "***"
    if setting.name == "key_id":
        return f"…{str(value)[-4:]}"
    if setting.name == "fee_precision":
        return "direct" if value == 100 else "app"
    match setting.kind:
        case Kind.DOLLARS:
            return show_dollars(value)
        case Kind.CONTRACTS | Kind.CENTS:
            return format_count(value)
        case Kind.LIST:
            return ",".join(map(str, value))
        case Kind.JSON:
            return orjson.dumps(dict(value)).decode()
        case _:
            return value if isinstance(value, bool | int | float) else str(value)


# ======================================================================================
# §21d ROWS
# Purpose:   Single rows people see: markets, books, orders, positions.
# Position:  Uses §02 to §20, §21a to §21c, read only. §21i decides when; §22 carries them.
# Principle: Each number has one source; what is not known is None, never 0.
# ======================================================================================


_EDGE_TEXT: Final = re.compile(r"edge (-?[0-9]{1,6}) cc")


def order_row(order: Order) -> StatusRow:
    """Row of topic `orders`, as far as the order alone tells it."""
    return {
        "client_order_id": order.client_order_id,
        "order_id": order.order_id,
        "ticker": order.ticker,
        "side": order.side,
        "price_cc": order.price_cc,
        "count_h": order.count_h,
        "filled_h": order.filled_h,
        "remaining_h": order.remaining_h,
        "status": order.status,
        "status_why": order.why or (f"{order.pending} asked" if order.pending else None),
        "strategy": order.strategy or None,
        "slot": order.slot or None,
        "decision_id": order.decision_id or None,
        "sent_at_ms": order.sent_at_ms or None,
        "acked_at_ms": order.acked_at_ms,
        "expires_at_ms": order.expires_at_ms,
        "ahead_h": None,
        "ahead_from": None,
        "foreign": order.is_foreign,
    }


class RowMaker:
    """Builds single rows from the services at the moment they are asked for. Changes nothing."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.markouts = Markouts()
        self.queues = QueueEstimate()
        self.curves = Curves()
        self._changed: dict[str, tuple[float, int]] = {}
        self._acked_ms: dict[str, int] = {}  # first answer; an amend is answered anew

    # -- markets and books -------------------------------------------------------------

    def market(self, key: str | int) -> StatusRow | None:
        """Row of topic `markets`; None when the market is not followed."""
        ticker, services = str(key), self.services
        data = services.market_data
        market = data.markets.get(ticker) if data is not None else None
        if data is None or market is None:
            return None
        book = data.books[ticker]
        bid_cc, ask_cc = book.bid_cc, book.ask_cc
        mid2_cc = twice_mid_cc(bid_cc, ask_cc)
        return {
            "ticker": ticker,
            "title": market.title,
            "event_ticker": market.event_ticker,
            "series": market.series,
            "status": market.status,
            "close_at_ms": market.close_at_ms,
            "bid_cc": bid_cc,
            "bid_h": book.best_size_h(Side.YES) if bid_cc is not None else None,
            "ask_cc": ask_cc,
            "ask_h": book.best_size_h(Side.NO) if ask_cc is not None else None,
            "last_cc": self._last_cc(market),
            "mid_cc": None if mid2_cc is None else mid2_cc // 2,
            "imbalance_ratio": self._imbalance(book),
            **self._opinion(ticker),
            **self._stake(ticker),
            "markout_5s_cc": self.markouts.mean_cc(ticker, 5),
            "proof": data.proof(ticker),
            "changed_at_ms": self._changed_at_ms(ticker, book),
            "verified_at_ms": data.verified_at_ms(ticker) or None,
        }

    def _last_cc(self, market: Market) -> int | None:
        decisions = self.services.decisions
        tape = decisions.tapes.get(market.ticker) if decisions is not None else None
        newest = tape.newest_print if tape is not None else None
        return newest.price_cc if newest is not None else market.last_cc

    @staticmethod
    def _imbalance(book: OrderBook) -> float | None:
        yes, no = book.levels(Side.YES, 3), book.levels(Side.NO, 3)
        return round(imbalance_of(yes, no), 4) if yes and no else None

    def _changed_at_ms(self, ticker: str, book: OrderBook) -> int | None:
        """When the book last moved; worked out once per move, so that it stands still between."""
        data = self.services.market_data
        known = self._changed.get(ticker)
        if known is None or known[0] != book.changed_at_s:
            at_ms = data.changed_at_ms(ticker) if data is not None else 0
            known = self._changed[ticker] = (book.changed_at_s, at_ms)
        return known[1] or None

    def forget_market(self, ticker: str) -> None:
        """The market is no longer followed."""
        self._changed.pop(ticker, None)

    def forget_order(self, key: str) -> None:
        """The order is no longer shown."""
        self._acked_ms.pop(key, None)

    def _opinion(self, ticker: str) -> StatusRow:
        """What the first strategy thinks of a market."""
        decisions = self.services.decisions
        for name in decisions.benches if decisions is not None else ():
            seat = decisions.seats.get((name, ticker)) if decisions is not None else None
            if seat is not None and decisions is not None:
                noted = decisions.nearest.get((ticker, name, seat.reason))
                edge = _EDGE_TEXT.fullmatch(noted[1]) if noted is not None else None
                return {
                    "fair_cc": seat.fair_cc,
                    "edge_cc": int(edge[1]) if edge is not None else None,
                    "strategy": name,
                    "reason": seat.reason or None,
                }
        return {"fair_cc": None, "edge_cc": None, "strategy": None, "reason": None}

    def _stake(self, ticker: str) -> StatusRow:
        """Position and profit of a market: realised plus unrealised, after fees."""
        execution = self.services.execution
        if execution is None or self.services.container.now.reconciled_at_ms is None:
            return {"position_h": None, "pnl_ud": None}
        position = execution.ledger.positions.get(ticker)
        if position is None:
            return {"position_h": 0, "pnl_ud": 0}
        unrealised_ud = self.unrealised_ud(position)
        known = unrealised_ud is not None
        pnl_ud = position.realised_ud - position.fees_ud + (unrealised_ud or 0) if known else None
        return {"position_h": position.position_h, "pnl_ud": pnl_ud}

    def unrealised_ud(self, position: Position) -> int | None:
        """Worth at the mark minus cost; None while there is no mark."""
        if position.position_h == 0:
            return 0
        equity = self.services.equity
        price_cc = equity.mark_cc(position.ticker) if equity is not None else None
        return None if price_cc is None else abs(position.position_h) * price_cc - position.cost_ud

    def leg_cc(self, ticker: str, sign: int) -> int | None:
        """Worth of one YES (`sign` ≥ 0) or NO contract now: payout or bid; None when unknown."""
        data = self.services.market_data
        market = data.markets.get(ticker) if data is not None else None
        if data is None or market is None:
            return None
        if market.settlement_cc is not None:
            return payout_ud(1 if sign >= 0 else -1, market.settlement_cc)
        if market.status != "active" or data.proof(ticker) is not Proof.PROVEN:
            return None
        book = data.books[ticker]
        return mark_cc(sign, book.bid_cc, book.ask_cc) or 0

    def book(self, ticker: str) -> StatusRow | None:
        """Row of topic `books`; None when the market is not followed."""
        data, decisions = self.services.market_data, self.services.decisions
        book = data.books.get(ticker) if data is not None else None
        if data is None or book is None:
            return None
        seats = decisions.seats if decisions is not None else {}
        fairs = [seat.fair_cc for (_, where), seat in seats.items() if where == ticker]
        tape = decisions.tapes.get(ticker) if decisions is not None else None
        prints = tape.read(self.services.clock.now_ms()).prints if tape is not None else ()
        return {
            "ticker": ticker,
            "proof": data.proof(ticker),
            "seq": book.seq,
            "rest_checks": book.rest_checks,
            "rest_differences": book.rest_differences,
            "yes": book.levels(Side.YES, BOOK_ROWS_MAX),
            "no": book.levels(Side.NO, BOOK_ROWS_MAX),
            "own": self._own(ticker),
            "fair_cc": fairs[0] if fairs else None,
            "prints": prints[-PRINTS_SHOWN_MAX:],
            "changed_at_ms": self._changed_at_ms(ticker, book),
            "verified_at_ms": data.verified_at_ms(ticker) or None,
        }

    def _own(self, ticker: str) -> list[StatusRow]:
        execution = self.services.execution
        live = execution.store.live(ticker=ticker) if execution is not None else []
        return [
            {
                "side": order.side,
                "price_cc": order.price_cc,
                "count_h": order.remaining_h,
                "ahead_h": self.ahead_h(order),
                "ahead_from": self.queues.source(order.client_order_id),
            }
            for order in live
            if order.status is OrderStatus.RESTING
        ]

    # -- orders and positions -------------------------------------------------------------

    def others_h(self, order: Order) -> int | None:
        """Size of an order's level without our own orders; None while the book is not proven."""
        data, execution = self.services.market_data, self.services.execution
        book = data.books.get(order.ticker) if data is not None else None
        if book is None or execution is None or book.proof is not Proof.PROVEN:
            return None
        own_h = sum(
            other.remaining_h
            for other in execution.store.live(ticker=order.ticker)
            if other.side is order.side and other.price_cc == order.price_cc
        )
        return max(0, book.counts[order.side.value].get(order.price_cc, 0) - own_h)

    def ahead_h(self, order: Order) -> int | None:
        """Contracts estimated to stand before a resting order."""
        return self.queues.ahead_h(order.client_order_id, self.others_h(order))

    def order(self, key: str | int) -> StatusRow | None:
        """Row of topic `orders`; None when the order is no longer kept."""
        execution = self.services.execution
        order = execution.store.orders.get(str(key)) if execution is not None else None
        if order is None:
            return None
        is_resting = order.status is OrderStatus.RESTING and not order.is_foreign
        acked_ms = order.acked_at_ms
        if acked_ms is not None:
            acked_ms = self._acked_ms.setdefault(order.client_order_id, acked_ms)
        return {
            **order_row(order),
            "acked_at_ms": acked_ms,
            "ahead_h": self.ahead_h(order) if is_resting else None,
            "ahead_from": self.queues.source(order.client_order_id) if is_resting else None,
        }

    def position(self, key: str | int) -> StatusRow | None:
        """Row of topic `positions`; None when nothing is held there."""
        ticker, execution = str(key), self.services.execution
        position = execution.ledger.positions.get(ticker) if execution is not None else None
        if execution is None or position is None or position.position_h == 0:
            return None
        data, equity = self.services.market_data, self.services.equity
        market = data.markets.get(ticker) if data is not None else None
        held_h = abs(position.position_h)
        event = market.event_ticker if market is not None else None
        return {
            "ticker": ticker,
            "position_h": position.position_h,
            "average_cc": position.cost_ud // held_h,
            "mark_cc": equity.mark_cc(ticker) if equity is not None else None,
            "unrealised_ud": self.unrealised_ud(position),
            "realised_ud": position.realised_ud,
            "fees_ud": position.fees_ud,
            "worst_case_ud": -position.cost_ud,
            "event_ticker": event,
            "event_worst_ud": self._event_worst_ud(event) if event is not None else None,
            "close_at_ms": market.close_at_ms if market is not None else None,
            "exit_cost_ud": self._exit_cost_ud(position),
            "foreign_h": position.position_h - self._own_h(ticker),
            "verified_at_ms": self.services.container.now.reconciled_at_ms,
        }

    def _event_worst_ud(self, event_ticker: str) -> int:
        """Cost of everything held in an event: an upper bound of what it can lose."""
        data, execution = self.services.market_data, self.services.execution
        assert data is not None, "an event is known from market data"
        assert execution is not None, "a position is known from the ledger"
        return -sum(
            position.cost_ud
            for ticker, position in execution.ledger.positions.items()
            if ticker in data.markets and data.markets[ticker].event_ticker == event_ticker
        )

    def _own_h(self, ticker: str) -> int:
        execution = self.services.execution
        rows = execution.ledger.by_strategy if execution is not None else {}
        return sum(p.position_h for (name, where), p in rows.items() if where == ticker and name)

    def _exit_cost_ud(self, position: Position) -> int | None:
        """Fee and spread of leaving now by taking; None when the book cannot take it all."""
        data, execution = self.services.market_data, self.services.execution
        book = data.books.get(position.ticker) if data is not None else None
        if book is None or execution is None:
            return None
        fees = execution.fees_of(position.ticker)
        levels, left_h, cost_ud = book.levels(position.side, 1000), abs(position.position_h), 0
        if not fees.is_known or not levels:
            return None
        for price_cc, count_h in levels:
            taken_h = min(left_h, count_h)
            cost_ud += (levels[0][0] - price_cc) * taken_h
            cost_ud += fees.taker_ud(CC_PER_DOLLAR - price_cc, taken_h)
            left_h -= taken_h
            if left_h == 0:
                return cost_ud
        return None


# ======================================================================================
# §21e LIMITS
# Purpose:   Every limit beside what is used of it.
# Position:  Uses §02 to §20, §21a, §21c, read only.
# Principle: One definition of each limit: what the gate of §08 refuses by is what people see.
# ======================================================================================


class LimitTable:
    """Every limit of the settings with what is used of it."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def rows(self) -> list[StatusRow]:
        """Rows of topic `risk`."""
        now, config, execution = (
            self.services.container.now, self.services.config, self.services.execution
        )  # fmt: skip
        day_ud = None if now.day_pnl_ud is None else max(0, -now.day_pnl_ud)
        rows = [
            self._money("daily_loss", day_ud, config.daily_loss_ud,
                        "cash and marks now, minus at 00:00 New York, after fees"),
            self._money("drawdown", now.drawdown_ud, config.max_drawdown_ud,
                        "highest equity in the journal minus equity now"),
            self._cash(now.cash_ud, config.min_cash_ud),
            self._number("unknown_orders", now.unknown_orders, config.max_unknown,
                         "orders of unknown outcome at once"),
        ]  # fmt: skip
        if execution is not None:
            rows += self._exposures(execution, config)
        return rows

    def _exposures(self, execution: ExecutionService, config: Config) -> list[StatusRow]:
        book, data = execution.exposure, self.services.market_data
        rows = [
            self._money("exposure", book.total_ud, config.max_exposure_ud,
                        "sum of worst cases, with every live, unknown and in-flight order filled"),
            self._number("open_orders", book.open_orders, config.max_orders, "resting at once"),
        ]  # fmt: skip
        markets = data.markets if data is not None else {}
        for ticker in markets:
            used_ud = book.market_ud(ticker)
            if used_ud:
                words = "worst case of the market, orders taken as filled"
                rows.append(
                    self._money("market_loss", used_ud, config.max_market_loss_ud, words, ticker)
                )
            held_h = abs(book.held_h(ticker))
            if held_h:
                rows.append(self._contracts(ticker, held_h, config.max_position_h))
        for event in sorted({market.event_ticker for market in markets.values()}):
            used_ud = book.event_ud(event)
            if used_ud:
                words = "worst case of the event's markets together"
                rows.append(
                    self._money("event_loss", used_ud, config.max_event_loss_ud, words, event)
                )
        return rows

    def _limit(self, limit: str, scope: str, ratio: float | None, means: str) -> StatusRow:
        halt = self.services.container.now.halt
        is_cause = halt is not None and halt.why.startswith(limit)
        return {
            "limit": limit,
            "scope": scope,
            "used_ratio": ratio,
            "tripped": is_cause or (ratio is not None and ratio >= 1.0),
            "latched_at_ms": halt.since_at_ms if halt is not None and is_cause else None,
            "means": means,
        }

    def _money(
        self, limit: str, used_ud: int | None, max_ud: int, means: str, scope: str = "account"
    ) -> StatusRow:
        row = self._limit(limit, scope, ratio_of(used_ud, max_ud), means)
        return {**row, "used_ud": used_ud, "max_ud": max_ud}

    def _number(self, limit: str, used: int, most: int, means: str) -> StatusRow:
        row = self._limit(limit, "account", ratio_of(used, most), means)
        return {**row, "used_ud": None, "max_ud": None, "used": used, "max": most}

    def _contracts(self, ticker: str, held_h: int, max_h: int) -> StatusRow:
        row = self._limit("position", ticker, ratio_of(held_h, max_h), "contracts held, either leg")
        return {**row, "used_ud": None, "max_ud": None, "used_h": held_h, "max_h": max_h}

    def _cash(self, cash_ud: int | None, floor_ud: int) -> StatusRow:
        """A floor: it is used up when cash has come down to it."""
        ratio = None if cash_ud is None else round(min(1.0, floor_ud / max(cash_ud, 1)), 6)
        row = self._limit("min_cash", "account", ratio, "no opening order when cash is below this")
        return {**row, "used_ud": cash_ud, "max_ud": floor_ud}


# ======================================================================================
# §21f TABLES
# Purpose:   The small tables people see: funnel, strategies, latency, overview, health.
# Position:  Uses §02 to §20, §21a to §21e, read only.
# Principle: One definition of healthy; page, status and metrics read these.
# ======================================================================================

_CLEARING: Final = frozenset(  # reasons that forbid new orders everywhere when they name no market
    {
        Degraded.ORDERBOOK, Degraded.RECONCILE, Degraded.CLOCK, Degraded.LOOP, Degraded.TRADING,
        Degraded.JOURNAL, Degraded.TASK, Degraded.PAUSE,
    }
)  # fmt: skip
PROCESS_FILE: Final = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class HealthVerdict:
    """The one judgement: `status` is a word of /v3/health, `reasons` says why it is degraded."""

    status: str
    is_healthy: bool
    reasons: tuple[str, ...] = ()


def judge_health(
    *,
    state: TraderState,
    is_stopping: bool,
    has_been_ready: bool,
    is_halted: bool,
    degraded: Sequence[str],
    sick: Sequence[Finding],
) -> HealthVerdict:
    """The table of DASHBOARD §2; the first row that applies."""
    if is_stopping or state is TraderState.SHUTDOWN:
        return HealthVerdict("stopped", False)
    if not has_been_ready:
        return HealthVerdict("starting", False)
    if state not in TRADING_STATES or any(finding.is_critical for finding in sick):
        return HealthVerdict("running", False)
    reasons = tuple(dict.fromkeys(degraded)) or tuple(finding.name for finding in sick)
    if is_halted:
        return HealthVerdict("halted", True)
    if reasons:
        return HealthVerdict("degraded", True, reasons)
    return HealthVerdict("running", True)


def degraded_rows(degraded: Iterable[DegradedReason]) -> list[StatusRow]:
    """Degraded reasons as the page and `/v3/status` show them."""
    return [
        {
            "reason": row.reason,
            "markets": list(row.markets),
            "since_at_ms": row.since_at_ms,
            "clears_when": row.clears_when,
        }
        for row in degraded
    ]


def rss_bytes() -> int:
    """Memory of this process now (its highest where the system does not tell)."""
    try:
        pages = int(PROCESS_FILE.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


class TableMaker:
    """Builds whole tables; called about once a second."""

    def __init__(self, rows: RowMaker) -> None:
        self.rows = rows
        self.services = rows.services
        self.limits = LimitTable(rows.services)
        self.is_stopping = False
        self._began_s = rows.services.clock.real_s()
        self._frames = (0, self._began_s)
        self._disk: tuple[float, int | None] = (-math.inf, None)

    @property
    def uptime_s(self) -> float:
        """Real seconds since this object was made, which is the start of the run."""
        return round(self.services.clock.real_s() - self._began_s, 3)

    def verdict(self) -> HealthVerdict:
        """How the trader is, by the one definition."""
        now = self.services.container.now
        return judge_health(
            state=self.services.machine.state,
            is_stopping=self.is_stopping,
            has_been_ready=self.services.machine.has_been_ready,
            is_halted=now.halt is not None or now.gate is Gate.HALTED,
            degraded=[str(row.reason) for row in now.degraded],
            sick=self.services.health.sick,
        )

    def health(self) -> list[StatusRow]:
        """Rows of topic `health`."""
        return [
            {
                "component": finding.name,
                "healthy": finding.is_healthy,
                "critical": finding.is_critical,
                "why": finding.why,
                "since_at_ms": finding.since_at_ms,
                "checked_at_ms": finding.checked_at_ms,
            }
            for finding in self.services.health.findings.values()
        ]

    def risk(self) -> list[StatusRow]:
        """Rows of topic `risk`."""
        return self.limits.rows()

    # -- decisions --------------------------------------------------------------------

    def funnel(self) -> list[StatusRow]:
        """Rows of topic `funnel`: how the evaluations of each strategy ended."""
        decisions = self.services.decisions
        if decisions is None:
            return []
        newest: dict[tuple[str, str], tuple[str, int, str, str]] = {}
        for (ticker, name, reason), (at_ms, value, limit) in decisions.nearest.items():
            newest[name, reason] = (ticker, at_ms, value, limit)  # later ones are newer
        rows: list[StatusRow] = []
        for (name, reason), count in decisions.funnel.items():
            bench, near = decisions.benches.get(name), newest.get((name, reason))
            rows.append(
                {
                    "strategy": name,
                    "stage": stage_of(reason),
                    "reason": reason,
                    "count": count,
                    "ratio": ratio_of(count, bench.evaluations if bench is not None else 0),
                    "last_at_ms": near[1] if near is not None else None,
                    "nearest": None
                    if near is None
                    else {"ticker": near[0], "value": near[2], "limit": near[3]},
                }
            )
        return rows

    def strategies(self) -> list[StatusRow]:
        """Rows of topic `strategies`."""
        decisions = self.services.decisions
        return [
            {
                "name": name,
                "enabled": bench.is_on and not bench.is_paused,
                "paused": bench.is_paused,
                "experimental": bool(getattr(bench.strategy, "is_experimental", False)),
                "expectation": getattr(bench.strategy, "expectation", None),
                "why_off": bench.why_off if not bench.is_on else None,
                "params": self._params(bench.strategy),
                "evaluations": bench.evaluations,
                "orders": bench.orders,
                "fills": bench.fills,
                "faults": bench.faults,
                "pnl_ud": self.strategy_pnl_ud(name),
                "slow": bench.slow,
                "slowest_us": bench.slowest_us,
            }
            for name, bench in (decisions.benches.items() if decisions is not None else ())
        ]

    def _params(self, strategy: Strategy) -> list[StatusRow]:
        params = getattr(strategy, "p", None) or getattr(strategy, "params", None)
        if not dataclasses.is_dataclass(params) or isinstance(params, type):
            return []
        given = self.services.config.strategy_params
        return [
            {
                "name": one.name,
                "value": str(getattr(params, one.name)),
                "from": "settings" if one.name in given else "default",
            }
            for one in dataclasses.fields(params)
        ]

    def strategy_pnl_ud(self, name: str) -> int | None:
        """Profit of one strategy by its own fills: realised + unrealised - fees; None: no mark."""
        execution, equity = self.services.execution, self.services.equity
        if execution is None:
            return None
        total_ud = 0
        for (owner, ticker), position in execution.ledger.by_strategy.items():
            if owner != name:
                continue
            total_ud += position.realised_ud - position.fees_ud
            if position.position_h:
                price_cc = equity.mark_cc(ticker) if equity is not None else None
                if price_cc is None:
                    return None
                total_ud += abs(position.position_h) * price_cc - position.cost_ud
        return total_ud

    # -- machine ----------------------------------------------------------------------

    def latency(self) -> StatusRow:
        """Row of topic `latency`."""
        services = self.services
        stream, data, rest = services.stream, services.market_data, services.rest
        feed = data.counters() if data is not None else {}
        return {
            "frames_per_s": self._frames_per_s(),
            "gaps": feed.get("gaps"),
            "resyncs": feed.get("resyncs"),
            "rest_checks": feed.get("rest_checks"),
            "rest_differences": feed.get("rest_differences"),
            "reconnects": max(0, stream.connects - 1) if stream is not None else None,
            "http_429": rest.count_429 if rest is not None else None,
            "parse_failures": feed.get("parse_failures"),
            "latency_us": self.latency_us(),
            "rss_bytes": rss_bytes(),
            "tasks": len(services.supervisor.names),
            "disk_free_bytes": self.disk_free_bytes(),
            "loop_lag_worst_ms": int(services.health.worst_lag_s * 1000),
            "bus_queue": services.bus.queue_size,
        }

    def latency_us(self) -> dict[str, list[int]]:
        """p50, p90, p99 in microseconds by what was measured."""
        rest, decisions, journal = (
            self.services.rest, self.services.decisions, self.services.journal
        )  # fmt: skip
        measured: dict[str, Iterable[float]] = {}
        if decisions is not None:
            measured["decision"] = [us / 1_000_000 for us in decisions.latency_us]
        if journal is not None:
            measured["journal_append"] = list(journal.append_s)
        if rest is not None:
            measured |= {name: list(seen) for name, seen in sorted(rest.latency_s.items())}
        triples = {name: percentiles(seen) for name, seen in measured.items()}
        return {
            name: [int(s * 1_000_000) for s in three]
            for name, three in triples.items()
            if three is not None
        }

    def _frames_per_s(self) -> int | None:
        stream, now_s = self.services.stream, self.services.clock.real_s()
        if stream is None:
            return None
        frames, at_s = self._frames
        self._frames = (stream.frames, now_s)
        return round((stream.frames - frames) / (now_s - at_s)) if now_s > at_s else None

    def disk_free_bytes(self) -> int | None:
        """Bytes free where the journal lives; asked at most every ten seconds."""
        asked_s, free = self._disk
        now_s, data_dir = self.services.clock.real_s(), self.services.data_dir
        if data_dir is not None and now_s - asked_s >= 10.0:
            free = data_dir.free_bytes()
            self._disk = (now_s, free)
        return free

    # -- overview ---------------------------------------------------------------------

    def orders_allowed(self) -> bool:
        """Whether some order may leave now, as far as the whole trader is concerned."""
        services, now = self.services, self.services.container.now
        is_open = now.gate in (Gate.OPEN, Gate.REDUCE_ONLY) and now.halt is None
        is_ready = now.state in TRADING_STATES and not self.is_stopping
        has_way = services.rest is not None and services.config.is_armed
        forbidden = any(row.reason in _CLEARING and not row.markets for row in now.degraded)
        return is_open and is_ready and has_way and services.config.trading and not forbidden

    def feed_age_ms(self) -> int | None:
        """Milliseconds of the trader's clock since the feed was last known alive; None: no feed."""
        stream = self.services.stream
        if stream is None or not stream.is_connected or not math.isfinite(stream.alive_age_s):
            return None
        return int(stream.alive_age_s * 1000)

    def overview(self) -> StatusRow:
        """Row of topic `overview`."""
        services, now = self.services, self.services.container.now
        now_ms, data, config = services.clock.now_ms(), services.market_data, services.config
        verdict = self.verdict()
        reconciled_ms = now.reconciled_at_ms
        return {
            "run_id": services.run.run_id,
            "environment": config.environment,
            "state": now.state,
            "state_since_at_ms": now.state_since_ms or None,
            "state_why": now.state_why,
            "gate": now.gate,
            "gate_why": now.gate_why,
            "gate_by": now.gate_by,
            "gate_since_at_ms": now.gate_since_ms or None,
            "strategy": list(services.decisions.benches) if services.decisions is not None
            else list(config.strategy),
            "orders_allowed": self.orders_allowed(),
            "account": services.run.account,
            "version": VERSION,
            "file_sha256": services.run.file_sha256,
            "journal_file": services.journal.path.name if services.journal is not None else None,
            "health_status": verdict.status,
            "degraded": degraded_rows(now.degraded),
            "state_version": now.guard_version,
            "feed_age_ms": self.feed_age_ms(),
            "books_proven": data.proven if data is not None else 0,
            "books_total": len(data.books) if data is not None else 0,
            "reconcile_age_ms": None if reconciled_ms is None else max(0, now_ms - reconciled_ms),
            "reconcile_difference_ud": now.reconcile_difference_ud,
            "unknown_orders": now.unknown_orders,
            "loop_lag_ms": int(services.health.lag_s * 1000),
            "clock_skew_ms": int(services.clock.offset_s * 1000),
            "next_pause_at_ms": None,
            **self._budgets(),
            **self.money(),
        }  # fmt: skip

    def _budgets(self) -> StatusRow:
        rest = self.services.rest
        if rest is None:
            return {"rate_read_ratio": None, "rate_write_ratio": None}
        used = {
            name: round(max(0.0, 1.0 - bucket.left() / bucket.capacity), 3)
            for name, bucket in (("read", rest.reads), ("write", rest.writes))
        }
        return {"rate_read_ratio": used["read"], "rate_write_ratio": used["write"]}

    def money(self) -> StatusRow:
        """Account figures; None while the account has not been read."""
        now, config = self.services.container.now, self.services.config
        execution, equity = self.services.execution, self.services.equity
        is_known = execution is not None and now.cash_ud is not None
        ledger = execution.ledger if execution is not None and is_known else None
        return {
            "cash_ud": now.cash_ud,
            "positions_value_ud": now.positions_value_ud,
            "equity_ud": now.equity_ud,
            "day_pnl_ud": now.day_pnl_ud,
            "realised_ud": ledger.realised_ud if ledger is not None else None,
            "unrealised_ud": equity.unrealised_ud() if equity is not None and is_known else None,
            "fees_ud": ledger.fees_ud if ledger is not None else None,
            "exposure_ud": execution.exposure.total_ud if execution is not None else None,
            "exposure_max_ud": config.max_exposure_ud,
            "drawdown_ud": now.drawdown_ud,
            "drawdown_max_ud": config.max_drawdown_ud,
        }


# ======================================================================================
# §21g ALERTS
# Purpose:   What a person should know: shown once, counted when repeated, sent to one webhook.
# Position:  Uses §02, §04, §11, §12. Owned by the StatusReporter; §23 hands in how to post.
# Principle: A dead webhook delays nothing and hides nothing.
# ======================================================================================

log_alerts = logging.getLogger("trader.alerts")

ALERT_REPEAT_S: Final = 300.0  # one per kind and market in this time
ALERT_PAUSE_S: Final = 0.5
_SEVERITIES: Final = {"info": 0, "warning": 1, "error": 2}
_WEBHOOK_QUIET: Final = frozenset({"fill"})  # kinds the webhook gets only when asked for


@dataclass(slots=True)
class _Shown:
    """One alert on the page and when its repeats stop counting as the same."""

    row: StatusRow
    until_s: float


def alert_body(row: Mapping[str, Any], run: RunFacts, environment: str, style: str) -> bytes:
    """What the webhook gets: our own JSON, or one line of text for slack and discord."""
    if style == "json":
        facts = {name: row[name] for name in ("severity", "kind", "text", "at_ms", "repeats")}
        return orjson.dumps({**facts, "environment": environment, "run_id": run.run_id})
    line = f"[{environment} {run.run_id}] {row['severity']} {row['kind']}: {row['text']}"
    if row["repeats"] > 1:
        line += f" (x{row['repeats']})"
    return orjson.dumps({"content" if style == "discord" else "text": line[:1900]})


class Alerts:
    """Collects AlertRaised; one row per kind and market in five minutes, `repeats` counts the rest.

    `post` sends one body and answers the HTTP status (0: no answer); None: no webhook.
    """

    def __init__(
        self, *, clock: Clock, config: Config, run: RunFacts, show: Callable[[StatusRow], None]
    ) -> None:
        self._clock, self.config, self._run, self._show = clock, config, run, show
        self.post: Callable[[bytes], Awaitable[int]] | None = None
        self._shown: OrderedDict[tuple[str, str], _Shown] = OrderedDict()
        self._next_id = 0
        self._queue: deque[StatusRow] = deque(maxlen=ALERT_QUEUE_MAX)
        self._wake = asyncio.Event()
        self._sent_s: deque[float] = deque(maxlen=ALERTS_PER_HOUR_MAX)
        self._held = 0
        self.counts: Counter[str] = Counter()  # by severity
        self.sent = self.failed = 0
        self.is_healthy = True

    def raised(self, event: AlertRaised) -> None:
        """Show an alert, or count it with the one it repeats."""
        severity = event.severity if event.severity in _SEVERITIES else "error"
        self.counts[severity] += 1
        now_s, key = self._clock.real_s(), (event.kind, event.ticker)
        known = self._shown.get(key)
        if known is not None and now_s < known.until_s:
            repeats = int(str(known.row["repeats"])) + 1
            known.row = {**known.row, "text": event.text, "repeats": repeats}
            self._show(known.row)
            return
        self._next_id += 1
        row: StatusRow = {
            "alert_id": self._next_id,
            "at_ms": event.at_ms,
            "severity": severity,
            "kind": event.kind,
            "text": event.text,
            "repeats": 1,
        }
        self._shown.pop(key, None)
        self._shown[key] = _Shown(row, now_s + ALERT_REPEAT_S)
        while len(self._shown) > ALERTS_KEPT:
            self._shown.popitem(last=False)
        self._show(row)
        self._pass_on(row)

    def _pass_on(self, row: StatusRow) -> None:
        level = _SEVERITIES[self.config.alert_level]
        is_wanted = _SEVERITIES[str(row["severity"])] >= level and row["kind"] not in _WEBHOOK_QUIET
        if self.post is not None and is_wanted:
            self._queue.append(row)
            self._wake.set()

    async def run(self) -> None:
        """Send what waits, at most ALERTS_PER_HOUR_MAX an hour, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                row = self._queue.popleft()
                if self._is_full():
                    self._held += 1
                    continue
                await self._send(self._with_held(row))

    def _is_full(self) -> bool:
        oldest_s = self._sent_s[0] if len(self._sent_s) == ALERTS_PER_HOUR_MAX else -math.inf
        return self._clock.real_s() - oldest_s < 3600.0

    def _with_held(self, row: StatusRow) -> StatusRow:
        """The first line after a full hour says how many were held back."""
        held, self._held = self._held, 0
        return row if not held else {**row, "text": f"{row['text']} (and {held} more held back)"}

    async def _send(self, row: StatusRow) -> None:
        if self.post is None:
            return
        style, environment = self.config.alert_format, self.config.environment.value
        body = alert_body(row, self._run, environment, style)
        self._sent_s.append(self._clock.real_s())
        for attempt in range(ALERT_TRIES):
            if attempt:
                await asyncio.sleep(ALERT_PAUSE_S * 4**attempt)
            if 200 <= await self.post(body) < 300:
                self.sent += 1
                self.is_healthy = True
                return
        self.failed += 1
        self.is_healthy = False
        log_alerts.warning("webhook does not answer kind=%s tries=%d", row["kind"], ALERT_TRIES)


# ======================================================================================
# §21h CHRONICLE
# Purpose:   Keep what people look back at: activity, transitions, fills, decisions, controls.
# Position:  Uses §02 to §20, §21a to §21f. Owned by the StatusReporter of §21i.
# Principle: Facts are heard at leisure, from a queue; nothing here delays an order.
# ======================================================================================

ENDED_SHOWN_S: Final = 60.0  # an ended order stays on the page
GROUP_WINDOW_MS: Final = 15_000
_SEVERITY_OF_STATUS: Final = {
    OrderStatus.UNKNOWN: "warning",
    OrderStatus.REJECTED: "warning",
    OrderStatus.NEVER_ACCEPTED: "warning",
}
_ROUTINE: Final = frozenset(  # moves of an order that are no line of their own
    {"filled", "expiry renewed", "sent", "amend sent", "cancel sent", "decrease sent"}
)


class Chronicle:
    """Hears facts and keeps the newest of each kind; shows them as they come."""

    def __init__(self, services: Services, rows: RowMaker, hub: Board) -> None:
        self.services, self.rows, self._hub = services, rows, hub
        self.transitions: deque[StatusRow] = deque(maxlen=TRANSITIONS_MAX)
        self.activities: deque[StatusRow] = deque(maxlen=ACTIVITIES_MAX)
        self.fills: OrderedDict[str, StatusRow] = OrderedDict()
        self.decisions: OrderedDict[str, StatusRow] = OrderedDict()
        self.ended: OrderedDict[str, float] = OrderedDict()  # client id -> when it leaves the page
        self.split = PnlSplit()
        self.evidence = Evidence()
        self.settled: Counter[str] = Counter()
        self.filled: Counter[tuple[str, bool]] = Counter()  # (strategy, maker) -> fills
        self.filled_h: Counter[tuple[str, bool]] = Counter()
        self.markout_cc: dict[tuple[str, int], deque[int]] = {}  # (strategy, horizon) -> values
        self._newest: dict[tuple[str, str, str], str] = {}  # decision shown per (ticker, who, why)
        self._followed: tuple[str, ...] = ()
        self._activity_id = 0
        self._order_lines = (0, 0)

    def begin(self) -> None:
        """Subscribe; call it once, inside the loop."""
        bus = self.services.bus
        bus.subscribe(StateChanged, self._on_state)
        bus.subscribe(GateChanged, self._on_gate)
        bus.subscribe(DegradedChanged, self._on_degraded)
        slow: tuple[type[Event], ...] = (
            OrderChanged,
            FillBooked,
            DecisionMade,
            MarketSettled,
            MarketsChanged,
            ControlMoved,
            ActivityNoted,
            StreamLost,
        )
        bus.subscribe_queued(slow, self._hear, name="status")

    def alert(self, severity: str, kind: str, text: str, ticker: str = "") -> None:
        """Raise an alert of our own."""
        now_ms = self.services.clock.now_ms()
        self.services.bus.publish(
            AlertRaised(at_ms=now_ms, severity=severity, kind=kind, text=text, ticker=ticker)
        )

    def touch(self, ticker: str) -> None:
        """A market moved: its rows are looked at again."""
        self._hub.touch("markets", ticker)
        self._hub.touch_book(ticker)

    async def _hear(self, event: Event) -> None:
        match event:
            case OrderChanged():
                self._heard_order(event)
            case FillBooked():
                self._heard_fill(event)
            case DecisionMade():
                self._heard_decision(event)
            case MarketSettled():
                self._heard_settlement(event)
            case MarketsChanged():
                self._heard_markets(event)
            case ControlMoved():
                self._heard_control(event)
            case ActivityNoted():
                self._activity(
                    event.activity_type, event.message, event.severity, event.at_ms, event.metadata
                )
            case StreamLost():
                self.alert("warning", "feed_lost", f"the feed was lost: {event.why}")
            case _:
                raise AssertionError(f"nobody asked to hear {type(event).__name__}")

    def _heard_order(self, event: OrderChanged) -> None:
        order, key = event.order, event.order.client_order_id
        self.rows.queues.on_order(order, self.rows.others_h(order))
        self._hub.touch("orders", key)
        self._hub.touch_book(order.ticker)
        if not order.status.is_live:
            self.ended.pop(key, None)
            self.ended[key] = self.services.clock.real_s() + ENDED_SHOWN_S
        if event.why in _ROUTINE:
            return
        second = int(self.services.clock.real_s())
        count = self._order_lines[1] + 1 if self._order_lines[0] == second else 1
        self._order_lines = (second, count)
        if count <= ORDER_LINES_PER_S_MAX:
            what = f"{order.ticker} {order.side} {format_count(order.count_h)}"
            text = f"{what} at {format_price(order.price_cc)}: {order.status} ({event.why})"
            severity = _SEVERITY_OF_STATUS.get(order.status, "info")
            self._activity("order", text, severity, event.at_ms, {"client_order_id": key})

    def _heard_fill(self, event: FillBooked) -> None:
        fill, execution = event.fill, self.services.execution
        found = None
        if execution is not None:
            found = execution.store.find(
                client_order_id=fill.client_order_id, order_id=fill.order_id
            )
        row: StatusRow = {
            "fill_id": fill.trade_id,
            "client_order_id": fill.client_order_id,
            "ticker": fill.ticker,
            "side": fill.side,
            "price_cc": fill.price_cc,
            "count_h": fill.count_h,
            "is_taker": fill.is_taker,
            "fee_ud": fill.fee_ud,
            "fee_expected_ud": event.expected_fee_ud,
            "at_ms": fill.at_ms,
            **{f"markout_{horizon_s}s_cc": None for horizon_s in MARKOUT_HORIZONS_S},
            "decision_id": found.decision_id or None if found is not None else None,
            "strategy": fill.strategy or None,
            "sent_at_ms": found.sent_at_ms or None if found is not None else None,
            "foreign": fill.is_foreign,
        }
        self.fills[fill.trade_id] = row
        while len(self.fills) > FILLS_SHOWN:
            self.fills.popitem(last=False)
        self._hub.put("fills", row)
        self._hub.touch("positions", fill.ticker)
        self.touch(fill.ticker)
        self.rows.markouts.add(fill)
        mid2_cc = self.rows.markouts.mid2_cc(fill.ticker)
        fees = execution.fees_of(fill.ticker) if execution is not None else None
        self.split.add_fill(fill, mid2_cc, fees)
        self.rows.curves.add_fill(fill, mid2_cc)
        self.filled[fill.strategy, not fill.is_taker] += 1
        self.filled_h[fill.strategy, not fill.is_taker] += fill.count_h
        what = f"filled {format_count(fill.count_h)} {fill.side} of {fill.ticker}"
        text = f"{what} at {format_price(fill.price_cc)}, fee {show_dollars(fill.fee_ud)}"
        self._activity("fill", text, "success", event.at_ms, {"fill_id": fill.trade_id})

    def note_markouts(self, due: Iterable[tuple[str, int, int | None]]) -> None:
        """Write markouts that fell due into their fills."""
        for fill_id, horizon_s, value_cc in due:
            row = self.fills.get(fill_id)
            if row is None or value_cc is None:
                continue
            row = {**row, f"markout_{horizon_s}s_cc": value_cc}
            self.fills[fill_id] = row
            self._hub.put("fills", row)
            key = (str(row["strategy"] or ""), horizon_s)
            if key not in self.markout_cc:
                self.markout_cc[key] = deque(maxlen=MARKOUT_VALUES_MAX)
            self.markout_cc[key].append(value_cc)

    def _heard_decision(self, event: DecisionMade) -> None:
        did = bool(event.order_ids)
        row: StatusRow = {
            "decision_id": event.decision_id,
            "at_ms": event.at_ms,
            "ticker": event.ticker,
            "strategy": event.strategy,
            "outcome": ("place" if event.wants else "cancel") if did else "wait",
            "reason": event.reason,
            "value": event.value,
            "limit": event.limit,
            "wants": event.wants,
            "order_ids": list(event.order_ids),
        }
        if not did:
            key = (event.ticker, event.strategy, event.reason)
            before = self._newest.get(key)
            self._newest[key] = event.decision_id
            if before is not None and self.decisions.pop(before, None) is not None:
                self._hub.remove("decisions", before)
        self.decisions[event.decision_id] = row
        while len(self.decisions) > DECISIONS_SHOWN:
            _, old = self.decisions.popitem(last=False)
            self._newest.pop((str(old["ticker"]), str(old["strategy"]), str(old["reason"])), None)
        self._hub.put("decisions", row)
        self._hub.touch("markets", event.ticker)

    def _heard_settlement(self, event: MarketSettled) -> None:
        self.settled[event.result or "unknown"] += 1
        self.split.add_settlement(event, self.rows.markouts.last2_cc(event.ticker))
        self._note_evidence(event.ticker)
        held = f"{format_count(event.position_h)} contracts"
        text = (
            f"{event.ticker} settled {event.result}: {held}, {show_dollars(event.cash_ud)} dollars"
        )
        self._hub.touch("positions", event.ticker)
        self._activity("settlement", text, "success", event.at_ms, {"cash_ud": event.cash_ud})
        self.alert("info", "settled", text, event.ticker)

    def _note_evidence(self, ticker: str) -> None:
        """What each strategy made of a market that was paid out, under its event."""
        execution, data = self.services.execution, self.services.market_data
        market = data.markets.get(ticker) if data is not None else None
        event = market.event_ticker if market is not None else ticker
        positions = execution.ledger.by_strategy if execution is not None else {}
        for (name, where), position in positions.items():
            if where == ticker and name:
                net_ud = position.realised_ud - position.fees_ud
                self.evidence.settled(name, event, ticker, net_ud)

    def _heard_markets(self, event: MarketsChanged) -> None:
        data = self.services.market_data
        known = set(data.markets) if data is not None else set(event.tickers)
        for ticker in set(self._followed) - known:
            self.rows.forget_market(ticker)
            self._hub.touch("markets", ticker)
        self._followed = tuple(known)
        for ticker in known:
            self.touch(ticker)

    def _heard_control(self, event: ControlMoved) -> None:
        self._hub.put(
            "control",
            {
                "control_id": event.control_id,
                "action": event.action,
                "phase": event.phase,
                "by": event.by,
                "asked_at_ms": event.asked_at_ms,
                "sent": event.sent,
                "confirmed": event.confirmed,
                "failed": event.failed,
                "remaining": event.remaining,
                "text": event.text,
            },
        )
        is_bad = event.phase in ("failed", "refused")
        text = f"{event.action} by {event.by}: {event.phase}"
        text += f", {event.text}" if event.text else ""
        self._activity("control", text, "error" if is_bad else "info", event.at_ms, {})

    def explain(self, some_id: str) -> StatusRow | None:
        """Decision record by decision, order or fill id, with the orders and fills it led to."""
        decision_id = self._decision_of(some_id)
        if decision_id is None:
            return None
        journal = self.services.journal
        try:
            fact = journal.explained("decision", decision_id) if journal is not None else None
        except JournalError:
            fact = None
        record: StatusRow = dict(fact.body) if fact is not None else {}
        shown = self.decisions.get(decision_id)
        if not record and shown is None:
            return None
        record = {**(shown or {}), **record}
        record.pop("view", None)  # for running it again, not for reading
        edges = record.get("edges")
        if isinstance(edges, list) and edges:
            record.setdefault("edge", edges[0])
        execution = self.services.execution
        orders = execution.store.orders.values() if execution is not None else ()
        mine = [order for order in orders if order.decision_id == decision_id]
        record["orders"] = [self.rows.order(order.client_order_id) for order in mine]
        record["fills"] = [r for r in self.fills.values() if r["decision_id"] == decision_id]
        return record

    def _decision_of(self, some_id: str) -> str | None:
        if some_id in self.decisions or some_id.startswith("d-"):
            return some_id
        fill = self.fills.get(some_id)
        if fill is not None:
            return str(fill["decision_id"]) if fill["decision_id"] else None
        execution = self.services.execution
        if execution is None:
            return None
        order = execution.store.find(client_order_id=some_id, order_id=some_id)
        return order.decision_id or None if order is not None else None

    # -- states, gate, degraded -----------------------------------------------------------

    def _on_state(self, event: StateChanged) -> None:
        told: StatusRow = {
            "timestamp": clock_text(event.at_ms),
            "from_state": event.from_state,
            "to_state": event.to_state,
            "context": event.why,
            "metadata": dict(event.metadata),
            "at_ms": event.at_ms,
        }
        self._hub.broadcast("state_transition", told)
        severity = "error" if event.to_state == TraderState.ERROR else "info"
        row = self._activity(
            "state_transition", f"{event.from_state} -> {event.to_state}: {event.why}", severity,
            event.at_ms, {**event.metadata, "from_state": event.from_state}, state=event.to_state,
        )  # fmt: skip
        is_flip = {event.from_state, event.to_state} == {TraderState.READY, TraderState.ACTING}
        if not is_flip:
            self.transitions.append({**row, "from_state": event.from_state,
                                      "to_state": event.to_state})  # fmt: skip

    def _on_gate(self, event: GateChanged) -> None:
        severity = "error" if event.gate is Gate.HALTED else "warning"
        text = f"gate {event.gate} by {event.by}" + (f": {event.why}" if event.why else "")
        self._activity("control", text, severity, event.at_ms, {"gate": event.gate})

    def _on_degraded(self, event: DegradedChanged) -> None:
        row, word = event.reason, "degraded" if event.is_active else "recovered"
        text = f"{word}: {row.reason}" + (f", until {row.clears_when}" if event.is_active else "")
        severity = "warning" if event.is_active else "success"
        metadata: StatusRow = {"reason": row.reason, "markets": list(row.markets)}
        self._activity(word, text, severity, event.at_ms, metadata)
        self.alert("warning" if event.is_active else "info", word, text, str(row.reason))

    def _activity(
        self, kind: str, message: str, severity: str, at_ms: int, metadata: Mapping[str, object],
        state: str | None = None,
    ) -> StatusRow:  # fmt: skip
        """One line of the activity log: kept, and sent to every page."""
        self._activity_id += 1
        row: StatusRow = {
            "timestamp": clock_text(at_ms),
            "activity_type": kind,
            "message": message,
            "metadata": {"severity": severity, **metadata},
            "state": state or self.services.machine.state.value,
            "activity_id": self._activity_id,
            "at_ms": at_ms,
        }
        self.activities.append(row)
        self._hub.broadcast("system_activity", row)
        return row

    def filled_in_window_h(self) -> int:
        """Contracts filled in the order group's rolling window."""
        since_ms = self.services.clock.now_ms() - GROUP_WINDOW_MS
        recent = list(self.fills.values())[-100:]
        return sum(int(str(r["count_h"])) for r in recent if int(str(r["at_ms"])) >= since_ms)


# ======================================================================================
# §21i REPORTER
# Purpose:   Show rows at a human pace, and answer what §22 asks.
# Position:  Uses §02 to §20, §21a to §21h. Built by §23; satisfies the StatusSource of §22.
# Principle: On the order path it only notes what moved; rows are built when they are sent.
# ======================================================================================

log_status = logging.getLogger("trader.status")

STATUS_TICK_S: Final = 0.25
TABLES_S: Final = 1.0
UNWATCHED_S: Final = 5.0  # while no page is open: for the alerts, and for memory's sake
TRADER_STATUS_S: Final = 10.0
EVIDENCE_S: Final = 60.0
BOOKS_TICK_S: Final = 0.1
EQUITY_EVERY_S: Final = 10.0
QUEUES_ASK_S: Final = 10.0
QUEUES_ASK_MAX: Final = 50  # markets in one question
LIMIT_NEAR_RATIO: Final = 0.8
_UNKNOWN_CURVES: Final = dict.fromkeys(("hold_ud", "random_ud", "pessimistic_ud", "optimistic_ud"))


class StatusReporter:
    """Everything people see, from one place. `begin` subscribes, `load` reads the journal,
    `run` and `run_books` are its tasks. Reading it changes nothing."""

    def __init__(self, services: Services, hub: Board) -> None:
        self.services, self._hub = services, hub
        self.rows = RowMaker(services)
        self.tables = TableMaker(self.rows)
        self.chronicle = Chronicle(services, self.rows, hub)
        self.alerts = Alerts(
            clock=services.clock,
            config=services.config,
            run=services.run,
            show=lambda row: hub.put("alerts", row),
        )
        self._equity: deque[StatusRow] = deque(maxlen=EQUITY_KEPT)
        self._near: set[str] = set()
        self.failures: Counter[str] = Counter()  # pictures that could not be made, by name
        self._throttle = Throttle(services.clock)
        self._told_state: StatusRow = {}
        self._shown_s = dict.fromkeys(("tables", "status", "evidence", "equity"), -math.inf)

    # -- life ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Subscribe; call it once, inside the loop."""
        bus, hub = self.services.bus, self._hub
        hub.pull("markets", self.rows.market)
        hub.pull("orders", self.rows.order)
        hub.pull("positions", self.rows.position)
        touch = self.chronicle.touch
        bus.subscribe(BookChanged, self._on_book)
        bus.subscribe(BookProofChanged, lambda event: touch(event.ticker))
        bus.subscribe(TradePrinted, self._on_print)
        bus.subscribe(MarketChanged, lambda event: touch(event.market.ticker))
        bus.subscribe(OrderChanged, lambda e: hub.touch("orders", e.order.client_order_id))
        bus.subscribe(AlertRaised, self.alerts.raised)
        bus.subscribe(HealthReported, lambda _: hub.replace("health", self.tables.health()))
        bus.subscribe(Reconciled, lambda e: self.rows.curves.add_cash(e.cash_difference_ud))
        self.chronicle.begin()
        bus.subscribe(StateChanged, lambda _: self._show_status())
        for kind in (StateChanged, GateChanged, DegradedChanged, Reconciled, UnknownOrdersChanged):
            bus.subscribe(kind, lambda _: self.show_overview())
        self.services.supervisor.spawn(self.alerts.run(), name="alerts")
        self._try("tables", self.show_tables)

    def load(self) -> None:
        """Take the last eight hours of the equity curve over from the journal."""
        journal = self.services.journal
        if journal is None:
            return
        since_ms = self.services.clock.now_ms() - int(EQUITY_KEPT * EQUITY_EVERY_S * 1000)
        for fact in reversed(journal.rows_of("equity", since_ms=since_ms, limit=EQUITY_KEPT)):
            self._put_equity(dict(fact.body))

    async def run(self) -> None:
        """Show what only time changes, until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(STATUS_TICK_S)

    async def run_books(self) -> None:
        """Look at the books somebody watches: depth moves without an event."""
        while True:
            wanted = self._hub.wanted_books
            for ticker in wanted:
                self._hub.touch_book(ticker)
            await asyncio.sleep(BOOKS_TICK_S if wanted else STATUS_TICK_S)

    async def run_queues(self) -> None:
        """Ask the exchange now and then where own orders stand.

        Whether a page is open must not show in what we ask: no client may move the budget (I30).
        """
        while True:
            await asyncio.sleep(QUEUES_ASK_S)
            await self._ask_queues()

    async def _ask_queues(self) -> None:
        """One question for all markets; left out while the read budget is scarce."""
        rest, execution = self.services.rest, self.services.execution
        if rest is None or execution is None or rest.reads.left() < rest.reads.capacity / 2:
            return
        live = execution.store.live()
        resting = [o for o in live if o.status is OrderStatus.RESTING and not o.is_foreign]
        tickers = sorted({order.ticker for order in resting})[:QUEUES_ASK_MAX]
        if not tickers:
            return
        try:
            ahead_h = await rest.queue_positions(tickers)
        except (ExchangeError, WireError) as error:
            log_status.info("queue positions not read reason=%r", error)
            return
        for order in resting:
            if order.order_id in ahead_h:
                self.rows.queues.on_asked(order.client_order_id, ahead_h[order.order_id])
                self._hub.touch("orders", order.client_order_id)

    def evidence(self) -> list[StatusRow]:
        """Rows of topic `evidence`: what this run shows of each strategy."""
        decisions, chronicle = self.services.decisions, self.chronicle
        rows = []
        for name in decisions.benches if decisions is not None else ():
            values = chronicle.markout_cc.get((name, 300))
            rows.append(
                chronicle.evidence.row(
                    name,
                    hours=round(self.tables.uptime_s / 3600, 2),
                    net_ud=self.tables.strategy_pnl_ud(name),
                    markout_cc=statistics.fmean(values) if values else None,
                )
            )
        return rows

    def tick(self) -> None:
        """One look at the clock; safe at any time. A picture that fails costs only itself."""
        now_s, now_ms = self.services.clock.real_s(), self.services.clock.now_ms()
        self.chronicle.note_markouts(self.rows.markouts.settle_all(now_ms))
        self._try("replay", self._show_replay)
        tables_s = TABLES_S if self._hub.active_connections else UNWATCHED_S
        if self._is_due("tables", now_s, tables_s):
            self._try("tables", self.show_tables)
            self._try("trading_state", self._show_state)
        if self._is_due("status", now_s, TRADER_STATUS_S):
            self._try("trader_status", self._show_status)
        if self._is_due("evidence", now_s, EVIDENCE_S):
            self._try("evidence", lambda: self._hub.replace("evidence", self.evidence()))
        self.chronicle.evidence.step()
        if self._is_due("equity", self.services.clock.monotonic(), EQUITY_EVERY_S):
            self._try("equity", self._note_equity)

    def _try(self, what: str, show: Callable[[], None]) -> None:
        try:
            show()
        except Exception as error:  # what people see must not take what they see next with it
            self.failures[what] += 1
            held = self._throttle.admit(what)
            if held is not None:
                log_status.exception("picture failed what=%s repeats=%d", what, held)
            if isinstance(error, AssertionError):
                now_ms = self.services.clock.now_ms()
                self.services.bus.publish(
                    AssertionBroke(at_ms=now_ms, where=f"status {what}", what=str(error))
                )

    def _show_replay(self) -> None:
        if self.services.replay is not None:
            self._hub.put("replay", dict(self.services.replay.replay_status()))

    def _is_due(self, what: str, now_s: float, every_s: float) -> bool:
        if now_s - self._shown_s[what] < every_s:
            return False
        self._shown_s[what] = now_s
        return True

    def freshen(self) -> None:
        """Show the tables now, unless they were shown within the last second."""
        if self._is_due("tables", self.services.clock.real_s(), TABLES_S):
            self._try("tables", self.show_tables)

    # -- showing ------------------------------------------------------------------------

    def show_overview(self) -> None:
        """Show the newest overview now."""
        split = self.chronicle.split.row(self.tables.money())
        self._hub.put("overview", {**self.tables.overview(), "pnl_split": split})

    def _show_status(self) -> None:
        self._hub.broadcast("trader_status", self.trader_status())

    def show_tables(self) -> None:
        """Show every table that is looked at about once a second."""
        hub, tables, data = self._hub, self.tables, self.services.market_data
        self.show_overview()
        risk = tables.risk()
        hub.replace("health", tables.health())
        hub.replace("risk", risk)
        hub.replace("funnel", tables.funnel())
        hub.replace("strategies", tables.strategies())
        hub.put("latency", tables.latency())
        self._warn_of_limits(risk)
        for ticker in data.markets if data is not None else ():
            hub.touch("markets", ticker)
        execution = self.services.execution
        for ticker in execution.ledger.positions if execution is not None else ():
            hub.touch("positions", ticker)
        self._drop_ended()

    def _drop_ended(self) -> None:
        """Take orders off the page that ended a minute ago; look at live ones again."""
        now_s = self.services.clock.real_s()
        while self.chronicle.ended and next(iter(self.chronicle.ended.values())) <= now_s:
            key, _ = self.chronicle.ended.popitem(last=False)
            self._hub.remove("orders", key)
            self.rows.forget_order(key)
        execution = self.services.execution
        for order in execution.store.live() if execution is not None else ():
            self._hub.touch("orders", order.client_order_id)

    def _warn_of_limits(self, rows: Iterable[StatusRow]) -> None:
        """Alert once when a limit is four fifths used, again when it was left and reached anew."""
        for row in rows:
            ratio, name = row["used_ratio"], f"{row['limit']} of {row['scope']}"
            if not isinstance(ratio, float) or row["limit"] in ("min_cash", "open_orders"):
                continue
            if ratio < LIMIT_NEAR_RATIO:
                self._near.discard(name)
            elif name not in self._near:
                self._near.add(name)
                self.chronicle.alert(
                    "warning", "limit_near", f"{name}: {ratio:.0%} used", str(row["scope"])
                )

    # -- on the order path: note only ---------------------------------------------------

    def _on_book(self, event: BookChanged) -> None:
        mid2_cc = twice_mid_cc(event.bid_cc, event.ask_cc)
        due = self.rows.markouts.on_mid(event.ticker, event.at_ms, mid2_cc)
        if due:
            self.chronicle.note_markouts(due)
        self.chronicle.touch(event.ticker)
        self._hub.touch("positions", event.ticker)

    def _on_print(self, event: TradePrinted) -> None:
        self.rows.queues.on_print(event.ticker, event.print)
        self.chronicle.touch(event.ticker)

    # -- equity ---------------------------------------------------------------------------

    def _note_equity(self) -> None:
        equity, now = self.services.equity, self.services.container.now
        if equity is None or now.equity_ud is None:
            return
        curves, execution = self.rows.curves, self.services.execution
        if execution is not None and now.cash_ud is not None:
            held = {t: p.position_h for t, p in execution.ledger.positions.items()}
            curves.begin(now.cash_ud, held)
        self._put_equity({**equity.equity_row(), **curves.row(self.rows.leg_cc)})

    def _put_equity(self, row: StatusRow) -> None:
        whole = {**_UNKNOWN_CURVES, **row}
        self._equity.append(whole)
        self._hub.put("equity", whole)

    # -- what §22 asks ---------------------------------------------------------------------

    def health(self) -> StatusRow:
        """Body of `/v3/health`."""
        verdict = self.tables.verdict()
        body: StatusRow = {
            "healthy": verdict.is_healthy,
            "status": verdict.status,
            "state": self.services.machine.state.value,
            "uptime": self.tables.uptime_s,
        }
        return {**body, "reasons": list(verdict.reasons)} if verdict.status == "degraded" else body

    def history(self) -> StatusRow:
        """`data` of `history_replay`."""
        transitions, activities = list(self.chronicle.transitions), list(self.chronicle.activities)
        return {
            "count": len(transitions),
            "transitions": transitions,
            "activities": activities,
        }

    def book_row(self, ticker: str) -> StatusRow | None:
        """Row of topic `books`."""
        return self.rows.book(ticker)

    def status(self) -> StatusRow:
        """Body of `/v3/status`."""
        return status_document(self)

    def trader_status(self) -> StatusRow:
        """`data` of `trader_status`."""
        return trader_status_data(self)

    def trading_state(self) -> StatusRow:
        """`data` of `trading_state`."""
        return trading_state_data(self, self._told_state)

    def _show_state(self) -> None:
        """Tell the account when it has changed since it was last told."""
        data = trading_state_data(self, self._told_state)
        before = {key: self._told_state.get(key) for key in _STATE_FACTS}
        if before != {key: data[key] for key in _STATE_FACTS}:
            self._hub.broadcast("trading_state", data)
            self._told_state = data

    def settings(self) -> list[Mapping[str, object]]:
        """Rows of `/v3/config`."""
        return [*setting_rows(self.services.config, self.services.run.origins)]

    def equity(self, from_ms: int, points: int) -> list[Mapping[str, object]]:
        """The equity curve since `from_ms`, at most about `points` rows, extremes kept."""
        series: list[Mapping[str, Any]] = [
            row for row in self._equity if int(str(row["at_ms"])) >= from_ms
        ]
        journal = self.services.journal
        oldest_ms = int(str(self._equity[0]["at_ms"])) if self._equity else None
        if journal is not None and (oldest_ms is None or from_ms < oldest_ms):
            with contextlib.suppress(JournalError):
                older = journal.rows_of(
                    "equity", since_ms=from_ms, until_ms=oldest_ms, limit=EQUITY_KEPT * 4
                )
                series = [{**_UNKNOWN_CURVES, **fact.body} for fact in reversed(older)] + series
        return reduce_extremes(series, points)

    def explain(self, some_id: str) -> StatusRow | None:
        """Decision record by decision, order or fill id; None when there is none."""
        return self.chronicle.explain(some_id)

    def metrics_text(self) -> str:
        """Prometheus text."""
        return metrics_text(self)

    @property
    def hub_status(self) -> dict[str, object]:
        """Counters of the browser sockets."""
        return self._hub.status()


# ======================================================================================
# §21j DOCUMENTS
# Purpose:   The longer pictures: /v3/status, trader_status, trading_state, metrics.
# Position:  Uses §21a to §21i, read only.
# Principle: They repeat what the rows say, from the same numbers; keys of the earlier system stay.
# ======================================================================================

_STATE_FACTS: Final = (
    "balance_ud", "positions_value_ud", "positions", "open_orders", "order_group",
)  # fmt: skip


def _cents(money_ud: int | None) -> int | None:
    return None if money_ud is None else floor_div(money_ud, 10_000)


def _moment(at_ms: int | None) -> str | None:
    return None if not at_ms else clock_text(at_ms)


def trader_status_data(reporter: StatusReporter) -> StatusRow:
    """`data` of `trader_status`: the earlier system's heartbeat."""
    services, tables = reporter.services, reporter.tables
    data, stream, now_ms = services.market_data, services.stream, services.clock.now_ms()
    verdict, state = tables.verdict(), services.machine.state.value
    word = {"running": "healthy", "halted": "halted", "degraded": "degraded"}.get(verdict.status)
    health = word if verdict.is_healthy and word is not None else "unhealthy"
    proven = data.proven if data is not None else 0
    total = len(data.books) if data is not None else 0
    is_up = stream is not None and stream.is_connected
    urls = DEFAULT_URLS.get(services.config.environment, (None, None))
    pong_s = services.clock.real_s() - stream.ponged_at_s if stream is not None else math.inf
    return {
        "timestamp": clock_text(now_ms),
        "state": state,
        "health": health,
        "metrics": {
            "uptime": tables.uptime_s,
            "state": state,
            "markets_connected": proven,
            "snapshots_received": data.snapshots if data is not None else 0,
            "deltas_received": data.deltas if data is not None else 0,
            "ws_clients": reporter.hub_status["active_connections"],
            "ws_messages_sent": reporter.hub_status["messages_sent"],
            "context": f"{proven} of {total} books proven",
            "health": health,
            "ping_health": "healthy" if data is not None and data.is_alive else "lost",
            "last_ping_age": round(pong_s, 1) if math.isfinite(pong_s) else None,
            "api_connected": services.rest is not None and services.rest.is_healthy,
            "api_url": services.config.api_url or urls[0],
            "ws_url": services.config.ws_url or urls[1],
            "connection_established": _moment(_ago_ms(services, stream.connected_at_s))
            if stream is not None and is_up
            else None,
            "first_snapshot_received": _moment(_ago_ms(services, data.snapshot_at_s))
            if data is not None
            else None,
            "session_id": services.run.run_id,
            "session_state": "active" if is_up else "lost",
            "health_state": health,
        },
    }


def _ago_ms(services: Services, real_s: float) -> int | None:
    """A real second as Unix milliseconds of the trader's clock; None for never."""
    if not math.isfinite(real_s):
        return None
    passed_s = (services.clock.real_s() - real_s) * services.clock.rate
    return services.clock.now_ms() - int(passed_s * 1000)


def trading_state_data(reporter: StatusReporter, told: Mapping[str, object]) -> StatusRow:
    """`data` of `trading_state`; `changes` is against what was told last."""
    services, now = reporter.services, reporter.services.container.now
    execution, now_ms = services.execution, services.clock.now_ms()
    positions = execution.ledger.positions if execution is not None else {}
    held = sorted(ticker for ticker, p in positions.items() if p.position_h)
    balance, value = _cents(now.cash_ud), _cents(now.positions_value_ud)
    reconciled_ms = now.reconciled_at_ms

    def change(key: str, new: int | None) -> int:
        old = told.get(key)
        return new - old if new is not None and isinstance(old, int) else 0

    return {
        "timestamp": now_ms / 1000,
        "version": now.version,
        "balance": balance,
        "portfolio_value": value,
        "position_count": len(held),
        "order_count": now.open_orders,
        "positions": held,
        "open_orders": now.open_orders,
        "sync_timestamp": None if reconciled_ms is None else reconciled_ms / 1000,
        "changes": {
            "balance": change("balance", balance),
            "portfolio_value": change("portfolio_value", value),
            "positions": change("position_count", len(held)),
            "orders": change("order_count", now.open_orders),
        },
        "order_group": _order_group(reporter),
        "balance_ud": now.cash_ud,
        "positions_value_ud": now.positions_value_ud,
        "equity_ud": now.equity_ud,
    }


def _order_group(reporter: StatusReporter) -> StatusRow | None:
    services = reporter.services
    execution, config = services.execution, services.config
    if execution is None or execution.group_id is None:
        return None
    held_h = [abs(p.position_h) for p in execution.ledger.positions.values()]
    return {
        "id": execution.group_id,
        "status": "active",
        "max_absolute_position": config.max_position_h // H_PER_CONTRACT,
        "max_open_orders": config.max_orders,
        "current_absolute_position": max(held_h, default=0) // H_PER_CONTRACT,
        "current_open_orders": services.container.now.open_orders,
        "contracts_limit_h": config.group_h,
        "window_s": GROUP_WINDOW_MS // 1000,
        "filled_in_window_h": reporter.chronicle.filled_in_window_h(),
    }


# -- /v3/status ----------------------------------------------------------------------------


def status_document(reporter: StatusReporter) -> StatusRow:
    """Body of `/v3/status`."""
    services, tables = reporter.services, reporter.tables
    now, config = services.container.now, services.config
    halt = now.halt
    return {
        "running": services.machine.state is not TraderState.SHUTDOWN,
        "uptime": tables.uptime_s,
        "state": services.machine.state.value,
        "environment": ENVIRONMENT_WORDS[config.environment],
        "mode": config.mode,
        "markets": list(now.markets),
        "degraded": degraded_rows(now.degraded),
        "halted": None
        if halt is None
        else {"why": halt.why, "by": halt.by, "since_at_ms": halt.since_at_ms},
        "components": _components(reporter),
        "metrics": {**tables.money(), **tables.latency()},
        "trading_mode": config.environment.value,
        "trading_strategy": ",".join(config.strategy),
    }


def _components(reporter: StatusReporter) -> StatusRow:
    services = reporter.services
    parts: dict[str, StatusRow] = {
        "coordinator": _coordinator_part(reporter),
        "state_machine": _machine_part(services),
        "event_bus": {
            "events_emitted": services.bus.emitted,
            "events_processed": services.bus.processed,
            "queue_size": services.bus.queue_size,
            "subscriber_count": services.bus.subscriber_count,
            "callback_errors": services.bus.callback_errors,
            "last_error": services.bus.last_error,
            "dropped": services.bus.dropped,
        },
        "websocket_manager": reporter.hub_status,
        "orderbook_integration": {} if services.market_data is None
        else dict(services.market_data.counters()),
        "health_monitor": {
            "health_check_count": services.health.checks,
            "check_interval": services.health.interval_s,
        },
        "status_reporter": {
            "status_interval": TRADER_STATUS_S,
            "trading_state_interval": TABLES_S,
            "alerts_sent": reporter.alerts.sent,
            "alerts_failed": reporter.alerts.failed,
            "failures": dict(reporter.failures),
        },
        "trading_service": _service_part(services),
        "trading_orchestrator": _orchestrator_part(services),
        "trading_client": _client_part(services),
        "risk": {"limits": reporter.tables.risk()},
        "reconcile": _reconcile_part(services),
        "books": _books_part(services),
        "market_selection": _selection_part(services),
        "journal": _journal_part(services),
        "rate_budget": _budget_part(services),
    }  # fmt: skip
    sick = {finding.name: finding.why for finding in services.health.sick}
    return {
        name: {"healthy": name not in sick, "why": sick.get(name), **part}
        for name, part in parts.items()
    }


def _coordinator_part(reporter: StatusReporter) -> StatusRow:
    services, now = reporter.services, reporter.services.container.now
    return {
        "version": VERSION,
        "run_id": services.run.run_id,
        "file_sha256": services.run.file_sha256,
        "gate": now.gate,
        "gate_why": now.gate_why,
        "gate_by": now.gate_by,
        "state_version": now.guard_version,
        "orders_allowed": reporter.tables.orders_allowed(),
        "tasks": services.supervisor.names,
    }


def _machine_part(services: Services) -> StatusRow:
    machine = services.machine
    return {
        "current_state": machine.state.value,
        "time_in_state": round(services.clock.real_s() - machine.since_s, 3),
        "error_count": machine.errors,
        "last_error": machine.last_error,
        "refused": machine.refused,
        "transitions": {f"{a} -> {b}": n for (a, b), n in machine.counts.items()},
    }


def _service_part(services: Services) -> StatusRow:
    decisions = services.decisions
    if decisions is None:
        return {"strategy": ",".join(services.config.strategy)}
    return {
        "strategy": ",".join(decisions.benches),
        "decision_count": decisions.decision_count,
        "trade_count": decisions.trade_count,
        "last_decision": decisions.last_decision,
        "evaluations": {name: bench.evaluations for name, bench in decisions.benches.items()},
    }


def _orchestrator_part(services: Services) -> StatusRow:
    orchestrator = services.orchestrator
    if orchestrator is None:
        return {}
    return {
        "total_cycles": orchestrator.total_cycles,
        "successful_cycles": orchestrator.successful_cycles,
        "failed_cycles": orchestrator.failed_cycles,
        "recent_cycles": list(orchestrator.recent),
    }


def _client_part(services: Services) -> StatusRow:
    now, rest, execution = services.container.now, services.rest, services.execution
    return {
        "connected": services.trading is not None and services.trading.is_connected,
        "mode": services.config.environment.value,
        "positions_count": now.positions,
        "open_orders_count": now.open_orders,
        "balance": None if now.cash_ud is None else format_dollars(now.cash_ud),
        "api_errors": rest.errors if rest is not None else 0,
        "consecutive_api_errors": rest.errors_in_row if rest is not None else 0,
        "last_error": rest.last_error if rest is not None else None,
        "unknown_orders": now.unknown_orders,
        "in_flight": len(execution.in_flight) if execution is not None else 0,
        "fills_booked": execution.fills_booked if execution is not None else 0,
        "outcomes": dict(execution.outcomes) if execution is not None else {},
        "refusals": dict(execution.refusals) if execution is not None else {},
    }


def _reconcile_part(services: Services) -> StatusRow:
    now, trading = services.container.now, services.trading
    last = trading.last if trading is not None else None
    return {
        "is_clean": now.is_reconciled,
        "reconciled_at_ms": now.reconciled_at_ms,
        "difference_ud": now.reconcile_difference_ud,
        "differences": list(last.differences) if last is not None else [],
        "passes": dict(trading.passes) if trading is not None else {},
        "resolved": dict(trading.resolved) if trading is not None else {},
        "scan_errors": trading.scan_errors if trading is not None else 0,
    }


def _books_part(services: Services) -> StatusRow:
    data = services.market_data
    books = data.books if data is not None else {}
    return {
        "proven": data.proven if data is not None else 0,
        "followed": len(books),
        "stale_episodes": data.stale_episodes if data is not None else 0,
        "by_ticker": {
            ticker: {
                "proof": book.proof,
                "seq": book.seq,
                "rest_differences": book.rest_differences,
            }
            for ticker, book in books.items()
        },
    }


def _selection_part(services: Services) -> StatusRow:
    last = services.selection.last if services.selection is not None else None
    if last is None:
        return {"funnel": None}
    return {
        "at_ms": last.at_ms,
        "funnel": last.funnel,
        "seen": last.seen,
        "lost": dict(last.lost),
        "nearest": dict(last.nearest),
    }


def _journal_part(services: Services) -> StatusRow:
    journal = services.journal
    if journal is None:
        return {}
    return {
        "is_writable": journal.is_writable,
        "last_error": journal.last_error,
        "facts": journal.last_seq,
        "rows_written": journal.rows,
        "explain_rows": journal.explain_rows,
        "explain_dropped": journal.explain_dropped,
        "failures": journal.failures,
        "syncs": journal.syncs,
        "bytes": journal.bytes,
    }


def _budget_part(services: Services) -> StatusRow:
    rest = services.rest
    if rest is None:
        return {}
    return {
        "read_left": round(rest.reads.left(), 1),
        "read_capacity": rest.reads.capacity,
        "write_left": round(rest.writes.left(), 1),
        "write_capacity": rest.writes.capacity,
        "http_429": rest.count_429,
        "breaker_open": rest.breaker.is_open,
        "breaker_opened": rest.breaker.opened,
    }


# ======================================================================================
# §21k METRICS
# Purpose:   Prometheus text of OPERATIONS §10, from the numbers the page shows.
# Position:  Uses §21a to §21j, read only.
# Principle: Base units; what is unknown is left out, never written as 0.
# ======================================================================================

MARKOUT_BUCKETS_CENTS: Final = (-5, -2, -1, -0.5, 0, 0.5, 1, 2, 5)
Labels = Mapping[str, object]


class MetricsPage:
    """Collects samples and writes each name once, with its type."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, samples: Iterable[tuple[Labels, float | None]]) -> None:
        """One metric with its samples; None is left out, and so is a metric without samples."""
        lines = [
            f"trader_{name}{_label_text(labels)} {_number_text(value)}"
            for labels, value in samples
            if value is not None
        ]
        if lines:
            self._lines += [f"# TYPE trader_{name} {kind}", *lines]

    def gauge(self, name: str, value: float | None) -> None:
        """A gauge without labels."""
        self.add(name, "gauge", [({}, value)])

    def counter(self, name: str, value: float | None) -> None:
        """A counter without labels; `name` ends in _total."""
        self.add(name, "counter", [({}, value)])

    def summary(self, name: str, samples: Iterable[tuple[Labels, Sequence[float]]]) -> None:
        """Quantiles of the newest samples."""
        rows: list[tuple[Labels, float | None]] = []
        for labels, seen in samples:
            three = percentiles(seen)
            if three is not None:
                quantiles = zip(("0.5", "0.9", "0.99"), three, strict=True)
                rows += [({**labels, "quantile": q}, value) for q, value in quantiles]
        self.add(name, "summary", rows)

    def histogram(self, name: str, samples: Iterable[tuple[Labels, Sequence[float]]]) -> None:
        """Cumulative buckets of everything seen in this run."""
        lines: list[str] = []
        for labels, seen in samples:
            for edge in MARKOUT_BUCKETS_CENTS:
                below = sum(value <= edge for value in seen)
                lines.append(f"trader_{name}_bucket{_label_text({**labels, 'le': edge})} {below}")
            lines.append(f"trader_{name}_bucket{_label_text({**labels, 'le': '+Inf'})} {len(seen)}")
            lines.append(f"trader_{name}_sum{_label_text(labels)} {_number_text(sum(seen))}")
            lines.append(f"trader_{name}_count{_label_text(labels)} {len(seen)}")
        if lines:
            self._lines += [f"# TYPE trader_{name} histogram", *lines]

    def text(self) -> str:
        """The whole page."""
        return "\n".join(self._lines) + "\n"


def _label_text(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = []
    for name, value in labels.items():
        text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        pairs.append(f'{name}="{text}"')
    return "{" + ",".join(pairs) + "}"


def _number_text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _dollars_of(money_ud: object) -> float | None:
    return money_ud / UD_PER_DOLLAR if isinstance(money_ud, int) else None


def metrics_text(reporter: StatusReporter) -> str:
    """Prometheus text of everything."""
    page = MetricsPage()
    for write in (
        _write_trader, _write_money, _write_orders, _write_decisions, _write_feed, _write_rest,
        _write_house,
    ):  # fmt: skip
        write(page, reporter)
    return page.text()


def _write_trader(page: MetricsPage, reporter: StatusReporter) -> None:
    services, tables, now = reporter.services, reporter.tables, reporter.services.container.now
    run, environment = services.run, services.config.environment
    facts = {"version": VERSION, "environment": environment, "run_id": run.run_id}
    page.add("info", "gauge", [({**facts, "file_sha256": run.file_sha256}, 1)])
    page.gauge("healthy", tables.verdict().is_healthy)
    findings = services.health.findings.values()
    page.add(
        "component_healthy", "gauge", [({"component": f.name}, f.is_healthy) for f in findings]
    )
    active = {row.reason for row in now.degraded}
    page.add("degraded", "gauge", [({"reason": r.value}, r in active) for r in Degraded])
    page.gauge("halted", now.halt is not None)
    state = services.machine.state
    page.add("state", "gauge", [({"state": s.value}, s is state) for s in TraderState])
    page.add("gate", "gauge", [({"gate": g.value}, g is now.gate) for g in Gate])
    counts = services.machine.counts.items()
    steps = [({"from": a, "to": b}, float(n)) for (a, b), n in counts]
    page.add("state_transitions_total", "counter", steps)
    page.gauge("uptime_seconds", tables.uptime_s)
    page.gauge("loop_lag_seconds", services.health.lag_s)
    page.gauge("tasks", len(services.supervisor.names))
    page.gauge("memory_bytes", rss_bytes())
    page.gauge("disk_free_bytes", tables.disk_free_bytes())
    page.gauge("clock_offset_seconds", services.clock.offset_s)


def _write_money(page: MetricsPage, reporter: StatusReporter) -> None:
    money = reporter.tables.money()
    for name in ("equity", "cash", "realised", "unrealised", "exposure", "drawdown", "day_pnl"):
        page.gauge(f"{name}_dollars", _dollars_of(money[f"{name}_ud"]))
    execution = reporter.services.execution
    fees: Counter[str] = Counter()
    positions: Mapping[str, Position] = {}
    if execution is not None:
        positions = execution.ledger.positions
        for (strategy, _), position in execution.ledger.by_strategy.items():
            fees[strategy] += position.fees_ud
    page.add(
        "fees_dollars_total", "counter",
        [({"strategy": name}, _dollars_of(fee_ud)) for name, fee_ud in fees.items()],
    )  # fmt: skip
    limits = [row for row in reporter.tables.risk() if row["scope"] == "account"]
    page.add(
        "limit_used_ratio", "gauge",
        [({"limit": row["limit"]}, cast(float | None, row["used_ratio"])) for row in limits],
    )  # fmt: skip
    page.add(
        "limit_tripped",
        "gauge",
        [({"limit": row["limit"]}, bool(row["tripped"])) for row in limits],
    )
    held = [(ticker, p.position_h) for ticker, p in positions.items() if p.position_h]
    page.add(
        "position_contracts", "gauge", [({"ticker": name}, h / H_PER_CONTRACT) for name, h in held]
    )


def _write_orders(page: MetricsPage, reporter: StatusReporter) -> None:
    services, now = reporter.services, reporter.services.container.now
    execution, trading = services.execution, services.trading
    if execution is not None:
        resting = Counter(order.ticker for order in execution.store.live())
        page.add("resting_orders", "gauge", [({"ticker": name}, n) for name, n in resting.items()])
        page.add("orders_total", "counter", [({"kind": k}, n) for k, n in execution.sent.items()])
        outcomes = [({"outcome": name}, float(n)) for name, n in execution.outcomes.items()]
        page.add("order_outcomes_total", "counter", outcomes)
        page.counter("fee_mismatches_total", sum(execution.fee_mismatches.values()))
        unknown = execution.unproven()
        oldest_ms = min((order.sent_at_ms for order in unknown), default=None)
        now_ms = services.clock.now_ms()
        age_s = 0.0 if oldest_ms is None else (now_ms - oldest_ms) / 1000
        page.gauge("unknown_oldest_seconds", age_s)
    page.gauge("orders_unknown", now.unknown_orders)
    fills = [
        ({"strategy": who, "maker": str(maker).lower()}, float(n))
        for (who, maker), n in reporter.chronicle.filled.items()
    ]
    page.add("fills_total", "counter", fills)
    contracts = [
        ({"strategy": who, "maker": str(maker).lower()}, n / H_PER_CONTRACT)
        for (who, maker), n in reporter.chronicle.filled_h.items()
    ]
    page.add("filled_contracts_total", "counter", contracts)
    page.histogram(
        "markout_cents",
        [
            ({"strategy": who, "horizon": f"{horizon}s"}, [value / 100 for value in seen])
            for (who, horizon), seen in reporter.chronicle.markout_cc.items()
        ],
    )
    settled = [({"result": result}, float(n)) for result, n in reporter.chronicle.settled.items()]
    page.add("settlements_total", "counter", settled)
    if trading is not None:
        passes = [({"result": name}, float(n)) for name, n in trading.passes.items()]
        page.add("reconciles_total", "counter", passes)
    if now.reconciled_at_ms is not None:
        page.gauge("reconcile_age_seconds", (services.clock.now_ms() - now.reconciled_at_ms) / 1000)
    page.gauge("reconcile_difference_dollars", _dollars_of(now.reconcile_difference_ud))


def _write_decisions(page: MetricsPage, reporter: StatusReporter) -> None:
    decisions = reporter.services.decisions
    if decisions is None:
        return
    page.add(
        "evaluations_total", "counter",
        [({"strategy": who, "reason": why}, n) for (who, why), n in decisions.funnel.items()],
    )  # fmt: skip
    seen = [us / 1_000_000 for us in decisions.latency_us]
    page.summary("decision_seconds", [({}, seen)])


def _write_feed(page: MetricsPage, reporter: StatusReporter) -> None:
    stream, data = reporter.services.stream, reporter.services.market_data
    if stream is not None:
        page.counter("ws_frames_total", stream.frames)
        page.counter("ws_reconnects_total", max(0, stream.connects - 1))
        age_s = stream.alive_age_s
        page.gauge("ws_last_frame_age_seconds", age_s if math.isfinite(age_s) else None)
    if data is None:
        return
    page.gauge("books_proven", data.proven)
    page.gauge("books_followed", len(data.books))
    feed = data.counters()
    for name, key in (
        ("ws_gaps_total", "gaps"),
        ("ws_parse_failures_total", "parse_failures"),
        ("book_resyncs_total", "resyncs"),
        ("book_rest_checks_total", "rest_checks"),
        ("book_rest_differences_total", "rest_differences"),
    ):
        value = feed.get(key)
        page.counter(name, value if isinstance(value, int) else None)


def _write_rest(page: MetricsPage, reporter: StatusReporter) -> None:
    rest = reporter.services.rest
    if rest is None:
        return
    page.add(
        "http_requests_total", "counter",
        [({"endpoint": name, "status": code}, n) for (name, code), n in rest.requests.items()],
    )  # fmt: skip
    page.summary(
        "http_seconds", [({"endpoint": name}, list(seen)) for name, seen in rest.latency_s.items()]
    )
    left = [({"bucket": "read"}, rest.reads.left()), ({"bucket": "write"}, rest.writes.left())]
    page.add("rate_tokens_left", "gauge", left)
    page.counter("http_429_total", rest.count_429)


def _write_house(page: MetricsPage, reporter: StatusReporter) -> None:
    services, sockets = reporter.services, reporter.hub_status
    page.gauge("bus_queue", services.bus.queue_size)
    dropped = [({"event": name}, float(n)) for name, n in services.bus.dropped.items()]
    page.add("bus_dropped_total", "counter", dropped)
    journal = services.journal
    if journal is not None:
        page.summary("journal_commit_seconds", [({}, list(journal.append_s))])
        page.counter("journal_rows_total", journal.rows)
        page.gauge("journal_bytes", journal.bytes)
    for name, key, kind in (
        ("dashboard_clients", "active_connections", "gauge"),
        ("dashboard_dropped_total", "messages_skipped", "counter"),
        ("dashboard_bytes_total", "bytes_sent", "counter"),
    ):
        page.add(name, kind, [({}, cast(int, sockets[key]))])
    alerts = [({"severity": name}, float(n)) for name, n in reporter.alerts.counts.items()]
    page.add("alerts_total", "counter", alerts)


# ======================================================================================
# §22 API
# §22a TOPICS
# Purpose:   Rows in, numbered changes out: what a page must hear to know what we know.
# Position:  Uses §02, §11. Owned by the manager of §22c. Pure but for the log of a bad row.
# Principle: A change has a number; a number without a change is never sent.
# ======================================================================================

log_api = logging.getLogger("trader.api")

FIRST_CHANGE_S: Final = 0.03  # a change after a quiet time is sent after this

Row = Mapping[str, object]
RowKey = str | int


class ApiRefused(TraderError):
    """A request that is not served: HTTP status, a word for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message

    @property
    def body(self) -> dict[str, object]:
        """The JSON body of the answer."""
        return {"error": {"code": self.code, "message": self.message}}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """How one topic behaves. `key` names the fields of a row's key; () is a one-row topic.

    `kept` rows stay, the oldest go first. `gap_s` is the shortest time between two messages,
    `first_s` the delay of the first one after a quiet time. A change of a `quiet` field alone is
    no change: a quiet market stays proven by the feed, it need not say so again and again.
    """

    name: str
    key: tuple[str, ...]
    kept: int = 1000
    gap_s: float = 0.25
    first_s: float = FIRST_CHANGE_S
    quiet: frozenset[str] = frozenset()

    def key_of(self, row: Row) -> RowKey:
        """Key of a row: its field, or several joined by a bar."""
        if len(self.key) == 1:
            value = row[self.key[0]]
            return value if isinstance(value, int) else str(value)
        return "|".join(str(row[name]) for name in self.key)


_VERIFIED: Final = frozenset({"verified_at_ms"})
_T, _AT_ONCE_S = TopicSpec, 0.05
BOOKS: Final = _T(name="books", key=("ticker",), kept=8, gap_s=0.1, quiet=_VERIFIED)
TOPICS: Final[Mapping[str, TopicSpec]] = {
    spec.name: spec
    for spec in (
        _T(name="overview", key=(), kept=1),
        _T(name="health", key=("component",)),
        _T(name="markets", key=("ticker",), kept=500, quiet=_VERIFIED),
        _T(name="orders", key=("client_order_id",), kept=4000, gap_s=_AT_ONCE_S, first_s=0.0),
        _T(name="positions", key=("ticker",), quiet=_VERIFIED),
        _T(name="fills", key=("fill_id",), kept=500, gap_s=_AT_ONCE_S, first_s=0.0),
        _T(name="decisions", key=("decision_id",), kept=500),
        _T(name="funnel", key=("strategy", "reason")),
        _T(name="risk", key=("limit", "scope")),
        _T(name="equity", key=("at_ms",), kept=2880),
        _T(name="strategies", key=("name",), kept=50),
        _T(name="latency", key=(), kept=1),
        _T(name="alerts", key=("alert_id",), kept=200, gap_s=_AT_ONCE_S, first_s=0.0),
        _T(name="control", key=("control_id",), kept=50, gap_s=_AT_ONCE_S, first_s=0.0),
        _T(name="evidence", key=("strategy",), kept=50),
        _T(name="replay", key=(), kept=1),
    )
}


def _json_default(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, deque):
        return list(value)
    if isinstance(value, Path | Secret):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def encode_json(value: object) -> bytes:
    """Any picture of ours as JSON bytes; TypeError for what has no JSON form."""
    return orjson.dumps(value, default=_json_default, option=orjson.OPT_NON_STR_KEYS)


@dataclass(frozen=True, slots=True)
class Change:
    """What one flush tells: the new number of the stream, encoded rows, keys that went."""

    rev: int
    rows: tuple[bytes, ...]
    gone: tuple[RowKey, ...]


class Topic:
    """Rows of one stream as every client knows them, and what moved since. Owner: the manager.

    `build`, when given, makes the row of a touched key at the moment of the flush; None means the
    row is gone. Rows handed in must not be changed afterwards.
    """

    def __init__(
        self, spec: TopicSpec, build: Callable[[RowKey], Row | None] | None = None
    ) -> None:
        self.spec, self.build = spec, build
        self.rev = 0
        self._rows: dict[RowKey, tuple[Row, bytes]] = {}
        self._pending: dict[RowKey, Row | None] = {}  # None: gone
        self._touched: dict[RowKey, None] = {}

    def put(self, row: Row) -> bool:
        """Note a row's newest content; False when nothing has to be told."""
        key = self.spec.key_of(row) if self.spec.key else "one"
        if key not in self._pending and key not in self._touched and self._is_same(key, row):
            return False
        self._touched.pop(key, None)
        self._pending[key] = row
        return True

    def touch(self, key: RowKey) -> bool:
        """Ask for a row to be built at the next flush; False without a builder."""
        if self.build is None:
            return False
        self._touched[key] = None
        return True

    def remove(self, key: RowKey) -> bool:
        """Note that a row is gone; False when nobody knows it."""
        self._touched.pop(key, None)
        if key not in self._rows:
            self._pending.pop(key, None)
            return False
        self._pending[key] = None
        return True

    @property
    def waiting(self) -> int:
        """Rows that the next flush would look at."""
        return len(self._pending) + len(self._touched)

    @property
    def keys(self) -> list[RowKey]:
        """Keys that will exist after the next flush, touched ones included."""
        pending = self._pending
        old = [key for key in self._rows if pending.get(key, self._rows) is not None]
        new = [key for key, row in pending.items() if row is not None and key not in self._rows]
        return old + new + [k for k in self._touched if k not in self._rows and k not in pending]

    def _is_same(self, key: RowKey, row: Row) -> bool:
        known = self._rows.get(key)
        if known is None:
            return False
        quiet = self.spec.quiet
        if not quiet:
            return bool(known[0] == row)
        old = {name: value for name, value in known[0].items() if name not in quiet}
        return old == {name: value for name, value in row.items() if name not in quiet}

    def flush(self, failed: Callable[[Exception], None]) -> Change | None:
        """Take what is pending into the rows; None when that changes nothing.

        A row that cannot be built or encoded is told to `failed`; the others still go.
        """
        pending = self._built(failed)
        changed: list[bytes] = []
        gone: list[RowKey] = []
        for key, row in pending.items():
            if row is None:
                if self._rows.pop(key, None) is not None:
                    gone.append(key)
                continue
            if self._is_same(key, row):
                continue
            try:
                encoded = encode_json(row)
            except TypeError as error:  # orjson's own error is one
                failed(error)
                continue
            self._rows[key] = (row, encoded)
            changed.append(encoded)
        while len(self._rows) > self.spec.kept:
            oldest = next(iter(self._rows))
            del self._rows[oldest]
            gone.append(oldest)
        if not changed and not gone:
            return None
        self.rev += 1
        return Change(self.rev, tuple(changed), tuple(gone))

    def _built(self, failed: Callable[[Exception], None]) -> dict[RowKey, Row | None]:
        pending, self._pending = self._pending, {}
        touched, self._touched = self._touched, {}
        for key in touched:
            try:
                pending[key] = self.build(key) if self.build is not None else None
            except Exception as error:  # a wrong row must not stop the others; told to `failed`
                log_api.exception("row not built topic=%s key=%s", self.spec.name, key)
                failed(error)
        return pending

    def rows(self, ticker: str | None = None) -> list[bytes]:
        """Encoded rows as of `rev`, oldest first; only those of one market if asked."""
        if ticker is None:
            return [encoded for _, encoded in self._rows.values()]
        return [encoded for row, encoded in self._rows.values() if row.get("ticker") == ticker]


def topic_data(change: Change, *, is_full: bool) -> dict[str, object]:
    """The `data` of a topic message."""
    return {
        "rev": change.rev,
        "full": is_full,
        "rows": [orjson.Fragment(row) for row in change.rows],
        "gone": list(change.gone),
    }


# ======================================================================================
# §22b COURIER
# Purpose:   Get frames to browser sockets: who is behind is skipped, who stays behind is closed.
# Position:  Uses §11, §22a. Owned by the manager of §22c.
# Principle: Nothing here waits for a client; the same bytes go to everyone.
# ======================================================================================

BEHIND_MAX_S: Final = 5.0
CATCH_UP_S: Final = 0.05  # pause between two looks at clients that are behind
SOCKET_PING_S: Final = 30.0
SWEEP_S: Final = 0.5
FAREWELL_S: Final = 1.0  # between a close frame and the abort


def text_frame(payload: bytes) -> bytes:
    """A whole WebSocket text frame as a server sends it (RFC 6455 §5.2), the same for everyone."""
    return _ws_frame(0x1, payload)


def _ws_frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload


def _close_frame(code: int, why: str) -> bytes:
    return _ws_frame(0x8, code.to_bytes(2, "big") + why.encode()[:100])


class _Stream:
    """A topic on its way to clients: its pace, and its full message while nothing moves."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.listeners = 0
        self.timer: asyncio.TimerHandle | None = None
        self.flushed_at_s = -math.inf
        self.full: bytes | None = None  # a whole frame, valid until the next flush


class WebClient:
    """One browser socket. Owner: the manager; the engine never waits for it."""

    def __init__(self, name: str, transport: asyncio.Transport, streams: Iterable[_Stream]) -> None:
        self.name, self.transport = name, transport
        self.streams = frozenset(streams)
        self.owed: dict[_Stream, None] = {}  # streams whose next message to it must be full
        self.is_history_owed = False
        self.behind_since_s: float | None = None
        self.window_s, self.heard_in_window = 0, 0

    @property
    def backlog(self) -> int:
        """Bytes written but not yet taken by the operating system."""
        return self.transport.get_write_buffer_size()

    def is_flooding(self, now_s: float) -> bool:
        """Count one inbound message; True when there are too many in this second."""
        if int(now_s) != self.window_s:
            self.window_s, self.heard_in_window = int(now_s), 0
        self.heard_in_window += 1
        return self.heard_in_window > INBOUND_PER_S_MAX


class Courier:
    """Gets frames to clients and never waits: who is behind is skipped, later served in full, or
    closed. `full` makes a stream's full frame, `greet` tells a client the newest pictures."""

    def __init__(
        self,
        clock: Clock,
        *,
        full: Callable[[_Stream], bytes | None],
        greet: Callable[[WebClient], None],
    ) -> None:
        self._clock, self._full, self._greet = clock, full, greet
        self.clients: dict[WebClient, None] = {}
        self._catch_up: asyncio.TimerHandle | None = None
        self.messages_sent = self.bytes_sent = self.messages_skipped = 0
        self.closed: Counter[str] = Counter()  # sockets closed by us, by cause

    def enter(self, client: WebClient) -> None:
        """A socket has come."""
        self.clients[client] = None
        for stream in client.streams:
            stream.listeners += 1

    def listeners(self, stream: _Stream) -> list[WebClient]:
        """Clients that asked for a stream."""
        return [client for client in self.clients if stream in client.streams]

    def offer(self, client: WebClient, frame: bytes | None, *, owed: _Stream | None) -> None:
        """Send unless the client is behind; then it gets the full picture when it has drained."""
        backlog = client.backlog
        if backlog > BACKLOG_CLOSE_BYTES:
            self.close(client, 1013, "too far behind")
        elif backlog > BACKLOG_SKIP_BYTES:
            self.messages_skipped += 1
            if owed is None:
                client.is_history_owed = True
            else:
                client.owed[owed] = None
            self._plan_catch_up()
        elif frame is not None:
            self.write(client, frame)

    def write(self, client: WebClient, frame: bytes) -> None:
        """Hand a frame to the transport."""
        if client.transport.is_closing():
            return
        client.transport.write(frame)
        self.messages_sent += 1
        self.bytes_sent += len(frame)

    def _plan_catch_up(self) -> None:
        if self._catch_up is None:
            loop = asyncio.get_running_loop()
            self._catch_up = loop.call_later(CATCH_UP_S, self._serve_debts)

    def _serve_debts(self) -> None:
        self._catch_up = None
        indebted = [c for c in self.clients if c.owed or c.is_history_owed]
        for client in indebted:
            self.serve(client)

    def serve(self, client: WebClient) -> None:
        """Send what is owed, as far as the backlog allows."""
        if client.is_history_owed and client.backlog <= BACKLOG_SKIP_BYTES:
            client.is_history_owed = False
            self._greet(client)
        while client.owed and client.backlog <= BACKLOG_SKIP_BYTES:
            stream = next(iter(client.owed))
            del client.owed[stream]
            frame = self._full(stream)
            if frame is not None:
                self.write(client, frame)
        if client.owed or client.is_history_owed:
            self._plan_catch_up()

    def close(self, client: WebClient, code: int, why: str) -> None:
        """Say goodbye and abort shortly after; a client that does not read is not waited for."""
        if client not in self.clients:
            return
        self.forget(client)
        self.closed[why] += 1
        if not client.transport.is_closing():
            client.transport.write(_close_frame(code, why))
        asyncio.get_running_loop().call_later(FAREWELL_S, client.transport.abort)

    def forget(self, client: WebClient) -> None:
        """The socket has ended."""
        if client in self.clients:
            del self.clients[client]
            for stream in client.streams:
                stream.listeners -= 1

    def is_known(self, client: WebClient) -> bool:
        """Whether the client still listens."""
        return client in self.clients

    def judge(self, client: WebClient, now_s: float) -> None:
        """Drop a client that is too far or too long behind."""
        if client.backlog > BACKLOG_CLOSE_BYTES:
            self.close(client, 1013, "too far behind")
        elif client.backlog <= BACKLOG_SKIP_BYTES:
            client.behind_since_s = None
        elif client.behind_since_s is None:
            client.behind_since_s = now_s
        elif now_s - client.behind_since_s >= BEHIND_MAX_S:
            self.close(client, 1013, "too long behind")

    def close_all(self) -> None:
        """The trader stops: tell every client."""
        for client in list(self.clients):
            self.close(client, 1001, "the trader stops")


def _inbound_kind(text: str | bytes | None) -> str | None:
    """Type of a short JSON message; None for anything else."""
    if text is None or len(text) > 200:
        return None
    try:
        message = orjson.loads(text)
    except ValueError:
        return None
    kind = message.get("type") if isinstance(message, dict) else None
    return kind if isinstance(kind, str) else None


# ======================================================================================
# §22c SOCKETS
# Purpose:   Browser sockets: who listens to what, and at which pace.
# Position:  Uses §04, §11, §12, §22a, §22b. Made by §23; §21 feeds it rows; §22f admits clients.
# Principle: A client is told what it asked for in its URL; nothing but ping travels inward.
# ======================================================================================


class LiveSource(Protocol):
    """What a new client is told before the topics; §21 satisfies it."""

    def history(self) -> Row:
        """`data` of `history_replay`."""

    def trader_status(self) -> Row:
        """`data` of `trader_status`."""

    def trading_state(self) -> Row:
        """`data` of `trading_state`."""

    def book_row(self, ticker: str) -> Row | None:
        """Row of the topic `books`; None for a market nobody follows."""

    def freshen(self) -> None:
        """Bring the tables up to date: somebody looks after nobody did."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asked for in its URL."""

    topics: tuple[str, ...]
    books: tuple[str, ...]


_TICKER_TEXT: Final = re.compile(r"[A-Za-z0-9._\-]{1,100}", re.ASCII)


def parse_wanted(topics: str | None, books: str | None) -> Wanted:
    """Read `?topics=&books=`; ApiRefused (400) for a name that does not exist or too many books."""
    if not topics:
        names = tuple(TOPICS)
    elif topics == "none":
        names = ()
    else:
        asked = dict.fromkeys(part for part in topics.split(",") if part and part != "books")
        unknown = [name for name in asked if name not in TOPICS]
        if unknown:
            raise ApiRefused(400, "unknown_topic", f"no topic {unknown[0]!r:.60}")
        names = tuple(asked)
    return Wanted(names, parse_books(books))


def parse_books(text: str | None) -> tuple[str, ...]:
    """Tickers of `?books=`, sorted, each once; ApiRefused (400) for too many or for no ticker."""
    tickers = sorted({part for part in (text or "").split(",") if part})
    if len(tickers) > BOOKS_PER_CLIENT_MAX:
        raise ApiRefused(400, "too_many_books", f"at most {BOOKS_PER_CLIENT_MAX} books at once")
    for ticker in tickers:
        if not _TICKER_TEXT.fullmatch(ticker):
            raise ApiRefused(400, "bad_ticker", f"not a ticker: {ticker!r:.60}")
    return tuple(tickers)


class WebSocketManager:
    """Topics, their pace, and the browser sockets that listen (DASHBOARD §4).

    Lives on the loop; `put`, `touch`, `remove` and `broadcast` never wait. A message is encoded
    once and the same bytes go to everyone. Books are streams of their own, one for each set of
    tickers that some client asked for, so that each client sees numbers without gaps.
    """

    def __init__(self, clock: Clock, bus: EventBus) -> None:
        self._clock, self.bus = clock, bus
        self._streams = {name: _Stream(Topic(spec)) for name, spec in TOPICS.items()}
        self._book_streams: dict[tuple[str, ...], _Stream] = {}
        self.courier = Courier(clock, full=self._full, greet=self._tell_first)
        self._source: LiveSource | None = None
        self._reserved = 0
        self._failures = Throttle(clock)
        self.total_connections = self.inbound_ignored = self.serialise_failures = 0

    # -- rows in -------------------------------------------------------------------

    def attach(self, source: LiveSource) -> None:
        """Name who answers what a new client is told first."""
        self._source = source

    def pull(self, topic: str, build: Callable[[RowKey], Row | None]) -> None:
        """Let touched rows of a topic be built by `build` at the moment they are sent."""
        self._streams[topic].topic.build = build

    def put(self, topic: str, row: Row) -> None:
        """Note the newest content of one row."""
        stream = self._streams[topic]
        if stream.topic.put(row):
            self._plan(stream)

    def touch(self, topic: str, key: RowKey) -> None:
        """Ask for one row to be built and sent when it differs."""
        stream = self._streams[topic]
        if stream.topic.touch(key):
            self._plan(stream)

    def touch_book(self, ticker: str) -> None:
        """The book of a market moved; costs nothing when nobody looks at it."""
        for tickers, stream in self._book_streams.items():
            if ticker in tickers and stream.topic.touch(ticker):
                self._plan(stream)

    def remove(self, topic: str, key: RowKey) -> None:
        """Note that a row is gone."""
        stream = self._streams[topic]
        if stream.topic.remove(key):
            self._plan(stream)

    def replace(self, topic: str, rows: Iterable[Row]) -> None:
        """Put all rows of a topic; rows that are not among them are gone."""
        stream = self._streams[topic]
        known, moved = dict.fromkeys(stream.topic.keys), False
        for row in rows:
            known.pop(stream.topic.spec.key_of(row) if stream.topic.spec.key else "one", None)
            moved |= stream.topic.put(row)
        for key in known:
            moved |= stream.topic.remove(key)
        if moved:
            self._plan(stream)

    @property
    def wanted_books(self) -> set[str]:
        """Tickers whose book somebody looks at now."""
        return {t for key, stream in self._book_streams.items() if stream.listeners for t in key}

    # -- pace ----------------------------------------------------------------------

    def _plan(self, stream: _Stream) -> None:
        """Flush at the topic's pace; what nobody listens to waits until it is asked for."""
        if stream.timer is not None:
            return
        if stream.listeners == 0 and stream.topic.waiting < stream.topic.spec.kept:
            return
        loop = asyncio.get_running_loop()
        spec = stream.topic.spec
        due_s = max(loop.time() + spec.first_s, stream.flushed_at_s + spec.gap_s)
        stream.timer = loop.call_at(due_s, self._flush, stream)

    def _refresh(self, stream: _Stream) -> None:
        """Bring a stream that nobody listened to up to date."""
        if stream.listeners == 0:
            if self._source is not None:
                self._source.freshen()
            self._flush(stream)

    def _flush(self, stream: _Stream) -> None:
        if stream.timer is not None:
            stream.timer.cancel()
            stream.timer = None
        change = stream.topic.flush(lambda error: self._failed(stream.topic.spec.name, error))
        if change is None:
            return
        stream.flushed_at_s = asyncio.get_running_loop().time()
        stream.full = None
        if stream.listeners == 0:
            return
        frame = self._frame(stream.topic.spec.name, topic_data(change, is_full=False))
        for client in self.courier.listeners(stream):
            if stream not in client.owed and frame is not None:
                self.courier.offer(client, frame, owed=stream)

    def _frame(self, kind: str, data: object) -> bytes | None:
        """A whole frame, None when it cannot be encoded (counted, alerted)."""
        message = {"type": kind, "data": data, "timestamp": self._clock.now_ms() / 1000}
        try:
            return text_frame(encode_json(message))
        except TypeError as error:
            self._failed(kind, error)
            return None

    def _failed(self, kind: str, error: Exception) -> None:
        self.serialise_failures += 1
        held = self._failures.admit(kind)
        if held is None:
            return
        log_api.error("message dropped type=%s reason=%r repeats=%d", kind, error, held)
        text = f"the page lost one {kind} message: {error!r:.200}"
        now_ms = self._clock.now_ms()
        self.bus.publish(
            AlertRaised(at_ms=now_ms, severity="error", kind="invariant_failed", text=text)
        )

    # -- to clients ----------------------------------------------------------------

    def broadcast(self, kind: str, data: Row) -> None:
        """Send a message of the earlier system's types to every client."""
        frame = self._frame(kind, data) if self.courier.clients else None
        for client in list(self.courier.clients) if frame is not None else ():
            self.courier.offer(client, frame, owed=None)

    def _full(self, stream: _Stream) -> bytes | None:
        if stream.full is None:
            topic = stream.topic
            whole = Change(topic.rev, tuple(topic.rows()), ())
            stream.full = self._frame(topic.spec.name, topic_data(whole, is_full=True))
        return stream.full

    def _tell_first(self, client: WebClient) -> None:
        if self._source is None:
            return
        for kind in ("history_replay", "trader_status", "trading_state"):
            tell = self._source.history if kind == "history_replay" else getattr(self._source, kind)
            frame = self._frame(kind, tell())
            if frame is not None:
                self.courier.write(client, frame)

    # -- a client's life -------------------------------------------------------------

    def reserve(self) -> bool:
        """Take one of the places for sockets; False when all are taken."""
        if len(self.courier.clients) + self._reserved >= SOCKETS_MAX:
            return False
        self._reserved += 1
        return True

    def release(self) -> None:
        """Give back a place taken by `reserve` (the socket is admitted now, or never was)."""
        self._reserved -= 1

    def admit(self, transport: asyncio.Transport, wanted: Wanted) -> WebClient:
        """Greet a new socket: who it is, the history, then every stream it asked for in full."""
        self.total_connections += 1
        at_ms = self._clock.now_ms()
        streams = [self._streams[name] for name in wanted.topics]
        for stream in streams:
            self._refresh(stream)
        if wanted.books:
            streams.append(self.book_stream(wanted.books))
        client = WebClient(f"client_{self.total_connections}_{at_ms // 1000}", transport, streams)
        transport.set_write_buffer_limits(high=4 * BACKLOG_CLOSE_BYTES)  # so nothing ever drains
        self.courier.enter(client)
        hello = {
            "client_id": client.name,
            "timestamp": clock_text(at_ms),
            "message": "Connected to Kalshi trader",
        }
        frame = self._frame("connection", hello)
        if frame is not None:
            self.courier.write(client, frame)
        client.owed = dict.fromkeys(streams)
        self._tell_first(client)
        self.courier.serve(client)
        return client

    def book_stream(self, tickers: tuple[str, ...]) -> _Stream:
        """The stream of one set of books, made when it is first asked for."""
        stream = self._book_streams.get(tickers)
        if stream is None:
            self._drop_idle_books()
            stream = self._book_streams[tickers] = _Stream(Topic(BOOKS, self._book_row))
        for ticker in tickers:
            stream.topic.touch(ticker)
        self._flush(stream)
        return stream

    def _book_row(self, key: RowKey) -> Row | None:
        return None if self._source is None else self._source.book_row(str(key))

    def _drop_idle_books(self) -> None:
        idle = [key for key, stream in self._book_streams.items() if stream.listeners == 0]
        for key in idle[: max(0, len(self._book_streams) - BOOK_STREAMS_MAX + 1)]:
            stream = self._book_streams.pop(key)
            if stream.timer is not None:
                stream.timer.cancel()

    def heard(self, client: WebClient, text: str | bytes | None) -> None:
        """Take one inbound message: `ping` is answered, `pong` welcome, the rest is counted."""
        if client.is_flooding(self._clock.real_s()):
            self.courier.close(client, 1008, "too many messages")
            return
        kind = _inbound_kind(text)
        if kind == "ping":
            self.courier.offer(client, self._frame("pong", {}), owed=None)
        elif kind != "pong":
            self.inbound_ignored += 1

    def answer_ping(self, client: WebClient, payload: bytes) -> None:
        """Answer a ping frame of the protocol, unless the client floods or does not read."""
        if client.is_flooding(self._clock.real_s()):
            self.courier.close(client, 1008, "too many messages")
        elif client.backlog <= BACKLOG_SKIP_BYTES and not client.transport.is_closing():
            client.transport.write(_ws_frame(0xA, payload[:125]))

    async def run(self) -> None:
        """Ping everyone and drop who is behind, until cancelled."""
        pinged_s = self._clock.real_s()
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self._clock.real_s()
            if now_s - pinged_s >= SOCKET_PING_S:
                pinged_s = now_s
                self.broadcast("ping", {})
            for client in list(self.courier.clients):
                self.courier.judge(client, now_s)

    # -- reading -------------------------------------------------------------------

    def topic_page(self, name: str, *, ticker: str | None, limit: int | None) -> dict[str, object]:
        """Answer of `GET /v3/topic/<name>`: rows as of `rev`, the newest `limit` of them."""
        if name == "books":
            tickers = parse_books(ticker)
            if not tickers:
                raise ApiRefused(400, "ticker_missing", "books needs ?ticker=")
            topic, rows = (stream := self.book_stream(tickers)).topic, stream.topic.rows()
        elif name in self._streams:
            self._refresh(self._streams[name])
            topic = self._streams[name].topic
            rows = topic.rows(ticker)
        else:
            raise ApiRefused(404, "unknown_topic", f"no topic {name!r:.60}")
        if limit is not None:
            rows = rows[-limit:]
        parts = [orjson.Fragment(row) for row in rows]
        return {"rev": topic.rev, "rows": parts, "at_ms": self._clock.now_ms()}

    @property
    def active_connections(self) -> int:
        """Sockets open now."""
        return len(self.courier.clients)

    def status(self) -> dict[str, object]:
        """Counters for `/v3/status`, metrics and the page."""
        return {
            "active_connections": self.active_connections,
            "total_connections": self.total_connections,
            "messages_sent": self.courier.messages_sent,
            "bytes_sent": self.courier.bytes_sent,
            "messages_skipped": self.courier.messages_skipped,
            "inbound_ignored": self.inbound_ignored,
            "serialise_failures": self.serialise_failures,
            "closed": dict(self.courier.closed),
        }


# ======================================================================================
# §22d CONTROLS
# Purpose:   Who may control, in which form, how often: host, token, codes, keys.
# Position:  Uses §04, §11, §22a. The acts themselves are §23's.
# Principle: Safe is easy, risky is hard; one key is one action.
# ======================================================================================

CONTROL_WAIT_S: Final = 10.0


class ControlRefused(ApiRefused):
    """§23 refuses a control: 400 impossible, 409 not now, 412 the picture has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAsk:
    """One control a person asked for, checked as far as its form goes.

    `by` is "page" (a browser) or "api" (curl, the command line); `where` the peer's address.
    `state_version` is what the person had seen, None where it is not asked. `everything` is the
    body's `all`; `ratio` belongs to the tape player.
    """

    action: str
    control_id: str
    by: str
    where: str
    at_ms: int
    reason: str = ""
    strategy: str | None = None
    ticker: str | None = None
    client_order_id: str | None = None
    keep_orders: bool = False
    to: str = "reduce-only"
    override: bool = False
    everything: bool = False
    nonce: str | None = None
    ratio: float | None = None
    state_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAnswer:
    """What is answered at once. `extra` joins `control_id` and `phase` in the body."""

    phase: str = "requested"
    extra: Row = field(default_factory=lambda: EMPTY)


class Controls(Protocol):
    """What §23 offers to people. Each commits its audit row before the effect (kill: the latch),
    answers at once, and tells its progress by ControlMoved with the ask's `control_id`.
    Raises ControlRefused. `resume` and `rearm` look at `state_version` again before they act."""

    @property
    def environment(self) -> str:
        """The word a person types to confirm: sim, paper or production."""

    @property
    def state_version(self) -> int:
        """Counts changes of gate, latch and degraded reasons."""

    @property
    def is_halted(self) -> bool:
        """Whether the halt latch is set."""

    @property
    def has_replay(self) -> bool:
        """Whether a tape is played here."""

    async def kill(self, ask: ControlAsk) -> ControlAnswer:
        """Latch, then cancel everything; answers when the latch is set."""

    async def pause(self, ask: ControlAsk) -> ControlAnswer:
        """No new risk, for one strategy or all."""

    async def resume(self, ask: ControlAsk) -> ControlAnswer:
        """Back to open."""

    async def rearm(self, ask: ControlAsk) -> ControlAnswer:
        """Clear the halt latch."""

    async def cancel_all(self, ask: ControlAsk) -> ControlAnswer:
        """Cancel own orders: all, of one market, or one."""

    async def reduce_only(self, ask: ControlAsk) -> ControlAnswer:
        """Only orders that shrink a position from now on."""

    async def flatten(self, ask: ControlAsk) -> ControlAnswer:
        """Without nonce: a preview in `extra` (nonce, expires_at_ms, preview); with it: do it."""

    async def replay(self, ask: ControlAsk) -> ControlAnswer:
        """Tape player; the ask's action is play, pause, speed, settle, step or seek."""


_WORD: Final = re.compile(r"[A-Za-z0-9._:/|\-]{1,200}", re.ASCII)
_KEY: Final = re.compile(r"[A-Za-z0-9_\-]{1,64}", re.ASCII)
_TEXT_FIELDS: Final = {"reason", "environment"}
_WORD_FIELDS: Final = {"strategy", "ticker", "client_order_id", "nonce", "to"}
_BOOL_FIELDS: Final = {"keep_orders", "all", "override"}
CONTROL_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "kill": frozenset({"reason"}),
    "cancel-all": frozenset({"ticker", "client_order_id", "reason"}),
    "pause": frozenset({"strategy", "keep_orders", "reason"}),
    "reduce-only": frozenset({"reason"}),
    "resume": frozenset({"strategy", "reason", "environment"}),
    "rearm": frozenset({"strategy", "reason", "environment", "to", "override"}),
    "flatten": frozenset({"nonce", "all", "reason"}),
}
RISKY_CONTROLS: Final = frozenset({"resume", "rearm"})
REPLAY_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "play": frozenset(),
    "pause": frozenset(),
    "speed": frozenset({"ratio"}),
    "settle": frozenset(),
    "step": frozenset(),
    "seek": frozenset({"at_ms"}),
}


def check_fields(body: Mapping[str, object], allowed: frozenset[str]) -> None:
    """Refuse (400) a body with unknown names or wrong kinds of values."""
    for name, value in body.items():
        if name not in allowed and name != "key":
            raise ApiRefused(400, "unknown_field", f"{name!r:.60} is not a field of this control")
        if name == "key":
            is_good = isinstance(value, str) and _KEY.fullmatch(value) is not None
        elif name in _BOOL_FIELDS:
            is_good = isinstance(value, bool)
        elif name in _WORD_FIELDS:
            is_good = isinstance(value, str) and _WORD.fullmatch(value) is not None
        elif name in _TEXT_FIELDS:
            is_good = isinstance(value, str) and 0 < len(value) <= 500
        else:
            is_good = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_good:
            raise ApiRefused(400, "bad_field", f"{name} has a value that is not possible")


def plain_text(text: str) -> str:
    """A person's words without line ends, control and direction characters (S20)."""
    return "".join(char if char.isprintable() else " " for char in text)


def check_confirmation(
    body: Mapping[str, object], seen: str | None, controls: Controls, *, is_page: bool
) -> int:
    """What the risky way needs: reason, typed environment, a fresh picture. Returns its version."""
    if not str(body.get("reason", "")).strip():
        raise ApiRefused(400, "reason_missing", "say why, in `reason`")
    if body.get("environment") != controls.environment:
        raise ApiRefused(400, "environment_wrong", f"type the environment: {controls.environment}")
    if body.get("to", "reduce-only") not in ("reduce-only", "open"):
        raise ApiRefused(400, "bad_field", "`to` is reduce-only or open")
    if body.get("override") and is_page:
        raise ApiRefused(400, "override_refused", "an override is given on the command line only")
    version = (seen or "").strip().strip('"')
    if version != str(controls.state_version):
        raise ApiRefused(412, "state_changed", "the picture has changed; look again, then confirm")
    return int(version)


_Act = Callable[[ControlAsk], Awaitable[ControlAnswer]]


@dataclass(slots=True)
class _Asked:
    """One idempotency key and what became of it."""

    fingerprint: bytes
    control_id: str
    task: asyncio.Task[tuple[int, dict[str, object]]]


class ControlDesk:
    """Takes controls from HTTP: form, pace, once per key; the acts themselves are §23's."""

    def __init__(
        self, clock: Clock, supervisor: Supervisor, bus: EventBus, controls: Controls
    ) -> None:
        self._clock, self._supervisor, self._bus = clock, supervisor, bus
        self.controls = controls
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._recent: dict[str, deque[float]] = {}
        self._count = 0
        self._acts: dict[str, _Act] = {
            "kill": controls.kill,
            "cancel-all": controls.cancel_all,
            "pause": controls.pause,
            "reduce-only": controls.reduce_only,
            "resume": controls.resume,
            "rearm": controls.rearm,
            "flatten": controls.flatten,
        }

    async def take(
        self, action: str, body: Mapping[str, object], *, seen: str | None, by: str, where: str
    ) -> tuple[int, dict[str, object]]:
        """Do one control, or tell again what became of its key; returns status and body.

        `action` is a name of CONTROL_FIELDS, or `replay-` and one of REPLAY_FIELDS.
        """
        player = action.removeprefix("replay-") if action.startswith("replay-") else None
        check_fields(body, CONTROL_FIELDS[action] if player is None else REPLAY_FIELDS[player])
        key = str(body.get("key") or (self._clock.token_hex(16) if action == "kill" else ""))
        if not key:
            raise ApiRefused(400, "key_missing", "send a fresh uuid as `key`")
        fingerprint = action.encode() + orjson.dumps(dict(body), option=orjson.OPT_SORT_KEYS)
        asked = self._asked.get(key)
        if asked is not None and action == "kill" and not self.controls.is_halted:
            # The latch was cleared since: no answer of memory may stand in for setting it again.
            is_under_way = asked.fingerprint == fingerprint and not asked.task.done()
            asked = asked if is_under_way else None
        if asked is None:
            version = None
            if action in RISKY_CONTROLS:
                is_page = by == "page"
                version = check_confirmation(body, seen, self.controls, is_page=is_page)
            self._check_pace(action)
            ask = self._ask(player or action, body, version=version, by=by, where=where)
            act = self._acts[action] if player is None else self.controls.replay
            asked = self._start(key, fingerprint, ask, act)
        elif asked.fingerprint != fingerprint:
            raise ApiRefused(409, "key_reused", "this key belongs to another control")
        return await self._outcome(asked)

    def _start(self, key: str, fingerprint: bytes, ask: ControlAsk, act: _Act) -> _Asked:
        task = self._supervisor.spawn(self._perform(ask, act), name=f"control:{ask.action}")
        asked = self._asked[key] = _Asked(fingerprint, ask.control_id, task)
        self._asked.move_to_end(key)
        while len(self._asked) > CONTROL_KEYS_MAX:
            self._asked.popitem(last=False)
        return asked

    async def _outcome(self, asked: _Asked) -> tuple[int, dict[str, object]]:
        try:
            async with asyncio.timeout(CONTROL_WAIT_S):
                return await asyncio.shield(asked.task)
        except TimeoutError:
            return 202, {"control_id": asked.control_id, "phase": "requested"}

    def _check_pace(self, action: str) -> None:
        if action == "kill":
            return
        most = REPLAYS_PER_MINUTE_MAX if action.startswith("replay-") else CONTROLS_PER_MINUTE_MAX
        recent = self._recent.setdefault(action, deque(maxlen=most))
        now_s = self._clock.real_s()
        if len(recent) == most and now_s - recent[0] < 60.0:
            raise ApiRefused(429, "too_often", f"{action}: at most {most} per minute")
        recent.append(now_s)

    def _ask(
        self, action: str, body: Mapping[str, object], *, version: int | None, by: str, where: str
    ) -> ControlAsk:
        self._count += 1

        def word(name: str) -> str | None:
            return str(body[name]) if name in body else None

        ratio = body.get("ratio")
        return ControlAsk(
            action=action,
            control_id=f"c-{self._count:06d}",
            by=by,
            where=where,
            at_ms=self._clock.now_ms(),
            reason=plain_text(str(body.get("reason", ""))),
            strategy=word("strategy"),
            ticker=word("ticker"),
            client_order_id=word("client_order_id"),
            keep_orders=bool(body.get("keep_orders", False)),
            to=str(body.get("to", "reduce-only")),
            override=bool(body.get("override", False)),
            everything=bool(body.get("all", False)),
            nonce=word("nonce"),
            ratio=float(ratio) if isinstance(ratio, int | float) else None,
            state_version=version,
        )

    async def _perform(self, ask: ControlAsk, act: _Act) -> tuple[int, dict[str, object]]:
        self._tell(ask, "requested", "")
        try:
            answer = await act(ask)
        except ControlRefused as refused:
            self._tell(ask, "refused", refused.message)
            return refused.status, {**refused.body, "control_id": ask.control_id}
        except Exception as error:  # the person must hear that it did not work, and what still does
            log_api.exception("control failed action=%s id=%s", ask.action, ask.control_id)
            text = f"{ask.action} failed ({error!r:.120}); the kill file and the signal still work"
            self._tell(ask, "failed", text)
            failed = ApiRefused(500, "failed", text)
            return 500, {**failed.body, "control_id": ask.control_id}
        status = 200 if "preview" in answer.extra else 202
        return status, {"control_id": ask.control_id, "phase": answer.phase, **answer.extra}

    def _tell(self, ask: ControlAsk, phase: str, text: str) -> None:
        """Show the control on the page from its first moment on; §23 tells what follows."""
        self._bus.publish(
            ControlMoved(
                at_ms=self._clock.now_ms(),
                control_id=ask.control_id,
                action=ask.action,
                phase=phase,
                by=ask.by,
                asked_at_ms=ask.at_ms,
                text=text,
            )
        )


# ======================================================================================
# §22e CONNECTIONS
# Purpose:   The edge of the house: hosts, token, places, headers, files, the one webhook.
# Position:  Uses §11, §22a. Used by §22f; §23 hands the webhook to the alerts.
# Principle: Every place is counted and every wait has an end.
# ======================================================================================

READ_TIMEOUT_S: Final = 5.0  # for a request to arrive
EXCHANGE_TIMEOUT_S: Final = 15.0  # for a request to be answered and the answer to be taken
DOOR_LOCK_S: Final = 60.0
UNLOCK_CODE_LIFE_S: Final = 60.0


SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "trader",
}
STATIC_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class StatusSource(LiveSource, Protocol):
    """Everything that is shown; §21 satisfies it. Reading never changes anything."""

    def health(self) -> Row:
        """Body of `/v3/health`: healthy, status, state, uptime, and reasons when degraded."""

    def status(self) -> Row:
        """Body of `/v3/status`."""

    def explain(self, some_id: str) -> Row | None:
        """Decision record by decision, order or fill id; None when there is none."""

    def equity(self, from_ms: int, points: int) -> list[Row]:
        """Rows like topic `equity`, reduced so that extremes survive."""

    def settings(self) -> list[Row]:
        """Effective settings: name, value (secrets masked), source."""

    def metrics_text(self) -> str:
        """Prometheus text."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file of the page, in memory."""

    body: bytes
    content_type: str


def load_static(folder: Path) -> dict[str, StaticFile]:
    """Read the page once: exact URL path → file. Raises ConfigError when there is no page.

    Hidden files and types the page does not use are left out.
    """
    files: dict[str, StaticFile] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        kind = STATIC_TYPES.get(path.suffix)
        if kind is None or is_hidden or not path.is_file():
            continue
        if path.stat().st_size > STATIC_FILE_MAX_BYTES:
            raise ConfigError(f"{path}: larger than {STATIC_FILE_MAX_BYTES} bytes; not a page file")
        files[f"/static/{name}"] = StaticFile(path.read_bytes(), kind)
    if "/static/index.html" not in files:
        raise ConfigError(f"{folder}: the page (index.html) is missing; restore the folder")
    files["/"] = files["/static/index.html"]
    return files


def _json_answer(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=encode_json(body), content_type="application/json")


def _dress(answer: web.Response) -> web.Response:
    answer.headers.update(SECURITY_HEADERS)
    answer.force_close()
    return answer


class _Connection(web.RequestHandler):
    """One accepted connection: bounded while it is being read, closed after one answer."""

    def __init__(self, table: ConnectionTable, manager: web.Server, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._table = table
        self.link: asyncio.Transport | None = None
        self.is_busy = self.is_control = False
        self.since_s = 0.0
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place among the connections; the longest waiting one makes room."""
        self.link = cast(asyncio.Transport, transport)
        super().connection_made(transport)
        self._table.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back."""
        self._table.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless a head never ends."""
        if not self.is_busy:
            self._head_bytes += len(data)
            if self._head_bytes > UNREAD_MAX_BYTES:
                self.abort()
                return
        super().data_received(data)

    def abort(self) -> None:
        """Cut the connection now."""
        if self.link is not None:
            self.link.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are no HTTP in the same form as every other refusal."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; another one cannot be sent")
        code = "bad_request" if status < 500 else "internal"
        refused = ApiRefused(status, code, "not a request this server reads")
        return _dress(_json_answer(status, refused.body))


class ConnectionTable:
    """Connections that are no sockets: how many there are, and which have had their time."""

    def __init__(self, clock: Clock, refused: Counter[str]) -> None:
        self._clock, self._refused = clock, refused
        self._sweeper: asyncio.TimerHandle | None = None
        self.open: dict[_Connection, None] = {}

    def opened(self, connection: _Connection) -> None:
        """A connection came; when all places are taken, the one waiting longest goes."""
        connection.since_s = self._clock.real_s()
        if len(self.open) >= CONNECTIONS_MAX:
            waiting = [c for c in self.open if not c.is_busy]
            idle = waiting or [c for c in self.open if not c.is_control]
            victim = (idle or list(self.open))[0]
            self._refused["connections_full"] += 1
            self.lost(victim)
            victim.abort()
        self.open[connection] = None

    def lost(self, connection: _Connection) -> None:
        """A connection ended, or became a socket, which is counted apart."""
        self.open.pop(connection, None)

    def sweep(self) -> None:
        """Cut connections that send too slowly or do not take their answer; again and again."""
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self.sweep)
        now_s = self._clock.real_s()
        for connection in list(self.open):
            limit_s = EXCHANGE_TIMEOUT_S if connection.is_busy else READ_TIMEOUT_S
            if now_s - connection.since_s > limit_s:
                self._refused["too_slow"] += 1
                connection.abort()

    def close(self) -> None:
        """Stop looking and cut what is left."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.open):
            connection.abort()


class HostGuard:
    """Which names this server answers to (S2, S3): exact words, nothing is normalised."""

    def __init__(self, port: int, extra_hosts: Iterable[str] = ()) -> None:
        hosts = {f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"}
        origins = {f"http://{host}" for host in hosts}
        for name in extra_hosts:
            for host in (name, name if ":" in name else f"{name}:{port}"):
                hosts.add(host)
                origins |= {f"http://{host}", f"https://{host}"}
        self._hosts, self._origins = frozenset(hosts), frozenset(origins)

    def check(
        self, host: Sequence[str], origin: Sequence[str], fetch_site: Sequence[str]
    ) -> ApiRefused | None:
        """Judge the three headers as they came, all copies of each; None: welcome."""
        if len(host) != 1 or host[0] not in self._hosts:
            return ApiRefused(403, "host_not_allowed", "this server does not answer to that name")
        if any(value not in self._origins for value in origin):
            return ApiRefused(403, "origin_not_allowed", "requests from other pages are refused")
        if any(value not in ("same-origin", "none") for value in fetch_site):
            return ApiRefused(403, "cross_site", "requests from other sites are refused")
        return None


class TokenDoor:
    """The run token and the one-time codes that stand for it (S6, S7)."""

    def __init__(self, clock: Clock, token: str) -> None:
        self._clock = clock
        self.token = token  # §23 binds a new one when the file is replaced
        self._bad: deque[float] = deque(maxlen=BAD_TOKENS_MAX)
        self._locked_until_s = -math.inf
        self._codes: OrderedDict[str, float] = OrderedDict()

    def check(self, given: str | None) -> None:
        """Pass with the right token; ApiRefused 401 or, after too many wrong ones, 429."""
        self._check_lock()
        if given is None:
            raise ApiRefused(401, "token_missing", "needs Authorization: Bearer <run token>")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode()):
            self._note_bad()
            raise ApiRefused(401, "token_wrong", "not the run token")

    def new_code(self) -> str:
        """A one-time code for the page's address bar, good for one minute."""
        code = self._clock.token_hex(16)
        self._codes[code] = self._clock.real_s() + UNLOCK_CODE_LIFE_S
        while len(self._codes) > UNLOCK_CODES_MAX:
            self._codes.popitem(last=False)
        return code

    def trade(self, code: str) -> str:
        """Give the token for a code, once; ApiRefused 401 for a used, old or wrong one."""
        self._check_lock()
        given, now_s = code.encode("utf-8", "replace"), self._clock.real_s()
        matches = [known for known in self._codes if hmac.compare_digest(known.encode(), given)]
        if not matches or self._codes.pop(matches[0]) < now_s:
            self._note_bad()
            raise ApiRefused(401, "code_wrong", "used, expired or wrong; ask for a new link")
        return self.token

    def _check_lock(self) -> None:
        if self._clock.real_s() < self._locked_until_s:
            text = "too many wrong tokens; the HTTP controls are locked for a minute"
            raise ApiRefused(429, "locked", f"{text} (command line and kill file still work)")

    def _note_bad(self) -> None:
        now_s = self._clock.real_s()
        self._bad.append(now_s)
        if len(self._bad) == BAD_TOKENS_MAX and now_s - self._bad[0] <= 60.0:
            self._locked_until_s = now_s + DOOR_LOCK_S
            self._bad.clear()
            log_api.warning("controls locked reason=wrong tokens seconds=%d", int(DOOR_LOCK_S))


def _query_int(request: web.BaseRequest, name: str, default: int, low: int, high: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII) or not low <= int(text) <= high:
        raise ApiRefused(400, "bad_query", f"{name} is a whole number from {low} to {high}")
    return int(text)


class Webhook:
    """POSTs alerts to the one address the operator named: the only other way out of here."""

    def __init__(self, url: Secret) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes) -> int:
        """Send one JSON body; the HTTP status, 0 when nobody answered within READ_TIMEOUT_S."""
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                async with self._session.post(
                    self._url.reveal(),
                    data=body,
                    headers={"Content-Type": "application/json"},
                    allow_redirects=False,
                ) as answer:
                    return answer.status
        except (TimeoutError, OSError, ValueError, aiohttp.ClientError) as error:
            log_api.debug("webhook did not answer reason=%s", type(error).__name__)
            return 0

    async def close(self) -> None:
        """Let go of the connection."""
        if self._session is not None:
            await self._session.close()


# ======================================================================================
# §22f SERVER
# Purpose:   Exact routes, guards before them, the same headers on every answer.
# Position:  Uses §21, §22a to §22e. Built by `build_api`, started by §23.
# Principle: What a client does reaches the trader only through a guarded POST.
# ======================================================================================

_Route = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class ApiServer:
    """The HTTP server of the trader: exact routes, guards before them, headers on every answer.

    A connection carries one request (keep-alive would only serve those who hold places), unless it
    becomes a socket. Compression is never offered. Made by `build_api`, started by §23.
    """

    def __init__(
        self, *, clock: Clock, hub: WebSocketManager, source: StatusSource, desk: ControlDesk,
        door: TokenDoor, static: Mapping[str, StaticFile], extra_hosts: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self._clock, self._hub, self._source = clock, hub, source
        self._desk, self.door, self._static = desk, door, static
        self._extra_hosts = tuple(extra_hosts)
        self._guard = HostGuard(0)
        self._listener: asyncio.Server | None = None
        self._manager: web.Server | None = None
        self.port = 0
        self.requests = 0
        self.refused: Counter[str] = Counter()
        self.connections = ConnectionTable(clock, self.refused)
        self._gets: dict[str, _Route] = {
            "/v3-trader": self._old_address,
            "/v3/health": self._health,
            "/v3/status": self._status,
            "/v3/ws": self._socket,
            "/v3/equity": self._equity,
            "/v3/config": self._config,
            "/metrics": self._metrics,
        }
        self._posts: dict[str, _Route] = {
            "/v3/unlock": self._unlock,
            "/v3/unlock/link": self._link,
        }
        for action in CONTROL_FIELDS:
            self._posts[f"/v3/control/{action}"] = partial(self._control, action)
        for action in REPLAY_FIELDS:
            self._posts[f"/v3/replay/{action}"] = partial(self._replay, action)

    # -- life ----------------------------------------------------------------------

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (another one only for port 0). OSError when it is taken."""
        loop = asyncio.get_running_loop()
        self._manager = manager = web.Server(self._handle, request_factory=_make_request)
        settings: dict[str, Any] = {
            "loop": loop,
            "access_log": None,
            "logger": log_api,
            "keepalive_timeout": READ_TIMEOUT_S,
            "lingering_time": 1.0,
            "max_line_size": HEAD_MAX_BYTES,
            "max_field_size": HEAD_MAX_BYTES,
            "auto_decompress": False,
        }
        self._listener = await loop.create_server(
            lambda: _Connection(self.connections, manager, **settings),
            host,
            port,
            reuse_address=True,
        )
        self.port = int(self._listener.sockets[0].getsockname()[1])
        self._guard = HostGuard(self.port, self._extra_hosts)
        self.connections.sweep()
        return self.port

    async def stop(self) -> None:
        """Close the door, say goodbye to sockets, cut what is left within two seconds."""
        if self._listener is None or self._manager is None:
            return
        self._listener.close()
        self._hub.courier.close_all()
        await self._manager.shutdown(1.0)
        self.connections.close()

    # -- one request -----------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        connection = cast(_Connection, request.protocol)
        connection.is_busy, connection.since_s = True, self._clock.real_s()
        try:
            answer = await self._answer(request)
        except ApiRefused as refused:
            self.refused[refused.code] += 1
            answer = _json_answer(refused.status, refused.body)
        except web.HTTPRequestEntityTooLarge:
            self.refused["body_too_large"] += 1
            too_large = ApiRefused(413, "body_too_large", f"at most {BODY_MAX_BYTES} bytes")
            answer = _json_answer(413, too_large.body)
        except (TimeoutError, ConnectionError, aiohttp.ClientError) as error:
            self.refused["broken_off"] += 1
            log_api.debug("request broken off reason=%r", error)
            answer = _json_answer(408, ApiRefused(408, "too_slow", "the request did not end").body)
        except Exception as error:  # one wrong answer must not cost more than itself
            self.refused["internal"] += 1
            log_api.exception("request failed path=%s", plain_text(request.path)[:200])
            text = f"the answer could not be made: {type(error).__name__}"
            answer = _json_answer(500, ApiRefused(500, "internal", text).body)
        return answer if isinstance(answer, web.WebSocketResponse) else _dress(answer)

    async def _answer(self, request: web.BaseRequest) -> Any:
        self._check(request)
        path = request.raw_path.partition("?")[0]
        if request.method in ("GET", "HEAD"):
            return await self._get(request, path)
        if request.method == "POST":
            route = self._posts.get(path)
            if route is not None:
                return await route(request)
            self._check_missing(path)
        raise ApiRefused(405, "method_not_allowed", f"{request.method!r:.20} is not served here")

    async def _get(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        page = self._static.get(path)
        if page is not None:
            return web.Response(body=page.body, content_type=page.content_type, charset="utf-8")
        route = self._gets.get(path)
        if route is not None:
            return await route(request)
        if path.startswith("/v3/topic/"):
            return self._topic(request, path.removeprefix("/v3/topic/"))
        if path.startswith("/v3/explain/"):
            return self._explain(path.removeprefix("/v3/explain/"))
        if path in self._posts:
            raise ApiRefused(405, "method_not_allowed", "a control is a POST")
        raise ApiRefused(404, "not_found", "nothing is served under this path")

    def _check_missing(self, path: str) -> None:
        if path not in self._gets and path not in self._static:
            raise ApiRefused(404, "not_found", "nothing is served under this path")

    def _check(self, request: web.BaseRequest) -> None:
        """Guards before any route is looked at."""
        headers = request.headers
        refused = self._guard.check(
            headers.getall("Host", []),
            headers.getall("Origin", []),
            headers.getall("Sec-Fetch-Site", []),
        )
        if refused is not None:
            raise refused
        if request.method == "OPTIONS":
            raise ApiRefused(403, "options_refused", "no other page may ask")
        if not request.raw_path.startswith("/"):
            raise ApiRefused(400, "bad_target", "ask with a path")
        head = len(request.raw_path) + sum(len(k) + len(v) + 4 for k, v in request.raw_headers)
        if head > HEAD_MAX_BYTES:
            raise ApiRefused(431, "head_too_large", f"at most {HEAD_MAX_BYTES} bytes of headers")
        if (request.content_length or 0) > BODY_MAX_BYTES:
            raise ApiRefused(413, "body_too_large", f"at most {BODY_MAX_BYTES} bytes")

    # -- reading ---------------------------------------------------------------------

    async def _old_address(self, request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "/"})

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        body = self._source.health()
        return _json_answer(200 if body["healthy"] else 503, body)

    async def _status(self, request: web.BaseRequest) -> web.StreamResponse:
        return _json_answer(200, self._source.status())

    async def _config(self, request: web.BaseRequest) -> web.StreamResponse:
        return _json_answer(200, {"settings": self._source.settings()})

    async def _metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        body = self._source.metrics_text().encode()
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _equity(self, request: web.BaseRequest) -> web.StreamResponse:
        from_ms = _query_int(request, "from_ms", 0, 0, 10**14)
        points = _query_int(request, "points", 600, 1, EQUITY_POINTS_MAX)
        rows = self._source.equity(from_ms, points)
        return _json_answer(200, {"rows": rows, "at_ms": self._clock.now_ms()})

    def _topic(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        ticker = request.query.get("ticker") or None
        limit = _query_int(request, "limit", TOPIC_LIMIT_MAX, 1, TOPIC_LIMIT_MAX)
        return _json_answer(200, self._hub.topic_page(name, ticker=ticker, limit=limit))

    def _explain(self, quoted: str) -> web.StreamResponse:
        some_id = unquote(quoted, errors="replace")
        if not _WORD.fullmatch(some_id):
            raise ApiRefused(404, "not_found", "an id has letters, digits and - _ . : |")
        record = self._source.explain(some_id)
        if record is None:
            raise ApiRefused(404, "not_found", f"no decision, order or fill {some_id} is on record")
        return _json_answer(200, record)

    async def _socket(self, request: web.BaseRequest) -> web.StreamResponse:
        wanted = parse_wanted(request.query.get("topics"), request.query.get("books"))
        ws = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=INBOUND_FRAME_MAX_BYTES, timeout=2.0
        )
        if request.method != "GET" or not ws.can_prepare(request):
            raise ApiRefused(426, "upgrade_needed", "this path is a WebSocket")
        if not self._hub.reserve():
            raise ApiRefused(503, "sockets_full", f"{SOCKETS_MAX} pages are open already")
        connection = cast(_Connection, request.protocol)
        try:
            ws.headers.update(SECURITY_HEADERS)
            await ws.prepare(request)
            self.connections.lost(connection)
        finally:
            self._hub.release()
        if connection.link is None or connection.link.is_closing():
            return ws
        client = self._hub.admit(connection.link, wanted)
        try:
            await self._listen(ws, client)
        finally:
            self._hub.courier.forget(client)
        return ws

    async def _listen(self, ws: web.WebSocketResponse, client: WebClient) -> None:
        async for message in ws:
            if not self._hub.courier.is_known(client):
                return
            if message.type is aiohttp.WSMsgType.PING:
                self._hub.answer_ping(client, bytes(message.data))
            elif message.type is not aiohttp.WSMsgType.PONG:
                is_text = message.type is aiohttp.WSMsgType.TEXT
                self._hub.heard(client, message.data if is_text else None)

    # -- acting ----------------------------------------------------------------------

    async def _unlock(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self._body(request)
        code = body.get("code")
        if not isinstance(code, str) or set(body) != {"code"}:
            raise ApiRefused(400, "bad_field", 'send {"code": "..."}')
        return _json_answer(200, {"token": self.door.trade(code)})

    async def _link(self, request: web.BaseRequest) -> web.StreamResponse:
        await self._trusted_body(request)
        return _json_answer(200, {"url": self.unlock_url()})

    def unlock_url(self) -> str:
        """Address of the page with a new one-time code; for a terminal, never for a log."""
        return f"http://localhost:{self.port}/#unlock={self.door.new_code()}"

    async def _control(self, action: str, request: web.BaseRequest) -> web.StreamResponse:
        cast(_Connection, request.protocol).is_control = True
        body = await self._trusted_body(request)
        return await self._take(action, body, request)

    async def _replay(self, action: str, request: web.BaseRequest) -> web.StreamResponse:
        if not self._desk.controls.has_replay:
            raise ApiRefused(404, "not_found", "no tape is played here")
        body = await self._trusted_body(request)
        return await self._take(f"replay-{action}", body, request)

    async def _take(
        self, action: str, body: Mapping[str, object], request: web.BaseRequest
    ) -> web.StreamResponse:
        status, answer = await self._desk.take(
            action,
            body,
            seen=request.headers.get("If-Match"),
            by="page" if "Origin" in request.headers else "api",
            where=str(request.remote),
        )
        return _json_answer(status, answer)

    async def _trusted_body(self, request: web.BaseRequest) -> Mapping[str, object]:
        """Body of a request that carries the run token; nothing is read before that is known."""
        self._check_form(request)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        self.door.check(token.strip() if scheme.lower() == "bearer" and token else None)
        return await self._body(request)

    def _check_form(self, request: web.BaseRequest) -> None:
        if request.headers.getall("X-Trader-Control", []) != ["1"]:
            raise ApiRefused(403, "header_missing", "a control needs X-Trader-Control: 1")
        if request.content_type != "application/json":
            raise ApiRefused(415, "json_only", "a control needs Content-Type: application/json")

    async def _body(self, request: web.BaseRequest) -> Mapping[str, object]:
        self._check_form(request)
        async with asyncio.timeout(READ_TIMEOUT_S):
            data = await request.read()
        try:
            body = orjson.loads(data)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ApiRefused(400, "bad_json", "the body is not a JSON object")
        return body

    def status(self) -> dict[str, object]:
        """Counters for `/v3/status`."""
        return {
            "port": self.port,
            "requests": self.requests,
            "connections": len(self.connections.open),
            "refused": dict(self.refused),
        }


def _make_request(
    message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(
        message, payload, protocol, writer, task, loop, client_max_size=BODY_MAX_BYTES
    )


def build_api(
    *,
    clock: Clock,
    supervisor: Supervisor,
    hub: WebSocketManager,
    source: StatusSource,
    controls: Controls,
    token: str,
    static: Mapping[str, StaticFile],
    extra_hosts: Iterable[str] = (),
) -> ApiServer:
    """Wire the server: `await api.start(host, port)` listens, `await api.stop()` ends it.

    `supervisor` also runs `hub.run()` (§23 spawns it). `extra_hosts` are the names of
    `--allow-host`, given only together with `--allow-remote`.
    """
    hub.attach(source)
    desk = ControlDesk(clock, supervisor, hub.bus, controls)
    door = TokenDoor(clock, token)
    return ApiServer(
        clock=clock,
        hub=hub,
        source=source,
        desk=desk,
        door=door,
        static=static,
        extra_hosts=extra_hosts,
    )


# ======================================================================================
# §23 COORDINATOR
# §23a GUARD
# Purpose:   The gate, the halt latch and the degraded reasons: what may be done right now.
# Position:  Uses §03, §04, §10 to §14, §17, §18. One owner: Coordinator.
# Principle: Stopping is instant and survives everything; going on needs reasons.
# ======================================================================================

log_guard = logging.getLogger("trader.guard")

# Which reason of the funnel a degraded reason is counted under, in gate order.
_UNREADY: Final = ((Degraded.TRADING, Reason.NOT_READY), (Degraded.TASK, Reason.NOT_READY))
_TROUBLES: Final = (
    (Degraded.PAUSE, Reason.EXCHANGE_PAUSED),
    (Degraded.CLOCK, Reason.CLOCK_SKEW),
    (Degraded.ORDERBOOK, Reason.STREAM_LOST),
    (Degraded.LOOP, Reason.LOOP_LAG),
    (Degraded.JOURNAL, Reason.JOURNAL_UNWRITABLE),
)


class Guard:
    """One writer of gate, latch and degraded reasons; answers `permit` on the order path."""

    def __init__(
        self,
        *,
        clock: Clock,
        bus: EventBus,
        journal: Journal,
        data_dir: DataDir,
        container: StateContainer,
        config: Config,
    ) -> None:
        self._clock, self._bus, self._journal = clock, bus, journal
        self._data_dir, self._container, self._config = data_dir, container, config
        self._degraded: dict[Degraded, DegradedReason] = {}
        self._quiet = Throttle(clock)
        self.is_latch_durable = True
        self.is_gate_durable = True
        self.is_stopping = False
        self.kills_while_halted = 0  # new causes heard while the latch was set already

    # -- latch and gate -----------------------------------------------------------------

    def load(self) -> None:
        """Take over latch and gate from the disk; the KILL file or the journal alone suffices."""
        halt = self._data_dir.read_kill() or self._journaled_halt()
        try:
            state = self._data_dir.read_state()
        except JournalError as error:
            state = {"gate": Gate.PAUSED, "why": str(error), "by": "disk"}
        gate = Gate(str(state.get("gate", Gate.OPEN)))
        if halt is not None:
            self._container.update(
                halt=halt,
                gate=Gate.HALTED,
                gate_why=halt.why,
                gate_by=halt.by,
                gate_since_ms=halt.since_at_ms,
            )
        elif gate is not Gate.HALTED:
            self._container.update(
                gate=gate,
                gate_why=state.get("why"),
                gate_by=state.get("by"),
                gate_since_ms=int(str(state.get("since_at_ms", self._clock.now_ms()))),
            )

    def _journaled_halt(self) -> Halt | None:
        latest = None
        for fact in self._journal.facts("halt"):
            latest = fact
        if latest is None or latest.body.get("phase") != "latched":
            return None
        body = latest.body
        return Halt(
            why=str(body["why"]), by=str(body["by"]), since_at_ms=int(str(body["since_at_ms"]))
        )

    def halt(self, why: str, by: str) -> Halt:
        """Latch: in memory at once, then on the disk, before anything else happens. Idempotent."""
        known = self._container.now.halt
        if known is not None:
            # A breaker repeats itself while its cause lasts; everything else is a new wish to stop.
            self.kills_while_halted += by != "limit" or why.partition(":")[0] not in known.why
            return known
        halt = Halt(why=why, by=by, since_at_ms=self._clock.now_ms())
        self._container.update(
            halt=halt, gate=Gate.HALTED, gate_why=why, gate_by=by, gate_since_ms=halt.since_at_ms
        )
        self._store_halt(halt)
        log_guard.error("halted why=%s by=%s", why, by)
        self._bus.publish(GateChanged(at_ms=halt.since_at_ms, gate=Gate.HALTED, why=why, by=by))
        self._bus.publish(
            AlertRaised(at_ms=halt.since_at_ms, severity="error", kind="halted", text=why)
        )
        return halt

    def kills_heard(self) -> tuple[int, object]:
        """Differs from an earlier value when a kill came since, by whatever road."""
        return self.kills_while_halted, self._data_dir.kill_stamp()

    def _store_halt(self, halt: Halt) -> None:
        """Write the latch to both its places; one of them is enough to find it again."""
        body: dict[str, JsonValue] = {
            "phase": "latched",
            "why": halt.why,
            "by": halt.by,
            "since_at_ms": halt.since_at_ms,
        }
        is_in_file = self._try_disk(lambda: self._data_dir.write_kill(halt))
        is_in_journal = self._try_disk(
            lambda: self._journal.fact("halt", "latch", body, durable=True)
        )
        self.is_latch_durable = is_in_file or is_in_journal

    def _try_disk(self, act: Callable[[], object]) -> bool:
        try:
            act()
        except JournalError as error:
            if self._quiet.admit("disk") is not None:
                log_guard.error("latch or gate not on the disk yet, will retry error=%s", error)
            return False
        return True

    def retry_latch(self) -> None:
        """Write latch and gate again after a disk fault; called while one is not durable."""
        halt = self._container.now.halt
        if halt is not None and not self.is_latch_durable:
            self._store_halt(halt)
        if halt is None and not self.is_gate_durable:
            self.is_gate_durable = self._try_disk(self._store_gate)

    def _store_gate(self) -> None:
        now = self._container.now
        self._data_dir.write_state(
            {
                "gate": now.gate,
                "why": now.gate_why,
                "by": now.gate_by,
                "since_at_ms": now.gate_since_ms,
            }
        )

    def set_gate(self, gate: Gate, why: str | None, by: str) -> None:
        """Move the gate (not to halted: that is `halt`) and keep it on the disk.

        To open it the disk must know first (JournalError); to close it a disk that fails is no
        reason to wait: it is written as soon as the disk allows.
        """
        assert gate is not Gate.HALTED, "the latch is set by halt()"
        now_ms = self._clock.now_ms()
        if gate is Gate.OPEN:
            self._data_dir.write_state({"gate": gate, "why": why, "by": by, "since_at_ms": now_ms})
        self._container.update(gate=gate, gate_why=why, gate_by=by, gate_since_ms=now_ms, halt=None)
        self.is_gate_durable = gate is Gate.OPEN or self._try_disk(self._store_gate)
        log_guard.warning("gate gate=%s why=%s by=%s", gate, why, by)
        self._bus.publish(GateChanged(at_ms=now_ms, gate=gate, why=why or "", by=by))

    def rearm(self, gate: Gate, why: str, by: str) -> None:
        """Clear the latch into `gate`; the caller has checked that the cause is gone.

        Raises JournalError when the disk refuses; what is on it then still halts.
        """
        row: dict[str, JsonValue] = {"gate": gate, "why": why, "by": by}
        self._data_dir.write_state({**row, "since_at_ms": self._clock.now_ms()})
        self._journal.fact(
            "halt", "latch", {"phase": "cleared", "why": why, "by": by}, durable=True
        )
        self._data_dir.remove_kill()
        self.set_gate(gate, why, by)

    # -- degraded -----------------------------------------------------------------------

    def degrade(self, reason: Degraded, clears_when: str, *, markets: Iterable[str] = ()) -> None:
        """Set a reason; `markets` empty covers all. The time it began is kept while it lasts."""
        known = self._degraded.get(reason)
        since_ms = known.since_at_ms if known is not None else self._clock.now_ms()
        row = DegradedReason(
            reason=reason,
            markets=tuple(sorted(markets)),
            since_at_ms=since_ms,
            clears_when=clears_when,
        )
        if known == row:
            return
        self._degraded[reason] = row
        self._tell(row, is_active=True, is_news=known is None)

    def clear(self, reason: Degraded) -> None:
        """The cause is gone."""
        row = self._degraded.pop(reason, None)
        if row is not None:
            self._tell(row, is_active=False, is_news=True)

    def _tell(self, row: DegradedReason, *, is_active: bool, is_news: bool) -> None:
        self._container.update(degraded=tuple(self._degraded.values()))
        if not is_news:
            return
        word = "degraded" if is_active else "recovered"
        log_guard.warning("%s reason=%s markets=%s", word, row.reason, len(row.markets) or "all")
        self._bus.publish(
            DegradedChanged(at_ms=self._clock.now_ms(), reason=row, is_active=is_active)
        )

    def is_degraded(self, reason: Degraded) -> bool:
        """Whether this reason is set for any market."""
        return reason in self._degraded

    # -- the gates before an order ------------------------------------------------------

    def permit(self, market: Market | None, *, proof: Proof, is_fee_known: bool) -> Verdict:
        """May a create or amend leave for this market now? The first gate that is shut answers."""
        if not self._degraded and proof is Proof.PROVEN and self._is_open(market, is_fee_known):
            return ALLOWED
        ticker = market.ticker if market is not None else ""
        refused = self._trader_gate(ticker) or self._market_gate(market, is_fee_known=is_fee_known)
        if refused is None and proof is not Proof.PROVEN:
            refused = refusal(PROOF_REASONS[proof], str(proof), "proven")
        return refused or self._account_gate(ticker) or ALLOWED

    def _is_open(self, market: Market | None, is_fee_known: bool) -> bool:
        """All gates of a trader without degraded reasons in one look, for the order path."""
        now = self._container.now
        return (
            is_fee_known
            and market is not None
            and market.status == "active"
            and market.close_at_ms - self._clock.now_ms() > self._config.close_guard_s * 1000
            and now.state in TRADING_STATES
            and now.halt is None
            and (now.gate is Gate.OPEN or now.gate is Gate.REDUCE_ONLY)
            and now.reconciled_at_ms is not None
            and not self.is_stopping
            and self._config.is_armed
        )

    def _trader_gate(self, ticker: str) -> Verdict | None:
        now = self._container.now
        if self.is_stopping or now.state not in TRADING_STATES:
            return refusal(Reason.NOT_READY, now.state, "ready or acting")
        if not self._config.is_armed:
            return refusal(Reason.NOT_READY, "production without --arm", "armed")
        refused = self._degraded_gate(ticker, _UNREADY)
        if refused is None and now.gate is Gate.PAUSED:
            refused = refusal(Reason.PAUSED, now.gate_why or "paused", "resume first")
        if refused is None and (now.halt is not None or now.gate is Gate.HALTED):
            refused = refusal(Reason.HALTED, now.gate_why or "halted", "re-arm first")
        return refused or self._degraded_gate(ticker, _TROUBLES)

    def _account_gate(self, ticker: str) -> Verdict | None:
        if self._container.now.reconciled_at_ms is None:
            return refusal(Reason.RECONCILE_DUE, "no reconcile yet", "one clean pass")
        return self._degraded_gate(ticker, ((Degraded.RECONCILE, Reason.RECONCILE_DUE),))

    def _degraded_gate(
        self, ticker: str, reasons: tuple[tuple[Degraded, Reason], ...]
    ) -> Verdict | None:
        for degraded, reason in reasons:
            row = self._degraded.get(degraded)
            if row is None:
                continue
            is_per_market = degraded is Degraded.ORDERBOOK and row.markets
            if not is_per_market and (not row.markets or ticker in row.markets):
                return refusal(reason, f"degraded: {degraded}", row.clears_when)
        return None

    def _market_gate(self, market: Market | None, *, is_fee_known: bool) -> Verdict | None:
        if market is None or market.status != "active":
            status = market.status if market is not None else "unknown"
            return refusal(Reason.MARKET_NOT_ACTIVE, status, "active")
        left_ms = market.close_at_ms - self._clock.now_ms()
        if left_ms <= self._config.close_guard_s * 1000:
            guard = f"> {self._config.close_guard_s:g} s"
            return refusal(Reason.NEAR_CLOSE, f"{left_ms / 1000:.0f} s to the close", guard)
        if not is_fee_known:
            return refusal(Reason.FEE_UNKNOWN, "fee formula unknown or wrong", "known")
        return None


# ======================================================================================
# §23b OPERATOR
# Purpose:   What a person may order: kill, pause, resume, re-arm, cancel, reduce, flatten.
# Position:  Uses §18, §19, §22, §23a. Satisfies the Controls of §22; used by §23c for its own acts.
# Principle: Safe is easy, risky is hard; the audit row comes before the effect, the proof after it.
# ======================================================================================

log_operator = logging.getLogger("trader.operator")

FLATTEN_COLLAR_CC: Final = 500
FLATTEN_PAUSE_S: Final = 1.1  # longer than the guard against duplicate orders
FLATTEN_NONCE_S: Final = 30.0
KILL_RETRY_S: Final = 2.0
LOSS_BREAKERS: Final = ("daily_loss", "drawdown")


class ReplayPort(TapePlayer, Protocol):
    """What a tape that is being played can be told; the embedded exchange satisfies it."""

    def replay_command(self, action: str, value: float | None) -> None:
        """Carry out play, pause, speed (`value`: ratio) or settle."""


class Operator:
    """Carries out the controls; every act is journaled and followed to its proven end."""

    def __init__(
        self,
        *,
        clock: Clock,
        supervisor: Supervisor,
        bus: EventBus,
        journal: Journal,
        guard: Guard,
        container: StateContainer,
        execution: ExecutionService,
        trading: TradingClientIntegration | None,
        decisions: TradingDecisionService,
        market_data: OrderbookIntegration,
        config: Config,
        replay: ReplayPort | None,
    ) -> None:
        self._clock, self._supervisor, self._bus = clock, supervisor, bus
        self._journal, self._guard, self._container = journal, guard, container
        self._execution, self._trading, self._decisions = execution, trading, decisions
        self._market_data, self._replay = market_data, replay
        self.config = config
        self._nonces: dict[str, float] = {}
        self._is_clearing = False

    @property
    def environment(self) -> str:
        """The word a person types to confirm."""
        return self.config.environment.value

    @property
    def state_version(self) -> int:
        """Counts changes of gate, latch and degraded reasons."""
        return self._container.now.guard_version

    @property
    def is_halted(self) -> bool:
        """Whether the halt latch is set."""
        return self._container.now.halt is not None

    @property
    def has_replay(self) -> bool:
        """Whether a tape is played here."""
        return self._replay is not None

    def load(self) -> None:
        """Strategies that a person paused stay paused over a restart: the journal knows."""
        for fact in self._journal.facts("control"):
            bench = self._decisions.benches.get(str(fact.body.get("strategy")))
            if bench is not None and fact.body["action"] in ("pause", "resume"):
                bench.is_paused = fact.body["action"] == "pause"

    # -- stopping -----------------------------------------------------------------------

    async def kill(self, ask: ControlAsk) -> ControlAnswer:
        """Latch first, durable before the answer; then everything of ours is cancelled."""
        halt = self.kill_now(ask.reason or "kill switch", ask.by, control_id=ask.control_id)
        remaining = [order.client_order_id for order in self._execution.store.live()]
        extra: dict[str, Any] = {
            "latched_at_ms": halt.since_at_ms,
            "durable": self._guard.is_latch_durable,
            "remaining": remaining,
        }
        return ControlAnswer(extra=extra)

    def kill_now(self, why: str, by: str, *, control_id: str = "") -> Halt:
        """The latch, in this call; the cancels follow in a task that does not give up."""
        halt = self._guard.halt(why, by)
        control_id = control_id or f"halt-{halt.since_at_ms}"
        if not self._is_clearing:
            self._is_clearing = True
            self._supervisor.spawn(self._clear_all(control_id, by, halt.since_at_ms), name="kill")
        return halt

    async def _clear_all(self, control_id: str, by: str, asked_at_ms: int) -> None:
        """Group trigger, batch cancel, verify zero; again until it is so."""
        try:
            report = CancelReport(sent=0, confirmed=0, remaining=())
            while self._trading is not None:
                with contextlib.suppress(ExchangeError, WireError, TimeoutError):
                    await self._trading.trigger_group()
                report = await self._trading.cancel_all()
                self._tell(control_id, "kill", by, asked_at_ms, report)
                if report.is_done:
                    return
                await self._clock.sleep(KILL_RETRY_S)
            self._tell(control_id, "kill", by, asked_at_ms, report)
        finally:
            self._is_clearing = False

    def _tell(
        self, control_id: str, action: str, by: str, asked_at_ms: int, report: CancelReport
    ) -> None:
        done = report.is_done
        text = f"{report.confirmed} of {report.sent} cancels confirmed by the exchange"
        if not report.is_proven:
            text += "; its list could not be read"
        if report.remaining:
            text += f"; still there: {', '.join(report.remaining[:5])}"
        self._bus.publish(
            ControlMoved(
                at_ms=self._clock.now_ms(),
                control_id=control_id,
                action=action,
                by=by,
                phase="confirmed" if done else "sent",
                asked_at_ms=asked_at_ms,
                sent=report.sent,
                confirmed=report.confirmed,
                remaining=len(report.remaining),
                text=text,
            )
        )

    def _audit(self, ask: ControlAsk, *, is_risky: bool = False) -> None:
        """Commit who asked for what, and what was so before, ahead of the effect.

        A disk that fails refuses what is risky; what makes things safer goes on without its row.
        """
        now = self._container.now
        body: dict[str, JsonValue] = {
            "action": ask.action,
            "by": ask.by,
            "where": ask.where,
            "reason": ask.reason,
            "before": str(now.gate),
            "ticker": ask.ticker,
            "strategy": ask.strategy,
        }
        try:
            self._journal.fact("control", ask.control_id, body, durable=True)
        except JournalError as error:
            log_operator.error("control not journaled action=%s error=%s", ask.action, error)
            if is_risky:
                raise ControlRefused(
                    409, "journal_unwritable", f"cannot be recorded: {error}"
                ) from error

    def _done(self, ask: ControlAsk, text: str) -> None:
        self._bus.publish(
            ControlMoved(
                at_ms=self._clock.now_ms(),
                control_id=ask.control_id,
                action=ask.action,
                phase="confirmed",
                by=ask.by,
                asked_at_ms=ask.at_ms,
                text=text,
            )
        )

    async def pause(self, ask: ControlAsk) -> ControlAnswer:
        """No new risk, for one strategy or all; resting orders go unless they shall stay."""
        self._refuse_when_halted()
        bench = self._bench(ask.strategy)
        self._audit(ask)
        if bench is not None:
            bench.is_paused = True
        elif self._container.now.gate is not Gate.PAUSED:
            self._guard.set_gate(Gate.PAUSED, ask.reason or "paused by the operator", ask.by)
        if ask.keep_orders:
            self._done(ask, "no new risk; resting orders stay")
        else:
            self._supervisor.spawn(self._cancel(ask), name=f"control:{ask.control_id}")
        return ControlAnswer()

    async def cancel_all(self, ask: ControlAsk) -> ControlAnswer:
        """Cancel own orders: all, of one market, or one. It does not pause, and says so."""
        self._audit(ask)
        self._supervisor.spawn(self._cancel(ask), name=f"control:{ask.control_id}")
        return ControlAnswer(extra={"note": "cancels only; trading is not paused"})

    async def _cancel(self, ask: ControlAsk) -> None:
        if self._trading is None:
            self._done(ask, "no trading client, nothing of ours rests")
            return
        report = await self._trading.cancel_all(
            ticker=ask.ticker, key=ask.client_order_id, strategy=ask.strategy
        )
        self._tell(ask.control_id, ask.action, ask.by, ask.at_ms, report)

    async def reduce_only(self, ask: ControlAsk) -> ControlAnswer:
        """From now on an order must shrink a position; opening orders are cancelled."""
        self._refuse_when_halted()
        self._audit(ask)
        self._guard.set_gate(Gate.REDUCE_ONLY, ask.reason or "reduce-only by the operator", ask.by)
        self._supervisor.spawn(self._cancel(ask), name=f"control:{ask.control_id}")
        return ControlAnswer()

    # -- going on -----------------------------------------------------------------------

    def _refuse_when_halted(self) -> None:
        if self._container.now.halt is not None:
            raise ControlRefused(409, "halted", "trading is halted; re-arm first")

    def _bench(self, name: str | None) -> Bench | None:
        if name is None:
            return None
        if name not in self._decisions.benches:
            raise ControlRefused(400, "unknown_strategy", f"no strategy {name!r:.60} runs here")
        return self._decisions.benches[name]

    def _need_clean(self, ask: ControlAsk) -> None:
        now = self._container.now
        if ask.state_version is not None and ask.state_version != now.guard_version:
            raise ControlRefused(412, "state_changed", "the state has changed; look again")
        if not now.is_reconciled:
            raise ControlRefused(409, "not_reconciled", "the last reconcile was not clean")
        unknown = len(self._execution.unproven())
        if unknown:
            raise ControlRefused(409, "order_unknown", f"{unknown} orders are unknown")

    async def resume(self, ask: ControlAsk) -> ControlAnswer:
        """Back to open; needs a clean reconcile and no unknown order."""
        self._refuse_when_halted()
        bench = self._bench(ask.strategy)
        self._need_clean(ask)
        self._audit(ask, is_risky=True)
        if bench is not None:
            bench.is_paused, bench.is_on, bench.faults_in_a_row = False, True, 0
        else:
            with self._disk_must_know():
                self._guard.set_gate(Gate.OPEN, None, ask.by)
        self._done(ask, "resumed")
        return ControlAnswer()

    async def rearm(self, ask: ControlAsk) -> ControlAnswer:
        """Clear the halt latch, into reduce-only unless `open` is asked for."""
        halt = self._container.now.halt
        if halt is None:
            raise ControlRefused(409, "not_halted", "nothing to re-arm: trading is not halted")
        self._need_clean(ask)
        is_loss = halt.why.startswith(LOSS_BREAKERS)
        if is_loss and not ask.override:
            self._need_new_day(halt)
        self._audit(ask, is_risky=True)
        kills = self._guard.kills_heard()
        if self._trading is not None and self.config.is_armed:
            try:
                await self._trading.renew_group()
            except (ExchangeError, WireError) as error:
                raise ControlRefused(
                    409, "no_order_group", f"no new order group: {error}"
                ) from error
            self._need_clean(ask)  # the world may have moved while the group was made
        # Nothing waits from here to the cleared latch, so no kill can come in between unseen.
        if self._guard.kills_heard() != kills:
            raise ControlRefused(412, "state_changed", "a kill came meanwhile; look again")
        gate = Gate.OPEN if ask.to == "open" else Gate.REDUCE_ONLY
        with self._disk_must_know():
            self._guard.rearm(gate, ask.reason, ask.by)
        if is_loss and ask.override:
            self._rebase()
        self._done(ask, f"re-armed into {gate}")
        return ControlAnswer()

    def _need_new_day(self, halt: Halt) -> None:
        today = new_york_day(self._clock.now_ms())
        if new_york_day(halt.since_at_ms) == today:
            raise ControlRefused(
                409, "same_day", "after a loss limit not before the next trading day in New York"
            )
        drawdown_ud = self._container.now.drawdown_ud or 0
        if drawdown_ud > self.config.max_drawdown_ud:
            raise ControlRefused(
                409, "cause_remains", f"still {show_dollars(drawdown_ud)} dollars below the peak"
            )

    def _rebase(self) -> None:
        """Count losses from here, or the limit that was overridden would halt again at once."""
        equity_ud, now_ms = self._container.now.equity_ud, self._clock.now_ms()
        if equity_ud is None:
            return
        body: dict[str, JsonValue] = {"equity_ud": equity_ud, "rebased": True}
        self._execution.write_fact("day", new_york_day(now_ms), body)
        self._container.update(day_start_ud=equity_ud, peak_ud=equity_ud)

    @contextlib.contextmanager
    def _disk_must_know(self) -> Iterator[None]:
        """A gate that the disk does not know would be shut again by a restart: refused."""
        try:
            yield
        except JournalError as error:
            raise ControlRefused(409, "disk_refuses", f"cannot be kept: {error}") from error

    # -- flatten ------------------------------------------------------------------------

    async def flatten(self, ask: ControlAsk) -> ControlAnswer:
        """Preview without a nonce; with a fresh one: reduce-only exits within the collar."""
        self._refuse_when_halted()
        now_s = self._clock.real_s()
        self._nonces = {key: until for key, until in self._nonces.items() if until > now_s}
        if ask.nonce is None:
            nonce = self._clock.token_hex(8)
            self._nonces[nonce] = now_s + FLATTEN_NONCE_S
            rows = [self._exit_row(*key) for key in self._held(ask.everything)]
            expires_ms = self._clock.now_ms() + int(FLATTEN_NONCE_S * 1000)
            extra: dict[str, Any] = {"nonce": nonce, "expires_at_ms": expires_ms, "preview": rows}
            return ControlAnswer(phase="preview", extra=extra)
        if self._nonces.pop(ask.nonce, None) is None:
            raise ControlRefused(412, "stale_preview", "the preview is older than 30 s; look again")
        self._audit(ask, is_risky=True)
        self._guard.set_gate(Gate.REDUCE_ONLY, "flatten", ask.by)
        self._supervisor.spawn(self._flatten(ask), name=f"control:{ask.control_id}")
        return ControlAnswer()

    def _held(self, everything: bool) -> list[tuple[str, str, int]]:
        """(strategy, ticker, signed count) to leave; foreign holdings only with `everything`."""
        known = self._decisions.benches
        rows = [
            (name, ticker, position.position_h)
            for (name, ticker), position in self._execution.ledger.by_strategy.items()
            if position.position_h and name and (everything or name in known)
        ]
        if everything:
            rows += self._unattributed()
        return rows

    def _unattributed(self) -> list[tuple[str, str, int]]:
        """What the account holds beyond its strategies: fills of others, and adopted figures."""
        ledger, split = self._execution.ledger, Counter[str]()
        for (name, ticker), position in ledger.by_strategy.items():
            split[ticker] += position.position_h if name else 0
        return [
            ("", ticker, position.position_h - split[ticker])
            for ticker, position in ledger.positions.items()
            if position.position_h != split[ticker]
        ]

    def _exit_want(self, ticker: str, held_h: int) -> Want | None:
        """Buy the other leg, at most FLATTEN_COLLAR_CC beyond the best; None without an offer."""
        book = self._market_data.books.get(ticker)
        market = self._market_data.markets.get(ticker)
        side = Side.NO if held_h > 0 else Side.YES
        best_cc = book.best_ask_cc(side) if book is not None else None
        if best_cc is None or market is None:
            return None
        limit_cc = price_at_most(
            market.grid, side, min(best_cc + FLATTEN_COLLAR_CC, CC_PER_DOLLAR - 1)
        )
        if limit_cc is None:
            return None
        chunk_h = min(self.config.max_order_h, self.config.max_order_ud // limit_cc)
        count_h = min(abs(held_h), max(1, chunk_h))
        return Want(slot="flatten", side=side, price_cc=limit_cc, count_h=count_h, take=True)

    def _exit_row(self, strategy: str, ticker: str, held_h: int) -> dict[str, JsonValue]:
        want = self._exit_want(ticker, held_h)
        book = self._market_data.books.get(ticker)
        best_cc = book.best_ask_cc(want.side) if want is not None and book is not None else None
        return {
            "ticker": ticker,
            "strategy": strategy,
            "count_h": abs(held_h),
            "side": want.side if want else None,
            "worst_price_cc": want.price_cc if want else None,
            "collar_cc": FLATTEN_COLLAR_CC,
            "cost_ud": abs(held_h) * best_cc if best_cc is not None else None,
        }

    async def _flatten(self, ask: ControlAsk) -> None:
        if self._trading is not None:
            await self._trading.cancel_all()
        sent, idle_rounds = 0, 0
        left = self._held(ask.everything)
        while left and idle_rounds < FLATTEN_ROUNDS:
            sent += self._send_exits(left)
            await self._clock.sleep(FLATTEN_PAUSE_S)
            before_h, left = sum(abs(row[2]) for row in left), self._held(ask.everything)
            is_smaller = sum(abs(row[2]) for row in left) < before_h
            idle_rounds = 0 if is_smaller else idle_rounds + 1
        text = "flat" if not left else "; ".join(f"{t} {format_count(h)}" for _, t, h in left)
        self._bus.publish(
            ControlMoved(
                at_ms=self._clock.now_ms(),
                control_id=ask.control_id,
                action="flatten",
                phase="confirmed" if not left else "failed",
                by=ask.by,
                asked_at_ms=ask.at_ms,
                sent=sent,
                remaining=len(left),
                text=f"{text}; the gate is reduce-only",
            )
        )

    def _send_exits(self, held: Sequence[tuple[str, str, int]]) -> int:
        """One chunk for each holding, as large as a single order may be; returns how many left."""
        sent = 0
        for strategy, ticker, held_h in held:
            want = self._exit_want(ticker, held_h)
            if want is not None:
                came = self._execution.converge(
                    ticker=ticker,
                    strategy=strategy,
                    wants=(want,),
                    decision_id="flatten",
                    is_exit=True,
                )
                sent += len(came.order_ids)
        return sent

    async def replay(self, ask: ControlAsk) -> ControlAnswer:
        """Tell the tape player to play, pause, settle or change its speed."""
        if self._replay is None:
            raise ControlRefused(404, "no_tape", "no tape is played here")
        if ask.action not in ("play", "pause", "speed", "settle"):
            raise ControlRefused(409, "not_supported", f"this tape player cannot {ask.action}")
        self._replay.replay_command(ask.action, ask.ratio)
        self._done(ask, f"tape: {ask.action}")
        return ControlAnswer()


# ======================================================================================
# §23c HOUSE
# Purpose:   Build every service once and hand each what it needs.
# Position:  Uses every room above. Built by §23h; §23d to §23g work on what it holds.
# Principle: Only this room knows everyone; it builds and decides nothing.
# ======================================================================================


@dataclass(frozen=True, slots=True, kw_only=True)
class Venue:
    """The exchange this process talks to, and how the embedded one is ended."""

    api_url: str
    ws_url: str
    signer: KalshiSigner
    account_tag: str
    replay: ReplayPort | None = None
    close: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFacts:
    """What is printed and journaled at the start: who runs, with which file and settings."""

    run_id: str
    file_sha256: str
    config_sha256: str
    started_at_ms: int
    origins: Mapping[str, str]


class Crier:
    """Tells people: alerts and lines of the activity, stamped with time and state."""

    def __init__(self, clock: Clock, bus: EventBus, machine: StateMachine) -> None:
        self._clock, self._bus, self._machine = clock, bus, machine

    def alert(self, severity: str, kind: str, text: str, ticker: str = "") -> None:
        """A line for the page and the webhook; kinds are those of OPERATIONS §9."""
        self._bus.publish(
            AlertRaised(
                at_ms=self._clock.now_ms(), severity=severity, kind=kind, text=text, ticker=ticker
            )
        )

    def note(
        self,
        kind: str,
        message: str,
        severity: str = "info",
        metadata: Mapping[str, JsonValue] = EMPTY,
    ) -> None:
        """A line of the activity."""
        self._bus.publish(
            ActivityNoted(
                at_ms=self._clock.now_ms(),
                activity_type=kind,
                message=message,
                severity=severity,
                state=self._machine.state.value,
                metadata=metadata,
            )
        )


class House:
    """Every service of the trader, built in order from the core to the page."""

    def __init__(
        self,
        *,
        config: Config,
        clock: Clock,
        data_dir: DataDir,
        venue: Venue,
        facts: StartFacts,
        strategies: Sequence[Strategy],
        session: aiohttp.ClientSession,
        static: Mapping[str, StaticFile],
        is_virtual: bool,
        on_task_death: Callable[[str, BaseException], None],
    ) -> None:
        self.config, self.clock, self.data_dir = config, clock, data_dir
        self.venue, self.facts, self.is_virtual = venue, facts, is_virtual
        self.supervisor = Supervisor(on_task_death)
        self.bus = EventBus(clock, self.supervisor)
        self.container = StateContainer(clock)
        self.machine = StateMachine(now_s=clock.real_s())
        self.say = Crier(clock, self.bus, self.machine)
        self._build_core(session)
        self._build_services(strategies)
        self._build_people(static)

    def _build_core(self, session: aiohttp.ClientSession) -> None:
        config, clock = self.config, self.clock
        self.journal = Journal(
            self.data_dir.journal_path,
            clock,
            config.environment.value,
            self.venue.account_tag,
            config.journal_sync,
            backups=self.data_dir.path / "backups",
            worker=not self.is_virtual,
        )
        self.guard = Guard(
            clock=clock,
            bus=self.bus,
            journal=self.journal,
            data_dir=self.data_dir,
            container=self.container,
            config=config,
        )
        self.rest = KalshiRest(
            session,
            self.venue.api_url,
            self.venue.signer,
            clock,
            request_timeout_s=config.request_timeout_s,
            rate_share=config.rate_share,
            may_open=lambda: self.container.now.halt is None and not self.guard.is_stopping,
            permits=lambda ticker: self.permit(ticker).is_ok,
            threads=not self.is_virtual,
        )
        self.stream = KalshiStream(
            session=session,
            ws_url=self.venue.ws_url,
            signer=self.venue.signer,
            clock=clock,
            supervisor=self.supervisor,
            bus=self.bus,
            config=config,
        )
        self.selection = MarketSelection()
        self.market_data = OrderbookIntegration(
            stream=self.stream, rest=self.rest, clock=clock, bus=self.bus, config=config
        )
        self.market_data.on_time = self._hear_time
        self.fees = FeeReader(rest=self.rest, config=config)

    def _build_services(self, strategies: Sequence[Strategy]) -> None:
        config, clock, bus = self.config, self.clock, self.bus
        ids = ClientIds(
            prefix=config.order_prefix,
            environment=config.environment.value,
            account=self.venue.account_tag,
            run=self.facts.run_id,
        )
        self.execution = ExecutionService(
            clock=clock,
            supervisor=self.supervisor,
            bus=bus,
            journal=self.journal,
            rest=self.rest if config.trading else None,
            config=config,
            ids=ids,
            quote=self.quote,
            permit=self.permit,
            container=self.container,
        )
        self.trading = (
            TradingClientIntegration(
                clock=clock,
                supervisor=self.supervisor,
                bus=bus,
                rest=self.rest,
                execution=self.execution,
                container=self.container,
                config=config,
            )
            if config.trading
            else None
        )
        self.equity = EquityKeeper(
            clock=clock,
            bus=bus,
            journal=self.journal,
            execution=self.execution,
            market_data=self.market_data,
            container=self.container,
            config=config,
        )
        self.decisions = TradingDecisionService(
            clock=clock,
            bus=bus,
            journal=self.journal,
            market_data=self.market_data,
            execution=self.execution,
            container=self.container,
            strategies=strategies,
            permit=self.permit,
            run_seed=config.sim_seed,
            has_time_limit=not self.is_virtual,
        )
        self.orchestrator = TradingFlowOrchestrator(
            clock=clock,
            bus=bus,
            decisions=self.decisions,
            market_data=self.market_data,
            config=config,
        )
        self.recorder = self._make_recorder()

    def _make_recorder(self) -> Recorder | None:
        folder = self.config.record_dir
        if folder is None:
            return None
        recorder = Recorder(
            folder,
            self.clock,
            max_bytes=self.config.record_max_mb * 1024 * 1024,
            ask_snapshot=self._ask_snapshot,
            threads=not self.is_virtual,
        )
        self.stream.on_public = recorder.record
        return recorder

    def _ask_snapshot(self, ticker: str) -> None:
        self.stream.subscriptions.get_snapshot((ticker,))

    def _build_people(self, static: Mapping[str, StaticFile]) -> None:
        self.health = HealthMonitor(clock=self.clock, bus=self.bus, config=self.config)
        self.hub = WebSocketManager(self.clock, self.bus)
        self.operator = Operator(
            clock=self.clock,
            supervisor=self.supervisor,
            bus=self.bus,
            journal=self.journal,
            guard=self.guard,
            container=self.container,
            execution=self.execution,
            trading=self.trading,
            decisions=self.decisions,
            market_data=self.market_data,
            config=self.config,
            replay=self.venue.replay,
        )
        self.reporter = self._make_reporter()
        self.webhook = Webhook(self.config.alert_url) if self.config.alert_url else None
        if self.webhook is not None:
            self.reporter.alerts.post = self.webhook.post
        self.api = build_api(
            clock=self.clock,
            supervisor=self.supervisor,
            hub=self.hub,
            source=self.reporter,
            controls=self.operator,
            token=self.data_dir.run_token(self.clock),
            static=static,
            extra_hosts=self.config.allowed_hosts if self.config.allow_remote else (),
        )

    def _make_reporter(self) -> StatusReporter:
        services = Services(
            clock=self.clock,
            bus=self.bus,
            config=self.config,
            container=self.container,
            supervisor=self.supervisor,
            health=self.health,
            machine=self.machine,
            run=RunFacts(
                run_id=self.facts.run_id,
                file_sha256=self.facts.file_sha256,
                account=f"…{self.venue.account_tag}",
                origins=self.facts.origins,
            ),
            journal=self.journal,
            rest=self.rest,
            stream=self.stream,
            market_data=self.market_data,
            selection=self.selection,
            execution=self.execution,
            trading=self.trading,
            equity=self.equity,
            decisions=self.decisions,
            orchestrator=self.orchestrator,
            recorder=self.recorder,
            data_dir=self.data_dir,
            replay=self.venue.replay,
        )
        return StatusReporter(services, self.hub)

    def _hear_time(self, at_ms: int) -> None:
        """A fresh frame tells the exchange's time: one more sample of the clock's offset."""
        self.rest.clock_samples.add_ms(at_ms, self.clock.monotonic())

    def quote(self, ticker: str) -> Quote:
        """What §18 must know of a market to price an order."""
        book = self.market_data.books.get(ticker)
        return Quote(
            market=self.market_data.markets.get(ticker),
            bid_cc=book.bid_cc if book is not None else None,
            ask_cc=book.ask_cc if book is not None else None,
            last_cc=self.decisions.last_print_cc(ticker),
            fees=self.fees.of(ticker),
        )

    def permit(self, ticker: str) -> Verdict:
        """May a create or amend leave for this market now? Asked on the order path."""
        is_fee_known = self.fees.of(ticker).is_known and self.execution.is_fee_trusted(ticker)
        return self.guard.permit(
            self.market_data.markets.get(ticker),
            proof=self.market_data.proof(ticker),
            is_fee_known=is_fee_known,
        )


# ======================================================================================
# §23d STATES
# Purpose:   Move the state machine, tell each step, keep the long tasks alive.
# Position:  Uses §10, §11, §23c. Used by §23e to §23h.
# Principle: Every failure leads to ERROR by one door, and each step is journaled before it is told.
# ======================================================================================

log_coordinator = logging.getLogger("trader.coordinator")

RESPAWN_S: Final = 1.0
ACTING_NEWS_S: Final = 1.0  # READY ⇄ ACTING is told at most this often


class States:
    """One writer of the trader's state; owner of the tasks that must never end."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.failed = asyncio.Event()  # ERROR is entered; §23f clears it on its way up
        self._keepers: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        self._acting_told_s = -math.inf

    def fire(self, signal_: Signal, why: str, **metadata: JsonValue) -> bool:
        """Take the step the table allows; False when it allows none."""
        step = self._house.machine.fire(
            signal_,
            why=why,
            now_s=self._house.clock.real_s(),
            at_ms=self._house.clock.now_ms(),
            metadata=metadata,
        )
        if step is None:
            log_coordinator.debug(
                "signal refused signal=%s state=%s", signal_, self._house.machine.state
            )
            return False
        self._bind_state(step, is_news=True)
        return True

    def _bind_state(self, step: Transition, *, is_news: bool) -> None:
        self._house.container.update(
            state=step.to_state, state_since_ms=step.at_ms, state_why=step.why
        )
        if step.to_state is TraderState.READY and step.from_state is not TraderState.ACTING:
            self._house.health.check()  # what the way up found missing is there now
        level = (
            logging.INFO if {step.from_state, step.to_state} != TRADING_STATES else logging.DEBUG
        )
        log_coordinator.log(
            level, "state from=%s to=%s why=%s", step.from_state, step.to_state, step.why
        )
        if not is_news:
            return
        if self._house.journal.is_writable:
            body: dict[str, JsonValue] = {
                "from_state": step.from_state,
                "to_state": step.to_state,
                "why": step.why,
                **step.metadata,
            }
            self._house.execution.write_fact("transition", step.to_state, body)
        self._house.bus.publish(
            StateChanged(
                at_ms=step.at_ms,
                from_state=step.from_state,
                to_state=step.to_state,
                why=step.why,
                metadata=step.metadata,
            )
        )

    def fail(self, why: str) -> None:
        """Go to ERROR; the road back begins in `Climb.live`."""
        if self.fire(Signal.FAILED, why):
            self.failed.set()

    def on_flight(self, event: CommandsInFlight) -> None:
        """READY ⇄ ACTING: whether an order command waits for its answer."""
        signal_ = Signal.ORDERS_SENT if event.count else Signal.ORDERS_DONE
        now_s = self._house.clock.real_s()
        step = self._house.machine.fire(
            signal_,
            why="orders in flight" if event.count else "all answered",
            now_s=now_s,
            at_ms=self._house.clock.now_ms(),
        )
        if step is None:
            return
        is_news = now_s - self._acting_told_s >= ACTING_NEWS_S
        self._bind_state(step, is_news=is_news)
        if is_news:
            self._acting_told_s = now_s

    def on_assertion(self, event: AssertionBroke) -> None:
        """STYLE §8.5: stop new orders, cancel resting ones, go to ERROR, say so."""
        log_coordinator.error("assertion broke where=%s what=%s", event.where, event.what)
        self._house.say.alert("error", "invariant_failed", f"{event.where}: {event.what}")
        self.fail(f"impossible state in {event.where}: {event.what}")

    def check_acting(self) -> None:
        """An order command without an answer for too long is a failure."""
        oldest_s = min(self._house.execution.in_flight.values(), default=None)
        limit_s = STATE_LIMITS_S[TraderState.ACTING]
        if oldest_s is None or limit_s is None:
            return
        if self._house.clock.monotonic() - oldest_s > limit_s * max(1.0, self._house.clock.rate):
            self.fail(f"an order command had no answer for {limit_s:g} s")

    def keep(self, name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that must never end; its death is degraded until it runs again."""
        self._keepers[name] = make
        self._house.supervisor.spawn(make(), name=name)

    def on_task_death(self, name: str, error: BaseException) -> None:
        """Degraded until the task runs again; a broken assertion is more than that."""
        self._house.guard.degrade(Degraded.TASK, f"task {name} runs again")
        self._house.say.alert("error", "task_died", f"{name}: {error!r:.200}")
        if isinstance(error, AssertionError):
            self.on_assertion(
                AssertionBroke(at_ms=self._house.clock.now_ms(), where=name, what=str(error))
            )
        elif name == "live":
            self.fail(f"{name} died: {error!r:.200}")
        self._house.supervisor.spawn(self._respawn(name), name=f"respawn:{name}")

    def is_kept(self, name: str) -> bool:
        """Whether the task of this name was started; it then runs, or is about to run again."""
        return name in self._keepers

    async def _respawn(self, name: str) -> None:
        await asyncio.sleep(RESPAWN_S)
        make = self._keepers.get(name)
        if make is not None and not self._house.guard.is_stopping:
            self._house.supervisor.spawn(make(), name=name)
        self._house.guard.clear(Degraded.TASK)


# ======================================================================================
# §23e TROUBLES
# Purpose:   What is wrong now: each degraded reason is set and cleared here, with its cure.
# Position:  Uses §12, §20, §23a, §23c, §23d. The bus tells it (§23h); §23f asks it on the way up.
# Principle: A trouble has a start and a cure; when the cause is gone the reason clears by itself.
# ======================================================================================

STATUS_POLL_S: Final = 10.0  # also keeps a connection warm for the next order
LOOP_LAG_MAX_S: Final = 1.0


class Troubles:
    """One judge of the degraded reasons; health reports, and here a finding becomes an act."""

    def __init__(self, house: House, states: States) -> None:
        self._house, self._states = house, states
        self._guard, self._trading, self._say = house.guard, house.trading, house.say
        self._owed_pass: float = 0  # a pass up to this number clears no degraded `reconcile`
        self._last_connect_error = ""
        self._add_probes()

    def on_stream_lost(self, event: StreamLost) -> None:
        """No feed: books unproven, and a reconcile is owed."""
        self.judge_books()
        self._owed_pass = math.inf  # no pass made without the stream can clear it
        if self._trading is not None:
            self._guard.degrade(Degraded.RECONCILE, "a clean reconcile after the reconnect")
        self._say.note("connection", f"stream lost: {event.why}", "warning")

    def on_stream_restored(self, event: StreamRestored) -> None:
        """The feed is back; what happened meanwhile is asked for."""
        self.judge_books()
        self._say.note("connection", f"stream up, connection {event.connects}", "success")
        self.owe_reconcile("the stream is back")

    def owe_reconcile(self, why: str) -> None:
        """Nothing new leaves before a clean pass that begins after this moment."""
        if self._trading is not None:
            self._owed_pass = self._trading.generation
            self._guard.degrade(Degraded.RECONCILE, f"a clean reconcile: {why}")
            self._trading.ask()

    def judge_books(self) -> None:
        """Degraded `orderbook`: all markets without a feed, else those without a proven book."""
        books = self._house.market_data.books
        open_tickers = [
            t for t, m in self._house.market_data.markets.items() if m.status == "active"
        ]
        if not self._house.stream.is_ready:
            self._guard.degrade(Degraded.ORDERBOOK, "the feed is back and the books are proven")
            return
        bad = [t for t in open_tickers if t in books and books[t].proof is not Proof.PROVEN]
        if bad:
            self._guard.degrade(Degraded.ORDERBOOK, "their books are proven again", markets=bad)
        else:
            self._guard.clear(Degraded.ORDERBOOK)

    def on_reconciled(self, event: Reconciled) -> None:
        """Only a clean pass that began after the trouble clears it."""
        if event.is_clean and event.generation > self._owed_pass:
            self._guard.clear(Degraded.RECONCILE)
        elif not event.is_clean:
            self._guard.degrade(Degraded.RECONCILE, "the next clean reconcile")
        text = f"reconciled: {event.orders} orders, {event.positions} positions, " + (
            "difference 0"
            if event.is_clean
            else f"difference {'; '.join(event.differences) or 'cash'}"
        )
        severity = "success" if event.is_clean else "error"
        self._say.note("sync", text, severity, {"duration_ms": event.duration_ms})

    def on_unknown(self, event: UnknownOrdersChanged) -> None:
        """Markets with an order of unknown outcome."""
        if event.count:
            self._guard.degrade(
                Degraded.UNKNOWN_ORDER, "their outcome is proven", markets=event.markets
            )
        else:
            self._guard.clear(Degraded.UNKNOWN_ORDER)

    def on_order(self, event: OrderChanged) -> None:
        """A refusal may be the first news of a pause."""
        if event.order.status is OrderStatus.REJECTED and "paused" in event.why:
            self._guard.degrade(Degraded.PAUSE, "the exchange trades again")

    async def poll_exchange(self) -> None:
        """Pauses come without an event; each answer is also a sample of the exchange's clock."""
        while True:
            try:
                exchange_active, trading_active = await self._house.rest.exchange_status()
                was_paused = self._guard.is_degraded(Degraded.PAUSE)
                if exchange_active and trading_active:
                    if was_paused:
                        self.owe_reconcile("the pause is over")
                    self._guard.clear(Degraded.PAUSE)
                else:
                    self._guard.degrade(Degraded.PAUSE, "the exchange trades again")
                self.judge_clock()
            except (ExchangeError, WireError) as error:
                log_coordinator.info("exchange status unknown error=%s", error)
            is_paused = self._guard.is_degraded(Degraded.PAUSE)
            await self._house.clock.sleep(5.0 if is_paused else STATUS_POLL_S)

    def judge_clock(self) -> None:
        """Correct our clock by the samples so far, and say when it is far off."""
        offset_s = self._house.rest.apply_clock()
        if offset_s is None:
            return
        if abs(offset_s) > self._house.config.clock_skew_max_s:
            self._guard.degrade(
                Degraded.CLOCK, f"offset below {self._house.config.clock_skew_max_s:g} s"
            )
        else:
            self._guard.clear(Degraded.CLOCK)
        if abs(offset_s) > 1.0:
            self._say.alert("warning", "clock_skew", f"our clock is off by {offset_s:+.1f} s")

    def say_connect_error(self, text: str) -> None:
        """Each new reason why the trading client does not come, once."""
        if text != self._last_connect_error:
            self._last_connect_error = text
            if self._house.rest.is_key_refused:
                cure = "compare KALSHI_API_KEY_ID with the key file, the environment and the clock"
                self._say.alert(
                    "error", "key_refused", f"the exchange refuses the key ({text}); {cure}"
                )
            else:
                self._say.alert("error", "degraded", f"trading client: {text}")

    def act_on_health(self) -> None:
        """The only place where a finding becomes an act."""
        sick = {finding.name: finding.why or "" for finding in self._house.health.sick}
        pairs = (
            (Degraded.JOURNAL, "journal", "the journal can be written"),
            (Degraded.STRATEGY, "trading_service", "the strategy is resumed"),
            (Degraded.RECORDER, "recorder", "the recorder keeps up"),
            (Degraded.ALERTS, "alerts", "the webhook answers"),
        )
        for reason, name, cure in pairs:
            if name in sick:
                self._guard.degrade(reason, cure)
            else:
                self._guard.clear(reason)
        if self._house.health.worst_lag_s > LOOP_LAG_MAX_S:
            self._guard.degrade(Degraded.LOOP, f"ten seconds below {LOOP_LAG_MAX_S:g} s")
        else:
            self._guard.clear(Degraded.LOOP)
        is_lost = "trading_client" in sick and self._house.machine.has_been_ready
        if is_lost:
            self._guard.degrade(Degraded.TRADING, "the trading client answers")
        elif (
            self._trading is not None
            and self._trading.is_connected
            and self._house.container.now.is_reconciled
        ):
            self._guard.clear(Degraded.TRADING)

    def _add_probes(self) -> None:
        def unless(is_ok: bool, why: str) -> str | None:
            return None if is_ok else why

        for name, ask, is_critical in (
            (
                "state_machine",
                lambda: unless(self._house.machine.state is not TraderState.ERROR, "state error"),
                True,
            ),
            ("event_bus", lambda: None, True),
            (
                "websocket_manager",
                lambda: unless("hub" in self._house.supervisor.names, "task ended"),
                True,
            ),
            ("trading_service", self._probe_decisions, False),
            ("trading_orchestrator", self._probe_orchestrator, True),
            (
                "event_loop",
                lambda: unless(
                    self._house.health.worst_lag_s < LAG_CRITICAL_S,
                    f"lag {self._house.health.worst_lag_s:.1f} s",
                ),
                True,
            ),
            ("orderbook_integration", self._probe_books, False),
            ("trading_client", self._probe_client, False),
            (
                "clock",
                lambda: unless(not self._guard.is_degraded(Degraded.CLOCK), "skewed"),
                False,
            ),
            (
                "journal",
                lambda: unless(
                    self._house.journal.is_writable or self._house.journal.probe(),
                    self._house.journal.last_error or "not writable",
                ),
                False,
            ),
            (
                "recorder",
                lambda: unless(
                    self._house.recorder is None or self._house.recorder.is_healthy, "behind"
                ),
                False,
            ),
            (
                "alerts",
                lambda: unless(self._house.reporter.alerts.is_healthy, "webhook does not answer"),
                False,
            ),
        ):
            self._house.health.add(Probe(name=name, ask=ask, is_critical=is_critical))

    def _probe_decisions(self) -> str | None:
        off = [name for name, bench in self._house.decisions.benches.items() if not bench.is_on]
        return f"switched off: {', '.join(off)}" if off else None

    def _probe_orchestrator(self) -> str | None:
        late_s = self._house.clock.real_s() - self._house.orchestrator.beat_s
        is_running = self._states.is_kept("orchestrator")
        return f"no cycle for {late_s:.1f} s" if is_running and late_s > 5.0 else None

    def _probe_books(self) -> str | None:
        if not self._house.stream.is_ready:
            return self._house.stream.last_error or "no feed"
        rows = [r for r in self._house.container.now.degraded if r.reason is Degraded.ORDERBOOK]
        return f"{len(rows[0].markets)} books not proven" if rows else None

    def _probe_client(self) -> str | None:
        if self._trading is None:
            return None
        if self._house.rest.is_key_refused:
            return f"key refused: {self._house.rest.auth_error}"
        return (
            None if self._trading.is_connected and self._house.rest.is_healthy else "not connected"
        )


# ======================================================================================
# §23f CLIMB
# Purpose:   The road from STARTUP to READY, and back to it from ERROR.
# Position:  Uses §17, §18, §23c to §23e. Its one task, `live`, is started by §23h.
# Principle: Every failure leads back to READY by the same road, each step within its limit.
# ======================================================================================

BOOKS_WAIT_S: Final = 30.0  # then the trader goes on without books, degraded
CONNECT_RETRY_S: Final = 1.0


class Climb:
    """Walks the states upwards; never gives up, save for a mistake of the operator."""

    def __init__(
        self, house: House, states: States, troubles: Troubles, give_up: Callable[[str], None]
    ) -> None:
        self._house, self._states, self._troubles = house, states, troubles
        self._guard, self._trading, self._say = house.guard, house.trading, house.say
        self._give_up = give_up
        self._is_begun = False  # initializing is done: errors lead back to the books only
        # The start's garbage is gone; a simulation shares its process.
        self._is_settled = house.is_virtual

    async def live(self) -> None:
        """Climb, wait for a failure, go back to the start of the road; for ever."""
        backoff = Backoff(self._house.clock)
        while await self._stay(backoff):
            if self._trading is not None and self._house.execution.store.live():
                await self._trading.cancel_all()
            await self._house.clock.sleep(backoff.next_s())
            self._states.fire(Signal.RECOVER if self._is_begun else Signal.RESTART, "trying again")

    async def _stay(self, backoff: Backoff) -> bool:
        """Climb to READY and stay until something fails; False when trying again cannot help."""
        if self._house.machine.state is TraderState.ERROR:  # the last climb died of a bug
            return True
        self._states.failed.clear()
        try:
            await self._climb()
            backoff.worked()
            await self._states.failed.wait()
        except (ExchangeError, WireError, JournalError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                error = TimeoutError(f"{self._house.machine.state} ran out of time")
            self._states.fail(str(error) or repr(error))
        except ConfigError as error:
            log_coordinator.error("cannot go on: %s", error)
            print(f"error: {error}", file=sys.stderr)
            self._give_up(str(error))
            return False
        return True

    async def _climb(self) -> None:
        """From the present state to READY, each step within its limit."""
        while self._house.machine.state not in TRADING_STATES:
            state = self._house.machine.state
            async with asyncio.timeout(STATE_LIMITS_S[state]):
                match state:
                    case TraderState.INITIALIZING:
                        self._initialize()
                    case TraderState.ORDERBOOK_CONNECT:
                        await self._connect_books()
                    case TraderState.TRADING_CLIENT_CONNECT:
                        await self._or_late(self._connect_client, Signal.CLIENT_READY)
                    case TraderState.KALSHI_DATA_SYNC:
                        await self._or_late(self._first_sync, Signal.SYNCED)
                    case _:
                        return

    def _initialize(self) -> None:
        """Journal opened and replayed, latch and gate read, people's numbers restored."""
        if not self._states.is_kept("journal"):
            self._house.journal.open()
            self._states.keep("journal", self._house.journal.run)
        body: dict[str, JsonValue] = {
            "version": VERSION,
            "environment": self._house.config.environment.value,
            "file_sha256": self._house.facts.file_sha256,
            "config_sha256": self._house.facts.config_sha256,
        }
        self._house.execution.replay()
        self._house.journal.fact("run", self._house.facts.run_id, body, durable=True)
        self._guard.load()
        self._house.execution.tell_unknown()
        self._house.equity.load()
        self._house.decisions.load()
        self._house.operator.load()
        self._house.reporter.load()
        if self._house.container.now.halt is not None:
            self._say.note(
                "control", f"still halted: {self._house.container.now.halt.why}", "error"
            )
        self._is_begun = True
        self._states.fire(
            Signal.INITIALIZED, "journal replayed", facts=self._house.journal.last_seq
        )

    async def _connect_books(self) -> None:
        if not self._house.market_data.books:
            await self._choose_markets(is_first=True)
        if not self._states.is_kept("stream"):
            self._troubles.judge_clock()  # the handshake's signature needs the exchange's time
            self._states.keep("stream", self._house.stream.run)
            self._states.keep("market_data", self._house.market_data.run)
            self._states.keep("book_checks", self._house.market_data.run_checks)
            self._states.keep("fees", self._house.fees.run)
            self._states.keep("discovery", self._rediscover)
            self._states.keep("orchestrator", self._house.orchestrator.run)
            self._states.keep("money", self._count_money)
            self._states.keep("exchange_status", self._troubles.poll_exchange)
            self._states.keep("health", self._house.health.run)
        deadline_s = self._house.clock.real_s() + BOOKS_WAIT_S
        while self._house.market_data.proven < len(self._house.market_data.books):
            if self._house.clock.real_s() >= deadline_s:
                break
            await asyncio.sleep(0.02)
        proven, total = self._house.market_data.proven, len(self._house.market_data.books)
        self._troubles.judge_books()
        if not self._is_settled:
            self._is_settled = True
            settle_memory()
        why = f"{proven} of {total} books proven"
        self._states.fire(
            Signal.BOOKS_READY if self._trading is not None else Signal.WATCH_ONLY, why
        )

    async def _choose_markets(self, *, is_first: bool = False) -> None:
        """One scan; at the first start repeated until one succeeds or the state's time is up."""
        while True:
            try:
                found = await self._house.selection.select(
                    self._house.rest,
                    self._house.config,
                    self._house.clock.now_ms(),
                    self._kept_markets(),
                )
            except (ExchangeError, WireError, TimeoutError) as error:
                self._say.note("operation", f"discovery failed: {error}", "warning")
                if not is_first:
                    return
                await asyncio.sleep(CONNECT_RETRY_S)
                continue
            if found.unknown and is_first:
                raise ConfigError(f"tickers: the exchange does not know {', '.join(found.unknown)}")
            self._house.market_data.follow(found.followed)
            self._say.note("operation", found.funnel)
            return

    def _kept_markets(self) -> set[str]:
        held = {t for t, p in self._house.execution.ledger.positions.items() if p.position_h}
        return held | {order.ticker for order in self._house.execution.store.live()}

    async def _rediscover(self) -> None:
        while True:
            await self._house.clock.sleep(self._house.config.discovery_refresh_s)
            if self._house.config.mode == "discovery":
                await self._choose_markets()

    async def _or_late(self, act: Callable[[], Awaitable[None]], then: Signal) -> None:
        """Do it, again until it works; READY without a trading client when its time runs out."""
        deadline_s = (
            self._house.clock.real_s() + (STATE_LIMITS_S[self._house.machine.state] or 0.0) - 1.0
        )
        while True:
            try:
                await act()
            except (ExchangeError, WireError) as error:
                self._troubles.say_connect_error(str(error))
                self._guard.degrade(Degraded.TRADING, "the trading client answers")
                if self._house.clock.real_s() >= deadline_s:
                    self._house.supervisor.spawn(self._catch_up(), name="catch_up")
                    self._states.fire(Signal.CLIENT_LATE, f"no trading client: {error}")
                    return
                await asyncio.sleep(CONNECT_RETRY_S)
                continue
            self._guard.clear(Degraded.TRADING)
            self._states.fire(then, "ok")
            return

    async def _catch_up(self) -> None:
        """The trading client did not come in time: go on trying, degraded, until it does."""
        while True:
            try:
                await self._connect_client()
                await self._first_sync()
            except (ExchangeError, WireError) as error:
                self._troubles.say_connect_error(str(error))
                await self._house.clock.sleep(CONNECT_RETRY_S)
                continue
            self._guard.clear(Degraded.TRADING)
            return

    async def _connect_client(self) -> None:
        assert self._trading is not None, "no trading client to connect"
        await self._trading.connect()

    async def _first_sync(self) -> None:
        """Unknown outcomes of the last run asked about, then a clean pass; no READY before it."""
        assert self._trading is not None, "no trading client to sync"
        await self._house.fees.learn()
        result = await self._trading.reconcile()
        while result is None or not result.is_clean:
            await asyncio.sleep(CONNECT_RETRY_S)
            result = await self._trading.reconcile()
        self._house.equity.tick()
        if not self._states.is_kept("reconcile"):
            self._states.keep("reconcile", self._trading.run)

    async def _count_money(self) -> None:
        while True:
            self._house.equity.tick()
            await asyncio.sleep(1.0)


# ======================================================================================
# §23g TAPE LABELS
# Purpose:   Keep event.json beside each recorded tape: what the market is, and how it ended.
# Position:  Uses §14e, §15e, §17. Its one task is started by §23h where a recorder runs.
# Principle: A tape without its definition cannot be played; it is asked for until it is there.
# ======================================================================================

LABEL_TICK_S: Final = 1.0
LABEL_RETRY_S: Final = 30.0


class TapeLabels:
    """Writes the definition of followed markets, and once more after their settlement."""

    def __init__(self, house: House, recorder: Recorder) -> None:
        self._house, self._recorder = house, recorder
        self._wanted: dict[str, tuple[str, float]] = {}  # ticker → event, not before (real s)
        for market in house.market_data.markets.values():
            self.want(market)

    def want(self, market: Market) -> None:
        """Ask for this market's event soon."""
        self._wanted[market.ticker] = (market.event_ticker, 0.0)

    async def run(self) -> None:
        """Fetch what is wanted, one after the other, until cancelled."""
        while True:
            now_s = self._house.clock.real_s()
            for ticker, (event, due_s) in list(self._wanted.items()):
                if due_s <= now_s:
                    await self._fetch(ticker, event, now_s)
            await asyncio.sleep(LABEL_TICK_S)

    async def _fetch(self, ticker: str, event: str, now_s: float) -> None:
        try:
            url, answer = await self._house.rest.event_raw(event)
        except (ExchangeError, WireError) as error:
            log_coordinator.info("tape without its event yet ticker=%s error=%s", ticker, error)
            self._wanted[ticker] = (event, now_s + LABEL_RETRY_S)
            return
        self._recorder.note_event(ticker, status=200, url=url, response=answer)
        del self._wanted[ticker]


# ======================================================================================
# §23h COORDINATOR
# Purpose:   Start the house, wire it, watch it, end it.
# Position:  Uses §23a to §23g. Started by §24; nobody calls it from below.
# Principle: At the end own orders are proven gone, or the exit code says that they may not be.
# ======================================================================================

GROUP_WINDOW_S: Final = 15.0  # the exchange's fill limiter looks back over so long
SHUTDOWN_MARGIN_S: Final = 2.0  # kept of STOP_LIMIT_S for the journal and the sockets


class Coordinator:
    """The trader as a whole. `run()` returns the exit code."""

    def __init__(
        self,
        *,
        config: Config,
        clock: Clock,
        data_dir: DataDir,
        venue: Venue,
        facts: StartFacts,
        strategies: Sequence[Strategy],
        session: aiohttp.ClientSession,
        static: Mapping[str, StaticFile],
        is_virtual: bool = False,
    ) -> None:
        self.house = House(
            config=config,
            clock=clock,
            data_dir=data_dir,
            venue=venue,
            facts=facts,
            strategies=strategies,
            session=session,
            static=static,
            is_virtual=is_virtual,
            on_task_death=lambda name, error: self._states.on_task_death(name, error),
        )
        self._states = States(self.house)
        self._troubles = Troubles(self.house, self._states)
        self._climb = Climb(
            self.house, self._states, self._troubles, lambda why: self.stop(why, code=2)
        )
        recorder = self.house.recorder
        self._labels = TapeLabels(self.house, recorder) if recorder is not None else None
        self._stop_why: str | None = None
        self._stop_asked = asyncio.Event()
        self._exit_code: int | None = None
        self._listen()

    def _listen(self) -> None:
        bus, stream, execution = self.house.bus, self.house.stream, self.house.execution
        stream.handle_decoded("user_order", decode_order, execution.on_report)
        stream.handle_decoded("fill", decode_fill, execution.on_fill)
        stream.handle_decoded("market_position", decode_position, self._on_position)
        stream.handle("order_group_updates", self._on_group)
        execution.on_group_closed = self._on_group_closed
        if self.house.trading is not None:
            for channel in PRIVATE_CHANNELS:
                stream.want(channel, None)
            stream.on_private_lost = lambda _: self._troubles.owe_reconcile(
                "frames of our own orders were lost"
            )
        bus.subscribe(StreamLost, self._troubles.on_stream_lost)
        bus.subscribe(StreamRestored, self._troubles.on_stream_restored)
        bus.subscribe(BookProofChanged, lambda _: self._troubles.judge_books())
        bus.subscribe(MarketsChanged, self._on_markets)
        bus.subscribe(MarketChanged, self._on_market)
        bus.subscribe(Reconciled, self._troubles.on_reconciled)
        bus.subscribe(UnknownOrdersChanged, self._troubles.on_unknown)
        bus.subscribe(CommandsInFlight, self._states.on_flight)
        bus.subscribe(BreakerTripped, self._on_breaker)
        bus.subscribe(AssertionBroke, self._states.on_assertion)
        bus.subscribe(HealthReported, lambda _: self._troubles.act_on_health())
        bus.subscribe(OrderChanged, self._troubles.on_order)

    def _on_position(self, report: PositionReport) -> None:
        """The exchange's own sum after a fill; a reconcile follows when it differs from ours."""
        known_h = self.house.execution.ledger.position_h(report.ticker)
        if known_h != report.position_h and self.house.trading is not None:
            self.house.trading.ask()

    def _on_group(self, frame: Json) -> None:
        msg = frame["msg"]
        is_ours = msg.get("order_group_id") == self.house.execution.group_id
        if msg.get("event_type") == "triggered" and is_ours:
            self.house.execution.close_group()

    def _on_group_closed(self) -> None:
        """The fill limiter cancelled our orders: look what is left, then go on in a new group."""
        if self.house.trading is None or self.house.container.now.halt is not None:
            return
        self.house.say.alert(
            "warning", "limit_near", "the exchange's fill limiter cancelled our orders"
        )
        self.house.trading.ask()
        self.house.supervisor.spawn(self._renew_group(), name="renew_group")

    async def _renew_group(self) -> None:
        """A new group once the rolling window of the old one has passed; again until it works."""
        assert self.house.trading is not None, "a group without a trading client"
        await self.house.clock.sleep(GROUP_WINDOW_S)
        while self.house.container.now.halt is None and not self.house.execution.is_group_open:
            try:
                await self.house.trading.renew_group()
            except (ExchangeError, WireError) as error:
                log_coordinator.warning("no new order group yet error=%s", error)
                await self.house.clock.sleep(CONNECT_RETRY_S)

    def _on_markets(self, event: MarketsChanged) -> None:
        known = set(self.house.container.now.markets)
        gone, fresh = known - set(event.tickers), set(event.tickers) - known
        if self._labels is not None:
            for ticker in sorted(fresh):
                self._labels.want(self.house.market_data.markets[ticker])
        self.house.container.update(markets=event.tickers)
        for ticker in gone:
            self.house.decisions.forget(ticker)
        self.house.fees.want(self.house.market_data.markets.values())

    def _on_market(self, event: MarketChanged) -> None:
        market = event.market
        if market.status == "finalized" and market.settlement_cc is not None:
            self.house.execution.on_settled(market.ticker, market.result, market.settlement_cc)
            if self._labels is not None:
                self._labels.want(market)
        if event.what == "fees":
            self.house.fees.forget(market.ticker)
        self._troubles.judge_books()

    def _on_breaker(self, event: BreakerTripped) -> None:
        self.house.operator.kill_now(f"{event.kind}: {event.text}", "limit")
        if self.house.config.exit_on_halt:
            self.stop("halted", code=5 if event.kind == "position_difference" else 4)

    async def run(self) -> int:
        """Serve, climb to READY, stay there until asked to stop; returns the exit code."""
        port = await self.house.api.start(self.house.config.host, self.house.config.port)
        self.house.data_dir.note_lock(self._lock_facts(port))
        self._states.keep("loop_watch", self.house.health.watch_loop)
        self._states.keep("hub", self.house.hub.run)
        self.house.reporter.begin()
        self._states.keep("status", self.house.reporter.run)
        self._states.keep("status:books", self.house.reporter.run_books)
        self._states.keep("status:queues", self.house.reporter.run_queues)
        if self.house.recorder is not None:
            self._states.keep("recorder", self.house.recorder.run)
        if self._labels is not None:
            self._states.keep("tape_labels", self._labels.run)
        self._states.keep("watch", self._watch)
        self._states.fire(Signal.BEGIN, f"serving on port {port}")
        self._states.keep("live", self._climb.live)
        await self._stop_asked.wait()
        return await self._shut_down()

    def _lock_facts(self, port: int) -> dict[str, JsonValue]:
        return {
            "pid": os.getpid(),
            "host": self.house.config.host,
            "port": port,
            "run_id": self.house.facts.run_id,
            "started_at_ms": self.house.facts.started_at_ms,
            "file_sha256": self.house.facts.file_sha256,
        }

    async def _watch(self) -> None:
        """Twice a second: KILL file, latch on disk, late commands, --duration-s."""
        begun_s = self.house.clock.real_s()
        while True:
            await asyncio.sleep(KILL_FILE_POLL_S)
            is_free = self.house.container.now.halt is None
            if is_free and self.house.data_dir.read_kill() is not None:
                self.house.operator.kill_now("kill file", "file")
            self.house.guard.retry_latch()
            self.house.execution.flush_facts()
            self._states.check_acting()
            if self.house.trading is not None and self.house.trading.failures_in_row > 1:
                self.house.guard.degrade(Degraded.RECONCILE, "a reconcile that can be finished")
            limit_s = self.house.config.duration_s
            if limit_s is not None and self.house.clock.real_s() - begun_s >= limit_s:
                self.stop(f"--duration-s {limit_s:g} is over")

    def reload(self, config: Config) -> None:
        """Take over the settings marked live; name those that wait for a restart."""
        changed = [
            s
            for s in SETTINGS
            if s.kind is not Kind.SECRET
            and getattr(config, s.field) != getattr(self.house.config, s.field)
        ]
        live = [s.name for s in changed if s.is_live]
        self.house.config = replace(
            self.house.config, **{s.field: getattr(config, s.field) for s in SETTINGS if s.is_live}
        )
        self.house.execution.config = self.house.reporter.services.config = self.house.config
        self.house.reporter.alerts.config = self.house.config
        self.house.execution.limits = RiskLimits.of(self.house.config)
        self.house.orchestrator.config = self.house.operator.config = self.house.config
        text = f"settings reloaded: {', '.join(live) or 'nothing new'}"
        waiting = [s.name for s in changed if not s.is_live]
        if waiting:
            text += f"; waiting for a restart: {', '.join(waiting)}"
        log_coordinator.info("%s", text)
        self.house.say.note("control", text, "info")

    def replace_signer(self, signer: KalshiSigner) -> None:
        """Use another key from now on; open orders keep their identity."""
        self.house.rest.replace_signer(signer)
        self.house.stream.replace_signer(signer)
        self.house.say.note("control", "key replaced", "info")

    def stop(self, why: str, *, code: int | None = None) -> None:
        """Ask for a clean end; the first reason and code count."""
        if self._stop_why is None:
            self._stop_why, self._exit_code = why, code
            self._stop_asked.set()

    async def _shut_down(self) -> int:
        """Strategies stop, own orders go and are proven gone, journal synced, sockets closed."""
        self.house.guard.is_stopping = True
        log_coordinator.info("stopping why=%s", self._stop_why)
        self._states.fire(Signal.STOP, self._stop_why or "asked")
        left = CancelReport(sent=0, confirmed=0, remaining=())
        # An end with a code of its own before anything was sent (a mistake of the operator) asks
        # nobody; every other end knows what rests, or says that it does not.
        if self.house.trading is not None and (
            self._exit_code is None or self.house.execution.store.live()
        ):
            left = await self.house.trading.leave(limit_s=STOP_LIMIT_S - SHUTDOWN_MARGIN_S)
        remaining = tuple(self.house.execution.store.live())
        is_done = left.is_done and not remaining
        code = self._exit_code or 0 if is_done else 7
        await self._close()
        log_coordinator.info("stopped code=%s", code)
        if not is_done:
            rows = "; ".join(map(_leftover, remaining)) or "the exchange could not be asked"
            print(f"own orders may remain: {rows}", file=sys.stderr)
        return code

    async def _close(self) -> None:
        await self.house.supervisor.stop(timeout_s=1.0)
        await self.house.api.stop()
        if self.house.webhook is not None:
            await self.house.webhook.close()
        if self.house.recorder is not None:
            self.house.recorder.close()
        self.house.rest.close()
        if self.house.venue.close is not None:
            await self.house.venue.close()
        self.house.execution.flush_facts()
        if self.house.journal.is_writable:
            self.house.journal.flush()
            self.house.journal.sync()
        self.house.journal.close()


def _leftover(order: Order) -> str:
    """An order that may outlive the process, and until when."""
    ms = order.expires_at_ms
    until = (
        "never expires"
        if ms is None
        else (f"expires {datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC")
    )
    return f"{order.client_order_id} {order.ticker} {until}"


# ======================================================================================
# §24a STRATEGY FILES
# Purpose:   Turn --strategy, --param and --policy into strategies.
# Position:  Uses §01, §09. The command line (§24) calls `load_strategies` before any connection.
# Principle: The only lines that read strategy and policy files; each mistake is one clear sentence.
# ======================================================================================


def load_strategies(
    specs: Sequence[str],
    params: Mapping[str, JsonValue],
    policy_path: Path | None,
    *,
    allow_experimental: bool,
    is_production: bool,
    exchange_sha256: str | None = None,
) -> tuple[Strategy, ...]:
    """Build every strategy named: a shipped one by name, or `file.py:Class`.

    With several, a parameter goes to each that has one of its name. `exchange_sha256` is the
    digest of the embedded exchange's file, compared with the policy's; None skips that. Raises
    ConfigError, one clear sentence, for every mistake of the operator or of a file.
    """
    classes = [_strategy_class(spec) for spec in specs]
    names = [cls.name for cls in classes]
    for name, count in Counter(names).items():
        if count > 1:
            raise ConfigError(f"--strategy {name} is named twice; each may run once")
    known = [{f.name for f in dataclasses.fields(cls.Params) if f.init} for cls in classes]
    if len(classes) > 1:
        strange = [name for name in params if not any(name in own for own in known)]
        if strange:
            raise ConfigError(f"--param {strange[0]}: none of {', '.join(names)} has it")
    made = []
    for cls, own in zip(classes, known, strict=True):
        mine = params if len(classes) == 1 else {n: params[n] for n in params if n in own}
        policy = None
        if cls.name == RlPolicy.name:
            policy = _permitted_policy(
                policy_path,
                allow_experimental=allow_experimental,
                is_production=is_production,
                exchange_sha256=exchange_sha256,
            )
        made.append(make_strategy(cls, mine, policy))
    return tuple(made)


def load_strategy(
    spec: str,
    params: Mapping[str, JsonValue],
    policy_path: Path | None,
    *,
    allow_experimental: bool,
    is_production: bool,
    exchange_sha256: str | None = None,
) -> Strategy:
    """`load_strategies` for exactly one."""
    return load_strategies(
        [spec],
        params,
        policy_path,
        allow_experimental=allow_experimental,
        is_production=is_production,
        exchange_sha256=exchange_sha256,
    )[0]


def _strategy_class(spec: str) -> type[Strategy]:
    if ":" in spec or "/" in spec or spec.endswith(".py"):
        return _user_class(spec)
    found = STRATEGIES.get(spec)
    if found is not None:
        return found
    near = difflib.get_close_matches(spec, STRATEGIES, n=1)
    hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(STRATEGIES)}"
    raise ConfigError(f"--strategy {spec!r:.60}: no such strategy; {hint}, or file.py:Class")


def _permitted_policy(
    path: Path | None,
    *,
    allow_experimental: bool,
    is_production: bool,
    exchange_sha256: str | None,
) -> Policy | None:
    """The policy of `rl`; None when no file is named, and then it wants nothing."""
    if is_production and not allow_experimental:
        raise ConfigError("--strategy rl is experimental; production needs --allow-experimental")
    if path is None:
        return None
    policy = _read_policy(path)
    is_same = exchange_sha256 is None or exchange_sha256 == policy.exchange_sha256
    if not is_same and not allow_experimental:
        raise ConfigError(
            f"--policy {path}: trained against another version of the exchange; "
            "train it again or add --allow-experimental"
        )
    return policy


def _read_policy(path: Path) -> Policy:
    try:
        if not path.is_file():
            raise ConfigError(f"--policy {path}: no such file; train one or leave --policy away")
        with path.open("rb") as file:
            data = file.read(POLICY_MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"--policy {path}: cannot be read: {exc!s:.120}") from exc
    try:
        return parse_policy(data)
    except ConfigError as exc:
        raise ConfigError(f"--policy {path}: {exc}") from exc


def _user_class(spec: str) -> type[Strategy]:
    """The class of `file.py:Class`. Its module may import its words from `trader`: this module."""
    file_name, colon, class_name = spec.rpartition(":")
    if not colon or not class_name.isidentifier() or not file_name.endswith(".py"):
        raise ConfigError(f"--strategy {spec!r:.120}: write it as path/to/file.py:ClassName")
    module = _user_module(Path(file_name), spec)
    found = getattr(module, class_name, None)
    if found is None:
        classes = [name for name, value in vars(module).items() if _is_own_class(value, module)]
        hint = f"it has {', '.join(classes)}" if classes else "it defines no class"
        raise ConfigError(f"--strategy {spec}: no class {class_name} in the file; {hint}")
    return check_strategy_class(found, where=f"--strategy {spec}")


def _is_own_class(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and value.__module__ == module.__name__


def _user_module(path: Path, spec: str) -> ModuleType:
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False
    if not is_file:
        raise ConfigError(f"--strategy {spec}: no such file {str(path)!r}")
    # Run as a script this module is called __main__; without this line the user's file would
    # import a second copy of it, with a second Reason.
    sys.modules["trader"] = sys.modules[__name__]
    name = f"user_strategy_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None, "a .py file has a module spec"
    assert module_spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:  # a user's own code may raise anything
        del sys.modules[name]
        where = _line_of(exc, path)
        problem = f"{type(exc).__name__}: {exc}"
        raise ConfigError(f"--strategy {spec}: the file fails{where}: {problem:.200}") from exc
    return module


def _line_of(error: BaseException, path: Path) -> str:
    """ " in line n" where the error passed through the user's file; "" when it did not."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f" in line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f" in line {lines[-1]}" if lines else ""


# ======================================================================================
# §24b LOGS
# Purpose:   One line per fact: for people on a terminal, as JSON in the file; no secret in either.
# Position:  Uses §01, §02, §11. Set up by §24d before anything is logged.
# Principle: A secret is removed wherever it turns up; a repeated line is counted, not repeated.
# ======================================================================================

_SECRET_SHAPES: Final = re.compile(
    r"-----BEGIN[^-]*PRIVATE KEY-----.*?(?:-----END[^-]*-----|\Z)"
    r"|(?i:KALSHI-ACCESS-(?:SIGNATURE|KEY)['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+",
    re.DOTALL,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
REPEAT_S: Final = 30.0


class Redactor:
    """Removes known secrets, private keys and access headers from any text."""

    def __init__(self) -> None:
        self._known: list[str] = []

    def add(self, secret: str) -> None:
        """Never show this text again (shorter ones than 8 characters are not secrets)."""
        if len(secret) >= 8:
            self._known.append(secret)

    def clean(self, text: str) -> str:
        """The text with every secret replaced by ***."""
        for secret in self._known:
            text = text.replace(secret, "***")
        return _SECRET_SHAPES.sub("***", text)


REDACTOR: Final = Redactor()


def escape_controls(text: str) -> str:
    """Control characters, escape sequences and direction marks written out, so they cannot act."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class PlainFormatter(logging.Formatter):
    """`10:30:12 INFO execution order acked id=…`, for a terminal; times are UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, plus the traceback where there is one."""
        at = clock_text(int(record.created * 1000))
        room = record.name.removeprefix("trader.")
        line = f"{at} {record.levelname} {room} {escape_controls(record.getMessage())}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return REDACTOR.clean(line)


class JsonFormatter(logging.Formatter):
    """One JSON object per line, ids without gaps."""

    def __init__(self) -> None:
        super().__init__()
        self._last_id = 0

    def format(self, record: logging.LogRecord) -> str:
        """The record as `{"at","id","level","room","text"}` and `trace` where there is one."""
        self._last_id += 1
        row = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "id": self._last_id,
            "level": record.levelname,
            "room": record.name.removeprefix("trader."),
            "text": REDACTOR.clean(escape_controls(record.getMessage())),
        }
        if record.exc_info:
            row["trace"] = REDACTOR.clean(self.formatException(record.exc_info))
        return json.dumps(row, ensure_ascii=False)


class RepeatFilter(logging.Filter):
    """Lets the same words of a room through once in REPEAT_S, then tells how many were held."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Errors with a traceback always pass; facts that differ make a different line."""
        key = record.name, record.getMessage()
        at_s, held = self._seen.get(key, (-math.inf, 0))
        if record.created - at_s < REPEAT_S:
            self._seen[key] = (at_s, held + 1)
            return False
        if len(self._seen) > THROTTLE_KEYS_MAX:
            self._seen.clear()
        self._seen[key] = (record.created, 0)
        if held:
            record.msg, record.args = f"{record.getMessage()} (and {held} times before)", ()
        return True


class CountingFilter(logging.Filter):
    """Counts lines by level for the metrics; holds nothing back."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Count and pass."""
        self.counts[record.levelname] += 1
        return True


LOG_COUNTS: Final = CountingFilter()


def set_log_level(text: str) -> None:
    """`INFO`, or pairs like `execution=DEBUG,stream=WARNING`. ConfigError otherwise."""
    known = ("DEBUG", "INFO", "WARNING", "ERROR")
    for part in text.split(","):
        room, _, level = part.strip().rpartition("=")
        if level.upper() not in known:
            raise ConfigError(f"log_level: {part.strip()!r:.40} is not one of {', '.join(known)}")
        logging.getLogger(f"trader.{room}" if room else "trader").setLevel(level.upper())


def set_quiet_logs() -> None:
    """A command that prints an answer logs nothing below a warning, and that to stderr."""
    root = logging.getLogger("trader")
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stderr))
        root.handlers[0].setFormatter(PlainFormatter())
    root.setLevel(logging.WARNING)


def set_up_logs(config: Config, folder: Path) -> None:
    """Terminal and rotated file; the file takes everything the terminal takes."""
    root = logging.getLogger("trader")
    root.handlers.clear()
    root.filters.clear()
    root.propagate = False
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(PlainFormatter())
    file = logging.handlers.RotatingFileHandler(
        folder / "trader.log",
        maxBytes=config.log_max_mb * 1024 * 1024,
        backupCount=config.log_files,
        encoding="utf-8",
    )
    file.setFormatter(JsonFormatter())
    repeats = RepeatFilter()
    for handler in (console, file):
        root.addHandler(handler)
    root.handlers[0].addFilter(repeats)
    file.addFilter(LOG_COUNTS)
    set_log_level(config.log_level)


# ======================================================================================
# §24c REPLAY
# Purpose:   Recorded tapes through the whole trader at full speed, and what came of it.
# Position:  Uses §23 and, lazily, sim_exchange. Called by §24d for `replay` and `backtest`.
# Principle: The same code path as live, from socket to journal; only the clock and the wire differ.
# ======================================================================================

REPLAY_TAIL_S: Final = 120.0  # virtual time given to settlement after the last close
REPLAY_STEP_S: Final = 5.0
QUEUE_MODELS: Final = ("pessimistic", "realistic", "optimistic")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What one pass over the tapes did. Money in micro-dollars, counts in hundredths."""

    queue: str
    orders: Mapping[str, int]
    fills: int
    filled_h: int
    fees_ud: int
    net_ud: int  # cash at the end minus cash at the start, settlements included
    unresolved: tuple[str, ...]  # markets still held: the tape has no result
    unresolved_value_ud: int | None
    decisions: Mapping[str, int]
    decision_sha256: str
    equals_exchange: bool
    halted: str | None  # why a limit ended the trading early
    virtual_s: float

    def lines(self) -> list[str]:
        """The report for people."""
        orders = ", ".join(f"{kind} {count}" for kind, count in sorted(self.orders.items()))
        reasons = sorted(self.decisions.items(), key=lambda item: -item[1])
        same = "equal to" if self.equals_exchange else "DIFFERENT FROM"
        rows = [
            f"queue {self.queue}",
            f"  orders     {orders or 'none'}",
            f"  fills      {self.fills}, {format_count(self.filled_h)} contracts",
            f"  fees       {show_dollars(self.fees_ud)} dollars",
            f"  net        {show_dollars(self.net_ud)} dollars after fees and settlement",
            f"  decisions  {', '.join(f'{name} {count}' for name, count in reasons)}",
            f"  account    {same} the exchange's",
            f"  hash       {self.decision_sha256[:16]}",
        ]
        if self.halted:
            rows.append(f"  HALTED     {self.halted}")
        if self.unresolved:
            value = self.unresolved_value_ud
            worth = "unknown" if value is None else f"{show_dollars(value)} dollars"
            rows.append(f"  unresolved {', '.join(self.unresolved)}, worth {worth} at the last bid")
        return rows


class _Trace:
    """Hash of every decision and order of a pass, in order: two passes are equal if it is."""

    def __init__(self, bus: EventBus) -> None:
        self._sha = hashlib.sha256()
        bus.subscribe(DecisionMade, self._decided)
        bus.subscribe(FillBooked, self._filled)

    def _decided(self, event: DecisionMade) -> None:
        row = (event.at_ms, event.ticker, event.strategy, event.reason, event.order_ids)
        self._sha.update(repr(row).encode())

    def _filled(self, event: FillBooked) -> None:
        fill = event.fill
        row = (fill.at_ms, fill.ticker, fill.side.value, fill.price_cc, fill.count_h, fill.fee_ud)
        self._sha.update(repr(row).encode())

    @property
    def digest(self) -> str:
        """The hash so far, hexadecimal."""
        return self._sha.hexdigest()


class _NoListener:
    """What the page's server gets in virtual time, where nobody can knock."""

    def __init__(self) -> None:
        self.sockets = (self,)

    def getsockname(self) -> tuple[str, int]:
        """An address that nothing listens on."""
        return ("127.0.0.1", 0)

    def close(self) -> None:
        """Nothing is held."""

    async def wait_closed(self) -> None:
        """Nothing to wait for."""


async def replay_pass(
    config: Config,
    loop: Any,
    exchange: Any,
    connect: Callable[[], aiohttp.BaseConnector],
    epoch_s: float,
) -> ReplayReport:
    """Run the trader over the tapes of `exchange` on the virtual `loop`; its report."""
    rng = random.Random(config.sim_seed)
    clock = Clock(
        monotonic=loop.time,
        epoch_s=epoch_s,
        rng=rng,
        token_hex=lambda size: rng.randbytes(size).hex(),
    )
    data_dir = DataDir(config.home)
    data_dir.make()
    data_dir.take_lock({})
    address = exchange.address("replay.invalid")
    venue = Venue(
        api_url=address.rest,
        ws_url=address.ws,
        account_tag=tag_of(address.key_id),
        signer=load_signer(address.private_key_pem.encode(), address.key_id),
    )
    facts = StartFacts(
        run_id=clock.token_hex(5),
        file_sha256="",
        config_sha256="",
        started_at_ms=clock.now_ms(),
        origins={},
    )
    strategies = load_strategies(
        config.strategy,
        config.strategy_params,
        config.policy,
        allow_experimental=config.allow_experimental,
        is_production=False,
    )
    async with make_session(connect()) as session:
        coordinator = Coordinator(
            config=config,
            clock=clock,
            data_dir=data_dir,
            venue=venue,
            facts=facts,
            strategies=strategies,
            session=session,
            static={},
            is_virtual=True,
        )
        trace = _Trace(coordinator.house.bus)
        run = asyncio.ensure_future(coordinator.run())
        await _until_settled(coordinator, exchange, clock)
        if run.done():
            run.result()  # it ended by itself: raises what ended it
        report = _report(config, coordinator, exchange, trace, clock)
        coordinator.stop("the tapes are over")
        await run
    return report


async def _until_settled(coordinator: Coordinator, exchange: Any, clock: Clock) -> None:
    """Wait until the tapes are over and paid, at most REPLAY_TAIL_S after the last close."""
    while True:
        await clock.sleep(REPLAY_STEP_S)
        over_ms = clock.now_ms() - exchange.replay_status()["to_at_ms"]
        held = any(p.position_h for p in coordinator.house.execution.ledger.positions.values())
        if over_ms > REPLAY_TAIL_S * 1000 or (over_ms > REPLAY_STEP_S * 1000 and not held):
            break
    if coordinator.house.trading is not None:
        coordinator.house.trading.ask()
        await clock.sleep(REPLAY_STEP_S)


def _report(
    config: Config, coordinator: Coordinator, exchange: Any, trace: _Trace, clock: Clock
) -> ReplayReport:
    execution = coordinator.house.execution
    ledger = execution.ledger
    held = {t: p.position_h for t, p in ledger.positions.items() if p.position_h}
    theirs = {t: h for t, h in exchange.account.positions.items() if h}
    fills = [fact.body for fact in coordinator.house.journal.facts("fill")]
    reasons: Counter[str] = Counter()
    for (_, reason), count in coordinator.house.decisions.funnel.items():
        reasons[str(reason)] += count
    cash_ud = ledger.cash_ud if ledger.cash_ud is not None else config.sim_balance_ud
    halt = coordinator.house.container.now.halt
    return ReplayReport(
        queue=config.queue_model,
        orders=dict(execution.sent),
        fills=len(fills),
        filled_h=sum(int(str(fill["count_h"])) for fill in fills),
        fees_ud=ledger.fees_ud,
        net_ud=cash_ud - config.sim_balance_ud,
        unresolved=tuple(sorted(held)),
        unresolved_value_ud=coordinator.house.equity.positions_value_ud() if held else 0,
        decisions=dict(reasons),
        decision_sha256=trace.digest,
        equals_exchange=held == theirs and cash_ud == exchange.account.cash_ud,
        halted=halt.why if halt is not None else None,
        virtual_s=clock.monotonic(),
    )


def tape_epoch_s(config: Config) -> float:
    """Wall time at which the tapes begin; ConfigError for a folder that holds none."""
    sim_exchange = importlib.import_module("sim_exchange")
    try:
        return float(sim_exchange.tape_start_s(config.sim_tape))
    except (ValueError, OSError) as error:
        raise ConfigError(f"--tape {error}") from error


def run_replay(config: Config, *, fee_type: str, fee_multiplier: str) -> ReplayReport:
    """One pass in virtual time, in a temporary data directory. ConfigError for a bad tape."""
    sim_exchange = importlib.import_module("sim_exchange")
    base: type[asyncio.AbstractEventLoop] = sim_exchange.SimLoop

    async def no_server(*_: Any, **__: Any) -> _NoListener:
        return _NoListener()

    loop: Any = base()
    loop.create_server = no_server
    net = sim_exchange.Net(loop, random.Random(config.sim_seed))
    epoch_s = tape_epoch_s(config)
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        config = replace(config, data_dir=Path(folder))
        try:
            settings = sim_exchange.SimSettings(
                tapes=config.sim_tape,
                seed=config.sim_seed,
                queue=config.queue_model,
                latency_ms=config.latency_ms,
                fee_type=fee_type,
                fee_multiplier=fee_multiplier,
                balance_dollars=format_fixed(config.sim_balance_ud, 6),
                tier="prestige",
                switches={"read_lag_ms": "0"},
            )
            exchange = sim_exchange.SimExchange(settings, sim_exchange.LoopTime(loop, epoch_s))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        asyncio.set_event_loop(loop)
        gc.disable()
        try:
            return _run_on(loop, net, exchange, config, epoch_s, sim_exchange)
        finally:
            gc.enable()
            asyncio.set_event_loop(None)
            loop.close()


def _run_on(
    loop: Any, net: Any, exchange: Any, config: Config, epoch_s: float, sim_exchange: Any
) -> ReplayReport:
    """Set up both ends of the memory wire, each in its own context, and run to the end."""
    context = sim_exchange.context_of("exchange")
    runner = exchange.make_runner()
    context.run(loop.run_until_complete, runner.setup())
    loop.call_soon(exchange.start_drivers, context=context)
    connect = partial(sim_exchange.MemoryConnector, net, runner.server, "exchange")
    act = replay_pass(config, loop, exchange, connect, epoch_s)
    try:
        trader = sim_exchange.context_of("trader")
        report: ReplayReport = trader.run(loop.run_until_complete, act)
    finally:
        loop.run_until_complete(exchange.stop())
        loop.run_until_complete(runner.cleanup())
    return report


# ======================================================================================
# §24d ARGUMENTS
# Purpose:   Flags, environment and env files in; settings with their sources out.
# Position:  Uses §01, §02, §24b. Read by §24e to §24g.
# Principle: The operator's mistake is one clear sentence; nothing is guessed or silently ignored.
# ======================================================================================

HERE: Final = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """A setting's text and where it came from."""

    text: str
    source: str


COMMANDS: Final[Mapping[str, str]] = {
    "run": "the bot (default)",
    "status": "state, gate and why, health, money",
    "markets": "followed markets",
    "orders": "orders as journal and last reconcile have them",
    "positions": "holdings, likewise",
    "fills": "fills, likewise",
    "explain": "a decision, order or fill by its id",
    "pause": "gate paused",
    "reduce-only": "gate reduce-only",
    "resume": "gate open",
    "rearm": "clear the halt latch",
    "kill": "halt latch, then cancel everything of ours",
    "cancel-all": "cancel own orders; does not pause",
    "flatten": "leave own positions by reduce-only exits",
    "replay": "tapes at full speed in virtual time",
    "backtest": "the same as replay",
    "record": "follow markets and write tapes; never trades",
    "export": "a table of the journal as csv, json or ndjson",
    "doctor": "every check a run needs, each with its fix",
    "audit": "cash and positions from REST alone against the journal",
    "config": "show or check the settings",
    "version": "version, hash of the file, Python, dependencies",
}
CONTROL_COMMANDS: Final = frozenset(
    "pause reduce-only resume rearm kill cancel-all flatten".split()
)
WITH_WORD: Final = {"config": "show or check", "explain": "an id", "export": "a table"}


@dataclass(frozen=True, slots=True)
class OwnFlag:
    """A flag of some commands that is no setting. `kind`: bool, int, or str for text."""

    option: str
    commands: str
    meaning: str
    kind: type = bool

    @property
    def dest(self) -> str:
        """Its attribute in the parsed arguments; None there when it was not given."""
        return self.option.lstrip("-").replace("-", "_")


_READS: Final = (
    "status markets orders positions fills explain replay backtest config audit export doctor"
)
OWN_FLAGS: Final = tuple(
    OwnFlag(*row)
    for row in (
        ("--audit-key-id", "audit", "id of a key that may only read", str),
        ("--audit-key-file", "audit", "its private key", str),
        ("--json", _READS, "as JSON, with stable keys and units"),
        ("--alert", "doctor", "also send a test message to the webhook"),
        ("--quiet", "status export audit doctor", "nothing on success; for cron"),
        ("--origin", "config", "show: with sources"),
        ("--changed", "config", "show: only what is not default"),
        ("--link", "status", "print a new unlock link"),
        ("--new-token", "status", "replace the run token"),
        ("--funnel", "markets", "how discovery and decisions ended, with counts"),
        ("--scan", "markets", "a fresh scan; needs no bot"),
        ("--all", "orders positions fills flatten", "ended, closed and foreign ones too"),
        ("--since", "orders fills export", "today, yesterday, 90m, 2h, 7d or an ISO time", str),
        ("--limit", "orders fills export", "at most so many, newest first", int),
        ("--verify", "explain", "run the strategy again on the stored view"),
        ("--reason", "pause reduce-only resume rearm kill flatten", "why, for the audit row", str),
        ("--confirm", "resume rearm", "name of the environment", str),
        ("--to", "rearm", "reduce-only (default) or open", str),
        ("--override", "rearm", "on the day of a loss limit"),
        ("--keep-orders", "pause", "leave resting orders"),
        ("--ticker", "cancel-all flatten", "only this market", str),
        ("--order", "cancel-all", "only this client order id", str),
        ("--dry-run", "kill cancel-all flatten", "print what would be sent, send nothing"),
        ("--yes", "cancel-all flatten", "production: do not ask"),
        ("--fee-type", "replay backtest", "fees of the series (default quadratic)", str),
        ("--fee-multiplier", "replay backtest", "multiplier of the fees (default 1)", str),
        ("--serve", "replay backtest", "play at --speed and show it on the page"),
        ("--minutes", "record", "end after so many minutes", int),
        ("--format", "export", "csv (default), json or ndjson", str),
        ("--out", "export", "write here instead of the terminal", str),
    )
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trader.py",
        description="A trader for Kalshi that shows what it does.",
        epilog="Without a command it runs the bot; in sim no account is needed. Commands: "
        + "; ".join(f"{name}: {what}" for name, what in COMMANDS.items()),
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", default="run", choices=COMMANDS, metavar="command")
    words = ", ".join(f"{command}: {word}" for command, word in WITH_WORD.items())
    parser.add_argument("what", nargs="?", help=words)
    for setting in SETTINGS:
        _add_flag(parser, setting)
    parser.add_argument("--no-record", action="store_true", help="write no tapes")
    for flag in OWN_FLAGS:
        text = f"{', '.join(flag.commands.split())}: {flag.meaning}"
        if flag.kind is bool:
            parser.add_argument(flag.option, action="store_true", default=None, help=text)
        else:
            parser.add_argument(flag.option, type=flag.kind, metavar="X", help=text)
    return parser


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; ConfigError for a flag or a word that the command does not have."""
    args = _parser().parse_args(argv)
    for flag in OWN_FLAGS:
        value = getattr(args, flag.dest)
        if value is not None and args.command not in flag.commands.split():
            homes = ", ".join(flag.commands.split())
            raise ConfigError(f"{flag.option} belongs to {homes}, not to {args.command}")
        if flag.kind is int and value is not None and value < 1:
            raise ConfigError(f"{flag.option}: {value} is not 1 or more")
    if args.what is not None and args.command not in WITH_WORD:
        raise ConfigError(f"{args.command} takes no word {args.what!r:.40}; see --help")
    if args.what is None and args.command in ("explain", "export"):
        raise ConfigError(f"{args.command} needs {WITH_WORD[args.command]}; see --help")
    return args


def _add_flag(parser: argparse.ArgumentParser, setting: Setting) -> None:
    option = setting.option
    if option is None:
        return
    span = f" [{setting.low}..{setting.high} {setting.unit}]" if setting.low else ""
    text = f"{setting.meaning}{span} ({setting.env})".replace("%", "%%")
    if setting.kind is Kind.BOOL:
        parser.add_argument(option, dest=setting.name, action="store_true", default=None, help=text)
    elif setting.repeats:
        parser.add_argument(option, dest=setting.name, action="append", help=text, metavar="X")
    else:
        parser.add_argument(option, dest=setting.name, help=text, metavar="X")


def _flag_texts(args: argparse.Namespace) -> dict[str, str]:
    """What the command line sets, as setting texts."""
    texts: dict[str, str] = {}
    for setting in SETTINGS:
        given = getattr(args, setting.name, None)
        if given is None or setting.option is None:
            continue
        if setting.name == "strategy_params":
            texts[setting.name] = json.dumps(dict(_param(item) for item in given))
        elif setting.repeats:
            texts[setting.name] = ",".join(given)
        elif setting.kind is Kind.BOOL:
            texts[setting.name] = "false" if setting.name == "trading" else "true"
        else:
            texts[setting.name] = given
    if "tickers" in texts and "mode" not in texts:
        texts["mode"] = "config"
    if args.no_record:
        texts["record"] = "off"
    return texts


def _param(text: str) -> tuple[str, JsonScalar]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ConfigError(f"--param {text!r:.60}: write it as name=value")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return name, parsed if isinstance(parsed, (int, float, str, bool)) else value


def read_env_file(path: Path) -> dict[str, str]:
    """Names and values of one env file; {} when it is not there. ConfigError names the bad line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}; mend or remove it") from error
    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            line = binding.original.string.strip().splitlines()[0]
            raise ConfigError(
                f"{path.name} line {binding.original.line}: {REDACTOR.clean(line)[:40]!r} is not "
                "NAME=value; correct it"
            )
        if binding.key is not None:
            values[binding.key] = binding.value or ""
    _check_env_names(path, values)
    return values


def _check_env_names(path: Path, values: Mapping[str, str]) -> None:
    known = {setting.env for setting in SETTINGS} | OLD_VARIABLES
    for name in values:
        if name not in known and name.startswith(("V3_", "KALSHI_")):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see .env.example"
            raise ConfigError(f"{path.name}: unknown setting {name}; {hint}")


def gather(
    args: argparse.Namespace, environ: MutableMapping[str, str], root: Path
) -> tuple[dict[str, Sourced], list[str]]:
    """All settings with their source, flags first; and warnings for the start."""
    flags = _flag_texts(args)
    common = read_env_file(root / ".env")
    name = (
        flags.get("environment") or environ.get("ENVIRONMENT") or common.get("ENVIRONMENT") or "sim"
    )
    environment = ENVIRONMENT_ALIASES.get(name, name)
    special_name = f".env.{environment}"
    special = read_env_file(root / special_name) if re.fullmatch(r"\w+", environment) else {}
    layers = ((environ, "environment"), (special, special_name), (common, ".env"))
    found: dict[str, Sourced] = {
        key: Sourced(text=text, source="flag") for key, text in flags.items()
    }
    for values, source in layers:
        for setting in SETTINGS:
            if setting.name not in found and values.get(setting.env):
                found[setting.name] = Sourced(text=values[setting.env], source=source)
    _check_env_mode(root, environment, (special_name, ".env"))
    check_program_mode(Path(__file__).resolve(), environment)
    environ.pop("KALSHI_PRIVATE_KEY_CONTENT", None)
    return found, _env_warnings(environ, common | special)


def check_program_mode(program: Path, environment: str) -> None:
    """With an account, refuse a program that any user of this machine could change."""
    for path in (program, program.parent):
        mode = path.stat().st_mode
        if environment != "sim" and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(f"{path} can be changed by anyone; run: chmod o-w {path}")


def _check_env_mode(root: Path, environment: str, names: Iterable[str]) -> None:
    for name in names:
        path = root / name
        if environment == "production" and path.exists() and path.stat().st_mode & 0o077:
            raise ConfigError(f"{name} can be read by others; run: chmod 600 {name}")


def _env_warnings(environ: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
    known = {setting.env for setting in SETTINGS}
    strange = [
        name
        for name in sorted({*environ, *files})
        if name.startswith(("V3_", "KALSHI_", "RL_")) and name not in known | OLD_VARIABLES
    ]
    old = sorted(OLD_VARIABLES & {*environ, *files})
    warnings = [f"unknown setting {name} is ignored" for name in strange]
    return warnings + [f"{name} belongs to the earlier system and is ignored" for name in old]


def need_key(config: Config) -> None:
    """Paper, production and a separate sim exchange need credentials; say what is missing."""
    if config.is_embedded or (config.key_id and (config.key_file or config.key_content)):
        return
    env = config.environment.value
    word = {"paper": "Kalshi demo", "production": "Kalshi production", "sim": "exchange's"}[env]
    raise ConfigError(
        f"{env} needs a {word} key and none was found.\n"
        f"Set KALSHI_API_KEY_ID and KALSHI_KEY_FILE (in .env.{env}, in .env or in the environment; "
        "see .env.example),\nor start without an account:  python trader.py --env sim"
    )


def read_key_pem(config: Config) -> bytes:
    """The private key's text, from the setting or the file."""
    if config.key_content is not None:
        return config.key_content.reveal().encode()
    assert config.key_file is not None, "need_key comes first"
    is_sim = config.environment is Environment.SIM
    return read_key_file(config.key_file, is_sim=is_sim, repository=HERE)


def tag_of(key_id: str) -> str:
    """Last four letters or digits of the key id: tells accounts apart without naming them."""
    return re.sub(r"[^A-Za-z0-9]", "", key_id)[-4:].lower() or "none"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settings_rows(found: Mapping[str, Sourced], config: Config) -> tuple[dict[str, JsonValue], ...]:
    """Every setting with value and source, secrets masked."""
    rows: list[dict[str, JsonValue]] = []
    for setting in SETTINGS:
        given = found.get(setting.name)
        text = given.text if given is not None else setting.default
        if setting.kind is Kind.SECRET and text:
            text = "***"
        if given is None and setting.name in ("strategy", "data_dir"):
            value = getattr(config, setting.field)
            text = ",".join(value) if isinstance(value, tuple) else str(value)
        rows.append(
            {
                "name": setting.name,
                "value": text,
                "source": given.source if given else "default",
                "unit": setting.unit,
                "variable": setting.env,
            }
        )
    return tuple(rows)


# ======================================================================================
# §24e PROCESS
# Purpose:   The running bot: its exchange, its loop, its signals, its first words.
# Position:  Uses §14, §15, §23, §24a to §24d. Imports sim_exchange for the embedded exchange.
# Principle: Lock first, then logs, then the loop; every signal has one meaning.
# ======================================================================================

log_cli = logging.getLogger("trader.cli")

SIM_JOURNALS_MAX: Final = 10
LAST_CANCEL_S: Final = 1.0


class TapeDesk:
    """The embedded tape as §22 may command it: pace and settlement."""

    def __init__(self, exchange: Any, clock: Clock) -> None:
        self._exchange, self._clock = exchange, clock
        self._pace = clock.rate

    def replay_status(self) -> Mapping[str, Any]:
        """Where the tape stands; see the topic `replay`."""
        status: Mapping[str, Any] = self._exchange.replay_status()
        return {**status, "speed_ratio": self._pace, "playing": self._clock.rate > 0}

    def replay_command(self, action: str, value: float | None) -> None:
        """play, pause, speed (ratio) or settle."""
        if action == "play":
            self._clock.set_rate(self._pace)
        elif action == "pause":
            self._clock.set_rate(0.0)
        elif action == "speed" and value is not None:
            self._pace = min(max(value, 0.1), 1000.0)
            self._clock.set_rate(self._pace)
        elif action == "settle":
            self._exchange.settle_tapes()


def make_clock(config: Config) -> Clock:
    """Real time; or the tape's, shared with the embedded exchange."""
    if not (config.is_embedded and config.sim_tape):
        return Clock()
    return Clock(epoch_s=tape_epoch_s(config), rate=config.sim_speed, is_adjustable=True)


async def open_venue(config: Config, clock: Clock) -> Venue:
    """The exchange to talk to: the embedded one is started here, on loopback."""
    if config.is_embedded:
        return await _embed(config, clock)
    assert config.key_id is not None, "need_key comes first"
    signer = load_signer(read_key_pem(config), config.key_id)
    api_url, ws_url = config.api_url, config.ws_url
    if api_url is None or ws_url is None:
        api_url, ws_url = DEFAULT_URLS[config.environment]
    check_urls(config.environment, api_url, ws_url)
    return Venue(api_url=api_url, ws_url=ws_url, signer=signer, account_tag=tag_of(config.key_id))


async def _embed(config: Config, clock: Clock) -> Venue:
    sim_exchange = importlib.import_module("sim_exchange")
    try:
        settings = sim_exchange.SimSettings(
            markets=max(config.markets, len(config.tickers)) + 2,
            seed=config.sim_seed,
            tapes=config.sim_tape,
            balance_dollars=format_fixed(config.sim_balance_ud, 6),
            queue=config.queue_model,
            latency_ms=config.latency_ms,
            faults=config.sim_faults,
        )
        exchange = sim_exchange.SimExchange(settings, clock)
        address = await exchange.start()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    player = TapeDesk(exchange, clock) if config.sim_tape else None
    return Venue(
        api_url=address.rest,
        ws_url=address.ws,
        signer=load_signer(address.private_key_pem.encode(), address.key_id),
        account_tag=tag_of(address.key_id),
        replay=player,
        close=exchange.stop,
    )


def build_strategies(config: Config) -> tuple[Strategy, ...]:
    """The strategies this configuration names; ConfigError for every mistake in them."""
    return load_strategies(
        config.strategy,
        config.strategy_params,
        config.policy,
        allow_experimental=config.allow_experimental,
        is_production=config.environment is Environment.PRODUCTION,
    )


async def run_bot(
    config: Config,
    data_dir: DataDir,
    facts: StartFacts,
    clock: Clock,
    reload: Callable[[], Config],
) -> int:
    """Build the house, hear the signals, run until the end; returns the exit code."""
    strategies = build_strategies(config)
    static = load_static(HERE / "static")
    venue = await open_venue(config, clock)
    tls = secure_tls(venue.api_url, venue.ws_url)
    async with make_session(aiohttp.TCPConnector(ssl=tls, limit=64)) as session:
        coordinator = Coordinator(
            config=config,
            clock=clock,
            data_dir=data_dir,
            venue=venue,
            facts=facts,
            strategies=strategies,
            session=session,
            static=static,
        )
        hear_signals(coordinator, reload)
        say_start(config, facts, coordinator)
        return await coordinator.run()


def hear_signals(coordinator: Coordinator, reload: Callable[[], Config]) -> None:
    """First TERM or INT ends cleanly, a second at once; USR2 kills; HUP reloads; USR1 dumps."""
    loop = asyncio.get_running_loop()
    heard: list[int] = []

    def end(number: int) -> None:
        heard.append(number)
        if len(heard) == 1:
            coordinator.stop(f"signal {signal.Signals(number).name}")
        else:
            coordinator.house.supervisor.spawn(end_now(coordinator, number), name="end_now")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    loop.add_signal_handler(
        signal.SIGUSR2, coordinator.house.operator.kill_now, "signal SIGUSR2", "signal"
    )
    loop.add_signal_handler(signal.SIGUSR1, dump_state, coordinator)
    loop.add_signal_handler(signal.SIGHUP, reload_settings, coordinator, reload)


def dump_state(coordinator: Coordinator) -> None:
    """SIGUSR1: the whole status, redacted, as a file in the reports folder."""
    name = f"state-{coordinator.house.clock.now_ms()}.json"
    path = coordinator.house.data_dir.folder("reports") / name
    text = json.dumps(coordinator.house.reporter.status(), indent=2, default=str)
    path.write_text(REDACTOR.clean(text))
    log_cli.info("state written file=%s", name)


def reload_settings(coordinator: Coordinator, reload: Callable[[], Config]) -> None:
    """SIGHUP: live settings and the key file again; a mistake changes nothing and is told."""
    try:
        config = reload()
        signer = None
        if config.key_file is not None and config.key_content is None:
            signer = load_signer(read_key_pem(config), config.key_id or "")
        strategies: tuple[Strategy, ...] = ()
        if config.strategy_params != coordinator.house.config.strategy_params:
            strategies = build_strategies(
                replace(config, strategy=coordinator.house.config.strategy)
            )
        set_log_level(config.log_level)
    except ConfigError as error:
        log_cli.error("reload refused, nothing changed: %s", error)
        return
    coordinator.reload(config)
    coordinator.house.decisions.exchange(strategies)
    if signer is not None:
        coordinator.replace_signer(signer)


async def end_now(coordinator: Coordinator, number: int) -> None:
    """Second signal: one cancel-all is tried for a second, then the process is gone."""
    if coordinator.house.trading is not None:
        await coordinator.house.trading.cancel_all(limit_s=LAST_CANCEL_S)
    os._exit(128 + number)


def say_start(config: Config, facts: StartFacts, coordinator: Coordinator) -> None:
    """The start in words: environment, orders, strategy, limits, hashes, address, unlock link."""
    orders = "orders can be sent" if config.is_armed and config.trading else "no orders can be sent"
    if config.environment is Environment.PRODUCTION and config.is_armed:
        orders += " WITH REAL MONEY"
    halt = coordinator.house.data_dir.read_kill()
    print(f"{ENVIRONMENT_WORDS[config.environment]}: {orders}")
    print(f"strategy {', '.join(config.strategy)}; gate {'halted' if halt else 'as kept on disk'}")
    print(
        f"limits: order {format_count(config.max_order_h)} contracts, market loss "
        f"{show_dollars(config.max_market_loss_ud)}, "
        f"exposure {show_dollars(config.max_exposure_ud)}, "
        f"daily loss {show_dollars(config.daily_loss_ud)} dollars"
    )
    print(f"file {facts.file_sha256[:12]} settings {facts.config_sha256[:12]} run {facts.run_id}")
    print(f"page http://localhost:{config.port}/", flush=True)
    if sys.stdout.isatty():
        link = coordinator.house.api.door.new_code()
        print(f"unlock its controls within 60 s: http://localhost:{config.port}/#unlock={link}")


def command_run(
    config: Config,
    found: Mapping[str, Sourced],
    warnings: Sequence[str],
    reload: Callable[[], Config],
) -> int:
    """Lock, logs, loop; the bot's exit code."""
    need_key(config)
    data_dir = DataDir(config.home)
    data_dir.make()
    clock = make_clock(config)
    facts = StartFacts(
        run_id=clock.token_hex(5),
        file_sha256=file_digest(Path(__file__)),
        config_sha256=hashlib.sha256(
            repr(
                [
                    (key, value.text)
                    for key, value in sorted(found.items())
                    if SETTINGS_BY_NAME[key].kind is not Kind.SECRET
                ]
            ).encode()
        ).hexdigest(),
        started_at_ms=clock.now_ms(),
        origins={key: given.source for key, given in found.items()},
    )
    data_dir.take_lock({"pid": os.getpid(), "run_id": facts.run_id, "port": config.port})
    set_up_logs(config, data_dir.folder("logs"))
    for warning in warnings:
        log_cli.warning("%s", warning)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if config.is_embedded:
        set_sim_journal_aside(data_dir, facts.started_at_ms)
    if config.key_content is not None:
        REDACTOR.add(config.key_content.reveal())
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(run_bot(config, data_dir, facts, clock, reload))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ConfigError(
            f"port {config.port} is taken by another program; stop it or choose another with --port"
        ) from error


def set_sim_journal_aside(data_dir: DataDir, at_ms: int) -> None:
    """A new embedded exchange is a new account: its last SIM_JOURNALS_MAX journals are kept."""
    backups = data_dir.folder("backups")
    move_journal_aside(data_dir.journal_path, backups, f"sim-{at_ms}")
    for old in sorted(backups.glob("journal-sim-*.sqlite3"))[:-SIM_JOURNALS_MAX]:
        for path in journal_files(old):
            path.unlink()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where that package is installed, else Python's own."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """The exchange as one command sees it; it creates no order."""

    venue: Venue
    session: aiohttp.ClientSession
    rest: KalshiRest
    clock: Clock
    supervisor: Supervisor


@contextlib.asynccontextmanager
async def visit(config: Config, signer: KalshiSigner | None = None) -> AsyncIterator[Visit]:
    """Open the exchange for one command; `signer` instead of the bot's own key."""
    clock, supervisor = Clock(), Supervisor(lambda name, error: None)
    venue = await open_venue(config, clock)
    async with make_session(aiohttp.TCPConnector(ssl=secure_tls(), limit=4)) as session:
        rest = KalshiRest(
            session,
            venue.api_url,
            signer or venue.signer,
            clock,
            request_timeout_s=config.request_timeout_s,
            rate_share=config.rate_share,
            may_open=lambda: False,
            permits=lambda _: False,
            threads=False,
        )
        try:
            yield Visit(venue=venue, session=session, rest=rest, clock=clock, supervisor=supervisor)
        finally:
            await supervisor.stop(timeout_s=1.0)
            rest.close()
            if venue.close is not None:
                await venue.close()


# ======================================================================================
# §24f ASKING
# Purpose:   The commands that speak to a running bot, and print what it says.
# Position:  Uses §14a, §24d. Called by §24g.
# Principle: One way to ask, one way to print; who gets no answer is told why by the exit code.
# ======================================================================================

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_CHECK: Final = 3
EXIT_HALTED: Final = 4
EXIT_DIFFERENCE: Final = 5
EXIT_UNREACHABLE: Final = 6
EXIT_ORDERS_REMAIN: Final = 7
EXIT_NO_BOT: Final = 8
EXIT_LOCKED: Final = 75
CANCEL_PAUSE_S: Final = 0.5


class NoBotError(TraderError):
    """Nobody runs in this data directory; exit code 8."""


# -- asking and printing ----------------------------------------------------------------


def running_port(data_dir: DataDir) -> int | None:
    """Port of the bot that holds this data directory; None when none runs."""
    holder = data_dir.holder()
    return int(str(holder["port"])) if holder is not None and holder.get("port") else None


class Desk:
    """What one command needs of a running bot: its address and its token."""

    def __init__(self, config: Config) -> None:
        self.environment = config.environment
        self.data_dir = DataDir(config.home)
        self.port = running_port(self.data_dir)

    def need(self) -> Desk:
        """Itself; NoBotError when nobody answers there."""
        if self.port is None:
            raise NoBotError(f"no bot runs in {self.environment.value}; start it first")
        return self

    def get(self, path: str) -> Any:
        """JSON body of a GET."""
        return asyncio.run(self._ask("GET", path, None, {}))[1]

    def rows(self, topic: str) -> list[dict[str, Any]]:
        """All rows of a topic."""
        found: list[dict[str, Any]] = self.get(f"/v3/topic/{topic}?limit=500")["rows"]
        return found

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON body of a POST with the run token."""
        token = {"Authorization": f"Bearer {self.data_dir.run_token(Clock())}"}
        return asyncio.run(self._ask("POST", path, body, token | dict(headers or {})))

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with (
            asyncio.timeout(10.0),
            aiohttp.ClientSession(trust_env=False) as session,
            session.request(
                method, url, json=body, headers={"X-Trader-Control": "1", **headers}
            ) as answer,
        ):
            return answer.status, await answer.json()


def shown(key: str, value: object) -> str:
    """A value as people read it; its unit is the end of its key (DASHBOARD §3)."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if key.endswith("at_ms"):
            return f"{datetime.fromtimestamp(value / 1000, UTC):%Y-%m-%d %H:%M:%S}"
        for end, write in (("_cc", format_price), ("_h", format_count), ("_ud", show_dollars)):
            if key.endswith(end):
                return write(value)
    if isinstance(value, list | tuple):
        return ", ".join(shown(key, item) for item in value)
    return escape_controls(str(value))


_HEAD_UNITS: Final = (
    ("_at_ms", " (UTC)"),
    ("at_ms", "at (UTC)"),
    ("_cc", " $"),
    ("_ud", " $"),
    ("_h", ""),
    ("_ms", " ms"),
)


def _heading(key: str) -> str:
    for end, unit in _HEAD_UNITS:
        if key.endswith(end):
            return key.removesuffix(end).replace("_", " ") + unit
    return key.replace("_", " ")


def table_lines(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> list[str]:
    """Rows under headings, numbers to the right."""
    cells = [[_heading(key) for key in columns]]
    cells += [[shown(key, row.get(key)) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_number = [
        all(isinstance(row.get(key), int | float | None) for row in rows) for key in columns
    ]
    return [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in cells
    ]


def print_rows(
    args: argparse.Namespace, rows: Sequence[Mapping[str, object]], columns: str, none: str
) -> None:
    """Rows as a table of `columns`, or whole as JSON; the sentence `none` when there are none."""
    if args.json:
        print(json.dumps(rows, indent=1, default=str))
    elif rows:
        print("\n".join(table_lines(rows, columns.split())))
    else:
        print(none)


# -- status and markets -----------------------------------------------------------------


def command_status(config: Config, args: argparse.Namespace) -> int:
    """State, gate and why, health, money; 3 when unhealthy, 4 when halted, 8 without a bot."""
    desk = Desk(config)
    if args.new_token:
        desk.data_dir.make()
        desk.data_dir.new_run_token(Clock())
        print("new run token written; a running bot takes it at its next start")
        return EXIT_OK
    desk.need()
    if args.link:
        _, answer = desk.post("/v3/unlock/link", {})
        print(answer.get("url") or answer)
        return EXIT_OK
    health, status = desk.get("/v3/health"), desk.get("/v3/status")
    code = EXIT_HALTED if status["halted"] else EXIT_OK if health["healthy"] else EXIT_CHECK
    if args.json:
        print(json.dumps(status, indent=2))
    elif not (args.quiet and code == EXIT_OK):
        print("\n".join(_status_lines(health, status, desk.rows("overview")[0])))
    return code


def _status_lines(
    health: Mapping[str, Any], status: Mapping[str, Any], overview: Mapping[str, Any]
) -> list[str]:
    client, checked = (status["components"][name] for name in ("trading_client", "reconcile"))
    money = ("cash_ud", "equity_ud", "day_pnl_ud", "exposure_ud")
    why = f" ({overview['gate_why']})" if overview["gate_why"] else ""
    verified = shown("_at_ms", checked["reconciled_at_ms"])
    held, live, unknown = (
        client[key] for key in ("positions_count", "open_orders_count", "unknown_orders")
    )
    reasons = ", ".join(str(row.get("reason", row)) for row in status["degraded"])
    return [
        f"{status['environment']}: {health['status']}, state {status['state']}",
        f"gate {overview['gate']}{why}",
        f"halted: {status['halted'] or 'no'}; degraded: {reasons or 'no'}",
        ", ".join(f"{_heading(key)} {shown(key, overview[key])}" for key in money),
        f"{held} positions, {live} open orders, {unknown} unknown; verified {verified} UTC",
    ]


def command_markets(config: Config, args: argparse.Namespace) -> int:
    """Followed markets of the running bot; its funnels; or a fresh scan without one."""
    if args.scan:
        found = asyncio.run(_scan(config))
        rows = [
            {"ticker": m.ticker, "title": m.title, "bid_cc": m.bid_cc, "ask_cc": m.ask_cc}
            for m in found.followed
        ]
        if not args.json:
            print(found.funnel)
        print_rows(args, rows, "ticker title bid_cc ask_cc", "no market passes the gates")
        return EXIT_OK
    desk = Desk(config).need()
    if args.funnel:
        scan = desk.get("/v3/status")["components"]["market_selection"]
        if not args.json:
            print(scan.get("funnel") or "no scan yet")
        rows = desk.rows("funnel")
        print_rows(args, rows, "strategy stage reason count", "nothing was evaluated yet")
        return EXIT_OK
    columns = "ticker bid_cc bid_h ask_cc ask_h last_cc position_h pnl_ud proof reason"
    print_rows(args, desk.rows("markets"), columns, "no market is followed")
    return EXIT_OK


async def _scan(config: Config) -> Selection:
    async with visit(config) as there:
        return await MarketSelection().select(there.rest, config, Clock().now_ms(), set())


# -- controls ---------------------------------------------------------------------------


def command_control(config: Config, args: argparse.Namespace) -> int:
    """Ask the running bot; without one, act on the latch, the gate and the exchange ourselves."""
    desk = Desk(config)
    _confirm(config, args)
    if args.dry_run:
        return _dry_run(config, desk, args)
    if desk.port is None:
        return _control_alone(config, desk, args)
    status, answer = _control(desk, args)
    print(json.dumps(answer, indent=2))
    return EXIT_OK if status in (200, 202) else EXIT_CHECK


def _confirm(config: Config, args: argparse.Namespace) -> None:
    """Ask what must be asked: the environment's name, and in production whether it is meant."""
    name, is_asked = config.environment.value, sys.stdin.isatty()
    if args.command in ("resume", "rearm") and args.confirm is None and is_asked:
        args.confirm = input(f"{args.command}: type the environment's name ({name}): ").strip()
    if args.command in ("resume", "rearm") and args.confirm != name:
        raise ConfigError(f"{args.command} needs --confirm {name}")
    is_risky = args.command in ("cancel-all", "flatten") and not args.dry_run
    if config.environment is Environment.PRODUCTION and is_risky and not args.yes:
        answer = input(f"{args.command} in production? yes/no: ").strip() if is_asked else ""
        if answer != "yes":
            raise ConfigError(f"{args.command} in production: add --yes to confirm")


def _control(desk: Desk, args: argparse.Namespace) -> tuple[int, Any]:
    body: dict[str, Any] = {"key": secrets.token_hex(16)}
    headers: dict[str, str] = {}
    if args.reason:
        body["reason"] = args.reason
    if args.strategy and args.command in ("pause", "resume"):
        body["strategy"] = args.strategy[0]
    if args.command in ("resume", "rearm"):
        body |= {"environment": args.confirm or "", "reason": args.reason or ""}
        headers["If-Match"] = str(desk.rows("overview")[0]["state_version"])
    if args.command == "rearm":
        body |= {"to": args.to or "reduce-only", "override": bool(args.override)}
    if args.command == "pause":
        body |= {"keep_orders": bool(args.keep_orders)}
    if args.command == "cancel-all":
        body.pop("reason", None)
        body |= {k: v for k, v in (("ticker", args.ticker), ("client_order_id", args.order)) if v}
    if args.command == "flatten":
        body |= {"all": bool(args.all)}
        _, preview = desk.post("/v3/control/flatten", body, headers)
        print(json.dumps(preview, indent=2))
        body |= {"nonce": preview.get("nonce"), "key": secrets.token_hex(16)}
    return desk.post(f"/v3/control/{args.command}", body, headers)


def _dry_run(config: Config, desk: Desk, args: argparse.Namespace) -> int:
    """What the control would send, from the bot's own rows or from the exchange."""
    if args.command == "flatten":
        _, preview = desk.need().post(
            "/v3/control/flatten", {"key": secrets.token_hex(16), "all": bool(args.all)}
        )
        print(json.dumps(preview, indent=2))
        return EXIT_OK
    if desk.port is None:
        orders = [row_of(order) for order in asyncio.run(_own_resting(config, args))]
    else:
        orders = [row for row in desk.rows("orders") if _is_meant(row, args)]
    if args.command == "kill":
        print("the halt latch would be set")
    for row in orders:
        print(f"DELETE {row['order_id']} {row['client_order_id']} {row['ticker']}")
    print(f"{len(orders)} cancels; nothing was sent")
    return EXIT_OK


def _is_meant(row: Mapping[str, Any], args: argparse.Namespace) -> bool:
    return (
        row["status"] in ("sent", "unknown", "resting")
        and not row["foreign"]
        and args.ticker in (None, row["ticker"])
        and args.order in (None, row["client_order_id"])
    )


def _control_alone(config: Config, desk: Desk, args: argparse.Namespace) -> int:
    """No bot runs: hold its lock meanwhile, so that none starts in between."""
    if args.command in ("rearm", "flatten"):
        desk.need()
    desk.data_dir.make()
    desk.data_dir.take_lock({"pid": os.getpid(), "run_id": args.command})
    now_ms, why = Clock().now_ms(), args.reason or f"command line: {args.command}"
    if args.command == "kill":
        desk.data_dir.write_kill(
            Halt(why=args.reason or "kill switch", by="cli", since_at_ms=now_ms)
        )
        print("no bot runs; the halt latch is set and the next start will be halted")
    elif args.command != "cancel-all":
        gate = {"pause": Gate.PAUSED, "resume": Gate.OPEN, "reduce-only": Gate.REDUCE_ONLY}
        desk.data_dir.write_state(
            {"gate": gate[args.command], "why": why, "by": "cli", "since_at_ms": now_ms}
        )
        print(f"no bot runs; the next start will have the gate {gate[args.command]}")
    is_cancelling = args.command in ("kill", "cancel-all") or (
        args.command == "pause" and not args.keep_orders
    )
    return asyncio.run(_cancel_alone(config, args)) if is_cancelling else EXIT_OK


async def _own_resting(config: Config, args: argparse.Namespace) -> list[Order]:
    if config.is_embedded:
        return []  # that exchange lives and dies with its bot
    async with visit(config) as there:
        return await _mine(there.rest, config, args)


async def _mine(rest: KalshiRest, config: Config, args: argparse.Namespace) -> list[Order]:
    ids = own_ids(config)
    return [
        _foreign(report, "")
        for report in await rest.orders(ticker=args.ticker, status="resting")
        if ids.is_ours(report.client_order_id) and args.order in (None, report.client_order_id)
    ]


def own_ids(config: Config) -> ClientIds:
    """How this bot's own orders are told from others on the account."""
    return ClientIds(
        prefix=config.order_prefix,
        environment=config.environment.value,
        account=tag_of(config.key_id or ""),
        run="",
    )


async def _cancel_alone(config: Config, args: argparse.Namespace) -> int:
    """Cancel what is ours at the exchange and look again; 7 when something remains."""
    if config.is_embedded:
        print("the embedded exchange ended with its bot; nothing rests there")
        return EXIT_OK
    need_key(config)
    async with visit(config) as there:
        rest = there.rest
        found = left = await _mine(rest, config, args)
        clock = Clock()
        deadline_s = clock.real_s() + STOP_LIMIT_S
        while left and clock.real_s() < deadline_s:
            for start in range(0, len(left), BATCH_CANCEL_MAX):
                await rest.cancel_batch(left[start : start + BATCH_CANCEL_MAX])
            await asyncio.sleep(CANCEL_PAUSE_S)  # the exchange's list lags behind its engine
            left = await _mine(rest, config, args)
    print(f"cancelled {len(found) - len(left)} of {len(found)} own orders, verified")
    for order in left:
        print(f"may remain: {order.client_order_id} {order.ticker}", file=sys.stderr)
    return EXIT_ORDERS_REMAIN if left else EXIT_OK


# ======================================================================================
# §24g RECORDS
# Purpose:   What the journal holds, as rows for people: orders, fills, decisions, days; export.
# Position:  Uses §14d, §18b, §21b, §24d to §24f. Needs no running bot and disturbs none.
# Principle: Read only; the rows are made by the rooms that make them live, so both tell the same.
# ======================================================================================


EXPORT_TABLES: Final = "orders fills settlements positions decisions equity daily activity".split()
EXPORT_ROWS_MAX: Final = 200_000
_SPAN_S: Final = {"m": 60, "h": 3600, "d": 86_400}


def since_ms(text: str | None, now_ms: int) -> int:
    """What `--since` means, Unix ms; 0 without it. Days begin at midnight in New York."""
    if text is None:
        return 0
    if text in ("today", "yesterday"):
        day = datetime.fromtimestamp(now_ms / 1000, NEW_YORK).date()
        day -= timedelta(days=text == "yesterday")
        return int(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp() * 1000)
    if re.fullmatch(r"[0-9]{1,6}[mhd]", text, re.ASCII):
        return now_ms - int(text[:-1]) * _SPAN_S[text[-1]] * 1000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"--since {text!r:.40}: write today, yesterday, 90m, 2h, 7d or 2026-11-22T10:30"
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


AnyRow = dict[str, Any]


class Records:
    """The journal as people ask it, beside a running bot or without one; nothing is written.

    Orders, ledger and rows are built by the same rooms that build them live.
    """

    def __init__(self, config: Config) -> None:
        path = DataDir(config.home).journal_path
        if not path.exists():
            raise ConfigError(f"{path}: no journal yet; run the bot in this environment first")
        self.clock = Clock()
        self.journal = Journal(path, self.clock, config.environment.value, "")
        self.journal.open_to_read()
        supervisor = Supervisor(lambda name, error: None)
        bus, container = EventBus(self.clock, supervisor), StateContainer(self.clock)
        self.execution = ExecutionService(
            clock=self.clock,
            supervisor=supervisor,
            bus=bus,
            journal=self.journal,
            rest=None,
            config=config,
            ids=own_ids(config),
            quote=lambda _: Quote(
                market=None, bid_cc=None, ask_cc=None, last_cc=None, fees=FeeSchedule()
            ),
            permit=lambda _: ALLOWED,
            container=container,
        )
        self.execution.replay()
        for fact in self.journal.facts("reconcile"):
            if fact.body.get("is_clean"):
                container.update(reconciled_at_ms=fact.at_ms)
        self.rows = RowMaker(
            Services(
                clock=self.clock,
                bus=bus,
                config=config,
                container=container,
                supervisor=supervisor,
                health=HealthMonitor(clock=self.clock, bus=bus, config=config),
                machine=StateMachine(now_s=0.0),
                run=RunFacts(run_id="", file_sha256="", account="", origins={}),
                journal=self.journal,
                execution=self.execution,
            )
        )

    def orders(self) -> list[AnyRow]:
        """Every order the journal knows, in the order in which they were first written."""
        known: dict[str, Order | None] = {}
        for fact in self.journal.facts("intent"):
            known.setdefault(str(fact.body["client_order_id"]), None)
        for fact in self.journal.facts("order"):
            known[str(fact.body["client_order_id"])] = order_of_row(fact.body)
        rows = []
        for key, written in known.items():
            order = self.execution.store.orders.get(key) or written
            if order is not None:
                rows.append(order_row(order))
        return rows

    def fills(self) -> list[AnyRow]:
        """Every fill, oldest first."""
        strategies = {row["client_order_id"]: row["decision_id"] for row in self.orders()}
        return [
            {
                "fill_id": fact.body["trade_id"],
                **{key: fact.body.get(key) for key in _FILL_KEYS},
                "at_ms": fact.body.get("at_ms"),
                "decision_id": strategies.get(fact.body.get("client_order_id")),
                "foreign": fact.body.get("is_foreign"),
            }
            for fact in self.journal.facts("fill")
        ]

    def positions(self) -> list[AnyRow]:
        """Every market that was ever held, by ticker."""
        return [
            self.rows.position(ticker) or {**_FLAT, "ticker": ticker, **_money_of(position)}
            for ticker, position in sorted(self.execution.ledger.positions.items())
        ]

    def table(self, name: str, from_ms: int, limit: int | None) -> list[AnyRow]:
        """Rows of one table of `export` since a moment, oldest first; the newest `limit`."""
        match name:
            case "orders":
                rows = [r for r in self.orders() if int(r["sent_at_ms"] or 0) >= from_ms]
            case "fills":
                rows = [r for r in self.fills() if int(r["at_ms"] or 0) >= from_ms]
            case "positions":
                rows = self.positions()
            case "daily":
                rows = self.daily(from_ms)
            case "settlements":
                facts = self.journal.facts("settlement")
                rows = [{"at_ms": f.at_ms, **f.body} for f in facts if f.at_ms >= from_ms]
            case _:
                kind = "decision" if name == "decisions" else name
                found = self.journal.rows_of(kind, since_ms=from_ms, limit=limit or EXPORT_ROWS_MAX)
                rows = [{"at_ms": f.at_ms, **f.body} for f in reversed(found)]
                for row in rows:
                    row.pop("view", None)
        return rows[-limit:] if limit is not None else rows

    def daily(self, from_ms: int) -> list[AnyRow]:
        """Per New York day and strategy ("" is the whole account): profit, fees, settlements."""
        ledger, rows = Ledger(), dict[tuple[str, str], dict[str, Any]]()
        settled: Counter[str] = Counter()
        told: dict[str, tuple[int, int]] = {}
        for fact in self.journal.facts():
            names: set[str] = {""}
            if fact.kind == "fill":
                body: AnyRow = {**fact.body, "side": Side(str(fact.body["side"]))}
                fill = Fill(**body)
                ledger.apply_fill(fill)
                names.add(fill.strategy)
            elif fact.kind == "settlement":
                ticker = str(fact.body["ticker"])
                names |= {who for who, where in ledger.by_strategy if where == ticker}
                settled[_day_of(fact.at_ms)] += 1
                ledger.settle(ticker, int(str(fact.body["settlement_cc"])))
            elif fact.kind == "adjust":
                for row in cast("Sequence[Mapping[str, Any]]", fact.body.get("positions", ())):
                    ledger.adopt_position(Position(**row))
                told[""] = _sums(ledger, "")
                continue
            else:
                continue
            day = _day_of(fact.at_ms)
            for name in sorted(names):
                before, after = told.get(name, (0, 0)), _sums(ledger, name)
                told[name] = after
                row = rows.setdefault((day, name), {"day": day, "strategy": name, **_NO_DAY})
                row["realised_ud"] += after[0] - before[0]
                row["fees_ud"] += after[1] - before[1]
                row["net_ud"] = row["realised_ud"] - row["fees_ud"]
                row["settlements"] += fact.kind == "settlement"
                row["fills"] += fact.kind == "fill"
        first = _day_of(from_ms) if from_ms else ""
        return [row for key, row in sorted(rows.items()) if key[0] >= first]

    def explain(self, some_id: str) -> AnyRow | None:
        """Decision record by decision, order or fill id, with its orders and fills."""
        orders, fills = self.orders(), self.fills()
        decision_id = next(
            (
                str(row["decision_id"] or "")
                for row in [*fills, *orders]
                if some_id in (row.get("fill_id"), row["client_order_id"], row.get("order_id"))
            ),
            some_id,
        )
        fact = self.journal.explained("decision", decision_id)
        if fact is None:
            return None
        record: AnyRow = dict(fact.body)
        record["orders"] = [row for row in orders if row["decision_id"] == decision_id]
        record["fills"] = [row for row in fills if row["decision_id"] == decision_id]
        return record


_FILL_KEYS: Final = (
    "client_order_id order_id ticker side price_cc count_h is_taker fee_ud strategy".split()
)
_FLAT: Final = {"position_h": 0, "average_cc": None, "mark_cc": None, "unrealised_ud": 0}
_NO_DAY: Final = {"realised_ud": 0, "fees_ud": 0, "settlements": 0, "net_ud": 0, "fills": 0}


def _money_of(position: Position) -> AnyRow:
    return {"realised_ud": position.realised_ud, "fees_ud": position.fees_ud}


def _day_of(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, NEW_YORK):%Y-%m-%d}"


def _sums(ledger: Ledger, strategy: str) -> tuple[int, int]:
    """Realised and fees so far: of the account, or of one strategy's own holdings."""
    held = [
        position for (name, _), position in ledger.by_strategy.items() if strategy in ("", name)
    ]
    return sum(p.realised_ud for p in held), sum(p.fees_ud for p in held)


# -- the commands -----------------------------------------------------------------------


def command_records(config: Config, args: argparse.Namespace) -> int:
    """orders, positions and fills."""
    records = Records(config)
    from_ms = since_ms(args.since, records.clock.now_ms())
    rows = records.table(args.command, from_ms, None)
    match args.command:
        case "orders":
            rows = rows if args.all else [r for r in rows if _is_live(r) and not r["foreign"]]
            columns = "sent_at_ms client_order_id ticker side price_cc count_h filled_h status"
        case "fills":
            rows = rows if args.all else [row for row in rows if not row["foreign"]]
            columns = "at_ms ticker side price_cc count_h fee_ud is_taker strategy fill_id"
        case _:
            rows = rows if args.all else [row for row in rows if row["position_h"]]
            columns = "ticker position_h average_cc realised_ud fees_ud verified_at_ms"
    rows = rows[-args.limit :] if args.limit else rows
    print_rows(args, rows, columns, f"no {args.command}")
    return EXIT_OK


def _is_live(row: AnyRow) -> bool:
    return OrderStatus(str(row["status"])).is_live


def command_explain(config: Config, args: argparse.Namespace) -> int:
    """One decision, line by line; with --verify the strategy is run again on the stored view."""
    record = Records(config).explain(args.what)
    if record is None:
        print(f"{args.what}: no decision, order or fill with this id is kept", file=sys.stderr)
        return EXIT_CHECK
    view = record.pop("view", None)
    if args.json:
        print(json.dumps(record, indent=1, default=str))
    else:
        print("\n".join(_explain_lines(record)))
    return _verify(config, record, view) if args.verify else EXIT_OK


def _explain_lines(record: AnyRow) -> list[str]:
    head = ("decision_id", "at_ms", "ticker", "strategy", "reason", "value", "limit")
    lines = [f"{_heading(key):12} {shown(f'_{key}', record.get(key))}" for key in head]
    lines += [f"book {side:7} {record['book'][side]}" for side in record.get("book", ())]
    for key, value in record.get("features", {}).items():
        lines.append(f"  {key} {value:g}")
    for edge in record.get("edges", ()):
        steps = (f"{_heading(key)} {shown(key, value)}" for key, value in edge.items())
        lines.append(f"edge         {', '.join(steps)}")
    for row in record["orders"]:
        lines.append(
            f"order        {row['client_order_id']} {row['side']} {shown('_h', row['count_h'])} at "
            f"{shown('_cc', row['price_cc'])}: {row['status']}"
        )
    for row in record["fills"]:
        lines.append(
            f"fill         {row['fill_id']} {shown('_h', row['count_h'])} at "
            f"{shown('_cc', row['price_cc'])}, fee {shown('_ud', row['fee_ud'])}"
        )
    return lines


def _verify(config: Config, record: AnyRow, view: Any) -> int:
    """Same view, same wants? 3 when not; the strategy is that of the present settings."""
    if not isinstance(view, Mapping):
        print("no view was stored with this decision", file=sys.stderr)
        return EXIT_CHECK
    name = str(record["strategy"])
    strategies = {each.name: each for each in build_strategies(config)}
    if name not in strategies:
        strategies = {
            each.name: each
            for each in build_strategies(replace(config, strategy=(name,), strategy_params={}))
        }
    decision = strategies[name].decide(load_view(view, FeeSchedule(**record["fees"])))
    wants = [
        {"slot": w.slot, "side": w.side, "price_cc": w.price_cc, "count_h": w.count_h}
        for w in decision.wants
    ]
    is_same = wants == record.get("wants")
    print("verified: the same wants" if is_same else f"DIFFERENT: now it wants {wants}")
    return EXIT_OK if is_same else EXIT_CHECK


def command_export(config: Config, args: argparse.Namespace) -> int:
    """One table of the journal, to the terminal or a file."""
    if args.what not in EXPORT_TABLES:
        raise ConfigError(f"export {args.what!r:.40}: there are {', '.join(EXPORT_TABLES)}")
    form = args.format or ("json" if args.json else "csv")
    if form not in ("csv", "json", "ndjson"):
        raise ConfigError(f"--format {form!r:.40}: there are csv, json, ndjson")
    records = Records(config)
    rows = records.table(args.what, since_ms(args.since, records.clock.now_ms()), args.limit)
    write_out(REDACTOR.clean(_as_text(rows, form)), args)
    if args.out and not args.quiet:
        print(f"{len(rows)} rows of {args.what} written to {args.out}")
    return EXIT_OK


def _as_text(rows: Sequence[AnyRow], form: str) -> str:
    if form == "json":
        return json.dumps(rows, indent=1, default=str) + "\n"
    if form == "ndjson":
        return "".join(json.dumps(row, default=str) + "\n" for row in rows)
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: json.dumps(value, default=str) if isinstance(value, dict | list) else value
                for key, value in row.items()
            }
        )
    return text.getvalue()


def write_out(text: str, args: argparse.Namespace) -> None:
    """To --out, or to the terminal; ConfigError for a path that cannot be written."""
    if not args.out:
        print(text, end="")
        return
    try:
        Path(args.out).expanduser().write_text(text)
    except OSError as error:
        raise ConfigError(f"--out {args.out}: {error.strerror or error}") from error


# ======================================================================================
# §24h AUDIT
# Purpose:   Rebuild cash and positions from the exchange's REST alone; compare with the journal.
# Position:  Uses §05c, §07, §14d, §15, §24d to §24g. A process of its own, with a key of its own.
# Principle: It reads, and only reads. A difference that stays is a difference, whoever is to blame.
# ======================================================================================

AUDIT_TRIES: Final = 4  # a fill between two readings is no difference; one that stays is
AUDIT_READINGS: Final = 2
AUDIT_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPicture:
    """What REST tells of an account, read while its cash did not move."""

    balance: Balance
    positions: tuple[PositionReport, ...]
    fills: tuple[FillReport, ...]
    settlements: tuple[Settlement, ...]
    resting: tuple[OrderReport, ...]


async def read_account(rest: KalshiRest) -> AccountPicture:
    """Read everything between two equal balances; the last reading counts when it never rests."""
    for left in reversed(range(AUDIT_READINGS)):
        before = await rest.balance()
        picture = AccountPicture(
            positions=tuple(await rest.positions()),
            fills=tuple(await rest.fills()),
            settlements=tuple(await rest.settlements()),
            resting=tuple(await rest.orders(status="resting")),
            balance=await rest.balance(),
        )
        if picture.balance.cash_ud == before.cash_ud or not left:
            return picture
    raise AssertionError("the loop above returns")


def rebuild(picture: AccountPicture, baseline: Fact | None) -> Ledger:
    """Cash and positions from the exchange's own fills and settlements.

    The start is the first take-over of the journal: what was deposited no list of REST tells.
    """
    ledger, from_ms, seen = Ledger(), 0, set[tuple[str, str]]()
    if baseline is not None:
        from_ms = baseline.at_ms
        body = cast("Mapping[str, Any]", baseline.body)
        ledger.cash_ud = int(body["cash_ud"])
        for row in body["positions"]:
            ledger.adopt_position(Position(**row))
        seen = {(trade_id, order_id) for trade_id, order_id in body["seen"]}
    events: list[tuple[int, int, FillReport | Settlement]] = [
        (fill.at_ms, 0, fill)
        for fill in picture.fills
        if (fill.trade_id, fill.order_id) not in seen
        and fill.at_ms >= from_ms - 1000 * _FILL_MARGIN_S
    ]
    events += [(each.at_ms, 1, each) for each in picture.settlements if each.at_ms >= from_ms]
    for _, _, event in sorted(events, key=lambda row: row[:2]):
        if isinstance(event, FillReport):
            ledger.apply_fill(fill_of_report(event))
        else:
            paid_cc = {"yes": CC_PER_DOLLAR, "no": 0}.get(event.result, event.value_cc or 0)
            value_cc = paid_cc if event.value_cc is None else event.value_cc
            ledger.settle(event.ticker, value_cc)
    return ledger


def fill_of_report(report: FillReport) -> Fill:
    """A fill of the account as the ledger takes it; whose it was plays no part here."""
    fields = "trade_id order_id client_order_id ticker side price_cc count_h is_taker fee_ud at_ms"
    values: AnyRow = {name: getattr(report, name) for name in fields.split()}
    return Fill(**values)


def compare_account(
    picture: AccountPicture, rebuilt: Ledger, records: Records, ids: ClientIds
) -> list[AnyRow]:
    """One row per thing compared: cash, each holding, the lists of fills and of own orders."""
    journal, held = records.execution.ledger, {p.ticker: p.position_h for p in picture.positions}
    rows = [
        {
            "what": "cash_ud",
            "exchange_ud": picture.balance.cash_ud,
            "rebuilt_ud": rebuilt.cash_ud,
            "journal_ud": journal.cash_ud,
        }
    ]
    for ticker in sorted(held.keys() | rebuilt.positions.keys() | journal.positions.keys()):
        three = held.get(ticker, 0), rebuilt.position_h(ticker), journal.position_h(ticker)
        names = ("exchange_h", "rebuilt_h", "journal_h")
        rows.append({"what": ticker, **dict(zip(names, three, strict=True))})
    booked = {fact.key for fact in records.journal.facts("fill")}
    theirs = {f"{fill.trade_id}|{fill.order_id}" for fill in picture.fills}
    rows.append({"what": "fills not in the list of REST", "journal_n": len(booked - theirs)})
    live = {order.client_order_id for order in records.execution.store.live()}
    resting = {o.client_order_id for o in picture.resting if ids.is_ours(o.client_order_id)}
    rows.append({"what": "own orders the journal does not know", "exchange_n": len(resting - live)})
    return [{**row, "same": _is_same(row)} for row in rows]


def _is_same(row: AnyRow) -> bool:
    values = [value for key, value in row.items() if key != "what"]
    return len(set(values)) == 1 if len(values) > 1 else values == [0]


def command_audit(config: Config, args: argparse.Namespace) -> int:
    """Rebuild, compare, tell; 5 for a difference that stays."""
    if config.is_embedded:
        raise ConfigError(
            "audit needs an exchange that outlives its bot: --env paper or production, or "
            "sim_exchange.py run alone (KALSHI_API_URL)"
        )
    need_key(config)
    if (args.audit_key_id is None) != (args.audit_key_file is None):
        raise ConfigError("--audit-key-id and --audit-key-file belong together; give both")
    signer = None
    if args.audit_key_id is not None:
        is_sim = config.environment is Environment.SIM
        path = Path(args.audit_key_file).expanduser()
        pem = read_key_file(path, is_sim=is_sim, repository=HERE)
        signer = load_signer(pem, args.audit_key_id)
    rows, scopes = asyncio.run(_audit(config, signer, args.audit_key_id or config.key_id or ""))
    is_clean = all(row["same"] for row in rows)
    if args.json:
        print(json.dumps({"is_clean": is_clean, "scopes": scopes, "rows": rows}, indent=1))
    elif not (args.quiet and is_clean):
        print("\n".join(_audit_lines(rows, scopes, signer is not None)))
    return EXIT_OK if is_clean else EXIT_DIFFERENCE


async def _audit(
    config: Config, signer: KalshiSigner | None, key_id: str
) -> tuple[list[AnyRow], list[str] | None]:
    rows: list[AnyRow] = []
    async with visit(config, signer) as there:
        rest = there.rest
        await rest.exchange_status()
        rest.apply_clock()
        for _ in range(AUDIT_TRIES):
            picture, records = await read_account(rest), Records(config)
            baseline = next(records.execution.adjustments(), None)
            rebuilt = rebuild(picture, baseline)
            rows = compare_account(picture, rebuilt, records, own_ids(config))
            records.journal.close()
            if all(row["same"] for row in rows):
                break
            await asyncio.sleep(AUDIT_PAUSE_S)
        return rows, await _scopes_of(rest, key_id)


async def _scopes_of(rest: KalshiRest, key_id: str) -> list[str] | None:
    """What a key may do, sorted; None where that cannot be read."""
    try:
        keys = dict(await rest.api_keys())
    except (ExchangeError, WireError):
        return None
    return sorted(keys[key_id]) if key_id in keys else None


def _audit_lines(rows: Sequence[AnyRow], scopes: list[str] | None, is_own_key: bool) -> list[str]:
    lines = []
    if not is_own_key:
        lines.append("key: the bot's own; give the audit a read-only one with --audit-key-id")
    if scopes is not None and scopes != ["read"] and is_own_key:
        lines.append(f"warn: the audit's key may do more than read ({', '.join(scopes)})")
    for row in rows:
        values = ", ".join(
            f"{_heading(key)} {shown(key, value)}"
            for key, value in row.items()
            if key not in ("what", "same")
        )
        lines.append(f"{'ok  ' if row['same'] else 'DIFF'} {row['what']}: {values}")
    return lines


# ======================================================================================
# §24i DOCTOR
# Purpose:   Check everything a run needs, from Python to the order book, each fault with its fix.
# Position:  Uses §02, §09, §14 to §17, §24a to §24h. Sends no order.
# Principle: Each check stands alone; what could not be checked is not called well.
# ======================================================================================

DOCTOR_SNAPSHOT_S: Final = 10.0
DOCTOR_WATCH_S: Final = 5.0
DOCTOR_READINGS: Final = 6
DOCTOR_VIEWS: Final = 100
DOCTOR_VIEW_MAX_S: Final = 0.05
DOCTOR_WAIT_S: Final = 5.0
NEEDED_PACKAGES: Final = ("aiohttp", "cryptography", "orjson", "python-dotenv")
_DOCTOR_FAULTS: Final = (TraderError, aiohttp.ClientError, OSError, TimeoutError, sqlite3.Error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What one check found; `word` is ok, warn or FAIL."""

    number: int
    check: str
    word: str
    value: str
    fix: str = ""


class Ailment(TraderError):
    """A check's bad end: what was found, and what mends it."""

    def __init__(self, value: str, fix: str, *, is_warning: bool = False) -> None:
        super().__init__(value)
        self.value, self.fix, self.is_warning = value, fix, is_warning


class Doctor:
    """The checks of OPERATIONS §8. `config` is None when the settings are wrong (`wrong` says how).

    A check answers what it found, or raises: Ailment with its own fix, any other fault with the
    fix of the table.
    """

    def __init__(
        self,
        config: Config | None,
        *,
        wrong: str = "",
        warnings: Sequence[str] = (),
        changed: Sequence[str] = (),
    ) -> None:
        self._config, self._wrong = config, wrong
        self._warnings, self._changed = warnings, changed
        self._there: Visit | None = None
        self._market: Market | None = None
        self._data: OrderbookIntegration | None = None
        self._balance: Balance | None = None
        self._fed_s = 0.0

    async def examine(self, *, with_alert: bool) -> list[Diagnosis]:
        """Every check in order; the exchange is opened once for all that need it."""
        found = [await self._try(row) for row in _LOCAL_CHECKS]
        if self._config is None:
            return found + [_unchecked(row, "settings") for row in _REMOTE_CHECKS]
        if with_alert:
            found.append(await self._try(_ALERT_CHECK))
        try:
            need_key(self._config)
            async with visit(self._config) as self._there:
                found += [await self._try(row) for row in _REMOTE_CHECKS]
        except _DOCTOR_FAULTS as error:
            done = {finding.number for finding in found}
            why = f"the exchange cannot be opened ({_first_line(error)})"
            found += [_unchecked(row, why) for row in _REMOTE_CHECKS if row.number not in done]
        return sorted(found, key=lambda finding: finding.number)

    async def _try(self, row: Check) -> Diagnosis:
        word, fix = "ok", ""
        try:
            value = row.ask(self)
            if not isinstance(value, str):
                value = await value
        except Ailment as error:
            word, value, fix = "warn" if error.is_warning else "FAIL", error.value, error.fix
        except _DOCTOR_FAULTS as error:
            word, value, fix = "FAIL", _first_line(error), row.fix
        return Diagnosis(number=row.number, check=row.name, word=word, value=value, fix=fix)

    # -- this machine -------------------------------------------------------------------

    def python(self) -> str:
        """1: the version runs this file, and asserts are on, or main() had refused."""
        assert sys.version_info >= (3, 11), "the file does not compile with an older Python"
        return f"{sys.version.split()[0]}, asserts on"

    def packages(self) -> str:
        """2: the four packages, as pinned."""
        pins = dict(re.findall(r"(?m)^([\w-]+)==([\w.]+)", _text_of(HERE / "requirements.txt")))
        have = {name: importlib.metadata.version(name) for name in NEEDED_PACKAGES}
        strange = [
            f"{name} {version} instead of {pins[name]}"
            for name, version in have.items()
            if pins.get(name, version) != version
        ]
        if strange:
            raise Ailment(", ".join(strange), "pip install -r requirements.txt", is_warning=True)
        if not pins:
            raise Ailment("requirements.txt is not here", "fetch it again", is_warning=True)
        return ", ".join(f"{name} {version}" for name, version in have.items())

    def settings(self) -> str:
        """3: valid, none unknown; what differs from the defaults."""
        if self._config is None:
            raise Ailment(self._wrong, "correct it; config show --origin tells where it stands")
        if self._warnings:
            raise Ailment("; ".join(self._warnings), "remove or rename it", is_warning=True)
        return ", ".join(self._changed) or "all as by default"

    def folder(self) -> str:
        """4: ours alone, writable, with room on the disk."""
        data_dir = DataDir(self._known.home)
        data_dir.make()
        if not os.access(data_dir.path, os.W_OK):
            raise Ailment(f"{data_dir.path} is read-only", "make it writable, or use --data-dir")
        free = data_dir.free_bytes()
        if free < DISK_FREE_MIN:
            raise Ailment(f"{free / 1e9:.1f} GB free", "free at least 1 GB, or use --data-dir")
        return f"{data_dir.path}, {free / 1e9:.0f} GB free"

    def journal(self) -> str:
        """5: of this program and environment, whole, its chain unbroken."""
        data_dir = DataDir(self._known.home)
        path = data_dir.journal_path
        if not path.exists():
            return "none yet"
        journal = Journal(path, Clock(), self._known.environment.value, "")
        journal.open_to_read()
        try:
            environment = journal.about("environment")
            if environment != self._known.environment.value:
                raise Ailment(f"belongs to {environment}", "use another --data-dir")
            if not self._known.is_embedded and journal.about("account") != tag_of(
                self._known.key_id or ""
            ):
                raise Ailment("belongs to another account", "use another --data-dir")
            if not journal.is_sound():
                fix = f"mv {path}* {data_dir.path / 'backups'}/ ; the next start rebuilds it"
                raise Ailment("damaged", fix)
            facts = sum(1 for _ in journal.facts())
        finally:
            journal.close()
        return f"{facts} facts, chain unbroken"

    def instance(self) -> str:
        """6: nobody holds the folder or the port."""
        holder = DataDir(self._known.home).holder()
        if holder is not None:
            who = f"a bot runs: pid {holder.get('pid')}, port {holder.get('port')}"
            raise Ailment(who, "stop it before another start", is_warning=True)
        try:
            with socket.create_server((self._known.host, self._known.port)):
                pass
        except OSError as error:
            what = f"port {self._known.port}: {error.strerror or error}"
            raise Ailment(what, "stop what listens there, or choose another with --port") from error
        return f"port {self._known.port} is free"

    def key(self) -> str:
        """7: readable by us alone, of a kind the exchange takes."""
        if self._known.is_embedded:
            return "the embedded exchange makes its own"
        need_key(self._known)
        load_signer(read_key_pem(self._known), self._known.key_id or "")
        return f"parses; key id ends in {tag_of(self._known.key_id or '')}"

    async def strategy(self) -> str:
        """21: loads, and answers random views in time."""
        strategies, slowest_s = build_strategies(self._known), 0.0
        for strategy in strategies:
            for view in random_views(DOCTOR_VIEWS, self._known.sim_seed):
                started_s = Clock().real_s()
                try:
                    strategy.decide(view)
                except Exception as error:  # a user's own code may raise anything
                    at = traceback.extract_tb(error.__traceback__)[-1]
                    what = f"{strategy.name}: {error!r:.120} in line {at.lineno} of {at.filename}"
                    raise Ailment(what, "mend the strategy") from error
                slowest_s = max(slowest_s, Clock().real_s() - started_s)
        if slowest_s > DOCTOR_VIEW_MAX_S:
            raise Ailment(f"slowest answer {slowest_s * 1000:.1f} ms", "it must take under 1 ms")
        names = ", ".join(each.name for each in strategies)
        return f"{names}: {DOCTOR_VIEWS} views, slowest {slowest_s * 1000:.2f} ms"

    async def webhook(self) -> str:
        """22: answers a test message."""
        if self._known.alert_url is None:
            raise Ailment("no alert_url is set", "set V3_ALERT_URL")
        hook = Webhook(self._known.alert_url)
        try:
            text = {"json": "text", "slack": "text", "discord": "content"}
            key = text[self._known.alert_format]
            status = await hook.post(orjson.dumps({key: "doctor: the webhook works"}))
        finally:
            await hook.close()
        if not 200 <= status < 300:
            raise Ailment(f"status {status}", "check the address and its channel")
        return f"status {status}"

    # -- the exchange -------------------------------------------------------------------

    @property
    def _known(self) -> Config:
        if self._config is None:
            raise Ailment("not checked: the settings are wrong", "mend check 3 first")
        return self._config

    @property
    def _rest(self) -> KalshiRest:
        assert self._there is not None, "remote checks run with the exchange open"
        return self._there.rest

    async def key_home(self) -> str:
        """8: the exchange of this environment knows the key."""
        try:
            self._balance = await self._rest.balance()
        except ExchangeError as error:
            if error.status in (401, 403):
                other = "production" if self._known.environment is Environment.PAPER else "demo"
                fix = f"is it a {other} key? compare id, key file and environment"
                raise Ailment(f"{self._known.environment.value} refuses it", fix) from error
            raise
        return f"known to {self._known.environment.value}"

    async def hosts(self) -> str:
        """9: names resolve, and TLS is spoken where it must be."""
        assert self._there is not None, "remote checks run with the exchange open"
        told = []
        for url in (self._there.venue.api_url, self._there.venue.ws_url):
            parts = urlsplit(url)
            tls = secure_tls() if parts.scheme in ("https", "wss") else None
            port = parts.port or (443 if tls else 80)
            async with asyncio.timeout(DOCTOR_WAIT_S):
                _, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
            writer.close()
            told.append(f"{parts.hostname}:{port} {'TLS' if tls else 'plain'}")
        return ", ".join(dict.fromkeys(told))

    async def clock(self) -> str:
        """10: ours against the exchange's."""
        offset_s = await self._rest.sync_clock()
        what, fix = f"offset {offset_s:+.2f} s", "turn NTP on"
        if abs(offset_s) >= 1.0:
            raise Ailment(what, fix, is_warning=abs(offset_s) < 5.0)
        return what

    async def exchange(self) -> str:
        """11: open, and when it pauses next."""
        is_active, is_trading = await self._rest.exchange_status()
        pause = _next_pause(await self._rest.schedule())
        if not (is_active and is_trading):
            what = "the exchange is closed" if not is_active else "trading is paused"
            raise Ailment(what, f"wait; next pause known: {pause}", is_warning=True)
        return f"open; next pause {pause}"

    async def signed_read(self) -> str:
        """12: a signed request is answered; a refusal in the exchange's own words."""
        self._balance = await self._rest.balance()
        return "balance was read with our signature"

    async def scopes(self) -> str:
        """13: read and write, no more."""
        assert self._there is not None, "remote checks run with the exchange open"
        found = await _scopes_of(self._rest, self._there.venue.signer.key_id)
        if found is None:
            return "not readable with this key"
        if "write" not in found and self._known.trading:
            raise Ailment(", ".join(found), "make a key with write scope, or use --watch")
        if set(found) - {"read", "write"}:
            raise Ailment(", ".join(found), "make a narrower key", is_warning=True)
        return ", ".join(found)

    async def limits(self) -> str:
        """14: the account's token buckets."""
        limits = await self._rest.learn_limits()
        return f"tier {limits.tier}: {limits.read_per_s} reads/s, {limits.write_per_s} writes/s"

    async def cash(self) -> str:
        """15: enough for an opening order."""
        balance = self._balance or await self._rest.balance()
        what = f"{show_dollars(balance.cash_ud)} dollars"
        if balance.cash_ud < self._known.min_cash_ud:
            fix = f"add funds, or lower min_cash_dollars ({show_dollars(self._known.min_cash_ud)})"
            raise Ailment(what, fix, is_warning=True)
        return what

    async def account(self) -> str:
        """16: what is open already, ours and other."""
        ids = own_ids(self._known)
        resting = await self._rest.orders(status="resting")
        held = [p for p in await self._rest.positions() if p.position_h]
        ours = sum(ids.is_ours(order.client_order_id) for order in resting)
        what = f"{ours} orders of ours, {len(resting) - ours} foreign, {len(held)} positions"
        if len(resting) > ours:
            fix = "leave them, or give this bot an account of its own"
            raise Ailment(what, fix, is_warning=True)
        return what

    async def shapes(self) -> str:
        """17: markets and books look as this program expects them."""
        markets, _, refused = await self._rest.markets_page(limit=100, status="open")
        if refused:
            what = f"{refused} of {refused + len(markets)} markets were not understood"
            raise Ailment(what, "the exchange changed a field; look for a newer version")
        active = [m for m in markets if m.status == "active" and m.bid_cc and m.ask_cc]
        if not active:
            raise Ailment("no market with two sides", "look again later", is_warning=True)
        self._market = active[0]
        await self._rest.orderbook(self._market.ticker)
        return f"{len(markets)} markets; {len(self._market.grid.prices)} prices on the grid"

    async def fees(self) -> str:
        """18: the fee formula of the market's series is known."""
        event = await self._rest.event(self._need_market().event_ticker)
        series = await self._rest.series(event.series)
        if series.fee_type not in MAKER_RATE_PPM:
            fix = "no order is sent there until it is known"
            raise Ailment(f"{series.ticker}: {series.fee_type}", fix, is_warning=True)
        return f"{series.ticker}: {series.fee_type}"

    def _need_market(self) -> Market:
        if self._market is None:
            raise Ailment("not checked: no market was read", "mend check 17 first")
        return self._market

    async def snapshot(self) -> str:
        """19: the socket opens, subscribes, and the book is there in time."""
        assert self._there is not None, "remote checks run with the exchange open"
        there, market = self._there, self._need_market()
        bus = EventBus(there.clock, there.supervisor)
        stream = KalshiStream(
            session=there.session,
            ws_url=there.venue.ws_url,
            signer=there.venue.signer,
            clock=there.clock,
            supervisor=there.supervisor,
            bus=bus,
            config=self._known,
        )
        self._data = OrderbookIntegration(
            stream=stream, rest=there.rest, clock=there.clock, bus=bus, config=self._known
        )
        self._data.follow([market])
        there.supervisor.spawn(stream.run(), name="stream")
        there.supervisor.spawn(self._data.run(), name="market_data")
        started_s = there.clock.real_s()
        while not self._data.proven:
            waited_s = there.clock.real_s() - started_s
            if waited_s > DOCTOR_SNAPSHOT_S:
                fix = f"look for a firewall or proxy ({stream.last_error or 'no answer'})"
                raise Ailment(f"no book of {market.ticker} in {DOCTOR_SNAPSHOT_S:.0f} s", fix)
            await asyncio.sleep(0.02)
        self._fed_s = there.clock.real_s()
        return f"{market.ticker} in {there.clock.real_s() - started_s:.1f} s"

    async def sequence(self) -> str:
        """20: numbers unbroken, and the stream's book equals REST."""
        if self._data is None or not self._data.proven:
            raise Ailment("not checked: no book came", "mend check 19 first")
        await asyncio.sleep(max(0.0, DOCTOR_WATCH_S - (Clock().real_s() - self._fed_s)))
        ticker, differences = self._need_market().ticker, set[tuple[str, int]]()
        for number in range(DOCTOR_READINGS):  # a level that moves differs now and then, not always
            theirs = (await self._rest.orderbooks([ticker]))[ticker]
            found = self._data.books[ticker].differences(*theirs)
            differences = found if number == 0 else differences & found
            if not differences:
                break
            await asyncio.sleep(0.3)
        counters = self._data.counters()
        if counters["gaps"]:
            raise Ailment(f"{counters['gaps']} gaps", "look at the network; books are read anew")
        if differences:
            what = f"{len(differences)} levels of {ticker} differ from REST"
            raise Ailment(what, "do not trade; look for a newer version")
        return f"unbroken for {DOCTOR_WATCH_S:.0f} s, {self._data.deltas} changes, equals REST"


class Check(NamedTuple):
    """One row of OPERATIONS §8: its number, its name, how to ask, what mends a plain fault."""

    number: int
    name: str
    ask: Callable[[Doctor], str | Coroutine[Any, Any, str]]
    fix: str


_LOCAL_CHECKS: Final = (
    Check(1, "python", Doctor.python, "install Python 3.11 or newer"),
    Check(2, "packages", Doctor.packages, "pip install -r requirements.txt"),
    Check(3, "settings", Doctor.settings, "correct it"),
    Check(4, "data directory", Doctor.folder, "choose another with --data-dir"),
    Check(5, "journal", Doctor.journal, "move it to backups/; the next start rebuilds it"),
    Check(6, "instance and port", Doctor.instance, "stop the other program"),
    Check(7, "key", Doctor.key, "see .env.example"),
    Check(21, "strategy", Doctor.strategy, "correct --strategy"),
)
_REMOTE_CHECKS: Final = (  # in the order of asking: check 20 watches while the others are made
    Check(9, "hosts", Doctor.hosts, "look at DNS, firewall, proxy"),
    Check(17, "markets and books", Doctor.shapes, "the exchange changed a field; newer version?"),
    Check(19, "socket", Doctor.snapshot, "look at firewall and proxy"),
    Check(10, "clock", Doctor.clock, "turn NTP on"),
    Check(11, "exchange", Doctor.exchange, "look at the exchange's status page"),
    Check(8, "key's environment", Doctor.key_home, "compare key and environment"),
    Check(12, "signed read", Doctor.signed_read, "wrong key, wrong id, or the clock"),
    Check(13, "scopes", Doctor.scopes, "make a key with read and write scope"),
    Check(14, "rate limits", Doctor.limits, "the exchange changed its limits; newer version?"),
    Check(15, "cash", Doctor.cash, "add funds"),
    Check(16, "orders and positions", Doctor.account, "cancel-all, or leave them"),
    Check(18, "fees", Doctor.fees, "the dearer schedule is assumed"),
    Check(20, "sequence", Doctor.sequence, "look at the network"),
)
_ALERT_CHECK: Final = Check(22, "webhook", Doctor.webhook, "check the address")


def _unchecked(row: Check, why: str) -> Diagnosis:
    return Diagnosis(
        number=row.number, check=row.name, word="FAIL", value=f"not checked: {why}", fix=row.fix
    )


def _first_line(error: BaseException) -> str:
    return REDACTOR.clean((str(error) or repr(error)).splitlines()[0])[:200]


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _next_pause(schedule: Json) -> str:
    """Start of the next maintenance window, as the exchange writes it; "none known"."""
    inner = schedule.get("schedule")
    windows = inner.get("maintenance_windows") if isinstance(inner, dict) else None
    starts = [
        str(row["start_datetime"])
        for row in windows or ()
        if isinstance(row, dict) and row.get("start_datetime")
    ]
    return escape_controls(min(starts, default="none known"))


def random_views(count: int, seed: int) -> Iterator[MarketView]:
    """Views of markets as they might be: random books, positions and half a minute of past."""
    rng = random.Random(seed)
    for number in range(count):
        mid_cc, now_ms = rng.randrange(600, 9400, 100), 1_800_000_000_000 + 1000 * number
        spread_cc = 100 * rng.randrange(1, 4)
        tape = MarketTape(now_ms - 31_000)
        for second in range(31):
            tape.on_mid(now_ms - 1000 * (31 - second), 2 * mid_cc + rng.randrange(-100, 101))
        bid_cc = mid_cc - spread_cc
        yield build_view(
            Market(
                ticker="KXDOCTOR-1-T1",
                event_ticker="KXDOCTOR-1",
                series="KXDOCTOR",
                title="",
                status="active",
                open_at_ms=now_ms - 3_600_000,
                close_at_ms=now_ms + rng.randrange(60_000, 86_400_000),
                grid=PriceGrid(((0, CC_PER_DOLLAR, 100),)),
            ),
            yes=tuple((bid_cc - 100 * n, rng.randrange(100, 9000)) for n in range(3)),
            no=tuple((10_000 - mid_cc - 100 * n, rng.randrange(100, 9000)) for n in range(3)),
            tape=tape.read(now_ms),
            holding=Holding(
                position_h=100 * rng.randrange(-2, 3),
                average_cc=mid_cc,
                cash_ud=10**9,
                headroom_ud=10**8,
                equity_ud=10**9,
            ),
            fees=FeeSchedule(),
            memory=EMPTY,
            now_ms=now_ms,
            age_ms=rng.randrange(1000),
            evaluation=number,
            draw=rng.random(),
        )


def command_doctor(doctor: Doctor, args: argparse.Namespace) -> int:
    """Every check with its fix; 3 when one failed."""
    found = asyncio.run(doctor.examine(with_alert=bool(args.alert)))
    is_well = all(finding.word != "FAIL" for finding in found)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    elif not (args.quiet and is_well):
        for finding in found:
            fix = f" → {finding.fix}" if finding.fix and finding.word != "ok" else ""
            line = f"{finding.number:2} {finding.word:4} {finding.check}: {finding.value}{fix}"
            print(escape_controls(line))
    return EXIT_OK if is_well else EXIT_CHECK


# ======================================================================================
# §24j MAIN
# Purpose:   Which command it is, and the exit code of whatever comes of it.
# Position:  Uses every room. The end of the file.
# Principle: Nothing ends silently: a sentence and a code, or a traceback for a mistake of ours.
# ======================================================================================


def command_config(config: Config, found: Mapping[str, Sourced], args: argparse.Namespace) -> int:
    """Show every setting with value and source, or only check them."""
    if args.what == "check":
        need_key(config)
        print("settings are valid")
        return EXIT_OK
    rows = [r for r in settings_rows(found, config) if not args.changed or r["source"] != "default"]
    if args.json:
        print(json.dumps(rows, indent=2))
        return EXIT_OK
    for row in rows:
        origin = f"   # {row['source']}" if args.origin else ""
        print(f"{row['name']} = {row['value']}{origin}")
    return EXIT_OK


def command_replay(found: Mapping[str, Sourced], args: argparse.Namespace) -> int:
    """Tapes at full speed in virtual time; `--queue all` makes a pass for each model."""
    texts = {name: given.text for name, given in found.items()}
    if not texts.get("sim_tape"):
        raise ConfigError("replay needs --tape DIR (a folder with *.ndjson.gz and event.json)")
    queue = texts.get("queue_model", "realistic")
    models = QUEUE_MODELS if queue == "all" else (queue,)
    texts |= {"environment": "sim", "record": "off"}
    fee_type, multiplier = args.fee_type or "quadratic", args.fee_multiplier or "1"
    logging.getLogger("trader").setLevel(logging.CRITICAL)
    reports = []
    for model in models:
        config = build_config(texts | {"queue_model": model})
        report = run_replay(config, fee_type=fee_type, fee_multiplier=multiplier)
        reports.append(report)
        if not args.json:
            print("\n".join(report.lines()))
    if args.json:
        rows = [dataclasses.asdict(report) for report in reports]
        print(json.dumps(rows, indent=1, sort_keys=True))
    else:
        print(
            f"tapes {', '.join(Path(path).name for path in config.sim_tape)}; fees assumed "
            f"{fee_type} × {multiplier}; eight tapes or fewer prove nothing"
        )
    if any(report.halted for report in reports):
        return EXIT_HALTED
    return EXIT_OK if all(report.equals_exchange for report in reports) else EXIT_DIFFERENCE


def command_version() -> int:
    """Version, file hash, Python, dependencies."""
    print(
        f"trader {VERSION} file {file_digest(Path(__file__))[:12]} python {sys.version.split()[0]}"
    )
    print(f"aiohttp {aiohttp.__version__} orjson {orjson.__version__}")
    return EXIT_OK


def _own_settings(args: argparse.Namespace) -> dict[str, str]:
    """Settings that a command implies, whatever the flags say."""
    if args.command == "record":
        minutes = {"duration_s": str(60 * args.minutes)} if args.minutes else {}
        return {"trading": "false", "strategy": "hold", **minutes}
    if args.command in ("replay", "backtest") and args.serve:
        return {"environment": "sim", "record": "off"}
    return {}


def _make_doctor(args: argparse.Namespace, environ: MutableMapping[str, str], root: Path) -> Doctor:
    """The doctor has to speak where the settings themselves are what is wrong."""
    set_quiet_logs()
    try:
        found, warnings = gather(args, environ, root)
        config = build_config({name: given.text for name, given in found.items()})
    except ConfigError as error:
        return Doctor(None, wrong=str(error))
    rows = (r for r in settings_rows(found, config) if r["source"] != "default")
    changed = [f"{row['name']} {row['value']}" for row in rows]
    return Doctor(config, warnings=warnings, changed=changed)


def _dispatch(argv: Sequence[str], environ: MutableMapping[str, str], root: Path) -> int:
    args = parse_arguments(argv)
    if args.command == "version":
        return command_version()
    implied = _own_settings(args)

    def texts_of(found: Mapping[str, Sourced]) -> dict[str, str | None]:
        return {**{name: given.text for name, given in found.items()}, **implied}

    if args.command == "doctor":
        return command_doctor(_make_doctor(args, environ, root), args)
    found, warnings = gather(args, environ, root)
    if args.command in ("replay", "backtest") and not args.serve:
        return command_replay(found, args)
    config = build_config(texts_of(found))
    if args.command == "record" and config.record_dir is None:
        if config.record == "off":
            raise ConfigError("record and --no-record contradict each other; leave one out")
        config = replace(config, record=str(config.home / "tapes"))
    if args.command in _ONE_SHOT:
        set_quiet_logs()
        return _ONE_SHOT[args.command](config, args)
    if args.command == "config":
        return command_config(config, found, args)

    def reload() -> Config:
        return build_config(texts_of(gather(args, environ, root)[0]))

    return command_run(config, found, warnings, reload)


_ONE_SHOT: Final[Mapping[str, Callable[[Config, argparse.Namespace], int]]] = {
    "status": command_status,
    "markets": command_markets,
    "explain": command_explain,
    "export": command_export,
    "audit": command_audit,
    **dict.fromkeys(("orders", "positions", "fills"), command_records),
    **dict.fromkeys(CONTROL_COMMANDS, command_control),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code of OPERATIONS §4."""
    if not __debug__:
        print("error: this program needs its assertions; start Python without -O", file=sys.stderr)
        return EXIT_USAGE
    sys.modules.setdefault("trader", sys.modules[__name__])
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv, os.environ, HERE)
    except LockHeldError as error:
        if sys.stderr.isatty():
            print(error, file=sys.stderr)
        return EXIT_LOCKED
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (TraderError, aiohttp.ClientError, TimeoutError) as error:
        print(f"error: {_sentence_of(error)}", file=sys.stderr)
        return _code_of(error)


def _code_of(error: Exception) -> int:
    match error:
        case ConfigError() | JournalError():
            return EXIT_USAGE
        case NoBotError():
            return EXIT_NO_BOT
        case _:
            return EXIT_UNREACHABLE


def _sentence_of(error: Exception) -> str:
    match error:
        case ExchangeError():
            return f"the exchange does not answer as it should: {error}"
        case aiohttp.ClientError() | TimeoutError():
            return f"nobody answers: {error!r:.200}"
        case _:
            return REDACTOR.clean(str(error))


if __name__ == "__main__":
    sys.exit(main())
