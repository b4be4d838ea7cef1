"""Gram loss: keep the patch similarities close to those of an earlier teacher.

Source: DINOv3, arXiv:2508.10104, section 4 (Gram anchoring); docs/spec.md 4.7.

loss = mean over all pairs of (x xᵀ - y yᵀ)², with patch features x of the student, y of the Gram teacher.
Shapes: B images, P patches, D embed_dim.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dinov3_ref.errors import ConfigError
from dinov3_ref.loss.precision import at_least_fp32, no_autocast


class GramLoss(nn.Module):
    """Mean squared error between two Gram matrices, in fp32.

    apply_norm: use cosine similarities. img_level: compare patches within each image, else across the batch.
    remove_neg: set negative similarities to 0 on both sides. remove_only_teacher_neg: set the teacher's to 0,
    and the student's where both are negative; the published code tests the teacher after zeroing it and so
    never changes the student's (docs/spec.md 4.7). Raises `ConfigError` for both `remove_` options.
    """

    def __init__(
        self,
        apply_norm: bool = True,
        img_level: bool = True,
        remove_neg: bool = True,
        remove_only_teacher_neg: bool = False,
    ) -> None:
        super().__init__()
        if remove_neg and remove_only_teacher_neg:
            raise ConfigError("gram.remove_neg and gram.remove_only_teacher_neg are both true; choose one")
        self.apply_norm = apply_norm
        self.img_level = img_level
        self.remove_neg = remove_neg
        self.remove_only_teacher_neg = remove_only_teacher_neg

    def forward(self, output_feats: Tensor, target_feats: Tensor, img_level: bool | None = None) -> Tensor:
        """Student and teacher features [B,P,D] (or [N,D], across the batch) -> scalar.

        `img_level` overrides the constructor's. Raises ValueError for [N,D] at image level.
        """
        within_image = self.img_level if img_level is None else img_level
        if within_image and output_feats.dim() != 3:
            raise ValueError(
                f"Gram loss within images got features {list(output_feats.shape)}; wanted [B,P,D], "
                "or img_level=False"
            )
        with no_autocast(output_feats):
            student = self._similarities(output_feats, within_image)
            teacher = self._similarities(target_feats, within_image)
            if self.remove_neg:
                student, teacher = student.clamp(min=0), teacher.clamp(min=0)
            elif self.remove_only_teacher_neg:
                student = student.masked_fill((student < 0) & (teacher < 0), 0)
                teacher = teacher.clamp(min=0)
            return F.mse_loss(student, teacher)

    def _similarities(self, x: Tensor, within_image: bool) -> Tensor:
        """[B,P,D] -> [B,P,P], or [B·P,B·P] across the batch."""
        x = at_least_fp32(x)
        if self.apply_norm:
            x = F.normalize(x, dim=-1)
        if not within_image:
            x = x.flatten(0, -2)
        return x @ x.transpose(-1, -2)
