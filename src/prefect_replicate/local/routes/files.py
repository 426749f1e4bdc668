"""Files: uploads by clients, and delivery of whatever the store holds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from prefect_replicate.local import problems, replies
from prefect_replicate.local.files import DELIVERY, FileStore, Stored, media_type, read_chunks
from prefect_replicate.local.records import StoredFile, timestamp
from prefect_replicate.local.runs import new_id
from prefect_replicate.local.service import Service
from prefect_replicate.local.uploads import Upload, read_upload
from prefect_replicate.local.web import base_url, page

MOST_BYTES = 100_000_000
LIFETIME = timedelta(hours=24)
# What a model wrote must not act as a page of this server.
_GUARD = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
_FORM = 1 << 20  # bytes that a form may have around the file


async def create(request: Request) -> Response:
    """files.create."""
    service: Service = request.app.state.service
    body = service.files.scratch / secrets.token_hex(16)
    try:
        await _receive(request, body)
        content_type = request.headers.get("content-type", "")
        upload, stored = await asyncio.to_thread(_store, service.files, body, content_type)
    finally:
        body.unlink(missing_ok=True)
    now = service.now()
    record = StoredFile(
        id=new_id(),
        path=stored.path,
        name=upload.filename,
        content_type=upload.content_type,
        size=stored.size,
        sha256=stored.sha256,
        md5=stored.md5,
        metadata=upload.metadata,
        created_at=timestamp(now),
        expires_at=timestamp(now + LIFETIME),
    )
    service.state.files.put(record)
    return JSONResponse(replies.file(record, base_url(request)), 201)


async def get(request: Request) -> Response:
    """files.get."""
    return JSONResponse(replies.file(_find(request), base_url(request)))


async def index(request: Request) -> Response:
    """files.list, newest first."""
    service: Service = request.app.state.service
    found = [
        file for _, record in service.state.files.newest() if (file := service.file(record.id))
    ]
    return page(request, found, lambda file: replies.file(file, base_url(request)))


async def delete(request: Request) -> Response:
    """files.delete."""
    service: Service = request.app.state.service
    service.delete_file(_find(request))
    return Response(status_code=204)


async def deliver(request: Request) -> Response:
    """The bytes of a stored file, for whoever knows its address."""
    service: Service = request.app.state.service
    path = service.files.find(request.path_params["path"])
    if path is None:
        raise problems.not_found()
    return FileResponse(path, media_type=media_type(path), headers=_GUARD)


async def download(request: Request) -> Response:
    """files.download: the bytes of an upload, for whoever has a signature of its owner."""
    service: Service = request.app.state.service
    record = _find(request)
    path = service.files.find(record.path)
    if path is None or not _permitted(request, service.files_secret, service.now()):
        raise _missing()
    octets = "application/octet-stream"
    return FileResponse(path, media_type=octets, filename=record.name, headers=_GUARD)


def _permitted(request: Request, secret: str, now: datetime) -> bool:
    """Whether the signature is right and has not expired."""
    query = request.query_params
    owner, expiry = query.get("owner", ""), query.get("expiry", "")
    signed = f"{owner} {request.path_params['id']} {expiry}".encode()
    right = base64.b64encode(hmac.digest(secret.encode(), signed, hashlib.sha256))
    given = query.get("signature", "").replace(" ", "+")  # an unquoted + comes as a space
    if owner != replies.ACCOUNT["username"] or not hmac.compare_digest(given.encode(), right):
        return False
    try:
        return int(expiry) >= now.timestamp()
    except ValueError:
        return False


async def _receive(request: Request, target: Path) -> None:
    size = 0
    with target.open("xb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MOST_BYTES + _FORM:
                raise _too_large()
            file.write(chunk)


def _store(store: FileStore, body: Path, content_type: str) -> tuple[Upload, Stored]:
    upload = read_upload(body, content_type)
    if upload.size >= MOST_BYTES:
        raise _too_large()
    with body.open("rb") as file:
        file.seek(upload.start)
        return upload, store.save(read_chunks(file, upload.size), upload.filename)


def _too_large() -> problems.Problem:
    return problems.too_large("Files must be less than 100MB in size")


def _find(request: Request) -> StoredFile:
    service: Service = request.app.state.service
    record = service.file(request.path_params["id"])
    if record is None:
        raise _missing()
    return record


def _missing() -> problems.Problem:
    return problems.not_found("File not found")


ROUTES = [
    Route("/files", index),
    Route("/files", create, methods=["POST"]),
    Route("/files/{id}", get),
    Route("/files/{id}", delete, methods=["DELETE"]),
    Route("/files/{id}/download", download),
    Route(f"{DELIVERY}{{path:path}}", deliver),
]
