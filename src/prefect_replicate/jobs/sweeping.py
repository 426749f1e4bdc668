"""Go through the flow runs that have jobs, and do for each what nobody is there to do.

What a flow run wants follows from its state: one that was canceled wants nothing, one that crashed
is left alone for a while, since it may be run again, and one that is suspended is resumed when what
it waits for has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus

from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.flow_run import parent_of, tagged
from prefect_replicate.jobs.ledger import Claim
from prefect_replicate.jobs.rows import Rows
from prefect_replicate.jobs.settled import remember
from prefect_replicate.jobs.tending import Payer, Tended, Wanted, tend
from prefect_replicate.jobs.watch import reading, write_end

# On flow runs for which nothing is left to do, with the state in which that was so.
_DONE = "replicate.swept"


@dataclass(frozen=True, slots=True)
class Swept:
    """What was done for one flow run.

    Attributes:
        run: It.
        tended: What was done to its jobs.
        resumed: It was suspended, and goes on.
    """

    run: FlowRun
    tended: Tended
    resumed: bool = False


def wanted_by(state: State[Any] | None, now: datetime, patience: float) -> Wanted:
    """What a flow run in a state still wants. Pure.

    Args:
        state: It; None for a run that has not begun.
        now: The time.
        patience: Seconds for which one that failed or crashed may still be run again.
    """
    if state is None:
        return Wanted()
    name = (state.name or state.type).lower()
    match state.type:
        case StateType.CANCELLED | StateType.CANCELLING:
            why = "The flow run was canceled"
            return Wanted(why, why)
        case StateType.FAILED | StateType.CRASHED:
            if (now - state.timestamp).total_seconds() < patience:
                return Wanted()
            why = f"The flow run has {name}, and nobody ran it again for {patience:g} s"
            return Wanted(why, why)
        case StateType.COMPLETED:
            # A job may be meant to go on: it was created, and not waited for.
            return Wanted(None, "The flow run has completed")
    return Wanted()


async def sweep(payer: Payer, patience: float) -> list[Swept]:
    """Do for every flow run what is to be done; give back those for which there was anything.

    Args:
        payer: Finds who can see and cancel the job of a claim.
        patience: Seconds for which a flow run that failed or crashed may still be run again.
    """
    done: list[Swept] = []
    for run in await tagged():
        if run.labels.get(_DONE) == str(run.state_id):
            continue
        try:
            swept = await _sweep_one(run, payer, patience)
        except Exception as error:  # noqa: BLE001 - whatever Prefect's client raises, there are others
            swept = Swept(run, Tended(troubles=[str(error) or repr(error)], finished=False))
        if swept.tended.deeds or swept.tended.troubles or swept.resumed:
            done.append(swept)
    return done


async def cancel_all(run: FlowRun, payer: Payer) -> Tended:
    """Cancel the jobs of a flow run that is canceled, and those of its subflows.

    Args:
        run: It.
        payer: Finds who can cancel the job of a claim.

    Raises:
        LedgerError: The ledger cannot be read or written; jobs may run on.
    """
    prefect = await engine().prefect_client()
    root = run
    while root.deployment_id is None and (parent := await parent_of(root)):
        root = await prefect.read_flow_run(parent)
    family = {str(each) for each in await _family(prefect, run.id)}
    why = "The flow run was canceled"
    attempts = await _attempts(prefect, root.id)

    def only(claim: Claim) -> bool:
        return root.id == run.id or claim.run in family

    return await tend(Rows(root.id), payer, Wanted(why, why), attempts, only)


async def _sweep_one(run: FlowRun, payer: Payer, patience: float) -> Swept:
    prefect = await engine().prefect_client()
    wanted = wanted_by(run.state, datetime.now(UTC), patience)
    attempts = await _attempts(prefect, run.id) if wanted.claims else []
    tended = await tend(Rows(run.id), payer, wanted, attempts)
    if wanted.claims and tended.finished:
        await prefect.update_flow_run_labels(run.id, {_DONE: str(run.state_id)})
    resumed = False
    if run.state and run.state.is_paused() and run.state.name == "Suspended":
        resumed = await _resume(prefect, run, payer, tended)
    return Swept(run, tended, resumed)


async def _resume(prefect: PrefectClient, run: FlowRun, payer: Payer, tended: Tended) -> bool:
    """Let a suspended flow run go on once all jobs that it had going have ended."""
    if not tended.running or _asks(run.state):
        return False
    ended = []
    for running in tended.running:
        client = await payer(running.claim)
        job = await client.send(reading(running.job))
        if not job.done:
            return False
        ended.append((running, job))
    answer = await prefect.resume_flow_run(run.id)
    if answer.status != SetStateStatus.ACCEPT:
        reason = getattr(answer.details, "reason", answer.status)
        tended.troubles.append(f"The suspended flow run could not be resumed: {reason}")
        return False
    for running, job in ended:
        remember(job, replace(running.ticket, runs=run.run_count), running.generation)
        await write_end(job)
    return True


def _asks(state: State[Any] | None) -> bool:
    """Whether a flow run is suspended until a person tells it something."""
    return bool(state and state.state_details.run_input_keyset)


async def _attempts(prefect: PrefectClient, run_id: UUID) -> list[str]:
    """All runs of a flow run so far, as the ledger names them."""
    states = await prefect.read_flow_run_states(run_id)
    return [state.id.hex for state in states if state.is_running()]


async def _family(prefect: PrefectClient, run_id: UUID) -> set[UUID]:
    """A flow run, its subflows, and theirs."""
    family, young = {run_id}, {run_id}
    while young:
        parents = FlowRunFilterParentFlowRunId(any_=list(young))
        children = await prefect.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=parents)
        )
        young = {child.id for child in children} - family
        family |= young
    return family
