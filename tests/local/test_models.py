from pathlib import Path

import httpx
import pytest
from replicate.client import Client as OfficialClient
from replicate.exceptions import ReplicateError

from prefect_replicate.local import LocalReplicate
from tests.local.conftest import Api, Client, ModelFolder

GREETER = """
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> str:
        return "hello"
"""
PAINTER = """
from cog import BasePredictor, Path
class Predictor(BasePredictor):
    def predict(self) -> Path:
        picture = Path("picture.png")
        picture.write_bytes(b"paint")
        return picture
"""


def _path(version: str) -> str:
    model, _, number = version.partition(":")
    return f"/models/{model}/versions/{number}"


def _detail(response: httpx.Response, status: int = 422) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])


# --- changes ---


def test_a_change_of_a_model_is_seen_by_the_next_reader(api: Api) -> None:
    api.model("local", "changed")
    body = {"description": "New.", "license_url": "https://example.com", "weights_url": "https://x"}
    changed = api.http.patch("/models/local/changed", json=body)
    assert changed.status_code == 200
    assert changed.json()["description"] == "New."
    assert api.http.patch("/models/local/changed", json={"paper_url": "https://y"}).is_success
    shown = api.http.get("/models/local/changed").json()
    assert shown == {**changed.json(), "paper_url": "https://y"}


def test_a_change_that_cannot_be_made_changes_nothing(api: Api) -> None:
    api.model("local", "fast")
    before = api.http.get("/models/local/fast").json()
    for wrong, complaint in (
        ({"visibility": "public"}, "Additional property visibility is not allowed"),
        ({"description": None}, "Invalid type. Expected: string, given: null"),
    ):
        refused = api.http.patch("/models/local/fast", json={"readme": "x", **wrong})
        assert complaint in _detail(refused)
    assert api.http.get("/models/local/fast").json() == before
    assert api.http.get("/models/local/fast/readme").status_code == 404


def test_a_readme_is_plain_text_once_there_is_one(api: Api) -> None:
    api.model("local", "documented")
    path = "/models/local/documented"
    assert _detail(api.http.get(f"{path}/readme"), 404) == "README not found"
    api.http.patch(path, json={"readme": "# Größe"})
    answer = api.http.get(f"{path}/readme")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "# Größe"


def test_a_model_has_no_examples(api: Api, actor: str) -> None:
    page = api.http.get("/models/acme/actor/examples").json()
    assert page == {"next": None, "previous": None, "results": []}


@pytest.mark.parametrize(
    ("method", "rest"),
    [("PATCH", ""), ("DELETE", ""), ("GET", "/readme"), ("GET", "/examples")],
)
def test_what_is_not_there_is_not_found(api: Api, method: str, rest: str) -> None:
    assert api.http.request(method, f"/models/local/nothing{rest}").status_code == 404


@pytest.mark.parametrize(("method", "rest"), [("PATCH", ""), ("DELETE", ""), ("DELETE", "v")])
def test_a_model_of_somebody_else_stays_as_it_is(
    api: Api, actor: str, method: str, rest: str
) -> None:
    path = _path(actor) if rest else "/models/acme/actor"
    assert "may not touch models of 'acme'" in _detail(api.http.request(method, path), 403)
    assert api.http.get(_path(actor)).status_code == 200


# --- deleting models ---


def test_a_deleted_model_is_gone_and_its_name_is_free(api: Api, official: OfficialClient) -> None:
    api.model("local", "passing")
    assert official.models.delete("local/passing") is True
    assert api.http.get("/models/local/passing").status_code == 404
    with pytest.raises(ReplicateError, match="404"):
        official.models.delete("local/passing")
    api.model("local", "passing")


def test_a_model_goes_only_after_its_versions(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    version = server.push(model_folder(GREETER), "local/versioned")
    assert "still has versions" in _detail(api.http.delete("/models/local/versioned"))
    assert api.http.delete(_path(version)).status_code == 202
    assert api.http.delete("/models/local/versioned").status_code == 204


def test_a_public_model_is_not_deleted(api: Api) -> None:
    body = {"owner": "local", "name": "open", "visibility": "public", "hardware": "cpu"}
    api.http.post("/models", json=body)
    assert "only private models" in _detail(api.http.delete("/models/local/open"))
    assert api.http.get("/models/local/open").status_code == 200


# --- deleting versions ---


def test_a_deleted_version_is_gone_and_the_one_before_is_the_latest(
    api: Api, server: LocalReplicate, official: OfficialClient, model_folder: ModelFolder
) -> None:
    older = server.push(model_folder(GREETER), "local/twice")
    newer = server.push(model_folder(GREETER + "# newer\n"), "local/twice")
    model = official.models.get("local/twice")
    model.versions.delete(newer.partition(":")[2])  # it takes only 204 for a success
    assert api.http.get(_path(newer)).status_code == 404
    with pytest.raises(ReplicateError, match="404"):
        model.versions.delete(newer.partition(":")[2])
    latest = api.http.get("/models/local/twice").json()["latest_version"]
    assert f"local/twice:{latest['id']}" == older
    refused = api.http.post("/predictions", json={"version": newer, "input": {}})
    assert "does not exist" in _detail(refused)


def test_with_a_version_go_its_predictions_and_their_files(
    api: Api, server: LocalReplicate, painter: str, model_folder: ModelFolder
) -> None:
    kept = api.predict(painter)
    version = server.push(model_folder(PAINTER), "local/doomed")
    gone = api.predict(version)
    assert httpx.get(gone["output"]).content == b"paint"
    answer = api.http.delete(_path(version))
    assert (answer.status_code, answer.content) == (202, b"")
    assert api.http.get(gone["urls"]["get"]).status_code == 404
    assert gone["id"] not in [one["id"] for one in api.http.get("/predictions").json()["results"]]
    assert httpx.get(gone["output"]).status_code == 404
    assert httpx.get(kept["output"][0]).status_code == 200


def test_a_deleted_version_stops_what_it_does(server_of_its_own: Api, actor_folder: Path) -> None:
    api, server = server_of_its_own, server_of_its_own.server
    version = server.push(actor_folder, "local/stopped")
    running = api.predict(version, prefer="", text="x", act="sleep")
    api.until(running, lambda run: run["status"] == "processing")
    assert api.http.delete(_path(version)).status_code == 202
    assert api.http.get(running["urls"]["get"]).status_code == 404
    # The same code elsewhere works on.
    other = server.push(actor_folder, "local/going-on")
    assert api.predict(other, text="x")["output"] == "base: x"


def test_a_version_in_a_deployment_is_not_deleted(
    api: Api, server: LocalReplicate, model_folder: ModelFolder
) -> None:
    version = server.push(model_folder(GREETER), "local/deployed")
    model, _, number = version.partition(":")
    limits = {"hardware": "cpu", "min_instances": 0, "max_instances": 1}
    api.http.post(
        "/deployments", json={"name": "user", "model": model, "version": number, **limits}
    )
    assert "deployment local/user runs it" in _detail(api.http.delete(_path(version)))
    assert api.http.delete("/deployments/local/user").status_code == 204
    assert api.http.delete(_path(version)).status_code == 202


def test_the_base_of_a_training_is_not_deleted_before_what_was_trained(
    server_of_its_own: Api, actor_folder: Path
) -> None:
    api, server = server_of_its_own, server_of_its_own.server
    base = server.push(actor_folder, "local/base")
    api.model("local", "tuned")
    training = api.train(base, "local/tuned", data="data:,x").json()
    assert f"training {training['id']} begins with it" in _detail(api.http.delete(_path(base)))
    tuned = api.end(training)["output"]
    assert f"the base of {tuned['version']}" in _detail(api.http.delete(_path(base)))
    assert httpx.get(tuned["weights"]).status_code == 200
    assert api.http.delete(_path(tuned["version"])).status_code == 202
    assert httpx.get(tuned["weights"]).status_code == 404
    assert api.http.delete(_path(base)).status_code == 202


def test_a_version_of_the_same_id_in_another_model_works_on(
    server_of_its_own: Api, actor_folder: Path
) -> None:
    api, server = server_of_its_own, server_of_its_own.server
    actor, tuned = server.push(actor_folder, "acme/actor"), []
    for name in ("tuned-alike", "tuned-likewise"):
        api.model("local", name)
        training = api.train(actor, f"local/{name}", data="data:,same").json()
        tuned.append(api.end(training)["output"]["version"])
    gone, kept = tuned
    assert gone.partition(":")[2] == kept.partition(":")[2]
    assert api.predict(gone, text="x", act="exit")["status"] == "failed"  # so its worker is gone
    assert api.http.delete(_path(gone)).status_code == 202
    assert api.predict(kept, text="x")["output"] == "tuned on same: x"


def test_a_version_of_a_public_model_is_not_deleted(api: Api, actor: str) -> None:
    body = {"owner": "local", "name": "shared", "visibility": "public", "hardware": "cpu"}
    api.http.post("/models", json=body)
    tuned = api.end(api.train(actor, "local/shared", data="data:,x").json())["output"]["version"]
    assert "local/shared is public" in _detail(api.http.delete(_path(tuned)))
    assert api.http.get(_path(tuned)).status_code == 200


def test_the_code_of_a_deleted_version_goes_when_the_server_starts_next(
    tmp_path: Path, client: Client, model_folder: ModelFolder
) -> None:
    root = tmp_path / "root"
    with LocalReplicate(root) as server:
        kept = server.push(model_folder(GREETER), "local/kept")
        gone = server.push(model_folder(GREETER + "# newer\n"), "local/kept")
        assert client(server).http.delete(_path(gone)).status_code == 202
    with LocalReplicate(root) as server:
        assert [code.name for code in (root / "versions").iterdir()] == [kept.partition(":")[2]]
        assert client(server).predict(kept)["output"] == "hello"
        assert server.push(model_folder(GREETER + "# newer\n"), "local/kept") == gone
