"""How an adapter holds what changed and was not factored: PEFT restores it, and can still switch it off.

A module that changed is saved whole (`modules_to_save`): PEFT then keeps the base's copy beside it. The bias
of a linear layer is held as a difference beside its factors (`lora_bias`), a few rows of an embedding as
`trainable_token_indices`, and an embedding that is tied to the head with both of its names in the file. All
decisions are made here, from names and from which tensors changed; no data is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from loratools.adapters.layers import Layer
from loratools.adapters.peft_matching import kept_from, saved_with
from loratools.adapters.renamed import stacked_on_load
from loratools.adapters.tasks import saved_by_task, task_type
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.pairing import Pair, PairedTensor
from loratools.operations.roles import Assignment, Role
from loratools.operations.tied import Tied

__all__ = ["Holdings", "hold", "holder", "unholdable"]


@dataclass(frozen=True)
class Holdings:
    """What the adapter holds beside its factors.

    `saved`: for each module to save, its parameters by name in memory and the tensors that hold their values.
    `rows`: for an embedding's module, which rows changed, and the tensor. `biases`: linear modules whose bias
    changed, as pairs (base, tuned).
    """

    saved: Mapping[str, Mapping[str, TensorSpec]]
    rows: Mapping[str, tuple[tuple[int, ...], TensorSpec]]
    biases: Mapping[str, tuple[TensorSpec, TensorSpec]]
    ensure_weight_tying: bool
    task: str | None

    @property
    def empty(self) -> bool:
        return not (self.saved or self.rows or self.biases)

    def parameters(self) -> frozenset[str]:
        """Names in memory of all that is saved whole."""
        return frozenset(name for tensors in self.saved.values() for name in tensors)


def hold(
    pair: Pair,
    assignments: Mapping[str, Assignment],
    *,
    changed: Collection[str],
    tied: Tied,
    whole: Collection[str],
) -> Holdings:
    """Decides how to hold each changed tensor that has no factors.

    Args:
        pair, assignments: the tensors and their roles.
        changed: names in memory of the changed tensors that are to be saved, those of `tied` left out, and
            those of `whole` included.
        tied: what became of the input embedding and its head.
        whole: weights of linear layers that are not factored though they changed.
    """
    linear = {
        name
        for name, assignment in assignments.items()
        if assignment.role is Role.FACTOR and name not in whole
    }
    biases = {name for name in changed if _beside(name, linear, pair)}
    modules = {holder(pair, name) for name in changed if name not in biases} | set(tied.saved)
    task, with_task = _task(pair, modules)
    outermost = _outermost(_with_namesakes(modules | set(with_task), pair))
    saved = {module: _parameters(pair, module, tied) for module in sorted(outermost)}
    return Holdings(
        saved=saved,
        rows=dict(tied.rows),
        biases={pair.tensors[name].module: _specs(pair.tensors[name]) for name in sorted(biases)},
        ensure_weight_tying=tied.together and not _head_has_more(pair, saved),
        task=task,
    )


def unholdable(pair: Pair, assignments: Mapping[str, Assignment], changed: Collection[str]) -> dict[str, str]:
    """Those of the changed tensors that PEFT has no place for, each with the reason."""
    linear = {name for name, assignment in assignments.items() if assignment.role is Role.FACTOR}
    factored = {pair.tensors[name].module for name in linear}
    found: dict[str, str] = {}
    for name in changed:
        module = holder(pair, name)
        if not pair.tensors[name].spec.floating:
            found[name] = "it changed and is no floating tensor"
        elif stacked_on_load(name):
            found[name] = "it changed and is one expert's own tensor, which transformers stacks on load"
        elif name in linear or _beside(name, linear, pair):
            continue
        elif not module:
            found[name] = "it changed and lies on the model itself, which PEFT cannot save as a module"
        elif inside := _among(saved_with(module, pair.modules()), factored):
            found[name] = f"it changed, and to save {module} PEFT would also save {inside}, which is factored"
        elif kept := kept_from(module, factored):
            found[name] = f"it changed, and to save {module} PEFT would not factor {min(kept)}"
    return found


def holder(pair: Pair, name: str) -> str:
    """The module that must be saved for a parameter to be held; "" where there is none."""
    module, _, leaf = name.rpartition(".")
    parent = module.rpartition(".")[0]
    if leaf.isdigit():
        return parent
    if f"{parent}.in_proj_weight" in pair.tensors and module.endswith(".out_proj"):
        return parent
    tie = pair.tie
    if tie is not None and tie.head == f"{module}.decoder.weight" and leaf == "bias":
        return f"{module}.decoder"
    return module


def _beside(name: str, linear: Collection[str], pair: Pair) -> bool:
    """Whether it is the bias of a linear layer that is factored, or would be if its weight had changed."""
    tensor = pair.tensors[name]
    return tensor.leaf == "bias" and f"{tensor.module}.weight" in linear and tensor.same_shape


def _specs(tensor: PairedTensor) -> tuple[TensorSpec, TensorSpec]:
    assert tensor.base is not None and tensor.tuned is not None
    return tensor.base, tensor.tuned


def _task(pair: Pair, modules: Collection[str]) -> tuple[str | None, tuple[str, ...]]:
    """The task, unless PEFT would then look for a head that is not saved; and the heads that it looks for."""
    task = task_type(pair.config)
    heads = saved_by_task(task, pair.modules())
    if not heads:
        return task, ()
    touched = any(module == head or module.startswith(f"{head}.") for module in modules for head in heads)
    return (task, heads) if touched else (None, ())


def _with_namesakes(modules: Collection[str], pair: Pair) -> set[str]:
    """The modules to save, and those that PEFT takes their names for as well."""
    holding = {tensor.module for tensor in pair.tensors.values() if tensor.tuned is not None}
    return {other for module in modules if module for other in saved_with(module, holding)}


def _among(modules: Collection[str], factored: Collection[str]) -> str | None:
    """The first factored module that is one of these, or lies in one."""
    return min(
        (name for name in factored if any(name == m or name.startswith(f"{m}.") for m in modules)),
        default=None,
    )


def _outermost(modules: Collection[str]) -> set[str]:
    return {
        name
        for name in modules
        if not any(name != other and name.startswith(f"{other}.") for other in modules)
    }


def _parameters(pair: Pair, module: str, tied: Tied) -> dict[str, TensorSpec]:
    """All that PEFT looks for in a saved module, from tuned: also what did not change, and tied names."""
    found = {
        tensor.name: tensor.tuned
        for tensor in pair.within(module)
        if tensor.tuned is not None and _in_state(tensor)
    }
    inside = {name: spec for name, spec in tied.values.items() if name.startswith(f"{module}.")}
    found.update({name: spec for name, spec in inside.items() if name not in found})
    above = f"{module.rpartition('.')[0]}.bias"
    if pair.tie is not None and pair.tie.head == f"{module}.weight" and module.endswith(".decoder"):
        shared = pair.tensors.get(above)
        if shared is not None and shared.tuned is not None:
            found.setdefault(f"{module}.bias", shared.tuned)
    return dict(sorted(found.items()))


def _in_state(tensor: PairedTensor) -> bool:
    return tensor.layer.layer is not Layer.BUFFER or tensor.leaf == "num_batches_tracked"


def _head_has_more(pair: Pair, saved: Mapping[str, Mapping[str, TensorSpec]]) -> bool:
    """Whether the tied head has a bias: PEFT's own way to tie leaves it out."""
    if pair.tie is None or pair.tie.head is None:
        return False
    return len(saved.get(pair.tie.head.rpartition(".")[0], {})) > 1
