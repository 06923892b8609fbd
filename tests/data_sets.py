"""Data sets in the layouts they are published in, and tars as others build them."""

import csv
import io
import json
import tarfile
from pathlib import Path

import h5py
import numpy as np
import soundfile
import webdataset
from conftest import TINY_CLASSES

RATE_HZ = 16_000
CLASSES = (("/m/a", "Bark"), ("/m/b", "Rain, heavy"), ("/m/c", "Meow"))


def sound(number: int, rate_hz: int = RATE_HZ, length_s: float = 0.5) -> np.ndarray:
    """A sine of a pitch of its own."""
    time_s = np.arange(round(rate_hz * length_s)) / rate_hz
    return 0.3 * np.sin(2 * np.pi * (200 + 37 * number) * time_s)


def write_sound(path: Path, number: int, rate_hz: int = RATE_HZ, length_s: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(number, rate_hz, length_s), rate_hz)


def write_table(path: Path, rows: list[list[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_classes(folder: Path) -> Path:
    rows = [[i, mid, name] for i, (mid, name) in enumerate(CLASSES)]
    return write_table(folder / "classes.csv", [["index", "mid", "display_name"], *rows])


def write_fsd50k(folder: Path) -> Path:
    """Six clips: two of each split."""
    lists = folder / "FSD50K.ground_truth"
    write_table(lists / "vocabulary.csv", [[i, n, m] for i, (m, n) in enumerate(CLASSES)])
    dev = [[10, "Bark", "/m/a", "train"], [11, "Meow,Bark", "/m/c,/m/a", "train"]]
    dev += [[12, "Meow", "/m/c", "val"], [13, "Bark", "/m/a", "val"]]
    write_table(lists / "dev.csv", [["fname", "labels", "mids", "split"], *dev])
    held_out = [[20, "Bark", "/m/a"], [21, "Meow", "/m/c"]]
    write_table(lists / "eval.csv", [["fname", "labels", "mids"], *held_out])
    for row in dev:
        write_sound(folder / "FSD50K.dev_audio" / f"{row[0]}.wav", row[0], 44_100)
    for row in held_out:
        write_sound(folder / "FSD50K.eval_audio" / f"{row[0]}.wav", row[0], 44_100)
    return folder


def write_esc50(folder: Path) -> Path:
    """Ten clips of two classes in five folds."""
    rows: list[list[object]] = []
    for number in range(10):
        fold, target = number // 2 + 1, number % 2
        name = f"{fold}-{1000 + number}-A-{target}.wav"
        category = ("dog", "rooster")[target]
        rows.append([name, fold, target, category, True, 1000 + number, "A"])
        write_sound(folder / "audio" / name, number, 44_100)
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    write_table(folder / "meta" / "esc50.csv", [header, *rows])
    return folder


def write_psla_json(folder: Path, labels: list[str], weights: list[float] | None = None) -> Path:
    rows = []
    for number, text in enumerate(labels):
        write_sound(folder / "wavs" / f"{number}.wav", number)
        rows.append({"wav": f"/somewhere/else/{number}.wav", "labels": text})
    (folder / "train.json").write_text(json.dumps({"data": rows}))
    if weights is not None:
        np.savetxt(folder / "train_weight.csv", np.array(weights))
    return folder / "train.json"


TARGETS = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], bool)


def write_panns_hdf5(path: Path, rate_hz: int = 32_000) -> Path:
    """Two clips, and a row that the packer left empty for want of the audio."""
    with h5py.File(path, "w") as file:
        file["audio_name"] = np.array([b"Y--PJHxphWEs.wav", b"clip.1.wav", b""], "S20")
        waveforms = [sound(number, rate_hz, 0.5) * number for number in (1, 2, 0)]
        file["waveform"] = np.rint(np.array(waveforms) * 32767 / 2).astype(np.int16)
        file["target"] = TARGETS
        file.attrs.create("sample_rate", data=rate_hz, dtype=np.int32)
    return path


def write_passt_hdf5(path: Path, rate_hz: int = 32_000) -> Path:
    with h5py.File(path, "w") as file:
        names = [b"Y--PJHxphWEs.mp3", b"Yabcdefghijk.mp3", b"clip.mp3"]
        file["audio_name"] = np.array(names, "S20")
        mp3 = file.create_dataset("mp3", (3,), dtype=h5py.vlen_dtype(np.uint8))
        for number in range(3):
            temporary = path.with_suffix(".mp3")
            soundfile.write(temporary, sound(number, rate_hz), rate_hz)
            mp3[number] = np.frombuffer(temporary.read_bytes(), np.uint8)
        file["target"] = np.packbits(TARGETS, axis=1)
    return path


def audio_of(
    number: int,
    extension: str,
    channels: int = 1,
    rate_hz: int = RATE_HZ,
    subtype: str | None = None,
) -> bytes:
    """Noise around a tone. With two channels their sum is even, so that their mean is exact."""
    rng = np.random.default_rng(number)
    time_s = np.arange(round(rate_hz * rng.uniform(0.3, 0.6))) / rate_hz
    tone = 8000 * np.sin(2 * np.pi * 300 * 4 ** (number % 4) * time_s)
    pcm = (tone + 1000 * rng.standard_normal(len(time_s))).astype(np.int16)
    if channels == 2:
        offset = rng.integers(-500, 500, len(pcm)).astype(np.int16)
        pcm = np.stack([pcm + offset, pcm - offset], axis=1)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate_hz, subtype, format=extension.upper())
    return buffer.getvalue()


def write_tars(folder: Path, samples: list[dict], per_tar: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/part-%03d.tar", maxcount=per_tar, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def write_members(tar: Path, members: dict[str, bytes]) -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return tar.parent


def write_class_labels(path: Path) -> Path:
    lines = [f'{i},/t/{i},"{name}"\n' for i, name in enumerate(TINY_CLASSES)]
    path.write_text("index,mid,display_name\n" + "".join(lines))
    return path


GOOD = {"good.wav": audio_of(0, "wav"), "good.txt": b"low"}
