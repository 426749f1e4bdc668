"""Cancel a job when the transaction that it was made in is rolled back.

Prefect gives each task run a transaction of its own, rolls it back whenever the task fails, and
with it all around it. That is no reason to cancel anything: the task may be tried again and want
its job. Only where somebody has opened a transaction (`with transaction():`), and it is rolled
back, nothing that was made in it is wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
from prefect.context import TaskRunContext
from prefect.transactions import AsyncTransaction, BaseTransaction, get_transaction

from prefect_replicate.api.client import Client
from prefect_replicate.api.errors import ReplicateError
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.flow_run import run_logger
from prefect_replicate.jobs.watch import abandon, reading, write_end


@dataclass(frozen=True, slots=True)
class _Undo:
    """What is to be undone, and by whom it was done.

    Attributes:
        inner: Transactions of task runs inside the one that somebody opened, innermost first.
        tasks: Ids of those task runs.
    """

    client: Client
    job: Job
    inner: tuple[BaseTransaction, ...]
    tasks: frozenset[str]

    def is_due(self) -> bool:
        """Whether the job is unwanted; asked while the transaction is rolled back."""
        if any(each.is_committed() for each in self.inner):
            return False  # what is committed is not undone
        return not self._is_tried_again()

    def _is_tried_again(self) -> bool:
        """Whether it is the task itself that fails, and Prefect will try it again."""
        run, failure = TaskRunContext.get(), sys.exc_info()[1]
        if run is None or str(run.task_run.id) not in self.tasks:
            return False
        retried = failure is None or isinstance(failure, Exception)
        return retried and run.task_run.run_count <= run.task.retries

    async def carry_out(self) -> None:
        """Cancel the job unless it has ended. Never raises what can be told instead."""
        job, kind = self.job, type(self.job).__name__
        run_logger().info("The transaction is rolled back: canceling %s %s", kind, job.id)
        try:
            job = await self.client.send(reading(job))
        except ReplicateError as error:
            run_logger().warning("%s %s could not be read: %s", kind, job.id, error)
        if job.done:
            run_logger().info("%s %s had ended already, as '%s'", kind, job.id, job.status)
            await write_end(job)
            return
        await abandon(self.client, job, undone=True)


def undo_with_transaction(client: Client, job: Job) -> None:
    """See to it that a job is canceled if the transaction around the call is rolled back.

    Args:
        client: Who may cancel it.
        job: As it was created, or found again.
    """
    if job.done:
        return
    inner: list[BaseTransaction] = []
    opened = get_transaction()
    while opened is not None and _is_of_a_task(opened):
        inner.append(opened)
        opened = opened.get_parent()
    if opened is None:
        return
    if opened.is_rolled_back() and inner:
        # By an earlier try of the task, and Prefect does it once. Of this try it still does.
        opened = inner[-1]
    tasks = frozenset(filter(None, map(_task_run, inner)))
    undo = _Undo(client, job, tuple(inner), tasks)
    opened.on_rollback_hooks.append(_hook(undo, awaited=isinstance(opened, AsyncTransaction)))


def _hook(undo: _Undo, *, awaited: bool) -> Callable[[Any], Any]:
    def roll_back(_: BaseTransaction) -> None:
        try:
            if undo.is_due():
                engine().run(undo.carry_out)
        except Exception as error:  # noqa: BLE001 - it would keep the hooks of others from running
            _say(undo, error)

    async def aroll_back(_: BaseTransaction) -> None:
        try:
            if undo.is_due():
                # Prefect's timeouts cancel every await, and this one must have its time.
                with anyio.CancelScope(shield=True):
                    await engine().arun(undo.carry_out)
        except Exception as error:  # noqa: BLE001 - as above
            _say(undo, error)

    hook: Any = aroll_back if awaited else roll_back
    hook.log_on_run = False  # it says itself what it does
    return hook  # type: ignore[no-any-return]  # one of the two


def _say(undo: _Undo, error: Exception) -> None:
    where = undo.job.urls.web or undo.job.id
    run_logger().error(
        "The transaction was rolled back, but %s may run on and cost money: %s", where, error
    )


def _is_of_a_task(one: BaseTransaction) -> bool:
    """Whether it is a task run's own and not one that somebody has opened.

    Prefect marks neither. A task run's own has a store, as others have only with a key, and is the
    outermost of those that log to that task run.
    """
    run, around = _task_run(one), one.get_parent()
    if one.store is None or run is None:
        return False
    while around is not None:
        if _task_run(around) == run:
            return False
        around = around.get_parent()
    return True


def _task_run(one: BaseTransaction) -> str | None:
    """Id of the task run that it logs to, if it does."""
    extra = getattr(one.logger, "extra", None) or {}
    run = extra.get("task_run_id")
    return None if run is None else str(run)
