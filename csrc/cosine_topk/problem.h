// The operator's data as plain pointers, shared by the scalar core and the threading around it.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace zoo::cosine_topk {

constexpr int64_t kQueries = 256;  // per task: a multiple of every level's panel
constexpr int64_t kTileRows = 48;  // bank entries per tile: whole register blocks at every level
constexpr int64_t kFew = 4;        // so few queries are met without packing, as fast as the bank can be read

// One task meets a block of queries with a part of the bank; every query has its own k best of that part.
template <typename T, typename B, typename A>
struct Problem {
  const T* queries;  // [q d], contiguous
  const B* bank;     // [m d], any strides; of the queries' type or a narrower one
  int64_t q, m, d;
  int64_t stride_row, stride_k;  // of the bank
  int64_t k;
  A floor;           // a similarity must exceed it: -inf, or the number just below the threshold
  int64_t parts;
  const A* packed;   // the queries of unit length: as panels, or as rows when they are few
  A* similarity;     // [parts][q][k], heaps with the worst on top
  int64_t* index;    // [parts][q][k], -1: not filled
  std::atomic<bool>* bank_finite;
};

// The order of results: higher similarity first, then lower index. Nothing found (-1) has the lowest similarity.
template <typename A>
bool before(A a, int64_t index_a, A b, int64_t index_b) {
  return a > b || (a == b && index_a < index_b);
}

// Replaces the worst entry of a heap by a better one.
template <typename A>
void replace_worst(A* similarity, int64_t* index, int64_t k, A value, int64_t value_index) {
  int64_t hole = 0;
  for (;;) {
    int64_t child = 2 * hole + 1;
    if (child >= k) break;
    if (child + 1 < k && before(similarity[child], index[child], similarity[child + 1], index[child + 1])) ++child;
    if (!before(value, value_index, similarity[child], index[child])) break;
    similarity[hole] = similarity[child];
    index[hole] = index[child];
    hole = child;
  }
  similarity[hole] = value;
  index[hole] = value_index;
}

}  // namespace zoo::cosine_topk
