"""The `nutshell` command: names of the verbs, and what an error looks like.

The verbs are in verbs.py, listing.py, fetching.py, piping.py, auditing.py and studying.py. A verb's module is imported
when the verb runs, since torch takes seconds to import and help should not wait for it.
"""

import os
import sys

from cyclopts import App, CycloptsError

from nutshell import __version__
from nutshell.errors import NutshellError, UndecidedError, UsageError
from nutshell.printable import show_controls

# The shell's conventions: a command that was asked wrongly, and one ended by Ctrl-C.
USAGE, INTERRUPTED = 2, 130
# Of an audit that can neither pass nor fail.
UNDECIDED = 2

VERBS = {
    "demo": "Run the main job on the bundled text: data, training, artifact, score, proof, report.",
    "run": "Run a recipe on a data set: train, pack, score, prove, report.",
    "train": "Train a recipe.",
    "pack": "Pack a trained run into an artifact under a byte budget.",
    "score": "Score an artifact on a data set's validation text.",
    "prove": "Prove a sample of a score: compress documents with the artifact and get them back. Or check a proof.",
    "audit": "Look for ways of cheating in a score: probes of an artifact, or of a predictor that others wrote.",
    "compress": "Write any file in few bytes, with an artifact's model.",
    "decompress": "Write the file back that was compressed.",
    "sample": "Write text with an artifact.",
    "probe": "Show what every visit of an artifact's model does to the stream: diagnostics, not a score.",
    "report": "Write the report of a run again, from its stored files.",
    "compare": "Compare finished runs of two kinds, seed by seed: is one better?",
    "recipes": "List the installed recipes.",
    "doctor": "Show what this machine has, which paths a training takes on it, and what is missing.",
    "describe": "Show what a recipe is: virtual layers, parameters, FLOPs, predicted bytes; or how two differ.",
}
DATA_VERBS = {
    "build": "Turn text into a data set: documents, split, tokenizer, shards.",
    "verify": "Check what must hold of a data set before a score on it means anything.",
    "fetch": "Fetch a published export of FineWeb from the Hugging Face hub.",
}

STUDY_VERBS = {
    "plan": "Show the arms and trials of a study, without running anything.",
    "run": "Run what is left of a study: every arm with every seed, and what may be concluded.",
    "trial": "Run one trial of a study, as `study run` does.",
    "report": "Say what a study has found so far; write it as HTML or Markdown.",
}
PIPE_VERBS = {
    "score": "Score a program that predicts, token by token.",
    "prove": "Prove a sample of its score: compress documents with it and get them back.",
    "check": "Decode a proof with it, where no text is.",
}

app = App(
    name="nutshell",
    version=__version__,
    help="Train, compress and score the best language model that fits in a given number of bytes.",
    suppress_keyboard_interrupt=False,  # `main` says what was saved
)
for verb, summary in VERBS.items():
    module = {"recipes": "listing", "audit": "auditing", "compare": "studying"}.get(verb, "verbs")
    # `compare` takes what is before `--` for one side and what is behind it for the other.
    delimiter = {"end_of_options_delimiter": ""} if verb == "compare" else {}
    app.command(f"nutshell.{module}:{verb}", name=verb, help=summary, **delimiter)
data_app = App(name="data", help="Build data sets, fetch them, check them.")
for verb, summary in DATA_VERBS.items():
    module = "fetching" if verb == "fetch" else "verbs"
    data_app.command(f"nutshell.{module}:data_{verb}", name=verb, help=summary)
app.command(data_app)
pipe_app = App(name="pipe", help="Score and prove predictors that are other programs (docs/predictor-protocol.md).")
for verb, summary in PIPE_VERBS.items():
    pipe_app.command(f"nutshell.piping:pipe_{verb}", name=verb, help=summary)
app.command(pipe_app)
study_app = App(name="study", help="Studies: arms that differ in one thing, over seeds (docs/studies.md).")
for verb, summary in STUDY_VERBS.items():
    study_app.command(f"nutshell.studying:study_{verb}", name=verb, help=summary)
app.command(study_app)


def main() -> None:
    """Run the command. What a user caused is one line and status 1 (2 for usage); what a user stopped is status 130."""
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(f"{error} (see nutshell --help)", USAGE)
    except KeyboardInterrupt as interruption:
        _fail(str(interruption) or "stopped", INTERRUPTED)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except UsageError as error:
        _fail(str(error), USAGE)
    except UndecidedError as error:
        _fail(str(error), UNDECIDED)
    except NutshellError as error:
        _fail(str(error), 1)


def _fail(message: str, status: int) -> None:
    rank = os.environ.get("RANK")  # torchrun's processes share one terminal
    who = f"nutshell [rank {rank}]" if rank else "nutshell"
    print(f"{who}: {show_controls(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(status)
