"""What the routes of this node's own key take and answer."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict


class SuccessionOut(TypedDict):
    """One key stands in the place of another."""

    old: str
    new: str
    own: Annotated[bool, Field(description="It is of this node itself.")]
    frozen: NotRequired[Annotated[bool, Field(description="It was succeeded twice: nothing new is taken from it.")]]


class KeyOut(TypedDict):
    """This node's key."""

    did: str
    fingerprint: Annotated[str, Field(description="Of the key, to compare by eye.")]
    next: Annotated[str, Field(description="SHA-256 of the key that it changes to one day, in hex.")]
    former: Annotated[list[str], Field(description="The keys that it had before, newest first.")]
    successions: Annotated[list[SuccessionOut], Field(description="All that are known and count here.")]


class ChangingOut(TypedDict):
    """The node ends, changes its key, and starts again."""

    old: str
    new: Annotated[str, Field(description="Its DID from then on.")]
