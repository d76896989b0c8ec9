"""The program's output streams: control characters are removed, and lost output is not fatal.

A training must not end because the disk with its log is full, or because its terminal was closed.
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
    """The process's current standard output or error stream.

    After its first failure, all further output is lost.
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
        """The stream itself, even while rich replaces it to keep bars below all lines."""
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
    """Text as it is, without commands to a terminal or to rich."""
    return Text(printable(text))


def begin() -> None:
    """Reset the losses of an earlier command in this process."""
    OUT.loss = ERR.loss = None


def loss() -> str | None:
    """Why output was lost, or None; "" if the reader closed the pipe."""
    OUT.flush()
    ERR.flush()
    if OUT.loss is None:
        return None
    is_closed = getattr(OUT.loss, "errno", None) == errno.EPIPE
    return "" if is_closed else str(getattr(OUT.loss, "strerror", None) or OUT.loss)
