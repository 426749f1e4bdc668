"""The servers that `local` measures, each in a process of its own, and what is seen of them."""

import http.client
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import models

ROOT = Path(__file__).parents[2]
_START = 60.0  # seconds
_STOP = 30.0
_NONE = (math.nan, math.nan)


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        versions: What to ask for to get a model; nothing where there is only one.
        answered: Seconds from its start, imports of the starting module not counted, to its first
            answer.
    """

    pid: int
    port: int
    path: str
    headers: dict[str, str]
    versions: dict[str, str]
    answered: float = math.nan

    def load(
        self,
        clients: int,
        count: int,
        *,
        model: str = "echo",
        first: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Ask for so many predictions, by so many clients in one other process.

        Args:
            clients: How many connections.
            count: How many predictions.
            model: Which.
            first: Another input for the first.

        Raises:
            RuntimeError: One was answered otherwise than with success.
        """
        version = {"version": self.versions[model]} if self.versions else {}
        body = {**version, "input": {}}
        order = {
            "host": "127.0.0.1",
            "port": self.port,
            "path": self.path,
            "headers": self.headers,
            "body": body,
            "first": {**body, "input": first} if first else body,
            "clients": clients,
            "count": count,
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.load"],
            cwd=ROOT,
            input=json.dumps(order),
            stdout=subprocess.PIPE,
            text=True,
            timeout=600,
            check=True,
        )
        figures: dict[str, Any] = json.loads(done.stdout)
        if figures["succeeded"] != count:
            raise RuntimeError(f"{figures['succeeded']} of {count} succeeded: {figures['other']}")
        return figures

    def cpu(self) -> float:
        """Seconds of CPU that the process has used; not a number where /proc is missing."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not stat.exists():
            return math.nan
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> tuple[float, float]:
        """MB of the process alone, RSS and PSS; not numbers where /proc is missing."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup")
        if not rollup.exists():
            return _NONE
        text = rollup.read_text()
        rss, pss = (int(text.partition(name)[2].split()[0]) for name in ("\nRss:", "\nPss:"))
        return rss / 1024, pss / 1024


@contextmanager
def local_replicate(folder: Path) -> Iterator[Server]:
    """Local Replicate with the models of `models`, which ends when its input does."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.local_server", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            report = json.loads(process.stdout.readline())
            yield Server(
                process.pid,
                report["port"],
                "/v1/predictions",
                {"Authorization": f"Bearer {report['token']}", "Prefer": "wait=60"},
                report["versions"],
                report["answered"],
            )
        finally:
            process.stdin.close()
            _end(process)


@contextmanager
def coglet_alone(folder: Path) -> Iterator[Server]:
    """The echo model on coglet itself: no queue, no input checks, no database."""
    port = _free_port()
    model = models.write(folder, "echo")
    # coglet starts its model with whatever `python` it finds.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    with (folder / "coglet.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"],
            cwd=model,
            env={
                **os.environ,
                "PATH": path,
                "PORT": str(port),
                "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
                "COG_LOG_LEVEL": "warning",
            },
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_ready(port)
            yield Server(process.pid, port, "/predictions", {}, {})
        finally:
            process.terminate()
            _end(process)


def _wait_until_ready(port: int) -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health-check")
            if json.load(connection.getresponse())["status"] == "READY":
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise TimeoutError(f"coglet was not ready after {_START:.0f} s")


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
