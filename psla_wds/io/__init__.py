"""Files on disks and behind URLs: where they are, ranges of them, whole or absent when written."""
