"""A model's folder as a tar archive: packed by who pushes it, unpacked by the server.

Whoever may push may run code here, so what is refused is refused for the sake of those who make a
mistake: nothing is ever written beside the folder that is meant.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

try:
    from lzma import LZMAError
except ImportError:  # Python may be built without it, and then opens no such archive
    LZMAError = zlib.error  # type: ignore[misc, assignment]  # a class in place of a class

MOST_BYTES = 10_000_000_000  # of the archive, and of what is in it
MOST_FILES = 100_000


class BadArchive(Exception):
    """What came is no archive of a model's folder; the text says why."""


class TooLarge(Exception):
    """An archive holds more than one is taken to hold."""


def pack(folder: Path, files: Iterable[Path], target: IO[bytes]) -> None:
    """Write an archive of some files of a folder; links become what they lead to."""
    with tarfile.open(fileobj=target, mode="w", dereference=True) as archive:
        for path in files:
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False)


def unpack(archive: Path, target: Path) -> None:
    """Write the files of an archive into a folder, which is left half-written on any error.

    Args:
        archive: A tar file, plain or compressed.
        target: An empty folder.

    Raises:
        BadArchive: It is no tar file, or names something outside of the folder or no file.
        TooLarge: It holds too many files, or more than `MOST_BYTES`.
    """
    left, size = MOST_FILES, 0
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                left, size = left - 1, size + member.size
                # Looked at before a single byte of it is read: a small archive may hold much.
                if left < 0 or size > MOST_BYTES:
                    raise TooLarge
                _check(member.name)
                opened.extract(member, target, filter="data")
    except tarfile.FilterError as error:
        raise BadArchive(f"{error.tarinfo.name!r} in it is refused: {error}") from None
    # OSError: a file stands where another entry wants a folder, or a name is too long.
    except (tarfile.TarError, zlib.error, LZMAError, EOFError, OSError, ValueError) as error:
        raise BadArchive(f"it cannot be read as a tar archive: {error}") from None


def _check(name: str) -> None:
    """Refuse what the filter would make harmless: then something else is meant than is written."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadArchive(f"{name!r} in it is no path inside of the folder")
