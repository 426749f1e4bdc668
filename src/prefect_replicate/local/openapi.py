"""The OpenAPI document that Replicate shows for a version, and the one that its workers read.

Cog writes the first when it builds an image. Local Replicate builds none, so it is written here:
the signatures come from `introspect.py`, and this module puts them where Cog would have put them.
Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

_REFS = "#/components/schemas/"
_Json = dict[str, Any]


def document(predict: _Json, train: _Json | None) -> _Json:
    """What Cog writes at build: the same paths, components and titles.

    Args:
        predict: The signature of the predictor, as `introspect.py` gives it.
        train: That of the training function, or None.
    """
    schemas: _Json = dict(_components("Prediction", predict, {}))
    paths = _ROOT | {"/health-check": _get("Healthcheck", "healthcheck_health_check_get")}
    paths |= _paths("Predict", "prediction")
    if train:
        schemas |= _components("Training", train, schemas)
        paths |= _paths("Train", "training")
    document = {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": paths,
        "components": {"schemas": schemas | _SHARED},
    }
    return copy.deepcopy(document)


def worker_schema(openapi: Mapping[str, Any], mode: Literal["predict", "train"]) -> dict[str, Any]:
    """The document for a worker's .cog/openapi_schema.json.

    It differs from the public one in three ways. Server-sent events are switched on for every
    predictor, not only for iterators. In train mode `Input` and `Output` are those of the training,
    because coglet streams only from POST /predictions, which then runs the training. And null is
    admitted where the public document says `nullable`, a word that coglet does not know.

    Raises:
        ValueError: Train mode was asked for, and the document describes no training.
    """
    document: _Json = copy.deepcopy(dict(openapi))
    schemas = document["components"]["schemas"]
    if mode == "train":
        if "TrainingInput" not in schemas:
            raise ValueError("This version describes no training: its cog.yaml names no train.")
        schemas["Input"] = schemas["TrainingInput"]
        schemas["Output"] = schemas["TrainingOutput"]
    document["paths"]["/predictions"]["post"]["x-cog-streaming"] = True
    properties = schemas["Input"]["properties"]
    for name, schema in properties.items():
        if schema.pop("nullable", False):
            properties[name] = {"anyOf": [schema, {"type": "null"}]}
    return document


def _components(kind: str, found: _Json, taken: Mapping[str, Any]) -> Iterator[tuple[str, _Json]]:
    prefix = "Training" if kind == "Training" else ""
    properties, enums = found["properties"], found["enums"]
    for name, choices in enums.items():
        others = {other: enums[other] for other in enums if other != name}
        component = _free_name(name, choices, {**taken, **others})
        if component != name:
            _redirect(properties[name], component)
        yield component, choices
    required = {"required": found["required"]} if found["required"] else {}
    title = f"{prefix}Input"
    yield title, {"title": title, "type": "object", "properties": properties, **required}
    yield f"{prefix}Output", found["output"]
    yield f"{kind}Request", _request(f"{kind}Request", title)
    yield f"{kind}Response", _response(f"{kind}Response", title, f"{prefix}Output")


def _free_name(name: str, choices: _Json, taken: Mapping[str, Any]) -> str:
    """A component's name for some choices: the input's own, as Cog has it, unless that is taken.

    Cog lets the choices of a training's input be those of the prediction's input of that name.
    """
    reserved = _SHARED.keys() | _RESERVED
    while name in reserved or taken.get(name, choices) != choices:
        name += "_choices"
    return name


def _redirect(schema: _Json, component: str) -> None:
    target = schema["items"] if "items" in schema else schema["allOf"][0]
    target["$ref"] = _REFS + component


def _request(title: str, input_name: str) -> _Json:
    properties = {"id": _string("Id"), "input": {"$ref": _REFS + input_name}}
    return {"title": title, "type": "object", "properties": properties}


def _response(title: str, input_name: str, output_name: str) -> _Json:
    times = ("created_at", "started_at", "completed_at")
    properties: _Json = {
        "input": {"$ref": _REFS + input_name},
        "output": {"$ref": _REFS + output_name},
        "id": _string("Id"),
        "version": _string("Version"),
        **{name: _string(_title(name), format="date-time") for name in times},
        **{name: _string(_title(name)) for name in ("status", "error", "logs")},
        "metrics": {"title": "Metrics", "type": "object"},
    }
    return {"title": title, "type": "object", "properties": properties}


def _paths(summary: str, job: str) -> _Json:
    word, jobs = summary.lower(), f"{job}s"
    id_name = f"{job}_id"
    id_schema = _string(_title(id_name))
    return {
        f"/{jobs}": {
            "post": {
                "summary": summary,
                "description": f"Run a single {job} on the model",
                "operationId": f"{word}_{jobs}_post",
                "requestBody": {"content": _json({"$ref": f"{_REFS}{job.title()}Request"})},
                "responses": _ok({"$ref": f"{_REFS}{job.title()}Response"}) | _INVALID,
            }
        },
        f"/{jobs}/{{{id_name}}}/cancel": {
            "post": {
                "summary": "Cancel",
                "operationId": f"cancel_{jobs}__{id_name}__cancel_post",
                "parameters": [
                    {"required": True, "schema": id_schema, "name": id_name, "in": "path"}
                ],
                "responses": _ok({}) | _INVALID,
            }
        },
    }


def _get(summary: str, operation: str) -> _Json:
    return {"get": {"summary": summary, "operationId": operation, "responses": _ok({})}}


def _ok(schema: _Json) -> _Json:
    return {"200": {"description": "Successful Response", "content": _json(schema)}}


def _json(schema: _Json) -> _Json:
    return {"application/json": {"schema": schema}}


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def _string(title: str, **more: str) -> _Json:
    return {"title": title, "type": "string", **more}


_ROOT = {"/": _get("Root", "root__get")}
_INVALID = {
    "422": {
        "description": "Validation Error",
        "content": _json({"$ref": f"{_REFS}HTTPValidationError"}),
    }
}
_RESERVED = {
    f"{kind}{part}"
    for kind in ("Prediction", "Training", "")
    for part in ("Input", "Output", "Request", "Response")
}
_SHARED: _Json = {
    "Status": {
        **_string("Status"),
        "description": "An enumeration.",
        "enum": ["starting", "processing", "succeeded", "canceled", "failed"],
    },
    "HTTPValidationError": {
        "title": "HTTPValidationError",
        "type": "object",
        "properties": {
            "detail": {
                "title": "Detail",
                "type": "array",
                "items": {"$ref": f"{_REFS}ValidationError"},
            }
        },
    },
    "ValidationError": {
        "title": "ValidationError",
        "required": ["loc", "msg", "type"],
        "type": "object",
        "properties": {
            "loc": {
                "title": "Location",
                "type": "array",
                "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            },
            "msg": _string("Message"),
            "type": _string("Error Type"),
        },
    },
}
