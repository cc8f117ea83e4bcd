"""Make shipped weights again: a recipe of `recipes/` from scenes to weights and card.

    python benchmarks/make_weights.py dsen2-s-20m --real DIR --out DIR

The recipe says what happens, stage by stage; what its network learns from is built by
``weights_dsen2.py``, ``weights_5m.py`` or ``weights_l1b.py``. `--real` is a folder of
scenes as in `real_scenes.py`; held-out places are only scored. Each stage leaves its
weights in `--out`: run it again after a kill, and it resumes. `--stage 3 --first FILE`
begins with the fourth stage, from other weights; of several files the mean is taken.
The package keeps weights and cards in ``s2sr_xr/models/weights``.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from cards import TERMS
from safetensors.torch import load_file, save_file

import s2sr_xr
from s2sr_xr.models.weights_file import save_tensors
from s2sr_xr.train.settings import check_names

RECIPES = Path(__file__).parent / "recipes"


def read_recipe(name: str) -> dict:
    """Return a recipe; each of its stages has the settings of all stages too."""
    recipe = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    common = recipe.pop("every_stage", {})
    recipe["stages"] = [common | stage for stage in recipe["stages"]]
    recipe["compared"] = {
        k: common | run for k, run in recipe.get("compared", {}).items()
    }
    return recipe


def maker_of(recipe: dict, real: Path):
    """Return what makes the networks of a recipe."""
    return import_module(f"weights_{recipe['maker']}").Maker(recipe, real)


def trained(maker, stage: dict, first: dict | None, path: Path) -> torch.nn.Module:
    """Return the network of a stage, trained unless `path` has its weights already.

    `first` are the weights that it begins with; None: a new network.
    """
    network = maker.begin(stage)
    if path.exists():
        first = load_file(path)
    if first is not None:
        network.load_state_dict({k: v.float() for k, v in first.items()})
    if path.exists():
        return network
    begun, losses = time.monotonic(), []
    files = {k: path.with_suffix(f".{k}") for k in ("checkpoint", "log")}
    for step, loss, last in maker.steps(stage, network, **files):
        network = last
        losses.append(loss)
        if step % 100 == 99:
            seconds = time.monotonic() - begun
            mean = float(np.mean(losses[-100:]))
            print(path.stem, step, f"{mean:.5f} {seconds:.0f} s", flush=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return network


def ship(maker, recipe: dict, network: torch.nn.Module, out: Path) -> dict:
    """Write the weights of a network, score them, and return their card."""
    name, state = recipe["network"], network.state_dict()
    if recipe.get("storage") == "float16":
        state = {k: v.half() for k, v in state.items()}
        # The figures are those of the rounded weights.
        network.load_state_dict({k: v.float() for k, v in state.items()})
    facts = replace(maker.spec, **maker.facts(), licence="Apache-2.0")
    path = out / f"{name}.safetensors"
    digest = save_tensors(path, state, facts, name)
    path.chmod(0o644)
    found = maker.scores(network, s2sr_xr.load_model(path))
    brief = {k: v for k, v in found.items() if k != "scenes"}
    print(json.dumps(brief, indent=1), flush=True)
    settings = {k: v for k, v in recipe.items() if k not in ("limits", "compared")}
    return {
        "name": name,
        "title": facts.title,
        "sha256": digest,
        "levels": facts.levels,
        "fill": facts.fill,
        "licence": facts.licence,
        "citation": facts.citation,
        "terms": TERMS,
        "learnt_from": maker.learnt_from(),
        "recipe": settings,
        **found,
        "limits": recipe["limits"],
    }


def compared(maker, recipe: dict, out: Path) -> dict:
    """Return the figures of the other runs that a recipe names, trained for that."""
    found = {}
    for run, stage in recipe["compared"].items():
        path = out / f"{recipe['network']}.{run}.safetensors"
        network = trained(maker, stage, None, path)
        scores = maker.scores(network, network, stage)["figures"]["mean"]
        found[run] = {k: stage[k] for k in ("task", "steps")} | scores
    return found


def main(arguments: list[str] | None = None) -> None:
    """Train the stages of a recipe, and write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted(path.stem for path in RECIPES.glob("*.toml"))
    parser.add_argument("recipe", choices=names)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stage", type=int, default=0, help="stages to leave out")
    parser.add_argument("--first", type=Path, nargs="+", help="weights to begin with")
    parser.add_argument("--l1b", type=Path, help="real crops that rec-s is tried on")
    parser.add_argument("--simulated", type=int, help="simulated scenes to learn from")
    parser.add_argument("--set", nargs="+", default=[], help="settings of all stages")
    args = parser.parse_args(arguments)
    recipe = read_recipe(args.recipe)
    for stage in [*recipe["stages"], *recipe["compared"].values()]:
        stage.update(tomllib.loads("\n".join(args.set)))
    if args.simulated is not None:
        recipe["scenes"]["simulated"] = args.simulated
    args.out.mkdir(parents=True, exist_ok=True)
    maker, state = maker_of(recipe, args.real), None
    for stage in [*recipe["stages"], *recipe["compared"].values()]:
        check_names(stage, maker.names)
    if args.first:
        states = [load_file(path) for path in args.first]
        state = {
            k: torch.stack([s[k].float() for s in states]).mean(0) for k in states[0]
        }
    for number, stage in list(enumerate(recipe["stages"]))[args.stage :]:
        path = args.out / f"{args.recipe}.stage{number}.safetensors"
        network = trained(maker, stage, state, path)
        state = network.state_dict()
    card = ship(maker, recipe, network, args.out)
    if recipe["compared"]:
        card["compared"] = compared(maker, recipe, args.out)
    if args.l1b:
        card["real_l1b"] = maker.on_real(network.eval(), args.l1b)
    path = args.out / f"{args.recipe}.json"
    path.write_text(json.dumps(card, indent=1) + "\n")
    path.chmod(0o644)


if __name__ == "__main__":
    main()
