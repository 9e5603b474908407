"""A corpus on a cluster of processes, one of which is killed."""

from __future__ import annotations

import os
import signal

import dask
import distributed
import pytest
from distributed.utils import get_mp_context

import stformat as stf
from stformat.errors import InputError

from .conftest import digests, write_containers, write_corpus  # isort: skip


@pytest.fixture(scope="module")
def cluster():
    """Workers that are forked from a process which has everything loaded."""
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(["distributed", "stformat.convert.slide"])
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster:
            yield cluster


@pytest.fixture(autouse=True)
def whole_cluster(cluster):
    """Both workers are there: nobody restarts one that is killed while it starts."""
    cluster.wait_for_workers(2)


def test_a_cluster_that_loses_a_worker_makes_the_same_bytes(cluster, corpus, alone, tmp_path):
    killed = []

    def kill(event):
        if event.step and event.step.step == "image" and not killed:
            nanny = next(iter(cluster.workers.values()))
            killed.append(nanny.pid)
            os.kill(nanny.pid, signal.SIGKILL)

    report = stf.convert_slides(
        corpus, tmp_path / "out", scheduler=cluster.scheduler_address, progress=kill
    )
    assert len(killed) == 1
    assert (len(report.converted), report.failed) == (5, ())
    assert digests(tmp_path / "out") == alone


def test_workers_stop_when_the_caller_does(cluster, corpus, alone, tmp_path):
    def refuse(event):
        if event.step and event.step.step == "image":
            raise RuntimeError("enough")

    out = tmp_path / "out"
    address = cluster.scheduler_address
    with pytest.raises(RuntimeError, match="enough"):
        stf.convert_slides(corpus, out, scheduler=address, progress=refuse)
    names = [path.name for path in out.iterdir()]
    assert len(names) < 5
    assert all(not name.startswith(".") for name in names)
    report = stf.convert_slides(corpus, out, scheduler=address, resume=True)
    assert len(report.converted) + len(report.skipped) == 5
    assert len(report.skipped) == len(names)
    assert digests(out) == alone


def test_a_slide_whose_worker_dies_too_often_is_reported(cluster, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    killed = []

    def kill(event):
        if event.step and event.step.step == "image" and not killed:
            killed.extend(nanny.pid for nanny in cluster.workers.values())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    address = cluster.scheduler_address
    report = stf.convert_slides(samples / "A", tmp_path / "out", scheduler=address, progress=kill)
    (died,) = report.failed
    assert (died.slide_id, died.error) == ("A", "ConversionDiedError")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_scheduler_that_does_not_answer_is_bad_input(corpus, tmp_path):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(InputError, match="a dask scheduler must answer"),
    ):
        stf.convert_slides(corpus, tmp_path / "out", scheduler="tcp://127.0.0.1:9")


@pytest.mark.long
def test_two_hundred_slides_on_a_cluster(cluster, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", 33)
    write_containers(corpus, 35)
    local = stf.convert_slides(corpus, tmp_path / "local", workers=2)
    address = cluster.scheduler_address
    remote = stf.convert_slides(corpus, tmp_path / "remote", scheduler=address)
    assert (local.failed, remote.failed) == ((), ())
    assert (len(local.converted), len(remote.converted)) == (200, 200)
    assert digests(tmp_path / "local") == digests(tmp_path / "remote")
