"""Encoders without a task's head: BERT and its kin, DistilBERT, ELECTRA, DeBERTa, the vision transformer."""

from __future__ import annotations

from loratools.reports.costs.architecture import Role
from loratools.reports.costs.families.shape import Shape, qkv
from loratools.reports.costs.fields import Fields
from loratools.reports.costs.inventory import Inventory, Numbers

__all__ = ["bert", "deberta", "deberta_v2", "distilbert", "electra", "roberta", "vit"]


def bert(fields: Fields) -> Shape:
    """BertModel, with its pooler."""
    return _bert(fields, "bert")


def roberta(fields: Fields) -> Shape:
    """RobertaModel, with its pooler: BERT with other embeddings (514 positions, one type)."""
    return _bert(fields, "roberta")


def _bert(fields: Fields, root: str) -> Shape:
    layers, d, heads, ff, vocabulary, positions = _measures(fields)
    made = Inventory()
    _embeddings(made, fields, f"{root}.embeddings", vocabulary, positions, d)
    _bert_layers(made, f"{root}.encoder.layer.*", d, ff, (range(layers),))
    made.head(f"{root}.pooler.dense", d, d, bias=True)
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions)


def electra(fields: Fields) -> Shape:
    """ElectraModel: no pooler; embeddings that are narrower than the layers are projected."""
    layers, d, heads, ff, vocabulary, positions = _measures(fields)
    width = fields.integer("embedding_size", default=d)
    made = Inventory()
    _embeddings(made, fields, "electra.embeddings", vocabulary, positions, width)
    if width != d:
        made.head("electra.embeddings_project", d, width, bias=True)
    _bert_layers(made, "electra.encoder.layer.*", d, ff, (range(layers),))
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions)


def distilbert(fields: Fields) -> Shape:
    """DistilBertModel: no token types, no pooler."""
    layers, d = fields.repeated("n_layers", "num_hidden_layers"), fields.integer("dim", "hidden_size")
    heads, _ = fields.heads(d, "n_heads", "num_attention_heads")
    ff, vocabulary = fields.integer("hidden_dim", "intermediate_size"), fields.integer("vocab_size")
    positions = fields.integer("max_position_embeddings")
    root, made, over = "distilbert.transformer.layer.*", Inventory(), (range(layers),)
    made.embedding("distilbert.embeddings.word_embeddings", vocabulary, d)
    made.embedding("distilbert.embeddings.position_embeddings", positions, d)
    made.norm("distilbert.embeddings.LayerNorm", d, bias=True)
    for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
        made.matrix(f"{root}.attention.{name}", d, d, over, bias=True)
    made.norm(f"{root}.sa_layer_norm", d, over, bias=True)
    made.matrix(f"{root}.ffn.lin1", ff, d, over, bias=True)
    made.matrix(f"{root}.ffn.lin2", d, ff, over, bias=True)
    made.norm(f"{root}.output_layer_norm", d, over, bias=True)
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions)


def deberta(fields: Fields) -> Shape:
    """DebertaModel: query, key and value in one matrix, whose bias leaves the key out."""
    layers, d, heads, ff, vocabulary, positions = _measures(fields)
    root, made, over = "deberta.encoder.layer.*", Inventory(), (range(layers),)
    _deberta_embeddings(made, fields, vocabulary, positions, d)
    made.matrix(f"{root}.attention.self.in_proj", 3 * d, d, over, slices=qkv(d, d))
    for name in ("q_bias", "v_bias"):
        made.add(f"{root}.attention.self.{name}", Role.BIAS, (d,), over)
    relative = fields.flag("relative_attention")
    kinds = _position_kinds(fields)
    if relative and "c2p" in kinds:
        made.matrix(f"{root}.attention.self.pos_proj", d, d, over)
    if relative and "p2c" in kinds:
        made.matrix(f"{root}.attention.self.pos_q_proj", d, d, over, bias=True)
    _deberta_rest(made, d, ff, over)
    if relative:
        made.embedding("deberta.encoder.rel_embeddings", 2 * _relative_positions(fields, positions), d)
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions)


def deberta_v2(fields: Fields) -> Shape:
    """DebertaV2Model: keys and queries shared with the positions' or not, and perhaps a convolution."""
    layers, d, heads, ff, vocabulary, positions = _measures(fields)
    root, made, over = "deberta.encoder.layer.*", Inventory(), (range(layers),)
    width = fields.integer("attention_head_size", default=d // heads) * heads
    _deberta_embeddings(made, fields, vocabulary, positions, d)
    for name in ("query_proj", "key_proj", "value_proj"):
        made.matrix(f"{root}.attention.self.{name}", width, d, over, bias=True)
    relative = fields.flag("relative_attention")
    kinds = _position_kinds(fields)
    if relative and not fields.flag("share_att_key"):
        if "c2p" in kinds:
            made.matrix(f"{root}.attention.self.pos_key_proj", width, d, over, bias=True)
        if "p2c" in kinds:
            made.matrix(f"{root}.attention.self.pos_query_proj", width, d, over, bias=True)
    _deberta_rest(made, d, ff, over)
    if relative:
        buckets = fields.config.get("position_buckets", -1)
        span = buckets if isinstance(buckets, int) and buckets > 0 else _relative_positions(fields, positions)
        made.embedding("deberta.encoder.rel_embeddings", 2 * span, d)
    if "layer_norm" in fields.text("norm_rel_ebd", "none"):
        made.norm("deberta.encoder.LayerNorm", d, bias=True)
    if kernel := fields.integer("conv_kernel_size", default=0):
        made.add("deberta.encoder.conv.conv", Role.OTHER, (d, d, kernel))
        made.add("deberta.encoder.conv.conv", Role.BIAS, (d,))
        made.norm("deberta.encoder.conv.LayerNorm", d, bias=True)
    return Shape(made, layers, d, heads, heads, d, ff, vocabulary, positions)


def vit(fields: Fields) -> Shape:
    """ViTModel, with its pooler: a patch is a token."""
    layers, d = fields.repeated("num_hidden_layers"), fields.integer("hidden_size")
    heads, _ = fields.heads(d, "num_attention_heads")
    ff, patch = fields.integer("intermediate_size"), fields.integer("patch_size", default=16)
    patches = (fields.integer("image_size", default=224) // patch) ** 2
    pooled, bias = (
        fields.integer("pooler_output_size", default=d),
        fields.flag("qkv_bias", default=True),
    )
    root, made, over = "vit.encoder.layer.*", Inventory(), (range(layers),)
    made.add("vit.embeddings.cls_token", Role.OTHER, (1, 1, d))
    made.add("vit.embeddings.position_embeddings", Role.EMBEDDING, (1, patches + 1, d))
    channels = fields.integer("num_channels", default=3)
    made.add("vit.embeddings.patch_embeddings.projection", Role.OTHER, (d, channels, patch, patch))
    made.add("vit.embeddings.patch_embeddings.projection", Role.BIAS, (d,))
    for name in ("query", "key", "value"):
        made.matrix(f"{root}.attention.attention.{name}", d, d, over, bias=bias)
    made.matrix(f"{root}.attention.output.dense", d, d, over, bias=True)
    made.matrix(f"{root}.intermediate.dense", ff, d, over, bias=True)
    made.matrix(f"{root}.output.dense", d, ff, over, bias=True)
    for name in ("layernorm_before", "layernorm_after"):
        made.norm(f"{root}.{name}", d, over, bias=True)
    made.norm("vit.layernorm", d, bias=True)
    made.head("vit.pooler.dense", pooled, d, bias=True)
    return Shape(made, layers, d, heads, heads, d, ff, None, patches + 1)


def _measures(fields: Fields) -> tuple[int, int, int, int, int, int]:
    """Layers, hidden size, heads, width of the feed-forward, vocabulary, positions."""
    d = fields.integer("hidden_size")
    heads, _ = fields.heads(d, "num_attention_heads")
    return (
        fields.repeated("num_hidden_layers"),
        d,
        heads,
        fields.integer("intermediate_size"),
        fields.integer("vocab_size"),
        fields.integer("max_position_embeddings", default=512),
    )


def _embeddings(
    made: Inventory, fields: Fields, root: str, vocabulary: int, positions: int, width: int
) -> None:
    made.embedding(f"{root}.word_embeddings", vocabulary, width)
    made.embedding(f"{root}.position_embeddings", positions, width)
    made.embedding(f"{root}.token_type_embeddings", fields.integer("type_vocab_size", default=2), width)
    made.norm(f"{root}.LayerNorm", width, bias=True)


def _bert_layers(made: Inventory, root: str, d: int, ff: int, over: Numbers) -> None:
    for name in ("query", "key", "value"):
        made.matrix(f"{root}.attention.self.{name}", d, d, over, bias=True)
    made.matrix(f"{root}.attention.output.dense", d, d, over, bias=True)
    made.norm(f"{root}.attention.output.LayerNorm", d, over, bias=True)
    made.matrix(f"{root}.intermediate.dense", ff, d, over, bias=True)
    made.matrix(f"{root}.output.dense", d, ff, over, bias=True)
    made.norm(f"{root}.output.LayerNorm", d, over, bias=True)


def _deberta_embeddings(made: Inventory, fields: Fields, vocabulary: int, positions: int, d: int) -> None:
    root, width = "deberta.embeddings", fields.integer("embedding_size", default=d)
    made.embedding(f"{root}.word_embeddings", vocabulary, width)
    if fields.flag("position_biased_input", default=True):
        made.embedding(f"{root}.position_embeddings", positions, width)
    made.embedding(f"{root}.token_type_embeddings", fields.integer("type_vocab_size", default=0), width)
    if width != d:
        made.head(f"{root}.embed_proj", d, width)
    made.norm(f"{root}.LayerNorm", d, bias=True)


def _deberta_rest(made: Inventory, d: int, ff: int, over: Numbers) -> None:
    """What follows attention in a block of DeBERTa: as in BERT."""
    root = "deberta.encoder.layer.*"
    made.matrix(f"{root}.attention.output.dense", d, d, over, bias=True)
    made.norm(f"{root}.attention.output.LayerNorm", d, over, bias=True)
    made.matrix(f"{root}.intermediate.dense", ff, d, over, bias=True)
    made.matrix(f"{root}.output.dense", d, ff, over, bias=True)
    made.norm(f"{root}.output.LayerNorm", d, over, bias=True)


def _position_kinds(fields: Fields) -> frozenset[str]:
    """`c2p|p2c` or a list of the two: which attention to positions has weights of its own."""
    kinds = fields.config.get("pos_att_type") or ()
    named = kinds.split("|") if isinstance(kinds, str) else kinds if isinstance(kinds, list) else ()
    return frozenset(str(kind).strip().lower() for kind in named)


def _relative_positions(fields: Fields, positions: int) -> int:
    given = fields.config.get("max_relative_positions", -1)
    return given if isinstance(given, int) and given > 0 else positions
