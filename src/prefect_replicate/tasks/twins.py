"""Two Prefect tasks from one coroutine function, and the options that all of them share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from prefect_replicate.api.errors import (
    CreateUnknownError,
    ModelError,
    RateLimitError,
    TransportError,
)
from prefect_replicate.api.retries import Verdict, judge_failure
from prefect_replicate.jobs.engine import engine

P = ParamSpec("P")
R = TypeVar("R")

RunName = Callable[[dict[str, Any]], str]


def transient(error: BaseException) -> bool:
    """Whether the same call may well succeed later, and trying it cannot pay twice.

    A create whose answer was lost is not: its job may be running.
    """
    if isinstance(error, ModelError):
        failed = error.job
        return failed is not None and judge_failure(failed.error) is Verdict.RETRYABLE
    if isinstance(error, CreateUnknownError):
        return False
    return isinstance(error, TransportError | RateLimitError)


async def retry_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's signature
    """A `retry_condition_fn`: retry what `transient` says, raise everything else at once.

    A plain function on purpose: Prefect 3.8 takes any other callable for "never".

    Example:
        ```python
        @task(retries=3, retry_condition_fn=retry_transient)
        def mine(): ...
        ```
    """
    result = await state.aresult(raise_on_failure=False)
    return isinstance(result, BaseException) and transient(result)


def twins(
    function: Callable[P, Coroutine[Any, Any, R]], run_name: RunName
) -> tuple[Task[P, R], Task[P, Coroutine[Any, Any, R]]]:
    """Make the sync task `name` and the async task `aname` of the coroutine function `_name`.

    Both run the function on the engine; neither has a body of its own. `with_options(retries=3)`
    is safe on both: only what `transient` says is tried again.

    Args:
        function: Named with a leading underscore; its docstring is that of both.
        run_name: Makes the task-run name from the call's parameters.
    """
    name = function.__name__.removeprefix("_")

    @functools.wraps(function)
    def sync(*args: P.args, **kwargs: P.kwargs) -> R:
        return engine().run(lambda: function(*args, **kwargs))

    @functools.wraps(function)
    async def asynchronous(*args: P.args, **kwargs: P.kwargs) -> R:
        return await engine().arun(lambda: function(*args, **kwargs))

    return _task(sync, name, run_name), _task(asynchronous, f"a{name}", run_name)


def _task(door: Callable[P, R], name: str, run_name: RunName) -> Task[P, R]:
    # Prefect passes the parameters by name, and only to a function that has one of that name; its
    # type for such a function is private.
    def named(parameters: dict[str, Any]) -> str:
        try:
            return run_name(parameters)
        except Exception:  # noqa: BLE001 - arguments may be anything, and the task itself tells best
            return name

    door.__name__ = door.__qualname__ = name
    return task(
        name=name.replace("_", " "),
        task_run_name=cast("Any", named),
        retry_condition_fn=retry_transient,
        # Equal calls in one flow run may mean that many samples; a cache would hand out one.
        cache_policy=NO_CACHE,
    )(door)
