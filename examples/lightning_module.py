#!/usr/bin/env python
"""A rooted loss in a LightningModule.

python examples/lightning_module.py
python examples/lightning_module.py --k 1.5 --epochs 20
"""

import argparse
import sys

try:
    import lightning
    import torch
    from sklearn.datasets import load_digits
    from torch.utils.data import DataLoader, TensorDataset, random_split

    from rooted_loss import RootLoss
except ImportError as error:
    print(
        f"{error}: pip install lightning scikit-learn; for rooted_loss, pip install . here", file=sys.stderr
    )
    sys.exit(2)


class Digits(lightning.LightningModule):
    def __init__(self, k):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
        self.criterion = RootLoss(k=k, m=k)  # before: torch.nn.CrossEntropyLoss()

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


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--k", type=float, default=3.0, help="the root; m is the same")
    p.add_argument("--epochs", type=int, default=10)
    args = p.parse_args()
    lightning.seed_everything(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    train, test = random_split(TensorDataset(images.float() / 16, labels), [1400, 397])
    try:
        module = Digits(args.k)
    except ValueError as error:
        p.exit(2, f"lightning_module.py: {error}\n")
    trainer = lightning.Trainer(
        max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader(train, 64, shuffle=True))
    print(
        f"test accuracy {trainer.validate(module, DataLoader(test, 397), verbose=False)[0]['accuracy']:.1%}"
    )


if __name__ == "__main__":
    main()
