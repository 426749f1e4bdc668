"""Apps on real sockets, and flow runs that wait for mail."""

import contextvars
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
import uvicorn
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRunInput
from starlette.types import ASGIApp


@contextmanager
def serving(app: ASGIApp, certificate: Path | None = None) -> Iterator[str]:
    """An app behind uvicorn on a thread of its own, as its URL; https with a certificate."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, ws="none", loop="asyncio", ssl_certfile=certificate
    )
    server = uvicorn.Server(config)
    # Prefect's settings, the URL of the tests' server among them, are context variables.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(server.run, [listening]))
    thread.start()
    try:
        scheme = "https" if certificate else "http"
        yield f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listening.close()
    assert not thread.is_alive()


@pytest.fixture
def flow_run_id(prefect_server: None) -> UUID:
    """A flow run of this test's own."""
    with get_client(sync_client=True) as client:
        return client.create_flow_run(_waiter).id


@pytest.fixture
def rows(flow_run_id: UUID) -> Callable[[], list[FlowRunInput]]:
    """What is among the inputs of that flow run."""

    def look() -> list[FlowRunInput]:
        with get_client(sync_client=True) as client:
            return client.filter_flow_run_input(
                flow_run_id, key_prefix="", limit=50, exclude_keys=set()
            )

    return look


@flow
def _waiter() -> None:
    """It never runs; what counts is that its run exists."""
