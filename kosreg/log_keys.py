"""The keys of the log: what each means, once and for all. A test holds every call in the code to this list.

One word for one thing: whoever reads the logs of ten nodes asks for `service`, not for `id`, `service_id` and `svc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LOG_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # every line
        "time": "when, RFC 3339, UTC, milliseconds",
        "level": "debug, info, warning, error or critical",
        "logger": "which part speaks",
        "event": "what happened, in plain words",
        "exception": "the traceback",
        "stack": "where in the code, if asked for",
        # within a request
        "request_id": "the request, as in its answer's X-Request-Id",
        "sub": "who calls: the token's subject",
        "method": "the HTTP method",
        "path": "the path of the request, or of a file",
        "status": "the HTTP status of the answer",
        "slug": "which problem, as in urn:kosreg:problem:SLUG",
        "detail": "the text of the problem",
        # tokens
        "jti": "the token's id",
        "subject": "whom a token, or a decision, is about",
        "scopes": "what it allows",
        "exp": "when it expires, seconds since 1970",
        "label": "what it was issued for",
        "iss": "an outside issuer",
        "keys": "how many keys",
        "kept": "how many keys stay in use",
        "unusable": "how many keys were passed over",
        # what it is about
        "service": "a service's id",
        "services": "how many services",
        "entries": "how many entries",
        "count": "how many",
        "offline_since": "since when a service is offline, ms since 1970",
        "actor": "who decided: a token's subject, or a peer",
        "action": "what was decided",
        "old": "the key that was changed for another",
        "peer": "another node's key",
        "root": "the root key of a federation",
        "alert": "which kind of alert",
        "text": "the words of an alert",
        "reason": "why",
        "part": "what of a node is frozen: facts, or keys (what it says about them)",
        "error": "what an operation failed with",
        "failed": "how many writes failed since the start",
        "ms": "how long a call took, milliseconds",
        "task": "a background task",
        # the node
        "did": "the node's key",
        "name": "the node's display name",
        "api": "where the API is",
        "store": "how the store was opened: created, migrated or current",
        "took_s": "how long it took, seconds",
        "waited_s": "how long was waited in vain, seconds",
        "late_s": "by how much something was late, seconds",
        "clock_drift_s": "by how much the wall clock jumped, seconds",
    }
)
