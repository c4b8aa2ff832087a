import shutil
import subprocess

import pytest

from nutshell import __version__
from nutshell.pipeline import apart


def test_a_verb_runs_where_it_is_told(tmp_path):
    (tmp_path / "book").write_text("a")
    done = apart.run_apart(["compress", "no.nut", "book", "out"], tmp_path)
    assert done.status == 1
    assert b"no.nut: cannot read the artifact" in done.err  # and found itself, with this home and environment
    done = apart.run_apart(["--version"], tmp_path)
    assert (done.status, done.out.decode().strip()) == (0, __version__)


def test_without_a_network_there_is_no_way_out(tmp_path):
    if not apart.run_apart(["--version"], tmp_path).without_network:
        pytest.skip("this system does not let a process give up the network")
    devices = subprocess.run([*apart._UNSHARE, "cat", "/proc/net/dev"], check=True, capture_output=True, text=True)
    assert [line.split(":")[0].strip() for line in devices.stdout.splitlines()[2:]] in ([], ["lo"])


def test_a_system_that_cannot_cut_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    done = apart.run_apart(["--version"], tmp_path)
    assert (done.status, done.without_network) == (0, False)
