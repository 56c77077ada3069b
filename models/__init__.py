"""The network: encoders, heads, momentum copies, queue and the selective scan."""
