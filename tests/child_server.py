"""A process that has everything loaded and compiled, and forks a child for each task.

Reads tasks from stdin, one JSON object a line, and answers each with a line: the child's process
id, or what became of a child that is waited for. Run by the fixture ``children``.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import psutil

import stformat
from stformat.convert import _local_pool, convert_slide, convert_slides
from stformat.errors import InputError, Problem, StformatError, StoreReplaced
from stformat.store import commit, durable
from stformat.store.opened import open_committed
from stformat.testing import make_slide, write_legacy_st


def convert(source, target, *, overwrite=False, resume=False, kill_at=None, raise_at=None):
    """Convert; die, or raise, when a step is announced."""

    def progress(event):
        if event.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if event.step == raise_at:
            raise InputError(Problem("test", "progress", "nothing", raise_at))

    convert_slide(source, target, overwrite=overwrite, resume=resume, progress=progress)
    return "done"


def convert_under_limit(source, target, *, limit, value, overwrite=True):
    """Convert with a limit on the size of files, or on how many more may be open."""
    kind = getattr(resource, limit)
    if kind == resource.RLIMIT_NOFILE:
        used = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
        free = os.open(os.devnull, os.O_RDONLY)
        while free < max(used):  # leave no gaps below the limit
            free = os.dup(free)
        value += free + 1
    resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
    return convert(source, target, overwrite=overwrite)


def convert_with_failing_sync(source, target, *, code, after, overwrite=True):
    """Convert; the file system refuses to sync once it has done so some times."""
    flush, left = durable._flush, [None] * after

    def refuse(fd):
        if not left:
            number = getattr(errno, code)
            raise OSError(number, os.strerror(number))
        left.pop()
        flush(fd)

    durable._flush = refuse
    return convert(source, target, overwrite=overwrite)


def convert_without_permission(source, target, *, user, overwrite=True):
    """Convert as a user who may not write beside the target."""
    os.setuid(user)
    return convert(source, target, overwrite=overwrite)


def convert_at_go(source, target, *, overwrite, go):
    """Convert when the other end of a named pipe is opened."""
    Path(go).read_bytes()
    return convert(source, target, overwrite=overwrite)


def run_command(arguments):
    """Run the command line; what converts a corpus is forked."""
    from stformat.cli import main

    fork_workers()
    main(arguments)


def convert_corpus(tree, out, *, workers=1, kill=None, raise_at=None, file_limit=None):
    """Convert a corpus by processes that are forked; kill those of a slide, raise at a step."""
    fork_workers()
    if file_limit is not None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, hard))
    killed = []

    def progress(event):
        if event.step is None:
            return
        is_due = event.slide_id == kill or (kill is not None and not killed)
        if is_due and event.step.step == "image" and event.step.done == 0:
            (child,) = psutil.Process().children()
            child.kill()
            killed.append(event.slide_id)
        if event.step.step == raise_at:
            raise RuntimeError(raise_at)

    try:
        report = convert_slides(tree, out, workers=workers, progress=progress)
    except RuntimeError as error:
        return {"notes": error.__notes__, "left": len(psutil.Process().children())}
    outcomes = [
        {
            "slide_id": one.slide_id,
            "result": one.result,
            "error": one.error,
            "found": [problem.found for problem in one.problems],
        }
        for one in report.slides
    ]
    return {"outcomes": outcomes, "killed": killed, "left": len(psutil.Process().children())}


def fork_workers():
    """Let the processes that convert a corpus begin with everything loaded."""
    _local_pool.subprocess = SimpleNamespace(
        Popen=ForkedWorker,
        DEVNULL=subprocess.DEVNULL,
        TimeoutExpired=subprocess.TimeoutExpired,
    )


class ForkedWorker:
    """What `_local_pool` asks of `subprocess.Popen`, of a process that is forked."""

    def __init__(self, arguments, *, pass_fds, env, **_options):
        assert arguments[0] == sys.executable
        self._process = multiprocessing.get_context("fork").Process(
            target=self._serve, args=(*pass_fds, env)
        )
        self._process.start()
        self.terminate = self._process.terminate

    @staticmethod
    def _serve(descriptor, env):
        os.setpgid(0, 0)
        os.environ.update(env)
        # Sockets of the other workers, which end when theirs is closed on the other side; a
        # number that is free could become that of another file before its owner closes it.
        null = os.open(os.devnull, os.O_RDWR)
        for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if number != descriptor and is_socket(number):
                os.dup2(null, number)
        _local_pool.serve(descriptor)

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout)
        return self._process.exitcode

    def kill(self):
        self._process.kill()


def is_socket(descriptor):
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:  # what listed the descriptors
        return False


def add(target, name, *, kill_at):
    """Add an element; die when a step is announced."""

    def write(directory):
        (directory / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')

    def progress(event):
        if event.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    commit.add_element(target, "shapes", name, write, progress=progress)
    return "done"


def read_until(target, *, end, versions):
    """Read a store over and over while it is replaced; every read must be of one version."""
    seen = dict.fromkeys(versions, 0)
    n_replaced = 0
    while True:
        is_last = Path(end).exists()
        try:
            with stformat.open_slide(target) as slide:
                seen[read_version(slide, versions)] += 1
        except StoreReplaced:
            n_replaced += 1
        if is_last:
            return {"seen": seen, "replaced": n_replaced}


def read_version(slide, versions):
    """Return the version that everything in a slide belongs to."""
    level = slide.levels[0]
    found = {
        "pixels": int(slide.read_region(0, 0, 0, level.height, level.width).sum()),
        "total": int(slide.counts[:].sum()),
        "genes": int(slide.counts.genes(list(slide.var.index)).sum()),
        "x": float(slide.obs["x"].sum()),
    }
    (name,) = [name for name, expected in versions.items() if expected == found]
    return name


def describe(target):
    """Return what `read_version` finds, to compare with."""
    with stformat.open_slide(target) as slide:
        level = slide.levels[0]
        return {
            "pixels": int(slide.read_region(0, 0, 0, level.height, level.width).sum()),
            "total": int(slide.counts[:].sum()),
            "genes": int(slide.counts.genes(list(slide.var.index)).sum()),
            "x": float(slide.obs["x"].sum()),
        }


def replace_again_and_again(target, *, stores, times):
    """Replace a store by copies of others, in turn."""
    import shutil

    for number in range(times):
        with commit.replace_store(target, overwrite=True) as directory:
            shutil.copytree(stores[number % len(stores)], directory, dirs_exist_ok=True)
            for name in ("commit.json", "manifest.json"):
                (directory / "stformat" / name).unlink()
    return "done"


TASKS = {
    task.__name__: task
    for task in (
        add,
        convert,
        convert_at_go,
        convert_corpus,
        convert_under_limit,
        convert_with_failing_sync,
        convert_without_permission,
        describe,
        read_until,
        replace_again_and_again,
        run_command,
    )
}


def warm_up():
    """Compile and load what a conversion and a reader need, once."""
    with tempfile.TemporaryDirectory() as folder:
        slide = make_slide(height=300, width=300, n_genes=20, pitch_px=80.0, seed=0)
        source = write_legacy_st(slide, Path(folder) / "source")
        store = convert_slide(source, Path(folder) / "slide.zarr")
        stformat.verify_store(store)
        describe(store)
        open_committed(store).close()


def start(task, arguments, outcome):
    """Fork a child that does a task and writes what came of it; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # Opened first: a task may give up the right to open it.
        with Path(outcome).open("w") as file:
            answer, code = attempt(task, arguments)
            json.dump(answer, file)
    finally:
        os._exit(code)
    return child


def attempt(task, arguments):
    """Do a task; return what came of it, and an exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return {"result": TASKS[task](**arguments)}, 0
    except StformatError as error:
        return {"error": type(error).__name__, "text": str(error)}, 3
    except SystemExit as error:
        return {"error": "SystemExit", "text": str(error)}, error.code or 0
    except KeyboardInterrupt:  # before the command line listens, as the system would have it
        return {"error": "KeyboardInterrupt", "text": ""}, 130
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test must hear of it
        return {"error": type(error).__name__, "text": str(error)}, 1
    finally:
        for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (hard, hard))
        # What comes now would change neither the store nor the exit code it had earned.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def main():
    warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is the point
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_up()
    answers = sys.stdout
    sys.stdout = sys.stderr
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            status = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
            print(status, file=answers, flush=True)
        else:
            print(start(**request), file=answers, flush=True)


if __name__ == "__main__":
    main()
