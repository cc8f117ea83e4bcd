"""The networks that are published, and our small ones: their facts, and how to build.

Facts only: torch is imported when a network is built. The margins of exact models are
the smallest whole cells that cover what they look at; `measure_margin` holds them to
it.

References
----------
Lanaras et al. (2018), ISPRS Journal 146, section 4.4: DSen2, VDSen2.
Nguyen et al. (2023), CVPR workshops, section 3.1: REC, CSR.
CESBIO, EvoLand project: the names, sizes and constants of the CARN and RRDB networks.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from s2sr_xr.models.spec import BandGroup, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    Model = tuple[ModelSpec, Callable[..., nn.Module]]

__all__ = ["EVOLAND", "PROJECT", "WORLDSTRAT", "build_later", "named", "published"]

R10 = ("B02", "B03", "B04", "B08")
R20 = ("B05", "B06", "B07", "B8A", "B11", "B12")
R60 = ("B01", "B09")
DSEN2_R10 = ("B04", "B03", "B02", "B08")
"""The order of GDAL's subdatasets, with which DSen2 was trained."""

Constants: TypeAlias = dict[str, tuple[float, float]]
"""Mean and standard deviation of the reflectance of each band in a training set."""

EVOLAND: Constants = {
    "B02": (0.0478, 0.0289),
    "B03": (0.0765, 0.0400),
    "B04": (0.0893, 0.0679),
    "B08": (0.2622, 0.0811),
    "B05": (0.1253, 0.0615),
    "B06": (0.2182, 0.0645),
    "B07": (0.2524, 0.0772),
    "B8A": (0.2815, 0.0820),
    "B11": (0.2472, 0.1196),
    "B12": (0.1665, 0.1160),
}
"""Of Sen2Venus with B11 and B12, in the channel order of EvoLand's networks."""

WORLDSTRAT: Constants = {
    "B02": (0.1072, 0.1442),
    "B03": (0.1367, 0.1412),
    "B04": (0.1559, 0.1514),
    "B08": (0.2781, 0.1341),
}
"""Of WorldStrat."""

PROJECT = {20: 0.5, 60: 0.0}
"""Share that our networks for these bands project back. Half is what keeps their
sharpness at 10 m; 60 m bands learn theirs from simulated references, and need none."""

SLIPPED: Constants = dict(zip(R20, list(EVOLAND.values())[6:], strict=False))
"""What the published x4 network of B05, B06, B07, B8A standardises with: those of B07,
B8A, B11, B12. A mistake in training that its weights have learnt."""

LANARAS = "Lanaras et al. (2018), ISPRS J. Photogramm. Remote Sens. 146, 305-319"
NGUYEN = "Nguyen et al. (2023), L1BSR, CVPR Workshops"
AHN = "Ahn et al. (2018), CARN, ECCV; weights: CESBIO, EvoLand"
WANG = "Wang et al. (2018), ESRGAN, ECCV Workshops; weights: CESBIO, EvoLand"


def published() -> list[Model]:
    """Return the facts of each network, and a function that builds it.

    What is built has random weights, is in evaluation mode, shrinks what it is given
    where its spec is exact, and stores its kernels channels-last. It takes and gives
    what `load_model` says, REC raw counts; CSR, which `register_bands` drives, takes
    standardised pairs and gives a flow. For training, a function takes
    ``padding="same"``.
    """
    return [*_dsen2s(), *_carns(), *_rrdbs(), *_l1b()]


def _dsen2s() -> Iterator[Model]:
    rows = (
        ("dsen2", 128, 6, (8, 3)),
        ("vdsen2", 256, 32, (34, 12)),
        ("dsen2-s", 64, 6, (12, 6)),
    )
    for name, features, blocks, margins in rows:
        title = "VDSen2" if name == "vdsen2" else "DSen2"
        for metres, made, margin in zip((20, 60), (R20, R60), margins, strict=True):
            k = metres // 10
            groups = [(DSEN2_R10, k), (R20, k // 2), (R60, 1)]
            spec = ModelSpec(
                name=f"{name}-{metres}m",
                title=f"{title}: {metres} m bands at 10 m",
                cell=metres,
                inputs=_groups(*groups[: 2 if metres == 20 else 3]),
                output=BandGroup(names=made, per_cell=k),
                margin=margin,
                tile=366 // k,
                **_facts(name, "L1C", "GPL-3.0-only", LANARAS),
            )
            options: dict[str, Any] = {"features": features, "blocks": blocks}
            if name == "dsen2-s":  # ours
                options |= {"guide": True, "project": PROJECT[metres]}
            yield spec, build_later("dsen2:DSen2", inputs=spec.factors, **options)


def _carns() -> Iterator[Model]:
    # Per operation on a CPU, 64 channels in one group with a residual block for each
    # stage learn more than the published grouped and shared 256.
    small: dict[str, Any] = {"features": 64, "stages": 2, "groups": 1, "shared": False}
    small["skip"] = "regression"
    rows: tuple[tuple[str, int, dict[str, Any]], ...] = (
        ("carn", 12, {}),
        ("carn-1x3x64g4sw", 6, {"blocks": 1}),
        ("carn-2x3x64g4sw", 9, {"blocks": 2}),
        ("carn-4x3x64g4sw", 15, {"blocks": 4}),
        ("carn-3x3x64g4", 12, {"shared": False}),
        ("carn-3x3x64g1sw", 12, {"groups": 1}),
        ("carn-s", 11, small),
    )
    for name, margin, options in rows:
        spec = ModelSpec(
            name=name,
            title="CARN: ten bands at 5 m",
            cell=20,
            inputs=_groups((R10, 2), (R20, 1)),
            output=BandGroup(names=R10 + R20, per_cell=4),
            margin=margin,
            tile=183,
            fill=_means(EVOLAND),
            **_facts(name, "L2A", "Apache-2.0", AHN),
        )
        given = {"inputs": spec.factors} | _standard(spec, EVOLAND)
        yield spec, build_later("carn:CARN", **given, **options)


def _rrdbs() -> Iterator[Model]:
    ten, four, edge = ((R10, 2), (R20, 1)), ((R10, 1),), ((R20[:4], 1),)
    # Name, cell, groups, factor, blocks, margin, constants, of these what fills.
    rows: tuple[tuple[Any, ...], ...] = (
        ("rrdb", 20, ten, 2, 3, 26, EVOLAND, EVOLAND),
        ("rrdb-s2v2x2", 10, four, 2, 6, 94, EVOLAND, EVOLAND),
        ("rrdb-s2v2x4", 20, edge, 4, 5, 79, SLIPPED, EVOLAND),
        ("rrdb-wsx2", 10, four, 2, 6, 94, WORLDSTRAT, WORLDSTRAT),
        ("rrdb-wsx4", 10, four, 4, 6, 94, WORLDSTRAT, WORLDSTRAT),
    )
    for name, cell, groups, factor, blocks, margin, constants, fill in rows:
        made = tuple(b for names, _ in groups for b in names)
        per_cell = groups[0][1] * factor
        spec = ModelSpec(
            name=name,
            title=f"ESRGAN generator: {len(made)} bands at {cell / per_cell:g} m",
            cell=cell,
            inputs=_groups(*groups),
            output=BandGroup(names=made, per_cell=per_cell),
            margin=margin,
            tile=3660 // cell,
            fill={b: m for b, m in _means(fill).items() if b in made},
            **_facts(name, "L2A", "Apache-2.0", WANG),
        )
        given = {"inputs": spec.factors} | _standard(spec, constants)
        yield spec, build_later("rrdb:RRDBNet", factor=factor, blocks=blocks, **given)


def _l1b() -> Iterator[Model]:
    # Halos are a choice here, to be judged by the seams they leave: the convolutions of
    # REC look 413.5 px far, those of CSR about 122, flows of csr-s as far as there is.
    title = "REC: B, G, R, N aligned to G at 5 m"
    yield _raw("rec", title, per_cell=2, margin=32), build_later("rec:REC")
    spec = _raw("rec-s", title, per_cell=2, margin=64, align=16)
    yield spec, build_later("aligned_rec:AlignedREC")
    csr = {
        "csr": build_later("csr:CSR"),
        "csr-s": build_later("lucas_kanade:LucasKanade"),
    }
    for name, build in csr.items():
        spec = _raw(name, "CSR: B, R, N aligned to G", per_cell=1, margin=64, align=16)
        also = tuple(f"flow_{axis}_{b}" for b in R10 for axis in "yx")
        spec = replace(spec, also=also)
        yield spec, build


def _raw(
    name: str, title: str, *, per_cell: int, margin: int, align: int = 1
) -> ModelSpec:
    """Return the facts of a model of raw counts."""
    return ModelSpec(
        name=name,
        title=title,
        cell=10,
        inputs=_groups((R10, 1)),
        output=BandGroup(names=R10, per_cell=per_cell),
        margin=margin,
        tile=352,
        exact=False,
        units="count",
        align=align,
        **_facts(name, "L1B", "GPL-3.0-only", NGUYEN),
    )


def _facts(name: str, level: str, licence: str, citation: str) -> dict[str, Any]:
    """Return what is true of the published weights; ours have their own cards."""
    if name.endswith(("-s", "-s-20m", "-s-60m")):
        return {"citation": citation.partition(";")[0]}
    return {"levels": (level,), "licence": licence, "citation": citation}


def _groups(*groups: tuple[tuple[str, ...], int]) -> tuple[BandGroup, ...]:
    return tuple(BandGroup(names=names, per_cell=k) for names, k in groups)


def _means(constants: Constants) -> dict[str, float]:
    return {band: mean for band, (mean, _) in constants.items()}


def _standard(spec: ModelSpec, constants: Constants) -> dict[str, Any]:
    mean, std = zip(*(constants[b] for b in spec.bands), strict=True)
    return {"mean": mean, "std": std}


def build_later(place: str, **options: Any) -> Callable[..., nn.Module]:  # noqa: ANN401
    """Return a function that builds the network at `place` with these options.

    As an entry point, ``module:Class``, among the networks: what is not built is not
    imported.
    """
    return functools.partial(_ready, place, options)


def _ready(
    place: str,
    options: Mapping[str, Any],
    **more: Any,  # noqa: ANN401
) -> nn.Module:
    import torch

    network = named(f"networks.{place}")(**options, **more)
    # Channels-last kernels make channels-last images: 10-90 % faster on a CPU.
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def named(place: str) -> Any:  # noqa: ANN401
    """Return what ``module:name`` names in this package, imported when asked for."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"s2sr_xr.models.{module}"), name)
