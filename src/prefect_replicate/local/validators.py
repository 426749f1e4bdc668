"""JSON Schema validators, each made once: making one takes longer than using it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator


def validator(schema: Mapping[str, Any], place: str = "") -> Draft202012Validator:
    """A validator, kept for as long as it is much in use.

    Args:
        schema: What it checks, or the document that holds this; must not be changed afterwards.
        place: Where in the document, "#/components/schemas/Input"; the whole without it.
    """
    return _make(_Same(schema), place)


class _Same:
    """A value that is recognised by identity, since it cannot be hashed."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value


@lru_cache(maxsize=128)
def _make(schema: _Same, place: str) -> Draft202012Validator:
    # The cache holds the schema too, so that no other can come to have its identity.
    return Draft202012Validator({**schema.value, "$ref": place} if place else schema.value)
