"""Local Replicate's own figures, and beside them coglet alone, which does nothing but predict.

Each round has a new server of either kind, and all its figures; the table has their medians.
"""

import math
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.servers import Server, coglet_alone, local_replicate

CLIENTS = (1, 4, 16)
# Seconds that the first of many waiting predictions keeps the model from the others.
BUSY = 5.0
_MB = 1 << 20

Figures = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How much is done: predictions by each number of clients, and how many wait at once."""

    count: int
    held: int
    busy: float


FULL = Scale(count=2000, held=1000, busy=BUSY)
QUICK = Scale(count=60, held=40, busy=1.0)


@dataclass(frozen=True)
class Figure:
    """A line of the table.

    Attributes:
        name: Of a figure of ours; that of coglet, if it has one, has "coglet " before it.
        target: What it is to be, in words.
        notes: Further figures and what they mean.
    """

    label: str
    name: str
    digits: int = 0
    target: str = ""
    notes: tuple[tuple[str, str], ...] = ()


def _rate(clients: int) -> Figure:
    name = f"rate {clients}"
    return Figure(
        f"predictions/s, {clients} client{'s' * (clients > 1)}",
        name,
        target="400",
        notes=(
            (f"cpu {clients}", "{:.2f} ms of CPU each in the server"),
            (f"client cpu {clients}", "{:.2f} in the client"),
            (f"p99 {clients}", "p99 {:.1f} ms"),
            (f"coglet refused {clients}", "coglet refused {:.0f}"),
        ),
    )


def _figures(scale: Scale) -> tuple[Figure, ...]:
    most = f"after {len(CLIENTS) * scale.count:,} predictions"
    return (
        *map(_rate, CLIENTS),
        Figure("seconds to the first answer", "answered", 2, "1"),
        Figure("seconds of a cold prediction, with numpy", "cold", 2, "1"),
        Figure("MB after the start, RSS", "rss start", 1, "100", (("pss start", "PSS {:.1f}"),)),
        Figure(f"MB after {scale.count:,} predictions, RSS", "rss first", 1, "100"),
        Figure(
            f"MB {most}, RSS",
            "rss end",
            1,
            "100",
            (("pss end", "PSS {:.1f}"), ("database", "database {:.1f} MB")),
        ),
        Figure(
            "connections held at once, all answered",
            "held",
            target=f"{scale.held:,}",
            notes=(("held answered", "{:.0f} answered"), ("held seconds", "in {:.1f} s")),
        ),
    )


def table(rounds: int, scale: Scale) -> list[str]:
    """The table, with medians of so many rounds."""
    seen = []
    for turn in range(rounds):
        sys.stderr.write(f"local, round {turn + 1} of {rounds}\n")
        seen.append(measure(scale))
    medians = {name: statistics.median(figures[name] for figures in seen) for name in seen[0]}
    head = f"{'':<46}{'here':>10}{'target':>10}{'coglet alone':>14}"
    return [head, *(_line(figure, medians) for figure in _figures(scale))]


def _line(figure: Figure, medians: Mapping[str, float]) -> str:
    beside = medians.get(f"coglet {figure.name}", math.nan)
    notes = [words.format(medians[name]) for name, words in figure.notes if name in medians]
    return (
        f"{figure.label:<46}{_shown(medians[figure.name], figure.digits):>10}{figure.target:>10}"
        f"{_shown(beside, figure.digits):>14}  {', '.join(notes)}"
    )


def _shown(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def measure(scale: Scale) -> Figures:
    """All figures of one round."""
    with (
        tempfile.TemporaryDirectory() as folder,
        local_replicate(Path(folder)) as ours,
        coglet_alone(Path(folder)) as coglet,
    ):
        figures: Figures = {"answered": ours.answered}
        figures["rss start"], figures["pss start"] = ours.memory()
        figures["cold"] = ours.load(1, 1, model="numbers")["wall"]
        for server in (ours, coglet):
            server.load(1, 5)  # the first ones are slower
        for clients in CLIENTS:
            figures |= _race(ours, coglet, clients, scale.count)
            figures.setdefault("rss first", ours.memory()[0])
        figures["rss end"], figures["pss end"] = ours.memory()
        database = (Path(folder) / "root").glob("state.db*")
        figures["database"] = sum(path.stat().st_size for path in database) / _MB
        figures |= _hold(ours, scale)
    return figures


def _race(ours: Server, coglet: Server, clients: int, count: int) -> Figures:
    before = ours.cpu()
    done = ours.load(clients, count)
    spent = ours.cpu() - before
    alone = coglet.load(clients, count)
    return {
        f"rate {clients}": count / done["wall"],
        f"cpu {clients}": spent / count * 1000,
        f"client cpu {clients}": done["cpu"] / count * 1000,
        f"p99 {clients}": sorted(done["seconds"])[int(0.99 * count)] * 1000,
        f"coglet rate {clients}": count / alone["wall"],
        f"coglet refused {clients}": alone["refused"],
    }


def _hold(ours: Server, scale: Scale) -> Figures:
    busy = {"text": "first", "seconds": scale.busy}
    done = ours.load(scale.held, scale.held, first=busy)
    return {
        "held": done["held"],
        "held answered": done["succeeded"],
        "held seconds": done["wall"],
    }
