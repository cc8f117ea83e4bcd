"""Laws of the readers of published training sets, on tiny files in their layouts."""

import csv
import zipfile

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from s2sr_xr.errors import GridError, ReadError
from s2sr_xr.models.networks.csr import CSR
from s2sr_xr.models.networks.rec import REC
from s2sr_xr.train.data.augment import Augment
from s2sr_xr.train.data.datasets import FIRST, SECOND, sen2venus
from s2sr_xr.train.data.l1bsr import l1bsr
from s2sr_xr.train.data.patches import Rules, Sampler
from s2sr_xr.train.plan import Plan
from s2sr_xr.train.recipes import csr as csr_recipe
from s2sr_xr.train.recipes import rec as rec_recipe
from s2sr_xr.train.recipes.evoland_pretrain import Pretraining

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
    (tmp_path / "HERE_1_b11b12_20m.tif").unlink()
    on = Sampler(sen2venus(tmp_path), side=16, batch=2, rules=RULES)
    with pytest.raises(ReadError, match=r"HERE_1.*cells 0:64, 0:64.*b11b12"):
        list(map(on, range(9)))
    (tmp_path / "HERE_0_b11b12_20m.tif").unlink()
    with pytest.raises(ReadError, match=r"HERE_0_b11b12_20m\.tif cannot be opened"):
        sen2venus(tmp_path)


def test_an_archive_that_is_not_there_is_named(tmp_path):
    second(tmp_path)
    (tmp_path / "HERE.zip").unlink()
    with pytest.raises(ReadError, match=r"HERE_0_.*\.tif cannot be opened.*HERE\.zip"):
        sen2venus(tmp_path)


@pytest.mark.parametrize("make", [first, second])
@pytest.mark.parametrize("cut", [1, 30])
def test_an_index_that_is_cut_off_is_said(tmp_path, make, cut):
    make(tmp_path)
    index = tmp_path / "index.csv"
    lines = index.read_text().splitlines()
    lines[-1] = "\t".join(lines[-1].split("\t")[:-1])[:-cut]
    index.write_text("\n".join(lines))
    with pytest.raises(ReadError, match=r"in index\.csv names no file of .*b5b6b7b8a"):
        sen2venus(tmp_path)


# L1BSR


def view(path, image):
    """Write (4, h, w) counts as the authors' examples are: uint16, by pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = image.shape
    shape = {"count": count, "height": height, "width": width}
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(
            path, "w", "GTiff", dtype="uint16", interleave="pixel", **shape
        ) as file,
    ):
        file.write(image.astype("u2"))


def overlaps(folder, pairs=3):
    """Pairs whose counts say place, band (hundreds) and side (one more right)."""
    ground = 1000 + 50 * np.arange(40)[:, None] + np.arange(24)
    image = np.stack([ground + 100 * b for b in range(4)])
    for n in range(pairs):
        # The names of two that belong together need not be one.
        view(folder / f"orbit/D03_D04_left/{n:03}_D03.tif", image + 5000 * n)
        view(folder / f"orbit/D03_D04_right/{n:03}_D04.tif", image + 5000 * n + 1)
    return image


def test_both_views_are_of_one_pair_and_place(tmp_path):
    overlaps(tmp_path)
    draw = l1bsr(tmp_path, side=16, batch=20)
    counts = draw(0).counts
    assert counts.shape == (20, 2, 4, 16, 16)
    assert counts.dtype == torch.float32
    between = counts[:, 1] - counts[:, 0]
    # Nothing but the other detector, which is first in some pairs.
    assert {tuple(b.unique().tolist()) for b in between} == {(1.0,), (-1.0,)}
    assert (counts[:, :, 1] - counts[:, :, 0] == 100).all()
    assert len({int(c.min()) // 5000 for c in counts}) == 3
    steps = {tuple((c[0, 0].diff(dim=-1)).unique().tolist()) for c in counts}
    assert steps == {(1.0,), (-1.0,), (50.0,), (-50.0,)}


def test_batches_of_overlaps_are_a_function_of_seed_and_step(tmp_path):
    overlaps(tmp_path)
    draw = l1bsr(tmp_path, side=16, batch=2)
    assert torch.equal(draw(4).counts, l1bsr(tmp_path, side=16, batch=2)(4).counts)
    assert not torch.equal(draw(4).counts, draw(5).counts)
    other = l1bsr(tmp_path, side=16, batch=2, seed=1)
    assert not torch.equal(draw(4).counts, other(4).counts)


def test_csr_and_rec_learn_from_overlaps(tmp_path):
    overlaps(tmp_path)
    draw = l1bsr(tmp_path, side=16, batch=2)
    plan = Plan(steps=2, lr=1e-3, precision="float32")
    flows = CSR(width=2, scales=1)
    steps = list(csr_recipe.train(csr_recipe.Recipe(plan=plan), flows, draw))
    network = REC(features=8, groups=1, blocks=1, reduction=4)
    recipe = rec_recipe.Recipe(plan=plan)
    steps += list(rec_recipe.train(recipe, network, draw, csr=flows.eval()))
    assert [np.isfinite(s.loss) for s in steps] == [True] * 4


def test_what_shows_nothing_is_not_drawn(tmp_path):
    image = overlaps(tmp_path)
    gap = image + 0
    gap[2] = 0
    for n, bad in enumerate((gap, np.full_like(image, 700)), start=3):
        view(tmp_path / f"orbit/D03_D04_left/{n:03}.tif", image + 5000 * n)
        view(tmp_path / f"orbit/D03_D04_right/{n:03}.tif", bad)
    counts = l1bsr(tmp_path, side=16, batch=30)(0).counts
    assert {int(c.min()) // 5000 for c in counts} == {0, 1, 2}
    with pytest.raises(
        GridError, match=r"400 draws from 5 pairs.*0 of 2 patches of 32"
    ):
        l1bsr(tmp_path, side=32, batch=2)(0)


def test_what_are_no_overlaps_is_said(tmp_path):
    with pytest.raises(ReadError, match=r"has no folder NAME_left with \.tif files"):
        l1bsr(tmp_path)
    image = overlaps(tmp_path, pairs=1)
    right = tmp_path / "orbit/D03_D04_right"
    view(right / "000_D04.tif", image[:, 1:])
    with pytest.raises(ReadError, match=r"000_D03.tif has .* \(4, 40, 24\).*39, 24"):
        l1bsr(tmp_path, side=16, batch=1)(0)
    (right / "000_D04.tif").write_bytes(b"no image")
    with pytest.raises(ReadError, match=r"000_D03.tif or 000_D04.tif cannot be read"):
        l1bsr(tmp_path, side=16, batch=1)(0)
    (right / "000_D04.tif").unlink()
    with pytest.raises(ReadError, match=r"_left has 1 \.tif files and D03_D04_right 0"):
        l1bsr(tmp_path)
