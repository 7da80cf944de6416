"""What the registry says when it refuses: one text for each case, whichever front end asked."""

from __future__ import annotations

from collections.abc import Sequence

from crdt.entry import EntryError
from kosreg.auth import Caller
from kosreg.explain import candidate
from kosreg.problems import Problem
from kosreg.service import Service
from kosreg.store import StoreBusy, StoreError, StoreFull


def not_found(uid: str) -> Problem:
    """The one answer for what does not exist and for what this caller may not see."""
    return Problem.of("not-found", detail=f"no service {uid} here: POST /api/services/register registers one")


def ambiguous(uid: str, claims: Sequence[Service]) -> Problem:
    """409: several origins claim `uid`, and none of them holds it."""
    origins = ", ".join(claim.origin for claim in claims)
    return Problem.of(
        "conflict",
        detail=f"{uid} is claimed by {origins}, and this node resolves it to none: ask for {uid}@ORIGIN, or let an "
        f"admin choose with `kosreg services alias {uid} ORIGIN`",
        extra={"candidates": [candidate(claim) for claim in claims]},
    )


def elsewhere(service: Service) -> Problem:
    """409: only its origin changes a record."""
    return Problem.of(
        "conflict",
        detail=f"{service.uid} is a service of the node {service.origin}: change, remove and beat it there",
        extra={"origin": service.origin},
    )


def gone() -> Problem:
    """410: the version cannot be followed from here."""
    return Problem.of("gone", detail="this version is too old, or another node's: ask again without since")


def may_write(caller: Caller, uid: str) -> None:
    """Raises Problem (403) where the scopes of `caller` do not let it write `uid`."""
    if not caller.may("write", "service", uid):
        raise Problem.out_of_scope(f"write:service:{uid}")


def not_yours(uid: str) -> Problem:
    """403: readable, and not to be changed."""
    return Problem.of("forbidden", detail=f"{uid} is another owner's: only its owner or an admin may change it")


def refused_entry(error: EntryError) -> Problem:
    """413 or 422: what was asked for cannot be an entry."""
    if error.too_large:
        return Problem.of(
            "too-large",
            detail=f"the record is too large: {error}; keep big data elsewhere and put its address in metadata",
        )
    return Problem.of(
        "invalid",
        detail=f"the record cannot be signed: {error}",
        errors=[{"pointer": error.pointer, "detail": error.detail}],
    )


def store_problem(error: StoreError) -> Problem:
    """What a failed write tells a client."""
    slug = "store-full" if isinstance(error, StoreFull) else "unavailable"
    headers = {"Retry-After": "1"} if isinstance(error, StoreBusy) else {}
    return Problem.of(slug, detail=str(error), headers=headers)
