"""How many connections there may be: each takes a file descriptor, of which a program has so many.

Many systems give a program 1,024 (macOS 256) until it asks for more, as it is free to do.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from contextlib import suppress
from typing import Any

from prefect_replicate.local.problems import Problem

_WANTED = 10_240  # macOS gives no more, whatever it says
_RESERVE = 64  # for workers, files and the database
_SILENCE = 10.0  # seconds between two warnings
_REMEDY = "allow the server more open files (`ulimit -n`), or wait on fewer connections"

logger = logging.getLogger(__name__)


def raise_limit() -> None:
    """Ask for as many descriptors as are wanted, or as this program may have."""
    import resource  # noqa: PLC0415 - not on Windows, where importing this module must do no harm

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft not in range(most) or soft == resource.RLIM_INFINITY:
        return
    with suppress(OSError, ValueError):  # a system that refuses has its reasons
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections() -> int:
    """How many connections leave enough descriptors for what they ask for."""
    import resource  # noqa: PLC0415 - as above

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (_WANTED if soft == resource.RLIM_INFINITY else soft) - _RESERVE


def too_many(connections: int) -> Problem:
    """503 for a client that came when there were that many."""
    problem = Problem(503, f"{connections} connections are too many: {_REMEDY}.", "Too busy")
    problem.headers["Connection"] = "close"
    return problem


class Shortage:
    """What an event loop does with errors: says in one line, and seldom, that no connection fits.

    Without it asyncio, which tries again thousands of times a second, writes a traceback each time.
    """

    def __init__(self) -> None:
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take an error that nobody awaits."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in {errno.EMFILE, errno.ENFILE}:
            loop.default_exception_handler(context)
        elif loop.time() >= self._quiet_until:
            self._quiet_until = loop.time() + _SILENCE
            logger.warning("Local Replicate takes no more connections now: %s", _REMEDY)
