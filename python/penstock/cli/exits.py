"""How a command ends: an exit code, at most one message on stderr, and no traceback unless asked for.

``ending`` goes around the body of every command. Only it installs signal handlers, and only for as long
as the command runs: the first Ctrl-C or SIGTERM ends the command cleanly, the second at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import unicodedata
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

from penstock import errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

OK, FAILED, USAGE, ROW_ERRORS, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143

MEANINGS = {
    OK: "done",
    FAILED: "it failed on the way (demo: the kinds are not in order)",
    USAGE: "it could not start: command line, input, model or output folder",
    ROW_ERRORS: "done; --strict was given and some rows have an error",
    INTERRUPTED: "Ctrl-C; what is finished is kept",
    TERMINATED: "SIGTERM; what is finished is kept",
}

_CANNOT_START = (
    errors.ConfigError,
    errors.FingerprintError,
    errors.MissingColumnError,
    errors.MissingExtensionError,
    errors.ModelError,
    errors.TokenizerError,
)
_BEFORE_OR_ON_THE_WAY = (errors.OutputError, errors.SourceError)
_SHOW_CURSOR = "\x1b[?25h"


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt, no ``except Exception`` may stop it."""


class Ending:
    """What a command says of itself, for the message at its end.

    Attributes:
        has_begun: The first rows are done, so an error from here on is no matter of how it was started.
        advice: What to do after an interruption.
    """

    def __init__(self, advice: str = "") -> None:
        self.has_begun = False
        self.advice = advice
        self._signal: int | None = None

    def check_signal(self) -> None:
        """Raise again for a signal whose exception got lost, in a destructor for example."""
        if self._signal is not None:
            _raise_for(self._signal)

    def receive(self, number: int, _: FrameType | None = None) -> None:
        """The signal handler."""
        if self._signal is not None:
            if sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR.encode())
            os._exit(128 + number)  # parts are renamed when whole, so nothing is left half written
        self._signal = number
        _raise_for(number)

    def code_and_message(self, error: BaseException) -> tuple[int, str]:
        """The exit code for an error, and what to say."""
        interruption = "interrupted" + (f"; {self.advice}" if self.advice else "")
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED, interruption
        if isinstance(error, Terminated):
            return TERMINATED, interruption
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
        if isinstance(error, errors.PenstockError):
            may_be_usage = isinstance(error, _BEFORE_OR_ON_THE_WAY) and not self.has_begun
            return USAGE if may_be_usage or isinstance(error, _CANNOT_START) else FAILED, message
        message = f"{type(error).__name__}: {message}"
        if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch here
            return (
                FAILED,
                f"{message}\nOne row alone does not fit: lower --max-length or use a smaller --dtype.",
            )
        return FAILED, f"{message}\n--debug shows where."


@contextmanager
def ending(*, debug: bool, advice: str = "") -> Iterator[Ending]:
    """Run the body of a command; turn what it raises into a message and an exit code.

    Args:
        debug: Show the traceback too.
        advice: What to do after an interruption.
    """
    end = Ending(advice)
    try:
        with _signals_to(end):
            yield end
    except (typer.Exit, BrokenPipeError, SystemExit):
        raise  # the last two are how `penstock ... | head` ends: quietly
    except BaseException as error:  # noqa: BLE001 - whatever it is, it ends in one message
        if debug:
            traceback.print_exception(error)
        code, message = end.code_and_message(error)
        complain(message, kind="" if code in (INTERRUPTED, TERMINATED) else "Error")
        raise typer.Exit(code) from None


def complain(message: str, kind: str = "Error") -> None:
    """Write one message to stderr."""
    from rich.console import Console
    from rich.text import Text

    style = {"Error": "bold red", "Warning": "bold yellow"}.get(kind, "")
    text = Text.assemble((f"{kind}: ", style) if kind else "", visible(message))
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def visible(text: str) -> str:
    r"""Text with control characters escaped, so that a file name or a row cannot steer a terminal.

    Example:
        >>> visible("name\x1b[2J.jsonl")
        'name\\x1b[2J.jsonl'
    """
    return "".join(character if _is_shown(character) else _escaped(character) for character in text)


def _is_shown(character: str) -> bool:
    kind = unicodedata.category(character)
    return character == "\n" or not (kind[0] == "C" or kind in ("Zl", "Zp"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _raise_for(number: int) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def _signals_to(end: Ending) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the body, unless they were ignored before (nohup, a shell's background)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    mine = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, end.receive)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
