"""`asym convert`: an adapter of any format that is read, written in another library's format and held to the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from asym_analysis.cli.console import Table, headings
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter
from asym_analysis.cli.options import AdapterArgument, command

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.adapters.adapter import Adapter

__all__ = [
    "BaseOption",
    "ComponentOption",
    "FoldFlag",
    "Format",
    "HeadsFlag",
    "OverwriteFlag",
    "TargetArgument",
    "ToOption",
    "convert",
    "written_modules",
]

Format = Literal["peft", "kohya", "diffusers"]
TargetArgument = Annotated[Path, typer.Argument(help="PEFT: a folder. Others: a .safetensors file or a folder.")]
ToOption = Annotated[Format, typer.Option("--to", help="The format to write.")]
FoldFlag = Annotated[bool, typer.Option("--fold-scale", help="Multiply the scale into B, so that every loader's is 1.")]
ComponentOption = Annotated[
    str | None, typer.Option(help="Part of the pipeline (unet, transformer, text_encoder), if names do not say it.")
]
BaseOption = Annotated[
    str | None, typer.Option(help="The base model, whose module names replace flattened ones (lora_unet_...).")
]
HeadsFlag = Annotated[
    bool,
    typer.Option("--without-heads", help="Leave out trained heads, biases and embeddings."),
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace an adapter that is there already.")]

_MODULES = headings("module | rank | scaling | relative_error: relative error of dW")


@command("convert", reads="one")
def convert(
    call: Call,
    adapter: AdapterArgument,
    target: TargetArgument,
    to: ToOption = "peft",
    fold_scale: FoldFlag = False,
    component: ComponentOption = None,
    base: BaseOption = None,
    without_heads: HeadsFlag = False,
    overwrite: OverwriteFlag = False,
) -> int:
    """Write an adapter in another library's format, with its scale; read it back and compare every update.

    What the format has no place for is refused by name, and nothing is written.
    """
    read = read_adapter(call, adapter)
    kept = read.without_extras() if without_heads else read
    with arguments_checked():
        path = kept.save(target, to, fold_scale=fold_scale, component=component, base=base, overwrite=overwrite)
    table = written_modules(kept, path)
    below = "A row: the update as it is read back from the new file, against the update that was read."
    title = f"{read.name} as {to}: {path}"
    return call.deliver(
        table, Table("modules", table, title, _MODULES, below), settings={"written": str(path), "to": to}
    )


def written_modules(adapter: Adapter, path: Path) -> pd.DataFrame:
    """Rank and scale of every module that was written, and how far its update is from the one that was meant."""
    import pandas as pd

    from asym_analysis.adapters.load import load_adapter

    written = load_adapter(path)
    rows = []
    for (module, meant), now in zip(adapter.items(), written, strict=True):
        update = written[module if module in written else now]
        wanted = meant.delta().double()
        error = (update.delta().double() - wanted).norm() / wanted.norm().clamp(min=1e-30)
        rows.append((module, update.rank, update.scaling, error.item()))
    return pd.DataFrame(rows, columns=["module", "rank", "scaling", "relative_error"])
