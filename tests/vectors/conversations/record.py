"""Holds the conversations that are recorded, and writes down what two parties say: the same bytes each time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import kosreg
from crdt.entry import MAX_LIFE_MS, Class, Entry, Fact
from federation.certificate import make_certificate
from federation.cose import sign_entry
from federation.identity import NodeKey
from federation.link import FEATURE_BULK
from federation.session import VERSIONS
from federation.trust import Role, issue_cert
from kosreg.invites import InviteLine
from tests.vectors.conversations.party import BULK, MAIN, TICK_MS, Party, Setup

HERE: Final = Path(__file__).parent
NOW: Final = 1_764_000_000_000
CLIENT, SERVER, THIRD = (NodeKey(bytes([number]) * 32) for number in (1, 2, 3))
ROOT: Final = NodeKey(b"\x0f" * 32)
Recording = dict[str, Any]


class Recorder:
    """Two parties, and a wire that writes down each frame as it arrives."""

    def __init__(self, note: str, client: Setup, server: Setup) -> None:
        key = NodeKey(bytes.fromhex(server.seed))
        self.now = NOW
        self._certificate = make_certificate(key)
        self.client = Party(client, self._certificate, key.public, NOW)
        self.server = Party(server, self._certificate, None, NOW)
        self._note = note
        self._setups = {"client": client, "server": server}
        self._events: list[dict[str, Any]] = []
        self._wire: deque[tuple[str, str, bytes]] = deque()

    def opens(self, socket: str) -> None:
        self._events.append({"at": self.now, "opens": socket})
        for party in (self.client, self.server):
            party.opens(socket)
        self.carry()

    def takes(self, party: Party, *entries: Entry) -> None:
        """Nothing is carried yet, so that the other may take something at the same moment."""
        for entry in entries:
            self._events.append({"at": self.now, "by": self._name(party), "takes": entry.raw.hex()})
            party.takes(entry.raw)

    def goes_on(self, ms: int) -> None:
        """Carries all, and lets `ms` go by."""
        self.carry()
        for _ in range(0, ms, TICK_MS):
            self.now += TICK_MS
            for party in (self.client, self.server):
                party.until(self.now)
            self.carry()

    def carry(self) -> None:
        """Until nobody has anything more to say. The first frames on a socket are `exact`: nothing else may be said."""
        while True:
            for party in (self.client, self.server):
                self._wire.extend((self._name(party), socket, raw) for socket, raw in party.sent)
                party.sent.clear()
            if not self._wire:
                return
            source, socket, raw = self._wire.popleft()
            so_far = sum(event.get("socket") == socket for event in self._events)
            self._events.append(
                {"at": self.now, "from": source, "socket": socket, "exact": so_far < 3, "frame": raw.hex()}
            )
            (self.server if source == "client" else self.client).hear(socket, raw)

    def recording(self) -> Recording:
        parties = {"client": self.client, "server": self.server}
        for name, party in parties.items():
            assert not party.faults, f"{name}: {party.faults}"
        return {
            "note": self._note,
            "version": kosreg.__version__,
            "now_ms": NOW,
            "certificate": self._certificate.hex(),
            **{name: setup.to_json() for name, setup in self._setups.items()},
            "events": self._events,
            "end": {name: {"held": party.held(), "anchors": party.trusted()} for name, party in parties.items()},
        }

    def _name(self, party: Party) -> str:
        return "client" if party is self.client else "server"


def peers() -> Recording:
    """Two plain peers, who both trust a third; bulk goes over the main socket."""
    roles = {THIRD: Role.PEER}
    large = service(CLIENT, "large", body={"name": "large", "description": "so much to say. " * 800})
    ours = [large, *(service(CLIENT, f"c{n}") for n in range(3)), service(CLIENT, "mine", cls=Class.PRIVATE)]
    theirs = [service(SERVER, f"s{n}") for n in range(4)]
    talk = Recorder(
        "two peers, each with entries of its own: first sync, news, a deletion, prune, ihave and graft, pings, close",
        setup(CLIENT, {SERVER: Role.PEER, **roles}, ours),
        setup(SERVER, {CLIENT: Role.PEER, **roles}, theirs),
    )
    talk.opens(MAIN)
    talk.goes_on(1_000)
    talk.takes(talk.client, service(CLIENT, "news", stamp=1))
    talk.goes_on(500)
    talk.takes(talk.server, service(SERVER, "s0", stamp=2, body=None))
    talk.goes_on(500)
    for party in (talk.client, talk.server):  # both push it to the other, who has it already: prune
        talk.takes(party, service(THIRD, "t0"))
    talk.goes_on(500)
    talk.takes(talk.client, service(THIRD, "t1"))  # only announced now: the server grafts
    talk.goes_on(2_000)
    talk.takes(talk.server, service(THIRD, "t2"))
    talk.goes_on(12_000)
    talk.client.ends("restarting")
    talk.carry()
    return talk.recording()


def members() -> Recording:
    """Two members of one federation that never heard of each other."""

    def mine(key: NodeKey) -> list[Entry]:
        return [
            issue_cert(ROOT, key.public, now_ms=NOW),
            service(key, "public"),
            *(service(key, f"internal {n}", cls=Class.INTERNAL, root=ROOT.public) for n in range(3)),
            service(key, "private", cls=Class.PRIVATE),
        ]

    talk = Recorder(
        "two members of one federation, certified in their hellos, with internal entries",
        setup(CLIENT, {ROOT: Role.ROOT}, mine(CLIENT)),
        setup(SERVER, {ROOT: Role.ROOT}, mine(SERVER)),
    )
    talk.opens(MAIN)
    talk.goes_on(1_000)
    for party, key in ((talk.client, CLIENT), (talk.server, SERVER)):
        talk.takes(party, service(key, "internal news", cls=Class.INTERNAL, root=ROOT.public, stamp=1))
    talk.goes_on(6_000)
    talk.server.ends("restarting")
    talk.carry()
    return talk.recording()


def invite() -> Recording:
    """An invite is redeemed, which is all that the connection is for."""
    line = InviteLine(("192.0.2.2:7481",), SERVER.public, b"\x11" * 16, b"\x12" * 32, NOW + 3_600_000, {}).encode()
    talk = Recorder(
        "an invite is redeemed: join in the client's hello, welcome in the server's",
        replace(setup(CLIENT, {}, []), name="joiner", addresses=["192.0.2.1:7481"], invite=line),
        replace(setup(SERVER, {}, []), name="inviter", addresses=["192.0.2.2:7481"], gave=line),
    )
    talk.opens(MAIN)
    talk.client.ends("joined")
    talk.carry()
    return talk.recording()


def bulk() -> Recording:
    """Blocks on a second socket, in both directions."""
    talk = Recorder(
        "a second socket is bound to the link, and blocks go over it",
        setup(CLIENT, {SERVER: Role.PEER}, [service(CLIENT, f"c{n}") for n in range(30)]),
        setup(SERVER, {CLIENT: Role.PEER}, [service(SERVER, f"s{n}") for n in range(30)]),
    )
    talk.opens(MAIN)
    talk.opens(BULK)
    talk.goes_on(1_000)
    late = {talk.client: CLIENT, talk.server: SERVER}
    for party, key in late.items():
        talk.takes(party, service(key, "news", stamp=1))
    talk.goes_on(6_000)
    talk.client.ends("restarting")
    talk.carry()
    return talk.recording()


CONVERSATIONS: Final[dict[str, Callable[[], Recording]]] = {
    "peers": peers, "members": members, "invite": invite, "bulk": bulk,
}  # fmt: skip


def service(
    key: NodeKey, name: str, *, cls: Class = Class.PUBLIC, root: bytes | None = None, stamp: int = 0,
    body: dict[str, object] | None = {"name": "x", "type": "agent"},  # noqa: B006
) -> Entry:  # fmt: skip
    """What `key` says of the service `name`; `stamp`: its order."""
    return sign_entry(key, Fact("service", name, (NOW << 16) + stamp, cls, NOW + MAX_LIFE_MS, body, root))


def setup(key: NodeKey, anchors: dict[NodeKey, Role], holds: list[Entry]) -> Setup:
    return Setup(
        seed=key.seed.hex(),
        incarnation=NOW // 1000,
        nonces={socket: (bytes([number]) + key.public[1:]).hex() for number, socket in enumerate((MAIN, BULK))},
        features=[FEATURE_BULK],
        versions=list(VERSIONS),
        anchors={anchor.public.hex(): role.value for anchor, role in anchors.items()},
        holds=[entry.raw.hex() for entry in holds],
    )


def write(directory: Path) -> list[Path]:
    """Records all into `directory`, which is made. Raises FileExistsError where it is there: what a released version
    said does not change any more."""
    made = {f"{name}.json": json.dumps(hold(), indent=1) + "\n" for name, hold in CONVERSATIONS.items()}
    directory.mkdir(parents=True)
    for file, text in made.items():
        (directory / file).write_text(text, encoding="utf-8")
    return [directory / file for file in made]
