"""Spoiled adapters by the thousand: each loads right or is refused with AdapterError, in bounded time and memory.

Every fifth file is sound, with a header of any length: it must load.

    python tests/fuzz/harness.py --files 20000 --seed 0

"Right" is what the container's own library reads from the same bytes. Prints one JSON document, with the bytes of every
failure saved under --keep; exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from mutations import seeds, spoil
from sound_files import KINDS, sound_files

from asym_analysis import AdapterError, load_adapter
from asym_analysis.adapters.containers import open_container

SECONDS_A_FILE, SOUND_EVERY = 20, 5
MEMORY_FACTOR, MEMORY_ALLOWANCE = 3, 50_000_000


class Hang(BaseException):
    """A file took too long."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files that failed")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, alarm)
    faulthandler.enable()
    report = fuzz(arguments.files, arguments.seed, arguments.keep)
    print(json.dumps(report, indent=1))
    return 1 if report["failures"] or not report["memory_within_bound"] else 0


def alarm(*_: object) -> None:
    raise Hang


def fuzz(count: int, seed: int, keep: Path | None) -> dict[str, object]:
    rng, sound = random.Random(seed), seeds()
    pool = [data for files in sound.values() for data in files.values()]
    outcomes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    failures, slowest, largest = [], 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for container, files in sound.items():
            assert try_load(write(Path(folder), files))[0] == "loaded", f"the sound {container} does not load"
        before = peak_memory()
        for number in range(count):
            must_load = number % SOUND_EVERY == 0
            if must_load:
                kind = list(KINDS)[number // SOUND_EVERY % len(KINDS)]
                container, files = f"sound {kind}", sound_files(rng, kind)
            else:
                container = list(sound)[number % len(sound)]
                files = spoiled_files(rng, sound[container], pool)
            path = write(Path(folder), files)
            largest = max(largest, sum(map(len, files.values())))
            began = time.perf_counter()
            outcome, detail = try_load(path)
            slowest = max(slowest, time.perf_counter() - began)
            outcomes[container][outcome] += 1
            if not outcome.startswith("loaded" if must_load else ("loaded", "refused")):
                failures.append({"number": number, "container": container, "outcome": outcome, "detail": detail})
                if keep:
                    shutil.copytree(folder, keep / f"{seed}-{number}", dirs_exist_ok=True)
        grown = peak_memory() - before
    bound = MEMORY_FACTOR * largest + MEMORY_ALLOWANCE
    return {
        "files": count,
        "seed": seed,
        "outcomes": {container: dict(counter) for container, counter in outcomes.items()},
        "slowest_seconds": round(slowest, 3),
        "memory_grown_bytes": grown,
        "memory_bound_bytes": bound,
        "memory_within_bound": grown <= bound,
        "failures": failures[:50],
    }


def spoiled_files(rng: random.Random, files: dict[str, bytes], pool: list[bytes]) -> dict[str, bytes]:
    names = list(files)
    chosen = names[0] if rng.random() < 0.8 else rng.choice(names)
    return {name: spoil(rng, data, pool) if name == chosen else data for name, data in files.items()}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for old in folder.iterdir():
        old.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / next(iter(files))


def try_load(path: Path) -> tuple[str, str]:
    signal.alarm(SECONDS_A_FILE)
    try:
        adapter = load_adapter(path)
        for module in adapter:
            try:
                adapter[module].frobenius_norm()
            except AdapterError:
                continue
        for source in adapter.extras.values():
            try:
                source.read()
            except AdapterError:
                continue
        adapter.frame, adapter.coverage.frame, repr(adapter)
        if adapter.coverage.complete and not adapter.coverage.used:
            return "silent", "nothing was used and nothing refused"
        return compare(path)
    except AdapterError as error:
        return ("refused", str(error)) if str(error) and "\n" not in str(error) else ("unclear", repr(str(error)))
    except Hang:
        return "hang", "".join(traceback.format_exc().splitlines()[-4:])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "exception", "\n".join(traceback.format_exc().splitlines()[-7:])
    finally:
        signal.alarm(0)


def compare(path: Path) -> tuple[str, str]:
    """Hold every tensor against the container's own library, where that reads the same bytes."""
    contents = open_container(path)
    try:
        expected = reference(path, contents.container)
    except Exception as error:
        if contents.container == "safetensors" and isinstance(error, SafetensorError):
            return "accepted", f"the library refuses it: {error}"
        return "loaded, though the library does not", ""
    for name, source in contents.tensors.items():
        try:
            value = source.read()
        except AdapterError:
            continue
        if expected and (name not in expected or not same(value, expected[name])):
            return "wrong", f"{name} differs from the library's"
    return "loaded", ""


def reference(path: Path, container: str) -> dict[str, torch.Tensor]:
    if container == "safetensors":
        return load_file(path)
    if container in ("torch zip", "legacy pickle"):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if container == "npz":
        with np.load(path) as arrays:
            return {
                name: torch.from_numpy(np.array(arrays[name], dtype=arrays[name].dtype.newbyteorder("=")))
                for name in arrays.files
                if arrays[name].dtype.kind in "fiub"
            }
    return {}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    one, other = one.contiguous().reshape(-1), other.detach().contiguous().reshape(-1)
    return one.dtype == other.dtype and one.view(torch.uint8).equal(other.view(torch.uint8))


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
