#!/bin/sh
# Run once by the image of PostgreSQL, in an empty folder: the database of one service and its role, which may do nothing
# but make schemas in it.
set -eu
psql --set=ON_ERROR_STOP=1 --username postgres --set=name="$SERVICE" \
  --set=password="$(cat "/run/secrets/$SERVICE-database-password")" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" TEMPLATE template0 ENCODING 'UTF8';
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
GRANT CONNECT, CREATE ON DATABASE :"name" TO :"name";
\connect :"name"
REVOKE ALL ON SCHEMA public FROM PUBLIC;
SQL
