"""Every answer of an operation that is there fits Replicate's own OpenAPI description."""

import base64
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from prefect_replicate.local import LocalReplicate
from tests.local.conftest import Api

Check = Callable[[httpx.Response, str], Any]


def _plain(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable` in the words of JSON Schema."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A version is "one of" any text and "hidden"; taken literally, "hidden" would be both at once.
    names = {"oneOf": "anyOf"}
    plain = {names.get(name, name): _plain(value) for name, value in schema.items()}
    plain.pop("nullable", None)
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


@pytest.fixture(scope="session")
def fits(openapi: dict[str, Any]) -> Check:
    """Checks an answer against what the operation says of its status, and gives its JSON."""
    operations = {
        operation["operationId"]: operation
        for path in openapi["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict) and "operationId" in operation
    }

    def check(response: httpx.Response, operation: str) -> Any:
        described = operations[operation]["responses"]
        assert str(response.status_code) in described, f"{operation}: {response.text}"
        content = described[str(response.status_code)].get("content", {})
        if not content:
            return None
        media_type, described_content = next(iter(content.items()))
        if not media_type.endswith("json"):
            return response.text
        schema = described_content["schema"]
        document = {**_plain(schema), "components": _plain(openapi["components"])}
        validator = Draft202012Validator(document, format_checker=FormatChecker())
        validator.validate(response.json())
        return response.json()

    return check


def test_account_and_hardware(api: Api, fits: Check) -> None:
    fits(api.http.get("/account"), "account.get")
    fits(api.http.get("/hardware"), "hardware.list")
    fits(api.http.get("/webhooks/default/secret"), "webhooks.default.secret.get")


def test_models_and_versions(api: Api, fits: Check, actor: str) -> None:
    model, _, number = actor.partition(":")
    body = {"owner": "local", "name": "contract", "visibility": "public", "hardware": "cpu"}
    fits(api.http.post("/models", json=body), "models.create")
    fits(api.http.get("/models/local/contract"), "models.get")
    fits(api.http.get(f"/models/{model}"), "models.get")
    fits(api.http.get("/models"), "models.list")
    fits(api.http.get(f"/models/{model}/versions"), "models.versions.list")
    fits(api.http.get(f"/models/{model}/versions/{number}"), "models.versions.get")
    fits(api.http.get("/models/local/contract/readme"), "models.readme.get")
    changes = {"description": "Changed.", "readme": "# Changed"}
    fits(api.http.patch("/models/local/contract", json=changes), "models.update")
    readme = fits(api.http.get("/models/local/contract/readme"), "models.readme.get")
    assert readme == "# Changed"
    fits(api.http.get(f"/models/{model}/examples"), "models.examples.list")
    # A search is not in the document, but on the site; it answers as the list does.
    fits(api.http.request("QUERY", "/models", content="contract"), "models.list")


def test_deleting_models_and_versions(
    api: Api, server: LocalReplicate, fits: Check, folders: Path, counter: str
) -> None:
    number = server.push(folders / "counter", "local/contract-gone").partition(":")[2]
    path = "/models/local/contract-gone"
    fits(api.http.delete(f"{path}/versions/{number}"), "models.versions.delete")
    fits(api.http.delete(path), "models.delete")


def test_collections_and_search(api: Api, fits: Check, actor: str) -> None:
    for collection in fits(api.http.get("/collections"), "collections.list")["results"]:
        shown = fits(api.http.get(f"/collections/{collection['slug']}"), "collections.get")
        assert shown["models"]
    found = fits(api.http.get("/search", params={"query": "actor local models"}), "search")
    assert found["models"]
    assert found["collections"]
    fits(api.http.get("/search"), "search")


def test_predictions(api: Api, fits: Check, actor: str, painter: str, counter: str) -> None:
    create = "predictions.create"
    said = {"version": actor, "input": {"text": "x"}}
    waited = {"Prefer": "wait"}
    running = fits(api.http.post("/predictions", json=said), create)
    fits(api.http.get(running["urls"]["get"]), "predictions.get")
    fits(api.http.post("/predictions", json=said, headers=waited), create)
    failed = {**said, "input": {"text": "x", "act": "fail"}}
    fits(api.http.post("/predictions", json=failed, headers=waited), create)
    for version, asked in ((painter, {"count": 2}), (counter, {"to": 2})):
        body = {"version": version, "input": asked}
        made = fits(api.http.post("/predictions", json=body, headers=waited), create)
        fits(api.http.get(made["urls"]["get"]), "predictions.get")
    late = {**said, "input": {"text": "x", "act": "spin"}}
    headers = {"Prefer": "wait=1", "Cancel-After": "1h"}
    held = fits(api.http.post("/predictions", json=late, headers=headers), create)
    fits(api.http.post(held["urls"]["cancel"]), "predictions.cancel")
    fits(api.http.get("/predictions"), "predictions.list")


def test_official_models(api: Api, server: LocalReplicate, fits: Check, folders: Path) -> None:
    server.push(folders / "counter", "acme/official-counter", official=True)
    path = "/models/acme/official-counter/predictions"
    body = {"input": {"to": 1}}
    answer = api.http.post(path, json=body, headers={"Prefer": "wait"})
    fits(answer, "models.predictions.create")


def test_trainings(api: Api, fits: Check, actor: str) -> None:
    api.model("local", "contract-tuned")
    created = api.train(actor, "local/contract-tuned", data="data:,x")
    training = fits(created, "trainings.create")
    fits(api.http.get(f"/trainings/{training['id']}"), "trainings.get")
    api.end(training)
    fits(api.http.get(f"/trainings/{training['id']}"), "trainings.get")
    fits(api.http.post(f"/trainings/{training['id']}/cancel"), "trainings.cancel")
    fits(api.http.get("/trainings"), "trainings.list")


def test_deployments(api: Api, fits: Check, actor: str) -> None:
    model, _, number = actor.partition(":")
    limits = {"hardware": "cpu", "min_instances": 0, "max_instances": 1}
    body = {"name": "contract", "model": model, "version": number, **limits}
    fits(api.http.post("/deployments", json=body), "deployments.create")
    path = "/deployments/local/contract"
    fits(api.http.get(path), "deployments.get")
    fits(api.http.patch(path, json={"max_instances": 2}), "deployments.update")
    fits(api.http.get("/deployments"), "deployments.list")
    said = {"input": {"text": "x"}}
    said_by = api.http.post(f"{path}/predictions", json=said)
    api.end(fits(said_by, "deployments.predictions.create"))
    fits(api.http.delete(path), "deployments.delete")


def test_files(api: Api, fits: Check) -> None:
    file = fits(api.http.post("/files", files={"content": ("a", b"x")}), "files.create")
    fits(api.http.get(file["urls"]["get"]), "files.get")
    fits(api.http.get("/files"), "files.list")
    fits(api.http.get("/files/nothing"), "files.get")
    expiry = "9999999999"
    text = f"local {file['id']} {expiry}".encode()
    digest = hmac.digest(api.server.files_secret.encode(), text, "sha256")
    query = {"owner": "local", "expiry": expiry, "signature": base64.b64encode(digest).decode()}
    url = f"{file['urls']['get']}/download"
    assert fits(httpx.get(url, params=query), "files.download") == "x"
    fits(httpx.get(url), "files.download")
    fits(api.http.delete(file["urls"]["get"]), "files.delete")
    big = {"content": ("a", bytes(100_000_000))}
    fits(api.http.post("/files", files=big), "files.create")
