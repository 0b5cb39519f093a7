"""Decoders with LayerNorm: GPT-2, GPT-J, GPT-Neo, GPT-NeoX, BLOOM, OPT, Falcon, MPT and Phi."""

from __future__ import annotations

from loratools.reports.costs.families.shape import Shape, qkv
from loratools.reports.costs.fields import Fields
from loratools.reports.costs.inventory import Inventory

__all__ = ["bloom", "falcon", "gpt2", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt", "phi"]


def gpt2(fields: Fields) -> Shape:
    """GPT2LMHeadModel: d(V + P) + L(12d² + 13d) + 2d where the feed-forward is 4d wide."""
    layers, d = fields.repeated("n_layer", "num_hidden_layers"), fields.integer("n_embd", "hidden_size")
    heads, _ = fields.heads(d, "n_head", "num_attention_heads")
    ff = fields.integer("n_inner", default=4 * d)
    vocabulary, positions = fields.integer("vocab_size"), fields.integer("n_positions", default=1024)
    made, over = Inventory(), (range(layers),)
    made.embedding("transformer.wte", vocabulary, d)
    made.embedding("transformer.wpe", positions, d)
    made.norm("transformer.h.*.ln_1", d, over, bias=True)
    made.matrix("transformer.h.*.attn.c_attn", 3 * d, d, over, bias=True, slices=qkv(d, d))
    made.matrix("transformer.h.*.attn.c_proj", d, d, over, bias=True)
    made.norm("transformer.h.*.ln_2", d, over, bias=True)
    made.matrix("transformer.h.*.mlp.c_fc", ff, d, over, bias=True)
    made.matrix("transformer.h.*.mlp.c_proj", d, ff, over, bias=True)
    made.norm("transformer.ln_f", d, bias=True)
    tied = fields.flag("tie_word_embeddings", default=True)
    made.output_head("lm_head", vocabulary, d, tied=tied)
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions, tied=tied)


def gptj(fields: Fields) -> Shape:
    """GPTJForCausalLM: one norm a block, no biases in attention, a head with a bias."""
    layers, d = fields.repeated("n_layer", "num_hidden_layers"), fields.integer("n_embd", "hidden_size")
    heads, _ = fields.heads(d, "n_head", "num_attention_heads")
    ff, vocabulary = fields.integer("n_inner", default=4 * d), fields.integer("vocab_size")
    made, over = Inventory(), (range(layers),)
    made.embedding("transformer.wte", vocabulary, d)
    made.norm("transformer.h.*.ln_1", d, over, bias=True)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        made.matrix(f"transformer.h.*.attn.{name}", d, d, over)
    made.matrix("transformer.h.*.mlp.fc_in", ff, d, over, bias=True)
    made.matrix("transformer.h.*.mlp.fc_out", d, ff, over, bias=True)
    made.norm("transformer.ln_f", d, bias=True)
    tied = fields.flag("tie_word_embeddings")
    made.output_head("lm_head", vocabulary, d, tied=tied, bias=True)
    positions = fields.integer("n_positions", default=2048)
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions, tied=tied)


def gpt_neo(fields: Fields) -> Shape:
    """GPTNeoForCausalLM."""
    layers, d = fields.repeated("num_layers", "num_hidden_layers"), fields.integer("hidden_size")
    heads, _ = fields.heads(d, "num_heads", "num_attention_heads")
    ff, vocabulary = fields.integer("intermediate_size", default=4 * d), fields.integer("vocab_size")
    positions = fields.integer("max_position_embeddings")
    made, over = Inventory(), (range(layers),)
    made.embedding("transformer.wte", vocabulary, d)
    made.embedding("transformer.wpe", positions, d)
    made.norm("transformer.h.*.ln_1", d, over, bias=True)
    for name in ("q_proj", "k_proj", "v_proj"):
        made.matrix(f"transformer.h.*.attn.attention.{name}", d, d, over)
    made.matrix("transformer.h.*.attn.attention.out_proj", d, d, over, bias=True)
    made.norm("transformer.h.*.ln_2", d, over, bias=True)
    made.matrix("transformer.h.*.mlp.c_fc", ff, d, over, bias=True)
    made.matrix("transformer.h.*.mlp.c_proj", d, ff, over, bias=True)
    made.norm("transformer.ln_f", d, bias=True)
    tied = fields.flag("tie_word_embeddings", default=True)
    made.output_head("lm_head", vocabulary, d, tied=tied)
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions, tied=tied)


def gpt_neox(fields: Fields) -> Shape:
    """GPTNeoXForCausalLM: query, key and value in one matrix, a head of its own."""
    layers, d = fields.repeated("num_hidden_layers"), fields.integer("hidden_size")
    heads, _ = fields.heads(d, "num_attention_heads")
    ff, vocabulary = fields.integer("intermediate_size"), fields.integer("vocab_size")
    bias = fields.flag("attention_bias", default=True)
    made, over = Inventory(), (range(layers),)
    made.embedding("gpt_neox.embed_in", vocabulary, d)
    made.norm("gpt_neox.layers.*.input_layernorm", d, over, bias=True)
    made.matrix("gpt_neox.layers.*.attention.query_key_value", 3 * d, d, over, bias=bias, slices=qkv(d, d))
    made.matrix("gpt_neox.layers.*.attention.dense", d, d, over, bias=bias)
    made.norm("gpt_neox.layers.*.post_attention_layernorm", d, over, bias=True)
    made.matrix("gpt_neox.layers.*.mlp.dense_h_to_4h", ff, d, over, bias=True)
    made.matrix("gpt_neox.layers.*.mlp.dense_4h_to_h", d, ff, over, bias=True)
    made.norm("gpt_neox.final_layer_norm", d, bias=True)
    tied = fields.flag("tie_word_embeddings")
    made.output_head("embed_out", vocabulary, d, tied=tied)
    positions = fields.maybe_integer("max_position_embeddings")
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions, tied=tied)


def bloom(fields: Fields) -> Shape:
    """BloomForCausalLM: ALiBi instead of positions, and a norm after the embedding."""
    layers = fields.repeated("n_layer", "num_hidden_layers")
    d = fields.integer("hidden_size", "n_embed")
    heads, _ = fields.heads(d, "n_head", "num_attention_heads")
    vocabulary = fields.integer("vocab_size")
    made, over = Inventory(), (range(layers),)
    made.embedding("transformer.word_embeddings", vocabulary, d)
    made.norm("transformer.word_embeddings_layernorm", d, bias=True)
    made.norm("transformer.h.*.input_layernorm", d, over, bias=True)
    made.matrix("transformer.h.*.self_attention.query_key_value", 3 * d, d, over, bias=True, slices=qkv(d, d))
    made.matrix("transformer.h.*.self_attention.dense", d, d, over, bias=True)
    made.norm("transformer.h.*.post_attention_layernorm", d, over, bias=True)
    made.matrix("transformer.h.*.mlp.dense_h_to_4h", 4 * d, d, over, bias=True)
    made.matrix("transformer.h.*.mlp.dense_4h_to_h", d, 4 * d, over, bias=True)
    made.norm("transformer.ln_f", d, bias=True)
    tied = fields.flag("tie_word_embeddings", default=True)
    made.output_head("lm_head", vocabulary, d, tied=tied)
    return Shape(made, layers, d, heads, heads, d, 4 * d, vocabulary, None, tied=tied)


def opt(fields: Fields) -> Shape:
    """OPTForCausalLM: two positions more than it says; a projection where its embedding is narrower."""
    layers, d = fields.repeated("num_hidden_layers"), fields.integer("hidden_size")
    heads, _ = fields.heads(d, "num_attention_heads")
    ff, vocabulary = fields.integer("ffn_dim"), fields.integer("vocab_size")
    width = fields.integer("word_embed_proj_dim", default=d)
    positions = fields.integer("max_position_embeddings", default=2048)
    bias = fields.flag("enable_bias", default=True)
    norms = fields.flag("layer_norm_elementwise_affine", default=True)
    root, made, over = "model.decoder", Inventory(), (range(layers),)
    made.embedding(f"{root}.embed_tokens", vocabulary, width)
    made.embedding(f"{root}.embed_positions", positions + 2, d)
    if width != d:
        made.head(f"{root}.project_in", d, width)
        made.head(f"{root}.project_out", width, d)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        made.matrix(f"{root}.layers.*.self_attn.{name}", d, d, over, bias=bias)
    made.matrix(f"{root}.layers.*.fc1", ff, d, over, bias=bias)
    made.matrix(f"{root}.layers.*.fc2", d, ff, over, bias=bias)
    if norms:
        made.norm(f"{root}.layers.*.self_attn_layer_norm", d, over, bias=True)
        made.norm(f"{root}.layers.*.final_layer_norm", d, over, bias=True)
        if fields.flag("do_layer_norm_before", default=True) and not fields.flag("_remove_final_layer_norm"):
            made.norm(f"{root}.final_layer_norm", d, bias=True)
    tied = fields.flag("tie_word_embeddings", default=True)
    made.output_head("lm_head", vocabulary, width, tied=tied)
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions, tied=tied)


def falcon(fields: Fields) -> Shape:
    """FalconForCausalLM in its three forms: one key and value for all heads, a few, or one a head."""
    layers, d = fields.repeated("num_hidden_layers", "n_layer"), fields.integer("hidden_size")
    heads, width = fields.heads(d, "num_attention_heads", "n_head")
    ff, vocabulary = fields.integer("ffn_hidden_size", default=4 * d), fields.integer("vocab_size")
    newer, bias = fields.flag("new_decoder_architecture"), fields.flag("bias")
    kv_heads = fields.integer("num_kv_heads", "n_head_kv", default=heads)
    if not newer:
        kv_heads = 1 if fields.flag("multi_query", default=True) else heads
    kv = kv_heads * width
    root, made, over = "transformer.h.*", Inventory(), (range(layers),)
    made.embedding("transformer.word_embeddings", vocabulary, d)
    two = newer and fields.integer("num_ln_in_parallel_attn", default=2) == 2
    for name in ("ln_attn", "ln_mlp") if two else ("input_layernorm",):
        made.norm(f"{root}.{name}", d, over, bias=True)
    if not two and not fields.flag("parallel_attn", default=True):
        made.norm(f"{root}.post_attention_layernorm", d, over, bias=True)
    made.matrix(f"{root}.self_attention.query_key_value", d + 2 * kv, d, over, bias=bias, slices=qkv(d, kv))
    made.matrix(f"{root}.self_attention.dense", d, d, over, bias=bias)
    made.matrix(f"{root}.mlp.dense_h_to_4h", ff, d, over, bias=bias)
    made.matrix(f"{root}.mlp.dense_4h_to_h", d, ff, over, bias=bias)
    made.norm("transformer.ln_f", d, bias=True)
    tied = fields.flag("tie_word_embeddings", default=True)
    made.output_head("lm_head", vocabulary, d, tied=tied)
    positions = fields.maybe_integer("max_position_embeddings")
    return Shape(made, layers, d, heads, kv_heads, kv, ff, vocabulary, positions, tied=tied)


def mpt(fields: Fields) -> Shape:
    """MptForCausalLM: no bias anywhere, and a feed-forward of 4d whatever `expansion_ratio` says."""
    layers, d = fields.repeated("n_layers"), fields.integer("d_model")
    heads, _ = fields.heads(d, "n_heads")
    vocabulary, ff = fields.integer("vocab_size"), 4 * d
    made, over = Inventory(), (range(layers),)
    made.embedding("transformer.wte", vocabulary, d)
    made.norm("transformer.blocks.*.norm_1", d, over, bias=False)
    made.matrix("transformer.blocks.*.attn.Wqkv", 3 * d, d, over, slices=qkv(d, d))
    made.matrix("transformer.blocks.*.attn.out_proj", d, d, over)
    made.norm("transformer.blocks.*.norm_2", d, over, bias=False)
    made.matrix("transformer.blocks.*.ffn.up_proj", ff, d, over)
    made.matrix("transformer.blocks.*.ffn.down_proj", d, ff, over)
    made.norm("transformer.norm_f", d, bias=False)
    positions = fields.maybe_integer("max_seq_len")
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions, tied=True, norm_biases=False)


def phi(fields: Fields) -> Shape:
    """PhiForCausalLM: one norm a block, biases everywhere, on the head too."""
    layers, d = fields.repeated("num_hidden_layers"), fields.integer("hidden_size")
    heads, width = fields.heads(d, "num_attention_heads")
    kv_heads = fields.integer("num_key_value_heads", default=heads)
    kv, ff, vocabulary = kv_heads * width, fields.integer("intermediate_size"), fields.integer("vocab_size")
    made, over = Inventory(), (range(layers),)
    made.embedding("model.embed_tokens", vocabulary, d)
    made.norm("model.layers.*.input_layernorm", d, over, bias=True)
    made.matrix("model.layers.*.self_attn.q_proj", heads * width, d, over, bias=True)
    for name in ("k_proj", "v_proj"):
        made.matrix(f"model.layers.*.self_attn.{name}", kv, d, over, bias=True)
    made.matrix("model.layers.*.self_attn.dense", d, heads * width, over, bias=True)
    if fields.flag("qk_layernorm"):
        for name in ("q_layernorm", "k_layernorm"):
            made.norm(f"model.layers.*.self_attn.{name}", d // heads, over, bias=True)
    made.matrix("model.layers.*.mlp.fc1", ff, d, over, bias=True)
    made.matrix("model.layers.*.mlp.fc2", d, ff, over, bias=True)
    made.norm("model.final_layernorm", d, bias=True)
    tied = fields.flag("tie_word_embeddings")
    made.output_head("lm_head", vocabulary, d, tied=tied, bias=True)
    positions = fields.maybe_integer("max_position_embeddings")
    return Shape(made, layers, d, heads, kv_heads, kv, ff, vocabulary, positions, tied=tied)
