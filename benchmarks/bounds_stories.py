"""Bits per token of a small language model on stories, certified: stories260K with a rank-1 adapter of one matrix.

    python benchmarks/bounds_stories.py --model models/stories260K --text TinyStories-valid-excerpt.txt --out results

Each line of the text is a story, and one document; a line that repeats an earlier one is left out, since the tokens of
a copy follow from the first. The adapter is random and small, so that the coded rows show what a message costs, not
what training gains. Writes bounds_stories.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from asym_analysis import Adapter, language_model_bound
from asym_analysis.bounds import find_duplicates
from asym_analysis.bounds.losses import generator_for

MODULE = "model.layers.4.self_attn.v_proj"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--length", type=int, default=512, help="tokens at which a story is cut")
    chosen = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(chosen.model, dtype=torch.float32).eval()
    lines = [line for line in chosen.text.read_text().splitlines() if line.strip()]
    _, first = np.unique(find_duplicates(lines).groups, return_index=True)
    stories = [lines[i] for i in sorted(first)]
    d_out, d_in = model.get_submodule(MODULE).weight.shape
    generator = generator_for(0, "stories")
    factors = torch.randn(1, d_in, generator=generator), 0.02 * torch.randn(d_out, 1, generator=generator)
    found = language_model_bound(
        Adapter.from_factors({MODULE: factors}), model, stories, tuned="B", levels=(2, 3), max_length=chosen.length,
        tokenizer=AutoTokenizer.from_pretrained(chosen.model),
    )  # fmt: skip
    found.to_csv(chosen.out / "bounds_stories.csv")
    print(len(lines), "lines,", found.settings["documents"], "stories,", found.settings["tokens"], "tokens")
    print(found.summary().round(3).to_string(index=False))


if __name__ == "__main__":
    main()
