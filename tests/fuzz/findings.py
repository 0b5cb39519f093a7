"""What campaigns found, as small as it gets: readers met these with something else than a line."""

from __future__ import annotations

import json

__all__ = ["FINDINGS"]

_LONG = 10**400

FINDINGS: tuple[tuple[str, str, bytes], ...] = (
    ("index", "OSError: a name too long", json.dumps({"weight_map": {"w": "a" * 300}}).encode()),
    (
        "index",
        "OverflowError: a total of 400 digits",
        json.dumps(
            {
                "metadata": {"total_size": _LONG},
                "weight_map": {
                    "weight": "model-00001-of-00002.safetensors",
                    "bias": "model-00002-of-00002.safetensors",
                },
            }
        ).encode(),
    ),
    ("adapter_config.json", "OverflowError: inspect's alpha", json.dumps({"lora_alpha": _LONG}).encode()),
    ("config.json, merge", "TypeError: unhashable", b'{"vocab_size":[]}'),
    ("config.json, merge", "TypeError: unhashable", b'{"vocab_size":{}}'),
    ("config.json, merge", "TypeError: unhashable, nested", b'{"a":{"vocab_size":{}}}'),
    ("config.json, merge", "TypeError: unhashable", b'{"num_experts":{}}'),
    ("config.json, merge", "a config in 900 others", b'{"a":' * 900 + b"1" + b"}" * 900),
    ("config.json, merge", "TypeError: no sequence", b'{"architectures":3}'),
    ("config.json, merge", "KeyError: 0", b'{"architectures":{"a":1}}'),
    ("config.json, merge", "TypeError: no string", b'{"architectures":[null]}'),
    ("config.json, merge", "TypeError: unhashable", b'{"model_type":["llama"]}'),
    ("tokenizer.json", "TypeError: not iterable", b'{"model":{"vocab":{"":1}},"added_tokens":5e4}'),
    ("tokenizer.json", "TypeError: not iterable", b'{"model":{"vocab":{"":0}},"added_tokens":true}'),
    ("modules.json", "RecursionError", b"[" * 6000),
    ("modules.json", "IndexError", b'[{"path":"."}]'),
    (
        "patterns",
        "a second for one name",
        ("\ufffd" * 13 + ".*.*.*" + "\ufffd" * 40 + "\0" + "\ufffd" * 170).encode(),
    ),
    (
        "torch pickle",
        "a key twice taken",
        b"\x80\x02}ccollections\nOrderedDict\n](K\x01N\x86K\x01N\x86e\x85R.",
    ),
)
"""Reader, what happened, document."""
