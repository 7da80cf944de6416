"""Who calls, and what they may: tokens, scopes, outside issuers, rate limits.

    caller.py    Caller and Scope: what a verified token says; `may` and `names` are the only questions asked of it
    jose.py      the one place that signs and checks JWS, and reads JWKs
    issuers.py   issuers other than this node, their key files and what their tokens may at most
    tokens.py    Auth: issue, verify (cached), list, revoke; the token keys; the file admin.token
    limits.py    Limits: how fast a subject may call

Which records a caller may see (owner, visibility, ACL) is not decided here but in `kosreg.registry`.
"""

from kosreg.auth.caller import DEFAULT_SCOPES, SUBJECT, Caller, Scope, ScopeError, covers
from kosreg.auth.issuers import OutsideIssuer
from kosreg.auth.limits import Limits
from kosreg.auth.tokens import ADMIN, Auth, Issued
from kosreg.durations import parse_ttl

__all__ = [
    "ADMIN",
    "DEFAULT_SCOPES",
    "SUBJECT",
    "Auth",
    "Caller",
    "Issued",
    "Limits",
    "OutsideIssuer",
    "Scope",
    "ScopeError",
    "covers",
    "parse_ttl",
]
