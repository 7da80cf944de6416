"""What a mesh asks its shell to do. Values: nothing happens before the shell carries them out."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from crdt.entry import Entry
from federation.messages import Message
from federation.replica import Alert, Persist


class Lane(Enum):
    """How a message travels: BARE without an envelope (it says nothing that must be provable), PUSH signed on the main
    socket, BULK signed on the second one, so that much data delays no news."""

    BARE = "bare"
    PUSH = "push"
    BULK = "bulk"


@dataclass(slots=True)
class Send:
    """Send `message` to `peer`, in the order of each lane."""

    peer: bytes
    message: Message
    lane: Lane


@dataclass(slots=True)
class Store:
    """Commit `persist`, which came from `peer`, merge it (`Replica.persisted`), then call `Mesh.merged`; if the commit
    fails, `Replica.failed` and `Mesh.failed`."""

    persist: Persist
    peer: bytes


@dataclass(slots=True)
class Verify:
    """Check the signatures of `entries` (`cose.verify_entry`), aside if that can be had, and say which hold:
    `Mesh.verified`. Several may be open at once."""

    peer: bytes
    entries: tuple[Entry, ...]


@dataclass(slots=True)
class Close:
    """Close the link to `peer` and say why: `code` is a word for programs, `reason` for people."""

    peer: bytes
    code: str
    reason: str


class Word(Enum):
    """What is thought of another node. UP: a way leads to it; RESTARTING: it said that it stops and comes back;
    UNREACHABLE: it is gone, or cut off; ISOLATED: it cannot be heard, but it is this node that is cut off."""

    UP = "up"
    RESTARTING = "restarting"
    UNREACHABLE = "unreachable"
    ISOLATED = "isolated"


@dataclass(frozen=True, slots=True)
class NodeState:
    """`reason`: why, for people; "" where it is up. `since_ms`: when that was found."""

    word: Word
    reason: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """What is thought of the node `origin` is another now. None: nothing."""

    origin: bytes
    before: NodeState | None
    after: NodeState | None


@dataclass(frozen=True, slots=True)
class QuotaChanged:
    """`origin` is frozen here, in its facts or (`trust`) in what it says about keys, since `reason`; "": no longer."""

    origin: bytes
    trust: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Twin:
    """Another node has this node's key. `claim`: an incarnation to put on the disk, then `Membership.claimed`; None:
    this node has to be quiet from now on."""

    claim: int | None


Landed = tuple[Sequence[Entry], bytes | None]
"""Entries that are on disk and merged, and the peer that sent them (None: this node said them)."""

Effect = Send | Store | Verify | Close | Alert | NodeChanged | QuotaChanged | Twin
