"""Laws of the command line: commands work twice, and failures are one line."""

from __future__ import annotations

import json
import subprocess
import sys

import dask
import pytest
from test_run import night, records
from typer.testing import CliRunner

import s2sr_xr
from s2sr_xr.cli import app
from s2sr_xr.cli.run import CALM, client_of
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


# --- stores ---

BICUBIC = ["--model", "bicubic", "--block", "366"]


def test_a_product_is_made_finer_once(tmp_path):
    (path,) = night(tmp_path / "items", 1)
    out, cog = tmp_path / "ten.zarr", tmp_path / "ten.tif"
    asked = ["upsample", str(path), str(out), *BICUBIC]
    planned = RUN.invoke(app, [*asked, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert {line.split()[0] for line in planned.output.splitlines()} >= {
        *("blocks", "operations", "reads", "writes", "memory")
    }
    assert not out.exists()
    made = RUN.invoke(app, [*asked, "--cog", str(cog), "--bands", "b11"])
    assert made.exit_code == 0, made.output
    assert set(s2sr_xr.open_result(out)) == {"B02", "B08", "B11", "quality"}
    assert cog.exists()
    again = RUN.invoke(app, [*asked, "--bands", "B11"])
    assert (again.exit_code, "skipped" in again.output) == (0, True)
    other = RUN.invoke(app, ["upsample", str(path), str(out), "--model", "nearest"])
    assert other.exit_code == 1
    assert "was written by another job" in other.output
    fresh = RUN.invoke(app, [*asked, "--no-resume"])
    assert fresh.exit_code == 1
    assert "exists, state 'complete'" in fresh.output


def test_a_damaged_store_is_found_and_mended(tmp_path):
    (path,) = night(tmp_path / "items", 1)
    out = str(tmp_path / "ten.zarr")
    asked = ["upsample", str(path), out, *BICUBIC, "--layout", "sharded"]
    assert RUN.invoke(app, asked).exit_code == 0
    assert RUN.invoke(app, ["verify", out]).output == f"{out} is sound\n"
    shard = next((tmp_path / "ten.zarr" / "B11" / "c").rglob("0/0/0"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0x10
    shard.write_bytes(content)
    bad = RUN.invoke(app, ["verify", out])
    assert bad.exit_code == 1
    assert bad.output.startswith("block (0, 0, 0)  B11: ")
    mended = RUN.invoke(app, asked)
    assert mended.exit_code == 0, mended.output
    assert RUN.invoke(app, ["verify", out]).exit_code == 0


def test_a_store_with_nothing_in_it_is_not_sound(tmp_path):
    (path,) = night(tmp_path / "items", 1)
    out = str(tmp_path / "ten.zarr")
    ten = s2sr_xr.open_stac(path).s2sr.upsample("bicubic", bands=["B11"])
    ten.s2sr.to_zarr(out, compute=False)
    done = RUN.invoke(app, ["verify", out])
    assert done.exit_code == 2
    assert "is unfinished" in done.stderr
    assert "sound" not in done.stdout


def test_a_batch_says_what_failed(tmp_path):
    paths = [str(p) for p in night(tmp_path / "items")]
    report, log, out = (tmp_path / n for n in ("report.json", "log.jsonl", "out"))
    items = tmp_path / "items.json"
    items.write_text(json.dumps([*paths, "gone.json"]))
    more = ["--task", "upsample", *BICUBIC, "--json", str(report), "--log", str(log)]
    asked = ["batch", str(items), "--out", str(out), *more]
    planned = RUN.invoke(app, [*asked, "--dry-run"])
    assert planned.exit_code == 1
    assert planned.stdout.startswith("2 stores\noutput")
    assert planned.stderr.startswith("s2sr: gone: No STAC item could be loaded")
    done = RUN.invoke(app, asked)
    assert done.exit_code == 1
    assert "2 of 3 done" in done.stdout
    assert "failed: gone: ReadError: No STAC item" in done.stdout
    said = json.loads(report.read_text())
    assert (said["ok"], said["blocks_written"]) == (False, 2)
    assert said["failed"][0]["item"] == "gone"
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "end"
    assert len(records(out)) == 2
    assert RUN.invoke(app, ["batch", *paths, "--out", str(out), *more]).exit_code == 0


def test_processes_that_a_command_starts_seldom_look_at_themselves():
    with client_of(1, None) as client:
        for name, value in CALM.items():
            assert set(client.run(dask.config.get, name).values()) == {value}
    assert all(dask.config.get(name) != value for name, value in CALM.items())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["batch", "no.json", "--out", "out"], "loaded from no.json: not found"),
        (["batch", "a", "a", "--out", "out"], "Item a appears more than once"),
        (["batch", "a", "--out", "out", "--task", "sharpen"], "'sharpen' is not one"),
        (["batch", "a"], "Missing option '--out'"),
        (
            ["batch", "a", "--out", "b", "--workers", "1", "--scheduler", "c"],
            "give one",
        ),
        (["upsample", "no.SAFE", "out.zarr"], "There is nothing at no.SAFE"),
        (["superresolve", "a", "out", "--model", "sharper"], "is named 'sharper'"),
        (["register", "a", "out", "--model", "dsen2-s-20m"], "it does not register"),
        (["verify", "no.zarr"], "There is no Zarr v3 store at"),
    ],
)
def test_wrong_calls_end_with_2(tmp_path, monkeypatch, asked, said):
    monkeypatch.chdir(tmp_path)
    done = RUN.invoke(app, asked, env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())
