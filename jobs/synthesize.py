"""Make a teacher's reasoning paths, and prune them.

ray job submit --working-dir . -- python -m jobs.synthesize --dataset DATA --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("synthesize")
