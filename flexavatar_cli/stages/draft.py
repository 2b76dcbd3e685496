"""An avatar code that is brought to agree with the photo it was encoded from: outline, colours, blending, hair.

The network completes a head; where matte and photo speak, they have the last word. All changes go through the code's
own skip path, so that what leaves here is a code like any other.
"""

from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from flexavatar_cli.core.attributes import TexelAttributes
from flexavatar_cli.core.camera import Camera
from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.core.ramps import ramp
from flexavatar_cli.model import plucker_map
from flexavatar_cli.stages.back_projection import back_projected
from flexavatar_cli.stages.instruments import SINKS, Instruments
from flexavatar_cli.stages.laid_detail import FLOOR, HAIR, SKIN, Material, laid_detail
from flexavatar_cli.stages.medians import medians, surroundings
from flexavatar_cli.stages.observation import SOLID, Evidence, Observation, examine, outline_correction, trusted_parts
from flexavatar_cli.stages.rig import expressed, lifted, rig_anchor, rigged_gaussians
from flexavatar_cli.stages.strangers import sideways, without_strangers
from flexavatar_cli.stages.uv_completion import DISPLACEMENT_UNIT, MIRROR_TRUST, Completion, uv_features
from flexavatar_cli.stages.uv_prior import UVPrior, hairiness, low_frequencies

CORRECTIONS = 2  # rounds of putting back what the network smoothed away
PROJECTIONS = 16  # rounds of back-projection
RELAXATION = 1.6  # of each round's correction: neighbours blend, so that the plain one falls short
TURNING = (0.3, 0.6)  # facing cosines, between which a correction turns from doubted to sure
CAUTION = 1.0  # relaxation where it is doubted
AFTERWARDS = 2  # rounds after doubted corrections were evened
TEETH = (1.18, 1.11, 1.02)  # of the brightness that the network gives them: it leaves them grey, and a little green
BACK = (-0.5, -0.2)  # frontal components of the template's normal, up to which neck and clothes are the back's
AHEAD = (0.2, 0.6)  # ... between which an ear's folds turn from aside to ahead
BURIED = (0.02, 0.04)  # metres of hair over an ear, between which none of it shows
JAW = -0.075  # metres, head space: above, the sides of the neck are the jaw's underside
BARED = 0.2  # jawOpen at which teeth are looked at
SKIN_FACING = 0.7  # cosine from which on a texel shows what skin is like
SOFTENINGS = 4  # times SMOOTHING half-steps over the neighbours
BALD = (0.003, 0.008)  # metres that the scalp is lifted, between which it is combed as hair
BRIGHTER = 0.06  # that hair which is not surely seen may become in back-projection: no light flecks where it turns away
PEEPING = 0.03  # the same of the far side's, which peeps out at the outline by a pixel
# Light between folds of skin is reflected there, and red the most: exponents of what is left of it.
FOLDS = (1.1, 1.5, 1.6)
SHOWN = (0.03, 0.12)  # share of its footprint from which on, and with which fully, a texel takes part; 0.28 is frontal


class Draft:
    """The code of one observation on N texels; the methods belong in the order in which they stand here."""

    @torch.no_grad()
    def __init__(self, seen: Observation, prior: UVPrior, instruments: Instruments, bias_sink: str) -> None:
        self.seen, self.prior, self.instruments = seen, prior, instruments
        self.model, self.head = instruments.model, instruments.head
        self.anchor = rig_anchor(self.head, self.model.resolution)
        self.expression = torch.from_numpy(seen.expression)[None].to(instruments.device)
        self.sink = torch.tensor([SINKS[bias_sink]], device=instruments.device)
        self.found = self._examined()
        self.code = self._encoded()

    def _examined(self, displacement: np.ndarray | None = None) -> Evidence:
        found = examine(self.seen, self.head, self.model.resolution, displacement)
        return without_strangers(found, self.prior, self.head)

    def _encoded(self) -> Tensor:  # [1, L, D]
        device, size = self.instruments.device, self.model.config.trunk.image_size
        found = (self.found.color, self.found.seen, self.found.facing, self.found.displacement)
        features = uv_features(self.prior, *(values[None] for values in found))
        small = cv2.resize(self.seen.image, (size, size), interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
        rays = plucker_map(*_camera_tensors(self.seen.camera), size, size)
        return self.model.encode(image.to(device), rays.to(device), features.to(device))

    def attributes(self, expression: Tensor | None = None) -> TexelAttributes:
        """What the code decodes to with an expression [1, E], that of the photo unless given, on the CPU."""
        expression = self.expression if expression is None else expression
        decoded = self.model.decode(self.code, expression, self.sink).map(torch.Tensor.cpu)
        return expressed(self.anchor, decoded, expression.cpu())

    def lifted(self) -> np.ndarray:  # [N] metres
        """How far hair and clothes stand off the head."""
        return lifted(self.anchor, self.attributes()).numpy()

    def _hair(self) -> Tensor:  # [N]
        """1 where hair or a hat is."""
        return torch.maximum(1 - self._bare(), self.prior.on_scalp)

    def _bare(self) -> Tensor:  # [N]
        """1 where nothing stands off the head: skin, or the scalp of who is bald."""
        return 1 - hairiness(self.prior, self.found.displacement[None])[0]

    def _unseen(self) -> Tensor:  # [N]
        """1 where the photo shows neither a texel nor that on the other side."""
        return (1 - self.found.seen) * (1 - MIRROR_TRUST * self.found.seen[self.prior.mirror])

    @torch.no_grad()
    def meet_outline(self) -> None:
        """Displace what sticks out of the matte or does not fill it, but not what of an ear faces ahead.

        Lifted with the hair over the ear that would move forward, and stand on the cheek as a plug.
        """
        change = outline_correction(self.seen, self.head, self.model.resolution, self.lifted())
        self._add(displacement=torch.from_numpy(change).float())
        lift = torch.from_numpy(self.lifted())
        plug = self.prior.on_ear * ramp(self.prior.outward[:, 2], AHEAD) * ramp(lift, BURIED)
        self._add(displacement=-plug * lift)

    @torch.no_grad()
    def read_colors(self) -> None:
        """Take the photo's colours anew, where the surface is now."""
        self.found = self._examined(self.lifted())
        for _ in range(CORRECTIONS):
            self._add(color=self.found.seen[:, None] * (self.found.color - self.attributes().color[0]))

    @torch.no_grad()
    def color_hair(self) -> None:
        """Fill unseen hair with the colour of hair alone, not of the forehead where others have hair.

        Here and not in what the network is given: with darker hair it draws other outlines.
        """
        evidence = (self.found.color[None], self.found.seen[None], self.found.displacement[None])
        completion = Completion(self.prior, *evidence)
        trusting, wary = (completion.colors(wary)[0][0] for wary in (False, True))
        self._add(color=wary - trusting)

    @torch.no_grad()
    def color_ears(self) -> None:
        """Give unseen hair over the ears the colour of the hair around: the network leaves it an ear's red."""
        color, ear = self.attributes().color[0], self.prior.on_ear
        hair = self._hair() * (1 - ear) + 1e-9
        around = low_frequencies(self.prior, color[None], hair[None], self.prior.hair_kernel)[0]
        covered = ear * (1 - self._bare()) * (1 - self.found.seen)
        self._add(color=covered[:, None] * (around - color))

    @torch.no_grad()
    def soften_unseen(self) -> None:
        """Run clothes and skin into one another where no photo shows the edge between them: torn edges look broken."""
        unseen = torch.maximum(self.prior.on_neck, self.prior.on_bust) * (1 - self.found.seen)
        begin = self.attributes().color[0]
        color = begin
        for _ in range(SOFTENINGS):
            color = torch.lerp(color, self.anchor.smoother @ color, unseen[:, None])
        self._add(color=color - begin)

    @torch.no_grad()
    def lay_strands(self) -> None:
        """Give unseen hair the texture of the hair seen."""
        color = self.attributes().color[0]
        hair = self._hair()
        low = low_frequencies(self.prior, color[None], hair[None] + 1e-6, self.prior.hair_kernel)[0]
        height = self.found.displacement[self.prior.on_scalp > 0].median()
        strand = float(ramp(height, BALD)) * np.array(HAIR.strand)
        wanted = self._textured(replace(HAIR, strand=tuple(strand)), hair, hair, low)
        self._add(color=(hair * (1 - self.found.seen))[:, None] * (wanted - color))

    @torch.no_grad()
    def lay_skin(self) -> None:
        """Give unseen skin the pores and fine lines of the skin seen."""
        color = self.attributes().color[0]
        skin = self.prior.plain_skin * self._bare()
        wanted = self._textured(SKIN, skin, skin * (self.found.facing > SKIN_FACING), color)
        self._add(color=(skin * self._unseen())[:, None] * (wanted - color))

    @torch.no_grad()
    def shade_ears(self) -> None:
        """Darken the folds of ears that the photo does not show: lit evenly an ear has no inside."""
        if self.head.ear_light is None:
            return
        size = (self.prior.resolution,) * 2
        light = cv2.resize(self.head.ear_light.cpu().numpy(), size, interpolation=cv2.INTER_AREA)
        change = torch.from_numpy(light).flatten()[self.prior.index, None] ** torch.tensor(FOLDS) - 1
        self._add(color=(self._bare() * self._unseen())[:, None] * change * self.attributes().color[0])

    @torch.no_grad()
    def back_project(self) -> None:
        """Take the error of the render back to the texels, through the blending of neighbours."""
        seen, identity = self.seen, torch.from_numpy(self.seen.identity)
        arrays = (seen.image, seen.alpha, seen.inside)
        picture, alpha, inside = (torch.from_numpy(array).float() / 255 for array in arrays)
        solid = (alpha > SOLID).float() * inside
        uncovered = self._uncovered()
        begin, doubted = self.attributes().color[0], self._doubted()
        # what is grazed lies at the outline, where a photo's pixels are in part its background
        room = torch.where(self.found.facing > 0, BRIGHTER, PEEPING)
        brightest = begin + (room + 1 - self._hair() * (1 - self.found.seen * (1 - doubted)))[:, None]
        relaxation = torch.lerp(torch.tensor(RELAXATION), torch.tensor(CAUTION), doubted)
        for number in range(PROJECTIONS + AFTERWARDS):
            if number == PROJECTIONS:
                self._even(begin, doubted)
            attributes = self.attributes()
            gaussians = rigged_gaussians(self.anchor, attributes, identity, self.expression[0].cpu())
            error, share = back_projected(gaussians, seen.camera, picture, solid)
            shown = relaxation * ramp(share, SHOWN) * uncovered
            wanted = (attributes.color[0] + shown[:, None] * error).minimum(brightest)
            self._add(color=wanted - attributes.color[0])

    def _doubted(self) -> Tensor:  # [N]
        """1 where the photo grazes skin, hair or clothes, so that each texel is corrected by what its neighbours miss.

        On the face's front, folds graze too and are seen well all the same.
        """
        turned = torch.where(self.prior.on_face > 0, sideways(self.prior), 1.0)
        return (1 - ramp(self.found.facing, TURNING)) * turned * ~self.prior.interior

    def _even(self, begin: Tensor, doubted: Tensor) -> None:  # [N, 3], [N]
        """Replace doubted corrections of the colours `begin` by the median of those around."""
        correction = self.attributes().color[0] - begin
        asked = torch.nonzero(doubted)[:, 0]
        evened = medians(correction, surroundings(self.head, self.model.resolution), asked)
        change = torch.zeros_like(correction)
        change[asked] = doubted[asked, None] * (evened - correction[asked])
        self._add(color=change)

    def _uncovered(self) -> Tensor:  # [N]
        """1 but where the face is not surely seen, inside the mouth and on the back of neck and clothes.

        What is before them would be painted on: a shirt's white, which their large splats shine through, on a back.
        Where the face turns away the last texels that are seen would make up for those behind them: a dark band.
        """
        grid = self.head.texels(self.model.resolution)
        face, neck = (grid.part == self.head.part_names.index(name) for name in ("face", "neck"))
        shown = torch.from_numpy(trusted_parts(self.head, grid)) * torch.where(face, self.found.seen, 1.0)
        behind = torch.maximum(neck.float(), self.prior.on_bust) * self.prior.away(BACK)
        shown = shown * (1 - behind)
        sure = ramp(self.found.facing, TURNING)
        aside = torch.where(neck, sideways(self.prior) * (self.prior.places[:, 1] > JAW), face.float())
        return shown * (1 - aside * (1 - sure))

    @torch.no_grad()
    def whiten_teeth(self) -> None:
        """Give teeth that the photo does not show the hue of teeth, and a little more light than the network does.

        It lights them as the jaw opens; between parted lips over a closed jaw they stood grey.
        """
        shut = torch.zeros_like(self.expression)
        bared = shut.clone()
        bared[0, INDEX["jawOpen"]] = BARED
        dark, lit = (self.attributes(code).color[0] for code in (shut, bared))
        color = (dark + lit) / 2
        teeth = (self.head.texels(self.model.resolution).part == self.head.part_names.index("teeth")).float()
        wanted = lit.mean(-1, keepdim=True) * torch.tensor(TEETH)
        self._add(color=(teeth * (1 - self.found.seen))[:, None] * (wanted - color))

    def _textured(self, material: Material, share: Tensor, sample: Tensor, color: Tensor) -> Tensor:  # [N, 3]
        """The colours [N, 3] with the photo's texture of the material; `share` and `sample` as in `laid_detail`."""
        arrays = (share.numpy(), sample.numpy(), color.numpy())
        detail = laid_detail(material, self.seen, self.found, *arrays, self.head, self.prior.resolution)
        return ((color + FLOOR) * torch.from_numpy(detail).exp()[:, None] - FLOOR).clamp(0, 1)

    def _add(
        self,
        color: Tensor | None = None,  # [N, 3]
        displacement: Tensor | None = None,  # [N] metres
    ) -> None:
        """Add to the base maps of the skip path."""
        size = self.prior.resolution
        maps = torch.zeros(4, size * size)
        if color is not None:
            maps[:3, self.prior.index] = color.T
        if displacement is not None:
            maps[3, self.prior.index] = displacement / DISPLACEMENT_UNIT
        self.code = self.model.corrected(self.code, maps.reshape(1, 4, size, size).to(self.instruments.device))


def _camera_tensors(camera: Camera) -> tuple[Tensor, Tensor]:
    """cam2world [V, 4, 4] and intrinsics [V, 3, 3] divided by the picture size (SPEC 1), float32."""
    scale = np.array([[camera.width], [camera.height], [1.0]])
    return torch.from_numpy(camera.cam2world).float(), torch.from_numpy(camera.intrinsics / scale).float()
