"""How long a client waits for a prediction, and how long it lets it live: two request headers.

Pure.
"""

from __future__ import annotations

import re

from prefect_replicate.local.problems import invalid_field

LONGEST_WAIT = 60  # seconds; also what a plain "wait" means
SHORTEST_LIFE = 5.0
LONGEST_LIFE = 24 * 3600.0
_LIFE = re.compile(
    r"(?:(?P<plain>\d{1,9})|(?=\d)(?:(?P<h>\d{1,9})h)?(?:(?P<m>\d{1,9})m)?(?:(?P<s>\d{1,9})s)?)",
    re.ASCII,
)


def read_prefer(header: str, *, cap: bool = False) -> int | None:
    """Seconds to hold the answer, from a Prefer header: "wait", "wait=N" or anything else.

    Args:
        header: Its value.
        cap: Take 61 to 99 for 60, instead of refusing them.

    Raises:
        Problem: 422, N is not a number from 1 to 60.
    """
    for preference in header.split(","):
        name, equals, value = preference.strip().partition("=")
        if name.strip().lower() != "wait":
            continue
        if not equals:
            return LONGEST_WAIT
        if re.fullmatch("[0-9]{1,3}", value) and 1 <= int(value) <= LONGEST_WAIT:
            return int(value)
        if cap and re.fullmatch("[6-9][1-9]|[7-9]0", value, re.ASCII):
            return LONGEST_WAIT
        raise invalid_field("Prefer", f"Must be wait or wait=N with N from 1 to {LONGEST_WAIT}")
    return None


def applied(header: str, wait: int) -> str:
    """What is told of a Prefer header that was heeded: "wait" if no number was asked for."""
    names = {preference.strip().lower() for preference in header.split(",")}
    return "wait" if "wait" in names else f"wait={wait}"


def read_cancel_after(header: str, *, lenient: bool = False) -> float | None:
    """Seconds that a prediction may live, from a Cancel-After header: "90", "30s", "1h30m45s".

    Args:
        header: Its value.
        lenient: Take one that is wrong for none, instead of refusing it.

    Raises:
        Problem: 422, the header is something else, or outside of 5 s to 24 h.
    """
    text = header.strip()
    if not text:
        return None
    match = _LIFE.fullmatch(text)
    if not match:
        if lenient:
            return None
        raise invalid_field(
            "Cancel-After", "Must be seconds, or a duration such as 30s or 1h30m45s"
        )
    hours, minutes, seconds = (int(match[unit] or 0) for unit in "hms")
    life = float(match["plain"] or hours * 3600 + minutes * 60 + seconds)
    if not SHORTEST_LIFE <= life <= LONGEST_LIFE:
        if lenient:
            return None
        raise invalid_field("Cancel-After", "Must be at least 5 seconds and at most 24 hours")
    return life
