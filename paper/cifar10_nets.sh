#!/usr/bin/env bash
# Claim: the gain on CIFAR-10 does not depend on the net: small ViT, CaiT, VGG-19, ResNet-18.
# Paper: Wang et al., arXiv 2310.03890 (2023) and AISTATS 2025; upstream's nets at their defaults.
# Expected: by the paper, root above ce for each net. By docs/results.md: ties, or up to 1.7 points behind, in runs of one epoch.
# Settings: upstream's: Adam, 1e-4 for transformers and 1e-3 for CNNs, cosine, batch 512, 200 epochs. Its ResNets have 100 outputs whatever the data.
# Time: 61, 60, 34 and 39 hours a run on 2 CPU cores (45.2, 46.1, 80.9, 72.0 images/s, docs/results.md, Speed); on a GPU not measured. 24 runs.
# Run:  bash paper/cifar10_nets.sh
set -e
python sweep.py --net vit_small CaiT --loss ce root --k 3 --m 3 --seed 0 1 2 --out runs/paper-cifar10-nets -- --dataset cifar10 --epochs 200 --bs 512 --lr 1e-4
python sweep.py --net vgg19 resnet18 --loss ce root --k 3 --m 3 --seed 0 1 2 --out runs/paper-cifar10-nets -- --dataset cifar10 --epochs 200 --bs 512 --lr 1e-3
python compare.py runs/paper-cifar10-nets --out runs/paper-cifar10-nets-compared
