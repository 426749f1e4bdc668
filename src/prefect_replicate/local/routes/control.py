"""Beside the API: tell the server how to behave, what is to go wrong, and ask what it received.

| | |
| --- | --- |
| `GET`, `PATCH /_local/behaviour` | all switches; change some |
| `GET`, `POST`, `DELETE /_local/faults` | those that are set; set one; take all back |
| `DELETE /_local/faults/{id}` | take one back; answers it with its counts |
| `GET`, `DELETE /_local/requests` | what was received, by `?method=` and `?path=`; forget it |
| `POST /_local/reset` | remove predictions, trainings and files; with `{"models": true}` all |
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.local import problems
from prefect_replicate.local.behaviour import Behaviour
from prefect_replicate.local.faults import Fault
from prefect_replicate.local.front import CONTROL
from prefect_replicate.local.service import Service
from prefect_replicate.local.web import read_json

_ANY = {"type": "object"}
_RESET = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"models": {"type": "boolean"}},
}


async def get_behaviour(request: Request) -> Response:
    """All switches."""
    service: Service = request.app.state.service
    return JSONResponse(service.behaviour.model_dump(mode="json"))


async def change_behaviour(request: Request) -> Response:
    """Change some switches."""
    service: Service = request.app.state.service
    changes = await read_json(request, _ANY)
    fields = {**service.behaviour.model_dump(), **changes}
    try:
        service.conditions.behaviour = Behaviour.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from None
    return await get_behaviour(request)


async def list_faults(request: Request) -> Response:
    """The faults that are set."""
    service: Service = request.app.state.service
    return JSONResponse([each.to_json() for each in service.conditions.faults.held.values()])


async def add_fault(request: Request) -> Response:
    """Set a fault."""
    service: Service = request.app.state.service
    try:
        fault = Fault.model_validate(await read_json(request, _ANY))
    except ValidationError as error:
        raise _invalid(error) from None
    added = service.conditions.faults.add(fault, service.conditions.seconds())
    return JSONResponse(added.to_json(), 201)


async def clear_faults(request: Request) -> Response:
    """Take all faults back."""
    service: Service = request.app.state.service
    service.conditions.faults.clear()
    return Response(status_code=204)


async def remove_fault(request: Request) -> Response:
    """Take one fault back."""
    service: Service = request.app.state.service
    removed = service.conditions.faults.remove(request.path_params["id"])
    if removed is None:
        raise problems.not_found()
    return JSONResponse(removed.to_json())


async def list_requests(request: Request) -> Response:
    """What was received, oldest first."""
    service: Service = request.app.state.service
    asked = request.query_params
    found = service.log.find(asked.get("method"), asked.get("path"))
    return JSONResponse([each.to_json() for each in found])


async def clear_requests(request: Request) -> Response:
    """Forget what was received."""
    service: Service = request.app.state.service
    service.log.clear()
    return Response(status_code=204)


async def reset(request: Request) -> Response:
    """Remove what clients made."""
    service: Service = request.app.state.service
    asked: dict[str, Any] = await read_json(request, _RESET)
    await service.reset(models=asked.get("models", False))
    return Response(status_code=204)


def _invalid(error: ValidationError) -> problems.Problem:
    return problems.invalid(
        problems.InvalidField(
            each["type"], ".".join(map(str, each["loc"])) or "(root)", each["msg"]
        )
        for each in error.errors(include_url=False, include_input=False)
    )


ROUTES = [
    Route(f"{CONTROL}/behaviour", get_behaviour),
    Route(f"{CONTROL}/behaviour", change_behaviour, methods=["PATCH"]),
    Route(f"{CONTROL}/faults", list_faults),
    Route(f"{CONTROL}/faults", add_fault, methods=["POST"]),
    Route(f"{CONTROL}/faults", clear_faults, methods=["DELETE"]),
    Route(f"{CONTROL}/faults/{{id:int}}", remove_fault, methods=["DELETE"]),
    Route(f"{CONTROL}/requests", list_requests),
    Route(f"{CONTROL}/requests", clear_requests, methods=["DELETE"]),
    Route(f"{CONTROL}/reset", reset, methods=["POST"]),
]
