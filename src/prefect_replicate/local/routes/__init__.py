"""The operations of Replicate's API, one module for each kind of thing, and their paths."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from prefect_replicate.local.problems import Problem, not_found
from prefect_replicate.local.routes import account, deployments, files, models, runs
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
            *files.ROUTES,
        ],
        exception_handlers={Problem: _refuse, HTTPException: _http, Exception: _fail},
    )
    app.router.redirect_slashes = False  # clients of the API follow no redirects
    app.state.service = service
    return app


async def _refuse(_: Request, error: Exception) -> Response:
    return answer(error)


async def _http(_: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, no such method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    missing = 404
    detail = str(getattr(error, "detail", error))
    return answer(not_found() if status == missing else Problem(status, detail))


async def _fail(_request: Request, _error: Exception) -> Response:
    """A mistake in Local Replicate; the server logs the traceback."""
    return answer(Problem(500, "Local Replicate failed; its log says why."))
