"""Every operation of Replicate's OpenAPI document has one route, and there are no other routes."""

import re
from collections import Counter
from typing import Any, cast

import pytest
from starlette.routing import Route

from prefect_replicate.local.routes import application
from prefect_replicate.local.service import Service
from tests.contract.document import operations
from tests.contract.test_operations import CALLS
from tests.contract.world import World

# Routes under the API that the document does not have.
ALSO = {
    ("QUERY", "/models"): "the search of models, which is on the site only",
    ("GET", "/streams/{}"): "where `urls.stream` leads; another host at Replicate",
    ("GET", "/delivery/{}"): "where outputs are; another host at Replicate",
    ("GET", "/p/{}"): "the page of a run for people, where `urls.web` leads",
    ("GET", "/"): "the page for people with which they begin",
}
# Not part of the API: the server's own switches.
CONTROL = "/_local/"


def _routes() -> list[Route]:
    """All routes; which there are does not depend on the service behind them."""
    routes = application(cast(Service, None)).routes
    assert all(isinstance(route, Route) for route in routes)
    return cast(list[Route], routes)


def _shape(path: str) -> str:
    """A path without the names of its parameters, which a route is free to choose."""
    return re.sub(r"\{[^}]+\}", "{}", path)


def _served() -> Counter[tuple[str, str]]:
    """How many routes there are for each method and path. A GET brings its HEAD."""
    return Counter(
        (method, _shape(route.path))
        for route in _routes()
        for method in (route.methods or set()) - {"HEAD"}
        if not route.path.startswith(CONTROL)
    )


def test_every_operation_has_one_route_and_there_are_no_others(openapi: dict[str, Any]) -> None:
    described = [
        (operation.method, _shape(operation.path)) for operation in operations(openapi).values()
    ]
    assert len(described) == 36
    assert _served() == Counter([*described, *ALSO])


def test_no_two_routes_compete_for_a_path() -> None:
    paths = [_shape(route.path) for route in _routes()]
    for path in paths:
        example = path.replace("{}", "x")
        fit = [other for other in paths if re.fullmatch(other.replace("{}", "[^/]+"), example)]
        assert set(fit) == {path}


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/v1"])
@pytest.mark.parametrize("name", CALLS)
def test_an_operation_is_there_with_and_without_the_version_of_the_api(
    openapi: dict[str, Any], world: World, name: str, prefix: str
) -> None:
    operation = operations(openapi)[name]
    url = world.server.base_url + prefix + _shape(operation.path).replace("{}", "x")
    answer = world.http.options(url)
    assert answer.status_code == 405
    assert operation.method in answer.headers["allow"].split(", ")
