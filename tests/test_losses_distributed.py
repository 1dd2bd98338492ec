"""The losses of logits, and of a language model's head, that two processes share."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import losses
from losses import focal_loss, linear_root_loss, rlo_loss, root_loss

LOSSES = {"root": root_loss, "rlo": rlo_loss, "focal": focal_loss}


def in_two_processes(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    check_logits()
    check_heads()
    dist.destroy_process_group()


def check_logits():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.parallel import loss_parallel

    g = torch.Generator().manual_seed(0)
    z = torch.randn(12, 8, generator=g, dtype=torch.float64)
    y = torch.randint(8, (12,), generator=g)
    y[3] = -100
    weight = torch.linspace(0.2, 3, 8, dtype=torch.float64)
    mesh = init_device_mesh("cpu", (2,))

    def same(loss, placement, labels, options, **given):
        whole = z.clone().requires_grad_()
        want = loss(whole, y, **given)
        want.backward()
        shared = distribute_tensor(z, mesh, [placement]).requires_grad_()
        got = loss(shared, labels, **options)
        got.backward()
        got = got.full_tensor() if isinstance(got, DTensor) else got
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
        torch.testing.assert_close(shared.grad.full_tensor(), whole.grad, rtol=0, atol=1e-12)

    everywhere = distribute_tensor(y, mesh, [Replicate()])
    for loss in LOSSES.values():
        for given in ({}, {"weight": weight}):
            options = {name: distribute_tensor(value, mesh, [Replicate()]) for name, value in given.items()}
            same(loss, Shard(0), distribute_tensor(y, mesh, [Shard(0)]), options, **given)
            same(loss, Shard(1), everywhere, options, **given)
        with loss_parallel():
            for labels in (y, everywhere):
                same(loss, Shard(1), labels, {})
            shared = distribute_tensor(z, mesh, [Shard(1)])
            for target, options in ((y, {"label_smoothing": 0.1}), (shared.detach().softmax(1), {})):
                with pytest.raises(ValueError, match="loss_parallel"):
                    loss(shared, target, **options)
    with loss_parallel():
        shared = distribute_tensor(z.view(2, 6, 8), mesh, [Shard(2)]).requires_grad_()
        got = losses.CausalLMLoss("root")((shared,), y.view(2, 6), torch.tensor(10))
        got.backward()
        whole = z.view(2, 6, 8).clone().requires_grad_()
        want = losses.CausalLMLoss("root")((whole,), y.view(2, 6), torch.tensor(10))
        want.backward()
        torch.testing.assert_close(shared.grad.full_tensor(), whole.grad, rtol=0, atol=1e-12)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 40, bias=False)

    def forward(self, x, target, loss):
        return loss(self.body(x), self.head.weight, target)


def check_heads():
    """DistributedDataParallel and FSDP2: a head inside the wrapped forward trains as with the plain loss."""
    from torch.distributed.fsdp import fully_shard

    def plain(hidden, weight, target):
        return root_loss(F.linear(hidden, weight), target)

    x = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(1))
    y = torch.randint(40, (2, 16), generator=torch.Generator().manual_seed(2))
    reference = Model()
    (plain(reference.body(x[0]), reference.head.weight, y[0]) / 2).backward()
    (plain(reference.body(x[1]), reference.head.weight, y[1]) / 2).backward()
    wanted = [p.grad for p in reference.parameters()]
    for wrap in (nn.parallel.DistributedDataParallel, fully_shard):
        net = wrap(Model())
        net(x[dist.get_rank()], y[dist.get_rank()], linear_root_loss).backward()
        found = [getattr(p.grad, "full_tensor", lambda g=p.grad: g)() for p in net.parameters()]
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="DTensor"):
        linear_root_loss(x[0], net.head.weight, y[0])


@pytest.mark.slow
def test_losses_of_shared_logits_and_heads_are_those_of_the_whole(tmp_path):
    torch.multiprocessing.spawn(in_two_processes, (tmp_path / "store",), nprocs=2)
