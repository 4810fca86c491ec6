"""Tests of the simulated exchange, room by room.

Purpose
    Prove the exchange's rules against the documents, a second matcher, recordings, the official
    schemas, tapes, and clients that nobody here wrote.

Key Responsibilities
    1. Tables and properties for every room, in the order of sim_exchange.py.
    2. Everything said over REST and WebSocket is checked against the official schemas.
    3. Long campaigns as commands, so that the suite stays short.

Architecture Position
    Run by pytest. Reads ../shared where it exists; what needs it is skipped elsewhere.

Design Principles
    - The second matcher, the frame reader and the signer are written here, from scratch.
    - Time is a field that a test moves.

Run it
    pytest test_sim_exchange.py
    python test_sim_exchange.py --events 1000000
    python test_sim_exchange.py --fuzz 1000000
    python test_sim_exchange.py --speed 200000 --stream 400000 --writes 3000
"""
from __future__ import annotations

import argparse
import ast
import asyncio
import base64
import gzip
import inspect
import json
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

import sim_exchange as sim

ROOT = Path(__file__).resolve().parent
SHARED = ROOT.parent / "shared"
RECORDINGS = SHARED / "kalshi" / "recordings"
TAPES = SHARED / "tapes"
OPENAPI = SHARED / "kalshi" / "openapi.yaml"
ASYNCAPI = SHARED / "kalshi" / "asyncapi.yaml"
NOW_S = 1_795_341_600.0                 # 2026-11-22T10:00:00Z
TICKER = "KXDEMO-26NOV22-T60"

pytestmark = pytest.mark.xdist_group("sim_exchange")  # one worker: its fixtures are costly


# ======================================================================================
# The test's own tools
# ======================================================================================
class ManualTime:
    """A clock that a test moves."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def wall_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


class Ear:
    """A Sink that keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def publish(self, notes: list[Any]) -> None:
        self.notes += notes

    def take(self, kind: type) -> list[Any]:
        found = [note for note in self.notes if isinstance(note, kind)]
        self.notes.clear()
        return found


def make_engine(cash: str = "1000", seed: int = 1, **switches: str) -> sim.Engine:
    """An engine with one open market and nobody in it."""
    engine = sim.Engine(switches=sim.Switches(switches), rng=random.Random(seed), sink=Ear(),
                        cash_ud=sim.parse_money_ud(cash), now_us=int(NOW_S * 1e6))
    add_market(engine)
    engine.sink.notes.clear()
    return engine


def add_market(engine: sim.Engine, ticker: str = TICKER, *, grid: str = "linear_cent",
               fee_type: str = "quadratic", multiplier_e4: int = 10_000, open_in_s: int = -3600,
               close_in_s: int = 86_400, timer_s: float = 60) -> sim.Market:
    """List one market whose series carries its own name."""
    series_ticker = ticker.split("-")[0]
    event_ticker = ticker.rpartition("-")[0]
    series = engine.series.get(series_ticker) or sim.Series(
        ticker=series_ticker, title="Demo series", category="Economics", fee_type=fee_type,
        multiplier_e4=multiplier_e4)
    event = engine.events.get(event_ticker) or sim.Event(
        ticker=event_ticker, series=series, title="Demo value", sub_title="On Nov 22",
        category="Economics")
    market = sim.Market(
        ticker=ticker, market_id=engine.new_id(), event=event, title="Above 60?",
        yes_title="Above 60", no_title="60 or below", grid=sim.Grid.named(grid),
        created_us=engine.now_us - 10**10, open_us=engine.now_us + open_in_s * 10**6,
        close_us=engine.now_us + close_in_s * 10**6, timer_s=timer_s)
    engine.add_market(market)
    return market


def order(side: str, price: str, count: str, **more: Any) -> sim.OrderRequest:
    """A create in the words of the exchange."""
    price_cc, count_h = sim.parse_price_cc(price), sim.parse_count_h(count)
    assert price_cc is not None
    assert count_h is not None
    ticker = more.pop("ticker", TICKER)
    return sim.OrderRequest(ticker=ticker, is_bid=side == "bid", price_cc=price_cc,
                            count_h=count_h, **more)


def crowd(engine: sim.Engine, side: str, price: str, count: str, ticker: str = TICKER,
          rests: bool = True) -> sim.Order | None:
    """An order of somebody else."""
    request = order(side, price, count)
    return engine.crowd_order(engine.markets[ticker], request.is_bid, request.price_cc,
                              request.count_h, rests)


def book_of(engine: sim.Engine, ticker: str = TICKER) -> dict[str, list[list[str]]]:
    """Both legs' bids, as on the wire."""
    return sim.orderbook_body(engine.markets[ticker], 0)   # type: ignore[return-value]


def refused(action: Callable[[], object]) -> str:
    """The refusal of an action as "status code details"."""
    with pytest.raises(sim.Refusal) as caught:
        action()
    return str(caught.value)


class World:
    """A whole exchange on a clock that the test moves, spoken to without a socket."""

    def __init__(self, **settings: Any) -> None:
        self.time = ManualTime(settings.pop("now_s", NOW_S))
        switches = {"read_lag_ms": "0", **settings.pop("switches", {})}
        settings = {"markets": 0, "tier": "off", **settings}
        self.exchange = sim.SimExchange(sim.SimSettings(switches=switches, **settings), self.time)
        self.exchange.hub._schedule = lambda action: None
        self.engine = self.exchange.engine
        credentials = self.exchange.credentials
        self.signer = Signer(credentials.private_pem, credentials.key_id)
        if not settings.get("tapes") and not settings["markets"]:
            add_market(self.engine)

    def advance(self, seconds: float) -> None:
        self.time.now_s += seconds
        self.exchange.tick()

    def rest(self, method: str, path: str, body: Any = None, *,
             headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """One signed call; the answer as the client sees it."""
        target = sim.REST_ROOT + path
        raw = b"" if body is None else body if isinstance(body, bytes) else (
            json.dumps(body).encode())
        signed = self.signer.headers(method, target.partition("?")[0], self.time.now_s)
        call = sim.RestCall(method, target, signed if headers is None else headers, raw)
        self.exchange.tick()
        answer = self.exchange.api.answer(call)
        payload = None if answer.payload is None else orjson.loads(orjson.dumps(answer.payload))
        LEDGER.rest(method, path, answer.status, payload)
        return answer.status, payload

    def create(self, side: str, price: str, count: str, /, **more: Any) -> tuple[int, Any]:
        body = {"ticker": TICKER, "side": side, "price": price, "count": count,
                "time_in_force": "good_till_canceled",
                "self_trade_prevention_type": "taker_at_cross", **more}
        return self.rest("POST", "/portfolio/events/orders", body)

    def socket(self) -> Socket:
        return Socket(self)


class Socket:
    """One WebSocket session without a network."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._bytes = bytearray()
        self.session = world.exchange.hub.open(self._bytes.extend)
        self._ids = 0

    def send(self, cmd: str, **params: Any) -> list[dict[str, Any]]:
        """One command; everything that came until its answer, decoded."""
        self._ids += 1
        body: dict[str, Any] = {"id": self._ids, "cmd": cmd}
        if params:
            body["params"] = params
        self.session.receive(json.dumps(body))
        return self.read()

    def raw(self, text: str | bytes) -> list[dict[str, Any]]:
        self.session.receive(text)
        return self.read()

    def read(self) -> list[dict[str, Any]]:
        """Frames that arrived since the last read."""
        self._world.exchange.hub.flush()
        frames = [orjson.loads(text) for text in frames_of(self._bytes)]
        self._bytes.clear()
        for frame in frames:
            LEDGER.frame(frame)
        return frames


def frames_of(data: bytes | bytearray) -> Iterator[bytes]:
    """Payloads of unmasked text frames (a reader of its own)."""
    at = 0
    while at < len(data):
        assert data[at] == 0x81, "a final text frame"
        size, at = data[at + 1], at + 2
        if size == 126:
            size, at = int.from_bytes(data[at:at + 2], "big"), at + 2
        elif size == 127:
            size, at = int.from_bytes(data[at:at + 8], "big"), at + 8
        yield bytes(data[at:at + size])
        at += size


class Signer:
    """Signs as a client does."""

    def __init__(self, pem: str, key_id: str) -> None:
        self._key = serialization.load_pem_private_key(pem.encode(), None)
        self._key_id = key_id

    def headers(self, method: str, path: str, now_s: float) -> dict[str, str]:
        stamp = str(int(now_s * 1000))
        text = f"{stamp}{method}{path}".encode()
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            signature = self._key.sign(text)
        else:
            assert isinstance(self._key, rsa.RSAPrivateKey)
            signature = self._key.sign(text, padding.PSS(
                mgf=padding.MGF1(hashes.SHA256()), salt_length=32), hashes.SHA256())
        return {"KALSHI-ACCESS-KEY": self._key_id, "KALSHI-ACCESS-TIMESTAMP": stamp,
                "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode()}


def shape_of(value: Any) -> Any:
    """Keys and JSON types of a value; equal for equal shapes."""
    if isinstance(value, dict):
        return tuple(sorted((key, shape_of(item)) for key, item in value.items()))
    if isinstance(value, list):
        return ("list", *sorted({repr(shape_of(item)) for item in value}))
    return type(value).__name__


class SchemaLedger:
    """Collects every different shape that was answered, to hold it against the schemas."""

    def __init__(self) -> None:
        self.answers: dict[Any, tuple[str, str, int, Any]] = {}
        self.frames: dict[Any, dict[str, Any]] = {}

    def rest(self, method: str, path: str, status: int, payload: Any) -> None:
        plain = path.partition("?")[0]
        template = re.sub(r"KX[^/]+|[0-9a-f]{8}-[0-9a-f-]{27}", "{}", plain)
        self.answers.setdefault((method, template, status, repr(shape_of(payload))),
                                (method, plain, status, payload))

    def frame(self, frame: dict[str, Any]) -> None:
        self.frames.setdefault(repr(shape_of(frame)), frame)


LEDGER = SchemaLedger()


@pytest.fixture
def world() -> World:
    return World()


# ======================================================================================
# §00 THE HOUSE
# ======================================================================================
SOURCE = (ROOT / "sim_exchange.py").read_text()
TREE = ast.parse(SOURCE)


def test_map_in_the_docstring_equals_the_banners() -> None:
    banners = re.findall(r"^# (§E\d\d[a-f]? [A-Z -]+)$", SOURCE, re.MULTILINE)
    told = re.findall(r"§E\d\d[a-f]? [A-Z-]+(?: [A-Z]+)*", sim.__doc__ or "")
    assert [banner.strip() for banner in banners] == told


def test_it_shares_no_code_with_the_trader() -> None:
    names = {alias.name for node in ast.walk(TREE) if isinstance(node, ast.Import | ast.ImportFrom)
             for alias in node.names}
    modules = {node.module for node in ast.walk(TREE) if isinstance(node, ast.ImportFrom)}
    assert "trader" not in names | modules


def test_lines_and_functions_and_classes_are_short() -> None:
    assert [line for line in SOURCE.splitlines() if len(line) > 100] == []
    long = [f"{node.name}: {(node.end_lineno or 0) - node.lineno + 1}" for node in ast.walk(TREE)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.end_lineno or 0) - node.lineno + 1 > 70]
    assert long == []


def _defined() -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Classes, functions and methods; not what is local to a function."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in TREE.body:
        if isinstance(node, kinds):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from (member for member in node.body if isinstance(member, kinds))


def test_public_names_have_docstrings() -> None:
    bare = [node.name for node in _defined()
            if not node.name.startswith("_") and ast.get_docstring(node) is None]
    assert bare == []


def test_the_machines_clock_is_read_in_one_class_only() -> None:
    users = {node.name for node in TREE.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
             and any(isinstance(part, ast.Attribute) and part.attr in ("time", "monotonic")
                     and isinstance(part.value, ast.Name) and part.value.id == "_clock"
                     for part in ast.walk(node))}
    assert users == {"RealTime"}


def test_rooms_use_only_rooms_above_when_the_file_loads() -> None:
    # A name used while the file loads must exist by then; annotations are not evaluated.
    subprocess.run([sys.executable, "-c", "import sim_exchange"], cwd=ROOT, check=True, timeout=30)


# ======================================================================================
# §E01 UNITS
# ======================================================================================
@pytest.mark.parametrize(("text", "want"), [
    ("0.5600", 5600), ("0.56", 5600), ("1", 10_000), ("0", 0), ("0.0001", 1), ("0.", 0),
    ("", None), ("-0.5", None), ("0.56001", None), ("5e-1", None), ("0,5", None), (" 0.5", None),
    ("nan", None), ("٠.٥", None),
])
def test_prices_are_read_exactly_or_not_at_all(text: str, want: int | None) -> None:
    assert sim.parse_price_cc(text) == want


@pytest.mark.parametrize("count_h", [0, 1, 99, 100, 101, 777, 10**9, -1, -30, -100, -12_345])
def test_counts_survive_the_wire(count_h: int) -> None:
    text = sim.count_text(count_h)
    back = sim.parse_count_h(text.removeprefix("-"))
    assert back == abs(count_h)
    assert text.startswith("-") == (count_h < 0)


@pytest.mark.parametrize(("money_ud", "six", "four"), [
    (98_018_600, "98.018600", "98.0186"), (98_018_699, "98.018699", "98.0186"),
    (-17_500, "-0.017500", "-0.0175"), (-17_501, "-0.017501", "-0.0176"), (0, "0.000000", "0.0000"),
])
def test_money_is_written_with_six_or_four_decimals(money_ud: int, six: str, four: str) -> None:
    assert (sim.money_text(money_ud), sim.money4_text(money_ud)) == (six, four)


@pytest.mark.parametrize(("at_us", "want"), [
    (1_781_159_370_000_000, "2026-06-11T06:29:30Z"),
    (1_781_159_370_107_000, "2026-06-11T06:29:30.107Z"),
    (1_781_159_370_047_840, "2026-06-11T06:29:30.04784Z"),
])
def test_times_drop_trailing_zeros_and_survive(at_us: int, want: str) -> None:
    assert sim.time_text(at_us) == want
    assert sim.parse_time_us(want) == at_us


def test_versions_answer_what_was_true_then() -> None:
    versions: sim.Versions[str] = sim.Versions()
    for second in range(100):
        versions.put(second * 10**6, f"v{second}")
    assert versions.at(99 * 10**6 - 1) == "v98"
    assert versions.at(10**12) == "v99"
    assert versions.at(-1) is None
    assert len(versions._rows) < 40


# ======================================================================================
# §E02 SETTINGS
# ======================================================================================
@pytest.mark.parametrize(("bad", "says"), [
    ({"tier": "gold"}, "tier"), ({"queue": "kind"}, "queue"), ({"markets": -1}, "markets"),
    ({"balance_dollars": "much"}, "dollars"), ({"faults": "some"}, "faults"),
    ({"switches": {"dedup": "x"}}, "did you mean dedupe"), ({"key_type": "dsa"}, "key_type"),
    ({"switches": {"dedupe": "x"}}, "lifetime_409"), ({"latency_ms": -1}, "latency_ms"),
    ({"switches": {"skew_window_s": "wide"}}, "number"), ({"fee_type": "free"}, "fee_type"),
])
def test_impossible_settings_are_refused_in_one_sentence(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        sim.SimSettings(**bad)


def test_every_switch_of_the_documents_exists_with_its_default() -> None:
    text = (SHARED / "RELIABILITY.md")
    if not text.exists():
        pytest.skip("../shared is not here")
    table = text.read_text().partition("### 4.4")[2].partition("### 4.5")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert named
    assert named <= set(sim.SWITCHES)


def test_every_switch_default_is_one_of_its_values() -> None:
    for name, switch in sim.SWITCHES.items():
        sim.Switches({name: switch.default})
        for value in switch.values:
            sim.Switches({name: value})


def test_list_switches_names_them_all() -> None:
    listed = sim.list_switches()
    assert [line.split()[0] for line in listed.splitlines()] == list(sim.SWITCHES)


# ======================================================================================
# §E03 FEES
# ======================================================================================
DIRECT, APP = sim.FeeRounding(100), sim.FeeRounding(10_000)
MAKER_FEES = sim.FeePlan("quadratic_with_maker_fees", 10_000)
PLAIN = sim.FeePlan("quadratic", 10_000)
FEE_VECTORS = [                         # PROTOCOL 8.2: contracts, price, taker, revenue sign
    ("buy 1 @0.52 taker", PLAIN, 100, 5200, True, -1, (17_500, -537_500), (20_000, -540_000)),
    ("buy 1 @0.99 taker", PLAIN, 100, 9900, True, -1, (700, -990_700), (10_000, -1_000_000)),
    ("buy 100 @0.50 taker", PLAIN, 10_000, 5000, True, -1, (1_750_000, -51_750_000),
     (1_750_000, -51_750_000)),
    ("sell 10 @0.63 closing", PLAIN, 1000, 6300, True, 1, (163_200, 6_136_800),
     (170_000, 6_130_000)),
    ("buy 100 @0.50 maker", MAKER_FEES, 10_000, 5000, False, -1, (437_500, -50_437_500),
     (440_000, -50_440_000)),
    ("buy 0.01 @0.333 maker", PLAIN, 1, 3330, False, -1, (70, -3_400), (6_670, -10_000)),
]


@pytest.mark.parametrize("rounding", [DIRECT, APP], ids=["direct", "app"])
@pytest.mark.parametrize("vector", FEE_VECTORS, ids=lambda row: row[0].replace(" ", "_"))
def test_fee_vectors_of_the_exchange(vector: Any, rounding: sim.FeeRounding) -> None:
    _, plan, count_h, price_cc, is_taker, sign, direct, app = vector
    revenue_ud = sign * count_h * price_cc
    fee_ud, _ = sim.fill_fee(plan, rounding, count_h=count_h, price_cc=price_cc, is_taker=is_taker,
                             revenue_ud=revenue_ud, accumulated_ud=0)
    assert (fee_ud, revenue_ud - fee_ud) == (direct if rounding is DIRECT else app)


@pytest.mark.parametrize(("rounding", "want"), [(DIRECT, [3_700, 3_600, 3_700]),
                                                (APP, [5_000, 5_000, 5_000])])
def test_fee_accumulator_gives_rounding_back(rounding: sim.FeeRounding, want: list[int]) -> None:
    accumulated, fees = 0, []
    for _ in range(3):
        fee, accumulated = sim.fill_fee(PLAIN, rounding, count_h=100, price_cc=550, is_taker=True,
                                        revenue_ud=-55_000, accumulated_ud=accumulated)
        fees.append(fee)
    assert fees == want


@pytest.mark.parametrize(("fee_type", "is_taker", "want"), [
    ("quadratic", False, 0), ("quadratic", True, 1_750_000),
    ("quadratic_with_maker_fees", False, 437_500), ("quadratic_with_combo_maker_fees", False,
                                                    875_000), ("flat", True, 0),
])
@pytest.mark.parametrize("multiplier_e4", [0, 5_000, 10_000])
def test_fee_types_and_multipliers(fee_type: str, is_taker: bool, want: int,
                                   multiplier_e4: int) -> None:
    fee, _ = sim.fill_fee(sim.FeePlan(fee_type, multiplier_e4), DIRECT, count_h=10_000,
                          price_cc=5_000, is_taker=is_taker, revenue_ud=-50_000_000,
                          accumulated_ud=0)
    exact = want * multiplier_e4 // 10_000
    assert fee in (exact, -(-exact // 100) * 100)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rounding", [DIRECT, APP, sim.FeeRounding(100, True)],
                         ids=["direct", "app", "june"])
def test_fee_is_never_negative_and_cash_is_on_the_step(seed: int,
                                                       rounding: sim.FeeRounding) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        accumulated, total, model = 0, 0, 0
        plan = sim.FeePlan(rng.choice(sim.FEE_TYPES), rng.choice([0, 5_000, 10_000]))
        for _ in range(rng.randint(1, 6)):
            count_h, price_cc, is_taker = rng.randint(1, 5_000), rng.randint(1, 9_999), True
            revenue = rng.choice([-1, 1]) * count_h * price_cc
            fee, accumulated = sim.fill_fee(plan, rounding, count_h=count_h, price_cc=price_cc,
                                            is_taker=is_taker, revenue_ud=revenue,
                                            accumulated_ud=accumulated)
            assert fee >= 0
            assert (revenue - fee) % rounding.step_ud == 0
            assert accumulated >= 0
            top, bottom = plan.model(count_h, price_cc, is_taker)
            total, model = total + fee, model + top
        assert total * bottom >= model                  # the exchange never gives money away


# ======================================================================================
# §E04 ACCOUNTS
# ======================================================================================
def test_netting_example_of_the_documents() -> None:
    account = sim.Account(0, 10**9, 0, sim.Switches({}))
    account.book("A", 1000, 4000, 0, 1)
    account.book("A", -400, 4500, 0, 2)
    state = account.state("A")
    assert account.cash_ud == 10**9 - 4_000_000 + 1_800_000
    assert (state.position_h, state.realized_ud, state.cost_ud) == (600, 200_000, 2_400_000)


@pytest.mark.parametrize(("rule", "realized"), [("average", 100_000), ("fifo", 200_000)])
def test_cost_basis_follows_its_switch(rule: str, realized: int) -> None:
    account = sim.Account(0, 10**9, 0, sim.Switches({"position_cost": rule}))
    account.book("A", 100, 4000, 0, 1)
    account.book("A", 100, 6000, 0, 2)
    account.book("A", -100, 6000, 0, 3)
    assert account.state("A").realized_ud == realized


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rule", ["average", "fifo"])
def test_position_value_equals_cash_whatever_the_fills(seed: int, rule: str) -> None:
    rng = random.Random(seed)
    account = sim.Account(0, 10**12, 0, sim.Switches({"position_cost": rule}))
    for n in range(200):
        account.book("A", rng.choice([-1, 1]) * rng.randint(1, 2_000), rng.randint(1, 9_999), 0, n)
        state = account.state("A")
        assert account.cash_ud == 10**12 + state.realized_ud - state.cost_ud
    value_cc = rng.choice([0, 10_000, 3_300])
    paid_ud, kept_ud = account.settle("A", value_cc, 201)
    assert paid_ud % 10_000 == 0
    assert 0 <= kept_ud < 10_000
    assert account.cash_ud + kept_ud == 10**12 + account.state("A").realized_ud


# ======================================================================================
# §E05 BOOK, §E06 MARKETS
# ======================================================================================
@pytest.mark.parametrize(("grid", "valid", "invalid"), [
    ("linear_cent", [100, 5000, 9900], [0, 10_000, 150, 5150]),
    ("tapered_deci_cent", [10, 990, 1000, 5000, 9010], [5, 1010, 5010, 9005]),
    ("center_deci_edge_centi_cent", [1, 99, 110, 9990, 9999], [101, 5005]),
    ("deci_cent", [10, 5010], [5, 5005]),
])
def test_grid_is_the_ranges(grid: str, valid: list[int], invalid: list[int]) -> None:
    one = sim.Grid.named(grid)
    assert all(one.is_valid(cc) for cc in valid)
    assert not any(one.is_valid(cc) for cc in invalid)


@pytest.mark.parametrize("grid", sim.GRIDS)
def test_rounding_to_a_grid_gives_a_valid_price(grid: str) -> None:
    one = sim.Grid.named(grid)
    assert all(one.is_valid(one.round_cc(cc)) for cc in range(-50, 10_050, 7))


def test_candles_add_up_over_periods() -> None:
    engine = make_engine()
    market = engine.markets[TICKER]
    rng = random.Random(3)
    for _ in range(300):
        engine.advance(engine.now_us + 30 * 10**6)
        cents = rng.randint(40, 60)
        crowd(engine, "ask", f"0.{cents}", "5")
        crowd(engine, "bid", f"0.{cents}", "3")
    end_s = engine.now_us // 10**6 + 86_400
    minutes, hours, days = (market.candles(period, 0, end_s) for period in (60, 3600, 86_400))
    for rows in (minutes, hours, days):
        assert sum(row.volume_h for row in rows) == market.volume_h
        assert all(a.end_s < b.end_s for a, b in pairwise(rows))
    assert max(row.price[2] for row in minutes if row.price) == max(
        row.price[2] for row in hours if row.price)


# ======================================================================================
# §E07 ENGINE: matching
# ======================================================================================
class SlowMatcher:
    """The rules of PROTOCOL 7 in the most obvious way: one list, searched every time."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []            # oldest first

    def submit(self, number: int, is_bid: bool, price: int, count: int, mine: bool, tif: str,
               post_only: bool, stp: str) -> tuple[str, list[tuple[int, int, int]]]:
        """("rests" | "ends" | "refused", [(maker number, price, count)])."""
        against = [row for row in self.rows if row["bid"] != is_bid
                   and (row["price"] <= price if is_bid else row["price"] >= price)]
        if post_only and against:
            return "refused", []
        if tif == "fill_or_kill" and not self._enough(against, is_bid, count, mine):
            return "refused", []
        fills: list[tuple[int, int, int]] = []
        stopped = False
        while count and not stopped:
            maker = self._best(is_bid, price)
            if maker is None:
                break
            if mine and maker["mine"]:
                if stp == "maker":
                    self.rows.remove(maker)
                    continue
                stopped = True
                break
            part = min(count, maker["count"])
            fills.append((maker["n"], maker["price"], part))
            count -= part
            maker["count"] -= part
            if not maker["count"]:
                self.rows.remove(maker)
        if count and not stopped and tif == "good_till_canceled":
            self.rows.append({"n": number, "bid": is_bid, "price": price, "count": count,
                              "mine": mine})
            return "rests", fills
        return "ends", fills

    @staticmethod
    def _enough(against: list[dict[str, Any]], is_bid: bool, count: int, mine: bool) -> bool:
        ordered = sorted(against, key=lambda row: row["price"] if is_bid else -row["price"])
        total = 0
        for row in ordered:
            if mine and row["mine"]:
                return True                             # behaves like immediate-or-cancel
            total += row["count"]
            if total >= count:
                return True
        return False

    def _best(self, is_bid: bool, price: int) -> dict[str, Any] | None:
        best = None
        for row in self.rows:
            if row["bid"] == is_bid or (row["price"] > price if is_bid else row["price"] < price):
                continue
            if best is None or (row["price"] < best["price"] if is_bid else
                                row["price"] > best["price"]):
                best = row
        return best

    def levels(self) -> dict[tuple[bool, int], int]:
        totals: dict[tuple[bool, int], int] = defaultdict(int)
        for row in self.rows:
            totals[row["bid"], row["price"]] += row["count"]
        return dict(totals)


class Duel:
    """Random events to the engine and to the slow matcher; both must agree after each."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.engine = make_engine("100000000", seed)
        self.market = self.engine.markets[TICKER]
        self.ear: Ear = self.engine.sink            # type: ignore[assignment]
        self.slow = SlowMatcher()
        self.theirs: dict[int, sim.Order] = {}
        self.ours: dict[int, str] = {}
        self.numbers: dict[int, int] = {}           # engine's order number -> ours
        self.told: dict[tuple[bool, int], int] = defaultdict(int)
        self.n = 0

    def step(self) -> None:
        draw = self.rng.random()
        if draw < 0.40:
            self._submit_crowd()
        elif draw < 0.75:
            self._submit_mine()
        elif draw < 0.85:
            self._cancel_crowd()
        elif draw < 0.92:
            self._cancel_mine()
        elif draw < 0.96:
            self._decrease_mine()
        else:
            self._amend_mine()
        self._hear()

    def _draw(self) -> tuple[int, bool, int, int]:
        self.n += 1
        return (self.n, self.rng.random() < 0.5, self.rng.randint(45, 55) * 100,
                self.rng.choice([1, 37, 100, 250, 1000, 1777]))

    def _submit_crowd(self) -> None:
        n, is_bid, price, count = self._draw()
        tif = "good_till_canceled" if self.rng.random() < 0.7 else "immediate_or_cancel"
        verdict, _ = self.slow.submit(n, is_bid, price, count, False, tif, False, "")
        placed = self.engine.crowd_order(self.market, is_bid, price, count,
                                         tif == "good_till_canceled")
        assert (placed is not None) == (verdict == "rests")
        if placed is not None:
            self.theirs[n] = placed

    def _submit_mine(self) -> None:
        n, is_bid, price, count = self._draw()
        tif = self.rng.choice(["good_till_canceled"] * 4 + ["immediate_or_cancel", "fill_or_kill"])
        post_only, stp = self.rng.random() < 0.2, self.rng.choice(["taker_at_cross", "maker"])
        verdict, fills = self.slow.submit(n, is_bid, price, count, True, tif, post_only, stp)
        try:
            mine = self.engine.create(sim.OrderRequest(
                ticker=TICKER, is_bid=is_bid, count_h=count, price_cc=price, time_in_force=tif,
                post_only=post_only, stp=stp, client_order_id=f"c{n}"))
        except sim.Refusal:
            assert verdict == "refused"
            return
        assert verdict == ("rests" if mine.status == "resting" else "ends")
        assert mine.filled_h == sum(part for _, _, part in fills)
        assert mine.cost_on_yes_ud == sum(part * at for _, at, part in fills)
        self.ours[n] = mine.order_id

    def _row(self, n: int) -> dict[str, Any] | None:
        return next((row for row in self.slow.rows if row["n"] == n), None)

    def _cancel_crowd(self) -> None:
        if not self.theirs:
            return
        n = self.rng.choice(list(self.theirs))
        row, placed = self._row(n), self.theirs.pop(n)
        if row is None:
            assert placed.remaining_h == 0
            return
        self.slow.rows.remove(row)
        self.engine.crowd_cancel(placed)

    def _mine(self) -> tuple[dict[str, Any], str] | None:
        rows = [row for row in self.slow.rows if row["mine"]]
        if not rows:
            assert not self.engine.open
            return None
        row = self.rng.choice(rows)
        return row, self.ours[row["n"]]

    def _cancel_mine(self) -> None:
        found = self._mine()
        if found is not None:
            self.slow.rows.remove(found[0])
            _, gone_h = self.engine.cancel(found[1])
            assert gone_h == found[0]["count"]

    def _decrease_mine(self) -> None:
        found = self._mine()
        if found is None or found[0]["count"] < 2:
            return
        left_h = self.rng.randint(1, found[0]["count"] - 1)
        found[0]["count"] = left_h
        assert self.engine.decrease(found[1], by_h=None, to_h=left_h).remaining_h == left_h

    def _amend_mine(self) -> None:
        found = self._mine()
        if found is None:
            return
        row, order_id = found
        _, _, price, count = self._draw()
        mine = self.engine.open[order_id]
        if price == row["price"] and count <= row["count"]:
            row["count"] = count
        else:
            self.slow.rows.remove(row)
            if mine.post_only and self._would_cross(row["bid"], price):
                pass                                    # PostOnlyCrossCancel
            else:
                self.slow.submit(row["n"], row["bid"], price, count, True, "good_till_canceled",
                                 False, mine.stp)
        self.engine.amend(order_id, sim.Amendment(ticker=TICKER, is_bid=row["bid"], price_cc=price,
                                                  count_h=mine.filled_h + count))

    def _would_cross(self, is_bid: bool, price: int) -> bool:
        return self.slow._best(is_bid, price) is not None

    def _hear(self) -> None:
        """Deltas told so far must rebuild the book."""
        for note in self.ear.take(sim.BookNote):
            key = (note.is_bid, note.price_cc)
            self.told[key] += note.delta_h
            assert self.told[key] >= 0, "a level went negative"

    def check(self) -> None:
        """Everything that must hold at every moment."""
        book = self.market.book
        real = {(side.is_bid, cc): level.total_h for side in (book.bids, book.asks)
                for cc, level in side.levels.items()}
        assert real == self.slow.levels()
        assert real == {key: h for key, h in self.told.items() if h}
        assert self.engine.imbalance_ud() == 0
        bid, ask = book.bids.best_cc, book.asks.best_cc
        assert bid is None or ask is None or bid < ask, "crossed"
        assert bid == max((cc for is_bid, cc in real if is_bid), default=None)
        assert ask == min((cc for is_bid, cc in real if not is_bid), default=None)

    def finish(self) -> None:
        """No self-match, and the account is the sum of its fills."""
        fills = Counter(fill.trade_id for fill in self.engine.fills)
        assert max(fills.values(), default=0) <= 1
        held = sum(fill.count_h if fill.is_bid else -fill.count_h for fill in self.engine.fills)
        assert held == self.engine.account.position_h(TICKER)
        for mine in self.engine.orders.values():
            total = sum(fill.count_h for fill in self.engine.fills
                        if fill.order_id == mine.order_id) if self.n < 2_000 else mine.filled_h
            assert total == mine.filled_h


@pytest.mark.parametrize("seed", range(8))
def test_engine_agrees_with_the_slow_matcher_after_every_event(seed: int) -> None:
    duel = Duel(seed)
    for _ in range(600):
        duel.step()
        duel.check()
    duel.finish()


def test_price_then_time_then_resting_price() -> None:
    engine = make_engine()
    crowd(engine, "ask", "0.50", "5")
    crowd(engine, "ask", "0.49", "5")
    crowd(engine, "ask", "0.49", "5")
    mine = engine.create(order("bid", "0.99", "12"))
    assert [fill.price_cc for fill in engine.fills] == [4900, 4900, 5000]
    assert mine.cost_on_yes_ud == 10 * 490_000 + 2 * 500_000
    assert (mine.status, mine.price_cc) == ("executed", 9900)


def test_first_come_first_served_at_one_price() -> None:
    engine = make_engine()
    first = engine.create(order("bid", "0.40", "5"))
    crowd(engine, "bid", "0.40", "5")
    last = engine.create(order("bid", "0.40", "5"))
    crowd(engine, "ask", "0.40", "11")
    assert (first.filled_h, last.filled_h) == (500, 100)


@pytest.mark.parametrize(("tif", "status", "filled"), [
    ("good_till_canceled", "resting", 300), ("immediate_or_cancel", "canceled", 300),
])
def test_rest_of_an_order_rests_or_is_cancelled(tif: str, status: str, filled: int) -> None:
    engine = make_engine()
    crowd(engine, "ask", "0.50", "3")
    mine = engine.create(order("bid", "0.50", "10", time_in_force=tif))
    assert (mine.status, mine.filled_h) == (status, filled)


def test_fill_or_kill_is_all_or_a_409_that_burns_the_id() -> None:
    engine = make_engine()
    crowd(engine, "ask", "0.50", "3")
    kill = order("bid", "0.50", "4", time_in_force="fill_or_kill", client_order_id="k")
    assert refused(lambda: engine.create(kill)) == "409 fill_or_kill_insufficient_resting_volume"
    assert refused(lambda: engine.create(kill)) == "409 order_already_exists"
    done = engine.create(order("bid", "0.50", "3", time_in_force="fill_or_kill"))
    assert done.status == "executed"


@pytest.mark.parametrize(("listed", "again"), [("on", "409 order_already_exists"),
                                               ("off", "400 invalid_order post only cross")])
def test_post_only_that_crosses_is_refused_and_listed_by_switch(listed: str, again: str) -> None:
    engine = make_engine(post_only_cross_is_listed=listed)
    crowd(engine, "ask", "0.50", "3")
    request = order("bid", "0.50", "1", post_only=True, client_order_id="p")
    assert refused(lambda: engine.create(request)) == "400 invalid_order post only cross"
    assert refused(lambda: engine.create(request)) == again
    assert [one.reason for one in engine.orders.values()] == (
        ["PostOnlyCrossCancel"] if listed == "on" else [])


def test_self_trade_cancels_the_taker_and_leaves_the_resting_order() -> None:
    engine = make_engine()
    crowd(engine, "bid", "0.48", "1")
    resting = engine.create(order("bid", "0.47", "2"))
    taker = engine.create(order("ask", "0.47", "5", time_in_force="immediate_or_cancel"))
    assert (taker.status, taker.filled_h, taker.reason) == ("canceled", 100, "SelfTradeCancel")
    assert (resting.status, resting.remaining_h) == ("resting", 200)


def test_self_trade_mode_maker_cancels_the_resting_order_and_goes_on() -> None:
    engine = make_engine()
    resting = engine.create(order("bid", "0.48", "2"))
    crowd(engine, "bid", "0.47", "5")
    taker = engine.create(order("ask", "0.47", "5", stp="maker"))
    assert (resting.status, resting.reason) == ("canceled", "SelfTradeCancel")
    assert (taker.status, taker.filled_h) == ("executed", 500)


@pytest.mark.parametrize(("held", "side", "asked", "filled", "reason"), [
    ("10", "ask", "4", 400, "Trade"), ("10", "ask", "15", 1000, "Trade"),
    ("10", "bid", "5", 0, "ReduceOnlyCancel"), ("0", "ask", "5", 0, "ReduceOnlyCancel"),
])
def test_reduce_only_never_opens(held: str, side: str, asked: str, filled: int,
                                 reason: str) -> None:
    engine = make_engine()
    if held != "0":
        crowd(engine, "ask", "0.50", held)
        engine.create(order("bid", "0.50", held))
    crowd(engine, "bid", "0.45", "100")
    crowd(engine, "ask", "0.55", "100")
    price = "0.45" if side == "ask" else "0.55"
    mine = engine.create(order(side, price, asked, reduce_only=True,
                               time_in_force="immediate_or_cancel"))
    assert (mine.filled_h, mine.reason) == (filled, reason)
    assert engine.account.position_h(TICKER) >= 0


def test_reduce_only_must_be_immediate() -> None:
    engine = make_engine()
    assert refused(lambda: engine.create(order("ask", "0.5", "1", reduce_only=True))).startswith(
        "400 invalid_order")


@pytest.mark.parametrize(("request_", "want"), [
    (order("bid", "0.505", "1"), "400 invalid_price"),
    (order("bid", "0", "1"), "400 invalid_price"),
    (order("bid", "1", "1"), "400 invalid_price"),
    (order("bid", "0.5", "0"), "400 invalid_order_size"),
    (order("bid", "0.5", "2001"), "400 insufficient_balance"),
    (order("bid", "0.5", "1", ticker="KXNONE"), "404 market_not_found"),
    (order("bid", "0.5", "1", expiry_us=1), "400 invalid_parameters"),
    (order("bid", "0.5", "1", expiry_us=9**18, time_in_force="immediate_or_cancel"),
     "400 invalid_parameters"),
    (order("bid", "0.5", "1", group_id="none"), "404 order_group_not_found"),
    (order("bid", "0.5", "1", subaccount=7), "400 invalid_parameters"),
])
def test_refused_creates_leave_everything_as_it_was(request_: sim.OrderRequest, want: str) -> None:
    engine = make_engine()
    crowd(engine, "ask", "0.60", "3000")
    before = (book_of(engine), engine.account.cash_ud, len(engine.orders))
    assert refused(lambda: engine.create(request_)).startswith(want)
    assert (book_of(engine), engine.account.cash_ud, len(engine.orders)) == before


@pytest.mark.parametrize(("rule", "first", "later"), [
    ("lifetime_409", "409", "409"), ("open_orders_only", "409", "new"),
    ("returns_existing", "same", "same"),
])
def test_dedupe_follows_its_switch(rule: str, first: str, later: str) -> None:
    engine = make_engine(dedupe=rule)
    request = order("bid", "0.40", "1", client_order_id="x")
    original = engine.create(request)

    def outcome() -> str:
        try:
            got = engine.create(request)
        except sim.Refusal as refusal:
            return str(refusal.status)
        return "same" if got is original else "new"
    assert outcome() == first
    if original.status == "resting":
        engine.cancel(original.order_id)
    assert outcome() == later


def test_expiry_cancels_at_its_second_with_its_reason() -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "1", expiry_us=engine.now_us + 5 * 10**6))
    engine.advance(engine.now_us + 5 * 10**6 - 1)
    assert mine.status == "resting"
    engine.advance(engine.now_us + 1)
    assert (mine.status, mine.reason) == ("canceled", "ExpiryCancel")


def amend(engine: sim.Engine, mine: sim.MemberOrder, price: str, count: str, **more: Any) -> Any:
    change = order("bid" if mine.is_bid else "ask", price, count)
    return engine.amend(mine.order_id, sim.Amendment(
        ticker=TICKER, is_bid=change.is_bid, price_cc=change.price_cc, count_h=change.count_h,
        **more))


@pytest.mark.parametrize(("price", "count", "keeps"), [
    ("0.40", "5", True), ("0.40", "3", True), ("0.40", "6", False), ("0.41", "5", False),
])
def test_amend_keeps_the_place_only_when_smaller_or_equal(price: str, count: str,
                                                          keeps: bool) -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "5"))
    crowd(engine, "bid", price, "5")
    amend(engine, mine, price, count)
    assert (engine.queue_ahead_h(mine) == 0) == keeps


def test_amend_counts_what_is_filled_and_may_cross() -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "10"))
    crowd(engine, "ask", "0.40", "4")
    crowd(engine, "ask", "0.45", "3")
    amended, moved = amend(engine, mine, "0.45", "10")
    assert moved
    assert (amended.filled_h, amended.remaining_h, amended.status) == (700, 300, "resting")
    assert refused(lambda: amend(engine, mine, "0.45", "6")).startswith("400 invalid_order_size")
    amend(engine, mine, "0.45", "7")
    assert (mine.status, mine.reason) == ("canceled", "Amend")


def test_amend_checks_ticker_side_and_both_ids() -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "10", client_order_id="a"))
    engine.create(order("bid", "0.30", "1", client_order_id="b"))

    def with_(**more: Any) -> str:
        base = {"ticker": TICKER, "is_bid": True, "price_cc": 4000, "count_h": 1000}
        return refused(lambda: engine.amend(mine.order_id, sim.Amendment(**{**base, **more})))
    assert with_(ticker="KXOTHER") == "400 order_ticker_mismatch"
    assert with_(is_bid=False) == "400 order_side_mismatch"
    assert with_(client_order_id="zz") == "400 order_id_and_client_order_id_mismatch"
    assert with_(new_client_order_id="b") == "409 order_already_exists"
    amend(engine, mine, "0.40", "10", new_client_order_id="c")
    assert refused(lambda: engine.create(order("bid", "0.4", "1", client_order_id="c"))
                   ) == "409 order_already_exists"


def test_amend_of_a_post_only_order_that_would_cross_cancels_it() -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "10", post_only=True))
    crowd(engine, "ask", "0.45", "3")
    amend(engine, mine, "0.45", "10")
    assert (mine.status, mine.reason, mine.filled_h) == ("canceled", "PostOnlyCrossCancel", 0)


def test_amend_can_set_and_remove_the_expiry() -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "1", expiry_us=engine.now_us + 5 * 10**6))
    amend(engine, mine, "0.40", "1", sets_expiry=True, expiry_us=None)
    engine.advance(engine.now_us + 10 * 10**6)
    assert mine.status == "resting"
    amend(engine, mine, "0.40", "1", sets_expiry=True, expiry_us=engine.now_us + 10**6)
    engine.advance(engine.now_us + 10**6)
    assert mine.reason == "ExpiryCancel"


@pytest.mark.parametrize(("by", "to", "left"), [("200", None, 300), ("900", None, 0),
                                                (None, "100", 100), (None, "0", 0)])
def test_decrease_by_and_to(by: str | None, to: str | None, left: int) -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "5"))
    engine.decrease(mine.order_id, by_h=int(by) if by else None, to_h=int(to) if to else None)
    assert (mine.remaining_h if mine.status == "resting" else 0) == left
    assert mine.initial_h == 500


def test_decrease_to_zero_and_up_can_be_refused() -> None:
    engine = make_engine(reduce_to_zero="refused")
    mine = engine.create(order("bid", "0.40", "5"))
    assert refused(lambda: engine.decrease(mine.order_id, by_h=None, to_h=0)).startswith("400")
    assert refused(lambda: engine.decrease(mine.order_id, by_h=None, to_h=600)).startswith("400")


def test_records_stay_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim, "ORDERS_KEPT_MAX", 50)
    monkeypatch.setattr(sim, "OPEN_ORDERS_MAX", 3)
    engine = make_engine()
    kept = engine.create(order("bid", "0.10", "1", client_order_id="kept"))
    for n in range(200):
        crowd(engine, "ask", "0.50", "1")
        engine.create(order("bid", "0.50", "1", client_order_id=f"c{n}"))
    assert len(engine.orders) <= 51
    assert len(engine.fills) <= 51
    assert engine.orders[kept.order_id] is kept
    assert refused(lambda: engine.create(order("bid", "0.1", "1", client_order_id="c0"))) == (
        "409 order_already_exists")
    for _ in range(2):
        engine.create(order("bid", "0.10", "1"))
    assert refused(lambda: engine.create(order("bid", "0.1", "1"))).startswith("400 invalid_order")


def test_cancel_of_anything_not_resting_is_the_same_404() -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "5"))
    engine.cancel(mine.order_id)
    assert refused(lambda: engine.cancel(mine.order_id)) == "404 not_found"
    assert refused(lambda: engine.cancel("nothing")) == "404 not_found"


# ======================================================================================
# §E07 ENGINE: money
# ======================================================================================
@pytest.mark.parametrize(("counts", "second"), [("order", "rests"), ("orders", "refused")])
def test_balance_check_counts_what_its_switch_says(counts: str, second: str) -> None:
    engine = make_engine("10", balance_check_counts=counts)
    engine.create(order("bid", "0.50", "15"))

    def again() -> object:
        return engine.create(order("bid", "0.50", "15"))
    if second == "refused":
        assert refused(again) == "400 insufficient_balance"
    else:
        again()


def test_an_order_whose_owner_cannot_pay_is_cancelled_at_the_match() -> None:
    engine = make_engine("10")
    first = engine.create(order("bid", "0.50", "18"))
    second = engine.create(order("bid", "0.50", "18"))
    crowd(engine, "ask", "0.50", "36")
    assert (first.status, first.filled_h) == ("executed", 1800)
    assert (second.status, second.reason, second.filled_h) == ("canceled", "MarginCancel", 0)
    assert engine.account.cash_ud == 1_000_000
    assert engine.imbalance_ud() == 0


def test_fees_are_booked_exactly_as_recorded() -> None:
    engine = make_engine("100")
    crowd(engine, "ask", "0.99", "2")
    for _ in range(2):
        engine.create(order("bid", "0.99", "1"))
    assert sim.money4_text(engine.account.cash_ud) == "98.0186"


def test_maker_pays_by_fee_type_and_event_override_wins() -> None:
    engine = make_engine()
    add_market(engine, "KXMAKER-26NOV22-T1", fee_type="quadratic_with_maker_fees")

    def maker_fee() -> int:
        engine.create(order("bid", "0.50", "100", ticker="KXMAKER-26NOV22-T1"))
        crowd(engine, "ask", "0.50", "100", "KXMAKER-26NOV22-T1")
        return engine.fills[-1].fee_ud
    assert maker_fee() == 437_500
    engine.set_event_fees("KXMAKER-26NOV22", "quadratic", None)
    assert maker_fee() == 0
    engine.set_event_fees("KXMAKER-26NOV22", None, 5_000)
    assert maker_fee() == 218_800                       # rounded up to the balance step


def test_waiver_means_no_fee_until_it_ends() -> None:
    engine = make_engine()
    engine.markets[TICKER].waiver_us = engine.now_us + 10**6
    crowd(engine, "ask", "0.50", "20")
    engine.create(order("bid", "0.50", "10"))
    engine.advance(engine.now_us + 10**6)
    engine.create(order("bid", "0.50", "10"))
    assert [fill.fee_ud for fill in engine.fills] == [0, 175_000]


def test_open_interest_counts_pairs() -> None:
    engine = make_engine()
    market = engine.markets[TICKER]
    crowd(engine, "ask", "0.50", "10")
    engine.create(order("bid", "0.50", "10"))
    assert market.interest_h == 1000
    crowd(engine, "bid", "0.50", "4")
    engine.create(order("ask", "0.50", "4"))
    assert market.interest_h == 600


# ======================================================================================
# §E07 ENGINE: groups, pauses, lifecycle
# ======================================================================================
def test_group_that_fills_more_than_its_limit_cancels_its_orders_until_reset() -> None:
    engine = make_engine()
    group = engine.create_group(500, 0)
    mine = [engine.create(order("bid", price, "6", group_id=group.group_id))
            for price in ("0.40", "0.30")]
    engine.sink.notes.clear()
    crowd(engine, "ask", "0.40", "5")
    assert mine[1].status == "resting"
    crowd(engine, "ask", "0.40", "0.01")
    assert [one.status for one in mine] == ["canceled", "canceled"]
    assert [note.event_type for note in engine.sink.take(sim.GroupNote)] == ["triggered"]
    bid = order("bid", "0.40", "1", group_id=group.group_id)
    assert refused(lambda: engine.create(bid)) == "400 exceeded_order_group_risk_limit"
    engine.reset_group(group.group_id)
    assert engine.create(bid).status == "resting"


def test_group_window_rolls_for_15_seconds() -> None:
    engine = make_engine()
    group = engine.create_group(500, 0)
    engine.create(order("bid", "0.40", "20", group_id=group.group_id))
    crowd(engine, "ask", "0.40", "5")
    engine.advance(engine.now_us + 15 * 10**6)
    crowd(engine, "ask", "0.40", "5")
    assert not group.is_triggered


def test_group_limit_below_the_total_triggers_and_delete_cancels() -> None:
    engine = make_engine()
    group = engine.create_group(1000, 0)
    first = engine.create(order("bid", "0.40", "20", group_id=group.group_id))
    crowd(engine, "ask", "0.40", "5")
    engine.limit_group(group.group_id, 400)
    assert (group.is_triggered, first.status) == (True, "canceled")
    engine.reset_group(group.group_id)
    second = engine.create(order("bid", "0.40", "1", group_id=group.group_id))
    engine.delete_group(group.group_id)
    assert second.status == "canceled"
    assert refused(lambda: engine.group_of(group.group_id)) == "404 not_found"


@pytest.mark.parametrize(("rule", "orders"), [("orders_and_triggered", 2), ("triggered_only", 0)])
def test_group_trigger_messages_follow_their_switch(rule: str, orders: int) -> None:
    engine = make_engine(group_trigger_events=rule)
    group = engine.create_group(500, 0)
    for price in ("0.40", "0.30"):
        engine.create(order("bid", price, "6", group_id=group.group_id))
    engine.sink.notes.clear()
    engine.trigger_group(group.group_id)
    assert len(engine.sink.take(sim.OrderNote)) == orders
    assert engine.imbalance_ud() == 0


@pytest.mark.parametrize(("kind", "create", "cancel"), [
    ("trading", "409 trading_is_paused", "works"),
    ("exchange", "409 exchange_is_paused", "409 exchange_is_paused"),
])
def test_pauses_refuse_what_they_should(kind: str, create: str, cancel: str) -> None:
    engine = make_engine()
    flagged = engine.create(order("bid", "0.40", "1", cancel_on_pause=True))
    stays = engine.create(order("bid", "0.30", "1"))
    engine.pause(kind)
    assert (flagged.reason, stays.status) == ("HaltCancel", "resting")
    assert refused(lambda: engine.create(order("bid", "0.2", "1"))) == create
    assert refused(lambda: amend(engine, stays, "0.2", "1")) == create
    if cancel == "works":
        engine.cancel(stays.order_id)
    else:
        assert refused(lambda: engine.cancel(stays.order_id)) == cancel
        assert refused(engine.cancel_all) == cancel
    engine.resume()
    assert engine.create(order("bid", "0.2", "1")).status == "resting"


def lifecycle(engine: sim.Engine) -> list[str]:
    return [note.payload["event_type"] for note in engine.sink.take(sim.LifecycleNote)]


def test_deactivated_market_refuses_and_reactivation_wipes() -> None:
    engine = make_engine()
    mine = engine.create(order("bid", "0.40", "1"))
    engine.sink.notes.clear()
    engine.deactivate(TICKER)
    assert refused(lambda: engine.create(order("bid", "0.2", "1"))) == "409 trading_is_paused"
    assert mine.status == "resting"
    engine.activate(TICKER)
    assert (mine.status, mine.reason) == ("canceled", "HaltCancel")
    assert lifecycle(engine) == ["deactivated", "activated"]


def test_market_opens_and_closes_by_the_clock_without_messages() -> None:
    engine = make_engine()
    market = add_market(engine, "KXLATER-26NOV22-T1", open_in_s=60, close_in_s=120)
    engine.sink.notes.clear()
    buy = order("bid", "0.4", "1", ticker=market.ticker)
    assert refused(lambda: engine.create(buy)) == "400 market_inactive"
    engine.advance(market.open_us)
    mine = engine.create(buy)
    engine.advance(market.close_us)
    assert market.status == "closed"
    assert refused(lambda: engine.cancel(mine.order_id)) == "400 market_inactive"
    engine.advance(market.close_us + 10**6)
    assert mine.reason == "CloseCancel"
    assert lifecycle(engine) == []


def test_close_time_moves_both_ways_and_a_closed_market_reopens() -> None:
    engine = make_engine()
    market = engine.markets[TICKER]
    engine.sink.notes.clear()
    engine.set_close_time(TICKER, engine.now_us + 10 * 10**6)
    engine.advance(engine.now_us + 10 * 10**6)
    assert market.status == "closed"
    engine.set_close_time(TICKER, engine.now_us + 60 * 10**6)
    assert market.status == "active"
    engine.create(order("bid", "0.4", "1"))
    engine.set_close_time(TICKER, engine.now_us - 1)
    assert market.status == "closed"
    assert lifecycle(engine) == ["close_date_updated", "close_date_updated", "activated",
                                 "close_date_updated"]


@pytest.mark.parametrize(("result", "value", "paid"), [
    ("yes", None, 3_000_000), ("no", None, 0), ("scalar", 3_333, 990_000),
])
def test_settlement_pays_whole_cents_once_and_conserves(result: str, value: int | None,
                                                        paid: int) -> None:
    engine = make_engine()
    crowd(engine, "ask", "0.50", "3")
    engine.create(order("bid", "0.50", "3"))
    before = engine.account.cash_ud
    engine.determine(TICKER, result, value)
    market = engine.markets[TICKER]
    assert (market.status, engine.account.cash_ud) == ("determined", before)
    engine.advance(engine.now_us + 60 * 10**6)
    assert market.status == "finalized"
    assert engine.account.cash_ud - before == paid
    assert [row.revenue_ud for row in engine.settlements] == [paid]
    assert engine.imbalance_ud() == 0
    assert refused(lambda: engine.settle(TICKER, "yes")).startswith("400")


@pytest.mark.parametrize("way", ["reopened", "by hand"])
def test_known_result_does_not_overrule_a_reopening_or_a_hand(way: str) -> None:
    engine = make_engine()
    market = engine.markets[TICKER]
    market.pending_result = ("yes", 10_000)
    if way == "reopened":
        engine.set_close_time(TICKER, engine.now_us)
        engine.set_close_time(TICKER, engine.now_us + 10**9)
    else:
        engine.determine(TICKER, "no")
    engine.advance(engine.now_us + 30 * 10**6)
    assert (market.status, market.result) == (("active", "") if way == "reopened"
                                              else ("determined", "no"))


def test_disputed_result_pays_only_the_amended_one() -> None:
    engine = make_engine()
    crowd(engine, "bid", "0.50", "3")
    engine.create(order("ask", "0.50", "3"))
    engine.determine(TICKER, "yes")
    engine.dispute(TICKER)
    engine.advance(engine.now_us + 600 * 10**6)
    assert engine.markets[TICKER].status == "disputed"
    engine.determine(TICKER, "no")
    assert engine.markets[TICKER].status == "amended"
    engine.advance(engine.now_us + 60 * 10**6)
    assert [(row.result, row.revenue_ud) for row in engine.settlements] == [("no", 3_000_000)]
    assert engine.imbalance_ud() == 0


def test_floor_cancels_at_or_below_and_refuses_new_ones() -> None:
    engine = make_engine()
    low = engine.create(order("bid", "0.10", "1"))
    high = engine.create(order("bid", "0.11", "1"))
    engine.set_floor(TICKER, 1000)
    assert (low.reason, high.status) == ("SettlementBoundsCancel", "resting")
    assert refused(lambda: engine.create(order("bid", "0.05", "1"))) == "400 invalid_price"


@pytest.mark.parametrize("seed", range(4))
def test_money_is_conserved_through_everything(seed: int) -> None:
    rng = random.Random(seed)
    engine = make_engine("50", seed)
    tickers = [TICKER]
    for n in range(400):
        ticker = tickers[-1]
        draw = rng.random()
        side, price = rng.choice(["bid", "ask"]), f"0.{rng.randint(10, 90)}"
        count = f"{rng.randint(0, 9)}.{rng.randint(1, 99):02d}"
        try:
            if draw < 0.5:
                crowd(engine, side, price, count, ticker, rng.random() < 0.8)
            elif draw < 0.95:
                engine.create(order(side, price, count, ticker=ticker,
                                    stp=rng.choice(["maker", "taker_at_cross"])))
            elif draw < 0.97:
                engine.cancel_all()
            else:
                engine.settle(ticker, "scalar", rng.randint(0, 10_000))
                tickers.append(f"KXNEXT-26NOV22-T{n}")
                add_market(engine, tickers[-1])
        except sim.Refusal:
            pass                                        # a refusal is an outcome like another
        assert engine.imbalance_ud() == 0
        assert engine.account.cash_ud >= 0
        engine.advance(engine.now_us + rng.randrange(10**6))


# ======================================================================================
# §E08 WIRE, §E10 REST
# ======================================================================================
def test_ask_order_and_its_fill_name_their_sides_as_the_exchange_does(world: World) -> None:
    crowd(world.engine, "bid", "0.45", "2")
    _, made = world.create("ask", "0.45", "3")
    _, got = world.rest("GET", f"/portfolio/orders/{made['order_id']}")
    one = got["order"]
    assert (one["side"], one["action"], one["outcome_side"], one["book_side"]) == (
        "yes", "sell", "no", "ask")
    assert (one["yes_price_dollars"], one["no_price_dollars"]) == ("0.4500", "0.5500")
    fill = world.rest("GET", "/portfolio/fills")[1]["fills"][0]
    assert (fill["side"], fill["action"], fill["outcome_side"], fill["book_side"]) == (
        "no", "sell", "no", "ask")
    assert fill["fill_id"] == fill["trade_id"]


@pytest.mark.parametrize(("rule", "side", "action"), [
    ("side_no", "no", "sell"), ("side_yes", "yes", "sell"), ("absent", None, None)])
def test_legacy_sides_of_ask_fills_follow_their_switch(rule: str, side: str | None,
                                                       action: str | None) -> None:
    world = World(switches={"ask_fill_legacy_fields": rule})
    socket = world.socket()
    socket.send("subscribe", channels=["fill"])
    crowd(world.engine, "bid", "0.45", "2")
    world.create("ask", "0.45", "2")
    fill = world.rest("GET", "/portfolio/fills")[1]["fills"][0]
    heard = next(frame for frame in socket.read() if frame["type"] == "fill")["msg"]
    assert (fill.get("side"), fill.get("action")) == (side, action)
    assert (heard.get("side"), heard.get("purchased_side")) == (side, None if side is None
                                                                else "no")


def test_create_answers_averages_only_with_fills(world: World) -> None:
    crowd(world.engine, "ask", "0.52", "1")
    status, filled = world.create("bid", "0.99", "1", time_in_force="immediate_or_cancel",
                                  client_order_id="a")
    assert (status, filled["average_fill_price"], filled["average_fee_paid"]) == (
        201, "0.5200", "0.0175")
    status, rests = world.create("bid", "0.10", "1")
    assert (status, set(rests)) == (201, {"order_id", "fill_count", "remaining_count", "ts_ms"})


def test_amend_answers_null_where_nothing_moved(world: World) -> None:
    _, made = world.create("bid", "0.42", "10", client_order_id="a")
    path = f"/portfolio/events/orders/{made['order_id']}/amend"
    body = {"ticker": TICKER, "side": "bid", "price": "0.42", "count": "10",
            "expiration_time": int(NOW_S) + 60}
    status, same = world.rest("POST", path, body)
    assert (status, same["remaining_count"], same["fill_count"], same["average_fill_price"]) == (
        200, None, None, None)
    status, moved = world.rest("POST", path, body | {"price": "0.43", "count": "8"})
    assert (status, moved["remaining_count"], moved["fill_count"]) == (200, "8.00", "0.00")
    crowd(world.engine, "ask", "0.50", "3")
    _, traded = world.rest("POST", path, body | {"price": "0.50", "count": "8"})
    assert (traded["remaining_count"], traded["fill_count"], traded["average_fill_price"]) == (
        "5.00", "3.00", "0.5000")


def test_decrease_and_cancel_answer_what_is_left(world: World) -> None:
    _, made = world.create("bid", "0.42", "10", client_order_id="a")
    one = f"/portfolio/events/orders/{made['order_id']}"
    status, less = world.rest("POST", f"{one}/decrease", {"reduce_by": "2.5",
                                                         "market_ticker": TICKER})
    assert (status, less["remaining_count"]) == (200, "7.50")
    assert world.rest("POST", f"{one}/decrease", {})[0] == 400
    assert world.rest("POST", f"{one}/decrease", {"reduce_by": "1", "reduce_to": "1"})[0] == 400
    assert world.rest("DELETE", f"{one}?market_ticker=KXOTHER")[0] == 404
    status, gone = world.rest("DELETE", f"{one}?market_ticker={TICKER}&exchange_index=-1")
    assert (status, gone["reduced_by"]) == (200, "7.50")


def test_batches_keep_order_and_name_errors(world: World) -> None:
    good = {"ticker": TICKER, "side": "bid", "price": "0.10", "count": "1",
            "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross"}
    status, made = world.rest("POST", "/portfolio/events/orders/batched", {"orders": [
        good | {"client_order_id": "a"}, good | {"client_order_id": "b", "count": "999999"}]})
    assert status == 201
    assert made["orders"][0]["error"] is None
    assert made["orders"][1] == {
        "fill_count": None, "remaining_count": None, "average_fill_price": None,
        "average_fee_paid": None, "ts_ms": None,
        "error": {"code": "insufficient_balance", "message": "insufficient balance"}}
    status, gone = world.rest("DELETE", "/portfolio/events/orders/batched", {"orders": [
        {"order_id": made["orders"][0]["order_id"], "market_ticker": TICKER},
        {"order_id": "gone"}]})
    assert (status, gone["orders"][0]["reduced_by"]) == (200, "1.00")
    assert gone["orders"][1] == {"order_id": "gone", "reduced_by": "0.00", "ts_ms": None,
                                 "error": {"code": "not_found", "message": "not found"}}


def test_cancel_all_takes_everything_and_has_no_body(world: World) -> None:
    for cents in range(10, 20):
        world.create("bid", f"0.{cents}", "1")
    assert world.rest("DELETE", "/portfolio/events/orders") == (204, None)
    assert world.engine.open == {}


def test_cancel_all_may_reach_a_minute_ahead() -> None:
    world = World(switches={"cancel_all_tail_s": "60"})
    world.rest("DELETE", "/portfolio/events/orders")
    world.advance(30)
    world.create("bid", "0.10", "1")
    world.advance(31)
    assert world.engine.open == {}


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/portfolio/orders"), ("POST", "/portfolio/orders/batched"),
    ("DELETE", "/portfolio/orders/x"), ("DELETE", "/portfolio/orders/batched"),
    ("POST", "/portfolio/orders/x/amend"), ("POST", "/portfolio/orders/x/decrease")])
def test_v1_order_writes_are_gone(world: World, method: str, path: str) -> None:
    assert world.rest(method, path) == (410, {"error": {
        "code": "deprecated_v1_order_endpoint", "message": "Please switch to the V2 endpoints"}})


@pytest.mark.parametrize(("change", "status", "shape"), [
    ({"count": 1}, 400, "flat"), ({"price": 0.5}, 400, "flat"), ({"post_only": "yes"}, 400, "flat"),
    ({"expiration_time": "soon"}, 400, "flat"), ({"expiration_time": 1.5}, 400, "flat"),
    ({"side": "yes"}, 400, "nested"), ({"count": "1.005"}, 400, "nested"),
    ({"price": "0.50000"}, 400, "nested"), ({"ticker": None}, 400, "nested"),
    ({"client_order_id": "a.b"}, 400, "nested"), ({"client_order_id": "x" * 65}, 400, "nested"),
    ({"exchange_index": 2}, 400, "nested"), ({"time_in_force": "GTT"}, 400, "nested"),
    ({"expiration_time": 1}, 400, "nested"), ({"expiration_time": 10**18}, 400, "nested"),
])
def test_bad_creates_are_refused_in_the_right_shape(world: World, change: dict[str, Any],
                                                    status: int, shape: str) -> None:
    got, body = world.create("bid", "0.50", "1", **change)
    assert got == status
    assert set(body) == ({"error"} if shape == "nested" else {"code", "message", "details"})


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":1}garbage', b"1e999"])
def test_bodies_that_do_not_decode_are_flat_400s(world: World, raw: bytes) -> None:
    status, body = world.rest("POST", "/portfolio/events/orders", raw)
    assert (status, body["code"]) == (400, "bad_request")


@pytest.mark.parametrize(("path", "key"), [
    ("/markets", "markets"), ("/events", "events"), ("/portfolio/orders", "orders"),
    ("/portfolio/fills", "fills"), ("/portfolio/positions", "market_positions"),
    ("/markets/trades", "trades"), ("/portfolio/settlements", "settlements")])
def test_every_list_walks_its_pages_without_loss_or_repeat(path: str, key: str) -> None:
    world = World()
    for n in range(23):
        ticker = f"KXP{n}-26NOV22-T1"
        add_market(world.engine, ticker)
        crowd(world.engine, "ask", "0.50", "5", ticker)
        world.create("bid", "0.50", "1", ticker=ticker)
        if n < 12:
            world.engine.settle(ticker, "yes")
    extra = "&settlement_status=all" if "positions" in path else ""
    whole = world.rest("GET", f"{path}?limit=200{extra}")[1]
    assert whole["cursor"] == ""
    walked, cursor, cursors = [], "", set()
    while True:
        page = world.rest("GET", f"{path}?limit=7&cursor={cursor}{extra}")[1]
        walked += page[key]
        cursor = page["cursor"]
        if not cursor:
            break
        assert cursor not in cursors
        cursors.add(cursor)
    assert walked == whole[key]
    assert len(walked) >= 12
    assert world.rest("GET", f"{path}?limit=7&cursor=garbage{extra}")[1][key] == walked[:7]


def test_limits_above_the_maximum_are_a_400_in_the_bare_shape(world: World) -> None:
    assert world.rest("GET", "/markets?limit=1001") == (400, {"msg": (
        "Parameter validation failed for GetMarkets: Key: 'GetMarketsParams.Limit' Error:Field "
        "validation for 'Limit' failed on the 'lte' tag")})
    assert set(world.rest("GET", "/markets?limit=many")[1]) == {"msg"}
    assert set(world.rest("GET", "/portfolio/orders?status=open")[1]) == {"msg"}


@pytest.mark.parametrize(("query", "status", "found"), [
    ("status=open", 200, 1), ("status=unopened", 200, 1), ("status=closed", 200, 1),
    ("status=settled", 200, 1), ("status=paused", 200, 1), ("", 200, 5),
    ("mve_filter=only", 200, 0), ("mve_filter=exclude", 200, 5), (f"tickers={TICKER},X", 200, 1),
    ("series_ticker=KXDEMO", 200, 1), ("event_ticker=KXDEMO-26NOV22", 200, 1),
    (f"min_close_ts={int(NOW_S) + 1}&max_close_ts={int(NOW_S) + 10**6}&mve_filter=exclude", 200, 3),
    (f"min_close_ts={int(NOW_S)}&status=open", 400, 0),
    ("min_close_ts=1&min_created_ts=1", 400, 0), ("min_updated_ts=1", 400, 0),
    ("min_updated_ts=1&mve_filter=exclude", 200, 5), ("min_settled_ts=1&status=settled", 200, 1),
])
def test_market_filters(world: World, query: str, status: int, found: int) -> None:
    engine = world.engine
    add_market(engine, "KXA-26NOV22-T1", open_in_s=3600)
    add_market(engine, "KXB-26NOV22-T1", close_in_s=3600)
    engine.determine("KXB-26NOV22-T1", "yes")
    add_market(engine, "KXC-26NOV22-T1")
    engine.settle("KXC-26NOV22-T1", "no")
    add_market(engine, "KXD-26NOV22-T1")
    engine.deactivate("KXD-26NOV22-T1")
    got, body = world.rest("GET", f"/markets?{query}")
    assert got == status
    assert len(body.get("markets", [])) == found


@pytest.mark.parametrize(("status", "quotes"), [
    ("active", ("0.0000", "1.0000", "0.0000", "1.0000")),
    ("initialized", ("0.0000", "0.0000", "1.0000", "1.0000")),
    ("finalized", ("0.0000", "1.0000", "0.0000", "1.0000"))])
def test_empty_sides_follow_the_recorded_conventions(world: World, status: str,
                                                     quotes: tuple[str, ...]) -> None:
    add_market(world.engine, "KXE-26NOV22-T1", open_in_s=60 if status == "initialized" else -60)
    if status == "finalized":
        world.engine.settle("KXE-26NOV22-T1", "yes")
    market = world.rest("GET", "/markets/KXE-26NOV22-T1")[1]["market"]
    assert market["status"] == status
    assert tuple(market[f"{name}_dollars"] for name in ("yes_bid", "yes_ask", "no_bid", "no_ask")
                 ) == quotes


def test_orderbook_is_ascending_on_both_legs_with_depth(world: World) -> None:
    for cents in (40, 42, 41):
        crowd(world.engine, "bid", f"0.{cents}", "1")
    for cents in (50, 52, 51):
        crowd(world.engine, "ask", f"0.{cents}", "2")
    book = world.rest("GET", f"/markets/{TICKER}/orderbook")[1]["orderbook_fp"]
    assert [row[0] for row in book["yes_dollars"]] == ["0.4000", "0.4100", "0.4200"]
    assert [row[0] for row in book["no_dollars"]] == ["0.4800", "0.4900", "0.5000"]
    top = world.rest("GET", f"/markets/{TICKER}/orderbook?depth=1")[1]["orderbook_fp"]
    assert top == {"yes_dollars": [["0.4200", "1.00"]], "no_dollars": [["0.5000", "2.00"]]}
    many = world.rest("GET", f"/markets/orderbooks?tickers={TICKER}&tickers=KXNONE")[1]
    assert [row["ticker"] for row in many["orderbooks"]] == [TICKER]


def test_account_reads_lag_behind_writes_and_say_how_far() -> None:
    world = World(switches={"read_lag_ms": "500"})
    world.advance(10)
    _, made = world.create("bid", "0.10", "1")
    path = f"/portfolio/orders/{made['order_id']}"
    assert world.rest("GET", path)[0] == 404
    assert world.rest("GET", "/portfolio/orders")[1]["orders"] == []
    world.advance(0.5)
    assert world.rest("GET", path)[1]["order"]["status"] == "resting"
    world.rest("DELETE", f"/portfolio/events/orders/{made['order_id']}")
    world.advance(0.36)
    assert world.rest("GET", path)[1]["order"]["status"] == "resting"
    as_of = world.rest("GET", "/exchange/user_data_timestamp")[1]["as_of_time"]
    assert sim.parse_time_us(as_of) == int((world.time.now_s - 0.5) * 1e6)
    world.advance(0.2)
    assert world.rest("GET", path)[1]["order"]["status"] == "canceled"


def test_as_of_time_never_goes_back() -> None:
    world = World(switches={"read_lag_ms": "0-500"})
    stamps = []
    for _ in range(50):
        world.advance(0.05)
        stamps.append(world.rest("GET", "/exchange/user_data_timestamp")[1]["as_of_time"])
    times = [sim.parse_time_us(stamp) for stamp in stamps]
    assert times == sorted(times)


def test_reserving_switch_lowers_the_balance() -> None:
    world = World(switches={"reserve_at_placement": "on"})
    world.create("bid", "0.50", "10")
    assert world.rest("GET", "/portfolio/balance")[1]["balance_dollars"] == "995.0000"
    value = world.rest("GET", "/portfolio/summary/total_resting_order_value")[1]
    assert value["total_resting_order_value"] == 500


@pytest.mark.parametrize(("rule", "value"), [("last", 198), ("bid", 180), ("cost", 198)])
def test_portfolio_value_marks_by_its_switch(rule: str, value: int) -> None:
    world = World(switches={"portfolio_mark": rule})
    crowd(world.engine, "bid", "0.90", "5")
    crowd(world.engine, "ask", "0.99", "2")
    world.create("bid", "0.99", "2")
    assert world.rest("GET", "/portfolio/balance")[1]["portfolio_value"] == value


def test_positions_filter_by_status_and_counts(world: World) -> None:
    crowd(world.engine, "ask", "0.50", "5")
    crowd(world.engine, "bid", "0.49", "5")
    world.create("bid", "0.50", "5")
    world.create("ask", "0.49", "5")
    flat = world.rest("GET", "/portfolio/positions")[1]["market_positions"]
    assert [(row["ticker"], row["position_fp"]) for row in flat] == [(TICKER, "0.00")]
    assert world.rest("GET", "/portfolio/positions?count_filter=position")[1][
        "market_positions"] == []
    world.engine.settle(TICKER, "yes")
    assert world.rest("GET", "/portfolio/positions")[1]["market_positions"] == []
    assert len(world.rest("GET", "/portfolio/positions?settlement_status=settled")[1][
        "market_positions"]) == 1


def test_settlement_record_after_holding_to_the_end(world: World) -> None:
    crowd(world.engine, "bid", "0.30", "4.50")
    world.create("ask", "0.30", "4.50", time_in_force="immediate_or_cancel")
    world.engine.settle(TICKER, "no")
    row = world.rest("GET", "/portfolio/settlements")[1]["settlements"][0]
    assert (row["no_count_fp"], row["no_total_cost_dollars"], row["revenue"], row["value"],
            row["market_result"]) == ("4.50", "3.150000", 450, 0, "no")
    assert row["fee_cost"] == sim.money_text(world.engine.fills[0].fee_ud)


def test_queue_positions_count_what_trades_first(world: World) -> None:
    crowd(world.engine, "bid", "0.40", "13")
    _, made = world.create("bid", "0.40", "1")
    rows = world.rest("GET", f"/portfolio/orders/queue_positions?market_tickers={TICKER}")[1]
    assert rows["queue_positions"] == [{"order_id": made["order_id"], "market_ticker": TICKER,
                                        "queue_position_fp": "13.00"}]
    one = world.rest("GET", f"/portfolio/orders/{made['order_id']}/queue_position")[1]
    assert one == {"queue_position_fp": "13.00"}
    assert world.rest("GET", "/portfolio/orders/queue_positions")[0] == 400


def test_candlesticks_in_all_three_forms(world: World) -> None:
    crowd(world.engine, "ask", "0.50", "5")
    world.create("bid", "0.50", "2")
    window = f"start_ts={int(NOW_S) - 60}&end_ts={int(NOW_S) + 3600}&period_interval=1"
    one = world.rest("GET", f"/series/KXDEMO/markets/{TICKER}/candlesticks?{window}")[1]
    assert one["candlesticks"][-1]["price"]["close_dollars"] == "0.5000"
    batch = world.rest("GET", f"/markets/candlesticks?market_tickers={TICKER}&{window}")[1]
    assert batch["markets"][0]["candlesticks"] == one["candlesticks"]
    event = world.rest("GET", f"/series/KXDEMO/events/KXDEMO-26NOV22/candlesticks?{window}")[1]
    assert event["market_candlesticks"] == [one["candlesticks"]]
    assert world.rest("GET", f"/series/KXOTHER/markets/{TICKER}/candlesticks?{window}")[0] == 404
    assert world.rest("GET", f"/series/KXDEMO/markets/{TICKER}/candlesticks")[0] == 400


def test_events_series_and_their_small_relatives(world: World) -> None:
    event = "/events/KXDEMO-26NOV22"
    assert len(world.rest("GET", event)[1]["markets"]) == 1
    nested = world.rest("GET", f"{event}?with_nested_markets=true")[1]
    assert (nested["markets"], len(nested["event"]["markets"])) == ([], 1)
    assert world.rest("GET", f"{event}?exclude_markets=true")[1]["markets"] == []
    assert world.rest("GET", f"{event}?exclude_markets=true&with_nested_markets=true")[0] == 400
    assert world.rest("GET", f"{event}/metadata")[0] == 200
    assert world.rest("GET", "/series/KXDEMO")[1]["series"]["fee_multiplier"] == 1
    assert len(world.rest("GET", "/series?include_volume=true")[1]["series"]) == 1
    for path in ("/events/KXNO", "/series/KXNO", "/markets/KXNO", "/markets/KXNO/orderbook"):
        assert world.rest("GET", path)[0] == 404


@pytest.mark.parametrize("path", [
    "/exchange/status", "/exchange/schedule", "/exchange/user_data_timestamp", "/historical/cutoff",
    "/historical/markets", "/historical/trades", "/historical/fills", "/historical/orders",
    "/historical/positions", "/events/multivariate", "/events/fee_changes", "/series/fee_changes",
    "/portfolio/deposits", "/portfolio/withdrawals", "/portfolio/subaccounts/balances",
    "/portfolio/subaccounts/transfers", "/portfolio/subaccounts/netting", "/account/limits",
    "/account/endpoint_costs", "/account/api_usage_level/volume_progress", "/api_keys",
    "/portfolio/intra_exchange_instance_transfers", "/portfolio/target_balance_allocation",
    "/portfolio/order_groups"])
def test_every_other_read_answers_well_formed(world: World, path: str) -> None:
    status, body = world.rest("GET", path)
    assert (status, type(body)) == (200, dict)


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/communications/id"), ("GET", "/margin/balance"), ("POST", "/exchange/status"),
    ("GET", "/nothing"), ("GET", "/historical/markets/KXX"), ("DELETE", "/markets"), ("GET", "")])
def test_what_does_not_exist_is_a_nested_404(world: World, method: str, path: str) -> None:
    assert world.rest(method, path) == (404, {"error": {"code": "not_found",
                                                        "message": "not found"}})


def test_order_groups_over_rest(world: World) -> None:
    root = "/portfolio/order_groups"
    status, made = world.rest("POST", f"{root}/create", {"contracts_limit": 100,
                                                         "contracts_limit_fp": "100.00"})
    one = f"{root}/{made['order_group_id']}"
    assert status == 201
    _, mine = world.create("bid", "0.10", "1", order_group_id=made["order_group_id"])
    assert world.rest("GET", one)[1]["orders"] == [mine["order_id"]]
    assert world.rest("PUT", f"{one}/limit", {"contracts_limit": 50}) == (200, {})
    assert world.rest("PUT", f"{one}/trigger", {}) == (200, {})
    assert world.rest("GET", one)[1] == {"is_auto_cancel_enabled": False, "orders": [],
                                         "contracts_limit_fp": "50.00", "exchange_index": 0}
    assert world.rest("PUT", f"{one}/reset") == (200, {})
    assert world.rest("DELETE", one) == (200, {})
    assert world.rest("GET", one)[0] == 404
    for bad in ({}, {"contracts_limit": 1, "contracts_limit_fp": "2"}, {"contracts_limit": 0},
                {"contracts_limit": 1_000_001}):
        assert world.rest("POST", f"{root}/create", bad)[0] == 400


def test_subaccounts_hold_their_own_cash_and_orders() -> None:
    assert World(tier="basic").rest("POST", "/portfolio/subaccounts", {})[0] == 403
    world = World(tier="advanced")
    assert world.rest("POST", "/portfolio/subaccounts", {}) == (201, {"subaccount_number": 1})
    body = {"client_transfer_id": "t", "from_subaccount": 0, "to_subaccount": 1,
            "amount_cents": 500}
    assert world.rest("POST", "/portfolio/subaccounts/transfer", body) == (200, {})
    assert world.rest("GET", "/portfolio/balance?subaccount=1")[1]["balance"] == 500
    _, made = world.create("bid", "0.10", "1", subaccount=1)
    path = f"/portfolio/events/orders/{made['order_id']}"
    assert world.rest("DELETE", path)[0] == 404         # cancel defaults to subaccount 0
    assert world.rest("DELETE", f"{path}?subaccount=1")[0] == 200
    assert world.rest("PUT", "/portfolio/subaccounts/netting",
                      {"subaccount_number": 1, "enabled": True}) == (200, {})
    assert world.engine.imbalance_ud() == 0


# --- recordings of the real exchange ---------------------------------------------------

EXPLAINED: dict[str, tuple[str, ...]] = {
    # Keys that differ between June 2026 and now, each with its place in PROTOCOL.
    "gone since": (
        "fractional_trading_enabled", "response_price_units", "resting_orders_count",   # 3.3
        "tick_size",
        "service",                                                             # 3.3, 2026-08-06
    ),
    "added since": (
        "exchange_index", "exchange_index_statuses", "intra_exchange_transfers_active",   # 1.2
        "exchange_estimated_resume_time", "settlement_bounds_type", "cancel_order_on_pause",
        "self_trade_prevention_type", "expected_expiration_time", "clock", "sending_ts_ms",
        "client_order_id", "total_traded_dollars",
    ),
    "optional by kind of market": (
        "custom_strike", "floor_strike", "cap_strike", "strike_type", "early_close_condition",
        "occurrence_datetime", "subtitle", "mve_collection_ticker", "mve_selected_legs",
        "primary_participant_key", "settlement_value_dollars", "settlement_ts", "is_provisional",
        "functional_strike",
    ),
}
ALLOWED = {name for names in EXPLAINED.values() for name in names}
STATUS_CHANGED = {
    "orders__legacy_create": 410,       # V1 writes switched off 2026-06-18…25 (PROTOCOL 4.3)
    "orders__legacy_cancel": 410,
}
VALUES_OWN = {
    "account__endpoint_costs": "costs and templates of June; ours are those of today (PROTOCOL 9)",
}


def differences(recorded: Any, ours: Any, where: str = "$") -> list[str]:
    """Unexplained differences in keys and JSON types."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        apart = (set(recorded) ^ set(ours)) - ALLOWED
        found = [f"{where}.{key} is only {'recorded' if key in recorded else 'ours'}"
                 for key in sorted(apart)]
        for key in set(recorded) & set(ours) - {"custom_strike"}:
            found += differences(recorded[key], ours[key], f"{where}.{key}")
        return found
    if isinstance(recorded, list) and isinstance(ours, list):
        return differences(recorded[0], ours[0], f"{where}[]") if recorded and ours else []
    same = type(recorded) is type(ours) or {type(recorded), type(ours)} <= {int, float}
    return [] if same else [f"{where}: recorded {recorded!r}, ours {ours!r}"]


def recorded_calls() -> list[tuple[str, dict[str, Any], Any]]:
    rows = []
    for meta_path in RECORDINGS.glob("*.meta.json"):
        name = meta_path.name.removesuffix(".meta.json")
        meta = json.loads(meta_path.read_text())
        body_path = RECORDINGS / f"{name}.json"
        if "status" in meta and meta.get("method") and body_path.exists():
            rows.append((name, meta, json.loads(body_path.read_text())))
    return sorted(rows, key=lambda row: row[1].get("recorded_at_epoch_ms", 0))


class Replayed:
    """The recorded session, situation by situation, against our exchange."""

    market = "KXWTACHALLENGERMATCH-26JUN11JIMLEP-LEP"

    def __init__(self) -> None:
        self.world = World(balance_dollars="98.0186", now_s=1_781_159_340.0)
        self.engine = self.world.engine
        add_market(self.engine, self.market)
        for n in range(20):                     # something to page through, of every status
            add_market(self.engine, f"KXPAGE{n}-26JUN11-A", open_in_s=3600 if n % 2 else -60)
        self.engine.determine("KXPAGE0-26JUN11-A", "yes")
        self.engine.settle("KXPAGE2-26JUN11-A", "no")
        add_market(self.engine, "KXPGATOUR-USO26-JDAY")
        for ticker in (self.market, "KXPGATOUR-USO26-JDAY"):
            crowd(self.engine, "bid", "0.03", "7.77", ticker)
            crowd(self.engine, "ask", "0.03", "7.77", ticker)
        crowd(self.engine, "bid", "0.47", "3", self.market)
        crowd(self.engine, "ask", "0.52", "3", self.market)
        self.ids: dict[str, str] = {}

    def answer(self, name: str, meta: dict[str, Any], recorded: Any) -> tuple[int, Any]:
        path = meta["path"].removeprefix(sim.REST_ROOT).removeprefix("/trade-api/v2")
        for theirs, ours in self.ids.items():
            path = path.replace(theirs, ours)
        headers = self._headers(meta, path)
        if name == "orders__post_only_cross":           # its book had been refilled by then
            crowd(self.engine, "ask", "0.52", "3", self.market)
        status, body = self.world.rest(meta["method"], path, meta.get("request_body"),
                                       headers=headers)
        theirs_id = recorded.get("order_id") if isinstance(recorded, dict) else None
        if theirs_id and isinstance(body, dict) and "order_id" in body:
            self.ids[theirs_id] = body["order_id"]
        return status, body

    def _headers(self, meta: dict[str, Any], path: str) -> dict[str, str] | None:
        target = sim.REST_ROOT + path.partition("?")[0]
        now_s = self.world.time.now_s
        good = self.world.signer.headers(meta["method"], target, now_s)
        note = meta.get("auth") or ""
        if note.startswith(("unauthenticated", "NONE")):
            return {}
        if note == "bad-signature":
            return self.world.signer.headers(meta["method"], target + "x", now_s)
        if note == "unknown-key-id":
            return good | {"KALSHI-ACCESS-KEY": "00000000-0000-0000-0000-000000000000"}
        if note == "missing-signature-header":
            return {name: value for name, value in good.items() if "SIGNATURE" not in name}
        if note == "signed-skewed":
            return None
        return good


SKEWS = {"minus5s": -5, "plus5s": 5, "minus30s": -30, "minus5min": -300, "plus5min": 300}


@pytest.mark.skipif(not RECORDINGS.exists(), reason="../shared/kalshi/recordings is not here")
def test_every_recorded_request_gets_the_recorded_status_keys_and_types() -> None:
    replayed, wrong, count = Replayed(), [], 0
    for name, meta, recorded in recorded_calls():
        skew = SKEWS.get(name.removeprefix("auth__skew_"), 0)
        replayed.world.time.now_s += 0.5
        if skew:
            signed = replayed.world.signer.headers(
                "GET", f"{sim.REST_ROOT}/portfolio/balance", replayed.world.time.now_s + skew)
            status, body = replayed.world.rest("GET", "/portfolio/balance", headers=signed)
        else:
            status, body = replayed.answer(name, meta, recorded)
        count += 1
        if status != STATUS_CHANGED.get(name, meta["status"]):
            wrong.append(f"{name}: status {status}, recorded {meta['status']}: {body}")
        elif name not in STATUS_CHANGED:
            wrong += [f"{name}: {line}" for line in differences(recorded, body)]
        if status >= 400 and name not in STATUS_CHANGED:
            assert _code(body) == _code(recorded), name
    assert wrong == []
    assert count > 50


def _code(body: Any) -> Any:
    error = body.get("error", body)
    return (error.get("code"), error.get("message"), error.get("details"), error.get("msg"))


@pytest.mark.skipif(not RECORDINGS.exists(), reason="../shared/kalshi/recordings is not here")
@pytest.mark.parametrize("name", ["ws__orderbook_trade_yes", "ws__orderbook_trade_noleg"])
def test_recorded_streams_have_our_frames_keys_and_types(name: str) -> None:
    meta = json.loads((RECORDINGS / f"{name}.meta.json").read_text())
    recorded = [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()
                if line.strip()]
    world = World()
    market = "KXWTACHALLENGERMATCH-26JUN11JIMLEP-LEP"
    add_market(world.engine, market)
    crowd(world.engine, "bid", "0.47", "3", market)
    crowd(world.engine, "ask", "0.52", "2", market)
    socket = world.socket()
    ours = socket.raw(json.dumps(meta["subscribe_cmd"]))
    crowd(world.engine, "bid", "0.46", "1", market)
    crowd(world.engine, "ask", "0.47", "1", market)
    ours += socket.read()
    by_type = {frame["type"]: frame for frame in ours}
    assert [frame["type"] for frame in ours[:3]] == [frame["type"] for frame in recorded[:3]]
    if meta["subscribe_cmd"]["params"].get("use_yes_price"):
        assert by_type["orderbook_snapshot"]["msg"]["no_dollars_fp"] == [["0.5200", "2.00"]]
    wrong = [line for frame in recorded for line in differences(frame, by_type[frame["type"]])]
    assert wrong == []


# --- fuzz ------------------------------------------------------------------------------

ODD_VALUES: list[Any] = [None, True, 0, -1, 1.5, 2**63, 2**70, "", "0", "-1", "nan", "0.5", "1e9",
                         "x" * 200, "\u0000", [], {}, [[]], {"a": {}}, "bid", "ask", TICKER]


class Fuzz:
    """Random requests and frames; the exchange must refuse without a crash or a trace."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(seed=seed)
        crowd(self.world.engine, "ask", "0.60", "50")
        crowd(self.world.engine, "bid", "0.40", "50")
        self.socket = self.world.socket()
        self.paths = sorted({route.template for table in self._tables() for route in table})

    def _tables(self) -> list[list[sim.Route]]:
        api = self.world.exchange.api
        return [list(api._static.values()), [route for rows in api._shapes.values()
                                             for _, route in rows]]

    def state(self) -> tuple[Any, ...]:
        engine = self.world.engine
        return (engine.account.cash_ud, repr(book_of(engine)), len(engine.orders),
                len(engine.fills), len(engine.groups), len(engine.accounts))

    def step(self) -> None:
        if self.rng.random() < 0.3:
            self._frame()
        else:
            self._request()

    def _word(self) -> str:
        return self.rng.choice([TICKER, "KXDEMO", "KXDEMO-26NOV22", "x", "%00", "..", "%zz",
                                "a" * 99, next(iter(self.world.engine.orders), "y")])

    def _request(self) -> None:
        method = self.rng.choice(["GET", "POST", "DELETE", "PUT", "PATCH"])
        path = re.sub(r"\{\w+\}", lambda _: self._word(), self.rng.choice(self.paths))
        names = ["limit", "cursor", "status", "ticker", "tickers", "min_ts", "max_close_ts",
                 "depth", "subaccount", "exchange_index", "start_ts", "end_ts", "period_interval",
                 "market_tickers"]
        query = "&".join(f"{self.rng.choice(names)}={self.rng.choice(ODD_VALUES)}"
                         for _ in range(self.rng.randrange(3)))
        before = self.state()
        status, _ = self.world.rest(method, f"{path}?{query}".replace(" ", ""), self._body())
        assert status < 500
        if status >= 400 and not self._is_listed_reject(before):
            assert self.state() == before

    def _is_listed_reject(self, before: tuple[Any, ...]) -> bool:
        """A crossing post-only order is refused and still recorded (PROTOCOL 7.3)."""
        return self.state()[2] == before[2] + 1 and self.state()[:2] == before[:2]

    def _body(self) -> Any:
        draw = self.rng.random()
        if draw < 0.2:
            return None
        if draw < 0.35:
            return self.rng.randbytes(self.rng.randrange(40))
        body: dict[str, Any] = {"ticker": TICKER, "side": self.rng.choice(["bid", "ask"]),
                                "price": f"0.{self.rng.randint(1, 99):02d}", "count": "1",
                                "time_in_force": "good_till_canceled",
                                "self_trade_prevention_type": "maker",
                                "client_order_id": f"f{self.rng.randrange(10**9)}"}
        for _ in range(self.rng.randrange(3)):
            body[self.rng.choice([*sim.CREATE_FORM.fields, "orders", "reduce_by", "contracts_limit",
                                  "amount_cents"])] = self.rng.choice(ODD_VALUES)
        return {"orders": [body, self.rng.choice(ODD_VALUES)]} if draw > 0.9 else body

    def _frame(self) -> None:
        if self.rng.random() < 0.2:
            self.socket.raw(self.rng.randbytes(self.rng.randrange(30)))
            return
        params = {self.rng.choice(["channels", "market_ticker", "market_tickers", "sid", "sids",
                                   "action", "market_ids", "shard_factor", "shard_key"]):
                  self.rng.choice([*ODD_VALUES, ["orderbook_delta"], ["trade", "ticker"], [1], 1,
                                   "get_snapshot", "add_markets", "delete_markets", [TICKER]])
                  for _ in range(self.rng.randrange(4))}
        command = {"id": self.rng.choice([1, 2, None, "x", 0]), "params": params,
                   "cmd": self.rng.choice(["subscribe", "unsubscribe", "update_subscription",
                                           "list_subscriptions", "x", None])}
        self.socket.raw(json.dumps(command))


@pytest.mark.parametrize("seed", range(3))
def test_fuzzed_requests_never_crash_and_refusals_change_nothing(seed: int) -> None:
    fuzz = Fuzz(seed)
    for _ in range(4_000):
        fuzz.step()
    assert fuzz.world.engine.imbalance_ud() == 0


# ======================================================================================
# §E09 GATE
# ======================================================================================
BALANCE = f"{sim.REST_ROOT}/portfolio/balance"


@pytest.mark.parametrize("key_type", ["rsa", "ed25519"])
def test_both_key_types_sign_in(key_type: str) -> None:
    world = World(key_type=key_type)
    assert world.rest("GET", "/portfolio/balance?subaccount=0")[0] == 200
    head = "BEGIN RSA PRIVATE KEY" if key_type == "rsa" else "BEGIN PRIVATE KEY"
    assert head in world.exchange.credentials.private_pem


def test_pkcs1_v15_and_wrong_salt_are_refused() -> None:
    world = World(key_type="rsa")
    key: Any = serialization.load_pem_private_key(
        world.exchange.credentials.private_pem.encode(), None)
    good = world.signer.headers("GET", BALANCE, NOW_S)
    text = f"{good['KALSHI-ACCESS-TIMESTAMP']}GET{BALANCE}".encode()
    for scheme in (padding.PKCS1v15(), padding.PSS(mgf=padding.MGF1(hashes.SHA256()),
                                                   salt_length=20)):
        bad = base64.b64encode(key.sign(text, scheme, hashes.SHA256())).decode()
        got = world.rest("GET", "/portfolio/balance",
                         headers=good | {"KALSHI-ACCESS-SIGNATURE": bad})
        assert got == (401, {"error": {"code": "authentication_error",
                                       "message": "authentication_error",
                                       "details": "INCORRECT_API_KEY_SIGNATURE"}})


@pytest.mark.parametrize(("skew_s", "status"), [(0, 200), (14.9, 200), (-14.9, 200), (15.2, 401),
                                                (-15.2, 401), (-60, 401)])
def test_clock_skew_window(world: World, skew_s: float, status: int) -> None:
    headers = world.signer.headers("GET", BALANCE, NOW_S + skew_s)
    got, body = world.rest("GET", "/portfolio/balance", headers=headers)
    assert got == status
    if status == 401:
        assert body == {"error": {"code": "header_timestamp_expired",
                                  "message": "header timestamp expired"}}


def test_a_normalised_path_is_accepted_too(world: World) -> None:
    signed = world.signer.headers("GET", BALANCE, NOW_S)
    assert world.rest("GET", "/portfolio/balance/", headers=signed)[0] == 200


def test_public_reads_need_no_signature_and_private_ones_do(world: World) -> None:
    for path in ("/markets", f"/markets/{TICKER}/orderbook", "/exchange/status",
                 "/account/endpoint_costs"):
        assert world.rest("GET", path, headers={})[0] == 200
    for path in ("/portfolio/orders", "/account/limits", "/api_keys"):
        assert world.rest("GET", path, headers={}) == (401, {"error": {
            "code": "signature_is_missing_from_headers",
            "message": "signature is missing from headers"}})


@pytest.mark.parametrize(("tier", "reads", "writes"), [("basic", 60, 10), ("advanced", 90, 90)])
def test_buckets_hold_what_the_tier_says_and_refill(tier: str, reads: int, writes: int) -> None:
    world = World(tier=tier, switches={"balance_check_counts": "order"})

    def burst(method: str, path: str) -> int:
        done = 0
        while world.rest(method, path, b"{}" if method == "POST" else None)[0] != 429:
            done += 1
        return done
    assert burst("GET", "/portfolio/orders") == reads
    assert burst("POST", "/portfolio/events/orders") == writes
    assert world.rest("GET", "/portfolio/orders") == (429, {"error": "too many requests"})
    world.advance(0.1)
    assert burst("POST", "/portfolio/events/orders") == {"basic": 1, "advanced": 3}[tier]


def test_costs_differ_by_endpoint() -> None:
    world = World(tier="basic")
    for _ in range(50):
        assert world.rest("DELETE", "/portfolio/events/orders/x")[0] == 404
    assert world.rest("DELETE", "/portfolio/events/orders/x")[0] == 429
    assert world.rest("GET", "/portfolio/balance")[0] == 200
    assert world.rest("GET", "/portfolio/balance")[0] == 429
    world.advance(1)
    assert world.rest("GET", "/portfolio/balance")[0] == 200


def test_a_batch_must_fit_into_the_bucket_at_once() -> None:
    world = World(tier="basic")
    one = {"ticker": TICKER, "side": "bid", "price": "0.10", "count": "1",
           "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross"}
    path = "/portfolio/events/orders/batched"
    assert world.rest("POST", path, {"orders": [one] * 11})[0] == 429
    assert world.rest("POST", path, {"orders": [one] * 10})[0] == 201
    part = World(tier="basic", switches={"batch_over_bucket": "part_accepted"})
    status, body = part.rest("POST", path, {"orders": [one] * 12})
    assert (status, [row["error"] is None for row in body["orders"]]) == (
        201, [True] * 10 + [False] * 2)


# ======================================================================================
# §E11 STREAM
# ======================================================================================
def two_sided(world: World, ticker: str = TICKER) -> None:
    crowd(world.engine, "bid", "0.42", "13", ticker)
    crowd(world.engine, "ask", "0.44", "17", ticker)


def kinds(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["type"] for frame in frames]


def test_subscribe_acknowledges_each_channel_then_sends_snapshots(world: World) -> None:
    two_sided(world)
    frames = world.socket().send("subscribe", channels=["orderbook_delta", "trade"],
                                 market_tickers=[TICKER])
    assert kinds(frames) == ["subscribed", "subscribed", "orderbook_snapshot"]
    assert [frame["msg"]["sid"] for frame in frames[:2]] == [1, 2]
    assert {frame["id"] for frame in frames[:2]} == {1}
    snapshot = frames[2]
    assert (snapshot["sid"], snapshot["seq"]) == (1, 1)
    assert snapshot["msg"]["yes_dollars_fp"] == [["0.4200", "13.00"]]
    assert snapshot["msg"]["no_dollars_fp"] == [["0.5600", "17.00"]]


def test_seq_counts_per_sid_over_all_markets_and_replies(world: World) -> None:
    for n in range(3):
        add_market(world.engine, f"KXS{n}-26NOV22-T1")
    socket = world.socket()
    seen = socket.send("subscribe", channels=["orderbook_delta"],
                       market_tickers=["KXS0-26NOV22-T1", "KXS1-26NOV22-T1"])
    two_sided(world, "KXS0-26NOV22-T1")
    seen += socket.send("update_subscription", sids=[1], action="add_markets",
                        market_tickers=["KXS2-26NOV22-T1"])
    two_sided(world, "KXS2-26NOV22-T1")
    seen += socket.send("update_subscription", sid=1, action="get_snapshot",
                        market_tickers=["KXS0-26NOV22-T1"])
    two_sided(world, "KXS1-26NOV22-T1")
    seen += socket.send("unsubscribe", sids=[1])
    numbered = [frame["seq"] for frame in seen if "seq" in frame]
    assert numbered == list(range(1, len(numbered) + 1))
    assert numbered[-1] == 12
    two_sided(world, "KXS0-26NOV22-T1")
    assert socket.read() == []


def test_get_snapshot_carries_the_commands_id_and_ok_by_switch(world: World) -> None:
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta"], market_tickers=[TICKER])
    frames = socket.send("update_subscription", sids=[1], action="get_snapshot",
                         market_tickers=[TICKER])
    assert [(frame["type"], frame["id"]) for frame in frames] == [("orderbook_snapshot", 2)]
    world.exchange.switches.set("get_snapshot_ok", "on")
    frames = socket.send("update_subscription", sids=[1], action="get_snapshot",
                         market_tickers=[TICKER])
    assert kinds(frames) == ["orderbook_snapshot", "ok"]


def test_second_subscribe_merges_and_sends_only_what_is_new(world: World) -> None:
    add_market(world.engine, "KXNEW-26NOV22-T1")
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta"], market_tickers=[TICKER])
    frames = socket.send("subscribe", channels=["orderbook_delta"],
                         market_tickers=[TICKER, "KXNEW-26NOV22-T1"])
    assert kinds(frames) == ["ok", "orderbook_snapshot"]
    assert frames[0]["sid"] == 1
    assert frames[0]["msg"]["market_tickers"] == [TICKER, "KXNEW-26NOV22-T1"]
    assert frames[1]["msg"]["market_ticker"] == "KXNEW-26NOV22-T1"
    assert kinds(socket.send("subscribe", channels=["orderbook_delta"],
                             market_tickers=[TICKER])) == ["ok"]


def test_unsubscribe_then_subscribe_gives_a_new_sid_and_a_snapshot(world: World) -> None:
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta"], market_tickers=[TICKER])
    socket.send("unsubscribe", sids=[1])
    frames = socket.send("subscribe", channels=["orderbook_delta"], market_tickers=[TICKER])
    assert [(frame["type"], frame.get("sid", frame["msg"].get("sid"))) for frame in frames] == [
        ("subscribed", 2), ("orderbook_snapshot", 2)]


def test_delete_markets_silences_them_and_list_tells_what_is_left(world: World) -> None:
    add_market(world.engine, "KXB-26NOV22-T1")
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta", "fill"],
                market_tickers=[TICKER, "KXB-26NOV22-T1"])
    frames = socket.send("update_subscription", sids=[1], action="delete_markets",
                         market_tickers=[TICKER])
    assert frames[0]["msg"]["market_tickers"] == ["KXB-26NOV22-T1"]
    two_sided(world)
    assert socket.read() == []
    assert socket.send("list_subscriptions")[0]["msg"] == [
        {"channel": "orderbook_delta", "sid": 1}, {"channel": "fill", "sid": 2}]


@pytest.mark.parametrize(("command", "code"), [
    ("{", 1), ("[]", 1), ('{"id":"a","cmd":"subscribe"}', 1), ('{"id":1,"cmd":"subscribe"}', 2),
    ('{"id":1,"cmd":"subscribe","params":{}}', 3),
    ('{"id":1,"cmd":"unsubscribe","params":{}}', 4), ('{"id":1,"cmd":"dance"}', 5),
    ('{"id":1,"cmd":"unsubscribe","params":{"sids":[9]}}', 7),
    ('{"id":1,"cmd":"subscribe","params":{"channels":["ticker_v2"]}}', 8),
    ('{"id":1,"cmd":"subscribe","params":{"channels":["trade"],"market_tickers":["KXNO"]}}', 11),
    ('{"id":1,"cmd":"update_subscription","params":{"action":"add_markets"}}', 12),
    ('{"id":1,"cmd":"update_subscription","params":{"sids":[1,2],"action":"add_markets"}}', 12),
    ('{"id":1,"cmd":"update_subscription","params":{"sids":[1],"action":"jump"}}', 13),
    ('{"id":1,"cmd":"update_subscription","params":{"sids":[1],"action":"add_markets"}}', 14),
    ('{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"]}}', 14),
    ('{"id":1,"cmd":"update_subscription","params":{"sids":[1]}}', 15),
    ('{"id":1,"cmd":"subscribe","params":{"channels":["communications"],"shard_factor":0}}', 19),
    ('{"id":1,"cmd":"subscribe","params":{"channels":["communications"],"shard_key":0}}', 20),
    (json.dumps({"id": 1, "cmd": "subscribe", "params": {
        "channels": ["communications"], "shard_key": 5, "shard_factor": 5}}), 21),
    ('{"id":1,"cmd":"subscribe","params":{"channels":["communications"],"shard_factor":101}}', 22),
])
def test_bad_commands_get_their_code(world: World, command: str, code: int) -> None:
    socket = world.socket()
    socket.raw('{"cmd":"subscribe","params":{"channels":["trade"]}}')
    frames = socket.raw(command)
    assert kinds(frames) == ["error"]
    assert frames[0]["msg"]["code"] == code
    assert frames[0]["msg"]["msg"] == sim.WS_ERRORS[code]


def test_unknown_ticker_names_itself_or_is_silent_by_switch(world: World) -> None:
    frames = world.socket().send("subscribe", channels=["trade"], market_ticker="KXNO")
    assert frames[0]["msg"]["market_ticker"] == "KXNO"
    world.exchange.switches.set("unknown_ticker_on_ws", "silent")
    assert kinds(world.socket().send("subscribe", channels=["trade"], market_ticker="KXNO")) == [
        "subscribed"]


def test_every_other_channel_is_accepted_and_silent(world: World) -> None:
    channels = ["communications", "multivariate_market_lifecycle", "cfbenchmarks_value",
                "cfbenchmarks_value_5hz", "pyth_value"]
    frames = world.socket().send("subscribe", channels=channels)
    assert kinds(frames) == ["subscribed"] * len(channels)


def test_own_orders_are_marked_on_deltas_and_others_are_not(world: World) -> None:
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta"], market_tickers=[TICKER])
    world.create("ask", "0.43", "5", client_order_id="bot-21")
    crowd(world.engine, "bid", "0.41", "1")
    mine, theirs = (frame["msg"] for frame in socket.read())
    assert (mine["price_dollars"], mine["delta_fp"], mine["side"], mine["client_order_id"]) == (
        "0.5700", "5.00", "no", "bot-21")
    assert "client_order_id" not in theirs
    assert mine["clock"] < theirs["clock"]


def test_own_deltas_name_the_subaccount() -> None:
    world = World(tier="advanced")
    world.rest("POST", "/portfolio/subaccounts", {})
    world.engine.accounts[1].move_cash(10**7, 0)
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta"], market_ticker=TICKER)
    for subaccount in (0, 1):
        world.create("bid", "0.10", "1", subaccount=subaccount)
    assert [frame["msg"]["subaccount"] for frame in socket.read()] == [0, 1]


def test_yes_price_option_only_changes_the_scale(world: World) -> None:
    two_sided(world)
    socket = world.socket()
    frames = socket.send("subscribe", channels=["orderbook_delta"], market_tickers=[TICKER],
                         use_yes_price=True)
    assert frames[1]["msg"]["no_dollars_fp"] == [["0.4400", "17.00"]]
    crowd(world.engine, "bid", "0.44", "7")
    assert [(f["msg"]["price_dollars"], f["msg"]["delta_fp"], f["msg"]["side"])
            for f in socket.read()] == [("0.4400", "-7.00", "no")]


@pytest.mark.parametrize("uses_yes_price", [False, True])
def test_book_rebuilt_from_frames_is_the_book(uses_yes_price: bool) -> None:
    world = World(seed=5)
    socket = world.socket()
    frames = socket.send("subscribe", channels=["orderbook_delta"], market_tickers=[TICKER],
                         use_yes_price=uses_yes_price)
    rng = random.Random(5)
    for n in range(300):
        side, price = rng.choice(["bid", "ask"]), f"0.{rng.randint(40, 60)}"
        if rng.random() < 0.5:
            crowd(world.engine, side, price, f"{rng.randint(1, 9)}.{rng.randint(0, 99):02d}")
        else:
            world.create(side, price, "3", client_order_id=f"c{n}")
    frames += socket.read()
    book: dict[tuple[str, str], int] = {}
    for frame in frames[1:]:
        msg = frame["msg"]
        if frame["type"] == "orderbook_snapshot":
            book = {(name[:-11], price): sim.parse_count_h(count) or 0
                    for name in ("yes_dollars_fp", "no_dollars_fp") for price, count in msg[name]}
            continue
        key, sign = (msg["side"], msg["price_dollars"]), -1 if msg["delta_fp"][0] == "-" else 1
        book[key] = book.get(key, 0) + sign * (sim.parse_count_h(msg["delta_fp"].lstrip("-")) or 0)
        assert book[key] >= 0
    real = book_of(world.engine)
    flip = (lambda price: price) if not uses_yes_price else (
        lambda price: sim.PRICE_TEXT[10_000 - (sim.parse_price_cc(price) or 0)])
    want = {("yes", price): count for price, count in real["yes_dollars"]}
    want |= {("no", flip(price)): count for price, count in real["no_dollars"]}
    assert {key: sim.count_text(h) for key, h in book.items() if h} == want


def test_one_match_is_told_in_the_standard_order(world: World) -> None:
    socket = world.socket()
    world.create("bid", "0.40", "5", client_order_id="maker")
    socket.send("subscribe", channels=["orderbook_delta", "trade", "ticker", "fill", "user_orders",
                                       "market_positions"], market_tickers=[TICKER])
    crowd(world.engine, "ask", "0.40", "5")
    frames = socket.read()
    assert kinds(frames) == ["fill", "user_order", "orderbook_delta", "trade", "ticker",
                             "market_position"]
    assert frames[0]["msg"]["trade_id"] == frames[3]["msg"]["trade_id"]
    assert (frames[1]["msg"]["status"], frames[1]["msg"]["last_update_reason"]) == (
        "executed", "Trade")
    crowd(world.engine, "ask", "0.50", "5")
    socket.read()
    world.create("bid", "0.50", "5", client_order_id="taker")
    assert kinds(socket.read())[:2] == ["user_order", "fill"]


def test_private_channels_have_no_seq(world: World) -> None:
    socket = world.socket()
    socket.send("subscribe", channels=["ticker", "fill", "user_orders", "market_positions"])
    two_sided(world)
    world.create("bid", "0.44", "5")
    frames = socket.read()
    assert {"ticker", "fill", "user_order", "market_position"} == set(kinds(frames))
    assert not any("seq" in frame for frame in frames)


def test_ticker_sends_first_picture_when_asked_and_then_only_changes(world: World) -> None:
    two_sided(world)
    socket = world.socket()
    frames = socket.send("subscribe", channels=["ticker"], market_tickers=[TICKER],
                         send_initial_snapshot=True, skip_ticker_ack=True)
    assert kinds(frames) == ["subscribed", "ticker"]
    crowd(world.engine, "bid", "0.10", "1")
    assert kinds(socket.read()) == ["ticker"]           # the first state it is told
    crowd(world.engine, "bid", "0.11", "1")
    assert socket.read() == []                          # best prices and sizes did not change
    add_market(world.engine, "KXT-26NOV22-T1")
    frames = socket.send("update_subscription", sids=[1], action="add_markets",
                         market_tickers=["KXT-26NOV22-T1"], send_initial_snapshot=True)
    assert (kinds(frames), frames[0]["msg"]) == (["ok", "ticker"], {})


def test_lifecycle_channel_tells_the_life_of_markets_events_and_fees(world: World) -> None:
    socket = world.socket()
    socket.send("subscribe", channels=["market_lifecycle_v2"])
    engine = world.engine
    add_market(engine, "KXL-26NOV22-T1")
    engine.deactivate("KXL-26NOV22-T1")
    engine.activate("KXL-26NOV22-T1")
    engine.set_grid("KXL-26NOV22-T1", sim.Grid.named("deci_cent"))
    engine.set_event_fees("KXL-26NOV22", "quadratic", 5_000)
    engine.set_event_fees("KXL-26NOV22", None, None)
    engine.set_close_time("KXL-26NOV22-T1", engine.now_us + 10**8)
    engine.settle("KXL-26NOV22-T1", "scalar", 3_300)
    frames = socket.read()
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert [frame["msg"].get("event_type", frame["type"]) for frame in frames] == [
        "event_lifecycle", "created", "deactivated", "activated", "price_level_structure_updated",
        "event_fee_update", "event_fee_update", "close_date_updated", "determined", "settled"]
    assert frames[8]["msg"]["settlement_value"] == "0.3300"


def test_group_updates_have_their_channel(world: World) -> None:
    socket = world.socket()
    socket.send("subscribe", channels=["order_group_updates"])
    group = world.rest("POST", "/portfolio/order_groups/create", {"contracts_limit": 5})[1]
    one = f"/portfolio/order_groups/{group['order_group_id']}"
    world.rest("PUT", f"{one}/limit", {"contracts_limit": 4})
    world.rest("PUT", f"{one}/trigger")
    world.rest("PUT", f"{one}/reset")
    world.rest("DELETE", one)
    frames = socket.read()
    assert [frame["msg"]["event_type"] for frame in frames] == [
        "created", "limit_updated", "triggered", "reset", "deleted"]
    assert [("contracts_limit_fp" in frame["msg"]) for frame in frames] == [
        True, True, False, False, False]


@pytest.mark.parametrize("code", [10, 25])
def test_terminal_error_ends_one_subscription(world: World, code: int) -> None:
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta", "trade"], market_tickers=[TICKER])
    world.exchange.control.terminal_error(code)
    frames = socket.read()
    assert [(frame["type"], frame["sid"], frame["msg"]["code"]) for frame in frames] == [
        ("error", 1, code)]
    two_sided(world)
    crowd(world.engine, "bid", "0.44", "1")
    assert kinds(socket.read()) == ["trade"]
    assert kinds(socket.send("subscribe", channels=["orderbook_delta"],
                             market_tickers=[TICKER])) == ["subscribed", "orderbook_snapshot"]


@pytest.mark.parametrize(("rule", "keys"), [("list", True), ("absent", False)])
def test_empty_side_of_a_snapshot_follows_its_switch(rule: str, keys: bool) -> None:
    world = World(switches={"snapshot_empty_side": rule})
    crowd(world.engine, "bid", "0.42", "13")
    frames = world.socket().send("subscribe", channels=["orderbook_delta"], market_ticker=TICKER)
    assert ("no_dollars_fp" in frames[1]["msg"]) == keys
    assert frames[1]["msg"]["yes_dollars_fp"]


@pytest.mark.parametrize("name", ["seeded", "fill_first"])
def test_other_message_orders_tell_the_same_things(name: str) -> None:
    def told(rule: str) -> Counter[str]:
        world = World(switches={"match_message_order": rule})
        socket = world.socket()
        socket.send("subscribe", channels=["orderbook_delta", "trade", "fill", "user_orders",
                                           "market_positions"], market_tickers=[TICKER])
        two_sided(world)
        world.create("bid", "0.44", "20")
        return Counter(kinds(socket.read()))
    assert told(name) == told("standard")


def test_long_frames_use_the_longer_lengths(world: World) -> None:
    for cents in range(1, 99):
        crowd(world.engine, "bid", f"0.{cents:02d}", "1")
    frames = world.socket().send("subscribe", channels=["orderbook_delta"], market_ticker=TICKER)
    assert len(frames[1]["msg"]["yes_dollars_fp"]) == 98
    payload = b"x" * 70_000
    assert list(frames_of(sim.frame_bytes(payload))) == [payload]


# ======================================================================================
# §E12 SYNTHETIC
# ======================================================================================
def history_of(seed: int, seconds: int = 60) -> list[Any]:
    world = World(markets=5, seed=seed)
    for _ in range(seconds):
        world.advance(1)
    return [(market.ticker, market.volume_h, market.last_cc, book_of(world.engine, market.ticker))
            for market in world.engine.markets.values()]


def test_one_seed_one_history() -> None:
    assert history_of(7) == history_of(7)
    assert history_of(7) != history_of(8)


def test_history_does_not_depend_on_how_often_it_is_looked_at() -> None:
    coarse, fine = World(markets=3, seed=4), World(markets=3, seed=4)
    coarse.advance(30)
    for _ in range(300):
        fine.advance(0.1)
    assert [market.volume_h for market in coarse.engine.markets.values()] == [
        market.volume_h for market in fine.engine.markets.values()]


def gate_of(body: dict[str, Any], now_s: float) -> str:
    """The first gate of the discovery that a market fails; "" when it passes all."""
    bid, ask = float(body["yes_bid_dollars"]), float(body["yes_ask_dollars"])
    left_s = sim.parse_time_us(body["close_time"]) / 1e6 - now_s
    gates = [
        ("not_active", body["status"] != "active"), ("closes_too_soon", left_s < 1_800),
        ("closes_too_late", left_s > 2_592_000), ("never_traded", body["volume_fp"] == "0.00"),
        ("volume_low", float(body["volume_24h_fp"]) < 100),
        ("one_sided", not 0 < bid < ask < 1),
        ("price_extreme", not 0.05 <= (bid + ask) / 2 <= 0.95),
        ("spread_too_wide", ask - bid > 0.1001),
        ("size_thin", min(float(body["yes_bid_size_fp"]), float(body["yes_ask_size_fp"])) < 10),
    ]
    return next((name for name, fails in gates if fails), "")


@pytest.mark.parametrize("seed", range(6))
def test_most_markets_pass_the_gates_of_the_discovery_and_some_do_not(seed: int) -> None:
    world = World(markets=40, seed=seed)
    world.advance(5)
    bodies = world.rest("GET", "/markets?limit=1000")[1]["markets"]
    failed = Counter(gate_of(body, world.time.now_s) for body in bodies)
    assert len(bodies) == 40
    assert failed[""] >= 24
    assert len(failed) > 1
    events = Counter(body["event_ticker"] for body in bodies)
    assert max(events.values()) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_one_contract_maker_is_filled_within_a_minute(seed: int) -> None:
    world = World(markets=5, seed=seed)
    for _ in range(60):
        world.rest("DELETE", "/portfolio/events/orders")
        for market in list(world.engine.markets.values())[:5]:
            bid_cc, ask_cc, _, _ = market.quotes()
            for side, cc in (("bid", bid_cc), ("ask", ask_cc)):
                if market.is_open and 0 < cc < 10_000:
                    world.create(side, sim.PRICE_TEXT[cc], "1", ticker=market.ticker,
                                 post_only=True)
        world.advance(1)
    assert len(world.engine.fills) >= 3
    assert world.engine.imbalance_ud() == 0


def test_markets_settle_at_the_end_and_new_ones_come() -> None:
    world = World(markets=5, seed=3)
    for _ in range(65):
        world.advance(60)
    markets = world.engine.markets.values()
    assert {"finalized", "active"} == {market.status for market in markets}
    assert sum(market.is_open for market in markets) == 5
    ended = [market for market in markets if market.status == "finalized"]
    assert all(market.result in ("yes", "no") for market in ended)
    last = [market.last_cc for market in ended if market.result == "yes"]
    assert all(cc > 3_000 for cc in last)               # the informed knew before the end
    assert world.engine.imbalance_ud() == 0


def test_grids_sizes_and_spreads_vary() -> None:
    world = World(markets=40, seed=1)
    world.advance(30)
    markets = list(world.engine.markets.values())
    assert {market.grid.label for market in markets} >= {"linear_cent", "tapered_deci_cent"}
    assert any(trade.count_h % 100 for market in markets for trade in market.trades)
    spreads = {(market.quotes()[1] - market.quotes()[0]) // 100 for market in markets}
    assert len(spreads) >= 4
    assert any("." in market.ticker for market in markets)


# ======================================================================================
# §E13 TAPE
# ======================================================================================
TAPE_START_MS = 1_786_411_800_000


class TapeMaker:
    """Writes a small tape by hand."""

    def __init__(self, folder: Path, ticker: str = "KXGOLD15M-26AUG102145-45",
                 start_ms: int = TAPE_START_MS) -> None:
        self.folder, self.ticker, self.ms = folder / ticker, ticker, start_ms
        self.folder.mkdir(parents=True)
        self.lines: list[str] = []
        self.prints = 0

    def _add(self, kind: str, **msg: Any) -> TapeMaker:
        event = {"type": kind, "sid": 1, "seq": 9 * len(self.lines),
                 "msg": {"market_ticker": self.ticker, **msg}}
        self.lines.append(json.dumps({"recv_ms": self.ms, "event": event}))
        return self

    def wait(self, ms: int) -> TapeMaker:
        self.ms += ms
        return self

    def snapshot(self, yes: dict[str, str], no: dict[str, str]) -> TapeMaker:
        sides = {"yes_dollars_fp": [list(row) for row in yes.items()],
                 "no_dollars_fp": [list(row) for row in no.items()]}
        return self._add("orderbook_snapshot",
                         **{name: rows for name, rows in sides.items() if rows})

    def delta(self, side: str, price: str, count: str, **more: Any) -> TapeMaker:
        return self._add("orderbook_delta", price_dollars=price, delta_fp=count, side=side,
                         ts_ms=self.ms, **more)

    def print(self, taker: str, yes_price: str, count: str) -> TapeMaker:
        self.prints += 1
        return self._add("trade", trade_id=f"t{self.prints}", yes_price_dollars=yes_price,
                         count_fp=count, taker_side=taker, ts_ms=self.ms,
                         taker_book_side="bid" if taker == "yes" else "ask")

    def save(self, *, result: str = "yes", value: str | None = None, after_ms: int = 60_000,
             cut: int = 0) -> str:
        def text(ms: int) -> str:
            return sim.time_text(ms * 1000)
        market = {"ticker": self.ticker, "created_time": text(TAPE_START_MS - 10**7),
                  "open_time": text(TAPE_START_MS - 60_000), "close_time": text(self.ms + after_ms),
                  "result": result, "settlement_timer_seconds": 1, "expiration_value": "4189.00",
                  "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}],
                  "price_level_structure": "linear_cent", "strike_type": "greater",
                  "floor_strike": 4184.96}
        if value is not None:
            market["settlement_value_dollars"] = value
        event = {"event_ticker": self.ticker.rpartition("-")[0], "series_ticker": "KXGOLD15M",
                 "title": "Gold", "sub_title": "", "category": "Commodities"}
        (self.folder / "event.json").write_text(json.dumps(
            {"response": {"event": event, "markets": [market]}}))
        raw = gzip.compress("\n\n".join(self.lines).encode() + b"\n")
        (self.folder / "2026-08-11.ndjson.gz").write_bytes(raw[:len(raw) - cut])
        return str(self.folder)


def play(*tapes: str, **settings: Any) -> World:
    """A world at the start of some tapes, without order latency."""
    start_s = sim.tape_start_s(tapes)
    world = World(tapes=tuple(tapes), now_s=start_s, latency_ms=0, **settings)
    world.exchange.tick()
    return world


def run_out(world: World, step_s: float = 1.0, at_most_s: float = 2_000) -> None:
    for _ in range(int(at_most_s / step_s)):
        world.advance(step_s)
        if all(market.status == "finalized" for market in world.engine.markets.values()):
            return


def test_a_tape_shows_its_book_and_settles_with_its_result(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    tape.wait(1000).delta("yes", "0.4100", "5.00").wait(1000).delta("no", "0.5500", "-20.00")
    world = play(tape.save(value="1.0000"))
    assert book_of(world.engine, tape.ticker) == {"yes_dollars": [["0.4000", "10.00"]],
                                                  "no_dollars": [["0.5500", "20.00"]]}
    market = world.engine.markets[tape.ticker]
    assert (market.status, market.result, market.expiration_value) == ("active", "", "")
    world.advance(2.5)
    assert book_of(world.engine, tape.ticker) == {
        "yes_dollars": [["0.4000", "10.00"], ["0.4100", "5.00"]], "no_dollars": []}
    run_out(world)
    body = world.rest("GET", f"/markets/{tape.ticker}")[1]["market"]
    assert (body["status"], body["result"], body["settlement_value_dollars"],
            body["expiration_value"]) == ("finalized", "yes", "1.0000", "4189.00")


@pytest.mark.parametrize(("model", "filled"), [("pessimistic", 0), ("realistic", 200),
                                               ("optimistic", 500)])
def test_queue_models_differ_in_who_cancelled(tmp_path: Path, model: str, filled: int) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    tape.wait(1000).delta("yes", "0.4000", "6.00")      # joins behind us
    tape.wait(1000).delta("yes", "0.4000", "-8.00")     # half of what is shown is cancelled
    tape.wait(1000).delta("yes", "0.4000", "-7.00").print("no", "0.4000", "7.00")
    world = play(tape.save(), queue=model)
    world.advance(0.5)
    world.create("bid", "0.40", "5", ticker=tape.ticker)
    world.advance(5)
    assert sum(fill.count_h for fill in world.engine.fills) == filled
    assert world.engine.imbalance_ud() == 0


def test_a_print_takes_the_queue_first_then_us(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    tape.wait(1000).delta("yes", "0.4000", "-4.00").print("no", "0.4000", "4.00")
    tape.wait(1000).delta("yes", "0.4000", "6.00")
    tape.wait(1000).delta("yes", "0.4000", "-9.00").print("no", "0.4000", "9.00")
    world = play(tape.save())
    world.advance(0.5)
    _, made = world.create("bid", "0.40", "5", ticker=tape.ticker)
    world.advance(1)
    path = f"/portfolio/orders/{made['order_id']}/queue_position"
    assert world.rest("GET", path)[1] == {"queue_position_fp": "6.00"}
    world.advance(2.5)
    assert [(fill.count_h, fill.price_cc, fill.is_taker) for fill in world.engine.fills] == [
        (300, 4000, False)]
    prints = [(trade.count_h, trade.price_cc) for trade in
              world.engine.markets[tape.ticker].trades]
    assert prints == [(400, 4000), (300, 4000), (600, 4000)]    # the recorded total


def test_a_print_through_our_price_fills_us_at_our_price(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    tape.wait(1000).delta("yes", "0.4000", "-3.00").print("no", "0.4000", "3.00")
    world = play(tape.save())
    world.advance(0.5)
    world.create("bid", "0.42", "5", ticker=tape.ticker)
    world.advance(1)
    assert [(fill.count_h, fill.price_cc) for fill in world.engine.fills] == [(300, 4200)]


def test_size_that_arrives_across_our_order_meets_us_first(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    tape.wait(1000).delta("no", "0.5800", "7.00")
    world = play(tape.save())
    world.advance(0.5)
    world.create("bid", "0.42", "5", ticker=tape.ticker)
    world.advance(1)
    assert [(fill.count_h, fill.price_cc) for fill in world.engine.fills] == [(500, 4200)]
    assert book_of(world.engine, tape.ticker)["no_dollars"] == [["0.5500", "20.00"],
                                                                ["0.5800", "2.00"]]


def test_what_we_took_is_not_there_twice(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    tape.wait(1000).delta("no", "0.5500", "2.00").wait(1000).delta("no", "0.5500", "-17.00")
    tape.wait(1000).delta("no", "0.5500", "10.00")
    world = play(tape.save())
    world.advance(0.5)
    world.create("bid", "0.45", "15", ticker=tape.ticker)

    def shown() -> list[list[str]]:
        return book_of(world.engine, tape.ticker)["no_dollars"]
    assert shown() == [["0.5500", "5.00"]]
    world.advance(1)
    assert shown() == [["0.5500", "7.00"]]
    world.advance(1)
    assert shown() == []                                # the tape's level fell below what we took
    world.advance(1)
    assert shown() == [["0.5500", "10.00"]]


def test_recorded_own_orders_are_subtracted(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {})
    tape.wait(1000).delta("yes", "0.4000", "5.00", client_order_id="theirs-1")
    tape.wait(1000).delta("yes", "0.4000", "-5.00", client_order_id="theirs-1")
    world = play(tape.save())
    for _ in range(3):
        world.advance(1)
        assert book_of(world.engine, tape.ticker)["yes_dollars"] == [["0.4000", "10.00"]]


def test_several_tapes_share_a_start_and_keep_their_own_lengths(tmp_path: Path) -> None:
    paths = []
    for n, start_ms in enumerate((TAPE_START_MS, TAPE_START_MS + 3_600_000)):
        tape = TapeMaker(tmp_path, f"KXGOLD15M-26AUG10{n}-0{n}", start_ms)
        tape.snapshot({"0.4000": f"{n + 1}.00"}, {}).wait(1000 * (n + 1)).delta("yes", "0.41", "1")
        paths.append(tape.save())
    world = play(*reversed(paths))
    assert world.time.now_s == TAPE_START_MS / 1000
    for n in range(2):
        assert book_of(world.engine, f"KXGOLD15M-26AUG10{n}-0{n}")["yes_dollars"] == [
            ["0.4000", f"{n + 1}.00"]]
    world.advance(1.2)
    assert [len(book_of(world.engine, ticker)["yes_dollars"])
            for ticker in sorted(world.engine.markets)] == [2, 1]


def test_a_cut_tape_plays_what_is_there_and_closes(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    for _ in range(200):
        tape.wait(100).delta("yes", f"0.{random.Random(1).randint(10, 30)}", "1.00")
    world = play(tape.save(cut=200, after_ms=600_000))
    run_out(world, 5)
    report = world.exchange.driver.report()[tape.ticker]        # type: ignore[attr-defined]
    assert report["is_cut"]
    assert world.engine.markets[tape.ticker].status == "finalized"


def test_damaged_and_unknown_lines_are_counted_and_skipped(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {})
    tape.lines += ["{", '{"recv_ms": 1}', '{"recv_ms":1,"event":{"type":"ticker","msg":{}}}',
                   json.dumps({"recv_ms": 1, "event": {"type": "orderbook_delta", "msg": {
                       "side": "yes", "price_dollars": "2.5", "delta_fp": "1"}}}), ""]
    tape.wait(500).delta("yes", "0.4100", "1.00")
    world = play(tape.save())
    world.advance(1)
    report = world.exchange.driver.report()[tape.ticker]        # type: ignore[attr-defined]
    assert (report["damaged"], report["skipped"]) == (3, 1)
    assert len(book_of(world.engine, tape.ticker)["yes_dollars"]) == 2


def test_a_tape_without_result_closes_and_stays_open_ended(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    world = play(tape.save(result=""))
    run_out(world, 5, 300)
    assert world.engine.markets[tape.ticker].status == "closed"


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda folder: (folder / "event.json").unlink(), "event.json"),
    (lambda folder: (folder / "event.json").write_text("{}"), "GET /events"),
    (lambda folder: (folder / "2026-08-11.ndjson.gz").unlink(), "ndjson.gz"),
    (lambda folder: (folder / "2026-08-11.ndjson.gz").write_bytes(gzip.compress(b"\n")), "frame"),
])
def test_a_directory_that_is_no_tape_is_refused_in_one_sentence(
        tmp_path: Path, spoil: Callable[[Path], object], says: str) -> None:
    path = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {}).save()
    spoil(Path(path))
    with pytest.raises(sim.TapeError, match=says):
        sim.SimExchange(sim.SimSettings(tapes=(path,)), ManualTime(TAPE_START_MS / 1000))


def test_the_player_tells_how_far_it_is_and_settles_on_command(tmp_path: Path) -> None:
    tape = TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {"0.5500": "20.00"})
    for _ in range(9):
        tape.wait(1000).delta("yes", "0.4100", "5.00")
    world = play(tape.save(result="no"))
    world.create("bid", "0.45", "2", ticker=tape.ticker)
    world.advance(4.5)
    status = world.exchange.replay_status()
    assert (status["tape"], status["events_done"], status["events_total"]) == (tape.ticker, 5, 10)
    assert status["from_at_ms"] == TAPE_START_MS
    assert status["to_at_ms"] == TAPE_START_MS + 69_000
    assert status["virtual_at_ms"] == TAPE_START_MS + 4_500
    world.exchange.settle_tapes()
    world.exchange.settle_tapes()
    assert [row.revenue_ud for row in world.engine.settlements] == [0]
    run_out(world, 5, 100)
    assert world.engine.imbalance_ud() == 0
    assert World().exchange.replay_status() == {}


@pytest.mark.parametrize(("field", "value", "says"), [
    ("close_time", None, "close_time"), ("open_time", "soon", "soon"),
    ("settlement_timer_seconds", "x", "could not convert"),
])
def test_a_definition_with_a_hole_is_named(tmp_path: Path, field: str, value: Any,
                                           says: str) -> None:
    path = Path(TapeMaker(tmp_path).snapshot({"0.4000": "10.00"}, {}).save())
    body = json.loads((path / "event.json").read_text())
    row = body["response"]["markets"][0]
    row[field] = value
    if value is None:
        del row[field]
    (path / "event.json").write_text(json.dumps(body))
    with pytest.raises(sim.TapeError, match=says):
        sim.SimExchange(sim.SimSettings(tapes=(str(path),)), ManualTime(TAPE_START_MS / 1000))


def sample_tapes() -> list[Path]:
    return sorted(path for path in TAPES.glob("*") if path.is_dir()) if TAPES.exists() else []


def recorded_books(path: Path) -> Iterator[tuple[int, dict[tuple[str, str], int]]]:
    """(recv_ms, whole book) at each snapshot of a tape, rebuilt here from the raw lines.

    Yields the book as the deltas before it had left it, then the snapshot itself.
    """
    book: dict[tuple[str, str], int] = {}
    for file in sorted(path.glob("*.ndjson.gz")):
        for line in gzip.decompress(file.read_bytes()).splitlines():
            if not line.strip():
                continue
            row = orjson.loads(line)
            msg = row["event"]["msg"]
            if row["event"]["type"] == "orderbook_delta":
                key = (msg["side"], msg["price_dollars"])
                book[key] = book.get(key, 0) + round(float(msg["delta_fp"]) * 100)
            elif row["event"]["type"] == "orderbook_snapshot":
                book = {(name[:-11], price): round(float(count) * 100)
                        for name in ("yes_dollars_fp", "no_dollars_fp")
                        for price, count in msg.get(name) or []}
                yield row["recv_ms"], dict(book)
            if len(book) > 400:
                book = {key: h for key, h in book.items() if h}


@pytest.mark.skipif(not sample_tapes(), reason="../shared/tapes is not here")
@pytest.mark.parametrize("path", sample_tapes(), ids=lambda path: path.name[-9:])
def test_a_tape_without_our_orders_gives_exactly_the_recorded_book(path: Path) -> None:
    world = play(str(path))
    player = world.exchange.driver.players[0]           # type: ignore[attr-defined]
    close_ms = player.market.close_us // 1000
    checked = 0
    for recv_ms, want in recorded_books(path):
        if recv_ms >= close_ms:
            break
        world.time.now_s = recv_ms / 1000 + 1e-4
        world.exchange.tick()
        book = book_of(world.engine, path.name)
        got = {(leg, price): count for leg in ("yes", "no")
               for price, count in book[f"{leg}_dollars"]}
        assert got == {key: sim.count_text(h) for key, h in want.items() if h}
        checked += 1
    assert checked >= 1
    run_out(world, 10, 1_200)
    assert (player.rebased, player.negative) == (0, 0)  # no snapshot differed from the deltas
    truth = json.loads((path / "event.json").read_text())["response"]["markets"][0]
    assert (player.market.status, player.market.result) == ("finalized", truth["result"])
    assert world.exchange.driver.report()[path.name]["unpaired"] == 0   # type: ignore[attr-defined]


@pytest.mark.skipif(not sample_tapes(), reason="../shared/tapes is not here")
def test_shadows_of_one_stream_of_orders_are_ordered_by_model() -> None:
    path = sample_tapes()[0]
    world = play(str(path))
    rng = random.Random(2)
    engine = world.engine
    for _ in range(900):
        world.advance(1)
        market = engine.markets[path.name]
        if market.is_open:
            bid_cc, ask_cc, _, _ = market.quotes()
            side = rng.choice(["bid", "ask"])
            cc = bid_cc if side == "bid" else ask_cc
            if 0 < cc < 10_000:
                world.create(side, sim.PRICE_TEXT[cc], "3", ticker=path.name, post_only=True,
                             expiration_time=int(world.time.now_s) + 30)
        for mine in engine.open.values():
            filled = [shadow[1] for shadow in mine.shadow_h]
            assert filled == sorted(filled), "pessimistic <= realistic <= optimistic"
        assert engine.imbalance_ud() == 0
        book = engine.markets[path.name].book
        best = (book.bids.best_cc, book.asks.best_cc)
        assert None in best or best[0] < best[1], "crossed"     # type: ignore[operator]
    assert len(engine.fills) > 20


# ======================================================================================
# Every switch changes what is seen
# ======================================================================================
def switched(name: str, value: str, **settings: Any) -> World:
    return World(switches={name: value}, **settings)


def create_body(**more: Any) -> dict[str, Any]:
    return {"ticker": TICKER, "side": "bid", "price": "0.10", "count": "1",
            "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
            **more}


CREATE = "/portfolio/events/orders"


@pytest.mark.parametrize(("value", "want"), [
    ("market_inactive/400", (400, "market_inactive")), ("market_closed/400",
                                                        (400, "market_closed")),
    ("not_found/404", (404, "not_found")), ("market_inactive/409", (409, "market_inactive"))])
def test_switch_closed_market_code(value: str, want: tuple[int, str]) -> None:
    world = switched("closed_market_code", value)
    _, made = world.create("bid", "0.10", "1")
    world.engine.set_close_time(TICKER, world.engine.now_us)
    for method, path, body in (("POST", CREATE, create_body()),
                               ("DELETE", f"{CREATE}/{made['order_id']}", None)):
        status, answer = world.rest(method, path, body)
        assert (status, answer["error"]["code"]) == want


@pytest.mark.parametrize(("value", "code"), [("market_not_found/404", "market_not_found"),
                                             ("not_found/404", "not_found")])
def test_switch_unknown_market_code(value: str, code: str) -> None:
    status, answer = switched("unknown_market_code", value).create("bid", "0.1", "1", ticker="KXNO")
    assert (status, answer["error"]["code"]) == (404, code)


@pytest.mark.parametrize(("value", "key"), [("invalid_parameters", "error"),
                                            ("bad_request", "code")])
def test_switch_missing_field_code(value: str, key: str) -> None:
    body = create_body()
    del body["count"]
    status, answer = switched("missing_field_code", value).rest("POST", CREATE, body)
    assert (status, key in answer) == (400, True)


@pytest.mark.parametrize(("value", "status"), [("ignored", 201), ("refused", 400)])
def test_switch_extra_fields(value: str, status: int) -> None:
    assert switched("extra_fields", value).create("bid", "0.1", "1", colour="red")[0] == status


@pytest.mark.parametrize(("value", "want"), [("Decrease", "Decrease"), ("none", None)])
def test_switch_plain_cancel_reason(value: str, want: str | None) -> None:
    world = switched("plain_cancel_reason", value)
    socket = world.socket()
    socket.send("subscribe", channels=["user_orders"])
    _, made = world.create("bid", "0.10", "1")
    world.rest("DELETE", f"{CREATE}/{made['order_id']}")
    assert socket.read()[-1]["msg"].get("last_update_reason") == want


@pytest.mark.parametrize(("value", "kind"), [("ok", "ok"), ("subscribed", "subscribed")])
def test_switch_resubscribe_reply(value: str, kind: str) -> None:
    socket = switched("resubscribe_reply", value).socket()
    socket.send("subscribe", channels=["trade"])
    assert kinds(socket.send("subscribe", channels=["trade"])) == [kind]


@pytest.mark.parametrize(("value", "want"), [("sent", "0.0000"), ("absent", None)])
def test_switch_liquidity_dollars(value: str, want: str | None) -> None:
    market = switched("liquidity_dollars", value).rest("GET", f"/markets/{TICKER}")[1]["market"]
    assert market.get("liquidity_dollars") == want


@pytest.mark.parametrize(("value", "want"), [("on", True), ("off", False)])
def test_switch_sending_ts_ms(value: str, want: bool) -> None:
    world = switched("sending_ts_ms", value)
    socket = world.socket()
    frames = socket.send("subscribe", channels=["orderbook_delta"], market_ticker=TICKER)
    assert [("sending_ts_ms" in frame) for frame in frames] == [want] * 2


@pytest.mark.parametrize(("value", "want"), [("on", ["ok", "orderbook_snapshot"]), ("off", ["ok"])])
def test_switch_add_markets_snapshot(value: str, want: list[str]) -> None:
    world = switched("add_markets_snapshot", value)
    add_market(world.engine, "KXB-26NOV22-T1")
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta"], market_ticker=TICKER)
    assert kinds(socket.send("update_subscription", sids=[1], action="add_markets",
                             market_tickers=["KXB-26NOV22-T1"])) == want


@pytest.mark.parametrize("value", ["0", "1"])
def test_switch_unsubscribed_seq(value: str) -> None:
    socket = switched("unsubscribed_seq", value).socket()
    socket.send("subscribe", channels=["fill"])
    assert socket.send("unsubscribe", sids=[1])[0]["seq"] == int(value)


@pytest.mark.parametrize(("value", "status"), [("201", 201), ("400", 400)])
def test_switch_batch_status(value: str, status: int) -> None:
    bad = create_body(count="9999999")
    assert switched("batch_status", value).rest("POST", f"{CREATE}/batched",
                                                {"orders": [bad]})[0] == status


@pytest.mark.parametrize(("value", "named"), [("off", None), ("on", "b-1")])
def test_switch_batch_error_has_client_id(value: str, named: str | None) -> None:
    bad = create_body(count="9999999", client_order_id="b-1")
    rows = switched("batch_error_has_client_id", value).rest(
        "POST", f"{CREATE}/batched", {"orders": [bad]})[1]["orders"]
    assert rows[0].get("client_order_id") == named


@pytest.mark.parametrize(("value", "is_named"), [("empty", False), ("generated", True)])
def test_switch_omitted_client_order_id(value: str, is_named: bool) -> None:
    world = switched("omitted_client_order_id", value)
    _, made = world.create("bid", "0.10", "1")
    assert ("client_order_id" in made) == is_named
    assert bool(world.rest("GET", "/portfolio/orders")[1]["orders"][0]["client_order_id"]) == (
        is_named)


@pytest.mark.parametrize(("value", "status"), [("works", 200), ("refused", 409)])
def test_switch_market_pause_cancel(value: str, status: int) -> None:
    world = switched("market_pause_cancel", value)
    _, made = world.create("bid", "0.10", "1")
    world.engine.deactivate(TICKER)
    assert world.rest("DELETE", f"{CREATE}/{made['order_id']}")[0] == status


@pytest.mark.parametrize(("value", "status"), [("ioc", 201), ("refused", 409)])
def test_switch_fok_self_cross(value: str, status: int) -> None:
    world = switched("fok_self_cross", value)
    world.create("ask", "0.50", "5")
    assert world.create("bid", "0.50", "5", time_in_force="fill_or_kill")[0] == status


@pytest.mark.parametrize(("value", "status"), [("account", 409), ("subaccount", 201),
                                               ("shard", 409)])
def test_switch_dedupe_scope(value: str, status: int) -> None:
    world = switched("dedupe_scope", value, tier="advanced")
    world.rest("POST", "/portfolio/subaccounts", {})
    world.exchange.engine.accounts[1].move_cash(10**9, 0)
    world.create("bid", "0.10", "1", client_order_id="x")
    assert world.create("bid", "0.10", "1", client_order_id="x", subaccount=1)[0] == status


@pytest.mark.parametrize(("value", "code"), [("forbidden", "forbidden"),
                                             ("permission_denied", "permission_denied")])
def test_switch_forbidden_code(value: str, code: str) -> None:
    world = switched("forbidden_code", value)
    world.exchange.control.set_scopes(["read"])
    assert world.create("bid", "0.10", "1") == (403, {"error": {
        "code": code, "message": code.replace("_", " ")}})
    assert world.rest("GET", "/api_keys")[1]["api_keys"][0]["scopes"] == ["read"]


@pytest.mark.parametrize(("value", "traded"), [("all_fills", 750_000), ("opening", 500_000)])
def test_switch_total_traded(value: str, traded: int) -> None:
    account = sim.Account(0, 10**9, 0, sim.Switches({"total_traded": value}))
    account.book("A", 100, 5000, 0, 1)
    account.book("A", -50, 5000, 0, 2)
    assert account.state("A").traded_ud == traded


@pytest.mark.parametrize(("value", "fee"), [("current", 163_200), ("june", 163_200)])
@pytest.mark.parametrize(("precision", "factor"), [("direct", 1), ("app", 100)])
def test_switches_of_fees_reach_the_engine(value: str, fee: int, precision: str,
                                           factor: int) -> None:
    engine = make_engine(fee_rounding=value, fee_precision=precision)
    crowd(engine, "ask", "0.63", "10")
    engine.create(order("bid", "0.63", "10"))
    step = 100 * factor
    assert engine.account.cash_ud % step == 0
    assert engine.fills[0].fee_ud in (fee, 170_000)


@pytest.mark.parametrize(("value", "status"), [("10", 401), ("30", 200)])
def test_switch_skew_window(value: str, status: int) -> None:
    world = switched("skew_window_s", value)
    headers = world.signer.headers("GET", BALANCE, NOW_S - 20)
    assert world.rest("GET", "/portfolio/balance", headers=headers)[0] == status


def test_every_switch_is_tried_with_every_value() -> None:
    source = Path(__file__).read_text()
    assert [name for name in sim.SWITCHES if f'"{name}"' not in source
            and f"{name}=" not in source] == []


# ======================================================================================
# §E14 FAULTS AND CONTROL, §E15 EXCHANGE
# ======================================================================================
class Live:
    """A real exchange on a real loopback socket, and one client."""

    def __init__(self, **settings: Any) -> None:
        switches = {"read_lag_ms": "0", **settings.pop("switches", {})}
        settings = {"markets": 0, "tier": "off", "control": True, **settings}
        self.exchange = sim.SimExchange(sim.SimSettings(switches=switches, **settings))
        if not settings["markets"] and not settings.get("tapes"):
            add_market(self.exchange.engine)

    async def __aenter__(self) -> Live:
        self.address = await self.exchange.start()
        self.base = self.address.rest.removesuffix(sim.REST_ROOT)
        self.signer = Signer(self.address.private_key_pem, self.address.key_id)
        self.http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.http.close()
        await self.exchange.stop()

    async def call(self, method: str, path: str, body: Any = None,
                   timeout_s: float = 5) -> tuple[int, bytes]:
        target = sim.REST_ROOT + path
        headers = self.signer.headers(method, target.partition("?")[0], time.time())
        data = None if body is None else orjson.dumps(body)
        if data:
            headers["Content-Type"] = "application/json"
        async with asyncio.timeout(timeout_s), self.http.request(
                method, self.base + target, headers=headers, data=data) as answer:
            return answer.status, await answer.read()

    async def create(self, client_order_id: str = "", timeout_s: float = 5) -> tuple[int, bytes]:
        return await self.call("POST", "/portfolio/events/orders", {
            "ticker": TICKER, "side": "bid", "price": "0.10", "count": "1",
            "client_order_id": client_order_id, "time_in_force": "good_till_canceled",
            "self_trade_prevention_type": "taker_at_cross"}, timeout_s)

    async def socket(self, **more: Any) -> aiohttp.ClientWebSocketResponse:
        headers = self.signer.headers("GET", sim.WS_ROOT, time.time())
        return await self.http.ws_connect(self.address.ws, headers=headers, **more)


async def next_frame(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    async with asyncio.timeout(5):
        return orjson.loads(await socket.receive_str())        # type: ignore[no-any-return]


async def test_real_socket_serves_rest_and_stream() -> None:
    async with Live() as live:
        status, body = await live.call("GET", "/portfolio/balance")
        assert (status, orjson.loads(body)["balance_dollars"]) == (200, "1000.0000")
        socket = await live.socket()
        await socket.send_json({"id": 1, "cmd": "subscribe", "params": {
            "channels": ["orderbook_delta"], "market_ticker": TICKER}})
        assert (await next_frame(socket))["type"] == "subscribed"
        assert (await next_frame(socket))["type"] == "orderbook_snapshot"
        await live.create("x")
        assert (await next_frame(socket))["msg"]["client_order_id"] == "x"
        await socket.close()


async def test_handshake_without_a_good_signature_is_a_401() -> None:
    async with Live() as live:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await live.http.ws_connect(live.address.ws)
        assert caught.value.status == 401
        status, _ = await live.call("GET", "/../v2/portfolio/balance")
        assert status in (401, 404)


async def test_server_pings_with_heartbeat() -> None:
    async with Live(switches={"server_pings": "0.05"}) as live:
        socket = await live.socket(autoping=False)
        async with asyncio.timeout(5):
            message = await socket.receive()
        assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PING, b"heartbeat")
        await socket.close()


async def test_key_file_is_private_and_goes_with_the_exchange(tmp_path: Path) -> None:
    async with Live() as live:
        path = Path(live.address.private_key_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == live.address.private_key_pem
        assert live.address.private_key_pem not in repr(live.address)
    assert not path.exists()
    ids = set()
    for _ in range(2):
        async with Live(key_dir=str(tmp_path), key_type="rsa") as live:
            ids.add((live.address.key_id, live.address.private_key_pem))
    assert len(ids) == 1
    assert (tmp_path / sim.KEY_FILE).exists()


async def test_lost_answers_act_and_lost_requests_do_not() -> None:
    async with Live() as live:
        control = live.exchange.control
        for arm, acts in ((lambda: control.lose_answers(1), True),
                          (lambda: control.lose_answers(1, "hang"), True),
                          (lambda: control.black_hole(1), False),
                          (lambda: control.reset_next(1, "create"), False)):
            arm()
            before = len(live.exchange.account.orders)
            with pytest.raises((aiohttp.ClientError, TimeoutError)):
                await live.create(timeout_s=0.3)
            assert len(live.exchange.account.orders) - before == acts
        assert (await live.create())[0] == 201


async def test_rejects_delays_and_garbled_answers() -> None:
    async with Live() as live:
        control = live.exchange.control
        control.reject_next(2, 503, "<html>busy</html>")
        assert [await live.create() for _ in range(2)] == [(503, b"<html>busy</html>")] * 2
        assert live.exchange.account.orders == []
        control.delay(0.2)
        before = time.monotonic()
        assert (await live.create())[0] == 201
        assert time.monotonic() - before >= 0.2
        for kind in sim.GARBLES[:7]:
            control.garble_next(kind)
            status, body = await live.create()
            assert status == 201
            with pytest.raises((orjson.JSONDecodeError, KeyError, AssertionError)):
                assert orjson.loads(body)["order_id"] in live.exchange.engine.orders
        control.fail_next(1, 502)
        assert (await live.create())[0] == 502
        assert len(live.exchange.account.orders) == 1 + 7 + 1


async def test_a_reordered_batch_answers_everything_in_another_order() -> None:
    async with Live() as live:
        live.exchange.control.garble_next("reordered", match="batch_create")
        body = {"ticker": TICKER, "side": "bid", "price": "0.10", "count": "1",
                "time_in_force": "good_till_canceled", "self_trade_prevention_type": "maker"}
        _, raw = await live.call("POST", "/portfolio/events/orders/batched", {
            "orders": [body | {"client_order_id": name} for name in ("a", "b", "c")]})
        assert [row["client_order_id"] for row in orjson.loads(raw)["orders"]] == ["c", "b", "a"]


async def test_a_shifted_clock_shows_in_date_and_frames_and_judges_signatures() -> None:
    async with Live() as live:
        socket = await live.socket()
        live.exchange.control.shift_clock(-10)
        async with live.http.get(f"{live.base}{sim.REST_ROOT}/exchange/status") as answer:
            told = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        assert -12 < told - time.time() < -9
        await socket.send_json({"id": 1, "cmd": "subscribe", "params": {"channels": ["trade"]}})
        assert -11 < (await next_frame(socket))["sending_ts_ms"] / 1000 - time.time() < -9
        assert (await live.create())[0] == 201
        live.exchange.control.shift_clock(-20)
        assert (await live.create())[0] == 401
        await socket.close()


async def test_storms_refusals_and_moved_clocks_end_by_themselves_or_by_heal() -> None:
    async with Live() as live:
        control = live.exchange.control
        for arm, status in ((lambda: control.too_many_requests(60), 429),
                            (lambda: control.unauthorised(60), 401),
                            (lambda: control.shift_clock(60), 401),
                            (lambda: control.set_scopes(["read"]), 403)):
            arm()
            assert (await live.create())[0] == status
            control.heal()
            control.set_scopes(["read", "write"])
            assert (await live.create())[0] == 201


async def test_sockets_can_be_cut_and_refused() -> None:
    async with Live() as live:
        socket = await live.socket()
        live.exchange.control.drop_websockets()
        async with asyncio.timeout(5):
            message = await socket.receive()
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR,
                                aiohttp.WSMsgType.CLOSE)
        live.exchange.control.refuse_websockets(60)
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await live.socket()
        assert caught.value.status == 502


async def test_delayed_frames_arrive_late_and_in_order() -> None:
    async with Live() as live:
        socket = await live.socket()
        await socket.send_json({"id": 1, "cmd": "subscribe", "params": {
            "channels": ["orderbook_delta"], "market_ticker": TICKER}})
        seqs = [(await next_frame(socket)).get("seq") for _ in range(2)]
        live.exchange.control.delay_frames(0.2)
        before = time.monotonic()
        for n in range(10):
            crowd(live.exchange.engine, "bid", f"0.{10 + n}", "1")
            await asyncio.sleep(0)
        live.exchange.control.heal()
        crowd(live.exchange.engine, "bid", "0.30", "1")
        seqs += [(await next_frame(socket))["seq"] for _ in range(11)]
        assert time.monotonic() - before >= 0.2
        assert seqs == [None, *range(1, 13)]
        await socket.close()


def test_a_frozen_crowd_does_nothing_and_does_not_catch_up() -> None:
    world = World(markets=3, seed=2)
    control = world.exchange.control
    world.advance(10)
    control.freeze_crowd()
    before = sum(market.volume_h for market in world.engine.markets.values())
    world.advance(600)
    control.freeze_crowd(False)
    world.advance(0.001)
    assert sum(market.volume_h for market in world.engine.markets.values()) - before < 10_000
    world.advance(60)
    assert sum(market.volume_h for market in world.engine.markets.values()) > before


def subscribed(world: World) -> Socket:
    socket = world.socket()
    socket.send("subscribe", channels=["orderbook_delta"], market_ticker=TICKER)
    return socket


def seqs(world: World, socket: Socket, count: int = 4) -> list[Any]:
    found: list[Any] = []
    for n in range(count):
        crowd(world.engine, "bid", f"0.{10 + n}", "1")
    world.exchange.hub.flush()
    for text in frames_of(socket._bytes):
        try:
            found.append(orjson.loads(text)["seq"])
        except orjson.JSONDecodeError:
            found.append("broken")
    socket._bytes.clear()
    return found


@pytest.mark.parametrize(("fault", "want"), [
    (lambda control: control.drop_frames(1), [3, 4, 5]),
    (lambda control: control.duplicate_frames(1), [2, 2, 3, 4, 5]),
    (lambda control: control.reorder_frames(1), [3, 2, 4, 5]),
    (lambda control: control.corrupt_frames(1), ["broken", 3, 4, 5]),
    (lambda control: control.drop_frames(2, "trade"), [2, 3, 4, 5]),
    (lambda control: control.mute_websockets(), []),
])
def test_frames_are_lost_doubled_swapped_cut_or_muted(
        world: World, fault: Callable[[sim.Control], object], want: list[Any]) -> None:
    socket = subscribed(world)
    fault(world.exchange.control)
    assert seqs(world, socket) == want


def test_controls_move_markets_and_the_account(world: World) -> None:
    control, account = world.exchange.control, world.exchange.account
    control.crowd(TICKER, "ask", "0.50", "5")
    order_id = control.place(TICKER, "bid", "0.50", "7", "manual-1")
    assert account.positions == {TICKER: 500}
    assert [one.order_id for one in account.open_orders] == [order_id]
    control.cancel(order_id)
    control.deactivate(TICKER)
    control.activate(TICKER)
    control.pause_trading()
    control.pause_exchange()
    control.resume()
    control.set_grid(TICKER, "deci_cent")
    control.set_close_time(TICKER, world.time.now_s + 60)
    control.determine(TICKER, "yes")
    control.dispute(TICKER)
    control.settle(TICKER, "scalar", "0.5")
    assert account.positions == {}
    assert account.realised_ud == 0
    assert [row.revenue_ud for row in account.settlements] == [2_500_000]
    assert account.imbalance_ud == 0
    assert orjson.dumps(account.body())


@pytest.mark.parametrize(("action", "arguments"), [
    ("dance", {}), ("_engine", {}), ("call", {}), ("settle", {"ticker": "KXNO", "result": "yes"}),
    ("settle", {}), ("crowd", {"ticker": TICKER, "side": "x", "price": "1", "count": "1"}),
    ("lose_answers", {"how": "softly"}), ("terminal_error", {"code": 3}),
    ("set_switch", {"name": "x", "value": "y"}), ("garble_next", {"kind": "x"}),
])
def test_impossible_controls_say_so(world: World, action: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        world.exchange.control.call(action, arguments)


async def test_control_surface_answers_over_http_only_when_asked_for() -> None:
    async with Live() as live:
        async with live.http.post(f"{live.base}/sim/control", json={
                "action": "crowd", "ticker": TICKER, "side": "ask", "price": "0.5",
                "count": "3"}) as answer:
            assert (answer.status, await answer.json()) == (200, {"ok": True, "result": None})
        async with live.http.post(f"{live.base}/sim/control", json={"action": "no"}) as answer:
            assert answer.status == 400
        await live.create("seen")
        async with live.http.get(f"{live.base}/sim/requests") as answer:
            rows = (await answer.json())["requests"]
        assert rows[-1]["client_order_id"] == "seen"
        async with live.http.get(f"{live.base}/sim/account") as answer:
            body = await answer.json()
        assert (body["cash_ud"], len(body["orders"]), body["imbalance_ud"]) == (10**9, 1, 0)
    async with Live(control=False) as live, live.http.get(f"{live.base}/sim/account") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("level", ["mild", "wild"])
def test_fault_weather_strikes_with_every_kind(world: World, level: str) -> None:
    control = world.exchange.control
    control.drop_websockets = lambda: None              # type: ignore[method-assign]
    weather = sim.FaultWeather(control, random.Random(1), level)
    struck = Counter(weather.strike() for _ in range(300))
    assert len(struck) == (6 if level == "mild" else 15)
    assert all(weather.wait_s() > 0 for _ in range(100))


async def test_a_reader_that_never_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim, "SEND_BUFFER_MAX", 100_000)
    async with Live() as live:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(
            live.base.rpartition(":")[2]))
        headers = live.signer.headers("GET", sim.WS_ROOT, time.time())
        lines = [f"GET {sim.WS_ROOT} HTTP/1.1", "Host: x", "Upgrade: websocket",
                 "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                 *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await reader.readuntil(b"\r\n\r\n")
        session = next(iter(live.exchange.hub.sessions.values()))
        while live.exchange.hub.sessions:
            session.push("x" * 60_000)
            session.flush()
            await asyncio.sleep(0)
        writer.close()


class Alone:
    """The exchange as a process of its own."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "sim_exchange.py"), *flags], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)

    def line(self) -> dict[str, str]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())       # type: ignore[no-any-return]

    def end(self, sent: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(sent)
        out, _ = self.process.communicate(timeout=20)
        return self.process.returncode, out


@pytest.mark.process
def test_alone_it_prints_one_line_and_serves_until_sigterm() -> None:
    alone = Alone("--markets", "2", "--seed", "7", "--control")
    try:
        told = alone.line()
        assert set(told) == {"rest", "ws", "key_id", "private_key_path"}
        assert told["rest"].endswith("/trade-api/v2")
        assert told["ws"].startswith("ws://127.0.0.1:")
        key = Path(told["private_key_path"])
        assert key.read_text().startswith("-----BEGIN RSA PRIVATE KEY-----")
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    finally:
        code, rest = alone.end()
    assert (code, rest) == (0, "")
    assert not key.exists()


@pytest.mark.process
@pytest.mark.parametrize("flags", [
    ("--tape", "nowhere"), ("--switch", "dedupe"), ("--switch", "nothing=1"), ("--speed", "0"),
    ("--balance-dollars", "x"), ("--markets", "-3"), ("--port", "99999"), ("--tier", "gold"),
])
def test_operators_mistakes_are_one_sentence_and_code_2(flags: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "sim_exchange.py"), *flags],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


@pytest.mark.process
def test_port_taken_is_said_in_words() -> None:
    first = Alone("--markets", "1", "--key-type", "ed25519")
    try:
        port = first.line()["rest"].split(":")[2].partition("/")[0]
        done = subprocess.run([sys.executable, str(ROOT / "sim_exchange.py"), "--port", port],
                              capture_output=True, text=True, timeout=30, check=False)
    finally:
        first.end(signal.SIGINT)
    assert (done.returncode, "in use" in done.stderr) == (2, True)


# ======================================================================================
# §E16 VIRTUAL TIME
# ======================================================================================
def test_idle_waits_jump_and_a_hang_is_a_deadlock() -> None:
    loop = sim.SimLoop()
    before = time.monotonic()
    loop.run_until_complete(asyncio.sleep(3_600))
    assert (loop.time(), time.monotonic() - before < 1) == (3_600, True)
    with pytest.raises(sim.Deadlock):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_kill_runs_no_finally_and_restarts_under_a_new_name() -> None:
    loop = sim.SimLoop()
    ran: list[str] = []

    async def victim() -> None:
        try:
            await asyncio.sleep(10)
            ran.append("lived")
        finally:
            ran.append("finally")

    loop.create_task(victim(), context=sim.context_of("v1"))
    loop.call_later(5, loop.kill, "v1")
    loop.call_later(6, lambda: loop.create_task(victim(), context=sim.context_of("v2")))
    loop.run_until_complete(asyncio.sleep(30))
    assert ran == ["lived", "finally"]
    assert loop.is_dead("v1")
    loop.close()


def test_the_private_method_of_aiohttp_that_the_connector_replaces_keeps_its_shape() -> None:
    theirs = inspect.signature(aiohttp.TCPConnector._create_connection)
    ours = inspect.signature(sim.MemoryConnector._create_connection)
    assert list(theirs.parameters) == list(ours.parameters) == ["self", "req", "traces", "timeout"]


class Virtual:
    """An exchange and clients on memory links in virtual time."""

    def __init__(self, seed: int = 1, fault: Any = None, epoch_s: float = NOW_S,
                 **settings: Any) -> None:
        self.loop = sim.SimLoop()
        self.net = sim.Net(self.loop, random.Random(seed), fault or (lambda end, data: None))
        self.time = sim.LoopTime(self.loop, epoch_s)
        settings = {"markets": 3, "seed": seed, "switches": {"read_lag_ms": "0"}, **settings}
        self.exchange = sim.SimExchange(sim.SimSettings(**settings), self.time)
        self.runner = aiohttp.web.AppRunner(self.exchange.build_app(), access_log=None)
        address = self.exchange.address("sim.invalid")
        self.address, self.signer = address, Signer(address.private_key_pem, address.key_id)

    def run(self, story: Callable[[aiohttp.ClientSession], Any], process: str = "client") -> Any:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self.loop.create_task(
                self._open(), context=sim.context_of("exchange")))
            return self.loop.run_until_complete(self.loop.create_task(
                self._tell(story), context=sim.context_of(process)))
        finally:
            self.loop.run_until_complete(self.loop.create_task(
                self._close(), context=sim.context_of("exchange")))
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _open(self) -> None:
        await self.runner.setup()
        self.exchange.start_drivers()

    async def _close(self) -> None:
        await self.exchange.stop()
        await self.runner.cleanup()

    def connector(self) -> sim.MemoryConnector:
        return sim.MemoryConnector(self.net, self.runner.server, "exchange")

    async def _tell(self, story: Callable[[aiohttp.ClientSession], Any]) -> Any:
        async with aiohttp.ClientSession(connector=self.connector()) as http:
            return await story(http)

    async def call(self, http: aiohttp.ClientSession, method: str, path: str,
                   body: Any = None) -> tuple[int, Any]:
        target = sim.REST_ROOT + path
        headers = self.signer.headers(method, target, self.time.wall_s())
        async with http.request(method, f"http://sim.invalid{target}", headers=headers,
                                json=body) as answer:
            return answer.status, await answer.json()

    async def socket(self, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        headers = self.signer.headers("GET", sim.WS_ROOT, self.time.wall_s())
        return await http.ws_connect(self.address.ws, headers=headers)


async def hear_hour(virtual: Virtual, http: aiohttp.ClientSession, seconds: float) -> list[str]:
    socket = await virtual.socket(http)
    await socket.send_json({"id": 1, "cmd": "subscribe", "params": {
        "channels": ["orderbook_delta", "trade", "ticker"],
        "market_tickers": list(virtual.exchange.engine.markets)}})
    heard: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                heard.append(await socket.receive_str())
    await socket.close()
    return heard


def test_memory_links_carry_the_stream_in_order_and_repeat_with_the_seed() -> None:
    def history(seed: int) -> list[str]:
        virtual = Virtual(seed)
        return virtual.run(lambda http: hear_hour(virtual, http, 120))  # type: ignore[no-any-return]
    first = history(3)
    assert first == history(3)
    assert first != history(4)
    numbered: dict[int, list[int]] = defaultdict(list)
    for text in first:
        frame = orjson.loads(text)
        if "seq" in frame:
            numbered[frame["sid"]].append(frame["seq"])
    assert all(seen == list(range(1, len(seen) + 1)) for seen in numbered.values())
    assert sum(map(len, numbered.values())) > 200


def test_virtual_history_does_not_depend_on_the_hash_seed() -> None:
    script = ("import hashlib, test_sim_exchange as t; v = t.Virtual(3); "
              "print(hashlib.sha256(repr(v.run(lambda h: t.hear_hour(v, h, 60))).encode())"
              ".hexdigest())")
    told = {subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                           check=True, timeout=60, env={**os.environ, "PYTHONHASHSEED": seed}
                           ).stdout for seed in ("0", "77")}
    assert len(told) == 1


def test_bytes_of_a_dead_client_still_arrive() -> None:
    virtual = Virtual(5, markets=1)
    ticker = next(iter(virtual.exchange.engine.markets))

    async def story(http: aiohttp.ClientSession) -> None:
        body = {"ticker": ticker, "side": "bid", "price": "0.01", "count": "1",
                "client_order_id": "last-words", "time_in_force": "good_till_canceled",
                "self_trade_prevention_type": "taker_at_cross"}
        await virtual.call(http, "POST", "/portfolio/events/orders", body)

    async def world(_: aiohttp.ClientSession) -> None:
        async def client() -> None:
            http = aiohttp.ClientSession(connector=virtual.connector())
            await story(http)
        virtual.loop.create_task(client(), context=sim.context_of("v1"))
        while not any(end.process == "v1" and end._wire for end in virtual.net._ends):
            await asyncio.sleep(0.001)
        virtual.net.kill("v1")
        await asyncio.sleep(2)
    virtual.run(world)
    assert [mine.client_order_id for mine in virtual.exchange.account.orders] == ["last-words"]


def test_faults_of_the_net_reset_split_and_swallow() -> None:
    seen: list[str] = []
    plan = {"mode": ""}

    def fault(end: sim.MemoryTransport, data: bytes) -> str | None:
        return plan["mode"] if end.process == "client" and plan["mode"] else None
    virtual = Virtual(6, fault)

    async def story(http: aiohttp.ClientSession) -> None:
        for mode in ("split", "reset", "black_hole"):
            plan["mode"] = mode
            try:
                async with asyncio.timeout(5):
                    await virtual.call(http, "GET", "/portfolio/balance")
                seen.append("answered")
            except (aiohttp.ClientError, TimeoutError) as error:
                seen.append("timeout" if isinstance(error, TimeoutError) else "reset")
        plan["mode"] = ""
        virtual.net.cut()
        virtual.net.is_down = True
        with pytest.raises(aiohttp.ClientConnectorError):
            await virtual.call(http, "GET", "/portfolio/balance")
        virtual.net.is_down = False
        assert (await virtual.call(http, "GET", "/exchange/status"))[0] == 200
    virtual.run(story)
    assert seen == ["answered", "reset", "timeout"]


@pytest.mark.skipif(not sample_tapes(), reason="../shared/tapes is not here")
def test_a_tape_in_virtual_time_is_complete_and_settles() -> None:
    path = sample_tapes()[2]
    virtual = Virtual(1, epoch_s=sim.tape_start_s([str(path)]), tapes=(str(path),))

    async def story(http: aiohttp.ClientSession) -> int:
        heard = await hear_hour(virtual, http, 960)
        return sum('"type":"orderbook_delta"' in text for text in heard)
    with gzip.open(next(path.glob("*.gz")), "rb") as lines:
        recorded = sum(b'"orderbook_delta"' in line for line in lines)
    heard = virtual.run(story)
    assert recorded * 0.98 <= heard <= recorded * 1.01     # the close sweeps the last levels
    assert virtual.exchange.engine.markets[path.name].status == "finalized"


# ======================================================================================
# Clients that nobody here wrote
# ======================================================================================
@pytest.mark.client
async def test_pykalshi_lives_a_traders_day() -> None:
    pykalshi = pytest.importorskip("pykalshi")
    async with Live(key_type="rsa") as live:
        exchange, engine = live.exchange, live.exchange.engine
        crowd(engine, "bid", "0.42", "13")
        crowd(engine, "ask", "0.46", "17")
        client = pykalshi.AsyncKalshiClient(
            api_key_id=live.address.key_id, private_key_path=live.address.private_key_path,
            api_base=live.address.rest)
        async with client:
            markets = await client.get_markets(status=pykalshi.MarketStatus.OPEN)
            assert [market.ticker for market in markets] == [TICKER]
            assert (await client.exchange.get_status()).trading_active
            book = await markets[0].get_orderbook()
            assert book.orderbook.yes_dollars[-1] == ("0.4200", "13.00")
            heard = await feed_of(client, live.address.ws)
            portfolio = client.portfolio
            bid = await portfolio.place_order(TICKER, book_side="bid", price_dollars="0.43",
                                              count_fp="10", client_order_id="day-1",
                                              post_only=True)
            ask = await portfolio.place_order(TICKER, book_side="ask", price_dollars="0.45",
                                              count_fp="10", client_order_id="day-2")
            same(await portfolio.get_order(bid.order_id), engine.orders[bid.order_id])
            amended = await portfolio.amend_order(bid.order_id, count_fp="8", price_dollars="0.44",
                                                  ticker=TICKER, book_side="bid")
            assert amended.remaining_count_fp == "8.00"
            await portfolio.decrease_order(ask.order_id, "4")
            assert engine.orders[ask.order_id].remaining_h == 600
            crowd(engine, "ask", "0.44", "3")           # a partial fill
            assert engine.orders[bid.order_id].filled_h == 300
            made = await portfolio.batch_place_orders([
                {"ticker": TICKER, "book_side": "bid", "price_dollars": "0.30", "count_fp": "1"},
                {"ticker": TICKER, "book_side": "ask", "price_dollars": "0.60", "count_fp": "1"}])
            queue = await portfolio.get_queue_position(made[0].order_id)
            assert queue.queue_position_fp == "0.00"
            gone = await portfolio.batch_cancel_orders([one.order_id for one in made])
            assert len(gone) == 2
            await day_end(portfolio, engine)
            await asyncio.sleep(0.1)
            heard["task"].cancel()
            await asyncio.gather(heard["task"], return_exceptions=True)
            assert {"orderbook_delta", "fill", "user_orders", "market_positions", "trade",
                    "ticker", "order_group_updates", "market_lifecycle_v2"} <= set(heard["seen"])
            assert not [item for items in heard["seen"].values() for item in items
                        if isinstance(item, dict)], "a frame the client could not parse"
        assert exchange.account.imbalance_ud == 0


async def feed_of(client: Any, url: str) -> dict[str, Any]:
    """The client's own feed, with every channel, read by its own task."""
    feed = client.feed()
    feed._ws_url = url                                  # its demo and production hosts are fixed
    seen: dict[str, list[Any]] = defaultdict(list)
    channels = ("ticker", "trade", "orderbook_delta", "fill", "user_orders", "market_positions",
                "market_lifecycle_v2", "order_group_updates")
    for channel in channels:
        feed.on(channel, seen[channel].append)
        only = {} if "group" in channel or "lifecycle" in channel else {"market_ticker": TICKER}
        feed.subscribe(channel, **only)
    await feed.connect()

    async def read() -> None:
        async for _ in feed:
            pass
    task = asyncio.ensure_future(read())
    async with asyncio.timeout(5):
        while not seen["orderbook_delta"]:
            await asyncio.sleep(0.01)
    return {"task": task, "seen": {channel: seen[channel] for channel in channels}}


def same(theirs: Any, ours: sim.MemberOrder) -> None:
    """The client's parsed order equals the exchange's."""
    assert theirs.order_id == ours.order_id
    assert getattr(theirs.status, "value", theirs.status) == ours.status
    assert theirs.yes_price_dollars == sim.PRICE_TEXT[ours.price_cc]
    assert theirs.fill_count_fp == sim.count_text(ours.filled_h)
    left_h = ours.remaining_h if ours.status == "resting" else 0
    assert theirs.remaining_count_fp == sim.count_text(left_h)


async def day_end(portfolio: Any, engine: sim.Engine) -> None:
    """Group trigger, hold to settlement, and read everything back."""
    group = await portfolio.create_order_group("5")
    await portfolio.place_order(TICKER, book_side="bid", price_dollars="0.41", count_fp="9",
                                order_group_id=group.id)
    await portfolio.trigger_order_group(group.id)
    await portfolio.reset_order_group(group.id)
    assert len(await portfolio.get_order_groups()) == 1
    for theirs in await portfolio.get_orders():
        same(theirs, engine.orders[theirs.order_id])
    for theirs in [one for one in await portfolio.get_orders() if one.status == "resting"]:
        await portfolio.cancel_order(theirs.order_id)
    assert engine.open == {}
    positions = await portfolio.get_positions()
    assert {row.ticker: row.position_fp for row in positions} == {
        TICKER: sim.count_text(engine.account.position_h(TICKER))}
    engine.settle(TICKER, "yes")
    fills = await portfolio.get_fills()
    assert [(fill.trade_id, fill.fee_cost_dollars) for fill in fills] == [
        (fill.trade_id, sim.money_text(fill.fee_ud)) for fill in reversed(engine.fills)]
    settlements = await portfolio.get_settlements()
    assert [(row.ticker, row.revenue) for row in settlements] == [(TICKER, 300)]
    balance = await portfolio.get_balance()
    assert balance.balance == engine.account.cash_ud // 10_000


@pytest.mark.client
def test_pykalshi_in_its_blocking_form_trades_and_listens() -> None:
    pykalshi = pytest.importorskip("pykalshi")
    alone = Alone("--markets", "3", "--seed", "7", "--switch", "read_lag_ms=0", "--tier", "off")
    try:
        told = alone.line()
        with pykalshi.KalshiClient(api_key_id=told["key_id"], api_base=told["rest"],
                                   private_key_path=told["private_key_path"]) as client:
            market = client.get_markets()[0]
            book = market.get_orderbook()
            best = book.orderbook.yes_dollars[-1][0]
            mine = client.portfolio.place_order(market, pykalshi.Action.BUY, pykalshi.Side.YES,
                                                "1", yes_price_dollars=best, post_only=True)
            assert client.portfolio.get_order(mine.order_id).ticker == market.ticker
            mine.refresh()
            assert mine.cancel().status.value in ("canceled", "executed")
            with pytest.raises(pykalshi.ResourceNotFoundError):
                client.get_market("KXNO")
            with pytest.raises(pykalshi.InsufficientFundsError):
                client.portfolio.place_order(market.ticker, pykalshi.Action.BUY, pykalshi.Side.YES,
                                             "900000", yes_price_dollars="0.50")
    finally:
        assert alone.end()[0] == 0


@pytest.mark.client
async def test_official_style_client_reads_everything_it_knows() -> None:
    official = pytest.importorskip("kalshi_python_async")
    auth = pytest.importorskip("kalshi_python_async.auth")
    async with Live(key_type="rsa") as live:
        engine = live.exchange.engine
        crowd(engine, "bid", "0.42", "13")
        crowd(engine, "ask", "0.46", "17")
        for side, price in (("bid", "0.46"), ("ask", "0.42"), ("bid", "0.40"), ("ask", "0.50")):
            engine.create(order(side, price, "2"))
        configuration = official.Configuration(host=live.address.rest)
        async with official.ApiClient(configuration) as client:
            # Its own set_kalshi_auth() names a class that its module does not import.
            client.kalshi_auth = auth.KalshiAuth(live.address.key_id,
                                                 live.address.private_key_pem)
            window = {"start_ts": int(time.time()) - 600, "end_ts": int(time.time()) + 600,
                      "period_interval": 1}
            markets, portfolio = official.MarketApi(client), official.PortfolioApi(client)
            orders, events = official.OrdersApi(client), official.EventsApi(client)
            raw = [
                markets.get_markets_without_preload_content(limit=10),
                markets.get_market_without_preload_content(TICKER),
                markets.get_market_orderbook_without_preload_content(TICKER),
                markets.get_trades_without_preload_content(limit=10),
                markets.get_series_without_preload_content("KXDEMO"),
                markets.get_series_list_without_preload_content(category="Economics"),
                markets.get_market_candlesticks_without_preload_content("KXDEMO", TICKER, **window),
                events.get_events_without_preload_content(),
                events.get_event_without_preload_content("KXDEMO-26NOV22"),
                portfolio.get_balance_without_preload_content(),
                portfolio.get_positions_without_preload_content(),
                portfolio.get_fills_without_preload_content(),
                portfolio.get_settlements_without_preload_content(),
                orders.get_orders_without_preload_content(),
                orders.get_order_queue_positions_without_preload_content(market_tickers=TICKER),
            ]
            for call in raw:
                answer = await call
                assert answer.status == 200, await answer.text()
            await parsed_by_the_official_client(official, client, engine)


async def parsed_by_the_official_client(official: Any, client: Any, engine: sim.Engine) -> None:
    """Objects whose models of version 3.2.0 still fit today's exchange."""
    status = await official.ExchangeApi(client).get_exchange_status()
    assert status.trading_active
    balance = await official.PortfolioApi(client).get_balance()
    assert balance.balance == engine.account.cash_ud // 10_000
    with pytest.raises(official.exceptions.ApiException) as caught:
        await official.OrdersApi(client).create_order(ticker=TICKER, side="yes", action="buy",
                                                      count=1, yes_price=40)
    assert caught.value.status == 410                   # its order writes are V1


# ======================================================================================
# Official schemas
# ======================================================================================
def plain_schema(node: Any) -> Any:
    """An OpenAPI 3.0 schema as JSON schema: `nullable` becomes a second type."""
    if isinstance(node, list):
        return [plain_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    built = {key: plain_schema(value) for key, value in node.items()
             if key not in ("example", "nullable", "format", "pattern")}
    if node.get("nullable"):
        if "enum" in built:
            built["enum"] = [*built["enum"], None]
        return {"anyOf": [built, {"type": "null"}]}
    return built


def template_of(paths: dict[str, Any], method: str, path: str) -> str | None:
    """The path template of the specification that a request matches."""
    parts = path.rstrip("/").split("/")
    found = [template for template in paths if method.lower() in paths[template]
             and len(template.split("/")) == len(parts)
             and all(want.startswith("{") or want == got
                     for want, got in zip(template.split("/"), parts, strict=True))]
    return min(found, key=lambda template: template.count("{"), default=None)


def tour(world: World) -> None:
    """A little of everything, so that this test checks much even when it runs alone."""
    test_every_recorded_request_gets_the_recorded_status_keys_and_types()
    socket = world.socket()
    socket.send("subscribe", channels=sorted(sim.CHANNELS - {"orderbook_delta"}))
    socket.send("subscribe", channels=["orderbook_delta"], market_tickers=[TICKER])
    add_market(world.engine, "KXTOUR-26NOV22-T1")
    world.engine.set_event_fees("KXTOUR-26NOV22", "quadratic", 5_000)
    world.engine.set_grid("KXTOUR-26NOV22-T1", sim.Grid.named("deci_cent"))
    crowd(world.engine, "ask", "0.50", "5")
    crowd(world.engine, "bid", "0.45", "5")
    group = world.rest("POST", "/portfolio/order_groups/create", {"contracts_limit": 50})[1]
    _, made = world.create("bid", "0.50", "7", client_order_id="a",
                           order_group_id=group["order_group_id"],
                           expiration_time=int(NOW_S) + 600)
    one = f"/portfolio/events/orders/{made['order_id']}"
    world.rest("POST", f"{one}/amend", {"ticker": TICKER, "side": "bid", "price": "0.49",
                                        "count": "7"})
    world.rest("POST", f"{one}/decrease", {"reduce_by": "0.5"})
    world.create("ask", "0.45", "2")
    for path in ("/portfolio/positions", "/portfolio/orders", "/portfolio/fills", "/series",
                 "/events?with_nested_markets=true", "/portfolio/balance", "/account/limits",
                 f"/portfolio/orders/{made['order_id']}"):
        world.rest("GET", path)
    world.rest("DELETE", one)
    socket.read()
    world.exchange.control.terminal_error(10)
    world.engine.settle(TICKER, "yes")
    world.rest("GET", "/portfolio/settlements")
    world.rest("GET", "/markets")
    socket.send("list_subscriptions")
    socket.send("unsubscribe", sids=[1])
    socket.read()


SCHEMA_EXCEPTIONS = {
    # Where the wire is known to differ from the specification (PROTOCOL 4.2, 5.3, 5.6).
    "ErrorResponse": "the specification knows one error body, the wire has four",
}


@pytest.mark.skipif(not OPENAPI.exists(), reason="../shared/kalshi is not here")
def test_every_answer_given_so_far_fits_the_official_openapi(world: World) -> None:
    jsonschema, yaml = pytest.importorskip("jsonschema"), pytest.importorskip("yaml")
    tour(world)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    spec = yaml.load(OPENAPI.read_text(), Loader=loader)
    components = plain_schema(spec["components"])
    wrong, checked = [], 0
    for method, path, status, payload in LEDGER.answers.values():
        template = template_of(spec["paths"], method, path)
        if template is None or status >= 400:
            assert status in (400, 401, 403, 404, 409, 410, 429) or status < 400
            continue
        declared = spec["paths"][template][method.lower()]["responses"]
        assert str(status) in declared, f"{method} {template} does not declare {status}"
        body = declared[str(status)].get("content", {}).get("application/json")
        if body is None:
            assert payload in (None, {}), f"{method} {template} declares no body"
            continue
        schema = {**plain_schema(body["schema"]), "components": components}
        errors = jsonschema.Draft202012Validator(schema).iter_errors(payload)
        wrong += [f"{method} {template} {status}: {error.json_path} {error.message[:200]}"
                  for error in errors]
        checked += 1
    assert sorted(set(wrong)) == []
    assert checked >= 25


FRAME_SCHEMAS = {
    "subscribed": ["subscribedResponsePayload"], "ok": ["okResponsePayload",
                                                        "listSubscriptionsResponsePayload"],
    "unsubscribed": ["unsubscribedResponsePayload"], "error": ["errorResponsePayload"],
    "orderbook_snapshot": ["orderbookSnapshotPayload"], "trade": ["tradePayload"],
    "orderbook_delta": ["orderbookDeltaPayload"], "ticker": ["tickerPayload"],
    "fill": ["fillPayload"], "user_order": ["userOrderPayload"],
    "market_position": ["marketPositionPayload"],
    "market_lifecycle_v2": ["marketLifecycleV2Payload", "marketMetadataUpdatedPayload"],
    "event_lifecycle": ["eventLifecyclePayload"], "event_fee_update": ["eventFeeUpdatePayload"],
    "order_group_updates": ["orderGroupUpdatesPayload"],
}


@pytest.mark.skipif(not ASYNCAPI.exists(), reason="../shared/kalshi is not here")
def test_every_frame_sent_so_far_fits_the_official_asyncapi(world: World) -> None:
    jsonschema, yaml = pytest.importorskip("jsonschema"), pytest.importorskip("yaml")
    tour(world)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    components = plain_schema(yaml.load(ASYNCAPI.read_text(), Loader=loader)["components"])
    components = {"schemas": components["schemas"]}
    wrong, kinds_seen = [], set()
    for frame in LEDGER.frames.values():
        kinds_seen.add(frame["type"])
        refs = [{"$ref": f"#/components/schemas/{name}"} for name in FRAME_SCHEMAS[frame["type"]]]
        # A fill without its deprecated twins is a switch of ours, not today's wire.
        if frame["type"] == "fill" and "side" not in frame["msg"]:
            continue
        best = min((list(jsonschema.Draft202012Validator(
            {**ref, "components": components}).iter_errors(frame)) for ref in refs), key=len)
        wrong += [f"{frame['type']}: {error.json_path} {error.message[:300]}" for error in best]
    assert sorted(set(wrong)) == []
    assert kinds_seen == set(FRAME_SCHEMAS)


# ======================================================================================
# Campaigns
# ======================================================================================
def campaign_events(count: int, seed: int) -> None:
    """Random order events against the slow matcher; conservation after each."""
    started, duel, done = time.monotonic(), Duel(seed), 0
    while done < count:
        for _ in range(min(2_000, count - done)):
            duel.step()
            duel.check()
            done += 1
        duel.finish()
        seed += 1
        duel = Duel(seed)
    print(f"{done} events against the second matcher in {time.monotonic() - started:.0f} s: agreed")


def campaign_fuzz(count: int, seed: int) -> None:
    """Random requests and frames."""
    started, done = time.monotonic(), 0
    while done < count:
        fuzz = Fuzz(seed)
        for _ in range(min(20_000, count - done)):
            fuzz.step()
            done += 1
        seed += 1
    print(f"{done} fuzzed inputs in {time.monotonic() - started:.0f} s: no crash, no trace")


def campaign_speed(count: int) -> None:
    """Engine events per second on one core, without a second matcher."""
    rng, engine = random.Random(1), make_engine("100000000")
    engine.sink = sim._NoSink()
    market, resting = engine.markets[TICKER], []
    started = time.perf_counter()
    for n in range(count):
        draw = rng.random()
        price, is_bid = rng.randint(40, 60) * 100, rng.random() < 0.5
        if draw < 0.5:
            placed = engine.crowd_order(market, is_bid, price, 100)
            if placed is not None:
                resting.append(placed)
        elif draw < 0.8 and resting:
            gone = resting.pop(rng.randrange(len(resting)))
            if gone.remaining_h:
                engine.crowd_cancel(gone)
        else:
            engine.create(sim.OrderRequest(ticker=TICKER, is_bid=is_bid, count_h=100,
                                           price_cc=price, stp="maker", client_order_id=f"c{n}"))
    print(f"{count / (time.perf_counter() - started):,.0f} engine events/s")


STREAM_READER = """
import socket, sys, time
host, port, head, command, want = sys.argv[1], int(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5])
link = socket.create_connection((host, port))
link.sendall(head.encode())
while b"\\r\\n\\r\\n" not in link.recv(65536):
    pass
frame = command.encode()
link.sendall(bytes([0x81, 0xFE]) + len(frame).to_bytes(2, "big") + bytes(4) + frame)
seen, started = 0, 0.0
while seen < want:
    seen += link.recv(1 << 20).count(b'"type":"orderbook_delta"')
    started = started or time.perf_counter()
print(f"{seen / (time.perf_counter() - started):,.0f} deltas/s read")
"""


async def campaign_stream(count: int) -> None:
    """Deltas per second to one reader in a process of its own."""
    async with Live() as live:
        engine, hub = live.exchange.engine, live.exchange.hub
        headers = live.signer.headers("GET", sim.WS_ROOT, time.time())
        lines = [f"GET {sim.WS_ROOT} HTTP/1.1", "Host: x", "Upgrade: websocket",
                 "Connection: Upgrade", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                 *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        command = json.dumps({"id": 1, "cmd": "subscribe", "params": {
            "channels": ["orderbook_delta"], "market_ticker": TICKER}}).ljust(200)
        reader = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STREAM_READER, "127.0.0.1", live.base.rpartition(":")[2],
            "\r\n".join(lines), command, str(count * 9 // 10))
        while not any(session.subscriptions for session in hub.sessions.values()):
            await asyncio.sleep(0.01)
        levels = [engine.crowd_level(engine.markets[TICKER], (True, cents * 100), 100,
                                     engine.now_us) for cents in range(10, 40)]
        started, cpu = time.perf_counter(), time.process_time()
        for n in range(count):
            level = levels[n % 30]
            engine.crowd_resize(level, 300 - level.remaining_h, engine.now_us + n)
            engine.commit()
            if n % 200 == 0:
                await asyncio.sleep(0)
        print(f"{count / (time.perf_counter() - started):,.0f} deltas/s sent, "
              f"{count / (time.process_time() - cpu):,.0f} per CPU second")
        await reader.wait()


def campaign_writes(count: int) -> None:
    """Order creates per second over HTTP from one client, one after the other."""
    alone = Alone("--markets", "1", "--tier", "off")
    try:
        told = alone.line()
        host, _, port = told["rest"].split("/")[2].partition(":")
        signer = Signer(Path(told["private_key_path"]).read_text(), told["key_id"])
        path, link = f"{sim.REST_ROOT}{CREATE}", socket.create_connection((host, int(port)))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with urllib.request.urlopen(f"{told['rest']}/markets") as answer:
            ticker = json.load(answer)["markets"][0]["ticker"]
        started = time.perf_counter()
        for n in range(count):
            if n % 200 == 0:
                head = "".join(f"{name}: {value}\r\n" for name, value in
                               signer.headers("POST", path, time.time()).items())
            body = json.dumps(create_body(ticker=ticker, price="0.01", client_order_id=f"w{n}"))
            link.sendall((f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
                          f"\r\nContent-Length: {len(body)}\r\n{head}\r\n{body}").encode())
            assert b" 201 " in link.recv(65_536)[:20]
        print(f"{count / (time.perf_counter() - started):,.0f} order writes/s")
    finally:
        alone.end()


def main() -> int:
    """Run a campaign by hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=0)
    parser.add_argument("--fuzz", type=int, default=0)
    parser.add_argument("--speed", type=int, default=0)
    parser.add_argument("--stream", type=int, default=0)
    parser.add_argument("--writes", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    if flags.events:
        campaign_events(flags.events, flags.seed)
    if flags.fuzz:
        campaign_fuzz(flags.fuzz, flags.seed)
    if flags.speed:
        campaign_speed(flags.speed)
    if flags.stream:
        asyncio.run(campaign_stream(flags.stream))
    if flags.writes:
        campaign_writes(flags.writes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
