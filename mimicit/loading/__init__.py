"""Loading: shards in, `Sample`s out, in an order that is a pure function of folder, seed and position."""

from mimicit.loading.chat import ChatCollator
from mimicit.loading.conversation import messages
from mimicit.loading.mixture import Mixture, load_mixture
from mimicit.loading.order import Order
from mimicit.loading.packing import Cost, Pack, PackedSamples, pack, token_cost
from mimicit.loading.quarantine import Quarantine
from mimicit.loading.samples import Samples, Where, load

__all__ = [
    "ChatCollator",
    "Cost",
    "Mixture",
    "Order",
    "Pack",
    "PackedSamples",
    "Quarantine",
    "Samples",
    "Where",
    "load",
    "load_mixture",
    "messages",
    "pack",
    "token_cost",
]
