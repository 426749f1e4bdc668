"""Calls that ask the same have a place each, on a real Prefect server."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client, tags, task
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import TaskRunContext, hydrated_context, serialize_context
from prefect.deployments import run_deployment
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import AwaitingRetry, Cancelling, Paused, Pending, Running
from starlette.requests import Request

from prefect_replicate.api.errors import LedgerError
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.flow_run import began
from prefect_replicate.jobs.rows import Rows
from prefect_replicate.jobs.slots import Caller, Slots, Try, caller, slots
from tests.chaos.proxy import Proxy

T = TypeVar("T")
PRINT = "abcdefghijklmnopqrstuvwxyz"
ATTEMPT = uuid4().hex


@flow
def _nothing() -> None: ...


@pytest.fixture
def run(prefect_server: None) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.create_flow_run(_nothing)


def do(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return engine().run(work)


def who(run: FlowRun, task: UUID | None = None, tries: int = 1, attempt: str = ATTEMPT) -> Caller:
    """One that calls from a task of the flow."""
    return Caller(run.id, attempt, run.id, (Try(task or uuid4(), tries),))


def within(run: FlowRun, outer: UUID, tries: int = 1) -> Caller:
    """One that calls from a task in a task, or in a flow that the flow called."""
    return Caller(run.id, ATTEMPT, uuid4(), (Try(uuid4(), 1), Try(outer, tries)))


def in_flow(run: FlowRun, attempt: str = ATTEMPT) -> Caller:
    """One that calls from the flow itself, in no task."""
    return Caller(run.id, attempt, run.id)


class SentTwice(Rows):
    """Rows as Prefect's client writes them when the first answer is lost: it sends them again."""

    async def write(self, name: str, value: str) -> bool:
        await Rows.write(self, name, value)
        return await Rows.write(self, name, value)


class Unlucky(Caller):
    @property
    def rows(self) -> Rows:
        return SentTwice(self.flow_run_id)


def take(slots: Slots, *callers: Caller, print_: str = PRINT) -> list[int]:
    async def all_of() -> list[int]:
        return list(await asyncio.gather(*(slots.take(each, print_) for each in callers)))

    return do(all_of)


def test_fifty_equal_calls_at_once_get_fifty_places(run: FlowRun) -> None:
    assert sorted(take(Slots(), *(who(run) for _ in range(50)))) == list(range(50))


def test_equal_calls_of_the_flow_itself_get_a_place_each(run: FlowRun) -> None:
    assert sorted(take(Slots(), *[in_flow(run)] * 10)) == list(range(10))


def test_two_processes_share_the_places_of_an_attempt(run: FlowRun) -> None:
    one, other = Slots(), Slots()

    async def race() -> list[int]:
        calls = [(slots, who(run)) for slots in (one, other) for _ in range(10)]
        return list(await asyncio.gather(*(slots.take(each, PRINT) for slots, each in calls)))

    assert sorted(do(race)) == list(range(20))


def test_other_questions_are_counted_by_themselves(run: FlowRun) -> None:
    slots = Slots()
    assert take(slots, who(run)) == [0]
    assert take(slots, who(run), print_=PRINT[::-1]) == [0]
    assert take(slots, who(run)) == [1]


def test_a_task_that_is_tried_again_finds_its_own_place(run: FlowRun) -> None:
    slots, tasks = Slots(), [uuid4() for _ in range(5)]
    places = take(slots, *(who(run, each) for each in tasks))
    assert take(slots, *(who(run, each, tries=2) for each in tasks)) == places
    # And in a process that was not there the first time.
    assert take(Slots(), *(who(run, each, tries=3) for each in reversed(tasks))) == places[::-1]


def test_a_task_that_asks_the_same_twice_has_two_places_and_finds_both(run: FlowRun) -> None:
    slots, own = Slots(), uuid4()
    take(slots, who(run), who(run))
    places = take(slots, who(run, own), who(run, own))
    assert len(set(places)) == 2
    assert take(slots, who(run)) == [4]
    assert sorted(take(slots, who(run, own, 2), who(run, own, 2))) == sorted(places)


def test_a_task_that_is_tried_again_finds_the_places_of_the_tasks_in_it(run: FlowRun) -> None:
    slots, outer = Slots(), uuid4()
    take(slots, who(run))
    first = take(slots, *(within(run, outer) for _ in range(3)))
    assert sorted(first) == [1, 2, 3]
    assert take(slots, who(run)) == [4]
    # The tasks in it are new ones, with other ids.
    assert sorted(take(slots, *(within(run, outer, tries=2) for _ in range(4)))) == [1, 2, 3, 5]


def test_what_is_tried_again_has_its_places_again_at_any_depth(run: FlowRun) -> None:
    outer, middle = uuid4(), uuid4()

    def calls(outer_tries: int, middle_tries: int, inner: UUID, tries: int = 1) -> Caller:
        tried = (Try(inner, tries), Try(middle, middle_tries), Try(outer, outer_tries))
        return Caller(run.id, ATTEMPT, run.id, tried)

    slots, inner = Slots(), uuid4()
    take(slots, in_flow(run))
    assert take(slots, calls(1, 1, inner)) == [1]
    assert take(slots, calls(1, 1, inner, 2)) == [1]
    assert take(slots, calls(1, 2, inner := uuid4())) == [1]
    assert take(slots, calls(1, 2, inner, 2)) == [1]
    # Those inside are new ones then, with other ids.
    middle = uuid4()
    assert take(Slots(), calls(2, 1, uuid4())) == [1]
    assert take(slots, calls(2, 1, uuid4())) == [2]


def test_processes_that_share_what_is_tried_again_take_over_each_place_once(run: FlowRun) -> None:
    outer = uuid4()

    async def race(tries: int) -> list[int]:
        processes = [Slots() for _ in range(3)]
        calls = [(slots, within(run, outer, tries)) for slots in processes for _ in range(4)]
        return list(await asyncio.gather(*(slots.take(each, PRINT) for slots, each in calls)))

    take(Slots(), who(run))
    for tries in (1, 2, 3):
        assert sorted(do(partial(race, tries))) == list(range(1, 13))


def test_a_try_that_goes_on_though_it_was_given_up_has_no_place_of_its_own(run: FlowRun) -> None:
    slots, own = Slots(), uuid4()
    assert take(slots, who(run, own)) == [0]
    assert take(slots, who(run, own, tries=2)) == [0]
    assert take(slots, who(run, own)) == [0]
    assert take(slots, who(run)) == [1]


def test_a_place_whose_answer_was_lost_is_ones_own_and_leaves_no_gap(run: FlowRun) -> None:
    slots, own = Slots(), uuid4()
    callers = [Unlucky(run.id, ATTEMPT, run.id, (Try(own, 1),)) for _ in range(3)]
    assert sorted(take(slots, *callers)) == [0, 1, 2]
    assert take(slots, in_flow(run)) == [3]
    again = [Unlucky(run.id, ATTEMPT, run.id, (Try(own, 2),)) for _ in range(3)]
    assert sorted(take(slots, *again)) == [0, 1, 2]


def test_a_flow_that_is_run_again_takes_places_anew_from_the_first(run: FlowRun) -> None:
    slots, again = Slots(), uuid4().hex
    assert sorted(take(slots, *(who(run) for _ in range(3)))) == [0, 1, 2]
    calls = [who(run, attempt=again) for _ in range(3)]
    assert sorted(take(slots, *calls)) == [0, 1, 2]
    assert take(slots, in_flow(run, again)) == [3]


def test_two_runs_do_not_share_places(run: FlowRun) -> None:
    with get_client(sync_client=True) as client:
        other = client.create_flow_run(_nothing)
    slots = Slots()
    assert take(slots, who(run)) == take(slots, who(other)) == [0]


@pytest.mark.parametrize("before", [100, 205])
def test_places_go_on_beyond_what_a_server_gives_at_once(run: FlowRun, before: int) -> None:
    mine = uuid4()

    async def fill() -> None:
        gate = asyncio.Semaphore(8)

        async def one(place: int) -> None:
            told = mine if place == before // 2 else uuid4()
            name = f"pr-slot-{PRINT[:16]}-{ATTEMPT}-{place:04}"
            async with gate:
                value = f'{{"v":1,"nonce":"","within":[["{told}",1]]}}'
                assert await Rows(run.id).write(name, value)

        await asyncio.gather(*(one(place) for place in range(before)))

    do(fill)
    assert sorted(take(Slots(), *(who(run) for _ in range(3)))) == [before, before + 1, before + 2]
    assert take(Slots(), who(run, mine, tries=2)) == [before // 2]


def test_a_run_that_is_gone_gives_no_places(prefect_server: None) -> None:
    with pytest.raises(LedgerError, match=r"Could not tag.*Nothing was submitted"):
        do(lambda: Slots().take(Caller(uuid4(), ATTEMPT, uuid4()), PRINT))


@pytest.mark.parametrize("value", ["", "7", "null", "{", '"text"', '{"nonce":"","within":[[7,7]]}'])
def test_a_damaged_place_stops_the_call(run: FlowRun, value: str) -> None:
    row = f"pr-slot-{PRINT[:16]}-{ATTEMPT}-0000"
    do(lambda: Rows(run.id).write(row, value))
    with pytest.raises(LedgerError, match=rf"'{row}' is damaged.*Nothing was submitted"):
        take(Slots(), who(run))


def asked() -> Caller:
    """Who calls."""
    told = do(caller)
    assert told
    return told


def test_nobody_calls_outside_of_a_flow_run(prefect_server: None) -> None:
    @task
    def alone() -> Caller | None:
        return do(caller)

    assert do(caller) is None
    assert alone() is None


def test_each_run_of_a_flow_is_an_attempt_and_a_try_of_a_task_is_none(prefect_server: None) -> None:
    seen: list[tuple[Caller, Caller]] = []

    @task(retries=1)
    def inner() -> Caller:
        told = asked()
        if told.within[0].number == 1:
            raise ValueError
        return told

    @flow(retries=1)
    def outer() -> None:
        seen.append((asked(), inner()))
        if len(seen) == 1:
            raise ValueError

    outer()
    (first, task_of_first), (second, task_of_second) = seen
    assert first.run_id == first.flow_run_id == second.flow_run_id == task_of_first.flow_run_id
    assert first.attempt == task_of_first.attempt
    assert second.attempt == task_of_second.attempt
    assert first.attempt != second.attempt
    assert first.within == ()
    assert [each.number for each in task_of_first.within] == [2]


def test_a_flow_in_a_task_in_a_flow_calls_for_the_outermost_one_wherever_its_tasks_run(
    prefect_server: None,
) -> None:
    seen: dict[str, Caller] = {}

    @task
    def task_of_inner() -> None:
        seen["task of inner"] = asked()
        # What a process gets to know that it runs a task in.
        seen["elsewhere"] = elsewhere(serialize_context())

    @flow(retries=1)
    def inner() -> None:
        seen["inner"] = asked()
        if seen["inner"].within[-1].number == 1:
            raise ValueError
        task_of_inner()

    @task
    def around() -> None:
        seen["task"] = asked()
        inner()

    @flow
    def outer() -> None:
        seen["outer"] = asked()
        around()

    outer()
    root, around_try = seen["outer"], seen["task"].within[0]
    assert {(each.flow_run_id, each.attempt) for each in seen.values()} == {
        (root.flow_run_id, root.attempt)
    }
    assert seen["task"].run_id == root.run_id == root.flow_run_id
    inner_try = Try(seen["inner"].run_id, 2)
    assert seen["inner"].run_id == seen["task of inner"].run_id == seen["elsewhere"].run_id
    assert seen["inner"].run_id != root.run_id
    assert seen["inner"].within == (around_try, inner_try)
    assert seen["task of inner"].within[1:] == (around_try, inner_try)
    assert seen["elsewhere"].within[-1] == inner_try


def elsewhere(
    context: dict[str, Any] | None,
    task: TaskRunContext | None = None,
    settings: dict[Any, Any] | None = None,
) -> Caller:
    """Who calls in a process that was told no more than this."""

    def there() -> Caller:
        with (
            temporary_settings(settings or {}),
            hydrated_context(context),
            task.model_copy() if task else nullcontext(),
        ):
            return asked()

    return Context().run(there)


def test_a_process_that_knows_only_its_task_asks_what_is_around_it(
    prefect_server: None, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    away = {PREFECT_API_URL: f"http://127.0.0.1:{unused_tcp_port}/api"}
    seen: list[Caller] = []

    @task
    def task_of_inner() -> None:
        seen.append(asked())
        known = TaskRunContext.get()
        seen.append(elsewhere(None, known))
        with pytest.raises(LedgerError, match=r"who called it.*Nothing was submitted"):
            elsewhere(None, known, away)

    @flow
    def inner() -> None:
        task_of_inner()

    @flow
    def outer() -> None:
        inner()

    outer()
    assert seen[0] == seen[1]
    assert len(seen[0].within) == 2


def test_a_flow_run_of_a_deployment_is_one_of_its_own_though_a_flow_called_it(
    prefect_server: None,
) -> None:
    @flow
    def inner() -> Caller:
        return asked()

    @flow
    def outer() -> tuple[UUID, Caller]:
        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(client.create_flow(inner), name="own")
            run_deployment(deployment, timeout=0)
            (run,) = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(deployment_id={"any_": [deployment]})
            )
            assert run.parent_task_run_id
            told = Context().run(lambda: run_flow(inner, flow_run=run))
            assert isinstance(told, Caller)
            return run.id, told

    run_id, told = outer()
    assert told.run_id == told.flow_run_id == run_id


def test_a_flow_run_begins_again_when_it_is_run_again_and_not_after_a_pause(run: FlowRun) -> None:
    with get_client(sync_client=True) as client:

        def to(state: State[Any]) -> UUID | None:
            client.set_flow_run_state(run.id, state, force=True)
            return client.read_flow_run(run.id).state_id

        assert do(lambda: began(run.id)) is None
        to(Pending())
        first = to(Running())
        assert do(lambda: began(run.id)) == first
        to(Paused())
        to(Running())
        to(Cancelling())
        assert do(lambda: began(run.id)) == first
        to(AwaitingRetry())
        second = to(Running())
        assert do(lambda: began(run.id)) == second != first


def test_a_flow_run_is_tagged_at_its_first_place_and_keeps_its_tags(prefect_server: None) -> None:
    @flow
    def inner() -> UUID:
        who = asked()
        take(Slots(), who)
        return who.run_id

    @flow
    def outer() -> tuple[UUID, UUID]:
        one, own = asked(), inner()
        with get_client(sync_client=True) as client:
            # A person does so while the flow runs.
            tags = client.read_flow_run(one.run_id).tags
            client.update_flow_run(one.run_id, tags=[*tags, "later"])
        take(Slots(), one)
        return one.run_id, own

    with tags("mine", "yours"):
        root, own = outer()
    with get_client(sync_client=True) as client:
        assert sorted(client.read_flow_run(root).tags) == ["later", "mine", "replicate", "yours"]
        assert sorted(client.read_flow_run(own).tags) == ["mine", "yours"]


def test_a_place_costs_two_requests_and_a_tag_two_more_in_a_flow_that_no_flow_called(
    prefect_server: None,
) -> None:
    api = str(get_current_settings().api.url)
    requests: list[tuple[str, str]] = []

    def note(request: Request, _: bytes) -> None:
        if "/flow_runs/" in request.url.path:  # a new client asks for the version too
            requests.append((request.method, request.url.path.rpartition("/")[2]))

    def taken(slots: Slots, url: str) -> list[tuple[str, str]]:
        requests.clear()
        with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
            told = asked()
            take(slots, told)
        run = str(told.flow_run_id)
        return [(method, path.replace(run, "flow run")) for method, path in requests]

    @task(retries=1)
    def inner(slots: Slots, url: str) -> list[tuple[str, str]]:
        told = taken(slots, url)
        if asked().within[0].number == 1:
            raise ValueError
        return told

    @flow
    def outer() -> list[list[tuple[str, str]]]:
        slots = Slots()
        with Proxy(api.removesuffix("/api"), instead=note).running() as url:
            return [taken(slots, url), taken(slots, url), inner(slots, url)]

    tag = [("GET", "flow run"), ("PATCH", "flow run")]
    place = [("POST", "filter"), ("POST", "input")]
    assert outer() == [tag + place, place, place]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_what_its_parent_was_about_to_do(run: FlowRun) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold(_: Request, __: bytes) -> None:
        held.set()
        go_on.wait(60)

    def in_parent() -> None:
        with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
            do(lambda: slots.take(in_flow(run), PRINT))

    server = str(get_current_settings().api.url).removesuffix("/api")
    with Proxy(server, instead=hold).running() as url:
        thread = threading.Thread(target=copy_context().run, args=[in_parent])
        thread.start()
        assert held.wait(60)
        child = os.fork()
        if child == 0:
            try:
                os._exit(do(lambda: slots.take(in_flow(run), PRINT)))
            finally:
                os._exit(9)
        deadline = time.monotonic() + 60
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        go_on.set()
        thread.join()
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert take(slots, in_flow(run)) == [2]
