"""Images with halo in, image without halo out. The only place where a network runs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from s2sr_xr.core.tiling import Box, Span, cuts
from s2sr_xr.engine.allocator import on_main_heap
from s2sr_xr.engine.thread_team import TEAM, is_cuda, torch_threads
from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from s2sr_xr.engine.gpu_stream import Port
    from s2sr_xr.models.spec import ModelSpec

    Run = Callable[..., Any]

__all__ = ["predict", "torch_threads"]


def predict(
    run: Run,
    spec: ModelSpec,
    images: Sequence[NDArray[np.float32]],
    *,
    tile: tuple[int, int],
    batch: int | None = None,
    device: str = "cpu",
) -> list[NDArray[np.float32]]:
    """Run a network over images that carry their margin, tile by tile.

    Behaves like a *valid* convolution: the margin goes in and does not come out.

    Parameters
    ----------
    run
        Takes one float32 tensor ``(B, C, h, w)`` a band group, gives one
        ``(B, C, H, W)``, of the input's ground or any smaller centre of it that holds
        the tile. As `Predictor.load` gives it.
    spec
        The facts of the model.
    images
        One ``(C, (rows + 2 margin) * per_cell, (cols + 2 margin) * per_cell)`` a group,
        finite. Rows and columns, in cells, are whole multiples of `tile`.
    tile
        Rows and columns of cells that are written at once.
    batch
        The most tiles that run together on a GPU; None: as many as pay. Fewer where
        its memory asks for it. The CPU runs one tile at a time: more are no faster, and
        oneDNN changes its kernel, and with it the last bits, with the batch.
    device
        Where `run` lives.

    Returns
    -------
    One ``(rows * per_cell, cols * per_cell)`` a channel of the output, each in memory
    of its own: whoever keeps one does not keep them all.

    Raises
    ------
    ModelError
        The output is not finite, has the wrong shape, one tile does not fit the GPU, or
        the GPU failed.
    """
    shape = _cells(spec, images)
    assert not any(n % t for n, t in zip(shape, tile, strict=True)), (shape, tile)
    k = spec.output.per_cell
    size = (shape[0] * k, shape[1] * k)
    out = [np.empty(size, np.float32) for _ in spec.channels]
    todo = [Box(r, c) for r in cuts(shape[0], tile[0]) for c in cuts(shape[1], tile[1])]
    if is_cuda(device):
        from s2sr_xr.engine.gpu_stream import port_of

        results = on_gpu(port_of(device), run, spec, images, todo, batch, device)
    else:
        import torch

        def ready(box: Box) -> Callable[[], NDArray[np.float32]]:
            # The threads of this one, and those of blocks that are done.
            threads = TEAM.share(torch.get_num_threads())
            return functools.partial(_run, run, spec, images, box, device, threads)

        results = zip(todo, map(on_main_heap, map(ready, todo)), strict=True)
    for box, result in results:
        part = box.scale(k).slices_in(_whole(size))
        for image, made in zip(out, result, strict=True):
            image[part] = made
    if bad := sum(image.size - np.count_nonzero(np.isfinite(image)) for image in out):
        raise ModelError(
            f"{spec.name} gave {bad} values that are not finite from finite input. The "
            "weights are damaged, or the input is far from reflectance."
        )
    return out


def _cells(spec: ModelSpec, images: Sequence[NDArray[np.float32]]) -> tuple[int, int]:
    """Return rows and columns of cells without margin, the same for every group."""
    sizes = {
        tuple(n // g.per_cell - 2 * spec.margin for n in image.shape[1:])
        for g, image in zip(spec.inputs, images, strict=True)
    }
    assert len(sizes) == 1, sizes
    rows, cols = sizes.pop()
    return rows, cols


def _whole(shape: Sequence[int]) -> Box:
    return Box(Span(0, shape[0]), Span(0, shape[1]))


def _run(
    run: Run,
    spec: ModelSpec,
    images: Sequence[NDArray[np.float32]],
    box: Box,
    device: str,
    threads: int,
) -> NDArray[np.float32]:
    """Return the tile `box`, without margin."""
    import torch

    # A copy: a network may work in the memory of what it takes.
    tiles = [np.stack([tile]) for tile in _cut(spec, images, box)]
    with torch_threads(threads), torch.inference_mode():
        result = run(*(torch.from_numpy(tile).to(device) for tile in tiles))
    made: NDArray[np.float32] = _centre(spec, result, 1, box)[0].to("cpu").numpy()
    return made


def on_gpu(
    port: Port,
    run: Run,
    spec: ModelSpec,
    images: Sequence[NDArray[np.float32]],
    todo: Sequence[Box],
    batch: int | None,
    device: str,
) -> Iterator[tuple[Box, NDArray[np.float32]]]:
    """Yield each tile of `todo`, all of one size, and its result, through a `port`."""
    import torch

    from s2sr_xr.engine.consistency import Consistent
    from s2sr_xr.engine.gpu import in_batches
    from s2sr_xr.engine.gpu_memory import Resident, batch_size, tile_bytes

    def compute(*stacks: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            made = run(*stacks)
            return _centre(spec, made, len(stacks[0]), todo[0]).contiguous()

    inner = run.network if isinstance(run, Consistent) else run
    network = inner.network if isinstance(inner, Resident) else inner
    per_tile = tile_bytes(network, spec, todo[0].shape)
    k = spec.output.per_cell
    rows, cols = (n * k for n in todo[0].shape)
    return in_batches(
        port,
        compute,
        functools.partial(_cut, spec, images),
        todo,
        shape=(len(spec.channels), rows, cols),
        size=batch_size(port, per_tile, batch),
        name=f"{spec.name} on {device}",
    )


def _cut(
    spec: ModelSpec, images: Sequence[NDArray[np.float32]], box: Box
) -> list[NDArray[np.float32]]:
    """Return what the tile `box` takes of each image, its margin with it."""
    # The images start one margin before cell 0.
    seen = _read(box, spec.margin)
    wins = [seen.scale(group.per_cell) for group in spec.inputs]
    return [
        image[:, w.rows.start : w.rows.stop, w.cols.start : w.cols.stop]
        for w, image in zip(wins, images, strict=True)
    ]


def _read(tile: Box, margin: int) -> Box:
    """Return what `tile` reads, in cells of an image that starts at -margin."""
    return Box(
        tile.rows.grow(margin).shift(margin), tile.cols.grow(margin).shift(margin)
    )


def _centre(spec: ModelSpec, result: torch.Tensor, n: int, box: Box) -> torch.Tensor:
    """Return `n` results as large as the tile `box`, float32."""
    rows, cols = (side * spec.output.per_cell for side in box.shape)
    want = (n, len(spec.channels), rows, cols)
    shape = tuple(result.shape)
    excess = [have - need for have, need in zip(shape, want, strict=False)]
    if len(shape) != 4 or any(excess[:2]) or any(e < 0 or e % 2 for e in excess[2:]):
        raise ModelError(
            f"{spec.name} gave {shape} where {want} or the same with its margin is "
            "needed: the spec and the network disagree."
        )
    top, left = excess[2] // 2, excess[3] // 2
    return result[:, :, top : top + rows, left : left + cols].float()
