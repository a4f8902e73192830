"""How many public adapter files each package opens, and what it costs: this one, PEFT's reader, gradience, vlora.

    python -m pip install --no-deps --target PEERS gradience==0.11.0 vlora-dev==1.0.0 adaptersentry==2.0.2
    python benchmarks/peers.py ADAPTERS PEERS

ADAPTERS as in in_the_wild.py. A file counts as opened where the package gives at least one pair of factors, or
statistics of one. CPU seconds are the least of three passes over the files that all of them open, imports not counted.
Writes benchmarks/results/peers.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from asym_analysis import adapter_spectra, load_adapter

HERE = Path(__file__).resolve().parent


def readers() -> dict[str, Callable[[Path], int]]:
    """Package and what of it -> function of a folder that gives the number of modules."""
    from adaptersentry.scanner import scan
    from gradience.vnext.audit.lora_audit import audit_lora_peft_dir
    from peft import load_peft_weights
    from vlora.io import load_adapter as load_vlora

    def weights_of(folder: Path) -> Path:
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.iterdir())
        return files[0]

    return {
        "asym_analysis, open": lambda folder: len(load_adapter(folder)),
        "asym_analysis, spectra": lambda folder: len(adapter_spectra(load_adapter(folder)).frame),
        "peft, load_peft_weights": lambda folder: sum(
            "lora_A" in key or "lora_embedding_A" in key for key in load_peft_weights(str(folder))
        ),
        "gradience, audit": lambda folder: len(audit_lora_peft_dir(folder).layers),
        "vlora, load_adapter": lambda folder: len(load_vlora(folder).layer_names),
        "adaptersentry, scan": lambda folder: scanned(scan(weights_of(folder), include_modules=True)),
    }


def scanned(report: object) -> int:
    """Number of modules in a scan, 0 where it was stopped."""
    found = getattr(report, "modules", None) or getattr(getattr(report, "inventory", None), "modules", None)
    return len(found or [])


def main() -> None:
    """Open everything with everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", type=Path)
    parser.add_argument("peers", type=Path)
    options = parser.parse_args()
    sys.path.append(str(options.peers))
    warnings.simplefilter("ignore")
    sources = pd.read_csv(HERE / "in_the_wild_sources.csv")
    folders = [options.adapters / row["family"] / row["adapter"] for _, row in sources.iterrows()]
    folders = [folder for folder in folders if folder.is_dir()]
    rows, opened = [], {}
    tools = readers()
    for tool, read in tools.items():
        opened[tool] = []
        failed = 0
        for folder in folders:
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # some report their progress
                    count = read(folder)
            except Exception:
                failed += 1
                continue
            if count:
                opened[tool].append(folder)
        rows.append({"tool": tool, "files": len(folders), "opened": len(opened[tool]), "raised": failed})
    common = [folder for folder in folders if all(folder in members for members in opened.values() if members)]
    for row in rows:
        if not opened[row["tool"]]:
            continue
        costs = []
        for _ in range(3):
            begin = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()):
                for folder in common:
                    tools[row["tool"]](folder)
            costs.append(time.process_time() - begin)
        row |= {"timed": len(common), "cpu_seconds": min(costs)}
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    table.to_csv(HERE / "results" / "peers.csv", index=False, float_format="%.3g")


if __name__ == "__main__":
    main()
