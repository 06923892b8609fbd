#!/usr/bin/env bash
# pyarrow 26.0.1.
#
# dictionary_pagesize_limit does not limit the dictionary page of Parquet: it is looked at once
# per write_batch_size values, 1,024 by default. A column of encoded audio, in which no value
# occurs twice, so becomes one dictionary of all clips of a row group, and pages of mere numbers
# into it. To give the first row, a reader must fetch and hold all of it, at a buffer of 64 kB as
# well.
#
# Seen, for 1,000 values of 50 kB, 50 MB in all:
#   limit 64 kB: dictionary 50.0 MB, read for the first row 50.0 MB
#   limit 64 kB, write_batch_size=10: dictionary 0.5 MB, read for the first row 0.6 MB
#
# Why it matters: looking at one clip of a row group costs as much as all of them, in traffic and
# in memory, unless whoever wrote the file thought of write_batch_size.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==26.0.1
"$folder/venv/bin/python" - <<'PYTHON'
import io
import random

import pyarrow
import pyarrow.parquet

NUM_CLIPS, CLIP_BYTES, LIMIT_BYTES = 1000, 50_000, 1 << 16


class Counted(io.BytesIO):
    num_bytes = 0

    def read(self, size=-1):
        data = super().read(size)
        self.num_bytes += len(data)
        return data


generator = random.Random(0)
table = pyarrow.table({"bytes": [generator.randbytes(CLIP_BYTES) for _ in range(NUM_CLIPS)]})
for options, is_passed in (({}, True), ({"write_batch_size": 10}, False)):
    written = io.BytesIO()
    pyarrow.parquet.write_table(
        table, written, compression="none", dictionary_pagesize_limit=LIMIT_BYTES, **options
    )
    source = Counted(written.getvalue())
    file = pyarrow.parquet.ParquetFile(source, buffer_size=1 << 16, pre_buffer=False)
    column = file.metadata.row_group(0).column(0)
    dictionary_bytes = column.data_page_offset - column.dictionary_page_offset
    source.num_bytes = 0
    next(file.iter_batches(batch_size=1))
    name = "".join(f", {key}={value}" for key, value in options.items())
    sizes = f"dictionary {dictionary_bytes / 1e6:.1f} MB"
    print(f"limit 64 kB{name}: {sizes}, read for the first row {source.num_bytes / 1e6:.1f} MB")
    all_bytes = NUM_CLIPS * CLIP_BYTES
    assert file.num_row_groups == 1
    assert (dictionary_bytes >= all_bytes) == is_passed
    assert (source.num_bytes >= all_bytes) == is_passed
    assert is_passed or source.num_bytes < all_bytes / 10
PYTHON
