"""`dinodeploy evaluate`: evaluate a checkpoint or a bundle with the published protocols."""

from __future__ import annotations

from collections.abc import Callable

import typer

from dinodeploy.heads.evaluate import evaluate

TASKS = {
    "knn": "k nearest neighbours on frozen features.",
    "linear": "A grid of linear classifiers on frozen features.",
    "logistic": "Logistic regression on frozen features, with a sweep of C.",
    "segmentation": "A linear segmenter on patch features: mIoU.",
    "depth": "Linear depth on patch features: RMSE and the shares a1, a2, a3.",
}
# every option, --help too, goes to the evaluation, which has them for `python -m dinov3_ref.eval.…` as well
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    help="Evaluate a checkpoint (--weights) or a bundle (--engine) with the published protocols.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _command(task: str) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        evaluate(task, context.args)

    return run


for _task, _help in TASKS.items():
    app.command(_task, help=f"{_help} All options: --help.", context_settings=PASSED_ON)(_command(_task))
