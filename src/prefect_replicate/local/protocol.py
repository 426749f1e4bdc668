"""How the server speaks HTTP: as uvicorn does, and connections can be broken on purpose."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from prefect_replicate.local.front import ABORT, CLOSE


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen when it is imported
    """A connection that puts into the scope of each request how to close and how to break it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app: ASGIApp = self.config.loaded_app

        async def breakable(scope: Scope, receive: Receive, send: Send) -> None:
            # `close` sends what is left, `abort` does not.
            transport = self.transport
            await app({**scope, CLOSE: transport.close, ABORT: transport.abort}, receive, send)

        self.app = breakable
