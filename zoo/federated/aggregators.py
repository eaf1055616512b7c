"""Flower's aggregators by name, and how many attackers each of them stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.config import nearest
from zoo.errors import OptionError

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

# The most attackers f among n clients, by each rule's own assumption.
_BOUNDS = {
    "fedavg": lambda n: 0,
    "krum": lambda n: (n - 3) // 2,  # n >= 2f + 3, Blanchard et al. 2017
    "multi-krum": lambda n: (n - 3) // 2,
    "trimmed-mean": lambda n: (n - 1) // 2,  # 2f < n, Yin et al. 2018
    "median": lambda n: (n - 1) // 2,
    "bulyan": lambda n: (n - 3) // 4,  # n >= 4f + 3, El Mhamdi et al. 2018
}


def tolerated(name: str, clients: int) -> int:
    """The most attackers among ``clients`` clients that the aggregator is made for. Raises ``OptionError``."""
    if name not in _BOUNDS:
        raise OptionError(f"there is no aggregator {name!r}; {nearest(name, _BOUNDS)}")
    return max(0, _BOUNDS[name](clients))


def require_tolerated(name: str, clients: int, attackers: int) -> None:
    """Raises ``OptionError`` when the aggregator isn't made for so many attackers."""
    most = tolerated(name, clients)
    if not 0 <= attackers <= most:
        raise OptionError(f"{name} stands at most {most} attackers among {clients} clients, not {attackers}")


def aggregator(name: str, clients: int, attackers: int = 0, **options: Any) -> Strategy:
    """Flower's strategy ``fedavg``, ``krum``, ``multi-krum``, ``trimmed-mean``, ``median`` or ``bulyan``.

    ``options`` are those of Flower's ``FedAvg``. Raises ``OptionError`` for more attackers than the rule stands.
    """
    require_tolerated(name, clients, attackers)
    from zoo.federated import flower  # noqa: F401  (first: it says what's missing)

    # isort: split
    from flwr.serverapp import strategy as flwr

    if name == "krum":
        return flwr.Krum(num_malicious_nodes=attackers, **options)
    if name == "multi-krum":
        chosen = max(1, clients - attackers)
        return flwr.MultiKrum(num_malicious_nodes=attackers, num_nodes_to_select=chosen, **options)
    if name == "bulyan":
        return flwr.Bulyan(num_malicious_nodes=attackers, **options)
    if name == "trimmed-mean":
        # Flower cuts int(beta n) at each end: the half makes that exactly the number of attackers
        return flwr.FedTrimmedAvg(beta=(attackers + 0.5) / clients if attackers else 0.0, **options)
    return (flwr.FedMedian if name == "median" else flwr.FedAvg)(**options)
