"""What runs Cog models, as the rest of Local Replicate sees it: workers and what they tell.

Names no engine. The one there is, coglet, is in `cog_worker`; another would stand
beside it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


class StartFailed(Exception):
    """A worker did not become ready.

    Attributes:
        logs: What it printed until then.
    """

    def __init__(self, reason: str, logs: str = "") -> None:
        super().__init__(reason)
        self.logs = logs


class WorkerLost(Exception):
    """The worker's process died or stopped answering."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file in an output. Whoever gets it may move it, before the next event is asked for.

    Attributes:
        path: Where it is; its suffix is that of the model's file.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class Started:
    """The model begins, or begins again: then the output so far is void."""


@dataclass(frozen=True, slots=True)
class Logged:
    """The model printed something."""

    text: str


@dataclass(frozen=True, slots=True)
class Produced:
    """A part of the output; the only one, unless the output is a list.

    Attributes:
        index: Its place in the list.
        value: JSON, with an OutputFile for each file.
    """

    index: int
    value: Any


@dataclass(frozen=True, slots=True)
class Ended:
    """The end, which carries everything again, files that were moved meanwhile as plain names."""

    status: Literal["succeeded", "failed", "canceled"]
    output: Any
    error: str | None
    logs: str
    metrics: dict[str, Any]


Event = Started | Logged | Produced | Ended


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker runs.

    Attributes:
        key: Equal keys may share a worker.
        source: Folder of the model's code; it is copied, never touched.
        schema: Content of `.cog/openapi_schema.json` for this mode.
        reference: "predict.py:Predictor" or "train.py:train".
        concurrency: How many predictions run at a time.
        weights: URL of the weights, for versions that a training made.
        single_use: Never keep it for another prediction.
    """

    key: str
    source: Path
    schema: dict[str, Any]
    reference: str
    mode: Literal["predict", "train"]
    concurrency: int = 1
    weights: str | None = None
    single_use: bool = False


class Worker(Protocol):
    """One process that runs a model."""

    @property
    def usable(self) -> bool:
        """Whether it can take another prediction."""
        ...

    async def start(self) -> None:
        """Return when the model is ready.

        Raises:
            StartFailed: It is not, with the reason and its logs.
        """
        ...

    def run(self, run_id: str, payload: dict[str, Any]) -> AsyncGenerator[Event]:
        """Run the model once and tell what happens, in order.

        Raises:
            WorkerLost: The process is gone.
        """
        ...

    async def cancel(self, run_id: str) -> None:
        """Ask the model to stop; it may not listen."""
        ...

    def kill(self) -> None:
        """End the process and all that it started, now."""
        ...

    async def close(self) -> None:
        """Kill it, wait until it is gone and remove its folder."""
        ...
