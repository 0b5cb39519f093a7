"""T5, mT5 and UMT5: an encoder and a decoder, relative positions, no biases."""

from __future__ import annotations

from loratools.reports.costs.architecture import Role
from loratools.reports.costs.families.shape import Shape
from loratools.reports.costs.fields import Fields
from loratools.reports.costs.inventory import Inventory, Numbers

__all__ = ["t5", "umt5"]


def t5(fields: Fields) -> Shape:
    """T5ForConditionalGeneration: relative positions are learned in the first block of either side only.

    Version 1.1 and mT5 say `tie_word_embeddings: false`, and their files hold a head; transformers 5 builds
    them tied until it has read it.
    """
    return _t5(fields, every_block=False)


def umt5(fields: Fields) -> Shape:
    """UMT5ForConditionalGeneration: relative positions in every block."""
    return _t5(fields, every_block=True)


def _t5(fields: Fields, *, every_block: bool) -> Shape:
    d, heads = fields.integer("d_model", "hidden_size"), fields.integer("num_heads", "num_attention_heads")
    encoder = fields.repeated("num_layers", "num_hidden_layers")
    decoder = fields.repeated("num_decoder_layers", default=encoder)
    ff, vocabulary = fields.integer("d_ff"), fields.integer("vocab_size")
    inner = heads * fields.integer("d_kv", default=64)
    gated = fields.text("feed_forward_proj", "relu").startswith("gated-")
    buckets = fields.integer("relative_attention_num_buckets", default=32)
    made = Inventory()
    made.embedding("shared", vocabulary, d)
    for side, layers in (("encoder", encoder), ("decoder", decoder)):
        over = (range(layers),)
        _attention(made, f"{side}.block.*.layer.0", "SelfAttention", d, inner, over)
        made.add(
            f"{side}.block.*.layer.0.SelfAttention.relative_attention_bias",
            Role.EMBEDDING,
            (buckets, heads),
            over if every_block else (range(min(1, layers)),),
        )
        if side == "decoder":
            _attention(made, f"{side}.block.*.layer.1", "EncDecAttention", d, inner, over)
        _feed_forward(made, f"{side}.block.*.layer.{2 if side == 'decoder' else 1}", d, ff, over, gated=gated)
        made.norm(f"{side}.final_layer_norm", d, bias=False)
    tied = fields.flag("tie_word_embeddings", default=True)
    made.output_head("lm_head", vocabulary, d, tied=tied)
    return Shape(
        made, encoder + decoder, d, heads, heads, inner, ff, vocabulary, None, tied=tied, norm_biases=False,
        prefixed_layers=encoder, notes=(f"{encoder} layers of an encoder and {decoder} of a decoder",),
    )  # fmt: skip


def _attention(made: Inventory, root: str, name: str, d: int, inner: int, over: Numbers) -> None:
    for part in ("q", "k", "v"):
        made.matrix(f"{root}.{name}.{part}", inner, d, over)
    made.matrix(f"{root}.{name}.o", d, inner, over)
    made.norm(f"{root}.layer_norm", d, over, bias=False)


def _feed_forward(made: Inventory, root: str, d: int, ff: int, over: Numbers, *, gated: bool) -> None:
    for part in ("wi_0", "wi_1") if gated else ("wi",):
        made.matrix(f"{root}.DenseReluDense.{part}", ff, d, over)
    made.matrix(f"{root}.DenseReluDense.wo", d, ff, over)
    made.norm(f"{root}.layer_norm", d, over, bias=False)
