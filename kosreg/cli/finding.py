"""What a check of `kosreg doctor` saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw. `todo`: what to do about it; "" where nothing is to be done."""

    check: str
    state: State
    detail: str
    todo: str = ""

    def as_json(self) -> dict[str, str]:
        return {"check": self.check, "state": self.state, "detail": self.detail, "todo": self.todo}
