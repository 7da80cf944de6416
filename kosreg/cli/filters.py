"""The filters of `services list`, `watch` and `export`: the query names of the API, as options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Query = list[tuple[str, str]]

FILTER_PANEL = "Filters (all that are given must fit)"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, rich_help_panel=FILTER_PANEL)


Tag = Annotated[list[str] | None, _option("--tag", metavar="TAG", help="Has this tag. Repeat: has all of them.")]
AnyTag = Annotated[list[str] | None, _option("--any-tag", metavar="TAG", help="Has at least one of these. Repeat.")]
Type = Annotated[list[str] | None, _option("--type", metavar="TYPE", help="agent, tool, service, api, device or node.")]
Owner = Annotated[list[str] | None, _option("--owner", metavar="OWNER", help="Belongs to this agent or user.")]
Status = Annotated[list[str] | None, _option("--status", metavar="STATUS", help="active, degraded or offline.")]
Visibility = Annotated[list[str] | None, _option("--visibility", metavar="CLASS", help="public, internal or private.")]
Origin = Annotated[list[str] | None, _option("--origin", metavar="DID", help="Signed by this node.")]
Capability = Annotated[
    list[str] | None, _option("--capability", metavar="NAME", help="Can do this. Repeat: all of them.")
]
Words = Annotated[str | None, _option("-q", "--words", metavar="WORDS", help="Words in name, description, tags.")]


def criteria(
    tag: list[str] | None,
    any_tag: list[str] | None,
    type_: list[str] | None,
    owner: list[str] | None,
    status: list[str] | None,
    visibility: list[str] | None,
    origin: list[str] | None,
    capability: list[str] | None,
    words: str | None,
) -> dict[str, str | list[str]]:
    """The filter as the WebSocket takes it: one value as a text, several as a list. What was not given is left out."""
    given = {
        "tag": tag, "any_tag": any_tag, "type": type_, "owner": owner, "status": status, "visibility": visibility,
        "origin": origin, "capability": capability,
    }  # fmt: skip
    wish: dict[str, str | list[str]] = {
        name: values[0] if len(values) == 1 else values for name, values in given.items() if values
    }
    if words:
        wish["q"] = words
    return wish


def pairs_of(wish: dict[str, str | list[str]]) -> Query:
    """The same filter as the pairs of a query string."""
    return [
        (name, value) for name, values in wish.items() for value in (values if isinstance(values, list) else [values])
    ]
