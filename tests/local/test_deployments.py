import time
from pathlib import Path
from typing import Any

import pytest

from prefect_replicate.local import LocalReplicate
from tests.local.conftest import Api, ModelFolder


def _new(called: str, pushed: str, **changes: Any) -> dict[str, Any]:
    model, _, number = pushed.partition(":")
    fields = {"model": model, "version": number, "hardware": "cpu"}
    return {"name": called, **fields, "min_instances": 0, "max_instances": 1, **changes}


def test_a_deployment_runs_the_version_of_its_current_release(
    api: Api, actor: str, counter: str
) -> None:
    created = api.http.post("/deployments", json=_new("runs", actor))
    assert created.status_code == 200
    deployment = created.json()
    assert deployment["owner"] == "local"
    assert deployment["current_release"]["number"] == 1
    response = api.http.post(
        "/deployments/local/runs/predictions",
        json={"input": {"text": "hello"}},
        headers={"Prefer": "wait"},
    )
    prediction = response.json()
    assert prediction["output"] == "base: hello"
    assert prediction["deployment"] == "runs"
    assert prediction["version"] == actor.partition(":")[2]


def test_a_number_of_instances_is_whole_however_it_is_written(api: Api, actor: str) -> None:
    api.http.post("/deployments", json=_new("whole", actor, min_instances=0.0))
    shown = api.http.get("/deployments/local/whole").text
    assert '"min_instances":0,' in shown


def test_every_change_is_a_new_release(api: Api, actor: str) -> None:
    api.http.post("/deployments", json=_new("changes", actor))
    changed = api.http.patch("/deployments/local/changes", json={"max_instances": 3}).json()
    release = changed["current_release"]
    assert release["number"] == 2
    assert release["configuration"] == {
        "hardware": "cpu",
        "min_instances": 0,
        "max_instances": 3,
    }
    assert api.http.get("/deployments/local/changes").json() == changed
    assert changed in api.http.get("/deployments").json()["results"]


def test_a_deployment_that_keeps_instances_has_its_worker_ready(
    api: Api, server: LocalReplicate, model_folder: ModelFolder, tmp_path: Path
) -> None:
    source = f"""
from pathlib import Path
from cog import BasePredictor
class Predictor(BasePredictor):
    def setup(self):
        Path({str(tmp_path / "ready")!r}).write_text("ready")
    def predict(self) -> str:
        return ""
"""
    version = server.push(model_folder(source), "acme/warm")
    api.http.post("/deployments", json=_new("warm", version, min_instances=1))
    give_up = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_deleted_deployment_is_gone(api: Api, actor: str) -> None:
    api.http.post("/deployments", json=_new("gone", actor))
    assert api.http.delete("/deployments/local/gone").status_code == 204
    assert api.http.get("/deployments/local/gone").status_code == 404
    body = {"input": {"text": "x"}}
    assert api.http.post("/deployments/local/gone/predictions", json=body).status_code == 404


def test_a_deployments_name_is_taken_once(api: Api, actor: str) -> None:
    api.http.post("/deployments", json=_new("taken", actor))
    assert api.http.post("/deployments", json=_new("taken", actor)).status_code == 409


@pytest.mark.parametrize(
    "changes",
    [
        {"min_instances": 6},
        {"max_instances": 21},
        {"min_instances": 2, "max_instances": 1},
        {"hardware": "abacus"},
        {"version": "0" * 64},
        {"model": "acme/nothing"},
        {"owner": "me"},
    ],
)
def test_a_deployment_that_cannot_be_is_refused(
    api: Api, actor: str, changes: dict[str, Any]
) -> None:
    assert api.http.post("/deployments", json=_new("wrong", actor, **changes)).status_code == 422
    assert api.http.get("/deployments/local/wrong").status_code == 404


@pytest.mark.parametrize("missing", ["name", "model", "version", "hardware", "min_instances"])
def test_every_field_of_a_new_deployment_is_required(api: Api, actor: str, missing: str) -> None:
    body = _new("incomplete", actor)
    del body[missing]
    response = api.http.post("/deployments", json=body)
    assert response.json()["detail"] == f"- {missing} is required\n"
