"""Files of embeddings: the same rows in each kind, in memory that does not grow."""

import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import soundfile
from conftest import assert_user_error, run_command
from tiny_models import RATE_HZ, sweep, tiny_checkpoint

from eval.tagging.embeddings import COLUMNS, ROWS_AT_ONCE, open_embeddings
from psla_wds.errors import PslaError
from psla_wds.models.checkpoint import save_checkpoint
from psla_wds.tagging.tagger import Tagger, WindowTags

SIZE = 1280


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and audio of which one file ends too soon."""
    folder = tmp_path_factory.mktemp("embedded")
    save_checkpoint(tiny_checkpoint(), folder / "tiny.pt")
    soundfile.write(folder / "long.flac", sweep(3.0, rate_hz=44_100), 44_100)
    soundfile.write(folder / "short.wav", sweep(0.5), RATE_HZ)
    content = (folder / "long.flac").read_bytes()
    (folder / "cut.flac").write_bytes(content[: len(content) * 4 // 5])
    return folder


def read_rows(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        return dict(np.load(path))
    table = pyarrow.parquet.read_table(path)
    rows = {name: np.array(table[name].to_pylist()) for name in COLUMNS[:-1]}
    return {**rows, "embedding": np.stack(table["embedding"].to_numpy())}


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_rows_are_those_of_the_tagger(folder: Path, tmp_path: Path, suffix: str, pooling: str):
    files, output = [folder / "long.flac", folder / "short.wav"], tmp_path / f"new/e{suffix}"
    done = run_command(
        "eval.tag", folder / "tiny.pt", *files, f"--embeddings={output}", f"--pooling={pooling}",
        f"--output={tmp_path / 'tags.txt'}", "--device=cpu",
    )  # fmt: skip
    last = done.stdout.splitlines()[-1]
    numbers = "1,280 numbers for 2 recordings and 5 windows"
    assert last == f"wrote embeddings of {numbers} to {output}"
    rows = read_rows(output)
    assert list(rows) == list(COLUMNS) and rows["embedding"].dtype == np.float32
    assert rows["kind"].tolist() == [*["window"] * 4, "recording", "window", "recording"]
    assert rows["recording"].tolist() == [str(files[0])] * 5 + [str(files[1])] * 2
    tagger, start = Tagger.load(folder / "tiny.pt", device="cpu"), 0
    for file in files:
        tags = tagger.embed(*soundfile.read(file, dtype="float32"), pooling)
        stop = start + len(tags.window_scores)
        found = {name: column[start : stop + 1] for name, column in rows.items()}
        np.testing.assert_allclose(found["embedding"][:-1], tags.window_embeddings, atol=1e-4)
        np.testing.assert_allclose(found["embedding"][-1], tags.embedding, atol=1e-4)
        assert found["start_s"].tolist() == [*tags.window_starts_s, 0.0]
        assert found["end_s"].tolist() == [*tags.window_ends_s, tags.duration_s]
        start = stop + 1


def test_results_are_the_same_with_embeddings(folder: Path, tmp_path: Path):
    words = ("eval.tag", folder / "tiny.pt", folder / "long.flac", "--format=json", "--device=cpu")
    plain = run_command(*words)
    embedded = run_command(*words, f"--embeddings={tmp_path / 'e.npz'}")
    assert plain.stdout == embedded.stdout and plain.stdout.count("\n") > 4
    assert "wrote embeddings" in embedded.stderr  # stdout holds results alone


def test_a_cut_recording_keeps_the_windows_before_the_damage(folder: Path, tmp_path: Path):
    output = tmp_path / "e.npz"
    words = (folder / "tiny.pt", folder / "cut.flac", folder / "short.wav", "--device=cpu")
    done = run_command("eval.tag", *words, f"--embeddings={output}", check=False)
    rows = read_rows(output)
    assert_user_error(done, "1 of 2 recordings could not be read")
    of_cut = rows["kind"][rows["recording"] == str(folder / "cut.flac")]
    assert 0 < len(of_cut) < 4 and set(of_cut) == {"window"}
    assert rows["kind"][-1] == "recording"


@pytest.mark.parametrize(
    ("name", "needles"),
    [
        ("e.csv", ("cannot be written as .csv", "ends with .npz or .parquet")),
        ("e", ("cannot be written as a bare name",)),
        ("file/e.npz", ("File exists", "/file")),
    ],
)
def test_files_that_cannot_be_written_are_one_error(folder, tmp_path, name: str, needles):
    (tmp_path / "file").touch()
    words = (folder / "tiny.pt", folder / "short.wav", f"--embeddings={tmp_path / name}")
    assert_user_error(run_command("eval.tag", *words, "--device=cpu", check=False), *needles)


def test_parquet_without_its_package_is_one_error(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with (
        pytest.raises(PslaError, match=r"need the package pyarrow\n.*\n.*pip install pyarrow"),
        open_embeddings(tmp_path / "e.parquet", SIZE, "mean"),
    ):
        pass


def windows_of_hours(count: int) -> Iterator[WindowTags]:
    scores = np.zeros((1, 3), np.float32)
    for number in range(count):
        yield WindowTags(
            recording=0,
            start_s=float(number),
            end_s=number + 1.0,
            scores=scores[0],
            frame_scores=scores,
            is_last=number == count - 1,
            embedding=np.full(SIZE, number, np.float32),
        )


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_hours_take_the_memory_of_minutes(tmp_path: Path, suffix: str):
    count, path = 4 * ROWS_AT_ONCE + 100, tmp_path / f"e{suffix}"
    tracemalloc.start()
    with open_embeddings(path, SIZE, "mean") as embeddings:
        assert sum(1 for _ in embeddings.follow("a.wav", windows_of_hours(count))) == count
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 0.75 * count * SIZE * 4
    assert embeddings.num_windows == count and embeddings.num_recordings == 1
    vectors = read_rows(path)["embedding"]
    expected = np.append(np.arange(count), (count - 1) / 2)
    np.testing.assert_array_equal(vectors, np.repeat(expected[:, None], SIZE, 1).astype("f4"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
