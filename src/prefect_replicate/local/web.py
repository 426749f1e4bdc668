"""HTTP manners of Local Replicate: who may come in, what a body must be, how lists are cut.

The gate stands before every route. It looks at the Host header, since a web page may point a name
of its own at this machine; at the token; and takes /v1 off the path, since clients disagree on
whether it is part of the base URL.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from prefect_replicate.local import json_text, problems
from prefect_replicate.local.files import DELIVERY
from prefect_replicate.local.problems import Problem
from prefect_replicate.local.received import without_version
from prefect_replicate.local.records import Kind, Run
from prefect_replicate.local.state import State
from prefect_replicate.local.streams import STREAMS
from prefect_replicate.local.validators import validator

MOST_JSON = 20_000_000  # bytes; the official clients stop at 10 MB of data: URIs
PAGE = 25
RUNS_PAGE = 100
# Pages for people: the front page looks for a token or a cookie itself, and whoever knows a run's
# id may see its page.
FRONT, PAGES = "/", "/p/"
LAST_PLACE = 2**62  # the database counts no further than 2**63
# Downloads that carry a signature instead of a token.
_SIGNED = re.compile(r"/files/[^/]+/download")
_LOCAL_NAMES = frozenset({"localhost", "localhost."})
_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(?::\d+)?", re.ASCII)
_ANY = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised, not bound

Item = TypeVar("Item")


class Gate:
    """Middleware that lets only the right requests in.

    Args:
        app: What is behind it.
        token: The API token.
        host: The host that the server is bound to.
    """

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app, self._token, self._host = app, token.encode(), host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        path = without_version(scope["path"])
        try:
            self._check_host(request.headers.get("host", ""))
            if path == FRONT:
                scope = {**scope, "token": self._token}
            elif not path.startswith((DELIVERY, STREAMS, PAGES)) and not _SIGNED.fullmatch(path):
                self._check_token(request.headers.get("authorization", ""))
        except Problem as problem:
            await answer(problem)(scope, receive, send)
            return
        await self._app({**scope, "path": path, "raw_path": path.encode()}, receive, send)

    def knows(self, host: str) -> bool:
        """Whether a Host header can only mean this server."""
        name = host_name(host)
        return name == self._host or (self._host in _ANY and _is_address(name)) or is_loopback(name)

    def _check_host(self, host: str) -> None:
        if not self.knows(host):
            name = host_name(host) or "named"
            raise Problem(421, f"This server is not {name}.", "Misdirected Request")

    def _check_token(self, header: str) -> None:
        scheme, _, given = header.partition(" ")
        if scheme.lower() not in {"bearer", "token"} or not given.strip():
            raise problems.unauthenticated(given=False)
        if not hmac.compare_digest(given.strip().encode(), self._token):
            raise problems.unauthenticated(given=True)


def answer(problem: Exception, headers: Mapping[str, str] | None = None) -> Response:
    """A Problem as a response."""
    if not isinstance(problem, Problem):
        raise problem
    headers = {**_challenge(problem), **problem.headers, **(headers or {})}
    return JSONResponse(
        problem.body, problem.status, media_type=problems.MEDIA_TYPE, headers=headers
    )


def base_url(request: Request) -> str:
    """The address by which the client reached the server, without /v1."""
    return f"{request.url.scheme}://{request.headers['host']}"


def host_name(host: str) -> str:
    """A Host header without its port, in lower case; nothing if it is not made as it should be."""
    match = _HOST.fullmatch(host)
    return (match["address"] or match["name"]).lower() if match else ""


def is_loopback(name: str) -> bool:
    """Whether a host name can only mean this machine."""
    return name in _LOCAL_NAMES or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


async def read_json(request: Request, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The body as an object that fits a schema.

    Raises:
        Problem: 400 if it is no JSON that can be kept, 413 if it is too long, 422 if it does not
            fit.
    """
    content = await read_body(request)
    try:
        body = json_text.parse(content or b"{}")
    except ValueError as error:
        detail = f"The request body is not valid JSON: {error}."
        raise Problem(400, _printable(detail), "Bad Request") from None
    errors = list(validator(schema).iter_errors(body))
    if errors:
        raise problems.from_schema_errors(errors)
    return dict(body)


async def read_body(request: Request) -> bytes:
    """The body, which is JSON or a text.

    Raises:
        Problem: 413 if it is too long.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MOST_JSON:
            raise problems.too_large(f"Request bodies must be less than {MOST_JSON} bytes in size")
    return bytes(content)


def page(
    request: Request, items: Sequence[Item], show: Callable[[Item], dict[str, Any]]
) -> Response:
    """A page of a list that is short enough to hold."""
    _, start = _cursor(request)
    start = start or 0
    before = max(start - PAGE, 0)
    return _page(
        request,
        [show(item) for item in items[start : start + PAGE]],
        after=f"p={start + PAGE}" if start + PAGE < len(items) else None,
        before=f"r=1&p={before}" if start else None,
    )


def run_page(
    request: Request,
    state: State,
    kind: Kind,
    show: Callable[[Run], dict[str, Any]],
    made: tuple[str | None, str | None] = (None, None),
) -> Response:
    """A page of predictions or trainings, newest first; new ones do not shift it."""
    back, place = _cursor(request)
    where = {"kind": kind}
    side = {"since" if back else "before": place}
    found = state.runs.newest(where, limit=RUNS_PAGE + 1, made=made, **side)
    kept, older, newer = cut(found, RUNS_PAGE, back=back, begun=place is not None)
    return _page(
        request,
        [show(run) for _, run in kept],
        after=None if older is None else f"p={older}",
        before=None if newer is None else f"r=1&p={newer}",
    )


def cut(
    found: list[tuple[int, Run]], size: int, *, back: bool, begun: bool
) -> tuple[list[tuple[int, Run]], int | None, int | None]:
    """A page, and the places behind which the older and the newer ones are, if there are any.

    Args:
        found: The page and, if there is more, one beyond it; newest first.
        size: Of a page.
        back: It was asked for from older to newer ones.
        begun: It was asked for from some place on, and not from the newest.
    """
    more = len(found) > size
    kept = (found[1:] if back else found[:size]) if more else found
    older = kept[-1][0] if kept and (back or more) else None
    newer = kept[0][0] if kept and (more if back else begun) else None
    return kept, older, newer


def _page(
    request: Request, results: list[dict[str, Any]], after: str | None, before: str | None
) -> Response:
    def link(cursor: str | None) -> str | None:
        if cursor is None:
            return None
        kept = {name: value for name, value in request.query_params.items() if name != "cursor"}
        query = urlencode({**kept, "cursor": base64.b64encode(cursor.encode()).decode()})
        return f"{base_url(request)}/v1{request.url.path}?{query}"

    return JSONResponse({"next": link(after), "previous": link(before), "results": results})


def _cursor(request: Request) -> tuple[bool, int | None]:
    text = request.query_params.get("cursor")
    if not text:
        return False, None
    try:
        fields = parse_qs(base64.b64decode(text, validate=True).decode())
        place = int(fields["p"][0])
    except (ValueError, KeyError):
        place = -1
    if not 0 <= place <= LAST_PLACE:
        raise problems.not_found("Invalid cursor")
    return "r" in fields, place


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _printable(text: str) -> str:
    """Without halves of characters, which the error about them may quote."""
    return text.encode(errors="replace").decode()


def _challenge(problem: Problem) -> dict[str, str]:
    unauthenticated = 401
    return {"WWW-Authenticate": "Bearer"} if problem.status == unauthenticated else {}
