"""A running Local Replicate with small models, talked to with plain httpx."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from replicate.client import Client as OfficialClient

from prefect_replicate.local import LocalReplicate
from tests.local.receiver import Receiver

ACTOR = """
import os, sys, time, urllib.request
from cog import BasePredictor, Input

class Predictor(BasePredictor):
    def setup(self, weights: str = None):
        self.voice = urllib.request.urlopen(weights).read().decode() if weights else "base"

    def predict(
        self,
        text: str,
        act: str = Input(default="say", choices=["say", "fail", "exit", "sleep", "spin"]),
        times: int = Input(default=1, ge=0, le=10),
        seconds: float = 30,
    ) -> str:
        print(f"asked to {act}")
        print("a warning", file=sys.stderr)
        self.record_metric("words", len(text.split()))
        if act == "fail":
            raise ValueError("I cannot")
        if act == "exit":
            os._exit(3)
        if act == "sleep":
            time.sleep(seconds)
        while act == "spin":
            pass
        return f"{self.voice}: " + text * times
"""
TRAINER = """
from cog import BaseModel, Input, Path

class TrainingOutput(BaseModel):
    weights: Path

def train(data: Path, steps: int = Input(default=2, le=5)) -> TrainingOutput:
    for step in range(steps):
        print(f"step {step}")
    if not steps:
        raise RuntimeError("nothing to do")
    weights = Path("weights.txt")
    weights.write_text(f"tuned on {data.read_text()}")
    return TrainingOutput(weights=weights)
"""
COUNTER = """
from typing import Iterator
import time
from cog import BasePredictor

class Predictor(BasePredictor):
    def predict(self, to: int, pause: float = 0) -> Iterator[str]:
        for number in range(to):
            yield f"{number} "
            time.sleep(pause)
"""
PAINTER = """
from typing import List, Optional
from cog import BasePredictor, Path, Secret

class Predictor(BasePredictor):
    def predict(
        self, count: int = 1, paper: Optional[Path] = None, key: Optional[Secret] = None
    ) -> List[Path]:
        base = paper.read_bytes() if paper else b"blank"
        if key:
            base += str(len(key.get_secret_value())).encode()
        pictures = [Path(f"{number}.png") for number in range(count)]
        for number, picture in enumerate(pictures):
            picture.write_bytes(base + str(number).encode())
        return pictures
"""


def write_model(folder: Path, predict: str, train: str | None = None) -> Path:
    """A folder of a Cog model."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"predict": "predict.py:Predictor", **({"train": "train.py:train"} if train else {})}
    (folder / "cog.yaml").write_text(yaml.safe_dump(config))
    (folder / "predict.py").write_text(predict)
    if train:
        (folder / "train.py").write_text(train)
    return folder


class Api:
    """An HTTP client of one server, with the few turns that most tests take."""

    def __init__(self, server: LocalReplicate) -> None:
        self.server = server
        headers = {"Authorization": f"Bearer {server.token}"}
        self.http = httpx.Client(base_url=f"{server.base_url}/v1", headers=headers, timeout=30)

    def predict(self, version: str, prefer: str = "wait", **input: Any) -> dict[str, Any]:
        """Start a prediction."""
        headers = {"Prefer": prefer} if prefer else {}
        body = {"version": version, "input": input}
        response = self.http.post("/predictions", json=body, headers=headers)
        assert response.status_code in {201, 202}, response.text
        return dict(response.json())

    def train(self, version: str, destination: str, **input: Any) -> httpx.Response:
        """Start a training."""
        model, _, number = version.partition(":")
        body = {"destination": destination, "input": input}
        return self.http.post(f"/models/{model}/versions/{number}/trainings", json=body)

    def until(self, run: dict[str, Any], done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Look at a run until it is as wanted."""
        give_up = time.monotonic() + 30
        while not done(run):
            assert time.monotonic() < give_up, f"still {run}"
            time.sleep(0.02)
            run = self.http.get(run["urls"]["get"]).json()
        return run

    def end(self, run: dict[str, Any]) -> dict[str, Any]:
        """Wait for a run's end."""
        return self.until(run, lambda run: run["status"] not in {"starting", "processing"})

    def model(self, owner: str, name: str) -> None:
        """Create a model without versions."""
        body = {"owner": owner, "name": name, "visibility": "private", "hardware": "cpu"}
        assert self.http.post("/models", json=body).status_code == 201

    def upload(self, content: bytes, name: str = "data.txt") -> dict[str, Any]:
        """Store a file."""
        response = self.http.post("/files", files={"content": (name, content)})
        assert response.status_code == 201, response.text
        return dict(response.json())


Client = Callable[[LocalReplicate], Api]
ModelFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def server() -> Iterator[LocalReplicate]:
    with LocalReplicate() as server:
        yield server


@pytest.fixture(scope="session")
def api(server: LocalReplicate) -> Api:
    return Api(server)


@pytest.fixture
def official(server: LocalReplicate) -> OfficialClient:
    """Replicate's own client."""
    return OfficialClient(api_token=server.token, base_url=server.base_url)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def client() -> Client:
    """Makes a client of a server that a test runs itself."""
    return Api


@pytest.fixture(scope="session")
def actor_folder(folders: Path) -> Path:
    return write_model(folders / "actor", ACTOR, TRAINER)


@pytest.fixture(scope="session")
def actor(server: LocalReplicate, actor_folder: Path) -> str:
    return server.push(actor_folder, "acme/actor")


@pytest.fixture(scope="session")
def counter(server: LocalReplicate, folders: Path) -> str:
    return server.push(write_model(folders / "counter", COUNTER), "acme/counter")


@pytest.fixture(scope="session")
def painter(server: LocalReplicate, folders: Path) -> str:
    return server.push(write_model(folders / "painter", PAINTER), "acme/painter")


@pytest.fixture
def model_folder(tmp_path: Path) -> ModelFolder:
    """Writes a model of a test's own."""

    def write(predict: str, train: str | None = None) -> Path:
        return write_model(tmp_path / "model", predict, train)

    return write


@pytest.fixture
def server_of_its_own(tmp_path: Path) -> Iterator[Api]:
    """A client of a server that no other test uses."""
    with LocalReplicate(tmp_path / "root") as server:
        yield Api(server)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()
