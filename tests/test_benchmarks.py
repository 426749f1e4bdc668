"""The benchmarks run, and what they count is right. How fast anything is, is not tested."""

import re
import subprocess
import sys

from tests.benchmarks.__main__ import BEST, ENTRIES, FLOW
from tests.benchmarks.local import CLIENTS, QUICK
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
    done = _run("--quick", "jobs", "ledger", "imports")
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
    (ledger,) = (line for line in lines if line.startswith("the ledger"))
    assert len(ledger[46:].split()) == 2


def test_local_replicate_is_measured_beside_coglet_and_answers_all_that_wait() -> None:
    done = _run("--quick", "local")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for clients in CLIENTS:
        (line,) = (line for line in lines if line.startswith(f"predictions/s, {clients} client"))
        here, target, alone = line[46:80].split()
        assert target == "400"
        assert int(here.replace(",", "")) > 0
        assert int(alone.replace(",", "")) > 0
    for label in ("seconds to the first answer", "seconds of a cold prediction", "MB after the"):
        assert [line for line in lines if line.startswith(label)], done.stdout
    (held,) = (line for line in lines if line.startswith("connections held at once"))
    most = f"{QUICK.held:,}"
    assert held[46:].split()[:2] == [most, most]
    assert f"{most} answered" in held


def test_what_there_is_not_is_named() -> None:
    done = _run("nothing")
    assert done.returncode == 2
    assert (
        "there is no nothing; there are jobs, creates, polls, ledger, local, imports" in done.stderr
    )
