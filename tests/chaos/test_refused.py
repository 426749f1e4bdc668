"""Creates that made no job, and a ledger that cannot be read, written or believed."""

import json
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_replicate import (
    AuthenticationError,
    BadInputError,
    BillingError,
    LedgerError,
    ReplicateCredentials,
    run_model,
)
from tests.chaos.conftest import Again, World
from tests.chaos.proxy import Proxy


def asking(world: World, credentials: ReplicateCredentials | None = None, **input: Any) -> Again:
    return Again(
        lambda: run_model(world.model, input, credentials=credentials or world.credentials)
    )


def at(world: World, url: str) -> ReplicateCredentials:
    return ReplicateCredentials(api_token=world.credentials.api_token, base_url=url)


def kinds(asked: Again) -> list[str]:
    """What is written about its calls, without the names of the calls."""
    names = (name for name in asked.rows() if "-slot-" not in name and "-held-" not in name)
    return sorted(name.split("-", 2)[2] for name in names)


def test_what_is_not_paid_for_may_be_created_later(world: World) -> None:
    asked = asking(world, text="paid")
    with (
        world.replicate.fault("no_credit", method="POST", path="/predictions"),
        pytest.raises(BillingError),
    ):
        asked.first()
    assert kinds(asked) == ["g01-c01", "g01-v01"]
    assert asked.again().output == "paid"
    assert [each.status for each in world.creates()] == [402, 201]
    assert len(world.jobs()) == 1
    assert world.lists() == 1  # this test's own


def test_what_is_refused_may_be_asked_again_and_is_refused_again(world: World) -> None:
    asked = asking(world, text=7)
    for go in (asked.first, asked.again):
        with pytest.raises(BadInputError):
            go()
    assert {each.status for each in world.creates()} <= {422}
    assert world.jobs() == []


def test_a_token_that_may_not_create_leaves_the_call_open_for_a_better_one(world: World) -> None:
    refusing = [True]

    def refused(request: Request, _: bytes) -> Response | None:
        creating = request.method == "POST" and request.url.path == "/v1/predictions"
        return JSONResponse({"detail": "No."}, 401) if creating and refusing else None

    with Proxy(world.replicate.base_url, instead=refused).running() as url:
        asked = asking(world, at(world, url), text="allowed")
        with pytest.raises(AuthenticationError):
            asked.first()
        assert kinds(asked) == ["g01-c01", "g01-v01"]
        refusing.clear()
        assert asked.again().output == "allowed"
    assert len(world.creates()) == 1
    assert len(world.jobs()) == 1


def test_a_create_that_has_to_wait_for_its_turn_makes_one_job(world: World) -> None:
    asked = asking(world, text="patient")
    with world.replicate.fault("throttle", method="POST", path="/predictions"):
        assert asked.first().output == "patient"
    assert [each.status for each in world.creates()] == [429, 201]
    assert len(world.jobs()) == 1


def test_another_account_is_told_that_the_job_is_not_its_own(world: World) -> None:
    name = ["first"]

    def account(request: Request, _: bytes) -> Response | None:
        if request.url.path != "/v1/account":
            return None
        return JSONResponse({"type": "user", "username": name[0]})

    credentials: list[ReplicateCredentials] = []
    with Proxy(world.replicate.base_url, instead=account).running() as url:
        asked = Again(lambda: run_model(world.model, {"text": "mine"}, credentials=credentials[-1]))
        credentials.append(at(world, url))
        asked.first()
        # Another token: what is known of the one before is not known of it.
        name[0] = "second"
        token = world.credentials.api_token.get_secret_value() + " "
        credentials.append(ReplicateCredentials(api_token=token, base_url=f"{url}/v1"))
        with pytest.raises(LedgerError, match=r"made as 'user first' .* of 'user second'"):
            asked.again()
    assert len(world.creates()) == 1


@pytest.mark.parametrize("damage", ["{", '{"v": 2}'])
def test_a_damaged_row_is_no_reason_to_create_another_job(world: World, damage: str) -> None:
    # It is kept from the server first, as no row there can be changed afterwards.
    rows: list[str] = []

    def spoil(request: Request, body: bytes) -> Response | None:
        if not request.url.path.endswith("/input") or b"-c01" not in body:
            return None
        rows.append(json.loads(body)["key"])
        return JSONResponse({"detail": "no"}, 404)

    with Proxy(prefect_url(), instead=spoil).running() as url:
        asked = behind(world, url)
        with pytest.raises(LedgerError):
            asked.first()
    assert world.creates() == []
    write(asked, rows[0], damage)
    with pytest.raises(LedgerError, match=r"(?i)nothing was submitted"):
        asked.again()
    assert world.creates() == []


def test_a_ledger_that_is_away_lets_nothing_be_submitted(
    world: World, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    with pytest.raises(LedgerError):
        behind(world, f"http://127.0.0.1:{unused_tcp_port}").first()
    assert world.creates() == []


@pytest.mark.parametrize("row", ["-c01", "-job"])
def test_a_row_that_is_stored_and_answered_with_an_error_is_still_ones_own(
    world: World, row: str
) -> None:
    struck: list[str] = []

    def lost(request: Request, body: bytes) -> Response | None:
        written = request.url.path.endswith("/input") and row.encode() in body
        if not written or struck:
            return None
        struck.append(row)
        return JSONResponse({"detail": "away"}, 503, {"Retry-After": "0"})

    with (
        # A job that has ended could not be canceled any more.
        world.replicate.fault("cold_boot", model="local/*", seconds=3),
        Proxy(prefect_url(), after=lost).running() as url,
    ):
        asked = behind(world, url)
        made = asked.first()
    assert struck == [row]
    assert made.output == "ledger"
    assert made.status == "succeeded"
    assert world.lists() == 0
    assert len(world.creates()) == 1
    assert kinds(asked) == ["g01-c01", "g01-end", "g01-job"]
    assert [job["status"] for job in world.jobs()] == ["succeeded"]


def test_a_ledger_that_is_away_after_the_create_delays_the_job_and_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "0")
    struck: list[str] = []

    def away(request: Request, body: bytes) -> Response | None:
        if not request.url.path.endswith("/input") or b"-job" not in body or len(struck) == 2:
            return None
        struck.append("job")
        return JSONResponse({"detail": "away"}, 503)

    with Proxy(prefect_url(), instead=away).running() as url:
        assert behind(world, url).first().output == "ledger"
    assert len(struck) == 2
    assert len(world.creates()) == 1


def prefect_url() -> str:
    return str(get_current_settings().api.url).removesuffix("/api")


def behind(world: World, url: str, credentials: ReplicateCredentials | None = None) -> Again:
    """A call whose ledger is reached through another server, though its run is not; once."""
    urls = [url]

    def ask() -> Any:
        ledger = {PREFECT_API_URL: f"{urls.pop()}/api"} if urls else {}
        with temporary_settings(ledger):
            paid = credentials or world.credentials
            return run_model.fn(world.model, {"text": "ledger"}, credentials=paid)

    return Again(ask)


def write(asked: Again, name: str, value: str) -> None:
    assert asked.id is not None
    with get_client(sync_client=True) as client:
        client.create_flow_run_input(asked.id, key=name, value=value)
