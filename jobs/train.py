"""Fine-tune the student on reasoning and purchases.

ray job submit --working-dir . -- python -m jobs.train --dataset DATA --reasoning DIR --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("train")
