"""What `import prefect_replicate` offers."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import Task

import prefect_replicate
from prefect_replicate.tasks.streaming import retry_untold
from tests.conftest import ROOT

TASKS = [
    name for name in prefect_replicate.__all__ if isinstance(getattr(prefect_replicate, name), Task)
]


def test_every_public_name_is_listed_once_in_order_and_nothing_else_is() -> None:
    listed = prefect_replicate.__all__
    public = {
        name
        for name, value in vars(prefect_replicate).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert listed == sorted(set(listed))
    assert set(listed) == public


@pytest.mark.parametrize("name", [name for name in TASKS if f"a{name}" in TASKS])
def test_every_task_has_an_async_twin_of_the_same_signature(name: str) -> None:
    sync, twin = getattr(prefect_replicate, name), getattr(prefect_replicate, f"a{name}")
    assert (sync.isasync, twin.isasync) == (False, True)
    assert inspect.signature(sync.fn) == inspect.signature(twin.fn)
    assert sync.fn.__name__ == name
    assert sync.__doc__ == twin.__doc__ != None  # noqa: E711 - both, and there is one


def test_no_task_is_without_a_twin() -> None:
    lonely = {name for name in TASKS if f"a{name}" not in TASKS and name[1:] not in TASKS}
    assert lonely == set()


@pytest.mark.parametrize("name", TASKS)
def test_retries_are_safe_on_every_task_and_none_is_cached(name: str) -> None:
    task = getattr(prefect_replicate, name)
    streams = name in {"stream_model", "astream_model"}
    condition = retry_untold if streams else prefect_replicate.retry_transient
    assert task.retry_condition_fn is condition
    assert inspect.isfunction(task.retry_condition_fn)  # Prefect 3.8 takes others for "never".
    assert task.cache_policy.compute_key(None, {}, {}) is None


def test_every_public_name_is_shown_in_a_docstring_the_readme_or_a_flow() -> None:
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "flows").glob("*.py"))]
    for path in (ROOT / "src").rglob("*.py"):
        texts += [
            ast.get_docstring(node) or ""
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
    shown = set(re.findall(r"\w+", "\n".join(texts)))
    # A twin is shown where its sync name is.
    unseen = [n for n in prefect_replicate.__all__ if n not in shown and n[1:] not in shown]
    assert unseen == []


def test_importing_starts_nothing_and_needs_no_local_extra() -> None:
    program = (
        "import sys, threading; sys.modules['cog'] = sys.modules['numpy'] = None\n"
        "import prefect_replicate\n"
        "names = {t.name for t in threading.enumerate()}\n"
        "assert not names & {'prefect-replicate', 'local-replicate'}, names"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_prefect_registers_the_blocks_without_being_told_of_the_package() -> None:
    program = (
        "from prefect.blocks.core import Block\n"
        "from prefect.main import flow\n"
        "from prefect.plugins import load_prefect_collections\n"
        "from prefect.utilities.dispatch import lookup_type\n"
        "load_prefect_collections()\n"
        "names = 'credentials output-storage webhook model training deployment'\n"
        "for name in names.split():\n"
        "    assert lookup_type(Block, f'replicate-{name}').__module__.startswith('prefect_repl')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_importing_leaves_the_slow_half_of_prefect_alone() -> None:
    program = (
        "import sys, prefect_replicate\n"
        "late = {'prefect.main', 'prefect_replicate.tasks', 'prefect_replicate.local'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
        "assert 'run_model' in dir(prefect_replicate)\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_prefect_finds_the_blocks_in_the_package_as_its_register_command_does() -> None:
    program = (
        "import inspect, prefect_replicate\n"
        "from prefect.blocks.core import Block\n"
        "found = {name for name, one in inspect.getmembers(prefect_replicate)\n"
        "         if Block.is_block_class(one)}\n"
        "assert {'ReplicateCredentials', 'OutputStorage'} <= found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_names_that_come_late_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(prefect_replicate.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: getattr(importlib.import_module(node.module or ""), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert "run_model" in seen
    assert {name: getattr(prefect_replicate, name) for name in seen} == seen


def test_a_name_that_is_not_offered_is_missing_as_in_any_module() -> None:
    assert not hasattr(prefect_replicate, "run_modle")
    with pytest.raises(ImportError, match="run_modle"):
        exec("from prefect_replicate import run_modle")  # noqa: S102 - mypy would refuse it


def test_a_star_import_brings_every_name() -> None:
    names: dict[str, object] = {}
    exec("from prefect_replicate import *", names)  # noqa: S102 - nothing else may import a star
    assert set(prefect_replicate.__all__) <= set(names)
