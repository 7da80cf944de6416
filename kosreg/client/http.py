"""A small HTTP client for one node: one call, one answer or one exception.

It knows addresses (TCP, TLS, Unix socket), the token, and RFC 9457 problems, which become `ApiError`. It does not
know the record's schema: records are plain mappings, as the node is the judge of them. The methods by name are those
an agent needs (register, heartbeat, discover, deregister); everything else goes through `call`.

    async with Client(find_node(data_dir)) as node:
        await node.register({"id": "echo-1", "name": "Echo", "type": "agent", "url": "http://127.0.0.1:9000"})
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
import orjson

from kosreg.client.address import Target, start_command
from kosreg.client.errors import ApiError, CannotRead, ClientError, UnexpectedAnswer, Unreachable

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
LONGEST_ANSWER = 256 * 1024 * 1024
"""Bytes. A page of 1,000 records of 64 KiB fits; a server that never stops sending does not."""

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

Record = Mapping[str, Any]
Query = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the node answered, as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body read as JSON. Raises UnexpectedAnswer where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise UnexpectedAnswer("the answer is not JSON", str(error), "is this a kosreg node?") from None

    def object(self) -> dict[str, Any]:
        """The body read as a JSON object."""
        value = self.json()
        if not isinstance(value, dict):
            raise UnexpectedAnswer("the answer is not a JSON object", "", "is this a kosreg node?")
        return value


class Client:
    """One connection pool to one node. Use as `async with`. Safe for many calls at once."""

    def __init__(self, target: Target, *, connections: int = 32) -> None:
        self.target = target
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        target = self.target
        connector: aiohttp.BaseConnector
        if target.address.socket:
            connector = aiohttp.UnixConnector(target.address.socket, limit=self._connections)
        else:
            connector = aiohttp.TCPConnector(limit=self._connections, ssl=_tls(target))
        headers = {"User-Agent": "kosreg-client"}
        if target.token:
            headers["Authorization"] = f"Bearer {target.token}"
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "use the client inside `async with`"
        return self._session

    def url(self, path: str, query: Query = ()) -> str:
        """The full URL of a path that is already percent-encoded."""
        words = urlencode(list(query))
        return f"{self.target.address.url}{path}{'?' if words else ''}{words}"

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: bytes | object | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Answer:
        """One request. `body`: bytes as they are, anything else as JSON.

        Raises ApiError (the node refused), Unreachable (no answer), UnexpectedAnswer (not from a node).
        """
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        headers = {"Accept": accept}
        if data is not None:
            headers["Content-Type"] = content_type
        try:
            async with self.session.request(
                method, self.url(path, query), data=data, headers=headers, allow_redirects=False
            ) as response:
                answer = Answer(response.status, response.headers, await _read(response))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.unreachable(error) from error
        if answer.status >= 300 and answer.status != 304:
            raise _refusal(answer)
        return answer

    def unreachable(self, error: BaseException) -> ClientError:
        """The exception of ours for a failure of the connection."""
        target = self.target
        where = str(target.address)
        hint = f"start it with: {start_command(target.data_dir)}" if target.data_dir else "is it running?"
        if isinstance(error, aiohttp.ServerFingerprintMismatch):
            return Unreachable(
                "this is not the node", f"{where} shows another certificate than {target.pinned}", "restart it"
            )
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return Unreachable(
                "the node's certificate is not trusted",
                f"{where}: {error.certificate_error}",
                "name the authority's PEM file in KOSREG_TLS_CA",
            )
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            return Unreachable("TLS failed", f"{where}: {error.os_error}", "does the node listen with TLS there?")
        if isinstance(error, TimeoutError):
            return Unreachable("the node does not answer", f"nothing came from {where} in time", "look at its log")
        if isinstance(error, aiohttp.ClientConnectorError):
            return Unreachable("the node is not reachable", f"{where}: {_reason(error.os_error)}", hint)
        look = "look at the node's log" if target.address.tls else "look at the node's log; does it want https://?"
        return Unreachable("the connection to the node broke", f"{where}: {_reason(error)}", look)

    # What an agent needs, by name.

    async def register(self, record: Record) -> tuple[dict[str, Any], bool]:
        """Registers or replaces; returns the record as the node now shows it, and whether it is new."""
        answer = await self.call("POST", "/api/services/register", body=record)
        return answer.object(), answer.status == 201

    async def get(self, service_id: str) -> dict[str, Any]:
        return (await self.call("GET", service_path(service_id))).object()

    async def discover(self, query: Query = ()) -> list[dict[str, Any]]:
        """The services of one page (`limit`: 100 unless the query says otherwise)."""
        services = (await self.call("GET", "/api/services", query=query)).object().get("services")
        if not isinstance(services, list):
            raise UnexpectedAnswer("the answer has no services", "", "is this a kosreg node?")
        return services

    async def heartbeat(
        self, service_id: str, *, status: str | None = None, load: float | None = None
    ) -> dict[str, Any]:
        """Says that the service is alive; `load` is 0…1. An ApiError with status 404 says: register again."""
        beat = {key: value for key, value in (("status", status), ("load", load)) if value is not None}
        return (await self.call("POST", service_path(service_id, "heartbeat"), body=beat or None)).object()

    async def update(self, service_id: str, patch: Record) -> dict[str, Any]:
        """Changes fields by a merge patch (RFC 7396): null removes."""
        return (await self.call("PATCH", service_path(service_id), body=patch, content_type=MERGE_PATCH)).object()

    async def deregister(self, service_id: str) -> None:
        await self.call("DELETE", service_path(service_id))


def service_path(service_id: str, *more: str) -> str:
    """The path of a service's resource, whatever characters the id has. Raises ApiError (404) for what a URL would
    take for a step up or for nothing: no service has such an id."""
    if service_id in ("", ".", ".."):
        raise ApiError(404, {"title": "Not found", "detail": f"no service has the id {service_id!r}"}, b"")
    return "/".join(("/api/services", quote(service_id, safe=""), *more))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, bounded."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > LONGEST_ANSWER:
            response.close()
            raise UnexpectedAnswer("the answer is too long", f"more than {LONGEST_ANSWER} bytes", "ask for less")
        parts.append(part)
    return b"".join(parts)


def _refusal(answer: Answer) -> ClientError:
    """The exception for an answer that is no success."""
    problem: object = None
    if "json" in answer.headers.get("Content-Type", ""):
        try:
            problem = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            problem = None
    if not isinstance(problem, dict):
        return UnexpectedAnswer(
            f"HTTP {answer.status} without an explanation", "", "is this the API address of a kosreg node?"
        )
    try:
        retry_after = float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        retry_after = None
    return ApiError(answer.status, problem, answer.body, retry_after)


def _tls(target: Target) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
    """How to check the node's certificate. Raises CannotRead where the file that says so is of no use."""
    if not target.address.tls:
        return True
    if target.pinned is not None:
        return aiohttp.Fingerprint(_fingerprint(target.pinned))
    if target.ca is not None:
        try:
            return ssl.create_default_context(cafile=str(target.ca))
        except (OSError, ssl.SSLError) as error:
            raise CannotRead("the authority's file is of no use", f"{target.ca}: {error}") from None
    return True


def _fingerprint(pem: Path) -> bytes:
    """SHA-256 of the first certificate in the file: the one that its owner serves (the chain follows it)."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    try:
        text = pem.read_text(encoding="ascii")
        first = text[text.index(begin) : text.index(end) + len(end)]
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).digest()
    except (OSError, ValueError) as error:
        raise CannotRead("the node's certificate is not readable", f"{pem}: {error}") from None


def _reason(error: BaseException) -> str:
    """The few words of an error. asyncio's own hold the whole address again, so the system's are taken by number."""
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
