"""What compare.py is made of: runs.py reads and groups, statistics.py compares, plots.py draws. No torch."""
