"""One step's clipped gradient sum on one core: time and memory, beside no privacy and beside Opacus 1.6.

``python -m benchmarks.private_step``. Opacus is installed into an environment of its own, which sees this one's torch.
All ways take turns in one process, and each ratio is to the step without privacy next to it, in processor time; peak
memory is that of one step in a process of its own, the least of three. The last columns say how far each way's sum,
and the worst of its patients' norms, are from a loop over patients: Opacus checks us, and that checks both.

``python -m benchmarks.private_step MODEL WAY`` runs inside: ``WAY`` is ``all`` (times), or the one whose memory it is.
"""

import ctypes
import json
import statistics
import subprocess
import sys
import sysconfig
import time
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from wardround.training import models
from wardround.training.patient_gradients import PatientGradients

__all__ = ["measure"]

_OPACUS = "opacus==1.6.0"
_IMPORTED = ("opt_einsum>=3.3", "scipy")
_REPEATS, _SECONDS, _CLIP = 31, 30.0, 0.1
_WAYS = ("without privacy", "book-keeping", "vmap", "Opacus hooks", "Opacus ghost")
_MODELS = {  # how it is made, width, patients, records of each
    "MLP 64-256-256-2, 256 patients": (lambda: _perceptron(64, 256), 64, 256, 1),
    "MLP 64-256-256-2, 256 patients of 4 records": (lambda: _perceptron(64, 256), 64, 256, 4),
    "MLP 256-1024-1024-2, 256 patients": (lambda: _perceptron(256, 1024), 256, 256, 1),
    "CNN 28x28, 8-16 channels, 256 patients": (lambda: _cnn((8, 16)), 784, 256, 1),
    "CNN 28x28, 32-64-128 channels, 256 patients": (lambda: _cnn((32, 64, 128)), 784, 256, 1),
}


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """Seconds, MiB and the relative error, by way and model."""
    python = _environment()
    found = {}
    for number, name in enumerate(_MODELS):
        found[name] = _inside(python, number, "all")
        for way in _WAYS:
            if way in found[name]:
                found[name][way] |= min(
                    (_inside(python, number, way) for _ in range(3)), key=lambda got: got["mebibytes"]
                )
    return found


def _inside(python, number, way):
    command = [str(python), "-m", "benchmarks.private_step", str(number), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} did not run: {done.stderr[-1500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment(folder=Path(".cache/bench-opacus")):
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", _OPACUS, *_IMPORTED], check=True)
        packages = next((folder / "lib").glob("python*/site-packages"))
        ours = sysconfig.get_path("purelib")
        (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        (folder / "ready").touch()
    return python.absolute()


def _perceptron(width, hidden):
    layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2)]
    return nn.Sequential(*layers)


def _cnn(channels):
    return models._convolutional(784, channels, 2)


class _Step:
    """One model and its records, and every way to find the sum of clipped gradients."""

    def __init__(self, number):
        torch.manual_seed(0)
        make, width, self.patients, self.size = list(_MODELS.values())[number]
        self.module = make()
        self.features = torch.randn(self.patients, self.size, width)
        self.labels = torch.randint(0, 2, (self.patients, self.size))
        self.weights = torch.full((self.patients, self.size), 1 / self.size)
        self.params = list(self.module.parameters())
        self.columns, self.trained = 0, []
        for param in self.params:
            self.trained.append((param, slice(self.columns, self.columns + param.numel())))
            self.columns += param.numel()
        self.out = torch.zeros(self.columns)

    def way(self, name):
        """A function that makes the sum, and one that gives it as a flat vector (None: it is not clipped)."""
        if name == "without privacy":
            return self._plain, None
        if name in {"book-keeping", "vmap"}:
            engine = PatientGradients(self.module, self.trained, self.columns, "multiclass", self.features.shape[2])
            assert engine.method == "book-keeping"
            engine._method = name

            def run():
                self.norms = engine.clipped_sum(self.features, self.labels.float(), self.weights, _CLIP, self.out)

            return run, lambda: (self.out, self.norms)
        return self._opacus_hooks() if name == "Opacus hooks" else self._opacus_ghost()

    def _losses(self, module):
        # Opacus takes the first dimension for the sample; a bag is one more dimension of positions, in an MLP.
        features = self.features if self.size > 1 else self.features[:, 0]
        losses = functional.cross_entropy(module(features).flatten(0, -2), self.labels.flatten(), reduction="none")
        return losses.view(self.patients, self.size).mean(1)

    def _plain(self):
        for param in self.params:
            param.grad = None
        self._losses_flat().backward()

    def _losses_flat(self):
        return functional.cross_entropy(self.module(self.features.flatten(0, 1)), self.labels.flatten())

    def _opacus_hooks(self):
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        module = GradSampleModule(self._copy(), loss_reduction="sum")
        optimizer = DPOptimizer(
            torch.optim.SGD(module.parameters(), 0.1),
            noise_multiplier=0.0,
            max_grad_norm=_CLIP,
            expected_batch_size=self.patients,
        )

        def run():
            optimizer.zero_grad()
            self._losses(module).sum().backward()
            optimizer.clip_and_accumulate()

        def result():
            norms = [param.grad_sample.flatten(1).norm(dim=1) for param in module.parameters()]
            total = torch.cat([param.summed_grad.flatten() for param in module.parameters()])
            return total, torch.stack(norms).norm(dim=0)

        return run, result

    def _opacus_ghost(self):
        from opacus.grad_sample import GradSampleModuleFastGradientClipping
        from opacus.optimizers import DPOptimizerFastGradientClipping
        from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

        module = GradSampleModuleFastGradientClipping(
            self._copy(), max_grad_norm=_CLIP, use_ghost_clipping=True, loss_reduction="sum"
        )
        optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD(module.parameters(), 0.1),
            noise_multiplier=0.0,
            max_grad_norm=_CLIP,
            expected_batch_size=self.patients,
        )

        def run():
            optimizer.zero_grad()
            DPTensorFastGradientClipping(module, optimizer, self._losses(module), "sum").backward()

        def result():
            total = torch.cat([param.grad.flatten() for param in module.parameters()])
            return total, module.per_sample_gradient_norms

        return run, result

    def _copy(self):
        import copy

        return copy.deepcopy(self.module).train()

    def looped(self):
        """The sum and the patients' norms by a loop over patients, in float64."""
        module, total, norms = self._copy().double(), torch.zeros(self.columns, dtype=torch.float64), []
        for features, labels in zip(self.features.double(), self.labels, strict=True):
            loss = functional.cross_entropy(module(features), labels)
            gradients = torch.autograd.grad(loss, list(module.parameters()))
            gradient = torch.cat([each.flatten() for each in gradients])
            norms.append(gradient.norm())
            total += gradient * (_CLIP / norms[-1]).clamp(max=1.0)
        return total, torch.stack(norms)


def _times(step):
    found, ways = {}, {name: step.way(name) for name in _WAYS}
    expected, expected_norms = step.looped()
    for name, (run, result) in ways.items():
        run()
        run()
        if result is not None:
            total, norms = result()
            found[name] = {
                "error": float((total - expected).norm() / expected.norm()),
                "norms": float(((norms - expected_norms) / expected_norms).abs().max()),
            }
    spans = {name: [] for name in ways}
    began = time.process_time()
    while len(spans[_WAYS[0]]) < _REPEATS and (time.process_time() - began < _SECONDS or len(spans[_WAYS[0]]) < 5):
        for name, (run, _) in ways.items():
            started = time.process_time()
            run()
            spans[name].append(time.process_time() - started)
    # Other work on the machine comes and goes: each ratio is of neighbours in time.
    return {
        name: {
            **found.get(name, {}),
            "seconds": statistics.median(spans[name]),
            "ratio": statistics.median(a / b for a, b in zip(spans[name], spans["without privacy"], strict=True)),
        }
        for name in ways
    }


def _memory(step, name):
    run, _ = step.way(name)
    step.patients, everything = 2, (step.features, step.labels, step.weights)
    step.features, step.labels, step.weights = (each[:2] for each in everything)
    run()  # what is loaded at the first call is not the step's
    step.patients = len(everything[0])
    step.features, step.labels, step.weights = everything
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now
    before = _status("VmRSS")
    run()
    return {"mebibytes": (_status("VmHWM") - before) / 1024}


def _status(field):
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def main() -> None:
    """Print a table."""
    if len(sys.argv) == 3:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        step = _Step(int(sys.argv[1]))
        print(json.dumps(_times(step) if sys.argv[2] == "all" else _memory(step, sys.argv[2])))
        return
    print(
        "| model | way | ms | of the step without privacy | peak MiB | off a float64 loop: sum | norms |\n"
        "|---|---|--:|--:|--:|--:|--:|"
    )
    for model, ways in measure().items():
        for way, got in ways.items():
            error = f"{got['error']:.0e} | {got['norms']:.0e}" if "error" in got else " |"
            cells = f"{got['seconds'] * 1e3:.2f} | {got['ratio']:.2f} | {got['mebibytes']:.1f} | {error}"
            print(f"| {model} | {way} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
