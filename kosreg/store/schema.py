"""Brings the schema up to date: Alembic, run from here on a connection of ours.

All steps and the version's own row are one transaction, so that a process killed in between leaves the schema as it
was. Alembic is imported only when there is something to do: it costs a tenth of a second, and most starts have nothing
to do.
"""

from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from kosreg.store.errors import SchemaMismatch
from kosreg.store.rows import Opened

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0002"  # the newest step; a test compares it with the files


def version_of(connection: Connection, where: str) -> str | None:
    """The version of the schema, None for an empty database. Raises SchemaMismatch for somebody else's."""
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" in tables:
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if version is not None:
            return str(version)
    elif not tables:
        return None
    raise not_ours(where, tables)


def not_ours(where: str, tables: Iterable[str]) -> SchemaMismatch:
    """What a database of another program is told."""
    return SchemaMismatch(
        f"{where}: its tables ({', '.join(sorted(tables))[:200]}) are not those of kosreg.",
        "Give the node a path of its own (store.url).",
    )


def upgrade(connection: Connection, where: str) -> Opened:
    """Runs what is missing, inside a transaction that the caller commits. Raises SchemaMismatch."""
    found = version_of(connection, where)
    if found == HEAD:
        return Opened("current", HEAD)

    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    if found is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(found)
        except CommandError as error:
            raise SchemaMismatch(f"{where}: its version is {found}, this release knows up to {HEAD}.") from error
    if connection.dialect.name == "sqlite":
        # The driver begins a transaction only before INSERT and the like; tables must not be made one by one.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    command.upgrade(config, HEAD)
    return Opened("migrated" if found else "created", HEAD, found)
