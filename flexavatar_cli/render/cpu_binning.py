"""Which splats each tile sees, nearest first: a radix sort by depth and a counting sort by tile, in Numba."""

import numpy as np
from numba import njit, prange

Array = np.ndarray

CHUNKS = 16  # parallel work items of binning: consecutive runs of the depth order


@njit(cache=True, nogil=True)
def order_by_depth(rects: Array, depths: Array, offsets: Array) -> Array:
    """Indices of the Gaussians in the picture, nearest first (ties in index order), and offsets [N + 1] filled.

    offsets[g] counts the (splat, tile) pairs of the Gaussians before g. Radix sort: positive floats sort as integers.
    """
    count = 0
    offsets[0] = 0
    for g in range(len(rects)):
        tiles = int(rects[g, 1] - rects[g, 0]) * int(rects[g, 3] - rects[g, 2])
        offsets[g + 1] = offsets[g] + tiles
        count += tiles > 0
    keys, order = np.empty(count, np.uint32), np.empty(count, np.int32)
    bits = depths.view(np.uint32)
    starts = np.zeros((3, 2048), np.int64)
    i = 0
    for g in range(len(rects)):
        if offsets[g + 1] > offsets[g]:
            key = bits[g]
            keys[i], order[i] = key, g
            for digit in range(3):
                starts[digit, (key >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
            i += 1
    keys_out, order_out = np.empty_like(keys), np.empty_like(order)
    for digit in range(3):
        total = 0
        for value in range(2048):
            total, starts[digit, value] = total + starts[digit, value], total
        for i in range(count):
            value = (keys[i] >> np.uint32(11 * digit)) & np.uint32(2047)
            slot = starts[digit, value]
            starts[digit, value] = slot + 1
            keys_out[slot], order_out[slot] = keys[i], order[i]
        keys, keys_out, order, order_out = keys_out, keys, order_out, order
    return order


@njit(cache=True, nogil=True, parallel=True)
def bin_tiles(
    order: Array,  # [M] Gaussians, nearest first
    rects: Array,  # [N, 4]
    offsets: Array,  # [N + 1]
    tiles_x: int,
    pairs: Array,  # out [P, 2] int32: Gaussian, its record
    starts: Array,  # out [tiles + 1] int64: first pair of each tile
) -> None:
    """Each tile's splats, nearest first: a counting sort by tile, which keeps the order of depth."""
    tiles = len(starts) - 1
    slots = np.zeros((CHUNKS, tiles), np.int64)
    for chunk in prange(CHUNKS):
        for i in range(chunk * len(order) // CHUNKS, (chunk + 1) * len(order) // CHUNKS):
            g = order[i]
            for ty in range(rects[g, 2], rects[g, 3]):
                for tx in range(rects[g, 0], rects[g, 1]):
                    slots[chunk, ty * tiles_x + tx] += 1
    total = 0
    for tile in range(tiles):
        starts[tile] = total
        for chunk in range(CHUNKS):
            total, slots[chunk, tile] = total + slots[chunk, tile], total
    starts[tiles] = total
    for chunk in prange(CHUNKS):
        for i in range(chunk * len(order) // CHUNKS, (chunk + 1) * len(order) // CHUNKS):
            g = order[i]
            record = offsets[g]
            for ty in range(rects[g, 2], rects[g, 3]):
                for tx in range(rects[g, 0], rects[g, 1]):
                    slot = slots[chunk, ty * tiles_x + tx]
                    slots[chunk, ty * tiles_x + tx] = slot + 1
                    pairs[slot, 0], pairs[slot, 1] = g, record
                    record += 1
