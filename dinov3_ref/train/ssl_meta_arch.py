"""SSLMetaArch: student, teachers and losses of DINOv3 training (docs/spec.md 4.3).

The teacher sees the global crops and gives targets; the student sees the masked global crops and the local
crops; the loss is a weighted sum of DINO, iBOT, KoLeo and Gram losses.
Shapes: B images, g = 2 global and n local crops of each, P patches of a global crop, M masked patches of the
batch, D embed_dim, K prototypes, C channels, S, s, S' sides of global, local and Gram crops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dinov3_ref.configs.default import N_GLOBAL_CROPS
from dinov3_ref.loss import DINOLoss, KoLeoLoss, KoLeoLossDistributed, iBOTPatchLoss
from dinov3_ref.loss.ibot_patch_loss import weights_of_masks
from dinov3_ref.loss.teacher_targets import TeacherTargets
from dinov3_ref.train.batch import Batch, mask_indices
from dinov3_ref.train.networks.patch_grid import Grid, grid_of, patches_on_grid, resize_patches, shrink_crops
from dinov3_ref.train.networks.training_networks import TARGETS, TrainingNetworks
from dinov3_ref.train.param_groups import Group, get_params_groups_with_decay
from dinov3_ref.train.schedules import LossWeightSchedule

Outputs = dict[str, Tensor]
Metrics = dict[str, Tensor | float]


class SSLMetaArch(TrainingNetworks):
    """Student, teachers and losses of one run.

    The caller chooses device and autocast precision; losses are computed in fp32. Raises `ConfigError` for a
    contradictory configuration, `CheckpointError` for a bad file.
    """

    def __init__(
        self, config: Any, device: torch.device | str | None = None, *, own_teacher: bool = True
    ) -> None:
        super().__init__(config, device, own_teacher=own_teacher)
        self.dino_loss = DINOLoss(config.dino.head_n_prototypes)
        self.ibot_patch_loss = iBOTPatchLoss(config.ibot.head_n_prototypes)
        self.koleo_loss: nn.Module = KoLeoLoss(config.dino.koleo_topk)
        if config.dino.koleo_loss_distributed:
            self.koleo_loss = KoLeoLossDistributed(
                config.dino.koleo_topk, config.dino.koleo_distributed_loss_group_size
            )
        self.loss_weights = LossWeightSchedule(config)
        if device is not None:
            self.to(device)

    def init_weights(self) -> None:
        """Draw random weights and load configured files, after `to_empty` of a model built on meta."""
        self.dino_loss.init_weights()
        self.ibot_patch_loss.init_weights()
        super().init_weights()

    def get_params_groups(self) -> list[Group]:
        """Parameter groups of the student: backbone, then heads (docs/spec.md 4.10)."""
        optim = self.config.optim
        factors = optim.layerwise_decay, optim.patch_embed_lr_mult, optim.dino_head_wd_multiplier
        return [
            group
            for name, module in self.student.items()
            for group in get_params_groups_with_decay(module, *factors, prefix=f"{name}.")
        ]

    # ---- loss of a batch ----------------------------------------------------------------------

    def forward_backward(
        self, data: Mapping[str, Any], *, teacher_temp: float, iteration: int = 0
    ) -> tuple[Tensor, Metrics]:
        """`forward_loss` and its backward pass; the returned loss (a scalar) is detached."""
        loss, metrics = self.forward_loss(data, teacher_temp=teacher_temp, iteration=iteration)
        loss.backward()
        return loss.detach(), metrics

    def forward_loss(
        self, data: Mapping[str, Any], *, teacher_temp: float, iteration: int = 0
    ) -> tuple[Tensor, Metrics]:
        """Return the loss of a collated batch, a scalar with gradient, and its metrics.

        If the batch has `teacher_targets` (`get_targets`), the teacher is not run.
        """
        batch = Batch.from_collated(data, next(self.student.parameters()).device)
        scale = self.config.crops.teacher_to_student_resolution_scale
        global_crops = shrink_crops(batch.global_crops, scale)
        teacher_global = data.get(TARGETS)
        if teacher_global is None:
            teacher_global = self._targets_of(batch, self._grid(global_crops), teacher_temp)
        student_global, student_local = self.get_student_output(
            global_crops=global_crops,
            local_crops=None if batch.local_crops is None else shrink_crops(batch.local_crops, scale),
            masks=batch.masks,
            mask_indices_list=batch.mask_indices,
        )
        loss, metrics = self.compute_losses(
            teacher_global=teacher_global,
            student_global=student_global,
            student_local=student_local,
            masks=batch.masks,
            masks_weight=batch.masks_weight,
            gram_target=self.get_gram_target(
                teacher_global, batch.gram_teacher_crops, self._grid(global_crops)
            ),
            iteration=iteration,
        )
        sizes = {"local_batch_size": float(batch.size)}
        if "global_batch_size" in data:
            sizes["global_batch_size"] = float(data["global_batch_size"])
        return loss, {**sizes, **metrics}

    forward = forward_loss  # called by DistributedDataParallel

    def get_targets(self, data: Mapping[str, Any], *, teacher_temp: float) -> Outputs:
        """Teacher targets of a collated batch, to share them between students (`get_teacher_output`)."""
        batch = Batch.from_collated(data, next(self.student.parameters()).device)
        scale = self.config.crops.teacher_to_student_resolution_scale
        return self._targets_of(batch, self._grid(shrink_crops(batch.global_crops[:1], scale)), teacher_temp)

    def _targets_of(self, batch: Batch, student_grid: Grid, teacher_temp: float) -> Outputs:
        return self.get_teacher_output(
            batch.teacher_crops,
            mask_indices_list=batch.mask_indices,
            teacher_temp=teacher_temp,
            student_grid=student_grid,
        )

    @torch.no_grad()
    def get_teacher_output(
        self,
        images: Tensor,
        *,
        mask_indices_list: Tensor,
        teacher_temp: float,
        student_grid: Grid | None = None,
    ) -> Outputs:
        """Targets from the unmasked global crops [gB,C,S,S].

        `cls_centered` [g,B,K], `masked_patch_centered` [M,K], `patch_pre_head` [gB,P,D]. If the crops are
        larger than the student's, patch features are averaged to its grid.
        """
        features = self.teacher["backbone"](images, is_training=True)
        grid = self._grid(images)
        patches_CPD = resize_patches(
            self._patches(self.teacher, features, images), grid, student_grid or grid
        )
        masked_MD = patches_CPD.flatten(0, 1)[mask_indices_list]
        scores = self.teacher["dino_head"](features["x_norm_clstoken"])
        cls_targets = self._targets(self.dino_loss, scores, teacher_temp)
        return {
            "cls_centered": cls_targets.unflatten(0, (N_GLOBAL_CROPS, -1)),
            "masked_patch_centered": self._targets(
                self.ibot_patch_loss, self.teacher["ibot_head"](masked_MD), teacher_temp
            ),
            "patch_pre_head": patches_CPD,
        }

    def _targets(self, loss: TeacherTargets, scores: Tensor, teacher_temp: float) -> Tensor:
        """Prototype scores [..., K] -> targets [..., K]."""
        if self.config.train.centering == "sinkhorn_knopp":
            return loss.sinkhorn_knopp_teacher(scores, teacher_temp)
        targets = loss.softmax_center_teacher(scores, teacher_temp)
        if self.training:
            loss.update_center(scores)
        return targets

    def get_student_output(
        self,
        *,
        global_crops: Tensor,
        local_crops: Tensor | None,
        masks: Tensor,
        mask_indices_list: Tensor | None = None,
    ) -> tuple[Outputs, Outputs | None]:
        """Run the student on global crops [gB,C,S,S] with masks [gB,P] and on local crops [nB,C,s,s].

        Global: `cls_after_head` [g,B,K], `cls_pre_head` [g,B,D], `patch_pre_head` [gB,P,D],
        `masked_patch_after_head` [M,K]. Local: `cls_after_head` [n,B,K], `cls_pre_head` [n,B,D].
        With distillation the student sees the whole crops (docs/spec.md 0, fact 19), and the iBOT loss
        compares its outputs at the masked positions. This is the only way for a ConvNeXt, which has no mask
        token.
        """
        seen_masks = None if self.config.distillation.enabled else masks
        crops = [global_crops] if local_crops is None else [global_crops, local_crops]
        features = self.student["backbone"](crops, [seen_masks, None][: len(crops)], is_training=True)
        images = len(global_crops) // N_GLOBAL_CROPS
        cls_tokens = [entry["x_norm_clstoken"] for entry in features]
        scores = self.student["dino_head"](torch.cat(cls_tokens)).split([len(x) for x in cls_tokens])
        outputs = [
            {
                "cls_after_head": after.unflatten(0, (-1, images)),
                "cls_pre_head": before.unflatten(0, (-1, images)),
            }
            for after, before in zip(scores, cls_tokens, strict=True)
        ]
        patches_CPD = self._patches(self.student, features[0], global_crops)
        indices = mask_indices(masks) if mask_indices_list is None else mask_indices_list
        outputs[0]["patch_pre_head"] = patches_CPD
        outputs[0]["masked_patch_after_head"] = self.student["ibot_head"](patches_CPD.flatten(0, 1)[indices])
        return outputs[0], outputs[1] if local_crops is not None else None

    @torch.no_grad()
    def get_gram_target(
        self, teacher_global: Outputs, gram_crops: Tensor | None, student_grid: Grid
    ) -> Tensor | None:
        """Patch features [gB,P,D] that are the target of the Gram loss; None without Gram loss.

        From the Gram teacher on its crops [gB,C,S',S'], or the EMA teacher's if there is no Gram teacher.
        """
        if self.gram is None:
            return None
        if self.gram_teacher is None:
            return teacher_global["patch_pre_head"]
        if gram_crops is None:
            raise ValueError(
                "the batch has no collated_gram_teacher_crops, which the Gram teacher needs; "
                "set crops.gram_teacher_crops_size"
            )
        patches = self.gram_teacher["backbone"](gram_crops, is_training=True)["x_norm_patchtokens"]
        return self.gram.resize(patches, self._grid(gram_crops), student_grid)

    def _patches(self, modules: nn.ModuleDict, features: Outputs, crops: Tensor) -> Tensor:
        """Patch features of crops [C,3,H,W] on the grid of `student.patch_size`: [C,P,D]."""
        return patches_on_grid(
            modules["backbone"],  # type: ignore[arg-type]
            features["x_norm_patchtokens"],
            crops,
            self.config.student.patch_size,
        )

    def _grid(self, crops: Tensor) -> Grid:
        """Patch grid of crops [C,3,H,W]."""
        return grid_of(crops, self.config.student.patch_size)

    def compute_losses(
        self,
        *,
        teacher_global: Outputs,
        student_global: Outputs,
        student_local: Outputs | None,
        masks: Tensor,
        masks_weight: Tensor | None = None,
        gram_target: Tensor | None = None,
        iteration: int = 0,
    ) -> tuple[Tensor, Metrics]:
        """Return the weighted sum of the losses and the unweighted losses by official name, all scalars.

        Inputs are the outputs of `get_teacher_output` and `get_student_output`, masks [gB,P] bool,
        masks_weight [M] and the target of `get_gram_target` [gB,P,D]. Weights: `schedules.LossWeights`.
        """
        targets_gBK = teacher_global["cls_centered"]
        n_local = 0 if student_local is None else len(student_local["cls_after_head"])
        weights = self.loss_weights.at(iteration, n_local)
        metrics: Metrics = {"dino_local_loss_weight": weights.local_schedule}
        losses: dict[str, tuple[float, Tensor]] = {}
        if student_local is not None:
            local = self.dino_loss(student_local["cls_after_head"], targets_gBK)
            losses["dino_local_crops_loss"] = (weights.dino_local, local)
        losses["dino_global_crops_loss"] = (
            weights.dino_global,
            self.dino_loss(
                student_global["cls_after_head"],
                targets_gBK,
                ignore_diagonal=self.config.dino.global_ignore_diagonal,
            ),
        )
        if weights.koleo:
            spread = torch.stack([self.koleo_loss(crop) for crop in student_global["cls_pre_head"]])
            losses["koleo_loss"] = (weights.koleo, spread.mean())
        ibot = self.ibot_patch_loss.forward_masked(
            student_global["masked_patch_after_head"],
            teacher_global["masked_patch_centered"],
            masks,
            masks_weight=weights_of_masks(masks) if masks_weight is None else masks_weight,
        )
        losses["ibot_loss"] = (weights.ibot, ibot)
        if self.gram is not None and gram_target is not None:
            gram = self.gram.losses(student_global["patch_pre_head"], gram_target, masks)
            losses["gram_loss"] = (weights.gram, gram.pop("gram_loss"))
            metrics |= {"gram_loss_weight": weights.gram, **gram}
        total = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
        return total, metrics | {name: loss.detach() for name, (_, loss) in losses.items()}
