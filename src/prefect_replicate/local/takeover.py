"""Files that pass into and out of a model's process; for output, `handover` is the other side.

A model has the rights of this process, so it can hand over the content of any file that it may
read. But only what is in the folder of its own run is ever moved.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from prefect_replicate.local import handover
from prefect_replicate.local.engine import OutputFile, WorkerSpec

_PROGRAM = Path(handover.__file__)
# A module of its own beside Cog's schema; the name is one that no model imports.
_MODULE = ".cog/prefect_replicate_model.py"
_NAME = re.compile(r"[0-9a-f]{32}\.[a-z0-9]{1,16}", re.IGNORECASE)


def write_model(folder: Path, spec: WorkerSpec) -> None:
    """Write the module that coglet loads in place of the model in this folder."""
    arguments = f"{spec.reference!r}, used_once={spec.single_use}"
    (folder / _MODULE).write_text(
        f"import runpy\nModel = runpy.run_path({str(_PROGRAM)!r})['model']({arguments})\n"
    )


def reference() -> str:
    """What coglet loads, relative to the model's folder."""
    return f"{_MODULE}:Model"


def context(folder: Path) -> dict[str, str]:
    """The context of a prediction whose files are to be put into `folder`."""
    return {handover.CONTEXT: str(folder)}


def received(value: Any, folder: Path) -> Any:
    """An output, in which names of files in the run's folder become these files."""
    if isinstance(value, str):
        name = value.removeprefix(handover.MARK)
        # A text may look so too, but it cannot name a file that is there.
        known = name != value and _NAME.fullmatch(name) and _is_plain(folder / name)
        return OutputFile(folder / name) if known else value
    if isinstance(value, list):
        return [received(item, folder) for item in value]
    if isinstance(value, dict):
        return {name: received(item, folder) for name, item in value.items()}
    return value


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def remove_downloads(folder: Path, payload: dict[str, Any]) -> None:
    """Remove input files that Cog has fetched into its temporary folder and left there.

    Where one of several cannot be fetched, Cog leaves the others, and what it has of that one.
    """
    for url in _urls(payload):
        name = unquote_plus(os.path.basename(urlsplit(url).path))  # noqa: PTH119 - as Cog does it
        # Without a name, what Cog has fetched looks like any file that the model made itself.
        for path in folder.glob(f"tmp????????{glob.escape(name)}") if name else ():
            if path.is_file():
                path.unlink(missing_ok=True)


def _urls(payload: dict[str, Any]) -> Iterator[str]:
    for value in payload.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item.startswith(("http://", "https://")):
                yield item
