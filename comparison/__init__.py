"""What compare.py is made of: `runs` reads, `statistics` counts, `table` and `plots` show."""
