"""Reading one token at a time with a window of keys that is written out: a list of what each token left behind."""

import torch

from nutshell.nn.cache import DocumentIds, KVCache


class ExplicitWindow(KVCache):
    """Keeps the keys and values of every token, and hands out those from `first` on."""

    def __init__(self, context):
        super().__init__(capacity=context)
        self.first = self.read = 0
        self.left_behind = {}
        self.starts = []

    @property
    def position(self):
        return self.read

    def extend(self, index, k, v):
        own = self.left_behind.setdefault(index, [])
        own.append((k, v))
        return tuple(torch.cat(part, dim=1) for part in zip(*own[self.first :], strict=True))

    def extend_documents(self, starts):
        self.starts.append(starts)
        numbers = torch.cat(self.starts, dim=1).cumsum(dim=1)
        return DocumentIds(numbers[:, -1:], numbers[:, self.first :])


def read_one_by_one(model, schedule, text, *, context, stride):
    """Give the logits of every position, [B T V]: token t sees the keys from where its window starts."""
    logits = []
    for t in range(text.shape[1]):
        first = 0 if t < context else ((t - context) // stride + 1) * stride
        if t == first:  # nothing before is in sight, so nothing goes on
            cache, began = ExplicitWindow(context), t
        cache.read, cache.first = t - began, first - began
        with torch.no_grad():
            stream = model.stream(text[:, t : t + 1], dtype=torch.float32, attend_kind="products", cache=cache)
            logits.append(model.read_out(model.trunk(stream, schedule), stream))
    return torch.cat(logits, dim=1)
