"""Images of several domains: learn in some, be scored in the others (the paper's DomainBed setting)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor
from typing_extensions import override

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.settings import CHECKED, Count, DataPath, Fraction, Seed
from asym_analysis.finetuning.tasks.base import Task, TaskData, largest_class, read_rows

__all__ = ["DomainTask", "ImageRecipe", "ImageTask", "Images", "image_files"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@plain_dataclass(frozen=True)
class ImageRecipe:
    """How the model wants its images: edge length in pixels, and the mean and standard deviation of each channel.

    Read from the model's preprocessor_config.json; torchvision is not needed.
    """

    edge: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of_model(cls, source: str, options: Mapping[str, Any], edge: int | None = None) -> ImageRecipe:
        """The recipe of a model; `edge` replaces its own image size where given."""
        from transformers.image_processing_base import ImageProcessingMixin

        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(source, **options)
        except OSError as error:
            raise AdapterError(
                f"{source} has no preprocessor_config.json, so it is not known as a model of images: texts need "
                f'kind = "classification" ({str(error).splitlines()[0].split(". ")[0]})'
            ) from None
        crop = settings.get("crop_size") or settings.get("size") or {}
        own = crop if isinstance(crop, int) else crop.get("height") or crop.get("shortest_edge") or 224
        return cls(edge or own, tuple(settings["image_mean"]), tuple(settings["image_std"]))

    def __call__(self, path: Path) -> Float[Tensor, "3 edge edge"]:
        """Read an image file, resize its shorter edge, cut out the middle and normalize."""
        from PIL import Image

        with Image.open(path) as file:
            image = file.convert("RGB")
            scale = self.edge / min(image.size)
            width, height = (max(self.edge, round(scale * side)) for side in image.size)
            left, top = (width - self.edge) // 2, (height - self.edge) // 2
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + self.edge, top + self.edge))
            pixels = np.asarray(image, dtype=np.float32) / 255
        normal = (pixels - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return torch.from_numpy(normal.transpose(2, 0, 1).copy())

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Nothing to save: the recipe stands beside the model."""


class Images(Sequence[dict[str, Any]]):
    """Rows whose pixels are read when asked for."""

    def __init__(self, rows: Sequence[tuple[Path, int]], recipe: ImageRecipe) -> None:
        self.rows = rows
        self.recipe = recipe

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        path, label = self.rows[i]
        return {"pixel_values": self.recipe(path), "labels": label}


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and the folders in it, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


class ImageTask(Task):
    """Classify images by a head on a pretrained model of images."""

    heads: ClassVar[tuple[str, ...]] = ("classifier",)
    edge: int | None

    @property
    @override
    def metric(self) -> str:
        return "accuracy"

    @abstractmethod
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""

    @override
    def model(self, source: str, **options: Any) -> Any:
        from transformers import AutoModelForImageClassification

        try:
            return AutoModelForImageClassification.from_pretrained(
                source, num_labels=len(self.classes()), ignore_mismatched_sizes=True, **options
            )
        except ValueError as error:
            raise AdapterError(
                f"{source} cannot be opened as a classifier of images: {str(error).splitlines()[0]}"
            ) from None

    @override
    def processor(self, source: str, **options: Any) -> ImageRecipe:
        return ImageRecipe.of_model(source, options, self.edge)

    @override
    def collator(self, processor: ImageRecipe) -> Any:
        from transformers import default_data_collator

        return default_data_collator

    @override
    def score(self, predictions: np.ndarray, labels: np.ndarray, processor: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(predictions.argmax(-1) == labels))}

    @override
    def baseline(self, data: TaskData) -> float | None:
        return largest_class([label for _, label in data.dev.rows])


@dataclass(frozen=True, config=CHECKED)
class DomainTask(ImageTask):
    """Classify images, learned in `train_domains` and scored there (held-out rows) and in every other domain.

    Parameters
    ----------
    data_folder
        Holds the images and `index.csv` with columns path, domain and label.
    train_domains
        The domains to learn from.
    held_out
        Fraction of their images that is kept for scoring, drawn with `rows_seed`.
    edge
        Image size in pixels; the model's own if None.
    train_rows
        Learn from so many of the images that are not held out, drawn with `rows_seed`; all by default.
    scored_rows
        Score on at most so many of the training images, and of each other domain; all by default.
    dataset
        How tables call the task; by its training domains if None.
    """

    data_folder: DataPath
    train_domains: tuple[str, ...]
    held_out: Fraction = 0.2
    edge: Count | None = None
    train_rows: Count | None = None
    scored_rows: Count | None = None
    rows_seed: Seed = 0
    dataset: str | None = None
    kind: Literal["domains"] = field(default="domains", kw_only=True)

    @property
    @override
    def name(self) -> str:
        return self.dataset or f"images from {', '.join(self.train_domains)}"

    @override
    def files(self) -> list[Path]:
        folder = Path(self.data_folder)
        index = folder / "index.csv"
        return [index, *(folder / row["path"] for row in read_rows(index))] if index.is_file() else [index]

    def _index(self) -> tuple[list[dict[str, Any]], list[str]]:
        rows = read_rows(Path(self.data_folder) / "index.csv")
        unknown = set(self.train_domains) - {row["domain"] for row in rows}
        if unknown:
            known = ", ".join(sorted({row["domain"] for row in rows}))
            raise AdapterError(f"{self.data_folder}: no domain {', '.join(sorted(unknown))}; it has {known}")
        return rows, sorted({row["label"] for row in rows})

    @override
    def classes(self) -> list[str]:
        return self._index()[1]

    @override
    def data(self, processor: ImageRecipe) -> TaskData:
        rows, labels = self._index()
        folder = Path(self.data_folder)

        def images(chosen: Sequence[dict[str, Any]]) -> Images:
            return Images([(folder / row["path"], labels.index(row["label"])) for row in chosen], processor)

        generator = np.random.default_rng(self.rows_seed)

        def shuffled(chosen: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            return [chosen[i] for i in generator.permutation(len(chosen))]

        inside = shuffled([row for row in rows if row["domain"] in self.train_domains])
        held = round(self.held_out * len(inside))
        train = inside[held:][: self.train_rows]
        others = sorted({row["domain"] for row in rows} - set(self.train_domains))
        outside = {domain: shuffled([row for row in rows if row["domain"] == domain]) for domain in others}
        more = {name: images(chosen[: self.scored_rows]) for name, chosen in {"train": train, **outside}.items()}
        return TaskData(images(train), images(inside[:held]), more)
