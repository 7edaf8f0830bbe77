"""Change the chains of an evaluation, and measure how often choices change with them.

ray job submit --working-dir . -- python -m jobs.faithfulness EVALUATION --dataset D --model M
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("faithfulness")
