"""Padding is left out of the statistics of encoders and decoders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from asym_analysis.prediction import input_covariances, output_sensitivities


def test_padding_is_left_out_of_encoder_and_decoder(tiny_bart: Path) -> None:
    """What a batch of two says is what its rows say alone, whichever of inputs and labels is padded."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_bart).eval()
    layers = [name for name, _ in model.named_modules() if re.search(r"\b(q|k|v)_proj$", name)]

    def batch(rows: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        # Inputs and labels are padded to one width, so that the masks cannot be told apart by their shape.
        ids = torch.zeros(len(rows), 6, dtype=torch.long)
        labels = torch.full((len(rows), 6), -100)
        for row, (inputs, outputs) in enumerate(rows):
            ids[row, :inputs] = torch.arange(4, 4 + inputs)
            labels[row, :outputs] = torch.arange(5, 5 + outputs)
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}

    together = input_covariances(model, [batch([(3, 5), (6, 2)])], layers)
    apart = input_covariances(model, [batch([(3, 5)]), batch([(6, 2)])], layers)
    for name in layers:
        decodes = "decoder" in name and not re.search(r"encoder_attn\.[kv]", name)
        assert together[name].inputs == (7 if decodes else 9), name
        assert torch.allclose(together[name].second_moment, apart[name].second_moment, atol=1e-5)
    felt = output_sensitivities(model, [batch([(3, 5), (6, 2)])], layers)
    assert all(torch.isfinite(value).all() for value in felt.values())
