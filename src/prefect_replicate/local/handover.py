"""Lets the files of a model's output leave its process as files, not as text.

coglet would turn each into a data: URI and hold several copies of that in memory. So what coglet
loads is not the user's model but one from here, which does the same and then puts each file of its
output into the folder that came with the prediction, and the file's name into the output.

Run by path, inside the model's process, where this package is not to be found.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import io
import os
import re
import secrets
import shutil
import types
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

# Key of the folder in the context of a prediction, which coglet passes on to the model's process.
CONTEXT = "prefect_replicate_output"
# Stands before a file's name in the output.
MARK = "\x00handed:"
_SUFFIX = re.compile(r"\.[a-z0-9]{1,16}", re.IGNORECASE)
_CHUNK = 1 << 26  # bytes between two chances to be canceled

Call = Callable[..., Any]


def model(reference: str, *, used_once: bool) -> Any:
    """What coglet is to load in place of the user's model.

    Args:
        reference: The user's model: "predict.py:Predictor" or "train.py:train".
        used_once: Whether its process ends after one run.
    """
    from cog.predictor import load_predictor_from_ref  # type: ignore[import-untyped] # noqa: PLC0415 - ships no types; only in a model's process

    inner = load_predictor_from_ref(reference)
    if inspect.isfunction(inner):
        return _around(inner, used_once=used_once)
    # An object beside the user's own: where that calls its own methods, it gets what they return.
    others = [name for name in ("setup", "healthcheck") if hasattr(inner, name)]
    methods: dict[str, Any] = {name: staticmethod(getattr(inner, name)) for name in others}
    methods["run"] = _around(getattr(inner, _entry(type(inner))), used_once=used_once)
    if hasattr(inner, "train"):
        methods["train"] = _around(inner.train, used_once=used_once)
    return type("Model", (), methods)


def _entry(kind: type) -> str:
    """The name of the method that runs a model, as coglet chooses it."""
    from cog import BasePredictor, BaseRunner  # type: ignore[import-untyped] # noqa: PLC0415 - the same

    for owner in kind.__mro__:
        if owner in {BaseRunner, BasePredictor}:
            break
        if callable(vars(owner).get("run")):
            return "run"
    return "predict"


def _around(call: Call, *, used_once: bool) -> Call:
    """A function like `call` that hands over the files of its output."""
    _unwrap_defaults(call)

    @functools.wraps(call)
    async def items(*_: Any, **input: Any) -> AsyncIterator[Any]:
        hand_over = _desk()
        async with aclosing(call(**input)) as made:
            async for item in made:
                yield await _aside(hand_over, item)

    @functools.wraps(call)
    async def later(*_: Any, **input: Any) -> Any:
        hand_over = _desk(may_link=used_once)
        return await _aside(hand_over, await call(**input))

    @functools.wraps(call)
    def now(*_: Any, **input: Any) -> Any:
        output = call(**input)
        if isinstance(output, types.GeneratorType):
            return _each(output, _desk())
        return _desk(may_link=used_once)(output)

    if inspect.isasyncgenfunction(call):
        return items
    return later if inspect.iscoroutinefunction(call) else now


def _unwrap_defaults(call: Call) -> None:
    """Put plain defaults where Input(...) stands; coglet does so to the function that it sees."""
    from cog import FieldInfo  # noqa: PLC0415 - only in a model's process

    def plain(value: Any) -> Any:
        return value.default if isinstance(value, FieldInfo) else value

    function: Any = getattr(call, "__func__", call)
    function.__defaults__ = tuple(map(plain, function.__defaults__ or ())) or None
    keywords = function.__kwdefaults__ or {}
    function.__kwdefaults__ = {name: plain(value) for name, value in keywords.items()} or None


def _desk(*, may_link: bool = False) -> Call:
    """What hands over the files in a value of this prediction."""
    from cog import current_scope  # noqa: PLC0415 - only in a model's process

    scope: Any = current_scope()
    folder = scope.context.get(CONTEXT)
    if folder is None:
        return lambda value: value
    return functools.partial(_handed, folder=Path(folder), may_link=may_link)


def _each(items: Generator[Any], hand_over: Call) -> Generator[Any]:
    with closing(items):
        for item in items:
            yield hand_over(item)


async def _aside(hand_over: Call, value: Any) -> Any:
    """Hand over in a thread: other predictions run on this event loop."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return await asyncio.to_thread(hand_over, value)


def _handed(value: Any, *, folder: Path, may_link: bool) -> Any:
    """The value with each file in it replaced; taken apart as coglet does."""
    again = functools.partial(_handed, folder=folder, may_link=may_link)
    if isinstance(value, (list, tuple)):
        return [again(item) for item in value]
    if isinstance(fields := _fields(value), dict):
        return {name: again(item) for name, item in fields.items()}
    if isinstance(value, os.PathLike):
        return _hand_over(Path(value).resolve(), folder, may_link=may_link)
    return _hand_over_stream(value, folder) if isinstance(value, io.IOBase) else value


def _fields(value: Any) -> Any:
    """What an object holds by name, or itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value.model_dump() if hasattr(value, "model_dump") else value


def _hand_over(source: Path, folder: Path, *, may_link: bool) -> str:
    target = folder / _new_name(source.name)
    own = source.is_relative_to(folder.parents[1]) and source.stat().st_nlink == 1
    if may_link and own:
        target.hardlink_to(source)
    else:
        # A model that is used again may write to the same file again, so this one stays its own.
        _copy(source, target)
    return MARK + target.name


def _hand_over_stream(source: io.IOBase, folder: Path) -> str:
    name = getattr(source, "name", None)
    target = folder / _new_name(name if isinstance(name, str) else "")
    if source.seekable():
        source.seek(0)
    with target.open("xb") as file:
        shutil.copyfileobj(source, file)
    return MARK + target.name


def _new_name(name: str) -> str:
    suffix = Path(name).suffix
    return secrets.token_hex(16) + (suffix if _SUFFIX.fullmatch(suffix) else ".bin")


def _copy(source: Path, target: Path) -> None:
    """Copy inside the kernel, which shares the blocks where the file system can."""
    # Only what is buffered is written whole or with an error; the kernel needs nothing of that.
    with source.open("rb", buffering=0) as read, target.open("xb") as write:
        try:
            while os.copy_file_range(read.fileno(), write.fileno(), _CHUNK):
                pass
        except (AttributeError, OSError):
            pass  # not on this system, or not between these two
        shutil.copyfileobj(read, write, 1 << 20)  # the rest, also of files that hide their size
