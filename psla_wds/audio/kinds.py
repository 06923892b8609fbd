"""Kinds of audio files, by their content and by their names: names can be wrong."""

from io import BufferedIOBase

_SUFFIXES_OF = {
    "wav": (".wav", ".wave", ".rf64"),
    "w64": (".w64",),
    "aiff": (".aif", ".aifc", ".aiff"),
    "au": (".au", ".snd"),
    "caf": (".caf",),
    "flac": (".flac",),
    "ogg": (".oga", ".ogg", ".opus"),
    "mp3": (".mp3",),
    "mp4": (".3gp", ".m4a", ".m4b", ".m4v", ".mov", ".mp4"),
    "matroska": (".mka", ".mkv", ".webm"),
    "asf": (".asf", ".wma", ".wmv"),
    "aac": (".aac",),
    "amr": (".amr",),
    "sphere": (".sph",),
    "voc": (".voc",),
}
_KIND_OF = {suffix: kind for kind, suffixes in _SUFFIXES_OF.items() for suffix in suffixes}
AUDIO_SUFFIXES = frozenset(_KIND_OF)
"""Suffixes of audio files, to find them in a folder with other files."""
HEAD_BYTES = 40

_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def kind_of(file: BufferedIOBase) -> str:
    """Kind by the first bytes of a file; "" if they are not known."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    is_frame = head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0  # of MPEG
    if is_frame and head[1] != 0xFE:  # with which text in UTF-16 begins
        return "mp3" if head[1] & 0x06 else "aac"
    return ""


_STARTS = (
    (_W64, "w64"),
    (b".snd", "au"),
    (b"dns.", "au"),
    (b"caff", "caf"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (_ASF, "asf"),
    (b"#!AMR", "amr"),
    (b"NIST_1A", "sphere"),
    (b"Creative Voice File\x1a", "voc"),
)


def misnamed(suffix: str, kind: str) -> str:
    """Text such as "named .wav, is mp4" where the suffix is that of another kind; else ""."""
    suffix = suffix.lower()
    named = _KIND_OF.get(suffix, kind)
    return f"named {suffix}, is {kind}" if kind and named != kind else ""
