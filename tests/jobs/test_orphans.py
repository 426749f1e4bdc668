"""Which of the listed jobs is the one whose create got no answer: by proof, or not at all."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_replicate.api.resources import Job, Prediction, Training
from prefect_replicate.jobs.ledger import Claim
from prefect_replicate.jobs.orphans import Found, sort, wanted

SINCE = datetime(2026, 5, 1, 12, tzinfo=UTC)
AT = SINCE + timedelta(seconds=130)
LIFE = 615
OURS = "https://example.com/hooks/run/pr-mail-ours"
THEIRS = "https://example.com/hooks/run/pr-mail-theirs"
VERSION, OTHER_VERSION = "a" * 64, "b" * 64
INPUT = {"text": "hello", "number": 1, "loud": False}


def claim(**known: Any) -> Claim:
    """Of a prediction that is found by its life."""
    about: dict[str, Any] = {"model": "owner/name", "version": VERSION}
    known = {"life": LIFE, "wanted": wanted(INPUT, **about)} | known
    return Claim(nonce="n", fingerprint="f", api="a", account="user us", **known)


def hooked(**known: Any) -> Claim:
    """Of a prediction that is found by its webhook."""
    return claim(webhook=OURS, life=None, **known)


def job(id: str = "j", *, life: float | None = LIFE, **known: Any) -> Prediction:
    """A prediction as our claim would make it, but for what is given."""
    at = known.setdefault("created_at", AT)
    known = {"model": "owner/name", "version": VERSION, "input": dict(INPUT)} | known
    deadline = at + timedelta(seconds=life) if life is not None and at else None
    return Prediction(id=id, status="processing", deadline=deadline, **known)


def training(id: str = "t", **known: Any) -> Training:
    known = {"model": "owner/name", "version": VERSION, "input": dict(INPUT)} | known
    return Training(id=id, status="processing", **({"created_at": AT} | known))


def ids(found: Found) -> tuple[str | None, set[str]]:
    """The job that is mine, and those that are possible."""
    return found.mine.id if found.mine else None, {each.id for each in found.possible}


def test_an_empty_list_has_nothing() -> None:
    assert ids(sort(claim(), [], SINCE)) == (None, set())


def test_a_job_with_the_webhook_of_the_claim_is_mine_whatever_else_it_says() -> None:
    found = job("mine", webhook=OURS, model="official/name", version="hidden", input={}, life=None)
    others = [job("a", webhook=THEIRS), job("b"), job("c", life=None)]
    assert ids(sort(hooked(), [*others, found], SINCE)) == ("mine", set())
    assert (
        ids(sort(hooked(), [found.model_copy(update={"data_removed": True})], SINCE))[0] == "mine"
    )


def test_the_webhook_of_a_deployments_job_and_of_a_training_is_proof_as_well() -> None:
    assert ids(sort(hooked(), [job("mine", webhook=OURS, deployment="d")], SINCE))[0] == "mine"
    of_training = hooked(trains=True)
    assert (
        ids(sort(of_training, [training("x"), training("mine", webhook=OURS)], SINCE))[0] == "mine"
    )


@pytest.mark.parametrize("webhook", [THEIRS, OURS + "2", OURS[:-1], "https://example.org"])
def test_a_job_with_another_webhook_is_not_mine(webhook: str) -> None:
    assert ids(sort(hooked(), [job(webhook=webhook)], SINCE)) == (None, set())


def test_a_job_without_webhook_is_possible_until_the_list_is_seen_to_show_webhooks() -> None:
    assert ids(sort(hooked(), [job("x")], SINCE)) == (None, {"x"})
    assert ids(sort(hooked(), [job("x"), job("y", webhook=THEIRS)], SINCE)) == (None, set())


def test_a_claim_with_a_webhook_is_never_answered_by_a_look_alike() -> None:
    assert ids(sort(hooked(), [job("x", life=None)], SINCE)) == (None, {"x"})
    assert ids(sort(hooked(trains=True), [training("x")], SINCE)) == (None, {"x"})


NOT_MINE: list[tuple[str, dict[str, Any]]] = [
    ("another model", {"model": "owner/other"}),
    ("another version", {"version": OTHER_VERSION}),
    ("of a deployment", {"deployment": "d"}),
    ("another text", {"input": INPUT | {"text": "hello!"}}),
    ("another number", {"input": INPUT | {"number": 2}}),
    ("another switch", {"input": INPUT | {"loud": True}}),
    ("text for a number", {"input": INPUT | {"number": "1"}}),
]


@pytest.mark.parametrize(
    ("differs"), [known for _, known in NOT_MINE], ids=[n for n, _ in NOT_MINE]
)
def test_a_job_that_differs_in_what_replicate_does_not_rewrite_is_not_mine(
    differs: dict[str, Any],
) -> None:
    for asked in (claim(), hooked()):
        assert ids(sort(asked, [job(**differs)], SINCE)) == (None, set())
    known = {name: value for name, value in differs.items() if name != "deployment"}
    if known:
        assert ids(sort(claim(trains=True, life=None), [training(**known)], SINCE)) == (None, set())


POSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("no model", {"model": ""}),
    ("hidden version", {"version": "hidden"}),
    ("no version", {"version": ""}),
    ("input left out", {"input": {}}),
    ("input with defaults", {"input": INPUT | {"more": 3}}),
    ("1 as 1.0", {"input": INPUT | {"number": 1.0}}),
    ("data removed", {"data_removed": True, "input": {"text": "another"}}),
    ("secret hidden", {"input": INPUT | {"text": "[REDACTED]"}}),
    ("secret starred", {"input": INPUT | {"text": "**********"}}),
    ("no time", {"created_at": None}),
]


@pytest.mark.parametrize(("looks"), [known for _, known in POSSIBLE], ids=[n for n, _ in POSSIBLE])
def test_a_job_that_says_less_or_is_rewritten_stays_possible(looks: dict[str, Any]) -> None:
    assert ids(sort(hooked(), [job("x", **looks)], SINCE)) == (None, {"x"})


def test_data_that_is_gone_is_no_sign_that_webhooks_are_not_shown() -> None:
    listed = [job("x", data_removed=True), job("y", webhook=THEIRS)]
    assert ids(sort(hooked(), listed, SINCE)) == (None, {"x"})


def test_what_replicate_may_rewrite_is_not_held_against_a_job() -> None:
    given = {"image": "https://a/1", "inline": "data:text/plain,x", "list": [1], "none": None}
    asked = hooked(wanted=wanted(given, model="owner/name"))
    other = {"image": "https://b/2", "inline": "https://c/3", "list": [2], "none": 4}
    assert ids(sort(asked, [job("x", input=other)], SINCE)) == (None, {"x"})


def test_a_look_alike_with_the_right_life_and_another_file_is_possible_and_not_adopted() -> None:
    asked = claim(wanted=wanted(INPUT | {"image": "https://a/1", "list": [1]}, model="owner/name"))
    other = job("x", input=INPUT | {"image": "https://a/2", "list": [1]})
    same = job("mine", input=INPUT | {"image": "https://a/1", "list": [1]})
    gone = job("gone", input={}, data_removed=True)
    assert ids(sort(asked, [other], SINCE)) == (None, {"x"})
    assert ids(sort(asked, [gone], SINCE)) == (None, {"gone"})
    assert ids(sort(asked, [other, same], SINCE))[0] == "mine"


def test_a_training_with_another_file_is_possible_and_not_adopted() -> None:
    asked = claim(trains=True, life=None, wanted=wanted({"data": "https://a/1"}))
    assert ids(sort(asked, [training("x", input={"data": "https://a/2"})], SINCE)) == (None, {"x"})
    assert ids(sort(asked, [training("y", input={"data": "https://a/1"})], SINCE))[0] == "y"


def test_no_text_of_an_input_is_written_down_in_clear() -> None:
    assert "hf_a_secret" not in repr(
        wanted({"hf_token": "hf_a_secret", "long": "hf_a_secret" * 99})
    )


def test_long_texts_tell_jobs_apart() -> None:
    asked = claim(wanted=wanted({"prompt": "cats " * 100}, model="owner/name"))
    assert ids(sort(asked, [job(input={"prompt": "dogs " * 100})], SINCE)) == (None, set())


def test_a_deployments_claim_is_answered_by_its_own_jobs_only() -> None:
    asked = claim(wanted=wanted(INPUT, deployment="mine"))
    listed = [job("a"), job("b", deployment="other"), job("c", deployment="mine")]
    assert ids(sort(asked, listed, SINCE))[0] == "c"


@pytest.mark.parametrize("rounding", [-1.0, -0.4, 0.0, 0.4, 1.0])
def test_the_only_look_alike_that_lives_as_long_is_adopted(rounding: float) -> None:
    listed = [job("a", life=None), job("mine", life=LIFE + rounding), job("b", life=LIFE + 60)]
    assert ids(sort(claim(), listed, SINCE))[0] == "mine"


def test_a_code_is_no_proof_for_a_job_that_differs() -> None:
    listed = [job("a", version=OTHER_VERSION), job("b", webhook=THEIRS)]
    assert ids(sort(claim(), listed, SINCE)) == (None, set())


def test_two_that_live_as_long_are_both_possible_and_neither_is_adopted() -> None:
    assert ids(sort(claim(), [job("a"), job("b"), job("c", life=None)], SINCE)) == (
        None,
        {"a", "b"},
    )


@pytest.mark.parametrize("life", [LIFE - 3, LIFE + 3, LIFE + 900])
def test_a_job_that_lives_longer_or_shorter_is_somebody_elses(life: int) -> None:
    assert ids(sort(claim(), [job(life=life)], SINCE)) == (None, set())


def test_a_look_alike_without_deadline_is_somebody_elses() -> None:
    assert ids(sort(claim(), [job(life=None)], SINCE)) == (None, set())


def test_a_job_whose_life_cannot_be_told_stays_possible() -> None:
    assert ids(sort(claim(), [job("x", created_at=None)], SINCE)) == (None, {"x"})


def test_without_webhook_and_deadline_look_alikes_are_possible_and_never_mine() -> None:
    assert ids(sort(claim(life=None), [job("x")], SINCE)) == (None, {"x"})


def test_the_only_training_that_looks_alike_is_adopted_and_of_two_neither() -> None:
    asked = claim(trains=True, life=None)
    other = training("b", input=INPUT | {"number": 2})
    assert ids(sort(asked, [training("a"), other], SINCE))[0] == "a"
    assert ids(sort(asked, [training("a"), training("c")], SINCE)) == (None, {"a", "c"})


@pytest.mark.parametrize("asked", [claim(), hooked(), claim(trains=True, life=None)])
def test_what_was_made_before_the_claim_is_not_looked_at(asked: Claim) -> None:
    before = SINCE - timedelta(seconds=1)
    old: list[Job] = [job("a", created_at=before), training("b", created_at=before)]
    old.append(job("c", created_at=before, webhook=OURS))
    assert ids(sort(asked, old, SINCE)) == (None, set())


def test_what_is_made_at_the_very_moment_is_looked_at() -> None:
    assert ids(sort(claim(), [job("x", created_at=SINCE)], SINCE))[0] == "x"


@pytest.mark.parametrize("asked", [claim(), claim(trains=True, life=None)])
def test_jobs_of_other_calls_and_earlier_generations_are_left_out(asked: Claim) -> None:
    make = training if asked.trains else job
    assert ids(sort(asked, [make("known")], SINCE, {"known"})) == (None, set())
    assert ids(sort(asked, [make("known"), make("mine")], SINCE, {"known"}))[0] == "mine"


def test_a_job_of_another_call_still_shows_that_lists_show_webhooks() -> None:
    listed = [job("x"), job("known", webhook=THEIRS)]
    assert ids(sort(hooked(), listed, SINCE, {"known"})) == (None, set())
