"""How long `import asym_analysis`, `asym --help` and `asym inspect` take: each in fresh interpreters, in turn.

python benchmarks/import_time.py [--runs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import asym_analysis.samples


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    shell = "import sys; sys.stdout = sys.stderr = open('/dev/null', 'w'); from asym_analysis.cli import main; main({})"
    sample = str(asym_analysis.samples.sample_adapters()[0].metadata["source"])
    statements = {
        "nothing": "pass",
        "numpy": "import numpy",
        "asym_analysis": "import asym_analysis",
        "typer": "import typer",
        "--help": shell.format(["--help"]),
        "inspect --headers": shell.format(["inspect", "--headers", sample]),
        "inspect": shell.format(["inspect", sample]),
        "torch": "import torch",
    }
    for statement in statements.values():
        seconds(statement)  # warm the file cache
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(runs):
        for name, statement in statements.items():
            times[name].append(seconds(statement))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:18} median {1000 * median:7.1f} ms over {runs} runs")
    print(f"asym --help / import typer = {medians['--help'] / medians['typer']:.2f} (goal: at most 1.5)")
    print(
        f"import asym_analysis / import numpy = {medians['asym_analysis'] / medians['numpy']:.2f} (goal: at most 1.5)"
    )


if __name__ == "__main__":
    main()
