"""What can be set, with unit, default and trade-off: one frozen typed object, made once by `kosreg.config.load`.

Each table is a class, each setting a field made by `_set`, whose text is what the documentation shows (`describe`). A
setting that is not here does not exist. One that no code uses yet says so (`LATER`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, JsonValue, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from federation.budget import Bounds
from kosreg.durations import MAX_TTL
from kosreg.listen import Listen
from kosreg.paths import DATABASE
from kosreg.setting_types import (
    Addresses,
    AnyFile,
    CacheUrl,
    FromText,
    Hosts,
    Lower,
    ReadableFile,
    ScopeTexts,
    Seconds,
    StoreUrl,
    Where,
    WhereOrOff,
)

DAY: Final = 86_400
LATER: Final = "Not used in this release."
"""Of what is read and checked already, so that a file of settings stays good, and waits for the code that uses it."""


def _set(default: Any, text: str, *, unit: str = "", trade: str = "", shown: str | None = None, **bounds: Any) -> Any:
    """A setting: what it does (`text`), its unit, what turning it costs (`trade`), its default in words (`shown`)."""
    extra: dict[str, JsonValue] = {"unit": unit, "trade": trade, "shown": shown}
    if callable(default):
        return Field(default_factory=default, description=text, json_schema_extra=extra, **bounds)
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class NodeSettings(_Table):
    """Who this node is to people. Who it is to machines is its key."""

    name: str = _set(
        socket.gethostname,
        "The node's display name, shown to people; nothing depends on it.",
        shown="the machine's host name",
        min_length=1,
        max_length=128,
    )


class ApiSettings(_Table):
    """Where agents reach the node."""

    listen: Where = _set(
        Listen("tcp", "127.0.0.1", 7480),
        "Where the API listens: HOST:PORT, [IPV6]:PORT or unix:PATH.",
        trade="Other than loopback or a Unix socket, tokens travel over a network: that takes tls_cert and tls_key, "
        "or insecure = true. A Unix socket is the fastest, but browsers cannot reach it.",
    )
    allowed_hosts: Hosts = _set(
        (),
        "Further Host headers that the API answers to, as NAME or NAME:PORT, beside its own address.",
        trade="Each one lets pages under that name talk to the node (DNS rebinding): list only your own names.",
        max_length=64,
    )
    tls_cert: ReadableFile | None = _set(None, "A PEM file with the API's certificate, then its chain.")
    tls_key: ReadableFile | None = _set(None, "A PEM file with the private key of tls_cert.")
    insecure: bool = _set(
        False,
        "Serve plain HTTP on an address that others can reach.",
        trade="Whoever can read the network can take tokens. For a trusted network, or behind a proxy that does TLS.",
    )

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            there, absent = ("tls_cert", "tls_key") if self.tls_key is None else ("tls_key", "tls_cert")
            raise ValueError(f"api.{there} is set, but api.{absent} is not. Set both, or neither")
        if self.listen.kind == "unix" and self.tls_cert is not None:
            raise ValueError("a Unix socket takes no TLS. Remove api.tls_cert and api.tls_key")
        if not self.listen.is_local and self.tls_cert is None and not self.insecure:
            raise ValueError(
                f"api.listen = {self.listen} can be reached from other machines, and tokens would travel unprotected. "
                "Listen on 127.0.0.1 or unix:PATH, set api.tls_cert and api.tls_key, or api.insecure = true if the "
                "network protects them"
            )
        return self


class FederationSettings(_Table):
    """Where other nodes reach this one."""

    listen: WhereOrOff = _set(
        Listen("tcp", "0.0.0.0", 7481),  # noqa: S104  (peers are authenticated by their keys)
        "Where the node listens for its peers: HOST:PORT, or off.",
        trade="Off: this node can still dial others, but none can dial it.",
    )
    advertise: Addresses = _set(
        (),
        "The addresses, as HOST:PORT, that others are told to dial; empty: those of the machine.",
        trade="Needed behind NAT or a port forwarding.",
        max_length=4,
    )
    mdns: bool = _set(
        True,
        "Find other nodes on the local network by multicast DNS, and be found there, where the node listens on more "
        "than loopback.",
        trade="Shows the node's name and key to everybody on that network. Found is never trusted.",
    )


class QuotaSettings(_Table):
    """What one other node may bring. Over it, what comes of that node is frozen here until it fits, and shown as such;
    nobody else is slowed."""

    records: int = _set(
        200_000,
        "Records of one node that are held here, where its certificate, or the trust in it, says no other number.",
        unit="records",
        trade="Each takes 2 to 4 KB of memory. Fewer than a node has: it is seen in part, and frozen.",
        ge=1,
        le=100_000_000,
    )
    bytes: ByteSize = _set(
        ByteSize(256 * 1024 * 1024),
        "All entries of one node, those about what was deleted too.",
        unit="bytes, or 256MiB, …",
        shown="256MiB",
        ge=1024,
        le=1024**4,
    )
    entries_per_s: int = _set(
        5_000,
        "Entries a second of one node, after a first sync; at once two seconds' worth, and each record once.",
        unit="entries/s",
        trade="Over it the node is frozen for some seconds; then the newest of each record comes.",
        ge=1,
        le=1_000_000,
    )
    keys: int = _set(
        4_096,
        "Certificates, and what else is said about keys, by one node; the root of a federation may say 100,000.",
        unit="entries",
        ge=16,
        le=1_000_000,
    )
    below_records: int = _set(
        1_000_000,
        "Records of all nodes that one node let in, together, where its certificate says no other number.",
        unit="records",
        trade="Bounds what somebody gets who makes keys and certifies them.",
        ge=1,
        le=100_000_000,
    )
    below_bytes: ByteSize = _set(
        ByteSize(1024**3),
        "The same in bytes.",
        unit="bytes, or 1GiB, …",
        shown="1GiB",
        ge=1024,
        le=1024**4,
    )

    @property
    def bounds(self) -> Bounds:
        """As the mesh takes them."""
        return Bounds(**self.model_dump())


class StoreSettings(_Table):
    """Where what was acknowledged is kept."""

    url: StoreUrl = _set(
        "",
        "The database: sqlite:///PATH.",
        shown=f"{DATABASE} in the data directory",
        trade="Put it on a disk whose fsync is honest and fast: every write waits for it.",
        repr=False,
    )


class CacheSettings(_Table):
    """An optional Redis for live status. Read and checked, and not used yet."""

    url: CacheUrl = _set(
        "", f"A Redis that is told the live status: redis://HOST:PORT/0. {LATER}", shown="none", repr=False
    )


class LivenessSettings(_Table):
    """When a silent service is given up."""

    reap_after: Seconds = _set(
        7 * DAY,
        "How long a service may be offline before the node deregisters it; 0: for ever.",
        unit="seconds, or 7d, 12h, …",
        trade="Shorter keeps lists clean; longer spares a machine that is off for a while from registering anew.",
        shown="7d",
        ge=0,
        le=3650 * DAY,
    )


class LimitSettings(_Table):
    """What one caller may ask for. Admins have no rate limits; sizes hold for all."""

    calls_per_s: int = _set(2_000, "Calls a second and subject.", unit="calls/s", ge=1, le=1_000_000)
    calls_burst: int = _set(
        4_000,
        "Calls that a subject may make at once after silence.",
        unit="calls",
        trade="Must hold what an agent does when it starts.",
        ge=1,
        le=10_000_000,
    )
    beats_per_s: int = _set(
        20_000,
        "Heartbeats a second and subject, however they are batched; they do not count as calls.",
        unit="beats/s",
        ge=1,
        le=10_000_000,
    )
    beats_burst: int = _set(
        40_000,
        "Heartbeats at once after silence; also the largest batch.",
        unit="beats",
        ge=1,
        le=100_000_000,
    )
    failures_per_s: int = _set(
        20,
        "Calls without a valid token, a second and address, that are answered 401; the rest is answered 429.",
        unit="calls/s",
        trade="Good tokens from the same address are never held back by this.",
        ge=1,
        le=1_000_000,
    )
    failures_burst: int = _set(200, "Such calls at once after silence.", unit="calls", ge=1, le=10_000_000)
    max_body: ByteSize = _set(
        ByteSize(256 * 1024),
        "The largest body of a request, and the largest WebSocket frame.",
        unit="bytes, or 256KiB, …",
        trade="A record itself is at most 64 KiB, so more is of no use to most.",
        shown="256KiB",
        ge=1024,
        le=64 * 1024 * 1024,
    )
    max_batch: ByteSize = _set(
        ByteSize(4 * 1024 * 1024),
        "The largest body of a batch (heartbeats).",
        unit="bytes, or 4MiB, …",
        trade="Each request under way may hold this much memory.",
        shown="4MiB",
        ge=1024,
        le=256 * 1024 * 1024,
    )


class Issuer(_Table):
    """An issuer of tokens other than this node. Its subjects are `SUB@ISS`."""

    iss: str = Field(
        min_length=1,
        max_length=256,
        pattern=r"^[\x21-\x3f\x41-\x7e]+$",  # a@x of b and a of x@b would both be a@x@b
        description="The `iss` of its tokens, without @.",
    )
    jwks: AnyFile = Field(description="A file with its public keys (JWKS). Read again when it changes; never fetched.")
    scopes: ScopeTexts = Field((), description="What its tokens may at most; none of admin unless named here.")


class TokenSettings(_Table):
    """Who may call."""

    ttl: Seconds = _set(
        30 * DAY,
        "How long an issued token lives where nothing else is asked for.",
        unit="seconds, or 30d, 12h, …",
        trade="Shorter limits what a stolen token is worth; longer means fewer renewals.",
        shown="30d",
        ge=1,
        le=MAX_TTL,
    )
    issuers: Annotated[tuple[Issuer, ...], FromText] = _set(
        (),
        "Other issuers whose tokens are taken, each with iss, jwks (a file) and scopes (what they may at most).",
        trade="Whoever holds such a key can be any subject of that issuer here, within these scopes.",
        shown="none",
        max_length=32,
    )


class LogSettings(_Table):
    """What the node writes to stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = _set(
        "info", "The least level that is written: debug, info, warning or error."
    )
    format: Annotated[Literal["auto", "json", "console"], Lower] = _set(
        "auto", "json: one object a line; console: for people; auto: console where stderr is a terminal."
    )


class Settings(BaseSettings):
    """All settings of a node. Use `kosreg.config.load`; made directly, it holds the defaults and what is passed."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="KOSREG_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,  # lists are read by `_list`, which knows the form with commas too
    )

    data_dir: Path
    node: NodeSettings = Field(default_factory=NodeSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)
    federation: FederationSettings = Field(default_factory=FederationSettings)
    quota: QuotaSettings = Field(default_factory=QuotaSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    liveness: LivenessSettings = Field(default_factory=LivenessSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    tokens: TokenSettings = Field(default_factory=TokenSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @property
    def store_url(self) -> str:
        """What `Store.open` takes: a URL, or the path in the data directory, which may hold what a URL may not."""
        return self.store.url or str(self.data_dir / DATABASE)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: `kosreg.config` orders the sources, since it must know which was wrong."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One setting, for the documentation and its tests. `name`: `table.key`; `default`: as one would write it."""

    name: str
    variable: str
    default: str
    unit: str
    text: str
    trade: str


def tables() -> dict[str, type[BaseModel]]:
    """The tables of the file, by name, in the order of the documentation."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = field.annotation
    return found


def describe() -> Iterator[SettingDoc]:
    """Every setting, in the order of the tables."""
    for table, model in tables().items():
        for key, field in model.model_fields.items():
            extra: Any = field.json_schema_extra
            yield SettingDoc(
                name=f"{table}.{key}",
                variable=variable_of(table, key),
                default=extra["shown"] or _shown(field),
                unit=extra["unit"],
                text=field.description or "",
                trade=extra["trade"],
            )


def variable_of(table: str, key: str) -> str:
    """The environment variable of a setting."""
    return f"KOSREG_{table}__{key}".upper()


def _shown(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
