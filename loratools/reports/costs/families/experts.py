"""Mixtures of experts on Llama's blueprint: Mixtral, Qwen's, OLMoE, DeepSeek V2 and V3, gpt-oss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loratools.reports.costs.architecture import Role
from loratools.reports.costs.families.llama import Block, Traits, attention, feed_forward, measure, stack
from loratools.reports.costs.families.shape import Shape
from loratools.reports.costs.fields import Fields
from loratools.reports.costs.inventory import Inventory, Numbers

__all__ = ["EXPERTS", "deepseek", "gpt_oss", "mixtral", "mixture"]

_MIXTRAL = Traits("MixtralForCausalLM", bias_field=None, mlp_field=None)


@dataclass(frozen=True)
class Mixture:
    """How a mixture differs: the fields that count experts and give their width, and a shared expert's."""

    traits: Traits
    count: tuple[str, ...]
    width: tuple[str, ...]
    shared: str | None = None


EXPERTS: dict[str, Mixture] = {
    "qwen2_moe": Mixture(
        Traits("Qwen2MoeForCausalLM", qkv_bias=True, bias_field="qkv_bias", o_follows=False, mlp_field=None),
        ("num_experts",),
        ("moe_intermediate_size",),
        "shared_expert_intermediate_size",
    ),
    "qwen3_moe": Mixture(
        Traits("Qwen3MoeForCausalLM", query_norms="head", mlp_field=None),
        ("num_experts", "num_local_experts"),
        ("moe_intermediate_size",),
    ),
    "olmoe": Mixture(
        Traits("OlmoeForCausalLM", query_norms="full", mlp_field=None),
        ("num_experts",),
        ("intermediate_size",),
    ),
}
"""By model_type."""


def mixture(kind: Mixture) -> Callable[[Fields], Shape]:
    """A family whose layers have routed experts, but for those that the config keeps dense."""

    def family(fields: Fields) -> Shape:
        block = measure(fields, kind.traits)
        experts, ff = fields.repeated(*kind.count), fields.integer(*kind.width)
        made = Inventory()
        shape = stack(made, fields, kind.traits, block, experts=experts)
        attention(made, fields, kind.traits, block)
        step = fields.integer("decoder_sparse_step", default=1)
        dense = fields.numbers("mlp_only_layers")
        for layer in range(block.layers):
            at, over = f"model.layers.{layer}.mlp", ()
            if layer in dense or not step or (layer + 1) % step:
                feed_forward(made, at, block.d, block.ff, over, fields, kind.traits)
                continue
            _routed(made, at, block.d, ff, experts, fields, kind.traits)
            if kind.shared is not None:
                shared = fields.integer(kind.shared)
                feed_forward(made, f"{at}.shared_expert", block.d, shared, over, fields, kind.traits)
                made.add(f"{at}.shared_expert_gate", Role.ROUTER, (1, block.d))
        return replace(shape, feed_forward=ff)

    return family


def _routed(made: Inventory, at: str, d: int, ff: int, experts: int, fields: Fields, traits: Traits) -> None:
    """A router, and experts of which each is a feed-forward."""
    made.add(f"{at}.gate", Role.ROUTER, (experts, d))
    feed_forward(made, f"{at}.experts.*", d, ff, (range(experts),), fields, traits)


def mixtral(fields: Fields) -> Shape:
    """MixtralForCausalLM: experts of w1, w2 and w3, named as on disk."""
    block, experts = measure(fields, _MIXTRAL), fields.repeated("num_local_experts")
    made = Inventory()
    shape = stack(made, fields, _MIXTRAL, block, experts=experts)
    attention(made, fields, _MIXTRAL, block)
    root, over = "model.layers.*.block_sparse_moe", (range(block.layers),)
    each = (*over, range(experts))
    made.add(f"{root}.gate", Role.ROUTER, (experts, block.d), over)
    for name in ("w1", "w3"):
        made.matrix(f"{root}.experts.*.{name}", block.ff, block.d, each)
    made.matrix(f"{root}.experts.*.w2", block.d, block.ff, each)
    return shape


def gpt_oss(fields: Fields) -> Shape:
    """GptOssForCausalLM: biases everywhere, sinks beside the heads, experts with biases of their own."""
    traits = Traits("GptOssForCausalLM", qkv_bias=True, head_dim=64, mlp_field=None)
    block, experts = measure(fields, traits), fields.repeated("num_local_experts")
    made, over = Inventory(), (range(block.layers),)
    shape = stack(made, fields, traits, block, experts=experts)
    attention(made, fields, traits, block)
    made.add("model.layers.*.self_attn.sinks", Role.OTHER, (block.heads,), over)
    root, each = "model.layers.*.mlp", (*over, range(experts))
    made.add(f"{root}.router", Role.ROUTER, (experts, block.d), over)
    made.add(f"{root}.router", Role.BIAS, (experts,), over)
    made.matrix(
        f"{root}.experts.*.gate_up_proj", 2 * block.ff, block.d, each, bias=True,
        slices=(("gate", block.ff), ("up", block.ff)),
    )  # fmt: skip
    made.matrix(f"{root}.experts.*.down_proj", block.d, block.ff, each, bias=True)
    return shape


def deepseek(*, correction: bool) -> Callable[[Fields], Shape]:
    """DeepseekV2ForCausalLM, and V3 with its `correction` of the router: latent attention, routed experts
    beside shared ones, the first layers dense."""

    def family(fields: Fields) -> Shape:
        traits = Traits("DeepseekV3ForCausalLM", mlp_field=None)
        block, experts = measure(fields, traits), fields.repeated("n_routed_experts")
        ff = fields.integer("moe_intermediate_size")
        made = Inventory()
        shape = stack(made, fields, traits, block, experts=experts)
        latent, width = _latent_attention(made, fields, block)
        dense = min(fields.integer("first_k_dense_replace", default=0), block.layers)
        feed_forward(made, "model.layers.*.mlp", block.d, block.ff, (range(dense),), fields, traits)
        rest = range(dense, block.layers)
        root, over = "model.layers.*.mlp", (rest,)
        made.add(f"{root}.gate", Role.ROUTER, (experts, block.d), over)
        feed_forward(made, f"{root}.experts.*", block.d, ff, (rest, range(experts)), fields, traits)
        if shared := fields.maybe_integer("n_shared_experts"):
            feed_forward(made, f"{root}.shared_experts", block.d, ff * shared, over, fields, traits)
        return replace(shape, feed_forward=ff, key_value_width=width, notes=(latent,))

    return family


def _latent_attention(made: Inventory, fields: Fields, block: Block) -> tuple[str, int]:
    """Multi-head latent attention; returns what to know of it, and the width of all heads' values."""
    root, over = "model.layers.*.self_attn", (range(block.layers),)
    nope, rope = fields.integer("qk_nope_head_dim"), fields.integer("qk_rope_head_dim")
    value, latent = fields.integer("v_head_dim"), fields.integer("kv_lora_rank")
    bias = fields.flag("attention_bias")
    query = block.heads * (nope + rope)
    _query(made, fields, root, block.d, query, over, bias=bias)
    made.matrix(f"{root}.kv_a_proj_with_mqa", latent + rope, block.d, over, bias=bias)
    made.norm(f"{root}.kv_a_layernorm", latent, over, bias=False)
    made.matrix(f"{root}.kv_b_proj", block.heads * (nope + value), latent, over)
    made.matrix(f"{root}.o_proj", block.d, block.heads * value, over, bias=bias)
    return "latent attention: prefixes of keys and values are sized by all heads", block.heads * value


def _query(
    made: Inventory, fields: Fields, root: str, d: int, query: int, over: Numbers, *, bias: bool
) -> None:
    if latent := fields.maybe_integer("q_lora_rank"):
        made.matrix(f"{root}.q_a_proj", latent, d, over, bias=bias)
        made.norm(f"{root}.q_a_layernorm", latent, over, bias=False)
        made.matrix(f"{root}.q_b_proj", query, latent, over)
    else:
        made.matrix(f"{root}.q_proj", query, d, over)
