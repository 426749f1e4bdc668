import pytest

from prefect_replicate.local.lifetimes import read_cancel_after, read_prefer
from prefect_replicate.local.problems import Problem


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", None),
        ("90", 90.0),
        ("5", 5.0),
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1h30m45s", 5445.0),  # 3600 + 30 * 60 + 45
        ("24h", 86400.0),
    ],
)
def test_a_life_is_seconds_or_a_duration(header: str, seconds: float | None) -> None:
    assert read_cancel_after(header) == seconds


@pytest.mark.parametrize(
    "header",
    [
        "4",
        "4s",
        "0",
        "-5",
        "5.5",
        "soon",
        "30 s",
        "45s30m",
        "5d",
        "86401",
        "25h",
        "h",
        "9" * 5000 + "h",
    ],
)
def test_a_life_that_is_malformed_too_short_or_too_long_is_refused(header: str) -> None:
    with pytest.raises(Problem) as raised:
        read_cancel_after(header)
    assert raised.value.status == 422


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", None),
        ("wait", 60),
        ("wait=1", 1),
        ("Wait=60", 60),
        ("respond-async, wait=5", 5),
        ("respond-async", None),
        ("waiting", None),
    ],
)
def test_a_wait_is_a_number_of_seconds_or_all_of_sixty(header: str, seconds: int | None) -> None:
    assert read_prefer(header) == seconds


@pytest.mark.parametrize(
    "header", ["wait=0", "wait=61", "wait=", "wait=ten", "wait=-1", "wait=" + "9" * 5000]
)
def test_a_wait_out_of_range_is_refused(header: str) -> None:
    with pytest.raises(Problem) as raised:
        read_prefer(header)
    assert raised.value.status == 422
