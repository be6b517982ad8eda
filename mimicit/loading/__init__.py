"""Loading: shards in, `Sample`s out, in an order that is a pure function of folder, seed and position."""

from mimicit.loading.order import Order
from mimicit.loading.samples import Samples, load

__all__ = ["Order", "Samples", "load"]
