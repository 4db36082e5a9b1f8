# The server, `sightline serve`. Checked as text only: the project's own checks run without a container engine.
#
#     docker build --tag sightline .                                # for CPUs
#     docker build --tag sightline:cuda --build-arg TORCH_INDEX= .  # for NVIDIA GPUs: torch's wheel of PyPI brings CUDA
#     docker run --publish 127.0.0.1:8080:8000 --volume sightline-models:/models --env SIGHTLINE_API_KEY=... sightline

FROM python:3.12-slim

# With PyTorch's own index the wheel for CPUs is taken, which is a tenth of the size.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# A C compiler: the engine's kernels are compiled once, for the CPU that they run on (Triton needs one for a GPU).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# Not root. Models and compiled kernels lie in a volume that survives the container.
RUN useradd --create-home --uid 10001 sightline && install --directory --owner sightline --group sightline /models
ENV HF_HOME=/models/huggingface XDG_CACHE_HOME=/models/cache PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/sightline
COPY constraints.txt ./
RUN torch="$(grep '^torch==' constraints.txt)" && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --constraint constraints.txt '.[local,server,edge,qdrant,chroma]'

USER sightline
VOLUME /models
EXPOSE 8000

# Slim images have no curl. Ready is more than alive: the model is loaded and was tried.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]

# Without a key (SIGHTLINE_API_KEY) it refuses to listen for other machines, and says so.
ENTRYPOINT ["sightline"]
CMD ["serve", "--host", "0.0.0.0"]
