"""The file store: uploads, outputs and weights as files on disk, each under a name hard to guess.

Whoever knows such a name may read the file, as at replicate.delivery, so workers and users need no
token. Nothing half-written is ever under its final name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import re
import secrets
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote_to_bytes

DELIVERY = "/delivery/"
_CHUNK = 1 << 20
_KEY = re.compile(r"[a-z0-9_-]{43}", re.IGNORECASE)
# Types that clients meet and that Python does not know on every system.
_EXTENSIONS = {
    "image/webp": ".webp",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/ogg": ".ogg",
    "audio/flac": ".flac",
    "audio/mp4": ".m4a",
}
_TYPES = {extension: media_type for media_type, extension in reversed(_EXTENSIONS.items())}


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the store.

    Attributes:
        path: "<key>/<name>", the last two parts of its URL.
    """

    path: str
    size: int
    sha256: str
    md5: str


class FileStore:
    """Files under one folder.

    Args:
        folder: Made if it is not there; on the same file system as `scratch`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.scratch = folder.with_name("incoming")
        shutil.rmtree(self.scratch, ignore_errors=True)  # what an earlier server left half-written
        self._folder.mkdir(exist_ok=True)
        self.scratch.mkdir()

    def save(self, chunks: Iterable[bytes], name: str) -> Stored:
        """Write a file of this name, whole or not at all."""
        temporary = self.scratch / secrets.token_hex(16)
        try:
            with temporary.open("xb") as file:
                size, sha256, md5 = _write(chunks, file)
            path = self._place(temporary, name)
        finally:
            temporary.unlink(missing_ok=True)
        return Stored(path, size, sha256, md5)

    def take(self, file: Path, stem: str) -> str:
        """Move a file into the store, and give its path there.

        Args:
            file: A file that nobody writes to any more.
            stem: Its new name, without the suffix, which it keeps.

        Raises:
            ValueError: It is not a plain file.
        """
        temporary = self.scratch / secrets.token_hex(16)
        try:
            shutil.move(file, temporary)  # a copy only if that is another file system
            # Looked at where nobody can exchange it; a link would open any file to clients.
            if not stat.S_ISREG(temporary.lstat().st_mode):
                raise ValueError(f"{file} is not a plain file")
            return self._place(temporary, stem + file.suffix)
        finally:
            temporary.unlink(missing_ok=True)

    def _place(self, temporary: Path, name: str) -> str:
        path = f"{secrets.token_urlsafe(32)}/{safe_name(name)}"
        final = self._folder / path
        final.parent.mkdir()
        temporary.rename(final)
        return path

    def save_data_uri(self, uri: str, stem: str) -> Stored:
        """Write what a data: URI holds, named after its media type.

        Raises:
            ValueError: It is not a data: URI.
        """
        media_type, content = read_data_uri(uri)
        extension = _EXTENSIONS.get(media_type) or mimetypes.guess_extension(media_type) or ""
        return self.save([content], stem + extension)

    def find(self, path: str) -> Path | None:
        """Where the bytes of "<key>/<name>" are."""
        key, _, name = path.partition("/")
        if not _KEY.fullmatch(key) or name != safe_name(name):
            return None
        found = self._folder / key / name
        return found if found.is_file() else None

    def digest(self, path: str) -> str:
        """SHA-256 of a stored file, in hexadecimal."""
        with (self._folder / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def delete(self, path: str) -> None:
        """Remove a file; it is fine if it is gone already."""
        if found := self.find(path):
            shutil.rmtree(found.parent, ignore_errors=True)


def safe_name(name: str) -> str:
    """A file name without folders, hidden starts or characters that a disk refuses."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    cleaned = re.sub(r"[\x00-\x1f\x7f:]", "_", last)
    encoded = cleaned.encode()[-200:]  # the end, for the extension; disks allow 255 bytes
    return encoded.decode(errors="ignore").lstrip(".") or "file"


def media_type(path: Path) -> str:
    """What a file's name says that it is."""
    known = mimetypes.guess_type(path.name)[0] or _TYPES.get(path.suffix.lower())
    return known or "application/octet-stream"


def delivery_path(path: str) -> str:
    """The path in a URL for "<key>/<name>"."""
    return DELIVERY + quote(path)


def read_data_uri(uri: str) -> tuple[str, bytes]:
    """Media type and content of a data: URI.

    Raises:
        ValueError: It is not one.
    """
    scheme, _, rest = uri.partition(":")
    header, comma, body = rest.partition(",")
    if scheme.lower() != "data" or not comma:
        raise ValueError("not a data: URI")
    media_type, *parameters = header.split(";")
    if "base64" not in [parameter.strip().lower() for parameter in parameters]:
        return media_type or "text/plain", unquote_to_bytes(body)
    try:
        return media_type or "text/plain", base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


def read_chunks(file: IO[bytes], size: int = -1) -> Iterable[bytes]:
    """The next `size` bytes of a file in pieces, or all of the rest."""
    left = size
    while left and (chunk := file.read(_CHUNK if left < 0 else min(left, _CHUNK))):
        left -= len(chunk) if left > 0 else 0
        yield chunk


def _write(chunks: Iterable[bytes], file: IO[bytes]) -> tuple[int, str, str]:
    size, sha256, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        file.write(chunk)
        sha256.update(chunk)
        md5.update(chunk)
        size += len(chunk)
    return size, sha256.hexdigest(), md5.hexdigest()
