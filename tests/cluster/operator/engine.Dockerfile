# The simulated engine, for tests only. The queue service's image has its dependencies.
ARG BASE=lengthwise/queue:0.1.0
FROM ${BASE}
COPY queue_service/lengthwise_worker /src/lengthwise_worker
ENV PYTHONPATH=/src
ENTRYPOINT ["python", "-m", "lengthwise_worker.engines.simulated"]
