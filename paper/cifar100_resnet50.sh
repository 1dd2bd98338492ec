#!/usr/bin/env bash
# Claim: residual nets gain, too: ResNet-50 on CIFAR-100, k = 8, m = 10.
# Paper: Wang et al., arXiv 2310.03890 (2023) and AISTATS 2025.
# Expected: by the paper, root above ce. Here not measured.
# Settings: upstream's: Adam, 1e-3, cosine, batch 512, 200 epochs, crop and flip.
# Time: not measured, on no machine. 6 runs.
# Run:  bash paper/cifar100_resnet50.sh
set -e
python sweep.py --loss ce root --k 8 --m 10 --seed 0 1 2 --out runs/paper-cifar100-resnet50 -- --dataset cifar100 --net resnet50 --epochs 200 --bs 512 --lr 1e-3
python compare.py runs/paper-cifar100-resnet50 --out runs/paper-cifar100-resnet50-compared
