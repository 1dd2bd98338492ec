#!/usr/bin/env python
"""Train an image classifier of Hugging Face with a rooted loss: a small ViT on scikit-learn's digits, no download.

For a published net take ``hf.AutoModelForImageClassification.from_pretrained(name, num_labels=10,
ignore_mismatched_sizes=True)`` and its image processor; the loss and the trainer stay as they are.
"""

import numpy as np
import transformers as hf  # pip install transformers accelerate scikit-learn
from sklearn.datasets import load_digits

from rooted_loss import RootLoss  # pip install .

STEPS = 300
total = RootLoss(k=3, m=3, reduction="sum")


def rooted(outputs, labels, num_items_in_batch=None):
    """The compute_loss_func: a mean over the labels of the whole step, so that accumulation is exact."""
    return total(outputs.logits, labels) / (num_items_in_batch or len(labels))


def accuracy(result):
    return {"accuracy": (result.predictions.argmax(1) == result.label_ids).mean()}


hf.set_seed(0)
images, labels = load_digits(return_X_y=True)
images = np.repeat(images.reshape(-1, 1, 8, 8).astype("float32") / 8 - 1, 3, axis=1)
order = np.random.default_rng(0).permutation(len(labels))
examples = [{"pixel_values": images[i], "labels": int(labels[i])} for i in order]
net = hf.ViTForImageClassification(
    hf.ViTConfig(
        image_size=8, patch_size=2, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=128, num_labels=10,
    )
)  # fmt: skip
arguments = hf.TrainingArguments(
    "runs", max_steps=STEPS, per_device_train_batch_size=64, learning_rate=1e-3,
    report_to=[], save_strategy="no", remove_unused_columns=False,
)  # fmt: skip
trainer = hf.Trainer(
    net, arguments, train_dataset=examples[:1400], eval_dataset=examples[1400:],
    compute_loss_func=rooted, compute_metrics=accuracy,
)  # fmt: skip
trainer.train()
print(f"test accuracy {trainer.evaluate()['eval_accuracy']:.1%} after {STEPS} steps")
