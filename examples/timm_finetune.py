#!/usr/bin/env python
"""Fine-tune a net of timm's with a rooted loss, on scikit-learn's digits at 32 px: nothing is downloaded.

For your own images, take ``timm.data.ImageDataset(folder, transform=timm.data.create_transform(**config))`` with
``config = timm.data.resolve_model_data_config(net)``, and ``pretrained=True``.
"""

import itertools

import timm  # pip install timm scikit-learn
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

import rooted_loss  # pip install .

STEPS, BATCH = 60, 64

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
digits = load_digits()
images = torch.as_tensor(digits.images).float()[:, None] / 8 - 1
images = torch.nn.functional.interpolate(images, size=32).expand(-1, 3, -1, -1)
train, test = random_split(TensorDataset(images, torch.as_tensor(digits.target)), [1400, 397])

net = timm.create_model("resnet10t", pretrained=False, num_classes=10).to(device)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
criterion = rooted_loss.RootLoss(k=3, m=3)  # before: timm.loss.LabelSmoothingCrossEntropy()
loader = DataLoader(train, BATCH, shuffle=True, drop_last=True)
batches = itertools.chain.from_iterable(itertools.repeat(loader))  # epoch after epoch, each shuffled anew
for x, y in itertools.islice(batches, STEPS):
    optimizer.zero_grad()
    criterion(net(x.to(device)), y.to(device)).backward()
    optimizer.step()

net.eval()
with torch.no_grad():
    right = sum((net(x.to(device)).argmax(1) == y.to(device)).sum().item() for x, y in DataLoader(test, 397))
print(f"test accuracy {right / len(test):.1%} after {STEPS} steps")
