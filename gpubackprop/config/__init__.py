"""Configs: one YAML file, checked against the signatures of the classes that it names."""

from gpubackprop.config.component import Component
from gpubackprop.config.config import Config, Kinds, load_config
from gpubackprop.config.document import Problems
from gpubackprop.config.training import Training

__all__ = ["Component", "Config", "Kinds", "Problems", "Training", "load_config"]
