"""How fast a subject may call: a budget of calls and one of heartbeats each, and none for admins.

GCRA (the leaky bucket as one number a subject: when its budget will be whole again), on the monotonic clock. It is
ours, not a library's: throttled-py, tried first, took 4 to 7 µs of each call, more than the rest of the door, for the
same arithmetic behind locks and stores; this takes a fraction of one. When `MAX_SUBJECTS` are known those whose budget
is whole are forgotten, which changes nothing for them, and if that is not enough the one that was there the longest.

A third budget belongs to addresses: failed authentications. It is charged after a failure only and so never shuts out a
good token that comes from the same address, as all agents of a machine do; it answers a flood with 429 instead of
401, so that clients wait and the log stays short.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

from kosreg.auth.caller import Caller
from kosreg.problems import Problem

Kind = Literal["calls", "beats"]

MAX_SUBJECTS: Final = 16_384


class Budget:
    """`rate` a second, `burst` at once after silence, for each key by itself."""

    __slots__ = ("_clock", "_full_at", "_interval", "_window")

    def __init__(self, rate: int, burst: int, clock: Callable[[], float]) -> None:
        self._interval = 1.0 / rate  # s that one call costs
        self._window = burst / rate  # s of calls that may come at once
        self._clock = clock
        self._full_at: dict[str, float] = {}  # key → when its budget is whole again

    def take(self, key: str, cost: int = 1) -> float:
        """0.0 where `cost` was taken, else the seconds until it can be; then nothing is taken."""
        now = self._clock()
        full_at = self._full_at.get(key, now)
        after = (full_at if full_at > now else now) + cost * self._interval
        wait = after - now - self._window
        if wait > 1e-9:
            return wait
        if key not in self._full_at and len(self._full_at) >= MAX_SUBJECTS:
            self._forget(now)
        self._full_at[key] = after
        return 0.0

    def _forget(self, now: float) -> None:
        self._full_at = {key: at for key, at in self._full_at.items() if at > now}
        while len(self._full_at) >= MAX_SUBJECTS:
            del self._full_at[next(iter(self._full_at))]


class Limits:
    """The budgets. Rates are per second; a burst is what may come at once after silence."""

    def __init__(
        self,
        calls_per_s: int = 2_000,
        calls_burst: int = 4_000,
        beats_per_s: int = 20_000,
        beats_burst: int = 40_000,
        failures_per_s: int = 20,
        failures_burst: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budgets: dict[Kind, Budget] = {
            "calls": Budget(calls_per_s, calls_burst, clock),
            "beats": Budget(beats_per_s, beats_burst, clock),
        }
        self._bursts: dict[Kind, int] = {"calls": calls_burst, "beats": beats_burst}
        self._failures = Budget(failures_per_s, failures_burst, clock)

    def charge(self, caller: Caller, kind: Kind, cost: int = 1) -> None:
        """Takes `cost` from the caller's budget. Raises Problem: rate-limited, or too-large where it can never fit."""
        if caller.admin:
            return
        wait = self._budgets[kind].take(caller.sub, cost)
        if not wait:
            return
        burst = self._bursts[kind]
        if cost > burst:
            raise Problem.of("too-large", f"This node takes at most {burst} {kind} at once. Send fewer in one request.")
        raise Problem.rate_limited(
            wait,
            f"{caller.sub} has used up its budget of {kind}. Wait as long as Retry-After says, then go on more slowly.",
        )

    def charge_failure(self, address: str) -> None:
        """Counts a failed authentication from `address`. Raises Problem where there were too many."""
        wait = self._failures.take(address or "unknown")
        if wait:
            raise Problem.rate_limited(
                wait,
                "Too many calls from here had no valid token. Mend the token, and wait as long as Retry-After says.",
            )
