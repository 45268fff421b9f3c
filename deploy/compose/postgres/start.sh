#!/bin/sh
# Starts PostgreSQL in its image. It takes only a key that is its own and that nobody else can read, and one that compose mounts has
# the owner and the mode that it has outside: so it is copied, into memory.
set -eu
(umask 077 && cp -f /run/secrets/tls-key /var/run/postgresql/tls-key)
exec docker-entrypoint.sh "$@"
