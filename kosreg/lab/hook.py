"""The lab's hand inside a daemon. Imported only where KOSREG_LAB_SOCKET names the lab's Unix socket.

The daemon dials that socket before anything else, says who it is, and does as it is told: one JSON object a line in,
one out. What a network cannot do happens here: an inner message is dropped before it is put into an envelope, messages
are written down as they were before encryption, the wall clock is set, and what the node really holds is told. When
the lab goes away, so does the node: nothing is left behind by a lab that was killed.

The clock: `time.time` and `time.time_ns` are replaced for this process, so that all code sees one wrong clock. The
monotonic clock stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from crdt import cbor
from crdt.entry import Class, Entry
from federation.identity import did_of, parse_did
from federation.partitions import Tree, tree_of

if TYPE_CHECKING:
    from kosreg.node import Node

ENVIRON: Final = "KOSREG_LAB_SOCKET"
LINE: Final = 16 * 1024 * 1024  # bytes of a command or an answer
LISTED: Final = 20_000  # entries in one answer
TRACED: Final = 256 * 1024 * 1024  # bytes of one file of messages; then no more is written
RULES: Final = 64  # for dropping, at a time
ORDERS: Final = 10.0  # s that the lab has to answer the first line
_PRIVATE: Final = Tree(Class.PRIVATE)  # not a tree of the wire: so that a leak shows

_real_ns, _real = time.time_ns, time.time


@dataclass(slots=True)
class _Rule:
    """Which outgoing messages are dropped; None: any. `count`: how many are left to drop, None: all."""

    to: bytes | None
    t: str | None
    count: int | None

    def fits(self, peer: bytes, message: Mapping[str, object]) -> bool:
        return (self.to is None or self.to == peer) and (self.t is None or self.t == message.get("t"))


class Hook:
    """One daemon's end of the line to its lab."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._node: Node | None = None
        self._rules: list[_Rule] = []
        self._dropped: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._trace: BinaryIO | None = None
        self._traced = 0
        self._task: asyncio.Task[None] | None = None
        self._does: dict[str, Callable[[Any], object]] = {
            "clock": _set_clock,
            "drop": self._drop,
            "keep": self._keep,
            "trace": self._trace_to,
            "messages": self._messages,
            "held": self._held,
            "entries": self._entries,
            "maintain": self._maintain,
        }

    @classmethod
    async def connect(cls, path: str, data_dir: Path) -> Hook:
        """Dial the lab and carry out its first orders: the clock is right (or wrong as wished) before the node starts.
        Raises OSError where there is no lab."""
        reader, writer = await asyncio.open_unix_connection(path, limit=LINE)
        hook = cls(reader, writer)
        hook._say({"node": str(data_dir), "pid": os.getpid()})
        async with asyncio.timeout(ORDERS):
            line = await reader.readline()
        if not line:
            raise ConnectionError(f"the lab at {path} does not know a node in {data_dir}")
        for name, value in json.loads(line).items():
            hook._does[name](value)
        return hook

    def attach(self, node: Node) -> None:
        """From now on listen to the lab. `node` runs."""
        self._node = node
        node.peer_node.drop = self._is_dropped
        node.peer_node.trace = self._seen
        self._task = asyncio.create_task(self._listen(), name="lab")
        node.keep(self._task)

    def close(self) -> None:
        self._writer.close()
        if self._trace is not None:
            self._trace.close()

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                self._say(await self._answer(json.loads(line)))
                await self._writer.drain()
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # the lab is gone

    async def _answer(self, command: dict[str, Any]) -> dict[str, object]:
        number = command.pop("id", None)
        done: dict[str, object] = {}
        try:
            for name, value in command.items():
                result = self._does[name](value)
                done[name] = await result if isinstance(result, Awaitable) else result
        except (KeyError, ValueError, TypeError, OSError) as error:
            return {"id": number, "error": f"{type(error).__name__}: {error}"}
        return {"id": number, "done": done}

    def _say(self, value: dict[str, object]) -> None:
        self._writer.write(json.dumps(value).encode() + b"\n")

    # What passes the node's links

    def _is_dropped(self, peer: bytes, message: dict[str, object]) -> bool:
        """For PeerNode: whether this outgoing message is lost."""
        t = str(message.get("t"))
        self._sent[t] += 1
        for rule in self._rules:
            if rule.fits(peer, message):
                self._dropped[t] += 1
                if rule.count is not None:
                    rule.count -= 1
                    if not rule.count:
                        self._rules.remove(rule)
                return True
        return False

    def _seen(self, way: str, peer: bytes, message: dict[str, object]) -> None:
        """For PeerNode: a message before it is put into an envelope, or after it came out of one."""
        if self._trace is None or self._traced >= TRACED:
            return
        record = cbor.encode({"at": _real_ns() // 1_000_000, "message": message, "peer": peer, "way": way})
        self._traced += self._trace.write(len(record).to_bytes(4, "big") + record)
        self._trace.flush()

    # Commands

    def _drop(self, wish: Mapping[str, Any]) -> None:
        if len(self._rules) >= RULES:
            raise ValueError(f"{RULES} rules at most; clear them with keep")
        to, count = wish.get("to"), wish.get("count", 1)
        self._rules.append(_Rule(None if to is None else parse_did(to), wish.get("t"), count))

    def _keep(self, _: object) -> None:
        self._rules.clear()

    def _trace_to(self, path: str | None) -> None:
        if self._trace is not None:
            self._trace.close()
        self._trace = None if path is None else open(path, "ab")  # noqa: SIM115  (open for as long as it is wished)
        self._traced = 0

    def _messages(self, _: object) -> dict[str, object]:
        return {"sent": dict(self._sent), "dropped": dict(self._dropped)}

    def _held(self, wish: Mapping[str, Any]) -> dict[str, object]:
        """Number and digest of what is held beyond the cut, by partition; and, for each partition of `ask`, whether it
        may be held here."""
        node = self._running()
        cut = int(wish["cut"])
        sums: dict[tuple[bytes, Tree], list[int]] = {}
        for entry in node.replica.map:
            if entry.valid_until > cut:
                found = sums.setdefault((entry.origin, tree_of(entry) or _PRIVATE), [0, 0])
                found[0] += 1
                found[1] ^= int.from_bytes(entry.id, "big")
        held = [[_written(origin, tree), count, f"{digest:064x}"] for (origin, tree), (count, digest) in sums.items()]
        return {"held": held, "admits": [self._admits(*_read(name)) for name in wish.get("ask", ())]}

    def _admits(self, origin: bytes, tree: Tree) -> bool:
        kind = "node" if tree.trust else "service"
        return self._running().trust.admits(origin, tree.cls, tree.root, kind, time.time_ns() // 1_000_000)

    def _entries(self, wish: Mapping[str, Any]) -> list[list[object]]:
        """What is held of one partition: kind, name, id, stamp, valid_until, whether it lives, bytes."""
        node = self._running()
        origin, tree = _read(wish["partition"])
        cut = int(wish["cut"])
        mine: list[Entry] = [
            entry
            for entry in node.replica.map.of(origin)
            if entry.valid_until > cut and (tree_of(entry) or _PRIVATE) == tree
        ]
        return [[e.kind, e.name, e.id.hex(), e.stamp, e.valid_until, e.live, len(e.raw)] for e in mine[:LISTED]]

    async def _maintain(self, _: object) -> None:
        await self._running().maintenance.round()

    def _running(self) -> Node:
        if self._node is None:
            raise ValueError("the node is not ready")
        return self._node


def _written(origin: bytes, tree: Tree) -> list[object]:
    return [did_of(origin), int(tree.cls), None if tree.root is None else did_of(tree.root), tree.trust]


def _read(written: list[Any]) -> tuple[bytes, Tree]:
    did, cls, root, trust = written
    return parse_did(did), Tree(Class(cls), None if root is None else parse_did(root), bool(trust))


def _set_clock(offset_ms: float) -> None:
    """The wall clock of this process is off by so many ms from now on."""
    offset = int(offset_ms * 1_000_000)
    clock = vars(time)
    clock["time_ns"] = lambda: _real_ns() + offset
    clock["time"] = lambda: _real() + offset / 1e9
