"""How one call stays one job: what is written about it, and what follows from that. Pure.

A call has rows on its flow run, each written once: Prefect refuses a second row of a name, so of
two that write it one wins. Before a create is sent there is a *claim*; where it is certain that it
made no job there is a *void*; the *job* row names the one job that counts, or says that there is to
be none (a tombstone); the *end* says how it ended. What failed may be tried again as another
*generation*. Where a job has nothing that proves whose it is, a *held* row says which call has it.

| row | |
| --- | --- |
| `pr-KEY-g01-c01` | claim 1 of generation 1 |
| `pr-KEY-g01-v01` | its void |
| `pr-KEY-g01-job` | the job of generation 1 |
| `pr-KEY-g01-end` | how it ended |
| `pr-held-ID` | the call that has the job of this id |
| `pr-found-ID` | the call that looked for a job and found this one first |
| `pr-log-LOG-00001` | the first of many such rows of calls in batches, together |
| `pr-batch-LOG` | there is such a log |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_replicate.api.errors import LedgerError

FORMAT = 1
PREFIX = "pr-"
# Why there is to be no job: the caller wants another, whatever became of this one.
FRESH = "fresh"
_NAME = re.compile(
    r"pr-(?P<key>[a-z2-7]{26})-g(?P<g>\d{2,})-(?:(?P<kind>[cv])(?P<n>\d{2,})|(?P<one>job|end))"
)

R = TypeVar("R", bound="_Row")


class Margins(BaseModel):
    """How long each part of a create may take, in seconds. A claim holds those of its writer.

    Attributes:
        send: From before the claim is written to the first byte of the create.
        answer: For the create, in all.
        accept: How much later Replicate may still take it.
        list: How much later a new job may still be missing in lists.
    """

    model_config = ConfigDict(frozen=True)

    send: float = 10.0
    answer: float = 30.0
    accept: float = 15.0
    list: float = 30.0

    @property
    def quarantine(self) -> float:
        """Until a claim whose job is in no list has certainly made none."""
        return self.send + self.answer + self.accept + self.list


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)

    v: int = FORMAT


class Claim(_Row):
    """Who is about to create a job, and by what it can be found.

    Attributes:
        nonce: Tells this writer's row from another's.
        fingerprint: What was asked.
        api: Base URL of the API.
        account: Whose money, as "type username".
        block: Name of the saved credentials, by which another process may cancel the job.
        run: Id of the flow run that asks; rows of a subflow are on the flow run around it.
        trains: It is a training.
        webhook: The URL that the job has, which nobody else's job has.
        life: Seconds from its creation to its deadline, if it has one and no webhook.
        wanted: What else is known of the job, as `orphans.wanted` says it.
        margins: How long each part may take.
    """

    nonce: str
    fingerprint: str
    api: str
    account: str
    block: str | None = None
    run: str = ""
    trains: bool = False
    webhook: str | None = None
    life: int | None = None
    wanted: dict[str, Any] = {}
    margins: Margins = Margins()


class Void(_Row):
    """A claim made no job, for certain."""

    reason: str


class Named(_Row):
    """The one job of a generation, or that there is to be none.

    Attributes:
        id: The job; None for a tombstone.
        claim: The claim that made it.
        how: "created", "adopted" or "adopted by hand", or why there is none.
        attempt: The run of the flow that wrote it.
        canceled: Of a tombstone: all runs of the flow so far. One that begins later wants its job.
    """

    id: str | None
    claim: int = 0
    how: str = "created"
    attempt: str = ""
    canceled: tuple[str, ...] = ()


class End(_Row):
    """How a job ended.

    Attributes:
        status: A terminal one.
        retryable: Whether another try may do better.
        attempt: The run of the flow that saw it.
        runs: How often the flow had been run by then; one that is resumed is not run again.
        process: The process that saw it.
        output: What it made, where that is small.
        kept: Whether `output` is all of it.
    """

    status: str
    retryable: bool = False
    attempt: str = ""
    runs: int = 0
    process: str = ""
    output: Any = None
    kept: bool = False


class Held(_Row):
    """The call that has a job.

    Attributes:
        key: The call.
        id: The job.
        guard: The call has found it, and keeps others from it until it is known whether one of
            them made it. Only a row that is none says who has it.
    """

    key: str
    id: str
    guard: bool = False


class Entry(_Row):
    """Rows of many calls that were written together, in a log.

    Attributes:
        nonce: Tells this writer's entry from another's.
        rows: What each row says, by its name.
    """

    nonce: str
    rows: dict[str, str]


@dataclass(slots=True)
class Generation:
    """What is written about one try of a call."""

    number: int
    claims: dict[int, Claim] = field(default_factory=dict)
    voids: dict[int, Void] = field(default_factory=dict)
    job: Named | None = None
    end: End | None = None

    @property
    def open(self) -> int | None:
        """The claim of which it is not known what it made; None if there is none."""
        last = max(self.claims, default=0)
        return None if self.job or not last or last in self.voids else last

    @property
    def strays(self) -> list[int]:
        """Claims that may have made a job beside the one that counts, or though there is none."""
        if self.job is None:
            return []
        counts = self.job.claim if self.job.id else None
        return [number for number in self.claims if number not in {counts, *self.voids}]


@dataclass(frozen=True, slots=True)
class ToClaim:
    """Nothing is under way: claim, then create."""

    generation: int
    claim: int


@dataclass(frozen=True, slots=True)
class ToLook:
    """Somebody claimed and did not say what became of it: look for the job."""

    generation: int
    number: int
    claim: Claim


@dataclass(frozen=True, slots=True)
class ToWatch:
    """There is a job; how it ended, if it has."""

    generation: int
    id: str
    end: End | None


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The call was canceled; no job is to be made."""

    generation: int
    why: str


Step: TypeAlias = ToClaim | ToLook | ToWatch | Unwanted


def name(key: str, generation: int, what: Literal["c", "v", "job", "end"], number: int = 0) -> str:
    """The name of a row."""
    return f"{prefix(key)}g{generation:02}-{what}{f'{number:02}' if what in 'cv' else ''}"


def held(job_id: str) -> str:
    """The name of the row that says which call has a job; ids are written as rows can be named."""
    return f"{PREFIX}held-{_plain(job_id)}"


def found(job_id: str) -> str:
    """The name of the row that says which call looked for a job and found it first."""
    return f"{PREFIX}found-{_plain(job_id)}"


def _plain(job_id: str) -> str:
    return re.sub(r"[^a-z0-9]", "", job_id.lower())


def prefix(key: str) -> str:
    """What the names of all rows of a call begin with, and those of no other."""
    return f"{PREFIX}{key}-"


def calls(rows: Iterable[str]) -> dict[str, list[str]]:
    """The names of rows by the call that they are of; those of another purpose are left out."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if match := _NAME.fullmatch(row):
            found.setdefault(match["key"], []).append(row)
    return found


def read(rows: Mapping[str, str]) -> list[Generation]:
    """What the rows of one call say, oldest generation first.

    Raises:
        LedgerError: A row is damaged, or was written by a newer version.
    """
    found: dict[int, Generation] = {}
    for row, value in rows.items():
        match = _NAME.fullmatch(row)
        if match is None:
            continue
        generation = found.setdefault(int(match["g"]), Generation(int(match["g"])))
        number = int(match["n"] or 0)
        if match["one"] == "job":
            generation.job = parsed(Named, row, value)
        elif match["one"] == "end":
            generation.end = parsed(End, row, value)
        elif match["kind"] == "c":
            generation.claims[number] = parsed(Claim, row, value)
        else:
            generation.voids[number] = parsed(Void, row, value)
    return [found[number] for number in sorted(found)]


def next_step(generations: list[Generation], attempt: str, process: str, runs: int = 0) -> Step:
    """What to do about a call, by what is written about it.

    Args:
        generations: As `read` gives them.
        attempt: The run of the flow that asks.
        process: The process that asks.
        runs: How often the flow has been run, 0 where that is not counted.
    """
    if not generations:
        return ToClaim(1, 1)
    newest = generations[-1]
    if newest.job is None:
        return _open(newest)
    following = ToClaim(newest.number + 1, 1)
    if newest.job.id is None:
        # Somebody canceled it. Whoever runs the flow again wants it again.
        canceled = attempt in {newest.job.attempt, *newest.job.canceled}
        again = not canceled or newest.job.how == FRESH
        return following if again else Unwanted(newest.number, newest.job.how)
    end = newest.end
    if end is None or end.status == "succeeded":
        return ToWatch(newest.number, newest.job.id, end)
    again = end.retryable or _from_outside(end, attempt, process, runs)
    return following if again else ToWatch(newest.number, newest.job.id, end)


def _from_outside(end: End, attempt: str, process: str, runs: int) -> bool:
    """Whether somebody has run the flow again since: not the flow itself, in its process.

    Nor has a flow run been run again that was suspended, and went on in another process.
    """
    resumed = runs > 0 and end.runs == runs
    return end.attempt != attempt and end.process != process and not resumed


def _open(generation: Generation) -> Step:
    if (number := generation.open) is None:
        return ToClaim(generation.number, max(generation.claims, default=0) + 1)
    return ToLook(generation.number, number, generation.claims[number])


def parsed(kind: type[R], row: str, value: str) -> R:
    """What a row says.

    Raises:
        LedgerError: It is damaged, or was written by a newer version.
    """
    try:
        content = json.loads(value)
        version = content.get("v")
        if isinstance(version, int) and version > FORMAT:
            raise LedgerError(
                f"The ledger row {row!r} was written by a newer prefect-replicate (format "
                f"{version}, this one knows {FORMAT}). Upgrade this one. Nothing was submitted."
            )
        return kind.model_validate(content)
    except (ValueError, AttributeError, ValidationError):
        raise LedgerError(
            f"The ledger row {row!r} is damaged, so it is not known whether there is a job. "
            f"Nothing was submitted. Look at Replicate's own list for it."
        ) from None
