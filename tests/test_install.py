"""Laws about an editable install: it is a path, and type checkers follow it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USER = """
import s2sr_xr
from s2sr_xr import evaluate

reveal_type(s2sr_xr.upsample)
reveal_type(evaluate.score_scene)
s2sr_xr.to_cog(1, "a", no_such_option=3)
"""


@pytest.fixture(scope="module")
def links(tmp_path_factory):
    """Return the text of the ``.pth`` file in an editable wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    code = "import setuptools.build_meta as b, sys; b.build_editable(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "SetuptoolsWarning" not in built.stderr
    assert "DeprecationWarning" not in built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".pth")]
        return archive.read(name).decode()


def test_an_editable_install_is_a_path(links):
    assert links.strip() == str(ROOT)


def test_a_type_checker_finds_the_public_functions(links, tmp_path):
    pytest.importorskip("pyright")
    home = tmp_path / "env"
    venv.create(home)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    dependencies = sysconfig.get_path("purelib")
    (site / "links.pth").write_text(f"{links.strip()}\n{dependencies}\n")
    (tmp_path / "user.py").write_text(USER)
    python = str(home / "bin" / "python")
    found = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", python, "user.py"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    assert '"s2sr_xr.upsample" is "(obj: ' in found
    assert '-> Dataset"' in found
    assert '-> dict[str, Scores]"' in found
    assert 'No parameter named "no_such_option"' in found
    assert "1 error, 0 warnings" in found
