"""Which call is which: the same name for the same question, another for any other."""

import string
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from prefect_replicate.jobs.identity import fingerprint, key_of

API = "https://api.replicate.com"
RUN = UUID(int=7)


def no_file(url: str) -> str | None:
    return None


def of(input: Mapping[str, Any], asked: str = "owner/name", api: str = API) -> str:
    return fingerprint(api, asked, input, no_file)


def test_it_is_26_characters_that_a_row_may_be_named_by() -> None:
    assert len(of({"text": "hello"})) == 26
    assert set(of({"text": "hello"})) <= set(string.ascii_lowercase + "234567")


def test_it_stays_the_same_from_one_release_to_the_next() -> None:
    # A flow that is run again after an upgrade must find what it has paid for.
    print_ = of({"text": "hello", "number": 1})
    assert print_ == "ytyjtebuqi33q5ucqsf7egkwko"
    assert key_of(RUN, print_, 0) == "nyjb4okhjf3kweeszb24zyiixf"


def test_the_order_of_an_input_makes_no_difference_at_any_depth() -> None:
    one = {"a": 1, "b": [{"c": 2, "d": 3}]}
    other = {"b": [{"d": 3, "c": 2}], "a": 1}
    assert of(one) == of(other)


def test_a_tuple_is_sent_as_a_list_and_counts_as_one() -> None:
    assert of({"a": (1, 2)}) == of({"a": [1, 2]})


DIFFERENT: list[Mapping[str, Any]] = [
    {},
    {"a": None},
    {"a": 0},
    {"a": False},
    {"a": 0.0},
    {"a": "0"},
    {"a": ""},
    {"a": "false"},
    {"a": []},
    {"a": {}},
    {"a": [0]},
    {"a": [[0]]},
    {"a": [0, 0]},
    {"a": {"b": 0}},
    {"a": 1},
    {"a": True},
    {"a": 1.0},
    {"a": 0.1 + 0.2},
    {"a": 0.3},
    {"a": 2**53},
    {"a": 2**53 + 1},
    {"b": 0},
    {"a": 0, "b": 0},
    {"a": "é"},  # one character
    {"a": "e\u0301"},  # two that look the same
    {"a": "e"},
    {"a": "\ud800"},  # half of a pair, as some file names have
    {"a": "日本語"},
    {"a": "日本语"},
    {"a": "😀"},
    {"a": "\\ud83d\\ude00"},
    {"a": "x" * 10_000},
    {"a": "x" * 10_001},
    {"a": '","b":"'},
]


def test_any_change_of_an_input_makes_another() -> None:
    assert len({of(each) for each in DIFFERENT}) == len(DIFFERENT)


def test_the_order_of_a_list_makes_another() -> None:
    assert of({"a": [1, 2]}) != of({"a": [2, 1]})


def test_another_model_or_another_api_makes_another() -> None:
    prints = {
        of({"a": 1}),
        of({"a": 1}, asked="owner/other"),
        of({"a": 1}, asked="deployment owner/name"),
        of({"a": 1}, api="http://127.0.0.1:5555"),
    }
    assert len(prints) == 4


def test_a_file_counts_by_its_content_and_not_by_its_upload() -> None:
    known = {"https://api/files/1": "aa", "https://api/files/2": "aa", "https://api/files/3": "bb"}

    def print_of(url: str) -> str:
        return fingerprint(API, "owner/name", {"images": [{"of": url}]}, known.get)

    first, again, other, strange = (print_of(f"https://api/files/{n}") for n in (1, 2, 3, 4))
    assert first == again
    assert len({first, other, strange}) == 3


@pytest.mark.parametrize("place", [0, 1, 99, 100, "mine", "0"])
def test_a_key_is_that_of_one_place_in_one_run(place: int | str) -> None:
    key = key_of(RUN, "p" * 26, place)
    others = [
        key_of(UUID(int=8), "p" * 26, place),
        *(key_of(RUN, "p" * 26, each) for each in (0, 1, 99, 100, "mine", "0") if each != place),
    ]
    assert key not in others
    assert key == key_of(RUN, "p" * 26, place)


def test_a_numbered_call_is_another_when_its_input_is_another() -> None:
    assert key_of(RUN, of({"a": 1}), 0) != key_of(RUN, of({"a": 2}), 0)


def test_a_call_that_the_caller_names_keeps_its_key_whatever_it_asks() -> None:
    # So that asking something else under the same name can be told, as the error that it is.
    assert key_of(RUN, of({"a": 1}), "mine") == key_of(RUN, of({"a": 2}), "mine")
