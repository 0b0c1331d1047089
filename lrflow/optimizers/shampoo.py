"""pytorch-optimizer's Shampoo with a state that checkpoints can hold."""

from __future__ import annotations

from typing import Any

from pytorch_optimizer import ScalableShampoo
from pytorch_optimizer.optimizer.utils.graft import build_graft
from pytorch_optimizer.optimizer.utils.preconditioner import PreConditioner
from torch import Tensor

__all__ = ["Shampoo"]

_SAVED = {"pre_conditioner": ("statistics", "pre_conditioners"), "graft": ("momentum", "statistics")}
"""The attributes of the library's objects that change during training."""


class Shampoo(ScalableShampoo):
    """Shampoo in blocks, with grafting (Gupta et al., 2018, arXiv 1802.09568; Anil et al., 2021, arXiv 2002.09018).

    The library (4.1) keeps Python objects in its state, which a checkpoint of plain data cannot hold. Here their
    tensors are saved, and the objects are rebuilt from them.

    Args:
        params: parameters or groups of them.
        options: see `pytorch_optimizer.ScalableShampoo`.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and lists of tensors."""
        saved = super().state_dict()
        saved["state"] = {number: _plain(state) for number, state in saved["state"].items()}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for parameter in group["params"]:
                if state := self.state.get(parameter):
                    self._restore(parameter, state, group["betas"][1])

    def _restore(self, parameter: Tensor, state: dict[str, Any], beta2: float) -> None:
        made = {
            "pre_conditioner": PreConditioner(
                parameter,
                beta2,
                self.inverse_exponent_override,
                self.block_size,
                self.skip_preconditioning_rank_lt,
                self.no_preconditioning_for_layers_with_dim_gt,
                self.shape_interpretation,
                self.pre_conditioner_type,
                self.matrix_eps,
                self.use_svd,
            ),
            "graft": build_graft(parameter, self.graft_type, self.diagonal_eps),
        }
        for name, whole in made.items():
            for attribute, value in state[name].items():
                setattr(whole, attribute, value)
            state[name] = whole


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {attribute: getattr(value, attribute) for attribute in _SAVED[name] if hasattr(value, attribute)}
        if name in _SAVED
        else value
        for name, value in state.items()
    }
