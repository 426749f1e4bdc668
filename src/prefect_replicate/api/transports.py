"""What carries requests: httpx itself, or aiohttp behind httpx's interface.

aiohttp takes a fraction of the CPU time; `python -m tests.benchmarks` says which.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import httpx

from prefect_replicate.api.errors import ConfigurationError

Transport: TypeAlias = Literal["httpx", "aiohttp"]


def client_over(transport: Transport, **options: Any) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` with these options, over this transport.

    Raises:
        ConfigurationError: What the transport needs is not installed.
    """
    if transport == "httpx":
        return httpx.AsyncClient(**options)
    try:
        # An extra: imported only by those who chose it.
        from prefect_replicate.api.over_aiohttp import OverAiohttp  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"The setting `transport` says 'aiohttp', but there is no {error.name} here. Install "
            f"it: pip install 'prefect-replicate[aiohttp]'. Nothing was sent."
        ) from error
    return OverAiohttp(**options)
