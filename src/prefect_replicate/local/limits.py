"""How often a client may ask: Replicate's budgets, and what it says when one is used up.

Pure but for the counting; seconds are of some clock that never jumps.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from prefect_replicate.local.behaviour import Behaviour
from prefect_replicate.local.problems import Problem

_CREATE = re.compile(r"/predictions|/(?:models|deployments)/[^/]+/[^/]+/predictions")
_GET = re.compile(r"/predictions/[^/]+")
CREATES = 600  # a minute, as documented; the other kinds of requests likewise
OTHERS = 3000
LOW_CREDIT = 6
_NO_CREDIT = (
    "You have insufficient credit to run this model. Go to "
    "https://replicate.com/account/billing#billing to purchase credit."
)


@dataclass(slots=True)
class _Bucket:
    """So many requests a minute, and as many at once.

    Attributes:
        left: What is left of it, as of `at`.
    """

    left: float
    at: float

    def take(self, now: float, a_minute: int, at_once: int) -> float:
        """Take one if there is one; seconds until there is one, or 0."""
        self.left = min(self.left + (now - self.at) * a_minute / 60, at_once)
        self.at = now
        if self.left < 1:
            return (1 - self.left) * 60 / a_minute
        self.left -= 1
        return 0.0


class Limits:
    """The budgets of the one account."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def count(self, method: str, path: str, now: float, behaviour: Behaviour) -> dict[str, str]:
        """Count a request to the API; the headers that tell what is left.

        Raises:
            Problem: 402 or 429, where that is how the service behaves.
        """
        creates = method == "POST" and _CREATE.fullmatch(path) is not None
        if creates and behaviour.credit == "none":
            raise no_credit()
        low = creates and behaviour.credit == "low"
        name, most = _budget(method, path, behaviour, creates=creates)
        a_minute, at_once = (LOW_CREDIT, 1) if low else (most, most)
        bucket = self._buckets.setdefault(name, _Bucket(at_once, now))
        wait = bucket.take(now, a_minute, at_once)
        if wait and (low or behaviour.throttling):
            raise _used_up(math.ceil(wait), behaviour, low=low)
        return {"RateLimit-Remaining": str(int(bucket.left)), "RateLimit-Reset": "1"}


def _budget(method: str, path: str, behaviour: Behaviour, *, creates: bool) -> tuple[str, int]:
    if creates:
        return "creates", CREATES
    if behaviour.get_budget != OTHERS and method == "GET" and _GET.fullmatch(path):
        return "reads", behaviour.get_budget
    return "others", OTHERS


def _used_up(seconds: int, behaviour: Behaviour, *, low: bool) -> Problem:
    problem = low_credit(seconds) if low else throttled(seconds)
    if behaviour.retry_after_header:
        problem.headers["Retry-After"] = str(seconds)
    return problem


def throttled(seconds: int | None = None, **extra: Any) -> Problem:
    """429; `seconds` until the next request, if the text is to say so."""
    reset = "" if seconds is None else f" Your rate limit resets in ~{seconds}s."
    return Problem(429, f"Request was throttled.{reset}", **extra)


def low_credit(seconds: int) -> Problem:
    """429 of an account with little credit; `seconds` until the next create."""
    text = (
        "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests "
        "per minute with a burst of 1 requests while you have less than $5.0 in credit. Your rate "
        f"limit resets in ~{seconds}s."
    )
    return Problem(429, text, retry_after=seconds)


def no_credit() -> Problem:
    """402: nothing runs until somebody pays."""
    return Problem(402, _NO_CREDIT, "Insufficient credit")
