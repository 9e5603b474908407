"""F3, F7: a file system that refuses, and another writer, leave the store that is there."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from stformat.store.lock import lock_path

CODES = ["ENOSPC", "EIO", "EDQUOT", "EROFS", "EMFILE"]


@pytest.mark.counts(10, 30, 200)
def test_refused(site, n):
    site.put_old()
    generator = random.Random(n)
    for number in range(n):
        refuse = (refuse_large_files, refuse_to_sync, refuse_open_files)[number % 3]
        answer = refuse(site, generator)
        assert answer["error"] in {"StoreWriteError", "StoreReadError", "ImageError"}, answer
        assert site.version() == "old"
        assert site.names() == ["slide.zarr"]
    site.convert_again()


def refuse_large_files(site, generator):
    limit = generator.choice([0, 100, 1000, 5000, 20_000])
    answer = site.convert("convert_under_limit", limit="RLIMIT_FSIZE", value=limit).answer()
    assert answer["error"] == "StoreWriteError"
    return answer


def refuse_to_sync(site, generator):
    code = generator.choice(CODES)
    answer = site.convert(
        "convert_with_failing_sync", code=code, after=generator.randrange(120)
    ).answer()
    assert code in answer["text"]
    return answer


def refuse_open_files(site, generator):
    more = generator.randrange(6)
    return site.convert("convert_under_limit", limit="RLIMIT_NOFILE", value=more).answer()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user to refuse permission to")
def test_without_permission(site):
    site.put_old()
    site.target.parent.chmod(0o555)
    answer = site.convert("convert_without_permission", user=65534).answer()
    assert answer["error"] in {"StoreWriteError", "StoreReadError"}
    site.target.parent.chmod(0o755)
    assert site.version() == "old"
    assert site.names() == ["slide.zarr"]


@pytest.mark.counts(10, 50, 500)
def test_of_two_writers_exactly_one_wins(site, tmp_path, n):
    for number in range(n):
        site.clear()
        overwrite = number % 2 == 1
        if overwrite:
            site.put_old()
        pipes = [str(tmp_path / f"{number}-{writer}") for writer in range(2)]
        for pipe in pipes:
            os.mkfifo(pipe)
        writers = [site.convert("convert_at_go", overwrite=overwrite, go=pipe) for pipe in pipes]
        for pipe in pipes:
            Path(pipe).write_bytes(b"go")
        answers = [writer.answer() for writer in writers]
        assert sorted("result" in answer for answer in answers) == [False, True], answers
        (lost,) = (answer for answer in answers if "error" in answer)
        assert lost["error"] in {"StoreLockedError", "StoreExistsError"}
        assert str(site.target) in lost["text"]
        assert site.version() == "new"
        assert site.names() == ["slide.zarr"]
        assert not lock_path(site.target).exists()
