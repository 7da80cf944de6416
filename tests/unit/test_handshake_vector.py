"""The handshake of this version, byte for byte, as it was recorded: a later version must still take it.

`python -m tests.unit.test_handshake_vector` writes the record anew, which only a new version of the protocol may do.
"""

from __future__ import annotations

import json
from pathlib import Path

from federation.bulk import bulk_answer, bulk_hello
from federation.certificate import make_certificate
from federation.envelope import encode_message
from federation.identity import NodeKey
from federation.joining import JOIN_PREFIX, Join, Welcome
from federation.session import ClientHandshake, Me, ServerHandshake, Session

RECORD = Path(__file__).parent.parent / "recorded" / "handshake-klp-1.0.json"
CLIENT, SERVER, INVITE, ROOT = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3, 4))
PING: dict[str, object] = {"t": "ping", "n": 1, "at": 1_700_000_000_000, "cut": 1_700_000_000_000, "digests": []}
LONG: dict[str, object] = {"t": "entries", "entries": [b"not really an entry" * 50] * 10}


def conversation(*, join: bool) -> dict[str, str]:
    """All frames of a handshake and a few after it, in hex. The seeds of the keys are 32 times 01, 02, 03 (of the
    invite) and 04 (of a root), the nonces 32 times c1 and 51."""
    roots = frozenset({ROOT.public})
    transcript = b""

    def proof_of(hash: bytes) -> Join:
        nonlocal transcript
        transcript = hash
        return Join(b"\x07" * 16, INVITE.sign(JOIN_PREFIX + hash), "edge", ("edge.example:7481",))

    certificate = make_certificate(SERVER)
    server = ServerHandshake(
        Me(SERVER, 2, roots, {ROOT.public: (b"the server's certificate",)}, ("bulk",)), certificate, b"\x51" * 32
    )
    client = ClientHandshake(
        Me(CLIENT, 1, roots, {ROOT.public: (b"the client's certificate",)}, ("bulk",)),
        SERVER.public,
        certificate,
        b"\xc1" * 32,
        proof_of if join else None,
    )
    hello = client.challenged(server.challenge)
    server.hello(hello)
    answer, theirs = server.answer(Welcome("home", ("home.example:7481",)) if join else None)
    session = client.answered(answer)
    assert session.id == theirs.id
    frames = {
        "tls_certificate": certificate,
        "1_challenge": server.challenge,
        "2_client_hello": hello,
        "3_server_hello": answer,
        "session_id": session.id,
    }
    if join:
        frames["join_transcript"] = transcript
    else:
        ping = encode_message(PING)
        frames |= {
            "ping": ping,
            "envelope": session.channel.seal(
                [encode_message({"t": "want", "n": 1})], bytes(range(16)), 1_700_000_000_000
            ),
            "envelope_compressed": session.channel.seal([encode_message(LONG)], bytes(range(16)), 1_700_000_000_000),
            "bulk_client": bulk_hello(session.id, server.challenge, certificate),
            "bulk_server": bulk_answer(session.id, server.challenge, certificate),
        }
    return {name: frame.hex() for name, frame in frames.items()}


def test_the_handshake_is_as_it_was_recorded() -> None:
    recorded = json.loads(RECORD.read_text())
    now = {"link": conversation(join=False), "join": conversation(join=True)}
    compressed = {recorded["link"].pop("envelope_compressed"), now["link"].pop("envelope_compressed")}
    assert now == recorded
    _, theirs = _sessions()
    for frame in compressed:  # zlibs differ in their bytes, and all are taken
        assert theirs.channel.open(bytes.fromhex(frame)) == [LONG]


def _sessions() -> tuple[bytes, Session]:
    recorded = json.loads(RECORD.read_text())["link"]
    certificate = bytes.fromhex(recorded["tls_certificate"])
    roots = frozenset({ROOT.public})
    server = ServerHandshake(
        Me(SERVER, 2, roots, {ROOT.public: (b"the server's certificate",)}, ("bulk",)), certificate, b"\x51" * 32
    )
    server.hello(bytes.fromhex(recorded["2_client_hello"]))
    return server.answer()


if __name__ == "__main__":
    record = {"link": conversation(join=False), "join": conversation(join=True)}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
