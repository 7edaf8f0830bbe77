"""Score an evaluation's reasoning: METEOR, BERTScore, GPTScore and a judge's marks.

ray job submit --working-dir . -- python -m jobs.score EVALUATION --dataset DATA --references PATHS
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("score")
