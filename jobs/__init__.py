"""Entry points for ``ray job submit -- python -m jobs.<stage>``; each runs one command."""
