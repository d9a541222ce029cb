"""The progress bar: clips per second and time left, while it is not known yet how many clips there are."""

from __future__ import annotations

from typing import Any

from headprobe.extraction.events import Opened

__all__ = ["Bar"]

# As tqdm has it, but with clips per second also where they are fewer than one.
_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class Bar:
    """A progress bar over clips whose number becomes known as videos are opened.

    Parameters
    ----------
    n_videos
        Videos of the run.
    n_there
        Clips of them that were stored before.
    show
        Whether to show it.

    Attributes
    ----------
    total : int
        Clips to do: those of the videos that were opened, and for the others as many as those have on average.

    Examples
    --------
    >>> from headprobe.extraction.source import Video
    >>> bar = Bar(n_videos=4, n_there=6, show=False)
    >>> bar.opened(Opened(Video("a.mp4", "a"), n_clips=5, n_wanted=0))
    >>> bar.opened(Opened(Video("b.mp4", "b"), n_clips=7, n_wanted=6))
    >>> bar.total  # 4 videos of 6 clips, without the 6 that are there
    18
    """

    def __init__(self, n_videos: int, n_there: int, show: bool) -> None:
        from tqdm.auto import tqdm

        self.total = 0
        self._n_videos, self._n_there = n_videos, n_there
        self._n_opened = self._n_clips = self._n_wanted = self._n_skipped = 0
        self._bar: Any = tqdm(
            total=None, desc="extract", unit=" clips", disable=not show, smoothing=0.1, bar_format=_FORMAT
        )

    def opened(self, event: Opened) -> None:
        """A video was opened.

        Parameters
        ----------
        event
            What it holds.
        """
        self._n_opened += 1
        self._n_clips += event.n_clips
        self._n_wanted += event.n_wanted
        expected = round(self._n_clips / self._n_opened * self._n_videos) - self._n_there
        self.total = self._n_wanted if self._n_opened >= self._n_videos else max(expected, self._n_wanted)
        self._bar.total = self.total

    def read(self, n_clips: int, batch_size: int) -> None:
        """Clips were read.

        Parameters
        ----------
        n_clips
            How many.
        batch_size
            Clips per pass at the moment.
        """
        self._bar.set_postfix(batch=batch_size, skipped=self._n_skipped, refresh=False)
        self._bar.update(n_clips)

    def skipped(self) -> None:
        """Something was skipped."""
        self._n_skipped += 1

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
