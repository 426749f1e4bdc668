"""What a client hands to a model: checked against the version's own schema, files made reachable.

Pure: the version's OpenAPI document and the input go in; a payload, an echo or a Problem comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from prefect_replicate.local.files import read_data_uri
from prefect_replicate.local.outputs import is_file, resolve
from prefect_replicate.local.problems import from_schema_errors, invalid_field
from prefect_replicate.local.validators import validator

REDACTED = "[REDACTED]"

# Gives the URL under which a worker gets a file, or None if the URL is ours and has no file.
Reach = Callable[[str], str | None]


def check(openapi: Mapping[str, Any], input: Mapping[str, Any]) -> None:
    """Compare an input with the schema of what it is for.

    Args:
        openapi: The worker's OpenAPI document, in which "Input" is what this worker takes.
        input: As the client sent it.

    Raises:
        Problem: 422 with everything that is wrong.
    """
    errors = list(validator(openapi, "#/components/schemas/Input").iter_errors(input))
    if errors:
        raise from_schema_errors(sorted(errors, key=lambda error: list(error.path)), "input")


def payload(openapi: Mapping[str, Any], input: Mapping[str, Any], reach: Reach) -> dict[str, Any]:
    """The input as a worker gets it: every file is a URL that it can fetch without a token.

    Raises:
        Problem: 422 where a file is anything but an http(s) or data: URL, since Cog would hand
            such a text to the model as a path on this machine; or where there is no such file.
    """
    fields = _fields(openapi)
    return {
        name: _reachable(value, fields.get(name, {}), openapi, reach, f"input.{name}")
        for name, value in input.items()
    }


def redact(openapi: Mapping[str, Any], input: Mapping[str, Any]) -> dict[str, Any]:
    """The input as it is kept and shown: as sent, but secrets are gone."""
    fields = _fields(openapi)
    return {name: _redacted(value, fields.get(name, {}), openapi) for name, value in input.items()}


def is_redacted(value: Any) -> bool:
    """Whether a kept input, or a value of one, lacks a secret."""
    if isinstance(value, (list, dict)):
        return any(map(is_redacted, value if isinstance(value, list) else value.values()))
    return bool(value == REDACTED)


def _fields(openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = openapi["components"]["schemas"]["Input"].get("properties", {})
    return fields


def _redacted(value: Any, schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Any:
    schema = resolve(schema, openapi)
    if _is_secret(schema):
        return value and REDACTED
    if isinstance(value, list):
        return [_redacted(item, schema.get("items", {}), openapi) for item in value]
    return value


def _is_secret(schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("x-cog-secret")) or schema.get("format") == "password"


def _reachable(
    value: Any, schema: Mapping[str, Any], openapi: Mapping[str, Any], reach: Reach, field: str
) -> Any:
    schema = resolve(schema, openapi)
    if isinstance(value, list):
        items = schema.get("items", {})
        return [
            _reachable(item, items, openapi, reach, f"{field}.{at}")
            for at, item in enumerate(value)
        ]
    if not isinstance(value, str) or not is_file(schema):
        return value
    return _fetchable(value, reach, field)


def _names_a_host(url: str) -> bool:
    try:
        return url.partition(":")[2].startswith("//") and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _fetchable(url: str, reach: Reach, field: str) -> str:
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    url = f"{scheme}:{rest}"  # Cog knows schemes in lower case only
    if scheme == "data":
        try:
            read_data_uri(url)
        except ValueError as error:
            raise invalid_field(field, f"Does not match format 'uri': {error}", "format") from None
        return url
    if scheme not in {"http", "https"} or not _names_a_host(url):
        raise invalid_field(field, "Does not match format 'uri'", "format")
    reached = reach(url)
    if reached is None:
        raise invalid_field(field, f"There is no file at {url}", "format")
    return reached
