import subprocess
import sys

import pytest

from slicewise.files import write_atomically


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\x00\xff", b"\x00\xff"), ("Größe\n", b"Gr\xc3\xb6\xc3\x9fe\n"), (lambda file: file.write_bytes(b"own"), b"own")],
    ids=["bytes", "text", "writer"],
)
def test_the_content_appears_alone_in_a_folder_that_is_made(tmp_path, content, expected):
    file = tmp_path / "deep" / "down" / "file.bin"
    for _ in range(2):  # the second time over the first
        write_atomically(file, content)
        assert file.read_bytes() == expected
    assert list(file.parent.iterdir()) == [file]


def test_a_writer_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")

    def fail(temporary):
        temporary.write_text("ne")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_old_content_stands_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")
    seen = []

    def write(temporary):
        temporary.write_text("new")
        seen.append(file.read_text())

    write_atomically(file, write)
    assert seen == ["old"]
    assert file.read_text() == "new"


def test_whoever_reads_the_old_content_reads_it_to_its_end(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")
    with file.open() as reader:
        write_atomically(file, "new")
        assert reader.read() == "old"


def test_a_process_killed_in_the_middle_leaves_the_old_content(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")
    script = """
import os, sys
from pathlib import Path
from slicewise.files import write_atomically

def die(temporary):
    temporary.write_text("ne")
    os._exit(9)

write_atomically(Path(sys.argv[1]), die)
"""
    assert subprocess.run([sys.executable, "-c", script, str(file)], check=False).returncode == 9
    assert file.read_text() == "old"
    write_atomically(file, "new")
    assert file.read_text() == "new"
