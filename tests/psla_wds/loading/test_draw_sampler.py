"""The draws alone: the rows of training for any rank and epoch, and docs/use_the_draws.md."""

import re
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Sampler

from psla_wds import (
    DrawSampler,
    FeatureConfig,
    LoaderConfig,
    PslaError,
    ReaderConfig,
    SamplerConfig,
    ShardIndex,
    Share,
    WaveformConfig,
    open_indexes,
    training_batches,
    training_waveforms,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "use_the_draws.md"
READER = ReaderConfig(threads=2, decode_threads=1)
KINDS = (
    SamplerConfig(),
    SamplerConfig(sampling="systematic", draws_per_epoch=50),
    SamplerConfig(sampling="shuffle"),
)


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return open_indexes([f"{shards}:train"])


def drawn(index: ShardIndex, *, first_step: int = 0, num_epochs: int, **options) -> list[list[int]]:
    """Rows of the waveforms of training, whose draws are the trainer's."""
    share = Share(rank=options.pop("rank"), world_size=options.pop("world_size"))
    config = WaveformConfig(sampler=options.pop("sampler"), reader=READER)
    settings = {"first_step": first_step, "config": config, "share": share}
    with training_waveforms(index, **settings, **options) as batches:
        return [batch.draws.rows.tolist() for _ in range(num_epochs) for batch in batches]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.sampling)
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2), (2, 4)])
def test_rows_are_those_of_training(index: ShardIndex, kind, rank: int, world_size: int):
    options = {"batch_size": 8, "seed": 3, "rank": rank, "world_size": world_size, "sampler": kind}
    sampler = DrawSampler(index, **options)
    assert isinstance(sampler, Sampler)
    expected = drawn(index, num_epochs=3, **options)
    assert [rows for _ in range(3) for rows in sampler] == expected
    assert len(expected) == 3 * len(sampler) and len(set(map(tuple, expected))) == len(expected)
    for epoch in (3, 1):
        of_epoch = expected[(epoch - 1) * len(sampler) :][: len(sampler)]
        assert sampler.rows(epoch).tolist() == of_epoch
        sampler.set_epoch(epoch - 1)  # counted from 0, as torch's samplers do
        assert list(sampler) == of_epoch


def test_rows_are_those_of_the_batches_of_the_trainer(index: ShardIndex):
    features = FeatureConfig(num_frames=64)
    config = LoaderConfig(features=features, reader=READER, device="cpu")
    with training_batches(index, batch_size=12, seed=1, config=config) as batches:
        rows = [batch.rows.tolist() for _ in range(2) for batch in batches]
    sampler = DrawSampler(index, batch_size=12, seed=1)
    assert rows == [rows for _ in range(2) for rows in sampler]


@pytest.mark.parametrize("done", [1, 4, 6])
def test_a_state_goes_on_with_any_number_of_processes(index: ShardIndex, done: int):
    alone = DrawSampler(index, batch_size=8, seed=2)
    whole = [rows for _ in range(3) for rows in alone]
    stopped = DrawSampler(index, batch_size=8, seed=2)
    for _ in range(done // 4):
        list(stopped)
    for _, _ in zip(range(done % 4), stopped, strict=False):
        pass
    state = stopped.state_dict(done)
    parts = []
    for rank in range(2):
        sampler = DrawSampler(index, batch_size=8, seed=2, rank=rank, world_size=2)
        sampler.load_state_dict(state)
        assert sampler.epoch == done // 4 + 1
        sampler.set_epoch(sampler.epoch - 1)  # as loops over epochs do; the place stays
        parts.append([rows for _ in range(3 - done // 4) for rows in sampler])
    assert [a + b for a, b in zip(*parts, strict=True)] == whole[done:]


def test_a_break_goes_on_and_another_epoch_begins(index: ShardIndex):
    whole = [rows for _ in range(2) for rows in DrawSampler(index, batch_size=8)]
    sampler = DrawSampler(index, batch_size=8)
    for _ in sampler:
        if sampler.step == 3:
            break
    assert sampler.state_dict() == sampler.state_dict(3) != sampler.state_dict(2)
    assert list(sampler) == whole[3:4] and sampler.epoch == 2
    sampler.set_epoch(0)
    assert list(sampler) == whole[:4]


def test_states_of_other_draws_are_refused(index: ShardIndex):
    sampler = DrawSampler(index, batch_size=8, seed=2)
    others = [
        DrawSampler(index, batch_size=8, seed=3),
        DrawSampler(index, batch_size=4, seed=2),
        DrawSampler(index, batch_size=8, seed=2, sampler=SamplerConfig(sampling="shuffle")),
        DrawSampler(index.select(np.arange(len(index) - 1), "fewer"), batch_size=8, seed=2),
    ]
    for state in (*(other.state_dict(5) for other in others), {}, {"step": -1}):
        with pytest.raises(PslaError, match=r"not one of these draws\n  where: .*\n  fix:   "):
            sampler.load_state_dict(state)
    assert sampler.step == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 1}, "belong together"),
        ({"rank": 2, "world_size": 2}, "rank 2 does not exist"),
        ({"rank": 0, "world_size": 3}, "cannot be shared by 3"),
        ({"batch_size": 1000}, "fewer than one batch"),
    ],
)
def test_mistakes_are_one_error(index: ShardIndex, settings: dict[str, int], message: str):
    with pytest.raises(PslaError, match=message):
        DrawSampler(index, **({"batch_size": 8} | settings))


def test_an_epoch_before_the_first_is_an_error(index: ShardIndex):
    sampler = DrawSampler(index, batch_size=8)
    for wrong, epoch in ((sampler.set_epoch, -1), (sampler.rows, 0)):
        with pytest.raises(PslaError, match="before the first"):
            wrong(epoch)


def test_workers_of_a_loader_get_every_batch_once(index: ShardIndex):
    class Rows:
        def __getitem__(self, row: int) -> int:
            return row

    draws = DrawSampler(index, batch_size=8)
    loader = DataLoader(Rows(), batch_sampler=draws, num_workers=1, collate_fn=list)
    found = [rows for _ in range(2) for rows in loader]
    assert found == [*draws.rows(1).tolist(), *draws.rows(2).tolist()]


@pytest.mark.parametrize(
    ("section", "package"),
    [("", None), ("PyTorch", None), ("SPDL", "spdl.pipeline"), ("Lhotse", "lhotse")],
)
def test_the_code_of_the_page_runs(
    corpus: Path, shards: Path, tmp_path: Path, monkeypatch, capsys, section: str, package
):
    if package:
        pytest.importorskip(package)
    (tmp_path / "shards").symlink_to(shards)
    (tmp_path / "audio").symlink_to(corpus)
    monkeypatch.chdir(tmp_path)
    if section == "Lhotse":
        write_cuts(corpus, tmp_path / "cuts.jsonl")
    text = PAGE.read_text()
    text = text.partition(f"## {section}\n")[2] if section else text
    block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    exec(compile(block, PAGE.name, "exec"), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (5 if not section else 4)


def write_cuts(corpus: Path, path: Path) -> None:
    from lhotse import CutSet, Recording

    files = sorted(file for file in corpus.iterdir() if file.suffix in (".wav", ".flac", ".ogg"))
    recordings = [Recording.from_file(file, recording_id=file.name) for file in files]
    cuts = [recording.to_cut().with_id(recording.id) for recording in recordings]
    CutSet.from_cuts(cuts).resample(16_000).to_file(path)
