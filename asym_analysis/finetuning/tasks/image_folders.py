"""Images of the user's own in classes: one folder a class."""

from __future__ import annotations

from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass
from typing_extensions import override

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.settings import CHECKED, Count, Folder, Fraction, Seed
from asym_analysis.finetuning.tasks.base import TaskData, held_out_rows
from asym_analysis.finetuning.tasks.images import ImageRecipe, Images, ImageTask, image_files

__all__ = ["ImageFolderTask"]


@dataclass(frozen=True, config=CHECKED)
class ImageFolderTask(ImageTask):
    """Classify images of one's own: `data_folder` holds one folder of images a class.

    Parameters
    ----------
    data_folder
        Folders of images, called as their classes; the config file's own folder by default.
    held_out
        Fraction of each class that is kept for scoring, drawn with `rows_seed`.
    edge
        Image size in pixels; the model's own if None.
    train_rows
        Learn from at most so many images, drawn with `rows_seed`; all by default.
    dataset
        How tables call the task; the folder's name if None.
    """

    data_folder: Folder = Path()
    held_out: Fraction = 0.2
    edge: Count | None = None
    train_rows: Count | None = None
    rows_seed: Seed = 0
    dataset: str | None = None
    kind: Literal["images"] = field(default="images", kw_only=True)

    @property
    @override
    def name(self) -> str:
        return self.dataset or Path(self.data_folder).resolve().name

    @override
    def files(self) -> list[Path]:
        return [path for path, _ in self._found]

    @override
    def check(self) -> None:
        self._split  # noqa: B018  (finds and checks every folder)

    @cached_property
    def _found(self) -> list[tuple[Path, str]]:
        folders = [path for path in sorted(Path(self.data_folder).glob("*")) if path.is_dir()]
        return [(file, folder.name) for folder in folders for file in image_files(folder)]

    @cached_property
    def _split(self) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
        labels = [label for _, label in self._found]
        if len(set(labels)) < 2:
            raise AdapterError(
                f"{self.data_folder} holds images of {len(set(labels))} classes: give a folder with one folder of "
                "images a class (--data or settings.task.data_folder)"
            )
        generator = np.random.default_rng(self.rows_seed)
        train, dev = held_out_rows(self._found, labels, self.held_out, generator, str(self.data_folder))
        if self.train_rows is not None and self.train_rows < len(train):
            train = [train[i] for i in np.sort(generator.choice(len(train), self.train_rows, replace=False))]
        return train, dev

    @override
    def classes(self) -> list[str]:
        return sorted({label for _, label in self._found})

    @override
    def data(self, processor: ImageRecipe) -> TaskData:
        classes = self.classes()
        train, dev = ([(path, classes.index(label)) for path, label in part] for part in self._split)
        return TaskData(Images(train, processor), Images(dev, processor))
