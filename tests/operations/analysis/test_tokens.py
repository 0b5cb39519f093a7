"""Texts of tokens, beside what the tokenizers package decodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from loratools import sample
from loratools.errors import LoratoolsError
from loratools.operations.analysis.tokens import read_texts, texts_beside


def write(folder: Path, **parts: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(parts))
    return path


def test_every_token_of_the_sample_as_its_tokenizer_decodes_it() -> None:
    path = sample.path("base") / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    texts = read_texts(path)
    assert len(texts) == tokenizer.get_vocab_size()
    whole = 0
    for index, text in texts.items():
        decoded = tokenizer.decode([index], skip_special_tokens=False)
        if "\ufffd" in decoded:
            assert "\\x" in text, index
        else:
            assert text == decoded, index
            whole += 1
    assert whole > 1300


def test_byte_symbols_of_parts_of_characters(tmp_path: Path) -> None:
    vocabulary = {"\u0120caf\u00c3\u00a9": 0, "\u00c3": 1, "\u010a": 2, "\u65e5": 3}
    path = write(tmp_path, model={"vocab": vocabulary}, decoder={"type": "ByteLevel"})
    assert read_texts(path) == {0: " caf\u00e9", 1: "\\xc3", 2: "\n", 3: "\u65e5"}


def test_pieces_bytes_and_added_tokens_of_sentencepiece(tmp_path: Path) -> None:
    model = {
        "type": "Unigram",
        "vocab": [["<unk>", 0.0], ["\u2581the", -1.5], ["<0x0A>", -2.0], ["<0xE2>", -2.0]],
    }
    decoder = {"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}]}
    added = [{"id": 9, "content": "<pad>"}, {"id": 0, "content": "<unk>"}]
    path = write(tmp_path, model=model, decoder=decoder, added_tokens=added)
    assert read_texts(path) == {0: "<unk>", 1: " the", 2: "\n", 3: "\\xe2", 9: "<pad>"}


def test_the_first_folder_that_has_one(tmp_path: Path) -> None:
    write(tmp_path / "base", model={"vocab": {"a": 0}})
    assert texts_beside([tmp_path, tmp_path / "base"]) == ({0: "a"}, [])
    assert texts_beside([tmp_path]) == ({}, [])


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {}}', '{"model": 3}', '{"a": 1, "a": 2}'])
def test_a_tokenizer_that_cannot_be_read_is_a_warning(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    texts, (warning,) = texts_beside([tmp_path])
    assert texts == {} and "without their text" in warning
    with pytest.raises(LoratoolsError):
        read_texts(tmp_path / "tokenizer.json")
