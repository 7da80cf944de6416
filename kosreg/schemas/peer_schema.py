"""What the routes of peers take and answer. Documentation and the first look at a body; `peers` decides."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from federation.trust import MAX_ADDRESSES, MAX_TERMS
from kosreg.invites import DEFAULT_TTL, MAX_LINE, MAX_TTL, MIN_TTL
from kosreg.peers import MAX_NAME
from kosreg.schemas.service_schema import ServiceType

MAX_AUDIT: Final = 1000  # records in one answer
_FORBID: Final = ConfigDict(extra="forbid")
_TIME: Final = "RFC 3339."

Name = Annotated[str, Field(max_length=MAX_NAME, description="What it is called here.")]
Addresses = Annotated[
    list[Annotated[str, Field(max_length=300)]], Field(max_length=MAX_ADDRESSES, description="HOST:PORT, to dial it.")
]
Terms = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=MAX_TERMS)]


@with_config(_FORBID)
class ScopeIn(TypedDict, total=False):
    """What the key may bring here."""

    classes: Annotated[
        list[Literal["public", "internal"]],
        Field(min_length=1, max_length=2, description="public when absent. Internal goes by membership."),
    ]
    types: Annotated[
        list[ServiceType], Field(max_length=MAX_TERMS, description="Only these are shown; all when absent.")
    ]
    tags: Annotated[Terms, Field(description="Only records with one of these are shown; all when absent.")]
    records: Annotated[int | None, Field(ge=0, description="How many it may bring; null: quota.records of the node.")]


@with_config(_FORBID)
class PeerIn(TypedDict):
    """A key to trust. What is absent stays as it is; of a new one: a peer, its public facts."""

    did: Annotated[str, Field(max_length=256, description="did:key:z6Mk…, or kind:did:….")]
    role: NotRequired[Annotated[Literal["peer", "root"], Field(description="A node, or the root of a federation.")]]
    name: NotRequired[Name]
    addresses: NotRequired[Addresses]
    scope: NotRequired[ScopeIn]


@with_config(_FORBID)
class InviteIn(TypedDict, total=False):
    """A new invite."""

    ttl: Annotated[int, Field(ge=MIN_TTL, le=MAX_TTL, description=f"Seconds that it is good; {DEFAULT_TTL} if absent.")]
    name: Name
    federation: Annotated[
        str,
        Field(max_length=256, description="A root's DID: the joiner becomes a member, and no node's key is trusted."),
    ]


@with_config(_FORBID)
class JoinIn(TypedDict):
    """An invite of another node."""

    line: Annotated[str, Field(max_length=2 * MAX_LINE, description="What `kosreg peers invite` printed there.")]


class InviteOut(TypedDict):
    """An invite, without its secret."""

    id: str
    state: Literal["open", "used", "expired"]
    created: Annotated[str, Field(description=_TIME)]
    expires: Annotated[str, Field(description=_TIME)]
    name: NotRequired[str]
    federation: NotRequired[Annotated[str, Field(description="The root of the one that its joiner is certified in.")]]
    joiner: NotRequired[Annotated[str, Field(description="The node that it is bound to.")]]


class NewInviteOut(InviteOut):
    """A new invite."""

    line: Annotated[str, Field(description="For `kosreg peers join`. Shown this once, and kept nowhere.")]


class InvitesOut(TypedDict):
    """Oldest first; those that expired more than 30 days ago are gone."""

    invites: list[InviteOut]


class ScopeOut(TypedDict):
    """What the key may bring here; empty lists: all."""

    classes: list[str]
    types: list[str]
    tags: list[str]
    records: int | None


class LinkOut(TypedDict):
    """The link to a peer. What is not known yet is null."""

    state: Annotated[str, Field(description="up, connecting, backoff, or waiting: it is for the peer to dial.")]
    address: str
    dialled: Annotated[bool, Field(description="By this node.")]
    up_ms: int
    rtt_ms: Annotated[float | None, Field(description="Round trip.")]
    offset_ms: Annotated[int | None, Field(description="The peer's clock, less this one's.")]
    bytes_in: int
    bytes_out: int
    queued: Annotated[int, Field(description="Bytes that wait to go out.")]
    error: Annotated[str, Field(description="How the last attempt, or link, ended.")]


class SyncOut(TypedDict):
    """What the two hold."""

    synced: Annotated[bool, Field(description="All that the peer had when the link began is here.")]
    lag_ms: Annotated[int | None, Field(description="Since the two were last found to be equal.")]
    differing: Annotated[int, Field(description="Entries that the last comparison found on one side only.")]
    expected: int
    received: int


class AliveOut(TypedDict):
    """What is thought of a node."""

    state: Annotated[
        Literal["up", "restarting", "unreachable", "isolated"],
        Field(description="isolated: it cannot be heard, and it is this node that is cut off."),
    ]
    reason: str
    since: Annotated[str, Field(description=_TIME)]


class TellsOut(TypedDict):
    """What the node says of itself, signed by its key."""

    name: str
    version: str
    addresses: Annotated[list[str], Field(description="Dialled as well where the admin gave none that answers.")]


class FrozenOut(TypedDict):
    """A part of a node of which nothing is taken until it fits."""

    part: Annotated[Literal["facts", "keys"], Field(description="keys: what it says about them.")]
    reason: str
    since: Annotated[str, Field(description=_TIME)]
    refused: Annotated[int, Field(description="Entries of it that came since then.")]


class QuotaOut(TypedDict):
    """How much of a node is held here, and how much may be."""

    records: int
    bytes: int
    most_records: int
    most_bytes: int
    frozen: NotRequired[list[FrozenOut]]


class PeerOut(TypedDict):
    """A key, and what this node makes of it."""

    did: str
    name: Annotated[str, Field(description="As the admin says, or else as the node calls itself.")]
    fingerprint: Annotated[str, Field(description="Of the key, to compare by eye.")]
    role: Annotated[Literal["peer", "root", "member"], Field(description="member: only by a certificate of a root.")]
    addresses: list[str]
    depth: int
    scope: ScopeOut
    roots: Annotated[list[str], Field(description="The trusted roots that certify it.")]
    held: Annotated[int, Field(description="Entries of it that are held here.")]
    refused: Annotated[
        dict[str, int], Field(description="What was not taken from it since the start: why, and how many.")
    ]
    added: NotRequired[str]
    revoked: NotRequired[Annotated[str, Field(description="Since when; absent: it is trusted.")]]
    node: NotRequired[Annotated[AliveOut, Field(description="Whether it lives, by the beacons of all nodes.")]]
    tells: NotRequired[TellsOut]
    former: NotRequired[Annotated[list[str], Field(description="The keys in whose place it stands, newest first.")]]
    frozen: NotRequired[
        Annotated[bool, Field(description="It was succeeded twice: nothing new is taken from it until it is restored.")]
    ]
    link: NotRequired[LinkOut]
    quota: NotRequired[Annotated[QuotaOut, Field(description="Absent before the first link.")]]
    sync: NotRequired[SyncOut]


class WhoOut(TypedDict):
    """A node, for people to compare."""

    did: str
    name: str
    fingerprint: str


class PeersOut(TypedDict):
    """In the order in which they came to be trusted; then members that have a link."""

    peers: list[PeerOut]
    self: Annotated[WhoOut, Field(description="This node.")]


class NeighbourOut(WhoOut):
    """A node that says that it is on the local network. Nobody has proven anything."""

    addresses: list[str]
    heard: Annotated[str, Field(description=f"When it last said so, {_TIME}")]
    trust: Annotated[
        Literal["none", "peer", "member", "revoked", "root"],
        Field(description="What is decided about its key here; member: a trusted root certifies it."),
    ]
    command: NotRequired[Annotated[str, Field(description="What trusts it, once the fingerprint has been compared.")]]


class NearbyOut(TypedDict):
    """Last heard first."""

    nearby: list[NeighbourOut]
    mdns: Annotated[
        Literal["on", "off", "loopback", "no network", "failed"],
        Field(description="loopback: the node listens for nobody else. No network: there is no IPv4 address but it."),
    ]
    error: Annotated[str, Field(description="Why it failed.")]
    passed_by: Annotated[int, Field(description="Announcements since the start for which there was no room.")]
    self: Annotated[WhoOut, Field(description="This node.")]


class JoinedOut(TypedDict):
    """Trust is mutual."""

    peer: WhoOut
    self: WhoOut
    federation: NotRequired[Annotated[str, Field(description="The root of the one that this node is a member of now.")]]


class RevokedOut(TypedDict):
    """It is believed in nothing any more."""

    did: str
    purged: Annotated[int, Field(description="Entries of it that were dropped.")]


class CertOut(TypedDict):
    """A certificate that this node has."""

    id: str
    subject: str
    issuer: str
    state: str
    new: bool


class AuditRecordOut(TypedDict):
    """One decision. What cannot be read of a damaged record is absent."""

    seq: int
    hash: Annotated[str, Field(description="SHA-256 of the record, hex.")]
    record: Annotated[str, Field(description="Its bytes, hex: deterministic CBOR.")]
    at: NotRequired[str]
    actor: NotRequired[str]
    action: NotRequired[str]
    subject: NotRequired[str]
    detail: NotRequired[dict[str, Any]]


class HeadOut(TypedDict):
    """The newest record, as noted beside the chain."""

    seq: int
    hash: str


class AuditOut(TypedDict):
    """Records in order."""

    node: str
    records: list[AuditRecordOut]
    head: HeadOut | None


class AuditQuery(TypedDict, total=False):
    """Which part of the log."""

    after: Annotated[int, Field(ge=0, description="Only records with a higher number.")]
    limit: Annotated[int, Field(ge=1, le=MAX_AUDIT, description=f"At most so many; {MAX_AUDIT} when absent.")]


class PurgeQuery(TypedDict, total=False):
    """How to revoke."""

    purge: Annotated[bool, Field(description="Also drop all that is held of it.")]
