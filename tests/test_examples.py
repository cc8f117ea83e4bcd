"""The examples run, away from the checkout, and say what they say."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path

import nbformat
import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers .rio
import xarray as xr
from nbclient import NotebookClient

import s2sr_xr

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def classify():
    spec = util.spec_from_file_location("classify", EXAMPLES / "classify.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in cells), "strip its outputs"
    # Raises where a cell does.
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert all(c.execution_count for c in cells)
    assert s2sr_xr.open_result(tmp_path / "ten.zarr").B12.shape == (1, 360, 360)
    assert (tmp_path / "ten.tif").exists()


def test_the_classifier_runs(tmp_path):
    program = [sys.executable, EXAMPLES / "classify.py", "--out", tmp_path]
    done = subprocess.run(
        [*program, "--size", "192", "--samples", "2500"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.rsplit(maxsplit=7) for line in done.stdout.splitlines()[1:]]
    accuracy = {name.strip(): float(first) for name, first, *_ in rows}
    # So few samples rank no methods; but the infrared helps, and nothing is mixed up.
    assert 60 < accuracy["10 m bands alone"] < accuracy["truth"] < 100
    assert accuracy["10 m bands alone"] < accuracy["SWIR by dsen2"]
    written = xr.open_zarr(
        tmp_path / "land_cover_SWIR_by_dsen2.zarr", consolidated=False
    )
    assert written.rio.crs == "EPSG:32722"
    classes = written.land_cover.to_numpy()
    assert classes.shape == (192, 192)
    assert classes[-1, -1] == 255  # beyond the swath
    assert len(np.unique(classes)) > 8
    assert (tmp_path / "land_cover.png").stat().st_size > 10_000


def test_labels_lie_where_the_pixels_do(classify, tmp_path):
    """Classes moved by a pixel explain the spectra less well."""
    item = s2sr_xr.simulate_scene(tmp_path, size=240, seed=3)
    known = classify.land_cover(240, 3)
    truth = s2sr_xr.open_truth(item)
    spectra = truth[["B03", "B04", "B08", "B12"]].to_dataarray("band").to_numpy()

    def spread(labels):
        """Return the variance that is left inside the classes."""
        inside = [spectra[:, labels == n] for n in np.unique(known) if n != 255]
        return sum(s.var(1).sum() * s.shape[1] for s in inside)

    moved = [np.roll(known, by, axis) for by in (-1, 1) for axis in (0, 1)]
    assert spread(known) < 0.99 * min(map(spread, moved))
