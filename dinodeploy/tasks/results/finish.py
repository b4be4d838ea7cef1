"""What is made of all rows at the end: COCO JSON, overlay videos, the HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from dinodeploy.errors import MisuseError
from dinodeploy.files.atomic import atomic_file
from dinodeploy.files.json_file import read_json
from dinodeploy.files.names import safe_stem
from dinodeploy.sources import Source
from dinodeploy.tasks.results.coco import write_coco
from dinodeploy.tasks.results.draw import Legend
from dinodeploy.tasks.results.files import PAGE_ITEM, Frame
from dinodeploy.tasks.results.overlay_video import check_video, encode_piece, join_pieces

FORMATS = ("jsonl", "coco")
OBJECTS = ("detect", "instance", "panoptic")
Rows = Callable[[], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Finishing:
    """How a directory of predictions is finished. overlays: whether frames of videos are drawn."""

    format: str
    task: str
    classes: tuple[str, ...]
    source: Source
    overlays: bool
    html: Path | None = None
    out: Path | None = None

    def check(self) -> None:
        """Raises MisuseError for a format that the task does not have, UnavailableError without PyAV."""
        if self.format == "coco" and self.task not in OBJECTS:
            raise MisuseError(
                f"--format coco is for {', '.join(OBJECTS)}; this head's task is {self.task}: leave it out"
            )
        if self.overlays and self._numbers:
            check_video()
        if self.html is not None:
            if self.html.is_dir():
                raise MisuseError(
                    f"--html {str(self.html)!r} is a folder; wanted a file, for instance "
                    f"{self.html / 'page.html'}"
                )
            import_module("dinodeploy.pages").check_pages()

    def gather(self, folder: Path, number: int, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Encode the overlay frames of each video in one shard; returns the names of the pieces."""
        pieces = []
        frames = [(frame, row) for row in rows if (frame := Frame.of(row["id"])) and "overlay" in row]
        for video, group in groupby(frames, key=lambda one: one[0].video):
            found = list(group)
            name = f"{self._first(video):06d}_{number:05d}_piece.mkv"
            encode_piece(
                ((frame.milliseconds, folder / row["overlay"]) for frame, row in found), folder / name
            )
            for _, row in found:
                (folder / row["overlay"]).unlink()
                row["overlay"] = f"{self._first(video):06d}_{safe_stem(video)}_overlay.mp4"
            pieces.append(name)
        return [*pieces, *(path.name for path in folder.glob(f"*{PAGE_ITEM}"))]

    def _first(self, video: str) -> int:
        """The number of a video: that of its first frame among all images, from 1 on."""
        return self._numbers[video]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        numbers: dict[str, int] = {}
        for number, id in enumerate(self.source.ids, 1):
            if (frame := Frame.of(id)) is not None:
                numbers.setdefault(frame.video, number)
        return numbers

    def __call__(self, result: Path, segments: Path, rows: Rows) -> None:
        """Write what is made of all rows into `result`."""
        if self.format == "coco":
            write_coco(result, self.task, self.classes, rows)
        for start, group in groupby(
            sorted(segments.glob("*_piece.mkv")), key=lambda path: path.name.split("_")[0]
        ):
            video = self.source.ids[int(start) - 1].rpartition("#t=")[0]
            join_pieces(list(group), result / f"{start}_{safe_stem(video)}_overlay.mp4")
        if self.html is not None:
            self._write_page(result, segments, sum(1 for _ in rows()))

    def _write_page(self, result: Path, segments: Path, count: int) -> None:
        """Write the page, into `result` where it belongs into the directory that is being made."""
        assert self.html is not None
        items = [read_json(path, "report") for path in sorted(segments.glob(f"*{PAGE_ITEM}"))]
        render = import_module("dinodeploy.tasks.results.page").render_predictions
        target = self.html.resolve()
        if self.out is not None and target.parent == self.out.resolve():
            target = result / target.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file:
            file.write(render(self.task, items, count, Legend(self.classes)).encode())
