"""Training images and masks go through the same crop and flip; draws depend on the seed and the position."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from dinov3_ref.adapt.data import Augmented, Normalization, scored_batches, training_loader
from dinov3_ref.adapt.objectives import IGNORE
from dinov3_ref.adapt.options import FineTuneOptions

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Painted:
    """An image whose grey level is 20 times the class id of its mask; ids beyond 255 are ignored."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        ids = np.zeros((40, 60), np.int64)
        ids[:, 20:] = index + 1
        ids[25:, 30:] = IGNORE
        grey = np.where(ids == IGNORE, 255, ids * 20).astype(np.uint8)
        return Image.fromarray(np.stack([grey] * 3, axis=-1)), ids


def options(**changes: Any) -> FineTuneOptions:
    base: dict[str, Any] = {"task": "segment", "height": 16, "width": 32, "lora": 2, "batch_size": 2}
    return FineTuneOptions(**{**base, **changes})


def test_a_mask_follows_its_image() -> None:
    torch.manual_seed(0)
    made = Augmented(Painted(), options(), PLAIN)
    flipped = 0
    for _ in range(8):
        pixels, mask = made[2]
        assert pixels.shape == (3, 16, 32)
        assert mask.shape == (16, 32)
        assert type(mask) is torch.Tensor
        assert mask.dtype == torch.int64
        grey = pixels[0] * 255
        wanted = torch.where(mask == IGNORE, 255, mask * 20).float()
        assert ((grey - wanted).abs() < 12).float().mean() > 0.8  # but at the edges, which bicubic softens
        flipped += int(mask[0, 0] > mask[0, -1])
    assert 0 < flipped < 8


def test_batches_resume_at_their_position() -> None:
    loader = training_loader(Painted(), options(), PLAIN)
    batches = iter(loader)
    first = [next(batches) for _ in range(4)]
    resumed = training_loader(Painted(), options(), PLAIN)
    resumed.load_state_dict({"samples_drawn": 4})
    later = next(iter(resumed))
    assert torch.equal(later["images"], first[2]["images"])
    assert torch.equal(later["targets"], first[2]["targets"])
    other = next(iter(training_loader(Painted(), options(seed=1), PLAIN)))
    assert not torch.equal(other["images"], first[0]["images"])


class Rows:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return np.full((3, 4, 4), index, np.float32), np.array([index, 1], np.float32)


def test_scored_batches_keep_the_order_and_the_last_one() -> None:
    batches = list(scored_batches(Rows(), options(task="regress")))
    assert [len(images) for images, _ in batches] == [2, 1]
    assert torch.cat([targets for _, targets in batches]).tolist() == [[0, 1], [1, 1], [2, 1]]
