"""A daemon whose files are damaged, foreign or open to others says so in one line, and leaves them as they are."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import KOSREG, Daemon, running_daemon

REFUSED, USAGE = 1, 2


@dataclass(frozen=True)
class Case:
    """What happens to the data directory, and what the daemon says to it."""

    damage: Callable[[Path], object]
    says: tuple[str, ...]
    code: int = REFUSED
    environ: tuple[tuple[str, str], ...] = ()


def truncated(data: Path) -> None:
    os.truncate(data / "registry.db", (data / "registry.db").stat().st_size // 2)


def garbage(data: Path) -> None:
    (data / "registry.db").write_bytes(os.urandom(40_000))


def empty(data: Path) -> None:
    (data / "registry.db").write_bytes(b"")


def flipped(data: Path) -> None:
    raw = bytearray((data / "registry.db").read_bytes())
    at = raw.index(b"translator-1", 4096)
    raw[at + 3] ^= 0xFF
    (data / "registry.db").write_bytes(bytes(raw))


def a_directory(data: Path) -> None:
    (data / "registry.db").unlink()
    (data / "registry.db").mkdir()


def of_the_future(data: Path) -> None:
    with sqlite3.connect(data / "registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()


def of_another_program(data: Path) -> None:
    (data / "registry.db").unlink()
    with sqlite3.connect(data / "registry.db") as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()


def foreign_key(data: Path) -> None:
    for name in ("node.key", "next.key"):
        shutil.copy(data.parent / "other" / name, data / name)


def write(name: str, text: str, mode: int = 0o600) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        (data / name).write_text(text)
        (data / name).chmod(mode)

    return damage


def mode(name: str, bits: int) -> Callable[[Path], None]:
    return lambda data: (data / name).chmod(bits)


CASES = {
    "a truncated store": Case(truncated, ("registry.db", "damaged", "kosreg doctor")),
    "a store of garbage": Case(garbage, ("registry.db", "damaged", "kosreg doctor")),
    "an empty store": Case(empty, ("registry.db", "kosreg doctor")),
    "a flipped bit": Case(flipped, ("registry.db", "damaged", "kosreg doctor")),
    "a directory instead of a store": Case(a_directory, ("registry.db",)),
    "a store of a newer release": Case(of_the_future, ("registry.db", "9999", "newer")),
    "the database of another program": Case(of_another_program, ("registry.db",)),
    "the key of another node": Case(foreign_key, ("another node", "node.key")),
    "a key that the group may read": Case(mode("node.key", 0o640), ("node.key", "chmod 600")),
    "a next key that all may read": Case(mode("next.key", 0o604), ("next.key", "chmod 600")),
    "a key of garbage": Case(write("node.key", "not a key\n"), ("node.key", "damaged")),
    "an empty key": Case(write("node.key", ""), ("node.key", "damaged")),
    "a key that is gone": Case(lambda data: (data / "node.key").unlink(), ("node.key", "backup")),
    "settings of garbage": Case(write("kosreg.toml", "[api\nlisten = "), ("kosreg.toml", "line 1"), USAGE),
    "settings that are no text": Case(lambda data: (data / "kosreg.toml").write_bytes(b"\xff"), ("UTF-8",), USAGE),
    "a setting that is misspelt": Case(write("kosreg.toml", "[api]\nlisen = ':1'\n"), ("line 2", "api.listen"), USAGE),
    "a value that cannot be": Case(write("kosreg.toml", "[limits]\nmax_body = -5\n"), ("line 2", "max_body"), USAGE),
    "a variable that names no setting": Case(
        lambda data: None, ("KOSREG_API__LISEN", "KOSREG_API__LISTEN"), USAGE, (("KOSREG_API__LISEN", "x"),)
    ),
    "an open address without TLS": Case(
        lambda data: None, ("0.0.0.0", "api.insecure"), USAGE, (("KOSREG_API__LISTEN", "0.0.0.0:0"),)
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the data of two nodes that were stopped: `node`, which has a service, and `other`."""
    base = tmp_path_factory.mktemp("sound")

    async def fill() -> None:
        async with running_daemon(base / "node") as daemon:
            client = daemon.admin()
            for n in range(30):
                record = {
                    "id": f"translator-{n}",
                    "name": "Translator",
                    "type": "agent",
                    "auth": {"type": "jwt", "token": "s"},
                }
                assert (await client.post("/api/services/register", record))[0] == 201
            await client.close()
            assert daemon.stop() == 0
        other = Daemon(base / "other")
        await other.start()
        assert other.stop() == 0

    asyncio.run(fill())
    return base


def content(data: Path) -> dict[str, tuple[bytes, int]]:
    """All files but what a look at the store may touch: the shared memory of its log."""
    return {
        str(file.relative_to(data)): (file.read_bytes(), file.stat().st_mode)
        for file in data.rglob("*")
        if file.is_file() and not file.name.endswith(("-shm", "-wal", ".lock"))
    }


@pytest.mark.parametrize("name", CASES)
async def test_a_start_on_damaged_files_says_what_and_changes_nothing(sound: Path, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    data = tmp_path / "node"
    shutil.copytree(sound / "node", data)
    shutil.copytree(sound / "other", tmp_path / "other")
    case.damage(data)
    before = content(data)
    arguments = ["--federation", "off"]
    if not any(variable == "KOSREG_API__LISTEN" for variable, _ in case.environ):
        arguments += ["--api", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        *KOSREG, "run", "--data-dir", str(data), *arguments, env=os.environ | dict(case.environ),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = err.decode()
    assert process.returncode == case.code, text
    assert out == b""
    for word in case.says:
        assert word in text, text
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) <= 2, text
    after = content(data)
    if case.damage is flipped:  # each opening takes a number, which is noted in the file; the damage is there still
        assert len(after.pop("registry.db")[0]) == len(before.pop("registry.db")[0])
    assert after == before
    assert not (data / "run.json").exists()
