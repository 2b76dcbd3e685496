"""From Gaussians to splats, their footprints in a picture, and the chain rule back: Numba kernels, in float64.

EWA splatting (Zwicker et al. 2002) with gsplat 1.5's conventions: the Jacobian's tangent-plane point is clamped,
0.3 square pixels are added to the covariance, and a footprint ends where its alpha falls below 1/255.
"""

import math

import numpy as np
from numba import njit, prange

from flexavatar_cli.core.gaussians import TINY

TILE = 16  # pixels along a tile's side
NEAR, FAR = 0.01, 1e10  # metres, gsplat's defaults
DILATION = 0.3  # square pixels, so that no splat is thinner than a pixel
ALPHA_CUT = 1 / 255  # below this a splat cannot change an 8-bit pixel

# A splat's record. With (dx, dy) from its mean to a pixel, (l11 dx + l21 dy)^2 + (l22 dy)^2 is an eighth of sigma,
# the exponent of the Gaussian: a Cholesky factor, as its sum of squares is never negative. REACH is that eighth at
# the 1/255 contour. For given dx, sigma is smallest at dy = RIDGE_Y dx; for given dy, at dx = RIDGE_X dy.
MEAN_X, MEAN_Y, L11, L21, L22, REACH, RIDGE_X, RIDGE_Y, OPACITY, RED, GREEN, BLUE = range(12)
SPLAT = 12  # float32 numbers per splat
RUNS = 64  # parallel work items: runs of Gaussians
RECORD = 16  # float32 numbers per gradient record: 6 moments, 3 colours, padded to one vector

Array = np.ndarray
Arrays = tuple[Array, ...]  # positions [N, 3], quats [N, 4], scales [N, 3], opacities, colors
Lens = tuple[float, float, float, float, float, float, float, float]  # fx, fy, cx, cy, then bounds of x/z and y/z
Row = tuple[float, float, float]
Rows = tuple[Row, Row, Row]


@njit(cache=True)
def _rotation(w: float, x: float, y: float, z: float) -> Rows:
    """Rows of the rotation of a quaternion of any norm; the zero quaternion does not turn."""
    largest = max(abs(w), abs(x), abs(y), abs(z))
    if 0.0 < largest < TINY:  # squares in float32 would vanish
        w, x, y, z = w / largest, x / largest, y / largest, z / largest
    norm = w * w + x * x + y * y + z * z
    k = 2.0 / norm if norm > 0.0 else 0.0
    return (
        (1.0 - k * (y * y + z * z), k * (x * y - w * z), k * (x * z + w * y)),
        (k * (x * y + w * z), 1.0 - k * (x * x + z * z), k * (y * z - w * x)),
        (k * (x * z - w * y), k * (y * z + w * x), 1.0 - k * (x * x + y * y)),
    )


@njit(cache=True)
def _times(a: Row, matrix: Rows) -> Row:
    """Row vector a [3] times rows `matrix` [3, 3]."""
    p, q, r = matrix
    return (
        a[0] * p[0] + a[1] * q[0] + a[2] * r[0],
        a[0] * p[1] + a[1] * q[1] + a[2] * r[1],
        a[0] * p[2] + a[1] * q[2] + a[2] * r[2],
    )


@njit(cache=True)
def _dot(a: Row, b: Row) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True)
def _cross(a: Row, b: Row) -> Row:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@njit(cache=True)
def _tangent_rows(point: Row, view: Rows, lens: Lens) -> tuple[Row, Row, float, float]:
    """Rows of J W [2, 3], the pinhole's derivative at the clamped point times the view's rotation; clamped x/z, y/z."""
    fx, fy, _, _, left, right, top, bottom = lens
    u = min(max(point[0] / point[2], left), right)
    v = min(max(point[1] / point[2], top), bottom)
    sx, sy = fx / point[2], fy / point[2]
    a, b, c = view
    row_x = (sx * (a[0] - u * c[0]), sx * (a[1] - u * c[1]), sx * (a[2] - u * c[2]))
    row_y = (sy * (b[0] - v * c[0]), sy * (b[1] - v * c[1]), sy * (b[2] - v * c[2]))
    return row_x, row_y, u, v


@njit(cache=True)
def _inverse_covariance(h: Row, k: Row) -> tuple[float, float, float, float, float]:
    """The conic (a, b, c) of the covariance H H^T + dilation with rows h, k of H, and its diagonal.

    The determinant is |h x k|^2 + ...: a sum of squares, exact however thin the splat.
    """
    hh, kk, hk = _dot(h, h), _dot(k, k), _dot(h, k)
    n = _cross(h, k)
    det = _dot(n, n) + DILATION * (hh + kk) + DILATION * DILATION
    xx, yy = hh + DILATION, kk + DILATION
    return yy / det, -hk / det, xx / det, xx, yy


@njit(cache=True)
def _camera_point(positions: Array, g: int, pose: Array) -> tuple[Rows, Row]:
    """Rows of the view's rotation, and Gaussian g in camera space."""
    a, b, c = (
        (pose[0, 0], pose[0, 1], pose[0, 2]),
        (pose[1, 0], pose[1, 1], pose[1, 2]),
        (pose[2, 0], pose[2, 1], pose[2, 2]),
    )
    p = (float(positions[g, 0]), float(positions[g, 1]), float(positions[g, 2]))
    return (a, b, c), (_dot(a, p) + pose[0, 3], _dot(b, p) + pose[1, 3], _dot(c, p) + pose[2, 3])


@njit(cache=True, nogil=True, parallel=True)
def project(
    gaussians: Arrays,
    pose: Array,  # [3, 4] float64 world-to-camera
    lens: Lens,
    width: int,
    height: int,
    splats: Array,  # out [N, SPLAT] float32
    depths: Array,  # out [N] float32 metres
    rects: Array,  # out [N, 4] int32, the tiles reached: x0, x1, y0, y1, ends exclusive
) -> None:
    """Where each Gaussian is in the picture. One that is not in it gets an empty rectangle and no splat."""
    for run in prange(RUNS):
        first, last = run * len(rects) // RUNS, (run + 1) * len(rects) // RUNS
        _project_run(first, last, gaussians, pose, lens, width, height, splats, depths, rects)


@njit(cache=True)
def _project_run(
    first: int,
    last: int,
    gaussians: Arrays,
    pose: Array,
    lens: Lens,
    width: int,
    height: int,
    splats: Array,
    depths: Array,
    rects: Array,
) -> None:
    positions, quats, scales, opacities, colors = gaussians
    for g in range(first, last):
        view, point = _camera_point(positions, g, pose)
        opacity = float(opacities[g])
        rects[g, 0] = rects[g, 1] = rects[g, 2] = rects[g, 3] = 0
        if point[2] < NEAR or point[2] > FAR or opacity < ALPHA_CUT:
            continue
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
            continue
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
    gaussians: Arrays,
    pose: Array,
    lens: Lens,
    offsets: Array,  # [N + 1] first record of each Gaussian
    records: Array,  # [P * RECORD]
    grads: Arrays,  # in and out, float32, the shapes of `gaussians`
) -> None:
    """Add to `grads` the gradient of each Gaussian, summed over its records in their order."""
    count = len(offsets) - 1
    for run in prange(RUNS):
        first, last = run * count // RUNS, (run + 1) * count // RUNS
        _project_run_backward(first, last, gaussians, pose, lens, offsets, records, grads)


@njit(cache=True)
def _project_run_backward(
    first: int, last: int, gaussians: Arrays, pose: Array, lens: Lens, offsets: Array, records: Array, grads: Arrays
) -> None:
    positions, quats, scales, opacities, _ = gaussians
    grad_positions, grad_quats, grad_scales, grad_opacities, grad_colors = grads
    for g in range(first, last):
        start, end = offsets[g] * RECORD, offsets[g + 1] * RECORD
        if start == end:
            continue
        v, vx, vy, vxx, vxy, vyy, red, green, blue = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(start, end, RECORD):
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
def _add_quaternion_gradient(
    grad_quats: Array,
    g: int,
    w: float,
    x: float,
    y: float,
    z: float,
    row_x: Row,
    row_y: Row,
    grad_p: Row,
    grad_q: Row,
) -> None:
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
