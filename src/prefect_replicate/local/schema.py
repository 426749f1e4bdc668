"""A folder with a Cog model in it, and the OpenAPI document that Replicate shows for its version.

Cog writes that document when it builds an image. Local Replicate builds none, so it is written
here: `introspect.py` reads the signatures in a process of its own, and this module puts them where
Cog would have put them. It validates no inputs and starts no worker.

Reading a model runs its code. Only read folders that you would run.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import yaml

_SCRIPT = Path(__file__).with_name("introspect.py")
# A model must not find the caller's token, its Prefect server, or a place to report crashes to.
_PRIVATE = ("REPLICATE_", "PREFECT_", "SENTRY_DSN")
_DETAIL_LINES = 14
_DETAIL_WIDTH = 200
_REFS = "#/components/schemas/"
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


def inspect_folder(
    folder: Path, *, python: str = sys.executable, timeout: float = 60.0
) -> CogModel:
    """Read cog.yaml and the types of the functions it names.

    Args:
        folder: The folder that holds cog.yaml; nothing is written into it.
        python: The interpreter that the model will run in; cog must be installed for it.
        timeout: Seconds that importing the model's code may take.

    Raises:
        BrokenModel: There is no usable model; the text says why and what to do.
    """
    config = _read_config(folder)
    predict, train = _references(folder, config)
    found = _introspect(folder, {"predict": predict, "train": train}, python, timeout)
    output = found["predict"]["output"]
    return CogModel(
        predict=predict,
        train=train,
        openapi=_document(found["predict"], found["train"]),
        concurrency=_concurrency(folder, config, found["predict"]),
        streams=output.get("x-cog-array-type") == "iterator",
    )


def worker_schema(openapi: Mapping[str, Any], mode: Literal["predict", "train"]) -> dict[str, Any]:
    """The document for a worker's .cog/openapi_schema.json.

    It differs from the public one in three ways. Server-sent events are switched on for every
    predictor, not only for iterators. In train mode `Input` and `Output` are those of the training,
    because coglet streams only from POST /predictions, which then runs the training. And null is
    admitted where the public document says `nullable`, a word that coglet does not know.

    Raises:
        ValueError: Train mode was asked for, and the document describes no training.
    """
    document: _Json = copy.deepcopy(dict(openapi))
    schemas = document["components"]["schemas"]
    if mode == "train":
        if "TrainingInput" not in schemas:
            raise ValueError("This version describes no training: its cog.yaml names no train.")
        schemas["Input"] = schemas["TrainingInput"]
        schemas["Output"] = schemas["TrainingOutput"]
    document["paths"]["/predictions"]["post"]["x-cog-streaming"] = True
    properties = schemas["Input"]["properties"]
    for name, schema in properties.items():
        if schema.get("nullable"):
            properties[name] = {"anyOf": [schema, {"type": "null"}]}
    return document


# --- cog.yaml --------------------------------------------------------------------------------


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "cog.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BrokenModel(
            folder,
            "it has no cog.yaml",
            'Give the folder that holds it, or write one: predict: "predict.py:Predictor".',
        ) from None
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


def _introspect(folder: Path, refs: Mapping[str, str | None], python: str, timeout: float) -> _Json:
    # Files, not pipes: something the model leaves behind would hold a pipe open for ever.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as printed:
        command = [_absolute(python), str(_SCRIPT), json.dumps(refs)]
        code = _run(folder, command, answer, printed, timeout)
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


def _run(
    folder: Path, command: list[str], answer: IO[bytes], printed: IO[bytes], timeout: float
) -> int | None:
    """The exit code, or None when the time was up."""
    try:
        process = subprocess.Popen(  # noqa: S603 - running the model's code is the purpose
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=printed,
            start_new_session=True,
        )
    except OSError as error:
        advice = "Give the path of a Python interpreter that has cog installed."
        raise BrokenModel(folder, f"{command[0]} cannot be started: {error}", advice) from error
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # The whole session, since a model may start processes while it is imported.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _absolute(python: str) -> str:
    """A path holds from the caller's folder, not from the model's; a bare name is for PATH."""
    return str(Path(python).absolute()) if os.sep in python else python


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_PRIVATE)}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _shortened(text: str) -> str:
    lines = text.rstrip().splitlines()[-_DETAIL_LINES:]
    return "\n".join(
        line if len(line) <= _DETAIL_WIDTH else f"{line[: _DETAIL_WIDTH - 1]}…" for line in lines
    )


# --- the document ----------------------------------------------------------------------------


def _document(predict: _Json, train: _Json | None) -> _Json:
    """What Cog writes at build: the same paths, components and titles."""
    schemas: _Json = dict(_components("Prediction", predict, {}))
    paths = _ROOT | {"/health-check": _get("Healthcheck", "healthcheck_health_check_get")}
    paths |= _paths("Predict", "prediction")
    if train:
        schemas |= _components("Training", train, schemas)
        paths |= _paths("Train", "training")
    document = {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": paths,
        "components": {"schemas": schemas | _SHARED},
    }
    return copy.deepcopy(document)


def _components(kind: str, found: _Json, taken: Mapping[str, Any]) -> Iterator[tuple[str, _Json]]:
    prefix = "Training" if kind == "Training" else ""
    properties, enums = found["properties"], found["enums"]
    for name, choices in enums.items():
        others = {other: enums[other] for other in enums if other != name}
        component = _free_name(name, choices, {**taken, **others})
        if component != name:
            _redirect(properties[name], component)
        yield component, choices
    required = {"required": found["required"]} if found["required"] else {}
    title = f"{prefix}Input"
    yield title, {"title": title, "type": "object", "properties": properties, **required}
    yield f"{prefix}Output", found["output"]
    yield f"{kind}Request", _request(f"{kind}Request", title)
    yield f"{kind}Response", _response(f"{kind}Response", title, f"{prefix}Output")


def _free_name(name: str, choices: _Json, taken: Mapping[str, Any]) -> str:
    """A component's name for some choices: the input's own, as Cog has it, unless that is taken.

    Cog lets the choices of a training's input be those of the prediction's input of that name.
    """
    reserved = _SHARED.keys() | _RESERVED
    while name in reserved or taken.get(name, choices) != choices:
        name += "_choices"
    return name


def _redirect(schema: _Json, component: str) -> None:
    target = schema["items"] if "items" in schema else schema["allOf"][0]
    target["$ref"] = _REFS + component


def _request(title: str, input_name: str) -> _Json:
    properties = {"id": _string("Id"), "input": {"$ref": _REFS + input_name}}
    return {"title": title, "type": "object", "properties": properties}


def _response(title: str, input_name: str, output_name: str) -> _Json:
    times = ("created_at", "started_at", "completed_at")
    properties: _Json = {
        "input": {"$ref": _REFS + input_name},
        "output": {"$ref": _REFS + output_name},
        "id": _string("Id"),
        "version": _string("Version"),
        **{name: _string(_title(name), format="date-time") for name in times},
        **{name: _string(_title(name)) for name in ("status", "error", "logs")},
        "metrics": {"title": "Metrics", "type": "object"},
    }
    return {"title": title, "type": "object", "properties": properties}


def _paths(summary: str, job: str) -> _Json:
    word, jobs = summary.lower(), f"{job}s"
    id_name = f"{job}_id"
    id_schema = _string(_title(id_name))
    return {
        f"/{jobs}": {
            "post": {
                "summary": summary,
                "description": f"Run a single {job} on the model",
                "operationId": f"{word}_{jobs}_post",
                "requestBody": {"content": _json({"$ref": f"{_REFS}{job.title()}Request"})},
                "responses": _ok({"$ref": f"{_REFS}{job.title()}Response"}) | _INVALID,
            }
        },
        f"/{jobs}/{{{id_name}}}/cancel": {
            "post": {
                "summary": "Cancel",
                "operationId": f"cancel_{jobs}__{id_name}__cancel_post",
                "parameters": [
                    {"required": True, "schema": id_schema, "name": id_name, "in": "path"}
                ],
                "responses": _ok({}) | _INVALID,
            }
        },
    }


def _get(summary: str, operation: str) -> _Json:
    return {"get": {"summary": summary, "operationId": operation, "responses": _ok({})}}


def _ok(schema: _Json) -> _Json:
    return {"200": {"description": "Successful Response", "content": _json(schema)}}


def _json(schema: _Json) -> _Json:
    return {"application/json": {"schema": schema}}


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def _string(title: str, **more: str) -> _Json:
    return {"title": title, "type": "string", **more}


_ROOT = {"/": _get("Root", "root__get")}
_INVALID = {
    "422": {
        "description": "Validation Error",
        "content": _json({"$ref": f"{_REFS}HTTPValidationError"}),
    }
}
_RESERVED = {
    f"{kind}{part}"
    for kind in ("Prediction", "Training", "")
    for part in ("Input", "Output", "Request", "Response")
}
_SHARED: _Json = {
    "Status": {
        **_string("Status"),
        "description": "An enumeration.",
        "enum": ["starting", "processing", "succeeded", "canceled", "failed"],
    },
    "HTTPValidationError": {
        "title": "HTTPValidationError",
        "type": "object",
        "properties": {
            "detail": {
                "title": "Detail",
                "type": "array",
                "items": {"$ref": f"{_REFS}ValidationError"},
            }
        },
    },
    "ValidationError": {
        "title": "ValidationError",
        "required": ["loc", "msg", "type"],
        "type": "object",
        "properties": {
            "loc": {
                "title": "Location",
                "type": "array",
                "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            },
            "msg": _string("Message"),
            "type": _string("Error Type"),
        },
    },
}
