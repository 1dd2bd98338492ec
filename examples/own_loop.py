#!/usr/bin/env python
"""A rooted loss in a plain PyTorch loop: handwritten digits, of which 40 % are labelled wrong.

The loss is bounded (root, k = 2), so that wrong labels pull less; cross entropy learns them.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import rooted_loss  # pip install .

LABEL_NOISE, EPOCHS = 0.4, 30

images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
images, labels = images.float() / 16, labels.long()


def train(criterion):
    """Test accuracy of a small net that was trained with `criterion` on labels of which some are wrong."""
    torch.manual_seed(0)
    train, test = torch.randperm(len(images)).split([1400, len(images) - 1400])
    # A wrong label is another digit, each equally likely.
    wrong = torch.rand(labels.shape) < LABEL_NOISE
    noisy = (labels + torch.randint(1, 10, labels.shape) * wrong) % 10
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            criterion(net(images[batch]), noisy[batch]).backward()
            optimizer.step()
    return (net(images[test]).argmax(1) == labels[test]).float().mean()


# The one line that differs.
print(f"cross entropy: test accuracy {train(nn.CrossEntropyLoss()):.1%}")
print(f"root, k = 2:   test accuracy {train(rooted_loss.RootLoss(k=2, m=2)):.1%}")
