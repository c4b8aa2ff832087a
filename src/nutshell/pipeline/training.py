"""The training stage: a recipe and a data set to weights and a receipt."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch

from nutshell.artifact.estimate import predict_bytes
from nutshell.data.dataset import Dataset
from nutshell.data.loading import Loader, Prefetched, build_loader
from nutshell.data.reads import CHECK, Reads
from nutshell.errors import DataError, RunError
from nutshell.files import sha256_file, write_bytes, write_json
from nutshell.machine import processor, versions
from nutshell.memory import TreeWatch
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.optim.roles import Optimizers
from nutshell.pipeline import store
from nutshell.pipeline.describe import describe
from nutshell.pipeline.profiling import Profiler
from nutshell.pipeline.receipt import Measured, peak_memory, receipt_of, weights_digest
from nutshell.pipeline.rows import MetricsLog, RowLog
from nutshell.pipeline.weights import weight_files
from nutshell.ranks import Ranks, is_silence, joined_ranks
from nutshell.recipe import Resolved
from nutshell.train.checkpoint import Change, Checkpoint, Identity
from nutshell.train.clock import Laps
from nutshell.train.compute import Compute
from nutshell.train.gradient import Gradients
from nutshell.train.loop import QAT, OnRow, Plan, train
from nutshell.train.loss import TrainingLoss
from nutshell.train.preparing import num_compiled, prepare
from nutshell.train.probing import Probing
from nutshell.train.qat import SnapConfig, quantized_twin, snap_
from nutshell.train.qat.mode import ViewKind
from nutshell.train.record import Session
from nutshell.train.stages import UNWATCHED, Stages
from nutshell.train.state import TrainState


def _nobody(_: object) -> None:
    """Hear nothing."""


class Training:
    """One training in one run directory.

    Args:
        resolved: the recipe.
        dataset: its data.
        run_dir: where everything goes; made if missing.
        seed: of initial weights and data order.
        laps: the clock that has run since before the data was opened; from here on unless given.

    Raises:
        DataError: the data's vocabulary or BOS is not the recipe's.
    """

    def __init__(
        self, resolved: Resolved, dataset: Dataset, run_dir: Path, *, seed: int, laps: Laps | None = None
    ) -> None:
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
        self._laps = laps or Laps()
        self._reads = Reads(dataset)
        data_digest = dataset.digest  # of data without a manifest, it reads every byte
        self._laps.done("check")
        self._compute = Compute.choose(resolved.recipe.train, resolved.recipe.model)
        self._identity = Identity(
            recipe_digest=resolved.digest,
            data_digest=data_digest,
            seed=seed,
            compute_dtype=self._compute.precision,
        )
        self._laps.done("kernels")

    def is_done(self) -> bool:
        """Say whether this very training has ended here, in whatever precision.

        Raises:
            RunError: the directory holds another run, or this one, in which something never acted.
        """
        path = self.run_dir / store.RECEIPT
        if not path.exists():
            return False
        receipt = store.read_stage(path, remedy="delete it and train again")
        wanted = msgspec.to_builtins(self._identity)
        del wanted["compute_dtype"]
        if differing := [name for name, value in wanted.items() if receipt.get(name) != value]:
            raise RunError(f"{self.run_dir}: holds another run (its {differing[0]} differs); choose another --out")
        store.check_all_active(self.run_dir, receipt)
        return True

    def profiler(self) -> Profiler:
        """Make what records some steps of this training."""
        return Profiler(self._compute.device)

    def run(self, *, resume: bool, told: "Told", profiler: Profiler | None = None) -> dict[str, Any]:
        """Train until the budget is spent; write weights and receipt, and return the receipt.

        Under `torchrun` every process runs this; the first one alone writes and tells.

        Args:
            resume: go on from the checkpoint.
            told: who hears of what happens.
            profiler: records some steps of the first process; the run directory then gets a profile.json.

        Raises:
            RunError: a checkpoint is there and `resume` is not set, or the other way round; or training went wrong.
            Interrupted: Ctrl-C; a checkpoint is written.
        """
        with joined_ranks(self._compute.device) as ranks, self._together(ranks):
            return self._run(
                ranks,
                resume=resume,
                told=told if ranks.is_first else Told(),
                profiler=profiler if ranks.is_first else None,
            )

    def _run(self, ranks: Ranks, *, resume: bool, told: "Told", profiler: Profiler | None) -> dict[str, Any]:
        recipe, run_dir, laps = self._resolved.recipe, self.run_dir, self._laps
        laps.done("set_up")
        if ranks.is_first:  # reads every byte
            self._dataset.verify()
        laps.done("check")
        self._reads.done(CHECK)
        plan = Plan(
            config=recipe.train,
            phases=recipe.phases,
            checkpoint_path=run_dir / store.CHECKPOINT,
            identity=self._identity,
        )
        checkpoint = self._find_checkpoint(plan.checkpoint_path, resume=resume)
        if ranks.is_first:
            self._write_inputs()
        self._compute.set_up()
        loader = self._loader()
        model = LM(recipe.model, recipe.schedules)
        model.init_weights(self._identity.seed)
        model.to(self._compute.device)
        conditions = {**self._conditions(), "ranks": str(ranks.size)}
        dtype = self._compute.dtype
        state = TrainState(
            model,
            recipe.train,
            recipe.optim,
            dtype=dtype,
            conditions=conditions,
            ranks=ranks,
            after_step=self._snap(ParamTable.of(model)),
        )
        with ExitStack() as opened:
            gradients = self._gradients(state, ranks, opened.enter_context(Prefetched(loader)), profiler or UNWATCHED)
            laps.done("set_up")
            with TreeWatch() as tree:
                rehearsed = Optimizers(state.table, recipe.optim, dtype=dtype, ranks=ranks)
                prepare_seconds = prepare(plan.phases, state, gradients, rehearsed)
            del rehearsed
            laps.done("compile")
            told.prepared(prepare_seconds)
            graphs = num_compiled()
            for change in state.restore(checkpoint) if checkpoint else ():
                told.changed(change)
            session = self._begin_session(state, {"compile_process_tree": tree.peak_bytes})
            log = self._log(state, opened) if ranks.is_first else None

            def note(row: dict[str, Any]) -> None:
                self._reads.done("train")
                session.recompiled = num_compiled() - graphs
                session.peak_memory_bytes |= peak_memory(self._compute.device)
                if log:
                    told.row(log.write(row))

            probing = self._probing(plan, state, loader, opened) if ranks.is_first else None
            laps.done("set_up")
            self._reads.done("set_up")
            clocked = state.spent.seconds + state.spent.probe_seconds
            try:
                train(plan, state, gradients, note, on_warning=told.warned, probing=probing)
            finally:
                laps.done("write", less=state.spent.seconds + state.spent.probe_seconds - clocked)
                if profiler:
                    write_json(run_dir / store.PROFILE, profiler.result())
                    laps.done("profile")
        if isinstance(recipe.train.qat, SnapConfig):  # the last step need not have been one that snaps
            snap_(state.table, recipe.train.qat, recipe.pack.rules)
        measured = Measured(
            ranks=ranks.size,
            replicas_equal=ranks.same(weights_digest(state)),
            skipped={str(phase.seq_len): loader.skipped(phase.seq_len) for phase in plan.phases},
        )
        if not measured.replicas_equal:
            told.warned("the processes ended with different weights; the first one's are kept")
        if session.recompiled:
            told.warned(f"{session.recompiled} graphs were compiled after the clock had started")
        receipt = {"steps": state.spent.steps, "never_active": _never_active(plan, state)}
        if ranks.is_first:
            receipt = self._finish(plan, state, measured)
        store.check_all_active(run_dir, receipt)
        return receipt

    @contextmanager
    def _together(self, ranks: Ranks) -> Iterator[None]:
        """Say clearly what it means that the others do not answer.

        Raises:
            RunError: a collective operation failed.
        """
        try:
            yield
        except RuntimeError as error:
            if ranks.size == 1 or not is_silence(error):
                raise
            path = self.run_dir / store.CHECKPOINT
            kept = f"{path} continues the run: train --resume" if path.exists() else "nothing was saved yet"
            first_line = str(error).partition("\n")[0]
            raise RunError(
                f"a process of this training is gone ({first_line}); {kept}, on any number of processes"
            ) from error

    def _loader(self) -> Loader:
        """Lay out the first epoch of every context length, the first one's last, for that is read at once.

        Raises:
            DataError: the text is too short for one of them.
        """
        recipe, data = self._resolved.recipe, self._dataset
        loader = build_loader(recipe.train.loader, data.train, bos_id=data.tokenizer.bos_id, seed=self._identity.seed)
        for phase in reversed(recipe.phases):
            loader.windows(phase.seq_len)
        return loader

    def _gradients(self, state: TrainState, ranks: Ranks, loader: Prefetched, stages: Stages) -> Gradients:
        """Put together what makes a step's gradients."""
        train = self._resolved.recipe.train
        plain = TrainingLoss(state.model, self._compute, train, stages)
        return Gradients(
            losses={False: plain, True: self._quantized_loss(state.model, stages) or plain},
            loader=loader,
            device=self._compute.device,
            weights=list(state.weights.values()),
            seed=self._identity.seed,
            micro_batch_size=train.micro_batch_size,
            ranks=ranks,
            penalties=[kind.build(state.table, self._resolved.recipe.pack.rules) for kind in train.penalties],
            stages=stages,
        )

    def _quantized_loss(self, model: LM, stages: Stages) -> TrainingLoss | None:
        """Make the loss of the model as it will be packed, where the recipe trains through that."""
        recipe = self._resolved.recipe
        if not isinstance(recipe.train.qat, ViewKind):
            return None
        twin = quantized_twin(model, recipe.schedules, recipe.train.qat, recipe.pack.rules)
        return TrainingLoss(twin, self._compute, recipe.train, stages)

    def _snap(self, table: ParamTable) -> Callable[[int], bool] | None:
        """Say what puts the weights on their grids after a step, where the recipe does that."""
        recipe = self._resolved.recipe
        qat = recipe.train.qat
        if not isinstance(qat, SnapConfig):
            return None

        def snap_if_due(step: int) -> bool:
            if is_due := qat.is_due(step):
                snap_(table, qat, recipe.pack.rules)
            return is_due

        return snap_if_due

    def _write_inputs(self) -> None:
        """Write what the run is made of."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        write_bytes(self.run_dir / store.RECIPE, self._resolved.toml().encode())
        write_bytes(self.run_dir / store.TOKENIZER, self._dataset.tokenizer.model_bytes)
        write_json(self.run_dir / store.DESCRIPTION, describe(self._resolved))

    def _log(self, state: TrainState, opened: ExitStack) -> MetricsLog:
        bytes_per_token = self._dataset.train_bytes_per_token
        path = self.run_dir / store.METRICS
        return opened.enter_context(MetricsLog(path, bytes_per_token, num_done=state.spent.steps))

    def _finish(self, plan: Plan, state: TrainState, measured: Measured) -> dict[str, Any]:
        """Write the weights, then the receipt; then the checkpoint has served."""
        files = weight_files(self.run_dir, self._resolved.recipe)
        for name, weights in state.final_weights().items():
            plain = {key: value.cpu().contiguous() for key, value in weights.items()}
            write_bytes(files[name], safetensors.torch.save(plain))
        packed = self.run_dir / store.WEIGHTS  # missing if they are an average that never acted
        weights_sha256 = sha256_file(packed) if packed.exists() else None
        self._laps.done("write")
        receipt = {
            "name": self._resolved.name,
            **msgspec.to_builtins(self._identity),
            "overrides": self._resolved.overrides,
            "tokenizer_sha256": self._dataset.tokenizer.sha256,
            "weights_sha256": weights_sha256,
            "never_active": _never_active(plan, state),
            **receipt_of(plan.config, state, self._compute, measured),
        }
        write_json(self.run_dir / store.RECEIPT, receipt)
        plan.checkpoint_path.unlink()
        return receipt

    def _begin_session(self, state: TrainState, peaks: dict[str, int | None]) -> Session:
        """Put this process on the record, after those that an interrupted run had before."""
        session = Session(
            after_step=state.spent.steps,
            seconds=self._laps.seconds,
            peak_memory_bytes=peaks,
            reads=self._reads.tokens,
        )
        if state.spent.steps:
            state.record.sessions.append(session)
        else:
            state.record.sessions = [session]
        return session

    def predicted_bytes(self) -> int:
        """Predict the artifact's size from the recipe alone."""
        return predict_bytes(self._resolved.recipe.model, self._resolved.recipe.pack)

    def _probing(self, plan: Plan, state: TrainState, loader: Loader, opened: ExitStack) -> Probing | None:
        """Open the rows of the probes, if the recipe wants any."""
        every = plan.config.probe_every
        if every is None:
            return None
        rows = opened.enter_context(RowLog(self.run_dir / store.PROBES, num_done=state.spent.steps))
        batch = loader.batch(0, batch_size=plan.config.batch_size, seq_len=plan.config.seq_len)
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


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of a training: of each row, of the seconds of preparation, of changed conditions, of warnings."""

    row: OnRow = _nobody
    prepared: Callable[[float], object] = _nobody
    changed: Callable[[Change], object] = _nobody
    warned: Callable[[str], object] = _nobody


def _never_active(plan: Plan, state: TrainState) -> list[str]:
    """Name what was scheduled and had no step."""
    scheduled = [*(phase.name for phase in plan.phases), *state.averages, *([QAT] if plan.config.qat else [])]
    return state.record.never_active([*scheduled, *state.optimizers.config.scheduled_decays()])
