"""Checks the signatures of what comes in bulk, on another core.

A thread does not do it: each check is some 50 µs outside the interpreter's lock, and then waits for the lock for up to
5 ms while the loop is busy, so that a first sync took as long as with no thread at all. Hence a process
(`verify_worker`), started when much comes and ended when nothing has come for a while. It is given what was signed and
by whom, and no secret. Where it cannot be had, or dies, a thread does what it was to do.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from crdt.entry import Entry
from federation.cose import signed_of, verify_entry
from federation.verify_worker import pack

WORTH: Final = 64  # entries: for fewer no process is started
IDLE_S: Final = 30.0  # without work: the process is ended
END_S: Final = 1.0  # for it to end by itself
ANSWER_S: Final = 30.0  # for one answer; some 5 ms are usual
MAX_FAILURES: Final = 3  # processes that failed; then a thread has to do


class Verifier:
    """One process at most. `failures`: how often the process could not be had or died."""

    def __init__(self) -> None:
        self.failures = 0
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()
        self._turn = asyncio.Lock()  # to read
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verify")

    async def verdicts(self, entries: Sequence[Entry]) -> list[bool]:
        """Which of their signatures hold, in their order."""
        if self._process is not None or (len(entries) >= WORTH and self.failures < MAX_FAILURES):
            process: asyncio.subprocess.Process | None = None
            try:
                process = await self._started()
                return await asyncio.wait_for(self._answered(process, entries), ANSWER_S)
            except Exception:  # OSError, EOFError, TimeoutError, or what the loop says of a pipe that is closed
                if process is self._process:  # the first to notice
                    self.failures += 1
                    self._end()
        return await asyncio.get_running_loop().run_in_executor(self._thread, _here, entries)

    async def _started(self) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is None:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", "-m", "federation.verify_worker",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            return self._process

    async def _answered(self, process: asyncio.subprocess.Process, entries: Sequence[Entry]) -> list[bool]:
        """Asks at once, and reads when those who asked before have their answers."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._stay()
        process.stdin.write(pack(signed_of(entry) for entry in entries))
        async with self._turn:
            answer = await process.stdout.readexactly(len(entries))
        self._stay()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._end)
        return [verdict == 1 for verdict in answer]

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()

    def _end(self) -> None:
        """End the process; the next one that is needed is a new one."""
        process, self._process = self._process, None
        self._stay()
        if process is not None:
            task = asyncio.create_task(_ended(process))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        """Ends the process, in a second at most."""
        self._end()
        await asyncio.gather(*self._ending)
        self._thread.shutdown(wait=False, cancel_futures=True)


async def _ended(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _here(entries: Sequence[Entry]) -> list[bool]:
    return [verify_entry(entry) for entry in entries]
