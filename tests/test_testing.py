"""The fixtures for users' own tests, in a project of a user's own."""

import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from prefect.settings import get_current_settings

from prefect_replicate import testing

CONFTEST = 'pytest_plugins = ["prefect_replicate.testing"]\n'
TESTS = """
from pathlib import Path

import httpx
import pytest
import replicate

from prefect_replicate import LocalReplicate, ReplicateCredentials, run_model


@pytest.fixture(scope="session")
def model(local_replicate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("echo")
    (folder / "cog.yaml").write_text("predict: predict.py:predict")
    (folder / "predict.py").write_text("def predict(text: str) -> str:\\n    return text * 2\\n")
    return local_replicate.push(folder, "acme/echo")


def test_credentials(model, replicate_credentials):
    assert isinstance(replicate_credentials, ReplicateCredentials)
    assert run_model(model, {"text": "a"}, credentials=replicate_credentials).text == "aa"


def test_environment(model, replicate_env):
    assert isinstance(replicate_env, LocalReplicate)
    assert replicate.run(model, input={"text": "b"}) == "bb"
    assert run_model(model, {"text": "c"}).text == "cc"


def test_breaking_things(model, replicate_server, replicate_credentials):
    replicate_server.behave(throttling=True)
    url = f"{replicate_server.base_url}/_local/faults"
    headers = {"Authorization": f"Bearer {replicate_server.token}"}
    fault = {"kind": "no_credit", "times": None}
    assert httpx.post(url, json=fault, headers=headers).status_code == 201
    with pytest.raises(Exception, match="insufficient credit"):
        run_model(model, {"text": "d"}, credentials=replicate_credentials)
    assert [request.status for request in replicate_server.requests("POST")] == [402]


def test_nothing_is_broken_afterwards(model, replicate_server, replicate_credentials):
    assert replicate_server.requests() == []
    assert not replicate_server.behaviour.throttling
    assert run_model(model, {"text": "e"}, credentials=replicate_credentials).text == "ee"
"""
FAILING = """
def test_wrong(local_replicate, replicate_credentials):
    assert replicate_credentials.verify().username == "somebody else"
"""
ROOT = Path(__file__).parent.parent


def _run(folder: Path, *modules: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a project with these tests, as a user would."""
    (folder / "conftest.py").write_text(CONFTEST)
    for number, tests in enumerate(modules):
        (folder / f"test_{number}.py").write_text(tests)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATE_")}
    server = {"PREFECT_API_URL": str(get_current_settings().api.url or "")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        # A token of the developer's own, which no test may send anywhere.
        env={**kept, **server, "PREFECT_INTEGRATIONS_REPLICATE_API_TOKEN": "r8_real"},
    )


def _example() -> str:
    """What the module's own description shows."""
    found = re.search(r"```python\n(.*?)```", inspect.getdoc(testing) or "", re.DOTALL)
    assert found
    return textwrap.dedent(found[1]).replace("examples/", f"{ROOT}/examples/")


def test_one_line_brings_the_fixtures_into_a_users_project(
    prefect_server: None, tmp_path: Path
) -> None:
    done = _run(tmp_path, TESTS, _example())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


def test_a_failing_test_of_a_user_fails(tmp_path: Path) -> None:
    done = _run(tmp_path, FAILING)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout


def test_without_pytest_the_module_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "pytest.py").write_text("raise ImportError\n")
    done = subprocess.run(
        [sys.executable, "-c", "import prefect_replicate.testing"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "pip install pytest" in done.stderr


def test_the_fixtures_come_without_prefect_which_a_user_may_want_to_set_up_first() -> None:
    code = "import prefect_replicate.testing, sys; print('prefect' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"
