"""Replicate's OpenAPI document, read in one place: its operations, and what it leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the document.

    Attributes:
        name: Its operationId.
        method: In capitals.
        path: Without /v1, parameters in braces.
        described: What the document says of it; part of the document itself, not a copy.
    """

    name: str
    method: str
    path: str
    described: dict[str, Any]


def operations(document: dict[str, Any]) -> dict[str, Operation]:
    """All operations by their operationId."""
    return {
        described["operationId"]: Operation(
            described["operationId"], method.upper(), path, described
        )
        for path, methods in document["paths"].items()
        for method, described in methods.items()
        if "operationId" in described
    }


def followed(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A part of the document, or what it refers to."""
    for key in part.get("$ref", "").removeprefix("#").split("/")[1:]:
        document = document[key]
    return document if "$ref" in part else part


# What the document leaves out though Replicate answers so: operation -> status -> source. The
# sources are Replicate's documentation in prose and answers of its API that clients have recorded.
_NOT_THERE = {
    404: "recorded: 'The requested resource could not be found.' for whatever a path names; the "
    "document has it for files and readmes only"
}
_NO_CURSOR = {404: "Django REST framework's 'Invalid cursor'; cursors are made by it"}
_BAD_BODY = {
    400: "Django REST framework's answer to a body that cannot be parsed",
    422: "recorded: 'Input validation failed', with invalid_fields, for a body that does not fit",
}
_BAD_QUERY = {422: "as for bodies; the document has schemas for these parameters but no refusal"}
_BAD_RUN = {
    **_BAD_BODY,
    422: "recorded: 'Input validation failed' and 'Invalid version or not permitted'; by the text "
    "of the parameters also Prefer beyond 60 s and Cancel-After below 5 s",
}
_TAKEN = {409: "reported by users: the name of a model that exists, or was deleted a moment ago"}
_NOT_YOURS = {403: "by the text: models of the token's own account only; the body is not known"}
_NOT_NOW = {422: "by the text: conditions of a deletion; the status is not known"}

UNDOCUMENTED: Mapping[str, Mapping[int, str]] = {
    "collections.get": _NOT_THERE,
    "collections.list": _NO_CURSOR,
    "deployments.create": {**_BAD_BODY, **_TAKEN},
    "deployments.delete": {**_NOT_THERE, **_NOT_NOW},
    "deployments.get": _NOT_THERE,
    "deployments.list": _NO_CURSOR,
    "deployments.predictions.create": {**_NOT_THERE, **_BAD_RUN},
    "deployments.update": {**_NOT_THERE, **_BAD_BODY},
    "files.create": _BAD_BODY,
    "files.list": _NO_CURSOR,
    "models.create": {**_BAD_BODY, **_TAKEN, **_NOT_YOURS},
    "models.delete": {**_NOT_THERE, **_NOT_NOW, **_NOT_YOURS},
    "models.examples.list": {**_NOT_THERE, **_NO_CURSOR},
    "models.get": _NOT_THERE,
    "models.list": {**_NO_CURSOR, **_BAD_QUERY},
    "models.predictions.create": {**_NOT_THERE, **_BAD_RUN},
    "models.update": {**_NOT_THERE, **_BAD_BODY, **_NOT_YOURS},
    "models.versions.delete": {**_NOT_THERE, **_NOT_NOW, **_NOT_YOURS},
    "models.versions.get": _NOT_THERE,
    "models.versions.list": {**_NOT_THERE, **_NO_CURSOR},
    "predictions.cancel": _NOT_THERE,
    "predictions.create": _BAD_RUN,
    "predictions.get": _NOT_THERE,
    "predictions.list": {**_NO_CURSOR, **_BAD_QUERY},
    "trainings.cancel": _NOT_THERE,
    "trainings.create": {
        **_BAD_RUN,
        404: "recorded: 'The specified training destination does not exist'",
    },
    "trainings.get": _NOT_THERE,
    "trainings.list": _NO_CURSOR,
}

_PROBLEM = {
    "type": "object",
    "required": ["detail", "status"],
    "properties": {
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "status": {"type": "integer"},
        "invalid_fields": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "field", "description"],
                "properties": {
                    "type": {"type": "string"},
                    "field": {"type": "string"},
                    "description": {"type": "string"},
                },
            },
        },
    },
}
# The lists that are cut into pages; the document does not name the parameter that its links have.
PAGED = frozenset(
    {
        "collections.list",
        "deployments.list",
        "files.list",
        "models.examples.list",
        "models.list",
        "models.versions.list",
        "predictions.list",
        "trainings.list",
    }
)


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """A copy that says what the original leaves out, so that every check can be as strict as it is.

    That is: the refusals of `UNDOCUMENTED`, the parameter of cursors, and that the version "hidden"
    is one of two things and not both (taken literally, `oneOf` of any text and "hidden" admits
    every version but that), and that the header Prefer may have preferences of other kinds, which
    RFC 7240 has servers ignore.
    """
    document = deepcopy(document)
    components = document["components"]
    prediction = components["schemas"]["schemas_prediction_response"]
    prediction["properties"]["version"] = {"type": "string"}
    del components["parameters"]["parameters_prefer_header"]["schema"]["pattern"]
    for name, operation in operations(document).items():
        for status, source in UNDOCUMENTED.get(name, {}).items():
            operation.described["responses"][str(status)] = {
                "description": source,
                "content": {"application/problem+json": {"schema": _PROBLEM}},
            }
        if name in PAGED:
            cursor = {"name": "cursor", "in": "query", "schema": {"type": "string"}}
            operation.described.setdefault("parameters", []).append(cursor)
    return document


@dataclass(frozen=True, slots=True)
class Hints:
    """Values that lead somewhere, for one operation.

    Attributes:
        parameters: By name; the first value of each is one that is accepted.
        body: A whole body that is accepted.
    """

    parameters: Mapping[str, tuple[Any, ...]]
    body: Mapping[str, Any] | None = None


def hinted(
    document: dict[str, Any], hints: Mapping[str, Hints], webhooks: Sequence[str]
) -> dict[str, Any]:
    """A copy whose parameters and bodies name examples, so that requests find what is there.

    Args:
        document: It.
        hints: For each operation.
        webhooks: The only ones to be asked for, so that nothing is sent to other machines.
    """
    document = deepcopy(document)
    for schema in document["components"]["schemas"].values():
        if "webhook" in schema.get("properties", {}):
            schema["properties"]["webhook"] = {"type": "string", "enum": list(webhooks)}
    for name, hint in hints.items():
        described = operations(document)[name].described
        described["parameters"] = [
            _with_examples(followed(document, parameter), hint)
            for parameter in described.get("parameters", ())
        ]
        if hint.body is not None:
            _add_body(document, described, hint.body)
    return document


def _with_examples(parameter: dict[str, Any], hint: Hints) -> dict[str, Any]:
    values = hint.parameters.get(parameter["name"])
    if values is None:
        return parameter
    schema = _leaning(parameter["schema"], values)
    return {**parameter, "schema": schema, "example": values[0]}


def _leaning(schema: dict[str, Any], values: tuple[Any, ...]) -> dict[str, Any]:
    """A schema of the same values, which a generator takes every other time from those given."""
    schema = {key: value for key, value in schema.items() if key != "example"}
    return {"anyOf": [{"enum": list(values)}, schema]}


def _add_body(document: dict[str, Any], described: dict[str, Any], body: Mapping[str, Any]) -> None:
    for media in described["requestBody"]["content"].values():
        schema = deepcopy(followed(document, media["schema"]))
        for name, value in body.items():
            schema["properties"][name] = _leaning(schema["properties"][name], (value,))
        media.update(schema=schema, example=dict(body))
