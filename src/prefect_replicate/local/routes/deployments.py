"""Deployments: every change makes a new release."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.local import problems, replies
from prefect_replicate.local.deletion import unfinished_of, unused
from prefect_replicate.local.records import Deployment, timestamp
from prefect_replicate.local.service import Service
from prefect_replicate.local.web import page, read_json

_CHANGEABLE = {
    "version": {"type": "string"},
    "hardware": {"type": "string", "enum": list(replies.HARDWARE)},
    "min_instances": {"type": "integer", "minimum": 0, "maximum": 5},
    "max_instances": {"type": "integer", "minimum": 0, "maximum": 20},
}
_CHANGE = {"type": "object", "additionalProperties": False, "properties": _CHANGEABLE}
_NEW = {
    "type": "object",
    "required": ["name", "model", *_CHANGEABLE],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"},
        "model": {"type": "string"},
        **_CHANGEABLE,
    },
}


async def create(request: Request) -> Response:
    """deployments.create; answers 200, not 201."""
    service: Service = request.app.state.service
    body = await read_json(request, _NEW)
    owner = replies.ACCOUNT["username"]
    if service.state.deployments.get(owner, body["name"]):
        raise problems.Problem(
            409, f"A deployment named {owner}/{body['name']} already exists.", "Conflict"
        )
    return _release(service, {"owner": owner, "number": 1, **body})


async def update(request: Request) -> Response:
    """deployments.update: a new release, numbered one higher."""
    service: Service = request.app.state.service
    current = find(request)
    body = await read_json(request, _CHANGE)
    return _release(service, {**asdict(current), "number": current.number + 1, **body})


async def get(request: Request) -> Response:
    """deployments.get."""
    return JSONResponse(replies.deployment(find(request)))


async def index(request: Request) -> Response:
    """deployments.list, newest first."""
    service: Service = request.app.state.service
    found = [record for _, record in service.state.deployments.newest()]
    return page(request, found, replies.deployment)


async def delete(request: Request) -> Response:
    """deployments.delete: offline and unused deployments."""
    service: Service = request.app.state.service
    deployment = find(request)
    if deployment.min_instances:
        raise problems.not_now(
            f"{deployment.owner}/{deployment.name} is online: its min_instances is "
            f"{deployment.min_instances}. Set that to 0 first."
        )
    rest = service.behaviour.deployment_rest
    if not unused(service.state, deployment, rest, service.now()):
        raise problems.not_now(
            f"{deployment.owner}/{deployment.name} is in use, or was changed or used less than "
            f"{rest:g} seconds ago."
        )
    service.state.deployments.delete(deployment.owner, deployment.name)
    return Response(status_code=204)


def find_enabled(request: Request) -> Deployment:
    """The deployment that the path names, to run it.

    Raises:
        Problem: 404; 422 if it is disabled.
    """
    deployment = find(request)
    if deployment.max_instances == 0:
        raise problems.not_now(
            f"{deployment.owner}/{deployment.name} is disabled: its max_instances is 0."
        )
    return deployment


def find(request: Request) -> Deployment:
    """The deployment that the path names.

    Raises:
        Problem: 404.
    """
    service: Service = request.app.state.service
    found = service.state.deployments.get(request.path_params["owner"], request.path_params["name"])
    if found is None:
        raise problems.not_found()
    return found


def _release(service: Service, fields: dict[str, Any]) -> Response:
    # JSON Schema takes 1.0 for an integer.
    counts = {name: int(fields[name]) for name in ("min_instances", "max_instances")}
    deployment = Deployment(**{**fields, **counts, "released_at": timestamp(service.now())})
    strict = service.behaviour.min_above_max == "refuse"
    if strict and deployment.min_instances > deployment.max_instances:
        raise problems.invalid_field(
            "min_instances", "Must be less than or equal to max_instances", "number_lte"
        )
    owner, _, name = deployment.model.partition("/")
    if service.state.versions.get(owner, name, deployment.version) is None:
        raise problems.unknown_version()
    service.state.deployments.put(deployment)
    service.warm_up(deployment)
    if deployment.max_instances == 0:
        for run in unfinished_of(service.state, deployment):
            service.runs.cancel(run)
    return JSONResponse(replies.deployment(deployment))


_PATH = "/deployments/{owner}/{name}"
ROUTES = [
    Route("/deployments", index),
    Route("/deployments", create, methods=["POST"]),
    Route(_PATH, get),
    Route(_PATH, update, methods=["PATCH"]),
    Route(_PATH, delete, methods=["DELETE"]),
]
