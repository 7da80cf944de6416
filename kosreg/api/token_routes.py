"""The routes of tokens: issue, list, revoke. Who may do what is decided here, the rest is `auth`'s.

Admins issue, and see and revoke all tokens. Everybody else sees the tokens of their own subject, and may revoke them:
whoever fears that a token was stolen must not have to find an admin first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from kosreg.api.http import Call, Reply, Route
from kosreg.auth import DEFAULT_SCOPES, SUBJECT
from kosreg.durations import MAX_TTL, MIN_TTL
from kosreg.problems import Fault, Problem
from kosreg.refusals import store_problem
from kosreg.schemas.service_schema import pointer
from kosreg.store import StoreError
from kosreg.store.rows import TokenRow
from kosreg.times import rfc3339

if TYPE_CHECKING:
    from kosreg.api.node import Node


@with_config(ConfigDict(extra="forbid"))
class TokenIn(TypedDict):
    """What a new token shall say."""  # the bounds are documentation: `auth` judges, with texts of its own

    subject: Annotated[
        str,
        Field(description="Whom it is for: an agent or a user.", json_schema_extra={"pattern": f"^{SUBJECT.pattern}$"}),
    ]
    scopes: NotRequired[
        Annotated[
            list[str],
            Field(max_length=64, description=f"`action:resource:name` each; when absent {', '.join(DEFAULT_SCOPES)}."),
        ]
        | None
    ]
    ttl: NotRequired[
        Annotated[
            int,
            Field(
                description="Seconds that it is good; tokens.ttl when absent.",
                json_schema_extra={"minimum": MIN_TTL, "maximum": MAX_TTL},
            ),
        ]
        | None
    ]
    label: NotRequired[Annotated[str, Field(max_length=128, description="A note, for the list.")] | None]


class TokenOut(TypedDict):
    """A token, without its text. `iat` and `exp` are NumericDates, as in the token itself (RFC 7519)."""

    jti: str
    sub: str
    scopes: list[str]
    iat: Annotated[int, Field(description="Seconds since 1970.")]
    exp: Annotated[int, Field(description="Seconds since 1970.")]
    label: NotRequired[str]
    revoked_at: NotRequired[Annotated[str, Field(description="RFC 3339; absent: it is not revoked.")]]


class IssuedOut(TokenOut):
    """A new token."""

    token: Annotated[str, Field(description="Shown this once, and kept nowhere.")]


class TokensOut(TypedDict):
    """Oldest first; those that expired more than a day ago are gone."""

    tokens: list[TokenOut]


_TOKEN_IN = TypeAdapter(TokenIn)


async def issue_token(call: Call) -> Reply:
    wish = _parsed(call.raw)
    scopes, ttl = wish.get("scopes"), wish.get("ttl")
    try:
        issued = await call.app.auth.issue(
            wish["subject"],
            DEFAULT_SCOPES if scopes is None else scopes,
            call.app.settings.tokens.ttl if ttl is None else ttl,
            label=wish.get("label") or "",
        )
    except StoreError as error:
        raise store_problem(error) from error
    return Reply(201, {"token": issued.token, **_shown(issued.row)}, {"Cache-Control": "no-store"})


async def list_tokens(call: Call) -> Reply:
    caller = call.who
    rows = (row for row in call.app.auth.list() if caller.admin or row.sub == caller.sub)
    return Reply(200, {"tokens": [_shown(row) for row in rows]}, {"Cache-Control": "no-store"})


async def revoke_token(call: Call) -> Reply:
    auth, caller, jti = call.app.auth, call.who, call.params["jti"]
    if not caller.admin and jti != caller.jti:
        row = auth.get(jti)
        if row is None or row.sub != caller.sub:
            raise Problem.of("not-found", "No token of yours has this jti. GET /api/tokens shows those that you have.")
    try:
        await auth.revoke(jti)
    except StoreError as error:
        raise store_problem(error) from error
    return Reply(204)


def _parsed(raw: bytes) -> TokenIn:
    """Raises Problem (400, 422)."""
    try:
        return _TOKEN_IN.validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            raise Problem.of("malformed", f"The body is not JSON: {found[0]['ctx']['error']}.") from error
        faults: list[Fault] = []
        for item in found[:100]:
            place = tuple(part for part in item["loc"] if not (isinstance(part, str) and "[" in part))
            text = "is not known here: " + ", ".join(TokenIn.__annotations__) + " are"
            known = item["type"] != "extra_forbidden"
            faults.append({"pointer": pointer(place), "detail": item["msg"] if known else text})
        raise Problem.invalid(faults) from error


def _shown(row: TokenRow) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "jti": row.jti, "sub": row.sub, "scopes": list(row.scopes), "iat": row.iat, "exp": row.exp
    }  # fmt: skip
    if row.label:
        shown["label"] = row.label
    if row.revoked_at is not None:
        shown["revoked_at"] = rfc3339(row.revoked_at)
    return shown


def token_routes(node: Node) -> list[Route]:
    """The table. `node`: for its bounds."""
    return [
        Route(
            "POST", "/api/tokens", issue_token, tag="tokens", scope=("admin", "*"), summary="Issue a token.",
            body=TokenIn, body_example={"subject": "translator", "scopes": ["read:service:*"], "ttl": 86_400},
            max_body=node.settings.limits.max_body, replies={201: IssuedOut},
            problems=("conflict", "invalid", "store-full", "unavailable"),
        ),
        Route(
            "GET", "/api/tokens", list_tokens, tag="tokens", summary="The tokens that were issued here.",
            description="Admins see all, everybody else those of their own subject.", replies={200: TokensOut},
        ),
        Route(
            "DELETE", "/api/tokens/{jti}", revoke_token, tag="tokens", summary="Revoke a token, at once and for ever.",
            description="An admin any; everybody else those of their own subject.",
            path_models={"jti": Annotated[str, Field(max_length=256)]}, replies={204: None},
            problems=("conflict", "not-found", "invalid", "store-full", "unavailable"),
        ),
    ]  # fmt: skip
