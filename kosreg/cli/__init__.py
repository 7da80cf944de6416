"""The `kosreg` command. It talks HTTP to a node like everybody else; only `run` is the node itself.

One file a family of commands: `running` (run), `tokens`, `services` with `watching`, `transfer` and `verifying`,
`status`, `doctor`. What they share is in `shared`: options, exit codes, the way errors are told.
"""

from __future__ import annotations


def main() -> None:
    """The entry point of the `kosreg` command."""
    from kosreg.cli.main import app

    app(prog_name="kosreg")
