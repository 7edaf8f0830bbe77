"""Makes ``python -m msrrec`` the same as the command ``msrrec``."""

from msrrec.cli import main

if __name__ == "__main__":
    main()
