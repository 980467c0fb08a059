# The image for everybody with a builder: docker build -t idlewild .
# `make image` makes the one that is tested: the same program and settings, without a daemon, with an
# SBOM and the same digest everywhere.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /idlewild
COPY . .
# The toolchain is the image's own. The program holds its C library, so that it needs no files.
ENV RUSTUP_TOOLCHAIN=1.95.0 RUSTFLAGS="-Ctarget-feature=+crt-static -Clink-arg=-Wl,-z,pack-relative-relocs"
RUN target=$(uname -m)-unknown-linux-gnu \
 && cargo build --locked --release --target "$target" --bin idlewild \
 && install -D -m 0755 "target/$target/release/idlewild" /root-of-image/idlewild \
 && install -m 0644 LICENSE /root-of-image/LICENSE

FROM scratch
COPY --from=build /root-of-image/ /
USER 65532:65532
EXPOSE 8080/tcp
ENTRYPOINT ["/idlewild"]
