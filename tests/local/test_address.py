"""How another process finds the server that runs in a folder."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_replicate.local import LocalReplicate
from prefect_replicate.local.address import default_root, find

RUN = """
import sys, time
from prefect_replicate.local import LocalReplicate
with LocalReplicate(sys.argv[1]) as server:
    print(server.base_url, flush=True)
    time.sleep(60)
"""


def test_a_server_is_found_by_its_folder_while_it_runs(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    with LocalReplicate(tmp_path) as server:
        assert find(tmp_path) == server.base_url
        assert stat.S_IMODE((tmp_path / "address").stat().st_mode) == 0o600
    assert find(tmp_path) is None
    assert not (tmp_path / "address").exists()


def test_a_server_for_all_addresses_is_found_at_one_that_can_be_called(tmp_path: Path) -> None:
    with LocalReplicate(tmp_path, host="0.0.0.0") as server:  # noqa: S104 - what is tested
        port = server.base_url.rpartition(":")[2]
        assert find(tmp_path) == f"http://127.0.0.1:{port}"


def test_a_server_that_was_killed_is_not_found(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        base_url = process.stdout.readline().strip()
        assert find(tmp_path) == base_url
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert (tmp_path / "address").read_text() == base_url
    assert find(tmp_path) is None
    with LocalReplicate(tmp_path) as server:
        assert find(tmp_path) == server.base_url


def test_there_is_no_server_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert find(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [("/data", "/data"), ("", "~/.local/share"), ("relative", "~/.local/share")],
)
def test_state_is_kept_in_the_users_folder_for_data(
    monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.setitem(os.environ, "XDG_DATA_HOME", given)
    assert default_root() == Path(expected).expanduser() / "prefect-replicate" / "local"
