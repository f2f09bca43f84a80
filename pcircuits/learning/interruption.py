"""An interruption that waits for the end of a batch."""

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """Inside, Ctrl-C sets `requested` and raises nothing in the middle of an update; a second one raises at once.

    Only the main thread receives signals; elsewhere, or if not `enabled`, nothing changes.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.requested = False
        self._enabled = enabled and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interruption":
        if self._enabled:
            self._before = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._enabled:
            signal.signal(signal.SIGINT, self._before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
