#!/usr/bin/env python
"""Fine-tune any timm net on a folder of images with a rooted loss.

python examples/timm_finetune.py                    scikit-learn's digits and a small ResNet: no download
python examples/timm_finetune.py --data flowers --model vit_small_patch16_224 --pretrained

--data has a folder train/<class>/ and a folder val/<class>/.
"""

import argparse
import itertools
import sys
from pathlib import Path

try:
    import timm
    import torch
    from sklearn.datasets import load_digits
    from torch.utils.data import DataLoader, TensorDataset

    import rooted_loss
except ImportError as error:
    print(f"{error}: pip install timm scikit-learn; for rooted_loss, pip install . here", file=sys.stderr)
    sys.exit(2)


def digits():
    images, labels = map(torch.as_tensor, (load_digits().images, load_digits().target))
    images = torch.nn.functional.interpolate(images.float()[:, None] / 8 - 1, size=32).expand(-1, 3, -1, -1)
    order = torch.randperm(len(images))
    return [TensorDataset(images[part], labels[part]) for part in (order[:1400], order[1400:])]


def folders(path, net):
    config = timm.data.resolve_model_data_config(net)  # the size, mean and std that the net was trained with
    transforms = [timm.data.create_transform(**config, is_training=training) for training in (True, False)]
    names = ("train", "val")
    return [
        timm.data.ImageDataset(str(path / n), transform=t) for n, t in zip(names, transforms, strict=True)
    ]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--data", type=Path, help="a folder of images (default: scikit-learn's digits)")
    p.add_argument("--model", default="resnet10t")
    p.add_argument("--pretrained", action="store_true")
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--bs", type=int, default=32)
    p.add_argument("--lr", type=float, default=1e-3)
    args = p.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        classes = sum(f.is_dir() for f in (args.data / "train").iterdir()) if args.data else 10
        net = timm.create_model(args.model, pretrained=args.pretrained, num_classes=classes).to(device)
        sets = folders(args.data, net) if args.data else digits()
    except (RuntimeError, OSError) as error:
        p.exit(2, f"timm_finetune.py: {str(error).splitlines()[0]}\n")
    train, test = (DataLoader(s, args.bs, shuffle=s is sets[0], drop_last=s is sets[0]) for s in sets)

    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr)
    criterion = rooted_loss.RootLoss(k=3, m=3)  # before: timm.loss.LabelSmoothingCrossEntropy()
    batches = itertools.chain.from_iterable(itertools.repeat(train))  # epoch after epoch, each shuffled anew
    for images, labels in itertools.islice(batches, args.steps):
        optimizer.zero_grad()
        criterion(net(images.to(device)), labels.to(device)).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        right = sum((net(x.to(device)).argmax(1) == y.to(device)).sum().item() for x, y in test)
    print(f"{args.model}: test accuracy {right / len(sets[1]):.1%} after {args.steps} steps")


if __name__ == "__main__":
    main()
