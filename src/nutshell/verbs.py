"""What each verb of the command does: open what it names, run a stage, show the result."""

from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter, validators
from rich.console import Group
from rich.text import Text

from nutshell.config.loader import decode
from nutshell.data.bundled import BundledCorpus
from nutshell.data.corpus import BuildConfig
from nutshell.data.dataset import Dataset
from nutshell.data.documents import TextFiles
from nutshell.data.verify import verify
from nutshell.errors import DataError, ProofError, RunError, UsageError
from nutshell.files import write_bytes, write_json
from nutshell.pipeline import store
from nutshell.pipeline.compare import OVERHEAD, FlopsCost, LayerCost, StepCost, compare
from nutshell.pipeline.compressing import CHUNK_BYTES, compress_file, decompress_file
from nutshell.pipeline.describe import describe as describe_recipe
from nutshell.pipeline.doctor import examine
from nutshell.pipeline.explain import explain as explain_run
from nutshell.pipeline.packing import pack_run, packing_ranks
from nutshell.pipeline.passes import read_passes, score_passes
from nutshell.pipeline.probing import probe_artifact
from nutshell.pipeline.proving import Journal, check_proof, prove_artifact
from nutshell.pipeline.run import build_data, run_all, train_run
from nutshell.pipeline.scoring import compare_strategies, sample_text, score_artifact, score_by_strategy
from nutshell.pipeline.strategies import read_strategy
from nutshell.pipeline.training import Training
from nutshell.ranks import rank_here
from nutshell.recipe import Resolved, resolve
from nutshell.report.diagram import draw_depth
from nutshell.report.doctor_tables import doctor_view
from nutshell.report.explain_tables import explain_view
from nutshell.report.html import write_report
from nutshell.report.pass_tables import passes_view
from nutshell.report.probe_tables import probe_view
from nutshell.report.profile_tables import profile_view
from nutshell.report.recipe_tables import compare_view, describe_view
from nutshell.report.stored import Description
from nutshell.report.strategy_tables import strategies_chart, strategies_view
from nutshell.report.tables import (
    View,
    checks_view,
    compressed_view,
    ledger_view,
    manifest_view,
    proof_view,
    sample_view,
    score_view,
)
from nutshell.report.terminal import Terminal
from nutshell.score.config import PROVED_DOCUMENTS, PROVED_TOKENS, ProveConfig
from nutshell.score.predictor import Progress
from nutshell.train.clock import Laps
from nutshell.units import format_seconds

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Annotated[bool, Parameter(negative="")]
Seed = Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**63))]  # what numpy and torch both take
Overrides = Annotated[tuple[str, ...], Parameter(name="--set", negative="")]

AtLeastOne = Annotated[int, Parameter(validator=validators.Number(gte=1))]

DEMO_RECIPE = "demo"
# Each token is read once, and what was met before is remembered.
COMPRESSED_BY = "rolling,mixture={}"


def demo(*, out: Path = Path("runs/demo"), seed: Seed = 0, fresh: Flag = False, json: Json = False) -> None:
    """Run the main job on the bundled text.

    Args:
        out: run directory; what an earlier demo finished there is kept.
        seed: of initial weights and data order.
        fresh: delete the run directory first.
        json: print the summary as JSON.
    """
    terminal = Terminal(as_json=json)
    resolved = resolve(DEMO_RECIPE)
    if fresh and out.exists():
        store.remove_run(out)
    data = out / "data"
    if not data.exists():
        out.mkdir(parents=True, exist_ok=True)
        corpus = BundledCorpus()
        config = BuildConfig(vocab_size=resolved.recipe.model.vocab_size, val_frac=corpus.val_frac)
        build_data(corpus, data, config, terminal=terminal)
    run_all(resolved, data, out, seed=seed, terminal=terminal)


def run(
    recipe: str, *, data: Path, out: Path | None = None, seed: Seed = 0, overrides: Overrides = (), json: Json = False
) -> None:
    """Run a recipe on a data set: train, pack, score, prove, report.

    A run that was stopped goes on where it was; stages that are done are kept.

    Args:
        recipe: name of an installed recipe, or path of a TOML file.
        data: data set, as made by `nutshell data build`.
        out: run directory; runs/RECIPE-seedN unless given.
        seed: of initial weights and data order.
        overrides: settings to try, as in `--set optim.matrix_lr=0.03`; recorded with the run.
        json: print the summary as JSON.
    """
    resolved = resolve(recipe, overrides)
    terminal = Terminal(as_json=json, mute=rank_here() > 0)
    run_all(resolved, data, out or _default_out(resolved, seed), seed=seed, terminal=terminal)


def train(
    recipe: str,
    *,
    data: Path,
    out: Path | None = None,
    seed: Seed = 0,
    resume: Flag = False,
    profile: Flag = False,
    overrides: Overrides = (),
    json: Json = False,
) -> None:
    """Train a recipe.

    Args:
        recipe: name of an installed recipe, or path of a TOML file.
        data: data set, as made by `nutshell data build`.
        out: run directory; runs/RECIPE-seedN unless given.
        seed: of initial weights and data order.
        resume: go on from the checkpoint in the run directory.
        profile: record some steps of each phase, and write profile.json: where the time goes.
        overrides: settings to try, as in `--set optim.matrix_lr=0.03`; recorded with the run.
        json: print the receipt as JSON.
    """
    terminal = Terminal(as_json=json, mute=rank_here() > 0)
    resolved = resolve(recipe, overrides)
    run_dir = out or _default_out(resolved, seed)
    laps = Laps()
    training = Training(resolved, Dataset.open(data), run_dir, seed=seed, laps=laps)
    receipt = train_run(training, resume=resume, terminal=terminal, profile=profile)
    if profile and not rank_here():
        shown = store.read_stage(run_dir / store.PROFILE, remedy="train with --profile")
        terminal.result({**receipt, "profile": shown}, lambda _: profile_view(shown))
        terminal.note(f"trained: {run_dir}")
        return
    terminal.result(receipt, lambda _: Text(f"trained: {run_dir}"))


def pack(
    run: Path,
    *,
    budget_bytes: int | None = None,
    data: Path | None = None,
    explain: Flag = False,
    json: Json = False,
) -> None:
    """Pack a trained run into RUN/model.nut, as finely as the budget allows.

    Args:
        run: run directory of `nutshell train`.
        budget_bytes: most bytes the artifact may have; the recipe's budget unless given.
        data: data set that the run was trained on, where the recipe calibrates on its text, and for --explain.
        explain: say what packing cost by role, block and visit, and write it to RUN/explain.json; takes minutes.
        json: print the ledger as JSON.

    Raises:
        UsageError: --explain without --data.
    """
    terminal = Terminal(as_json=json, mute=rank_here() > 0)
    if explain and data is None:
        raise UsageError("pack: --explain measures losses on the validation text; give the data set with --data DIR")
    with packing_ranks() as ranks, terminal.stage("pack", unit="packings") as advance:
        ledger = pack_run(run, data, budget_bytes=budget_bytes, progress=advance, ranks=ranks)
    if not explain or data is None or rank_here():  # one process is enough to explain
        terminal.result(ledger, ledger_view)
        return
    with terminal.stage("explain", unit="losses") as advance:
        found = explain_run(run, data, progress=advance)
    terminal.result({**ledger, "explanation": found}, lambda _: Group(ledger_view(ledger), "", explain_view(found)))


def score(
    artifact: Path,
    *,
    data: Path,
    stride: int | None = None,
    schedule: str | None = None,
    strategy: str | None = None,
    budget: timedelta | None = None,
    passes: str | None = None,
    compare: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    plot: Path | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Score an artifact on a data set's validation text: by its own windows, or by another strategy.

    Its own score stands beside those of xz, brotli and zstd.

    Args:
        artifact: the .nut file.
        data: data set with the artifact's tokenizer.
        stride: targets by which windows advance; the recipe's unless given.
        schedule: run the blocks in this order instead of the trained one, as in `--schedule "0-2 (3-5)x4 6-10"`; such a
            score is an experiment and cannot be proved.
        strategy: `disjoint`, `sliding`, `rolling`, `chunked_sgd` or `document_adapters`, with settings behind commas as
            in `--strategy chunked_sgd,stride=64,learner.lr=0.02`; docs/scoring-rules.md lists them.
        budget: most seconds to take, as in `--budget 600s`; what does not fit is not scored, and the score says so.
        passes: score with each of so many passes of every loop, as in `--passes 1-6`, and say how far each pass still
            moves the stream; such scores are experiments, too.
        compare: score by several strategies, as in `--compare disjoint sliding`, and make a table.
        plot: draw what --compare finds, bits per byte against seconds, to this SVG file.
        out: write the score to this file instead of printing it.
        json: print the score as JSON.
    """
    terminal = Terminal(as_json=json, mute=rank_here() > 0)
    if compare:
        if stride is not None or strategy is not None or budget is not None or passes is not None:
            raise UsageError("score: --compare names all it scores by; drop --strategy, --stride, --budget, --passes")
        _compare_strategies(artifact, data, compare, schedule=schedule, plot=plot, out=out, terminal=terminal)
        return
    if plot is not None:
        raise UsageError("score: --plot draws what --compare finds; name strategies, as in --compare disjoint sliding")
    if passes is not None:
        if strategy is not None or budget is not None:
            raise UsageError("score: --passes scores the artifact's own windows; drop --strategy and --budget")
        numbers = read_passes(passes)
        with terminal.stage("score", unit="tokens read") as advance:
            result = score_passes(artifact, data, numbers, schedule=schedule, stride=stride, progress=advance)
        _deliver(result, passes_view, out, terminal)
        return
    if strategy is None:
        if budget is not None:
            raise UsageError("score: --budget needs a --strategy, as in --strategy sliding")
        with terminal.stage("score", unit="tokens read") as advance:
            result = score_artifact(artifact, data, stride=stride, schedule=schedule, progress=advance)
    else:
        if stride is not None:
            raise UsageError("score: --stride is a setting of the strategy here, as in --strategy sliding,stride=64")
        chosen, seconds = read_strategy(strategy), None if budget is None else budget.total_seconds()

        def forecast(whole: float) -> None:
            fits = seconds is not None and whole <= seconds
            says = "which fits" if fits else "which does not fit: scoring goes as far as it can"
            terminal.note(
                f"score: the whole text looks to take {format_seconds(whole)}, {says}", "" if fits else "unsure"
            )

        with terminal.stage("score", unit="tokens read") as advance:
            result = score_by_strategy(
                artifact,
                data,
                chosen,
                schedule=schedule,
                budget_seconds=seconds,
                forecast=forecast,
                progress=advance,
            )
    _deliver(result, score_view, out, terminal)


def _compare_strategies(
    artifact: Path,
    data: Path,
    strategies: tuple[str, ...],
    *,
    schedule: str | None,
    plot: Path | None,
    out: Path | None,
    terminal: Terminal,
) -> None:
    """Score by each of several strategies; keep and draw what is found as it comes."""

    def keep(result: dict[str, Any]) -> None:
        if rank_here():
            return
        if out:
            write_json(out, result)
        if plot:
            write_bytes(plot, strategies_chart(result, width=760, height=420).encode())

    def stage(text: str) -> AbstractContextManager[Progress]:
        return terminal.stage(text, unit="tokens read")

    result = compare_strategies(artifact, data, strategies, schedule=schedule, stage=stage, done=keep)
    if not out:
        terminal.result(result, strategies_view)


def prove(
    artifact: Path,
    *,
    data: Path | None = None,
    docs: int | None = None,
    max_tokens: int | None = None,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    strategy: str | None = None,
    claim: Path | None = None,
    out: Path | None = None,
    check: Path | None = None,
    json: Json = False,
) -> None:
    """Compress documents with the artifact and decompress them; their code length must be what the score claims.

    With --check, decode a proof that was made before; no text is needed. A proof with --out that was interrupted goes
    on where it was, if it is asked for again.

    Args:
        artifact: the .nut file.
        data: data set with the artifact's tokenizer.
        docs: documents to prove, chosen by hash; 8 unless given.
        max_tokens: most tokens in all, 50000 unless given; documents that do not fit are passed over.
        all_: prove every document.
        strategy: score them by it first, as in `nutshell score --strategy`; by the artifact's own windows unless given.
        claim: score to prove, as written by `nutshell score --out`, instead of scoring here.
        out: write the bitstream to this file, and the receipt beside it as .json.
        check: decode this bitstream, by the receipt beside it, instead of making one.
        json: print the receipt, or what was checked, as JSON.
    """
    terminal = Terminal(as_json=json)
    if check is not None:
        making = {
            "--data": data,
            "--docs": docs,
            "--max-tokens": max_tokens,
            "--all": all_ or None,
            "--strategy": strategy,
            "--claim": claim,
            "--out": out,
        }
        _check_proof(artifact, check, [name for name, value in making.items() if value is not None], terminal)
        return
    if data is None:
        raise UsageError("prove: give --data to make a proof, or --check to decode one")
    if all_ and (docs is not None or max_tokens is not None):
        raise UsageError("prove: --all is every document; drop --docs and --max-tokens")
    if strategy is not None and claim is not None:
        raise UsageError("prove: --claim says by which strategy it was made; drop --strategy")
    receipt_path = store.receipt_beside(out) if out else None
    sample = {
        "documents": PROVED_DOCUMENTS if docs is None else docs,
        "max_tokens": PROVED_TOKENS if max_tokens is None else max_tokens,
    }
    journal = store.journal_beside(out) if out else None
    with terminal.stage("prove", unit="tokens") as advance:
        bitstream, receipt = prove_artifact(
            artifact,
            data,
            None if all_ else decode(sample, ProveConfig, where="prove"),
            strategy=read_strategy(strategy) if strategy else None,
            claim=store.read_stage(claim, remedy="score the artifact first") if claim else None,
            journal_dir=journal,
            progress=advance,
        )
    if out and journal:
        write_bytes(out, bitstream)
        Journal.discard(journal)
    _deliver(receipt, proof_view, receipt_path, terminal)
    if not receipt["ok"]:
        raise ProofError(f"{artifact}: the score is not proved: {receipt['reason']}")


def compress(
    artifact: Path,
    source: Path,
    out: Path,
    *,
    strategy: str = COMPRESSED_BY,
    chunk_bytes: AtLeastOne = CHUNK_BYTES,
    json: Json = False,
) -> None:
    """Write any file in few bytes, with the artifact's model.

    Args:
        artifact: the .nut file; `nutshell decompress` needs it, too.
        source: the file to compress.
        out: where to.
        strategy: how the model reads, as in `nutshell score --strategy`.
        chunk_bytes: bytes that are read for themselves; chunks run side by side.
        json: print what it took as JSON.
    """
    terminal = Terminal(as_json=json)
    with terminal.stage("compress", unit="tokens") as advance:
        done = compress_file(artifact, source, out, strategy=strategy, chunk_bytes=chunk_bytes, progress=advance)
    terminal.result(done, compressed_view)


def decompress(artifact: Path, source: Path, out: Path, *, json: Json = False) -> None:
    """Write the file that was compressed with this artifact, or nothing.

    Args:
        artifact: the .nut file that it was compressed with.
        source: the compressed file.
        out: where to.
        json: print what it took as JSON.
    """
    terminal = Terminal(as_json=json)
    with terminal.stage("decompress", unit="tokens") as advance:
        done = decompress_file(artifact, source, out, progress=advance)
    terminal.result(done, compressed_view)


def sample(
    artifact: Path,
    *,
    prompt: str = "",
    max_tokens: int = 200,
    temperature: float = 0.8,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write text with an artifact.

    Args:
        artifact: the .nut file.
        prompt: what the text starts with.
        max_tokens: most tokens to write.
        temperature: 1 draws from the model's own distribution, 0 takes the likeliest token.
        seed: of the draws.
        json: print prompt and text as JSON.
    """
    text = sample_text(artifact, prompt, max_tokens=max_tokens, temperature=temperature, seed=seed)
    Terminal(as_json=json).result({"prompt": prompt, "text": text}, sample_view)


def probe(
    artifact: Path,
    *,
    data: Path,
    schedule: str | None = None,
    jacobian_steps: int = 0,
    early_stop: Annotated[tuple[float, ...], Parameter(negative="")] = (),
    weights: Path | None = None,
    json: Json = False,
) -> None:
    """Show what every visit of an artifact's model does to the stream: diagnostics, not a score.

    Args:
        artifact: the .nut file.
        data: data set with the artifact's tokenizer; the first windows of its validation text are read.
        schedule: run the blocks in this order instead of the trained one, as in `--schedule "0-2 (3-5)x4 6-10"`.
        jacobian_steps: of the power iteration for how far a visit can stretch an error; left out unless given.
        early_stop: say where each loop could stop, once a pass changes the stream by less than this part of it; may be
            given more than once. The loops have as many passes as the schedule says.
        weights: RUN/weights.safetensors, what was packed: say how far packing moves the stream.
        json: print the readings as JSON.
    """
    terminal = Terminal(as_json=json)
    with terminal.stage("probe", unit="tokens"):
        reading = probe_artifact(
            artifact, data, schedule=schedule, jacobian_steps=jacobian_steps, eps=early_stop, weights=weights
        )
    terminal.result(reading, probe_view)


def report(run: Path) -> None:
    """Write RUN/report.html again, from the run's stored files.

    Args:
        run: run directory.
    """
    Terminal().note(f"report: {write_report(run)}")


def describe(
    recipe: str,
    *,
    against: str | None = None,
    step_ms: Annotated[tuple[float, float] | None, Parameter(negative="")] = None,
    overhead: float | None = None,
    diagram: Path | None = None,
    overrides: Overrides = (),
    json: Json = False,
) -> None:
    """Show what a recipe is, without data or training; with --against, how another one differs from it.

    Args:
        recipe: name of an installed recipe, or path of a TOML file; A in a comparison.
        against: another recipe, B.
        step_ms: what a step takes, fixed and for each layer, as in `--step-ms 12.2 8.16`; by FLOPs unless given.
        overhead: part of A's final step that is a fixed cost beside its FLOPs; 0.023 unless given.
        diagram: draw the model into this file, NAME.svg.
        overrides: settings of RECIPE to try, as in `--set model.model_dim=128`.
        json: print the description as JSON.
    """
    terminal = Terminal(as_json=json)
    if against is not None:
        if diagram is not None:
            raise UsageError("describe: --diagram draws one recipe, and --against compares two; drop one")
        resolved = resolve(recipe, overrides)
        comparison = compare(resolved, resolve(against), cost=_step_cost(resolved, step_ms, overhead))
        terminal.result(comparison, compare_view)
        return
    if step_ms is not None or overhead is not None:
        option = "--overhead" if step_ms is None else "--step-ms"
        raise UsageError(f"describe: {option} is for a comparison; give --against, or drop it")
    if diagram is not None and diagram.suffix != ".svg":
        raise UsageError(f"describe: --diagram {diagram}: draws SVG; give a name that ends in .svg")
    description = describe_recipe(resolve(recipe, overrides))
    if diagram is not None:
        write_bytes(diagram, draw_depth(msgspec.convert(description, Description), standalone=True).encode())
        terminal.note(f"diagram: {diagram}")
    terminal.result(description, describe_view)


def doctor(*, recipe: str = DEMO_RECIPE, overrides: Overrides = (), json: Json = False) -> None:
    """Show what this machine has, which paths a training takes on it, and what is missing.

    Args:
        recipe: the recipe to train; the demo's unless given.
        overrides: settings to try, as in `--set train.compile=never`.
        json: print what was found as JSON.
    """
    found = examine(resolve(recipe, overrides))
    Terminal(as_json=json).result(found, doctor_view)
    if broken := [row for row in found["missing"] if row["needed"]]:
        raise RunError(f"doctor: {broken[0]['says']}; {broken[0]['remedy']}")


def data_build(*text: Path, vocab: int, out: Path, val_frac: float = 0.05, json: Json = False) -> None:
    """Turn files or folders of text into a data set.

    Args:
        text: plain text, or .jsonl with a `text` field; each may be compressed (.gz, .xz, .zst).
        vocab: size of the tokenizer's vocabulary.
        out: folder to make.
        val_frac: part of the documents to hold out for validation.
        json: print the manifest as JSON.
    """
    terminal = Terminal(as_json=json)
    config = BuildConfig(vocab_size=vocab, val_frac=val_frac)
    dataset = build_data(TextFiles(text), out, config, terminal=terminal)
    terminal.result(msgspec.to_builtins(dataset.manifest), manifest_view)


def data_verify(folder: Path, *, out: Path | None = None, json: Json = False) -> None:
    """Check what must hold of a data set before a score on it means anything; status 1 if something does not.

    Shards and hashes, counts and bytes, whether texts survive the tokenizer, and whether a validation document is in
    the training text: exactly, or but for case, spaces and forms of characters.

    Args:
        folder: the data set.
        out: write the checks to this file instead of printing them.
        json: print the checks as JSON.
    """
    terminal = Terminal(as_json=json)
    dataset = Dataset.open(folder)
    with terminal.stage("verify", unit="checks") as advance:
        checks = verify(dataset, progress=advance)
    _deliver({"digest": dataset.digest, "checks": msgspec.to_builtins(checks)}, checks_view, out, terminal)
    if failed := [check.name for check in checks if check.verdict == "failed"]:
        raise DataError(f"{folder}: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


def _check_proof(artifact: Path, bitstream: Path, making: list[str], terminal: Terminal) -> None:
    """Decode a stored proof; `making` lists the options that were given for making one."""
    if making:
        raise UsageError(f"prove: --check decodes a proof that is there, and {making[0]} is for making one; drop one")
    with terminal.stage("check", unit="tokens") as advance:
        checked = check_proof(
            artifact, bitstream, note=lambda text: terminal.note(f"prove: {text}", "unsure"), progress=advance
        )
    terminal.result(checked, proof_view)


def _step_cost(resolved: Resolved, step_ms: tuple[float, float] | None, overhead: float | None) -> StepCost:
    if step_ms is None:
        return FlopsCost(resolved.recipe, OVERHEAD if overhead is None else overhead)
    if overhead is not None:
        raise UsageError("describe: --step-ms says what a step costs, --overhead what FLOPs leave out; drop one")
    return LayerCost(*step_ms)


def _default_out(resolved: Resolved, seed: int) -> Path:
    return Path("runs") / f"{resolved.name}-seed{seed}"


def _deliver(result: dict[str, Any], view: View, out: Path | None, terminal: Terminal) -> None:
    """Write a result to a file, or show it."""
    if out:
        write_json(out, result)
    else:
        terminal.result(result, view)
