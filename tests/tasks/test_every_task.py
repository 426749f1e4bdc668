"""Every task, by either door: in a sync flow, submitted, in an async flow, and with an error."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import Task, flow

import prefect_replicate
from prefect_replicate import (
    AuthenticationError,
    BadInputError,
    LocalReplicate,
    NotFoundError,
    ReplicateCredentials,
    ReplicateError,
    create_model,
    create_prediction,
    create_training,
    delete_model,
    ensure_model,
    release_deployment,
    run_model,
    train_model,
    upload_file,
)
from tests.conftest import TEXT_MODEL


@dataclass(frozen=True)
class World:
    """One of each thing, and ways to make more of those that a task uses up."""

    credentials: ReplicateCredentials
    tiny: str
    text: str
    file: str
    deployment: str
    destination: str
    trained: str
    prediction: str
    training: str
    path: Path

    def data(self) -> dict[str, Any]:
        return {"training_data": f"{self.credentials.base_url}/v1/files/{self.file}"}

    def model(self, name: str = "") -> str:
        """A model without versions."""
        name = name or f"local/m{uuid4().hex[:12]}"
        create_model(name, credentials=self.credentials)
        return name

    def version(self) -> str | None:
        """A version that nothing else uses."""
        destination = self.model()
        trained = train_model(self.tiny, destination, self.data(), credentials=self.credentials)
        return trained.trained_version

    def disabled(self) -> str:
        """A deployment that is offline."""
        name = f"d{uuid4().hex[:12]}"
        sizes = {"min_instances": 0, "max_instances": 0}
        release_deployment(name, self.tiny, "cpu", **sizes, credentials=self.credentials)
        return name

    def running(self) -> str:
        """A prediction that goes on until it is canceled."""
        slow = {"do": "sleep", "number": 5}
        return create_prediction(self.tiny, slow, credentials=self.credentials).id

    def running_training(self) -> str:
        """A training that has just begun."""
        return create_training(
            self.tiny, self.destination, self.data(), credentials=self.credentials
        ).id


@pytest.fixture(scope="module")
def world(
    prefect_server: None,
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
    text_model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    path = tmp_path_factory.mktemp("world") / "data.txt"
    path.write_text("data")
    replicate.push(TEXT_MODEL, "local/official", official=True)
    file = upload_file(path, credentials=credentials)
    ensure_model("local/read", credentials=credentials)
    deployment = release_deployment("read", tiny_model, "cpu", credentials=credentials)
    prediction = run_model(tiny_model, {}, credentials=credentials)
    data = {"training_data": file.urls.get}
    training = train_model(tiny_model, "local/read", data, credentials=credentials)
    return World(
        credentials=credentials,
        tiny=tiny_model,
        text=text_model,
        file=file.id,
        deployment=deployment.reference,
        destination="local/read",
        trained=training.trained_version or "",
        prediction=prediction.id,
        training=training.id,
        path=path,
    )


def _ids(found: list[Any]) -> list[str]:
    return [one.id for one in found]


def _names(found: list[Any]) -> list[str]:
    return [f"{one.owner}/{one.name}" for one in found]


@dataclass(frozen=True)
class Case:
    """How a task is called, what it must give back, and what it is called with to fail.

    Without a failure of its own a task is tried with a wrong token.
    """

    arguments: Callable[[World], dict[str, Any]]
    right: Callable[[Any, World], bool]
    wrong: dict[str, Any] | None = None
    error: type[ReplicateError] = AuthenticationError
    match: str = "401"
    keyless: bool = False


def _nothing(_: World) -> dict[str, Any]:
    return {}


ABSENT = "local/nobody"
ABSENT_VERSION = f"{ABSENT}:{'0' * 64}"
SLOW_TEXT = {"prompt": "The LORD ", "max_tokens": 20, "seed": 1}

CASES = {
    "run_model": Case(
        lambda w: {"ref": w.tiny, "input": {"text": "hi"}},
        lambda got, _: got.output == "hi",
        {"ref": "no reference", "input": {}},
        BadInputError,
        "no reference",
    ),
    "run_batch": Case(
        lambda w: {"ref": w.tiny, "inputs": [{"text": "a"}, {"text": "b"}]},
        lambda got, _: [one.output for one in got] == ["a", "b"],
        {"ref": ABSENT, "inputs": [{}]},
        NotFoundError,
        "nobody",
    ),
    "stream_model": Case(
        lambda w: {"ref": w.text, "input": SLOW_TEXT},
        lambda got, _: len(got) > 1 and len("".join(got)) == 20,
        {"ref": ABSENT, "input": {}},
        NotFoundError,
        "nobody",
    ),
    "create_prediction": Case(
        lambda w: {"ref": w.tiny, "input": {}},
        lambda got, _: got.id.isalnum() and got.model == "local/tiny",
        {"ref": ABSENT, "input": {}},
        NotFoundError,
        "nobody",
    ),
    "get_prediction": Case(
        lambda w: {"prediction": w.prediction},
        lambda got, w: got.id == w.prediction,
        {"prediction": "nobody"},
        NotFoundError,
        "nobody",
    ),
    "wait_for_prediction": Case(
        lambda w: {"prediction": w.prediction},
        lambda got, _: got.output == "hello",
        {"prediction": "../account"},
        BadInputError,
        "is not an id",
    ),
    "wait_for_webhook": Case(
        lambda w: {"job": run_model(w.tiny, {}, credentials=w.credentials)},
        lambda got, _: got.output == "hello",
    ),
    "cancel_prediction": Case(
        lambda w: {"prediction": w.running()},
        lambda got, _: got.status == "canceled",
        {"prediction": "nobody"},
        NotFoundError,
        "nobody",
    ),
    "list_predictions": Case(_nothing, lambda got, _: got[0].id.isalnum()),
    "train_model": Case(
        lambda w: {"version": w.tiny, "destination": w.destination, "input": w.data()},
        lambda got, _: got.trained_version.startswith("local/read:"),
        {"version": ABSENT_VERSION, "destination": ABSENT, "input": {}},
        NotFoundError,
        "nobody",
    ),
    "create_training": Case(
        lambda w: {"version": w.tiny, "destination": w.destination, "input": w.data()},
        lambda got, _: got.id.isalnum(),
        {"version": "local/nobody", "destination": ABSENT, "input": {}},
        BadInputError,
        "local/nobody",
    ),
    "get_training": Case(
        lambda w: {"training": w.training},
        lambda got, w: got.id == w.training,
        {"training": "nobody"},
        NotFoundError,
        "nobody",
    ),
    "wait_for_training": Case(
        lambda w: {"training": w.training},
        lambda got, w: got.trained_version == w.trained,
        {"training": "nobody"},
        NotFoundError,
        "nobody",
    ),
    "cancel_training": Case(
        lambda w: {"training": w.running_training()},
        lambda got, _: got.done,
        {"training": "nobody"},
        NotFoundError,
        "nobody",
    ),
    "list_trainings": Case(_nothing, lambda got, w: w.training in _ids(got)),
    "evaluate_model": Case(
        lambda w: {
            "ref": w.tiny,
            "examples": [{"input": {"text": "a"}, "expected": "a"}],
            "scorer": "exact_match",
        },
        lambda got, _: got.score == 1.0,
        {"ref": ABSENT, "examples": [], "scorer": "exact_match"},
        BadInputError,
        "no examples",
    ),
    "release_deployment": Case(
        lambda w: {"name": "read", "version": w.tiny, "hardware": "cpu"},
        lambda got, w: got.reference == w.deployment,
        {"name": "read", "version": ABSENT_VERSION, "hardware": "cpu"},
        BadInputError,
        "version",
    ),
    "get_deployment": Case(
        lambda w: {"name": w.deployment},
        lambda got, w: got.reference == w.deployment,
        {"name": ABSENT},
        NotFoundError,
        "nobody",
    ),
    "list_deployments": Case(_nothing, lambda got, w: w.deployment in _names(got)),
    "update_deployment": Case(
        lambda _: {"name": "read", "max_instances": 3},
        lambda got, _: got.current_release.configuration.max_instances == 3,
        {"name": "read", "max_instances": 99},
        BadInputError,
        "max_instances",
    ),
    "delete_deployment": Case(
        lambda w: {"name": w.disabled()},
        lambda got, _: got is None,
        {"name": ABSENT},
        NotFoundError,
        "nobody",
    ),
    "list_hardware": Case(_nothing, lambda got, _: "cpu" in [one.sku for one in got]),
    "ensure_model": Case(
        lambda w: {"model": w.destination},
        lambda got, _: got.name == "read",
        {"model": "nobody"},
        BadInputError,
        "nobody",
    ),
    "create_model": Case(
        lambda _: {"model": f"local/m{uuid4().hex[:12]}", "description": "new"},
        lambda got, _: got.description == "new" and got.latest_version is None,
        {"model": "local/read"},
        BadInputError,
        "local/read",
    ),
    "get_model": Case(
        lambda w: {"model": w.destination},
        lambda got, _: got.name == "read",
        {"model": ABSENT},
        NotFoundError,
        "nobody",
    ),
    "list_models": Case(_nothing, lambda got, w: w.destination in _names(got)),
    "search_models": Case(
        lambda _: {"query": "official"}, lambda got, _: "local/official" in _names(got)
    ),
    "update_model": Case(
        lambda w: {"model": w.destination, "description": "read", "readme": "# Read"},
        lambda got, _: got.description == "read",
        {"description": None, "readme": None},
        BadInputError,
        "what to change",
    ),
    "delete_model": Case(
        lambda w: {"model": w.model()},
        lambda got, _: got is None,
        {"model": ABSENT},
        NotFoundError,
        "nobody",
    ),
    "get_readme": Case(
        lambda w: {"model": _with_readme(w)},
        lambda got, _: got == "# Read",
        {"model": ABSENT},
        NotFoundError,
        "nobody",
    ),
    "list_examples": Case(
        lambda w: {"model": w.destination},
        lambda got, _: isinstance(got, list),
        {"model": ABSENT},
        NotFoundError,
        "nobody",
    ),
    "get_version": Case(
        lambda w: {"version": w.trained},
        lambda got, w: w.trained.endswith(got.id),
        {"version": ABSENT_VERSION},
        NotFoundError,
        "nobody",
    ),
    "list_versions": Case(
        lambda w: {"model": w.destination},
        lambda got, w: w.trained.partition(":")[2] in _ids(got),
        {"model": ABSENT},
        NotFoundError,
        "nobody",
    ),
    "delete_version": Case(
        lambda w: {"version": w.version()},
        lambda got, _: got is None,
        {"version": ABSENT_VERSION},
        NotFoundError,
        "nobody",
    ),
    "search": Case(
        lambda _: {"query": "official"},
        lambda got, _: "official" in [found.model.name for found in got.models],
        {"query": " "},
        BadInputError,
        "words",
    ),
    "list_collections": Case(_nothing, lambda got, _: got[0].slug != ""),
    "get_collection": Case(
        lambda w: {"slug": prefect_replicate.list_collections(credentials=w.credentials)[0].slug},
        lambda got, _: "local/official" in _names(got.models),
        {"slug": "nobody"},
        NotFoundError,
        "nobody",
    ),
    "sweep_jobs": Case(
        lambda _: {"patience": 10**6},
        # Nothing of these flow runs is left to do, whatever else there is.
        lambda got, w: all(w.prediction not in one.canceled for one in got),
        {"patience": -1},
        BadInputError,
        "Nothing was done",
    ),
    "get_account": Case(_nothing, lambda got, _: got.username == "local"),
    "get_webhook_secret": Case(
        _nothing,
        lambda got, _: got.key.get_secret_value().startswith("whsec_") and "whsec" not in repr(got),
    ),
    "upload_file": Case(
        lambda w: {"source": w.path},
        lambda got, _: got.size == 4,
        {"source": "/nobody"},
        BadInputError,
        "nobody",
    ),
    "get_file": Case(
        lambda w: {"file": w.file},
        lambda got, w: got.id == w.file,
        {"file": "nobody"},
        NotFoundError,
        "nobody",
    ),
    "list_files": Case(_nothing, lambda got, w: w.file in _ids(got)),
    "delete_file": Case(
        lambda w: {"file": upload_file(w.path, credentials=w.credentials)},
        lambda got, _: got is None,
        {"file": "nobody"},
        NotFoundError,
        "nobody",
    ),
    "save_outputs": Case(
        lambda w: {
            "prediction": run_model(w.tiny, {}, credentials=w.credentials),
            "storage": "memory://every-task",
        },
        lambda got, _: [file.name for file in got.files] == ["output.txt"],
        {"storage": "nosuch://x"},
        BadInputError,
        "nosuch",
        keyless=True,
    ),
}


def _with_readme(world: World) -> str:
    prefect_replicate.update_model(
        world.destination, readme="# Read", credentials=world.credentials
    )
    return world.destination


def _arguments(name: str, world: World) -> dict[str, Any]:
    keys = {} if CASES[name].keyless else {"credentials": world.credentials}
    return {**CASES[name].arguments(world), **keys}


def test_every_task_is_tried() -> None:
    tasks = {
        name
        for name in prefect_replicate.__all__
        if isinstance(getattr(prefect_replicate, name), Task)
    }
    assert tasks == {*CASES, *(f"a{name}" for name in CASES)}


@pytest.mark.parametrize("name", CASES)
def test_it_works_in_a_sync_flow_and_submitted(world: World, name: str) -> None:
    task: Task[..., Any] = getattr(prefect_replicate, name)
    direct_arguments, submitted_arguments = _arguments(name, world), _arguments(name, world)

    @flow
    def both() -> tuple[Any, Any]:
        submitted = task.submit(**submitted_arguments)
        return _whole(task(**direct_arguments)), submitted.result()

    direct, submitted = both()
    assert CASES[name].right(direct, world)
    assert CASES[name].right(submitted, world)


@pytest.mark.parametrize("name", CASES)
async def test_its_twin_works_in_an_async_flow(world: World, name: str) -> None:
    twin: Callable[..., Any] = getattr(prefect_replicate, f"a{name}")
    arguments = _arguments(name, world)

    @flow
    async def alone() -> Any:
        returned = twin(**arguments)
        return [one async for one in returned] if hasattr(returned, "asend") else await returned

    assert CASES[name].right(await alone(), world)


@pytest.mark.parametrize("name", CASES)
def test_its_error_says_what_is_wrong(world: World, wrong: ReplicateCredentials, name: str) -> None:
    case, task = CASES[name], getattr(prefect_replicate, name)
    arguments = {**_arguments(name, world), **(case.wrong or {"credentials": wrong})}
    with pytest.raises(case.error, match=case.match):
        _whole(task(**arguments))


def _whole(result: Any) -> Any:
    """What a generator yields, as a list; anything else as it is."""
    return list(result) if hasattr(result, "send") else result


def test_what_is_deleted_is_gone(world: World, credentials: ReplicateCredentials) -> None:
    name = world.model()
    delete_model(name, credentials=credentials)
    with pytest.raises(NotFoundError, match=name):
        prefect_replicate.get_model(name, credentials=credentials)
