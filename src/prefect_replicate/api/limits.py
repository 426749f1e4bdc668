"""Request budgets: how often Replicate may be asked, and what a 429 says of that.

Replicate allows 600 creates of predictions and 3,000 other requests a minute, and accounts with
little credit far fewer creates; a 429 tells. Kept by arithmetic on a clock that is passed in: a
budget never sleeps, it says for how long to.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

CREATES_A_MINUTE = 600.0
OTHERS_A_MINUTE = 3000.0

# The operations that the first limit is for; creating a training counts among the others.
LIMITED_CREATES = frozenset(
    {"predictions.create", "models.predictions.create", "deployments.predictions.create"}
)

# A minute's worth may go at once: recorded answers to a first create say that 599 remain, and that
# one more comes each tenth of a second.
_BURST_SECONDS = 60.0
# A lowered limit is tried at its old height again after this long without another 429.
_FORGET_AFTER = 300.0
_LOWERED = re.compile(r"(\d+)\s*(?:requests?|predictions?)?\s*(?:per|a|/)\s*min", re.IGNORECASE)


@dataclass(slots=True)
class Budget:
    """So many requests a minute, spread evenly once they are used up (the GCRA algorithm).

    Attributes:
        per_minute: Requests a minute; what it is lowered to for a while if a 429 says so.
    """

    per_minute: float
    _due: float = field(default=-math.inf, init=False)
    _lowered_to: float | None = field(default=None, init=False)
    _lowered_at: float = field(default=0.0, init=False)

    def reserve(self, now: float) -> float:
        """Take the next place and say how many seconds to wait for it.

        Args:
            now: Seconds on any clock that only goes forward.
        """
        if self._lowered_to and now - self._lowered_at > _FORGET_AFTER:
            self._lowered_to = None
        rate = (self._lowered_to or self.per_minute) / 60.0
        # A lowered limit comes with a burst of one.
        burst = 0.0 if self._lowered_to else _BURST_SECONDS
        due = max(self._due, now - burst)
        self._due = due + 1.0 / rate
        return max(0.0, due - now)

    def throttled(self, now: float, *, wait: float | None, detail: str = "") -> None:
        """Heed a 429: the minute's worth is used up, nothing goes before its wait is over.

        Args:
            now: As in `reserve`.
            wait: Seconds that it asks to wait, where it does.
            detail: Its words; under low credit they name the limit: "6 requests per minute".
        """
        if named := _LOWERED.search(detail):
            self._lowered_to = max(1.0, min(float(named[1]), self.per_minute))
            self._lowered_at = now
        self._due = max(self._due, now + (wait or 0.0))


@dataclass(slots=True)
class Budgets:
    """The two limits of one account."""

    creates: Budget = field(default_factory=lambda: Budget(CREATES_A_MINUTE))
    others: Budget = field(default_factory=lambda: Budget(OTHERS_A_MINUTE))

    def of(self, operation: str) -> Budget:
        """The budget that this operation is counted in."""
        return self.creates if operation in LIMITED_CREATES else self.others
