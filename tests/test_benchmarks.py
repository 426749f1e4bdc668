"""The benchmarks run, and what they count is right. How fast anything is, is not tested."""

import re
import subprocess
import sys

from tests.benchmarks.__main__ import BEST, ENTRIES, FLOW
from tests.conftest import ROOT


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def test_the_table_has_every_contender_and_ours_loses_nothing() -> None:
    done = _run("--quick", "jobs", "imports")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for label in {entry.label for entry in (*ENTRIES, FLOW)}:
        rows = [line for line in lines if line.startswith(label)]
        assert rows, done.stdout
        if label.startswith(("prefect-replicate", BEST)):
            counts = re.match(r" +(\d+) +(\d+) +(\d+) +(\d+)", rows[0][46:])
            assert counts, rows
            asked, succeeded, lost, in_vain = map(int, counts.groups())
            assert (succeeded, lost, in_vain) == (asked, 0, 0)
    assert "import prefect_replicate" in lines[-4]


def test_what_there_is_not_is_named() -> None:
    done = _run("nothing")
    assert done.returncode == 2
    assert "there is no nothing; there are jobs, creates, polls, imports" in done.stderr
