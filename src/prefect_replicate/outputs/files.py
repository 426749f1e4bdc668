"""Which parts of an output are files, and what to call everything when it is kept: pure."""

from __future__ import annotations

import base64
import binascii
import json
import mimetypes
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from prefect_replicate.api.errors import BadInputError

_DELIVERY = "replicate.delivery"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_DATA = re.compile(
    r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w=.-]+)*;base64,(?P<content>.*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file in an output: where it is now, and its name where it is kept."""

    url: str
    name: str

    @property
    def inline(self) -> bytes | None:
        """Its content, where the URL itself carries it (`data:`).

        Raises:
            BadInputError: It is not valid base64.
        """
        data = _DATA.fullmatch(self.url)
        if not data:
            return None
        try:
            return base64.b64decode(data["content"], validate=True)
        except binascii.Error as error:
            raise BadInputError(
                f"Output '{self.name}' is a data URL with broken base64."
            ) from error


@dataclass(frozen=True, slots=True)
class Keep:
    """All that an output consists of: files to fetch, and documents to write, by name."""

    files: tuple[OutputFile, ...] = ()
    documents: Mapping[str, bytes] = field(default_factory=dict)


def plan(output: Any, api_url: str) -> Keep:
    """Say what to keep of an output.

    Text (a string, or a list of strings as language models stream it) becomes `output.txt`.
    Files are kept as they are, under names that say where they stood: "output-0.png". Anything
    else becomes `output.json`, in which every file is replaced by its name.

    Args:
        output: As Replicate gives it.
        api_url: Any URL of the API. Files lie on its host or on replicate.delivery; a URL of
            another host is something that the model said, not something to fetch.
    """
    hosts = frozenset({urlsplit(api_url).netloc})
    files = _distinct(_files(output, ("output",), hosts))
    leaves = list(_leaves(output))
    if len(files) == len(leaves):
        return Keep(files)
    if not files and not isinstance(output, Mapping) and all(isinstance(x, str) for x in leaves):
        return Keep(documents={"output.txt": "".join(leaves).encode()})
    names = {file.url: file.name for file in reversed(files)}
    document = json.dumps(_renamed(output, names), indent=2, ensure_ascii=False)
    return Keep(files, {"output.json": document.encode()})


def _files(value: Any, path: tuple[str, ...], hosts: frozenset[str]) -> Iterator[OutputFile]:
    if isinstance(value, str) and _is_file(value, hosts):
        yield OutputFile(value, _name(value, path))
    for key, item in _items(value):
        yield from _files(item, (*path, key), hosts)


def _distinct(files: Iterator[OutputFile]) -> tuple[OutputFile, ...]:
    """Number names that are there already; some storage takes "a" and "A" for the same."""
    seen: set[str] = set()
    kept = []
    for file in files:
        name, number = PurePosixPath(file.name), 1
        while str(name).lower() in seen:
            number += 1
            name = PurePosixPath(file.name).with_stem(f"{PurePosixPath(file.name).stem}-{number}")
        seen.add(str(name).lower())
        kept.append(OutputFile(file.url, str(name)))
    return tuple(kept)


def _leaves(value: Any) -> Iterator[Any]:
    """Everything in an output that is neither a list nor an object, nor nothing."""
    if isinstance(value, Mapping | list):
        for _, item in _items(value):
            yield from _leaves(item)
    elif value is not None:
        yield value


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, list):
        yield from ((str(index), item) for index, item in enumerate(value))


def _is_file(value: str, hosts: frozenset[str]) -> bool:
    if value.startswith("data:"):
        return _DATA.fullmatch(value) is not None
    if not value.startswith(("https://", "http://")) or any(map(str.isspace, value)):
        return False
    try:
        netloc = urlsplit(value).netloc
    except ValueError:
        return False
    return netloc in hosts or netloc == _DELIVERY or netloc.endswith(f".{_DELIVERY}")


def _name(url: str, path: tuple[str, ...]) -> str:
    """Where it stands in the output, and the suffix it has: "output-0.png". Never a path."""
    stem = _UNSAFE.sub("_", "-".join(path))
    if data := _DATA.fullmatch(url):
        return stem + (mimetypes.guess_extension(data["type"] or "") or "")
    suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix
    return stem + (suffix if _SUFFIX.fullmatch(suffix) else "")


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return value
