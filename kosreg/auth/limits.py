"""How fast a subject may call: a budget of calls and one of heartbeats each, and none for admins.

GCRA of throttled-py, in memory: one number a subject, on the monotonic clock. (Its token bucket counts in whole
seconds of the wall clock, so a clock set back would stop the refill.) Its store forgets the subject that was silent
the longest when `MAX_SUBJECTS` are known; that one then has its full burst again, which harms nobody.

A third budget belongs to addresses: failed authentications. It is charged after a failure only and so never shuts out a
good token that comes from the same address, as all agents of a machine do; it answers a flood with 429 instead of
401, so that clients wait and the log stays short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from throttled import MemoryStore, RateLimitResult, Throttled, per_sec

from kosreg.auth.caller import Caller
from kosreg.problems import Problem

Kind = Literal["calls", "beats"]

MAX_SUBJECTS: Final = 16_384


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
    ) -> None:
        self._budgets: dict[Kind, Callable[[str, int], RateLimitResult]] = {
            "calls": _budget(calls_per_s, calls_burst),
            "beats": _budget(beats_per_s, beats_burst),
        }
        self._bursts: dict[Kind, int] = {"calls": calls_burst, "beats": beats_burst}
        self._failures = _budget(failures_per_s, failures_burst)

    def charge(self, caller: Caller, kind: Kind, cost: int = 1) -> None:
        """Takes `cost` from the caller's budget. Raises Problem: rate-limited, or too-large where it can never fit."""
        if caller.admin:
            return
        result = self._budgets[kind](caller.sub, cost)
        if not result.limited:
            return
        burst = self._bursts[kind]
        if cost > burst:
            raise Problem.of("too-large", f"This node takes at most {burst} {kind} at once. Send fewer in one request.")
        raise Problem.rate_limited(
            result.state.retry_after,
            f"{caller.sub} has used up its budget of {kind}. Wait as long as Retry-After says, then go on more slowly.",
        )

    def charge_failure(self, address: str) -> None:
        """Counts a failed authentication from `address`. Raises Problem where there were too many."""
        result = self._failures(address or "unknown", 1)
        if result.limited:
            raise Problem.rate_limited(
                result.state.retry_after,
                "Too many calls from here had no valid token. Mend the token, and wait as long as Retry-After says.",
            )


def _budget(rate: int, burst: int) -> Callable[[str, int], RateLimitResult]:
    """Takes a cost from the budget of a key. The bare limiter: `Throttled` adds hooks and waiting, for 1 µs."""
    store = MemoryStore(options={"MAX_SIZE": MAX_SUBJECTS})
    return Throttled(using="gcra", quota=per_sec(rate, burst=burst), store=store).limiter.limit
