"""What Local Replicate reads from a folder with a Cog model, and whether coglet takes it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import jsonschema
import pytest

from prefect_replicate.local.openapi import worker_schema
from prefect_replicate.local.schema import BrokenModel, CogModel, inspect_folder

IMPORTS = """
from __future__ import annotations
import enum, pathlib, typing
from typing import Annotated, Any, AsyncIterator, Iterator, List, Optional, TypedDict
import pydantic
import cog
from cog import (AsyncConcatenateIterator, BaseModel, BasePredictor, ConcatenateIterator, File,
                 Input, Opaque, Path, Secret)
"""
HELLO = "def predict(text: str) -> str:\n    return 'hello ' + text\n"
FUNCTION = 'predict: "predict.py:predict"\n'


def write_model(folder: Path, predict: str = HELLO, config: str = FUNCTION, **files: str) -> Path:
    """A model folder; `files` are further modules by name."""
    sources = {"predict": predict, **files}
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(IMPORTS + source)
    (folder / "cog.yaml").write_text(config)
    return folder


def schemas(model: CogModel) -> dict[str, Any]:
    found: dict[str, Any] = model.openapi["components"]["schemas"]
    return found


# --- inputs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An input as a model declares it, and what the schema says of it."""

    declared: str
    expected: dict[str, Any]
    required: bool = True


URI = {"type": "string", "format": "uri"}
SECRET = {"type": "string", "format": "password", "writeOnly": True, "x-cog-secret": True}
NULLABLE = {"nullable": True}

# Titles and x-order come from the name and the place, and are checked for all rows together.
INPUTS = {
    "text": Row("str", {"type": "string"}),
    "count": Row("int", {"type": "integer"}),
    "scale": Row("float", {"type": "number"}),
    "flag": Row("bool", {"type": "boolean"}),
    "path": Row("Path", URI),
    "plain_path": Row("pathlib.Path", URI),
    "file": Row("File", URI),
    "secret": Row("Secret", SECRET),
    "anything": Row("Any", {"type": "object"}),
    "mapping": Row("dict", {"type": "object"}),
    "typed_mapping": Row("dict[str, int]", {"type": "object"}),
    "typed_dict": Row("Point", {"type": "object"}),
    "opaque": Row("Annotated[Unknown, Opaque]", {"type": "object"}),
    "annotated": Row("Annotated[int, 'pixels']", {"type": "integer"}),
    "texts": Row("list[str]", {"type": "array", "items": {"type": "string"}}),
    "typing_list": Row("List[int]", {"type": "array", "items": {"type": "integer"}}),
    "paths": Row("list[Path]", {"type": "array", "items": URI}),
    "bare_list": Row("list", {"type": "array", "items": {"type": "object"}}),
    "mappings": Row("list[dict]", {"type": "array", "items": {"type": "object"}}),
    "either": Row("int | str", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
    # Optional, with and without a default that is written down.
    "optional": Row("Optional[int]", {"type": "integer", **NULLABLE}, required=False),
    "pipe": Row("str | None", {"type": "string", **NULLABLE}, required=False),
    "optional_undecided": Row(
        "Optional[int] = Input(description='D')",
        {"type": "integer", "description": "D", **NULLABLE},
        required=False,
    ),
    "optional_none": Row(
        "Optional[Path] = Input(default=None)", {**URI, "default": None, **NULLABLE}, required=False
    ),
    "optional_list": Row(
        "Optional[list[str]] = None",
        {"type": "array", "items": {"type": "string"}, "default": None, **NULLABLE},
        required=False,
    ),
    "optional_default": Row(
        "Optional[int] = Input(default=3)",
        {"type": "integer", "default": 3, **NULLABLE},
        required=False,
    ),
    # None is no default unless the type allows it; a Secret is the exception.
    "none_path": Row("Path = Input(default=None)", URI),
    "none_int": Row("int = None", {"type": "integer"}),
    "none_secret": Row(
        "Secret = Input(default=None)", {**SECRET, "default": None, **NULLABLE}, required=False
    ),
    "none_secrets": Row("list[Secret] = None", {"type": "array", "items": SECRET}),
    "undecided_secret": Row("Secret = Input(description='K')", {**SECRET, "description": "K"}),
    # Defaults.
    "plain_default": Row("int = 3", {"type": "integer", "default": 3}, required=False),
    "zero": Row("int = Input(default=0)", {"type": "integer", "default": 0}, required=False),
    "no": Row("bool = False", {"type": "boolean", "default": False}, required=False),
    "list_default": Row(
        "list[str] = Input(default=['a'])",
        {"type": "array", "items": {"type": "string"}, "default": ["a"]},
        required=False,
    ),
    "path_default": Row(
        "Path = Input(default=Path('a.png'))", {**URI, "default": "a.png"}, required=False
    ),
    "enum_default": Row("str = Colour.RED", {"type": "string", "default": "red"}, required=False),
    # Constraints.
    "bounded": Row(
        "int = Input(default=5, ge=1, le=10)",
        {"type": "integer", "default": 5, "minimum": 1, "maximum": 10},
        required=False,
    ),
    "from_zero": Row("float = Input(ge=0)", {"type": "number", "minimum": 0}),
    "lengths": Row(
        "str = Input(min_length=2, max_length=5, regex='^a')",
        {"type": "string", "minLength": 2, "maxLength": 5, "pattern": "^a"},
    ),
    "old": Row("str = Input(deprecated=True)", {"type": "string", "deprecated": True}),
    "picture": Row("Path = Input(accept='image/*')", {**URI, "x-cog-accept": "image/*"}),
}
DECLARATIONS = """
class Colour(str, enum.Enum):
    RED = "red"
    BLUE = "blue"
class Point(TypedDict):
    x: int
class Unknown: ...
class Predictor(BasePredictor):
    def predict(self, *, {inputs}) -> str:
        return ""
"""
CHOICES = {
    "size": "str = Input(default='s', choices=['s', 'm'])",
    "number": "int = Input(choices=[1, 2])",
    "colour": "str = Input(choices=list(Colour))",
    "mode": "Optional[str] = Input(default=None, choices=['a', 'b'])",
    "tags": "list[str] = Input(default=['x'], choices=['x', 'y'])",
    "Output": "str = Input(default='o', choices=['o', 'p'])",
    "Output_choices": "str = Input(default='q', choices=['q', 'r'])",
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The schemas of one model with every kind of input."""
    declared = {name: row.declared for name, row in INPUTS.items()} | CHOICES
    inputs = ", ".join(f"{name}: {declaration}" for name, declaration in declared.items())
    folder = tmp_path_factory.mktemp("many")
    write_model(folder, DECLARATIONS.format(inputs=inputs), 'predict: "predict.py:Predictor"\n')
    return schemas(inspect_folder(folder))


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_of_each_type_has_the_schema_that_cog_gives_it(
    many: dict[str, Any], name: str
) -> None:
    found = dict(many["Input"]["properties"][name])
    title, order = found.pop("title"), found.pop("x-order")
    assert found == INPUTS[name].expected
    assert (name in many["Input"]["required"]) is INPUTS[name].required
    assert title == name.replace("_", " ").title()
    assert order == list(INPUTS).index(name)


def test_choices_are_an_enumeration_that_the_input_refers_to(many: dict[str, Any]) -> None:
    found = many["Input"]["properties"]["size"]
    assert found["allOf"] == [{"$ref": "#/components/schemas/size"}]
    assert found["default"] == "s"
    assert many["size"] == {
        "title": "size",
        "description": "An enumeration.",
        "enum": ["s", "m"],
        "type": "string",
    }
    assert many["number"]["enum"] == [1, 2]
    assert many["number"]["type"] == "integer"
    assert many["colour"]["enum"] == ["red", "blue"]


def test_choices_of_a_list_hold_for_each_item(many: dict[str, Any]) -> None:
    found = many["Input"]["properties"]["tags"]
    assert found["type"] == "array"
    assert found["items"] == {"$ref": "#/components/schemas/tags"}


def test_choices_never_take_the_place_of_another_component(many: dict[str, Any]) -> None:
    assert many["Output"] == {"title": "Output", "type": "string"}
    assert many["Input"]["properties"]["Output"]["allOf"] == [
        {"$ref": "#/components/schemas/Output_choices_choices"}
    ]
    assert many["Output_choices_choices"]["enum"] == ["o", "p"]
    assert many["Output_choices"]["enum"] == ["q", "r"]


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"size": "m", "bounded": 3, "tags": ["y"]}, []),
        ({"size": "xl"}, ["'xl' is not one of ['s', 'm']"]),
        ({"tags": ["x", "z"]}, ["'z' is not one of ['x', 'y']"]),
        ({"bounded": 99}, ["99 is greater than the maximum of 10"]),
    ],
)
def test_references_resolve_inside_the_document(
    many: dict[str, Any], given: dict[str, Any], refused: list[str]
) -> None:
    partial = {**many, "Input": {**many["Input"], "required": []}}
    document = {"components": {"schemas": partial}, "$ref": "#/components/schemas/Input"}
    errors = jsonschema.Draft202012Validator(document).iter_errors(given)
    assert [error.message for error in errors] == refused


def test_the_schema_of_hello_world_is_the_one_in_replicates_documentation(tmp_path: Path) -> None:
    source = """
class Predictor(BasePredictor):
    def setup(self):
        self.prefix = "hello"
    def predict(self, text: str = Input(description="Text to prefix with 'hello '")) -> str:
        return self.prefix + " " + text
"""
    model = inspect_folder(write_model(tmp_path, source, 'predict: "predict.py:Predictor"\n'))
    # https://replicate.com/docs/reference/http#models.versions.get
    assert schemas(model)["Input"] == {
        "type": "object",
        "title": "Input",
        "required": ["text"],
        "properties": {
            "text": {
                "x-order": 0,
                "type": "string",
                "title": "Text",
                "description": "Text to prefix with 'hello '",
            }
        },
    }
    assert schemas(model)["Output"] == {"type": "string", "title": "Output"}


# --- outputs ---------------------------------------------------------------------------------

OBJECTS = """
class Inner(BaseModel):
    score: float
class Node(BaseModel):
    name: str
    children: list[Node]
class Checked(pydantic.BaseModel):
    name: str
    score: Optional[float] = None
    inners: list[str] = pydantic.Field(default_factory=list)
class Keys(TypedDict):
    must: int
    may: typing.NotRequired[str]
class Unknown: ...
"""
INNER = {
    "type": "object",
    "properties": {"score": {"type": "number", "title": "Score"}},
    "required": ["score"],
}
# What a field of an output object says, its title left out.
OUTPUTS = {
    "text": Row("str", {"type": "string"}),
    "count": Row("int", {"type": "integer"}),
    "scale": Row("float", {"type": "number"}),
    "flag": Row("bool", {"type": "boolean"}),
    "path": Row("Path", URI),
    "file": Row("File", URI),
    "anything": Row("Any", {"type": "object"}),
    "mapping": Row("dict", {"type": "object"}),
    "opaque": Row("Annotated[Unknown, Opaque]", {"type": "object"}),
    "annotated": Row("Annotated[int, 'pixels']", {"type": "integer"}),
    "paths": Row("list[Path]", {"type": "array", "items": URI}),
    "bare_list": Row("list", {"type": "array", "items": {"type": "object"}}),
    "scores": Row(
        "dict[str, list[float]]",
        {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "number"}}},
    ),
    "inner": Row("Inner", INNER),
    "inners": Row("list[Inner]", {"type": "array", "items": INNER}),
    "cyclic": Row(
        "Node",
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "title": "Name"},
                "children": {"type": "array", "items": {"type": "object"}, "title": "Children"},
            },
            "required": ["name", "children"],
        },
    ),
    "of_pydantic": Row(
        "Checked",
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "title": "Name"},
                "score": {"type": "number", "title": "Score", "nullable": True},
                "inners": {"type": "array", "items": {"type": "string"}, "title": "Inners"},
            },
            "required": ["name"],
        },
    ),
    "typed_dict": Row(
        "Keys",
        {
            "type": "object",
            "properties": {
                "must": {"type": "integer", "title": "Must"},
                "may": {"type": "string", "title": "May"},
            },
            "required": ["must"],
        },
    ),
    "optional": Row("Optional[Path]", {**URI, "nullable": True}, required=False),
    "pipe": Row("str | None", {"type": "string", "nullable": True}, required=False),
    "best": Row("int = 3", {"type": "integer"}, required=False),
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The schema of an output object with a field of every type."""
    fields = "\n".join(f"    {name}: {row.declared}" for name, row in OUTPUTS.items())
    source = f"{OBJECTS}class Result(BaseModel):\n{fields}\ndef predict() -> Result: ..."
    model = inspect_folder(write_model(tmp_path_factory.mktemp("result"), source))
    assert not model.streams
    found: dict[str, Any] = schemas(model)["Output"]
    return found


def test_an_output_object_is_an_object_named_output(result: dict[str, Any]) -> None:
    assert result["title"] == "Output"
    assert result["type"] == "object"
    assert list(result["properties"]) == list(OUTPUTS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_of_each_type_has_the_schema_that_cog_gives_it(
    result: dict[str, Any], name: str
) -> None:
    title = name.replace("_", " ").title()
    assert result["properties"][name] == {**OUTPUTS[name].expected, "title": title}
    assert (name in result["required"]) is OUTPUTS[name].required


ITERATOR = {"type": "array", "items": {"type": "string"}, "x-cog-array-type": "iterator"}
CONCATENATED = {**ITERATOR, "x-cog-array-display": "concatenate"}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Iterator[str]", ITERATOR),
        ("Iterator[Path]", {**ITERATOR, "items": URI}),
        ("AsyncIterator[str]", ITERATOR),
        ("ConcatenateIterator[str]", CONCATENATED),
        ("AsyncConcatenateIterator[str]", CONCATENATED),
    ],
)
def test_an_output_that_is_an_iterator_is_an_array_that_streams(
    tmp_path: Path, output: str, expected: dict[str, Any]
) -> None:
    model = inspect_folder(write_model(tmp_path, f"def predict() -> {output}: ..."))
    assert schemas(model)["Output"] == {"title": "Output", **expected}
    assert model.streams


# --- kinds of predictors and trainings -------------------------------------------------------


PREDICTORS = {
    "predict method": "class It(BasePredictor):\n    def predict(self, a: str) -> str: ...",
    "run method": "class It(cog.BaseRunner):\n    def run(self, a: str) -> str: ...",
    "async method": "class It:\n    async def run(self, a: str) -> str: ...",
    "function": "def It(a: str) -> str: ...",
    "async function": "async def It(a: str) -> str: ...",
}


@pytest.mark.parametrize("kind", PREDICTORS)
def test_a_predictor_is_a_class_or_a_function(tmp_path: Path, kind: str) -> None:
    model = inspect_folder(write_model(tmp_path, PREDICTORS[kind], 'predict: "predict.py:It"\n'))
    assert model.predict == "predict.py:It"
    assert list(schemas(model)["Input"]["properties"]) == ["a"]
    assert model.concurrency == 1
    assert model.train is None
    assert "/trainings" not in model.openapi["paths"]


def test_cog_yaml_may_say_run_in_place_of_predict(tmp_path: Path) -> None:
    assert inspect_folder(write_model(tmp_path, config="run: predict.py:predict")).predict == (
        "predict.py:predict"
    )


TRAINING_OUTPUT = "class TrainingOutput(BaseModel):\n    weights: Path\n"
TRAINERS = {
    "function": "def train(data: Path, steps: int = 3) -> TrainingOutput: ...",
    "class": """
class train(BasePredictor):
    def predict(self, unrelated: str) -> str: ...
    def train(self, data: Path, steps: int = 3) -> TrainingOutput: ...
""",
}


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_training_is_described_beside_the_prediction(tmp_path: Path, kind: str) -> None:
    config = FUNCTION + 'train: "train.py:train"\n'
    write_model(tmp_path, HELLO, config, train=TRAINING_OUTPUT + TRAINERS[kind])
    model = inspect_folder(tmp_path)
    assert model.train == "train.py:train"
    assert list(schemas(model)["Input"]["properties"]) == ["text"]
    assert schemas(model)["TrainingInput"]["title"] == "TrainingInput"
    assert list(schemas(model)["TrainingInput"]["properties"]) == ["data", "steps"]
    assert schemas(model)["TrainingInput"]["required"] == ["data"]
    assert schemas(model)["TrainingOutput"]["properties"]["weights"]["format"] == "uri"
    assert set(model.openapi["paths"]) == {
        "/",
        "/health-check",
        "/predictions",
        "/predictions/{prediction_id}/cancel",
        "/trainings",
        "/trainings/{training_id}/cancel",
    }


def test_a_training_keeps_its_own_choices_for_an_input_of_the_same_name(tmp_path: Path) -> None:
    predict = "def predict(size: str = Input(choices=['a', 'b'])) -> str: ..."
    train = "def train(size: str = Input(choices=['c', 'd'])) -> str: ..."
    config = FUNCTION + 'train: "train.py:train"\n'
    found = schemas(inspect_folder(write_model(tmp_path, predict, config, train=train)))
    for kind, choices in {"Input": ["a", "b"], "TrainingInput": ["c", "d"]}.items():
        reference = found[kind]["properties"]["size"]["allOf"][0]["$ref"]
        assert found[reference.rpartition("/")[2]]["enum"] == choices


@pytest.mark.parametrize(
    ("decorator", "config", "expected"),
    [
        ("", "concurrency:\n  max: 4\n", 4),
        ("@cog.concurrent(max=8)\n", "", 8),
        ("@cog.concurrent(max=8)\n", "concurrency:\n  max: 4\n", 8),
    ],
)
def test_concurrency_is_the_decorators_or_else_that_of_cog_yaml(
    tmp_path: Path, decorator: str, config: str, expected: int
) -> None:
    source = f"{decorator}async def predict() -> str: ..."
    assert inspect_folder(write_model(tmp_path, source, FUNCTION + config)).concurrency == expected


# --- how the model's code is run -------------------------------------------------------------


def test_model_code_sees_no_token_and_no_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = ("REPLICATE_API_TOKEN", "PREFECT_API_KEY", "SENTRY_DSN", "AWS_SECRET_ACCESS_KEY")
    for name in (*private, "HARMLESS_SETTING", "LANGUAGE"):
        monkeypatch.setenv(name, "only in this test")
    source = """
import os
SEEN = [name for name, value in os.environ.items() if value == "only in this test"]
def predict(seen: list[str] = Input(default=SEEN)) -> str: ...
"""
    found = schemas(inspect_folder(write_model(tmp_path, source)))["Input"]
    assert found["properties"]["seen"]["default"] == ["LANGUAGE"]


def test_reading_a_model_writes_nothing_into_its_folder(tmp_path: Path) -> None:
    write_model(tmp_path, f"import helper\n{HELLO}", helper="")
    before = sorted(tmp_path.rglob("*"))
    inspect_folder(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_may_print_start_threads_and_have_modules_named_like_ours(tmp_path: Path) -> None:
    source = """
import subprocess, threading, time
import engine, schema
print("loading", flush=True)
threading.Thread(target=time.sleep, args=(600,)).start()
subprocess.Popen(["sleep", "600"])
def predict(text: str = schema.DEFAULT) -> str: ...
"""
    write_model(tmp_path, source, schema="DEFAULT = 'mine'", engine="")
    found = schemas(inspect_folder(tmp_path))["Input"]
    assert found["properties"]["text"]["default"] == "mine"


# --- broken folders --------------------------------------------------------------------------

TRAIN = 'train: "train.py:train"\n'
BROKEN_CONFIGS = {
    "": ["cog.yaml is not a mapping"],
    "predict: [": ["cog.yaml cannot be read", "while parsing"],
    "build: {}": ["names no predictor", 'predict: "predict.py:Predictor"'],
    "predict: predict.py": ["predict in cog.yaml is 'predict.py'", '"file.py:Name"'],
    "predict: 3": ["predict in cog.yaml is 3"],
    "predict: other.py:Predictor": ["other.py, which is not there"],
    "predict: ../predict.py:Predictor": ["../predict.py, which is not there"],
    "predict: a.py:A\nrun: b.py:B": ["both predict and run", "Remove one"],
    FUNCTION + TRAIN: ["train in cog.yaml names train.py", "not there"],
    FUNCTION + "concurrency:\n  max: 0.5\n": ["concurrency.max in cog.yaml is 0.5"],
    FUNCTION + "concurrency:\n  max: 4\n": ["4 predictions at a time", "not async"],
}


@pytest.mark.parametrize("config", BROKEN_CONFIGS)
def test_a_report_on_a_wrong_cog_yaml_says_what_to_write(tmp_path: Path, config: str) -> None:
    with pytest.raises(BrokenModel) as raised:
        inspect_folder(write_model(tmp_path, HELLO, config))
    for words in (str(tmp_path), *BROKEN_CONFIGS[config]):
        assert words in str(raised.value)


def test_a_report_on_a_missing_cog_yaml_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BrokenModel, match=r"has no cog\.yaml") as raised:
        inspect_folder(tmp_path / "nowhere")
    assert raised.value.folder == tmp_path / "nowhere"


BROKEN_CODE = {
    "import absent_package": ["No module named 'absent_package'", "Install", sys.executable],
    "def predict(:": ["SyntaxError", "predict.py", "def predict(:"],
    "def load():\n    1 / 0\nload()": ["ZeroDivisionError", "line", "in load"],
    "import sys; sys.exit(3)": ["SystemExit: 3"],
    "import os, sys; print('out of memory', file=sys.stderr); os.abort()": ["out of memory", "-6"],
    "predict = 3": ["predict.py:predict is neither a class nor a function"],
    "def other() -> str: ...": ["predict.py defines no 'predict'"],
    "class predict: ...": ["run or predict method not found"],
    "class predict:\n    def run(self) -> str: ...\n    def predict(self) -> str: ...": [
        "not both"
    ],
    "def predict(a) -> str: ...": ["predict.py: predict(): input 'a' has no type"],
    "def predict(a: set[int]) -> str: ...": ["input 'a'", "set[int]", "not support"],
    "def predict(a: list[list[int]]) -> str: ...": ["input 'a'", "list[list[int]]"],
    "def predict(a: Missing) -> str: ...": ["input 'a'", "Missing"],
    "def predict(*args: int) -> str: ...": ["'*args'", "functools.wraps"],
    "def predict(a: float = float('nan')) -> str: ...": ["default of input 'a'", "JSON"],
    "def predict(a: dict = {'k': object}) -> str: ...": ["default of input 'a'", "JSON"],
    "def predict(a: str): ...": ["does not say what it returns"],
    "def predict() -> Optional[str]: ...": ["returns Optional[str]", "never None"],
    "def predict() -> object: ...": ["returns object"],
    "def predict() -> ConcatenateIterator[int]: ...": ["only str can be concatenated"],
    "def predict() -> Iterator: ...": ["says what it yields"],
}


@pytest.mark.parametrize("source", BROKEN_CODE)
def test_a_report_on_wrong_code_names_the_place_and_the_remedy(tmp_path: Path, source: str) -> None:
    with pytest.raises(BrokenModel) as raised:
        inspect_folder(write_model(tmp_path, source))
    for words in BROKEN_CODE[source]:
        assert words in str(raised.value)


def test_a_training_class_that_cog_cannot_run_is_reported(tmp_path: Path) -> None:
    only_predict = "class train:\n    def predict(self) -> str: ..."
    write_model(tmp_path, HELLO, FUNCTION + TRAIN, train=only_predict)
    with pytest.raises(BrokenModel, match=r"train\.py:train has no method train"):
        inspect_folder(tmp_path)
    write_model(
        tmp_path, train="class train:\n    def train(self) -> str: ...", config=FUNCTION + TRAIN
    )
    with pytest.raises(BrokenModel, match="beside train"):
        inspect_folder(tmp_path)


def test_an_import_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    source = "import sys, time\nprint('downloading', file=sys.stderr, flush=True)\ntime.sleep(600)"
    with pytest.raises(BrokenModel, match="does not end") as raised:
        inspect_folder(write_model(tmp_path, source), timeout=1.5)
    assert "setup()" in raised.value.advice
    assert raised.value.detail == "downloading"


def test_an_interpreter_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BrokenModel, match="cannot be started"):
        inspect_folder(write_model(tmp_path), python=str(tmp_path / "python"))


def test_a_report_fits_on_one_screen(tmp_path: Path) -> None:
    source = "def deep(n):\n    return deep(n - 1) if n else 1 / 0\nTEXT = 'x' * 9999\ndeep(200)"
    with pytest.raises(BrokenModel) as raised:
        inspect_folder(write_model(tmp_path, source))
    assert len(str(raised.value).splitlines()) < 24
    with pytest.raises(BrokenModel) as raised:
        inspect_folder(write_model(tmp_path, "raise ValueError('y' * 9999)"))
    assert len(str(raised.value)) < 1500


def test_a_report_pickles() -> None:
    error = BrokenModel(Path("model"), "it is broken", "Mend it.", "line 1\nline 2")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.folder, copy.detail) == (str(error), error.folder, error.detail)


def test_the_module_is_importable_where_cog_is_not() -> None:
    code = "import sys; sys.modules['cog'] = None; import prefect_replicate.local.schema"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- a real worker ---------------------------------------------------------------------------


@contextlib.contextmanager
def coglet(
    folder: Path, ref: str, schema: dict[str, Any], mode: Literal["predict", "train"]
) -> Iterator[httpx.Client]:
    """A client of a coglet worker that is ready and has `schema`."""
    (folder / ".cog").mkdir(exist_ok=True)
    (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(schema))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stub = "COG_PREDICT_TYPE_STUB" if mode == "predict" else "COG_TRAIN_TYPE_STUB"
    # coglet starts its worker as a bare "python".
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1", "--x-mode", mode],
        cwd=folder,
        env={"PATH": path, "PORT": str(port), stub: ref},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until_ready(client)
            yield client
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    status = "not answering"
    while status != "READY":
        assert time.monotonic() < deadline, f"coglet is {status}"
        time.sleep(0.05)
        with contextlib.suppress(httpx.TransportError):
            status = client.get("/health-check").json()["status"]


def events(client: httpx.Client, **inputs: object) -> list[tuple[str, dict[str, Any]]]:
    """The server-sent events of one job."""
    # The slot of the job before is freed some milliseconds after its answer.
    for _ in range(100):
        answer = client.post(
            "/predictions", json={"input": inputs}, headers={"Accept": "text/event-stream"}
        )
        if answer.status_code != httpx.codes.CONFLICT:
            break
        time.sleep(0.02)
    assert answer.status_code == httpx.codes.OK, answer.text
    pairs = (event.split("\ndata: ", 1) for event in answer.text.strip().split("\n\n"))
    return [(name.removeprefix("event: "), json.loads(data)) for name, data in pairs]


def refusals(client: httpx.Client, **inputs: object) -> list[tuple[str, str]]:
    answer = client.post("/predictions", json={"input": inputs})
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY, answer.text
    return [(error["loc"][-1], error["msg"]) for error in answer.json()["detail"]]


def test_coglet_validates_and_streams_by_the_schema_it_is_given(tmp_path: Path) -> None:
    source = """
class Predictor(BasePredictor):
    def predict(
        self,
        text: str,
        n: int = Input(default=1, ge=1, le=10),
        size: str = Input(default="s", choices=["s", "m"]),
        seed: Optional[int] = Input(default=None),
        mode: Optional[str] = Input(default=None, choices=["a", "b"]),
        tags: list[str] = Input(default=["x"], choices=["x", "y"]),
    ) -> str:
        print("size", size)
        return f"{text} {n} {seed} {mode} {tags}"
"""
    model = inspect_folder(write_model(tmp_path, source, 'predict: "predict.py:Predictor"\n'))
    schema = worker_schema(model.openapi, "predict")
    with coglet(tmp_path, model.predict, schema, "predict") as client:
        assert client.get("/openapi.json").json() == schema
        assert refusals(client, n=99) == [
            ("n", "99 is greater than the maximum of 10"),
            ("text", "Field required"),
        ]
        assert refusals(client, text="t", size="xl") == [
            ("size", '"xl" is not one of ["s","m"]'),
        ]
        assert refusals(client, text="t", tags=["z"]) == [
            ("tags/0", '"z" is not one of ["x","y"]'),
        ]
        found = events(client, text="t", n=2, seed=None, mode="b", tags=["y"])
        assert [name for name, _ in found] == ["start", "log", "output", "completed"]
        assert found[1][1] == {"source": "stdout", "data": "size s\n"}
        assert found[3][1]["status"] == "succeeded"
        assert found[3][1]["output"] == "t 2 None b ['y']"


def test_coglet_trains_and_streams_by_the_schema_it_is_given(tmp_path: Path) -> None:
    train = """
class TrainingOutput(BaseModel):
    weights: str
def train(data: str, size: str = Input(default="c", choices=["c", "d"])) -> TrainingOutput:
    print("training on", data)
    return TrainingOutput(weights=data + size)
"""
    predict = "def predict(size: str = Input(choices=['a', 'b'])) -> str: return 'no training'"
    write_model(tmp_path, predict, FUNCTION + TRAIN, train=train)
    model = inspect_folder(tmp_path)
    assert model.train
    schema = worker_schema(model.openapi, "train")
    with coglet(tmp_path, model.train, schema, "train") as client:
        assert refusals(client, size="a") == [
            ("size", '"a" is not one of ["c","d"]'),
            ("data", "Field required"),
        ]
        found = events(client, data="rows", size="d")
        assert [name for name, _ in found] == ["start", "log", "output", "completed"]
        assert found[1][1]["data"] == "training on rows\n"
        assert found[3][1]["output"] == {"weights": "rowsd"}


def test_the_workers_schema_leaves_the_public_one_as_it_was(tmp_path: Path) -> None:
    model = inspect_folder(write_model(tmp_path, "def predict(a: Optional[int]) -> str: ..."))
    before = json.dumps(model.openapi)
    worker_schema(model.openapi, "predict")
    assert json.dumps(model.openapi) == before
    with pytest.raises(ValueError, match="describes no training"):
        worker_schema(model.openapi, "train")
