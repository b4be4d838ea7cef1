"""The nearest training pictures of each test picture, on one rank or shared by many (docs/spec.md 5.1).

Across ranks each keeps its share of the training features; all look for the same test pictures in their own
share, and the best of all shares are the nearest.
Shapes: N training features on this rank, M test features, K neighbours, D width, C classes, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.distributed import gather_rows, get_world_size
from dinov3_ref.eval.labelled import Labelled

NUMBERS = 2**26  # held at once: a quarter of a gigabyte


def nearest(train: Labelled, queries_MD: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(similarities, labels) of the `count` nearest, some rows of `queries_MD` after the other.

    Similarities are cosines [rows,K], the largest first; labels long [rows,K], or bool [rows,K,C] where each
    picture has several. Across ranks `queries_MD` is the same on all, and `train` has `count` rows in all.
    """
    features_ND = F.normalize(train.features)
    rows = max(1, NUMBERS // max(len(train), count * train.labels[0].numel() * get_world_size()))
    for part_MD in F.normalize(queries_MD).split(rows):
        similarity_MK, index_MK = (part_MD @ features_ND.T).topk(min(count, len(train)))
        yield _best_of_ranks(similarity_MK, train.labels[index_MK], count)


def _best_of_ranks(similarity: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[rows, own K] of each rank -> the `count` largest of all, and what belongs to them."""
    world = get_world_size()
    if world == 1:
        return similarity, labels
    lacking = count - similarity.shape[1]  # shares can be smaller than K
    similarity = F.pad(similarity, (0, lacking), value=float("-inf"))
    labels = torch.cat([labels, labels.new_zeros(len(labels), lacking, *labels.shape[2:])], dim=1)
    # [W·rows, K] -> [rows, W·K]: in the order of ranks, so that all of them choose alike
    similarity = torch.cat(gather_rows(similarity).chunk(world), dim=1)
    labels = torch.cat(gather_rows(labels).chunk(world), dim=1)
    best_MK, place_MK = similarity.topk(count)
    return best_MK, labels[torch.arange(len(labels)).unsqueeze(1), place_MK]
