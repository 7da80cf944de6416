"""The lab's proxies, with plain TCP: each bad thing that they can do, seen from both ends."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from kosreg.lab.link import Link
from kosreg.lab.ports import Port
from tests.harness import until


class Ends:
    """An echo server as node b, a link, and dials as node a."""

    def __init__(self, link: Link, server: asyncio.Server) -> None:
        self.link = link
        self.server = server
        self.accepted: list[asyncio.StreamWriter] = []
        self.broken = 0
        self.dialled: list[asyncio.StreamWriter] = []

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(writer)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            self.broken += 1
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.link.address("b").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self.dialled.append(writer)
        return reader, writer


@asynccontextmanager
async def two_ends() -> AsyncIterator[Ends]:
    a, b = Port(), Port()
    link = Link("a", "b", (a.number, b.number))
    holder: list[Ends] = []
    server = await asyncio.start_server(lambda r, w: holder[0].echo(r, w), "127.0.0.1", b.number)
    ends = Ends(link, server)
    holder.append(ends)
    link.up("b")
    try:
        yield ends
    finally:
        for writer in ends.dialled:
            writer.transport.abort()
        await link.close()
        for writer in ends.accepted:
            writer.transport.abort()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)
        a.close()
        b.close()


async def said_back(ends: tuple[asyncio.StreamReader, asyncio.StreamWriter], text: bytes) -> bytes:
    ends[1].write(text)
    async with asyncio.timeout(5):
        return await ends[0].readexactly(len(text))


async def hears_nothing(reader: asyncio.StreamReader, seconds: float = 0.15) -> bool:
    """Nothing within that time: there is no condition for what does not happen."""
    try:
        async with asyncio.timeout(seconds):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_both_ways_and_are_counted() -> None:
    async with two_ends() as ends:
        connection = await ends.dial()
        blob = bytes(range(256)) * 8192
        assert await said_back(connection, blob) == blob
        assert ends.link.passed == 2 * len(blob)
        connection[1].write_eof()
        assert await connection[0].read() == b""
        await until(lambda: ends.link.connections == 0)


async def test_a_cut_link_says_nothing_and_a_healed_one_loses_nothing() -> None:
    async with two_ends() as ends:
        connection = await ends.dial()
        await said_back(connection, b"before")
        ends.link.cut()
        connection[1].write(b"meanwhile")
        assert await hears_nothing(connection[0])
        assert not connection[0].at_eof()
        ends.link.heal()
        async with asyncio.timeout(5):
            assert await connection[0].readexactly(9) == b"meanwhile"


async def test_a_dial_over_a_cut_link_hangs_until_it_is_healed() -> None:
    async with two_ends() as ends:
        ends.link.cut()
        connection = await ends.dial()
        connection[1].write(b"hello")
        assert await hears_nothing(connection[0])
        assert not ends.accepted
        ends.link.heal()
        async with asyncio.timeout(5):
            assert await connection[0].readexactly(5) == b"hello"


async def test_the_end_of_a_connection_does_not_outrun_a_cut() -> None:
    async with two_ends() as ends:
        connection = await ends.dial()
        await said_back(connection, b"before")
        ends.link.cut()
        ends.accepted[0].transport.abort()
        assert await hears_nothing(connection[0])
        ends.link.heal()
        async with asyncio.timeout(5):
            with suppress(ConnectionResetError):
                assert await connection[0].read() == b""


async def test_one_direction_can_be_cut_alone() -> None:
    async with two_ends() as ends:
        connection = await ends.dial()
        await said_back(connection, b"before")
        ends.link.cut(only_from="b")
        passed = ends.link.info.passed[0]
        connection[1].write(b"heard, not answered")
        await until(lambda: ends.link.info.passed[0] == passed + 19)
        assert await hears_nothing(connection[0])


async def test_a_link_that_is_reset_breaks_for_both_and_can_be_dialled_again() -> None:
    async with two_ends() as ends:
        connection = await ends.dial()
        await said_back(connection, b"before")
        ends.link.reset()
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(5):
                await connection[0].read()
        await until(lambda: ends.broken == 1)
        assert await said_back(await ends.dial(), b"again") == b"again"


@pytest.mark.parametrize("how", ["target first", "dialler first"])
async def test_a_half_open_connection_is_gone_for_one_side_alone(how: str) -> None:
    async with two_ends() as ends:
        connection = await ends.dial()
        await said_back(connection, b"before")
        if how == "target first":
            ends.link.half_open(keeps="a")
            await until(lambda: ends.broken == 1)
            connection[1].write(b"x" * 100_000)
            await connection[1].drain()
            assert await hears_nothing(connection[0])
            assert not connection[0].at_eof()
        else:
            ends.link.half_open(keeps="b")
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(5):
                    await connection[0].read()
            ends.accepted[0].write(b"x" * 100_000)
            await ends.accepted[0].drain()
            assert ends.broken == 0
        assert await said_back(await ends.dial(), b"again") == b"again"


async def test_the_port_of_a_node_that_is_down_refuses_and_is_ours_again() -> None:
    async with two_ends() as ends:
        await said_back(await ends.dial(), b"before")
        ends.link.down("b")
        with pytest.raises(ConnectionRefusedError):
            await ends.dial()
        ends.link.up("b")
        assert await said_back(await ends.dial(), b"again") == b"again"


@pytest.mark.parametrize("turns", range(6))
async def test_what_is_dialled_just_as_the_port_closes_is_closed_too(turns: int) -> None:
    """However many turns of the loop lie between: a socket that is left open fails the test."""
    async with two_ends() as ends:
        host, port = ends.link.address("b").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as dialled:
            for _ in range(turns):
                await asyncio.sleep(0)
            ends.link.down("b")
            await ends.link.close()
            with suppress(ConnectionResetError):
                assert await asyncio.to_thread(dialled.recv, 1) == b""


async def test_a_node_that_refuses_breaks_the_dial() -> None:
    async with two_ends() as ends:
        ends.server.close()
        connection = await ends.dial()
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(5):
                await connection[0].read()


async def test_delay_holds_each_byte_back_and_does_not_slow_the_stream() -> None:
    async with two_ends() as ends:
        connection = await ends.dial()
        ends.link.delay(0.1)
        began = time.perf_counter()
        assert await said_back(connection, b"ping") == b"ping"
        assert 0.19 < time.perf_counter() - began < 0.6
        began = time.perf_counter()
        blob = b"x" * 2_000_000
        assert await said_back(connection, blob) == blob
        assert time.perf_counter() - began < 1.5


async def test_a_throttled_link_has_its_rate_over_all_connections() -> None:
    async with two_ends() as ends:
        one, other = await ends.dial(), await ends.dial()
        await said_back(one, b"x")
        await said_back(other, b"x")
        ends.link.throttle(200_000, only_from="a")
        began = time.perf_counter()
        await asyncio.gather(said_back(one, b"x" * 50_000), said_back(other, b"x" * 50_000))
        assert 0.4 < time.perf_counter() - began < 1.2
        ends.link.heal()
        began = time.perf_counter()
        await said_back(one, b"x" * 500_000)
        assert time.perf_counter() - began < 0.5
        with pytest.raises(ValueError, match="cut it"):
            ends.link.throttle(0)
