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

FLOORS = [
    ["errors"],
    ["core"],
    ["models", "readers", "simulate"],
    ["engine"],
    ["output", "evaluate", "train"],
    ["batches", "accessor"],
    ["__init__"],
    ["cli"],
]
"""From low to high; imports point down only. Inside a package they are free."""

LONGEST_LOADING, LONGEST = 14, 21
"""Files on the longest way from import to import: when a module is loaded, and with
imports inside functions and for types too."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


FILES = dict(modules())


def room(name):
    """Return the module or package at the top level that a name lies in."""
    return name.partition(".")[0]


def imported(path, *, loading=False):
    """Yield the files of this package that a file imports, inside functions too.

    With `loading` only those that are imported as soon as the file is.
    """
    tree = ast.parse(path.read_text())
    for node in tree.body if loading else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and room(node.module or "") == "s2sr_xr":
            for alias in node.names:
                full = f"{node.module}.{alias.name}".removeprefix("s2sr_xr.")
                yield full if full in FILES else node.module.partition(".")[2]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("s2sr_xr."):
                    yield alias.name.removeprefix("s2sr_xr.")


def test_every_module_has_a_floor():
    assert {room(n) for n in FILES} == {m for floor in FLOORS for m in floor}
    assert len({room(n) for n in FILES}) <= 13
    assert len(FLOORS) <= 9


@pytest.mark.parametrize(
    ("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()]
)
def test_imports_point_down(name, path):
    floor = {m: n for n, names in enumerate(FLOORS) for m in names}
    own = room(name)
    for other in imported(path):
        there = room(other or "__init__")
        assert there == own or floor[there] < floor[own], f"{name} imports {other}"


@pytest.mark.parametrize(
    ("loading", "most"), [(True, LONGEST_LOADING), (False, LONGEST)]
)
def test_no_import_goes_round_in_a_circle(loading, most):
    chains = {}

    def chain(name, above=()):
        assert name not in above, f"a circle: {' > '.join((*above, name))}"
        if name not in chains:
            found = imported(FILES[name], loading=loading)
            others = {o for o in found if o in FILES} - {name}
            longest = max(
                (chain(o, (*above, name)) for o in others), key=len, default=()
            )
            chains[name] = (name, *longest)
        return chains[name]

    longest = max(map(chain, FILES), key=len)
    assert len(longest) <= most, " > ".join(longest)


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_no_file_imports_what_another_keeps_to_itself(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and room(node.module or "") == "s2sr_xr":
            private = [a.name for a in node.names if a.name.startswith("_")]
            assert not private, f"line {node.lineno}: {private}"


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
        "import sys, s2sr_xr.readers.stac.open, s2sr_xr.readers.fetch.window;"
        "import s2sr_xr.output.zarr;"
        "import rasterio, zarr, dask.array; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_face_is_documented():
    for name in s2sr_xr.__all__:
        assert getattr(s2sr_xr, name).__doc__, name


def test_dir_shows_public_names_only():
    shown = {name for name in dir(s2sr_xr) if not name.startswith("__")}
    assert shown == {*s2sr_xr.__all__, "errors", "evaluate", "simulate", "train"}
    for name in shown:
        assert getattr(s2sr_xr, name) is not None


def test_no_function_hides_a_module():
    functions = {n for n in s2sr_xr.__all__ if callable(getattr(s2sr_xr, n))}
    assert not {room(n) for n in FILES} & functions


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
