"""docs/development/seed.md lists every item and its test."""

from __future__ import annotations

from tests.compatibility.make_table import ITEMS, TABLE, find_tests, make_table


def test_every_item_has_exactly_one_test() -> None:
    assert list(ITEMS) == [f"S{number:02}" for number in range(1, 69)]
    tests = find_tests()
    assert {item: len(names) for item, names in tests.items()} == dict.fromkeys(ITEMS, 1)


def test_the_page_is_fresh() -> None:
    stale = f"{TABLE} is stale: python -m tests.compatibility.make_table"
    assert TABLE.read_text(encoding="utf-8") == make_table(), stale
