"""The one writer: group commit.

Whatever waits when a commit ends goes into the next one, so that many writers share one fsync; there is no window of
time to tune. Measured with 64 clients: some 30 rows a group. A group is one transaction: on disk whole or not at all.
When it is on disk, and only then, its batches are handed to `on_commit` in order and its futures resolve.

A group that fails fails exactly its own futures. Where the fault is one row's own (a text that is no Unicode), each job
of the group is written again by itself, so that nobody pays for another's row.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from kosreg.store.dialect import Backend, Op, Statement, Statements, Values
from kosreg.store.errors import StoreBusy, StoreClosed, StoreError, StoreRefused
from kosreg.store.rows import COMMIT_SHIFT, Batch, Row, StoreStats, entry_checksum, row_checksum

MAX_WAITING = 10_000  # rows; more is StoreBusy
MAX_WAITING_BYTES = 64 << 20
MAX_GROUP = 2_000  # rows: some 30 ms of one transaction, so that a bulk import does not make others wait
MAX_GROUP_BYTES = 8 << 20
LAST_COMMIT = "last_commit"  # the key in `meta`

log = structlog.get_logger("kosreg.store")


@dataclass(slots=True)
class _Job:
    """One thing to write whole: a batch, or the operations of a small write."""

    batch: Batch | None
    ops: list[Op]
    done: "asyncio.Future[None]"
    rows: int
    weight: int
    answered: bool = False


class Writer:
    """Owns the queue and the task that commits. `last`: the newest commit number that is used up."""

    def __init__(
        self,
        backend: Backend,
        statements: Statements,
        last: int,
        on_commit: Callable[[list[Batch]], None],
        on_failure: Callable[[list[Batch]], None],
    ) -> None:
        self.last = last
        self._backend = backend
        self._statements = statements
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Job] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._waiting = self._waiting_bytes = 0
        self._commits = self._rows = self._failed = self._largest = 0
        self._busy_s = 0.0
        self._faulty: type[StoreError] | None = None
        self._task = asyncio.create_task(self._run(), name="store writer")

    # --- what others call -----------------------------------------------------------------------------------

    def submit(self, batch: Batch | None, ops: list[Op], rows: int, weight: int) -> "asyncio.Future[None]":
        """Queues one job. Raises StoreClosed, or StoreBusy over the bounds (a job that finds nothing waiting always
        fits).
        """
        if self._closing:
            raise StoreClosed("nothing more is taken.")
        if self._waiting and (self._waiting + rows > MAX_WAITING or self._waiting_bytes + weight > MAX_WAITING_BYTES):
            raise StoreBusy(f"{self._waiting} rows ({self._waiting_bytes >> 20} MiB) wait to be written.")
        job = _Job(batch, ops, self._loop.create_future(), rows, weight)
        self._waiting += rows
        self._waiting_bytes += weight
        self._queue.append(job)
        self._wake.set()
        return job.done

    async def close(self, within_s: float) -> None:
        """Writes what waits, for `within_s` seconds at most; what is left then fails with StoreClosed."""
        self._closing = True
        self._wake.set()
        done, _ = await asyncio.wait([self._task], timeout=within_s)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)

    def stats(self) -> StoreStats:
        return StoreStats(
            commits=self._commits,
            rows=self._rows,
            failed=self._failed,
            waiting=self._waiting,
            waiting_bytes=self._waiting_bytes,
            largest_group=self._largest,
            busy_s=self._busy_s,
        )

    # --- the task -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while self._queue or not self._closing:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    await self._write_group(self._gather())
        finally:
            # Cancelled, by a close that took too long or by the end of the loop: nobody may wait for ever.
            self._closing = True
            while self._queue:
                self._answer(self._queue.popleft(), StoreClosed("it was not written in time."))

    async def _write_group(self, group: list[_Job]) -> None:
        try:
            await self._commit(group)
        finally:
            for job in group:
                self._waiting -= job.rows
                self._waiting_bytes -= job.weight
                self._answer(job, StoreClosed("it was not written in time."))  # where nobody has answered yet

    def _gather(self) -> list[_Job]:
        group: list[_Job] = []
        rows = weight = 0
        while self._queue:
            job = self._queue[0]
            if group and (rows + job.rows > MAX_GROUP or weight + job.weight > MAX_GROUP_BYTES):
                break
            group.append(self._queue.popleft())
            rows += job.rows
            weight += job.weight
        return group

    async def _commit(self, group: list[_Job]) -> None:
        self.last += 1
        began = time.monotonic()
        try:
            await self._backend.write(self._plan(group, self.last))
        except Exception as error:
            fault = self._backend.explain(error)
            if isinstance(fault, StoreRefused) and len(group) > 1:
                for job in group:
                    await self._commit([job])
                return
            self._note_failure(fault)
            self._failed += len(group)
            for job in group:
                self._answer(job, fault, error)
            return
        self._note_failure(None)
        self._busy_s += time.monotonic() - began
        self._commits += 1
        rows = sum(job.rows for job in group)
        self._rows += rows
        self._largest = max(self._largest, rows)
        self._backend.note(self.last)
        self._tell(group)

    def _tell(self, group: list[_Job]) -> None:
        try:
            batches = [job.batch for job in group if job.batch is not None]
            if batches:
                self._on_commit(batches)
        except Exception as error:
            # On disk but not shown: the callers must not be told that all is well, and the writer must live on.
            self._loop.call_exception_handler({"message": "on_commit of the store failed", "exception": error})
            for job in group:
                self._answer(job, StoreError("it was written, but could not be shown."), error)
            return
        for job in group:
            job.answered = True
            if not job.done.done():  # whoever waited may have been cancelled
                job.done.set_result(None)

    def _answer(self, job: _Job, fault: StoreError, cause: Exception | None = None) -> None:
        if job.answered:
            return
        job.answered = True
        if job.batch is not None:
            self._on_failure([job.batch])
        if not job.done.done():
            mine = type(fault)(fault.detail, fault.todo)  # each waiter raises its own: a raise adds to the traceback
            mine.__cause__ = cause
            job.done.set_exception(mine)
            job.done.exception()  # a waiter that was cancelled never asks; asyncio must not report it as forgotten

    def _note_failure(self, fault: StoreError | None) -> None:
        """Logs when writing begins to fail and when it works again, not every refused write."""
        if isinstance(fault, StoreRefused):
            return
        if fault is not None and self._faulty is not type(fault):
            log.error("store cannot write", error=str(fault))
        elif fault is None and self._faulty is not None:
            log.info("store writes again", failed=self._failed)
        self._faulty = None if fault is None else type(fault)

    def _plan(self, group: Sequence[_Job], commit: int) -> list[Op]:
        """The group as few statements with many rows each. Order is kept within a table, which is all that matters."""
        plan = _Plan()
        seq = commit << COMMIT_SHIFT
        told = False  # whether a row of this group is sure to carry its number past a restart
        for job in group:
            if job.batch is not None:
                self._plan_batch(job.batch, seq, plan)
                seq += len(job.batch.rows) + job.batch.spare
                told = not job.batch.purge and (told or bool(job.batch.rows))
            if seq >> COMMIT_SHIFT != commit:
                raise StoreRefused("a batch has more rows than one commit has numbers.")
            for op in job.ops:
                plan.add(op.statement, op.rows)
        if not told:
            plan.add(self._statements.put_meta, [meta_values(LAST_COMMIT, b"%d" % commit)])
        return plan.ops()

    def _plan_batch(self, batch: Batch, seq: int, plan: "_Plan") -> None:
        batch.seq = seq
        if batch.rows:
            plan.add(self._statements.put_entry, [entry_values(seq + i, row) for i, row in enumerate(batch.rows)])
        if batch.purge:
            keys: list[Values] = [(k.origin, k.kind, k.name, int(k.cls), k.root or b"") for k in batch.purge]
            plan.add(self._statements.drop_entry, keys)
        for service_id, sealed in batch.secrets:
            op = secret_op(self._statements, service_id, sealed)
            plan.add(op.statement, op.rows)


class _Plan:
    """Operations gathered by table; neighbours that run the same statement become one."""

    def __init__(self) -> None:
        self._runs: dict[str, list[Op]] = {}

    def add(self, statement: Statement, rows: Sequence[Values]) -> None:
        run = self._runs.setdefault(statement.table, [])
        if not run or run[-1].statement is not statement:
            run.append(Op(statement, []))
        run[-1].rows.extend(rows)

    def ops(self) -> list[Op]:
        return [op for run in self._runs.values() for op in run]


def entry_values(seq: int, row: Row) -> Values:
    """In the order of the table (a test compares with the compiled statement)."""
    e = row.entry
    checksum = entry_checksum(seq, e.id, e.raw, row.prior)
    return (seq, e.origin, e.kind, e.name, int(e.cls), e.root or b"", e.id, e.raw, row.prior, checksum)


def secret_op(statements: Statements, service_id: str, sealed: bytes | None) -> Op:
    if sealed is None:
        return Op(statements.drop_secret, [(service_id,)])
    return Op(statements.put_secret, [with_checksum(service_id, sealed)])


def meta_values(key: str, value: bytes) -> Values:
    return with_checksum(key, value)


def with_checksum(*values: object) -> Values:
    return (*values, row_checksum(values))
