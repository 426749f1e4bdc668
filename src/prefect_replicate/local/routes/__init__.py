"""The operations of Replicate's API, one module for each kind of thing, and their paths."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from prefect_replicate.local import pages, problems
from prefect_replicate.local.behaviour import Behaviour
from prefect_replicate.local.files import DELIVERY
from prefect_replicate.local.problems import Problem, not_found
from prefect_replicate.local.routes import (
    account,
    control,
    deployments,
    discovery,
    files,
    models,
    pushes,
    runs,
)
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
            *control.ROUTES,
            *pushes.ROUTES,
            *pages.ROUTES,
        ],
        exception_handlers={
            Problem: _refuse,
            HTTPException: _http,
            ClientDisconnect: _gone,
            Exception: _fail,
        },
    )
    app.router.redirect_slashes = False  # clients of the API follow no redirects
    app.state.service = service
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    service: Service = request.app.state.service
    if isinstance(error, Problem):
        _switch(error, request.url.path, service.behaviour)
    return answer(error)


def _switch(problem: Problem, path: str, behaviour: Behaviour) -> None:
    """Give a refusal the status and the form that the service is to give it."""
    if problem.body.get("title") == problems.NOT_NOW:
        problem.status = behaviour.refusal_status
    elif problem.status == 404 and (path.startswith(DELIVERY) or path.endswith("/download")):
        problem.status = behaviour.expired_status
    problem.body["status"] = problem.status
    if problem.status == 403 and behaviour.bare_forbidden:
        problem.body = {"detail": problem.body["detail"]}


async def _gone(_request: Request, _error: Exception) -> Response:
    """Nobody is there to read it."""
    return Response(status_code=400)


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
