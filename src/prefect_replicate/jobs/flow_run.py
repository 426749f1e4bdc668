"""The flow run that a job belongs to: its logger, who called it, and whether it wants the job."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeAlias
from uuid import UUID

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.logging.loggers import get_logger

from prefect_replicate.jobs.engine import engine

Logger: TypeAlias = logging.Logger | logging.LoggerAdapter[Any]

TAG = "replicate"
_PAGE = 200  # a server gives no more at once
_MOST_KNOWN = 10_000
_parents: OrderedDict[UUID, UUID | None] = OrderedDict()


def run_logger() -> Logger:
    """The logger of the task or flow run that calls, or this package's own outside of a flow.

    A task run without a flow has a logger too, but Prefect's server keeps no logs for it, and each
    line would warn of that.
    """
    return get_run_logger() if flow_run_id() else get_logger("prefect_replicate")


def flow_run_id() -> UUID | None:
    """The flow run that calls, if there is one: the inner one, where a task called a flow."""
    flow = FlowRunContext.get()
    if flow and flow.flow_run:
        return flow.flow_run.id
    task = TaskRunContext.get()
    return task.task_run.flow_run_id if task else None


def flow_runs_around() -> Iterator[FlowRun]:
    """The flow runs that the call is in, as far as this process knows, the innermost first.

    Each context knows which one it took the place of; a test notices should that change.
    """
    context: object = FlowRunContext.get()
    while isinstance(context, FlowRunContext):
        if context.flow_run:
            yield context.flow_run
        context = getattr(getattr(context, "_token", None), "old_value", None)


def task_runs_around() -> Iterator[TaskRunContext]:
    """The task runs that the call is in, likewise."""
    context: object = TaskRunContext.get()
    while isinstance(context, TaskRunContext):
        yield context
        context = getattr(getattr(context, "_token", None), "old_value", None)


async def parent_of(run: FlowRun) -> UUID | None:
    """The flow run that called this one, in its own process or as a deployment.

    Asked once in a process. None if none did, or it is gone.
    """
    if run.parent_task_run_id is None:
        return None
    if run.id not in _parents:
        client = await engine().prefect_client()
        try:
            task_run = await client.read_task_run(run.parent_task_run_id)
        except ObjectNotFound:
            return None
        _parents[run.id] = task_run.flow_run_id
        while len(_parents) > _MOST_KNOWN:
            _parents.popitem(last=False)
    return _parents[run.id]


async def being_canceled(flow_run: UUID) -> bool:
    """Whether somebody has asked to cancel the flow run, or one that it was called by.

    Prefect raises nothing in a thread or in a script that is not served when its run is canceled
    in the UI; only a look at the state tells.
    """
    client = await engine().prefect_client()
    by_themselves: list[UUID] = []
    run_id: UUID | None = flow_run
    while run_id:
        try:
            run = await client.read_flow_run(run_id)
        except ObjectNotFound:
            return run_id == flow_run
        state = run.state
        if state and (state.is_cancelling() or state.is_cancelled()):
            return not await _run_again(by_themselves, state.timestamp)
        if run.deployment_id and run.run_count > 1:
            by_themselves.append(run.id)
        run_id = await parent_of(run)
    return False


async def _run_again(flow_runs: Iterable[UUID], since: datetime) -> bool:
    """Whether somebody wants one of them again that had ended, though its caller was canceled."""
    client = await engine().prefect_client()
    for each in flow_runs:
        states = _in_order(await client.read_flow_run_states(each))
        if any(old.is_final() and new.timestamp > since for old, new in pairwise(states)):
            return True
    return False


async def began(flow_run: UUID) -> UUID | None:
    """The state with which the present execution of a flow run began; None if it has none yet.

    It goes on with another state after a pause in its process; one that is run again waits first.
    """
    client = await engine().prefect_client()
    found = None
    for state in _in_order(await client.read_flow_run_states(flow_run)):
        if state.is_running():
            found = found or state.id
        elif state.is_scheduled() or state.is_pending():
            found = None
    return found


def _in_order(states: Iterable[State[Any]]) -> list[State[Any]]:
    return sorted(states, key=lambda state: state.timestamp)


async def tagged() -> list[FlowRun]:
    """All flow runs that have a ledger, newest first."""
    client = await engine().prefect_client()
    meant = FlowRunFilter(tags=FlowRunFilterTags(all_=[TAG]))
    found: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=meant,
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < _PAGE:
            return found


async def tag(flow_run: UUID) -> None:
    """Tag a flow run, by which those that have a ledger are found; it keeps its other tags."""
    client = await engine().prefect_client()
    tags = (await client.read_flow_run(flow_run)).tags
    if TAG not in tags:
        (await client.update_flow_run(flow_run, tags=[*tags, TAG])).raise_for_status()
