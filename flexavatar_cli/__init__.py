"""One portrait photo to a complete, animatable 3D Gaussian head avatar (FlexAvatar, CVPR 2026)."""

__version__ = "0.1.0"
