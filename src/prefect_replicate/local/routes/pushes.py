"""Publishing a model's folder over HTTP: beside the API, since Cog pushes images elsewhere."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.api.errors import BadReferenceError
from prefect_replicate.api.references import Name, parse_name
from prefect_replicate.local import problems
from prefect_replicate.local.archives import MOST_BYTES, BadArchive, TooLarge, unpack
from prefect_replicate.local.schema import BrokenModel
from prefect_replicate.local.service import Service


async def push(request: Request) -> Response:
    """Make an archive of a folder the newest version of a model, or refuse it and add nothing."""
    service: Service = request.app.state.service
    name = _name(request)
    official = request.query_params.get("official") == "true"
    place = service.files.scratch / secrets.token_hex(16)
    folder = place / "model"
    try:
        folder.mkdir(parents=True)
        await _receive(request, place / "archive")
        await asyncio.to_thread(unpack, place / "archive", folder)
        version = await service.push(folder, name, official=official)
    except BadArchive as error:
        raise problems.Problem(422, f"The archive is refused: {error}.", "Bad archive") from None
    except TooLarge:
        raise _too_large() from None
    except BrokenModel as error:
        raise _report(error, folder) from None
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
    return JSONResponse({"version": version}, 201)


def _name(request: Request) -> Name:
    owner, name = request.path_params["owner"], request.path_params["name"]
    try:
        return parse_name(f"{owner}/{name}")
    except BadReferenceError as error:
        raise problems.invalid_field("name", str(error)) from None


async def _receive(request: Request, target: Path) -> None:
    size = 0
    if int(request.headers.get("content-length") or 0) > MOST_BYTES:
        raise _too_large()
    with target.open("xb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MOST_BYTES:
                raise _too_large()
            file.write(chunk)


def _too_large() -> problems.Problem:
    return problems.too_large(f"Model folders must be less than {MOST_BYTES // 10**9} GB in size")


def _report(error: BrokenModel, folder: Path) -> problems.Problem:
    """What is wrong with a model, in parts: its author knows another folder than this copy."""

    def told(text: str) -> str:
        return text.replace(f"{folder}/", "").replace(str(folder), "the folder")

    parts = {"problem": error.problem, "advice": error.advice, "detail": error.detail}
    report = {name: told(text) for name, text in parts.items()}
    summary = f"{report['problem'].rstrip('.')}. {report['advice']}"
    return problems.Problem(422, summary, "No usable Cog model", report=report)


ROUTES = [Route("/_local/models/{owner}/{name}/versions", push, methods=["POST"])]
