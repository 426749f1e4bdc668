"""A real HTTP server that receives webhooks."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OVER = {"succeeded", "failed", "canceled", "aborted"}


@dataclass
class Message:
    """One delivery, as it came in."""

    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def run(self) -> dict[str, Any]:
        return dict(json.loads(self.raw))

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """A real HTTP server; `answers` are the statuses of the first deliveries, then it takes all."""

    answers: list[int] = field(default_factory=list)
    port: int = 0
    got: list[Message] = field(default_factory=list)
    hanging: threading.Event | None = None
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?of=me"

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.got.append(Message(self.path, headers, raw))
                if receiver.hanging:
                    receiver.hanging.wait(30)
                status = receiver.answers.pop(0) if receiver.answers else 200
                self.send_response(status)
                if status in {301, 302, 307}:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Not on the console."""

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()

    def stop(self) -> None:
        if self.hanging:
            self.hanging.set()
        if self.server:
            self.server.shutdown()
            self.server.server_close()

    def until(self, enough: Callable[[list[Message]], bool]) -> list[Message]:
        give_up = time.monotonic() + 30
        while not enough(self.got):
            assert time.monotonic() < give_up, [message.run["status"] for message in self.got]
            time.sleep(0.01)
        return self.got

    def until_over(self) -> list[Message]:
        """What came, once the message about the end is among it, and a moment for any more."""
        self.until(lambda got: any(message.run["status"] in OVER for message in got))
        time.sleep(0.7)
        return self.got

    def order(self, version: str, *events: str, **input: Any) -> dict[str, Any]:
        """A prediction whose client is this receiver."""
        chosen = {"webhook_events_filter": list(events)} if events else {}
        return {"version": version, "input": input, "webhook": self.url, **chosen}
