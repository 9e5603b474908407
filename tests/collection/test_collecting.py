from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import stformat as stf
from stformat.cli import app
from stformat.collection import collecting
from stformat.collection.catalogue import (
    CATALOGUE_NAME,
    COLUMNS,
    FINGERPRINTS,
    dump_catalogue,
    parse_catalogue,
)
from stformat.collection.collecting import collect_slides
from stformat.errors import (
    CatalogueError,
    SplitError,
    StoreChangedWarning,
    StoreLockedError,
    StoreWriteError,
)
from stformat.metadata.stformat_v0_1 import ImageAttributes, StformatAttributes, TableAttributes
from stformat.store.lock import writer_lock


@pytest.fixture
def folder(write_store, fast_path):
    write_store("A", donor="d1", study="s1", image_seed=1, keywords=("one", "two"))
    write_store("deep/er/B", tissue="Breast", involves_cancer=True, sections=True)
    return fast_path


def test_every_field_of_the_root_attribute_has_a_column():
    names = {column.name for column in COLUMNS}
    elsewhere = {
        "species_term": {"species_term", "species_curie"},
        "tissue_term": {"tissue_term", "tissue_curie"},
        "sections": {"section_names", "sections_json"},
        "mpp": {"mpp", "mpp_method", "mpp_residual"},
        "image": {f"image_{name}" for name in ImageAttributes.model_fields},
        "tables": {"tables_json", *(set(TableAttributes.model_fields) - {"name"})},
        "sources": {"sources_json"},
        "notes": {"notes_json"},
        "software": {"software_json"},
    }
    for name in StformatAttributes.model_fields:
        assert elsewhere.get(name, {name}) <= names, name
    assert len({*names, "path", *(name for name, _, _ in FINGERPRINTS)}) == len(COLUMNS) + 4


def test_a_folder_that_may_not_be_entered_is_told_and_keeps_no_other(folder, monkeypatch):
    (folder / "locked").mkdir()
    exists, scandir = Path.exists, os.scandir

    def refused(path):
        if "locked" in Path(path).parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", lambda self, **how: refused(self) or exists(self, **how))
    monkeypatch.setattr(os, "scandir", lambda path: refused(path) or scandir(path))
    report = collect_slides(folder)
    assert report.read == ("A.zarr", "deep/er/B.zarr")
    (problem,) = report.problems
    assert (problem.where, problem.found) == ("locked", "Permission denied")


def test_values_are_those_of_the_stores(folder):
    report = collect_slides(folder)
    assert (report.n_slides, report.read, report.problems) == (2, ("A.zarr", "deep/er/B.zarr"), ())
    first, second = pq.read_table(folder / CATALOGUE_NAME).to_pylist()
    assert (first["slide_id"], first["path"], first["donor"]) == ("A", "A.zarr", "d1")
    assert (first["image_height"], first["image_width"], first["image_channels"]) == (300, 300, 3)
    assert (first["image_dtype"], first["image_codec"]) == ("uint8", "zstd")
    assert first["keywords"] == ["one", "two"]
    assert len(first["fingerprint_image"]) == 32
    assert (second["tissue"], second["tissue_term"], second["tissue_curie"]) == (
        "Breast", "breast", "UBERON:0000310",
    )  # fmt: skip
    assert (second["has_image"], second["image_height"], second["fingerprint_image"]) == (
        False, None, None,
    )  # fmt: skip
    assert second["involves_cancer"] is True
    assert first["involves_cancer"] is None
    assert [table["n_obs"] for table in json.loads(second["tables_json"])] == [second["n_obs"]]
    assert second["default_table"] == "expression"


def test_unchanged_stores_are_not_read_again(folder, write_store, monkeypatch):
    collect_slides(folder)
    before = (folder / CATALOGUE_NAME).read_bytes()
    inode = (folder / CATALOGUE_NAME).stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "slide_row", None)  # reading one would fail
        again = collect_slides(folder)
    assert (again.read, again.kept) == ((), ("A.zarr", "deep/er/B.zarr"))
    assert (folder / CATALOGUE_NAME).read_bytes() == before
    assert (folder / CATALOGUE_NAME).stat().st_ino == inode

    write_store("A", donor="d2")
    shutil.rmtree(folder / "deep")
    last = collect_slides(folder)
    assert (last.read, last.kept, last.removed) == (("A.zarr",), (), ("deep/er/B.zarr",))
    assert pq.read_table(folder / CATALOGUE_NAME)["donor"].to_pylist() == ["d2"]


def test_what_was_refreshed_has_the_bytes_of_what_is_new(folder, write_store):
    collect_slides(folder)
    write_store("A0")
    collect_slides(folder)
    refreshed = (folder / CATALOGUE_NAME).read_bytes()
    (folder / CATALOGUE_NAME).unlink()
    collect_slides(folder)
    assert (folder / CATALOGUE_NAME).read_bytes() == refreshed


def test_rows_of_any_order_give_the_same_bytes(folder):
    collect_slides(folder)
    data = (folder / CATALOGUE_NAME).read_bytes()
    rows = parse_catalogue(data, "here").rows()
    assert dump_catalogue(rows) == dump_catalogue(rows[::-1]) == data


def test_broken_stores_are_named_and_the_others_stay(folder, write_store):
    collect_slides(folder)
    write_store("C")
    (folder / "C.zarr/stformat/commit.json").unlink()
    damaged = folder / "A.zarr/stformat/commit.json"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (folder / "empty.zarr").mkdir()
    report = collect_slides(folder)
    assert report.n_slides == 1
    assert report.removed == ("A.zarr",)
    assert {problem.code for problem in report.problems} == {
        "commit.missing", "commit.invalid", "store.not-zarr",
    }  # fmt: skip
    for problem, name in zip(report.problems, ("A.zarr", "C.zarr", "empty.zarr"), strict=True):
        assert name in problem.where


def test_damaged_counts_are_found_when_a_store_is_read(write_store, fast_path):
    path = write_store("A")
    (chunk,) = (path / "tables/expression/X/data/c").iterdir()
    data = bytearray(chunk.read_bytes())
    data[10] ^= 1
    chunk.write_bytes(data)
    report = collect_slides(fast_path)
    assert report.n_slides == 0
    assert [problem.where.startswith("A.zarr: ") for problem in report.problems] == [True]


def test_one_identifier_of_two_stores_is_a_problem(write_store, fast_path):
    write_store("A", slide_id="same")
    write_store("B", slide_id="same")
    report = collect_slides(fast_path)
    (problem,) = report.problems
    assert (problem.code, problem.where) == ("catalogue.repeated-id", "same")
    assert report.n_slides == 2


def test_other_zarr_groups_are_named_but_no_problem(folder):
    (folder / "other").mkdir()
    (folder / "other/zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
    )
    report = collect_slides(folder)
    assert (report.others, report.problems, report.n_slides) == (("other",), (), 2)


def test_links_are_followed_once_and_hidden_names_never(folder, write_store):
    (folder / "again").symlink_to(folder, target_is_directory=True)
    (folder / "linked.zarr").symlink_to(folder / "A.zarr", target_is_directory=True)
    write_store(".hidden/C")
    report = collect_slides(folder)
    assert sorted(report.read) == ["A.zarr", "deep/er/B.zarr", "linked.zarr"]
    assert [problem.code for problem in report.problems] == ["catalogue.repeated-id"]


def test_zip_files_are_stores_too(folder, monkeypatch):
    stf.export_slide(folder / "A.zarr", folder / "Z.zarr.zip", to="zip")
    (folder / "broken.zarr.zip").write_bytes(b"PK no more")
    report = collect_slides(folder)
    assert "Z.zarr.zip" in report.read
    assert {problem.code for problem in report.problems} >= {"catalogue.repeated-id"}
    assert any("broken.zarr.zip" in problem.where for problem in report.problems)
    monkeypatch.setattr(collecting, "slide_row", None)
    assert "Z.zarr.zip" in collect_slides(folder).kept
    with stf.open_collection(folder).where(path="Z.zarr.zip")[0] as slide:
        assert slide.slide_id == "A"


def test_a_store_that_another_tool_changed_is_marked(folder):
    path = folder / "A.zarr/zarr.json"
    root = json.loads(path.read_text())
    root["attributes"]["note"] = "mine"
    path.write_text(json.dumps(root))
    for _ in range(2):  # it is not kept, either
        with pytest.warns(StoreChangedWarning):
            report = collect_slides(folder)
        assert "A.zarr" in report.read
    table = pq.read_table(folder / CATALOGUE_NAME, columns=["is_changed"])
    assert table["is_changed"].to_pylist() == [True, False]


@pytest.mark.parametrize("content", [b"", b"no Parquet", None])
def test_a_catalogue_of_no_use_is_made_anew(folder, content):
    if content is None:
        import pandas as pd

        pd.DataFrame({"path": ["A.zarr"]}).to_parquet(folder / CATALOGUE_NAME)
    else:
        (folder / CATALOGUE_NAME).write_bytes(content)
    assert collect_slides(folder).read == ("A.zarr", "deep/er/B.zarr")
    parse_catalogue((folder / CATALOGUE_NAME).read_bytes(), "here")


def test_two_at_a_time_are_refused(folder):
    with writer_lock(folder / CATALOGUE_NAME), pytest.raises(StoreLockedError):
        collect_slides(folder)
    assert not (folder / CATALOGUE_NAME).exists()


def test_an_interrupted_run_keeps_what_it_read(folder, write_store):
    collect_slides(folder)
    write_store("B")
    write_store("C")
    before = (folder / CATALOGUE_NAME).read_bytes()

    def interrupt_after(n):
        def interrupt(event):
            if event.done == n:
                raise KeyboardInterrupt

        return interrupt

    with pytest.raises(KeyboardInterrupt):
        collect_slides(folder, progress=interrupt_after(1))
    assert (folder / CATALOGUE_NAME).read_bytes() == before  # nothing new was read
    with pytest.raises(KeyboardInterrupt):
        collect_slides(folder, progress=interrupt_after(2))
    halfway = pq.read_table(folder / CATALOGUE_NAME)["path"].to_pylist()
    assert halfway == ["A.zarr", "B.zarr", "deep/er/B.zarr"]  # rows ahead stay
    last = collect_slides(folder)
    assert (last.read, last.kept) == (("C.zarr",), ("A.zarr", "B.zarr", "deep/er/B.zarr"))


def test_a_killed_run_keeps_what_it_wrote_by_then(folder, monkeypatch):
    seen = []

    def look(_event):
        seen.append((folder / CATALOGUE_NAME).exists())

    monkeypatch.setattr(collecting, "_SAVE_SECONDS", 0.0)
    collect_slides(folder, progress=look)
    assert seen == [False, True]


def test_moved_and_copied_stores_are_not_read_again(folder, monkeypatch):
    collect_slides(folder)
    (folder / "else").mkdir()
    (folder / "A.zarr").rename(folder / "else/A.zarr")
    shutil.copytree(folder / "deep/er/B.zarr", folder / "copy.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "slide_row", None)  # reading one would fail
        report = collect_slides(folder)
    assert (report.read, report.removed) == ((), ("A.zarr",))
    assert report.kept == ("copy.zarr", "deep/er/B.zarr", "else/A.zarr")
    refreshed = (folder / CATALOGUE_NAME).read_bytes()
    (folder / CATALOGUE_NAME).unlink()
    collect_slides(folder)
    assert (folder / CATALOGUE_NAME).read_bytes() == refreshed


def test_rows_with_fingerprints_of_another_version_are_read_again(folder):
    collect_slides(folder)
    data = (folder / CATALOGUE_NAME).read_bytes()
    rows = [row | {"fingerprint_version": "1"} for row in parse_catalogue(data, "here").rows()]
    (folder / CATALOGUE_NAME).write_bytes(dump_catalogue(rows))
    with pytest.raises(CatalogueError, match="compares fingerprints of version 2, found 1"):
        stf.open_collection(folder).duplicates()
    assert collect_slides(folder).read == ("A.zarr", "deep/er/B.zarr")
    assert (folder / CATALOGUE_NAME).read_bytes() == data


def test_a_store_is_no_folder_of_stores(folder):
    for path in (folder / "A.zarr", folder / "A.zarr/tables"):
        with pytest.raises(CatalogueError, match=r"found a store; give the folder"):
            collect_slides(path)
        assert not (path / CATALOGUE_NAME).exists()
    assert stf.verify_store(folder / "A.zarr") == []


def test_a_catalogue_that_is_a_folder_is_refused_before_stores_are_read(folder, monkeypatch):
    (folder / CATALOGUE_NAME).mkdir()
    monkeypatch.setattr(collecting, "slide_row", None)
    with pytest.raises(StoreWriteError, match=CATALOGUE_NAME):
        collect_slides(folder)


def test_names_that_are_not_utf8_are_named_and_the_others_stay(folder):
    try:
        os.mkdir(os.fsencode(folder) + b"/C\xff.zarr")  # noqa: PTH102 - bytes are no Path
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    report = collect_slides(folder)
    assert report.n_slides == 2
    (problem,) = report.problems
    assert (problem.code, problem.where) == ("collect.name", "C\\xff.zarr")


def test_folders_without_stores_are_refused(tmp_path):
    with pytest.raises(CatalogueError, match="has one at least, found none"):
        collect_slides(tmp_path)
    with pytest.raises(CatalogueError, match="a folder of stores is needed, found nothing"):
        collect_slides(tmp_path / "none")


def run(*arguments):
    result = CliRunner().invoke(app, ["collect", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_command_line_says_what_it_did(folder):
    result = run(folder)
    assert result.exit_code == 0
    assert f"{CATALOGUE_NAME}: 2 slides, 2 read, 0 as before, 0 removed" in result.output
    assert run(folder, "--quiet").output == ""
    report = json.loads(run(folder, "--json").output)
    assert (report["n_slides"], report["kept"], report["duplicates"]) == (
        2, ["A.zarr", "deep/er/B.zarr"], [],
    )  # fmt: skip


def test_command_line_names_duplicates_and_broken_stores(folder, write_store, draw_counts):
    counts = draw_counts(30, 20, seed=sum(b"A"))
    write_store("Z", counts)
    (folder / "broken.zarr").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(folder)
    assert result.exit_code == 1
    assert "duplicate: A = Z: rows 100 %" in result.output
    assert "broken.zarr" in result.output


def test_command_line_names_problems_where_no_store_can_be_read(fast_path):
    (fast_path / "broken.zarr").mkdir()
    result = run(fast_path)
    assert result.exit_code == 1
    assert "broken.zarr: a store has a zarr.json at its root" in result.output
    assert f"{CATALOGUE_NAME}: 0 slides" in result.output
    assert stf.open_collection(fast_path).duplicates() == ()


def test_no_slides_have_no_duplicates_and_no_split(folder):
    collect_slides(folder)
    none = stf.open_collection(folder).where(slide_id="Z")
    assert none.duplicates() == ()
    with pytest.raises(SplitError, match="found 0"):
        none.split(by="slide")
