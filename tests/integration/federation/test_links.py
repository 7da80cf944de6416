"""Links between nodes over real TLS sockets."""

from __future__ import annotations

from federation.effects import Lane
from tests.harness import until
from tests.integration.federation.nodes import HIGH, LOW, running


async def test_two_nodes_exchange_a_message() -> None:
    async with running(LOW) as a, running(HIGH) as b:
        a.trusts(b)
        b.trusts(a)
        a.keeps(b)
        await until(lambda: a.linked(b) and b.linked(a))
        a.says(b, n=1)
        b.says(a, Lane.BULK, n=2)
        await until(lambda: a.mesh.got and b.mesh.got)
        assert b.mesh.got == [(a.key, {"t": "say", "n": 1})]
        assert a.mesh.got == [(b.key, {"t": "say", "n": 2})]
