"""Pipelines of several stages: the demo and the sweep."""
