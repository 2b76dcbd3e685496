"""Identity shapes: heads sampled from the sources, and their principal components."""

from dataclasses import dataclass

import numpy as np

from flexavatar_cli.training.head_model.ict import SourceHead

COMPONENTS = 64
# How much an error matters in the components' metric, by chart; the rest counts as hardly visible.
VISIBLE = {"face": 1.0, "back": 0.7, "bust": 0.25, "ear_rim_left": 0.7, "ear_rim_right": 0.7}
HIDDEN = 0.1


@dataclass(frozen=True)
class IdentityModel:
    """mean + sum_k c_k basis_k with c ~ N(0, 1)."""

    mean: np.ndarray  # [V, 3] metres
    basis: np.ndarray  # [K, V, 3]
    explained: np.ndarray  # [K] share of the visible variance explained up to each component
    weight: np.ndarray  # [V] metric of the components

    def coefficients(self, heads: np.ndarray) -> np.ndarray:
        """Least squares coefficients [n, K] of heads [n, V, 3]."""
        scale = np.sqrt(self.weight)[:, None]
        columns = (self.basis * scale).reshape(len(self.basis), -1).T
        values = ((heads - self.mean) * scale).reshape(len(heads), -1)
        return np.linalg.solve(columns.T @ columns, columns.T @ values.T).T

    def rebuild(self, coefficients: np.ndarray) -> np.ndarray:
        """Heads [n, V, 3] of coefficients [n, K]."""
        return self.mean + np.tensordot(coefficients, self.basis, 1)


def sample_ict(head: SourceHead, count: int, generator: np.random.Generator) -> np.ndarray:
    """Random ICT identities [count, V, 3] metres, coefficients N(0, 1) cut at 2.5, in opposite pairs."""
    half = np.clip(generator.standard_normal(((count + 1) // 2, len(head.identity))), -2.5, 2.5)
    coefficients = np.concatenate([half, -half])[generator.permutation(2 * len(half))[:count]]
    return head.mean + np.tensordot(coefficients, head.identity, 1)


def visible_weight(head: SourceHead) -> np.ndarray:
    """Metric [V]: area around each vertex times how visible its chart is, mean 1."""
    triangle = head.mean[head.faces]
    area = np.linalg.norm(np.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0]), axis=1)
    visible = np.array([VISIBLE.get(name, HIDDEN) for name in head.chart_names])[head.face_chart]
    weight = np.zeros(len(head.mean))
    np.add.at(weight, head.faces.reshape(-1), np.repeat(area * visible, 3))
    return weight / weight.mean()


def principal_components(heads: np.ndarray, weight: np.ndarray, components: int = COMPONENTS) -> IdentityModel:
    """Components of heads [n, V, 3] in the metric `weight` [V], scaled so that their coefficients have deviation 1."""
    mean = heads.mean(0)
    centred = (heads - mean).reshape(len(heads), -1).astype(np.float64)
    scaled = centred * np.repeat(np.sqrt(weight), 3)
    values, vectors = np.linalg.eigh(scaled @ scaled.T)
    order = np.argsort(values)[::-1][:components]
    vectors = vectors[:, order] * np.sqrt(len(heads) - 1)  # unit deviation of the scores over the samples
    basis = (vectors.T @ centred) / (len(heads) - 1)
    explained = np.cumsum(values[order]) / values.sum()
    sign = np.where(basis.reshape(len(basis), -1).sum(1) < 0, -1.0, 1.0)  # a stable choice between runs
    return IdentityModel(mean, (basis * sign[:, None]).reshape(-1, *mean.shape), explained, weight)
