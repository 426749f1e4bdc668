"""Models and their versions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.local import problems, replies
from prefect_replicate.local.records import Model, timestamp
from prefect_replicate.local.service import Service
from prefect_replicate.local.web import base_url, page, read_json

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


async def create(request: Request) -> Response:
    """models.create."""
    service: Service = request.app.state.service
    body = await read_json(request, _MODEL)
    if body["owner"] != replies.ACCOUNT["username"]:
        raise problems.Problem(
            403, f"This token may not create models of {body['owner']!r}.", "Forbidden"
        )
    if service.state.models.get(body["owner"], body["name"]):
        raise problems.Problem(
            409, f"A model named {body['owner']}/{body['name']} already exists.", "Conflict"
        )
    model = Model(**body, created_at=timestamp(datetime.now(UTC)))
    service.state.models.put(model)
    return JSONResponse(replies.model(model, None, base_url(request)), 201)


async def get(request: Request) -> Response:
    """models.get."""
    model = find(request)
    return JSONResponse(_shown(request, model))


async def index(request: Request) -> Response:
    """models.list, in the order asked for."""
    service: Service = request.app.state.service
    by, downwards = _order(request)
    models = [model for _, model in service.state.models.newest()]

    def age(model: Model) -> str:
        latest = service.latest(model.owner, model.name)
        return latest.created_at if latest and by != "model_created_at" else model.created_at

    models.sort(key=age, reverse=downwards)
    return page(request, models, lambda model: _shown(request, model))


async def list_versions(request: Request) -> Response:
    """models.versions.list, newest first."""
    service: Service = request.app.state.service
    model = find(request)
    found = service.state.versions.newest({"owner": model.owner, "name": model.name})
    return page(request, [record for _, record in found], replies.version)


async def get_version(request: Request) -> Response:
    """models.versions.get."""
    service: Service = request.app.state.service
    model = find(request)
    version = service.state.versions.get(model.owner, model.name, request.path_params["version"])
    if version is None:
        raise problems.not_found()
    return JSONResponse(replies.version(version))


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


def _shown(request: Request, model: Model) -> dict[str, Any]:
    service: Service = request.app.state.service
    return replies.model(model, service.latest(model.owner, model.name), base_url(request))


def _order(request: Request) -> tuple[str, bool]:
    by = request.query_params.get("sort_by", "latest_version_created_at")
    direction = request.query_params.get("sort_direction", "desc")
    if by not in {"model_created_at", "latest_version_created_at"}:
        raise problems.invalid_field("sort_by", f"{by!r} is no field to sort by", "enum")
    if direction not in {"asc", "desc"}:
        raise problems.invalid_field("sort_direction", "Must be asc or desc", "enum")
    return by, direction == "desc"


_PATH = "/models/{owner}/{name}"
ROUTES = [
    Route("/models", index),
    Route("/models", create, methods=["POST"]),
    Route(_PATH, get),
    Route(f"{_PATH}/versions", list_versions),
    Route(f"{_PATH}/versions/{{version}}", get_version),
]
