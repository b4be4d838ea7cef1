"""Prompt templates: texts that a label is put into before it is embedded.

`IMAGENET` holds the 80 templates that CLIP published for ImageNet, which dino.txt uses too.
Source: docs/spec.md 5.9; https://github.com/openai/CLIP/blob/main/notebooks/Prompt_Engineering_for_ImageNet.ipynb.
"""

from __future__ import annotations

from pathlib import Path

from dinodeploy.errors import MisuseError
from dinodeploy.text.labels import read_lines

PLACE = "{}"  # where the label goes
PLAIN = (PLACE,)
MOST = 1000  # templates of a file

_LINES = """a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}."""
IMAGENET = tuple(_LINES.splitlines())
NAMED = {"imagenet": IMAGENET, "none": PLAIN}


def find_templates(name: str | Path) -> tuple[str, ...]:
    """The templates called `name` (imagenet, none), or those of a file with one per line.

    Raises MisuseError for an unknown name, and for a line without exactly one `{}`.
    """
    if str(name) in NAMED:
        return NAMED[str(name)]
    path = Path(name)
    if not path.is_file():
        raise MisuseError(
            f"--templates {name}: not a file; wanted {' or '.join(NAMED)}, or a file with one template "
            "per line"
        )
    lines = read_lines(path, "template", MOST)
    for number, text in lines:
        if text.count(PLACE) != 1:
            raise MisuseError(
                f"{path}, line {number}: {text!r} holds {PLACE} {text.count(PLACE)} times; wanted it "
                "once, where the label goes, for instance: a photo of a {}."
            )
    return tuple(text for _, text in lines)


def fill(templates: tuple[str, ...], label: str) -> list[str]:
    """The templates with `label` in their place."""
    return [template.replace(PLACE, label) for template in templates]
