"""What a model keeps of the tokens it has already seen: keys and values, one store for every virtual layer, and tails.

The cache is what lets the one forward run on one new token: attention hands its new keys and values over and gets all
of them back. A shared block has a store for each of its visits, since the stream it reads differs. What looks one token
back (the previous token, a smeared embedding) keeps its last element as a tail.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor


class DocumentIds(NamedTuple):
    """Which document of its row a token belongs to: of the new tokens, and of all that attention may reach.

    `bounds` says the same of the rows laid end to end (nn/kernels/bounds.py), for the kernel that goes by it.
    """

    new: Int[Tensor, "B T"]
    all: Int[Tensor, "B S"]
    bounds: Int32[Tensor, " N"] | None = None


# Of a window: a model that is read token by token has room for all of one.
MOST_TOKENS = 1 << 17


class KVCache:
    """Room for `capacity` tokens of `batch` sequences that advance together.

    Shapes:
        each store: [B capacity K E], made when its virtual layer first runs.
        each tail: [B 1 *any].

    Attributes:
        length: Tokens held.
        forgotten: Tokens that came before these.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = self.forgotten = 0
        self._stores: dict[int, tuple[Tensor, Tensor]] = {}
        self._tails: dict[str, Tensor] = {}
        self._documents: Tensor | None = None

    @property
    def position(self) -> int:
        """Where the next token stands."""
        return self.forgotten + self.length

    def extend(
        self, index: int, k: Float[Tensor, "B T K E"], v: Float[Tensor, "B T K E"]
    ) -> tuple[Float[Tensor, "B S K E"], Float[Tensor, "B S K E"]]:
        """Store one virtual layer's new keys and values behind the old; return all, the new ones last."""
        stop = self.length + k.shape[1]
        assert stop <= self.capacity, f"cache of {self.capacity} tokens cannot take token {stop}"
        if index not in self._stores:
            shape = (k.shape[0], self.capacity, *k.shape[2:])
            self._stores[index] = (k.new_empty(shape), v.new_empty(shape))
        keys, values = self._stores[index]
        keys[:, self.length : stop] = k
        values[:, self.length : stop] = v
        return keys[:, :stop], values[:, :stop]

    def exchange_tail(self, name: str, x: Tensor) -> Tensor | None:
        """Give the last element of the previous call's x, [B 1 *any], None the first time; keep this one's."""
        tail = self._tails.get(name)
        self._tails[name] = x[:, -1:].clone()
        return tail

    def extend_documents(self, starts: Bool[Tensor, "B T"]) -> DocumentIds:
        """Number the documents of new tokens on from those seen; `starts` marks each document's first token."""
        if self._documents is None:
            self._documents = starts.new_zeros((starts.shape[0], 0), dtype=torch.int64)
        seen = self._documents
        last = seen[:, -1:] if seen.shape[1] else 0
        new = starts.cumsum(dim=1) + last
        self._documents = torch.cat([seen, new], dim=1)
        return DocumentIds(new, self._documents)

    def advance(self, num_tokens: int) -> None:
        """Count tokens as seen, after all virtual layers have stored them."""
        self.length += num_tokens

    def forget_all_but(self, num_tokens: int) -> None:
        """Make room: hold only the last so many tokens, if there are more. Positions and tails go on.

        Without a token there is nothing to go on from: positions begin again, and tails are forgotten.
        """
        if not num_tokens:
            self.length = self.forgotten = 0
            self._tails, self._documents = {}, None
            return
        first = self.length - num_tokens
        if first <= 0:
            return
        for store in self._stores.values():
            for held in store:
                held[:, :num_tokens] = held[:, first : self.length].clone()  # the two places may overlap
        if self._documents is not None:
            self._documents = self._documents[:, first:]
        self.length, self.forgotten = num_tokens, self.forgotten + first

    def keep(self, rows: Tensor) -> None:
        """Keep only some sequences, by index [B']."""
        self._stores = {
            index: (torch.index_select(keys, 0, rows), torch.index_select(values, 0, rows))
            for index, (keys, values) in self._stores.items()
        }
        self._tails = {name: torch.index_select(tail, 0, rows) for name, tail in self._tails.items()}
        if self._documents is not None:
            self._documents = torch.index_select(self._documents, 0, rows)


def shift(x: Tensor, start: float, cache: KVCache | None, name: str) -> Tensor:
    """Move a sequence [B T *any] back by one: each position gets its predecessor's element, the first one `start`."""
    tail = cache.exchange_tail(name, x) if cache is not None else None
    first = torch.full_like(x[:, :1], start) if tail is None else tail
    return torch.cat([first, x[:, :-1]], dim=1)
