"""From what came back to the error that names it: pure, and the home of these errors' wording."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, TypeVar

from prefect_replicate.api.calls import Call
from prefect_replicate.api.errors import (
    APIError,
    AuthenticationError,
    BadInputError,
    BillingError,
    CreateUnknownError,
    NotFoundError,
    RateLimitError,
    TransportError,
)
from prefect_replicate.api.retries import Answer, NoAnswer, Outcome, Verdict, retry_after

T = TypeVar("T")

_MADE_NOTHING = "No job was made and nothing was charged."


def read(call: Call[T], answer: Answer, base_url: str) -> T:
    """Make the call's result of a 2xx answer.

    Raises:
        CreateUnknownError: The answer to a create cannot be read, so the job exists but has no id.
        TransportError: Any other answer that cannot be read.
    """
    try:
        return call.parse(_content(call, answer))
    except ValueError as error:
        outcome = NoAnswer(f"HTTP {answer.status} with a body that cannot be read", sent=True)
        verdict = Verdict.AMBIGUOUS if call.creates_job else Verdict.RETRYABLE
        raise failure(call, outcome, verdict, base_url) from error


def _content(call: Call[Any], answer: Answer) -> Any:
    if call.reads == "json":
        return json.loads(answer.text) if answer.text else None
    return answer.text if call.reads == "text" else answer.content


def failure(call: Call[Any], outcome: Outcome, verdict: Verdict, base_url: str) -> APIError:
    """Name what happened to a call that is given up."""
    if isinstance(outcome, Answer) and outcome.status == 429:
        return _throttled(call, outcome)
    if isinstance(outcome, Answer) and verdict is Verdict.PERMANENT:
        return _refused(call, outcome, base_url)
    why = outcome.reason if isinstance(outcome, NoAnswer) else f"HTTP {outcome.status}"
    status = outcome.status if isinstance(outcome, Answer) else None
    if call.creates_job and verdict is Verdict.AMBIGUOUS:
        return CreateUnknownError(
            f"The answer to {call.doing} at {base_url} was lost ({why}). The job may "
            f"exist and may cost money, so it was not created again. Look for it among your latest "
            f"predictions or trainings before you repeat the call.",
            status=status,
        )
    return TransportError(
        f"{_capital(call.doing)} failed: {base_url} gave no usable answer ({why}). Check that "
        f"the address is right and reachable, then try again." + _made_nothing(call),
        status=status,
    )


def _throttled(call: Call[Any], answer: Answer) -> RateLimitError:
    seconds = retry_after(answer, datetime.now(UTC))
    wait = "" if seconds is None else f" It asks to wait {seconds:.0f} s."
    return RateLimitError(
        f"Replicate throttled {call.doing}: {_detail(answer)}.{wait}" + _made_nothing(call),
        status=429,
        body=answer.body,
        retry_after=seconds,
    )


def _refused(call: Call[Any], answer: Answer, base_url: str) -> APIError:
    kind, advice = _REFUSALS.get(answer.status, (BadInputError, ""))
    return kind(
        f"{base_url} refused {call.doing} (HTTP {answer.status}): {_detail(answer)}."
        f"{advice}{_made_nothing(call)}",
        status=answer.status,
        body=answer.body,
    )


_REFUSALS: dict[int, tuple[type[APIError], str]] = {
    401: (
        AuthenticationError,
        " Check the API token; one is made at https://replicate.com/account/api-tokens.",
    ),
    402: (BillingError, " Add credit at https://replicate.com/account/billing."),
    403: (AuthenticationError, " The token is valid but not allowed to do this."),
    404: (NotFoundError, " Check the name, and that this token may see it."),
}


def _made_nothing(call: Call[Any]) -> str:
    return f" {_MADE_NOTHING}" if call.creates_job else ""


def _detail(answer: Answer) -> str:
    """The words of a problem body, on one line; nothing of an HTML page."""
    body = answer.body
    words = ": ".join(str(body[key]).strip() for key in ("title", "detail") if body.get(key))
    return " ".join(words.split()).rstrip(".") or "it gave no reason"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
