"""The container images: read and unpacked by other programs, and started as their configurations say."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bin.release.image import CONFIG
from filestoraged import __version__
from tests.daemon.process import ROOT
from tests.release.packages import class_directory, package
from tests.support import TempCase, find_program, wait_until

_PATIENCE = 120

# Run in namespaces of its own: mounts the root read-only, with a volume, as runtimes do, and becomes the image's user.
# Each program executes the next one, so that the process is that of the image in the end.
_START = """
set -eu
root=$1 volume=$2
shift 2
ip link set lo up
mount --bind "$root" "$root"
mount --bind "$volume" "$root/var/lib/filestoraged"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 444 "$root/dev/urandom" c 1 9
mount -o remount,bind,ro "$root"
exec env -i "$@"
"""


class ImageContract(TempCase):
    """What both images promise. A subclass unpacks one at `rootfs`, and reads its `config`."""

    rootfs: Path
    config: dict[str, Any]

    def setUp(self) -> None:
        super().setUp()
        self.volume = self.directory / "volume"
        self.volume.mkdir(mode=0o700)
        self.directory.chmod(0o755)
        os.chown(self.volume, 8080, 8080)

    def test_image_starts_in_a_read_only_root_as_its_configuration_says_and_stores_a_file(self) -> None:
        with self.started(*self.config["Cmd"]) as process:
            stored = json.loads(self.curl(process, "--data-binary", "tea", "http://localhost:8080/"))
            fetched = self.curl(process, f"http://localhost:8080/{stored['hash']}")
            page = self.curl(process, "--header", "Accept: text/html", "http://localhost:8080/")
            status = Path(f"/proc/{process.pid}/status").read_text()
            process.terminate()

            self.assertEqual(0, process.wait(_PATIENCE))
        self.assertEqual("tea", fetched)
        self.assertIn("<!doctype html>", page.lower())
        self.assertIn("\nUid:\t8080\t8080\t8080\t8080\n", status)
        self.assertEqual(["tea"], [path.read_text() for path in self.volume.rglob(stored["hash"])])

    def test_other_commands_run_by_its_entry_point(self) -> None:
        with self.started("--version", stdout=subprocess.PIPE) as process:
            shown, _ = process.communicate(timeout=_PATIENCE)

        self.assertEqual(f"filestoraged {__version__}\n".encode(), shown)

    def test_drivers_of_memcached_and_postgresql_are_there(self) -> None:
        code = "import psycopg, pymemcache, ssl; assert ssl.create_default_context().get_ca_certs()"
        with self.started("-c", code, entry=["python3"]) as process:
            self.assertEqual(0, process.wait(_PATIENCE))

    def test_user_owns_nothing_but_the_store_and_there_is_no_compiler(self) -> None:
        files = [path for path in self.rootfs.rglob("*") if path.is_file() and not path.is_symlink()]
        store = (self.rootfs / "var/lib/filestoraged").stat()

        self.assertEqual("8080:8080", self.config["User"])
        self.assertEqual([], [path for path in files if path.stat().st_uid != 0])
        self.assertEqual(set(), {path.name for path in files} & {"gcc", "cc", "cc1", "make", "ld", "as"})
        self.assertEqual((8080, 0o700), (store.st_uid, stat.S_IMODE(store.st_mode)))

    @contextlib.contextmanager
    def started(
        self, *command: str, entry: list[str] | None = None, **settings: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start the image with a command instead of its own, for the length of a block."""
        chroot = [find_program("chroot"), f"--userspec={self.config['User']}", str(self.rootfs)]
        arguments = [*self.config["Env"], *chroot, *(entry or self.config["Entrypoint"]), *command]
        shell = [find_program("unshare"), "--net", "--mount", "bash", "-c", _START, "bash"]
        process = subprocess.Popen([*shell, str(self.rootfs), str(self.volume), *arguments], **settings)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(_PATIENCE)

    def curl(self, process: subprocess.Popen[bytes], *arguments: str) -> str:
        """Run curl in the network of the image, once it listens."""
        options = ["--silent", "--show-error", "--fail", "--noproxy", "*"]

        def ask() -> subprocess.CompletedProcess[str] | None:
            done = self.run_beside(process, find_program("curl"), *options, *arguments)
            # 7: it does not listen yet.
            return None if done.returncode == 7 and process.poll() is None else done

        done = wait_until("it listens", ask, _PATIENCE)
        assert done is not None
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout

    def run_beside(self, process: subprocess.Popen[bytes], *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the network of the image."""
        beside = [find_program("nsenter"), f"--net=/proc/{process.pid}/ns/net", *command]
        return subprocess.run(beside, capture_output=True, text=True, check=False)


class OciImageTest(ImageContract):
    """One image for all tests."""

    place: Path
    image: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.place = class_directory(cls)
        (cls.image,) = package(cls.place / "made", "--oci")
        layout = cls.place / "layout"
        layout.mkdir()
        subprocess.run(["tar", "--extract", "--file", cls.image, "--directory", layout], check=True)
        tagged = f"{layout}:filestoraged:{__version__}"
        subprocess.run([find_program("umoci"), "unpack", "--image", tagged, cls.place / "bundle"], check=True)
        (cls.place / "bundle").chmod(0o755)
        cls.rootfs = cls.place / "bundle" / "rootfs"
        cls.config = cls.inspect("--config")["config"]

    @classmethod
    def inspect(cls, *options: str) -> Any:
        command = [find_program("skopeo"), "inspect", *options, f"oci-archive:{cls.image}"]
        return json.loads(subprocess.check_output(command))

    def test_skopeo_reads_its_configuration(self) -> None:
        inspected = self.inspect()

        self.assertEqual(CONFIG, self.config)
        self.assertEqual(("linux", 2), (inspected["Os"], len(inspected["Layers"])))

    def test_skopeo_copies_it_to_the_format_of_docker(self) -> None:
        copied = self.directory / "docker.tar"
        command = [find_program("skopeo"), "copy", "--insecure-policy", "--quiet"]

        subprocess.run([*command, f"oci-archive:{self.image}", f"docker-archive:{copied}:filestoraged:x"], check=True)

        self.assertGreater(copied.stat().st_size, self.image.stat().st_size)

    def test_buildah_loads_it_by_its_name_as_podman_does(self) -> None:
        storage = ["--storage-driver=vfs", f"--root={self.directory}/storage", f"--runroot={self.directory}/run"]
        buildah = [find_program("buildah"), *storage]

        subprocess.run(
            [*buildah, "pull", "--quiet", f"oci-archive:{self.image}"], check=True, stdout=subprocess.DEVNULL
        )
        listed = subprocess.check_output([*buildah, "images", "--format", "{{.Name}}:{{.Tag}}"], text=True)

        self.assertEqual(f"localhost/filestoraged:{__version__}\n", listed)

    def test_umoci_makes_the_configuration_of_a_runtime(self) -> None:
        process = json.loads((self.place / "bundle" / "config.json").read_text())["process"]

        self.assertEqual((8080, 8080), (process["user"]["uid"], process["user"]["gid"]))
        self.assertEqual([*CONFIG["Entrypoint"], *CONFIG["Cmd"]], process["args"])
        self.assertLessEqual(set(CONFIG["Env"]), set(process["env"]))

    def test_image_has_licences_and_neither_shell_nor_manual_pages_of_packages(self) -> None:
        self.assertTrue((self.rootfs / "usr/share/doc/python3-minimal/copyright").exists())
        self.assertEqual([], list((self.rootfs / "usr/share").glob("man/*")))
        self.assertEqual([], [name for name in ("sh", "bash", "dash") if (self.rootfs / "usr/bin" / name).exists()])

    def test_same_source_and_packages_make_the_same_bytes(self) -> None:
        (again,) = package(self.directory / "again", "--oci", mask=0o077, TZ="Asia/Tokyo")

        self.assertEqual(self.image.read_bytes(), again.read_bytes())


class ContainerfileTest(ImageContract):
    """Built by buildah on a Debian with pip instead of the base that the file names: no registry is at hand."""

    place: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.place = class_directory(cls)
        cls.make_base()
        cls.download_wheels()
        settings = [f"--volume={cls.place}/wheels:/wheels:ro", f"--volume={cls.place}/pip.conf:/etc/pip.conf:ro"]
        settings += ["--build-arg=BASE=localhost/base", "--format=docker", "--isolation=chroot"]
        cls.buildah("bud", "--quiet", *settings, "--tag=localhost/filestoraged", str(ROOT))
        name = cls.buildah("from", "localhost/filestoraged")
        cls.rootfs = Path(cls.buildah("mount", name))
        inspected = json.loads(cls.buildah("inspect", "--type=image", "localhost/filestoraged"))
        cls.config = inspected["Docker"]["config"]

    @classmethod
    def buildah(cls, *arguments: str) -> str:
        storage = ["--storage-driver=vfs", f"--root={cls.place}/storage", f"--runroot={cls.place}/run"]
        command = [find_program("buildah"), *storage, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout + done.stderr
        return done.stdout.strip()

    @classmethod
    def make_base(cls) -> None:
        base = cls.place / "base.tar"
        options = ["--variant=apt", "--include=python3-pip", "--quiet", f"--aptopt={os.environ['APT_OPTIONS']}"]
        subprocess.run(["mmdebstrap", *options, "trixie", base, os.environ["APT_SOURCES"]], check=True)
        container = cls.buildah("from", "scratch")
        cls.buildah("add", "--quiet", container, str(base), "/")
        cls.buildah("commit", "--quiet", container, "localhost/base")
        cls.buildah("rm", container)

    @classmethod
    def download_wheels(cls) -> None:
        """Download what pip needs in the build, which has no network here."""
        wanted = ["--only-binary=:all:", "--python-version=3.13", f"--dest={cls.place}/wheels"]
        names = ["setuptools", "pymemcache", "psycopg[binary]>=3.2"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted, *names], check=True)
        (cls.place / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")

    def test_image_has_the_configuration_of_the_other_one_and_a_health_check(self) -> None:
        for name in ("Entrypoint", "Cmd", "User", "Volumes", "ExposedPorts", "StopSignal"):
            self.assertEqual(CONFIG[name], self.config[name], name)
        self.assertEqual("CMD", self.config["Healthcheck"]["Test"][0])

    def test_health_check_succeeds_only_while_the_daemon_serves(self) -> None:
        check = [find_program("chroot"), str(self.rootfs), *self.config["Healthcheck"]["Test"][1:]]
        with self.started(*self.config["Cmd"]) as process:
            self.curl(process, "http://localhost:8080/-/health")

            healthy = self.run_beside(process, *check)
        unhealthy = subprocess.run([find_program("unshare"), "--net", *check], capture_output=True, check=False)

        self.assertEqual(0, healthy.returncode, healthy.stderr)
        self.assertNotEqual(0, unhealthy.returncode)


CASES = (OciImageTest, ContainerfileTest)
