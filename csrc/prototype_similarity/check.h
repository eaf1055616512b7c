// The refusals that CPU and CUDA share.
#pragma once

#include <string>

#include "common/tensor.h"

namespace zoo::prototype_similarity {

enum class Metric { cosine, l2, log };

inline Metric check(const Tensor& features, const Tensor& prototypes, const std::string& metric) {
  require(features.dim() == 3, "features must be [b n d], got ", features.dim(), " dimensions");
  require(prototypes.dim() == 2, "prototypes must be [p d], got ", prototypes.dim(), " dimensions");
  require(features.size(2) == prototypes.size(1), "features and prototypes must have the same d, got ",
          features.size(2), " and ", prototypes.size(1));
  require(features.size(1) > 0, "features must have at least one cell (n >= 1)");
  require(features.scalar_type() == prototypes.scalar_type(), "features and prototypes must have the same dtype");
  require(features.device() == prototypes.device(), "features and prototypes must be on the same device");
  if (metric == "cosine") return Metric::cosine;
  if (metric == "l2") return Metric::l2;
  require(metric == "log", "metric must be 'cosine', 'l2' or 'log', got '", metric, "'");
  return Metric::log;
}

}  // namespace zoo::prototype_similarity
