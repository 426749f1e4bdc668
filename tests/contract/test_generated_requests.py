"""Requests made up from Replicate's own OpenAPI document get answers that it knows, and no 5xx.

Schemathesis makes them: first those at the edges of the document's schemas, on both sides, which
are always the same; then as many drawn ones as PREFECT_REPLICATE_EXAMPLES says, half of them right
and half wrong, which are the same in every run as well.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi import checks
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.contract.document import completed, hinted
from tests.contract.test_operations import CALLS
from tests.contract.world import WEBHOOKS, World, hints

EXAMPLES = int(os.environ.get("PREFECT_REPLICATE_EXAMPLES", "6"))
Operation: TypeAlias = schemathesis.APIOperation[Any, Any, Any, Any]
Case: TypeAlias = schemathesis.Case[Operation]


@pytest.fixture(scope="package")
def schema(openapi: dict[str, Any], world: World) -> OpenApiSchema:
    """The document as Schemathesis has it, with examples that are there."""
    document = hinted(completed(openapi), hints(world), WEBHOOKS)
    config = schemathesis.Config.from_dict(
        {
            "base-url": f"{world.server.base_url}/v1",
            "request-timeout": 30,
            "seed": 1,
            # Every request has the token: what happens without it is a test of its own.
            "generation": {"with-security-parameters": False},
        }
    )
    return schemathesis.openapi.from_dict(document, config=config)


@pytest.fixture(scope="package")
def session(world: World) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {world.server.token}"
        yield session


def says_what_is_wrong(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: Case
) -> None:
    """Every refusal is problem+json, but that of a search, and has a detail and its own status."""
    if response.status_code < 400:
        return
    plain = case.path == "/search" and response.status_code == 400
    media_type = "application/json" if plain else "application/problem+json"
    assert response.headers["content-type"] == [media_type]
    problem = response.json()
    assert problem["detail"]
    assert problem["status"] == response.status_code


CHECKS: list[CheckFunction] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    says_what_is_wrong,
]


def _at_the_edges(operation: Operation) -> Iterator[Case]:
    schema = operation.schema
    generation = schema.config.generation_for(operation=operation, phase="coverage")
    cases = schema.iter_coverage_cases(
        operation, generation_modes=list(GenerationMode), generation_config=generation
    )
    # To search by QUERY is on the site, and not in the document.
    return (case for case in cases if (case.method, case.path) != ("QUERY", "/models"))


def _drawn(operation: Operation, mode: GenerationMode, send: Callable[[Case], None]) -> None:
    same_and_unhurried = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    same_and_unhurried(given(operation.as_strategy(mode))(send))()


@pytest.mark.parametrize("name", CALLS)
def test_every_answer_is_one_that_the_document_knows(
    schema: OpenApiSchema, session: requests.Session, name: str
) -> None:
    statuses: Counter[int] = Counter()

    # The fields of a form are texts whatever they say, so nothing in one is of a wrong type.
    strict = [] if name == "files.create" else [checks.negative_data_rejection]

    def send(case: Case) -> None:
        response = case.call_and_validate(session=session, checks=[*CHECKS, *strict])
        statuses[response.status_code] += 1

    operation = schema.find_operation_by_id(name)
    for case in _at_the_edges(operation):
        send(case)
    _drawn(operation, GenerationMode.POSITIVE, send)
    # Any text is right in a path, so where there is nothing else, nothing can be wrong.
    if operation.query or operation.headers or operation.body:
        _drawn(operation, GenerationMode.NEGATIVE, send)
    assert any(status < 300 for status in statuses), f"{name} was only refused: {statuses}"
