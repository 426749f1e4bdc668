"""What Prefect's UI shows of jobs: names of task runs, links, the table of a batch."""

import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from threading import Timer
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import TaskRun
from prefect.events import Event
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run, task_run
from prefect.utilities.engine import emit_task_run_state_change_event

from prefect_replicate import (
    BatchError,
    LocalReplicate,
    Prediction,
    ReplicateCredentials,
    cancel_prediction,
    create_prediction,
    run_batch,
    run_model,
)
from tests.tasks.conftest import jobs


@pytest.fixture
def prefect(prefect_server: None) -> SyncPrefectClient:
    return get_client(sync_client=True)


def _until(look: Callable[[], Any]) -> Any:
    """Prefect's server hears of task runs a moment later."""
    deadline = time.monotonic() + 20
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def _read(prefect: SyncPrefectClient, run: UUID) -> TaskRun | None:
    try:
        return prefect.read_task_run(run)
    except ObjectNotFound:
        return None


def _ended(prefect: SyncPrefectClient, run: str) -> TaskRun | None:
    found = _read(prefect, UUID(run))
    return found if found and found.state and found.state.is_final() else None


def _name_while_running(prefect: SyncPrefectClient, run: UUID) -> str | None:
    found = _read(prefect, run)
    named = found and found.state and found.state.is_running() and " · " in found.name
    return found.name if found and named else None


def _artifacts(prefect: SyncPrefectClient, run: str) -> list[Any]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
    # Prefect keeps one of its own, without a key, for every state that has a result.
    return [one for one in prefect.read_artifacts(artifact_filter=of_run) if one.key]


def test_a_task_run_has_its_jobs_id_in_its_name_and_a_link_to_it(
    prefect: SyncPrefectClient, credentials: ReplicateCredentials, tiny_model: str
) -> None:
    @flow
    def running() -> tuple[str, Prediction]:
        return str(flow_run.id), run_model(tiny_model, {}, credentials=credentials)

    run, made = running()
    artifact = _until(lambda: _artifacts(prefect, run))[0]
    assert artifact.key == "replicate-local-tiny"
    assert artifact.data == f"[Prediction {made.id} of local/tiny]({made.urls.web})"
    named = _until(lambda: _ended(prefect, str(artifact.task_run_id)))
    assert named.name == f"run local/tiny:{tiny_model[-64:-56]} · {made.id[:8]}"


@pytest.mark.parametrize("late", [0.0, 2.0], ids=["at once", "late"])
def test_the_name_has_the_job_while_it_runs(
    prefect: SyncPrefectClient,
    credentials: ReplicateCredentials,
    tiny_model: str,
    replicate: LocalReplicate,
    monkeypatch: pytest.MonkeyPatch,
    late: float,
) -> None:
    def emit(**told: Any) -> Event | None:
        if not told["validated_state"].is_running():
            return emit_task_run_state_change_event(**told)
        # As when Prefect's server is busy: it hears of the state, and with it of the name that
        # the run had then, after it was told the new name.
        then = told | {"task_run": told["task_run"].model_copy()}
        Timer(late, copy_context().run, [partial(emit_task_run_state_change_event, **then)]).start()
        return None

    monkeypatch.setattr("prefect.task_engine.emit_task_run_state_change_event", emit)

    @flow
    def running() -> None:
        slow = {"do": "sleep", "number": 60}
        future = run_model.submit(tiny_model, slow, credentials=credentials)
        run = future.task_run_id
        name = _until(lambda: _name_while_running(prefect, run))
        newest = jobs(replicate)[0]["id"]
        cancel_prediction.fn(newest, credentials=credentials)
        assert name.endswith(f" · {newest[:8]}")
        future.wait()

    running()


def test_another_attempt_has_the_id_of_its_own_job(
    prefect: SyncPrefectClient,
    credentials: ReplicateCredentials,
    tiny_model: str,
    replicate: LocalReplicate,
) -> None:
    @task(retries=1)
    def twice() -> str:
        create_prediction.fn(tiny_model, {}, credentials=credentials)
        if task_run.run_count == 1:
            raise RuntimeError
        return str(task_run.id)

    @flow
    def running() -> str:
        return twice()

    named = _until(lambda: _ended(prefect, running_id)) if (running_id := running()) else None
    newest = jobs(replicate)[0]["id"]
    assert named
    assert named.name.endswith(f" · {newest[:8]}")
    assert named.name.count("·") == 1


def test_a_batch_is_one_table_of_what_became_of_each(
    prefect: SyncPrefectClient, credentials: ReplicateCredentials, tiny_model: str
) -> None:
    seen: list[str] = []

    @flow
    def running() -> None:
        seen.append(str(flow_run.id))
        bad = {"do": "fail", "text": "a|b\n<img src=x>"}
        run_batch(tiny_model, [{"text": "a"}, bad, {"text": "c"}], credentials=credentials)

    with pytest.raises(BatchError) as caught:
        running()
    (artifact,) = _until(lambda: _artifacts(prefect, seen[0]))
    lines = str(artifact.data).splitlines()
    assert lines[0] == "# 2 of 3 succeeded"
    first = caught.value.predictions[0]
    assert first
    assert f"| 0 | [{first.id}]({first.urls.web}) | " in lines[4]
    assert lines[4].endswith("| succeeded |")
    assert "failed" in lines[5]
    assert "<" not in lines[5]
    assert lines[5].count("|") == 5
    assert len(lines) == 7


def test_outside_of_a_flow_nothing_is_shown(
    prefect: SyncPrefectClient,
    credentials: ReplicateCredentials,
    tiny_model: str,
    recwarn: pytest.WarningsRecorder,
) -> None:
    made = run_model.fn(tiny_model, {}, credentials=credentials)
    links = [one for one in prefect.read_artifacts() if made.id in str(one.data)]
    assert links == []
    assert [one for one in recwarn if issubclass(one.category, FutureWarning)] == []
