"""Does reasoning help? Train and compare arms that differ in nothing else, over seeds and datasets.

ray job submit --working-dir . -- python -m jobs.study --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("study")
