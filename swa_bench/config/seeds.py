"""Blocks of seeds: what trains together, and what an ensemble of whole runs is of."""


def seed_block(seed: int, size: int) -> range:
    """The block of `size` seeds that holds a seed: of size 3, seeds 0 to 2 are one block."""
    first = seed // size * size
    return range(first, first + size)


def disjoint_blocks(seed: int, size: int) -> list[range]:
    """The smaller blocks within the block of `size` seeds that holds a seed, and that block itself.

    No two of one size share a seed, so that ensembles of them are independent: three seeds make
    three blocks of 1, one of 2 and one of 3.
    """
    whole = seed_block(seed, size)
    return [
        range(first, first + part)
        for part in range(1, size + 1)
        for first in range(-(-whole.start // part) * part, whole.stop - part + 1, part)
    ]
