"""The answer to a create is lost: its job is found, or it is certain that there is none."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_replicate import (
    JobFateUnknown,
    ModelError,
    ReplicateCredentials,
    ReplicateWebhook,
    run_model,
    train_model,
)
from tests.chaos.conftest import QUARANTINE, Again, World
from tests.chaos.proxy import Proxy

CREATE = {"method": "POST", "path": "/predictions"}
DATA = "data:text/plain;base64,aGVsbG8="


def asking(world: World, **input: Any) -> Again:
    return Again(lambda: run_model(world.model, input, credentials=world.credentials))


def webhooked(world: World, port: int, **input: Any) -> Again:
    """Nobody listens there: what counts is that the job has its URL."""
    hook = ReplicateWebhook(public_url=f"http://127.0.0.1:{port}")
    return Again(lambda: run_model(world.model, input, credentials=world.credentials, webhook=hook))


def training(world: World) -> Again:
    return Again(
        lambda: train_model(
            world.model, "local/trained", {"training_data": DATA}, credentials=world.credentials
        )
    )


def deployed(world: World) -> Again:
    return Again(
        lambda: run_model(
            input={"text": "deployed"}, deployment="local/chaos", credentials=world.credentials
        )
    )


def predicting(world: World) -> Again:
    return asking(world, text="predicted")


KINDS = [
    (predicting, "/predictions", "predictions"),
    (deployed, "/deployments/local/chaos/predictions", "predictions"),
    (training, "/models/*/trainings", "trainings"),
]


@pytest.mark.parametrize(("make", "path", "kind"), KINDS, ids=["prediction", "deployment", "train"])
def test_a_job_whose_answer_was_lost_is_found(
    world: World, make: Callable[[World], Again], path: str, kind: str
) -> None:
    asked = make(world)
    with world.replicate.fault("drop_after", method="POST", path=path) as fault:
        made = asked.first()
    assert fault.struck == 1
    assert made.status == "succeeded"
    # Nothing in a training proves whose it is, so it is taken when no other can come any more.
    assert kind == "trainings" or world.lists(kind) == 1
    assert len(world.creates()) == 1
    assert [job["id"] for job in world.jobs(kind)] == [made.id]
    assert asked.again().id == made.id
    assert len(world.creates()) == 1


@pytest.mark.parametrize(("make", "path", "kind"), KINDS, ids=["prediction", "deployment", "train"])
def test_a_create_that_never_came_is_sent_again_when_that_is_certain_and_not_before(
    world: World, make: Callable[[World], Again], path: str, kind: str
) -> None:
    with world.replicate.fault("drop_before", method="POST", path=path):
        made = make(world).first()
    lost, sent = world.creates()
    assert (sent.time - lost.time).total_seconds() >= QUARANTINE - 0.1
    assert [job["id"] for job in world.jobs(kind)] == [made.id]


@pytest.mark.parametrize(("accepted", "creates"), [(True, 1), (False, 2)])
def test_a_bad_gateway_may_have_let_it_through(world: World, accepted: bool, creates: int) -> None:
    with world.replicate.fault("bad_gateway", accepted=accepted, **CREATE):
        made = predicting(world).first()
    assert len(world.creates()) == creates
    assert [job["id"] for job in world.jobs()] == [made.id]


@pytest.mark.parametrize("fields", [{"kind": "drop_and_do", "seconds": 2}, {"kind": "truncate"}])
def test_a_create_that_is_taken_late_or_answered_in_part_is_not_sent_again(
    world: World, fields: dict[str, Any]
) -> None:
    with world.replicate.fault(**fields, **CREATE):
        made = predicting(world).first()
    assert len(world.creates()) == 1
    assert [job["id"] for job in world.jobs()] == [made.id]


def test_a_new_job_that_is_not_in_the_list_yet_is_waited_for(world: World) -> None:
    world.replicate.behave(list_lag=2)
    with world.replicate.fault("drop_after", **CREATE):
        made = predicting(world).first()
    assert len(world.creates()) == 1
    assert made.output == "predicted"


def test_a_list_that_fails_for_a_while_only_delays(world: World) -> None:
    asked = predicting(world)
    listing = {"method": "GET", "path": "/predictions"}
    with (
        world.replicate.fault("drop_after", **CREATE),
        world.replicate.fault("bad_gateway", times=2, **listing),
    ):
        assert asked.first().output == "predicted"
    assert len(world.creates()) == 1


def test_while_the_list_cannot_be_read_nothing_is_submitted_and_the_next_run_finds_the_job(
    world: World,
) -> None:
    def refused(request: Request, _: bytes) -> Response | None:
        listing = request.method == "GET" and request.url.path == "/v1/predictions"
        return JSONResponse({"detail": "Not now."}, 403) if listing and refusing else None

    refusing = [True]
    with Proxy(world.replicate.base_url, instead=refused).running() as url:
        credentials = ReplicateCredentials(api_token=world.credentials.api_token, base_url=url)
        asked = Again(lambda: run_model(world.model, {"text": "a"}, credentials=credentials))
        with (
            world.replicate.fault("drop_after", **CREATE),
            pytest.raises(JobFateUnknown, match="list could not be read"),
        ):
            asked.first()
        assert len(world.creates()) == 1
        (job,) = world.jobs()
        refusing.clear()
        assert asked.again().id == job["id"]
    assert len(world.creates()) == 1


@pytest.mark.parametrize(("kind", "creates"), [("drop_before", 2), ("drop_after", 1)])
def test_somebody_elses_equal_job_is_not_taken_over(world: World, kind: str, creates: int) -> None:
    foreign = world.foreign(text="predicted")
    world.replicate.clear_requests()
    with world.replicate.fault(kind, **CREATE):
        made = predicting(world).first()
    assert len(world.creates()) == creates
    assert {job["id"] for job in world.jobs()} == {made.id, foreign}


def test_a_job_is_known_by_its_webhook_though_an_equal_one_is_listed_before_it(
    world: World, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_LEDGER_LOOK", "2.5")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", "0.2")
    foreign: list[str] = []
    world.replicate.behave(list_lag=1)

    def meanwhile() -> None:
        waiting = threading.Event()
        while not world.creates():
            waiting.wait(0.05)
        foreign.append(world.foreign(text="hooked"))

    other = threading.Thread(target=meanwhile)
    other.start()
    with world.replicate.fault("drop_after", **CREATE):
        made = webhooked(world, unused_tcp_port, text="hooked").first()
    other.join()
    assert [job["id"] for job in world.jobs()] == [*foreign, made.id]
    assert len(world.creates()) == 2  # theirs is one of them


def test_a_job_that_does_not_show_its_webhook_is_neither_taken_over_nor_made_again(
    world: World, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", "0.2")
    asked = webhooked(world, unused_tcp_port, text="hooked")
    with (
        world.replicate.behaving(webhook_echo=False),
        world.replicate.fault("drop_after", **CREATE),
        pytest.raises(JobFateUnknown, match="these may be it") as caught,
    ):
        asked.first()
    assert len(world.creates()) == 1
    assert [job.id for job in caught.value.candidates] == [job["id"] for job in world.jobs()]
    with pytest.raises(JobFateUnknown):
        asked.again()
    assert len(world.creates()) == 1


def test_one_of_two_calls_that_differ_in_a_long_text_never_gets_the_job_of_the_other(
    world: World,
) -> None:
    def ask() -> list[Any]:
        one = run_model(world.model, {"text": "x" * 300}, credentials=world.credentials)
        with world.replicate.fault("drop_before", **CREATE):
            other = run_model(world.model, {"text": "y" * 300}, credentials=world.credentials)
        return [one.output, other.output]

    assert Again(ask).first() == ["x" * 300, "y" * 300]
    assert len(world.jobs()) == 2


def test_two_equal_trainings_of_one_flow_never_share_a_job(world: World, tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("data")

    def train() -> str:
        given = {"training_data": data}
        return train_model(world.model, "local/trained", given, credentials=world.credentials).id

    def ask() -> set[str]:
        first = train()
        with world.replicate.fault("drop_before", method="POST", path="/models/*/trainings"):
            return {first, train()}

    assert Again(ask).first() == {job["id"] for job in world.jobs("trainings")}
    assert len(world.jobs("trainings")) == 2


def test_trainings_that_differ_in_a_file_only_are_told_apart_though_all_answers_are_lost(
    world: World, tmp_path: Path
) -> None:
    def ask() -> list[str]:
        asked = []
        for number in range(3):
            (data := tmp_path / f"{number}").write_text(f"data {number}")
            given = {"training_data": data}
            asked.append(
                train_model.submit(
                    world.model, "local/trained", given, credentials=world.credentials
                )
            )
        weights = [future.result().output["weights"] for future in asked]
        return [world.api.get(url).raise_for_status().text for url in weights]

    with world.replicate.fault("drop_after", method="POST", path="/models/*/trainings", times=None):
        assert Again(ask).first() == ["data 0", "data 1", "data 2"]
    assert len(world.creates()) == len(world.jobs("trainings")) == 3


def test_another_try_of_what_failed_never_gets_the_failed_job_again(world: World) -> None:
    asked = asking(world, do="fail", text="interrupted; please retry (code: PA)")
    with pytest.raises(ModelError):
        asked.first()
    with world.replicate.fault("drop_before", **CREATE), pytest.raises(ModelError):
        asked.again()
    assert len(world.jobs()) == 2
