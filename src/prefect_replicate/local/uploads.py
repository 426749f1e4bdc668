"""A multipart/form-data body, written to disk as it comes and read there: never in memory whole."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from email.utils import collapse_rfc2231_value
from pathlib import Path
from typing import Any

from prefect_replicate.local import json_text
from prefect_replicate.local.problems import Problem, invalid_field

_BRACKETS = re.compile(r"metadata\[([^\]]*)\]")
_FIELD_LIMIT = 1 << 20  # bytes; only `content` may be longer


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form, as a piece of the body.

    Attributes:
        headers: Its own headers.
        start: Where its content begins in the body.
        end: Where it ends.
    """

    headers: Message
    start: int
    end: int

    @property
    def name(self) -> str:
        """The name of the form's field."""
        return _disposition(self.headers, "name")


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client wants to store.

    Attributes:
        start: Where the file begins in the body.
        end: Where it ends.
    """

    filename: str
    content_type: str
    metadata: dict[str, Any]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.end - self.start


def read_upload(path: Path, content_type: str) -> Upload:
    """Find the file and what is said of it in a body on disk.

    The official clients write metadata in three ways: a text field with JSON, one field for each
    entry named metadata[key], and a part of its own with JSON.

    Args:
        path: The whole body.
        content_type: The request's header, which names the boundary.

    Raises:
        Problem: 400 for a malformed body, 422 for one without content.
    """
    with _mapped(path) as body:
        parts = {part.name: part for part in _parts(body, _boundary(content_type))}
        if "content" not in parts:
            raise invalid_field("(root)", "content is required", "required")
        texts = {
            name: bytes(body[part.start : part.end]).decode(errors="replace")
            for name, part in parts.items()
            if name != "content" and part.end - part.start <= _FIELD_LIMIT
        }
    content = parts["content"]
    own_name = _disposition(content.headers, "filename")
    return Upload(
        filename=_filename(texts.get("filename") or own_name or "file"),
        content_type=_printable(texts.get("type")) or _type(content),
        metadata=_metadata(texts),
        start=content.start,
        end=content.end,
    )


def _type(content: Part) -> str:
    return _printable(content.headers.get("Content-Type")) or "application/octet-stream"


def _printable(text: object) -> str | None:
    """A text that may stand in a header, or nothing."""
    return str(text) if text and str(text).isprintable() else None


def _filename(name: str) -> str:
    most = 255
    if len(name.encode()) > most:
        raise invalid_field("filename", f"Must be at most {most} bytes", "string_lte")
    return name


def _metadata(texts: dict[str, str]) -> dict[str, Any]:
    single = {
        match[1]: text for name, text in texts.items() if (match := _BRACKETS.fullmatch(name))
    }
    try:
        whole = json_text.parse(texts.get("metadata") or "{}")
    except ValueError:
        whole = None
    if not isinstance(whole, dict):
        raise invalid_field("metadata", "Must be a JSON object", "invalid_type")
    return {**whole, **single}


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise Problem(400, "Send the file as multipart/form-data.", "Bad Request")
    return boundary.encode()


def _parts(body: mmap.mmap, boundary: bytes) -> Iterator[Part]:
    mark = b"--" + boundary
    at = body.find(mark)
    while at >= 0:
        at += len(mark)
        if body[at : at + 2] == b"--":
            return
        begin = body.find(b"\r\n", at) + 2
        split = body.find(b"\r\n\r\n", begin - 2)
        end = body.find(b"\r\n" + mark, max(split, 0) + 2)
        if split < 0 or end < 0:
            break
        headers = HeaderParser().parsestr(_text(bytes(body[begin : split + 2])))
        yield Part(headers, min(split + 4, end), end)
        at = end + 2
    raise Problem(400, "The multipart body is cut off or malformed.", "Bad Request")


def _disposition(headers: Message, field: str) -> str:
    value = headers.get_param(field, header="content-disposition")
    text = collapse_rfc2231_value(value) if value else ""
    return text.encode(errors="replace").decode()  # some charsets have halves of characters


def _text(header: bytes) -> str:
    """Browsers and the official clients write names in UTF-8, whatever the standards say."""
    try:
        return header.decode()
    except UnicodeDecodeError:
        return header.decode("latin-1")


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise Problem(400, "The request has no body.", "Bad Request")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
            yield body
