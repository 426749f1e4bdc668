"""Every operation as a value: what to send and how to read the answer.

One function for each operationId of Replicate's OpenAPI document, named after it with `_` for `.`.
A call does nothing by itself; `api.client.Client.send` carries it out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Generic, TypeVar

from pydantic import TypeAdapter

from prefect_replicate.api.references import Name, parse_reference
from prefect_replicate.api.resources import (
    Account,
    Deployment,
    File,
    Hardware,
    Model,
    Prediction,
    Training,
    Version,
)

T = TypeVar("T")

# An answer to anything but an upload comes within seconds; longer means that it is lost.
ANSWER_WITHIN = 30.0
UPLOAD_WITHIN = 600.0


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to send. `content` is read from where it stands, in pieces."""

    content: BinaryIO
    filename: str
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request to Replicate.

    Attributes:
        operation: The operationId.
        method: HTTP method.
        path: Path below the API's base, beginning with a slash.
        parse: Makes the result of the answer's JSON.
        doing: What the call does, for messages: "reading model 'owner/name'".
        body: JSON to send, or None.
        headers: Headers beside the client's own.
        upload: A file to send instead of a body.
        repeatable: The same request may arrive twice without harm.
        creates_job: It makes a prediction or training, which costs money.
        within: Seconds in all until an answer must be there.
    """

    operation: str
    method: str
    path: str
    parse: Callable[[Any], T]
    doing: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    upload: Upload | None = None
    repeatable: bool = False
    creates_job: bool = False
    within: float = ANSWER_WITHIN


def account_get() -> Call[Account]:
    """Whose token it is."""
    return _get("account.get", "/account", Account.model_validate, "reading the account")


def hardware_list() -> Call[list[Hardware]]:
    """What models can run on; the API answers with a bare list."""
    parse = TypeAdapter(list[Hardware]).validate_python
    return _get("hardware.list", "/hardware", parse, "listing hardware")


def models_get(model: Name) -> Call[Model]:
    """A model and its latest version."""
    return _get("models.get", f"/models/{model}", Model.model_validate, f"reading model '{model}'")


def models_create(model: Name, *, visibility: str, hardware: str) -> Call[Model]:
    """A new, empty model; versions are added by a training or by `cog push`."""
    return Call(
        operation="models.create",
        method="POST",
        path="/models",
        parse=Model.model_validate,
        doing=f"creating model '{model}'",
        body={
            "owner": model.owner,
            "name": model.name,
            "visibility": visibility,
            "hardware": hardware,
        },
    )


def models_versions_get(model: Name, version: str) -> Call[Version]:
    """One version of a model, with its schema."""
    path = f"/models/{model}/versions/{version}"
    doing = f"reading version '{model}:{version[:8]}'"
    return _get("models.versions.get", path, Version.model_validate, doing)


def predictions_create(
    version: str, input: Mapping[str, Any], *, cancel_after: int | None = None
) -> Call[Prediction]:
    """Run a version: "owner/name:id" or a bare id.

    Raises:
        BadReferenceError: It is neither.
    """
    return _create_prediction(
        "predictions.create",
        "/predictions",
        f"'{parse_reference(version).short}'",
        {"version": version, "input": input},
        cancel_after,
    )


def models_predictions_create(
    model: Name, input: Mapping[str, Any], *, cancel_after: int | None = None
) -> Call[Prediction]:
    """Run an official model, which needs no version. Community models answer 404 here."""
    return _create_prediction(
        "models.predictions.create",
        f"/models/{model}/predictions",
        f"model '{model}'",
        {"input": input},
        cancel_after,
    )


def deployments_predictions_create(
    deployment: Name, input: Mapping[str, Any], *, cancel_after: int | None = None
) -> Call[Prediction]:
    """Run whatever version a deployment holds now."""
    return _create_prediction(
        "deployments.predictions.create",
        f"/deployments/{deployment}/predictions",
        f"deployment '{deployment}'",
        {"input": input},
        cancel_after,
    )


def predictions_get(id: str) -> Call[Prediction]:
    """A prediction as it stands."""
    path = f"/predictions/{id}"
    return _get("predictions.get", path, Prediction.model_validate, f"reading prediction {id}")


def predictions_cancel(id: str) -> Call[Prediction]:
    """Cancel a prediction; one that has ended stays as it is."""
    return _cancel(
        "predictions.cancel", f"/predictions/{id}", Prediction.model_validate, f"prediction {id}"
    )


def trainings_create(
    model: Name, version: str, *, destination: Name, input: Mapping[str, Any]
) -> Call[Training]:
    """Train a version; the result becomes a new version of `destination`, which must exist."""
    return Call(
        operation="trainings.create",
        method="POST",
        path=f"/models/{model}/versions/{version}/trainings",
        parse=Training.model_validate,
        doing=f"creating a training of '{model}:{version[:8]}' into '{destination}'",
        body={"destination": str(destination), "input": input},
        creates_job=True,
    )


def trainings_get(id: str) -> Call[Training]:
    """A training as it stands."""
    return _get(
        "trainings.get", f"/trainings/{id}", Training.model_validate, f"reading training {id}"
    )


def trainings_cancel(id: str) -> Call[Training]:
    """Cancel a training; one that has ended stays as it is."""
    return _cancel(
        "trainings.cancel", f"/trainings/{id}", Training.model_validate, f"training {id}"
    )


def deployments_get(deployment: Name) -> Call[Deployment]:
    """A deployment and its current release."""
    path = f"/deployments/{deployment}"
    doing = f"reading deployment '{deployment}'"
    return _get("deployments.get", path, Deployment.model_validate, doing)


def deployments_create(
    name: str, *, model: Name, version: str, hardware: str, min_instances: int, max_instances: int
) -> Call[Deployment]:
    """A new deployment, owned by the token's account. The API wants every field."""
    return Call(
        operation="deployments.create",
        method="POST",
        path="/deployments",
        parse=Deployment.model_validate,
        doing=f"creating deployment '{name}'",
        body={
            "name": name,
            "model": str(model),
            "version": version,
            "hardware": hardware,
            "min_instances": min_instances,
            "max_instances": max_instances,
        },
    )


def deployments_update(deployment: Name, **changes: str | int) -> Call[Deployment]:
    """A new release: any of version, hardware, min_instances and max_instances."""
    return Call(
        operation="deployments.update",
        method="PATCH",
        path=f"/deployments/{deployment}",
        parse=Deployment.model_validate,
        doing=f"updating deployment '{deployment}'",
        body=changes,
    )


def files_create(upload: Upload) -> Call[File]:
    """Upload a file of at most 100 MB. A second upload is another file and costs nothing."""
    return Call(
        operation="files.create",
        method="POST",
        path="/files",
        parse=File.model_validate,
        doing=f"uploading file '{upload.filename}'",
        upload=upload,
        repeatable=True,
        within=UPLOAD_WITHIN,
    )


def multipart(upload: Upload) -> dict[str, Any]:
    """An upload as the multipart form that the API expects, in httpx's words."""
    upload.content.seek(0)
    return {
        "files": {"content": (upload.filename, upload.content, upload.content_type)},
        "data": {"metadata": json.dumps(dict(upload.metadata))},
    }


def _get(operation: str, path: str, parse: Callable[[Any], T], doing: str) -> Call[T]:
    return Call(
        operation=operation,
        method="GET",
        path=path,
        parse=parse,
        doing=doing,
        repeatable=True,
    )


def _cancel(operation: str, job: str, parse: Callable[[Any], T], subject: str) -> Call[T]:
    return Call(
        operation=operation,
        method="POST",
        path=f"{job}/cancel",
        parse=parse,
        doing=f"canceling {subject}",
        repeatable=True,
    )


def _create_prediction(
    operation: str,
    path: str,
    what: str,
    body: Mapping[str, Any],
    cancel_after: int | None,
) -> Call[Prediction]:
    return Call(
        operation=operation,
        method="POST",
        path=path,
        parse=Prediction.model_validate,
        doing=f"creating a prediction of {what}",
        body=body,
        headers={} if cancel_after is None else {"Cancel-After": f"{cancel_after}s"},
        creates_job=True,
    )
