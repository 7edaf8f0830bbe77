"""Write a report about all evaluations below a folder.

ray job submit --working-dir . -- python -m jobs.report DIR
"""

from msrrec.cli import main

if __name__ == "__main__":
    main("report")
