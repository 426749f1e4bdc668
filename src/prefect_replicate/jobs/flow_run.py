"""The flow run that a job belongs to: its logger, and whether it still wants the job."""

from __future__ import annotations

import logging
from typing import Any, TypeAlias
from uuid import UUID

from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.logging.loggers import get_logger

from prefect_replicate.jobs.engine import engine

Logger: TypeAlias = logging.Logger | logging.LoggerAdapter[Any]


def run_logger() -> Logger:
    """The logger of the task or flow run that calls, or this package's own outside of a flow.

    A task run without a flow has a logger too, but Prefect's server keeps no logs for it, and each
    line would warn of that.
    """
    return get_run_logger() if flow_run_id() else get_logger("prefect_replicate")


def flow_run_id() -> UUID | None:
    """The flow run that calls, if there is one."""
    task = TaskRunContext.get()
    if task and task.task_run.flow_run_id:
        return task.task_run.flow_run_id
    flow = FlowRunContext.get()
    return flow.flow_run.id if flow and flow.flow_run else None


async def being_canceled(flow_run: UUID) -> bool:
    """Whether somebody has asked to cancel the flow run.

    Prefect raises nothing in a thread or in a script that is not served when its run is canceled
    in the UI; only a look at the state tells.
    """
    client = await engine().prefect_client()
    try:
        state = (await client.read_flow_run(flow_run)).state
    except ObjectNotFound:
        return True
    return bool(state and (state.is_cancelling() or state.is_cancelled()))
