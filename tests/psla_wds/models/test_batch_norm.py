"""Ghost groups against torch's BatchNorm on each group alone; and what is refused."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from psla_wds.errors import ConfigError
from psla_wds.models.batch_norm import (
    GhostBatchNorm2d,
    check_batch_norm,
    ghost_norms,
    normalise_over,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_groups_are_normalised_alone_and_the_first_remembered():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3))
    nn.init.normal_(plain[0].weight)
    ghost = normalise_over("groups", 2, deepcopy(plain))
    assert isinstance(ghost[0], GhostBatchNorm2d)
    assert ghost.state_dict().keys() == plain.state_dict().keys()
    maps = torch.randn(6, 3, 4, 5) + torch.arange(6.0)[:, None, None, None]
    maps = maps.to(memory_format=torch.channels_last).requires_grad_()
    found = ghost(maps)
    statistics = deepcopy(ghost.state_dict())
    expected = [plain(group) for group in maps.split(2)]
    torch.testing.assert_close(found, torch.cat(expected))
    assert found.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(found.square().sum() + found[0].sum(), maps)
    (wanted,) = torch.autograd.grad(torch.cat(expected).square().sum() + expected[0][0].sum(), maps)
    torch.testing.assert_close(gradient, wanted)

    first = nn.BatchNorm2d(3, momentum=0.3)
    first(maps[:2])
    torch.testing.assert_close(statistics["0.running_mean"], first.running_mean)
    torch.testing.assert_close(statistics["0.running_var"], first.running_var)
    for norm in ghost_norms(ghost):
        norm.has_first_group = False
    ghost(maps)
    assert torch.equal(ghost[0].running_mean, statistics["0.running_mean"])
    plain.load_state_dict(ghost.state_dict())
    assert torch.equal(ghost.eval()(maps), plain.eval()(maps))


@pytest.mark.parametrize(
    ("over", "group", "clips", "message"),
    [
        ("batch", None, 8, "needs GPUs"),
        ("groups", None, 8, "not None"),
        ("groups", 5, 8, "no whole groups of 5[^$]*--batch-norm-group 4"),
    ],
)
def test_groups_that_do_not_fit_the_batch_are_refused(over, group, clips: int, message: str):
    with pytest.raises(ConfigError, match=message):
        check_batch_norm(over, group, clips_per_pass=clips, device=CPU)


def test_groups_that_fit_the_batch_are_accepted():
    check_batch_norm("rank", None, clips_per_pass=7, device=CPU)
    check_batch_norm("groups", 4, clips_per_pass=8, device=CPU)
    check_batch_norm("batch", None, clips_per_pass=7, device=CUDA)
    model = normalise_over("batch", None, nn.Sequential(nn.BatchNorm2d(3)))
    assert isinstance(model[0], nn.SyncBatchNorm)


class Fused(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize("layer", [nn.GroupNorm(1, 3), Fused(3)])
def test_a_network_without_plain_batch_norm_is_refused(layer: nn.Module):
    with pytest.raises(ConfigError, match="no plain BatchNorm"):
        normalise_over("groups", 2, nn.Sequential(layer))
