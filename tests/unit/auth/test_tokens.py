"""Issuing, listing, revoking, purging, and the file admin.token."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from federation.identity import NodeKey
from kosreg.auth import ADMIN, DEFAULT_SCOPES, Auth
from kosreg.auth.tokens import ADMIN_LABEL, ADMIN_TTL, KEEP_EXPIRED
from kosreg.problems import Problem
from kosreg.store import Store, StoreError
from tests.unit.auth.conftest import NOW, Setup, read, refused


async def test_the_default_is_to_read_write_and_execute_services(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", now=NOW)

    assert issued.row.scopes == DEFAULT_SCOPES == ("read:service:*", "write:service:*", "execute:service:*")
    assert issued.row.exp - issued.row.iat == 30 * 86_400


async def test_each_token_has_a_uuidv7_of_its_own(setup: Setup) -> None:
    jtis = {(await setup.auth.issue("bob", now=NOW)).row.jti for _ in range(20)}

    assert len(jtis) == 20
    assert all(len(jti) == 36 and jti[14] == "7" for jti in jtis)


async def test_the_claims_are_those_of_rfc_9068(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", ["read:service:*", "read:node:*"], 60, now=NOW + 0.9)

    header, claims = read(issued.token)

    assert header == {"typ": "at+jwt", "alg": "EdDSA", "kid": setup.kid}
    assert claims == {
        "iss": setup.node.did,
        "aud": setup.node.did,
        "sub": "bob",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 60,
        "jti": issued.row.jti,
        "scope": "read:service:* read:node:*",
    }


@pytest.mark.parametrize(
    ("arguments", "pointers"),
    [
        ({"subject": ""}, ["/subject"]),
        ({"subject": "bob@https://id.example"}, ["/subject"]),
        ({"subject": "-bob"}, ["/subject"]),
        ({"subject": "bob\n"}, ["/subject"]),
        ({"subject": "bób"}, ["/subject"]),
        ({"subject": "x" * 129}, ["/subject"]),
        ({"scopes": []}, ["/scopes"]),
        ({"scopes": ["read"]}, ["/scopes"]),
        ({"scopes": ["fly:service:*"]}, ["/scopes"]),
        ({"scopes": [f"read:service:x{n}" for n in range(65)]}, ["/scopes"]),
        ({"ttl": 0}, ["/ttl"]),
        ({"ttl": 10 * 365 * 86_400 + 1}, ["/ttl"]),
        ({"label": "x" * 129}, ["/label"]),
        ({"label": "a\nb"}, ["/label"]),
        ({"subject": "admin"}, ["/subject"]),
        ({"subject": "a b", "scopes": ["x"], "ttl": -1}, ["/subject", "/scopes", "/ttl"]),
    ],
)
async def test_what_cannot_be_issued_is_told_with_every_fault(
    setup: Setup, arguments: dict[str, Any], pointers: list[str]
) -> None:
    with pytest.raises(Problem) as caught:
        await setup.auth.issue(**({"subject": "bob"} | arguments))

    assert caught.value.status == 422
    assert [fault["pointer"] for fault in caught.value.errors] == pointers
    assert setup.auth.list() == ()
    assert await setup.store.tokens() == []


async def test_the_name_admin_belongs_to_admins(setup: Setup) -> None:
    issued = await setup.auth.issue("admin", ["admin:*:*"], now=NOW)

    assert setup.auth.verify(issued.token, NOW).admin


async def test_another_name_can_have_the_power(setup: Setup) -> None:
    issued = await setup.auth.issue("operator", ["admin:*:*"], now=NOW)

    assert setup.auth.verify(issued.token, NOW).admin


async def test_subjects_may_look_like_dids(setup: Setup) -> None:
    issued = await setup.auth.issue("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK", now=NOW)

    assert setup.auth.verify(issued.token, NOW).sub == issued.row.sub


async def test_the_list_is_in_the_order_of_issue_and_never_holds_a_token(setup: Setup) -> None:
    tokens = [await setup.auth.issue(sub, label=f"for {sub}", now=NOW + n) for n, sub in enumerate(("bob", "eve"))]

    rows = setup.auth.list()

    assert [(row.sub, row.label) for row in rows] == [("bob", "for bob"), ("eve", "for eve")]
    for issued in tokens:
        assert issued.token.split(".")[2] not in str(rows)


async def test_a_revoked_token_is_refused_at_once_and_after_a_restart(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", now=NOW)
    other = await setup.auth.issue("bob", now=NOW)
    setup.auth.verify(issued.token, NOW)
    heard: list[str] = []
    setup.auth.on_revoked.append(heard.append)

    row = await setup.auth.revoke(issued.row.jti, now=NOW + 1)

    assert row.revoked_at == (NOW + 1) * 1000
    assert heard == [issued.row.jti]
    assert "was revoked" in refused(setup.auth, issued.token)
    assert setup.auth.verify(other.token, NOW).sub == "bob"
    again = await Auth.open(setup.store, setup.node.did)
    assert "was revoked" in refused(again, issued.token)
    assert again.verify(other.token, NOW).sub == "bob"


async def test_revoking_twice_keeps_the_first_time_and_tells_nobody_again(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", now=NOW)
    first = await setup.auth.revoke(issued.row.jti, now=NOW + 1)
    heard: list[str] = []
    setup.auth.on_revoked.append(heard.append)

    assert await setup.auth.revoke(issued.row.jti, now=NOW + 2) == first
    assert heard == []


async def test_a_listener_that_fails_stops_neither_the_revocation_nor_the_others(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", now=NOW)
    heard: list[str] = []

    def broken(jti: str) -> None:
        raise RuntimeError("no")

    setup.auth.on_revoked += [broken, heard.append]
    await setup.auth.revoke(issued.row.jti, now=NOW)

    assert heard == [issued.row.jti]
    assert "was revoked" in refused(setup.auth, issued.token)


async def test_revocation_counts_even_if_the_store_cannot_write(setup: Setup) -> None:
    issued = await setup.auth.issue("bob", now=NOW)
    await setup.store.close()

    with pytest.raises(StoreError):
        await setup.auth.revoke(issued.row.jti, now=NOW)

    assert "was revoked" in refused(setup.auth, issued.token)


async def test_a_token_that_could_not_be_recorded_is_not_given_out(setup: Setup) -> None:
    await setup.store.close()

    with pytest.raises(StoreError):
        await setup.auth.issue("bob", now=NOW)

    assert setup.auth.list() == ()


async def test_revoking_what_was_never_issued_is_not_found(setup: Setup) -> None:
    with pytest.raises(Problem) as caught:
        await setup.auth.revoke("0199-unknown")

    assert caught.value.status == 404
    assert "kosreg token list" in caught.value.detail


async def test_a_jti_that_cannot_be_is_refused(setup: Setup) -> None:
    for jti in ("", "a b", "\x00", "x" * 257):
        with pytest.raises(Problem) as caught:
            await setup.auth.revoke(jti)
        assert caught.value.status == 422


async def test_expired_rows_stay_a_day_and_then_go(setup: Setup) -> None:
    short = await setup.auth.issue("bob", ttl=60, now=NOW)
    long = await setup.auth.issue("bob", now=NOW)
    await setup.auth.revoke(short.row.jti, now=NOW)

    assert await setup.auth.purge(now=NOW + 60 + KEEP_EXPIRED) == 0
    assert await setup.auth.purge(now=NOW + 61 + KEEP_EXPIRED) == 1

    assert [row.jti for row in setup.auth.list()] == [long.row.jti]
    assert [row.jti for row in await setup.store.tokens()] == [long.row.jti]


async def test_the_number_of_recorded_tokens_is_bounded(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kosreg.auth.tokens.MAX_TOKENS", 2)
    for _ in range(2):
        await setup.auth.issue("bob", now=NOW)

    with pytest.raises(Problem) as caught:
        await setup.auth.issue("bob", now=NOW)

    assert caught.value.slug == "conflict"


async def test_token_keys_are_sealed_in_the_store_and_are_not_the_nodes(setup: Setup) -> None:
    (held,) = await setup.store.token_keys()
    seed = setup.store.unseal(held.sealed)

    assert seed not in held.sealed
    assert seed != b"\x07" * 32
    assert len(seed) == 32


async def test_another_node_does_not_take_it(setup: Setup, tmp_path: Path) -> None:
    key = NodeKey(b"\x08" * 32)
    store = await Store.open(str(tmp_path / "other.db"), key.public, key.derive("store"))
    try:
        other = await Auth.open(store, key.did)
        issued = await setup.auth.issue("bob", now=NOW)

        assert "issuer that this node does not know" in refused(other, issued.token)
    finally:
        await store.close()


# ---- admin.token


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_admin_token_is_an_admins_and_for_its_owner_alone(
    setup: Setup, tmp_path: Path, umask_open: None
) -> None:
    path = tmp_path / "admin.token"

    issued = await setup.auth.write_admin_token(path, now=NOW)

    assert path.read_text() == issued.token + "\n"
    assert mode(path) == 0o600
    assert [name for name in os.listdir(tmp_path) if "admin" in name] == ["admin.token"]
    caller = setup.auth.verify(issued.token, NOW)
    assert (caller.sub, caller.admin, issued.row.label) == (ADMIN, True, ADMIN_LABEL)
    assert issued.row.exp == NOW + ADMIN_TTL


async def test_it_is_closed_from_its_first_byte(
    setup: Setup, tmp_path: Path, umask_open: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask, and whatever stood there before."""
    path = tmp_path / "admin.token"
    path.write_text("old")
    path.chmod(0o666)
    seen: list[int] = []
    really = os.replace

    def watch(source: Any, target: Any) -> None:
        seen.append(mode(Path(source)))
        really(source, target)

    monkeypatch.setattr(os, "replace", watch)
    await setup.auth.write_admin_token(path, now=NOW)

    assert seen == [0o600]
    assert mode(path) == 0o600


async def test_a_link_in_its_place_is_replaced_not_followed(setup: Setup, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("precious")
    (tmp_path / "admin.token").symlink_to(target)

    await setup.auth.write_admin_token(tmp_path / "admin.token", now=NOW)

    assert target.read_text() == "precious"
    assert not (tmp_path / "admin.token").is_symlink()


async def test_a_start_issues_anew_and_revokes_those_of_earlier_starts(setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    first = await setup.auth.write_admin_token(path, now=NOW)
    mine = await setup.auth.issue("admin", ["admin:*:*"], now=NOW)

    restarted = await Auth.open(setup.store, setup.node.did)
    second = await restarted.write_admin_token(path, now=NOW + 1)

    assert "was revoked" in refused(restarted, first.token, NOW + 1)
    assert restarted.verify(second.token, NOW + 1).admin
    assert restarted.verify(mine.token, NOW + 1).admin


async def test_it_is_renewed_at_half_its_life_and_the_one_before_lives_on(setup: Setup, tmp_path: Path) -> None:
    """A command that has just read the file must not be refused, nor a watching WebSocket be closed."""
    path = tmp_path / "admin.token"
    first = await setup.auth.write_admin_token(path, now=NOW)
    half = NOW + ADMIN_TTL // 2

    assert await setup.auth.renew(path, now=half - 1) is None
    second = await setup.auth.renew(path, now=half)
    assert await setup.auth.renew(path, now=half + 1) is None

    assert second is not None
    assert path.read_text() == second.token + "\n"
    assert setup.auth.verify(first.token, half).admin
    assert setup.auth.verify(second.token, half).admin


async def test_one_of_a_clock_that_was_ahead_is_replaced_when_the_clock_is_right(setup: Setup, tmp_path: Path) -> None:
    """It is refused as not yet valid, and would be so for years."""
    path = tmp_path / "admin.token"
    await setup.auth.write_admin_token(path, now=NOW + 20 * ADMIN_TTL)

    issued = await setup.auth.renew(path, now=NOW)

    assert issued is not None
    assert setup.auth.verify(path.read_text().strip(), NOW).admin
    assert await setup.auth.renew(path, now=NOW + 1) is None


async def test_if_it_cannot_be_written_the_earlier_ones_still_hold(setup: Setup, tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    first = await setup.auth.write_admin_token(path, now=NOW)

    with pytest.raises(OSError):
        await setup.auth.write_admin_token(tmp_path / "absent" / "admin.token", now=NOW)

    assert setup.auth.verify(first.token, NOW).admin
