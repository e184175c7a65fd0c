# The simulated engine as an image, for tests only: the queue service's, with the worker's sources.
ARG BASE=lengthwise/queue:0.1.0
FROM ${BASE}
COPY contract /src/contract
COPY queue_service /src/queue_service
ENV PYTHONPATH=/src/contract:/src/queue_service
ENTRYPOINT ["python", "-m", "lengthwise_worker.engines.simulated"]
