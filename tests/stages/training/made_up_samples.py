"""Samples without any data: coloured discs as heads, for tests of the training itself."""

from __future__ import annotations

import numpy as np

from stages.training.samples import TrainingSample


class Discs:
    """A head is a disc of a colour that its person has, at a place that the drawing shows: a ``SampleSource``.

    Args:
        size: of the pictures. people: how many. seed: of everything.
    """

    def __init__(self, size: int = 64, people: int = 2, seed: int = 0) -> None:
        self.size, self.people, self.seed = size, people, seed

    def sample(self, number: int, frames: int) -> TrainingSample:
        rng = np.random.default_rng([self.seed, number, frames])
        person = number % self.people
        colour = np.random.default_rng([7, person]).integers(0, 256, 3)
        background = np.full((frames, self.size, self.size, 3), rng.integers(0, 256, 3), np.uint8)
        start, speed = rng.uniform(0.4, 0.6, 2), rng.uniform(-0.02, 0.02, 2)
        places = (start + np.arange(frames)[:, None] * speed) * self.size
        y, x = np.mgrid[: self.size, : self.size] + 0.5
        radius = 0.25 * self.size
        distance = np.hypot(x - places[:, 0, None, None], y - places[:, 1, None, None])
        head = distance < radius
        target = np.where(head[..., None], colour, background).astype(np.uint8)
        drawing = np.where(np.abs(distance - 0.5 * radius)[..., None] < 1.5, 255, 0).astype(np.uint8) * np.ones(3, np.uint8)
        alone = np.hypot(x - self.size / 2, y - self.size / 2) < radius
        points = np.array([[-0.4, -0.4], [0.4, -0.4], [0, 0], [-0.3, 0.4], [0.3, 0.4]]) * radius
        return TrainingSample(
            reference=np.where(alone[..., None], colour, 255).astype(np.uint8),
            target=target,
            drawing=drawing,
            background=background,
            head=head,
            face_points=(places[:, None] + points).astype(np.float32),
            person=f"person {person}",
            frame_numbers=tuple(range(frames)),
        )
