"""The graph on a GPU: the numbers of the CPU's graph, and a hand-over that is ordered."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reference.front_end import assert_same_log_mel, decode, front_end, kaldi_log_mel
from reference.signals import SIGNALS, encode, mixed_batch, plain_batch, source_of, white_noise

from psla_wds.features.config import FeatureConfig
from psla_wds.features.dali import Feed, FrontEnd, UndecodableBatchError
from psla_wds.features.encoded_batch import EncodedBatch

pytestmark = pytest.mark.gpu

DEFAULT = FeatureConfig()
FEW_FRAMES = replace(DEFAULT, num_frames=100)
LONG_ENOUGH_CYCLES = 50_000_000  # of a sleeping kernel: tens of ms, many batches


def open_front_end(
    batches: list[EncodedBatch], features: FeatureConfig, device: str = "cuda"
) -> FrontEnd:
    return FrontEnd(
        Feed(source_of(*batches), features),
        batch_size=max(len(batch.audio) for batch in batches),
        num_threads=4,
        device=torch.device(device),
    )


def noise_batches(count: int) -> list[EncodedBatch]:
    return [
        plain_batch([encode(white_noise(10_000 + 16 * number + draw)) for draw in range(8)])
        for number in range(count)
    ]


def log_mel_of(output: torch.Tensor) -> torch.Tensor:
    return output.cpu() * DEFAULT.std + DEFAULT.mean


@pytest.mark.parametrize("kind", SIGNALS)
def test_log_mel_equals_torchaudios_fbank(kind: str):
    audio = encode(SIGNALS[kind](48_000))
    output, _ = open_front_end([plain_batch([audio])], DEFAULT).run()
    assert output.is_cuda
    expected = kaldi_log_mel(decode(audio), DEFAULT)
    assert_same_log_mel(log_mel_of(output)[0, : len(expected)], expected)


@pytest.mark.parametrize("container", ["FLAC", "WAV", "OGG"])
def test_the_gpu_equals_the_cpu_and_the_reference(container: str):
    batch = mixed_batch(container)
    on_gpu = log_mel_of(open_front_end([batch], DEFAULT).run()[0])
    on_cpu = log_mel_of(open_front_end([batch], DEFAULT, "cpu").run()[0])
    assert_same_log_mel(on_gpu, on_cpu)
    assert_same_log_mel(on_gpu, log_mel_of(front_end(batch, DEFAULT)))


def test_clips_of_every_length_work():
    batch = plain_batch([encode(white_noise(n), "WAV") for n in range(1, 1_001)])
    on_gpu, on_cpu = (
        open_front_end([batch], FEW_FRAMES, d).run()[0].cpu() for d in ("cuda", "cpu")
    )
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=1e-3)


@pytest.mark.parametrize("on_side_stream", [False, True], ids=["default stream", "side stream"])
def test_a_dropped_output_outlives_the_work_queued_on_it(on_side_stream: bool):
    batches = noise_batches(40)
    stream = torch.cuda.Stream() if on_side_stream else torch.cuda.current_stream()
    front = open_front_end(batches, FEW_FRAMES)
    results = []
    with torch.cuda.stream(stream):
        for _ in batches:
            output, _ = front.run()
            torch.cuda._sleep(LONG_ENOUGH_CYCLES)  # the copy below is far behind the host
            results.append(output.clone())
            del output
    torch.cuda.synchronize()
    for batch, result in zip(batches, results, strict=True):
        expected = front_end(batch, FEW_FRAMES)
        torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=1e-3)


def test_a_damaged_clip_costs_its_batch_and_no_other():
    batches = noise_batches(8)
    for bad in (0, 3, 4):
        batches[bad].audio[2] = batches[bad].audio[2][: len(batches[bad].audio[2]) // 2]
    front = open_front_end(batches, FEW_FRAMES)
    for number, batch in enumerate(batches):
        if number in (0, 3, 4):
            with pytest.raises(UndecodableBatchError) as caught:
                front.run()
            assert caught.value.batch is batch
        else:
            expected = front_end(batch, FEW_FRAMES)
            torch.testing.assert_close(front.run()[0].cpu(), expected, rtol=0, atol=1e-3)


def test_inputs_may_be_overwritten_once_released():
    batches = noise_batches(20)
    front = open_front_end(batches, FEW_FRAMES)
    for number, batch in enumerate(batches):
        expected = front_end(batch, FEW_FRAMES)
        output, _ = front.run()
        if number > 0:  # released when this call began
            batches[number - 1].draws.lam[:] = np.nan
        torch.testing.assert_close(output.cpu(), expected, rtol=0, atol=1e-3)
