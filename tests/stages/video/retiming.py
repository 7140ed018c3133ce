"""Videos whose packets have other time stamps than the encoder gave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av

_AHEAD = 10


def retimed(source: Path, output: Path, times: Sequence[int]) -> Path:
    """A copy of a video's packets in which frame ``k`` is shown at ``times[k]``, counted in frames: times may repeat."""
    with av.open(str(source)) as original, av.open(str(output), "w") as copy:
        stream = original.streams.video[0]
        target = copy.add_stream_from_template(stream)
        packets = [packet for packet in original.demux(stream) if packet.size]
        order = sorted(packet.pts for packet in packets if packet.pts is not None)
        step = order[1] - order[0]
        for number, packet in enumerate(packets):
            assert packet.pts is not None
            frame = order.index(packet.pts)
            packet.stream = target
            if len(set(times)) == 1:  # an order of decoding that goes on would be cut off by MP4's edit list
                packet.pts = packet.dts = times[frame] * step
            else:
                packet.pts, packet.dts = (times[frame] + _AHEAD) * step, number * step
            copy.mux(packet)
    return output
