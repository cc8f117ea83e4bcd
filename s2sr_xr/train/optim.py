"""Muon for the kernels of convolutions: more is learnt in as many steps than by Adam.

References
----------
Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks: steps are
made orthogonal; a kernel is a matrix of features out by all that it looks at.
Liu et al. (2025), Muon is scalable for LLM training: step sizes as for Adam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from s2sr_xr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Muon", "optimiser_of"]

FEW = 4
"""A kernel with fewer output channels is left to Adam."""


class Muon(torch.optim.Optimizer):
    """Kernels by `torch.optim.Muon`, which knows matrices only; all else by Adam.

    Parameters
    ----------
    params
        Weights of a network.
    lr
        Step size, for both: root mean square of a kernel's steps is a fifth of it.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float = 1e-3) -> None:
        self.known = [p for p in params if p.requires_grad]
        self.kernels = [p for p in self.known if p.ndim > 1 and len(p) >= FEW]
        matrices = {id(p) for p in self.kernels}
        others = [p for p in self.known if id(p) not in matrices]
        self.flat = [
            torch.nn.Parameter(p.detach().flatten(1).clone()) for p in self.kernels
        ]
        self.parts: list[torch.optim.Optimizer] = []
        if self.flat:
            same = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
            self.parts.append(torch.optim.Muon(self.flat, lr=lr, **same))  # type: ignore[arg-type]
        if others:
            self.parts.append(torch.optim.Adam(others, lr=lr))
        super().__init__(self.known, {"lr": lr})
        self._share()

    def _share(self) -> None:
        self.param_groups = [g for part in self.parts for g in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make one step; there is no closure."""
        assert closure is None
        for kernel, flat in zip(self.kernels, self.flat, strict=True):
            flat.copy_(kernel.flatten(1))
            flat.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for part in self.parts:
            part.step()
        for kernel, flat in zip(self.kernels, self.flat, strict=True):
            kernel.copy_(flat.view(kernel.shape))

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002
        """Forget the gradients."""
        for p in self.known:
            if set_to_none or p.grad is None:
                p.grad = None
            else:
                p.grad.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return what the next steps depend on."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "muon": Muon,
}
"""How gradients become steps, by what recipes say."""


def optimiser_of(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Return what a recipe names.

    Raises
    ------
    ModelError
        It is not known.
    """
    if name not in OPTIMISERS:
        raise ModelError(f"optimiser is {' or '.join(OPTIMISERS)}; got {name!r}.")
    return OPTIMISERS[name]
