#!/bin/sh
# In place of the entry point of the Redis image, which becomes another user.
exec "$@"
