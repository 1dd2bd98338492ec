"""What compare.py is made of. No torch.

runs        run directories in, a frame of runs and one of their epochs out
statistics  means, intervals, differences
table       the figures of each group: for people, pandas and papers
plots       the pictures
"""
