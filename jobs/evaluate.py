"""Measure HitRatio@1 and ValidRatio on the frozen candidates.

ray job submit --working-dir . -- python -m jobs.evaluate --dataset DATA --model MODEL --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("evaluate")
