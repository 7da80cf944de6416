"""Who is on the local network: when to speak and to ask there (`kosreg.mdns`), and what follows from what was heard.

A peer that was heard is dialled there too, after its own addresses; a stranger is shown to the admin, and that is all.
Every few seconds we look whether the addresses of this machine have changed: one that moves to another network is
announced anew there. What does not work is said once in the log, and tried again: the node needs none of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

import structlog

from federation.allowance import Allowance
from federation.identity import did_of
from federation.peer_node import PeerNode
from kosreg.neighbours import Neighbour, Neighbours, instance_of, name_of, read_announcement
from kosreg.peers import fingerprint
from kosreg.settings import FederationSettings

if TYPE_CHECKING:
    from kosreg.mdns import Here, Mdns

LOOK_S: Final = 3.0  # between two looks at the addresses of this machine, and at what has aged
REFRESH_MS: Final = 60_000  # before the first of what is kept lapses: ask, and all answer to all
ASK_MS: Final = 300_000  # since the last question: ask, whatever is kept
REDIRECTS: Final = 8  # at once: times that peers are dialled at what was heard
REDIRECT_MS: Final = 2000  # after each of these once more

log = structlog.get_logger("kosreg.nearby")


class Nearby:
    """Started and stopped with the federation. `state`: off; loopback: it listens for nobody else; no network; failed;
    or on. `error`: why it failed."""

    def __init__(self, key: bytes, name: str, settings: FederationSettings, links: PeerNode) -> None:
        self.neighbours = Neighbours(key, links.keeps)
        self.state = "off"
        self.error = ""
        self._key = key
        self._name = name
        self._settings = settings
        self._links = links
        self._here: Here | None = None
        self._mdns: Mdns | None = None
        self._ask_at_ms = 0
        self._jitter_ms = 0
        self._redirects = Allowance(REDIRECTS, REDIRECT_MS)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Returns at once."""
        listen = self._settings.listen
        if not self._settings.mdns or self._links.port is None:
            return
        if listen.is_local:
            self.state = "loopback"
            return
        self.state = "no network"
        self._task = asyncio.create_task(self._run(), name="nearby")

    async def stop(self) -> None:
        """Say goodbye."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self.state = "off"
        await self._close()

    def heard(self) -> list[tuple[Neighbour, str, int]]:
        """Whom this node hears, what it calls itself, and how many ms ago it did."""
        now = _now_ms()
        return [(one, name_of(one.instance, _mark(one.key)), now - one.heard_ms) for one in self.neighbours.all(now)]

    async def _run(self) -> None:
        told = ""
        while True:
            try:
                await self._look()
            except Exception as error:  # whatever the system or the library comes up with
                self.state, self.error = "failed", str(error) or type(error).__name__
                if told != self.error:
                    told = self.error
                    log.warning("mDNS does not work: neighbours are not found by themselves", error=told)
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        mdns = await asyncio.to_thread(import_module, "kosreg.mdns")
        here: Here = mdns.look_around(self._links.bound)
        if here != self._here or self.state == "failed":
            await self._close()
            self._here = here
            self.state = "no network"
            if here.speak:
                mark = _mark(self._key)
                port = self._links.port or 0
                name = instance_of(self._name, mark)
                self._mdns = await mdns.Mdns.open(here, name, f"kosreg-{mark}", port, did_of(self._key), self)
                self.state, self.error = "on", ""
                self._ask(again_ms=0)  # and once more at the next look: packets get lost
                return
        if self._mdns is None:
            return
        now = _now_ms()
        kept = self.neighbours.all(now)
        self._mdns.forget_all_but({one.instance for one in kept})
        for peer in self.neighbours.peers():
            self._redirect(peer)
        soonest = min((one.until_ms for one in kept), default=now + ASK_MS)
        if now >= self._ask_at_ms or soonest - now < REFRESH_MS - self._jitter_ms:
            self._ask()

    def _ask(self, again_ms: int = ASK_MS) -> None:
        assert self._mdns is not None
        self._ask_at_ms = _now_ms() + again_ms
        self._jitter_ms = random.randrange(REFRESH_MS // 2)  # noqa: S311  (so that one asks for all)
        self._mdns.ask()

    async def _close(self) -> None:
        mdns, self._mdns = self._mdns, None
        if mdns is not None:
            await mdns.close()

    # What mDNS tells

    def said(self, instance: str, port: int, txt: bytes, hosts: Sequence[bytes], life_s: int) -> bool:
        assert self._here is not None
        said = read_announcement(instance, port, txt, hosts, self._here.networks, _now_ms(), life_s)
        if said is None or not self.neighbours.hear(said):
            return False
        if (peer := self.neighbours.peer(said.key)) is not None:
            self._redirect(peer)
        return True

    def gone(self, instance: str) -> None:
        self.neighbours.gone(instance)

    def _redirect(self, peer: Neighbour) -> None:
        """Dial it where it was heard."""
        if set(peer.addresses) - set(self._links.heard_at(peer.key)) and self._redirects.take(_now_ms()):
            self._links.heard(peer.key, peer.addresses)


def _mark(key: bytes) -> str:
    """What tells two nodes of one name apart on the network: the start of the fingerprint."""
    return fingerprint(key)[:9]


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)
