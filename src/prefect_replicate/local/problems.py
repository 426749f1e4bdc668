"""How Local Replicate says no: problem+json, with the words that Replicate uses.

Pure: values and their JSON. Routes raise a `Problem`; one handler turns it into a response.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MEDIA_TYPE = "application/problem+json"
NOT_NOW = "Not possible now"


class Problem(Exception):
    """A refusal: an HTTP status and the JSON that goes with it.

    Attributes:
        status: HTTP status.
        body: The problem+json object, without anything secret.
        headers: That go with it.
    """

    def __init__(self, status: int, detail: str, title: str | None = None, **extra: Any) -> None:
        super().__init__(f"{status} {detail}")
        self.status = status
        self.headers: dict[str, str] = {}
        heading = {"title": title} if title else {}
        self.body: dict[str, Any] = {**heading, "detail": detail, "status": status, **extra}


@dataclass(frozen=True, slots=True)
class InvalidField:
    """One mistake in a request, in the words of Replicate's own checker (gojsonschema).

    Attributes:
        type: The kind, for instance "required" or "number_lte".
        field: Where: "input", "input.steps", or "(root)" for the body itself.
        description: What is wrong, for people.
    """

    type: str
    field: str
    description: str

    def to_json(self) -> dict[str, str]:
        """The entry of `invalid_fields`."""
        return {"type": self.type, "field": self.field, "description": self.description}


def invalid(fields: Iterable[InvalidField]) -> Problem:
    """422: the body or the model's input is not what it should be."""
    found = list(fields)
    lines = "".join(
        f"- {'' if entry.field == '(root)' else entry.field + ': '}{entry.description}\n"
        for entry in found
    )
    return Problem(
        422,
        lines,
        "Input validation failed",
        invalid_fields=[entry.to_json() for entry in found],
    )


def invalid_field(field: str, description: str, kind: str = "invalid") -> Problem:
    """422 for a single mistake."""
    return invalid([InvalidField(kind, field, description)])


def not_found(detail: str = "The requested resource could not be found.") -> Problem:
    """404."""
    return Problem(404, detail)


def not_now(detail: str) -> Problem:
    """422: what is asked for has to wait until something else has changed.

    Replicate's own status for this is not documented. At 409 an official client would try again.
    """
    return Problem(422, detail, NOT_NOW)


def unknown_version() -> Problem:
    """422: the version to run is not there."""
    return Problem(
        422,
        "The specified version does not exist (or perhaps you don't have permission to use it?)",
        "Invalid version or not permitted",
    )


def unauthenticated(*, given: bool) -> Problem:
    """401; `given` tells a wrong token from a missing one."""
    token = "a valid authentication token" if given else "an authentication token"
    return Problem(401, f"You did not pass {token}", "Unauthenticated")


def too_large(detail: str) -> Problem:
    """413."""
    return Problem(413, detail)


def from_schema_errors(errors: Iterable[Any], root: str = "") -> Problem:
    """422 out of the errors of a jsonschema validator; `root` is where the checked value stands."""
    return invalid(entry for error in errors for entry in _describe(error, root))


def _describe(error: Any, root: str) -> list[InvalidField]:
    if error.validator == "anyOf":  # how null is admitted beside something else
        inner = [each for each in error.context if not _is_of_null(each, error)]
        return [field for each in inner for field in _describe(each, root)]
    parts = [part for part in [root, *map(str, error.absolute_path)] if part]
    field = ".".join(parts) or "(root)"
    if error.validator == "additionalProperties":
        names = [name for name in error.instance if name not in error.schema.get("properties", {})]
        return [
            InvalidField(
                "additional_property_not_allowed",
                field,
                f"Additional property {name} is not allowed",
            )
            for name in names
        ]
    kind, description = _explain(error, parts[-1] if parts else "body")
    return [InvalidField(kind, field, description)]


def _is_of_null(error: Any, outer: Any) -> bool:
    branch = outer.validator_value[error.schema_path[0]]
    return bool(branch.get("type") == "null")


# Never jsonschema's own message, which shows the value, and that may be a secret.
_ANY_WORDS = "Does not fit {validator}: {value}"
_WORDS: Mapping[str, tuple[str, str]] = {
    "required": ("required", "{missing} is required"),
    "type": ("invalid_type", "Invalid type. Expected: {value}, given: {given}"),
    "enum": ("enum", "{name} must be one of the following: {options}"),
    "minimum": ("number_gte", "Must be greater than or equal to {value}"),
    "maximum": ("number_lte", "Must be less than or equal to {value}"),
    "minLength": ("string_gte", "String length must be greater than or equal to {value}"),
    "maxLength": ("string_lte", "String length must be less than or equal to {value}"),
    "pattern": ("pattern", "Does not match pattern '{value}'"),
}


def _explain(error: Any, name: str) -> tuple[str, str]:
    kind, words = _WORDS.get(error.validator, (str(error.validator), _ANY_WORDS))
    value = error.validator_value
    return kind, words.format(
        name=name,
        value=value,
        validator=error.validator,
        given=_json_type(error.instance),
        options=", ".join(f'"{option}"' for option in value) if isinstance(value, list) else "",
        # jsonschema reports every missing name by itself, and says which only in the message.
        missing=error.message.partition("'")[2].partition("'")[0],
    )


def _json_type(value: Any) -> str:
    names: Mapping[type, str] = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
    }
    return names.get(type(value), "null")
