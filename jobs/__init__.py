"""Entry points for `ray job submit -- python -m jobs.<stage>`; each is the command of its name."""
