"""The command `prefect-replicate`, in a process of its own."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from prefect_replicate import LocalReplicate, ReplicateCredentials, run_model
from prefect_replicate.cli import main
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
        (["--models", "/no/such/folder"], "No folder in /no/such/folder has a cog.yaml"),
    ],
)
def test_what_cannot_be_served_is_said_without_a_traceback(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = subprocess.run(
        [*COMMAND, "local", "serve", "--port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
    )
    assert done.returncode == 1, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


# --- push, models, reset ---------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers without --root keep their state."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "prefect-replicate" / "local"


@contextmanager
def _served(*arguments: str) -> Iterator[dict[str, str]]:
    """The command `local serve` while it runs; what it exports."""
    command = [*COMMAND, "local", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        assert server.stdout
        try:
            said = ""
            while "It keeps" not in said:
                line = server.stdout.readline()
                assert line, said
                said += line
            yield {**dict(re.findall(r"export (\w+)=(\S+)", said)), "said": said}
        finally:
            server.terminate()
        assert server.wait(timeout=30) == 0


def _folder(parent: Path, name: str, source: str | None = None) -> Path:
    """The folder of a model that works, or of one with this source."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "cog.yaml").write_text("predict: predict.py:predict\n")
    (folder / "predict.py").write_text(source or f"def predict() -> str:\n    return '{name}'\n")
    return folder


def test_a_server_has_each_model_of_a_folder_and_keeps_them_for_the_next_one(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _folder(tmp_path / "models", "one")
    _folder(tmp_path / "models", "two")
    (tmp_path / "models" / "notes").mkdir()
    with _served("--models", str(tmp_path / "models")) as exports:
        assert f"It keeps its state in {data}." in exports["said"]
        assert main(["local", "models"]) == 0
        running = capfd.readouterr().out
    assert re.findall(r"(\S+):[0-9a-f]{64}\n", running) == ["local/two", "local/one"]
    assert main(["local", "models"]) == 0
    assert capfd.readouterr().out == running


def test_the_server_and_its_commands_do_without_prefect_which_takes_memory(tmp_path: Path) -> None:
    code = (
        "import sys; from prefect_replicate.cli import main; main(sys.argv[1:]); "
        "print('prefect' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "local", "models", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_a_model_is_pushed_to_the_server_that_runs(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(tmp_path, "late")
    with LocalReplicate(data) as server:
        assert main(["local", "push", str(folder), "acme/late", "--official"]) == 0
        pushed = capfd.readouterr().out
        assert pushed == f"pushed {server.push(folder, 'acme/late')}\n"
        output = run_model("acme/late", {}, credentials=server.credentials).text
        assert output == "late"
        assert main(["local", "models"]) == 0
        assert capfd.readouterr().out == pushed.removeprefix("pushed ")[:-1] + " (official)\n"


@pytest.mark.parametrize("root", ["state", "new/state"])
def test_a_model_is_pushed_into_a_folder_in_which_no_server_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], root: str
) -> None:
    folder = _folder(tmp_path, "early")
    assert main(["local", "push", str(folder), "acme/early", "--root", str(tmp_path / root)]) == 0
    pushed = capfd.readouterr().out.split()[1]
    with LocalReplicate(tmp_path / root) as server:
        assert run_model(pushed, {}, credentials=server.credentials).text == "early"


def test_a_server_that_keeps_nothing_is_named_by_what_it_exports(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = _folder(tmp_path, "brief")
    with _served("--ephemeral", "--push", str(folder), "acme/first") as exports:
        assert "It keeps nothing." in exports["said"]
        for name in ("REPLICATE_BASE_URL", "REPLICATE_API_TOKEN"):
            monkeypatch.setenv(name, exports[name])
        assert main(["local", "push", str(folder), "acme/second"]) == 0
        assert main(["local", "models"]) == 0
        assert re.findall(r"(\S+):[0-9a-f]{64}\n", capfd.readouterr().out) == [
            "acme/second",
            "acme/second",
            "acme/first",
        ]
        # A folder that is given comes before the environment.
        assert main(["local", "models", "--root", str(tmp_path)]) == 0
        assert capfd.readouterr().out == ""
    assert not data.exists()
    assert main(["local", "models"]) == 1
    assert "No Local Replicate answers at" in capfd.readouterr().err


def test_an_address_on_another_machine_is_never_meant(
    data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPLICATE_BASE_URL", "https://api.replicate.com")
    assert main(["local", "models"]) == 1
    assert f"there is no {data}" in capfd.readouterr().err


@pytest.mark.parametrize("running", [True, False])
def test_a_broken_folder_is_reported_and_adds_nothing(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str], *, running: bool
) -> None:
    folder = _folder(tmp_path, "broken", "def predict() -> str:\n    return unclosed(\n")
    data.mkdir(parents=True)
    server = LocalReplicate(data)
    if running:
        server.start()
    try:
        assert main(["local", "push", str(folder), "acme/broken"]) == 1
        said = capfd.readouterr().err
        assert said.startswith(f"prefect-replicate: No usable Cog model in {folder}: predict.py")
        assert "return unclosed(" in said
        assert said.endswith("belongs in setup().\n")
        assert main(["local", "models"]) == 0
        assert capfd.readouterr().out == ""
    finally:
        server.stop()


def test_a_reset_asks_before_it_removes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path / "root")]
    main(["local", "push", str(_folder(tmp_path, "kept")), "acme/kept", *root])
    for said in ("no\n", ""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        assert main(["local", "reset", "--models", *root]) == 1
    assert main(["local", "reset", "--yes", *root]) == 0
    capfd.readouterr()
    assert main(["local", "models", *root]) == 0
    assert capfd.readouterr().out.startswith("acme/kept:")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["local", "reset", "--models", *root]) == 0
    asked = capfd.readouterr().out
    assert "Remove all models, deployments, predictions, trainings and files of" in asked
    assert str(tmp_path / "root") in asked
    assert main(["local", "models", *root]) == 0
    assert capfd.readouterr().out == ""


def test_what_cannot_be_pushed_is_said_without_a_traceback(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(tmp_path, "fine")
    assert main(["local", "push", str(folder), "acme"]) == 1
    assert "'acme' is not the name of a model" in capfd.readouterr().err
    assert main(["local", "push", str(tmp_path / "absent"), "acme/absent"]) == 1
    assert f"No usable Cog model in {tmp_path / 'absent'}" in capfd.readouterr().err
    shutil.rmtree(data)
    assert main(["local", "reset"]) == 1
    assert f"there is no {data}" in capfd.readouterr().err


# --- webhooks --------------------------------------------------------------------------------


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
