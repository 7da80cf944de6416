"""What becomes of services whose node is gone: what is thought of nodes (`federation.membership`), shown on services.

Each `ForeignService` of a node that is not up has its `away`: the status that is shown in place of what its node said
last. No entry is written for that, and nothing is asked of the store but one note in a run (`Reshowing.note`): so a
node with 100,000 services costs as much as its watchers want to hear. It is done in slices; where it changes again
meanwhile, what it is at the end holds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from federation.effects import NodeChanged, NodeState, Word
from federation.identity import parse_did
from kosreg.foreign import did
from kosreg.service import Away, ForeignService
from kosreg.store import StoreError
from kosreg.times import rfc3339

if TYPE_CHECKING:
    from kosreg.klp_registry_sync import RegistrySync

SLICE: Final = 500  # services looked at between two turns of the loop

AWAY: Final = {
    Word.UNREACHABLE: ("offline", "node unreachable"),
    Word.RESTARTING: ("degraded", "node restarting"),
    Word.ISOLATED: ("degraded", "this node is isolated"),
}
"""The status of the services of a node, and the reason, where it is not up."""

log = structlog.get_logger("kosreg.nodes")


class Homes:
    """Beside `RegistrySync`, whose catalog it works on. `states`: what is thought of each node, by its DID."""

    def __init__(self, sync: RegistrySync) -> None:
        self.states: dict[str, NodeState] = {}
        self._sync = sync
        self._away: dict[str, Away] = {}
        self._changed: dict[str, None] = {}  # nodes whose services are to be looked at
        self._task: asyncio.Task[None] | None = None

    def away(self, origin: str) -> Away | None:
        """What is shown of the services of `origin` (its DID) in place of what it says; None where it is up."""
        return self._away.get(origin)

    def changed(self, change: NodeChanged) -> None:
        """Something else is thought of a node than before: show it, soon."""
        origin = did(change.origin)
        before, after = self.states.get(origin), change.after
        if after is None:
            self.states.pop(origin, None)
        else:
            self.states[origin] = after
        word = None if after is None else after.word
        if after is not None and (before is None or before.word is not word):
            quiet = before is None and word is Word.UP
            tell = log.debug if quiet else log.info if word is Word.UP else log.warning
            tell(f"node {after.word.value}", peer=origin, reason=after.reason)
        if after is None or after.word not in AWAY:
            if self._away.pop(origin, None) is None:
                return
        else:
            away = Away(*AWAY[after.word], after.since_ms)
            if self._away.get(origin) == away:
                return
            self._away[origin] = away
        self._changed[origin] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._show(), name="homes")

    async def _show(self) -> None:
        while self._changed:
            origin = next(iter(self._changed))
            del self._changed[origin]
            entries = self._sync.replica.map.of(parse_did(origin))
            names = [entry.name for entry in entries if entry.kind == "service" and entry.live]
            if not names:
                continue
            try:
                await self._sync.reshowing.note()
            except StoreError as error:  # watchers that resume after the next start may miss this
                log.warning("write failed", error=str(error))
            for start in range(0, len(names), SLICE):
                try:
                    self._show_some(origin, names[start : start + SLICE])
                except Exception:  # a fault of ours must not leave all others as they were
                    log.exception("task failed", task="homes")
                await asyncio.sleep(0)

    def _show_some(self, origin: str, names: list[str]) -> None:
        catalog, now, away = self._sync.catalog, self._sync.wall_ms(), self._away.get(origin)
        for uid in names:
            service = catalog.claim(uid, origin)
            if isinstance(service, ForeignService) and service.away != away:
                before = service.status
                service.away = away
                service.tail = None
                if service.status != before:
                    catalog.moved(service, before, now)

    def told(self, origin: str) -> dict[str, str] | None:
        """What is thought of a node (its DID), as the API shows it; None where nothing is."""
        state = self.states.get(origin)
        if state is None:
            return None
        return {"state": state.word.value, "reason": state.reason, "since": rfc3339(state.since_ms)}

    def counts(self) -> dict[str, int]:
        """How many nodes there are of each word."""
        words = Counter(state.word.value for state in self.states.values())
        return {word.value: words[word.value] for word in Word}

    async def settled(self) -> None:
        """Until what was begun is done."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await self.settled()
