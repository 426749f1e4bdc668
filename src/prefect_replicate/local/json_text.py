"""JSON from clients: only what can be written down, handed to a model and shown again is let in.

Python's own reader takes more than that: NaN, numbers beyond every float, halves of characters. One
such value in the database would spoil every list that it is part of.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

MOST_LEVELS = 100


def parse(text: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is no JSON by RFC 8259, cannot be written as UTF-8, or is nested more than
            `MOST_LEVELS` deep.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _deeper_than(value, MOST_LEVELS):
        raise ValueError("nested too deeply")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not part of JSON")


def _deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [item for outer in layer if isinstance(outer, (dict, list)) for item in _in(outer)]
    return any(isinstance(value, (dict, list)) for value in layer)


def _in(outer: dict[str, Any] | list[Any]) -> list[Any]:
    return list(outer.values()) if isinstance(outer, dict) else outer
