// masked_attention on CUDA: a block holds a tile of queries (or, for dk and dv, of keys) and walks over the tiles of the
// other side, skipping those that are padding. Nothing is accumulated across blocks but a broadcast bias' gradient.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>

#include "common/cuda.h"
#include "common/tensor.h"
#include "masked_attention/check.h"

namespace zoo::masked_attention {
namespace {

constexpr int kSide = 16;                // threads along each side of a block
constexpr int kThreads = kSide * kSide;

// Sizes that keep a block's static shared memory under 48 KiB.
template <typename A>
struct Shape {
  static constexpr int per = sizeof(A) == 8 ? 2 : 4;      // rows and columns of scores per thread, each
  static constexpr int tile = kSide * per;                // queries and keys per tile
  static constexpr int depth = sizeof(A) == 8 ? 4 : 16;   // columns, or rows, per slab
};

template <typename P>
struct Rows {
  P* data = nullptr;
  int64_t stride_b = 0, stride_h = 0, stride_n = 0;
  __device__ P* at(int64_t b, int64_t h) const { return data + b * stride_b + h * stride_h; }
};

// Which rows of each set take part.
struct Members {
  const bool* padded = nullptr;  // or null
  int64_t padded_b = 0, padded_n = 0;
  const int64_t* lengths = nullptr;  // or null
  int64_t lengths_b = 0;
  int64_t n = 0;
  __device__ int64_t end(int64_t b) const {
    return lengths == nullptr ? n : max(int64_t(0), min(n, lengths[b * lengths_b]));
  }
  __device__ bool has(int64_t b, int64_t i) const {
    return i < end(b) && (padded == nullptr || !padded[b * padded_b + i * padded_n]);
  }
};

template <typename T, typename A>
struct Problem {
  Rows<const T> q, k, v;
  int64_t b, h, nq, nk, d, dv;
  Members queries, keys;
  const T* bias;  // or null; strides are 0 where it is broadcast
  int64_t bias_b, bias_h, bias_q, bias_k;
  Rows<const T> rel_h, rel_w;  // or null
  int64_t height, width;
  bool causal;
  A scale;
};

template <typename A>
struct Scratch {
  using S = Shape<A>;
  A left[S::depth][S::tile + 1];
  A right[S::depth][S::tile + 1];
  A scores[S::tile][S::tile + 1];
  bool row_real[S::tile];
  bool column_real[S::tile];
};

template <typename A>
__device__ A infinity() {
  return static_cast<A>(INFINITY);
}

// dots [tile][tile] of the rows of left and right; thread (ty, tx) holds rows ty + 16 i and columns tx + 16 j. Rows that
// take no part count as zero, whatever they hold.
template <typename T, typename A>
__device__ void product(const T* left, int64_t left_stride, const T* right, int64_t right_stride, int64_t d,
                        Scratch<A>& s, A (&dots)[Shape<A>::per][Shape<A>::per]) {
  using S = Shape<A>;
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  for (int i = 0; i < S::per; ++i) {
    for (int j = 0; j < S::per; ++j) dots[i][j] = 0;
  }
  for (int64_t d0 = 0; d0 < d; d0 += S::depth) {
    __syncthreads();
    for (int i = threadIdx.x; i < S::tile * S::depth; i += kThreads) {
      const int row = i / S::depth, c = i % S::depth;
      const bool inside = d0 + c < d;
      s.left[c][row] = inside && s.row_real[row] ? static_cast<A>(left[row * left_stride + d0 + c]) : A(0);
      s.right[c][row] = inside && s.column_real[row] ? static_cast<A>(right[row * right_stride + d0 + c]) : A(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int c = 0; c < S::depth; ++c) {
      A x[S::per], y[S::per];
#pragma unroll
      for (int i = 0; i < S::per; ++i) {
        x[i] = s.left[c][ty + i * kSide];
        y[i] = s.right[c][tx + i * kSide];
      }
#pragma unroll
      for (int i = 0; i < S::per; ++i) {
#pragma unroll
        for (int j = 0; j < S::per; ++j) dots[i][j] += x[i] * y[j];
      }
    }
  }
}

// sums [tile][kColumns * 16] += s.scores [tile][tile] times rows [tile][columns]; thread (ty, tx) holds rows ty + 16 i
// and columns tx + 16 c. s.column_real says which rows take part.
template <typename T, typename A, int kColumns>
__device__ void multiply_rows(const T* rows, int64_t stride, int64_t columns, const Scratch<A>& s,
                              A (*slab)[kColumns * kSide], A (&sums)[Shape<A>::per][kColumns]) {
  using S = Shape<A>;
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  for (int first = 0; first < S::tile; first += S::depth) {
    __syncthreads();
    for (int i = threadIdx.x; i < S::depth * kColumns * kSide; i += kThreads) {
      const int row = i / (kColumns * kSide), c = i % (kColumns * kSide);
      slab[row][c] = c < columns && s.column_real[first + row] ? static_cast<A>(rows[(first + row) * stride + c]) : A(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int row = 0; row < S::depth; ++row) {
      A weight[S::per];
#pragma unroll
      for (int i = 0; i < S::per; ++i) weight[i] = s.scores[ty + i * kSide][first + row];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const A value = slab[row][tx + c * kSide];
#pragma unroll
        for (int i = 0; i < S::per; ++i) sums[i][c] += weight[i] * value;
      }
    }
  }
}

// The score of query i and key j, both of which take part, from their dot product.
template <typename T, typename A>
__device__ A score(const Problem<T, A>& p, int64_t b, int64_t h, int64_t i, int64_t j, A dot) {
  if (p.causal && j > i) return -infinity<A>();
  A value = dot * p.scale;
  if (p.bias != nullptr) value += static_cast<A>(p.bias[b * p.bias_b + h * p.bias_h + i * p.bias_q + j * p.bias_k]);
  if (p.rel_h.data != nullptr) {
    value += static_cast<A>(p.rel_h.at(b, h)[i * p.rel_h.stride_n + j / p.width]) +
             static_cast<A>(p.rel_w.at(b, h)[i * p.rel_w.stride_n + j % p.width]);
  }
  return value;
}

// Over the 16 threads that share a row of scores: one half of a warp.
template <typename A>
__device__ A row_max(A value) {
  for (int offset = kSide / 2; offset > 0; offset /= 2) {
    const A other = __shfl_xor_sync(0xffffffffu, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

template <typename A>
__device__ A row_sum(A value) {
  for (int offset = kSide / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

template <typename T, typename A, int kColumns>
__global__ void __launch_bounds__(kThreads) forward_kernel(Problem<T, A> p, T* __restrict__ out, A* __restrict__ lse) {
  using S = Shape<A>;
  __shared__ Scratch<A> s;
  __shared__ A slab[S::depth][kColumns * kSide];
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const int64_t tiles = (p.nq + S::tile - 1) / S::tile;
  const int64_t head = blockIdx.x / tiles, b = head / p.h, h = head % p.h;
  const int64_t first = blockIdx.x % tiles * S::tile;

  bool any = false;
  if (threadIdx.x < S::tile) any = s.row_real[threadIdx.x] = p.queries.has(b, first + threadIdx.x);
  const bool work = __syncthreads_or(any);

  A top[S::per], sum[S::per], sums[S::per][kColumns];
  for (int i = 0; i < S::per; ++i) {
    top[i] = -infinity<A>();
    sum[i] = 0;
    for (int c = 0; c < kColumns; ++c) sums[i][c] = 0;
  }
  const T* q = p.q.at(b, h) + first * p.q.stride_n;
  const int64_t last_query = min(p.nq, first + S::tile) - 1;
  const int64_t end = !work ? 0 : p.causal ? min(p.keys.end(b), last_query + 1) : p.keys.end(b);
  for (int64_t key = 0; key < end; key += S::tile) {
    bool real = false;
    if (threadIdx.x < S::tile) real = s.column_real[threadIdx.x] = p.keys.has(b, key + threadIdx.x);
    if (!__syncthreads_or(real)) continue;
    A dots[S::per][S::per];
    product(q, p.q.stride_n, p.k.at(b, h) + key * p.k.stride_n, p.k.stride_n, p.d, s, dots);
    for (int i = 0; i < S::per; ++i) {
      const int row = ty + i * kSide;
      A best = top[i];
      for (int j = 0; j < S::per; ++j) {
        const int column = tx + j * kSide;
        const bool meet = s.row_real[row] && s.column_real[column];
        dots[i][j] = meet ? score(p, b, h, first + row, key + column, dots[i][j]) : -infinity<A>();
        best = dots[i][j] > best ? dots[i][j] : best;
      }
      best = row_max(best);
      const A shift = best == -infinity<A>() ? A(0) : best;  // nothing but masked keys so far
      const A decay = exp(top[i] - shift);
      A part = 0;
      for (int j = 0; j < S::per; ++j) {
        const A weight = exp(dots[i][j] - shift);
        part += weight;
        s.scores[row][tx + j * kSide] = weight;
      }
      top[i] = best;
      sum[i] = sum[i] * decay + row_sum(part);
      for (int c = 0; c < kColumns; ++c) sums[i][c] *= decay;
    }
    multiply_rows<T, A, kColumns>(p.v.at(b, h) + key * p.v.stride_n, p.v.stride_n, p.dv, s, slab, sums);
    __syncthreads();
  }

  for (int i = 0; i < S::per; ++i) {
    const int64_t query = first + ty + i * kSide;
    if (query >= p.nq) continue;
    const A factor = sum[i] == A(0) ? A(0) : A(1) / sum[i];  // NaN stays
    T* row = out + ((b * p.nq + query) * p.h + h) * p.dv;
    for (int c = 0; c < kColumns; ++c) {
      const int column = tx + c * kSide;
      if (column < p.dv) row[column] = static_cast<T>(sum[i] == A(0) ? A(0) : sums[i][c] * factor);
    }
    if (tx == 0) lse[head * p.nq + query] = sum[i] == A(0) ? -infinity<A>() : top[i] + log(sum[i]);
  }
}

template <typename T, typename A>
struct Backward : Problem<T, A> {
  Rows<const T> grad, out;
  const A* lse;    // [b h nq]
  A* delta;        // [b h nq]
  T *dq, *dk, *dv_out;  // contiguous
  A *drel_h, *drel_w;   // [b h nq height], [b h nq width], zeroed, or null
  A* dbias;             // in the shape of bias, zeroed, or null
  int64_t dbias_b, dbias_h, dbias_q, dbias_k;
  bool dbias_is_shared;
};

// delta = the sum of grad * out over a query's row: one warp each.
template <typename T, typename A>
__global__ void delta_kernel(Backward<T, A> p) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (i >= p.b * p.h * p.nq) return;
  const int64_t query = i % p.nq, head = i / p.nq, b = head / p.h, h = head % p.h;
  A sum = 0;
  if (p.queries.has(b, query)) {
    const T* grad = p.grad.at(b, h) + query * p.grad.stride_n;
    const T* out = p.out.at(b, h) + query * p.out.stride_n;
    for (int64_t c = lane; c < p.dv; c += 32) sum += static_cast<A>(grad[c]) * static_cast<A>(out[c]);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  if (lane == 0) p.delta[i] = sum;
}

// exp(score - lse), zero where either takes no part. A large score is rounded more coarsely than its exponential can
// bear, and differently than in the forward pass: no weight is above 1.
template <typename T, typename A>
__device__ A weight_of(const Backward<T, A>& p, int64_t b, int64_t h, int64_t i, int64_t j, bool meet, A dot, A lse) {
  if (!meet || lse == -infinity<A>()) return A(0);
  const A over = score(p, b, h, i, j, dot) - lse;
  return exp(over > A(0) ? A(0) : over);  // NaN stays
}

// dq, and the gradients of the bias: a block per tile of queries.
template <typename T, typename A, int kColumns>
__global__ void __launch_bounds__(kThreads) backward_queries_kernel(Backward<T, A> p) {
  using S = Shape<A>;
  __shared__ Scratch<A> s;
  __shared__ A slab[S::depth][kColumns * kSide];
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const int64_t tiles = (p.nq + S::tile - 1) / S::tile;
  const int64_t head = blockIdx.x / tiles, b = head / p.h, h = head % p.h;
  const int64_t first = blockIdx.x % tiles * S::tile;

  bool any = false;
  if (threadIdx.x < S::tile) any = s.row_real[threadIdx.x] = p.queries.has(b, first + threadIdx.x);
  const bool work = __syncthreads_or(any);

  A lse[S::per], delta[S::per], sums[S::per][kColumns];
  for (int i = 0; i < S::per; ++i) {
    const int64_t query = first + ty + i * kSide;
    lse[i] = query < p.nq ? p.lse[head * p.nq + query] : A(0);
    delta[i] = query < p.nq ? p.delta[head * p.nq + query] : A(0);
    for (int c = 0; c < kColumns; ++c) sums[i][c] = 0;
  }
  const T* q = p.q.at(b, h) + first * p.q.stride_n;
  const T* grad = p.grad.at(b, h) + first * p.grad.stride_n;
  const int64_t last_query = min(p.nq, first + S::tile) - 1;
  const int64_t end = !work ? 0 : p.causal ? min(p.keys.end(b), last_query + 1) : p.keys.end(b);
  for (int64_t key = 0; key < end; key += S::tile) {
    bool real = false;
    if (threadIdx.x < S::tile) real = s.column_real[threadIdx.x] = p.keys.has(b, key + threadIdx.x);
    if (!__syncthreads_or(real)) continue;
    A weights[S::per][S::per], dots[S::per][S::per];
    product(q, p.q.stride_n, p.k.at(b, h) + key * p.k.stride_n, p.k.stride_n, p.d, s, weights);
    product(grad, p.grad.stride_n, p.v.at(b, h) + key * p.v.stride_n, p.v.stride_n, p.dv, s, dots);
    for (int i = 0; i < S::per; ++i) {
      const int row = ty + i * kSide;
      for (int j = 0; j < S::per; ++j) {
        const int column = tx + j * kSide;
        const bool meet = s.row_real[row] && s.column_real[column];
        const A weight = weight_of(p, b, h, first + row, key + column, meet, weights[i][j], lse[i]);
        const A dscore = weight == A(0) ? A(0) : weight * (dots[i][j] - delta[i]);
        s.scores[row][column] = dscore;
        if (p.dbias != nullptr && meet) {
          A* to = p.dbias + b * p.dbias_b + h * p.dbias_h + (first + row) * p.dbias_q + (key + column) * p.dbias_k;
          if (p.dbias_is_shared) {
            atomicAdd(to, dscore);
          } else {
            *to = dscore;
          }
        }
      }
    }
    multiply_rows<T, A, kColumns>(p.k.at(b, h) + key * p.k.stride_n, p.k.stride_n, p.d, s, slab, sums);
    if (p.drel_h != nullptr) {
      // Each place of the gradient belongs to one thread: a row, and the grid's rows and columns of one residue.
      constexpr int groups = kThreads / S::tile;
      const int row = threadIdx.x % S::tile, group = threadIdx.x / S::tile;
      const int64_t query = head * p.nq + first + row;
      if (s.row_real[row]) {
        for (int column = 0; column < S::tile; ++column) {
          if (!s.column_real[column]) continue;
          const int64_t y = (key + column) / p.width, x = (key + column) % p.width;
          if (y % groups == group) p.drel_h[query * p.height + y] += s.scores[row][column];
          if (x % groups == group) p.drel_w[query * p.width + x] += s.scores[row][column];
        }
      }
    }
    __syncthreads();
  }

  for (int i = 0; i < S::per; ++i) {
    const int64_t query = first + ty + i * kSide;
    if (query >= p.nq) continue;
    for (int c = 0; c < kColumns; ++c) {
      const int column = tx + c * kSide;
      if (column < p.d) p.dq[(head * p.nq + query) * p.d + column] = static_cast<T>(sums[i][c] * p.scale);
    }
  }
}

// dk and dv: a block per tile of keys.
template <typename T, typename A, int kColumns>
__global__ void __launch_bounds__(kThreads) backward_keys_kernel(Backward<T, A> p) {
  using S = Shape<A>;
  __shared__ Scratch<A> s;
  __shared__ A slab[S::depth][kColumns * kSide];
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const int64_t tiles = (p.nk + S::tile - 1) / S::tile;
  const int64_t head = blockIdx.x / tiles, b = head / p.h, h = head % p.h;
  const int64_t first = blockIdx.x % tiles * S::tile;

  bool any = false;
  if (threadIdx.x < S::tile) any = s.row_real[threadIdx.x] = p.keys.has(b, first + threadIdx.x);
  const bool work = __syncthreads_or(any);

  A k_sums[S::per][kColumns], v_sums[S::per][kColumns];
  for (int i = 0; i < S::per; ++i) {
    for (int c = 0; c < kColumns; ++c) k_sums[i][c] = v_sums[i][c] = 0;
  }
  const T* k = p.k.at(b, h) + first * p.k.stride_n;
  const T* v = p.v.at(b, h) + first * p.v.stride_n;
  const int64_t end = work ? p.queries.end(b) : 0;
  for (int64_t query = p.causal ? first : 0; query < end; query += S::tile) {
    bool real = false;
    if (threadIdx.x < S::tile) real = s.column_real[threadIdx.x] = p.queries.has(b, query + threadIdx.x);
    if (!__syncthreads_or(real)) continue;
    const T* q = p.q.at(b, h) + query * p.q.stride_n;
    const T* grad = p.grad.at(b, h) + query * p.grad.stride_n;
    A weights[S::per][S::per], dots[S::per][S::per];
    product(k, p.k.stride_n, q, p.q.stride_n, p.d, s, weights);
    product(v, p.v.stride_n, grad, p.grad.stride_n, p.dv, s, dots);
    for (int j = 0; j < S::per; ++j) {
      const int column = tx + j * kSide;
      const bool inside = s.column_real[column];
      const A lse = inside ? p.lse[head * p.nq + query + column] : A(0);
      const A delta = inside ? p.delta[head * p.nq + query + column] : A(0);
      for (int i = 0; i < S::per; ++i) {
        const int row = ty + i * kSide;
        const bool meet = s.row_real[row] && inside;
        const A weight = weight_of(p, b, h, query + column, first + row, meet, weights[i][j], lse);
        s.scores[row][column] = weight;
        dots[i][j] = weight == A(0) ? A(0) : weight * (dots[i][j] - delta);
      }
    }
    multiply_rows<T, A, kColumns>(grad, p.grad.stride_n, p.dv, s, slab, v_sums);
    __syncthreads();
    for (int i = 0; i < S::per; ++i) {
      for (int j = 0; j < S::per; ++j) s.scores[ty + i * kSide][tx + j * kSide] = dots[i][j];
    }
    multiply_rows<T, A, kColumns>(q, p.q.stride_n, p.d, s, slab, k_sums);
    __syncthreads();
  }

  for (int i = 0; i < S::per; ++i) {
    const int64_t key = first + ty + i * kSide;
    if (key >= p.nk) continue;
    for (int c = 0; c < kColumns; ++c) {
      const int column = tx + c * kSide;
      if (column < p.d) p.dk[(head * p.nk + key) * p.d + column] = static_cast<T>(k_sums[i][c] * p.scale);
      if (column < p.dv) p.dv_out[(head * p.nk + key) * p.dv + column] = static_cast<T>(v_sums[i][c]);
    }
  }
}

// ---- host

template <typename A>
constexpr ScalarType kAccumulate = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;

Tensor dense_rows(const Tensor& tensor) {
  return tensor.size(3) <= 1 || tensor.stride(3) == 1 ? tensor : torch::stable::contiguous(tensor);
}

std::optional<Tensor> dense_rows(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(dense_rows(*tensor)) : tensor;
}

template <typename T>
Rows<const T> rows(const Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

Members members(const std::optional<Tensor>& padding_mask, const std::optional<Tensor>& lengths, int64_t n) {
  Members found;
  found.n = n;
  if (padding_mask) {
    found.padded = padding_mask->const_data_ptr<bool>();
    found.padded_b = padding_mask->stride(0);
    found.padded_n = padding_mask->stride(1);
  }
  if (lengths) {
    found.lengths = lengths->const_data_ptr<int64_t>();
    found.lengths_b = lengths->stride(0);
  }
  return found;
}

template <typename T, typename A>
void describe(const Tensor& q, const Tensor& k, const Tensor& v, const Options& options, Problem<T, A>& p) {
  p.q = rows<T>(q);
  p.k = rows<T>(k);
  p.v = rows<T>(v);
  p.b = q.size(0);
  p.h = q.size(1);
  p.nq = q.size(2);
  p.nk = k.size(2);
  p.d = q.size(3);
  p.dv = v.size(3);
  require(p.d <= 256 && p.dv <= 256, "q and v must have at most 256 columns per head on CUDA, got ", p.d, " and ", p.dv);
  p.queries = members(options.query_padding_mask, options.lengths, p.nq);
  p.keys = members(options.key_padding_mask, options.lengths, p.nk);
  if (options.bias) {
    const Tensor& bias = *options.bias;
    p.bias = bias.const_data_ptr<T>();
    p.bias_b = bias.size(0) == 1 ? 0 : bias.stride(0);
    p.bias_h = bias.size(1) == 1 ? 0 : bias.stride(1);
    p.bias_q = bias.size(2) == 1 ? 0 : bias.stride(2);
    p.bias_k = bias.size(3) == 1 ? 0 : bias.stride(3);
  }
  if (options.rel_h && p.nk > 0) {
    p.rel_h = rows<T>(*options.rel_h);
    p.rel_w = rows<T>(*options.rel_w);
    p.height = options.rel_h->size(3);
    p.width = options.rel_w->size(3);
  }
  p.causal = options.causal;
  p.scale = static_cast<A>(options.scale);
}

// Calls body(integral_constant) with the 16-column groups that hold d columns: 4, 8 or 16.
template <typename Body>
void dispatch_columns(int64_t d, const Body& body) {
  if (d <= 64) return body(std::integral_constant<int, 4>{});
  if (d <= 128) return body(std::integral_constant<int, 8>{});
  body(std::integral_constant<int, 16>{});
}

std::tuple<Tensor, Tensor> forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> key_padding_mask,
                                   std::optional<Tensor> query_padding_mask, std::optional<Tensor> lengths,
                                   std::optional<Tensor> bias, std::optional<Tensor> rel_h,
                                   std::optional<Tensor> rel_w, bool causal, double scale) {
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  Options options{key_padding_mask, query_padding_mask, lengths, bias, rel_h, rel_w, causal, scale};
  check(q, k, v, options);
  options.rel_h = dense_rows(rel_h);
  options.rel_w = dense_rows(rel_w);
  q = dense_rows(q);
  k = dense_rows(k);
  v = dense_rows(v);
  const int64_t b = q.size(0), h = q.size(1), nq = q.size(2), dv = v.size(3);
  const int64_t out_shape[] = {b, nq, h, dv}, lse_shape[] = {b, h, nq};
  Tensor out = torch::stable::new_empty(q, {out_shape, 4});
  Tensor lse;
  dispatch_floating(q.scalar_type(), "q", [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulate_t<T>;
    lse = torch::stable::new_empty(q, {lse_shape, 3}, kAccumulate<A>);
    Problem<T, A> p{};
    describe(q, k, v, options, p);
    if (b * h * nq == 0) return;
    const unsigned int blocks = cuda::grid(b * h * cuda::ceil_div(nq, Shape<A>::tile), "q");
    const cudaStream_t stream = cuda::stream(q);
    dispatch_columns(dv, [&](auto columns) {
      forward_kernel<T, A, decltype(columns)::value>
          <<<blocks, kThreads, 0, stream>>>(p, out.mutable_data_ptr<T>(), lse.mutable_data_ptr<A>());
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return {torch::stable::transpose(out, 1, 2), lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, std::optional<Tensor> key_padding_mask,
    std::optional<Tensor> query_padding_mask, std::optional<Tensor> lengths, std::optional<Tensor> bias,
    std::optional<Tensor> rel_h, std::optional<Tensor> rel_w, bool causal, double scale, bool bias_needs_grad) {
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  Options options{key_padding_mask, query_padding_mask, lengths, bias, rel_h, rel_w, causal, scale};
  check(q, k, v, options);
  check_backward(grad, q, v, out, lse);
  options.rel_h = dense_rows(rel_h);
  options.rel_w = dense_rows(rel_w);
  q = dense_rows(q);
  k = dense_rows(k);
  v = dense_rows(v);
  grad = dense_rows(grad);
  out = dense_rows(out);
  lse = torch::stable::contiguous(lse);
  const int64_t b = q.size(0), h = q.size(1), nq = q.size(2), nk = k.size(2), d = q.size(3), dv = v.size(3);
  const int64_t q_shape[] = {b, h, nq, d}, k_shape[] = {b, h, nk, d}, v_shape[] = {b, h, nk, dv};
  const int64_t delta_shape[] = {b, h, nq};
  Tensor dq = torch::stable::new_empty(q, {q_shape, 4});
  Tensor dk = torch::stable::new_empty(q, {k_shape, 4});
  Tensor dv_out = torch::stable::new_empty(q, {v_shape, 4});
  Tensor dbias, drel_h, drel_w;
  dispatch_floating(q.scalar_type(), "q", [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulate_t<T>;
    Backward<T, A> p{};
    describe<T, A>(q, k, v, options, p);
    p.grad = rows<T>(grad);
    p.out = rows<T>(out);
    p.lse = lse.const_data_ptr<A>();
    Tensor delta = torch::stable::new_empty(q, {delta_shape, 3}, kAccumulate<A>);
    p.delta = delta.mutable_data_ptr<A>();
    p.dq = dq.mutable_data_ptr<T>();
    p.dk = dk.mutable_data_ptr<T>();
    p.dv_out = dv_out.mutable_data_ptr<T>();
    const int64_t h_shape[] = {b, h, nq, p.height}, w_shape[] = {b, h, nq, p.width}, none[] = {0};
    drel_h = torch::stable::new_zeros(q, {h_shape, 4}, kAccumulate<A>);
    drel_w = torch::stable::new_zeros(q, {w_shape, 4}, kAccumulate<A>);
    if (p.rel_h.data != nullptr) {
      p.drel_h = drel_h.mutable_data_ptr<A>();
      p.drel_w = drel_w.mutable_data_ptr<A>();
    }
    dbias = torch::stable::new_zeros(q, {none, 1}, kAccumulate<A>);
    if (options.bias && bias_needs_grad) {
      const int64_t shape[] = {options.bias->size(0), options.bias->size(1), options.bias->size(2),
                               options.bias->size(3)};
      dbias = torch::stable::new_zeros(q, {shape, 4}, kAccumulate<A>);
      p.dbias = dbias.mutable_data_ptr<A>();
      p.dbias_b = shape[0] == 1 ? 0 : shape[1] * shape[2] * shape[3];
      p.dbias_h = shape[1] == 1 ? 0 : shape[2] * shape[3];
      p.dbias_q = shape[2] == 1 ? 0 : shape[3];
      p.dbias_k = shape[3] == 1 ? 0 : 1;
      p.dbias_is_shared = shape[0] != b || shape[1] != h || shape[2] != nq || shape[3] != nk;
    }
    const cudaStream_t stream = cuda::stream(q);
    if (b * h * nq > 0) {
      delta_kernel<T, A><<<cuda::grid(cuda::ceil_div(b * h * nq * 32, 256), "q"), 256, 0, stream>>>(p);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      const unsigned int blocks = cuda::grid(b * h * cuda::ceil_div(nq, Shape<A>::tile), "q");
      dispatch_columns(d, [&](auto columns) {
        backward_queries_kernel<T, A, decltype(columns)::value><<<blocks, kThreads, 0, stream>>>(p);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
      });
    }
    if (b * h * nk > 0) {
      const unsigned int blocks = cuda::grid(b * h * cuda::ceil_div(nk, Shape<A>::tile), "k");
      dispatch_columns(std::max(d, dv), [&](auto columns) {
        backward_keys_kernel<T, A, decltype(columns)::value><<<blocks, kThreads, 0, stream>>>(p);
        STD_CUDA_KERNEL_LAUNCH_CHECK();
      });
    }
    for (Tensor* result : {&dbias, &drel_h, &drel_w}) {
      if (!std::is_same_v<T, A>) *result = torch::stable::to(*result, q.scalar_type());
    }
  });
  return {dq, dk, dv_out, dbias, drel_h, drel_w};
}

}  // namespace
}  // namespace zoo::masked_attention

STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m) {
  m.impl("masked_attention", TORCH_BOX(&zoo::masked_attention::forward));
  m.impl("masked_attention_backward", TORCH_BOX(&zoo::masked_attention::backward));
}
