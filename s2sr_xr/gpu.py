"""Batches of tiles through a network on a GPU, with copies and arithmetic overlapped.

Three lanes run beside each other: while one batch is computed, the one before is copied
down and the one after is cut into pinned memory and copied up. Two slots of pinned
memory take turns, and none is touched before the event that ends its use. All calls on
which order and safety hang stand behind `Port`, so that the rest runs without a GPU.

Networks run as they are written, neither compiled nor captured as graphs: a batch of
tiles is a few dozen kernels that run far longer than they take to launch.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
import warnings
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import torch

from s2sr_xr.errors import ModelError, S2SRWarning
from s2sr_xr.models.cost import cost_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from s2sr_xr.models.spec import ModelSpec

    Run = Callable[..., torch.Tensor]

__all__ = [
    "Cuda",
    "Event",
    "Port",
    "Resident",
    "batch_size",
    "check_precision",
    "in_batches",
    "port_of",
    "tile_bytes",
]

T = TypeVar("T")

Lane: TypeAlias = Literal["up", "work", "down"]
"""What a GPU does in order: copies to it, arithmetic, copies from it."""

MEMORY = 7 << 30
"""Bytes that this library takes of a GPU unless told otherwise; with what the driver
and its libraries hold, that is below 8 GiB. Other processes may share the rest."""

BATCH = 4
"""Tiles that run together where nothing else is said. One of 366 px already fills a
GPU; more hide the launching, fewer shorten the first and last copy of a block."""

ROOM = 2
"""How much more than its tensors a batch takes: workspaces of the convolutions, the
other slot's images and results, and what lies between blocks of the allocator."""


class Event(Protocol):
    """A point in a lane."""

    def synchronize(self) -> None:
        """Wait, on the host, until the lane has come to it."""


class Port(Protocol):
    """The calls on one GPU on which order and safety hang."""

    def free(self) -> int:
        """Return the bytes that this process could still allocate."""

    def held(self) -> int:
        """Return the bytes of the tensors that this process has on the GPU."""

    def release(self) -> None:
        """Give back memory that is kept for later tensors."""

    def pinned(self, shape: Sequence[int]) -> torch.Tensor:
        """Return float32 memory of the host that copies can run beside arithmetic."""

    def upload(self, host: torch.Tensor) -> torch.Tensor:
        """Begin to copy pinned memory up; return the copy."""

    def call(self, run: Run, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Begin to compute; return what will hold the result."""

    def download(self, made: torch.Tensor, host: torch.Tensor) -> None:
        """Begin to copy a result down into pinned memory."""

    def mark(self, lane: Lane) -> Event:
        """Return the point that follows all that was begun in a lane."""

    def wait(self, lane: Lane, event: Event) -> None:
        """Let a lane begin nothing more before another has come to `event`."""

    def broke(self, error: RuntimeError) -> bool:
        """Return whether an error is the device's, not the network's."""


class Cuda:
    """The port of a real GPU.

    Tensors that two lanes use are recorded in both, so that whatever is raised, their
    memory is not used again before both are done with it; of pinned memory torch
    itself keeps that account.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        stream: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
        self.lanes: dict[Lane, torch.cuda.Stream] = {
            "up": stream(self.device),
            "work": torch.cuda.default_stream(self.device),
            "down": stream(self.device),
        }

    def free(self) -> int:
        """Return what the driver has, and what torch keeps for later tensors."""
        unused, _ = torch.cuda.mem_get_info(self.device)
        return unused + torch.cuda.memory_reserved(self.device) - self.held()

    def held(self) -> int:
        """Return the bytes of tensors."""
        return torch.cuda.memory_allocated(self.device)

    def release(self) -> None:
        """Give back memory that torch keeps."""
        with torch.cuda.device(self.device):
            torch.cuda.empty_cache()

    def pinned(self, shape: Sequence[int]) -> torch.Tensor:
        """Return page-locked memory; torch keeps it for the next block."""
        with torch.cuda.device(self.device):  # or GPU 0 is woken up for it
            return torch.empty(tuple(shape), pin_memory=True)

    def upload(self, host: torch.Tensor) -> torch.Tensor:
        """Begin to copy up."""
        with torch.cuda.stream(self.lanes["up"]):
            image = host.to(self.device, non_blocking=True)
        image.record_stream(self.lanes["work"])
        return image

    def call(self, run: Run, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Begin to compute."""
        with torch.cuda.stream(self.lanes["work"]):
            made = run(*images)
        made.record_stream(self.lanes["down"])
        return made

    def download(self, made: torch.Tensor, host: torch.Tensor) -> None:
        """Begin to copy down."""
        with torch.cuda.stream(self.lanes["down"]):
            host.copy_(made, non_blocking=True)

    def mark(self, lane: Lane) -> Event:
        """Return an event of a stream."""
        # One that lets the processor go: other threads read and encode meanwhile.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.lanes[lane].record_event(event)
        return event

    def wait(self, lane: Lane, event: Event) -> None:
        """Let a stream wait for an event."""
        assert isinstance(event, torch.cuda.Event)
        self.lanes[lane].wait_event(event)

    def broke(self, error: RuntimeError) -> bool:
        """Return whether CUDA or one of its libraries raised."""
        told = str(error)
        return isinstance(error, torch.AcceleratorError) or any(
            name in told for name in ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS")
        )


@functools.cache
def port_of(device: str) -> Cuda:
    """Return the port of a GPU, one a process: its streams own the memory they use."""
    return Cuda(device)


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

    torch rounds them to TF32 on a GPU unless told otherwise. Its switch is the whole
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A network on a GPU, run in one arithmetic, with images channels last."""

    network: Any
    """The network itself, or a function of tensors."""

    run: Run
    """What of it is run."""

    precision: str = "float32"
    """Arithmetic; for "bf16" the network was lowered before."""

    def __call__(self, *images: torch.Tensor) -> torch.Tensor:
        """Return what `run` gives of one ``(B, C, h, w)`` a band group."""
        last = [i.contiguous(memory_format=torch.channels_last) for i in images]
        with arithmetic(self.precision):
            return self.run(*last)


def settle(network: Any, device: str) -> None:  # noqa: ANN401 - a module or function
    """Lay the weights of a network out channels last, and wait until they lie there."""
    if isinstance(network, torch.nn.Module):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.cuda.synchronize(device)


@functools.lru_cache(maxsize=64)
def tile_bytes(
    network: Any,  # noqa: ANN401 - a module, or any function of tensors
    spec: ModelSpec,
    tile: tuple[int, int],
) -> int | None:
    """Return the bytes of the tensors that a tile of `tile` cells takes at once.

    None, with a warning, for a network that does not run on tensors without pixels.
    """
    try:
        return cost_of(_ghost(network), spec, tile).activations
    except (NotImplementedError, RuntimeError) as error:
        warnings.warn(
            f"What {spec.name} takes of a GPU cannot be told beforehand "
            f"({_first_line(error)}): its tiles run one by one. Make its forward() run "
            "on meta tensors.",
            S2SRWarning,
            stacklevel=2,
        )
        return None


def _ghost(network: Any) -> Any:  # noqa: ANN401
    """Return a copy of a network without its numbers, for `cost_of` to use up."""
    if not isinstance(network, torch.nn.Module):
        return network
    tensors = (*network.parameters(), *network.buffers())
    empty: dict[int, Any] = {}
    for t in tensors:
        bare = t.detach().to("meta")
        is_weight = isinstance(t, torch.nn.Parameter)
        empty[id(t)] = torch.nn.Parameter(bare, False) if is_weight else bare
    return copy.deepcopy(network, empty)


def batch_size(port: Port, per_tile: int | None, ceiling: int | None) -> int:
    """Return how many tiles run together: what is free now, and shared, allows.

    Parameters
    ----------
    port
        The GPU.
    per_tile
        Bytes of the tensors of one tile; None where they are not known.
    ceiling
        What the user allows; None: `BATCH`.
    """
    if per_tile is None:
        return 1
    room = min(port.free(), MEMORY - port.held())
    return max(1, min(ceiling or BATCH, room // max(1, ROOM * per_tile)))


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
            f"{name} failed: {_first_line(error)}. This process cannot use the GPU any "
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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
