"""What every test stands on: no token of the user's, its own Prefect home and server."""

import atexit
import os
import shutil
import tempfile

# Before anything imports Prefect, which reads its settings once.
for _name in [name for name in os.environ if name.startswith(("REPLICATE_", "PREFECT_"))]:
    if not _name.startswith("PREFECT_REPLICATE_"):  # how large the tests are to be
        del os.environ[_name]
os.environ |= {
    # Empty and not absent, or else a developer's .env would be read.
    "REPLICATE_API_TOKEN": "",
    "PREFECT_HOME": tempfile.mkdtemp(prefix="prefect-replicate-tests-"),
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    # Many tests call tasks outside of a flow, and Prefect warns of each line that it logs there.
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from prefect_replicate import LocalReplicate, ReplicateCredentials

ROOT = Path(__file__).parent.parent
TEXT_MODEL = ROOT / "examples" / "models" / "text"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server for the whole session; it takes 10 s to start."""
    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest.fixture(scope="session")
def replicate() -> Iterator[LocalReplicate]:
    """One Local Replicate for the whole session."""
    with LocalReplicate() as server:
        yield server


@pytest.fixture(scope="session")
def credentials(replicate: LocalReplicate) -> ReplicateCredentials:
    """Credentials for the session's Local Replicate."""
    return replicate.credentials


@pytest.fixture(scope="session")
def text_model(replicate: LocalReplicate) -> str:
    """The example language model, as "owner/name:version"."""
    return replicate.push(TEXT_MODEL, "local/text")


@pytest.fixture(scope="session")
def tiny_model(replicate: LocalReplicate, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that does as its input says: `do` is echo, fail, sleep or lines."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "cog.yaml").write_text(
        'build: {python_version: "3.11"}\npredict: predict.py:Predictor\ntrain: train.py:train\n'
    )
    (folder / "predict.py").write_text(TINY_PREDICT)
    (folder / "train.py").write_text(TINY_TRAIN)
    return replicate.push(folder, "local/tiny")


@pytest.fixture(scope="session")
def openapi() -> dict[str, Any]:
    """Replicate's own description of its API, which is not part of this repository."""
    beside = Path(__file__).parents[2] / "shared" / "reference" / "replicate-openapi.yaml"
    path = Path(os.environ.get("PREFECT_REPLICATE_OPENAPI", beside))
    if not path.exists():
        reason = f"no OpenAPI file at {path}; set PREFECT_REPLICATE_OPENAPI"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return dict(yaml.safe_load(path.read_text()))


TINY_PREDICT = """
import time

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def predict(
        self,
        do: str = Input(default="echo", choices=["echo", "fail", "sleep", "lines"]),
        text: str = Input(default="hello"),
        number: int = Input(default=1, ge=0, le=100),
    ) -> str:
        if do == "fail":
            raise ValueError(text)
        if do == "sleep":
            for _ in range(number * 20):
                time.sleep(0.05)
        if do == "lines":
            for line in range(number):
                print(f"{text} {line}", flush=True)
        self.record_metric("length", float(len(text)))
        return text
"""

TINY_TRAIN = """
from pathlib import Path as Local
import tempfile

from cog import BaseModel, Input, Path


class TrainingOutput(BaseModel):
    weights: Path


def train(training_data: Path = Input(), fail: bool = Input(default=False)) -> TrainingOutput:
    if fail:
        raise ValueError("told to fail")
    print("training on", Local(training_data).stat().st_size, "bytes", flush=True)
    weights = Local(tempfile.mkdtemp()) / "weights.txt"
    weights.write_bytes(Local(training_data).read_bytes())
    return TrainingOutput(weights=Path(weights))
"""
