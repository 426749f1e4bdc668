"""Every type that Cog documents, pushed, shown in the version's schema, and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefect_replicate.local import LocalReplicate
from tests.local.conftest import Api

IMPORTS = """
import asyncio, io, pathlib
from typing import Any, AsyncIterator, Dict, Iterator, List, Optional, Union
import pydantic
import cog
from cog import (AsyncConcatenateIterator, BaseModel, BasePredictor, ConcatenateIterator, File,
                 Input, Path, Secret)

def file(name, text):
    path = Path(name)
    path.write_text(text)
    return path
"""
Push = Callable[..., str]


@pytest.fixture(scope="module")
def push(server: LocalReplicate, tmp_path_factory: pytest.TempPathFactory) -> Push:
    """Publishes a source whose predictor is called predict, and its trainer, if any, train."""

    def publish(source: str, name: str, *, config: str = "") -> str:
        folder = tmp_path_factory.mktemp(name)
        (folder / "cog.yaml").write_text(f'predict: "predict.py:predict"\n{config}')
        (folder / "predict.py").write_text(IMPORTS + source)
        return server.push(folder, f"types/{name}")

    return publish


def schemas(api: Api, version: str) -> dict[str, Any]:
    """What the API shows of a version's types."""
    model, _, number = version.partition(":")
    shown = api.http.get(f"/models/{model}/versions/{number}").json()
    found: dict[str, Any] = shown["openapi_schema"]["components"]["schemas"]
    return found


def finished(api: Api, version: str, **input: Any) -> dict[str, Any]:
    """A prediction that has succeeded."""
    run = api.end(api.predict(version, **input))
    assert run["status"] == "succeeded", run["error"]
    return run


def fetched(output: Any) -> Any:
    """An output in which each file stands as its extension and its content."""
    if isinstance(output, list):
        return [fetched(item) for item in output]
    if isinstance(output, dict):
        return {name: fetched(item) for name, item in output.items()}
    if isinstance(output, str) and output.startswith("http"):
        return f"{Path(output).suffix} {httpx.get(output).text}"
    return output


# --- inputs ----------------------------------------------------------------------------------

# It answers with the type and the value of everything that it was given.
TAKER = """
def told(value):
    if isinstance(value, list):
        return [told(item) for item in value]
    if isinstance(value, Secret):
        return f"Secret {value.get_secret_value()}, shown as {value}"
    if isinstance(value, pathlib.Path):
        return f"{type(value).__name__} {value.suffix} {value.read_text()}"
    if hasattr(value, "read"):
        return f"File {value.read().decode()}"
    return value if isinstance(value, dict) else f"{type(value).__name__} {value}"

class predict(BasePredictor):
    def predict(
        self,
        text: str = Input(default="a", min_length=1, max_length=3, regex="^[a-z]+$"),
        count: int = Input(default=1, ge=0, le=5),
        scale: float = Input(default=0.5, ge=0.25, le=2),
        flag: bool = Input(default=False),
        plain: int = 7,
        size: str = Input(default="s", choices=["s", "m"]),
        number: int = Input(default=2, choices=[1, 2]),
        texts: List[str] = Input(default=["x"]),
        numbers: list[int] = Input(default=[1, 2]),
        tags: list[str] = Input(default=["p"], choices=["p", "q"]),
        optional: Optional[int] = None,
        pipe: str | None = Input(default=None, max_length=3),
        optional_default: Optional[str] = Input(default="d"),
        optional_undecided: Optional[int] = Input(description="nothing else"),
        optional_choice: Optional[str] = Input(default=None, choices=["f", "g"]),
        optional_list: Optional[list[str]] = None,
        anything: Optional[Any] = None,
        mapping: dict = Input(default={}),
        typed_mapping: Dict[str, int] = {"a": 1},
        mappings: list[dict] = Input(default=[]),
        either: Union[int, str] = Input(default=1),
        secret: Secret = Input(default=None),
        optional_secret: Optional[Secret] = None,
        path: Optional[Path] = Input(default=None, accept="image/*"),
        paths: list[Path] = Input(default=[]),
        handle: Optional[File] = Input(default=None),
        old: str = Input(default="o", deprecated=True),
    ) -> dict:
        return {name: told(value) for name, value in locals().items() if name != "self"}
"""
DEFAULTS = {
    "text": "str a",
    "count": "int 1",
    "scale": "float 0.5",
    "flag": "bool False",
    "plain": "int 7",
    "size": "str s",
    "number": "int 2",
    "texts": ["str x"],
    "numbers": ["int 1", "int 2"],
    "tags": ["str p"],
    "optional": "NoneType None",
    "pipe": "NoneType None",
    "optional_default": "str d",
    "optional_undecided": "NoneType None",
    "optional_choice": "NoneType None",
    "optional_list": "NoneType None",
    "anything": "NoneType None",
    "mapping": {},
    "typed_mapping": {"a": 1},
    "mappings": [],
    "either": "int 1",
    "secret": "NoneType None",
    "optional_secret": "NoneType None",
    "path": "NoneType None",
    "paths": [],
    "handle": "NoneType None",
    "old": "str o",
}
# What is sent, and what arrives of it.
GIVEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"text": "abc", "count": 5, "scale": 2.0}, {"text": "str abc", "scale": "float 2.0"}),
    ({"flag": True, "plain": -1}, {"flag": "bool True", "plain": "int -1"}),
    ({"size": "m", "number": 1}, {"size": "str m", "number": "int 1"}),
    ({"texts": ["y", "z"], "numbers": []}, {"texts": ["str y", "str z"], "numbers": []}),
    ({"tags": ["q", "p"]}, {"tags": ["str q", "str p"]}),
    ({"optional": 3, "pipe": "abc"}, {"optional": "int 3", "pipe": "str abc"}),
    ({"optional_default": None}, {"optional_default": "NoneType None"}),
    ({"optional": None, "path": None}, {"optional": "NoneType None", "path": "NoneType None"}),
    ({"optional_undecided": 4}, {"optional_undecided": "int 4"}),
    ({"optional_choice": "g"}, {"optional_choice": "str g"}),
    ({"optional_list": ["y"]}, {"optional_list": ["str y"]}),
    ({"anything": {"a": [None, {}]}}, {"anything": {"a": [None, {}]}}),
    ({"mapping": {"b": 1}, "typed_mapping": {}}, {"mapping": {"b": 1}, "typed_mapping": {}}),
    ({"mappings": [{"b": 1}]}, {"mappings": [{"b": 1}]}),
    ({"either": "one"}, {"either": "str one"}),
    ({"either": 3}, {"either": "int 3"}),
    ({"secret": "s"}, {"secret": "Secret s, shown as **********"}),
    ({"optional_secret": "t"}, {"optional_secret": "Secret t, shown as **********"}),
    ({"path": "data:text/plain,one"}, {"path": "Path .txt one"}),
    ({"paths": ["data:text/plain,1"]}, {"paths": ["Path .txt 1"]}),
    ({"handle": "data:text/plain,two"}, {"handle": "File two"}),
    ({"old": "x"}, {"old": "str x"}),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"text": ""}, "input.text: String length must be greater than or equal to 1"),
    ({"text": "abcd"}, "input.text: String length must be less than or equal to 3"),
    ({"text": "A"}, "input.text: Does not match pattern '^[a-z]+$'"),
    ({"text": None}, "input.text: Invalid type. Expected: string, given: null"),
    ({"count": 6}, "input.count: Must be less than or equal to 5"),
    ({"count": -1}, "input.count: Must be greater than or equal to 0"),
    ({"count": 1.5}, "input.count: Invalid type. Expected: integer, given: number"),
    ({"count": True}, "input.count: Invalid type. Expected: integer, given: boolean"),
    ({"scale": 0.2}, "input.scale: Must be greater than or equal to 0.25"),
    ({"flag": "yes"}, "input.flag: Invalid type. Expected: boolean, given: string"),
    ({"size": "l"}, 'input.size: size must be one of the following: "s", "m"'),
    ({"number": 3}, 'input.number: number must be one of the following: "1", "2"'),
    ({"texts": "x"}, "input.texts: Invalid type. Expected: array, given: string"),
    ({"numbers": ["1"]}, "input.numbers.0: Invalid type. Expected: integer, given: string"),
    ({"tags": ["z"]}, 'must be one of the following: "p", "q"'),
    ({"pipe": "abcd"}, "input.pipe: String length must be less than or equal to 3"),
    ({"optional_choice": "z"}, 'must be one of the following: "f", "g"'),
    ({"anything": "text"}, "input.anything: Invalid type. Expected: object, given: string"),
    ({"mappings": [1]}, "input.mappings.0: Invalid type. Expected: object, given: integer"),
    ({"either": 1.5}, "input.either: Invalid type. Expected: integer, given: number"),
    ({"path": "/etc/hostname"}, "input.path: Does not match format 'uri'"),
    ({"handle": "file:///etc/hostname"}, "input.handle: Does not match format 'uri'"),
]


@pytest.fixture(scope="module")
def taker(push: Push) -> str:
    return push(TAKER, "taker")


def test_what_is_not_given_is_the_default(api: Api, taker: str) -> None:
    assert finished(api, taker)["output"] == DEFAULTS


def test_what_has_a_default_is_not_required_and_its_schema_shows_the_default(
    api: Api, taker: str
) -> None:
    shown = schemas(api, taker)["Input"]
    assert "required" not in shown
    assert list(shown["properties"]) == list(DEFAULTS)
    defaults = {name: each.get("default", ...) for name, each in shown["properties"].items()}
    assert defaults["typed_mapping"] == {"a": 1}
    assert [name for name, default in defaults.items() if default is ...] == ["optional_undecided"]
    assert shown["properties"]["old"]["deprecated"] is True
    assert shown["properties"]["secret"]["x-cog-secret"] is True


@pytest.mark.parametrize(("given", "arrived"), GIVEN, ids="-".join)
def test_an_input_of_each_type_arrives(
    api: Api, taker: str, given: dict[str, Any], arrived: dict[str, Any]
) -> None:
    output = finished(api, taker, **given)["output"]
    assert {name: output[name] for name in arrived} == arrived
    untouched = DEFAULTS.keys() - given.keys()
    assert {name: output[name] for name in untouched} == {
        name: DEFAULTS[name] for name in untouched
    }


@pytest.mark.parametrize(("given", "says"), REFUSED)
def test_an_input_that_its_type_does_not_admit_is_refused(
    api: Api, taker: str, given: dict[str, Any], says: str
) -> None:
    refused = api.http.post("/predictions", json={"version": taker, "input": given})
    assert refused.status_code == 422
    assert says in refused.json()["detail"]


def test_uploaded_files_arrive_with_their_names(api: Api, taker: str) -> None:
    files = [api.upload(text.encode(), f"{text}.txt")["urls"]["get"] for text in ("one", "two")]
    output = finished(api, taker, path=files[0], paths=files, handle=files[1])["output"]
    assert output["path"] == "Path .txt one"
    assert output["paths"] == ["Path .txt one", "Path .txt two"]
    assert output["handle"] == "File two"


def test_secrets_reach_the_model_only(api: Api, taker: str) -> None:
    run = finished(api, taker, secret="my key", optional_secret="another")
    assert run["input"] == {"secret": "[REDACTED]", "optional_secret": "[REDACTED]"}


# --- outputs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A return type: what the function does, what the schema says of it, what clients get."""

    body: str
    schema: dict[str, Any]
    output: Any
    before: str = ""


URI = {"type": "string", "format": "uri"}
STREAMED = {"x-cog-array-type": "iterator"}
CONCATENATED = {**STREAMED, "x-cog-array-display": "concatenate"}
TEXT, WHOLE, OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "object"}


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


RESULT = """
class Inner(BaseModel):
    score: float
    picture: Path

class Output(BaseModel):
    text: str
    path: Path
    inner: Inner
    inners: list[Inner]
    handle: File
    absent: Optional[Path] = None
    note: Optional[str] = None
    rank: int = 3
"""
PYDANTIC = """
class Output(pydantic.BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    text: str
    path: Optional[Path] = None
"""
INNER = {
    "type": "object",
    "properties": {"score": {"title": "Score", "type": "number"}, "picture": {"title": "Picture"}},
    "required": ["score", "picture"],
}
INNER["properties"]["picture"] |= URI  # type: ignore[index] # the values of INNER are of many types
FORMS = {
    "str": Form("return 'a'", TEXT, "a"),
    "int": Form("return 3", WHOLE, 3),
    "float": Form("return 0.5", {"type": "number"}, 0.5),
    "bool": Form("return True", {"type": "boolean"}, output=True),
    "Path": Form("return file('a.txt', 'A')", URI, ".txt A"),
    "File": Form("return io.BytesIO(b'A')", URI, ".bin A"),
    "dict": Form("return {'a': [1, None, {'b': 2.5}]}", OBJECT, {"a": [1, None, {"b": 2.5}]}),
    "Any": Form("return [1, 'a']", OBJECT, [1, "a"]),
    "dict[str, int]": Form(
        "return {'a': 1}", {"type": "object", "additionalProperties": WHOLE}, {"a": 1}
    ),
    "List[str]": Form("return ['a', 'b']", array(TEXT), ["a", "b"]),
    "List[Path]": Form(
        "return [file(f'{n}.txt', str(n)) for n in range(12)]",
        array(URI),
        [f".txt {n}" for n in range(12)],
    ),
    "list[File]": Form(
        "return [io.BytesIO(b'A'), io.BytesIO(b'B')]", array(URI), [".bin A", ".bin B"]
    ),
    "Iterator[str]": Form("yield 'a'; yield 'b'", array(TEXT) | STREAMED, ["a", "b"]),
    "Iterator[int]": Form("yield 1; yield 2", array(WHOLE) | STREAMED, [1, 2]),
    "Iterator[Path]": Form(
        "yield file('1.txt', 'A'); yield file('2.txt', 'B')",
        array(URI) | STREAMED,
        [".txt A", ".txt B"],
    ),
    "ConcatenateIterator[str]": Form(
        "yield 'a'; yield 'b'", array(TEXT) | CONCATENATED, ["a", "b"]
    ),
    "AsyncIterator[Path]": Form(
        "yield file('1.txt', 'A'); await asyncio.sleep(0); yield file('2.txt', 'B')",
        array(URI) | STREAMED,
        [".txt A", ".txt B"],
    ),
    "AsyncConcatenateIterator[str]": Form(
        "yield 'a'; await asyncio.sleep(0); yield 'b'", array(TEXT) | CONCATENATED, ["a", "b"]
    ),
    "Output": Form(
        "inner = Inner(score=0.5, picture=file('i.txt', 'I')); "
        "return Output(text='t', path=file('p.txt', 'P'), inner=inner, inners=[inner, inner],"
        " handle=io.BytesIO(b'H'), note='n')",
        {
            "type": "object",
            "properties": {
                "text": {"title": "Text", **TEXT},
                "path": {"title": "Path", **URI},
                "inner": {"title": "Inner", **INNER},
                "inners": {"title": "Inners", **array(INNER)},
                "handle": {"title": "Handle", **URI},
                "absent": {"title": "Absent", **URI, "nullable": True},
                "note": {"title": "Note", **TEXT, "nullable": True},
                "rank": {"title": "Rank", **WHOLE},
            },
            "required": ["text", "path", "inner", "inners", "handle"],
        },
        {
            "text": "t",
            "path": ".txt P",
            "inner": {"score": 0.5, "picture": ".txt I"},
            "inners": [{"score": 0.5, "picture": ".txt I"}] * 2,
            "handle": ".bin H",
            "absent": None,
            "note": "n",
            "rank": 3,
        },
        before=RESULT,
    ),
    "Iterator[Output]": Form(
        "yield Output(text='t'); yield Output(text='u', path=file('p.txt', 'P'))",
        array(
            {
                "type": "object",
                "properties": {
                    "text": {"title": "Text", **TEXT},
                    "path": {"title": "Path", **URI, "nullable": True},
                },
                "required": ["text"],
            }
        )
        | STREAMED,
        [{"text": "t", "path": None}, {"text": "u", "path": ".txt P"}],
        before=PYDANTIC,
    ),
}


@pytest.mark.parametrize("annotation", FORMS)
def test_an_output_of_each_type_arrives_and_is_described(
    api: Api, push: Push, annotation: str
) -> None:
    form = FORMS[annotation]
    word = "async def" if annotation.startswith("Async") else "def"
    source = f"{form.before}\n{word} predict() -> {annotation}:\n    {form.body}\n"
    version = push(source, f"output-{list(FORMS).index(annotation)}")
    assert schemas(api, version)["Output"] == {"title": "Output", **form.schema}
    run = finished(api, version)
    assert fetched(run["output"]) == form.output
    assert ("stream" in run["urls"]) is ("Iterator" in annotation)


def test_a_model_may_put_out_nothing(api: Api, push: Push) -> None:
    version = push("def predict() -> str:\n    return None\n", "nothing")
    assert finished(api, version)["output"] is None


# --- async predictors ------------------------------------------------------------------------

ASYNC = """
class predict(BasePredictor):
    async def setup(self) -> None:
        await asyncio.sleep(0)
        self.running = self.most = 0

    @cog.concurrent(max=3)
    async def predict(self, others: int = 0, name: str = "") -> AsyncConcatenateIterator[str]:
        self.running += 1
        self.most = max(self.most, self.running)
        yield name
        async with asyncio.timeout(20):
            while self.most < others:
                await asyncio.sleep(0.005)
        yield f" of {self.most}"
        self.running -= 1
"""


def test_as_many_predictions_run_at_the_same_time_as_the_model_allows(api: Api, push: Push) -> None:
    version = push(ASYNC, "concurrent")
    # Each waits until three are under way; so none of them ends if they take turns.
    runs = [api.predict(version, "", others=3, name=str(number)) for number in range(5)]
    ends = [api.end(run) for run in runs]
    assert ["".join(end["output"]) for end in ends] == [f"{number} of 3" for number in range(5)]


# --- trainings -------------------------------------------------------------------------------

TRAINERS = {
    "an object with weights": """
class TrainingOutput(BaseModel):
    weights: Path
    loss: Optional[float] = None
def train(n: int = Input(default=1, ge=1)) -> TrainingOutput:
    return TrainingOutput(weights=file("w.txt", f"W{n}"), loss=0.5)
""",
    "a Path": "def train(n: int = 1) -> Path:\n    return file('w.txt', f'W{n}')\n",
    "an async function": """
async def train(n: int = 1) -> Path:
    await asyncio.sleep(0)
    return file('w.txt', f'W{n}')
""",
    "a File": "def train(n: int = 1) -> File:\n    return io.BytesIO(b'W%d' % n)\n",
}
UNTRAINED = "def predict() -> str:\n    return ''\n"


@pytest.mark.parametrize("form", TRAINERS)
def test_a_training_of_each_form_makes_a_version_with_its_weights(
    api: Api, push: Push, form: str
) -> None:
    name = form.lower().replace(" ", "-")
    base = push(UNTRAINED + TRAINERS[form], name, config='train: "predict.py:train"\n')
    api.model("local", name)
    training = api.end(api.train(base, f"local/{name}", n=2).json())
    assert training["status"] == "succeeded", training["error"]
    assert fetched(training["output"]["weights"]).endswith(" W2")
    assert training["output"]["version"].startswith(f"local/{name}:")
    assert "TrainingOutput" in schemas(api, training["output"]["version"])


def test_a_training_without_a_file_of_weights_says_so(api: Api, push: Push) -> None:
    train = "def train() -> dict:\n    return {'loss': 0.5}\n"
    base = push(UNTRAINED + train, "weightless", config='train: "predict.py:train"\n')
    api.model("local", "weightless")
    training = api.end(api.train(base, "local/weightless").json())
    assert training["status"] == "failed"
    assert "train() returned no file of weights" in training["error"]
