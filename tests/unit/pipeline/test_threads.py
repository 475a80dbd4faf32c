"""Which cores count, and what a child process is told about threads."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.run.threads import THREADS, forget_number, settle, thread_settings, usable_cores

WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


class Machine:
    """A process in fake cgroups: its files of /proc, and the hierarchies that these name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder, folder / "proc"
        self.process.mkdir()
        self.write(self.process / "cgroup", "")
        self.write(self.process / "mountinfo", "20 1 0:18 / /proc rw,nosuid - proc proc rw\n")

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def mount(self, kind: str, options: str, name: str, root: str = "/") -> Path:
        """Mount a hierarchy; its folder."""
        point = self.folder / name
        with (self.process / "mountinfo").open("a", encoding="utf-8") as file:
            escaped = str(point).replace(" ", "\\040")
            file.write(f"31 23 0:28 {root} {escaped} rw,relatime shared:9 - {kind} cgroup {options}\n")
        return point

    def member(self, line: str) -> None:
        with (self.process / "cgroup").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def cores(self) -> int:
        return usable_cores(self.process)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One of eight cores, whatever the machine that tests run on."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    return Machine(tmp_path)


@pytest.fixture
def environment() -> Iterator[None]:
    """Nothing said about threads; what a test sets is gone afterwards."""
    before = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY", "TBRM_CHOSEN"):
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_affinity_counts_and_not_the_machine() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_without_cgroups_the_affinity_alone_counts(machine: Machine, tmp_path: Path) -> None:
    assert machine.cores() == 8
    assert usable_cores(tmp_path / "no such process") == 8


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("40000 20000", 2),
        ("1600000 100000", 8),
    ],
)
def test_a_quota_of_version_2_limits(machine: Machine, limit: str, cores: int) -> None:
    point = machine.mount("cgroup2", "rw,nsdelegate", "unified")
    machine.write(point / "jobs/mine/cpu.max", limit + "\n")
    machine.member("0::/jobs/mine")
    assert machine.cores() == cores


def test_the_narrowest_of_the_cgroups_above_counts(machine: Machine) -> None:
    point = machine.mount("cgroup2", "rw", "unified")
    machine.write(point / "jobs/mine/cpu.max", "600000 100000\n")
    machine.write(point / "jobs/cpu.max", "300000 100000\n")
    machine.write(point / "cpu.max", "max 100000\n")
    machine.member("0::/jobs/mine")
    assert machine.cores() == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3), ("25000", 1)])
def test_a_quota_of_version_1_limits(machine: Machine, quota: str, cores: int) -> None:
    point = machine.mount("cgroup", "rw,cpu,cpuacct", "cpu,cpuacct")
    machine.mount("cgroup", "rw,cpuset", "cpuset")
    machine.write(point / "slurm/job_7/cpu.cfs_quota_us", quota + "\n")
    machine.write(point / "slurm/job_7/cpu.cfs_period_us", "100000\n")
    machine.member("5:cpuset:/")
    machine.member("4:cpu,cpuacct:/slurm/job_7")
    assert machine.cores() == cores


def test_both_versions_side_by_side(machine: Machine) -> None:
    """As systemd mounts them: the controllers in version 1, and a version 2 that has none."""
    point = machine.mount("cgroup", "rw,cpu", "cpu")
    machine.mount("cgroup2", "rw", "unified")
    machine.write(point / "box/cpu.cfs_quota_us", "400000\n")
    machine.write(point / "box/cpu.cfs_period_us", "100000\n")
    machine.member("1:cpu:/box")
    machine.member("0::/box")
    assert machine.cores() == 4


@pytest.mark.parametrize("root", ["/docker/abc", "/"])
def test_a_container_sees_its_own_cgroup_as_the_root(machine: Machine, root: str) -> None:
    """With the host's path in /proc (its part is what is mounted), or with a path that leads out of a namespace."""
    point = machine.mount("cgroup2", "rw", "unified", root)
    machine.write(point / "cpu.max", "200000 100000\n")
    machine.member("0::/docker/abc" if root != "/" else "0::/../other")
    assert machine.cores() == 2


def test_a_mount_point_with_a_space(machine: Machine) -> None:
    point = machine.mount("cgroup2", "rw", "control groups")
    machine.write(point / "mine/cpu.max", "100000 100000\n")
    machine.member("0::/mine")
    assert machine.cores() == 1


def test_a_real_quota_is_seen() -> None:
    groups = Path("/sys/fs/cgroup/cpu")
    mine = groups / f"tbrm-test-{os.getpid()}"
    try:
        mine.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup of version 1 can be made here: {error}")
    try:
        (mine / "cpu.cfs_quota_us").write_text("100000")
        (mine / "cgroup.procs").write_text(str(os.getpid()))
        assert usable_cores() == 1
    finally:
        (groups / "cgroup.procs").write_text(str(os.getpid()))
        mine.rmdir()


def test_threads_wait_passively_and_share_the_cores() -> None:
    told = thread_settings(processes=4, cores=8, given={})
    assert told == {THREADS: "2", **WAIT, "TBRM_CHOSEN": "OMP_NUM_THREADS OMP_WAIT_POLICY KMP_BLOCKTIME"}
    assert thread_settings(processes=4, cores=2, given={})[THREADS] == "1"


@pytest.mark.parametrize("waiting", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"])
def test_how_a_user_lets_threads_wait_stays(waiting: str) -> None:
    told = thread_settings(cores=2, given={waiting: "active"})
    assert told == {THREADS: "2", "TBRM_CHOSEN": "OMP_NUM_THREADS"}


@pytest.mark.parametrize("number", ["3", "4,2"])
def test_a_users_number_stays(number: str) -> None:
    assert THREADS not in thread_settings(processes=2, cores=8, given={THREADS: number})


def test_an_empty_variable_says_nothing() -> None:
    assert thread_settings(cores=2, given={THREADS: "", "OMP_WAIT_POLICY": ""}) == thread_settings(cores=2, given={})


def test_what_we_chose_is_chosen_again_below_and_what_a_user_set_is_not() -> None:
    stage = thread_settings(cores=8, given={"PATH": "/bin"})
    assert thread_settings(processes=4, cores=8, given=stage)[THREADS] == "2"
    own = thread_settings(threads=3, cores=8, given=stage)
    assert own[THREADS] == "3"
    assert THREADS not in thread_settings(processes=4, cores=8, given=stage | own)


@pytest.mark.usefixtures("environment")
def test_a_number_of_ours_is_taken_back_and_a_users_is_not() -> None:
    settle(cores=4)
    assert os.environ[THREADS] == "4"
    forget_number()
    assert THREADS not in os.environ
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    os.environ[THREADS] = "5"
    settle(cores=4)
    forget_number()
    assert os.environ[THREADS] == "5"
