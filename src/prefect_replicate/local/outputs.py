"""What a model puts out, on its way to clients: files leave the JSON and become URLs.

Pure but for the `save` that is handed in. The output's schema says which strings are files: a text
that happens to begin with "data:" stays a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prefect_replicate.local.engine import OutputFile
from prefect_replicate.local.files import delivery_path

_WRAPPERS = frozenset({"$ref", "allOf", "anyOf"})

# Stands before a file's path in stored output: addresses change, so URLs are made when asked.
_MARK = "\x00file:"

Content = str | OutputFile  # a data: URI, or a file
Save = Callable[[Content, str], str]


def keep_files(
    value: Any, schema: Mapping[str, Any], openapi: Mapping[str, Any], save: Save, name: str
) -> Any:
    """The value with each file saved and replaced by a reference.

    Args:
        value: Output, or a part of it.
        schema: What the version says of this value.
        openapi: The version's whole schema, for references in it.
        save: Takes a file or a data: URI, and the file's name without extension; gives the path in
            the store.
        name: What to call the file if the value is one.
    """
    if isinstance(value, OutputFile):
        return _MARK + save(value, name)
    schema = resolve(schema, openapi)
    if isinstance(value, str):
        if is_file(schema) and value.startswith("data:"):
            return _MARK + save(value, name)
        while value.startswith(_MARK):  # a text cannot pass for a file of the store
            value = value.removeprefix(_MARK)
        return value
    if isinstance(value, list):
        items = schema.get("items", {})
        return [
            keep_files(item, items, openapi, save, f"out-{at}") for at, item in enumerate(value)
        ]
    if isinstance(value, dict):
        fields, others = schema.get("properties", {}), schema.get("additionalProperties")
        others = others if isinstance(others, dict) else {}
        return {
            field: keep_files(item, fields.get(field, others), openapi, save, field)
            for field, item in value.items()
        }
    return value


def output_schema(openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a version's output."""
    return resolve({"$ref": "#/components/schemas/Output"}, openapi)


def is_list(openapi: Mapping[str, Any]) -> bool:
    """Whether a version's output is a list, whose items come one by one."""
    return output_schema(openapi).get("type") == "array"


def item_schema(openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of one item of a list output."""
    return resolve(output_schema(openapi).get("items", {}), openapi)


def deliver(value: Any, base: str) -> Any:
    """The stored value as a client sees it, with URLs under `base`."""
    if isinstance(value, str):
        path = value.removeprefix(_MARK)
        return value if path == value else base + delivery_path(path)
    if isinstance(value, list):
        return [deliver(item, base) for item in value]
    if isinstance(value, dict):
        return {name: deliver(item, base) for name, item in value.items()}
    return value


def file_path(value: Any) -> str | None:
    """The path in the store if the stored value is a file."""
    return value.removeprefix(_MARK) if isinstance(value, str) and value.startswith(_MARK) else None


def file_paths(value: Any) -> Iterator[str]:
    """The paths in the store of all files of a stored value."""
    if isinstance(value, (list, dict)):
        for item in value if isinstance(value, list) else value.values():
            yield from file_paths(item)
    elif path := file_path(value):
        yield path


def resolve(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema says in the end: references followed, null left out of the alternatives."""
    while True:
        inner = _only(schema)
        reference = schema.get("$ref", "")
        if reference.startswith("#/components/schemas/"):
            name = reference.rsplit("/", 1)[-1]
            inner = openapi["components"]["schemas"].get(name, {})
        if inner is None:
            return schema
        outer = {key: value for key, value in schema.items() if key not in _WRAPPERS}
        schema = {**outer, **inner}


def _only(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema inside a wrapper around a single one."""
    for wrapper in ("allOf", "anyOf"):
        inside = [part for part in schema.get(wrapper, ()) if part.get("type") != "null"]
        if len(inside) == 1:
            return inside[0]  # type: ignore[no-any-return]
    return None


def is_file(schema: Mapping[str, Any]) -> bool:
    """Whether a resolved schema describes a file."""
    return schema.get("format") == "uri"
