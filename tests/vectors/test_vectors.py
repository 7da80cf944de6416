"""The vectors are what the code makes, and others agree with them: pycose, PyJWT, the reference encoder."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pycose.algorithms import EdDSA
from pycose.headers import KID, Algorithm
from pycose.keys import OKPKey
from pycose.messages import Sign1Message

from crdt.entry import EntryError, Fact
from crdt.lww_map import LWWMap
from federation.cose import decode_entry, fact_of, sign_entry, verify_entry
from federation.identity import NodeKey, parse_did
from tests import reference
from tests.referee import read_by_pycose
from tests.vectors import generate

HERE = Path(__file__).parent
AAD = b"kosreg entry 1"


def read(file: str) -> Any:
    return json.loads((HERE / file).read_text(encoding="utf-8"))


ENTRIES = read("entries.json")
REFUSED = read("refused.json")


def notes(vectors: list[dict[str, Any]]) -> list[str]:
    return [vector["note"] for vector in vectors]


def test_the_files_are_what_the_generator_writes() -> None:
    made = generate.document()
    assert {path.name for path in HERE.glob("*.json")} == set(made)
    for file, content in made.items():
        assert (HERE / file).read_text(encoding="utf-8") == generate.text(content), f"{file}: run the generator"


@pytest.mark.parametrize("vector", ENTRIES, ids=notes(ENTRIES))
class TestEntries:
    def test_the_code_makes_and_reads_it(self, vector: dict[str, Any]) -> None:
        entry = decode_entry(bytes.fromhex(vector["raw"]))
        fact = fact_of(entry)
        assert verify_entry(entry)
        assert entry.id.hex() == vector["id"]
        assert fact.encode().hex() == vector["payload"]
        assert sign_entry(NodeKey(bytes.fromhex(vector["seed"])), fact).raw == entry.raw
        assert (entry.kind, entry.name, str(entry.stamp), int(entry.cls), str(entry.valid_until)) == (
            vector["kind"], vector["name"], vector["stamp"], vector["class"], vector["valid_until"],
        )  # fmt: skip
        assert (entry.root.hex() if entry.root else None, not entry.live) == (vector["root"], vector["tombstone"])

    def test_the_reference_encoder_agrees(self, vector: dict[str, Any]) -> None:
        fact = generate.FACTS[vector["note"]]
        fields = {1: fact.kind, 2: fact.name, 3: fact.stamp, 4: int(fact.cls), 5: fact.valid_until, 6: fact.body}
        fields |= {7: fact.root} if fact.root else {}
        public = NodeKey(bytes.fromhex(vector["seed"])).public
        payload = reference.encode(fields | fact.extra)  # type: ignore[arg-type, operator]
        assert payload.hex() == vector["payload"]
        signed = reference.sig_structure(public, AAD, payload)
        assert signed.hex() == vector["sig_structure"]
        assert hashlib.sha256(signed).hexdigest() == vector["id"]

    def test_pycose_verifies_it(self, vector: dict[str, Any]) -> None:
        theirs = read_by_pycose(bytes.fromhex(vector["raw"]))
        theirs.external_aad = AAD
        theirs.key = OKPKey(crv="ED25519", x=theirs.phdr[KID])
        assert theirs.phdr == {Algorithm: EdDSA, KID: NodeKey(bytes.fromhex(vector["seed"])).public}
        assert theirs.payload.hex() == vector["payload"]
        assert theirs.verify_signature()

    def test_pycose_makes_it(self, vector: dict[str, Any]) -> None:
        key = NodeKey(bytes.fromhex(vector["seed"]))
        theirs = Sign1Message(
            phdr={Algorithm: EdDSA, KID: key.public}, payload=bytes.fromhex(vector["payload"]), external_aad=AAD
        )
        theirs.key = OKPKey(crv="ED25519", x=key.public, d=key.seed)
        assert theirs.encode().hex() == vector["raw"]

    def test_a_third_implementation_of_ed25519_agrees(self, vector: dict[str, Any]) -> None:
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["seed"]))
        assert private.sign(bytes.fromhex(vector["sig_structure"])).hex() == vector["raw"][-128:]


@pytest.mark.parametrize("vector", REFUSED, ids=notes(REFUSED))
def test_what_must_be_refused_is_refused(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["raw"])
    if vector["fault"] == "encoding":
        with pytest.raises(EntryError):
            decode_entry(raw)
    else:
        assert not verify_entry(decode_entry(raw))


def test_rising_entries_win_one_over_the_other() -> None:
    entries = [decode_entry(bytes.fromhex(raw)) for raw in read("order.json")["rising"]]
    assert len({entry.key for entry in entries}) == 1
    assert sorted(entries, key=lambda entry: entry.order) == entries
    for lower, higher in itertools.pairwise(entries):
        for pair in ((lower, higher), (higher, lower)):
            held = LWWMap(b"")
            for entry in pair:
                held.merge(entry, 0)
            assert list(held) == [higher]


def test_merges_give_the_same_in_every_order() -> None:
    document = read("order.json")
    for vector in document["merges"]:
        entries = [decode_entry(bytes.fromhex(raw)) for raw in vector["entries"]]
        for order in itertools.permutations(entries):
            held = LWWMap(b"")
            for entry in order:
                held.merge(entry, document["now"])
            shown = held.view(entries[0].origin, "service", "a", document["now"])
            assert sorted(entry.id.hex() for entry in held) == vector["held"], vector["note"]
            assert (shown.id.hex() if shown else None) == vector["shown"], vector["note"]


def test_digests_are_the_sum_of_the_ids() -> None:
    for vector in read("digests.json"):
        total = sum(int.from_bytes(bytes.fromhex(text), "little") for text in vector["ids"]) % 2**256
        count = len(vector["ids"])
        varint = bytes([count]) if count < 128 else bytes([0x80 | count >> 7, count & 0x7F])
        digest = hashlib.sha256(total.to_bytes(32, "little") + varint).hexdigest()[:32]
        assert digest == vector["digest"]


def test_names_name_the_keys() -> None:
    for vector in read("names.json"):
        assert parse_did(vector["did"]).hex() == parse_did(vector["kind_did"]).hex() == vector["public"]
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["seed"]))
        assert private.public_key().public_bytes_raw().hex() == vector["public"]


def test_pyjwt_verifies_the_record() -> None:
    vector = read("record.json")
    signed = vector["signed"]
    compact = f"{signed['protected']}.{signed['payload']}.{signed['signature']}"
    public = Ed25519PublicKey.from_public_bytes(parse_did(jwt.get_unverified_header(compact)["kid"]))
    assert json.loads(jwt.PyJWS().decode(compact, public, algorithms=["EdDSA"])) == vector["record"]


def test_the_facts_that_are_written_cover_every_class_and_kind() -> None:
    facts = [Fact.decode(bytes.fromhex(vector["payload"])) for vector in ENTRIES]
    assert {int(fact.cls) for fact in facts} == {0, 1, 2}
    assert {fact.kind for fact in facts} >= {"service", "status", "node", "cert", "succession"}
