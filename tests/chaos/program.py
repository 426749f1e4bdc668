"""A flow in a process of its own, whose calls are cut, each at a point of its own.

The environment says which: CALLS is a JSON object of names and points, and a name begins with the
kind of call. CUT says how: "hang", and the call stays at its point until the process is killed;
"task" or "flow", and it fails there once, in the first try of its task or of its flow; "" for not
at all.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run, task_run

from prefect_replicate import ReplicateCredentials, run_batch, run_model, train_model
from prefect_replicate.jobs.packs import Pack
from prefect_replicate.jobs.rows import Rows
from prefect_replicate.jobs.watch import Watch

CALLS: dict[str, str] = json.loads(os.environ["CALLS"])
CUT = os.environ["CUT"]
MODEL = os.environ["MODEL"]
FOLDER = Path(os.environ["FOLDER"])
BATCH = 3
POSTED = "during the create"

_call: ContextVar[str] = ContextVar("_call", default="")
_cut: set[str] = set()
_ended: dict[str, int] = {}
_turn = Watch.turn
_all_cut = threading.Event()


class CutHereError(Exception):
    """A call fails at its point, as if the program had a bug there."""


def say(what: str, told: Any) -> None:
    sys.stdout.write(f"{what} {json.dumps(told)}\n")
    sys.stdout.flush()


async def at(point: str) -> None:
    """Cut the call, if this is its point and it was not cut before."""
    name = _call.get()
    meant = CALLS.get(name)
    if meant == POSTED and CUT != "hang":
        meant = "before the record"  # the test lets the answer be lost as well
    if not CUT or meant != point or name in _cut:
        return
    _cut.add(name)
    if CUT == "hang":
        if len(_cut) == sum(each != POSTED for each in CALLS.values()):
            _all_cut.set()
            say("AT", sorted(_cut))
        await asyncio.Event().wait()
    # The others of a batch are interrupted when one fails in this way.
    while name.startswith("batch") and _ended.get(name, 0) < BATCH - 1:
        await asyncio.sleep(0.05)
    raise CutHereError(name)


def _cut_writes_of(kind: type[Rows] | type[Pack]) -> None:
    write: Any = kind.write

    async def writing(self: Any, name: str, value: str) -> bool:
        return await _writing(partial(write, self, name, value), name)

    kind.write = writing  # type: ignore[method-assign]  # cuts it


async def _writing(write: Callable[[], Awaitable[bool]], row: str) -> bool:
    call = _call.get()
    first = row.endswith("-g01-c01")
    if first:
        await at("before the claim")
    if row.endswith("-job"):
        await at("before the record")
    if row.endswith("-end"):
        await at("before the end is written")
    new = await write()
    if first:
        await at("after the claim")
    if row.endswith("-job"):
        await at("after the record")
    if row.endswith("-end"):
        _ended[call] = _ended.get(call, 0) + 1
    return new


async def _turning(self: Watch) -> None:
    await at("while it waits")
    await _turn(self)


# The only places where a call can be cut from inside.
_cut_writes_of(Rows)
_cut_writes_of(Pack)
Watch.turn = _turning  # type: ignore[method-assign]


def credentials(point: str) -> ReplicateCredentials:
    """The same for all, but a client of its own for each of two points.

    A call that hangs there keeps one of the few requests that a client has on their way at once.
    """
    suffix = {"before the claim": "/v1", "after the claim": "/"}.get(point, "")
    return ReplicateCredentials(
        api_token=os.environ["REPLICATE_API_TOKEN"],
        base_url=os.environ["REPLICATE_BASE_URL"] + suffix,
    )


def ask(name: str) -> Any:
    """The output, or those of a batch."""
    kind, point = name.partition(" ")[0], CALLS[name]
    paid, posted = credentials(point), point == POSTED
    if kind == "training":
        base = (FOLDER / f"{name}.base").read_text()
        data = {"training_data": FOLDER / f"{name}.txt"}
        return train_model(base, "local/trained", data, credentials=paid).output
    if kind == "deployment":
        deployment = "local/posted" if posted else "local/chaos"
        made = run_model(input={"text": name}, deployment=deployment, credentials=paid)
        return made.output
    model = f"local/posted-{kind}" if posted else MODEL
    if kind == "prediction":
        return run_model(model, {"text": name}, credentials=paid).output
    inputs = [{"text": f"{name} {number}"} for number in range(BATCH)]
    return [one.output for one in run_batch(model, inputs, credentials=paid)]


@task(cache_policy=NO_CACHE, retries=1 if CUT == "task" else 0)
def asking(name: str) -> Any:
    """One call; whatever comes of the first try, it fails."""
    _call.set(name)
    output = ask(name)
    if CUT == "task" and task_run.run_count == 1:
        raise CutHereError(name)
    return output


@flow(persist_result=False, retries=1 if CUT == "flow" else 0)
def chaotic() -> Any:
    """All calls at once; those that are cut during the create begin when all others are cut."""
    late = [name for name, point in CALLS.items() if point == POSTED]
    asked = {name: asking.submit(name) for name in CALLS if name not in late}
    while CUT == "hang" and asked and not _all_cut.wait(0.1):
        if any(future.state.is_final() for future in asked.values()):
            raise RuntimeError("a call came to its end and was not cut")
    asked |= {name: asking.submit(name) for name in late}
    again = CUT == "flow" and flow_run.get_run_count() == 1
    outputs = {name: future.result(raise_on_failure=not again) for name, future in asked.items()}
    if again:
        raise CutHereError("all")
    say("OUTPUT", outputs)


if __name__ == "__main__":
    chaotic()
