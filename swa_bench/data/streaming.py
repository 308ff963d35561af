"""Images that stream from their files while the device trains, as batches on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from swa_bench.config.schema import TrainConfig
from swa_bench.data.batches import EpochDraws, Images
from swa_bench.data.file_set import FileSet
from swa_bench.data.random import random_numbers
from swa_bench.data.workers import CHUNK, Decoder, Pass, Stream, Workers, worker_count


@dataclass(frozen=True)
class FileDraws(EpochDraws):
    """The order of a pass, and the stream that each image's random numbers come from."""

    stream: Stream


@dataclass(frozen=True, kw_only=True)
class StreamedImages(Images):
    """A data set in files; all passes over it share its processes."""

    workers: Workers

    recordable: ClassVar = False

    @classmethod
    def of(
        cls, files: FileSet, config: TrainConfig, device: torch.device, common: dict[str, Any]
    ) -> "StreamedImages":
        """The files of a data set, with what `Images` has beside its labels."""
        workers = Workers(
            Decoder(files, config), worker_count(config.dataset), pin=device.type == "cuda"
        )
        train, test = (
            torch.tensor(labels, device=device)
            for labels in (files.train_labels, files.test_labels)
        )
        return cls(train_labels=train, test_labels=test, workers=workers, **common)

    def draw(self, seed: int, epoch: int, purpose: str) -> FileDraws:
        """Order of one pass, from the stream of (seed, epoch, purpose)."""
        with random_numbers(seed, epoch, purpose, self.device) as generator:
            order = torch.randperm(len(self.train_labels), generator=generator, device=self.device)
        return FileDraws(order, {}, (seed, epoch, purpose))

    def feed(self, batch_size: int) -> "FileFeed":
        """What gives the batches of a pass one after the other."""
        return FileFeed(self, batch_size)

    def train_batches(self, draws: EpochDraws, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented, normalised batches (B, 3, S, S), labels (B,); the last may be smaller."""
        feed, count = self.feed(batch_size), len(draws.order)
        feed.begin(draws)
        for start in range(0, count, batch_size):
            yield feed.next(min(batch_size, count - start))

    def test_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised test images in their order."""
        count = len(self.test_labels)
        begun = self.workers.begin(Pass(np.arange(count), None, batch_size))
        for start in range(0, count, batch_size):
            labels = self.test_labels[start : start + batch_size]
            yield self.to_float(self.fetch(begun, len(labels))), labels

    def close(self) -> None:
        """End its processes; another pass would start others."""
        self.workers.close()

    def fetch(self, begun: Pass, size: int) -> Tensor:
        """The next `size` images of a pass, uint8 (B, 3, S, S)."""
        chunks = [self.workers.take(begun) for _ in range(0, size, CHUNK)]
        return torch.cat([chunk.to(self.device, non_blocking=True) for chunk in chunks])


class FileFeed:
    """The training batches of a pass over files."""

    def __init__(self, data: StreamedImages, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size
        self.batches_done = torch.zeros(1, dtype=torch.int64, device=data.device)

    def begin(self, draws: EpochDraws, first: int = 0) -> None:
        """Begin a pass with these draws, at its batch number `first` (from 0)."""
        assert isinstance(draws, FileDraws)
        order = draws.order.cpu().numpy()
        self.labels = self.data.train_labels[draws.order[first * self.batch_size :]]
        self.begun = self.data.workers.begin(Pass(order, draws.stream, self.batch_size, first))
        self.batches_done.fill_(first)

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """The next `size` images and labels; SwaBenchError for a file that cannot be read."""
        images = self.data.to_float(self.data.fetch(self.begun, size))
        labels, self.labels = self.labels[:size], self.labels[size:]
        self.batches_done += 1
        return images, labels
