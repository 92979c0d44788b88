"""Whether an attempt is repeated, and when: pure decisions over what is proven.

Not sent and refused-for-now are repeated freely within attempts, elapsed and budget. What may
have been executed is looked up first (`reconcile`); only a look-up that showed it was not may be
followed by a repetition, and a cancel-all only shortly after its first send, since the set of
commands that it takes grows with time.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from worker.clock import Clock
from worker.run.stop import Bounds, Switch

_ONE = 1.0 - 1e-9  # ten times a tenth is a little less


class RetryRules(Struct, frozen=True):
    """The `retry` section of the configuration."""

    attempts: int = 4  # of one call in one pass, the first included
    wait_initial: float = 0.5  # seconds; doubled at each further attempt, drawn from [0, wait)
    wait_max: float = 20.0  # seconds
    elapsed: float = 120.0  # seconds from the first attempt of a call in a pass
    ambiguous_window: float = 60.0  # seconds after the first send of a cancel-all
    retry_after_max: float = 300.0  # seconds; a longer Retry-After stops the run
    budget: float = 0.10  # share of the pass's calls that may be repetitions
    budget_reserve: int = 10  # repetitions of a run that need no earlier calls
    passes: int = 2  # later passes over what is proven unsent
    cooldown: float = 10.0  # seconds before a later pass


class Budget:
    """How many repetitions a run may afford: a share of each pass's calls, and one reserve."""

    def __init__(self, rules: RetryRules) -> None:
        self._share = rules.budget
        self._reserve = float(rules.budget_reserve)
        self._earned = 0.0

    def called(self) -> None:
        """A call was made for the first time in this pass."""
        self._earned += self._share

    def take(self) -> bool:
        """Spend one repetition, if there is one left."""
        if self._earned >= _ONE:
            self._earned -= 1.0
        elif self._earned + self._reserve >= _ONE:
            self._reserve -= 1.0 - self._earned
            self._earned = 0.0
        else:
            return False
        return True

    def next_pass(self) -> None:
        """What a pass did not use does not pay for the next."""
        self._earned = 0.0


class RetryPolicy:
    """Decides over repetitions; the same rules pace the attempts at a token."""

    def __init__(self, rules: RetryRules, clock: Clock) -> None:
        self.rules = rules
        self._clock = clock

    def delay(self, attempt: int, started: float, budget: Budget) -> float | None:
        """Seconds before attempt + 1 of a call that is proven not executed; None: give up.

        attempt counts from 1; started is the monotonic moment of the first one of this pass.
        """
        if self.spent(attempt):
            return None
        delay = self.backoff(attempt)
        if self._clock.monotonic() + delay - started > self.rules.elapsed:
            return None
        return delay if budget.take() else None

    def spent(self, attempt: int) -> bool:
        """Whether this attempt, counted from 1, was the last of its pass."""
        return attempt >= self.rules.attempts

    def may_repeat_cancel_all(self, first_sent: float | None) -> bool:
        """Whether a cancel-all that may have gone out at first_sent (monotonic) can go again."""
        if first_sent is None:
            return True
        return self._clock.monotonic() - first_sent <= self.rules.ambiguous_window

    def backoff(self, attempt: int) -> float:
        """Full jitter: anything up to the wait of this attempt, in seconds."""
        ceiling = min(self.rules.wait_max, self.rules.wait_initial * 2.0 ** min(attempt - 1, 30))
        return ceiling * self._clock.chance()


class TokenPatience:
    """How often and how long a token is asked for: `gateway.token.Patience`."""

    def __init__(self, policy: RetryPolicy, clock: Clock, switch: Switch, bounds: Bounds) -> None:
        self._policy = policy
        self._clock = clock
        self._switch = switch
        self._bounds = bounds

    def delays(self) -> Iterator[float]:
        """The waits between tries, until attempts or elapsed are spent."""
        started = self._clock.monotonic()
        for attempt in range(1, self._policy.rules.attempts):
            delay = self._policy.backoff(attempt)
            if self._clock.monotonic() + delay - started > self._policy.rules.elapsed:
                return
            yield delay

    async def wait(self, seconds: float) -> bool:
        """Sleep; False when the run is stopping, or has to: nothing more is asked for."""
        if not await self._switch.sleep(seconds):
            return False
        if stop := self._bounds.passed():
            self._switch.throw(stop)
        return stop is None
