"""Preparing a frozen dataset from raw purchases."""
