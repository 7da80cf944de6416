"""Links between nodes over real TLS sockets: that they come up, that one stays, that they come back."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import pytest

from crdt.entry import Class, Fact
from federation import connections, link, peer_node
from federation.cose import sign_entry
from federation.effects import Close, Effect, Lane, Store
from federation.envelope import Message
from federation.replica import Persist
from tests.harness import until
from tests.integration.federation.nodes import HIGH, LOW, THIRD, EchoMesh, Running, running, wall_ms
from tests.integration.federation.proxy import Proxy


async def up(one: Running, other: Running) -> None:
    await until(lambda: one.linked(other) and other.linked(one))


async def test_two_nodes_exchange_messages_on_every_lane() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        a.says(b, n=1)
        b.says(a, Lane.BULK, n=2)
        await until(lambda: a.mesh.pongs and b.mesh.pongs and a.mesh.got and b.mesh.got)
        assert b.mesh.got == [(a.key, {"t": "say", "n": 1})]
        assert a.mesh.got == [(b.key, {"t": "say", "n": 2})]


async def test_only_one_side_needs_to_be_reachable() -> None:
    async with running(LOW, listens=False) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        b.node.keep(a.key, [])
        a.keeps(b)
        await up(a, b)
        state = b.node.links()[0]
        assert (state.peer, state.state, state.dialled) == (a.key, "up", False)
        assert a.node.links()[0].dialled
        assert a.node.links()[0].address == b.address
        assert a.node.links()[0].bytes_out > 0


async def test_messages_arrive_in_order_and_share_envelopes() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        before = a.node.links()[0].bytes_out
        for n in range(500):
            a.says(b, n=n)
        await until(lambda: len(b.mesh.got) == 500)
        assert [message["n"] for _, message in b.mesh.got] == list(range(500))
        assert a.node.links()[0].bytes_out - before < 500 * 20 + 10 * 400  # alone each would have an envelope of 335


async def test_who_is_not_trusted_gets_no_link_and_is_told() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        a.keeps(b)
        await until(lambda: "refused untrusted" in a.codes())
        assert a.events[-1].by_peer
        await until(lambda: a.node.links()[0].state == "refused")
        assert a.node.links()[0].error.startswith("untrusted")
        assert not b.mesh.opens
        b.trusts(a)
        await up(a, b)


async def test_another_node_at_the_address_gets_nothing() -> None:
    async with running(LOW) as a, running(HIGH) as b, running(THIRD) as other:
        a.trusts(b, other)
        other.trusts(a)
        a.node.keep(b.key, [other.address])
        await until(lambda: "refused wrong-key" in a.codes())
        assert not other.mesh.opens
        a.node.keep(b.key, [other.address, b.address])  # several addresses: the next one is tried
        b.trusts(a)
        await up(a, b)


async def test_addresses_are_tried_in_turn() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.node.keep(b.key, ["127.0.0.1:1", "no-such-host.invalid:7481", "not an address", b.address])
        await up(a, b)
        assert a.codes().count("unreachable unreachable") == 3


@pytest.mark.parametrize("_round", range(5))
async def test_two_that_dial_each_other_keep_one_link(_round: int) -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        b.keeps(a)
        await up(a, b)
        await until(lambda: _one_link(a, b))
        a.says(b, n=1)
        b.says(a, n=2)
        await until(lambda: a.mesh.got and b.mesh.got)


def _one_link(a: Running, b: Running) -> bool:
    """Both have one link, and it is the same one."""
    one, other = a.node.links(), b.node.links()
    return (
        [len(one), len(other)] == [1, 1]
        and one[0].state == other[0].state == "up"
        and one[0].dialled is not other[0].dialled
        and [len(a.mesh.open), len(b.mesh.open)] == [1, 1]
    )


async def test_of_two_hellos_at_one_time_the_link_of_the_lower_key_stays() -> None:
    async with running(LOW) as a, running(HIGH) as b, Proxy(b) as to_b, Proxy(a) as to_a:
        a.trusts(b)
        b.trusts(a)
        to_a.hold_answers()  # both have said hello when the answers come
        to_b.hold_answers()
        a.node.keep(b.key, [to_b.address])
        b.node.keep(a.key, [to_a.address])
        await until(lambda: a.mesh.opens == 1 and b.mesh.opens == 1)  # each has accepted the other's
        to_a.let_go()
        to_b.let_go()
        await until(lambda: _one_link(a, b) and a.node.links()[0].dialled)
        assert LOW.public < HIGH.public


async def test_a_link_that_breaks_comes_back() -> None:
    async with running(LOW) as a, running(HIGH) as b, Proxy(b) as proxy:
        a.trusts(b)
        b.trusts(a)
        a.node.keep(b.key, [proxy.address])
        await up(a, b)
        for n in range(2, 4):
            proxy.cut()
            await until(lambda n=n: a.mesh.opens == n and a.linked(b) and b.linked(a))  # type: ignore[misc]


async def test_a_node_that_starts_anew_replaces_its_past() -> None:
    """Its old link hangs half open: nobody told the other side."""
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(running(HIGH))
        proxy = await stack.enter_async_context(Proxy(b))
        old = await stack.enter_async_context(running(LOW, incarnation=1))
        old.trusts(b)
        b.trusts(old)
        old.node.keep(b.key, [proxy.address])
        await up(old, b)
        proxy.freeze()
        new = await stack.enter_async_context(running(LOW, incarnation=2))
        new.trusts(b)
        new.keeps(b)
        await until(lambda: new.linked(b) and b.mesh.opens == 2)
        assert b.mesh.open == [new.key]
        assert "down replaced" in b.codes()
        # What is older comes no more, whoever dials.
        late = await stack.enter_async_context(running(LOW, incarnation=1))
        late.trusts(b)
        late.keeps(b)
        await until(lambda: "refused twin" in b.codes())
        assert b.mesh.open == [new.key]


async def test_a_half_open_link_does_not_block_a_new_one_by_the_same_side() -> None:
    async with running(LOW, listens=False) as a, running(HIGH) as b, Proxy(b) as proxy:
        a.trusts(b)
        b.trusts(a)
        a.node.keep(b.key, [proxy.address])
        await up(a, b)
        proxy.freeze()
        a.node.keep(b.key, [b.address])
        a.node.perform([_close(b)])  # a gives up, and b does not hear of it
        await until(lambda: b.mesh.opens == 2 and a.linked(b) and b.linked(a))


async def test_a_half_open_link_does_not_block_the_other_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """The higher key dials, while the link that the lower one dialled hangs; silent for QUIET_S decides."""
    monkeypatch.setattr(connections, "QUIET_S", 0.5)
    async with running(LOW) as a, running(HIGH) as b, Proxy(b) as proxy:
        a.trusts(b)
        b.trusts(a)
        a.node.keep(b.key, [proxy.address])
        await up(a, b)
        proxy.freeze()
        b.node.perform([_close(a)])
        b.keeps(a)
        await until(lambda: a.mesh.opens == 2 and b.mesh.opens == 2 and _one_link(a, b))


async def test_a_silent_link_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_node, "SILENT_S", 0.6)
    async with running(LOW, mesh=EchoMesh(200)) as a, running(HIGH, mesh=EchoMesh(200)) as b, Proxy(b) as proxy:
        a.trusts(b)
        b.trusts(a)
        a.node.keep(b.key, [proxy.address])
        await up(a, b)
        await until(lambda: len(a.mesh.pongs) >= 5)  # pings keep it
        assert a.mesh.opens == 1
        proxy.freeze()
        await until(lambda: "down silent" in a.codes() and "down silent" in b.codes())


def _close(other: Running) -> Effect:
    return Close(other.key, "malformed", "a test")


async def test_forget_closes_the_link_and_says_why() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        a.node.forget(b.key)
        assert not a.linked(b)
        await until(lambda: not b.linked(a))
        assert b.events[-1].code == "revoked"
        assert b.events[-1].by_peer
        assert a.node.links() == []


async def test_trust_that_ends_closes_the_link() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        b.trust.drop(a.key)  # the next tick sees it
        await until(lambda: not b.linked(a) and not a.linked(b))
        await until(lambda: "refused untrusted" in a.codes())
        b.trusts(a)
        await up(a, b)
        b.trust.drop(a.key)
        b.node.trust_changed()  # at once
        assert not b.linked(a)


async def test_what_stops_says_so() -> None:
    async with running(HIGH) as b:
        async with running(LOW) as a:
            a.trusts(b)
            b.trusts(a)
            a.keeps(b)
            await up(a, b)
        await until(lambda: not b.linked(a))
        assert b.events[-1].code == "restarting"


async def test_a_slow_reader_of_bulk_delays_no_ping() -> None:
    async with running(LOW, mesh=EchoMesh(100)) as a, running(HIGH, mesh=EchoMesh(100)) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        await until(lambda: a.node._links[b.key].bulk and b.node._links[a.key].bulk)
        b.mesh.waiting = link.BACKLOG + 1  # what it was sent waits to be judged: it reads no more bulk
        sent = 0

        async def is_stuck() -> bool:
            nonlocal sent
            if a.node.links()[0].queued < 2_000_000:  # what the system takes for the socket is full after some MB
                a.says(b, Lane.BULK, block=os.urandom(400_000))
                sent += 1
                return False
            before, seen = a.node.links()[0].queued, len(a.mesh.pongs)
            await until(lambda: len(a.mesh.pongs) >= seen + 3)  # pings went and came back meanwhile
            return a.node.links()[0].queued == before

        await until(is_stuck)
        a.mesh.pongs.clear()
        a.says(b, n=1)
        await until(lambda: len(a.mesh.pongs) >= 10)
        assert sorted(a.mesh.pongs)[8] < 50
        assert b.mesh.got[-1] == (a.key, {"t": "say", "n": 1})
        assert a.node.links()[0].queued > 1_000_000  # still
        b.mesh.waiting = 0
        b.node._links[a.key].has_room()
        await until(lambda: len(b.mesh.got) == sent + 1)
        assert a.mesh.room == sent  # told of each block that left


async def test_a_queue_that_is_full_drops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(link.QUEUE_BYTES, Lane.PUSH, 10_000)
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        for n in range(100):  # nothing goes out before this returns to the loop
            a.says(b, n=n, filler=b"x" * 1000)
        assert a.mesh.drops == 91
        assert a.node.links()[0].queued < 10_000
        await until(lambda: len(b.mesh.got) == 9)


async def test_while_too_much_waits_for_the_disk_no_more_is_read() -> None:
    disk = asyncio.Event()
    entry = sign_entry(HIGH, Fact("service", "s", 1, Class.PUBLIC, 2, {"name": "x" * 50_000}))

    async def commit(store: Store) -> None:
        await disk.wait()

    class Storing(EchoMesh):
        def received(self, peer: bytes, message: Message, now_ms: int) -> list[Effect]:
            super().received(peer, message, now_ms)
            return [Store(Persist((entry,), now_ms), peer)] if message["t"] == "say" else []

    async with running(LOW) as a, running(HIGH, mesh=Storing(), commit=commit) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await until(lambda: a.linked(b) and b.linked(a) and b.node._links[a.key].bulk)
        for n in range(40):
            a.says(b, Lane.BULK, n=n)
        await until(lambda: len(b.mesh.got) == 6)  # 6 × 50 kB is the first that is over 256 KiB
        a.says(b, n="the main socket goes on for a while")
        await until(lambda: len(b.mesh.got) == 7)
        await until(lambda: a.node.links()[0].queued == 0)  # all is in b's socket, or read
        a.says(b, n="and on")
        await until(lambda: len(b.mesh.got) == 8)
        assert [message["n"] for _, message in b.mesh.got[6:]] == ["the main socket goes on for a while", "and on"]
        assert b.node._links[a.key].silent_for() == 0  # it is this side that does not read
        disk.set()
        await until(lambda: len(b.mesh.got) == 42)
        await until(lambda: b.node._links[a.key].uncommitted == 0)


async def test_a_commit_that_fails_is_counted_and_frees_its_room() -> None:
    async def commit(store: Store) -> None:
        raise OSError("the disk is full")

    async with running(LOW) as a, running(HIGH, commit=commit) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        entry = sign_entry(HIGH, Fact("service", "s", 1, Class.PUBLIC, 2, {}))
        b.node.perform([Store(Persist((entry,), 1), a.key)])
        await until(lambda: b.node.counts["commit-failed"] == 1)
        assert b.node._links[a.key].uncommitted == 0


async def test_bulk_goes_over_the_main_socket_where_there_is_no_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "BULK_WAIT_S", 0.1)
    async with running(LOW) as a, running(HIGH) as b, Proxy(b) as proxy:
        a.trusts(b)
        b.trusts(a)
        proxy.most = 1  # connections
        a.node.keep(b.key, [proxy.address])
        await up(a, b)
        a.says(b, Lane.BULK, n=1)
        b.says(a, Lane.BULK, n=2)
        await until(lambda: a.mesh.got and b.mesh.got)
        assert a.node._links[b.key].bulk is None
        assert (a.mesh.room, b.mesh.room) == (1, 1)


async def test_a_link_whose_bulk_socket_breaks_is_made_anew() -> None:
    async with running(LOW) as a, running(HIGH) as b, Proxy(b) as proxy:
        a.trusts(b)
        b.trusts(a)
        a.node.keep(b.key, [proxy.address])
        await until(lambda: a.linked(b) and a.node._links[b.key].bulk and b.node._links[a.key].bulk)
        proxy.cut(last=True)
        await until(lambda: a.mesh.opens == 2 and b.mesh.opens == 2 and _one_link(a, b))
        b.says(a, Lane.BULK, n=1)
        await until(lambda: a.mesh.got)


async def test_hooks_see_each_message_and_may_drop_it() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        seen: list[tuple[str, str, object]] = []
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        a.node.trace = lambda way, peer, message: seen.append(("a", way, message.get("n")))
        b.node.trace = lambda way, peer, message: seen.append(("b", way, message.get("n")))
        a.node.drop = lambda peer, message: message.get("n") == 2
        for n in (1, 2, 3):
            a.says(b, n=n)
        await until(lambda: len(b.mesh.got) == 2)
        assert [said for said in seen if said[2]] == [("a", "out", 1), ("a", "out", 3), ("b", "in", 1), ("b", "in", 3)]


async def test_a_small_message_takes_no_time() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await up(a, b)
        took = []
        loop = asyncio.get_running_loop()
        for n in range(50):
            await asyncio.sleep(link.FLUSH_S + 0.002)  # the link is quiet
            b.mesh.came.clear()
            began = loop.time()
            a.says(b, n=n, entry=b"x" * 624)
            await b.mesh.came.wait()
            took.append(loop.time() - began)
        assert sorted(took)[25] < 0.004  # 0.6 ms on a quiet machine
        assert wall_ms() > 0
