"""The command's surface, frozen: a verb or an option that comes, goes or changes its name changes this page too."""

import inspect

from cyclopts import App

from nutshell import auditing, cli, fetching, listing, piping, studying, verbs

# What each verb must be given, and what it may be given.
SURFACE = {
    "demo": ("", "out seed fresh json"),
    "run": ("recipe data", "out seed set json"),
    "train": ("recipe data", "out seed resume profile set json"),
    "pack": ("run", "budget-bytes data explain json"),
    "score": ("artifact data", "stride schedule strategy budget passes compare plot out json"),
    "prove": ("artifact", "data docs max-tokens all strategy claim out check json"),
    "audit": ("data", "artifact strategy command batch scorer independent tokens seed timeout out json"),
    "compress": ("artifact source out", "strategy chunk-bytes json"),
    "decompress": ("artifact source out", "json"),
    "sample": ("artifact", "prompt max-tokens temperature seed json"),
    "probe": ("artifact data", "schedule jacobian-steps early-stop weights json"),
    "report": ("run", ""),
    "compare": ("", "RUNS metric margin alpha out json"),
    "study plan": ("file data", "json"),
    "study run": ("file data", "out executor parallel store retry json"),
    "study trial": ("file data arm seed", "budget size out json"),
    "study report": ("file", "data out stored store html markdown json"),
    "recipes": ("", "json"),
    "describe": ("recipe", "against step-ms overhead diagram set json"),
    "doctor": ("", "recipe set json"),
    "data build": ("vocab out", "TEXT val-frac json"),
    "data verify": ("folder", "out json"),
    "pipe score": ("command data", "timeout out json"),
    "pipe prove": ("command data", "docs max-tokens all timeout out json"),
    "pipe check": ("command proof data", "timeout json"),
    "data fetch": ("export out", "train-shards revision repo allow-shared json"),
}


def surface(app: App) -> dict[str, tuple[str, str]]:
    """List the verbs of the command and of its groups, with the names of their arguments."""
    found = {}
    for name in app:
        if name.startswith("-"):
            continue
        if inner := {inner: names for inner, names in surface(app[name]).items() if not inner.startswith("-")}:
            found |= {f"{name} {verb}": names for verb, names in inner.items()}
            continue
        required, optional = [], []
        for argument in app[name].assemble_argument_collection():
            assert len(argument.names) == 1, f"{name}: {argument.names} mean the same"
            (required if argument.required else optional).append(argument.names[0].removeprefix("--"))
        found[name] = (" ".join(required), " ".join(optional))
    return found


def test_verbs_and_options():
    assert surface(cli.app) == SURFACE


def test_every_verb_has_a_body_and_every_body_a_verb():
    bodies = {
        name
        for module in (verbs, listing, fetching, piping, auditing, studying)
        for name, body in inspect.getmembers(module, inspect.isfunction)
        if body.__module__ == module.__name__ and not name.startswith("_")
    }
    assert bodies == {
        *cli.VERBS,
        *(f"data_{verb}" for verb in cli.DATA_VERBS),
        *(f"pipe_{verb}" for verb in cli.PIPE_VERBS),
        *(f"study_{verb}" for verb in cli.STUDY_VERBS),
    }
