"""What clients see: records as the JSON objects of Replicate's API, with absolute URLs.

Pure. `base` is the address under which the client reached the server, without /v1. The fields are
those of the OpenAPI description and those that the official Python client 1.0.7 insists on.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from prefect_replicate.local.outputs import deliver
from prefect_replicate.local.records import Deployment, Model, Run, StoredFile, Version

COG_VERSION = metadata.version("cog")  # whose reader of signatures and server are used here
ACCOUNT = {"type": "user", "username": "local", "name": "Local Replicate"}
HARDWARE = {
    "cpu": "CPU",
    "gpu-t4": "Nvidia T4 GPU",
    "gpu-a40-small": "Nvidia A40 GPU",
    "gpu-a40-large": "Nvidia A40 (Large) GPU",
}


def version(record: Version) -> dict[str, Any]:
    """A version."""
    return {
        "id": record.id,
        "created_at": record.created_at,
        "cog_version": COG_VERSION,
        "openapi_schema": record.openapi,
    }


def model(record: Model, latest: Version | None, base: str) -> dict[str, Any]:
    """A model with its newest version."""
    return {
        "url": f"{base}/{record.owner}/{record.name}",
        "owner": record.owner,
        "name": record.name,
        "description": record.description,
        "visibility": record.visibility,
        "is_official": record.is_official,
        "github_url": record.github_url,
        "paper_url": record.paper_url,
        "license_url": record.license_url,
        "run_count": record.run_count,
        "cover_image_url": record.cover_image_url,
        "default_example": None,
        "latest_version": version(latest) if latest else None,
        "created_at": record.created_at,
    }


def deployment(record: Deployment) -> dict[str, Any]:
    """A deployment with its current release."""
    return {
        "owner": record.owner,
        "name": record.name,
        "current_release": {
            "number": record.number,
            "model": record.model,
            "version": record.version,
            "created_at": record.released_at,
            "created_by": ACCOUNT,
            "configuration": {
                "hardware": record.hardware,
                "min_instances": record.min_instances,
                "max_instances": record.max_instances,
            },
        },
    }


def file(record: StoredFile, base: str) -> dict[str, Any]:
    """An uploaded file."""
    return {
        "id": record.id,
        "name": record.name,
        "content_type": record.content_type,
        "size": record.size,
        "etag": record.md5,
        "checksums": {"sha256": record.sha256, "md5": record.md5},
        "metadata": record.metadata,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "urls": {"get": f"{base}/v1/files/{record.id}"},
    }


def run(record: Run, base: str) -> dict[str, Any]:
    """A prediction or a training, whichever it is."""
    return training(record, base) if record.kind == "training" else prediction(record, base)


def prediction(record: Run, base: str, *, held: bool = False) -> dict[str, Any]:
    """A prediction.

    Args:
        record: It.
        base: Address of the server.
        held: The client waited in vain. It is then told "starting", whatever the model does, as at
            Replicate: the official clients take "processing" for a finished output.
    """
    early = held and not record.ended
    reply = {
        **_run(record, base, f"{base}/v1/predictions/{record.id}"),
        "output": None if early else deliver(record.output, base),
        "data_removed": record.data_removed,
    }
    if early:
        reply.update(status="starting", logs="")
        reply["started_at"] = None
    if record.deployment:
        reply["deployment"] = record.deployment
    if record.deadline:
        reply["deadline"] = record.deadline
    return _filled(reply, {"output", "error"})


def training(record: Run, base: str, *, created: bool = False) -> dict[str, Any]:
    """A training; the reply to its creation points to /predictions, as at Replicate."""
    place = "predictions" if created else "trainings"
    reply = _run(record, base, f"{base}/v1/{place}/{record.id}")
    return _filled({**reply, "output": deliver(record.output, base)}, {"error"})


def _run(record: Run, base: str, url: str) -> dict[str, Any]:
    return {
        **record.echo,
        "id": record.id,
        "model": record.model,
        "version": "hidden" if record.hidden else record.version,
        "input": record.input,
        "error": record.error,
        "logs": record.logs,
        "status": record.status if record.ended else record.odd_status or record.status,
        "source": "api",
        "created_at": record.created_at,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
        "metrics": record.metrics if record.ended else None,
        "urls": _run_urls(record, base, url),
    }


def _run_urls(record: Run, base: str, url: str) -> dict[str, str]:
    urls = {"get": url, "cancel": f"{url}/cancel", "web": f"{base}/p/{record.id}"}
    return {**urls, "stream": f"{base}/v1/streams/{record.id}"} if record.streams else urls


def _filled(reply: dict[str, Any], nullable: set[str]) -> dict[str, Any]:
    """Without the fields that have no value yet: the API leaves those out."""
    return {name: value for name, value in reply.items() if value is not None or name in nullable}
