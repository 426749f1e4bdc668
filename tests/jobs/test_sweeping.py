"""What nobody is there to do is done by the sweep and by the hook, and not done twice."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Running,
    Scheduled,
    Suspended,
)

from prefect_replicate import (
    BadInputError,
    LocalReplicate,
    ReplicateCredentials,
    SweptRun,
    cancel_remote_jobs,
    create_prediction,
    sweep_jobs,
)
from prefect_replicate.jobs import ledger, orphans
from prefect_replicate.jobs.ledger import Claim, Held, Margins, Named
from prefect_replicate.jobs.sweeping import wanted_by
from prefect_replicate.jobs.tending import Wanted
from tests.chaos.conftest import Again, leave_out_others
from tests.conftest import ROOT

NOW = datetime(2026, 5, 1, tzinfo=UTC)
NOTHING: Wanted = Wanted()


def _ago(state: State[Any], seconds: float) -> State[Any]:
    state.timestamp = NOW - timedelta(seconds=seconds)
    return state


@pytest.mark.parametrize(
    "state", [Scheduled(), Pending(), Running(), AwaitingRetry(), Paused(), Suspended(), None]
)
def test_a_flow_run_that_has_not_ended_wants_its_jobs(state: State[Any] | None) -> None:
    assert wanted_by(state and _ago(state, 10**6), NOW, 0) == NOTHING


@pytest.mark.parametrize("state", [Cancelled(), Cancelling()])
def test_one_that_was_canceled_wants_nothing(state: State[Any]) -> None:
    wanted = wanted_by(_ago(state, 0), NOW, 10**6)
    assert wanted.jobs
    assert wanted.claims


@pytest.mark.parametrize("state", [Failed, Crashed])
def test_one_that_ended_badly_is_left_alone_for_a_while(state: Callable[[], State[Any]]) -> None:
    assert wanted_by(_ago(state(), 59), NOW, 60) == NOTHING
    wanted = wanted_by(_ago(state(), 60), NOW, 60)
    assert wanted.jobs
    assert wanted.claims


def test_one_that_completed_may_have_jobs_that_go_on_but_nothing_that_nobody_knows_of() -> None:
    wanted = wanted_by(_ago(Completed(), 0), NOW, 60)
    assert wanted.jobs is None
    assert wanted.claims


class Run:
    """A flow run that nobody is at work on, and what is written about it."""

    def __init__(self, world: "World", run: FlowRun) -> None:
        self.world, self.id, self.name = world, run.id, run.name

    def write(self, row: str, value: Claim | Named | Held) -> None:
        with get_client(sync_client=True) as client:
            client.create_flow_run_input(self.id, key=row, value=value.model_dump_json())

    def end(self, state: State[Any]) -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self.id, state, force=True)

    def row(self, name: str) -> str | None:
        with get_client(sync_client=True) as client:
            rows = client.filter_flow_run_input(
                self.id, key_prefix=name, limit=200, exclude_keys=set()
            )
        return next((row.value for row in rows if row.key == name), None)

    def call(self, *claims: Claim, job: Named | None = None, key: str = "a" * 26) -> str:
        """Write down a call."""
        for number, claim in enumerate(claims, 1):
            self.write(ledger.name(key, 1, "c", number), claim)
        if job:
            self.write(ledger.name(key, 1, "job"), job)
        return key


class World:
    """Both servers."""

    def __init__(self, replicate: LocalReplicate, model: str) -> None:
        self.replicate, self.model = replicate, model
        self.api = httpx.Client(
            base_url=f"{replicate.base_url}/v1",
            headers={"Authorization": f"Bearer {replicate.token}"},
        )
        me = self.api.get("/account").json()
        self.account = f"{me['type']} {me['username']}"
        self.runs: list[UUID] = []

    def run(self, state: State[Any] | None = None) -> Run:
        with get_client(sync_client=True) as client:
            run = client.create_flow_run(_nothing, tags=["replicate", "mine"])
            if state:
                client.set_flow_run_state(run.id, state, force=True)
        self.runs.append(run.id)
        return Run(self, run)

    def claim(self, text: str = "x", **more: Any) -> Claim:
        """A claim for a job that sleeps, by which it can be known by its life."""
        asked = {"do": "sleep", "number": 60, "text": text}
        about = {"version": self.model.partition(":")[2]}
        return Claim(
            nonce=uuid4().hex,
            fingerprint="f",
            api=f"{self.replicate.base_url}/v1",
            account=self.account,
            wanted=orphans.wanted(asked, **about),
            margins=Margins(send=0.1, answer=0.1, accept=0, list=0),
            **more,
        )

    def job(self, text: str = "x", *, life: int | None = None, webhook: str | None = None) -> str:
        """A job that a claim made."""
        body: dict[str, Any] = {
            "version": self.model.partition(":")[2],
            "input": {"do": "sleep", "number": 60, "text": text},
        }
        if webhook:
            body |= {"webhook": webhook, "webhook_events_filter": ["completed"]}
        headers = {"Cancel-After": str(life)} if life else {}
        answer = self.api.post("/predictions", json=body, headers=headers).raise_for_status()
        return str(answer.json()["id"])

    def status(self, job: str) -> str:
        return str(self.api.get(f"/predictions/{job}").json()["status"])

    def cancels(self) -> list[str]:
        paths = [each.path for each in self.replicate.requests("POST")]
        return [path.split("/")[-2] for path in paths if path.endswith("/cancel")]


@flow
def _nothing() -> None: ...


@pytest.fixture
def world(
    prefect_server: None,
    replicate: LocalReplicate,
    tiny_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    monkeypatch.setenv("REPLICATE_API_TOKEN", replicate.token)
    monkeypatch.setenv("REPLICATE_BASE_URL", replicate.base_url)
    replicate.reset()
    leave_out_others()
    replicate.clear_requests()
    world = World(replicate, tiny_model)
    yield world
    replicate.reset()
    with get_client(sync_client=True) as client:
        for run in world.runs:
            client.delete_flow_run(run)


def swept(run: Run, patience: float = 10**6) -> SweptRun | None:
    """What a sweep did for one flow run."""
    return next((one for one in sweep_jobs(patience=patience) if one.flow_run == run.name), None)


def canceled_at_last(run: Run, told: list[str] | None = None) -> list[str]:
    """What sweeps canceled: a job that does not say whose it is has to be older than all margins.

    Those are over at once here, but Replicate tells the time in whole seconds.
    """
    until = time.monotonic() + 20
    while time.monotonic() < until:
        one = swept(run)
        if one and told is not None:
            told += one.deeds
        if one and one.canceled:
            return one.canceled
        time.sleep(0.2)
    return []


def test_the_job_of_a_canceled_flow_run_is_canceled_once(world: World) -> None:
    run, job = world.run(), world.job()
    key = run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    assert swept(run) is None
    run.end(Cancelled())
    told = swept(run)
    assert told
    assert told.canceled == [job]
    assert "charged" in told.deeds[0]
    assert world.status(job) == "canceled"
    assert '"canceled"' in str(run.row(ledger.name(key, 1, "end")))
    assert swept(run) is None
    assert world.cancels() == [job]


@pytest.mark.parametrize("state", [Crashed, Failed])
def test_the_job_of_one_that_ended_badly_is_left_to_whoever_runs_it_again(
    world: World, state: Callable[[], State[Any]]
) -> None:
    run, job = world.run(), world.job()
    run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    run.end(state())
    assert swept(run) is None
    assert world.status(job) != "canceled"
    told = swept(run, patience=0)
    assert told
    assert told.canceled == [job]
    assert "nobody ran it again" in told.deeds[0]


def test_a_job_that_a_completed_flow_run_did_not_wait_for_goes_on(world: World) -> None:
    run, job = world.run(), world.job()
    run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    run.end(Completed())
    assert swept(run, patience=0) is None
    assert world.status(job) in {"starting", "processing"}


@pytest.mark.parametrize("way", ["life", "webhook"])
def test_what_a_lost_create_made_is_found_and_canceled_when_its_run_is(
    world: World, way: str
) -> None:
    known: dict[str, Any] = {"life": 777} if way == "life" else {"webhook": _mailbox()}
    run = world.run(Running())
    key = run.call(world.claim(**known))
    job = world.job(**known)
    assert swept(run) is None
    run.end(Cancelled())
    assert canceled_at_last(run) == [job]
    stone = ledger.parsed(Named, "job", str(run.row(ledger.name(key, 1, "job"))))
    assert stone.id is None
    assert len(stone.canceled) == 1
    assert world.status(job) == "canceled"
    assert swept(run) is None


def _mailbox() -> str:
    return f"https://example.com/{uuid4()}/pr-mail-{'a' * 10}{uuid4().hex[:16]}"


def test_what_is_made_after_the_call_was_given_up_is_found_by_a_later_sweep(world: World) -> None:
    hook = _mailbox()
    run = world.run()
    run.call(world.claim(webhook=hook))
    run.end(Cancelled())
    told = swept(run)
    assert told
    assert told.canceled == []
    late = world.job(webhook=hook)
    told = swept(run)
    assert told
    assert told.canceled == [late]
    assert "given up" in told.deeds[0]


@pytest.mark.parametrize("way", ["life", "webhook"])
@pytest.mark.parametrize("state", [Running, Completed])
def test_a_second_job_of_one_call_is_found_by_the_final_look(
    world: World, state: Callable[[], State[Any]], way: str
) -> None:
    one: dict[str, Any] = {"life": 600} if way == "life" else {"webhook": _mailbox()}
    two: dict[str, Any] = {"life": 603} if way == "life" else {"webhook": _mailbox()}
    run, stray, counts = world.run(), world.job(**one), world.job(**two)
    run.call(world.claim(**one), world.claim(**two), job=Named(id=counts, claim=2, attempt="r"))
    run.end(state())
    told: list[str] = []
    assert canceled_at_last(run, told) == [stray]
    assert f"beside {counts}" in told[0]
    assert "charged" in told[0]
    assert world.status(counts) in {"starting", "processing"}
    assert swept(run) is None


def test_a_job_that_another_call_has_is_nobodys_second_one(world: World) -> None:
    one, two = world.claim(life=600), world.claim(life=603)
    run, other = world.run(Running()), world.run(Running())
    alike, counts = world.job(life=600), world.job(life=603)
    run.call(one, two, job=Named(id=counts, claim=2, attempt="r"))
    other.write(ledger.held(alike), Held(key="b" * 26, id=alike))
    asyncio.run(asyncio.sleep(2))  # by now it would be old enough
    assert swept(run) is None
    assert world.status(alike) in {"starting", "processing"}


def test_a_job_that_was_kept_for_a_call_which_has_another_is_canceled(world: World) -> None:
    run, counts, kept = world.run(Running()), world.job(), world.job()
    key = run.call(world.claim(), job=Named(id=counts, claim=1, attempt="r"))
    run.write(ledger.held(counts), Held(key=key, id=counts))
    run.write(ledger.held(kept), Held(key=key, id=kept))
    told = swept(run)
    assert told
    assert told.canceled == [kept]
    assert world.status(counts) in {"starting", "processing"}
    assert swept(run) is None


def test_a_suspended_flow_run_goes_on_when_its_job_has_ended(world: World) -> None:
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(_nothing), f"d-{uuid4()}")
        made = client.create_flow_run_from_deployment(deployment, tags=["replicate"])
    run, job = Run(world, made), world.job()
    key = run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    run.end(Suspended(timeout_seconds=3600))
    assert swept(run) is None
    world.api.post(f"/predictions/{job}/cancel")
    told = swept(run)
    assert told
    assert told.resumed
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run.id).state
    assert state
    assert state.is_scheduled()
    assert '"canceled"' in str(run.row(ledger.name(key, 1, "end")))
    assert swept(run) is None


def test_a_suspended_flow_run_that_is_canceled_loses_its_job(world: World) -> None:
    run, job = world.run(Suspended(timeout_seconds=3600)), world.job()
    run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    assert swept(run) is None
    run.end(Cancelled())
    told = swept(run)
    assert told
    assert told.canceled == [job]


def test_a_job_of_another_account_is_left_and_told_of_each_time(world: World) -> None:
    run, job = world.run(), world.job()
    claim = world.claim().model_copy(update={"account": "user somebody"})
    run.call(claim, job=Named(id=job, claim=1, attempt="r"))
    run.end(Cancelled())
    for _ in range(2):
        told = swept(run)
        assert told
        assert told.canceled == []
        assert "user somebody" in told.troubles[0]
    assert world.status(job) in {"starting", "processing"}


def test_credentials_that_are_saved_are_found_by_the_sweep(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ReplicateCredentials(api_token=world.replicate.token, base_url=world.replicate.base_url).save(
        "sweeps", overwrite=True
    )
    saved = ReplicateCredentials.load("sweeps")
    assert isinstance(saved, ReplicateCredentials)
    asks = Again(
        lambda: create_prediction(world.model, {"do": "sleep", "number": 60}, credentials=saved).id
    )
    job = asks.first()
    assert asks.id
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(asks.id)
        assert "replicate" in run.tags
        client.set_flow_run_state(asks.id, Cancelled(), force=True)
    monkeypatch.setenv("REPLICATE_API_TOKEN", "")
    (told,) = [one for one in sweep_jobs(patience=10**6) if one.flow_run == run.name]
    assert told.canceled == [job]
    assert world.replicate.token not in str(told)


def test_whoever_runs_a_canceled_flow_run_again_gets_another_job(world: World) -> None:
    sleepy = {"do": "sleep", "number": 60}
    creates: list[str] = []

    def ask() -> str:
        creates.append(create_prediction(world.model, sleepy).id)
        return creates[-1]

    asks = Again(ask)
    first = asks.first()
    assert asks.id
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(asks.id, Cancelled(), force=True)
    sweep_jobs(patience=10**6)
    assert world.status(first) == "canceled"
    # In another process: here the end would have been seen by the one that runs again.
    rows = asks.rows()
    assert any(row.endswith("-end") for row in rows)


def test_it_says_what_it_did_in_an_artifact(world: World) -> None:
    run, job = world.run(), world.job()
    run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    run.end(Cancelled())

    @flow(name="sweeps")
    def sweeps() -> list[SweptRun]:
        return sweep_jobs(patience=10**6)

    assert job in sweeps()[0].canceled
    latest: Any = Artifact.get("replicate-sweep")
    assert job in str(latest.data)
    assert run.name in str(latest.data)


HOOK = """
import asyncio, sys
from uuid import UUID
from prefect import flow
from prefect.client.orchestration import get_client
from prefect_replicate import cancel_remote_jobs, replicate_hooks

@flow(**replicate_hooks)
def paint(): ...

assert paint.on_cancellation_hooks == [cancel_remote_jobs]
with get_client(sync_client=True) as client:
    run = client.read_flow_run(UUID(sys.argv[1]))
asyncio.run(cancel_remote_jobs(paint, run, run.state))
"""


def test_the_hook_cancels_in_a_process_that_remembers_nothing(world: World) -> None:
    run, job, hook = world.run(), world.job(), _mailbox()
    run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    open_key = run.call(world.claim(webhook=hook), key="b" * 26)
    lost = world.job(webhook=hook)
    run.end(Cancelling())
    ended = subprocess.run(
        [sys.executable, "-c", HOOK, str(run.id)],
        env={**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert {world.status(job), world.status(lost)} == {"canceled"}, ended.stderr
    assert '"id":null' in str(run.row(ledger.name(open_key, 1, "job")))
    assert world.replicate.token not in ended.stderr + ended.stdout


def test_the_hook_of_a_subflow_leaves_what_its_caller_asked_for(world: World) -> None:
    asked: dict[str, Any] = {}
    sleepy = {"do": "sleep", "number": 60}

    @flow
    def inner() -> None:
        asked["inner"] = create_prediction(world.model, sleepy | {"text": "inner"}).id
        asked["run"] = UUID(str(flow_run.id))

    @flow
    def outer() -> None:
        asked["outer"] = create_prediction(world.model, sleepy | {"text": "outer"}).id
        inner()

    outer()
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(asked["run"])
    assert run.state
    asyncio.run(cancel_remote_jobs(inner, run, run.state))
    assert world.status(asked["inner"]) == "canceled"
    assert world.status(asked["outer"]) in {"starting", "processing"}


def test_a_flow_run_for_which_all_is_done_is_not_read_again(world: World) -> None:
    run, job = world.run(), world.job()
    run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    run.end(Cancelled())
    assert swept(run)
    with get_client(sync_client=True) as client:
        seen = client.read_flow_run(run.id)
    assert seen.labels["replicate.swept"] == str(seen.state_id)
    assert set(seen.tags) == {"replicate", "mine"}


def test_a_call_that_was_given_up_is_looked_for_until_no_job_can_come_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.run()
    run.call(world.claim(webhook=_mailbox()))
    run.end(Cancelled())
    assert swept(run)

    def done() -> bool:
        sweep_jobs(patience=10**6)
        with get_client(sync_client=True) as client:
            return "replicate.swept" in client.read_flow_run(run.id).labels

    assert not done()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_LEDGER_LATE", "0")
    until = time.monotonic() + 20
    while not done():
        assert time.monotonic() < until


def test_the_command_sweeps_once_and_ends(world: World) -> None:
    run, job = world.run(), world.job()
    run.call(world.claim(), job=Named(id=job, claim=1, attempt="r"))
    run.end(Crashed())
    ended = subprocess.run(
        [sys.executable, ROOT / "flows" / "sweep.py", "--once", "--patience", "0"],
        env={**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert world.status(job) == "canceled"
    assert job in ended.stderr
    assert world.replicate.token not in ended.stderr + ended.stdout


def test_patience_below_zero_is_refused(world: World) -> None:
    with pytest.raises(BadInputError, match="Nothing was done"):
        sweep_jobs(patience=-1)
