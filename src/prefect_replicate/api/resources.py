"""What Replicate answers with: tolerant pydantic models that keep every field they do not know.

A field that is missing, null or newly added never breaks parsing: the service has changed such
things without notice, and a paid job must not be lost to a date with odd digits. All of them are
JSON-able and pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)


class Status(StrEnum):
    """Every status of a job that Replicate documents. An unknown one stays a plain string."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    ABORTED = "aborted"


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.ABORTED})


class Resource(BaseModel):
    """Any JSON object of the API."""

    model_config = ConfigDict(extra="allow")

    @field_validator("*", mode="wrap")
    @classmethod
    def _tolerate(
        cls, value: Any, parse: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Read a null, or something of another type, as if the field were not there."""
        try:
            return parse(value)
        except ValidationError:
            field = cls.model_fields[info.field_name or ""]
            if field.is_required():
                raise
            return field.get_default(call_default_factory=True, validated_data={})


class JobURLs(Resource):
    """Where a job can be read (`get`), canceled and looked at (`web`); `stream` if it streams."""

    get: str | None = None
    cancel: str | None = None
    web: str | None = None
    stream: str | None = None


def _as_text(error: Any) -> str | None:
    """A model's own words, whatever they are made of: they are all that tells why it failed."""
    return error if error is None or isinstance(error, str) else json.dumps(error)


class Job(Resource):
    """A prediction or training: work that is paid for once.

    `status` is one of `Status`, or a string that Replicate has added since. `metrics` has seconds
    under `predict_time` and `total_time`, and whatever numbers the model itself recorded. `webhook`
    is the URL that Replicate tells of it, where it was created with one.
    """

    id: str
    status: str
    model: str = ""
    version: str = ""
    input: dict[str, Any] = Field(default_factory=dict)
    output: Any = None
    error: Annotated[str | None, BeforeValidator(_as_text)] = None
    logs: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    data_removed: bool = False
    webhook: str | None = None
    urls: JobURLs = Field(default_factory=JobURLs)

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

    deadline: datetime | None = None
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
    type: str = ""
    name: str = ""


class Version(Resource):
    """One build of a model; `openapi_schema` describes its inputs and outputs."""

    id: str
    created_at: datetime | None = None
    cog_version: str | None = None
    openapi_schema: dict[str, Any] | None = None


class Model(Resource):
    """An ML model on Replicate."""

    owner: str
    name: str
    url: str = ""
    description: str | None = None
    visibility: str = ""
    is_official: bool = False
    latest_version: Version | None = None


class ReleaseConfiguration(Resource):
    """What a release runs on, and how many instances at least and at most."""

    hardware: str = ""
    min_instances: int = 0
    max_instances: int = 0


class Release(Resource):
    """One numbered configuration of a deployment."""

    number: int = 0
    model: str = ""
    version: str = ""
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


class Hardware(Resource):
    """A machine that models can run on; `sku` is what other calls name it by."""

    sku: str
    name: str = ""


class FileURLs(Resource):
    """Where an uploaded file is; `get` is what goes into a model's input."""

    get: str


class File(Resource):
    """A file uploaded to Replicate. It expires, after a day or less."""

    id: str
    urls: FileURLs
    name: str = ""
    content_type: str = ""
    size: int = 0
    checksums: dict[str, Any] = Field(default_factory=dict)
    expires_at: datetime | None = None


class Collection(Resource):
    """A curated group of models.

    `models` is there when it is read by itself; in what a search finds it has names only.
    """

    slug: str
    name: str = ""
    description: str = ""
    full_description: str | None = None
    models: list[Model | str] = Field(default_factory=list)


class FoundModel(Resource):
    """A model that a search found, with what the search says of it."""

    model: Model
    metadata: dict[str, Any] = Field(default_factory=dict)


class FoundPage(Resource):
    """A page of Replicate's site that a search found."""

    name: str = ""
    href: str = ""


class SearchResults(Resource):
    """What a search found, best first."""

    query: str = ""
    models: list[FoundModel] = Field(default_factory=list)
    collections: list[Collection] = Field(default_factory=list)
    pages: list[FoundPage] = Field(default_factory=list)


class WebhookSecret(Resource):
    """What webhooks are signed with: "whsec_" and base64. Not shown in a repr."""

    key: SecretStr


R = TypeVar("R", bound=Resource)


class Page(Resource, Generic[R]):
    """A part of a list, and the URL of the next part where there is one."""

    results: list[R]
    next: str | None = None
    previous: str | None = None
