"""A token says what decides the pixels, not in which file the code lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import s2sr_xr

PACKAGE = Path(s2sr_xr.__file__).parent

ASKED = """
import importlib, json, sys
package, item = sys.argv[1:]
tree = importlib.import_module(package).open_stac(item)
x, y = (tree["r60m"][axis].values for axis in "xy")
part = tree.s2sr.window(x=(x[2], x[8]), y=(y[2], y[8]))
results = {
    "upsample": tree.s2sr.upsample("dsen2"),
    "consistent": tree.s2sr.upsample("bicubic", consistent=True),
    "own arithmetic": tree.s2sr.upsample("regression") * 2,
    "superresolve": tree.s2sr.superresolve("carn-s", precision="bf16"),
    "window": part.s2sr.upsample("dsen2"),
    "source": tree["r10m"].ds,
}
print(json.dumps({
    f"{name} {variable}": array.data.name
    for name, result in results.items()
    for variable, array in result.data_vars.items()
    if array.chunks
}))
"""


def asked(package, item, path):
    out = subprocess.run(
        [sys.executable, "-c", ASKED, package, str(item)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(path)},
    )
    return json.loads(out.stdout)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory):
    """Return a folder with a copy of the package in which every module is renamed."""
    home = tmp_path_factory.mktemp("renamed")
    for path in PACKAGE.rglob("*"):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        copy = home / "other_house" / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            text = path.read_text().replace("s2sr_xr.", "other_house.")
            text = text.replace("from s2sr_xr ", "from other_house ")
            copy.write_text(text.replace("import s2sr_xr", "import other_house"))
        else:
            copy.symlink_to(path)
    return home


def test_a_token_survives_a_move(renamed, tmp_path):
    """Names of Dask arrays hold the tokens of models, tasks and sources."""
    item = s2sr_xr.simulate_scene(tmp_path, size=120).get_self_href()
    here = asked("s2sr_xr", item, PACKAGE.parent)
    there = asked("other_house", item, renamed)
    assert here == there
    assert len(set(here.values())) > 20
