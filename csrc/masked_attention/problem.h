// The operator's data as plain pointers, shared by the scalar core and the threading around it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

namespace zoo::masked_attention {

constexpr int64_t kKeys = 128;       // keys per block: their scores with one tile of queries stay in L1
constexpr int64_t kTilesPerTask = 8; // query tiles that share a packed block of keys; fills about half of L2 at d = 64
constexpr int64_t kKeysPerSplit = 512;  // at least so many keys per task of the backward pass
constexpr int64_t kBackwardTasks = 16;  // as many as are wanted when heads are few; fixed, so that no result depends
                                        // on the number of threads

// A [b h n columns] operand: any strides but the last, which is 1.
template <typename P>
struct Rows {
  P* data = nullptr;
  int64_t stride_b = 0, stride_h = 0, stride_n = 0;
  P* at(int64_t b, int64_t h) const { return data + b * stride_b + h * stride_h; }
};

// The rows of each set that take part, ascending. One list serves all sets when stride is 0.
struct Members {
  const int64_t* index = nullptr;  // [b or 1][n]
  const int64_t* count = nullptr;  // [b or 1]
  int64_t stride = 0;
  const int64_t* of(int64_t b) const { return index + b * stride; }
  int64_t count_of(int64_t b) const { return count[stride == 0 ? 0 : b]; }
};

template <typename T, typename A>
struct Problem {
  Rows<const T> q, k, v;
  int64_t batch, heads, nq, nk, d, dv;
  Members queries, keys;
  const T* bias;                              // or null
  int64_t bias_b, bias_h, bias_q, bias_k;     // 0 where broadcast
  Rows<const T> rel_h, rel_w;                 // [b h nq height], [b h nq width], or null
  int64_t height, width;
  bool causal;
  A scale;
  bool words;  // products of bfloat16 by the processor's own, two at a time
};

template <typename T, typename A>
struct Forward : Problem<T, A> {
  T* out;  // [b nq h dv]
  A* lse;  // [b h nq]
};

// The gradients of the queries are written once per split of the keys, and added up afterwards.
template <typename T, typename A>
struct Backward : Problem<T, A> {
  Rows<const T> grad, out;
  const A* lse;
  T *dk, *dv_out;         // [b h nk d], [b h nk dv]
  int64_t splits;
  A *dq, *drel_h, *drel_w;  // [splits b h nq d], [splits b h nq height] or null, [splits b h nq width] or null
  A* dbias;               // in the shape of bias, zeroed, or null
  int64_t dbias_b, dbias_h, dbias_q, dbias_k;
  // Heads that share a slab of dbias are one group, and go one after the other.
  int64_t groups_b() const { return dbias != nullptr && dbias_b == 0 ? 1 : this->batch; }
  int64_t groups_h() const { return dbias != nullptr && dbias_h == 0 ? 1 : this->heads; }
};

// Tasks are of uneven size, so threads draw them one by one.
struct Queue {
  std::atomic<int64_t> next{0};
  int64_t draw() { return next.fetch_add(1, std::memory_order_relaxed); }
};

// Zeros in the rows [n][columns] that are not in the list.
template <typename T>
void clear_gaps(T* rows, int64_t n, int64_t columns, const int64_t* index, int64_t count) {
  int64_t row = 0;
  for (int64_t i = 0; i <= count; ++i) {
    const int64_t next = i < count ? index[i] : n;
    const int64_t gap = (next - row) * columns;
    if (gap > 0) std::memset(static_cast<void*>(rows + row * columns), 0, gap * sizeof(T));
    row = next + 1;
  }
}

}  // namespace zoo::masked_attention
