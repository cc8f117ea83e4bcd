"""Laws of the command line: commands work twice, and failures are one line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import s2sr_xr
from s2sr_xr.cli import app
from s2sr_xr.errors import GridError

RUN = CliRunner()


def test_the_demo_works_twice_and_leaves_what_it_says(tmp_path):
    out = tmp_path / "made" / "here"
    for _ in range(2):
        done = RUN.invoke(app, ["demo", "--out", str(out), "--size", "120"])
        assert done.exit_code == 0, done.output
    for name in ("ten.zarr", "before_after.png", "scores.txt", "scene"):
        assert (out / name).exists(), name
        assert str(out / name) in done.output
    made = s2sr_xr.open_result(out / "ten.zarr")
    assert made.sizes == {"time": 1, "y": 120, "x": 120}
    text = (out / "scores.txt").read_text().rstrip()
    assert text in done.output
    assert text.splitlines()[0].split() == ["nearest", "bicubic", "dsen2"]
    assert text.splitlines()[-1].split()[2] == "1.000"


def test_the_demo_judges_the_model_that_is_asked_for(tmp_path):
    asked = ["demo", "--out", str(tmp_path), "--size", "60", "--model", "nearest"]
    done = RUN.invoke(app, asked)
    assert done.exit_code == 0, done.output
    made = s2sr_xr.open_result(tmp_path / "ten.zarr")
    assert made.B05.attrs["s2sr_model"] == "nearest-20m"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--size", "100"], "size=100: the side of a scene is a multiple of 6"),
        (["--model", "sharper"], "No model is named 'sharper'. There are"),
    ],
)
def test_our_errors_are_one_line_and_exit_code_2(tmp_path, asked, said):
    done = RUN.invoke(app, ["demo", "--out", str(tmp_path), *asked])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"s2sr: {said}")
    assert "Traceback" not in done.output


def test_debug_shows_where_an_error_comes_from(tmp_path):
    asked = ["--debug", "demo", "--out", str(tmp_path), "--size", "100"]
    with pytest.raises(GridError, match="multiple of 6"):
        RUN.invoke(app, asked, catch_exceptions=False)


def test_models_lists_every_model():
    done = RUN.invoke(app, ["models"])
    assert done.exit_code == 0
    titles, *rows = done.output.splitlines()
    assert titles.split() == [
        *("name", "cell", "pixel", "margin", "tile", "weights", "takes", "makes")
    ]
    named = [row.split()[0] for row in rows if row]
    assert set(named) >= {spec.name for spec in s2sr_xr.list_models()}
    assert "B05 B06 B07 B8A B11 B12" in done.output


def test_version_and_help():
    assert RUN.invoke(app, ["--version"]).output == f"s2sr_xr {s2sr_xr.__version__}\n"
    said = RUN.invoke(app, ["--help"]).output
    assert "demo" in said
    assert "models" in said


def test_import_is_light():
    code = (
        "import sys, s2sr_xr.cli; heavy = {'torch', 'dask', 'rasterio', 'matplotlib',"
        "'zarr', 'pyproj', 'distributed'}; assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_script_runs():
    code = "from s2sr_xr.cli import app; app()"
    command = [sys.executable, "-c", code, "demo", "--size", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("s2sr: size=7")
