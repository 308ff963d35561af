"""How fast images stream, and what limits it: the decoder, the workers or the device.

Made JPEGs of 500x375 go through the decoder alone on all cores, through the pipeline without a
network, and through training. A step of ResNet-50 is timed beside a plain loop of torchvision's.

    python scripts/bench_streaming.py [--model NAME] [options of swa-train, such as batch_size=64]
"""

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path

import joblib
import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from swa_bench.commands.terminal import command
from swa_bench.config.schema import TrainConfig
from swa_bench.config.spec import compose_spec
from swa_bench.data import listing
from swa_bench.data.batches import to_device
from swa_bench.data.decoding import read_tensor
from swa_bench.data.file_set import FileSet
from swa_bench.data.images import load_images
from swa_bench.data.streaming import StreamedImages
from swa_bench.data.workers import CHUNK, Decoder, Pass, Request
from swa_bench.training import hardware, timing
from swa_bench.training.network import fresh_model
from swa_bench.training.states import fresh_state
from swa_bench.training.step import TrainStep

PICTURES = 20  # that differ; each is stored several times


def make_images(root: Path, count: int) -> None:
    """A folder in ImageNet's layout, of noise at several scales: about 95 kB a file."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(PICTURES):
        picture = rng.normal(120, 9, (375, 500, 3))
        for blocks in (2, 4, 8, 16, 32, 64):
            coarse = rng.normal(0, 400 / (blocks + 8), (blocks, blocks, 3)).astype(np.float32)
            for colour in range(3):
                plane = Image.fromarray(coarse[..., colour])
                picture[..., colour] += np.asarray(
                    plane.resize((500, 375), Image.Resampling.BICUBIC)
                )
        made.append(Image.fromarray(picture.clip(0, 255).astype(np.uint8)))
    for split, files in (("train", count), ("val", 2)):
        for index in range(files):
            path = root / split / f"class{index % 2}" / f"{index:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            made[index % PICTURES].save(path, quality=92)


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def decode(files: FileSet, indices: list[int]) -> None:
    """Decode files, and nothing else."""
    for index in indices:
        read_tensor(files.train.path(index))


def make(decoder: Decoder, indices: list[int]) -> None:
    """Do all that a worker does."""
    for start in range(0, len(indices), CHUNK):
        chunk = np.array(indices[start : start + CHUNK])
        decoder.__getitems__(Request(0, chunk, (0, 0, "train")))


def take_all(data: StreamedImages, batch_size: int) -> None:
    """Take all images to the device in batches, for no network."""
    images = len(data.train_labels)
    begun = data.workers.begin(Pass(np.arange(images), (0, 0, "train"), batch_size))
    for start in range(0, images, batch_size):
        data.fetch(begun, min(batch_size, images - start))


def without_training(files: FileSet, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Images a second of the parts; the best of turns, since other processes only slow them."""
    data = to_device(files, config, device)
    assert isinstance(data, StreamedImages)
    cores, images = joblib.cpu_count(), len(files.train)
    shares = [[*range(core, images, cores)] for core in range(cores)]
    every, crop = functools.partial(decode, files), functools.partial(make, Decoder(files, config))
    with Pool(cores, torch.set_num_threads, (1,)) as pool:
        parts: dict[str, Callable[[], object]] = {
            "decoding alone, on all cores": lambda: pool.map(every, shares, chunksize=1),
            "with the augmentation": lambda: pool.map(crop, shares, chunksize=1),
            "the pipeline, no training": lambda: take_all(data, config.batch_size),
        }
        turns = [{name: timed(part) for name, part in parts.items()} for _ in range(8)]
    data.workers.close()
    return {name: images / min(turn[name] for turn in turns[1:]) for name in parts}


def plain_loop(config: TrainConfig, step: TrainStep) -> Callable[[], None]:
    """A step of the network as anybody would write it, on a batch of the other's, as often."""
    data = step.inputs.data
    images, labels = next(data.train_batches(data.draw(0, 0, "train"), config.batch_size))
    model = fresh_model(config, data.device).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-6, momentum=0.9, weight_decay=1e-4)
    criterion = torch.nn.CrossEntropyLoss()

    def steps() -> None:
        for _ in step.sizes:
            with hardware.autocast(config):
                loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return steps


def measure(options: argparse.Namespace, root: Path) -> dict[str, float]:
    """Images a second of each part, and of our step beside a plain one."""
    config = composed(options, root)
    files = load_images(config.dataset)
    assert isinstance(files, FileSet)
    device, batch_size = hardware.prepare(config), config.batch_size
    found = without_training(files, config, device)
    images = options.steps * batch_size
    ours = timing.step_on_noise(config, options.steps)
    plain = plain_loop(dataclasses.replace(config, init="random"), ours)
    turns = [(timing.epoch_seconds([ours]), timed(plain)) for _ in range(options.rounds + 1)]
    ours_s, plain_s = (statistics.median(one) for one in zip(*turns[1:], strict=True))
    found["the step alone, a plain loop"] = images / plain_s
    found["the step alone"] = images / ours_s
    few = composed(options, root, f"dataset.train_images={images}")
    streamed = to_device(load_images(few.dataset), few, device)
    step = TrainStep(few, fresh_state(few, streamed), streamed)
    taken = timing.usual_seconds([step], warm_up=1, epochs=options.rounds)
    found["training that streams"] = images / taken
    return found


def composed(options: argparse.Namespace, root: Path, *more: str) -> TrainConfig:
    """The options of swa-train for the made folder."""
    given = [f"model={options.model}", "dataset=image_folder", f"dataset.root={root}"]
    given += ["dataset.memory=disk", "augmentation=random_resized_crop", "dataset.resize=256"]
    given += ["dataset.image_size=224", "precision=auto", "batch_size=16"]
    return hardware.resolve(compose_spec(*given, *options.overrides, *more)).config


def limit(found: dict[str, float]) -> str:
    """Which part training waits for."""
    names = ("with the augmentation", "the pipeline, no training", "the step alone")
    decoder, streams, step = map(found.__getitem__, names)
    if step < streams:
        return "the device"
    return "the decoder and the augmentation" if streams >= 0.9 * decoder else "the workers"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", default="torchvision_resnet50", help="%(default)s")
    parser.add_argument("--images", type=int, default=640, help="files to make (%(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="a turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns (%(default)s)")
    parser.add_argument("overrides", nargs="*", help="options of swa-train, such as batch_size=64")
    options = parser.parse_args()
    listing.register()
    with command("bench-streaming"), tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), options.images)
        found = measure(options, Path(folder))
    decoder, plain = found["decoding alone, on all cores"], found["the step alone, a plain loop"]
    rows = [
        [name, f"{value:,.1f}", f"{value / decoder:.2f}", f"{value / plain:.2f}"]
        for name, value in found.items()
    ]
    print(tabulate(rows, ["", "images/s", "x decoding", "x plain loop"], disable_numparse=True))
    print(f"Training waits for {limit(found)}.")


if __name__ == "__main__":
    main()
