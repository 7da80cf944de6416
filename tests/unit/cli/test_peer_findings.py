"""What `kosreg doctor` says of peers, by what the API tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kosreg.cli.peer_findings import findings_of

OFF: dict[str, Any] = {"mdns": "off", "nearby": [], "error": ""}
WELL: dict[str, Any] = {"yielded": False, "isolated": False}


def peer(name: str, **more: Any) -> dict[str, Any]:
    return {"did": f"did:key:{name}", "name": name, "role": "peer", "link": {"state": "up", "offset_ms": 3}} | more


def told(node: dict[str, Any], *peers: dict[str, Any], until: datetime | None = None) -> list[tuple[str, str]]:
    federations = [{"did": "did:key:f", "name": "acme"} | ({} if until is None else {"until": until.isoformat()})]
    return [(one.state, one.detail) for one in findings_of(node, peers, federations, OFF) if one.check == "peers"]


def test_all_is_well() -> None:
    roots = peer("acme", role="root", link=None)
    assert told(WELL, peer("a"), peer("b", link=None), roots, until=datetime.now(UTC) + timedelta(days=100)) == [
        ("good", "1 of 2 have a link")
    ]
    assert told(WELL) == []


def test_each_fault_is_told_with_what_to_do() -> None:
    dead = peer("dead", link={"state": "backoff"}, node={"state": "unreachable", "reason": "it refuses"})
    strange = peer("strange", link={"state": "refused", "error": "untrusted: no"})
    late = peer("late", link={"state": "up", "offset_ms": -90_000})
    gone = peer("gone", revoked="2026-01-01T00:00:00Z", link={"state": "refused", "error": "revoked"})
    soon = datetime.now(UTC) + timedelta(days=3, hours=1)
    found = findings_of(
        {"yielded": True, "isolated": True}, [dead, strange, late, gone],
        [{"did": "did:key:f", "name": "acme", "until": soon.isoformat()}], OFF,
    )  # fmt: skip
    said = [(one.state, one.detail) for one in found if one.check == "peers"]
    assert said == [
        ("bad", "another node runs with this node's key, so this one says nothing more"),
        ("bad", "this node hears less than half of the nodes that it heard: it is cut off"),
        ("good", "1 of 3 have a link"),
        ("note", "dead is unreachable: it refuses"),
        ("bad", "strange: untrusted: no"),
        ("bad", "the clock of late and this one differ by -90 s"),
        ("bad", "the membership in acme ends in 3 days"),
    ]


def test_neighbours_are_told_too() -> None:
    assert [one.state for one in findings_of(WELL, [], [], OFF)] == ["note"]
    failed = {"mdns": "failed", "nearby": [], "error": "no socket"}
    assert [(one.check, one.state) for one in findings_of(WELL, [], [], failed)] == [("mDNS", "bad")]
