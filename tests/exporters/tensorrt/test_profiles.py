"""Shapes of an engine: what options mean, what is refused, and that engines can be judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinodeploy.bundle.bundle import GOLDEN_FILE
from dinodeploy.bundle.manifest import ProfileFacts
from dinodeploy.errors import MisuseError
from dinodeploy.images.preprocess import Preprocess
from dinodeploy.parity.golden import GoldenCase, load_golden
from exporters.tensorrt.profiles import READY, check_judgeable, choose_profiles, fit_fixed, ready_profiles

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocess(size: tuple[int, int] | None = None, patch: int = 16) -> Preprocess:
    return Preprocess.from_preset("official", size, MEAN, STD, patch)


def test_explicit_profiles() -> None:
    found = choose_profiles(None, ["1:8:64"], ["224:512x768:1024"], preprocess())
    assert found == (ProfileFacts((1, 224, 224), (8, 512, 768), (64, 1024, 1024)),)


def test_one_number_is_a_fixed_shape() -> None:
    assert choose_profiles(None, ["4"], ["224x384"], preprocess()) == (
        ProfileFacts((4, 224, 384), (4, 224, 384), (4, 224, 384)),
    )


def test_several_profiles_pair_up_and_a_single_one_applies_to_all() -> None:
    two = choose_profiles(None, ["1:32:64", "1:1:4"], ["224:224:256", "256:512:1024"], preprocess())
    assert [profile.max for profile in two] == [(64, 256, 256), (4, 1024, 1024)]
    shared = choose_profiles(None, ["1:2:4"], ["224", "512"], preprocess())
    assert [profile.opt for profile in shared] == [(2, 224, 224), (2, 512, 512)]


def test_missing_values_come_from_the_usual_set() -> None:
    usual = ready_profiles("usual", preprocess((256, 384)))[0]
    assert usual.opt == (8, 256, 384)
    assert choose_profiles(None, [], [], preprocess((256, 384))) == (usual,)
    assert choose_profiles(None, ["2"], [], preprocess((256, 384)))[0].max == (2, *usual.max[1:])
    assert choose_profiles(None, [], ["512"], preprocess())[0].max == (usual.max[0], 512, 512)


@pytest.mark.parametrize("patch", [14, 16])
@pytest.mark.parametrize("size", [None, (112, 1120), (2240, 224)])
@pytest.mark.parametrize("name", READY)
def test_predefined_sets_fit_every_bundle(name: str, size: tuple[int, int] | None, patch: int) -> None:
    """Ordered, multiples of the patch, and the bundle's own size inside one of them."""
    own = preprocess(size, patch) if size or patch == 16 else preprocess((252, 252), patch)
    profiles = choose_profiles(name, [], [], own)
    for profile in profiles:
        for low, often, high in zip(profile.min, profile.opt, profile.max, strict=True):
            assert 1 <= low <= often <= high
        assert all(
            side % patch == 0 for shape in (profile.min, profile.opt, profile.max) for side in shape[1:]
        )
    inside = [
        all(a <= b <= c for a, b, c in zip(p.min[1:], (own.height, own.width), p.max[1:], strict=True))
        for p in profiles
    ]
    assert any(inside)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("usual", [(96, 256, 512)]),
        ("server", [(96, 256, 256), (256, 512, 1024)]),
        ("dense", [(96, 768, 1536)]),
    ],
)
def test_a_convnexts_sides_are_counted_by_16_and_cut_to_whole_patches(
    name: str, sides: list[tuple[int, int, int]]
) -> None:
    profiles = choose_profiles(name, [], [], preprocess((256, 256), 32))
    assert [(p.min[1], p.opt[1], p.max[1]) for p in profiles] == sides
    assert [(p.min[2], p.opt[2], p.max[2]) for p in profiles] == sides


@pytest.mark.parametrize(
    ("ready", "batch", "imgsz", "message"),
    [
        ("huge", [], [], "--profile 'huge' is unknown; known: usual, edge, server, dense"),
        ("edge", ["1"], [], "sets batch and size already"),
        (None, ["0"], [], "--batch '0'; wanted N or smallest:usual:largest"),
        (None, ["1:2"], [], "--batch '1:2'"),
        (None, ["8:4:64"], [], "wanted smallest <= usual <= largest"),
        (None, ["١"], [], "--batch '١'"),
        (None, [], ["224:518:1024"], "518 is not a multiple of the patch size 16; wanted 512 or 528"),
        (None, [], ["8"], "8 is not a multiple of the patch size 16; wanted 16"),
        (None, [], ["512:224:1024"], "wanted smallest <= usual <= largest"),
        (None, [], ["224x512:512x224:512x512"], "for height and width"),
        (None, [], ["big"], "--imgsz 'big'; wanted H or HxW"),
        (None, [], ["-16"], "--imgsz '-16'"),
        (None, ["1", "2"], ["224", "256", "512"], "--batch is given 2 times and --imgsz 3 times"),
        (None, ["1"], ["224", "224"], "two profiles are the same"),
    ],
)
def test_misuse_errors_state_what_is_wanted(
    ready: str | None, batch: list[str], imgsz: list[str], message: str
) -> None:
    with pytest.raises(MisuseError) as caught:
        choose_profiles(ready, batch, imgsz, preprocess())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_may_need_larger_images() -> None:
    (usual,) = choose_profiles(None, [], [], preprocess(), 128)
    assert usual.min[1:] == (128, 128)
    with pytest.raises(MisuseError, match="112x112 is too small; this model takes 128 px or more"):
        choose_profiles(None, ["1"], ["112:256:512"], preprocess(), 128)


def case(name: str, height: int, width: int) -> GoldenCase:
    return GoldenCase(name, (), np.zeros((2, 3, height, width), np.float32), {})


def test_predefined_sets_can_be_judged_on_every_golden_case(tiny_bundle: Path) -> None:
    cases = load_golden(tiny_bundle / GOLDEN_FILE)
    for name in READY:
        assert check_judgeable(ready_profiles(name, preprocess()), cases) == (), name


def test_a_case_outside_is_noted_and_none_inside_is_refused() -> None:
    profiles = choose_profiles(None, ["1"], ["224:256:512"], preprocess())
    notes = check_judgeable(profiles, [case("own_size", 256, 256), case("wide", 112, 192)])
    assert notes == ("golden case wide (112x192) is outside every profile and will not be judged",)
    with pytest.raises(MisuseError, match="could never be judged"):
        check_judgeable(profiles, [case("wide", 112, 192), case("tall", 528, 224)])
    swapped = [replace(profile, max=(1, 512, 256)) for profile in profiles]
    assert check_judgeable(swapped, [case("own_size", 512, 256), case("turned", 256, 512)])


def test_a_profile_that_no_case_fits_is_noted() -> None:
    """Several fixed sizes: the judge runs the kernels of those that its cases have."""
    profiles = choose_profiles(None, ["8"], ["256", "512", "224:512:1024"], preprocess())
    notes = check_judgeable(profiles[:2], [case("own_size", 256, 256)])
    assert notes == (
        "no golden case fits the profile of 512x512 px, so its kernels will not be judged; export with that "
        "--imgsz to judge them",
    )
    (note,) = check_judgeable(profiles, [case("own_size", 512, 512)])
    assert "profile of 256x256 px" in note
    assert check_judgeable(profiles[2:], [case("own_size", 256, 256)]) == ()


def test_fixed_sizes_are_the_whole_profile() -> None:
    steps = preprocess((64, 96))
    (profile,) = fit_fixed(ready_profiles("usual", steps), ("height", "width"), steps)
    assert (profile.min, profile.opt, profile.max) == ((1, 64, 96), (8, 64, 96), (32, 64, 96))
    (profile,) = fit_fixed(ready_profiles("server", steps), ("batch", "height", "width"), steps)
    assert profile.min == profile.max == (1, 64, 96)
