"""A trunk that only scores: the same function with fewer passes over its maps."""

from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class _Layers(fx.Tracer):
    """Convolutions are layers, also those of efficientnet_pytorch, which pad by themselves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def simplify(trunk: nn.Module) -> None:
    """Fold each BatchNorm into the convolution before it, and padding into convolutions.

    The trunk is in evaluation mode; its scores stay the same but for rounding. A network whose
    code cannot be traced stays as it is.
    """
    for convolution in trunk.modules():
        padding = getattr(convolution, "static_padding", None)  # of efficientnet_pytorch
        if isinstance(convolution, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d):
            left, right, top, bottom = padding.padding
            if left == right and top == bottom:
                convolution.padding, convolution.static_padding = (top, left), nn.Identity()
    for of_convolution, of_norm in _pairs(trunk):
        convolution, norm = trunk.get_submodule(of_convolution), trunk.get_submodule(of_norm)
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        with torch.no_grad():
            trunk.set_submodule(of_convolution, fuse_conv_bn_eval(convolution, norm))
        trunk.set_submodule(of_norm, nn.Identity())


def _pairs(trunk: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution whose output only a BatchNorm takes, and of that."""
    try:
        nodes = list(_Layers().trace(trunk).nodes)
    except Exception:  # whatever a network's code raises when its inputs have no values
        return []
    calls = Counter(node.target for node in nodes if node.op == "call_module")

    def once(node: Any, kind: type[nn.Module]) -> bool:
        is_call = isinstance(node, fx.Node) and node.op == "call_module"
        layer = trunk.get_submodule(node.target) if is_call else None
        return isinstance(layer, kind) and calls[node.target] == 1

    return [
        (str(node.args[0].target), str(node.target))  # type: ignore[union-attr]
        for node in nodes
        if once(node, nn.BatchNorm2d)
        and once(node.args[0], nn.Conv2d)
        and len(node.args[0].users) == 1  # type: ignore[union-attr]
    ]
