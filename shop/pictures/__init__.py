"""Pictures for people: an order as it went, how the shop does. They read, and change nothing."""
