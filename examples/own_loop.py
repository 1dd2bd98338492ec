#!/usr/bin/env python
"""A rooted loss in a plain PyTorch loop: handwritten digits of which a share is labelled wrong.

python examples/own_loop.py                       root, k = 2: bounded, so wrong labels pull less
python examples/own_loop.py --loss ce             what cross entropy makes of the same labels
"""

import argparse
import sys

try:
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    import rooted_loss
except ImportError as error:
    print(f"{error}: pip install torch scikit-learn; for rooted_loss, pip install . here", file=sys.stderr)
    sys.exit(2)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--loss", default="root", choices=["root", "rlo", "ce"])
    p.add_argument("--k", type=float, default=2.0, help="the root; m is the same")
    p.add_argument("--label-noise", type=float, default=0.4, help="share of wrong training labels")
    p.add_argument("--epochs", type=int, default=30)
    args = p.parse_args()
    torch.manual_seed(0)

    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    images, labels = images.float() / 16, labels.long()
    order = torch.randperm(len(images))
    train, test = order[:1400], order[1400:]
    # A wrong label is another digit, each equally likely.
    noisy = (labels + torch.randint(1, 10, labels.shape) * (torch.rand(labels.shape) < args.label_noise)) % 10

    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    # The one line that differs: criterion = nn.CrossEntropyLoss()
    try:
        criterion = rooted_loss.build_loss(
            args.loss, **({} if args.loss == "ce" else {"k": args.k, "m": args.k})
        )
    except ValueError as error:
        p.exit(2, f"own_loop.py: {error}\n")
    for _ in range(args.epochs):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            criterion(net(images[batch]), noisy[batch]).backward()
            optimizer.step()
    accuracy = (net(images[test]).argmax(1) == labels[test]).float().mean()
    print(
        f"{args.loss}: test accuracy {accuracy:.1%} with {args.label_noise:.0%} of the training labels wrong"
    )


if __name__ == "__main__":
    main()
