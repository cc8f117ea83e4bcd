"""Names of devices: what "auto" means here, and whether one is a GPU of CUDA."""

from __future__ import annotations

from s2sr_xr.errors import ModelError

__all__ = ["is_cuda", "resolve"]


def is_cuda(device: str) -> bool:
    """Return whether a device is a GPU of CUDA."""
    return device.startswith("cuda")


def resolve(device: str) -> str:
    """Return the device that "auto" means here, or `device` if it exists.

    Raises
    ------
    ModelError
        The device is not there.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=device)
        probe.cpu()  # "meta" makes tensors that hold nothing
        found = probe.device
    except (RuntimeError, AssertionError) as err:
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ModelError(
            f"device={device!r} is not usable ({str(err).splitlines()[0]}): torch "
            f"{torch.__version__} sees {seen} CUDA devices. Use "
            'device="auto" or "cpu", or start the process again if it worked before.'
        ) from err
    # One name for one device: loaded networks are kept by it.
    return "cpu" if found.type == "cpu" else str(found)
