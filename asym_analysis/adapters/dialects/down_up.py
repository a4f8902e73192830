"""Files of image-generation trainers: down and up matrices, or LyCORIS's, with an alpha for each module."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import GIVE_SCALE, Ledger
from asym_analysis.adapters.dialects.lycoris import add_hadamard, add_kronecker
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.factorizations.blocks import SplitPair
from asym_analysis.adapters.factorizations.module_source import Factorization, Layout
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.adapters.factorizations.products import TuckerPair
from asym_analysis.errors import AdapterError, AdapterValueError

__all__ = ["DIFFUSERS", "KOHYA", "DownUpDialect", "DownUpKey", "parse_key", "read_down_up"]


_PAIRS = (
    # Module, then: the part, with its leaf.
    (re.compile(r"^(.+)\.lora_(down|up|mid)(?:\.(\d+))?\.weight$"), None),
    (re.compile(r"^(.+)\.lora_(A|B)(?:\.[^.]+)?\.weight$"), None),
    (re.compile(r"^(.+)\.lora_(A|B)$"), None),
    (re.compile(r"^(.+)\.(?:lora|lora_linear_layer)\.(down|up)\.weight$"), None),
    (re.compile(r"^(.+?)(?:\.processor)?\.([A-Za-z0-9_]+_lora\d*)\.(down|up)\.weight$"), "processor"),
)
_OTHER = re.compile(
    r"^(.+)\.(?:(alpha|dora_scale|scalar|lora_magnitude_vector)(?:\.weight)?"
    r"|(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12]))(?:\.weight)?"
    r"|(diff|diff_b|set_weight|w_norm|b_norm)"
    r"|(lora_(?:down|up|A|B)\.bias)"
    r"|(oft_blocks|oft_diag|on_input|[ab][12]\.weight|oft_R.*|boft_.*))$"
)
_ROLES = {"down": "A", "up": "B", "A": "A", "B": "B", "mid": "mid"}
_TEXT_ENCODER = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass(frozen=True)
class DownUpKey:
    """A tensor's name, taken apart.

    Attributes
    ----------
    module
        Name of the adapted module as the file writes it.
    part
        ``A``, ``B``, ``mid``, ``alpha``, ``magnitude``, ``scalar``, ``hada_w1_a``, ``lokr_w1``, ...; ``dense`` for a
        change of a whole weight or bias, ``bias`` for that of a factor, ``other`` for
        methods whose change of a weight is not B·A.
    split
        Number of the part of a fused projection that the factor belongs to, where each has its own.
    """

    module: str
    part: str
    split: int | None = None


def parse_key(key: str) -> DownUpKey | None:
    """Take a tensor name apart; None where no trainer names a part of an update so.

    Parameters
    ----------
    key
        A tensor's name.

    Returns
    -------
    DownUpKey or None
        The module and the part.

    Examples
    --------
    >>> parse_key("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
    DownUpKey(module='lora_unet_mid_block_attentions_0_proj_in', part='A', split=None)
    >>> parse_key("mid_block.attn1.processor.to_out_lora.up.weight")
    DownUpKey(module='mid_block.attn1.to_out.0', part='B', split=None)
    >>> parse_key("double_blocks.0.processor.qkv_lora2.down.weight").module
    'double_blocks.0.txt_attn.qkv'
    """
    for pattern, kind in _PAIRS:
        found = pattern.match(key)
        if found is None:
            continue
        if kind == "processor":
            parent, name, role = found.groups()
            return DownUpKey(_processor_module(parent, name), _ROLES[role])
        module, role, *split = found.groups()
        return DownUpKey(module, _ROLES[role], int(split[0]) if split and split[0] is not None else None)
    found = _OTHER.match(key)
    if found is None:
        return None
    module, single, lycoris, dense, bias, _ = found.groups()
    if single is not None:
        return DownUpKey(module, "magnitude" if single in ("dora_scale", "lora_magnitude_vector") else single)
    return DownUpKey(module, lycoris or ("dense" if dense else "bias" if bias else "other"))


def _processor_module(parent: str, name: str) -> str:
    """The projection that an attention processor's pair adapts."""
    projection, _, stream = name.partition("_lora")
    if re.search(r"(?:double|single)_blocks\.\d+$", parent):  # x-flux: 1 is the image's stream, 2 the text's
        attention = {"1": ".img_attn", "2": ".txt_attn"}.get(stream, "")
        return f"{parent}{attention}.{projection}"
    if parent.endswith("self_attn"):
        return f"{parent}.{_TEXT_ENCODER.get(projection, projection)}"
    return f"{parent}.{'to_out.0' if projection == 'to_out' else projection}"


@dataclass(frozen=True)
class DownUpDialect:
    """Files of image-generation trainers, whose modules are named by one pattern.

    Parameters
    ----------
    name
        The name of the dialect.
    module
        Pattern that the module of one tensor matches.
    tensor
        Pattern that is found in this tensor's name.
    """

    name: str
    module: str
    tensor: str = ""

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a part of an update belongs to such a module.

        Parameters
        ----------
        checkpoint
            What a container holds.

        Returns
        -------
        bool
            False, too, where the config names a tuner of PEFT.
        """
        if checkpoint.config.get("peft_type"):
            return False
        module, tensor = re.compile(self.module), re.compile(self.tensor)
        return any(
            (key := parse_key(name)) is not None
            and module.match(key.module) is not None
            and tensor.search(name) is not None
            and key.part not in ("alpha", "dense", "bias", "other")
            for name in checkpoint.tensors
        )

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Scale each update by its alpha, or by the LoraConfig in the file's header, or by 1.

        Parameters
        ----------
        checkpoint
            What a container holds.

        Returns
        -------
        Reading
            The modules, with the account of every tensor.

        Raises
        ------
        AdapterError
            If no pair can be formed.
        """
        return read_down_up(Ledger(checkpoint, self.name), checkpoint.header)


#: sd-scripts, LyCORIS and what follows them: LoRA, LoCon, LoHa, LoKr, DoRA. Module names stay flattened as in the file,
#: since the underscores cannot be undone without the model.
KOHYA = DownUpDialect("kohya", module=r"(?:lora|lycoris)_[^.]*$")

#: diffusers, old and new, and the trainers that write dotted names beside it: ComfyUI's, ai-toolkit's, x-flux's.
DIFFUSERS = DownUpDialect(
    "diffusers",
    module=r".*\.",
    tensor=r"^(?:model\.)?(?:unet|transformer(?:_2)?|text_encoder(?:_\d)?|prior|diffusion_model|text_encoders"
    r"|clip_[lg]|t5xxl|controlnet|image_encoder|vae|dit)\.(?!h\.\d)"
    r"|(?:\blora_down|\blora_up|lora\d*\.down|lora\d*\.up|lora_linear_layer\.(?:down|up))(?:\.\d+)?\."
    r"|\.(?:hada|lokr)_[wt]\d",
)


def read_down_up(ledger: Ledger, header: Mapping[str, Any]) -> Reading:
    """Group the tensors by module and scale each update with its own alpha.

    Where there is none, the LoraConfig counts that diffusers writes into the header, or else 1: trainers of this
    family take a missing alpha for the rank.

    Parameters
    ----------
    ledger
        The tensors, none of them accounted for yet.
    header
        The container's text metadata.

    Returns
    -------
    Reading
        The modules, with the account of every tensor.

    Raises
    ------
    AdapterError
        If no pair can be formed, or the header's LoraConfig is damaged.
    """
    groups: dict[str, dict[str, str]] = {}
    for tensor in ledger.tensors:
        key = parse_key(tensor)
        if key is None:
            ledger.keep(tensor, tensor, "trained beside the adapter")
        elif key.part == "dense":
            ledger.keep(tensor, tensor, f"change of a whole weight or bias of {key.module}")
        elif key.part == "bias":
            ledger.keep(tensor, tensor, f"bias of a factor of {key.module}")
        elif key.part == "other":
            ledger.refuse(tensor, f"{key.module}: OFT, GLoRA and IA3 multiply the base weight; they add no B·A")
        else:
            part = key.part if key.split is None else f"{key.part}.{key.split}"
            groups.setdefault(key.module, {})[part] = tensor
    ledger.require_both(groups)
    configs = _header_configs(header)
    silent = [module for module, parts in groups.items() if not _has_scale(module, parts, configs)]
    for module, parts in groups.items():
        try:
            _add_module(ledger, module, dict(parts), configs)
        except AdapterValueError as error:
            ledger.refuse(parts.values(), f"{module}: {error}")
    _say_scale(ledger, len(silent), len(groups), header, from_header=bool(configs))
    return ledger.reading(_metadata(header))


def _has_scale(module: str, parts: Mapping[str, str], configs: Mapping[str, PeftConfig]) -> bool:
    """Whether the file records the scale of a module; LoKr with both matrices whole is not scaled."""
    unscaled = {"lokr_w1", "lokr_w2"} <= parts.keys()
    return unscaled or "alpha" in parts or module.partition(".")[0] in configs


def _add_module(ledger: Ledger, module: str, parts: dict[str, str], configs: Mapping[str, PeftConfig]) -> None:
    also = tuple(parts[part] for part in ("alpha", "scalar") if part in parts)
    recorded = parts.pop("alpha", None)
    alpha = ledger.alpha if ledger.alpha is not None else None if recorded is None else ledger.number(recorded)
    scalar = ledger.number(parts.pop("scalar")) if "scalar" in parts else 1.0
    component, _, path = module.partition(".")
    config = configs.get(component)

    def scaling(rank: int | None) -> float:
        if rank is None:  # LoKr with both matrices whole has no rank: LyCORIS scales it by 1, whatever alpha says.
            return scalar
        if alpha is None:
            return scalar * (config.scaling(path, rank) if config is not None else 1.0)
        return scalar * alpha / rank

    _drop_input_norms(ledger, module, parts)
    if any(part.startswith("hada_") for part in parts):
        add_hadamard(ledger, module, parts, scaling, also)
    elif any(part.startswith("lokr_") for part in parts):
        add_kronecker(ledger, module, parts, scaling, also)
    else:
        factorize, rank, layout = _pair(ledger, parts)
        ledger.add(module, parts, factorize, scaling(rank), layout=layout, also=also)


def _pair(ledger: Ledger, parts: Mapping[str, str]) -> tuple[Factorization, int, Layout]:
    shape = {part: ledger.tensors[tensor].shape for part, tensor in parts.items()}
    if "A.0" in shape:
        if any(len(dimensions) != 2 or 0 in dimensions for part, dimensions in shape.items() if part != "magnitude"):
            raise AdapterValueError("the pairs of a split projection are not all matrices")
        return SplitPair(sum(part.startswith("A.") for part in shape)), shape["A.0"][0], Layout()
    if "A" not in shape or "B" not in shape:
        raise AdapterValueError(f"{', '.join(shape) or 'alpha'} without {'B' if 'A' in shape else 'A'}")
    if len(shape["A"]) < 2 or len(shape["B"]) < 2 or 0 in shape["A"]:
        raise AdapterValueError(f"A {shape['A']} and B {shape['B']} are not matrices")
    if "mid" in shape:
        return TuckerPair(), shape["A"][0], Layout((shape["B"][0], shape["A"][1], *shape["mid"][2:]))
    convolution = (shape["B"][0], *shape["A"][1:]) if len(shape["A"]) > 2 else None
    return Pair(), shape["A"][0], Layout(convolution)


def _drop_input_norms(ledger: Ledger, module: str, parts: dict[str, str]) -> None:
    """Take DoRA magnitudes of the inputs out of the parts: only those of the outputs have a place in an update."""
    shape = ledger.tensors[parts["magnitude"]].shape if "magnitude" in parts else ()
    if len(shape) > 1 and shape[0] == 1 and shape[1] > 1:
        ledger.refuse(
            parts.pop("magnitude"),
            f"{module}: its DoRA magnitudes belong to the inputs, only those of outputs are read; B·A is given alone",
        )


def _header_configs(header: Mapping[str, Any]) -> dict[str, PeftConfig]:
    """The LoraConfig of each component, from the JSON text that diffusers writes into the header."""
    text = header.get("lora_adapter_metadata")
    if not isinstance(text, str):
        return {}
    try:
        flat = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"the header's lora_adapter_metadata is not valid JSON: {error}") from error
    if not isinstance(flat, dict):
        raise AdapterError("the header's lora_adapter_metadata is not a mapping")
    components: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        component, _, entry = name.partition(".")
        components.setdefault(component, {})[entry] = value
    return {component: PeftConfig(values) for component, values in components.items()}


def _say_scale(ledger: Ledger, silent: int, modules: int, header: Mapping[str, Any], *, from_header: bool) -> None:
    if silent == modules:
        trained = header.get("ss_network_alpha")
        hint = "" if trained is None else f"the header says that training had the alpha {str(trained)[:40]}"
        reason = "1: no alpha is recorded, and these trainers then take the rank for it"
        ledger.scaling_from(reason, recorded=False, hint=hint)
        return
    ledger.scaling_from("config in the header" if from_header else "alpha of each module")
    if silent:
        ledger.assume("scale", f"1 in {silent} of {modules} modules, for which no alpha is recorded", GIVE_SCALE)


def _metadata(header: Mapping[str, Any]) -> dict[str, Any]:
    named = {
        "base_model": header.get("ss_sd_model_name") or header.get("ss_base_model_version"),
        "peft_type": header.get("ss_network_module"),
        "seed": header.get("ss_seed"),
        "step": header.get("ss_steps"),
    }
    return {key: value for key, value in named.items() if isinstance(value, str | int) and value != "None"}
