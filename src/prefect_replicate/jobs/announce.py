"""Show a job that has begun: in the run's log, in the name of its task run, and as a link."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from prefect.artifacts import MarkdownArtifact, acreate_link_artifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.exceptions import ObjectNotFound

from prefect_replicate.api.errors import ReplicateError
from prefect_replicate.api.resources import Job, Prediction
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.flow_run import flow_run_id, run_logger

# Prefect's client tries long and often; what it shows is worth no more than this, in seconds.
SHOW_WITHIN = 5.0
# A busy server hears of a task run's state some seconds after it began; looked for this long.
HEARD_WITHIN = 60.0
# Between what a task does and the job that does it, in the task run's name.
_MARK = " · "
_MOST_LINES = 1000
_UNSAFE = re.compile(r"[\s|<>`*_\[\]()!]+")
# Kept, since the loop itself keeps no hold of a task that nobody awaits.
_naming: set[asyncio.Task[None]] = set()


async def announce(job: Job) -> None:
    """Say where a job can be watched. A Prefect server that does not answer is no trouble.

    Outside of a flow run there is the log only.
    """
    kind, where = type(job).__name__.lower(), job.urls.web or job.id
    run_logger().info("Started %s of '%s': %s", kind, job.reference, where)
    await _show(lambda prefect: _in_prefect(prefect, job))


async def announce_batch(what: str, ended: Sequence[Prediction | ReplicateError]) -> None:
    """Say what became of each prediction of a batch, in one table."""
    good = sum(isinstance(end, Prediction) for end in ended)
    run_logger().info("%d of %d predictions of '%s' succeeded", good, len(ended), what)
    table = "\n".join(
        [
            f"# {good} of {len(ended)} succeeded",
            "",
            "| input | prediction | seconds | what became of it |",
            "| --: | --- | --: | --- |",
            *(_line(at, end) for at, end in enumerate(ended[:_MOST_LINES])),
            *(["", f"{len(ended) - _MOST_LINES} more"] if len(ended) > _MOST_LINES else []),
        ]
    )
    artifact = MarkdownArtifact(
        markdown=table, key=_key(what.partition(":")[0]), description=f"Batch of {what}"
    )
    await _show(artifact.acreate)


def _line(at: int, end: Prediction | ReplicateError) -> str:
    job = end if isinstance(end, Prediction) else getattr(end, "job", None)
    shown = f"[{job.id}]({job.urls.web})" if job and job.urls.web else (job.id if job else "")
    seconds = job.metrics.get("predict_time") if job else None
    # What an error says may hold anything, and must not end the cell or become markup.
    fate = "succeeded" if isinstance(end, Prediction) else plain(str(end))[:200]
    return f"| {at} | {shown} | {f'{seconds:.1f}' if isinstance(seconds, float) else ''} | {fate} |"


def plain(text: str) -> str:
    """A text that ends no cell of a table, and is no markup."""
    return _UNSAFE.sub(" ", text)


async def _show(show: Callable[[PrefectClient], Awaitable[object]]) -> None:
    if flow_run_id() is None:
        return
    try:
        async with asyncio.timeout(SHOW_WITHIN):
            await show(await engine().prefect_client())
    except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, the job matters more
        run_logger().warning("Prefect's UI does not show it: %s", error)


async def _in_prefect(prefect: PrefectClient, job: Job) -> None:
    if context := TaskRunContext.get():
        run = context.task_run
        # In place of that of an earlier attempt. Prefect sends the run with its name again with
        # each state to come, and so takes this one over.
        run.name = f"{run.name.partition(_MARK)[0]}{_MARK}{job.id[:8]}"
        naming = asyncio.create_task(_name(prefect, run))
        _naming.add(naming)
        naming.add_done_callback(_naming.discard)
    await _link(prefect, job)


async def _name(prefect: PrefectClient, run: TaskRun) -> None:
    """Tell the server the new name once it has heard of the state that had the old one."""
    began = run.state and run.state.timestamp
    pause = 0.1
    with suppress(Exception):  # A name is worth no trouble, and `_link` warns of a server away.
        async with asyncio.timeout(HEARD_WITHIN):
            while began:
                with suppress(ObjectNotFound):
                    state = (await prefect.read_task_run(run.id)).state
                    if state and state.timestamp >= began:
                        break
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            await prefect.set_task_run_name(run.id, run.name)


async def _link(prefect: PrefectClient, job: Job) -> None:
    """One artifact for each model, whose history are its jobs."""
    if job.urls.web is None:
        return
    kind = type(job).__name__
    await acreate_link_artifact(
        link=job.urls.web,
        link_text=f"{kind} {job.id} of {job.reference}",
        key=_key(job.reference),
        description=f"{kind} {job.id[:8]}",
        client=prefect,
    )


def _key(reference: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"replicate {reference}".lower()).strip("-")
