"""Datasets over a store: the rows and ids of `load_embeddings`, with workers, ranks and targets."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from dinodeploy.errors import BundleError, MisuseError  # noqa: E402
from dinodeploy.integrations.torch_data import StoreDataset, StoreShards  # noqa: E402
from dinodeploy.store.reader import load_embeddings  # noqa: E402
from tests.support.stores import write_store  # noqa: E402

IDS = [f"photo {index}.jpg" for index in range(10)]
LABELS = {id_: index % 3 for index, id_ in enumerate(IDS) if index != 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in five shards; numbers 2, 3 and 7 were unreadable, so shard 1 has no row."""
    out = tmp_path_factory.mktemp("store") / "embeddings"
    random = np.random.default_rng(0)
    rows: list[Any] = [{"cls": random.normal(size=4).astype(np.float32)} for _ in IDS]
    for bad in (2, 3, 7):
        rows[bad] = "no image"
    write_store(out, IDS, rows)
    return out


def items(loader: Any) -> dict[str, list[float]]:
    """What a loader gives, by id; each id once."""
    found: dict[str, list[float]] = {}
    for vectors, ids in loader:
        for vector, id_ in zip(vectors, ids, strict=True):
            assert id_ not in found
            found[id_] = vector.tolist()
    return found


def wanted(store: Path) -> dict[str, list[float]]:
    ids, vectors = load_embeddings(store)
    return {id_: vector.tolist() for id_, vector in zip(ids, vectors, strict=True)}


def test_rows_and_ids(store: Path) -> None:
    dataset = StoreDataset(store)
    assert len(dataset) == 7
    assert items(DataLoader(dataset, batch_size=3, shuffle=True)) == wanted(store)
    assert dataset[-1][1] == IDS[-1]
    row, _ = dataset[0]
    row += 1
    assert items([(row[None], [IDS[0]])]) != items([(dataset[0][0][None], [IDS[0]])]), "a copy"
    with pytest.raises(IndexError):
        dataset[7]


def test_targets_leave_rows_out(store: Path) -> None:
    dataset = StoreDataset(store, targets=LABELS)
    labels = torch.cat([classes for _, classes in DataLoader(dataset, batch_size=4)])
    assert labels.tolist() == [LABELS[id_] for id_ in wanted(store) if id_ in LABELS]
    streamed = [target for _, target in StoreShards(store, targets=LABELS)]
    assert streamed == labels.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "start", "workers"),
    [(StoreDataset, "fork", 2), (StoreShards, "fork", 2), (StoreDataset, "spawn", 1)],
)
def test_workers_share_the_rows_out(store: Path, kind: Any, start: str, workers: int) -> None:
    loader = DataLoader(kind(store), batch_size=2, num_workers=workers, multiprocessing_context=start)
    assert items(loader) == wanted(store)


def test_shards_in_order(store: Path) -> None:
    assert items(DataLoader(StoreShards(store), batch_size=3)) == wanted(store)
    assert [id_ for _, id_ in StoreShards(store)] == list(wanted(store))


def test_ranks_get_different_shards(store: Path) -> None:
    ranks = [
        items(DataLoader(StoreShards(store, shuffle=True, rank=rank, world_size=3))) for rank in range(3)
    ]
    assert sum(map(len, ranks)) == 7
    assert ranks[0] | ranks[1] | ranks[2] == wanted(store)


def test_the_order_is_that_of_the_epoch(store: Path) -> None:
    def order(epoch: int, seed: int = 0) -> list[str]:
        shards = StoreShards(store, shuffle=True, seed=seed)
        shards.set_epoch(epoch)
        return [id_ for _, id_ in shards]

    orders = [order(0), order(1), order(2), order(0, seed=1)]
    assert order(0) == orders[0]
    assert len({tuple(one) for one in orders}) == 4
    assert all(sorted(one) == sorted(wanted(store)) for one in orders)
    shards = StoreShards(store, shuffle=True)
    assert [[id_ for _, id_ in shards] for _ in range(3)] == orders[:3], "the next epoch by itself"


def test_grids_of_different_sizes(tmp_path: Path) -> None:
    rows = [{"patch": np.full((h, 4 - h, 4), h, np.float32)} for h in (1, 2, 3)]
    write_store(tmp_path / "store", ["a", "b", "c"], rows, outputs=("patch",))
    for dataset in (StoreDataset(tmp_path / "store", "patch"), StoreShards(tmp_path / "store", "patch")):
        found = [dataset[index] for index in range(3)] if isinstance(dataset, StoreDataset) else list(dataset)
        assert [(tuple(row.shape), id_) for row, id_ in found] == [
            ((1, 3, 4), "a"),
            ((2, 2, 4), "b"),
            ((3, 1, 4), "c"),
        ]


@pytest.mark.parametrize("kind", [StoreDataset, StoreShards])
def test_a_store_that_changed_is_noticed(kind: Any, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    write_store(out, ["a", "b"], [{"cls": np.ones(4, np.float32)}] * 2)
    dataset = kind(out)
    content = pickle.dumps(dataset)
    assert len(list(pickle.loads(content))) == 2
    write_store(out, ["a", "b"], [{"cls": np.zeros(4, np.float32)}] * 2, overwrite=True)
    with pytest.raises(BundleError, match="has changed since the data set was made; make it again"):
        list(pickle.loads(content))


def test_misuse(store: Path) -> None:
    with pytest.raises(
        BundleError, match=r"has no output 'patch', only cls; embed again with --outputs patch"
    ):
        StoreDataset(store, "patch")
    with pytest.raises(BundleError, match=r"has no output 'patch'"):
        StoreShards(store, "patch")
    with pytest.raises(MisuseError, match="rank is 2 of world_size 2; wanted 0 to world_size - 1"):
        StoreShards(store, rank=2, world_size=2)
