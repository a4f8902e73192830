"""Eight clients train one adapter of a sentence encoder on split GLUE data: five ways to put them together, measured.

python benchmarks/minilm/clients.py --glue GLUE --setting one-task --out notebooks/clients
python benchmarks/minilm/clients.py --glue GLUE --setting two-tasks --out notebooks/clients

The encoder is the one of the shipped adapters. Its last layer carries the adapters (query and value, rank 4); the
states that enter it are computed once. Each task's head is fitted on 64 further rows through the frozen encoder and
then kept, so that all gains over it are the adapters'. "one-task": eight disjoint parts of SST-2. "two-tasks": four
parts of SST-2 and four of STS-B. Writes SETTING.csv, one row a round, way and client; SETTING-predicted.csv; and the
clients' adapters of the last round of training both factors, SETTING.safetensors.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from tasks import batches_of, chunks, network, rows_of
from torch import Tensor, nn

from asym_analysis import Adapter, aggregation_error, merge_compensation

CLIENTS, RANK, SCALE, LAYERS = 8, 4, 2.0, (5,)
ROUNDS, STEPS, BATCH, RATE = 8, 12, 16, 2e-3
ROWS, HEAD_ROWS, TEST_ROWS, LENGTH = 200, 64, 256, 32
MEASURED = (1, 2, 4, 8)
SETTINGS = {"one-task": ["SST-2"] * CLIENTS, "two-tasks": ["SST-2"] * 4 + ["STS-B"] * 4}
Factors = dict[str, tuple[Tensor, Tensor]]  # module -> A, B


class LowRankLinear(nn.Module):
    """A frozen linear layer with an update that is exchanged from outside."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.pair = base, None

    def forward(self, x: Tensor) -> Tensor:
        out = self.base(x)
        if self.pair is None:
            return out
        A, B = self.pair
        return out + SCALE * (x @ A.mT) @ B.mT


@dataclass
class Part:
    """States that enter the upper layers, mask, labels, and the name of the task."""

    task: str
    states: Tensor
    mask: Tensor
    labels: Tensor

    def of(self, index: Tensor) -> Part:
        """Some of the rows, cut to their longest."""
        longest = int(self.mask[index].sum(1).max())
        return Part(self.task, self.states[index, :longest].float(), self.mask[index, :longest], self.labels[index])


class Upper:
    """The encoder's upper layers with exchangeable updates, and one fixed head a task."""

    def __init__(self) -> None:
        self.model = network("SST-2").requires_grad_(False)
        self.layers = [self.model.bert.encoder.layer[i] for i in LAYERS]
        self.modules: dict[str, LowRankLinear] = {}
        for number, layer in zip(LAYERS, self.layers, strict=True):
            attention = layer.attention.self
            for name in ("query", "value"):
                wrapped = LowRankLinear(getattr(attention, name))
                setattr(attention, name, wrapped)
                self.modules[f"bert.encoder.layer.{number}.attention.self.{name}"] = wrapped
        self.heads: dict[str, tuple[Tensor, Tensor]] = {}

    def part(self, task: str, rows: list[dict]) -> Part:
        """Run the lower layers once."""
        states, masks, labels = [], [], []
        caught: list[Tensor] = []
        hook = self.layers[0].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        for batch in batches_of(rows, max_length=LENGTH):
            caught.clear()
            with torch.inference_mode():
                self.model(batch["input_ids"], batch["attention_mask"], token_type_ids=batch.get("token_type_ids"))
            width = LENGTH - caught[0].shape[1]
            states.append(nn.functional.pad(caught[0], (0, 0, 0, width)).half())
            masks.append(nn.functional.pad(batch["attention_mask"], (0, width)))
            labels.append(batch["labels"])
        hook.remove()
        return Part(task, torch.cat(states).clone(), torch.cat(masks), torch.cat(labels))

    def pooled(self, part: Part, factors: Factors | None) -> Tensor:
        """The mean hidden state of each row."""
        for name, module in self.modules.items():
            module.pair = None if factors is None else factors[name]
        hidden = part.states
        allowed = part.mask[:, None, None, :].bool()
        hidden_mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
        for layer in self.layers:
            found = layer(hidden, attention_mask=hidden_mask)
            hidden = found if torch.is_tensor(found) else found[0]
        weights = part.mask[..., None].float()
        return (hidden * weights).sum(1) / weights.sum(1)

    def loss(self, part: Part, factors: Factors | None) -> Tensor:
        """Mean loss of the rows: cross-entropy, or squared error on scores of 0 to 5."""
        weight, bias = self.heads[part.task]
        outputs = self.pooled(part, factors) @ weight.mT + bias
        if part.task == "STS-B":
            return nn.functional.mse_loss(outputs[:, 0], part.labels.float())
        return nn.functional.cross_entropy(outputs, part.labels.long())

    def fit_head(self, part: Part) -> None:
        """A ridge or logistic head on the frozen encoder."""
        from sklearn.linear_model import LogisticRegression, Ridge

        features = [self.pooled(part.of(i), None) for i in torch.arange(len(part.labels)).split(64)]
        X, y = torch.cat(features).numpy(), part.labels.numpy()
        if part.task == "STS-B":
            fit = Ridge(alpha=1.0).fit(X, y)
            weight, bias = fit.coef_[None], np.atleast_1d(fit.intercept_)
        else:
            fit = LogisticRegression(C=1.0, max_iter=1000).fit(X, y)
            weight, bias = np.stack([-fit.coef_[0], fit.coef_[0]]) / 2, np.array([-1, 1]) * fit.intercept_[0] / 2
        self.heads[part.task] = (torch.tensor(weight).float(), torch.tensor(bias).float())


def tested(upper: Upper, part: Part, factors: Factors | None) -> float:
    """Loss over all rows of a part."""
    total = 0.0
    with torch.inference_mode():
        for index in torch.arange(len(part.labels)).split(64):
            total += float(upper.loss(part.of(index), factors)) * len(index)
    return total / len(part.labels)


def trained(upper: Upper, part: Part, factors: Factors, tuned: str, draw: torch.Generator) -> Factors:
    """One client's local steps from the given factors."""
    own = {name: tuple(x.clone().requires_grad_(f in tuned) for x, f in zip(pair, "AB", strict=True))
           for name, pair in factors.items()}  # fmt: skip
    moving = [x for pair in own.values() for x in pair if x.requires_grad]
    optimizer = torch.optim.Adam(moving, lr=RATE)
    for _ in range(STEPS):
        index = torch.randint(len(part.labels), (BATCH,), generator=draw)
        optimizer.zero_grad()
        upper.loss(part.of(index), own).backward()
        optimizer.step()
    return {name: (A.detach(), B.detach()) for name, (A, B) in own.items()}


def mean(all_factors: list[Factors], chosen: str = "AB") -> list[Factors]:
    """Every client's factors with the chosen ones averaged."""
    averages = {n: tuple(torch.stack([f[n][i] for f in all_factors]).mean(0) for i in (0, 1)) for n in all_factors[0]}
    return [
        {n: tuple(averages[n][i] if name in chosen else f[n][i] for i, name in enumerate("AB")) for n in f}
        for f in all_factors
    ]


def mean_update(all_factors: list[Factors]) -> Factors:
    """Factors of the mean of the updates: laid side by side."""
    count = len(all_factors)
    return {n: (torch.cat([f[n][0] for f in all_factors]), torch.cat([f[n][1] for f in all_factors], 1) / count)
            for n in all_factors[0]}  # fmt: skip


def adapters(all_factors: list[Factors]) -> list[Adapter]:
    """The clients' files."""
    return [Adapter.from_factors(f, scaling=SCALE, name=f"client {i}") for i, f in enumerate(all_factors)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", type=Path, required=True)
    parser.add_argument("--setting", choices=SETTINGS, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    began, owners = time.process_time(), SETTINGS[chosen.setting]
    upper, parts, tests = Upper(), [], {}
    for task in dict.fromkeys(owners):
        count = owners.count(task)
        rows = rows_of(task, chosen.glue, "train", count * ROWS + HEAD_ROWS, seed=chosen.seed)
        upper.fit_head(upper.part(task, rows[:HEAD_ROWS]))
        for own in chunks(rows[HEAD_ROWS:], ROWS):
            parts.append(upper.part(task, own))
        tests[task] = upper.part(task, rows_of(task, chosen.glue, "dev", TEST_ROWS, seed=chosen.seed))
    draw = torch.Generator().manual_seed(chosen.seed)
    start = {}
    for name, module in upper.modules.items():
        d_out, d_in = module.base.weight.shape
        start[name] = ((torch.rand(RANK, d_in, generator=draw) * 2 - 1) / d_in**0.5, torch.zeros(d_out, RANK))
    none = {task: tested(upper, part, None) for task, part in tests.items()}
    rows = [{"round": 0, "way": "no adapter", "client": i, "task": t, "loss": none[t]} for i, t in enumerate(owners)]
    predicted, files = [], []

    def measured(number: int, way: str, factors: list[Factors]) -> None:
        if number not in MEASURED:
            return
        known: dict[tuple[int, str], float] = {}
        for client, (task, own) in enumerate(zip(owners, factors, strict=True)):
            key = (id(own) if way in ("own adapter", "share A", "alone") else 0, task)
            known[key] = known[key] if key in known else tested(upper, tests[task], own)
            rows.append({"round": number, "way": way, "client": client, "task": task, "loss": known[key]})

    def draws(way: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(1000 * chosen.seed + 10 * i + way) for i in range(CLIENTS)]

    for way, tuned, shared in (("average both", "AB", "AB"), ("share A", "AB", "A"), ("freeze A", "B", "B"),
                               ("alternate", "turns", "AB"), ("alone", "AB", "")):  # fmt: skip
        states, streams = [start] * CLIENTS, draws(0)
        for number in range(1, chosen.rounds + 1):
            now = ("B" if number % 2 else "A") if tuned == "turns" else tuned
            pairs = zip(parts, states, streams, strict=True)
            local = [trained(upper, part, own, now, stream) for part, own, stream in pairs]
            states = mean(local, shared)
            measured(number, way, states)
            if way == "average both":
                files = adapters(local)
                error, kept = aggregation_error(files).frame, merge_compensation(files).frame
                size = error["update_norm"] ** 2
                predicted.append(
                    {
                        "round": number,
                        "average both over average updates": float(
                            (error["both_averaged"] ** 2 * size).sum() / (size / kept["retained_before"]).sum()
                        ),
                        "share A over own adapter": float((error["shared_A"] ** 2).mean()),
                        "average updates over own adapter": float((1 - kept["retained_before"]).mean()),
                    }
                )
                measured(number, "own adapter", local)
                measured(number, "average updates", [mean_update(local)] * CLIENTS)
                measured(number, "share A once", mean(local, "A"))
            last = [row["loss"] for row in rows[-CLIENTS:]]
            print(f"{way} {number}: {np.mean(last):.3f}, {time.process_time() - began:.0f} CPU s", flush=True)
        pd.DataFrame(rows).round(5).to_csv(chosen.out / f"{chosen.setting}.csv", index=False)
    pd.DataFrame(predicted).round(6).to_csv(chosen.out / f"{chosen.setting}-predicted.csv", index=False)
    tensors = {}
    for i, run in enumerate(files):
        for module in run:
            tensors[f"client.{i}.{module}.lora_A.weight"] = run[module].A.half().contiguous()
            tensors[f"client.{i}.{module}.lora_B.weight"] = run[module].B.half().contiguous()
    save_file(tensors, chosen.out / f"{chosen.setting}.safetensors", {"scaling": str(SCALE)})


if __name__ == "__main__":
    main()
