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
import gc
import hashlib
import importlib
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import trader as t

HERE = Path(__file__).resolve().parent
TICKER = "KXBENCH-26DEC31-T50"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `peer` names what `ratio` compares with (ours / theirs, or None)."""

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
                 "msg": {"market_ticker": TICKER, "market_id": "9c6f3f0e-7b52-4c1d-8a55-0d8f6f0c1a01",
                         "price_dollars": f"{price / 1e4:.4f}", "delta_fp": f"{change / 100:.2f}",
                         "side": side, "ts": "2026-11-22T10:00:00.1Z", "ts_ms": int(time.time() * 1000)}}
            )
        )
    return orjson.dumps(snapshot), frames


class Feed:
    """The real stream and book rooms without a socket: bytes go in where the socket hands them on."""

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
    rows = [Row(name, figures["ours"], "deltas/s", "orjson.loads", figures["ours"] / figures["floor"])]
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
    """Wants one contract at the bid of every change it sees: one create per tick."""

    name = "bench_taker"

    @dataclass(frozen=True)
    class Params:
        size_h: int = 100

    def __init__(self, params):
        self.p = params

    def decide(self, view):
        want = Want(slot="t", side=Side.YES, price_cc=view.bid_cc, count_h=self.p.size_h, take=True)
        return Decision(wants=(want,), reason=Reason.ACTED)
'''


class StubExchange:
    """Raw sockets on loopback that speak just enough to be traded with, and stamp two moments.

    A tick is stamped when its frame is handed to the kernel, its order when the first byte of the
    POST is read. Everything else is answered from a table.
    """

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks
        self.sent_s = 0.0
        self.latencies_us: list[float] = []
        self.orders = 0
        self.is_done = asyncio.Event()
        self._socket: asyncio.StreamWriter | None = None
        self._seq = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> int:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            heard_s = time.perf_counter()
            line, *rows = head.decode().split("\r\n")
            method, path, _ = line.split(" ")
            headers = {k.lower(): v for k, _, v in (row.partition(": ") for row in rows)}
            body = b""
            if "content-length" in headers:
                body = await reader.readexactly(int(headers["content-length"]))
            if headers.get("upgrade", "").lower() == "websocket":
                await self._upgrade(headers["sec-websocket-key"], reader, writer)
                return
            if method == "POST" and path.endswith("/portfolio/events/orders") and self.sent_s:
                self.latencies_us.append((heard_s - self.sent_s) * 1e6)
                self.orders += 1
            status, answer = self._answer(method, path.partition("?")[0], body)
            self._reply(writer, status, answer)

    def _reply(self, writer: asyncio.StreamWriter, status: int, answer: Any) -> None:
        text = orjson.dumps(answer)
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        writer.write(
            f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nDate: {date}\r\n"
            f"Content-Length: {len(text)}\r\n\r\n".encode() + text
        )

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        now = time.time()
        if method == "POST" and path.endswith("/portfolio/events/orders"):
            order = orjson.loads(body)
            return 201, {
                "order_id": f"o-{order['client_order_id']}", "client_order_id": order["client_order_id"],
                "fill_count": "0.00", "remaining_count": "0.00", "ts_ms": int(now * 1000),
            }
        if path.endswith("/order_groups/create"):
            return 201, {"order_group_id": "g-1", "subaccount": 0, "exchange_index": 0}
        as_of = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 5))
        close = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 86_400))
        opened = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 86_400))
        market = {
            "ticker": TICKER, "event_ticker": "KXBENCH-26DEC31", "market_type": "binary",
            "title": "Bench", "status": "active", "open_time": opened, "close_time": close,
            "yes_bid_dollars": "0.4900", "yes_ask_dollars": "0.5100", "yes_bid_size_fp": "50.00",
            "yes_ask_size_fp": "50.00", "last_price_dollars": "0.5000", "volume_24h_fp": "900.00",
            "result": "", "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0010"}],
            "exchange_index": 0,
        }
        table: dict[str, Any] = {
            "/exchange/status": {"exchange_active": True, "trading_active": True},
            "/exchange/user_data_timestamp": {"as_of_time": as_of},
            "/account/limits": {
                "usage_tier": "prestige", "read": {"refill_rate": 9000, "bucket_capacity": 9000},
                "write": {"refill_rate": 90000, "bucket_capacity": 90000}, "grants": [],
            },
            "/account/endpoint_costs": {"default_cost": 10, "endpoint_costs": []},
            "/portfolio/balance": {
                "balance": 1000000, "balance_dollars": "10000.0000", "portfolio_value": 0,
                "updated_ts": int(now), "balance_breakdown": [],
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
        short = path.removeprefix("/trade-api/v2")
        return (200, table[short]) if short in table else (
            404, {"error": {"code": "not_found", "message": "not found"}}
        )

    async def _upgrade(
        self, key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode() + guid).digest()).decode()  # noqa: S324
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        self._socket = writer
        sids = 0
        while True:
            try:
                first, second = await reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    size = int.from_bytes(await reader.readexactly(2))
                mask = await reader.readexactly(4)
                data = await reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
            if first & 0x0F == 0x9:
                writer.write(bytes([0x8A, len(payload)]) + payload)
            elif first & 0x0F == 0x1 and (command := orjson.loads(payload)).get("cmd") == "subscribe":
                for channel in command["params"]["channels"]:
                    sids += 1
                    self._frame({"type": "subscribed", "id": command["id"],
                                 "msg": {"channel": channel, "sid": sids}})
                    if channel == "orderbook_delta":
                        self._begin(sids)

    def _frame(self, obj: Any) -> None:
        assert self._socket is not None, "no socket to write to"
        data = orjson.dumps(obj)
        head = bytes([0x81, len(data)]) if len(data) < 126 else b"\x81\x7e" + len(data).to_bytes(2)
        self._socket.write(head + data)

    def _begin(self, sid: int) -> None:
        self._seq = 1
        levels = [[f"{p / 1e4:.4f}", "50.00"] for p in range(4000, 4500, 10)]
        self._frame({"type": "orderbook_snapshot", "sid": sid, "seq": 1,
                     "msg": {"market_ticker": TICKER, "market_id": "m", "yes_dollars_fp": levels,
                             "no_dollars_fp": levels}})
        task = asyncio.get_running_loop().create_task(self._tick(sid))
        self._tasks.add(task)

    async def _tick(self, sid: int) -> None:
        """Raise and lower the best bid, one change every 12 ms, after a warm-up."""
        await asyncio.sleep(6.0)
        for number in range(self.ticks):
            for sign in ("20.00", "-20.00"):
                self._seq += 1
                price = 4500 + 10 * (number % 97)
                if sign == "20.00":
                    self.sent_s = time.perf_counter()
                self._frame({"type": "orderbook_delta", "sid": sid, "seq": self._seq,
                             "msg": {"market_ticker": TICKER, "market_id": "m", "side": "yes",
                                     "price_dollars": f"{price / 1e4:.4f}", "delta_fp": sign,
                                     "ts_ms": int(time.time() * 1000)}})
                await asyncio.sleep(0.012)
                self.sent_s = 0.0
        self.is_done.set()


def write_key(folder: Path) -> tuple[Path, str]:
    """A fresh Ed25519 key file, and an id for it."""
    key = ed25519.Ed25519PrivateKey.generate()
    path = folder / "key.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path, "6d0b3f0e-7b52-4c1d-8a55-0d8f6f0c1a01"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_trader(folder: Path, extra: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """trader.py as a process of its own."""
    command = [sys.executable, str(HERE / "trader.py"), "--env", "sim", "--data-dir",
               str(folder / "data"), "--log-level", "WARNING", *extra]
    return subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def bench_order(*, short: bool) -> list[Row]:
    """Book change on the wire → order on the wire, with journal, risk gate and ledger on."""
    ticks = 150 if short else 1500
    stub, latencies = StubExchange(ticks), list[float]()

    async def run() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            port = await stub.serve()
            key_path, key_id = write_key(folder)
            (folder / "taker.py").write_text(STUB_STRATEGY)
            env = {
                "KALSHI_API_URL": f"http://127.0.0.1:{port}/trade-api/v2",
                "KALSHI_WS_URL": f"ws://127.0.0.1:{port}/trade-api/ws/v2",
                "KALSHI_API_KEY_ID": key_id, "KALSHI_KEY_FILE": str(key_path),
            }
            process = start_trader(
                folder,
                ["--port", str(free_port()), "--tickers", TICKER, "--evaluate-min-ms", "0",
                 "--strategy", f"{folder / 'taker.py'}:Taker", "--max-orders-per-minute", "1000",
                 "--max-notional-per-minute-dollars", "100000", "--max-order-dollars", "100",
                 "--max-market-loss-dollars", "1000", "--max-exposure-dollars", "10000",
                 "--price-collar-cents", "50"], env,
            )
            try:
                async with asyncio.timeout(60 + ticks * 0.05):
                    await stub.is_done.wait()
            finally:
                process.terminate()
                process.wait(20)
        latencies.extend(stub.latencies_us)

    asyncio.run(run())
    if len(latencies) < ticks // 10:
        return [Row("order", 0.0, f"failed: {len(latencies)} orders seen of {ticks} ticks")]
    ordered = sorted(latencies)
    floor_us = loopback_floor_us()
    p50, p99 = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return [
        Row("order", p50, f"µs tick → order, p50 of {len(ordered)}", "raw loopback", p50 / floor_us),
        Row("order", p99, "µs tick → order, p99", "raw loopback", p99 / floor_us),
    ]


def loopback_floor_us() -> float:
    """Half a round trip of 300 bytes between two asyncio protocols on loopback, twice: there and back."""

    async def run() -> float:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(4096):
                writer.write(data)

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        for _ in range(2000):
            begun = time.perf_counter()
            writer.write(b"x" * 300)
            await reader.readexactly(300)
            times.append((time.perf_counter() - begun) * 1e6)
        server.close()
        return statistics.median(times)

    return asyncio.run(run())


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
    return [Row("journal", soon, "µs per intent, synced within 100 ms", "synced each time", each / soon)]


# -- memory and start -------------------------------------------------------------------


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def bench_memory_10(*, short: bool) -> list[Row]:
    """The whole trader with 10 markets against a separate exchange, and its start."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exchange = subprocess.Popen(
            [sys.executable, str(HERE / "sim_exchange.py"), "--port", str(free_port()), "--markets",
             "12", "--key-type", "ed25519"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        try:
            assert exchange.stdout is not None, "asked for a pipe"
            address = json.loads(exchange.stdout.readline())
            env = {
                "KALSHI_API_URL": address["rest"], "KALSHI_WS_URL": address["ws"],
                "KALSHI_API_KEY_ID": address["key_id"],
                "KALSHI_KEY_FILE": address["private_key_path"],
            }
            port = free_port()
            begun = time.perf_counter()
            process = start_trader(folder, ["--port", str(port)], env)
            try:
                first_ms = wait_for_snapshot(port, begun)
                time.sleep(3 if short else 20)
                memory = rss_mb(process.pid)
            finally:
                process.terminate()
                process.wait(20)
        finally:
            exchange.terminate()
            exchange.wait(20)
    return [
        Row("memory_10", memory, "MB resident, whole trader, 10 markets"),
        Row("start", first_ms, "ms from the start of the process to the first snapshot"),
    ]


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


MEMORY_CHILD = """
import resource, sys
sys.path.insert(0, {here!r})
import orjson
import bench_trader as b
count = int(sys.argv[1])
tickers = [f"KXBENCH-26DEC31-T{{n}}" for n in range(count)]
feed = b.Feed(tickers)
feed.open()
def rss(): return b.rss_mb(b.os.getpid())
before = rss()
levels = [[f"{{p / 1e4:.4f}}", "50.00"] for p in range(3900, 4900, 10)]
for n, ticker in enumerate(tickers):
    feed.stream.take(orjson.dumps({{"type": "orderbook_snapshot", "sid": 1, "seq": n + 1,
        "msg": {{"market_ticker": ticker, "yes_dollars_fp": levels, "no_dollars_fp": levels}}}}))
assert feed.data.snapshots == count, feed.data.snapshots
print(rss(), (rss() - before) * 1e3 / count)
"""


def bench_memory_1000(*, short: bool) -> list[Row]:
    """Books of many markets at 100 levels a side, in a process of their own."""
    count = 100 if short else 1000
    out = subprocess.run(
        [sys.executable, "-c", MEMORY_CHILD.format(here=str(HERE)), str(count)], check=True,
        capture_output=True, text=True,
    ).stdout.split()
    return [
        Row("memory_1000", float(out[0]), f"MB resident, {count} books of 100 levels a side"),
        Row("memory_1000", float(out[1]), "KB per market"),
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
    ratio = f"   × {row.ratio:.2f} against {row.peer}" if row.ratio is not None else ""
    return f"{row.name:12} {value:>12} {row.unit}{ratio}"


def main() -> int:
    """Run the benches asked for, print table or JSON."""
    parser = argparse.ArgumentParser(description="Speed and memory of the trader.")
    parser.add_argument("--only", default="", help=f"comma list of {', '.join(BENCHES)}")
    parser.add_argument("--short", action="store_true", help="quick and rough: checks that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    names = [name for name in args.only.split(",") if name] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"error: no bench {unknown[0]!r}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in names:
        found = BENCHES[name](short=args.short)
        rows += found
        if not args.json:
            print("\n".join(map(show, found)), flush=True)
    if args.json:
        keys = ("name", "value", "unit", "peer", "ratio")
        print(json.dumps([{key: getattr(row, key) for key in keys} for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
