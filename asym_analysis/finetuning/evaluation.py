"""Scores of a run on its development rows, by halves that tune and that are reported, and what is kept of a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from asym_analysis.finetuning.config import FinetuneConfig
from asym_analysis.finetuning.tasks import TaskData

__all__ = ["Evaluator", "tuning_rows"]


def tuning_rows(count: int, seed: int) -> Bool[np.ndarray, " rows"]:
    """Choose the half of the development rows that tunes; the others are reported.

    Parameters
    ----------
    count
        Number of development rows.
    seed
        Of the draw.

    Returns
    -------
    ndarray
        True for count // 2 rows.

    Examples
    --------
    >>> int(tuning_rows(7, 0).sum())
    3
    """
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(count)[: count // 2]] = True
    return chosen


class Evaluator:
    """Scores rows for a Trainer, which it gives them in an order of its own.

    Parameters
    ----------
    config
        The run's settings.
    processor
        The task's tokenizer or image processor.
    data
        The task's data.
    """

    def __init__(self, config: FinetuneConfig, processor: Any, data: TaskData) -> None:
        self.config, self.processor, self.data = config, processor, data
        self._present = data.dev
        self.tuning = tuning_rows(len(data.dev), config.split_seed)

    @property
    def order(self) -> Int[np.ndarray, " rows"]:
        """The order in which the present rows are run: by falling length where batches are grouped by length.

        transformers drops the column of lengths before it asks for an order, and would shuffle by the run's seed.
        """
        names = getattr(self._present, "column_names", [])
        if not (self.config.group_by_length and "length" in names):
            return np.arange(len(self._present))
        return np.argsort(-np.asarray(self._present["length"]), kind="stable")

    def curve_scores(self, output: Any) -> dict[str, float]:
        """What the Trainer logs of the development rows in the course of a run: the score of either half."""
        # The Trainer also asks when it predicts the further sets, which have no halves.
        return self.by_half(*self._in_order(output)) if self._present is self.data.dev else {}

    def final_scores(self, trainer: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Metrics of all sets of rows, and what is kept of every development row.

        Returns
        -------
        tuple
            Metrics and mean loss of the development rows, of each further set with its name before them, `value` and
            `tune_value` of the deciding metric; and the arrays of `Task.outcomes` with `tuning`, True for the rows that
            tune.
        """
        scores: dict[str, float] = {}
        outcomes: dict[str, np.ndarray] = {}
        for name, rows in {"": self.data.dev, **self.data.more}.items():
            self._present = rows
            output = trainer.predict(rows)
            predictions, labels = self._in_order(output)
            found = self.config.task.score(predictions, labels, self.processor)
            if "test_loss" in output.metrics:
                found = {"loss": float(output.metrics["test_loss"])} | found
            scores |= {f"{name}_{metric}" if name else metric: value for metric, value in found.items()}
            if not name:
                scores |= self.by_half(predictions, labels)
                outcomes = self.config.task.outcomes(predictions, labels, self.processor)
        return scores, outcomes | {"tuning": self.tuning}

    def by_half(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The deciding metric: `value` on the rows that are reported, and `tune_value` on those that tune."""
        task, every = self.config.task, np.ones_like(self.tuning)
        reported = every if self.config.reported == "all" else ~self.tuning
        rows = {"value": reported, "tune_value": every if self.config.reported == "all" else self.tuning}
        return {
            name: task.score(predictions[chosen], labels[chosen], self.processor)[task.metric]
            for name, chosen in rows.items()
            if chosen.any()
        }

    def _in_order(self, output: Any) -> tuple[np.ndarray, np.ndarray]:
        """Predictions and labels in the order of the rows."""
        predictions = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
        back = np.argsort(self.order, kind="stable")
        return predictions[back], output.label_ids[back]
