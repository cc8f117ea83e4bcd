"""What the pages say is so: code runs as printed, links lead somewhere, names exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rasterio
import typer
from typer.testing import CliRunner

import s2sr_xr
from s2sr_xr.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = ("python", "sh")
"""Languages of blocks that run as printed; ``py`` and ``console`` cannot run here."""


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    line: int
    text: str


def blocks(page):
    text = page.read_text(encoding="utf-8")
    return [
        Block(m[1], text.count("\n", 0, m.start(2)) + 1, m[2])
        for m in FENCE.finditer(text)
    ]


def named(page):
    return str(page.relative_to(ROOT))


RUNNER = """
import json, subprocess, sys

page, blocks = json.load(sys.stdin)
session = {"__name__": "__main__"}
for language, line, text in blocks:
    if language == "python":
        # Blank lines, so that a traceback shows the line of the page.
        exec(compile("\\n" * (line - 1) + text, page, "exec"), session)
    else:
        subprocess.run(["bash", "-euc", text], check=True)
"""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=named(page))
        for page in PAGES
        if any(b.language in RUN for b in blocks(page))
    ],
)
def test_a_page_runs_as_printed(page, tmp_path):
    """Blocks of ``python`` and ``sh``, one after another, in one session."""
    told = [b for b in blocks(page) if b.language in RUN]
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([named(page), told]),
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def commands():
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("sh", "console"):
                for line in block.text.splitlines():
                    words = shlex.split(line, comments=True)
                    if words[:1] == ["s2sr"]:
                        yield pytest.param(words[1:], id=f"{named(page)}: {line}")


@pytest.mark.parametrize("words", list(commands()))
def test_a_printed_command_is_understood(words):
    """Parsed with all of its options, and not run."""
    command, rest = typer.main.get_command(app), list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    command.make_context("s2sr", rest)


def recipes():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "toml":
                yield pytest.param(block.text, id=f"{named(page)}:{block.line}")


@pytest.mark.parametrize("text", list(recipes()))
def test_a_printed_recipe_is_understood(text, tmp_path):
    """What stops it is that its scenes are not here."""
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    done = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.toml")])
    assert done.exit_code == 2, done.output
    scene = re.search(r'scenes = \["(?:.*/)?([^"]+)"', text)[1]
    assert scene in done.stderr, done.stderr
    assert "is not one of" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        place, _, heading = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_file(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", t).lower() for t in titles]
            assert heading in [s.replace(" ", "-") for s in slugs], link


def test_the_readme_is_a_door():
    assert len((ROOT / "README.md").read_text().splitlines()) < 180


def table_names():
    """Return what the first columns of the tables of names say."""
    text = (ROOT / "docs" / "names.md").read_text()
    first = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}


def test_every_public_name_is_listed():
    assert set(s2sr_xr.__all__) <= table_names()


def test_every_command_is_listed():
    listed = {name.split()[1] for name in table_names() if name.startswith("s2sr ")}
    assert listed == set(typer.main.get_command(app).commands)


def test_a_promise_names_tests_that_exist():
    text = (ROOT / "docs" / "promises.md").read_text()
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    promised = set(re.findall(r"`(test_\w+)`", text))
    assert promised
    assert promised <= there, promised - there
    for section in text.split("\n## ")[1:]:
        assert "`test_" in section, section.partition("\n")[0]


def test_every_benchmark_is_listed():
    text = (ROOT / "benchmarks" / "README.md").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert re.search(rf"`{path.stem}(\.py)?`", text), path.name


def test_pictures_are_small_and_can_be_drawn_again(tmp_path):
    """The program runs on crops of the same form as the real ones."""
    rng = np.random.default_rng(0)
    names = {
        10: ["B02", "B03", "B04", "B08"],
        20: ["B05", "B06", "B07", "B8A", "B11", "B12"],
        60: ["B01", "B09"],
    }
    arrays = {}
    for metres, bands in names.items():
        side = 1200 // metres
        counts = rng.integers(500, 3000, (side, side, len(bands)))
        arrays |= {f"im{metres}": counts.astype("u2"), f"bands{metres}": bands}
    meta = json.dumps({"level": "L2A", "dn_offset": 0})
    for folder in ("l2a_native", "l1b"):
        (tmp_path / folder).mkdir()
    code = "import pictures; print(pictures.SCENE, pictures.DETECTOR)"
    program = ROOT / "benchmarks"
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=program,
        capture_output=True,
        text=True,
        check=True,
    )
    scene, detector = told.stdout.split()
    np.savez(tmp_path / "l2a_native" / f"{scene}.npz", meta=meta, **arrays)
    shape = {"height": 96, "width": 96, "count": 4, "dtype": "uint16"}
    with rasterio.open(
        tmp_path / "l1b" / f"{detector}.tif", "w", driver="GTiff", **shape
    ) as file:
        file.write(rng.integers(60, 900, (4, 96, 96)).astype("u2"))
    command = [sys.executable, program / "pictures.py", tmp_path, "--out", tmp_path]
    areas = ["--swir", "0", "0", "96", "--l1b", "0", "0", "80"]
    subprocess.run([*command, *areas], check=True, capture_output=True)
    for name in ("swir.png", "l1b.png"):
        assert (tmp_path / name).stat().st_size > 10_000
        assert (ROOT / "docs" / "pictures" / name).stat().st_size < 400_000
