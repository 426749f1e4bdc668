"""Who asks, and what hardware there is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.local.replies import ACCOUNT, HARDWARE


async def get_account(_: Request) -> Response:
    """account.get."""
    return JSONResponse(ACCOUNT)


async def list_hardware(_: Request) -> Response:
    """hardware.list: a bare array."""
    return JSONResponse([{"name": name, "sku": sku} for sku, name in HARDWARE.items()])


ROUTES = [Route("/account", get_account), Route("/hardware", list_hardware)]
