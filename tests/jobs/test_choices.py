"""What a caller may say of a call, what codes calls have, and what they are told in doubt."""

from itertools import product
from typing import Any

import pytest

from prefect_replicate import BadInputError, Prediction, Training
from prefect_replicate.api import calls
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs.choices import Choices
from prefect_replicate.jobs.ledger import Claim
from prefect_replicate.jobs.lost import unknown
from prefect_replicate.jobs.orphans import Found
from prefect_replicate.jobs.targets import CODES, Target, code_of

STORE: dict[str, str] = {}
SENSELESS: list[tuple[dict[str, Any], bool, str]] = [
    ({"adopt": "a"}, False, "`adopt` says nothing"),
    ({"fresh": True}, False, "`fresh` says nothing"),
    ({"job_key": "a"}, False, "give `job_key` a `job_store`"),
    ({"job_store": STORE}, False, "give it a `job_key`"),
    ({"job_store": STORE, "job_key": "a"}, True, "leave `job_store` out"),
    ({"adopt": "a", "fresh": True}, True, "give one"),
    ({"adopt": "a/b"}, True, "is not an id"),
    ({"job_key": ""}, True, "not empty"),
    ({"job_key": 7}, True, "not 7"),
]


@pytest.mark.parametrize(("says", "inside", "why"), SENSELESS)
def test_what_makes_no_sense_is_refused(says: dict[str, Any], inside: bool, why: str) -> None:
    with pytest.raises(BadInputError, match=rf"{why}.*Nothing was s"):
        Choices(**says).check(in_flow_run=inside)


SENSIBLE: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({}, True),
    ({"adopt": "a"}, True),
    ({"fresh": True, "job_key": "a"}, True),
    # A mapping with nothing in it yet is one all the same.
    ({"job_key": "a", "job_store": {}, "adopt": "a"}, False),
    ({"job_key": "a", "job_store": {}, "fresh": True}, False),
]


@pytest.mark.parametrize(("says", "inside"), SENSIBLE)
def test_what_makes_sense_is_taken(says: dict[str, Any], inside: bool) -> None:
    Choices(**says).check(in_flow_run=inside)


def test_equal_calls_of_a_flow_run_have_codes_of_their_own() -> None:
    assert len({code_of("run", "print", place, 1, 1) for place in range(CODES)}) == CODES >= 1000
    tried = product(range(50), (1, 2, 3), (1, 2, 3))
    assert len({code_of("run", "print", *each) for each in tried}) == 50 * 9
    assert all(0 <= code_of("run", "print", "named", each, each) < CODES for each in range(1, 9))


def test_codes_begin_elsewhere_in_every_flow_run_and_for_every_question_and_name() -> None:
    starts = {code_of(run, print_, 0, 1, 1) for run, print_ in product("abcdef", "ghijkl")}
    starts |= {code_of("a", "g", name, 1, 1) for name in "mnopqrstuv"}
    assert len(starts) > 36


def test_a_code_stays_the_same_from_one_release_to_the_next() -> None:
    # A call whose answer was lost before an upgrade is found by it afterwards.
    assert code_of("run", "print", 3, 2, 2) == CODE
    assert code_of("run", "print", "named", 1, 1) == NAMED


CODE, NAMED = 954, 812


@pytest.mark.parametrize("ways_out", [True, False])
def test_doubt_names_the_ways_out_that_there_are(ways_out: bool) -> None:
    candidates = tuple(Prediction(id=f"j{number}", status="starting") for number in range(7))
    claim = Claim(nonce="n", fingerprint="f", api="a", account="u", life=77)
    told = str(unknown(claim, 90.0, Found(None, candidates), ways_out=ways_out))
    assert "90 s ago" in told
    assert "j0, j1, j2, j3, j4 and 2 more" in told
    assert "ends 77 s after its creation at the latest" in told
    assert ("fresh=True" in told, "`adopt`" in told) == (ways_out, ways_out)


def test_doubt_about_a_training_says_that_nothing_ends_it() -> None:
    claim = Claim(nonce="n", fingerprint="f", api="a", account="u", trains=True)
    told = str(unknown(claim, 90.0, None, ways_out=True))
    assert "the list could not be read" in told
    assert "nothing else ends it" in told


V, W = "a" * 64, "b" * 64


def target(ref: str, asked: str, *, deploys: bool = False, trains: bool = False) -> Target[Any]:
    return Target(ref, asked, calls.predictions_create, deploys=deploys, trains=trains)


MODEL = target(f"o/m:{V}", "o/m")
VERSION = target(f"o/m:{V}", f"o/m:{V}")
BARE = target(V, V)
DEPLOYED = target("o/d", "deployment o/d", deploys=True)
TRAINED = target(f"o/m:{V}", f"o/m:{V} into o/n", trains=True)


def ran(**about: Any) -> Prediction:
    return Prediction(id="j", status="starting", **about)


MATCHING: list[tuple[Target[Any], Job, str | None]] = [
    (MODEL, ran(model="o/m", version=V), None),
    # The latest version is another one by now, and not what the caller named.
    (MODEL, ran(model="o/m", version=W), None),
    (MODEL, ran(model="o/x", version=V), "of o/x"),
    (VERSION, ran(model="o/m", version=W), f"of version {W}"),
    (VERSION, ran(model="o/m", version="hidden"), None),
    (VERSION, ran(), None),
    (BARE, ran(model="o/m", version=V), None),
    (BARE, ran(model="o/m", version=W), f"of version {W}"),
    (DEPLOYED, ran(model="o/m", version=V, deployment="o/d"), None),
    (DEPLOYED, ran(model="o/m", version=V, deployment="o/e"), "on o/e"),
    (DEPLOYED, ran(model="o/m", version=V), "on none"),
    (TRAINED, Training(id="j", status="starting", model="o/m", version=V), None),
    (TRAINED, Training(id="j", status="starting", model="o/m", version=W), f"version {W}"),
]


@pytest.mark.parametrize(("asked", "job", "why"), MATCHING)
def test_a_job_is_of_what_was_asked_or_it_is_said_why_not(
    asked: Target[Any], job: Job, why: str | None
) -> None:
    told = asked.mismatch(job)
    assert (told is None) if why is None else (told is not None and why in told)
