#!/usr/bin/env python
"""Train or fine-tune a causal language model with a rooted loss, in the Trainer of Hugging Face.

python examples/finetune_lm.py                                     a million weights on text that Python ships
python examples/finetune_lm.py --model gpt2 --data my.txt --loss root --k 5 --m 5 --lr 2e-5
"""

import argparse
import sys
from pathlib import Path
from pydoc_data.topics import topics

try:
    import torch
    import transformers as hf

    from rooted_loss import CausalLMLoss
except ImportError as error:
    print(f"{error}: pip install transformers accelerate; rooted_loss: pip install . here", file=sys.stderr)
    sys.exit(2)


def read(names):
    """The text of files, of hub data sets' column "text", or (no names) of Python's own help topics."""
    if names and not all(Path(name).is_file() for name in names):
        from datasets import load_dataset

        return "\n".join(row for name in names for row in load_dataset(name, split="train")["text"])
    return "\n".join(
        [Path(n).read_text("utf-8") for n in names] if names else [topics[k] for k in sorted(topics)]
    )


@torch.no_grad()
def evaluate(model, texts):
    """True perplexity whatever the loss (exp of a rooted loss is none), and the share of tokens got right."""
    total, right, count = 0.0, 0, texts[:, 1:].numel()
    for ids in texts.split(16):
        logits = model.eval()(input_ids=ids.to(model.device)).logits[:, :-1].cpu().float().flatten(0, 1)
        total += torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum").double()
        right += (logits.argmax(1) == ids[:, 1:].flatten()).sum().item()
    return f"perplexity {(total / count).exp():.2f}, token accuracy {right / count:.2%}"


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
p.add_argument("--data", nargs="*", help="text files or hub data sets (default: Python's help topics)")
for name, default in {
    "model": "tiny", "out": "runs/lm", "loss": "root", "k": 5.0, "m": 5.0, "label-noise": 0.0, "lr": 1e-3,
    "steps": 200, "bs": 16, "accumulate": 1, "length": 128, "seed": 0,
}.items():  # fmt: skip
    p.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
args = p.parse_args()
hf.set_seed(args.seed)
try:
    loss = CausalLMLoss(args.loss, *((args.k, args.m) if args.loss in ("root", "rlo") else ()))
    tiny = {"vocab_size": 256, "n_positions": 256, "n_embd": 128, "n_layer": 4, "n_head": 4}
    if args.model == "tiny":  # its words are bytes: it needs no tokenizer
        model = hf.GPT2LMHeadModel(hf.GPT2Config(**tiny, bos_token_id=0, eos_token_id=0))
    else:
        model = hf.AutoModelForCausalLM.from_pretrained(args.model)
    words, most = model.config.vocab_size, getattr(model.config, "max_position_embeddings", 1024)
    encode = str.encode if words == 256 else hf.AutoTokenizer.from_pretrained(args.model).encode
    ids = torch.tensor(list(encode(read(args.data))))
    if not (1 < args.length <= min(most, len(ids) // 2) and 0 <= args.label_noise <= 1):
        raise ValueError(f"--length must be 2 to {min(most, len(ids) // 2)}, and --label-noise 0 to 1")
except (ValueError, OSError, ImportError) as error:
    p.exit(2, f"finetune_lm.py: {str(error).splitlines()[0]}\n")
ids = ids[: len(ids) // args.length * args.length].view(-1, args.length)
train, held_out = ids.tensor_split([-(len(ids) // 10 or 1)])
labels = torch.where(torch.rand(train.shape) < args.label_noise, torch.randint(words, train.shape), train)
print("before:", evaluate(model, held_out))
arguments = hf.TrainingArguments(
    args.out, max_steps=args.steps, per_device_train_batch_size=args.bs, learning_rate=args.lr, seed=args.seed,
    gradient_accumulation_steps=args.accumulate, report_to=[], save_strategy="no", logging_steps=50,
)  # fmt: skip
data = [{"input_ids": x, "labels": y} for x, y in zip(train, labels, strict=True)]
hf.Trainer(model, arguments, train_dataset=data, compute_loss_func=loss).train()
model.save_pretrained(args.out)
print(f"after {args.steps} steps of {args.loss}:", evaluate(model, held_out))
