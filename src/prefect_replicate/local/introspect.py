"""Reads the signatures of a Cog model, inside the interpreter and the folder the model runs in.

A script, never imported: `schema.inspect_folder` starts it with `python -P` in a process of its
own, because to know a model's types is to run the model's code. Its arguments are the process id of
who started it and JSON, {"predict": ref, "train": ref or null}; its standard input stays open as
long as that process lives; its standard output is one JSON object: a signature for each, or a
problem in words.

The rules are those of Cog's own generator, which is written in Go and not on PyPI. Input types are
read by the cog package; outputs are read here, since cog's Python reader knows no nested objects.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import importlib.util
import inspect
import json
import os
import runpy
import sys
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cog  # type: ignore[import-untyped] # cog ships no types
import cog.input  # type: ignore[import-untyped] # the same
import typing_extensions
from cog import _adt, _inspector
from cog.input import FieldInfo

Json = dict[str, Any]

_LIFELINE = Path(__file__).with_name("lifeline.py")
_TRACEBACK_LINES = 14
_STREAMED: Json = {"x-cog-array-type": "iterator"}
_CONCATENATED: Json = {**_STREAMED, "x-cog-array-display": "concatenate"}
_ITERATORS: Mapping[Any, Json] = {
    collections.abc.Iterator: _STREAMED,
    collections.abc.AsyncIterator: _STREAMED,
    cog.ConcatenateIterator: _CONCATENATED,
    cog.AsyncConcatenateIterator: _CONCATENATED,
}
_OPTIONAL = (_adt.Repetition.OPTIONAL, _adt.Repetition.OPTIONAL_REPEATED)
_REPEATED = (_adt.Repetition.REPEATED, _adt.Repetition.OPTIONAL_REPEATED)
_SECRET = _adt.FieldType.from_type(cog.Secret)
_OUTPUT_ADVICE = (
    "Return str, int, float, bool, cog.Path, list[...], dict[str, ...], Iterator[...], "
    "ConcatenateIterator[str] or a cog.BaseModel of those."
)
_INPUT_ADVICE = (
    "Use str, int, float, bool, dict, cog.Path, cog.File, cog.Secret, list[...] of one of those, "
    "or Optional[...] of any of them."
)


class Problem(Exception):
    """What is wrong with the model, and what its author can do."""

    def __init__(self, what: str, advice: str, detail: str = "") -> None:
        super().__init__(what)
        self.report = {"problem": what, "advice": advice, "detail": detail}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One input of a predict or train function.

    Attributes:
        given: Whether the author wrote a default, be it None.
    """

    name: str
    order: int
    annotation: Any
    field: FieldInfo
    given: bool


# --- loading ---------------------------------------------------------------------------------


def remember_given_defaults() -> None:
    """Let `Input()` and `Input(default=None)` be told apart: cog builds equal values for both.

    Only the second makes a Secret optional, and only it puts `default: null` into the schema.
    """
    build = cog.Input

    def remembering(*args: Any, **kwargs: Any) -> Any:
        field = build(*args, **kwargs)
        # The class is frozen, and the mark must not change how it compares.
        object.__setattr__(field, "given", bool(args) or "default" in kwargs)
        return field

    for module in (cog, cog.input):
        vars(module)["Input"] = remembering


def load(ref: str) -> Any:
    """Import "file.py:Name" as coglet does: by path, under the file's bare name."""
    file, _, name = ref.partition(":")
    module = Path(file).stem
    spec = importlib.util.spec_from_file_location(module, file)
    if spec is None or spec.loader is None:
        raise Problem(f"{file} is not a Python file", f"Point cog.yaml at a .py file, not {ref!r}.")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    try:
        spec.loader.exec_module(loaded)
    # Model code may raise anything, and sys.exit() at import is no answer either.
    except BaseException as error:
        raise _not_imported(file, error) from error
    _inspector._find_coders(loaded)  # noqa: SLF001 - cog's own registration of custom types
    try:
        return getattr(loaded, name)
    except AttributeError:
        raise Problem(
            f"{file} defines no {name!r}", f"Define it, or correct {ref!r} in cog.yaml."
        ) from None


def _not_imported(file: str, error: BaseException) -> Problem:
    advice = f"Correct {file}. What takes long or needs a GPU belongs in setup()."
    if isinstance(error, ModuleNotFoundError):
        advice = (
            f"Install what provides {error.name!r} into {sys.executable}: "
            "packages named in cog.yaml are not installed here."
        )
    what = f"{file} cannot be imported: {type(error).__name__}: {error}".splitlines()[0]
    return Problem(what, advice, _traceback(error))


def _traceback(error: BaseException) -> str:
    """The end of a traceback, from the model's first frame on."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename.startswith((__file__, "<frozen importlib")):
        trace = trace.tb_next
    lines = "".join(traceback.format_exception(type(error), error, trace)).splitlines()
    return "\n".join(lines[-_TRACEBACK_LINES:])


def select(target: Any, ref: str, *, train: bool) -> tuple[Callable[..., Any], bool]:
    """The function that does the work, and whether it is a method."""
    if not inspect.isclass(target):
        if not inspect.isfunction(target):
            raise Problem(
                f"{ref} is neither a class nor a function",
                "Point cog.yaml at a subclass of cog.BasePredictor or at a function.",
            )
        return target, False
    try:
        _, method = _inspector._selected_predict_method(target, ref)  # noqa: SLF001 - cog's own rule
    except ValueError as error:
        advice = f"Give {ref} exactly one method named run or predict"
        also = ", beside train: Cog loads a class by it. Or train in a function." if train else "."
        raise Problem(str(error), advice + also) from None
    if train:
        method = getattr(target, "train", None)
    if not inspect.isfunction(method):
        raise Problem(f"{ref} has no method train", "Write it, or train in a function.")
    return method, True


# --- signatures ------------------------------------------------------------------------------


def signature(ref: str, *, train: bool) -> Json:
    """What a predict or train reference takes and gives, as JSON Schema."""
    function, is_method = select(load(ref), ref, train=train)
    wrapper, function = function, inspect.unwrap(function)
    hints = type_hints(function)
    where = f"{ref.partition(':')[0]}: {function.__name__}()"
    parameters = read_parameters(function, hints, where, skip=int(is_method))
    properties, required, enums = {}, [], {}
    for parameter in parameters:
        schema, choices, needed = input_property(parameter, where)
        properties[parameter.name] = schema
        if choices:
            enums[parameter.name] = choices
        if needed:
            required.append(parameter.name)
    return {
        "properties": properties,
        "required": required,
        "enums": enums,
        "output": output_schema(hints, where),
        # Of the wrapper: that is what Cog looks at and calls.
        "concurrency": getattr(wrapper, "__cog_concurrent_max__", None),
        "is_async": inspect.iscoroutinefunction(wrapper) or inspect.isasyncgenfunction(wrapper),
    }


def type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations with strings resolved where they can be, and Annotated removed unless opaque."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    # Names behind TYPE_CHECKING and the like; what stays a string is reported by parameter name.
    except Exception:  # noqa: BLE001 - resolving runs the annotation, which may raise anything
        hints = dict(function.__annotations__)
    strip = _inspector._strip_non_opaque_annotated  # noqa: SLF001 - cog's own rule
    return {name: strip(hint) for name, hint in hints.items()}


def read_parameters(
    function: Callable[..., Any], hints: Mapping[str, Any], where: str, *, skip: int
) -> list[Parameter]:
    """The inputs of a function in order, `self` left out."""
    found = list(inspect.signature(function).parameters.values())[skip:]
    return [_parameter(order, each, hints, where) for order, each in enumerate(found)]


def _parameter(
    order: int, found: inspect.Parameter, hints: Mapping[str, Any], where: str
) -> Parameter:
    if found.kind not in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY):
        raise Problem(
            f"{where} takes {str(found).partition(':')[0]!r}, which has no input of its own",
            "Name every input. If a decorator hides them, give its wrapper functools.wraps.",
        )
    if found.name not in hints:
        raise Problem(f"{where}: input {found.name!r} has no type", _INPUT_ADVICE)
    default = found.default
    if default is found.empty:
        field, given = FieldInfo(), False
    elif isinstance(default, FieldInfo):
        # A FieldInfo built without Input() carries no mark: then None cannot be told from nothing.
        field, given = default, getattr(default, "given", default.default is not None)
    else:
        field, given = FieldInfo(default=default), True
    return Parameter(found.name, order, hints[found.name], field, given)


# --- inputs ----------------------------------------------------------------------------------


def input_property(parameter: Parameter, where: str) -> tuple[Json, Json | None, bool]:
    """One input's schema, the schema of its choices if it has any, and whether it is required."""
    kind = _field_type(parameter, where)
    default = parameter.field.default
    optional = kind.repetition in _OPTIONAL or (
        # `token: Secret = Input(default=None)` is how models write an optional credential. For any
        # other type None means "made up at run time", which the schema shows as required.
        parameter.given and default is None and kind == _SECRET
    )
    schema: Json = {"x-order": parameter.order}
    choices = _choices(parameter, kind, where)
    schema |= _typed(parameter.name, kind, referring=choices is not None)
    has_default = parameter.given and (default is not None or optional)
    if has_default:
        schema["default"] = plain(default, f"{where}: the default of input {parameter.name!r}")
    if optional:
        schema["nullable"] = True
    schema |= _constraints(parameter.field)
    return schema, choices, not (has_default or optional)


def _field_type(parameter: Parameter, where: str) -> _adt.FieldType:
    try:
        return _adt.FieldType.from_type(parameter.annotation)
    except (ValueError, TypeError, AssertionError) as error:
        raise Problem(
            f"{where}: input {parameter.name!r} has the type {_spelled(parameter.annotation)}, "
            f"which Cog does not support ({error})",
            _INPUT_ADVICE,
        ) from None


def _typed(name: str, kind: _adt.FieldType, *, referring: bool) -> Json:
    if not referring:
        return {"title": _title(name), **kind.json_type()}
    reference = {"$ref": f"#/components/schemas/{name}"}
    if kind.repetition in _REPEATED:
        # Cog writes the reference in place of the array too, and then refuses every list.
        return {"title": _title(name), "type": "array", "items": reference}
    return {"allOf": [reference]}


def _choices(parameter: Parameter, kind: _adt.FieldType, where: str) -> Json | None:
    if not parameter.field.choices:
        return None
    name = parameter.name
    values = plain(list(parameter.field.choices), f"{where}: the choices of input {name!r}")
    return {
        "title": name,
        "description": "An enumeration.",
        "enum": values,
        "type": kind.primitive.json_type()["type"],
    }


def _constraints(field: FieldInfo) -> Json:
    known = {
        "description": field.description,
        "minimum": field.ge,
        "maximum": field.le,
        "minLength": field.min_length,
        "maxLength": field.max_length,
        "pattern": field.regex,
        "deprecated": field.deprecated or None,
        "x-cog-accept": field.accept,
    }
    return {key: value for key, value in known.items() if value is not None}


def plain(value: Any, what: str) -> Any:
    """A default or a choice as JSON: enums by value, paths and secrets as text, sets as lists."""
    try:
        return json.loads(json.dumps(value, default=_encode, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Problem(
            f"{what} cannot be written as JSON: {error}",
            "Give a literal: a string, a number, True, False, None, or a list or dict of those.",
        ) from None


def _encode(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, cog.Secret):
        return value.get_secret_value()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}")


# --- outputs ---------------------------------------------------------------------------------


def output_schema(hints: Mapping[str, Any], where: str) -> Json:
    """The schema of what a function returns or yields."""
    if "return" not in hints or hints["return"] in (None, type(None)):
        raise Problem(f"{where} does not say what it returns", _OUTPUT_ADVICE)
    try:
        return {"title": "Output", **_output(hints["return"], ())}
    except (ValueError, TypeError) as error:
        raise Problem(
            f"{where} returns {_spelled(hints['return'])}, which Cog does not support ({error})",
            _OUTPUT_ADVICE,
        ) from None


def _output(hint: Any, seen: tuple[Any, ...]) -> Json:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        raise ValueError("an output is of one type, and never None")
    schema = _opaque(hint) or _container(hint, seen)
    if schema is None and _is_object(hint):
        schema = _any() if hint in seen else _object(hint, (*seen, hint))
    return schema or dict(_adt.FieldType.from_type(hint).json_type())


def _container(hint: Any, seen: tuple[Any, ...]) -> Json | None:
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in _ITERATORS:
        keys = _ITERATORS[kind]
        return {"type": "array", "items": _item(arguments, keys, seen), **keys}
    if kind is list:
        return {"type": "array", "items": _output(arguments[0], seen) if arguments else _any()}
    if kind is dict and arguments:
        return {"type": "object", "additionalProperties": _output(arguments[1], seen)}
    return _any() if kind in (dict, Any) else None


def _item(arguments: tuple[Any, ...], keys: Json, seen: tuple[Any, ...]) -> Json:
    if len(arguments) != 1:
        raise ValueError("an iterator says what it yields, as in Iterator[str]")
    if keys is _CONCATENATED and arguments[0] is not str:
        raise ValueError("only str can be concatenated")
    return _output(arguments[0], seen)


def _opaque(hint: Any) -> Json | None:
    _, opaque = _adt._unwrap_opaque(hint)  # noqa: SLF001 - cog's own rule
    return dict(_adt.FieldType.from_type(hint).json_type()) if opaque else None


def _any() -> Json:
    return {"type": "object"}


def _is_object(hint: Any) -> bool:
    if typing_extensions.is_typeddict(hint):
        return True
    bases = [cog.BaseModel, _inspector.PydanticBaseModel]
    return inspect.isclass(hint) and any(base and issubclass(hint, base) for base in bases)


def _object(hint: Any, seen: tuple[Any, ...]) -> Json:
    properties: Json = {}
    required = []
    for name, field in typing.get_type_hints(hint, include_extras=True).items():
        if name.startswith("__") or typing.get_origin(field) is typing.ClassVar:
            continue
        qualifier, field_type = _unqualified(field)
        inner, optional = _unwrap_optional(field_type)
        properties[name] = {**_output(inner, seen), "title": _title(name)}
        if optional:
            properties[name]["nullable"] = True
        if _is_required(hint, name, qualifier, optional=optional):
            required.append(name)
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
    }


def _unqualified(field: Any) -> tuple[Any, Any]:
    """TypedDict's Required or NotRequired, if a field has it, and the type without Annotated."""
    qualifier = typing.get_origin(field)
    if qualifier in (typing_extensions.Required, typing_extensions.NotRequired):
        field = typing.get_args(field)[0]
    return qualifier, _inspector._strip_non_opaque_annotated(field)  # noqa: SLF001 - cog's own rule


def _unwrap_optional(hint: Any) -> tuple[Any, bool]:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    inner = [argument for argument in arguments if argument is not type(None)]
    return (inner[0], True) if len(inner) == 1 else (hint, False)


def _is_required(hint: Any, name: str, qualifier: Any, *, optional: bool) -> bool:
    if typing_extensions.is_typeddict(hint):
        # Where annotations are strings, __required_keys__ knows of no qualifiers.
        kept = qualifier is not typing_extensions.NotRequired and name in hint.__required_keys__
        return kept or qualifier is typing_extensions.Required
    if hasattr(hint, "model_fields"):
        return not optional and bool(hint.model_fields[name].is_required())
    field = getattr(hint, "__dataclass_fields__", {}).get(name)
    if field is None:
        return not optional and not hasattr(hint, name)
    missing = dataclasses.MISSING
    return not optional and field.default is missing and field.default_factory is missing


# --- words -----------------------------------------------------------------------------------


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def _spelled(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")


def main() -> None:
    """Answer on the real standard output; whatever the model prints goes to standard error."""
    parent, refs = int(sys.argv[1]), json.loads(sys.argv[2])
    # The model must neither wait for the parent's pipe nor read from it.
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    runpy.run_path(str(_LIFELINE))["end_with_parent"](parent, pipe)
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.insert(0, str(Path.cwd()))
    warnings.simplefilter("ignore")
    remember_given_defaults()
    try:
        result: Json = {
            mode: ref and signature(ref, train=mode == "train") for mode, ref in refs.items()
        }
    except Problem as problem:
        result = problem.report
    with answer:
        json.dump(result, answer)
    sys.stderr.flush()
    # Threads that the model started at import would keep the interpreter alive.
    os._exit(0)


if __name__ == "__main__":
    main()
