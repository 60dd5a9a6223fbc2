"""Optimizers over a model's flat buffers, learning-rate schedules, gradient clipping."""

from __future__ import annotations

from gpubackprop.optim.adam import Adam, AdamW
from gpubackprop.optim.clip import clip_norm, clip_value
from gpubackprop.optim.optimizer import Optimizer, optimizers
from gpubackprop.optim.plateau import Plateau
from gpubackprop.optim.rmsprop import RMSprop
from gpubackprop.optim.schedule import Constant, Cosine, Exponential, MultiStep, OneCycle, Schedule, Step, schedules
from gpubackprop.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Exponential",
    "MultiStep",
    "OneCycle",
    "Optimizer",
    "Plateau",
    "RMSprop",
    "Schedule",
    "Step",
    "clip_norm",
    "clip_value",
    "optimizers",
    "schedules",
]
