# tsslbp on CPUs. The image takes the wheel that `make package` has built:
#   make package && docker build --tag tsslbp . && mkdir -p runs
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/tsslbp/runs" tsslbp train digits
# The folder runs must exist and belong to the user of the container, who writes the runs into it.
# `--build-arg INDEX=URL`, with the index of PyTorch's builds without CUDA, makes it much smaller.
FROM python:3.11-slim
ARG INDEX=""
RUN pip install --no-cache-dir ${INDEX:+--index-url "$INDEX"} torch
COPY dist/*.whl /tmp/
RUN pip install --no-cache-dir "$(ls /tmp/*.whl)[exchange,figures,images,interactive,study]" \
    && rm /tmp/*.whl \
    && useradd tsslbp && mkdir -p /tsslbp/runs && chown -R tsslbp /tsslbp
# Caches go below HOME, in which also a user without an account can write.
ENV HOME=/tmp USER=tsslbp
USER tsslbp
WORKDIR /tsslbp
ENTRYPOINT ["tsslbp"]
CMD ["--help"]
