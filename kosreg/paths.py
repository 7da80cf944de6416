"""Where a node keeps its files: the data directory and the names in it.

The command line needs this for every call, so nothing heavy is imported here (pydantic alone would cost 0.4 s).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

NODE_KEY: Final = "node.key"
NEXT_KEY: Final = "next.key"
AFTER_KEY: Final = "after.key"
ADMIN_TOKEN: Final = "admin.token"  # noqa: S105  (a file name)
DATABASE: Final = "registry.db"
RUN_FILE: Final = "run.json"
CONFIG: Final = "kosreg.toml"

_OURS: Final = frozenset({NODE_KEY, NEXT_KEY, AFTER_KEY, ADMIN_TOKEN, DATABASE, RUN_FILE, CONFIG})


class DataDirError(Exception):
    """The data directory cannot be used; the text says why and what to do."""

    title = "the data directory cannot be used"


def data_dir(option: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The data directory, absolute, made or not: the option, `KOSREG_DATA_DIR`, `$STATE_DIRECTORY`, platformdirs.

    systemd may give several paths in `STATE_DIRECTORY`, joined by colons: the first counts.
    """
    env = os.environ if environ is None else environ
    state, _, _ = env.get("STATE_DIRECTORY", "").partition(":")
    chosen = (os.fspath(option) if option else "") or env.get("KOSREG_DATA_DIR", "") or state
    if not chosen:
        from platformdirs import user_data_dir

        chosen = user_data_dir("kosreg", appauthor=False)
    return Path(os.path.abspath(os.path.expanduser(chosen)))


def make_data_dir(path: Path) -> None:
    """Makes `path` (and its parents), open to its owner alone (0700). Raises DataDirError.

    An existing directory that others may enter is closed to them only if it is empty or already a node's:
    `--data-dir /tmp` must not lock everybody out of /tmp.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
        if not stat.S_IMODE(info.st_mode) & 0o077:
            return
        names = set(os.listdir(path))
        if (names and not names & _OURS) or info.st_mode & stat.S_ISVTX:
            raise DataDirError(
                f"{path} holds other things and is open to others. Give the node a directory of its own, or run: "
                f"chmod 700 {path}"
            )
        path.chmod(0o700)
    except OSError as error:
        raise DataDirError(
            f"{path}: {error.strerror or error}. Choose another with --data-dir or KOSREG_DATA_DIR, or mend its owner "
            "and permissions."
        ) from error
