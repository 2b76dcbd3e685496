"""`python -m flexavatar_cli.training.head_model DATA_DIR RECIPE_NPZ -o models/open-head`."""

import argparse
import logging
from pathlib import Path

from flexavatar_cli.training.head_model.build import build


def main() -> None:
    """Read the command line and build the head model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with ict_head.npz and mh_assets.tar")
    parser.add_argument("embedding", type=Path, help="mediapipe478_on_ict.npz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the head model")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    build(arguments.data, arguments.embedding, arguments.output)


if __name__ == "__main__":
    main()
