"""How the server speaks HTTP: as uvicorn does, and connections can be broken on purpose."""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from prefect_replicate.local.front import ABORT, CLOSE, CONNECTIONS


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # chosen when it is imported
    """A connection that tells the server of itself in the scope of each request.

    Namely how to close and how to break it, and how many connections there are.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app: ASGIApp = self.config.loaded_app

        async def breakable(scope: Scope, receive: Receive, send: Send) -> None:
            # `close` sends what is left, `abort` does not.
            transport = self.transport
            ways = {CLOSE: transport.close, ABORT: transport.abort}
            await app({**scope, **ways, CONNECTIONS: len(self.connections)}, receive, send)

        self.app = breakable
