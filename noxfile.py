"""Checks that take longer than those of every commit: `make check-all`, or one by name with `nox -s NAME`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|venv"  # uv where it is installed: an environment takes seconds, not minutes
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
EXTRAS = ".[finetune,gguf,cluster,neighbours]"
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SUITE = ("pytest", "-q", "-n", os.environ.get("WORKERS", "2"), "--dist", "loadfile")


def _install(session: nox.Session, *groups: str, constraints: str = "constraints.txt") -> None:
    if session.venv_backend != "uv":
        session.install("--upgrade", "pip>=25.1")
    chosen = [argument for group in groups for argument in ("--group", group)]
    session.install("--constraint", constraints, "--editable", EXTRAS, *chosen)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite on each Python that this machine has."""
    _install(session, "test", "samples")
    session.run(*SUITE, *session.posargs, env=THREADS)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The suite with the oldest version that pyproject.toml allows of each direct dependency."""
    session.install("uv")
    pins = Path(session.create_tmp()) / "oldest.txt"
    session.run(
        "uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--python-version", "3.11",
        "--extra", "finetune", "--extra", "gguf", "--extra", "cluster", "--extra", "neighbours",
        "--output-file", str(pins), "pyproject.toml",
    )  # fmt: skip
    _install(session, "test", "samples", constraints=str(pins))
    # The cases of PEFT's methods are made by the newest PEFT, which has methods that the oldest lacks.
    newest = ["--ignore=tests/adapters/dialects", "--ignore=tests/adapters/test_known_initializations.py"]
    session.run(*SUITE, *newest, *session.posargs, env=THREADS)


@nox.session(python="3.11")
def random_seed(session: nox.Session) -> None:
    """The property tests on examples that no run before has seen."""
    _install(session, "test", "samples")
    seed = str(random.SystemRandom().randrange(2**31))
    session.log(f"hypothesis seed {seed}")
    session.run(*SUITE, f"--hypothesis-seed={seed}", "-m", "hypothesis", env=THREADS)


@nox.session(python="3.11")
def coverage(session: nox.Session) -> None:
    """The suite with the share of lines and branches that it runs."""
    _install(session, "test", "samples")
    session.install("--constraint", "constraints.txt", "pytest-cov")
    session.run(
        *SUITE, "--cov=asym_analysis", "--cov-branch",
        "--cov-report=term:skip-covered", env=THREADS,
    )  # fmt: skip


@nox.session(python="3.11")
def build(session: nox.Session) -> None:
    """Wheel and source distribution, each installed into a bare environment and tried."""
    session.install("build", "twine")
    out = Path(session.create_tmp()) / "dist"
    session.run("python", "-m", "build", "--outdir", str(out), ".")
    session.run("twine", "check", "--strict", *map(str, out.iterdir()))
    for made in sorted(out.iterdir()):
        bare = out.parent / made.name.replace(".", "-")
        session.run("python", "-m", "venv", "--clear", str(bare))
        session.run(
            str(bare / "bin" / "pip"), "install", "--quiet", "--constraint", "constraints.txt", str(made), external=True
        )
        asym = str(bare / "bin" / "asym")
        session.run(asym, "--version", external=True)
        session.run(asym, "report", "--out", str(out.parent / "report.html"), external=True)


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """The site, where every warning is an error, and the next release's page of changes."""
    _install(session, "docs", "lint")
    session.run("python", "docs/api_names.py", "--check")
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")
    session.run("towncrier", "build", "--draft")


@nox.session(python="3.11", default=False)
def links(session: nox.Session) -> None:
    """The links that lead out of the site. Needs the internet."""
    _install(session, "docs")
    session.run("python", "-m", "sphinx", "-q", "-b", "linkcheck", "docs", "docs/_build/links")


@nox.session(python="3.11")
def dependencies(session: nox.Session) -> None:
    """What is imported is declared, and what is declared is imported."""
    session.install("--constraint", "constraints.txt", "deptry")
    session.run("deptry", ".")
