"""Files for models: uploaded to Replicate, where they live for a day or less."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from prefect_replicate.api import calls
from prefect_replicate.api.resources import File
from prefect_replicate.blocks.credentials import ReplicateCredentials, client_for
from prefect_replicate.outputs.store import reading
from prefect_replicate.tasks.twins import twins


async def _upload_file(
    source: str | Path, *, credentials: ReplicateCredentials | None = None
) -> File:
    """Upload a file of at most 100 MB, so that a model can read it.

    Args:
        source: A path, or any URL that fsspec can read: "s3://bucket/key", "memory://x", ....
        credentials: Whose file it is; the default credentials if None.

    Returns:
        The file. `.urls.get` is what goes into a model's input.

    Raises:
        BadInputError: The source cannot be read, or Replicate finds it too big.
    """
    client = await client_for(credentials)
    async with _read(str(source)) as content:
        return await client.send(calls.files_create(_upload(str(source), content)))


@asynccontextmanager
async def _read(source: str) -> AsyncIterator[BinaryIO]:
    """Copy and open in a thread; the copy is removed when it is closed."""
    opened = ExitStack()
    try:
        yield await asyncio.to_thread(opened.enter_context, reading(source))
    finally:
        opened.close()


def _upload(source: str, content: BinaryIO) -> calls.Upload:
    name = PurePosixPath(urlsplit(source).path).name or "file"
    kind, _ = mimetypes.guess_type(name)
    return calls.Upload(content, name, kind or "application/octet-stream")


upload_file, aupload_file = twins(_upload_file, lambda p: f"upload {Path(str(p['source'])).name}")
