"""Watch gradients vanish: python -m scripts.vanishing_gradients

Two tables of gradient norms before any training. Down a tanh network of 50 layers (Bengio, Simard and Frasconi 1994;
Glorot and Bengio 2010): with other starting weights, residuals (He et al. 2015), and normalisation (Ioffe and Szegedy
2015, Ba et al. 2016). And back through time in recurrent networks (Hochreiter 1991; Le et al. 2015 for the IRNN), on
the adding problem: two of the many numbers of a sequence are marked, and their sum is wanted at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.nn.init import xavier_normal
from gpubackprop.nn.recurrent import Recurrent
from gpubackprop.tape import Tape

DEPTH, WIDTH, BATCH = 50, 64, 128
SHOWN = (1, 10, 20, 30, 40, 50)  # layers
HIDDEN, SEQUENCES = 64, 32
DISTANCES = (1, 25, 50, 100, 200, 400)  # steps from the end

Floats = npt.NDArray[np.float64]
Block = Callable[[], list[nn.Layer]]


def plain() -> list[nn.Layer]:
    """tanh(W x + b)."""
    return [nn.Linear(None, WIDTH), nn.Tanh()]


def residual() -> list[nn.Layer]:
    """x + tanh(W x + b)."""
    return [nn.Residual(plain())]


def normed(norm: Callable[[], nn.Layer]) -> Block:
    """tanh(norm(W x + b))."""
    return lambda: [nn.Linear(None, WIDTH), norm(), nn.Tanh()]


#: by what the table calls it: the block that is repeated, and the gain of Xavier's weights (None: PyTorch's own start)
NETWORKS: dict[str, tuple[Block, float | None]] = {
    "plain, PyTorch's start": (plain, None),
    "plain, Xavier": (plain, 1.0),
    "plain, 3 × Xavier": (plain, 3.0),
    "batch norm": (normed(nn.BatchNorm), None),
    "layer norm": (normed(nn.LayerNorm), None),
    "residual": (residual, None),
    "residual, Xavier": (residual, 1.0),
}

RECURRENT: dict[str, Callable[[], Recurrent]] = {
    "rnn (tanh)": lambda: nn.RNN(None, HIDDEN),
    "gru": lambda: nn.GRU(None, HIDDEN),
    "lstm": lambda: nn.LSTM(None, HIDDEN),
    "lstm, forget bias 1": lambda: nn.LSTM(None, HIDDEN, forget_bias=1.0),
    "lstm, forget bias 5": lambda: nn.LSTM(None, HIDDEN, forget_bias=5.0),
    "IRNN": lambda: nn.RNN(None, HIDDEN, nonlinearity="relu", init="identity"),
}


def layer_norms(block: Block, gain: float | None, depth: int = DEPTH) -> list[float]:
    """The norm of the gradient of each layer's weight, the first layer's first."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(BATCH, WIDTH)), rng.integers(0, 10, BATCH)
    blocks = [layer for _ in range(depth) for layer in block()]
    model = nn.Sequential(*blocks, nn.Linear(None, 10)).build((WIDTH,), precision="float64")
    weights = [key for key, array in model.state_dict().items() if array.ndim == 2][:depth]
    if gain is not None:
        init = xavier_normal(WIDTH, WIDTH)
        model.load_state_dict(model.state_dict() | {key: gain * init(rng, (WIDTH, WIDTH)) for key in weights})
    _, grads = gbp.value_and_grad(model, nn.CrossEntropyLoss(), x, target)
    return [float(np.linalg.norm(grads[key])) for key in weights]


def state_norms(make: Callable[[], Recurrent], distances: Sequence[int] = DISTANCES) -> list[float]:
    """The norm of the gradient of the state (of an lstm h and c) so many steps before the end of the sequence."""
    x, target = adding_problem(np.random.default_rng(0), SEQUENCES, max(distances) + 1)
    layer, top = make(), nn.Linear(None, 1)
    backend = nn.Sequential(layer, top).build(x.shape[1:], precision="float64").built.backend
    found = []
    for distance in distances:
        tape = Tape(backend, training=True, recording=True)
        _, [past] = layer.run(tape.input(x[:, :-distance]))
        # Put on the tape anew: what comes back to it is the gradient through the rest of the sequence.
        state = tuple(tape.input(each.value, needs_grad=True) for each in past)
        _, [end] = layer.run(tape.input(x[:, -distance:]), [state])
        total, _ = nn.MSELoss().forward(top.forward(end[0]), target)
        tape.backward(total)
        grads: list[Any] = [each.grad for each in state]
        found.append(float(np.linalg.norm(np.stack(grads)) / len(x)))
    return found


def adding_problem(rng: np.random.Generator, samples: int, length: int) -> tuple[Floats, Floats]:
    """x (N, T, 2): numbers in [0, 1) and marks, one in each half; target (N, 1): the sum of the two marked numbers."""
    x = np.zeros((samples, length, 2))
    x[..., 0] = rng.random((samples, length))
    for start in (0, length // 2):
        x[np.arange(samples), rng.integers(start, start + length // 2, samples), 1] = 1
    return x, x.prod(axis=2).sum(axis=1, keepdims=True)


def table(title: str, heads: Sequence[object], rows: dict[str, list[float]]) -> str:
    """A Markdown table."""
    lines = [f"| {title} | {' | '.join(map(str, heads))} |", f"|{'---|' * (len(heads) + 1)}"]
    lines += [f"| {name} | {' | '.join(f'{norm:.0e}' for norm in norms)} |" for name, norms in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Print both tables, as they stand in the README."""
    norms = {name: layer_norms(*network) for name, network in NETWORKS.items()}
    print(table("gradient of the weights of layer", SHOWN, {k: [v[i - 1] for i in SHOWN] for k, v in norms.items()}))
    print()
    states = {name: state_norms(make) for name, make in RECURRENT.items()}
    print(table("gradient of the state, steps before the end", DISTANCES, states))


if __name__ == "__main__":
    main()
