// prototype_similarity on CUDA: a block meets a tile of prototypes with a chunk of cells, keeping only the best cell of
// each prototype; a second kernel merges the chunks and computes the winners' similarities.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>

#include "common/cuda.h"
#include "common/tensor.h"
#include "prototype_similarity/check.h"

namespace zoo::prototype_similarity {
namespace {

constexpr int kSide = 16;           // threads along each side of a block
constexpr int kPer = 4;             // cells and prototypes per thread, each
constexpr int kTile = kSide * kPer; // cells and prototypes per tile
constexpr int kDepth = 16;          // features per slab of shared memory
constexpr int kChunk = 512;         // cells per block

template <typename T>
struct Problem {
  const T* features;  // [b n d], any strides
  const T* prototypes;  // [p d], contiguous
  int64_t b, n, d, p;
  int64_t stride_b, stride_n, stride_d;
  int64_t chunks;
};

// As in torch.max: a NaN beats every number, and of equals the lowest index wins.
template <typename A>
__device__ bool better(A score, int64_t cell, A best, int64_t best_cell) {
  if (isnan(score) || isnan(best)) return isnan(score) && (!isnan(best) || cell < best_cell);
  return score > best || (score == best && cell < best_cell);
}

template <typename A>
__device__ A inverse_norm(A square) {
  const A norm = sqrt(square);
  return norm <= A(kZeroLength) ? A(0) : A(1) / norm;  // NaN stays NaN
}

template <typename T, typename A>
__global__ void __launch_bounds__(kSide * kSide)
    scan(Problem<T> q, bool cosine, A* __restrict__ best, int64_t* __restrict__ best_cell) {
  __shared__ A cells[kDepth][kTile + 1];
  __shared__ A prototypes[kDepth][kTile + 1];
  __shared__ A cell_square[kTile];
  __shared__ A prototype_square[kTile];
  __shared__ A found[kSide][kTile];
  __shared__ int64_t found_cell[kSide][kTile];

  const int64_t tiles = (q.p + kTile - 1) / kTile;
  const int64_t p0 = blockIdx.x % tiles * kTile;
  const int64_t task = blockIdx.x / tiles;  // batch row and chunk
  const int64_t row = task / q.chunks;
  const int64_t first = task % q.chunks * kChunk;
  const int64_t last = min(q.n, first + kChunk);
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const T* features = q.features + row * q.stride_b;

  A top[kPer];
  int64_t top_cell[kPer];
  for (int i = 0; i < kPer; ++i) {
    top[i] = -INFINITY;
    top_cell[i] = first;
  }

  for (int64_t n0 = first; n0 < last; n0 += kTile) {
    A dot[kPer][kPer] = {};  // [prototype][cell]
    A square = 0;            // of one cell or one prototype: the first 2 * kTile threads own one each
    for (int64_t d0 = 0; d0 < q.d; d0 += kDepth) {
      __syncthreads();
      for (int i = threadIdx.x; i < kTile * kDepth; i += kSide * kSide) {
        // Neighbouring threads read neighbouring addresses in either layout.
        const bool cells_inner = q.stride_n == 1;
        const int j = cells_inner ? i % kTile : i / kDepth;
        const int k = cells_inner ? i / kTile : i % kDepth;
        const int64_t n = n0 + j, d = d0 + k;
        cells[k][j] = n < last && d < q.d ? static_cast<A>(features[n * q.stride_n + d * q.stride_d]) : A(0);
      }
      for (int i = threadIdx.x; i < kTile * kDepth; i += kSide * kSide) {
        const int j = i / kDepth, k = i % kDepth;
        const int64_t p = p0 + j, d = d0 + k;
        prototypes[k][j] = p < q.p && d < q.d ? static_cast<A>(q.prototypes[p * q.d + d]) : A(0);
      }
      __syncthreads();
      if (threadIdx.x < 2 * kTile) {
        const int j = threadIdx.x % kTile;
        for (int k = 0; k < kDepth; ++k) {
          const A x = threadIdx.x < kTile ? cells[k][j] : prototypes[k][j];
          square += x * x;
        }
      }
      for (int k = 0; k < kDepth; ++k) {
        A x[kPer], y[kPer];
        for (int i = 0; i < kPer; ++i) {
          x[i] = cells[k][tx + i * kSide];
          y[i] = prototypes[k][ty + i * kSide];
        }
        for (int i = 0; i < kPer; ++i) {
          for (int j = 0; j < kPer; ++j) dot[i][j] += y[i] * x[j];
        }
      }
    }
    if (threadIdx.x < kTile) {
      cell_square[threadIdx.x] = square;
    } else if (threadIdx.x < 2 * kTile) {
      prototype_square[threadIdx.x - kTile] = square;
    }
    __syncthreads();
    for (int i = 0; i < kPer; ++i) {
      const A y2 = prototype_square[ty + i * kSide];
      const A y_scale = inverse_norm(y2);
      for (int j = 0; j < kPer; ++j) {
        const int64_t n = n0 + tx + j * kSide;
        if (n >= last) continue;
        const A x2 = cell_square[tx + j * kSide];
        const A score = cosine ? dot[i][j] * inverse_norm(x2) * y_scale : 2 * dot[i][j] - x2 - y2;
        if (better(score, n, top[i], top_cell[i])) {
          top[i] = score;
          top_cell[i] = n;
        }
      }
    }
  }

  for (int i = 0; i < kPer; ++i) {
    found[tx][ty + i * kSide] = top[i];
    found_cell[tx][ty + i * kSide] = top_cell[i];
  }
  __syncthreads();
  if (threadIdx.x < kTile && p0 + threadIdx.x < q.p) {
    const int j = threadIdx.x;
    A value = found[0][j];
    int64_t cell = found_cell[0][j];
    for (int i = 1; i < kSide; ++i) {
      if (better(found[i][j], found_cell[i][j], value, cell)) {
        value = found[i][j];
        cell = found_cell[i][j];
      }
    }
    best[task * q.p + p0 + j] = value;
    best_cell[task * q.p + p0 + j] = cell;
  }
}

template <typename A>
__device__ A warp_sum(A value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

// One warp per (batch row, prototype): the best of the chunks, then its similarity from the inputs themselves (summed
// from differences for the distances, because the expanded form cancels near zero).
template <typename T, typename A>
__global__ void finish(Problem<T> q, Metric metric, const A* __restrict__ best, const int64_t* __restrict__ best_cell,
                       T* __restrict__ similarity, int64_t* __restrict__ argmax) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (i >= q.b * q.p) return;
  const int64_t row = i / q.p, column = i % q.p;
  int64_t slot = row * q.chunks * q.p + column;
  for (int64_t c = 1; c < q.chunks; ++c) {
    const int64_t other = (row * q.chunks + c) * q.p + column;
    if (better(best[other], best_cell[other], best[slot], best_cell[slot])) slot = other;
  }
  const T* x = q.features + row * q.stride_b + best_cell[slot] * q.stride_n;
  const T* y = q.prototypes + column * q.d;
  A distance = 0;
  if (metric != Metric::cosine) {
    for (int64_t k = lane; k < q.d; k += 32) {
      const A difference = static_cast<A>(x[k * q.stride_d]) - static_cast<A>(y[k]);
      distance += difference * difference;
    }
    distance = warp_sum(distance);
  }
  if (lane == 0) {
    const A value = metric == Metric::cosine ? best[slot]
                    : metric == Metric::l2   ? -distance
                                             : static_cast<A>(log((distance + A(1)) / (distance + A(1e-4))));
    similarity[i] = static_cast<T>(value);
    argmax[i] = best_cell[slot];
  }
}

template <typename T>
void forward(const Tensor& features, const Tensor& prototypes, Metric metric, Tensor& similarity, Tensor& argmax) {
  using A = accumulate_t<T>;
  const int64_t b = features.size(0), n = features.size(1), p = prototypes.size(0);
  if (b == 0 || p == 0) return;
  const int64_t chunks = cuda::ceil_div(n, kChunk);
  const Problem<T> q{features.const_data_ptr<T>(), prototypes.const_data_ptr<T>(), b, n, features.size(2), p,
                     features.stride(0), features.stride(1), features.stride(2), chunks};
  const int64_t shape[] = {b * chunks, p};
  Tensor best = torch::stable::new_empty(
      features, {shape, 2}, std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float);
  Tensor best_cell = torch::stable::new_empty(features, {shape, 2}, ScalarType::Long);

  const cudaStream_t stream = cuda::stream(features);
  scan<T, A><<<cuda::grid(b * chunks * cuda::ceil_div(p, kTile), "features"), kSide * kSide, 0, stream>>>(
      q, metric == Metric::cosine, best.mutable_data_ptr<A>(), best_cell.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  finish<T, A><<<cuda::grid(cuda::ceil_div(b * p * 32, 256), "features"), 256, 0, stream>>>(
      q, metric, best.const_data_ptr<A>(), best_cell.const_data_ptr<int64_t>(), similarity.mutable_data_ptr<T>(),
      argmax.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> prototype_similarity_cuda(Tensor features, Tensor prototypes, std::string metric_name) {
  const Metric metric = check(features, prototypes, metric_name);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  prototypes = torch::stable::contiguous(prototypes);
  const int64_t shape[] = {features.size(0), prototypes.size(0)};
  Tensor similarity = torch::stable::new_empty(features, {shape, 2});
  Tensor argmax = torch::stable::new_empty(features, {shape, 2}, ScalarType::Long);
  dispatch_floating(features.scalar_type(), "features", [&](auto type) {
    forward<typename decltype(type)::type>(features, prototypes, metric, similarity, argmax);
  });
  return {similarity, argmax};
}

}  // namespace
}  // namespace zoo::prototype_similarity

STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m) {
  m.impl("prototype_similarity", TORCH_BOX(&zoo::prototype_similarity::prototype_similarity_cuda));
}
