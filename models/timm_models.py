"""Any net of timm by name, and ViT-B/16 at 384 px for fine-tuning."""

import contextlib
import functools
import socket
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
    on_meta_device,
    patches_per_side,
    register,
)
from .weights import WeightsUnavailable

PREFIX = "timm:"
NETWORK_TIMEOUT = 10  # seconds for a server to answer


def find_timm(name: str, pretrained: bool = False) -> Net:
    """What is known of timm's net `name` (with or without a pretrained tag) before it is built.

    Its native size is that of its published weights, if those are wanted (`pretrained`) or the net is
    built for one size.

    Raises
    ------
    ModelError
        timm has no such net or no such tag; the message lists near matches.
    """
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


# timm's files whose nets mix tokens by self-attention throughout; what only ends in it, or has it in a branch
# of a convolutional net, learns at a CNN's rate.
_TRANSFORMERS = frozenset(
    "beit cait coat convit crossvit davit deepseek_vit deit efficientformer efficientformer_v2 "
    "efficientvit_mit efficientvit_msra eva fastvit gcvit gemma4_vit hiera hieradet_sam2 iformer levit "
    "maxxvit metaformer "
    "mobilevit mvitv2 naflexvit nest nextvit pit pvt_v2 qwen3_vit shvit swiftformer swin_transformer "
    "swin_transformer_v2 swin_transformer_v2_cr tiny_vit tnt twins vision_transformer "
    "vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam visformer vitamin volo "
    "xcit".split()
)


def timm_facts(name: str, pretrained: bool) -> Facts:
    """What timm's net wants: its file says what kind it is, its configuration what its weights expect."""
    file = timm.models.model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2]
    # thousands of nets, some of which wait for the GPU inside
    facts = replace(TRANSFORMER if file in _TRANSFORMERS else CNN, recordable=False)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        return facts
    if not pretrained:
        return replace(facts, native_size=cfg.input_size[-1] if cfg.fixed_input_size else None)
    wants = timm.data.resolve_data_config(pretrained_cfg=cfg.to_dict())
    return replace(
        facts,
        native_size=wants["input_size"][-1],
        mean=tuple(wants["mean"]),
        std=tuple(wants["std"]),
        interpolation=wants["interpolation"],
        crop_pct=wants["crop_pct"],
    )


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
        _check_patches(model, spec)
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


def _check_patches(model: nn.Module, spec: Spec) -> None:
    """timm's ViTs accept sizes that are no whole number of patches and drop the pixels that are left over."""
    embed = getattr(model, "patch_embed", None)
    if isinstance(embed, PatchEmbed) and not embed.dynamic_img_pad:
        patches_per_side(spec.image_size, embed.patch_size[0])


def _try_one_image(model: nn.Module, spec: Spec) -> tuple[int, ...]:
    if on_meta_device():  # some nets of timm compute with values and cannot run there
        return (1, spec.num_classes)
    model.eval()
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, spec.image_size, spec.image_size))
    model.train()
    return tuple(getattr(logits, "shape", ()))


def _create_pretrained(name: str, cfg, options: dict) -> nn.Module:
    if not timm.is_model_pretrained(name):
        raise WeightsUnavailable(
            f"timm has no pretrained weights for {name}; --checkpoint FILE loads your own"
        )
    try:
        with _network_timeout(NETWORK_TIMEOUT):
            _ask_hub_once(cfg)
            return timm.create_model(name, pretrained=True, **options)
    except Exception as error:
        if not _is_network_error(error):
            raise
        raise WeightsUnavailable(
            f"the pretrained weights of {name} cannot be downloaded ({type(error).__name__}); "
            "fetch them where there is a network and pass --checkpoint FILE"
        ) from error


def _ask_hub_once(cfg) -> None:
    """Fail now if the weights are neither in the local cache nor within reach.

    huggingface_hub by itself retries two file names six times each: 48 s without a name server, minutes
    behind a firewall that drops packets.
    """
    if not cfg.hf_hub_id:
        return
    import huggingface_hub as hub  # what timm downloads with; only this path needs it

    repo, _, revision = cfg.hf_hub_id.partition("@")
    revision = revision or None
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    if any(isinstance(hub.try_to_load_from_cache(repo, n, revision=revision), str) for n in names):
        return
    with contextlib.suppress(hub.utils.EntryNotFoundError):  # the hub answered; timm tries other file names
        hub.get_hf_file_metadata(hub.hf_hub_url(repo, names[0], revision=revision), timeout=NETWORK_TIMEOUT)


@contextlib.contextmanager
def _network_timeout(seconds: float):
    """Give a timeout to sockets without one: urllib's, for the few weights that are not on the hub."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _is_network_error(error: Exception) -> bool:
    # The hub's errors and those of the HTTP client of its version share no base class
    packages = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, OSError) or bool(packages & {"huggingface_hub", "httpx", "httpx2"})
