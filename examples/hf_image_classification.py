#!/usr/bin/env python
"""Fine-tune an image classifier of Hugging Face with a rooted loss.

python examples/hf_image_classification.py          a small ViT on scikit-learn's digits: no download
python examples/hf_image_classification.py --model google/vit-base-patch16-224-in21k --data beans --lr 5e-5

--data is a hub data set with columns "image" and "labels" (or "label"), and splits train and test.
"""

import argparse
import sys

try:
    import numpy as np
    import transformers as hf
    from sklearn.datasets import load_digits

    from rooted_loss import RootLoss
except ImportError as error:
    print(f"{error}: pip install transformers accelerate; rooted_loss: pip install . here", file=sys.stderr)
    sys.exit(2)

total = RootLoss(k=3, m=3, reduction="sum")


def rooted(outputs, labels, num_items_in_batch=None):
    """The compute_loss_func: a mean over the labels of the whole step, so that accumulation is exact."""
    return total(outputs.logits, labels) / (num_items_in_batch or len(labels))


def accuracy(result):
    return {"accuracy": (result.predictions.argmax(1) == result.label_ids).mean()}


def digits():
    images, labels = load_digits(return_X_y=True)
    images = np.repeat(images.reshape(-1, 1, 8, 8).astype("float32") / 8 - 1, 3, axis=1)
    order = np.random.default_rng(0).permutation(len(labels))
    examples = [{"pixel_values": images[i], "labels": int(labels[i])} for i in order]
    config = hf.ViTConfig(image_size=8, patch_size=2, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
                          intermediate_size=128, num_labels=10)  # fmt: skip
    return hf.ViTForImageClassification(config), examples[:1400], examples[1400:]


def hub(model, data):
    from datasets import load_dataset

    sets, processor = load_dataset(data), hf.AutoImageProcessor.from_pretrained(model)
    label = "labels" if "labels" in sets["train"].features else "label"

    def transform(rows):
        images = [image.convert("RGB") for image in rows["image"]]
        return {"pixel_values": processor(images, return_tensors="pt")["pixel_values"], "labels": rows[label]}

    classes = sets["train"].features[label].num_classes
    net = hf.AutoModelForImageClassification.from_pretrained(
        model, num_labels=classes, ignore_mismatched_sizes=True)  # fmt: skip
    return net, sets["train"].with_transform(transform), sets["test"].with_transform(transform)


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
for name, default in {"steps": 300, "bs": 64, "lr": 1e-3, "model": "", "data": "", "out": "runs"}.items():
    p.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
args = p.parse_args()
hf.set_seed(0)
try:
    if bool(args.model) != bool(args.data):
        raise ValueError("--model and --data belong together")
    net, train, test = hub(args.model, args.data) if args.model else digits()
except (OSError, ImportError, ValueError) as error:
    p.exit(2, f"hf_image_classification.py: {str(error).splitlines()[0]}\n")
arguments = hf.TrainingArguments(
    args.out, max_steps=args.steps, per_device_train_batch_size=args.bs, learning_rate=args.lr,
    report_to=[], save_strategy="no", remove_unused_columns=False,
)  # fmt: skip
trainer = hf.Trainer(net, arguments, train_dataset=train, eval_dataset=test, compute_loss_func=rooted,
                     compute_metrics=accuracy)  # fmt: skip
trainer.train()
print(f"test accuracy {trainer.evaluate()['eval_accuracy']:.1%} after {args.steps} steps")
