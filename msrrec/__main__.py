"""``python -m msrrec`` is the command ``msrrec``."""

from msrrec.cli import main

if __name__ == "__main__":
    main()
