"""Optimizers over a model's flat buffers, learning-rate schedules, gradient clipping."""

from __future__ import annotations

from gpubackprop.optim.adadelta import Adadelta
from gpubackprop.optim.adagrad import Adagrad
from gpubackprop.optim.adam import Adam, AdamW
from gpubackprop.optim.average import WeightAverage
from gpubackprop.optim.clip import clip_norm, clip_value
from gpubackprop.optim.group import Group
from gpubackprop.optim.lamb import LAMB
from gpubackprop.optim.lion import Lion
from gpubackprop.optim.lookahead import Lookahead
from gpubackprop.optim.muon import Muon
from gpubackprop.optim.nadam import NAdam
from gpubackprop.optim.noise import GradientNoise
from gpubackprop.optim.optimizer import Optimizer, optimizers
from gpubackprop.optim.plateau import Plateau
from gpubackprop.optim.radam import RAdam
from gpubackprop.optim.rmsprop import RMSprop
from gpubackprop.optim.sam import SAM
from gpubackprop.optim.scale import LossScale
from gpubackprop.optim.schedule import Constant, Cosine, Exponential, MultiStep, OneCycle, Schedule, Step, schedules
from gpubackprop.optim.sgd import SGD

__all__ = [
    "LAMB",
    "SAM",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Exponential",
    "GradientNoise",
    "Group",
    "Lion",
    "Lookahead",
    "LossScale",
    "MultiStep",
    "Muon",
    "NAdam",
    "OneCycle",
    "Optimizer",
    "Plateau",
    "RAdam",
    "RMSprop",
    "Schedule",
    "Step",
    "WeightAverage",
    "clip_norm",
    "clip_value",
    "optimizers",
    "schedules",
]
