"""How candidates are dealt to lanes: what `plan` takes beside the pool and the key."""

from __future__ import annotations

from dataclasses import dataclass

from lanewise.arrays import check_choice, check_int, check_real
from lanewise.lanes.planning import SCHEMES

__all__ = ["Setting"]


@dataclass(frozen=True)
class Setting:
    """How candidates are dealt to lanes.

    Attributes
    ----------
    n_lanes, k_lane, alpha, head, scheme
        As for `plan`.
    """

    n_lanes: int = 4
    k_lane: int = 16
    alpha: float = 1.0
    head: int = 0
    scheme: str = "stratified"

    def __post_init__(self) -> None:
        check_int(self.n_lanes, "n_lanes", low=1, high=2**16)
        check_int(self.k_lane, "k_lane", low=1, high=2**31 - 1)
        check_real(self.alpha, "alpha", low=0.0, high=1.0)
        check_int(self.head, "head", low=0, high=2**31 - 1)
        check_choice(self.scheme, "scheme", SCHEMES)

    @property
    def k_total(self) -> int:
        """Candidates that all lanes score together, at most."""
        return self.n_lanes * self.k_lane
