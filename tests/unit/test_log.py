"""The log: one line an event, in one order, without secrets, whoever speaks."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import timeit
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from kosreg import log

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJib2IifQ.c2lnbmF0dXJl"


class Lines:
    """A log to look at."""

    def __init__(self) -> None:
        self.out = io.StringIO()

    @property
    def text(self) -> str:
        return self.out.getvalue()

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A JSON log at debug; afterwards everything is as before."""
    config = structlog.get_config()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    structlog.reset_defaults()
    held = Lines()
    log.configure("debug", "json", held.out)
    yield held
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.configure(**config)


def test_a_line_has_time_level_logger_and_event_first(lines: Lines) -> None:
    structlog.get_logger("kosreg.test").warning("something happened", service="a", n=3)

    (line,) = lines.all
    assert list(line) == ["time", "level", "logger", "event", "service", "n"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {"level": "warning", "logger": "kosreg.test", "event": "something happened", "service": "a", "n": 3}


async def test_each_task_has_its_own_request(lines: Lines) -> None:
    logger = structlog.get_logger("kosreg.test")
    gate = asyncio.Event()

    async def serve(request_id: str, sub: str) -> None:
        log.request(request_id)
        logger.info("before", n=request_id)
        log.request(request_id, sub)
        await gate.wait()
        logger.info("after", n=request_id)

    tasks = [asyncio.create_task(serve(f"r{n}", f"agent{n}")) for n in range(3)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*tasks)
    logger.info("outside")

    for line in lines.all:
        if line["event"] == "outside":
            assert "request_id" not in line
        else:
            assert line["request_id"] == line["n"]
            assert line.get("sub") == (f"agent{line['n'][1:]}" if line["event"] == "after" else None)


def test_context_variables_of_structlog_are_merged(lines: Lines) -> None:
    with structlog.contextvars.bound_contextvars(peer="x"):
        structlog.get_logger("kosreg.test").info("hello")

    assert lines.all[0]["peer"] == "x"


def test_libraries_that_use_logging_go_the_same_way(lines: Lines) -> None:
    log.request("r1", "bob")
    logging.getLogger("aiohttp.server").error("bad %s", f"bearer.{JWT}", extra={"password": "x"})
    logging.getLogger("asyncio").info("chatter")
    log._REQUEST.set(None)

    (line,) = lines.all
    assert line["logger"] == "aiohttp.server"
    assert line["level"] == "error"
    assert line["request_id"] == "r1"
    assert JWT not in lines.text


def test_warnings_go_the_same_way(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("careful", UserWarning, stacklevel=1)

    assert lines.all[0]["logger"] == "py.warnings"


def test_a_broken_call_of_a_library_costs_only_its_line(lines: Lines) -> None:
    (bridge,) = [handler for handler in logging.getLogger().handlers if isinstance(handler, log.Bridge)]
    library = logging.Logger("other")  # apart from the root, where pytest's own handlers raise
    library.addHandler(bridge)

    library.error("%d", "no number")
    library.error("fine")

    assert [line["event"] for line in lines.all] == ["fine"]


def test_exceptions_are_one_line_and_without_secrets(lines: Lines) -> None:
    try:
        raise ValueError(f"cannot reach postgresql://u:hunter2@db with {JWT}")
    except ValueError:
        structlog.get_logger("kosreg.test").exception("call failed")
        logging.getLogger("other").exception("call failed")

    ours, theirs = lines.all
    for line in (ours, theirs):
        assert line["level"] == "error"
        assert "ValueError: cannot reach postgresql://u:[removed]@db with [removed]" in line["exception"]
        assert "Traceback" in line["exception"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_removed_in_both_formats(lines: Lines, format: str) -> None:
    log.configure("debug", format, lines.out)
    structlog.get_logger("kosreg.test").info(
        f"got {JWT}",
        token="hunter2",
        headers={"Authorization": "Bearer hunter2"},
        url="redis://:hunter2@h",
        seed=b"hunter2",
    )

    assert "hunter2" not in lines.text
    assert JWT not in lines.text
    assert lines.text.count("[removed]") == 5


def test_the_console_escapes_what_would_move_the_cursor(lines: Lines) -> None:
    log.configure("info", "console", lines.out)
    structlog.get_logger("kosreg.test").info("registered\nfaked line", name="\x1b[2Jevil\r\u2028x")

    assert lines.text.count("\n") == 1
    assert "\x1b" not in lines.text
    assert "\\x1b[2Jevil\\r" in lines.text


def test_auto_is_json_where_stderr_is_no_terminal(lines: Lines) -> None:
    log.configure("info", "auto", lines.out)
    structlog.get_logger("kosreg.test").info("hello")

    assert lines.all[0]["event"] == "hello"


def test_auto_is_for_people_on_a_terminal(lines: Lines) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    log.configure("info", "auto", terminal)
    structlog.get_logger("kosreg.test").info("hello", n=1)

    assert "\x1b[" in terminal.getvalue()
    assert "hello" in terminal.getvalue()


def test_a_logger_that_was_used_follows_a_new_configuration(lines: Lines) -> None:
    logger = structlog.get_logger("kosreg.test")
    logger.debug("one")
    other = io.StringIO()
    log.configure("warning", "json", other)
    logger.debug("two")
    logger.info("three")
    logger.warning("four")

    assert [line["event"] for line in lines.all] == ["one"]
    assert [json.loads(line)["event"] for line in other.getvalue().splitlines()] == ["four"]


def test_the_level_holds_for_libraries_too(lines: Lines) -> None:
    log.configure("error", "json", lines.out)
    logging.getLogger("other").warning("no")
    logging.getLogger("other").error("yes")

    assert [line["event"] for line in lines.all] == ["yes"]


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_line_that_cannot_be_written_is_counted_and_harms_nobody(lines: Lines) -> None:
    log.configure("info", "json", Full())
    structlog.get_logger("kosreg.test").info("hello")
    logging.getLogger("other").error("hello")

    assert structlog.get_config()["logger_factory"].lost == 2


def test_a_closed_stream_harms_nobody(lines: Lines) -> None:
    lines.out.close()

    structlog.get_logger("kosreg.test").info("hello")


def test_odd_values_are_written_all_the_same(lines: Lines) -> None:
    structlog.get_logger("kosreg.test").info("odd", big=2**80, half="\ud800", nan=float("nan"), none=None, obj=object)

    (line,) = lines.all
    assert line["big"] == 2**80
    assert "none" not in line
    assert "object" in line["obj"]


def test_a_key_cannot_replace_what_each_line_has(lines: Lines) -> None:
    structlog.get_logger("kosreg.test").info("hello", level="fake", time="never")

    assert lines.all[0]["level"] == "info"
    assert lines.all[0]["time"] != "never"


def test_a_call_below_the_level_costs_next_to_nothing(lines: Lines) -> None:
    log.configure("info", "json", lines.out)
    logger = structlog.get_logger("kosreg.fresh")
    logger.debug("first use makes the logger")

    best = min(timeit.repeat(lambda: logger.debug("x", a=1), number=2_000, repeat=20)) / 2_000

    assert best < 5e-6  # 0.7 µs alone on the machine; the bound is for a busy one
    assert not lines.text


def test_nothing_is_configured_by_importing_it() -> None:
    """In a process of its own: others of this one may have configured it."""
    asked = "import logging, structlog, kosreg.log; print(logging.getLogger().handlers, structlog.is_configured())"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=30, check=True)
    assert said.stdout.strip() == "[] False"
