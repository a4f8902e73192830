"""Train a Gaussian posterior over a LoRA adapter and a classifier on the stored features, for a PAC-Bayes bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from features import MODULE, Features
from torch import Tensor

from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds.trained import TensorKey, with_tensors

HEAD, BIAS = ("classifier.weight", "head"), ("classifier.bias", "head")


@dataclass(frozen=True)
class Setting:
    """One way of training. `weight` multiplies KL/n in the objective; the prior scales lie on the grid 2^(-k/2)."""

    tuned: str
    rank: int
    seed: int
    rate: float
    epochs: float
    weight: float = 4.0
    b_std: float = 2.0**-4
    a_std: float = 2.0**-5
    head_std: float = 2.0**-2
    batch: int = 256


def start(rank: int, seed: int, tuned: str, d_in: int = 1536, d_out: int = 384) -> Adapter:
    """The adapter before training: the frozen or first factor orthonormal, drawn from the seed; the rest zero."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.linalg.qr(torch.randn(d_in, rank, generator=generator))[0].mT.contiguous()
    B = torch.linalg.qr(torch.randn(d_out, rank, generator=generator))[0].contiguous()
    factors = (torch.zeros_like(A), B) if tuned == "A" else (A, torch.zeros_like(B))
    made = Adapter.from_factors({MODULE: factors})
    extras = {name: _source(torch.zeros(size)) for name, size in ((HEAD[0], d_out), (BIAS[0], 1))}
    return Adapter({MODULE: made.source(MODULE)}, name=f"{tuned}, rank {rank}, seed {seed}", extras=extras)


class Classifier:
    """The last layer from its stored features: adapter, layer norm, mean over tokens, one logit."""

    def __init__(self, features: Features, norm: tuple[Tensor, Tensor]) -> None:
        self.features, self.norm = features, norm

    def logits(self, sentences: Tensor, tensors: dict[TensorKey, Tensor], projected: Tensor | None = None) -> Tensor:
        """Logits of some sentences. `projected` holds inputs @ A^T of all tokens where A is frozen."""
        rows, owner = self.features.take(sentences)
        A, B = tensors[MODULE, "A"], tensors[MODULE, "B"]
        low = projected[rows] if projected is not None else self.features.inputs[rows].float() @ A.mT
        hidden = self.features.outputs[rows].float() + low @ B.mT
        hidden = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], *self.norm, eps=1e-12)
        pooled = torch.zeros(len(sentences), hidden.shape[1]).index_add(0, owner, hidden)
        pooled = pooled / torch.bincount(owner, minlength=len(sentences))[:, None]
        return pooled @ tensors[HEAD] + tensors[BIAS]

    def project(self, A: Tensor) -> Tensor:
        """inputs @ A^T of every token."""
        return torch.cat([part.float() @ A.mT for part in self.features.inputs.split(65_536)])

    @torch.no_grad()
    def losses(self, adapter: Adapter, sentences: np.ndarray, projected: Tensor | None = None) -> np.ndarray:
        """0-1 losses of an adapter on some sentences."""
        tensors = tensors_of(adapter)
        found = []
        for part in torch.from_numpy(sentences).split(2048):
            guess = self.logits(part, tensors, projected) > 0
            found.append((guess.long() != self.features.labels[part]).numpy())
        return np.concatenate(found).astype(np.float64)


def train(
    classifier: Classifier, begun: Adapter, setting: Setting, sentences: Tensor, projected: Tensor | None = None
) -> tuple[Adapter, dict[TensorKey, Tensor]]:
    """Minimize cross-entropy + weight KL/n over mean and standard deviation of every trained entry.

    The prior is centred on `begun`. Returns the centre of the posterior and its standard deviations.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    frozen = tensors_of(begun)
    trained = [key for key in frozen if key[1] in ("head", *({"both": "AB"}.get(setting.tuned, setting.tuned)))]
    scales = {"A": setting.a_std, "B": setting.b_std, "head": setting.head_std}
    prior = {key: scales[key[1]] for key in trained}
    means = {key: frozen[key].clone().requires_grad_() for key in trained}
    logs = {key: torch.full_like(frozen[key], float(np.log(prior[key] / 2))).requires_grad_() for key in trained}
    groups = [
        {"params": [means[k] for k in trained if k[1] != "head"], "lr": setting.rate},
        {"params": [means[k] for k in trained if k[1] == "head"], "lr": 1e-2},
        {"params": list(logs.values()), "lr": 2e-2},
    ]
    optimizer = torch.optim.Adam(groups)
    steps = max(1, int(setting.epochs * len(sentences) / setting.batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in groups], total_steps=steps + 1)
    for step in range(steps):
        if step * setting.batch % len(sentences) < setting.batch:
            order = torch.randperm(len(sentences), generator=generator)
        at = step * setting.batch % len(sentences)
        chosen = sentences[order[at : at + setting.batch]]
        tensors = dict(frozen)
        for key in trained:
            noise = torch.randn(means[key].shape, generator=generator)
            tensors[key] = means[key] + logs[key].exp() * noise
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            classifier.logits(chosen, tensors, projected), classifier.features.labels[chosen].float()
        )
        kl = sum(
            (0.5 * (r - 1 - r.log()) + (means[key] - frozen[key]).square() / (2 * prior[key] ** 2)).sum()
            for key in trained
            for r in [(2 * logs[key]).exp() / prior[key] ** 2]
        )
        optimizer.zero_grad()
        (loss + setting.weight * kl / len(sentences)).backward()
        optimizer.step()
        schedule.step()
    centre = with_tensors(begun, {key: value.detach() for key, value in means.items()})
    return centre, {key: value.detach().exp() for key, value in logs.items()}


def tensors_of(adapter: Adapter) -> dict[TensorKey, Tensor]:
    """Factors, classifier and bias by their keys."""
    update = adapter[MODULE]
    found: dict[TensorKey, Tensor] = {(MODULE, "A"): update.A, (MODULE, "B"): update.scaling * update.B}
    return found | {key: adapter.extras[key[0]].read() for key in (HEAD, BIAS)}


def _source(tensor: Tensor) -> TensorSource:
    return TensorSource(tuple(tensor.shape), "float32", lambda: tensor)
