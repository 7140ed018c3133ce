"""Whoever reads what is printed may go away: nothing else is lost by it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.streams import _Outliving

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import logging, sys, threading
from rich.console import Console
from flows.streams import PatientConsole, outlive_readers

outlive_readers()
patient, foreign = PatientConsole(stderr=True), Console(stderr=True)
logging.basicConfig()

def work():
    for number in range(2000):
        patient.print("progress", number)
        foreign.print("of a library", number)  # rich's own console ends the thread where a pipe breaks
        logging.warning("told")
        print("bare", file=sys.stderr, flush=True)
    done.append(True)

done = []
thread = threading.Thread(target=work)
thread.start()
thread.join()
print("the result" if done else "the thread was ended")
"""


def test_work_goes_on_when_the_reader_of_the_progress_has_ended() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    assert process.stdout.read() == "the result\n"
    assert process.wait(timeout=60) == 0


def test_results_that_nobody_reads_end_the_command_without_a_word() -> None:
    program = "from flows.streams import PatientConsole\nc = PatientConsole()\nfor n in range(100000): c.print(n)"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0


def test_a_standard_error_that_was_closed_before_the_start_goes_nowhere_and_to_nobody_else() -> None:
    program = "\n".join(
        (
            "import os, subprocess, sys",
            "from flows.streams import outlive_readers",
            "outlive_readers()",
            "print('lost', file=sys.stderr)",
            "print(os.path.samefile('/dev/fd/2', os.devnull), os.pipe()[0] > 2)",
            "sys.stdout.flush()",
            "subprocess.run(['bash', '-c', 'echo lost too >&2 && echo told'], check=True)",
        )
    )
    done = subprocess.run(
        ["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True True\ntold\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_under_the_log_loses_lines_alone(number: int) -> None:
    class Full:
        name = "log"

        def fail(self, *arguments: Any) -> int:
            raise OSError(number, "no space left on device")

        write = flush = fail

    stream: Any = _Outliving(Full())  # type: ignore[arg-type]
    assert stream.write("line") == 4
    stream.flush()
    assert stream.name == "log"


def test_a_worker_without_a_standard_error_writes_its_log_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "\n".join(
        (
            "import os, pathlib",
            "from flows.workers import _settle",
            f"_settle(pathlib.Path({str(log)!r}))",
            "os.write(2, b'chatter;')",
            "os.system('printf inherited >&2')",
            "raise ValueError('last words')",
        )
    )
    subprocess.run(["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-c", program], cwd=ROOT, check=False)
    assert log.read_text().startswith("chatter;inherited")
    assert log.read_text().endswith("ValueError: last words\n")
