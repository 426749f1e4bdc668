"""Fixtures of pytest for code that uses Replicate: real HTTP and real models, no account, no cost.

One line in `conftest.py` brings them in:

    pytest_plugins = ["prefect_replicate.testing"]

The fixtures:
    local_replicate: A running `LocalReplicate`, one for the whole session, that keeps nothing. For
        fixtures of your own that push models, and for all that no test changes.
    replicate_server: The same server for a single test: what the test makes go wrong, how it has
        the server behave and which requests it made are forgotten after it, and before.
    replicate_credentials: `ReplicateCredentials` for it, to hand to tasks.
    replicate_env: Any client of Replicate that the test starts uses the server, since the
        environment says so; tasks without credentials too.

Needs pytest and the extra `local`: `pip install pytest 'prefect-replicate[local]'`.

Example:
    ```python
    from prefect_replicate import run_model
    import pytest, replicate

    @pytest.fixture(scope="session")
    def text_model(local_replicate):
        return local_replicate.push("examples/models/text", "acme/text")

    def test_the_model_writes(text_model, replicate_credentials):
        output = run_model(text_model, {"prompt": "In the "}, credentials=replicate_credentials)
        assert len(output.text) == 200

    def test_the_official_client_works_too(text_model, replicate_env):
        assert "".join(replicate.run(text_model, input={"prompt": "In the "}))

    def test_a_busy_api_is_asked_again(text_model, replicate_server, replicate_credentials):
        with replicate_server.fault("throttle", path="/predictions"):
            run_model(text_model, {"prompt": "In the "}, credentials=replicate_credentials)
        created = replicate_server.requests("POST", "/predictions")
        assert [request.status for request in created] == [429, 201]
    ```
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prefect_replicate.local import LocalReplicate

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "prefect_replicate.testing holds fixtures of pytest, which is not installed. "
        "Run `pip install pytest`."
    ) from error

if TYPE_CHECKING:
    from prefect_replicate.blocks.credentials import ReplicateCredentials

# The second pair goes before the first where prefect-replicate reads its settings.
_PREFIXES = ("REPLICATE_", "PREFECT_INTEGRATIONS_REPLICATE_")


@pytest.fixture(scope="session")
def local_replicate() -> Iterator[LocalReplicate]:
    """A running Local Replicate that keeps nothing."""
    with LocalReplicate() as server:
        yield server


@pytest.fixture
def replicate_server(local_replicate: LocalReplicate) -> Iterator[LocalReplicate]:
    """The session's server, in which a test may break what it likes."""
    local_replicate.clear_requests()
    with local_replicate.behaving():
        yield local_replicate
    local_replicate.clear_faults()
    local_replicate.clear_requests()


@pytest.fixture
def replicate_credentials(local_replicate: LocalReplicate) -> ReplicateCredentials:
    """Credentials for the session's server."""
    return local_replicate.credentials


@pytest.fixture
def replicate_env(
    local_replicate: LocalReplicate, monkeypatch: pytest.MonkeyPatch
) -> LocalReplicate:
    """The session's server, with an environment that leads every client to it."""
    for prefix in _PREFIXES:
        monkeypatch.setenv(f"{prefix}BASE_URL", local_replicate.base_url)
        monkeypatch.setenv(f"{prefix}API_TOKEN", local_replicate.token)
    # A block that a developer's own settings name would go before both.
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_CREDENTIALS_BLOCK", "")
    return local_replicate
