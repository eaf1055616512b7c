// The refusals that CPU and CUDA share.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>

#include "common/tensor.h"

namespace zoo::masked_attention {

// Everything but q, k and v.
struct Options {
  std::optional<Tensor> key_padding_mask;    // [b nk] bool, true where padded
  std::optional<Tensor> query_padding_mask;  // [b nq] bool
  std::optional<Tensor> lengths;             // [b] int64
  std::optional<Tensor> bias;                // [b|1 h|1 nq|1 nk|1]
  std::optional<Tensor> rel_h, rel_w;        // [b h nq height], [b h nq width]
  bool causal;
  double scale;
};

inline void check_mask(const std::optional<Tensor>& mask, const char* name, int64_t b, int64_t n, const Tensor& q) {
  if (!mask) return;
  require(mask->scalar_type() == ScalarType::Bool, name, " must be bool");
  require(mask->dim() == 2 && mask->size(0) == b && mask->size(1) == n, name, " must be [b n] = [", b, " ", n, "]");
  require(mask->device() == q.device(), name, " must be on the same device as q");
}

inline void check_like(const Tensor& tensor, const char* name, const Tensor& q) {
  require(tensor.dim() == 4, name, " must have 4 dimensions, got ", tensor.dim());
  require(tensor.scalar_type() == q.scalar_type(), name, " must have the dtype of q");
  require(tensor.device() == q.device(), name, " must be on the same device as q");
}

inline void check(const Tensor& q, const Tensor& k, const Tensor& v, const Options& options) {
  require(q.dim() == 4, "q must be [b h n d], got ", q.dim(), " dimensions");
  check_like(k, "k", q);
  check_like(v, "v", q);
  const int64_t b = q.size(0), h = q.size(1), nq = q.size(2), nk = k.size(2);
  require(k.size(0) == b && k.size(1) == h, "k must have the batch and heads of q");
  require(k.size(3) == q.size(3), "k must have the d of q, got ", k.size(3), " and ", q.size(3));
  require(v.size(0) == b && v.size(1) == h && v.size(2) == nk, "v must have the batch, heads and rows of k");
  require(nq < 2147483647 && nk < 2147483647, "q and k must have fewer than 2^31 rows");
  check_mask(options.key_padding_mask, "key_padding_mask", b, nk, q);
  check_mask(options.query_padding_mask, "query_padding_mask", b, nq, q);
  if (options.lengths) {
    require(options.lengths->scalar_type() == ScalarType::Long, "lengths must be int64");
    require(options.lengths->dim() == 1 && options.lengths->size(0) == b, "lengths must be [b] = [", b, "]");
    require(options.lengths->device() == q.device(), "lengths must be on the same device as q");
    require(nq == nk, "lengths need q and k with the same number of rows, got ", nq, " and ", nk);
  }
  if (options.bias) {
    const Tensor& bias = *options.bias;
    check_like(bias, "bias", q);
    const int64_t full[] = {b, h, nq, nk};
    for (int64_t i = 0; i < 4; ++i) {
      require(bias.size(i) == full[i] || bias.size(i) == 1, "bias must broadcast to [", b, " ", h, " ", nq, " ", nk,
              "], but its dimension ", i, " is ", bias.size(i));
    }
  }
  require(options.rel_h.has_value() == options.rel_w.has_value(), "rel_h and rel_w must come together");
  if (options.rel_h) {
    const Tensor &rel_h = *options.rel_h, &rel_w = *options.rel_w;
    check_like(rel_h, "rel_h", q);
    check_like(rel_w, "rel_w", q);
    for (int64_t i = 0; i < 3; ++i) {
      require(rel_h.size(i) == q.size(i), "rel_h must have the batch, heads and rows of q");
      require(rel_w.size(i) == q.size(i), "rel_w must have the batch, heads and rows of q");
    }
    require(rel_h.size(3) * rel_w.size(3) == nk, "rel_h and rel_w must cover the keys: ", rel_h.size(3), " x ",
            rel_w.size(3), " is not ", nk);
  }
  require(std::isfinite(options.scale), "scale must be finite");
}

inline void check_backward(const Tensor& grad, const Tensor& q, const Tensor& v, const Tensor& out, const Tensor& lse) {
  check_like(grad, "grad", q);
  check_like(out, "out", q);
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t size = i == 3 ? v.size(3) : q.size(i);
    require(grad.size(i) == size && out.size(i) == size, "grad and out must be [b h nq dv]");
  }
  require(lse.dim() == 3 && lse.size(0) == q.size(0) && lse.size(1) == q.size(1) && lse.size(2) == q.size(2),
          "lse must be [b h nq]");
  require(lse.scalar_type() == (q.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float),
          "lse must be float64 for float64 and float32 otherwise");
  require(lse.device() == q.device(), "lse must be on the same device as q");
}

}  // namespace zoo::masked_attention
