"""Steps done by forks of a process that has its imports done: as if alone, through signals, and gone with who asked."""

import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from waiting import wait_for

from dgmbench import __version__, warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks die with their parent on Linux only")

# A server whose steps are made up, and that imports nothing.
SERVER = """
import os, sys, time
from dgmbench import cli, warm

def work():
    verb, *rest = sys.argv[1:]
    if verb == "say":
        print(os.getcwd(), os.environ["WORD"], *rest)
        print("aside", file=sys.stderr)
        print(sys.stdin.read(), os.getppid())
    elif verb == "end":
        sys.exit(int(rest[0]))
    elif verb == "fail":
        raise ValueError("broken")
    elif verb == "wait":
        import signal
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with open(rest[0], "w") as file:
            print(os.getpid(), file=file)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            sys.exit(130)

cli.work = work
warm.IMPORTED = ()
warm.main(sys.argv[1])
"""


@pytest.fixture
def server(tmp_path):
    """The process that forks, the folder of its socket, and a way to ask it."""
    folder = tmp_path / "socket"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stdin=subprocess.PIPE)
    wait_for(lambda: list(folder.iterdir()))
    environment = {k: v for k, v in os.environ.items() if k != "RANK"} | {warm.VARIABLE: str(folder), "WORD": "given"}

    def ask(*arguments: str, **options) -> subprocess.Popen:
        command = [sys.executable, "-m", "dgmbench.cli", *arguments]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, **{"env": environment, **streams, **options})

    yield SimpleNamespace(process=process, folder=folder, ask=ask, environment=environment)
    process.kill()
    process.stdin.close()
    process.wait()


def waiting(server, tmp_path) -> tuple[subprocess.Popen, int]:
    """A step that waits, and the process that does it."""
    asked, note = server.ask("wait", str(tmp_path / "pid")), tmp_path / "pid"
    wait_for(lambda: note.is_file() and note.read_text())
    return asked, int(note.read_text())


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_step_has_the_folder_environment_arguments_and_streams_of_who_asks(server, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    asked = server.ask("say", "a b", "ü", cwd=elsewhere)
    out, err = asked.communicate("typed")
    assert out.splitlines() == [f"{elsewhere} given a b ü", f"typed {server.process.pid}"]
    assert (err, asked.returncode) == ("aside\n", 0)


@pytest.mark.parametrize(("arguments", "status"), [(["end", "0"], 0), (["end", "2"], 2), (["fail"], 1)])
def test_it_ends_as_the_step_ends(server, arguments, status):
    asked = server.ask(*arguments)
    said = asked.communicate()[1]
    assert asked.returncode == status
    assert ("broken" in said) == (arguments == ["fail"])


def test_steps_run_side_by_side(server, tmp_path):
    first, pid = waiting(server, tmp_path)
    second = server.ask("end", "3")
    second.communicate()
    assert (second.returncode, first.poll(), alive(pid)) == (3, None, True)
    first.terminate()
    assert first.wait(10) == 130


def test_a_step_is_killed_with_who_asked_for_it(server, tmp_path):
    asked, pid = waiting(server, tmp_path)
    asked.kill()
    wait_for(lambda: not alive(pid))
    again = server.ask("end", "4")
    again.communicate()
    assert again.returncode == 4


def test_a_step_is_killed_with_the_process_that_forked_it(server, tmp_path):
    asked, pid = waiting(server, tmp_path)
    server.process.kill()
    assert asked.wait(10) == 128 + signal.SIGKILL
    wait_for(lambda: not alive(pid))


def test_a_killed_step_is_told(server, tmp_path):
    asked, pid = waiting(server, tmp_path)
    os.kill(pid, signal.SIGKILL)
    assert asked.wait(10) == 128 + signal.SIGKILL


def test_it_ends_with_the_workflow_once_its_steps_are_done(server, tmp_path):
    asked, _ = waiting(server, tmp_path)
    server.process.stdin.close()
    time.sleep(0.2)
    assert server.process.poll() is None
    asked.terminate()
    assert asked.wait(10) == 130
    assert server.process.wait(10) == 0
    assert not server.folder.exists()


def test_who_leaves_before_saying_what_is_to_be_done_costs_nothing(server):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(next(server.folder.iterdir())))
        socket.send_fds(connection, [b"\0\0\1\0"], [0, 1, 2])
    asked = server.ask("end", "5")
    asked.communicate()
    assert asked.returncode == 5


@pytest.mark.parametrize("change", [{warm.VARIABLE: "/nowhere"}, {"RANK": "1"}, {warm.VARIABLE: ""}])
def test_without_one_the_work_is_done_by_oneself(server, change):
    asked = server.ask("--version", env=server.environment | change)
    assert asked.communicate()[0] == f"dgmbench {__version__}\n"


def test_the_process_that_the_workflow_starts_does_real_steps():
    """With all its imports, and the command line as it is."""
    program = (
        "import os, subprocess, sys, time; from dgmbench import warm; warm.start()\n"
        "while not os.listdir(os.environ[warm.VARIABLE]): time.sleep(0.1)\n"
        "for words in (['--version'], ['evaluate']):\n"
        "    print(subprocess.run([sys.executable, '-m', 'dgmbench.cli', *words], stderr=subprocess.PIPE).returncode)\n"
        "print(os.environ[warm.VARIABLE])"
    )
    done = subprocess.run([sys.executable, "-uc", program], capture_output=True, text=True, check=True, timeout=120)
    *said, folder = done.stdout.splitlines()
    assert said == [f"dgmbench {__version__}", "0", "2"]
    wait_for(lambda: not os.path.exists(folder))
