"""Which claim a bare id names: our own, the holder's, or that of an agent which proved that it moved."""

from __future__ import annotations

from itertools import permutations

import pytest

from crdt.entry import Class
from federation.identity import NodeKey, did_of
from kosreg.catalog import Catalog
from kosreg.names import ADMIN, Claims
from kosreg.owner_proof import make_proof
from kosreg.service import ForeignService, Service

HOME, A, B, C = (NodeKey(bytes([n]) * 32) for n in (10, 11, 12, 13))
AGENT, SQUATTER = (NodeKey(bytes([n]) * 32) for n in (20, 21))
NOW = 1_790_000_000_000


def claim(node: NodeKey, move: int = 0, agent: NodeKey = AGENT, until: int = NOW + 1, uid: str = "t") -> Service:
    body: dict[str, object] = {"name": node.did[-4:], "type": "agent", "owner": "bob"}
    if move:
        body["owner_proof"] = make_proof(agent, uid, node.public, move, until)
    return (Service if node is HOME else ForeignService)(uid, node.did, Class.PUBLIC, body)


def winner(*claims: Service, holder: NodeKey, how: str = "first", now: int = NOW) -> str | None:
    """The DID of the origin whose claim is shown."""
    held = Claims(holder.did, how, {c.origin: c for c in claims})  # type: ignore[arg-type]
    shown = held.winner(now)
    return None if shown is None else shown.origin


def test_our_own_goes_before_whoever_holds_it() -> None:
    assert winner(claim(A), claim(HOME), holder=A) == HOME.did
    assert winner(claim(A), claim(HOME), holder=A, how=ADMIN) == HOME.did


def test_the_holder_goes_before_a_newcomer() -> None:
    assert winner(claim(A), claim(B), holder=A) == A.did
    assert winner(claim(A), claim(B, 9, SQUATTER), holder=A) == A.did
    assert winner(claim(A, 1), claim(B, 9, SQUATTER), holder=A) == A.did


def test_nobody_has_what_the_holder_left() -> None:
    assert winner(claim(B), holder=A) is None
    assert winner(claim(B, 9), claim(C, 8), holder=A) is None
    assert winner(claim(B), holder=A, how=ADMIN) is None


def test_a_move_is_followed() -> None:
    assert winner(claim(A, 1), claim(B, 2), holder=A) == B.did
    assert winner(claim(A, 1), claim(B, 2), claim(C, 3), holder=A) == C.did
    assert winner(claim(HOME, 1), claim(B, 2), holder=HOME) == B.did
    assert winner(claim(HOME, 3), claim(B, 2), holder=B) == HOME.did
    assert winner(claim(A, 1), claim(B, 2), claim(C), holder=A, how=ADMIN) == B.did


@pytest.mark.parametrize("other", [claim(B), claim(B, 2, SQUATTER), claim(B, 1), claim(B, 2, until=NOW)])
def test_and_nothing_else_is_a_move(other: Service) -> None:
    """No proof, another key, no higher number, an expired one."""
    assert winner(claim(A, 1), other, holder=A) == A.did
    assert winner(claim(HOME, 1), other, holder=HOME) == HOME.did


def test_a_proof_that_was_carried_elsewhere_is_none() -> None:
    stolen = claim(B)
    stolen.head = claim(A, 2).head
    assert winner(claim(A, 1), stolen, holder=A) == A.did


def test_what_a_node_says_of_itself_goes_before_all() -> None:
    assert winner(claim(A, uid=A.did), claim(HOME, uid=A.did), claim(B, uid=A.did), holder=B) == A.did


def catalog_of(*claims: Service) -> Catalog:
    catalog = Catalog()
    for number, service in enumerate(claims, 1):
        service.seq = number
        catalog.put(service, NOW)
    return catalog


def shown(catalog: Catalog) -> str | None:
    service = catalog.get("t")
    return None if service is None else service.origin


def test_who_moved_holds_the_name_from_then_on() -> None:
    catalog = catalog_of(claim(A, 1), claim(C, 5, SQUATTER), claim(B, 2))
    assert catalog.contested["t"].holder == B.did
    catalog.remove("t", A.did, 4, NOW)
    assert shown(catalog) == B.did
    catalog.remove("t", B.did, 5, NOW)
    assert shown(catalog) is None  # nor does the squatter get it now


def test_where_the_holder_ends_its_agents_other_place_is_shown() -> None:
    catalog = catalog_of(claim(A, 1), claim(B, 2), claim(C, 3))
    catalog.remove("t", C.did, 4, NOW)
    assert shown(catalog) == B.did


@pytest.mark.parametrize("order", list(permutations([(A, 1), (B, 2), (C, 3)])))
def test_the_order_in_which_moves_are_heard_of_does_not_matter(order: tuple[tuple[NodeKey, int], ...]) -> None:
    catalog = catalog_of(*(claim(node, move) for node, move in order))
    assert shown(catalog) == C.did
    assert next(change.event for change in catalog.journal.recent()) == "registered"
    assert {c.event for c in list(catalog.journal.recent())[1:]} <= {"updated"}


def test_one_claimant_costs_nothing() -> None:
    catalog = catalog_of(claim(A), claim(A, 1), claim(A, 2))
    assert not catalog.contested
    catalog.remove("t", B.did, 9, NOW)
    assert shown(catalog) == A.did


def test_both_of_our_copies_are_known() -> None:
    catalog = catalog_of(claim(HOME, 1), claim(A, 2))
    own = catalog.own("t")
    assert own is not None
    assert own.origin == HOME.did
    assert shown(catalog) == A.did
    assert list(catalog.all_own()) == [own]
    assert [c.origin for c in catalog.claims("t")] == [HOME.did, A.did]
    assert catalog.claim("t", did_of(A.public)) is catalog.get("t")


def test_a_proof_for_the_key_that_its_node_had_before_holds() -> None:
    moved = claim(B, 2)
    moved.origin = C.did  # the node has changed its key from B to C
    assert winner(claim(A, 1), moved, holder=A) == A.did
    moved.former = (B.public,)
    assert winner(claim(A, 1), moved, holder=A) == C.did


@pytest.mark.parametrize("rival", [False, True])
def test_a_key_that_succeeds_another_has_its_claims_and_its_place_at_once(rival: bool) -> None:
    catalog = Catalog()
    old, other, new = claim(A), claim(C), claim(B)
    old.seq, other.seq, new.seq = 1, 2, 3
    catalog.put(old, NOW)
    if rival:
        catalog.put(other, NOW)
    told = catalog.put(new, NOW, [A.did])
    assert told is not None
    assert (told.event, told.before, told.after) == ("updated", old, new)
    assert catalog.get("t") is new
    assert catalog.claim("t", A.did) is None
    if rival:
        assert catalog.contested["t"].holder == B.did
