"""What is there, and what is not, after the program of a server was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefect_replicate.local import Behaviour, LocalReplicate
from prefect_replicate.local.cog_worker import LEFTOVERS
from tests.local.conftest import Api, Client
from tests.local.receiver import Receiver
from tests.local.test_server import _processes_in, _until_none, needs_proc

HOST = """
import json, sys, time
from prefect_replicate.local import LocalReplicate
root, port = sys.argv[1:]
server = LocalReplicate(root or None, port=int(port))
server.start()
where = {"url": server.base_url, "token": server.token, "root": str(server._running._root)}
print(json.dumps(where), flush=True)
time.sleep(120)
"""
SLEEPER = """
import time
from cog import BasePredictor, Input, Path, Secret

class Predictor(BasePredictor):
    def predict(
        self,
        text: str,
        seconds: float = 0,
        key: Secret = None,
        keys: list[Secret] = Input(default=[]),
    ) -> str:
        time.sleep(seconds)
        return text
"""
TRAINER = """
import time
from cog import BaseModel, Path

class TrainingOutput(BaseModel):
    weights: Path

def train(data: Path, seconds: float = 0) -> TrainingOutput:
    time.sleep(seconds)
    weights = Path("weights.txt")
    weights.write_text(data.read_text())
    return TrainingOutput(weights=weights)
"""


class Doomed:
    """A server in a program of its own, and a client of it."""

    def __init__(self, process: subprocess.Popen[str], told: dict[str, str]) -> None:
        self.process, self.root = process, Path(told["root"])
        self.base_url, self.token = told["url"], told["token"]
        self.api = Api(self)  # type: ignore[arg-type]  # which asks for these two only

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def doomed(root: Path | str, port: int = 0) -> Iterator[Doomed]:
    """A server that a test kills."""
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(root), str(port)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            yield Doomed(process, json.loads(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture
def sleeper(tmp_path: Path) -> tuple[Path, str]:
    """The root of a server that knows a model, and its version."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "cog.yaml").write_text("predict: predict.py:Predictor\ntrain: train.py:train\n")
    (folder / "predict.py").write_text(SLEEPER)
    (folder / "train.py").write_text(TRAINER)
    with LocalReplicate(tmp_path / "root") as server:
        return tmp_path / "root", server.push(folder, "local/sleeper")


def running(api: Api, run: dict[str, Any]) -> dict[str, Any]:
    return api.until(run, lambda run: run["status"] == "processing")


@needs_proc
def test_everything_finished_is_there_and_the_port_is_free_at_once(
    sleeper: tuple[Path, str], client: Client
) -> None:
    root, version = sleeper
    with doomed(root) as first:
        done = first.api.predict(version, text="done")
        file = first.api.upload(b"kept")
        training = first.api.train(version, "local/sleeper", data="data:,tuned").json()
        trained = first.api.end(training)
        half = running(first.api, first.api.predict(version, prefer="", text="x", seconds=60))
        first.kill()
    port = int(first.base_url.rpartition(":")[2])
    with LocalReplicate(root, port=port) as server:
        assert server.base_url == first.base_url
        again = client(server)
        assert again.http.get(done["urls"]["get"]).json() == done
        assert again.http.get(file["urls"]["get"]).json() == file
        kept = again.http.get(f"/trainings/{training['id']}").json()
        assert kept == trained
        broken = again.http.get(half["urls"]["get"]).json()
        assert broken["status"] == "failed"
        assert broken["error"].startswith("Prediction interrupted; please retry (code: PA)")
        assert again.predict(trained["output"]["version"], text="tuned")["output"] == "tuned"
    assert _until_none(root) == []


@needs_proc
def test_what_ran_is_run_again_if_that_is_wanted(
    sleeper: tuple[Path, str], client: Client, receiver: Receiver
) -> None:
    root, version = sleeper
    with doomed(root) as first:
        body = receiver.order(version, "completed", text="at last", seconds=1)
        half = running(first.api, first.api.http.post("/predictions", json=body).json())
        secrets = [
            first.api.predict(version, prefer="", text="x", seconds=60, **given)
            for given in ({"key": "s3cret"}, {"keys": ["s3cret"]})
        ]
        data = first.api.upload(b"tuned")["urls"]["get"]
        training = first.api.train(version, "local/sleeper", data=data, seconds=1).json()
        training = running(first.api, training)
        first.kill()
    port = int(first.base_url.rpartition(":")[2])
    with LocalReplicate(root, port=port, behaviour=Behaviour(on_restart="rerun")) as server:
        again = client(server)
        ended = again.end(half)
        assert (ended["status"], ended["output"]) == ("succeeded", "at last")
        assert ended["created_at"] == half["created_at"]
        assert again.end(training)["output"]["version"].startswith("local/sleeper:")
        # A secret is never kept, so what needs one cannot begin again.
        found = [again.http.get(secret["urls"]["get"]).json() for secret in secrets]
        assert [run["status"] for run in found] == ["failed", "failed"]
    (told,) = receiver.until_over()
    assert told.run["output"] == "at last"


def test_clients_hear_of_what_failed_at_a_restart(
    sleeper: tuple[Path, str], receiver: Receiver
) -> None:
    root, version = sleeper
    with doomed(root) as first:
        body = receiver.order(version, "completed", text="never", seconds=60)
        half = running(first.api, first.api.http.post("/predictions", json=body).json())
        first.kill()
    with LocalReplicate(root):
        (told,) = receiver.until_over()
    assert (told.run["id"], told.run["status"]) == (half["id"], "failed")


@needs_proc
def test_a_temporary_server_leaves_nothing(actor_folder: Path) -> None:
    with doomed("") as first:
        archive = subprocess.run(
            ["tar", "-C", str(actor_folder), "-c", "."], capture_output=True, check=True
        ).stdout
        push = f"{first.base_url}/_local/models/acme/actor/versions"
        made = first.api.http.post(push, content=archive)
        assert made.status_code == 201, made.text
        run = first.api.predict(made.json()["version"], prefer="", text="x", act="sleep")
        running(first.api, run)
        assert _processes_in(first.root)
        assert (LEFTOVERS / run["id"]).exists()
        first.kill()
    assert _until_none(first.root) == []
    give_up = time.monotonic() + 10
    while first.root.exists() or (LEFTOVERS / run["id"]).exists():
        assert time.monotonic() < give_up
        time.sleep(0.05)
