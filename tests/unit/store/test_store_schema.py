"""The schema and its statements, without a file: steps and models agree, and PostgreSQL would take all of it."""

import re
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Dialect, create_engine
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.schema import CreateTable

from kosreg.service_model import (
    AliasRow,
    AnchorRow,
    AuditRow,
    Base,
    EntryRow,
    InviteRow,
    IssuedTokenRow,
    MetaRow,
    SecretRow,
    TokenKeyRow,
)
from kosreg.store import schema
from kosreg.store.dialect import Statements


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_newest_step_is_the_one_that_the_store_asks_for() -> None:
    steps = ScriptDirectory(str(schema.MIGRATIONS))
    assert steps.get_heads() == [schema.HEAD]


def test_steps_lead_to_the_tables_of_the_model(connection: Connection) -> None:
    schema.upgrade(connection, "memory")
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    assert compare_metadata(context, Base.metadata) == []


def test_sequence_number_is_the_row_number_of_sqlite(connection: Connection) -> None:
    """Else every row is in one tree more, and a load jumps about in the file."""
    schema.upgrade(connection, "memory")
    connection.exec_driver_sql(
        "INSERT INTO entries (seq, origin, kind, name, cls, root, id, raw, checksum) "
        "VALUES (7, '', '', '', 0, '', '', '', 0)"
    )
    assert connection.exec_driver_sql("SELECT rowid FROM entries").scalar() == 7


@pytest.mark.parametrize("dialect", [SQLiteDialect_aiosqlite(), PGDialect_asyncpg()], ids=lambda d: d.name)  # type: ignore[no-untyped-call]
def test_rows_are_in_the_order_of_the_tables(dialect: Dialect) -> None:
    """The store hands over tuples: their order is that of the columns, or of the key."""
    made = Statements.of(dialect)
    for put, table in (
        (made.put_entry, EntryRow),
        (made.put_secret, SecretRow),
        (made.put_token_key, TokenKeyRow),
        (made.put_token, IssuedTokenRow),
        (made.put_anchor, AnchorRow),
        (made.put_invite, InviteRow),
        (made.put_alias, AliasRow),
        (made.put_meta, MetaRow),
    ):
        assert put.columns == tuple(column.name for column in table.__table__.columns)
        assert "ON CONFLICT" in put.sql
    assert made.add_audit.columns == tuple(column.name for column in AuditRow.__table__.columns)
    assert "ON CONFLICT" not in made.add_audit.sql
    assert made.drop_entry.columns == ("k_origin", "k_kind", "k_name", "k_cls", "k_root")
    assert made.drop_token.columns == ("k_jti",)
    assert set(made.load.row(after=1, most=2)) >= {1, 2}


def test_postgresql_would_take_the_tables() -> None:
    dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
    text = "".join(str(CreateTable(table).compile(dialect=dialect)) for table in Base.metadata.tables.values())
    assert re.search(r"seq BIGINT NOT NULL", text)
    assert "BYTEA" in text
    assert "BLOB" not in text
