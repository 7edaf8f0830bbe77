"""Turn raw purchases into a frozen dataset.

ray job submit --working-dir . -- python -m jobs.prepare --source demo --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("prepare")
