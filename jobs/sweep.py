"""Train and evaluate with several weights of reasoning and recommendation.

ray job submit --working-dir . -- python -m jobs.sweep --dataset DATA --reasoning DIR --out OUT
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("sweep")
