"""Values of columns: what is read, and what is refused in words and never by a crash."""

from __future__ import annotations

from typing import Any

import pytest

from lmwright.core.columns import Unfit, read_label, read_labels, read_number


def nested(value: Any, depth: int) -> Any:
    """A list in a list, and so on."""
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [1, 2, 5000])
def test_a_list_of_one_label_is_that_label_however_deep(depth: int) -> None:
    assert read_label("label", nested("good", depth)) == "good"
    assert read_labels("tags", [nested("good", depth), "bad"]) == ["bad", "good"]


def test_lists_of_several_labels_are_no_label() -> None:
    with pytest.raises(Unfit, match="wrong type"):
        read_label("label", nested(["good", "bad"], 3))
    with pytest.raises(Unfit, match="wrong type"):
        read_label("label", [])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (10**400, "unusable stars"),
        (-(10**400), "unusable stars"),
        ("1e999", "unusable stars"),
        (float("nan"), "unusable stars"),
        (True, "unusable stars"),
        ("many", "wrong type"),
        ([4], "wrong type"),
        (None, "no stars"),
    ],
)
def test_what_is_no_finite_number_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(Unfit) as refused:
        read_number("stars", value)
    assert refused.value.reason == reason
