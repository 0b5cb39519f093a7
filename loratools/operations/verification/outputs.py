"""What base, tuned and base + adapter say to a text, measured with transformers on the processor, in float32.

Two models are in memory at a time: tuned beside base, then tuned beside base + adapter. The latter is merged
into a temporary folder, as `merge` writes it, so that what is measured is what would be served.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.files import is_folder, size
from loratools.engine.progress import Progress
from loratools.errors import LoratoolsError, UnsupportedError, UsageError
from loratools.operations.measuring import measuring
from loratools.operations.verification.models import load_model, load_tokenizer
from loratools.operations.verification.text import IGNORED, batches, documents, lines, padded, windows
from loratools.reports.verification import ModelOutputs, OutputKind, Outputs

if TYPE_CHECKING:
    import torch

__all__ = ["TextOptions", "better", "kind_of", "measure", "require_transformers"]

ADAPTED = "base + adapter"

_POSITIONS = 256
"""Positions whose distributions are compared at a time, so that few copies of the vocabulary are held."""

_LOGITS = 2**25
"""Logits of a batch at most, where no batch is asked for."""

_WINDOW = 512


@dataclass(frozen=True)
class TextOptions:
    """The text, and how much of it a model is given at a time; None for what suits the model."""

    path: Path
    window: int | None
    batch: int | None


def require_transformers() -> None:
    """Raises LoratoolsError where the extra is not installed."""
    if find_spec("transformers") is None:
        raise LoratoolsError(
            "measuring outputs needs transformers", hint="pip install 'loratools[transformers]'"
        )


def kind_of(checkpoint: Checkpoint) -> OutputKind:
    """What a model's outputs are compared by, from its config.

    Raises:
        LoratoolsError: it is no folder that transformers could load, or an encoder with a decoder.
    """
    named = checkpoint.config.get("architectures")
    if not is_folder(checkpoint.root) or not isinstance(named, list) or not named:
        raise LoratoolsError(
            "outputs cannot be measured: transformers needs a folder with a config.json that names its class",
            file=checkpoint.root,
        )
    if checkpoint.config.get("is_encoder_decoder"):
        raise UnsupportedError(
            "outputs of models with encoder and decoder are not measured", file=checkpoint.root
        )
    causal = str(named[0]).endswith(("ForCausalLM", "LMHeadModel"))
    return OutputKind.CAUSAL if causal else OutputKind.HIDDEN


def measure(
    base: Checkpoint,
    tuned: Checkpoint,
    merged: Path,
    options: TextOptions,
    *,
    threads: int,
    progress: Progress,
) -> Outputs:
    """Runs the three models over the text.

    Args:
        merged: the folder of base + adapter.
        threads: of torch.

    Raises:
        UsageError: a window that the model has no positions for.
        LoratoolsError: a model or the text cannot be read, do not go together, or the text has no two tokens.
    """
    kind = kind_of(tuned)
    with measuring(threads):
        tokenizer = load_tokenizer(base, tuned)
        window = _window(tuned, tokenizer, options.window)
        run = _Causal if kind is OutputKind.CAUSAL else _Hidden
        progress.start("outputs", 2, 2 * size(options.path))
        goal = load_model(tuned.folder, kind)
        tallies = []
        try:
            for name, folder in (("base", base.folder), (ADAPTED, merged)):
                # Not kept under a name: the one model goes before the next is loaded.
                tallies.append(_told(run(goal, load_model(folder, kind), tokenizer, window, options), name))
                progress.advance(name, size(options.path))
        finally:
            progress.finish()
    first, second = tallies
    if not first.tokens:
        raise LoratoolsError("the text is too short: nothing to predict in it", file=options.path)
    return Outputs(
        kind,
        options.path.name,
        first.tokens,
        window,
        (first.row("base"), second.row(ADAPTED), first.goal_row("tuned")),
    )


def _window(checkpoint: Checkpoint, tokenizer: Any, asked: int | None) -> int:
    """512 tokens, or as many as the model has positions.

    Raises:
        UsageError: more were asked for.
    """
    known = [checkpoint.config.get(key) for key in ("max_position_embeddings", "n_positions")]
    positions = [value for value in known if isinstance(value, int) and value > 0]
    if asked is not None and asked > min(positions, default=asked):
        raise UsageError(f"a window of {asked} is more than the model's {min(positions)} positions")
    most = tokenizer.model_max_length
    return asked or min(_WINDOW, *positions, *([most] if isinstance(most, int) and most > 0 else []))


def _told(comparison: _Causal | _Hidden, name: str) -> _Tally:
    """What running two models tells.

    Raises:
        LoratoolsError: a model cannot take the text, as where the tokenizer is another one's.
    """
    try:
        return comparison.run()
    except (IndexError, RuntimeError) as error:
        told = " ".join(str(error).split())[:200]
        raise LoratoolsError(
            f"{name} cannot take the text: {told}",
            file=comparison.options.path,
            hint="is the tokenizer beside the base the model's own?",
        ) from error


@dataclass
class _Tally:
    """Sums over tokens of one model beside tuned; those that do not apply stay None."""

    tokens: int = 0
    agreeing: float = 0.0
    loss: float | None = None
    goal_loss: float | None = None
    kl: float | None = None
    distance: float | None = None

    def row(self, model: str) -> ModelOutputs:
        return ModelOutputs(
            model,
            self._mean(self.loss),
            self._mean(self.kl),
            self._mean(self.distance),
            self.agreeing / self.tokens,
        )

    def goal_row(self, model: str) -> ModelOutputs:
        """Tuned's own row: beside itself."""
        zero = [None if value is None else 0.0 for value in (self.kl, self.distance)]
        return ModelOutputs(model, self._mean(self.goal_loss), zero[0], zero[1], 1.0)

    def _mean(self, total: float | None) -> float | None:
        return None if total is None else total / self.tokens


@dataclass
class _Causal:
    """Distributions over the next token of two causal language models."""

    goal: Any
    model: Any
    tokenizer: Any
    window: int
    options: TextOptions
    tally: _Tally = field(default_factory=lambda: _Tally(loss=0.0, goal_loss=0.0, kl=0.0))

    def run(self) -> _Tally:
        import torch

        cut = windows(documents(self.options.path), self.tokenizer, self.window)
        with torch.inference_mode():
            for batch in batches(cut, self._batch()):
                tokens = padded([tokens for tokens, _ in batch], 0)
                targets = padded([targets for _, targets in batch], IGNORED).flatten()
                logits = [one(input_ids=tokens).logits.flatten(0, 1) for one in (self.goal, self.model)]
                for place in range(0, len(targets), _POSITIONS):
                    part = slice(place, place + _POSITIONS)
                    self._look(logits[0][part], logits[1][part], targets[part])
        return self.tally

    def _batch(self) -> int:
        """Windows in a batch; the padding after a short one is on the right, unseen by causal models."""
        if self.options.batch is not None:
            return self.options.batch
        vocabulary: int = self.goal.get_output_embeddings().weight.shape[0]
        return max(1, min(32, _LOGITS // (self.window * vocabulary)))

    def _look(self, goal: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Some positions: (positions, vocabulary) twice, and the tokens that really come next."""
        real = targets != IGNORED
        shared = min(goal.shape[1], logits.shape[1])
        targets = targets[real]
        log_q, log_p = (one[real, :shared].float().log_softmax(-1) for one in (goal, logits))
        tally = self.tally
        tally.tokens += len(targets)
        tally.agreeing += int((log_q.argmax(-1) == log_p.argmax(-1)).sum())
        tally.kl = (tally.kl or 0.0) + float((log_q.exp() * (log_q - log_p)).double().sum())
        tally.loss = (tally.loss or 0.0) - _picked(log_p, targets)
        tally.goal_loss = (tally.goal_loss or 0.0) - _picked(log_q, targets)


def _picked(log_probabilities: torch.Tensor, targets: torch.Tensor) -> float:
    return float(log_probabilities.gather(1, targets[:, None]).double().sum())


@dataclass
class _Hidden:
    """Last hidden states of two models that are no causal language models: one line of the text each."""

    goal: Any
    model: Any
    tokenizer: Any
    window: int
    options: TextOptions
    tally: _Tally = field(default_factory=lambda: _Tally(distance=0.0))

    def run(self) -> _Tally:
        import torch

        with torch.inference_mode():
            for batch in batches(lines(self.options.path), self.options.batch or 16):
                self._look(**self._encoded(batch))
        return self.tally

    def _encoded(self, batch: list[str]) -> dict[str, torch.Tensor]:
        """Token ids and mask, (texts, longest); special tokens as the model was trained with."""
        rows = [self.tokenizer(one, truncation=True, max_length=self.window)["input_ids"] for one in batch]
        filler = self.tokenizer.pad_token_id or 0
        return {
            "tokens": padded(rows, filler),
            "mask": padded([[1] * len(row) for row in rows], 0),
        }

    def _look(self, tokens: torch.Tensor, mask: torch.Tensor) -> None:
        from torch.nn.functional import cosine_similarity

        states = [
            one(input_ids=tokens, attention_mask=mask).last_hidden_state.double()[mask.bool()]
            for one in (self.goal, self.model)
        ]
        cosines = cosine_similarity(states[0], states[1], dim=-1)
        self.tally.tokens += len(cosines)
        self.tally.agreeing += float(cosines.sum())
        self.tally.distance = (self.tally.distance or 0.0) + float((1 - cosines).sum())


def better(outputs: Outputs) -> bool:
    """Whether base + adapter is nearer to tuned than base alone."""
    base, adapted, _ = outputs.models
    if outputs.kind is OutputKind.CAUSAL:
        return (adapted.kl or 0.0) < (base.kl or 0.0)
    return (adapted.distance or 0.0) < (base.distance or 0.0)
