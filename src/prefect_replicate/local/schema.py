"""A folder with a Cog model in it: what its cog.yaml names, and what that code takes and gives.

`introspect.py` reads the signatures in a process of its own, `openapi` makes a document of them.
Nothing here validates inputs or starts a worker.

Reading a model runs its code. Only read folders that you would run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from prefect_replicate.local import environment
from prefect_replicate.local.openapi import document

_SCRIPT = Path(__file__).with_name("introspect.py")
_DETAIL_LINES = 14
_DETAIL_WIDTH = 200
_Json = dict[str, Any]


class BrokenModel(Exception):
    """A folder does not hold a Cog model that can be served. The text is a report of one screen.

    Attributes:
        folder: Where the model was looked for.
        problem: What is wrong, in one line.
        advice: What to do.
        detail: The end of a traceback or of what the model printed; may be empty.
    """

    def __init__(self, folder: Path, problem: str, advice: str, detail: str = "") -> None:
        super().__init__(folder, problem, advice, detail)
        self.folder = folder
        self.problem = _shortened(problem)
        self.advice = advice
        self.detail = _shortened(detail)

    def __str__(self) -> str:
        parts = [f"No usable Cog model in {self.folder}: {self.problem.rstrip('.')}."]
        if self.detail:
            parts.append("\n".join(f"    {line}" for line in self.detail.splitlines()))
        return "\n\n".join([*parts, self.advice])


@dataclass(frozen=True, slots=True)
class CogModel:
    """What a folder's cog.yaml and code say about the model in it.

    Attributes:
        predict: Where the predictor is: "predict.py:Predictor".
        train: Where the training function is: "train.py:train"; None where there is none.
        openapi: The version's `openapi_schema`, an OpenAPI 3.0.2 document.
        concurrency: How many predictions one worker runs at a time; coglet learns it only from
            the environment variable COG_MAX_CONCURRENCY.
        streams: Whether the output is an iterator, so that a prediction has `urls.stream`.
    """

    predict: str
    train: str | None
    openapi: dict[str, Any]
    concurrency: int
    streams: bool


def no_config(folder: Path) -> BrokenModel:
    """The report on a folder without cog.yaml."""
    return BrokenModel(
        folder,
        "it has no cog.yaml",
        'Give the folder that holds it, or write one: predict: "predict.py:Predictor".',
    )


class GivenUp(Exception):
    """A reading was given up from another thread."""


class Reading:
    """A reading of a model that another thread may give up; may be given up before it begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False

    def check(self) -> None:
        """Go on only if somebody still wants the result.

        Raises:
            GivenUp: Nobody does.
        """
        if self._given_up:
            raise GivenUp

    def give_up(self) -> None:
        """End the process that imports the model's code, now."""
        with self._lock:
            self._given_up = True
            if self._process:
                _end(self._process)

    @contextlib.contextmanager
    def holding(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Be able to end a process, and end it in any case at the end."""
        with self._lock:
            self._process = process
            if self._given_up:
                _end(process)
        try:
            yield
        finally:
            with self._lock:
                self._process = None
            _end(process)


def inspect_folder(
    folder: Path,
    *,
    python: str = sys.executable,
    timeout: float = 60.0,
    reading: Reading | None = None,
) -> CogModel:
    """Read cog.yaml and the types of the functions it names.

    Args:
        folder: The folder that holds cog.yaml; nothing is written into it.
        python: The interpreter that the model will run in; cog must be installed for it.
        timeout: Seconds that importing the model's code may take.
        reading: By which another thread may give it up.

    Raises:
        BrokenModel: There is no usable model; the text says why and what to do.
        GivenUp: Another thread gave it up.
    """
    config = _read_config(folder)
    predict, train = _references(folder, config)
    found = _introspect(
        folder, {"predict": predict, "train": train}, python, timeout, reading or Reading()
    )
    output = found["predict"]["output"]
    return CogModel(
        predict=predict,
        train=train,
        openapi=document(found["predict"], found["train"]),
        concurrency=_concurrency(folder, config, found["predict"]),
        streams=output.get("x-cog-array-type") == "iterator",
    )


# --- cog.yaml --------------------------------------------------------------------------------


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "cog.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise no_config(folder) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BrokenModel(
            folder, "cog.yaml cannot be read", "Correct cog.yaml.", str(error)
        ) from error
    if not isinstance(config, dict):
        raise BrokenModel(
            folder, "cog.yaml is not a mapping", 'Start it with a key, like "predict:".'
        )
    return config


def _references(folder: Path, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """Where to predict and where to train. Newer Cog says run where older Cog says predict."""
    predict, run = config.get("predict"), config.get("run")
    if predict and run:
        raise BrokenModel(folder, "cog.yaml has both predict and run", "Remove one of the two.")
    if not (predict or run):
        raise BrokenModel(
            folder, "cog.yaml names no predictor", 'Add the line predict: "predict.py:Predictor".'
        )
    train = config.get("train")
    return (
        _reference(folder, "predict" if predict else "run", predict or run),
        _reference(folder, "train", train) if train else None,
    )


def _reference(folder: Path, key: str, value: object) -> str:
    file, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (file and name.isidentifier()):
        raise BrokenModel(
            folder,
            f"{key} in cog.yaml is {value!r}",
            f'Write it as "file.py:Name", for example {key}: "{key}.py:Name".',
        )
    path = (folder / file).resolve()
    if not (path.is_relative_to(folder.resolve()) and path.is_file()):
        raise BrokenModel(
            folder,
            f"{key} in cog.yaml names {file}, which is not there",
            f"Add {file}, or correct {key}.",
        )
    return f"{file}:{name}"


def _concurrency(folder: Path, config: Mapping[str, Any], found: _Json) -> int:
    section = config.get("concurrency")
    wanted = section.get("max") if isinstance(section, dict) else section
    wanted = found["concurrency"] or wanted or 1
    if not isinstance(wanted, int) or wanted < 1:
        raise BrokenModel(
            folder, f"concurrency.max in cog.yaml is {wanted!r}", "Write a whole number from 1 on."
        )
    if wanted > 1 and not found["is_async"]:
        raise BrokenModel(
            folder,
            f"cog.yaml asks for {wanted} predictions at a time, but the predictor is not async",
            "Make its method async def, or remove concurrency from cog.yaml.",
        )
    return wanted


# --- running the introspection ---------------------------------------------------------------


def _introspect(
    folder: Path, refs: Mapping[str, str | None], python: str, timeout: float, reading: Reading
) -> _Json:
    # Files, not pipes: something the model leaves behind would hold a pipe open for ever.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as printed:
        command = [_absolute(python), "-P", str(_SCRIPT), str(os.getpid()), json.dumps(refs)]
        with _started(folder, command, answer, printed) as process, reading.holding(process):
            code = _exit_code(process, timeout)
        reading.check()
        result, said = _read(answer), _read(printed)
    if code is None:
        advice = (
            f"Move what takes long from the top of the file to setup(): {timeout:g} s is the limit."
        )
        raise BrokenModel(folder, "importing its code does not end", advice, said)
    try:
        found: _Json = json.loads(result)
    except ValueError:
        advice = f"Run the file with {python} to see it fail; cog must be installed there."
        problem = f"the process that imports its code died with code {code}"
        raise BrokenModel(folder, problem, advice, said) from None
    if "problem" in found:
        raise BrokenModel(folder, found["problem"], found["advice"], found["detail"])
    return found


def _started(
    folder: Path, command: list[str], answer: IO[bytes], printed: IO[bytes]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(  # noqa: S603 - running the model's code is the purpose
            command,
            cwd=folder,
            env={**environment.for_models(), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=printed,
            start_new_session=True,
        )
    except OSError as error:
        advice = "Give the path of a Python interpreter that has cog installed."
        raise BrokenModel(folder, f"{command[0]} cannot be started: {error}", advice) from error


def _exit_code(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The exit code, or None when the time was up."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole session, since a model may start processes while it is imported."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _absolute(python: str) -> str:
    """A path holds from the caller's folder, not from the model's; a bare name is for PATH."""
    return str(Path(python).absolute()) if os.sep in python else python


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _shortened(text: str) -> str:
    lines = text.rstrip().splitlines()[-_DETAIL_LINES:]
    return "\n".join(
        line if len(line) <= _DETAIL_WIDTH else f"{line[: _DETAIL_WIDTH - 1]}…" for line in lines
    )
