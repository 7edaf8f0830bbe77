"""Recommend for every user of a dataset from its whole catalogue.

ray job submit --working-dir . -- python -m jobs.recommend --dataset D --index I --model M --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("recommend")
