"""What Local Replicate remembers: models, versions, deployments, files, predictions and trainings.

Plain values that go to the database as JSON and come back unchanged. How they look to a client is
the business of `replies`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Kind = Literal["prediction", "training"]
TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: sorts as text in the order of time."""
    # Not by strftime, which writes the year 1 as "1".
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@dataclass(slots=True)
class Model:
    """A name under which versions are published."""

    owner: str
    name: str
    created_at: str
    visibility: str = "private"
    hardware: str = "cpu"
    description: str | None = None
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    cover_image_url: str | None = None
    is_official: bool = False
    run_count: int = 0
    readme: str | None = None
    weights_url: str | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """Code and weights that can run; what has this id never changes, its schema neither.

    Attributes:
        code: Digest of the code, and name of the folder that holds it.
        predict: Reference of the predictor, "predict.py:Predictor".
        train: Reference of the training function, or None if there is none.
        weights: Path of the weights in the file store, for versions that a training made.
        base: Reference of the version that such a training began with.
    """

    owner: str
    name: str
    id: str
    created_at: str
    code: str
    predict: str
    train: str | None
    openapi: dict[str, Any]
    concurrency: int
    streams: bool
    weights: str | None = None
    base: str | None = None

    @property
    def reference(self) -> str:
        """How people name it: "owner/name:id"."""
        return f"{self.owner}/{self.name}:{self.id}"


@dataclass(slots=True)
class Deployment:
    """A name for one version on some hardware; every change is a new release."""

    owner: str
    name: str
    number: int
    model: str
    version: str
    hardware: str
    min_instances: int
    max_instances: int
    released_at: str


@dataclass(slots=True)
class StoredFile:
    """A file that a client uploaded.

    Attributes:
        path: Where the file store keeps the bytes.
    """

    id: str
    path: str
    name: str
    content_type: str
    size: int
    sha256: str
    md5: str
    metadata: dict[str, Any]
    created_at: str
    expires_at: str


@dataclass(slots=True)
class Run:
    """A prediction or a training.

    Attributes:
        input: As sent, but with secrets redacted.
        output: As the model gave it, with files as references into the file store.
        hidden: The client asked for an official model, so it is not told the version.
        streams: Its output comes in parts that can be followed.
        destination: Trainings: the model that gets the new version.
        webhook: Where its client wants to hear of it.
        webhook_events: Of which events; None for the usual ones.
        echo: What the client sent and is shown again.
        data_removed: Input, output and logs are gone.
        odd_status: What it is said to be for as long as it has not ended, to try clients.
    """

    id: str
    kind: Kind
    model: str
    version: str
    input: dict[str, Any]
    created_at: str
    status: str = "starting"
    output: Any = None
    error: str | None = None
    logs: str = ""
    metrics: dict[str, Any] | None = None
    started_at: str | None = None
    completed_at: str | None = None
    deadline: str | None = None
    deployment: str | None = None
    destination: str | None = None
    hidden: bool = False
    streams: bool = False
    webhook: str | None = None
    webhook_events: list[str] | None = None
    echo: dict[str, Any] = field(default_factory=dict)
    data_removed: bool = False
    odd_status: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in TERMINAL
