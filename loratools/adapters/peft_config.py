"""`PeftConfig`: what an adapter_config.json of PEFT means, with every field honoured, harmless or refused.

Written against `LoraConfig` of PEFT 0.21.2; a test goes over its fields, so that none is ignored in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from loratools.adapters.patterns import PatternTable
from loratools.adapters.peft_refusals import REFUSED_FIELDS, REFUSED_INITS, REFUSED_TYPES, Refusal, Use
from loratools.errors import LoratoolsError, shortened

HONOURED = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "task_type", "r", "lora_alpha", "use_rslora"),
        *("rank_pattern", "alpha_pattern", "bias", "lora_bias", "use_dora", "modules_to_save"),
        *("trainable_token_indices", "ensure_weight_tying", "fan_in_fan_out", "target_modules"),
        "init_lora_weights",
    }
)
"""Fields whose value takes part in what is read."""

HARMLESS: dict[str, str] = {
    "auto_mapping": "the class that was trained, as Python's names",
    "peft_version": "who wrote it",
    "revision": "the base's revision on the hub",
    "inference_mode": "whether it was saved for inference",
    "lora_dropout": "acts in training only",
    "exclude_modules": "which modules were chosen: the file's keys tell",
    "layers_to_transform": "which modules were chosen: the file's keys tell",
    "layers_pattern": "which modules were chosen: the file's keys tell",
    "megatron_core": "a module's name, of no effect without megatron_config",
    "loftq_config": "initialisation; LoftQ itself is refused",
    "eva_config": "initialisation of A, from data",
    "corda_config": "initialisation; CorDA itself is refused",
    "lora_ga_config": "initialisation; LoRA-GA itself is refused",
    "velora_config": "the backward pass only",
    "monteclora_config": "sampling in training only",
    "qalora_group_size": "of no effect without use_qalora, which is refused",
    "runtime_config": "how a run offloads; never saved",
    "corda_method": "initialisation",
    "merge_weights": "PEFT 0.2: whether eval() merges",
}
"""Fields that change no arithmetic of a merge, with the reason."""


MOST_RANK = 1_000_000
"""A rank above it is no layer's; sizes from there on overflow in somebody's arithmetic."""

_LARGEST = 1e300
"""Of an alpha: larger ones overflow where they are multiplied, and integers where they become floats."""

_SHOWN = 5
"""Unknown fields that are warned about one by one."""


class BiasMode(str, Enum):
    """Which of the base's own biases were trained, and so saved."""

    NONE = "none"
    ALL = "all"
    LORA_ONLY = "lora_only"


@dataclass(frozen=True)
class PeftConfig:
    """A LoRA adapter's config, validated.

    `trainable_token_indices` maps a module's name to rows; under "" stand those of a plain list, which PEFT
    takes for the input embedding's. `patterns` of ranks and alphas keep the file's order: the first that
    matches counts.
    """

    r: int
    lora_alpha: float
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    bias: BiasMode = BiasMode.NONE
    lora_bias: bool = False
    use_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    trainable_token_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ensure_weight_tying: bool = False
    fan_in_fan_out: bool = False
    target_modules: tuple[str, ...] | str | None = None
    base_name: str | None = None
    task_type: str | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], *, file: str | None = None, use: Use = Use.APPLIED) -> PeftConfig:
        """The config that a file holds.

        Args:
            config: the JSON object.
            file: where it was read, for errors.
            use: what the adapter is read for.

        Raises:
            LoratoolsError: it is not LoRA's, is of a variant that cannot be applied right (by name, with the
                reason), or has a field of the wrong type.
        """
        reader = _Reader(config, file, use)
        reader.refuse_what_cannot_be_done()
        return cls(
            r=reader.rank("r", config.get("r", 8)),
            lora_alpha=reader.number("lora_alpha", config.get("lora_alpha", 8)),
            use_rslora=reader.flag("use_rslora"),
            rank_pattern=reader.patterns("rank_pattern", reader.rank),
            alpha_pattern=reader.patterns("alpha_pattern", reader.number),
            bias=reader.bias_mode(),
            lora_bias=reader.flag("lora_bias"),
            use_dora=reader.flag("use_dora"),
            modules_to_save=reader.names("modules_to_save"),
            trainable_token_indices=reader.token_indices(),
            ensure_weight_tying=reader.flag("ensure_weight_tying"),
            fan_in_fan_out=reader.flag("fan_in_fan_out"),
            target_modules=reader.targets(),
            base_name=reader.text("base_model_name_or_path"),
            task_type=reader.text("task_type"),
            warnings=reader.unknown_fields(),
        )

    def rank(self, module: str) -> int:
        """The rank of a module, by its name without `base_model.model.`."""
        pattern = self._ranks.first(module)
        return self.r if pattern is None else self.rank_pattern[pattern]

    def alpha(self, module: str) -> float:
        """The alpha of a module, by its name without `base_model.model.`."""
        pattern = self._alphas.first(module)
        return self.lora_alpha if pattern is None else self.alpha_pattern[pattern]

    def scaling(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) with rsLoRA (PEFT 0.21.2, `LoraLayer.update_layer`)."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self.use_rslora else rank)

    @cached_property
    def _ranks(self) -> PatternTable:
        """PEFT's `get_pattern_key`, as for the alphas."""
        return PatternTable(self.rank_pattern)

    @cached_property
    def _alphas(self) -> PatternTable:
        return PatternTable(self.alpha_pattern)


class _Reader:
    """Reads fields of a config and says which one is wrong."""

    def __init__(self, config: Mapping[str, Any], file: str | None, use: Use) -> None:
        self.config = config
        self.file = file
        self.use = use

    def refuse_what_cannot_be_done(self) -> None:
        peft_type = str(self.config.get("peft_type", "")).removeprefix("PeftType.").upper()
        if peft_type != "LORA":
            unknown = Refusal(
                f"PEFT's method {peft_type or '(none)'}", "it is not LoRA, the one that is known"
            )
            raise REFUSED_TYPES.get(peft_type, unknown).error(self.file, use=self.use)
        for name, refusal in REFUSED_FIELDS.items():
            value = self.config.get(name)
            if value or (value is not None and refusal.even_if_empty):
                raise refusal.error(self.file, name, self.use)
        init = self.config.get("init_lora_weights", True)
        for name, refusal in REFUSED_INITS.items():
            if isinstance(init, str) and init.lower().startswith(name):
                raise refusal.error(self.file, f"init_lora_weights={init}", self.use)

    def _wrong(self, name: str, value: object, wanted: str) -> LoratoolsError:
        return LoratoolsError(f"{name} is {_shown(value)} where {wanted} is expected", file=self.file)

    def rank(self, name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_RANK:
            raise self._wrong(name, value, f"a rank of 1 to {MOST_RANK:,}")
        return value

    def number(self, name: str, value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= _LARGEST:
            raise self._wrong(name, value, "a finite number")
        return value

    def flag(self, name: str) -> bool:
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return bool(value)

    def text(self, name: str) -> str | None:
        value = self.config.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value or None

    def names(self, name: str) -> tuple[str, ...]:
        value = self.config.get(name) or ()
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
            raise self._wrong(name, value, "a list of names")
        return tuple(value)

    def targets(self) -> tuple[str, ...] | str | None:
        value = self.config.get("target_modules")
        return value if value is None or isinstance(value, str) else self.names("target_modules")

    def patterns(self, name: str, value_of: Any) -> dict[str, Any]:
        value = self.config.get(name) or {}
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object of patterns")
        table = PatternTable()
        for pattern in value:
            try:
                table.add(pattern)
            except ValueError as error:
                raise self._wrong(name, pattern, f"a harmless regular expression ({error})") from error
        return {pattern: value_of(f"{name}[{pattern}]", one) for pattern, one in value.items()}

    def bias_mode(self) -> BiasMode:
        value = self.config.get("bias", "none")
        try:
            return BiasMode(value)
        except ValueError:
            raise self._wrong("bias", value, "none, all or lora_only") from None

    def token_indices(self) -> dict[str, tuple[int, ...]]:
        value = self.config.get("trainable_token_indices")
        if value is None:
            return {}
        by_module = value if isinstance(value, Mapping) else {"": value}
        return {str(module): self._indices(indices) for module, indices in by_module.items()}

    def _indices(self, value: object) -> tuple[int, ...]:
        whole = isinstance(value, (list, tuple)) and all(
            isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value
        )
        if not whole or not isinstance(value, (list, tuple)):
            raise self._wrong("trainable_token_indices", value, "a list of token numbers")
        if len(set(value)) != len(value):
            raise self._wrong("trainable_token_indices", value, "each token once")
        return tuple(value)

    def unknown_fields(self) -> tuple[str, ...]:
        """A warning for each field that no version known here has and that asks for something."""
        known = HONOURED | set(HARMLESS) | set(REFUSED_FIELDS)
        names = [
            name
            for name, value in sorted(self.config.items())
            if name not in known and value not in (None, False, "", 0) and value != [] and value != {}
        ]
        more = len(names) - _SHOWN
        return (
            *(
                f"the config's field {shortened(name, 80)} is not known here and was not applied"
                for name in names[:_SHOWN]
            ),
            *((f"{more:,} more fields of the config are not known here",) if more > 0 else ()),
        )


def _shown(value: object) -> str:
    """A value in an error: `repr` of a list of a million things would be as long as the list."""
    if isinstance(value, (list, tuple, dict)) and len(value) > _SHOWN:
        return f"a {type(value).__name__} of {len(value):,}"
    if isinstance(value, int) and abs(value) > 10**20:
        return "an integer of more than 20 digits"
    return shortened(repr(value), 80)
