"""Finding models: collections, and search over everything.

There is one collection, of all models, since nobody curates others here.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.local import problems
from prefect_replicate.local.records import Model
from prefect_replicate.local.routes.models import shown
from prefect_replicate.local.search import about, rank, score
from prefect_replicate.local.service import Service
from prefect_replicate.local.web import page

_LOCAL = {
    "name": "Local models",
    "slug": "local",
    "description": "All models of this Local Replicate.",
}
_MOST, _USUAL = 50, 20


async def list_collections(request: Request) -> Response:
    """collections.list."""
    return page(request, [_LOCAL], dict)


async def get_collection(request: Request) -> Response:
    """collections.get."""
    if request.path_params["slug"] != _LOCAL["slug"]:
        raise problems.not_found()
    models = [shown(request, model) for model in _models(request)]
    return JSONResponse({**_LOCAL, "full_description": None, "models": models})


async def search(request: Request) -> Response:
    """search; there are no pages of documentation to find."""
    query = request.query_params.get("query", "").strip()
    limit = _limit(request)
    if not query:
        return _refusal('Query parameter "query" is required')
    if limit is None:
        return _refusal(f'Query parameter "limit" must be from 1 to {_MOST}')
    found = rank(query, _models(request))[:limit]
    fits = score(query, about(_LOCAL["name"], _LOCAL["description"]))
    reply = {
        "query": query,
        "models": [_hit(request, points, model) for points, model in found],
        "collections": [_collection(request)] if fits else [],
        "pages": [],
    }
    return JSONResponse(reply)


def _models(request: Request) -> list[Model]:
    service: Service = request.app.state.service
    return [model for _, model in service.state.models.newest()]


def _hit(request: Request, points: float, model: Model) -> dict[str, Any]:
    metadata: dict[str, Any] = {"generated_description": None, "score": points, "tags": []}
    return {"model": shown(request, model), "metadata": metadata}


def _collection(request: Request) -> dict[str, Any]:
    return {**_LOCAL, "models": [f"{model.owner}/{model.name}" for model in _models(request)]}


def _limit(request: Request) -> int | None:
    text = request.query_params.get("limit", str(_USUAL))
    digits = text.lstrip("0")
    # Longer numbers are too much for the reader of numbers, too.
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= len(str(_MOST))):
        return None
    return int(digits) if int(digits) <= _MOST else None


def _refusal(detail: str) -> Response:
    """400 as the API's description has it: plain JSON, alone among all refusals."""
    return JSONResponse(problems.Problem(400, detail).body, 400)


ROUTES = [
    Route("/collections", list_collections),
    Route("/collections/{slug}", get_collection),
    Route("/search", search),
]
