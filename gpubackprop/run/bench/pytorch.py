"""The process of PyTorch as a candidate: python -m gpubackprop.run.bench.pytorch FOLDER VARIANT [DEVICE]

The package never imports PyTorch, with this one exception, by name and in a process that does nothing else: it is
measured beside, never computed with. From the same weights it makes the same steps; the losses are compared.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from gpubackprop.run.bench.process import CannotError, serve
from gpubackprop.run.bench.task import Task

#: Of images channels_last can be quicker; on a GPU the compiled variants have their images so as well. max-autotune
#: measures kernels, and replays graphs of them there.
VARIANTS = ("eager", "channels_last", "compile", "max-autotune")
_OPTIMIZERS = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
}
#: those that PyTorch updates in one pass where asked, by device
_FUSED = {"cpu": ("sgd", "adam", "adamw", "adagrad"), "cuda": ("sgd", "adam", "adamw")}
_LOSSES = {
    "cross_entropy": "cross_entropy",
    "nll": "nll_loss",
    "mse": "mse_loss",
    "l1": "l1_loss",
    "huber": "huber_loss",
    "smooth_l1": "smooth_l1_loss",
    "bce_with_logits": "binary_cross_entropy_with_logits",
}


class Twin:
    """The task by PyTorch, with its fused optimizer. Raises CannotError that says which part has no twin.

    In bfloat16 it is PyTorch's autocast: weights and their updates stay float32.
    """

    def __init__(self, task: Task, variant: str, device: str = "cpu") -> None:
        from gpubackprop.run.bench.torch_layers import Translation

        self.torch = torch = import_module("torch")
        self.device = torch.device(device)
        precision = task.config["precision"]
        if precision == "tf32":
            torch.set_float32_matmul_precision("high")
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = precision == "tf32"  # of convolutions alone it is PyTorch's default
            torch.backends.cudnn.benchmark = True
        self.short, self.graphs = precision == "bfloat16", variant == "max-autotune"
        self.dtype = torch.float64 if precision == "float64" else torch.float32
        config, training = task.config, task.config["training"]
        if config["precision"] == "float16":
            raise CannotError("precision float16, with a loss scale, has no twin here")
        if any(set(batch) > {"inputs", "targets"} or isinstance(batch["inputs"], dict) for batch in task.batches):
            raise CannotError("masks, weights and several inputs have no twin here")
        if training["ema"] or training["gradient_noise"]:
            raise CannotError("training.ema and gradient_noise have no twin here")
        rank = task.batches[0]["inputs"].ndim
        translation = Translation(torch, task.weights, rank)
        self.task, self.training = task, training
        self.model = translation.model(config["model"])
        last = variant == "channels_last" or (self.device.type == "cuda" and variant != "eager" and rank == 4)
        self.images = torch.channels_last if last else torch.contiguous_format
        self.model.to(self.device, memory_format=self.images)
        self.optimizer = self._optimizer(dict(config["optimizer"]))
        self._loss, self._loss_options = self._loss_of(dict(config["loss"]))
        self.batches = [self._tensors(batch) for batch in task.batches]
        self.compiled = self.loss
        if variant in ("compile", "max-autotune"):
            self.compiled = torch.compile(self.loss, mode=None if variant == "compile" else variant)

    def _tensors(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        def tensor(array: Any) -> Any:
            found = self.torch.from_numpy(array).to(self.device)
            if array.dtype.kind != "f":
                return found.to(self.torch.int64)
            if array.ndim == 4:
                found = found.permute(0, 3, 1, 2).contiguous(memory_format=self.images)
            return found.to(self.dtype)

        return tensor(batch["inputs"]), tensor(batch["targets"])

    def _loss_of(self, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        kind = options.pop("type")
        if kind not in _LOSSES:
            raise CannotError(f"the loss {kind} has no twin here")
        for name in ("weight", "pos_weight"):
            if options.get(name) is not None:
                options[name] = self.torch.tensor(options[name], dtype=self.dtype, device=self.device)
        return getattr(self.torch.nn.functional, _LOSSES[kind]), options

    def _optimizer(self, options: dict[str, Any]) -> Any:
        kind = options.pop("type")
        if kind not in _OPTIMIZERS:
            raise CannotError(f"the optimizer {kind} has no twin here")
        for option, plain in (("groups", []), ("layer_decay", 1.0)):
            if (options.pop(option, None) or plain) != plain:
                raise CannotError(f"the optimizer {kind} has no twin here: {option} is not written for PyTorch")
        spared = set()
        for module in self.model.modules():
            norm = "Norm" in type(module).__name__
            for name, param in module.named_parameters(recurse=False):
                if ("norm" if norm else "bias" if "bias" in name else "") in (options.get("no_decay") or ()):
                    spared.add(param)
        options.pop("no_decay", None)
        params = [param for param in self.model.parameters() if param not in spared]
        groups = [{"params": params}, *([{"params": [*spared], "weight_decay": 0.0}] if spared else [])]
        fused = {"fused": True} if kind in _FUSED[self.device.type] else {}
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        return getattr(self.torch.optim, _OPTIMIZERS[kind])(groups, **options, **fused)

    def loss(self, x: Any, target: Any) -> Any:
        """The mean loss of a batch, of shape ()."""
        if self.short:
            with self.torch.autocast(self.device.type, self.torch.bfloat16):
                return self._mean(x, target)
        return self._mean(x, target)

    def _mean(self, x: Any, target: Any) -> Any:
        y = self.model(x)
        if target.dtype == self.torch.int64 and y.ndim == 3:
            y, target = y.flatten(0, 1), target.flatten()
        return self._loss(y, target, **self._loss_options)

    def step(self) -> float:
        """One update, waited for."""
        return float(self.update())

    def update(self) -> Any:
        """One update; its loss, of shape ()."""
        if self.graphs:
            self.torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad(set_to_none=True)
        total, count = 0.0, sum(len(x) for x, _ in self.batches)
        for x, target in self.batches:
            loss = self.compiled(x, target)
            if len(self.batches) > 1:
                loss = loss * (len(x) / count)
            loss.backward()
            total = total + loss.detach()
        if self.training["clip_value"] is not None:
            self.torch.nn.utils.clip_grad_value_(self.model.parameters(), self.training["clip_value"], foreach=True)
        if self.training["clip_norm"] is not None:
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training["clip_norm"], foreach=True)
        self.optimizer.step()
        return total

    def about(self) -> dict[str, Any]:
        """The loss of the starting weights in inference mode, and what runs it."""
        torch = self.torch
        self.model.load_state_dict({key: torch.from_numpy(value) for key, value in self.task.weights.items()})
        self.model.eval()
        with torch.no_grad():
            found = [(len(x), self.loss(x, target).item()) for x, target in self.batches]
        self.model.train()
        loss = sum(n * each for n, each in found) / sum(n for n, _ in found)
        return {"inference_loss": loss, "runs_on": f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"}


class OnGpu(Twin):
    """The same on a GPU, which goes on while Python begins the next steps."""

    def __init__(self, task: Task, variant: str, device: str) -> None:
        self.cuda = import_module("torch").cuda
        if not self.cuda.is_available():
            raise CannotError("this PyTorch cannot use the GPU")
        self._free = self._free_memory()
        super().__init__(task, variant, device)

    def launch(self) -> None:
        """Begin an update."""
        self.update()

    def wait(self) -> None:
        """Until all are done."""
        self.cuda.synchronize()

    def about(self) -> dict[str, Any]:
        """As Twin, and bytes of the GPU's memory; in the end without what the measuring of kernels has left."""
        peak = self._free - self._free_memory()
        self.cuda.empty_cache()
        self.step()
        memory = {"device": self._free - self._free_memory(), "device_peak": peak}
        found = {**super().about(), "memory": memory}
        return {**found, "runs_on": f"PyTorch {self.torch.__version__}, {self.cuda.get_device_name()}"}

    def _free_memory(self) -> int:
        self.cuda.synchronize()
        return int(self.cuda.mem_get_info()[0])


def main(folder: str, variant: str, device: str = "cpu") -> None:
    """Serve."""
    made = Twin if device == "cpu" else OnGpu
    serve(lambda: made(Task.read(Path(folder)), variant, device), "torch")


if __name__ == "__main__":
    main(*sys.argv[1:])
