"""How it is served, deployed and triggered."""
