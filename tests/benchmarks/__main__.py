"""Compares clients of Replicate's API: how long, how much CPU and memory, and what they lose.

Each contender runs in a process of its own, against a service in another; rounds are interleaved,
and figures are medians. The service is a stand-in that lets everybody ask as often as they can.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks import imports, ledger, local
from tests.benchmarks.service import LISTENING

ROOT = Path(__file__).parents[2]
GIVE_UP = 60.0


@dataclass(frozen=True)
class Entry:
    """One contender: what the table calls it, and its module and how to use it.

    Of those that share a label, the table has the fastest.
    """

    label: str
    who: str
    share: float = 1.0


@dataclass(frozen=True)
class Case:
    """Something to do `count` times at once."""

    title: str
    count: int
    entries: tuple[Entry, ...]


BOUNDS = (4, 8, 16, 32)
BEST = "httpx, best bound"
FLOW = Entry("prefect-replicate, httpx, as tasks of a flow", "ours:flow", share=0.2)
ENTRIES = (
    Entry("httpx, all at once", "plain:"),
    *(Entry(BEST, f"plain:{bound}") for bound in BOUNDS),
    Entry("replicate (official)", "official:"),
    Entry("prefect-replicate, httpx", "ours:httpx"),
    Entry("prefect-replicate, aiohttp", "ours:aiohttp"),
)
CASES = {
    "jobs": Case("one-second predictions, made and waited for", 1000, (*ENTRIES, FLOW)),
    "creates": Case("predictions made", 3000, ENTRIES),
    "polls": Case("reads of one prediction", 3000, ENTRIES),
}


@dataclass(frozen=True)
class Row:
    """Medians of one contender's rounds."""

    entry: Entry
    count: int
    wall: float
    cpu: float
    peak: float
    grown: float
    won: float
    paid: float
    rate: float
    notes: str

    def __str__(self) -> str:
        label = self.entry.label
        if label == BEST:
            label += f" ({self.entry.who.partition(':')[2]})"
        lost, in_vain = self.count - self.won, max(0.0, self.paid - self.won)
        return (
            f"{label:<46}{self.count:>6}{self.won:>7.0f}{lost:>6.0f}{in_vain:>9.0f}"
            f"{self.wall:>8.2f}{self.cpu:>8.2f}{self.peak:>7.0f}{self.grown:>7.0f}{self.rate:>8.0f}"
            f"  {self.notes}"
        )


HEAD = (
    f"{'contender':<46}{'asked':>6}{'done':>7}{'lost':>6}{'in vain':>9}"
    f"{'wall s':>8}{'CPU s':>8}{'MB':>7}{'+MB':>7}{'req/s':>8}"
)
LEGEND = (
    "lost: not done, by an error or because it was given up; in vain: made, and so paid, without",
    "the caller having it; MB: most memory of the process; +MB: since the start of the race.",
)


@contextmanager
def service() -> Iterator[str]:
    """The URL of the service, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.service"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().removeprefix(LISTENING).strip()
        finally:
            process.terminate()


def counts(url: str) -> dict[str, int]:
    """What the service has been asked so far."""
    with urllib.request.urlopen(f"{url}/counts", timeout=10) as response:  # noqa: S310 - our own
        return dict(json.load(response))


def race(entry: Entry, case: str, count: int, url: str, give_up: float) -> dict[str, Any]:
    """One contender's figures."""
    before = counts(url)
    program = [sys.executable, "-m", "tests.benchmarks.race"]
    done = subprocess.run(
        [*program, entry.who, case, str(count), url, str(give_up)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=give_up + 120,
        check=True,
    )
    after = counts(url)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # Each makes one prediction before the race.
    figures["paid"] = after["creates"] - before["creates"] - 1
    figures["rate"] = (after["requests"] - before["requests"] - 1) / figures["wall"]
    return figures


def row(entry: Entry, case: str, count: int, rounds: Sequence[Mapping[str, Any]]) -> Row:
    """What the table says of one contender."""
    names = ("wall", "cpu", "peak", "grown", "won", "paid", "rate")
    medians = {name: statistics.median(figures[name] for figures in rounds) for name in names}
    if case == "polls":
        medians["paid"] = 0.0
    last = rounds[-1]
    notes = [f"{count} {name}" for name, count in sorted(last["errors"].items())]
    if last["gave_up"]:
        notes.append("gave up")
    return Row(entry, count, **medians, notes=", ".join(notes))


def rows(case: str, scale: float, rounds: int, url: str, give_up: float) -> list[Row]:
    """Let all contenders race, round by round, and keep the best bound of those tried."""
    entries = CASES[case].entries
    numbers = {entry: max(1, int(CASES[case].count * scale * entry.share)) for entry in entries}
    seen: dict[Entry, list[dict[str, Any]]] = {entry: [] for entry in entries}
    for turn in range(rounds):
        for entry in entries:
            sys.stderr.write(f"{case}, round {turn + 1} of {rounds}: {entry.who}\n")
            seen[entry].append(race(entry, case, numbers[entry], url, give_up))
    table = [row(entry, case, numbers[entry], seen[entry]) for entry in entries]
    best = min((r for r in table if r.entry.label == BEST), key=lambda r: (-r.won, r.wall))
    return [r for r in table if r is best or r.entry.label != BEST]


@contextmanager
def surroundings(*, prefect: bool) -> Iterator[None]:
    """An environment without the user's token and profile; a Prefect server if a flow needs it."""
    given = os.environ.get("PREFECT_API_URL")
    for name in [name for name in os.environ if name.startswith(("REPLICATE_", "PREFECT_"))]:
        del os.environ[name]
    with ExitStack() as stack:
        os.environ |= {
            "REPLICATE_API_TOKEN": "",
            "PREFECT_HOME": stack.enter_context(tempfile.TemporaryDirectory()),
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Two lines for each job, which no other contender writes.
            "PREFECT_LOGGING_LEVEL": "WARNING",
        }
        if prefect:
            os.environ["PREFECT_API_URL"] = given or stack.enter_context(_prefect_server())
        yield


@contextmanager
def _prefect_server() -> Iterator[str]:
    # Prefect reads its environment when it is imported, so not before it is right.
    from prefect.settings import get_current_settings  # noqa: PLC0415
    from prefect.testing.utilities import prefect_test_harness  # noqa: PLC0415

    with prefect_test_harness(server_startup_timeout=90):
        yield get_current_settings().api.url or ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is named, or everything."""
    names = [*CASES, "ledger", "local", "imports"]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of a tenth each")
    parser.add_argument("--rounds", type=int, help="how many rounds (3)")
    parser.add_argument("name", nargs="*", help=f"some of {', '.join(names)}; all without any")
    given = parser.parse_args(arguments)
    if unknown := set(given.name) - set(names):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
    chosen = given.name or names
    rounds = given.rounds or (1 if given.quick else 3)
    scale, give_up = (0.1, 10.0) if given.quick else (1.0, GIVE_UP)
    _introduce(rounds, give_up)
    races = [name for name in CASES if name in chosen]
    with surroundings(prefect=bool({"jobs", "ledger"} & {*chosen})):
        if races:
            _race(races, scale, rounds, give_up)
        if "ledger" in chosen:
            count = int(ledger.COUNT * scale)
            with service() as url:
                _say("", f"ledger: run_batch of {count:,}", *ledger.table(url, rounds, count))
        if "local" in chosen:
            _say("", "local: Local Replicate itself, and coglet, which runs its models, alone")
            _say(*local.table(rounds, local.QUICK if given.quick else local.FULL))
        if "imports" in chosen:
            _say("", "imports: a fresh interpreter each")
            _say(*imports.table(1 if given.quick else imports.ROUNDS))


def _race(cases: Sequence[str], scale: float, rounds: int, give_up: float) -> None:
    with service() as url:
        for case in cases:
            table = rows(case, scale, rounds, url, give_up)
            _say("", f"{case}: {CASES[case].title}, all at once", HEAD, *map(str, table))


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _introduce(rounds: int, give_up: float) -> None:
    packages = ("prefect", "httpx", "httpx-aiohttp", "aiohttp", "replicate")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    _say(
        f"Python {sys.version.split()[0]}, {versions}; {os.cpu_count()} CPUs, load {load}",
        f"Medians of {rounds}; whoever has not ended after {give_up:.0f} s is given up.",
        "prefect-replicate's request budgets are open here. In life it keeps to Replicate's own",
        "limits, 600 creates and 3,000 other requests a minute.",
        *LEGEND,
    )


if __name__ == "__main__":
    main()
