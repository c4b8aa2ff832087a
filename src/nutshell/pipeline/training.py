"""The training stage: a recipe and a data set to weights and a receipt."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch

from nutshell.artifact.estimate import predict_bytes
from nutshell.data.batches import Batches
from nutshell.data.dataset import Dataset
from nutshell.errors import DataError, RunError
from nutshell.files import sha256_file, write_bytes, write_json
from nutshell.machine import num_threads, processor, versions
from nutshell.memory import TreeWatch, peak_process_bytes
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.pipeline import store
from nutshell.pipeline.describe import describe
from nutshell.pipeline.rows import MetricsLog, RowLog
from nutshell.recipe import Resolved
from nutshell.train.checkpoint import Change, Checkpoint, Identity
from nutshell.train.compute import Compute
from nutshell.train.loop import OnRow, Plan, prepare, train
from nutshell.train.loss import TrainingLoss
from nutshell.train.probing import Probing
from nutshell.train.state import TrainState


class Training:
    """One training in one run directory.

    Args:
        resolved: the recipe.
        dataset: its data.
        run_dir: where everything goes; made if missing.
        seed: of initial weights and data order.

    Raises:
        DataError: the data's vocabulary or BOS is not the recipe's.
    """

    def __init__(self, resolved: Resolved, dataset: Dataset, run_dir: Path, *, seed: int) -> None:
        vocab_size = resolved.recipe.model.vocab_size
        if dataset.tokenizer.vocab_size != vocab_size:
            raise DataError(
                f"{dataset.folder}: its tokenizer has {dataset.tokenizer.vocab_size} tokens, the recipe {vocab_size}; "
                f"build the data with --vocab {vocab_size}"
            )
        bos_id = resolved.recipe.model.bos_id
        if dataset.tokenizer.bos_id != bos_id:
            raise DataError(
                f"{dataset.folder}: its tokenizer's BOS is token {dataset.tokenizer.bos_id}, the recipe's {bos_id}; "
                f"set model.bos_id = {dataset.tokenizer.bos_id}"
            )
        self._resolved, self._dataset, self.run_dir = resolved, dataset, run_dir
        self._compute = Compute.choose(resolved.recipe.train, resolved.recipe.model)
        self._identity = Identity(
            recipe_digest=resolved.digest,
            data_digest=dataset.digest,
            seed=seed,
            compute_dtype=self._compute.precision,
        )

    def is_done(self) -> bool:
        """Say whether this very training has ended here, in whatever precision.

        Raises:
            RunError: the directory holds another run.
        """
        path = self.run_dir / store.RECEIPT
        if not path.exists():
            return False
        receipt = store.read_stage(path, remedy="delete it and train again")
        wanted = msgspec.to_builtins(self._identity)
        del wanted["compute_dtype"]
        if differing := [name for name, value in wanted.items() if receipt.get(name) != value]:
            raise RunError(f"{self.run_dir}: holds another run (its {differing[0]} differs); choose another --out")
        return True

    def run(
        self,
        *,
        resume: bool,
        on_row: OnRow,
        on_prepared: Callable[[float], None],
        on_change: Callable[[Change], None],
    ) -> dict[str, Any]:
        """Train until the budget is spent; write weights and receipt, and return the receipt.

        Args:
            resume: go on from the checkpoint.
            on_row: told of each step, as it is logged.
            on_prepared: told of the seconds that compilation took.
            on_change: told of each condition that is another one than where the checkpoint was written.

        Raises:
            RunError: a checkpoint is there and `resume` is not set, or the other way round; or training went wrong.
            Interrupted: Ctrl-C; a checkpoint is written.
        """
        recipe, run_dir = self._resolved.recipe, self.run_dir
        self._dataset.verify()
        plan = Plan(
            config=recipe.train,
            phases=recipe.phases,
            checkpoint_path=run_dir / store.CHECKPOINT,
            identity=self._identity,
        )
        checkpoint = self._find_checkpoint(plan.checkpoint_path, resume=resume)
        batches = Batches(
            self._dataset.train,
            batch_size=recipe.train.batch_size,
            seq_len=recipe.train.seq_len,
            seed=self._identity.seed,
        )
        run_dir.mkdir(parents=True, exist_ok=True)
        write_bytes(run_dir / store.RECIPE, self._resolved.toml().encode())
        write_bytes(run_dir / store.TOKENIZER, self._dataset.tokenizer.model_bytes)
        write_json(run_dir / store.DESCRIPTION, describe(self._resolved))

        torch.use_deterministic_algorithms(mode=True)
        torch.set_num_threads(num_threads())
        model = LM(recipe.model, recipe.schedules)
        model.init_weights(self._identity.seed)
        loss = TrainingLoss(model, self._compute, recipe.train)
        state = TrainState(model, recipe.train, recipe.optim, dtype=self._compute.dtype, conditions=self._conditions())
        with TreeWatch() as tree:
            prepare_seconds = prepare(plan, loss, recipe.model.vocab_size)
        state.optimizers.clear()
        on_prepared(prepare_seconds)
        for change in state.restore(checkpoint) if checkpoint else ():
            on_change(change)
        with ExitStack() as files:
            bytes_per_token = self._dataset.train_bytes_per_token
            log = files.enter_context(MetricsLog(run_dir / store.METRICS, bytes_per_token, num_done=state.spent.steps))
            probing = self._probing(plan, state, batches, files)
            train(plan, state, loss, batches, lambda row: on_row(log.write(row)), probing)

        weights = {name: value.contiguous() for name, value in state.final_weights().items()}
        write_bytes(run_dir / store.WEIGHTS, safetensors.torch.save(weights))
        receipt = self._receipt(state, prepare_seconds, tree.peak_bytes)
        write_json(run_dir / store.RECEIPT, receipt)
        plan.checkpoint_path.unlink()
        return receipt

    def predicted_bytes(self) -> int:
        """Predict the artifact's size from the recipe alone."""
        return predict_bytes(self._resolved.recipe.model, self._resolved.recipe.pack)

    def _probing(self, plan: Plan, state: TrainState, batches: Batches, files: ExitStack) -> Probing | None:
        """Open the rows of the probes, if the recipe wants any."""
        every = plan.config.probe_every
        if every is None:
            return None
        rows = files.enter_context(RowLog(self.run_dir / store.PROBES, num_done=state.spent.steps))
        batch = batches.batch(0)
        return Probing(every, state.model, plan.schedules, batch, rows.write, last_step=rows.last_step)

    def _find_checkpoint(self, path: Path, *, resume: bool) -> Checkpoint | None:
        if resume:
            return Checkpoint.read(path, self._identity)
        if path.exists():
            raise RunError(f"{path}: an unfinished run is here; continue it with --resume, or choose another --out")
        return None

    def _conditions(self) -> dict[str, str]:
        """List what a step's rounding depends on here, beside the precision."""
        facts = {name: str(fact) for name, fact in self._compute.facts().items() if name != "compute_dtype"}
        return {**facts, "processor": processor(), "torch": versions()["torch"]}

    def _receipt(self, state: TrainState, prepare_seconds: float, tree_bytes: int | None) -> dict[str, Any]:
        every = self._resolved.recipe.train.probe_every
        probe_seconds = {"probe": state.spent.probe_seconds} if every else {}
        return {
            "name": self._resolved.name,
            **msgspec.to_builtins(self._identity),
            "overrides": self._resolved.overrides,
            "tokenizer_sha256": self._dataset.tokenizer.sha256,
            "weights_sha256": sha256_file(self.run_dir / store.WEIGHTS),
            "num_params": ParamTable.of(state.model).count(),
            "steps": state.spent.steps,
            "tokens": state.spent.tokens,
            "seconds": {"compile": prepare_seconds, "train": state.spent.seconds, **probe_seconds},
            "peak_memory_bytes": {"compile_process_tree": tree_bytes, "train_process": peak_process_bytes()},
            "device": "cpu",
            "processor": processor(),
            "versions": versions(),
            **self._compute.facts(),
            "changes_on_resume": msgspec.to_builtins(state.conditions.changes),
            "probes": {"every": every, "clock": "stopped"} if every else None,
        }
