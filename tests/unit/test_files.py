"""Files that are whole or absent, and errors that name the file that was wanted."""

import pytest

from nutshell.files import atomic_writer, write_bytes


def test_a_missing_folder_is_named_with_the_file_that_was_wanted(tmp_path):
    wanted = tmp_path / "none" / "a.svg"
    with pytest.raises(FileNotFoundError) as caught:
        write_bytes(wanted, b"")
    assert caught.value.filename == str(wanted)
    assert caught.value.strerror == f"No such file or directory: no folder '{wanted.parent}'"


def test_a_file_in_place_of_the_folder_is_told_of_the_file_that_was_wanted(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        write_bytes(tmp_path / "file" / "a.svg", b"")
    assert (caught.value.filename, caught.value.strerror) == (str(tmp_path / "file" / "a.svg"), "Not a directory")


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    write_bytes(tmp_path / "a", b"before")

    def stop(file):
        file.write(b"after")
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"), atomic_writer(tmp_path / "a") as file:
        stop(file)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"before")]
