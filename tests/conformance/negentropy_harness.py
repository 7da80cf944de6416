"""Speaks the line protocol of Negentropy's reference project (hoytech/negentropy, `test/`), so that its conformance
runs can be pointed at kosreg, and kosreg at any other implementation.

In, a line each: `item,TIMESTAMP,ID` (any number), `seal`, `initiate` (one side only), `msg,HEX`; blank lines mean
nothing. Out: `msg,HEX`, and on the initiating side `have,ID`, `need,ID` and at the end `done`. FRAMESIZELIMIT in the
environment: bytes of a message (default 0: any size). The other limits of the wire are off: the reference has none. It
ends with 0 when its input does, and with 1 and the reason on stderr at the first line that it cannot follow.

For its `test/Utils.pm`: `return '…/.venv/bin/python …/tests/conformance/negentropy_harness.py';`
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).parents[2]))  # any Python will do: nothing need be installed

from crdt.ordered_set import OrderedSet, item_key
from crdt.reconcile import Initiator, Limits, Responder, finish


class Harness:
    def __init__(self, frame: int) -> None:
        self._limits = Limits(frame=frame, message=0, ranges=0, rounds=0)
        self._keys: list[bytes] = []
        self._items: OrderedSet | None = None
        self._initiator: Initiator | None = None
        self._responder: Responder | None = None

    def line(self, line: str) -> Iterator[str]:
        """The lines that answer `line`. Raises ValueError for what the protocol does not know."""
        if not line:
            return
        match line.split(","):
            case ["item", timestamp, identity] if self._items is None:
                self._keys.append(item_key(int(timestamp), bytes.fromhex(identity)))
            case ["seal"] if self._items is None:
                self._items = OrderedSet(self._keys)
                if len(self._items) != len(self._keys):
                    raise ValueError("an item came twice")
                self._keys.clear()
                self._responder = Responder(self._items, limits=self._limits)
            case ["initiate"] if self._items is not None and self._initiator is None:
                self._initiator = Initiator(self._items, limits=self._limits)
                yield self._message(finish(self._initiator.initiate())[1])
            case ["msg", message] if self._responder is not None:
                yield from self._answer(bytes.fromhex(message))
            case [command, *_]:
                raise ValueError(f"{command!r} is no command, has fields too few or many, or comes at the wrong time")

    def _answer(self, message: bytes) -> Iterator[str]:
        if self._initiator is None:
            assert self._responder is not None
            yield self._message(finish(self._responder.receive(message))[1])
            return
        found, answer = finish(self._initiator.receive(message))
        yield from (f"have,{identity.hex()}" for identity in found.have)
        yield from (f"need,{identity.hex()}" for identity in found.need)
        yield "done" if answer is None else self._message(answer)

    def _message(self, message: bytes) -> str:
        if self._limits.frame and len(message) > self._limits.frame:
            raise ValueError(f"a message has {len(message)} bytes, above the limit of {self._limits.frame}")
        return f"msg,{message.hex()}"


def main(lines: TextIO, answers: TextIO) -> int:
    try:
        harness = Harness(int(os.environ.get("FRAMESIZELIMIT") or 0))
        for line in lines:
            for answer in harness.line(line.strip()):
                answers.write(answer + "\n")
            answers.flush()
    except ValueError as error:
        print(f"negentropy_harness: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin, sys.stdout))
