"""Llama and the many models built like it: one blueprint, and what each does otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from loratools.reports.costs.families.shape import Shape
from loratools.reports.costs.fields import Fields
from loratools.reports.costs.inventory import Inventory, Numbers

__all__ = ["LIKE_LLAMA", "Block", "Traits", "attention", "feed_forward", "like_llama", "measure", "stack"]

_TWO = ("input_layernorm", "post_attention_layernorm")
_AFTER = ("post_attention_layernorm", "post_feedforward_layernorm")
_FOUR = (*_TWO, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Traits:
    """How a model differs from Llama; `counted` is the class of transformers whose parameters these are.

    `qkv_bias`, `o_bias`, `mlp_bias` and `tied` are what holds where the config says nothing; `bias_field` is
    the field that the attention's biases follow, `o_follows` whether that of the output does. `norms` are
    those of a block, empty where they have no parameters (OLMo); `query_norms` those over queries and keys:
    "head" (as wide as a head), "full" (all heads) or "". `only` are fields that would change the count in a
    way not known here, with the value at which they do not.
    """

    counted: str
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    bias_field: str | None = "attention_bias"
    o_follows: bool = True
    mlp_field: str | None = "mlp_bias"
    tied: bool = False
    head_dim: int | None = None
    norms: tuple[str, ...] = _TWO
    norm_biases: bool = False
    final_norm: bool = True
    query_norms: str = ""
    gated: bool = True
    fused: bool = False
    up_names: tuple[str, str] = ("up_proj", "down_proj")
    only: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Block:
    """The measures of a block of attention and feed-forward."""

    layers: int
    d: int
    heads: int
    kv_heads: int
    width: int
    ff: int

    @property
    def query(self) -> int:
        return self.heads * self.width

    @property
    def key_value(self) -> int:
        return self.kv_heads * self.width


def like_llama(traits: Traits) -> Callable[[Fields], Shape]:
    """The family that is built like Llama but for its traits."""

    def family(fields: Fields) -> Shape:
        block = measure(fields, traits)
        made, over = Inventory(), (range(block.layers),)
        made_head = stack(made, fields, traits, block)
        attention(made, fields, traits, block)
        feed_forward(made, "model.layers.*.mlp", block.d, block.ff, over, fields, traits)
        return made_head

    return family


def measure(fields: Fields, traits: Traits) -> Block:
    d = fields.integer("hidden_size")
    heads, width = fields.heads(d, "num_attention_heads")
    if traits.head_dim is not None and fields.maybe_integer("head_dim") is None:
        width = traits.head_dim
    return Block(
        layers=fields.repeated("num_hidden_layers"),
        d=d,
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", default=heads),
        width=width,
        ff=fields.integer("intermediate_size"),
    )


def stack(
    made: Inventory, fields: Fields, traits: Traits, block: Block, *, experts: int | None = None
) -> Shape:
    """What stands around attention and feed-forward: embedding, norms, head; and the model's measures."""
    vocabulary, over = fields.integer("vocab_size"), (range(block.layers),)
    made.embedding("model.embed_tokens", vocabulary, block.d)
    for name in traits.norms:
        made.norm(f"model.layers.*.{name}", block.d, over, bias=traits.norm_biases)
    if traits.final_norm:
        made.norm("model.norm", block.d, bias=traits.norm_biases)
    tied = fields.flag("tie_word_embeddings", default=traits.tied)
    made.output_head("lm_head", vocabulary, block.d, tied=tied)
    return Shape(
        made, block.layers, block.d, block.heads, block.kv_heads, block.key_value, block.ff, vocabulary,
        fields.maybe_integer("max_position_embeddings"), tied=tied, norm_biases=traits.norm_biases,
        experts=experts,
    )  # fmt: skip


def attention(made: Inventory, fields: Fields, traits: Traits, block: Block) -> None:
    """Query, key, value and output, their biases, and norms over queries and keys."""
    root, over = "model.layers.*.self_attn", (range(block.layers),)
    bias = traits.qkv_bias
    if traits.bias_field is not None:
        bias = fields.flag(traits.bias_field, default=traits.qkv_bias)
    if traits.fused:
        slices = (("q", block.query), ("k", block.key_value), ("v", block.key_value))
        out = block.query + 2 * block.key_value
        made.matrix(f"{root}.qkv_proj", out, block.d, over, bias=bias, slices=slices)
    else:
        made.matrix(f"{root}.q_proj", block.query, block.d, over, bias=bias)
        for name in ("k_proj", "v_proj"):
            made.matrix(f"{root}.{name}", block.key_value, block.d, over, bias=bias)
    made.matrix(
        f"{root}.o_proj", block.d, block.query, over, bias=bias if traits.o_follows else traits.o_bias
    )
    _query_norms(made, root, traits, block, over)


def _query_norms(made: Inventory, root: str, traits: Traits, block: Block, over: Numbers) -> None:
    if traits.query_norms == "head":
        for name in ("q_norm", "k_norm"):
            made.norm(f"{root}.{name}", block.width, over, bias=False)
    elif traits.query_norms == "full":
        made.norm(f"{root}.q_norm", block.query, over, bias=False)
        made.norm(f"{root}.k_norm", block.key_value, over, bias=False)


def feed_forward(
    made: Inventory, root: str, d: int, ff: int, over: Numbers, fields: Fields, traits: Traits
) -> None:
    """The two or three matrices of a feed-forward."""
    bias = fields.flag(traits.mlp_field, default=traits.mlp_bias) if traits.mlp_field else traits.mlp_bias
    up, down = traits.up_names
    if traits.fused:
        made.matrix(f"{root}.gate_up_proj", 2 * ff, d, over, bias=bias, slices=(("gate", ff), ("up", ff)))
    else:
        for name in ("gate_proj", up) if traits.gated else (up,):
            made.matrix(f"{root}.{name}", ff, d, over, bias=bias)
    made.matrix(f"{root}.{down}", d, ff, over, bias=bias)


LIKE_LLAMA: dict[str, Traits] = {
    "llama": Traits("LlamaForCausalLM"),
    "granite": Traits("GraniteForCausalLM"),
    "smollm3": Traits("SmolLM3ForCausalLM", tied=True),
    "mistral": Traits("MistralForCausalLM", bias_field=None, mlp_field=None),
    "qwen2": Traits("Qwen2ForCausalLM", qkv_bias=True, bias_field=None, o_follows=False, mlp_field=None),
    "qwen3": Traits("Qwen3ForCausalLM", head_dim=128, query_norms="head", mlp_field=None),
    "gemma": Traits("GemmaForCausalLM", head_dim=256, tied=True, mlp_field=None),
    "gemma2": Traits("Gemma2ForCausalLM", head_dim=256, tied=True, norms=_FOUR, mlp_field=None),
    "gemma3_text": Traits(
        "Gemma3ForCausalLM", head_dim=256, tied=True, norms=_FOUR, query_norms="head", mlp_field=None
    ),
    "phi3": Traits("Phi3ForCausalLM", bias_field=None, fused=True, mlp_field=None),
    "olmo": Traits("OlmoForCausalLM", norms=(), final_norm=False, mlp_field=None),
    "olmo2": Traits("Olmo2ForCausalLM", norms=_AFTER, query_norms="full", mlp_field=None),
    "cohere": Traits(
        "CohereForCausalLM",
        norms=("input_layernorm",),
        tied=True,
        mlp_field=None,
        only={"use_qk_norm": False},
    ),
    "stablelm": Traits(
        "StableLmForCausalLM",
        bias_field="use_qkv_bias",
        o_follows=False,
        norm_biases=True,
        mlp_field=None,
        only={"qk_layernorm": False, "use_parallel_residual": False},
    ),
    "starcoder2": Traits(
        "Starcoder2ForCausalLM",
        qkv_bias=True,
        mlp_bias=True,
        bias_field="use_bias",
        mlp_field="use_bias",
        norm_biases=True,
        tied=True,
        gated=False,
        up_names=("c_fc", "c_proj"),
    ),
}
"""By model_type."""
