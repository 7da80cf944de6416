"""The inner messages between two meshes: made here, and here taken apart. A message is a map with text keys, and `t`
names it.

`parse_…` return None for whatever is not as it should be: then the link is closed as malformed. Bounds stand beside
each. Messages whose name is not known are passed by, so that a later node may say more (PROTOCOL.md, "Versions"); so
are those about a tree that is not known, and its digests in a ping.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple, TypeVar, cast

from crdt.entry import MAX_ENTRY, Entry
from federation.partitions import Tree, Usage, is_later_tree, tree_from_wire

Message = dict[str, object]
_T = TypeVar("_T")

MAX_KEYS: Final = 1_000  # origins in one `admits`
MAX_IDS: Final = 1_000  # ids in one `ihave` or `want`
PUSH_BYTES: Final = 48 * 1024  # entries in one push, in all; a larger entry goes alone
BLOCK_BYTES: Final = 448 * 1024  # entries in one block
MAX_ENTRIES: Final = 8_192  # in one message: the smallest entry has some 200 bytes
MAX_TREES: Final = 64  # in one ping
ID: Final = 32
DIGEST: Final = 16


class Admits(NamedTuple):
    """Origins that the sender opens (`add`) and closes (`drop`) in `tree`. `fresh`: it forgets what was said before;
    `more`: the list goes on in the next message."""

    tree: Tree
    add: list[bytes]
    drop: list[bytes]
    fresh: bool
    more: bool


class Entries(NamedTuple):
    """`news`: pushed on at once; else `answers` the want of that number (None: sent by reconciliation), to be continued
    where there is `more`."""

    raws: list[bytes]
    news: bool
    answers: int | None
    more: bool


class Want(NamedTuple):
    """`graft`: the sender wants news pushed again."""

    number: int
    ids: list[bytes]
    graft: bool


class Round(NamedTuple):
    """One Negentropy message of a session. `asks`: by the side that began it; `size`: entries that the sender holds of
    the pair's tree."""

    tree: Tree
    session: int
    asks: bool
    cut: int
    size: int
    message: bytes


class Ping(NamedTuple):
    """`at`: the sender's clock, ms; `digests`: of the pair's trees, of what lives beyond `cut`."""

    number: int
    at: int
    cut: int
    digests: dict[Tree, bytes]


class Pong(NamedTuple):
    """`at`: as it stood in the ping; `now`: the answering node's clock, ms."""

    number: int
    at: int
    now: int


def admits(tree: Tree, add: Iterable[bytes], drop: Iterable[bytes], *, fresh: bool) -> list[Message]:
    """The messages, in pieces."""
    changes = [("add", key) for key in sorted(add)] + [("drop", key) for key in sorted(drop)]
    pieces = list(_pieces(changes, MAX_KEYS)) or [[]]
    return [
        {
            "t": "admits", "tree": tree.to_wire(), "fresh": fresh and n == 0, "more": n < len(pieces) - 1,
            "add": [key for what, key in piece if what == "add"],
            "drop": [key for what, key in piece if what == "drop"],
        }
        for n, piece in enumerate(pieces)
    ]  # fmt: skip


def parse_admits(message: Mapping[str, object]) -> Admits | None:
    tree = tree_from_wire(message.get("tree"))
    add, drop = _byte_strings(message.get("add"), ID, MAX_KEYS), _byte_strings(message.get("drop"), ID, MAX_KEYS)
    fresh, more = message.get("fresh"), message.get("more")
    if tree is None or add is None or drop is None or type(fresh) is not bool or type(more) is not bool:
        return None
    return Admits(tree, add, drop, fresh, more)


def pushes(some: Iterable[Entry]) -> list[Message]:
    """`some` as news, in messages of at most `PUSH_BYTES` of entries each."""
    made: list[Message] = []
    batch: list[object] = []
    size = 0
    for entry in some:
        if batch and size + len(entry.raw) > PUSH_BYTES:
            made.append({"t": "entries", "entries": batch})
            batch, size = [], 0
        batch.append(entry.raw)
        size += len(entry.raw)
    if batch:
        made.append({"t": "entries", "entries": batch})
    return made


def block(raws: list[bytes], answers: int | None, *, more: bool) -> Message:
    """Entries that are no news: the answer to the `want` of that number (`more`: it goes on in the next block), or
    what reconciliation found (None)."""
    return {"t": "entries", "entries": raws, "answers": answers, "more": more}


def parse_entries(message: Mapping[str, object]) -> Entries | None:
    some, answers, more = message.get("entries"), message.get("answers"), message.get("more", False)
    if not isinstance(some, list) or len(some) > MAX_ENTRIES or type(more) is not bool:
        return None
    if any(type(raw) is not bytes or not 0 < len(raw) <= MAX_ENTRY for raw in some):
        return None
    if not (answers is None or _uint(answers)):
        return None
    return Entries(cast(list[bytes], some), "answers" not in message, cast("int | None", answers), more)


def ihave(some: Iterable[bytes]) -> list[Message]:
    """Ids of news, for whoever has them not."""
    return [{"t": "ihave", "ids": piece} for piece in _pieces(some, MAX_IDS)]


def want(number: int, some: list[bytes], *, graft: bool) -> Message:
    """Asks for at most `MAX_IDS` entries. `graft`: push me news again."""
    return {"t": "want", "n": number, "ids": some, "graft": graft}


def parse_want(message: Mapping[str, object]) -> Want | None:
    number, graft, some = message.get("n"), message.get("graft"), parse_ids(message)
    if some is None or not _uint(number) or type(graft) is not bool:
        return None
    return Want(cast(int, number), some, graft)


def parse_ids(message: Mapping[str, object]) -> list[bytes] | None:
    return _byte_strings(message.get("ids"), ID, MAX_IDS)


def prune(tree: Tree) -> Message:
    return {"t": "prune", "tree": tree.to_wire()}


def parse_tree(message: Mapping[str, object]) -> Tree | None:
    """The tree that a `prune` or a `sync.end` names."""
    return tree_from_wire(message.get("tree"))


def sync_round(round: Round) -> Message:
    return {
        "t": "sync.round", "tree": round.tree.to_wire(), "session": round.session, "asks": round.asks,
        "cut": round.cut, "size": round.size, "message": round.message,
    }  # fmt: skip


def parse_round(message: Mapping[str, object], limit: int) -> Round | None:
    tree = tree_from_wire(message.get("tree"))
    session, asks, cut = message.get("session"), message.get("asks"), message.get("cut")
    size, inner = message.get("size"), message.get("message")
    if tree is None or type(asks) is not bool or not isinstance(inner, bytes) or len(inner) > limit:
        return None
    if not (_uint(session) and _uint(cut) and _uint(size)):
        return None
    return Round(tree, cast(int, session), asks, cast(int, cut), cast(int, size), inner)


def sync_end(tree: Tree, session: int) -> Message:
    """The side that began a session has sent all that it found to be missing on the other."""
    return {"t": "sync.end", "tree": tree.to_wire(), "session": session}


def ping(ping: Ping) -> Message:
    digests: list[object] = [[tree.to_wire(), digest] for tree, digest in ping.digests.items()]
    return {"t": "ping", "n": ping.number, "at": ping.at, "cut": ping.cut, "digests": digests}


def parse_ping(message: Mapping[str, object]) -> Ping | None:
    number, at, cut, some = message.get("n"), message.get("at"), message.get("cut"), message.get("digests")
    if not (_uint(number) and _uint(at) and _uint(cut)) or not isinstance(some, list) or len(some) > MAX_TREES:
        return None
    digests: dict[Tree, bytes] = {}
    for pair in some:
        match pair:
            case [named, bytes(digest)] if len(digest) == DIGEST and (tree := tree_from_wire(named)) is not None:
                digests[tree] = digest
            case [named, bytes()] if is_later_tree(named):
                continue
            case _:
                return None
    return Ping(cast(int, number), cast(int, at), cast(int, cut), digests)


def pong(pong: Pong) -> Message:
    return {"t": "pong", "n": pong.number, "at": pong.at, "now": pong.now}


def parse_pong(message: Mapping[str, object]) -> Pong | None:
    number, at, now = message.get("n"), message.get("at"), message.get("now")
    if not (_uint(number) and _uint(at) and _uint(now)):
        return None
    return Pong(cast(int, number), cast(int, at), cast(int, now))


def quota_ask(origin: bytes, *, trust: bool) -> Message:
    """How much do you hold of `origin`: of its facts, or of what it says about keys (`trust`)?"""
    return {"t": "quota.ask", "origin": origin, "trust": trust}


def parse_quota(message: Mapping[str, object]) -> tuple[bytes, bool] | None:
    """The origin that a `quota.ask` or a `quota.told` is about, and which part of it."""
    origin, trust = message.get("origin"), message.get("trust")
    if type(origin) is not bytes or len(origin) != ID or type(trust) is not bool:
        return None
    return origin, trust


def quota_told(origin: bytes, used: Usage, *, trust: bool) -> Message:
    """The answer. Of what is said about keys `records` are the entries."""
    return {"t": "quota.told", "origin": origin, "trust": trust, "records": used.records, "bytes": used.bytes}


def parse_quota_told(message: Mapping[str, object]) -> Usage | None:
    records, size = message.get("records"), message.get("bytes")
    return Usage(cast(int, records), cast(int, size)) if _uint(records) and _uint(size) else None


def _uint(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _byte_strings(value: object, size: int, most: int) -> list[bytes] | None:
    if not isinstance(value, list) or len(value) > most:
        return None
    if any(type(item) is not bytes or len(item) != size for item in value):
        return None
    return cast(list[bytes], value)


def _pieces(some: Iterable[_T], most: int) -> Iterator[list[_T]]:
    rest = iter(some)
    while piece := list(islice(rest, most)):
        yield piece
