"""Step cost from timed kernels: what a run is priced with."""
