"""What a job is given: JSON, in which every file has become a URL that Replicate can read.

Files are paths, bytes, file objects, saved outputs, and strings that are a whole fsspec URL. A
plain string is never taken for a path, and where the model's schema says that a field is text, no
string in it is taken for a URL: text from a stranger must not be able to name a file of this
machine.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import fsspec

from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import BadInputError
from prefect_replicate.api.resources import File
from prefect_replicate.jobs.contents import Content, Source, find_source, from_url, read
from prefect_replicate.jobs.uploads import note, upload_once

# Replicate recommends data: URLs for files up to 256 kB; its documentation wants them below 1 MB.
INLINE_EACH = 256_000
INLINE_IN_ALL = 1_000_000

# Inputs of one client whose files are on this machine's disk a second time.
_AT_ONCE = 4

# Gives a version's openapi_schema, where there is one to be had.
Schema: TypeAlias = Callable[[], Awaitable[Mapping[str, Any] | None]]
Place: TypeAlias = tuple[str | int, ...]

_URL = re.compile(r"([a-z][a-z0-9+._-]*)://\S+")
# Replicate reads these itself.
_AS_THEY_ARE = frozenset({"http", "https", "data"})


async def no_schema() -> None:
    """Of a version whose schema cannot be known."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place where a file stands, in a copy of the input.

    Attributes:
        path: Where it is, from the top of the input.
        source: What reads it.
        certain: It is a file whatever the schema says; a string is not.
        holder: The list or dict that it is in.
    """

    path: Place
    source: Source
    certain: bool
    holder: Any

    def put(self, url: str) -> None:
        self.holder[self.path[-1]] = url


async def prepare(
    client: Client,
    input: Mapping[str, Any],
    schema: Schema = no_schema,
    of: Literal["Input", "TrainingInput"] = "Input",
) -> dict[str, Any]:
    """Make an input of JSON and URLs from one that may hold files. The caller's is not changed.

    Files of up to 256 kB, and 1 MB in all, become data: URLs; others are uploaded, once for all
    inputs that hold them. Lists and dicts may hold files at any depth. A `File` of `upload_file`
    becomes its URL. All files are read before anything is sent.

    Args:
        client: Whose uploads they are.
        input: The model's input.
        schema: Asked only if a string may name a file. Without one such a string does.
        of: Which part of the schema describes the input.

    Raises:
        BadInputError: A file cannot be read or has 100 MB or more, or a value is neither JSON nor
            a file. The message says where it is.
        ReplicateError: An upload failed, or the schema could not be read.
    """
    asked = time.monotonic()
    slots: list[_Slot] = []
    try:
        for file in _uploaded(input):
            note(client, file)
        copy: dict[str, Any] = _filled({}, input.items(), (), slots)
    except RecursionError as error:
        raise BadInputError("The input holds itself, or is too deep. Nothing was sent.") from error
    if slots and not all(slot.certain for slot in slots):
        document = await schema()
        slots = [slot for slot in slots if slot.certain or takes_files(document, of, slot.path)]
    if slots:
        async with _turns.setdefault(client, asyncio.Semaphore(_AT_ONCE)):
            await _send(client, slots, asked)
    return copy


def _uploaded(value: Any) -> Iterator[File]:
    """The files of `upload_file` in an input."""
    if isinstance(value, File):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _uploaded(each)


_turns: WeakKeyDictionary[Client, asyncio.Semaphore] = WeakKeyDictionary()


async def _send(client: Client, slots: list[_Slot], asked: float) -> None:
    with ExitStack() as opened:
        contents: list[Content] = []
        for slot in slots:
            content = await _read(slot)
            opened.callback(content.close)
            contents.append(content)
        await _settle(slots, contents, partial(upload_once, client, asked=asked))


async def _read(slot: _Slot) -> Content:
    try:
        return await read(slot.source)
    except BadInputError as error:
        raise BadInputError(f"{_where(slot.path)}: {error}") from error.__cause__


async def _settle(
    slots: list[_Slot], contents: list[Content], send: Callable[[Content], Awaitable[File]]
) -> None:
    async def upload(slot: _Slot, content: Content) -> None:
        slot.put((await send(content)).urls.get)

    try:
        async with asyncio.TaskGroup() as uploads:
            for slot, content, inline in zip(slots, contents, _inline(contents), strict=True):
                if inline:
                    slot.put(content.data_url())
                else:
                    uploads.create_task(upload(slot, content))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _inline(contents: list[Content]) -> list[bool]:
    """Which files go into data: URLs: the small ones, in order, until together they are too big."""
    small = [content.size <= INLINE_EACH for content in contents]
    sizes = (one.size if is_small else 0 for one, is_small in zip(contents, small, strict=True))
    return [
        is_small and so_far <= INLINE_IN_ALL
        for is_small, so_far in zip(small, accumulate(sizes), strict=True)
    ]


def _filled(holder: Any, items: Iterable[tuple[Any, Any]], path: Place, slots: list[_Slot]) -> Any:
    """Copy items into a holder, and note which of them are files."""
    for key, value in items:
        if _is_plain(value):
            holder[key] = value
            continue
        here = (*path, key)
        if source := from_url(value) if isinstance(value, str) else find_source(value):
            slots.append(_Slot(here, source, not isinstance(value, str), holder))
            holder[key] = value
        else:
            holder[key] = _copied(value, here, slots)
    return holder


def _is_plain(value: Any) -> bool:
    """Whether it is sent as it is. Asked first, since an input may hold a million numbers."""
    if isinstance(value, str):
        return not _may_name_a_file(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, int)


def _copied(value: Any, path: Place, slots: list[_Slot]) -> Any:
    match value:
        case float():
            raise BadInputError(f"{_where(path)} is {value}, which JSON has not. Nothing was sent.")
        case Mapping():
            return _filled({}, value.items(), path, slots)
        case list() | tuple():
            return _filled([None] * len(value), enumerate(value), path, slots)
        case File():
            return value.urls.get
    raise BadInputError(
        f"{_where(path)} is of type {type(value).__name__}, which is neither JSON nor a file. "
        f"Files are paths (`pathlib.Path`), bytes, file objects open for reading bytes, URLs, and "
        f"what `upload_file` and `save_outputs` return; of a prediction, pass its `.output`. "
        f"Nothing was sent."
    )


def _may_name_a_file(text: str) -> bool:
    """Whether it is a whole URL of a kind that fsspec knows and Replicate does not."""
    match = _URL.fullmatch(text) if "://" in text else None
    if not match or match[1] in _AS_THEY_ARE:
        return False
    return match[1] in fsspec.available_protocols() or match[1] in fsspec.registry


def _where(path: Place) -> str:
    return "input" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def takes_files(document: Mapping[str, Any] | None, of: str, path: Place) -> bool:
    """Whether a schema admits a file at a place of the input; one that is not known does.

    Args:
        document: A version's openapi_schema.
        of: The component that describes the input.
        path: Keys and indexes from the top of the input.
    """
    top = _step(document, "components", "schemas", of)
    return top is None or _admits(top, path, document or {}, 0)


def _admits(schema: Any, path: Place, document: Mapping[str, Any], depth: int) -> bool:
    # Schemas may refer to themselves.
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return False
    if not path and schema.get("format") == "uri":
        return True
    others = [part for name in ("anyOf", "allOf", "oneOf") for part in schema.get(name) or ()]
    reference = schema.get("$ref")
    if isinstance(reference, str):
        others.append(_step(document, *reference.removeprefix("#/").split("/")))
    if any(_admits(other, path, document, depth + 1) for other in others):
        return True
    return bool(path) and _admits(_inside(schema, path[0]), path[1:], document, depth + 1)


_DEEPEST = 32


def _inside(schema: Mapping[str, Any], key: str | int) -> Any:
    """The schema of one item of a list, or of one property of an object."""
    if isinstance(key, int):
        return schema.get("items")
    return _step(schema, "properties", key) or schema.get("additionalProperties")


def _step(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
