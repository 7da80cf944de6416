"""Where a record may be found: looked for byte by byte in the other nodes' files, memory and traffic.

What is private must be nowhere; what is internal nowhere outside of its federation. Each way of looking is first shown
to find a public marker.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from kosreg.lab import Lab, LabNode
from tests.harness import until

Make = Callable[..., Lab]
PIECE = 1 << 22  # bytes of memory read at once
WIDEST = 1 << 30  # regions beyond are reserved address space, not memory


def files(node: LabNode) -> Iterator[bytes]:
    """What the node has on disk: its database and the log of it (its lab's trace is not its own)."""
    for path in node.directory.glob("registry.db*"):
        yield path.read_bytes()


def memory(node: LabNode) -> Iterator[bytes]:
    """What the node has in memory, as the system shows it: all that it may write to."""
    assert node.pid is not None
    with Path(f"/proc/{node.pid}/mem").open("rb", buffering=0) as mem:
        for line in Path(f"/proc/{node.pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            start, end = (int(place, 16) for place in span.split("-"))
            if not mode.startswith("rw") or end - start > WIDEST:
                continue
            rest = b""
            for place in range(start, end, PIECE):
                mem.seek(place)
                try:
                    some = mem.read(min(PIECE, end - place))
                except OSError:  # of a driver, or gone meanwhile
                    break
                yield rest + some
                rest = some[-256:]


def traffic(node: LabNode) -> Iterator[bytes]:
    """What went out of the node and came in, before encryption and after decryption."""
    yield node.trace_file.read_bytes()


PLACES: dict[str, Callable[[LabNode], Iterator[bytes]]] = {"files": files, "memory": memory, "traffic": traffic}


def holds(place: str, node: LabNode, marker: str) -> bool:
    """Whether the bytes of `marker` are in one of the places of a node."""
    wanted = marker.encode()
    return any(wanted in some for some in PLACES[place](node))


def marker(what: str) -> str:
    return f"{what}-{secrets.token_hex(12)}"


async def test_what_is_private_is_in_no_other_node(lab: Make) -> None:
    async with lab(3, "line") as three:
        home, near, far = three
        for node in three:
            await node.trace()
        public, internal, private, token = (marker(what) for what in ("public", "internal", "private", "token"))
        await home.register(id="private-1", name="P", description=private, visibility="private")
        await home.register(
            id="public-1", name="P", description=public, visibility="public", auth={"type": "jwt", "token": token}
        )
        await home.register(id="internal-1", name="I", description=internal)
        await home.api.update("private-1", {"tags": ["changed"]})
        await three.converged()
        for node in (near, far):
            for place in PLACES:
                assert holds(place, node, public), f"{place} of {node.name}: this way of looking finds nothing"
                assert holds(place, node, internal), (place, node.name)
                assert not holds(place, node, private), (place, node.name)
                assert not holds(place, node, token), (place, node.name)
        assert holds("memory", home, private)
        assert holds("files", home, private)
        assert not holds("traffic", home, private)
        assert not holds("traffic", home, token)


async def test_what_is_internal_is_in_no_node_of_another_federation(lab: Make) -> None:
    async with lab(3, "line", federations={"red": [0, 1], "blue": [2]}) as three:
        home, border, stranger = three
        await three.ally("red", "blue")
        for node in three:
            await node.trace()
        public, internal = marker("public"), marker("internal")
        await home.register(id="internal-1", name="I", description=internal)
        await home.register(id="public-1", name="P", description=public, visibility="public")
        await three.converged()
        for place in PLACES:
            assert holds(place, border, internal), place
            assert holds(place, stranger, public), place
            assert not holds(place, stranger, internal), place


async def shown_as(text: str, expected: dict[LabNode, bool]) -> bool:
    """Whether the nodes show the service `marker-1`, with this text, or not at all."""
    for node, is_shown in expected.items():
        found = [service["description"] for service in await node.services(q="M") if service["id"] == "marker-1"]
        if found != ([text] if is_shown else []):
            return False
    return True


async def test_each_change_of_class_reaches_who_may_see_the_old_one(lab: Make) -> None:
    """Public, internal, private, public again; the outsider is linked through the member alone."""
    async with lab(3, "line", federations={"red": [0, 1], "blue": [2]}) as three:
        owner, member, outsider = three
        await three.ally("red", "blue")
        for visibility, at_member, at_outsider in (
            ("public", True, True),
            ("internal", True, False),
            ("private", False, False),
            ("public", True, True),
        ):
            text = marker(visibility)
            await owner.register(id="marker-1", name="M", description=text, visibility=visibility)

            await until(partial(shown_as, text, {member: at_member, outsider: at_outsider}), 10)
            await three.converged()
            assert holds("files", outsider, text) == at_outsider, visibility
            assert holds("files", member, text) == at_member, visibility
