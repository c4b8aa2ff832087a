"""No file that nutshell reads can run code, and it starts no program but itself and the one that a user names.

A scan of the source, not of what happens to run: pickles in any dress, `eval` and `exec`, and programs started outside
the modules that start verbs of nutshell in fresh processes, and those that start predictors and scorers, without a
shell.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nutshell

PACKAGE = Path(nutshell.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
STARTERS = {"subprocess", "multiprocessing", "pty", "asyncio"}
RUN_CODE = {"eval", "exec", "__import__"}
FORBIDDEN = {
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("numpy.load", "np.load", "numpy.save", "np.save", "numpy.savez", "np.savez"),
    *("os.system", "os.popen", "os.fork", "os.posix_spawn", "runpy.run_path", "yaml.load"),
}
STARTS_WHAT_IS_NAMED = {"score/pipe.py", "audit/batch_command.py"}
CUTS_THE_NETWORK = {"pipeline/apart.py"}  # by a program of the system, around this interpreter
MAY_START = {"pipeline/run.py", "study/jobs.py", *CUTS_THE_NETWORK, *STARTS_WHAT_IS_NAMED}


def faults(source: str, *, may_start: bool = False, may_start_others: bool = False) -> Iterator[str]:
    """Name what the source does that it must not, as line: what."""
    for node in ast.walk(ast.parse(source)):
        for name in _imported(node):
            root = name.partition(".")[0]
            if root in PICKLES or name in FORBIDDEN or (root in STARTERS and not may_start):
                yield f"{node.lineno}: import {name}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in RUN_CODE | FORBIDDEN or called.startswith(("os.exec", "os.spawn")):
                yield f"{node.lineno}: {called}()"
            allowed = not _has_shell(node) and (may_start_others or _starts_this_interpreter(node))
            if called.startswith("subprocess.") and not allowed:
                yield f"{node.lineno}: {called}() of another program"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _starts_this_interpreter(call: ast.Call) -> bool:
    """Say whether the call is given a list that begins with sys.executable."""
    command = call.args[0] if call.args else None
    begins_with = ast.unparse(command.elts[0]) if isinstance(command, ast.List) and command.elts else ""
    return begins_with == "sys.executable"


def _has_shell(call: ast.Call) -> bool:
    return any(keyword.arg == "shell" for keyword in call.keywords)


def test_nothing_read_can_run_and_nothing_else_is_started():
    found = {}
    for path in SOURCES:
        name = path.relative_to(PACKAGE).as_posix()
        may = {"may_start": name in MAY_START, "may_start_others": name in STARTS_WHAT_IS_NAMED | CUTS_THE_NETWORK}
        found[name] = list(faults(path.read_text(encoding="utf-8"), **may))
    assert len(found) > 50
    assert {name: some for name, some in found.items() if some} == {}


def test_whoever_may_start_a_process_does():
    starts = {path.relative_to(PACKAGE).as_posix() for path in SOURCES if "subprocess." in path.read_text("utf-8")}
    assert starts == MAY_START


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "def f():\n    import dill",
        "from torch import load",
        "torch.load(path, weights_only=False)",
        "weights = torch.save(model, path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(compile(text, '', 'exec'))",
        "__import__(name)",
        "os.system('xz -9 ' + path)",
        "os.execvp('brotli', [])",
        "import subprocess",
        "from multiprocessing import Pool",
    ],
)
def test_the_scan_finds(source):
    assert list(faults(source))


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        ("[sys.executable, '-m', 'nutshell']", True),
        ("['lrzip', path]", False),
        ("command", False),
        ("[sys.executable, '-m', 'nutshell'], shell=True", False),
    ],
)
def test_only_this_interpreter_may_be_started(command, allowed):
    assert (not list(faults(f"subprocess.run({command})", may_start=True))) is allowed


@pytest.mark.parametrize("source", ["model.eval()", "block.compile()", "re.compile(x)", "evaluate(x)", "import lzma"])
def test_the_scan_lets_pass(source):
    assert not list(faults(source))
