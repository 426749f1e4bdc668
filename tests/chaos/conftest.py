"""Short margins, flow runs that can be run again, and what Local Replicate was asked for."""

import os
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.flow_engine import run_flow
from prefect.runtime import flow_run
from prefect.states import Scheduled

from prefect_replicate import LocalReplicate, ReplicateCredentials, release_deployment
from prefect_replicate.local import Received

# All that there is, and not only what changes are most likely to break.
FULL_SIZE = bool(os.environ.get("PREFECT_REPLICATE_FULL_SIZE"))
# Local Replicate takes and lists a job at once.
MARGINS = {"SEND": "1", "ANSWER": "2", "ACCEPT": "0", "LIST": "0", "LOOK": "0.3"}
QUARANTINE = 3.0
counts: dict[tuple[str, str, str], str] = {}
_stops: list[tuple[str, str, str, float | None, int]] = []


def tell_stop(way: str, what: str, creates: str, canceled_after: float | None, left: int) -> None:
    """A row of the table of calls that were stopped.

    Args:
        way: How they were.
        what: What waited.
        creates: How many were sent, and for how many calls.
        canceled_after: Seconds until no job ran any more, None where jobs are to run on.
        left: Jobs that run on.
    """
    _stops.append((way, what, creates, canceled_after, left))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What became of every call that was cut or stopped."""
    _show_cut(terminalreporter)
    _show_stopped(terminalreporter)


def _show_stopped(terminalreporter: pytest.TerminalReporter) -> None:
    """Of those that are canceled none is left running, and of those that are left all are."""
    if not _stops:
        return
    terminalreporter.section("calls that were stopped: creates / canceled after / left running")
    heads = ("creates", "canceled after", "left")
    terminalreporter.write_line(f"{'':54}" + "".join(f"{head:>16}" for head in heads))
    for way, what, creates, after, left in _stops:
        seconds = "-" if after is None else f"{after:.1f} s"
        terminalreporter.write_line(f"{way:34}{what:20}{creates:>16}{seconds:>16}{left:>16}")


def _show_cut(terminalreporter: pytest.TerminalReporter) -> None:
    """One create and one job each, or it is a failure."""
    if not counts:
        return
    terminalreporter.section("calls that were cut: creates / jobs of each")
    kinds = sorted({kind for _, kind, _ in counts})
    terminalreporter.write_line(f"{'':49}" + "".join(f"{kind:>14}" for kind in kinds))
    for way, point in dict.fromkeys((way, point) for way, _, point in counts):
        cells = "".join(f"{counts.get((way, kind, point), '-'):>14}" for kind in kinds)
        terminalreporter.write_line(f"{way:20}{point:27}{cells}")


class Again:
    """A flow that asks for something, and can be run again as the same flow run."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self.id: UUID | None = None

        @flow(name="asks", persist_result=False)
        def asks() -> Any:
            self.id = UUID(str(flow_run.id))
            return ask()

        self._flow = asks

    def first(self) -> Any:
        """Run it for the first time."""
        return self._flow()

    def again(self) -> Any:
        """Run it again, as `prefect flow-run retry` does."""
        assert self.id is not None
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self.id, Scheduled(), force=True)
            run = client.read_flow_run(self.id)
        return run_flow(self._flow, flow_run=run)

    def rows(self) -> dict[str, str]:
        """What is written about it in the ledger, by name."""
        assert self.id is not None
        return rows_of(self.id)


def rows_of(run: UUID) -> dict[str, str]:
    """What is written about a flow run in the ledger, by name."""
    with get_client(sync_client=True) as client:
        rows = client.filter_flow_run_input(run, key_prefix="pr-", limit=200, exclude_keys=set())
    return {row.key: row.value for row in rows}


class World:
    """Both servers, and what was asked of one of them."""

    def __init__(
        self, replicate: LocalReplicate, credentials: ReplicateCredentials, model: str
    ) -> None:
        self.replicate, self.credentials, self.model = replicate, credentials, model
        self.api = httpx.Client(
            base_url=f"{replicate.base_url}/v1",
            headers={"Authorization": f"Bearer {replicate.token}"},
        )
        body = {"owner": "local", "name": "trained", "visibility": "private", "hardware": "cpu"}
        answer = self.api.post("/models", json=body)
        assert answer.is_success or "already exists" in answer.text, answer.text
        release_deployment("local/chaos", model, "cpu", credentials=credentials)
        replicate.clear_requests()

    def creates(self) -> list[Received]:
        """The creates that were received, oldest first."""
        return [
            each
            for each in self.replicate.requests("POST")
            if each.path.endswith(("/predictions", "/trainings"))
        ]

    def jobs(self, kind: str = "predictions") -> list[dict[str, Any]]:
        """Every prediction or training, newest first."""
        found: list[dict[str, Any]] = []
        page: str | None = f"/{kind}"
        while page:
            answer = self.api.get(page).raise_for_status().json()
            found += answer["results"]
            page = answer["next"]
        return found

    def lists(self, kind: str = "predictions") -> int:
        """How often the list was asked for."""
        return len(self.replicate.requests("GET", f"/{kind}"))

    def foreign(self, **input: Any) -> str:
        """Somebody else asks the same; the id of that job."""
        body = {"version": self.model.partition(":")[2], "input": input}
        return str(self.api.post("/predictions", json=body).raise_for_status().json()["id"])


def leave_out_others() -> None:
    """See to it that a sweep goes through no flow runs of earlier tests."""
    meant = FlowRunFilter(tags=FlowRunFilterTags(all_=["replicate"]))
    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(flow_run_filter=meant):
            for run in runs:
                client.update_flow_run(run.id, tags=[tag for tag in run.tags if tag != "replicate"])


@pytest.fixture
def world(
    prefect_server: None,
    replicate: LocalReplicate,
    credentials: ReplicateCredentials,
    tiny_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Nothing has been asked yet, and margins are short."""
    for name, value in MARGINS.items():
        monkeypatch.setenv(f"PREFECT_INTEGRATIONS_REPLICATE_LEDGER_{name}", value)
    leave_out_others()
    replicate.reset()
    with replicate.behaving():
        yield World(replicate, credentials, tiny_model)
    replicate.clear_faults()
