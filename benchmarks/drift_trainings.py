"""Train LoRA on small random models with every common optimizer, and keep A before and after.

    python benchmarks/drift_trainings.py FOLDER
    python benchmarks/drift_trainings.py FOLDER --ratios 4 8 16     # LoRA+: B's rate over A's

Sixty runs: four architectures (a perceptron, an encoder, a causal decoder and a patch transformer, widths 48 to 512) x
Adam, AdamW with weight decay 0.1 and SGD with momentum x five combinations of rank, learning rate and steps. The base
weights are random and frozen; the task is to imitate the same model with a low-rank change of some weights. A is
initialized as PEFT does, B at zero. FOLDER gets one npz a run: "MODULE/initial" and "MODULE/trained" for every module.
`drift_validation.py trained FOLDER` reads them. With `--ratios`: Adam alone, the first two combinations, B trained at
so many times the rate of A; files are named "ARCHITECTURE-adamxRATIO-PLAN".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, rate),
    "adamw": lambda parameters, rate: torch.optim.AdamW(parameters, rate, weight_decay=0.1),
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, 300 * rate, momentum=0.9),
}
# rank, learning rate, steps
PLANS = ((4, 1e-3, 60), (8, 2e-3, 100), (16, 4e-3, 150), (8, 8e-3, 200), (2, 3e-3, 300))


class Adapted(nn.Module):
    """A frozen linear layer with a LoRA branch of scaling 2."""

    def __init__(self, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        self.weight = torch.randn(d_out, d_in) / math.sqrt(d_in)
        self.A = nn.Parameter(torch.empty(rank, d_in))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(d_out, rank))
        self.change = torch.randn(d_out, 3) @ torch.randn(3, d_in) / math.sqrt(3 * d_in)
        self.teaches = False

    def forward(self, x: Tensor) -> Tensor:
        if self.teaches:
            return x @ (self.weight + 0.7 * self.change).T
        return x @ self.weight.T + 2 * (x @ self.A.T) @ self.B.T


class Block(nn.Module):
    def __init__(self, width: int, rank: int, *, causal: bool) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (Adapted(width, width, rank) for _ in range(4))
        self.up, self.down, self.causal = Adapted(width, 2 * width, rank), Adapted(2 * width, width, rank), causal

    def forward(self, x: Tensor) -> Tensor:
        y = functional.layer_norm(x, x.shape[-1:])
        split = [part(y).unflatten(-1, (4, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        mixed = functional.scaled_dot_product_attention(*split, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(functional.layer_norm(x, x.shape[-1:]))))


class Tokens(nn.Module):
    """Embeddings of tokens with Zipf frequencies, whose covariance falls off as a power law."""

    def __init__(self, width: int, rank: int, *, causal: bool) -> None:
        super().__init__()
        self.table = torch.randn(400, width) * torch.arange(1, width + 1) ** -0.5 * 3
        self.blocks = nn.ModuleList(Block(width, rank, causal=causal) for _ in range(2))

    def batch(self, count: int) -> Tensor:
        return torch.multinomial(1 / torch.arange(1, 401.0), count * 12, replacement=True).reshape(count, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.table[x]
        for block in self.blocks:
            y = block(y)
        return y


class Patches(nn.Module):
    """Smooth random images in patches, embedded by an adapted layer."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.embed, self.block = Adapted(48, width, rank), Block(width, rank, causal=False)

    def batch(self, count: int) -> Tensor:
        images = functional.interpolate(torch.randn(count, 3, 5, 5), size=(16, 16), mode="bilinear")
        return functional.unfold(images, 4, stride=4).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.embed(x))


class Perceptron(nn.Module):
    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Adapted(width, 256, rank), Adapted(256, 256, rank), Adapted(256, 32, rank)])
        self.spread = torch.arange(1, width + 1) ** -0.7

    def batch(self, count: int) -> Tensor:
        return torch.randn(count, len(self.spread)) * self.spread * 3

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "perceptron": lambda rank: Perceptron(512, rank),
    "encoder": lambda rank: Tokens(192, rank, causal=False),
    "decoder": lambda rank: Tokens(128, rank, causal=True),
    "patches": lambda rank: Patches(128, rank),
}


def train(architecture: str, optimizer: str, plan: int, ratio: float = 1.0) -> dict[str, np.ndarray]:
    torch.manual_seed(1000 * plan + 10 * list(ARCHITECTURES).index(architecture) + list(OPTIMIZERS).index(optimizer))
    rank, rate, steps = PLANS[plan]
    model = ARCHITECTURES[architecture](rank)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Adapted)}
    initial = {name: layer.A.detach().clone() for name, layer in layers.items()}
    factors = [[layer.A for layer in layers.values()], [layer.B for layer in layers.values()]]
    groups = [{"params": factors[0]}, {"params": factors[1]}]
    step = OPTIMIZERS[optimizer](groups, rate)
    step.param_groups[1]["lr"] *= ratio
    for done in range(steps):
        x = model.batch(32)
        with torch.no_grad():
            for layer in layers.values():
                layer.teaches = True
            target = model(x)
            for layer in layers.values():
                layer.teaches = False
        loss = functional.mse_loss(model(x), target) / target.var()
        step.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in step.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])
            group["initial_lr"] = group["lr"]
            group["lr"] *= 1 - done / steps
        step.step()
    kept = {f"{name}/initial": start.numpy() for name, start in initial.items()}
    return kept | {f"{name}/trained": layer.A.detach().numpy() for name, layer in layers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ratios", type=int, nargs="+", default=[1], help="B's rate over A's")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for ratio in options.ratios:
        plans, optimizers = (range(len(PLANS)), list(OPTIMIZERS)) if ratio == 1 else (range(2), ["adam"])
        for plan in plans:
            for architecture in ARCHITECTURES:
                for optimizer in optimizers:
                    name = optimizer if ratio == 1 else f"{optimizer}x{ratio}"
                    file = options.folder / f"{architecture}-{name}-{plan}.npz"
                    if not file.exists():
                        np.savez(file, **train(architecture, optimizer, plan, ratio))


if __name__ == "__main__":
    main()
