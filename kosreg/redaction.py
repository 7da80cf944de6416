"""Removes secrets from what is logged: by the name of a key, and by the look of a text.

Names: whatever ends in `token`, `secret`, `password`, `seed`, `cookie`, `authorization` and the like. Looks: JWTs,
bearer credentials, passwords in URLs, 32-byte keys in hex or base64, PEM blocks, invite lines, `name=secret`, and the
parameters and inputs that SQLAlchemy and pydantic put into the texts of their errors.

Every log line comes through here, and what is in it may be hostile. So each look has a needle that must be in the text
before its pattern is tried, and each pattern consumes what it has looked at: the work is linear in the text.

A 32-byte hex text is taken for a seed unless its key says that it is an id or a hash: log ids by their first digits.
Removing too much costs a line in a log; removing too little costs a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

REMOVED: Final = "[removed]"
MAX_DEPTH: Final = 12
MAX_TEXT: Final = 32 * 1024
"""Characters of one text in the log. The rest is cut off: a hostile body must not fill the disk through an error."""

_SECRET_WORDS: Final = (
    frozenset({"token", "tokens", "jwt", "bearer", "authorization", "credential", "credentials", "cookie", "cookies"})
    | frozenset({"secret", "secrets", "password", "passwd", "passphrase", "pwd", "seed", "seeds", "sealed", "apikey"})
)  # fmt: skip
_SECRET_KEYS: Final = frozenset({"api", "private", "signing", "secret", "node", "next", "wrap", "store", "version"})
"""`api_key`, `private_key`, …: words that make a key a secret one."""

_ID_WORDS: Final = frozenset({"id", "ids", "kid", "jti", "hash", "digest", "fingerprint", "entry", "did", "origin"})
_PRIVATE_JWK: Final = frozenset({"d", "k", "p", "q", "dp", "dq", "qi"})  # RFC 7518 §6
_WORDS: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
_LOUD: Final = "password|passwd|passphrase|secret|seed|credential|api[_-]?key|private[_-]?key"


@dataclass(frozen=True, slots=True)
class _Look:
    """`needles`: one of them is in every text that `pattern` may match, in lower case where `lower`."""

    needles: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]
    lower: bool = False


_PORT: Final = re.compile(r"[0-9]{1,5}[/?#]")


def _without_jwt(match: re.Match[str]) -> str:
    return REMOVED if match[0].count(".") >= 2 else match[0]


def _without_password(match: re.Match[str]) -> str:
    """A URL's part after `://`. Up to the last @: a password with an @ or / that nobody encoded is one all the same."""
    credentials, at, rest = match[0].rpartition("@")
    user, _, password = credentials.partition(":")
    if not at or not password or any(c in user for c in "/?#") or _PORT.match(password):
        return match[0]
    return f"{user}:{REMOVED}@{rest}"


_LOOKS: Final = (
    _Look(("eyJ",), re.compile(r"eyJ[A-Za-z0-9_.-]*"), _without_jwt),
    _Look(("://",), re.compile(r"(?<=://)(?:(?!://)[^\s'\"<>])+"), _without_password),
    _Look(
        ("bearer", "basic"),
        re.compile(r"(?i)\b(bearer|basic)[ .]+(?=[A-Za-z0-9._~+/-]{12})[A-Za-z0-9._~+/-]+=*"),
        rf"\1 {REMOVED}",
        lower=True,
    ),
    _Look(
        ("authorization", "cookie"),
        re.compile(r"(?i)\b((?:proxy-|kosreg-)?authorization|(?:set-)?cookie)(['\"]?[:=,][ '\"]*)[^\r\n'\"]+"),
        rf"\1\2{REMOVED}",
        lower=True,
    ),
    _Look(
        ("token", "jwt"),  # not `token: …`, which our own texts say
        re.compile(r"""(?i)((?:token|jwt)(?:=|['"]\s*[:=]\s*))("[^"\n]*"|'[^'\n]*'|[^\s,;&}\])"']+)"""),
        rf"\1{REMOVED}",
        lower=True,
    ),
    _Look(
        ("password", "passwd", "passphrase", "secret", "seed", "credential", "key"),
        re.compile(rf"""(?i)((?:{_LOUD})s?['"]?\s*[:=]\s*)("[^"\n]*"|'[^'\n]*'|[^\s,;&}}\])"']+)"""),
        rf"\1{REMOVED}",
        lower=True,
    ),
    _Look(
        ("-----BEGIN",),
        re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL),
        REMOVED,
    ),
    _Look(("kosreg1:",), re.compile(r"\bkosreg1:[A-Za-z0-9_-]{8,}"), REMOVED),
    _Look(
        ("[parameters: ",),
        re.compile(r"\[parameters: .*?(?:\](?=\s*(?:\n|\Z|\(Background))|\Z)", re.DOTALL),
        f"[parameters: {REMOVED}]",
    ),
    _Look(("input_value=",), re.compile(r"input_value=.*?(?=, input_type|\Z)", re.DOTALL), f"input_value={REMOVED}"),
)

_RUN: Final = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{43,128}={0,2}(?![A-Za-z0-9+/_=-])")
_HEX_KEY: Final = re.compile(r"[0-9a-fA-F]{64}(?:[0-9a-fA-F]{64})?")
_BASE64_KEY: Final = re.compile(r"(?=.*[A-Z])(?=.*[a-z])(?=.*[0-9])[A-Za-z0-9+/_-]{43}=?")


def redact(event: Mapping[str, Any]) -> dict[str, Any]:
    """`event` without secrets at any depth; what is no JSON becomes a text. Raises for nothing that it finds."""
    return {key: _value(key, value, 0) for key, value in event.items()}


def scrub(text: str, *, ids: bool = False) -> str:
    """`text` without what looks like a secret. `ids`: 32 bytes in hex or base64 are no secret here."""
    if len(text) < 8:
        return text
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}… ({len(text)} characters)"
    lower = text.lower()
    for look in _LOOKS:
        where = lower if look.lower else text
        for needle in look.needles:
            if needle in where:
                text = look.pattern.sub(look.replacement, text)
                break
    return text if ids or len(text) < 43 else _RUN.sub(_without_keys, text)


@lru_cache(maxsize=2048)
def is_secret(key: str) -> bool:
    """Whether what is called `key` is a secret."""
    words = [word.lower() for word in _WORDS.findall(key)]
    if not words:
        return False
    return words[-1] in _SECRET_WORDS or (len(words) > 1 and words[-1] == "key" and words[-2] in _SECRET_KEYS)


@lru_cache(maxsize=2048)
def _holds_ids(key: str) -> bool:
    words = _WORDS.findall(key)
    return bool(words) and words[-1].lower() in _ID_WORDS


def _value(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if is_secret(key) and not (isinstance(value, int | float) and key.endswith("s")):  # `tokens=3` is a count
        return REMOVED
    if isinstance(value, str):
        return scrub(value, ids=_holds_ids(key))
    if isinstance(value, int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        hidden = _PRIVATE_JWK if "kty" in value else ()
        return {str(k): REMOVED if k in hidden else _value(str(k), v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(key, item, depth + 1) for item in value]
    try:
        return scrub(str(value), ids=_holds_ids(key))
    except Exception as error:  # a broken __str__ must not cost the line
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _without_keys(match: re.Match[str]) -> str:
    run = match[0]
    if _HEX_KEY.fullmatch(run):
        return REMOVED
    if _BASE64_KEY.fullmatch(run) and not match.string.endswith("kind:did:", 0, match.start()):
        return REMOVED
    return run
