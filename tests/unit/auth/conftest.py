"""A real store, a real node key, and tokens that are forged in every way but one."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.identity import NodeKey
from kosreg.auth import Auth
from kosreg.problems import Problem
from kosreg.store import Store

NOW = 1_800_000_000


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(value: Any) -> str:
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, without a look at the signature."""
    header, claims, _ = token.split(".")
    return (
        json.loads(base64.urlsafe_b64decode(header + "==")),
        json.loads(base64.urlsafe_b64decode(claims + "==")),
    )


def jws(header: Any, claims: Any, key: Ed25519PrivateKey) -> str:
    """A compact JWS by an independent hand: cryptography alone."""
    signing_input = f"{part(header)}.{part(claims)}"
    return f"{signing_input}.{b64(key.sign(signing_input.encode()))}"


def refused(auth: Auth, token: str, now: float = NOW) -> str:
    """The text of the 401."""
    with pytest.raises(Problem) as caught:
        auth.verify(token, now)
    problem = caught.value
    assert problem.status == 401
    assert 'error="invalid_token"' in problem.headers["WWW-Authenticate"]
    assert "kosreg token issue" in problem.detail
    return problem.detail


@dataclass(frozen=True, slots=True)
class Setup:
    """One node's auth and what an attacker may have. `key`: the signing token key (which none has)."""

    auth: Auth
    store: Store
    node: NodeKey
    key: Ed25519PrivateKey
    kid: str

    @property
    def header(self) -> dict[str, Any]:
        return {"typ": "at+jwt", "alg": "EdDSA", "kid": self.kid}

    @property
    def claims(self) -> dict[str, Any]:
        did = self.node.did
        return {
            "iss": did,
            "aud": did,
            "sub": "bob",
            "iat": NOW,
            "nbf": NOW,
            "exp": NOW + 3600,
            "jti": "0199-x",
            "scope": "read:service:*",
        }

    def forge(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token that is right but for what is given; None takes a claim away."""
        changed = {name: value for name, value in (self.claims | claims).items() if value is not None}
        return jws(self.header | (header or {}), changed, self.key)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    node = NodeKey(b"\x07" * 32)
    store = await Store.open(str(tmp_path / "registry.db"), node.public, node.derive("store"))
    yield store
    await store.close()


@pytest_asyncio.fixture
async def setup(store: Store) -> Setup:
    node = NodeKey(b"\x07" * 32)
    auth = await Auth.open(store, node.did)
    (held,) = await store.token_keys()
    return Setup(auth, store, node, Ed25519PrivateKey.from_private_bytes(store.unseal(held.sealed)), held.kid)


@pytest.fixture
def umask_open() -> Any:
    """The most careless umask."""
    before = os.umask(0)
    yield
    os.umask(before)
