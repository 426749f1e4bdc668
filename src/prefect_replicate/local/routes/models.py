"""Models and their versions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from prefect_replicate.local import json_text, problems, replies
from prefect_replicate.local.deletion import training_into, user_of
from prefect_replicate.local.records import Model, Version, timestamp
from prefect_replicate.local.search import rank
from prefect_replicate.local.service import Service
from prefect_replicate.local.web import base_url, page, read_body, read_json

_NAME = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"}
_TEXT = {"type": "string"}
_MODEL = {
    "type": "object",
    "required": ["owner", "name", "visibility", "hardware"],
    "additionalProperties": False,
    "properties": {
        "owner": _NAME,
        "name": _NAME,
        "visibility": {"type": "string", "enum": ["public", "private"]},
        "hardware": {"type": "string", "enum": list(replies.HARDWARE)},
        "description": _TEXT,
        "github_url": _TEXT,
        "paper_url": _TEXT,
        "license_url": _TEXT,
        "cover_image_url": _TEXT,
    },
}
_CHANGEABLE = ("description", "readme", "github_url", "paper_url", "weights_url", "license_url")
_CHANGE = {
    "type": "object",
    "additionalProperties": False,
    "properties": dict.fromkeys(_CHANGEABLE, _TEXT),
}
_URLS = ("github_url", "paper_url", "weights_url", "license_url", "cover_image_url")
_URL_PART = r"(?:[\w.~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
# By RFC 3986, since answers promise it; only what a browser would open.
_URL = re.compile(rf"https?://[\w.~-]+(?::\d+)?(?:[/?]{_URL_PART})?(?:#{_URL_PART})?", re.ASCII)


async def create(request: Request) -> Response:
    """models.create."""
    service: Service = request.app.state.service
    body = _with_urls(await read_json(request, _MODEL))
    _check_owner(body["owner"])
    if service.state.models.get(body["owner"], body["name"]):
        raise problems.Problem(
            409, f"A model named {body['owner']}/{body['name']} already exists.", "Conflict"
        )
    model = Model(**body, created_at=timestamp(service.now()))
    service.state.models.put(model)
    return JSONResponse(replies.model(model, None, base_url(request)), 201)


async def get(request: Request) -> Response:
    """models.get."""
    return JSONResponse(shown(request, find(request)))


async def update(request: Request) -> Response:
    """models.update."""
    service: Service = request.app.state.service
    model = _find_own(request)
    model = replace(model, **_with_urls(await read_json(request, _CHANGE)))
    service.state.models.put(model)
    return JSONResponse(shown(request, model))


async def delete(request: Request) -> Response:
    """models.delete: private models without versions."""
    service: Service = request.app.state.service
    model = _find_own(request)
    _check_private(model)
    if service.latest(model.owner, model.name):
        raise problems.not_now(
            f"{model.owner}/{model.name} still has versions. Delete those first."
        )
    if training := training_into(service.state, model):
        raise problems.not_now(
            f"Training {training.id} is about to give {model.owner}/{model.name} a version. "
            "Cancel it first."
        )
    service.state.models.delete(model.owner, model.name)
    return Response(status_code=204)


async def search(request: Request) -> Response:
    """models.search, best first. Clients send the words as they are, or as a JSON string."""
    service: Service = request.app.state.service
    words = _words(await read_body(request))
    found = rank(words, [model for _, model in service.state.models.newest()])
    return page(request, [model for _, model in found], lambda model: shown(request, model))


async def get_readme(request: Request) -> Response:
    """models.readme.get."""
    readme = find(request).readme
    if not readme:
        raise problems.not_found("README not found")
    return PlainTextResponse(readme)


async def list_examples(request: Request) -> Response:
    """models.examples.list: none, since authors choose them on the website, which is not here."""
    find(request)
    return page(request, [], dict)


async def index(request: Request) -> Response:
    """models.list, in the order asked for."""
    service: Service = request.app.state.service
    by, downwards = _order(request)
    models = [model for _, model in service.state.models.newest()]

    def age(model: Model) -> str:
        latest = service.latest(model.owner, model.name)
        return latest.created_at if latest and by != "model_created_at" else model.created_at

    models.sort(key=age, reverse=downwards)
    return page(request, models, lambda model: shown(request, model))


async def list_versions(request: Request) -> Response:
    """models.versions.list, newest first."""
    service: Service = request.app.state.service
    model = find(request)
    found = service.state.versions.newest({"owner": model.owner, "name": model.name})
    return page(request, [record for _, record in found], replies.version)


async def get_version(request: Request) -> Response:
    """models.versions.get."""
    return JSONResponse(replies.version(_find_version(request)))


async def delete_version(request: Request) -> Response:
    """models.versions.delete: of private models, and only what nothing else needs."""
    service: Service = request.app.state.service
    model = _find_own(request)
    version = _find_version(request)
    _check_private(model)
    if user := user_of(service.state, version):
        raise problems.not_now(f"The version cannot be deleted: {user}.")
    await service.delete_version(version)
    return Response(status_code=202)


def find(request: Request) -> Model:
    """The model that the path names.

    Raises:
        Problem: 404.
    """
    service: Service = request.app.state.service
    model = service.state.models.get(request.path_params["owner"], request.path_params["name"])
    if model is None:
        raise problems.not_found()
    return model


def shown(request: Request, model: Model) -> dict[str, Any]:
    """A model with its newest version, as the client sees it."""
    service: Service = request.app.state.service
    return replies.model(model, service.latest(model.owner, model.name), base_url(request))


def _find_own(request: Request) -> Model:
    _check_owner(request.path_params["owner"])
    return find(request)


def _find_version(request: Request) -> Version:
    service: Service = request.app.state.service
    model = find(request)
    version = service.state.versions.get(model.owner, model.name, request.path_params["version"])
    if version is None:
        raise problems.not_found()
    return version


def _check_owner(owner: str) -> None:
    account = replies.ACCOUNT["username"]
    if owner != account:
        raise problems.Problem(
            403, f"This token is of {account!r} and may not touch models of {owner!r}.", "Forbidden"
        )


def _check_private(model: Model) -> None:
    if model.visibility != "private":
        raise problems.not_now(
            f"{model.owner}/{model.name} is public, and only private models can be deleted, "
            "or their versions."
        )


def _with_urls(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body whose URLs are URLs; an empty text means none.

    Raises:
        Problem: 422, they are not.
    """
    wrong = [name for name in _URLS if body.get(name) and not _URL.fullmatch(body[name])]
    if wrong:
        raise problems.invalid(
            problems.InvalidField("format", name, "Does not match format 'uri'") for name in wrong
        )
    return {name: None if name in _URLS and not value else value for name, value in body.items()}


def _words(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        quoted = json_text.parse(body)
    except ValueError:
        return text
    return quoted if isinstance(quoted, str) else text


def _order(request: Request) -> tuple[str, bool]:
    by = request.query_params.get("sort_by", "latest_version_created_at")
    direction = request.query_params.get("sort_direction", "desc")
    if by not in {"model_created_at", "latest_version_created_at"}:
        raise problems.invalid_field("sort_by", f"{by!r} is no field to sort by", "enum")
    if direction not in {"asc", "desc"}:
        raise problems.invalid_field("sort_direction", "Must be asc or desc", "enum")
    return by, direction == "desc"


_PATH = "/models/{owner}/{name}"
_VERSION = f"{_PATH}/versions/{{version}}"
ROUTES = [
    Route("/models", index),
    Route("/models", create, methods=["POST"]),
    Route("/models", search, methods=["QUERY"]),
    Route(_PATH, get),
    Route(_PATH, update, methods=["PATCH"]),
    Route(_PATH, delete, methods=["DELETE"]),
    Route(f"{_PATH}/readme", get_readme),
    Route(f"{_PATH}/examples", list_examples),
    Route(f"{_PATH}/versions", list_versions),
    Route(_VERSION, get_version),
    Route(_VERSION, delete_version, methods=["DELETE"]),
]
