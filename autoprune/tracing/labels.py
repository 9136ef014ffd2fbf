"""Labels of channels, and what has been joined: a union-find over whole numbers.

``NEUTRAL`` stands for values that no unit makes and that adapt to any size, ``FIXED`` for values whose size is fixed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]

NEUTRAL = 0
FIXED = 1


class LabelStore:
    """Labels in use, joined into components; a component may be protected, with a reason."""

    def __init__(self) -> None:
        self._parent: Ids = np.arange(1024, dtype=np.int64)
        self._count = 2
        self._reasons: dict[int, str] = {}

    def fresh(self, count: int) -> Ids:
        """``count`` labels that nothing else has, ``[count]``."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parent):
            grown = np.arange(max(self._count, 2 * len(self._parent)), dtype=np.int64)
            grown[: len(self._parent)] = self._parent
            self._parent = grown
        return np.arange(first, self._count, dtype=np.int64)

    def find(self, ids: Ids) -> Ids:
        """The component of each label, same shape."""
        roots = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                return roots
            roots = above

    def join(self, a: Ids, b: Ids, where: str) -> None:
        """Join ``a`` and ``b`` pairwise (broadcast). A label that meets a neutral or fixed one is protected instead."""
        left, right = np.broadcast_arrays(self.find(a), self.find(b))
        differ = left != right
        if not differ.any():
            return
        pairs = np.unique(np.stack([left[differ], right[differ]], 1), axis=0)
        sizeless = (pairs <= FIXED).any(1)
        if sizeless.any():
            self.protect(pairs[sizeless].max(1), f"{where} joins it with a value of fixed size")
        for low, high in pairs[~sizeless].tolist():
            self._union(low, high)

    def _union(self, a: int, b: int) -> None:
        a, b = self._root(a), self._root(b)
        if a == b:
            return
        low, high = min(a, b), max(a, b)
        self._parent[high] = low
        reason = self._reasons.pop(high, None)
        if reason is not None:
            self._reasons.setdefault(low, reason)

    def _root(self, label: int) -> int:
        parent = self._parent
        root = label
        while parent[root] != root:
            root = int(parent[root])
        while parent[label] != root:
            parent[label], label = root, int(parent[label])
        return root

    def protect(self, ids: Ids, reason: str) -> None:
        """Keep the components of ``ids`` whole; the first reason given stays."""
        for root in np.unique(self.find(ids)).tolist():
            if root > FIXED:
                self._reasons.setdefault(root, reason)

    def reason(self, root: int) -> str | None:
        """Why the component ``root`` is protected."""
        return self._reasons.get(root)
