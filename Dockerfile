# docker build --tag outbox-relay .
# docker run --volume "$PWD/outbox.toml:/etc/outbox-relay/outbox.toml:ro" --env DATABASE_URL --publish 8080:8080 outbox-relay

FROM rust:1-bookworm AS build
WORKDIR /build
COPY . .
# What was built stays in the cache, for the next time.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --profile dist --locked --bin outbox-relay && cp target/dist/outbox-relay /outbox-relay

# The C library, libgcc and the certificates of public authorities; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /outbox-relay /usr/local/bin/outbox-relay
WORKDIR /etc/outbox-relay
# Whatever [admin] listen says in the file: an address of the container alone would be of no use.
ENV OUTBOX__ADMIN__LISTEN=0.0.0.0:8080
EXPOSE 8080
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["outbox-relay", "health"]
ENTRYPOINT ["outbox-relay"]
