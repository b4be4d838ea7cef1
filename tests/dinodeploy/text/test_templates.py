"""The published templates, and templates of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dinodeploy.errors import MisuseError
from dinodeploy.text.templates import IMAGENET, PLAIN, fill, find_templates

# Of the 80 lines joined by \n: a changed template would change every class vector.
PUBLISHED = "4f976686fb651bb5803d4689dcd849f75efe0ef19a3c801355bc9a6f03c8a5af"


def test_the_eighty_templates_are_the_published_ones() -> None:
    assert (len(IMAGENET), len(set(IMAGENET))) == (80, 80)
    assert hashlib.sha256("\n".join(IMAGENET).encode()).hexdigest() == PUBLISHED
    assert find_templates("imagenet") is IMAGENET
    assert find_templates("none") == PLAIN == ("{}",)


def test_templates_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("\ufeffa drawing of {}.\n\n{} seen from above\n", encoding="utf-8")
    templates = find_templates(path)
    assert fill(templates, "a {x}") == ["a drawing of a {x}.", "a {x} seen from above"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a photo\n", "line 1: 'a photo' holds {} 0 times; wanted it once"),
        ("a {}\n{} and {}\n", "line 2: '{} and {}' holds {} 2 times"),
        ("\n", "is empty; wanted one template per line"),
    ],
)
def test_a_template_names_the_label_once(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "templates.txt"
    path.write_text(text)
    with pytest.raises(MisuseError) as refused:
        find_templates(path)
    assert message in str(refused.value)


def test_an_unknown_name() -> None:
    with pytest.raises(MisuseError, match="--templates imagenet21: not a file; wanted imagenet or none, or"):
        find_templates("imagenet21")
