"""Processes that find each other as those of `torchrun` do."""

import os
import subprocess
import sys

from torch import distributed


def run_together(script: str, size: int, *arguments: str) -> None:
    """Runs a script in so many processes, and fails if one of them fails. As with `torchrun`, the store through which
    they meet is this process's, so that no other program can take its port in between.
    """
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(size)}
    shared = {**os.environ, **place, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={**shared, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, errors
