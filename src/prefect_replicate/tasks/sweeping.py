"""Do for flow runs what nobody is there to do: cancel, look for lost jobs, resume."""

from __future__ import annotations

from functools import partial

from prefect.artifacts import acreate_markdown_artifact
from prefect.events import emit_event
from pydantic import BaseModel

from prefect_replicate.api.errors import BadInputError
from prefect_replicate.blocks.credentials import ReplicateCredentials, payer_of
from prefect_replicate.jobs import sweeping
from prefect_replicate.jobs.announce import plain
from prefect_replicate.jobs.flow_run import flow_run_id, run_logger
from prefect_replicate.settings import read_settings
from prefect_replicate.tasks.twins import twins


class SweptRun(BaseModel):
    """What was done for one flow run.

    Attributes:
        flow_run: Its name.
        flow_run_id: Its id.
        canceled: Ids of the jobs that were canceled for it.
        deeds: Everything that was done, in words, with what became of jobs and money.
        troubles: What could not be done; jobs may run on.
        resumed: It was suspended, and its jobs have ended.
    """

    flow_run: str
    flow_run_id: str
    canceled: list[str]
    deeds: list[str]
    troubles: list[str]
    resumed: bool


async def _sweep_jobs(
    *, credentials: ReplicateCredentials | None = None, patience: float | None = None
) -> list[SweptRun]:
    """Cancel the jobs that nobody wants, and find those that nobody knows of.

    Every flow run with jobs has the tag `replicate`. Jobs of those that were canceled are canceled,
    and of those that failed or crashed if nobody ran them again. Where a process slept or was cut
    off while it made a job, lists are searched for what it made. Suspended ones are resumed when
    their jobs have ended. Run it every few minutes; what is done is not done twice.

    Args:
        credentials: Who can cancel the jobs; those that made them if None, where they are saved,
            or else the default ones.
        patience: Seconds for which a flow run that failed or crashed may still be run again; the
            setting `sweep_patience` if None.

    Returns:
        The flow runs for which something was done or could not be done.

    Example:
        ```python
        @flow
        def sweep():
            return sweep_jobs()

        sweep.serve("every five minutes", interval=300)
        ```
    """
    seconds = read_settings().sweep_patience if patience is None else patience
    if not seconds >= 0:
        raise BadInputError(f"Patience is 0 seconds or more, not {seconds}. Nothing was done.")
    swept = await sweeping.sweep(partial(payer_of, credentials=credentials), seconds)
    runs = [_told(each) for each in swept]
    for run in runs:
        for deed in run.deeds:
            run_logger().info("%s: %s", run.flow_run, deed)
        for trouble in run.troubles:
            run_logger().error("%s: %s", run.flow_run, trouble)
    if flow_run_id() and runs:
        await acreate_markdown_artifact(
            _report(runs), key="replicate-sweep", description="What the sweep did"
        )
    return runs


def _told(swept: sweeping.Swept) -> SweptRun:
    tended = swept.tended
    for deed in tended.deeds:
        if deed.job:
            emit_event(
                "replicate.job.canceled",
                resource={"prefect.resource.id": f"replicate.job.{deed.job.id}"},
                related=[
                    {
                        "prefect.resource.id": f"prefect.flow-run.{swept.run.id}",
                        "prefect.resource.role": "flow-run",
                    }
                ],
                payload={"what": deed.what, "status": deed.job.status},
            )
    return SweptRun(
        flow_run=swept.run.name,
        flow_run_id=str(swept.run.id),
        canceled=[deed.job.id for deed in tended.deeds if deed.job],
        deeds=[deed.what for deed in tended.deeds],
        troubles=tended.troubles,
        resumed=swept.resumed,
    )


def _report(runs: list[SweptRun]) -> str:
    lines = ["| flow run | what was done |", "| --- | --- |"]
    for run in runs:
        resumed = ["resumed: its jobs have ended"] if run.resumed else []
        told = [*run.deeds, *resumed, *(f"**not done**: {trouble}" for trouble in run.troubles)]
        lines += [f"| {run.flow_run} | {plain(what)} |" for what in told]
    return "\n".join(lines)


sweep_jobs, asweep_jobs = twins(_sweep_jobs, lambda _: "sweep jobs")
