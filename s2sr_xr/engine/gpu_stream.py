"""Copies and kernels of one thread on a GPU, in streams of their own."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[..., torch.Tensor]

__all__ = ["Cuda", "Event", "Port", "Stream", "T", "port_of"]

T = TypeVar("T")


Stream: TypeAlias = Literal["up", "work", "down"]
"""What a GPU does in order: copies to it, arithmetic, copies from it."""


class Event(Protocol):
    """A point in a stream."""

    def synchronize(self) -> None:
        """Wait, on the host, until the stream has come to it."""


class Port(Protocol):
    """The calls on one GPU on which order and safety hang."""

    def free(self) -> int:
        """Return the bytes that this process could still allocate."""

    def held(self) -> int:
        """Return the bytes of the tensors that this process has on the GPU."""

    def release(self) -> None:
        """Give back memory that is kept for later tensors."""

    def pinned(self, shape: Sequence[int]) -> torch.Tensor:
        """Return float32 memory of the host that copies can run during arithmetic."""

    def upload(self, host: torch.Tensor) -> torch.Tensor:
        """Begin to copy pinned memory up; return the copy."""

    def call(self, run: Run, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Begin to compute; return what will hold the result."""

    def download(self, made: torch.Tensor, host: torch.Tensor) -> None:
        """Begin to copy a result down into pinned memory."""

    def mark(self, stream: Stream) -> Event:
        """Return the point that follows all that was begun in a stream."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Let a stream begin nothing more before another has come to `event`."""

    def broke(self, error: RuntimeError) -> bool:
        """Return whether an error is the device's, not the network's."""


class Cuda:
    """The port of a real GPU.

    Tensors that two streams use are recorded in both, so that whatever is raised, their
    memory is not used again before both are done with it; of pinned memory torch
    itself keeps that account.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        stream: Callable[..., torch.cuda.Stream] = torch.cuda.Stream
        self.streams: dict[Stream, torch.cuda.Stream] = {
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
        with torch.cuda.stream(self.streams["up"]):
            image = host.to(self.device, non_blocking=True)
        image.record_stream(self.streams["work"])
        return image

    def call(self, run: Run, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Begin to compute."""
        with torch.cuda.stream(self.streams["work"]):
            made = run(*images)
        made.record_stream(self.streams["down"])
        return made

    def download(self, made: torch.Tensor, host: torch.Tensor) -> None:
        """Begin to copy down."""
        with torch.cuda.stream(self.streams["down"]):
            host.copy_(made, non_blocking=True)

    def mark(self, stream: Stream) -> Event:
        """Return an event of a stream."""
        # One that lets the processor go: other threads read and encode meanwhile.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.streams[stream].record_event(event)
        return event

    def wait(self, stream: Stream, event: Event) -> None:
        """Let a stream wait for an event."""
        assert isinstance(event, torch.cuda.Event)
        self.streams[stream].wait_event(event)

    def broke(self, error: RuntimeError) -> bool:
        """Return whether CUDA or one of its libraries raised."""
        said = str(error)
        return isinstance(error, torch.AcceleratorError) or any(
            name in said for name in ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS")
        )


@functools.cache
def port_of(device: str) -> Cuda:
    """Return the port of a GPU, one a process: its streams own the memory they use."""
    return Cuda(device)
