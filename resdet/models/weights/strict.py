"""Tensors by name, loaded only if every name and shape agrees."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from resdet.errors import UserError, listed


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `network`; every name and shape must agree.

    Raises UserError that lists what is missing, unexpected or of another shape. A module's own count of batches
    seen may be absent.
    """
    check_names(network.state_dict(), state, source)
    network.load_state_dict(dict(state), strict=False)


def check_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError that lists what `state` lacks of `own`, has besides it, or has in another shape."""
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    complaints = [
        f"{title} {listed(names)}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if complaints:
        raise UserError(f"{source} does not fit this network: {'; '.join(complaints)}.")
