"""What is looked for in long lists, in lists that cannot be read whole, and by somebody else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from prefect_replicate import JobFateUnknown, LedgerError, ReplicateCredentials, run_model
from tests.chaos.conftest import Again, World
from tests.chaos.proxy import Proxy
from tests.chaos.running import until
from tests.chaos.test_lost import CREATE

MANY = 250


@dataclass
class Lists:
    """What happens to lists of predictions.

    Attributes:
        refused: Which pages are refused: those whose number is at least this.
        between: How many jobs others make between two pages.
        pages: How many were asked for.
        account: Whose the token is.
    """

    world: World
    refused: int | None = 1
    between: int = 0
    pages: int = 0
    account: str = "first"
    _made: list[str] = field(default_factory=list)

    def instead(self, request: Request, _: bytes) -> Response | None:
        if request.url.path == "/v1/account":
            return JSONResponse({"type": "user", "username": self.account})
        if request.method != "GET" or request.url.path != "/v1/predictions":
            return None
        page = 2 if "cursor" in request.query_params else 1
        self.pages += 1
        if self.refused is not None and page >= self.refused:
            return JSONResponse({"detail": "Not now."}, 403)
        if page == 2:
            self._made += [self.world.foreign(text="between") for _ in range(self.between)]
        return None


@contextmanager
def unknown(world: World) -> Iterator[tuple[Lists, Again]]:
    """A call whose create was taken, its answer lost, and which nobody could look for yet."""
    lists = Lists(world)
    with Proxy(world.replicate.base_url, instead=lists.instead).running() as url:

        def ask() -> object:
            # Each time a client of its own, which knows nothing of the one before.
            base_url = url + ("/v1" if lists.account == "first" else "")
            credentials = ReplicateCredentials(
                api_token=world.credentials.api_token, base_url=base_url
            )
            return run_model(world.model, {"text": "sought"}, credentials=credentials)

        asked = Again(ask)
        with world.replicate.fault("drop_after", **CREATE), pytest.raises(JobFateUnknown):
            asked.first()
        yield lists, asked


def test_a_job_is_found_in_a_long_list_that_grows_while_it_is_read_but_not_in_a_part_of_it(
    world: World,
) -> None:
    with unknown(world) as (lists, asked):
        (sought,) = world.jobs()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: world.foreign(text="another"), range(MANY)))
        lists.refused, lists.pages = 2, 0
        with pytest.raises(JobFateUnknown, match="could not be read"):
            asked.again()
        assert lists.pages >= 2
        lists.refused, lists.between = None, 20
        assert asked.again().id == sought["id"]
        assert lists.pages > 4
    assert sum("sought" in str(each.body) for each in world.creates()) == 1


def test_another_account_is_told_so_and_neither_looks_nor_creates(world: World) -> None:
    with unknown(world) as (lists, asked):
        (sought,) = world.jobs()
        lists.account, lists.refused, lists.pages = "second", None, 0
        with pytest.raises(LedgerError, match=r"made as 'user first' .* of 'user second'"):
            asked.again()
        assert lists.pages == 0
        assert len(world.creates()) == 1
        lists.account = "first"
        assert asked.again().id == sought["id"]
    assert len(world.creates()) == 1


def test_a_job_whose_data_are_gone_may_be_it_and_is_neither_taken_over_nor_made_again(
    world: World,
) -> None:
    with world.replicate.behaving(retention=0.2), unknown(world) as (lists, asked):
        until(lambda: bool(world.jobs()[0]["data_removed"]), lambda: str(world.jobs()))
        jobs = world.jobs()
        lists.refused = None
        with pytest.raises(JobFateUnknown) as caught:
            asked.again()
        assert [job.id for job in caught.value.candidates] == [job["id"] for job in jobs]
    assert len(world.creates()) == 1
