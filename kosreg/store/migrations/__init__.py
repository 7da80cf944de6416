"""How the schema came to be, step by step, for Alembic. `kosreg.store.schema` runs them; no alembic.ini is needed."""
