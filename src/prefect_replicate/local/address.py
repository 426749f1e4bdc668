"""Where a running server is found by its folder: a file that says so, for as long as it runs."""

from __future__ import annotations

import os
from pathlib import Path

from prefect_replicate.local.secret_file import write_private

_FILE = "address"
LOCK = "lock"


def announce(root: Path, base_url: str) -> None:
    """Write down where the server of a folder listens; whole or not at all, for its owner only."""
    write_private(root / _FILE, base_url)


def withdraw(root: Path) -> None:
    """Forget where a server listened; it is fine if that was not known."""
    (root / _FILE).unlink(missing_ok=True)


def find(root: Path) -> str | None:
    """The base URL of the server that runs in a folder, or None if none does.

    What a server that was killed left behind is told from the truth by the lock, which no dead
    process holds: its port may belong to any other program by now.
    """
    try:
        base_url = (root / _FILE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return base_url if _is_held(root / LOCK) else None


def _is_held(lock: Path) -> bool:
    import fcntl  # noqa: PLC0415 - not on Windows, where importing this module must do no harm

    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def default_root() -> Path:
    """Where a server that people start keeps its state: in the user's folder for data."""
    home = os.environ.get("XDG_DATA_HOME", "")
    # The specification has relative ones ignored.
    data = Path(home) if Path(home).is_absolute() else Path.home() / ".local" / "share"
    return data / "prefect-replicate" / "local"
