"""Forward passes on the cores of a CPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

LARGEST_PART = 8
"""Rows of a part: more need more memory, and are no faster."""


class OnCores:
    """A forward pass of which each core computes a part of the batch.

    torch lets its threads share each operator, and they wait for one another at its end: a core
    that decodes meanwhile, or that another program uses, then holds up all others, again and again.
    A GPU, a batch of one row and a process with one thread get the whole batch.
    """

    def __init__(self, forward: Callable[..., tuple[Tensor, ...]], device: torch.device) -> None:
        """`forward` takes and gives tensors whose rows belong together; it runs without
        gradients."""
        self._forward = forward
        self.threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(
            self.threads, "forward", initializer=torch.set_num_threads, initargs=(1,)
        )

    def __call__(self, *inputs: Tensor, **settings: object) -> tuple[Tensor, ...]:
        """The outputs for a batch; `settings` go to `forward` as they are."""
        rows, compute = len(inputs[0]), partial(self._part, **settings)
        if self.threads == 1 or rows == 1:
            return compute(*inputs)
        size = min(-(-rows // self.threads), LARGEST_PART)
        parts = self._pool.map(compute, *(tensor.split(size) for tensor in inputs))
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
        torch.set_num_threads(torch.get_num_threads())  # MKL's number is that of the process

    def _part(self, *inputs: Tensor, **settings: object) -> tuple[Tensor, ...]:
        # Here, since the mode belongs to a thread.
        with torch.inference_mode():
            return self._forward(*inputs, **settings)
