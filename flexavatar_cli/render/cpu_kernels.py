"""Numba kernels of the CPU rasteriser: project, sort, bin, blend, and the way back.

A picture is cut into tiles of 16x16 pixels, a tile into 16 blocks of 4x4, and a block is one vector (`simd`).
For every splat of a tile, one vector operation finds the blocks its 1/255 contour touches, then each touched
block is blended unconditionally. Per-tile state is a handful of float32 planes in block order.

The way back walks each tile's splats in reverse, and writes one record of moments per (splat, tile) pair; a
second kernel sums the records of each Gaussian in a fixed order and applies the chain rule of the projection.
No kernel uses atomics, so results do not depend on the number of threads.

The projection and its chain rule calculate in float64, where it is cheap; everything per pixel is float32.
Conventions follow gsplat 1.5 (`rasterize_mode="classic"`).
"""

import math

import numpy as np
from numba import njit, prange

from flexavatar_cli.render.simd import (
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
)

TILE = 16  # pixels along a tile's side
BLOCK = 4  # pixels along a block's side; 4x4 pixels fill one vector, 4x4 blocks fill one tile
PIXELS = TILE * TILE

NEAR, FAR = 0.01, 1e10  # metres, gsplat's defaults
DILATION = 0.3  # square pixels added to the 2-D covariance, so that no splat is thinner than a pixel
MAX_ALPHA = np.float32(0.999)
ALPHA_CUT = 1 / 255  # below this a splat cannot change an 8-bit pixel
MIN_TRANSMITTANCE = np.float32(1e-4)  # a pixel stops before the splat that would reach this
NEVER = np.float32(1e9)  # a pixel's stop position if nothing stops it

# A splat's record. With (dx, dy) from its mean to a pixel, (l11 dx + l21 dy)^2 + (l22 dy)^2 is an eighth of
# sigma, the exponent of the Gaussian: a Cholesky factor, as its sum of squares never goes negative.
MEAN_X, MEAN_Y, L11, L21, L22, REACH, RIDGE_X, RIDGE_Y, OPACITY, RED, GREEN, BLUE = range(12)
SPLAT = 12
RECORD = 16  # floats per (splat, tile) gradient record: 6 moments, 3 colours, padded to one vector

STRIPES = 64  # parallel work items of a picture; stripe s has the tiles s, s + 64, ..., so that all cost the same
BATCH = 64  # splats of a tile looked at together before they are blended
CHUNKS = 16  # parallel work items of binning: consecutive runs of the depth order

_LANE_X = np.array([i % BLOCK for i in range(16)], np.float32)
_LANE_Y = np.array([i // BLOCK for i in range(16)], np.float32)
_BLOCK_X, _BLOCK_Y = _LANE_X * BLOCK, _LANE_Y * BLOCK
_PIXEL_X, _PIXEL_Y = (np.add.outer(b, a).ravel() for b, a in ((_BLOCK_X, _LANE_X), (_BLOCK_Y, _LANE_Y)))


# ---------------------------------------------------------------------------------------------- projection


@njit(cache=True)
def _rotation(w, x, y, z):
    """Rows of the rotation of a quaternion of any norm; the zero quaternion does not turn."""
    norm = w * w + x * x + y * y + z * z
    k = 2.0 / norm if norm > 0.0 else 0.0
    return (
        (1.0 - k * (y * y + z * z), k * (x * y - w * z), k * (x * z + w * y)),
        (k * (x * y + w * z), 1.0 - k * (x * x + z * z), k * (y * z - w * x)),
        (k * (x * z - w * y), k * (y * z + w * x), 1.0 - k * (x * x + y * y)),
    )


@njit(cache=True)
def _times(a, matrix):
    """Row vector a [3] times rows `matrix` [3, 3]."""
    p, q, r = matrix
    return (
        a[0] * p[0] + a[1] * q[0] + a[2] * r[0],
        a[0] * p[1] + a[1] * q[1] + a[2] * r[1],
        a[0] * p[2] + a[1] * q[2] + a[2] * r[2],
    )


@njit(cache=True)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@njit(cache=True)
def _tangent_rows(point, view, lens):
    """Rows [2, 3] of J W: the pinhole's derivative at the (clamped) point, times the view's rotation."""
    fx, fy, _, _, left, right, top, bottom = lens
    u = min(max(point[0] / point[2], left), right)
    v = min(max(point[1] / point[2], top), bottom)
    sx, sy = fx / point[2], fy / point[2]
    a, b, c = view
    row_x = (sx * (a[0] - u * c[0]), sx * (a[1] - u * c[1]), sx * (a[2] - u * c[2]))
    row_y = (sy * (b[0] - v * c[0]), sy * (b[1] - v * c[1]), sy * (b[2] - v * c[2]))
    return row_x, row_y, u, v


@njit(cache=True)
def _inverse_covariance(h, k):
    """The conic (a, b, c) of the covariance H H^T + dilation with rows h, k of H, and the covariance itself.

    The determinant is |h x k|^2 + ...: a sum of squares, exact however thin the splat.
    """
    hh, kk, hk = _dot(h, h), _dot(k, k), _dot(h, k)
    n = _cross(h, k)
    det = _dot(n, n) + DILATION * (hh + kk) + DILATION * DILATION
    xx, yy = hh + DILATION, kk + DILATION
    return yy / det, -hk / det, xx / det, xx, yy


@njit(cache=True)
def _camera_point(positions, g, pose):
    """Rows of the view's rotation, and Gaussian g in camera space."""
    a, b, c = (
        (pose[0, 0], pose[0, 1], pose[0, 2]),
        (pose[1, 0], pose[1, 1], pose[1, 2]),
        (pose[2, 0], pose[2, 1], pose[2, 2]),
    )
    p = (float(positions[g, 0]), float(positions[g, 1]), float(positions[g, 2]))
    return (a, b, c), (_dot(a, p) + pose[0, 3], _dot(b, p) + pose[1, 3], _dot(c, p) + pose[2, 3])


@njit(cache=True, parallel=True)
def project(positions, quats, scales, opacities, colors, pose, lens, width, height, splats, depths, rects):
    """Fill splats [N, SPLAT], depths [N] and rects [N, 4]: the tiles (x0, x1, y0, y1; ends exclusive) reached.

    pose [3, 4] float64 is world-to-camera; lens = fx, fy, cx, cy and the clamps (left, right, top, bottom) of the
    tangent-plane point. A Gaussian that is not in the picture gets an empty rectangle and an undefined splat.
    """
    for g in prange(len(positions)):
        _project_one(
            g, positions, quats, scales, opacities, colors, pose, lens, width, height, splats, depths, rects
        )  # fmt: skip


@njit(cache=True)
def _project_one(
    g, positions, quats, scales, opacities, colors, pose, lens, width, height, splats, depths, rects
):  # fmt: skip
    """One Gaussian of `project`."""
    view, point = _camera_point(positions, g, pose)
    opacity = float(opacities[g])
    rects[g, 0] = rects[g, 1] = rects[g, 2] = rects[g, 3] = 0
    if point[2] < NEAR or point[2] > FAR or opacity < ALPHA_CUT:
        return
    row_x, row_y, _, _ = _tangent_rows(point, view, lens)
    rotation = _rotation(float(quats[g, 0]), float(quats[g, 1]), float(quats[g, 2]), float(quats[g, 3]))
    p, q = _times(row_x, rotation), _times(row_y, rotation)
    s0, s1, s2 = float(scales[g, 0]), float(scales[g, 1]), float(scales[g, 2])
    a, b, c, xx, yy = _inverse_covariance((p[0] * s0, p[1] * s1, p[2] * s2), (q[0] * s0, q[1] * s1, q[2] * s2))

    sigma_cut = min(math.log(opacity / ALPHA_CUT), -math.log(ALPHA_CUT))
    mean_x = lens[0] * point[0] / point[2] + lens[2]
    mean_y = lens[1] * point[1] / point[2] + lens[3]
    # Pixels whose centres the contour's bounding box holds, with a margin for float32 rounding.
    reach_x, reach_y = math.sqrt(2.0 * sigma_cut * xx) + 0.01, math.sqrt(2.0 * sigma_cut * yy) + 0.01
    x0, x1 = max(math.ceil(mean_x - reach_x - 0.5), 0.0), min(math.floor(mean_x + reach_x - 0.5), width - 1.0)
    y0, y1 = max(math.ceil(mean_y - reach_y - 0.5), 0.0), min(math.floor(mean_y + reach_y - 0.5), height - 1.0)
    if not (x0 <= x1 and y0 <= y1):
        return
    rects[g, 0], rects[g, 1] = int(x0) // TILE, int(x1) // TILE + 1
    rects[g, 2], rects[g, 3] = int(y0) // TILE, int(y1) // TILE + 1
    depths[g] = point[2]
    splats[g, MEAN_X], splats[g, MEAN_Y] = mean_x, mean_y
    root = math.sqrt(a)
    splats[g, L11], splats[g, L21], splats[g, L22] = 0.25 * root, 0.25 * b / root, 0.25 / math.sqrt(yy)
    splats[g, REACH] = sigma_cut / 8.0
    splats[g, RIDGE_X], splats[g, RIDGE_Y] = -b / a, -b / c
    splats[g, OPACITY] = opacity
    splats[g, RED], splats[g, GREEN], splats[g, BLUE] = colors[g, 0], colors[g, 1], colors[g, 2]


@njit(cache=True, parallel=True)
def project_backward(
    positions, quats, scales, opacities, pose, lens, offsets, records,
    grad_positions, grad_quats, grad_scales, grad_opacities, grad_colors,
):  # fmt: skip
    """Add each Gaussian's gradient, summed over its records, to the five gradients (float32, shapes of the inputs).

    records [P * RECORD] hold, over the pixels of a tile, with v = d loss / d sigma and (dx, dy) from the mean:
    sums of v, v dx, v dy, v dx^2, v dx dy, v dy^2, and d loss / d colour. offsets [N + 1] tell whose is which.
    """
    for g in prange(len(positions)):
        _project_one_backward(
            g, positions, quats, scales, opacities, pose, lens, offsets, records,
            grad_positions, grad_quats, grad_scales, grad_opacities, grad_colors,
        )  # fmt: skip


@njit(cache=True)
def _project_one_backward(
    g, positions, quats, scales, opacities, pose, lens, offsets, records,
    grad_positions, grad_quats, grad_scales, grad_opacities, grad_colors,
):  # fmt: skip
    """One Gaussian of `project_backward`."""
    first, last = offsets[g], offsets[g + 1]
    if first == last:
        return
    v, vx, vy, vxx, vxy, vyy, red, green, blue = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(first * RECORD, last * RECORD, RECORD):
        v, vx, vy = v + records[i], vx + records[i + 1], vy + records[i + 2]
        vxx, vxy, vyy = vxx + records[i + 3], vxy + records[i + 4], vyy + records[i + 5]
        red, green, blue = red + records[i + 6], green + records[i + 7], blue + records[i + 8]
    grad_colors[g, 0] += red
    grad_colors[g, 1] += green
    grad_colors[g, 2] += blue
    grad_opacities[g] -= v / opacities[g]  # alpha = opacity exp(-sigma)

    view, point = _camera_point(positions, g, pose)
    x, y, z = point
    row_x, row_y, u, w = _tangent_rows(point, view, lens)
    q0, q1, q2, q3 = float(quats[g, 0]), float(quats[g, 1]), float(quats[g, 2]), float(quats[g, 3])
    rotation = _rotation(q0, q1, q2, q3)
    p, q = _times(row_x, rotation), _times(row_y, rotation)
    s = (float(scales[g, 0]), float(scales[g, 1]), float(scales[g, 2]))
    h, k = (p[0] * s[0], p[1] * s[1], p[2] * s[2]), (q[0] * s[0], q[1] * s[1], q[2] * s[2])
    a, b, c, _, _ = _inverse_covariance(h, k)

    # sigma = (a dx^2 + c dy^2) / 2 + b dx dy, and the inverse's rule: grad covariance = -C (grad conic) C.
    mean_x, mean_y = -(a * vx + b * vy), -(b * vx + c * vy)
    m00, m01, m11 = 0.5 * vxx, 0.5 * vxy, 0.5 * vyy
    t00, t01, t10, t11 = a * m00 + b * m01, a * m01 + b * m11, b * m00 + c * m01, b * m01 + c * m11
    cov_xx, cov_xy, cov_yy = -(t00 * a + t01 * b), -(t00 * b + t01 * c), -(t10 * b + t11 * c)

    # Covariance = H H^T, H = J W R S, with rows h, k and (before S) p, q.
    grad_h = (
        2.0 * (cov_xx * h[0] + cov_xy * k[0]),
        2.0 * (cov_xx * h[1] + cov_xy * k[1]),
        2.0 * (cov_xx * h[2] + cov_xy * k[2]),
    )
    grad_k = (
        2.0 * (cov_xy * h[0] + cov_yy * k[0]),
        2.0 * (cov_xy * h[1] + cov_yy * k[1]),
        2.0 * (cov_xy * h[2] + cov_yy * k[2]),
    )
    grad_p = (grad_h[0] * s[0], grad_h[1] * s[1], grad_h[2] * s[2])
    grad_q = (grad_k[0] * s[0], grad_k[1] * s[1], grad_k[2] * s[2])
    for j in range(3):
        grad_scales[g, j] += grad_h[j] * p[j] + grad_k[j] * q[j]

    _add_quaternion_gradient(grad_quats, g, q0, q1, q2, q3, row_x, row_y, grad_p, grad_q)

    # Rows of J W: row_x = fx / z (W0 - u W2), row_y = fy / z (W1 - w W2), (u, w) = clamped (x / z, y / z).
    r0, r1, r2 = rotation
    grad_row_x = (_dot(r0, grad_p), _dot(r1, grad_p), _dot(r2, grad_p))
    grad_row_y = (_dot(r0, grad_q), _dot(r1, grad_q), _dot(r2, grad_q))
    fx, fy = lens[0] / z, lens[1] / z
    grad_u, grad_w = -fx * _dot(grad_row_x, view[2]), -fy * _dot(grad_row_y, view[2])
    if u != x / z:
        grad_u = 0.0
    if w != y / z:
        grad_w = 0.0
    grad_u += lens[0] * mean_x
    grad_w += lens[1] * mean_y
    grad_z = -(_dot(grad_row_x, row_x) + _dot(grad_row_y, row_y) + grad_u * x / z + grad_w * y / z) / z
    grad_point = (grad_u / z, grad_w / z, grad_z)
    moved = _times(grad_point, view)
    for j in range(3):
        grad_positions[g, j] += moved[j]


@njit(cache=True)
def _add_quaternion_gradient(grad_quats, g, w, x, y, z, row_x, row_y, grad_p, grad_q):
    """Chain p = row_x R, q = row_y R back to the quaternion of any norm that R came from."""
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if norm == 0.0:
        return
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    # Gradient of R [i, j] = row_x[i] grad_p[j] + row_y[i] grad_q[j]
    m00, m01, m02 = (
        row_x[0] * grad_p[0] + row_y[0] * grad_q[0],
        row_x[0] * grad_p[1] + row_y[0] * grad_q[1],
        row_x[0] * grad_p[2] + row_y[0] * grad_q[2],
    )
    m10, m11, m12 = (
        row_x[1] * grad_p[0] + row_y[1] * grad_q[0],
        row_x[1] * grad_p[1] + row_y[1] * grad_q[1],
        row_x[1] * grad_p[2] + row_y[1] * grad_q[2],
    )
    m20, m21, m22 = (
        row_x[2] * grad_p[0] + row_y[2] * grad_q[0],
        row_x[2] * grad_p[1] + row_y[2] * grad_q[1],
        row_x[2] * grad_p[2] + row_y[2] * grad_q[2],
    )
    dw = 2.0 * (x * (m21 - m12) + y * (m02 - m20) + z * (m10 - m01))
    dx = 2.0 * (w * (m21 - m12) + y * (m01 + m10) + z * (m02 + m20) - 2.0 * x * (m11 + m22))
    dy = 2.0 * (w * (m02 - m20) + x * (m01 + m10) + z * (m12 + m21) - 2.0 * y * (m00 + m22))
    dz = 2.0 * (w * (m10 - m01) + x * (m02 + m20) + y * (m12 + m21) - 2.0 * z * (m00 + m11))
    radial = w * dw + x * dx + y * dy + z * dz
    grad_quats[g, 0] += (dw - w * radial) / norm
    grad_quats[g, 1] += (dx - x * radial) / norm
    grad_quats[g, 2] += (dy - y * radial) / norm
    grad_quats[g, 3] += (dz - z * radial) / norm


# ------------------------------------------------------------------------------------------ sort and bin


@njit(cache=True)
def order_by_depth(rects, depths, offsets):
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


@njit(cache=True, parallel=True)
def bin_tiles(order, rects, offsets, tiles_x, tiles_y, pairs, starts):
    """Fill pairs [P, 2] (Gaussian, its record) and starts [tiles + 1]: each tile's splats, nearest first."""
    tiles = tiles_x * tiles_y
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


# ------------------------------------------------------------------------------------------------- blend


@njit(cache=True, inline="always")
def _eighth_of_sigma(dx, dy, l11, l21, l22):
    u, v = fma(dx, l11, dy * l21), dy * l22
    return fma(u, u, v * v)


@njit(cache=True, inline="always")
def _exp_minus_8(t):
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
def _clamp(x, low, high):
    return minimum(maximum(x, low), high)


@njit(cache=True, inline="always")
def _touched_blocks(splats, g, left, top):
    """Bits of the tile's blocks that may hold a pixel within the contour; the tile's first pixel is at (left, top).

    The smallest sigma over a rectangle lies on one of the two sides facing the mean, at the foot of the
    Gaussian's ridge clamped to the side (as in StopThePop, Radl et al. 2024, section 4).
    """
    l11, l21, l22, reach = splats[g, L11], splats[g, L21], splats[g, L22], splats[g, REACH]
    x0, y0 = load(_BLOCK_X, 0) + (left - splats[g, MEAN_X]), load(_BLOCK_Y, 0) + (top - splats[g, MEAN_Y])
    x1, y1 = x0 + (BLOCK - 1.0), y0 + (BLOCK - 1.0)
    side_x, side_y = _clamp(x0 * 0.0, x0, x1), _clamp(y0 * 0.0, y0, y1)
    t = _eighth_of_sigma(side_x, _clamp(side_x * splats[g, RIDGE_Y], y0, y1), l11, l21, l22)
    s = _eighth_of_sigma(_clamp(side_y * splats[g, RIDGE_X], x0, x1), side_y, l11, l21, l22)
    return lane_bits(minimum(s, t) <= reach * np.float32(1.001) + np.float32(1e-3))


@njit(cache=True)
def _blend_tile(pairs, first, last, splats, left, top, planes, touched):
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
            touched[i] = _touched_blocks(splats, pairs[i, 0], left, top)
        for i in range(start, end):
            g = pairs[i, 0]
            l11, l21, l22, reach = splats[g, L11], splats[g, L21], splats[g, L22], splats[g, REACH]
            opacity, red, green, blue = splats[g, OPACITY], splats[g, RED], splats[g, GREEN], splats[g, BLUE]
            dx0, dy0 = left - splats[g, MEAN_X], top - splats[g, MEAN_Y]
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


@njit(cache=True, parallel=True)
def blend(pairs, starts, splats, background, tiles_x, rgb, alpha, touched, finals):
    """Blend every tile over `background` [H, W, 3] into rgb [H, W, 3] and alpha [H, W].

    Kept for the way back: finals [tiles, 2 * PIXELS], in block order, transmittance and stop position, and
    touched [P] uint16, the blocks that each pair reaches (where a pixel of the tile had not stopped yet).
    """
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
            x, y = np.float32(left + 0.5), np.float32(top + 0.5)
            _blend_tile(pairs, starts[tile], starts[tile + 1], splats, x, y, planes, touched)
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
def _aligned(size):
    """An empty float32 array [size] that starts on a cache line, so that no vector straddles two."""
    array = np.empty(size + 16, np.float32)
    start = (-array.ctypes.data // 4) % 16
    return array[start : start + size]


@njit(cache=True, inline="always")
def _entry(x, y):
    """Index in block order of a tile's pixel."""
    return (y // BLOCK * BLOCK + x // BLOCK) * 16 + y % BLOCK * BLOCK + x % BLOCK


@njit(cache=True)
def _blend_tile_backward(pairs, first, last, splats, left, top, planes, ends, touched, records):
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
        dx0, dy0 = left - splats[g, MEAN_X], top - splats[g, MEAN_Y]
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
def blend_backward(pairs, starts, splats, background, tiles_x, touched, finals, grad_rgb, grad_alpha, records):
    """Fill records [P * RECORD] (see `project_backward`) from grad_rgb [H, W, 3] and grad_alpha [H, W]."""
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
            x, y = np.float32(left + 0.5), np.float32(top + 0.5)
            _blend_tile_backward(pairs, starts[tile], starts[tile + 1], splats, x, y, planes, ends, touched, records)
