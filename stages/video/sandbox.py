"""Run a function on a file that nobody has looked at yet, in a process that may crash, hang or eat memory without harm."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from schemas.problems import MediaError

Result = TypeVar("Result")

DEFAULT_MEMORY = 8 * 2**30
"""Of address space: libraries alone map more than a gigabyte."""


def run_limited(
    function: Callable[..., Result],
    *arguments: Any,
    seconds: float = 600.0,
    memory_bytes: int = DEFAULT_MEMORY,
    subject: str = "",
) -> Result:
    """Call a function in a fresh process and return its result.

    Args:
        function: a top-level function (it is found by name in the other process); its arguments and result are pickled.
        seconds: wall clock; afterwards the process is killed.
        memory_bytes: limit on the process's address space.
        subject: what errors name; by default the first argument that is a path.

    Raises:
        MediaError: decoder_timeout; decoder_memory; decoder_crashed with the signal's name. Whatever else the function
            raised is raised here.
    """
    name = subject or next((str(argument) for argument in arguments if isinstance(argument, Path)), function.__name__)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments, memory_bytes), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise MediaError(
                "decoder_timeout",
                f"Reading {name} took longer than {seconds:g} seconds.",
                "Convert the file, or allow more time.",
            )
        succeeded, outcome = receiver.recv()
    except EOFError:
        process.join()
        raise _crash(name, process.exitcode) from None
    finally:
        if process.is_alive():
            process.join(0.5)
        if process.is_alive():
            process.kill()
        process.join()
        receiver.close()
    if succeeded:
        result: Result = outcome
        return result
    if isinstance(outcome, MemoryError):
        raise _too_much_memory(name) from outcome
    raise outcome


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        outcome = (True, function(*arguments))
    except Exception as error:  # noqa: BLE001 - it is raised again in the other process
        outcome = (False, error)
    sender.send(outcome)


def _crash(name: str, exit_code: int | None) -> MediaError:
    if exit_code == -signal.SIGKILL:  # nobody else sends it: the system was out of memory
        return _too_much_memory(name)
    reason = signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit status {exit_code}"
    return MediaError(
        "decoder_crashed", f"The decoder crashed on {name} ({reason}).", "The file is damaged: convert or replace it."
    )


def _too_much_memory(name: str) -> MediaError:
    return MediaError(
        "decoder_memory", f"Reading {name} needs more memory than allowed.", "Scale the file down, or allow more memory."
    )
