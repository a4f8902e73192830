"""An adapter put into an open model gives what PEFT's own model gives, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from asym_analysis import Adapter, apply_to, load_adapter
from asym_analysis.errors import AdapterError

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def bert() -> Any:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=50, num_labels=3
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config).eval()


def gpt2() -> Any:
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, num_labels=3, pad_token_id=0)
    torch.manual_seed(0)
    return transformers.GPT2ForSequenceClassification(config).eval()


CASES: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (bert, {"target_modules": ["query", "value"]}),
    (bert, {"target_modules": ["query"], "use_dora": True}),
    (bert, {"target_modules": ["query"], "bias": "lora_only"}),
    (gpt2, {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    (bert, {"target_modules": ["word_embeddings", "query"]}),
]


@pytest.mark.parametrize(("make", "options"), CASES)
def test_the_model_computes_what_peft_computes(make: Callable[[], Any], options: dict[str, Any]) -> None:
    plain = make()
    wrapped = peft.get_peft_model(make(), peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, **options)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapter = load_adapter(wrapped)
    tokens = torch.randint(1, 50, (4, 7), generator=generator)
    with torch.no_grad():
        before, expected = plain(tokens).logits, wrapped(tokens).logits
        with apply_to(adapter, plain):
            found = plain(tokens).logits
        after = plain(tokens).logits
    assert (before - expected).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(before, after)


def test_another_adapter_takes_the_place_of_the_first() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    base = model[0].weight.detach().clone()
    one, two = (Adapter.from_factors({"0": (torch.ones(1, 3), k * torch.ones(2, 1))}) for k in (1.0, 5.0))
    applied = apply_to(one, model)
    applied.exchange(two)
    assert torch.allclose(model[0].weight, base + 5)
    applied.remove()
    assert torch.equal(model[0].weight, base)


def test_a_model_that_does_not_fit_is_left_as_it_was() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 2, bias=False))
    before = model[0].weight.detach().clone()
    adapter = Adapter.from_factors({"0": (torch.ones(1, 3), torch.ones(2, 1))})
    with pytest.raises(AdapterError, match="base model"):
        apply_to(adapter, model)
    assert torch.equal(model[0].weight, before)
