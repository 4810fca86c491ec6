#!/usr/bin/env python3
"""Every speed and memory figure that the README quotes, reproducible with one command.

Purpose
    Measure the trader beside its peers and its floors, in one run, on the machine at hand.

Key Responsibilities
    1. Books: frame bytes in, both best prices read (deltas/s), from memory and from a socket.
    2. Orders: book change on the wire to order on the wire, stamped at the exchange's own sockets;
       the same under load and with many open orders; an order call until its reply.
    3. Bus, dashboard, journal: what one fact costs when it is told, shown and written.
    4. How speed, memory and collector pauses grow from 10 to 5,000 markets; the start.
    5. A recorded tape through the whole trader in virtual time, and the rooms its time goes to.

Architecture Position
    A command of its own. Imports trader.py; starts trader.py and sim_exchange.py as processes.
    The stub exchange of `order` is raw sockets, so that what it adds is the floor itself.

Design Principles
    Ratios from one run, medians over interleaved rounds, safety on. No figure is asserted anywhere.
    What only computes is measured in CPU time, since a shared machine would spoil the clock's.

Run it
    python bench_trader.py
    python bench_trader.py --only book_30,order --json
    PYTHONPATH=…/site-packages python bench_trader.py --only book_30   # with nautilus_trader there
    python bench_trader.py --short          # the form CI runs, so that it cannot rot
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import cProfile
import functools
import gc
import gzip
import hashlib
import importlib
import importlib.util
import io
import json
import os
import random
import re
import resource
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
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
    """The real stream and book rooms; without a session bytes go in where it hands them on."""

    def __init__(
        self, tickers: list[str], *, session: Any = None, port: int = 0, signer: Any = None
    ) -> None:
        clock = t.Clock()
        self.supervisor = t.Supervisor(lambda name, error: None)
        self.bus = t.EventBus(clock, self.supervisor)
        config = t.build_config({"book_stale_s": "30"})
        rest: Any = None
        self.stream = t.KalshiStream(
            session=session, ws_url=f"ws://127.0.0.1:{port}/trade-api/ws/v2", signer=signer,
            clock=clock, supervisor=self.supervisor, bus=self.bus, config=config,
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
        begun = time.process_time()
        for frame in frames:
            take(frame)
            book.bid_cc, book.ask_cc  # noqa: B018 - reading them is what is measured
        took = time.process_time() - begun
        assert feed.data.deltas == len(frames), (feed.data.deltas, len(frames))
        return len(frames) / took

    def floor() -> float:
        begun = time.process_time()
        for frame in frames:
            orjson.loads(frame)
        return len(frames) / (time.process_time() - begun)

    acts = {"ours": ours, "orjson.loads": floor}
    peers = {"pykalshi": pykalshi_book, "nautilus_trader": nautilus_book}
    for peer, make in peers.items():
        act = make(snapshot, frames[:peer_count])
        if act is not None:
            acts[peer] = act
    figures = rounds(acts, count=2 if short else 5)
    ours_s = figures.pop("ours")
    share = ours_s / figures.pop("orjson.loads")
    return [
        Row(name, ours_s, "deltas/s", "orjson.loads", share),
        *(
            Row(f"{name}:{peer}", value, "deltas/s", peer, ours_s / value)
            for peer, value in figures.items()
        ),
    ]


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
        begun = time.process_time()
        for text in texts:
            msg = feed._parse_message(text)[2]
            book.apply_delta(msg.side, msg.price_dollars, msg.delta_fp)
            book.best_bid, book.best_ask  # noqa: B018 - reading them is what is measured
        return len(texts) / (time.process_time() - begun)

    return run


def nautilus_book(snapshot: bytes, frames: list[bytes]) -> Callable[[], float] | None:
    """The same frames through nautilus_trader's compiled book, driven from Python.

    Its book takes new sizes where the exchange sends changes, so sizes are summed in a dict.
    """
    try:
        book_module = importlib.import_module("nautilus_trader.model.book")
        data = importlib.import_module("nautilus_trader.model.data")
        enums = importlib.import_module("nautilus_trader.model.enums")
        names = importlib.import_module("nautilus_trader.model.identifiers")
        objects = importlib.import_module("nautilus_trader.model.objects")
    except ImportError:
        return None
    market = names.InstrumentId.from_str(f"{TICKER}.KALSHI")
    sides = {"yes": enums.OrderSide.BUY, "no": enums.OrderSide.SELL}

    def run() -> float:
        book = book_module.OrderBook(market, enums.BookType.L2_MBP)
        sizes: dict[tuple[str, str], float] = {}

        def put(side: str, price: str, change: str, seq: int) -> None:
            size = sizes[side, price] = sizes.get((side, price), 0.0) + float(change)
            yes = price if side == "yes" else f"{1 - float(price):.4f}"
            order = data.BookOrder(
                sides[side], objects.Price.from_str(yes), objects.Quantity(size, 2), 0
            )
            action = enums.BookAction.UPDATE if size > 0 else enums.BookAction.DELETE
            book.apply_delta(data.OrderBookDelta(market, action, order, 0, seq, 0, 0))

        first = orjson.loads(snapshot)["msg"]
        for side in ("yes", "no"):
            for price, count in first[f"{side}_dollars_fp"]:
                put(side, price, count, 1)
        begun = time.process_time()
        for frame in frames:
            parsed = orjson.loads(frame)
            msg = parsed["msg"]
            put(msg["side"], msg["price_dollars"], msg["delta_fp"], parsed["seq"])
            book.best_bid_price(), book.best_ask_price()
        return len(frames) / (time.process_time() - begun)

    return run


def bench_socket(*, short: bool) -> list[Row]:
    """Frames as fast as a socket gives them → both bests read: deltas per second of one core.

    Time is the client's own CPU time, since the sender may have the other core or may not.
    """
    names = ["book_trader"]
    if importlib.util.find_spec("pykalshi") is not None:
        names.append("book_pykalshi")
    sizes = {"book_trader": 10_000 if short else 100_000,
             "book_pykalshi": 1_000 if short else 10_000}
    rates: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as text:
        write_keys(Path(text))
        for _ in range(1 if short else 5):
            for name in names:
                stub = PumpExchange(sizes[name])
                found = asyncio.run(ask_client(stub, name, Path(text), str(sizes[name])))
                rates[name].append(float(found["per_s"]))
    figures = {name: statistics.median(values) for name, values in rates.items()}
    ours_s = figures.pop("book_trader")
    return [
        Row("socket", ours_s, "deltas/s of one core, socket → book"),
        *(
            Row("socket:pykalshi", value, "deltas/s of one core", "pykalshi", ours_s / value)
            for value in figures.values()
        ),
    ]


def bench_grow(*, short: bool) -> list[Row]:
    """Deltas per second, memory and collector pauses by number of markets and levels a side."""
    sizes = [(10, 30), (100, 30)] if short else [
        (count, levels) for levels in (30, 100, 300) for count in (10, 100, 1_000, 5_000)
    ]
    rows = []
    for count, levels in sizes:
        found = run_child("grow", str(count), str(levels), str(2_000 if short else 50_000))
        what = f"{count:,} markets of {levels} levels a side"
        rows += [
            Row(f"grow_{count}_{levels}", found["per_s"], f"deltas/s, {what}"),
            Row(f"grow_{count}_{levels}", found["kb"], "KB per market"),
            Row(f"grow_{count}_{levels}", found["mb"], "MB resident in all"),
            Row(f"grow_{count}_{levels}", found["pause_ms"], "ms, full collection, 1,000 orders"),
        ]
    return rows


def bench_order_of(number: int, ticker: str) -> t.Order:
    """One resting order."""
    return t.Order(
        client_order_id=f"c-{number}", order_id=f"o-{number}", ticker=ticker, side=t.Side.YES,
        event_ticker="KXBENCH-26DEC31", price_cc=4500, count_h=100, slot=f"s{number}",
        strategy="bench", status=t.OrderStatus.RESTING,
    )


def child_grow(count: int, levels: int, deltas: int) -> dict[str, float]:
    """Follow `count` markets, apply `deltas` all over them, look at memory and the collector."""
    t.settle_memory()
    before_mb = rss_mb(os.getpid())
    tickers = [f"KXBENCH-26DEC31-T{number}" for number in range(count)]
    feed = Feed(tickers)
    feed.open()
    rng, step_cc = random.Random(7), 10
    lows = [1000 + number % 100 * 10 for number in range(count)]
    for seq, (ticker, low_cc) in enumerate(zip(tickers, lows, strict=True), 1):
        # Every market at other prices: no two share a level, as on the real exchange.
        prices = range(low_cc, low_cc + levels * step_cc, step_cc)
        sides = [[f"{price / 1e4:.4f}", f"{50 + seq % 7}.00"] for price in prices]
        whole = {"market_ticker": ticker, "yes_dollars_fp": sides, "no_dollars_fp": sides}
        frame = {"type": "orderbook_snapshot", "sid": 1, "seq": seq, "msg": whole}
        feed.stream.take(orjson.dumps(frame))
    assert feed.data.snapshots == count, (feed.data.snapshots, count)
    t.settle_memory()  # what the import left free must not hide what the books take
    resident_mb = rss_mb(os.getpid())
    now_ms, took_s = int(time.time() * 1000), 0.0
    for begin in range(0, deltas, 1000):
        frames = []
        for seq in range(begin, min(begin + 1000, deltas)):
            at = rng.randrange(count)
            price = lows[at] + rng.randrange(levels) * step_cc
            msg = {"market_ticker": tickers[at], "side": rng.choice(("yes", "no")),
                   "price_dollars": f"{price / 1e4:.4f}", "delta_fp": "1.00", "ts_ms": now_ms}
            frames.append(orjson.dumps(
                {"type": "orderbook_delta", "sid": 1, "seq": count + seq + 1, "msg": msg}
            ))
        begun_s = time.process_time()
        for data in frames:
            feed.stream.take(data)
        took_s += time.process_time() - begun_s
    assert feed.data.deltas == deltas, (feed.data.deltas, deltas)
    store, pauses_ms = t.OrderStore(), []
    for number in range(1_000):  # what a busy trader has made since its start
        store.put(bench_order_of(number, tickers[number % count]))
    for _ in range(5):
        begun_s = time.process_time()
        gc.collect()
        pauses_ms.append((time.process_time() - begun_s) * 1e3)
    assert len(store.live()) == 1_000, "the orders are still there"
    return {"per_s": deltas / took_s, "mb": resident_mb, "pause_ms": statistics.median(pauses_ms),
            "kb": (resident_mb - before_mb) * 1e3 / count}


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
SO_TIMESTAMPNS = 35  # Linux; the socket module does not name it
ORDER_PATH = b"/portfolio/events/orders "
LOAD_TICKERS = tuple(f"KXBENCH-26DEC31-L{number}" for number in range(10))
LOAD_PER_S = 5_000
OPEN_ORDERS = 990  # the trader's own ceiling is 1,000
CALLS = 200
CALL_GAP_S = 0.01


class StubLine(asyncio.Protocol):
    """One connection of the stub, first HTTP, then perhaps WebSocket; the kernel stamps its bytes.

    A stamp of our own would also measure when the scheduler lets this process read: on two cores
    it may have to wait until the client has done what it does after its order.
    """

    def __init__(self, stub: StubExchange) -> None:
        self._stub = stub
        self._buffer = b""
        self._is_socket = False
        self._sids = 0
        self._transport: Any = None
        self._reader: Any = None

    def connection_made(self, transport: Any) -> None:
        """Read ourselves; no wait of Nagle's, whose milliseconds would be measured as ours."""
        self._transport = transport
        transport.pause_reading()
        self._reader = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._reader.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; ticks to it have nowhere to go."""
        self._let_go()
        if self._is_socket:
            self._stub.is_done.set()

    def _let_go(self) -> None:
        if self._reader is not None:
            asyncio.get_running_loop().remove_reader(self._reader)
            self._reader.close()
        self._reader = None

    def _read(self) -> None:
        try:
            data, notes, _, _ = self._reader.recvmsg(65536, 64)
        except BlockingIOError:
            return
        except OSError:
            data, notes = b"", []
        if not data:
            self._let_go()
            self._transport.close()
            return
        stamps = [struct.unpack("qq", raw) for _, kind, raw in notes if kind == SO_TIMESTAMPNS]
        self.take(data, stamps[0][0] + stamps[0][1] / 1e9 if stamps else time.time())

    def take(self, data: bytes, heard_s: float) -> None:
        """Bytes that came at this wall time."""
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
    """A server's text frame with this JSON."""
    return ws_text(orjson.dumps(obj))


def ws_text(data: bytes) -> bytes:
    """A server's text frame."""
    head = bytes([0x81, len(data)]) if len(data) < 126 else b"\x81\x7e" + len(data).to_bytes(2)
    return head + data


class StubExchange:
    """Raw sockets on loopback that speak just enough to be traded with, and stamp two moments.

    A tick is stamped right before its bytes go to the kernel, its order by the kernel when the
    bytes of the POST come; only the first order after a tick counts, a tick without one is missed.
    """

    def __init__(self, ticks: int, *, load_per_s: int = 0, open_orders: int = 0) -> None:
        self.ticks = ticks
        self.load_per_s, self.open_orders = load_per_s, open_orders
        self.latencies_us: list[float] = []
        self.missed = self.extra = self._warm = 0
        self.is_done = asyncio.Event()
        self._tick_s = 0.0
        self._seq = 0
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._loader: asyncio.Task[None] | None = None
        self.loaded = 0

    async def serve(self) -> int:
        """Listen on a free port of loopback; returns it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: StubLine(self), "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop ticking and listening."""
        for task in (self._ticker, self._loader):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
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
        self._seq = 0
        levels = [[f"{p / 1e4:.4f}", "50.00"] for p in range(4000, FLOOR_CC, 10)]
        for ticker in (TICKER, *(LOAD_TICKERS if self.load_per_s else ())):
            self._seq += 1
            line.send(ws_frame({"type": "orderbook_snapshot", "sid": sid, "seq": self._seq,
                                "msg": {"market_ticker": ticker, "market_id": "m",
                                        "yes_dollars_fp": levels, "no_dollars_fp": levels}}))
        loop = asyncio.get_running_loop()
        if self._ticker is None:
            self._ticker = loop.create_task(self._tick(line, sid))
            if self.load_per_s:
                self._loader = loop.create_task(self._load(line, sid))

    async def _load(self, line: StubLine, sid: int) -> None:
        """Changes of the other markets, every fiftieth of them at the best price."""
        rng, begun_s = random.Random(5), time.perf_counter()
        while True:
            await asyncio.sleep(0.002)
            due = int((time.perf_counter() - begun_s) * self.load_per_s) - self.loaded
            for _ in range(due):
                self.loaded += 1
                price = f"{rng.randrange(4000, FLOOR_CC, 10) / 1e4:.4f}"
                line.send(self._delta(sid, price, "1.00", rng.choice(LOAD_TICKERS)))

    async def _tick(self, line: StubLine, sid: int) -> None:
        """Raise the best bid and take it back, until warm and then `ticks` times."""
        begun_s, number = time.perf_counter(), 0
        while len(self.latencies_us) + self.missed < self.ticks:
            number += 1
            price = f"{(FLOOR_CC + 10 * (number % TICK_PRICES)) / 1e4:.4f}"
            frame = self._delta(sid, price, "20.00")
            self._tick_s = time.time()
            line.send(frame)
            await asyncio.sleep(TICK_GAP_S)
            self.missed += bool(self._tick_s) and self._warm > WARM_ORDERS
            self._tick_s = 0.0
            line.send(self._delta(sid, price, "-20.00"))
            await asyncio.sleep(TICK_GAP_S)
            if self._warm < WARM_ORDERS and time.perf_counter() - begun_s > WARM_LIMIT_S:
                break
        self.is_done.set()

    def _delta(self, sid: int, price: str, change: str, ticker: str = TICKER) -> bytes:
        self._seq += 1
        return ws_frame({"type": "orderbook_delta", "sid": sid, "seq": self._seq,
                         "msg": {"market_ticker": ticker, "market_id": "m", "side": "yes",
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
        if method == "POST" and short == "/portfolio/orders":  # where older clients still write
            return 201, {"order": {"order_id": "o-1", "status": "resting"}}
        if short.startswith("/markets/K"):
            return 200, {"market": stub_market(time.time(), short.rpartition("/")[2])}
        if short == "/portfolio/orders":
            return 200, {"orders": stub_orders(self.open_orders), "cursor": ""}
        found = stub_table().get(short)
        if found is None:
            return 404, {"error": {"code": "not_found", "message": "not found"}}
        return 200, found


class PumpExchange(StubExchange):
    """Sends a book and then deltas as fast as they are taken; nobody needs to answer."""

    def __init__(self, deltas: int) -> None:
        super().__init__(0)
        snapshot, frames = book_frames(30, 100, deltas)
        self._frames = [snapshot, *frames]

    def begin(self, line: StubLine, sid: int) -> None:
        """All at once; the socket sets the pace."""
        mine = b'"sid":%d,' % sid
        line.send(b"".join(ws_text(f.replace(b'"sid":1,', mine, 1)) for f in self._frames))


def stub_orders(count: int) -> list[dict[str, Any]]:
    """Resting orders of somebody else on the same account."""
    now_ms = int(time.time() * 1000)
    return [
        {"order_id": f"f-{number}", "client_order_id": f"foreign-{number}",
         "ticker": f"KXOTHER-26DEC31-T{number % 100}", "side": "yes", "action": "buy",
         "yes_price_dollars": "0.1000", "no_price_dollars": "0.9000", "initial_count_fp": "1.00",
         "fill_count_fp": "0.00", "remaining_count_fp": "1.00", "status": "resting",
         "created_ts_ms": now_ms, "last_updated_ts_ms": now_ms}
        for number in range(count)
    ]


def stub_market(now_s: float, ticker: str = TICKER) -> dict[str, Any]:
    """One market of the stub, open from yesterday to tomorrow."""
    opened, closes = (
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s + days * 86_400)) for days in (-1, 1)
    )
    return {
        "ticker": ticker, "event_ticker": "KXBENCH-26DEC31", "market_type": "binary",
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
        "/historical/orders": {"orders": [], "cursor": ""},
        "/portfolio/fills": {"fills": [], "cursor": ""},
        "/markets": {"markets": [market], "cursor": ""},
        "/markets/orderbooks": {"orderbooks": []},
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


def client_trader(
    port: int,
    folder: Path,
    *,
    key_file: str = "rsa.pem",
    tickers: tuple[str, ...] = (TICKER,),
    more: tuple[str, ...] = (),
) -> None:
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
         "--log-level", "WARNING", "--port", str(free_port()), "--tickers", ",".join(tickers),
         "--evaluate-min-ms", "0",
         "--strategy", f"{folder / 'taker.py'}:Taker", "--max-orders-per-minute", "1000",
         "--max-notional-per-minute-dollars", "100000", "--max-order-dollars", "100",
         "--max-market-loss-dollars", "1000", "--max-exposure-dollars", "10000",
         "--price-collar-cents", "50", "--max-orders", "1000", *more]
    )


def client_trader_ed25519(port: int, folder: Path) -> None:
    """The same with an Ed25519 key, which signs in the path instead of ahead."""
    client_trader(port, folder, key_file="ed25519.pem")


def client_trader_asyncio(port: int, folder: Path) -> None:
    """The same on Python's own loop, uvloop or not."""
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # makes its import fail
    client_trader(port, folder)


def client_trader_post(port: int, folder: Path) -> None:
    """The same with aiohttp's session.post in place of the warm order line."""
    t._OrderLine.take = lambda self: None  # type: ignore[method-assign]
    client_trader(port, folder)


def client_trader_each(port: int, folder: Path) -> None:
    """The same with every intent on the disk before its order leaves."""
    client_trader(port, folder, more=("--journal-sync", "each"))


def client_trader_load(port: int, folder: Path) -> None:
    """The same, following the markets of the load too."""
    client_trader(port, folder, tickers=(TICKER, *LOAD_TICKERS))


CLIENTS: dict[str, Callable[[int, Path], None]] = {
    "trader": client_trader,
    "floor": client_floor,
    "pykalshi": client_pykalshi,
    "trader_ed25519": client_trader_ed25519,
    "trader_asyncio": client_trader_asyncio,
    "trader_post": client_trader_post,
    "trader_each": client_trader_each,
}


# Clients that measure themselves and print what they found as JSON.


def run_async(body: Coroutine[Any, Any, dict[str, float]]) -> dict[str, float]:
    """On uvloop where it is installed, as the trader itself runs."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return asyncio.run(body)
    found: dict[str, float] = uvloop.run(body)
    return found


def book_trader(port: int, folder: Path, deltas: int) -> dict[str, float]:
    """The trader's stream and books on a real socket."""

    async def run() -> dict[str, float]:
        signer = t.load_signer((folder / "rsa.pem").read_bytes(), "bench")
        async with aiohttp.ClientSession() as session:
            feed = Feed([TICKER], session=session, port=port, signer=signer)
            feed.supervisor.spawn(feed.stream.run(), name="stream")
            while feed.data.snapshots == 0:
                await asyncio.sleep(0)
            book, begun_s, first = feed.data.books[TICKER], time.process_time(), feed.data.deltas
            while feed.data.deltas < deltas:
                await asyncio.sleep(0.001)
                book.bid_cc, book.ask_cc  # noqa: B018 - reading them is what is measured
            took_s = time.process_time() - begun_s
            await feed.supervisor.stop(timeout_s=2.0)
        return {"per_s": (deltas - first) / took_s}

    return run_async(run())


def book_pykalshi(port: int, folder: Path, deltas: int) -> dict[str, float]:
    """pykalshi's async feed and its book, as its documentation shows."""
    library = importlib.import_module("pykalshi")

    async def run() -> dict[str, float]:
        client = library.AsyncKalshiClient(
            api_key_id="bench", private_key_path=str(folder / "rsa.pem"),
            api_base=f"http://127.0.0.1:{port}/trade-api/v2",
        )
        feed, book = client.feed(), library.OrderbookManager(TICKER)
        feed._ws_url = f"ws://127.0.0.1:{port}/trade-api/ws/v2"  # it knows Kalshi's hosts only
        feed.subscribe("orderbook_delta", market_ticker=TICKER)
        seen, begun_s = 0, 0.0
        async for message in feed:
            if isinstance(message, library.OrderbookSnapshotMessage):
                book.apply_snapshot(message.yes_dollars, message.no_dollars)
                begun_s = time.process_time()
            elif isinstance(message, library.OrderbookDeltaMessage):
                book.apply_delta(message.side, message.price_dollars, message.delta_fp)
                seen += 1
            book.best_bid, book.best_ask  # noqa: B018 - reading them is what is measured
            if seen == deltas:
                break
        return {"per_s": deltas / (time.process_time() - begun_s)}

    return run_async(run())


async def time_calls(call: Callable[[int], Awaitable[object]], calls: int) -> dict[str, float]:
    """Median of `calls` calls a little apart, after a few to warm up."""
    times_us = []
    for number in range(calls + 10):
        await asyncio.sleep(CALL_GAP_S)
        begun_s = time.perf_counter()
        await call(number)
        times_us.append((time.perf_counter() - begun_s) * 1e6)
    return {"p50_us": statistics.median(times_us[10:])}


def call_trader(port: int, folder: Path, calls: int) -> dict[str, float]:
    """The trader's REST client: one create and its judged outcome."""

    async def run() -> dict[str, float]:
        signer = t.load_signer((folder / "rsa.pem").read_bytes(), "bench")
        async with t.make_session(aiohttp.TCPConnector()) as session:
            base_url = f"http://127.0.0.1:{port}/trade-api/v2"
            rest = t.KalshiRest(session, base_url, signer, t.Clock(), request_timeout_s=5.0)
            await rest.exchange_status()

            async def call(number: int) -> None:
                intent = t.Intent(
                    kind=t.CommandKind.CREATE, client_order_id=f"kt-sim-b-0-{number}",
                    ticker=TICKER, event_ticker="KXBENCH-26DEC31", side=t.Side.YES, price_cc=4500,
                    count_h=100, strategy="b", slot="b", decision_id="d", at_ms=1,
                    expires_at_ms=None, is_take=True,
                )
                outcome = await rest.create(intent, None)
                assert outcome.kind is t.OutcomeKind.ACCEPTED, outcome

            try:
                return await time_calls(call, calls)
            finally:
                rest.close()

    return run_async(run())


def call_pykalshi(port: int, folder: Path, calls: int) -> dict[str, float]:
    """pykalshi's async client: place_order and its parsed answer."""
    library = importlib.import_module("pykalshi")

    async def run() -> dict[str, float]:
        client = library.AsyncKalshiClient(
            api_key_id="bench", private_key_path=str(folder / "rsa.pem"),
            api_base=f"http://127.0.0.1:{port}/trade-api/v2",
        )

        async def call(number: int) -> None:
            await client.portfolio.place_order(
                TICKER, book_side="bid", price_dollars="0.4500", count_fp="1",
                client_order_id=f"p-{number}",
            )

        return await time_calls(call, calls)

    return run_async(run())


def call_official(port: int, folder: Path, calls: int) -> dict[str, float]:
    """kalshi_python_async: create_order and its answer, not parsed (its models are of 2025)."""
    official = importlib.import_module("kalshi_python_async")
    auth = importlib.import_module("kalshi_python_async.auth")

    async def run() -> dict[str, float]:
        place = official.Configuration(host=f"http://127.0.0.1:{port}/trade-api/v2")
        async with official.ApiClient(place) as client:
            client.kalshi_auth = auth.KalshiAuth("bench", (folder / "rsa.pem").read_text())
            orders = official.OrdersApi(client)

            async def call(number: int) -> None:
                asked = official.CreateOrderRequest(
                    ticker=TICKER, side="yes", action="buy", count=1, yes_price=45,
                    client_order_id=f"o-{number}",
                )
                answer = await orders.create_order_without_preload_content(asked)
                assert answer.status == 201, await answer.text()
                await answer.read()

            return await time_calls(call, calls)

    return run_async(run())


ASKED: dict[str, Callable[[int, Path, int], dict[str, float]]] = {
    "book_trader": book_trader,
    "book_pykalshi": book_pykalshi,
    "call_trader": call_trader,
    "call_pykalshi": call_pykalshi,
    "call_official": call_official,
}


def run_child(*words: str) -> dict[str, float]:
    """This file again with a part to play; what it printed."""
    command = [sys.executable, str(HERE / "bench_trader.py"), "--child", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise ValueError(f"{words[0]} ended with {done.returncode}: {done.stderr[-300:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


async def ask_client(
    stub: StubExchange, name: str, folder: Path, *words: str
) -> dict[str, float]:
    """One client that measures itself against a stub of this process."""
    port = await stub.serve()
    try:
        return await asyncio.to_thread(run_child, name, str(port), str(folder), *words)
    finally:
        await stub.close()


def bench_call(*, short: bool) -> list[Row]:
    """A signed order call until its reply is understood; RSA keys, kept connections."""
    names = {"call_trader": "trader", "call_pykalshi": "pykalshi",
             "call_official": "kalshi_python_async"}
    for name, library in list(names.items())[1:]:
        if importlib.util.find_spec(library) is None:
            del names[name]
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as text:
        write_keys(Path(text))
        for _ in range(1 if short else 5):
            for name in names:
                calls = str(20 if short else CALLS)
                found = asyncio.run(ask_client(StubExchange(0), name, Path(text), calls))
                times[name].append(found["p50_us"])
    figures = {names[name]: statistics.median(values) for name, values in times.items()}
    ours_us = figures.pop("trader")
    return [
        Row("call", ours_us, "µs order call → reply, p50"),
        *(
            Row(f"call:{peer}", value, "µs", peer, value / ours_us)
            for peer, value in figures.items()
        ),
    ]


def bench_order_load(*, short: bool) -> list[Row]:
    """Order latency quiet, while LOAD_PER_S deltas arrive, and with OPEN_ORDERS resting orders."""
    ticks, count = (30, 1) if short else (200, 3)
    cases: dict[str, tuple[str, dict[str, int]]] = {
        "quiet": ("trader", {}),
        f"{LOAD_PER_S:,} deltas/s": ("trader_load", {"load_per_s": LOAD_PER_S}),
        f"{OPEN_ORDERS} open orders": ("trader", {"open_orders": OPEN_ORDERS}),
    }
    samples: dict[str, list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as text:
        write_keys(Path(text))
        for _ in range(count):
            for case, (name, traits) in cases.items():
                stub = StubExchange(ticks, **traits)
                asyncio.run(measure_client(name, ticks, Path(text), stub))
                samples[case] += stub.latencies_us
    rows = []
    for word, share in (("p50", 50), ("p99", 99)):
        found = {case: sorted(s)[len(s) * share // 100] for case, s in samples.items() if s}
        for case, value in found.items():
            ratio = None if case == "quiet" else found["quiet"] / value
            rows.append(Row("order_load", value, f"µs tick → order {word}, {case}",
                            "" if ratio is None else "quiet", ratio))
    return rows


def write_keys(folder: Path) -> None:
    """Fresh key files of both kinds: ed25519.pem and rsa.pem."""
    keys: dict[str, Any] = {
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


async def measure_client(
    name: str, ticks: int, folder: Path, stub: StubExchange | None = None
) -> StubExchange:
    """One client against a stub of its own, to the last tick."""
    stub = stub or StubExchange(ticks)
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
        begun = time.process_time()
        for _ in range(count):
            bus.publish(event)
        took = time.process_time() - begun
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
        begun = time.process_time()
        for number in range(count // 10):
            for queue in queues:
                queue.put_nowait(number)
            await asyncio.sleep(0)
        for task in tasks:
            await task
        return (time.process_time() - begun) / (count // 10) * 1e6

    figures = rounds(
        {"ours": lambda: asyncio.run(ours()), "queued": lambda: asyncio.run(queued())},
        count=2 if short else 5,
    )
    return [Row("bus", figures["ours"], "µs per event told to 5", "a queue per subscriber",
                figures["queued"] / figures["ours"])]


class Sink(asyncio.Transport):
    """A browser's socket that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Count it."""
        self.bytes += len(data)

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """No limits."""

    def is_closing(self) -> bool:
        """Never."""
        return False


def bench_dashboard(*, short: bool) -> list[Row]:
    """One flush of changed rows to 100 clients, beside encoding it for each of them."""
    rows = []
    for size in (20, 100):
        flushes = 20 if short else 200
        ours: Callable[[], float] = functools.partial(run_flushes, size, flushes)
        each: Callable[[], float] = functools.partial(flush_each, size, flushes)
        figures = rounds({"ours": ours, "each": each}, count=1 if short else 5)
        rows.append(Row("dashboard", figures["ours"], f"µs per flush of {size} rows to 100 clients",
                        "encoding for each client", figures["each"] / figures["ours"]))
    return rows


def run_flushes(size: int, count: int) -> float:
    """`flush_once` on a loop of its own."""
    return asyncio.run(flush_once(size, count))


async def flush_once(size: int, count: int) -> float:
    """The trader's own manager with 100 listening clients: µs per flush."""
    clock = t.Clock()
    bus = t.EventBus(clock, t.Supervisor(lambda name, error: None))
    hub, sinks = t.WebSocketManager(clock, bus), [Sink() for _ in range(100)]
    for sink in sinks:
        hub.admit(sink, t.Wanted(topics=("markets",), books=()))
    took_s, stream = 0.0, hub._streams["markets"]
    for number in range(count):
        for row in dashboard_rows(size, number):
            hub.put("markets", row)
        begun_s = time.process_time()
        hub._flush(stream)
        took_s += time.process_time() - begun_s
    assert min(sink.bytes for sink in sinks) > count * 1_000, "every client got every flush"
    return took_s / count * 1e6


def flush_each(size: int, count: int) -> float:
    """The same rows encoded for each of 100 clients: µs per flush."""
    sinks, took_s = [Sink() for _ in range(100)], 0.0
    for number in range(count):
        rows = dashboard_rows(size, number)
        begun_s = time.process_time()
        for sink in sinks:
            message = {"type": "markets", "data": {"rows": rows}, "timestamp": begun_s}
            sink.write(t.text_frame(orjson.dumps(message)))
        took_s += time.process_time() - begun_s
    return took_s / count * 1e6


def dashboard_rows(size: int, number: int) -> list[dict[str, Any]]:
    """Rows of the markets table as the page gets them, all of them changed."""
    return [
        {"ticker": f"KXBENCH-26DEC31-T{at}", "title": "Bench market", "status": "active",
         "bid_cc": 4500 + number, "ask_cc": 4700 + number, "bid_h": 5000, "ask_h": 7000,
         "spread_cc": 200, "age_ms": 12, "position_h": 0, "orders": 2, "proof": "proven",
         "close_at_ms": 1_796_000_000_000, "volume_24h_h": 900_000, "last_cc": 4600}
        for at in range(size)
    ]


# -- a recorded tape ----------------------------------------------------------------------


TAPE = "KXGOLD15M-26AUG102145-45"  # 139,684 events
SHORT_TAPE = "KXGOLD15M-26AUG101900-00"  # 23,003 events
ROOM = re.compile(r"^# §(\d\d)([a-z]?) ", re.MULTILINE)


def tape_folder(*, short: bool) -> Path | None:
    """The tape to replay, where it is kept beside the project (BENCH_TAPES names the folder)."""
    shelf = Path(os.environ.get("BENCH_TAPES", HERE.parent / "shared" / "tapes"))
    folder = shelf / (SHORT_TAPE if short else TAPE)
    return folder if folder.is_dir() else None


def bench_tape(*, short: bool) -> list[Row]:
    """A real tape through the whole trader with market_maker in virtual time: CPU and rooms.

    The exchange that plays the tape takes part of the time. The profiler that tells the rooms
    makes calls dearer, so its shares lean toward rooms of many small functions.
    """
    folder = tape_folder(short=short)
    if folder is None:
        return [Row("tape", 0.0, "not measured: no tapes here, see BENCH_TAPES")]
    found = run_child("tape", str(folder), "plain")
    rows = [
        Row("tape", found["cpu_s"], f"s of CPU for {found['events']:,.0f} events"),
        Row("tape", found["events"] / found["cpu_s"], "events/s through the whole trader"),
    ]
    if not short:
        shares = run_child("tape", str(folder), "profile")
        top = sorted(shares.items(), key=lambda item: -item[1])[:14]
        rows += [Row(f"tape:{room}", share * 100, "% of the profiled time") for room, share in top]
    return rows


def child_tape(folder: Path, how: str) -> dict[str, float]:
    """Replay in this process; CPU seconds, or the share of each room."""
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(io.StringIO()):
        words = ["replay", "--tape", str(folder), "--strategy", "market_maker", "--queue",
                 "realistic", "--data-dir", home, "--log-level", "ERROR"]
        profile = cProfile.Profile() if how == "profile" else None
        begun_s = time.process_time()
        code = t.main(words) if profile is None else profile.runcall(t.main, words)
        took_s = time.process_time() - begun_s
    if code:
        raise ValueError(f"the replay ended with {code}")
    if profile is None:
        logs = folder.glob("*.ndjson.gz")
        events = sum(gzip.decompress(log.read_bytes()).count(b"\n") for log in logs)
        return {"cpu_s": took_s, "events": float(events)}
    return room_shares(profile)


def room_shares(profile: cProfile.Profile) -> dict[str, float]:
    """Own time of each room of trader.py, of the exchange, and of all the rest, as shares."""
    source = Path(t.__file__).read_text()
    starts = [(source.count("\n", 0, m.start()) + 1, f"§{m[1]}") for m in ROOM.finditer(source)]
    spent: defaultdict[str, float] = defaultdict(float)
    for entry in profile.getstats():
        code = entry.code
        if isinstance(code, str):
            spent["built-in functions"] += entry.inlinetime
        elif code.co_filename == t.__file__:
            rooms = [room for line, room in starts if line <= code.co_firstlineno]
            spent[rooms[-1] if rooms else "§00"] += entry.inlinetime
        elif code.co_filename.endswith("sim_exchange.py"):
            spent["the exchange"] += entry.inlinetime
        else:
            spent["libraries"] += entry.inlinetime
    total = sum(spent.values())
    return {room: value / total for room, value in spent.items()}


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


def cpu_ms(pid: int) -> float:
    """Milliseconds a process has worked, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def bytecode_kept() -> dict[str, str]:
    """The environment without the wish to keep no bytecode, which every start would pay for."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


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
            cwd=HERE, env={**bytecode_kept(), **env},
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
    compile_it = [sys.executable, "-c", "import trader"]
    subprocess.run(compile_it, cwd=HERE, env=bytecode_kept(), check=True)
    for label, form in (("", ("trader.py",)), (":module", ("-m", "trader"))):
        starts_ms, cpus_ms, residents_mb = [], [], []
        for _ in range(1 if short else 3):
            with contextlib.ExitStack() as stack:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                pid, port, begun_s = stack.enter_context(whole_house(folder, form))
                starts_ms.append(wait_for_snapshot(port, begun_s))
                cpus_ms.append(cpu_ms(pid))
                time.sleep(1 if short else 10)
                residents_mb.append(rss_mb(pid))
        word = " ".join(form)
        resident_mb, start_ms = statistics.median(residents_mb), statistics.median(starts_ms)
        rows += [
            Row(f"memory_10{label}", resident_mb, f"MB resident, python {word}, 10 markets"),
            Row(f"start{label}", start_ms, f"ms from python {word} to the first snapshot"),
            Row(f"start{label}", statistics.median(cpus_ms), "ms of CPU of these"),
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
                await asyncio.sleep(0.02)  # each look costs the trader a whole status document
        raise TimeoutError("no snapshot within 30 s")

    return asyncio.run(poll())


BENCHES: dict[str, Callable[..., list[Row]]] = {
    "book_30": lambda *, short: bench_book("book_30", 30, 100, short=short),
    "book_300": lambda *, short: bench_book("book_300", 300, 10, short=short),
    "socket": bench_socket,
    "call": bench_call,
    "order": bench_order,
    "order_load": bench_order_load,
    "bus": bench_bus,
    "dashboard": bench_dashboard,
    "journal": bench_journal,
    "grow": bench_grow,
    "memory_10": bench_memory_10,
    "tape": bench_tape,
}


def show(row: Row) -> str:
    """One line of the table."""
    value = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.2f}"
    ratio = f"   ours × {row.ratio:.2f} as fast as {row.peer}" if row.ratio is not None else ""
    return f"{row.name:20} {value:>12} {row.unit}{ratio}"


def play(part: str, *words: str) -> int:
    """What this file does as a process started by itself."""
    if part == "grow":
        print(json.dumps(child_grow(*map(int, words))))
    elif part == "tape":
        print(json.dumps(child_tape(Path(words[0]), words[1])))
    elif part in ASKED:
        print(json.dumps(ASKED[part](int(words[0]), Path(words[1]), int(words[2]))))
    elif part == "trader_load":
        client_trader_load(int(words[0]), Path(words[1]))
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
