"""Laws of the readers of published training sets, on tiny files in their layouts."""

import csv
import zipfile

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.train.evoland import Pretraining
from s2sr_xr.train.patches import Augment, Rules, Sampler
from s2sr_xr.train.published import FIRST, SECOND, sen2venus

RULES = Rules(cloud=1, flat=0)
PLAIN = Augment(turn=False, gain=(1, 1))


def counts(bands, per_cell, patch):
    """Values that say their band, and the same ground in every group."""
    ground = np.kron(np.arange(64 * 64).reshape(64, 64), np.ones([per_cell] * 2))
    return np.stack([ground + 1000 * b + 100 * patch for b in range(bands)])


def written(folder, columns, rows):
    with (folder / "index.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, columns, delimiter="\t")
        out.writeheader()
        out.writerows(rows)


def first(folder):
    row = {}
    for column, (names, n) in FIRST.items():
        row[column] = f"HERE_{column}.pt"
        stack = np.stack([counts(len(names), n, patch) for patch in range(3)])
        stack[2] = -10_000
        torch.save(torch.from_numpy(stack.astype("i2")), folder / row[column])
    written(folder, list(row), [row])


def second(folder, *, zipped=True):
    rows = []
    for patch in range(2):
        row = {}
        for column, (names, n) in SECOND.items():
            name = f"HERE_{patch}_{column}.tif"
            stack = counts(len(names), n, patch).astype("i2")
            size = stack.shape[-1]
            shape = {"count": len(names), "height": size, "width": size}
            place = Affine(20 / n, 0, 600_000, 0, -20 / n, 8_200_000)
            with rasterio.open(
                folder / name, "w", "GTiff", dtype="int16", transform=place, **shape
            ) as file:
                file.write(stack)
            row[column] = name
            if zipped:
                with zipfile.ZipFile(folder / "HERE.zip", "a") as archive:
                    archive.write(folder / name, f"HERE/{name}")
                (folder / name).unlink()
                row[column] = f"HERE.zip/HERE/{name}"
        rows.append(row)
    written(folder, list(SECOND), rows)


@pytest.mark.parametrize("make", [first, second])
def test_patches_of_all_groups_show_the_same_ground(tmp_path, make):
    make(tmp_path)
    scenes = sen2venus(tmp_path)
    batch = Sampler(scenes, side=16, batch=6, rules=RULES, augment=PLAIN)(0)
    ten, twenty, fine = batch
    assert twenty.shape[1] == (4 if make is first else 6)
    assert ten.shape == (6, 4, 32, 32)
    assert fine.shape == (6, 8, 64, 64)
    assert torch.equal(ten[:, 0, ::2, ::2], twenty[:, 0])
    assert torch.equal(fine[:, 0, ::4, ::4], twenty[:, 0])
    # The patch without data is in no batch, and bands differ by their number.
    assert torch.isfinite(fine).all()
    assert torch.allclose(ten[:, 1] - ten[:, 0], torch.tensor(0.1))
    assert torch.allclose(fine[:, 4], fine[:, 0])


def test_version_2_is_what_pretraining_takes(tmp_path):
    second(tmp_path, zipped=False)
    scenes = sen2venus(tmp_path / "index.csv")
    batch = Sampler(scenes, side=16, batch=2, rules=RULES)(0)

    def network(ten, _):
        return ten.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, [0] * 10]

    assert Pretraining(edge=4)(network, batch) > 0


def test_what_is_no_index_is_said(tmp_path):
    with pytest.raises(ReadError, match="There is no index"):
        sen2venus(tmp_path)
    written(tmp_path, ["a", "b"], [])
    with pytest.raises(ReadError, match="lists no patches"):
        sen2venus(tmp_path)
    written(tmp_path, ["a", "b"], [{"a": 1, "b": 2}])
    with pytest.raises(GridError, match="has the columns a, b; version 1"):
        sen2venus(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    first(tmp_path)
    broken = tmp_path / "HERE_tensor_10m_b2b3b4b8.pt"
    broken.write_bytes(b"not a tensor")
    with pytest.raises(ReadError, match=r"HERE_tensor_10m.*cannot be read as a tensor"):
        sen2venus(tmp_path)
    second(tmp_path, zipped=False)
    (tmp_path / "HERE_0_b11b12_20m.tif").unlink()
    on = Sampler(sen2venus(tmp_path), side=16, batch=2, rules=RULES)
    with pytest.raises(ReadError, match=r"HERE_0.*cells 0:64, 0:64.*b11b12"):
        list(map(on, range(9)))
