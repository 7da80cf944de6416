"""Trust against a referee that keeps everything that was said and reads it from the beginning for every answer."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt.entry import TRUST_KINDS, Class, Entry, Fact
from federation import chain
from federation.chain import MAX_CHAIN
from federation.cose import fact_of, sign_entry
from federation.identity import NodeKey, parse_did
from federation.trust import Anchor, Role, Scope, Trust, issue_cert

KEYS = tuple(NodeKey(bytes([number]) * 32) for number in range(1, 6))
OWN = KEYS[0]
PUBLICS = [key.public for key in KEYS]
TIMES = st.integers(1, 12)
CLASSES = st.frozensets(st.sampled_from(Class))
TYPES = st.sampled_from([(), (), (), ("agent",), ("tool",), ("agent", "tool")])
ASKED = [(cls, root) for cls in Class for root in ((None, *PUBLICS) if cls is Class.INTERNAL else (None,))]
Way = list[Scope]  # of the certificates of one chain


@pytest.fixture(autouse=True, scope="module")
def _all_chains() -> Iterator[None]:
    """The referee knows no bound for the chains of one key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "MAX_CHAINS", 1000)
        yield


@dataclass
class Referee:
    anchors: dict[bytes, Anchor] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def revoked(self, key: bytes) -> bool:
        return key in self.anchors and self.anchors[key].revoked is not None

    def is_root(self, key: bytes) -> bool:
        return key in self.anchors and self.anchors[key].role is Role.ROOT and not self.revoked(key)

    def said(self, issuer: bytes, subject: bytes, root: bytes) -> tuple[dict[str, object], Entry] | None:
        """The newest word of `issuer` about `subject`, if it is about this federation."""
        said = [e for e in self.entries if e.origin == issuer and parse_did(e.name) == subject]
        if not said:
            return None
        last = max(said, key=lambda entry: (entry.stamp, entry.valid_until, entry.id))
        body = fact_of(last).body
        return None if body is None or body["federation"] != root else (dict(body), last)

    def ways(self, key: bytes, root: bytes, now: int) -> Iterator[Way]:
        """All chains from `root` to `key`: each row of keys is tried from its beginning."""
        if self.is_root(root):
            yield from self.onwards((root,), MAX_CHAIN, [], key, root, now)

    def onwards(
        self, row: tuple[bytes, ...], left: int, scopes: Way, goal: bytes, root: bytes, now: int
    ) -> Iterator[Way]:
        if row[-1] == goal and len(row) > 1:
            yield scopes
            return
        for subject in PUBLICS if left else ():
            said = self.said(row[-1], subject, root)
            if said is None or subject in row or self.revoked(subject):
                continue
            body, entry = said
            if body["state"] != "granted" or not body["not_before"] <= now < min(body["not_after"], entry.valid_until):  # type: ignore[operator, type-var, call-overload]
                continue
            if any(
                (word := self.said(above, subject, root)) is not None
                and word[0]["state"] == "revoked"
                and now < word[1].valid_until
                for above in row
            ):
                continue
            given = body.get("scope", {})
            scope = Scope(
                frozenset(Class(cls) for cls in given.get("classes", [1, 2])),  # type: ignore[attr-defined]
                tuple(given.get("types", ())),  # type: ignore[attr-defined]
            )
            left_below = min(left - 1, body.get("depth", 0))  # type: ignore[type-var, call-overload]
            yield from self.onwards((*row, subject), left_below, [*scopes, scope], goal, root, now)

    def roots(self, key: bytes, now: int) -> frozenset[bytes]:
        return frozenset(root for root in PUBLICS if any(True for _ in self.ways(key, root, now)))

    def may_link(self, key: bytes, now: int) -> bool:
        anchor = self.anchors.get(key)
        is_peer = anchor is not None and anchor.role is Role.PEER
        return not self.revoked(key) and (is_peer or bool(self.roots(key, now)))

    def believed(self, key: bytes, cls: Class, root: bytes | None, now: int) -> Iterator[Way]:
        if cls is Class.PRIVATE or self.revoked(key):
            return
        anchor = self.anchors.get(key)
        if cls is Class.PUBLIC and anchor is not None and anchor.role is Role.PEER and cls in anchor.scope.classes:
            yield [anchor.scope]
        for above in PUBLICS:
            if cls is Class.INTERNAL and (above != root or root not in self.roots(OWN.public, now)):
                continue
            for scopes in self.ways(key, above, now):
                may = cls is Class.INTERNAL or cls in self.anchors[above].scope.classes
                if may and all(cls in scope.classes for scope in scopes):
                    yield [self.anchors[above].scope, *scopes]

    def admits(self, key: bytes, cls: Class, root: bytes | None, kind: str, now: int) -> bool:
        if key == OWN.public or any(True for _ in self.believed(key, cls, root, now)):
            return True
        of_trust = cls is Class.PUBLIC and kind in TRUST_KINDS and not self.revoked(key)
        return of_trust and (self.is_root(key) or bool(self.roots(key, now)))

    def shows(self, key: bytes, cls: Class, root: bytes | None, type: str, now: int) -> bool:
        return key == OWN.public or any(
            all(not scope.types or type in scope.types for scope in scopes)
            for scopes in self.believed(key, cls, root, now)
        )

    def all(self, now: int) -> list[object]:
        return [
            (
                self.roots(key, now),
                self.may_link(key, now),
                [self.admits(key, cls, root, kind, now) for cls, root in ASKED for kind in ("service", "cert")],
                [self.shows(key, cls, root, type, now) for cls, root in ASKED for type in ("agent", "tool")],
            )
            for key in PUBLICS
        ]


def all_of(trust: Trust, now: int) -> list[object]:
    return [
        (
            trust.roots_of(key, now),
            trust.may_link(key, now),
            [trust.admits(key, cls, root, kind, now) for cls, root in ASKED for kind in ("service", "cert")],
            [trust.shows(key, cls, root, type, frozenset(), now) for cls, root in ASKED for type in ("agent", "tool")],
        )
        for key in PUBLICS
    ]


@st.composite
def certs(draw: st.DrawFn) -> Entry:
    """Of a few keys about each other, most of them in the federation of the first two; some deleted."""
    issuer, subject = draw(st.sampled_from(KEYS[1:])), draw(st.sampled_from(PUBLICS))
    entry = issue_cert(
        issuer, subject, now_ms=0, not_before=(begin := draw(TIMES)), not_after=begin + draw(TIMES),
        federation=draw(st.sampled_from([PUBLICS[1], PUBLICS[1], PUBLICS[2], issuer.public])),
        state=draw(st.sampled_from(["granted", "granted", "granted", "revoked"])),
        scope=Scope(draw(CLASSES), draw(TYPES)), stamp=draw(st.integers(0, 3)),
        depth=draw(st.sampled_from([0, 1, 2, 5])),
    )  # fmt: skip
    fact = replace(fact_of(entry), valid_until=draw(TIMES))
    if draw(st.integers(0, 9)) == 0:
        fact = Fact("cert", fact.name, fact.stamp, Class.PUBLIC, fact.valid_until, None)
    return sign_entry(issuer, fact)


@st.composite
def long_certs(draw: st.DrawFn) -> Entry:
    """Those that make chains: for all time, in one federation; some with less than all classes."""
    issuer, subject = draw(st.sampled_from(KEYS[1:])), draw(st.sampled_from(PUBLICS))
    classes = draw(st.sampled_from([{1, 2}, {1, 2}, {1}, {2}]))
    return issue_cert(
        issuer, subject, now_ms=0, not_before=1, not_after=100, federation=PUBLICS[1],
        state=draw(st.sampled_from(["granted", "granted", "granted", "revoked"])),
        stamp=draw(st.integers(0, 3)), depth=draw(st.sampled_from([0, 1, 2, 5])),
        scope=Scope(frozenset(map(Class, classes)), draw(TYPES)),
    )  # fmt: skip


anchors = st.builds(
    Anchor, st.sampled_from(PUBLICS[1:]), st.sampled_from(Role), scope=st.builds(Scope, CLASSES, TYPES),
    revoked=st.sampled_from([None, None, 1]),
)  # fmt: skip
first_root = st.just(Anchor(PUBLICS[1], Role.ROOT))
said = st.lists(
    anchors | first_root | certs() | long_certs() | long_certs() | st.sampled_from(PUBLICS[1:]) | TIMES, max_size=24
)


@given(said)
def test_answers_are_those_of_the_referee_and_none_changes_unannounced(
    steps: list[Anchor | Entry | bytes | int],
) -> None:
    """`bytes`: the anchor is dropped; `int`: the clock shows this (it may go back)."""
    trust, referee, now = Trust(OWN.public), Referee(), 0
    answers = all_of(trust, now)
    for step in steps:
        before = trust.version
        if isinstance(step, Anchor):
            trust.put(step)
            referee.anchors[step.key] = step
        elif isinstance(step, Entry):
            assert trust.learn(step) == (trust.version > before)
            referee.entries.append(step)
        elif isinstance(step, bytes):
            trust.drop(step)
            referee.anchors.pop(step, None)
        else:
            now = step
            assert trust.expire(now) == (trust.version > before)
        found = all_of(trust, now)
        assert found == referee.all(now)
        assert found == answers or trust.version > before
        answers = found


@given(st.lists(long_certs() | certs(), max_size=16), st.randoms(use_true_random=False))
def test_the_order_in_which_certificates_come_does_not_matter(entries: list[Entry], random) -> None:  # type: ignore[no-untyped-def]
    """Grant, revoke and grant again in whichever order: one state. The last is told where the root is trusted later."""
    anchors = [Anchor(key, Role.ROOT) for key in PUBLICS[1:3]]
    found = []
    for early in (True, True, False):
        trust = Trust(OWN.public)
        for anchor in anchors if early else ():
            trust.put(anchor)
        for entry in entries:
            trust.learn(entry)
        for anchor in anchors if not early else ():
            trust.put(anchor)
        found.append([all_of(trust, now) for now in range(14)])
        random.shuffle(entries)
    assert found[0] == found[1] == found[2]


@given(st.lists(long_certs(), min_size=8, max_size=30))
def test_chains_of_many_certificates_are_those_of_the_referee(entries: list[Entry]) -> None:
    trust, referee = Trust(OWN.public), Referee()
    for anchor in (Anchor(PUBLICS[1], Role.ROOT), Anchor(PUBLICS[2], Role.ROOT)):
        trust.put(anchor)
        referee.anchors[anchor.key] = anchor
    for entry in entries:
        trust.learn(entry)
        referee.entries.append(entry)
    assert all_of(trust, 50) == referee.all(50)
