"""Pages for people: one for each prediction and training, and a front page. They change nothing.

Whoever knows the id of a run may see its page, as with its stream and its files. The front page
lists everything, so it asks for the token: in the header, or by a link that people open once and
that leaves a cookie. What models and users wrote is shown as text only, and no page runs scripts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from prefect_replicate.local import display
from prefect_replicate.local.display import File, Piece
from prefect_replicate.local.files import DELIVERY, delivery_path
from prefect_replicate.local.outputs import file_path, output_schema
from prefect_replicate.local.records import Run
from prefect_replicate.local.service import Service
from prefect_replicate.local.web import (
    FRONT,
    LAST_PLACE,
    PAGES,
    base_url,
    cut,
    host_name,
    is_loopback,
)

_RUNS = 50  # on one front page
_NAMES = 100  # models, and deployments, on the front page
_GLANCE = 140  # characters of an output on the front page
_LONGEST_URL = 2_000  # of those that lead to files here
_FRONT_REFRESH = 5  # seconds
_TIMES = ("predict_time", "total_time")

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(
    ago=display.ago,
    clock=display.clock,
    clock_after=display.clock_after,
    exact=display.exact,
    metric=display.metric,
    shorten=display.shorten,
    span=display.span,
)
_style = _templates.get_template("style.html").render()
_style_hash = base64.b64encode(hashlib.sha256(_style.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_style_hash}'; img-src 'self' data:; "
        "media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Glance:
    """A run in a list.

    Attributes:
        preview: A picture or a line of its output; its error if it failed.
        seconds: How long it took, or has taken until now.
    """

    run: Run
    preview: Piece
    seconds: float


def front_page_link(base_url: str, token: str) -> str:
    """What to open in a browser to see the front page: from then on, a cookie opens it."""
    return f"{base_url}{FRONT}?{urlencode({'token': token})}"


async def run_page(request: Request) -> Response:
    """What `urls.web` of a prediction or a training leads to."""
    service: Service = request.app.state.service
    run = service.runs.get(request.path_params["id"])
    if run is None:
        return _render("missing.html", 404)
    now = service.now()
    return _render(
        "run.html",
        run=run,
        refresh=None if run.ended else refresh_after(display.seconds_between(run.created_at, now)),
        removed=run.data_removed,
        input=display.show(run.input, partial(_input_file, service, request.headers["host"])),
        output=display.show(_whole_output(service, run), partial(_output_file, service)),
        error=display.show(run.error, lambda _: None),
        logs=display.show_logs(run.logs),
        times=_times(run, now),
        metrics=_own_metrics(run),
    )


async def front_page(request: Request) -> Response:
    """Runs, models and deployments, for whoever has the token."""
    token: bytes = request.scope["token"]
    offered = request.query_params.get("token")
    if offered is not None and hmac.compare_digest(offered.encode(), token):
        return _let_in(request, token)
    if offered is not None or not _is_known(request, token):
        headers = {"WWW-Authenticate": "Bearer"}
        return _render("locked.html", 401, headers, base=base_url(request), wrong=bool(offered))
    service: Service = request.app.state.service
    try:
        before, since = _place(request, "before"), _place(request, "since")
    except ValueError:
        return _render("missing.html", 404)
    return _render("front.html", **_listed(service, before, since))


def refresh_after(age: float) -> int:
    """Seconds until the page of a run loads again, by the age of the run: older ones change less.

    From 1 in the first seconds to 10 after five minutes.
    """
    return min(1 + int(age / 30), 10)


def _render(
    template: str, status: int = 200, headers: dict[str, str] | None = None, **values: Any
) -> Response:
    values.setdefault("refresh", None)
    text = _templates.get_template(template).render(**values)
    # Models may put out halves of characters, which cannot be encoded.
    content = text.encode(errors="replace")
    headers = {**_HEADERS, **(headers or {})}
    return Response(content, status, headers, media_type="text/html; charset=utf-8")


def _let_in(request: Request, token: bytes) -> Response:
    response = RedirectResponse(FRONT, 303, headers=_HEADERS)
    response.set_cookie(
        _cookie_name(request),
        _cookie_value(token),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


def _is_known(request: Request, token: bytes) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in {"bearer", "token"}:
        return hmac.compare_digest(given.strip().encode(), token)
    cookie = request.cookies.get(_cookie_name(request), "")
    return hmac.compare_digest(cookie.encode(), _cookie_value(token).encode())


def _cookie_name(request: Request) -> str:
    # Browsers share cookies among all ports of a host, and there may be a server on each.
    return f"local_replicate_{request.url.port or 0}"


def _cookie_value(token: bytes) -> str:
    """Opens the front page only. Other servers on this host get to see it, so it is no token."""
    return hmac.digest(token, b"front page of Local Replicate", hashlib.sha256).hex()


def _place(request: Request, side: str) -> int | None:
    text = request.query_params.get(side)
    if text is None:
        return None
    place = int(text)
    if not 0 <= place <= LAST_PLACE:
        raise ValueError(f"{place} is no place in the list")
    return place


def _listed(service: Service, before: int | None, since: int | None) -> dict[str, Any]:
    """What the front page shows."""
    now = service.now()
    found = service.state.runs.newest(limit=_RUNS + 1, before=before, since=since)
    back = since is not None
    kept, older, newer = cut(found, _RUNS, back=back, begun=before is not None)
    first = before is None and not (back and len(found) > _RUNS)
    runs = [_glance(service, service.runs.current(run), now) for _, run in kept]
    return {
        "now": now,
        "runs": runs,
        "older": older,
        "newer": newer,
        "refresh": _FRONT_REFRESH if first and any(not it.run.ended for it in runs) else None,
        **(_names(service) if first else {"models": [], "deployments": [], "first": False}),
    }


def _names(service: Service) -> dict[str, Any]:
    versions: dict[str, list[str]] = {}
    for _, version in service.state.versions.newest():
        versions.setdefault(f"{version.owner}/{version.name}", []).append(version.id)
    models = [model for _, model in service.state.models.newest()]
    return {
        "first": True,
        "models": models[:_NAMES],
        "versions": versions,
        "more_models": max(len(models) - _NAMES, 0),
        "deployments": [record for _, record in service.state.deployments.newest(limit=_NAMES)],
    }


def _glance(service: Service, run: Run, now: datetime) -> Glance:
    seconds = display.seconds_between(run.created_at, run.completed_at or now)
    if run.error:
        return Glance(run, Piece("text", display.shorten(run.error, _GLANCE)), seconds)
    output = display.joined(run.output) if run.streams else run.output
    if run.kind == "training" and isinstance(output, dict):
        output = output.get("version")  # says more than the name of the weights
    find = partial(_output_file, service)
    return Glance(run, display.glance(output, find, _GLANCE), seconds)


def _times(run: Run, now: datetime) -> dict[str, float]:
    """Seconds that a run waited, worked and took altogether, as far as they are known."""
    metrics = _numbers(run)
    between = display.seconds_between
    waited = between(run.created_at, run.started_at or run.completed_at or now)
    total = metrics.get("total_time", between(run.created_at, run.completed_at or now))
    if run.started_at is None:
        return {"Waited": waited} if run.ended else {"Waiting for": waited}
    worked = between(run.started_at, run.completed_at or now)
    if not run.ended:
        return {"Waited": waited, "Running for": worked}
    return {"Waited": waited, "Ran": metrics.get("predict_time", worked), "Total": total}


def _own_metrics(run: Run) -> dict[str, Any]:
    """What the model measured itself; it is known at the end."""
    metrics = (run.metrics or {}) if run.ended else {}
    return {name: value for name, value in metrics.items() if name not in _TIMES}


def _numbers(run: Run) -> dict[str, float]:
    """What was measured by Local Replicate or Cog, if it is a number: models may write it, too."""
    found = {name: (run.metrics or {}).get(name) for name in _TIMES}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def _whole_output(service: Service, run: Run) -> Any:
    """The output; a text that came in parts is one again."""
    version = service.state.versions.get(*run.model.split("/"), run.version)
    if run.kind == "prediction" and version:
        schema = output_schema(version.openapi)
        if schema.get("x-cog-array-display") == "concatenate":
            return display.joined(run.output)
    return run.output


def _output_file(service: Service, text: str) -> File | None:
    path = file_path(text)
    return _stored_file(service, path) if path else None


def _input_file(service: Service, host: str, text: str) -> File | None:
    """The file that a text of an input names: one of ours, or what a data: URI holds."""
    if file := display.data_file(text):
        return file
    if len(text) > _LONGEST_URL:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    if parts.netloc != host and not is_loopback(host_name(parts.netloc)):
        return None
    path = unquote(parts.path.removeprefix("/v1"))
    if path.startswith("/files/") and (record := service.file(path.removeprefix("/files/"))):
        return _stored_file(service, record.path)
    stored = path.removeprefix(DELIVERY)
    return _stored_file(service, stored) if service.files.find(stored) else None


def _stored_file(service: Service, path: str) -> File:
    found = service.files.find(path)
    size = found.stat().st_size if found else None
    return display.stored_file(path, delivery_path(path), size)


ROUTES = [
    Route(FRONT, front_page),
    Route(f"{PAGES}{{id}}", run_page),
]
