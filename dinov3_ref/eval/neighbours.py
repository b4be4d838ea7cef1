"""The nearest training images of each test image, on one or many ranks (docs/spec.md 5.1).

Each rank keeps its share of the training features and searches it for all test images; the best of all shares
are the nearest.

Shapes: N training features on this rank, M test features, K neighbours, D width, C classes, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3_ref.distributed import gather_rows, get_world_size
from dinov3_ref.eval.labelled import Labelled

MAX_SIMILARITIES = 2**26  # in memory: a quarter of a gigabyte


def nearest(train: Labelled, queries_MD: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(similarities, labels) of the `count` nearest, for some rows of `queries_MD` at a time.

    Similarities are cosines [rows,K], largest first; labels are long [rows,K], or bool [rows,K,C] for several
    classes per image. `queries_MD` is equal on all ranks; `train` has at least `count` rows over all ranks.
    """
    features_ND = F.normalize(train.features)
    rows = max(1, MAX_SIMILARITIES // max(len(train), count * train.labels[0].numel() * get_world_size()))
    for part_MD in F.normalize(queries_MD).split(rows):
        similarity_MK, index_MK = (part_MD @ features_ND.T).topk(min(count, len(train)))
        yield _best_of_ranks(similarity_MK, train.labels[index_MK], count)


def _best_of_ranks(similarity: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[rows, own K] of each rank -> the `count` largest over all ranks, with their labels."""
    world = get_world_size()
    if world == 1:
        return similarity, labels
    lacking = count - similarity.shape[1]  # a share may be smaller than K
    similarity = F.pad(similarity, (0, lacking), value=float("-inf"))
    labels = torch.cat([labels, labels.new_zeros(len(labels), lacking, *labels.shape[2:])], dim=1)
    # [W·rows, K] -> [rows, W·K]: in rank order, so that all ranks choose the same
    similarity = torch.cat(gather_rows(similarity).chunk(world), dim=1)
    labels = torch.cat(gather_rows(labels).chunk(world), dim=1)
    best_MK, place_MK = similarity.topk(count)
    return best_MK, labels[torch.arange(len(labels)).unsqueeze(1), place_MK]
