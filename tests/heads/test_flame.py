"""FLAME's equations against closed forms on synthetic files of its schema, and hostile files."""

import dataclasses
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.spatial.transform import Rotation

from flexavatar_cli.core.errors import WeightsError
from flexavatar_cli.heads import load_head
from flexavatar_cli.heads.flame import FlameHead, load_flame, save_flame
from flexavatar_cli.heads.flame_landmarks import Surface, similarity, with_landmarks


def arrays(count: int = 40, seed: int = 0) -> dict:
    """A random mesh in the names and axes of FLAME 2020."""
    draw = np.random.default_rng(seed)
    weights = draw.uniform(size=(count, 5))
    weights[:5] = np.eye(5)  # vertex j moves with joint j alone
    regressor = np.zeros((5, count))
    regressor[np.arange(5), np.arange(10, 15)] = 1  # joint j lies at vertex 10 + j
    return {
        "v_template": draw.standard_normal((count, 3)) / 10,
        "f": draw.integers(0, count, (70, 3)).astype(np.uint32),
        "shapedirs": draw.standard_normal((count, 3, 400)) / 100,
        "posedirs": draw.standard_normal((count, 3, 36)) / 100,
        "J_regressor": sparse.csc_matrix(regressor),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "bs_style": "lbs",
    }


def chumpy_pickle(path: Path, content: dict, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file as the published ones are written: some arrays inside chumpy objects, sparse regressor, protocol 2."""
    module = types.ModuleType("chumpy.ch")

    class Ch:
        def __init__(self, x):
            self.x = x

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    module.Ch = Ch
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    wrapped = {name: Ch(value) if name in ("v_template", "shapedirs") else value for name, value in content.items()}
    path.write_bytes(pickle.dumps(wrapped, protocol=2))
    monkeypatch.delitem(sys.modules, "chumpy.ch")
    monkeypatch.delitem(sys.modules, "chumpy")
    return path


@pytest.fixture
def small(tmp_path, monkeypatch) -> FlameHead:
    head = load_flame(chumpy_pickle(tmp_path / "generic_model.pkl", arrays(), monkeypatch))
    assert "chumpy" not in sys.modules
    return dataclasses.replace(head, **{  # float64: closed forms to 1e-12
        entry.name: getattr(head, entry.name).double() for entry in dataclasses.fields(head)
        if isinstance(getattr(head, entry.name), torch.Tensor) and getattr(head, entry.name).is_floating_point()
    })  # fmt: skip


def turned(**joints: list[float]) -> torch.Tensor:
    """Rotations [5, 3, 3] of root, neck, jaw, left, right by rotation vectors."""
    names = ("root", "neck", "jaw", "left", "right")
    return torch.from_numpy(np.stack([Rotation.from_rotvec(joints.get(name, [0, 0, 0])).as_matrix() for name in names]))


def test_a_pickle_and_an_npz_give_the_same_head(tmp_path, monkeypatch):
    content = arrays()
    pickled = load_flame(chumpy_pickle(tmp_path / "a.pkl", content, monkeypatch))
    content["J_regressor"] = content["J_regressor"].toarray()
    np.savez(tmp_path / "a.npz", **{name: value for name, value in content.items() if name != "bs_style"})
    assert load_flame(tmp_path / "a.npz").digest == pickled.digest
    assert (pickled.shapes, pickled.expressions, pickled.parents) == (300, 100, (-1, 0, 1, 1, 1))


def test_shapes_and_expressions_add_up(small):
    shape, expression = torch.randn(2, 10).double(), torch.randn(2, 100).double()
    wanted = small.template + torch.einsum("bk,kvc->bvc", shape, small.shape_basis[:10])
    wanted = wanted + torch.einsum("bk,kvc->bvc", expression, small.expression_basis)
    torch.testing.assert_close(small.vertices(shape, expression), wanted)


def test_joints_follow_the_shape_and_not_the_expression(small):
    shape = torch.randn(5).double()
    torch.testing.assert_close(small.joints(shape), small.rest(shape)[10:15])


def test_at_rest_nothing_moves(small):
    torch.testing.assert_close(small.vertices(rotations=turned()), small.template)


def test_the_root_turns_everything_rigidly(small):
    rotation = turned(root=[0.3, -0.5, 0.2])
    pivot = small.joints()[0]
    moved = small.vertices(rotations=rotation, translation=torch.tensor([1.0, 2, 3]).double())
    wanted = (small.template - pivot) @ rotation[0].T + pivot + torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(moved, wanted)  # correctives belong to the other joints


def test_the_jaw_turns_its_vertex_about_its_joint(small):
    plain = dataclasses.replace(small, pose_basis=torch.zeros_like(small.pose_basis))
    rotation = turned(neck=[0.1, 0.4, 0], jaw=[0.5, 0, 0.1])
    neck, jaw = small.joints()[1:3]
    vertex = small.template[2]
    inner = rotation[2] @ (vertex - jaw) + jaw
    torch.testing.assert_close(plain.vertices(rotations=rotation)[2], rotation[1] @ (inner - neck) + neck)
    torch.testing.assert_close(plain.vertices(rotations=rotation)[0], small.template[0])  # moves with the root


def test_an_eye_turns_about_its_own_centre(small):
    plain = dataclasses.replace(small, pose_basis=torch.zeros_like(small.pose_basis))
    rotation = turned(right=[0, 0.3, 0])
    centre = small.joints()[4]
    moved = plain.vertices(rotations=rotation)
    torch.testing.assert_close(moved[4], rotation[4] @ (small.template[4] - centre) + centre)
    torch.testing.assert_close(moved[3], small.template[3])


def test_blended_vertices_take_the_mean_of_the_transforms(small):
    plain = dataclasses.replace(small, pose_basis=torch.zeros_like(small.pose_basis))
    rotation = turned(jaw=[0.4, 0, 0])
    jaw, vertex, weight = small.joints()[2], small.template[20], small.skin_weights[20, 2]
    wanted = (1 - weight) * vertex + weight * (rotation[2] @ (vertex - jaw) + jaw)
    torch.testing.assert_close(plain.vertices(rotations=rotation)[20], wanted)


def test_pose_correctives_are_linear_in_the_rotation_matrices(small):
    still = dataclasses.replace(small, skin_weights=torch.eye(5)[torch.zeros(40).long()].double())  # all on the root
    rotation = turned(jaw=[0.4, 0.1, 0])
    corrective = ((rotation[2] - torch.eye(3)).flatten()[:, None, None] * small.pose_basis[9:18]).sum(0)
    torch.testing.assert_close(still.vertices(rotations=rotation), small.template + corrective)


def test_transforms_chain_as_the_published_tracks_say(small):
    """SPEC 10.1: joint 2 turns by neck * jaw, joints 3 and 4 by neck * eye."""
    rotation = turned(neck=[0.1, 0.2, 0.3], jaw=[0.4, 0, 0], left=[0, 0.2, 0])
    transforms = small.transforms(rotation, small.joints())
    torch.testing.assert_close(transforms[2, :3, :3], rotation[1] @ rotation[2])
    torch.testing.assert_close(transforms[3, :3, :3], rotation[1] @ rotation[3])
    torch.testing.assert_close(transforms[0], torch.eye(4).double())


def test_leading_axes_broadcast(small):
    rotation = torch.stack([turned(), turned(jaw=[0.2, 0, 0]), turned(root=[0, 1, 0])])
    shape = torch.randn(3, 7).double()
    both = small.vertices(shape, None, rotation, torch.zeros(3, 3).double())
    for number in range(3):
        torch.testing.assert_close(both[number], small.vertices(shape[number], None, rotation[number]))


def test_landmarks_of_a_head_of_another_size_and_shape_are_found(flame):
    """FLAME is replaced by a scaled, shifted, different person on the open head's surface: landmarks land on theirs."""
    head = load_head()
    identity = torch.zeros(len(head.identity_basis))
    identity[:6] = torch.tensor([1.0, -0.8, 0.7, 0.5, -0.5, 0.6])
    person = head.vertices(identity, None)
    shift = torch.tensor([0.0, 0.03, -0.02])
    other = dataclasses.replace(flame, template=1.05 * person + shift)
    found, facts = with_landmarks(other, head)
    wanted = 1.05 * head.landmarks(person) + shift
    error = (found.landmarks(other.template) - wanted).norm(dim=-1)[found.landmark_used]
    assert facts["landmarks"] > 400
    assert error.mean() < 1.5e-3, "metres"


def test_closest_points_on_a_triangle():
    surface = Surface(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    found = surface.closest(np.array([[0.25, 0.25, 1], [0.5, -1, 0], [2, -1, 0], [1, 1, 0.0]]))
    np.testing.assert_allclose(found.points, [[0.25, 0.25, 0], [0.5, 0, 0], [1, 0, 0], [0.5, 0.5, 0]], atol=1e-12)
    np.testing.assert_allclose(found.bary.sum(1), 1)


def test_a_similarity_is_recovered():
    points = np.random.default_rng(0).standard_normal((20, 3))
    rotation = Rotation.from_rotvec([0.2, -0.4, 0.9]).as_matrix()
    scale, turn, shift = similarity(points, 1.7 * points @ rotation.T + [1, 2, 3])
    np.testing.assert_allclose(scale, 1.7)
    np.testing.assert_allclose(turn, rotation, atol=1e-12)
    np.testing.assert_allclose(shift, [1, 2, 3])


def test_saved_with_its_landmarks_it_comes_back(flame, tmp_path):
    again = load_flame(save_flame(flame, tmp_path / "flame.safetensors"))
    assert again.digest == flame.digest
    assert torch.equal(again.landmark_used, flame.landmark_used)
    assert again.parents == flame.parents


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_hostile_and_damaged_files_do_not_run_and_are_named(tmp_path, monkeypatch):
    path, mark = tmp_path / "generic_model.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps(arrays() | {"weights": Evil(mark)}, protocol=2))
    with pytest.raises(WeightsError, match=r"generic_model.pkl: not a FLAME file: .*system.*nothing was run"):
        load_flame(path)
    assert not mark.exists()
    cases = {
        "[]": pickle.dumps([1]),
        "truncated": pickle.dumps(arrays(), protocol=2)[:500],
        "empty": b"",
        "archive": b"PK\x03\x04 no",
        "tensors": b"\x10\0\0\0\0\0\0\0{",
    }
    for content in cases.values():
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"generic_model.pkl: not a FLAME file"):
            load_flame(path)
    np.savez(tmp_path / "objects.npz", v_template=np.array([Evil(mark)], object))
    with pytest.raises(WeightsError, match=r"objects\.npz"):
        load_flame(tmp_path / "objects.npz")
    assert not mark.exists()
    with pytest.raises(WeightsError, match="cannot be read"):
        load_flame(tmp_path / "none.pkl")


def test_other_models_are_refused_with_the_reason(tmp_path):
    content = arrays()
    content["J_regressor"] = content["J_regressor"].toarray()
    del content["bs_style"]
    changes = {
        "weights": (content["weights"][:, :4], "skin_weights must be"),
        "f": (content["f"] + 40, "outside"),
        "kintree_table": (content["kintree_table"][:, :4], "tree of 5"),
        "v_template": (content["v_template"] * np.nan, "not finite"),
        "posedirs": (None, "lacks 'posedirs'"),
    }
    for name, (value, reason) in changes.items():
        changed = {key: array for key, array in content.items() if key != name} | (
            {} if value is None else {name: value}
        )
        np.savez(tmp_path / "x.npz", **changed)
        with pytest.raises(WeightsError, match=f"x.npz.*{reason}"):
            load_flame(tmp_path / "x.npz")
