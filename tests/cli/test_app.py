"""The frame of the command line: usage, later words, errors, exit codes, --json on failure."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from loratools.cli import later
from loratools.cli.app import VERBS, application
from loratools.errors import LoratoolsError


def run(*line: str) -> Result:
    return CliRunner().invoke(application, list(line), prog_name="loratools")


def only_line(result: Result) -> str:
    """The one line that stderr holds."""
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.rstrip("\n")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_help_page_with_an_example(verb: str) -> None:
    page = run(verb, "--help")
    assert page.exit_code == 0
    assert f"loratools {verb}" in page.stdout
    assert "Example" in page.stdout


@pytest.mark.parametrize("line", [(), ("--help",), ("-h",)], ids=["bare", "long", "short"])
def test_the_help_page_lists_the_verbs(line: tuple[str, ...]) -> None:
    page = run(*line)
    assert page.exit_code == 0
    for verb, summary in VERBS.items():
        assert f"{verb} " in page.stdout
        assert summary in page.stdout


def test_the_summaries_are_the_first_words_of_the_help_pages() -> None:
    for verb, summary in VERBS.items():
        assert summary.rstrip(".") in run(verb, "--help").stdout


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("loratools ")


@pytest.mark.parametrize("verb", sorted(later.VERBS))
def test_a_later_verb_is_refused_by_name(verb: str) -> None:
    result = run(verb, "x", "--rank", "4", "8")
    assert result.exit_code == 2
    assert only_line(result) == (f"Error: {verb} comes in a later version; this one has {', '.join(VERBS)}")
    assert verb not in run("--help").stdout.split()


LATER = [(verb, option) for verb, options in later.OPTIONS.items() for option in sorted(options)]


@pytest.mark.parametrize(("verb", "option"), LATER)
def test_a_later_option_is_refused_by_name_and_absent_from_help(verb: str, option: str) -> None:
    result = run(verb, "a", "b", option, "value")
    assert result.exit_code == 2
    assert only_line(result).startswith(f"Error: {option} comes in a later version; ")
    assert option not in run(verb, "--help").stdout.replace("]", " ").split()


WRONG = {
    "unknown verb": (("bogus",), "there is no verb 'bogus'"),
    "misspelt verb": (("mrege",), "did you mean merge?"),
    "unknown option of the group": (("--bogus",), "see 'loratools --help'"),
    "unknown option": (("merge", "--bogus"), "see 'loratools merge --help'"),
    "misspelt option": (("merge", "--forse"), "id you mean one of: '--force'"),
    "rank 0": (("extract", "--rank", "0"), "'--rank': 0 is not in the range"),
    "rank in words": (("extract", "--rank", "many"), "'--rank'"),
    "unknown choice": (("extract", "--fold", "C"), "'sqrt', 'A', 'B'"),
    "no value": (("extract", "--energy"), "requires an argument"),
    "no workers": (("merge", "--workers", "0"), "'--workers': 0 is not in the range"),
    "one reference": (("extract", "a", "-o", "x"), "got 1"),
    "two ranks": (("extract", "--rank", "4", "8"), "8 is no checkpoint; extract takes one --rank"),
    "three references": (("extract", "a", "b", "c", "-o", "x"), "got 3"),
    "no output for extract": (("extract", "a", "b"), "say where to write it, with -o OUT"),
    "no output for merge": (("merge", "a", "b"), "say where to write it, with -o OUT"),
    "no output for unmerge": (("unmerge", "a", "b"), "say where to write it, with -o OUT"),
}


@pytest.mark.parametrize(("line", "says"), WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line_and_exit_2(line: tuple[str, ...], says: str) -> None:
    result = run(*line)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert only_line(result).startswith("Error: ")
    assert says in result.stderr


def test_json_tells_of_wrong_usage_too() -> None:
    result = run("extract", "--json", "--rank", "0")
    assert result.exit_code == 2
    failure = json.loads(result.stdout)
    error = failure.pop("error")
    assert failure == {"schema": 1, "command": "extract", "ok": False}
    assert list(error) == ["message", "file", "tensor", "hint"]
    assert error["hint"] == "see 'loratools extract --help'"
    assert error["message"] in only_line(result)


def raising(error: BaseException) -> object:
    def verb(*_: object) -> None:
        raise error

    return verb


FAILURES: dict[str, tuple[BaseException, int, str]] = {
    "a user's error": (
        LoratoolsError("has a hole", file="a\nb", tensor="w", hint="mend it"),
        1,
        "Error: has a hole (a\\nb, w); mend it",
    ),
    "Ctrl-C": (KeyboardInterrupt(), 130, "Error: interrupted; an unfinished output is never published"),
    "no room": (OSError(28, "No space left on device", "out"), 1, "Error: No space left on device (out)"),
    "no memory": (
        MemoryError(),
        1,
        "Error: out of memory; use fewer --workers, or a machine with more memory",
    ),
    "a bug": (
        RuntimeError("two\nlines"),
        1,
        "Error: unexpected RuntimeError: two lines; run it again with -v for the traceback, "
        "and please report it",
    ),
}


@pytest.mark.parametrize(("error", "code", "line"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_one_line_with_its_exit_code(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratools.operations.inspect.inspect", raising(error))
    result = run("inspect")
    assert result.exit_code == code
    assert only_line(result) == line
    assert result.stdout == ""


def test_json_tells_of_a_failure_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    error = LoratoolsError("has a hole", file="a", tensor="w", hint="mend it")
    monkeypatch.setattr("loratools.operations.inspect.inspect", raising(error))
    result = run("inspect", "--json")
    assert json.loads(result.stdout)["error"] == {
        "message": "has a hole",
        "file": "a",
        "tensor": "w",
        "hint": "mend it",
    }
    assert only_line(result) == "Error: has a hole (a, w); mend it"


def test_the_traceback_of_a_bug_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratools.operations.inspect.inspect", raising(RuntimeError("oops")))
    result = run("inspect", "-v")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert result.stderr.splitlines()[-1].startswith("Error: unexpected RuntimeError: oops")


def test_the_traceback_of_a_users_error_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratools.operations.inspect.inspect", raising(LoratoolsError("has a hole")))
    assert only_line(run("inspect", "-v")) == "Error: has a hole"
