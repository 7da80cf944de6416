"""`Lab`: a federation of real daemons on this machine, made, hurt, healed, compared and removed."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count as numbers
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self, get_args

from kosreg.lab import convergence
from kosreg.lab.convergence import Difference, explain
from kosreg.lab.errors import LabError, NotConverged
from kosreg.lab.federations import Federation, anchor_root, post_certs, trust_peer
from kosreg.lab.hooks import HookServer
from kosreg.lab.link import Link
from kosreg.lab.namespaces import NamespaceLink, Namespaces
from kosreg.lab.node import LabNode
from kosreg.lab.topology import Shape, pairs

MOST: Final = 64  # nodes of one lab: each takes some 100 MB
AT_ONCE: Final = 4  # nodes that start at a time
POLL: Final = (0.05, 0.5)  # s between two looks at who differs: at first, at most
PATH: Final = 90  # bytes of the directory's path: the path of a Unix socket in it must be below 108

Named = LabNode | str | int
Network = Literal["proxies", "direct", "namespaces"]
NETWORKS: Final[tuple[str, ...]] = get_args(Network)


class Lab:
    """N real daemons and the links between them. Use as `async with`: whatever happens, nothing is left behind.

        async with Lab(3, "line") as lab:
            await lab[0].register(id="echo-1", name="Echo", visibility="public")
            await lab.converged()

    `shape`: who is a neighbour of whom (mesh, ring, line, star, random), or `links`, pairs of node numbers.
    `federations`: a name and the numbers of its members, each; by default all nodes are in one, `lab`; {} for none.
    `settings`: of every daemon, by `table.key`. `network`: `proxies` between nodes; `direct`, so that nothing stands
    between two nodes when something is measured, and no link can be hurt; `namespaces` (see there). `join`: False
    leaves the nodes strangers to each other until `introduce`. `directory`: where all is kept, to be made; it is
    removed at the end unless `keep`.
    """

    def __init__(
        self,
        nodes: int = 3,
        shape: Shape = "mesh",
        *,
        degree: int = 4,
        seed: int = 0,
        links: Iterable[tuple[int, int]] | None = None,
        federations: Mapping[str, Sequence[int]] | None = None,
        settings: Mapping[str, object] | None = None,
        network: Network = "proxies",
        join: bool = True,
        directory: Path | None = None,
        keep: bool = False,
    ) -> None:
        if not 1 <= nodes <= MOST:
            raise LabError(f"a lab has 1 to {MOST} nodes, not {nodes}")
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        chosen = pairs(shape, nodes, degree=degree, seed=seed) if links is None else sorted({*map(_pair, links)})
        self._pairs = [(self.names[one], self.names[other]) for one, other in chosen]
        wish = {"lab": range(nodes)} if federations is None else federations
        self.federations = {
            name: Federation(name, [self.names[number] for number in members]) for name, members in wish.items()
        }
        self.directory = Path("/nonexistent")  # until it is made; never a place that is there
        self._made = False  # `directory` was made by this lab, and by nobody else: only then may it be removed
        self.nodes: list[LabNode] = []
        self.links: list[Link | NamespaceLink] = []
        self.keep = keep
        self._given = directory
        self._settings = dict(settings or {})
        self._network = network
        self._spaces = Namespaces(self.names) if network == "namespaces" else None
        self._join = join
        self._hooks: HookServer | None = None

    # Its life

    async def __aenter__(self) -> Self:
        self.directory = self._make_directory()
        self._made = True
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _start(self) -> None:
        self._hooks = HookServer(self.directory / "hook.sock", self._orders)
        await self._hooks.start()
        if self._spaces is not None:
            self._spaces.start()
        for name in self.names:
            space = None if self._spaces is None else self._spaces[name]
            hidden = self._network == "proxies"
            self.nodes.append(
                LabNode(name, self.directory / name, self._hooks, self._settings, hidden=hidden, namespace=space)
            )
        for one, other in self._pairs:
            if self._spaces is not None:
                self.links.append(NamespaceLink(one, other, self._spaces))
            elif self._network == "proxies":
                ports = self[one].peer_port.number, self[other].peer_port.number
                self.links.append(Link(one, other, ports))
        await self.start()

    async def close(self) -> None:
        """End all and remove all (a lab that is kept ends its nodes in good order). Does nothing where nothing was
        made: whoever could not start may be closed as well."""
        if not self._made:
            return
        if self.keep:
            await asyncio.gather(*(node.stop() for node in self.nodes), return_exceptions=True)
        await asyncio.gather(*(node.close() for node in self.nodes), return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self.links), return_exceptions=True)
        if self._spaces is not None:
            self._spaces.close()
        if self._hooks is not None:
            await self._hooks.close()
        if self.keep:
            self._hooks = None
        else:
            shutil.rmtree(self.directory, ignore_errors=True)
        self._made = False

    def _make_directory(self) -> Path:
        if self._given is None:
            return Path(tempfile.mkdtemp(prefix="kosreg-lab-"))
        directory = self._given.absolute()
        if len(os.fsencode(directory)) > PATH:
            raise LabError(f"{directory} is too long for the sockets in it; choose one of at most {PATH} bytes")
        try:
            directory.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise LabError(f"{directory} is there already; remove it, or choose another") from None
        return directory

    def _orders(self, directory: Path) -> dict[str, object] | None:
        for node in self.nodes:
            if node.directory == directory:
                return node.orders
        return None

    # Nodes

    def __getitem__(self, which: Named) -> LabNode:
        """A node by its name (`n1`), or by its number from 0."""
        if isinstance(which, LabNode):
            return which
        if isinstance(which, int):
            return self.nodes[which]
        for node in self.nodes:
            if node.name == which:
                return node
        raise LabError(f"there is no node {which!r}; there are {', '.join(self.names)}")

    def __iter__(self) -> Iterator[LabNode]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def up(self) -> list[LabNode]:
        """The nodes that run and are not frozen."""
        return [node for node in self.nodes if node.state == "up"]

    async def start(self, *which: Named) -> None:
        """Start nodes (all, where none is named), and introduce those that know nobody to their neighbours."""
        gate = asyncio.Semaphore(AT_ONCE)
        nodes = [self[name] for name in which] or self.nodes

        async def one(node: LabNode) -> None:
            async with gate:
                await node.start()
            for link in self.links:
                if node.name in link.nodes:
                    link.up(node.name)

        await _all(one(node) for node in nodes)
        if self._join:
            await self.introduce()

    async def introduce(self) -> None:
        """Tell each node that runs and knows nobody whom to believe and where its neighbours are."""
        await _all(self._introduce(node) for node in self.up if node.blank)

    async def stop(self, which: Named) -> int:
        """End a node in good order; the exit code."""
        node = self[which]
        code = await node.stop()
        self._down(node)
        return code

    async def kill(self, which: Named) -> None:
        """SIGKILL a node."""
        node = self[which]
        await node.kill()
        self._down(node)

    async def restart(self, which: Named) -> None:
        """End a node in good order, and start it again."""
        await self.stop(which)
        await self.start(which)

    async def wipe(self, which: Named, *, everything: bool = False) -> None:
        """Kill a node, remove its database (or its key as well), and start it again, introduced anew."""
        node = self[which]
        await self.kill(node)
        node.wipe(everything=everything)
        if everything and self._join:  # to the others it is somebody new
            for other in self.neighbours(node):
                if other.state == "up":
                    await self._trust(other, node)
        await self.start(node)

    def freeze(self, which: Named) -> None:
        self[which].freeze()

    def thaw(self, which: Named) -> None:
        self[which].thaw()

    def neighbours(self, which: Named) -> list[LabNode]:
        """The nodes that have a link to this one."""
        name = self[which].name
        return [self[other if name == one else one] for one, other in self._pairs if name in (one, other)]

    # Links

    def link(self, one: Named, other: Named) -> Link | NamespaceLink:
        """The link between two neighbours. Raises LabError where there is none."""
        names = {self[one].name, self[other].name}
        for link in self.links:
            if set(link.nodes) == names:
                return link
        if self._network == "direct":
            raise LabError("this lab has no proxies (direct); its links cannot be hurt")
        raise LabError(f"{' and '.join(sorted(names))} are no neighbours")

    def cut(self, one: Named, other: Named, how: Literal["silent", "reset"] = "silent") -> None:
        """Cut one link (see `Link.cut`)."""
        self.link(one, other).cut(how)

    def split(self, *groups: Iterable[Named], how: Literal["silent", "reset"] = "silent") -> None:
        """Cut all links between the groups; nodes in no group are a group of their own."""
        side: dict[str, int] = {}
        for number, group in enumerate(groups, 1):
            side |= {self[which].name: number for which in group}
        for link in self.links:
            if side.get(link.one, 0) != side.get(link.other, 0):
                link.cut(how)

    def isolate(self, which: Named, how: Literal["silent", "reset"] = "silent") -> None:
        """Cut all links of one node."""
        self.split([which], how=how)

    def heal(self, one: Named | None = None, other: Named | None = None) -> None:
        """Heal one link, or all: nothing is cut, delayed or throttled any more."""
        if one is not None and other is not None:
            self.link(one, other).heal()
            return
        for link in self.links:
            link.heal()

    # Trust

    async def ally(self, one: str, other: str) -> None:
        """The members of two federations trust each other's root: public facts pass, internal ones do not."""
        for mine, theirs in ((one, other), (other, one)):
            federation = self.federations[mine]
            federation.allies.append(self.federations[theirs])
            for name in federation.members:
                await anchor_root(self[name], self.federations[theirs])

    async def _introduce(self, node: LabNode) -> None:
        """Tell a node whom to believe: the roots, its own certificates and its neighbours' (the others come by
        themselves), and where its neighbours are."""
        around = [node, *self.neighbours(node)]
        mine = [own for own in self.federations.values() if node.name in own.members]
        for federation in {*mine, *(ally for own in mine for ally in own.allies)}:
            await anchor_root(node, federation)
            await post_certs(node, [federation.cert(near) for near in around if near.name in federation.members])
        for peer in self.neighbours(node):
            await self._trust(node, peer)
        node.blank = False

    async def _trust(self, node: LabNode, peer: LabNode) -> None:
        direct = self._network == "direct"
        address = peer.peer_address if direct else self.link(node, peer).address(peer.name)
        await trust_peer(node, peer, address)

    def _down(self, node: LabNode) -> None:
        for link in self.links:
            if node.name in link.nodes:
                link.down(node.name)

    # Who differs

    def open_links(self) -> list[tuple[str, str]]:
        """The links that are not cut, as names of nodes."""
        return self._pairs if self._network == "direct" else [link.nodes for link in self.links if not link.is_cut]

    async def differences(self, most: int = convergence.MOST) -> list[Difference]:
        """Who differs in what now, among the nodes that run and the links that are open: entry by entry."""
        return await convergence.differences(self.up, self.open_links(), _now_ms(), most)

    async def agrees(self) -> bool:
        """Whether all nodes that can reach each other hold the same, as far as they may. Raises LabError where one
        holds what is private to another."""
        reports = await convergence.reports(self.up, _now_ms())
        dids = {node.name: node.did for node in self.nodes}
        if leaked := convergence.leaks(reports, dids):
            raise LabError(f"private entries are where they never may be: {leaked}")
        return not convergence.disagreements(reports, self.open_links())

    async def converged(self, within: float = 30.0) -> float:
        """Wait until `agrees`; the seconds that it took. Raises NotConverged, which says who differs in what."""
        began = time.monotonic()
        pause = POLL[0]
        for _ in numbers():
            if await self.agrees():
                return time.monotonic() - began
            if time.monotonic() - began > within:
                break
            await asyncio.sleep(pause)
            pause = min(POLL[1], pause * 1.5)
        found = await self.differences()
        if not found:  # they agreed while they were asked
            return time.monotonic() - began
        raise NotConverged(f"the nodes still differ after {within:g} s:\n{explain(found)}")


def _pair(link: tuple[int, int]) -> tuple[int, int]:
    return min(link), max(link)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _all(work: Iterable[object]) -> None:
    """Do all of it at once; the first error, once all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)  # type: ignore[call-overload]
    for result in results:
        if isinstance(result, BaseException):
            raise result
