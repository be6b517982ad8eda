# mimicit in a container. It takes the base image and the package index, and nothing else:
#
#   docker build -t mimicit .                                        builds, inspects, loads, views
#   docker build -t mimicit-train --build-arg EXTRAS=train,video .   also trains (several GB: torch)
#   docker run --rm -v "$PWD:/data" mimicit build --src raw/ --out shards/
#   docker run --rm -v "$PWD:/data" --entrypoint python mimicit-train -m otter_train --shards shards/

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG EXTRAS=video,view
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt "$(echo /wheels/*.whl)[${EXTRAS}]"
RUN useradd --create-home --uid 1000 mimicit
USER mimicit
WORKDIR /data
EXPOSE 8765
ENTRYPOINT ["mimicit"]
CMD ["--help"]
