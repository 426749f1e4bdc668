"""The operations of Replicate's API, one module for each kind of thing, and their paths."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from prefect_replicate.local.problems import Problem, not_found
from prefect_replicate.local.routes import account, deployments, discovery, files, models, runs
from prefect_replicate.local.service import Service
from prefect_replicate.local.web import answer


def application(service: Service) -> Starlette:
    """The routes over a service."""
    app = Starlette(
        routes=[
            *account.ROUTES,
            *models.ROUTES,
            *runs.ROUTES,
            *deployments.ROUTES,
            *discovery.ROUTES,
            *files.ROUTES,
        ],
        exception_handlers={Problem: _refuse, HTTPException: _http, Exception: _fail},
    )
    app.router.redirect_slashes = False  # clients of the API follow no redirects
    app.state.service = service
    return app


async def _refuse(_: Request, error: Exception) -> Response:
    return answer(error)


async def _http(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, no such method."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        return answer(not_found())
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else None
    return answer(Problem(error.status_code, str(error.detail)), headers)


def _allowed(request: Request) -> str:
    """The methods of a path; Starlette itself names only those of the first route that fits."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    fit = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in fit for method in route.methods or ()}))


async def _fail(_request: Request, _error: Exception) -> Response:
    """A mistake in Local Replicate; the server logs the traceback."""
    return answer(Problem(500, "Local Replicate failed; its log says why."))
