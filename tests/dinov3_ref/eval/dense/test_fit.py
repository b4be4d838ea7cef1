"""Training of a linear head: against a plain loop, with resume, with clear errors (docs/spec.md 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.data.datasets.pairs import Map, open_pairs
from dinov3_ref.errors import DataError, TrainingDiverged
from dinov3_ref.eval.dense.fit import FitOptions, HeadFit, dropped, layers_of_blocks, predictor
from dinov3_ref.eval.dense.schedule import OneCycle
from dinov3_ref.eval.segmentation import cross_entropy
from dinov3_ref.heads import LinearSegmenter
from tests.support.images.dense_layouts import write_ade20k

OPTIONS = FitOptions(6, 2, 0.01, 1e-3, warmup=0.2, dropout=0.1, every=2)


class Colours:
    """A model of which the features of a patch are the mean and the spread of its colours."""

    device, mean, std = torch.device("cpu"), (0.0,) * 3, (1.0,) * 3
    stride, n_blocks, embed_dim, sha256, same_width = 16, 1, 6, "", True

    def outputs(self, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        tiles = F.unfold(images, 16, stride=16).unflatten(1, (3, 256))
        found = torch.cat([tiles.mean(2), tiles.std(2)], dim=1)
        grid = images.shape[2] // 16, images.shape[3] // 16
        return dict.fromkeys(names, found.unflatten(2, grid).permute(0, 2, 3, 1))


def to_tensors(image: object, ids: Map) -> tuple[Tensor, Tensor]:
    """The image at its own size of 64x80."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return pixels, torch.from_numpy(ids.astype(np.int64))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ade20k(tmp_path_factory.mktemp("ade"))


def fit(scenes: Path, options: FitOptions = OPTIONS, folder: Path | None = None) -> HeadFit:
    torch.manual_seed(0)
    pairs = open_pairs(f"ADE20K:root={scenes}", "segmentation")
    pairs.pair_transform = to_tensors
    head = LinearSegmenter(6, 3, batchnorm=True)
    return HeadFit(Colours(), head, pairs, cross_entropy, options, folder=folder)


def test_it_is_a_plain_loop(scenes: Path) -> None:
    """Batch norm, convolution, resize and cross-entropy written anew, on the same batches."""
    options = FitOptions(6, 2, 0.01, 1e-3, warmup=0.2, clip=0.05)
    made = fit(scenes, options)
    plain = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)).train()
    plain[1].load_state_dict(made.head.conv.state_dict())  # type: ignore[union-attr]
    batches = list(zip(range(6), made._batches(), strict=False))
    adam = torch.optim.AdamW(plain.parameters(), weight_decay=1e-3)
    plan = OneCycle(0.01, 6, 0.2)
    for step, batch in batches:
        rate, beta = plan.at(step)
        adam.param_groups[0].update(lr=rate, betas=(beta, 0.999))
        x = Colours().outputs(batch["images"], ["patch"])["patch"].permute(0, 3, 1, 2)
        scores = F.interpolate(plain(x), size=(64, 80), mode="bilinear").log_softmax(1)
        there = batch["maps"] != 255
        picked = scores.gather(1, batch["maps"].where(there, 0)[:, None])[:, 0]
        loss = -(picked * there).sum() / there.numel()  # all pixels count in the denominator
        adam.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in plain.parameters()))
        for p in plain.parameters():
            p.grad *= min(1.0, 0.05 / (norm + 1e-6))
        adam.step()
    made.run()
    found = {k: v for k, v in made.head.state_dict().items() if "num_batches" not in k}
    expected = {**plain[0].state_dict(prefix="batchnorm."), **plain[1].state_dict(prefix="conv.")}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-4)


def test_a_stopped_run_resumes_exactly(scenes: Path, tmp_path: Path) -> None:
    whole = fit(scenes)
    whole.run()
    stopped = fit(scenes, folder=tmp_path)

    def stop(line: str) -> None:
        if line.startswith("step 5"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(stop)  # after step 5; the checkpoint is of step 4
    resumed = fit(scenes, folder=tmp_path)
    resumed.resume()
    assert resumed.step == 4
    resumed.run()
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, resumed.head.state_dict()[name]), name


def test_another_run_is_not_resumed(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no checkpoint.pth to resume"):
        fit(scenes, folder=tmp_path).resume()
    fit(scenes, folder=tmp_path).run()
    other = FitOptions(6, 2, 0.02, 1e-3, warmup=0.2, dropout=0.1, every=2)
    with pytest.raises(DataError, match="is of other options or data"):
        fit(scenes, other, tmp_path).resume()


def test_a_loss_that_is_not_finite_stops(scenes: Path) -> None:
    made = fit(scenes)
    made.loss = lambda scores, ids, step: scores.sum() * float("nan")
    with pytest.raises(TrainingDiverged, match="at step 0; use a smaller --lr"):
        made.run()


def test_dropout_is_of_whole_channels() -> None:
    torch.manual_seed(0)
    x = dropped(torch.ones(2, 3, 4, 500), 0.1)
    assert x.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert torch.equal(x, x[:, :1, :1].expand_as(x))
    assert 60 < int((x[:, 0, 0] == 0).sum()) < 140
    assert torch.equal(dropped(x, 0.0), x)


def test_every_step_drops_other_channels(scenes: Path) -> None:
    made, zeros = fit(scenes, FitOptions(6, 2, 0.01, 1e-3, warmup=0.2, dropout=0.5)), []
    made.head.register_forward_pre_hook(lambda _, maps: zeros.append((maps[0] == 0).all(1).all(1).tolist()))
    made.run()
    assert len({str(one) for one in zeros}) > 3


@pytest.mark.parametrize(
    ("words", "blocks", "expected"),
    [
        (["last"], 12, ()),
        (["four_last"], 12, (8, 9, 10, 11)),
        (["four_even"], 12, (2, 5, 8, 11)),
        (["four_even"], 24, (4, 11, 17, 23)),
        (["four_even"], 40, (9, 19, 29, 39)),
        (["3", "1"], 12, (1, 3)),
    ],
)
def test_layers(words: list[str], blocks: int, expected: tuple[int, ...]) -> None:
    assert layers_of_blocks(words, blocks) == expected


def test_bad_numbers_are_one_line() -> None:
    with pytest.raises(DataError, match="wanted last, four_last, four_even, or numbers up to 11"):
        layers_of_blocks(["12"], 12)
    with pytest.raises(DataError, match="steps is 0; wanted at least 1"):
        FitOptions(0, 2, 0.1, 0.0, 0.1)
    with pytest.raises(DataError, match="--lr 0"):
        FitOptions(1, 2, 0, 0.0, 0.1)


def test_a_coarse_output_is_enlarged() -> None:
    predict = predictor(Colours(), LinearSegmenter(6, 3, "patch").eval(), "segmentation")
    assert predict(torch.rand(1, 3, 32, 48)).shape == (1, 3, 32, 48)
