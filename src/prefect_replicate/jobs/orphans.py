"""Whether a job in a list is the one that a claim made, whose answer was lost. Pure.

Nothing is guessed: a job is *mine* by proof, *not mine* by proof, or *possible*, and while any is
possible nothing is submitted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from prefect_replicate.api.resources import Job, Prediction
from prefect_replicate.jobs.ledger import Claim

# Seconds that Replicate may round a deadline by.
_ROUNDED = 1.4
_URLS = ("http://", "https://", "data:")
# What stands where a secret was.
_HIDDEN = re.compile(r"\[REDACTED\]|\*+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """What a look brought.

    Attributes:
        mine: The job of the claim.
        possible: Jobs of which it is not certain that they are not.
    """

    mine: Job | None = None
    possible: tuple[Job, ...] = field(default=())


def wanted(input: Mapping[str, Any], **about: str | None) -> dict[str, Any]:
    """What a claim says of the job, to know others by: what it runs, and digests of its input.

    Digests, since a text may be a secret. That a plain value differs is proof of another job. URLs,
    files and lists are written down too, but Replicate may rewrite them: that they differ proves
    nothing, and only that they are the same speaks for a job.
    """
    plain = {name: _digest(value) for name, value in input.items() if _is_plain(value)}
    rest = {
        name: _digest(value)
        for name, value in input.items()
        if value is not None and not _is_plain(value)
    }
    known = {name: value for name, value in about.items() if value}
    return {**known, "input": plain, "rest": rest}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not value.startswith(_URLS) and not _is_hidden(value)
    return isinstance(value, bool | int | float)


def _is_hidden(value: Any) -> bool:
    return isinstance(value, str) and bool(_HIDDEN.fullmatch(value))


def _digest(value: Any) -> str:
    # 1 and 1.0 are one number in JSON.
    whole = isinstance(value, float) and value.is_integer()
    text = json.dumps(int(value) if whole else value, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def sort(claim: Claim, jobs: Iterable[Job], since: datetime, others: Collection[str] = ()) -> Found:
    """Which of the listed jobs is the claim's.

    Args:
        claim: Whose job is looked for.
        jobs: Everything in the list, newest first.
        since: By Replicate's clock, a moment before which the claim can have made nothing.
        others: Ids of jobs that are known to be of something else.
    """
    listed = [job for job in jobs if not job.created_at or job.created_at >= since]
    echoes = any(job.webhook for job in listed)
    listed = [job for job in listed if job.id not in others]
    kinds = [(job, _kind(claim, job, echoes=echoes)) for job in listed]
    mine = next((job for job, kind in kinds if kind == "mine"), None)
    possible = tuple(job for job, kind in kinds if kind == "possible")
    if mine is None and claim.webhook is None:
        alike = [job for job in possible if _is_alike(claim.wanted, job)]
        coded = alike if claim.trains else [job for job in alike if _has_code(claim, job)]
        if len(coded) == 1:
            return Found(coded[0])
        if claim.life is not None:
            # A deadline that is not the claim's own says that it is somebody else's.
            possible = tuple(job for job in possible if _has_code(claim, job) is not False)
    return Found(mine, possible)


def _kind(claim: Claim, job: Job, *, echoes: bool) -> Literal["mine", "possible", "not mine"]:
    if claim.webhook and job.webhook == claim.webhook:
        return "mine"
    if job.webhook and (claim.webhook or "/pr-mail-" in job.webhook):
        return "not mine"
    if claim.webhook and echoes and not job.webhook and not job.data_removed:
        return "not mine"
    return "not mine" if _differs(claim.wanted, job) else "possible"


def _differs(wanted: Mapping[str, Any], job: Job) -> bool:
    model, version = wanted.get("model"), wanted.get("version")
    if model and job.model and job.model != model:
        return True
    if version and len(job.version) == 64 and job.version != version:
        return True
    deployment = wanted.get("deployment")
    if isinstance(job, Prediction) and (job.deployment or "") != (deployment or ""):
        return True
    if job.data_removed:
        return False
    given: Mapping[str, str] = wanted.get("input", {})
    return any(
        _digest(job.input[name]) != digest
        for name, digest in given.items()
        if name in job.input and not _is_hidden(job.input[name])
    )


def _is_alike(wanted: Mapping[str, Any], job: Job) -> bool:
    """Whether nothing in the input speaks against a job, not even what proves nothing."""
    rest: Mapping[str, str] = wanted.get("rest", {})
    return not job.data_removed and all(
        name in job.input and (_is_hidden(job.input[name]) or _digest(job.input[name]) == digest)
        for name, digest in rest.items()
    )


def _has_code(claim: Claim, job: Job) -> bool | None:
    """Whether a job's life is that of the claim; None if it cannot be told."""
    if claim.life is None or not isinstance(job, Prediction) or job.created_at is None:
        return None
    if job.deadline is None:
        return False
    return abs(job.deadline - job.created_at - timedelta(seconds=claim.life)) <= timedelta(
        seconds=_ROUNDED
    )
