# coin-ray in a container: CPU by default, CUDA with --build-arg TORCH_BACKEND=cu130.
#
#   docker build -t coin-ray .
#   docker run --rm --shm-size=2g -v "$PWD/results:/results" coin-ray sweep uss_backbones
#   docker run --rm --gpus all --shm-size=8g ... (an image built for CUDA)
#
# This file was written where no container could be built: it has not been built or run yet.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-bookworm

# A C++ compiler for the dense CRF (extra crf), which exists as source only.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ git make \
 && rm -rf /var/lib/apt/lists/*

# Not root, with a home that can be written: Ray keeps its cluster token there, timm and torch caches.
RUN useradd --create-home --uid 1000 coin \
 && install -d -o coin -g coin /results /home/coin/coin-ray
USER coin
WORKDIR /home/coin/coin-ray
ENV HOME=/home/coin \
    PATH=/home/coin/coin-ray/.venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true \
    COIN_RAY_WORKSPACE=/results

# torch first and in a layer of its own: it is most of the image and changes least. uv knows where the
# builds for a backend are; the CUDA builds bring the CUDA libraries along, so no CUDA base is needed.
ARG TORCH_BACKEND=cpu
COPY --chown=coin:coin Makefile pyproject.toml setup.py constraints.txt README.md LICENSE ./
RUN make venv \
 && .venv/bin/pip install uv \
 && .venv/bin/uv pip install --no-cache --python .venv/bin/python --torch-backend=${TORCH_BACKEND} \
      -c constraints.txt torch torchvision

COPY --chown=coin:coin . .
RUN make install

VOLUME /results
ENTRYPOINT ["coin-ray"]
CMD ["--help"]
