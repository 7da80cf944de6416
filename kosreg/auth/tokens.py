"""Auth: issues, checks, lists and revokes the tokens of a node, and keeps the keys that sign them.

A token is a JWT access token (RFC 9068: `typ: at+jwt`) whose `iss` and `aud` are the node's DID. It is signed by a
*token key*, a random Ed25519 key of its own that lies sealed in the store, never by the node key: so nothing that the
node signs as a peer can pass for a token, and no token for something of a peer. Old token keys stay in the JWKS, so
that their tokens go on being valid; the newest signs.

`verify` is on the way of every call. What it found is kept by the token's text until the token expires or is revoked,
so the second call with a token costs a look-up. The checks of a new token are ordered from cheap to dear; the
signature is last.

What is issued is recorded (never the text). Revocation counts from the moment that it is asked for: in memory first,
then with those who listen (`on_revoked`: open WebSockets), then in the store.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import structlog
import uuid_utils
from joserfc.jwk import OKPKey

from kosreg.auth.caller import ADMIN_SCOPE, DEFAULT_SCOPES, SUBJECT, Caller, Scope, ScopeError, parse_scopes
from kosreg.auth.issuers import IssuerConfig, OutsideIssuer
from kosreg.auth.jose import ed25519_from_seed, public_jwk, sign
from kosreg.auth.verifier import PRINTABLE, TYP, Verifier
from kosreg.durations import MAX_TTL, MIN_TTL
from kosreg.problems import Problem
from kosreg.store.rows import TokenKey, TokenRow

ADMIN: Final = "admin"
ADMIN_LABEL: Final = "admin.token"
ADMIN_TTL: Final = 30 * 86_400
DEFAULT_TTL: Final = 30 * 86_400
KEEP_EXPIRED: Final = 86_400
"""Seconds that the row of an expired token stays, so that `token list` can still tell what became of it."""

MAX_TOKENS: Final = 100_000
MAX_CACHED: Final = 10_000
MAX_PURGED: Final = 1_000


class TokenStore(Protocol):
    """What Auth needs of the store."""

    def seal(self, plain: bytes) -> bytes: ...
    def unseal(self, sealed: bytes) -> bytes: ...
    async def token_keys(self) -> Sequence[TokenKey]: ...
    def add_token_key(self, key: TokenKey) -> Awaitable[None]: ...
    async def tokens(self) -> Sequence[TokenRow]: ...
    def add_token(self, row: TokenRow) -> Awaitable[None]: ...
    def drop_token(self, jti: str) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token. `token` is shown once and kept nowhere."""

    token: str
    row: TokenRow


class Auth:
    """The tokens of one node. Made by `open`."""

    def __init__(
        self, store: TokenStore, did: str, issuers: Iterable[IssuerConfig] = (), former: Iterable[str] = ()
    ) -> None:
        """`did`: the node's `did:key`; `former`: those that it had before, whose tokens are
        good still. Raises ScopeError, or ValueError where an issuer calls itself this node."""
        self.did = did
        self.on_revoked: list[Callable[[str], None]] = []
        """Called with the `jti` of each token that is revoked."""
        self._store = store
        self._keys: dict[str, OKPKey] = {}
        self._signing: OKPKey | None = None
        self._rows: dict[str, TokenRow] = {}
        self._revoked: set[str] = set()
        self._cache: dict[str, Caller] = {}
        self._issuers: dict[str, OutsideIssuer] = {}
        self._admin_exp = 0
        self._verifier = Verifier((did, *former), self._keys, self._issuers, self._revoked)
        self._log = structlog.get_logger("kosreg.auth")
        for one in issuers:
            if one.iss == did:
                raise ValueError(f"tokens.issuers: {did} is this node itself; remove it, its tokens need no issuer")
            self._issuers[one.iss] = OutsideIssuer(one.iss, one.jwks, one.scopes)

    @classmethod
    async def open(
        cls, store: TokenStore, did: str, issuers: Iterable[IssuerConfig] = (), former: Iterable[str] = ()
    ) -> Auth:
        """Reads keys and tokens; makes the first token key. Raises what the store raises."""
        auth = cls(store, did, issuers, former)
        for key in sorted(await store.token_keys(), key=lambda k: k.created):
            auth._take_key(store.unseal(key.sealed))
        for row in await store.tokens():
            auth._rows[row.jti] = row
            if row.revoked_at is not None:
                auth._revoked.add(row.jti)
        if auth._signing is None:
            await auth.add_key()
        for issuer in auth._issuers.values():
            issuer.refresh(time.monotonic())
        return auth

    async def add_key(self) -> str:
        """Makes a new token key, which signs from now on; tokens of the older ones stay valid. Its `kid`."""
        seed = secrets.token_bytes(32)
        kid = ed25519_from_seed(seed).thumbprint()
        await self._store.add_token_key(TokenKey(kid, self._store.seal(seed), time.time_ns() // 1_000_000))
        self._take_key(seed)
        return kid

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public halves of the token keys (RFC 7517)."""
        return {"keys": [public_jwk(key) for key in self._keys.values()]}

    # ---- issue, list, revoke

    async def issue(
        self,
        subject: str,
        scopes: Iterable[str] = DEFAULT_SCOPES,
        ttl: int = DEFAULT_TTL,
        *,
        label: str = "",
        now: float | None = None,
    ) -> Issued:
        """A token for `subject`, valid for `ttl` seconds; it is recorded before it is given out. Raises Problem (422).

        Who may issue is for the caller to have checked.
        """
        faults: list[dict[str, str]] = []
        parsed: tuple[Scope, ...] = ()
        if SUBJECT.fullmatch(subject) is None:
            faults.append(
                {
                    "pointer": "/subject",
                    "detail": "must match [A-Za-z0-9][A-Za-z0-9._:-]{0,127}; an @ is for subjects of outside issuers",
                }
            )
        try:
            parsed = parse_scopes(scopes)
            if not parsed:
                faults.append({"pointer": "/scopes", "detail": "must name at least one scope, such as read:service:*"})
        except ScopeError as error:
            faults.append({"pointer": "/scopes", "detail": str(error)})
        if subject == ADMIN and parsed and ADMIN_SCOPE not in map(str, parsed):
            faults.append(
                {
                    "pointer": "/subject",
                    "detail": f"admin is the node's own name: give it {ADMIN_SCOPE}, or choose another",
                }
            )
        if not MIN_TTL <= ttl <= MAX_TTL:
            faults.append({"pointer": "/ttl", "detail": "must be at least 1s and at most 10y"})
        if len(label) > 128 or not label.isprintable():
            faults.append({"pointer": "/label", "detail": "must be at most 128 printable characters"})
        if faults:
            raise Problem.invalid(faults)
        self._check_room()
        return await self._issue(subject, tuple(map(str, parsed)), ttl, label, now)

    async def _issue(self, sub: str, scopes: tuple[str, ...], ttl: int, label: str, now: float | None) -> Issued:
        assert self._signing is not None, "open() makes the first key"
        iat = int(time.time() if now is None else now)
        row = TokenRow(str(uuid_utils.uuid7()), sub, scopes, iat, iat + ttl, label)
        token = sign(
            {
                "iss": self.did,
                "aud": self.did,
                "sub": sub,
                "iat": iat,
                "nbf": iat,
                "exp": row.exp,
                "jti": row.jti,
                "scope": " ".join(scopes),
            },
            self._signing,
            TYP,
        )
        await self._store.add_token(row)
        self._rows[row.jti] = row
        self._log.info("token issued", jti=row.jti, subject=sub, scopes=list(scopes), exp=row.exp, label=label or None)
        return Issued(token, row)

    def list(self) -> tuple[TokenRow, ...]:
        """What was issued, oldest first, revoked and lately expired ones among it."""
        return tuple(sorted(self._rows.values(), key=lambda row: (row.iat, row.jti)))

    def get(self, jti: str) -> TokenRow | None:
        return self._rows.get(jti)

    async def revoke(self, jti: str, *, now: float | None = None) -> TokenRow:
        """Refuses the token `jti` from this moment on. Raises Problem (404, 422), and what the store raises.

        A `jti` that this node did not issue is recorded too where outside issuers are configured: theirs are not
        listed. If the store cannot write, the token stays refused until the node ends.
        """
        at = time.time() if now is None else now
        row = self._rows.get(jti)
        if row is not None and row.revoked_at is not None:
            return row
        if row is None:
            row = self._outside_row(jti, int(at))
            self._check_room()
        row = replace(row, revoked_at=int(at * 1000))
        self._forget(row)
        await self._store.add_token(row)
        self._log.info("token revoked", jti=jti, subject=row.sub or None)
        return row

    def _check_room(self) -> None:
        if len(self._rows) >= MAX_TOKENS:
            raise Problem.of(
                "conflict",
                f"{MAX_TOKENS} tokens are recorded already. Wait until some expire, or issue fewer, longer ones.",
            )

    def _outside_row(self, jti: str, now: int) -> TokenRow:
        if PRINTABLE.fullmatch(jti) is None:
            raise Problem.invalid([{"pointer": "/jti", "detail": "must be 1 to 256 printable ASCII characters"}])
        cached = next((c for c in self._cache.values() if c.jti == jti), None)
        if cached is None and not self._issuers:
            raise Problem.of(
                "not-found", "No token with this jti was issued here. `kosreg token list` shows those that were."
            )
        if cached is None:
            return TokenRow(jti, "", (), now, now + MAX_TTL, "outside")
        return TokenRow(jti, cached.sub, tuple(map(str, cached.scopes)), now, cached.exp, "outside")

    def _forget(self, row: TokenRow) -> None:
        self._rows[row.jti] = row
        self._revoked.add(row.jti)
        self._drop([text for text, caller in self._cache.items() if caller.jti == row.jti])
        for listener in self.on_revoked:
            try:
                listener(row.jti)
            except Exception:  # the token is refused all the same, and the others must hear of it
                self._log.exception("revocation not heard", jti=row.jti)

    async def purge(self, *, now: float | None = None) -> int:
        """Drops what is known of tokens that expired more than `KEEP_EXPIRED` seconds ago; how many they were."""
        limit = (time.time() if now is None else now) - KEEP_EXPIRED
        gone = [row.jti for row in self._rows.values() if row.exp < limit][:MAX_PURGED]
        await asyncio.gather(*(self._store.drop_token(jti) for jti in gone))
        for jti in gone:
            self._rows.pop(jti, None)
            self._revoked.discard(jti)
        return len(gone)

    # ---- verify

    def verify(self, text: str, now: float | None = None) -> Caller:
        """Who holds this token. Raises Problem (401), whose text says why not and what to do.

        `now`: s since 1970; the wall clock where it is absent.
        """
        if now is None:
            now = time.time()
        caller = self._cache.get(text)
        if caller is not None and now < caller.exp and not caller.outside:
            return caller
        return self._look(text, now)

    def _look(self, text: str, now: float) -> Caller:
        monotonic = time.monotonic()
        for issuer in self._issuers.values():
            if issuer.refresh(monotonic):  # a key may be gone: what it had signed is judged anew
                self._drop({t for t, c in self._cache.items() if c.iss == issuer.iss})
        caller = self._cache.pop(text, None)
        if caller is None or now >= caller.exp:
            caller = self._verifier.check(text, now)
        if len(self._cache) >= MAX_CACHED:
            self._cache.pop(next(iter(self._cache)))  # the one that was put there first
        self._cache[text] = caller
        return caller

    def _drop(self, texts: Iterable[str]) -> None:
        for text in texts:
            del self._cache[text]

    def _take_key(self, seed: bytes) -> None:
        key = ed25519_from_seed(seed)
        self._keys[key.thumbprint()] = key
        self._signing = key

    # ---- the file admin.token

    async def write_admin_token(self, path: Path, *, now: float | None = None) -> Issued:
        """Issues a new admin token into `path` (0600 from its first byte), and revokes those of earlier starts."""
        earlier = [r.jti for r in self._rows.values() if r.label == ADMIN_LABEL and r.revoked_at is None]
        issued = await self._issue(ADMIN, (ADMIN_SCOPE,), ADMIN_TTL, ADMIN_LABEL, now)
        await asyncio.to_thread(_write_private, path, issued.token)
        self._admin_exp = issued.row.exp
        await asyncio.gather(*(self.revoke(jti, now=now) for jti in earlier))
        return issued

    async def renew(self, path: Path, *, now: float | None = None) -> Issued | None:
        """Once half the life of the token in `path` is over, issues another; the one before lives on until it expires.
        So it does where the token is of a clock that was ahead, and holds for longer than one that is issued now.

        To be called now and then (an hour apart is often enough).
        """
        left = self._admin_exp - (time.time() if now is None else now)
        if ADMIN_TTL / 2 < left <= ADMIN_TTL:
            return None
        issued = await self._issue(ADMIN, (ADMIN_SCOPE,), ADMIN_TTL, ADMIN_LABEL, now)
        await asyncio.to_thread(_write_private, path, issued.token)
        self._admin_exp = issued.row.exp
        return issued


def _write_private(path: Path, text: str) -> None:
    """`text` and a newline as the new content of `path`, all or nothing, never readable by others for an instant."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
