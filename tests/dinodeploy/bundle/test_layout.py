"""The layouts that `export --layout` knows."""

from __future__ import annotations

import pytest

from tests.support.processes.command_line import CommandLine


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--layout", "openvino"), "wanted bundle or transformers"),
        (("--layout", "transformers", "--precision", "fp32,fp8"), "no browser runs 'fp8'"),
        (("--layout", "transformers", "--fp16", "--int8"), "wanted one"),
        (("--layout", "transformers", "--layers", "3"), "layers does not fit"),
        (("--precision", "fp32,fp16"), "precision 'fp32,fp16'"),
    ],
)
def test_refused(run: CommandLine, options: tuple[str, ...], words: str) -> None:
    ran = run("export", "--weights", "random", "--arch", "vit_small", *options)
    assert ran.code == 2
    assert words in ran.error
