"""federation.session: two sides come to one session, and whoever stands between them, or plays back what was said,
gets nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from crdt import cbor
from federation.bulk import bulk_answer, bulk_hello, is_from_client, is_from_server, link_name
from federation.certificate import CertificateError, key_of, make_certificate
from federation.closing import CODES, SessionError, close_frame, closed
from federation.cose import sign1, verify1
from federation.envelope import EnvelopeError, decode_bare, encode_message
from federation.identity import NodeKey
from federation.joining import Join, Welcome
from federation.session import (
    CLIENT_AAD,
    MAX_HELLO,
    SERVER_AAD,
    ClientHandshake,
    Me,
    ServerHandshake,
    Session,
    join_transcript,
)

CLIENT, SERVER, EVE = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3))
ROOT_1, ROOT_2, ROOT_3 = (NodeKey(bytes([number]) * 32).public for number in (8, 9, 10))
CERT = {key.public: make_certificate(key) for key in (CLIENT, SERVER, EVE)}
ME = Me(CLIENT, 7, features=("bulk", "tunnel"))
THEM = Me(SERVER, 9, features=("bulk",))


def server(me: Me = THEM, nonce: bytes | None = None) -> ServerHandshake:
    return ServerHandshake(me, CERT[me.key.public], nonce or os.urandom(32))


def client(me: Me = ME, peer: NodeKey = SERVER, **options: Any) -> ClientHandshake:
    return ClientHandshake(me, peer.public, CERT[peer.public], os.urandom(32), **options)


def agreed(me: Me = ME, them: Me = THEM) -> tuple[Session, Session]:
    """(the client's, the server's) session."""
    here, there = client(me), server(them)
    there.hello(here.challenged(there.challenge))
    frame, theirs = there.answer()
    return here.answered(frame), theirs


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(SessionError) as caught:
        call()
    assert caught.value.code in CODES
    return caught.value.code


def said_again(raw: bytes, key: NodeKey, aad: bytes, /, **changed: object) -> bytes:
    """A hello with other fields, signed by `key`; None takes a field out."""
    _, payload = verify1(raw, aad)
    fields: dict[str, object] = cbor.decode(payload)  # type: ignore[assignment]
    fields |= changed
    return sign1(key, cbor.encode({name: value for name, value in fields.items() if value is not None}), aad)


def challenge_with(raw: bytes, **changed: object) -> bytes:
    fields: dict[str, object] = {**decode_bare(raw), **changed}
    return cbor.encode({name: value for name, value in fields.items() if value is not None})


# What must work


def test_both_sides_come_to_one_session() -> None:
    mine, theirs = agreed()
    assert mine.id == theirs.id
    assert (mine.peer, theirs.peer) == (SERVER.public, CLIENT.public)
    assert (mine.dialled, theirs.dialled) == (True, False)
    assert (mine.hello.incarnation, theirs.hello.incarnation) == (9, 7)
    assert mine.hello.features == theirs.hello.features == {"bulk"}
    sealed = mine.channel.seal([encode_message({"t": "x"})], bytes(16), 1)
    assert theirs.channel.open(sealed) == [{"t": "x"}]


def test_the_session_is_the_hash_of_all_that_was_said() -> None:
    there = server()
    hello = client().challenged(there.challenge)
    there.hello(hello)
    frame, session = there.answer()
    assert session.id == sha256(there.challenge + hello + frame).digest()


def test_no_two_sessions_are_one() -> None:
    one, other = agreed()[0], agreed()[1]
    assert one.id != other.id
    with pytest.raises(EnvelopeError) as caught:
        other.channel.open(one.channel.seal([encode_message({"t": "x"})], bytes(16), 1))
    assert caught.value.code == "signature"


def test_the_highest_common_version_is_used() -> None:
    mine = replace(ME, versions=("klp/1.0", "klp/1.9", "klp/1.10", "klp/2.0"))
    theirs = replace(THEM, versions=("klp/1.10", "klp/1.0", "klp/1.9", "klp/3.0"))
    one, other = agreed(mine, theirs)
    assert one.hello.version == other.hello.version == "klp/1.10"
    assert refused(lambda: agreed(replace(ME, versions=("klp/9.0",)))) == "version"
    assert agreed(them=replace(THEM, versions=("later", "klp/1.0")))[0].hello.version == "klp/1.0"


def test_certificates_go_to_whoever_knows_their_root() -> None:
    mine = replace(ME, roots=frozenset({ROOT_1, ROOT_2}), certs={ROOT_1: (b"1", b"2"), ROOT_2: (b"mine under 2",)})
    theirs = replace(THEM, roots=frozenset({ROOT_1}), certs={ROOT_1: (b"theirs",)})
    one, other = agreed(mine, theirs)
    assert one.hello.certs == (b"theirs",)
    assert other.hello.certs == (b"1", b"2")
    one, other = agreed(mine, THEM)
    assert one.hello.certs == other.hello.certs == ()
    long = {ROOT_1: (b"1", b"2", b"3"), ROOT_2: (b"4", b"5"), ROOT_3: (b"6",)}  # no chain goes out in part
    one, other = agreed(replace(mine, certs=long), replace(THEM, roots=frozenset(long)))
    assert other.hello.certs == (b"1", b"2", b"3", b"6")
    large = {ROOT_1: (bytes(MAX_HELLO // 2),), ROOT_2: (b"4", b"5")}  # and none at the cost of the hello
    one, other = agreed(replace(mine, certs=large), replace(THEM, roots=frozenset(large)))
    assert other.hello.certs == (bytes(MAX_HELLO // 2),)


def test_a_stranger_learns_no_root() -> None:
    said = [server(replace(THEM, roots=frozenset({ROOT_1}))).challenge for _ in range(2)]
    roots = [decode_bare(raw)["roots"] for raw in said]
    assert roots[0] != roots[1]
    assert not any(ROOT_1 in raw for raw in said)


def test_an_invite_is_redeemed_in_the_hello() -> None:
    seen: list[bytes] = []

    def proof_of(transcript: bytes) -> Join:
        seen.append(transcript)
        return Join(b"id", b"p" * 64, "edge", ("edge:7481",))

    here, there = client(proof_of=proof_of), server(nonce=b"n" * 32)
    challenge = there.challenge
    hello = there.hello(here.challenged(challenge))
    assert hello.join == Join(b"id", b"p" * 64, "edge", ("edge:7481",))
    assert [hello.transcript] == seen
    frame, _ = there.answer(Welcome("home", ("home:7481",), (b"cert",)))
    assert here.answered(frame).hello.welcome == Welcome("home", ("home:7481",), (b"cert",))


def test_the_transcript_of_a_join_is_bound_to_joiner_connection_and_challenge() -> None:
    base = (b"challenge", b"t" * 32, CLIENT.public, b"n" * 32)
    others = [
        (*base[:at], part, *base[at + 1 :]) for at, part in enumerate((b"other", b"u" * 32, EVE.public, b"o" * 32))
    ]
    assert len({join_transcript(*parts) for parts in (base, *others)}) == 5


def test_a_welcome_answers_a_join_and_nothing_else() -> None:
    here, there = client(), server()
    there.hello(here.challenged(there.challenge))
    frame, _ = there.answer(Welcome("home"))
    assert refused(lambda: here.answered(frame)) == "malformed"
    here, there = client(proof_of=lambda _: Join(b"id", b"p" * 64)), server()
    there.hello(here.challenged(there.challenge))
    frame, _ = there.answer()
    assert refused(lambda: here.answered(frame)) == "malformed"


# Attacks


def test_relay_somebody_between_has_to_show_a_certificate_of_its_own() -> None:
    assert refused(lambda: ClientHandshake(ME, SERVER.public, CERT[EVE.public], b"n" * 32)) == "wrong-key"


def test_relay_a_hello_to_one_node_is_worth_nothing_at_another() -> None:
    """The client dials Eve, whom it trusts; she passes the server's challenge on under her name."""
    there = server()
    challenge = challenge_with(there.challenge, key=EVE.public)
    hello = client(peer=EVE).challenged(challenge)
    assert refused(lambda: there.hello(hello)) == "wrong-key"
    assert refused(lambda: client(peer=EVE).challenged(server().challenge)) == "wrong-key"


def test_relay_a_hello_made_over_another_certificate_is_refused() -> None:
    """As if Eve had the server's key but not its certificate: the hello names what TLS showed to the client."""
    there = server()
    hello = client().challenged(there.challenge)
    raw = said_again(hello, CLIENT, CLIENT_AAD, tls=sha256(CERT[EVE.public]).digest())
    assert refused(lambda: there.hello(raw)) == "transcript"


def test_reflect_a_hello_back_to_where_it_came_from() -> None:
    here, there = client(), server()
    hello = here.challenged(there.challenge)
    assert refused(lambda: here.answered(hello)) == "signature"
    assert refused(lambda: here.answered(said_again(hello, EVE, CLIENT_AAD))) == "signature"
    there.hello(hello)
    frame, _ = there.answer()
    assert refused(lambda: server().hello(frame)) == "signature"


def test_reflect_a_node_that_dials_itself_is_refused() -> None:
    assert refused(lambda: client(replace(ME, key=SERVER))) == "self"
    there = server()
    raw = said_again(client().challenged(there.challenge), SERVER, CLIENT_AAD, key=SERVER.public)
    assert refused(lambda: there.hello(raw)) == "self"


def test_swap_of_keys_is_noticed() -> None:
    here, there = client(), server()
    assert refused(lambda: client().challenged(challenge_with(there.challenge, key=EVE.public))) == "wrong-key"
    hello = here.challenged(there.challenge)
    assert refused(lambda: there.hello(said_again(hello, EVE, CLIENT_AAD))) == "malformed"  # signed by Eve, named mine
    assert refused(lambda: there.hello(said_again(hello, CLIENT, CLIENT_AAD, peer=EVE.public))) == "wrong-key"
    there.hello(hello)
    frame, _ = there.answer()
    assert refused(lambda: here.answered(said_again(frame, EVE, SERVER_AAD, key=EVE.public))) == "wrong-key"


@pytest.mark.parametrize(
    "field",
    ["key", "peer", "nonce", "transcript", "tls", "incarnation", "version", "versions", "roots", "certs", "features"],
)
def test_strip_no_field_of_a_clients_hello_may_be_missing(field: str) -> None:
    there = server()
    hello = client().challenged(there.challenge)
    refused(lambda: there.hello(said_again(hello, CLIENT, CLIENT_AAD, **{field: None})))


@pytest.mark.parametrize("field", ["key", "peer", "nonce", "transcript", "tls", "incarnation", "version", "certs"])
def test_strip_no_field_of_a_servers_hello_may_be_missing(field: str) -> None:
    here, there = client(), server()
    there.hello(here.challenged(there.challenge))
    frame, _ = there.answer()
    refused(lambda: here.answered(said_again(frame, SERVER, SERVER_AAD, **{field: None})))


@pytest.mark.parametrize("field", ["key", "nonce", "versions", "roots", "t"])
def test_strip_no_field_of_a_challenge_may_be_missing(field: str) -> None:
    refused(lambda: client().challenged(challenge_with(server().challenge, **{field: None})))


def test_strip_what_is_added_to_or_taken_from_a_challenge_is_noticed_by_the_server() -> None:
    for changed in ({"roots": [b"r" * 32]}, {"succession": None}, {"more": 1}):
        there = server()
        hello = client().challenged(challenge_with(there.challenge, **changed))
        assert refused(lambda there=there, hello=hello: there.hello(hello)) == "transcript"  # type: ignore[misc]


def test_downgrade_versions_that_were_taken_out_are_noticed() -> None:
    both = ("klp/1.0", "klp/1.1")
    here, there = client(replace(ME, versions=both)), server(replace(THEM, versions=both))
    hello = here.challenged(challenge_with(there.challenge, versions=["klp/1.0"]))
    assert refused(lambda: there.hello(hello)) == "transcript"
    here, there = client(replace(ME, versions=both)), server(replace(THEM, versions=both))
    hello = said_again(here.challenged(there.challenge), CLIENT, CLIENT_AAD, version="klp/1.0")
    assert refused(lambda: there.hello(hello)) == "version"


def test_downgrade_a_server_cannot_choose_another_version_afterwards() -> None:
    here, there = client(), server()
    there.hello(here.challenged(there.challenge))
    frame, _ = there.answer()
    assert refused(lambda: here.answered(said_again(frame, SERVER, SERVER_AAD, version="klp/0.9"))) == "version"


def test_replay_an_old_hello_answers_another_challenge() -> None:
    there = server()
    old = client().challenged(there.challenge)
    there.hello(old)
    frame, _ = there.answer()
    assert refused(lambda: server().hello(old)) == "transcript"
    here = client()
    here.challenged(server().challenge)
    assert refused(lambda: here.answered(frame)) == "transcript"
    assert refused(lambda: there.hello(old)) == "malformed"  # twice on one connection


def test_the_order_of_the_messages_is_kept() -> None:
    here, there = client(), server()
    there.hello(here.challenged(there.challenge))
    frame, _ = there.answer()
    assert refused(lambda: client().answered(frame)) == "malformed"
    assert refused(lambda: here.challenged(there.challenge)) == "malformed"
    assert refused(lambda: client().challenged(frame)) == "malformed"
    assert refused(lambda: server().hello(server().challenge)) == "malformed"


def test_oversize_and_garbage_are_refused() -> None:
    there = server()
    good = client().challenged(there.challenge)
    for raw, code in (
        (b"", "signature"), (os.urandom(100), None), (b"\xd2" + os.urandom(400), "signature"),
        (b"\xd2" + b"x" * MAX_HELLO, "oversize"), (b"\xa1" + b"x" * MAX_HELLO, "oversize"),
        (sign1(CLIENT, b"\xff", CLIENT_AAD), "malformed"), (sign1(CLIENT, cbor.encode([]), CLIENT_AAD), "malformed"),
        (good[:-1] + bytes((good[-1] ^ 1,)), "signature"),
    ):  # fmt: skip
        got = {refused(lambda raw=raw: there.hello(raw)), refused(lambda raw=raw: client().challenged(raw))}  # type: ignore[misc]
        assert code is None or code in got
    assert there.hello(good).peer == CLIENT.public  # what was refused has changed nothing


@pytest.mark.parametrize(
    "changed",
    [
        {"certs": [b"c"] * 5}, {"certs": ["c"]}, {"roots": [b"r" * 31]}, {"roots": [b"r" * 32] * 17},
        {"incarnation": -1}, {"incarnation": 1 << 63}, {"incarnation": "1"}, {"nonce": b"n"}, {"features": ["x" * 300]},
        {"features": ["x"] * 17}, {"versions": "klp/1.0"}, {"join": []}, {"join": {"id": b"", "proof": b"p" * 64}},
        {"join": {"id": b"i", "proof": b"p", "name": "", "addresses": []}},
        {"join": {"id": b"i", "proof": b"p" * 64, "name": "", "addresses": ["a:1"] * 5}},
    ],
)  # fmt: skip
def test_fields_out_of_bounds_are_refused(changed: dict[str, object]) -> None:
    there = server()
    hello = client().challenged(there.challenge)
    assert refused(lambda: there.hello(said_again(hello, CLIENT, CLIENT_AAD, **changed))) == "malformed"


def test_a_close_may_come_instead_of_anything() -> None:
    raw = close_frame("untrusted", "who are you?")
    for call in (lambda: client().challenged(raw), lambda: server().hello(raw), _answered_with(raw)):
        with pytest.raises(SessionError, match="untrusted: who are you") as caught:
            call()
        assert caught.value.by_peer
    assert closed({"t": "ping"}) is None
    for bad in ({"code": 1}, {"code": "x" * 65}, {"code": "x", "reason": 1}, {}):
        said = closed({"t": "close", **bad})
        assert said is not None
        assert said.code == "malformed"


def _answered_with(raw: bytes) -> Callable[[], object]:
    here = client()
    here.challenged(server().challenge)
    return lambda: here.answered(raw)


# The certificate, and the second socket


def test_a_key_always_makes_the_same_certificate_and_it_holds_the_key() -> None:
    assert make_certificate(SERVER) == CERT[SERVER.public]
    assert key_of(CERT[SERVER.public]) == SERVER.public
    for bad in (b"", b"x" * 300, b"x" * 5000, CERT[SERVER.public][:-1]):
        with pytest.raises(CertificateError):
            key_of(bad)


def test_a_bulk_socket_belongs_to_one_session_one_connection_and_one_direction() -> None:
    session, challenge, certificate = b"s" * 32, b"challenge", b"certificate"
    hello = decode_bare(bulk_hello(session, challenge, certificate))
    answer = decode_bare(bulk_answer(session, challenge, certificate))
    assert hello["link"] == link_name(session)
    assert is_from_client(hello, session, challenge, certificate)
    assert is_from_server(answer, session, challenge, certificate)
    assert session not in bulk_hello(session, challenge, certificate)
    for wrong in (
        (b"t" * 32, challenge, certificate),
        (session, b"other", certificate),
        (session, challenge, b"other"),
    ):
        assert not is_from_client(hello, *wrong)
        assert not is_from_server(answer, *wrong)
    assert not is_from_server({**hello, "t": "bulk"}, session, challenge, certificate)
    assert not is_from_client({**answer, "t": "hello.bulk"}, session, challenge, certificate)
    assert not is_from_client({"t": "hello.bulk"}, session, challenge, certificate)
