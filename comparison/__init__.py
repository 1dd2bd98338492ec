"""What compare.py is made of. No torch.

runs        reads and groups          table   figures of each group, for people, pandas and papers
baseline    what a group is held to   plots   curves, against k, against label noise
statistics  means, intervals, ties    forest  all differences with their intervals
"""
