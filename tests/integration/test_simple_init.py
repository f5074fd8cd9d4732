"""simple-init's hooks in a real Debian without a network, and what they leave there, at work."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import imgc
from imgc.sources.apt import host_mirror
from tests.elements.old_python import too_new
from tests.integration.debian import Debian

pytestmark = pytest.mark.integration

ELEMENT = Path(imgc.__file__).parent / "elements/simple-init"
RACE = Path(__file__).with_name("glean_race.py")

#: What the element's package-installs brings for ifupdown and for NetworkManager, and what any image with systemd has.
PACKAGES = "python3,ifupdown,iproute2,systemd-sysv,udev,network-manager"

GLEAN = "/usr/lib/glean/glean/init/python-glean"
GLEAN_UP = "/usr/lib/glean/glean/init/glean-up"
UNIT = "/usr/lib/systemd/system/glean@.service"
RULES = "/etc/udev/rules.d/99-glean.rules"
INTERFACES = ("ens1", "ens2", "ens3", "ens4")

# A machine of one's own: $1 is the image, $2 what it holds by now, $3 for overlayfs to work in, $4 where it is put
# together, $5 the interfaces.  A veth takes addresses as a card does, and kernels have it; its address is one that
# was set, so files stand in for what sysfs would say to glean: a permanent one, and a cable that is plugged in.
_MACHINE = """\
set -eu
image=$1 upper=$2 work=$3 root=$4 interfaces=$5
shift 5
mount -t overlay -o "lowerdir=$image,upperdir=$upper,workdir=$work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
ip link set lo up
number=0
for name in lo $interfaces; do
    if [ "$name" != lo ]; then
        ip link add "$name" address "52:54:00:00:00:0$number" type veth peer name "peer$number"
        ip link set "peer$number" up
    fi
    directory=$root/sys/class/net/$name
    mkdir -p "$directory"
    cat "/sys/class/net/$name/address" >"$directory/address" 2>/dev/null ||
        ip -o link show "$name" | sed 's/.*link[^ ]* \\([^ ]*\\).*/\\1/' >"$directory/address"
    echo 0 >"$directory/addr_assign_type"
    echo 1 >"$directory/carrier"
    number=$((number + 1))
done
exec env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""


@dataclass
class Machine:
    """A Debian that is changed by what runs in it; ``base`` stays as it is."""

    base: Path
    directory: Path

    @property
    def upper(self) -> Path:
        return self.directory / "upper"

    def __post_init__(self) -> None:
        for name in ("upper", "work", "root"):
            (self.directory / name).mkdir(parents=True)

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program in it: no network but its own interfaces, and no process outlives it."""
        given = [f"{name}={value}" for name, value in variables.items()]
        places = [self.base, self.upper, self.directory / "work", self.directory / "root"]
        alone = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", _MACHINE, "sh")
        inside = ("chroot", str(self.directory / "root"), *argv)
        return subprocess.run(
            [*alone, *map(str, places), " ".join(INTERFACES), *given, *inside],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def shell(self, script: str, **variables: str) -> str:
        """What a script prints; it must succeed."""
        done = self.run("bash", "-euc", script, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def path(self, name: str) -> Path:
        """A file, where it is on this side."""
        own = self.upper / name.lstrip("/")
        return own if os.path.lexists(own) else self.base / name.lstrip("/")

    def text(self, name: str) -> str:
        return self.path(name).read_text()

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        file = self.upper / name.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def install(self, wheels: Path, **variables: str) -> Machine:
        """Run the element's hooks for the image, in order, as the driver does."""
        hooks = self.upper / "tmp/in_target.d"
        shutil.copytree(ELEMENT, hooks)
        shutil.copytree(wheels, self.upper / "wheels/simple-init")
        settings = {
            "DISTRO_NAME": "debian",
            "DIB_RELEASE": "bookworm",
            "DIB_INIT_SYSTEM": "systemd",
            "DIB_SIMPLE_INIT_NETWORKMANAGER": "0",
            "IMGC_WHEELS": "/wheels",
            **variables,
        }
        for phase in ("install.d", "post-install.d"):
            for hook in sorted((ELEMENT / phase).iterdir()):
                done = self.run(f"/tmp/in_target.d/{phase}/{hook.name}", **settings)
                assert done.returncode == 0, f"{hook.name}: {done.stdout}{done.stderr}"
        for directory in (hooks, self.upper / "wheels"):
            shutil.rmtree(directory)
        return self

    def config_drive(self, **network: object) -> None:
        """As glean-early.service would have mounted it."""
        self.write("mnt/config/openstack/latest/meta_data.json", json.dumps({"name": "host"}))
        self.write("mnt/config/openstack/latest/network_data.json", json.dumps(network))


@pytest.fixture(scope="module")
def base(module_path: Path) -> Path:
    """The packages that the hooks find in an image, and no more."""
    assert os.geteuid() == 0, "these tests change into an image: run them as root, as CI does"
    mirror = host_mirror("debian", "bookworm")
    assert mirror, "this host names no archive of Debian"
    root = module_path / "base"
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root, mirror.url],
        check=True,
    )
    return root


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels that the element asks for."""
    directory = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", directory, "-r", ELEMENT / "python-wheels"], check=True)
    return directory


@pytest.fixture(scope="module")
def installed(base: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """An image with the element in it; tests read it."""
    return Machine(base, tmp_path_factory.mktemp("installed") / "machine").install(wheels)


@pytest.fixture
def machine(installed: Machine, tmp_path: Path) -> Machine:
    """A copy of it for one test to change."""
    copy = Machine(installed.base, tmp_path / "machine")
    shutil.rmtree(copy.upper)
    subprocess.run(["cp", "-a", installed.upper, copy.upper], check=True)
    return copy


def static(*names: str) -> dict[str, list[dict[str, object]]]:
    """What a cloud says on a config drive: a static address for each interface."""
    numbered = [(INTERFACES.index(name) + 1, name) for name in names]
    return {
        "links": [
            {"id": name, "type": "phy", "ethernet_mac_address": f"52:54:00:00:00:0{number}"}
            for number, name in numbered
        ],
        "networks": [
            {
                "id": f"net-{name}",
                "type": "ipv4",
                "link": name,
                "ip_address": f"10.1.{number}.5",
                "netmask": "255.255.255.0",
                "routes": [],
            }
            for number, name in numbered
        ],
    }


# --- what is installed --------------------------------------------------------------------------------------------


def test_glean_runs_without_anything_from_pip(installed: Machine) -> None:
    for program in (GLEAN, "glean"):
        assert "--no-dhcp-fallback" in installed.shell(f"{program} --help")
    assert installed.run("python3", "-m", "pip", "--version").returncode != 0
    assert installed.run("python3", "-c", "import glean").returncode != 0, (
        "glean is for nobody else to import"
    )


def test_two_runs_of_the_hooks_leave_the_same_files(
    base: Path, wheels: Path, tmp_path: Path, installed: Machine
) -> None:
    others = {"PYTHONHASHSEED": "7", "TZ": "Pacific/Auckland", "LC_ALL": "C.UTF-8"}
    again = Machine(base, tmp_path / "again").install(wheels, **others)
    first, second = (
        {
            str(path.relative_to(root)): (
                path.lstat().st_mode,
                os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
            )
            for path in root.rglob("*")
        }
        for root in (installed.upper, again.upper)
    )
    assert first == second
    assert [path for path in first if "__pycache__" in path or path.endswith(".pyc")] == []
    assert [path for path in first if path.startswith(("run/", "tmp/"))] == []


def test_the_units_are_sound(installed: Machine) -> None:
    done = installed.run("systemd-analyze", "verify", "--man=no", "glean@ens1.service", "glean-early.service")
    about_glean = [line for line in (done.stdout + done.stderr).splitlines() if "glean" in line]
    assert (done.returncode, about_glean) == (0, [])
    enabled = installed.upper / "etc/systemd/system/multi-user.target.wants/glean-early.service"
    assert os.readlink(enabled).endswith("/systemd/system/glean-early.service")
    assert not re.search(r"%%\w+%%", installed.text(UNIT) + installed.text(RULES))


def test_the_unit_configures_its_interface_and_brings_it_up(installed: Machine) -> None:
    starts = [line for line in installed.text(UNIT).splitlines() if line.startswith("ExecStart")]
    assert [shlex.split(line.partition("=")[2]) for line in starts] == [
        [GLEAN, "${ARGS}"],
        [GLEAN_UP, "%I"],
    ]


def test_no_glean_is_started_for_the_loopback_interface(installed: Machine) -> None:
    (rule,) = installed.text(RULES).splitlines()
    terms = [term.strip() for term in rule.split(",")]
    assert terms[:2] == ['SUBSYSTEM=="net"', 'KERNEL!="lo"']
    assert 'ENV{SYSTEMD_WANTS}+="glean@$name.service"' in terms
    # udev's own opinion, of the interface that every machine has.
    ask = "mount -t sysfs -o ro sysfs /sys; udevadm test --action=add /sys/class/net/lo 2>&1"
    assert "SYSTEMD_WANTS" not in installed.shell(ask)


def test_what_the_stock_element_does_besides(installed: Machine) -> None:
    assert installed.text("/etc/modules").splitlines()[-1] == "8021q"
    assert installed.text("/etc/network/interfaces") == (
        "auto lo\niface lo inet loopback\n\nsource /etc/network/interfaces.d/*\n\n"
    )


# --- at boot ------------------------------------------------------------------------------------------------------


def test_interfaces_that_come_at_the_same_time_all_come_up(machine: Machine) -> None:
    machine.config_drive(**static(*INTERFACES))
    machine.write("race.py", RACE.read_text())
    done = machine.run("python3", "/race.py", UNIT, "50", *INTERFACES)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for number, name in enumerate(INTERFACES, 1):
        assert f"address 10.1.{number}.5" in machine.text(f"/etc/network/interfaces.d/{name}.cfg")
    assert machine.text("/etc/network/interfaces").splitlines()[:2] == ["auto lo", "iface lo inet loopback"]
    assert [path.name for path in (machine.upper / "etc/network").rglob(".*")] == []


@pytest.mark.parametrize(
    ("held", "wanted", "seconds", "status"),
    [
        # 124: timeout(1) ended it, because it waited.
        ("--exclusive", f"{GLEAN} --interface ens1", 3, 124),
        ("--exclusive", f"{GLEAN_UP} ens1", 3, 124),
        ("--shared", f"{GLEAN_UP} ens1", 60, 0),
    ],
)
def test_glean_runs_alone_and_interfaces_come_up_side_by_side(
    machine: Machine, held: str, wanted: str, seconds: int, status: int
) -> None:
    machine.config_drive(**static(*INTERFACES))
    machine.shell(f"{GLEAN} --interface ens1")
    done = machine.run("flock", held, "/run/glean.lock", "timeout", str(seconds), *wanted.split())
    assert done.returncode == status, done.stderr


def test_an_interface_that_waits_for_its_address_keeps_no_other_from_it(machine: Machine) -> None:
    """The first one is in its ``up``, as long as a DHCP client may be, while glean runs for the second."""
    machine.config_drive(**static("ens1", "ens2"))
    waits = "#!/bin/sh\n[ $IFACE != ens1 ] || until [ -e /run/second-is-up ]; do sleep 0.1; done\n"
    machine.write("etc/network/if-up.d/waits", waits, 0o755)
    machine.shell(
        f"{GLEAN} --interface ens1; {GLEAN_UP} ens1 & first=$!; until ifquery --state ens1 >/dev/null 2>&1 ||"
        f" [ -e /run/network/ifstate.ens1 ]; do sleep 0.1; done; {GLEAN} --interface ens2; {GLEAN_UP} ens2;"
        "ip -br address show ens2 | grep -q 10.1.2.5; touch /run/second-is-up; wait $first"
    )


def test_an_interface_without_configuration_is_no_failure(machine: Machine) -> None:
    machine.shell(f"{GLEAN} --no-dhcp-fallback --interface ens1; {GLEAN_UP} ens1")
    assert not machine.path("/etc/network/interfaces.d/ens1.cfg").exists()


# --- other systems ------------------------------------------------------------------------------------------------


BONDED = static("ens1")
BONDED["links"] += [
    {"id": "nic3", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:03"},
    {"id": "nic4", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:04"},
    {
        "id": "bond0",
        "type": "bond",
        "bond_links": ["nic3", "nic4"],
        "bond_mode": "802.3ad",
        "bond_miimon": 100,
        "bond_xmit_hash_policy": "layer3+4",
        "ethernet_mac_address": "52:54:00:00:00:03",
    },
    {
        "id": "v42",
        "type": "vlan",
        "vlan_link": "bond0",
        "vlan_id": 42,
        "vlan_mac_address": "52:54:00:00:00:42",
    },
]
BONDED["networks"] += [
    {"id": "n42", "type": "ipv4_dhcp", "link": "v42"},
    {
        "id": "n6",
        "type": "ipv6",
        "link": "bond0",
        "ip_address": "fd00::5",
        "netmask": "ffff:ffff::",
        "routes": [],
    },
]


def test_with_network_manager(base: Path, wheels: Path, tmp_path: Path) -> None:
    machine = Machine(base, tmp_path / "machine").install(
        wheels, DIB_SIMPLE_INIT_NETWORKMANAGER="1", DIB_SIMPLE_INIT_NO_DHCP_FALLBACK="1"
    )
    (start,) = re.findall("^ExecStart.*", machine.text(UNIT), re.MULTILINE)
    assert shlex.split(start) == [
        f"ExecStart={GLEAN}",
        *("--use-nm", "--debug", "--no-dhcp-fallback", "$ARGS"),
    ]
    assert "ConditionPathExists=!/etc/NetworkManager/system-connections/%I.nmconnection" in machine.text(UNIT)
    assert "systemd-udev-settle" in machine.text("/etc/systemd/system/NetworkManager.service.d/override.conf")
    machine.config_drive(**BONDED, services=[{"type": "dns", "address": "192.0.2.53"}])
    runs = "; ".join(f"{GLEAN} --use-nm --no-dhcp-fallback --interface {name}" for name in INTERFACES)
    machine.shell(f"mkdir -p /etc/NetworkManager; rm -f /etc/resolv.conf; {runs}")
    # glean takes a file of its own package at this point; without setuptools it would not find it.
    assert "dns=none" in machine.text("/etc/NetworkManager/conf.d/nm-no-resolv-handling.conf")
    assert machine.text("/etc/resolv.conf") == "nameserver 192.0.2.53\n"
    files = list((machine.upper / "etc/NetworkManager/system-connections").iterdir())
    found = {path.name.removesuffix(".nmconnection") for path in files}
    assert found == {"bond0", "bond0.42", "ens1", "ens3", "ens4"}
    assert {path.stat().st_mode & 0o7777 for path in files} == {0o600}


def test_network_manager_reads_what_is_written_for_it(machine: Machine) -> None:
    machine.config_drive(**BONDED)
    runs = "; ".join(f"{GLEAN} --use-nm --interface {name}" for name in INTERFACES)
    # It prints a connection as it has understood it, and ends with an error for one that makes no sense.
    read = (
        "cd /etc/NetworkManager/system-connections; for file in *; do echo == $file;"
        "nmcli --offline connection modify connection.autoconnect yes <$file; done"
    )
    said = machine.shell(f"mkdir -p /etc/NetworkManager; {runs}; {read}")
    parts = dict(part.split("\n", 1) for part in said.split("== ") if part)
    understood = {name.removesuffix(".nmconnection"): text.split() for name, text in parts.items()}
    assert sorted(understood) == ["bond0", "bond0.42", "ens1", "ens2", "ens3", "ens4"]
    assert {"mode=802.3ad", "miimon=100", "xmit_hash_policy=layer3+4"} <= set(understood["bond0"])
    assert {"address1=fd00::5/32", "method=disabled"} <= set(understood["bond0"])
    assert {"id=42", "parent=bond0", "cloned-mac-address=52:54:00:00:00:42"} <= set(understood["bond0.42"])
    assert {"mac-address=52:54:00:00:00:03", "slave-type=bond"} <= set(understood["ens3"])
    assert "address1=10.1.1.5/24" in understood["ens1"] and "method=auto" in understood["ens2"]


def upstart(base: Path, wheels: Path, directory: Path) -> Machine:
    """A Debian without systemd's programs, and the element in it as in Ubuntu 14.04."""
    machine = Machine(base, directory)
    machine.shell("rm /usr/bin/systemctl /sbin/init; mkdir /etc/init")
    return machine.install(wheels, DIB_INIT_SYSTEM="upstart", DISTRO_NAME="ubuntu", DIB_RELEASE="trusty")


def test_with_upstart(base: Path, wheels: Path, tmp_path: Path) -> None:
    machine = upstart(base, wheels, tmp_path / "machine")
    job = machine.text("/etc/init/glean.conf")
    stanzas = [line for line in job.splitlines() if line and not line.startswith("#")]
    assert [line.split()[0] for line in stanzas] == ["description", "console", "start", "task", "exec"]
    # Before `networking` has read anything: a task holds up what it starts on.
    assert {"start on starting networking", "task"} <= set(stanzas)
    (line,) = re.findall("^exec (.*)", job, re.MULTILINE)
    assert shlex.split(line) == ["/usr/lib/glean/glean/init/glean-legacy.sh"]
    assert "source-directory interfaces.d" in machine.text("/etc/network/interfaces")
    assert not os.path.lexists(machine.upper / RULES.lstrip("/"))
    # It runs this python-glean: it waits for the lock.
    done = machine.run("flock", "/run/glean.lock", "timeout", "3", *line.split())
    assert done.returncode == 124, done.stderr


def test_upstarts_job_configures_all_interfaces_before_networking_brings_them_up(
    base: Path, wheels: Path, tmp_path: Path
) -> None:
    machine = upstart(base, wheels, tmp_path / "machine")
    machine.config_drive(**static(*INTERFACES))
    # upstart hands the line of `exec` to a shell; then networking does what its own job says.
    (line,) = re.findall("^exec (.*)", machine.text("/etc/init/glean.conf"), re.MULTILINE)
    said = machine.shell(f"sh -e -c 'exec {line}'; ifup -a; ip -br -4 address")
    for number, name in enumerate(INTERFACES, 1):
        assert re.search(rf"^{name}@\S+ +UP +10\.1\.{number}\.5/24", said, re.MULTILINE), said


def test_systemd_is_known_by_the_tree_and_not_by_the_releases_name(
    base: Path, wheels: Path, tmp_path: Path
) -> None:
    """As in a tree with systemd that calls itself Ubuntu 14.04, and in one whose /lib is no link to /usr/lib."""
    machine = Machine(base, tmp_path / "machine")
    machine.shell("mkdir -p /etc/init; mv /usr/lib/systemd/system /usr/lib/systemd/elsewhere")
    machine.install(wheels, DIB_INIT_SYSTEM="upstart", DISTRO_NAME="ubuntu", DIB_RELEASE="trusty")
    assert f"ExecStart={GLEAN_UP} %I" in machine.text(UNIT)
    assert os.path.lexists(machine.upper / RULES.lstrip("/"))
    assert not os.path.lexists(machine.upper / "etc/init/glean.conf")


def test_the_python_of_ubuntu_trusty_can_read_this_glean(wheels: Path) -> None:
    """It is pinned for every Python 3: its wheel does not say which ones can run it."""
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert "glean/cmd.py" in sources
    assert {name: found for name, text in sources.items() if (found := too_new(text))} == {}


def test_another_glean_than_the_hooks_know_ends_the_build(base: Path, wheels: Path, tmp_path: Path) -> None:
    machine = Machine(base, tmp_path / "machine")
    shutil.copytree(wheels, machine.upper / "wheels/simple-init")
    shutil.copytree(ELEMENT, machine.upper / "tmp/in_target.d")
    hook = "/tmp/in_target.d/install.d"
    changed = "sed -i 's|^ExecStart=.*|ExecStart=/bin/true|' '/usr/lib/glean/glean/init/glean@.service'"
    machine.shell(f"{hook}/40-glean; {changed}", IMGC_WHEELS="/wheels")
    done = machine.run(f"{hook}/50-simple-init", DIB_SIMPLE_INIT_NETWORKMANAGER="0")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        1,
        f"simple-init: {UNIT} is not as expected; is this a new glean?",
    )


# --- the shipped platform -----------------------------------------------------------------------------------------


def test_the_built_image_has_glean_and_nothing_of_pip(debian: Debian) -> None:
    tree = debian.tree()
    assert f"{GLEAN.lstrip('/')}" in tree
    assert f"ExecStart={GLEAN_UP} %I" in debian.text(UNIT.lstrip("/"))
    assert [path for path in tree if path.startswith("usr/glean") or path.endswith("/pip")] == []
    assert [path for path in tree if path.startswith("usr/lib/glean/") and path.endswith(".pyc")] == []
