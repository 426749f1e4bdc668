"""Which call is which: names that stay the same when a flow is run again, and differ otherwise.

Pure. Prefect's own ids of task runs change with every retry of a flow, and so does the order of
calls that run at once; what stays is what was asked, and how many asked the same before. Calls that
ask the same are exchangeable.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

KEY_LENGTH = 26
KEY_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


def fingerprint(
    api: str, asked: str, input: Mapping[str, Any], digest: Callable[[str], str | None]
) -> str:
    """What was asked, as 26 characters that differ when anything in it differs.

    Args:
        api: Base URL of the API.
        asked: What to run or train, as the caller named it.
        input: As it is sent.
        digest: What is known of a file at Replicate by its URL: the SHA-256 of its content. The
            same file has another URL after another upload.
    """
    return _short([api, asked, _known(input, digest)])


def key_of(flow_run: UUID, print_: str, place: int | str) -> str:
    """The name of one call: its flow run, what it asks, and which of those that ask the same.

    Args:
        flow_run: Of the call.
        print_: As `fingerprint` gives it.
        place: How many ask the same before it, or a name that the caller gave it.
    """
    return _short([str(flow_run), "" if isinstance(place, str) else print_, place])


def _known(value: Any, digest: Callable[[str], str | None]) -> Any:
    if isinstance(value, Mapping):
        return {name: _known(each, digest) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_known(each, digest) for each in value]
    if isinstance(value, str) and (found := digest(value)):
        return {"sha256": found}
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return base64.b32encode(digest).decode().lower()[:KEY_LENGTH]
