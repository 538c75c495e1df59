# respgres as an image: built with Rust, run on a slim Debian by a user without rights.

FROM rust:1.95.0-bookworm AS build
WORKDIR /src
# Dependencies first, with stand-ins for all that the manifest names: they change less often than the
# sources, and their layer is kept.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && benches=$(sed -n '/^\[\[bench\]\]$/ { n; s/^name = "\(.*\)"$/\1/p }' Cargo.toml) \
    && for bench in $benches; do \
        mkdir -p "benches/$bench" && cp src/main.rs "benches/$bench/main.rs" || exit 1; \
    done \
    && cargo build --release --locked
# What the program is made of, and nothing else: tests and pages can change without a new build.
COPY migrations migrations
COPY src src
# Newer than the stand-ins, whatever the times of the files in the checkout are.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked \
    && strip --strip-debug -o /respgres target/release/respgres

FROM debian:12.11-slim
RUN useradd --system --no-create-home --uid 10001 respgres
COPY --from=build /respgres /usr/local/bin/respgres
COPY config/relay.toml /etc/respgres/respgres.toml
USER 10001
# Clients, and the admin port.
EXPOSE 6380 6381
# Whether the admin port says that respgres is ready. There is no program for HTTP in the image; bash
# will do. A port in the file instead of the environment needs a --health-cmd of its own.
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s --retries=3 CMD ["bash", "-c", \
    "listen=${RESPGRES__ADMIN__LISTEN:-127.0.0.1:6381}; exec 3<>/dev/tcp/127.0.0.1/${listen##*:} && printf 'GET /ready HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 2 _ status _ <&3 && [[ $status == 200 ]]"]
# Its workers get 10 s to end what is under way: let it have more than that before it is killed.
STOPSIGNAL SIGTERM
ENTRYPOINT ["respgres"]
CMD ["run", "--config", "/etc/respgres/respgres.toml"]
