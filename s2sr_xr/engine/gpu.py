"""Batches of tiles through a network on a GPU, with copies and arithmetic overlapped.

Three streams run side by side: while one batch is computed, the one before is copied
down and the one after is cut into pinned memory and copied up. Two slots of pinned
memory take turns, and none is touched before the event that ends its use. All calls on
which order and safety hang stand behind `Port`, so that the rest runs without a GPU.

Networks run as they are written, neither compiled nor captured as graphs: a batch of
tiles is a few dozen kernels that run far longer than they take to launch.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.engine.gpu_stream import Event, Port, T

    Run = Callable[..., torch.Tensor]

__all__ = ["check_precision", "first_line", "in_batches"]


def check_precision(precision: str, device: str) -> None:
    """Raise a ModelError if a device has no such arithmetic."""
    if not device.startswith("cuda"):
        if precision == "tf32":
            raise ModelError(
                f'precision="tf32" is arithmetic of a CUDA GPU, and this process runs '
                f'the network on {device}. Use "float32" or "bf16", or device="cuda".'
            )
        return
    capability = torch.cuda.get_device_capability(device)
    if precision != "float32" and capability < (8, 0):
        raise ModelError(
            f"{device} has compute capability {'.'.join(map(str, capability))}; "
            f'precision="{precision}" needs 8.0. Use precision="float32".'
        )


_SWITCH = threading.RLock()


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Let convolutions of float32 images be what is asked for while they are begun.

    torch rounds them to TF32 on a GPU unless asked not to. Its switch is the whole
    process's and is read when a kernel is begun, not when it runs: one thread at a time
    begins a batch, and leaves the switch as it was. That of matrix products, which no
    network here has, is not touched.
    """
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    with _SWITCH:
        before = convolutions.fp32_precision
        convolutions.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        try:
            yield
        finally:
            convolutions.fp32_precision = before


@dataclass(slots=True)
class _Slot:
    """Pinned memory for one batch."""

    given: list[torch.Tensor]
    """What goes up, one stack a band group."""

    made: torch.Tensor
    """What comes down."""

    over: Event | None = None
    """The end of its use by the batch it holds."""


def in_batches(
    port: Port,
    run: Run,
    cut: Callable[[T], Sequence[NDArray[Any]]],
    todo: Sequence[T],
    *,
    shape: tuple[int, int, int],
    size: int,
    name: str,
) -> Iterator[tuple[T, NDArray[Any]]]:
    """Yield each tile and its result, in order.

    Parameters
    ----------
    port
        The GPU.
    run
        Takes one float32 ``(B, C, h, w)`` a band group, gives a contiguous float32
        ``(B, *shape)``, all on the GPU.
    cut
        Returns one ``(C, h, w)`` a band group for a tile, the same size for each.
    todo
        The tiles.
    shape
        Of a tile's result.
    size
        Tiles that run together. Out of memory, it is halved.
    name
        Of the model and its device, for messages.

    Yields
    ------
    A tile and its result: memory that is used again, to be copied before the next.

    Raises
    ------
    ModelError
        One tile does not fit the GPU, or the GPU failed.
    """
    try:
        yield from _in_turns(port, run, cut, todo, shape, size)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{name} has no room for one tile. Free memory of this GPU, or use "
            'device="cpu".'
        ) from error
    except RuntimeError as error:
        if not port.broke(error):
            raise
        raise ModelError(
            f"{name} failed: {first_line(error)}. This process cannot use the GPU any "
            'more: start it, or its Dask worker, again, or use device="cpu". If it '
            "fails again, look at the driver's log."
        ) from error


def _in_turns(
    port: Port,
    run: Run,
    cut: Callable[[T], Sequence[NDArray[Any]]],
    todo: Sequence[T],
    shape: tuple[int, int, int],
    size: int,
) -> Iterator[tuple[T, NDArray[Any]]]:
    size = min(size, len(todo))
    spare = [_slot(port, cut(todo[0]), shape, size) for _ in range(2)]
    flying: deque[tuple[Sequence[T], _Slot]] = deque()
    while todo or flying:
        if todo and spare:
            now, slot = todo[:size], spare.pop()
            for n, tile in enumerate(now):
                for stack, image in zip(slot.given, cut(tile), strict=True):
                    stack.numpy()[n] = image
            if _begun(port, run, slot, len(now), alone=size == 1 and not flying):
                flying.append((now, slot))
                todo = todo[len(now) :]
                continue
            size = max(1, size // 2)
            spare.append(slot)
            while flying:
                yield from _landed(flying, spare)
            port.release()
        else:
            yield from _landed(flying, spare)


def _slot(
    port: Port, images: Sequence[NDArray[Any]], shape: tuple[int, int, int], size: int
) -> _Slot:
    given = [port.pinned((size, *image.shape)) for image in images]
    return _Slot(given, port.pinned((size, *shape)))


def _begun(port: Port, run: Run, slot: _Slot, n: int, *, alone: bool) -> bool:
    """Begin a batch of `n` tiles; return False if there is no memory for it now.

    Raises
    ------
    torch.OutOfMemoryError
        There is none, and nothing else of ours is on the GPU.
    """
    try:
        images = [port.upload(stack[:n]) for stack in slot.given]
        port.wait("work", port.mark("up"))
        made = port.call(run, images)
        port.wait("down", port.mark("work"))
        port.download(made, slot.made[:n])
    except torch.OutOfMemoryError:
        if alone:
            raise
        # What was begun still reads the slot, which is filled again.
        port.mark("up").synchronize()
        return False
    slot.over = port.mark("down")
    return True


def _landed(
    flying: deque[tuple[Sequence[T], _Slot]], spare: list[_Slot]
) -> Iterator[tuple[T, NDArray[Any]]]:
    """Yield the results of the oldest batch; its slot is spare afterwards."""
    tiles, slot = flying.popleft()
    assert slot.over is not None
    slot.over.synchronize()
    yield from zip(tiles, slot.made.numpy(), strict=False)
    spare.append(slot)


def first_line(error: Exception) -> str:
    """Return what an error says first, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]
