"""Run all stages from raw purchases to the report, in one submission that can be repeated.

ray job submit --working-dir . -- python -m jobs.pipeline --source demo --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("pipeline")
