"""One Local Replicate for the contract tests, with one of everything in it."""

from collections.abc import Iterator

import pytest

from prefect_replicate.local import LocalReplicate
from tests.contract.world import World, build


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with LocalReplicate() as server:
        world = build(server, tmp_path_factory.mktemp("quick"))
        yield world
        world.http.close()
