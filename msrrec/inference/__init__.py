"""Generating both sides, measuring their perplexity, and fusing them into a recommendation."""
