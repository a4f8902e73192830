"""How often `examine` is wrong about adapters that were trained, where what it says can be checked.

python benchmarks/doctor_trained.py --out benchmarks/results/doctor_trained.csv [FOLDER ...]

FOLDERs hold trained adapters with their initial factors beside them (as `asym finetune` writes them). They are examined
without those factors and beside a sibling, and the factors then say how far A moved and who shared an initialization.
Further adapters are trained here, in seconds: a tiny random BERT, three optimizers, four ranks and two scales, on
whether a token is in a text. They are examined with their base and with general inputs, and each finding is held
against the model: a finding is false if

- "hardly moved": A moved by a tenth of its length or more;
- "shares its initialization", "copy": it does not;
- "zero update": none is zero;
- "99 % of their energy": cut to the directions with 99 % of the energy, the adapter's effect on the last hidden states
  changes by more than a fifth, twice the relative norm that is cut;
- "hidden states of general inputs move", "intruder": those of other general inputs move by less than a fifth.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import beta
from torch import Tensor, nn

from asym_analysis import Adapter, examine, general_effect, load_adapter, load_adapters, sample_adapters
from asym_analysis.adapters.applied import apply_to

OPTIMIZERS = {"SGD": (torch.optim.SGD, 0.3), "AdamW": (torch.optim.AdamW, 3e-3), "RMSprop": (torch.optim.RMSprop, 2e-3)}
RANKS, ALPHAS, STEPS, TOKENS, LENGTH = (1, 4, 8, 16), (8, 32), 60, 200, 16
KINDS = {
    "hardly moved": "A moved by", "initialization": "shares its initialization", "copy": "is a copy",
    "zero": "zero update", "rank": "of their energy in", "general inputs": "hidden states of general inputs",
    "intruders": "intruder dimensions hold",
}  # fmt: skip


@dataclass
class Truth:
    """What is known of an adapter from elsewhere than its file."""

    moved: float
    shared: bool
    rank_matters: bool = False
    general_moved: float = float("nan")

    def false(self, kind: str, value: float) -> bool:
        """Whether a finding of that kind is not so."""
        return {
            "hardly moved": self.moved >= 0.1,
            "initialization": not self.shared,
            "copy": True,
            "zero": value == 0,
            "rank": self.rank_matters,
            "general inputs": self.general_moved < 0.2,
            "intruders": self.general_moved < 0.2,
        }.get(kind, True)


def kind_of(finding: str) -> str:
    return next((kind for kind, words in KINDS.items() if words in finding), "other")


def movement(adapter: Adapter, initial: Adapter) -> float:
    """Median over the modules of ||A - A0|| / ||A0||."""
    moved = [((adapter[m].A - initial[m].A).norm() / initial[m].A.norm()).item() for m in adapter]
    return float(pd.Series(moved).median())


def same_initialization(first: Adapter, second: Adapter) -> bool:
    common = [m for m in first if m in second and first[m].A.shape == second[m].A.shape]
    return bool(common) and all(torch.equal(first[m].A, second[m].A) for m in common)


def from_folders(folders: list[Path]) -> Iterator[tuple[str, pd.DataFrame, Truth]]:
    """Every adapter of the folders without its initial factors, beside the one before it."""
    read = (run for folder in folders for run in load_adapters(folder, on_error="collect"))
    runs = [run for run in read if run.initial is not None]
    runs += [run for run in sample_adapters() if run.initial is not None]
    for run, other in zip(runs, [runs[-1], *runs], strict=False):
        bare, sibling = (Adapter({m: one.source(m) for m in one}, name=one.name) for one in (run, other))
        truth = Truth(movement(run, run.initial), same_initialization(run.initial, other.initial))
        yield run.name, examine(bare, siblings=[sibling]).frame, truth


def texts(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random texts, and whether token 7 is among them."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(8, TOKENS, (count, LENGTH), generator=draw)
    labels = torch.arange(count) % 2
    tokens[labels == 1, torch.randint(LENGTH, (int(labels.sum()),), generator=draw)] = 7
    return tokens, labels


def tiny() -> Iterator[tuple[str, pd.DataFrame, Truth]]:
    """Adapters of a tiny random BERT, trained with PEFT."""
    import tempfile

    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    shape = BertConfig(
        vocab_size=TOKENS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    (tokens, labels), (own, _), (general, _) = texts(256, 1), texts(64, 2), texts(128, 3)
    general[general == 7] = 8
    for name, (optimizer, rate) in OPTIMIZERS.items():
        for rank in RANKS:
            for alpha in ALPHAS:
                torch.manual_seed(0)
                network = BertForSequenceClassification(shape)
                base = {k: v.detach().clone() for k, v in network.state_dict().items()}
                chosen = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["query", "value"], task_type="SEQ_CLS")
                torch.manual_seed(rank * 100 + alpha)
                model = get_peft_model(network, chosen)
                with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as last:
                    model.save_pretrained(first)
                    train(model, optimizer, rate, tokens, labels)
                    model.save_pretrained(last)
                    initial, run = (load_adapter(folder).without_extras() for folder in (first, last))
                    yield f"tiny {name} r{rank} a{alpha}", *checked(run, initial, shape, base, own, general)


def train(model: nn.Module, optimizer: type, rate: float, tokens: Tensor, labels: Tensor) -> None:
    steps = optimizer([p for p in model.parameters() if p.requires_grad], lr=rate)
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        index = torch.randint(len(labels), (32,), generator=draw)
        steps.zero_grad()
        model(input_ids=tokens[index], labels=labels[index]).loss.backward()
        steps.step()


def checked(
    run: Adapter, initial: Adapter, shape: object, base: dict[str, Tensor], own: Tensor, general: Tensor
) -> tuple[pd.DataFrame, Truth]:
    """The findings, and what the model says."""
    from transformers import BertForSequenceClassification

    network = BertForSequenceClassification(shape).eval()
    network.load_state_dict(base)
    general, other = general.chunk(2)
    effect = general_effect(run, network, [{"input_ids": other}])
    weights = {f"{m}.weight": base[f"{m}.weight"] for m in run}
    before, far = states(network, own), states(network, general)
    with apply_to(run, network, head=False):
        whole, moved = states(network, own), states(network, general)
    with apply_to(run.truncate(energy=0.99), network, head=False):
        cut = states(network, own)
    truth = Truth(
        movement(run, initial), False, bool((cut - whole).norm() > 0.2 * (whole - before).norm()),
        ((moved - far).norm(dim=1) / far.norm(dim=1)).mean().item(),
    )  # fmt: skip
    return examine(run, base=weights, effect=effect).frame, truth


def states(network: nn.Module, tokens: Tensor) -> Tensor:
    """Mean of the last hidden states of each text."""
    with torch.inference_mode():
        return network.bert(input_ids=tokens).last_hidden_state.mean(1)


def interval(count: int, of: int) -> str:
    """Clopper and Pearson, 95 percent."""
    low = beta.ppf(0.025, count, of - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, of - count) if count < of else 1.0
    return f"{count} of {of} ({low:.1%} to {high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    rows = []
    for source, found in (("folders", from_folders(chosen.folders)), ("tiny", tiny())):
        for name, frame, truth in found:
            kinds = [kind_of(text) for text in frame["finding"]]
            false = [k for k, v in zip(kinds, frame["value"], strict=True) if truth.false(k, v)]
            rows.append(
                {
                    "source": source, "adapter": name, "moved": truth.moved,
                    "general_moved": truth.general_moved, "findings": "; ".join(kinds), "false": "; ".join(false),
                }
            )  # fmt: skip
    table = pd.DataFrame(rows)
    table.round(4).to_csv(chosen.out, index=False)
    for source, part in [*table.groupby("source"), ("all", table)]:
        print(f"{source}: a false finding in {interval(int((part['false'] != '').sum()), len(part))} adapters")
    print(table["findings"].value_counts().to_string())
    print(table[table["false"] != ""].to_string())


if __name__ == "__main__":
    main()
