"""Compare systems on one dataset in one table.

ray job submit --working-dir . -- python -m jobs.compare --dataset DATA --systems A,B --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("compare")
