"""TCP ports that belong to a lab for as long as it lives, whether the node behind one runs or not.

A socket that is bound but does not listen keeps the port: nobody else is given it, a dial is refused as on any closed
port, and the one who knows of it (with SO_REUSEADDR, which asyncio sets) may listen there.
"""

from __future__ import annotations

import socket
from typing import Final

HOST: Final = "127.0.0.1"


class Port:
    """A free port on loopback, ours until `close`. `number`: the port."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Bound without SO_REUSEADDR, so that two labs never get one port; with it from then on, so that whoever
            # is to listen here can.
            self._socket.bind((HOST, 0))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            self._socket.close()
            raise
        self.number: int = self._socket.getsockname()[1]

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"{HOST}:{self.number}"

    def close(self) -> None:
        self._socket.close()
