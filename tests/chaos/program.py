"""A flow in a process of its own, whose calls are cut, each at a point of its own.

The environment says which: CALLS is a JSON object of names and points, and a name begins with the
kind of call. CUT says how: "hang", and the call stays at its point until the process is killed;
"task" or "flow", and it fails there once, in the first try of its task or of its flow; "stop", and
the process stops itself when all calls are at their points; "meet", and it does before it calls at
all; "" for not at all. With DYING it kills itself when so many creates have been answered, before
it can do anything about the answers. RUN is a flow run to go on with.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run, task_run

from prefect_replicate import (
    ReplicateCredentials,
    ReplicateWebhook,
    run_batch,
    run_model,
    save_outputs,
    train_model,
)
from prefect_replicate.api.calls import Call
from prefect_replicate.api.client import Client
from prefect_replicate.api.resources import Job
from prefect_replicate.jobs.packs import Pack
from prefect_replicate.jobs.rows import Rows
from prefect_replicate.jobs.watch import Watch
from prefect_replicate.outputs.store import SavedFile, Store

CALLS: dict[str, str] = json.loads(os.environ["CALLS"])
CUT = os.environ["CUT"]
MODEL = os.environ["MODEL"]
FOLDER = Path(os.environ["FOLDER"])
DYING = int(os.environ.get("DYING", "0"))
BATCH = 3
POSTED = "during the create"
SAVING = "during the download"

_call: ContextVar[str] = ContextVar("_call", default="")
_cut: set[str] = set()
_ended: dict[str, int] = {}
_answered: list[Any] = []
_turn = Watch.turn
_once, _save = Client._once, Store._write
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
    if CUT in {"", "meet"} or meant != point or name in _cut:
        return
    _cut.add(name)
    if CUT in {"hang", "stop"} and len(_cut) == sum(each != POSTED for each in CALLS.values()):
        if CUT == "stop":
            stop(sorted(_cut))
        else:
            say("AT", sorted(_cut))
        _all_cut.set()
    if CUT == "stop":
        while not _all_cut.is_set():
            await asyncio.sleep(0.02)
        return
    if CUT == "hang":
        await asyncio.Event().wait()
    # The others of a batch are interrupted when one fails in this way.
    while name.startswith("batch") and _ended.get(name, 0) < BATCH - 1:
        await asyncio.sleep(0.05)
    raise CutHereError(name)


def stop(where: list[str]) -> None:
    """Stop this process, until somebody lets it go on."""
    say("AT", where)
    # To this very thread: one that is sent to the process may reach it a little later.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def what(row: str) -> str:
    """Which row of a call this is, "" for none that matters; names of rows are known only here."""
    if row.endswith("-g01-c01"):
        return "claim"
    return next((each for each in ("job", "end") if row.endswith(f"-{each}")), "")


def _cut_writes_of(kind: type[Rows] | type[Pack]) -> None:
    write: Any = kind.write

    async def writing(self: Any, name: str, value: str) -> bool:
        return await _writing(partial(write, self, name, value), what(name))

    kind.write = writing  # type: ignore[method-assign]  # cuts it


async def _writing(write: Callable[[], Awaitable[bool]], row: str) -> bool:
    before = {
        "claim": "before the claim",
        "job": "before the record",
        "end": "before the end is written",
    }
    after = {"claim": "after the claim", "job": "after the record"}
    if row:
        await at(before[row])
    new = await write()
    if row in after:
        await at(after[row])
    if row == "end":
        _ended[_call.get()] = _ended.get(_call.get(), 0) + 1
    return new


async def _turning(self: Watch) -> None:
    await at("while it waits")
    await _turn(self)


async def _sending(self: Client, call: Call[Any], body: bytes | None) -> Any:
    if not call.creates_job:
        return await _once(self, call, body)
    await at("after the last check")
    outcome = await _once(self, call, body)
    if DYING:
        _answered.append(outcome)
        if len(_answered) == DYING:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.Event().wait()
    return outcome


async def _saving(self: Store, job: Job, name: str, pieces: AsyncIterator[bytes]) -> SavedFile:
    async def halved() -> AsyncIterator[bytes]:
        async for piece in pieces:
            yield piece[:2]
            if name != "output.json":  # it comes before the files that it describes
                await at(SAVING)
            yield piece[2:]

    return await _save(self, job, name, halved())


# The only places where a call can be cut from inside.
_cut_writes_of(Rows)
_cut_writes_of(Pack)
Watch.turn = _turning  # type: ignore[method-assign]
Client._once = _sending  # type: ignore[method-assign]
Store._write = _saving  # type: ignore[method-assign]


def credentials(point: str) -> ReplicateCredentials:
    """The same for all, but a client of its own for each of two points.

    A call that hangs there keeps one of the few requests that a client has on their way at once.
    """
    suffix = {"before the claim": "/v1", "after the claim": "/"}.get(point, "")
    return ReplicateCredentials(
        api_token=os.environ["REPLICATE_API_TOKEN"],
        base_url=os.environ["REPLICATE_BASE_URL"] + suffix,
    )


def ask(name: str) -> list[Any]:
    """Its job, or those of a batch."""
    kind, point = name.partition(" ")[0], CALLS[name]
    paid, posted = credentials(point), point == POSTED
    if kind == "training":
        base = (FOLDER / f"{name}.base").read_text()
        data = {"training_data": FOLDER / f"{name}.txt"}
        return [train_model(base, "local/trained", data, credentials=paid)]
    if kind == "deployment":
        deployment = "local/posted" if posted else "local/chaos"
        return [run_model(input={"text": name}, deployment=deployment, credentials=paid)]
    model = f"local/posted-{kind}" if posted else MODEL
    if kind == "batch":
        inputs = [{"text": f"{name} {number}"} for number in range(BATCH)]
        return run_batch(model, inputs, credentials=paid)
    hook = ReplicateWebhook(public_url=os.environ["HOOK"]) if kind == "hooked" else None
    return [run_model(model, {"text": text(name)}, credentials=paid, webhook=hook)]


def text(name: str) -> str:
    """What a prediction is asked for: of those that are equal, the same."""
    return "equal" if "equal" in name else name


@task(cache_policy=NO_CACHE, retries=1 if CUT == "task" else 0)
def asking(name: str) -> Any:
    """One call; whatever comes of the first try, it fails."""
    _call.set(name)
    jobs = ask(name)
    if CALLS[name] == SAVING:
        for job in jobs:
            save_outputs(job, FOLDER / "saved")
    if CUT == "task" and task_run.run_count == 1:
        raise CutHereError(name)
    outputs = [job.output for job in jobs]
    return outputs if name.startswith("batch") else outputs[0]


@flow(persist_result=False, retries=1 if CUT == "flow" else 0)
def chaotic() -> Any:
    """All calls at once; those that are cut during the create begin when all others are cut."""
    say("RUN", flow_run.id)
    if CUT == "meet":
        stop(sorted(CALLS))
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


def go_on(run_id: str) -> None:
    """Run a flow run that is there already, as a worker does."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(run_id))
    run_flow(chaotic, flow_run=run)


if __name__ == "__main__":
    if run_id := os.environ.get("RUN"):
        go_on(run_id)
    else:
        chaotic()
