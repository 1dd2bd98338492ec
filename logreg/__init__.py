"""What ``regression.py`` is made of: full-batch, float64 logistic regression.

``objectives`` × ``optimizers`` × ``datasets`` combine freely: an optimiser sees only values, gradients and
Hessians, an objective only a matrix and labels. ``readers`` parses local files, ``plots`` draws.
Nothing heavy is imported here, so that ``regression.py --help`` pays neither for torch nor for scikit-learn.
"""

# What --dataset and --optimizer take by name; `datasets` and `optimizers` hold the functions.
NAMES = ("synthetic", "madelon", "wine", "breast_cancer", "digits")
OPTIMIZERS = ("gd", "nesterov", "lbfgs", "newton", "polyak", "normalised")
# Those that take a step, --lr.
STEPPED = ("gd", "nesterov", "normalised")
# More parameters than this, and a dense Hessian no longer fits in a moment or in memory.
LARGEST_HESSIAN = 4000
