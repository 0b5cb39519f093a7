"""Hub ids: from a cache laid out as huggingface_hub does, and what would be downloaded; never online."""

import builtins
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from loratools.checkpoints.checkpoint import Kind
from loratools.checkpoints.hub import is_hub_id, wanted
from loratools.checkpoints.reference import open_checkpoint
from loratools.errors import LoratoolsError

COMMIT, OLDER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a library that stays offline."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def put(
    cache: Path, repository: str, files: dict[str, bytes], *, commit: str = COMMIT, ref: str = "main"
) -> Path:
    """Files in the cache as the library lays them out: blobs by hash, a snapshot of links, a ref."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for name, content in files.items():
        blob = home / "blobs" / f"{abs(hash((name, content))):040x}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / ref).write_text(commit)
    return snapshot


def weights(value: float, folder: Path) -> bytes:
    save_file({"weight": torch.full((2,), value)}, folder / "scratch")
    return (folder / "scratch").read_bytes()


def test_a_cached_checkpoint_opens_by_its_id(cache: Path, tmp_path: Path) -> None:
    put(cache, "org/name", {"model.safetensors": weights(1, tmp_path), "config.json": b'{"a": 1}'})
    opened = open_checkpoint("org/name")
    assert (opened.reference, opened.hub_id, opened.name) == ("org/name", "org/name", "org/name")
    assert (opened.revision, opened.config) == (COMMIT, {"a": 1})
    assert opened.read("weight").numpy().tolist() == [1, 1]


def test_a_revision_is_a_branch_or_a_commit(cache: Path, tmp_path: Path) -> None:
    put(cache, "org/name", {"model.safetensors": weights(1, tmp_path)})
    put(cache, "org/name", {"model.safetensors": weights(2, tmp_path)}, commit=OLDER, ref="v1")
    for reference, value in (("org/name", 1), ("org/name@v1", 2), (f"org/name@{OLDER}", 2)):
        opened = open_checkpoint(reference)
        assert opened.read("weight").numpy()[0] == value
        assert opened.hub_id == "org/name"


def test_a_cached_adapter_in_a_subfolder(cache: Path, tmp_path: Path) -> None:
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1, 2)}, tmp_path / "scratch")
    content = (tmp_path / "scratch").read_bytes()
    put(
        cache,
        "org/adapter",
        {"lora/adapter_model.safetensors": content, "lora/adapter_config.json": b'{"peft_type": "LORA"}'},
    )
    assert open_checkpoint("org/adapter").kind is Kind.ADAPTER


def test_a_path_wins_over_a_hub_id(cache: Path, tmp_path: Path) -> None:
    put(cache, "org/name", {"model.safetensors": weights(1, tmp_path)})
    local = tmp_path / "org" / "name"
    local.mkdir(parents=True)
    (local / "model.safetensors").write_bytes(weights(3, tmp_path))
    opened = open_checkpoint("org/name")
    assert opened.read("weight").numpy()[0] == 3 and opened.revision is None


def test_a_cache_whose_links_lead_elsewhere_is_not_trusted(cache: Path, tmp_path: Path) -> None:
    snapshot = put(cache, "org/name", {"config.json": b"{}"})
    (tmp_path / "outside").write_bytes(weights(1, tmp_path))
    (snapshot / "model.safetensors").symlink_to(tmp_path / "outside")
    with pytest.raises(LoratoolsError, match="leads out"):
        open_checkpoint("org/name")


def test_what_is_not_cached_is_said_with_what_to_do(cache: Path) -> None:
    with pytest.raises(LoratoolsError, match=r"cache does not have it \(org/name\); unset HF_HUB_OFFLINE"):
        open_checkpoint("org/name")


def test_without_the_extra_the_error_names_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = builtins.__import__

    def without_hub(name: str, *args: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(LoratoolsError, match=r"pip install 'loratools\[hub\]'"):
        open_checkpoint("org/name")


def test_the_environment_variable_keeps_it_offline(cache: Path, tmp_path: Path) -> None:
    put(cache, "org/name", {"model.safetensors": weights(1, tmp_path)})
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('went online')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from loratools.checkpoints.reference import open_checkpoint\n"
        "print(list(open_checkpoint('org/name')))\n"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "['weight']\n", done.stderr


def test_online_only_one_format_is_downloaded(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    snapshot = put(cache, "org/name", {"model.safetensors": weights(1, tmp_path)})
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(snapshot)

    files = ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json", "onnx/model.onnx"]
    siblings = [SimpleNamespace(rfilename=file) for file in files]
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=siblings)
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_checkpoint("org/name@main").revision == COMMIT
    assert asked == [("org/name", "main", ["config.json", "model.safetensors", "tokenizer.json"])]


def test_a_hub_out_of_reach_is_no_failure_if_the_cache_has_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_reach(self: object, name: str, *, revision: str | None, timeout: float) -> object:
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", out_of_reach)
    with pytest.raises(LoratoolsError, match=r"does not give it \(ConnectionError\)"):
        open_checkpoint("org/name")
    put(cache, "org/name", {"model.safetensors": weights(1, tmp_path)})
    assert list(open_checkpoint("org/name")) == ["weight"]


SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)] + ["model.safetensors.index.json"]
BELOW = ["README.md", "a/adapter_config.json", "a/adapter_model.safetensors"]

REPOSITORIES: dict[str, tuple[list[str], list[str]]] = {
    "shards": ([*SHARDS, "model.fp16.safetensors", "consolidated.safetensors"], SHARDS),
    "torch": (
        ["pytorch_model.bin", "tf_model.h5", "optimizer.pt", "vocab.txt"],
        ["pytorch_model.bin", "vocab.txt"],
    ),
    "one odd file": (["lora.safetensors", "README.md"], ["README.md", "lora.safetensors"]),
    "adapter": (["adapter_model.bin", "adapter_config.json"], ["adapter_config.json", "adapter_model.bin"]),
    "adapter below": ([*BELOW, "a/optimizer.pt"], BELOW),
    "pattern characters": (["model[1].safetensors"], ["model[[]1].safetensors"]),
    "ckpt": (["training_args.bin", "v1.ckpt"], ["v1.ckpt"]),
}


@pytest.mark.parametrize("case", REPOSITORIES.values(), ids=REPOSITORIES)
def test_what_is_wanted_of_a_repository(case: tuple[list[str], list[str]]) -> None:
    files, expected = case
    assert wanted(files) == expected


def test_what_is_written_as_a_hub_id() -> None:
    for reference in ("org/name", "org/name@main", "org/name@refs/pr/1", "o-r_g.1/n.a-m_e"):
        assert is_hub_id(reference)
    for reference in (
        "name",
        "/org/name",
        "./name",
        "../x",
        "a/b/c",
        "org/",
        "org/na me",
        "org/name@",
        "C:\\x/y",
    ):
        assert not is_hub_id(reference)


def test_a_cache_that_lacks_what_nobody_asked_for_is_enough(cache: Path, tmp_path: Path) -> None:
    """The library calls a snapshot incomplete while any file of the repository is missing from it."""
    trees = pytest.importorskip("huggingface_hub._tree_cache", reason="this release keeps no list of files")
    put(cache, "org/name", {"model.safetensors": weights(1, tmp_path)})
    entry = trees.TreeCacheEntry(size=1, blob_id="", lfs_sha256=None, lfs_size=None, xet_hash=None)
    listed = dict.fromkeys(("model.safetensors", "pytorch_model.bin", "README.md"), entry)
    trees.write_tree_cache(str(cache / "models--org--name"), COMMIT, listed)
    with pytest.raises(huggingface_hub.errors.IncompleteSnapshotError):
        huggingface_hub.snapshot_download("org/name", local_files_only=True)
    assert list(open_checkpoint("org/name")) == ["weight"]
