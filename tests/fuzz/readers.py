"""What is fuzzed: each reader of files that others wrote, fed with bytes; what it may do is answer or refuse.

A reader's `document` is the part that is varied: whole files where the container itself is attacked, else the
JSON text or pickle inside of an envelope that holds, so that variations get past lengths and checksums.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fixtures.hostile_safetensors import BIAS, DATA, HONEST, WEIGHT, safetensors_bytes
from fixtures.hostile_torch import honest_torch
from fixtures.torch_files import Claim, called, pickled, text, torch_zip
from loratools.adapters.peft_config import PeftConfig
from loratools.checkpoints.gguf import read_gguf
from loratools.checkpoints.hashing import root_of
from loratools.checkpoints.jsonfile import memory_of, parse_object
from loratools.checkpoints.parts import write_safetensors
from loratools.checkpoints.provenance import Provenance, read_provenance
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.reference import open_checkpoint, split_weight
from loratools.checkpoints.safetensors import read_header
from loratools.checkpoints.sizes import parse_size
from loratools.errors import LoratoolsError
from loratools.operations.analysis.tokens import read_texts
from loratools.operations.inspect import inspect
from loratools.operations.merge import merge
from loratools.operations.report import report
from loratools.operations.sidefiles import side_files
from loratools.operations.undo.record import METADATA_KEY, record_name
from loratools.operations.unmerge import unmerge
from loratools.patterns import Pattern

__all__ = ["READERS", "Reader"]


@dataclass(frozen=True)
class Reader:
    """`read` raises LoratoolsError or nothing; `kind` is how documents are varied: json, pickle or bytes."""

    name: str
    kind: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], None]


def _room() -> Path:
    """A folder of this process alone, in memory where the system has such."""
    shared = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="loratools-fuzz-", dir=shared if os.access(shared, os.W_OK) else None)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


_ROOM = _room()


def _file(name: str, content: bytes) -> Path:
    path = _ROOM / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _opened(path: Path) -> None:
    """Everything that headers lead to: open, and read each tensor; its bytes must be those of its spec."""
    opened = open_checkpoint(path)
    for name, spec in opened.items():
        if spec.bytes < 1 << 16:
            assert len(opened.read(name).buffer) == spec.bytes
    json.dumps(inspect([path]).to_json(), allow_nan=False)


def _safetensors(data: bytes) -> None:
    _opened(_file("file/model.safetensors", data))


def _header(data: bytes) -> None:
    _opened(_file("header/model.safetensors", safetensors_bytes(data, DATA)))


def _index(data: bytes) -> None:
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    _file(f"index/{one}", safetensors_bytes({"weight": WEIGHT}, DATA[:24]))
    _file(f"index/{two}", safetensors_bytes({"bias": BIAS | {"data_offsets": [0, 8]}}, DATA[:8]))
    _opened(_file("index/model.safetensors.index.json", data))


def _torch(data: bytes) -> None:
    _opened(_file("torch/pytorch_model.bin", data))


def _pickle(data: bytes) -> None:
    _opened(_file("pickle/pytorch_model.bin", torch_zip(data, {"0": DATA[:24], "1": b"12345678"})))


def _gguf(data: bytes) -> None:
    path = _file("gguf/x.gguf", b"GGUF" + data)
    read_gguf(path)
    json.dumps(inspect([path]).to_json(), allow_nan=False)


def _provenance(data: bytes) -> None:
    record = Provenance.of_json(parse_object(data, Path("loratools.json")))
    assert Provenance.of_json(json.loads(record.to_text())) == record
    record.to_header()


def _provenance_header(data: bytes) -> None:
    try:
        told = data.decode()
    except UnicodeDecodeError:
        return
    header = {"__metadata__": {"loratools": told, "format": "pt"}, **HONEST}
    read_provenance(_file("told/model.safetensors", safetensors_bytes(header)))


def _configured(data: bytes) -> None:
    """An adapter_config.json beside honest weights: read for a merge, and looked at by `inspect`."""
    config = parse_object(data, Path("adapter_config.json"))
    folder = _file("adapter/adapter_config.json", data).parent
    A = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    B = {"dtype": "F32", "shape": [2, 2], "data_offsets": [16, 32]}
    names = [f"base_model.model.model.layers.0.q_proj.lora_{side}.weight" for side in "AB"]
    _file("adapter/adapter_model.safetensors", safetensors_bytes(dict(zip(names, (A, B), strict=True))))
    json.dumps(inspect([folder]).to_json(), allow_nan=False)
    read = PeftConfig.of(config, file="adapter_config.json")
    for module in ("model.layers.0.q_proj", "lm_head", "a" * 1000):
        read.scaling(module)


def _keys(data: bytes) -> None:
    """An adapter of any keys and shapes, merged into a small base as a dry run: `{config, tensors}`."""
    told = parse_object(data, Path("keys.json"))
    tensors = told.get("tensors")
    if not isinstance(tensors, dict):
        return
    header, end = {}, 0
    for name, entry in tensors.items():
        if not (isinstance(entry, list) and len(entry) < 5 and all(type(n) is int for n in entry)):
            continue
        shape = [max(0, min(length, 64)) for length in entry]
        size = 4 * math.prod(shape)
        if size > 1 << 20:
            return
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    _file("keys/adapter_model.safetensors", safetensors_bytes(header, bytes(end)))
    folder = _file("keys/adapter_config.json", _json(told.get("config"))).parent
    merge(_base(), [folder], None, dry_run=True)


def _base() -> Path:
    folder = _ROOM / "base"
    if not folder.is_dir():
        shapes = {
            "model.embed_tokens.weight": [8, 4],
            "model.layers.0.self_attn.q_proj.weight": [4, 4],
            "model.layers.0.mlp.up_proj.weight": [6, 4],
            "model.layers.0.mlp.up_proj.bias": [6],
            "model.norm.weight": [4],
        }
        header, end = {}, 0
        for name, shape in shapes.items():
            size = 4 * shape[0] * (shape[1:] or [1])[0]
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
            end += size
        _file("base/model.safetensors", safetensors_bytes(header, bytes(end)))
        config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
        _file("base/config.json", _json({**config, "vocab_size": 8, "hidden_size": 4}))
    return folder


def _model_config(data: bytes) -> None:
    """A config.json for `report --config`, with and without patterns."""
    path = _file("config/config.json", data)
    for targets in ((), ("q_proj|query",)):
        json.dumps(report(config=path, targets=targets, ranks=[4]).to_json(), allow_nan=False)


def _base_config(data: bytes) -> None:
    """A config.json beside the weights of a base that is merged into, as a dry run."""
    folder = _file("model/config.json", data).parent
    _file("model/model.safetensors", (_base() / "model.safetensors").read_bytes())
    json.dumps(inspect([folder]).to_json(), allow_nan=False)
    merge(folder, [_honest_adapter()], None, dry_run=True)


def _honest_adapter() -> Path:
    folder = _ROOM / "honest"
    if not folder.is_dir():
        root = "base_model.model.model.layers.0.self_attn.q_proj"
        header = {
            f"{root}.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
            f"{root}.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
        }
        _file("honest/adapter_model.safetensors", safetensors_bytes(header, bytes(64)))
        _file("honest/adapter_config.json", _json({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return folder


def _undo(data: bytes) -> None:
    """The JSON of an undo record whose hashes hold, beside its checkpoint: taken off for real."""
    folder, pieces = _merged()
    try:
        told = json.loads(data)
        told["pieces"] = {name: root_of(content) for name, (_, _, content) in pieces.items()}
        data = json.dumps(told).encode()
    except (ValueError, TypeError, RecursionError):
        pass  # then it is attacked as it is
    path = folder / record_name(1)
    path.unlink()
    record = ("uint8", (len(data),), data)
    write_safetensors(path, {**pieces, "record": record}, {METADATA_KEY: root_of(data)})
    back = _ROOM / "back"
    try:
        unmerge(folder, (), back)
        shutil.rmtree(back)
    finally:
        assert not back.exists(), "refused, and yet something is there"


@cache
def _merged() -> tuple[Path, dict[str, Any]]:
    """A merged checkpoint with its record, and the record's parts but for its JSON."""
    folder = _ROOM / "merged"
    merge(_base(), [_honest_adapter()], folder, undo=True)
    pieces: dict[str, Any] = {}
    for name, spec in read_header(folder / record_name(1)).tensors.items():
        with TensorReader(spec) as reader:
            pieces[name] = (spec.dtype, spec.shape, bytes(reader.read(0, spec.rows).buffer))
    return folder, pieces


def _record() -> bytes:
    record: bytes = _merged()[1].pop("record")[2]
    return record


def _tokenizer(data: bytes) -> None:
    for name in read_texts(_file("tokens/tokenizer.json", data)).values():
        assert isinstance(name, str)


def _side(data: bytes) -> None:
    side_files(_file("side/modules.json", data).parent, frozenset())


def _pattern(data: bytes) -> None:
    """A pattern, and after a NUL the name that it is searched for in."""
    told, _, name = data.decode("utf-8", "replace").partition("\0")
    try:
        pattern = Pattern(told)
    except ValueError:
        return
    pattern.search(name[:1000] or "model.layers.0.self_attn.q_proj")
    pattern.match("a" * 1000)


def _scanner(data: bytes) -> None:
    """The weight that is put on a JSON text before it is parsed must be no less than what it becomes."""
    value = parse_object(data, Path("x.json"))
    assert _weight(value) <= memory_of(data) + 4096, "a JSON text is heavier than it was thought to be"


def _weight(value: Any) -> int:
    own = value.__sizeof__()
    if isinstance(value, dict):
        return own + sum(key.__sizeof__() + _weight(one) for key, one in value.items())
    return own + sum(map(_weight, value)) if isinstance(value, list) else own


def _words(data: bytes) -> None:
    """What stands on a command line beside references: sizes, weights."""
    told = data.decode("utf-8", "replace")
    for read in (parse_size, split_weight):
        try:
            read(told)
        except LoratoolsError as error:
            assert str(error).isprintable()


def _gguf_seed() -> bytes:
    def string(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    metadata = (
        string("general.type") + struct.pack("<I", 8) + string("adapter"),
        string("adapter.lora.alpha") + struct.pack("<If", 6, 32.0),
        string("tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("bc"),
        string("scores") + struct.pack("<IIQ3f", 9, 6, 3, 1, 2, 3),
    )
    tensors = string("x.lora_a") + struct.pack("<I2QIQ", 2, 4, 2, 0, 0)
    return struct.pack("<IQQ", 3, 1, len(metadata)) + b"".join(metadata) + tensors


_LORA = {
    **{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": False, "rank_pattern": {"q_proj": 2}},
    **{"alpha_pattern": {r".*\.q": 4.5}, "target_modules": ["q_proj"], "modules_to_save": None},
    **{"bias": "none", "trainable_token_indices": None, "use_dora": False, "base_model_name_or_path": "a/b"},
}  # fmt: skip
_ROOT = "base_model.model.model"
_KEYS = {
    "config": {**_LORA, "trainable_token_indices": {"embed_tokens": [1, 3]}, "modules_to_save": ["norm"]},
    "tensors": {
        f"{_ROOT}.layers.0.self_attn.q_proj.lora_A.weight": [2, 4],
        f"{_ROOT}.layers.0.self_attn.q_proj.lora_B.weight": [4, 2],
        f"{_ROOT}.layers.0.mlp.up_proj.lora_A.default.weight": [2, 4],
        f"{_ROOT}.layers.0.mlp.up_proj.lora_B.default.weight": [6, 2],
        f"{_ROOT}.layers.0.mlp.up_proj.base_layer.bias": [6],
        f"{_ROOT}.embed_tokens.token_adapter.trainable_tokens_delta": [2, 4],
        f"{_ROOT}.norm.weight": [4],
    },
}
_LLAMA = {
    **{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100, "tie_word_embeddings": False},
    **{"max_position_embeddings": 64, "head_dim": 16, "dtype": "bfloat16", "attention_bias": True},
}
_SIZES = {name: value for name, value in _LLAMA.items() if name != "model_type"}
_OTHERS = (
    {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 32},
    {"model_type": "mixtral", **_SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
    {
        "model_type": "t5",
        "d_model": 64,
        "d_kv": 8,
        "d_ff": 99,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 9,
    },
    {"model_type": "gemma3", "text_config": {**_LLAMA, "model_type": "gemma3_text"}},
    {"model_type": "bert", **_SIZES, "type_vocab_size": 2},
    {"model_type": "mine", **_SIZES},
    {
        **{"model_type": "deepseek_v3", **_SIZES, "kv_lora_rank": 8, "q_lora_rank": 8, "n_routed_experts": 4},
        **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "moe_intermediate_size": 16},
        **{"first_k_dense_replace": 1, "n_shared_experts": 1},
    },
)
_TOLD = {
    **{"schema": 1, "command": "extract", "version": "0.1.0", "options": {"rank": 4, "energy": None}},
    "inputs": [
        {"role": "base", "name": "b", "format": "x", "fingerprint": "0" * 64, "tensors": {"w": "1" * 64}}
    ],
    **{"tensors": {"w": "2" * 64}, "modules": [{"module": "m", "residual": 0.5, "list": [1, "a", True]}]},
}
_TOKENS = (
    {
        **{"model": {"vocab": {"a": 0, "\u0120b": 1}}, "pre_tokenizer": {"type": "ByteLevel"}},
        "added_tokens": [{"id": 2, "content": "<s>"}],
    },
    {
        "model": {"vocab": [["a", -1.5], ["<0x41>", -2.0]]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"}]},
    },
)
_INDEX = {
    "metadata": {"total_size": 32},
    "weight_map": {
        "weight": "model-00001-of-00002.safetensors",
        "bias": "model-00002-of-00002.safetensors",
    },
}
_PICKLES = (
    pickled({"weight": Claim()}),
    pickled({"w": Claim(), "b": Claim("1", elements=2, shape=(2,), strides=(1,))}, wrapper="state_dict"),
    pickled(
        {"w": called("torch._utils _rebuild_parameter", called("collections OrderedDict")), "x": Claim()}
    ),
    b"\x80\x02" + called("collections OrderedDict", b"](" + text("a") + b"N\x86e") + b".",
)
_PATTERNS = (
    b"q_proj|v_proj",
    rb"layers\.(1|2)\..*proj$",
    b"(?i)[a-c]+x{2,3}?\0aaabbbxx",
    b"(?!a.*)(?<=b)c?$\0bc",
)
_VOCABULARIES = tuple(map(_json, _TOKENS))

READERS: tuple[Reader, ...] = (
    Reader("safetensors file", "bytes", (safetensors_bytes(),), _safetensors),
    Reader("safetensors header", "json", (_json({"__metadata__": {"a": "b"}, **HONEST}),), _header),
    Reader("index", "json", (_json(_INDEX),), _index),
    Reader("torch zip", "bytes", (honest_torch(),), _torch),
    Reader("torch pickle", "pickle", _PICKLES, _pickle),
    Reader("GGUF", "bytes", (_gguf_seed(),), _gguf),
    Reader("provenance", "json", (_json(_TOLD),), _provenance),
    Reader("provenance in a header", "json", (_json(_TOLD),), _provenance_header),
    Reader("undo record", "json", (_record(),), _undo),
    Reader("adapter_config.json", "json", (_json(_LORA),), _configured),
    Reader("adapter keys", "json", (_json(_KEYS),), _keys),
    Reader("config.json, report", "json", (_json(_LLAMA), *map(_json, _OTHERS)), _model_config),
    Reader("config.json, merge", "json", (_json({**_LLAMA, "tie_word_embeddings": True}),), _base_config),
    Reader("tokenizer.json", "json", _VOCABULARIES, _tokenizer),
    Reader("modules.json", "json", (_json([{"idx": 0, "path": "1_Pooling"}, {"path": ""}]),), _side),
    Reader("patterns", "bytes", _PATTERNS, _pattern),
    Reader("JSON", "json", (b'{"a": [1, {"b": "\\u00e9\\ud83d\\ude00"}, 0.5, true, null, [[]]]}',), _scanner),
    Reader("words", "bytes", (b"5GB", b"1.5GiB", b"adapter=0.8", b"a=b=-inf"), _words),
)  # fmt: skip
"""By name; those whose documents are JSON get trees of any shape."""
