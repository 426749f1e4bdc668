"""The program in processes of its own: run to its end, killed, stopped, let go on, run again."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from prefect.states import Crashed

from tests.chaos.conftest import World

T = TypeVar("T")

PROGRAM = Path(__file__).with_name("program.py")
POSTED = "during the create"
# Long enough for thirty calls at once on a slow machine.
MARGINS = {"SEND": "3", "ANSWER": "7"}


def until(look: Callable[[], T | None], told: Callable[[], str], within: float = 120.0) -> T:
    """What a look gives once it gives something; if it never does, fail with what is told.

    It takes long only where a busy machine has many processes to start.
    """
    end = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < end, told()
        time.sleep(0.05)
    return found


@dataclass
class Running:
    """A process of the program.

    Attributes:
        process: It; what it says is on its stdout.
        log_file: What it logs.
        run: Its flow run, as soon as it has said so.
    """

    process: "subprocess.Popen[str]"
    log_file: Path
    run: str = ""

    def at(self) -> None:
        """Wait until it says that all calls are at their points."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("RUN "):
                self.run = json.loads(line.removeprefix("RUN "))
            if line.startswith("AT "):
                return
        raise AssertionError(self.log())

    def stopped(self) -> None:
        """Wait until it has stopped itself."""
        self.at()
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert self.process.poll() is None, self.log()

    def goes_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def outputs(self) -> dict[str, Any]:
        """Wait for its end; the outputs."""
        told, _ = self.process.communicate(timeout=150)
        for line in told.splitlines():
            if line.startswith("OUTPUT "):
                return dict(json.loads(line.removeprefix("OUTPUT ")))
        raise AssertionError(told + self.log())

    def ended(self) -> int:
        """Wait for its end, whatever it comes to; its exit code."""
        self.process.communicate(timeout=150)
        return self.process.returncode

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text()


class Program:
    """Runs the program, and lets it be killed."""

    def __init__(
        self, world: World, calls: dict[str, str], folder: Path, **environment: str
    ) -> None:
        self.world, self.calls, self.folder = world, calls, folder
        own = "PREFECT_INTEGRATIONS_REPLICATE_LEDGER_"
        self.environment = {
            **os.environ,
            **{f"{own}{name}": value for name, value in MARGINS.items()},
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "REPLICATE_BASE_URL": world.replicate.base_url,
            "REPLICATE_API_TOKEN": world.replicate.token,
            "MODEL": world.model,
            "CALLS": json.dumps(calls),
            "FOLDER": str(folder),
            **environment,
        }

    def killed(self) -> str:
        """Run it until every call is at its point, and kill it there; its flow run."""
        with self.running("hang") as running:
            if any(point != POSTED for point in self.calls.values()):
                running.at()
            self._wait_for_posts(running)
        return running.run

    def ended(self, cut: str) -> dict[str, Any]:
        """Run it to its end; the outputs."""
        with self.running(cut) as running:
            return running.outputs()

    def retried(self, run: str, **more: str) -> dict[str, Any]:
        """Run a flow run again; the outputs."""
        with self.retrying(run, **more) as running:
            return running.outputs()

    @contextmanager
    def retrying(self, run: str, **more: str) -> Iterator[Running]:
        """Run a flow run again, as a person does who sees that it has crashed."""
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(run), Crashed(), force=True)
        entrypoint = ["--entrypoint", f"{PROGRAM}:chaotic"]
        command = ["-m", "prefect", "flow-run", "retry", run, *entrypoint]
        with self.running("", command, **more) as running:
            yield running

    @contextmanager
    def running(self, cut: str, command: list[str] | None = None, **more: str) -> Iterator[Running]:
        """A process of it; it is killed if it is still there in the end."""
        log_file = self.folder / f"{secrets.token_hex(4)}.log"
        with log_file.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *(command or [str(PROGRAM)])],
                env={**self.environment, "CUT": cut, **more},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            yield Running(process, log_file)
        finally:
            process.kill()
            process.communicate()

    def _wait_for_posts(self, running: Running) -> None:
        # Of a batch only the first create is held back; it is not known which item's.
        meant = {name for name, point in self.calls.items() if point == POSTED}

        def posted() -> bool:
            assert running.process.poll() is None, running.log()
            return meant <= {name for each in asked(self.world) for name in _calls_of(each)}

        until(posted, running.log)


def _calls_of(item: str) -> set[str]:
    return {item, item.rpartition(" ")[0]}


def asked(world: World) -> Counter[str]:
    """How often each job was asked for, by the name of its call, and of its item in a batch."""
    names: Counter[str] = Counter()
    for each in world.creates():
        if each.path.endswith("/trainings"):
            names[f"training {each.path.split('/')[-4].removeprefix('base-')}"] += 1
        elif each.body:  # otherwise it is still on its way
            names[json.loads(each.body)["input"]["text"]] += 1
    return names


def made(world: World) -> Counter[str]:
    """The jobs that there are, likewise."""
    names = Counter(job["input"]["text"] for job in world.jobs())
    names.update(f"training {job['model'].rpartition('-')[2]}" for job in world.jobs("trainings"))
    return names
