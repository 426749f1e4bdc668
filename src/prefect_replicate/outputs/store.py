"""Keep outputs in any storage that fsspec knows: streamed, hashed, whole or not at all.

A file has a temporary name until its last byte is there, and the manifest is written last: a folder
with a manifest is complete. Storage is read and written in threads, off the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

import fsspec
import httpx
from pydantic import BaseModel

from prefect_replicate.api.client import Downloads, see_through
from prefect_replicate.api.errors import BadInputError, TransportError
from prefect_replicate.api.resources import Job
from prefect_replicate.outputs.files import OutputFile, plan

_PIECE = 1 << 20
_HOPELESS = (
    FileExistsError,
    FileNotFoundError,
    ImportError,
    NotADirectoryError,
    NotImplementedError,
    PermissionError,
    ValueError,
)


class SavedFile(BaseModel):
    """One kept file. `size` is in bytes; `sha256` is hexadecimal."""

    name: str
    uri: str
    size: int
    sha256: str


class SavedOutputs(BaseModel):
    """What was kept of one job: the folder, the manifest in it, and every file with its hash."""

    job_id: str
    model: str
    version: str
    uri: str
    manifest: str
    files: list[SavedFile]


class Store:
    """A folder in some storage.

    Args:
        url: Any fsspec URL, or a local path.
        options: fsspec's storage options, such as keys.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        # Without slashes at the end, but "memory://" and "/" are whole as they are.
        self._url = re.sub(r"(?<=[^:/])/+$", "", url)
        self._options = dict(options or {})

    async def verify(self) -> None:
        """Write a small file and remove it again, to know before anything is paid for.

        Raises:
            BadInputError: The storage cannot be written.
        """
        await asyncio.to_thread(self._probe)

    async def save(self, downloads: Downloads, job: Job) -> SavedOutputs:
        """Keep every output of a job in a folder named after it.

        Raises:
            BadInputError: The storage cannot be written.
            NotFoundError: A file is gone.
            TransportError: A file could not be fetched whole.
        """
        keep = plan(job.output, job.urls.get or "")
        files = [
            await self._write(job, name, _once(content)) for name, content in keep.documents.items()
        ]
        files += [
            await self._write(job, file.name, _content(downloads, file)) for file in keep.files
        ]
        about = job.model_dump(
            mode="json",
            include={"id", "model", "version", "status", "input", "metrics", "created_at"},
        )
        manifest = {**about, "files": [file.model_dump() for file in files]}
        written = await self._write(job, "manifest.json", _once(_document(manifest)))
        return SavedOutputs(
            job_id=job.id,
            model=job.model,
            version=job.version,
            uri=self._uri(job.id),
            manifest=written.uri,
            files=files,
        )

    def _uri(self, path: str) -> str:
        return f"{self._url}{'' if self._url.endswith('/') else '/'}{path}"

    def _probe(self) -> None:
        with _storage_errors(self._url):
            fs, root = fsspec.core.url_to_fs(self._url, **self._options)
            path = f"{root}/.write-test-{secrets.token_hex(4)}"
            fs.makedirs(root, exist_ok=True)
            fs.pipe_file(path, b"")
            fs.rm_file(path)

    async def _write(self, job: Job, name: str, pieces: AsyncIterator[bytes]) -> SavedFile:
        writing = _Writing(self._url, self._options, job.id, name)
        try:
            # Seen through, since a thread cannot be cancelled and must not write beside `discard`.
            await see_through(asyncio.to_thread(writing.open))
            async for piece in pieces:
                await see_through(asyncio.to_thread(writing.write, piece))
            await see_through(asyncio.to_thread(writing.finish))
        except BaseException:
            await see_through(asyncio.to_thread(writing.discard))
            raise
        return SavedFile(
            name=name,
            uri=self._uri(f"{job.id}/{name}"),
            size=writing.size,
            sha256=writing.digest.hexdigest(),
        )


class _Writing:
    """One file on its way into storage, under a name that nobody looks for until it is whole."""

    def __init__(self, url: str, options: Mapping[str, Any], folder: str, name: str) -> None:
        self._url, self._options = url, options
        self._folder, self._name = folder, name
        self._part = f"{name}.part-{secrets.token_hex(4)}"
        self._fs: Any = None
        self._root = ""
        self._file: Any = None
        self.digest = hashlib.sha256()
        self.size = 0

    def open(self) -> None:
        with _storage_errors(self._url):
            self._fs, self._root = fsspec.core.url_to_fs(self._url, **self._options)
            self._fs.makedirs(self._path(""), exist_ok=True)
            self._file = self._fs.open(self._path(self._part), "wb")

    def write(self, piece: bytes) -> None:
        with _storage_errors(self._url):
            self._file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)

    def finish(self) -> None:
        with _storage_errors(self._url):
            self._file.close()
            self._fs.mv(self._path(self._part), self._path(self._name))

    def discard(self) -> None:
        # Storage backends raise anything, and the first error is the one to tell.
        with suppress(Exception):
            self._file.close()
        with suppress(Exception):
            self._fs.rm_file(self._path(self._part))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{self._folder}/{name}".rstrip("/")


@contextmanager
def reading(source: str) -> Iterator[BinaryIO]:
    """Open a path or URL for reading, from its beginning and more than once.

    What is not a local file is copied to a temporary one, so that reading it never blocks on a
    network.

    Raises:
        BadInputError: It cannot be read.
    """
    with tempfile.TemporaryFile() as copy:
        copy_from(source, copy)
        copy.seek(0)
        yield cast("BinaryIO", copy)


def copy_from(source: str, target: Any) -> None:
    """Write all that a path or URL holds into `target`, in pieces.

    Raises:
        BadInputError: It cannot be read, or `target` wants no more of it.
        TransportError: A web server could not be reached.
    """
    if source.startswith(("http://", "https://")):
        _fetch(source, target)
        return
    try:
        with fsspec.open(source, "rb") as file:
            shutil.copyfileobj(file, target, _PIECE)
    except BadInputError:
        raise
    except Exception as error:
        raise BadInputError(
            f"Cannot read {source!r}: {_words(error)}. Nothing was sent."
        ) from error


def _fetch(url: str, target: Any) -> None:
    try:
        with httpx.stream("GET", url, follow_redirects=True) as response:
            response.raise_for_status()
            for piece in response.iter_bytes(_PIECE):
                target.write(piece)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise BadInputError(f"Cannot read {url!r}: HTTP {status}. Nothing was sent.") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise TransportError(f"Cannot read {url!r}: {_words(error)}. Nothing was sent.") from error


@contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    """Storage backends raise whatever they like; some of it can only mean that the URL is wrong."""
    try:
        yield
    except _HOPELESS as error:
        raise BadInputError(
            f"Cannot write to the storage {url!r}: {_words(error)}. A path or any fsspec URL will "
            f"do, such as ./outputs, s3://bucket/prefix or memory://outputs; some need a package "
            f"of their own. Nothing half-written remains."
        ) from error
    except Exception as error:
        raise TransportError(
            f"Writing to the storage {url!r} failed: {_words(error)}. Nothing half-written remains."
        ) from error


async def _content(downloads: Downloads, file: OutputFile) -> AsyncIterator[bytes]:
    inline = file.inline
    if inline is not None:
        yield inline
        return
    async with downloads.open(file.url) as response:
        async for piece in response.aiter_bytes(_PIECE):
            yield piece


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _document(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _words(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
