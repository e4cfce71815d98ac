# SPDX-License-Identifier: Apache-2.0
# What `rapidsai/base` looks like to our layer, without its gigabytes: Python in /opt/conda, which only the
# group conda may read, user rapids with uid 1001, an entrypoint of its own, and packages that must stay.
# PACKAGES is the cpu image, whose packages stand for those of RAPIDS.
ARG BASE_IMAGE=
ARG PACKAGES=
FROM ${PACKAGES} AS packages

FROM ${BASE_IMAGE} AS conda
RUN python3 -m venv /opt/conda
COPY --from=packages /opt/runner/lib /opt/conda/lib
COPY --from=packages /opt/runner/share /opt/conda/share
# An older click must stay; papermill and tqdm are missing and must come.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    python="/opt/conda/bin/python -m pip --quiet --disable-pip-version-check" \
    && $python uninstall --yes click papermill rapids-notebook-runner tqdm \
    && $python install --no-deps click==8.1.8

FROM ${BASE_IMAGE}
RUN groupadd --gid 1000 conda && useradd --create-home --shell /bin/bash --gid conda --uid 1001 rapids
COPY --from=conda --chown=root:conda --chmod=770 /opt/conda /opt/conda
USER rapids
WORKDIR /home/rapids
ENTRYPOINT ["/home/rapids/entrypoint.sh"]
CMD ["ipython"]
