"""A Local Replicate in which there is one of everything, for requests to find."""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from prefect_replicate.local import LocalReplicate
from tests.contract.document import PAGED, Hints

QUICK = """
from cog import BaseModel, BasePredictor, Path

class Predictor(BasePredictor):
    def predict(self, text: str = "nothing") -> str:
        return text[:100]

class TrainingOutput(BaseModel):
    weights: Path

def train(text: str = "nothing") -> TrainingOutput:
    weights = Path("weights.txt")
    weights.write_text(text[:100])
    return TrainingOutput(weights=weights)
"""
CONFIG = "predict: predict.py:Predictor\ntrain: predict.py:train\n"
SIZES: dict[str, Any] = {"hardware": "cpu", "min_instances": 0, "max_instances": 1}
FAR = 9_999_999_999  # unix seconds
# The first of each is taken; of the others some are, and some are at the edge or beyond it.
PREFERENCES = ("wait", "wait=5", "respond-async, wait=1", "wait=61", "wait=0", "wait=x", "wait=")
LIVES = ("5m", "1h30m45s", "5", "4", "24h", "25h", "1m1h", "-5s", "1e9", "9" * 30 + "h")
CURSORS = (
    "",
    *(
        base64.b64encode(text).decode()
        for text in (
            b"p=1",
            b"r=1&p=1",
            b"p=0",
            b"p=-1",
            b"p=99999999999999999999",
            b"p=x",
            b"\xff",
        )
    ),
    "no base64",
)
# Nobody listens at the first; the others are refused.
WEBHOOKS = ("http://127.0.0.1:9/hook", "ftp://127.0.0.1/hook", "http://", "127.0.0.1", "")


@dataclass(frozen=True)
class World:
    """What there is.

    Attributes:
        http: A client with the token, whose paths are those of the document.
        version: Id of the version that every model here has.
        file, doomed_file: Ids of uploads, the second to be deleted.
        prediction, training: Ids of runs that have succeeded.
    """

    server: LocalReplicate
    http: httpx.Client
    version: str
    file: str
    doomed_file: str
    prediction: str
    training: str

    def signature(self, file: str) -> str:
        """What lets its bearer download a file."""
        text = f"local {file} {FAR}".encode()
        digest = hmac.digest(self.server.files_secret.encode(), text, "sha256")
        return base64.b64encode(digest).decode()


def build(server: LocalReplicate, folder: Path) -> World:
    """Fill a server.

    Models: acme/quick of somebody else, acme/official, and of the account itself local/own with a
    version, and local/changing, local/tuned, local/doomed without. Deployments: local/steady,
    local/changing, local/doomed.
    """
    (folder / "cog.yaml").write_text(CONFIG)
    (folder / "predict.py").write_text(QUICK)
    headers = {"Authorization": f"Bearer {server.token}"}
    http = httpx.Client(base_url=f"{server.base_url}/v1", headers=headers, timeout=30)
    version = server.push(folder, "acme/quick").partition(":")[2]
    server.push(folder, "acme/official", official=True)
    server.push(folder, "local/own")
    for name in ("changing", "tuned", "doomed"):
        body = {"owner": "local", "name": name, "visibility": "private", "hardware": "cpu"}
        _made(http.post("/models", json=body))
    _made(http.patch("/models/local/changing", json={"readme": "# Changing"}))
    for name in ("steady", "changing", "doomed"):
        body = {"name": name, "model": "acme/quick", "version": version, **SIZES}
        _made(http.post("/deployments", json=body))
    files = [_made(http.post("/files", files={"content": ("a.txt", b"x")})) for _ in range(2)]
    run = {"version": f"acme/quick:{version}", "input": {"text": "x"}}
    prediction = _made(http.post("/predictions", json=run, headers={"Prefer": "wait"}))
    training = {"destination": "local/tuned", "input": {}}
    path = f"/models/acme/quick/versions/{version}/trainings"
    trained = _ended(http, _made(http.post(path, json=training)))
    assert prediction["status"] == trained["status"] == "succeeded", trained
    return World(
        server, http, version, files[0]["id"], files[1]["id"], prediction["id"], trained["id"]
    )


def hints(world: World) -> Mapping[str, Hints]:
    """For each operation where it finds something, and a body that it takes.

    What an operation changes or deletes is nothing that others need.
    """
    quick = _pair("model", ("acme", "quick"), ("local", "own"))
    version = {"version_id": (world.version,)}
    steady = _pair("deployment", ("local", "steady"))
    sizes = {"version": world.version, **SIZES}
    model = {"visibility": "private", "hardware": "cpu", "description": "New."}
    run = {"input": {"text": "x"}}
    held = {"Prefer": PREFERENCES, "Cancel-After": LIVES}
    cursors = {"cursor": CURSORS}
    return {
        **{name: Hints(cursors) for name in PAGED},
        "collections.get": Hints({"collection_slug": ("local",)}),
        "deployments.create": Hints({}, {"name": "new", "model": "acme/quick", **sizes}),
        "deployments.delete": Hints(_pair("deployment", ("local", "doomed"))),
        "deployments.get": Hints(steady),
        "deployments.predictions.create": Hints({**steady, **held}, run),
        "deployments.update": Hints(_pair("deployment", ("local", "changing")), sizes),
        "files.delete": Hints({"file_id": (world.doomed_file,)}),
        "files.download": Hints(
            {
                "file_id": (world.file,),
                "owner": ("local",),
                "expiry": (FAR,),
                "signature": (world.signature(world.file),),
            }
        ),
        "files.get": Hints({"file_id": (world.file,)}),
        "models.create": Hints({}, {"owner": "local", "name": "new", **model}),
        "models.delete": Hints(_pair("model", ("local", "doomed"), ("local", "own"))),
        "models.examples.list": Hints({**quick, **cursors}),
        "models.get": Hints(quick),
        "models.predictions.create": Hints({**_pair("model", ("acme", "official")), **held}, run),
        "models.readme.get": Hints(_pair("model", ("local", "changing"))),
        "models.update": Hints(_pair("model", ("local", "changing")), {"readme": "# New"}),
        "models.versions.delete": Hints({**_pair("model", ("local", "own")), **version}),
        "models.versions.get": Hints({**quick, **version}),
        "models.versions.list": Hints({**quick, **cursors}),
        "predictions.cancel": Hints({"prediction_id": (world.prediction, world.training)}),
        "predictions.create": Hints(held, {"version": f"acme/quick:{world.version}", **run}),
        "predictions.get": Hints({"prediction_id": (world.prediction, world.training)}),
        "search": Hints({"query": ("quick",)}),
        "trainings.cancel": Hints({"training_id": (world.training,)}),
        "trainings.create": Hints(
            {**_pair("model", ("acme", "quick")), **version}, {"destination": "local/tuned", **run}
        ),
        "trainings.get": Hints({"training_id": (world.training,)}),
    }


def _pair(kind: str, *names: tuple[str, str]) -> dict[str, tuple[Any, ...]]:
    owners, own_names = zip(*names, strict=True)
    return {f"{kind}_owner": owners, f"{kind}_name": own_names}


def _made(response: httpx.Response) -> dict[str, Any]:
    response.raise_for_status()
    return dict(response.json())


def _ended(http: httpx.Client, run: dict[str, Any]) -> dict[str, Any]:
    give_up = time.monotonic() + 30
    while run["status"] in {"starting", "processing"}:
        assert time.monotonic() < give_up, f"still {run}"
        time.sleep(0.02)
        run = http.get(run["urls"]["get"]).json()
    return run
