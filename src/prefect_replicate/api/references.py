"""How things are named: "owner/name", "owner/name:version", a version id, the id of a job or file.

Pure: a string comes in, a value or a BadInputError goes out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prefect_replicate.api.errors import BadInputError, BadReferenceError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_VERSION = r"[0-9a-f]{64}"
_QUALIFIED = re.compile(rf"(?P<owner>{_NAME})/(?P<name>{_NAME})(?::(?P<version>{_VERSION}))?")


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a model or deployment: "owner/name"."""

    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class Reference:
    """What to run: a model, one of its versions, or a bare version id.

    At least one of `model` and `version` is there.
    """

    model: Name | None
    version: str | None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.model, self.version) if part)

    @property
    def short(self) -> str:
        """For people: the version cut to its first eight digits."""
        version = self.version and self.version[:8]
        return ":".join(str(part) for part in (self.model, version) if part)


def parse_name(text: str, what: str = "model") -> Name:
    """Read "owner/name".

    Raises:
        BadReferenceError: The text is something else; `what` says in the message what it names.
    """
    match = _QUALIFIED.fullmatch(text)
    if not match or match["version"]:
        raise BadReferenceError(
            f"{text!r} is not the name of a {what}. Write it as 'owner/name', with letters, "
            f"digits, '.', '_' and '-'. Nothing was sent."
        )
    return Name(match["owner"], match["name"])


def parse_reference(text: str) -> Reference:
    """Read "owner/name", "owner/name:version" or a bare version id (64 hexadecimal digits).

    Raises:
        BadReferenceError: The text is none of these.
    """
    if re.fullmatch(_VERSION, text):
        return Reference(None, text)
    if match := _QUALIFIED.fullmatch(text):
        return Reference(Name(match["owner"], match["name"]), match["version"])
    raise BadReferenceError(
        f"{text!r} names no model. Write 'owner/name', 'owner/name:version' or a version id; "
        f"a version id has 64 hexadecimal digits. Nothing was sent."
    )


def parse_id(text: str) -> str:
    """Read the id of a job or a file.

    Raises:
        BadInputError: It cannot be an id, so it must not become part of a URL.
    """
    if not (text.isascii() and text.isalnum()):
        raise BadInputError(f"{text!r} is not an id: ids are letters and digits. Nothing was sent.")
    return text


def parse_version(text: str, why: str) -> tuple[Name, str]:
    """Read "owner/name:version", where nothing less precise will do.

    Args:
        text: What to read.
        why: What needs a version, for the message: "A training starts from one version of a model".

    Raises:
        BadReferenceError: The text is something else.
    """
    reference = parse_reference(text)
    if not (reference.model and reference.version):
        raise BadReferenceError(
            f"{why}, 'owner/name:version', and {text!r} is not that. Nothing was sent."
        )
    return reference.model, reference.version
