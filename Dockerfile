# The course in a container; docs/hosted.md says how it is started.
#   docker build -t cxr .                           for the CPU
#   docker build -t cxr --build-arg DEVICE=gpu .    with CUDA; started with --gpus all
FROM python:3.12-slim
ARG DEVICE=cpu
# chromium prints the report as PDF
RUN apt-get update && apt-get install -y --no-install-recommends chromium make && rm -rf /var/lib/apt/lists/*
WORKDIR /course
# PyTorch first, the largest part: it stays when only the course changes
RUN python -m venv .venv && if [ "$DEVICE" = cpu ]; then \
        .venv/bin/pip install -q --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu; \
    else .venv/bin/pip install -q --no-cache-dir torch torchvision; fi
COPY . .
# what `make setup` installs, without the tools of the tests
RUN .venv/bin/pip install -q --no-cache-dir -e '.[dicom,onnx]' && touch .venv/installed
CMD ["make", "run"]
