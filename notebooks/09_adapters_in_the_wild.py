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
# # Adapters in the wild: formats, DoRA, refusals
#
# You have a folder of adapters that others trained, with other libraries. Can they be compared, and can you trust what was read? **Yes for what is a low-rank update of a weight, whatever library wrote it; what is not is refused by name, and what a file does not say is either asked for or marked as assumed.** This notebook writes one update in five formats and reads it back, looks at what DoRA changes, and shows the refusals.

# %%
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from asym_analysis import compare_subspaces, inspect_modules, load_adapter, load_adapters, sample_adapters, save_adapter

torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=UserWarning, module="peft|torch")
folder = Path(tempfile.mkdtemp())
one = sample_adapters()["mrpc-0"].without_extras()  # the pairs alone: other formats have no place for its classifier

# %% [markdown]
# ## One update, five formats
#
# PEFT, kohya and diffusers files are written by the package; an MLX file and a plain loralib state dict are written by hand, as those libraries would: MLX stores both factors transposed.

# %%
for layout in ("peft", "kohya", "diffusers"):
    component = "text_encoder" if layout == "diffusers" else None  # diffusers names the part of its pipeline
    save_adapter(one, folder / layout, format=layout, component=component)
factors = {module: (one[module].A, one[module].B, one[module].scaling) for module in one}
(folder / "mlx").mkdir()
np.savez(
    folder / "mlx" / "adapters.npz",
    **{f"{module}.lora_a": A.T.numpy() for module, (A, B, _) in factors.items()},
    **{f"{module}.lora_b": B.T.numpy() for module, (A, B, _) in factors.items()},
)
(folder / "loralib").mkdir()
plain = {f"{module}.lora_A": A for module, (A, B, _) in factors.items()}
plain |= {f"{module}.lora_B": B for module, (A, B, _) in factors.items()}
torch.save(plain, folder / "loralib" / "lora.pt")

adapters = load_adapters([folder / name for name in ("peft", "kohya", "diffusers", "mlx", "loralib")])
adapters.table[["name", "dialect", "container", "rank", "scaling"]]

# %% [markdown]
# The subspaces are the same in all five. The size is not: MLX and loralib files do not say their scale, so that it is assumed, and the table says so in its column `scaling`. Say what it was, and it is:

# %%
names = list(zip(adapters.names, adapters, strict=True))
norms = {name: float(next(iter(adapter.values())).frobenius_norm()) for name, adapter in names}
told = load_adapter(folder / "mlx", scale=2.0)
norms["mlx, scale=2 given"] = float(next(iter(told.values())).frobenius_norm())
pd.Series(norms).round(4)

# %% [markdown]
# Names of modules differ between libraries, and a comparison only uses modules that both adapters have. Here the factors of the PEFT and the MLX file:

# %%
compare_subspaces([load_adapter(folder / "peft"), load_adapter(folder / "mlx")]).summary()[
    ["factor", "pairs", "value", "null_mean"]
]

# %% [markdown]
# ## rsLoRA, rank patterns and DoRA, as PEFT writes them


# %%
class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.v_proj = torch.nn.Linear(32, 32, bias=False), torch.nn.Linear(32, 32, bias=False)


def written(name, **options):
    torch.manual_seed(0)
    model = get_peft_model(Small(), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **options))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_" in key and "magnitude" not in key:
                value.add_(0.1 * torch.randn(value.shape))
    model.save_pretrained(folder / name)
    return load_adapter(folder / name)


variants = {
    "plain": written("plain"),
    "rsLoRA": written("rslora", use_rslora=True),
    "rank pattern": written("pattern", rank_pattern={"q_proj": 2}),
    "DoRA": written("dora", use_dora=True),
}
pd.DataFrame(
    {
        name: [str(update.rank) + ", scale " + f"{update.scaling:.3g}" for update in a.values()]
        for name, a in variants.items()
    },
    index=["q_proj", "v_proj"],
)

# %% [markdown]
# The scale is alpha/r = 2, or alpha/√r = 4 with rsLoRA; with r = 2 for one module alpha/r = 4 there. DoRA also learns a magnitude for every output, so that the change of the weight is not of low rank any more. The magnitude is read and accounted for. Comparisons speak of the low-rank part alone, `inspect` says so at each module, and what would be wrong without the magnitude, such as intruder dimensions, is refused.

# %%
print(variants["DoRA"].coverage, {module: update.is_low_rank for module, update in variants["DoRA"].items()})
inspect_modules(variants["DoRA"]).frame[["module", "rank", "note"]]

# %% [markdown]
# ## Refusals
#
# A file that holds something else, or not all of it, is refused in one sentence that says what it is and what to do. With `on_error="collect"` the rest of the folder is read, and the set lists what was not.

# %%
bad = folder / "bad"


def put(name, state=None, text=None, config=None):
    (bad / name).mkdir(parents=True)
    target = bad / name / "adapter_model.safetensors"
    if state is not None:
        save_file(state, target)
    if text is not None:
        target.write_text(text)
    if config is not None:
        (bad / name / "adapter_config.json").write_text(json.dumps(config))


put("prompt_tuning", {"prompt_embeddings": torch.ones(8, 32)}, config={"peft_type": "PROMPT_TUNING"})
put("pointer", text="version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 15200000\n")
put("only_A", {"q_proj.lora_A.weight": torch.ones(4, 32)}, config={"peft_type": "LORA", "r": 4, "lora_alpha": 8})
put("full_checkpoint", {"q_proj.weight": torch.ones(32, 32), "v_proj.weight": torch.ones(32, 32)})
(bad / "cut").mkdir()
whole = (folder / "plain" / "adapter_model.safetensors").read_bytes()
(bad / "cut" / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])

read = load_adapters([folder / "plain", *sorted(bad.iterdir())], on_error="collect")
print("read:", *read.names)
for _, reason in read.refused:
    print(f"- {reason.replace(str(bad) + '/', '')}")

# %% [markdown]
# ## The answer
#
# Can they be compared, and can you trust what was read? One update written in five formats gave the same subspaces, and the same size wherever the scale is recorded or given. Where it is not, the table says "assumed"; look at that column before you speak of norms, bounds or merges. DoRA is read with its magnitude and compared without it. A pointer, a prompt, half a pair, a full checkpoint and a cut file were each refused by name, and the sound file beside them was read.
#
# ```sh
# asym inspect FOLDER              # every adapter below it, and what was refused
# asym convert ADAPTER FOLDER --to kohya   # write it for another library
# ```
#
# What forty adapters published by others look like through these eyes: *What public adapters say about the paper*, in the guide.
