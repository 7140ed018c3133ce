"""Standard streams that outlive whoever reads them."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, TextIO, cast

from rich.console import Console

GONE = (errno.EPIPE, errno.EIO)
"""What a pipe says whose reader has ended, and a terminal that is no more."""


class PatientConsole(Console):
    """Prints on nothing from the moment on that nobody reads any more, where rich would end the thread that prints."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _let_go(cast(TextIO, self.file))


class _Outliving:
    """A stream that loses what nobody reads, or what its disk has no space for, rather than to raise."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        if error.errno in GONE:
            _let_go(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_readers() -> None:
    """Have progress, logs and warnings of this process end no work when their reader ends (``2>&1 | head``, a closed terminal).

    Prefect and rich would raise SystemExit in the thread that works. Results on standard output are another matter: a disk that
    has no space for them is told.
    """
    sys.stderr = cast(TextIO, _Outliving(sys.stderr or _in_place_of_none()))


def _in_place_of_none() -> TextIO:
    """Nothing, as standard error that was closed before the start (``2>&-``): else a pipe to a worker, or a file of the store,
    would become number 2, and get what native libraries have to say."""
    try:
        os.fstat(2)
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        if nothing != 2:
            os.dup2(nothing, 2)
            os.close(nothing)
        os.set_inheritable(2, True)
    return open(os.devnull, "w", encoding="utf-8")


def _let_go(stream: TextIO) -> None:
    """Have a stream write to nothing, so that what it holds raises nothing at the end either."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
