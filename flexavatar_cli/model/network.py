"""AvatarModel: encoder and decoder around one template, with initialisation and saving."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.nn import functional

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.files import replacing
from flexavatar_cli.model.config import ModelCard, ModelConfig, WeightsFile, card_text
from flexavatar_cli.model.decoder import Decoder
from flexavatar_cli.model.encoder import Encoder, patchify
from flexavatar_cli.model.gaussian_heads import Raw
from flexavatar_cli.model.initialisation import initialise, perturb_zeros
from flexavatar_cli.model.template import Template


class AvatarModel(nn.Module):
    """The FlexAvatar network of one `model.yaml`: `encode` a photo to A, `decode` A and an expression."""

    texel_index: Tensor  # [N]
    query_positions: Tensor  # [L, 3]
    base_positions: Tensor | None  # [N, 3]

    def __init__(
        self,
        config: ModelConfig,
        template: Template,
        generator: torch.Generator | None = None,  # of the initial weights; None = torch's global seed
        card: ModelCard | None = None,
        fill_weights: bool = True,  # False: left uninitialised, for a loader
    ) -> None:
        super().__init__()
        with torch.device("meta"):
            self.encoder = Encoder(config)
            self.decoder = Decoder(config)
        self.config = config
        self.card = replace(card or ModelCard(name="untrained"), network=config)
        self.resolution = 0
        self.file_digest = ""
        self.to_empty(device="cpu")
        self.set_template(template)
        if fill_weights:
            initialise(self, generator)

    @classmethod
    def random(cls, config: ModelConfig, seed: int = 0, template: Template | None = None) -> "AvatarModel":
        """Untrained weights with no zero layer left, so that every input matters: for tests.

        Without a template every texel of a sphere is kept.
        """
        generator = torch.Generator().manual_seed(seed)
        template = template or Template.sphere(config.gaussians.resolution, config.grid)
        model = cls(config, template, generator, ModelCard(name=f"random-{seed}"))
        perturb_zeros(model, generator)
        return model.eval()

    def set_template(self, template: Template) -> None:
        """Use another surface; a square token grid of another size (half resolution) is allowed.

        `template.resolution / grid` must stay the patch size of the config's UV inputs.
        """
        device = next(self.parameters()).device
        self.resolution = template.resolution
        for name in ("texel_index", "query_positions", "base_positions"):
            value = getattr(template, name)
            value = None if value is None else value.to(device, copy=True)
            self.register_buffer(name, value, persistent=False)

    @property
    def template(self) -> Template:
        """The surface in use, on the CPU."""
        base = self.base_positions
        return Template(
            self.resolution, self.texel_index.cpu(), self.query_positions.cpu(), None if base is None else base.cpu()
        )

    @property
    def code_shape(self) -> tuple[int, int]:
        """(L, D) of the avatar code."""
        return len(self.query_positions), self.config.width

    def encode(
        self,
        image: Tensor,  # [B, 3, S, S] RGB in 0..1, masked on white
        plucker: Tensor,  # [B, 6, S, S], see `plucker_map`
        uv_features: Tensor | None = None,  # [B, C, R, R]; first channels: base colour - 0.5 [3], displacement [1]
        image_features: Tensor | None = None,  # [B, F, s, s] of the frozen net, where the trunk fuses one (SPEC 4.4)
    ) -> Tensor:  # [B, L, D]
        """The avatar code A of B photos."""
        return self.encoder(image, plucker, self.query_positions, uv_features, image_features)

    def corrected(self, avatar_code: Tensor, maps: Tensor) -> Tensor:
        """The code [B, L, D] after adding base maps [B, 4, R, R] (colour [3], displacement in units) through the skip.

        Raises ValueError for a network without a skip path.
        """
        if self.encoder.patch_code is None or self.config.detail is None:
            raise ValueError("this model has no skip path")
        patches = patchify(maps, self.config.detail.patch)
        return avatar_code + functional.linear(patches, self.encoder.patch_code.weight)

    def decode(
        self,
        avatar_code: Tensor,  # [B, L, D]
        expression: Tensor,  # [B, E]
        sink: Tensor,  # [B] int: 0 = 2-D monocular, 1 = 3-D multi-view
        uv_condition: Tensor | None = None,  # [B, 4, R/2, R/2]: change of normal [3], log area [1]
    ) -> TexelAttributes:
        """Attributes of the N kept texels for B pairs of code and expression."""
        return self.decoder.heads.attributes(self._raw(avatar_code, expression, sink, uv_condition))

    def decode_expressions(
        self,
        avatar_code: Tensor,  # [L, D] or [1, L, D]
        expressions: Tensor,  # [T, E]
        sink: int = 1,
        uv_condition: Tensor | None = None,  # [T, 4, R/2, R/2]
        chunk: int = 4,  # measured fastest on two cores
    ) -> TexelAttributes:  # [T, N, ...]
        """Many expressions of one avatar, in batches of `chunk`; what depends on A alone is computed once."""
        code = avatar_code[None] if avatar_code.ndim == 2 else avatar_code
        detail = self.decoder.detail(code)
        parts = []
        for start in range(0, len(expressions), chunk):
            batch = expressions[start : start + chunk]
            condition = None if uv_condition is None else uv_condition[start : start + chunk]
            sinks = torch.full((len(batch),), sink, device=batch.device)
            repeated = code.expand(len(batch), -1, -1)
            parts.append(self.decoder.heads.attributes(self._raw(repeated, batch, sinks, condition, detail)))
        names = TexelAttributes.__dataclass_fields__
        return TexelAttributes(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def forward(
        self,
        image: Tensor,
        plucker: Tensor,
        uv_features: Tensor | None,
        expression: Tensor,
        sink: Tensor,
        uv_condition: Tensor | None = None,
        image_features: Tensor | None = None,
    ) -> tuple[Tensor, TexelAttributes]:
        """`encode` and `decode` in one call, for training wrappers: (A, attributes)."""
        code = self.encode(image, plucker, uv_features, image_features)
        return code, self.decode(code, expression, sink, uv_condition)

    def _raw(
        self,
        code: Tensor,
        expression: Tensor,
        sink: Tensor,
        uv_condition: Tensor | None,
        detail: Tensor | None = None,  # of `code`, if it is known already
    ) -> Raw:
        decoder = self.decoder
        detail = decoder.detail(code) if detail is None else detail
        h = decoder.tokens(code, decoder.context(expression, sink), self.query_positions, uv_condition)
        return decoder.raw(h, detail, self.texel_index, self.resolution)

    @property
    def digest(self) -> str:
        """sha256 of the weights file last loaded or saved, else of the one `save` would write now."""
        if self.file_digest:
            return self.file_digest
        return hashlib.sha256(self._bytes()).hexdigest()

    def _bytes(self, precision: torch.dtype = torch.float16) -> bytes:
        state = {name: value.detach().cpu().to(precision).contiguous() for name, value in self.state_dict().items()}
        surface = {
            "template.texel_index": self.texel_index.cpu().int(),
            "template.query_positions": self.query_positions.cpu().float(),
        }
        if self.base_positions is not None and self.config.anchor == "static":
            surface["template.base_positions"] = self.base_positions.cpu().float()
        return safetensors_bytes(state | surface)

    def save(self, folder: Path, precision: torch.dtype = torch.float16) -> ModelCard:
        """Write `model.yaml` and the weights (safetensors, with the template) to `folder`; its card."""
        folder = Path(folder)
        content = self._bytes(precision)
        file = WeightsFile(f"{self.card.name}.safetensors", hashlib.sha256(content).hexdigest(), self.card.weights.url)
        card = replace(self.card, weights=file, template=None)
        with replacing(folder / file.file) as target:
            target.write_bytes(content)
        with replacing(folder / "model.yaml") as target:
            target.write_text(card_text(card), encoding="utf-8")
        self.file_digest = file.sha256
        return card
