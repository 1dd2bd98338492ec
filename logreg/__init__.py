"""What ``regression.py`` is made of: full-batch, float64 logistic regression.

``objectives`` × ``optimizers`` × ``datasets`` combine freely: an optimiser sees only values, gradients and
Hessians, an objective only a matrix and labels. ``readers`` parses local files, ``plots`` draws.
Nothing is imported here, so that ``regression.py --help`` pays neither for torch nor for scikit-learn.
"""
