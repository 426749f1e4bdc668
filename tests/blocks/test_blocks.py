"""The blocks: Prefect's standards, saving and loading, whose token it is, no secrets shown."""

import base64
import pickle
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import ValidationError

from prefect_replicate import (
    AuthenticationError,
    BadInputError,
    ConfigurationError,
    LocalReplicate,
    OutputStorage,
    ReplicateCredentials,
    ReplicateDeployment,
    ReplicateModel,
    ReplicateTraining,
    TransportError,
    run_model,
)
from prefect_replicate.api import calls
from prefect_replicate.blocks.webhook import ReplicateWebhook, default_webhook
from prefect_replicate.webhooks.mailbox import Address, address_of, new_mail_key

SECRET = "r8_a_token_that_must_never_be_seen_again"
SIGNING = "whsec_" + base64.b64encode(SECRET.encode()).decode()
URL = "https://hooks.example.com/replicate"


@pytest.mark.parametrize(
    "block",
    [
        ReplicateCredentials,
        OutputStorage,
        ReplicateWebhook,
        ReplicateModel,
        ReplicateTraining,
        ReplicateDeployment,
    ],
)
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


def test_a_webhook_block_makes_urls_that_lead_to_one_mailbox() -> None:
    here = Address(uuid4(), new_mail_key())
    for public_url in (URL, f"{URL}/"):
        url = ReplicateWebhook(public_url=public_url).url(here.flow_run_id, here.key)
        assert url == f"{URL}/{here.flow_run_id}/{here.key}"
        assert address_of(url) == here


@pytest.mark.parametrize(
    "wrong",
    [
        {"public_url": "hooks.example.com"},
        {"public_url": "ftp://example.com"},
        {"public_url": "https://"},
        {"public_url": "https://user:pass@example.com"},
        {"public_url": "https://example.com/?a=b"},
        {"public_url": "https://example.com/#a"},
        {"public_url": "https://exam ple.com"},
        {"events": []},
        {"events": ["start", "logs"]},
        {"events": ["completed", "finished"]},
        {"tolerance": 0},
        {"tolerance": 301},
    ],
)
def test_a_webhook_block_that_could_not_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ReplicateWebhook.model_validate({"public_url": URL} | wrong)


def test_a_webhook_block_survives_saving_loading_and_pickling_and_shows_no_secret(
    prefect_server: None,
) -> None:
    block = ReplicateWebhook(
        public_url=URL,
        events=["start", "completed"],
        signing_secret=SIGNING,
        credentials=ReplicateCredentials(api_token=SECRET),
        tolerance=60,
    )
    assert pickle.loads(pickle.dumps(block)) == block
    shown = repr(block) + str(block) + block.model_dump_json()
    assert SECRET not in shown
    assert SIGNING not in shown
    block.save("mine", overwrite=True)
    loaded = ReplicateWebhook.load("mine")
    assert isinstance(loaded, ReplicateWebhook)
    assert (loaded.public_url, loaded.events, loaded.tolerance) == (URL, block.events, 60)
    assert loaded.secret() == SIGNING
    assert loaded.credentials
    assert loaded.credentials.api_token.get_secret_value() == SECRET


async def test_a_signing_secret_that_is_not_given_is_fetched(
    credentials: ReplicateCredentials,
) -> None:
    async with credentials.get_client() as client:
        expected = (await client.send(calls.webhooks_default_secret_get())).key.get_secret_value()
    # A form in the UI that is left empty is saved as an empty text.
    for given in (None, "", " "):
        block = ReplicateWebhook(public_url=URL, signing_secret=given, credentials=credentials)
        assert await block.asecret() == block.secret() == expected
    assert await ReplicateWebhook(public_url=URL, signing_secret=SIGNING).asecret() == SIGNING


async def test_the_default_webhook_is_the_named_block_else_the_url_in_the_settings(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = "PREFECT_INTEGRATIONS_REPLICATE_WEBHOOK_"
    with pytest.raises(ConfigurationError, match=f"{setting}URL"):
        await default_webhook()
    monkeypatch.setenv(f"{setting}URL", URL)
    monkeypatch.setenv(f"{setting}SECRET", SIGNING)
    by_url = await default_webhook()
    assert (by_url.public_url, await by_url.asecret()) == (URL, SIGNING)
    assert (await default_webhook(public_url="https://b.example")).public_url == "https://b.example"

    saved = ReplicateWebhook(public_url="https://c.example", signing_secret="whsec_abc")
    await saved.asave("chosen", overwrite=True)
    monkeypatch.setenv(f"{setting}BLOCK", "chosen")
    by_block = await default_webhook()
    assert (by_block.public_url, await by_block.asecret()) == ("https://c.example", "whsec_abc")
    moved = await default_webhook(public_url="https://d.example/")
    assert (moved.public_url, await moved.asecret()) == ("https://d.example", "whsec_abc")
    with pytest.raises(ConfigurationError, match="no ReplicateWebhook block named 'absent'"):
        await default_webhook(block="absent")


async def test_a_webhook_block_that_cannot_be_loaded_is_an_error_that_says_so(
    unused_tcp_port: int,
) -> None:
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{unused_tcp_port}/api"}),
        pytest.raises(ConfigurationError, match="'mine' cannot be loaded"),
    ):
        await default_webhook(block="mine")
