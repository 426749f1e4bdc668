"""The command `prefect-replicate`, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from prefect_replicate import ReplicateCredentials, run_model
from tests.conftest import TEXT_MODEL

COMMAND: list[str | Path] = [Path(sys.executable).with_name("prefect-replicate")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_local_serve_runs_until_it_is_told_to_stop(
    prefect_server: None, tmp_path: Path, number: signal.Signals
) -> None:
    serve = ["local", "serve", "--port", "0", "--root", str(tmp_path)]
    command = [*COMMAND, *serve, "--push", str(TEXT_MODEL), "acme/text"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        said = "".join(server.stdout.readline() for _ in range(4))
        exports = dict(re.findall(r"export (\w+)=(\S+)", said))
        credentials = ReplicateCredentials(
            api_token=exports["REPLICATE_API_TOKEN"], base_url=exports["REPLICATE_BASE_URL"]
        )
        try:
            text = run_model("acme/text", {"prompt": "In the "}, credentials=credentials).text
        finally:
            server.send_signal(number)
        assert server.wait(timeout=30) == 0
    assert len(text) == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(exports["REPLICATE_BASE_URL"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--root", "/proc/nothing"], "/proc/nothing"),
        (["--push", "/no/such/folder", "acme/text"], "/no/such/folder"),
        (["--push", str(TEXT_MODEL), "acme"], "'acme'"),
    ],
)
def test_what_cannot_be_served_is_said_without_a_traceback(arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [*COMMAND, "local", "serve", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
