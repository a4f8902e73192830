# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags
#     notebook_metadata_filter: kernelspec
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A 7B adapter on a laptop
#
# Does one need a large machine, or the base model, to analyse the adapter of a 7B model? **No: an adapter of rank 16 on all seven projections of all 32 layers is 80 MB in half precision, and everything that needs only the adapter works from its factors, module by module, without ever forming a weight-sized matrix.** On two cores the headers are read in a fraction of a second and each analysis below takes at most a few seconds of one core. What does need the base model is named at the end.

# %%
import resource
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from asym_analysis import (
    compare_subspaces,
    compute_bound,
    initialization_drift,
    load_adapter,
    load_adapters,
    save_adapter,
)

torch.set_num_threads(1)
folder = Path(tempfile.mkdtemp())
WIDTH, INNER, LAYERS, RANK = 4096, 11008, 32, 16
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH), "self_attn.v_proj": (WIDTH, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
    "mlp.down_proj": (WIDTH, INNER),
}  # fmt: skip
CONFIG = """{"peft_type": "LORA", "r": 16, "lora_alpha": 32, "init_lora_weights": true,
 "base_model_name_or_path": "a-7b-model", "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
 "up_proj", "down_proj"]}"""

# %% [markdown]
# ## Two adapters of that size
#
# Made up, with the shapes of a LLaMA 7B: A as PEFT draws it, moved a little; B with a few common directions between the two.


# %%
def write(name, seed):
    draw, common = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    state = {}
    for layer in range(LAYERS):
        for projection, (d_out, d_in) in SHAPES.items():
            key = f"base_model.model.model.layers.{layer}.{projection}"
            A = (torch.rand(RANK, d_in, generator=draw) * 2 - 1) / d_in**0.5
            A += 0.2 * torch.randn(RANK, d_in, generator=draw) / (3 * d_in) ** 0.5
            B = torch.randn(d_out, RANK, generator=draw)
            B[:, :4] += 3 * torch.randn(d_out, 4, generator=common)
            state[f"{key}.lora_A.weight"], state[f"{key}.lora_B.weight"] = A.half(), (0.01 * B).half()
    (folder / name).mkdir()
    save_file(state, folder / name / "adapter_model.safetensors")
    (folder / name / "adapter_config.json").write_text(CONFIG)


write("one", 0)
write("two", 1)
size = (folder / "one" / "adapter_model.safetensors").stat().st_size
print(f"{size / 1e6:.0f} MB a file, {len(SHAPES) * LAYERS} modules")
beginning = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def timed(what, function, *arguments, **options):
    cpu = time.process_time()
    result = function(*arguments, **options)
    print(f"{what:30} {time.process_time() - cpu:5.2f} s of CPU")
    return result


# %% [markdown]
# ## Everything that the file alone can tell

# %%
one = timed("open (headers only)", load_adapter, folder / "one")
both = timed("open both", load_adapters, [folder / "one", folder / "two"])
drift = timed("how far A moved", initialization_drift, one)
comparison = timed("compare A and B, 224 modules", compare_subspaces, both)
bound = timed("bound from the file", compute_bound, one, 100_000, rungs=("parameter count", "Gaussian posterior"))
small = timed("cut to rank 4 and write", lambda: save_adapter(one.truncate(rank=4), folder / "small"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(f"peak memory {peak:.2f} GB; {beginning:.2f} GB when the files had been written")

# %%
comparison.summary()

# %%
drift.summary()[["factor", "modules", "known", "median", "median_std_error", "verdict"]].round(3)

# %% [markdown]
# A's movement, .2 of its length by construction, is found again; B overlaps by the four directions that were put in, and A is at chance.
#
# ## The answer
#
# Does one need a large machine, or the base model? For everything above, neither: two adapters of 40 million numbers each were compared, measured, bounded and cut in a few seconds of one core, and the peak of the memory, libraries included, was below one gigabyte. For many adapters give `compare_subspaces(..., store="folder")`, which keeps each module as it is done, or an `executor`; on a GPU give `device="cuda"`.
#
# What does need the base model, module by module and not all at once: `intruder_dimensions`, `base_alignment`, and formats whose update is relative to the base. What needs the whole model and data: `certify`, `advise`, `null_space_energy`, where the forward passes are the cost. And these two adapters are made up: what a real one of this size gives depends on its training.
