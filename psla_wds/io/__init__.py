"""Files and folders on disks and behind URLs: listed, read whole or by range, written whole or not
at all. Start at `stores.at`; `columns` and `tensor_files` are the formats that rooms share."""
