"""Whatever happens to links and nodes, in the end all hold the same, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random

import pytest

from kosreg.client.errors import ClientError
from kosreg.lab import Lab, LabError, LabNode
from tests.federation.test_sync import names
from tests.harness import until

Make = Callable[..., Lab]


class Load:
    """Registers, changes and removes public services on some nodes, and knows what each node acknowledged."""

    def __init__(self, nodes: Iterable[LabNode], seed: int, pause: float = 0.05) -> None:
        self.living: dict[str, str] = {}  # id: the description that was acknowledged last
        self.unsure: set[str] = set()  # whose node was gone before it answered
        self.done = 0
        self._nodes = list(nodes)
        self._rng = Random(seed)
        self._pause = pause
        self._ends = False

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._drive(node)) for node in self._nodes]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends = True
        await asyncio.gather(*self._tasks)

    async def _drive(self, node: LabNode) -> None:
        mine: list[str] = []
        number = 0
        while not self._ends:
            await asyncio.sleep(self._pause)
            if node.state != "up":
                continue
            number += 1
            dice = self._rng.random()
            uid = self._rng.choice(mine) if mine and dice < 0.5 else f"{node.name}-{number}"
            try:
                if uid in self.living and dice < 0.2:
                    await node.api.deregister(uid)
                    del self.living[uid]
                    mine.remove(uid)
                else:
                    text = f"change {number}"
                    await node.register(id=uid, name=uid, visibility="public", description=text)
                    if uid not in self.living:
                        mine.append(uid)
                    self.living[uid] = text
                self.done += 1
            except (ClientError, LabError):
                self.unsure.add(uid)

    async def is_all_on(self, node: LabNode) -> bool:
        """Whether `node` shows exactly what was acknowledged."""
        shown = {service["id"]: service.get("description") for service in await node.services(type="service")}
        wanted = {uid: text for uid, text in self.living.items() if uid not in self.unsure}
        return wanted == {uid: text for uid, text in shown.items() if uid not in self.unsure}


@pytest.mark.timeout(120)
async def test_five_nodes_in_a_line_agree_after_a_cut_under_load(lab: Make) -> None:
    async with lab(5, "line") as five:
        await five.converged()
        async with Load(five, seed=5) as load:
            await until(lambda: load.done > 50)
            five.cut("n2", "n3")
            before = load.done
            await until(lambda: load.done > before + 150)
            far = f"n5-{max(int(uid.split('-')[1]) for uid in load.living if uid.startswith('n5-'))}"
            await until(lambda: _shows(five["n4"], far))
            assert far not in await names(five["n1"]), "nothing passes a cut"
            five.heal()
            await until(lambda: load.done > before + 250)
        await five.converged(within=20)
        assert not load.unsure
        for node in five:
            assert await load.is_all_on(node), node


@pytest.mark.timeout(180)
async def test_twenty_nodes_in_a_random_graph_bear_churn(lab: Make) -> None:
    """A tenth of the nodes is killed and comes back, again and again; one loses its disk."""
    async with lab(20, "random", degree=4, seed=20) as twenty:
        await twenty.converged(within=60)
        async with Load(twenty, seed=20, pause=0.4) as load:
            rng = Random(20)
            for turn in range(3):
                gone = rng.sample(twenty.nodes, 2)
                for node in gone:
                    await twenty.kill(node)
                before = load.done
                await until(lambda before=before: load.done > before + 60, 20)
                if turn == 1:
                    gone[0].wipe()
                await twenty.start(*gone)
        await twenty.converged(within=30)
        for node in twenty:
            assert await load.is_all_on(node), node


async def _shows(node: LabNode, uid: str) -> bool:
    return uid in await names(node)
