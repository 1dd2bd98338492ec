#!/usr/bin/env python
"""Logistic regression when some labels are wrong: breast cancer, a tenth of the training labels flipped.

python examples/wrong_labels.py

The flips are gross: they hit samples far from the boundary. k and C are chosen by cross-validation on the noisy
labels alone, as one would have to; only the last column of the table knows the right ones.
"""

import sys

try:
    import numpy as np
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import GridSearchCV, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from rooted_loss.sklearn import RootedLogisticRegression
except ImportError as error:
    print(f"{error}: pip install '.[sklearn]' here", file=sys.stderr)
    sys.exit(2)

C = [0.01, 0.03, 0.1, 0.3, 1.0]
GRIDS = {
    "logistic": {"objective": ["logistic"], "C": C},
    "root": {"objective": ["root"], "C": C, "k": [1.5, 2.0, 3.0, 5.0]},
}


def flip(X, y, share=0.1):
    """`y` with that share of labels flipped, among the fifth with the largest margin; and where."""
    margin = np.abs(RootedLogisticRegression("logistic", C=0.1).fit(X, y).decision_function(X))
    clear = np.argsort(-margin)[: len(y) // 5]
    wrong = np.random.default_rng(0).permutation(clear)[: int(share * len(y))]
    noisy = y.copy()
    noisy[wrong] = 1 - noisy[wrong]
    return noisy, wrong


X, y = load_breast_cancer(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
noisy, wrong = flip(StandardScaler().fit_transform(X), y)
print(f"{len(y)} training samples, {len(wrong)} with a wrong label")
for name, grid in GRIDS.items():
    model = make_pipeline(StandardScaler(), RootedLogisticRegression())
    search = GridSearchCV(model, {f"rootedlogisticregression__{key}": value for key, value in grid.items()})
    search.fit(X, noisy)
    best = search.best_estimator_[-1]
    # The probability of the given label: the lower, the more suspicious. The worst are looked at first.
    quality = search.predict_proba(X)[np.arange(len(y)), noisy]
    found = np.isin(np.argsort(quality)[: len(wrong)], wrong).mean()
    print(
        f"{name:8}  k = {best.k_:<3g}  C = {best.C:<4g}  {100 * found:.0f}% of the {len(wrong)} most suspicious labels "
        f"are wrong, test accuracy {100 * search.score(X_test, y_test):.1f}%"
    )
