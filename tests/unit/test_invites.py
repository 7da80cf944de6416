"""Invite lines: each fault of a copy is told; what the inviter keeps; who may redeem an invite, and for how long."""

import base64
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdt import cbor
from federation.identity import NodeKey
from federation.joining import JOIN_PREFIX, Denied, Redeem
from kosreg.invites import KEPT_MS, PREFIX, InviteError, InviteLine, Invites, make, parse_line, usable
from kosreg.store import Invite

OWN, JOINER, OTHER = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3))
NOW = 1_764_000_000_000
TRANSCRIPT = b"t" * 32
ADDRESSES = ("a.example:7481", "[2001:db8::1]:7481")


def new(ttl: int = 60) -> tuple[InviteLine, Invite]:
    return make(OWN.public, ADDRESSES, "", NOW, ttl)


class Loose:
    """Encodes whatever it is given, as `InviteLine.encode` encodes its fields."""

    def __init__(self, fields: dict[str, object]) -> None:
        self.fields = fields

    def encode(self) -> str:
        return encode_raw(cbor.encode(self.fields))


def encode_raw(body: bytes) -> str:
    checksum = sha256(b"kosreg1:" + body).digest()[:4]
    return PREFIX + base64.urlsafe_b64encode(body + checksum).decode().rstrip("=")


def asked(line: InviteLine, joiner: NodeKey = JOINER, transcript: bytes = TRANSCRIPT) -> Redeem:
    join = line.proof(transcript, "b", ())
    return Redeem(join.id, join.proof, TRANSCRIPT, joiner.public, join.name, join.addresses)


def test_a_line_comes_back_as_it_was() -> None:
    line, _ = new()
    text = line.encode()
    assert text.startswith(PREFIX)
    assert text.isascii()
    assert not any(char.isspace() or char == "=" for char in text)
    assert parse_line(f"  {text}\n") == line


def test_the_line_is_the_documented_bytes() -> None:
    line = InviteLine(("a:1",), b"k" * 32, b"i" * 16, b"s" * 32, 5, {})
    body = cbor.encode(
        {"addresses": ["a:1"], "key": b"k" * 32, "id": b"i" * 16, "secret": b"s" * 32, "expiry": 5, "grant": {}}
    )
    assert line.encode() == encode_raw(body)


def test_neither_what_is_kept_nor_what_is_printed_holds_the_secret() -> None:
    line, invite = new()
    assert invite.public == NodeKey(line.secret).public
    assert line.secret not in repr(invite).encode("latin-1", "replace")
    for form in (line.secret.hex(), repr(line.secret), base64.b64encode(line.secret).decode()):
        assert form not in repr(line)
        assert form not in repr(invite)


FIXED = [
    InviteLine(ADDRESSES, OWN.public, b"i" * 16, b"s" * 32, NOW, {"a": "x" * n}).encode() for n in range(3)
]  # of each length that base64 fills up differently


@given(st.sampled_from(FIXED), st.data())
def test_any_change_of_one_character_is_noticed(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters(exclude_characters=text[at]))
    changed = text[:at] + char + text[at + 1 :]
    with pytest.raises(InviteError):
        parse_line(changed)


@given(st.sampled_from(FIXED), st.data())
def test_a_line_that_was_cut_is_noticed(text: str, data: st.DataObject) -> None:
    with pytest.raises(InviteError, match="invite"):
        parse_line(text[: data.draw(st.integers(0, len(text) - 1))])


@given(st.text(max_size=300))
def test_nothing_but_invites_is_taken_and_nothing_breaks(text: str) -> None:
    for line in (text, PREFIX + text):
        with pytest.raises(InviteError):
            parse_line(line)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", "kosreg peers invite"),
        (lambda text: text.removeprefix(PREFIX), "begins with kosreg1:"),
        (lambda text: "kosreg2:" + text.removeprefix(PREFIX), "another release"),
        (lambda text: text[:50] + "\n" + text[50:], "one line"),
        (lambda text: text[:-1], "not whole"),
        (lambda text: text + "A", "not whole"),
        (lambda text: text + "AA", "not whole"),
        (lambda text: text.replace(":", ":*", 1), "not whole"),
        (lambda text: text * 30, "4096"),
    ],
)
def test_each_fault_of_a_copy_has_words_of_its_own(change, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InviteError, match=words):
        parse_line(change(new()[0].encode()))


@pytest.mark.parametrize(
    "fields",
    [
        {"key": b"k" * 31}, {"key": "k" * 32}, {"key": "absent"}, {"id": b""}, {"secret": b"s"}, {"expiry": -1},
        {"expiry": "soon"}, {"grant": []}, {"addresses": "a:1"}, {"addresses": []}, {"addresses": [1]},
        {"addresses": ["no port"]}, {"addresses": ["a:0"]}, {"addresses": ["unix:/x"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_line_that_was_forged_is_refused(fields: dict[str, object]) -> None:
    line, _ = new()
    whole: dict[str, object] = {
        "addresses": list(ADDRESSES), "key": line.key, "id": line.id, "secret": line.secret, "expiry": line.expiry,
        "grant": {},
    } | fields  # fmt: skip
    with pytest.raises(InviteError):
        parse_line(Loose({name: value for name, value in whole.items() if value != "absent"}).encode())


def test_fields_of_a_later_release_are_passed_over() -> None:
    line, _ = new()
    fields = {name: getattr(line, name) for name in ("key", "id", "secret", "expiry", "grant")}
    assert parse_line(Loose({**fields, "addresses": list(ADDRESSES), "more": 1}).encode()) == line


def test_usable_addresses() -> None:
    many = [f"h{n}:1" for n in range(9)]
    assert usable(["A:1", "A:1", "x", "[::1]:2", "off"]) == ("A:1", "[::1]:2")
    assert usable(many) == tuple(many[:4])


def test_the_first_joiner_has_it_and_may_ask_again() -> None:
    line, invite = new()
    invites = Invites([invite])
    assert invites.judge(asked(line), NOW) == invite
    bound = replace(invite, joiner=JOINER.public, bound=NOW)
    invites.put(bound)
    assert invites.judge(asked(line), NOW + 1) == bound
    denied = invites.judge(asked(line, OTHER), NOW + 1)
    assert isinstance(denied, Denied)
    assert denied.code == "used"


def test_an_invite_ends_for_its_joiner_too() -> None:
    line, invite = new(ttl=60)
    invites = Invites([replace(invite, joiner=JOINER.public, bound=NOW)])
    assert not isinstance(invites.judge(asked(line), NOW + 59_999), Denied)
    denied = invites.judge(asked(line), NOW + 60_000)
    assert isinstance(denied, Denied)
    assert denied.code == "expired"


def test_who_has_not_the_secret_learns_nothing() -> None:
    line, invite = new(ttl=1)
    invites = Invites([replace(invite, joiner=OTHER.public)])
    stranger = new()[0]
    wrong = [
        replace(asked(line), proof=b"\0" * 64),
        replace(asked(line), proof=b""),
        replace(asked(line), proof=NodeKey(line.secret).sign(TRANSCRIPT)),
        replace(asked(line), proof=NodeKey(stranger.secret).sign(JOIN_PREFIX + TRANSCRIPT)),
        replace(asked(line), transcript=b"x" * 32),
        asked(stranger),
    ]
    for ask in wrong:
        for now in (NOW, NOW + 10_000):
            assert invites.judge(ask, now) == Denied("unknown", "this node has no such invite")


def test_old_invites_are_forgotten_and_open_ones_counted() -> None:
    one, two = new(ttl=1)[1], new(ttl=10)[1]
    invites = Invites([one, replace(two, joiner=JOINER.public)])
    assert invites.open(NOW) == 1
    assert invites.open(NOW + 1000) == 0
    assert invites.old(NOW + 1000 + KEPT_MS + 1) == [one.id]
    invites.forget([one.id])
    assert [invite.id for invite in invites.all()] == [two.id]
