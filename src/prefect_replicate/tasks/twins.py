"""Two Prefect tasks from one coroutine function, and the options that all of them share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from prefect_replicate.api.retries import transient
from prefect_replicate.jobs.engine import engine

P = ParamSpec("P")
R = TypeVar("R")

RunName = Callable[[dict[str, Any]], str]


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

    return as_task(sync, name, run_name), as_task(asynchronous, f"a{name}", run_name)


def as_task(
    door: Callable[P, R],
    name: str,
    run_name: RunName,
    *,
    kind: type[Any] = Task,
    retry: Callable[[Task[..., Any], TaskRun, State[Any]], Any] = retry_transient,
) -> Task[P, R]:
    """Make a task with the options that all tasks share.

    Args:
        door: What the task runs; it gets the task's name.
        name: The name that it is called by.
        run_name: Makes the task-run name from the call's parameters.
        kind: The class of the task.
        retry: Says whether a failure is tried again.
    """

    # Prefect passes the parameters by name, and only to a function that has one of that name; its
    # type for such a function is private.
    def named(parameters: dict[str, Any]) -> str:
        try:
            return run_name(parameters)
        except Exception:  # noqa: BLE001 - arguments may be anything, and the task itself tells best
            return name

    door.__name__ = door.__qualname__ = name
    made: Task[P, R] = kind(
        door,
        name=name.replace("_", " "),
        task_run_name=cast("Any", named),
        retry_condition_fn=retry,
        # Equal calls in one flow run may mean that many samples; a cache would hand out one.
        cache_policy=NO_CACHE,
    )
    return made
