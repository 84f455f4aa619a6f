# The service and the reading room on a CPU: no torch, no root. The last stage, `service`, is what a plain build makes.
FROM python:3.11-slim AS base

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /build
COPY constraints.txt .
# The package requires torch, for training. A prediction of an exported model does not load it: what it does load is listed
# here, and the package itself is installed without its requirements. Without torch, `explain` and `uncertainty` answer 501.
RUN pip install --constraint constraints.txt \
    openvino numpy scipy pillow nibabel pydicom pylibjpeg pylibjpeg-openjpeg highdicom pydantic pyyaml typer rich \
    fastapi fastapi-offline uvicorn httptools uvloop python-multipart prometheus-client
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps .

# By its number: Kubernetes' runAsNonRoot does not look names up.
RUN useradd --create-home --uid 10001 slicewise && install -d -o slicewise -m 700 /state
USER 10001
WORKDIR /home/slicewise
# SIGTERM drains.
STOPSIGNAL SIGTERM
ENTRYPOINT ["slicewise"]

FROM base AS ui
USER root
RUN pip install --constraint /build/constraints.txt streamlit altair pandas scikit-learn httpx
USER 10001
EXPOSE 8501
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=2)"]
# The pages ask for no password, and answer under this name alone: publish them on the loopback address of the host, or give
# the name of a proxy that asks for one.
CMD ["ui", "--host", "0.0.0.0", "--public-name", "localhost", "--service", "http://service:8000"]

FROM base AS service
VOLUME /state
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# Keys come from SLICEWISE_API_KEYS: without any, it refuses to listen to a network.
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--state", "/state"]
