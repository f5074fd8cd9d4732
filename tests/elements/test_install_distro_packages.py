"""install-distro-packages: what it installs for a project, with a real apt in a world of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import bindep
import pytest
import yaml

import imgc

from .apt_world import AptWorld

ROOT = Path(imgc.__file__).parent.parent
SCRIPTS = ROOT / "imgc/elements/install-distro-packages/distro-packages"
ROLE = ROOT / "roles/install-distro-packages"


class Job:
    """A project's directory in a world of apt, and the script that a job runs."""

    def __init__(self, base: Path) -> None:
        self.world = AptWorld(base)
        for name in ("alpha", "beta", "late"):
            self.world.package(name, Depends="common" if name == "alpha" else "dpkg | common")
        self.world.package("common")
        self.project, self.fallback = base / "project", base / "fallback.txt"
        self.project.mkdir()

    def apt(self, *arguments: str) -> None:
        argv = ["apt-get", "--assume-yes", *arguments]
        subprocess.run(argv, env=self.world.environment, check=True, capture_output=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = str(SCRIPTS / "install-distro-packages")
        paths = [str(SCRIPTS), str(Path(bindep.__file__).parent)]
        argv = [script, f"--fallback={self.fallback}", *arguments, str(self.project)]
        start = f"import runpy, sys; sys.path[:0] = {paths!r}; sys.argv[:] = {argv!r}; "
        start += f"runpy.run_path({script!r}, run_name='__main__')"
        return subprocess.run(
            [sys.executable, "-Bc", start], env=self.world.environment, capture_output=True, text=True
        )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job(tmp_path)
    job.apt("update")
    job.apt("--download-only", "install", "alpha", "beta")
    return job


def unplug(job: Job) -> None:
    shutil.rmtree(job.world.archive)


def test_what_is_declared_is_installed_from_the_cache_without_a_network(job: Job) -> None:
    unplug(job)
    (job.project / "bindep.txt").write_text("alpha [platform:dpkg]\nother [platform:rpm]\n")
    done = job.run("--offline")
    assert done.returncode == 0, done.stderr
    assert job.world.installed == ["alpha", "common"]
    again = job.run("--offline")
    assert again.returncode == 0
    assert "installing" not in again.stdout


def test_the_profile_is_test_unless_others_are_given(job: Job) -> None:
    (job.project / "bindep.txt").write_text("alpha [test]\nbeta [doc]\ncommon\n")
    listed = [
        job.run("--list", *options).stdout.split() for options in ([], ["--profile=doc"], ["--no-profile"])
    ]
    assert listed == [["alpha", "common"], ["beta", "common"], ["common"]]
    assert not job.world.installed


def test_the_older_name_counts_where_there_is_no_bindep_txt(job: Job) -> None:
    (job.project / "other-requirements.txt").write_text("beta\n")
    assert job.run("--list").stdout.split() == ["beta"]
    (job.project / "bindep.txt").write_text("alpha\n")
    assert job.run("--list").stdout.split() == ["alpha"]


def test_a_project_that_declares_nothing_gets_the_fallback_list(job: Job) -> None:
    unplug(job)
    job.fallback.write_text("beta\nnosuch\n")
    done = job.run("--offline")
    assert done.returncode == 0, done.stderr
    assert "no archive has: nosuch" in done.stdout
    assert "beta" in job.world.installed


def test_a_project_that_declares_nothing_and_no_fallback_list_is_no_failure(job: Job) -> None:
    assert job.run().returncode == 0
    assert not job.world.installed


def test_what_is_not_in_the_cache_comes_from_the_network(job: Job) -> None:
    (job.project / "bindep.txt").write_text("late\n")
    refused = job.run("--offline")
    assert refused.returncode == 3
    assert "late_1_all.deb" in refused.stderr
    assert not job.world.installed
    assert job.run().returncode == 0
    assert "late" in job.world.installed


def test_a_package_that_came_after_the_image_was_built_is_found(job: Job) -> None:
    job.world.package("new")
    (job.project / "bindep.txt").write_text("new\n")
    assert job.run("--offline").returncode == 1
    assert job.run().returncode == 0
    assert job.world.installed == ["new"]


def test_an_unknown_package_is_named_and_nothing_is_installed(job: Job) -> None:
    (job.project / "bindep.txt").write_text("alpha\nnosuch\n")
    done = job.run()
    assert done.returncode == 1
    assert "no archive has: nosuch" in done.stderr
    assert not job.world.installed


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"alpha\nfoo [test\n", "line 2 cannot be read: foo [test"),
        (b"alpha\n\n# caf\xe9\n", "line 3 is not UTF-8"),
        (b"alpha\tbeta\n", "line 1 cannot be read"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_installed(job: Job, content: bytes, said: str) -> None:
    (job.project / "bindep.txt").write_bytes(content)
    done = job.run()
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not job.world.installed


def test_a_version_that_is_not_there_is_told(job: Job) -> None:
    (job.project / "bindep.txt").write_text("alpha >=2\n")
    done = job.run("--offline")
    assert done.returncode == 1
    assert "alpha is 1, not >=2" in done.stderr


def test_a_directory_that_is_not_there_is_told(job: Job) -> None:
    job.project.rmdir()
    done = job.run()
    assert done.returncode == 2
    assert "there is no directory" in done.stderr


# --- the role -----------------------------------------------------------------------------------------------------


def test_every_variable_of_the_role_has_a_default_and_is_documented() -> None:
    (task,) = yaml.safe_load((ROLE / "tasks/main.yaml").read_text())
    defaults = yaml.safe_load((ROLE / "defaults/main.yaml").read_text())
    told = (ROLE / "README.rst").read_text()
    for name in defaults:
        assert name in str(task)
        assert f".. zuul:rolevar:: {name}\n" in told


def test_the_role_is_one_for_ansible(tmp_path: Path) -> None:
    playbook = tmp_path / "play.yaml"
    playbook.write_text("- hosts: all\n  roles: [install-distro-packages]\n")
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_ROLES_PATH": str(ROLE.parent),
    }
    argv = [sys.executable, "-m", "ansible", "playbook", "--syntax-check", "-i", "localhost,", str(playbook)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
