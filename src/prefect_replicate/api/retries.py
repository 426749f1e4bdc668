"""Whether to send a request again: pure functions from what happened to what to do.

Three verdicts. *Retryable*: nothing was made, or repeating is harmless. *Ambiguous*: the request
may have arrived and the answer is lost; repeating may pay twice, so somebody must look first.
*Permanent*: repeating changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, TypeAlias

from prefect_replicate.api.errors import (
    CreateUnknownError,
    ModelError,
    RateLimitError,
    TransportError,
)


class Verdict(StrEnum):
    """What a failure means for sending the same again."""

    RETRYABLE = "retryable"
    AMBIGUOUS = "ambiguous"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer came: `headers` has lower-case names, `content` is `text` undecoded."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    content: bytes = b""

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object in it, or an empty one: 5xx pages are often HTML."""
        try:
            body = json.loads(self.text)
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No HTTP answer came. `sent` says whether Replicate may have seen the request."""

    reason: str
    sent: bool


Outcome: TypeAlias = Answer | NoAnswer


@dataclass(frozen=True, slots=True)
class Policy:
    """How much patience one call has: attempts in all, and seconds.

    `base` doubles with each attempt up to `cap`. A 429 that asks for more than `patience` seconds
    ends the call instead: a worker should not sleep an hour inside an HTTP client.
    """

    attempts: int = 5
    base: float = 0.5
    cap: float = 30.0
    patience: float = 120.0


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Send the same request again after this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Stop; `verdict` says what that means for a later attempt."""

    verdict: Verdict


Decision: TypeAlias = RetryAfter | GiveUp

_LOST = frozenset({408, 500, 502, 503, 504})
_SECONDS_IN_TEXT = re.compile(r"~?(\d+)\s*s(?:econds?)?\b")


def judge(outcome: Outcome, *, repeatable: bool) -> Verdict:
    """Sort one failed request into the three classes.

    Args:
        outcome: What came back.
        repeatable: Whether the same request may arrive twice without harm: reads, cancels, uploads.
    """
    match outcome:
        case NoAnswer(sent=False) | Answer(status=429):
            return Verdict.RETRYABLE
        case Answer(status=status) if status < 500 and status not in _LOST:
            return Verdict.PERMANENT
    return Verdict.RETRYABLE if repeatable else Verdict.AMBIGUOUS


def decide(
    outcome: Outcome,
    *,
    repeatable: bool,
    attempt: int,
    jitter: float,
    now: datetime,
    policy: Policy,
) -> Decision:
    """Say what to do after the `attempt`-th try (the first is 1) of a request failed.

    Args:
        outcome: What came back.
        repeatable: As in `judge`.
        attempt: How often the request has been sent.
        jitter: A random number from 0 to 1, so that many callers do not come back at once.
        now: The time, for a Retry-After that is a date.
        policy: How much patience the call has.
    """
    verdict = judge(outcome, repeatable=repeatable)
    if verdict is not Verdict.RETRYABLE or attempt >= policy.attempts:
        return GiveUp(verdict)
    backoff = min(policy.cap, policy.base * 2 ** (attempt - 1)) * (1 + jitter / 2)
    asked = retry_after(outcome, now) if isinstance(outcome, Answer) else None
    if asked is None:
        return RetryAfter(backoff)
    if asked > policy.patience:
        return GiveUp(verdict)
    # Never before what was asked for, and spread out after it: all throttled callers read the
    # same number.
    return RetryAfter(asked + backoff * jitter)


def retry_after(answer: Answer, now: datetime) -> float | None:
    """Seconds that an answer asks to wait: header, else body, else the text of a 429.

    The API puts it in different places: a Retry-After header (undocumented), `"retry_after": 5`
    under low credit, and otherwise only words such as "Your rate limit resets in ~30s."
    """
    in_header = _seconds_in_header(answer.headers.get("retry-after", ""), now)
    if in_header is not None:
        return in_header
    body = answer.body
    seconds = body.get("retry_after")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        return max(0.0, float(seconds))
    words = _SECONDS_IN_TEXT.search(str(body.get("detail", "")))
    return float(words[1]) if words and answer.status == 429 else None


def _seconds_in_header(header: str, now: datetime) -> float | None:
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (TypeError, ValueError):
        return None


_RETRYABLE_CODES = frozenset({"E1000", "E6716", "E8367", "E8765", "E003", "PA"})
_CODE = re.compile(r"\b(E\d{3,4})\b|\bcode: (\w+)")


def judge_failure(error: str | None) -> Verdict:
    """Sort the `error` of a failed job: the platform's passing troubles, or the model's own fault.

    Only codes count, never words: a model that says "failed to generate" was not rate limited.
    A failure without any text is the platform's. See https://replicate.com/docs/reference/error-codes.
    """
    if not (error or "").strip():
        return Verdict.RETRYABLE
    codes = {first or second for first, second in _CODE.findall(error or "")}
    return Verdict.RETRYABLE if codes & _RETRYABLE_CODES else Verdict.PERMANENT


def transient(error: BaseException) -> bool:
    """Whether the same call may well succeed later, and trying it cannot pay twice.

    A create whose answer was lost is not: its job may be running.
    """
    if isinstance(error, ModelError):
        failed = error.job
        return failed is not None and judge_failure(failed.error) is Verdict.RETRYABLE
    if isinstance(error, CreateUnknownError):
        return False
    return isinstance(error, TransportError | RateLimitError)
