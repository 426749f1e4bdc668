"""Waiting over real sockets: what ends it and what does not."""

import time

import pytest

from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import (
    AuthenticationError,
    BadInputError,
    ConfigurationError,
    DeadlineExceeded,
)
from prefect_replicate.api.resources import JobURLs, Prediction
from prefect_replicate.jobs.watch import Patience, end_of, patience
from tests.api.conftest import CUT, Script, answer, client, script, transport

__all__ = ["client", "script", "transport"]  # Fixtures.

STARTED = Prediction(id="abc", status="starting", model="o/n", urls=JobURLs(web="https://web/abc"))
DONE = answer(200, '{"id": "abc", "status": "succeeded", "output": "hi"}')


def _patience(deadline: float = 30.0) -> Patience:
    return Patience(deadline, poll_first=0.01, poll_last=0.01, look_every=5)


async def test_polls_may_fail_any_number_of_times(script: Script, client: Client) -> None:
    script.answers = [CUT, answer(500), answer(502, "<html>"), answer(429)] * 6 + [DONE]
    assert (await end_of(client, STARTED, _patience())).output == "hi"
    assert len(script.requests) == 25


async def test_an_unknown_status_is_waited_out(script: Script, client: Client) -> None:
    script.answers = [answer(200, '{"id": "abc", "status": "hibernating"}'), DONE]
    assert (await end_of(client, STARTED, _patience())).status == "succeeded"


async def test_a_job_that_cannot_be_read_any_more_may_still_cost_money(
    script: Script, client: Client
) -> None:
    script.answers = [answer(401)]
    with pytest.raises(AuthenticationError, match=r"may still be running.*https://web/abc"):
        await end_of(client, STARTED, _patience())


async def test_a_job_that_ends_while_it_is_given_up_is_not_thrown_away(
    script: Script, client: Client
) -> None:
    # The poll says that it runs, and the cancel finds that it has ended.
    script.answers = [answer(200, '{"id": "abc", "status": "processing"}'), DONE]
    waiting = Patience(deadline=0.05, poll_first=0.05, poll_last=0.05, look_every=5)
    assert (await end_of(client, STARTED, waiting)).output == "hi"
    assert [line.split()[0] for line in script.lines] == ["GET", "POST"]


async def test_a_cancel_that_fails_is_not_called_one(script: Script, client: Client) -> None:
    script.answers = [CUT] * 50
    with pytest.raises(DeadlineExceeded, match=r"could not be canceled and may run on"):
        await end_of(client, STARTED, _patience(deadline=0.01))


async def test_a_poll_that_hangs_does_not_outlive_the_deadline(
    script: Script, client: Client
) -> None:
    canceled = answer(200, '{"id": "abc", "status": "canceled"}')
    script.answers = [canceled, DONE]  # The hanging poll gets its answer last.
    script.pauses = [20.0, 0.0]
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="was canceled"):
        await end_of(client, STARTED, _patience(deadline=0.5))
    assert time.monotonic() - begun < 15  # Far from the 20 s of the poll.


@pytest.mark.parametrize("deadline", [0, -1, float("inf"), float("nan")])
def test_a_deadline_is_a_number_of_seconds(deadline: float) -> None:
    with pytest.raises(BadInputError, match="seconds above 0"):
        patience(deadline)


def test_a_setting_without_sense_is_known_before_a_job_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_POLL_FIRST", "abc")
    with pytest.raises(ConfigurationError, match="poll_first"):
        patience(None)
