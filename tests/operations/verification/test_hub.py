"""Outputs that came from the hub: snapshots are folders of links into the cache's blobs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from fixtures.flipped_bits import write_outputs
from loratools import LoratoolsError, verify

COMMIT = "a" * 40


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The blobs of `org/name`, a merged checkpoint in an offline cache."""
    merged = write_outputs(tmp_path / "outputs") / "merged"
    home = tmp_path / "hub" / "models--org--name"
    for number, file in enumerate(sorted(merged.iterdir())):
        blob, link = home / "blobs" / str(number), home / "snapshots" / COMMIT / file.name
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(file.read_bytes())
        link.symlink_to(os.path.relpath(blob, link.parent))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return home / "snapshots" / COMMIT


def test_a_snapshot_holds_through_its_links(cached: Path) -> None:
    report = verify("org/name")
    assert report.ok
    assert {check.ok for check in report.details["checks"]} == {True}


@pytest.mark.parametrize("file", ["config.json", "model-00001-of-00002.safetensors", "loratools.json"])
def test_a_torn_download_is_a_finding(file: str, cached: Path) -> None:
    whole = (cached / file).read_bytes()
    (cached / file).write_bytes(whole[:-20])
    report = verify("org/name")
    assert not report.ok
    assert any(check.ok is False and file in str(check.file) for check in report.details["checks"])


def test_what_is_not_cached_is_an_error(cached: Path) -> None:
    with pytest.raises(LoratoolsError) as error:
        verify("org/another")
    assert error.value.exit_code == 1
