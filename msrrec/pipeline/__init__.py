"""Pipelines of several stages: the pipeline, the demo, the sweep and the study."""
