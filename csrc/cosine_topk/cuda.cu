// cosine_topk on CUDA: a block meets a tile of queries with a part of the bank and keeps a sorted list of the best per
// query; a second kernel merges the parts' lists.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>

#include "common/cuda.h"
#include "common/tensor.h"
#include "cosine_topk/check.h"

namespace zoo::cosine_topk {
namespace {

constexpr int kSide = 16;            // threads along each side of a block
constexpr int kPer = 4;              // queries and entries per thread, each
constexpr int kTile = kSide * kPer;  // queries and entries per tile
constexpr int kDepth = 16;           // features per slab of shared memory
constexpr int kWarps = kSide * kSide / 32;
static_assert(2 * kSide == 32, "half a tile of entries is one warp's width");
constexpr unsigned int kAll = 0xffffffffu;
constexpr int64_t kMostParts = 256;

template <typename T>
struct Problem {
  const T* queries;  // [q d], contiguous
  const T* bank;     // [m d], any strides
  int64_t q, m, d;
  int64_t stride_row, stride_k;
  int64_t k, parts;
  double threshold;  // at most 2 in size; -2 keeps all
};

// The order of results: higher similarity first, then lower index. Empty places are -inf with index -1 and come last.
template <typename A>
__device__ bool before(A a, int64_t index_a, A b, int64_t index_b) {
  return a > b || (a == b && index_a < index_b);
}

template <typename A>
__device__ A inverse_norm(A square) {
  const A norm = sqrt(square);
  return norm <= A(kZeroLength) ? A(0) : A(1) / norm;  // NaN stays NaN, and such a similarity is never kept
}

// One warp inserts into a sorted list of k, whose last entry drops out. Entries arrive in ascending order of index, so
// that a new one goes behind its equals.
template <typename A>
__device__ void insert(A* similarity, int64_t* index, int64_t k, A value, int64_t value_index) {
  const int lane = threadIdx.x % 32;
  // Windows of 32 places from the end, each moved down by one, until one holds an entry that stays.
  for (int64_t end = k; end > 0; end -= 32) {
    const int64_t place = end - 32 + lane;  // of this lane's entry
    const bool there = place >= 0;
    const A old = there ? similarity[place] : A(0);
    const int64_t old_index = there ? index[place] : 0;
    const bool moves = there && value > old;
    __syncwarp();
    if (moves && place + 1 < k) {
      similarity[place + 1] = old;
      index[place + 1] = old_index;
    }
    __syncwarp();
    const unsigned int moved = __ballot_sync(kAll, moves);
    const unsigned int present = __ballot_sync(kAll, there);
    if (moved != present || end <= 32) {
      // The moved lanes are the last ones of the window: the new entry takes the first place among them, or the one
      // behind the window when none moved (never behind the list: the caller saw that its last entry loses).
      const int64_t hole = end - __popc(moved);
      if (lane == 0) {
        similarity[hole] = value;
        index[hole] = value_index;
      }
      __syncwarp();
      return;
    }
  }
}

template <typename T, typename A>
__global__ void __launch_bounds__(kSide * kSide)
    scan(Problem<T> p, A* __restrict__ similarity, int64_t* __restrict__ index) {
  __shared__ A queries[kDepth][kTile + 1];
  __shared__ A entries[kDepth][kTile + 1];
  __shared__ A query_scale[kTile];
  __shared__ A entry_scale[kTile];
  __shared__ A scores[kTile][32 + 1];  // [query][entry], half a tile of entries at a time

  const int64_t tiles = (p.q + kTile - 1) / kTile;
  const int64_t q0 = blockIdx.x % tiles * kTile;
  const int64_t part = blockIdx.x / tiles;
  const int64_t first = p.m * part / p.parts, last = p.m * (part + 1) / p.parts;
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  // Every query belongs to one warp, which fills its list and is the only one to touch it.
  for (int j = warp; j < kTile && q0 + j < p.q; j += kWarps) {
    const int64_t list = (part * p.q + q0 + j) * p.k;
    for (int64_t i = lane; i < p.k; i += 32) {
      similarity[list + i] = -INFINITY;
      index[list + i] = -1;
    }
  }
  __syncwarp();

  for (int64_t m0 = first; m0 < last; m0 += kTile) {
    A dot[kPer][kPer] = {};  // [query][entry]
    A square = 0;            // of one entry or one query: the first 2 * kTile threads own one each
    for (int64_t d0 = 0; d0 < p.d; d0 += kDepth) {
      __syncthreads();
      for (int i = threadIdx.x; i < kTile * kDepth; i += kSide * kSide) {
        // Neighbouring threads read neighbouring addresses in either layout.
        const bool rows_inner = p.stride_row == 1;
        const int j = rows_inner ? i % kTile : i / kDepth;
        const int k = rows_inner ? i / kTile : i % kDepth;
        const int64_t m = m0 + j, d = d0 + k;
        entries[k][j] = m < last && d < p.d ? static_cast<A>(p.bank[m * p.stride_row + d * p.stride_k]) : A(0);
      }
      for (int i = threadIdx.x; i < kTile * kDepth; i += kSide * kSide) {
        const int j = i / kDepth, k = i % kDepth;
        const int64_t q = q0 + j, d = d0 + k;
        queries[k][j] = q < p.q && d < p.d ? static_cast<A>(p.queries[q * p.d + d]) : A(0);
      }
      __syncthreads();
      if (threadIdx.x < 2 * kTile) {
        const int j = threadIdx.x % kTile;
        for (int k = 0; k < kDepth; ++k) {
          const A x = threadIdx.x < kTile ? entries[k][j] : queries[k][j];
          square += x * x;
        }
      }
      for (int k = 0; k < kDepth; ++k) {
        A x[kPer], y[kPer];
        for (int i = 0; i < kPer; ++i) {
          x[i] = entries[k][tx + i * kSide];
          y[i] = queries[k][ty + i * kSide];
        }
        for (int i = 0; i < kPer; ++i) {
          for (int j = 0; j < kPer; ++j) dot[i][j] += y[i] * x[j];
        }
      }
    }
    if (threadIdx.x < kTile) {
      entry_scale[threadIdx.x] = inverse_norm(square);
    } else if (threadIdx.x < 2 * kTile) {
      query_scale[threadIdx.x - kTile] = inverse_norm(square);
    }
    for (int half = 0; half < kPer; half += 2) {
      __syncthreads();  // the scales are there, and every warp is done with the scores of the half before
      for (int i = 0; i < kPer; ++i) {
        for (int j = half; j < half + 2; ++j) {
          const int q = ty + i * kSide;
          scores[q][tx + (j - half) * kSide] = dot[i][j] * query_scale[q] * entry_scale[tx + j * kSide];
        }
      }
      __syncthreads();
      const int64_t entry = m0 + half * kSide;
      for (int j = warp; j < kTile && q0 + j < p.q; j += kWarps) {
        const int64_t list = (part * p.q + q0 + j) * p.k;
        const A score = scores[j][lane];
        const bool candidate = entry + lane < last && score >= static_cast<A>(p.threshold) &&
                               score > similarity[list + p.k - 1];
        for (unsigned int left = __ballot_sync(kAll, candidate); left != 0; left &= left - 1) {
          const int winner = __ffs(left) - 1;
          const A value = __shfl_sync(kAll, score, winner);
          // An insertion before may have raised the last place.
          if (value > similarity[list + p.k - 1]) {
            insert(similarity + list, index + list, p.k, value, entry + winner);
          }
        }
      }
    }
  }
}

// One warp per query: k times the best of the parts' next entries. Lane l looks after the parts l, l + 32, ...
template <typename T, typename A>
__global__ void merge(Problem<T> p, const A* __restrict__ found, const int64_t* __restrict__ found_index,
                      T* __restrict__ similarity, int64_t* __restrict__ index) {
  const int64_t q = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (q >= p.q) return;
  constexpr int kOwn = kMostParts / 32;
  int64_t next[kOwn] = {};  // of each own part's list
  for (int64_t i = 0; i < p.k; ++i) {
    A best = -INFINITY;
    int64_t best_index = INT64_MAX;
    int best_own = -1;
    for (int own = 0; own < kOwn; ++own) {
      const int64_t part = own * 32 + lane;
      if (part >= p.parts || next[own] >= p.k) continue;
      const int64_t at = (part * p.q + q) * p.k + next[own];
      if (found_index[at] >= 0 && before(found[at], found_index[at], best, best_index)) {
        best = found[at];
        best_index = found_index[at];
        best_own = own;
      }
    }
    A top = best;
    int64_t top_index = best_index;
    for (int offset = 16; offset > 0; offset /= 2) {
      const A other = __shfl_xor_sync(kAll, top, offset);
      const int64_t other_index = __shfl_xor_sync(kAll, static_cast<long long>(top_index), offset);
      if (before(other, other_index, top, top_index)) {
        top = other;
        top_index = other_index;
      }
    }
    const bool any = top_index != INT64_MAX;
    if (any && best_own >= 0 && best_index == top_index) {
      for (int own = 0; own < kOwn; ++own) next[own] += own == best_own;  // no indexing: next stays in registers
    }
    if (lane == 0) {
      similarity[q * p.k + i] = static_cast<T>(any ? top : -INFINITY);
      index[q * p.k + i] = any ? top_index : -1;
    }
  }
}

template <typename T>
void forward(const Tensor& queries, const Tensor& bank, int64_t k, const std::optional<double>& threshold,
             Tensor& similarity, Tensor& index) {
  using A = accumulate_t<T>;
  const int64_t q = queries.size(0), m = bank.size(0);
  if (q == 0) return;
  const int64_t tiles = cuda::ceil_div(q, kTile);
  // About a thousand blocks, each with some tiles of the bank.
  const int64_t parts = std::clamp<int64_t>(
      cuda::ceil_div(1024, tiles), 1, std::min(kMostParts, cuda::ceil_div(m, 4 * kTile)));
  const Problem<T> p{queries.const_data_ptr<T>(), bank.const_data_ptr<T>(), q, m, queries.size(1), bank.stride(0),
                     bank.stride(1), k, parts, std::clamp(threshold.value_or(-2.0), -2.0, 2.0)};
  const int64_t shape[] = {parts, q, k};
  Tensor found = torch::stable::new_empty(
      queries, {shape, 3}, std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float);
  Tensor found_index = torch::stable::new_empty(queries, {shape, 3}, ScalarType::Long);

  const cudaStream_t stream = cuda::stream(queries);
  scan<T, A><<<cuda::grid(tiles * parts, "queries"), kSide * kSide, 0, stream>>>(
      p, found.mutable_data_ptr<A>(), found_index.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  merge<T, A><<<cuda::grid(cuda::ceil_div(q * 32, 256), "queries"), 256, 0, stream>>>(
      p, found.const_data_ptr<A>(), found_index.const_data_ptr<int64_t>(), similarity.mutable_data_ptr<T>(),
      index.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> cosine_topk_cuda(Tensor queries, Tensor bank, int64_t k, std::optional<double> threshold) {
  check(queries, bank, k, threshold);
  require(queries.scalar_type() == bank.scalar_type(), "queries and bank must have the same dtype on CUDA");
  const torch::stable::accelerator::DeviceGuard guard(queries.get_device_index());
  queries = torch::stable::contiguous(queries);
  const int64_t shape[] = {queries.size(0), k};
  Tensor similarity = torch::stable::new_empty(queries, {shape, 2});
  Tensor index = torch::stable::new_empty(queries, {shape, 2}, ScalarType::Long);
  dispatch_floating(queries.scalar_type(), "queries", [&](auto type) {
    forward<typename decltype(type)::type>(queries, bank, k, threshold, similarity, index);
  });
  return {similarity, index};
}

}  // namespace
}  // namespace zoo::cosine_topk

STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m) {
  m.impl("cosine_topk", TORCH_BOX(&zoo::cosine_topk::cosine_topk_cuda));
}
