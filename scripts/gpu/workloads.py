"""The eight workloads of the GPU's benchmark: configs of the package and of the CPU's benchmark, larger."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from gpubackprop.run.bench.task import Task
from scripts.bench.workloads import Workload
from scripts.gpu import ROOT

CONFIGS = ROOT / "configs"
VOCABULARY = 50304  #: GPT-2's pieces, filled up to a multiple of 128
#: the first losses of a network in two programs stay together only where a step is small
SLOWLY = {"optimizer.lr": 1e-3}
_GPT = {
    "model.0.embedding": {"num_embeddings": VOCABULARY, "embedding_dim": 768},
    "model.1.learned_position.max_length": 1024,
    "model.2.repeat": {"times": 12, "layers": [{"gpt_block": {"num_heads": 12, "activation": "gelu_tanh"}}]},
    "model.4.linear": {"out_features": VOCABULARY, "bias": False},
}

WORKLOADS: dict[str, Workload] = {
    "digits_mlp": Workload(
        "digits_mlp", "digits_mlp, batch 64", (8, 8, 1), 10, images=True, overrides=SLOWLY, random=True, folder=CONFIGS
    ),
    "fashion_mlp": Workload(
        "fashion_mlp", "fashion_mlp, batch 128", (28, 28, 1), 10, images=True, random=True, folder=CONFIGS
    ),
    "big": Workload("big", "MLP 1024-4096-4096-1024, batch 4096", (1024,), 1024, batch=4096),
    "lenet": Workload("lenet", "LeNet-like, 28×28, batch 256", (28, 28, 1), 10, images=True, batch=256),
    "resnet20": Workload("resnet20", "ResNet-20, 32×32, batch 256", (32, 32, 3), 10, images=True, batch=256),
    "resnet18": Workload(
        *("resnet18", "ResNet-18, 32×32, batch 256", (32, 32, 3), 10),
        images=True,
        overrides=SLOWLY,
        batch=256,
        folder=CONFIGS,
    ),
    "lstm": Workload(
        *("lstm", "LSTM 2 × 512, T 128, batch 64", (128,), 65),
        characters=True,
        overrides={"model.1.lstm.hidden_size": 512},
        batch=64,
    ),
    "gpt": Workload(
        *("gpt", f"GPT 12 × 768, T 1024, batch 16, {VOCABULARY:,} pieces", (1024,), VOCABULARY),
        characters=True,
        overrides=_GPT,
        batch=16,
    ),
}
CONVOLUTIONAL = ("lenet", "resnet20", "resnet18")  #: those in which it matters how images lie in memory


@cache
def _made(name: str) -> tuple[Task, int]:
    return WORKLOADS[name].task()  # a GPT's weights take their time


def task_of(name: str, precision: str) -> tuple[Task, int]:
    """What both programs are given, its weights in float32, and the floating-point operations of a step."""
    task, flops = _made(name)
    return replace(task, config={**task.config, "precision": precision}), flops
