"""Where a node's API is, and what a caller needs to talk to it.

A running node leaves two files in its data directory: `run.json` (process id, API address) and `admin.token`. They are
all that a program of the same user needs, so nothing is configured twice. A node on another machine, or of another
user, is named by its address and a token of one's own.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kosreg.client.errors import CannotRead, NotRunning

RUN_FILE = "run.json"
TOKEN_FILE = "admin.token"  # noqa: S105  a file's name, not a secret


@dataclass(frozen=True, slots=True)
class Address:
    """A base URL without a trailing slash, and the socket's path where the API listens on a Unix socket."""

    url: str
    socket: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """`http://HOST:PORT`, `https://HOST:PORT`, `HOST:PORT` or `unix:PATH`. Raises ValueError with the reason."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            path = path[2:] if path.startswith("///") else path
            if not path:
                raise ValueError("unix: needs the path of a socket, as in unix:/run/kosreg/api.sock")
            # The host is what a request's Host header says; nodes accept this name on a socket of their own.
            return cls("http://localhost", unquote(path))
        parts = urlsplit(text if "://" in text else f"http://{text}")
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{text!r} is neither http://, https:// nor unix:PATH")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{text!r} is not an address: {error}") from None
        if not host:
            raise ValueError(f"{text!r} names no host")
        if parts.username or parts.password or parts.query or parts.fragment or parts.path not in ("", "/"):
            raise ValueError(f"{text!r} has more than a host and a port; a token never belongs in an address")
        host = f"[{host}]" if ":" in host else host
        return cls(f"{parts.scheme}://{host}:{port}" if port else f"{parts.scheme}://{host}")

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else self.url

    @property
    def tls(self) -> bool:
        return self.url.startswith("https:")


@dataclass(frozen=True, slots=True)
class Target:
    """A node to talk to: its address, our token, and the certificate that it must show.

    `pinned`: the PEM file that the node itself serves from. It is on this machine, so exactly that certificate is
    expected, whatever its names and issuer are. `ca`: a PEM file of authorities to trust instead of the system's.
    """

    address: Address
    token: str | None = None
    pinned: Path | None = None
    ca: Path | None = None
    data_dir: Path | None = None
    """Where this was read from; None where the caller named the address."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """What a running node says about itself in its data directory."""

    pid: int
    api: str
    tls_cert: Path | None


def read_run_file(data_dir: Path) -> RunFile | None:
    """The node's `run.json`, or None where there is none. Raises CannotRead where it is there and of no use."""
    path = data_dir / RUN_FILE
    try:
        values = json.loads(path.read_bytes())
        cert = values.get("tls_cert")
        return RunFile(int(values["pid"]), str(values["api"]), Path(cert) if cert else None)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise CannotRead(
            "no data directory", f"{data_dir} is not a directory", "name another with --data-dir"
        ) from None
    except OSError as error:
        raise CannotRead("the data directory is not readable", f"{path}: {error.strerror}", _OTHER_USER) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CannotRead("run.json is damaged", str(path), "start the node again, it writes the file anew") from None


def find_node(data_dir: Path, token: str | None = None) -> Target:
    """The node that runs on `data_dir`, with its admin token unless the caller brings one.

    Raises NotRunning where no living process is named (a token is never sent to whoever took over the port of a node
    that is gone), CannotRead where the files are not for this user.
    """
    run = read_run_file(data_dir)
    start = f"start it with: {start_command(data_dir)}"
    if run is None:
        raise NotRunning("no node is running", f"nothing in {data_dir} says where one is", start)
    if not alive(run.pid):
        raise NotRunning("the node is not running", f"process {run.pid} of {data_dir} is gone", start)
    try:
        address = Address.parse(run.api)
    except ValueError as error:
        raise CannotRead(
            "run.json is damaged", f"{data_dir / RUN_FILE}: {error}", "start the node again, it writes the file anew"
        ) from None
    return Target(address, token or read_token(data_dir / TOKEN_FILE), pinned=run.tls_cert, data_dir=data_dir)


def read_token(path: Path) -> str:
    """The token in a file. Raises CannotRead."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise CannotRead("there is no token", f"{path} is not there", "the node may still be starting") from None
    except OSError as error:
        raise CannotRead("the token is not readable", f"{path}: {error.strerror}", _OTHER_USER) from None
    except UnicodeDecodeError:
        raise CannotRead("the token is damaged", f"{path} does not hold a token") from None
    if not token or any(c.isspace() for c in token):
        raise CannotRead("the token is damaged", f"{path} does not hold a token")
    return token


def start_command(data_dir: Path) -> str:
    """What starts the node of this directory, ready for a shell."""
    return f"kosreg run --data-dir {shlex.quote(str(data_dir))}"


def alive(pid: int) -> bool:
    """Whether a process with this id exists (it may belong to somebody else)."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


_OTHER_USER = "run as the node's user, or set KOSREG_API and KOSREG_TOKEN to a token of your own"
