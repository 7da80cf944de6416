"""Keeps one link to a peer: dials its addresses in turn, and waits longer and longer between rounds that fail.

Given addresses come first, then those that the peer itself tells (`told`). It dials only while there is no link to the
peer, whoever dialled that one. That nobody listens counts only for given addresses: what a peer tells may be wrong
without its being gone. Waits are jittered, so that nodes that lost
each other at one moment do not meet at one moment.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from federation.closing import SessionError

FIRST_WAIT_S: Final = 0.2
LONGEST_WAIT_S: Final = 30.0
STEADY_S: Final = 5.0  # a link that lived for so long was a good one: the next waits are short again
MAX_ADDRESSES: Final = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """Nobody was reached. `refused`: nobody listens there."""

    text: str
    refused: bool = False


class Linker(Protocol):
    """What a dialler needs of the node."""

    async def connect(self, peer: bytes, address: str) -> Failure | None:
        """Dials, and stays until the link is over. None where there was a link, else why nobody was reached. Raises
        SessionError where somebody was, and the handshake failed."""

    async def wait_unlinked(self, peer: bytes) -> None:
        """Returns once there is no link to the peer."""

    def refused(self, peer: bytes) -> None:
        """Nobody listens at any address of the peer."""


class Dialler:
    """One peer that this node wants a link to. `state`: connecting, up, backoff, refused (a backoff after a handshake
    that failed) or waiting (no address to dial); `address`: the one of the last attempt; `error`: how that ended, ""
    where it was well; `heard_at`: where it may live too."""

    def __init__(
        self, peer: bytes, addresses: Sequence[str], linker: Linker, told: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self.peer = peer
        self.state = "connecting"
        self.address = ""
        self.error = ""
        self._addresses = list(addresses[:MAX_ADDRESSES])
        self.heard_at: tuple[str, ...] = ()
        self._linker = linker
        self._told = told
        self._failures = 0  # rounds in a row
        self._turn = 0
        self._kicked = asyncio.Event()
        self._random = random.SystemRandom()
        self._task = asyncio.create_task(self._run())

    def redirect(self, addresses: Sequence[str]) -> None:
        """Dials these from now on, the next one at once."""
        if self._addresses != list(addresses[:MAX_ADDRESSES]):
            self._addresses = list(addresses[:MAX_ADDRESSES])
            self._turn = 0
            self.kick()

    def heard(self, addresses: Sequence[str]) -> None:
        """The peer may live at these too: they are dialled after its own. Nobody has to believe it: a link shows who is
        there."""
        self.heard_at, before = tuple(addresses[:MAX_ADDRESSES]), self.heard_at
        if set(self.heard_at) - set(before):
            self.kick()

    def kick(self) -> None:
        """There is reason to hope: dial at once, if there is no link."""
        self._failures = 0
        self._kicked.set()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        refusals = 0
        while True:
            began = loop.time()
            self.state = "up"
            await self._linker.wait_unlinked(self.peer)
            if loop.time() - began >= STEADY_S:
                self._failures = 0
            given = self._addresses
            addresses = list(dict.fromkeys((*given, *self._told()[:MAX_ADDRESSES], *self.heard_at)))
            if not addresses:
                self.state = "waiting"
                await self._pause(LONGEST_WAIT_S)
                continue
            self.state = "connecting"
            self.address = addresses[self._turn % len(addresses)]
            began = loop.time()
            state = "backoff"
            failed = None
            self.error = ""
            try:
                failed = await self._linker.connect(self.peer, self.address)
            except SessionError as refusal:
                self.error = str(refusal)
                state = "refused"
            if failed is None or not failed.refused:
                refusals = 0
            elif self.address in given:
                refusals += 1
                if refusals >= len(given):
                    self._linker.refused(self.peer)
            if failed is not None:
                self.error = failed.text
            if self.error:
                self._turn += 1
                if self._turn % len(addresses):
                    continue  # another address may do
            elif loop.time() - began >= STEADY_S:
                self._failures = 0
            self.state = state
            wait = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(self._failures, 16))
            self._failures += 1
            await self._pause(wait * self._random.uniform(0.5, 1))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._kicked.wait()
        except TimeoutError:
            pass
        self._kicked.clear()
