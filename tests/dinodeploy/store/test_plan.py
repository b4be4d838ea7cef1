"""The plan: shards cut from the listing, differences in words."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from dinodeploy import MisuseError
from dinodeploy.store.plan import hash_listing, parse_part
from tests.support.stores import make_plan

IDS = [f"{index}.jpg" for index in range(10)]


def test_shards_cover_the_listing_once() -> None:
    plan = make_plan(IDS, shard_size=4)
    assert plan.shards == 3
    assert [list(plan.shard(index)) for index in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert make_plan(IDS[:8], shard_size=4).shards == 2
    assert make_plan([], shard_size=4).shards == 0


def test_a_listing_is_known_by_its_ids_and_their_order() -> None:
    assert hash_listing(IDS) == hash_listing(list(IDS))
    assert hash_listing(IDS) != hash_listing(IDS[::-1])
    assert hash_listing(["a", "b"]) != hash_listing(["a\nb"])
    assert hash_listing(["caf\udce9"]) != hash_listing(["café"]), "names that are not Unicode count too"


def test_differences_are_named_and_few() -> None:
    plan = make_plan(IDS, fingerprint={"arch": "vit_small", "preprocess": {"height": 256, "width": 256}})
    assert plan.differences(plan) == ""
    assert plan.differences(replace(plan, batch=7)) == "", "last bits at most"
    other = {"arch": "vit_base", "preprocess": {"height": 224, "width": 224}}
    assert plan.differences(replace(plan, fingerprint=other)) == (
        "arch: vit_small, now vit_base; preprocess.height: 256, now 224; preprocess.width: 256, now 224"
    )
    many = replace(plan, fingerprint=other, dtype="int8", format="npz")
    assert plan.differences(many).endswith("(and 1 more)")


@pytest.mark.parametrize(("text", "wanted"), [("1/1", (1, 1)), ("2/4", (2, 4)), ("12/12", (12, 12))])
def test_parts(text: str, wanted: tuple[int, int]) -> None:
    assert parse_part(text) == wanted


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1 /2", "½/1"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(MisuseError, match="wanted i/n, the i-th of n processes"):
        parse_part(text)


def test_a_listing_is_known_by_where_images_come_from_too() -> None:
    """As far as ids do not tell it; without such the hash is that of older stores."""
    assert hash_listing(["k0"], ["a.jpg"]) != hash_listing(["k0"])
    assert hash_listing(["k0"], ["a.jpg"]) != hash_listing(["k0"], ["b.jpg"])
    assert hash_listing(["k0"], ["a.jpg"]) != hash_listing(["k0", "a.jpg"])
    assert hash_listing(["k0"]) == hashlib.sha256(b'"k0"\n').hexdigest()
