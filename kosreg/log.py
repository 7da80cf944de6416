"""The log: structlog everywhere, JSON lines or a coloured console, on stderr.

    log = structlog.get_logger("kosreg.api")          in a class or module that has something to say
    log.info("service registered", service=id)        the event in plain words, facts as keys

Each line has `time` (RFC 3339, UTC, ms), `level`, `logger` and `event`; while a request is served also `request_id` and
`sub`, which `serving` binds. What libraries say through `logging` and `warnings` goes the same way. `kosreg.redaction`
takes the secrets out of every line, texts of exceptions included.

Writing never raises: a full disk or a closed pipe costs lines, not the daemon. A call below the level costs well under
a microsecond: loggers are made once, at their first use. So that `configure` can be called again all the same, the
processors and the target are changed in place.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from kosreg.redaction import redact
from kosreg.times import now_ms, rfc3339

LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS: Final = ("auto", "json", "console")
_NUMBERS: Final = {**LEVELS, "warn": logging.WARNING, "exception": logging.ERROR, "critical": logging.CRITICAL}
_QUIET: Final = ("aiohttp.access", "aiosqlite", "alembic", "asyncio", "sqlalchemy")
"""Loggers of libraries whose info lines say what ours or the metrics say better."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class Served(Protocol):
    """A request, as a line of the log names it."""

    @property
    def request_id(self) -> str: ...
    @property
    def sub(self) -> str | None: ...


class Request(NamedTuple):
    """The plain form of `Served`."""

    request_id: str
    sub: str | None = None


_REQUEST: ContextVar[Served | None] = ContextVar("kosreg_request", default=None)

serving: Final = _REQUEST.set
"""Binds the request that this task serves from now on. It is asked for its names when a line is written, not before:
most requests write none, and this is on the way of each."""


def request(request_id: str, sub: str | None = None) -> None:
    """Binds a request whose names are known already."""
    _REQUEST.set(Request(request_id, sub))


def configure(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """Sets up the log of this process: `level` of `LEVELS`, `format` of `FORMATS`, to `stream` (stderr).

    Called again, it changes format, target and level; a logger that was used before cannot become more talkative.
    """
    out = sys.stderr if stream is None else stream
    people = format == "console" or (format == "auto" and out.isatty())
    last: list[Processor] = [_printable, _console(out.isatty())] if people else [_as_json]
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _head,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _redacted,
        *last,
    ]
    before = structlog.get_config()
    target, chain = before["logger_factory"], before["processors"]
    if not isinstance(target, Target):
        target, chain = Target(), []
    chain[:] = processors
    target.out, target.level = out, LEVELS[level]
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=target,
        cache_logger_on_first_use=True,
    )
    _bridge(target, chain)


class Target:
    """Where lines go; makes the loggers. `lost`: lines that could not be written."""

    def __init__(self) -> None:
        self.out: TextIO = sys.stderr
        self.level = logging.INFO
        self.lost = 0
        self._lock = threading.Lock()

    def __call__(self, *args: object) -> Named:
        return Named(self, str(args[0]) if args else "kosreg")

    def write(self, line: str) -> None:
        """`line` and a newline. Never raises."""
        try:
            with self._lock:
                self.out.write(line + "\n")
                self.out.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed, or cannot encode
            self.lost += 1


class Named:
    """What structlog wraps: a name, and the target."""

    __slots__ = ("name", "target")

    def __init__(self, target: Target, name: str) -> None:
        self.target = target
        self.name = name

    def msg(self, line: str) -> None:
        self.target.write(line)

    debug = info = warning = warn = error = critical = exception = log = msg


class Bridge(logging.Handler):
    """Takes what libraries say through `logging` the way of our own lines."""

    def __init__(self, target: Target, chain: list[Processor]) -> None:
        super().__init__()
        self._target = target
        self._chain = chain

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = {"event": record.getMessage(), "exc_info": record.exc_info}
            if record.stack_info:
                event["stack"] = record.stack_info
            named = Named(self._target, record.name)
            for processor in self._chain:
                event = processor(named, record.levelname.lower(), event)
            self._target.write(event)
        except Exception:  # what somebody else's log call did wrong must not end whoever made it
            self._target.lost += 1


def _bridge(target: Target, chain: list[Processor]) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Bridge)]:
        root.removeHandler(handler)
    root.addHandler(Bridge(target, chain))
    root.setLevel(target.level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, target.level))
    logging.captureWarnings(True)


# ---- processors


def _head(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Puts in front what each line has."""
    if isinstance(logger, Named):
        if _NUMBERS.get(method, logging.CRITICAL) < logger.target.level:
            raise structlog.DropEvent
        name = logger.name
    else:
        name = "kosreg"
    level = {"warn": "warning", "exception": "error"}.get(method, method)
    head: dict[str, Any] = {"time": rfc3339(now_ms()), "level": level, "logger": name, "event": event.pop("event", "")}
    current = _REQUEST.get()
    if current is not None:
        head["request_id"] = current.request_id
        sub = current.sub
        if sub is not None:
            head["sub"] = sub
    for key, value in event.items():
        if key not in head and (value is not None or key == "exc_info"):
            head[key] = value
    return head


def _redacted(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return redact(dict(event))


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event).decode()
    except (TypeError, ValueError):  # an integer over 64 bits, half a surrogate pair
        return json.dumps(event, default=str)


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escapes control characters: a name must not move the cursor of whoever reads the log, nor fake a line."""
    for key, value in event.items():
        if isinstance(value, str):
            shown = value if key in ("exception", "stack") else value.replace("\n", "\\n")
            event[key] = _CONTROL.sub(lambda match: repr(match[0])[1:-1], shown)
    return event


def _console(colors: bool) -> Processor:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors,
        timestamp_key="time",
        exception_formatter=structlog.dev.plain_traceback,
        pad_event_to=34,
        sort_keys=False,
    )

    def render(logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> str:
        return str(renderer(logger, method, event))

    return render
