"""The open-1 expression code: 52 ARKit blendshape weights, gaze of both eyes, head rotation."""

import math

ARKIT_NAMES = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight",
    "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight",
    "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip

# Eyeball rotation in radians about the eye's own centre: yaw > 0 looks to the subject's left, pitch > 0 up.
GAZE_NAMES = ("gazeLeftYaw", "gazeLeftPitch", "gazeRightYaw", "gazeRightPitch")
LOOK_RADIANS = math.radians(28.0)  # of the eyeball at eyeLook* = 1, the slope measured against blendshape scores

# Rotation of the head against the camera in radians. Rigid motion itself lives in the camera; this is a hint only.
HEAD_NAMES = ("headYaw", "headPitch", "headRoll")

EXPRESSION_NAMES = ARKIT_NAMES + GAZE_NAMES + HEAD_NAMES  # E = 59

INDEX = {name: index for index, name in enumerate(EXPRESSION_NAMES)}


def both(**weights: float) -> dict[str, float]:
    """The weights under the names of both sides."""
    return {f"{name}{side}": weight for name, weight in weights.items() for side in ("Left", "Right")}
