"""Where documents begin and end in the rows of a batch laid end to end: what variable-length kernels go by."""

import torch
from jaxtyping import Bool, Int32
from torch import Tensor

# The list has room for documents of this many tokens on average, besides the pieces that the rows' ends cut off. The
# kernels look at every entry, used or not, so that room costs time.
MEAN_DOCUMENT_TOKENS = 256


def document_bounds(starts: Bool[Tensor, "B T"]) -> Int32[Tensor, " N"] | None:
    """List the cumulated lengths of all documents, 0 first; the last entries repeat B T up to a length that is fixed.

    A document is cut where `starts` marks a first token and where its row ends. The fixed length keeps compiled code; a
    batch with more documents than it has room for gets None, and goes by the mask. To know, this waits for the device.
    """
    batch, length = starts.shape
    room = 1 + batch + batch * length // MEAN_DOCUMENT_TOKENS
    cuts = starts.clone()
    cuts[:, 0] = True
    number = cuts.flatten().cumsum(dim=0)  # of each token's document, from 1
    if number[-1] >= room:
        return None
    return torch.searchsorted(number, torch.arange(1, room + 1, device=starts.device), out_int32=True)
