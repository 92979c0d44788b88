# cancel-worker as an image: no compiler, no package installer in its environment, no root.
# The base images are named by tag, because their digests could not be looked up where this was
# written. Pin them where you build: FROM python:3.13-slim@sha256:…

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.txt requirements-build.txt ./
RUN python -m venv --without-pip /opt/cancel-worker \
 && pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.txt \
 && pip --python /opt/cancel-worker install --no-cache-dir --require-hashes --only-binary :all: \
      -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY worker ./worker
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/cancel-worker install --no-cache-dir --no-deps dist/*.whl

FROM python:3.13-slim
ARG VERSION=unknown
LABEL org.opencontainers.image.title="cancel-worker" \
      org.opencontainers.image.description="Withdraw the commands cached for offline devices on EnOS" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN groupadd --gid 10001 cancel-worker \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/cancel-worker \
      --shell /usr/sbin/nologin cancel-worker \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/cancel-worker
COPY --from=build /opt/cancel-worker /opt/cancel-worker
# One folder is written to, whatever else is read-only: the ledger and every temporary file.
ENV PATH=/opt/cancel-worker/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    STATE_DIRECTORY=/var/lib/cancel-worker \
    SQLITE_TMPDIR=/var/lib/cancel-worker \
    TMPDIR=/var/lib/cancel-worker
VOLUME ["/var/lib/cancel-worker"]
# Mount the folder with the job files here, read-only.
WORKDIR /jobs
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["cancel-worker"]
CMD ["--help"]
