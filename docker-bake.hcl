# SPDX-License-Identifier: Apache-2.0
# All images at once: `docker buildx bake`, with the versions of images/versions.env in the environment
# (`set -a; . images/versions.env; docker buildx bake`), as the workflow does. `make image` needs no buildx.

variable "REGISTRY" { default = "localhost" }
variable "VERSION" { default = "dev" }
variable "REVISION" { default = "" }
variable "SOURCE" { default = "" }
variable "SOURCE_DATE_EPOCH" { default = "0" }
variable "G1_BASE" {}
variable "G1_BASE_DIGEST" { default = "" }
variable "G2_BASE" {}
variable "G2_BASE_DIGEST" { default = "" }
variable "G3_BASE" {}
variable "G3_BASE_DIGEST" { default = "" }
variable "CPU_BASE" {}
variable "CPU_BASE_DIGEST" { default = "" }

# A digest pins the tag; without one the tag alone counts.
function "pinned" {
  params = [base, digest]
  result = digest == "" ? base : "${base}@${digest}"
}

function "tag" {
  params = [kind]
  result = "${REGISTRY}/rapids-notebook-runner:${VERSION}-${kind}"
}

group "default" { targets = ["g1", "g2", "g3", "cpu"] }

target "common" {
  dockerfile = "images/Dockerfile"
  context    = "."
  platforms  = ["linux/amd64"]
  args = {
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH
    VERSION           = VERSION
    REVISION          = REVISION
    SOURCE            = SOURCE
  }
  attest = ["type=provenance,mode=max", "type=sbom"]
}

target "g1" {
  inherits = ["common"]
  target   = "gpu"
  tags     = [tag("g1")]
  args = {
    BASE_IMAGE  = pinned(G1_BASE, G1_BASE_DIGEST)
    BASE_NAME   = G1_BASE
    BASE_DIGEST = G1_BASE_DIGEST
    GENERATION  = "g1"
    IMAGE       = tag("g1")
  }
}

target "g2" {
  inherits = ["common"]
  target   = "gpu"
  tags     = [tag("g2")]
  args = {
    BASE_IMAGE  = pinned(G2_BASE, G2_BASE_DIGEST)
    BASE_NAME   = G2_BASE
    BASE_DIGEST = G2_BASE_DIGEST
    GENERATION  = "g2"
    IMAGE       = tag("g2")
  }
}

target "g3" {
  inherits = ["common"]
  target   = "gpu"
  tags     = [tag("g3")]
  args = {
    BASE_IMAGE  = pinned(G3_BASE, G3_BASE_DIGEST)
    BASE_NAME   = G3_BASE
    BASE_DIGEST = G3_BASE_DIGEST
    GENERATION  = "g3"
    IMAGE       = tag("g3")
  }
}

target "cpu" {
  inherits = ["common"]
  target   = "cpu"
  tags     = [tag("cpu")]
  args = {
    BASE_IMAGE  = pinned(CPU_BASE, CPU_BASE_DIGEST)
    BASE_NAME   = CPU_BASE
    BASE_DIGEST = CPU_BASE_DIGEST
    IMAGE       = tag("cpu")
  }
}
