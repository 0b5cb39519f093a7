"""What is recognised but cannot be computed with: quantised weights, and shards of training frameworks."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.spec import ITEM_BYTES
from loratools.errors import LoratoolsError, UnsupportedError, shortened

_UNQUANTISED = "use the unquantised checkpoint it was made from"
_FROM_DEEPSPEED = "run the zero_to_fp32.py that lies beside it and use its output"
_FROM_FSDP = "merge it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save and use its output"
_FROM_MEGATRON = "convert it to the layout of transformers with Megatron's own tools"
_FROM_OTHERS = "load it with transformers and save it again, as safetensors"


@dataclass(frozen=True)
class _Framework:
    """A framework whose files cannot be read here; told by the names it gives to files and folders."""

    what: str
    hint: str
    names: re.Pattern[str]


_FRAMEWORKS: tuple[_Framework, ...] = (
    _Framework(
        "shards of torch's distributed checkpoint (FSDP)",
        _FROM_FSDP,
        re.compile(r".*\.distcp|\.metadata|pytorch_model_fsdp(_\d+)?(\.bin)?"),
    ),
    _Framework(
        "shards of a DeepSpeed checkpoint",
        _FROM_DEEPSPEED,
        re.compile(
            r"mp_rank_\d+_model_states\.pt|(bf16_)?zero_pp_rank_.*\.pt|global_step\d+|layer_\d+-model_.*\.pt"
        ),
    ),
    _Framework(
        "shards of a Megatron checkpoint",
        _FROM_MEGATRON,
        re.compile(r"mp_rank_\d+(_\d+)*|model_optim_rng\.pt|iter_\d+|latest_checkpointed_iteration\.txt"),
    ),
    _Framework(
        "weights for TensorFlow, Flax or ONNX",
        _FROM_OTHERS,
        re.compile(r"tf_model.*\.h5|flax_model.*\.msgpack|.*\.onnx|model\.ckpt-\d+\..*"),
    ),
)


def refuse_framework(path: Path, names: list[str]) -> None:
    """Raises where `names`, the contents of `path` or its own name, are those of a framework's shards."""
    for framework in _FRAMEWORKS:
        found = next((name for name in sorted(names) if framework.names.fullmatch(name)), None)
        if found is not None:
            raise UnsupportedError(
                f"{framework.what} ({found}) cannot be read", file=path, hint=framework.hint
            )


@dataclass(frozen=True)
class _Scheme:
    """A quantisation scheme, told by the ending that its keys have beside (or instead of) the weight."""

    what: str
    keys: re.Pattern[str]


_SCHEMES: tuple[_Scheme, ...] = (
    _Scheme(
        "bitsandbytes 4-bit (nf4 or fp4) weights",
        re.compile(r"\.(quant_state\.bitsandbytes__\w+|absmax|nested_absmax|quant_map)$"),
    ),
    _Scheme("bitsandbytes 8-bit weights", re.compile(r"\.(SCB|weight_format)$")),
    _Scheme("GPTQ or AWQ weights", re.compile(r"\.(qweight|qzeros|g_idx)$")),
    _Scheme(
        "compressed-tensors weights", re.compile(r"\.(weight_packed|weight_zero_point|weight_global_scale)$")
    ),
    _Scheme(
        "fp8 weights with scales",
        re.compile(r"\.(weight_scale(_inv)?|input_scale|scale_weight|scale_input)$"),
    ),
    _Scheme("MXFP4 weights", re.compile(r"_(blocks|scales)$")),
)


def quantisation(checkpoint: Checkpoint) -> tuple[str, str | None] | None:
    """What is quantised in a checkpoint, and the tensor that tells, or None: from config and keys alone."""
    if checkpoint.kind is Kind.CHECKPOINT:
        declared = _declared(checkpoint.config)
        if declared:
            return declared, None
        packed = _packed_weights(checkpoint)
        for scheme in _SCHEMES:
            for name in checkpoint if packed else ():
                if scheme.keys.search(name) and _holds_one_of(name.rpartition(".")[0], packed):
                    return scheme.what, name
    unreadable = [spec for spec in checkpoint.tensors.values() if spec.dtype not in ITEM_BYTES]
    return (f"{unreadable[0].dtype} values", unreadable[0].name) if unreadable else None


def _declared(config: Mapping[str, Any]) -> str | None:
    declared = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(declared, dict):
        return None
    method = declared.get("quant_method") or declared.get("format") or "an unnamed method"
    return f"weights that config.json declares as quantised by {shortened(str(method), 80)}"


def _packed_weights(checkpoint: Checkpoint) -> list[str]:
    """The names, sorted, of what is held in a type that only quantised weights have."""
    return sorted(
        name
        for name, spec in checkpoint.tensors.items()
        if spec.dtype not in ITEM_BYTES or spec.dtype in ("int8", "uint8", "int32")
    )


def _holds_one_of(module: str, names: list[str]) -> bool:
    """Whether one of the sorted names is the module's own or begins with it and a dot."""
    own, inside = bisect_left(names, module), bisect_left(names, f"{module}.")
    return (own < len(names) and names[own] == module) or (
        inside < len(names) and names[inside].startswith(f"{module}.")
    )


def require_computable(checkpoint: Checkpoint) -> None:
    """Lets pass only what can be computed with; `inspect` lists the rest, `extract` and `merge` must not.

    Raises:
        LoratoolsError: the weights are quantised (as config.json says, or as their keys show), or a tensor
            has a dtype without arithmetic here (fp8, fp4, complex).
    """
    found = quantisation(checkpoint)
    if found is not None:
        what, tensor = found
        raise LoratoolsError(
            f"{what} cannot be computed with", file=checkpoint.root, tensor=tensor, hint=_UNQUANTISED
        )
