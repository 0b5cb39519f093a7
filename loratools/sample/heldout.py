"""The held-out loss of a checkpoint of the sample: the yardstick for what extraction and merging keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loratools import sample

if TYPE_CHECKING:
    import torch

WINDOW = 128  # tokens; what the sample was trained with
_BATCH = 32  # windows


def heldout_loss(
    model_folder: str | Path,
    adapter_folder: str | Path | None = None,
    *,
    sample_folder: str | Path | None = None,
) -> float:
    """Return the mean next-token cross entropy, in nats per token, over the sample's held-out topics.

    The model runs in float32 on the CPU, whatever dtype its files have.  The text is tokenised by the
    sample's own base, never by ``model_folder``, so that losses compare.  It is cut into windows of 128
    tokens, and each token but the first is predicted once, from the tokens before it in its window.

    Parameters
    ----------
    model_folder
        A transformers checkpoint with the sample's vocabulary.
    adapter_folder
        A PEFT adapter to put on top of it.
    sample_folder
        Where ``heldout.txt`` and ``base`` lie, if not in the package.

    Raises
    ------
    ImportError
        if transformers or PEFT is not installed.
    """
    folder = Path(sample_folder) if sample_folder is not None else sample.HELDOUT.parent
    try:
        model = _load(str(model_folder), None if adapter_folder is None else str(adapter_folder))
        tokens = _heldout_tokens(folder)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the held-out loss needs {error.name}: pip install 'loratools[transformers]'", name=error.name
        ) from error
    return windowed_loss(model, tokens)


def windowed_loss(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    """Return the mean cross entropy in nats of predicting ``tokens[1:]``, window by window.

    ``tokens`` is a vector of int64; the last window may be short.  The sum runs in float64.
    """
    import torch
    from torch.nn.functional import cross_entropy, pad

    short = -(len(tokens) - 1) % WINDOW
    inputs = pad(tokens[:-1], (0, short)).view(-1, WINDOW)
    targets = pad(tokens[1:], (0, short), value=-100).view(-1, WINDOW)  # -100: not counted
    total = 0.0
    with torch.inference_mode():
        for window, target in zip(torch.split(inputs, _BATCH), torch.split(targets, _BATCH), strict=True):
            logits = model(input_ids=window).logits  # (batch, window, vocabulary)
            losses = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
            total += losses.double().sum().item()
    return total / (len(tokens) - 1)


def _load(model_folder: str, adapter_folder: str | None) -> torch.nn.Module:
    import torch
    from transformers import AutoModelForCausalLM

    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, local_files_only=True
    )
    if adapter_folder is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter_folder)
    return model.eval()


def _heldout_tokens(folder: Path) -> torch.Tensor:
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "base" / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    topics = (folder / "heldout.txt").read_text(encoding="utf-8").split("\f")
    return torch.tensor([token for topic in topics for token in [*tokenizer.encode(topic).ids, end]])
