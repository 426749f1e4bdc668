"""Which failures are sent again, when, and which never."""

from datetime import UTC, datetime

import pytest

from prefect_replicate.api.retries import (
    Answer,
    GiveUp,
    NoAnswer,
    Outcome,
    Policy,
    RetryAfter,
    Verdict,
    decide,
    judge,
    judge_failure,
    retry_after,
)

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
RETRYABLE, AMBIGUOUS, PERMANENT = Verdict.RETRYABLE, Verdict.AMBIGUOUS, Verdict.PERMANENT


@pytest.mark.parametrize(
    ("outcome", "of_a_read", "of_a_create"),
    [
        (NoAnswer("refused", sent=False), RETRYABLE, RETRYABLE),
        (NoAnswer("cut", sent=True), RETRYABLE, AMBIGUOUS),
        (Answer(429), RETRYABLE, RETRYABLE),
        (Answer(500), RETRYABLE, AMBIGUOUS),
        (Answer(502, text="<html>Bad gateway</html>"), RETRYABLE, AMBIGUOUS),
        (Answer(503), RETRYABLE, AMBIGUOUS),
        (Answer(504), RETRYABLE, AMBIGUOUS),
        (Answer(520), RETRYABLE, AMBIGUOUS),
        (Answer(408), RETRYABLE, AMBIGUOUS),
        (Answer(301), PERMANENT, PERMANENT),
        (Answer(400), PERMANENT, PERMANENT),
        (Answer(401), PERMANENT, PERMANENT),
        (Answer(402), PERMANENT, PERMANENT),
        (Answer(403), PERMANENT, PERMANENT),
        (Answer(404), PERMANENT, PERMANENT),
        (Answer(409), PERMANENT, PERMANENT),
        (Answer(413), PERMANENT, PERMANENT),
        (Answer(422), PERMANENT, PERMANENT),
    ],
)
def test_a_failure_is_sorted_by_what_may_have_happened(
    outcome: Outcome, of_a_read: Verdict, of_a_create: Verdict
) -> None:
    assert judge(outcome, repeatable=True) is of_a_read
    assert judge(outcome, repeatable=False) is of_a_create


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Answer(429, {"retry-after": "7"}), 7),
        (Answer(429, {"retry-after": "0.5"}), 0.5),
        (Answer(429, {"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}), 30),
        (Answer(429, {"retry-after": "Mon, 23 Nov 2026 11:59:00 GMT"}), 0),
        (Answer(429, {"retry-after": "soon"}), None),
        (Answer(429, {"retry-after": "soon"}, '{"retry_after": 5}'), 5),  # As if it were absent.
        (Answer(429, {"retry-after": "7"}, '{"retry_after": 5}'), 7),  # The header first,
        (Answer(429, {}, '{"retry_after": 5, "detail": "resets in ~30s."}'), 5),  # then the body,
        (Answer(429, {}, '{"detail": "Your rate limit resets in ~30s."}'), 30),  # then the words.
        (Answer(429, {}, '{"detail": "Expected available in 1 second."}'), 1),
        (Answer(429, {}, '{"detail": "6 requests per minute"}'), None),
        (Answer(429, {}, '{"retry_after": true}'), None),
        (Answer(429, {}, "<html>"), None),
        (Answer(500, {}, '{"detail": "failed after 30s"}'), None),  # Words count in a 429 only.
    ],
)
def test_the_wait_that_an_answer_asks_for_is_read_in_all_its_forms(
    answer: Answer, seconds: float | None
) -> None:
    assert retry_after(answer, NOW) == seconds


def _decide(outcome: Outcome, attempt: int = 1, jitter: float = 0.0) -> RetryAfter | GiveUp:
    policy = Policy(attempts=5, base=0.5, cap=30, patience=120)
    return decide(outcome, repeatable=True, attempt=attempt, jitter=jitter, now=NOW, policy=policy)


def test_waits_double_up_to_the_cap_and_spread_with_jitter() -> None:
    lost = NoAnswer("cut", sent=True)
    assert [_decide(lost, attempt) for attempt in (1, 2, 3, 4)] == [
        RetryAfter(seconds) for seconds in (0.5, 1.0, 2.0, 4.0)
    ]
    assert _decide(lost, 1, jitter=1.0) == RetryAfter(0.75)  # At most half as much again.


def test_the_last_attempt_gives_up() -> None:
    assert _decide(NoAnswer("cut", sent=True), attempt=5) == GiveUp(RETRYABLE)


def test_a_throttled_caller_never_comes_back_early() -> None:
    throttled = Answer(429, {"retry-after": "10"})
    assert _decide(throttled) == RetryAfter(10.0)
    assert _decide(throttled, jitter=1.0) == RetryAfter(10.75)  # 10 + 0.5 * 1.5


def test_a_wait_beyond_all_patience_gives_up_at_once() -> None:
    assert _decide(Answer(429, {"retry-after": "3600"})) == GiveUp(RETRYABLE)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, RETRYABLE),  # The platform gave no reason: seen in the wild, and passing.
        (" \n", RETRYABLE),
        ("Unknown error (E1000)", RETRYABLE),
        ("E6716: timed out starting prediction", RETRYABLE),
        ("E8367 prediction stopped", RETRYABLE),
        ("Health check failed: E8765", RETRYABLE),
        ("Service is in high demand (E003)", RETRYABLE),
        ("Prediction interrupted; please retry (code: PA)", RETRYABLE),
        ("Out of memory (E1001)", PERMANENT),
        ("E4875: webhook URL is empty", PERMANENT),
        ("E9825 failed to upload", PERMANENT),
        ("The input was flagged as sensitive. (E005)", PERMANENT),
        ("Failed to generate image: rate limit please retry", PERMANENT),  # Words are no codes.
        ("max_tokens must be >= 1", PERMANENT),
        ("E10001 of something", PERMANENT),
    ],
)
def test_a_failed_job_is_sorted_by_its_code(error: str | None, verdict: Verdict) -> None:
    assert judge_failure(error) is verdict
