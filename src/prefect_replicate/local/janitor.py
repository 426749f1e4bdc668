"""Removes a temporary server's folder also when its program is killed.

A small shell waits at the end of a pipe that this program holds open. Whichever way the program
ends, the pipe closes with it.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

# The model's processes notice their parent's death within half a second. What then ran is named in
# their folders, and has left something where coglet keeps it.
_SCRIPT = """
while read -r _; do :; done
sleep 1
for run in "$0"/workers/*/outputs/*; do rm -rf -- "$1/${run##*/}"; done
rm -rf -- "$0"
"""
_PATH = "/usr/bin:/bin"


class Janitor:
    """Waits for the end of this program.

    Args:
        folder: Of the server; what is removed then.
        leftovers: Where each prediction has a folder too, while it runs.
    """

    def __init__(self, folder: Path, leftovers: Path) -> None:
        self._shell = subprocess.Popen(  # noqa: S603 - a constant script, the folder is no part of it
            ["/bin/sh", "-c", _SCRIPT, str(folder), str(leftovers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": _PATH},
            start_new_session=True,  # Ctrl-C is for the program alone
        )

    def dismiss(self) -> None:
        """Wait no longer; the folder is somebody else's business."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin:
            with suppress(OSError):
                self._shell.stdin.close()
