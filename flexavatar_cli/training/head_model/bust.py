"""Shoulders and chest: a skirt from the open lower border of the ICT bust down to a rounded base."""

from dataclasses import replace

import numpy as np

from flexavatar_cli.training.head_model.ict import SourceHead

BASE_Y = -0.27  # metres; pictures framed 34 cm wide end above it
HALF_WIDTH, FRONT, BACK = 0.205, 0.094, -0.120  # base contour
ROWS = 9


def with_bust(head: SourceHead) -> SourceHead:
    """The head with its lower border continued; new wedges join the chart "bust", new vertices follow the border.

    Each column is a cubic Hermite curve that leaves along the surface and ends straight down.
    """
    columns = _border_wedges(head)  # [C] wedges from one side of the chart's cut to the other; ends share a vertex
    loop = head.vertex[columns[:-1]]
    start = head.mean[loop]
    leave = _outward(head, loop)
    base = _base_contour(start)
    side = np.abs(base[:, 0]) / HALF_WIDTH
    reach = np.linalg.norm(base - start, axis=1, keepdims=True)
    t = np.linspace(0, 1, ROWS + 1)[1:, None, None]
    down = np.array([0.0, -1.0, 0.0])
    tangent0, tangent1 = leave * reach * (0.8 + 0.75 * side[:, None]), down * reach * (0.8 + 0.6 * side[:, None])
    rows = (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * tangent0
        + (3 * t**2 - 2 * t**3) * base
        + (t**3 - t**2) * tangent1
    )  # [ROWS, L, 3]
    count, length = len(head.mean), len(loop)
    new_vertex = count + np.arange(ROWS * length).reshape(ROWS, length)
    vertex_rows = np.concatenate([loop[None], new_vertex])
    vertex_rows = np.concatenate([vertex_rows, vertex_rows[:, :1]], 1)  # [ROWS + 1, L + 1]
    new_wedge = len(head.vertex) + np.arange(ROWS * (length + 1)).reshape(ROWS, length + 1)
    wedge_rows = np.concatenate([columns[None], new_wedge])
    a, b, c, d = wedge_rows[:-1, :-1], wedge_rows[:-1, 1:], wedge_rows[1:, :-1], wedge_rows[1:, 1:]
    triangles = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    chart = head.chart_names.index("bust")
    wedges = ROWS * (length + 1)
    grown = replace(
        head,
        mean=np.concatenate([head.mean, rows.reshape(-1, 3)]),
        identity=np.concatenate([head.identity, _followed(head.identity, loop)], 1),
        expression=np.concatenate([head.expression, _followed(head.expression, loop)], 1),
        wedges=np.concatenate([head.wedges, triangles]),
        vertex=np.concatenate([head.vertex, vertex_rows[1:].reshape(-1)]),
        chart=np.concatenate([head.chart, np.full(wedges, chart)]),
        tile=np.concatenate([head.tile, np.full(wedges, -1)]),
        tile_uv=np.concatenate([head.tile_uv, np.zeros((wedges, 2))]),
        source_face=np.concatenate([head.source_face, np.full(len(triangles), -1)]),
        vertex_part=np.concatenate([head.vertex_part, np.full(ROWS * length, -1)]),
    )
    return _facing_out(grown, len(triangles))


def _facing_out(head: SourceHead, added: int) -> SourceHead:
    triangle = head.mean[head.faces[-added:]]
    normal = np.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0])
    outward = triangle.mean(1) - np.array([0.0, -0.25, -0.015])
    if (normal * outward).sum() > 0:
        return head
    wedges = head.wedges.copy()
    wedges[-added:] = wedges[-added:, ::-1]
    return replace(head, wedges=wedges)


def _border_wedges(head: SourceHead) -> np.ndarray:
    """The chart "bust"'s wedges along the border of the vertex mesh, in order, from cut to cut."""
    faces, wedges = head.faces, head.wedges
    corners = [(0, 1), (1, 2), (2, 0)]
    edges = np.concatenate([faces[:, pair] for pair in corners])
    edge_wedges = np.concatenate([wedges[:, pair] for pair in corners])
    _, inverse, uses = np.unique(np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True)
    own = head.chart[edge_wedges[:, 0]] == head.chart_names.index("bust")
    low = head.mean[edges[:, 0], 1] < -0.12
    border = edge_wedges[(uses[inverse.reshape(-1)] == 1) & own & low]
    follow = {int(i): int(j) for i, j in border}
    first = set(follow) - set(follow.values())
    if len(first) != 1:
        raise ValueError(f"the bust chart must be cut once, its border has {len(first)} ends")
    path = [first.pop()]
    while path[-1] in follow:
        path.append(follow[path[-1]])
    return np.array(path)


def _outward(head: SourceHead, loop: np.ndarray) -> np.ndarray:
    """Unit directions [L, 3] in which the surface leaves its border, smoothed along the loop."""
    faces = head.faces
    direction = np.zeros((len(loop), 3))
    for row, vertex in enumerate(loop):
        ring = np.unique(faces[(faces == vertex).any(1)])
        inner = np.setdiff1d(ring, loop)
        direction[row] = head.mean[vertex] - head.mean[inner].mean(0) if len(inner) else 0
    for _ in range(4):
        direction = (np.roll(direction, 1, 0) + 2 * direction + np.roll(direction, -1, 0)) / 4
    return direction / np.linalg.norm(direction, axis=1, keepdims=True)


def _base_contour(start: np.ndarray) -> np.ndarray:
    """Points [L, 3] on the superellipse at BASE_Y, spread by the angle of the border points blended with even steps."""
    centre = np.array([0.0, -0.015])
    angle = np.unwrap(np.arctan2(start[:, 0] / 0.125, (start[:, 2] - centre[1]) / 0.075))
    even = angle[0] + np.sign(angle[-1] - angle[0]) * 2 * np.pi * np.arange(len(start)) / len(start)
    angle = 0.7 * angle + 0.3 * even
    power = 2 / 2.6
    x = HALF_WIDTH * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    depth = np.where(np.cos(angle) > 0, FRONT - centre[1], centre[1] - BACK)
    z = centre[1] + depth * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
    return np.stack([x, np.full(len(x), BASE_Y), z], -1)


def _followed(shapes: np.ndarray, loop: np.ndarray) -> np.ndarray:
    """Displacements [K, ROWS * L, 3] of the skirt: the border's, ever smoother along the loop further down."""
    row = shapes[:, loop]
    rows = []
    for index in range(ROWS):
        for _ in range(1 + 2 * index):
            row = (np.roll(row, 1, 1) + 2 * row + np.roll(row, -1, 1)) / 4
        rows.append(row)
    return np.stack(rows, 1).reshape(len(shapes), -1, 3)
