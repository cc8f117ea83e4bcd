"""What `s2sr_xr.train` and `s2sr_xr.simulate` offer, and what they cost to import."""

import inspect
import subprocess
import sys

import pytest

import s2sr_xr


@pytest.mark.parametrize("package", [s2sr_xr.train, s2sr_xr.simulate])
def test_every_public_name_is_there_and_documented(package):
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        made = getattr(package, name)
        if inspect.isclass(made) or inspect.isfunction(made):
            assert made.__doc__, name
    with pytest.raises(AttributeError, match=f"{package.__name__}.* 'nothing'"):
        package.nothing  # noqa: B018


def test_they_load_no_torch():
    code = (
        "import sys, s2sr_xr.train, s2sr_xr.simulate; dir(s2sr_xr.train);"
        "print([m for m in ('torch', 'dask', 'rasterio') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_importing_one_name_loads_what_it_needs():
    code = (
        "import sys; from s2sr_xr.train import Plan, RECIPES, Training, read_training;"
        "assert 'torch' not in sys.modules; from s2sr_xr.train import fit"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
