"""However two nodes come to each other, and whatever breaks between them, they end with one link and hold the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kosreg.lab import Lab, LabNode, Link
from kosreg.lab.federations import trust_peer
from tests.harness import until

Make = Callable[..., Lab]
WITHIN = 25.0  # a half-open link is given up after 15 s of silence
SOCKETS = 2  # of one link: for news, and for bulk


def between(lab: Lab) -> Link:
    link = lab.link(0, 1)
    assert isinstance(link, Link)
    return link


async def news_both_ways(lab: Lab, word: str) -> None:
    """Wait until what each says now has come to the other."""
    for node in lab:
        await node.register(id=f"of-{node.name}", name=word, visibility="public")

    async def here() -> bool:
        wanted = {(f"of-{node.name}", word) for node in lab}
        return all([wanted <= {(s["id"], s["name"]) for s in await node.services()} for node in lab])

    await until(here, WITHIN)


async def one_link(lab: Lab) -> None:
    """Wait until there is one link: up on both sides, dialled by one of them, and no socket more than it needs."""

    async def settled() -> bool:
        dialled = []
        for node in lab:
            other = next(near for near in lab if near is not node)
            peers = (await node.call("GET", "/api/peers")).object()["peers"]
            links = [peer["link"] for peer in peers if peer["did"] == other.did and "link" in peer]
            if [link["state"] for link in links] != ["up"]:
                return False
            dialled.append(links[0]["dialled"])
        return sorted(dialled) == [False, True] and 1 <= between(lab).connections <= SOCKETS

    await until(settled, WITHIN)
    await lab.converged(within=WITHIN)


async def test_two_that_dial_each_other_end_with_one_link(lab: Make) -> None:
    async with lab(2) as two:
        await one_link(two)
        for number in range(5):
            between(two).reset()  # both are told, and both dial at once
            await news_both_ways(two, f"after reset {number}")
            await one_link(two)
        two.cut(0, 1, "reset")
        two.heal()
        await news_both_ways(two, "healed")
        await one_link(two)


@pytest.mark.parametrize("keeps", ["n1", "n2"])
async def test_after_a_half_open_link_there_is_one_again(lab: Make, keeps: str) -> None:
    async with lab(2) as two:
        await one_link(two)
        between(two).half_open(keeps)
        await news_both_ways(two, "new")
        await one_link(two)


async def only_one_is_reachable(lab: Lab) -> tuple[LabNode, LabNode]:
    """`dialler` knows where `public` is; nobody knows where `dialler` is."""
    public, dialler = lab
    await trust_peer(public, dialler, None)
    await trust_peer(dialler, public, between(lab).address(public.name))
    return public, dialler


@pytest.mark.parametrize("keeps", ["n1", "n2"])
async def test_one_reachable_side_is_enough_also_after_a_half_open_link(lab: Make, keeps: str) -> None:
    async with lab(2, join=False, federations={}) as two:
        await only_one_is_reachable(two)
        await news_both_ways(two, "first")
        await one_link(two)
        between(two).half_open(keeps)
        await news_both_ways(two, "second")
        await one_link(two)


async def test_one_reachable_side_is_enough_whoever_restarts(lab: Make) -> None:
    async with lab(2, join=False, federations={}) as two:
        public, dialler = await only_one_is_reachable(two)
        for number, node in enumerate((public, dialler)):
            await two.kill(node)
            await two.start(node)
            await news_both_ways(two, f"start {number}")
            await one_link(two)
