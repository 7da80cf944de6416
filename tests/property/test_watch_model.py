"""A watcher that applies what it is told holds what a fresh list holds: after any history, however it resumes.

The parts are the node's own (store, replica, sync, liveness, registry, subscriptions) without sockets and on clocks
that the test moves; two other nodes sign what they like, move agents, and fall in and out of trust. Beside the
WebSocket's way (snapshot and events) stands the long poll: as long as it says that nothing changed, nothing did, and
what a caller may not see moves neither its version nor its ETag.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdt.entry import MAX_LIFE_MS, Class, Entry
from federation.identity import NodeKey
from federation.replica import Replica
from kosreg import subscriptions
from kosreg.auth import Caller
from kosreg.auth.caller import parse_scopes
from kosreg.catalog import Catalog
from kosreg.journal import Journal
from kosreg.klp_registry_sync import RegistrySync
from kosreg.listing import Listings
from kosreg.liveness import Liveness
from kosreg.owner_proof import make_proof
from kosreg.problems import Problem
from kosreg.query import Filter, Query
from kosreg.record import proof_text
from kosreg.registry import Registry
from kosreg.service import Service
from kosreg.store import Store
from kosreg.subscriptions import Subscription
from kosreg.versions import Versions
from tests.foreign import Origin, feed

MAX_EXAMPLES = int(os.environ.get("KOSREG_TEST_HISTORIES", "150"))
KEY, AGENT = NodeKey(b"\x07" * 32), NodeKey(b"\x77" * 32)


def caller(sub: str, *scopes: str) -> Caller:
    """Somebody with a token."""
    parsed = parse_scopes(scopes or ("read:service:*", "write:service:*"))
    return Caller(sub, parsed, sub, 1 << 40, KEY.did, sub.encode().ljust(16), admin=any(s.is_admin for s in parsed))


ADMIN, BOB, CAROL, EVE = caller("admin", "admin:*:*"), caller("bob"), caller("carol"), caller("eve")
OWNERS = {"bob": BOB, "carol": CAROL}
WATCHERS = (EVE, BOB, ADMIN, caller("narrow", "read:service:s1", "read:service:s2"))
FILTERS = (
    Filter(),
    Filter(tags=("x",)),
    Filter(types=("agent",), any_tags=("x", "y")),
    Filter(statuses=("active",)),
    Filter(statuses=("offline", "degraded")),
    Filter(owners=("bob",)),
    Filter(visibilities=("public", "internal"), words=("alpha",)),
)
UIDS = ("s0", "s1", "s2", "s3")
Acl = dict[str, list[str]]
ACLS: tuple[Acl | None, ...] = (None, {"read": []}, {"read": ["sub:eve"]}, {"read": ["*"]}, {"call": []})


class Node:
    """The middle of a node on a real store, restarted as often as the test wants."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "registry.db")
        self.wall = 1_790_000_000_000
        self.mono = 1000.0
        self.others = [Origin(0xA1), Origin(0xB1)]
        self.distrusted: set[bytes] = set()

    async def _believe(self) -> None:
        self.sync.shows = lambda entry: entry.origin not in self.distrusted

    async def start(self, *, clean: bool = True) -> None:
        self.store = await Store.open(self.path, KEY.public, KEY.derive("store"))
        self.catalog = Catalog()
        self.sync = RegistrySync(Replica(KEY, lambda _: True), self.store, self.catalog, lambda: self.wall)
        await self.sync.load(clean=clean, held=self._believe)
        self.liveness = Liveness(
            self.catalog,
            monotonic=lambda: self.mono,
            wall_ms=lambda: self.wall,
            reap_after=60,
            write_status=self.sync.write_status,
            reap=self._reap,
        )
        self.registry = Registry(
            self.sync,
            self.liveness,
            Versions(self.store.version_key),
            seal=self.store.seal,
            unseal=self.store.unseal,
            secrets=await self.store.secrets(),
            wall_ms=lambda: self.wall,
            monotonic=lambda: self.mono,
        )
        self.liveness.start()

    async def _reap(self, service: Service) -> None:
        await self.registry.reap(service)

    async def settle(self) -> None:
        """Until the store has written all that was submitted."""
        await self.sync.reshowing.settled()
        await self.store.set_meta("settled", b"")

    def signed(self, step: Op) -> Entry:
        """What another node says in `step`."""
        other = self.others[step.number % 2]
        other.now = self.wall
        if step.what == "gone":
            cls = Class.INTERNAL if dict(step.fields).get("visibility") == "internal" else Class.PUBLIC
            return other.gone(step.uid, cls)
        if step.what == "says":
            status = dict(step.fields)["status"]
            return other.status(step.uid, None if status == "active" else status, "so it says", self.wall)
        fields = {"name": step.uid, "owner": step.owner} | dict(step.fields)
        cls = Class.INTERNAL if fields.pop("visibility", "") == "internal" else Class.PUBLIC
        life = fields.pop("life", MAX_LIFE_MS)
        if (move := fields.pop("move", 0)) > 0:
            fields["owner_proof"] = other.proof(AGENT, step.uid, move, self.wall + 1000 * fields.pop("proof_s", 9999))
        wanted = {
            name: value for name, value in fields.items() if value is not None and name not in ("status", "proof_s")
        }
        return other.service(step.uid, cls, life, **wanted)

    async def restart(self, *, clean: bool) -> None:
        if clean:
            self.liveness.flush()
        await self.store.close()
        await self.start(clean=clean)

    async def pass_time(self, seconds: float) -> None:
        end, looked = self.mono + seconds, self.wall
        while self.mono < end:
            self.mono += 0.25
            self.wall += 250
            await self.liveness.tick()
            if self.liveness._reaping:
                await asyncio.wait(self.liveness._reaping)
        self.sync.lapse(looked)
        await self.settle()

    def fresh(self, who: Caller, asked: Filter) -> tuple[dict[str, Any], str, str]:
        """What a list shows now: records by id, version, ETag."""
        page, _, _ = self.registry.find(who, Query(asked, limit=1000))
        return {service.uid: told(orjson.loads(service.json())) for service in page.services}, page.version, page.etag


def told(record: dict[str, Any]) -> dict[str, Any]:
    """`record` without what moves with heartbeats, which are no events."""
    return {name: value for name, value in record.items() if name not in ("heartbeat", "liveness")}


def matches(asked: Filter, record: dict[str, Any]) -> bool:
    """The filter as a client would judge it, by the record alone."""
    words = " ".join([record["name"], record.get("description", ""), *record["tags"]]).lower().split()
    return (
        all(tag in record["tags"] for tag in asked.tags)
        and (not asked.any_tags or any(tag in record["tags"] for tag in asked.any_tags))
        and (not asked.types or record["type"] in asked.types)
        and (not asked.owners or record["owner"] in asked.owners)
        and (not asked.statuses or record["status"] in asked.statuses)
        and (not asked.visibilities or record["visibility"] in asked.visibilities)
        and all(any(word.startswith(asked_word) for word in words) for asked_word in asked.words)
    )


@dataclass
class Watcher:
    """Applies snapshots and events. `past`: its view at each cursor that it was given, and whether that is exact."""

    who: Caller
    asked: Filter
    view: dict[str, Any] = field(default_factory=dict)
    cursor: str | None = None
    past: list[tuple[str, dict[str, Any], bool]] = field(default_factory=list)
    stream: Subscription | None = None
    filling: bool = False  # in the middle of a snapshot
    strict: bool = True  # no restart lies between its cursor and now
    lagged: bool = False  # it is told merged states: one cursor stands for several of its views

    def connect(self, node: Node, since: str | None) -> None:
        self.filling = False
        self.stream = Subscription(node.registry, self.who, b'"w"', self.asked, since)

    def take(self, rounds: int) -> None:
        """Read at most so many rounds of frames."""
        assert self.stream is not None
        for _ in range(rounds):
            for frame in self.stream.next_frames():
                self._apply(orjson.loads(frame))
            if not self.stream.behind:
                self.strict, self.lagged = True, False
                return

    def _apply(self, frame: dict[str, Any]) -> None:
        if frame["op"] == "lagged":
            assert frame["merged"] >= 0
            self.lagged = True
            return
        if frame["op"] == "snapshot":
            if not self.filling:
                self.view = {}
            self.view |= {record["id"]: told(record) for record in frame["services"]}
            self.filling = frame["more"]
            if not self.filling:
                self._at(frame["cursor"])
            return
        record, what = told(frame["service"]), frame["event"]
        uid = record["id"]
        had = uid in self.view
        if what == "deregistered":
            assert had or not self.strict, "told the end of something that it never heard of"
            self.view.pop(uid, None)
        elif matches(self.asked, record):
            assert what != "registered" or not had or not self.strict, "registered twice"
            assert what in ("registered", record["status"], "updated"), what
            self.view[uid] = record
        else:
            assert had or not self.strict, "told of something outside its filter"
            self.view.pop(uid, None)
        self._at(frame["cursor"])

    def _at(self, cursor: str) -> None:
        self.cursor = cursor
        self.past.append((cursor, dict(self.view), self.strict and not self.lagged))


@dataclass
class Poller:
    """Holds a list and its version, as a long poll does."""

    who: Caller
    asked: Filter
    rows: dict[str, Any]
    version: str
    etag: str
    touched: bool = False  # something that it may see has changed
    loose: int = 0  # polls that may wake it for nothing: its list was made anew, and does not know who has left it

    async def poll(self, node: Node) -> None:
        try:
            changed = await node.registry.wait(self.who, Query(self.asked, since=self.version))
        except Problem as problem:
            if problem.slug != "gone":
                raise
            assert node.catalog.journal.floor or node.catalog.journal.lost, "gone, though nothing was forgotten"
            self.rows, self.version, self.etag = node.fresh(self.who, self.asked)
            self.touched, self.loose = False, 2
            await self.poll(node)  # whoever asks anew can go on from there
            return
        rows, version, etag = node.fresh(self.who, self.asked)
        if not changed:
            assert rows == self.rows, "the poll said that nothing has changed"
        elif not self.touched and not self.loose:
            raise AssertionError("woken by what it may not see")
        if not self.touched and not self.loose:
            assert (version, etag) == (self.version, self.etag), "what is hidden moved the version"
        if self.touched and rows != self.rows:
            assert etag != self.etag
        if changed:
            self.rows, self.version, self.etag = rows, version, etag
            self.loose = max(0, self.loose - 1)
        self.touched = False


@dataclass(frozen=True)
class Op:
    """One step of a history."""

    what: str
    uid: str = "s0"
    owner: str = "bob"
    fields: tuple[tuple[str, Any], ...] = ()
    number: int = 0


fields_of_a_record = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["alpha", "beta", "alphabet soup"]),
        "type": st.sampled_from(["agent", "tool"]),
        "tags": st.sampled_from([[], ["x"], ["y"], ["x", "y"]]),
        "visibility": st.sampled_from(["private", "internal", "public"]),
        "acl": st.sampled_from(ACLS),
        "status": st.sampled_from(["active", "degraded", "offline"]),
        "ttl": st.sampled_from([0, 2, 5, 300]),
        "region": st.sampled_from(["eu", "us"]),
    },
)


def op(what: str, **drawn: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
    return st.builds(Op, st.just(what), st.sampled_from(UIDS), st.sampled_from(["bob", "carol"]), **drawn)


foreign_fields = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["alpha", "beta"]),
        "tags": st.sampled_from([[], ["x"], ["y"]]),
        "visibility": st.sampled_from(["internal", "public"]),
        "acl": st.sampled_from(ACLS),
        "life": st.sampled_from([4_000, 30_000]),
        "move": st.integers(0, 4),
        "proof_s": st.sampled_from([5, 9999]),
    },
).map(lambda fields: tuple(fields.items()))
record_fields = fields_of_a_record.map(lambda fields: tuple(fields.items()))
ops = st.one_of(
    op("register", fields=record_fields),
    op("register", fields=record_fields),
    op("patch", fields=record_fields),
    op("patch", fields=record_fields),
    op("register", fields=st.integers(1, 4).map(lambda move: (("move", move),))),
    op("foreign", fields=foreign_fields, number=st.integers(0, 1)),
    op("foreign", fields=foreign_fields, number=st.integers(0, 1)),
    op("foreign", fields=foreign_fields, number=st.integers(0, 1)),
    op("gone", fields=foreign_fields, number=st.integers(0, 1)),
    op(
        "says",
        fields=st.sampled_from(["active", "degraded", "offline"]).map(lambda s: (("status", s),)),
        number=st.integers(0, 1),
    ),
    op("alias", number=st.integers(0, 1)),
    op("unalias"),
    op("distrust", number=st.integers(0, 1)),
    op("delete"),
    op("give", number=st.integers(0, 1)),
    op(
        "beat",
        fields=st.sampled_from([(), (("status", "active"),), (("status", "degraded"),), (("status", "offline"),)]),
    ),
    op("time", number=st.sampled_from([1, 3, 6, 20, 70])),
    op("together", number=st.integers(2, 5)),
    op("take", number=st.integers(1, 3)),
    op("resume", number=st.integers(0, 30)),
    op("poll"),
    op("forget"),
    op("restart"),
    op("crash"),
)


class History:
    """Runs the steps, and checks at each and at the end."""

    def __init__(self, node: Node, watching: list[tuple[int, int]]) -> None:
        self.node = node
        self.watchers = [Watcher(WATCHERS[who], FILTERS[asked]) for who, asked in watching]
        self.pollers = [Poller(w.who, w.asked, *node.fresh(w.who, w.asked)) for w in self.watchers]
        for watcher in self.watchers:
            watcher.connect(node, None)
        self.later: list[Op] = []
        self.gathering = 0

    async def run(self, steps: list[Op]) -> None:
        for step in steps:
            if self.gathering and step.what in (
                "register",
                "patch",
                "delete",
                "give",
                "beat",
                "foreign",
                "gone",
                "says",
            ):
                self.later.append(step)
                self.gathering -= 1
                if not self.gathering:
                    await self._together()
                continue
            await self._together()
            before = [self.node.fresh(p.who, p.asked)[0] for p in self.pollers]
            await self._one(step)
            await self._note(before)
            if step.what == "time" and step.number > 60:  # what went offline may be gone as well
                for poller in self.pollers:
                    poller.touched = True
            if "status" in dict(step.fields):  # two events, so two wake-ups, of a list that only covers the end
                for poller in self.pollers:
                    poller.touched |= step.uid in self.node.fresh(poller.who, Filter())[0]
        await self._together()
        for watcher in self.watchers:
            self._caught_up(watcher)
        for poller in self.pollers:
            await poller.poll(self.node)
        await self._from_every_cursor()

    async def _note(self, before: list[dict[str, Any]]) -> None:
        for poller, rows in zip(self.pollers, before, strict=True):
            poller.touched |= self.node.fresh(poller.who, poller.asked)[0] != rows

    async def _together(self) -> None:
        """The gathered steps at once: they share a commit, or wait for each other."""
        self.gathering = 0
        if self.later:
            steps, self.later = self.later, []
            await asyncio.gather(*map(self._change, steps))
            for poller in self.pollers:
                poller.touched = True  # two changes may have undone each other: nothing is known of what lay between

    async def _change(self, step: Op) -> None:
        registry, who = self.node.registry, OWNERS[step.owner]
        try:
            if step.what == "register":
                record = {"name": step.uid, "type": "agent", "id": step.uid, **dict(step.fields)}
                if move := record.pop("move", 0):
                    proof = make_proof(AGENT, step.uid, KEY.public, move, self.node.wall + 60_000)
                    record["owner_proof"] = proof_text(proof)
                await registry.register(who, orjson.dumps(record))
            elif step.what == "patch":
                await registry.update(who, step.uid, dict(step.fields))
            elif step.what == "delete":
                await registry.deregister(who, step.uid)
            elif step.what == "give":
                await registry.update(ADMIN, step.uid, {"owner": ("bob", "carol")[step.number]})
            elif step.what == "beat":
                registry.heartbeat(who, step.uid, dict(step.fields).get("status"))
            else:
                await feed(self.node.sync, self.node.signed(step))
        except Problem as problem:
            if problem.status not in (403, 404, 409):
                raise

    async def _one(self, step: Op) -> None:
        node = self.node
        watcher = self.watchers[step.number % len(self.watchers)]
        if step.what == "time":
            await node.pass_time(step.number)
        elif step.what == "together":
            self.gathering = step.number
        elif step.what == "take":
            for watcher in self.watchers:
                watcher.take(step.number)
        elif step.what == "resume":
            if watcher.past:
                watcher.cursor, view, watcher.strict = watcher.past[step.number % len(watcher.past)]
                watcher.view = dict(view)
                watcher.connect(node, watcher.cursor)
        elif step.what == "poll":
            for poller in self.pollers:
                await poller.poll(node)
        elif step.what == "forget":  # the kept lists: 256 others were asked for
            node.registry.listings = Listings(node.catalog)
            for poller in self.pollers:
                poller.loose = 2
        elif step.what == "alias":
            await node.sync.reshowing.name(step.uid, node.others[step.number].did)
        elif step.what == "unalias":
            await node.sync.reshowing.unname(step.uid)
        elif step.what == "distrust":
            node.distrusted ^= {node.others[step.number].key.public}
            node.sync.reshowing.trust_changed()
        elif step.what in ("restart", "crash"):
            await node.settle()
            await node.restart(clean=step.what == "restart")
            for poller in self.pollers:
                poller.loose = 2
            for watcher in self.watchers:
                watcher.strict = watcher.lagged = False
                watcher.past = [(cursor, view, False) for cursor, view, _ in watcher.past]
                watcher.connect(node, watcher.cursor)
        else:
            await self._change(step)
            node.wall += step.number + 1
        await node.settle()

    def _caught_up(self, watcher: Watcher) -> None:
        watcher.take(1000)
        assert watcher.view == self.node.fresh(watcher.who, watcher.asked)[0]

    async def _from_every_cursor(self) -> None:
        for watcher in self.watchers:
            for cursor, view, exact in watcher.past[-40:]:
                again = replace(watcher, view=dict(view), past=[], strict=exact)
                again.connect(self.node, cursor)
                self._caught_up(again)


@contextmanager
def bounds(merge_above: int, kept: int) -> Iterator[None]:
    """The bounds of a slow reader, so low that short histories reach them."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(subscriptions, "MERGE_ABOVE", merge_above))
        stack.enter_context(patch.object(subscriptions, "ROUND", 4))
        stack.enter_context(patch.object(subscriptions, "CHUNK", 2))
        stack.enter_context(patch("kosreg.loading.KEPT", kept))
        stack.enter_context(patch.object(Journal.__init__, "__defaults__", (0, kept)))
        yield


async def check(steps: list[Op], watching: list[tuple[int, int]], merge_above: int, kept: int) -> None:
    with bounds(merge_above, kept), tempfile.TemporaryDirectory() as directory:
        node = Node(Path(directory))
        await node.start()
        try:
            async with asyncio.timeout(30):
                await History(node, watching).run(steps)
        finally:
            await node.store.close()


@settings(max_examples=60)
@given(
    st.lists(ops, min_size=12, max_size=60),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=3),
    st.sampled_from([3, 2_000]),
    st.sampled_from([8, 20_000]),
)
def test_what_a_watcher_holds_is_what_a_fresh_list_holds(
    steps: list[Op], watching: list[tuple[int, int]], merge_above: int, kept: int
) -> None:
    asyncio.run(check(steps, watching, merge_above, kept))


EVERYTHING, ACTIVE, NOT_ACTIVE, BOBS = 0, 3, 4, 5  # in FILTERS
BY_EVE, BY_BOB, BY_ADMIN = 0, 1, 2  # in WATCHERS


def step(what: str, uid: str = "s0", owner: str = "bob", number: int = 0, **fields: Any) -> Op:
    return Op(what, uid, owner, tuple(fields.items()), number)


FOUND = {
    "a service that registers as degraded was never active": (
        [step("take"), step("register", status="degraded")], (BY_BOB, ACTIVE), 2_000, 20_000,
    ),
    "and is degraded still after a crash": (
        [step("register", status="degraded"), step("poll"), step("crash")], (BY_EVE, NOT_ACTIVE), 2_000, 20_000,
    ),
    "what was offline and is gone is told after a restart too": (
        [step("register"), step("time", number=50), step("take"), step("delete"), step("restart")],
        (BY_EVE, NOT_ACTIVE), 2_000, 20_000,
    ),
    "an event shows the status that it tells": (
        [step("take"), step("register", ttl=2), step("time", number=3), step("beat")],
        (BY_BOB, EVERYTHING), 2_000, 20_000,
    ),
    "nobody goes on from the middle of merged states": (
        [
            step("register"), step("take"), step("register", "s2", ttl=2), step("register", "s3"),
            step("time", number=70), step("take"), step("beat"),
        ],
        (BY_EVE, NOT_ACTIVE), 3, 20_000,
    ),
    "whoever polls a quiet list of a busy node is not sent away for ever": (
        [step("register", "s1", "carol"), step("poll"), *(step("register", name=f"n{n}") for n in range(20))],
        (3, EVERYTHING), 2_000, 8,
    ),
    "registered again where it cannot be seen": (
        [step("register"), step("take"), step("delete"), step("register", acl={"read": []}), step("restart")],
        (BY_EVE, EVERYTHING), 2_000, 20_000,
    ),
    "registered again in a class where it cannot be seen": (
        [step("register"), step("take"), step("delete"), step("register", visibility="private"), step("restart")],
        (BY_EVE, EVERYTHING), 2_000, 20_000,
    ),
    "hidden and then gone": (
        [step("register"), step("take"), step("patch", acl={"read": []}), step("delete"), step("restart")],
        (BY_EVE, EVERYTHING), 2_000, 20_000,
    ),
    "hidden within the millisecond": (
        [step("register"), step("take"), step("patch", visibility="private"), step("crash")],
        (BY_EVE, EVERYTHING), 2_000, 20_000,
    ),
    "a status that a crash took back, and a clean restart after it": (
        [
            step("register", ttl=2), step("time", number=3), step("beat"), step("register", "s2"), step("poll"),
            step("crash"), step("restart"),
        ],
        (BY_ADMIN, ACTIVE), 2_000, 20_000,
    ),
    "the entry of a status waits for no entry that was not written": (
        [
            step("register", "s3"), step("register", status="offline", ttl=2), step("time", number=3), step("take"),
            step("delete", "s3"), step("crash"),
        ],
        (BY_ADMIN, ACTIVE), 2_000, 20_000,
    ),
    "what a restart forgot is not merged": (
        [
            step("register"), step("take"), step("give", number=1), step("crash"), step("register", "s1"),
            step("register", "s2"), step("patch", owner="carol", status="degraded"), step("register", "s3"),
        ],
        (BY_ADMIN, ACTIVE), 3, 20_000,
    ),
    "nobody beats any more": (
        [step("register", ttl=5), step("register", ttl=0), step("time", number=20), step("restart")],
        (BY_EVE, NOT_ACTIVE), 2_000, 20_000,
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", FOUND.values(), ids=FOUND)
def test_histories_that_went_wrong_once(history: tuple[list[Op], tuple[int, int], int, int]) -> None:
    steps, watching, merge_above, kept = history
    asyncio.run(check(steps, [watching], merge_above, kept))
