"""Optimizers around another optimizer, which makes the update."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gpubackprop.backend import Array, HostArray
from gpubackprop.errors import UsageError
from gpubackprop.optim.optimizer import Optimizer, check_params, fit_keys
from gpubackprop.parameters import Parameters

T = TypeVar("T")


class Wrapper(Optimizer):
    """Holds the inner optimizer of the same params; schedules act on it through here, and so does a checkpoint."""

    def __init__(self, params: Parameters, optimizer: Optimizer) -> None:
        check_params(self, params)
        if optimizer.params is not params:
            raise UsageError(f"{type(self).__name__} and its inner optimizer hold the parameters of different models")
        super().__init__(params, optimizer.lr, momentum=optimizer.momentum)
        self.optimizer, self.has_momentum = optimizer, optimizer.has_momentum

    @property
    def copies(self) -> int:
        """Its own, and the inner one's."""
        return super().copies + self.optimizer.copies

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """None of its own."""
        return ()

    def prepare(self) -> None:
        """The host's half of a step, its own and the inner one's."""
        self.optimizer.lr, self.optimizer.momentum = self.lr, self.momentum
        super().prepare()
        self.optimizer.prepare()

    def counted(self) -> tuple[Any, ...]:
        """Its own, and the inner one's."""
        return super().counted(), self.optimizer.counted()

    def recount(self, counted: tuple[Any, ...]) -> None:
        """Its own, and the inner one's."""
        own, inner = counted
        super().recount(own)
        self.optimizer.recount(inner)

    def gradient(self, evaluate: Callable[[], T]) -> T:
        """The inner optimizer's."""
        return self.optimizer.gradient(evaluate)

    def update(self, ok: Array | None = None) -> None:
        """The inner optimizer's."""
        self.optimizer.update(ok)

    def state_dict(self) -> dict[str, HostArray]:
        """The inner optimizer's state, and its own."""
        return self.optimizer.state_dict() | super().state_dict()

    def load_state_dict(self, saved: Mapping[str, HostArray], steps: int) -> None:
        """Go on where another run stood after `steps` updates; raises CheckpointError where the state does not fit."""
        fit_keys(saved, self.state_dict(), f"{type(self).__name__} of {type(self.optimizer).__name__}")
        own = super().state_dict()
        self.optimizer.load_state_dict({key: array for key, array in saved.items() if key not in own}, steps)
        super().load_state_dict({key: saved[key] for key in own}, steps)
