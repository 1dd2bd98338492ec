#!/usr/bin/env python
"""A rooted loss in a LightningModule, on scikit-learn's digits."""

import lightning  # pip install lightning scikit-learn
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

from rooted_loss import RootLoss  # pip install .


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
        self.criterion = RootLoss(k=3, m=3)  # before: torch.nn.CrossEntropyLoss()

    def training_step(self, batch, _):
        images, labels = batch
        loss = self.criterion(self.net(images), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        images, labels = batch
        self.log("accuracy", (self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    lightning.seed_everything(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    train, test = random_split(TensorDataset(images.float() / 16, labels), [1400, 397])
    trainer = lightning.Trainer(
        max_epochs=10, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    module = Digits()
    trainer.fit(module, DataLoader(train, 64, shuffle=True))
    (scores,) = trainer.validate(module, DataLoader(test, 397), verbose=False)
    print(f"test accuracy {scores['accuracy']:.1%}")
