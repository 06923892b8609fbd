"""The library in scripts of others: what docs/use_the_loader.md says, and what it promises."""

import ast
import contextlib
import gc
import os
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # noqa: F401  registers the backend
from conftest import run

import psla_wds
from psla_wds import (
    FeatureConfig,
    LoaderConfig,
    PslaError,
    ReaderConfig,
    ShardIndex,
    Share,
    WaveformConfig,
    evaluation_batches,
    evaluation_waveforms,
    open_indexes,
    training_batches,
    training_waveforms,
)
from psla_wds.loading.epochs import current_share

PAGE = Path(__file__).resolve().parents[3] / "docs" / "use_the_loader.md"
READER = ReaderConfig(threads=2, decode_threads=1)
CONFIG = LoaderConfig(features=FeatureConfig(num_frames=64), reader=READER, device="cpu")
WAVEFORMS = WaveformConfig(reader=READER, log_mel_shape=(64, 128))

WITHOUT_DALI = """
import sys

sys.modules["nvidia"] = None  # its import fails

from psla_wds import FeatureConfig, LoaderConfig, open_indexes, training_batches

config = LoaderConfig(features=FeatureConfig(num_frames=64), device="cpu")
with training_batches(open_indexes(["shards"]), batch_size=4, config=config) as epochs:
    print(next(iter(epochs)).log_mel.shape)
"""
WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("nvidia", "torch", "torchaudio", "webdataset"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
"""


# --- the page


def code_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which the paths of the page exist."""
    (tmp_path / "shards").symlink_to(shards)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_code_of_the_page_runs(folder: Path, capsys: pytest.CaptureFixture[str]):
    blocks = [block for block in code_blocks() if "# torchrun" not in block]
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), {"__name__": "__main__"})
    output = capsys.readouterr().out
    assert "torch.Size([32, 1056, 128])" in output
    assert "epoch 2: 1 steps" in output and "of 12 clips" in output


def test_the_script_for_several_processes_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # there may be one GPU, and it wants one each
    (block,) = [block for block in code_blocks() if "# torchrun" in block]
    words = block.splitlines()[0].removeprefix("# torchrun ").split()
    (folder / words[-1]).write_text(block)
    run([sys.executable, "-m", "torch.distributed.run", *words], cwd=folder)


def test_batches_on_a_cpu_need_no_dali(folder: Path):
    script = folder / "without_dali.py"
    script.write_text(WITHOUT_DALI)
    assert run([sys.executable, str(script)], cwd=folder).stdout == "torch.Size([4, 64, 128])\n"


def test_waveforms_need_neither_torch_nor_dali(folder: Path):
    (block,) = [block for block in code_blocks() if "training_waveforms" in block]
    script = folder / "without_torch.py"
    script.write_text(WITHOUT_TORCH + block)
    lines = run([sys.executable, str(script)], cwd=folder).stdout.splitlines()
    assert len(lines) == 36 // 16 and lines[0].startswith("16 (")
    script.write_text(WITHOUT_TORCH + "from psla_wds import training_batches")
    assert "No module named 'torch'" in run([sys.executable, str(script)], check=False).stderr


# --- public names


def test_importing_the_library_imports_nothing_heavy():
    program = "import sys, psla_wds; print({name.split('.')[0] for name in sys.modules})"
    imported = ast.literal_eval(run([sys.executable, "-c", program]).stdout)
    assert "psla_wds" in imported
    assert not imported & {"torch", "nvidia", "numpy", "scipy", "soundfile"}


def test_public_names_are_those_of_their_modules():
    assert all(getattr(psla_wds, name).__name__ == name for name in psla_wds.__all__)
    assert set(psla_wds.__all__) <= set(dir(psla_wds))
    with pytest.raises(AttributeError, match="has no attribute 'training_batch'"):
        _ = psla_wds.training_batch


# --- epochs, shares, resuming


@pytest.fixture(scope="module")
def index(shards: Path) -> ShardIndex:
    return open_indexes([f"{shards}:train"])


def test_each_for_gives_an_epoch_and_a_break_does_not_end_it(index: ShardIndex):
    with training_batches(index, batch_size=8, config=CONFIG) as batches:
        assert (batches.steps_per_epoch, batches.step, batches.epoch) == (4, 0, 1)
        for _ in batches:
            if batches.step == 3:
                break
        assert [batches.step for _ in batches] == [4]
        assert batches.epoch == 2
        assert [batches.step for _ in batches] == [5, 6, 7, 8]
    with training_batches(index, batch_size=8, config=CONFIG, first_step=6) as batches:
        assert (batches.epoch, [batches.step for _ in batches]) == (2, [7, 8])
        assert [batches.epoch for _ in batches] == [3, 3, 3, 4]


@pytest.mark.parametrize("opened", [evaluation_batches, evaluation_waveforms])
def test_each_for_over_an_evaluation_begins_anew(index: ShardIndex, opened):
    config = CONFIG if opened is evaluation_batches else WAVEFORMS
    with opened(index, batch_size=10, config=config) as batches:
        passes = []
        for _ in range(2):
            rows = [getattr(batch, "draws", batch).rows.tolist() for batch in batches]
            passes.append(rows)
            assert len(rows) == len(batches) == 4
        assert passes[0] == passes[1] and sum(map(len, passes[0])) == len(index)
        next(cut := iter(batches))  # and a `break`
        assert len(list(batches)) == 4
        with pytest.raises(RuntimeError, match="another `for`"):
            next(cut)


def test_a_loader_has_the_length_of_its_next_pass(index: ShardIndex):
    for rank, expected in enumerate((3, 3, 2)):  # 36 clips: 15, 15, and 6 of which 5 are its own
        share = Share(rank=rank, world_size=3)
        with evaluation_waveforms(index, batch_size=15, config=WAVEFORMS, share=share) as batches:
            assert len(batches) == len(list(batches)) == expected
    with training_waveforms(index, batch_size=8, config=WAVEFORMS, first_step=2) as batches:
        assert [len(batches), len(list(batches))] == [2, 2]
        assert [len(batches), len(list(batches))] == [4, 4]


def test_a_process_group_gives_the_share(monkeypatch: pytest.MonkeyPatch):
    assert current_share() == Share(rank=0, world_size=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PslaError, match=r"init_process_group\(\) first"):
        current_share()
    dist.init_process_group("fake", rank=1, world_size=2, store=dist.HashStore())
    try:
        assert current_share() == Share(rank=1, world_size=2)
    finally:
        dist.destroy_process_group()


# --- what is held, and mistakes


def open_shards(index: ShardIndex) -> set[str]:
    """The shards that this process has open."""
    files = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            files.add(str(descriptor.readlink()))
    return files & {str(path) for path in index.shards}


@pytest.mark.parametrize(
    ("opened", "config"), [(training_batches, CONFIG), (training_waveforms, WAVEFORMS)]
)
def test_threads_end_and_files_close_with_the_block(index: ShardIndex, opened, config):
    gc.collect()  # of other tests
    before = set(threading.enumerate())
    with opened(index, batch_size=8, config=config) as batches:
        next(iter(batches))
        assert len(threading.enumerate()) > len(before) and open_shards(index)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
    assert set(threading.enumerate()) <= before
    assert not open_shards(index)
    with pytest.raises(RuntimeError, match="inside the `with` block"):
        next(iter(batches))


def test_mistakes_are_named_before_anything_is_read(index: ShardIndex, shards: Path):
    with pytest.raises(PslaError, match="first_step=-1"):
        training_waveforms(index, batch_size=8, first_step=-1)
    with pytest.raises(PslaError, match="rank 2 does not exist among 2"):
        Share(rank=2, world_size=2)
    with pytest.raises(PslaError, match="cannot be shared by 3"):
        training_batches(index, batch_size=8, share=Share(rank=0, world_size=3))


@pytest.mark.parametrize(
    "opened", [training_batches, evaluation_batches, training_waveforms, evaluation_waveforms]
)
def test_shards_that_changed_are_named_first(shards: Path, tmp_path: Path, opened):
    index = open_indexes([str(shutil.copytree(shards, tmp_path / "copy"))])
    os.truncate(index.shards[1], index.shard_sizes[1] - 512)
    with pytest.raises(PslaError, match="the index expects a shard of"):
        opened(index, batch_size=8)
