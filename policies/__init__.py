"""The built-in allocation policies; importing a module here is what registers its policy."""

from __future__ import annotations

from kvsim.policies import contiguous as contiguous
from kvsim.policies import paged as paged
from kvsim.policies import prefix as prefix
from kvsim.policies import radix as radix
from kvsim.policies import reserved as reserved
from kvsim.policies import sliding_window as sliding_window
from kvsim.policies import tiered as tiered
from kvsim.policies import virtual as virtual
