"""A daemon as a process: started, watched, stopped, killed, frozen. Ended by its id, and by nothing broader."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from kosreg.lab.errors import LabError

LOOK: Final = 0.01  # s between two looks at a process
ENDS: Final = 8.0  # s that a daemon has to end in order; then it is killed
SHOWN: Final = 3000  # characters of a log that explain an end

KOSREG: Final = (sys.executable, "-c", "from kosreg.cli import main; main()")


class Process:
    """One run of `kosreg run`. `pid`: its process id."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path, prefix: Sequence[str]) -> None:
        """Starts it. `log`: where stderr is appended; `prefix`: a command that runs it (`ip netns exec NAME`)."""
        self.log = log
        self.frozen = False
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603  (our own program)
                [*prefix, *KOSREG, "run", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=dict(environ),
                # A group of its own, so that Ctrl-C reaches the lab alone. In the same session: if the lab is killed,
                # the system wakes and ends what it had frozen.
                process_group=0,
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    async def until(self, condition: Callable[[], bool], within: float) -> None:
        """Returns once `condition` holds. Raises LabError where the process ends before, or the time is over."""
        end = time.monotonic() + within
        while not condition():
            code = self._process.poll()
            if code is not None:
                raise LabError(f"the daemon ended with {code}:\n{self.last_words()}")
            if time.monotonic() > end:
                raise LabError(f"the daemon was not ready within {within:g} s:\n{self.last_words()}")
            await asyncio.sleep(LOOK)

    def last_words(self) -> str:
        """The end of its log."""
        with self.log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - SHOWN))
            return file.read().decode("utf-8", "replace")

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL where it does not end in 8 s; the exit code."""
        self.thaw()
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
            code = await self._end(ENDS)
            if code is not None:
                return code
        return await self.kill()

    async def kill(self) -> int:
        """SIGKILL; the exit code (-9, or what it was before)."""
        if self.alive:
            self._process.kill()
        code = await self._end(ENDS)
        if code is None:
            raise LabError(f"process {self.pid} does not end though it was killed; is its disk hung?")
        return code

    def freeze(self) -> None:
        """SIGSTOP: it does nothing more, and its sockets stay."""
        self._process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        if self.frozen:
            self._process.send_signal(signal.SIGCONT)
            self.frozen = False

    async def _end(self, within: float) -> int | None:
        end = time.monotonic() + within
        while (code := self._process.poll()) is None and time.monotonic() < end:  # noqa: ASYNC110  (no event tells it)
            await asyncio.sleep(LOOK)
        return code
