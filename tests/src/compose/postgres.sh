#!/bin/sh
# What the image of PostgreSQL does when it starts, as far as docker-compose.yml relies on it, from within the folder that stands for the
# container: an empty data folder becomes a cluster, in which a server that is not on the network runs what is in
# docker-entrypoint-initdb.d. Then the server starts.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth=trust --no-sync -D "$PGDATA"
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  # The machine does not fail in a test, so nothing need be on the disk.
  printf "listen_addresses = '*'\nunix_socket_directories = '%s'\nfsync = off\n" "$PGHOST" >> "$PGDATA/postgresql.conf"
  "$@" -c listen_addresses= &
  server=$!
  until pg_isready --quiet; do
    kill -0 "$server"
    sleep 0.1
  done
  for script in docker-entrypoint-initdb.d/*; do "$script"; done
  kill -INT "$server"
  wait "$server"
fi
exec "$@"
