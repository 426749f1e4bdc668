"""Everything that can go wrong between a call and its result, as one tree.

    ReplicateError
    ├── ConfigurationError      no usable credentials or settings; nothing was sent
    ├── BadInputError           refused, here or by Replicate (400, 409, 413, 422); nothing was made
    │   ├── BadReferenceError   not "owner/name", "owner/name:version" or a version id
    │   └── JobKeyError         a job_key under which something else was asked before
    ├── AuthenticationError     401 and 403: the token is wrong, or not allowed to do this
    ├── BillingError            402: no credit; nothing runs until someone pays
    ├── NotFoundError           404
    ├── RateLimitError          429 for longer than we were willing to wait
    ├── TransportError          no usable answer: unreachable, cut, timed out, or 5xx
    │   └── CreateUnknownError  the same on a create: a job may exist, and may cost money
    ├── EvaluationError         some examples were scored and paid for, one could not be
    ├── BatchError              some predictions of a batch gave no output; the others did
    ├── WebhookError            a webhook is not signed, forged, or stale
    └── JobError                a job exists and did not give what it was asked for
        ├── ModelError          the model failed
        ├── JobCanceled         somebody canceled it, or its deadline passed while it ran
        ├── JobAborted          its deadline passed before it started
        ├── DeadlineExceeded    we stopped waiting and canceled it
        └── OutputsExpired      it ended, but Replicate has removed its data since

Errors from BadInputError to TransportError are an APIError each: an answer, or the lack of one.
Every error keeps its facts as attributes, pickles, and never holds a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_replicate.api.resources import Job, Prediction


class ReplicateError(Exception):
    """The root of every error that this package raises on purpose."""

    @property
    def message(self) -> str:
        """What happened, to what, what to do, and what became of the job and the money."""
        return str(self)


class ConfigurationError(ReplicateError):
    """There are no usable credentials or settings; nothing was sent."""


class APIError(ReplicateError):
    """Replicate, or something before it, did not do what a call asked for.

    Attributes:
        status: HTTP status of the answer, or None where there was none.
        body: The answer's JSON object, or an empty one.
        retry_after: Seconds that the answer asked to wait, where it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        body: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = dict(body or {})
        self.retry_after = retry_after


class BadInputError(APIError, ValueError):
    """Something in the request is wrong; no job was made and nothing was charged."""


class BadReferenceError(BadInputError):
    """A model, version or deployment is not named the way Replicate names it."""


class JobKeyError(BadInputError):
    """A job_key names a call that asked something else. Nothing was submitted."""


class AuthenticationError(APIError):
    """The token is wrong or is not allowed to do this (401, 403)."""


class BillingError(APIError):
    """The account has no credit (402): permanent until a person acts."""


class NotFoundError(APIError):
    """What the call is about does not exist, or this token cannot see it (404)."""


class RateLimitError(APIError):
    """Replicate asked for patience (429) for longer than the call was willing to wait."""


class TransportError(APIError):
    """No usable answer came: unreachable, cut off, timed out, or 5xx."""


class CreateUnknownError(TransportError):
    """The answer to a create was lost: a job may exist and may cost money."""


class LedgerError(ReplicateError):
    """What is written about a call cannot be read or written, so nothing was submitted."""


class JobFateUnknown(ReplicateError):
    """A create was sent and nobody can say whether it made a job. Nothing was submitted again.

    Attributes:
        candidates: Jobs that may be it.
    """

    def __init__(self, message: str, candidates: Sequence[Job] = ()) -> None:
        super().__init__(message)
        self.candidates = list(candidates)


class EvaluationError(ReplicateError):
    """Not every example could be scored. Those that were have been paid for."""


class BatchError(ReplicateError):
    """Some predictions of a batch gave no output.

    Attributes:
        predictions: Those that did, in the order of the inputs, with None for the others.
        errors: Why there is none, by the input's place.
    """

    def __init__(
        self,
        message: str,
        predictions: Sequence[Prediction | None] = (),
        errors: Mapping[int, ReplicateError] | None = None,
    ) -> None:
        super().__init__(message)
        self.predictions = list(predictions)
        self.errors = dict(errors or {})


class WebhookError(ReplicateError):
    """A webhook cannot be believed: it is not signed, forged, or stale."""


class JobError(ReplicateError):
    """A prediction or training exists and did not give what it was asked for.

    Attributes:
        job: The Prediction or Training as last seen.
    """

    def __init__(self, message: str, job: Job | None = None) -> None:
        super().__init__(message)
        self.job = job

    @property
    def prediction(self) -> Job | None:
        """The job, under the name that Replicate's own clients use."""
        return self.job


class ModelError(JobError):
    """The model itself failed: status `failed`, with the model's own words in the message."""


class JobCanceled(JobError):
    """Somebody canceled the job, or its deadline passed while it ran (charged for that time)."""


class JobAborted(JobError):
    """The job's deadline passed before it started (not charged on public models)."""


class DeadlineExceeded(JobError):
    """The caller's deadline passed; the message says whether the remote job was canceled."""


class OutputsExpired(JobError):
    """The job ended, but its output is gone: Replicate removes it an hour after the end."""
