"""README: short, and everything it shows is run."""

import os
import re
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
