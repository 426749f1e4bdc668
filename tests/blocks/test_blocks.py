"""The blocks: Prefect's standards, saving and loading, whose token it is, no secrets shown."""

import pickle
from pathlib import Path

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite

from prefect_replicate import (
    AuthenticationError,
    BadInputError,
    ConfigurationError,
    LocalReplicate,
    OutputStorage,
    ReplicateCredentials,
    TransportError,
    run_model,
)
from prefect_replicate.api import calls

SECRET = "r8_a_token_that_must_never_be_seen_again"


@pytest.mark.parametrize("block", [ReplicateCredentials, OutputStorage])
class TestBlockStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        chosen: type[Block] = request.param
        return chosen

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        # The suite's own test downloads the picture; this one stays on this machine.
        assert str(block._logo_url).startswith("https://")


def test_credentials_say_whose_token_it_is(credentials: ReplicateCredentials) -> None:
    assert credentials.verify().username == "local"


async def test_credentials_say_so_to_async_callers_too(credentials: ReplicateCredentials) -> None:
    assert (await credentials.averify()).username == "local"
    async with credentials.get_client() as client:
        assert (await client.send(calls.account_get())).username == "local"


def test_a_wrong_token_and_a_wrong_address_have_errors_of_their_own(
    replicate: LocalReplicate, unused_tcp_port: int
) -> None:
    wrong = ReplicateCredentials(api_token=SECRET, base_url=replicate.base_url)
    with pytest.raises(AuthenticationError, match="Check the API token"):
        wrong.verify()
    nowhere = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(TransportError, match=nowhere):
        ReplicateCredentials(api_token=SECRET, base_url=nowhere).verify()
    with pytest.raises(ConfigurationError, match="not the URL of an API"):
        ReplicateCredentials(api_token=SECRET, base_url="nowhere").verify()


def test_blocks_pickle_and_show_no_secret(tmp_path: Path) -> None:
    credentials = ReplicateCredentials(api_token=SECRET)
    storage = OutputStorage(url=str(tmp_path), options={"secret": SECRET})
    for block in (credentials, storage):
        assert pickle.loads(pickle.dumps(block)) == block
        assert SECRET not in repr(block) + str(block) + block.model_dump_json()
    assert SECRET not in repr(credentials.access)


def test_blocks_survive_saving_and_loading(
    prefect_server: None, credentials: ReplicateCredentials
) -> None:
    credentials.save("mine", overwrite=True)
    OutputStorage(url="memory://kept", options={"key": SECRET}).save("mine", overwrite=True)
    loaded, storage = ReplicateCredentials.load("mine"), OutputStorage.load("mine")
    assert isinstance(loaded, ReplicateCredentials)
    assert isinstance(storage, OutputStorage)
    assert loaded.verify().username == "local"
    assert storage.options.get_secret_value() == {"key": SECRET}


def test_without_credentials_the_environment_counts_with_or_without_v1(
    prefect_server: None,
    replicate: LocalReplicate,
    tiny_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", replicate.token)
    for base_url in (replicate.base_url, f"{replicate.base_url}/v1"):
        monkeypatch.setenv("REPLICATE_BASE_URL", base_url)
        assert run_model(tiny_model, {}).output == "hello"


def test_a_block_named_in_settings_counts_before_the_environment(
    prefect_server: None,
    credentials: ReplicateCredentials,
    tiny_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    credentials.save("chosen", overwrite=True)
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_wrong")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_CREDENTIALS_BLOCK", "chosen")
    assert run_model(tiny_model, {}).output == "hello"


@pytest.mark.parametrize("token", [None, ""])
def test_without_any_credentials_the_error_says_how_to_make_some(
    prefect_server: None, tiny_model: str, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    if token is not None:
        monkeypatch.setenv("REPLICATE_API_TOKEN", token)
    with pytest.raises(ConfigurationError, match="REPLICATE_API_TOKEN") as caught:
        run_model(tiny_model, {})
    assert "LocalReplicate" in str(caught.value)


def test_a_block_that_is_not_there_is_named(
    prefect_server: None, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_REPLICATE_CREDENTIALS_BLOCK", "absent")
    with pytest.raises(ConfigurationError, match=r"no ReplicateCredentials block named 'absent'"):
        run_model(tiny_model, {})


def test_storage_is_checked_before_it_is_needed(tmp_path: Path) -> None:
    OutputStorage(url=str(tmp_path)).verify()
    with pytest.raises(BadInputError, match="nothing://here"):
        OutputStorage(url="nothing://here").verify()


async def test_storage_is_checked_for_async_callers_too(tmp_path: Path) -> None:
    await OutputStorage(url=str(tmp_path)).averify()
