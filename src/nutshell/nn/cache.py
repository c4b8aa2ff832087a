"""Keys and values of the tokens a model has already seen, one store for every virtual layer.

The cache is what lets the one forward run on one new token: attention hands its new keys and values over and gets all
of them back. A shared block has a store for each of its visits, since the stream it reads differs.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class KVCache:
    """Room for `capacity` tokens of `batch` sequences that advance together.

    Shapes:
        each store: [B capacity K E], made when its virtual layer first runs.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._stores: dict[int, tuple[Tensor, Tensor]] = {}

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

    def advance(self, num_tokens: int) -> None:
        """Count tokens as seen, after all virtual layers have stored them."""
        self.length += num_tokens

    def keep(self, rows: Tensor) -> None:
        """Keep only some sequences, by index [B']."""
        self._stores = {
            index: (torch.index_select(keys, 0, rows), torch.index_select(values, 0, rows))
            for index, (keys, values) in self._stores.items()
        }
