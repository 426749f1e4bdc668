"""What `import prefect_replicate` offers."""

import ast
import inspect
import re
import subprocess
import sys

import pytest
from prefect import Task

import prefect_replicate
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
    assert task.retry_condition_fn is prefect_replicate.retry_transient
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
