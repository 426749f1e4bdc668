"""What Replicate answers with: tolerant pydantic models that keep every field they do not know.

A field that is missing, null or newly added never breaks parsing: the service has changed such
things without notice, and a paid job must not be lost to a date with odd digits. All of them are
JSON-able and pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticUseDefault


class Status(StrEnum):
    """Every status of a job that Replicate documents. An unknown one stays a plain string."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    ABORTED = "aborted"


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.ABORTED})


def _null_is_absent(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


def _time_or_none(value: Any, parse: ValidatorFunctionWrapHandler) -> datetime | None:
    try:
        time: datetime | None = parse(value)
    except ValueError:
        return None
    return time


Timestamp: TypeAlias = Annotated[datetime | None, WrapValidator(_time_or_none)]
Object: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_null_is_absent)]
Text: TypeAlias = Annotated[str, BeforeValidator(_null_is_absent)]


class Resource(BaseModel):
    """Any JSON object of the API."""

    model_config = ConfigDict(extra="allow")


class JobURLs(Resource):
    """Where a job can be read (`get`), canceled and looked at (`web`); `stream` if it streams."""

    get: str | None = None
    cancel: str | None = None
    web: str | None = None
    stream: str | None = None


class Job(Resource):
    """A prediction or training: work that is paid for once.

    `status` is one of `Status`, or a string that Replicate has added since. `metrics` has seconds
    under `predict_time` and `total_time`, and whatever numbers the model itself recorded.
    """

    id: str
    status: str
    model: Text = ""
    version: Text = ""
    input: Object = Field(default_factory=dict)
    output: Any = None
    error: str | None = None
    logs: Text = ""
    metrics: Object = Field(default_factory=dict)
    created_at: Timestamp = None
    started_at: Timestamp = None
    completed_at: Timestamp = None
    data_removed: bool = False
    urls: Annotated[JobURLs, BeforeValidator(_null_is_absent)] = Field(default_factory=JobURLs)

    @property
    def done(self) -> bool:
        """Whether the status is final. An unknown status is not."""
        return self.status in TERMINAL

    @property
    def reference(self) -> str:
        """What ran: "owner/name", or as much of it as Replicate said."""
        return self.model or self.version or "unknown model"


class Prediction(Job):
    """One run of a model."""

    deadline: Timestamp = None
    deployment: str | None = None

    @property
    def text(self) -> str:
        """A language model's output as one string; empty where the output is not text."""
        pieces = self.output if isinstance(self.output, list) else [self.output]
        return "".join(pieces) if all(isinstance(piece, str) for piece in pieces) else ""


class Training(Job):
    """One fine-tuning; when it succeeds it has added a version to its destination."""

    @property
    def trained_version(self) -> str | None:
        """The version it made, as "owner/name:id"."""
        made = self.output.get("version") if isinstance(self.output, Mapping) else None
        return made if isinstance(made, str) else None


class Account(Resource):
    """Who a token belongs to."""

    username: str
    type: Text = ""
    name: Text = ""


class Version(Resource):
    """One build of a model; `openapi_schema` describes its inputs and outputs."""

    id: str
    created_at: Timestamp = None
    cog_version: str | None = None
    openapi_schema: dict[str, Any] | None = None


class Model(Resource):
    """An ML model on Replicate."""

    owner: str
    name: str
    url: Text = ""
    description: str | None = None
    visibility: Text = ""
    is_official: bool = False
    latest_version: Version | None = None


class ReleaseConfiguration(Resource):
    """What a release runs on, and how many instances at least and at most."""

    hardware: Text = ""
    min_instances: int = 0
    max_instances: int = 0


class Release(Resource):
    """One numbered configuration of a deployment."""

    number: int = 0
    model: Text = ""
    version: Text = ""
    configuration: ReleaseConfiguration = Field(default_factory=ReleaseConfiguration)


class Deployment(Resource):
    """A model version behind a stable name, with hardware of its own."""

    owner: str
    name: str
    current_release: Release = Field(default_factory=Release)

    @property
    def reference(self) -> str:
        """Its "owner/name"."""
        return f"{self.owner}/{self.name}"


class FileURLs(Resource):
    """Where an uploaded file is; `get` is what goes into a model's input."""

    get: str


class File(Resource):
    """A file uploaded to Replicate. It expires, after a day or less."""

    id: str
    urls: FileURLs
    name: Text = ""
    content_type: Text = ""
    size: int = 0
    checksums: Object = Field(default_factory=dict)
    expires_at: Timestamp = None
