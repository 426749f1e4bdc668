"""Every test of tasks runs on the session's Prefect server and Local Replicate."""

from typing import Any

import httpx
import pytest

from prefect_replicate import LocalReplicate, ReplicateCredentials


@pytest.fixture(autouse=True)
def _servers(prefect_server: None, tiny_model: str) -> None:
    """Both servers are up, and the tiny model is there."""


@pytest.fixture
def wrong(credentials: ReplicateCredentials) -> ReplicateCredentials:
    """The right server, the wrong token."""
    return ReplicateCredentials(api_token="r8_wrong", base_url=credentials.base_url)


def jobs(replicate: LocalReplicate, kind: str = "predictions") -> list[dict[str, Any]]:
    """What Local Replicate was asked to run, newest first, as any client would list it."""
    found: list[dict[str, Any]] = []
    page = f"{replicate.base_url}/v1/{kind}"
    while page:
        answer = httpx.get(page, headers={"Authorization": f"Bearer {replicate.token}"})
        found += answer.raise_for_status().json()["results"]
        page = answer.json()["next"]
    return found
