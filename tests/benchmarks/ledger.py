"""What the ledger costs: a batch in a flow run beside the same batch outside of any."""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.benchmarks.service import VERSION

ROOT = Path(__file__).parents[2]
COUNT = 1000
TARGET = 5.0  # milliseconds an item
_LABEL, _CELL = 46, 12


def table(url: str, rounds: int, count: int) -> list[str]:
    """The medians of all rounds, each in a process of its own.

    Args:
        url: Of the service.
        rounds: How many.
        count: Items of the batch.
    """
    seen = []
    for turn in range(rounds):
        sys.stderr.write(f"ledger, round {turn + 1} of {rounds}\n")
        command = [sys.executable, "-m", "tests.benchmarks.ledger", url, str(count)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=900, check=True)
        seen.append(json.loads(done.stdout))
    median = {name: statistics.median(each[name] for each in seen) for name in seen[0]}
    cost = median["in a flow run"] - median["outside"]
    return [
        f"{'milliseconds an item':{_LABEL}}{'here':>{_CELL}}{'target':>{_CELL}}",
        *(f"{name:{_LABEL}}{ms:>{_CELL}.1f}" for name, ms in median.items()),
        f"{'the ledger':{_LABEL}}{cost:>{_CELL}.1f}{TARGET:>{_CELL}.1f}",
    ]


def main(url: str, count: int) -> None:
    """One round; its figures go to stdout."""
    # Prefect reads its environment when it is imported, so not before it is right.
    from prefect import flow  # noqa: PLC0415
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.flow_engine import run_flow  # noqa: PLC0415
    from prefect.runtime import flow_run  # noqa: PLC0415
    from prefect.states import Scheduled  # noqa: PLC0415

    from prefect_replicate import run_batch  # noqa: PLC0415
    from tests.benchmarks.contenders.ours import Ours  # noqa: PLC0415

    credentials = Ours(url, "httpx").credentials
    inputs = [{"prompt": f"lighthouse {number}"} for number in range(count)]
    took: dict[str, float] = {}
    ran: list[UUID] = []

    def timed(name: str) -> None:
        begun = time.perf_counter()
        made = run_batch.fn(VERSION, inputs, credentials=credentials)
        took[name] = (time.perf_counter() - begun) * 1000 / count
        assert len({one.id for one in made}) == count, "two items had one job"

    def asks(name: str) -> Callable[[], None]:
        def work() -> None:
            ran.append(UUID(str(flow_run.id)))
            timed(name)

        return work

    run_batch.fn(VERSION, inputs[: math.ceil(count / 20)], credentials=credentials)
    timed("outside")
    flow(name="benchmark", persist_result=False)(asks("in a flow run"))()
    again: Any = flow(name="benchmark", persist_result=False)(asks("found again, run once more"))
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(ran[0], Scheduled(), force=True)
        run = client.read_flow_run(ran[0])
    run_flow(again, flow_run=run)
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
