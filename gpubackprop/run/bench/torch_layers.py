"""A config's layers as PyTorch's, under the same keys of the state dict; for a process that runs PyTorch alone.

Inside, tensors lie as PyTorch has them: images (N, C, H, W); sequences stay (N, T, D).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from gpubackprop.run.bench.process import CannotError

Module: TypeAlias = Any
Options: TypeAlias = dict[str, Any]

#: layers all of whose options are PyTorch's, and PyTorch's class; on tensors of any rank
_SAME = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "selu": "SELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "mish": "Mish",
    "tanh": "Tanh",
    "hardtanh": "Hardtanh",
    "relu6": "ReLU6",
    "sigmoid": "Sigmoid",
    "hardsigmoid": "Hardsigmoid",
    "hardswish": "Hardswish",
    "softplus": "Softplus",
    "dropout": "Dropout",
    "flatten": "Flatten",
    "max_pool2d": "MaxPool2d",
    "avg_pool2d": "AvgPool2d",
    "adaptive_avg_pool2d": "AdaptiveAvgPool2d",
}
#: layers whose first argument there is a size of the input: the axis of their weight that tells it
_SIZED = {"linear": ("Linear", 1), "conv2d": ("Conv2d", 1), "conv_transpose2d": ("ConvTranspose2d", 0)}
_LAST_AXIS = ("linear", "layer_norm", "rms_norm")  # ours are over C of images, PyTorch's over W
_ROWS = ("flatten", "global_avg_pool2d", "global_max_pool2d", "global_avg_pool1d", "global_max_pool1d")


class Translation:
    """From a config's entries and a state dict to modules. `rank` is that of the tensor between two layers."""

    def __init__(self, torch: Any, weights: Mapping[str, Any], rank: int) -> None:
        self.torch, self.nn, self.weights, self.rank = torch, torch.nn, weights, rank
        self.named: dict[str, Module] = {}
        self.saved: dict[str, Any] = {}  # tensors of the forward pass under way
        self._make: dict[str, Callable[[str, Options], Module]] = {
            **{
                name: getattr(self, f"_{name}") for name in ("batch_norm", "embedding", "gpt_block", "learned_position")
            },
            **{name: getattr(self, f"_{name}") for name in ("residual", "sequential", "repeat", "parallel")},
            **{name: self._recurrent for name in ("rnn", "lstm", "gru")},
            **{name: partial(self._sized, kind=kind, axis=axis) for name, (kind, axis) in _SIZED.items()},
            **{name: self._norm for name in ("layer_norm", "rms_norm")},
            "tied_linear": self._tied_linear,
            "conv1d": self._conv1d,
            "global_avg_pool2d": lambda path, options: self._function(lambda x: x.mean((2, 3))),
            "global_max_pool2d": lambda path, options: self._function(lambda x: x.amax((2, 3))),
            "global_avg_pool1d": lambda path, options: self._function(lambda x: x.mean(1)),
            "global_max_pool1d": lambda path, options: self._function(lambda x: x.amax(1)),
            "pad_channels": self._pad_channels,
            "save": lambda path, options: self._function(lambda x: self.saved.setdefault(options["tensor"], x)),
            "add": lambda path, options: self._function(lambda x: x + self.saved[options["tensor"]]),
            "concat": lambda path, options: self._function(
                lambda x, axis=self.channels: self.torch.cat([x, self.saved[options["tensor"]]], axis)
            ),
        }

    @property
    def channels(self) -> int:
        """The axis of channels or features."""
        return 1 if self.rank == 4 else -1

    def model(self, entries: Sequence[Any]) -> Module:
        """The whole model, float32 or float64 as the weights, which it has. Raises CannotError that names the layer."""
        model = self._chain("", entries)
        floats = next((w.dtype for w in self.weights.values() if w.dtype.kind == "f"), None)
        if floats is not None:
            model.to(getattr(self.torch, floats.name))
        model.load_state_dict({key: self.torch.from_numpy(value.copy()) for key, value in self.weights.items()})
        model.register_forward_pre_hook(lambda *_: self.saved.clear())
        return model

    def _chain(self, path: str, entries: Sequence[Any]) -> Module:
        layers = [next(iter(each.items())) if isinstance(each, Mapping) else (each, {}) for each in entries]
        keys = [options.get("name") or str(number) for number, (_, options) in enumerate(layers)]
        chain = self.nn.Sequential()
        for key, (kind, options) in zip(keys, layers, strict=True):
            chain.add_module(key, self._layer(f"{path}{key}.", kind, {k: _tuple(v) for k, v in options.items()}))
            self.named[key] = chain[-1]
        return chain

    def _layer(self, path: str, kind: str, options: Options) -> Module:
        options.pop("name", None)
        if options.pop("recompute", False):
            raise CannotError(f"{path}{kind}: recompute has no twin here")
        if self.rank == 4 and (kind in _LAST_AXIS):
            raise CannotError(f"{path}{kind} over the channels of images has no twin here")
        try:
            if kind in self._make:
                layer = self._make[kind](path, options)
            elif kind in _SAME:
                layer = getattr(self.nn, _SAME[kind])(**options)
            else:
                raise CannotError(f"{path}{kind} has no twin here")
        except (TypeError, ValueError, KeyError) as error:
            raise CannotError(f"{path}{kind} has no twin here: {error}") from error
        if kind in _ROWS:
            self.rank = 2
        return layer

    def _sized(self, path: str, options: Options, kind: str, axis: int) -> Module:
        for name in ("in_features", "in_channels"):
            options.pop(name, None)
        groups = options.get("groups", 1) if axis else 1
        return getattr(self.nn, kind)(self.weights[f"{path}weight"].shape[axis] * groups, **options)

    def _norm(self, path: str, options: Options) -> Module:
        options.pop("normalized_shape", None)
        kind = self.nn.LayerNorm if "bias" in options else self.nn.RMSNorm
        return kind(self.weights[f"{path}weight"].shape, **options)

    def _batch_norm(self, path: str, options: Options) -> Module:
        options.pop("num_features", None)
        count = len(self.weights[f"{path}weight"])
        if self.rank == 3:
            return self._moved(self.nn.BatchNorm1d)(count, **options)
        return (self.nn.BatchNorm2d if self.rank == 4 else self.nn.BatchNorm1d)(count, **options)

    def _conv1d(self, path: str, options: Options) -> Module:
        options.pop("in_channels", None)
        size = self.weights[f"{path}weight"].shape[1] * options["groups"]
        return self._moved(self.nn.Conv1d)(size, **options)

    def _moved(self, kind: Any) -> Any:
        """A class whose sequences are (N, T, C), where PyTorch has (N, C, T)."""

        def forward(module: Any, x: Any) -> Any:
            return kind.forward(module, x.transpose(1, 2)).transpose(1, 2)

        return type(kind.__name__, (kind,), {"forward": forward})

    def _embedding(self, path: str, options: Options) -> Module:
        options.pop("std", None)
        self.rank += 1
        return self.nn.Embedding(**options)

    def _recurrent(self, path: str, options: Options) -> Module:
        last = options.pop("last")
        options.pop("forget_bias", None)  # starting weights are ours
        options.pop("init", None)
        if options.pop("stateful") or options.pop("initial") is not None:
            raise ValueError("stateful and initial are not written for PyTorch")
        options.pop("input_size", None)
        weight = self.weights[f"{path}weight_ih_l0"]
        gates, directions = len(weight) // options["hidden_size"], 2 if options["bidirectional"] else 1
        kind = {1: self.nn.RNN, 3: self.nn.GRU, 4: self.nn.LSTM}[gates]
        if last:
            self.rank = 2
        cat = self.torch.cat

        def forward(module: Any, x: Any) -> Any:
            y, state = kind.forward(module, x)
            h = state[0] if gates == 4 else state
            return cat(list(h[-directions:]), -1) if last else y

        return type(kind.__name__, (kind,), {"forward": forward})(weight.shape[1], batch_first=True, **options)

    def _function(self, function: Callable[..., Any]) -> Module:
        return type("Function", (self.nn.Module,), {"forward": lambda module, *x: function(*x)})()

    def _pad_channels(self, path: str, options: Options) -> Module:
        stride, out, pad = options["stride"], options["out_channels"], self.nn.functional.pad

        def padded(x: Any) -> Any:
            before, missing = (out - x.shape[1]) // 2, out - x.shape[1]
            return pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, missing - before))

        return self._function(padded)

    def _learned_position(self, path: str, options: Options) -> Module:
        module = self._function(lambda x: x + module.weight[: x.shape[1]])
        module.weight = self.nn.Parameter(self.torch.empty(self.weights[f"{path}weight"].shape))
        return module

    def _tied_linear(self, path: str, options: Options) -> Module:
        module = self._function(lambda x: self.nn.functional.linear(x, module.weight))
        module.weight = self.named[options["embedding"]].weight
        return module

    # --- containers --------------------------------------------------------------------------------------------------

    def _sequential(self, path: str, options: Options) -> Module:
        return self._chain(path, options["layers"])

    def _repeat(self, path: str, options: Options) -> Module:
        copies = self.nn.Sequential()
        for number in range(options["times"]):
            copies.append(self._chain(f"{path}{number}.", options["layers"]))
        return copies

    def _residual(self, path: str, options: Options) -> Module:
        before = self.rank
        body = self._chain(path, options["layers"])
        after, self.rank = self.rank, before
        shortcut = self._chain(f"{path}shortcut.", options["shortcut"]) if options.get("shortcut") else None
        self.rank = after
        layers = list(body)

        def forward(x: Any) -> Any:
            y = x
            for layer in layers:
                y = layer(y)
            return y + (shortcut(x) if shortcut is not None else x)

        module = self._function(forward)
        for key, layer in body.named_children():
            module.add_module(key, layer)
        if shortcut is not None:
            module.add_module("shortcut", shortcut)
        return module

    def _parallel(self, path: str, options: Options) -> Module:
        before, branches = self.rank, []
        for number, entries in enumerate(options["branches"]):
            self.rank = before
            branches.append(self._chain(f"{path}{number}.", entries))
        axis, join = self.channels, options["join"]

        def forward(x: Any) -> Any:
            ys = [branch(x) for branch in branches]
            return self.torch.cat(ys, axis) if join == "concat" else sum(ys[1:], ys[0])

        module = self._function(forward)
        for number, branch in enumerate(branches):
            module.add_module(str(number), branch)
        return module

    def _gpt_block(self, path: str, options: Options) -> Module:
        """As nanoGPT writes it, with PyTorch's own attention."""
        if options["rotary"] or options["activation"] not in ("gelu", "gelu_tanh", "relu"):
            raise ValueError("rotary, and activations but gelu, gelu_tanh and relu, are not written for PyTorch")
        nn, functional = self.nn, self.nn.functional
        bias, p, heads = options["bias"], options["dropout"], options["num_heads"]
        hidden, width = self.weights[f"{path}mlp.c_fc.weight"].shape

        def norm() -> Any:
            return nn.LayerNorm(width, bias=bias) if options["norm"] == "layer_norm" else nn.RMSNorm(width, 1e-5)

        activation = {"gelu": nn.GELU, "gelu_tanh": lambda: nn.GELU("tanh"), "relu": nn.ReLU}[options["activation"]]()

        def attend(x: Any) -> Any:
            q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in attn.c_attn(x).chunk(3, -1))
            dropped = p if attn.training else 0.0
            y = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True)
            return attn.c_proj(y.transpose(1, 2).flatten(2))

        def forward(x: Any) -> Any:
            x = x + block.drop(block.attn(block.ln_1(x)))
            return x + block.drop(block.mlp(block.ln_2(x)))

        attn, block = self._function(attend), self._function(forward)
        attn.c_attn, attn.c_proj = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)
        mlp = nn.Sequential()
        for key, layer in (
            ("c_fc", nn.Linear(width, hidden, bias)),
            ("activation", activation),
            ("c_proj", nn.Linear(hidden, width, bias)),
        ):
            mlp.add_module(key, layer)
        block.ln_1, block.ln_2, block.attn, block.mlp, block.drop = norm(), norm(), attn, mlp, nn.Dropout(p)
        return block


def _tuple(value: Any) -> Any:
    """Lists of numbers as tuples, as PyTorch wants sizes; lists of layers as they are."""
    return tuple(value) if isinstance(value, list) and all(isinstance(each, int) for each in value) else value
