"""Hooks for flows: a flow run that is canceled takes its jobs with it.

Prefect runs hooks in another process, which remembers nothing and imports the flow anew. What is
written on the flow run says which jobs there are; credentials are the saved block that made them,
or the default ones of the settings.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import FlowStateHook
from prefect.logging.loggers import flow_run_logger

from prefect_replicate.blocks.credentials import payer_of
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.sweeping import cancel_all

# Seconds. Whoever runs the hook waits for it.
_WITHIN = 60.0


async def cancel_remote_jobs(
    flow: Flow[..., Any],
    flow_run: FlowRun,
    state: State[Any],  # noqa: ARG001 - Prefect's signature
) -> None:
    """Cancel every job that a flow run has, and see to it that no more are made.

    It may run twice, and beside the flow itself. What it cannot do is in the flow run's log; the
    sweep does it later.

    Example:
        ```python
        @flow(on_cancellation=[cancel_remote_jobs])
        def paint(): ...
        ```
    """
    log = flow_run_logger(flow_run, flow)
    try:
        async with asyncio.timeout(_WITHIN):
            tended = await engine().arun(lambda: cancel_all(flow_run, payer_of))
    except Exception as error:  # noqa: BLE001 - other hooks are to run, and the sweep comes later
        log.error("Jobs may run on and cost money until their deadline: %s", error)  # noqa: TRY400 - a person reads it, and the error says all
        return
    for deed in tended.deeds:
        log.info(deed.what)
    for trouble in tended.troubles:
        log.error(trouble)


class Hooks(TypedDict):
    """Arguments of `@flow`."""

    on_cancellation: list[FlowStateHook[..., Any]]


replicate_hooks: Hooks = {"on_cancellation": [cancel_remote_jobs]}
"""For `@flow(**replicate_hooks)`: what is canceled in Prefect is canceled at Replicate."""
