"""Rooted logistic regression as a scikit-learn estimator, with the objectives and optimisers behind it.

This folder is ``rooted_loss.sklearn`` in the wheel and ``logreg.estimator`` in the repository, where
``regression.py`` runs the same objectives and optimisers one by one.
"""

try:
    import sklearn  # noqa: F401
except ImportError:
    raise ImportError("the estimator needs scikit-learn: pip install 'rooted-loss[sklearn]'") from None

from .classifier import RootedLogisticRegression

__all__ = ["RootedLogisticRegression"]
