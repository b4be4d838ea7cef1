"""Options that do not fit together are refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinodeploy import MisuseError
from dinodeploy.pipeline.embed_options import EmbedOptions
from dinodeploy.store.update import Follow


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"follow": Follow(keep_missing=True)}, "say how to update; pass update too"),
        ({"follow": Follow(retry_quarantined=True)}, "say how to update; pass update too"),
        ({"follow": Follow(update=True), "overwrite": True}, "exclude each other"),
        ({"follow": Follow(update=True), "cluster": "local"}, "update runs in one process"),
        ({"follow": Follow(update=True), "part": (1, 2)}, "update runs in one process"),
        ({"identify": "name"}, "identify is 'name'; wanted stat or hash"),
        ({"part": (3, 2)}, "shards 3/2; wanted i/n"),
        ({"batch": 0}, "batch is 0; wanted at least 1"),
        ({"time_limit": 0.0}, "wanted more than 0 seconds"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        EmbedOptions(Path("out"), **options)
