"""The digest of a source file is that of its whole content."""

import hashlib

import pytest

from stformat.sources._bytes import source_file


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 7])
def test_digest_and_size_are_those_of_the_content(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "counts.tsv"
    path.write_bytes(content[:size])
    found = source_file(path)
    assert found.name == "counts.tsv"
    assert found.size == size
    assert found.sha256 == hashlib.sha256(content[:size]).hexdigest()


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        source_file(tmp_path / "missing.tsv")
