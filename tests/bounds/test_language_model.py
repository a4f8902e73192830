"""Bits per token of an adapted language model: likelihoods, both levels, subsampling, and a check against truth."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asym_analysis import Adapter, language_model_bound
from asym_analysis.bounds import encode_adapter
from asym_analysis.results import read_result

transformers = pytest.importorskip("transformers")


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def adapter() -> Adapter:
    generator = torch.Generator().manual_seed(1)
    names = [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    return Adapter.from_factors(
        {n: (torch.randn(1, 16, generator=generator), torch.randn(16, 1, generator=generator)) for n in names}
    )


def documents(n: int = 40) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, 30, (5 + index % 7,), generator=generator) for index in range(n)]


@torch.no_grad()
def test_training_bits_are_the_smoothed_likelihood_of_the_coded_model() -> None:
    texts, alpha = documents(), 0.1
    found = language_model_bound(adapter(), llama(), texts, tuned="B", smoothing=(alpha,), levels=(3,), batch_size=7)
    coded = encode_adapter(adapter(), tuned="B", include_head=True, levels=3, placement="even")
    model = llama()
    for module in adapter():
        model.get_submodule(module).weight += coded.adapter[module].delta()
    means, tokens = [], []
    for text in texts:
        logits = model(input_ids=text[None]).logits[0, :-1].double()
        chance = (1 - alpha) * logits.softmax(-1).gather(-1, text[1:, None])[:, 0] + alpha / 30
        tokens.append(-chance.log2())
        means.append(tokens[-1].mean().item())
    frame = found.frame[(found.frame["predictor"] == "coded adapter") & (found.frame["placement"] == "even")]
    by_level = frame.set_index("level")
    assert by_level.loc["document", "training_bits"] == pytest.approx(np.mean(means), rel=1e-5)
    assert by_level.loc["token", "training_bits"] == pytest.approx(torch.cat(tokens).mean().item(), rel=1e-5)
    assert by_level.loc["document", "nats"] == pytest.approx(coded.nats + math.log(2))
    # Azuma: the width of the smoothed loss times the square root, with half of delta for the level.
    width = math.log2(1 + (1 - alpha) * 30 / alpha)
    count = sum(len(text) - 1 for text in texts)
    more = width * math.sqrt((coded.nats + math.log(2) + math.log(2 / 0.05)) / (2 * count))
    assert by_level.loc["token", "bits"] == pytest.approx(by_level.loc["token", "training_bits"] + more)


def test_the_model_is_as_before_and_the_result_reads_back(tmp_path: Path) -> None:
    model = llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = language_model_bound(adapter(), model, documents(), tuned="B", smoothing=(0.1, 0.3), levels=(2,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found.to_json(tmp_path / "found.json")
    again = read_result(tmp_path / "found.json")
    assert type(again) is type(found)
    assert again.frame["bits"].tolist() == found.frame["bits"].tolist()
    assert set(found.summary()["predictor"]) == {"base model", "coded adapter"}


def test_a_subsample_costs_something_and_brackets_the_whole() -> None:
    texts = documents(400)
    options: dict[str, Any] = {"tuned": "B", "smoothing": (0.3,), "levels": (2,)}
    whole = language_model_bound(adapter(), llama(), texts, **options).frame
    part = language_model_bound(adapter(), llama(), texts, subsample=100, **options).frame
    assert (part["sampled_bits"] > part["training_bits"]).all()
    assert (part["sampled_bits"] >= whole["training_bits"].to_numpy()).all()
    assert (part["bits"] > whole["bits"].to_numpy()).all()
    assert (whole["sampled_bits"] == whole["training_bits"]).all()


class Bigrams(torch.nn.Module):
    """Next-token logits from the present token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Linear(4, 4, bias=False)
        torch.nn.init.zeros_(self.table.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(logits=self.table(torch.nn.functional.one_hot(input_ids, 4).float()))


def test_bounds_hold_on_a_chain_whose_law_is_known() -> None:
    """A Markov chain's counts, fitted as an adapter: the bound lies above the true bits, and below guessing."""
    law = torch.full((4, 4), 0.02) + 0.92 * torch.eye(4).roll(1, 1)
    violated = 0
    for repeat in range(10):
        generator = torch.Generator().manual_seed(repeat)
        state = torch.randint(0, 4, (1500,), generator=generator)
        chain = [state]
        for _ in range(12):
            chain.append(torch.multinomial(law[chain[-1]], 1, generator=generator)[:, 0])
        texts = torch.stack(chain, 1)
        counts = torch.zeros(4, 4).index_put((texts[:, :-1].ravel(), texts[:, 1:].ravel()), torch.tensor(1.0), True)
        fitted = (counts / counts.sum(1, keepdim=True)).log().T.contiguous()
        run = Adapter.from_factors({"table": (torch.eye(4), fitted - fitted.max())})
        found = language_model_bound(
            run, Bigrams(), list(texts), tuned="B", smoothing=(0.05,), levels=(3,), confidence=0.5
        )
        # Documents of a chain repeat each other by chance: the numbers hold whatever the row is called.
        coded = encode_adapter(run, tuned="B", include_head=True, levels=3, placement="even").adapter["table"].delta()
        truth = -(law * (0.95 * coded.T.softmax(1) + 0.05 / 4).log2()).sum(1).mean().item()
        rows = found.frame[(found.frame["predictor"] == "coded adapter") & (found.frame["placement"] == "even")]
        violated += int((rows["bits"] < truth).any())
        assert (rows["bits"] < 2.0).all()
    assert violated == 0


def test_repeated_documents_are_no_certificate() -> None:
    texts = documents(20) * 5
    frame = language_model_bound(adapter(), llama(), texts, tuned="B", smoothing=(0.1,), levels=(2,)).frame
    assert set(frame.loc[frame["level"] == "document", "kind"]) == {"diagnostic"}
    assert frame["assumptions"].str.contains("repeat another").any()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="tokenizer="):
        language_model_bound(adapter(), llama(), ["text"])
    with pytest.raises(ValueError, match="needs two"):
        language_model_bound(adapter(), llama(), [torch.tensor([1])])
    with pytest.raises(ValueError, match="smoothing"):
        language_model_bound(adapter(), llama(), documents(3), smoothing=(0.0,))


def test_stories(shared_models: Path) -> None:
    folder = shared_models / "stories260K"
    if not folder.is_dir():
        pytest.skip("stories260K is not here")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [f"Once upon a time, there was a {who} who saw {n} birds in the {where}." for n in ["two", "three", "four"]
             for who in ("girl", "boy", "dog", "cat") for where in ("park", "sky", "tree")]  # fmt: skip
    width = model.config.hidden_size
    generator = torch.Generator().manual_seed(0)
    run = Adapter.from_factors(
        {"model.layers.0.self_attn.q_proj": (torch.randn(1, width, generator=generator), torch.zeros(width, 1))}
    )
    found = language_model_bound(run, model, texts, tokenizer=tokenizer, tuned="B", smoothing=(0.01,), levels=(2,))
    frame = found.frame.set_index(["level", "predictor"])
    assert (frame["training_bits"] < 0.8 * frame["uniform_bits"]).all()  # it knows such stories
    base = frame.xs("base model", level="predictor")["training_bits"]
    for level, bits in frame.xs("coded adapter", level="predictor")["training_bits"].items():
        assert bits == pytest.approx(base[level], rel=1e-6)  # B = 0 changes nothing
