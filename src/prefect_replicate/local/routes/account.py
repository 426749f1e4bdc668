"""Who asks, what hardware there is, and what webhooks are signed with."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.local.replies import ACCOUNT, HARDWARE
from prefect_replicate.local.service import Service


async def get_account(_: Request) -> Response:
    """account.get."""
    return JSONResponse(ACCOUNT)


async def list_hardware(_: Request) -> Response:
    """hardware.list: a bare array."""
    return JSONResponse([{"name": name, "sku": sku} for sku, name in HARDWARE.items()])


async def get_webhook_secret(request: Request) -> Response:
    """webhooks.default.secret.get."""
    service: Service = request.app.state.service
    return JSONResponse({"key": service.webhooks.secret})


ROUTES = [
    Route("/account", get_account),
    Route("/hardware", list_hardware),
    Route("/webhooks/default/secret", get_webhook_secret),
]
