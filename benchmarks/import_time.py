"""How long `import asym_analysis` takes, as a ratio to `import numpy`: each in fresh interpreters, in turn.

python benchmarks/import_time.py [--runs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    statements = {"numpy": "import numpy", "asym_analysis": "import asym_analysis", "nothing": "pass"}
    for statement in statements.values():
        seconds(statement)  # warm the file cache
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(runs):
        for name, statement in statements.items():
            times[name].append(seconds(statement))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:14} median {1000 * median:7.1f} ms over {runs} runs")
    print(
        f"import asym_analysis / import numpy = {medians['asym_analysis'] / medians['numpy']:.2f} (goal: at most 1.5)"
    )


if __name__ == "__main__":
    main()
