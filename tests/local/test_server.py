import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from prefect_replicate.local import LocalReplicate, LocalReplicateError
from prefect_replicate.local.cog_worker import LEFTOVERS
from prefect_replicate.local.schema import BrokenModel
from tests.local.conftest import Api, Client, ModelFolder

ENDLESS = """
from pathlib import Path
Path(__file__).with_name("importing").touch()
while True:
    pass
"""
PUSHER = """
import sys
from prefect_replicate.local import LocalReplicate
server = LocalReplicate(sys.argv[1])
server.start()
server.push(sys.argv[2], "acme/endless")
"""
HOST = """
import sys, time
import httpx
from prefect_replicate.local import LocalReplicate
server = LocalReplicate(sys.argv[1])
server.start()
version = server.push(sys.argv[2], "acme/spin")
headers = {"Authorization": "Bearer " + server.token}
body = {"version": version, "input": {}}
made = httpx.post(server.base_url + "/v1/predictions", json=body, headers=headers).json()
while made["status"] == "starting":
    made = httpx.get(made["urls"]["get"], headers=headers).json()
print(made["id"], flush=True)
if sys.argv[3] == "stay":
    time.sleep(60)
"""
SPIN = """
import subprocess
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> str:
        subprocess.Popen(["sleep", "60"])
        while True:
            pass
"""


def _processes_in(folder: Path) -> list[str]:
    """Processes that work in a folder or were started from it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in f"{(process / 'cwd').readlink()}":
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # gone meanwhile, or somebody else's
    return found


def _until_none(folder: Path) -> list[str]:
    give_up = time.monotonic() + 10
    while (left := _processes_in(folder)) and time.monotonic() < give_up:
        time.sleep(0.05)
    return left


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def test_everything_that_ended_is_there_after_a_restart(
    tmp_path: Path, client: Client, actor_folder: Path
) -> None:
    with LocalReplicate(tmp_path) as server:
        first = client(server)
        version = server.push(actor_folder, "acme/actor")
        first.model("local", "tuned")
        training = first.end(first.train(version, "local/tuned", data="data:,x").json())
        prediction = first.predict(training["output"]["version"], text="before")
        file = first.upload(b"kept")
        fields = {"hardware": "cpu", "min_instances": 0, "max_instances": 1}
        number = version.partition(":")[2]
        body = {"name": "kept", "model": "acme/actor", "version": number, **fields}
        deployment = first.http.post("/deployments", json=body).json()
        token = server.token
    with LocalReplicate(tmp_path) as server:
        again = client(server)
        assert server.token == token
        kept = again.http.get(f"/predictions/{prediction['id']}").json()
        assert {**kept, "urls": None} == {**prediction, "urls": None}
        assert again.http.get(f"/files/{file['id']}").json()["checksums"] == file["checksums"]
        assert again.http.get("/deployments/local/kept").json() == deployment
        weights = again.http.get(f"/trainings/{training['id']}").json()["output"]["weights"]
        assert weights.startswith(server.base_url)
        assert httpx.get(weights).text == "tuned on x"
        tuned = training["output"]["version"]
        assert again.predict(tuned, text="after")["output"] == "tuned on x: after"


def test_what_ran_when_the_server_stopped_has_failed_with_a_reason(
    tmp_path: Path, client: Client, actor_folder: Path
) -> None:
    with LocalReplicate(tmp_path) as server:
        first = client(server)
        version = server.push(actor_folder, "acme/actor")
        running = first.predict(version, prefer="", text="x", act="spin")
        waiting = first.predict(version, prefer="", text="x")
        first.until(running, lambda run: run["status"] == "processing")
    with LocalReplicate(tmp_path) as server:
        for run in (running, waiting):
            end = client(server).http.get(f"/predictions/{run['id']}").json()
            assert end["status"] == "failed"
            assert end["error"].startswith("Prediction interrupted; please retry (code: PA)")
            assert "stopped" in end["error"]


@needs_proc
def test_no_process_is_left_after_a_stop(
    tmp_path: Path, client: Client, model_folder: ModelFolder
) -> None:
    server = LocalReplicate(tmp_path / "root")
    server.start()
    made = client(server).predict(server.push(model_folder(SPIN), "acme/spin"), prefer="")
    client(server).until(made, lambda run: run["status"] == "processing")
    assert _processes_in(tmp_path)
    server.stop()
    assert _until_none(tmp_path) == []
    server.stop()  # once more does no harm


@needs_proc
def test_no_process_is_left_when_the_program_just_ends(
    tmp_path: Path, model_folder: ModelFolder
) -> None:
    arguments = [str(tmp_path / "root"), str(model_folder(SPIN)), "leave"]
    program = subprocess.run([sys.executable, "-c", HOST, *arguments], check=True, timeout=60)
    assert program.returncode == 0
    assert _until_none(tmp_path) == []


@needs_proc
def test_no_process_is_left_when_the_program_is_killed(
    tmp_path: Path, client: Client, model_folder: ModelFolder
) -> None:
    arguments = [str(tmp_path / "root"), str(model_folder(SPIN)), "stay"]
    program = subprocess.Popen(
        [sys.executable, "-c", HOST, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout
    prediction = program.stdout.readline().strip()
    assert _processes_in(tmp_path)
    assert (LEFTOVERS / prediction).exists()
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    program.stdout.close()
    assert _until_none(tmp_path) == []
    with LocalReplicate(tmp_path / "root") as server:
        end = client(server).http.get(f"/predictions/{prediction}").json()
        assert (end["status"], "stopped while it ran" in end["error"]) == ("failed", True)
        assert not (LEFTOVERS / prediction).exists()


def _until_importing(root: Path) -> None:
    give_up = time.monotonic() + 30
    while not list(root.glob("versions/incoming-*/importing")):
        assert time.monotonic() < give_up
        time.sleep(0.02)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_push_that_is_broken_off_leaves_no_process(
    tmp_path: Path, model_folder: ModelFolder, number: signal.Signals
) -> None:
    arguments = [str(tmp_path / "root"), str(model_folder(ENDLESS))]
    with subprocess.Popen(
        [sys.executable, "-c", PUSHER, *arguments], stderr=subprocess.DEVNULL
    ) as program:
        _until_importing(tmp_path / "root")
        program.send_signal(number)
        program.wait(20)
    assert _until_none(tmp_path) == []


def test_a_stop_ends_a_push_and_leaves_nothing_of_it(
    tmp_path: Path, model_folder: ModelFolder
) -> None:
    server = LocalReplicate(tmp_path / "root")
    server.start()
    with ThreadPoolExecutor() as threads:
        pushing = threads.submit(server.push, model_folder(ENDLESS), "acme/endless")
        _until_importing(tmp_path / "root")
        server.stop()
        with pytest.raises(LocalReplicateError, match="stopped meanwhile"):
            pushing.result(20)
    assert list((tmp_path / "root" / "versions").iterdir()) == []


def test_a_model_may_hold_the_servers_own_folder(
    tmp_path: Path, client: Client, model_folder: ModelFolder, actor_folder: Path
) -> None:
    folder = model_folder((actor_folder / "predict.py").read_text())
    with LocalReplicate(folder / "state") as server:
        version = server.push(folder, "acme/actor")
        code = folder / "state" / "versions" / version.partition(":")[2]
        assert sorted(path.name for path in code.iterdir()) == [".cog", "cog.yaml", "predict.py"]


def test_the_servers_own_folder_is_no_model(tmp_path: Path, model_folder: ModelFolder) -> None:
    folder = model_folder("")
    with LocalReplicate(folder) as server, pytest.raises(BrokenModel, match="its own state"):
        server.push(folder, "acme/actor")


def test_a_temporary_folder_is_removed_at_the_end(actor_folder: Path) -> None:
    with LocalReplicate() as server:
        server.push(actor_folder, "acme/actor")
        assert server._running
        root = server._running._root
        assert (root / "state.db").exists()
    assert not root.exists()


def test_a_folder_serves_one_server_at_a_time(tmp_path: Path) -> None:
    taken = pytest.raises(LocalReplicateError, match="Another Local Replicate uses the folder")
    with LocalReplicate(tmp_path), taken:
        LocalReplicate(tmp_path).start()
    with LocalReplicate(tmp_path) as server:
        assert server.base_url


def test_a_port_that_is_taken_is_an_error_that_says_so(tmp_path: Path) -> None:
    with LocalReplicate() as server:
        port = int(server.base_url.rpartition(":")[2])
        with pytest.raises(LocalReplicateError, match=f"Cannot listen on 127.0.0.1:{port}"):
            LocalReplicate(tmp_path, port=port).start()


def test_a_server_that_is_not_running_says_so() -> None:
    with pytest.raises(LocalReplicateError, match=r"Call start\(\)"):
        _ = LocalReplicate().base_url


def test_a_given_token_is_the_one_to_use(client: Client) -> None:
    with LocalReplicate(token="r8_mine") as server:
        assert server.token == "r8_mine"
        assert client(server).http.get("/account").status_code == 200


def test_without_its_engine_it_imports_and_says_what_to_install() -> None:
    program = """
import sys
sys.modules["cog"] = sys.modules["coglet"] = None
from prefect_replicate.local import LocalReplicate, LocalReplicateError
try:
    LocalReplicate().start()
except LocalReplicateError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert "pip install 'prefect-replicate[local]'" in run.stdout
    assert "macOS (arm64)" in run.stdout
    assert "replicate.com works without" in run.stdout


def test_a_broken_folder_adds_nothing(api: Api, server: LocalReplicate, tmp_path: Path) -> None:
    (tmp_path / "cog.yaml").write_text("predict: nothing.py:Predictor\n")
    with pytest.raises(BrokenModel) as raised:
        server.push(tmp_path, "acme/broken")
    assert str(tmp_path) in str(raised.value)
    assert api.http.get("/models/acme/broken").status_code == 404


def test_the_same_folder_is_the_same_version_and_a_change_is_another(
    server: LocalReplicate, model_folder: ModelFolder
) -> None:
    source = """
from cog import BasePredictor
class Predictor(BasePredictor):
    def predict(self) -> str:
        return ""
"""
    first = server.push(model_folder(source), "acme/content")
    assert server.push(model_folder(source), "acme/content") == first
    (model_folder(source) / "__pycache__").mkdir()
    assert server.push(model_folder(source), "acme/content") == first
    assert server.push(model_folder(source + "# changed\n"), "acme/content") != first


def test_a_port_that_there_is_not_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(LocalReplicateError, match=r"Cannot listen on 127\.0\.0\.1:99999"):
        LocalReplicate(tmp_path, port=99_999).start()


@pytest.mark.parametrize("left", ["", "\n"])
def test_an_empty_token_file_counts_as_none(tmp_path: Path, left: str) -> None:
    (tmp_path / "token").write_text(left)
    with LocalReplicate(tmp_path) as server:
        assert server.token.startswith("r8_local_")
        assert (tmp_path / "token").read_text() == server.token


def test_nobody_else_may_read_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("r8_old")
    (tmp_path / "token").chmod(0o644)
    with LocalReplicate(tmp_path) as server:
        assert server.token == "r8_old"
        assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_is_broken_off_during_a_push_without_a_traceback(
    tmp_path: Path, model_folder: ModelFolder, number: signal.Signals
) -> None:
    command = [str(Path(sys.executable).with_name("prefect-replicate")), "local", "serve"]
    arguments = ["--port", "0", "--root", str(tmp_path / "root")]
    push = ["--push", str(model_folder(ENDLESS)), "acme/endless"]
    with subprocess.Popen(
        [*command, *arguments, *push], stderr=subprocess.PIPE, text=True
    ) as program:
        _until_importing(tmp_path / "root")
        program.send_signal(number)
        _, said = program.communicate(timeout=20)
    assert (program.returncode, said) == (130, "")


def test_a_request_for_the_server_itself_is_not_found(server: LocalReplicate) -> None:
    host, port = server.base_url.removeprefix("http://").split(":")
    head = f"OPTIONS * HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
        assert b" 404 " in connection.recv(4096).partition(b"\r\n")[0]


def test_a_client_that_goes_away_in_the_middle_is_no_error(
    server: LocalReplicate, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = server.base_url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/predictions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.token}\r\n"
        "Content-Length: 20\r\n\r\n{}"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
        time.sleep(0.1)
    assert api.http.get("/account").status_code == 200
    time.sleep(0.1)
    assert caplog.records == []


@pytest.mark.parametrize("token", ["schl\u00fcssel", "two words", "a\nb"])
def test_a_token_that_no_header_can_hold_is_refused(token: str) -> None:
    with pytest.raises(LocalReplicateError, match="cannot be sent in a header"):
        LocalReplicate(token=token)


def test_the_database_is_the_owners_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with LocalReplicate(tmp_path):
        assert (tmp_path / "state.db").stat().st_mode & 0o077 == 0
