"""Laws of every import: what is refused, what it costs, what the command says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from foreign_files import (
    SMALL,
    assert_holds,
    carn_file,
    convolutions,
    describe,
    keras_file,
    refused,
)

from s2sr_xr.errors import ModelError
from s2sr_xr.models.importers.checkpoint import KINDS, import_checkpoint
from s2sr_xr.models.weights_check import LARGEST, digest

STARTS = {
    "empty": (b"", "is empty"),
    "html": (b"\n<!DOCTYPE html><html>404", r"looks like a web page \(25 bytes\)"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "pointer to a file in Git",
    ),
    "noise": (b"noise" * 99, "not an HDF5 file|not a whole"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("data", "said"), STARTS.values(), ids=STARTS)
def test_what_is_no_checkpoint_is_named(tmp_path, kind, data, said):
    (tmp_path / "a.bin").write_bytes(data)
    describe(tmp_path / "a.bin")
    refused(tmp_path / "a.bin", kind, said, tmp_path)
    refused(tmp_path / "b.bin", kind, "There is no|no b.yaml", tmp_path)


@pytest.mark.parametrize("kind", ["dsen2-20m", "l1bsr-rec", "evoland-onnx"])
def test_half_a_file_is_named(tmp_path, kind):
    makers = {
        "dsen2-20m": lambda p: keras_file(p, convolutions(**SMALL)),
        "l1bsr-rec": lambda p: torch.save({"a": torch.rand(99)}, p),
        "evoland-onnx": carn_file,
    }
    path = tmp_path / "a.onnx"
    makers[kind](path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, kind, "a.onnx .*is not a whole", tmp_path)


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    with (tmp_path / "a.hdf5").open("wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n")
        file.truncate(LARGEST + 1)
    refused(tmp_path / "a.hdf5", "dsen2-20m", "more than any model", tmp_path)


def test_out_is_a_new_file(tmp_path):
    source = keras_file(tmp_path / "a.hdf5", convolutions(**SMALL))
    (tmp_path / "old.safetensors").touch()
    for out, said in (
        ("old.safetensors", "exists. Remove"),
        ("new.pt", "does not end in .safetensors"),
        ("sub/new.safetensors", "There is no folder"),
    ):
        with pytest.raises(ModelError, match=said):
            import_checkpoint(source, "dsen2-20m", out=tmp_path / out)
    with pytest.raises(ModelError, match="'dsen2' is not one of dsen2-20m, dsen2-60m"):
        import_checkpoint(source, "dsen2", out=tmp_path)


# ru_maxrss tells the peak of the runner that started this process; VmHWM begins anew.
MEASURE = """
import pathlib, re, sys, time
import h5py, torch, safetensors.torch, s2sr_xr
from s2sr_xr.models.importers.checkpoint import import_checkpoint
begun = time.process_time()
import_checkpoint(sys.argv[1], "vdsen2-20m", out=sys.argv[2])
seconds = time.process_time() - begun
status = pathlib.Path("/proc/self/status").read_text()
print(seconds, re.search(r"VmHWM:\\s*([0-9]+) kB", status)[1])
"""


@pytest.mark.slow
def test_38_million_parameters_take_5_seconds_and_a_gigabyte(tmp_path):
    pairs = convolutions(features=256, blocks=32)
    source = keras_file(tmp_path / "a.hdf5", pairs)
    out = tmp_path / "b.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, source, out],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, kilobytes = map(float, done.stdout.split())
    assert kilobytes < 2**20
    assert seconds < 10  # of the processor, on any machine; 2 s when quiet
    assert_holds(out, pairs)


def test_the_command_imports_and_shows(tmp_path):
    from typer.testing import CliRunner

    from s2sr_xr.cli import app

    source = describe(carn_file(tmp_path / "a.onnx"), margin=3)
    out = tmp_path / "b.safetensors"
    asked = ["import", str(source), "evoland-onnx", "--out", str(out)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert digest(out) in done.output
    assert "says margin: 3" in done.stderr
    shown = CliRunner().invoke(app, ["models", "show", str(out)]).output
    assert digest(out) in shown
    assert '"source": "a.onnx"' in shown
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2
    assert "exists. Remove" in again.stderr
