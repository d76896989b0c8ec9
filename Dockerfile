# tsslbp on CPUs. The image takes the wheel that `make package` has built:
#   make package && docker build --tag tsslbp . && docker run --rm -v "$PWD/runs:/tsslbp/runs" tsslbp train digits
# `--build-arg INDEX=URL`, with the index of PyTorch's builds without CUDA, makes it much smaller.
FROM python:3.11-slim
ARG INDEX=""
RUN pip install --no-cache-dir ${INDEX:+--index-url "$INDEX"} torch
COPY dist/*.whl /tmp/
RUN pip install --no-cache-dir "$(ls /tmp/*.whl)[exchange,figures,images,interactive,study]" \
    && rm /tmp/*.whl \
    && useradd --create-home tsslbp && mkdir -p /tsslbp/runs && chown -R tsslbp /tsslbp
USER tsslbp
WORKDIR /tsslbp
ENTRYPOINT ["tsslbp"]
CMD ["--help"]
