# SPDX-License-Identifier: Apache-2.0
"""relayctl doctor checks whether the processes of a service can import the library."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from notif_relayctl.doctor import library, processes
from support.waiting import TIMEOUT

WAIT = "import sys; print(flush=True); sys.stdin.read()"


@contextlib.contextmanager
def service(*command: str | Path, cwd: Path | None = None) -> Iterator[int]:
    """Run a process that waits; return its process ID."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd, env={}
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate(timeout=TIMEOUT)


def environment(directory: Path, *lines: str) -> Path:
    """Return the interpreter of a virtual environment."""
    (directory / "bin").mkdir(parents=True)
    (directory / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages").mkdir(
        parents=True
    )
    (directory / "pyvenv.cfg").write_text("\n".join(lines))
    (directory / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    return directory / "bin" / "python"


def results(given: Sequence[Path]) -> dict[str, str]:
    """Return result and finding by the number of the process."""
    found = library.examine([os.fspath(each) for each in given])
    return {each.finding.split()[1]: f"{each.result}: {each.finding}" for each in found}


def test_library_is_sought_in_the_environment(directory: Path) -> None:
    conf = directory / "nova" / "nova.conf"
    conf.parent.mkdir()
    conf.touch()
    script = directory / "nova-compute"
    script.write_text(WAIT)
    without = environment(directory / "without", "include-system-site-packages = false")
    (package,) = (directory / "without").glob("lib/*/site-packages")
    with (
        service(sys.executable, script, "--config-file", conf) as having,
        service(without, "-c", WAIT, f"--config-file={conf}") as named,
        service("/bin/sh", "-c", "echo; read line", conf),
        service(without, "-c", WAIT, "/etc/cinder/cinder.conf"),
    ):
        os.mkfifo(package / "endless.pth")
        found = results([conf])
        assert found.keys() == {str(having), str(named)}
        assert found[str(having)].startswith("ok: ")
        assert found[str(named)].startswith("failed: ")
        assert f"it is not in {package}" in found[str(named)]
        (package / "library.pth").write_text(f"import sys\n{directory}/source\n")
        (directory / "source" / "notif_relay").mkdir(parents=True)
        (directory / "source" / "notif_relay" / "__init__.py").touch()
        assert results([conf])[str(named)].startswith("ok: ")
    os.unlink(package / "endless.pth")
    with service("without/bin/python", "nova-compute", cwd=directory) as default:
        assert results([conf]).keys() == {str(default)}


def test_entry_points_of_the_library_are_checked(directory: Path) -> None:
    conf = directory / "aodh.conf"
    python = environment(directory / "own", "include-system-site-packages = false")
    (package,) = (directory / "own").glob("lib/*/site-packages")
    (package / "notif_relay").mkdir()
    (package / "notif_relay" / "__init__.py").touch()
    groups = ["oslo.messaging.drivers", "oslo.messaging.notify.drivers"]

    def found(*needed: str) -> str:
        (finding,) = library.examine([os.fspath(conf)], needed)
        return f"{finding.result} {finding.finding}"

    with service(python, "-c", WAIT, conf):
        assert found().startswith("ok")
        assert "no entry point unix in oslo.messaging.drivers" in found(groups[0])
        metadata = package / "notif_relayd-0.2.0.dist-info"
        metadata.mkdir()
        for text, missing in {
            "": groups,
            "[oslo.messaging.drivers]\nkafka = x:Y\n": groups,
            "[oslo.messaging.drivers]\nunix = x:Y\n": groups[1:],
            "[oslo.messaging.notify.drivers]\nunix=x:Y\n[oslo.messaging.drivers]\n": groups[:1],
            "".join(f"[{group}]\nunix = x:Y\n\n" for group in groups): [],
        }.items():
            (metadata / "entry_points.txt").write_text(text)
            assert [each for each in groups if not found(each).startswith("ok")] == missing
        (metadata / "entry_points.txt").unlink()
        os.mkfifo(metadata / "entry_points.txt")
        assert "in oslo.messaging.drivers, oslo.messaging.notify.drivers" in found(*groups)


def test_title_of_a_service_names_its_configuration(directory: Path) -> None:
    conf = directory / "aodh.conf"
    title = f"aodh-listener: master process [/usr/bin/aodh-listener --config-file {conf}]"
    with subprocess.Popen(
        [title, "-c", WAIT],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert [pid for pid, _ in processes.of_service([os.fspath(conf)])] == [process.pid]
        process.communicate(timeout=TIMEOUT)


def test_service_that_does_not_run_is_skipped(directory: Path) -> None:
    (found,) = library.examine([os.fspath(directory / "nova.conf")])
    assert (found.result, found.advice) == ("skipped", "")
    assert "no process of the service is known" in found.finding
