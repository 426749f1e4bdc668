import httpx
import pytest

from prefect_replicate.local import LocalReplicate
from tests.local.conftest import Api, ModelFolder


def test_a_training_makes_a_version_that_uses_its_weights(api: Api, actor: str) -> None:
    api.model("local", "tuned")
    data = api.upload(b"good books")
    created = api.train(actor, "local/tuned", data=data["urls"]["get"])
    assert created.status_code == 201
    assert created.json()["status"] == "starting"
    training = api.end(created.json())
    assert training["status"] == "succeeded"
    assert training["logs"] == "step 0\nstep 1\n"
    assert training["metrics"]["predict_time"] > 0
    weights, version = training["output"]["weights"], training["output"]["version"]
    assert httpx.get(weights).text == "tuned on good books"
    assert version.startswith("local/tuned:")
    assert api.predict(version, text="hello")["output"] == "tuned on good books: hello"
    newest = api.http.get("/models/local/tuned").json()["latest_version"]
    assert version == f"local/tuned:{newest['id']}"


def test_a_new_training_points_to_predictions_and_is_found_in_both_places(
    api: Api, actor: str
) -> None:
    api.model("local", "both")
    created = api.train(actor, "local/both", data="data:,x").json()
    assert f"/predictions/{created['id']}" in created["urls"]["get"]
    training = api.end(created)
    assert f"/trainings/{created['id']}" in training["urls"]["get"]
    assert api.http.get(f"/trainings/{created['id']}").json() == training
    assert api.http.get("/trainings").json()["results"][0] == training


def test_the_same_training_gives_the_same_version(api: Api, actor: str) -> None:
    api.model("local", "same")
    ends = [api.end(api.train(actor, "local/same", data="data:,x").json()) for _ in range(2)]
    assert ends[0]["output"]["version"] == ends[1]["output"]["version"]
    assert len(api.http.get("/models/local/same/versions").json()["results"]) == 1


def test_a_failed_training_adds_no_version(api: Api, actor: str) -> None:
    api.model("local", "failed")
    training = api.end(api.train(actor, "local/failed", data="data:,x", steps=0).json())
    assert (training["status"], training["error"]) == ("failed", "RuntimeError: nothing to do")
    assert api.http.get("/models/local/failed").json()["latest_version"] is None


def test_a_training_can_be_canceled(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    predict = """
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> str:
        return ""
"""
    train = """
from cog import Path
def train(data: str) -> Path:
    print("begun")
    while True:
        pass
"""
    version = server.push(model_folder(predict, train), "acme/endless")
    created = api.train(version, "acme/endless", data="x").json()
    running = api.until(created, lambda run: "begun" in run["logs"])
    assert api.http.post(f"/trainings/{created['id']}/cancel").json()["status"] == "canceled"
    assert api.http.get(running["urls"]["get"]).json()["status"] == "canceled"


def test_a_training_may_overwrite_the_files_it_starts_from(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    predict = """
from pathlib import Path
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> str:
        return Path("weights.txt").read_text()
"""
    train = """
from cog import Path
def train(data: str) -> Path:
    Path("weights.txt").write_text(data)
    return Path("weights.txt")
"""
    folder = model_folder(predict, train)
    (folder / "weights.txt").write_text("original")
    version = server.push(folder, "acme/in-place")
    assert api.end(api.train(version, "acme/in-place", data="new").json())["status"] == "succeeded"
    assert api.predict(version)["output"] == "original"


def test_a_destination_must_exist(api: Api, actor: str) -> None:
    response = api.train(actor, "acme/nowhere", data="data:,x")
    assert response.status_code == 404
    assert response.json()["detail"] == "The specified training destination does not exist"


def test_a_training_input_is_checked_against_the_trainings_own_schema(api: Api, actor: str) -> None:
    response = api.train(actor, "acme/actor", data="data:,x", steps=6)
    assert response.status_code == 422
    assert response.json()["invalid_fields"][0]["field"] == "input.steps"


def test_a_version_without_training_code_is_refused(api: Api, counter: str) -> None:
    assert api.train(counter, "acme/counter", data="x").status_code == 422


@pytest.mark.parametrize("version", ["acme/actor:" + "0" * 64, "acme/nothing:" + "0" * 64])
def test_an_unknown_version_cannot_be_trained(api: Api, actor: str, version: str) -> None:
    assert api.train(version, "acme/actor", data="data:,x").status_code == 404


def test_a_prediction_is_not_found_among_trainings(api: Api, actor: str) -> None:
    prediction = api.predict(actor, text="x")
    assert api.http.get(f"/trainings/{prediction['id']}").status_code == 404
    assert api.http.post(f"/trainings/{prediction['id']}/cancel").status_code == 404


def test_a_model_that_is_about_to_get_a_version_is_not_deleted(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    slow = "from cog import Path\nimport time\ndef train(data: str) -> Path:\n    time.sleep(60)\n"
    folder = model_folder("class Predictor:\n    def predict(self) -> str: return ''\n", slow)
    api.model("local", "expecting")
    training = api.train(server.push(folder, "acme/slow"), "local/expecting", data="x").json()
    refused = api.http.delete("/models/local/expecting")
    assert refused.status_code == 422
    assert training["id"] in refused.json()["detail"]
    api.http.post(training["urls"]["cancel"])
    assert api.http.delete("/models/local/expecting").status_code == 204
