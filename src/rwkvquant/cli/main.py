"""The command line. This file parses, dispatches, and turns every user's mistake into one sentence and exit code 2.

Only the file of the command that runs is imported, and commands import what they need when they run. So `rwkvquant --help` and the
engine's commands start without torch, and the engine's first token does not wait for the options of quantising.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import rwkvquant
from rwkvquant.cli import streams
from rwkvquant.cli.signals import stop_on_signals
from rwkvquant.errors import RwkvQuantError, StoppedError
from rwkvquant.plugins import load_plugins

# Set before torch is imported: its threads (GNU's OpenMP) then soon sleep while they wait for each other. By default they spin long, and
# on a busy machine lose whole time slices (the demo model, next to three other jobs on two cores: 91 s spinning, 25 s sleeping).
# Sleeping at once would cost a fifth of the time on an idle machine.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

EXIT_OK, EXIT_INTERRUPTED, EXIT_USER_ERROR, EXIT_GO_ON = 0, 130, 2, 75  # 75 is EX_TEMPFAIL of sysexits.h: run it again

# From 0.26 on Typer has its own copy of click, before it uses the click package; this finds its exceptions in both.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

# The commands in the order of the help, and the file of each: a function `command`, and a class `Command` if it has one of its own; or,
# for a group of commands, an `app`.
COMMANDS = {
    "demo": "demo",
    "quantize": "quantize",
    "inspect": "inspect",
    "verify": "verify",
    "eval": "evaluate",
    "compare": "compare",
    "activations": "activations",
    "generate": "generate",
    "chat": "chat",
    "serve": "serve",
    "classify": "classify",
    "segment": "segment",
    "detect": "detect",
    "bench": "bench",
    "export": "export",
    "report": "report",
    "lab": "lab",
}


def options(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        print(f"rwkvquant {rwkvquant.__version__}")
        raise typer.Exit
    load_plugins()


def command_line(arguments: Sequence[str] = ()) -> typer.Typer:
    """With the command that the arguments name; with all where they name none, as for the help and for a misspelt name."""
    app = typer.Typer(
        name="rwkvquant",
        help="Quantise RWKV-6 and RWKV-7 checkpoints into one small packed file, and run it without torch.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback(invoke_without_command=True)(options)
    asked = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name in [asked] if asked in COMMANDS else COMMANDS:
        module = importlib.import_module(f"rwkvquant.cli.{COMMANDS[name]}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name, cls=getattr(module, "Command", None))(module.command)
    return app


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 ok, 2 the user's mistake, 75 stopped and can continue, 130 interrupted."""
    try:
        app = command_line(sys.argv[1:] if arguments is None else arguments)
        code = app(args=arguments, standalone_mode=False) or EXIT_OK
        if code == EXIT_INTERRUPTED:  # Typer has caught the KeyboardInterrupt
            _say("interrupted")
        sys.stdout.flush()  # a full disk raises here, and not when Python ends
        return code
    except StoppedError as stopped:
        _say(str(stopped))
        return EXIT_GO_ON
    except RwkvQuantError as error:
        return _fail(str(error))
    except UsageError as error:
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        end = "" if message.endswith("?") else "."
        return _fail(f"{message}{end} See {_help_of(error)}.") if message else EXIT_USER_ERROR  # without a command, help was shown
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _fail("this command needs torch; install it with: pip install 'rwkv-hybridquant[quantize]'")
    except (SystemExit, BrokenPipeError):  # Typer raises one when the reader of our output is gone, as in `rwkvquant inspect F | head`
        streams.drop_output()
        return EXIT_OK
    except OSError as error:
        streams.drop_output()
        return _fail(_os_error(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        return _fail("there is not enough memory; try a smaller --batch or --context, or a machine with more memory")
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return EXIT_INTERRUPTED


def main() -> None:
    streams.prepare()
    stop_on_signals()
    sys.exit(run())


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"rwkvquant: {' '.join(sentence.split())}", file=sys.stderr, flush=True)


def _fail(sentence: str) -> int:
    _say(sentence)
    return EXIT_USER_ERROR


def _help_of(error: Exception) -> str:
    """The command that shows how to use what was called: "rwkvquant generate --help"."""
    context, names = getattr(error, "ctx", None), ["--help"]
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(["rwkvquant", *names])


def _is_lack_of_memory(error: Exception) -> bool:
    """torch has a special exception for it on a GPU, but not on a CPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def _os_error(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; free some space and run the command again"
    return f"{error.strerror or error}{where}"


if __name__ == "__main__":
    main()
