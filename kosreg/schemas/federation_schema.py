"""What the routes of federations take and answer."""

from __future__ import annotations

from typing import Annotated, Final, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from kosreg.schemas.peer_schema import AliveOut, FrozenOut

MAX_CERTIFICATES: Final = 1000  # in one answer
_TIME: Final = "RFC 3339."


class FederationOut(TypedDict):
    """A federation whose root is trusted here."""

    did: Annotated[str, Field(description="Of its root key.")]
    name: str
    member: Annotated[bool, Field(description="Whether this node is one.")]
    internal: Annotated[bool, Field(description="Whether internal means internal to this one, here.")]
    depth: Annotated[int, Field(description="How many certificates may follow below this node; 0: none.")]
    until: NotRequired[Annotated[str, Field(description="When this node's membership ends if nothing is renewed.")]]
    members: Annotated[int, Field(description="How many keys are certified now, as far as is known here.")]
    revoked: NotRequired[Annotated[str, Field(description="Since when the root is revoked here.")]]


class FederationsOut(TypedDict):
    """In the order in which their roots came to be trusted."""

    federations: list[FederationOut]


class CertificateOut(TypedDict):
    """The newest word of one key about another."""

    subject: str
    name: Annotated[str, Field(description="What the subject calls itself, as far as is known here.")]
    issuer: str
    state: Annotated[str, Field(description="granted or revoked.")]
    holds: Annotated[bool, Field(description="A grant: whether a chain through it leads to its subject now.")]
    node: NotRequired[Annotated[AliveOut, Field(description="Whether the subject lives, where that is known.")]]
    frozen: NotRequired[Annotated[list[FrozenOut], Field(description="The subject brings more than it may.")]]
    depth: int
    classes: list[str]
    types: list[str]
    tags: list[str]
    not_before: Annotated[str, Field(description=_TIME)]
    until: Annotated[str, Field(description=_TIME)]
    stamp: Annotated[int, Field(description="Its order among what the issuer said of the subject.")]


class CertificatesOut(TypedDict):
    """By subject, then issuer."""

    certificates: list[CertificateOut]
    total: int


class CertificatesQuery(TypedDict, total=False):
    """Which of them."""

    subject: Annotated[str, Field(max_length=256, description="Only those about this key.")]
    limit: Annotated[
        int, Field(ge=1, le=MAX_CERTIFICATES, description=f"At most so many; {MAX_CERTIFICATES} when absent.")
    ]
