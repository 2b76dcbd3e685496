"""Weights into the network, strictly: our safetensors, or the published flat checkpoint (SPEC 3)."""

import logging
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flexavatar_cli.core.errors import InputError, WeightsError
from flexavatar_cli.core.files import digest_file
from flexavatar_cli.model.config import ModelCard, WeightsFile, read_card
from flexavatar_cli.model.network import AvatarModel
from flexavatar_cli.model.template import Template, template_from_obj
from flexavatar_cli.model.upsampler import fir

log = logging.getLogger(__name__)

# Published prefix -> ours (SPEC 3, 5.4). Each name passes through every rule once, in this order.
RELEASE_RULES = (
    (r"^_conv_patchify\.", "encoder.trunk.patchify."),
    (r"^_transformer_encoder\.transformer\.wpe\.", "encoder.trunk.positions."),
    (r"^_transformer_encoder\.transformer\.ln_f\.", "encoder.trunk.norm."),
    (r"^_transformer_encoder\.transformer\.h\.(\d+)\.", r"encoder.trunk.blocks.\1."),
    (r"\.ln_1\.", ".norm_attention."),
    (r"\.ln_2\.", ".norm_ff."),
    (r"\.attn\.c_attn\.", ".to_qkv."),
    (r"\.attn\.c_proj\.", ".out."),
    (r"\.mlp\.c_fc\.", ".ff.0."),
    (r"\.mlp\.c_proj\.", ".ff.2."),
    (r"^_feature_projection\.", "encoder.trunk.fuse."),
    (r"^_head_transformer\._query_point_embedder\.", "encoder.points."),
    (r"^_head_transformer\._transformer\.", "encoder.transformer."),
    (r"^_head_transformer\._expression_transformer\.", "decoder.transformer."),
    (r"\.linear_cond_proj\.", ".context_in."),
    (r"\.layers\.(\d+)\.", r".blocks.\1."),
    (r"\.norm1\.", ".norm_x."),
    (r"\.norm1_context\.", ".norm_context."),
    (r"\.attn\.to_(q|k|v)\.", r".x.to_\1."),
    (r"\.attn\.add_(q|k|v)_proj\.", r".context.to_\1."),
    (r"\.attn\.norm_(q|k)\.", r".x.norm_\1."),
    (r"\.attn\.norm_added_(q|k)\.", r".context.norm_\1."),
    (r"\.attn\.to_out\.0\.", ".out_x."),
    (r"\.attn\.to_add_out\.", ".out_context."),
    (r"\.ff\.net\.0\.proj\.", ".ff_x.0."),
    (r"\.ff\.net\.2\.", ".ff_x.2."),
    (r"\.ff_context\.net\.0\.proj\.", ".ff_context.0."),
    (r"\.ff_context\.net\.2\.", ".ff_context.2."),
    (r"^_head_transformer\._expression_mlp\.0\.", "decoder.expression.0."),
    (r"^_head_transformer\._expression_mlp\.3\.", "decoder.expression.2."),
    (r"^_head_transformer\._expression_mlp\.6\.", "decoder.expression.4."),
    (r"^_head_transformer\._dataset_embedding\.", "decoder.sinks."),
    (r"^_gaussian_decoder\._stylegan_upsampler\.blocks\.", "decoder.upsampler.blocks."),
    (r"\.torgb\.", ".to_image."),
    (r"\.affine\.bias$", ".style"),
    (r"^_gaussian_decoder\._mlp_decoder\.out_layers\.shs\.", "decoder.heads.layers.color."),
    (r"^_gaussian_decoder\._mlp_decoder\.out_layers\.scaling\.", "decoder.heads.layers.scale."),
    (r"^_gaussian_decoder\._mlp_decoder\.out_layers\.xyz\.", "decoder.heads.layers.offset."),
    (r"^_gaussian_decoder\._mlp_decoder\.out_layers\.(opacity|rotation)\.", r"decoder.heads.layers.\1."),
)


def release_unused(model: AvatarModel) -> dict[str, tuple[int, ...]]:
    """Published entries without numerical effect, with their shapes (SPEC 3): they must be there, and are ignored."""
    tokens, width = model.code_shape
    unused: dict[str, tuple[int, ...]] = {"_head_transformer._head_token_embeddings": (tokens, 1, width)}
    stacks = {"_transformer": model.config.encoder, "_expression_transformer": model.config.decoder.blocks}
    for stack, blocks in stacks.items():  # the last block's context is thrown away, so nothing needs its queries
        last = f"_head_transformer.{stack}.layers.{len(blocks) - 1}.attn"
        unused[f"{last}.add_q_proj.weight"], unused[f"{last}.add_q_proj.bias"] = (width, width), (width,)
        unused[f"{last}.norm_added_q.weight"] = (width // model.config.heads,)
    before = width
    for index, after in enumerate(model.config.upsampler.widths):
        block = f"_gaussian_decoder._stylegan_upsampler.blocks.{index}"
        for layer, inputs in (("conv0", before), ("conv1", after), ("torgb", after)):
            unused[f"{block}.{layer}.affine.weight"] = (inputs, 512)  # multiplied by a style of zeros
            if layer != "torgb":
                unused[f"{block}.{layer}.resample_filter"] = (4, 4)
        before = after
    return unused


def release_name(published: str) -> str:
    """Our name of a published state-dict entry."""
    for pattern, ours in RELEASE_RULES:
        published = re.sub(pattern, ours, published)
    return published


def load_release_state(model: AvatarModel, state: dict[str, Tensor]) -> list[str]:
    """Fill `model` from the published flat mapping; the names that were accepted and not used.

    Raises WeightsError on a missing or unknown name, a wrong shape, or an up-sampling filter that is not SPEC 7's.
    """
    unused = release_unused(model)
    for name, shape in unused.items():
        if name not in state:
            raise WeightsError(f"weights: {name} is missing")
        if tuple(state[name].shape) != shape:
            raise WeightsError(f"weights: {name} is {tuple(state[name].shape)}, not {shape}")
        if name.endswith("resample_filter") and not torch.allclose(state[name].float().cpu(), fir(), atol=1e-6):
            raise WeightsError(f"weights: {name} is not the filter this network was built for")
    fill(model, {release_name(name): value for name, value in state.items() if name not in unused})
    return sorted(unused)


def fill(model: AvatarModel, state: dict[str, Tensor]) -> None:
    """Give `state` to `model` as float32; tensors are taken over, not copied.

    Raises WeightsError unless names and shapes match exactly.
    """
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for kind, names in (("missing", expected.keys() - state.keys()), ("unknown", state.keys() - expected.keys())):
        if names:
            shown = sorted(names)
            raise WeightsError(f"weights: {len(shown)} {kind}: {', '.join(shown[:3])}{' ...' * (len(shown) > 3)}")
    wrong = [name for name, shape in expected.items() if tuple(state[name].shape) != shape]
    if wrong:
        name = wrong[0]
        raise WeightsError(f"weights: {name} is {tuple(state[name].shape)}, not {expected[name]}")
    model.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)


def load_model(folder: Path | str, template: Template | None = None, pulled: Path | None = None) -> AvatarModel:
    """The model of `folder/model.yaml`, in eval mode on the CPU.

    `template` overrides the surface the folder brings; files that are not there are looked for in `pulled`. Raises
    WeightsError if a file is missing, damaged or of another kind than the card says.
    """
    folder = Path(folder)
    card = read_card(folder / "model.yaml")
    digest = _verified(folder, card.weights, pulled)
    state = read_tensors(_place(folder, card.weights, pulled))
    stored = _stored_template(state, card)
    if template is None and card.template is not None:
        _verified(folder, card.template, pulled)
        surface = _place(folder, card.template, pulled)
        template = template_from_obj(surface, card.network.gaussians.resolution, card.network.grid)
    template = template or stored
    if template is None:
        raise WeightsError(f"{folder}: neither model.yaml nor the weights say where the texels lie")
    model = AvatarModel(card.network, template, card=card, fill_weights=False)
    if card.weights.layout == "release":
        unused = load_release_state(model, state)
        log.info("%s: %d of %d tensors have no effect (-v names them)", folder.name, len(unused), len(state))
        log.debug("without effect: %s", ", ".join(unused))
    else:
        fill(model, state)
    model.file_digest = digest
    return model.eval()


def _place(folder: Path, file: WeightsFile, pulled: Path | None) -> Path:
    """Where a file of the model lies: beside its card, else among what the user pulled."""
    path = folder / file.file
    return path if pulled is None or path.is_file() else pulled / file.file


def _verified(folder: Path, file: WeightsFile, pulled: Path | None = None) -> str:
    """The sha256 of a file of the model, which must be the one the card states, if it states one."""
    path = _place(folder, file, pulled)
    if not path.is_file():
        raise WeightsError(f"{path}: not found; `flexavatar doctor` says how to get it")
    try:
        digest = digest_file(path)
    except InputError as error:
        raise WeightsError(str(error)) from error
    if file.sha256 and digest != file.sha256:
        raise WeightsError(f"{path}: sha256 is {digest[:12]}..., model.yaml says {file.sha256[:12]}...")
    return digest


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The flat name -> tensor mapping in a safetensors file or a weights-only torch archive. Raises WeightsError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, ValueError) as error:
        raise WeightsError(f"{path}: not readable as weights ({_first_line(error)})") from error
    if not isinstance(found, dict) or not _all_tensors(found.values()):
        raise WeightsError(f"{path}: not a flat mapping of names to tensors")
    return dict(found)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:80]


def _all_tensors(values: Iterable[object]) -> bool:
    return all(isinstance(value, Tensor) for value in values)


def _stored_template(state: dict[str, Tensor], card: ModelCard) -> Template | None:
    """The template inside our own weights files, taken out of `state`."""
    stored = {name: state.pop(name) for name in list(state) if name.startswith("template.")}
    if "template.texel_index" not in stored or "template.query_positions" not in stored:
        return None
    try:
        return Template(
            card.network.gaussians.resolution,
            stored["template.texel_index"].long(),
            stored["template.query_positions"],
            stored.get("template.base_positions"),
        )
    except ValueError as error:
        raise WeightsError(f"weights: {error}") from error
