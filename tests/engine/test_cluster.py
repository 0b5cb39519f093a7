"""The cluster engine with real processes: a scheduler and up to four workers, of which some are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import loratools
from fixtures.cluster import Cluster
from fixtures.cluster_jobs import (
    Counting,
    Deadly,
    Failing,
    Job,
    Missing,
    Refusing,
    Returning,
    Spanning,
    Waiting,
)
from fixtures.lora_files import decoder, lora_factors, write_adapter, write_decoder
from loratools.checkpoints import system
from loratools.cli.app import application
from loratools.engine import cluster as engine
from loratools.engine import errand, scheduler
from loratools.engine.cluster import ClusterEngine
from loratools.engine.device import Asked
from loratools.engine.setup import Setup
from loratools.errors import LoratoolsError, UsageError

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Dask's sockets, of a scheduler that was killed
]
pytest.importorskip("distributed", reason="the extra [cluster] is not installed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Jobs are given up when a second worker dies of them. BLAS and torch are told to take four threads."""
    settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1", "OMP_NUM_THREADS": "4"}
    with Cluster(tmp_path_factory.mktemp("cluster"), settings) as started:
        yield started


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs of every verb, and what local runs made of them."""
    folder = tmp_path_factory.mktemp("given")
    tensors = decoder(dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(3)
    changed = {
        name: value + (0.01 * torch.randn(value.shape, generator=generator)).bfloat16()
        for name, value in tensors.items()
    }
    write_decoder(folder / "base", tensors, shards=2)
    write_decoder(folder / "tuned", changed)
    write_adapter(folder / "adapter", lora_factors(tensors), alpha=8)
    here = Path.cwd()
    os.chdir(folder)
    try:
        for verb, run in RUNS.items():
            run(Path("local") / verb, {"workers": 1})
    finally:
        os.chdir(here)
    return folder


Run = Callable[[Path, dict[str, Any]], Any]
RUNS: dict[str, Run] = {
    "merge": lambda to, how: loratools.merge("base", ["adapter"], to, undo=True, **how),
    "by chance": lambda to, how: loratools.merge("base", ["adapter"], to, rounding="stochastic", **how),
    "extract": lambda to, how: loratools.extract("base", "tuned", to, rank=4, **how),
    "unmerge": lambda to, how: loratools.unmerge("local/merge", output=to, **how),
    "subtract": lambda to, how: loratools.unmerge("local/merge", ["adapter"], output=to, **how),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(cluster: Cluster, jobs: Sequence[Any], workspace: Path, **how: Any) -> list[Any]:
    engine = ClusterEngine(cluster.address, **how)
    done = list(engine.run("testing", jobs, workspace))
    assert [job for job, _ in done] == list(jobs)
    return [result for _, result in done]


def wait_for(there: Callable[[], Any]) -> Any:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = there()
        if found:
            return found
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_bytes_are_those_of_a_local_run(
    workers: int, cluster: Cluster, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.grow(workers)
    monkeypatch.chdir(given)  # references are relative, and workers have another working folder
    for verb, verb_run in RUNS.items():
        report = verb_run(tmp_path / verb, {"cluster": str(cluster.file)})
        assert report.peak_bytes
        found, expected = contents(tmp_path / verb), contents(given / "local" / verb)
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(RUNS)


def test_analyze_and_verify_say_the_same(
    cluster: Cluster, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.grow(1)
    monkeypatch.chdir(given)
    at = cluster.address.removeprefix("tcp://")
    local, far = (
        loratools.analyze(["base", "tuned"], ranks=[4], **how) for how in ({"workers": 1}, {"cluster": at})
    )
    assert far.details["spectra"] == local.details["spectra"]
    checked = [loratools.verify(["local/merge"], **how) for how in ({"workers": 1}, {"cluster": at})]
    assert checked[0].details == checked[1].details


def test_a_worker_that_is_killed_at_work_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(2)
    victims: list[int] = []

    def kill_one() -> None:
        began = wait_for(lambda: list(tmp_path.glob("*.*[0-9]")))
        victims.append(int(began[0].suffix[1:]))
        os.kill(victims[0], signal.SIGKILL)
        (tmp_path / "go").write_text("")

    killer = threading.Thread(target=kill_one)
    killer.start()
    ran_by = run(cluster, [Waiting(str(number)) for number in range(6)], tmp_path)
    killer.join()
    assert victims and set(ran_by) == {worker.pid for worker in cluster.workers} - set(victims)


def test_a_merge_whose_worker_is_killed_writes_the_same_bytes(
    cluster: Cluster, given: Path, tmp_path: Path
) -> None:
    cluster.grow(2)
    killing = Watching(2, lambda: cluster.workers[0].kill())
    loratools.merge(
        given / "base",
        [given / "adapter"],
        tmp_path / "out",
        undo=True,
        cluster=cluster.address,
        progress=killing,
    )
    assert killing.seen > 2
    assert contents(tmp_path / "out") == contents(given / "local" / "merge")


def test_a_job_that_kills_its_workers_ends_the_run_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(3)
    with pytest.raises(LoratoolsError, match="2 workers died one after another on the same job") as caught:
        run(cluster, [Job("harmless"), Deadly("deadly")], tmp_path)
    assert "\n" not in str(caught.value)


def test_errors_cross_whole_and_the_first_in_order_is_told(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(2)
    jobs = [Job("good"), Refusing("the slow one", seconds=0.3), Refusing("the quick one")]
    with pytest.raises(UsageError) as caught:
        run(cluster, jobs, tmp_path)
    error = caught.value
    assert (error.message, error.file, error.tensor) == ("the slow one is wrong", "a.file", "a.tensor")
    assert (error.hint, error.exit_code) == ("mend it", 2)
    assert "cluster_jobs.py" in str(error.__cause__)
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_cannot_travel_is_told_in_words(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(1)
    with pytest.raises(RuntimeError, match="StubbornError: out of the blue"):
        run(cluster, [Failing("failing")], tmp_path)


def test_no_more_jobs_than_workers_says_are_under_way(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(2)
    spans = run(cluster, [Spanning(str(number)) for number in range(8)], tmp_path, workers=1)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert ClusterEngine(cluster.address).workers == 4


def test_each_job_computes_on_one_thread(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(1)
    (threads,) = run(cluster, [Counting("counting")], tmp_path)
    assert len(threads) == 3 and set(threads) == {1}  # torch's, numpy's and scipy's


def test_an_interruption_calls_jobs_off_and_waits_for_those_at_work(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(2)

    def interrupt() -> None:
        wait_for(lambda: len(list(tmp_path.glob("*.*[0-9]"))) == 2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        (tmp_path / "go").write_text("")

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(cluster, [Waiting(str(number)) for number in range(20)], tmp_path)
    assert (tmp_path / "go").exists()
    assert len(list(tmp_path.glob("*.*[0-9]"))) == 2


def test_an_interrupted_merge_leaves_nothing(cluster: Cluster, given: Path, tmp_path: Path) -> None:
    cluster.grow(2)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loratools.merge(
            given / "base",
            [given / "adapter"],
            tmp_path / "out",
            undo=True,
            cluster=cluster.address,
            progress=Watching(3, interrupt),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_lost_scheduler_ends_the_run_and_it_can_be_resumed(given: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with Cluster(tmp_path) as own:
        own.grow(1)
        with pytest.raises(LoratoolsError, match="connection to the scheduler was lost") as caught:
            loratools.merge(
                given / "base",
                [given / "adapter"],
                target,
                undo=True,
                resume=True,
                cluster=str(own.file),
                progress=Watching(3, own.scheduler.kill),
            )
        assert "\n" not in str(caught.value) and "--resume" in str(caught.value)
    assert not target.exists()
    report = loratools.merge(given / "base", [given / "adapter"], target, undo=True, resume=True, workers=1)
    assert report.details["resumed_jobs"] >= 3
    assert contents(target) == contents(given / "local" / "merge")


def test_a_worker_that_comes_back_after_the_end_changes_nothing(tmp_path: Path) -> None:
    """It was frozen at work, taken for dead, and its job done by another; what was written has its name."""
    workspace = tmp_path / "run" / "output"
    workspace.mkdir(parents=True)
    (workspace / "shard").write_bytes(bytes(9))
    frozen: list[int] = []

    def freeze() -> None:
        (began,) = wait_for(lambda: list(workspace.glob("first/../*.*[0-9]")))
        frozen.append(int(began.suffix[1:]))
        os.kill(frozen[0], signal.SIGSTOP)

    with Cluster(tmp_path, {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "2s"}) as own:
        own.grow(2)
        freezer = threading.Thread(target=freeze)
        freezer.start()
        (ran_by,) = run(own, [Returning("returning")], workspace)
        freezer.join()
        assert ran_by not in (0, frozen[0])
        shutil.rmtree(workspace / "first")
        workspace.rename(tmp_path / "published")
        os.kill(frozen[0], signal.SIGCONT)
        (tmp_path / "run" / "go").write_text("")
        wait_for((tmp_path / "run" / "told").exists)
    assert (tmp_path / "run" / "told").read_text() == "gone"
    assert (tmp_path / "published" / "shard").read_bytes() == b"samebytes"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["go", "told"]


def test_other_versions_are_refused(
    cluster: Cluster, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.grow(1)
    here = Setup.here()
    other = [("numpy", "1.0") if name == "numpy" else (name, version) for name, version in here.versions]
    monkeypatch.setattr(engine.Setup, "here", staticmethod(lambda: Setup(tuple(other), here.processor)))
    with pytest.raises(LoratoolsError, match=r"worker tcp://\S+ has numpy \S+, and 1.0 here; bytes would"):
        loratools.merge(given / "base", [given / "adapter"], tmp_path / "out", cluster=cluster.address)
    assert list(tmp_path.iterdir()) == []


def test_processors_of_two_kinds_are_refused(tmp_path: Path) -> None:
    here = Setup.here()
    other = errand.Errand("run", "/", tmp_path, None, Setup(here.versions, "another"), torch=False)
    assert "a processor of another kind" in str(errand.unfit(other, "one"))
    same = errand.Errand("run", "/", tmp_path, None, here, torch=False)
    assert errand.unfit(same, "one") is None


def test_a_worker_that_sees_other_files_is_told(given: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    alone = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(outputs)]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no name spaces of mounts here")
    with Cluster(tmp_path) as own:
        own.grow(1, before=alone)
        how = {"cluster": own.address}
        with pytest.raises(
            LoratoolsError, match=r"does not see \S+outputs\S+; all workers need the same file"
        ):
            loratools.merge(given / "base", [given / "adapter"], outputs / "out", **how)
        assert list(outputs.iterdir()) == []
        hidden = write_decoder(outputs / "base", decoder(dtype=torch.bfloat16))
        with pytest.raises(
            LoratoolsError, match=r"does not see \S+outputs/base\S+; all workers need the same"
        ):
            loratools.merge(hidden, [given / "adapter"], tmp_path / "out", **how)


def test_a_file_that_nobody_sees_is_the_job_s_own_error(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(1)
    with pytest.raises(LoratoolsError, match="cannot open"):
        run(cluster, [Missing("missing", path=str(tmp_path / "nowhere"))], tmp_path)


def test_jobs_on_devices_go_to_workers_that_offer_one(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow(1)
    with pytest.raises(LoratoolsError, match=r"no worker of the cluster offers GPU=1; start workers with"):
        ClusterEngine(cluster.address, device=Asked.parse("cuda"))
    cluster.grow(len(cluster.workers) + 1, options=["--resources", "GPU=1"])
    jobs = [Job(str(number)) for number in range(12)]
    found = run(cluster, jobs, tmp_path, device=Asked.parse("cuda"))
    assert set(found) == {cluster.workers[-1].pid}


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 0.3)
    with pytest.raises(LoratoolsError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1; start one"):
        ClusterEngine("127.0.0.1:1")


def test_what_is_no_cluster_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(application, ["merge", "--cluster", "nowhere", "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "--cluster nowhere is neither an address nor a file" in result.stderr
    (tmp_path / "file.json").write_text("{}")
    with pytest.raises(LoratoolsError, match="no scheduler file"):
        ClusterEngine(str(tmp_path / "file.json"))


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(LoratoolsError, match=r"pip install 'loratools\[cluster\]'"):
        ClusterEngine("tcp://127.0.0.1:1")


class Watching:
    """A watcher that does something when so many jobs are done."""

    def __init__(self, after: int, act: Callable[[], object]) -> None:
        self.seen, self._after, self._act = 0, after, act

    def start(self, what: str, jobs: int, bytes: int) -> None: ...

    def advance(self, job: str, bytes: int) -> None:
        self.seen += 1
        if self.seen == self._after:
            self._act()

    def finish(self) -> None: ...


def test_the_process_s_own_seam_is_as_it_was(cluster: Cluster) -> None:
    assert type(system.calls) is system.System
