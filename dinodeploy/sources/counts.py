"""What became of the files that a command has seen: one object for every command that reads images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dinodeploy.images.kinds import kind_by_suffix
from dinodeploy.sources.folders import Skipped, by_suffix, skipped_line, total_of
from dinodeploy.sources.open import KINDS


@dataclass(frozen=True)
class Counts:
    """seen = embedded + already + skipped + quarantined.

    seen: images and other files found, counted when they were listed. embedded: images that this call has
    processed. already: images that an earlier call had. skipped: files in folders and archives that are not
    images, by suffix; hidden files are not counted. quarantined: images that cannot be read, and folders that
    cannot be listed.
    """

    seen: int
    embedded: int
    already: int
    quarantined: int
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def adds_up(self) -> bool:
        return self.seen == self.embedded + self.already + self.quarantined + self.skipped.total()

    def as_json(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them under `counts`."""
        return {
            "seen": self.seen,
            "embedded": self.embedded,
            "already": self.already,
            "skipped": self.skipped.total(),
            "quarantined": self.quarantined,
            "skipped_by_suffix": dict(sorted(self.skipped.items())),
        }

    def line(self, verb: str = "embedded") -> str:
        """`seen 7: 3 embedded, 1 already there, 2 skipped (2 .heic), 1 quarantined`."""
        parts = [f"{self.embedded} {verb}"]
        if self.already:
            parts.append(f"{self.already} already there")
        if self.skipped:
            parts.append(f"{self.skipped.total()} skipped ({by_suffix(self.skipped)})")
        if self.quarantined:
            parts.append(f"{self.quarantined} quarantined")
        return f"seen {self.seen}: {', '.join(parts)}"


def skipped_note(skipped: Skipped) -> str:
    """What was left out and what to do about it; an empty string where nothing was.

    skipped 3 files: 2 .heic, 1 .dng; .heic: pip install 'dinodeploy[heif]'
    """
    counts = total_of(skipped)
    return "; ".join([skipped_line(counts), *_advice(counts)]) if counts else ""


def _advice(counts: Counter[str]) -> Iterator[str]:
    held = sorted(suffix for suffix in counts if suffix in KINDS and KINDS[suffix] != "files")
    if held:
        yield f"{', '.join(held)}: name such files to read what they hold"
    for suffix in sorted(set(counts) - set(held)):
        kind = kind_by_suffix(suffix)
        if kind is not None:
            yield f"{suffix}: {kind.way_out}"
