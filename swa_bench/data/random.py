"""Seeds of the random numbers: a separate stream for every seed, epoch and purpose."""

import numpy as np

# What a stream of random numbers is for. The values are part of every result: never reuse one.
PURPOSES = {"weights": 0, "dropout": 1, "train": 2, "recompute": 3}


def stream_seed(seed: int, epoch: int, purpose: str) -> int:
    """Seed of the random numbers of one epoch and purpose, independent of all others."""
    entropy = np.random.SeedSequence([seed, epoch, PURPOSES[purpose]])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))  # torch takes 63 bits
