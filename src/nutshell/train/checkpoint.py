"""Checkpoints: everything a run needs to go on, in one safetensors file that is whole or absent.

The file holds the weights, their averages and the optimizer state in fp32 as they are, and as JSON metadata what has
been spent, noted, and under which conditions. Batches are a pure function of the seed and the tokens read so far, so
these are the loader's whole state. Nothing in it depends on the number of ranks.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
from torch import Tensor

from nutshell.errors import RunError
from nutshell.files import write_bytes
from nutshell.train.clock import Spent
from nutshell.train.record import Record


class Identity(msgspec.Struct, frozen=True):
    """What a checkpoint belongs to; resuming anything else is refused.

    `compute_dtype` is the precision that the recipe means on this machine: `bf16` or `fp32`.
    """

    recipe_digest: str
    data_digest: str
    seed: int
    compute_dtype: str


class Change(msgspec.Struct, frozen=True):
    """A condition of computing that was another one when a run was resumed after `after_step` steps."""

    after_step: int
    condition: str
    before: str
    after: str


class Conditions(msgspec.Struct, frozen=True):
    """What decides how a run's numbers are rounded but not what is computed, such as the number of threads.

    Attributes:
        now: Each condition by name, as it is since the run was last resumed.
        changes: What was another before, in order.
    """

    now: dict[str, str]
    changes: tuple[Change, ...] = ()

    def continued(self, here: dict[str, str], *, after_step: int) -> "Conditions":
        """Go on under the conditions that are found here, and note each that differs."""
        found = [
            Change(after_step, name, self.now.get(name, "unknown"), here.get(name, "unknown"))
            for name in {**self.now, **here}
            if self.now.get(name) != here.get(name)
        ]
        return Conditions(here, (*self.changes, *found))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run's state between two steps."""

    identity: Identity
    spent: Spent
    record: Record
    conditions: Conditions
    tensors: dict[str, Tensor]

    def write(self, path: Path) -> None:
        """Write atomically."""
        metadata = {
            "identity": msgspec.json.encode(self.identity).decode(),
            "spent": msgspec.json.encode(self.spent).decode(),
            "record": msgspec.json.encode(self.record).decode(),
            "conditions": msgspec.json.encode(self.conditions).decode(),
        }
        write_bytes(path, safetensors.torch.save(self.tensors, metadata))

    @classmethod
    def read(cls, path: Path, expected: Identity) -> "Checkpoint":
        """Read a checkpoint of this very run.

        Raises:
            RunError: it is missing, damaged, or of another recipe, data set, seed or precision.
        """
        tensors, metadata = read_tensors(path)
        try:
            identity = msgspec.json.decode(metadata["identity"], type=Identity)
            spent = msgspec.json.decode(metadata["spent"], type=Spent)
            record = msgspec.json.decode(metadata["record"], type=Record)
            conditions = msgspec.json.decode(metadata["conditions"], type=Conditions)
        except (KeyError, msgspec.MsgspecError) as error:
            raise RunError(f"{path}: not a nutshell checkpoint ({error})") from error
        for field in Identity.__struct_fields__:
            found, wanted = getattr(identity, field), getattr(expected, field)
            if found != wanted and field == "compute_dtype":
                raise RunError(
                    f"{path}: was computed in {found}, and here it would go on in {wanted}; continue it on a machine "
                    "like the one where it began, or choose another --out"
                )
            if found != wanted:
                raise RunError(f"{path}: belongs to another run, its {field} is {found}, this run's is {wanted}")
        return cls(identity, spent, record, conditions, tensors)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such file") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise RunError(f"{path}: damaged or not a safetensors file ({error})") from error
