"""Reports: HTML pages and tables about evaluations."""
