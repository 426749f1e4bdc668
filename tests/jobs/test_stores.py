"""Calls outside of a flow run: written down in a mapping of the caller's, if there is one."""

import json
import logging
import os
import shelve
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import fsspec
import pytest
from prefect.settings import get_current_settings

from prefect_replicate import (
    JobKeyError,
    LedgerError,
    LocalReplicate,
    ModelError,
    ReplicateCredentials,
    arun_model,
    create_prediction,
    run_model,
)
from prefect_replicate.jobs import targets
from prefect_replicate.jobs.engine import engine
from prefect_replicate.jobs.stores import Stored
from tests.tasks.conftest import jobs

T = TypeVar("T")
CREATE = {"method": "POST", "path": "/predictions"}
PROGRAM = """
import os, shelve, sys, time
from pathlib import Path
import fsspec
from prefect_replicate import create_prediction

place, text, made = sys.argv[1:]
store = shelve.open(place) if place.endswith("shelf") else fsspec.get_mapper(place, create=True)
job = create_prediction(os.environ["MODEL"], {"do": "sleep", "number": 100, "text": text},
                        job_key=text, job_store=store)
Path(made).write_text(job.id)
if made.endswith("first"):
    time.sleep(600)  # it is killed
"""


def do(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return engine().run(work)


@pytest.fixture(params=["dict", "shelf", "folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MutableMapping[str, Any]]:
    if request.param == "shelf":
        with closing(shelve.open(str(tmp_path / "shelf"))) as opened:
            yield opened
        return
    made: dict[str, Any] = {
        "dict": {},
        "folder": fsspec.get_mapper(f"file://{tmp_path}/folder", create=True),
        "memory": fsspec.get_mapper(f"memory://{tmp_path.name}", create=True),
    }
    yield made[request.param]


def test_a_row_is_written_once_and_read_by_how_its_name_begins(
    store: MutableMapping[str, Any],
) -> None:
    async def rows() -> None:
        ours = Stored(store)
        assert await ours.write("pr-a-1", "é1")
        assert not await ours.write("pr-a-1", "2")
        assert await ours.write("pr-b-1", "3")
        again = Stored(store)
        assert await again.get("pr-a-1") == "é1"
        assert await again.get("pr-a-2") is None
        read = await again.read("pr-a-")
        assert {name: row.value for name, row in read.items()} == {"pr-a-1": "é1"}
        written, now = read["pr-a-1"].at, await again.now()
        assert written is not None
        assert now is not None
        assert 0 <= (now - written).total_seconds() < 60

    do(rows)


def test_another_process_that_wrote_first_has_won(tmp_path: Path) -> None:
    def opened() -> Stored:
        return Stored(fsspec.get_mapper(f"file://{tmp_path}/folder", create=True))

    async def rows() -> None:
        one, other = opened(), opened()
        assert await one.read("pr-") == await other.read("pr-") == {}
        assert await one.write("pr-a", "1")
        assert not await other.write("pr-a", "2")
        assert list(await other.read("pr-")) == ["pr-a"]

    do(rows)


@pytest.mark.parametrize("damaged", ["", "null", "[]", "{}", '{"row": "x", "at": "then"}', b"\xff"])
def test_a_damaged_row_stops_everything(damaged: Any) -> None:
    stored = Stored({"pr-a": damaged})
    for read in (stored.read, stored.get):
        with pytest.raises(LedgerError, match=r"'pr-a' of the job_store is damaged.*Nothing was s"):
            do(lambda read=read: read("pr-a"))  # type: ignore[misc]  # each of them


class Broken(dict[str, str]):
    """A mapping whose disk is full."""

    def setdefault(self, *_: Any) -> NoReturn:
        raise OSError("no space left")


def test_a_mapping_that_fails_stops_everything(
    prefect_server: None,
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
) -> None:
    replicate.clear_requests()
    with pytest.raises(LedgerError, match=r"job_store, a Broken: OSError: no space left.*Nothing"):
        run_model(tiny_model, {}, credentials=credentials, job_key="a", job_store=Broken())
    assert replicate.requests(**CREATE) == []


@pytest.fixture
def asked(
    prefect_server: None,
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    margins = {"SEND": "0.3", "ANSWER": "1.5", "ACCEPT": "0", "LIST": "0", "LOOK": "0.3"}
    for name, value in margins.items():
        monkeypatch.setenv(f"PREFECT_INTEGRATIONS_REPLICATE_LEDGER_{name}", value)
    replicate.reset()
    replicate.clear_requests()

    def ask(store: MutableMapping[str, Any], **input: Any) -> Any:
        return run_model(tiny_model, input, credentials=credentials, job_key="one", job_store=store)

    return ask


def test_outside_of_a_flow_run_one_key_is_one_job(
    asked: Callable[..., Any], replicate: LocalReplicate
) -> None:
    store: dict[str, str] = {}
    with replicate.fault("drop_after", **CREATE):
        made = asked(store, text="a")
    assert asked(store, text="a").id == made.id
    with pytest.raises(JobKeyError, match=rf"in this job_store.*{made.id}, which is 'succeeded'"):
        asked(store, text="b")
    assert asked({}, text="a").id != made.id
    assert len(replicate.requests(**CREATE)) == 2
    assert len({name[:29] for name in store if not name.startswith(("pr-held-", "pr-found-"))}) == 1


async def test_the_async_twin_and_a_job_that_is_only_created_use_the_store_too(
    asked: Callable[..., Any],
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
) -> None:
    says: dict[str, Any] = {"credentials": credentials, "job_key": "one", "job_store": {}}
    made = create_prediction(tiny_model, {"text": "a"}, **says)
    assert (await arun_model(tiny_model, {"text": "a"}, **says)).id == made.id
    assert len(replicate.requests(**CREATE)) == 1


def test_what_failed_is_told_again_in_this_process_and_tried_again_in_the_next(
    asked: Callable[..., Any], replicate: LocalReplicate
) -> None:
    store: dict[str, str] = {}
    for _ in range(2):
        with pytest.raises(ModelError):
            asked(store, do="fail")
    assert len(replicate.requests(**CREATE)) == 1
    end = next(name for name in store if name.endswith("-end"))
    row = json.loads(store[end])
    told = {**json.loads(row["row"]), "attempt": "another", "process": "another"}
    store[end] = json.dumps({**row, "row": json.dumps(told)})
    with pytest.raises(ModelError):
        asked(store, do="fail")
    assert len(replicate.requests(**CREATE)) == 2


def test_that_there_is_no_ledger_is_said_once_in_a_process(
    prefect_server: None,
    credentials: ReplicateCredentials,
    tiny_model: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    targets._told.clear()  # as in a process that has just begun
    with caplog.at_level(logging.INFO):
        for text in "ab":
            run_model(tiny_model, {"text": text}, credentials=credentials)
    assert caplog.text.count("pass `job_key` and `job_store`") == 1


def environment(replicate: LocalReplicate, model: str) -> dict[str, str]:
    own = "PREFECT_INTEGRATIONS_REPLICATE_LEDGER_"
    return {
        **os.environ,
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "REPLICATE_BASE_URL": replicate.base_url,
        "REPLICATE_API_TOKEN": replicate.token,
        "MODEL": model,
        **{f"{own}{name}": "0" for name in ("ACCEPT", "LIST")},
    }


@pytest.mark.timeout(400)  # four processes, which import Prefect each
def test_of_a_process_that_is_killed_the_next_one_has_the_job(
    prefect_server: None, replicate: LocalReplicate, tiny_model: str, tmp_path: Path
) -> None:
    replicate.reset()
    replicate.clear_requests()
    places = {"one": f"{tmp_path}/shelf", "other": f"file://{tmp_path}/folder"}

    def start(text: str, which: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, places[text], text, str(tmp_path / f"{text} {which}")],
            env=environment(replicate, tiny_model),
            stderr=subprocess.PIPE,
            text=True,
        )

    def posted() -> set[str]:
        # The body comes after the head, which is in the log at once.
        bodies = (each.body for each in replicate.requests(**CREATE) if each.body)
        return {json.loads(body)["input"]["text"] for body in bodies}

    # Whichever comes first is killed in the midst of its create, and the other after it.
    with replicate.fault("slow", seconds=60, **CREATE):
        first = [start(text, "first") for text in places]
        until = time.monotonic() + 200
        while posted() != places.keys() or not any(tmp_path.glob("* first")):
            assert time.monotonic() < until
            time.sleep(0.02)
        for running in first:
            running.send_signal(signal.SIGKILL)
            running.communicate()
    again = [start(text, "again") for text in places]
    told = [running.communicate(timeout=150)[1] for running in again]
    found = {text: tmp_path / f"{text} again" for text in places}
    assert all(path.exists() for path in found.values()), told
    listed = {job["input"]["text"]: job["id"] for job in jobs(replicate)}
    assert {text: path.read_text() for text, path in found.items()} == listed
    assert len(replicate.requests(**CREATE)) == 2
    replicate.reset()
