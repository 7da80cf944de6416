"""The use cases: register, update, heartbeat, discover, watch, deregister. All the front ends call this.

**Who may see what** is decided here and nowhere else (DESIGN §4), by `Viewer`: get, list, search, totals, ETags, long
polls, WebSocket, explain and signed all ask it. Not readable is 404, as if it did not exist; readable but not yours
is 403. A refused call changes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
import uuid_utils

from crdt.entry import Class, Entry, EntryError
from federation import jws
from federation.cose import fact_of
from federation.identity import DidError, parse_did
from federation.replica import Statement
from kosreg.auth import Caller, covers
from kosreg.catalog import Catalog
from kosreg.explain import claims_on, held_back, hidden_from, named_by, replaced, shown_because, told
from kosreg.foreign import did
from kosreg.journal import Change
from kosreg.klp_registry_sync import RegistrySync
from kosreg.listing import Listing, Listings, plain_key
from kosreg.liveness import Liveness, status_body
from kosreg.owner_proof import ProofError, check_proof
from kosreg.problems import Problem
from kosreg.query import Filter, Query, make_cursor
from kosreg.record import CLASS_OF, Body, body_of, dated, merge_patch, proof_text, shown
from kosreg.refusals import ambiguous, elsewhere, gone, may_write, not_found, not_yours, refused_entry, store_problem
from kosreg.schemas.service_schema import READ_ONLY, ServiceIn, check_record, parse_record
from kosreg.service import Service
from kosreg.store import StoreError
from kosreg.times import rfc3339
from kosreg.verification import Admits, nobody
from kosreg.versions import Versions

ADMIN = "admin"  # the subject of admin.token, and the owner of what the node registers itself
DIGESTS = 65_536  # request bodies remembered, to know an unchanged registration without parsing it

Visible = Callable[[Service], bool]


class Viewer:
    """What one kind of caller may see and change: the one place where ACLs hold."""

    __slots__ = ("admin", "foreign_terms", "key", "names", "sub", "terms")

    def __init__(self, caller: Caller, origins: Iterable[str]) -> None:
        self.sub = caller.sub
        self.admin = caller.admin
        self.names = caller.names("read", "service")  # None: all
        # in another node's record, a subject without a node is that node's own, never our namesake
        self.foreign_terms = frozenset(("*", *(f"sub:{caller.sub}@{origin}" for origin in origins)))
        self.terms = self.foreign_terms | {f"sub:{caller.sub}"}
        self.key: Hashable = (caller.sub, caller.admin, self.names)

    def sees(self, service: Service) -> bool:
        """Whether `service` may be shown: private to its owner and admins, others as `acl.read` says."""
        if not covers(self.names, service.uid):
            return False
        if self.admin or (service.owner == self.sub and not service.foreign):
            return True
        if service.cls == Class.PRIVATE:
            return False
        readers = service.readers
        return readers is None or not (self.foreign_terms if service.foreign else self.terms).isdisjoint(readers)

    def owns(self, service: Service) -> bool:
        """Whether the caller may change it, its scope allowing. Of another node's record nobody here may, and its owner
        is a subject of that node."""
        return not service.foreign and (self.admin or service.owner == self.sub)


@dataclass(slots=True)
class Registered:
    """What became of a registration: `created` (201) or not (200); `changed` is False where nothing was written."""

    service: Service
    created: bool
    changed: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a query."""

    services: Sequence[Service]
    next_cursor: str | None
    total: int
    version: str
    etag: str


class Registry:
    """The services of this node, for whoever may use them."""

    def __init__(
        self,
        sync: RegistrySync,
        liveness: Liveness,
        versions: Versions,
        *,
        seal: Callable[[bytes], bytes],
        unseal: Callable[[bytes], bytes],
        secrets: dict[str, bytes],
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self.sync = sync
        self.catalog: Catalog = sync.catalog
        self.liveness = liveness
        self.versions = versions
        self.listings = Listings(self.catalog)
        self.origin = sync.origin
        self._seal = seal
        self._unseal = unseal
        self._secrets = secrets  # id → sealed auth.token
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._viewers: dict[bytes, Viewer] = {}  # by the caller's digest
        self._digests: dict[bytes, str] = {}  # of a body → the id that it registered; the record knows if it still fits
        self._digest_key = os.urandom(32)
        sync.on_adopted = self._adopted
        self.admits: Admits = nobody  # whom this node believes in what, but for itself
        self.peer_name: Callable[[bytes], str] = _unnamed  # what the admin calls a peer, "" where it is not known
        self.frozen: Callable[[bytes], str] = _unnamed  # why no facts of a node are taken, "" where they are
        self.beats = 0
        self.unchanged = 0

    # -- who -----------------------------------------------------------------------------------------------------

    def viewer(self, caller: Caller) -> Viewer:
        """The `Viewer` of `caller`, kept."""
        viewer = self._viewers.get(caller.digest)
        if viewer is None:
            if len(self._viewers) >= 10_000:
                self._viewers.clear()
            viewer = self._viewers[caller.digest] = Viewer(caller, self._own_dids())
        return viewer

    def get(self, caller: Caller, uid: str) -> Service:
        """The service `uid` as `caller` may see it; raises Problem (403 out of scope, 404, 409). `ID@DID` is what the
        node DID says under ID, whoever else claims it."""
        if not caller.may("read", "service", uid.partition("@")[0]):
            raise Problem.out_of_scope(f"read:service:{uid}")
        service = self.catalog.services.get(uid)
        if service is not None and self.viewer(caller).sees(service):
            return service
        return self._one_claim(caller, uid)

    def _one_claim(self, caller: Caller, uid: str) -> Service:
        """What `uid` names where that is not simply a service: `ID@DID` is the claim of one origin. Raises Problem
        (404; 409 where several origins claim it and this node resolves it to none)."""
        bare, at, origin = uid.partition("@")
        claim = self._claim(bare, origin) if at else None
        viewer = self.viewer(caller)
        if claim is not None and viewer.sees(claim):
            return claim
        if not at and uid not in self.catalog.services:
            claims = [claim for claim in self.catalog.claims(uid) if viewer.sees(claim)]
            if claims:
                raise ambiguous(uid, claims)
        raise not_found(uid)

    def _own_dids(self) -> list[str]:
        return [self.origin, *self.sync.former(self.sync.replica.origin)]

    def _claim(self, uid: str, origin: str) -> Service | None:
        """What `origin` (a DID) says under `uid`, or the key that stands in its place now."""
        claim = self.catalog.claim(uid, origin)
        if claim is None:
            try:
                claim = self.catalog.claim(uid, did(self.sync.successions.latest(parse_did(origin))))
            except DidError:
                pass
        return claim

    def shows(self, caller: Caller, uid: str, origin: str) -> bool:
        """Whether `caller` may see what the node `origin` (its DID) says under `uid`."""
        service = self.catalog.claim(uid, origin)
        return service is not None and self.viewer(caller).sees(service)

    def _writable(self, caller: Caller, uid: str) -> Service:
        """This node's own service `uid` where `caller` may change it; raises Problem (403, 404, 409 where it is another
        node's: only that one changes it)."""
        may_write(caller, uid)
        service = self.catalog.own(uid)
        viewer = self.viewer(caller)
        if service is None:
            shown = self.catalog.services.get(uid)
            raise elsewhere(shown if shown is not None and viewer.sees(shown) else self._one_claim(caller, uid))
        if not (viewer.owns(service) or viewer.sees(service)):
            raise not_found(uid)
        if not viewer.owns(service):
            raise not_yours(uid)
        return service

    # -- register, update, deregister ----------------------------------------------------------------------------

    async def register(self, caller: Caller, raw: bytes) -> Registered:
        """Register the record in `raw` (JSON), or replace what `caller` owns under its id. Counts as a heartbeat."""
        digest = hashlib.blake2b(raw, digest_size=16, key=self._digest_key).digest()
        held = self.catalog.services.get(self._digests.get(digest, ""))
        if held is not None and held.digest == digest and held.owner == caller.sub and not self.sync.busy(held.uid):
            may_write(caller, held.uid)
            self.unchanged += 1
            self.liveness.beat(held, self._monotonic(), self._wall_ms())
            return Registered(held, created=False, changed=False)
        return await self._register(caller, parse_record(raw), digest)

    async def _register(self, caller: Caller, record: ServiceIn, digest: bytes | None = None) -> Registered:
        uid = record.get("id") or str(uuid_utils.uuid7())
        may_write(caller, uid)
        while self.sync.busy(uid):
            await self.sync.turn(uid)
        held = self.catalog.own(uid)
        if held is not None and not self.viewer(caller).owns(held):
            raise Problem.of("forbidden", detail=f"the id {uid} is taken at this node: choose another, or none")
        owner = self._owner(caller, record, held)
        cls = CLASS_OF[record.get("visibility")]
        body = body_of(record, owner)
        status = record.get("status")
        secret = self._secret(record, held, uid)
        if held is not None and secret is None and held.cls == cls and self._same(held, body):
            self.unchanged += 1
            self.liveness.beat(held, self._monotonic(), self._wall_ms(), status)
            self._remember(held, digest if "id" in record else None, caller)
            return Registered(held, created=False, changed=False)
        self._check_proof(uid, body, held)
        service = await self._write(uid, cls, body, held, secret, beat=True, status=status)
        # the same text without an id is another service each time: two of a kind may run
        self._remember(service, digest if "id" in record else None, caller)
        return Registered(service, created=held is None, changed=True)

    async def update(self, caller: Caller, uid: str, patch: Any) -> Service:
        """Apply a JSON merge patch (RFC 7396) to the record `uid`. It is no heartbeat."""
        if not isinstance(patch, dict):
            raise Problem.of("invalid", detail="a merge patch of a record is an object",
                             errors=[{"pointer": "", "detail": "must be an object"}])  # fmt: skip
        self._writable(caller, uid)
        while self.sync.busy(uid):
            await self.sync.turn(uid)
        held = self._writable(caller, uid)
        document = {k: v for k, v in orjson.loads(held.head + b"}").items() if k not in READ_ONLY}
        patch = {k: v for k, v in patch.items() if k not in READ_ONLY}
        merged = merge_patch(document, patch)
        if isinstance(patch.get("auth"), dict) and "token" in patch["auth"] and isinstance(merged.get("auth"), dict):
            merged["auth"]["token"] = patch["auth"]["token"]  # null removes it, as a registration says it
        record = check_record(merged)
        if record.get("id") != uid:
            raise Problem.of("invalid", detail="the id of a service cannot change: register the new one",
                             errors=[{"pointer": "/id", "detail": "cannot change"}])  # fmt: skip
        owner = self._owner(caller, record, held)
        cls = CLASS_OF[record.get("visibility")]
        body = body_of(record, owner)
        secret = self._secret(record, held, uid)
        status = record.get("status")
        if secret is None and held.cls == cls and self._same(held, body):
            if status is not None:
                self.liveness.declare(held, status)
            return held
        self._check_proof(uid, body, held)
        return await self._write(uid, cls, body, held, secret, beat=False, status=status)

    async def deregister(self, caller: Caller, uid: str) -> None:
        """Remove the service `uid`: its entries become tombstones, its secret is deleted."""
        self._writable(caller, uid)
        while self.sync.busy(uid):
            await self.sync.turn(uid)
        await self.remove(self._writable(caller, uid))

    async def remove(self, service: Service) -> None:
        """Remove `service`, which is shown; the caller had its turn."""
        uid = service.uid
        statements = [Statement("service", uid, service.cls, None)]
        if self.sync.replica.view("status", uid, self._wall_ms()) is not None:
            statements.append(Statement("status", uid, service.cls, None))
        secret = (None,) if uid in self._secrets else None

        def shown_no_more() -> None:
            self._secrets.pop(uid, None)

        try:
            await self.sync.commit(uid, self.sync.sign(statements), removes=True, secret=secret, shown=shown_no_more)
        except StoreError as error:
            raise store_problem(error) from None

    def _adopted(self, service: Service) -> None:
        """`service` came back from other nodes: it is this node's own, said before its disk was lost."""
        self.liveness.installed(service, beat=False, status=None)

    async def reap(self, service: Service) -> None:
        """Deregister a service that was offline for too long."""
        uid = service.uid
        while self.sync.busy(uid):
            await self.sync.turn(uid)
        if self.catalog.own(uid) is service and service.expired:
            await self.remove(service)

    def _owner(self, caller: Caller, record: ServiceIn, held: Service | None) -> str:
        owner = record.get("owner")
        if owner is None:
            return caller.sub if held is None else held.owner
        if owner != caller.sub and not caller.admin:
            raise Problem.of(
                "forbidden", detail=f"only an admin may name another owner: leave owner out, or say {caller.sub}"
            )
        return owner

    def _check_proof(self, uid: str, body: Body, held: Service | None) -> None:
        """Refuse (422) a new `owner_proof` that is not one for this id at this node, now."""
        raw = body.get("owner_proof")
        if raw is None or (held is not None and b'"owner_proof":"' + proof_text(raw).encode() + b'"' in held.head):
            return
        origin = self.sync.replica.origin
        try:
            check_proof(raw, uid, origin, self._wall_ms(), self.sync.successions.former(origin))
        except ProofError as error:
            raise Problem.invalid([{"pointer": "/owner_proof", "detail": str(error)}]) from None

    def _same(self, held: Service, body: Body) -> bool:
        entry = self.sync.replica.view("service", held.uid, self._wall_ms())
        if entry is None or not self.sync.in_place(entry):
            return False
        stored = dict(fact_of(entry).body or {})
        stored.pop("created", None)
        stored.pop("updated", None)
        return stored == body

    async def _write(
        self,
        uid: str,
        cls: Class,
        body: Body,
        held: Service | None,
        secret: tuple[bytes | None] | None,
        *,
        beat: bool,
        status: str | None,
    ) -> Service:
        now = self._wall_ms()
        # always later than before, whatever the clock does: what was registered and changed within one ms is not new
        body = dated(body, now, now) if held is None else dated(body, held.created, max(now, held.updated + 1))
        try:
            service = Service(uid, self.origin, cls, body)
            service.former = self.sync.successions.former(self.sync.replica.origin)
        except TypeError:  # no JSON has it, an integer beyond 64 bits say: signing tells which
            raise refused_entry(self.sync.refusal(Statement("service", uid, cls, body))) from None
        if held is None:
            self.liveness.begin(service, status)
        statements = [Statement("service", uid, cls, body)]
        if held is None or held.cls != cls:  # a status has the class of its service
            status_now = status_body(service if held is None else held)
            if status_now is not None:
                statements.append(Statement("status", uid, cls, status_now))
        try:
            persist = self.sync.sign(statements)
        except EntryError as error:
            raise refused_entry(error) from None

        def now_shown() -> None:
            if secret is not None:
                self._keep_secret(uid, secret[0])
            if len(statements) > 1:
                self.liveness.wrote(uid)
            self.liveness.installed(service, beat=beat, status=status)

        try:
            await self.sync.commit(uid, persist, service=service, secret=secret, shown=now_shown)
        except StoreError as error:
            raise store_problem(error) from None
        return service

    def _keep_secret(self, uid: str, sealed: bytes | None) -> None:
        if sealed is None:
            self._secrets.pop(uid, None)
        else:
            self._secrets[uid] = sealed

    async def ensure(self, uid: str, record: ServiceIn, owner: str) -> Service:
        """See that the node's own `record` is shown under `uid`; writes nothing where it is."""
        held = self.catalog.own(uid)
        cls = CLASS_OF[record.get("visibility")]
        body = body_of(record, owner)
        if held is not None and held.cls == cls and self._same(held, body):
            return held
        return await self._write(uid, cls, body, held, None, beat=False, status=None)

    def _secret(self, record: ServiceIn, held: Service | None, uid: str) -> tuple[bytes | None] | None:
        """What to do with the stored `auth.token`: (sealed,) keeps a new one, (None,) removes it, None leaves it."""
        auth = record.get("auth") or {}
        sealed = self._secrets.get(uid)
        if "token" in auth:
            token = auth["token"]
            if token is None:
                return None if sealed is None else (None,)
            data = token.encode()
            return None if sealed is not None and self._unseal(sealed) == data else (self._seal(data),)
        if sealed is None or held is None:
            return None
        kind = orjson.loads(held.head + b"}")["auth"]["type"]
        return (None,) if auth.get("type", "none") != kind else None

    def _remember(self, service: Service, digest: bytes | None, caller: Caller) -> None:
        if digest is None or service.owner != caller.sub:
            return
        if len(self._digests) >= DIGESTS:
            self._digests.clear()
        service.digest = digest
        self._digests[digest] = service.uid

    # -- heartbeats ----------------------------------------------------------------------------------------------

    def heartbeat(self, caller: Caller, uid: str, status: str | None = None, load: float | None = None) -> Service:
        """A heartbeat of `uid`; raises Problem (403, 404: register again)."""
        service = self.catalog.services.get(uid)
        if service is None or service.foreign or service.owner != caller.sub or not caller.may("write", "service", uid):
            try:
                service = self._writable(caller, uid)
            except Problem as problem:
                if problem.status == 404:
                    raise Problem.of(
                        "not-found", detail=f"no service {uid} here: it was removed or never was; register again"
                    ) from None
                raise
        self.beats += 1
        if load is not None:
            service.load = load
        self.liveness.beat(service, self._monotonic(), self._wall_ms(), status)
        return service

    def heartbeats(self, caller: Caller, beats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Many heartbeats, already validated: `{"ok": n, "unknown": [ids], "forbidden": [ids]}`."""
        now, now_ms = self._monotonic(), self._wall_ms()
        ok = 0
        unknown: list[str] = []
        forbidden: list[str] = []
        for item in beats:
            uid = item["id"]
            try:
                service = self._writable(caller, uid)
            except Problem as problem:
                (unknown if problem.status == 404 else forbidden).append(uid)
                continue
            ok += 1
            load = item.get("load")
            if load is not None:
                service.load = load
            self.liveness.beat(service, now, now_ms, item.get("status"))
        self.beats += ok
        return {"ok": ok, "unknown": unknown, "forbidden": forbidden}

    def plain_heartbeats(self, caller: Caller, ids: Sequence[str]) -> dict[str, Any]:
        """Hot. `heartbeats` that say no more than an id, nearly all of which are living services of the caller."""
        if caller.names("write", "service") is not None:
            return self.heartbeats(caller, [{"id": uid} for uid in ids])
        service_of = self.catalog.services.get
        now, now_ms = self._monotonic(), self._wall_ms()
        sub = caller.sub
        others = []
        for uid in ids:
            service = service_of(uid)
            if service is None or service.owner != sub or service.expired:
                others.append({"id": uid})
            else:
                service.beat_s = now
                service.beat_ms = now_ms
                service.tail = None
        self.beats += len(ids) - len(others)
        result = self.heartbeats(caller, others)
        result["ok"] += len(ids) - len(others)
        return result

    # -- discovery -----------------------------------------------------------------------------------------------

    def find(self, caller: Caller, query: Query) -> tuple[Page, Listing, int]:
        """The page that `query` asks for, the list behind it, and how many services were looked at to make it."""
        viewer = self.viewer(caller)
        listing, looked_at = self.listings.get(viewer.key, viewer.sees, query)
        rows = listing.page(query)
        more = len(rows) > query.limit
        if more:
            rows = rows[: query.limit]
        cursor = make_cursor(plain_key(rows[-1], query.sort), query.sort) if more else None
        version = self.versions.text(listing.version, len(listing))
        etag = f'W/"{version}.{len(listing)}.{query.mark:x}"'
        return Page(rows, cursor, len(listing), version, etag), listing, looked_at

    async def wait(self, caller: Caller, query: Query) -> bool:
        """Hold until something that `query` covers has changed since `query.since`; False when the time is up.

        Raises Problem (410) where `since` is foreign or too old to tell.
        """
        assert query.since is not None
        opened = self.versions.opened(query.since)
        if opened is None or opened[0] > self.catalog.journal.head:
            raise gone()
        seq, count = opened
        viewer = self.viewer(caller)
        deadline = self._monotonic() + query.wait
        while True:
            listing, _ = self.listings.get(viewer.key, viewer.sees, query)
            if listing.version > seq:
                return True
            left = self.listings.departed(listing, seq)
            if left is None:
                # The journal no longer tells who left. What came or changed would have moved the version, so if it
                # stands and nobody is missing, the list is the same; else whoever polls a quiet list of a busy node
                # would be told to ask again, and again.
                if listing.version != seq or len(listing) != count:
                    raise gone()
                left = 0
            if left:
                listing.version = max(listing.version, left)
                return True
            remaining = deadline - self._monotonic()
            if remaining <= 0 or self.catalog.journal.closed:
                return False
            await self.catalog.journal.wait(listing.built, remaining)

    # -- what is known of one service ----------------------------------------------------------------------------

    def explain(self, caller: Caller, uid: str) -> dict[str, Any]:
        """Why `uid` is shown as it is: who signed it, when it came, what it replaced, from whom it is hidden. Raises
        Problem as `get` does; an admin is told of what is held and not shown."""
        try:
            service = self.get(caller, uid)
        except Problem as problem:
            if problem.slug == "not-found" and caller.admin and (origins := self._held_back(uid)):
                raise Problem.of("not-found", held_back(uid, origins)) from None
            raise
        uid = service.uid
        viewer = self.viewer(caller)
        story = told(service, self._entry(service), self.peer_name)
        if (alive := self.sync.homes.told(service.origin)) is not None:
            story["node"] = {"did": service.origin, **alive}
        if reason := self.frozen(self._entry(service).origin):
            story["frozen"] = f"nothing newer is taken from its node at the moment: {reason}"
        before = self._replaced_by(service)
        if before is not None and viewer.sees(before):
            story["replaced"] = replaced(before)
        claims = self.catalog.contested.get(uid)
        if claims is not None:
            seen = [claim for claim in claims.by_origin.values() if viewer.sees(claim)]
            story["claims"] = claims_on(seen, self.catalog.get(uid), self._wall_ms())
            story["named_by"] = named_by(claims)
        story["shown_because"] = shown_because(service, caller)
        if viewer.admin or viewer.owns(service):
            story["hidden_from"] = hidden_from(service, self.sync.root)
        return story

    def _held_back(self, uid: str) -> list[str]:
        """The DIDs of other nodes whose record `uid` is believed and, by its type and tags, not shown."""
        bare, _, origin = uid.partition("@")
        entries = [
            entry
            for key in list(self.sync.replica.map.origins)
            if key != self.sync.replica.origin and origin in ("", did(key))
            if (entry := self.sync.replica.map.view(key, "service", bare, self._wall_ms())) is not None
        ]
        return [
            did(entry.origin)
            for entry in entries
            if self.admits(entry.origin, entry.cls, entry.root, entry.kind) and not self.sync.shows(entry)
        ]

    def _replaced_by(self, service: Service) -> Service | None:
        """What was shown before the record of `service`, as far as the journal remembers."""
        for change in reversed(self.catalog.journal.recent()):
            if change.uid == service.uid and change.event in ("registered", "updated"):
                ours = change.after is not None and change.after.origin == service.origin
                return change.before if ours else None
        return None

    async def name(self, caller: Caller, uid: str, origin: str | None) -> dict[str, Any]:
        """An admin says that the bare id `uid` means the node `origin` (a DID), or (None) takes that back. What the id
        names then. Raises Problem (403, 404 where there is no such word, 422)."""
        if not caller.admin:
            raise Problem.of("forbidden", detail="only an admin says what an id means: ask one, or use ID@ORIGIN")
        try:
            if origin is None:
                if not await self.sync.reshowing.unname(uid):
                    raise Problem.of(
                        "not-found", detail=f"no admin has said which node {uid} means: nothing to take back"
                    )
            else:
                await self.sync.reshowing.name(uid, did(parse_did(origin)))
        except DidError as error:
            raise Problem.invalid([{"pointer": "/origin", "detail": str(error)}]) from None
        except StoreError as error:
            raise store_problem(error) from None
        service = self.catalog.get(uid)
        claims = claims_on(self.catalog.claims(uid), service, self._wall_ms())
        return {"id": uid, "origin": None if service is None else service.origin, "claims": claims}

    def _entry(self, service: Service) -> Entry:
        """The entry behind a service."""
        entry = self.sync.replica.map.view(parse_did(service.origin), "service", service.uid, self._wall_ms())
        if entry is None:  # it lapsed a moment ago
            raise not_found(service.uid)
        return entry

    def signed_cose(self, caller: Caller, uid: str) -> bytes:
        """The entry as it was signed: COSE_Sign1."""
        return self._entry(self.get(caller, uid)).raw

    def signed_json(self, caller: Caller, uid: str) -> bytes:
        """The record as flattened JWS by this node's key, made now."""
        service = self.get(caller, uid)
        if service.foreign:
            raise Problem.of(
                "not-acceptable",
                f"Only its own node, {service.origin}, makes this form of {service.uid}. Ask for application/cose.",
            )
        entry = self._entry(service)
        record = shown(service.uid, service.origin, service.cls, fact_of(entry).body or {})
        record["valid_until"] = rfc3339(entry.valid_until)
        try:
            return jws.sign_record(self.sync.replica.key, record)
        except jws.JwsError as error:
            raise Problem.of("not-acceptable", f"{error}. Ask for application/cose.") from None

    def events(self, caller: Caller, asked: Filter, changes: Iterable[Change]) -> list[tuple[Change, str, Service]]:
        """What of `changes` a subscriber is told: (change, event, service as it may be shown)."""
        viewer = self.viewer(caller)
        told: list[tuple[Change, str, Service]] = []
        for change in changes:
            before, after = change.before, change.after
            saw = before is not None and viewer.sees(before)
            sees = after is not None and viewer.sees(after)
            covers = (saw and asked.matches(cast(Service, before), change.told_before)) or (
                sees and asked.matches(cast(Service, after), change.told_after)
            )
            if not covers:
                continue
            if sees:
                event = change.event if saw or not change.before_known or before is None else "registered"
                told.append((change, event, cast(Service, after)))
            else:
                told.append((change, "deregistered", cast(Service, before)))
        return told


def _unnamed(_peer: bytes) -> str:
    return ""
