"""Where the windows of a stretch of text begin. A window of T inputs reads one token more, its last target.

The next window begins at that token, so that it is predicted once and read once. Under `align = "documents"` a window
begins at a document's BOS and is filled with the documents behind it; what its end cuts off the last of them is

- read on by windows inside that document, as long as it fills a whole one;
- skipped up to the next BOS otherwise.

So no token is a target twice in an epoch, each first token of a document that is reached follows its BOS, and documents
longer than a window are read to within one window of their end.
"""

import numpy as np
from jaxtyping import Int64

Starts = Int64[np.ndarray, " W"]


def stream_windows(first: int, stop: int, seq_len: int) -> Starts:
    """Cut windows one after another: inputs from `first`, the last target not behind `stop`."""
    return np.arange(first, stop - seq_len + 1, seq_len, dtype=np.int64)


def document_windows(bos: Int64[np.ndarray, " D"], stop: int, seq_len: int) -> Starts:
    """Cut windows that begin at a BOS or inside a document that fills them; the last target is not behind `stop`.

    `bos` are the positions of BOS in rising order, below `stop`; the first window begins at the first of them.
    """
    edges = np.append(bos, stop)
    ends = bos + seq_len
    following = np.searchsorted(edges, ends)  # the first BOS that a window from this one has not read as an input
    fits = ends <= stop
    left = np.where(fits, edges[np.minimum(following, len(bos))] - ends, 0)
    counts = 1 + left // seq_len

    visited, index = [], 0
    jumps = following.tolist()
    num_fitting = int(np.count_nonzero(fits))  # `ends` rises, so those that fit come first
    while index < num_fitting:
        visited.append(index)
        index = jumps[index]
    chosen = np.array(visited, dtype=np.int64)
    counts = counts[chosen]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(bos[chosen], counts) + seq_len * within
