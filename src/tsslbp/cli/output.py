"""Where the program's output goes: no control character of a file's passes, and no loss ends it.

A training must not end because a disk is full under its log, or its terminal has been closed.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any, Literal

from rich.text import Text

from ..errors import printable

_PROXIED = "rich_proxied_file"  # rich's name for the stream that it stands for


class Stream:
    """The process's standard output or error stream, whichever it is at each moment.

    What it does not take is lost, from its first refusal on.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self.name = name
        self.loss: OSError | ValueError | None = (
            None  # why output was lost; a closed file: the latter
        )

    def __getattr__(self, name: str) -> Any:
        if name == _PROXIED:  # or rich would write past this stream
            raise AttributeError(name)
        return getattr(self._target(), name)

    def _target(self) -> Any:
        """The stream itself, also while rich stands in its place to keep bars below all lines."""
        stream = getattr(sys, self.name)
        return getattr(stream, _PROXIED, stream)

    def write(self, text: str) -> int:
        self._attempt("write", text)
        return len(text)

    def flush(self) -> None:
        self._attempt("flush")

    def _attempt(self, method: str, *arguments: str) -> None:
        stream = self._target()
        if self.loss or stream is None:  # None: a program without any, as on Windows
            return
        try:
            try:
                getattr(stream, method)(*arguments)
            except UnicodeEncodeError:  # a terminal of fewer letters
                kind = stream.encoding
                stream.write(arguments[0].encode(kind, "backslashreplace").decode(kind))
        except (OSError, ValueError) as error:
            self.loss = error
            with suppress(OSError, ValueError):  # what Python still holds would fail at its end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


OUT, ERR = Stream("stdout"), Stream("stderr")


def plain(text: str) -> Text:
    """Text as it is: it gives no command to a terminal, nor to rich."""
    return Text(printable(text))


def begin() -> None:
    """Forget what an earlier command in this process has lost."""
    OUT.loss = ERR.loss = None


def loss() -> str | None:
    """Why output was lost, where somebody has to be told; "" where they closed the pipe."""
    OUT.flush()
    ERR.flush()
    if OUT.loss is None:
        return None
    is_closed = getattr(OUT.loss, "errno", None) == errno.EPIPE
    return "" if is_closed else str(getattr(OUT.loss, "strerror", None) or OUT.loss)
