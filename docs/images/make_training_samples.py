"""Makes training_samples.jpg: training samples of rendered people.

python docs/images/make_training_samples.py HEAD_MODEL.npz
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from stages.training.performer_data import PerformerSamples
from stages.training.shard_format import encode_picture
from stages.training.sheets import sample_sheet

with tempfile.TemporaryDirectory() as cache:
    source = PerformerSamples(Path(sys.argv[1]), Path(cache), people=6, size=160, seed=11, performances=2, frames=12)
    picture = sample_sheet([source.sample(number, 1) for number in range(8)])
Path(__file__).with_name("training_samples.jpg").write_bytes(encode_picture(picture, "jpg", 88))
