"""Every operation as a value: what to send and how to read the answer.

One function for each operationId of Replicate's OpenAPI document, named after it with `_` for `.`.
A call does nothing by itself; `api.client.Client.send` carries it out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from prefect_replicate.api.references import Name, parse_reference
from prefect_replicate.api.resources import (
    Account,
    Collection,
    Deployment,
    File,
    Hardware,
    Model,
    Page,
    Prediction,
    Resource,
    SearchResults,
    Training,
    Version,
    WebhookSecret,
)

T = TypeVar("T")
R = TypeVar("R", bound=Resource)

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


@dataclass(frozen=True, slots=True)
class Hook:
    """A webhook to send about one job: where to, and about which events.

    Attributes:
        url: Where Replicate sends it.
        events: Any of start, output, logs and completed.
    """

    url: str
    events: tuple[str, ...] = ("completed",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request to Replicate.

    Attributes:
        operation: The operationId.
        method: HTTP method.
        path: Path below the API's base, beginning with a slash.
        parse: Makes the result of the answer.
        reads: What the answer is: JSON, text, or bytes.
        params: Query parameters; those that are None are left out.
        doing: What the call does, for messages: "reading model 'owner/name'".
        body: JSON to send, plain text to send, or nothing.
        headers: Headers beside the client's own.
        upload: A file to send instead of a body.
        repeatable: The same request may arrive twice without harm.
        creates_job: It makes a prediction or training, which costs money.
        hook: The webhook that the body asks for.
        within: Seconds in all until an answer must be there.
    """

    operation: str
    method: str
    path: str
    parse: Callable[[Any], T]
    doing: str
    reads: Literal["json", "text", "bytes"] = "json"
    params: Mapping[str, str | int | None] = field(default_factory=dict)
    body: Mapping[str, Any] | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    upload: Upload | None = None
    repeatable: bool = False
    creates_job: bool = False
    hook: Hook | None = None
    within: float = ANSWER_WITHIN


def account_get() -> Call[Account]:
    """Whose token it is."""
    return _get("account.get", "/account", Account.model_validate, "reading the account")


def collections_list() -> Call[Page[Collection]]:
    """Curated groups of models."""
    return _page("collections.list", "/collections", Collection, "listing collections")


def collections_get(slug: str) -> Call[Collection]:
    """One collection with its models."""
    path, doing = f"/collections/{quote(slug, safe='')}", f"reading collection '{slug}'"
    return _get("collections.get", path, Collection.model_validate, doing)


def hardware_list() -> Call[list[Hardware]]:
    """What models can run on; the API answers with a bare list."""
    parse = TypeAdapter(list[Hardware]).validate_python
    return _get("hardware.list", "/hardware", parse, "listing hardware")


def models_get(model: Name) -> Call[Model]:
    """A model and its latest version."""
    return _get("models.get", f"/models/{model}", Model.model_validate, f"reading model '{model}'")


def models_create(model: Name, *, visibility: str, hardware: str, **about: str) -> Call[Model]:
    """A new, empty model; versions are added by a training or by `cog push`.

    Args:
        model: Its owner is the token's account or one of its organizations.
        visibility: "private" or "public".
        hardware: SKU that it runs on.
        about: Any of description, github_url, paper_url, license_url and cover_image_url.
    """
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
            **about,
        },
    )


def models_versions_get(model: Name, version: str) -> Call[Version]:
    """One version of a model, with its schema."""
    path = f"/models/{model}/versions/{version}"
    doing = f"reading version '{model}:{version[:8]}'"
    return _get("models.versions.get", path, Version.model_validate, doing)


def models_list(
    *, sort_by: str | None = None, sort_direction: str | None = None
) -> Call[Page[Model]]:
    """Public models, 25 a page, by the date of their latest version unless `sort_by` says else."""
    call = _page("models.list", "/models", Model, "listing models")
    return replace(call, params={"sort_by": sort_by, "sort_direction": sort_direction})


def models_search(query: str) -> Call[Page[Model]]:
    """Public models by words. Documented on the site, though absent from the OpenAPI document."""
    call = _page("models.search", "/models", Model, f"searching models for '{query}'")
    return replace(call, method="QUERY", body=query, headers={"Content-Type": "text/plain"})


def models_update(model: Name, **changes: str) -> Call[Model]:
    """Change description, readme, github_url, paper_url, weights_url or license_url."""
    return Call(
        operation="models.update",
        method="PATCH",
        path=f"/models/{model}",
        parse=Model.model_validate,
        doing=f"updating model '{model}'",
        body=changes,
        repeatable=True,
    )


def models_delete(model: Name) -> Call[None]:
    """Delete a private model of one's own that has no versions."""
    return _delete("models.delete", f"/models/{model}", f"deleting model '{model}'")


def models_examples_list(model: Name) -> Call[Page[Prediction]]:
    """Predictions that show what a model does."""
    doing = f"listing examples of model '{model}'"
    return _page("models.examples.list", f"/models/{model}/examples", Prediction, doing)


def models_readme_get(model: Name) -> Call[str]:
    """A model's readme, in Markdown."""
    doing = f"reading the readme of model '{model}'"
    call = _get("models.readme.get", f"/models/{model}/readme", str, doing)
    return replace(call, reads="text")


def models_versions_list(model: Name) -> Call[Page[Version]]:
    """A model's versions, newest first."""
    doing = f"listing versions of model '{model}'"
    return _page("models.versions.list", f"/models/{model}/versions", Version, doing)


def models_versions_delete(model: Name, version: str) -> Call[None]:
    """Delete a version and, some minutes later, its predictions and files."""
    path = f"/models/{model}/versions/{version}"
    return _delete("models.versions.delete", path, f"deleting version '{model}:{version[:8]}'")


def predictions_list(
    *,
    created_after: str | None = None,
    created_before: str | None = None,
    source: str | None = None,
) -> Call[Page[Prediction]]:
    """The account's predictions, newest first, 100 a page.

    Args:
        created_after: ISO 8601; this moment included.
        created_before: ISO 8601; this moment not included.
        source: "web" for those made on the site, of which 14 days are listed.
    """
    call = _page("predictions.list", "/predictions", Prediction, "listing predictions")
    limits = {"created_after": created_after, "created_before": created_before, "source": source}
    return replace(call, params=limits)


def predictions_create(
    version: str,
    input: Mapping[str, Any],
    *,
    cancel_after: int | None = None,
    hook: Hook | None = None,
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
        cancel_after=cancel_after,
        hook=hook,
    )


def models_predictions_create(
    model: Name,
    input: Mapping[str, Any],
    *,
    cancel_after: int | None = None,
    hook: Hook | None = None,
) -> Call[Prediction]:
    """Run an official model, which needs no version. Community models answer 404 here."""
    return _create_prediction(
        "models.predictions.create",
        f"/models/{model}/predictions",
        f"model '{model}'",
        {"input": input},
        cancel_after=cancel_after,
        hook=hook,
    )


def deployments_predictions_create(
    deployment: Name,
    input: Mapping[str, Any],
    *,
    cancel_after: int | None = None,
    hook: Hook | None = None,
) -> Call[Prediction]:
    """Run whatever version a deployment holds now."""
    return _create_prediction(
        "deployments.predictions.create",
        f"/deployments/{deployment}/predictions",
        f"deployment '{deployment}'",
        {"input": input},
        cancel_after=cancel_after,
        hook=hook,
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
    model: Name,
    version: str,
    *,
    destination: Name,
    input: Mapping[str, Any],
    hook: Hook | None = None,
) -> Call[Training]:
    """Train a version; the result becomes a new version of `destination`, which must exist."""
    return Call(
        operation="trainings.create",
        method="POST",
        path=f"/models/{model}/versions/{version}/trainings",
        parse=Training.model_validate,
        doing=f"creating a training of '{model}:{version[:8]}' into '{destination}'",
        body={"destination": str(destination), "input": input, **_asked(hook)},
        hook=hook,
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


def trainings_list() -> Call[Page[Training]]:
    """The account's trainings, newest first, 100 a page."""
    return _page("trainings.list", "/trainings", Training, "listing trainings")


def deployments_list() -> Call[Page[Deployment]]:
    """The account's deployments, newest first."""
    return _page("deployments.list", "/deployments", Deployment, "listing deployments")


def deployments_delete(deployment: Name) -> Call[None]:
    """Delete a deployment that has been offline and unused for 15 minutes."""
    doing = f"deleting deployment '{deployment}'"
    return _delete("deployments.delete", f"/deployments/{deployment}", doing)


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


def files_list() -> Call[Page[File]]:
    """The account's uploaded files."""
    return _page("files.list", "/files", File, "listing files")


def files_get(id: str) -> Call[File]:
    """What is known of an uploaded file; its content is behind a signed download."""
    return _get("files.get", f"/files/{id}", File.model_validate, f"reading file {id}")


def files_delete(id: str) -> Call[None]:
    """Delete an uploaded file."""
    return _delete("files.delete", f"/files/{id}", f"deleting file {id}")


def files_download(id: str, *, owner: str, expiry: int, signature: str) -> Call[bytes]:
    """A file's content, by a signature that its owner has made.

    Args:
        id: The file's.
        owner: Username of the account that uploaded it.
        expiry: Unix time until which the signature holds.
        signature: Base64 of HMAC-SHA256 over "{owner} {id} {expiry}" with the files' own secret.
    """
    call = _get("files.download", f"/files/{id}/download", bytes, f"downloading file {id}")
    params: dict[str, str | int | None] = {
        "owner": owner,
        "expiry": expiry,
        "signature": signature,
    }
    return replace(call, reads="bytes", params=params, within=UPLOAD_WITHIN)


def search(query: str, *, limit: int | None = None) -> Call[SearchResults]:
    """Models, collections and pages by words; `limit` is for models, 1 to 50."""
    doing = f"searching for '{query}'"
    call = _get("search", "/search", SearchResults.model_validate, doing)
    return replace(call, params={"query": query, "limit": limit})


def webhooks_default_secret_get() -> Call[WebhookSecret]:
    """What Replicate signs its webhooks with."""
    path, doing = "/webhooks/default/secret", "reading the webhook secret"
    return _get("webhooks.default.secret.get", path, WebhookSecret.model_validate, doing)


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


def _page(operation: str, path: str, of: type[R], doing: str) -> Call[Page[R]]:
    return _get(operation, path, Page[of].model_validate, doing)  # type: ignore[valid-type] # pydantic makes the class


def _delete(operation: str, path: str, doing: str) -> Call[None]:
    return Call(
        operation=operation,
        method="DELETE",
        path=path,
        parse=_nothing,
        reads="text",
        doing=doing,
        # What is gone already answers 404, which is not a success but does no harm.
        repeatable=True,
    )


def _nothing(_: str) -> None:
    """A delete answers with nothing."""


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
    *,
    cancel_after: int | None,
    hook: Hook | None,
) -> Call[Prediction]:
    return Call(
        operation=operation,
        method="POST",
        path=path,
        parse=Prediction.model_validate,
        doing=f"creating a prediction of {what}",
        body={**body, **_asked(hook)},
        hook=hook,
        headers={} if cancel_after is None else {"Cancel-After": f"{cancel_after}s"},
        creates_job=True,
    )


def _asked(hook: Hook | None) -> dict[str, Any]:
    return {"webhook": hook.url, "webhook_events_filter": list(hook.events)} if hook else {}
