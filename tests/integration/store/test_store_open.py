"""Opening: what is made, what is refused, and that each refusal says what to do."""

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from federation.identity import NodeKey
from kosreg.store import (
    CannotOpen,
    DamagedStore,
    ForeignStore,
    SchemaMismatch,
    Store,
    StoreClosed,
    StoreError,
    StoreInUse,
    TokenKey,
    TokenRow,
    schema,
)
from kosreg.store.schema import HEAD
from tests.integration.store.kit import KEY, WRAP, batch, entry, everything, open_store, opened, url_of


async def test_store_says_how_it_came_to_be(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert (store.opened.how, store.opened.version, store.opened.previous) == ("created", HEAD, None)
    async with opened(tmp_path) as store:
        assert store.opened.how == "current"


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a")))
        modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
    assert modes == {f"registry.db{end}": 0o600 for end in ("", "-wal", "-shm", ".lock")}


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b=c", "a#b", "ü", "a'b", ":memory:"])
async def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    store = await Store.open(str(folder / "registry.db"), KEY.public, WRAP)
    await store.commit(batch(entry("a")))
    await store.close()
    assert (folder / "registry.db").stat().st_size > 0


async def test_store_of_another_node_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    other = NodeKey(b"o" * 32)
    with pytest.raises(ForeignStore) as caught:
        await Store.open(url_of(tmp_path), other.public, other.derive("store"))
    assert KEY.did in str(caught.value)
    assert "node.key" in str(caught.value)


async def test_wrap_key_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with pytest.raises(DamagedStore):
        await Store.open(url_of(tmp_path), KEY.public, b"w" * 32)


async def test_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(SchemaMismatch, match="9999"):
        await open_store(tmp_path)
    with pytest.raises(CannotOpen, match="9999"):
        await open_store(tmp_path, readonly=True)


async def test_older_schema_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is put beside those that there are, as the next release will: what was kept is kept."""
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a")))
    steps = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, steps)
    (steps / "versions" / "9000_next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n\n"
        f"revision = '9000'\ndown_revision = '{schema.HEAD}'\n\n"
        "def upgrade():\n    op.add_column('tokens', sa.Column('more', sa.Text()))\n"
    )
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    before = schema.HEAD
    monkeypatch.setattr(schema, "HEAD", "9000")
    async with opened(tmp_path) as store:
        assert (store.opened.how, store.opened.previous, store.opened.version) == ("migrated", before, "9000")
        assert [row.id for row in await everything(store)] == [entry("a").id]


async def test_step_that_fails_leaves_the_schema_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a")))
    steps = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, steps)
    (steps / "versions" / "9000_next.py").write_text(
        f"from alembic import op\n\nrevision = '9000'\ndown_revision = '{schema.HEAD}'\n\n"
        "def upgrade():\n    op.execute('CREATE TABLE half (a)')\n    op.execute('DELETE FROM entries')\n"
        "    op.execute('no SQL at all')\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", steps)
        patch.setattr(schema, "HEAD", "9000")
        with pytest.raises(StoreError):
            await open_store(tmp_path)
    async with opened(tmp_path) as store:
        assert store.opened.how == "current"
        assert [row.id for row in await everything(store)] == [entry("a").id]
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    connection.close()


async def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    with pytest.raises(SchemaMismatch, match="bookmarks"):
        await open_store(tmp_path)


async def test_same_file_by_another_name_is_in_use(tmp_path: Path) -> None:
    link = tmp_path / "link"
    async with opened(tmp_path):
        link.symlink_to(tmp_path / "registry.db")
        with pytest.raises(StoreInUse, match=str(os.getpid())):
            await Store.open(str(link), KEY.public, WRAP)


async def test_failed_open_lets_the_file_go(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    for _ in range(2):
        with pytest.raises(ForeignStore):
            await Store.open(url_of(tmp_path), b"o" * 32, WRAP)
    async with opened(tmp_path):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://localhost/kosreg",
        "mysql+x://",
        "://",
        "sqlite:///no/such/folder/r.db",
    ],
)
async def test_url_that_cannot_be_used_says_what_to_write(url: str) -> None:
    with pytest.raises(CannotOpen) as caught:
        await Store.open(url, KEY.public, WRAP)
    assert caught.value.todo
    assert caught.value.title in str(caught.value)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder below which another user may go; tmp_path is for its owner alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write everywhere: be nobody for a while."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


async def test_folder_that_cannot_be_written(shared_folder: Path) -> None:
    os.chmod(shared_folder, 0o555)
    with without_rights(), pytest.raises(CannotOpen, match="Permission denied") as caught:
        await open_store(shared_folder)
    assert "permissions" in caught.value.todo


@pytest.mark.parametrize("name", ["registry.db", "registry.db.lock"])
async def test_file_that_cannot_be_written(shared_folder: Path, name: str) -> None:
    async with opened(shared_folder) as store:
        await store.commit(batch(entry("a")))
    for file in os.listdir(shared_folder):
        os.chmod(shared_folder / file, 0o666)
    os.chmod(shared_folder / name, 0o444)
    os.chmod(shared_folder, 0o777)
    with without_rights(), pytest.raises(CannotOpen, match=name):
        await open_store(shared_folder)
    (shared_folder / name).chmod(0o644)
    async with opened(shared_folder) as store:
        assert len(await everything(store)) == 1


async def test_readonly_reads_beside_a_daemon_and_writes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.commit(batch(entry("a")))
        async with opened(tmp_path, readonly=True) as reader:
            assert [row.id for row in await everything(reader)] == [entry("a").id]
            assert await reader.verify() == []
            with pytest.raises(StoreClosed):
                reader.commit(batch(entry("b")))
            await store.commit(batch(entry("b")))
            assert len(await everything(reader)) == 2


async def test_readonly_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(CannotOpen):
        await open_store(tmp_path, readonly=True)
    assert os.listdir(tmp_path) == []


# --- the small tables ---------------------------------------------------------------------------------------


async def test_tokens_are_kept_and_revoked(tmp_path: Path) -> None:
    first = TokenRow("j1", "alice", ("read:service:*", "write:service:*"), 100, 200, "laptop")
    second = TokenRow("j2", "bob", (), 50, 60)
    async with opened(tmp_path) as store:
        await store.add_token(first)
        await store.add_token(second)
        assert await store.revoke_token("j1", 150_000)
        assert await store.revoke_token("j1", 170_000)
        assert not await store.revoke_token("j3", 150_000)
    async with opened(tmp_path) as store:
        old, revoked = await store.tokens()
        assert old == second
        assert revoked == replace(first, revoked_at=150_000)
        await store.drop_token("j2")
        assert [token.jti for token in await store.tokens()] == ["j1"]


async def test_token_keys_secrets_and_meta_are_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        key = TokenKey("k1", store.seal(b"seed"), 5)
        await store.add_token_key(TokenKey("k2", store.seal(b"other"), 9))
        await store.add_token_key(key)
        await store.put_secret("svc", store.seal(b"one"))
        await store.put_secret("svc", store.seal(b"two"))
        await store.put_secret("gone", store.seal(b"three"))
        await store.put_secret("gone", None)
        await store.set_meta("clean", b"1")
        with pytest.raises(ValueError, match="origin"):
            await store.set_meta("origin", b"")
    async with opened(tmp_path) as store:
        assert [k.kid for k in await store.token_keys()] == ["k1", "k2"]
        assert store.unseal((await store.token_keys())[0].sealed) == b"seed"
        assert {k: store.unseal(v) for k, v in (await store.secrets()).items()} == {"svc": b"two"}
        assert await store.get_meta("clean") == b"1"
        assert await store.get_meta("other") is None
        await store.drop_token_key("k2")
        assert [k.kid for k in await store.token_keys()] == ["k1"]


async def test_seal_of_another_store_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with opened(tmp_path) as store, opened(tmp_path / "other") as other:
        with pytest.raises(DamagedStore):
            store.unseal(other.seal(b"x"))
        assert store.seal(b"x") != store.seal(b"x")
