"""What kind of layer a tensor belongs to, told by its name, its shape and the model's config alone.

The question decides what may be factored: the weight of a Linear or Conv1D may, an embedding, an output head
or a router may not. Where the answer is a guess, `LayerGuess.certain` says so, and callers keep the tensor
whole rather than trust it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from loratools.checkpoints.spec import TensorSpec

__all__ = ["Layer", "LayerGuess", "Layers", "config_values", "head_of", "layer_of", "transposed"]


class Layer(str, Enum):
    """What a tensor is part of."""

    LINEAR = "linear"
    CONV1D = "conv1d"
    """The weight of transformers' Conv1D (GPT-2): a linear layer stored as (in, out)."""
    EMBEDDING = "embedding"
    HEAD = "head"
    ROUTER = "router"
    NORM = "norm"
    CONV = "conv"
    EXPERTS = "experts"
    """The weights of many experts in one tensor (experts, a, b)."""
    BIAS = "bias"
    BUFFER = "buffer"
    """Not a parameter: recomputed when the model is built, or statistics."""
    OTHER = "other"
    """A parameter of no layer known here: a scale, a class token, a state matrix."""


@dataclass(frozen=True, slots=True)
class LayerGuess:
    """The layer, whether that is more than a guess, and in a few words what told it."""

    layer: Layer
    certain: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Model:
    """What the rules ask a config for."""

    vocabularies: frozenset[int]
    experts: frozenset[int]
    types: frozenset[str]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> _Model:
        architectures = [word for words in config_values(config, "architectures") for word in words]
        types = {str(word) for word in config_values(config, "model_type")}
        if any(_CONV1D_ARCHITECTURES.match(word) for word in architectures):
            types.add("gpt2")
        return cls(
            vocabularies=frozenset(config_values(config, "vocab_size")),
            experts=frozenset(_counts(config, *_EXPERT_KEYS)),
            types=frozenset(types),
        )


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor as the rules see it: `module` is the last part of its module's name, `leaf` its own."""

    name: str
    path: tuple[str, ...]
    module: str
    leaf: str
    shape: tuple[int, ...]
    floating: bool
    model: _Model


_BUFFER = re.compile(
    r"(^|\.)(inv_freq|original_inv_freq|masked_bias|position_ids|token_type_ids|num_batches_tracked"
    r"|relative_position_index|causal_mask|rotary_emb\.(cos|sin)_cached|embed_positions\._float_tensor)$"
)
_CAUSAL_MASK = re.compile(r"(^|\.)(attn|attention|self_attn|crossattention)\.(bias|mask)$")
_NORM = re.compile(
    r"(norm|^ln\d*|_ln\d*|^ln_?\w*|_ln_\w*|layer_?norm|batch_?norm|^bn\d*)\d*$|norm\d*_?\w*$", re.I
)
_HEADS = frozenset(
    {
        "lm_head", "embed_out", "score", "classifier", "pre_classifier", "qa_outputs", "cls",
        "output_projection", "vocab_projector", "vocab_transform", "generator_lm_head", "classification_head",
        "class_embed", "ctc_head", "codec_head", "text_lm_head", "mc_head", "dist_head", "seq_relationship",
    }
)  # fmt: skip
_EMBEDDINGS = re.compile(
    r"^(wte|wpe|shared|embed|embeds|embeddings?|embed_\w+|\w+_embed|\w+_embed_tokens|word_embeddings?"
    r"|(\w+_)?(token|position|positional|type|segment|pos|lang|language|label|speaker|ngram|relative|distance"
    r"|word|entity|unit)_(embeddings?|emb|embed)|[xyhw12]?\w*_position_embeddings|\w*token_type_embeddings"
    r"|rel_embeddings|row_embeddings|column_embeddings|relative_attention_bias|tokens_embed|positions_embed"
    r"|tok_embeddings|position_embedding_table)$"
)
_EMBEDDING_LIKE = re.compile(r"embed|(^|_)emb(_|$)")
_ROUTER = re.compile(r"^(router|gate|router_gate|wg|\w*_router|expert_gate|shared_expert_gate)$")
_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp_decoder", "clvp"})
_CONV1D_ARCHITECTURES = re.compile(r"^(GPT2|OpenAIGPT|ImageGPT|DecisionTransformer|Clvp)")
_CONV1D_MODULES = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
_LINEAR = re.compile(
    r"^(\w+_proj\w*|proj_\w+|proj\d*|\w+_projection|projection|project_\w+|projector|fc\d*|fc_\w+|\w+_fc\d*|c_fc\d*"
    r"|c_attn|q_attn|dense\w*|\w+_dense\d*|lin\d*|\w+_lin\d*|linear\w*|\w+_linear\w*|q|k|v|o|w\d|w_\d|w[qkvogi](_\w+)?"
    r"|W[qkvoi]|Wqkv|qkv|query|key|value|\w+_query|\w+_key|\w+_value|query_\w+|key_\w+|value_\w+|query_key_value"
    r"|to_[qkv]|to_kv|to_qkv|to_out|out_lin|attention_weights|sampling_offsets|embed_proj|embeddings_project"
    r"|embedding_hidden_mapping_in|receptance|reduction|output_linear|input_linear|attn_out|ff_proj|ff_out|att_proj"
    r"|per_layer_input_gate)$"
)


def layer_of(memory_name: str, spec: TensorSpec, config: Mapping[str, Any]) -> LayerGuess:
    """The layer that a tensor belongs to.

    Args:
        memory_name: the parameter's name in memory, `model.layers.0.self_attn.q_proj.weight`.
        spec: its dtype and shape.
        config: the model's config.json; `vocab_size`, the number of experts, `model_type` and `architectures`
            are looked for in it and in the configs nested in it. `{}` where there is none.
    """
    return _guess(memory_name, spec, _Model.of(config))


class Layers:
    """The layers of one model's tensors: its config is looked through once, and blocks that are alike, which
    differ in a number in the middle of their names, are asked about once."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._model = _Model.of(config)
        self._known: dict[tuple[str, tuple[int, ...], bool], LayerGuess] = {}

    def of(self, memory_name: str, spec: TensorSpec) -> LayerGuess:
        """What `layer_of` says of the tensor."""
        key = (_BLOCK_NUMBER.sub("0", memory_name), spec.shape, spec.floating)
        guess = self._known.get(key)
        if guess is None:
            guess = self._known[key] = _guess(memory_name, spec, self._model)
        return guess

    def transposed(self, memory_name: str, spec: TensorSpec) -> bool:
        """What `transposed` says of the tensor."""
        return bool(self._model.types & _CONV1D_MODELS) and self.of(memory_name, spec).layer is Layer.CONV1D


_BLOCK_NUMBER = re.compile(r"(?<=\.)\d+(?=\.[^.]*\.)")
"""A number that neither begins a name nor is a module's own, the last part but one: no rule asks which it
is."""


def _guess(name: str, spec: TensorSpec, model: _Model) -> LayerGuess:
    tensor = _look_at(name, spec, model)
    for rule in _RULES:
        guess = rule(tensor)
        if guess is not None:
            return guess
    return LayerGuess(Layer.OTHER, False, "no known name")


def transposed(memory_name: str, spec: TensorSpec, config: Mapping[str, Any]) -> bool:
    """Whether the tensor is a linear layer's weight stored as (in, out): transformers' Conv1D."""
    return layer_of(memory_name, spec, config).layer is Layer.CONV1D


def head_of(memory_name: str) -> str | None:
    """The module of the head, or pooler below it, that a tensor is in, by its name; None for others."""
    path = memory_name.split(".")[:-1]
    for depth, part in enumerate(path, start=1):
        if part in _HEADS or part == "pooler":
            return ".".join(path[:depth])
    return None


def config_values(config: Mapping[str, Any], *keys: str) -> Iterator[Any]:
    """The values of any of the keys in a config and in those nested in it (`text_config`, `decoder`)."""
    for key in keys:
        if config.get(key) is not None:
            yield config[key]
    for nested in config.values():
        if isinstance(nested, Mapping):
            yield from config_values(nested, *keys)


def _counts(config: Mapping[str, Any], *keys: str) -> Iterator[int]:
    """The integers among such values; some models have a list of them, one for each kind of token."""
    for value in config_values(config, *keys):
        yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def _look_at(name: str, spec: TensorSpec, model: _Model) -> _Tensor:
    *path, leaf = name.split(".")
    return _Tensor(
        name=name,
        path=tuple(path),
        module=path[-1] if path else "",
        leaf=leaf,
        shape=spec.shape,
        floating=spec.floating,
        model=model,
    )


_EXPERT_KEYS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)


def _buffer(tensor: _Tensor) -> LayerGuess | None:
    if _BUFFER.search(tensor.name):
        return LayerGuess(Layer.BUFFER, True, f"the buffer {tensor.leaf}")
    if _CAUSAL_MASK.search(tensor.name) and len(tensor.shape) in (2, 4):
        return LayerGuess(Layer.BUFFER, True, "a causal mask")
    if not tensor.floating:
        return LayerGuess(Layer.BUFFER, False, "not a floating dtype")
    return None


def _bias(tensor: _Tensor) -> LayerGuess | None:
    if (tensor.leaf == "bias" or tensor.leaf.endswith("_bias")) and len(tensor.shape) == 1:
        return LayerGuess(Layer.BIAS, True, "a bias")
    return None


def _vector(tensor: _Tensor) -> LayerGuess | None:
    if len(tensor.shape) > 1:
        return None
    if tensor.leaf in ("running_mean", "running_var"):
        return LayerGuess(Layer.NORM, True, "statistics of a batch norm")
    if tensor.leaf in ("weight", "gamma", "beta") and _NORM.search(tensor.module):
        return LayerGuess(Layer.NORM, True, f"a vector of {tensor.module}")
    if tensor.leaf == "weight" and tensor.module:
        return LayerGuess(Layer.NORM, False, "a weight with one axis")
    return LayerGuess(Layer.OTHER, True, "a parameter with fewer than two axes")


def _many_axes(tensor: _Tensor) -> LayerGuess | None:
    if len(tensor.shape) == 2:
        return None
    experts = len(tensor.shape) == 3 and ("experts" in tensor.path or tensor.shape[0] in tensor.model.experts)
    if experts:
        return LayerGuess(Layer.EXPERTS, True, f"{tensor.shape[0]} experts in one tensor")
    if tensor.leaf == "weight" and len(tensor.shape) <= 5:
        return LayerGuess(Layer.CONV, True, f"a weight with {len(tensor.shape)} axes")
    return LayerGuess(Layer.OTHER, True, f"a parameter with {len(tensor.shape)} axes")


def _bare_parameter(tensor: _Tensor) -> LayerGuess | None:
    if tensor.leaf == "weight":
        return None
    return LayerGuess(Layer.OTHER, True, "a parameter that is no layer's weight")


def _embedding(tensor: _Tensor) -> LayerGuess | None:
    if not _EMBEDDINGS.match(tensor.module) or _LINEAR.match(tensor.module):
        return None
    return LayerGuess(Layer.EMBEDDING, True, f"named {tensor.module}")


def _named_head(tensor: _Tensor) -> LayerGuess | None:
    inside = next((part for part in tensor.path if part in _HEADS), None)
    return None if inside is None else LayerGuess(Layer.HEAD, True, f"in the head {inside}")


def _vocabulary(tensor: _Tensor) -> LayerGuess | None:
    in_a_block = any(part.isdigit() for part in tensor.path)
    if in_a_block or tensor.shape[0] not in tensor.model.vocabularies:
        return None
    if _EMBEDDING_LIKE.search(tensor.module):
        return LayerGuess(Layer.EMBEDDING, True, "one row a token")
    return LayerGuess(Layer.HEAD, True, "one row a token")


def _router(tensor: _Tensor) -> LayerGuess | None:
    named = _ROUTER.match(tensor.module) or "router" in tensor.path
    if not named:
        return None
    if tensor.module != "gate" or tensor.shape[0] in tensor.model.experts or "router" in tensor.path:
        return LayerGuess(Layer.ROUTER, True, f"named {tensor.module}")
    return LayerGuess(Layer.ROUTER, bool(tensor.model.experts), f"named {tensor.module}")


def _conv1d(tensor: _Tensor) -> LayerGuess | None:
    if tensor.module in _CONV1D_MODULES and tensor.model.types & _CONV1D_MODELS:
        return LayerGuess(
            Layer.CONV1D, True, f"{tensor.module} of {min(tensor.model.types & _CONV1D_MODELS)}"
        )
    return None


def _linear(tensor: _Tensor) -> LayerGuess | None:
    if _LINEAR.match(tensor.module):
        return LayerGuess(Layer.LINEAR, True, f"named {tensor.module}")
    return None


def _unknown_matrix(tensor: _Tensor) -> LayerGuess | None:
    if _EMBEDDING_LIKE.search(tensor.module):
        return LayerGuess(Layer.EMBEDDING, False, f"{tensor.module} may be an embedding")
    return LayerGuess(Layer.LINEAR, False, f"{tensor.module} may be no linear layer")


_Rule = Callable[[_Tensor], LayerGuess | None]
_RULES: tuple[_Rule, ...] = (
    _buffer,
    _bias,
    _vector,
    _many_axes,
    _bare_parameter,
    _named_head,
    _embedding,
    _vocabulary,
    _router,
    _conv1d,
    _linear,
    _unknown_matrix,
)
