"""Measures speed and memory of the main job and writes ``docs/benchmarks.md``.

    python -m benchmarks [stages] [job] [memory] [cached] [sharing]
                         [operations] [diffusion_cpu] [diffusion_memory] [diffusion_gpu]
                         [diffusion_gpu_memory] [fitting]

Each part is a section of its own in the document; parts not named stay as they were. Machines are noisy: figures of one
part come from one run of this command, and compare only with each other.
"""

from __future__ import annotations

import importlib
import sys

from benchmarks import document

PARTS = {
    "stages": "parts:stages",
    "job": "parts:job",
    "memory": "parts:memory",
    "cached": "parts:cached",
    "sharing": "parts:sharing",
    "operations": "operations:operations",
    "diffusion_cpu": "diffusion:cpu",
    "diffusion_memory": "diffusion:memory",
    "diffusion_gpu": "diffusion:gpu",
    "diffusion_gpu_memory": "rehearsal:rehearsed",
    "fitting": "fitting:fitting",
}
"""Where each part is. Imported when it is run: a machine for one of them need not have what the others want."""


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"There is no part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    for name in names or PARTS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        module, _, function = PARTS[name].partition(":")
        text = getattr(importlib.import_module(f"benchmarks.{module}"), function)()
        document.replace(name, text)
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
