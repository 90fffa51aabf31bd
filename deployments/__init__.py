"""How it is served, deployed and triggered."""

from tasks import secret_blocks  # noqa: F401  (settings may name them)
