"""Trust against a referee that keeps everything that was said and reads it from the beginning for every answer."""

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from crdt.entry import TRUST_KINDS, Class, Entry, Fact
from federation.cose import fact_of, sign_entry
from federation.identity import NodeKey, parse_did
from federation.trust import Anchor, Role, Scope, Trust, issue_cert

KEYS = tuple(NodeKey(bytes([number]) * 32) for number in range(1, 6))
OWN = KEYS[0]
PUBLICS = [key.public for key in KEYS]
TIMES = st.integers(1, 12)
CLASSES = st.frozensets(st.sampled_from(Class))
ASKED = [(cls, root) for cls in Class for root in ((None, *PUBLICS) if cls is Class.INTERNAL else (None,))]


@dataclass
class Referee:
    anchors: dict[bytes, Anchor] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def revoked(self, key: bytes) -> bool:
        return key in self.anchors and self.anchors[key].revoked is not None

    def granted(self, key: bytes, root: bytes, now: int) -> frozenset[Class] | None:
        said = [e for e in self.entries if e.origin == root and parse_did(e.name) == key]
        anchor = self.anchors.get(root)
        if not said or anchor is None or anchor.role is not Role.ROOT or self.revoked(root) or self.revoked(key):
            return None
        last = max(said, key=lambda entry: (entry.stamp, entry.valid_until, entry.id))
        body = fact_of(last).body
        if body is None or body["state"] != "granted" or not body["not_before"] <= now < body["not_after"]:  # type: ignore[operator]
            return None
        scope = body.get("scope", {})
        return frozenset(Class(cls) for cls in scope.get("classes", [1, 2])) if now < last.valid_until else None  # type: ignore[attr-defined]

    def roots(self, key: bytes, now: int) -> frozenset[bytes]:
        return frozenset(root for root in PUBLICS if self.granted(key, root, now) is not None)

    def may_link(self, key: bytes, now: int) -> bool:
        anchor = self.anchors.get(key)
        is_peer = anchor is not None and anchor.role is Role.PEER
        return not self.revoked(key) and (is_peer or bool(self.roots(key, now)))

    def admits(self, key: bytes, cls: Class, root: bytes | None, kind: str, now: int) -> bool:
        if key == OWN.public:
            return True
        if cls is Class.PRIVATE or self.revoked(key):
            return False
        if cls is Class.INTERNAL:
            scope = self.granted(key, root, now) if root is not None else None
            return scope is not None and cls in scope and root in self.roots(OWN.public, now)
        anchor = self.anchors.get(key)
        if anchor is not None and anchor.role is Role.PEER and cls in anchor.scope.classes:
            return True
        if anchor is not None and anchor.role is Role.ROOT and kind in TRUST_KINDS:
            return True
        return any(
            cls in self.anchors[root].scope.classes and cls in (self.granted(key, root, now) or ())
            for root in self.roots(key, now)
        )

    def all(self, now: int) -> list[object]:
        return [
            (
                self.roots(key, now),
                self.may_link(key, now),
                [self.admits(key, cls, root, kind, now) for cls, root in ASKED for kind in ("service", "cert")],
            )
            for key in PUBLICS
        ]


def all_of(trust: Trust, now: int) -> list[object]:
    return [
        (
            trust.roots_of(key, now),
            trust.may_link(key, now),
            [trust.admits(key, cls, root, kind, now) for cls, root in ASKED for kind in ("service", "cert")],
        )
        for key in PUBLICS
    ]


@st.composite
def certs(draw: st.DrawFn) -> Entry:
    issuer, subject = draw(st.sampled_from(KEYS[1:])), draw(st.sampled_from(PUBLICS))
    entry = issue_cert(
        issuer, subject, now_ms=0, not_before=(begin := draw(TIMES)), not_after=begin + draw(TIMES),
        state=draw(st.sampled_from(["granted", "granted", "revoked"])), scope=Scope(draw(CLASSES)),
        stamp=draw(st.integers(0, 3)),
    )  # fmt: skip
    fact = replace(fact_of(entry), valid_until=draw(TIMES))
    if draw(st.integers(0, 9)) == 0:
        fact = Fact("cert", fact.name, fact.stamp, Class.PUBLIC, fact.valid_until, None)
    return sign_entry(issuer, fact)


anchors = st.builds(
    Anchor, st.sampled_from(PUBLICS[1:]), st.sampled_from(Role), scope=st.builds(Scope, CLASSES),
    revoked=st.sampled_from([None, None, 1]),
)  # fmt: skip
said = st.lists(anchors | certs() | st.sampled_from(PUBLICS[1:]) | TIMES, max_size=14)


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


@given(st.lists(certs(), max_size=8), st.randoms(use_true_random=False))
def test_the_order_in_which_certificates_come_does_not_matter(entries: list[Entry], random) -> None:  # type: ignore[no-untyped-def]
    one, other = Trust(OWN.public), Trust(OWN.public)
    for trust in (one, other):
        for key in PUBLICS[1:3]:
            trust.put(Anchor(key, Role.ROOT))
        for entry in entries:
            trust.learn(entry)
        random.shuffle(entries)
    assert all(all_of(one, now) == all_of(other, now) for now in range(14))
