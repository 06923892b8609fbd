"""Files and folders on disks and behind URLs: stores, atomic files, columns, files of tensors.

`at(location)` gives a store: `Disk`, or `Remote` for what is behind a URL.
"""
