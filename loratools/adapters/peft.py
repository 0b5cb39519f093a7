"""Reads a PEFT LoRA adapter: its keys become updates of named parameters, its config gives their scalings.

Structure comes from headers alone; values are read when a merge first needs them. The format's contract is
what PEFT 0.21.2 writes and loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loratools.adapters.bias import Bias
from loratools.adapters.binding import Adapter
from loratools.adapters.dora import Dora
from loratools.adapters.layers import Layer, Layers
from loratools.adapters.lowrank import LowRank
from loratools.adapters.peft_config import PeftConfig
from loratools.adapters.peft_keys import IGNORED, Part, parse_key
from loratools.adapters.peft_matching import ROOT
from loratools.adapters.peft_refusals import REFUSED_FORMATS, Use
from loratools.adapters.replace import Replace, Rows
from loratools.adapters.update import Update
from loratools.adapters.values import Values
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError, UnsupportedError, shortened


@dataclass
class _Module:
    """The keys of one module, by part; `saved` are parameters held in full."""

    parts: dict[Part, TensorSpec] = field(default_factory=dict)
    saved: dict[str, tuple[TensorSpec, Part]] = field(default_factory=dict)


def read_adapter(checkpoint: Checkpoint, use: Use = Use.APPLIED) -> Adapter:
    """The adapter that a checkpoint of kind ADAPTER holds, read for a use.

    Raises:
        LoratoolsError: the config or a key asks for something that cannot be applied right, a pair is half
            there, shapes do not belong together, or a rank is not the one that the config gives.
    """
    config_file = str(checkpoint.folder / "adapter_config.json")
    if checkpoint.format in REFUSED_FORMATS and "peft_type" not in checkpoint.config:
        raise REFUSED_FORMATS[checkpoint.format].error(checkpoint.root, use=use)
    config = PeftConfig.of(checkpoint.config, file=config_file, use=use)
    modules, ignored = _by_module(checkpoint)
    reader = _Reader(checkpoint, config, modules, use)
    updates = {name: tuple(held) for name, held in sorted(reader.updates().items())}
    new_modules = tuple(sorted(name for name in modules if reader.saved_in_full(name)))
    if config.modules_to_save and not new_modules:
        raise LoratoolsError(
            f"the config saves {_some(config.modules_to_save)} in full, but the file has nothing of it",
            file=checkpoint.root,
            hint="save the adapter again with its modules_to_save, or take them out of the config",
        )
    if not updates:
        raise LoratoolsError("the adapter holds no weights", file=checkpoint.root)
    return Adapter(
        name=checkpoint.name,
        rank=config.r,
        alpha=config.lora_alpha,
        updates=updates,
        sources=dict(sorted(checkpoint.tensors.items())),
        ignored=ignored,
        config=checkpoint.config,
        base_name=config.base_name,
        warnings=(*checkpoint.warnings, *config.warnings, *reader.warnings),
        task=config.task_type,
        new_modules=new_modules,
        keeps_ties=config.ensure_weight_tying,
        transposed_flag=config.fan_in_fan_out,
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5:,} more" if names[5:] else ""
    return ", ".join(shortened(name, 80) for name in names[:5]) + more


def _by_module(checkpoint: Checkpoint) -> tuple[dict[str, _Module], dict[str, str]]:
    """The keys by module, and those that mean nothing with the reason."""
    modules: dict[str, _Module] = {}
    ignored: dict[str, str] = {}
    layers = Layers({})
    for name, spec in sorted(checkpoint.tensors.items()):
        key = parse_key(name)
        if key.part in IGNORED:
            ignored[name] = IGNORED[key.part]
            continue
        if key.leaf != "weight":  # no buffer is called that
            guess = layers.of(f"{key.module}.{key.leaf}", spec)
            if guess.layer is Layer.BUFFER and guess.certain:
                ignored[name] = f"{guess.reason}, which the model makes itself"
                continue
        if not spec.floating:
            raise LoratoolsError(
                f"an adapter's tensor of {spec.dtype} cannot be applied", file=spec.file, tensor=name
            )
        module = modules.setdefault(key.module, _Module())
        in_full = key.part in (Part.BASE, Part.SAVED, Part.PARAMETER)
        taken = module.saved.get(key.leaf, (None,))[0] if in_full else module.parts.get(key.part)
        if taken is not None:
            raise LoratoolsError(f"{taken.name} and {name} are the same", file=spec.file, tensor=name)
        if in_full:
            module.saved[key.leaf] = (spec, key.part)
        else:
            module.parts[key.part] = spec
    return modules, ignored


class _Reader:
    """Turns each module's keys into updates, and says by name what is wrong with them."""

    def __init__(
        self, checkpoint: Checkpoint, config: PeftConfig, modules: Mapping[str, _Module], use: Use
    ) -> None:
        self.convolutions = use is Use.REWRITTEN
        self.checkpoint = checkpoint
        self.config = config
        self.modules = modules
        self.warnings: list[str] = []

    def updates(self) -> dict[str, list[Update]]:
        updates: dict[str, list[Update]] = {}
        for name, module in self.modules.items():
            for leaf, (spec, part) in module.saved.items():
                updates.setdefault(f"{name}.{leaf}", []).append(self._replace(name, module, spec, part))
            weight = updates.setdefault(f"{name}.weight", [])
            weight += self._factors(name, module)
            weight += self._rows(name, module)
            if Part.B_BIAS in module.parts:
                bias = Bias(Values(module.parts[Part.B_BIAS]), self.config.scaling(name))
                updates.setdefault(f"{name}.bias", []).append(bias)
        return {name: held for name, held in updates.items() if held}

    def saved_in_full(self, module: str) -> bool:
        """Whether the config names the module, or one that it is in, among those saved.

        PEFT compares the ends of full names, `base_model.model.` included, dot or no dot.
        """
        parts = module.split(".")
        above = [ROOT + ".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        return any(name.endswith(entry) for name in above for entry in self.config.modules_to_save)

    def _replace(self, name: str, module: _Module, spec: TensorSpec, part: Part) -> Replace:
        targeted = Part.A in module.parts or Part.EMBEDDING_A in module.parts
        if part is Part.PARAMETER and targeted:
            self.warnings.append(f"{spec.name} replaces the base's, though PEFT itself does not load it")
        listed = self.saved_in_full(name) or (self.config.ensure_weight_tying and self.config.modules_to_save)
        own_copy = part is Part.SAVED or (part is Part.PARAMETER and bool(listed))
        return Replace(Values(spec), shared=not own_copy)

    def _factors(self, name: str, module: _Module) -> list[Update]:
        pairs = [(Part.A, Part.B, None), (Part.EMBEDDING_A, Part.EMBEDDING_B, True)]
        found: list[Update] = []
        for part_A, part_B, transposed in pairs:
            A, B = module.parts.get(part_A), module.parts.get(part_B)
            if A is None and B is None:
                continue
            if A is None or B is None:
                raise self._half(name, part_B if B is None else part_A, A or B)
            self._check_pair(name, A, B)
            low_rank = LowRank(Values(A), Values(B), self.config.scaling(name), transposed)
            found.append(self._with_magnitude(name, module, low_rank))
        if len(found) > 1:
            raise LoratoolsError(f"{name} has factors of a linear layer and of an embedding", tensor=name)
        self._refuse_orphans(name, module, found)
        return found

    def _with_magnitude(self, name: str, module: _Module, direction: LowRank) -> Update:
        magnitude = module.parts.get(Part.MAGNITUDE)
        if self.config.use_dora and magnitude is None:
            raise self._half(name, Part.MAGNITUDE, direction.A.spec)
        if magnitude is None:
            return direction
        if not self.config.use_dora:
            raise LoratoolsError(
                "the file has DoRA's magnitudes but the config says use_dora: false",
                file=magnitude.file,
                tensor=magnitude.name,
                hint="set use_dora in adapter_config.json as it was for the training",
            )
        if len(magnitude.shape) != 1 and not self.convolutions:
            raise UnsupportedError(
                f"magnitudes of {magnitude.shape} belong to a convolution, which cannot be merged yet",
                file=magnitude.file,
                tensor=magnitude.name,
            )
        return Dora(direction, Values(magnitude))

    def _check_pair(self, name: str, A: TensorSpec, B: TensorSpec) -> None:
        matrices = len(A.shape) == len(B.shape) == 2
        if not matrices and not (self.convolutions and _of_convolution(A, B)):
            raise UnsupportedError(
                f"factors of {B.shape} and {A.shape} belong to a convolution, which cannot be merged yet",
                file=A.file,
                tensor=A.name,
            )
        if len(A.shape) > 2 and B.shape[1] < A.shape[0] and A.shape[0] % B.shape[1] == 0:
            raise LoratoolsError(
                f"factors of {B.shape} and {A.shape} belong to a convolution with groups, which PEFT cannot "
                "merge: no one product is what they add",
                file=A.file,
                tensor=A.name,
                hint="keep it beside the base and load both with PEFT",
            )
        if A.shape[0] != B.shape[1]:
            raise LoratoolsError(
                f"lora_A of {A.shape} and lora_B of {B.shape} have different ranks",
                file=A.file,
                tensor=A.name,
            )
        wanted = self.config.rank(name)
        if A.shape[0] != wanted:
            raise LoratoolsError(
                f"the factors have rank {A.shape[0]} where the config says {wanted}",
                file=A.file,
                tensor=A.name,
                hint="correct r or rank_pattern in adapter_config.json: PEFT cannot load it either",
            )

    def _refuse_orphans(self, name: str, module: _Module, factors: list[Update]) -> None:
        for part in (Part.MAGNITUDE, Part.B_BIAS):
            spec = module.parts.get(part)
            if spec is not None and not factors:
                raise self._half(name, Part.A, spec)
        bias = module.parts.get(Part.B_BIAS)
        if bias is not None and Part.B not in module.parts:
            raise self._half(name, Part.B, bias)

    def _half(self, name: str, missing: Part, present: TensorSpec | None) -> LoratoolsError:
        return LoratoolsError(
            f"{name} has no {missing.value}",
            file=None if present is None else present.file,
            tensor=None if present is None else present.name,
            hint="the adapter is incomplete: save it again, or take an earlier checkpoint",
        )

    def _rows(self, name: str, module: _Module) -> list[Update]:
        spec = module.parts.get(Part.TOKENS)
        if spec is None:
            return []
        indices = self._token_indices(name, spec)
        if len(spec.shape) != 2 or spec.shape[0] != len(indices):
            raise LoratoolsError(
                f"token rows of {spec.shape} do not belong to {len(indices)} trainable_token_indices",
                file=spec.file,
                tensor=spec.name,
            )
        return [Rows(Values(spec), indices)]

    def _token_indices(self, name: str, spec: TensorSpec) -> tuple[int, ...]:
        """The rows of a module; PEFT compares the ends of names. A plain list is the input embedding's."""
        by_module = self.config.trainable_token_indices
        found = {by_module[entry] for entry in by_module if f"{ROOT}{name}".endswith(entry)}
        if len(found) != 1:
            raise LoratoolsError(
                f"trainable_token_indices names no rows for {name}", file=spec.file, tensor=spec.name
            )
        return next(iter(found))


def _of_convolution(A: TensorSpec, B: TensorSpec) -> bool:
    """Whether the factors are a convolution's: A (r, in, k...), B (out, r, 1...), so that their product is
    that of two matrices."""
    return 3 <= len(A.shape) == len(B.shape) <= 5 and set(B.shape[2:]) == {1}
