"""Which files of a folder are recordings."""

import pytest

from psla_wds.audio.folders import is_audio


@pytest.mark.parametrize("name", ["a.wav", "b/c.FLAC", "d.e/f.g.mp3", "雨.ogg", "lost/found.wav"])
def test_names_with_an_audio_suffix_are_recordings(name: str):
    assert is_audio(name)


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "LICENSE", "a.wav.part", "a.json", "wav"),
        *("._a.wav", ".a.wav", "dog/.DS_Store", "Thumbs.db", "desktop.ini"),
        *("__MACOSX/dog/a.wav", ".ipynb_checkpoints/a-checkpoint.wav", "dog/@eaDir/a.wav"),
        *("$RECYCLE.BIN/a.wav", "System Volume Information/a.wav", "lost+found/a.wav"),
    ],
)
def test_other_files_and_leftovers_are_not_recordings(name: str):
    assert not is_audio(name)
