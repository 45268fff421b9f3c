# syntax=docker/dockerfile:1
# One image for every service and the gateway: the executable is the same, the command says what it is.
#
#   docker build -t waybill .
#   docker run --rm waybill serve orders --help

# cargo-chef splits a build into the dependencies, which are a layer of their own, and the code.
FROM lukemathwalker/cargo-chef:0.1.78-rust-1.95-bookworm AS chef
WORKDIR /src

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json --bin waybill

FROM chef AS build
COPY --from=plan /src/recipe.json recipe.json
# Built again only when a manifest or the lock file changes.
RUN cargo chef cook --release --locked --package waybill --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --package waybill \
    && strip --strip-debug target/release/waybill \
    && install -d -o 65532 -g 65532 /data

# The C library and certificates, no shell, no package manager. Runs as nobody in particular (65532).
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/waybill /usr/local/bin/waybill
COPY --from=build /src/LICENSE-APACHE /src/LICENSE-MIT /usr/share/doc/waybill/
# Read models, where they are files. Everything else of the file system may be read-only.
COPY --from=build --chown=65532:65532 /data /data
VOLUME /data
ENV WAYBILL_HOST=0.0.0.0 WAYBILL_PORT=3000 WAYBILL_DATA=/data WAYBILL_LOG_FORMAT=json
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["waybill", "health"]
ENTRYPOINT ["waybill"]
CMD ["serve", "all"]
