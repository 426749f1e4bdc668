"""Secrets that a server makes at its first start and keeps in its folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def keep_secret(path: Path, prefix: str, given: str = "") -> str:
    """The secret that a file keeps: the given one, else what it holds, else a new one.

    A new one is the prefix and 32 hexadecimal digits, which are base64 as well.
    """
    kept = path.read_text().strip() if path.exists() else ""
    secret = given or kept or prefix + secrets.token_hex(16)
    write_private(path, secret)
    return secret


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; whole or not at all."""
    # Renamed at last, so that the file is never half-written, and its mode is right from the first.
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - pathlib cannot set the mode
        file.write(text)
    new.replace(path)
