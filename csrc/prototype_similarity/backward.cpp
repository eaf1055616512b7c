// The gradient of prototype_similarity on CPU, through the winning cells alone and without gathering them: everything
// is read where it lies, in slabs of the feature dimension that stay in the first-level cache whatever the strides.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "common/tensor.h"
#include "prototype_similarity/check.h"

namespace zoo::prototype_similarity {
namespace {

constexpr int64_t kSlab = 64;

// With a = |x|, c = |p|: d cos = (p / (a c) - cos x / a^2) dx + (x / (a c) - cos p / c^2) dp, and
// d |x - p|^2 = 2 (x - p) dx + 2 (p - x) dp. So each of a pair's gradients is `cross` times the other vector minus
// `own` times itself; every pair (batch row, prototype) has these three numbers.
template <typename A>
struct Pair {
  A cross = 0, own_cell = 0, own_prototype = 0;
};

template <typename A>
Pair<A> pair_of(A grad, Metric metric, A xx, A pp, A xp, A distance) {
  if (metric == Metric::cosine) {
    const A x_scale = std::sqrt(xx) > static_cast<A>(kZeroLength) ? A(1) / std::sqrt(xx) : A(0);
    const A p_scale = std::sqrt(pp) > static_cast<A>(kZeroLength) ? A(1) / std::sqrt(pp) : A(0);
    const A cosine = xp * x_scale * p_scale;
    return {grad * x_scale * p_scale, grad * cosine * x_scale * x_scale, grad * cosine * p_scale * p_scale};
  }
  if (metric == Metric::log) grad *= A(1) / (distance + A(1e-4)) - A(1) / (distance + A(1));
  return {2 * grad, 2 * grad, 2 * grad};
}

template <typename T>
void backward(const Tensor& grad, const Tensor& features, const Tensor& prototypes, const Tensor& argmax, Metric metric,
              Tensor& grad_features, Tensor& grad_prototypes) {
  using A = accumulate_t<T>;
  const int64_t b = features.size(0), n = features.size(1), d = features.size(2), p = prototypes.size(0);
  const int64_t stride_n = features.stride(1), stride_d = features.stride(2);
  const int64_t out_stride_n = grad_features.stride(1), out_stride_d = grad_features.stride(2);
  const T* features_data = features.const_data_ptr<T>();
  const T* prototype_data = prototypes.const_data_ptr<T>();
  const T* grad_data = grad.const_data_ptr<T>();
  const int64_t* cells = argmax.const_data_ptr<int64_t>();
  A* grad_features_data = grad_features.mutable_data_ptr<A>();
  A* grad_prototypes_data = grad_prototypes.mutable_data_ptr<A>();
  for (int64_t i = 0; i < b * p; ++i) {
    require(cells[i] >= 0 && cells[i] < n, "argmax must name cells of features, 0 to ", n - 1, ", got ", cells[i]);
  }

  std::vector<Pair<A>> pairs(b * p);
  torch::stable::parallel_for(0, b, 1, [&](int64_t first, int64_t last) {
    std::vector<A> sums(4 * p);
    for (int64_t row = first; row < last; ++row) {
      const T* x_row = features_data + row * features.stride(0);
      A* out_row = grad_features_data + row * n * d;
      std::fill(sums.begin(), sums.end(), A(0));
      for (int64_t d0 = 0; d0 < d; d0 += kSlab) {
        const int64_t d1 = std::min(d, d0 + kSlab);
        for (int64_t i = 0; i < p; ++i) {
          const T* x = x_row + cells[row * p + i] * stride_n;
          const T* y = prototype_data + i * d;
          A xx = 0, pp = 0, xp = 0, distance = 0;
          for (int64_t k = d0; k < d1; ++k) {
            const A u = static_cast<A>(x[k * stride_d]), v = static_cast<A>(y[k]);
            xx += u * u;
            pp += v * v;
            xp += u * v;
            distance += (u - v) * (u - v);
          }
          sums[4 * i] += xx;
          sums[4 * i + 1] += pp;
          sums[4 * i + 2] += xp;
          sums[4 * i + 3] += distance;
        }
      }
      for (int64_t i = 0; i < p; ++i) {
        const A* s = &sums[4 * i];
        pairs[row * p + i] = pair_of(static_cast<A>(grad_data[row * p + i]), metric, s[0], s[1], s[2], s[3]);
      }
      std::fill(out_row, out_row + n * d, A(0));
      for (int64_t d0 = 0; d0 < d; d0 += kSlab) {
        const int64_t d1 = std::min(d, d0 + kSlab);
        for (int64_t i = 0; i < p; ++i) {
          const Pair<A> pair = pairs[row * p + i];
          const T* x = x_row + cells[row * p + i] * stride_n;
          const T* y = prototype_data + i * d;
          A* out = out_row + cells[row * p + i] * out_stride_n;
          for (int64_t k = d0; k < d1; ++k) {
            out[k * out_stride_d] +=
                pair.cross * static_cast<A>(y[k]) - pair.own_cell * static_cast<A>(x[k * stride_d]);
          }
        }
      }
    }
  });

  // Threads own slabs here, so that every sum over the batch runs in the same order.
  torch::stable::parallel_for(0, (d + kSlab - 1) / kSlab, 1, [&](int64_t first, int64_t last) {
    const int64_t d0 = first * kSlab, d_last = std::min(d, last * kSlab);
    for (int64_t i = 0; i < p; ++i) {
      std::fill(grad_prototypes_data + i * d + d0, grad_prototypes_data + i * d + d_last, A(0));
    }
    for (int64_t slab = first; slab < last; ++slab) {
      const int64_t begin = slab * kSlab, end = std::min(d, begin + kSlab);
      for (int64_t row = 0; row < b; ++row) {
        const T* x_row = features_data + row * features.stride(0);
        for (int64_t i = 0; i < p; ++i) {
          const Pair<A> pair = pairs[row * p + i];
          const T* x = x_row + cells[row * p + i] * stride_n;
          const T* y = prototype_data + i * d;
          A* out = grad_prototypes_data + i * d;
          for (int64_t k = begin; k < end; ++k) {
            out[k] += pair.cross * static_cast<A>(x[k * stride_d]) - pair.own_prototype * static_cast<A>(y[k]);
          }
        }
      }
    }
  });
}

// Gradients in the type of accumulation, float64 or float32. That of features is laid out [b d n] when its cells are
// neighbours in memory, as those of a feature map are, and [b n d] otherwise.
std::tuple<Tensor, Tensor> prototype_similarity_backward_cpu(Tensor grad, Tensor features, Tensor prototypes,
                                                             Tensor argmax, std::string metric_name) {
  const Metric metric = check(features, prototypes, metric_name);
  const int64_t b = features.size(0), n = features.size(1), d = features.size(2), p = prototypes.size(0);
  require(grad.dim() == 2 && grad.size(0) == b && grad.size(1) == p, "grad must be [b p]");
  require(grad.scalar_type() == features.scalar_type(), "grad and features must have the same dtype");
  require(argmax.dim() == 2 && argmax.size(0) == b && argmax.size(1) == p, "argmax must be [b p]");
  require(argmax.scalar_type() == ScalarType::Long, "argmax must be int64");
  grad = torch::stable::contiguous(grad);
  prototypes = torch::stable::contiguous(prototypes);
  argmax = torch::stable::contiguous(argmax);
  const ScalarType wide = features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const bool neighbours = features.stride(1) == 1 && features.stride(2) != 1;
  const int64_t shape[] = {b, neighbours ? d : n, neighbours ? n : d};
  Tensor grad_features = torch::stable::new_empty(features, {shape, 3}, wide);
  if (neighbours) grad_features = torch::stable::transpose(grad_features, 1, 2);
  const int64_t prototype_shape[] = {p, d};
  Tensor grad_prototypes = torch::stable::new_empty(features, {prototype_shape, 2}, wide);
  dispatch_floating(features.scalar_type(), "features", [&](auto type) {
    backward<typename decltype(type)::type>(grad, features, prototypes, argmax, metric, grad_features, grad_prototypes);
  });
  return {grad_features, grad_prototypes};
}

}  // namespace
}  // namespace zoo::prototype_similarity

STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m) {
  m.impl("prototype_similarity_backward", TORCH_BOX(&zoo::prototype_similarity::prototype_similarity_backward_cpu));
}
