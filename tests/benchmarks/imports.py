"""What importing costs: fresh interpreters, their start included."""

import resource
import statistics
import subprocess
import sys
import time

ROUNDS = 9

_PREFECT = "import prefect"
_NAMES = "from prefect import flow, task"
# Each program, and the one that it adds to.
PROGRAMS = {
    "pass": None,
    _PREFECT: None,
    "import prefect; import prefect_replicate": _PREFECT,
    _NAMES: None,
    f"{_NAMES}; from prefect_replicate import run_model": _NAMES,
    f"{_NAMES}; from prefect_replicate import *": _NAMES,
}


def table(rounds: int) -> list[str]:
    """Median milliseconds by the clock and of CPU, and what each program adds to another."""
    taken: dict[str, list[tuple[float, float]]] = {program: [] for program in PROGRAMS}
    for _ in range(rounds):
        for program, seen in taken.items():
            seen.append(_run(program))
    lines = [f"{'ms':>8}{'CPU ms':>8}{'adds':>8}  program"]
    for program, seen in taken.items():
        wall, cpu = _medians(seen)
        base = PROGRAMS[program]
        adds = f"{wall - _medians(taken[base])[0]:.0f}" if base else ""
        lines.append(f"{wall:>8.0f}{cpu:>8.0f}{adds:>8}  {program}")
    return lines


def _medians(seen: list[tuple[float, float]]) -> tuple[float, float]:
    wall, cpu = (statistics.median(column) for column in zip(*seen, strict=True))
    return wall, cpu


def _run(program: str) -> tuple[float, float]:
    before, start = _cpu(), time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    return (time.perf_counter() - start) * 1000, (_cpu() - before) * 1000


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime
