"""README: short, and everything it shows is run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_readme_fits_150_lines() -> None:
    assert README.count("\n") <= 150


def test_the_two_commands_stand_in_it_to_the_letter() -> None:
    # The first is run by the tests of the flow, the second by CI, which also looks for it here.
    lines = README.splitlines()
    assert "python -m pip install -e '.[local]' && python flows/fine_tune.py" in lines
    assert "python -m pip install -e '.[dev]' && python -m pytest" in lines


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_each_snippet_runs(prefect_server: None, snippet: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=tmp_path,
        env={**os.environ, "PREFECT_API_URL": get_current_settings().api.url or ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = re.search(r"# → (.*)", snippet)
    assert shown
    assert re.search(re.sub(r"…", ".*", re.escape(shown[1])), done.stdout), done.stdout


def test_each_command_of_local_replicate_runs(tmp_path: Path) -> None:
    section = README.partition("## Local Replicate\n")[2]
    serve, *others = section.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert [line.split()[:2] for line in (serve, *others)] == [["prefect-replicate", "local"]] * 4
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "XDG_DATA_HOME": str(tmp_path / "data")}
    # Another program may have the usual port.
    command = [*shlex.split(serve), "--port", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        try:
            said = "".join(
                iter(
                    server.stdout.readline,
                    "Local Replicate is up. Any Replicate client uses it with\n",
                )
            )
            assert "pushed local/text:" in said
            assert "pushed local/image:" in said
            for line in others:
                done = subprocess.run(
                    shlex.split(line),
                    cwd=tmp_path,
                    env=env,
                    timeout=60,
                    check=True,
                    capture_output=True,
                    text=True,
                )
                said += done.stdout
        finally:
            server.terminate()
    assert "pushed acme/text:" in said
    assert said.count("local/text:") == 2
