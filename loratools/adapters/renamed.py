"""Models whose tensors have other names in memory than on disk: transformers 5 renames or stacks them.

An adapter's names are those in memory. For these models an adapter under the names on disk may not find its
modules, so whoever writes one says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loratools.adapters.layers import config_values

__all__ = ["RENAMED", "renamed_note", "stacked_on_load"]

RENAMED = frozenset(
    {
        "altclip", "aria", "audio-spectrogram-transformer", "audioflamingo3", "aya_vision", "beit",
        "chinese_clip", "clip", "clipseg", "cohere_asr", "colqwen2", "conditional_detr", "d_fine",
        "deformable_detr", "deit", "detr", "dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit",
        "emu3", "esm", "exaone", "fuyu", "gemma3", "gemma3n_text", "glmasr", "got_ocr2", "gpt_neox",
        "granite_speech", "ijepa", "internvl", "jamba", "llava", "llava_next", "llava_next_video",
        "llava_onevision", "lw_detr", "maskformer", "metaclip_2", "mimi", "minimax", "mistral3", "mixtral",
        "mllama", "nemotron_h", "nomic_bert", "paligemma", "phimoe", "pixio", "qwen2_5_vl", "qwen2_audio",
        "qwen2_vl", "qwen3_vl_moe", "radio", "rt_detr", "rt_detr_v2", "segformer", "shieldgemma2", "siglip",
        "siglip2", "swin", "timm_wrapper", "video_llava", "videomae", "vipllava", "vit", "vit_mae", "vit_msn",
        "vivit", "voxtral", "yolos",
    }
)  # fmt: skip
"""Model types with renamed parameters in transformers 5.24 (`conversion_mapping`), stacked experts aside."""

_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")


def stacked_on_load(name: str) -> bool:
    """Whether a tensor on disk is one expert's own: in memory all experts share one tensor."""
    return _EXPERT.search(name) is not None


def renamed_note(config: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning for a model of which transformers 5 renames tensors; empty for others."""
    found = [str(kind) for kind in config_values(config, "model_type") if kind in RENAMED]
    if not found:
        return ()
    return (
        f"transformers 5 renames tensors of {found[0]} on load, and the adapter has the names on disk: "
        "check that PEFT finds its modules",
    )
