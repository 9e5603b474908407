"""Every slide of a tree: found, converted side by side, reported."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import stformat as stf
from stformat import cli
from stformat.convert._plan import plan_corpus
from stformat.convert._task import run_task
from stformat.errors import ImageCodecWarning, InputError, StoreWriteError, UnknownSourceError
from stformat.model import silent
from stformat.store.commit import partial_path
from stformat.store.lock import lock_path
from stformat.store.verify import verify_store
from stformat.testing import make_slide, write_legacy_st

from .conftest import digests  # isort: skip

NAMES = ["D0", "H0", "I0", "L0", "V0"]


def tasks_of(tree, out, **changes):
    given = {"kind": "auto", "overwrite": False, "resume": False, "image_codec": "zstd"}
    options = changes.pop("options", {})
    plan = plan_corpus(tree, out, **{**given, **changes}, options=options)
    return {task.slide_id: task for task in plan.tasks}


@pytest.fixture
def started():
    """Return the processes that were started since: clusters of other tests leave theirs."""
    before = set(psutil.Process().children())
    return lambda: [child for child in psutil.Process().children() if child not in before]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_processes_make_the_bytes_of_single_conversions_and_tell_how_far_they_are(
    corpus, alone, tmp_path, started
):
    events = []
    report = stf.convert_slides(corpus, tmp_path / "out", workers=2, progress=events.append)
    assert [outcome.slide_id for outcome in report.converted] == NAMES
    assert (report.failed, report.skipped) == ((), ())
    assert digests(tmp_path / "out") == alone
    for outcome in report.slides:
        with stf.open_slide(outcome.target) as slide:
            assert slide.slide_id == outcome.slide_id
    ends = [event for event in events if event.outcome is not None]
    assert [event.n_done for event in ends] == [1, 2, 3, 4, 5]
    assert ends[-1].bytes_done == ends[-1].bytes_total > 0
    assert {event.slide_id for event in events if event.step} == set(NAMES)
    assert started() == []


def test_largest_slides_are_begun_first(corpus, tmp_path):
    sizes = [task.n_bytes for task in tasks_of(corpus, tmp_path / "out").values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0


def test_resume_skips_what_is_of_the_same_source_and_options(samples, tmp_path):
    out = tmp_path / "out"
    for task in tasks_of(samples, out).values():
        assert run_task(task, silent).result == "converted"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for task in tasks_of(samples, out, resume=True).values():
        assert run_task(task, silent).result == "skipped"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    for task in tasks_of(samples, out).values():
        outcome = run_task(task, silent)
        assert (outcome.result, outcome.error) == ("failed", "StoreExistsError")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"options": {"species": "human"}}, "species"),
        ({"options": {"pitch_um": 150}}, "mpp"),
        ({"image_codec": "blosc"}, "image_codec"),
    ],
)
def test_resume_reports_a_store_of_other_options_and_replaces_it_on_request(
    samples, tmp_path, changes, named
):
    out = tmp_path / "out"
    assert run_task(tasks_of(samples, out)["A"], silent).result == "converted"
    old = digests(out)
    outcome = run_task(tasks_of(samples, out, resume=True, **changes)["A"], silent)
    assert (outcome.result, outcome.error) == ("failed", "StoreExistsError")
    assert outcome.problems[0].code == "store.differs"
    assert named in outcome.problems[0].found
    assert digests(out) == old
    again = tasks_of(samples, out, resume=True, overwrite=True, **changes)["A"]
    assert run_task(again, silent).result == "converted"
    assert digests(out) != old
    assert run_task(again, silent).result == "skipped"


def test_resume_reports_a_store_whose_source_has_changed(samples, tmp_path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    shutil.copytree(samples, tree)
    run_task(tasks_of(tree, out)["A"], silent)
    image = next((tree / "A" / "ST-imgs").rglob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")
    outcome = run_task(tasks_of(tree, out, resume=True)["A"], silent)
    assert outcome.problems[0].code == "store.differs"
    assert "sources" in outcome.problems[0].found


def test_resume_goes_on_with_what_an_interrupt_left(samples, tmp_path):
    out = tmp_path / "out"
    task = tasks_of(samples, out, resume=True)["A"]

    def interrupt(event):
        if event.step == "root":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(task, interrupt)
    assert names_in(out) == [".A.zarr.partial"]
    steps = []
    assert run_task(task, lambda event: steps.append(event.step)).result == "converted"
    assert "resume" in steps
    assert names_in(out) == ["A.zarr"]
    stf.convert_slide(samples / "A", tmp_path / "A.zarr")
    assert digests(out)["A.zarr"] == digests_of_one(tmp_path / "A.zarr")


def digests_of_one(store):
    folder = store.with_name("one")
    folder.mkdir()
    store.rename(folder / store.name)
    return digests(folder)[store.name]


def test_a_store_of_an_attempt_that_could_not_report_it_counts_as_converted(samples, tmp_path):
    out = tmp_path / "out"
    task = tasks_of(samples, out)["A"]
    assert not task.is_there
    assert run_task(task, silent).result == "converted"
    assert run_task(task, silent).result == "converted"
    other = tasks_of(samples, tmp_path / "other", options={"species": "mouse"})["A"]
    (out / "A.zarr").rename(other.target)
    assert run_task(other, silent).problems[0].code == "store.differs"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), KeyError("x")])
def test_whatever_befalls_a_slide_is_an_outcome(samples, tmp_path, error):
    def refuse(event):
        if event.step == "counts":
            raise error

    outcome = run_task(tasks_of(samples, tmp_path / "out")["A"], refuse)
    assert (outcome.result, outcome.error) == ("failed", type(error).__name__)
    assert len(outcome.problems) == 1
    assert names_in(tmp_path / "out") == []


def test_a_source_that_vanishes_is_an_outcome(samples, tmp_path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    shutil.copytree(samples, tree)
    tasks = tasks_of(tree, out)
    shutil.rmtree(tree / "A")
    outcome = run_task(tasks["A"], silent)
    assert (outcome.result, outcome.error) == ("failed", "UnknownSourceError")
    assert run_task(tasks["B"], silent).result == "converted"
    assert names_in(out) == ["B.zarr"]


def test_one_slide_that_fails_keeps_no_other_from_it(samples, tmp_path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    shutil.copytree(samples, tree)
    next((tree / "B" / "ST-imgs").rglob("*.jpg")).write_bytes(b"\xff\xd8\xff\xe0 no more")
    command = ["convert", str(tree), str(out), "--workers", "1", "--json"]
    ran = CliRunner().invoke(cli.app, command)
    assert ran.exit_code == 1
    report = json.loads(ran.stdout)
    assert [(one["slide_id"], one["result"], one["error"]) for one in report["slides"]] == [
        ("A", "converted", None),
        ("B", "failed", "ImageError"),
    ]
    assert (report["converted"], report["skipped"], report["failed"]) == (1, 0, 1)
    (line,) = ran.stderr.splitlines()
    assert line.startswith("stformat: B: ")
    assert names_in(out) == ["A.zarr"]
    assert verify_store(out / "A.zarr") == []


def test_a_full_disk_fails_slide_after_slide_and_leaves_nothing(samples, tmp_path, start_child):
    child = start_child(
        "convert_corpus", tree=str(samples), out=str(tmp_path / "out"), file_limit=20_000
    )
    outcomes = child.answer()["result"]["outcomes"]
    assert [one["error"] for one in outcomes] == ["StoreWriteError", "StoreWriteError"]
    assert names_in(tmp_path / "out") == []


def test_a_process_that_is_killed_is_replaced_once(samples, tmp_path, start_child):
    out = tmp_path / "out"
    child = start_child("convert_corpus", tree=str(samples), out=str(out), kill="B")
    result = child.answer()["result"]
    assert sorted(result["killed"]) in (["A", "B", "B"], ["B", "B"])
    (died,) = (one for one in result["outcomes"] if one["result"] == "failed")
    assert (died["slide_id"], died["error"]) == ("B", "ConversionDiedError")
    assert "SIGKILL, 2 times" in died["found"][0]
    assert names_in(out) == ["A.zarr"]
    assert verify_store(out / "A.zarr") == []


def test_an_exception_of_the_callback_ends_all_and_leaves_nothing_half_done(
    samples, tmp_path, start_child
):
    out = tmp_path / "out"
    child = start_child(
        "convert_corpus", tree=str(samples), out=str(out), workers=2, raise_at="shapes"
    )
    result = child.answer()["result"]
    assert "of 2 slides had ended" in result["notes"][0]
    assert result["left"] == 0
    assert all(not name.startswith(".") for name in names_in(out))


@pytest.mark.parametrize(
    ("signal_number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
)
def test_signals_end_every_process_and_leave_whole_stores_only(
    signal_number, exit_code, corpus, tmp_path, start_child
):
    out = tmp_path / "out"
    out.mkdir()
    child = start_child(
        "run_command",
        arguments=["convert", str(corpus), str(out), "--workers", "2", "--quiet"],
    )
    workers = []
    while not (len(workers) == 2 and any(not name.startswith(".") for name in names_in(out))):
        time.sleep(0.02)
        process = psutil.Process(child.pid)
        assert process.status() != psutil.STATUS_ZOMBIE, "it ended before it was interrupted"
        workers = process.children()
    child.send(signal_number)
    assert child.wait() == exit_code
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    assert all(not name.startswith(".") for name in names_in(out))
    assert all(verify_store(store) == [] for store in out.iterdir())


def test_scripts_need_no_guard_and_an_idle_process_says_nothing(samples, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import stformat as stf\n"
        f"report = stf.convert_slides({str(samples)!r}, {str(tmp_path / 'out')!r}, workers=2)\n"
        "print(len(report.converted))\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("2\n", "")


def test_what_jpeg_means_is_said_once(samples, tmp_path):
    with pytest.warns(ImageCodecWarning) as caught:
        report = stf.convert_slides(samples, tmp_path / "out", workers=1, image_codec="jpeg")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert len(report.converted) == 2


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"image": "x.tif"}, "option.of-one-slide"),
        ({"mpp": 0.5}, "option.of-one-slide"),
        ({"slide_id": "A"}, "option.of-one-slide"),
        ({"pitch": 3}, "option.unknown"),
        ({"species": 3}, "option.species"),
        ({"workers": 0}, "convert.workers"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, "convert.workers"),
        ({"image_codec": "gif"}, "convert.image-codec"),
        ({"kind": "visium"}, "source.no-slides"),
        ({"kind": "slide"}, "source.kind"),
    ],
)
def test_arguments_are_refused_before_anything_is_made(samples, tmp_path, options, code):
    with pytest.raises(InputError) as caught:
        stf.convert_slides(samples, tmp_path / "out", **options)
    assert {problem.code for problem in caught.value.problems} == {code}
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(("first", "second"), [("A", "A"), ("A", "a")])
def test_identifiers_that_clash_are_refused_with_both_paths(tmp_path, first, second):
    for folder, name in (("x", first), ("y", second)):
        slide = make_slide(height=200, width=200, n_genes=5, pitch_px=40.0, seed=0, slide_id=name)
        write_legacy_st(slide, tmp_path / "tree" / folder, image_format=None)
    with pytest.raises(InputError, match=r"tree/x, .*tree/y") as caught:
        stf.convert_slides(tmp_path / "tree", tmp_path / "out", workers=1)
    assert [problem.code for problem in caught.value.problems] == ["corpus.same-id"]
    assert names_in(tmp_path) == ["tree"]


def test_a_tree_without_slides_and_a_target_that_is_no_folder_are_refused(samples, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownSourceError, match="must have a slide"):
        stf.convert_slides(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnknownSourceError, match="a folder"):
        stf.convert_slides(tmp_path / "file", tmp_path / "out")
    with pytest.raises(StoreWriteError):
        stf.convert_slides(samples, tmp_path / "file")
    with pytest.raises(StoreWriteError):
        stf.convert_slides(samples, tmp_path / "missing" / "out")


def test_folders_that_cannot_be_listed_are_reported_beside_the_others(
    samples, tmp_path, monkeypatch
):
    tree = tmp_path / "tree"
    shutil.copytree(samples / "A", tree / "A")
    (tree / "closed").mkdir()
    real = Path.iterdir

    def iterdir(folder):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    report = stf.convert_slides(tree, tmp_path / "out", workers=1)
    (refused,) = report.failed
    assert (refused.slide_id, refused.source) == (None, tree / "closed")
    assert refused.error == "InputError"
    assert [outcome.slide_id for outcome in report.converted] == ["A"]


def test_stores_inside_the_tree_are_no_slides(samples, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(samples, tree)
    out = tree / "stores"
    for task in tasks_of(tree, out).values():
        run_task(task, silent)
    assert names_in(out) == ["A.zarr", "B.zarr"]
    assert sorted(tasks_of(tree, out)) == ["A", "B"]


def test_nothing_hidden_is_kept_of_slides_that_are_given_up(tmp_path):
    from stformat.store.commit import discard_unfinished

    target = tmp_path / "A.zarr"
    partial_path(target).mkdir()
    lock_path(target).touch()
    discard_unfinished(target)
    assert names_in(tmp_path) == []
