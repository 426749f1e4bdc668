import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_replicate.local import Behaviour, LocalReplicate
from tests.local.conftest import Api, Client, ModelFolder


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


def _predict(api: Api, called: str, **input: Any) -> httpx.Response:
    return api.http.post(f"/deployments/local/{called}/predictions", json={"input": input})


def test_a_deployment_is_deleted_only_when_it_has_nothing_to_do(api: Api, actor: str) -> None:
    api.http.post("/deployments", json=_new("busy", actor))
    running = _predict(api, "busy", text="x", act="sleep").json()
    refused = api.http.delete("/deployments/local/busy")
    assert refused.status_code == 422
    assert "local/busy is in use" in refused.json()["detail"]
    api.http.post(running["urls"]["cancel"])
    assert api.http.delete("/deployments/local/busy").status_code == 204


def test_a_deployment_that_keeps_instances_is_not_deleted(api: Api, actor: str) -> None:
    api.http.post("/deployments", json=_new("online", actor, min_instances=1))
    refused = api.http.delete("/deployments/local/online")
    assert refused.status_code == 422
    assert "online: its min_instances is 1" in refused.json()["detail"]
    api.http.patch("/deployments/local/online", json={"min_instances": 0})
    assert api.http.delete("/deployments/local/online").status_code == 204


@pytest.mark.parametrize("used", [False, True])
def test_a_deployment_has_to_rest_before_it_is_deleted(
    tmp_path: Path, client: Client, actor_folder: Path, used: bool
) -> None:
    with LocalReplicate(tmp_path) as server:
        api, version = client(server), server.push(actor_folder, "acme/actor")
        api.http.post("/deployments", json=_new("tired", version))
        if used:
            api.end(_predict(api, "tired", text="x").json())
    _make_old(tmp_path / "state.db", "deployments", "released_at" if used else "none")
    with LocalReplicate(tmp_path, behaviour=Behaviour(deployment_rest=900)) as server:
        refused = client(server).http.delete("/deployments/local/tired")
        assert refused.status_code == 422
        assert "less than 900 seconds ago" in refused.json()["detail"]
    _make_old(tmp_path / "state.db", "deployments", "released_at")
    _make_old(tmp_path / "state.db", "runs", "completed_at")
    with LocalReplicate(tmp_path, behaviour=Behaviour(deployment_rest=900)) as server:
        assert client(server).http.delete("/deployments/local/tired").status_code == 204


def _make_old(database: Path, table: str, field: str) -> None:
    with closing(sqlite3.connect(database)) as db, db:
        change = "UPDATE {} SET document = json_replace(document, ?, '2020-01-01T00:00:00.000000Z')"
        db.execute(change.format(table), [f"$.{field}"])


def test_a_disabled_deployment_runs_nothing_until_it_is_enabled(api: Api, actor: str) -> None:
    for name in ("disabled", "enabled"):
        api.http.post("/deployments", json=_new(name, actor))
    running = _predict(api, "disabled", text="x", act="sleep").json()
    other = _predict(api, "enabled", text="x", act="sleep").json()
    api.http.patch("/deployments/local/disabled", json={"max_instances": 0})
    assert api.http.get(running["urls"]["get"]).json()["status"] == "canceled"
    assert api.http.get(other["urls"]["get"]).json()["status"] in {"starting", "processing"}
    refused = _predict(api, "disabled", text="x")
    assert refused.status_code == 422
    assert "local/disabled is disabled" in refused.json()["detail"]
    api.http.post(other["urls"]["cancel"])
    api.http.patch("/deployments/local/disabled", json={"max_instances": 1})
    assert api.end(_predict(api, "disabled", text="x").json())["status"] == "succeeded"


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


def test_only_what_a_deployment_keeps_stays_warm(
    tmp_path: Path, client: Client, actor_folder: Path, model_folder: ModelFolder
) -> None:
    other = model_folder((actor_folder / "predict.py").read_text() + "\n# other")
    with LocalReplicate(tmp_path / "root", behaviour=Behaviour(worker_rest=0.5)) as server:
        api = client(server)
        kept, idle = server.push(actor_folder, "acme/kept"), server.push(other, "acme/idle")
        made = api.http.post("/deployments", json=_new("warm", kept, min_instances=1))
        assert made.status_code == 200
        api.predict(idle, text="x")

        def alive() -> int:
            return len(list((tmp_path / "root" / "workers").iterdir()))

        give_up = time.monotonic() + 30
        while alive() != 1:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        time.sleep(1)
        assert alive() == 1
        warm = _predict(api, "warm", text="x").json()
        assert api.end(warm)["status"] == "succeeded"
        api.http.patch("/deployments/local/warm", json={"min_instances": 0})
        while alive():
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert api.end(_predict(api, "warm", text="x").json())["status"] == "succeeded"
