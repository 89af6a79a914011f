"""Run a command so that nothing of it outlives the process that asked for it.

    python -P guard.py <pid of the caller> <command> [arguments...]

The guard is a process of its own between the caller and the command, because the kernel's "tell me
when my parent dies" (prctl, Linux) has to be requested by the child, and DVC does not. It starts
the command in a process group of its own and ends the whole group when the caller is gone, when it
is told to stop, and when the command itself has ended but left something running. Its exit status
is the command's.

Standard library only, and imported by nothing: it starts in a few milliseconds.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

SECONDS_TO_FINISH = 10.0
"""Between SIGTERM (a trainer writes its checkpoint) and SIGKILL."""
CALLER_IS_GONE = 70
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


class Stop(BaseException):
    """SIGTERM arrived: the caller is gone or wants the command to end."""


def main(caller: int, command: list[str]) -> int:
    """Run `command` to its end, or end it."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # Orphans of the group come to the guard, which can then see that they are gone: in a container
    # there may be no init that would reap them.
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Compared with the pid that was handed over and not with 1: in a container the caller may be
    # pid 1.
    if os.getppid() != caller:
        return CALLER_IS_GONE
    child: subprocess.Popen[bytes] | None = None
    try:
        # A signal inside of Popen would leave a child that nobody knows: it waits until after.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        child = subprocess.Popen(command, process_group=0, preexec_fn=_in_the_child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        status = child.wait()
    except Stop:
        status = -signal.SIGTERM
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if child is not None:
            end_group(child.pid)
    return status if status >= 0 else 128 - status


def end_group(group: int) -> None:
    """SIGTERM to every process of the group, ten seconds, then SIGKILL."""
    for number, seconds in ((signal.SIGTERM, SECONDS_TO_FINISH), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        deadline = time.monotonic() + seconds
        while _alive(group):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return


def _alive(group: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG) != (0, 0):
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _in_the_child() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _stop(*_: object) -> None:
    raise Stop


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
