"""The volume that a front covers: one number for how good a set of trade-offs is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def hypervolume(points: Iterable[Sequence[float]]) -> float:
    """Volume of what lies between the origin and ``points``; larger is better in every coordinate.

    A point with a coordinate at or below 0 covers nothing. Exact, by slices along the first coordinate (E. Zitzler,
    L. Thiele, Multiobjective evolutionary algorithms: a comparative case study and the strength Pareto approach, 1999;
    L. While, P. Hingston, L. Barone, S. Huband, A faster algorithm for calculating hypervolume, 2006). Meant for two
    or three coordinates and fronts of some hundred points.

    Args:
        points: of equal length, at least one coordinate each.
    """
    return _volume([tuple(point) for point in points if min(point) > 0])


def _volume(points: list[tuple[float, ...]]) -> float:
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return max(point[0] for point in points)
    ordered = sorted(points, reverse=True)
    total, slices = 0.0, list[tuple[float, ...]]()
    for place, point in enumerate(ordered):
        slices.append(point[1:])
        below = ordered[place + 1][0] if place + 1 < len(ordered) else 0.0
        if point[0] > below:
            total += (point[0] - below) * _volume(slices)
    return total
