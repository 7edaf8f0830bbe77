"""Pretrain the embedded backbone, which takes an hour on two cores.

python -m jobs.pretrain --out msrrec/embedded/backbone/weights --steps 1600
"""

import argparse
from pathlib import Path

from msrrec import log


def main() -> None:
    """Parse arguments and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--steps", type=int, default=1600, help="steps of 6,144 tokens")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and texts")
    options = parser.parse_args()
    log.setup()
    from msrrec.embedded.backbone.pretrain import pretrain

    pretrain(options.out, options.steps, options.seed)


if __name__ == "__main__":
    main()
