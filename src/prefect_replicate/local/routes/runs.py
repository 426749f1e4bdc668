"""Predictions and trainings: create, look, list, cancel, follow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.api.references import Name, Reference, parse_name, parse_reference
from prefect_replicate.local import problems, replies, streams
from prefect_replicate.local.lifetimes import applied, read_cancel_after, read_prefer
from prefect_replicate.local.records import Run, Version, timestamp
from prefect_replicate.local.routes import deployments, models
from prefect_replicate.local.service import Order, Service
from prefect_replicate.local.web import base_url, read_json, run_page
from prefect_replicate.local.webhooks import EVENTS, is_deliverable

_EVENTS = {"type": "string", "enum": list(EVENTS)}
_ECHOED = {
    "webhook": {"type": "string"},
    "webhook_events_filter": {"type": "array", "items": _EVENTS},
}
_PREDICTION = {
    "type": "object",
    "required": ["input"],
    "additionalProperties": False,
    "properties": {"input": {"type": "object"}, "stream": {"type": "boolean"}, **_ECHOED},
}
_VERSION_PREDICTION = {
    **_PREDICTION,
    "required": ["version", "input"],
    "properties": {"version": {"type": "string"}, **_PREDICTION["properties"]},  # type: ignore[dict-item]
}
_TRAINING = {
    "type": "object",
    "required": ["destination", "input"],
    "additionalProperties": False,
    "properties": {"destination": {"type": "string"}, "input": {"type": "object"}, **_ECHOED},
}


async def predict(request: Request) -> Response:
    """predictions.create."""
    service: Service = request.app.state.service
    body = await _body(request, _VERSION_PREDICTION)
    version, hidden = _version(service, body["version"])
    return await _start(request, version, body, hidden=hidden)


async def predict_model(request: Request) -> Response:
    """models.predictions.create: official models only."""
    service: Service = request.app.state.service
    model = models.find(request)
    version = service.latest(model.owner, model.name)
    if not model.is_official or version is None:
        raise problems.not_found()
    body = await _body(request, _PREDICTION)
    return await _start(request, version, body, hidden=True)


async def predict_deployment(request: Request) -> Response:
    """deployments.predictions.create: with the version of the current release."""
    service: Service = request.app.state.service
    deployment = deployments.find_enabled(request)
    owner, _, name = deployment.model.partition("/")
    version = service.state.versions.get(owner, name, deployment.version)
    if version is None:
        raise problems.unknown_version()
    body = await _body(request, _PREDICTION)
    return await _start(request, version, body, deployment=deployment.name)


async def get_prediction(request: Request) -> Response:
    """predictions.get; also of a training, whose create reply points here."""
    return JSONResponse(_as_prediction(request, _find(request)))


async def list_predictions(request: Request) -> Response:
    """predictions.list, newest first."""
    service: Service = request.app.state.service
    made = _listed(service, _moment(request, "created_after"), _moment(request, "created_before"))
    source = request.query_params.get("source")
    if source not in {None, "web"}:
        raise problems.invalid_field("source", "source must be web", "enum")
    if source == "web":
        made = ("9999", None)  # nothing is ever made on a website here
    return run_page(
        request,
        service.state,
        "prediction",
        lambda run: _shown(request, service.runs.current(run)),
        made,
    )


async def train(request: Request) -> Response:
    """trainings.create."""
    service: Service = request.app.state.service
    models.find(request)
    names = request.path_params
    version = service.state.versions.get(names["owner"], names["name"], names["version"])
    if version is None:
        raise problems.not_found()
    body = await _body(request, _TRAINING)
    destination = _destination(service, body["destination"])
    if version.train is None:
        raise problems.Problem(
            422, "The specified version does not support training.", "Version not trainable"
        )
    run = service.train(_order(request, version, body), destination)
    return JSONResponse(replies.training(run, base_url(request), created=True), 201)


async def get_training(request: Request) -> Response:
    """trainings.get."""
    return JSONResponse(_shown(request, _find(request, "training")))


async def list_trainings(request: Request) -> Response:
    """trainings.list, newest first."""
    service: Service = request.app.state.service
    return run_page(
        request,
        service.state,
        "training",
        lambda run: _shown(request, service.runs.current(run)),
        _listed(service),
    )


def _listed(
    service: Service, after: str | None = None, before: str | None = None
) -> tuple[str | None, str | None]:
    """Between which moments what a list shows was made; the newest may be missing for a while."""
    lag = service.behaviour.list_lag
    if lag:
        newest = timestamp(service.now() - timedelta(seconds=lag))
        before = min(before or newest, newest)
    return after, before


async def cancel(request: Request) -> Response:
    """predictions.cancel and trainings.cancel; what has ended stays as it is."""
    service: Service = request.app.state.service
    kind = "training" if request.url.path.startswith("/trainings") else None
    shown = _shown if kind else _as_prediction
    run = _find(request, kind)
    if run.ended and service.behaviour.cancel_ended == "refuse":
        raise problems.not_now(f"The {run.kind} has ended: it is {run.status}.")
    return JSONResponse(shown(request, service.runs.cancel(run)))


async def follow(request: Request) -> Response:
    """What `urls.stream` of a prediction leads to."""
    service: Service = request.app.state.service
    run = service.runs.get(request.path_params["id"])
    if run is None or not run.streams:
        return streams.nothing_here()
    after = request.headers.get("last-event-id", "")
    if request.method == "HEAD":
        return streams.nothing_more()
    behaviour = service.behaviour
    idle = behaviour.stream_idle
    watch = service.runs.watch(run)
    if not behaviour.stream_replay:
        after = ""
    logs = (lambda: service.runs.current(run).logs) if behaviour.stream_logs else None
    events = streams.follow(run, watch, base_url(request), after, idle=idle, logs=logs)
    return streams.EventStream(events, idle)


async def _start(
    request: Request, version: Version, body: dict[str, Any], **fields: Any
) -> Response:
    service: Service = request.app.state.service
    behaviour = service.behaviour
    wait = read_prefer(request.headers.get("prefer", ""), cap=behaviour.long_wait == "cap")
    lenient = behaviour.bad_cancel_after == "ignore"
    deadline = read_cancel_after(request.headers.get("cancel-after", ""), lenient=lenient)
    if body.get("stream") and not version.streams:
        raise problems.invalid_field("stream", "This model does not support streaming")
    fields["streams"] = version.streams
    run = service.predict(_order(request, version, body, deadline, **fields))
    ended = wait is not None and await service.runs.wait(run, wait)
    # The official clients take "processing" for a finished output.
    held = wait is not None and behaviour.held_status == "starting" and not run.odd_status
    reply = replies.prediction(service.runs.current(run), base_url(request), held=held)
    headers = {"Location": reply["urls"]["get"]}
    if wait is None:
        return JSONResponse(reply, behaviour.create_status, headers)
    headers["Preference-Applied"] = applied(request.headers["prefer"], wait)
    return JSONResponse(reply, 201 if ended else 202, headers)


def _order(
    request: Request,
    version: Version,
    body: dict[str, Any],
    deadline: float | None = None,
    **fields: Any,
) -> Order:
    service: Service = request.app.state.service
    secure = service.behaviour.insecure_webhook == "refuse"
    if "webhook" in body and not is_deliverable(body["webhook"], secure=secure):
        schemes = "an https" if secure else "an http or https"
        raise problems.invalid_field("webhook", f"Must be {schemes} URL", "format")
    shown = _ECHOED if service.behaviour.webhook_echo else ()
    echo: dict[str, Any] = {name: body[name] for name in shown if name in body}
    if body.get("stream"):
        echo["stream"] = True
    hook = {"webhook": body.get("webhook"), "webhook_events": body.get("webhook_events_filter")}
    fields = {**fields, **hook, "echo": echo}
    return Order(version, body["input"], base_url(request), fields, deadline)


async def _body(request: Request, schema: dict[str, Any]) -> dict[str, Any]:
    service: Service = request.app.state.service
    if service.behaviour.webhook_completed == "ignore":
        schema = {**schema, "properties": {**schema["properties"], "webhook_completed": {}}}
    return await read_json(request, schema)


def _version(service: Service, text: str) -> tuple[Version, bool]:
    """The version that a body names, and whether the client is not to know it."""
    reference = _reference(text)
    name = reference.model
    if name is None:
        version = service.any_version(str(reference.version))
    elif reference.version:
        version = service.state.versions.get(name.owner, name.name, reference.version)
    else:
        model = service.state.models.get(name.owner, name.name)
        official = model and model.is_official
        version = service.latest(name.owner, name.name) if official else None
    if version is None:
        raise problems.unknown_version()
    return version, reference.version is None


def _destination(service: Service, text: str) -> Name:
    try:
        name = parse_name(text)
        found = service.state.models.get(name.owner, name.name)
    except ValueError:
        found = None
    if found is None:
        raise problems.not_found("The specified training destination does not exist")
    return Name(found.owner, found.name)


def _reference(text: str) -> Reference:
    try:
        return parse_reference(text)
    except ValueError:
        raise problems.unknown_version() from None


def _find(request: Request, kind: str | None = None) -> Run:
    service: Service = request.app.state.service
    run = service.runs.get(request.path_params["id"])
    if run is None or kind not in {None, run.kind}:
        raise problems.not_found()
    return run


def _shown(request: Request, run: Run) -> dict[str, Any]:
    return replies.run(run, base_url(request))


def _as_prediction(request: Request, run: Run) -> dict[str, Any]:
    """A run among predictions, where a training has what every prediction has."""
    shown = _shown(request, run)
    return {**shown, "output": shown.get("output"), "data_removed": run.data_removed}


def _moment(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # an unquoted + comes as a space
        return timestamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):  # the second where UTC has no such year
        raise problems.invalid_field(name, "Does not match format 'date-time'", "format") from None


_TRAIN = "/models/{owner}/{name}/versions/{version}/trainings"
ROUTES = [
    Route("/predictions", list_predictions),
    Route("/predictions", predict, methods=["POST"]),
    Route("/predictions/{id}", get_prediction),
    Route("/predictions/{id}/cancel", cancel, methods=["POST"]),
    Route(f"{streams.STREAMS}{{id}}", follow),
    Route("/models/{owner}/{name}/predictions", predict_model, methods=["POST"]),
    Route("/deployments/{owner}/{name}/predictions", predict_deployment, methods=["POST"]),
    Route(_TRAIN, train, methods=["POST"]),
    Route("/trainings", list_trainings),
    Route("/trainings/{id}", get_training),
    Route("/trainings/{id}/cancel", cancel, methods=["POST"]),
]
