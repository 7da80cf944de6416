"""Alembic's entry: runs the steps on the connection that `kosreg.store.schema` hands over, in the transaction it has
begun.
"""

from alembic import context

from kosreg.service_model import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter a column: Alembic copies the table
)
context.run_migrations()
