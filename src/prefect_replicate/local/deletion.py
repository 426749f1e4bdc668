"""What stands in the way of deleting something, and what goes with it."""

from __future__ import annotations

from datetime import datetime, timedelta

from prefect_replicate.local.records import Deployment, Model, Run, Version, timestamp
from prefect_replicate.local.state import State


def user_of(state: State, version: Version) -> str | None:
    """What else needs a version, in words; None if it can be deleted."""
    for _, deployment in state.deployments.newest():
        if f"{deployment.model}:{deployment.version}" == version.reference:
            return f"deployment {deployment.owner}/{deployment.name} runs it"
    for _, other in state.versions.newest():
        if other.base == version.reference != other.reference:
            return f"it is the base of {other.reference}"
    for run in _unfinished(state):
        if run.kind == "training" and f"{run.model}:{run.version}" == version.reference:
            return f"training {run.id} begins with it"
    return None


def training_into(state: State, model: Model) -> Run | None:
    """A training that is about to give a model a version."""
    name = f"{model.owner}/{model.name}"
    return next((run for run in _unfinished(state) if run.destination == name), None)


def predictions_of(state: State, version: Version) -> list[Run]:
    """All predictions that a version made or makes."""
    runs = (run for _, run in state.runs.newest({"kind": "prediction"}))
    return [run for run in runs if f"{run.model}:{run.version}" == version.reference]


def unused(state: State, deployment: Deployment, rest: float, now: datetime) -> bool:
    """Whether a deployment was neither changed nor used for so many seconds."""
    limit = timestamp(now - timedelta(seconds=rest))
    runs = (run for _, run in state.runs.newest({"kind": "prediction"}))
    ends = (run.completed_at for run in runs if run.deployment == deployment.name)
    return all(end is not None and end <= limit for end in [deployment.released_at, *ends])


def unfinished_of(state: State, deployment: Deployment) -> list[Run]:
    """The predictions that a deployment makes now."""
    return [run for run in _unfinished(state) if run.deployment == deployment.name]


def _unfinished(state: State) -> list[Run]:
    # What is written down before a run's end is its start.
    return [run for _, run in state.runs.newest({"status": "starting"})]
