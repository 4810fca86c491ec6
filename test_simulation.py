"""Whole-house tests in virtual time: the real Coordinator against the simulated exchange.

Purpose
    Prove that money is safe under the faults of the network, the exchange, the disk, the clock and
    the process: nothing sent twice, nothing forgotten, every figure equal to the exchange's.

Key Responsibilities
    1. World: the real aiohttp at both ends over memory links, one virtual clock, death without
       `finally` between callbacks and inside them, restart on a copy of the disk.
    2. Oracle: invariants I1 to I34, judged from the exchange's own state, the bytes the trader
       writes, and a second reader of its journal file (table CHECKS).
    3. Directed faults P01 to P40, seeded mixes, equal traces, planted bugs, the large numbers.

Architecture Position
    Uses trader.py and sim_exchange.py; they do not know this file. The oracle uses none of the
    trader's code: own ledger, own limits, own reading of requests. It looks at the trader's claims
    (state, degraded reasons, books) only to hold them against what is so.

Design Principles
    - The seed is the bug report: one line repeats a failing run.
    - A run that finds nothing prints what it covered.

Run it
    pytest test_simulation.py
    python test_simulation.py --seeds 0..4999 --book seeds.jsonl
    python test_simulation.py --kills 5000        (or --real-kills, --intents, --days, --hashes,
                                                   --kill-times, --mutants, --fault P03)
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import ctypes
import gc
import hashlib
import importlib
import inspect
import itertools
import json
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

import sim_exchange as sim
import trader

EPOCH_S = 1_790_000_000.0               # 2026-09-21T13:33:20Z, a Monday in New York's summer
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
CAMPAIGN_SEEDS = 300                    # of the mix that pytest runs
CAMPAIGN_MINUTES = 10                   # each; longer ones are a command of their own
PIECE_SEEDS = 5                         # one test, one process of a command
HUNT_MINUTES = 5
DAYS_PACE = 20.0
FIREHOSE_PRICES = 2
EXPIRY_MARGIN_S = 15.0                  # I18: an unknown order is settled this long after its end
HEAL_LIMIT_S = 60.0                     # I20
PASS_S = 35.0                           # a pass of the reconciler comes each 30 s
FOREIGN_NEWS_S = 45.0                   # I6: by then fills of strangers are known, also in trouble
CREATE_PATH = "/trade-api/v2/portfolio/events/orders"


# ======================================================================================
# §T1 WORLD
# Purpose:   One exchange, one trader at a time, one clock that jumps.
# Principle: Only the connector and the clock differ from production.
# ======================================================================================
class Listener:
    """What the trader's own page server gets instead of a socket."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory
        self.sockets = [self]

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8005)

    def close(self) -> None:
        """Nothing is held."""


class Loop(sim.SimLoop):
    """The virtual loop, with a listener in memory for the trader's page, and no way outside."""

    listener: Listener | None = None
    on_outside: Callable[[str], None] = staticmethod(lambda what: None)

    async def create_server(self, factory: Any, *_: Any, **__: Any) -> Any:
        self.listener = Listener(factory)
        return self.listener

    async def getaddrinfo(self, host: Any, *_: Any, **__: Any) -> Any:
        self.on_outside(f"name look-up of {host}")
        raise OSError("simulated: no names here")

    async def create_connection(self, *_: Any, host: Any = None, **__: Any) -> Any:
        self.on_outside(f"connection to {host}")
        raise OSError("simulated: no network here")


class Connector(sim.MemoryConnector):
    """The seam of the trader, which notes who is called."""

    def __init__(self, world: World) -> None:
        super().__init__(world.net, world._runner.server, "exchange")
        self._hear = world.oracle.watchman.on_host

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        self._hear(str(req.url.host))
        return await super()._create_connection(req, traces, timeout)


class MortalDb:
    """A database whose process can die before or after any statement."""

    on_step: Callable[[str, bool], None] = staticmethod(lambda kind, is_after: None)
    on_refused: Callable[[str], None] = staticmethod(lambda why: None)

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def execute(self, *given: Any) -> sqlite3.Cursor:
        MortalDb.on_step("execute", False)
        try:
            cursor = self._database.execute(*given)
        except sqlite3.OperationalError as error:
            MortalDb.on_refused(str(error))
            raise
        MortalDb.on_step("execute", True)
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class MortalSqlite:
    """The module sqlite3 as the trader finds it, with databases that die with their process."""

    @staticmethod
    def connect(*given: Any, **named: Any) -> Any:
        return MortalDb(sqlite3.connect(*given, **named))

    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)


trader.sqlite3 = MortalSqlite()         # type: ignore[assignment]


@dataclass
class Fuse:
    """Where the process dies: at the `left`-th step of a kind, before or after it."""

    kind: str
    left: int
    is_after: bool


class Hand:
    """The exchange's controls, each carried out inside the loop as the exchange's own act."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Callable[..., Any]:
        act = getattr(self._world.exchange.control, name)

        def call(*given: Any, **named: Any) -> Any:
            async def inside() -> Any:
                return act(*given, **named)

            loop = self._world.loop
            return loop.run_until_complete(
                loop.create_task(inside(), context=sim.context_of("exchange")))

        return call


DEFAULTS = {
    "markets": "2", "min_close_s": "0", "min_volume_24h": "0", "evaluate_min_ms": "1000",
}


@dataclass
class Life:
    """One life of the trader: from start to stop or kill."""

    name: str
    coordinator: Any
    task: asyncio.Task[int]
    home: Path
    exit_code: int | None = None


class World:
    """Everything of one run. Use as a context manager; `trader` is the house alive now."""

    def __init__(self, seed: int, *, pace: float = 4.0, switches: dict[str, str] | None = None,
                 skew_s: float = 0.0, maker_fees: bool = True, strategies: list[Any] | None = None,
                 latency: tuple[float, float] = (0.005, 0.05), tier: str = "basic",
                 **texts: str) -> None:
        gc.disable()                    # the collector's moment must not matter, and it costs time
        self.seed, self.skew_s, self.strategies, self.tier = seed, skew_s, strategies, tier
        self.rng = random.Random(f"world-{seed}")
        self.loop = Loop()
        asyncio.set_event_loop(self.loop)
        self.folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=SCRATCH))
        self.net = sim.Net(self.loop, random.Random(f"net-{seed}"), self._on_write, latency)
        settings = sim.SimSettings(
            markets=int(texts.get("markets", DEFAULTS["markets"])), seed=seed, tier=tier,
            switches=switches or {})
        self.exchange = sim.SimExchange(settings, sim.LoopTime(self.loop, EPOCH_S))
        driver: Any = self.exchange.driver
        driver._pace = pace             # fewer events a second: an hour must cost seconds
        if maker_fees:                  # else the fees of most fills would be nothing
            for event in self.exchange.engine.events:
                self.exchange.engine.set_event_fees(event, "quadratic_with_maker_fees", None)
        self.control, self.account = Hand(self), self.exchange.account
        self.address = self.exchange.address("sim.invalid")
        self.texts = {**DEFAULTS, **texts, "data_dir": str(self.folder / "life-1")}
        self.lives: list[Life] = []
        self.present = ""               # the process that should be alone
        self.is_disk_full = self.is_refusing = False
        self.group_rng: random.Random | None = None  # a half of the old groups cannot be removed
        MortalDb.on_refused = self._on_refused
        self.fuse: Fuse | None = None
        self.digest_at_death = ""
        self.oracle = Oracle(self)
        self.loop.on_outside = self.oracle.watchman.on_outside
        self.loop.set_exception_handler(self.oracle.watchman.on_loop_error)
        self._open_exchange()

    def _open_exchange(self) -> None:
        context = sim.context_of("exchange")
        self._runner = web.AppRunner(self.exchange.build_app(), access_log=None)
        self.loop.run_until_complete(
            self.loop.create_task(self._runner.setup(), context=context))
        self.loop.call_soon(self.exchange.start_drivers, context=context)
        self.loop.create_task(self.oracle.watch())

    def _on_refused(self, why: str) -> None:
        self.is_refusing = self.is_refusing or (self.is_disk_full and "full" in why)

    def _on_write(self, end: Any, data: bytes) -> str | None:
        if not end.process.startswith(("trader", "intruder")):
            return None
        if self.fuse is not None and self._burns("write", is_after=False):
            return "black_hole"
        self.oracle.on_bytes(end, data)
        if self.fuse is not None and self.fuse.left == 0 and self.fuse.is_after:
            end._send(bytes(data))      # the kernel has the bytes; their writer dies now
            self._burns("write", is_after=True)
            return "black_hole"
        return None

    def _burns(self, kind: str, *, is_after: bool) -> bool:
        """Count a step of the living process; True when it dies at this one."""
        fuse = self.fuse
        if fuse is None or fuse.kind != kind or sim.PROCESS.get() != self.lives[-1].name:
            return False
        if not is_after:
            fuse.left -= 1
        if fuse.left > 0 or fuse.is_after != is_after:
            return False
        self.fuse = None
        self.oracle.sometimes[f"died at {kind}"] += 1
        self.kill()
        return True

    def light(self, kind: str, left: int, is_after: bool) -> None:
        """Let the process die at a step: `write` of a transport, or `execute` of the journal."""
        self.fuse = Fuse(kind, left, is_after)
        MortalDb.on_step = lambda at, after: self._burns(at, is_after=after) and None

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None and self.lives and self.lives[-1].exit_code is None:
                self.stop()
        finally:
            self._tidy()

    def _tidy(self) -> None:
        async def end() -> None:
            mine = asyncio.current_task()
            for task in asyncio.all_tasks():
                if task is not mine and self.loop._owner.get(task) not in self.loop._dead:
                    task.cancel()
            await self.exchange.stop()
            await self._runner.cleanup()

        self.loop.run_until_complete(end())
        MortalDb.on_step = MortalDb.on_refused = staticmethod(lambda *_: None)
        self.oracle.close()
        self.loop.close()
        asyncio.set_event_loop(None)
        shutil.rmtree(self.folder, ignore_errors=True)
        gc.enable()

    # -- time ---------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Virtual seconds since the world began."""
        return self.loop.time()

    def run(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        self.loop.run_for(seconds)

    def until(self, condition: Callable[[], Any], limit_s: float, what: str = "") -> float:
        """Let time pass until `condition`; answers the seconds it took, fails after `limit_s`."""
        begun_s = self.now_s
        while not condition():
            if self.now_s - begun_s > limit_s:
                what = what or repr(condition)
                raise AssertionError(f"not within {limit_s:g} s: {what}\n{self.story()}")
            self.run(0.05)
        return self.now_s - begun_s

    # -- the trader ---------------------------------------------------------------------

    @property
    def trader(self) -> Any:
        """The house of the life that runs now: every service of the trader."""
        return self.lives[-1].coordinator.house

    @property
    def has_lasting_ids(self) -> bool:
        """Whether a client id is burnt for ever, also once its order has ended."""
        return bool(self.exchange.switches.rule["dedupe"] != "open_orders_only")

    @property
    def is_ready(self) -> bool:
        """READY or ACTING, with no degraded reason."""
        return self.trader.machine.state.value in ("ready", "acting") and not (
            self.trader.container.now.degraded)

    def start(self, *, wait: bool = True) -> Life:
        """Begin a life of the trader on the present folder; with `wait`, until it is ready."""
        name = self.present = f"trader-{len(self.lives) + 1}"
        config = trader.build_config(self.texts)
        box: list[Any] = []
        if self.lives and self.group_rng is not None and self.group_rng.random() < 0.5:
            self.control.reject_next(20, 503, match="delete_group")
        task = self.loop.create_task(self._live(name, config, box), context=sim.context_of(name))
        while not box and not task.done():
            self.run(0.01)
        if not box:
            task.result()               # what kept it from beginning
        life = Life(name, box[0] if box else None, task, config.home)
        self.lives.append(life)
        self.oracle.on_start(life)
        if wait:
            self.until(lambda: self.is_ready, 60.0, "ready after the start")
        return life

    async def _live(self, name: str, config: Any, box: list[Any]) -> int:
        """What the command `run` does, on this clock and these links."""
        rng = random.Random(f"{name}-{self.seed}")
        clock = trader.Clock(monotonic=self.loop.time, epoch_s=EPOCH_S + self.now_s + self.skew_s,
                             rng=rng, token_hex=lambda size: rng.randbytes(size).hex())
        folder = trader.DataDir(config.home)
        folder.make()
        folder.take_lock({})
        if name.startswith("trader"):
            self.locked = folder
        async with trader.make_session(Connector(self)) as session:
            coordinator = trader.Coordinator(
                config=config, clock=clock, data_dir=folder, venue=self._venue(),
                facts=self._facts(clock), strategies=self._strategies(config), session=session,
                static={}, is_virtual=True)
            box.append(coordinator)
            code: int = await coordinator.run()
            return code

    def _strategies(self, config: Any) -> list[Any]:
        if self.strategies is not None:
            return self.strategies
        return list(trader.load_strategies(
            config.strategy, config.strategy_params, config.policy, allow_experimental=False,
            is_production=False))

    def _venue(self) -> Any:
        signer = trader.load_signer(
            self.address.private_key_pem.encode(), self.address.key_id)
        return trader.Venue(api_url=self.address.rest, ws_url=self.address.ws, signer=signer,
                            account_tag=trader.tag_of(self.address.key_id))

    @staticmethod
    def _facts(clock: Any) -> Any:
        return trader.StartFacts(
            run_id=clock.token_hex(5), file_sha256="0" * 64, config_sha256="0" * 64,
            started_at_ms=clock.now_ms(), origins={})

    def intrude(self) -> bool:
        """A second copy is started beside the living one; True when it was sent away."""
        name, box = f"intruder-{self.now_s:.3f}", []
        config = trader.build_config(self.texts)
        task = self.loop.create_task(self._live(name, config, box), context=sim.context_of(name))
        self.run(3.0)
        if not task.done():
            self.net.kill(name)
            return False
        return isinstance(task.exception(), trader.LockHeldError)

    def step_wall(self, seconds: float) -> None:
        """The wall clock of the trader's machine is set; intervals must not notice."""
        self.trader.clock._epoch_s += seconds
        self.skew_s += seconds
        self.oracle.watchman.stepped_s = self.now_s

    def fill_disk(self, is_full: bool = True) -> None:
        """No page more for the journal, or free again."""
        database = self.trader.journal._db
        if database is None:
            return
        pages = database.execute("PRAGMA page_count").fetchone()[0] if is_full else 1073741823
        database.execute(f"PRAGMA max_page_count={pages}")
        self.is_disk_full, self.is_refusing = is_full, False

    def stop(self) -> int:
        """End the trader as SIGTERM does; answers its exit code."""
        life = self.lives[-1]
        life.coordinator.stop("test")
        limit_s = self.now_s + 30.0
        while not life.task.done():
            assert self.now_s < limit_s, f"no end within 30 s\n{self.story()}"
            self.run(0.05)
        life.exit_code = life.task.result()
        self.locked.release_lock()      # the process ends
        self.oracle.on_stop(life)
        return life.exit_code

    def kill(self, damage: Callable[[Path], None] | None = None) -> Path:
        """kill -9; the folder is copied at that instant, spoiled by `damage`, and used next."""
        life = self.lives[-1]
        self.fuse, self.is_disk_full, self.is_refusing = None, False, False
        self.digest_at_death = life.coordinator.house.execution.digest()
        self.net.kill(life.name)
        self.oracle.on_kill(life)
        fresh = self.folder / f"life-{len(self.lives) + 1}"
        shutil.copytree(Path(self.texts["data_dir"]), fresh)
        for shared in fresh.rglob("*-shm"):
            shared.unlink()             # a dead machine's shared memory does not survive
        self.locked.release_lock()
        self.texts["data_dir"] = str(fresh)
        if damage is not None:
            damage(fresh / "sim")
        life.exit_code = -9
        return fresh / "sim"

    def restart(self, damage: Callable[[Path], None] | None = None, *, wait: bool = True) -> Life:
        """kill -9 and start again at once; without damage the replay gives the same state."""
        self.kill(damage)
        before, life = self.digest_at_death, self.start(wait=False)
        if damage is None:
            self.prove_replay(before)
        if wait:
            self.until(lambda: self.is_ready, 60.0, "ready after the start")
        return life

    def prove_replay(self, before: str | None = None) -> None:
        """I15 I16: the state of before the death, from an unbroken chain of facts."""
        house, limit_s = self.trader, self.now_s + 5.0
        while house.machine.state.value in ("startup", "initializing") and self.now_s < limit_s:
            self.run(0.001)
        if house.machine.state.value == "error":
            return                      # a full disk or a damaged file: no replay to compare
        if before is not None and house.execution.digest() != before:
            self.oracle.blame("I15", "the replay gives another state")
        if not house.journal.verify_chain():
            self.oracle.blame("I16", "the chain of facts is broken")

    # -- what tests ask -----------------------------------------------------------------

    def own_open(self) -> list[Any]:
        """Resting orders at the exchange with our prefix."""
        return [order for order in self.account.open_orders if is_own(order.client_order_id)]

    def strangers(self) -> list[str]:
        """Of those, the ids of orders that an earlier life of the trader made."""
        run = f"-{self.trader.facts.run_id}-"
        return [order.client_order_id for order in self.own_open()
                if run not in order.client_order_id]

    def orders(self, status: str = "") -> list[Any]:
        """Orders the trader knows, of one status if named."""
        return [order for order in self.trader.execution.store.orders.values()
                if not order.is_foreign and status in ("", order.status.value)]

    def requests(self, operation: str, since_s: float = 0.0) -> list[Any]:
        """Requests of one kind that the exchange recorded since then."""
        since_us = (EPOCH_S + since_s) * 1e6
        return [row for row in self.account.requests
                if row.operation == operation and row.at_us >= since_us]

    def degraded(self) -> set[str]:
        """Degraded reasons in force."""
        return {row.reason.value for row in self.trader.container.now.degraded}

    def statuses(self, kind: str = "order") -> Counter[str]:
        """How often each status was journaled over all lives."""
        return self.oracle.statuses

    def calm(self) -> None:
        """End all faults, wait for rest, and hold everything against the exchange (I2 I20)."""
        self.oracle.calm()

    def calm_with(self, allowed: tuple[str, ...]) -> None:
        """As calm(), with degraded reasons that stay."""
        self.oracle.calm(allowed)

    def last_strategy(self, key: str) -> str:
        """The strategy whose wish an order was."""
        self.oracle.read_journal()
        return str(self.oracle.intents[key]["strategy"])

    def story(self) -> str:
        """What happened last, for a failing run."""
        now = self.trader.container.now if self.lives and self.lives[-1].coordinator else None
        rows = [f"{(row.at_us / 1e6 - EPOCH_S):.2f} {row.operation} {row.status} "
                f"{row.client_order_id}" for row in self.account.requests[-25:]]
        orders = [f"{o.client_order_id} {o.status} {o.pending} why={o.why}"
                  for o in (self.trader.execution.store.live() if now else ())]
        head = f"seed {self.seed} t={self.now_s:.2f}"
        if now is not None:
            head += f" state={now.state} degraded={self.degraded()} halt={now.halt}"
        return "\n".join([head, *rows, "live:", *orders, *self.oracle.notes[-10:]])


def is_own(client_order_id: str) -> bool:
    """Whether an id carries the trader's prefix."""
    return client_order_id.startswith("kt-sim-")


# ======================================================================================
# §T2 ORACLE
# Purpose:   Judge every event from the outside.
# Principle: Shares no code with the trader: own ledger, own limits, own reading of the wire.
# ======================================================================================
@dataclass(frozen=True)
class Violation:
    """One broken invariant."""

    invariant: str
    at_s: float
    text: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.at_s:.3f} s: {self.text}"


LATE_S = 17.0                           # a create this late may have been given up (1.2, point 3)
RISKY_REASONS = ("orderbook", "reconcile", "clock", "loop", "trading", "journal", "task", "pause")
FINAL = ("executed", "canceled", "rejected", "never_accepted")


class RequestLog(deque[Any]):
    """The exchange's request log, which tells the oracle of each row."""

    def __init__(self, hear: Callable[[Any], None]) -> None:
        super().__init__(maxlen=100_000)
        self._hear = hear

    def append(self, row: Any) -> None:
        super().append(row)
        self._hear(row)


class JournalEye:
    """A second, read-only reader of the trader's journal files; reads only what is new."""

    def __init__(self, path: Path, seq: int) -> None:
        self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self._intents = path.with_name(path.name + "-intents")
        self.seq = seq

    def news(self) -> list[tuple[int, str, str, dict[str, Any]]]:
        """Rows (at_ms, kind, key, body) since the last look."""
        rows = self._db.execute(
            "SELECT seq, at_ms, kind, key, body FROM facts WHERE seq > ? ORDER BY seq",
            (self.seq,)).fetchall()
        if rows:
            self.seq = rows[-1][0]
        found = [(at_ms, kind, key, json.loads(body)) for _, at_ms, kind, key, body in rows]
        return found + list(self._only_written())

    def _only_written(self) -> Iterator[tuple[int, str, str, dict[str, Any]]]:
        """Intents that stand in their own file and are not in the database yet."""
        data, at = self._intents.read_bytes() if self._intents.exists() else b"", 0
        while size := int.from_bytes(data[at + 4 : at + 8], "little"):
            text = data[at + 8 : at + 8 + size]
            if zlib.crc32(text) != int.from_bytes(data[at : at + 4], "little"):
                return
            chain, seq, at_ms, key, body = json.loads(text)
            at += 8 + size
            if at == 8 + size and not self._db.execute(
                    "SELECT 1 FROM facts WHERE seq = ? AND hex(chain) = ?",
                    (seq - 1, chain.upper())).fetchone():
                return
            if seq == self.seq + 1:
                self.seq = seq
                yield at_ms, "intent", key, body

    def close(self) -> None:
        self._db.close()


class Oracle:
    """Checks the invariants; `violations` stays empty in a good run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[Violation] = []
        self.notes: list[str] = []
        self.sometimes: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.sent_creates: dict[str, float] = {}
        self.raised_s: dict[str, float] = {}            # order id: when an amend took more risk
        self.intents: dict[str, dict[str, Any]] = {}
        self.amends: Counter[str] = Counter()           # journaled, less sent
        self.last_status: dict[str, str] = {}
        self.late: set[str] = set()
        self.fills: Counter[str] = Counter()
        self.foreign: set[str] = set()
        self.is_killed = False          # the operator's latch: nothing may open any more
        self.has_faults = False         # some fault is on: time limits of calm weather wait
        self.expects_429 = False
        self.trouble_ended_s = 0.0
        self._eye: JournalEye | None = None
        self._seen_seq = 0
        self._half: dict[Any, bytes] = {}
        self._books: dict[str, deque[tuple[float, int]]] = defaultdict(lambda: deque(maxlen=400))
        self._closed_s: dict[str, float] = {}
        self._pass_s: float | None = None
        self.allowed: frozenset[str] = frozenset()
        self.trace = hashlib.sha256()
        self.accepted_s: dict[str, float] = {}
        self._unknown_ms: dict[str, int] = {}
        self.unknown_s: dict[str, list[float]] = {"exists": [], "never came": []}
        self.doubled: set[str] = set()  # creates that were told 409: exists already
        self.pieces: Counter[str] = Counter()
        self.watchman = Watchman(self)
        self._listen()

    def _listen(self) -> None:
        exchange = self.world.exchange
        exchange.request_log = RequestLog(self.on_request)
        self._hub = exchange.engine.sink
        exchange.engine.sink = self     # what is published there, passes here first
        for ticker in exchange.engine.markets:
            self._keep_book(ticker)

    def close(self) -> None:
        """Let go of the journal and of the logs."""
        self.watchman.close()
        self.close_eye()

    def close_eye(self) -> None:
        """Let go of the journal."""
        if self._eye is not None:
            self._eye.close()
        self._eye = None

    def blame(self, invariant: str, text: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(invariant, self.world.now_s, text))

    def verdict(self) -> None:
        """Fail with all violations, if there are any."""
        if self.violations:
            rows = "\n".join(str(row) for row in self.violations[:12])
            raise AssertionError(f"{len(self.violations)} violations\n{rows}\n{self.world.story()}")

    # -- lives --------------------------------------------------------------------------

    def on_start(self, life: Life) -> None:
        """A new life: its journal is the copy of the last one's, or new."""
        self._pass_s = None
        self.watchman.on_start(life)

    def on_kill(self, life: Life) -> None:
        """The last words of a dead process."""
        self.read_journal()
        self.watchman.on_end(life, is_killed=True)
        if any(self.last_status.get(order.client_order_id, "sent") == "sent"
               for order in self.world.own_open()):
            self.sometimes["crash between accept and ack"] += 1
        self.close_eye()
        self._half.clear()

    def on_stop(self, life: Life) -> None:
        """I21: exit code 0 means no own live order."""
        left = self.world.own_open()
        if life.exit_code == 0 and left and life.coordinator.house.config.on_stop == "cancel":
            self.blame("I21", f"exit 0 with {len(left)} own orders resting")
        self.watchman.on_end(life, is_killed=False)
        self.close_eye()

    # -- the journal --------------------------------------------------------------------

    def read_journal(self) -> None:
        """Take in the new rows of the trader's journal."""
        if self._eye is None:
            path = self.world.lives[-1].home / "journal.sqlite3" if self.world.lives else None
            if path is None or not path.exists():
                return
            self._eye = JournalEye(path, self._seen_seq)
        try:
            rows = self._eye.news()
        except sqlite3.Error:           # not made yet
            return
        self._seen_seq = self._eye.seq
        for row in rows:
            self._take_row(*row)

    def _take_row(self, at_ms: int, kind: str, key: str, body: dict[str, Any]) -> None:
        if kind == "intent" and body["kind"] == "create":
            self.intents[key] = body
        elif kind == "intent":
            self.amends[body["order_id"]] += 1
        elif kind == "late_accept":
            self.late.add(key)
            late_s = self.accepted_s.get(key, 0.0) - self.sent_creates.get(key, 0.0)
            if late_s < LATE_S:
                self.blame("I18", f"{key} was given up, and lived")
            self.sometimes["late accept"] += 1
        elif kind == "adjust" and key != "baseline":
            self.blame("I2", f"a difference was adopted instead of explained: {key}")
        elif kind == "fill":
            self._take_fill(key, body)
        elif kind == "order" and not body["is_foreign"]:
            self._take_order(key, body)
            self._time_unknown(key, at_ms, body["status"])

    def _time_unknown(self, key: str, at_ms: int, status: str) -> None:
        """How long an order's fate is unknown, by whether the exchange has it."""
        if status == "unknown":
            self._unknown_ms.setdefault(key, at_ms)
        elif key in self._unknown_ms:
            took_s = (at_ms - self._unknown_ms.pop(key)) / 1000
            exists = "exists" if key in self.accepted_s else "never came"
            self.unknown_s[exists].append(took_s)

    def _take_fill(self, key: str, body: dict[str, Any]) -> None:
        self.fills[key] += 1
        if body["is_foreign"]:
            self.sometimes["foreign fill"] += 1
            return
        mine = str(body["client_order_id"])
        if self.last_status.get(mine, "sent") in ("sent", "unknown"):
            self.sometimes["fill before ack"] += 1
        self.pieces[mine] += 1
        if self.pieces[mine] == 3:
            self.sometimes["partial fill in three pieces"] += 1

    def _take_order(self, key: str, body: dict[str, Any]) -> None:
        before, status = self.last_status.get(key), body["status"]
        self.last_status[key] = status
        if before == status:
            return
        self.statuses[status] += 1
        self.sometimes[f"{before} -> {status}"] += 1
        if key in self.doubled and status in ("resting", "executed", "canceled"):
            self.doubled.discard(key)
            self.sometimes["409 adopted"] += 1
        if before in FINAL and key not in self.late:
            self.blame("I17", f"{key} moved from {before} to {status}")

    # -- what the trader writes ---------------------------------------------------------

    def on_bytes(self, end: Any, data: bytes) -> None:
        """Look at each request as its bytes leave the trader."""
        self.watchman.on_bytes(end, data)
        if end in self._half:
            data = self._half.pop(end) + data
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"POST /trade-api/v2/portfolio/events/orders"):
            return
        if not body:
            self._half[end] = data
            return
        self._on_risky(head.split(b" ", 2)[1].decode(), json.loads(body))

    def _on_risky(self, path: str, body: dict[str, Any]) -> None:
        """A create, amend or decrease leaves now."""
        if path.endswith("/decrease"):
            return
        self._check_gates(path, str(body.get("ticker", "")))
        if path == CREATE_PATH:
            self._check_create(body)
            return
        self.read_journal()
        order_id = path.split("/")[-2]
        order = self.world.exchange.engine.orders.get(order_id)
        if order is not None and self._raises(order, body):
            self.raised_s[order_id] = self.world.now_s
        self.amends[order_id] -= 1
        if self.amends[order_id] < 0:
            self.blame("I5", f"{path} left without an intent in the journal")

    @staticmethod
    def _raises(order: Any, body: dict[str, Any]) -> bool:
        """Whether an amend asks for a dearer or a larger order than there is."""
        price_cc, count_h = (round(float(body[name]) * unit)
                             for name, unit in (("price", 10_000), ("count", 100)))
        dearer_cc = price_cc - order.price_cc if order.is_bid else order.price_cc - price_cc
        return dearer_cc > 0 or count_h > order.filled_h + order.remaining_h

    def _check_gates(self, path: str, ticker: str) -> None:
        house = self.world.trader
        now = house.container.now
        if self.is_killed or now.halt is not None:
            self.blame("I8", f"{path} left while halted")
        if now.state.value not in ("ready", "acting"):
            self.blame("I7", f"{path} left in state {now.state}")
        for row in now.degraded:
            if row.reason.value in RISKY_REASONS and (not row.markets or ticker in row.markets):
                self.blame("I7", f"{path} left while degraded: {row.reason}")
        book = house.market_data.books.get(ticker)
        if book is None or book.proof.value != "proven":
            self.blame("I9", f"{path} left without a proven book of {ticker}")

    def _check_create(self, body: dict[str, Any]) -> None:
        key, ticker = body["client_order_id"], body["ticker"]
        if key in self.sent_creates:
            self.blame("I3", f"{key} was sent twice")
        self.sent_creates[key] = self.world.now_s
        self.read_journal()
        intent = self.intents.get(key)
        if intent is None:
            self.blame("I5", f"{key} left without an intent in the journal")
        self._check_form(body)
        market = self.world.exchange.engine.markets[ticker]
        patience_s = 35.0 if self.has_faults else 2.0  # the word of it may be lost
        if market.status != "active" and self._closed_for_s(ticker) > patience_s:
            self.blame("I25", f"{key} sent to {ticker}, which is {market.status}")
        if intent is not None:
            self._check_slot(key, intent)

    def _closed_for_s(self, ticker: str) -> float:
        since_s = self._closed_s.get(ticker)
        return 0.0 if since_s is None else self.world.now_s - since_s

    def _check_form(self, body: dict[str, Any]) -> None:
        """I10 and I11: self-trade prevention, expiry within the dead-man bound, pause flag."""
        key = body["client_order_id"]
        if not body.get("self_trade_prevention_type"):
            self.blame("I10", f"{key} has no self-trade prevention")
        if body["time_in_force"] != "good_till_canceled":
            return
        left_s = body.get("expiration_time", 1e12) - EPOCH_S - self.world.now_s
        ttl_s = self.world.trader.config.order_ttl_s + 6.0
        if left_s > ttl_s:
            self.blame("I11", f"{key} may rest for {left_s:.0f} s")
        if not body.get("cancel_order_on_pause"):
            self.blame("I11", f"{key} survives a pause")
        if not body.get("order_group_id"):
            self.blame("I11", f"{key} is in no order group")

    def _check_slot(self, key: str, intent: dict[str, Any]) -> None:
        """I4: no second order for a slot that has a live one at the exchange."""
        mine = (intent["strategy"], intent["ticker"], intent["slot"])
        for order in self.world.own_open():
            other = self.intents.get(order.client_order_id)
            if other is None or order.client_order_id in self.late:
                continue
            if (other["strategy"], other["ticker"], other["slot"]) == mine and (
                    self.last_status.get(order.client_order_id) not in FINAL):
                self.blame("I4", f"{key} sent beside {order.client_order_id}")

    # -- what the exchange sees ---------------------------------------------------------

    def publish(self, notes: list[Any]) -> None:
        """Every event of the engine passes here on its way to the sockets."""
        self._hub.publish(notes)
        if self.world.account.imbalance_ud:
            self.blame("I1", f"money is not conserved: {self.world.account.imbalance_ud} ud")
        tickers = {note.market.ticker for note in notes if isinstance(note, sim.BookNote)}
        for ticker in tickers:
            self._keep_book(ticker)
        mine = [note for note in notes if isinstance(note, sim.OrderNote)]
        for note in mine:
            self.accepted_s.setdefault(note.order.client_order_id, self.world.now_s)
        if mine or any(isinstance(note, sim.FillNote) for note in notes):
            self._check_orders()
        if any(isinstance(note, sim.LifecycleNote) for note in notes):
            self._keep_closed()

    def _keep_closed(self) -> None:
        for ticker, market in self.world.exchange.engine.markets.items():
            if market.status == "active":
                self._closed_s.pop(ticker, None)
            else:
                self._closed_s.setdefault(ticker, self.world.now_s)

    def _keep_book(self, ticker: str) -> None:
        levels = exchange_levels(self.world.exchange.engine.markets[ticker])
        self._books[ticker].append((self.world.now_s, hash(levels)))

    def _check_orders(self) -> None:
        """I4 I6 I10 over the orders that rest at the exchange."""
        slots: Counter[tuple[str, str, str]] = Counter()
        best: dict[tuple[str, bool], int] = {}
        reach: Counter[tuple[str, bool]] = Counter()
        mine = self._in_time()
        for order in mine:
            key = order.client_order_id
            ticker = order.market.ticker
            intent = self.intents.get(key)
            if intent is not None and key not in self.late and (
                    self.last_status.get(key) not in FINAL):
                slots[intent["strategy"], ticker, intent["slot"]] += 1
            side = (ticker, order.is_bid)
            edge = max if order.is_bid else min
            best[side] = edge(best.get(side, order.price_cc), order.price_cc)
            reach[side] += order.remaining_h
        for slot, count in slots.items():
            if count > 1:
                self.blame("I4", f"{count} live orders in slot {slot}")
        self._check_limits(mine, best, reach)

    def _in_time(self) -> list[Any]:
        """Own resting orders, without those that came when they had rightly been given up."""
        now_s, mine = self.world.now_s, []
        for order in self.world.own_open():
            key = order.client_order_id
            sent_s = self.sent_creates.get(key, now_s)
            if self.accepted_s.setdefault(key, now_s) - sent_s < LATE_S:
                mine.append(order)
        return mine

    def _check_limits(self, mine: list[Any], best: dict[tuple[str, bool], int],
                      reach: Counter[tuple[str, bool]]) -> None:
        config = self.world.trader.config
        positions = self.world.account.positions
        for (ticker, is_bid), open_h in reach.items():
            held_h = positions.get(ticker, 0)
            far_h = held_h + open_h if is_bid else open_h - held_h
            if far_h > config.max_position_h and (
                    far_h > config.max_position_h + self._foreign_h(mine, ticker, is_bid)):
                self.blame("I6", f"{ticker} may reach {far_h} h")
            if is_bid and (ticker, False) in best and best[ticker, True] >= best[ticker, False]:
                self.blame("I10", f"own orders cross in {ticker}")
        if len(mine) > config.max_orders:
            self.blame("I6", f"{len(mine)} orders rest")
        for ticker in {ticker for ticker, _ in reach}:
            loss_ud = self._worst_loss_ud(mine, ticker)
            if loss_ud > config.max_market_loss_ud and (
                    loss_ud > self._worst_loss_ud([], ticker)  # else what is held loses it alone
                    and not self._foreign_h(mine, ticker, None)):
                self.blame("I6", f"{ticker} may lose {loss_ud / 1e6:.2f} dollars")

    def _foreign_h(self, mine: list[Any], ticker: str, is_bid: bool | None) -> int:
        """What strangers traded that our newest order there could not know, in one direction."""
        if not self.foreign:
            return 0
        sent_s = [self.raised_s.get(order.order_id) or self.sent_creates.get(
            order.client_order_id, 0.0) for order in mine
            if order.market.ticker == ticker and is_bid in (None, order.is_bid)]
        since_us = (EPOCH_S + max(sent_s) - FOREIGN_NEWS_S) * 1e6
        return sum(fill.count_h for fill in self.world.account.fills
                   if fill.ticker == ticker and is_bid in (None, fill.is_bid)
                   and fill.at_us >= since_us and not is_own(fill.client_order_id))

    def _worst_loss_ud(self, mine: list[Any], ticker: str) -> int:
        """Worst outcome of a market: cost of what is held, plus every losing order filled."""
        state = self.world.account.position_states.get(ticker)
        held_h, cost_ud = (state.position_h, state.cost_ud) if state is not None else (0, 0)
        worst_ud = 0
        for wins_yes in (True, False):
            paid_ud = abs(held_h) * 10_000 if (held_h > 0) == wins_yes else 0
            loss_ud = cost_ud - paid_ud
            for order in mine:
                if order.market.ticker == ticker and order.is_bid != wins_yes:
                    leg_cc = order.price_cc if order.is_bid else 10_000 - order.price_cc
                    loss_ud += order.remaining_h * leg_cc
            worst_ud = max(worst_ud, loss_ud)
        return worst_ud

    def on_request(self, row: Any) -> None:
        """Each request the exchange has dealt with."""
        self.trace.update(
            f"{row.at_us} {row.method} {row.path} {row.status} {row.client_order_id}".encode())
        self.trace.update(row.body)
        self._note_answer(row)
        if row.status == 429 and not self.expects_429 and not self.has_faults:
            self.blame("I12", f"429 for {row.path}")
        if row.method == "DELETE" or row.path.endswith(("/amend", "/decrease")):
            named = [order_id for order_id in self.foreign
                     if order_id in row.path or order_id.encode() in row.body]
            if named:
                self.blame("I26", f"{row.method} {row.path} touches a foreign order")
        if row.path.startswith("/trade-api/v2/portfolio/positions"):
            self._check_pass()
        if row.operation == "status":
            self.watchman.on_poll()
        if row.status == 401:
            self.watchman.refused_s = self.world.now_s

    def _note_answer(self, row: Any) -> None:
        """Rare situations that only the exchange's answers show."""
        key = row.client_order_id
        if row.operation == "create" and row.status == 201:
            self.accepted_s.setdefault(key, self.world.now_s)
        if row.operation == "create" and row.status == 409 and key in self.accepted_s:
            self.doubled.add(key)
        if row.operation == "batch_create":
            self.blame("I5", "a batch of creates left; P12 knows none")
        if row.operation == "cancel" and row.status == 404:
            order = self.world.exchange.engine.orders.get(row.path.split("/")[-1].split("?")[0])
            if order is not None and order.status == "executed":
                self.sometimes["cancel after fill"] += 1

    def _check_pass(self) -> None:
        """I19: positions are read at least every 33 s while nothing is wrong."""
        now_s = self.world.now_s
        if self._pass_s is not None and not self.has_faults:
            gap_s = now_s - max(self._pass_s, self.trouble_ended_s)
            # A key refused until the heal may wait for another half minute.
            if gap_s > (34.0 if self._pass_s > self.trouble_ended_s else 64.0):
                self.blame("I19", f"{gap_s:.1f} s between two reconciles")
        self._pass_s = now_s

    # -- the slow look ------------------------------------------------------------------

    async def watch(self) -> None:
        """Once a second: unknown orders and books."""
        while True:
            await asyncio.sleep(1.0)
            if not self.world.lives or self.world.lives[-1].exit_code is not None:
                continue
            if self.world.now_s % 3.0 < 1.0:
                self.read_journal()
            self._check_books()
            self.watchman.look()
            if not self.has_faults:
                self._check_unknown()

    def _check_unknown(self) -> None:
        """I18: nothing stays unknown longer than its expiry and a margin."""
        now_s = self.world.now_s
        for order in self.world.trader.execution.store.live():
            if order.status.value != "unknown":
                continue
            end_s = (order.expires_at_ms or order.sent_at_ms + 30_000) / 1000 - EPOCH_S
            limit_s = max(end_s, self.trouble_ended_s) + EXPIRY_MARGIN_S
            if now_s > limit_s:
                self.blame("I18", f"{order.client_order_id} unknown until {now_s:.0f} s")

    def _check_books(self) -> None:
        """I14: a book called proven is one the exchange had within the last seconds."""
        now_s = self.world.now_s
        is_calm = not self.has_faults and now_s - self.trouble_ended_s > 37.0
        window_s = 3.5 if is_calm else 37.0  # a silent feed may take a spot check to be found
        for ticker, book in self.world.trader.market_data.books.items():
            if book.proof.value != "proven" or not self._books.get(ticker):
                continue
            seen, until_s = hash(trader_levels(book)), now_s
            for at_s, levels in reversed(self._books[ticker]):
                if levels == seen or now_s - until_s > window_s:
                    break
                until_s = at_s
            if levels != seen or now_s - until_s > window_s:
                self.blame("I14", f"{ticker} shows a book the exchange does not have")

    # -- the end ------------------------------------------------------------------------

    def trouble(self) -> None:
        """A fault begins."""
        self.has_faults = True

    def healed(self) -> None:
        """The last fault ends now."""
        world = self.world
        world.control.heal()
        world.control.mute_websockets(False)
        world.control.delay_frames(0.0)
        world.control.resume()
        world.net.is_down = False
        if world.is_disk_full:
            world.fill_disk(False)
        if self.watchman.stepped_s > 0.0:  # people set the clock right again
            world.step_wall(-world.skew_s)
        self.trouble_ended_s = world.now_s

    def forget_lost_rows(self) -> None:
        """The disk lost the newest rows: what the journal says of them begins anew."""
        self._seen_seq = 0
        self.amends.clear()
        self.fills.clear()
        self.last_status.clear()

    def calm(self, allowed: tuple[str, ...] = ()) -> None:
        """I2 I20: within a minute of the heal, ready, converged, every figure equal."""
        self.healed()
        self.allowed = frozenset(allowed)
        world = self.world
        is_halted = world.trader.container.now.halt is not None
        world.until(lambda: self._is_at_rest(is_halted), HEAL_LIMIT_S, "I20: rest after the heal")
        self.has_faults = False
        self.trouble_ended_s = world.now_s
        world.control.freeze_crowd()
        try:
            world.until(self._is_equal, 45.0, "I2")
        except AssertionError as error:
            raise AssertionError(f"I2: {self.difference()}\n{error}") from error
        world.run(1.0)
        self.compare()
        self.watchman.at_rest()
        world.control.freeze_crowd(False)
        self.verdict()

    def _is_at_rest(self, is_halted: bool) -> bool:
        world = self.world
        unknown = [o for o in world.trader.execution.store.live() if o.status.value == "unknown"]
        if is_halted:
            return not unknown and not world.own_open()
        is_well = world.degraded() <= self.allowed
        return world.trader.machine.state.value in ("ready", "acting") and is_well and not unknown

    def _is_equal(self) -> bool:
        return not self.difference()

    def difference(self) -> str:
        """What differs between the trader's figures and the exchange's; "" when nothing does."""
        ledger, account = self.world.trader.execution.ledger, self.world.account
        ours = {t: p.position_h for t, p in ledger.positions.items() if p.position_h}
        if ours != account.positions:
            return f"positions {ours} against {account.positions}"
        if ledger.cash_ud != account.cash_ud:
            return f"cash {ledger.cash_ud} against {account.cash_ud}"
        return self._live_difference()

    def compare(self) -> None:
        """Fills, fees, orders and the own recount, to the last micro-dollar."""
        world = self.world
        self.read_journal()
        self._recount()
        theirs = Counter(f"{fill.trade_id}|{fill.order_id}" for fill in world.account.fills)
        baseline = self._baseline()
        if set(self.fills) != set(theirs) - baseline or max(self.fills.values(), default=1) > 1:
            self.blame("I13", f"booked {len(self.fills)} fills of {len(theirs)}")
        self._compare_fees()
        self._find_strangers()
        for key, count in Counter(
                o.client_order_id for o in world.account.orders if o.client_order_id).items():
            if count > 1:
                self.blame("I3", f"{key} was accepted {count} times")

    def _find_strangers(self) -> None:
        """Orders of earlier lives end within a pass of the reconciler (promise 3)."""
        world = self.world
        try:
            world.until(lambda: not world.strangers(), PASS_S, "")
        except AssertionError:
            self.blame("I20", f"of an earlier life: {world.strangers()[:3]}")

    def _compare_fees(self) -> None:
        """I33: the fees of each order, as booked and as charged."""
        booked, charged = Counter[str](), Counter[str]()
        for row in self.world.trader.journal.facts("fill"):
            booked[str(row.body["order_id"])] += int(row.body["fee_ud"])
        for fill in self.world.account.fills:
            charged[fill.order_id] += fill.fee_ud
        wrong = [one for one in booked if booked[one] != charged[one]]
        if wrong:
            self.blame("I33", f"fees of {wrong[:3]} are not those charged")

    def _baseline(self) -> set[str]:
        rows = [list(pair) for fact in self.world.trader.journal.facts("adjust")
                for pair in fact.body.get("seen", ())]
        return {"|".join(pair) for pair in rows}

    def _recount(self) -> None:
        """I1 I33: cash from nothing but the exchange's fills and settlements."""
        account = self.world.account
        cash_ud, held = 1_000_000_000, Counter[str]()
        rows = sorted([*account.fills, *account.settlements], key=lambda row: row.at_us)
        for row in rows:
            if isinstance(row, sim.Settlement):
                cash_ud += row.revenue_ud
                held[row.ticker] = 0
                continue
            signed_h = row.count_h if row.is_bid else -row.count_h
            before_h = held[row.ticker]
            after_h = before_h + signed_h
            pledged_h = max(0, -after_h) - max(0, -before_h)
            cash_ud -= signed_h * row.price_cc + 10_000 * pledged_h + row.fee_ud
            held[row.ticker] = after_h
        if cash_ud != account.cash_ud:
            self.blame("I1", f"recount says {cash_ud}, the exchange {account.cash_ud}")

    def _live_difference(self) -> str:
        """Own orders at the exchange against those the trader believes to rest; "" when equal."""
        theirs = {o.client_order_id: (o.price_cc if o.is_bid else 10_000 - o.price_cc,
                                      o.remaining_h) for o in self.world.own_open()}
        ours = {o.client_order_id: (o.price_cc, o.remaining_h) for o in
                self.world.trader.execution.store.live() if o.pending is None}
        moving = {o.client_order_id for o in self.world.trader.execution.store.live()
                  if o.pending is not None or o.status.value == "sent"}
        rows = [f"{key}: exchange {theirs.get(key)}, trader {ours.get(key)}"
                for key in sorted((set(theirs) | set(ours)) - moving)
                if theirs.get(key) != ours.get(key)]
        return "; ".join(rows)


TASKS_MAX = 90
POLLS_MAX = 30                          # I31: of the exchange's state, within a calm minute
ODD_S = 12.0                            # I32: nothing stays odd for longer in calm
QUESTIONS_S = 10.0                      # I23: twenty questions at once share the reads' budget
SIZE_MAX = 20_000                       # of any one collection of the trader in an hour's run
SEEN_WITHIN_S = {                       # I32: how soon /v3/status shows what is wrong
    "no socket": 10.0, "network down": 10.0, "pause": 17.0, "key refused": 10.0, "killed": 1.0,
    "unknown order": 1.0, "disk full": 12.0, "feed silent": 37.0, "frames late": 10.0,
}


class LogEar(logging.Handler):
    """Hears what the trader would write into its log."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(self.format(record))


class Watchman:
    """The part of the oracle that watches process, clock, secrets, budget and status."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle, self.world = oracle, oracle.world
        pem = self.world.address.private_key_pem.splitlines()
        self.canaries = {line.encode() for line in pem if len(line) > 30 and "-----" not in line}
        self.stepped_s = self.stalled_s = -1e9
        self.is_basic = self.world.tier == "basic"
        self._since_s: dict[str, float] = {}
        self._drift_s: dict[str, float] = {}
        self._tokens, self._tokens_s = 100.0, 0.0
        self._polled_s: float | None = None
        self.refused_s = -1e9           # the exchange last refused the key
        self._polls: deque[float] = deque(maxlen=POLLS_MAX)
        self._odd_s: dict[str, float] = {}
        self._tasks = 0
        self._gaps = self._opened = 0
        self._ear, self._log = LogEar(self._on_log), logging.getLogger("trader")
        self._before = self._log.level, self._log.propagate
        self._log.addHandler(self._ear)
        if not logging.getLogger().isEnabledFor(logging.INFO):
            self._log.setLevel(logging.WARNING)
            self._log.propagate = False

    def close(self) -> None:
        """Stop listening."""
        self._log.removeHandler(self._ear)
        self._log.setLevel(self._before[0])
        self._log.propagate = self._before[1]

    # -- a life -------------------------------------------------------------------------

    def on_start(self, life: Life) -> None:
        """A process begins; what was wrong has not been seen by it yet."""
        self._since_s.clear()
        self._odd_s.clear()
        self._polls.clear()
        self._polled_s, self._tasks, self._gaps, self._opened = None, 0, 0, 0
        token = life.home / "run_token"
        if token.exists():
            self.canaries.add(token.read_bytes().strip())

    def on_end(self, life: Life, *, is_killed: bool) -> None:
        """The files it leaves, and what it leaves undone."""
        self._check_identity(life)
        for path in sorted(life.home.rglob("*")):
            if path.is_file() and "token" not in path.name:
                self._search(path.read_bytes(), f"file {path.name}")
        house = life.coordinator.house
        pages = (house.reporter.status(), house.reporter.metrics_text(), house.reporter.settings(),
                 house.reporter.history())
        self._search(repr(pages).encode(), "the page")
        if not is_killed:
            left = [task.get_name() for task in asyncio.all_tasks(self.world.loop)
                    if self.world.loop._owner.get(task) == life.name and not task.done()]
            if left:
                self.oracle.blame("I23", f"pending after the end: {left[:5]}")

    def _check_identity(self, life: Life) -> None:
        """I34: the journal is of this environment and account, in every row of the file."""
        try:
            with contextlib.closing(sqlite3.connect(
                    f"file:{life.home / 'journal.sqlite3'}?mode=ro", uri=True)) as database:
                rows = dict(database.execute("SELECT name, value FROM meta").fetchall())
        except sqlite3.Error:           # not made yet, or spoiled by the scene
            return
        tag = self.world.address.key_id[-4:]
        said = (rows.get("environment"), str(rows.get("account", ""))[-4:])
        if said != ("sim", tag):
            self.oracle.blame("I34", f"the journal is of {said}, the process of sim, {tag}")

    # -- secrets and places ---------------------------------------------------------------

    def _search(self, data: bytes, where: str) -> None:
        """I27: no secret in what people or peers can read."""
        for canary in self.canaries:
            if canary in data:
                self.oracle.blame("I27", f"a secret in {where}")

    def _on_log(self, text: str) -> None:
        self._search(text.encode(), "the log")
        if "never retrieved" in text or "never awaited" in text:
            self.oracle.blame("I23", text[:200])

    def on_host(self, host: str) -> None:
        """I28: a connection is opened."""
        if host != "sim.invalid":
            self.oracle.blame("I28", f"contact with {host}")

    def on_outside(self, what: str) -> None:
        """I28: something leaves past the connector."""
        self.oracle.blame("I28", what)

    def on_loop_error(self, loop: Any, context: dict[str, Any]) -> None:
        """I23: an error that nobody took."""
        text = f"{context.get('message')}: {context.get('exception')!r}"
        self.oracle.notes.append(text)
        self.oracle.blame("I23", text[:300])

    # -- bytes ------------------------------------------------------------------------------

    def on_bytes(self, end: Any, data: bytes) -> None:
        """I12 I22 I27: each write of a trader toward the exchange."""
        if end.process != self.world.present:
            self.oracle.blame("I22", f"{end.process} sends beside {self.world.present}")
        if any(canary in data for canary in self.canaries):
            self.oracle.blame("I27", "a secret on the wire")
        if data[:4] in (b"POST", b"DELE", b"PUT ") and self.is_basic:
            self._charge(data)

    def _charge(self, data: bytes) -> None:
        """I12: the exchange's write bucket (100 tokens, 100 a second), a fifth kept for cancels."""
        line, _, rest = data.partition(b"\r\n")
        now_s = self.world.now_s
        self._tokens = min(100.0, self._tokens + 100.0 * (now_s - self._tokens_s))
        self._tokens_s = now_s
        is_cancel = line.startswith(b"DELE")
        many = max(1, rest.count(b'"order_id"')) if b"batched" in line else 1
        self._tokens -= (2 if is_cancel else 10) * many
        if self._tokens < 30.0:         # no create fits beside what is kept for cancels
            self.oracle.sometimes["rate bucket empty"] += 1
        is_risky = b"/portfolio/events/orders" in line and not is_cancel
        is_over = self._tokens < -1e-6 and not self.oracle.has_faults  # a cancel goes all the same
        if is_over or (is_risky and self._tokens < 20.0 - 1e-6):
            self.oracle.blame("I12", f"{self._tokens:.1f} tokens left after {line[:60]!r}")

    # -- once a second ------------------------------------------------------------------------

    def look(self) -> None:
        """What the trader says of itself, against what is so."""
        if "unknown" in self.oracle.last_status.values():
            self.oracle.read_journal()
        self._check_visible()
        self._check_clock()
        self._check_size()
        house = self.world.trader
        counters = house.market_data.counters()
        if counters.get("gaps", 0) > self._gaps and all_proven(self.world):
            self._gaps = counters["gaps"]
            self.oracle.sometimes["gap resynced"] += 1
        if house.rest.breaker.opened > self._opened and not house.rest.breaker.is_open:
            self._opened = house.rest.breaker.opened
            self.oracle.sometimes["breaker opened and closed"] += 1

    def conditions(self) -> set[str]:
        """What is wrong now, by the exchange's and the world's own knowledge."""
        world, exchange = self.world, self.world.exchange
        now_us = (EPOCH_S + world.now_s) * 1e6
        sessions = list(exchange.hub.sessions.values())
        silent = [s for s in sessions if s.tamper is not None and s.tamper.is_muted]
        found = {
            "no socket": not sessions,
            "network down": world.net.is_down,
            "pause": exchange.engine.is_trading_paused or exchange.engine.is_exchange_paused,
            "key refused": exchange.gate.refuse_until_us > now_us,
            "killed": self.oracle.is_killed,
            # A disk that refuses keeps the news of an order's end from the journal.
            "unknown order": not world.is_refusing and (
                "unknown" in self.oracle.last_status.values()),
            "disk full": world.is_refusing,
            "feed silent": bool(sessions) and len(silent) == len(sessions),
            "frames late": exchange.frame_delay_s >= 4.0,
        }
        return {name for name, is_so in found.items() if is_so}

    def _check_visible(self) -> None:
        """I32: within its time each fault shows, and the status is never `running` meanwhile."""
        present, now_s = self.conditions(), self.world.now_s
        for name in list(self._since_s):
            if name not in present:
                del self._since_s[name]
        self._check_odd(bool(present))
        if not present:
            return
        body = self.world.trader.reporter.health()
        status = body["status"] if body["healthy"] else "503"
        for name in present:
            since_s = self._since_s.setdefault(name, now_s)
            if now_s - since_s > SEEN_WITHIN_S[name] and status == "running":
                self.oracle.blame("I32", f"running with {name} since {now_s - since_s:.0f} s")
            elif now_s - since_s > SEEN_WITHIN_S[name]:
                self.oracle.sometimes[f"shown: {name}"] += 1

    def _check_odd(self, is_ill: bool) -> None:
        """I32: in calm nothing of the whole house stays degraded without a cause."""
        now_s, now, said = self.world.now_s, self.world.trader.container.now, set[str]()
        if not (is_ill or self.oracle.has_faults or now.halt is not None):
            said = {row.reason.value for row in now.degraded if not row.markets}
            said -= self.oracle.allowed | self._known_causes()
        self._odd_s = {name: self._odd_s.get(name, now_s) for name in said}
        for name, since_s in self._odd_s.items():
            if now_s - since_s > ODD_S:
                self.oracle.blame("I32", f"degraded {name} since {now_s - since_s:.0f} s, "
                                  "though nothing is wrong")

    def _known_causes(self) -> set[str]:
        """Reasons that stand in calm too: a wrong clock, a pause of the process, a rogue."""
        now_s = self.world.now_s
        is_off = abs(self.world.skew_s) > 0.5 or now_s - self.stepped_s < 60.0
        found = {"clock": is_off, "loop": now_s - self.stalled_s < 15.0,
                 "strategy": self.world.strategies is not None,
                 "trading": now_s - self.refused_s < 30.0 + ODD_S}  # promise 23: a try in 30 s
        return {name for name, is_so in found.items() if is_so}

    def _check_clock(self) -> None:
        """I31: intervals run with the loop's time, whatever the wall clock does."""
        clock, name = self.world.trader.clock, self.world.lives[-1].name
        drift_s = clock.monotonic() - self.world.now_s
        if abs(drift_s - self._drift_s.setdefault(name, drift_s)) > 1e-6:
            self.oracle.blame("I31", "an interval is not what the loop measures")
            self._drift_s[name] = drift_s

    def on_poll(self) -> None:
        """I31: the state of the exchange is asked for at its pace, whatever the wall says."""
        now_s, before_s = self.world.now_s, self._polled_s
        self._polled_s = now_s
        is_calm = not self.oracle.has_faults and now_s - self.oracle.trouble_ended_s > 45.0
        if before_s is not None and is_calm and now_s - before_s > 36.0:
            self.oracle.blame("I31", f"{now_s - before_s:.1f} s between two polls")
        self._polls.append(now_s)
        if is_calm and len(self._polls) == POLLS_MAX and now_s - self._polls[0] < 60.0:
            self.oracle.blame("I31", f"{POLLS_MAX} polls in {now_s - self._polls[0]:.1f} s")

    def _check_size(self) -> None:
        """I23: tasks and queues."""
        house = self.world.trader
        names = house.supervisor.names
        if len(names) > TASKS_MAX or house.bus.queue_size > SIZE_MAX:
            self.oracle.blame("I23", f"{len(names)} tasks, {house.bus.queue_size} in the bus")

    def _surplus(self) -> int:
        """Tasks of single orders beyond what the live ones explain."""
        house = self.world.trader
        passing = sum(name.startswith(("order:", "resolve:")) for name in house.supervisor.names)
        return passing - 2 * len(house.execution.store.live()) - 8

    def at_rest(self) -> None:
        """I23: nothing is left over when all is calm, and no collection has grown without end."""
        house = self.world.trader
        brief = ("command", "order:", "resolve:")  # a burst of orders is no leak, see below
        names = [name for name in house.supervisor.names if not name.startswith(brief)]
        if house.machine.state.value in ("ready", "acting"):  # halted, it may still be starting
            self._tasks = self._tasks or len(names)
        if self._tasks and len(names) > self._tasks + 8:
            self.oracle.blame("I23", f"tasks left over: {names}")
        if self._surplus() > 0:
            self.world.run(QUESTIONS_S)  # questions about orders that ended together end soon
        if self._surplus() > 0:
            self.oracle.blame("I23", f"{self._surplus()} tasks more than live orders explain")
        asking = sum(name.startswith("resolve:") for name in house.supervisor.names)
        if len(house.trading._resolving) > asking:
            self.oracle.blame("I23", f"questions nobody asks: {house.trading._resolving}")
        for path, size in sizes(house):
            if size > SIZE_MAX:
                self.oracle.blame("I23", f"{path} holds {size}")


def sizes(root: Any) -> list[tuple[str, int]]:
    """Every collection that hangs on the trader's own objects, with its size."""
    found, seen, todo = [], set(), [("house", root)]
    while todo:
        path, one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (dict, list, set, deque)):
            found.append((path, len(one)))
            inner = list(one.values() if isinstance(one, dict) else one)[:20]
            todo += [(f"{path}[]", each) for each in inner]
        elif type(one).__module__ == trader.__name__:
            names = [*getattr(one, "__dict__", ()), *getattr(type(one), "__slots__", ())]
            todo += [(f"{path}.{name}", getattr(one, name, None)) for name in names]
    return found


def exchange_levels(market: Any) -> tuple[Any, ...]:
    """The exchange's book of a market, both legs by bid price."""
    bids = tuple(sorted((price, level.total_h) for price, level in market.book.bids.levels.items()))
    asks = tuple(sorted((10_000 - price, level.total_h)
                        for price, level in market.book.asks.levels.items()))
    return bids, asks


def trader_levels(book: Any) -> tuple[Any, ...]:
    """The trader's book of a market, in the same form."""
    return tuple(sorted(book.counts["yes"].items())), tuple(sorted(book.counts["no"].items()))


# ======================================================================================
# §T3 FAULTS
# Purpose:   The faults of RELIABILITY §2, each alone, while the market maker trades.
# Principle: A scene injects, waits, and says what must be seen; calm() then compares everything.
# ======================================================================================
Scene = Callable[[World], None]
SCENES: dict[str, Scene] = {}
TEXTS: dict[str, dict[str, Any]] = {}


def scene(name: str, **texts: Any) -> Callable[[Scene], Scene]:
    """Put a fault into the table; `texts` are settings of its world."""

    def put(act: Scene) -> Scene:
        assert name not in SCENES, f"{name} is there already"
        SCENES[name], TEXTS[name] = act, texts
        return act

    return put


def play(name: str, seed: int = 7) -> World:
    """Run one scene whole: start, trade, fault, heal, compare, stop."""
    made = {key: value() if callable(value) else value for key, value in TEXTS[name].items()}
    with World(seed, **made) as world:
        world.start()
        world.until(lambda: len(world.own_open()) >= 2, 120.0, "two orders rest")
        SCENES[name](world)
        if world.lives[-1].exit_code is None:
            world.calm()
            is_halted = world.trader.container.now.halt is not None
            code = world.stop()
            assert code == 0 or is_halted, f"exit code {code}"
            assert not world.own_open(), "orders rest after the stop"
        world.oracle.verdict()
        return world


def creates(world: World) -> int:
    """How many creates have left the trader."""
    return len(world.oracle.sent_creates)


def next_create(world: World) -> str:
    """Let time pass until one more create has left; answers its client id."""
    before, nudge_s = creates(world), world.now_s + 15.0
    begun_s = world.now_s
    while creates(world) == before:
        assert world.now_s < begun_s + 150.0, f"no create came\n{world.story()}"
        world.run(0.05)
        if world.now_s > nudge_s:       # a fill makes the market maker quote anew
            nudge_s += 15.0
            take_any(world)
    return list(world.oracle.sent_creates)[-1]


def order_of(world: World, key: str) -> Any:
    """What the trader believes about one of its orders."""
    return world.trader.execution.store.orders[key]


def accepted(world: World, key: str) -> int:
    """How many orders with this client id the exchange ever had."""
    return sum(order.client_order_id == key for order in world.account.orders)


def resolved(world: World, key: str, limit_s: float = 75.0) -> str:
    """Let time pass until the order's fate is known; answers its status."""
    world.until(lambda: order_of(world, key).status.value not in ("sent", "unknown"), limit_s,
                f"{key} is resolved")
    return str(order_of(world, key).status.value)


def went(world: World, key: str, status: str) -> bool:
    """Whether the journal ever said so of this order."""
    world.oracle.read_journal()
    rows = world.trader.journal.facts("order")
    return any(row.key == key and row.body["status"] == status for row in rows)


@scene("P01 answer of a create lost by a reset")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.lose_answers(1)
    key = next_create(world)
    world.run(1.0)
    assert accepted(world, key) == 1
    assert resolved(world, key, 15.0) in ("resting", "executed", "canceled")


@scene("P01 answer of a create lost in silence, stream muted")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.lose_answers(1, "hang")
    world.control.drop_frames(40, "user_order")
    world.control.drop_frames(40, "user_order")
    key = next_create(world)
    world.run(7.0)
    world.control.heal()
    assert resolved(world, key, 20.0) in ("resting", "executed", "canceled")
    assert accepted(world, key) == 1


@scene("P02 create that never arrives")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.black_hole(1)
    key = next_create(world)
    world.run(6.0)
    assert order_of(world, key).status.value == "unknown"
    side = order_of(world, key).side
    before = creates(world)
    world.run(20.0)
    same = [k for k in list(world.oracle.sent_creates)[before:]
            if order_of(world, k).side is side
            and order_of(world, k).ticker == order_of(world, key).ticker]
    assert not same, "a second order on the side of an unknown one"
    assert resolved(world, key) == "never_accepted"
    assert accepted(world, key) == 0


@scene("P03 create that arrives 8 s late")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.delay(8.0)
    key = next_create(world)
    world.run(5.5)
    assert accepted(world, key) == 0
    assert order_of(world, key).status.value == "unknown"
    world.until(lambda: accepted(world, key) == 1, 10.0, "the late create")
    assert resolved(world, key, 10.0) in ("resting", "executed", "canceled")


@scene("P03 create that arrives after it was given up")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.delay(50.0)
    key = next_create(world)
    assert resolved(world, key) == "never_accepted"
    world.until(lambda: accepted(world, key) == 1, 60.0, "the late create")
    world.until(lambda: key not in {o.client_order_id for o in world.own_open()}, 3.0,
                "the late order is cancelled")
    world.oracle.read_journal()
    assert key in world.oracle.late, "a late accept is told"


@scene("P04 5xx on creates, acted on or not")
def _(world: World) -> None:
    world.oracle.trouble()
    for status, is_done in ((500, False), (502, True), (503, False), (504, True)):
        if is_done:
            answer_after(world, status)
        else:
            world.control.reject_next(1, status, match="create")
        key = next_create(world)
        world.run(2.0)
        assert went(world, key, "unknown") or is_done
        assert accepted(world, key) == int(is_done)
        end = resolved(world, key)
        assert (end == "never_accepted") != is_done, end


def answer_after(world: World, status: int, body: bytes = b"<html>bad gateway</html>",
                 operation: str = "create") -> None:
    """Let the next request of a kind be acted on, and answer it with something else."""
    api, run = world.exchange.api, world.exchange.api.run

    def once(route: Any, call: Any) -> Any:
        answer = run(route, call)
        if route.name != operation:
            return answer
        del api.run
        return sim.Answer(status, body)

    api.run = once


def deliver_twice(world: World) -> None:
    """Let the next create arrive twice; the trader hears the second answer."""
    api, run = world.exchange.api, type(world.exchange.api).run

    def twice(route: Any, call: Any) -> Any:
        answer = run(api, route, call)
        if route.name != "create" or answer.status != 201:
            return answer
        vars(api).pop("run", None)
        key = json.loads(call.body)["client_order_id"] if call.body else ""
        world.oracle.accepted_s.setdefault(key, world.now_s)
        return run(api, route, call)

    api.run = twice


@scene("P05 create delivered twice: 409 order_already_exists")
def _(world: World) -> None:
    world.oracle.trouble()
    deliver_twice(world)
    world.control.drop_frames(3, "user_order")
    key = next_create(world)
    world.run(1.0)
    assert any(row.status == 409 for row in world.requests("create")), "the exchange said 409"
    assert resolved(world, key, 15.0) in ("resting", "executed", "canceled")
    assert accepted(world, key) == 1


@scene("P06 two answers without an order id halt")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.garble_next("no_order_id")
    world.control.garble_next("error_object")
    next_create(world)
    world.until(lambda: world.trader.container.now.halt is not None, 120.0, "the halt")
    assert "unreadable" in world.trader.container.now.halt.why
    world.oracle.is_killed = True
    world.run(60.0)


@scene("P07 spoiled answers to a create")
def _(world: World) -> None:
    world.oracle.trouble()
    for kind in ("truncated", "html", "empty", "wrong_type", "other_order"):
        world.control.garble_next(kind)
        key = next_create(world)
        if kind != "other_order":
            assert resolved(world, key, 15.0) in ("resting", "executed", "canceled")
        next_create(world)
        world.run(3.0)
        assert accepted(world, key) == 1
    assert world.trader.container.now.halt is None


@scene("P08 ten seconds of 429")
def _(world: World) -> None:
    world.oracle.trouble()
    world.oracle.expects_429 = True
    world.control.too_many_requests(10.0)
    begun_s = world.now_s
    world.run(10.0)
    storm = [row for row in world.account.requests
             if row.status == 429 and row.at_us >= (EPOCH_S + begun_s) * 1e6]
    assert 1 <= len(storm) <= 60, f"{len(storm)} requests into the storm"
    world.run(20.0)


@scene("P09 cancel races a fill")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.set_latency(0.5)
    order = world.own_open()[0]
    world.loop.call_soon(ask, world, "pause", context=sim.context_of(world.lives[-1].name))
    world.run(0.2)
    take_out(world, order)
    world.run(5.0)
    known = order_of(world, order.client_order_id)
    assert known.status.value == "executed"
    assert known.filled_h == known.booked_h == order.filled_h > 0
    tries = [row for row in world.account.requests
             if row.operation.startswith("cancel") and row.status in (200, 404)]
    assert len(tries) < 12, "a retry loop"
    resume(world)


def ask(world: World, action: str, **more: Any) -> None:
    """Order something as an operator does; runs inside the trader's context."""
    request = trader.ControlAsk(
        action=action, control_id=f"c-{world.now_s}", by="test", where="test", reason="test",
        at_ms=world.trader.clock.now_ms(), **more)
    method = getattr(world.trader.operator, action.replace("-", "_"))

    async def carry() -> None:
        try:
            await method(request)
        except trader.ControlRefused as refusal:
            world.oracle.notes.append(f"{action} refused: {refusal}")

    world.trader.supervisor.spawn(carry(), name=f"test:{action}")


def order(world: World, action: str, **more: Any) -> None:
    """Let the operator order something now."""
    world.loop.call_soon(lambda: ask(world, action, **more),
                         context=sim.context_of(world.lives[-1].name))
    world.run(0.01)


def resume(world: World) -> None:
    """Back to trading once the trader allows it."""
    world.until(lambda: world.trader.container.now.is_reconciled
                and not world.trader.container.now.unknown_orders, 60.0, "a clean reconcile")
    world.run(1.5)
    order(world, "resume")
    assert world.trader.container.now.gate.value == "open"


def take_out(world: World, resting: Any, count_h: int | None = None, by: Any = None) -> None:
    """The crowd trades against one resting order, and against all before it."""
    ticker = resting.market.ticker
    side = "ask" if resting.is_bid else "bid"
    book = resting.market.book.side(resting.is_bid)
    ahead_h = 0
    for price_cc in reversed(book.prices()):
        level = book.levels[price_cc]
        for other in level.orders.values():
            if other is resting:
                wanted_h = ahead_h + (count_h or resting.remaining_h)
                price = f"{resting.price_cc / 10_000:.4f}"
                hand = by or world.control
                hand.crowd(ticker, side, price, f"{wanted_h / 100:.2f}", rests=False)
                return
            ahead_h += other.remaining_h
    raise AssertionError("the order does not rest any more")


@scene("P10 answer of a cancel lost")
def _(world: World) -> None:
    world.oracle.trouble()
    for match in ("cancel", "batch_cancel"):
        world.control.lose_answers(1, "hang", match)
        world.control.lose_answers(1, "reset", match)
    world.control.drop_frames(4, "user_order")
    order(world, "pause")
    world.run(3.0)
    world.until(lambda: not world.own_open() and not world.trader.execution.store.live(), 45.0,
                "all cancelled and proven")
    resume(world)


@scene("P11 partial fills, then the exchange cancels the rest")
def _(world: World) -> None:
    resting = world.own_open()[0]
    for _ in range(3):
        if resting.status == "resting" and resting.remaining_h > 20:
            take_out(world, resting, 15)
            world.run(0.3)
    partial_h = resting.filled_h
    assert partial_h > 0
    if resting.status == "resting":
        world.control.cancel(resting.order_id)
    world.run(2.0)
    known = order_of(world, resting.client_order_id)
    assert known.booked_h == resting.filled_h
    assert known.status.value in ("canceled", "executed")


class Ladder:
    """A strategy that wants three resting orders far below the market on each side."""

    Params = object
    name = "ladder"
    slots = frozenset(f"{side}{n}" for side in "yn" for n in range(3))
    expectation = "rests"

    def decide(self, view: Any) -> Any:
        wants = [
            trader.Want(slot=f"{letter}{n}", side=side, price_cc=100 * (n + 1), count_h=100)
            for side, letter in ((trader.Side.YES, "y"), (trader.Side.NO, "n"))
            for n in range(3) if 100 * (n + 1) < (view.best_bid_cc(side) or 0)]
        return trader.Decision(wants=tuple(wants), reason=trader.Reason.ACTED)


def with_ladder() -> list[Any]:
    """The market maker, and a ladder beside it."""
    return [*trader.load_strategies(("market_maker",), {}, None, allow_experimental=False,
                                    is_production=False), Ladder()]


@scene("P12 a batch cancel of which some entries fail, told in another order",
       strategies=with_ladder, max_position="100", max_market_loss_dollars="100")
def _(world: World) -> None:
    world.until(lambda: len(world.own_open()) >= 12, 120.0, "a ladder rests")
    world.oracle.trouble()
    for is_told in ("off", "on"):
        world.until(lambda: len(world.own_open()) >= 12, 120.0, "a ladder rests")
        world.control.set_switch("batch_error_has_client_id", is_told)
        world.control.garble_next("reordered", match="batch_cancel")
        world.control.drop_frames(3, "user_order")
        gone, filled = world.own_open()[3], world.own_open()[5]
        world.control.cancel(gone.order_id)
        take_out(world, filled, 40)
        rested = {o.client_order_id: o for o in world.own_open()}
        order(world, "pause")
        world.until(lambda: not world.own_open() and not world.trader.execution.store.live(),
                    45.0, "all cancelled and proven")
        world.run(5.0)
        for key, one in rested.items():
            known = order_of(world, key)
            assert known.status.value == one.status, key
            assert known.booked_h == one.filled_h, key
        resume(world)
    batches = world.requests("batch_cancel")
    assert batches
    assert batches[0].body.count(b"order_id") > 1


@scene("P13 answer of an amend lost")
def _(world: World) -> None:
    world.oracle.trouble()
    for how in ("reset", "hang", "reset"):
        world.control.lose_answers(1, how, "amend")
        world.control.drop_frames(2, "user_order")
        before = len([row for row in world.account.requests if row.operation == "amend"])
        world.until(lambda before=before: len(
            [row for row in world.account.requests if row.operation == "amend"]) > before, 120.0,
            "an amend")
        moving = [o for o in world.trader.execution.store.live() if o.pending is not None]
        assert moving, "the amend is pending"
        world.until(lambda: not any(o.pending for o in world.trader.execution.store.live()), 40.0,
                    "the amend is proven")


@scene("P13 amend that never arrives")
def _(world: World) -> None:
    world.oracle.trouble()
    for _ in range(3):
        world.control.black_hole(1, "amend")
        before = len([row for row in world.account.requests if row.operation == "amend"])
        world.until(lambda before=before: len(
            [row for row in world.account.requests if row.operation == "amend"]) > before, 120.0,
            "an amend")
        world.run(6.0)
        world.until(lambda: not any(o.pending for o in world.trader.execution.store.live()), 40.0,
                    "the amend is proven")


@scene("P13 amend that arrives 8 s late")
def _(world: World) -> None:
    world.oracle.trouble()
    for _ in range(3):
        world.control.delay(8.0, match="amend")
        world.run(20.0)


@scene("P14 definitive refusals, then the reject breaker")
def _(world: World) -> None:
    world.oracle.trouble()
    body = '{"error":{"code":"insufficient_balance","message":"insufficient balance"}}'
    world.control.reject_next(1, 400, body, "create")
    key = next_create(world)
    world.run(1.0)
    assert order_of(world, key).status.value == "rejected"
    assert accepted(world, key) == 0
    world.control.reject_next(500, 400, body, "create")
    world.until(lambda: world.trader.container.now.halt is not None, 300.0, "the breaker")
    assert "reject_ratio" in world.trader.container.now.halt.why
    refused = [row for row in world.requests("create") if row.status == 400]
    assert len(refused) <= 21, f"{len(refused)} creates refused before the breaker"
    world.oracle.is_killed = True
    world.run(30.0)


@scene("P15 socket lost for 40 s")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.refuse_websockets(40.0)
    world.control.drop_websockets()
    lost_s = world.now_s
    world.until(lambda: "orderbook" in world.degraded(), 2.0, "degraded within 2 s")
    before = creates(world)
    world.run(38.0 - (world.now_s - lost_s))
    assert creates(world) == before, "a create without books"
    assert not world.own_open(), "quotes stay while the books are blind"
    world.until(lambda: world.is_ready, 60.0, "ready after the reconnect")
    next_create(world)
    assert reconciled_first(world, lost_s + 38.0)


def reconciled_first(world: World, since_s: float) -> bool:
    """Whether positions were read before the first create since then."""
    sends = [at_s for at_s in world.oracle.sent_creates.values() if at_s > since_s]
    reads = [row.at_us / 1e6 - EPOCH_S for row in world.requests("positions", since_s)]
    return bool(sends and reads) and reads[0] < sends[0]


@scene("P16 a gap in the sequence")
def _(world: World) -> None:
    world.oracle.trouble()
    for _ in range(5):
        gaps = resyncs(world)
        world.control.drop_frames(1, "orderbook_delta")
        world.until(lambda gaps=gaps: resyncs(world) > gaps, 30.0, "the gap is seen")
        took_s = world.until(lambda: all_proven(world), 5.0, "all books proven again")
        assert took_s <= 3.0, f"resync took {took_s:.1f} s"
        world.run(5.0)


def resyncs(world: World) -> int:
    """Snapshots taken over so far, all books together."""
    return sum(book.snapshots for book in world.trader.market_data.books.values()) + sum(
        not book.has_base for book in world.trader.market_data.books.values())


def all_proven(world: World) -> bool:
    """Whether every followed book is proven."""
    return all(book.proof.value == "proven" for book in world.trader.market_data.books.values())


@scene("P17 duplicated and reordered deltas")
def _(world: World) -> None:
    world.oracle.trouble()
    for _ in range(10):
        world.control.duplicate_frames(3, "orderbook_delta")
        world.run(3.0)
        world.control.reorder_frames(2, "orderbook_delta")
        world.run(3.0)
    world.until(lambda: all_proven(world), 5.0, "all books proven")


@scene("P18 a socket that answers pings and says nothing else")
def _(world: World) -> None:
    world.oracle.trouble()
    before = creates(world)
    world.control.mute_websockets()
    begun_s = world.now_s
    world.until(lambda: "orderbook" in world.degraded(), 36.0, "the silence is found")
    before = creates(world)
    assert world.now_s - begun_s <= 36.0
    world.run(5.0)
    assert creates(world) - before <= 1
    world.control.heal()


@scene("P19 network down for 90 s")
def _(world: World) -> None:
    world.oracle.trouble()
    live = {o.client_order_id for o in world.trader.execution.store.live()}
    world.net.is_down = True
    world.net.cut()
    world.run(30.0)
    kept = [order_of(world, key).status.value for key in live]
    assert "never_accepted" not in kept, "an error counted as an absence"
    world.run(60.0)
    assert world.degraded() & {"orderbook", "trading"}
    world.net.is_down = False
    world.until(lambda: world.is_ready, 90.0, "ready after the outage")


@scene("P20 fifty sockets cut one after the other")
def _(world: World) -> None:
    world.oracle.trouble()
    tasks = len(world.trader.supervisor.names)
    attempts = world.trader.stream.connects
    for _ in range(50):
        world.control.drop_websockets()
        world.run(1.0)
    assert world.trader.stream.connects - attempts <= 40, "no backoff"
    world.run(60.0)
    world.until(lambda: world.is_ready, 60.0, "ready after the storm")
    assert len(world.trader.supervisor.names) <= tasks + 5, world.trader.supervisor.names


@scene("P21 message age grows to 20 s")
def _(world: World) -> None:
    world.oracle.trouble()
    for age_s in (1.0, 5.0, 20.0):
        world.control.delay_frames(age_s)
        world.run(10.0)
    before = creates(world)
    world.run(20.0)
    assert "orderbook" in world.degraded(), "old frames pass for fresh ones"
    assert creates(world) == before
    world.control.delay_frames(0.0)


@scene("P22 strange frames")
def _(world: World) -> None:
    world.oracle.trouble()
    for text in STRANGE_FRAMES:
        world.control.send_frame(text)
        world.run(1.0)
    world.control.corrupt_frames(2)
    world.run(10.0)
    assert world.trader.machine.state.value in ("ready", "acting")
    for ticker, book in world.trader.market_data.books.items():
        assert all(isinstance(count, int) for count in book.counts["yes"].values()), ticker


STRANGE_FRAMES = (
    '{"type":"never_heard_of","sid":1,"msg":{}}', '{"type":"user_order","msg":null}', "[]", "null",
    '{"type":"fill","sid":3,"msg":{"trade_id":null}}', "{", '"x"', "",
    '{"type":"user_order","sid":2,"msg":{"order_id":5,"client_order_id":[],"status":{}}}',
    ('{"type":"fill","sid":3,"msg":{"trade_id":"t","order_id":"o","market_ticker":"A",'
     '"count_fp":"NaN","yes_price_dollars":"Infinity","book_side":"bid","ts_ms":1e400}}'),
    '{"type":"ticker","sid":9,"msg":"' + "x" * 1_000_000 + '"}',
    '{"type":"market_lifecycle_v2","sid":4,"msg":{"event_type":"determined"}}',
    '{"type":"order_group_updates","sid":5,"msg":{"event_type":"triggered"}}',
    '{"type":"error","id":7,"msg":{"code":99,"msg":"strange"}}',
)


@scene("P23 fills twice, before the answer, out of order",
       switches={"match_message_order": "seeded"})
def _(world: World) -> None:
    world.oracle.trouble()
    for _ in range(12):
        world.control.duplicate_frames(2, "fill")
        world.run(4.0)
        world.control.reorder_frames(1, "user_order")
        world.control.set_switch("match_message_order", "fill_first")
        take_any(world)
        world.run(4.0)
    assert len(world.account.fills) > 5


def take_any(world: World) -> None:
    """The crowd trades against one of our orders, if one rests."""
    resting = world.own_open()
    if resting:
        take_out(world, resting[0])


@scene("P24 somebody else trades on the account")
def _(world: World) -> None:
    ticker = next(iter(world.trader.market_data.books))
    market = world.exchange.engine.markets[ticker]
    low = f"{max(100, (market.book.bids.best_cc or 500) - 300) / 10_000:.4f}"
    foreign_id = world.control.place(ticker, "bid", low, "3.00", "manual-1")
    world.oracle.foreign.add(foreign_id)
    world.run(35.0)
    assert any(o.client_order_id == "manual-1" and o.is_foreign
               for o in world.trader.execution.store.orders.values()), "the foreign order is seen"
    best = f"{(market.book.asks.best_cc or 9_900) / 10_000:.4f}"
    world.oracle.foreign.add(world.control.place(ticker, "bid", best, "2.00", "manual-2"))
    world.run(40.0)
    assert any(o.order_id == foreign_id for o in world.account.open_orders), "it was touched"
    apart = world.trader.execution.ledger.by_strategy[("", ticker)]
    assert apart.position_h == 200, "the foreign fill is kept apart"
    world.control.cancel(foreign_id)
    world.run(5.0)


@scene("P25 key refused for five minutes")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.unauthorised(300.0)
    begun_s = world.now_s
    world.until(lambda: "trading" in world.degraded(), 40.0, "degraded")
    world.run(300.0 - (world.now_s - begun_s) - 1.0)
    refused = [row for row in world.account.requests if row.status == 401]
    assert len(refused) <= 12, f"{len(refused)} attempts with a refused key"
    world.run(2.0)


@scene("P26 scheduled trading pause with the sockets dropped")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.pause_trading()
    world.control.drop_websockets()
    world.run(12.0)
    assert not world.own_open(), "flagged orders go with the pause"
    before = creates(world)
    world.run(60.0)
    assert creates(world) - before <= 1, "creates into a pause"
    assert "pause" in world.degraded()
    world.control.resume()
    resumed_s = world.now_s
    world.until(lambda: world.is_ready, 60.0, "ready after the pause")
    next_create(world)
    assert reconciled_first(world, resumed_s)


@scene("P27 kill during an exchange pause of 20 minutes")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.set_switch("market_pause_cancel", "refused")
    world.control.pause_exchange()
    order(world, "kill")
    world.oracle.is_killed = True
    begun_s = world.now_s
    world.run(1200.0)
    asked = [row for row in world.account.requests if row.at_us > (EPOCH_S + begun_s) * 1e6
             and row.method in ("DELETE", "PUT")]
    assert len(asked) <= 2500, f"{len(asked)} cancels against a closed door"
    world.control.resume()
    world.until(lambda: not world.trader.execution.store.live(), 30.0, "all gone after the pause")


@scene("P28 the close moves earlier, then later")
def _(world: World) -> None:
    ticker = next(iter(world.trader.market_data.books))
    world.control.set_close_time(ticker, EPOCH_S + world.now_s + 60.0)
    world.run(32.0)
    mine = [o for o in world.own_open() if o.market.ticker == ticker]
    assert not mine, "quotes within the close guard"
    world.control.set_close_time(ticker, EPOCH_S + world.now_s + 600.0)
    world.until(lambda: any(o.market.ticker == ticker for o in world.own_open()), 60.0,
                "quotes after the close moved later")
    world.control.set_close_time(ticker, EPOCH_S + world.now_s + 40.0)
    world.run(60.0)
    late = [row for row in world.requests("create", world.now_s - 18.0)
            if ticker.encode() in row.body]
    assert not late, "creates after the close"


class Steady:
    """A strategy that always wants the same: one contract of YES at the best bid."""

    Params = object
    name = "steady"
    slots = frozenset({"a"})
    expectation = "none"

    def decide(self, view: Any) -> Any:
        want = trader.Want(slot="a", side=trader.Side.YES, count_h=100,
                           price_cc=view.best_bid_cc(trader.Side.YES))
        return trader.Decision(wants=(want,), reason=trader.Reason.ACTED)


@scene("P24 somebody trades by hand while our stream is down")
def _(world: World) -> None:
    ticker = world.own_open()[0].market.ticker
    for number in range(2):
        world.oracle.trouble()
        world.control.refuse_websockets(8.0)
        world.control.drop_websockets()
        world.until(lambda: not world.own_open(), 10.0, "quotes are pulled")
        best = world.exchange.engine.markets[ticker].book.asks.best_cc
        assert best is not None, "nobody sells"
        name, before = f"by-hand-{number}", len(world.account.fills)
        world.oracle.foreign.add(
            world.control.place(ticker, "bid", f"{best / 10_000:.4f}", "1.00", name))
        assert len(world.account.fills) > before, "nothing was bought"
        world.calm()
        world.run(5.0)


@scene("P28 the close guard holds every strategy", strategies=[Steady()], evaluate_min_ms="100")
def _(world: World) -> None:
    ticker = world.own_open()[0].market.ticker
    close_s = world.now_s + 60.0
    world.control.set_close_time(ticker, EPOCH_S + close_s)
    world.run(32.0)
    assert not [o for o in world.own_open() if o.market.ticker == ticker], "quotes in the guard"
    take_any(world)
    world.run(40.0)
    late = [row for row in world.requests("create", close_s - 29.0)
            if ticker.encode() in row.body]
    assert not late, "creates within the guard"


@scene("P15 nothing is placed between a reconnect and its reconcile", strategies=[Steady()],
       evaluate_min_ms="100")
def _(world: World) -> None:
    world.oracle.trouble()
    for _ in range(4):
        world.control.drop_websockets()
        world.until(lambda: not world.own_open(), 10.0, "quotes are pulled")
        lost_s = world.now_s
        world.control.delay(4.5, 1, "positions")
        next_create(world)
        assert reconciled_first(world, lost_s)
        world.run(20.0)


@scene("P29 a market is deactivated and comes back")
def _(world: World) -> None:
    ticker = world.own_open()[0].market.ticker
    world.control.deactivate(ticker)
    world.run(20.0)
    world.control.activate(ticker)
    world.run(3.0)
    gone = list(world.trader.execution.store.live(ticker=ticker))
    theirs = {o.client_order_id for o in world.own_open()}
    assert {o.client_order_id for o in gone if o.status.value == "resting"} <= theirs
    world.until(lambda: any(o.market.ticker == ticker for o in world.own_open()), 60.0,
                "quotes in the reopened market")


@scene("P30 determined, disputed, amended, paid", order_ttl_s="30")
def _(world: World) -> None:
    world.until(lambda: any(world.account.positions.values()), 300.0, "a position")
    ticker = next(iter(world.account.positions))
    world.control.set_close_time(ticker, EPOCH_S + world.now_s + 1.0)
    world.run(3.0)
    world.control.determine(ticker, "yes")
    world.run(0.5)
    world.control.dispute(ticker)
    world.run(10.0)
    world.control.determine(ticker, "no")
    world.until(lambda: world.account.settlements, 60.0, "the payout")
    world.run(40.0)
    assert world.trader.execution.ledger.position_h(ticker) == 0
    rows = [row for row in world.trader.journal.facts("settlement") if row.key == ticker]
    assert [row.body["result"] for row in rows] == ["no"]
    assert not list(world.trader.journal.facts("adjust"))[1:], "booked, not adjusted"


@scene("P31 our clock is 3 s slow", skew_s=-3.0)
def _(world: World) -> None:
    world.run(60.0)
    assert abs(world.trader.clock.offset_s - 3.0) < 0.6
    assert not [row for row in world.account.requests if row.status == 401]


@scene("P31 the exchange's judgement of time jumps by 20 s")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.shift_clock(20.0)
    world.run(60.0)
    assert not world.degraded() <= {"strategy"}, "nobody noticed the refused signatures"
    world.control.shift_clock(0.0)


@scene("P31 our clock drifts by 1 %")
def _(world: World) -> None:
    for _ in range(600):
        world.run(1.0)
        world.step_wall(0.01)
    assert abs(world.trader.clock.offset_s + world.skew_s) < 1.5, "the drift is followed"
    assert not [row for row in world.account.requests if row.status == 401]


@scene("P31 our wall clock is set while we trade")
def _(world: World) -> None:
    for step_s in (0.9, -0.9, 3600.0, -3600.0, -20.0, 20.0):
        before = world.requests("positions")[-1].at_us
        tasks = len(world.trader.supervisor.names)
        world.step_wall(step_s)
        world.run(45.0)
        reads = [row.at_us for row in world.requests("positions") if row.at_us >= before]
        gaps = [(b - a) / 1e6 for a, b in itertools.pairwise(reads)]
        assert max(gaps) <= 34.0, "I31: the pause between two reconciles follows the wall clock"
        assert len(world.trader.supervisor.names) <= tasks + 5
    world.until(lambda: world.is_ready, 60.0, "ready when the clock is right again")


@scene("P32 a second copy is started")
def _(world: World) -> None:
    for _ in range(3):
        world.run(5.0)
        assert world.intrude(), "the second copy was not sent away"


@scene("P33 disk full")
def _(world: World) -> None:
    world.oracle.trouble()
    database = world.trader.journal._db
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count={pages}")
    world.until(lambda: not world.trader.journal.is_writable, 120.0, "the disk is full")
    world.run(6.0)
    before = creates(world)
    world.run(20.0)
    assert creates(world) == before, "a create without a journal"
    assert "journal" in world.degraded()
    order(world, "cancel_all")
    database.execute("PRAGMA max_page_count=1073741823")
    world.until(lambda: world.trader.journal.is_writable, 30.0, "the journal works again")
    for _ in range(5):                  # the disk fills up again in the middle of trading
        world.until(lambda: world.own_open(), 60.0, "an order rests")
        world.run(world.rng.uniform(0.0, 5.0))
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count={pages}")
        world.until(lambda: take_any(world) or not world.trader.journal.is_writable, 120.0)
        world.run(7.0)
        database.execute("PRAGMA max_page_count=1073741823")
        world.until(lambda: world.is_ready, 30.0, "the journal works again")


@scene("P34 stop while the exchange is slow")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.set_latency(1.5)
    next_create(world)
    begun_s = world.now_s
    code = world.stop()
    assert world.now_s - begun_s <= 12.0, f"the stop took {world.now_s - begun_s:.1f} s"
    world.control.heal()
    world.run(3.0)
    assert (code == 0) == (not world.own_open()), f"code {code}, {len(world.own_open())} orders"


@scene("P34 stop while the exchange is silent")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.black_hole(1000, "*")
    begun_s = world.now_s
    code = world.stop()
    assert world.now_s - begun_s <= 12.0
    assert code != 0 or not world.own_open(), "exit 0 and orders rest"
    world.control.heal()
    world.run(70.0)
    assert not world.own_open(), "an order outlives the dead-man bound"


@scene("P35 kill -9 at thirty moments")
def _(world: World) -> None:
    for _ in range(30):
        world.run(world.rng.uniform(0.0, 9.0))
        take_any(world)
        world.run(world.rng.uniform(0.0, 0.5))
        before = world.trader.execution.digest()
        life = world.restart(wait=False)
        while life.coordinator.house.machine.state.value in ("startup", "initializing"):
            world.run(0.001)
        house = life.coordinator.house
        assert house.execution.digest() == before, "I15: another state after the replay"
        assert house.journal.verify_chain(), "I16: the chain is broken"
        world.until(lambda: world.is_ready, 60.0, "ready after the kill")
        world.oracle.verdict()


@scene("P35 kill -9 between the bytes of a create and its answer", order_ttl_s="300")
def _(world: World) -> None:
    for moment_s in (0.0, 0.004, 0.01, 0.03, 0.06, 0.1):
        world.run(150.0)  # five deaths in ten minutes are a crash loop, and pause
        before = creates(world)
        while creates(world) == before:
            world.run(0.004)
        key = list(world.oracle.sent_creates)[-1]
        world.run(moment_s)
        world.restart(wait=False)
        world.until(lambda: world.is_ready, 90.0, "ready after the kill")
        world.until(lambda key=key: key not in {o.client_order_id for o in world.own_open()}, 35.0,
                    "the order of the dead is cancelled")
        world.until(lambda: len(world.own_open()) >= 1, 120.0, "trading again")


@scene("P35 five unclean starts in ten minutes pause until a person looks")
def _(world: World) -> None:
    for _ in range(5):
        world.run(20.0)
        world.restart(wait=False)
        world.until(lambda: world.is_ready, 90.0, "ready after the kill")
    before = creates(world)
    world.run(60.0)
    assert creates(world) == before
    assert "crash_loop" in world.lives[-1].coordinator.house.container.now.gate_why


@scene("P35 killed while an intent stands in its own file only")
def _(world: World) -> None:
    for _ in range(3):
        life = world.lives[-1]

        def die(kind: str, is_after: bool, life: Life = life) -> None:
            is_its_own = sim.PROCESS.get() == life.name and life.exit_code is None
            if is_its_own and not is_after and world.trader.journal._intents.waiting:
                world.kill()

        MortalDb.on_step = die
        world.until(lambda life=life: life.exit_code is not None, 120.0, "an intent, and the end")
        MortalDb.on_step = staticmethod(lambda *_: None)
        world.start(wait=False)
        world.prove_replay()
        known = {fact.key for fact in world.trader.journal.facts("intent")}
        assert world.oracle.sent_creates.keys() <= known, "a create whose intent is lost"
        world.until(lambda: world.is_ready, 60.0, "ready after the death")


@scene("P35 the host dies: nothing outlives the dead-man bound")
def _(world: World) -> None:
    life = world.lives[-1]
    world.loop.kill(life.name)
    life.exit_code = -9
    world.run(61.0)
    assert not world.own_open()
    world.net.kill(life.name)
    world.locked.release_lock()


@scene("P36 torn journal tail")
def _(world: World) -> None:
    for _ in range(5):
        world.run(world.rng.uniform(5.0, 15.0))
        world.oracle.trouble()
        world.restart(lambda home: tear(home, world.rng), wait=False)
        world.oracle.forget_lost_rows()
        world.until(lambda: world.is_ready, 90.0, "ready after the torn tail")
        world.until(lambda: not world.oracle.difference(), 45.0, "figures found again")


@scene("P36 the journal of the last minutes is lost", order_ttl_s="300")
def _(world: World) -> None:
    old = world.folder / "old"
    shutil.copytree(world.lives[-1].home, old)
    known = {o.client_order_id for o in world.own_open()}
    for _ in range(4):
        take_any(world)
        world.run(10.0)
    world.until(lambda: any(o.client_order_id not in known for o in world.own_open()), 120.0,
                "an order the old journal does not know")

    def lose(home: Path) -> None:
        for name in ("journal.sqlite3", "journal.sqlite3-wal"):
            shutil.copy(old / name, home / name)

    world.oracle.trouble()
    world.control.reject_next(20, 503, match="delete_group")  # that would take the orders along
    world.restart(lose, wait=False)
    world.oracle.forget_lost_rows()
    world.until(lambda: world.is_ready, 60.0, "ready with the old journal")
    world.until(lambda: not world.strangers(), PASS_S,
                "the orders nobody remembers are cancelled")
    world.until(lambda: not world.oracle.difference(), 45.0, "figures found again")


@scene("P36 a flipped byte in an old page")
def _(world: World) -> None:
    def flip(home: Path) -> None:
        wal, base = home / "journal.sqlite3-wal", home / "journal.sqlite3"
        database = sqlite3.connect(base)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        assert not wal.exists() or not wal.stat().st_size
        data = bytearray(base.read_bytes())
        at = data.index(b'"unbooked_h":')  # stands in intents only, which are chained
        data[at + 3] ^= 1
        base.write_bytes(data)

    world.kill(flip)
    life = world.start(wait=False)
    world.run(20.0)
    backups = list((life.home / "backups").iterdir())
    assert backups, "no copy was set aside"
    assert creates_of(world, life) == 0, "traded on a damaged journal"
    world.run(70.0)
    assert not world.own_open()
    world.stop()


def creates_of(world: World, life: Life) -> int:
    """Creates that left in one life."""
    run = life.coordinator.house.facts.run_id
    return sum(f"-{run}-" in key for key in world.oracle.sent_creates)


@scene("P37 the loop stands still for 3 s")
def _(world: World) -> None:
    world.oracle.trouble()
    for _ in range(3):
        world.loop.now_s += 3.0
        world.run(0.3)
        assert world.trader.health.worst_lag_s >= 2.5, "the lag was not seen"
        world.until(lambda: "loop" in world.degraded(), 6.0, "degraded: loop")
        world.run(20.0)


@scene("P38 kill with creates in flight, and after a restart")
def _(world: World) -> None:
    world.control.set_latency(0.3)
    next_create(world)
    world.control.heal()
    order(world, "kill")
    world.oracle.is_killed = True
    assert world.trader.container.now.halt is not None
    world.until(lambda: not world.own_open(), 3.0, "own orders gone within 3 s")
    world.run(20.0)
    assert not world.own_open()
    world.restart(wait=False)
    world.run(60.0)
    assert world.trader.container.now.halt is not None, "the restart forgot the kill"
    assert not creates_of(world, world.lives[-1])
    assert not world.own_open()


@scene("P19 an order of unknown fate while all reads fail")
def _(world: World) -> None:
    world.oracle.trouble()
    world.control.lose_answers(1, "reset")
    world.control.drop_frames(6, "user_order")
    key = next_create(world)
    for match in ("orders", "fills", "historical_orders", "user_data_timestamp"):
        world.control.reject_next(40, 503, match=match)
    world.run(25.0)
    assert order_of(world, key).status.value != "never_accepted", "an error counted as an absence"
    world.control.heal()
    assert resolved(world, key, 20.0) != "never_accepted"


@scene("I6 a limit of one contract bites", max_position="1", max_orders="3")
def _(world: World) -> None:
    world.run(240.0)
    assert world.trader.decisions.records.funnel["market_maker", "limit_position"] > 0


@scene("I6 an amend of a partly filled order that is not booked yet", max_position="1",
       evaluate_min_ms="100")
def _(world: World) -> None:
    world.oracle.trouble()
    for _ in range(20):
        world.control.drop_frames(1, "fill")
        resting = world.own_open()
        if resting and resting[0].remaining_h > 50:
            take_out(world, resting[0], world.rng.randint(10, 90))
        world.run(5.0)


@scene("I6 a limit of loss bites", max_market_loss_dollars="0.7", max_event_loss_dollars="1")
def _(world: World) -> None:
    for _ in range(24):
        world.run(10.0)
        take_any(world)
    assert any(world.account.positions.values()), "something is held"


@scene("I12 more is wanted than the budget holds", strategies=with_ladder, markets="6",
       max_exposure_dollars="1000", max_event_loss_dollars="1000", rate_share="0.95")
def _(world: World) -> None:
    for _ in range(3):
        order(world, "pause")
        world.until(lambda: not world.own_open(), 30.0, "all cancelled")
        world.run(2.0)
        before = world.trader.execution.refusals["rate_budget"]
        resume(world)
        world.until(lambda now=before: world.trader.execution.refusals["rate_budget"] > now, 60.0,
                    "the budget is used up")
        order(world, "pause")
        world.until(lambda: not world.own_open(), 1.5, "cancels leave all the same")
        resume(world)
        world.until(lambda: len(world.own_open()) >= 30, 60.0, "all ladders rest again")


@scene("I6 sizes of five contracts, filled in pieces", strategy_params='{"size_h": 500}')
def _(world: World) -> None:
    for _ in range(25):
        resting = world.own_open()
        if resting and resting[0].remaining_h > 150:
            take_out(world, resting[0], world.rng.randint(1, 140))
        world.run(4.0)
        world.until(lambda: not world.oracle.difference(), 4.0, "equal after each piece")
    assert len(world.account.fills) > 8


class Restless:
    """A strategy that moves its one bid to and fro, a cent each five seconds."""

    Params = object
    name = "restless"
    slots = frozenset({"yes"})
    expectation = "amends"

    def decide(self, view: Any) -> Any:
        price_cc = view.best_bid_cc(trader.Side.YES) - 100 * (1 + view.now_ms // 5000 % 2)
        live = next((o for o in view.orders if o.slot == "yes"), None)
        count_h = live.count_h if live else 500
        want = trader.Want(slot="yes", side=trader.Side.YES, price_cc=price_cc, count_h=count_h)
        return trader.Decision(wants=(want,), reason=trader.Reason.ACTED)


@scene("I6 sizes of five contracts, moved while partly filled", strategies=lambda: [Restless()],
       max_position="100", max_market_loss_dollars="100")
def _(world: World) -> None:
    moved: set[str] = set()
    for _ in range(12):
        resting = world.own_open()
        if resting and resting[0].remaining_h > 150:
            take_out(world, resting[0], world.rng.randint(1, 100))
            before = {row.order_id: row.price_cc for row in world.own_open() if row.filled_h}
            world.run(6.0)
            moved |= {row.order_id for row in world.own_open()
                      if before.get(row.order_id, row.price_cc) != row.price_cc}
        else:
            world.run(1.0)
        world.until(lambda: not world.oracle.difference(), 4.0, "equal after each move")
    assert moved, "no partly filled order was ever amended"


@scene("I2 fills between the reads of a reconcile", switches={"read_lag_ms": "0"})
def _(world: World) -> None:
    world.control.delay_frames(0.8)
    api, run = world.exchange.api, world.exchange.api.run
    hits = [0]

    def then_fill(route: Any, call: Any) -> Any:
        answer = run(route, call)
        if route.name == "fills" and world.own_open() and world.rng.random() < 0.7:
            hits[0] += 1
            take_out(world, world.own_open()[0], by=world.exchange.control)
        return answer

    api.run = then_fill
    world.run(240.0)
    del api.run
    assert hits[0] > 2
    assert not list(world.trader.journal.facts("adjust"))[1:], "a fill on its way was adjusted"


@scene("I2 an exchange that reserves the cost of resting orders",
       switches={"reserve_at_placement": "on", "read_lag_ms": "0"})
def _(world: World) -> None:
    for _ in range(6):
        take_any(world)
        world.run(30.0)
    assert world.account.fills, "a position, so that some orders close and lock nothing"
    assert not list(world.trader.journal.facts("adjust"))[1:], "what is locked was adjusted"


@scene("I2 a new start does not believe reads older than its journal",
       switches={"read_lag_ms": "5000"})
def _(world: World) -> None:
    for _ in range(4):
        take_any(world)
        world.run(1.0)
        world.restart()
        world.until(world.own_open, 60.0, "quotes again")
    assert len(world.account.fills) >= 3
    assert not list(world.trader.journal.facts("adjust"))[1:], "an old read was adopted"


def group_is_triggered(world: World) -> None:
    """The exchange's fill limiter fires; the trader sees it, waits, and goes on in a new group."""
    world.oracle.trouble()
    group = world.trader.execution.group_id
    engine = world.exchange.engine
    world.until(lambda: feed_group(world, group), 300.0, "the group triggers")
    world.oracle.sometimes["group limit triggered"] += 1
    assert not world.own_open(), "a triggered group holds no orders"
    world.run(8.0)
    refused = [row for row in world.requests("create", world.now_s - 8.0) if row.status != 201]
    assert len(refused) <= 6, f"{len(refused)} creates into a triggered group"
    world.until(lambda: world.trader.execution.group_id not in (None, group), 30.0, "a new group")
    assert not engine.groups[world.trader.execution.group_id].is_triggered
    world.until(lambda: len(world.own_open()) >= 1, 60.0, "quotes in the new group")


def feed_group(world: World, group_id: str) -> bool:
    """Let the crowd take all our orders at once; True when that was more than the group allows."""
    for resting in world.own_open():
        if resting.status == "resting":
            take_out(world, resting)
    return bool(world.exchange.engine.groups[group_id].is_triggered)


scene("group limit triggers", group_contracts="1")(group_is_triggered)
scene("group limit triggers, told by one event", group_contracts="1",
      switches={"group_trigger_events": "triggered_only"})(group_is_triggered)


class Rogue:
    """A strategy that misbehaves in the way it is told."""

    Params = object
    name = "rogue"
    slots = frozenset({"a"})
    expectation = "misbehaves"

    def __init__(self, how: str) -> None:
        self.how = how

    def decide(self, view: Any) -> Any:
        match self.how:
            case "raise":
                raise KeyError("rogue")
            case "none":
                return None
            case "nan":
                want = trader.Want(slot="a", side=trader.Side.YES, price_cc=float("nan"),
                                   count_h=100)
            case "negative":
                want = trader.Want(slot="a", side=trader.Side.YES, price_cc=500, count_h=-100)
            case "huge":
                want = trader.Want(slot="a", side=trader.Side.YES, price_cc=500, count_h=10**9)
            case _:
                step = 100 * (1 + view.evaluation % 3)
                want = trader.Want(slot="a", side=trader.Side.YES, price_cc=step, count_h=100,
                                   urgent=True)
        return trader.Decision(wants=(want,), reason=trader.Reason.ACTED)


def play_rogue(how: str) -> World:
    """One world in which a misbehaving strategy sits beside a market maker."""
    maker = trader.load_strategies(("market_maker",), {}, None, allow_experimental=False,
                                   is_production=False)
    with World(9, strategies=[*maker, Rogue(how)], evaluate_min_ms="100") as world:
        world.start(wait=False)
        world.run(60.0)
        assert any(world.last_strategy(key) == "market_maker"
                   for key in world.oracle.sent_creates), "the other strategy goes on"
        if how not in ("flood", "huge"):
            assert not world.trader.decisions.benches["rogue"].is_on
        if how != "flood":
            assert not [key for key in world.oracle.sent_creates
                        if world.last_strategy(key) == "rogue"]
        per_minute = len(world.requests("create")) + len(world.requests("amend"))
        assert per_minute <= 2 * 120, f"{per_minute} commands within a minute"
        if how == "huge":
            assert world.trader.decisions.records.funnel["rogue", "limit_order_size"] > 0
        world.calm_with(("strategy",))
        world.stop()
        world.oracle.verdict()
        return world


# ======================================================================================
# §T4 MIXES
# Purpose:   Many faults at once, drawn from one seed, over random switches of the exchange.
# Principle: Trouble, then calm, then trouble again; after each calm every figure is equal.
# ======================================================================================
MIX_SWITCHES = {
    # Those of RELIABILITY §4.4.
    "dedupe": ("lifetime_409", "open_orders_only", "returns_existing"),
    "dedupe_scope": ("account", "subaccount", "shard"),
    "post_only_cross_is_listed": ("on", "off"),
    "skew_window_s": ("15", "10", "30"),
    "read_lag_ms": ("0-500", "0", "0-2000", "5000"),
    "reserve_at_placement": ("off", "on"),
    "balance_check_counts": ("order", "orders", "fees", "orders_and_fees"),
    "group_trigger_events": ("orders_and_triggered", "triggered_only"),
    "match_message_order": ("standard", "seeded", "fill_first"),
    "closed_market_code": ("market_inactive/400", "market_closed/400", "not_found/404",
                           "market_inactive/409"),
    "plain_cancel_reason": ("Decrease", "none"),
    "reduce_to_zero": ("cancels", "refused"),
    "batch_over_bucket": ("refused", "part_accepted"),
    "batch_error_has_client_id": ("off", "on"),
    "resubscribe_reply": ("ok", "subscribed"),
    "unknown_ticker_on_ws": ("error_11", "silent"),
    "fee_rounding": ("current", "june"),
    "fee_precision": ("direct", "app"),
    "ask_fill_legacy_fields": ("side_no", "side_yes", "absent"),
    "position_cost": ("average", "fifo"),
    "server_pings": ("10", "75"),
    # More that the exchange leaves open.
    "total_traded": ("all_fills", "opening"),
    "snapshot_empty_side": ("list", "absent"),
    "get_snapshot_ok": ("off", "on"),
    "sending_ts_ms": ("on", "off"),
    "add_markets_snapshot": ("on", "off"),
    "unsubscribed_seq": ("0", "1"),
    "market_pause_cancel": ("works", "refused"),
    "batch_status": ("201", "400"),
    "liquidity_dollars": ("sent", "absent"),
    "missing_field_code": ("invalid_parameters", "bad_request"),
    "portfolio_mark": ("last", "bid", "cost"),
}


class Mix:
    """One seeded run: trouble and calm in turns."""

    def __init__(self, world: World) -> None:
        self.world, self.rng = world, world.rng
        self.is_paused = False
        self.last_garble_s = -1e9
        kinds = list(FAULTS)
        count = self.rng.randint(4, len(kinds))
        self.kinds = self.rng.sample(kinds, count)
        self.mean_s = self.rng.choice((2.0, 5.0, 12.0))

    def trouble(self, seconds: float) -> None:
        """Random faults for so long."""
        world = self.world
        world.oracle.trouble()
        world.oracle.expects_429 = True
        until_s = world.now_s + seconds
        while world.now_s < until_s:
            world.run(min(self.rng.expovariate(1 / self.mean_s) + 0.05, 30.0))
            kind = self.rng.choice(self.kinds)
            world.oracle.notes.append(f"{world.now_s:.2f} {kind}")
            world.oracle.sometimes[f"fault {kind}"] += 1
            FAULTS[kind](self)
            world.oracle.verdict()

    def calm(self) -> None:
        """Heal, go on if a breaker halted, compare everything."""
        world = self.world
        world.calm()
        world.oracle.expects_429 = False
        halt = world.trader.container.now.halt
        if halt is not None:
            world.oracle.sometimes[f"halted: {halt.why.partition(':')[0]}"] += 1
            world.run(2.0)
            world.oracle.is_killed = False
            order(world, "rearm", to="open", override=True)
            world.run(1.0)
        if world.trader.container.now.gate.value == "paused":  # by us, or by many starts in a row
            resume(world)
            self.is_paused = False

    def own(self) -> Any:
        """One of our resting orders, or None."""
        mine = self.world.own_open()
        return self.rng.choice(mine) if mine else None


def _crash(mix: Mix) -> None:
    if mix.rng.random() < 0.5:          # between the bytes of a create and its answer
        await_create(mix)
        mix.world.run(mix.rng.uniform(0.0, 0.12))
    mix.world.restart(wait=False)


def await_create(mix: Mix) -> bool:
    """Let at most ten seconds pass until the next create leaves."""
    before, until_s = creates(mix.world), mix.world.now_s + 10.0
    while creates(mix.world) == before and mix.world.now_s < until_s:
        mix.world.run(0.01)
    return creates(mix.world) > before


def _fill(mix: Mix) -> None:
    resting = mix.own()
    if resting is not None:
        part = mix.rng.random() < 0.7 and resting.remaining_h > 2
        take_out(mix.world, resting, mix.rng.randint(1, resting.remaining_h - 1) if part else None)


def _fill_before_ack(mix: Mix) -> None:
    """A new order is taken before its answer comes; the frame that it rests is lost."""
    world, known = mix.world, {order.client_order_id for order in mix.world.own_open()}
    world.oracle.trouble()
    world.control.delay(4.0, n=3, match="create", before=False)
    world.control.drop_frames(3, "user_order")
    for _ in range(200):
        fresh = [o for o in world.own_open() if o.client_order_id not in known]
        if fresh:
            take_out(world, fresh[0])
            break
        world.run(0.1)
    world.run(10.0)


def _cancel_from_outside(mix: Mix) -> None:
    resting = mix.own()
    if resting is not None:
        mix.world.control.cancel(resting.order_id)


def _foreign(mix: Mix) -> None:
    world = mix.world
    ticker = mix.rng.choice(list(world.trader.market_data.books) or [""])
    market = world.exchange.engine.markets.get(ticker)
    if market is None or market.status != "active" or market.book.bids.best_cc is None:
        return
    price_cc = max(100, market.book.bids.best_cc - 100 * mix.rng.randint(0, 5))
    name = f"manual-{world.now_s:.3f}"
    order_id = world.control.place(ticker, "bid", f"{price_cc / 10_000:.4f}", "1.00", name)
    world.oracle.foreign.add(order_id)


def _pause_market(mix: Mix) -> None:
    tickers = [t for t, m in mix.world.exchange.engine.markets.items() if m.status == "active"]
    if tickers:
        ticker = mix.rng.choice(tickers)
        mix.world.control.deactivate(ticker)
        mix.world.run(mix.rng.uniform(0.5, 8.0))
        mix.world.control.activate(ticker)


def _pause_exchange(mix: Mix) -> None:
    if mix.rng.random() < 0.4 and await_create(mix):
        mix.world.oracle.sometimes["pause in the middle of an order"] += 1
    (mix.world.control.pause_trading if mix.rng.random() < 0.6 else
     mix.world.control.pause_exchange)()
    mix.world.run(mix.rng.uniform(1.0, 25.0))
    mix.world.control.resume()


def _outage(mix: Mix) -> None:
    mix.world.net.is_down = True
    mix.world.net.cut()
    mix.world.run(mix.rng.uniform(0.5, 20.0))
    mix.world.net.is_down = False


def _garble(mix: Mix) -> None:
    if mix.world.now_s - mix.last_garble_s > 40.0:
        mix.last_garble_s = mix.world.now_s
        match = mix.rng.choice(("create", "amend", "cancel", "batch_cancel", "orders", "fills",
                                "positions"))
        mix.world.control.garble_next(mix.rng.choice(sim.GARBLES), match=match)


def _mute(mix: Mix) -> None:
    mix.world.control.mute_websockets()
    mix.world.run(mix.rng.uniform(1.0, 15.0))
    mix.world.control.mute_websockets(False)


def _late_frames(mix: Mix) -> None:
    mix.world.control.delay_frames(mix.rng.uniform(0.1, 6.0))
    mix.world.run(mix.rng.uniform(1.0, 10.0))
    mix.world.control.delay_frames(0.0)


def _full_disk(mix: Mix) -> None:
    mix.world.fill_disk()
    mix.world.run(mix.rng.uniform(1.0, 15.0))
    if mix.world.trader.journal._db is None:
        return                          # the process cannot even open it: the heal frees the disk
    was_seen = not mix.world.trader.journal.is_writable
    mix.world.fill_disk(False)
    mix.world.run(6.0)
    if was_seen and mix.world.trader.journal.is_writable:
        mix.world.oracle.sometimes["disk-full recovered"] += 1


def _torn_tail(mix: Mix) -> None:
    mix.world.restart(lambda home: tear(home, mix.rng), wait=False)
    mix.world.oracle.forget_lost_rows()
    mix.is_paused = mix.is_paused and mix.world.trader.container.now.gate.value == "paused"
    mix.world.oracle.sometimes["torn tail recovered"] += 1  # calm() proves it


def tear(home: Path, rng: random.Random) -> None:
    """Cut some bytes off the journal's end."""
    wal = home / "journal.sqlite3-wal"
    size = wal.stat().st_size if wal.exists() else 0
    if size:
        os.truncate(wal, max(0, size - rng.randrange(1, min(size, 9_000) + 1)))


def _death_inside(mix: Mix) -> None:
    """Die at a statement of the journal or at a write, before or after it."""
    kind = mix.rng.choice(("execute", "write"))
    mix.world.light(kind, mix.rng.randint(1, 30), mix.rng.random() < 0.5)
    until_s = mix.world.now_s + 20.0
    while mix.world.fuse is not None and mix.world.now_s < until_s:
        mix.world.run(0.1)
    is_dead, mix.world.fuse = mix.world.lives[-1].exit_code is not None, None
    if is_dead:
        mix.world.start(wait=False)
        mix.world.prove_replay()


def _stop_and_start(mix: Mix) -> None:
    mix.world.stop()
    mix.world.start(wait=False)


def _deliver_twice(mix: Mix) -> None:
    if mix.world.has_lasting_ids:       # else the exchange itself would take it for a new order
        deliver_twice(mix.world)


def _very_late_create(mix: Mix) -> None:
    mix.world.control.delay(mix.rng.uniform(35.0, 55.0))


def _settle(mix: Mix) -> None:
    """A market closes, is determined, disputed, and determined anew."""
    world = mix.world
    live = [t for t, m in world.exchange.engine.markets.items() if m.status == "active"]
    if not live:
        return
    ticker = mix.rng.choice(live)
    world.control.set_close_time(ticker, EPOCH_S + world.now_s + mix.rng.uniform(0.5, 40.0))
    until_s = world.now_s + 45.0
    while world.exchange.engine.markets[ticker].status == "active" and world.now_s < until_s:
        world.run(0.2)
    with contextlib.suppress(sim.Refusal):  # the exchange's own timer may be quicker
        world.control.determine(ticker, mix.rng.choice(("yes", "no")))
        world.run(0.3)
        world.control.dispute(ticker)
        world.run(mix.rng.uniform(0.5, 10.0))
        world.control.determine(ticker, mix.rng.choice(("yes", "no")))
        world.oracle.sometimes["settlement amended"] += 1


def _move_close(mix: Mix) -> None:
    world = mix.world
    live = [t for t, m in world.exchange.engine.markets.items() if m.status == "active"]
    if live:
        ticker = mix.rng.choice(live)
        world.control.set_close_time(ticker, EPOCH_S + world.now_s + mix.rng.uniform(20.0, 60.0))
        world.run(mix.rng.uniform(1.0, 15.0))
        if world.exchange.engine.markets[ticker].status == "active":
            world.control.set_close_time(ticker, EPOCH_S + world.now_s + 7_200.0)


def _second_start(mix: Mix) -> None:
    if mix.world.lives[-1].coordinator is not None and mix.world.intrude():
        mix.world.oracle.sometimes["second start refused"] += 1
    else:
        mix.world.oracle.blame("I22", "a second copy was not sent away")


def _step_clock(mix: Mix) -> None:
    world = mix.world
    if abs(world.skew_s) < 30.0:
        world.step_wall(mix.rng.choice((-1, 1)) * mix.rng.uniform(0.5, 20.0))
        world.oracle.sometimes["clock step"] += 1


def _kill_switch(mix: Mix) -> None:
    """Kill, best while a command is on its way."""
    world = mix.world
    until_s = world.now_s + 5.0
    while not world.trader.execution.in_flight and world.now_s < until_s:
        world.run(0.01)
    if world.trader.execution.in_flight:
        world.oracle.sometimes["kill with commands in flight"] += 1
    begun_s = world.now_s
    order(world, "kill")
    assert world.trader.container.now.halt is not None, "the kill was not latched"
    world.oracle.is_killed = True
    world.oracle.notes.append(f"{begun_s:.2f} kill")


def _group(mix: Mix) -> None:
    """The crowd takes all our orders at once."""
    world = mix.world
    group = world.trader.execution.group_id
    if group in world.exchange.engine.groups and feed_group(world, group):
        world.oracle.sometimes["group limit triggered"] += 1


def _stall(mix: Mix) -> None:
    mix.world.loop.now_s += mix.rng.uniform(0.05, 3.0)
    mix.world.oracle.watchman.stalled_s = mix.world.now_s


def _pause_trader(mix: Mix) -> None:
    if mix.is_paused or mix.world.trader.container.now.halt is not None:
        return
    order(mix.world, "pause")
    mix.is_paused = mix.world.trader.container.now.gate.value == "paused"


WRITES = ("create", "amend", "cancel", "batch_cancel")
FAULTS: dict[str, Callable[[Mix], Any]] = {
    "lose answer": lambda mix: mix.world.control.lose_answers(
        1, mix.rng.choice(("reset", "hang")), mix.rng.choice(WRITES)),
    "black hole": lambda mix: mix.world.control.black_hole(
        1, mix.rng.choice((*WRITES, "orders", "fills", "positions", "balance"))),
    "delay": lambda mix: mix.world.control.delay(
        mix.rng.uniform(0.1, 22.0), match=mix.rng.choice(WRITES), before=mix.rng.random() < 0.6),
    "5xx": lambda mix: mix.world.control.reject_next(
        1, mix.rng.choice((500, 502, 503, 504)), match=mix.rng.choice((*WRITES, "*"))),
    "reset": lambda mix: mix.world.control.reset_next(1, mix.rng.choice(("*", "write"))),
    "garble": _garble,
    "429": lambda mix: mix.world.control.too_many_requests(mix.rng.uniform(0.2, 4.0)),
    "401": lambda mix: mix.world.control.unauthorised(mix.rng.uniform(0.2, 5.0)),
    "slow writes": lambda mix: mix.world.control.set_latency(mix.rng.choice((0.0, 0.2, 1.5))),
    "drop frames": lambda mix: mix.world.control.drop_frames(
        mix.rng.randint(1, 4), mix.rng.choice(("", "orderbook_delta", "fill", "user_order"))),
    "double frames": lambda mix: mix.world.control.duplicate_frames(
        mix.rng.randint(1, 4), mix.rng.choice(("", "orderbook_delta", "fill", "user_order"))),
    "swap frames": lambda mix: mix.world.control.reorder_frames(
        1, mix.rng.choice(("", "orderbook_delta", "fill", "user_order"))),
    "torn frames": lambda mix: mix.world.control.corrupt_frames(1),
    "cut sockets": lambda mix: mix.world.control.drop_websockets(),
    "refuse sockets": lambda mix: (mix.world.control.refuse_websockets(mix.rng.uniform(1, 12)),
                                   mix.world.control.drop_websockets()),
    "end channel": lambda mix: mix.world.control.terminal_error(
        mix.rng.choice((10, 25)), mix.rng.choice(("orderbook_delta", "user_orders", "fill"))),
    "mute": _mute,
    "late frames": _late_frames,
    "outage": _outage,
    "cut all": lambda mix: mix.world.net.cut(),
    "fill": _fill,
    "cancel from outside": _cancel_from_outside,
    "foreign order": _foreign,
    "pause a market": _pause_market,
    "pause the exchange": _pause_exchange,
    "pause the trader": _pause_trader,
    "kill -9": _crash,
    "death inside": _death_inside,
    "torn tail": _torn_tail,
    "stop and start": _stop_and_start,
    "second start": _second_start,
    "disk full": _full_disk,
    "stall": _stall,
    "clock step": _step_clock,
    "kill switch": _kill_switch,
    "deliver twice": _deliver_twice,
    "very late create": _very_late_create,
    "settle": _settle,
    "move the close": _move_close,
    "take all orders": _group,
}


def switches_of(draw: random.Random) -> dict[str, str]:
    """The uncertain rules of one run."""
    return {name: draw.choice(values) for name, values in MIX_SWITCHES.items()}


def run_mix(seed: int, minutes: float = CAMPAIGN_MINUTES) -> World:
    """One seeded run; raises with the seed in the text when an invariant is broken."""
    draw = random.Random(f"mix-{seed}")
    switches = switches_of(draw)
    latency = draw.choice(((0.001, 0.005), (0.005, 0.05), (0.02, 0.2)))
    texts = {"request_timeout_s": draw.choice(("2", "5")), "order_ttl_s": draw.choice(("20", "60")),
             "group_contracts": draw.choice(("1", "20")),
             "max_unknown": draw.choice(("3", "20")), "max_orders": draw.choice(("2", "40")),
             "max_position": draw.choice(("1", "2", "100")),
             "max_market_loss_dollars": draw.choice(("0.8", "10")),
             "evaluate_min_ms": draw.choice(("1000", "2000"))}
    is_busy = draw.random() < 0.06      # many orders: batches, an empty budget
    if is_busy:
        texts |= {"markets": "4", "max_orders": "60", "max_position": "100",
                  "evaluate_min_ms": "4000"}  # bursts, with time between them
    with World(seed, switches=switches, latency=latency, pace=draw.choice((4.0, 6.0, 8.0)),
               maker_fees=draw.random() < 0.7, strategies=with_ladder() if is_busy else None,
               **texts) as world:
        try:
            world.group_rng = random.Random(f"groups-{seed}")
            world.start()
            mix = Mix(world)
            if seed % 10 == 0:          # too rare to wait for
                _fill_before_ack(mix)
                mix.calm()
            while world.now_s < minutes * 60 - 90.0:
                mix.trouble(draw.uniform(20.0, 90.0))
                mix.calm()
                world.run(draw.uniform(5.0, 30.0))
                world.oracle.verdict()
            world.run(max(0.0, minutes * 60 - world.now_s))
            world.calm()
            world.stop()
            world.oracle.verdict()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}\n{world.story()}\nrepeat: "
                                 f"python test_simulation.py --seeds {seed}..{seed} "
                                 f"--minutes {minutes:g}") from error
    return world


# ======================================================================================
# §T5 PLANTED BUGS
# Purpose:   How strong the oracle is: each small bug, put into a copy, must be caught.
# Principle: A bug is (text of trader.py, text instead); the text must occur exactly once.
# ======================================================================================
@dataclass(frozen=True)
class Bug:
    """One planted bug. `hunters` are parts of names of scenes that are tried before the seeds."""

    name: str
    old: str
    new: str
    hunters: tuple[str, ...] = ()


BUGS = (
    Bug("a create is sent again when its fate is unknown",
        "        self._send(intent.kind, reserved, request, judge)\n",
        "        async def twice() -> OrderOutcome:\n"
        "            outcome = await request\n"
        "            if order is None and outcome.kind is OutcomeKind.UNKNOWN:\n"
        "                outcome = await self._rest.create(intent, self.group_id)\n"
        "            return outcome\n\n"
        "        self._send(intent.kind, reserved, twice(), judge)\n", ("P01",)),
    Bug("an error counts as an absence",
        "                    self.scan_errors += 1  # an error is never an absence\n",
        "                    absences += 1\n"
        "                    if absences >= 3:\n"
        '                        self._execution.give_up(order, "errors")\n', ("P19",)),
    Bug("two absences are enough, however early",
        "        if absences >= ABSENCES_NEEDED and as_of_ms > self._door_ms(order):\n",
        "        if absences >= ABSENCES_NEEDED:\n", ("P03",)),
    Bug("a create without an answer was never sent",
        "            return OrderOutcome(kind=OutcomeKind.UNKNOWN, code=error.code, "
        "message=error.message)\n",
        "            return OrderOutcome(kind=OutcomeKind.NEVER_SENT, code=error.code, "
        "message=error.message)\n", ("P02", "P03")),
    Bug("a 5xx is a refusal",
        "    elif 400 <= answer.status < 500 and answer.status != 408 and",
        "    elif answer.status >= 500 or 400 <= answer.status < 500 and answer.status != 408 and",
        ("P04",)),
    Bug("409 already exists is a plain refusal",
        "            kind = OutcomeKind.DUPLICATE\n        elif not is_create",
        "            kind = OutcomeKind.REFUSED\n        elif not is_create", ("P05",)),
    Bug("an unreadable answer to a create is a refusal",
        '        kind=OutcomeKind.UNKNOWN, status=answer.status, code="unreadable_answer"',
        '        kind=OutcomeKind.REFUSED, status=answer.status, code="unreadable_answer"',
        ("P06", "P07")),
    Bug("a late accept is ignored",
        "        if is_given_up and is_alive:\n", "        if False:\n", ("P03",)),
    Bug("a cancel without an answer counts as done",
        "                self.on_unknown(order)\n            case _:\n                assert_never",
        '                self._keep(replace(order, status=OrderStatus.CANCELED), "gone")\n'
        "            case _:\n                assert_never", ("P09", "P10", "P13")),
    Bug("the intent is not journaled",
        '            self._journal.fact("intent", intent.client_order_id, row_of(intent))\n',
        "            pass\n", ("P01",)),
    Bug("a full disk does not stop creates",
        '            return refusal(Reason.JOURNAL_UNWRITABLE, str(error), "writable")\n',
        "            pass\n", ("P33",)),
    Bug("the kill is forgotten at a restart",
        "        self._store_halt(halt)\n        log_guard", "        log_guard", ("P38",)),
    Bug("client ids begin again at every start",
        '        return f"{self.root}{self.run}-{self._next}"',
        '        return f"{self.root}0-{self._next}"', ("P35",)),
    Bug("orders of an earlier life are left alone",
        "            is_strange = not is_own or not order.strategy\n",
        "            is_strange = False\n", ("P36 the journal",)),
    Bug("a gap leaves the books as they are",
        "        self.on_gap(channel.name, why)\n        return True\n", "        return True\n",
        ("P16",)),
    Bug("a repeated delta is applied again",
        "        if channel is None or seq <= channel.seq:\n"
        "            is_reply = kind in _REPLY_KINDS\n",
        "        if channel is not None and seq == channel.seq:\n            return True\n"
        "        if channel is None or seq <= channel.seq:\n"
        "            is_reply = kind in _REPLY_KINDS\n", ("P17",)),
    Bug("a dead stream leaves the gate open",
        "        if not self._house.stream.is_ready:\n"
        "            self._guard.degrade(Degraded.ORDERBOOK,",
        "        if not self._house.stream.is_ready:\n            return\n"
        "            self._guard.degrade(Degraded.ORDERBOOK,", ("P15",)),
    Bug("orders rest without an expiry",
        "        body[\"expiration_time\"] = intent.expires_at_ms // 1000\n    if group_id",
        "        body[\"expiration_time\"] = 10 * intent.expires_at_ms // 1000\n    if group_id",
        ("P32",)),
    Bug("orders survive a pause",
        '        "cancel_order_on_pause": True,\n', '        "cancel_order_on_pause": False,\n',
        ("P32",)),
    Bug("a determined market is paid at once",
        "        market = event.market\n"
        '        if market.status == "finalized" and market.settlement_cc is not None:\n',
        "        market = event.market\n"
        "        if market.result and True:\n"
        '            market = replace(market, settlement_cc=10_000 * (market.result == "yes"))\n',
        ("P30",)),
    Bug("the close guard is gone",
        "        if left_ms <= self._config.close_guard_s * 1000:\n", "        if False:\n",
        ("P28",)),
    Bug("a difference is believed at first sight",
        "        if suspects != self._suspects:\n"
        "            self._suspects, self._suspected_ms = suspects, self._clock.now_ms()\n"
        "            return False\n"
        "        since_ms = max(self._suspected_ms, self._execution.changed_at_ms)\n",
        "        since_ms = -10**15\n", ("P23", "P30", "I2")),
    Bug("every order on the account is ours",
        "        return client_order_id is not None and client_order_id.startswith(self.root)\n",
        "        return client_order_id is not None\n", ("P24",)),
    Bug("the position limit looks at one order only",
        "    reach_h = book.reach_h(ticker, side, without=replaced) + extra[2]\n",
        "    reach_h = extra[2]\n", ("I6",)),
    Bug("the loss limit forgets what is held",
        "        return worst_loss_ud(self._positions.get(ticker), orders)\n",
        "        return worst_loss_ud(None, orders)\n", ("I6",)),
    Bug("an amend forgets fills that are not booked yet",
        "        return self.count_h + self.unbooked_h\n", "        return self.count_h\n",
        ("I6 an amend",)),
    Bug("cash forgets the fees",
        "            self.cash_ud += moved_ud - fill.fee_ud\n",
        "            self.cash_ud += moved_ud\n", ("P11",)),
    Bug("an amend forgets what was filled",
        '        "count": format_count(intent.filled_h + intent.count_h),\n',
        '        "count": format_count(intent.count_h),\n', ("I6 sizes", "P11")),
    Bug("exit 0 whatever rests",
        "        code = (self._exit_code or ExitCode.OK) if is_done else ExitCode.ORDERS_REMAIN\n",
        "        code = ExitCode.OK\n",
        ("P34",)),
    Bug("the stop leaves the orders",
        "            left = await self.house.trading.leave("
        "limit_s=STOP_LIMIT_S - SHUTDOWN_MARGIN_S)\n",
        "            pass\n", ("P32",)),
    Bug("trading goes on after a reconnect without a reconcile",
        "        self._owed_pass = math.inf  # no pass made without the stream can clear it\n"
        "        if self._trading is not None:\n"
        '            self._guard.degrade(Degraded.RECONCILE, '
        '"a clean reconcile after the reconnect")\n'
        '        self._say.note("connection", f"stream lost: {event.why}", "warning")\n\n'
        "    def on_stream_restored(self, event: StreamRestored) -> None:\n"
        '        """The feed is back; what happened meanwhile is asked for."""\n'
        "        self.judge_books()\n"
        '        self._say.note("connection", f"stream up, connection {event.connects}", "success")'
        '\n        self.owe_reconcile("the stream is back")\n',
        "        pass\n\n"            # the loss and the return ask for it; either is enough
        "    def on_stream_restored(self, event: StreamRestored) -> None:\n"
        "        self.judge_books()\n", ("P15 nothing",)),
    Bug("fills heard on the stream alone are booked",
        "            await self._read_fills()\n", "            pass\n", ("P24 somebody trades",)),
    Bug("a refused key is tried without a pause",
        "        if now_s - self._refused_at_s < AUTH_PAUSE_S:\n            return True\n",
        "", ("P25",)),
    Bug("the lock is not taken",
        "        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "        pass\n", ("P32",)),
    Bug("the run token is journaled",
        '            "version": VERSION,\n            "environment": self._house.config.env',
        '            "token": self._house.data_dir.run_token(self._house.clock),\n'
        '            "version": VERSION,\n            "environment": self._house.config.env',
        ("P32",)),
    Bug("names are looked up past the connector",
        '        return decode_exchange_status(await self._get("status"))\n',
        "        with contextlib.suppress(OSError):\n"
        '            await asyncio.get_running_loop().getaddrinfo("ping.invalid", 443)\n'
        '        return decode_exchange_status(await self._get("status"))\n', ("P32",)),
    Bug("intervals follow the wall clock",
        "        return self._base_s + (self._real_monotonic() - self._start_s) * self.rate\n",
        "        return (self._epoch_s or 0.0) + self._base_s + (\n"
        "            self._real_monotonic() - self._start_s) * self.rate\n", ("P31 our wall",)),
    Bug("the exchange's state is asked for without a pause",
        "STATUS_POLL_S: Final = 10.0 ", "STATUS_POLL_S: Final = 0.5 ", ("P31 our wall",)),
    Bug("degraded is called running",
        '        return HealthVerdict("degraded", True, reasons)\n',
        '        return HealthVerdict("running", True)\n', ("P15", "P26", "P33")),
    Bug("the journal names no account",
        '            ("account", self._account_tag),\n            ("journal_id"',
        '            ("account", ""),\n            ("journal_id"', ("P32",)),
    Bug("creates may use what is kept for cancels",
        "        keep = 0.0 if kind is CommandKind.CANCEL else self.writes.capacity * "
        "CANCEL_RESERVE\n", "        keep = 0.0\n", ("I12 more",)),
    Bug("a question stays on the list when it is answered",
        "            self._resolving.discard(key)\n", "            pass\n", ("P01",)),
    Bug("a replay forgets the fills",
        "                self._book(fill_of_row(fact.body), fact.at_ms)\n",
        "                pass\n", ("P35",)),
    Bug("a link of the chain covers nothing before it",
        "        chain = _chain_link(self._chain, seq, at_ms, kind, key, text)\n",
        '        chain = _chain_link(b"", seq, at_ms, kind, key, text)\n', ("P35",)),
    Bug("orders may trade with themselves",
        '        "self_trade_prevention_type": "taker_at_cross",\n', "", ("P32",)),
    Bug("orders are in no group",
        '        body["order_group_id"] = group_id\n', "        pass\n", ("P32",)),
    Bug("the position limit takes every order for a purchase of YES",
        "    reach_h = book.reach_h(ticker, side, without=replaced) + extra[2]\n",
        "    reach_h = book.reach_h(ticker, Side.YES, without=replaced) + extra[2]\n",
        ("I6",)),
    Bug("lists older than the first sight of a difference are believed",
        "            self._suspects, self._suspected_ms = suspects, self._clock.now_ms()\n",
        "            self._suspects, self._suspected_ms = suspects, 0\n", ("I2 a new start",)),
    Bug("what orders lock is taken for a loss",
        "        return tuple(rows), 0 if is_locked else cash_difference_ud\n",
        "        return tuple(rows), cash_difference_ud\n", ("I2 an exchange",)),
)


def plant(bug: Bug, folder: Path) -> None:
    """Put a trader.py with the bug into a folder that is looked at before ours."""
    source = Path(trader.__file__).read_text()
    count = source.count(bug.old)
    assert count == 1, f"{bug.name}: its text occurs {count} times"
    (folder / "trader.py").write_text(source.replace(bug.old, bug.new))


def hunt(bug: Bug, seeds: int) -> str:
    """Run scenes and seeds in fresh processes on the planted bug; answers what caught it, or ""."""
    here = str(Path(__file__).parent)
    code = "import sys, test_simulation; sys.exit(test_simulation.main())"
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        plant(bug, Path(folder))
        command = [sys.executable, "-c", code, "--hunt", str(seeds), *bug.hunters]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                              timeout=1800, env={**os.environ, "PYTHONPATH": f"{folder}:{here}"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("CAUGHT")]
    assert done.returncode == len(lines), done.stderr[-2000:]
    return lines[0] if lines else ""


def hunt_here(hunters: list[str], seeds: int) -> int:
    """Inside the copy: the first scene or seed that fails is the catch."""
    assert Path(str(trader.__file__)).parent != Path(__file__).parent, "this is no planted copy"
    for name in [name for name in SCENES if any(part in name for part in hunters)]:
        try:
            play(name)
        except Exception as error:  # noqa: BLE001 - any failure is a catch
            print(f"CAUGHT by {name}: {first_words(error)}")
            return 1
    for seed in range(seeds):
        try:
            run_mix(seed, HUNT_MINUTES)
        except Exception as error:  # noqa: BLE001 - any failure is a catch
            print(f"CAUGHT by seed {seed}: {first_words(error)}")
            return 1
    return 0


def first_words(error: Exception) -> str:
    """What broke, on one line."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    line = where.tb_lineno if where is not None else 0
    return f"{type(error).__name__} in line {line}: {' / '.join(str(error).splitlines()[:3]):.160}"


def hunt_all(seeds: int, only: str) -> int:
    """The whole table; answers how many bugs went uncaught."""
    missed = 0
    for bug in BUGS:
        if only in bug.name:
            caught = hunt(bug, seeds)
            missed += not caught
            print(f"{'caught' if caught else 'MISSED'}  {bug.name}: {caught[7:]}", flush=True)
    return missed


# ======================================================================================
# §T6 TESTS
# ======================================================================================
def test_twenty_minutes_of_trading_agree_with_the_exchange_and_end_clean() -> None:
    with World(1) as world:
        world.start()
        world.run(20 * 60)
        assert len(world.account.fills) >= 20, "a market maker that never trades proves nothing"
        assert sum(fill.fee_ud for fill in world.account.fills) > 0
        assert not world.trader.execution.fee_mismatches, "I33: fees are what our model expects"
        world.calm()
        assert world.stop() == 0
        assert not world.own_open()
        world.oracle.verdict()


@pytest.mark.parametrize("name", list(SCENES))
def test_fault_is_survived(name: str) -> None:
    play(name)


@pytest.mark.parametrize("how", ["raise", "none", "nan", "negative", "huge", "flood"])
def test_P39_rogue_strategy_hurts_only_itself(how: str) -> None:
    play_rogue(how)


@pytest.mark.parametrize("seed", [3, 11])
def test_same_seed_gives_the_same_trace_in_fresh_processes(seed: int) -> None:
    traces = {trace_of(seed, hash_seed) for hash_seed in ("0", "77")}
    assert len(traces) == 1, traces


def trace_of(seed: int, hash_seed: str, **more: str) -> str:
    """Trace hash of a mix, made in a process of its own."""
    places = os.pathsep.join(str(Path(str(m.__file__)).parent) for m in (trader, sim))
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": places, **more}
    command = [sys.executable, __file__, "--trace", str(seed), "--minutes", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True,
                          timeout=110)
    return done.stdout.strip()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bug_fits_the_source(bug: Bug) -> None:
    assert Path(str(trader.__file__)).read_text().count(bug.old) == 1
    assert bug.new != bug.old


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    assert hunt(bug, 50), "neither its scenes nor fifty seeds caught it"


def test_P40_pages_change_nothing_on_the_wire() -> None:
    alone, crowded = (wire_trace(pages) for pages in (0, 24))
    assert [row[1:] for row in alone] == [row[1:] for row in crowded]
    # More timers between two instants round the virtual clock differently, by less than 10 µs.
    assert all(abs(one[0] - other[0]) < 10 for one, other in zip(alone, crowded, strict=True))


def wire_trace(pages: int) -> list[tuple[Any, ...]]:
    """All requests of two minutes, with so many page clients that misbehave."""
    with World(5) as world:
        world.start()
        crowd = PageCrowd(world, pages)
        world.run(120.0)
        crowd.leave()
        assert len(world.oracle.sent_creates) > 3
        assert crowd.answers >= 50 * bool(pages), crowd.answers
        trace = [(row.at_us, row.method, row.path, row.status, row.body)
                 for row in world.account.requests]
        world.calm()
        world.oracle.verdict()
        return trace


class PageCrowd:
    """Page clients over links of their own: pollers, floods, stalled readers, strange hosts."""

    def __init__(self, world: World, count: int) -> None:
        self.world, self.answers = world, 0
        self._net = sim.Net(world.loop, random.Random(99))
        self.visits = (self._poll, self._flood, self._stall, self._stranger)
        self._tasks = [
            world.loop.create_task(self._visit(number), context=sim.context_of("page"))
            for number in range(count)]

    async def _visit(self, number: int) -> None:
        listener = self.world.loop.listener
        assert listener is not None
        connector = sim.MemoryConnector(self._net, listener.factory, self.world.lives[-1].name)
        async with aiohttp.ClientSession("http://127.0.0.1:8005", connector=connector) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                    await self.visits[number % 4](session)
                await asyncio.sleep(0.5)

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        async with session.get("/v3/status") as answer:
            self.answers += answer.status == 200
            await answer.read()

    async def _flood(self, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect("/v3/ws") as socket:
            for _ in range(500):
                await socket.send_str("x" * 1000)
                await asyncio.sleep(0.01)

    async def _stall(self, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect("/v3/ws"):
            await asyncio.sleep(20.0)

    async def _stranger(self, session: aiohttp.ClientSession) -> None:
        async with session.get("/v3/status", headers={"Host": "evil.example"}) as answer:
            assert answer.status in (400, 403, 421), answer.status

    def leave(self) -> None:
        """All close their pages; a visit that broke is told here."""
        for task in self._tasks:
            assert not task.done(), task.exception()
            task.cancel()


# What is judged where: parts of this file that name the invariant, or a test of its own.
CHECKS = {
    "I1": "Oracle.publish Oracle._recount", "I2": "Oracle.calm Oracle._take_row",
    "I3": "Oracle._check_create Oracle.compare", "I4": "Oracle._check_slot Oracle._check_orders",
    "I5": "Oracle._check_create Oracle._on_risky", "I6": "Oracle._check_limits",
    "I7": "Oracle._check_gates", "I8": "Oracle._check_gates", "I9": "Oracle._check_gates",
    "I10": "Oracle._check_form Oracle._check_limits", "I11": "Oracle._check_form",
    "I12": "Watchman._charge Oracle.on_request", "I13": "Oracle.compare",
    "I14": "Oracle._check_books", "I15": "World.prove_replay", "I16": "World.prove_replay",
    "I17": "Oracle._take_order", "I18": "Oracle._check_unknown Oracle._take_row",
    "I19": "Oracle._check_pass", "I20": "Oracle.calm", "I21": "Oracle.on_stop",
    "I22": "Watchman.on_bytes", "I23": "Watchman.at_rest Watchman._check_size Watchman.on_end",
    "I24": "test_I24_no_callback_of_the_trader_takes_a_tenth_of_a_second",
    "I25": "Oracle._check_create", "I26": "Oracle.on_request", "I27": "Watchman._search",
    "I28": "Watchman.on_host Watchman.on_outside",
    "I29": "test_same_seed_gives_the_same_trace_in_fresh_processes",
    "I30": "test_P40_pages_change_nothing_on_the_wire", "I31": "Watchman._check_clock",
    "I32": "Watchman._check_visible", "I33": "Oracle._compare_fees",
    "I34": "Watchman._check_identity",
}


@pytest.mark.parametrize("invariant", [f"I{n}" for n in range(1, 35)])
def test_each_invariant_is_judged_by_name(invariant: str) -> None:
    for place in CHECKS[invariant].split():
        code: Any = sys.modules[__name__]
        for part in place.split("."):
            code = getattr(code, part)
        assert place.startswith("test_") or f'"{invariant}' in inspect.getsource(code), place


def test_each_of_the_forty_faults_has_a_scene() -> None:
    own = {"P39": test_P39_rogue_strategy_hurts_only_itself,
           "P40": test_P40_pages_change_nothing_on_the_wire}
    played = {name.split()[0] for name in SCENES}
    assert {f"P{n:02}" for n in range(1, 41)} - set(own) <= played
    assert all(name in test.__name__ for name, test in own.items())


UNCERTAIN = """dedupe dedupe_scope post_only_cross_is_listed skew_window_s read_lag_ms
    reserve_at_placement balance_check_counts group_trigger_events match_message_order
    closed_market_code plain_cancel_reason reduce_to_zero batch_over_bucket
    batch_error_has_client_id resubscribe_reply unknown_ticker_on_ws fee_rounding fee_precision
    ask_fill_legacy_fields position_cost server_pings""".split()     # RELIABILITY §4.4


@pytest.mark.parametrize("name", UNCERTAIN)
def test_mixes_draw_every_value_of_every_uncertain_rule(name: str) -> None:
    drawn = {switches_of(random.Random(f"mix-{seed}"))[name] for seed in range(CAMPAIGN_SEEDS)}
    assert drawn == set(MIX_SWITCHES[name])
    assert set(sim.SWITCHES[name].values) <= drawn
    assert len(drawn) >= 2


def test_I24_no_callback_of_the_trader_takes_a_tenth_of_a_second(
        monkeypatch: pytest.MonkeyPatch) -> None:
    slow: list[tuple[float, str]] = []
    run = sim._Soon._run

    def timed(handle: Any) -> None:
        begun_s = time.thread_time()
        run(handle)
        took_s = time.thread_time() - begun_s
        if took_s > 0.1 and handle._context.get(sim.PROCESS, "").startswith("trader"):
            slow.append((took_s, repr(handle._callback)))

    with World(12, markets="5", evaluate_min_ms="100", strategies=with_ladder()) as world:
        world.start()
        monkeypatch.setattr(sim._Soon, "_run", timed)
        world.run(180.0)
        monkeypatch.undo()
        assert creates(world) > 40
        world.stop()
    assert not slow, slow


def test_P31_the_host_may_be_in_any_time_zone() -> None:
    traces = {trace_of(3, "0", TZ=zone) for zone in ("UTC", "Pacific/Kiritimati")}
    assert len(traces) == 1


@pytest.mark.parametrize(("at", "day"), [
    ("2026-11-01T03:59:59", "2026-10-31"), ("2026-11-01T04:00:00", "2026-11-01"),
    ("2026-11-02T04:59:59", "2026-11-01"), ("2026-11-02T05:00:00", "2026-11-02"),
    ("2026-03-08T04:59:59", "2026-03-07"), ("2026-03-08T05:00:00", "2026-03-08"),
    ("2026-03-09T03:59:59", "2026-03-08"), ("2026-03-09T04:00:00", "2026-03-09"),
])
def test_P31_the_day_of_profit_is_new_yorks_also_when_its_clocks_change(at: str, day: str) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert trader.new_york_day(int(moment.timestamp() * 1000)) == day


@pytest.mark.process
@pytest.mark.timeout(300)
def test_real_processes_killed_at_random_moments_lose_and_double_nothing() -> None:
    tally = work_real_kills(1, 10)
    assert not tally["broken"]
    assert tally["creates"] > 0
    assert [tally[name] for name in ("duplicates", "lost fills", "orphans")] == [0, 0, 0]


@pytest.mark.process
@pytest.mark.timeout(300)
def test_a_real_process_that_stood_still_and_one_without_disk_space_trade_on() -> None:
    tools = importlib.import_module("test_trader")
    with real_house(2) as (house, exchange):
        bot = house.bot().until_ready()
        tools.eventually_24(lambda: len(exchange.resting()) >= 2, "orders rest")
        bot.signal(signal.SIGSTOP)
        time.sleep(4.0)
        bot.signal(signal.SIGCONT)
        bot.until_ready()
        limit = (house.data / "sim" / "journal.sqlite3-wal").stat().st_size + 20_000
        hard = resource.prlimit(bot.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(bot.process.pid, resource.RLIMIT_FSIZE, (limit, hard))
        tools.eventually_24(lambda: tools.force_fills(exchange) and "journal" in str(
            bot.health().get("reasons")), "the full disk is seen")
        time.sleep(2.0)
        before = len(tools.creates(exchange))
        time.sleep(3.0)
        assert len(tools.creates(exchange)) == before, "a create without a journal"
        resource.prlimit(bot.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        tools.eventually_24(lambda: bot.health()["status"] == "running", "the disk works again")
        tools.until_agreed(bot, exchange)
        bot.signal(signal.SIGTERM)
        assert bot.wait() == 0
        ids = Counter(tools.creates(exchange))
        assert max(ids.values()) == 1, "an id went out twice"
        assert exchange.resting() == []


@pytest.mark.parametrize("dedupe", MIX_SWITCHES["dedupe"])
def test_intents_in_doubt_are_resolved_in_time_and_never_doubled(dedupe: str) -> None:
    tally = work_bare_intents(0, 1_500, dedupe)
    assert not tally["broken"], tally["broken"]
    assert tally["duplicates"] == 0
    assert tally["ambiguous"] >= 0.05 * tally["intents"], "too few were in doubt to prove a thing"
    assert len(tally["unknown"]["exists"]) >= 30


PIECES = [f"{first}..{first + PIECE_SEEDS - 1}" for first in range(0, CAMPAIGN_SEEDS, PIECE_SEEDS)]


@pytest.mark.campaign
@pytest.mark.parametrize("seeds", PIECES)
def test_seeded_mixes_keep_every_invariant(seeds: str) -> None:
    first, _, last = seeds.partition("..")
    tally = work_seeds(int(first), int(last), CAMPAIGN_MINUTES)
    tell_hits(seeds, tally["hits"])     # also of a broken piece: the others wait for it
    assert not tally["broken"], "\n".join(tally["broken"])


SOMETIMES = {                           # of RELIABILITY §3.3, in its order: how the oracle says it
    "UNKNOWN → RESTING": "unknown -> resting",
    "UNKNOWN → NEVER_ACCEPTED": "unknown -> never_accepted",
    "409 adopted": "409 adopted",
    "late accept": "late accept",
    "fill before ack": "fill before ack",
    "cancel after fill": "cancel after fill",
    "gap resynced": "gap resynced",
    "breaker opened and closed again": "breaker opened and closed",
    "pause in the middle of an order": "pause in the middle of an order",
    "kill with creates in flight": "kill with commands in flight",
    "crash between accept and ack row": "crash between accept and ack",
    "torn tail recovered": "torn tail recovered",
    "settlement amended": "settlement amended",
    "foreign fill": "foreign fill",
    "partial fill in ≥ 3 pieces": "partial fill in three pieces",
    "rate bucket empty": "rate bucket empty",
    "disk-full recovered": "disk-full recovered",
    "second start refused": "second start refused",
    "clock step": "clock step",
    "group limit triggered": "group limit triggered",
}


def hits_folder() -> Path:
    """Where the workers of one run of pytest leave what their worlds reached."""
    name = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone-{os.getpid()}")
    folder = Path(tempfile.gettempdir()) / f"simulation-hits-{name}"
    folder.mkdir(exist_ok=True)
    return folder


def tell_hits(name: str, hits: dict[str, int]) -> None:
    """Leave the counts of one piece for whoever adds them up."""
    half = hits_folder() / f".{name}"
    half.write_text(json.dumps(hits))
    half.rename(hits_folder() / name)


@pytest.mark.timeout(400)
def test_every_rare_situation_was_reached(request: pytest.FixtureRequest) -> None:
    ran = {item.name for item in request.session.items}
    if not {f"test_seeded_mixes_keep_every_invariant[{piece}]" for piece in PIECES} <= ran:
        pytest.skip("only says something after the whole campaign")
    folder, patience_s = hits_folder(), time.monotonic() + 300.0
    while any(not (folder / piece).exists() for piece in PIECES):
        assert time.monotonic() < patience_s, "a piece of the campaign did not come to its end"
        time.sleep(0.1)                 # another worker runs the last pieces
    hits = Counter[str]()
    for piece in PIECES:
        hits += Counter(json.loads((folder / piece).read_text()))
    shutil.rmtree(folder)
    missing = [said for said, name in SOMETIMES.items() if not hits[name]]
    assert not missing, missing


# ======================================================================================
# §T7 VOLUMES
# Purpose:   The large numbers of RELIABILITY §6, each a piece of work for one process.
# Principle: A piece answers plain counts, which add up over pieces; a broken one names its seed.
# ======================================================================================
Tally = dict[str, Any]


def work_seeds(first: int, last: int, minutes: float) -> Tally:
    """Mixes, one after the other."""
    hits, broken = Counter[str](), []
    for seed in range(first, last + 1):
        try:
            hits += run_mix(seed, minutes).oracle.sometimes
        except Exception as error:  # noqa: BLE001 - counted and told
            broken.append(f"seed {seed}: {error}")
    return {"seeds": last - first + 1, "broken": broken, "hits": dict(hits)}


def work_kills(seed: int, count: int) -> Tally:
    """So many deaths in one world: between callbacks, inside writes, inside statements."""
    with World(seed, evaluate_min_ms="200", pace=2.0, order_ttl_s="20",
               strategies=[Steady()]) as world:
        rng, kinds = random.Random(f"kills-{seed}"), Counter[str]()
        world.start()
        for _ in range(count):
            if rng.random() < 0.8:      # else it dies again while it starts
                until_s = world.now_s + 30.0  # a strategy may have a reason not to quote
                while len(world.own_open()) < 2 and world.now_s < until_s:
                    world.run(0.1)
                    if world.is_ready and world.trader.container.now.gate.value == "paused":
                        order(world, "resume")  # many starts in a row pause it
            if rng.random() < 0.5:
                take_any(world)
            kinds[die_somewhere(world, rng)] += 1
            world.oracle.verdict()
        world.calm()                    # equal figures: no fill lost, no orphan, nothing twice
        doubled = [key for key, many in Counter(
            o.client_order_id for o in world.account.orders).items() if many > 1 and key]
        world.stop()
        world.oracle.verdict()
        return {"kills": count, "duplicates": len(doubled), "orphans": len(world.own_open()),
                "creates": creates(world), "fills": len(world.account.fills), "broken": [],
                **{f"kills {kind}": many for kind, many in kinds.items()}}


def die_somewhere(world: World, rng: random.Random) -> str:
    """One death and the start after it; answers where it died."""
    kind = rng.choice(("moment", "write", "execute"))
    if kind != "moment":
        world.light(kind, rng.randint(1, 25), rng.random() < 0.5)
        until_s = world.now_s + 8.0
        while world.fuse is not None and world.now_s < until_s:
            world.run(0.05)
    else:
        world.run(rng.expovariate(1 / 1.5))
    if world.lives[-1].exit_code is None:
        world.kill()
        kind = "moment"
    before = world.digest_at_death
    world.start(wait=False)
    # Inside a callback the state is on its way: only the chain and the figures can be compared.
    world.prove_replay(before if kind == "moment" else None)
    return kind


class Firehose:
    """Wants immediate-or-cancel orders that miss, at many prices of both sides, all the time."""

    Params = object
    name = "firehose"
    slots = frozenset(f"{side}{n}" for side in "yn" for n in range(FIREHOSE_PRICES))
    expectation = "misses"

    def decide(self, view: Any) -> Any:
        wants = [
            trader.Want(slot=f"{letter}{n}", side=side, price_cc=100 * (n + 1), count_h=100,
                        take=True)
            for side, letter in ((trader.Side.YES, "y"), (trader.Side.NO, "n"))
            for n in range(FIREHOSE_PRICES) if 100 * (n + 1) < (view.best_ask_cc(side) or 0)]
        return trader.Decision(wants=tuple(wants), reason=trader.Reason.ACTED)


INTENT_TEXTS = {                        # 64 wants in 3.8 s; the limit is 1,000 a minute
    "markets": "16", "evaluate_min_ms": "3800", "request_timeout_s": "2", "max_orders": "1000",
    "max_orders_per_minute": "1000", "max_notional_per_minute_dollars": "100000",
    "max_unknown": "20", "max_exposure_dollars": "100000", "max_market_loss_dollars": "1000",
    "max_event_loss_dollars": "10000", "group_contracts": "100",
}


def work_intents(seed: int, count: int, dedupe: str) -> Tally:
    """So many intents with lost, doubled and swallowed creates under one dedupe contract."""
    with World(seed, strategies=[Firehose()], pace=0.2, tier="prestige",
               switches={"dedupe": dedupe, "read_lag_ms": "0-500"}, **INTENT_TEXTS) as world:
        rng, spoilt = random.Random(f"intents-{seed}"), Counter[str]()
        world.start(wait=False)
        world.oracle.trouble()
        spoil_creates(world, rng, spoilt)
        while creates(world) < count:
            assert world.now_s < 3600.0, f"only {creates(world)} intents\n{world.story()}"
            world.run(1.0)
        vars(world.exchange.api).pop("run", None)
        world.calm()
        many = Counter(o.client_order_id for o in world.account.orders)
        world.stop()
        world.oracle.verdict()
        return {"intents": creates(world), "duplicates": sum(n > 1 for n in many.values()),
                "ambiguous": sum(spoilt.values()), "broken": [],
                **{f"ambiguous {kind}": n for kind, n in spoilt.items()},
                "unknown": world.oracle.unknown_s}


def spoil_creates(world: World, rng: random.Random, spoilt: Counter[str]) -> None:
    """One create in fourteen ends in doubt: most are acted on, some are swallowed."""
    api, run = world.exchange.api, type(world.exchange.api).run
    kinds = (*["answer lost"] * 4, *["edge error"] * 2, *["doubled"] * 3, "swallowed")

    def spoil(route: Any, call: Any) -> Any:
        if route.name != "create" or rng.random() > 0.07:
            return run(api, route, call)
        kind = rng.choice(kinds)
        spoilt[kind] += 1
        if kind == "swallowed":
            return sim.Answer(503, b"<html>bad gateway</html>")
        run(api, route, call)
        if kind == "doubled" and world.has_lasting_ids:
            return run(api, route, call)
        # Two unreadable answers in a row halt, so these come as the edge's own errors.
        return sim.Answer(502 if kind == "answer lost" else 504, b"<html>")

    api.run = spoil


def work_days(seed: int, hours: float) -> Tally:
    """Memory over simulated days of calm trading, after the first hour.

    A slow crowd, a twentieth of the exchange's own pace: a day costs about four minutes. Exchange
    and oracle live in the same process; what they remember of the past is dropped each hour, so the
    end compares positions, cash and orders, but no longer each fill.
    """
    with World(seed, pace=DAYS_PACE, evaluate_min_ms="2000") as world:
        world.start()
        rows, large = [trader.rss_bytes() / 1e6], [0]
        for _ in range(int(hours)):
            for _ in range(6):
                world.run(600.0)
                gc.collect()
            world.oracle.verdict()
            forget_past(world)
            gc.collect()
            rows.append(trader.rss_bytes() / 1e6)
            large = sorted(((size, path) for path, size in sizes(world.trader)), reverse=True)[:8]
        world.until(lambda: not world.oracle.difference(), 45.0, "equal figures")
        fills = world.trader.execution.fills_booked
        world.stop()
        world.oracle.verdict()
        return {"hours": hours, "fills": fills, "broken": [], "large": [str(row) for row in large],
                "rss_mb at 0, 1, 6, 12 … h": [round(mb, 1) for hour, mb in enumerate(rows)
                                              if hour == 1 or hour % 6 == 0],
                "mb_per_day": round((rows[-1] - rows[1]) / max(1.0, hours - 1.0) * 24, 2)}


def forget_past(world: World) -> None:
    """Exchange and oracle let go of orders that ended an hour ago, and of fills."""
    engine, oracle = world.exchange.engine, world.oracle
    horizon_us = engine.now_us - 3_600_000_000
    for order_id, old in list(engine.orders.items()):
        if order_id not in engine.open and old.updated_us < horizon_us:
            del engine.orders[order_id], old.market.orders[order_id]
            engine.client_ids.pop(engine.id_key(old.client_order_id, old.account.subaccount), None)
            for each in (oracle.sent_creates, oracle.intents, oracle.last_status, oracle.pieces,
                         oracle.accepted_s):
                each.pop(old.client_order_id, None)
            for each in (oracle.raised_s, oracle.amends):
                each.pop(order_id, None)
    engine.fills[:] = [fill for fill in engine.fills if fill.at_us >= horizon_us]
    oracle.fills.clear()
    world.exchange.request_log.clear()


def work_hashes(first: int, last: int) -> Tally:
    """Each seed in two fresh processes with different hash seeds."""
    broken = [f"seed {seed}: another trace" for seed in range(first, last + 1)
              if len({trace_of(seed, hash_seed) for hash_seed in ("0", "77")}) != 1]
    return {"pairs": last - first + 1, "broken": broken}


def work_kill_times(seed: int) -> Tally:
    """The operator's kill, a restart after it, and the loss of the host, measured."""
    rng = random.Random(f"times-{seed}")
    with World(seed, evaluate_min_ms="200") as world:
        world.start()
        world.until(lambda: len(world.own_open()) >= 2, 120.0, "two orders rest")
        world.run(rng.uniform(0.0, 5.0))
        begun_s = world.now_s
        world.loop.call_soon(lambda: ask(world, "kill"), context=sim.context_of(world.present))
        while world.trader.container.now.halt is None:
            world.run(0.001)
        latched_s, before = world.now_s - begun_s, creates(world)
        world.oracle.is_killed = True
        while world.own_open():
            world.run(0.01)
        gone_s = world.now_s - begun_s
        world.run(5.0)
        world.restart(wait=False)
        world.run(90.0)
        after = creates(world) - before
        world.oracle.verdict()
        world.stop()
    with World(seed, evaluate_min_ms="200") as world:
        world.start()
        world.until(lambda: len(world.own_open()) >= 2, 120.0, "two orders rest")
        world.run(rng.uniform(0.0, 50.0))
        life = world.lives[-1]
        world.loop.kill(life.name)      # the host is gone: no connection ends, nothing speaks
        life.exit_code, begun_s = -9, world.now_s
        while world.own_open():
            world.run(0.1)
        dead_s = world.now_s - begun_s
        world.net.kill(life.name)
        world.locked.release_lock()
    return {"kills": 1, "creates after": after, "broken": [], "latch": {"s": [latched_s]},
            "own orders gone": {"s": [gone_s]}, "dead host": {"s": [dead_s]}}


def work_real_kills(seed: int, count: int) -> Tally:
    """kill -9 of real processes on loopback at random moments; then a whole comparison."""
    rng = random.Random(f"real-{seed}")
    with real_house(seed) as (house, exchange):
        tools, bot = importlib.import_module("test_trader"), house.bot()
        for number in range(count):
            if number % 10 == 9:        # now and then it gets as far as trading and being filled
                bot.until_ready()
                if bot.rows("overview")[0]["gate"] == "paused":  # many starts in a row pause it
                    assert house.command("resume", "--confirm", "sim", "--reason", "test"
                                         ).returncode == 0
                tools.eventually_24(lambda: len(exchange.resting()) >= 2, "orders rest")
                tools.force_fills(exchange)
                time.sleep(rng.uniform(0.0, 0.3))
            else:
                time.sleep(rng.uniform(0.3, 4.0))
            bot.signal(signal.SIGKILL)
            assert bot.wait() == -9
            bot = house.bot()
        bot.until_ready()
        tools.until_agreed(bot, exchange)
        run = bot.rows("overview")[0]["run_id"]
        tools.eventually_24(lambda: all(f"-{run}-" in row["client_order_id"]
                                        for row in exchange.resting()), "no orphan rests")
        account = exchange.account()
        booked = {(row["trade_id"], row["order_id"]) for row in house.facts("fill")}
        filled = {(row["trade_id"], row["order_id"]) for row in account["fills"]}
        ids = Counter(row["client_order_id"] for row in account["orders"])
        ids.pop("", None)
        bot.signal(signal.SIGTERM)
        code = bot.wait()
        return {"real kills": count, "creates": sum(ids.values()), "fills": len(filled),
                "duplicates": sum(many > 1 for many in ids.values()),
                "lost fills": len(filled - booked), "orphans": len(exchange.resting()),
                "broken": [] if code == 0 and booked == filled else [f"seed {seed}: exit {code}"]}


@contextlib.contextmanager
def real_house(seed: int) -> Iterator[tuple[Any, Any]]:
    """A trader's folder and an exchange in a process of its own, on loopback."""
    tools = importlib.import_module("test_trader")
    with tempfile.TemporaryDirectory(prefix="real-", dir=SCRATCH) as folder:
        house = tools.House24(Path(__file__).parent, Path(folder))
        try:
            (house.folder / "quoter.py").write_text(tools.QUOTER)
            exchange = house.exchange("--markets", "3", "--seed", str(seed), "--tier", "prestige")
            house.environ |= {
                "V3_TRADING_STRATEGY": f"{folder}/quoter.py:Quoter", "V3_EVALUATE_MIN_MS": "20",
                "V3_SYNC_INTERVAL_S": "5", "RL_ORDERBOOK_MARKET_LIMIT": "3",
            }
            yield house, exchange
        finally:
            house.stop()


# ======================================================================================
# §T7a BARE HOUSE
# Purpose:   A million intents: what lies between a want and the bytes, real, at little cost.
# Principle: Only what carries the bytes is replaced; what is left out, BARE_LEAVES_OUT says.
#
#   feeder ► ExecutionService ► KalshiRest ► DirectLink ► sim gate, limits, engine
#                ▲ journal, kill -9     ▲ answers and news, lost, late, doubled ◄┘
# ======================================================================================
BARE_LEAVES_OUT = ("aiohttp and its bytes, the WebSocket, the proof of signatures, books, gates of "
                   "market and state, strategies, page; --full has them")
BARE_TEXTS = {
    "request_timeout_s": "2", "max_orders": "1000", "max_orders_per_minute": "1000",
    "max_notional_per_minute_dollars": "100000", "max_unknown": "20", "order_ttl_s": "60",
    "max_exposure_dollars": "100000", "max_market_loss_dollars": "1000",
    "max_event_loss_dollars": "10000", "group_contracts": "100",
}
BARE_MARKETS = 600                      # few orders a market: a scan reads all of its market
BARE_LIFE = 4_000                       # intents before the process is killed
BARE_PIECE = 10_000                     # of one process: one exchange, several lives
BARE_PAUSE_S = 0.062                    # between two looks at a market: below 1,000 orders a minute
ACTED_ON = ("answer lost", "silence", "edge error", "late", "doubled", "doubled") * 3
NEVER_CAME = ("swallowed", "edge refuses")  # few: each is asked about for half a minute
SPOILT = {                              # share of requests that end in doubt, and how
    "create": (0.07, ACTED_ON + NEVER_CAME),
    "write": (0.02, ACTED_ON[:4] * 3 + NEVER_CAME[:1]),
    "read": (0.02, ("answer lost", "silence", "edge refuses")),
}


class Passage:
    """One request and its answer, where aiohttp has a connection."""

    def __init__(self, loop: sim.SimLoop) -> None:
        self.answer: asyncio.Future[trader.Answer] = loop.create_future()

    def release(self) -> None:
        """Nothing is held."""

    close = release


class DirectLink:
    """Hands each request to the exchange's own gate, limits and engine; loses, doubles, delays.

    It stands where the trader has its order line and its session.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk, self._loop, self._rng = desk, desk.loop, desk.rng
        self.context = sim.context_of("exchange")
        self.is_faulty = True
        self.used = 0
        self.spoilt = Counter[str]()

    # -- the trader's order line, see trader._OrderLine -----------------------------------

    def take(self) -> Passage | None:
        """Mostly a warm connection; now and then none, as after a pause."""
        return Passage(self._loop) if self._rng.random() < 0.95 else None

    async def open(self) -> Passage:
        """A new connection takes a round trip."""
        await asyncio.sleep(self._rng.uniform(0.01, 0.1))
        return Passage(self._loop)

    def write(self, passage: Passage, headers: Any, body: bytes, path: str | None = None) -> bool:
        """A POST leaves in this call."""
        self.depart("POST", path or CREATE_PATH, headers, body, passage.answer)
        return True

    async def read(self, passage: Passage, body_max: int) -> Any:
        """The answer, or never."""
        return await passage.answer

    # -- the way there and back -----------------------------------------------------------

    def depart(self, method: str, target: str, headers: Any, body: bytes,
               answer: asyncio.Future[Any]) -> None:
        """A request leaves the trader."""
        kind = "read" if method == "GET" else "write"
        if method == "POST" and target == CREATE_PATH:
            kind = "create"
            self._desk.on_create(orjson.loads(body)["client_order_id"])
        elif target.endswith("/amend"):
            self._desk.amends += 1
        fate = self._fate(kind)
        there_s = self._rng.uniform(2.5, 20.0) if fate == "late" else self._latency_s()
        if fate == "edge refuses":
            self._answer_later(answer, trader.Answer(503, "text/html", b"<html>"))
        elif fate != "swallowed":
            go = partial(self._arrive, method, target, headers, body)
            once = "silence" if fate == "doubled" else fate
            self._loop.call_later(there_s, go, once, answer, context=self.context)
            if fate == "doubled":       # it hears the second answer, if that comes in time
                again_s = there_s + self._rng.uniform(0.0, 3.0)
                self._loop.call_later(again_s, go, "", answer, context=self.context)

    def _fate(self, kind: str) -> str:
        share, fates = SPOILT[kind]
        if not self.is_faulty or self._rng.random() > share:
            return ""
        fate = self._rng.choice(fates)
        if fate == "doubled" and not self._desk.has_lasting_ids:
            fate = "answer lost"        # else the exchange itself would take it for a new order
        if kind == "create":
            self.spoilt[fate] += 1
        return fate

    def _latency_s(self) -> float:
        return self._rng.uniform(0.005, 0.05)

    def _arrive(self, method: str, target: str, headers: Any, body: bytes, fate: str,
                answer: asyncio.Future[Any]) -> None:
        exchange = self._desk.exchange
        exchange.tick()
        told = exchange.api.answer(sim.RestCall(method, target, headers, body))
        if fate == "answer lost":
            error = aiohttp.ServerDisconnectedError()
            self._loop.call_later(self._latency_s(), self._fail, answer, error)
        elif fate == "edge error":
            self._answer_later(answer, trader.Answer(504, "text/html", b"<html>"))
        elif fate not in ("silence", "late"):
            raw = orjson.dumps(told.payload)
            self._answer_later(answer, trader.Answer(told.status, "application/json", raw))

    def _answer_later(self, answer: asyncio.Future[Any], told: Any) -> None:
        self._loop.call_later(self._latency_s(), self._tell, answer, told, context=self.context)

    @staticmethod
    def _tell(answer: asyncio.Future[Any], told: Any) -> None:
        if not answer.done():           # else it is late, or the second of two
            answer.set_result(told)

    @staticmethod
    def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
        if not answer.done():
            answer.set_exception(error)


class DirectRest(trader.KalshiRest):    # type: ignore[misc, name-defined]
    """The trader's own REST client; only aiohttp is replaced."""

    def __init__(self, link: DirectLink, *given: Any, **named: Any) -> None:
        super().__init__(SimpleNamespace(closed=False), *given, **named)
        self._link = self._line = link

    async def _talk(self, request: Any, sent_s: float) -> Any:
        answer = asyncio.get_running_loop().create_future()
        self._link.depart(request.endpoint.method, request.path, request.headers,
                          request.body or b"", answer)
        told = await answer
        if request.endpoint.method == "GET":
            date = formatdate(EPOCH_S + self._clock._real_monotonic(), usegmt=True)
            self.clock_samples.add_date(date, sent_s, self._clock.monotonic())
        return told


class BareHouse:
    """One life: the real services from the journal to the reconciler, and a feeder of wants."""

    def __init__(self, desk: Desk, name: str, folder: Path) -> None:
        self.desk, self.name, self.folder = desk, name, folder
        rng = random.Random(f"{name}-{desk.seed}")
        self.config = trader.build_config({**BARE_TEXTS, "data_dir": str(folder)})
        self.clock = trader.Clock(
            monotonic=desk.loop.time, epoch_s=EPOCH_S + desk.loop.time(), rng=rng,
            token_hex=lambda size: rng.randbytes(size).hex())
        self.supervisor = trader.Supervisor(lambda task, error: desk.blame(f"{task}: {error!r}"))
        self.bus = trader.EventBus(self.clock, self.supervisor)
        self.bus.subscribe(trader.BreakerTripped, desk.on_trip)
        self.bus.subscribe(trader.AssertionBroke, lambda event: desk.blame(event.what))
        self.container = trader.StateContainer(self.clock)
        money_ud = 1_000_000_000        # the limits of day and drawdown are no part of this
        self.container.update(equity_ud=money_ud, day_start_ud=money_ud, peak_ud=money_ud)
        tag, account = desk.exchange.address("sim.invalid"), None
        account = trader.tag_of(tag.key_id)
        self.journal = trader.Journal(folder / "journal.sqlite3", self.clock, "sim", account,
                                      worker=False)
        self.rest = DirectRest(
            desk.link, tag.rest, trader.load_signer(tag.private_key_pem.encode(), tag.key_id),
            self.clock, request_timeout_s=self.config.request_timeout_s,
            rate_share=self.config.rate_share, threads=False)
        ids = trader.ClientIds(prefix=self.config.order_prefix, environment="sim", account=account,
                               run=self.clock.token_hex(5))
        fees = trader.assumed_fees(self.config.fee_precision_ud)
        seams = {"clock": self.clock, "supervisor": self.supervisor, "bus": self.bus,
                 "rest": self.rest, "container": self.container, "config": self.config}
        self.execution = trader.ExecutionService(
            journal=self.journal, ids=ids, quote=desk.quote, fees=lambda ticker: fees,
            permit=lambda ticker: trader.ALLOWED, **seams)
        self.trading = trader.TradingClientIntegration(execution=self.execution, **seams)
        self.digest = ""

    async def live(self) -> None:
        """From the replay to the end of the process; wants are fed while the desk says so."""
        self.journal.open()
        self.execution.replay()
        self.digest = self.execution.digest()
        self.journal.fact("run", self.execution.ids.run, {})
        self.supervisor.spawn(self.journal.run(), name="journal")
        await self._insist(self.trading.connect)
        await self._insist(self.trading.reconcile)
        self.supervisor.spawn(self.trading.run(), name="reconcile")
        while True:
            await asyncio.sleep(BARE_PAUSE_S)
            if self.desk.is_feeding:
                self._feed(self.desk.rng)

    @staticmethod
    async def _insist(step: Callable[[], Any]) -> None:
        while True:
            with contextlib.suppress(trader.ExchangeError, trader.WireError):
                await step()
                return
            await asyncio.sleep(1.0)

    def _feed(self, rng: random.Random) -> None:
        """Wants of one market: mostly orders that miss or rest, some that are filled."""
        ticker = rng.choice(self.desk.tickers)
        side, lot = rng.choice(tuple(trader.Side)), rng.random()
        quote = self.desk.quote(ticker)
        want = trader.Want(slot=side.value, side=side, price_cc=100 * rng.randint(1, 3),
                           count_h=100 * rng.randint(1, 3), take=lot < 0.6)
        if lot < 0.05 and quote.ask_cc is not None and quote.bid_cc is not None:
            price_cc = quote.ask_cc if side is trader.Side.YES else 10_000 - quote.bid_cc
            want = replace(want, price_cc=price_cc, count_h=100)
        self.execution.converge(ticker=ticker, strategy="bare", wants=(want,), decision_id="")


class Desk:
    """An exchange, its link, and one bare house after the other."""

    def __init__(self, seed: int, dedupe: str) -> None:
        self.seed, self.dedupe, self.rng = seed, dedupe, random.Random(f"desk-{seed}-{dedupe}")
        self.loop = Loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(lambda loop, context: self.blame(str(context)))
        settings = sim.SimSettings(markets=BARE_MARKETS, seed=seed, tier="prestige",
                                   switches={"dedupe": dedupe, "read_lag_ms": "0-500"})
        self.exchange = sim.SimExchange(settings, sim.LoopTime(self.loop, EPOCH_S))
        self.exchange.control.freeze_crowd()
        self.exchange.engine.sink = self
        gate: Any = self.exchange.gate  # it looks at key and time; signatures are dear to prove
        gate._verifies = lambda *given: all(given)
        self.has_lasting_ids = dedupe != "open_orders_only"
        self.link = DirectLink(self)
        self.tickers = list(self.exchange.engine.markets)
        self.markets = {
            ticker: trader.decode_market(sim.market_body(market, self.exchange.switches))
            for ticker, market in self.exchange.engine.markets.items()}
        self.folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=SCRATCH))
        self.house: BareHouse | None = None
        self.lives, self.is_feeding = 0, True
        self.creates = self.amends = 0
        self.sent: set[str] = set()
        self.accepted: dict[str, str] = {}
        self.accepted_ms: dict[str, float] = {}
        self.resting: dict[tuple[str, bool], set[str]] = defaultdict(set)
        self.trips = Counter[str]()
        self.broken: list[str] = []
        self._intents: set[str] = set()
        self._eye: JournalEye | None = None
        self._news_s = 0.0
        self.loop.create_task(self.exchange.run_drivers(), context=self.link.context)

    def blame(self, text: str) -> None:
        """Note what must not be."""
        self.broken.append(f"{self.dedupe} seed {self.seed} at {self.loop.time():.2f} s: {text}")

    def on_trip(self, event: Any) -> None:
        """A breaker: nobody halts here, but it is counted."""
        self.trips[event.kind] += 1

    def quote(self, ticker: str) -> Any:
        """The exchange's own prices, where the trader has its book."""
        bid_cc, ask_cc, bid_h, ask_h = self.exchange.engine.markets[ticker].quotes()
        return trader.Quote(market=self.markets[ticker], bid_cc=bid_cc if bid_h else None,
                            ask_cc=ask_cc if ask_h else None, last_cc=None)

    # -- what is seen of the trader ---------------------------------------------------------

    def on_create(self, key: str) -> None:
        """I3 I5: each id leaves once, and its intent can be read from the file by then."""
        self.creates += 1
        if key in self.sent:
            self.blame(f"I3: {key} was sent twice")
        self.sent.add(key)
        assert self._eye is not None, "a create before the journal is there"
        self._intents |= {written for _, kind, written, _ in self._eye.news() if kind == "intent"}
        if key not in self._intents:
            self.blame(f"I5: {key} left without an intent in the journal")

    def publish(self, notes: list[Any]) -> None:
        """Events of the exchange: judged, and told to the trader, in order, some of them lost."""
        for note in notes:
            if isinstance(note, sim.OrderNote):
                self._judge(note)
                body = sim.user_order_body(note.order, note.state, self.exchange.engine.user_id)
                self._tell("order", body)
            elif isinstance(note, sim.FillNote):
                self._tell("fill", sim.fill_message(note.fill, self.exchange.switches))

    def _judge(self, note: Any) -> None:
        """I3 I4: one order per id, one resting order per slot."""
        key, order = note.state.client_order_id, note.order
        self.accepted_ms.setdefault(key, 1000 * (EPOCH_S + self.loop.time()))
        if self.accepted.setdefault(key, order.order_id) != order.order_id:
            self.blame(f"I3: {key} was accepted twice")
        slot = self.resting[order.market.ticker, order.is_bid]
        (slot.add if note.state.status == "resting" else slot.discard)(order.order_id)
        if len(slot) > 1:
            self.blame(f"I4: {len(slot)} orders rest in one slot of {order.market.ticker}")

    def _tell(self, kind: str, body: Any) -> None:
        house = self.house
        if house is None or self.rng.random() < (0.75 if self.link.is_faulty else 0.0):
            return
        raw = orjson.dumps(body)
        self._news_s = max(self._news_s, self.loop.time() + self.rng.uniform(0.005, 0.05))
        self.loop.call_at(self._news_s, self._hear, house, kind, raw,
                          context=sim.context_of(house.name))

    @staticmethod
    def _hear(house: BareHouse, kind: str, raw: bytes) -> None:
        if not house.execution.is_replayed:
            return
        if kind == "order":
            house.execution.on_report(trader.decode_order(orjson.loads(raw)))
        else:
            house.execution.on_fill(trader.decode_fill(orjson.loads(raw)))

    # -- lives ------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on the present journal, or on a copy of the last one's."""
        self.lives += 1
        fresh = self.folder / f"life-{self.lives}"
        if self.house is None:
            fresh.mkdir()
        else:
            shutil.copytree(self.house.folder, fresh)
            for shared in fresh.glob("*-shm"):
                shared.unlink()
        self.house = BareHouse(self, f"trader-{self.lives}", fresh)
        self.loop.create_task(self.house.live(), context=sim.context_of(self.house.name))
        while not self.house.execution.is_replayed:
            self.loop.run_for(0.01)
        seen_seq = self._eye.seq if self._eye is not None else 0
        if self._eye is not None:
            self._eye.close()
        self._eye = JournalEye(fresh / "journal.sqlite3", seen_seq)

    def kill(self) -> None:
        """kill -9, and the next life, which must know the same."""
        old = self.house
        assert old is not None, "nobody to kill"
        before = old.execution.digest()
        self.loop.kill(old.name)
        self.start()
        shutil.rmtree(old.folder)
        if self.house.digest != before:
            self.blame("I15: the replay gives another state")
        if not self.house.journal.verify_chain():
            self.blame("I16: the chain of facts is broken")

    def rest(self) -> None:
        """Faults end, wants end: within two minutes both sides must tell the same."""
        self.is_feeding = self.link.is_faulty = False
        limit_s = self.loop.time() + 120.0
        while self.difference() and self.loop.time() < limit_s:
            self.loop.run_for(1.0)
        if self.difference():
            self.blame(self.difference())
        strange = [key for key in self.accepted if key not in self._intents]
        if strange:
            self.blame(f"I5: orders without an intent: {strange[:3]}")

    def difference(self) -> str:
        """What trader and exchange tell differently; "" when nothing."""
        assert self.house is not None, "there is a house"
        execution, account = self.house.execution, self.exchange.account
        live = execution.store.live()
        moving = [o.client_order_id for o in live if o.status.value != "resting" or o.pending]
        if moving:
            return f"I18: still open: {moving[:3]}"
        ours, theirs = ({(o.client_order_id, o.remaining_h) for o in each}
                        for each in (live, account.open_orders))
        if ours != theirs:
            return f"I20: orders {sorted(ours ^ theirs)[:4]}"
        held = {t: p.position_h for t, p in execution.ledger.positions.items() if p.position_h}
        if held != account.positions or execution.ledger.cash_ud != account.cash_ud:
            return f"I2: positions or cash {execution.ledger.cash_ud} against {account.cash_ud}"
        fills = Counter(row.key for row in self.house.journal.facts("fill"))
        charged = {f"{fill.trade_id}|{fill.order_id}" for fill in account.fills}
        if set(fills) != charged or max(fills.values(), default=1) > 1 or account.imbalance_ud:
            return f"I13: {len(fills)} fills booked of {len(charged)}"
        return ""

    def unknown_s(self) -> dict[str, list[float]]:
        """How long fates were unknown, from the journal; those beyond I18's limit are blamed.

        A death makes every order unknown that was sent and not answered. What arrived late is
        counted from its arrival.
        """
        assert self.house is not None, "there is a house"
        since: dict[str, int] = {}
        status: dict[str, str] = {}
        end_ms: dict[str, float] = {}
        took: dict[str, list[float]] = {"exists": [], "never came": []}
        for fact in self.house.journal.facts():
            body, key = fact.body, fact.key
            if fact.kind == "intent" and body["kind"] == "create":
                status[key] = "sent"
                end_ms[key] = body["expires_at_ms"] or body["at_ms"] + 30_000
            elif fact.kind == "run":
                since |= {key: fact.at_ms for key, said in status.items() if said == "sent"}
            elif fact.kind == "order" and key in status:
                status[key] = body["status"]
                if body["status"] == "unknown":
                    since.setdefault(key, fact.at_ms)
                elif body["status"] != "sent" and key in since:
                    begun_ms = max(since.pop(key), self.accepted_ms.get(key, 0.0))
                    took["exists" if key in self.accepted else "never came"].append(
                        max(0.0, fact.at_ms - begun_ms) / 1000)
                    if fact.at_ms > end_ms[key] + 1000 * EXPIRY_MARGIN_S:
                        self.blame(f"I18: {key} was unknown beyond its expiry and 15 s")
        return took

    def close(self) -> None:
        """End the loop and remove the files."""
        async def end() -> None:
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()

        self.loop.run_until_complete(end())
        if self._eye is not None:
            self._eye.close()
        if self.house is not None:
            self.house.journal.close()
        self.loop.close()
        asyncio.set_event_loop(None)
        shutil.rmtree(self.folder, ignore_errors=True)


def work_bare_intents(seed: int, count: int, dedupe: str) -> Tally:
    """So many intents of bare houses, each killed after BARE_LIFE of them, one a world at least."""
    desk = Desk(seed, dedupe)
    gc.disable()
    try:
        desk.start()
        begun = 0
        while desk.creates + desk.amends < count and not desk.broken:
            desk.loop.run_for(5.0)
            if desk.creates + desk.amends - begun > BARE_LIFE:
                begun = desk.creates + desk.amends
                desk.kill()
        desk.kill()
        desk.rest()
        took = desk.unknown_s()
        many = Counter(o.client_order_id for o in desk.exchange.account.orders)
        return {"intents": desk.creates + desk.amends, "creates": desk.creates,
                "duplicates": sum(n > 1 for n in many.values()), "lives": desk.lives,
                "fills": len(desk.exchange.account.fills), "broken": desk.broken[:5],
                "ambiguous": sum(desk.link.spoilt.values()), "unknown": took,
                **{f"ambiguous {kind}": n for kind, n in desk.link.spoilt.items()},
                **{f"breaker {kind}": n for kind, n in desk.trips.items()}}
    finally:
        desk.close()
        gc.enable()
        gc.collect()


# ======================================================================================
# §T7b PIECES
# Purpose:   Cut a volume into pieces, run each in a fresh process, add up.
# Principle: A piece that was done is remembered; a broken one is named.
# ======================================================================================
WORKS: dict[str, Callable[..., Tally]] = {
    "real-kills": work_real_kills,
    "seeds": work_seeds, "kills": work_kills, "intents": work_bare_intents,
    "full-intents": work_intents, "days": work_days,
    "hashes": work_hashes, "kill-times": work_kill_times,
}


def add_up(total: Tally, piece: Tally) -> None:
    """Counts are added, lists joined, tables added field by field."""
    for name, value in piece.items():
        if isinstance(value, dict):
            add_up(total.setdefault(name, {}), value)
        elif isinstance(value, list):
            total.setdefault(name, []).extend(value)
        else:
            total[name] = total.get(name, 0) + value


def run_pieces(kind: str, pieces: list[list[Any]], jobs: int, book: Path | None) -> Tally:
    """All pieces, `jobs` at a time, each in a fresh process. `book` remembers those done."""
    total: Tally = {}
    done: dict[str, Tally] = {}
    if book is not None and book.exists():
        for line in book.read_text().splitlines():
            row = json.loads(line)
            done[row["piece"]] = row["tally"]
    waiting = deque(piece for piece in pieces if json.dumps([kind, *piece]) not in done)
    for piece in pieces:
        if json.dumps([kind, *piece]) in done:
            add_up(total, done[json.dumps([kind, *piece])])
    running: dict[subprocess.Popen[str], list[Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                piece = waiting.popleft()
                command = [sys.executable, __file__, "--work", json.dumps([kind, *piece])]
                running[subprocess.Popen(command, stdout=subprocess.PIPE, text=True)] = piece
            ended = next((one for one in running if one.poll() is not None), None)
            if ended is None:
                time.sleep(0.05)
                continue
            _take_piece(kind, running.pop(ended), ended, total, book)
    finally:
        for process in running:
            process.kill()
    return total


def _take_piece(kind: str, piece: list[Any], process: subprocess.Popen[str], total: Tally,
                book: Path | None) -> None:
    text = process.stdout.read() if process.stdout is not None else ""
    process.wait()
    if process.returncode or not text.strip():
        tally: Tally = {"broken": [f"{kind} {piece} ended with {process.returncode}: {text}"]}
    else:
        tally = json.loads(text.splitlines()[-1])
        if book is not None and not tally["broken"]:
            with book.open("a") as out:
                out.write(json.dumps({"piece": json.dumps([kind, *piece]), "tally": tally}) + "\n")
    for words in tally["broken"]:
        print(f"BROKEN {words}", file=sys.stderr, flush=True)
    add_up(total, tally)


def shown(name: str, value: Any) -> str:
    """A line of the summary; a list of seconds as its quantiles."""
    if isinstance(value, dict):
        return "\n".join(shown(f"{name}: {key}", each) for key, each in sorted(value.items()))
    if name == "broken":
        return f"{len(value):10d}  broken"
    if isinstance(value, list) and value and isinstance(value[0], float) and "rss" not in name:
        rows = sorted(value)
        p99 = rows[min(len(rows) - 1, int(0.99 * len(rows)))]
        return (f"{len(rows):10d}  {name}: p50 {rows[len(rows) // 2]:.3f} s, p99 {p99:.3f} s, "
                f"maximum {rows[-1]:.3f} s")
    return f"{value:10d}  {name}" if isinstance(value, int) else f"{'':10}  {name} {value}"


# ======================================================================================
# §T8 COMMANDS
# ======================================================================================
def pieces_of(flags: argparse.Namespace) -> tuple[str, list[list[Any]]]:
    """What is asked for, cut into pieces of some seconds each."""
    if flags.kills:
        return "kills", [[seed, min(50, flags.kills - 50 * seed)]
                         for seed in range(-(-flags.kills // 50))]
    if flags.intents:
        kind, size = ("full-intents", 4_000) if flags.full else ("intents", BARE_PIECE)
        names = [flags.dedupe] if flags.dedupe else list(MIX_SWITCHES["dedupe"])
        return kind, [[seed, min(size, flags.intents - size * seed), name]
                      for name in names for seed in range(-(-flags.intents // size))]
    if flags.real_kills:
        return "real-kills", [[seed, min(20, flags.real_kills - 20 * seed)]
                              for seed in range(-(-flags.real_kills // 20))]
    if flags.days:
        return "days", [[1, flags.days * 24]]
    if flags.hashes:
        return "hashes", [[seed, min(seed + 4, flags.hashes - 1)]
                          for seed in range(0, flags.hashes, 5)]
    if flags.kill_times:
        return "kill-times", [[seed] for seed in range(flags.kill_times)]
    first, _, last = flags.seeds.partition("..")
    low, high = int(first), int(last or first)
    return "seeds", [[seed, min(seed + PIECE_SEEDS - 1, high), flags.minutes]
                     for seed in range(low, high + 1, PIECE_SEEDS)]


def volume(flags: argparse.Namespace) -> int:
    """One of the large numbers; answers 1 when something broke."""
    begun_s = time.monotonic()
    kind, pieces = pieces_of(flags)
    total = run_pieces(kind, pieces, flags.jobs, flags.book)
    if flags.json:
        print(json.dumps(total, sort_keys=True))
    else:
        print("\n".join(shown(name, value) for name, value in sorted(total.items())))
        if kind == "intents":
            print(f"left out: {BARE_LEAVES_OUT}")
        print(f"{time.monotonic() - begun_s:.0f} s with {flags.jobs} processes")
    return min(1, len(total["broken"]))


def main() -> int:
    """Campaigns and single faults as commands."""
    parser = argparse.ArgumentParser(description="Simulations of the whole house.")
    parser.add_argument("--seeds", default="", help="A..B: mixes to run")
    parser.add_argument("--minutes", type=float, default=CAMPAIGN_MINUTES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--book", type=Path, help="file that remembers the pieces done")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    parser.add_argument("--kills", type=int, help="deaths of the process, in simulation")
    parser.add_argument("--real-kills", type=int, help="kill -9 of real processes on loopback")
    parser.add_argument("--intents", type=int, help="creates with doubtful outcomes")
    parser.add_argument("--full", action="store_true",
                        help="intents through aiohttp, strategies and all; else bare houses")
    parser.add_argument("--dedupe", choices=MIX_SWITCHES["dedupe"], help="one contract only")
    parser.add_argument("--days", type=float, help="memory over so many simulated days")
    parser.add_argument("--hashes", type=int, help="seeds, each in two processes")
    parser.add_argument("--kill-times", type=int, help="kills and lost hosts, measured")
    parser.add_argument("--fault", help="directed faults whose name contains this")
    parser.add_argument("--log", action="store_true", help="show the trader's log")
    parser.add_argument("--mutants", nargs="?", const="", help="planted bugs named like this")
    parser.add_argument("--bug-seeds", type=int, default=50, help="seeds tried on each bug")
    parser.add_argument("--trace", type=int, help="print the trace hash of one seed")
    parser.add_argument("--hunt", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("hunters", nargs="*", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    logging.basicConfig(level=logging.INFO if flags.log else logging.CRITICAL)
    if flags.work:
        kind, *given = json.loads(flags.work)
        print(json.dumps(WORKS[kind](*given)), flush=True)
        return 0
    if flags.fault:
        for name in [name for name in SCENES if flags.fault in name]:
            print(name, flush=True)
            play(name)
    if flags.hunt is not None:
        return hunt_here(flags.hunters, flags.hunt)
    if flags.trace is not None:
        print(run_mix(flags.trace, flags.minutes).oracle.trace.hexdigest())
    if flags.mutants is not None:
        return min(1, hunt_all(flags.bug_seeds, flags.mutants))
    asked = (flags.seeds, flags.kills, flags.real_kills, flags.intents, flags.days, flags.hashes,
             flags.kill_times)
    return volume(flags) if any(asked) else 0


def _quiet_end() -> None:
    """The frames of killed processes are never freed: their `finally` must not run, not even when
    the interpreter takes itself apart.
    """
    sys.unraisablehook = lambda _: None
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(sim._GRAVES))


atexit.register(_quiet_end)

if __name__ == "__main__":
    sys.exit(main())
