"""Datasets of PyTorch over a store of embeddings: in memory, or shard by shard.

    dataset = StoreDataset("embeddings", targets=labels)        # labels: {id: class}
    for vectors, classes in DataLoader(dataset, batch_size=256, shuffle=True): ...

    shards = StoreShards("embeddings", targets=labels, shuffle=True)  # for stores that do not fit in memory
    for vectors, classes in DataLoader(shards, batch_size=256, num_workers=2): ...

Shapes: N rows, D dimension, h, w patch grid.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from dinodeploy.arrays import AnyArray, IndexArray
from dinodeploy.errors import BundleError, MisuseError
from dinodeploy.sources.ids import IdList
from dinodeploy.store.formats import split_rows
from dinodeploy.store.reader import StoredEmbeddings, load_embeddings, open_embeddings

Item = tuple[Tensor, Any]  # a row, [D], [R,D] or [h,w,D], and its target: by default its id


class StoreDataset(Dataset[Item]):
    """The rows of a store in the order of its images, all in memory.

    targets: what to return beside a row, by id; rows without one are left out. By default the id is returned.
    Workers that are forked share the memory of the rows; those that are spawned read the store again. Raises
    as `load_embeddings`; BundleError where a worker finds another store than the parent did.
    """

    def __init__(
        self, store: str | os.PathLike[str], output: str = "cls", *, targets: Mapping[str, Any] | None = None
    ) -> None:
        self._store = Path(store).absolute()
        self._output, self._targets = output, targets
        self._load()

    def _load(self) -> None:
        self._manifest = open_embeddings(self._store).manifest
        ids, self._rows = load_embeddings(self._store, self._output)
        targets = self._targets
        kept = [index for index, id_ in enumerate(ids) if targets is None or id_ in targets]
        self._kept = np.array(kept, np.int64)
        self._ids = IdList(ids)  # one object: a forked worker that counts references copies no memory

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Item:
        at = int(self._kept[index])
        id_ = self._ids[at]
        return _tensor(self._rows[at]), id_ if self._targets is None else self._targets[id_]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_rows", "_kept", "_ids")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        manifest = self._manifest
        self._load()
        if self._manifest != manifest:
            raise BundleError(f"{self._store} has changed since the data set was made; make it again")


class StoreShards(IterableDataset[Item]):
    """The rows of a store, one shard in memory at a time. Workers and ranks get different shards.

    shuffle: the order of the shards and of the rows inside each, anew in each epoch; call `set_epoch` before
    each one, as with DistributedSampler, unless workers are persistent. targets: as in `StoreDataset`.
    rank, world_size: of distributed training; ranks get different numbers of rows. With more workers than
    shards some have no rows. Raises as `open_embeddings`.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        output: str = "cls",
        *,
        targets: Mapping[str, Any] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise MisuseError(f"rank is {rank} of world_size {world_size}; wanted 0 to world_size - 1")
        self._store = Path(store).absolute()
        self._output, self._targets, self._shuffle, self._seed = output, targets, shuffle, seed
        self._rank, self._world_size = rank, world_size
        self._epoch = 0
        stored = open_embeddings(self._store)
        stored.check_output(output)
        self._manifest = stored.manifest

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Item]:
        store = open_embeddings(self._store)
        if store.manifest != self._manifest:
            raise BundleError(f"{self._store} has changed since the data set was made; make it again")
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch, count = self._epoch, len(store.manifest.shards)
        random = np.random.default_rng((self._seed, epoch))  # equal in all workers and ranks
        order = random.permutation(count) if self._shuffle else np.arange(count)
        self._epoch += 1  # for persistent workers
        return self._shards(store, order[self._rank * workers + number :: self._world_size * workers], epoch)

    def _shards(self, store: StoredEmbeddings, order: IndexArray, epoch: int) -> Iterator[Item]:
        for index in order.tolist():
            if not store.manifest.shards[index].rows:  # every image was unreadable
                continue
            ids, column, _ = store.shard(index, self._output)
            rows, count = split_rows(column), len(ids)
            random = np.random.default_rng((self._seed, epoch, index))
            for at in random.permutation(count).tolist() if self._shuffle else range(count):
                if self._targets is None or ids[at] in self._targets:
                    yield _tensor(rows[at]), ids[at] if self._targets is None else self._targets[ids[at]]


def _tensor(row: AnyArray) -> Tensor:
    return torch.from_numpy(np.array(row))  # a copy: the rest of the shard need not stay
