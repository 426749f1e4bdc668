"""One Local Replicate with models for Replicate's own clients, and the Node client's scripts."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from replicate.client import Client

from prefect_replicate import LocalReplicate
from tests.local.conftest import ACTOR, COUNTER, PAINTER, write_model
from tests.local.receiver import Receiver

HERE = Path(__file__).parent
ECHO = """
from cog import BasePredictor

class Predictor(BasePredictor):
    def predict(self, text: str) -> str:
        print(" 50%|#####     | 1/2 [00:01<00:01,  1.00s/it]")
        return text
"""
COPIER = """
from cog import BasePredictor, Path

class Predictor(BasePredictor):
    def predict(self, paper: Path) -> Path:
        copy = Path("copy.png")
        copy.write_bytes(paper.read_bytes())
        return copy
"""
TRAINER = """
from cog import BaseModel, Input, Path
import time

class TrainingOutput(BaseModel):
    weights: Path

def train(data: Path, steps: int = Input(default=2, ge=0)) -> TrainingOutput:
    for step in range(steps):
        print(f"{(step + 1) * 100 // steps}%|###| {step + 1}/{steps}", flush=True)
        time.sleep(0.01)
    weights = Path("weights.txt")
    weights.write_text(f"tuned on {data.read_text()}")
    return TrainingOutput(weights=weights)
"""
# What npm says if it cannot get at the registry, and not that something is wrong with the package.
UNREACHABLE = (
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "ENOTFOUND",
    "ERR_SOCKET_TIMEOUT",
    "ETIMEDOUT",
)
NEVER_LONGER = 60.0  # seconds


@dataclass(frozen=True)
class Models:
    """References to the models that are there, each "owner/name:version".

    Attributes:
        actor: Text; it can fail, go on for ever, and be trained.
        counter: An official model; an iterator of texts.
        painter: A list of files.
        copier: A file out of a file.
        echo: An official model; text in, text out.
    """

    actor: str
    counter: str
    painter: str
    copier: str
    echo: str


Said = dict[str, Any]
Node = Callable[..., Said]


@pytest.fixture(scope="session")
def server() -> Iterator[LocalReplicate]:
    with LocalReplicate() as server:
        yield server


@pytest.fixture(scope="session")
def models(server: LocalReplicate, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folders = tmp_path_factory.mktemp("models")
    return Models(
        actor=server.push(write_model(folders / "actor", ACTOR, TRAINER), "acme/actor"),
        counter=server.push(
            write_model(folders / "counter", COUNTER), "acme/counter", official=True
        ),
        painter=server.push(write_model(folders / "painter", PAINTER), "acme/painter"),
        copier=server.push(write_model(folders / "copier", COPIER), "acme/copier"),
        echo=server.push(write_model(folders / "echo", ECHO), "acme/echo", official=True),
    )


@pytest.fixture(scope="session")
def client(server: LocalReplicate) -> Client:
    """The official Python client, which only looks more often than it would by itself."""
    client = Client(api_token=server.token, base_url=server.base_url)
    client.poll_interval = 0.02
    return client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts with the official Node client beside them, as the lock file says."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            _without(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("clients") / "node"
    shutil.copytree(HERE / "node", folder)
    # A registry that is not there is to be noticed soon, not after npm's own minutes.
    install = "npm ci --ignore-scripts --no-audit --no-fund --prefer-offline"
    patience = "--fetch-retries=1 --fetch-retry-mintimeout=500"
    try:
        done = _run([*install.split(), *patience.split()], folder)
    except subprocess.TimeoutExpired:
        _without(f"npm took longer than {NEVER_LONGER:g} s")
    if done.returncode:
        for line in done.stderr.splitlines():
            if any(code in line for code in UNREACHABLE):
                _without(f"npm cannot reach its registry: {line}")
        pytest.fail(done.stderr)
    return folder


@pytest.fixture(scope="session")
def node(node_folder: Path, server: LocalReplicate, models: Models) -> Node:
    """Runs a script; what each step of it came to, by the step's name."""
    base = {"token": server.token, "baseUrl": f"{server.base_url}/v1", **vars(models)}

    def run(script: str, certificate: Path | None = None, **more: str) -> Said:
        trust = {"NODE_EXTRA_CA_CERTS": str(certificate)} if certificate else {}
        done = _run(["node", script], node_folder, json.dumps({**base, **more}), trust)
        assert done.returncode == 0, done.stderr
        said: Said = {}
        for line in done.stdout.splitlines():
            said |= json.loads(line)
        return said

    return run


def _run(
    command: list[str], folder: Path, text: str = "", environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        input=text,
        capture_output=True,
        text=True,
        timeout=NEVER_LONGER,
        check=False,
    )


def _without(reason: str) -> NoReturn:
    """Skip, but not in CI, where what is not tested must be seen."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
