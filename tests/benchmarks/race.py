"""One contender in a process of its own: `python -m tests.benchmarks.race MODULE:HOW CASE N URL S`.

Prints what it took as JSON: imports and start-up are not counted, except in the peak of memory.
"""

import asyncio
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import Contender


async def race(contender: Contender, case: str, count: int, give_up: float) -> dict[str, Any]:
    """Do something so many times at once, and say what it took and how often it worked."""
    # The first request of a client opens files and connections that every client needs once.
    known = await contender.create()

    def one() -> Coroutine[Any, Any, Any]:
        match case:
            case "jobs":
                return contender.run()
            case "creates":
                return contender.create()
        return contender.poll(known)

    figures: dict[str, Any] = {}

    async def work() -> None:
        before, cpu, start = _peak(), time.process_time(), time.perf_counter()
        tasks = [asyncio.ensure_future(one()) for _ in range(count)]
        done, late = await asyncio.wait(tasks, timeout=give_up)
        figures["wall"] = time.perf_counter() - start
        figures["cpu"] = time.process_time() - cpu
        figures["peak"], figures["grown"] = _peak(), _peak() - before
        errors = [type(error).__name__ for task in done if (error := task.exception())]
        figures["won"] = len(done) - len(errors)
        figures["gave_up"] = bool(late)
        figures["errors"] = {name: errors.count(name) for name in set(errors)}

    await contender.hold(work)
    return figures


def _peak() -> float:
    """The most memory that this process has had so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux a process starts with the `ru_maxrss` of the one that started it.
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


async def main(who: str, case: str, count: str, url: str, give_up: str) -> None:
    """Race, report, and leave at once: an overfull pool takes minutes to be cancelled."""
    module, _, how = who.partition(":")
    contender = importlib.import_module(f"tests.benchmarks.contenders.{module}").make(url, how)
    figures = await race(contender, case, int(count), float(give_up))
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
