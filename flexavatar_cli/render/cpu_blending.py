"""Front-to-back blending of a tile's splats and its reverse: Numba kernels of explicit 16-lane float32 vectors.

A tile of 16x16 pixels has 16 blocks of 4x4, and a block is one vector. For every splat of a tile, one vector
operation finds the blocks that its contour touches; each of them is then blended unconditionally. A tile's state is
a few float32 planes [PIXELS] in block order, which stay in the first-level cache.

The way back repeats the forward pass's decisions bit for bit, from the last splat to the first. It writes one record
of sums per (splat, tile) pair, so nothing is shared between threads and nothing depends on their number.
"""

import numpy as np
from numba import njit, prange

from flexavatar_cli.render.cpu_projection import (
    BLUE,
    GREEN,
    L11,
    L21,
    L22,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    REACH,
    RECORD,
    RED,
    RIDGE_X,
    RIDGE_Y,
    TILE,
)  # fmt: skip
from flexavatar_cli.render.simd import (
    Vector,
    fma,
    lane_bits,
    lane_sums,
    load,
    lowest_bit,
    maximum,
    minimum,
    negative,
    select,
    store,
)  # fmt: skip

BLOCK = 4  # pixels along a block's side
PIXELS = TILE * TILE

MAX_ALPHA = np.float32(0.999)
MIN_TRANSMITTANCE = np.float32(1e-4)  # a pixel stops before the splat that would reach this
NEVER = np.float32(1e9)  # a pixel's stop position if nothing stops it

STRIPES = 64  # parallel work items of a picture; stripe s has the tiles s, s + 64, ..., so that all cost the same
BATCH = 64  # splats of a tile looked at together before they are blended

Array = np.ndarray
Corner = tuple[np.float32, np.float32]  # x, y of the centre of a tile's first pixel

_LANE_X = np.array([i % BLOCK for i in range(16)], np.float32)
_LANE_Y = np.array([i // BLOCK for i in range(16)], np.float32)
_BLOCK_X, _BLOCK_Y = _LANE_X * BLOCK, _LANE_Y * BLOCK
_PIXEL_X, _PIXEL_Y = (np.add.outer(b, a).ravel() for b, a in ((_BLOCK_X, _LANE_X), (_BLOCK_Y, _LANE_Y)))


@njit(cache=True, inline="always")
def _eighth_of_sigma(dx: Vector, dy: Vector, l11: float, l21: float, l22: float) -> Vector:
    u, v = fma(dx, l11, dy * l21), dy * l22
    return fma(u, u, v * v)


@njit(cache=True, inline="always")
def _exp_minus_8(t: Vector) -> Vector:
    """exp(-8 t) for 0 <= t <= log(255) / 8, relative error < 2e-6: a minimax polynomial, 1 at 0, to the 8th power."""
    p = fma(t, -0.005906793754547834, 0.039882369339466095)
    p = fma(p, t, -0.1660469025373459)
    p = fma(p, t, 0.49990373849868774)
    p = fma(p, t, -0.9999950528144836)
    p = fma(p, t, 1.0)
    p = p * p
    p = p * p
    return p * p


@njit(cache=True, inline="always")
def _clamp(x: Vector, low: Vector, high: Vector) -> Vector:
    return minimum(maximum(x, low), high)


@njit(cache=True, inline="always")
def _touched_blocks(splats: Array, g: int, corner: Corner) -> int:
    """Bits of the tile's blocks that may hold a pixel within the contour.

    The smallest sigma over a rectangle lies on one of the two sides facing the mean, at the foot of the
    Gaussian's ridge clamped to the side (as in StopThePop, Radl et al. 2024, section 4).
    """
    l11, l21, l22, reach = splats[g, L11], splats[g, L21], splats[g, L22], splats[g, REACH]
    x0, y0 = load(_BLOCK_X, 0) + (corner[0] - splats[g, MEAN_X]), load(_BLOCK_Y, 0) + (corner[1] - splats[g, MEAN_Y])
    x1, y1 = x0 + (BLOCK - 1.0), y0 + (BLOCK - 1.0)
    side_x, side_y = _clamp(x0 * 0.0, x0, x1), _clamp(y0 * 0.0, y0, y1)
    t = _eighth_of_sigma(side_x, _clamp(side_x * splats[g, RIDGE_Y], y0, y1), l11, l21, l22)
    s = _eighth_of_sigma(_clamp(side_y * splats[g, RIDGE_X], x0, x1), side_y, l11, l21, l22)
    return lane_bits(minimum(s, t) <= reach * np.float32(1.001) + np.float32(1e-3))


@njit(cache=True)
def _blend_tile(
    pairs: Array,
    first: int,
    last: int,
    splats: Array,
    corner: Corner,
    planes: Array,
    touched: Array,
) -> None:
    """Blend pairs[first:last] front to back into planes [5 * PIXELS]: transmittance, R, G, B, stop position.

    The splat that would take a pixel's transmittance to the cut is not blended, nor any behind it: the pixel's
    transmittance turns negative, and its stop position becomes that splat's, counted from `first`.
    Branches wait for vectors, so there are few: the touched blocks are found a batch ahead, and all stores are
    unconditional (masked ones would besides stall the loads of the next splat).
    """
    live = 0  # blocks with a pixel that has not stopped
    for block in range(16):
        live |= (lane_bits(load(planes, 16 * block) > 0.0) != 0) << block
    for start in range(first, last, BATCH):
        if live == 0:
            break
        end = min(start + BATCH, last)
        for i in range(start, end):
            touched[i] = _touched_blocks(splats, pairs[i, 0], corner)
        for i in range(start, end):
            g = pairs[i, 0]
            l11, l21, l22, reach = splats[g, L11], splats[g, L21], splats[g, L22], splats[g, REACH]
            opacity, red, green, blue = splats[g, OPACITY], splats[g, RED], splats[g, GREEN], splats[g, BLUE]
            dx0, dy0 = corner[0] - splats[g, MEAN_X], corner[1] - splats[g, MEAN_Y]
            blocks = live & int(touched[i])
            while blocks:
                block = lowest_bit(blocks)
                blocks &= blocks - 1
                at = 16 * block
                dx, dy = load(_PIXEL_X, at) + dx0, load(_PIXEL_Y, at) + dy0
                t = _eighth_of_sigma(dx, dy, l11, l21, l22)
                alpha = _exp_minus_8(t) * opacity
                alpha = select(t <= reach, minimum(alpha, MAX_ALPHA), 0.0)
                rest = load(planes, at)
                before = maximum(rest, 0.0)
                after = before * (1.0 - alpha)
                goes_on = after > MIN_TRANSMITTANCE
                weight = select(goes_on, before * alpha, 0.0)
                stop = select(goes_on, NEVER, np.float32(i - first))
                store(planes, at, select(goes_on, after, negative(rest)))
                store(planes, at + PIXELS, fma(weight, red, load(planes, at + PIXELS)))
                store(planes, at + 2 * PIXELS, fma(weight, green, load(planes, at + 2 * PIXELS)))
                store(planes, at + 3 * PIXELS, fma(weight, blue, load(planes, at + 3 * PIXELS)))
                store(planes, at + 4 * PIXELS, minimum(stop, load(planes, at + 4 * PIXELS)))
                if lane_bits(goes_on) == 0:
                    live &= ~(1 << block)


@njit(cache=True, nogil=True, parallel=True)
def blend(
    pairs: Array,  # [P, 2] int32: Gaussian, its record
    starts: Array,  # [tiles + 1] first pair of each tile
    splats: Array,  # [N, SPLAT]
    background: Array,  # [H, W, 3]
    tiles_x: int,
    rgb: Array,  # out [H, W, 3]
    alpha: Array,  # out [H, W]
    touched: Array,  # out [P] uint16, the blocks each pair reaches, where the tile had not stopped yet
    finals: Array,  # out [tiles, 2 * PIXELS], in block order: transmittance, stop position
) -> None:
    """Blend every tile over the background. `touched` and `finals` are for the way back."""
    height, width = alpha.shape
    for stripe in prange(STRIPES):
        planes = _aligned(5 * PIXELS)
        for tile in range(stripe, len(starts) - 1, STRIPES):
            left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
            right, bottom = min(left + TILE, width), min(top + TILE, height)
            planes[:] = 0.0
            planes[4 * PIXELS :] = -1.0
            for y in range(top, bottom):
                for x in range(left, right):
                    i = _entry(x - left, y - top)
                    planes[i] = 1.0
                    planes[4 * PIXELS + i] = NEVER
            corner: Corner = np.float32(left + 0.5), np.float32(top + 0.5)
            _blend_tile(pairs, starts[tile], starts[tile + 1], splats, corner, planes, touched)
            for i in range(PIXELS):
                planes[i] = abs(planes[i])
            finals[tile, :PIXELS] = planes[:PIXELS]
            finals[tile, PIXELS:] = planes[4 * PIXELS :]
            for y in range(top, bottom):
                for x in range(left, right):
                    i = _entry(x - left, y - top)
                    alpha[y, x] = np.float32(1.0) - planes[i]
                    for channel in range(3):
                        rgb[y, x, channel] = planes[(1 + channel) * PIXELS + i] + planes[i] * background[y, x, channel]


@njit(cache=True)
def _aligned(size: int) -> Array:
    """An empty float32 array [size] that starts on a cache line, so that no vector straddles two."""
    array = np.empty(size + 16, np.float32)
    start = (-array.ctypes.data // 4) % 16
    return array[start : start + size]


@njit(cache=True, inline="always")
def _entry(x: int, y: int) -> int:
    """Index in block order of a tile's pixel."""
    return (y // BLOCK * BLOCK + x // BLOCK) * 16 + y % BLOCK * BLOCK + x % BLOCK


@njit(cache=True)
def _blend_tile_backward(
    pairs: Array,
    first: int,
    last: int,
    splats: Array,
    corner: Corner,
    planes: Array,
    ends: Array,
    touched: Array,
    records: Array,
) -> None:
    """Write the records of pairs[first:last], back to front, from planes [6 * PIXELS] and ends [16].

    The planes: transmittance and stop position as the forward pass left them; d loss / d R, G, B; and `behind`,
    the derivative of the loss by a scale of all that lies behind, on entry the background. ends: the last stop
    position of each block.
    """
    for i in range(last - 1, first - 1, -1):
        g, record = pairs[i, 0], pairs[i, 1]
        position = np.float32(i - first)
        l11, l21, l22, reach = splats[g, L11], splats[g, L21], splats[g, L22], splats[g, REACH]
        opacity, red, green, blue = splats[g, OPACITY], splats[g, RED], splats[g, GREEN], splats[g, BLUE]
        dx0, dy0 = corner[0] - splats[g, MEAN_X], corner[1] - splats[g, MEAN_Y]
        blocks = lane_bits(load(ends, 0) > position)
        if blocks:  # else the forward pass may not have got here
            blocks &= int(touched[i])
        zero = load(_LANE_X, 0) * 0.0
        v, vx, vy, vxx, vxy, vyy, vr, vg, vb = zero, zero, zero, zero, zero, zero, zero, zero, zero
        while blocks:
            block = lowest_bit(blocks)
            blocks &= blocks - 1
            at = 16 * block
            dx, dy = load(_PIXEL_X, at) + dx0, load(_PIXEL_Y, at) + dy0
            t = _eighth_of_sigma(dx, dy, l11, l21, l22)
            blends = (t <= reach) & (load(planes, PIXELS + at) > position)
            raw = _exp_minus_8(t) * opacity
            alpha = minimum(raw, MAX_ALPHA)
            grow = select(blends, 1.0 / (1.0 - alpha), 1.0)
            after, behind = load(planes, at), load(planes, at + 5 * PIXELS)
            before = after * grow
            grad_r, grad_g, grad_b = (
                load(planes, at + 2 * PIXELS),
                load(planes, at + 3 * PIXELS),
                load(planes, at + 4 * PIXELS),
            )
            shade = fma(grad_r, red, fma(grad_g, green, grad_b * blue))
            weight = select(blends, alpha * before, 0.0)
            store(planes, at, before)
            store(planes, at + 5 * PIXELS, fma(weight, shade, behind))
            grad_alpha = before * shade - behind * grow
            d = select(blends & (raw <= MAX_ALPHA), alpha * grad_alpha, 0.0) * -1.0
            ddx, ddy = d * dx, d * dy
            v, vx, vy = v + d, vx + ddx, vy + ddy
            vxx, vxy, vyy = fma(ddx, dx, vxx), fma(ddx, dy, vxy), fma(ddy, dy, vyy)
            vr, vg, vb = fma(weight, grad_r, vr), fma(weight, grad_g, vg), fma(weight, grad_b, vb)
        store(records, record * RECORD, lane_sums((v, vx, vy, vxx, vxy, vyy, vr, vg, vb)))


@njit(cache=True, parallel=True)
def blend_backward(
    pairs: Array,
    starts: Array,
    splats: Array,
    background: Array,
    tiles_x: int,
    touched: Array,
    finals: Array,
    grad_rgb: Array,  # [H, W, 3]
    grad_alpha: Array,  # [H, W]
    records: Array,  # out [P * RECORD]
) -> None:
    """Write each pair's record.

    Over the pixels of the tile, with v = d loss / d sigma and (dx, dy) from the mean to the pixel, it holds the sums
    of v, v dx, v dy, v dx^2, v dx dy, v dy^2, and d loss / d R, G, B.
    """
    height, width = grad_alpha.shape
    for stripe in prange(STRIPES):
        planes, ends = _aligned(6 * PIXELS), np.empty(16, np.float32)
        for tile in range(stripe, len(starts) - 1, STRIPES):
            left, top = tile % tiles_x * TILE, tile // tiles_x * TILE
            planes[: 2 * PIXELS] = finals[tile]
            planes[2 * PIXELS :] = 0.0
            ends[:] = -1.0
            for i in range(PIXELS):
                ends[i // 16] = max(ends[i // 16], planes[PIXELS + i])
            for y in range(top, min(top + TILE, height)):
                for x in range(left, min(left + TILE, width)):
                    i = _entry(x - left, y - top)
                    shade = -grad_alpha[y, x]
                    for channel in range(3):
                        planes[(2 + channel) * PIXELS + i] = grad_rgb[y, x, channel]
                        shade += grad_rgb[y, x, channel] * background[y, x, channel]
                    planes[5 * PIXELS + i] = shade * planes[i]
            corner: Corner = np.float32(left + 0.5), np.float32(top + 0.5)
            _blend_tile_backward(pairs, starts[tile], starts[tile + 1], splats, corner, planes, ends, touched, records)
