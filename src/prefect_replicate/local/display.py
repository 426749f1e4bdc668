"""How values, times and sizes look to people. What is too long is cut, and says so.

Pure: texts go in, texts come out. What they become on a page is the business of the templates.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

MOST = 100_000  # characters of an input, an output or logs
MOST_ITEMS = 200  # of one list or object
_DEEPEST = 4  # levels that are laid out; what is deeper is shown as JSON
_EACH = 20  # characters that an item counts at least, so that many empty ones fill up, too
_GLANCED = 20  # items of an output among which a picture is looked for
_LONGEST_NAME = 200
_LONGEST_LINK = 2_000
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colours and cursor moves of a terminal
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
# By extension and not by the system's table of media types, which differs from one to the next.
_EXTENSIONS: Mapping[str, frozenset[str]] = {
    "image": frozenset({"apng", "avif", "bmp", "gif", "ico", "jpeg", "jpg", "png", "svg", "webp"}),
    "audio": frozenset({"aac", "flac", "m4a", "mp3", "oga", "ogg", "opus", "wav"}),
    "video": frozenset({"m4v", "mov", "mp4", "ogv", "webm"}),
}
_DATA_IMAGE = re.compile(r"image/(?:avif|bmp|gif|jpe?g|png|svg\+xml|webp|x-icon)")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

How = Literal[
    "text", "code", "link", "image", "audio", "video", "file", "gone", "list", "gallery", "fields"
]


@dataclass(frozen=True, slots=True)
class File:
    """A file that stands for a value.

    Attributes:
        name: What to call it.
        url: Where a browser finds it; empty if nowhere.
        size: Bytes, or None if it is not there any more.
        kind: "image", "audio", "video" or "file".
    """

    name: str
    url: str
    size: int | None
    kind: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A value, or a part of it, as it is laid out.

    Attributes:
        how: Names the layout.
        text: What stands there; the name of a file.
        url: Where it leads.
        note: What is left out, or how large a file is.
        parts: What it consists of, with names in an object.
    """

    how: How
    text: str = ""
    url: str = ""
    note: str = ""
    parts: tuple[tuple[str, Piece], ...] = ()


# Gives the file that a text stands for, or None if it is a text.
Find = Callable[[str], File | None]


def show(value: Any, find: Find) -> Piece:
    """Lay out an input or an output of any size."""
    return _Layout(find).piece(value, 0)


def glance(value: Any, find: Find, most: int) -> Piece:
    """The first picture among the first items of an output, or else a line of it."""
    leaves = list(itertools.islice(_leaves(value), _GLANCED))
    files = [file for leaf in leaves if isinstance(leaf, str) and (file := find(leaf))]
    if files:
        names = shorten(", ".join(file.name for file in files), most)
        pictures = (file.url for file in files if file.kind == "image" and file.size is not None)
        picture = next(pictures, "")
        return Piece("image" if picture else "text", names, picture)
    if value is None or isinstance(value, str):
        return Piece("text", shorten(value or "", most))
    return Piece("text", shorten(_json(value, 4 * most), most))


class _Layout:
    """One value on its way, with the characters that are left for the rest of it."""

    def __init__(self, find: Find) -> None:
        self._find, self._left = find, MOST

    def piece(self, value: Any, depth: int) -> Piece:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, (list, dict)) and depth < _DEEPEST and _is_worth_a_layout(value):
            return self._many(value, depth)
        return self._cut("code", _json(value, self._left + 1))

    def _many(self, value: list[Any] | dict[str, Any], depth: int) -> Piece:
        named = isinstance(value, dict)
        pairs: Iterable[tuple[str, Any]] = (
            value.items() if isinstance(value, dict) else (("", item) for item in value)
        )
        parts: list[tuple[str, Piece]] = []
        for name, item in pairs:
            if len(parts) == MOST_ITEMS or self._left <= 0:
                break
            self._left -= _EACH
            parts.append((shorten(name, _LONGEST_NAME), self.piece(item, depth + 1)))
        more = len(value) - len(parts)
        note = f"{more:,} more {'is' if more == 1 else 'are'} not shown." if more else ""
        pictures = all(part.how == "image" for _, part in parts)
        how: How = "fields" if named else "gallery" if pictures else "list"
        return Piece(how, parts=tuple(parts), note=note)

    def _text(self, text: str) -> Piece:
        if file := self._find(text):
            return self._file(file)
        if _is_link(text):
            return Piece("link", text, text)
        return self._cut("text", text)

    def _file(self, file: File) -> Piece:
        if file.size is None:
            return Piece("gone", file.name)
        size = amount(file.size)
        if len(file.url) > max(self._left, _LONGEST_LINK):
            return Piece("file", file.name, "", f"{size}, not shown here")
        self._left -= len(file.url)
        kinds: Mapping[str, How] = {"image": "image", "audio": "audio", "video": "video"}
        return Piece(kinds.get(file.kind, "file"), file.name, file.url, size)

    def _cut(self, how: How, text: str) -> Piece:
        kept = text[: max(self._left, 0)]
        self._left -= len(kept)
        if len(kept) == len(text):
            return Piece(how, text)
        # How long JSON would have been is not known: it is not written to its end.
        total = f" of {len(text):,}" if how == "text" else ""
        return Piece(how, kept, note=f"The first {len(kept):,}{total} characters are shown.")


def stored_file(path: str, url: str, size: int | None) -> File:
    """A file of the store, "<key>/<name>"."""
    name = path.rpartition("/")[2]
    extension = name.rpartition(".")[2].lower()
    kinds = (kind for kind, extensions in _EXTENSIONS.items() if extension in extensions)
    return File(name, url, size, next(kinds, "file"))


def data_file(text: str) -> File | None:
    """What a data: URI holds, or None if the text is none. Only pictures can be looked at."""
    if text[:5].lower() != "data:":
        return None
    header, comma, _ = text[5:300].partition(",")
    if not comma:
        return None
    media_type, *parameters = header.lower().split(";")
    length = len(text) - len(header) - len("data:,")
    size = length * 3 // 4 if "base64" in parameters else length
    name = f"data: URI ({media_type or 'text/plain'})"
    if _DATA_IMAGE.fullmatch(media_type):
        return File(name, text, size, "image")
    return File(name, "", size, "file")


def show_logs(logs: str) -> Piece:
    """Logs as a terminal would leave them; of long ones the end, which says how it went."""
    left_out = max(len(logs) - MOST, 0)
    lines = _ESCAPES.sub("", logs[left_out:]).replace("\r\n", "\n").split("\n")
    # What is before a carriage return was overwritten: earlier states of a progress bar.
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    note = f"The first {left_out:,} characters are left out." if left_out else ""
    return Piece("text", text, note=note)


def joined(output: Any) -> Any:
    """The texts of a list as one, for models whose parts make up a single text."""
    if isinstance(output, list) and all(isinstance(part, str) for part in output):
        return "".join(output)
    return output


def shorten(text: str, most: int) -> str:
    """A text in one line, with an ellipsis where it was cut."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[:most]}…"


def exact(moment: str) -> str:
    """A record's time to the last digit: "2025-03-12 14:03:22.123456 UTC"."""
    return moment.replace("T", " ").replace("Z", " UTC")


def clock(moment: str) -> str:
    """A record's time for people, in UTC: "12 Mar 2025, 14:03:22"."""
    time = datetime.fromisoformat(moment).astimezone(UTC)
    return f"{time.day} {_MONTHS[time.month - 1]} {time.year}, {time:%H:%M:%S}"


def clock_after(moment: str, earlier: str) -> str:
    """The same, without the day if that is clear from an earlier time."""
    day, _, time = clock(moment).partition(", ")
    return time if clock(earlier).startswith(f"{day}, ") else f"{day}, {time}"


def ago(moment: str, now: datetime) -> str:
    """How long ago a record's time was; the day itself if it is long ago."""
    seconds = seconds_between(moment, now)
    if seconds < 1:
        return "just now"
    if seconds < _MINUTE:
        return f"{seconds // 1:.0f} s ago"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min ago"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f} h ago"
    return clock(moment).partition(",")[0]


def seconds_between(moment: str, now: datetime | str) -> float:
    """Seconds from a record's time to another time; none if that is earlier."""
    end = datetime.fromisoformat(now) if isinstance(now, str) else now
    return max((end - datetime.fromisoformat(moment)).total_seconds(), 0.0)


def span(seconds: float) -> str:
    """A duration: "84 ms", "3.21 s", "42.1 s", "2 min 05 s" or "1 h 03 min"."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"


def amount(size: int) -> str:
    """A size: "1 byte", "812 bytes", "3.2 kB" or "1.4 GB"."""
    if size < 1000:
        return f"{size} byte{'' if size == 1 else 's'}"
    scaled, units = size / 1000, ["kB", "MB", "GB"]
    while scaled >= 999.5 and len(units) > 1:
        scaled /= 1000
        units.pop(0)
    return f"{scaled:.1f} {units[0]}" if scaled < 99.95 else f"{scaled:.0f} {units[0]}"


def metric(value: Any) -> str:
    """What a model measured."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return shorten(value if isinstance(value, str) else _json(value, _LONGEST_NAME), _LONGEST_NAME)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, dict)):
        for item in value if isinstance(value, list) else value.values():
            yield from _leaves(item)
    else:
        yield value


def _is_worth_a_layout(value: list[Any] | dict[str, Any]) -> bool:
    """Whether JSON would be harder to read; a list of numbers is not."""
    if isinstance(value, dict):
        return bool(value)
    return any(isinstance(item, (str, list, dict)) for item in value)


def _is_link(text: str) -> bool:
    is_short = len(text) <= _LONGEST_LINK
    return is_short and text.startswith(("http://", "https://")) and text.split() == [text]


def _json(value: Any, most: int) -> str:
    """A value's JSON, or the beginning of it if that is longer."""
    inside = value.values() if isinstance(value, dict) else value
    nested = isinstance(value, (list, dict)) and any(isinstance(x, (list, dict)) for x in inside)
    encoder = json.JSONEncoder(ensure_ascii=False, indent=2 if nested else None)
    text: list[str] = []
    size = 0
    for chunk in encoder.iterencode(value):
        text.append(chunk)
        size += len(chunk)
        if size > most:
            break
    return "".join(text)
