"""certify on a small classifier: what it charges, what it refuses, and that its best row covers the true risk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from asym_analysis import certify
from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds import risk
from asym_analysis.bounds.energies import scale_price
from asym_analysis.bounds.posterior import fitted_posterior
from asym_analysis.bounds.repeated import LowRankClassifier, gaussian_classes, train_low_rank


def gaussian_kl(squared: float, size: int, q: float, p: float) -> float:
    """KL of Gaussians in `size` dimensions whose means are sqrt(squared) apart, by torch."""
    mean = torch.full((size,), math.sqrt(squared / size), dtype=torch.float64)
    normals = (
        torch.distributions.Normal(m, torch.tensor(s, dtype=torch.float64)) for m, s in ((mean, q), (0 * mean, p))
    )
    return torch.distributions.kl_divergence(*normals).sum().item()


N = 1500


class Task:
    """Two Gaussian classes, one adapter trained on n samples, losses on them and on fresh ones."""

    def __init__(self, seed: int = 0, n: int = N) -> None:
        draw = gaussian_classes(dimension=12, classes=3, separation=3.5)
        self.x, self.y = draw(n, seed)
        self.fresh_x, self.fresh_y = draw(50_000, seed + 10_000)
        model = LowRankClassifier(dimension=12, classes=3, rank=3, tuned="B", seed=1)
        self.adapter = train_low_rank(model, self.x[None], self.y[None])[0]

    def evaluate(self, adapter: Adapter) -> np.ndarray:
        return self.losses(adapter, self.x, self.y)

    def evaluate_some(self, adapter: Adapter, samples: np.ndarray) -> np.ndarray:
        return self.losses(adapter, self.x[samples], self.y[samples])

    def risk(self, adapter: Adapter) -> float:
        return float(self.losses(adapter, self.fresh_x, self.fresh_y).mean())

    def losses(self, adapter: Adapter, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (np.argmax(x @ adapter["classifier"].delta().numpy().T, axis=1) != y).astype(float)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task()


def test_certificate_is_not_vacuous_and_covers_the_risk(task: Task) -> None:
    report = certify(task.adapter, task.evaluate, N, draws=30)
    frame = report.frame
    best = report.best()
    assert best is not None
    assert best.kind == "certificate"
    assert task.risk(task.adapter) < best.risk < 0.5
    assert set(frame["rung"]) == {"coded", "gaussian", "one draw"}
    assert set(frame["predictor"]) == {"coded adapter", "Gibbs posterior", "one draw"}
    assert set(frame["form"]) == {"kl-inverse", "Catoni", "convexity", "McAllester", "Chernoff"}
    assert (frame["gap"] == frame["risk"] - frame["empirical_risk"]).all()


def test_every_row_is_the_formula_of_its_columns(task: Task) -> None:
    """A third of delta for each method; of the Gibbs posterior's, nine tenths to the bound and one to the sampling."""
    frame = certify(task.adapter, task.evaluate, N, draws=20, relative_noise=(0.5,), levels=(3,)).frame
    for row in frame.itertuples():
        share = 0.05 / 3 * (0.9 if row.rung == "gaussian" else 1.0)
        form = risk.chernoff_risk if row.form == "Chernoff" else risk.RISK_FORMS[row.form]
        assert row.risk == pytest.approx(min(1.0, form(row.empirical_risk, row.nats, N, 1 - share)), rel=1e-12)
    assert "loss over 20 draws" in frame.loc[frame["rung"] == "gaussian", "note"].iloc[0]


def test_what_the_data_chose_from_is_charged(task: Task) -> None:
    free, paid = (
        certify(task.adapter, task.evaluate, N, methods=("coded",), levels=(3,), tried=tried).frame for tried in (1, 64)
    )
    assert (paid["nats"] - free["nats"]).to_numpy() == pytest.approx(math.log(64))
    assert (paid["risk"] > free["risk"]).all()


def test_blocks_estimate_the_same_risk(task: Task) -> None:
    options = {"methods": ("gaussian",), "relative_noise": (0.5,)}
    whole = certify(task.adapter, task.evaluate, N, draws=60, **options).frame
    blocks = certify(task.adapter, task.evaluate, N, draws=250, evaluate_some=task.evaluate_some, **options).frame
    assert blocks["nats"].tolist() == whole["nats"].tolist()
    mean = [float(frame["note"].iloc[0].split("draws ")[1].split(",")[0]) for frame in (whole, blocks)]
    assert mean[0] == pytest.approx(mean[1], abs=4 * math.sqrt(0.1 / N))


def test_prior_from_other_samples_is_tighter_and_labelled(task: Task) -> None:
    other = Task(seed=77)
    plain = certify(task.adapter, task.evaluate, N, draws=10, levels=(3,), relative_noise=(0.5,))
    report = certify(task.adapter, task.evaluate, N, draws=10, levels=(3,), relative_noise=(0.5,), prior=other.adapter)
    assert set(report.frame["prior"]) == {"data"}
    assert set(plain.frame["prior"]) == {"initialization"}
    held = report.frame[report.frame["rung"] == "hold-out"].iloc[0]
    losses = task.evaluate(other.adapter).mean()
    assert held["risk"] == pytest.approx(risk.chernoff_risk(losses, 0.0, N, 1 - 0.05 / 4), rel=1e-12)
    assert report.frame["assumptions"].str.contains("trained on none of the 1,500 samples").all()
    gaussian = [r.frame[r.frame["rung"] == "gaussian"]["nats"].min() for r in (plain, report)]
    assert gaussian[1] < gaussian[0]


def test_posterior_trained_for_the_bound(task: Task) -> None:
    key = ("classifier", "B")
    stds = torch.full((3, 3), 0.4)
    posterior = fitted_posterior(task.adapter, {key: stds}, "B")
    squared = task.adapter["classifier"].B.square().sum().item()
    grid = [2.0 ** (k / 2) for k in range(-8, 12)]
    assert posterior.kl == pytest.approx(min(gaussian_kl(squared, 9, 0.4, s) + scale_price(s) for s in grid), rel=1e-6)
    report = certify(task.adapter, task.evaluate, N, methods=("gaussian",), posterior=posterior, draws=50)
    assert report.frame["nats"].iloc[0] == posterior.kl
    with pytest.raises(ValueError, match="standard deviation"):
        fitted_posterior(task.adapter, {}, "B")


def test_head_left_out_is_no_certificate(task: Task) -> None:
    extras = {"bias": TensorSource((3,), "float32", lambda: torch.ones(3))}
    adapter = Adapter(
        {"classifier": task.adapter.source("classifier")}, name="with head", extras=extras, initial=task.adapter.initial
    )
    out = certify(adapter, task.evaluate, N, methods=("coded",), levels=(3,), include_head=False)
    assert set(out.frame["kind"]) == {"diagnostic"}
    assert out.best() is None
    with pytest.raises(ValueError, match="zeroed"):
        certify(adapter, task.evaluate, N, methods=("coded",), levels=(3,))
    bias = np.array([0.0, 1.0, 2.0])

    def evaluate(candidate: Adapter) -> np.ndarray:
        scores = task.x @ candidate["classifier"].delta().numpy().T + bias * candidate.extras["bias"].read().numpy()
        return (np.argmax(scores, axis=1) != task.y).astype(float)

    inside = certify(adapter, evaluate, N, methods=("coded",), levels=(3,))
    assert inside.frame["nats"].min() > out.frame["nats"].min()


@pytest.mark.parametrize(
    ("losses", "message"),
    [(np.zeros(3), "one for each"), (np.full(N, 2.0), "outside"), (np.full(N, np.nan), "outside")],
)
def test_losses_that_cannot_be_certified(task: Task, losses: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(task.adapter, lambda adapter: losses, N, levels=(3,))


def test_same_seed_same_table(task: Task, tmp_path: Path) -> None:
    for name in ("one", "two"):
        certify(task.adapter, task.evaluate, N, draws=5, levels=(3,), seed=3).to_json(tmp_path / f"{name}.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_command(task: Task, tmp_path: Path, asym) -> None:
    from safetensors.torch import save_file

    update = task.adapter["classifier"]
    save_file(
        {"base_model.model.score.lora_A.weight": update.A, "base_model.model.score.lora_B.weight": update.B},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 3, "lora_alpha": 3, "target_modules": ["score"]}'
    )
    np.savez(tmp_path / "data.npz", x=task.x, y=task.y)
    (tmp_path / "losses.py").write_text(
        "import numpy as np\n"
        f"data = np.load({str(tmp_path / 'data.npz')!r})\n"
        "def evaluate(adapter):\n"
        "    update = next(iter(adapter.values()))\n"
        "    return (np.argmax(data['x'] @ update.delta().numpy().T, axis=1) != data['y']).astype(float)\n"
    )
    arguments = ["certify", str(tmp_path), "--evaluate", f"{tmp_path / 'losses.py'}:evaluate", "--n", str(N)]
    shown = asym(*arguments, "--draws", "10")
    assert shown.code == 0, shown.err
    assert "certified risk at most" in shown.err
    assert asym(*arguments, "--draws", "10", "--json").records("certificates")[0]["tuned"] == "both"
    refused = asym("certify", tmp_path, "--evaluate", "nowhere.py:evaluate", "--n", N)
    assert refused.code == 1
    assert "nowhere.py" in refused.err
    forgotten = asym("certify", tmp_path, "--evaluate", tmp_path / "losses.py", "--n", N)
    assert "names no function" in " ".join(forgotten.err.split())
