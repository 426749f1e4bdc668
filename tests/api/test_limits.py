"""Request budgets, on a clock of the test's own."""

import pytest

from prefect_replicate.api.limits import Budget


def test_a_minutes_worth_goes_at_once_and_then_one_at_a_time() -> None:
    budget = Budget(600)
    assert [budget.reserve(100.0) for _ in range(600)] == [0.0] * 600
    # 600 a minute is one each tenth of a second.
    assert [budget.reserve(100.0) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2], abs=1e-6)


def test_what_was_not_used_for_a_minute_can_be_used_again() -> None:
    budget = Budget(60)
    for _ in range(60):
        budget.reserve(0.0)
    assert budget.reserve(30.0) == 0.0
    assert sum(budget.reserve(1000.0) == 0.0 for _ in range(100)) == 61  # The one due, and 60.


def test_nothing_goes_before_the_wait_that_a_429_asks_for() -> None:
    budget = Budget(600)
    budget.throttled(10.0, wait=30.0)
    assert budget.reserve(10.0) == pytest.approx(30.0)
    assert budget.reserve(35.0) == pytest.approx(5.1)  # The next one is a tenth later.


def test_after_any_429_the_minutes_worth_is_used_up() -> None:
    budget = Budget(600)
    budget.throttled(10.0, wait=None, detail="Request was throttled.")
    assert [budget.reserve(10.0) for _ in range(2)] == pytest.approx([0.0, 0.1])


@pytest.mark.parametrize(
    "detail",
    [
        "You are limited to 6 requests per minute with a burst of 1.",
        "reduced to 6/min until you add credit",
        "6 predictions a minute",
    ],
)
def test_low_credit_lowers_the_limit_to_what_it_names_with_a_burst_of_one(detail: str) -> None:
    budget = Budget(600)
    budget.throttled(0.0, wait=5.0, detail=detail)
    # 6 a minute is one each 10 s, after the 5 s that were asked for.
    assert [budget.reserve(0.0) for _ in range(3)] == pytest.approx([5.0, 15.0, 25.0])


def test_a_lowered_limit_is_tried_again_at_its_height_after_a_while() -> None:
    budget = Budget(600)
    budget.throttled(0.0, wait=None, detail="6 requests per minute")
    assert budget.reserve(1000.0) == 0.0
    assert budget.reserve(1000.0) == 0.0


def test_a_limit_is_never_raised_by_a_429() -> None:
    budget = Budget(600)
    budget.throttled(0.0, wait=None, detail="3000 requests per minute")
    budget.reserve(0.0)
    assert budget.reserve(0.0) == pytest.approx(0.1)
