"""Laws about the package itself: who imports whom, what is public, what it costs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

import s2sr_xr

ROOT = Path(__file__).parents[1]
PACKAGE = Path(s2sr_xr.__file__).parent

RANKS = [
    ["errors", "bands", "allocator", "about", "lanes", "core"],
    ["tiling", "radiometry", "metrics"],
    ["degrade", "nodata"],
    ["models"],
    ["grid", "consistency", "gpu"],
    ["predict", "readers", "sensor", "store"],
    ["block"],
    ["job", "choose"],
    ["lazy", "simulate", "geotiff"],
    ["tokens"],
    ["finer", "output", "cut", "planning", "train", "cog", "pyramid"],
    ["fidelity"],
    ["report", "catalogue", "provenance"],
    ["jobs", "scoring"],
    ["recipes"],
    ["accessor"],
    ["cli"],
]
"""From low to high; imports point down only. Inside a package they are free."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name != "__init__":
            yield name.removesuffix(".__init__"), path


def room(name):
    """Return the module or package at the top level that a name lies in."""
    return name.partition(".")[0]


def imported(path):
    """Yield the modules of this package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "s2sr_xr":
                yield from (a.name for a in node.names)
            elif node.module.startswith("s2sr_xr."):
                yield node.module.removeprefix("s2sr_xr.")
        elif isinstance(node, ast.Import):
            for a in node.names:
                if a.name.startswith("s2sr_xr."):
                    yield a.name.removeprefix("s2sr_xr.")


def test_every_module_has_a_rank():
    ranked = {m for rank in RANKS for m in rank}
    assert {room(n) for n, _ in modules()} == ranked


@pytest.mark.parametrize(
    ("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()]
)
def test_imports_point_down(name, path):
    rank = {m: n for n, names in enumerate(RANKS) for m in names}
    own = room(name)
    for other in imported(path):
        there = room(other)
        assert there == own or rank[there] < rank[own], f"{name} imports {other}"


HEAVY = ("torch", "dask", "distributed", "rasterio", "matplotlib", "zarr", "pyproj")


def test_import_is_light():
    code = (
        "import json, sys, time; begun = time.perf_counter(); import s2sr_xr;"
        "print(json.dumps([time.perf_counter() - begun, sorted(sys.modules)]))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    _, loaded = json.loads(out.stdout)
    assert not [m for m in HEAVY if m in loaded]


def test_readers_and_store_load_no_torch():
    code = (
        "import sys, s2sr_xr.readers.stac, s2sr_xr.readers.window, s2sr_xr.store;"
        "import rasterio, zarr, dask.array; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_face_is_documented():
    for name in s2sr_xr.__all__:
        assert getattr(s2sr_xr, name).__doc__, name
    public = {n for n in vars(s2sr_xr) if not n.startswith("_")}
    submodules = {n for n, _ in modules()}
    assert public - submodules - set(s2sr_xr.__all__) <= {"library_version"}


def test_no_function_hides_a_module():
    tops = {n for n, p in modules() if "." not in n}
    functions = {n for n in s2sr_xr.__all__ if callable(getattr(s2sr_xr, n))}
    assert not tops & functions


def test_the_accessor_says_what_the_functions_say():
    """Type checkers see the plain functions; both take the same arguments."""
    import inspect

    from s2sr_xr.accessor import DatasetAccessor

    def parameters(owner, name):
        return list(inspect.signature(getattr(owner, name)).parameters.values())[1:]

    for name in ("upsample", "superresolve", "decode", "window", "to_zarr", "to_cog"):
        method, function = parameters(DatasetAccessor, name), parameters(s2sr_xr, name)
        assert [(p.name, p.default, p.kind) for p in method] == [
            (p.name, p.default, p.kind) for p in function
        ]


def test_the_readme_runs(tmp_path):
    """Every Python block of the README, one after another, in one session."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    program = "\n".join(blocks)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_the_readme_lists_the_face():
    text = (ROOT / "README.md").read_text()
    for name in s2sr_xr.__all__:
        assert name in text, name


@pytest.mark.slow
def test_the_wheel_runs_elsewhere(tmp_path):
    """Built, installed into an environment of its own, used away from the source."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "-o",
            tmp_path,
            ROOT,
        ],
        check=True,
        capture_output=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True,
    )
    # The dependencies are those of this environment; the package is the wheel's.
    site = Path(sysconfig.get_paths()["purelib"])
    code = (
        "import site, sys; sys.path.append(sys.argv[1]);"
        "import s2sr_xr; assert 'env' in s2sr_xr.__file__, s2sr_xr.__file__;"
        "item = s2sr_xr.simulate_scene('scene', size=120);"
        "ten = s2sr_xr.open_stac(item).s2sr.upsample();"
        "ten.s2sr.to_zarr('ten.zarr');"
        "assert s2sr_xr.open_result('ten.zarr').B11.sizes['x'] == 120;"
        "assert s2sr_xr.__version__ == sys.argv[2]"
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    subprocess.run([python, "-c", code, site, version], check=True, cwd=tmp_path)


def test_nothing_says_where_it_was_made():
    tracked = subprocess.run(
        ["git", "ls-files"],  # noqa: S607 - git is where the PATH says
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    suspicious = re.compile(r"/(?:work|root|home|tmp)/\w|\bfarm\b", re.IGNORECASE)
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".txt", ""} and path.is_file():
            if path == Path(__file__):
                continue
            found = suspicious.search(path.read_text(errors="replace"))
            assert not found, (name, found)
