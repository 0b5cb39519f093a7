"""What may be written where: every refusal, and that looking creates nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loratools.checkpoints.target import check_target, real_target
from loratools.errors import LoratoolsError


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def refusal(target: Path, *, force: bool = False, inputs: tuple[Path, ...] = ()) -> str:
    with pytest.raises(LoratoolsError) as caught:
        check_target(target, force=force, inputs=inputs)
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert "\n" not in message
    return message


def test_a_new_name_is_allowed_and_nothing_is_created(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    check_target(tmp_path / "some" / "where" / "out", force=False, inputs=[base])
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_output_that_exists_needs_force_and_the_hint_says_so(tmp_path: Path) -> None:
    out = make_model(tmp_path / "out")
    assert "exists already" in refusal(out) and "--force" in refusal(out)
    check_target(out, force=True, inputs=[])


def test_an_empty_folder_exists_too(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert "exists already" in refusal(tmp_path / "out")
    check_target(tmp_path / "out", force=True, inputs=[])


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("base", "is an input"),
        ("base/", "is an input"),
        ("base/../base", "is an input"),
        ("base/out", "lies inside an input"),
        ("base/deep/er/out", "lies inside an input"),
        ("models", "lies above an input"),
        ("link-to-base", "is an input"),
        ("link-to-base/out", "lies inside an input"),
        ("link-to-models/base2", "is an input"),
    ],
)
def test_an_output_is_no_input_nor_inside_nor_above_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, words: str, force: bool
) -> None:
    base, deeper = make_model(tmp_path / "base"), make_model(tmp_path / "models" / "base2")
    (tmp_path / "link-to-base").symlink_to(base)
    (tmp_path / "link-to-models").symlink_to(tmp_path / "models")
    inputs = (base, deeper)
    assert words in refusal(Path(f"{tmp_path}/{target}"), force=force, inputs=inputs)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert words in refusal(Path("..", target), force=force, inputs=inputs)
    assert words in refusal(tmp_path / target, force=force, inputs=(Path("../base"), Path("../models/base2")))


def test_an_input_reached_through_a_link_is_refused_by_its_real_place(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    link = tmp_path / "link"
    link.symlink_to(base)
    assert "is an input" in refusal(base, force=True, inputs=(link,))
    assert "is an input" in refusal(link, force=True, inputs=(link,))
    deep = make_model(tmp_path / "store" / "deep")
    other = tmp_path / "other"
    other.symlink_to(deep)
    assert "lies above" in refusal(tmp_path / "store", force=True, inputs=(other,))


def test_beside_an_input_file_is_allowed_but_not_over_or_above_it(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    file = base / "model.safetensors"
    check_target(base / "merged.safetensors", force=False, inputs=[file])
    check_target(base / "merged", force=False, inputs=[file])
    assert "is an input" in refusal(file, force=True, inputs=(file,))
    assert "lies above" in refusal(base, force=True, inputs=(file,))


def test_a_hard_link_to_an_input_file_is_that_input(tmp_path: Path) -> None:
    file = make_model(tmp_path / "base") / "model.safetensors"
    twin = tmp_path / "twin.safetensors"
    twin.hardlink_to(file)
    assert "is an input" in refusal(twin, force=True, inputs=(file,))


def test_a_folder_that_holds_what_an_input_s_links_lead_to_is_above_it(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    make_model(blobs)
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(blobs / "model.safetensors")
    assert "lies above an input" in refusal(blobs, force=True, inputs=(snapshot,))
    assert "lies above an input" in refusal(snapshot, force=True, inputs=(snapshot / "model.safetensors",))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("where", ["whole", "broken", "to a folder"])
def test_a_symbolic_link_is_refused(tmp_path: Path, where: str, force: bool) -> None:
    link = tmp_path / "out"
    places = {"whole": make_model(tmp_path / "m") / "config.json", "to a folder": tmp_path / "m"}
    link.symlink_to(places.get(where, tmp_path / "nowhere"))
    assert "symbolic link" in refusal(link, force=force)
    assert not (tmp_path / "nowhere").exists()


def test_a_broken_link_or_a_file_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "broken link" in refusal(tmp_path / "link" / "out")
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file" / "out")


def test_the_current_folder_and_those_above_it_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "models" / "work"
    make_model(work)
    monkeypatch.chdir(work)
    for target in (Path(), Path(".."), Path("/"), work, tmp_path, tmp_path / "models", Path("x/..")):
        assert "current folder or above" in refusal(target, force=True)
    check_target(Path("out"), force=True, inputs=[])


def test_the_home_folder_and_those_above_it_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / "me"
    make_model(home)
    monkeypatch.setenv("HOME", str(home))
    assert "home folder or above" in refusal(home, force=True)
    assert "home folder or above" in refusal(tmp_path / "home", force=True)
    check_target(home / "out", force=True, inputs=[])


def test_force_does_not_replace_what_is_no_model(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "thesis.tex").write_text("years of work")
    assert "other files than a model's" in refusal(notes, force=True)
    file = tmp_path / "thesis.pdf"
    file.write_text("years of work")
    assert "another kind than weights" in refusal(file, force=True)
    repository = make_model(tmp_path / "clone")
    (repository / ".git").mkdir()
    assert "a repository" in refusal(repository, force=True)
    os.mkfifo(tmp_path / "fifo")
    assert "no ordinary file" in refusal(tmp_path / "fifo", force=True)
    assert "--force does not replace" in refusal(Path("/dev/null"), force=True)


@pytest.mark.parametrize(
    "name",
    [
        "loratools.json",
        "adapter_config.json",
        "model_index.json",
        "x.safetensors.index.json",
        "x.safetensors",
        "x.bin",
    ],
)
def test_force_replaces_folders_that_hold_a_model(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("{}")
    check_target(out, force=True, inputs=[])


@pytest.mark.parametrize("name", ["out.safetensors", "out.bin", "out.gguf"])
def test_force_replaces_files_of_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("weights")
    check_target(tmp_path / name, force=True, inputs=[])


def test_the_real_target_keeps_its_last_name_and_resolves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert real_target(tmp_path / "link" / "out") == Path(os.path.realpath(tmp_path / "real")) / "out"
    assert real_target(Path(f"{tmp_path}/real/out/")) == real_target(tmp_path / "real" / "out")
