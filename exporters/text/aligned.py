"""dino.txt's vision tower as one backbone, so that folds, recipes and calibration cover its head too.

Shapes: B batch, H W pixels, h w patch grid, P = h*w patches, R storage tokens, D embed_dim.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dinov3_ref.models import DinoVisionTransformer
from dinov3_ref.models.backbone import AFTER
from dinov3_ref.models.list_forward import Features
from dinov3_ref.text import VisionHead
from dinov3_ref.text.config import VISION_HEAD
from dinov3_ref.text.vision_tower import join_features
from exporters.trace.trace import TokenOutputs

IMAGE_OUTPUTS = ("image_embedding", "patch_embedding")


class AlignedBackbone(DinoVisionTransformer):
    """A backbone over the same parameters, and dino.txt's vision head on its normed tokens.

    Its features are those after the head; `norm_tokens` and `get_intermediate_layers` are the backbone's.
    """

    def __init__(self, backbone: DinoVisionTransformer, head: VisionHead) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(backbone.__dict__)
        self._modules = dict(backbone._modules)  # the backbone itself gets no head
        self.add_module(AFTER, head)

    def align(self, cls_BD: Tensor, storage_BRD: Tensor, patch_BPD: Tensor) -> tuple[Tensor, Tensor]:
        """The backbone's normed tokens -> CLS [B,D] and patches [B,P,D] after the head."""
        tokens = self.get_submodule(AFTER)(torch.cat((cls_BD[:, None], storage_BRD, patch_BPD), dim=1))
        return tokens[:, 0], tokens[:, 1 + storage_BRD.shape[1] :]

    def forward_features_list(
        self, x_list: Sequence[Tensor], masks_list: Sequence[Tensor | None]
    ) -> list[Features]:
        found = super().forward_features_list(x_list, masks_list)
        for features in found:
            cls_BD, patch_BPD = self.align(
                features["x_norm_clstoken"], features["x_storage_tokens"], features["x_norm_patchtokens"]
            )
            features.update(x_norm_clstoken=cls_BD, x_norm_patchtokens=patch_BPD)
        return found


def aligned_state(backbone: Mapping[str, Tensor], head: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights of an `AlignedBackbone` by name: of the backbone, and of a head file."""
    inside = {
        f"{AFTER}.{name.removeprefix(VISION_HEAD)}": tensor
        for name, tensor in head.items()
        if name.startswith(VISION_HEAD)
    }
    return ChainMap(inside, dict(backbone))


class AlignedOutputs(TokenOutputs):
    """Image batch -> `image_embedding`, `patch_embedding`, and what is asked for of the backbone's outputs.

    pixels [B,3,H,W] -> image_embedding [B,2D]; patch_embedding [B,h,w,D]. With `backbone_outputs` also cls
    [B,D], storage [B,R,D] and patch [B,h,w,D], then as in `TokenOutputs`.
    """

    def __init__(
        self,
        model: AlignedBackbone,
        layers: Sequence[int] = (),
        *,
        attention: bool = False,
        backbone_outputs: bool = False,
    ) -> None:
        super().__init__(model, layers, attention=attention)
        self.inner_names = self.output_names
        own = ("cls", "storage", "extra", "patch")
        self.output_names = (
            *IMAGE_OUTPUTS,
            *(name for name in self.inner_names if backbone_outputs or name not in own),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        outputs = dict(zip(self.inner_names, super().forward(pixels), strict=True))
        cls_BD, patch_BhwD = outputs["cls"], outputs["patch"]
        storage_BRD = outputs["storage"] if "storage" in outputs else cls_BD[:, None][:, :0]
        model = self.model
        assert isinstance(model, AlignedBackbone)
        class_token, patches_BPD = model.align(cls_BD, storage_BRD, patch_BhwD.flatten(1, 2))
        outputs["image_embedding"] = join_features(class_token, patches_BPD)
        outputs["patch_embedding"] = patches_BPD.unflatten(1, patch_BhwD.shape[1:3])
        return tuple(outputs[name] for name in self.output_names)


def make_outputs(
    model: nn.Module,
    layers: Sequence[int],
    attention: bool,
    backbone_outputs: bool,
    cls_layers: Sequence[int] = (),
) -> TokenOutputs:
    """The outputs of a backbone, or of a vision tower."""
    if isinstance(model, AlignedBackbone):
        return AlignedOutputs(model, layers, attention=attention, backbone_outputs=backbone_outputs)
    return TokenOutputs(model, layers, attention=attention, cls_layers=cls_layers)  # type: ignore[arg-type]
