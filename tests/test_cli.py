"""The command `prefect-replicate`, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from prefect_replicate import ReplicateCredentials, run_model
from prefect_replicate.webhooks.signatures import sign
from tests.conftest import TEXT_MODEL

SECRET = "whsec_c2lnbmVkIHdpdGggdGhpcw=="
URL = "https://hooks.example.com"
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


def _environment(**more: str) -> dict[str, str]:
    """What a process of its own needs to use the tests' Prefect server."""
    server = {"PREFECT_API_URL": str(get_current_settings().api.url)}
    setting = "PREFECT_INTEGRATIONS_REPLICATE_"
    return {**os.environ, **server, **{f"{setting}{name}": value for name, value in more.items()}}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_webhooks_serve_receives_until_it_is_told_to_stop(
    prefect_server: None, number: signal.Signals
) -> None:
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(_waits).id
    command = [*COMMAND, "webhooks", "serve", "--port", "0", "--public-url", f"{URL}/"]
    environment = _environment(WEBHOOK_SECRET=SECRET)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout
        try:
            said = "".join(server.stdout.readline() for _ in range(4))
            found = re.search(r"received on (\S+)", said)
            assert found, said
            body = b'{"id": "abc", "status": "succeeded"}'
            headers = sign(SECRET, "msg_1", datetime.now(UTC), body)
            url = f"{found[1]}/{flow_run}/pr-mail-{'a' * 26}"
            answers = [httpx.post(url, content=body, headers=headers).text for _ in range(2)]
        finally:
            server.send_signal(number)
        assert server.wait(timeout=30) == 0
    assert answers == ["Kept.\n", "Known.\n"]
    assert f"export PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_URL={URL}\n" in said
    with get_client(sync_client=True) as client:
        assert "abc" in client.read_flow_run_input(flow_run, f"pr-mail-{'a' * 26}-abc-succeeded")


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        (["--public-url", URL, "--port", "99999"], {"WEBHOOK_SECRET": SECRET}, "99999"),
        (
            ["--public-url", URL, "--host", "no.such.host.invalid"],
            {"WEBHOOK_SECRET": SECRET},
            "no.such",
        ),
        (["--public-url", "example.com"], {"WEBHOOK_SECRET": SECRET}, "'example.com' is no URL"),
        (["--public-url", URL], {"WEBHOOK_SECRET": "secret"}, "The webhook secret is none"),
        (["--public-url", URL], {}, "No Replicate credentials"),
        (["--public-url", URL], {"CREDENTIALS_BLOCK": "absent"}, "'absent'"),
        (["--block", "absent"], {}, "no ReplicateWebhook block named 'absent'"),
        ([], {}, "not known where Replicate's webhooks arrive"),
    ],
)
def test_what_cannot_be_received_is_said_without_a_traceback(
    prefect_server: None, arguments: list[str], settings: dict[str, str], says: str
) -> None:
    done = subprocess.run(
        [*COMMAND, "webhooks", "serve", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=_environment(**settings),
    )
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_webhooks_are_received_though_the_servers_behind_are_down_for_now(
    unused_tcp_port: int,
) -> None:
    nowhere = f"http://127.0.0.1:{unused_tcp_port}"
    command = [*COMMAND, "webhooks", "serve", "--port", "0", "--public-url", URL]
    environment = _environment(BASE_URL=nowhere, API_TOKEN="r8_mine")
    environment |= {"PREFECT_API_URL": f"{nowhere}/api", "REPLICATE_API_TOKEN": "r8_mine"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout
        assert server.stderr
        try:
            found = re.search(r"received on (\S+)", server.stdout.readline())
            up = httpx.get(found[1]).status_code if found else 0
        finally:
            server.terminate()
        warned = server.stderr.read()
        assert server.wait(timeout=30) == 0
    assert up == 200, warned
    assert warned.count("warning: ") == 2
    assert "Traceback" not in warned


@flow
def _waits() -> None:
    """It never runs; what counts is that its run exists."""
