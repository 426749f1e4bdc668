"""The ledger on a Prefect server whose database is PostgreSQL, as it is where teams share one."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.chaos.conftest import World

# What is asked of the ledger elsewhere is asked here too: these are the same tests.
from tests.chaos.test_equals import (  # noqa: F401 - pytest runs it
    test_fifty_equal_calls_of_a_batch_have_fifty_jobs_and_the_same_when_run_again,
)
from tests.chaos.test_kill import (
    CALLS,
    bases,  # noqa: F401 - a fixture
    cut_and_asked_again,
)
from tests.chaos.test_zombies import (  # noqa: F401 - pytest runs it
    test_two_machines_that_run_one_flow_run_at_the_same_moment_create_each_job_once,
)

USER = "postgres"  # PostgreSQL does not run as root


def test_calls_that_are_killed_anywhere_have_one_job_each_when_the_run_is_retried(
    world: World,
    bases: list[str],  # noqa: F811 - as above
    tmp_path: Path,
) -> None:
    cut_and_asked_again(world, bases, tmp_path, "retry", CALLS, where="PostgreSQL")


@pytest.fixture(scope="module")
def postgres(unused_tcp_port_factory: Any) -> Iterator[str]:
    """A PostgreSQL of this module's own, as the URL of its database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs += [Path(found)] if (found := shutil.which("initdb")) else []
    if not programs:
        pytest.skip(
            "PostgreSQL is not installed: neither /usr/lib/postgresql/*/bin nor PATH has it"
        )
    folder, port = Path(tempfile.mkdtemp(prefix="prefect-replicate-")), unused_tcp_port_factory()
    other = _somebody_else(folder)
    data = folder / "data"
    try:
        initdb: list[Any] = [programs[-1], "-D", data, "-U", USER, "--auth=trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **other)
        command = [programs[-1].with_name("postgres"), "-D", data, "-p", str(port)]
        for setting in ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"):
            command += ["-c", setting]
        with _running(command, folder / "log", **other) as log:
            _until_ready(log)
            yield f"postgresql+asyncpg://{USER}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)


def _somebody_else(folder: Path) -> dict[str, Any]:
    if os.getuid() != 0:
        return {}
    shutil.chown(folder, USER, USER)
    return {"user": USER, "group": USER, "extra_groups": []}


def _until_ready(log: Path) -> None:
    until = time.monotonic() + 60
    while "ready to accept connections" not in log.read_text():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)


@contextmanager
def _running(command: list[Any], log: Path, **more: Any) -> Iterator[Path]:
    """A server, as what it logs."""
    with log.open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, cwd=log.parent, **more)
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def prefect_server(
    postgres: str, unused_tcp_port_factory: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A Prefect server on that; it stands where the one of the other tests would."""
    port, folder = unused_tcp_port_factory(), tmp_path_factory.mktemp("prefect")
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with _running([*command, "--port", str(port)], folder / "log", env=environment) as log:
        until = time.monotonic() + 120
        while not _answers(url):
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        with temporary_settings({PREFECT_API_URL: url}):
            yield


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False
