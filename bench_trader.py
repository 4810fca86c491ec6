#!/usr/bin/env python3
"""Every speed and memory figure that the README quotes, reproducible with one command.

Purpose
    Measure the trader beside its peers and its floors, in one run, on the machine at hand.

Key Responsibilities
    1. Books: frame bytes in, both best prices read (deltas/s), at 30 and at 300 levels a side.
    2. Orders: book change on the wire to order on the wire, stamped at the exchange's own sockets.
    3. Bus, broadcast, journal: what one fact costs when it is told, shown and written.
    4. Memory with 10 and 1,000 markets; time from the start of the process to the first snapshot.

Architecture Position
    A command of its own. Imports trader.py; starts trader.py and sim_exchange.py as processes.
    The stub exchange of `order` is raw sockets, so that what it adds is the floor itself.

Design Principles
    Ratios from one run, medians over interleaved rounds, safety on. No figure is asserted anywhere.

Run it
    python bench_trader.py
    python bench_trader.py --only book_30,order --json
    python bench_trader.py --short          # the form CI runs, so that it cannot rot
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

import trader as t

HERE = Path(__file__).resolve().parent
TICKER = "KXBENCH-26DEC31-T50"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    `ratio`: how many times as fast as `peer` the trader is; below 1 it is behind. None: no peer.
    """

    name: str
    value: float
    unit: str
    peer: str = ""
    ratio: float | None = None


def rounds(acts: dict[str, Callable[[], float]], *, count: int) -> dict[str, float]:
    """Median of each act over `count` interleaved rounds."""
    results: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(count):
        for name, act in acts.items():
            gc.collect()
            results[name].append(act())
    return {name: statistics.median(values) for name, values in results.items()}


# -- books ------------------------------------------------------------------------------


def book_frames(levels: int, step_cc: int, count: int) -> tuple[bytes, list[bytes]]:
    """A snapshot with `levels` a side and `count` deltas that keep the number of levels."""
    rng = random.Random(7)
    yes = [4900 - i * step_cc for i in range(levels)]
    no = [4900 - i * step_cc for i in range(levels)]
    sizes = {("yes", p): 5000 for p in yes} | {("no", p): 5000 for p in no}
    snapshot = {
        "type": "orderbook_snapshot", "sid": 1, "seq": 1,
        "msg": {"market_ticker": TICKER, "market_id": "m",
                "yes_dollars_fp": [[f"{p / 1e4:.4f}", "50.00"] for p in reversed(yes)],
                "no_dollars_fp": [[f"{p / 1e4:.4f}", "50.00"] for p in reversed(no)]},
    }
    frames = []
    for number in range(count):
        side = rng.choice(("yes", "no"))
        price = rng.choice(yes if side == "yes" else no)
        change = rng.choice((-400, -200, 200, 400, -sizes[side, price], 5000 - sizes[side, price]))
        if change == 0 or sizes[side, price] + change < 0:
            change = 100
        sizes[side, price] += change
        frames.append(
            orjson.dumps(
                {"type": "orderbook_delta", "sid": 1, "seq": number + 2,
                 "msg": {"market_ticker": TICKER,
                         "market_id": "9c6f3f0e-7b52-4c1d-8a55-0d8f6f0c1a01",
                         "price_dollars": f"{price / 1e4:.4f}", "delta_fp": f"{change / 100:.2f}",
                         "side": side, "ts": "2026-11-22T10:00:00.1Z",
                         "ts_ms": int(time.time() * 1000)}}
            )
        )
    return orjson.dumps(snapshot), frames


class Feed:
    """The real stream and book rooms without a socket: bytes go in where it hands them on."""

    def __init__(self, tickers: list[str]) -> None:
        clock = t.Clock()
        self.bus = t.EventBus(clock, t.Supervisor(lambda name, error: None))
        config = t.build_config({"book_stale_s": "30"})
        signer: Any = None
        session: Any = None
        rest: Any = None
        self.stream = t.KalshiStream(
            session=session, ws_url="ws://127.0.0.1/", signer=signer, clock=clock,
            supervisor=t.Supervisor(lambda name, error: None), bus=self.bus, config=config,
        )
        self.data = t.OrderbookIntegration(
            stream=self.stream, rest=rest, clock=clock, bus=self.bus, config=config
        )
        self.data.follow([bench_market(ticker) for ticker in tickers])

    def open(self) -> None:
        """Make the stream believe it is subscribed as sid 1 to the order book channel."""
        self.stream.is_connected = True
        self.stream.subscriptions.opened()
        for command in range(1, 12):
            channel = "orderbook_delta"
            frame = {"type": "subscribed", "id": command, "msg": {"channel": channel, "sid": 1}}
            self.stream.take(orjson.dumps(frame))
            if 1 in self.stream.subscriptions.by_sid:
                return


def bench_market(ticker: str) -> t.Market:
    """A market that trades all day on a 0.1-cent grid."""
    now_ms = int(time.time() * 1000)
    return t.Market(
        ticker=ticker, event_ticker=ticker.rpartition("-")[0], series="KXBENCH", title="Bench",
        status="active", open_at_ms=now_ms - 3_600_000, close_at_ms=now_ms + 86_400_000,
        grid=t.PriceGrid(((0, 10_000, 10),)),
    )


def bench_book(name: str, levels: int, step_cc: int, *, short: bool) -> list[Row]:
    """Deltas per second from frame bytes to both best prices read; peer and floor beside it."""
    count = 4_000 if short else 60_000
    snapshot, frames = book_frames(levels, step_cc, count)
    peer_count = max(200, count // (20 if levels < 100 else 100))

    def ours() -> float:
        feed = Feed([TICKER])
        feed.open()
        feed.stream.take(snapshot)
        book, take = feed.data.books[TICKER], feed.stream.take
        begun = time.perf_counter()
        for frame in frames:
            take(frame)
            book.bid_cc, book.ask_cc  # noqa: B018 - reading them is what is measured
        took = time.perf_counter() - begun
        assert feed.data.deltas == len(frames), (feed.data.deltas, len(frames))
        return len(frames) / took

    def floor() -> float:
        begun = time.perf_counter()
        for frame in frames:
            orjson.loads(frame)
        return len(frames) / (time.perf_counter() - begun)

    acts = {"ours": ours, "floor": floor}
    peer = pykalshi_book(snapshot, frames[:peer_count])
    if peer is not None:
        acts["peer"] = peer
    figures = rounds(acts, count=2 if short else 5)
    share = figures["ours"] / figures["floor"]
    rows = [Row(name, figures["ours"], "deltas/s", "orjson.loads", share)]
    if peer is not None:
        rows.append(
            Row(name, figures["peer"], "deltas/s of pykalshi", "pykalshi",
                figures["ours"] / figures["peer"])
        )
    return rows


def pykalshi_book(snapshot: bytes, frames: list[bytes]) -> Callable[[], float] | None:
    """The same frames through pykalshi's parser and book, as its documentation shows."""
    try:
        feed = importlib.import_module("pykalshi.feed")
        books = importlib.import_module("pykalshi.orderbook")
    except ImportError:
        return None

    def run() -> float:
        book = books.OrderbookManager(TICKER)
        first = feed._parse_message(snapshot.decode())[2]
        book.apply_snapshot(first.yes_dollars, first.no_dollars)
        texts = [frame.decode() for frame in frames]
        begun = time.perf_counter()
        for text in texts:
            msg = feed._parse_message(text)[2]
            book.apply_delta(msg.side, msg.price_dollars, msg.delta_fp)
            book.best_bid, book.best_ask  # noqa: B018 - reading them is what is measured
        return len(texts) / (time.perf_counter() - begun)

    return run


# -- orders -----------------------------------------------------------------------------


STUB_STRATEGY = '''
from dataclasses import dataclass

from trader import Decision, Reason, Side, Want


class Taker:
    """Wants one contract at the best bid whenever a tick of the stub has raised it."""

    name = "bench_taker"

    @dataclass(frozen=True)
    class Params:
        floor_cc: int = 4500

    def __init__(self, params):
        self.p = params

    def decide(self, view):
        if view.bid_cc < self.p.floor_cc:
            return Decision(wants=(), reason=Reason.EDGE_BELOW_COST)
        want = Want(slot="t", side=Side.YES, price_cc=view.bid_cc, count_h=100, take=True)
        return Decision(wants=(want,), reason=Reason.ACTED)
'''

FLOOR_CC = 4500  # the book rests below; each tick of the stub puts a new best bid above
TICK_PRICES = 97  # different ones in a row, so that no order repeats one within its window
TICK_GAP_S = 0.01
WARM_ORDERS = 20
WARM_LIMIT_S = 30.0
ORDER_PATH = b"/portfolio/events/orders "


class StubLine(asyncio.Protocol):
    """One connection of the stub, first HTTP, then perhaps WebSocket; stamps what it hears."""

    def __init__(self, stub: StubExchange) -> None:
        self._stub = stub
        self._buffer = b""
        self._is_socket = False
        self._sids = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Switch off Nagle's wait: its milliseconds would be measured as ours."""
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; ticks to it have nowhere to go."""
        if self._is_socket:
            self._stub.is_done.set()

    def data_received(self, data: bytes) -> None:
        """Stamp first, then take apart."""
        heard_s = time.perf_counter()
        if not self._buffer and data.startswith(b"POST ") and ORDER_PATH in data:
            self._stub.hear_order(heard_s)
        self._buffer += data
        while self._take_frame() if self._is_socket else self._take_request():
            pass

    def _take_request(self) -> bool:
        """Answer one whole request of the buffer; False when there is none."""
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        line, *rows = head.decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (row.partition(": ") for row in rows)}
        size = int(headers.get("content-length", 0))
        if len(rest) < size:
            return False
        body, self._buffer = rest[:size], rest[size:]
        if headers.get("upgrade", "").lower() == "websocket":
            self._upgrade(headers["sec-websocket-key"])
            return True
        method, target, _ = line.split(" ")
        status, answer = self._stub.answer(method, target.partition("?")[0], body)
        text = orjson.dumps(answer)
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        self._transport.write(
            f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nDate: {date}\r\n"
            f"Content-Length: {len(text)}\r\n\r\n".encode() + text
        )
        return True

    def _upgrade(self, key: str) -> None:
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode() + guid).digest()).decode()
        self._transport.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        self._is_socket = True

    def _take_frame(self) -> bool:
        """Answer one whole client frame of the buffer; False when there is none."""
        data = self._buffer
        if len(data) < 6:
            return False
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4]), 4
        if len(data) < at + 4 + size:
            return False
        mask, self._buffer = data[at : at + 4], data[at + 4 + size :]
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data[at + 4 : at + 4 + size]))
        if data[0] & 0x0F == 0x9:
            self._transport.write(bytes([0x8A, len(payload)]) + payload)
        elif data[0] & 0x0F == 0x1 and (command := orjson.loads(payload)).get("cmd") == "subscribe":
            for channel in command["params"]["channels"]:
                self._sids += 1
                self.send(ws_frame({"type": "subscribed", "id": command["id"],
                                    "msg": {"channel": channel, "sid": self._sids}}))
                if channel == "orderbook_delta":
                    self._stub.begin(self, self._sids)
        return True

    def send(self, frame: bytes) -> None:
        """Hand one frame to the kernel."""
        self._transport.write(frame)


def ws_frame(obj: Any) -> bytes:
    """A server's text frame."""
    data = orjson.dumps(obj)
    head = bytes([0x81, len(data)]) if len(data) < 126 else b"\x81\x7e" + len(data).to_bytes(2)
    return head + data


class StubExchange:
    """Raw sockets on loopback that speak just enough to be traded with, and stamp two moments.

    A tick is stamped right before its bytes go to the kernel, its order when the first bytes of the
    POST are read; only the first order after a tick counts, and a tick without one is missed.
    """

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks
        self.latencies_us: list[float] = []
        self.missed = self.extra = self._warm = 0
        self.is_done = asyncio.Event()
        self._tick_s = 0.0
        self._seq = 0
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def serve(self) -> int:
        """Listen on a free port of loopback; returns it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: StubLine(self), "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop ticking and listening."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    def hear_order(self, heard_s: float) -> None:
        """The first order after a tick is its answer."""
        if not self._tick_s:
            self.extra += 1
            return
        if self._warm >= WARM_ORDERS:
            self.latencies_us.append((heard_s - self._tick_s) * 1e6)
        self._warm += 1
        self._tick_s = 0.0

    def begin(self, line: StubLine, sid: int) -> None:
        """Send the book, then tick."""
        self._seq = 1
        levels = [[f"{p / 1e4:.4f}", "50.00"] for p in range(4000, FLOOR_CC, 10)]
        line.send(ws_frame({"type": "orderbook_snapshot", "sid": sid, "seq": 1,
                            "msg": {"market_ticker": TICKER, "market_id": "m",
                                    "yes_dollars_fp": levels, "no_dollars_fp": levels}}))
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().create_task(self._tick(line, sid))

    async def _tick(self, line: StubLine, sid: int) -> None:
        """Raise the best bid and take it back, until warm and then `ticks` times."""
        begun_s, number = time.perf_counter(), 0
        while len(self.latencies_us) + self.missed < self.ticks:
            number += 1
            price = f"{(FLOOR_CC + 10 * (number % TICK_PRICES)) / 1e4:.4f}"
            frame = self._delta(sid, price, "20.00")
            self._tick_s = time.perf_counter()
            line.send(frame)
            await asyncio.sleep(TICK_GAP_S)
            self.missed += bool(self._tick_s) and self._warm > WARM_ORDERS
            self._tick_s = 0.0
            line.send(self._delta(sid, price, "-20.00"))
            await asyncio.sleep(TICK_GAP_S)
            if self._warm < WARM_ORDERS and time.perf_counter() - begun_s > WARM_LIMIT_S:
                break
        self.is_done.set()

    def _delta(self, sid: int, price: str, change: str) -> bytes:
        self._seq += 1
        return ws_frame({"type": "orderbook_delta", "sid": sid, "seq": self._seq,
                         "msg": {"market_ticker": TICKER, "market_id": "m", "side": "yes",
                                 "price_dollars": price, "delta_fp": change,
                                 "ts_ms": int(time.time() * 1000)}})

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and body for one REST request."""
        short = path.removeprefix("/trade-api/v2")
        if method == "POST" and short == "/portfolio/events/orders":
            client_id = orjson.loads(body).get("client_order_id") or "none"
            return 201, {
                "order_id": f"o-{client_id}", "client_order_id": client_id, "fill_count": "0.00",
                "remaining_count": "0.00", "ts_ms": int(time.time() * 1000),
            }
        if short == "/order_groups/create" or short == "/portfolio/order_groups/create":
            return 201, {"order_group_id": "g-1", "subaccount": 0, "exchange_index": 0}
        found = stub_table().get(short)
        if found is None:
            return 404, {"error": {"code": "not_found", "message": "not found"}}
        return 200, found


def stub_market(now_s: float) -> dict[str, Any]:
    """The one market of the stub, open from yesterday to tomorrow."""
    opened, closes = (
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s + days * 86_400)) for days in (-1, 1)
    )
    return {
        "ticker": TICKER, "event_ticker": "KXBENCH-26DEC31", "market_type": "binary",
        "title": "Bench", "status": "active", "open_time": opened, "close_time": closes,
        "yes_bid_dollars": "0.4490", "yes_ask_dollars": "0.5510", "yes_bid_size_fp": "50.00",
        "yes_ask_size_fp": "50.00", "last_price_dollars": "0.5000", "volume_24h_fp": "900.00",
        "result": "", "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0010"}],
        "exchange_index": 0,
    }


def stub_table() -> dict[str, Any]:
    """What the stub answers to a GET, by path."""
    now_s = time.time()
    market = stub_market(now_s)
    as_of = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s + 5))
    return {
        "/exchange/status": {"exchange_active": True, "trading_active": True},
        "/exchange/user_data_timestamp": {"as_of_time": as_of},
        "/account/limits": {
            "usage_tier": "prestige", "read": {"refill_rate": 9000, "bucket_capacity": 9000},
            "write": {"refill_rate": 90000, "bucket_capacity": 90000}, "grants": [],
        },
        "/account/endpoint_costs": {"default_cost": 10, "endpoint_costs": []},
        "/portfolio/balance": {
            "balance": 1000000, "balance_dollars": "10000.0000", "portfolio_value": 0,
            "updated_ts": int(now_s), "balance_breakdown": [],
        },
        "/portfolio/positions": {"market_positions": [], "event_positions": [], "cursor": ""},
        "/portfolio/orders": {"orders": [], "cursor": ""},
        "/historical/orders": {"orders": [], "cursor": ""},
        "/portfolio/fills": {"fills": [], "cursor": ""},
        f"/markets/{TICKER}": {"market": market},
        "/markets": {"markets": [market], "cursor": ""},
        "/events/KXBENCH-26DEC31": {
            "event": {"event_ticker": "KXBENCH-26DEC31", "series_ticker": "KXBENCH",
                      "title": "Bench", "sub_title": "", "mutually_exclusive": False,
                      "category": "Bench", "fee_type_override": None,
                      "fee_multiplier_override": None}, "markets": [],
        },
        "/series/KXBENCH": {
            "series": {"ticker": "KXBENCH", "title": "Bench", "category": "Bench",
                       "fee_type": "quadratic", "fee_multiplier": 1},
        },
    }


# What can stand on the other side of the stub. Each is a process of its own.


def client_floor(port: int, _: Path) -> None:
    """Raw blocking sockets, nothing parsed: a tick comes, ready-made bytes leave."""
    post = b'{"client_order_id":"c-1","ticker":"%b"}' % TICKER.encode()
    request = (
        b"POST /trade-api/v2" + ORDER_PATH + b"HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"KALSHI-ACCESS-SIGNATURE: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (b"x" * 88, len(post), post)
    )
    ask = b'{"id":1,"cmd":"subscribe","params":{"channels":["orderbook_delta"]}}'
    with (
        socket.create_connection(("127.0.0.1", port)) as feed,
        socket.create_connection(("127.0.0.1", port)) as line,
    ):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        feed.sendall(
            b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n"
        )
        feed.recv(4096)
        feed.sendall(bytes([0x81, 0x80 | len(ask), 0, 0, 0, 0]) + ask)
        while data := feed.recv(65536):
            if b'"20.00"' in data:
                line.sendall(request)
                line.recv(65536)


def client_pykalshi(port: int, folder: Path) -> None:
    """pykalshi's documented path: its async feed, its book, its async client's place_order."""
    library = importlib.import_module("pykalshi")

    async def run() -> None:
        client = library.AsyncKalshiClient(
            api_key_id="bench", private_key_path=str(folder / "rsa.pem"),
            api_base=f"http://127.0.0.1:{port}/trade-api/v2",
        )
        feed, book = client.feed(), library.OrderbookManager(TICKER)
        best, floor = "", f"{FLOOR_CC / 1e4:.4f}"
        feed._ws_url = f"ws://127.0.0.1:{port}/trade-api/ws/v2"  # it knows Kalshi's hosts only
        feed.subscribe("orderbook_delta", market_ticker=TICKER)
        async for message in feed:
            if isinstance(message, library.OrderbookSnapshotMessage):
                book.apply_snapshot(message.yes_dollars, message.no_dollars)
            elif isinstance(message, library.OrderbookDeltaMessage):
                book.apply_delta(message.side, message.price_dollars, message.delta_fp)
            if book.best_bid and book.best_bid != best and book.best_bid >= floor:
                await client.portfolio.place_order(
                    TICKER, book_side="bid", price_dollars=book.best_bid, count_fp="1",
                    client_order_id=f"p-{time.perf_counter_ns()}",
                )
            best = book.best_bid

    asyncio.run(run())


def client_trader(port: int, folder: Path, key_file: str = "rsa.pem") -> None:
    """The trader with journal, risk gate and ledger on, and the kind of key that others use."""
    (folder / "taker.py").write_text(STUB_STRATEGY)
    os.environ.update(
        KALSHI_API_URL=f"http://127.0.0.1:{port}/trade-api/v2",
        KALSHI_WS_URL=f"ws://127.0.0.1:{port}/trade-api/ws/v2",
        KALSHI_API_KEY_ID="6d0b3f0e-7b52-4c1d-8a55-0d8f6f0c1a01",
        KALSHI_KEY_FILE=str(folder / key_file),
    )
    t.main(
        ["--env", "sim", "--data-dir", str(folder / f"data-{os.getpid()}"),
         "--log-level", "WARNING", "--port", str(free_port()), "--tickers", TICKER,
         "--evaluate-min-ms", "0",
         "--strategy", f"{folder / 'taker.py'}:Taker", "--max-orders-per-minute", "1000",
         "--max-notional-per-minute-dollars", "100000", "--max-order-dollars", "100",
         "--max-market-loss-dollars", "1000", "--max-exposure-dollars", "10000",
         "--price-collar-cents", "50"]
    )


def client_trader_ed25519(port: int, folder: Path) -> None:
    """The same with an Ed25519 key, which signs in the path instead of ahead."""
    client_trader(port, folder, "ed25519.pem")


def client_trader_asyncio(port: int, folder: Path) -> None:
    """The same on Python's own loop, uvloop or not."""
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # makes its import fail
    client_trader(port, folder)


def client_trader_post(port: int, folder: Path) -> None:
    """The same with aiohttp's session.post in place of the warm order line."""
    t._OrderLine.take = lambda self: None  # type: ignore[method-assign]
    client_trader(port, folder)


CLIENTS: dict[str, Callable[[int, Path], None]] = {
    "trader": client_trader,
    "floor": client_floor,
    "pykalshi": client_pykalshi,
    "trader_ed25519": client_trader_ed25519,
    "trader_asyncio": client_trader_asyncio,
    "trader_post": client_trader_post,
}


def write_keys(folder: Path) -> None:
    """Fresh key files of both kinds: ed25519.pem and rsa.pem."""
    keys = {
        "ed25519.pem": ed25519.Ed25519PrivateKey.generate(),
        "rsa.pem": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    }
    for name, key in keys.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_child(*words: str) -> subprocess.Popen[bytes]:
    """This file again, as a process with a part to play."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "bench_trader.py"), "--child", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )


def end_child(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop; insist after a while."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


async def measure_client(name: str, ticks: int, folder: Path) -> StubExchange:
    """One client against a stub of its own, to the last tick."""
    stub = StubExchange(ticks)
    port = await stub.serve()
    process = start_child(name, str(port), str(folder))
    try:
        async with asyncio.timeout(2 * WARM_LIMIT_S + ticks * 5 * TICK_GAP_S):
            await stub.is_done.wait()
    except TimeoutError:
        pass  # what was heard until here is judged by the caller
    finally:
        await stub.close()
        await asyncio.to_thread(end_child, process)
    return stub


def bench_order(*, short: bool) -> list[Row]:
    """Book change on the wire → order on the wire, with journal, risk gate and ledger on."""
    ticks, count = (40, 1) if short else (250, 3)
    names = ["trader", "floor"] if short else list(CLIENTS)
    if importlib.util.find_spec("pykalshi") is None and "pykalshi" in names:
        names.remove("pykalshi")
    samples: dict[str, list[float]] = {name: [] for name in names}
    missed, extra = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as text:
        write_keys(Path(text))
        for _ in range(count):
            for name in names:
                stub = asyncio.run(measure_client(name, ticks, Path(text)))
                samples[name] += stub.latencies_us
                missed[name] += ticks - len(stub.latencies_us)
                extra[name] += stub.extra
    if not samples["trader"]:
        raise TimeoutError("no order of the trader came")
    return order_rows(samples, missed, extra)


def order_rows(
    samples: dict[str, list[float]], missed: Counter[str], extra: Counter[str]
) -> list[Row]:
    """p50 and p99 of every client, and how each stands to the trader."""
    rows = []
    for share, word in ((50, "p50"), (99, "p99")):
        figures = {
            name: sorted(times)[len(times) * share // 100]
            for name, times in samples.items()
            if times
        }
        for name, value in figures.items():
            ratio = value / figures["trader"] if "trader" in figures else None
            told = f"µs tick → order {word} of {len(samples[name])}"
            if missed[name] or extra[name]:
                told += f" ({missed[name]} ticks without, {extra[name]} orders without a tick)"
            label = "order" if name == "trader" else f"order:{name}"
            if name == "trader":
                rows.append(Row(label, value, told))
            else:
                rows.append(Row(label, value, told, name, ratio))
    rows += [
        Row(f"order:{name}", 0.0, "no order came: see `--child`")
        for name, times in samples.items()
        if not times
    ]
    return rows


# -- bus, broadcast, journal ------------------------------------------------------------


def bench_bus(*, short: bool) -> list[Row]:
    """One event told to five direct subscribers, beside one queue per subscriber."""
    count = 5_000 if short else 100_000

    async def ours() -> float:
        clock = t.Clock()
        bus = t.EventBus(clock, t.Supervisor(lambda name, error: None))
        heard = [0] * 5
        for index in range(5):
            def hear(event: t.BookChanged, index: int = index) -> None:
                heard[index] += 1
            bus.subscribe(t.BookChanged, hear)
        event = t.BookChanged(at_ms=1, ticker=TICKER, bid_cc=1, ask_cc=2)
        begun = time.perf_counter()
        for _ in range(count):
            bus.publish(event)
        took = time.perf_counter() - begun
        assert heard == [count] * 5
        return took / count * 1e6

    async def queued() -> float:
        queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(5)]
        heard = [0] * 5

        async def drain(index: int) -> None:
            while heard[index] < count // 10:
                await queues[index].get()
                heard[index] += 1

        tasks = [asyncio.create_task(drain(index)) for index in range(5)]
        begun = time.perf_counter()
        for number in range(count // 10):
            for queue in queues:
                queue.put_nowait(number)
            await asyncio.sleep(0)
        for task in tasks:
            await task
        return (time.perf_counter() - begun) / (count // 10) * 1e6

    figures = rounds(
        {"ours": lambda: asyncio.run(ours()), "queued": lambda: asyncio.run(queued())},
        count=2 if short else 5,
    )
    return [Row("bus", figures["ours"], "µs per event told to 5", "a queue per subscriber",
                figures["queued"] / figures["ours"])]


def bench_journal(*, short: bool) -> list[Row]:
    """One intent appended before its order may leave: synced soon, and synced each time."""
    count = 500 if short else 5_000
    body: dict[str, t.JsonValue] = {
        "client_order_id": "kt-sim-none-0000000000-1", "ticker": TICKER, "side": "yes",
        "price_cc": 4500, "count_h": 100, "kind": "create", "slot": "t", "at_ms": 1,
    }

    def run(sync: str, number: int) -> float:
        with tempfile.TemporaryDirectory() as name:
            journal = t.Journal(Path(name) / "j.sqlite3", t.Clock(), "sim", "none", sync)
            journal.open()
            times = []
            for index in range(number):
                begun = time.perf_counter()
                journal.fact("intent", f"id-{index}", body)
                times.append((time.perf_counter() - begun) * 1e6)
            journal.close()
        return statistics.median(times)

    soon, each = run("soon", count), run("each", count // 10)
    told = "µs per intent, synced within 100 ms"
    return [Row("journal", soon, told, "synced each time", each / soon)]


# -- memory and start -------------------------------------------------------------------


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@contextlib.contextmanager
def whole_house(folder: Path, form: tuple[str, ...]) -> Iterator[tuple[int, int, float]]:
    """sim_exchange.py and the trader with its 10 markets: pid and port of the trader, its start."""
    exchange = subprocess.Popen(
        [sys.executable, str(HERE / "sim_exchange.py"), "--port", str(free_port()),
         "--markets", "12", "--key-type", "ed25519"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    try:
        assert exchange.stdout is not None, "asked for a pipe"
        address = json.loads(exchange.stdout.readline())
        env = {
            "KALSHI_API_URL": address["rest"], "KALSHI_WS_URL": address["ws"],
            "KALSHI_API_KEY_ID": address["key_id"], "KALSHI_KEY_FILE": address["private_key_path"],
        }
        port, begun_s = free_port(), time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *form, "--env", "sim", "--data-dir", str(folder / "data"),
             "--log-level", "WARNING", "--port", str(port)],
            cwd=HERE, env={**os.environ, **env},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            yield process.pid, port, begun_s
        finally:
            end_child(process)
    finally:
        end_child(exchange)


def bench_memory_10(*, short: bool) -> list[Row]:
    """The whole trader with 10 markets against a separate exchange, and its start.

    As a script Python compiles the file at every start and keeps the syntax tree for life; as a
    module (-m trader) the kept bytecode is loaded.
    """
    rows = []
    for label, form in (("", ("trader.py",)), (":module", ("-m", "trader"))):
        starts_ms, residents_mb = [], []
        for _ in range(1 if short else 3):
            with contextlib.ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                pid, port, begun_s = stack.enter_context(whole_house(folder, form))
                starts_ms.append(wait_for_snapshot(port, begun_s))
                time.sleep(1 if short else 10)
                residents_mb.append(rss_mb(pid))
        word = " ".join(form)
        resident_mb, start_ms = statistics.median(residents_mb), statistics.median(starts_ms)
        rows += [
            Row(f"memory_10{label}", resident_mb, f"MB resident, python {word}, 10 markets"),
            Row(f"start{label}", start_ms, f"ms from python {word} to the first snapshot"),
        ]
    return rows


def wait_for_snapshot(port: int, begun: float) -> float:
    """Milliseconds since `begun` when /v3/status first counts a snapshot."""

    async def poll() -> float:
        async with aiohttp.ClientSession() as session:
            while time.perf_counter() - begun < 30:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/v3/status") as answer:
                        status = await answer.json()
                    books = status["components"]["orderbook_integration"]
                    if books["snapshots_received"]:
                        return (time.perf_counter() - begun) * 1e3
                except (aiohttp.ClientError, KeyError):
                    pass
                await asyncio.sleep(0.005)
        raise TimeoutError("no snapshot within 30 s")

    return asyncio.run(poll())


def child_memory(count: int) -> None:
    """Follow `count` markets with 100 levels a side each; tell what is resident."""
    t.settle_memory()
    tickers = [f"KXBENCH-26DEC31-T{number}" for number in range(count)]
    feed = Feed(tickers)
    feed.open()
    for number, ticker in enumerate(tickers):
        # Every market at other prices: no two share a level, as on the real exchange.
        low_cc = 1000 + number % 100 * 10
        prices = range(low_cc, low_cc + 1000, 10)
        levels = [[f"{price / 1e4:.4f}", f"{50 + number % 7}.00"] for price in prices]
        msg = {"market_ticker": ticker, "yes_dollars_fp": levels, "no_dollars_fp": levels}
        frame = {"type": "orderbook_snapshot", "sid": 1, "seq": number + 1, "msg": msg}
        feed.stream.take(orjson.dumps(frame))
    assert feed.data.snapshots == count, (feed.data.snapshots, count)
    t.settle_memory()  # what the import left free must not hide what the books take
    print(rss_mb(os.getpid()))


def bench_memory_1000(*, short: bool) -> list[Row]:
    """Books of many markets, 100 levels a side: one process with all beside one with one."""
    count = 100 if short else 1000

    def resident_mb(markets: int) -> float:
        command = [sys.executable, str(HERE / "bench_trader.py"), "--child", "memory", str(markets)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    few_mb = statistics.median(resident_mb(1) for _ in range(1 if short else 3))
    many_mb = statistics.median(resident_mb(count) for _ in range(1 if short else 3))
    each_kb = (many_mb - few_mb) * 1e3 / (count - 1)
    return [
        Row("memory_1000", many_mb, f"MB resident, {count} books of 100 levels a side"),
        Row("memory_1000", each_kb, "KB per market"),
    ]


BENCHES: dict[str, Callable[..., list[Row]]] = {
    "book_30": lambda *, short: bench_book("book_30", 30, 100, short=short),
    "book_300": lambda *, short: bench_book("book_300", 300, 10, short=short),
    "order": bench_order,
    "bus": bench_bus,
    "journal": bench_journal,
    "memory_10": bench_memory_10,
    "memory_1000": bench_memory_1000,
}


def show(row: Row) -> str:
    """One line of the table."""
    value = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.2f}"
    ratio = f"   ours × {row.ratio:.2f} as fast as {row.peer}" if row.ratio is not None else ""
    return f"{row.name:20} {value:>12} {row.unit}{ratio}"


def play(part: str, *words: str) -> int:
    """What this file does as a process started by itself."""
    if part == "memory":
        child_memory(int(words[0]))
    else:
        CLIENTS[part](int(words[0]), Path(words[1]))
    return 0


def main() -> int:
    """Run the benches asked for, print table or JSON."""
    parser = argparse.ArgumentParser(description="Speed and memory of the trader.")
    parser.add_argument("--only", default="", help=f"comma list of {', '.join(BENCHES)}")
    parser.add_argument("--short", action="store_true", help="quick and rough: checks that it runs")
    parser.add_argument("--json", action="store_true", help="a list of rows instead of the table")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        return play(*args.child)
    names = [name for name in args.only.split(",") if name] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"error: no bench {unknown[0]!r}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    rows, code = list[Row](), 0
    for name in names:
        try:
            found = BENCHES[name](short=args.short)
        except (TimeoutError, OSError, ValueError, subprocess.SubprocessError) as error:
            print(f"error: {name} was not measured: {error}", file=sys.stderr)
            code = 1
            continue
        rows += found
        if not args.json:
            print("\n".join(map(show, found)), flush=True)
    if args.json:
        keys = ("name", "value", "unit", "peer", "ratio")
        print(json.dumps([{key: getattr(row, key) for key in keys} for row in rows], indent=1))
    return code


if __name__ == "__main__":
    sys.exit(main())
