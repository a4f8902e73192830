"""What a run reports while it trains: its step, its loss and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Reporter", "TrainingState", "as_reporter", "progress_callback"]


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands.

    Parameters
    ----------
    run
        The run's name.
    step, steps
        Updates done, and of how many.
    loss
        The mean training loss of the last logged stretch; None before the first.
    seconds_left
        At the pace so far; None before the first step.
    """

    run: str
    step: int
    steps: int
    loss: float | None
    seconds_left: float | None

    def __str__(self) -> str:
        loss = "" if self.loss is None else f", loss {self.loss:.4g}"
        left = "" if self.seconds_left is None else f", {_duration(self.seconds_left)} left"
        return f"{self.run}: step {self.step:,} of {self.steps:,}{loss}{left}"


#: Is called before the first step and after every step.
Reporter = Callable[[TrainingState], None]


def as_reporter(progress: bool | Reporter) -> Reporter | None:
    """A reporter that draws a bar for True, none for False, and any other as it is."""
    if progress is False:
        return None
    return _bar() if progress is True else progress


def _bar() -> Reporter:
    from tqdm.auto import tqdm

    bars: dict[str, Any] = {}

    def show(state: TrainingState) -> None:
        bar = bars.get(state.run)
        if bar is None:
            bar = bars[state.run] = tqdm(total=state.steps, desc=state.run, unit="step", leave=False)
        bar.update(state.step - bar.n)
        if state.loss is not None:
            bar.set_postfix_str(f"loss {state.loss:.4g}", refresh=False)
        if state.step >= state.steps:
            bar.close()

    return show


def progress_callback(run: str, report: Reporter) -> Any:
    """Make a callback of transformers' Trainer that reports after every step."""
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def __init__(self) -> None:
            self.loss: float | None = None
            self.first: tuple[float, int] | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.first = (time.perf_counter(), state.global_step)
            report(TrainingState(run, state.global_step, state.max_steps, None, None))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            left = None
            if self.first is not None and state.global_step > self.first[1]:
                pace = (time.perf_counter() - self.first[0]) / (state.global_step - self.first[1])
                left = pace * (state.max_steps - state.global_step)
            report(TrainingState(run, state.global_step, state.max_steps, self.loss, left))

    return Report()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
