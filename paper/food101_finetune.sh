#!/usr/bin/env bash
# Claim: fine-tuning gains as well: a pretrained ViT-B/16 at 384 px on Food-101.
# Paper: Wang et al., arXiv 2310.03890 (2023) and AISTATS 2025.
# Expected: by the paper, root above ce. Here not measured.
# Settings: upstream's net and size; Adam at 1e-5 and 10 epochs are ours, its own rate of 1e-4 is for training from scratch.
# Time: not measured, on no machine. 6 runs.
# Run:  bash paper/food101_finetune.sh
set -e
python sweep.py --loss ce root --k 3 --m 3 --seed 0 1 2 --out runs/paper-food101 -- --dataset food-101 --net vit_timm --epochs 10 --bs 64 --lr 1e-5
python compare.py runs/paper-food101 --out runs/paper-food101-compared
