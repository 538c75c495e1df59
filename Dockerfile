# respgres as an image: built with Rust, run on a slim Debian by a user without rights.

FROM rust:1.95-bookworm AS build
WORKDIR /src
# Dependencies first: they change less often than the sources, and their layer is kept.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/load benches/mapped \
    && echo 'fn main() {}' | tee src/main.rs benches/load/main.rs benches/mapped/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src benches
COPY . .
RUN touch src/main.rs src/lib.rs && cargo build --release --locked

FROM debian:bookworm-slim
RUN useradd --system --no-create-home --uid 10001 respgres
COPY --from=build /src/target/release/respgres /usr/local/bin/respgres
COPY config/relay.toml /etc/respgres/respgres.toml
USER respgres
EXPOSE 6380
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/6380 && printf 'PING\\r\\n' >&3 && read -r -t 2 reply <&3 && [[ $reply =~ PONG|NOAUTH ]]"]
ENTRYPOINT ["respgres"]
CMD ["run", "--config", "/etc/respgres/respgres.toml"]
