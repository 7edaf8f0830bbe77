"""A command with an engine that needs no weights and takes its time, as a job.

python -m tests.support.paced_job evaluate LOG PAUSE_S POISON --dataset DATA --model MODEL --out OUT
"""

import sys
from functools import partial

from msrrec.inference.recommender import Recommender
from tests.support.engine import build_paced

if __name__ == "__main__":
    command, log, pause_s, poison = sys.argv[1:5]
    build = partial(build_paced, log, float(pause_s), poison)
    Recommender.from_source = build  # type: ignore[method-assign,assignment]
    sys.argv[1:5] = []
    from msrrec.cli import main  # only now, as functions name it as the default of an argument

    main(command)
