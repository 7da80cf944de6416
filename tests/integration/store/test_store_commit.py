"""Commits on a real file: what is acknowledged is there, in order, whole; what fails fails alone."""

import asyncio
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from crdt.entry import Class, Fact
from federation.cose import sign_entry
from kosreg.store import COMMIT_SHIFT, Batch, Row, StoreBusy, StoreClosed, StoreError, StoreInUse, StoreRefused
from kosreg.store import writer as writer_module
from tests.integration.store.kit import FOR_EVER, KEY, batch, entry, everything, ids, open_store, opened, until


async def test_committed_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    written = entry("a", stamp=(1 << 64) - 1)
    async with opened(tmp_path) as store:
        change = batch(written)
        await store.commit(change)
        seq = change.seq
    async with opened(tmp_path) as store:
        [row] = await everything(store)
    assert (row.raw, row.id, row.seq, row.prior) == (written.raw, written.id, seq, None)


async def test_newer_entry_of_a_key_replaces_the_older(tmp_path: Path) -> None:
    old, new = entry("a", 1), entry("a", 2)
    async with opened(tmp_path) as store:
        await store.commit(batch(old))
        await store.commit(batch(new))
        assert [row.id for row in await everything(store)] == [new.id]


async def test_classes_are_kept_apart(tmp_path: Path) -> None:
    tombstone, live = entry("a", 2, live=False), entry("a", 3, cls=Class.PUBLIC)
    async with opened(tmp_path) as store:
        await store.commit(Batch([Row(tombstone, prior=entry("a", 1).raw), Row(live)]))
        rows = await everything(store)
    assert [(row.id, row.prior is not None) for row in rows] == [(tombstone.id, True), (live.id, False)]


async def test_prior_is_forgotten_when_the_service_is_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.commit(Batch([Row(entry("a", 2, live=False), prior=b"what was there")]))
        await store.commit(batch(entry("a", 3)))
        assert [row.prior for row in await everything(store)] == [None]


async def test_load_is_in_the_order_of_commits(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for name in ("z", "m", "a", "m"):
            await store.commit(batch(entry(name)))
        rows = await everything(store)
    assert [row.raw for row in rows] == [entry(name).raw for name in ("z", "a", "m")]
    assert [row.seq for row in rows] == sorted(row.seq for row in rows)


async def test_load_comes_in_chunks_and_leaves_none_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosreg.store.store.CHUNK", 4)
    for count in (0, 3, 4, 9):
        folder = tmp_path / str(count)
        folder.mkdir()
        async with opened(folder) as store:
            await store.commit(batch(*(entry(f"s{i}") for i in range(count))))
            chunks = [len(chunk) async for chunk in store.load()]
        assert sum(chunks) == count
        assert all(size == 4 for size in chunks[:-1])


async def test_rows_of_a_batch_are_numbered_one_after_the_other(tmp_path: Path) -> None:
    first, second = batch(entry("a"), entry("b")), batch(entry("c"))
    first.spare = 3
    async with opened(tmp_path) as store:
        await asyncio.gather(store.commit(first), store.commit(second))
        seqs = [row.seq for row in await everything(store)]
    assert seqs == [first.seq, first.seq + 1, second.seq]
    assert second.seq == first.seq + 2 + 3  # one group: one commit number
    assert first.seq >> COMMIT_SHIFT == second.seq >> COMMIT_SHIFT


async def test_what_waits_when_a_commit_ends_shares_the_next(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        before = store.stats().commits
        for i in range(64):
            store.commit(batch(entry(f"s{i}")))
        await store.commit(batch(entry("last")))
        stats = store.stats()
    assert stats.rows == 65
    assert stats.commits - before <= 3
    assert (stats.waiting, stats.waiting_bytes) == (0, 0)


async def test_on_commit_hears_batches_in_order_and_before_their_futures(tmp_path: Path) -> None:
    heard: list[int] = []
    async with opened(tmp_path) as store:
        batches = [batch(entry(f"s{i}")) for i in range(200)]
        futures: list[asyncio.Future[None]] = []

        def on_commit(group: list[Batch]) -> None:
            for one in group:
                assert not futures[batches.index(one)].done()
                heard.append(one.seq)

        store.on_commit = on_commit
        for i, one in enumerate(batches):
            futures.append(store.commit(one))
            if i % 7 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*futures)
    assert heard == [one.seq for one in batches]
    assert heard == sorted(set(heard))


async def test_a_row_is_on_disk_before_its_future_resolves(tmp_path: Path) -> None:
    reader = sqlite3.connect(tmp_path / "registry.db")
    async with opened(tmp_path) as store:
        for i in range(20):
            one = entry(f"s{i}")
            await store.commit(batch(one))
            assert reader.execute("SELECT count(*) FROM entries WHERE id = ?", (one.id,)).fetchone() == (1,)
    reader.close()


async def test_every_commit_is_synced(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, store._backend.engine.connect() as connection:
        assert (await connection.exec_driver_sql("PRAGMA synchronous")).scalar() == 2
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar() == "wal"


async def test_purge_takes_what_came_before_it_and_leaves_what_comes_after(tmp_path: Path) -> None:
    a, b = entry("a"), entry("b", 1)
    async with opened(tmp_path) as store:
        futures = [
            store.commit(batch(a, b)),
            store.commit(Batch(purge=[a.key, b.key])),
            store.commit(batch(entry("b", 2))),
        ]
        await asyncio.gather(*futures)
        assert [row.id for row in await everything(store)] == [entry("b", 2).id]


async def test_purge_of_a_key_with_a_root(tmp_path: Path) -> None:
    root = b"r" * 32
    inside = sign_entry(KEY, Fact("service", "a", 1, Class.INTERNAL, FOR_EVER, {"name": "a"}, root))
    async with opened(tmp_path) as store:
        await store.commit(batch(inside, entry("a")))
        await store.commit(Batch(purge=[inside.key]))
        assert [row.id for row in await everything(store)] == [entry("a").id]


async def test_secret_is_kept_with_its_entry(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        sealed = store.seal(b"hunter2")
        await store.commit(Batch([Row(entry("a"))], secrets=[("a", sealed), ("b", sealed)]))
        await store.commit(Batch(secrets=[("b", None)]))
    async with opened(tmp_path) as store:
        secrets = await store.secrets()
        assert {name: store.unseal(value) for name, value in secrets.items()} == {"a": b"hunter2"}
    assert b"hunter2" not in (tmp_path / "registry.db").read_bytes()


async def test_no_number_is_used_twice_across_restarts(tmp_path: Path) -> None:
    """Also where nothing on disk carries the newest number: after a purge, after writes that are no entries, after
    none.
    """
    last = 0
    for write in ("entry", "purge", "secret", "nothing", "entry"):
        async with opened(tmp_path) as store:
            assert store.first_seq > last
            last = store.first_seq | 0xFFFFFF  # what may have been handed out in memory
            one = {
                "entry": batch(entry("a")),
                "purge": Batch(purge=[entry("a").key]),
                "secret": Batch(secrets=[("a", b"x")]),
                "nothing": None,
            }[write]
            if one is not None:
                await store.commit(one)
                assert one.seq > last
                last = one.seq | 0xFFFFFF


async def test_version_key_stays(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        key = store.version_key
    async with opened(tmp_path) as store:
        assert store.version_key == key
    assert len(key) == 16


# --- failures -----------------------------------------------------------------------------------------------


async def test_a_row_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    bad = replace(entry("bad"), name="\ud800")
    heard: list[Batch] = []
    async with opened(tmp_path) as store:
        store.on_commit = heard.extend
        futures = [store.commit(batch(one)) for one in (entry("a"), bad, entry("b"))]
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), StoreRefused, type(None)]
        assert [row.id for row in await everything(store)] == [entry("a").id, entry("b").id]
        assert len(heard) == 2
        await store.commit(batch(entry("c")))


async def test_rows_of_a_refused_batch_are_all_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(StoreRefused):
            await store.commit(batch(entry("a"), replace(entry("bad"), name="\ud800"), entry("b")))
        await store.commit(batch(entry("c")))
        assert [row.id for row in await everything(store)] == [entry("c").id]


async def test_cancelled_waiter_harms_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:

        async def write(name: str) -> None:
            await store.commit(batch(entry(name)))

        tasks = [asyncio.create_task(write(f"s{i}")) for i in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None for i, result in enumerate(results) if i % 3)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::3])
        await store.commit(batch(entry("after")))
        assert len(await everything(store)) == 101  # what was submitted is written, asked for or not


async def test_fault_in_on_commit_reaches_the_caller_and_not_the_writer(tmp_path: Path) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    async with opened(tmp_path) as store:

        def broken(_: list[Batch]) -> None:
            raise RuntimeError("shown wrongly")

        store.on_commit = broken
        with pytest.raises(StoreError, match="could not be shown") as caught:
            await store.commit(batch(entry("a")))
        assert isinstance(caught.value.__cause__, RuntimeError)
        store.on_commit = lambda _: None
        await store.commit(batch(entry("b")))
    assert reported == ["on_commit of the store failed"]


class Held:
    """Another program's write lock on the file, from a thread of its own: commits wait meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path, self._go, self._held = path, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        self._held.set()
        self._go.wait(30)
        connection.execute("ROLLBACK")
        connection.close()

    def __enter__(self) -> "Held":
        self._thread.start()
        assert self._held.wait(5)
        return self

    def release(self) -> None:
        self._go.set()
        self._thread.join(5)

    def __exit__(self, *_: object) -> None:
        self.release()


async def test_queue_is_bounded_in_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING", 50)
    async with opened(tmp_path) as store:
        with Held(tmp_path / "registry.db") as held:
            futures = [store.commit(batch(entry(f"s{i}"))) for i in range(50)]
            with pytest.raises(StoreBusy):
                store.commit(batch(entry("one more")))
            held.release()
            await asyncio.gather(*futures)
        await store.commit(batch(entry("now")))


async def test_queue_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_BYTES", 100_000)
    async with opened(tmp_path) as store:
        with Held(tmp_path / "registry.db") as held:
            futures = [store.commit(batch(entry(f"s{i}", size=30_000))) for i in range(3)]
            with pytest.raises(StoreBusy):
                store.commit(batch(entry("one more", size=30_000)))
            held.release()
            await asyncio.gather(*futures)


async def test_file_that_another_program_holds_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosreg.store.sqlite._BUSY_S", 0.1)
    async with opened(tmp_path) as store:
        with Held(tmp_path / "registry.db"):
            with pytest.raises(StoreError) as caught:
                await store.commit(batch(entry("a")))
            assert caught.value.retry
        await store.commit(batch(entry("b")))
        assert [row.id for row in await everything(store)] == [entry("b").id]


async def test_close_writes_what_waits(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    written = [entry(f"s{i}") for i in range(3000)]
    futures = [store.commit(batch(one)) for one in written]
    await store.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert await ids(tmp_path) == {one.id for one in written}


async def test_close_is_bounded_and_what_is_left_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosreg.store.sqlite._CLOSE_S", 0.1)
    store = await open_store(tmp_path)
    await store.commit(batch(entry("before")))
    with Held(tmp_path / "registry.db"):
        futures = [store.commit(batch(entry(f"s{i}"))) for i in range(3)]
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        await store.close(within_s=0.2)
        assert asyncio.get_running_loop().time() - began < 1.5
        assert all(isinstance(future.exception(), StoreClosed) for future in futures)
        with pytest.raises(StoreInUse):  # the thread that hangs may yet write
            await open_store(tmp_path)
    await until(lambda: store._backend._closing.done())  # type: ignore[attr-defined]
    assert entry("before").id in await ids(tmp_path)


async def test_end_of_the_writer_leaves_nobody_waiting(tmp_path: Path) -> None:
    """As when a loop ends and cancels all tasks."""
    async with opened(tmp_path) as store:
        writer = store._writer
        assert writer is not None
        futures = [store.commit(batch(entry(f"s{i}", size=10))) for i in range(2500)]
        await asyncio.sleep(0)  # the first group is under way
        writer._task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)
        assert all(isinstance(result, StoreClosed) for result in results)
        with pytest.raises(StoreClosed):
            store.commit(batch(entry("late")))


async def test_load_that_is_left_early_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosreg.store.store.CHUNK", 2)
    async with opened(tmp_path) as store:
        await store.commit(batch(*(entry(f"s{i}") for i in range(9))))
        before = asyncio.all_tasks()
        chunks = store.load()
        assert len(await anext(chunks)) == 2
        await chunks.aclose()
        assert asyncio.all_tasks() == before


async def test_closed_store_takes_nothing(tmp_path: Path) -> None:
    store = await open_store(tmp_path)
    await store.close()
    await store.close()
    with pytest.raises(StoreClosed):
        store.commit(batch(entry("a")))


async def test_loop_stays_alive_while_much_is_written_and_read(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        change = Batch([Row(entry(f"s{i}", size=10)) for i in range(5000)])
        loop, longest = asyncio.get_running_loop(), 0.0
        stop = asyncio.Event()

        async def watch() -> None:
            nonlocal longest
            while not stop.is_set():
                before = loop.time()
                await asyncio.sleep(0.001)
                longest = max(longest, loop.time() - before)

        watcher = asyncio.create_task(watch())
        await store.commit(change)
        assert len(await everything(store)) == 5000
        stop.set()
        await watcher
    assert longest < 0.5


async def test_waiting_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        future = store.commit(batch(entry("a"), entry("b")))
        assert store.stats().waiting == 2
        assert store.stats().waiting_bytes > 2 * 300
        await future
        await until(lambda: store.stats().waiting == 0)
