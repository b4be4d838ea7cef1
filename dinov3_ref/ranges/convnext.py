"""Forward hooks that record the ranges of a ConvNeXt: stem, downsampling, blocks and final norm.

All tokens are patches. Convolutions count as linear layers, because precision recipes treat them alike.

Shapes: B images, C channels, h w feature map.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain

from torch import Tensor, nn

from dinov3_ref.models.backbone import named_blocks
from dinov3_ref.models.convnext import ConvNeXt
from dinov3_ref.ranges.ranges import BlockRanges
from dinov3_ref.ranges.running import ChannelMaxima, ResidualSeen
from dinov3_ref.ranges.watching import Handle, Sites, gains_of, on_input, on_output


class ConvNeXtWatch:
    """All hooks on one model."""

    def __init__(self, model: ConvNeXt) -> None:
        self.model = model
        self.stem, self.tail = Sites(), Sites()
        self.blocks = [_BlockWatch(i, path, block) for i, (path, block) in enumerate(named_blocks(model))]
        self.between = {block.path: Sites() for block in self.blocks if block.path.endswith(".0")}

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [
            *self._attach_stem(),
            *chain.from_iterable(self._attach_downsampler(stage) for stage in range(1, self.model.n_blocks)),
            *chain.from_iterable(block.attach() for block in self.blocks),
            on_output(self.model.norm, partial(self.tail.see, "norm output", "norm")),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _attach_stem(self) -> Iterator[Handle]:
        conv, norm = self.model.downsample_layers[0].children()
        yield on_output(conv, partial(self.stem.see, "stem output", "embedding"))
        yield on_output(norm, partial(self.stem.see, "stem norm output", "norm"))

    def _attach_downsampler(self, stage: int) -> Iterator[Handle]:
        """Its sites come before those of the stage's first block."""
        sites, path = self.between[f"stages.{stage}.0"], f"downsample_layers.{stage}.1"
        norm, conv = self.model.downsample_layers[stage].children()
        yield on_output(norm, partial(sites.see, f"downsample_layers.{stage}.0 output", "norm"))
        yield on_input(conv, partial(sites.see, f"{path} input", "linear_in"))
        yield on_output(conv, partial(sites.see, f"{path} output", "linear_out"))

    def block_ranges(self) -> tuple[BlockRanges, ...]:
        return tuple(block.result(self.between.get(block.path, Sites())) for block in self.blocks)


class _BlockWatch:
    """The hooks on one block and their records. In a user's own block, only known parts are recorded."""

    def __init__(self, index: int, path: str, block: nn.Module) -> None:
        self.index, self.path, self.block = index, path, block
        self.sites = Sites(f"{path}.")
        self.residual = ResidualSeen(storage_tokens=None)
        self.spreads: defaultdict[str, ChannelMaxima] = defaultdict(ChannelMaxima)
        gamma = getattr(block, "gamma", None)
        self.gamma = gamma if isinstance(gamma, Tensor) else None

    def attach(self) -> Iterator[Handle]:
        for name, module in self.block.named_modules():
            if name == "norm":
                yield on_output(module, partial(self._see_spread, "norm output", "norm"))
            if isinstance(module, nn.Linear | nn.Conv2d):
                if name == "pwconv2":
                    yield on_input(module, partial(self._see_spread, "hidden", "hidden"))
                yield on_input(module, partial(self.sites.see, f"{name} input", "linear_in"))
                yield on_output(module, partial(self.sites.see, f"{name} output", "linear_out"))
                if name == "pwconv2" and self.gamma is not None:
                    yield on_output(module, partial(self._see_scaled, self.gamma))
        yield on_output(self.block, self._see_residual)

    def _see_spread(self, name: str, role: str, x_BhwC: Tensor) -> None:
        self.sites.see(name, role, x_BhwC)
        self.spreads[name].see(x_BhwC)

    def _see_scaled(self, gamma: Tensor, x_BhwC: Tensor) -> None:
        self.sites.see("pwconv2 after gamma", "branch", gamma * x_BhwC)

    def _see_residual(self, x_BChw: Tensor) -> None:
        self.sites.see("residual", "residual", x_BChw)
        self.residual.see(x_BChw.flatten(2).transpose(1, 2))

    def result(self, before: Sites) -> BlockRanges:
        return BlockRanges(
            index=self.index,
            name=self.path,
            residual=self.residual.result(),
            logits=None,
            scaled_logits=None,
            hidden=self.sites.largest_of("hidden"),
            linear_out=self.sites.largest_of("linear_out"),
            layer_scale={} if self.gamma is None else {"gamma": gains_of(self.gamma)},
            spreads={name: maxima.spread() for name, maxima in self.spreads.items()},
            sites=(*before.result(), *self.sites.result()),
        )
