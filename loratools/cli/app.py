"""The command line's frame: the group of verbs, its errors and exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from loratools.cli import later
from loratools.cli.failures import Late, abandon_stdout, failure

VERBS = {
    "extract": "Take the low-rank adapter out of a full fine-tune.",
    "merge": "Merge adapters into the weights of their base.",
    "unmerge": "Take merged adapters off again.",
    "resize": "Give an adapter another rank, exactly, or another size.",
    "combine": "Make one adapter of several.",
    "analyze": "Say which rank a fine-tune needs, and where adapters agree.",
    "report": "Say what adapters save, and what they cost.",
    "verify": "Check files to the last bit, and adapters against the fine-tune.",
    "inspect": "Say what is in checkpoints and adapters.",
    "clean": "Remove what interrupted runs left.",
    "demo": "Tell the whole story on the bundled sample.",
}
"""In the order in which one uses them; each is a file beside this one, imported when it is asked for."""


class Verbs(click.Group):
    """A group whose every error is one line and whose exit codes are those of docs/command-line.md."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_LINE] = tuple(args)
        ctx.terminal_width = ctx.terminal_width or _columns()
        try:
            return super().parse_args(ctx, args)
        except click.ClickException as error:
            raise self._failure(ctx, error) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in VERBS and not word.startswith("-"):
            raise later.later_verb(word, VERBS) if word in later.VERBS else later.no_verb(word, VERBS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except click.exceptions.Exit:  # of --help: not an error
            raise
        except Late as late:  # nothing was interrupted but the telling of it
            click.echo(f"Warning: {late}", err=True)
            abandon_stdout()
            return None
        except BrokenPipeError:  # whoever read our output has had enough; the work itself is done
            abandon_stdout()
            return None
        except BaseException as error:
            raise self._failure(ctx, error) from error
        return result

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"loratools.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def _failure(self, ctx: click.Context, error: BaseException) -> click.ClickException:
        """Looks at the words themselves, since the line may be wrong before its options are known."""
        line: tuple[str, ...] = ctx.meta[_LINE]
        return failure(
            error,
            command=next((word for word in line if not word.startswith("-")), None),
            as_json="--json" in line,
            verbose="-v" in line or "--verbose" in line,
            verbs=list(VERBS),
        )


_LINE = "loratools.line"


def _columns() -> int:
    """Width of help pages. Click would ask `shutil`, and its import takes a tenth of help's time."""
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns if sys.__stdout__ else 80
        except (OSError, ValueError):
            columns = 80
    return max(50, min(columns, 100) - 2)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import loratools

        click.echo(f"loratools {loratools.__version__}")
        ctx.exit()


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every verb runs without references on the bundled sample, so try one: loratools extract",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def application(context: click.Context) -> None:
    """Offline operations on model checkpoints: extract LoRA adapters, merge and unmerge them, look inside."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
