# MLflow's server with the driver of Postgres, of the version that coin-ray is tested with.
#
#   docker build -t coin-ray-mlflow -f deploy/mlflow.Dockerfile .
FROM python:3.11-slim-bookworm
RUN pip install --no-cache-dir mlflow==3.17.2 "psycopg2-binary>=2.9,<3"
RUN useradd --create-home --uid 1000 mlflow \
 && install -d -o mlflow -g mlflow /artifacts
USER mlflow
WORKDIR /home/mlflow
# Its jobs are for evaluations by language models: thirteen processes that nobody here needs.
ENV MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
EXPOSE 5000
ENTRYPOINT ["mlflow", "server"]
