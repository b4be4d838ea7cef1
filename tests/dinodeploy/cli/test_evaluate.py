"""`dinodeploy evaluate`: help, results, and errors in one line with an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinodeploy.cli.evaluate import TASKS
from tests.support.images.labelled_images import write_digits
from tests.support.processes.command_line import CommandLine

TOY = Path(__file__).parents[3] / "examples" / "models" / "toy_vit"


def test_results_on_a_checkpoint(tmp_path: Path, run: CommandLine) -> None:
    digits = write_digits(tmp_path / "digits", each=4, kinds=2)
    ran = run(
        "evaluate", "knn", "--weights", TOY, "--train", digits, "--test", digits, "--size", "32", "--json"
    )
    assert ran.code == 0, ran.err
    assert list(ran.json) == ["8 Top 1", "8 Top 5"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("knn", "--train", "x"), "the following arguments are required: --test"),
        (("knn", "--train", "x", "--test", "x", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("segmentation", "--test", "x"), "no model; give --weights CHECKPOINT"),
        (("depth", "--test", "x", "--engine", "nothing"), "nothing"),
        (("knn", "--train", "nothing", "--test", "x", "--weights", str(TOY)), "'nothing' is not a dataset"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], words: str, run: CommandLine) -> None:
    ran = run("evaluate", *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert words in ran.error


@pytest.mark.parametrize("task", TASKS)
def test_help_lists_the_options_of_the_evaluation(task: str, run: CommandLine) -> None:
    ran = run("evaluate", task, "--help")
    assert ran.code == 0
    assert f"usage: dinodeploy evaluate {task}" in ran.out
    for option in ("--engine", "--json", "--require-signature"):
        assert option in ran.out
    assert ("--class-map" in ran.out) == (task in ("knn", "linear", "logistic"))
