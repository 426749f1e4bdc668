"""Every operation of Replicate's OpenAPI document is a call, and every call is one of them."""

import inspect
import io
import re
from collections.abc import Callable
from typing import Any

import pytest

from prefect_replicate.api import calls
from prefect_replicate.api.calls import Call
from prefect_replicate.api.references import Name
from tests.contract.document import followed, operations

ID = "a" * 64
MODEL, DEPLOYMENT = Name("own", "model"), Name("own", "prod")
HOOK = calls.Hook("https://example.com/hook", ("start", "completed"))
UPLOAD = calls.Upload(io.BytesIO(b"x"), "x.txt")
SIGNED: dict[str, Any] = {"owner": "own", "expiry": 1, "signature": "s"}
SIZES: dict[str, Any] = {"hardware": "cpu", "min_instances": 0, "max_instances": 1}

# How each operation is called in the tests below.
CALLS: dict[str, Callable[[], Call[Any]]] = {
    "account.get": calls.account_get,
    "collections.list": calls.collections_list,
    "collections.get": lambda: calls.collections_get("a b/c"),
    "deployments.list": calls.deployments_list,
    "deployments.create": lambda: calls.deployments_create("p", model=MODEL, version=ID, **SIZES),
    "deployments.get": lambda: calls.deployments_get(DEPLOYMENT),
    "deployments.update": lambda: calls.deployments_update(DEPLOYMENT, min_instances=1),
    "deployments.delete": lambda: calls.deployments_delete(DEPLOYMENT),
    "deployments.predictions.create": lambda: calls.deployments_predictions_create(DEPLOYMENT, {}),
    "files.list": calls.files_list,
    "files.create": lambda: calls.files_create(UPLOAD),
    "files.get": lambda: calls.files_get("f"),
    "files.delete": lambda: calls.files_delete("f"),
    "files.download": lambda: calls.files_download("f", **SIGNED),
    "hardware.list": calls.hardware_list,
    "models.list": lambda: calls.models_list(sort_by="model_created_at"),
    "models.create": lambda: calls.models_create(MODEL, visibility="private", hardware="cpu"),
    "models.get": lambda: calls.models_get(MODEL),
    "models.update": lambda: calls.models_update(MODEL, description="new"),
    "models.delete": lambda: calls.models_delete(MODEL),
    "models.examples.list": lambda: calls.models_examples_list(MODEL),
    "models.predictions.create": lambda: calls.models_predictions_create(MODEL, {}),
    "models.readme.get": lambda: calls.models_readme_get(MODEL),
    "models.versions.list": lambda: calls.models_versions_list(MODEL),
    "models.versions.get": lambda: calls.models_versions_get(MODEL, ID),
    "models.versions.delete": lambda: calls.models_versions_delete(MODEL, ID),
    "trainings.create": lambda: calls.trainings_create(
        MODEL, ID, destination=MODEL, input={}, hook=HOOK
    ),
    "trainings.list": calls.trainings_list,
    "trainings.get": lambda: calls.trainings_get("t"),
    "trainings.cancel": lambda: calls.trainings_cancel("t"),
    "predictions.create": lambda: calls.predictions_create(ID, {}, cancel_after=60, hook=HOOK),
    "predictions.list": lambda: calls.predictions_list(source="web"),
    "predictions.get": lambda: calls.predictions_get("p"),
    "predictions.cancel": lambda: calls.predictions_cancel("p"),
    "search": lambda: calls.search("words", limit=5),
    "webhooks.default.secret.get": calls.webhooks_default_secret_get,
}
# On the site, but not in the document.
ALSO = {"models.search"}


def test_every_operation_is_a_call_of_its_name(openapi: dict[str, Any]) -> None:
    public = {
        name
        for name, value in inspect.getmembers(calls, inspect.isfunction)
        if value.__module__ == calls.__name__ and not name.startswith("_")
    }
    expected = {name.replace(".", "_") for name in {*operations(openapi), *ALSO}}
    assert public - {"multipart"} == expected
    assert set(CALLS) == set(operations(openapi))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_sent_as_the_document_has_it(openapi: dict[str, Any], name: str) -> None:
    operation = operations(openapi)[name]
    call = CALLS[name]()
    assert (call.operation, call.method) == (name, operation.method)
    assert re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", operation.path), call.path)
    parameters = operation.described.get("parameters", ())
    declared = [followed(openapi, parameter) for parameter in parameters]
    assert set(call.params) | set(call.headers) <= {parameter["name"] for parameter in declared}
    required = {
        parameter["name"]
        for parameter in declared
        if parameter.get("required") and parameter["in"] == "query"
    }
    assert required <= set(call.params)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_sends_the_fields_that_the_document_has(openapi: dict[str, Any], name: str) -> None:
    described = operations(openapi)[name].described
    content = described.get("requestBody", {}).get("content", {})
    call = CALLS[name]()
    assert (call.body is not None) == ("application/json" in content)
    assert (call.upload is not None) == ("multipart/form-data" in content)
    if isinstance(call.body, dict):
        schema = followed(openapi, content["application/json"]["schema"])
        assert set(schema.get("required", ())) <= set(call.body) <= set(schema["properties"])


@pytest.mark.parametrize("name", CALLS)
def test_only_what_pays_is_never_sent_twice(name: str) -> None:
    call = CALLS[name]()
    pays = name.endswith("predictions.create") or name == "trainings.create"
    assert call.creates_job is pays
    assert not (pays and call.repeatable)
    assert call.repeatable or call.method in {"POST", "PATCH"}
