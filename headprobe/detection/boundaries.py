"""Segments that end where something changes: borders at the peaks of a curve, and cuts where features jump."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy.typing import ArrayLike
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks, savgol_filter
from scipy.stats import norm

from headprobe._validation import choice, count, number
from headprobe.detection.method import VideoView, fingerprint
from headprobe.errors import InputError
from headprobe.video.clips import Segment

__all__ = ["Border", "BoundaryTree", "ChangeCurve", "EventCuts", "FrameFeatures"]

Source = Callable[[VideoView], ArrayLike] | Mapping[str, ArrayLike]
_SMOOTHED = 5  # samples of the Savitzky-Golay filter, of degree 2
_FLOOR = 0.01  # of the mean change of a video, below which a change is none


@dataclass(frozen=True)
class FrameFeatures:
    """What frames look like without any model: a small grey image and a histogram of each colour.

    Parameters
    ----------
    rate
        Frames per second that are looked at, at most those of the video.
    side
        Rows and columns of the grey image.
    bins
        Of each histogram.

    Examples
    --------
    >>> class Dark(VideoView):
    ...     def frames(self, indices):
    ...         return np.zeros((len(indices), 32, 32, 3), np.uint8)
    >>> FrameFeatures(10.0)(Dark("a", 75, 25.0)).shape
    (30, 280)
    """

    rate: float = 10.0
    side: int = 16
    bins: int = 8

    def __post_init__(self) -> None:
        number(self.rate, "rate", above=0)
        count(self.side, "side")
        count(self.bins, "bins", 2, 256)

    def __call__(self, video: VideoView) -> Float[np.ndarray, "sample feature"]:
        n = min(max(round(video.seconds * self.rate), 1), video.n_frames)
        indices = _sampled(video.n_frames, n)
        return np.concatenate([self._of(video.frames(indices[i : i + 16])) for i in range(0, n, 16)])

    def _of(self, frames: UInt8[np.ndarray, "frame height width 3"]) -> Float[np.ndarray, "frame feature"]:
        step = max(min(frames.shape[1:3]) // (8 * self.side), 1)  # of large frames not every pixel
        frames = frames[:, ::step, ::step]
        grey = _pooled(_pooled(frames.mean(-1) / 255, self.side, 1), self.side, 2).reshape(len(frames), -1) / self.side
        bins = frames.astype(int) * self.bins // 256 + self.bins * np.arange(3)
        counts = np.stack([np.bincount(one.ravel(), minlength=3 * self.bins) for one in bins])
        return np.concatenate([grey, np.sqrt(counts / bins[0].size)], 1)


@dataclass(frozen=True, repr=False, eq=False)
class ChangeCurve:
    """How much more a video changes at a moment than around it, from 0 to 1: 1 - (usual change) / (change here).

    Twice the usual change is .5, ten times .9. The usual change is the mean over `around` seconds to either side. The
    change of two samples of features is ||b - a||^2 + 1 - cos(a, b), smoothed by a Savitzky-Golay filter.

    Parameters
    ----------
    features
        Of evenly spaced frames from the first to the last `[sample, feature]`: a function of the video or a mapping of
        names to them. `FrameFeatures` if not given.
    around
        Seconds. Features of few dimensions change twice as much as usual several times a minute in mere noise.

    Examples
    --------
    >>> features = np.repeat([[1.0, 0], [0, 1]], 50, axis=0) + np.random.default_rng(0).normal(0, 0.1, (100, 2))
    >>> curve = ChangeCurve({"a": features})(VideoView("a", 100, 10.0))
    >>> int(curve.argmax()), bool(curve.max() > 0.9)
    (50, True)
    """

    features: Source | None = None
    around: float = 2.0

    def __post_init__(self) -> None:
        number(self.around, "around", above=0)

    def __repr__(self) -> str:
        return f"ChangeCurve({_named(self.features)}, around={self.around})"

    def __call__(self, video: VideoView) -> Float[np.ndarray, " sample"]:
        features = _features(self.features, video)
        if len(features) < 3:
            return np.zeros(len(features))
        raw, smooth = _change(features)
        half = max(round(self.around * len(features) / video.seconds), _SMOOTHED)
        wide, near = (uniform_filter1d(raw, size, mode="reflect") * size for size in (2 * half + 1, _SMOOTHED))
        floor = _FLOOR * raw.mean()
        usual = np.maximum(wide - near, 0) / (2 * half + 1 - _SMOOTHED) + floor
        return np.concatenate([[0.0], np.clip(1 - usual / np.maximum(smooth + floor, 1e-300), 0, 1)])


class Border(NamedTuple):
    """A border between segments: the first frame after it, how sure it is, and whether coarse segments end there."""

    frame: int
    height: float
    coarse: bool


@dataclass(frozen=True, repr=False, eq=False)
class BoundaryTree:
    """Segments between the peaks of a boundary curve, the surest split first (VADTree, arXiv 2510.22693).

    Peaks of at least `gamma` split the video depth first, the highest before others, unless a part would be too short.
    The heights fall into two clusters: coarse segments end at the borders of the upper one, fine segments at all. Two
    clusters are the best split of the sorted heights into two; where all are equal, all borders are coarse. Without
    any peak the video is one segment.

    Parameters
    ----------
    curve
        At evenly spaced frames from the first to the last `[sample]`: a function of the video or a mapping of names to
        curves, such as the probabilities of a detector of event boundaries. `ChangeCurve` if not given, which needs
        no model and is a stand-in for one.
    gamma
        Least height of a peak. VADTree has .4 on UCF-Crime and .3 on MSAD, of the probabilities of its own detector.
    granularity
        Which segments to cut into.
    min_seconds
        Least length of a segment.
    compatible
        As the reference: every sample of a level peak is a border of its own, and the clusters are those of
        scikit-learn's k-means with ten starts from seed 0, which are not always the best.

    Examples
    --------
    >>> curve = {"a": [0.1, 0.2, 0.9, 0.2, 0.1, 0.5, 0.1, 0.1, 0.6, 0.1]}
    >>> video = VideoView("a", 100, 10.0)
    >>> [one.span for one in BoundaryTree(curve)(video)]
    [(0, 22), (22, 55), (55, 88), (88, 100)]
    >>> [one.span for one in BoundaryTree(curve, granularity="coarse")(video)]
    [(0, 22), (22, 100)]
    """

    curve: Source | None = None
    gamma: float = 0.5
    granularity: Literal["fine", "coarse"] = "fine"
    min_seconds: float = 0.0
    compatible: bool = False

    def __post_init__(self) -> None:
        number(self.gamma, "gamma")
        choice(self.granularity, "granularity", ("fine", "coarse"))
        number(self.min_seconds, "min_seconds", least=0)

    def __repr__(self) -> str:
        rest = f"gamma={self.gamma}, granularity={self.granularity!r}, min_seconds={self.min_seconds}"
        return f"BoundaryTree({_named(self.curve or ChangeCurve())}, {rest}, compatible={self.compatible})"

    def __call__(self, video: VideoView) -> list[Segment]:
        borders = self.borders(video)
        return _between([one.frame for one in borders if one.coarse or self.granularity == "fine"], video.n_frames)

    def borders(self, video: VideoView) -> list[Border]:
        """Borders of the fine segments.

        Parameters
        ----------
        video
            What can be seen of it.

        Returns
        -------
        list of Border
            In order of time.

        Raises
        ------
        InputError
            There is no curve of the video, or it has other than one number per sample.

        Examples
        --------
        >>> BoundaryTree({"a": [0.1, 0.9, 0.2]}).borders(VideoView("a", 30, 10.0))
        [Border(frame=14, height=0.9, coarse=True)]
        """
        curve = np.asarray(_of(self.curve or ChangeCurve(), video, "boundary curve"), np.float64)
        if curve.ndim != 1 or not 1 <= len(curve) <= video.n_frames or not np.isfinite(curve).all():
            raise InputError(
                f"the boundary curve of {video.name!r} has the shape {curve.shape}; give up to {video.n_frames} finite "
                "numbers, evenly spaced over its frames."
            )
        frames = _sampled(video.n_frames, len(curve))
        if self.compatible:
            inner = curve[1:-1]
            peaks = 1 + np.flatnonzero((inner >= curve[:-2]) & (inner >= curve[2:]) & (inner >= self.gamma))
        else:
            peaks = find_peaks(curve, height=self.gamma)[0]
        edges, kept = [0, video.n_frames], []
        for peak in peaks[np.argsort(-curve[peaks], kind="stable")]:
            if min(abs(int(frames[peak]) - edge) for edge in edges) >= max(self.min_seconds * video.fps, 1):
                edges.append(int(frames[peak]))
                kept.append(int(peak))
        kept.sort()
        heights = curve[kept]
        upper = _upper_k_means(heights) if self.compatible else _upper_cluster(heights)
        return [Border(*one) for one in zip(frames[kept].tolist(), heights.tolist(), upper.tolist(), strict=True)]


@dataclass(frozen=True, repr=False, eq=False)
class EventCuts:
    """Segments between jumps of features, after EventVAD's change score: two events where the scene changes.

    The change of two samples, ||b - a||^2 + 1 - cos(a, b), is smoothed by a Savitzky-Golay filter and divided by its
    mean over the seconds before. A cut is where the logarithm of this ratio is above its median by more spreads (median
    absolute deviations) than chance would reach once in 1 / `alpha` videos of this length, and the ratio is `ratio` at
    least. EventVAD's three spreads are reached twice a minute in pure noise, and its cuts come .5 to 1 s early.

    Parameters
    ----------
    features
        Of evenly spaced frames from the first to the last `[sample, feature]`: a function of the video or a mapping of
        names to them. `FrameFeatures` if not given, which needs no model.
    trailing
        Seconds before a moment that it is compared with; there is no cut before half of them.
    alpha
        Share of videos of mere noise that may have a cut.
    ratio
        Least ratio of a cut.
    gap
        Least seconds between two cuts; the larger jump is kept.

    Examples
    --------
    >>> features = np.repeat([[1.0, 0], [0, 1]], 50, axis=0) + np.random.default_rng(0).normal(0, 0.05, (100, 2))
    >>> [one.span for one in EventCuts({"a": features})(VideoView("a", 100, 10.0))]
    [(0, 50), (50, 100)]
    """

    features: Source | None = None
    trailing: float = 2.0
    alpha: float = 0.01
    ratio: float = 3.0
    gap: float = 2.0

    def __post_init__(self) -> None:
        number(self.trailing, "trailing", above=0)
        number(self.alpha, "alpha", above=0, below=1)
        number(self.ratio, "ratio", least=1)
        number(self.gap, "gap", least=0)

    def __repr__(self) -> str:
        rest = f"trailing={self.trailing}, alpha={self.alpha}, ratio={self.ratio}, gap={self.gap}"
        return f"EventCuts({_named(self.features or FrameFeatures())}, {rest})"

    def __call__(self, video: VideoView) -> list[Segment]:
        features = _features(self.features, video)
        rate = len(features) / video.seconds
        frames = _sampled(video.n_frames, len(features))
        return _between([int(frames[sample]) for sample in self._samples(features, rate)], video.n_frames)

    def _samples(self, features: Float[np.ndarray, "sample feature"], rate: float) -> list[int]:
        """Samples at which a new segment begins."""
        reach, lag = max(round(self.trailing * rate), 2), _SMOOTHED // 2
        first = max(reach // 2, 2) + lag
        if len(features) - 1 <= first:
            return []
        raw, smooth = _change(features)
        places = np.arange(first, len(raw))
        summed = np.concatenate([[0.0], raw.cumsum()])
        begins = np.maximum(places - lag - reach, 0)
        usual = (summed[places - lag] - summed[begins]) / (places - lag - begins)
        floor = _FLOOR * raw.mean()
        if floor == 0:
            return []
        ratio = np.log((smooth[places] + floor) / (usual + floor))
        middle = np.median(ratio)
        spread = np.median(np.abs(ratio - middle)) / norm.isf(0.25)
        least = max(middle + norm.isf(self.alpha / len(ratio)) * spread, np.log(self.ratio))
        jumps = set()
        for place in places[ratio >= least]:
            start = max(int(place) - lag, 0)
            jumps.add(start + int(raw[start : int(place) + lag + 1].argmax()))
        chosen: list[int] = []
        for jump in sorted(jumps, key=lambda jump: (-raw[jump], jump)):
            # Change i lies between the samples i and i + 1.
            if all(abs(jump + 1 - other) >= max(self.gap * rate, 1) for other in chosen):
                chosen.append(jump + 1)
        return sorted(chosen)


def _sampled(n_frames: int, n: int) -> Int[np.ndarray, " sample"]:
    """Numbers of n evenly spaced frames, from the first to the last."""
    return np.linspace(0, n_frames - 1, n).astype(int)


def _pooled(images: np.ndarray, side: int, axis: int) -> np.ndarray:
    """Means over `side` equal parts of an axis."""
    edges = np.arange(side) * images.shape[axis] // side
    sizes = np.maximum(np.diff([*edges, images.shape[axis]]), 1)
    return np.add.reduceat(images, edges, axis) / np.expand_dims(sizes, tuple(range(1, images.ndim - axis)))


def _change(features: Float[np.ndarray, "sample feature"]) -> tuple[np.ndarray, np.ndarray]:
    """Change between neighbours, as it is and smoothed."""
    lengths = np.linalg.norm(features, axis=1)
    products = np.maximum(lengths[1:] * lengths[:-1], 1e-300)
    cosines = np.where(products > 1e-300, (features[1:] * features[:-1]).sum(1) / products, 1.0)
    raw = ((features[1:] - features[:-1]) ** 2).sum(1) + np.clip(1 - cosines, 0, None)
    smooth = savgol_filter(raw, _SMOOTHED, 2) if len(raw) >= _SMOOTHED else raw
    return raw, np.maximum(np.asarray(smooth), 0)


def _upper_cluster(heights: Float[np.ndarray, " border"]) -> np.ndarray:
    """Which of the heights are in the upper of two clusters of least spread."""
    ordered = np.sort(heights)
    if not len(ordered) or ordered[0] == ordered[-1]:
        return np.ones(len(heights), bool)
    below = np.arange(1, len(ordered))
    sums = ordered.cumsum()[:-1]
    between = (sums / below - ordered.mean()) ** 2 * below / (len(ordered) - below)
    return heights >= ordered[below[np.argmax(between)]]


def _upper_k_means(heights: Float[np.ndarray, " border"]) -> np.ndarray:
    if len(np.unique(heights)) < 2:
        return np.ones(len(heights), bool)
    from sklearn.cluster import KMeans

    found = KMeans(2, random_state=0, n_init=10).fit(heights[:, None])  # pyright: ignore[reportArgumentType]
    return found.labels_ == found.cluster_centers_[:, 0].argmax()


def _between(borders: list[int], n_frames: int) -> list[Segment]:
    edges = sorted({0, *borders, n_frames})
    return [Segment(first, end, (first, end)) for first, end in pairwise(edges)]


def _of(source: Source, video: VideoView, what: str) -> ArrayLike:
    if not isinstance(source, Mapping):
        return source(video)
    if video.name not in source:
        raise InputError(f"there is no {what} of {video.name!r}; give one for every video.")
    return source[video.name]


def _features(source: Source | None, video: VideoView) -> Float[np.ndarray, "sample feature"]:
    features = np.asarray(_of(source or FrameFeatures(), video, "row of features"), np.float64)
    if features.ndim != 2 or not 1 <= len(features) <= video.n_frames or not np.isfinite(features).all():
        raise InputError(
            f"the features of {video.name!r} have the shape {features.shape}; give up to {video.n_frames} rows of "
            "finite numbers, evenly spaced over its frames."
        )
    return features


def _named(source: Source | None) -> str:
    """A text that is another one for other sources; refused where there is none."""
    if source is None:
        return repr(FrameFeatures())
    if isinstance(source, Mapping):
        return fingerprint({name: np.asarray(values, np.float64) for name, values in source.items()})
    named = f"{source.__module__}.{source.__qualname__}" if hasattr(source, "__qualname__") else repr(source)
    if "<" in named:
        raise InputError(
            f"{source!r} has no name by which it could be told from another; give a function of a module, or an object "
            "whose repr has its settings."
        )
    return named
