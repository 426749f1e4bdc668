"""What can be made to go wrong, and when: faults of requests, of runs and of webhooks.

Pure but for the counting: a fault is asked, at each thing that it may be about, whether it strikes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prefect_replicate.local.behaviour import Seconds
from prefect_replicate.local.received import without_version

Target = Literal["request", "run", "webhook"]

# What each kind is about, and which fields are its own.
KINDS: Mapping[str, tuple[Target, frozenset[str]]] = {
    "drop_before": ("request", frozenset()),
    "drop_after": ("request", frozenset()),
    "drop_and_do": ("request", frozenset({"seconds"})),
    "throttle": ("request", frozenset({"retry_after", "form"})),
    "low_credit": ("request", frozenset({"retry_after"})),
    "no_credit": ("request", frozenset()),
    "bad_gateway": ("request", frozenset({"accepted"})),
    "slow": ("request", frozenset({"seconds"})),
    "truncate": ("request", frozenset({"size"})),
    "fail": ("run", frozenset({"seconds", "error"})),
    "partial": ("run", frozenset()),
    "odd_status": ("run", frozenset({"status"})),
    "cold_boot": ("run", frozenset({"seconds"})),
    "expire": ("run", frozenset({"seconds"})),
    "lose": ("webhook", frozenset()),
    "late": ("webhook", frozenset({"seconds"})),
    "repeat": ("webhook", frozenset({"copies"})),
    "reorder": ("webhook", frozenset()),
    "forge": ("webhook", frozenset({"instead"})),
}
_MATCHING: Mapping[Target, frozenset[str]] = {
    "request": frozenset({"method", "path"}),
    "run": frozenset({"model"}),
    "webhook": frozenset({"model", "event"}),
}
_SCHEDULE = frozenset({"kind", "times", "after", "every", "begin", "lasting"})
# Faults of a single request are asked for in this header of its own.
HEADER = "local-fault"


class Fault(BaseModel):
    """One thing that goes wrong, to whom, and how often.

    Of requests, which `method` and `path` choose:
        drop_before: The connection breaks, and nothing was done.
        drop_after: All is done, and the connection breaks without an answer.
        drop_and_do: The connection breaks, and all is done `seconds` later.
        throttle: 429, with the time to wait as `form` says; in "none" of the three.
        low_credit: 429 of an account with little credit.
        no_credit: 402.
        bad_gateway: 502 with a page of HTML; done all the same if `accepted`.
        slow: The first byte of the answer comes `seconds` late.
        truncate: The answer ends after `size` bytes: JSON with a broken connection, a stream as if
            it had ended.

    Of predictions and trainings, which `model` chooses:
        fail: It fails `seconds` after its start with `error`, which may be null.
        partial: A client that waits is answered at the first part of the output, with status
            "processing".
        odd_status: It has this `status`, which nobody knows, until it ends.
        cold_boot: It stays in "starting" for so many `seconds`.
        expire: Its data are removed `seconds` after its end.

    Of webhooks, which `model` and `event` (start, output or completed) choose:
        lose: It is never sent.
        late: It is sent `seconds` late; those behind it wait.
        repeat: It is sent so many `copies`, all with one id.
        reorder: It is sent after the one about the end, which its client must want to hear of.
        forge: A forgery is sent before it, or `instead`: signed with another secret, it says that
            the run has succeeded.

    Attributes:
        kind: What goes wrong.
        method: Of the requests; None for all.
        path: Of the requests, with or without /v1; may have wildcards (*).
        model: "owner/name"; may have wildcards.
        event: Of the webhooks; None for all.
        times: How often it strikes; None for always.
        after: How many that it could strike are let pass first.
        every: It strikes the first of so many.
        begin: Seconds from now until it may strike.
        lasting: Seconds from then until it no longer does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    method: str | None = None
    path: str | None = None
    model: str | None = None
    event: Literal["start", "output", "completed"] | None = None
    times: int | None = Field(default=1, ge=1)
    after: int = Field(default=0, ge=0)
    every: int = Field(default=1, ge=1)
    begin: Seconds = 0.0
    lasting: Seconds | None = None
    seconds: Seconds = 0.0
    retry_after: int = Field(default=1, ge=0)
    form: Literal["header", "body", "text", "none"] = "header"
    accepted: bool = False
    size: int = Field(default=40, ge=0)
    error: str | None = None
    status: str = "paused"
    copies: int = Field(default=2, ge=2)
    instead: bool = False

    @field_validator("method")
    @classmethod
    def _upper(cls, method: str | None) -> str | None:
        return method and method.upper()

    @field_validator("path")
    @classmethod
    def _bare(cls, path: str | None) -> str | None:
        return path and without_version(path)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no fault; there are {', '.join(KINDS)}")
        target, own = KINDS[self.kind]
        if strange := sorted(self.model_fields_set - own - _MATCHING[target] - _SCHEDULE):
            raise ValueError(f"{self.kind} has no {', '.join(strange)}")
        return self

    @property
    def target(self) -> Target:
        """What it is about."""
        return KINDS[self.kind][0]

    def fits(self, thing: Mapping[str, str]) -> bool:
        """Whether it is about this request, run or webhook, apart from how often."""
        wanted = {name: getattr(self, name) for name in _MATCHING[self.target]}
        return all(
            fnmatchcase(thing[name], str(value))
            for name, value in wanted.items()
            if value is not None
        )


@dataclass(eq=False, slots=True)
class Set:
    """A fault that was set, and what became of it so far.

    Attributes:
        id: What it is removed by.
        at: When it was set, in seconds of some clock.
        met: How many things it was about.
        struck: How many of those it struck.
    """

    id: int
    fault: Fault
    at: float
    met: int = 0
    struck: int = 0

    def strikes(self, thing: Mapping[str, str], now: float) -> bool:
        """Whether it strikes this one; counts it."""
        fault, since = self.fault, now - self.at - self.fault.begin
        if since < 0 or (fault.lasting is not None and since >= fault.lasting):
            return False
        if not fault.fits(thing) or (fault.times is not None and self.struck >= fault.times):
            return False
        self.met += 1
        place = self.met - 1 - fault.after
        if place < 0 or place % fault.every:
            return False
        self.struck += 1
        return True

    def to_json(self) -> dict[str, Any]:
        """It, with its counts."""
        given = self.fault.model_dump(exclude_unset=True)
        return {"id": self.id, **given, "met": self.met, "struck": self.struck}


@dataclass(slots=True)
class Faults:
    """Those that are set. The first one that strikes wins."""

    held: dict[int, Set] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, fault: Fault, now: float) -> Set:
        """Set one."""
        added = Set(next(self._ids), fault, now)
        self.held[added.id] = added
        return added

    def remove(self, number: int) -> Set | None:
        """Take one back; it is given with its counts."""
        return self.held.pop(number, None)

    def clear(self) -> None:
        """Take all back."""
        self.held.clear()

    def strike(self, target: Target, now: float, **thing: str) -> Fault | None:
        """What goes wrong with this request, run or webhook, if anything does."""
        for each in self.held.values():
            if each.fault.target == target and each.strikes(thing, now):
                return each.fault
        return None
