"""The durable store: `Store` (store.py), the group-commit writer, the values that go in and out, the errors."""

from kosreg.store.errors import (
    CannotOpen,
    DamagedStore,
    ForeignStore,
    SchemaMismatch,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreRefused,
    StoreUnavailable,
)
from kosreg.store.rows import (
    COMMIT_SHIFT,
    Batch,
    Damage,
    Opened,
    Row,
    StoredEntry,
    StoreStats,
    TokenKey,
    TokenRow,
)
from kosreg.store.store import Store

__all__ = [
    "COMMIT_SHIFT",
    "Batch",
    "CannotOpen",
    "Damage",
    "DamagedStore",
    "ForeignStore",
    "Opened",
    "Row",
    "SchemaMismatch",
    "Store",
    "StoreBusy",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreRefused",
    "StoreStats",
    "StoreUnavailable",
    "StoredEntry",
    "TokenKey",
    "TokenRow",
]
