"""CausalLMLoss: alone, and in a transformers.Trainer that accumulates gradients over uneven texts."""

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import losses
from losses import CausalLMLoss


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9, 11, generator=generator, requires_grad=True)
    labels = torch.randint(11, (3, 9), generator=generator)
    labels[0, 5:] = -100
    labels[1, :4] = -100
    return logits, labels


@pytest.mark.parametrize("name,options", [("ce", {}), ("root", {"k": 3, "m": 2}), ("rlo", {}), ("focal", {})])
def test_token_t_meets_label_t_plus_1_and_the_sum_is_over_all_items(name, options):
    logits, labels = batch()
    truth = losses.build_loss(name, **({"k": 5, "m": 5} | options if name in ("root", "rlo") else {}))
    mean = truth(logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1))
    count = int((labels[:, 1:] != -100).sum())
    ours = CausalLMLoss(name, **options)
    for outputs in ({"logits": logits}, (logits,)):
        torch.testing.assert_close(ours(outputs, labels), mean)
        torch.testing.assert_close(ours(outputs, labels, num_items_in_batch=count), mean)
        twice = torch.tensor(2 * count)
        torch.testing.assert_close(ours(outputs, labels, num_items_in_batch=twice), mean / 2)


def test_cross_entropy_is_what_transformers_computes():
    loss_utils = pytest.importorskip("transformers.loss.loss_utils")
    logits, labels = batch()
    theirs = loss_utils.ForCausalLMLoss(logits, labels, 11, num_items_in_batch=7)
    torch.testing.assert_close(CausalLMLoss("ce")((logits,), labels, 7), theirs)


@pytest.mark.parametrize("name", ["ce", "root"])
def test_half_precision_logits_of_a_large_batch_neither_overflow_nor_lose_digits(name):
    logits, labels = torch.randn(16, 1025, 8) * 30, torch.zeros(16, 1025, dtype=torch.long)
    for dtype in (torch.float16, torch.bfloat16):
        half = logits.to(dtype)
        for count in (16 * 1024, None):
            got, want = (CausalLMLoss(name)((x,), labels, count) for x in (half, half.float()))
            assert got.isfinite() and torch.equal(got, want)


def test_a_step_without_a_label_is_zero_and_moves_nothing():
    logits, labels = batch()
    loss = CausalLMLoss()((logits,), torch.full_like(labels, -100), torch.tensor(0))
    assert loss == 0 and torch.equal(torch.autograd.grad(loss, logits)[0], torch.zeros_like(logits))


@pytest.mark.parametrize(
    "arguments,said",
    [
        ({"loss": "rot"}, "did you mean root"),
        ({"loss": "ce", "k": 3}, "'ce' has no k and m"),
        ({"loss": "root", "alpha": 0.5}, "'root' has no alpha"),
        ({"k": 0}, "k must be"),
        ({"ignore_index": 0}, "must be -100"),
        ({"level": "word"}, "token or sequence"),
        ({"level": "sequence", "label_smoothing": 0.1}, "without weight and label_smoothing"),
        ({"router_aux_loss_coef": -1.0}, "router_aux_loss_coef must be"),
    ],
)
def test_mistakes_are_found_when_it_is_made(arguments, said):
    with pytest.raises(ValueError, match=said):
        CausalLMLoss(**arguments)


def output(name="CausalLMOutput", **values):
    """What a model of transformers returns, as far as the loss looks."""
    return type(name, (SimpleNamespace,), {})(**values)


def test_outputs_and_labels_that_are_missing_or_do_not_fit_are_named():
    logits, labels = batch()
    for outputs, given, said in (
        ((logits,), None, "labels"),
        ((logits,), labels[:, 1:], r"\(3, 9\), got \(3, 8\)"),
        ((torch.zeros(4, 5),), torch.zeros(4).long(), r"next words.*got \(4, 5\); for one class a sample"),
        (output(logits=None, loss=logits.sum()), labels, "no logits.*root_from_ce"),
        ({"loss": logits.sum()}, labels, "no logits"),
        ((None,), labels, "no logits"),
        ((logits.sum(), logits), labels, "no logits"),
        (output("Seq2SeqLMOutput", logits=logits), labels, r"Seq2SeqLMOutput.*shift=False"),
        (output("MaskedLMOutput", logits=logits), labels, "shift=False"),
    ):
        with pytest.raises(ValueError, match=said):
            CausalLMLoss()(outputs, given)


def test_labels_that_are_aligned_or_shifted_already_are_used_as_they_are():
    logits, labels = batch()
    want = losses.root_loss(logits.flatten(0, 1), labels.flatten(), 5, 5)
    aligned = output("Seq2SeqLMOutput", logits=logits)
    torch.testing.assert_close(CausalLMLoss(shift=False)(aligned, labels), want)
    torch.testing.assert_close(CausalLMLoss()((logits,), None, shift_labels=labels), want)


def test_the_plain_cross_entropy_is_kept_for_logs():
    logits, labels = batch()
    want = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    for options in ({}, {"label_smoothing": 0.1}, {"loss": "poly1"}, {"weight": torch.rand(11)}):
        loss = CausalLMLoss(**options)
        value = loss((logits,), labels, 100)
        torch.testing.assert_close(loss.last_ce, want.detach())
        assert value != want and value.requires_grad and not loss.last_ce.requires_grad


def test_annealing_moves_k():
    logits, labels = batch()
    loss = CausalLMLoss("root", k=5, m=5)
    loss.anneal(2.0)
    torch.testing.assert_close(loss((logits,), labels), CausalLMLoss("root", k=2, m=2)((logits,), labels))
    with pytest.raises(ValueError, match="only root and rlo"):
        CausalLMLoss("ce").anneal(2.0)


def test_the_loss_that_balances_experts_is_added_or_warned_of_once():
    logits, labels = batch()
    outputs = output(logits=logits, aux_loss=torch.tensor(2.0))
    plain = CausalLMLoss()((logits,), labels)
    torch.testing.assert_close(CausalLMLoss(router_aux_loss_coef=0.5)(outputs, labels), plain + 1)
    twice = CausalLMLoss(router_aux_loss_coef=0.5)(outputs, labels, 2 * int((labels[:, 1:] != -100).sum()))
    torch.testing.assert_close(twice, (plain + 1) / 2)  # one of two micro-batches
    loss = CausalLMLoss()
    with pytest.warns(UserWarning, match=r"aux_loss.*model\.config\.router_aux_loss_coef"):
        torch.testing.assert_close(loss(outputs, labels), plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(outputs, labels)


@pytest.mark.parametrize("name", ["root", "rlo", "focal", "ce"])
def test_a_whole_text_is_trusted_or_not(name):
    logits, labels = batch()
    loss = CausalLMLoss(name, level="sequence")
    ell = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    counts = (labels[:, 1:] != -100).sum(1)
    function = {
        "root": lambda x: losses.root_from_ce(x, 5, 5), "rlo": lambda x: losses.rlo_from_ce(x, 5, 5),
        "focal": losses.focal_from_ce, "ce": lambda x: x,
    }[name]  # fmt: skip
    want = (counts * function(ell.sum(1) / counts)).sum() / counts.sum()
    torch.testing.assert_close(loss((logits,), labels), want)
    # The same three texts packed in a row: each begins at position 0, where nothing is predicted.
    labels[:, 0] = -100
    packed = {"position_ids": torch.arange(9).repeat(3)[None]}
    torch.testing.assert_close(loss((logits.view(1, 27, 11),), labels.view(1, 27), **packed), want)
    with pytest.raises(ValueError, match="position_ids"):
        loss((logits.view(1, 27, 11),), labels.view(1, 27))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """``trained(batch, accumulate)``: the weights after an epoch of 16 uneven texts, from the same start."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(50, (int(n),), generator=generator) for n in torch.randint(3, 30, (16,))]

    def collate(texts):
        """Pad to the longest; padding is -100 in the labels."""
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(texts, batch_first=True),
            "attention_mask": pad([torch.ones_like(t) for t in texts], batch_first=True),
            "labels": pad(texts, batch_first=True, padding_value=-100),
        }

    def run(loss, size, accumulate):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
        arguments = transformers.TrainingArguments(
            str(tmp_path_factory.mktemp("trainer")), per_device_train_batch_size=size, num_train_epochs=2,
            gradient_accumulation_steps=accumulate, learning_rate=0.5, optim="sgd", report_to=[],
            save_strategy="no", use_cpu=True, disable_tqdm=True, max_grad_norm=0,
            lr_scheduler_type="constant", logging_strategy="no",
        )  # fmt: skip
        transformers.Trainer(
            model, arguments, train_dataset=texts, data_collator=collate, compute_loss_func=loss
        ).train()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["root", "rlo", "ce"])
def test_the_trainer_ends_with_the_same_weights_however_it_accumulates(trained, name):
    whole = trained(CausalLMLoss(name), 8, 1)
    for size, accumulate in ((4, 2), (1, 8)):
        assert (trained(CausalLMLoss(name), size, accumulate) - whole).abs().max() < 1e-5


def test_a_mean_over_each_micro_batch_does_not(trained):
    """What the loss is for: the texts are uneven enough, and the steps large enough, to tell."""

    def mean(outputs, labels, num_items_in_batch=None):
        return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    assert (trained(mean, 1, 8) - trained(mean, 8, 1)).abs().max() > 1e-3


@pytest.mark.slow
def test_trl_ends_with_the_same_weights_however_it_accumulates_and_its_dft_is_root_at_1(tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    import tokenizers
    import transformers

    words = tokenizers.models.WordLevel({f"w{i}": i for i in range(50)}, unk_token="w0")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(words), unk_token="w0", pad_token="w1", eos_token="w2"
    )
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 30, (16,), generator=generator).tolist()
    texts = datasets.Dataset.from_dict(
        {"input_ids": [torch.randint(3, 50, (n,), generator=generator).tolist() for n in lengths]}
    )
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, bos_token_id=2, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip

    class RootedTrainer(trl.SFTTrainer):  # as docs/language-models.md has it
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs, use_cache=False, fused_lm_head=True)
            n = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
            loss = (losses.root_from_ce(-outputs.log_probs, 5, 5) * outputs.label_mask).sum() / n
            if num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes
            return (loss, outputs) if return_outputs else loss

    def trained(size, accumulate, trainer=trl.SFTTrainer, loss_type="nll", **loss):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
        arguments = trl.SFTConfig(
            str(tmp_path), per_device_train_batch_size=size, gradient_accumulation_steps=accumulate,
            num_train_epochs=2, learning_rate=0.5, optim="sgd", report_to=[], save_strategy="no", use_cpu=True,
            bf16=False, disable_tqdm=True, max_grad_norm=0, lr_scheduler_type="constant",
            logging_strategy="no", loss_type=loss_type,
        )  # fmt: skip
        trainer(model, arguments, train_dataset=texts, processing_class=tokenizer, **loss).train()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    root = {"compute_loss_func": CausalLMLoss("root", k=5, m=5)}
    whole = trained(8, 1, **root)
    for size, accumulate in ((2, 4), (1, 8)):
        assert (trained(size, accumulate, **root) - whole).abs().max() < 1e-5
        assert (trained(size, accumulate, RootedTrainer) - whole).abs().max() < 1e-5
    ours = trained(4, 2, compute_loss_func=CausalLMLoss("root", k=1, m=1))
    assert (trained(4, 2, loss_type="dft") - ours).abs().max() < 1e-6
