"""Where it cannot be told whether there is a job, the caller can: by its id, or by another one."""

import json
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from prefect_replicate import (
    BadInputError,
    JobFateUnknown,
    JobKeyError,
    NotFoundError,
    ReplicateModel,
    ReplicateWebhook,
    create_prediction,
    run_model,
    train_model,
)
from tests.chaos.conftest import Again, World

CREATE = {"method": "POST", "path": "/predictions"}
DATA = "data:text/plain;base64,aGVsbG8="


class Doubt:
    """A call whose answer is lost, of a job that does not show its webhook."""

    def __init__(self, world: World, port: int) -> None:
        self.world, self.says, self.text = world, dict[str, Any](), "hooked"
        self.hook = ReplicateWebhook(public_url=f"http://127.0.0.1:{port}")
        self.asked = Again(self.ask)

    def ask(self) -> Any:
        return run_model(
            self.world.model,
            {"text": self.text},
            credentials=self.world.credentials,
            webhook=self.hook,
            **self.says,
        )

    def arises(self) -> JobFateUnknown:
        with (
            self.world.replicate.fault("drop_after", **CREATE),
            pytest.raises(JobFateUnknown) as caught,
        ):
            self.asked.first()
        return caught.value

    def again(self, **says: Any) -> Any:
        self.says = says
        return self.asked.again()


@pytest.fixture(autouse=True)
def _soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_LEDGER_SEND", "0.3")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_LEDGER_ANSWER", "1.5")


@pytest.fixture
def doubt(world: World, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> Doubt:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", "0.2")
    world.replicate.behave(webhook_echo=False)
    return Doubt(world, unused_tcp_port)


def foreign(world: World, text: str = "theirs") -> str:
    made = world.foreign(text=text)
    world.replicate.clear_requests()
    return made


def test_a_job_in_doubt_is_adopted_by_its_id_and_is_the_calls_from_then_on(doubt: Doubt) -> None:
    told = str(doubt.arises())
    (job,) = doubt.world.jobs()
    for part in ("UTC", job["urls"]["web"], "adopt", "fresh=True", "Nothing was submitted again"):
        assert part in told
    assert doubt.again(adopt=job["id"]).output == "hooked"
    assert doubt.again().id == job["id"]
    with pytest.raises(BadInputError, match=rf"has a job already, {job['id']}.*Nothing was subm"):
        doubt.again(adopt="another")
    assert len(doubt.world.creates()) == 1


def test_another_job_is_made_instead_of_the_doubt_and_once_only(doubt: Doubt) -> None:
    doubt.arises()
    made = doubt.again(fresh=True)
    assert {job["id"] for job in doubt.world.jobs()} > {made.id}
    # Its job is known now: there is nothing to be fresh about.
    assert doubt.again(fresh=True).id == made.id
    assert len(doubt.world.creates()) == 2
    tombstone = next(
        json.loads(row) for name, row in doubt.asked.rows().items() if "g01-job" in name
    )
    assert (tombstone["id"], tombstone["how"]) == (None, "fresh")


def test_a_retry_of_a_task_does_not_pay_once_more_for_being_fresh(doubt: Doubt) -> None:
    runs = []

    @task(retries=1, cache_policy=NO_CACHE)
    def asking() -> Any:
        runs.append(1)
        return doubt.ask()

    asked, doubt.says = Again(asking), {"fresh": True}
    with (
        doubt.world.replicate.fault("drop_after", times=None, **CREATE),
        pytest.raises(JobFateUnknown),
    ):
        asked.first()
    assert (len(runs), len(doubt.world.creates())) == (2, 2)
    # Whoever runs the flow again asks for one more, knowing that there may be two.
    assert asked.again().output == "hooked"
    assert len(doubt.world.creates()) == 3


def test_who_asks_for_a_fresh_job_has_the_one_that_can_be_found(world: World) -> None:
    paid = world.credentials
    asked = Again(lambda: run_model(world.model, {"text": "a"}, credentials=paid, fresh=True))
    with world.replicate.fault("drop_after", **CREATE):
        made = asked.first()
    assert asked.again().id == made.id
    assert len(world.creates()) == 1


def test_a_job_that_was_made_elsewhere_is_adopted_and_known_when_the_flow_runs_again(
    world: World,
) -> None:
    theirs, says = foreign(world), dict[str, Any]()
    asked = Again(
        lambda: run_model(world.model, {"text": "mine"}, credentials=world.credentials, **says)
    )
    says["adopt"] = theirs
    assert asked.first().output == "theirs"
    says.clear()
    assert asked.again().id == theirs
    assert world.creates() == []
    claim = next(json.loads(row) for name, row in asked.rows().items() if name.endswith("g01-c01"))
    assert claim["webhook"] is None
    assert claim["account"].endswith("local")


def test_a_training_is_adopted_as_a_prediction_is(world: World) -> None:
    path = f"/models/{world.model.partition(':')[0]}/versions/{world.model.partition(':')[2]}"
    body = {"destination": "local/trained", "input": {"training_data": DATA}}
    made = world.api.post(f"{path}/trainings", json=body).raise_for_status().json()["id"]
    world.replicate.clear_requests()
    given = {"training_data": DATA}
    paid = world.credentials

    def ask() -> Any:
        with pytest.raises(
            BadInputError, match=r"cannot be adopted: it is a training.*Nothing was"
        ):
            run_model(world.model, {}, credentials=paid, adopt=made)
        with pytest.raises(NotFoundError, match=r"no training 'nowhere' to adopt.*Nothing was s"):
            train_model(world.model, "local/trained", given, credentials=paid, adopt="nowhere")
        return train_model(world.model, "local/trained", given, credentials=paid, adopt=made)

    assert Again(ask).first().id == made
    assert world.creates() == []


def test_what_is_of_another_deployment_or_of_another_call_is_not_adopted(world: World) -> None:
    theirs, paid = foreign(world, "sleepy"), world.credentials

    def ask() -> Any:
        with pytest.raises(BadInputError, match=r"cannot be adopted: it ran on none, not on local"):
            run_model(input={}, deployment="local/chaos", credentials=paid, adopt=theirs)
        first = run_model(world.model, {"text": "a"}, credentials=paid, adopt=theirs)
        with pytest.raises(BadInputError, match=rf"{theirs} is that of another call"):
            run_model(world.model, {"text": "b"}, credentials=paid, adopt=theirs)
        assert world.creates() == []
        # What was not adopted leaves nothing behind.
        return first, run_model(world.model, {"text": "b"}, credentials=paid)

    first, other = Again(ask).first()
    assert (first.id, other.output) == (theirs, "b")


def test_a_block_has_the_same_ways(world: World) -> None:
    theirs = foreign(world)
    block = ReplicateModel(reference=world.model, credentials=world.credentials)

    def ask() -> Any:
        return block.run({"text": "b"}, adopt=theirs, job_key="one"), block.trigger(
            {"text": "b"}, job_key="one"
        )

    ran, triggered = Again(ask).first()
    assert ran.id == triggered.id == theirs
    assert world.creates() == []


@pytest.mark.parametrize("webhook", [False, True])
def test_who_wants_proof_gets_no_job_without_a_token(
    world: World, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch, webhook: bool
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_LEDGER_ORPHANS", "token")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_POLL", "0.2")
    hook = ReplicateWebhook(public_url=f"http://127.0.0.1:{unused_tcp_port}") if webhook else None
    paid = world.credentials
    asked = Again(lambda: run_model(world.model, {}, credentials=paid, webhook=hook))
    with world.replicate.fault("drop_after", **CREATE):
        if webhook:
            assert asked.first().output == "hello"
        else:
            with pytest.raises(JobFateUnknown, match="these may be it") as caught:
                asked.first()
            assert [job.id for job in caught.value.candidates] == [world.jobs()[0]["id"]]
    assert len(world.creates()) == 1


def test_a_job_key_names_one_job_however_often_it_is_asked(world: World) -> None:
    paid = world.credentials

    def ask() -> Any:
        made = run_model(world.model, {"text": "a"}, credentials=paid, job_key="one")
        same = create_prediction(world.model, {"text": "a"}, credentials=paid, job_key="one")
        assert made.id == same.id
        told = rf"'one' names.*flow run {asked.id}.*{made.id}, which is 'succeeded'.*Nothing was"
        with pytest.raises(JobKeyError, match=told):
            run_model(world.model, {"text": "b"}, credentials=paid, job_key="one")
        other = run_model(world.model, {"text": "a"}, credentials=paid, job_key="other")
        return made.id, other.id

    asked = Again(ask)
    first = asked.first()
    assert asked.again() == first
    assert len(world.creates()) == len(set(first)) == 2


def test_a_job_key_whose_input_was_refused_may_be_asked_otherwise(world: World) -> None:
    paid = world.credentials

    def ask() -> Any:
        with pytest.raises(BadInputError, match="number"):
            run_model(world.model, {"number": "many"}, credentials=paid, job_key="one")
        return run_model(world.model, {"number": 2}, credentials=paid, job_key="one")

    assert Again(ask).first().output == "hello"


def test_what_makes_no_sense_outside_of_a_flow_run_is_refused_before_anything_is_sent(
    world: World,
) -> None:
    with pytest.raises(BadInputError, match=r"`fresh` says nothing.*Nothing was submitted"):
        run_model(world.model, {}, credentials=world.credentials, fresh=True)
    assert world.creates() == []


def test_in_a_flow_run_no_store_is_taken(world: World) -> None:
    @flow
    def asks() -> None:
        run_model(world.model, {}, credentials=world.credentials, job_key="a", job_store={})

    with pytest.raises(BadInputError, match="leave `job_store` out"):
        asks()
    assert world.creates() == []
