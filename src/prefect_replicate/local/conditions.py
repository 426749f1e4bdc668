"""Under what conditions a server runs: how it behaves, what goes wrong, and what time it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from prefect_replicate.local.behaviour import Behaviour
from prefect_replicate.local.faults import Fault, Faults, Target


class Conditions:
    """What a server's parts look at before they act; may be changed at any time.

    Args:
        behaviour: How it behaves at first.

    Attributes:
        behaviour: How it behaves now.
        faults: What goes wrong.
    """

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.faults = Faults()

    def now(self) -> datetime:
        """The time by the server's clock, which may be set wrong on purpose."""
        return datetime.now(UTC) + timedelta(seconds=self.behaviour.clock_offset)

    def seconds(self) -> float:
        """Seconds of a clock that never jumps."""
        return time.monotonic()

    def strike(self, target: Target, **thing: str) -> Fault | None:
        """What goes wrong with this request, run or webhook, if anything does."""
        return self.faults.strike(target, self.seconds(), **thing)
