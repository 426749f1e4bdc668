"""How models, versions and deployments are named."""

import pytest

from prefect_replicate.api.errors import BadReferenceError
from prefect_replicate.api.references import Name, Reference, parse_name, parse_reference

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("owner/name", Reference(Name("owner", "name"), None)),
        (f"owner/name:{ID}", Reference(Name("owner", "name"), ID)),
        (ID, Reference(None, ID)),
        (
            "Black-Forest.Labs_1/flux-1.1-pro",
            Reference(Name("Black-Forest.Labs_1", "flux-1.1-pro"), None),
        ),
    ],
)
def test_a_reference_is_a_model_a_version_of_it_or_a_version_id(
    text: str, reference: Reference
) -> None:
    assert parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "owner/",
        "/name",
        "owner/name/more",
        "owner/name:",
        "owner/name:latest",
        f"owner/name:{ID[:-1]}",
        ID.upper(),
        "owner/../account",
        "owner/name?x=1",
        "owner/na me",
        "owner/name\n",
        "https://replicate.com/owner/name",
    ],
)
def test_anything_else_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(BadReferenceError, match="Nothing was sent") as caught:
        parse_reference(text)
    assert repr(text) in str(caught.value)


def test_a_name_has_no_version() -> None:
    assert parse_name("owner/name") == Name("owner", "name")
    with pytest.raises(BadReferenceError, match="not the name of a deployment"):
        parse_name(f"owner/name:{ID}", "deployment")


def test_people_see_eight_digits_of_a_version() -> None:
    assert parse_reference(f"owner/name:{ID}").short == "owner/name:01234567"
    assert parse_reference(ID).short == "01234567"
    assert parse_reference("owner/name").short == "owner/name"
