"""What somebody gives as a file, copied to where it can be read again: hashed, named, bounded.

Paths, URLs and file objects are read in threads, and once: what is sent is what was hashed, and a
file object stands afterwards where it stood before, so that another attempt finds it as it was.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import mimetypes
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, cast

from prefect_replicate.api.calls import Upload
from prefect_replicate.api.errors import BadInputError, ReplicateError
from prefect_replicate.outputs.store import SavedFile, copy_from

# Replicate answers a file of this size with 413: "Files must be less than 100MB in size".
TOO_BIG = 100_000_000

# Temporary files are for what is not sent inline.
IN_MEMORY = 256_000
_PIECE = 1 << 20

# How files begin whose name says nothing. RIFF files say what they are 8 bytes later.
_BEGINNINGS = {
    rb"\x89PNG\r\n\x1a\n": "image/png",
    rb"\xff\xd8\xff": "image/jpeg",
    rb"GIF8[79]a": "image/gif",
    rb"RIFF....WEBP": "image/webp",
    rb"RIFF....WAVE": "audio/wav",
    rb"ID3|\xff[\xfa\xfb\xf2\xf3]": "audio/mpeg",
    rb"....ftyp(iso|mp4|avc1|M4V|dash|MSNV)": "video/mp4",
    rb"%PDF-": "application/pdf",
}
_UNKNOWN = "application/octet-stream"
# Python does not know them on every system.
_SUFFIXES = {"image/webp": ".webp", "audio/wav": ".wav", "audio/mpeg": ".mp3"}


class _Target(Protocol):
    def write(self, piece: bytes, /) -> object: ...


class Content:
    """A file's bytes, in memory while they are few and in a temporary file beyond that.

    Attributes:
        size: In bytes.
    """

    def __init__(self, name: str) -> None:
        self._name = _file_name(name)
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - see `close`
        self._digest = hashlib.sha256()
        self._head = b""
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Add to its end.

        Raises:
            BadInputError: It becomes more than Replicate takes.
        """
        self.size += len(piece)
        if self.size >= TOO_BIG:
            raise BadInputError(
                f"{self._name!r} has 100 MB or more, and Replicate takes only less. Put it where "
                f"it has an https URL, and give that. Nothing was sent."
            )
        self._head = (self._head + piece[:16])[:16]
        self._digest.update(piece)
        self._file.write(piece)

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        return self._digest.hexdigest()

    @property
    def kind(self) -> str:
        """The media type, by its name or else by its first bytes."""
        named, packed = mimetypes.guess_type(self._name)
        if packed:
            return "application/gzip" if packed == "gzip" else _UNKNOWN
        return named or self._seen or _UNKNOWN

    @property
    def name(self) -> str:
        """A file name; one without a suffix gets that of what its first bytes say it is."""
        seen = self._seen
        if PurePosixPath(self._name).suffix or not seen:
            return self._name
        return self._name + (_SUFFIXES.get(seen) or mimetypes.guess_extension(seen) or "")

    @property
    def _seen(self) -> str | None:
        return next(
            (kind for how, kind in _BEGINNINGS.items() if re.match(how, self._head, re.DOTALL)),
            None,
        )

    def data_url(self) -> str:
        """All of it in a URL."""
        return f"data:{self.kind};base64,{base64.b64encode(self.rewound().read()).decode()}"

    def upload(self) -> Upload:
        """As it is sent to Replicate; good until `close`."""
        return Upload(self.rewound(), self.name, self.kind)

    def rewound(self) -> BinaryIO:
        """To be read again, from its beginning."""
        self._file.seek(0)
        return cast("BinaryIO", self._file)

    def close(self) -> None:
        """Forget it. A thread that still writes to it is stopped by that."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file's bytes come from.

    Attributes:
        name: The file's name, without folders.
        shown: What messages call it; never its content, and no password.
        copy: Writes all of it; for a thread.
    """

    name: str
    shown: str
    copy: Callable[[_Target], None]


@contextmanager
def _worded(source: Source) -> Iterator[None]:
    """Storage backends and file objects raise whatever they like."""
    try:
        yield
    except ReplicateError:
        raise
    except Exception as error:
        raise BadInputError(
            f"Cannot read {source.shown}: {_words(error)}. Nothing was sent."
        ) from error


async def read(source: Source) -> Content:
    """Copy a source, in a thread. Close what comes of it.

    Raises:
        BadInputError: It cannot be read, or is too big.
    """
    content = Content(source.name)

    def copy() -> None:
        with _worded(source):
            source.copy(content)

    try:
        await asyncio.to_thread(copy)
    except BaseException:
        content.close()
        raise
    return content


def find_source(value: Any) -> Source | None:
    """What reads a value that is a file without doubt; None for everything else, all text too."""
    match value:
        case bytes() | bytearray() | memoryview():
            given = memoryview(value)
            return Source("file", f"{given.nbytes} bytes", lambda to: _all_of(given, to))
        case SavedFile():
            return from_url(value.uri, value.name)
        case os.PathLike():
            path = Path(os.fsdecode(value))
            return Source(path.name, repr(str(path)), lambda to: _from_path(path, to))
    if callable(getattr(value, "read", None)) and not isinstance(value, type):
        name = getattr(value, "name", None)
        name = name if isinstance(name, str) else ""
        shown = f"the {type(value).__name__} {name!r}" if name else f"the {type(value).__name__}"
        return Source(name, shown, lambda to: _from_object(value, shown, to))
    return None


def from_url(url: str, name: str = "") -> Source:
    """What reads a path or any URL that fsspec knows."""
    shown = _without_secrets(url)

    def copy(target: _Target) -> None:
        try:
            copy_from(url, target)
        except BadInputError as error:
            if shown == url:
                raise
            raise BadInputError(str(error).replace(url, shown)) from None

    return Source(name or shown, repr(shown), copy)


def _without_secrets(url: str) -> str:
    """Signed URLs have theirs in the query, others a password before the host."""
    if "://" not in url:
        return url
    return re.sub(r"://[^/@]*@", "://", url).partition("?")[0]


def _file_name(path: str) -> str:
    name = re.sub(r"[\x00-\x1f\x7f\"\\]", "_", PurePosixPath(path).name)
    # Replicate takes 255 bytes; the end has the suffix.
    return name.encode(errors="replace")[-200:].decode(errors="ignore") or "file"


def _all_of(given: memoryview, target: _Target) -> None:
    # In one piece where there is no other way: only flat bytes can be cut.
    flat = given.cast("B") if given.c_contiguous else memoryview(given.tobytes())
    for at in range(0, len(flat), _PIECE):
        target.write(bytes(flat[at : at + _PIECE]))


def _from_path(path: Path, target: _Target) -> None:
    if path.exists() and not path.is_file():
        # Neither folders nor pipes nor devices, which cannot be read twice, or have no end.
        raise BadInputError(f"'{path}' is not a file. Nothing was sent.")
    with path.open("rb") as file:
        _copy(file, target, f"'{path}'")


def _copy(file: Any, target: _Target, shown: str) -> bool:
    """Copy from where it stands, and say whether there was anything."""
    any_yet = False
    while True:
        piece = file.read(_PIECE)
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise BadInputError(
                f"{shown} gives {type(piece).__name__} where a file gives bytes. Open it with "
                f"mode 'rb'. Nothing was sent."
            )
        if not piece:
            return any_yet
        any_yet = True
        target.write(bytes(piece))


def _from_object(file: Any, shown: str, target: _Target) -> None:
    if isinstance(file, io.TextIOBase):
        raise BadInputError(
            f"{shown} is open as text, and a file is bytes. Open it with mode 'rb'. "
            f"Nothing was sent."
        )
    with _lock(file):
        source = file if _seekable(file) else _kept(file, shown)
        stood = source.tell()
        try:
            copied = _copy(source, target, shown)
        finally:
            source.seek(stood)
    if not copied and (stood or source is not file):
        raise BadInputError(
            f"{shown} stands at its end, so there is nothing to read. Go back to its beginning "
            f"with seek(0), or open it anew. Nothing was sent."
        )


def _seekable(file: Any) -> bool:
    asked = getattr(file, "seekable", None)
    return bool(asked()) if callable(asked) else hasattr(file, "seek") and hasattr(file, "tell")


# Two readers of one file object would take each other's bytes; and what cannot be read twice is
# kept for the next attempt, for as long as the object itself is there.
_guard = threading.Lock()
_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
_once: weakref.WeakKeyDictionary[Any, Content | str] = weakref.WeakKeyDictionary()


def _lock(file: Any) -> threading.Lock:
    try:
        with _guard:
            return _locks.setdefault(file, threading.Lock())
    except TypeError:  # It cannot be referred to weakly, or not be hashed.
        return threading.Lock()


def _kept(file: Any, shown: str) -> Any:
    """A copy of what cannot seek, made when it is first read."""
    known = _recalled(file)
    if known is None:
        known = _last_chance(file, shown)
        with suppress(TypeError):
            _once[file] = known
            if isinstance(known, Content):
                weakref.finalize(file, known.close)
    if isinstance(known, str):
        raise BadInputError(known)
    return known.rewound()


def _recalled(file: Any) -> Content | str | None:
    try:
        return _once.get(file)
    except TypeError:
        return None


def _last_chance(file: Any, shown: str) -> Content | str:
    """Its content, or why there is none: the rest of it must never pass for the whole."""
    copy = Content("file")
    try:
        _copy(file, copy, shown)
    except Exception as error:  # noqa: BLE001 - file objects raise anything
        copy.close()
        known = isinstance(error, BadInputError)
        return str(error) if known else f"Cannot read {shown}: {_words(error)}. Nothing was sent."
    return copy


def _words(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
