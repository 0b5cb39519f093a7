"""Models and tokenizers as transformers loads them from checkpoints, without running anything they bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.files import is_file
from loratools.errors import LoratoolsError
from loratools.reports.verification import OutputKind

if TYPE_CHECKING:
    import torch

__all__ = ["load_model", "load_tokenizer"]


def load_tokenizer(*checkpoints: Checkpoint) -> Any:
    """The tokenizer of the first checkpoint that carries one.

    Raises:
        LoratoolsError: none does, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    for checkpoint in checkpoints:
        if any(is_file(checkpoint.folder / name) for name in _MARKS):
            try:
                return AutoTokenizer.from_pretrained(
                    checkpoint.folder, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:
                raise _refusal("its tokenizer", checkpoint.folder, error) from error
    raise LoratoolsError(
        "no tokenizer lies beside the weights, so that the text cannot be read", file=checkpoints[0].folder
    )


def load_model(folder: Path, kind: OutputKind) -> torch.nn.Module:
    """A model in float32 on the processor; code that a checkpoint brings is never run.

    Raises:
        LoratoolsError: transformers cannot load it, or would begin some of its weights at random.
    """
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM if kind is OutputKind.CAUSAL else AutoModel
    try:
        model, told = loader.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise _refusal("the model", folder, error) from error
    missing = sorted(name for name in told["missing_keys"] if not name.startswith("pooler."))
    if missing or told["mismatched_keys"]:
        first = (missing or [str(sorted(told["mismatched_keys"])[0])])[0]
        raise LoratoolsError(
            "outputs cannot be measured: transformers would begin weights at random",
            file=folder,
            tensor=first,
        )
    loaded: torch.nn.Module = model.eval()
    return loaded


_MARKS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json")


def _refusal(what: str, folder: Path, error: Exception) -> LoratoolsError:
    told = " ".join(str(error).split())
    short = told if len(told) < 200 else f"{told[:200]}..."
    return LoratoolsError(f"transformers cannot load {what}: {type(error).__name__}: {short}", file=folder)
