// The refusals that CPU and CUDA share.
#pragma once

#include <cmath>
#include <optional>

#include "common/tensor.h"

namespace zoo::cosine_topk {

inline void check(const Tensor& queries, const Tensor& bank, int64_t k, const std::optional<double>& threshold) {
  require(queries.dim() == 2, "queries must be [q d], got ", queries.dim(), " dimensions");
  require(bank.dim() == 2, "bank must be [m d], got ", bank.dim(), " dimensions");
  require(queries.size(1) == bank.size(1), "queries and bank must have the same d, got ", queries.size(1), " and ",
          bank.size(1));
  const ScalarType of_bank = bank.scalar_type();
  const bool narrower = of_bank == ScalarType::Half || of_bank == ScalarType::BFloat16 || of_bank == ScalarType::Char;
  const bool same = queries.scalar_type() == of_bank && of_bank != ScalarType::Char;
  require(same || (queries.scalar_type() == ScalarType::Float && narrower),
          "queries and bank must have the same dtype, or float32 and a narrower one");
  require(queries.device() == bank.device(), "queries and bank must be on the same device");
  require(k >= 1 && k <= bank.size(0), "k must be between 1 and the ", bank.size(0), " entries of bank, got ", k);
  require(!threshold || !std::isnan(*threshold), "threshold must not be NaN");
}

}  // namespace zoo::cosine_topk
