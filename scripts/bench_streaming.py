"""How fast images stream, and what limits it: the decoder, the workers or the device.

Made JPEGs of 500x375 go through the decoder alone on all cores, through the pipeline without a
network, and through training. A step of ResNet-50 is timed beside a plain loop of torchvision's.

    python scripts/bench_streaming.py [options of swa-train, such as batch_size=64]
"""

import dataclasses
import functools
import sys
import tempfile
import timeit
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path

import joblib
import numpy as np
import torch
from reference_loop import plain_step
from tabulate import tabulate
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from swa_bench.commands.terminal import command
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import compose_spec
from swa_bench.data import listing
from swa_bench.data.batches import Images, to_device
from swa_bench.data.decoding import read_tensor
from swa_bench.data.file_set import FileSet
from swa_bench.data.images import load_images
from swa_bench.data.workers import CHUNK, Decoder, Request
from swa_bench.training import hardware, timing
from swa_bench.training.states import fresh_state
from swa_bench.training.step import TrainStep

FILES, PICTURES = 640, 20  # of training; those that differ, each of which is stored several times
STEPS, TURNS = 2, 8  # of training in a turn; of each part, of which the first warms up
PLAIN = "the step alone, a plain loop"


def make_images(root: Path) -> None:
    """A folder in ImageNet's layout, of noise at several scales: about 95 kB a file."""
    generator = torch.Generator().manual_seed(0)
    noise, made = functools.partial(torch.randn, generator=generator), []
    for _ in range(PICTURES):
        picture = 120 + 14 * noise(1, 3, 375, 500)
        for blocks in (2, 4, 8, 16, 32, 64):
            coarse = noise(1, 3, blocks, blocks) * 400 / (blocks + 8)
            picture += F.interpolate(coarse, (375, 500), mode="bicubic")
        made.append(to_pil_image(picture[0].clamp(0, 255).byte()))
    for split, files in (("train", FILES), ("val", 2)):
        for index in range(files):
            path = root / split / f"class{index % 2}" / f"{index:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            made[index % PICTURES].save(path, quality=92)


def composed(root: str) -> TrainConfig:
    """The options of swa-train for the made folder."""
    given = ["model=resnet50", "dataset=image_folder", f"dataset.root={root}"]
    given += ["dataset.memory=disk", "augmentation=random_resized_crop", "dataset.resize=256"]
    given += ["dataset.image_size=224", "precision=auto", "batch_size=16", "init=random"]
    return hardware.resolve(compose_spec(*given, *sys.argv[1:])).config


def decode(files: FileSet, indices: list[int]) -> None:
    """Decode files, and nothing else."""
    for index in indices:
        read_tensor(files.train.path(index))


def make(decoder: Decoder, indices: list[int]) -> None:
    """Do all that a worker does."""
    for start in range(0, len(indices), CHUNK):
        chunk = np.array(indices[start : start + CHUNK])
        decoder.__getitems__(Request(0, chunk, (0, 0, "train")))


def take_all(data: Images, batch_size: int) -> None:
    """Take all images to the device in batches, for no network."""
    draws = data.draw(0, 0, "train")
    begun = data.begin(draws, batch_size)
    for start in range(0, len(draws.order), batch_size):
        data.train_pixels(draws.at(slice(start, start + batch_size)), begun)


def measure(root: str) -> dict[str, float]:
    """Images a second of the parts; the best of turns, since other processes only slow them."""
    config = composed(root)
    device, files = hardware.prepare(config), load_images(config.dataset)
    assert isinstance(files, FileSet)
    cores, images, batch_size = joblib.cpu_count(), len(files.train), config.batch_size
    shares = [[*range(core, images, cores)] for core in range(cores)]
    every, crop = functools.partial(decode, files), functools.partial(make, Decoder(files, config))
    few = dataclasses.replace(files, train=files.train.first(STEPS * batch_size))
    data, some = to_device(files, config, device), to_device(few, config, device)
    batch = next(some.train_batches(some.draw(0, 0, "train"), batch_size))
    plain, ours = plain_step(config), timing.step_on_noise(config, STEPS)
    streamed = TrainStep(config, fresh_state(config, some), some)
    with Pool(cores, torch.set_num_threads, (1,)) as pool:
        parts: dict[str, tuple[int, Callable[[], object]]] = {
            "decoding alone, on all cores": (images, lambda: pool.map(every, shares, 1)),
            "with the augmentation": (images, lambda: pool.map(crop, shares, 1)),
            "the pipeline, no training": (images, lambda: take_all(data, batch_size)),
            PLAIN: (len(few.train), lambda: [plain(*batch) for _ in range(STEPS)]),
            "the step alone": (len(few.train), lambda: timing.epoch_seconds([ours])),
            "training that streams": (len(few.train), lambda: timing.epoch_seconds([streamed])),
        }
        turns = [
            [timeit.timeit(work, number=1) for _, work in parts.values()] for _ in range(TURNS)
        ]
    best = map(min, zip(*turns[1:], strict=True))
    return {name: parts[name][0] / seconds for name, seconds in zip(parts, best, strict=True)}


def limit(found: dict[str, float]) -> str:
    """Which part training waits for."""
    names = ("with the augmentation", "the pipeline, no training", "the step alone")
    decoder, streams, step = map(found.__getitem__, names)
    if step < streams:
        return "the device"
    return "the decoder and the augmentation" if streams >= 0.9 * decoder else "the workers"


def main() -> None:
    """Measure and print."""
    listing.register()
    with command("bench-streaming"), tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder))
        found = measure(folder)
    decoder, plain = found["decoding alone, on all cores"], found[PLAIN]
    rows = [
        [name, f"{value:,.1f}", f"{value / decoder:.2f}", f"{value / plain:.2f}"]
        for name, value in found.items()
    ]
    print(tabulate(rows, ["", "images/s", "x decoding", "x plain loop"], disable_numparse=True))
    print(f"Training waits for {limit(found)}.")


if __name__ == "__main__":
    main()
