"""Plays a recording to a node of the version at hand, which takes the place of one side."""

from __future__ import annotations

import zlib
from hashlib import sha256
from typing import Any, Final, Protocol, cast

from crdt import cbor
from federation.bulk import bulk_answer, bulk_hello
from federation.cose import decode_entry, entry_id, sign1, verify1
from federation.envelope import MAX_FRAME, is_bare
from federation.identity import NodeKey
from federation.session import CLIENT_AAD, SERVER_AAD
from tests.vectors.conversations.party import BULK, MAIN, TICK_MS, Party, Setup

Recording = dict[str, Any]
OTHER: Final = {"client": "server", "server": "client"}
PATIENCE_MS: Final = 5_000  # for a node to ask for what it lacks
FEATURE: Final = "of a later version"
KEY: Final = "a key of a later version"
DEEP: Final[dict[str, object]] = {"deep": [1, None, {"x": b"x"}]}
UNKNOWN: Final[dict[str, object]] = {"t": "message.of.a.later.version", KEY: DEEP}


class Voice(Protocol):
    """The recorded side. `says`: the frames to send where `raw` was recorded; `hears`: what the node at hand sent
    in its place in the handshake."""

    def says(self, socket: str, raw: bytes) -> list[bytes]: ...

    def hears(self, socket: str, raw: bytes, recorded: bytes) -> None: ...


class AsRecorded:
    """Byte for byte; and the node at hand must shake hands byte for byte, or the next hello does not answer it."""

    def says(self, socket: str, raw: bytes) -> list[bytes]:
        return [raw]

    def hears(self, socket: str, raw: bytes, recorded: bytes) -> None:
        assert raw == recorded, f"on the {socket} socket another frame was sent in the handshake than was recorded"


class OfALaterVersion:
    """The same conversation, by a node that says more: features, versions, keys and messages that nobody knows yet. The
    session is another one then, so everything is signed anew."""

    def __init__(self, recording: Recording, side: str) -> None:
        """`side`: the recorded one, which this is."""
        self._side = side
        self._key = NodeKey(bytes.fromhex(recording[side]["seed"]))
        self._certificate = bytes.fromhex(recording["certificate"])
        self._before = session_id(recording)
        self._version = recording[side]["versions"][0].encode()
        self._said: dict[str, list[bytes]] = {MAIN: [], BULK: []}

    def hears(self, socket: str, raw: bytes, recorded: bytes) -> None:
        self._said[socket].append(raw)

    def says(self, socket: str, raw: bytes) -> list[bytes]:
        if len(said := self._said[socket]) < 3:
            said.append(self._first(socket, raw, said))
            return [said[-1]]
        if is_bare(raw):
            return [cbor.encode(UNKNOWN), cbor.encode(more(raw))]
        fields = more(verify1(raw, self._version + self._before, MAX_FRAME)[1])
        listed = fields["payload"]
        if type(listed) is bytes:
            listed = cbor.decode(zlib.decompress(listed))
        messages = [{**message, KEY: DEEP} for message in cast(list[dict[str, object]], listed)]
        fields["payload"] = [UNKNOWN, *messages, UNKNOWN]
        return [sign1(self._key, cbor.encode(fields), self._version + self._session)]

    @property
    def _session(self) -> bytes:
        return sha256(b"".join(self._said[MAIN])).digest()

    def _first(self, socket: str, raw: bytes, said: list[bytes]) -> bytes:
        if not said:
            fields = more(raw)
            fields["versions"] = ["klp/9.0", *cast(list[str], fields["versions"])]
            return cbor.encode(fields)
        if socket == BULK:
            make = bulk_hello if self._side == "client" else bulk_answer
            return cbor.encode(more(make(self._session, said[0], self._certificate)))
        aad = CLIENT_AAD if self._side == "client" else SERVER_AAD
        fields = more(verify1(raw, aad, MAX_FRAME)[1])
        fields["transcript"] = sha256(b"".join(said)).digest()
        fields["features"] = [FEATURE, *cast(list[str], fields["features"])]
        for name in ("join", "joined"):
            if name in fields:
                fields[name] = {**cast(dict[str, object], fields[name]), KEY: DEEP}
        if "versions" in fields:
            fields["versions"] = ["klp/9.0", *cast(list[str], fields["versions"])]
        return sign1(self._key, cbor.encode(fields), aad)


def replay(recording: Recording, side: str, voice: Voice | None = None) -> Party:
    """The node at hand as `side`, at the end of the conversation. Raises SessionError, EnvelopeError where it takes
    something for a fault."""
    voice = voice or AsRecorded()
    server = NodeKey(bytes.fromhex(recording["server"]["seed"])).public
    node = Party(
        Setup(**recording[side]),
        bytes.fromhex(recording["certificate"]),
        server if side == "client" else None,
        recording["now_ms"],
    )
    for event in recording["events"]:
        node.until(event["at"])
        if "opens" in event:
            node.opens(event["opens"])
        elif "takes" in event:
            if event["by"] == side:
                node.takes(bytes.fromhex(event["takes"]))
        elif event["from"] != side:
            _wait_for_the_question(node, recording, event)
            for raw in voice.says(event["socket"], bytes.fromhex(event["frame"])):
                node.hear(event["socket"], raw)
                assert not node.faults, f"the node would close the link: {node.faults}"
        elif event["exact"]:
            place = next(place for place, (socket, _) in enumerate(node.sent) if socket == event["socket"])
            voice.hears(event["socket"], node.sent.pop(place)[1], bytes.fromhex(event["frame"]))
    return node


def session_id(recording: Recording) -> bytes:
    frames = [event["frame"] for event in recording["events"] if event.get("socket") == MAIN]
    return sha256(b"".join(bytes.fromhex(frame) for frame in frames[:3])).digest()


def given(recording: Recording, side: str) -> set[bytes]:
    """Ids of what `side` gave to the other: what that holds at the end, and did not have from elsewhere."""
    other = OTHER[side]
    raws = [*recording[other]["holds"]]
    raws += [event["takes"] for event in recording["events"] if event.get("by") == other and "takes" in event]
    own = {decode_entry(bytes.fromhex(raw)).id for raw in raws}
    return {bytes.fromhex(id) for ids in recording["end"][other]["held"].values() for id in ids} - own


def inner(recording: Recording, side: str) -> list[dict[str, object]]:
    """All messages of `side` after the handshake."""
    return [
        message
        for event in recording["events"]
        if event.get("from") == side and not event["exact"]
        for message in messages_in(recording, event)
    ]


def messages_in(recording: Recording, event: dict[str, Any]) -> list[dict[str, object]]:
    """The messages in one frame; the first is called `compressed` where they were."""
    raw = bytes.fromhex(event["frame"])
    if is_bare(raw):
        return [more(raw)]
    aad = recording[event["from"]]["versions"][0].encode() + session_id(recording)
    listed = more(verify1(raw, aad, MAX_FRAME)[1])["payload"]
    if type(listed) is bytes:
        return [{"t": "compressed"}, *cast(list[dict[str, object]], cbor.decode(zlib.decompress(listed)))]
    return cast(list[dict[str, object]], listed)


def _wait_for_the_question(node: Party, recording: Recording, event: dict[str, Any]) -> None:
    """A recorded answer comes whether it was asked for or not; so the node must have asked. It may take its time."""
    if event["exact"]:
        return
    for message in messages_in(recording, event):
        if message.get("answers") is None:
            continue
        ids = {entry_id(raw) for raw in cast(list[bytes], message["entries"])}
        patience = node.now + PATIENCE_MS
        while not ids <= node.asks and node.now < patience:
            node.until(node.now + TICK_MS)
        assert ids <= node.asks, f"the node did not ask for {len(ids - node.asks)} entries that it lacks"


def more(raw: bytes) -> dict[str, object]:
    """The map in `raw`, with one key more."""
    return {**cast(dict[str, object], cbor.decode(raw)), KEY: DEEP}
