"""Any net of timm by name, and ViT-B/16 at 384 px for fine-tuning."""

import contextlib
import functools
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from torch import nn

from common import did_you_mean

from .registry import (
    CNN,
    TRANSFORMER,
    Facts,
    ModelError,
    Net,
    Spec,
    WeightsUnavailable,
    on_meta_device,
    patches_per_side,
    register,
)

PREFIX = "timm:"
NETWORK_TIMEOUT = 10  # seconds for a server to answer


def find_timm(name: str, pretrained: bool = False) -> Net:
    """What `find_net` is for our nets, for timm's net `name`, with or without a tag of its pretrained weights."""
    known = timm.list_models() + timm.list_pretrained()
    name = name if name in known else name.lower()
    if name not in known:
        hint = did_you_mean(name, known, 5) or "; timm.list_models() lists them"
        raise ModelError(f"timm has no net called {name!r}{hint}")
    return Net(
        name=PREFIX + name,
        build=functools.partial(build_timm, name=name),
        facts=timm_facts(name, pretrained),
        published_weights=True,
    )


def timm_facts(name: str, pretrained: bool) -> Facts:
    """What timm's net wants, from its configuration; with `pretrained`, what its published weights expect.

    A net that is built for one image size, or embeds patches of the image, is a transformer as a rule, and learns
    at a transformer's rate.
    """
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        return replace(CNN, recordable=False)
    transformer = cfg.fixed_input_size or "embed" in str(cfg.first_conv)
    # some of timm's nets wait for the GPU in their forward pass
    facts = replace(TRANSFORMER if transformer else CNN, recordable=False)
    if not pretrained:
        return replace(facts, native_size=cfg.input_size[-1] if cfg.fixed_input_size else None)
    wants = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
    of_weights = {name: wants[name] for name in ("mean", "std", "interpolation", "crop_pct")}
    return replace(facts, native_size=wants["input_size"][-1], **of_weights)


@register(
    "vit_timm",
    name="vit_base_patch16_384",
    facts=timm_facts("vit_base_patch16_384", pretrained=True),
    published_weights=True,
    pretrained_by_default=True,
)
def build_timm(spec: Spec, name: str) -> nn.Module:
    """timm's net `name` with a new head; `patch_size` and `dim` do not concern it.

    Nets that are built for one image size are built for `spec.image_size`, and timm resamples the
    pretrained position embeddings to it. Whether the net takes the size is tried with one image, before
    any download.

    Shapes
    ------
    images (B, 3, H, W) → logits (B, num_classes)

    Raises
    ------
    ModelError
        The net does not take images of this size or does not classify.
    WeightsUnavailable
        `spec.pretrained`, and the weights do not exist or cannot be downloaded.

    References
    ----------
    Wightman, *PyTorch Image Models*, https://github.com/huggingface/pytorch-image-models.
    """
    cfg = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {"num_classes": spec.num_classes}
    if cfg and cfg.fixed_input_size:
        options["img_size"] = spec.image_size
    try:
        model = timm.create_model(name, **options)
        embed = getattr(model, "patch_embed", None)
        if isinstance(embed, PatchEmbed) and not embed.dynamic_img_pad:
            patches_per_side(
                spec.image_size, embed.patch_size[0]
            )  # timm would drop the pixels that are left over
        logits_shape = _try_one_image(model, spec)
    except (AssertionError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        native = f"; its native size is {cfg.input_size[-1]} px" if cfg else ""
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"{PREFIX}{name} does not take images of {spec.image_size} px ({reason}){native}"
        ) from error
    if logits_shape != (1, spec.num_classes):
        raise ModelError(f"{PREFIX}{name} is not a classifier: one image gives {logits_shape}")
    if not spec.pretrained:
        return model
    return _create_pretrained(name, cfg, options)


def _try_one_image(model: nn.Module, spec: Spec) -> tuple[int, ...]:
    if on_meta_device():  # some nets of timm compute with values and cannot run there
        return (1, spec.num_classes)
    model.eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, spec.image_size, spec.image_size))
    model.train()
    return tuple(getattr(logits, "shape", ()))


def _create_pretrained(name: str, cfg, options: dict) -> nn.Module:
    """The net with its published weights; it has been built without them, so what fails here is the download."""
    if not timm.is_model_pretrained(name):
        raise WeightsUnavailable(
            f"timm has no pretrained weights for {name}; --checkpoint FILE loads your own"
        )
    try:
        _ask_hub_once(cfg)
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:
        raise WeightsUnavailable(
            f"the pretrained weights of {name} cannot be downloaded ({type(error).__name__}); "
            "fetch them where there is a network and pass --checkpoint FILE"
        ) from error


def _ask_hub_once(cfg) -> None:
    """Fail within seconds if the weights are neither in the local cache nor within reach.

    huggingface_hub by itself retries for a minute without a name server, for several behind a firewall.
    """
    if not cfg.hf_hub_id:
        return
    import huggingface_hub as hub  # what timm downloads with; only this path needs it

    repo, _, revision = cfg.hf_hub_id.partition("@")
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    if any(isinstance(hub.try_to_load_from_cache(repo, n, revision=revision or None), str) for n in names):
        return
    url = hub.hf_hub_url(repo, names[0], revision=revision or None)
    with contextlib.suppress(hub.utils.EntryNotFoundError):  # the hub answered; timm tries other file names
        hub.get_hf_file_metadata(url, timeout=NETWORK_TIMEOUT)
