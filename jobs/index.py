"""Build an index that finds candidates in a whole catalogue.

ray job submit --working-dir . -- python -m jobs.index --dataset DATA --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("index")
