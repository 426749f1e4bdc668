"""The pure parts of waiting: when to poll, what to log, what an end means."""

import pytest

from prefect_replicate.api.errors import (
    JobAborted,
    JobCanceled,
    JobError,
    ModelError,
    OutputsExpired,
)
from prefect_replicate.api.resources import JobURLs, Prediction, Status, Training
from prefect_replicate.jobs.watch import fresh_lines, outcome, poll_delay

WEB = "https://replicate.com/p/abc"


@pytest.mark.parametrize(
    ("age", "delay"),
    [(0, 0.25), (2, 0.25), (5, 0.5), (20, 2.0), (50, 5.0), (5000, 5.0)],  # A tenth, within bounds.
)
def test_polls_thin_out_with_the_jobs_age(age: float, delay: float) -> None:
    assert poll_delay(age, first=0.25, last=5.0) == delay


@pytest.mark.parametrize(
    ("logs", "seen", "final", "lines", "then"),
    [
        ("", 0, False, [], 0),
        ("a\nb\n", 0, False, ["a", "b"], 4),
        ("a\nb\nc", 4, False, [], 4),  # "c" may be half a line.
        ("a\nb\nc", 4, True, ["c"], 5),
        ("a\nb\nc", 5, True, [], 5),
        ("a\n\n  \nb\n", 0, False, ["a", "b"], 8),
        ("x\n", 100, False, ["x"], 2),  # Rewritten: all of it is new.
    ],
)
def test_each_log_line_is_reported_once_and_whole(
    logs: str,
    seen: int,
    final: bool,
    lines: list[str],
    then: int,
) -> None:
    assert fresh_lines(logs, seen, final=final) == (lines, then)


def _ended(status: str, **more: object) -> Prediction:
    return Prediction.model_validate(
        {"id": "abc", "status": status, "model": "o/n", "urls": {"web": WEB}, **more}
    )


def test_success_is_given_back() -> None:
    prediction = _ended("succeeded", output="hi")
    assert outcome(prediction) is prediction


@pytest.mark.parametrize(
    ("job", "error", "words"),
    [
        (_ended("failed", error="bad seed"), ModelError, "abc of 'o/n' failed: bad seed. See http"),
        (_ended("failed", error=None), ModelError, "the platform gave no reason"),
        (_ended("failed", error="  "), ModelError, "the platform gave no reason"),
        (_ended("canceled"), JobCanceled, "charged for the time that it ran"),
        (_ended("aborted"), JobAborted, "before it started"),
        (_ended("succeeded", data_removed=True), OutputsExpired, "an hour after"),
    ],
)
def test_every_other_end_is_an_error_that_holds_the_job(
    job: Prediction, error: type[JobError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        outcome(job)
    assert caught.value.job is caught.value.prediction is job


def test_a_training_is_called_one() -> None:
    failed = Training(id="t", status=Status.FAILED, error="no data", urls=JobURLs())
    with pytest.raises(ModelError, match="Training t of 'unknown model' failed: no data"):
        outcome(failed)
