"""What the paper's networks cost a clip, and what a GPU could train at most: an estimate.

    python -m benchmarks.model_cost

Counted on tensors without memory, with the trunk in bfloat16. Operations are those of convolutions
and matrix products (a multiplication and an addition are two); an input's and a weight's gradient
cost what the forward pass does. Bytes moved: each operation reads its arguments once and writes its
results once, views are free; "fused" leaves elementwise operations and padding out, as if each were
fused into its neighbours. The optimizer's traffic is not counted.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count
from tqdm import tqdm

from benchmarks.harness import RESULTS, machine, write
from benchmarks.table_forms import costs
from psla_wds import cli
from psla_wds.models.audio_tagger import AudioTagger, loss
from psla_wds.models.config import Head, ModelConfig

NETWORKS: tuple[tuple[str, Head], ...] = (
    ("mobilenet-v2", "linear"),
    ("efficientnet-b0", "single-head-attention"),
    ("efficientnet-b2", "mean-pooling"),
    ("efficientnet-b2", "single-head-attention"),
    ("efficientnet-b2", "multi-head-attention"),
    ("resnet-50", "single-head-attention"),
)
# Elementwise operations, or as good as, that torch does not tag as such.
UNTAGGED = (
    torch.ops.aten.constant_pad_nd.default,
    torch.ops.aten.hardtanh_.default,
    torch.ops.aten.hardtanh_backward.default,
)
NUM_CLASSES, NUM_FRAMES, NUM_MELS = 527, 1056, 128


@dataclass(frozen=True)
class Args:
    tflop_per_s: float = 989.0
    """Peak of the GPU for dense products in bfloat16; the default is NVIDIA's for an H200."""
    gb_per_s: float = 4800.0
    """Bandwidth of its memory; the default is NVIDIA's for an H200."""
    batch_size: int = 100
    """Clips of a forward pass, which share the reading of the weights."""
    output: Path = RESULTS / "model_cost.json"


@dataclass(frozen=True)
class Cost:
    """Of a clip in training, but for the parameters."""

    name: str
    parameters: int
    forward_gflop: float
    training_gflop: float
    """Forward and backward."""
    saved_mib: float
    """Activations that the forward pass keeps for the backward pass."""
    moved_mib: float
    """Between the GPU and its memory, forward and backward."""
    fused_mib: float
    """The same with elementwise operations fused."""


class Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.fused = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        written = sum(_bytes(leaf) for leaf in tree_leaves(result))
        if written and not func.is_view:  # what writes nothing, such as prim.device, moves nothing
            moved = written + sum(_bytes(leaf) for leaf in tree_leaves((args, kwargs)))
            self.moved += moved
            elementwise = torch.Tag.pointwise in func.tags or func in UNTAGGED
            self.fused += 0 if elementwise else moved
        return result


def _bytes(leaf: object) -> int:
    return leaf.numel() * leaf.element_size() if isinstance(leaf, Tensor) else 0


def cost(backbone: str, head: Head, *, batch_size: int, num_frames: int = NUM_FRAMES) -> Cost:
    """Count one pass over a batch of spectrograms, the paper's unless of other frames."""
    with FakeTensorMode():
        model = AudioTagger(ModelConfig(backbone=backbone, head=head), NUM_CLASSES)
        log_mel = torch.zeros(batch_size, num_frames, NUM_MELS)
        targets = torch.zeros(batch_size, NUM_CLASSES)
        kept: dict[int, int] = {}  # bytes by storage: one that is kept twice counts once
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        with _flop_counter() as flops, Traffic() as traffic:
            with (
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16),
            ):
                error = loss(model(log_mel), targets)
            forward = flops.get_total_flops()
            error.backward()
        parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(
        f"{backbone}, {head}",
        parameters,
        forward / batch_size / 1e9,
        flops.get_total_flops() / batch_size / 1e9,
        sum(kept.values()) / batch_size / 2**20,
        traffic.moved / batch_size / 2**20,
        traffic.fused / batch_size / 2**20,
    )


def _flop_counter() -> FlopCounterMode:
    """torch's, but for the gradients of grouped convolutions, which it takes for dense ones."""
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _gradient_flops}
    )


def _gradient_flops(grad_shape, input_shape, weight_shape, *settings, **_) -> int:  # type: ignore[no-untyped-def]
    *_, (needs_input, needs_weight, _bias) = settings
    return (needs_input + needs_weight) * conv_flop_count(input_shape, weight_shape, grad_shape)


def estimate(args: Args) -> dict[str, Any]:
    """Costs, and the clips per second that either limit of the GPU alone would allow."""
    results = []
    for backbone, head in tqdm(NETWORKS, desc="networks"):
        counted = cost(backbone, head, batch_size=args.batch_size)
        results.append(
            asdict(counted)
            | {
                "compute_bound_clips_per_s": args.tflop_per_s * 1e3 / counted.training_gflop,
                "memory_bound_clips_per_s": args.gb_per_s * 1e9 / 2**20 / counted.moved_mib,
                "fused_memory_bound_clips_per_s": args.gb_per_s * 1e9 / 2**20 / counted.fused_mib,
            }
        )
    return {
        "title": f"Training on a clip of {NUM_FRAMES} frames, {NUM_CLASSES} classes",
        "conditions": {
            "tflop_per_s": args.tflop_per_s,
            "gb_per_s": args.gb_per_s,
            "batch_size": args.batch_size,
        },
        "machine": machine(),
        "results": results,
    }


def main() -> None:
    args = cli.parse(Args, __doc__, prog="python -m benchmarks.model_cost")
    content = estimate(args)
    print(costs(content))
    write(content, args.output)


if __name__ == "__main__":
    cli.run(main)
