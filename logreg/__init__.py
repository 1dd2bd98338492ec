"""What ``regression.py`` is made of: full-batch, float64 logistic regression.

``tables`` reads local files, ``datasets`` makes them and all others ready, ``results`` prints and writes what
came of a study, ``plots`` draws it. ``estimator`` has the objectives and optimisers.
Nothing heavy is imported here, so that ``regression.py --help`` waits for no library.
"""

# What --dataset and --optimizer take by name; `datasets` and `estimator.optimizers` hold the functions.
NAMES = ("synthetic", "madelon", "wine", "breast_cancer", "digits")
OPTIMIZERS = ("gd", "nesterov", "lbfgs", "newton")
# Those that take a step, --lr.
STEPPED = ("gd", "nesterov")
# More parameters than this, and a dense Hessian no longer fits in a moment or in memory.
LARGEST_HESSIAN = 4000
