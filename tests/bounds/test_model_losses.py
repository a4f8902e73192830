"""certify on a Hugging Face classifier in one call: the losses are those of PEFT's own model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import Adapter, certify, load_adapter
from asym_analysis.bounds import ModelLosses
from asym_analysis.errors import AdapterError

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def classifier() -> Any:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50, num_labels=2
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config).eval()


def trained() -> Any:
    wrapped = peft.get_peft_model(classifier(), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return wrapped.eval()


def batches(count: int = 60) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    found = []
    for length, size in ((5, count // 2), (9, count - count // 2)):
        tokens = torch.randint(1, 50, (size, length), generator=generator)
        labels = torch.randint(0, 2, (size,), generator=generator)
        found.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels})
    return found


@torch.no_grad()
def test_losses_are_those_of_peft() -> None:
    wrapped = trained()
    adapter = load_adapter(wrapped)
    losses = ModelLosses(adapter, classifier(), batches(), batch_size=7)
    expected = [
        (wrapped(**{k: v for k, v in batch.items() if k != "labels"}).logits.argmax(-1) != batch["labels"]).numpy()
        for batch in batches()
    ]
    np.testing.assert_array_equal(losses.evaluate(adapter), np.concatenate(expected))
    some = np.array([40, 3, 31])
    np.testing.assert_array_equal(losses.evaluate_some(adapter, some), np.concatenate(expected)[some])
    smooth = ModelLosses(adapter, classifier(), batches(), loss="bounded cross-entropy").evaluate(adapter)
    assert ((smooth > 0) & (smooth < 1)).all()


def test_one_call_certifies_and_leaves_the_model_as_it_was() -> None:
    model, adapter = classifier(), load_adapter(trained())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = certify(adapter, model=model, data=batches(), levels=(2,), relative_noise=(0.5,), draws=20)
    assert set(report.frame["kind"]) == {"certificate"}
    assert report.settings["n_samples"] == 60
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    coded = report.frame[report.frame["predictor"] == "coded adapter"]
    assert coded["head"].all()


def test_wrong_models_and_data() -> None:
    adapter = load_adapter(trained())
    with pytest.raises(AdapterError, match="without 'labels'"):
        certify(adapter, model=classifier(), data=[{"input_ids": torch.ones(2, 3)}])
    with pytest.raises(AdapterError, match="AutoModelForSequenceClassification"):
        certify(adapter, model=classifier().bert, data=batches())
    with pytest.raises(ValueError, match="not parts of both"):
        certify(adapter, lambda a: np.zeros(3), 3, model=classifier(), data=batches())
    with pytest.raises(ValueError, match="give evaluate and n_samples"):
        certify(Adapter.from_factors({"q": (torch.ones(1, 2), torch.ones(2, 1))}))
