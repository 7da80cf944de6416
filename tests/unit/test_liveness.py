"""Who is called dead, and when: the rules of liveness on clocks that the test moves."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from kosreg.catalog import Catalog
from kosreg.liveness import REAPING, STATUS_INTERVAL, Liveness, restore, status_body
from kosreg.service import Service

DAY = 24 * 3600.0


class World:
    """A catalog, its liveness, and clocks moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall = 1_790_000_000_000
        self.catalog = Catalog()
        self.written: list[tuple[float, str, object]] = []
        self.reaped: list[str] = []
        self.taking = True
        self.full = False
        self.slow: asyncio.Event | None = None
        self.liveness = self.restarted()

    def restarted(self) -> Liveness:
        """Another one, that knows what the catalog knows."""
        for service in self.catalog:
            service.bucket = 0
        self.liveness = Liveness(
            self.catalog,
            monotonic=lambda: self.now,
            wall_ms=lambda: self.wall,
            reap_after=7 * DAY,
            write_status=self.write,
            reap=self.reap,
        )
        return self.liveness

    def write(self, service: Service) -> bool:
        if self.taking:
            self.written.append((self.now, service.uid, status_body(service)))
        return self.taking

    async def reap(self, service: Service) -> None:
        if self.slow is not None:
            await self.slow.wait()
        if self.full:
            raise OSError("no space left on device")
        self.reaped.append(service.uid)
        self.catalog.remove(service.uid, service.origin, self.catalog.journal.next_seq(), self.wall)

    def add(self, uid: str, ttl: int = 30, status: str | None = None) -> Service:
        service = Service(uid, "did:key:z6Mk", 1, {"name": uid, "type": "agent", "ttl": ttl})
        service.seq = self.catalog.journal.next_seq()
        self.catalog.put(service, self.wall)
        self.liveness.installed(service, beat=True, status=status)
        return service

    async def pass_time(self, seconds: float, step: float = 0.25) -> None:
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + step)
            self.wall += round(step * 1000)
            await self.liveness.tick()
            if self.liveness._reaping:
                await asyncio.wait(self.liveness._reaping)

    def beat(self, service: Service, status: str | None = None) -> None:
        self.liveness.beat(service, self.now, self.wall, status)

    def events(self, uid: str) -> list[str]:
        changes = self.catalog.journal.since(0)
        assert changes is not None
        return [change.event for change in changes if change.uid == uid]


@pytest.fixture
def world() -> World:
    return World()


async def test_offline_within_a_second_after_its_ttl(world: World) -> None:
    service = world.add("a", ttl=30)
    await world.pass_time(29.75)
    assert service.status == "active"
    await world.pass_time(1.25)
    assert service.status == "offline"
    assert service.why == "no heartbeat within its ttl of 30 s"
    assert world.events("a") == ["registered", "offline"]


async def test_a_beat_gives_a_full_ttl(world: World) -> None:
    service = world.add("a", ttl=10)
    for _ in range(20):
        await world.pass_time(9)
        world.beat(service)
    assert world.events("a") == ["registered"]
    assert world.written == []


async def test_a_plain_beat_clears_an_expiry_but_never_a_declared_degraded(world: World) -> None:
    service = world.add("a", ttl=5)
    world.beat(service, "degraded")
    assert service.status == "degraded"
    await world.pass_time(6)
    assert service.status == "offline"
    world.beat(service)
    assert (service.status, service.declared) == ("degraded", "degraded")
    world.beat(service, "active")
    assert service.status == "active"
    assert world.events("a") == ["registered", "degraded", "offline", "degraded", "active"]


async def test_who_beats_is_not_offline_but_who_never_beats_may_say_so(world: World) -> None:
    beating, device = world.add("a", ttl=5), world.add("d", ttl=0)
    world.beat(beating, "offline")
    world.beat(device, "offline")
    assert beating.status == "active"
    assert device.status == "offline"


async def test_ttl_zero_is_never_judged_or_reaped(world: World) -> None:
    service = world.add("d", ttl=0)
    await world.pass_time(30 * DAY, step=3600)
    assert service.status == "active"
    assert service.why == "not monitored"
    assert world.reaped == []


async def test_an_update_to_ttl_zero_ends_an_expiry(world: World) -> None:
    service = world.add("a", ttl=2)
    await world.pass_time(3)
    assert service.status == "offline"
    fresh = Service("a", service.origin, 1, {"name": "a", "type": "agent", "ttl": 0}, world.catalog.journal.next_seq())
    fresh.live_from(service)
    world.catalog.put(fresh, world.wall)
    world.liveness.installed(fresh, beat=False, status=None)
    assert fresh.status == "active"


async def test_an_update_to_ttl_zero_is_judged_no_more(world: World) -> None:
    service = world.add("a", ttl=2)
    fresh = Service("a", service.origin, 1, {"name": "a", "type": "agent", "ttl": 0}, world.catalog.journal.next_seq())
    fresh.live_from(service)
    world.catalog.put(fresh, world.wall)
    world.liveness.installed(fresh, beat=True, status=None)
    await world.pass_time(10)
    assert fresh.status == "active"


async def test_a_shorter_ttl_holds_at_once(world: World) -> None:
    service = world.add("a", ttl=3000)
    fresh = Service("a", service.origin, 1, {"name": "a", "type": "agent", "ttl": 2}, world.catalog.journal.next_seq())
    fresh.live_from(service)
    world.catalog.put(fresh, world.wall)
    world.liveness.installed(fresh, beat=True, status=None)
    await world.pass_time(3)
    assert fresh.status == "offline"


async def test_one_status_entry_per_service_and_ten_seconds_and_the_last_state_wins(world: World) -> None:
    service = world.add("a", ttl=60)
    for n in range(40):  # a change every 0.5 s for 20 s
        world.beat(service, "degraded" if n % 2 == 0 else "active")
        await world.pass_time(0.5)
    await world.pass_time(STATUS_INTERVAL + 1)
    times = [when for when, _, _ in world.written]
    assert all(b - a >= STATUS_INTERVAL for a, b in itertools.pairwise(times))
    assert world.written[-1][2] is None  # simply active
    assert len(world.events("a")) == 41  # what is shown did not wait


async def test_a_status_entry_that_the_store_does_not_take_is_tried_again(world: World) -> None:
    service = world.add("a")
    world.taking = False
    world.beat(service, "degraded")
    await world.pass_time(5)
    assert world.written == []
    world.taking = True
    await world.pass_time(2)
    assert [body and body["status"] for _, _, body in world.written] == ["degraded"]  # type: ignore[index]


async def test_reaped_after_seven_days_offline_and_not_before(world: World) -> None:
    world.add("a", ttl=30)
    await world.pass_time(60)
    await world.pass_time(7 * DAY - 120, step=30)
    assert world.reaped == []
    await world.pass_time(300, step=30)
    assert world.reaped == ["a"]


async def test_a_reaping_that_fails_is_tried_again_and_stops_nobody(world: World) -> None:
    world.add("a", ttl=30)
    other = world.add("b", ttl=30)
    world.full = True
    await world.pass_time(7 * DAY + 60, step=30)
    assert world.reaped == []
    world.beat(other)
    await world.pass_time(60)
    assert other.status == "offline", "it goes on judging"
    world.full = False
    await world.pass_time(5)
    assert world.reaped == ["a"]


async def test_a_slow_reaping_delays_nobody(world: World) -> None:
    slow = asyncio.Event()
    world.slow = slow
    for n in range(REAPING + 20):
        world.add(f"s{n}", ttl=2)
    await world.pass_time(10)
    world.wall += 8 * 86_400_000
    other = world.add("other", ttl=2)
    world.now += 61  # what is offline is looked at once a minute
    async with asyncio.timeout(10):
        await world.liveness.tick()
    assert len(world.liveness._reaping) == REAPING
    assert other.status == "offline"
    slow.set()
    await world.pass_time(5)
    assert len(world.reaped) == REAPING + 20


async def test_a_clock_jump_reaps_nobody_at_once(world: World) -> None:
    """A week passes on the wall clock in a moment: who is offline gets his ttl to say that he lives."""
    service = world.add("a", ttl=20)
    await world.pass_time(75)  # it will be looked at next within some s
    assert service.status == "offline"
    world.wall += 8 * 86_400_000
    world.liveness.grace()
    await world.pass_time(18)
    assert world.reaped == []
    world.beat(service)
    await world.pass_time(15)
    assert (service.status, world.reaped) == ("active", [])


async def test_a_start_reaps_nobody_at_once(world: World) -> None:
    service = world.add("a", ttl=20)
    await world.pass_time(30)
    world.wall += 8 * 86_400_000
    again = world.restarted()
    again.start()
    await world.pass_time(18)
    assert (service.status, world.reaped) == ("offline", [])
    await world.pass_time(4)
    assert world.reaped == ["a"]


async def test_a_short_stall_of_this_process_makes_nobody_offline(world: World) -> None:
    """The beats that came meanwhile are still in the sockets when the clock is looked at."""
    service = world.add("a", ttl=1)
    running = asyncio.create_task(world.liveness.run())
    await asyncio.sleep(0)  # it has looked at the clocks
    try:
        before = world.liveness._next
        world.now += 1.8
        world.wall += 1800
        async with asyncio.timeout(10):
            while world.liveness._next == before:
                await asyncio.sleep(0.01)
        assert service.status == "active"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_grace_gives_everybody_a_full_ttl_but_wakes_no_dead(world: World) -> None:
    alive, dead = world.add("a", ttl=10), world.add("b", ttl=2)
    await world.pass_time(9)
    assert dead.status == "offline"
    world.liveness.grace()
    await world.pass_time(9)
    assert alive.status == "active"
    assert dead.status == "offline"
    await world.pass_time(2)
    assert alive.status == "offline"


async def test_a_stall_or_a_clock_jump_counts_as_ours(world: World) -> None:
    """The real loop: its clock jumps while a service is about to expire."""
    service = world.add("a", ttl=5)
    running = asyncio.create_task(world.liveness.run())
    await asyncio.sleep(0)  # it has looked at the clocks
    try:
        world.now += 4.9
        world.wall += 4900
        world.now += 60  # a suspend of the process: the wall clock went on as well
        world.wall += 60_000
        async with asyncio.timeout(10):
            while world.liveness.graces == 0:
                await asyncio.sleep(0.01)
        assert service.status == "active"
        world.wall += 3_600_000  # the wall clock is set an hour ahead
        async with asyncio.timeout(10):
            while world.liveness.graces == 1:
                await asyncio.sleep(0.01)
        assert service.status == "active"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_removed_service_is_forgotten_and_registered_again_is_judged_once(world: World) -> None:
    world.add("a", ttl=5)
    world.catalog.remove("a", "did:key:z6Mk", world.catalog.journal.next_seq(), world.wall)
    again = world.add("a", ttl=5)
    await world.pass_time(4)
    world.beat(again)
    await world.pass_time(4)
    assert again.status == "active"
    await world.pass_time(2)
    assert world.events("a") == ["registered", "deregistered", "registered", "offline"]


def test_a_declared_degraded_survives_expiry_and_restart() -> None:
    service = Service("a", "did:key:z", 1, {"name": "a", "type": "agent"})
    service.declared, service.expired, service.since, service.reason = "degraded", True, 5, "no heartbeat"
    body = status_body(service)
    fresh = Service("a", "did:key:z", 1, {"name": "a", "type": "agent"})
    assert body is not None
    restore(fresh, body)
    assert (fresh.status, fresh.declared, fresh.since) == ("offline", "degraded", 5)


async def test_a_hundred_thousand_services_need_one_timer_and_little_work(world: World) -> None:
    for n in range(100_000):
        world.add(f"s{n}", ttl=30)
    await world.pass_time(20)
    for service in world.catalog:
        service.beat_s = world.now  # as a batch of beats does
    await world.pass_time(29)
    assert world.liveness.expiries == 0
    await world.pass_time(2)
    assert world.liveness.expiries == 100_000
